//! Transactions: reads at one point, writes in a buffer, conflicts found at the commit.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use sixfold_compute_core::{ReadPoint, ReadRange, WriteValue};
use sixfold_kv::Modify;
use sixfold_log_format::Lsn;
use sixfold_log_format::limits::VALUE_BYTES_MAX;

use crate::commit::{Attempt, CommitInfo};
use crate::database::Inner;
use crate::error::Error;
use crate::estimate::{self, Estimate};
use crate::keyspace::{self, Keyspace};
use crate::overlay::{Overlay, Own, OwnRange};
use crate::range::{Bounds, KeyRange, Range};
use crate::read::{self, ReadLimit};
use crate::reads::{ReadRangeSlot, Reads};
use crate::space::{Named, Space, StoredKey};
use crate::token::Token;

/// A transaction: strictly serializable. Cheap to clone; clones are the same transaction, and may be used from many tasks
/// at once: all methods take `&self`.
///
/// Reads see the volume as of [`Database::begin`](crate::Database::begin), and the transaction's own writes. Writes stay
/// in memory until [`Transaction::commit`]. Dropping the last clone without a commit drops them. A transaction that has
/// ended refuses every further call as [`Error::Invalid`].
///
/// ```no_run
/// # async fn example(database: sixfold::Database) -> Result<(), sixfold::Error> {
/// let txn = database.begin().await?;
/// let stock = txn.get("stock/apple").await?;
/// if stock.is_none() {
///     txn.put("stock/apple", "12")?;
/// }
/// match txn.commit().await {
///     Ok(commit) => println!("durable at {}", commit.lsn),
///     Err(error) if error.is_retryable() => println!("somebody was faster: run it again"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Transaction {
    pub(crate) shared: Arc<TransactionState>,
    space: Space,
    limit: ReadLimit,
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
    overlay: Overlay,
    reads: Reads,
    token: Option<Token>,
    /// See [`Attempt`].
    closes_token: bool,
    /// Named keyspaces that it uses, and whether each was found in the directory as of its read point.
    keyspaces: Vec<(Arc<Named>, bool)>,
    /// The last error of a read that running the transaction again may heal.
    hurt: Option<Error>,
}

impl Transaction {
    pub(crate) fn new(
        inner: Arc<Inner>,
        point: ReadPoint,
        token: Option<Token>,
        bytes_max: usize,
    ) -> Transaction {
        let parts = Parts {
            point: Some(Arc::new(point)),
            overlay: Overlay::new(bytes_max),
            reads: Reads::default(),
            token,
            closes_token: true,
            keyspaces: Vec::new(),
            hurt: None,
        };
        let space = inner.space.clone();
        Transaction {
            shared: Arc::new(TransactionState {
                inner,
                parts: Mutex::new(parts),
            }),
            space,
            limit: ReadLimit::default(),
        }
    }

    /// A run that writes nothing leaves the token open: nobody else knows it, and no earlier run is on its way.
    pub(crate) fn leave_token_open(&self) {
        self.shared.lock().closes_token = false;
    }

    /// The same transaction, over the keys of another keyspace: it commits as one, whichever handle is used.
    ///
    /// A keyspace that was dropped before the transaction began makes its reads and its commit fail as [`Error::Invalid`]; one
    /// that is dropped meanwhile is a conflict.
    #[must_use]
    pub fn within(&self, keyspace: &Keyspace) -> Transaction {
        self.within_space(keyspace.space().clone())
    }

    pub(crate) fn within_space(&self, space: Space) -> Transaction {
        Transaction {
            space,
            ..self.clone()
        }
    }

    /// The same transaction; reads through this handle wait at most this long for storage nodes, instead of
    /// [`Options::read_deadline`](crate::Options::read_deadline).
    #[must_use]
    pub fn with_read_deadline(&self, limit: Duration) -> Transaction {
        Transaction {
            limit: ReadLimit(Some(limit)),
            ..self.clone()
        }
    }

    /// The read point: the transaction sees the commits at or below it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the transaction has ended.
    pub fn read_point(&self) -> Result<Lsn, Error> {
        Ok(self.shared.point()?.lsn())
    }

    /// What its writes weigh by now: keys, values and 64 bytes an operation.
    pub fn write_bytes(&self) -> usize {
        self.shared.lock().overlay.bytes()
    }

    /// The value of a key: the transaction's own, or the one as of its read point.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty or overlong key, or when the transaction has ended; [`Error::Unavailable`],
    /// [`Error::Fenced`], [`Error::Closed`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        Ok(self.get_versioned(key).await?.map(|(value, _)| value))
    }

    /// The value of a key and its version: the LSN of the commit that put it. [`Lsn::NONE`] for a value that this transaction
    /// wrote itself.
    ///
    /// # Errors
    /// Those of [`Transaction::get`].
    pub async fn get_versioned(
        &self,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<(Bytes, Lsn)>, Error> {
        self.read(key.as_ref(), true).await
    }

    /// The value of a key, without taking part in conflicts: a later change of it by somebody else does not fail the
    /// commit. For reads whose result the writes do not depend on.
    ///
    /// # Errors
    /// Those of [`Transaction::get`].
    pub async fn snapshot_read(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        Ok(self
            .read(key.as_ref(), false)
            .await?
            .map(|(value, _)| value))
    }

    /// The values of keys, in the order of the keys: what is not in memory is fetched together.
    ///
    /// ```no_run
    /// # async fn example(txn: sixfold::Transaction) -> Result<(), sixfold::Error> {
    /// let balances = txn.get_many(["account/alice", "account/bob"]).await?;
    /// assert_eq!(balances.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`Transaction::get`].
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        let keys: Vec<Bytes> = keys
            .into_iter()
            .map(|key| self.space.stored(key.as_ref()))
            .collect::<Result<_, _>>()?;
        self.shared.check_keyspace(&self.space, self.limit).await?;
        let mut owns = Vec::with_capacity(keys.len());
        let mut lookups = Vec::new();
        let point = {
            let mut parts = self.shared.parts()?;
            for key in &keys {
                let own = parts.overlay.own(key);
                if matches!(own, None | Some(Own::Modified(_))) {
                    parts.reads.note_key(key)?;
                    lookups.push(key.clone());
                }
                owns.push(own);
            }
            parts.live_point()?
        };
        let found = read::get_many(&self.shared.inner, &point, self.limit, &lookups).await;
        let mut found = self.shared.saw(found)?.into_iter();
        let mut values = Vec::with_capacity(owns.len());
        let mut parts = self.shared.parts()?;
        for own in owns {
            values.push(match own {
                Some(own @ (Own::Value(_) | Own::Absent)) => own.over(None)?,
                own => {
                    let stored = found.next().expect("one for each lookup");
                    parts
                        .reads
                        .note_deadline(stored.as_ref().and_then(|found| found.deadline_ms));
                    let value = stored.map(|found| found.value);
                    own.map_or(Ok(value.clone()), |own| own.over(value.as_ref()))?
                }
            });
        }
        Ok(values)
    }

    async fn read(&self, key: &[u8], noted: bool) -> Result<Option<(Bytes, Lsn)>, Error> {
        let lookup: StoredKey = self.space.lookup_key(key)?;
        self.shared.check_keyspace(&self.space, self.limit).await?;
        let (point, own) = {
            let mut parts = self.shared.parts()?;
            let own = parts.overlay.own(&lookup);
            if let Some(own @ (Own::Value(_) | Own::Absent)) = &own {
                return Ok(own.over(None)?.map(|value| (value, Lsn::NONE)));
            }
            if noted {
                parts.reads.note_key(&self.space.stored(key)?)?;
            }
            (parts.live_point()?, own)
        };
        let found = read::get(&self.shared.inner, &point, self.limit, &lookup).await;
        let found = self.shared.saw(found)?;
        if noted && let Some(deadline_ms) = found.as_ref().and_then(|found| found.deadline_ms) {
            self.shared.parts()?.reads.note_deadline(Some(deadline_ms));
        }
        match own {
            None => Ok(found.map(|found| (found.value, found.stamp))),
            Some(own) => {
                let stored = found.map(|found| found.value);
                Ok(own.over(stored.as_ref())?.map(|value| (value, Lsn::NONE)))
            }
        }
    }

    /// Whether a key holds exactly this value. Counts as a read of the key, as the other comparisons do: when the commit
    /// succeeds, it still held at the commit.
    ///
    /// # Errors
    /// Those of [`Transaction::get`].
    pub async fn value_equals(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        let held = self.get(key).await?;
        Ok(held.is_some_and(|held| held == value.as_ref()))
    }

    /// Whether a key is absent, expired included.
    ///
    /// # Errors
    /// Those of [`Transaction::get`].
    pub async fn is_absent(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        Ok(self.get(key).await?.is_none())
    }

    /// Whether the commit at `lsn` put the value that a key holds. False for an absent key and for one that this transaction
    /// has written itself.
    ///
    /// # Errors
    /// Those of [`Transaction::get`].
    pub async fn version_equals(&self, key: impl AsRef<[u8]>, lsn: Lsn) -> Result<bool, Error> {
        let held = self.get_versioned(key).await?;
        Ok(held.is_some_and(|(_, version)| version == lsn && version != Lsn::NONE))
    }

    /// Puts a value. It is seen by later reads of this transaction, and by others once it is committed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty or overlong key, an overlong value, a transaction that would grow above its limit (64 MiB,
    /// or [`Options::transact_bytes_max`](crate::Options::transact_bytes_max) within `transact`; 64 bytes are charged an
    /// operation), or one that has ended. Nothing has changed then.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.put_value(key.as_ref(), value.as_ref(), None)
    }

    /// Puts a value that lives for `ttl` from now by the volume's clock, which goes on across failovers and never back. It is
    /// absent for every read point behind its deadline, to within the clock's tick of 100 ms, and removed in the
    /// background (T5). This transaction itself sees it in any case.
    ///
    /// Putting the key again, or modifying it, ends the deadline.
    ///
    /// ```no_run
    /// # async fn example(database: sixfold::Database) -> Result<(), sixfold::Error> {
    /// use std::time::Duration;
    ///
    /// let txn = database.begin().await?;
    /// txn.put_with_ttl("session/7f3a", "alice", Duration::from_secs(30 * 60))?;
    /// txn.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Transaction::put`]; [`Error::Invalid`] for a time to live below a millisecond.
    pub fn put_with_ttl(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<(), Error> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        if ttl_ms == 0 {
            return Err(Error::invalid(format!(
                "a time to live of {ttl:?} is over before it begins"
            )));
        }
        let now_ms = self.shared.inner.volume_ms();
        self.put_value(
            key.as_ref(),
            value.as_ref(),
            Some(now_ms.saturating_add(ttl_ms)),
        )
    }

    /// Puts a value that lives until `unix_ms`, milliseconds of the volume's clock, which follows the writers' wall clocks: as
    /// [`Transaction::put_with_ttl`], for whoever knows the deadline itself. One in the past makes the key absent.
    ///
    /// # Errors
    /// As [`Transaction::put`].
    pub fn put_until(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        unix_ms: u64,
    ) -> Result<(), Error> {
        self.put_value(key.as_ref(), value.as_ref(), Some(unix_ms))
    }

    fn put_value(&self, key: &[u8], value: &[u8], deadline_ms: Option<u64>) -> Result<(), Error> {
        let key = self.space.stored(key)?;
        if value.len() > VALUE_BYTES_MAX {
            let len = value.len();
            return Err(Error::invalid(format!(
                "the value has {len} bytes, {VALUE_BYTES_MAX} at most"
            )));
        }
        let value = WriteValue {
            bytes: Bytes::copy_from_slice(value),
            deadline_ms,
        };
        self.write(|overlay| overlay.put(key, value))
    }

    /// Deletes a key. No error when it is absent.
    ///
    /// # Errors
    /// [`Error::Invalid`], as for [`Transaction::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), Error> {
        let key = self.space.stored(key.as_ref())?;
        self.write(|overlay| overlay.delete(key))
    }

    /// Deletes every key of a range: those that are there when the commit takes its place, whether this transaction knows
    /// of them or not. The cost does not grow with the number of keys. It conflicts with whoever has read a key of the
    /// range; by itself it reads nothing. An empty or reversed range is no error, and nothing happens.
    ///
    /// ```no_run
    /// # async fn example(txn: sixfold::Transaction) -> Result<(), sixfold::Error> {
    /// txn.delete_range(sixfold::prefix("session/"))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`], as for [`Transaction::put`].
    pub fn delete_range(&self, range: impl KeyRange) -> Result<(), Error> {
        match self.space.stored_range(range.into_bounds()) {
            Some((start, end)) => self.write(|overlay| overlay.clear(start, end)),
            None => self.shared.parts().map(drop),
        }
    }

    /// Adds to the number that a key holds, as it is when the commit takes its place: without reading it, so that any number of
    /// transactions may add to one key at once without conflicts. Numbers are 8 bytes, little-endian; an absent key counts
    /// as 0. A later `get` in this transaction turns it into a read (T6).
    ///
    /// ```no_run
    /// # async fn example(database: sixfold::Database) -> Result<(), sixfold::Error> {
    /// let txn = database.begin().await?;
    /// txn.add("visits", 1)?;
    /// txn.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`], as for [`Transaction::put`], and at once when this transaction itself put something there that is no
    /// number, or the sum is out of range. When that is only found at the commit, the commit fails so, and nothing is
    /// written.
    pub fn add(&self, key: impl AsRef<[u8]>, operand: i64) -> Result<(), Error> {
        self.modify(key.as_ref(), Modify::Add(operand))
    }

    /// Raises the number that a key holds to `operand`; an absent key takes it. See [`Transaction::add`].
    ///
    /// # Errors
    /// Those of [`Transaction::add`].
    pub fn max(&self, key: impl AsRef<[u8]>, operand: i64) -> Result<(), Error> {
        self.modify(key.as_ref(), Modify::Max(operand))
    }

    /// Lowers the number that a key holds to `operand`; an absent key takes it. See [`Transaction::add`].
    ///
    /// # Errors
    /// Those of [`Transaction::add`].
    pub fn min(&self, key: impl AsRef<[u8]>, operand: i64) -> Result<(), Error> {
        self.modify(key.as_ref(), Modify::Min(operand))
    }

    fn modify(&self, key: &[u8], op: Modify) -> Result<(), Error> {
        let key = self.space.stored(key)?;
        self.write(|overlay| overlay.modify(&key, op))
    }

    fn write(&self, change: impl FnOnce(&mut Overlay) -> Result<(), Error>) -> Result<(), Error> {
        let mut parts = self.shared.parts()?;
        parts.uses(&self.space);
        change(&mut parts.overlay)
    }

    /// The keys and values of a range, ascending, the transaction's own writes as of this call among them. What was
    /// consumed of it counts as read: a commit of somebody else that put a key there is a conflict, also when there was
    /// none before.
    pub fn range(&self, range: impl KeyRange) -> Range {
        Range::of_transaction(
            Arc::clone(&self.shared),
            self.space.clone(),
            self.limit,
            range,
        )
    }

    /// About how many keys a range holds as of the read point, and how many bytes. The transaction's own writes are not
    /// counted; it takes no part in conflicts.
    ///
    /// # Errors
    /// Those of [`Transaction::get`].
    pub async fn estimate(&self, range: impl KeyRange) -> Result<Estimate, Error> {
        let bounds = range.into_bounds();
        self.shared.check_keyspace(&self.space, self.limit).await?;
        let point = self.shared.point()?;
        let estimated =
            estimate::of(&self.shared.inner, &point, &self.space, self.limit, bounds).await;
        self.shared.saw(estimated)
    }

    /// Commits: all of it or nothing. When this returns, everything that the transaction wrote is on disk at four of six
    /// storage nodes, and every later `begin` sees it.
    ///
    /// The transaction ends with this call, whatever comes of it. Dropping the future does not stop the commit: its
    /// outcome is then unknown (T10).
    ///
    /// # Errors
    /// [`Error::Conflict`] and [`Error::TooOld`]: run the transaction again. [`Error::Unavailable`], [`Error::Fenced`],
    /// [`Error::Full`], [`Error::Invalid`]: nothing was written. [`Error::Unknown`]: it may have been; with a
    /// token ([`Database::begin_with_token`](crate::Database::begin_with_token)) running it again is safe.
    pub async fn commit(&self) -> Result<CommitInfo, Error> {
        self.take_attempt()?.run().await
    }

    /// Ends the transaction and gives what is to be committed.
    pub(crate) fn take_attempt(&self) -> Result<Attempt, Error> {
        let mut parts = self.shared.lock();
        let point = parts.point.take().ok_or_else(ended)?;
        let bytes = parts.overlay.bytes() + parts.reads.bytes();
        Ok(Attempt {
            inner: Arc::clone(&self.shared.inner),
            point,
            writes: parts.overlay.take(),
            reads: std::mem::take(&mut parts.reads),
            bytes,
            token: parts.token,
            closes_token: parts.closes_token,
            keyspaces: unchecked(&mut parts.keyspaces),
            limit: self.limit,
        })
    }

    /// Ends the transaction and drops its writes. Nothing happens when it has ended.
    pub fn rollback(&self) {
        let mut parts = self.shared.lock();
        parts.point = None;
        parts.overlay.take();
        parts.reads = Reads::default();
    }
}

/// The keyspaces that were only written to: whether they exist is looked up at the commit.
fn unchecked(keyspaces: &mut Vec<(Arc<Named>, bool)>) -> Vec<Arc<Named>> {
    let used = std::mem::take(keyspaces).into_iter();
    used.filter_map(|(named, checked)| (!checked).then_some(named))
        .collect()
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

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().point.is_none()
    }

    /// Remembers an error of a read that running the transaction again may heal.
    pub(crate) fn saw<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result
            && error.is_retryable()
        {
            self.lock().hurt = Some(error.clone());
        }
        result
    }

    /// What [`TransactionState::saw`] remembers.
    pub(crate) fn take_hurt(&self) -> Option<Error> {
        self.lock().hurt.take()
    }

    /// What the transaction says of a range of stored keys.
    pub(crate) fn own_within(&self, bounds: &Bounds) -> OwnRange {
        self.lock().overlay.within(bounds)
    }

    /// Notes what a range has read: a new entry, or more of the one in `slot`.
    pub(crate) fn note_range(
        &self,
        slot: Option<ReadRangeSlot>,
        range: ReadRange,
        deadline_ms: Option<u64>,
    ) -> Result<ReadRangeSlot, Error> {
        let mut parts = self.parts()?;
        parts.reads.note_deadline(deadline_ms);
        parts.reads.note_range(slot, range)
    }

    /// Makes sure that a named keyspace is there as of the read point; from then on, dropping it is a conflict.
    pub(crate) async fn check_keyspace(
        &self,
        space: &Space,
        limit: ReadLimit,
    ) -> Result<(), Error> {
        let Some(named) = space.keyspace() else {
            return Ok(());
        };
        let point = {
            let mut parts = self.parts()?;
            if parts.uses(space) {
                return Ok(());
            }
            parts.live_point()?
        };
        let row = self.saw(keyspace::check(&self.inner, &point, named, limit).await)?;
        let mut parts = self.parts()?;
        parts.reads.note_key(&row)?;
        let used = parts.keyspaces.iter_mut().find(|(used, _)| used == named);
        used.expect("it was put there before").1 = true;
        Ok(())
    }
}

impl Parts {
    fn live_point(&self) -> Result<Arc<ReadPoint>, Error> {
        self.point.clone().ok_or_else(ended)
    }

    /// Notes that a keyspace is used; whether it needs no check any more.
    fn uses(&mut self, space: &Space) -> bool {
        let Some(named) = space.keyspace() else {
            return true;
        };
        let used = self.keyspaces.iter().find(|(used, _)| used == named);
        if let Some((_, checked)) = used {
            return *checked;
        }
        self.keyspaces.push((Arc::clone(named), false));
        false
    }
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod transaction_tests;
