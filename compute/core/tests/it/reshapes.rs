//! Groups that lost copies for good go back to six while the volume serves (R19, R20).

use std::time::Duration;

use sixfold_compute_core::{CommitRequest, MemberBounds, ReplacePhase, WriterBounds};
use sixfold_log_format::wire::{Refusal, WishState, WishVerb};
use sixfold_log_format::{PgId, QuorumModel};

use crate::cluster::fleet::{fleet_node, hint, names};
use crate::cluster::{Cluster, bounds, put, segment_id};

const STEPS: usize = 2_000;
const LOST: [usize; 3] = [1, 3, 5];

fn repairing() -> WriterBounds {
    WriterBounds {
        members: MemberBounds {
            repair_after: Some(Duration::from_secs(2)),
            ..MemberBounds::default()
        },
        ..bounds()
    }
}

/// Three of six are destroyed, one in each zone, and declared lost.
fn survivors(nodes: usize) -> Cluster {
    let mut cluster = Cluster::of_fleet_with(repairing(), nodes, 1);
    cluster.under_load(20, |_| false);
    cluster.declare_lost(&LOST.map(segment_id));
    assert_eq!(short(&cluster), [(PgId::ROOT, 3)]);
    cluster
}

fn short(cluster: &Cluster) -> Vec<(PgId, usize)> {
    cluster.core.stats().membership.short
}

fn phase(cluster: &Cluster) -> Option<ReplacePhase> {
    let reshapes = cluster.core.stats().membership.reshapes;
    reshapes.first().map(|reshape| reshape.phase)
}

fn is_joining(cluster: &Cluster) -> bool {
    phase(cluster) == Some(ReplacePhase::Joining)
}

fn is_whole(cluster: &Cluster) -> bool {
    let stats = cluster.core.stats().membership;
    stats.short.is_empty() && stats.reshapes.is_empty() && stats.replacements.is_empty()
}

/// Until new segments are wanted, and nobody has been asked yet.
fn until_creating(cluster: &mut Cluster) {
    for _ in 0..10_000 {
        cluster.now += Duration::from_millis(10);
        cluster.timeout();
        if phase(cluster) == Some(ReplacePhase::Creating) {
            return;
        }
        cluster.run();
    }
    panic!("{:?}", cluster.core.stats().membership);
}

/// Heals whatever joins, until the group has six.
fn until_whole(cluster: &mut Cluster) {
    for _ in 0..STEPS / 10 {
        if cluster.under_load(10, is_whole) {
            break;
        }
        cluster.heal();
    }
    assert!(is_whole(cluster), "{:?}", cluster.core.stats().membership);
    let manifest = cluster.newest_manifest();
    let entry = manifest.pg(PgId::ROOT).unwrap();
    assert_eq!(entry.sets.len(), 1);
    assert_eq!(entry.sets[0].model, QuorumModel::FourOfSix);
    for zone in 0..3 {
        let in_zone = |node| (0..60).any(|index| index % 3 == zone && fleet_node(index) == node);
        let members = entry.members();
        let of_zone = members.iter().filter(|member| in_zone(member.node));
        assert_eq!(of_zone.count(), 2, "{members:?}");
    }
    for number in 0..5 {
        assert!(cluster.get(&format!("load {number:03}")).is_some());
    }
}

#[test]
fn three_survivors_become_six_by_way_of_four_and_no_commit_fails() {
    let mut cluster = survivors(12);
    for (held, joining) in [(3, 1), (4, 2)] {
        assert!(cluster.under_load(STEPS, is_joining));
        let stats = cluster.core.stats().membership;
        assert_eq!(stats.short, [(PgId::ROOT, held)]);
        assert_eq!(stats.reshapes[0].joining, joining);
        // As long as they are not whole; and whoever joins counts in no read.
        assert!(!cluster.under_load(60, |cluster| !is_joining(cluster)));
        cluster.heal();
        assert!(cluster.under_load(STEPS, |cluster| short(cluster) != [(PgId::ROOT, held)]));
    }
    until_whole(&mut cluster);
    for lost in LOST {
        assert!(!names(&cluster.newest_manifest(), segment_id(lost)));
    }
    // One more may go now, and another one: commits go on.
    let relations = cluster.core.stats().relations;
    for relation in &relations[..2] {
        let index = cluster.index_of(relation.segment);
        cluster.kill(index);
    }
    cluster.commit(put("a key", "x")).unwrap();
}

#[test]
fn a_group_without_nodes_to_go_to_waits_and_says_so() {
    let mut cluster = survivors(6);
    let says_why = |cluster: &Cluster| {
        let refusals = cluster.core.stats().membership.refusals;
        refusals
            .iter()
            .any(|text| text.contains("has 3 copies: 0 nodes are usable"))
    };
    assert!(cluster.under_load(STEPS, says_why));
    assert_eq!(short(&cluster), [(PgId::ROOT, 3)]);
    for index in 6..9 {
        cluster.left_hints.push(hint(index));
        let add = cluster.wish(WishVerb::Add, *fleet_node(index).as_bytes(), [0; 16]);
        assert!(cluster.under_load(20, |cluster| cluster.state(add) == WishState::Done));
    }
    until_whole(&mut cluster);
}

#[test]
fn without_repair_nothing_is_done_about_it() {
    let mut cluster = Cluster::of_fleet(12, 1);
    cluster.under_load(20, |_| false);
    cluster.declare_lost(&LOST.map(segment_id));
    assert!(!cluster.under_load(200, |cluster| phase(cluster).is_some()));
    assert_eq!(short(&cluster), [(PgId::ROOT, 3)]);
}

/// While others join, each survivor is needed: when one is gone the step is taken back, and it is replaced first.
#[test]
fn a_survivor_that_falls_silent_is_replaced_before_others_join() {
    let mut cluster = survivors(12);
    assert!(cluster.under_load(STEPS, is_joining));
    let joined = cluster.segments.last().unwrap().id;
    cluster.dead_nodes.insert(fleet_node(0));
    cluster.kill(0);
    let request = CommitRequest {
        deadline: cluster.now + Duration::from_secs(60),
        ..put("a key", "x")
    };
    let ticket = cluster.submit(request);
    cluster.pass_ms(1_000);
    assert_eq!(cluster.answer(ticket), None, "it needs the one that joins");
    cluster.pass_ms(10_000);
    assert!(cluster.answer(ticket).unwrap().is_ok());
    assert!(!names(&cluster.newest_manifest(), joined));
    until_whole(&mut cluster);
    assert!(!names(&cluster.newest_manifest(), segment_id(0)));
}

#[test]
fn a_copy_that_dies_while_it_joins_is_taken_back_and_another_node_is_tried() {
    let mut cluster = survivors(15);
    assert!(cluster.under_load(STEPS, is_joining));
    let index = cluster.segments.len() - 1;
    let (first, node) = (cluster.segments[index].id, cluster.segments[index].node);
    cluster.dead_nodes.insert(node);
    cluster.kill(index);
    let is_gone = |cluster: &Cluster| !names(&cluster.newest_manifest(), first);
    assert!(cluster.under_load(STEPS, is_gone));
    until_whole(&mut cluster);
}

/// The writer dies after so many actions: its successor goes on, and nothing that was answered is missing.
#[test]
fn a_successor_goes_on_with_it_wherever_the_writer_died() {
    let mut taken_up = 0;
    for steps in (0..240).step_by(4) {
        let mut cluster = survivors(12);
        cluster.each(|segment| segment.deaf = false);
        // The nodes that were destroyed are there again, empty: nobody waits for them.
        cluster.dead_nodes.clear();
        LOST.iter()
            .for_each(|&index| cluster.segments[index].dropped = true);
        until_creating(&mut cluster);
        for step in 0..steps {
            if step % 5 == 4 {
                cluster.now += Duration::from_millis(25);
                cluster.timeout();
            }
            if step == 120 {
                cluster.heal();
            }
            cluster.step();
        }
        cluster.take_over();
        taken_up += usize::from(phase(&cluster).is_some());
        until_whole(&mut cluster);
    }
    assert!(taken_up > 0, "no successor found one under way");
}

#[test]
fn it_goes_on_after_a_reopening_in_place() {
    use sixfold_compute_core::WriterEvent;
    use sixfold_log_format::VolumeEpoch;
    let with_refence = WriterBounds {
        members: MemberBounds {
            repair_after: Some(Duration::from_secs(60)),
            refence_after: Some(Duration::from_secs(1)),
            ..MemberBounds::default()
        },
        ..bounds()
    };
    for deaf_from in [ReplacePhase::Creating, ReplacePhase::Joining] {
        let mut cluster = Cluster::of_fleet_with(with_refence.clone(), 12, 1);
        cluster.under_load(20, |_| false);
        cluster.declare_lost(&LOST.map(segment_id));
        cluster.dead_nodes.clear();
        LOST.iter()
            .for_each(|&index| cluster.segments[index].dropped = true);
        let reached = |cluster: &Cluster| phase(cluster) == Some(deaf_from);
        if deaf_from == ReplacePhase::Creating {
            until_creating(&mut cluster);
            cluster.cut_off_the_new(1);
        } else {
            assert!(cluster.under_load(STEPS, reached));
            cluster.heal();
            cluster.each(|segment| segment.deaf = true);
            cluster.under_load(4, |_| false);
        }
        assert!(
            cluster.core.stats().membership.proposed.is_some(),
            "{deaf_from:?}"
        );
        // A rival's claim at one of three: just a write quorum is left.
        let volume_epoch = VolumeEpoch::new(99);
        let rival = cluster.index_of(segment_id(4));
        cluster.segments[rival].refuses = Some(Refusal::StaleEpoch { volume_epoch });
        cluster.lose(rival);
        cluster.pass_ms(2_500);
        if cluster.refences == 0 {
            // The step under way needs the one that is claimed: the writer waits for it, or opens again; it does not go wrong.
            cluster.segments[rival].refuses = None;
        } else {
            cluster.volume_epoch = volume_epoch;
            cluster.each(|segment| segment.refuses = None);
            cluster.join_up();
            let opened = cluster.reopened([77; 16]);
            cluster.event(WriterEvent::Refenced {
                result: Ok(Box::new(opened)),
            });
            cluster.run();
        }
        cluster.join_up();
        assert_eq!(cluster.fenced, None);
        cluster.pass_ms(2_000);
        until_whole(&mut cluster);
    }
}

/// A group is given copies only while all that it has carry its writes: who answers and takes nothing, or is far behind, is not enough.
#[test]
fn others_join_only_when_every_member_carries_the_groups_writes() {
    for is_full in [true, false] {
        let mut cluster = survivors(12);
        cluster.segments[0].full = is_full;
        cluster.segments[0].lags = !is_full;
        assert!(!cluster.under_load(600, |cluster| phase(cluster).is_some()));
        assert_eq!(short(&cluster), [(PgId::ROOT, 3)]);
        cluster.segments[0].full = false;
        cluster.heal();
        until_whole(&mut cluster);
    }
}

/// Who stops carrying them while others join ends that, for longer each time.
#[test]
fn a_member_that_takes_nothing_ends_the_joining_and_the_pauses_grow() {
    let mut cluster = survivors(15);
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let from = cluster.now;
        assert!(cluster.under_load(STEPS, is_joining));
        pauses.push(cluster.now - from);
        cluster.segments[0].full = true;
        let request = CommitRequest {
            deadline: cluster.now + Duration::from_secs(60),
            ..put("a key", "x")
        };
        let ticket = cluster.submit(request);
        cluster.pass_ms(9_000);
        assert!(
            cluster.answer(ticket).unwrap().is_ok(),
            "it needs nobody who joins"
        );
        assert_eq!(phase(&cluster), None);
        cluster.segments[0].full = false;
        cluster.pass_ms(100);
        cluster.heal();
    }
    assert!(pauses[4] > pauses[1] + Duration::from_secs(5), "{pauses:?}");
    until_whole(&mut cluster);
}

/// While one joins, the others are a group that can do without one of its members, as before: the newcomer and a member die.
#[test]
fn a_member_and_the_newcomer_die_and_commits_go_on() {
    let mut cluster = survivors(15);
    assert!(cluster.under_load(STEPS, is_joining));
    let joins = cluster.segments.len() - 1;
    for index in [0, joins] {
        let node = cluster.segments[index].node;
        cluster.dead_nodes.insert(node);
        cluster.kill(index);
    }
    let request = CommitRequest {
        deadline: cluster.now + Duration::from_secs(60),
        ..put("a key", "x")
    };
    let ticket = cluster.submit(request);
    cluster.pass_ms(9_000);
    assert!(cluster.answer(ticket).unwrap().is_ok());
    until_whole(&mut cluster);
}

/// Without repair nobody begins, but what an earlier writer began is looked after.
#[test]
fn a_reshape_that_was_taken_up_is_looked_after_without_repair() {
    let mut cluster = survivors(12);
    assert!(cluster.under_load(STEPS, is_joining));
    let joins = cluster.segments.len() - 1;
    cluster.dead_nodes.insert(cluster.segments[joins].node);
    cluster.kill(joins);
    cluster.bounds.members.repair_after = None;
    cluster.take_over();
    assert!(phase(&cluster).is_some());
    cluster.dead_nodes.insert(fleet_node(0));
    cluster.kill(0);
    cluster.pass_ms(9_000);
    assert_eq!(phase(&cluster), None);
    cluster.commit(put("a key", "x")).unwrap();
    assert_eq!(short(&cluster), [(PgId::ROOT, 3)]);
}

/// A segment that joins and says that it has too much to do lives: it is not given up between two questions.
#[test]
fn who_refuses_for_now_is_not_silent() {
    let mut bounds = repairing();
    bounds.members.repair_after = Some(Duration::from_millis(700));
    let mut cluster = Cluster::of_fleet_with(bounds, 12, 1);
    cluster.under_load(20, |_| false);
    cluster.declare_lost(&LOST.map(segment_id));
    assert!(cluster.under_load(STEPS, is_joining));
    let joins = cluster.segments.len() - 1;
    cluster.segments[joins].refuses = Some(Refusal::Overloaded);
    cluster.lose(joins);
    assert!(!cluster.under_load(300, |cluster| !is_joining(cluster)));
    cluster.segments[joins].refuses = None;
    cluster.heal();
    until_whole(&mut cluster);
}

/// What joins and cannot become whole, since its disk is full, is given up: until then there is no member to spare.
#[test]
fn a_newcomer_with_a_full_disk_is_taken_back() {
    let mut cluster = survivors(15);
    assert!(cluster.under_load(STEPS, is_joining));
    let joins = cluster.segments.len() - 1;
    let first = cluster.segments[joins].id;
    cluster.segments[joins].full = true;
    let is_gone = |cluster: &Cluster| !names(&cluster.newest_manifest(), first);
    assert!(cluster.under_load(400, is_gone));
    until_whole(&mut cluster);
}
