//! Sealed batches of one protection group, kept until they are within PGCL (R15): only segments beyond the write quorum are
//! ever left to gossip. The newest of those within it are kept too, a few megabytes: a segment that attaches a moment later
//! than the first four, or was away for one, then needs no gossip, and is no hole in the quorum when another one fails.

use std::collections::VecDeque;

use bytes::Bytes;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Batch, Lsn};

/// Batches within PGCL that are kept for segments that come late, bytes.
const WITHIN_PGCL_BYTES_MAX: usize = 4 << 20;

/// A sealed batch, encoded once.
#[derive(Debug, Clone)]
pub(crate) struct Retained {
    /// Its back-link.
    prev: Lsn,
    /// LSN of its last record.
    pub(crate) last: Lsn,
    /// Its bytes.
    pub(crate) bytes: Bytes,
}

/// The batches above PGCL and the newest ones below, in order.
#[derive(Debug, Default)]
pub(crate) struct RetainedBatches {
    batches: VecDeque<Retained>,
    /// How many at the front are within PGCL.
    within_count: usize,
    within_bytes: usize,
    above_bytes: usize,
}

impl RetainedBatches {
    /// Keeps a batch.
    ///
    /// # Panics
    /// When it does not follow the last one.
    pub(crate) fn push(&mut self, batch: &Batch) {
        let last = batch.header().last;
        assert!(
            self.batches
                .back()
                .is_none_or(|before| before.last == batch.header().prev)
        );
        self.above_bytes += batch.bytes().len();
        self.batches.push_back(Retained {
            prev: batch.header().prev,
            last,
            bytes: batch.bytes().clone(),
        });
    }

    /// The first batch that holds something above `lsn`.
    pub(crate) fn after(&self, lsn: Lsn) -> Option<&Retained> {
        // Shippers stand near the end most of the time.
        if self.batches.back().is_none_or(|newest| newest.last <= lsn) {
            return None;
        }
        self.batches
            .get(self.batches.partition_point(|batch| batch.last <= lsn))
    }

    /// Whether what is kept begins at or below the batch that follows `scl`.
    pub(crate) fn reaches(&self, scl: Lsn) -> bool {
        self.batches
            .front()
            .is_some_and(|oldest| oldest.prev <= scl)
    }

    /// PGCL moved: what is within it may go, the oldest first.
    pub(crate) fn release_through(&mut self, pgcl: Lsn) {
        while let Some(batch) = self.batches.get(self.within_count)
            && batch.last <= pgcl
        {
            self.above_bytes -= batch.bytes.len();
            self.within_bytes += batch.bytes.len();
            self.within_count += 1;
        }
        let within_bytes_max = if planted(Mutant::BatchDroppedEarly) {
            0
        } else {
            WITHIN_PGCL_BYTES_MAX
        };
        while self.within_bytes > within_bytes_max
            && let Some(oldest) = self.batches.pop_front()
        {
            self.within_bytes -= oldest.bytes.len();
            self.within_count -= 1;
        }
    }

    /// Bytes sealed and without their write quorum.
    pub(crate) fn above_pgcl_bytes(&self) -> usize {
        self.above_bytes
    }
}
