//! Hot-log files that nobody needs any more: which may go, and what pins those that must.
//!
//! What pins a file is frozen where it can be, and written again at the tail where it cannot (F7).

use std::collections::BTreeMap;
use std::time::Duration;

use sixfold_log_format::SegmentId;
use sixfold_log_format::hot_log::{Entry, FileNumber};
use sixfold_log_format::mutant::{Mutant, planted};

use crate::bounds::{MOVE_BYTES_MAX, PINNED_MAX};
use crate::chain::BatchId;
use crate::hot_log::Place;
use crate::jobs::{BackgroundStep, Job, Work};
use crate::node::NodeCore;
use crate::parts::{Fetched, Located, Part};
use crate::segment::Segment;

impl NodeCore {
    /// Frees the oldest files of the hot log that nobody needs.
    pub(crate) fn trim(&mut self) {
        let needed = self.segments.values_mut().filter_map(Segment::first_needed);
        self.log.set_needed(needed.min());
        while let Some(file) = self.log.oldest_spare() {
            let is_tight = self.log.is_full()
                || self.log.files_bytes() > self.bounds.log_bytes_max / 2
                || self.chain_bytes() > self.bounds.index_bytes_max;
            let window = self.log.files_bytes() > self.bounds.log_window_bytes;
            if self.older.holds(file) {
                // Nobody knows yet which batches it holds.
                if !is_tight && !window {
                    return;
                }
                self.older.forget(file);
            }
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

    /// Bytes of memory that say which batches are held: small ones are many, and each takes as much as a large one.
    fn chain_bytes(&self) -> usize {
        let chains = self.segments.values().map(|segment| &segment.chain);
        chains.map(crate::chain::Chain::memory_bytes).sum()
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
        // On a full disk no copy takes the room of a claim.
        let room = self.log.copies_room();
        for (id, batch) in pinned {
            let segment = self.segments.get_mut(id).expect("listed just now");
            let held = segment.chain.get(*batch);
            if segment.is_freezable(held) {
                segment.freeze_wanted = true;
                continue;
            }
            let is_too_much =
                bytes > MOVE_BYTES_MAX || (bytes as u64 + u64::from(held.bytes)) > room;
            if self.upkeep.is_moving(*id, *batch) || segment.chain.is_bad(held) || is_too_much {
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
            // What was damaged is whole again when its copy is durable, and not before.
            self.scrub.healed += u64::from(segment.is_bad(Part::Batch(batch)));
            segment.chain.set_moved(batch, place);
            segment.parts_generation += 1;
        }
        self.upkeep.look();
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
            segment.chain.forget_front();
            segment.parts_generation += 1;
        }
        self.log.freed(file);
        self.upkeep.files_freed += 1;
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
