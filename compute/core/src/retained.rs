//! Sealed batches of one protection group, kept until they are within PGCL (R15): only segments beyond the write quorum are
//! ever left to gossip.

use std::collections::VecDeque;

use bytes::Bytes;
use sixfold_log_format::{Batch, Lsn};

/// A sealed batch, encoded once.
#[derive(Debug, Clone)]
pub(crate) struct Retained {
    /// LSN of its last record.
    pub(crate) last: Lsn,
    /// Its bytes.
    pub(crate) bytes: Bytes,
}

/// The batches above PGCL, in order.
#[derive(Debug, Default)]
pub(crate) struct RetainedBatches {
    batches: VecDeque<Retained>,
    total_bytes: usize,
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
        self.total_bytes += batch.bytes().len();
        self.batches.push_back(Retained {
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

    /// Lets go of what is within PGCL.
    pub(crate) fn release_through(&mut self, pgcl: Lsn) {
        while let Some(batch) = self.batches.pop_front_if(|batch| batch.last <= pgcl) {
            self.total_bytes -= batch.bytes.len();
        }
    }

    /// Bytes kept: sealed and without their write quorum.
    pub(crate) fn total_bytes(&self) -> usize {
        self.total_bytes
    }
}
