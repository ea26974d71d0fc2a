//! What is due: when the index is frozen, runs are merged, hot-log files go.
//!
//! ```text
//!   index or unfolded redo near its budget, a peer copies, a file is pinned   ->  freeze, the largest segment first
//!   runs that are too many or too alike                                       ->  merge
//!   a hot-log file with nothing but what is in layers, outside the window     ->  recycle, or delete
//!   a file that must go and holds what cannot be frozen                       ->  write that again at the tail (F7)
//! ```
//! One freeze and one merge run at a time; both go in small steps behind everything else. Where they do not keep up, batches are
//! refused before a bound is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sixfold_log_format::hot_log::{Entry, FileNumber};
use sixfold_log_format::layer::{CATALOG_LAYER_BYTES, CATALOG_LAYERS_MAX, LayerNumber};
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, PageId, SegmentId};

use super::compose::{ChainBound, Depth};
use super::freeze::FreezeWork;
use super::merge::{MergeWork, choose};
use super::output::Output;
use crate::action::{Action, FileName, Severity};
use crate::bounds::{
    CHECK_REDO_BYTES, FULL_RETRY, MOVE_BYTES_MAX, PACE_GROWTH_MAX, PINNED_MAX, SWEEP_ENTRIES,
};
use crate::chain::BatchId;
use crate::hot_log::{Place, Ticket};
use crate::jobs::{BackgroundStep, Job, Work};
use crate::node::NodeCore;
use crate::parts::{Fetched, Located, Part};
use crate::segment::Segment;

/// Pause before something that could not be published is tried again.
const PUBLISH_RETRY: Duration = Duration::from_millis(2);

/// Pause before a freeze or a merge that came upon damage is begun again.
const DAMAGE_RETRY: Duration = Duration::from_secs(1);

/// What a remembered chain takes in memory, bytes, about.
const DEPTH_BYTES: usize = 32;

/// What the node does for itself.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    freezing: Option<SegmentId>,
    merging: Option<SegmentId>,
    /// Something changed since the last look.
    due: bool,
    redo_since: usize,
    /// How much waits for the node's own work, in 64ths of what stops batches or freezes.
    waiting: u64,
    no_space_until: Option<Duration>,
    /// Segments whose freeze or merge came upon damage: until then nothing of them is begun again.
    paused: BTreeMap<SegmentId, Duration>,
    no_space: bool,
    /// Batches that are written again, by the ticket of the copy.
    moving: BTreeMap<Ticket, (SegmentId, BatchId)>,
    moving_bytes: usize,
    /// Segments whose index holds records that are in layers now.
    pub(crate) unswept: BTreeSet<SegmentId>,
    /// Counts since the start.
    pub(crate) freezes: u64,
    pub(crate) merges: u64,
    pub(crate) files_freed: u64,
    pub(crate) moved_batches: u64,
}

impl Upkeep {
    /// Something changed that may make something due.
    pub(crate) fn look(&mut self) {
        self.due = true;
    }

    /// Redo came in.
    pub(crate) fn saw_redo(&mut self, bytes: usize) {
        self.redo_since += bytes;
        if self.redo_since >= CHECK_REDO_BYTES {
            self.due = true;
        }
    }

    /// A layer could not be written: another one is tried later.
    pub(crate) fn wait_for_space(&mut self, now: Duration) {
        (self.no_space, self.no_space_until) = (true, Some(now + FULL_RETRY));
    }

    /// Work on this segment came upon damage. Begun again at once it would come to the same place.
    pub(crate) fn pause(&mut self, segment: SegmentId, now: Duration) {
        self.paused.insert(segment, now + DAMAGE_RETRY);
    }

    /// What waits for space goes on when its time has come: else the timeout would stay due, and nobody would act on it.
    pub(crate) fn wake(&mut self, now: Duration) {
        self.due |= self.no_space_until.is_some_and(|until| until <= now);
    }

    /// The copy of a batch is durable: whose it is.
    pub(crate) fn take_moved(&mut self, ticket: Ticket) -> Option<(SegmentId, BatchId)> {
        self.moving.remove(&ticket)
    }

    fn is_moving(&self, segment: SegmentId, batch: BatchId) -> bool {
        self.moving
            .values()
            .any(|moving| *moving == (segment, batch))
    }
}

impl Segment {
    /// How far the layers may reach: what is above may be annulled yet (R11).
    pub(crate) fn foldable_through(&self) -> Lsn {
        if planted(Mutant::LayerAboveVdl) {
            return self.scl();
        }
        self.scl().min(self.vdl_seen)
    }

    /// Of batches that are to be frozen those before the first that cannot be read, as far as is known.
    fn whole_of(&self, (mut batches, mut through): (Vec<BatchId>, Lsn)) -> (Vec<BatchId>, Lsn) {
        let is_whole = |batch: &BatchId| {
            let held = self.chain.get(*batch);
            let doubted = held.bad || self.doubts.contains_key(&Part::Batch(*batch));
            held.resident.is_some() || !doubted
        };
        let whole = batches.iter().take_while(|batch| is_whole(batch)).count();
        if whole < batches.len() {
            batches.truncate(whole);
            let last = batches.last().map(|batch| self.chain.get(*batch));
            let last = last.and_then(|held| held.last_valid(Lsn::MAX, &self.history));
            through = last.unwrap_or(Lsn::NONE);
        }
        (batches, through)
    }

    /// Whether no layer is known to be damaged.
    fn has_whole_layers(&self) -> bool {
        let mut doubts = self.doubts.keys();
        self.bad_layers.is_empty() && !doubts.any(|part| matches!(part, Part::Layer(..)))
    }

    /// The horizon that may be put into a catalog whose layers end at `folded`. Collection is a write: while a claim is held whose
    /// writer is not known to have opened, nothing more is collected.
    pub(crate) fn horizon_target(&self, now: Duration, folded: Lsn) -> Lsn {
        let published = self.layers.horizon();
        if self.guard.claim != self.history_epoch() || self.guard != self.durable_guard {
            return published;
        }
        let limit = self.retention.limit(now, &self.manifest.parameters);
        let wanted = limit.unwrap_or(Lsn::NONE).min(folded);
        wanted.min(self.foldable_through()).max(published)
    }
}

impl NodeCore {
    /// Looks what is due, when something changed.
    pub(crate) fn keep_up(&mut self, now: Duration) {
        if !std::mem::take(&mut self.upkeep.due) {
            return;
        }
        self.upkeep.redo_since = 0;
        self.trim();
        self.pressed = self.is_pressed();
        self.at_bound = self.is_at_bound();
        self.upkeep.waiting = self.waiting();
        if self.upkeep.no_space_until.is_some_and(|until| now < until) {
            return;
        }
        self.upkeep.no_space_until = None;
        self.upkeep.paused.retain(|_, until| now < *until);
        if self.upkeep.freezing.is_none() {
            self.start_freeze(now);
        }
        if self.upkeep.merging.is_none() {
            self.start_merge(now);
        }
    }

    /// When something that waits for space goes on.
    pub(crate) fn upkeep_timeout(&self) -> Option<Duration> {
        let unswept = self
            .segments
            .values()
            .any(|segment| !segment.index.is_swept());
        unswept.then_some(self.now).or(self.upkeep.no_space_until)
    }

    /// A step of sweeping an index, when one has to be swept.
    pub(crate) fn sweep_step(&mut self) {
        let Some(id) = self.upkeep.unswept.first().copied() else {
            return;
        };
        let segment = self.segments.get_mut(&id);
        let is_swept = segment.is_none_or(|segment| {
            let folded = segment.layers.folded_through();
            segment
                .index
                .sweep(folded, segment.vdl_seen, &segment.history, SWEEP_ENTRIES);
            segment.index.is_swept()
        });
        if is_swept {
            self.upkeep.unswept.remove(&id);
        }
    }

    /// Bytes of all page indexes.
    pub(crate) fn index_bytes(&self) -> usize {
        let indexes = self.segments.values().map(|segment| &segment.index);
        let indexes: usize = indexes.map(crate::index::PageIndex::memory_bytes).sum();
        let depths = self.segments.values().map(|segment| segment.depths.len());
        indexes + depths.sum::<usize>() * DEPTH_BYTES
    }

    /// Bytes of redo that no layer holds.
    pub(crate) fn unfolded_bytes(&self) -> u64 {
        let unfolded = self.segments.values().map(|segment| segment.unfolded_bytes);
        unfolded.sum()
    }

    /// How much waits for freezes and merges, in 64ths of what stops batches or freezes.
    fn waiting(&self) -> u64 {
        let share = |held: u64, max: u64| held.saturating_mul(64) / max.max(1);
        let runs = self.segments.values().map(|held| held.layers.runs().len());
        let runs_max = self.bounds.runs_max * 2;
        [
            share(
                self.index_bytes() as u64,
                self.bounds.index_bytes_max as u64,
            ),
            share(self.unfolded_bytes(), self.bounds.unfolded_bytes_max),
            share(runs.max().unwrap_or(0) as u64, runs_max as u64),
        ]
        .into_iter()
        .max()
        .unwrap_or(0)
    }

    /// The pace of the node's own work, bytes a second; 0 for none. Half of what may wait makes a freeze due, three quarters slow
    /// writers down: in between the pace grows, and ends half way, so that the work catches up before anybody has to wait.
    pub(crate) fn background_rate(&self) -> u64 {
        const DUE: u64 = 32;
        const NEAR: u64 = 40;
        if self.pressed || self.upkeep.waiting >= NEAR {
            return 0;
        }
        let rate = self.bounds.background_bytes_per_second;
        let beyond = self.upkeep.waiting.saturating_sub(DUE);
        rate.saturating_add(rate.saturating_mul(PACE_GROWTH_MAX - 1) / (NEAR - DUE) * beyond)
    }

    /// Whether a bound is near, so that writers should slow down.
    pub(crate) fn is_pressed(&self) -> bool {
        let index_max = self.bounds.index_bytes_max;
        self.index_bytes() > index_max / 4 * 3
            || self.unfolded_bytes() > self.bounds.unfolded_bytes_max / 4 * 3
            || self.log.files_bytes() > self.bounds.log_bytes_max / 4 * 3
    }

    /// Whether one more batch would break a bound.
    pub(crate) fn is_at_bound(&self) -> bool {
        self.index_bytes() >= self.bounds.index_bytes_max
            || self.unfolded_bytes() >= self.bounds.unfolded_bytes_max
            || self.log.files_bytes() > self.bounds.log_bytes_max
    }

    /// Whether a catalog is on its way to the disk.
    pub(crate) fn is_publishing(&self, segment: &Segment) -> bool {
        let ticket = segment.publishing;
        ticket.is_some_and(|ticket| ticket > self.log.durable())
    }

    /// Whether a batch of this segment is refused so that no bound breaks: any at a bound, and near one those of a segment that takes
    /// more than half of it, so that there is room left for others.
    pub(crate) fn is_crowded(&self, segment: &Segment) -> bool {
        let hogs = segment.unfolded_bytes > self.bounds.unfolded_bytes_max / 2
            || segment.index.memory_bytes() > self.bounds.index_bytes_max / 2;
        let waits = segment.pending_bytes > self.bounds.queued_bytes_max / 4 * 3;
        self.at_bound || self.pressed && hogs || waits
    }

    /// Whether its batches are refused because the disk is full: for the hot log, or for layers that would move a bound away.
    pub(crate) fn is_full_for(&self, segment: &Segment) -> bool {
        let lacks = self.log.is_full() || self.upkeep.no_space;
        !self.log.takes_batches() || lacks && self.is_crowded(segment)
    }

    fn chain_bound(&self) -> ChainBound {
        ChainBound {
            records_max: self.bounds.chain_records_max.max(1),
            bytes_max: self.bounds.chain_bytes_max.max(1),
        }
    }

    fn output(&self, segment: &Segment, range: (Lsn, Lsn)) -> Output {
        let owner = (segment.volume, segment.pg, segment.id);
        Output::new(owner, range, self.block_bytes, self.layer_bytes_wanted())
    }

    /// Starts the freeze that is due most, if one is.
    fn start_freeze(&mut self, now: Duration) {
        let near = self.index_bytes() > self.bounds.index_bytes_max / 2
            || self.unfolded_bytes() > self.bounds.unfolded_bytes_max / 2
            || self.log.files_bytes() > self.bounds.log_bytes_max / 2;
        // A catalog stands at the head of every hot-log file.
        let room = self.log.file_bytes() / 8 / CATALOG_LAYER_BYTES as u64;
        let layers_max = (CATALOG_LAYERS_MAX / 2).min(usize::try_from(room).unwrap_or(usize::MAX));
        let has_room = self.has_room_for_layers(1);
        let is_due = |segment: &&Segment| {
            let long = segment.index.longest_chain() > self.bounds.memory_chain_records_max
                && segment.unfolded_bytes >= self.bounds.freeze_bytes_max / 16;
            let asked = near || segment.freeze_wanted || long;
            asked
                && !self.is_publishing(segment)
                && !self.upkeep.paused.contains_key(&segment.id)
                && segment.foldable_through() > segment.layers.folded_through()
                && segment.unfolded_bytes > 0
                && segment.layers.runs().len() < self.bounds.runs_max * 2
                && segment.layers.catalog().layers.len() < layers_max
                && has_room
        };
        let weight = |segment: &&Segment| {
            (
                segment.freeze_wanted,
                segment.index.memory_bytes(),
                segment.id,
            )
        };
        let mut due: Vec<&Segment> = self.segments.values().filter(is_due).collect();
        due.sort_by_key(weight);
        let begun = due.iter().rev().find_map(|segment| {
            let found = segment.chain.foldable(
                (segment.foldable_through(), segment.vdl_seen),
                self.bounds.freeze_bytes_max,
                &segment.history,
            );
            let found = segment.whole_of(found);
            (!found.0.is_empty()).then_some((segment.id, found))
        });
        let Some((id, (batches, through))) = begun else {
            for segment in self.segments.values_mut() {
                segment.freeze_wanted = false;
            }
            return;
        };
        let segment = &self.segments[&id];
        let horizon = if planted(Mutant::CollectedEarly) {
            through
        } else {
            segment.horizon_target(now, through)
        };
        let range = (segment.layers.folded_through(), through);
        let output = self.output(segment, range);
        let bound = self.chain_bound();
        let work = FreezeWork::new(segment, (batches, through), horizon, bound, output);
        self.upkeep.freezing = Some(id);
        self.start_background(id, Work::Freeze(Box::new(work)));
    }

    /// Starts a merge where runs are too many.
    fn start_merge(&mut self, now: Duration) {
        let crowded = self.is_crowded_with_layers();
        let runs_max = self.bounds.runs_max;
        let chosen = self
            .segments
            .values()
            .filter(|segment| !self.is_publishing(segment))
            // A copy counts on the layers that were here when it began.
            .filter(|segment| segment.copy.is_none() && segment.has_whole_layers())
            .filter(|segment| !self.upkeep.paused.contains_key(&segment.id))
            .filter_map(|segment| {
                let range = choose(segment.layers.runs(), runs_max, crowded)?;
                Some((segment.layers.runs().len(), segment.id, range))
            })
            .max_by_key(|(count, id, _)| (*count, *id));
        let Some((_, id, range)) = chosen else { return };
        let segment = &self.segments[&id];
        let runs = &segment.layers.runs()[range.clone()];
        let (oldest, newest) = (&runs[0], &runs[runs.len() - 1]);
        let horizon = if planted(Mutant::CollectedEarly) {
            segment.layers.folded_through()
        } else {
            segment.horizon_target(now, segment.layers.folded_through())
        };
        let output = self.output(segment, (oldest.after, newest.through));
        let is_bottom = range.start == 0;
        let bound = self.chain_bound();
        let work = MergeWork::new(segment, runs, is_bottom, horizon, bound, output);
        self.upkeep.merging = Some(id);
        self.start_background(id, Work::Merge(Box::new(work)));
    }

    /// A freeze or merge has written and synced its layers: the catalog names them.
    pub(crate) fn publish_job(&mut self, job: Job, key: Option<u64>) {
        let now = self.now;
        let id = job.segment;
        let segment = &self.segments[&id];
        if self.is_publishing(segment) {
            return self.retry_job(now + PUBLISH_RETRY, job, key);
        }
        let none: &[LayerNumber] = &[];
        let folded = segment.layers.folded_through();
        let (gone, output, through, horizon) = match &job.work {
            Work::Freeze(freeze) => (none, &freeze.output, freeze.through, freeze.horizon),
            Work::Merge(merge) => (&merge.gone[..], &merge.output, folded, merge.horizon),
            Work::Pages(_) | Work::Log(_) | Work::File(_) | Work::Scrub(_) | Work::Move(_) => {
                unreachable!("it writes no layers")
            }
        };
        let published = if planted(Mutant::CollectedEarly) {
            segment.horizon_target(now, folded.max(through))
        } else if horizon > segment.horizon_target(now, through.max(folded)) {
            // Somebody reads below it since: what was made is not what may be shown.
            self.clean_up(&job);
            return self.background_ended(&job);
        } else {
            horizon
        };
        let catalog = segment
            .layers
            .replaced(gone, &output.done, through, published);
        assert!(
            catalog.folded_through <= segment.scl().min(segment.vdl_seen)
                || planted(Mutant::LayerAboveVdl),
            "layers end at min(SCL, highest VDL seen) (R11)"
        );
        if catalog.layers.len() > CATALOG_LAYERS_MAX {
            self.log_line(
                Severity::Error,
                format!("segment {id}: more layers than a catalog holds"),
            );
            self.clean_up(&job);
            self.upkeep.pause(id, now);
            return self.background_ended(&job);
        }
        let entry = Entry::Catalog {
            segment: id,
            catalog,
        };
        match self.append(entry) {
            Ok(ticket) => {
                let segment = self.segments.get_mut(&id).expect("looked at just now");
                segment.publishing = Some(ticket);
                self.upkeep.no_space = false;
                if let Work::Freeze(freeze) = &job.work {
                    self.keep_depths(id, &freeze.depths);
                }
                self.background_ended(&job);
            }
            Err(_) => self.retry_job(now + FULL_RETRY, job, key),
        }
    }

    /// Remembers how long chains are, within an eighth of the index's budget. What is not known counts as nothing: then only the
    /// chain within each run is bounded.
    fn keep_depths(&mut self, id: SegmentId, depths: &[(PageId, Depth)]) {
        let known: usize = self
            .segments
            .values()
            .map(|segment| segment.depths.len())
            .sum();
        let most = self.bounds.index_bytes_max / 8 / DEPTH_BYTES;
        let segment = self.segments.get_mut(&id).expect("looked at just now");
        if known + depths.len() > most {
            segment.depths.clear();
        }
        for (page, depth) in depths {
            if depth.records == 0 {
                segment.depths.remove(page);
            } else if segment.depths.len() < most {
                segment.depths.insert(*page, *depth);
            }
        }
    }

    /// A job of the node's own is over.
    pub(crate) fn background_ended(&mut self, job: &Job) {
        match &job.work {
            Work::Freeze(_) => {
                self.upkeep.freezing = None;
                self.upkeep.freezes += 1;
            }
            Work::Merge(_) => {
                self.upkeep.merging = None;
                self.upkeep.merges += 1;
            }
            Work::Scrub(_) => self.scrub_stopped(),
            Work::Move(_) => self.upkeep.moving_bytes = 0,
            Work::Pages(_) | Work::Log(_) | Work::File(_) => {}
        }
        self.upkeep.due = true;
    }

    /// The layers of a segment are replaced from outside: its own work on them is void.
    pub(crate) fn cancel_background(&mut self, id: SegmentId) {
        for job in self.reads.cancel_background(id) {
            self.clean_up(&job);
            self.background_ended(&job);
        }
    }

    /// Work on a segment was cancelled: whatever it wrote is garbage.
    pub(crate) fn cancel_work(&mut self, id: SegmentId) {
        for job in self.reads.cancel_segment(id) {
            match job.owner {
                crate::jobs::Owner::Node => {
                    self.clean_up(&job);
                    self.background_ended(&job);
                }
                crate::jobs::Owner::Stream(_, stream) => {
                    let refusal = self.why_not(id);
                    self.refuse(stream, refusal);
                }
            }
        }
    }

    /// A catalog is durable: files that it does not name go.
    pub(crate) fn layers_gone(&mut self, id: SegmentId, gone: &[(LayerNumber, bool)]) {
        for (layer, was_damaged) in gone {
            self.layer_cache.forget(id, *layer);
            let file = FileName::Layer(id, *layer);
            self.actions.push_back(if *was_damaged {
                Action::SetAside { file }
            } else {
                Action::Delete { file }
            });
        }
        self.upkeep.due = true;
    }

    // Hot-log files.

    /// Frees the oldest files of the hot log that nobody needs.
    fn trim(&mut self) {
        while let Some(file) = self.log.oldest_spare() {
            let is_tight =
                self.log.is_full() || self.log.files_bytes() > self.bounds.log_bytes_max / 2;
            let window = self.log.files_bytes() > self.bounds.log_window_bytes;
            let Some(pinned) = self.pinned(file, is_tight || window) else {
                return;
            };
            if !pinned.is_empty() {
                if is_tight || window {
                    self.unpin(&pinned);
                }
                return;
            }
            self.free_file(file);
        }
    }

    /// What pins a file, as far as it is worth knowing; `None` when the file is kept for a while in any case. `must_go` says that
    /// it is not.
    fn pinned(&self, file: FileNumber, must_go: bool) -> Option<Vec<(SegmentId, BatchId)>> {
        let mut pinned = Vec::new();
        for segment in self.segments.values() {
            let retention = Duration::from_millis(segment.manifest.parameters.retention_ms);
            let keep = self.bounds.log_window.max(retention);
            for (batch, held) in segment.chain.in_file(file) {
                if !must_go && !segment.retention.is_older(held.unix_ms, keep) {
                    return None;
                }
                if segment.is_folded(held) || planted(Mutant::TrimUnfolded) {
                    continue;
                }
                pinned.push((segment.id, batch));
                if !must_go || pinned.len() >= PINNED_MAX {
                    return Some(pinned);
                }
            }
        }
        Some(pinned)
    }

    /// What pins a file is frozen where it can be, and written again where it cannot.
    fn unpin(&mut self, pinned: &[(SegmentId, BatchId)]) {
        let mut moves: BTreeMap<SegmentId, Vec<BatchId>> = BTreeMap::new();
        let mut bytes = self.upkeep.moving_bytes;
        for (id, batch) in pinned {
            let segment = self.segments.get_mut(id).expect("listed just now");
            let held = segment.chain.get(*batch);
            if segment.is_freezable(held) {
                segment.freeze_wanted = true;
                continue;
            }
            if self.upkeep.is_moving(*id, *batch) || held.bad || bytes > MOVE_BYTES_MAX {
                continue;
            }
            bytes += held.bytes as usize;
            moves.entry(*id).or_default().push(*batch);
        }
        if self.upkeep.moving_bytes > 0 || !self.upkeep.moving.is_empty() || self.log.is_busy() {
            return;
        }
        for (id, batches) in moves {
            self.upkeep.moving_bytes = bytes;
            let work = Work::Move(MoveWork { batches });
            self.start_background(id, work);
        }
    }

    /// Batches of a file that must go are written again at the tail.
    pub(crate) fn move_batches(&mut self, job: &Job) {
        let Work::Move(work) = &job.work else {
            unreachable!("called for a move");
        };
        for batch in &work.batches {
            let Some(segment) = self.segments.get(&job.segment) else {
                break;
            };
            let Some(held) = segment.chain.find_held(*batch) else {
                continue;
            };
            let bytes = held
                .resident
                .as_ref()
                .or_else(|| job.fetched.batches.get(batch));
            let Some(bytes) = bytes.map(|batch| batch.bytes().clone()) else {
                continue;
            };
            self.write_again(job.segment, *batch, bytes);
        }
    }

    /// Writes a batch that is held once more; the copy counts when it is durable.
    pub(crate) fn write_again(&mut self, id: SegmentId, batch: BatchId, bytes: bytes::Bytes) {
        let entry = Entry::Batch { segment: id, bytes };
        if let Ok(ticket) = self.log.append_reserved(entry) {
            self.upkeep.moving.insert(ticket, (id, batch));
            self.upkeep.moved_batches += 1;
        }
    }

    /// The copy of a batch is durable.
    pub(crate) fn batch_moved(&mut self, id: SegmentId, batch: BatchId, place: Place) {
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.chain.set_moved(batch, place);
            segment.parts_generation += 1;
        }
        self.upkeep.due = true;
    }

    fn free_file(&mut self, file: FileNumber) {
        for segment in self.segments.values_mut() {
            let gone: Vec<BatchId> = segment
                .chain
                .in_file(file)
                .map(|(batch, _)| batch)
                .collect();
            if gone.is_empty() {
                continue;
            }
            for batch in gone {
                segment.chain.forget(batch, &segment.history);
                segment.doubts.remove(&Part::Batch(batch));
            }
            segment.parts_generation += 1;
        }
        self.log.freed(file);
        self.upkeep.files_freed += 1;
    }

    /// Layer files that no catalog names are garbage of a crash; files that one names and that are not there are damage.
    /// After damage of the hot log they are set aside: it may be their catalog that was lost.
    pub(crate) fn check_layer_files(
        &mut self,
        found: Vec<(SegmentId, LayerNumber, u64)>,
        is_log_damaged: bool,
    ) {
        let mut there: BTreeMap<(SegmentId, LayerNumber), u64> = BTreeMap::new();
        for (id, layer, bytes) in found {
            let segment = self.segments.get_mut(&id);
            let named = segment.is_some_and(|segment| {
                segment.layers.saw_file(layer);
                segment.layers.layer(layer).is_some()
            });
            if named {
                there.insert((id, layer), bytes);
            } else {
                let file = FileName::Layer(id, layer);
                self.actions.push_back(if is_log_damaged {
                    Action::SetAside { file }
                } else {
                    Action::Delete { file }
                });
            }
        }
        let mut lost = Vec::new();
        for segment in self.segments.values_mut() {
            for layer in &segment.layers.catalog().layers {
                let bytes = there.get(&(segment.id, layer.number)).copied();
                if bytes.is_none_or(|bytes| bytes < layer.summary.file_bytes) {
                    lost.push((segment.id, layer.number));
                }
            }
        }
        for (id, layer) in lost {
            self.log_line(
                Severity::Error,
                format!("segment {id}: layer {layer} is missing or too short"),
            );
            if let Some(segment) = self.segments.get_mut(&id) {
                segment.bad_layers.insert(layer);
            }
        }
    }
}

/// Batches that are written again.
#[derive(Debug)]
pub(crate) struct MoveWork {
    pub(crate) batches: Vec<BatchId>,
}

impl MoveWork {
    /// Reads what is not in memory.
    pub(crate) fn step(&mut self, segment: &Segment, fetched: &Fetched) -> BackgroundStep {
        let chain = &segment.chain;
        self.batches.retain(|id| chain.find_held(*id).is_some());
        let missing = self
            .batches
            .iter()
            .filter(|id| chain.get(**id).resident.is_none() && !fetched.batches.contains_key(id));
        let missing: Vec<Located> = missing.map(|id| Located::batch(chain, *id)).collect();
        if missing.is_empty() {
            BackgroundStep::End
        } else {
            BackgroundStep::Fetch(missing)
        }
    }
}
