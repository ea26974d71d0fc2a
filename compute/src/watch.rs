//! Watches: the changes that commits made to a range of keys, in order, from any retained LSN on.
//!
//! The decisions are [`Watcher`]'s; here its log reads go to the driver, and large and old values are read at the points at which
//! they stand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sixfold_compute_core::{
    self as core, ChangeValue, CommitChanges, LogError, LogWant, WatchError, WatchRange, WatchSeat,
    WatchStep, Watcher,
};
use sixfold_log_format::Lsn;

use crate::database::{Database, Inner};
use crate::driver::clock;
use crate::driver::commands::Command;
use crate::error::Error;
use crate::keyspace::Keyspace;
use crate::range::KeyRange;
use crate::read::{self, ReadLimit};
use crate::space::Space;
use crate::watch_news::WatchWaker;

/// Records without an event after which progress is told.
const PROGRESS_RECORDS: u64 = 65_536;
/// Time without an event after which progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How far the point that is held may lag while events are delivered, records.
const HOLD_RECORDS: u64 = 1_024;

/// What a [`Watch`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// A commit changed keys that are watched: all that it changed of them, at once.
    Commit {
        /// The commit LSN: what [`CommitInfo::lsn`](crate::CommitInfo) said, and the version of what was put.
        lsn: Lsn,
        /// The point just before the commit: [`Database::snapshot_at`] shows there what was changed.
        before: Lsn,
        /// In the order in which they took effect: a range that was deleted comes before what the same commit put into it.
        changes: Vec<Change>,
    },
    /// Nothing that is watched was changed since the event before, up to here. A resume point from which the watch may go on
    /// later, so that it stays within what is retained however idle the keys are.
    Progress {
        /// Up to here.
        lsn: Lsn,
    },
}

/// One change of a commit. `old` is what a reader saw at the point just before the commit; it is there only when the watch was
/// asked for old values ([`Watch::with_old_values`]), and `None` for a key that was absent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A value was put, by a put or an atomic operation.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// What was there.
        old: Option<Bytes>,
        /// When it expires, milliseconds of the volume's clock; `None` = never.
        deadline_ms: Option<u64>,
    },
    /// A key was deleted.
    Delete {
        /// The key.
        key: Bytes,
        /// What was there.
        old: Option<Bytes>,
    },
    /// A key that had expired was removed in the background. Reads have not seen it since its deadline passed, which may be some
    /// time ago; it has no old value therefore. A key that is put or deleted after it expired and before it was removed gives that event
    /// alone.
    Expired {
        /// The key.
        key: Bytes,
    },
    /// All keys of a range were deleted by one [`delete_range`](crate::Transaction::delete_range): one event, clipped to what is watched,
    /// whether it held keys or not. It carries no old values, since there is no bound on them: a snapshot at `before`
    /// ([`WatchEvent::Commit`]) has them.
    DeleteRange {
        /// The first key.
        start: Bytes,
        /// Its end, exclusive; `None` = no upper bound.
        end: Option<Bytes>,
    },
}

/// An ordered stream of what commits changed, made by [`Database::watch`] and [`Keyspace::watch`].
///
/// # What is promised
///
/// Every commit above the starting point that changed a watched key is told once, whole, in the order of LSNs; nothing else is told.
/// It is told when it is durable, after transactions that begin can see it. [`Watch::resume_lsn`] is always a point between commits;
/// a watch that begins there goes on without gap or duplicate, on this writer or on a later one, as long as the log from there is
/// retained.
///
/// # Slow watchers
///
/// Recent changes are kept in memory once for all watchers, within a bound
/// ([`Options::watch_bytes`](crate::Options::watch_bytes)). A watch that is behind that reads the log at the storage nodes, at its own
/// pace; nothing is queued for it. What its changes need is held at the storage nodes while it is not more than a million
/// records behind; a large value (one that does not fit a page) or an old value that was collected before it was told ends the
/// watch as [`Error::TooOld`], as does a starting point whose log is not retained any more. Take a snapshot then, and watch
/// from its LSN.
///
/// ```no_run
/// # async fn example(database: sixfold::Database) -> Result<(), sixfold::Error> {
/// use sixfold::{Change, WatchEvent};
///
/// // What is there, then what happens to it: no change is missed between the two.
/// let snapshot = database.snapshot();
/// let mut cache: std::collections::BTreeMap<_, _> =
///     snapshot.range(sixfold::prefix("user/")).collect().await?.into_iter().collect();
/// let mut watch = database.watch(sixfold::prefix("user/"), snapshot.lsn())?;
/// loop {
///     let WatchEvent::Commit { changes, .. } = watch.next().await? else { continue };
///     for change in changes {
///         match change {
///             Change::Put { key, value, .. } => drop(cache.insert(key, value)),
///             Change::Delete { key, .. } | Change::Expired { key } => drop(cache.remove(&key)),
///             Change::DeleteRange { start, end } => {
///                 cache.retain(|key, _| *key < start || end.as_ref().is_some_and(|end| key >= end));
///             }
///             _ => {}
///         }
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Watch {
    inner: Arc<Inner>,
    space: Space,
    watcher: Watcher,
    seat: WatchSeat,
    waker: WatchWaker,
    old_values: bool,
    /// A commit whose values are being read.
    current: Option<Current>,
    /// The last event, and when it was told.
    told: (Lsn, Duration),
    /// Why it cannot go on.
    broken: Option<Error>,
}

/// A commit on its way to the user.
#[derive(Debug)]
struct Current {
    lsn: Lsn,
    before: Lsn,
    /// Where the watch would resume without it.
    resume: Lsn,
    left: VecDeque<core::Change>,
    done: Vec<Change>,
}

impl Database {
    /// Watches the keys of a range, or one key (`key..=key`), in the default keyspace: everything committed after `from` is told.
    /// `from` is the LSN of a snapshot, a commit, an earlier watch ([`Watch::resume_lsn`]), or any other that is retained. See [`Watch`].
    ///
    /// # Errors
    /// [`Error::Invalid`] when `from` is not durable yet, [`Error::Closed`]. A `from` that is too old is told by the first
    /// [`Watch::next`] that finds out.
    pub fn watch(&self, range: impl KeyRange, from: Lsn) -> Result<Watch, Error> {
        Watch::new(&self.inner, self.inner.space.clone(), range, from)
    }
}

impl Keyspace {
    /// As [`Database::watch`], over the keys of this keyspace. Dropping the keyspace deletes the range of all its keys.
    ///
    /// # Errors
    /// Those of [`Database::watch`].
    pub fn watch(&self, range: impl KeyRange, from: Lsn) -> Result<Watch, Error> {
        Watch::new(&self.database().inner, self.space().clone(), range, from)
    }
}

impl Watch {
    fn new(
        inner: &Arc<Inner>,
        space: Space,
        range: impl KeyRange,
        from: Lsn,
    ) -> Result<Watch, Error> {
        inner.state.check_open()?;
        // A range that holds no key is watched too: nothing is told but progress.
        let nothing = || (space.end(), space.end());
        let (start, end) = space
            .stored_range(range.into_bounds())
            .unwrap_or_else(nothing);
        let range = WatchRange {
            start,
            end: Some(end),
        };
        let shared = Arc::clone(inner.shared.watch());
        // Counted before VDL is read: the ring is kept from the next seal on.
        let seat = shared.sit();
        let vdl = inner.shared.vdl();
        let watcher = Watcher::new(shared, range, from, vdl).map_err(|error| error_of(&error))?;
        Ok(Watch {
            inner: Arc::clone(inner),
            space,
            watcher,
            seat,
            waker: inner.watch_waker.clone(),
            old_values: false,
            current: None,
            told: (from, clock::now()),
            broken: None,
        })
    }

    /// The same watch; its changes carry what was there before. Each costs a read.
    #[must_use]
    pub fn with_old_values(mut self) -> Watch {
        self.old_values = true;
        self
    }

    /// Where this watch stands: everything at or below was told, or changed nothing that is watched. A watch that begins here
    /// misses nothing and is told nothing twice. It moves on without events, too.
    pub fn resume_lsn(&self) -> Lsn {
        match &self.current {
            Some(current) => current.resume,
            None => self.watcher.resume_lsn(),
        }
    }

    /// The next event; waits until there is one. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when storage nodes did not answer in time: call again. Else the watch is over:
    /// [`Error::TooOld`], with the oldest point from which one could begin; [`Error::Fenced`] when another writer has taken the
    /// volume over, after everything that this one knew to be durable: go on there from [`Watch::resume_lsn`];
    /// [`Error::Closed`], [`Error::Corrupt`].
    pub async fn next(&mut self) -> Result<WatchEvent, Error> {
        loop {
            self.inner.state.check_open()?;
            if let Some(error) = &self.broken {
                return Err(error.clone());
            }
            if self.current.is_some() {
                return self.tell_commit().await;
            }
            self.hold(HOLD_RECORDS);
            let resume = self.watcher.resume_lsn();
            // What is told from here on wakes.
            self.waker.borrow_and_update();
            let vdl = self.inner.shared.vdl();
            match self.watcher.step(vdl) {
                Ok(WatchStep::Commit(commit)) => self.current = Some(Current::new(commit, resume)),
                Ok(WatchStep::ReadLog(wants)) => self.read_log(wants).await?,
                Ok(WatchStep::Again) => yield_once().await,
                Ok(WatchStep::Wait) => {
                    if let Some(event) = self.progress() {
                        return Ok(event);
                    }
                    self.inner.state.check_writable()?;
                    self.hold(0);
                    if self.waker.changed().await.is_err() {
                        return Err(self.inner.state.gone());
                    }
                    continue;
                }
                Err(error) => return Err(self.broke(&error)),
            }
            if self.current.is_none()
                && let Some(event) = self.progress()
            {
                return Ok(event);
            }
        }
    }

    /// Reads what the commit at hand needs, and tells it. What was read stays when this is dropped.
    async fn tell_commit(&mut self) -> Result<WatchEvent, Error> {
        let current = self.current.as_mut().expect("a commit is at hand");
        let Current { lsn, before, .. } = *current;
        while let Some(change) = current.left.front() {
            let values = Values {
                inner: &self.inner,
                old_at: self.old_values.then_some(before),
                lsn,
            };
            let change = values.of(change, &self.space).await?;
            current.left.pop_front();
            current.done.push(change);
        }
        let changes = std::mem::take(&mut current.done);
        self.current = None;
        self.told = (lsn, clock::now());
        Ok(WatchEvent::Commit {
            lsn,
            before,
            changes,
        })
    }

    /// Progress, when it is time to tell some.
    fn progress(&mut self) -> Option<WatchEvent> {
        let (told, told_at) = self.told;
        let (lsn, now) = (self.watcher.resume_lsn(), clock::now());
        let is_due = lsn.since(told) >= PROGRESS_RECORDS || now >= told_at + PROGRESS_INTERVAL;
        if lsn <= told || !is_due {
            return None;
        }
        self.told = (lsn, now);
        Some(WatchEvent::Progress { lsn })
    }

    /// Holds what follows where the watch stands, if what is held lags by more than this.
    fn hold(&mut self, records: u64) {
        let lsn = self.watcher.resume_lsn();
        let lags = |held: Lsn| lsn.since(held) > records;
        if self.seat.held().is_none_or(lags)
            && let Some(point) = self.inner.shared.announce_at(lsn)
        {
            self.seat.hold(point, self.inner.shared.vdl());
        }
    }

    async fn read_log(&mut self, wants: Vec<LogWant>) -> Result<(), Error> {
        let deadline = self.inner.read_until(ReadLimit::default());
        let mut asked = Vec::with_capacity(wants.len());
        for want in wants {
            let pg = want.pg;
            let read = |answer| Command::ReadLog {
                want,
                deadline,
                answer,
            };
            asked.push((pg, self.inner.send(read).await?));
        }
        for (pg, answered) in asked {
            let result = answered.await.map_err(|_| self.inner.state.gone())?;
            let supplied = match result {
                Ok(answer) => self.watcher.supply(answer),
                Err(error) => match self.watcher.refused(pg, &error) {
                    Some(error) => Err(error),
                    None => return Err(log_error_of(&error)),
                },
            };
            supplied.map_err(|error| self.broke(&error))?;
        }
        Ok(())
    }

    /// It cannot go on.
    fn broke(&mut self, error: &WatchError) -> Error {
        let error = error_of(error);
        self.broken = Some(error.clone());
        error
    }
}

impl Current {
    fn new(commit: CommitChanges, resume: Lsn) -> Current {
        Current {
            lsn: commit.lsn,
            before: commit.before,
            resume: resume.max(commit.before),
            left: commit.changes.into(),
            done: Vec::new(),
        }
    }
}

/// What a commit's changes need beyond what stands in the log.
struct Values<'a> {
    inner: &'a Inner,
    /// Where old values are read, if they are asked for.
    old_at: Option<Lsn>,
    /// The commit.
    lsn: Lsn,
}

impl Values<'_> {
    /// The change as the user is told.
    async fn of(&self, change: &core::Change, space: &Space) -> Result<Change, Error> {
        Ok(match change {
            core::Change::Put {
                key,
                value,
                deadline_ms,
            } => {
                let old = self.old(key).await?;
                let value = match value {
                    ChangeValue::Inline(value) => Some(value.clone()),
                    ChangeValue::Large => self.large(key).await?,
                };
                let key = space.user_key(key);
                match value {
                    Some(value) => Change::Put {
                        key,
                        value,
                        old,
                        deadline_ms: *deadline_ms,
                    },
                    // Its deadline had passed when it was put: no reader has ever seen it.
                    None => Change::Delete { key, old },
                }
            }
            core::Change::Delete { key } => Change::Delete {
                old: self.old(key).await?,
                key: space.user_key(key),
            },
            core::Change::Expired { key } => Change::Expired {
                key: space.user_key(key),
            },
            core::Change::DeleteRange { start, end } => {
                let space_end = space.end();
                let end = end.as_ref().filter(|end| **end < space_end);
                Change::DeleteRange {
                    start: space.user_key(start),
                    end: end.map(|end| space.user_key(end)),
                }
            }
        })
    }

    async fn old(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let Some(before) = self.old_at else {
            return Ok(None);
        };
        Ok(self.at(before, key).await?.map(|(value, _)| value))
    }

    /// The large value that the commit put; `None` when its deadline had passed already.
    async fn large(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let lsn = self.lsn;
        match self.at(lsn, key).await? {
            None => Ok(None),
            Some((value, stamp)) if stamp == lsn => Ok(Some(value)),
            Some((_, stamp)) => Err(Error::Corrupt {
                what: format!("commit {lsn} put a value that is said to be of commit {stamp}"),
            }),
        }
    }

    /// Value and version of a key at a point.
    async fn at(&self, lsn: Lsn, key: &[u8]) -> Result<Option<(Bytes, Lsn)>, Error> {
        let point = self.inner.shared.announce_at(lsn);
        let point = point.expect("what is delivered lies at or below VDL");
        let found = read::get(self.inner, &point, ReadLimit::default(), key).await?;
        Ok(found.map(|found| (found.value, found.stamp)))
    }
}

/// Lets other tasks run.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return std::task::Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

fn error_of(error: &WatchError) -> Error {
    match *error {
        WatchError::AboveVdl { .. } => Error::invalid(error.to_string()),
        WatchError::TooOld { from, oldest } => Error::TooOld {
            read_point: from,
            oldest,
        },
        WatchError::Corrupt { .. } => Error::Corrupt {
            what: error.to_string(),
        },
    }
}

fn log_error_of(error: &LogError) -> Error {
    match *error {
        LogError::Unavailable { .. } => Error::unavailable(error.to_string()),
        LogError::Forgotten { after, oldest } => Error::TooOld {
            read_point: after,
            oldest,
        },
        LogError::Fenced { volume_epoch } => Error::Fenced { volume_epoch },
    }
}
