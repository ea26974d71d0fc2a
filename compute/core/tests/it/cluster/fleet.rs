//! Nodes that make, tell and drop segments, and successors that open what they find.

use sixfold_compute_core::{FetchKey, WriterBounds, WriterCore, WriterEvent};
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{
    Hints, Installed, Message, ProbeAnswer, Refusal, SegmentProbe, Wish, WishReport, WishState,
    WishVerb,
};
use sixfold_log_format::{
    AnnulledRange, Lsn, Manifest, NodeId, PgEntry, PgId, SegmentId, SegmentSet, VolumeEpoch,
    WriterId,
};
use sixfold_recovery::machine::Opened;
use sixfold_recovery::membership::declare_lost;
use sixfold_recovery::quorum;

use super::{Cluster, Segment, UNIX_MS, VOLUME, bounds, opened_with_pgs};

/// A node of the fleet; the first six host the segments of every group.
pub fn fleet_node(index: usize) -> NodeId {
    NodeId::from_bytes([index as u8 + 101; 16])
}

/// Node `index` is in zone `index % 3`.
pub fn hint(index: usize) -> NodeHint {
    NodeHint {
        node: fleet_node(index),
        az: format!("az{}", index % 3),
        address: format!("10.0.0.{index}:1"),
    }
}

/// A volume on six nodes of a fleet.
pub fn opened_with_fleet(nodes: usize, pgs: u32) -> Opened {
    let mut opened = opened_with_pgs(512, 100_000, pgs, 64);
    opened.manifest.hints = (0..nodes).map(hint).collect();
    opened
}

/// Whether a manifest names a segment.
pub fn names(manifest: &Manifest, segment: SegmentId) -> bool {
    let members = manifest.pgs.iter().flat_map(PgEntry::members);
    members.into_iter().any(|member| member.segment == segment)
}

/// The object of a wish to grow.
pub fn grown_to(groups: u64) -> [u8; 16] {
    let mut object = [0; 16];
    object[..8].copy_from_slice(&groups.to_le_bytes());
    object
}

impl Segment {
    /// Takes a manifest, unless it knows a newer one, or one that does not name it.
    pub fn takes(&mut self, manifest: &Manifest) -> Option<Refusal> {
        let held = self.manifest.as_ref();
        let is_removed = held.is_some_and(|held| !names(held, self.id));
        match held {
            Some(held) if self.dropped || held.version > manifest.version => {
                Some(Refusal::StaleMembership {
                    manifest: Box::new(held.clone()),
                })
            }
            Some(held) if held.version == manifest.version => {
                assert_eq!(held, manifest, "two manifests of one version (R21)");
                is_removed.then(|| Refusal::StaleMembership {
                    manifest: Box::new(manifest.clone()),
                })
            }
            _ => {
                self.manifest = Some(manifest.clone());
                None
            }
        }
    }

    fn holds_through(&self, lsn: Lsn) -> bool {
        !self.dropped && self.scl() >= lsn
    }
}

impl Cluster {
    /// A volume on six nodes of a fleet, open.
    pub fn of_fleet(nodes: usize, pgs: u32) -> Cluster {
        Cluster::with(bounds(), opened_with_fleet(nodes, pgs))
    }

    pub fn of_fleet_with(bounds: WriterBounds, nodes: usize, pgs: u32) -> Cluster {
        Cluster::with(bounds, opened_with_fleet(nodes, pgs))
    }

    /// A request of a change of membership.
    pub(super) fn call(&mut self, fetch: FetchKey, node: NodeId, message: Message) {
        let answer = if self.dead_nodes.contains(&node) {
            None
        } else {
            self.answer_call(node, message)
        };
        self.events
            .push_back(WriterEvent::Answered { fetch, answer });
    }

    fn answer_call(&mut self, node: NodeId, message: Message) -> Option<Message> {
        let done = Some(Message::Done);
        match message {
            Message::CreateSegment(create) => {
                assert!(names(&create.manifest, create.segment));
                let same = |segment: &&Segment| segment.id == create.segment;
                if self.segments.iter().any(|segment| same(&segment)) {
                    return done;
                }
                let mut here = self.segments.iter().filter(|held| held.node == node);
                let pg_of = |segment: &Segment| {
                    let found = segment.manifest.as_ref().or(segment.made_with.as_ref())?;
                    let names = |entry: &&PgEntry| {
                        let mut members = entry.members().into_iter();
                        members.any(|member| member.segment == segment.id)
                    };
                    found.pgs.iter().find(names).map(|entry| entry.pg)
                };
                if here.any(|held| !held.dropped && pg_of(held) == Some(create.pg)) {
                    return Some(Message::Refused(Refusal::Exists));
                }
                // One that joins comes late; a group that is appended begins with its segments.
                let number = create.pg.get() as usize;
                let lags = number < self.newest_manifest().pgs.len();
                self.segments.push(Segment {
                    id: create.segment,
                    node,
                    made_with: Some(create.manifest),
                    lags,
                    ..Segment::default()
                });
                done
            }
            Message::Install(install) => {
                let found = self
                    .segments
                    .iter_mut()
                    .find(|held| held.id == install.segment && held.node == node);
                let Some(segment) = found else {
                    return Some(Message::Refused(Refusal::UnknownSegment));
                };
                if segment.deaf || segment.down {
                    return None;
                }
                if let Some(refusal @ Refusal::StaleEpoch { .. }) = &segment.refuses {
                    return Some(Message::Refused(refusal.clone()));
                }
                let held = segment.manifest.as_ref().map(|held| held.version);
                let refusal = segment.takes(&install.manifest);
                if segment.dropped || held > Some(install.manifest.version) {
                    return refusal.map(Message::Refused);
                }
                if !names(&install.manifest, segment.id) {
                    segment.life = None;
                }
                Some(Message::Installed(Installed {
                    segment: segment.id,
                    scl: segment.scl(),
                    history_epoch: self.volume_epoch,
                }))
            }
            Message::DropSegment(drop) => {
                let found = self
                    .segments
                    .iter_mut()
                    .find(|held| held.id == drop.segment);
                if let Some(segment) = found {
                    let held = segment.manifest.as_ref().or(segment.made_with.as_ref());
                    let held = held.unwrap();
                    assert!(!names(held, segment.id), "a member is not dropped");
                    segment.dropped = true;
                    segment.batches.clear();
                }
                done
            }
            Message::Probe(_) => {
                let here = self.segments.iter().filter(|held| held.node == node);
                let segments = here.filter(|held| !held.dropped).map(|held| SegmentProbe {
                    segment: held.id,
                    pg: PgId::ROOT,
                    claim: VolumeEpoch::CREATION,
                    history_epoch: VolumeEpoch::CREATION,
                    scl: Lsn::NONE,
                    vdl_seen: Lsn::NONE,
                    writer_heard_ms_ago: None,
                });
                Some(Message::ProbeAnswer(ProbeAnswer {
                    manifest: None,
                    segments: segments.collect(),
                }))
            }
            Message::AskHints(_) => Some(Message::Hints(Hints {
                hints: self.left_hints.clone(),
            })),
            Message::WishReport(report) => {
                if matches!(report.state, WishState::Done | WishState::Refused) {
                    self.wishes.retain(|wish| wish.id != report.id);
                }
                self.node_reports.push((node, *report));
                done
            }
            other => panic!("{other:?}"),
        }
    }

    /// This process wants something.
    pub fn wish(&mut self, verb: WishVerb, subject: [u8; 16], object: [u8; 16]) -> [u8; 16] {
        self.next_ticket += 1;
        let mut id = [7; 16];
        id[..8].copy_from_slice(&self.next_ticket.to_le_bytes());
        let wish = Wish {
            id,
            volume: VOLUME,
            verb,
            subject,
            object,
        };
        self.event(WriterEvent::Wish { wish, hint: None });
        self.run();
        id
    }

    /// Wants a segment replaced, on any node.
    pub fn replace(&mut self, segment: SegmentId) -> [u8; 16] {
        self.wish(WishVerb::Replace, *segment.as_bytes(), [0; 16])
    }

    /// The last thing said of a wish.
    pub fn report(&self, id: [u8; 16]) -> WishReport {
        let mut of_wish = self.reports.iter().filter(|report| report.id == id);
        of_wish.next_back().expect("a report").clone()
    }

    pub fn state(&self, id: [u8; 16]) -> WishState {
        self.report(id).state
    }

    /// Everybody alive gives everybody what he has.
    pub fn heal(&mut self) {
        self.each(|segment| segment.lags = false);
        for to in 0..self.segments.len() {
            for from in 0..self.segments.len() {
                let is_up = |segment: &Segment| {
                    !segment.down && !segment.dropped && !self.dead_nodes.contains(&segment.node)
                };
                let (source, target) = (&self.segments[from], &self.segments[to]);
                if is_up(source) && is_up(target) && self.pg_of(from) == self.pg_of(to) {
                    self.gossip(from, to);
                }
            }
        }
    }

    /// The group of a segment.
    pub fn pg_of(&self, index: usize) -> Option<PgId> {
        let segment = &self.segments[index];
        let manifests = [segment.manifest.as_ref(), segment.made_with.as_ref()];
        manifests.into_iter().flatten().find_map(|manifest| {
            let names = |entry: &&PgEntry| {
                let mut members = entry.members().into_iter();
                members.any(|member| member.segment == segment.id)
            };
            manifest.pgs.iter().find(names).map(|entry| entry.pg)
        })
    }

    /// The newest manifest that any segment alive was told.
    pub fn newest_manifest(&self) -> Manifest {
        let alive = |held: &&Segment| !held.down && !self.dead_nodes.contains(&held.node);
        let alive = self.segments.iter().filter(alive);
        let told = alive.filter_map(|held| held.manifest.as_ref());
        told.max_by_key(|manifest| manifest.version)
            .unwrap()
            .clone()
    }

    /// Passes time in small steps, each with a commit that must succeed, until `is_over` or so many steps were made.
    pub fn under_load(&mut self, steps: usize, is_over: impl Fn(&Cluster) -> bool) -> bool {
        for step in 0..steps {
            let lsn = self
                .commit(super::put(
                    &format!("load {:03}", step % 50),
                    &format!("{step}"),
                ))
                .expect("no commit fails");
            self.check_held(lsn);
            if is_over(self) {
                return true;
            }
            self.pass_ms(25);
        }
        is_over(self)
    }

    /// No fence and no read of any manifest that may be found misses what was answered through `lsn`.
    pub fn check_held(&self, lsn: Lsn) {
        let told = self
            .segments
            .iter()
            .filter_map(|held| held.manifest.as_ref());
        let version = self.core.stats().membership.version;
        let in_force = told.clone().find(|manifest| manifest.version == version);
        for manifest in in_force.into_iter().chain([&self.newest_manifest()]) {
            for entry in &manifest.pgs {
                let last = self.last_of_group(entry.pg, lsn);
                let holds = |segment: SegmentId| {
                    let mut held = self.segments.iter();
                    held.any(|held| held.id == segment && held.holds_through(last))
                };
                let is_safe = |set: &SegmentSet| {
                    let whole = set.members.iter().filter(|member| !member.joining);
                    let lacking = whole.filter(|member| !holds(member.segment));
                    // A read quorum of the whole ones, three of six, meets a holder.
                    lacking.count() < quorum::read_count(set.model)
                };
                assert!(
                    entry.sets.iter().any(is_safe),
                    "{lsn} in group {} under {}",
                    entry.pg,
                    manifest.version
                );
            }
        }
    }

    /// A group's last LSN at or below one.
    fn last_of_group(&self, pg: PgId, lsn: Lsn) -> Lsn {
        let of_group = (0..self.segments.len()).filter(|&index| self.pg_of(index) == Some(pg));
        let last = |index: usize| {
            let batches = self.segments[index].batches.values();
            let lasts = batches.map(|batch| batch.header().last);
            lasts.filter(|&last| last <= lsn).max().unwrap_or(Lsn::NONE)
        };
        of_group.map(last).max().unwrap_or(Lsn::NONE)
    }

    /// The process dies. Another one opens the volume with what it finds at nodes that live: what a write quorum of every set of the
    /// newest manifest held is brought to all of them.
    pub fn take_over(&mut self) {
        self.take_over_without(&[]);
    }

    /// The nodes of these segments are destroyed with all that they hold, and an operator says so (R19): another process opens the
    /// volume on the others.
    pub fn declare_lost(&mut self, lost: &[SegmentId]) {
        for &segment in lost {
            let index = self.index_of(segment);
            let node = self.segments[index].node;
            self.dead_nodes.insert(node);
            self.lose(index);
        }
        self.take_over_without(lost);
    }

    fn take_over_without(&mut self, lost: &[SegmentId]) {
        let opened = self.reopened_without([100 + self.volume_epoch.get() as u8; 16], lost);
        self.events.clear();
        self.held_reads.clear();
        // Its streams end with it.
        self.each(|segment| segment.life = None);
        self.core = WriterCore::new(opened, self.bounds.clone(), self.now, UNIX_MS);
        self.run();
    }

    /// What a reopening finds and installs.
    pub fn reopened(&mut self, writer: [u8; 16]) -> Opened {
        self.reopened_without(writer, &[])
    }

    fn reopened_without(&mut self, writer: [u8; 16], lost: &[SegmentId]) -> Opened {
        let found = self.newest_manifest();
        let root = match lost {
            [] => found,
            lost => declare_lost(&found, lost).unwrap(),
        };
        let is_up = |cluster: &Cluster, segment: SegmentId| {
            let found = cluster.segments.iter().find(|held| held.id == segment);
            found.is_some_and(|held| {
                !held.down && !held.dropped && !cluster.dead_nodes.contains(&held.node)
            })
        };
        let mut manifest = root;
        let mut pg_last = Vec::new();
        for entry in manifest.pgs.clone() {
            let answers = |segment| is_up(self, segment);
            assert!(
                quorum::is_write_quorum_of_all(&entry, &answers),
                "{entry:?}"
            );
            let members: Vec<usize> = entry
                .members()
                .iter()
                .filter(|member| answers(member.segment))
                .map(|member| self.index_of(member.segment))
                .collect();
            let last = members
                .iter()
                .map(|&index| self.segments[index].scl())
                .max();
            let last = last.unwrap_or(Lsn::NONE);
            let source = members
                .iter()
                .find(|&&index| self.segments[index].scl() == last);
            for &to in &members {
                self.segments[to].batches = self.segments[*source.unwrap()].batches.clone();
            }
            pg_last.push((entry.pg, last));
        }
        self.volume_epoch = VolumeEpoch::new(self.volume_epoch.get() + 1);
        manifest.version.volume_epoch = self.volume_epoch;
        let cut = pg_last.iter().map(|&(_, last)| last).max().unwrap();
        let cut = cut.max(self.core.shared().vdl());
        let through = cut.plus(self.opened.manifest.parameters.lal);
        self.opened.history.volume_epoch = self.volume_epoch;
        self.opened.history.ranges.push(AnnulledRange {
            after: cut,
            through,
            volume_epoch: self.volume_epoch,
        });
        let mut scls = Vec::new();
        for member in manifest.pgs.iter().flat_map(PgEntry::members) {
            if is_up(self, member.segment) {
                let index = self.index_of(member.segment);
                let segment = &mut self.segments[index];
                segment.manifest = Some(manifest.clone());
                segment.life = None;
                segment.undrained.clear();
                scls.push((member.segment, segment.scl()));
            }
        }
        Opened {
            volume_epoch: self.volume_epoch,
            writer: WriterId::from_bytes(writer),
            history: self.opened.history.clone(),
            manifest,
            vdl: through,
            cut,
            pg_last,
            scls,
            lease_wait: std::time::Duration::ZERO,
            refilled_batches: 0,
        }
    }
}

impl Cluster {
    /// Wants that the volume has so many groups.
    pub fn grow_to(&mut self, groups: u64) -> [u8; 16] {
        self.wish(WishVerb::Grow, [0; 16], grown_to(groups))
    }

    /// Wants something without running.
    pub fn submit_wish(&mut self, verb: WishVerb, subject: [u8; 16]) {
        let wish = Wish {
            id: [5; 16],
            volume: VOLUME,
            verb,
            subject,
            object: [0; 16],
        };
        self.event(WriterEvent::Wish { wish, hint: None });
    }

    /// One action, or one event.
    pub fn step(&mut self) {
        if let Some(action) = self.core.poll_action() {
            self.perform(action);
        } else if let Some(event) = self.events.pop_front() {
            self.event(event);
        }
    }

    /// Runs until so many new segments are made; then their nodes are cut off, and nobody takes a step.
    pub fn cut_off_the_new(&mut self, count: usize) {
        let before = self.segments.len();
        for _ in 0..10_000 {
            self.step();
            if self.segments.len() == before + count {
                break;
            }
        }
        assert_eq!(self.segments.len(), before + count);
        let nodes: Vec<NodeId> = self.segments[before..]
            .iter()
            .map(|held| held.node)
            .collect();
        self.dead_nodes.extend(nodes);
        self.each(|segment| segment.deaf = true);
        self.run();
    }

    /// They are back.
    pub fn join_up(&mut self) {
        self.dead_nodes.clear();
        self.each(|segment| segment.deaf = false);
    }

    pub fn timeout(&mut self) {
        self.event(WriterEvent::Timeout);
    }
}
