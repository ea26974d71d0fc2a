//! Transactions: reads at one point, writes in a buffer, conflicts found at the commit.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use sixfold_compute_core::{CommitRequest, ReadPoint, ReadRange, WriteSet, WriteValue};
use sixfold_log_format::Lsn;
use sixfold_log_format::limits::{
    OPERATION_OVERHEAD_BYTES, TRANSACTION_BYTES_MAX, VALUE_BYTES_MAX,
};

use crate::database::Inner;
use crate::driver::commands::Command;
use crate::error::Error;
use crate::range::{KeyRange, Range};
use crate::read;

/// A transaction: strictly serializable. Cheap to clone; clones are the same transaction, and may be used from many tasks
/// at once.
///
/// Reads see the volume as of [`Database::begin`](crate::Database::begin), and the transaction's own writes. Writes stay
/// in memory until [`Transaction::commit`]. Dropping the last clone without a commit drops them.
#[derive(Debug, Clone)]
pub struct Transaction {
    shared: Arc<TransactionState>,
}

/// A commit that is durable on a write quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitInfo {
    /// Its LSN: the version of everything that it put. For a transaction that wrote nothing, its read point.
    pub lsn: Lsn,
}

/// What the clones of a transaction, and its ranges, share.
#[derive(Debug)]
pub(crate) struct TransactionState {
    pub(crate) inner: Arc<Inner>,
    parts: Mutex<Parts>,
}

#[derive(Debug)]
struct Parts {
    /// `None` when the transaction has ended.
    point: Option<Arc<ReadPoint>>,
    writes: WriteSet,
    write_bytes: usize,
    reads: Reads,
}

/// What a transaction has read.
#[derive(Debug, Default)]
struct Reads {
    keys: BTreeSet<Bytes>,
    ranges: Vec<ReadRange>,
    bytes: usize,
}

/// Where a range stands in the list of ranges that its transaction has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadRangeSlot(usize);

impl Transaction {
    pub(crate) fn new(inner: Arc<Inner>, point: ReadPoint) -> Transaction {
        let parts = Parts {
            point: Some(Arc::new(point)),
            writes: WriteSet::new(),
            write_bytes: 0,
            reads: Reads::default(),
        };
        Transaction {
            shared: Arc::new(TransactionState {
                inner,
                parts: Mutex::new(parts),
            }),
        }
    }

    /// The read point: the transaction sees the commits at or below it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the transaction has ended.
    pub fn read_point(&self) -> Result<Lsn, Error> {
        Ok(self.shared.point()?.lsn())
    }

    /// The value of a key: the transaction's own, or the one as of its read point.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty or overlong key, or when the transaction has ended; [`Error::Unavailable`],
    /// [`Error::Fenced`], [`Error::Closed`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        Ok(self.get_versioned(key).await?.map(|(value, _)| value))
    }

    /// The value of a key and the LSN of the commit that put it; [`Lsn::NONE`] for a value that this transaction put.
    ///
    /// # Errors
    /// Those of [`Transaction::get`].
    pub async fn get_versioned(
        &self,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<(Bytes, Lsn)>, Error> {
        let key = read::own_key(key)?;
        let point = {
            let mut parts = self.shared.parts()?;
            if let Some(own) = parts.writes.get(&key) {
                return Ok(own.as_ref().map(|value| (value.bytes.clone(), Lsn::NONE)));
            }
            parts.reads.note_key(&key)?;
            parts.live_point()?
        };
        let found = read::get(&self.shared.inner, &point, &key).await?;
        Ok(found.map(|found| (found.value, found.stamp)))
    }

    /// Puts a value. It is seen by later reads of this transaction, and by others once it is committed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty or overlong key, a value above 1 MiB, a transaction that would grow above 64 MiB
    /// (64 bytes are charged an operation), or one that has ended.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        let value = value.as_ref();
        if value.len() > VALUE_BYTES_MAX {
            let len = value.len();
            return Err(Error::invalid(format!(
                "the value has {len} bytes, {VALUE_BYTES_MAX} at most"
            )));
        }
        self.write(
            key,
            Some(WriteValue {
                bytes: Bytes::copy_from_slice(value),
                deadline_ms: None,
            }),
        )
    }

    /// Deletes a key. No error when it is absent.
    ///
    /// # Errors
    /// [`Error::Invalid`], as for [`Transaction::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), Error> {
        self.write(key, None)
    }

    fn write(&self, key: impl AsRef<[u8]>, value: Option<WriteValue>) -> Result<(), Error> {
        let key = read::own_key(key)?;
        let mut parts = self.shared.parts()?;
        let before = parts
            .writes
            .get(&key)
            .map_or(0, |value| charge(&key, value.as_ref()));
        let total = parts.write_bytes - before + charge(&key, value.as_ref());
        if total > TRANSACTION_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the transaction has {total} bytes, {TRANSACTION_BYTES_MAX} at most"
            )));
        }
        parts.write_bytes = total;
        parts.writes.insert(key, value);
        Ok(())
    }

    /// The keys and values of a range, ascending, the transaction's own writes as of this call among them. What was
    /// consumed of it counts as read: a commit of somebody else that put a key there is a conflict, also when there was
    /// none before.
    pub fn range(&self, range: impl KeyRange) -> Range {
        Range::of_transaction(Arc::clone(&self.shared), range)
    }

    /// Commits: all of it or nothing. When this returns, everything that the transaction wrote is on disk at four of six
    /// storage nodes, and every later `begin` sees it.
    ///
    /// The transaction ends with this call, whatever comes of it. Dropping the future does not stop the commit: its
    /// outcome is then unknown (T10).
    ///
    /// # Errors
    /// [`Error::Conflict`] and [`Error::TooOld`]: run the transaction again. [`Error::Unavailable`], [`Error::Fenced`],
    /// [`Error::Full`]: nothing was written. [`Error::Unknown`]: it may have been.
    pub async fn commit(&self) -> Result<CommitInfo, Error> {
        let inner = &self.shared.inner;
        let (point, writes, reads) = {
            let mut parts = self.shared.parts()?;
            let point = parts.point.take().ok_or_else(ended)?;
            (
                point,
                std::mem::take(&mut parts.writes),
                std::mem::take(&mut parts.reads),
            )
        };
        let read_point = point.lsn();
        if writes.is_empty() {
            // It saw one state, which was the current one when it began: nothing is left to be checked.
            inner.state.check_open()?;
            return Ok(CommitInfo { lsn: read_point });
        }
        inner.state.check_writable()?;
        let request = CommitRequest {
            read_point,
            read_keys: reads.keys.into_iter().collect(),
            read_ranges: reads.ranges,
            writes,
            deadline: inner.commit_until(),
        };
        let answered = inner
            .send(|answer| Command::Commit {
                request,
                read_point: point,
                answer,
            })
            .await?;
        match answered.await {
            Ok(result) => Ok(CommitInfo { lsn: result? }),
            Err(_) => Err(Error::Unknown {
                reason: inner.state.gone().to_string(),
            }),
        }
    }

    /// Ends the transaction and drops its writes. Nothing happens when it has ended.
    pub fn rollback(&self) {
        let mut parts = self.shared.lock();
        parts.point = None;
        parts.writes = WriteSet::new();
        parts.reads = Reads::default();
    }
}

fn charge(key: &[u8], value: Option<&WriteValue>) -> usize {
    key.len() + value.map_or(0, |value| value.bytes.len()) + OPERATION_OVERHEAD_BYTES
}

fn ended() -> Error {
    Error::invalid("the transaction has ended")
}

impl TransactionState {
    fn lock(&self) -> MutexGuard<'_, Parts> {
        // Nothing panics while it is held but on a broken invariant, which may as well be seen twice.
        self.parts.lock().expect("no holder of this lock panics")
    }

    /// The parts of a transaction that has not ended.
    fn parts(&self) -> Result<MutexGuard<'_, Parts>, Error> {
        let parts = self.lock();
        if parts.point.is_none() {
            Err(ended())
        } else {
            Ok(parts)
        }
    }

    /// The read point of a transaction that has not ended.
    pub(crate) fn point(&self) -> Result<Arc<ReadPoint>, Error> {
        self.lock().live_point()
    }

    /// The writes within bounds, ascending.
    pub(crate) fn writes_within(
        &self,
        bounds: (Bound<Bytes>, Bound<Bytes>),
    ) -> Vec<(Bytes, Option<Bytes>)> {
        let parts = self.lock();
        let within = parts.writes.range::<Bytes, _>(bounds);
        within
            .map(|(key, value)| (key.clone(), value.as_ref().map(|value| value.bytes.clone())))
            .collect()
    }

    /// Notes what a range has read: a new entry, or more of the one in `slot`.
    pub(crate) fn note_range(
        &self,
        slot: Option<ReadRangeSlot>,
        range: ReadRange,
    ) -> Result<ReadRangeSlot, Error> {
        self.parts()?.reads.note_range(slot, range)
    }
}

impl Parts {
    fn live_point(&self) -> Result<Arc<ReadPoint>, Error> {
        self.point.clone().ok_or_else(ended)
    }
}

impl Reads {
    fn note_key(&mut self, key: &Bytes) -> Result<(), Error> {
        if !self.keys.contains(key) {
            self.charge(key.len())?;
            self.keys.insert(key.clone());
        }
        Ok(())
    }

    fn note_range(
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

    /// What a transaction has read is bounded as what it writes is.
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
#[path = "transaction_tests.rs"]
mod transaction_tests;
