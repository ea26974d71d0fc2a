//! Room for catalogs at the heads of hot-log files.
//!
//! The states of all segments stand at the head of every hot-log file, each with its catalog (F6): a quarter of a file is for catalogs.
//! What a freeze, a merge or a copy ends in is judged where it is published, and early where it is clear that it will not fit: only then is it
//! known how many layers it has. Room is reserved for the longest catalog that a segment may have at the head of the next file: the durable one,
//! the one on its way to the disk, the one that a copy ends in.
//!
//! ```text
//!   more than half of the room    -> runs are merged, short layers joined into longer ones
//!   a catalog that does not fit   -> its layers are dropped, and the next ones are four times as long ("squeezed")
//!   less than a quarter           -> layers become shorter again, step by step
//! ```
//! A catalog that names no more layers than the one before is always taken.

use std::time::Duration;

use sixfold_log_format::SegmentId;
use sixfold_log_format::layer::{CATALOG_LAYER_BYTES, CATALOG_LAYERS_MAX, LAYER_BYTES_MAX};
use sixfold_log_format::mutant::{Mutant, planted};

use crate::action::Severity;
use crate::jobs::{Job, Work};
use crate::node::NodeCore;
use crate::segment::Segment;

/// How much longer layers become while catalogs crowd the heads of hot-log files.
const CROWDED_LAYER_FACTOR: u64 = 16;

/// How much longer each squeeze makes them.
const SQUEEZE_FACTOR: u64 = 4;

/// Pause before a segment is frozen or merged again for whose catalog there was no room, however long its layers: merges of others
/// make some meanwhile.
const ROOM_RETRY: Duration = Duration::from_millis(200);

impl NodeCore {
    /// Layers that all catalogs together may name.
    fn layers_max_of_all(&self) -> usize {
        self.log.heads_bytes_max() / CATALOG_LAYER_BYTES
    }

    /// Layers that one catalog may name: half of all, so that a peer that copies it has room for it beside others, and half of what a catalog holds.
    pub(super) fn layers_max(&self) -> usize {
        (CATALOG_LAYERS_MAX / 2).min(self.layers_max_of_all() / 2)
    }

    /// Layers of the longest catalog that this segment may have at the head of the next file.
    fn layers_reserved(&self, segment: &Segment) -> usize {
        let held = segment.layers.catalog().layers.len();
        let on_its_way = segment.publishing.filter(|_| self.is_publishing(segment));
        let copied = segment.copy.as_ref().map_or(0, |copy| copy.layer_count());
        held.max(on_its_way.map_or(0, |(_, count)| count))
            .max(copied)
    }

    fn layers_reserved_by_all(&self) -> usize {
        let segments = self.segments.values();
        segments.map(|segment| self.layers_reserved(segment)).sum()
    }

    /// Whether so many more layers fit.
    pub(super) fn has_room_for_layers(&self, count: usize) -> bool {
        self.layers_reserved_by_all() + count <= self.layers_max_of_all()
    }

    /// Whether a catalog of so many layers may take the place of this segment's.
    pub(crate) fn has_room_for_catalog(&self, id: SegmentId, count: usize) -> bool {
        let segment = &self.segments[&id];
        let held = segment.layers.catalog().layers.len();
        if count <= held || planted(Mutant::HeadsOvergrown) {
            return count <= CATALOG_LAYERS_MAX;
        }
        let others = self.layers_reserved_by_all() - self.layers_reserved(segment);
        count <= self.layers_max() && others + count <= self.layers_max_of_all()
    }

    /// Whether there would be room for the catalog of a freeze or a merge if it were published with the layers that it has written, the one
    /// that is about to be synced among them.
    pub(crate) fn has_room_for_output(&self, job: &Job) -> bool {
        let (gone, output) = match &job.work {
            Work::Freeze(freeze) => (0, &freeze.output),
            Work::Merge(merge) => (merge.gone.len(), &merge.output),
            Work::Pages(_) | Work::Log(_) | Work::File(_) | Work::Scrub(_) | Work::Move(_) => {
                return true;
            }
        };
        let held = self.segments[&job.segment].layers.catalog().layers.len();
        self.has_room_for_catalog(
            job.segment,
            held.saturating_sub(gone) + output.done.len() + 1,
        )
    }

    /// Whether catalogs take more than half of their room: then layers are joined into fewer, longer ones.
    pub(super) fn is_crowded_with_layers(&self) -> bool {
        self.layers_reserved_by_all() > self.layers_max_of_all() / 2
    }

    /// Whether a segment has so many layers that it soon cannot be frozen any more: they are joined into fewer, longer ones before.
    pub(super) fn is_crowded_by(&self, segment: &Segment) -> bool {
        segment.layers.catalog().layers.len() * 4 > self.layers_max() * 3
    }

    /// How long a layer of this segment becomes that is written now, bytes, about.
    pub(super) fn layer_bytes_wanted(&self, segment: &Segment) -> u64 {
        let crowded = self.is_crowded_with_layers() || self.is_crowded_by(segment);
        let factor = if crowded { CROWDED_LAYER_FACTOR } else { 1 };
        let squeezed = SQUEEZE_FACTOR.saturating_pow(self.upkeep.squeezes);
        let bytes = self.bounds.layer_bytes_max.saturating_mul(factor);
        bytes.saturating_mul(squeezed).min(LAYER_BYTES_MAX / 4)
    }

    /// Whether its layers would be far fewer if they were written again now: they were written, or copied, when they were to be short.
    pub(super) fn has_short_layers(&self, segment: &Segment) -> bool {
        let catalog = segment.layers.catalog();
        let count = catalog.layers.len() as u64;
        count > 1 && catalog.file_bytes() / count < self.layer_bytes_wanted(segment) / 4
    }

    /// There was no room for a catalog: layers become longer. False where they are as long as they may be.
    pub(crate) fn squeeze_layers(&mut self) -> bool {
        let shortest = self.bounds.layer_bytes_max;
        let factor = SQUEEZE_FACTOR.saturating_pow(self.upkeep.squeezes);
        let may_grow = shortest.saturating_mul(factor) < LAYER_BYTES_MAX / 4;
        self.upkeep.squeezes += u32::from(may_grow);
        self.upkeep.look();
        may_grow
    }

    /// Layers become shorter again, a step, when catalogs take less than a quarter of their room.
    pub(super) fn ease_layers(&mut self) {
        if self.layers_reserved_by_all() <= self.layers_max_of_all() / 4 {
            self.upkeep.squeezes = self.upkeep.squeezes.saturating_sub(1);
        }
    }

    /// A freeze or a merge has more layers than there is room for: it ends, and its layers are garbage.
    pub(crate) fn drop_for_room(&mut self, job: &Job) {
        self.log_line(
            Severity::Info,
            format!(
                "segment {}: its catalog does not fit the head of a hot-log file, its layers become longer",
                job.segment
            ),
        );
        self.clean_up(job);
        // With longer layers it may fit at once. Else only merges of others help, which take their time.
        if !self.squeeze_layers() {
            self.upkeep.pause_until(job.segment, self.now + ROOM_RETRY);
        }
        self.background_ended(job);
    }
}
