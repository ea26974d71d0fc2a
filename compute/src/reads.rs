//! What a transaction has read, for validation at its commit: keys, the consumed parts of ranges, and the earliest deadline
//! among the values that it saw (T5).

use std::collections::BTreeSet;

use bytes::Bytes;
use sixfold_compute_core::ReadRange;
use sixfold_log_format::limits::{OPERATION_OVERHEAD_BYTES, TRANSACTION_BYTES_MAX};

use crate::error::Error;

/// What a transaction has read: stored keys, bounded as what it writes is.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(crate) keys: BTreeSet<Bytes>,
    pub(crate) ranges: Vec<ReadRange>,
    pub(crate) earliest_deadline_ms: Option<u64>,
    bytes: usize,
}

/// Where a range stands in the list of ranges that its transaction has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadRangeSlot(usize);

impl Reads {
    /// About what they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes a key, present or absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it has read too much.
    pub(crate) fn note_key(&mut self, key: &Bytes) -> Result<(), Error> {
        if !self.keys.contains(key) {
            self.charge(key.len())?;
            self.keys.insert(key.clone());
        }
        Ok(())
    }

    /// Notes what a range has read: a new entry, or more of the one in `slot`.
    ///
    /// # Errors
    /// As [`Reads::note_key`].
    pub(crate) fn note_range(
        &mut self,
        slot: Option<ReadRangeSlot>,
        range: ReadRange,
    ) -> Result<ReadRangeSlot, Error> {
        if let Some(slot) = slot {
            self.ranges[slot.0] = range;
            return Ok(slot);
        }
        self.charge(range.start.len() + range.end.as_ref().map_or(0, Bytes::len))?;
        self.ranges.push(range);
        Ok(ReadRangeSlot(self.ranges.len() - 1))
    }

    /// A value with this deadline was seen.
    pub(crate) fn note_deadline(&mut self, deadline_ms: Option<u64>) {
        if let Some(deadline_ms) = deadline_ms {
            let earliest = self.earliest_deadline_ms.get_or_insert(deadline_ms);
            *earliest = deadline_ms.min(*earliest);
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Error> {
        let total = self.bytes + bytes + OPERATION_OVERHEAD_BYTES;
        if total > TRANSACTION_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the transaction has read {total} bytes of keys, {TRANSACTION_BYTES_MAX} at most"
            )));
        }
        self.bytes = total;
        Ok(())
    }
}

#[cfg(test)]
#[path = "reads_tests.rs"]
mod reads_tests;
