//! Running a transaction until it is committed: conflicts are run again, unknown outcomes are asked for by a token, both with
//! pauses that grow and a bound.

use std::time::Duration;

use crate::commit::CommitInfo;
use crate::database::Database;
use crate::driver::clock;
use crate::driver::commands::Command;
use crate::error::Error;
use crate::random;
use crate::transaction::Transaction;

/// The first pause; the first run again comes without one.
const PAUSE_MIN: Duration = Duration::from_micros(500);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How often, and until when.
#[derive(Debug)]
struct Retries {
    until: Duration,
    failures: u32,
}

impl Retries {
    fn new(limit: Duration) -> Retries {
        Retries {
            until: clock::now().saturating_add(limit),
            failures: 0,
        }
    }

    /// How long to pause before the next try; `None` when its time is over. `dice` is drawn evenly.
    fn pause(&mut self, now: Duration, error: &Error, dice: u64) -> Option<Duration> {
        self.failures += 1;
        let longest = PAUSE_MIN
            .saturating_mul(1 << self.failures.min(16))
            .min(PAUSE_MAX);
        // Evenly drawn below the bound, so that those who met do not meet again.
        let share = u32::try_from(dice % 1_000).expect("it is small");
        let drawn = longest * share / 1_000;
        let pause = match error {
            // The first conflict says only that somebody was faster.
            Error::Conflict { .. } | Error::TooOld { .. } if self.failures == 1 => Duration::ZERO,
            Error::Conflict { .. } | Error::TooOld { .. } => drawn,
            // Something has to come back first.
            _ => drawn.max(PAUSE_MIN * 4),
        };
        (now + pause < self.until).then_some(pause)
    }
}

impl Database {
    /// Runs a transaction until it is committed, and gives what the body gave.
    ///
    /// The body is called with a new transaction; when the commit conflicts, or a read or the commit is refused for now, it is
    /// called again with another one, after a pause that grows. A commit whose outcome is unknown is not run again but
    /// asked for by a token, so that it is never applied twice; all runs have one token (T3). It ends with the last error after
    /// [`Options::transact_deadline`](crate::Options::transact_deadline).
    ///
    /// The body may be called several times: what it does beside the transaction is done as often. It must not commit. When it
    /// has rolled back, nothing is committed, and what it gave is given. The transaction may grow to
    /// [`Options::transact_bytes_max`](crate::Options::transact_bytes_max), since one commit of 64 MiB holds up all others
    /// for about half a second (F16). Dropping the future leaves the outcome unknown (T10).
    ///
    /// ```no_run
    /// # async fn example(database: sixfold::Database) -> Result<(), sixfold::Error> {
    /// let left = database
    ///     .transact(|txn| async move {
    ///         let stock = txn.get("stock/apple").await?.map_or(0, |stock| stock[0]);
    ///         let left = stock.saturating_sub(1);
    ///         txn.put("stock/apple", [left])?;
    ///         Ok(left)
    ///     })
    ///     .await?;
    /// println!("{left} apples are left");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What the body gave, unless running it again could heal it; [`Error::Conflict`], [`Error::TooOld`] or
    /// [`Error::Unavailable`] when time was over: nothing was written; [`Error::Unknown`] when time was over, or the volume was
    /// lost to another writer meanwhile: it may have been. [`Error::Fenced`], [`Error::Closed`], [`Error::Full`],
    /// [`Error::Invalid`].
    pub async fn transact<T, F, R>(&self, body: F) -> Result<T, Error>
    where
        F: FnMut(Transaction) -> R,
        R: Future<Output = Result<T, Error>>,
    {
        Ok(self.try_transact(body).await?.0)
    }

    /// As [`Database::transact`], with errors of the body's own, and the commit beside what the body gave.
    ///
    /// ```no_run
    /// # #[derive(Debug)]
    /// enum Refused {
    ///     SoldOut,
    ///     Database(sixfold::Error),
    /// }
    ///
    /// impl From<sixfold::Error> for Refused {
    ///     fn from(error: sixfold::Error) -> Refused {
    ///         Refused::Database(error)
    ///     }
    /// }
    ///
    /// # async fn example(database: sixfold::Database) -> Result<(), Refused> {
    /// let (left, commit) = database
    ///     .try_transact(|txn| async move {
    ///         let stock = txn.get("stock/apple").await?.map_or(0, |stock| stock[0]);
    ///         let left = stock.checked_sub(1).ok_or(Refused::SoldOut)?;
    ///         txn.put("stock/apple", [left])?;
    ///         Ok::<_, Refused>(left)
    ///     })
    ///     .await?;
    /// println!("{left} apples are left at {}", commit.lsn);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What the body gave; those of [`Database::transact`].
    pub async fn try_transact<T, E, F, R>(&self, mut body: F) -> Result<(T, CommitInfo), E>
    where
        E: From<Error>,
        F: FnMut(Transaction) -> R,
        R: Future<Output = Result<T, E>>,
    {
        let mut retries = Retries::new(self.inner.transact_deadline);
        let token = self.new_token();
        loop {
            let txn = match self.begin_for_transact(token).await {
                Ok(txn) => txn,
                Err(error) => {
                    self.pause(&mut retries, error).await?;
                    continue;
                }
            };
            let lsn = txn.read_point()?;
            let given = match body(txn.clone()).await {
                Ok(given) => given,
                Err(error) => match txn.shared.take_hurt() {
                    // A read failed for a reason that another read point may heal; what the body made of it is not asked.
                    Some(hurt) => {
                        txn.rollback();
                        if self.pause(&mut retries, hurt).await.is_err() {
                            return Err(error);
                        }
                        continue;
                    }
                    None => {
                        txn.rollback();
                        return Err(error);
                    }
                },
            };
            if txn.shared.has_ended() {
                return Ok((given, CommitInfo { lsn }));
            }
            match self.commit_known(&txn, &mut retries).await {
                Ok(info) => return Ok((given, info)),
                Err(error) if error.is_retryable() => self.pause(&mut retries, error).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Commits until the outcome is known: the same writes with the same token, so that what the body gave belongs to them,
    /// whichever try it was that did it.
    async fn commit_known(
        &self,
        txn: &Transaction,
        retries: &mut Retries,
    ) -> Result<CommitInfo, Error> {
        let prepared = txn.take_attempt()?.prepare().await?;
        let mut unknown: Option<Error> = None;
        loop {
            let unknown = match prepared.clone().run().await {
                Ok(info) => return Ok(info),
                Err(error @ Error::Unknown { .. }) => unknown.insert(error),
                // The token is looked up before conflicts and before the writes are planned: no try was done.
                Err(
                    error @ (Error::Conflict { .. } | Error::TooOld { .. } | Error::Invalid { .. }),
                ) => {
                    return Err(error);
                }
                // Anything else says nothing of an earlier try.
                Err(error) => match &mut unknown {
                    Some(unknown) => unknown,
                    None => return Err(error),
                },
            };
            let asks_on = self.inner.state.check_writable().is_ok();
            if !asks_on || self.pause(retries, unknown.clone()).await.is_err() {
                return Err(unknown.clone());
            }
        }
    }

    /// Pauses before the next try.
    ///
    /// # Errors
    /// The error itself when trying again does not help, or time is over.
    async fn pause(&self, retries: &mut Retries, error: Error) -> Result<(), Error> {
        if !error.is_retryable() && !matches!(error, Error::Unknown { .. }) {
            return Err(error);
        }
        let now = clock::now();
        let dice = u64::from_le_bytes(random::bytes());
        match retries.pause(now, &error, dice) {
            None => Err(error),
            Some(Duration::ZERO) => Ok(()),
            Some(pause) => {
                let until = now + pause;
                self.inner
                    .ask(|answer| Command::Pause { until, answer })
                    .await
            }
        }
    }
}
