//! Reading the past: snapshots at an LSN or at a time.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sixfold_compute_core::rows;
use sixfold_log_format::Lsn;

use crate::database::Database;
use crate::driver::commands::Command;
use crate::error::Error;
use crate::read::{self, Pages, ReadLimit};
use crate::snapshot::Snapshot;

impl Database {
    /// A view of the volume as of an LSN within the retention window ([`Options::retention`](crate::Options::retention)),
    /// as cheap to read as the present. An LSN that is no commit's is rounded down to the last commit before it (R29):
    /// [`Snapshot::lsn`] says which.
    ///
    /// ```no_run
    /// # async fn example(database: sixfold::Database) -> Result<(), sixfold::Error> {
    /// let before = database.snapshot().lsn();
    /// database.transact(|txn| async move { txn.delete("account/alice") }).await?;
    /// let then = database.snapshot_at(before).await?;
    /// println!("{:?}", then.get("account/alice").await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a point that is not durable yet; [`Error::TooOld`], with the oldest point that is
    /// readable still, for one that is not kept any more (it may also come from a read: pages in memory outlast the
    /// window); [`Error::Unavailable`], [`Error::Fenced`], [`Error::Closed`].
    pub async fn snapshot_at(&self, lsn: Lsn) -> Result<Snapshot, Error> {
        let inner = &self.inner;
        // Announced before anything else, so that it cannot be forgotten from here on.
        let held = inner.shared.announce_at(lsn).ok_or_else(|| {
            Error::invalid(format!(
                "snapshot at {lsn}: the last durable commit is {}",
                inner.shared.vdl()
            ))
        })?;
        let deadline = inner.read_until(ReadLimit::default());
        let rounded = inner
            .ask(|answer| Command::RoundDown {
                lsn,
                deadline,
                answer,
            })
            .await??;
        assert!(rounded <= lsn, "{lsn} was rounded down to {rounded}");
        let point = inner
            .shared
            .announce_at(rounded)
            .expect("VDL does not fall");
        drop(held);
        Ok(Snapshot::new(Arc::clone(inner), point))
    }

    /// A view of the volume as of a moment within the retention window. Times are remembered once a tick of 100 ms:
    /// nothing that was committed after `time` is in it, and what was committed in the tick before may be missing. A
    /// moment in the future is now. Moments are those of the volume's clock, which follows the writers' wall clocks and
    /// never goes back.
    ///
    /// ```no_run
    /// # async fn example(database: sixfold::Database) -> Result<(), sixfold::Error> {
    /// use std::time::{Duration, SystemTime};
    ///
    /// let an_hour_ago = SystemTime::now() - Duration::from_secs(3_600);
    /// match database.snapshot_at_time(an_hour_ago).await {
    ///     Ok(snapshot) => println!("as of {}", snapshot.lsn()),
    ///     Err(sixfold::Error::TimeTooOld { oldest_unix_ms, .. }) => println!("only from {oldest_unix_ms} on"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::TimeTooOld`], with the oldest moment that is remembered; those of [`Database::snapshot_at`].
    pub async fn snapshot_at_time(&self, time: SystemTime) -> Result<Snapshot, Error> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let inner = &self.inner;
        let now = inner.shared.announce();
        let mut pages = Pages::new(&now);
        let limit = ReadLimit::default();
        let found = read::run(inner, &mut pages, limit, |pages| {
            rows::time_at(pages, unix_ms)
        })
        .await?;
        match found {
            Some(found) => {
                let point = inner.shared.announce_at(found.lsn);
                let point = point.ok_or_else(|| Error::Corrupt {
                    what: format!("a time row names LSN {}, which is above VDL", found.lsn),
                })?;
                Ok(Snapshot::new(Arc::clone(inner), point))
            }
            None => {
                let oldest = read::run(inner, &mut pages, limit, rows::oldest_time).await?;
                Err(Error::TimeTooOld {
                    unix_ms,
                    oldest_unix_ms: oldest.map_or(0, |oldest| oldest.unix_ms),
                    oldest: oldest.map_or(now.lsn(), |oldest| oldest.lsn),
                })
            }
        }
    }
}
