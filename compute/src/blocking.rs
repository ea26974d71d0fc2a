//! The same database for programs without an async runtime: every call waits on its thread.
//!
//! The types mirror those of the crate's root; their methods mean the same and give the same errors. A call from inside a tokio
//! runtime is refused as [`Error::Invalid`] instead of stopping a thread that other tasks need, also from
//! `spawn_blocking`, where `Handle::block_on` with the async types serves.
//!
//! ```no_run
//! use sixfold::Options;
//! use sixfold::blocking::Database;
//!
//! # fn main() -> Result<(), sixfold::Error> {
//! let database = Database::open(Options::from_cluster_file("bank/cluster.toml")?)?;
//! let visits = database.transact(|txn| {
//!     let visits = txn.get("visits")?.map_or(0, |value| value.len()) + 1;
//!     txn.put("visits", vec![b'|'; visits])?;
//!     Ok(visits)
//! })?;
//! for item in database.snapshot().range(..) {
//!     let (key, value) = item?;
//!     println!("{key:?}: {} bytes", value.len());
//! }
//! database.close()?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sixfold_log_format::Lsn;

use crate::{CommitInfo, Error, Estimate, KeyRange, OpenReport, Options, Stats, Status, Token};

mod outside;

pub use outside::{ReadOnly, Standby};

/// A thread that waits for a future.
struct Waiting {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Runs a future on this thread. The library needs no runtime on its caller's side: its own thread does all I/O and keeps
/// all timers.
fn wait<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    if tokio::runtime::Handle::try_current().is_ok() {
        return Err(Error::invalid(
            "a blocking call from inside an async runtime; use the async types there",
        ));
    }
    let mut future = std::pin::pin!(future);
    // Mostly what is asked for is at hand, and nobody has to be woken.
    let mut nobody = Context::from_waker(Waker::noop());
    if let Poll::Ready(result) = future.as_mut().poll(&mut nobody) {
        return result;
    }
    // Polled again at once, with somebody to wake: what happened in between is seen by this poll.
    let waiting = Arc::new(Waiting {
        thread: std::thread::current(),
        woken: AtomicBool::new(false),
    });
    let waker = Waker::from(Arc::clone(&waiting));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
        while !waiting.woken.swap(false, Ordering::Acquire) {
            std::thread::park();
        }
    }
}

/// See [`crate::Database`].
#[derive(Debug, Clone)]
pub struct Database(crate::Database);

/// See [`crate::Keyspace`].
#[derive(Debug, Clone)]
pub struct Keyspace(crate::Keyspace);

/// See [`crate::Transaction`].
#[derive(Debug, Clone)]
pub struct Transaction(crate::Transaction);

/// See [`crate::Snapshot`].
#[derive(Debug, Clone)]
pub struct Snapshot(crate::Snapshot);

/// See [`crate::Range`]. An iterator; after an error it goes on where it stood.
#[derive(Debug)]
pub struct Range(crate::Range);

/// The blocking handle of an open database.
impl From<crate::Database> for Database {
    fn from(database: crate::Database) -> Database {
        Database(database)
    }
}

impl Database {
    /// See [`crate::Database::create`].
    ///
    /// # Errors
    /// Those of the async call; [`Error::Invalid`] inside a runtime, as for every method here.
    pub fn create(options: Options) -> Result<Database, Error> {
        wait(crate::Database::create(options)).map(Database)
    }

    /// See [`crate::Database::open`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn open(options: Options) -> Result<Database, Error> {
        wait(crate::Database::open(options)).map(Database)
    }

    /// See [`crate::Database::take_over`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn take_over(options: Options) -> Result<Database, Error> {
        wait(crate::Database::take_over(options)).map(Database)
    }

    /// The async handle of the same database.
    pub fn as_async(&self) -> &crate::Database {
        &self.0
    }

    /// See [`crate::Database::begin`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn begin(&self) -> Result<Transaction, Error> {
        wait(self.0.begin()).map(Transaction)
    }

    /// See [`crate::Database::begin_with_token`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn begin_with_token(&self, token: impl Into<Token>) -> Result<Transaction, Error> {
        wait(self.0.begin_with_token(token)).map(Transaction)
    }

    /// See [`crate::Database::new_token`].
    pub fn new_token(&self) -> Token {
        self.0.new_token()
    }

    /// See [`crate::Database::transact`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn transact<T>(
        &self,
        mut body: impl FnMut(&Transaction) -> Result<T, Error>,
    ) -> Result<T, Error> {
        wait(self.0.transact(|txn| {
            let given = body(&Transaction(txn));
            async move { given }
        }))
    }

    /// See [`crate::Database::try_transact`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn try_transact<T, E: From<Error>>(
        &self,
        mut body: impl FnMut(&Transaction) -> Result<T, E>,
    ) -> Result<(T, CommitInfo), E> {
        // An error of the body's own passes through as a value.
        wait(async {
            Ok(self
                .0
                .try_transact(|txn| {
                    let given = body(&Transaction(txn));
                    async move { given }
                })
                .await)
        })?
    }

    /// See [`crate::Database::snapshot`].
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.0.snapshot())
    }

    /// See [`crate::Database::snapshot_at`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn snapshot_at(&self, lsn: Lsn) -> Result<Snapshot, Error> {
        wait(self.0.snapshot_at(lsn)).map(Snapshot)
    }

    /// See [`crate::Database::snapshot_at_time`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn snapshot_at_time(&self, time: SystemTime) -> Result<Snapshot, Error> {
        wait(self.0.snapshot_at_time(time)).map(Snapshot)
    }

    /// See [`crate::Database::create_keyspace`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn create_keyspace(&self, name: &str) -> Result<Keyspace, Error> {
        wait(self.0.create_keyspace(name)).map(Keyspace)
    }

    /// See [`crate::Database::keyspace`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn keyspace(&self, name: &str) -> Result<Option<Keyspace>, Error> {
        Ok(wait(self.0.keyspace(name))?.map(Keyspace))
    }

    /// See [`crate::Database::keyspaces`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn keyspaces(&self) -> Result<Vec<String>, Error> {
        wait(self.0.keyspaces())
    }

    /// See [`crate::Database::drop_keyspace`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn drop_keyspace(&self, name: &str) -> Result<bool, Error> {
        wait(self.0.drop_keyspace(name))
    }

    /// See [`crate::Database::open_report`].
    pub fn open_report(&self) -> OpenReport {
        self.0.open_report()
    }

    /// See [`crate::Database::stats`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn stats(&self) -> Result<Stats, Error> {
        wait(self.0.stats())
    }

    /// See [`crate::Database::status`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn status(&self) -> Result<Status, Error> {
        wait(self.0.status())
    }

    /// See [`crate::Database::close`].
    ///
    /// # Errors
    /// [`Error::Invalid`] inside a runtime.
    pub fn close(&self) -> Result<(), Error> {
        wait(async {
            self.0.close().await;
            Ok(())
        })
    }
}

impl Keyspace {
    /// Its name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// See [`crate::Keyspace::begin`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn begin(&self) -> Result<Transaction, Error> {
        wait(self.0.begin()).map(Transaction)
    }

    /// See [`crate::Keyspace::transact`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn transact<T>(
        &self,
        mut body: impl FnMut(&Transaction) -> Result<T, Error>,
    ) -> Result<T, Error> {
        wait(self.0.transact(|txn| {
            let given = body(&Transaction(txn));
            async move { given }
        }))
    }

    /// See [`crate::Keyspace::snapshot`].
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.0.snapshot())
    }
}

impl Transaction {
    /// See [`crate::Transaction::within`].
    #[must_use]
    pub fn within(&self, keyspace: &Keyspace) -> Transaction {
        Transaction(self.0.within(&keyspace.0))
    }

    /// See [`crate::Transaction::with_read_deadline`].
    #[must_use]
    pub fn with_read_deadline(&self, limit: Duration) -> Transaction {
        Transaction(self.0.with_read_deadline(limit))
    }

    /// See [`crate::Transaction::read_point`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn read_point(&self) -> Result<Lsn, Error> {
        self.0.read_point()
    }

    /// See [`crate::Transaction::get`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        wait(self.0.get(key))
    }

    /// See [`crate::Transaction::get_versioned`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Bytes, Lsn)>, Error> {
        wait(self.0.get_versioned(key))
    }

    /// See [`crate::Transaction::get_many`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        wait(self.0.get_many(keys))
    }

    /// See [`crate::Transaction::snapshot_read`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn snapshot_read(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        wait(self.0.snapshot_read(key))
    }

    /// See [`crate::Transaction::value_equals`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn value_equals(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        wait(self.0.value_equals(key, value))
    }

    /// See [`crate::Transaction::is_absent`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn is_absent(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        wait(self.0.is_absent(key))
    }

    /// See [`crate::Transaction::version_equals`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn version_equals(&self, key: impl AsRef<[u8]>, lsn: Lsn) -> Result<bool, Error> {
        wait(self.0.version_equals(key, lsn))
    }

    /// See [`crate::Transaction::put`].
    ///
    /// # Errors
    /// Those of the async type's method.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.0.put(key, value)
    }

    /// See [`crate::Transaction::put_with_ttl`].
    ///
    /// # Errors
    /// Those of the async type's method.
    pub fn put_with_ttl(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<(), Error> {
        self.0.put_with_ttl(key, value, ttl)
    }

    /// See [`crate::Transaction::delete`].
    ///
    /// # Errors
    /// Those of the async type's method.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), Error> {
        self.0.delete(key)
    }

    /// See [`crate::Transaction::delete_range`].
    ///
    /// # Errors
    /// Those of the async type's method.
    pub fn delete_range(&self, range: impl KeyRange) -> Result<(), Error> {
        self.0.delete_range(range)
    }

    /// See [`crate::Transaction::add`].
    ///
    /// # Errors
    /// Those of the async type's method.
    pub fn add(&self, key: impl AsRef<[u8]>, operand: i64) -> Result<(), Error> {
        self.0.add(key, operand)
    }

    /// See [`crate::Transaction::max`].
    ///
    /// # Errors
    /// Those of the async type's method.
    pub fn max(&self, key: impl AsRef<[u8]>, operand: i64) -> Result<(), Error> {
        self.0.max(key, operand)
    }

    /// See [`crate::Transaction::min`].
    ///
    /// # Errors
    /// Those of the async type's method.
    pub fn min(&self, key: impl AsRef<[u8]>, operand: i64) -> Result<(), Error> {
        self.0.min(key, operand)
    }

    /// See [`crate::Transaction::range`].
    pub fn range(&self, range: impl KeyRange) -> Range {
        Range(self.0.range(range))
    }

    /// See [`crate::Transaction::estimate`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn estimate(&self, range: impl KeyRange) -> Result<Estimate, Error> {
        wait(self.0.estimate(range))
    }

    /// See [`crate::Transaction::commit`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn commit(&self) -> Result<CommitInfo, Error> {
        wait(self.0.commit())
    }

    /// See [`crate::Transaction::rollback`].
    pub fn rollback(&self) {
        self.0.rollback();
    }
}

impl Snapshot {
    /// See [`crate::Snapshot::within`].
    #[must_use]
    pub fn within(&self, keyspace: &Keyspace) -> Snapshot {
        Snapshot(self.0.within(&keyspace.0))
    }

    /// See [`crate::Snapshot::with_read_deadline`].
    #[must_use]
    pub fn with_read_deadline(&self, limit: Duration) -> Snapshot {
        Snapshot(self.0.with_read_deadline(limit))
    }

    /// See [`crate::Snapshot::lsn`].
    pub fn lsn(&self) -> Lsn {
        self.0.lsn()
    }

    /// See [`crate::Snapshot::get`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        wait(self.0.get(key))
    }

    /// See [`crate::Snapshot::get_versioned`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Bytes, Lsn)>, Error> {
        wait(self.0.get_versioned(key))
    }

    /// See [`crate::Snapshot::get_many`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        wait(self.0.get_many(keys))
    }

    /// See [`crate::Snapshot::range`].
    pub fn range(&self, range: impl KeyRange) -> Range {
        Range(self.0.range(range))
    }

    /// See [`crate::Snapshot::estimate`].
    ///
    /// # Errors
    /// Those of the async call.
    pub fn estimate(&self, range: impl KeyRange) -> Result<Estimate, Error> {
        wait(self.0.estimate(range))
    }
}

impl Range {
    /// See [`crate::Range::reverse`].
    ///
    /// # Panics
    /// When the scan has begun.
    #[must_use]
    pub fn reverse(self) -> Range {
        Range(self.0.reverse())
    }

    /// See [`crate::Range::limit`].
    #[must_use]
    pub fn limit(self, count: usize) -> Range {
        Range(self.0.limit(count))
    }

    /// See [`crate::Range::byte_budget`].
    #[must_use]
    pub fn byte_budget(self, bytes: usize) -> Range {
        Range(self.0.byte_budget(bytes))
    }
}

impl Iterator for Range {
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        wait(self.0.next()).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_that_is_woken_from_another_thread_is_waited_for() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || tell.send(7));
        assert_eq!(wait(async { Ok(told.await.unwrap()) }), Ok(7));
        thread.join().unwrap().unwrap();
        // Waiting while something is waited for, as a body of `transact` does.
        let nested = wait(async { wait(async { Ok(8) }) });
        assert_eq!(nested, Ok(8));
    }

    #[tokio::test]
    async fn blocking_inside_a_runtime_is_refused() {
        assert!(matches!(wait(async { Ok(()) }), Err(Error::Invalid { .. })));
        let spawned = tokio::task::spawn_blocking(|| wait(async { Ok(()) }));
        assert!(matches!(spawned.await.unwrap(), Err(Error::Invalid { .. })));
    }
}
