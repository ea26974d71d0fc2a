//! Layers, as the world judges them: what a node says of its layers each time it may have published some, and reads at points of
//! the past from anybody.
//!
//! The horizon never falls and passes no read point that the writer has announced under a lease that runs; layers end at or below
//! SCL and the highest VDL that anybody published; runs and files are bounded; a start leaves no file that no catalog names.

use std::collections::BTreeMap;

use sixfold_log_format::layer::CATALOG_LAYER_BYTES;
use sixfold_log_format::wire::{
    Message, NodeStatus, PageAnswer, PageRequest, ReadPages, Refusal, SegmentStatus,
};
use sixfold_log_format::{Lsn, PageId, PgId, SegmentId, VolumeEpoch};

use super::net::{Kind, Party};
use super::{Event, World};
use crate::clock::{MS, Time};
use crate::plan::node_name;
use crate::reached::Reached;
use crate::rng::Rng;

/// What was announced earlier than this counts: a catalog may have been on its way to the disk for so long.
const UNDER_WAY: Time = 4_000 * MS;
/// A lease that a segment may not know of lasts so long (by a clock that runs half a percent fast).
const UNKNOWN_LEASE: Time = 9_900 * MS;
/// Looks after a sync before it is taken that nothing will be published.
const LOOKS: u32 = 64;
/// Layer files of one segment above those that its catalog names: what a freeze, a merge and a copy have in the making.
const FILES_IN_THE_MAKING: usize = 64;

/// Read points that a segment was told of under one epoch.
#[derive(Debug, Clone, Copy)]
struct Announced {
    /// Leases have followed each other without a gap since.
    since: Time,
    until: Time,
    highest: Lsn,
}

/// What a segment has published.
#[derive(Debug, Default)]
struct Seen {
    horizon: Lsn,
    folded_through: Lsn,
    run_count: u32,
    layer_bytes: u64,
    announced: BTreeMap<VolumeEpoch, Announced>,
}

/// What is known of a node's layers.
#[derive(Debug, Default)]
pub(crate) struct LayersSeen {
    segments: BTreeMap<SegmentId, Seen>,
    started_at: Time,
    owes_start: bool,
    /// Layers were synced, and no catalog was seen since; how many looks are left.
    looks: u32,
    copied: bool,
    healed: u64,
    /// What is seen for the first time since the start was decided in an earlier life.
    earlier_life: bool,
}

impl LayersSeen {
    /// Its process starts.
    pub(super) fn started(&mut self, now: Time) {
        self.started_at = now;
        self.owes_start = true;
        self.looks = 0;
        self.copied = false;
        self.healed = 0;
        self.earlier_life = true;
        for seen in self.segments.values_mut() {
            seen.announced.clear();
        }
    }

    /// Whether its first state has yet to be looked at.
    pub(super) fn take_start(&mut self) -> bool {
        std::mem::take(&mut self.owes_start)
    }

    /// A layer was synced: a catalog may follow.
    pub(super) fn synced(&mut self) {
        self.looks = LOOKS;
    }

    /// Layers were copied from a peer.
    pub(super) fn copied(&mut self) {
        self.copied = true;
        self.looks = LOOKS;
    }

    /// Whether a layer is synced whose catalog was not seen.
    pub(super) fn awaits_catalog(&self) -> bool {
        self.looks > 0
    }

    pub(super) fn wants_a_look(&mut self) -> bool {
        let wanted = self.looks > 0;
        self.looks = self.looks.saturating_sub(1);
        wanted
    }
}

/// Reads at points of the past.
#[derive(Debug)]
pub(crate) struct LayerWatch {
    rng: Rng,
    pause_ms: u64,
}

impl LayerWatch {
    pub(super) fn new(rng: &mut Rng) -> LayerWatch {
        LayerWatch {
            rng: Rng::new(rng.draw(), 0),
            pause_ms: rng.pick(&[5, 15, 40]),
        }
    }
}

impl World {
    /// A layer of this node's disk is not what it was.
    pub(super) fn layer_harmed(&mut self, node: usize) {
        self.nodes[node].disk.layers.take_harmed();
        self.nodes[node].layer_harmed = true;
    }

    pub(super) fn look_for_harm(&mut self, node: usize) {
        if self.nodes[node].disk.layers.take_harmed() {
            self.nodes[node].layer_harmed = true;
        }
    }

    /// A writer says on a log stream which read points are in use.
    pub(super) fn hear_announcement(&mut self, stream: usize, message: &Message) {
        let (pgmrpl, lease_ms) = match message {
            Message::Append(append) => (append.pgmrpl, append.pgmrpl_lease_ms),
            Message::Heartbeat(beat) => (beat.pgmrpl, beat.pgmrpl_lease_ms),
            _ => return,
        };
        let state = &self.streams[stream];
        let (Party::Writer(writer), Kind::Log { .. }, Some(segment)) =
            (state.client, &state.kind, state.segment)
        else {
            return;
        };
        let epoch = self.writers[writer].epoch;
        let now = self.now;
        let seen = &mut self.nodes[state.node].layers.segments;
        let announced = &mut seen.entry(segment).or_default().announced;
        let announced = announced.entry(epoch).or_insert(Announced {
            since: now,
            until: now,
            highest: pgmrpl,
        });
        if announced.until < now {
            announced.since = now;
        }
        // By a clock that runs fast the lease ends a little earlier.
        announced.until = now + u64::from(lease_ms) * MS / 1_000 * 990;
        announced.highest = announced.highest.max(pgmrpl);
    }

    /// The node may have published something.
    pub(super) fn look_at_layers(&mut self, node: usize) {
        if self.nodes[node].core.is_none() {
            return;
        }
        let Some(status) = self.status_of(node) else {
            return;
        };
        for held in &status.segments {
            self.look_at_segment(node, held);
        }
        let layers = &mut self.nodes[node].layers;
        let healed = status.upkeep.damage_healed;
        if std::mem::take(&mut layers.copied) {
            self.oracle.reached.hit(if healed > layers.healed {
                Reached::LayerHealed
            } else {
                Reached::CaughtUpByLayers
            });
        }
        self.nodes[node].layers.healed = healed;
    }

    fn look_at_segment(&mut self, node: usize, held: &SegmentStatus) {
        let name = node_name(node);
        let pg = held.pg;
        let (horizon, folded) = (held.horizon, held.folded_through);
        let suspect = self.nodes[node].suspect;
        let seen = self.nodes[node].layers.segments.entry(held.segment);
        let seen = seen.or_default();
        let (horizon_before, folded_before) = (seen.horizon, seen.folded_through);
        let (runs_before, bytes_before) = (seen.run_count, seen.layer_bytes);
        let changed = (horizon, folded, held.run_count, held.layer_bytes)
            != (horizon_before, folded_before, runs_before, bytes_before);
        if !changed {
            return;
        }
        seen.horizon = horizon;
        seen.folded_through = folded;
        seen.run_count = held.run_count;
        seen.layer_bytes = held.layer_bytes;
        let announced = seen.announced.get(&held.history_epoch).copied();
        let knows_nobody = seen.announced.is_empty();
        self.nodes[node].layers.looks = 0;
        if (horizon < horizon_before || folded < folded_before) && !suspect {
            return self.fail(format!(
                "{name} had horizon {horizon_before} and layers up to {folded_before} in group {pg}, now {horizon} and {folded}"
            ));
        }
        let vdl = self.oracle.published_vdl();
        if folded > vdl || folded > held.scl {
            return self.fail(format!(
                "{name} has layers up to {folded} in group {pg}, its SCL is {} and the highest VDL {vdl} (R11)",
                held.scl
            ));
        }
        if horizon > folded {
            return self.fail(format!(
                "{name} has the horizon {horizon} above its layers, which end at {folded}, in group {pg}"
            ));
        }
        let runs_max = 2 * self.plan.shape.layers.runs + 1;
        if held.run_count as usize > runs_max {
            return self.fail(format!(
                "{name} has {} runs in group {pg}, {runs_max} are allowed",
                held.run_count
            ));
        }
        let files = self.nodes[node].disk.layers.count_of(held.segment);
        // What a merge has just replaced is still there: no more than catalogs could name, a quarter of a file for all heads.
        let heads_bytes = self.plan.shape.file_bytes / 4;
        let replaced = usize::try_from(heads_bytes).unwrap_or(usize::MAX) / CATALOG_LAYER_BYTES;
        if files > 3 * held.layer_count as usize + FILES_IN_THE_MAKING + replaced {
            return self.fail(format!(
                "{name} has {files} layer files in group {pg}, its catalog names {}",
                held.layer_count
            ));
        }
        if folded > folded_before {
            self.oracle.reached.hit(Reached::Frozen);
        }
        if held.run_count < runs_before && held.layer_bytes < bytes_before && !horizon.is_none() {
            self.oracle.reached.hit(Reached::MergedAndCollected);
        }
        if horizon > horizon_before && !self.nodes[node].layers.earlier_life {
            self.judge_horizon(node, held, announced, knows_nobody);
        }
    }

    /// The horizon rose: nobody may have a read point below it under a lease (R17).
    fn judge_horizon(
        &mut self,
        node: usize,
        held: &SegmentStatus,
        announced: Option<Announced>,
        knows_nobody: bool,
    ) {
        let (now, horizon) = (self.now, held.horizon);
        // A peer that heard no more from the writer may have collected, and this one copied it.
        let by_peer = (0..self.nodes.len())
            .filter(|peer| *peer != node)
            .any(|peer| {
                let mut seen = self.nodes[peer].layers.segments.iter();
                seen.any(|(segment, seen)| {
                    self.places[segment].1 == held.pg && seen.horizon >= horizon
                })
            });
        if by_peer {
            return;
        }
        let bad = match announced {
            Some(announced) => {
                let counts = announced.since + UNDER_WAY < now && now < announced.until;
                (counts && horizon > announced.highest).then(|| {
                    format!(
                        "the lowest read point in use is at least {}",
                        announced.highest
                    )
                })
            }
            None => {
                let waits = now < self.nodes[node].layers.started_at + UNKNOWN_LEASE;
                (waits && knows_nobody).then(|| "it has heard no writer yet".to_owned())
            }
        };
        if let Some(why) = bad {
            self.fail(format!(
                "{} raised the horizon of group {} to {horizon}, {why} (R17)",
                node_name(node),
                held.pg
            ));
        }
    }

    /// A start leaves the files that catalogs name and no others.
    pub(super) fn check_files(&mut self, node: usize, status: &NodeStatus) {
        let state = &self.nodes[node];
        let exempt = state.suspect || state.layer_harmed;
        let wrong = status.segments.iter().find(|held| {
            let files = state.disk.layers.count_of(held.segment);
            let named = held.layer_count as usize;
            files > named || files < named && !exempt
        });
        let known = |segment: &SegmentId| status.segments.iter().any(|s| s.segment == *segment);
        let stray = state.disk.layers.files.keys().find(|(of, _)| !known(of));
        if let Some(held) = wrong {
            let files = state.disk.layers.count_of(held.segment);
            self.fail(format!(
                "{} starts with {files} layer files in group {}, its catalog names {}",
                node_name(node),
                held.pg,
                held.layer_count
            ));
        } else if let Some((segment, layer)) = stray.copied() {
            self.fail(format!(
                "{} starts with layer {layer} of segment {segment}, which it does not have",
                node_name(node)
            ));
        }
        self.look_at_layers(node);
        self.nodes[node].layers.earlier_life = false;
    }

    /// Somebody reads pages at a point of the past.
    pub(super) fn probe(&mut self) {
        if self.finish.is_stopping() {
            return;
        }
        let wait = self.layers.rng.range(1, 2 * self.layers.pause_ms) * MS;
        self.queue.push(self.now + wait, Event::Probe);
        let node = self.layers.rng.index(self.nodes.len());
        let newest = self.oracle.newest();
        let running = self.nodes[node].core.as_ref();
        if !running.is_some_and(|core| core.is_ready()) || self.nodes[node].paused {
            return;
        }
        self.look_at_layers(node);
        let Some(status) = self.status_of(node) else {
            return;
        };
        let whole = |held: &&SegmentStatus| held.history_epoch == newest;
        let held: Vec<&SegmentStatus> = status.segments.iter().filter(whole).collect();
        if held.is_empty() {
            return;
        }
        let held = held[self.layers.rng.index(held.len())];
        let through = held.scl.min(self.oracle.published_vdl());
        self.read_the_past(node, held, through);
    }

    /// Reads pages of a group at some point up to `through`.
    fn read_the_past(&mut self, node: usize, held: &SegmentStatus, through: Lsn) {
        let (first, last) = (held.horizon.get().max(1), through.get());
        if last < first {
            return;
        }
        let rng = &mut self.layers.rng;
        let lsn = match rng.below(8) {
            0 if held.horizon.get() > 1 => rng.range(1, held.horizon.get()),
            0 | 1 => first,
            2 => (first + rng.below(8)).min(last),
            3 | 4 => last - rng.below(last - first + 1).min(40),
            _ => rng.range(first, last + 1),
        };
        let lsn = Lsn::new(lsn);
        let manifest = &self.manifest;
        let of_pg = |page: &PageId| manifest.pg_of(*page) == Some(held.pg);
        let pages: Vec<PageId> = self.oracle.pages.keys().copied().filter(of_pg).collect();
        if pages.is_empty() {
            return;
        }
        let count = 1 + self.layers.rng.index(4);
        let picked: Vec<PageId> = (0..count)
            .map(|_| pages[self.layers.rng.index(pages.len())])
            .collect();
        if through.since(lsn) > 40 {
            self.oracle.reached.hit(Reached::ReadInThePast);
        }
        let pg_last = self.pg_last_at(held.pg, lsn);
        let request = |page: PageId| PageRequest { page, lsn, pg_last };
        let read = ReadPages {
            segment: held.segment,
            history_epoch: held.history_epoch,
            pages: picked.into_iter().map(request).collect(),
        };
        self.ask_probe(node, read);
    }

    /// The last record of a group at or below a point.
    pub(super) fn pg_last_at(&self, pg: PgId, lsn: Lsn) -> Lsn {
        let Some(lsns) = self.oracle.pg_lsns.get(&pg) else {
            return Lsn::NONE;
        };
        let below = lsns.partition_point(|at| *at <= lsn);
        below.checked_sub(1).map_or(Lsn::NONE, |at| lsns[at])
    }

    /// A probe was answered. What was served has been compared; what is refused needs a reason.
    pub(super) fn probed_pages(&mut self, node: usize, pages: &[PageAnswer]) {
        let state = &self.nodes[node];
        let harmed = self.misreads_planned || state.suspect || state.layer_harmed;
        for answer in pages {
            let PageAnswer::Refused(refusal) = answer else {
                continue;
            };
            let bad = match refusal {
                // It was asked what it holds just before.
                Refusal::Corrupt { .. } => !harmed,
                Refusal::Forgotten { .. }
                | Refusal::Overloaded
                | Refusal::Behind { .. }
                | Refusal::OtherHistory { .. } => false,
                _ => true,
            };
            if bad {
                return self.fail(format!(
                    "{} refuses to read the past: {refusal:?}",
                    node_name(node)
                ));
            }
        }
    }

    /// The end of a run: pages at some points from the horizon on, from every segment.
    pub(super) fn audit_the_past(&mut self, node: usize, segment: SegmentId, pg: PgId) {
        let Some(status) = self.status_of(node) else {
            return;
        };
        for held in &status.segments {
            self.look_at_segment(node, held);
        }
        let held = status.segments.iter().find(|held| held.segment == segment);
        let Some(held) = held.filter(|held| held.pg == pg) else {
            return;
        };
        for _ in 0..6 {
            self.read_the_past(node, held, held.scl);
        }
    }
}
