//! Changes of membership, deaths and successors in any order: nothing that was answered is missing, and everything comes to an end.

use std::collections::BTreeMap;
use std::time::Duration;

use sixfold_compute_core::{
    CommitTicket, MemberBounds, MembershipStats, WriterBounds, WriterEvent,
};
use sixfold_log_format::wire::{Refusal, WishVerb};
use sixfold_log_format::{Manifest, NodeId, PgEntry, PgId, SegmentId, VolumeEpoch};
use sixfold_recovery::machine::RecoveryError;
use sixfold_recovery::{membership, quorum};

use crate::cluster::fleet::{fleet_node, hint};
use crate::cluster::{Cluster, bounds, put};

const NODES: usize = 12;
const SEEDS: u64 = 40;
const STEPS: usize = 250;

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % bound
    }
}

/// What was asked for, by key; a later commit of a key waits for the one before.
#[derive(Default)]
struct Written {
    pending: BTreeMap<usize, (CommitTicket, String)>,
    known: BTreeMap<usize, String>,
    /// Keys of which the last commit ended unknown, and what it would have put.
    unknown: BTreeMap<usize, String>,
    count: usize,
    /// Reopenings in place that were asked for and answered.
    refenced: usize,
    /// How many of them opened.
    in_place: u64,
    /// How often copies were declared lost.
    losses: usize,
}

impl Written {
    fn submit(&mut self, cluster: &mut Cluster, key: usize) {
        self.settle(cluster);
        if self.pending.contains_key(&key) || self.unknown.contains_key(&key) {
            return;
        }
        self.count += 1;
        let value = format!("value {}", self.count);
        let ticket = cluster.submit(put(&format!("key {key:02}"), &value));
        self.pending.insert(key, (ticket, value));
    }

    fn settle(&mut self, cluster: &Cluster) {
        let Written {
            pending,
            known,
            unknown,
            ..
        } = self;
        pending.retain(|key, (ticket, value)| match cluster.answer(*ticket) {
            None => true,
            Some(Ok(_)) => {
                known.insert(*key, value.clone());
                false
            }
            Some(Err(sixfold_compute_core::CommitError::Unknown { .. })) => {
                unknown.insert(*key, value.clone());
                false
            }
            Some(Err(_)) => false,
        });
    }

    /// The process died: whatever it has not answered is unknown.
    fn lost(&mut self, cluster: &Cluster) {
        self.settle(cluster);
        for (key, (_, value)) in std::mem::take(&mut self.pending) {
            self.unknown.insert(key, value);
        }
    }

    fn check(&self, cluster: &mut Cluster, seed: u64) {
        for key in 0..40 {
            let found = cluster.get(&format!("key {key:02}"));
            let known = self.known.get(&key).cloned();
            let unknown = self.unknown.get(&key).cloned();
            assert!(
                found == known || found.is_some() && found == unknown,
                "seed {seed}: key {key} is {found:?}, not {known:?} or {unknown:?}"
            );
        }
    }
}

fn bounds_of(seed: u64) -> WriterBounds {
    WriterBounds {
        members: MemberBounds {
            repair_after: seed.is_multiple_of(2).then_some(Duration::from_secs(2)),
            replacements_max: 3,
            grow_below_free_pages: seed.is_multiple_of(3).then_some(20),
            pgs_max: 3,
            refence_after: (seed % 4 != 1).then_some(Duration::from_millis(300)),
        },
        ..bounds()
    }
}

fn any_member(cluster: &Cluster, chance: &mut Chance) -> (PgId, SegmentId, NodeId) {
    let relations = cluster.core.stats().relations;
    let one = &relations[chance.below(relations.len())];
    (one.pg, one.segment, one.node)
}

/// Whether the volume would open if these nodes were down.
fn opens_without(cluster: &Cluster, manifest: &Manifest, down: &dyn Fn(NodeId) -> bool) -> bool {
    let is_up = |segment: SegmentId| {
        let mut held = cluster.segments.iter();
        held.any(|held| held.id == segment && !held.dropped && !down(held.node))
    };
    let opens = |entry: &PgEntry| quorum::is_write_quorum_of_all(entry, &is_up);
    manifest.pgs.iter().all(opens)
}

/// The shell opens the volume in place, or cannot, or is still at it.
fn refence(cluster: &mut Cluster, written: &mut Written, chance: &mut Chance) {
    if written.refenced == cluster.refences {
        return;
    }
    let manifest = cluster.newest_manifest();
    let dead = cluster.dead_nodes.clone();
    let opens = opens_without(cluster, &manifest, &|node| dead.contains(&node));
    let result = match chance.below(4) {
        0 => return,
        1..=2 if opens => {
            cluster.each(|segment| segment.refuses = None);
            let mut writer = [200; 16];
            writer[..8].copy_from_slice(&cluster.volume_epoch.get().to_le_bytes());
            Ok(Box::new(cluster.reopened(writer)))
        }
        _ => Err(RecoveryError::Unavailable {
            pg: PgId::ROOT,
            answered: 3,
            needed: 4,
        }),
    };
    written.refenced = cluster.refences;
    written.in_place += u64::from(result.is_ok());
    cluster.event(WriterEvent::Refenced { result });
}

/// Whether every group has a write quorum without this segment, those that are claimed, and those that were declared lost.
fn spares(cluster: &Cluster, index: usize) -> bool {
    let found = cluster.segments[index].id;
    let is_free = |entry: &PgEntry, segment: SegmentId| {
        let mut held = cluster.segments.iter();
        let held = held.find(|held| held.id == segment);
        segment != found
            && !entry.removed.contains(&segment)
            && held.is_some_and(|held| held.refuses.is_none())
    };
    let has_quorum =
        |entry: &PgEntry| quorum::is_write_quorum_of_all(entry, &|segment| is_free(entry, segment));
    cluster.newest_manifest().pgs.iter().all(has_quorum)
}

/// A rival claims as many segments of a group as it can spare, and dies: the writer keeps just a write quorum.
fn claim(cluster: &mut Cluster, chance: &mut Chance) {
    if cluster.segments.iter().any(|held| held.refuses.is_some()) {
        return;
    }
    let pg = cluster.pg_of(chance.below(cluster.segments.len()));
    let volume_epoch = VolumeEpoch::new(cluster.volume_epoch.get() + 1);
    for _ in 0..2 {
        let is_heard =
            |index: &usize| cluster.segments[*index].life.is_some() && cluster.pg_of(*index) == pg;
        let heard: Vec<usize> = (0..cluster.segments.len()).filter(is_heard).collect();
        if heard.is_empty() {
            return;
        }
        let index = heard[chance.below(heard.len())];
        if !spares(cluster, index) {
            return;
        }
        cluster.segments[index].refuses = Some(Refusal::StaleEpoch { volume_epoch });
        cluster.lose(index);
    }
}

/// Three nodes are destroyed, or are said to be, and an operator declares them lost (R19); everybody else answers.
fn declare_lost(cluster: &mut Cluster, written: &mut Written, chance: &mut Chance) {
    let nodes: Vec<NodeId> = (0..3).map(|_| any_member(cluster, chance).2).collect();
    let manifest = cluster.newest_manifest();
    let members = manifest.pgs.iter().flat_map(PgEntry::members);
    let on_them = members.filter(|member| nodes.contains(&member.node));
    let lost: Vec<SegmentId> = on_them.map(|member| member.segment).collect();
    let answers = |node: NodeId| !nodes.contains(&node);
    let is_open = |manifest: &Manifest| opens_without(cluster, manifest, &|node| !answers(node));
    // What is not in force yet may not be found by the one who declares.
    let declared = membership::declare_lost(&manifest, &lost);
    if written.losses >= 2 || !declared.as_ref().is_ok_and(is_open) {
        return;
    }
    written.losses += 1;
    written.lost(cluster);
    written.refenced = cluster.refences;
    cluster.dead_nodes.clear();
    cluster.each(|segment| segment.refuses = None);
    cluster.declare_lost(&lost);
}

fn one_step(cluster: &mut Cluster, written: &mut Written, chance: &mut Chance) {
    match chance.below(100) {
        0..=39 => {
            let key = chance.below(40);
            written.submit(cluster, key);
        }
        40..=44 => {
            let (_, segment, _) = any_member(cluster, chance);
            cluster.replace(segment);
        }
        45..=46 => {
            let (_, segment, _) = any_member(cluster, chance);
            cluster.wish(WishVerb::Restore, *segment.as_bytes(), [0; 16]);
        }
        47 => {
            let (_, _, node) = any_member(cluster, chance);
            cluster.wish(WishVerb::Drain, *node.as_bytes(), [0; 16]);
        }
        48 => {
            let node = fleet_node(chance.below(NODES));
            let verb = [WishVerb::Restore, WishVerb::Forget, WishVerb::Add][chance.below(3)];
            cluster.wish(verb, *node.as_bytes(), [0; 16]);
        }
        49 => {
            cluster.wish(WishVerb::Grow, [0; 16], [0; 16]);
        }
        50..=53 => {
            let node = fleet_node(chance.below(NODES));
            let manifest = cluster.newest_manifest();
            let dead = cluster.dead_nodes.clone();
            let down = |other: NodeId| other == node || dead.contains(&other);
            if dead.len() < 2 && opens_without(cluster, &manifest, &down) {
                cluster.dead_nodes.insert(node);
                for index in 0..cluster.segments.len() {
                    if cluster.segments[index].node == node {
                        cluster.lose(index);
                    }
                }
            }
        }
        54..=58 => {
            cluster.dead_nodes.pop_first();
        }
        59..=62 => {
            let index = chance.below(cluster.segments.len());
            cluster.segments[index].deaf = true;
        }
        63..=66 => cluster.each(|segment| segment.deaf = false),
        67..=74 => cluster.heal(),
        75..=76 => {
            let manifest = cluster.newest_manifest();
            let dead = cluster.dead_nodes.clone();
            if opens_without(cluster, &manifest, &|node| dead.contains(&node)) {
                written.lost(cluster);
                written.refenced = cluster.refences;
                cluster.each(|segment| segment.refuses = None);
                cluster.take_over();
            }
        }
        77..=81 => claim(cluster, chance),
        82 => declare_lost(cluster, written, chance),
        83..=84 => {
            for _ in 0..chance.below(30) {
                cluster.step();
            }
            return;
        }
        _ => cluster.pass_ms(chance.below(200) as u64),
    }
    if chance.below(3) > 0 {
        cluster.run();
    }
    cluster.check_held(cluster.core.shared().vdl());
}

fn run(seed: u64) -> (u64, usize, u64, bool) {
    let mut cluster = Cluster::of_fleet_with(bounds_of(seed), NODES, 1);
    cluster.left_hints = (0..NODES).map(hint).collect();
    let mut written = Written::default();
    let mut chance = Chance(seed);
    for _ in 0..STEPS {
        refence(&mut cluster, &mut written, &mut chance);
        one_step(&mut cluster, &mut written, &mut chance);
        assert_eq!(
            cluster.fenced,
            None,
            "seed {seed}: {:?}",
            cluster.core.stats().membership
        );
    }
    // Everybody comes back: whatever was begun comes to its end.
    cluster.dead_nodes.clear();
    cluster.each(|segment| {
        segment.deaf = false;
        segment.refuses = None;
    });
    // Where nothing is repaired, or no node is left for it, a group stays with what survived.
    let may_be_short = |stats: &MembershipStats| {
        let lacks_nodes = |text: &String| text.contains("nodes are usable");
        !seed.is_multiple_of(2) || stats.refusals.iter().any(lacks_nodes)
    };
    let is_idle = |cluster: &Cluster| {
        let stats = cluster.core.stats().membership;
        stats.replacements.is_empty()
            && stats.reshapes.is_empty()
            && (stats.short.is_empty() || may_be_short(&stats))
            && stats.waiting == 0
            && !stats.growing
    };
    for _ in 0..4_000 {
        if is_idle(&cluster) && cluster.core.stats().membership.leaving == 0 {
            break;
        }
        cluster.heal();
        refence(&mut cluster, &mut written, &mut chance);
        cluster.pass_ms(50);
    }
    let stats = cluster.core.stats().membership;
    assert!(
        is_idle(&cluster) && stats.leaving == 0,
        "seed {seed}: {stats:?}"
    );
    assert!(
        stats.sets.iter().all(|&(_, count)| count == 1),
        "seed {seed}"
    );
    cluster.pass_ms(6_000);
    written.lost(&cluster);
    written.check(&mut cluster, seed);
    // Nothing is left on any node of the fleet that no manifest names. A successor does not ask nodes that were forgotten.
    let manifest = cluster.newest_manifest();
    for held in &cluster.segments {
        let is_member = crate::cluster::fleet::names(&manifest, held.id);
        let is_orphan = held.manifest.is_none();
        let is_forgotten = !manifest.hints.iter().any(|hint| hint.node == held.node);
        assert!(
            held.dropped || is_member || is_orphan || is_forgotten,
            "seed {seed}: {} on {}",
            held.id,
            held.node
        );
    }
    let steps = manifest.version.membership_epoch.get();
    let regrown = written.losses > 0 && stats.short.is_empty();
    (steps, written.known.len(), written.in_place, regrown)
}

#[test]
fn whatever_happens_nothing_answered_is_missing_and_every_change_ends() {
    let (mut steps, mut keys, mut in_place, mut whole_again) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let (made, known, refenced, regrown) = run(seed);
        whole_again += u64::from(regrown);
        steps += made;
        keys += known;
        in_place += refenced;
    }
    assert!(
        steps > 5 * SEEDS
            && keys > 5 * SEEDS as usize
            && in_place > SEEDS / 2
            && whole_again > SEEDS / 8,
        "{steps} steps, {keys} keys, {in_place} times opened in place, {whole_again} times whole again"
    );
}
