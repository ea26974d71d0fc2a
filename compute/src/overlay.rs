//! What a transaction has written and not committed: the last word on each key, cleared ranges, and what they weigh.

use std::ops::Bound;

use bytes::Bytes;
use sixfold_compute_core::{KeyWrite, WriteSet, WriteValue};
use sixfold_kv::Modify;
use sixfold_log_format::limits::OPERATION_OVERHEAD_BYTES;

use crate::error::Error;
use crate::range::Bounds;

/// Writes over stored keys, bounded in bytes.
#[derive(Debug)]
pub(crate) struct Overlay {
    writes: WriteSet,
    bytes: usize,
    bytes_max: usize,
}

/// What a transaction itself says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Own {
    /// It holds this.
    Value(Bytes),
    /// It is absent.
    Absent,
    /// It is what is stored, changed like this.
    Modified(Vec<Modify>),
}

/// What a transaction says of a range, as of one call.
#[derive(Debug, Default)]
pub(crate) struct OwnRange {
    /// Its words on single keys, ascending.
    pub(crate) keys: Vec<(Bytes, Own)>,
    /// Half-open ranges of which nothing that is stored is seen, ascending and disjoint.
    pub(crate) clears: Vec<(Bytes, Bytes)>,
}

impl Overlay {
    /// Nothing yet; at most `bytes_max` ever.
    pub(crate) fn new(bytes_max: usize) -> Overlay {
        Overlay {
            writes: WriteSet::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Keys, values and a fixed charge for each operation.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn take(&mut self) -> WriteSet {
        self.bytes = 0;
        std::mem::take(&mut self.writes)
    }

    /// # Errors
    /// [`Error::Invalid`] when it would grow too large; then nothing has changed.
    pub(crate) fn put(&mut self, key: Bytes, value: WriteValue) -> Result<(), Error> {
        let charge = key.len() + value.bytes.len() + OPERATION_OVERHEAD_BYTES;
        self.charge(&key, charge)?;
        self.writes.put(key, value);
        Ok(())
    }

    /// # Errors
    /// As [`Overlay::put`].
    pub(crate) fn delete(&mut self, key: Bytes) -> Result<(), Error> {
        let charge = key.len() + OPERATION_OVERHEAD_BYTES;
        self.charge(&key, charge)?;
        self.writes.delete(key);
        Ok(())
    }

    /// # Errors
    /// As [`Overlay::put`], and [`Error::Invalid`] when the transaction itself has put something that cannot be modified so.
    pub(crate) fn modify(&mut self, key: &Bytes, op: Modify) -> Result<(), Error> {
        let before = self.charged(key);
        let charge = before.max(key.len()) + OPERATION_OVERHEAD_BYTES;
        self.check(self.bytes - before + charge)?;
        self.writes
            .modify(key.clone(), op)
            .map_err(|error| Error::invalid(error.to_string()))?;
        self.bytes = self.bytes - before + self.charged(key);
        Ok(())
    }

    /// Clears a half-open range.
    ///
    /// # Errors
    /// As [`Overlay::put`].
    pub(crate) fn clear(&mut self, start: Bytes, end: Bytes) -> Result<(), Error> {
        let inside = self.writes.keys.range(start.clone()..end.clone());
        let dropped: usize = inside.map(|(key, write)| charge_of(key, write)).sum();
        // Charged for each call, also when it becomes one with an earlier one.
        let charge = start.len() + end.len() + OPERATION_OVERHEAD_BYTES;
        let total = self.bytes - dropped + charge;
        self.check(total)?;
        self.writes.clear(start, Some(end));
        self.bytes = total;
        Ok(())
    }

    /// What the transaction says of a key; `None` = nothing.
    pub(crate) fn own(&self, key: &[u8]) -> Option<Own> {
        if self.writes.is_empty() {
            return None;
        }
        match self.writes.keys.get(key) {
            Some(write) => Some(Own::from(write)),
            None => self.writes.is_cleared(key).then_some(Own::Absent),
        }
    }

    /// What the transaction says of a range; its bounds are not reversed.
    pub(crate) fn within(&self, bounds: &Bounds) -> OwnRange {
        if self.writes.is_empty() {
            return OwnRange::default();
        }
        let keys = self.writes.keys.range::<Bytes, _>(bounds.clone());
        let (lower, upper) = bounds;
        let is_before = |end: &Bytes| match lower {
            Bound::Unbounded => false,
            Bound::Included(lower) | Bound::Excluded(lower) => end <= lower,
        };
        let is_behind = |start: &Bytes| match upper {
            Bound::Unbounded => false,
            Bound::Included(upper) => start > upper,
            Bound::Excluded(upper) => start >= upper,
        };
        let clears = self.writes.clears.iter().filter_map(|(start, end)| {
            let end = end.as_ref().expect("a user's clear ends with its keyspace");
            (!is_before(end) && !is_behind(start)).then(|| (start.clone(), end.clone()))
        });
        OwnRange {
            keys: keys
                .map(|(key, write)| (key.clone(), Own::from(write)))
                .collect(),
            clears: clears.collect(),
        }
    }

    /// Replaces what is charged for a key.
    fn charge(&mut self, key: &[u8], charge: usize) -> Result<(), Error> {
        let total = self.bytes - self.charged(key) + charge;
        self.check(total)?;
        self.bytes = total;
        Ok(())
    }

    fn charged(&self, key: &[u8]) -> usize {
        let write = self.writes.keys.get_key_value(key);
        write.map_or(0, |(key, write)| charge_of(key, write))
    }

    fn check(&self, total: usize) -> Result<(), Error> {
        if total > self.bytes_max {
            return Err(Error::invalid(format!(
                "the transaction has {total} bytes, {} at most",
                self.bytes_max
            )));
        }
        Ok(())
    }
}

fn charge_of(key: &[u8], write: &KeyWrite) -> usize {
    let (bytes, operations) = match write {
        KeyWrite::Put(value) => (value.bytes.len(), 1),
        KeyWrite::Delete => (0, 1),
        KeyWrite::Modify(ops) => (0, ops.len()),
    };
    key.len() + bytes + operations * OPERATION_OVERHEAD_BYTES
}

impl From<&KeyWrite> for Own {
    fn from(write: &KeyWrite) -> Own {
        match write {
            KeyWrite::Put(value) => Own::Value(value.bytes.clone()),
            KeyWrite::Delete => Own::Absent,
            KeyWrite::Modify(ops) => Own::Modified(ops.clone()),
        }
    }
}

impl Own {
    /// The value, when `stored` is what the pages hold.
    ///
    /// # Errors
    /// [`Error::Invalid`] when what is stored cannot be modified so.
    pub(crate) fn over(&self, stored: Option<&Bytes>) -> Result<Option<Bytes>, Error> {
        match self {
            Own::Value(value) => Ok(Some(value.clone())),
            Own::Absent => Ok(None),
            Own::Modified(ops) => modified(ops, stored),
        }
    }
}

fn modified(ops: &[Modify], stored: Option<&Bytes>) -> Result<Option<Bytes>, Error> {
    let held = stored.map(|value| sixfold_kv::modify::number(value));
    let number = held
        .transpose()
        .and_then(|held| Modify::apply_all(ops, held));
    let number = number.map_err(|error| Error::invalid(error.to_string()))?;
    Ok(number.map(|number| Bytes::copy_from_slice(&number.to_le_bytes())))
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod overlay_tests;
