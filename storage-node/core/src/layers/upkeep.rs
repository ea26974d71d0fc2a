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
use std::ops::Range;
use std::time::Duration;

use sixfold_log_format::hot_log::Entry;
use sixfold_log_format::layer::LayerNumber;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, PageId, SegmentId};

use super::compose::{ChainBound, Depth};
use super::freeze::FreezeWork;
use super::merge::{MergeWork, choose};
use super::output::Output;
use super::rate::Lanes;
use super::set::Run;
use crate::action::{Action, FileName, Severity};
use crate::bounds::{CHECK_REDO_BYTES, FULL_RETRY, SWEEP_ENTRIES};
use crate::chain::BatchId;
use crate::hot_log::Ticket;
use crate::jobs::{Job, Work};
use crate::node::NodeCore;
use crate::numbers::HorizonHolder;
use crate::parts::Part;
use crate::segment::Segment;

/// Pause before something that could not be published is tried again.
const PUBLISH_RETRY: Duration = Duration::from_millis(2);

/// Pause before a freeze or a merge that came upon damage is begun again.
const DAMAGE_RETRY: Duration = Duration::from_secs(1);

/// Freezes that what may wait is taken in, at least.
const FREEZES_IN_BOUND: u64 = 4;

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
    pub(super) waiting: Lanes<u64>,
    no_space_until: Option<Duration>,
    /// Segments whose freeze or merge came upon damage, or found no room for its catalog: until then nothing of them is begun again.
    paused: BTreeMap<SegmentId, Duration>,
    no_space: bool,
    /// Room that the shell found last; `None` while it has said nothing.
    free_bytes: Option<u64>,
    /// A merge waits for room, and that was said.
    lacks_room: bool,
    /// See [`super::heads`].
    pub(super) squeezes: u32,
    /// Batches that are written again, by the ticket of the copy.
    pub(super) moving: BTreeMap<Ticket, (SegmentId, BatchId)>,
    pub(super) moving_bytes: usize,
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

    /// The file system has so much room.
    pub(crate) fn saw_space(&mut self, free_bytes: u64) {
        self.free_bytes = Some(free_bytes);
    }

    /// Whether a freeze is under way.
    pub(super) fn is_freezing(&self) -> bool {
        self.freezing.is_some()
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
        self.pause_until(segment, now + DAMAGE_RETRY);
    }

    /// Nothing of this segment is begun before then.
    pub(super) fn pause_until(&mut self, segment: SegmentId, until: Duration) {
        self.paused.insert(segment, until);
    }

    /// When something that waits goes on.
    fn next_wake(&self) -> Option<Duration> {
        let paused = self.paused.values().copied();
        self.no_space_until.into_iter().chain(paused).min()
    }

    /// What waits goes on when its time has come: else the timeout would stay due, and nobody would act on it.
    pub(crate) fn wake(&mut self, now: Duration) {
        self.due |= self.next_wake().is_some_and(|until| until <= now);
    }

    /// The copy of a batch is durable: whose it is.
    pub(crate) fn take_moved(&mut self, ticket: Ticket) -> Option<(SegmentId, BatchId)> {
        self.moving.remove(&ticket)
    }

    pub(super) fn is_moving(&self, segment: SegmentId, batch: BatchId) -> bool {
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
            let doubted = self.chain.is_bad(held) || self.doubts.contains_key(&Part::Batch(*batch));
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

    /// What keeps the horizon where it is, for status.
    pub(crate) fn horizon_holder(&self, now: Duration) -> HorizonHolder {
        if self.guard.claim != self.history_epoch() || self.guard != self.durable_guard {
            return HorizonHolder::Claim;
        }
        self.retention.holder(now, &self.manifest.parameters)
    }
}

impl NodeCore {
    /// Looks what is due, when something changed.
    pub(crate) fn keep_up(&mut self, now: Duration) {
        if !std::mem::take(&mut self.upkeep.due) {
            return;
        }
        self.upkeep.redo_since = 0;
        self.upkeep.paused.retain(|_, until| now < *until);
        for segment in self.segments.values_mut() {
            segment.retention.pass(&segment.manifest.parameters);
        }
        self.trim();
        self.pressed = self.is_pressed();
        self.at_bound = self.is_at_bound();
        self.upkeep.waiting = self.waiting();
        if self.upkeep.no_space_until.is_some_and(|until| now < until) {
            return;
        }
        self.upkeep.no_space_until = None;
        if self.upkeep.freezing.is_none() {
            self.start_freeze(now);
        }
        if self.upkeep.merging.is_none() {
            self.start_merge(now);
        }
    }

    /// When something that waits goes on.
    pub(crate) fn upkeep_timeout(&self) -> Option<Duration> {
        let unswept = self
            .segments
            .values()
            .any(|segment| !segment.index.is_swept());
        unswept.then_some(self.now).or(self.upkeep.next_wake())
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
        let publishing = segment.publishing;
        publishing.is_some_and(|(ticket, _)| ticket > self.log.durable())
    }

    /// Whether a batch of this segment is refused so that no bound breaks: any at a bound, and near one those of a segment that takes
    /// more than half of it, so that there is room left for others.
    pub(crate) fn is_crowded(&self, segment: &Segment) -> bool {
        let is_alone = self.segments.len() == 1;
        let hogs = segment.unfolded_bytes > self.bounds.unfolded_bytes_max / 2
            || segment.index.memory_bytes() > self.bounds.index_bytes_max / 2;
        let waits = segment.pending_bytes > self.bounds.queued_bytes_max / 4 * 3;
        self.at_bound || self.pressed && hogs && !is_alone || waits
    }

    /// Whether its batches are refused because the disk is full: for the hot log, or for layers that would move a bound away.
    pub(crate) fn is_full_for(&self, segment: &Segment) -> bool {
        let lacks = self.log.is_full() || self.upkeep.no_space || self.upkeep.lacks_room;
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
        let layer_bytes = self.layer_bytes_wanted(segment);
        Output::new(owner, range, self.block_bytes, layer_bytes)
    }

    /// Starts the freeze that is due most, if one is.
    fn start_freeze(&mut self, now: Duration) {
        let near = self.index_bytes() > self.bounds.index_bytes_max / 2
            || self.unfolded_bytes() > self.bounds.unfolded_bytes_max / 2
            || self.log.files_bytes() > self.bounds.log_bytes_max / 2;
        let layers_max = self.layers_max();
        // One makes room before what comes meanwhile needs it.
        let shares = self.bounds.unfolded_bytes_max / FREEZES_IN_BOUND;
        let freeze_bytes_max = self.bounds.freeze_bytes_max.min(shares);
        let has_room = self.has_room_for_layers(1);
        // A page of redo that is neither in a layer nor in memory is read from the disk record by record.
        let cold = self.unfolded_bytes() > self.bounds.resident_redo_bytes_max as u64;
        let is_due = |segment: &&Segment| {
            let long = segment.index.longest_chain() > self.bounds.memory_chain_records_max;
            let dear =
                (long || cold) && segment.unfolded_bytes >= self.bounds.freeze_bytes_max / 16;
            let asked = near || segment.freeze_wanted || dear;
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
                freeze_bytes_max,
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
        let mut due: Vec<(usize, SegmentId, Range<usize>)> = self
            .segments
            .values()
            .filter(|segment| !self.is_publishing(segment))
            // A copy counts on the layers that were here when it began.
            .filter(|segment| segment.copy.is_none() && segment.has_whole_layers())
            .filter(|segment| !self.upkeep.paused.contains_key(&segment.id))
            .filter_map(|segment| {
                let crowded = crowded || self.is_crowded_by(segment);
                let runs = segment.layers.runs();
                let shorten =
                    || (crowded && self.has_short_layers(segment)).then_some(0..runs.len());
                let range = choose(runs, runs_max, crowded).or_else(shorten)?;
                Some((segment.layers.runs().len(), segment.id, range))
            })
            .collect();
        if due.is_empty() {
            return;
        }
        due.sort_by_key(|(count, id, _)| (*count, *id));
        // The one with the most runs first; where the disk has no room for it, another one.
        let mut fits = due.iter().rev().filter_map(|(_, id, range)| {
            let range = self.with_room_for(*id, range.clone())?;
            Some((*id, range))
        });
        let begun = fits.next();
        let lacks_room = begun.is_none();
        let lacked_room = std::mem::replace(&mut self.upkeep.lacks_room, lacks_room);
        let Some((id, range)) = begun else {
            if let Some((_, id, range)) = due.last().filter(|_| !lacked_room) {
                self.say_lack_of_room(*id, range.clone());
            }
            return;
        };
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
        let mut work = MergeWork::new(segment, runs, is_bottom, horizon, bound, output);
        work.keeps_layers = is_bottom && !crowded && !self.is_crowded_by(segment);
        self.upkeep.merging = Some(id);
        self.start_background(id, Work::Merge(Box::new(work)));
    }

    /// As many of these runs, the newest ones, as the disk has room to write again while the old ones are there still, beside two
    /// hot-log files: what a merge takes in between must never be what fills the disk. `None` when there are not two of them.
    fn with_room_for(&self, id: SegmentId, mut range: Range<usize>) -> Option<Range<usize>> {
        let room = self.merge_room();
        let runs = self.segments[&id].layers.runs();
        let bytes = |range: &Range<usize>| runs[range.clone()].iter().map(Run::bytes).sum::<u64>();
        let wanted = bytes(&range);
        while range.len() > 1 && bytes(&range) > room {
            range.start += 1;
        }
        // One run is written again alone only where its layers are to be fewer.
        let lacks_room = bytes(&range) > room || range.len() < 2 && wanted > room;
        (!lacks_room).then_some(range)
    }

    /// What a merge may take of the disk in between, bytes.
    fn merge_room(&self) -> u64 {
        let free_bytes = self.upkeep.free_bytes.unwrap_or(u64::MAX);
        free_bytes.saturating_sub(2 * self.log.file_bytes())
    }

    fn say_lack_of_room(&mut self, id: SegmentId, range: Range<usize>) {
        let room = self.merge_room();
        let runs = &self.segments[&id].layers.runs()[range];
        let wanted: u64 = runs.iter().map(Run::bytes).sum();
        self.log_line(
            Severity::Warning,
            format!(
                "segment {id}: a merge of {wanted} bytes waits for room, {room} bytes are free"
            ),
        );
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
        let layer_count = catalog.layers.len();
        if !self.has_room_for_catalog(id, layer_count) {
            return self.drop_for_room(&job);
        }
        let entry = Entry::Catalog {
            segment: id,
            catalog,
        };
        match self.append(entry) {
            Ok(ticket) => {
                let segment = self.segments.get_mut(&id).expect("looked at just now");
                segment.publishing = Some((ticket, layer_count));
                self.upkeep.no_space = false;
                self.ease_layers();
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
