//! A standby: a process that becomes the writer when the writer is gone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sixfold_log_format::limits::IN_USE_MS;

use crate::database::Database;
use crate::driver::Mode;
use crate::driver::clock;
use crate::driver::standby::Detected;
use crate::driver::state::State;
use crate::error::Error;
use crate::options::Options;
use crate::settings::{self, Overrides};

/// A volume that was lost to another writer this soon after it was taken over is opened again only after a hold-down.
const SOON: Duration = Duration::from_secs(60);
/// Most times that the hold-down doubles.
const DOUBLINGS_MAX: u32 = 8;
/// The shortest patience: a writer is never silent for 100 ms while it lives, but networks are.
const PATIENCE_MIN: Duration = Duration::from_millis(200);

/// How a standby watches the writer. Every setting has a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyOptions {
    pub(crate) patience: Duration,
    pub(crate) poll: Duration,
    pub(crate) hold_down: Duration,
    pub(crate) hold_down_max: Duration,
}

impl Default for StandbyOptions {
    fn default() -> StandbyOptions {
        StandbyOptions {
            patience: Duration::from_millis(IN_USE_MS),
            poll: Duration::from_millis(200),
            hold_down: Duration::from_millis(500),
            hold_down_max: Duration::from_secs(30),
        }
    }
}

impl StandbyOptions {
    /// The defaults.
    pub fn new() -> StandbyOptions {
        StandbyOptions::default()
    }

    /// The settings of the table `[standby]` of a cluster's file, and those of the environment (`SIXFOLD_STANDBY_PATIENCE_MS` for
    /// `patience_ms`) before these.
    ///
    /// # Errors
    /// [`Error::Config`], one line with the file, the place and what is wrong.
    pub fn from_cluster_file(path: impl AsRef<Path>) -> Result<StandbyOptions, Error> {
        settings::standby_options(path.as_ref(), &Overrides::default())
    }

    /// For how long the writer must not have been heard. 1 s unless set, at least 200 ms; a living writer is heard each 100 ms, however
    /// idle. With less than 1 s a standby takes over from a writer that [`Database::open`] would still call alive.
    #[must_use]
    pub fn patience(mut self, time: Duration) -> StandbyOptions {
        self.patience = time.max(PATIENCE_MIN);
        self
    }

    /// How often the storage nodes are asked while all is well. 200 ms unless set. When the writer falls silent they are asked just when
    /// the patience is over, whatever this says.
    #[must_use]
    pub fn poll(mut self, interval: Duration) -> StandbyOptions {
        self.poll = interval.max(Duration::from_millis(10));
        self
    }

    /// About how long it only watches after it lost a race against another standby, or lost the volume within a minute after it took
    /// over; it doubles each time that this happens again. 500 ms unless set.
    #[must_use]
    pub fn hold_down(mut self, time: Duration) -> StandbyOptions {
        self.hold_down = time;
        self
    }

    /// The longest such time. 30 s unless set.
    #[must_use]
    pub fn hold_down_max(mut self, time: Duration) -> StandbyOptions {
        self.hold_down_max = time;
        self
    }
}

/// How a failover went. The times follow each other: the writer falls silent, is declared gone, the volume is open, a commit is
/// durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailoverReport {
    /// For how long the writer had been silent when it was declared gone, as the storage nodes say.
    pub detected: Duration,
    /// From there until commits were taken, without `lease_wait`.
    pub open: Duration,
    /// How long the old writer's read lease had to be waited for, beyond all other work.
    pub lease_wait: Duration,
    /// From being declared gone until the first commit was durable, without `lease_wait`; `None` when that commit was not answered
    /// in time.
    pub first_commit: Option<Duration>,
}

impl FailoverReport {
    /// [`FailoverReport::detected`] in whole milliseconds, rounded up.
    pub fn detected_ms(&self) -> u64 {
        clock::ceil_ms(self.detected)
    }

    /// [`FailoverReport::open`] in whole milliseconds, rounded up.
    pub fn open_ms(&self) -> u64 {
        clock::ceil_ms(self.open)
    }

    /// [`FailoverReport::lease_wait`] in whole milliseconds, rounded up.
    pub fn lease_wait_ms(&self) -> u64 {
        clock::ceil_ms(self.lease_wait)
    }

    /// [`FailoverReport::first_commit`] in whole milliseconds, rounded up.
    pub fn first_commit_ms(&self) -> Option<u64> {
        self.first_commit.map(clock::ceil_ms)
    }
}

/// A standby of a volume's writer.
///
/// It asks the storage nodes how long ago they heard the writer, and opens the volume when a read quorum of the first protection group has
/// not heard it for the patience. No clocks are compared: each node counts by its own. A writer that can still write is never
/// disturbed, and of several standbys one wins, and the others go on watching.
///
/// ```no_run
/// # async fn example() -> Result<(), sixfold::Error> {
/// use sixfold::{Database, Options, StandbyOptions};
///
/// let options = Options::from_cluster_file("bank/cluster.toml")?;
/// let mut standby = Database::standby(options, StandbyOptions::new());
/// loop {
///     let (database, report) = standby.opened().await?;
///     println!("the writer since {} ms after its silence", report.open_ms());
///     serve(database).await; // until it is fenced
/// }
/// # }
/// # async fn serve(database: sixfold::Database) {}
/// ```
#[derive(Debug)]
pub struct Standby {
    options: Options,
    watch: StandbyOptions,
    /// The last volume that was opened, and when.
    last: Option<(Arc<State>, Duration)>,
    /// Takeovers in a row that were lost soon.
    lost_count: u32,
}

impl Database {
    /// A standby: it opens the volume when its writer is gone. Nothing happens before [`Standby::opened`] is called.
    pub fn standby(options: Options, watch: StandbyOptions) -> Standby {
        Standby {
            options,
            watch,
            last: None,
            lost_count: 0,
        }
    }

    /// Whether another writer has taken the volume over: this database can do nothing more.
    pub fn is_fenced(&self) -> bool {
        self.inner.state.is_fenced()
    }
}

impl Standby {
    /// Watches until the writer is gone, opens the volume and commits something that nobody sees, to show that it can. Called again
    /// after the volume was lost to another writer, it watches again, and waits longer when that was soon. Dropping the
    /// future ends it.
    ///
    /// # Errors
    /// What no waiting heals: [`Error::Config`], [`Error::Corrupt`], [`Error::HistoryFull`]. Nodes that are down and volumes that do not
    /// exist are waited for.
    pub async fn opened(&mut self) -> Result<(Database, FailoverReport), Error> {
        loop {
            let mode = Mode::Standby(self.watch, self.hold());
            let (database, detected) = match Database::start_as(self.options.clone(), mode).await {
                Ok(opened) => opened,
                // Lost again between opening and the first look at the volume, or too few nodes for that look.
                Err(Error::Fenced { .. } | Error::Unavailable { .. }) => {
                    self.lost_count = self.lost_count.saturating_add(1);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let detected = detected.expect("a standby says when it opened");
            let state = Arc::clone(&database.inner.state);
            self.last = Some((state, clock::now()));
            match first_commit(&database).await {
                Err(Error::Fenced { .. }) => database.close().await,
                committed => {
                    let report = report(&database, detected, committed.is_ok());
                    return Ok((database, report));
                }
            }
        }
    }

    /// For how long it only watches now.
    fn hold(&mut self) -> Duration {
        if let Some((state, opened_at)) = self.last.take() {
            let soon = clock::now().saturating_sub(opened_at) < SOON;
            if soon && state.is_fenced() {
                self.lost_count = self.lost_count.saturating_add(1);
            } else {
                self.lost_count = 0;
            }
        }
        let Some(doublings) = self.lost_count.checked_sub(1) else {
            return Duration::ZERO;
        };
        let doubled = self.watch.hold_down * (1 << doublings.min(DOUBLINGS_MAX));
        doubled.min(self.watch.hold_down_max)
    }
}

/// Commits a token of nobody's: durable, and without a trace among the keys.
async fn first_commit(database: &Database) -> Result<(), Error> {
    let txn = database.begin_with_token(database.new_token()).await?;
    txn.commit().await?;
    Ok(())
}

fn report(database: &Database, detected: Detected, committed: bool) -> FailoverReport {
    let opened = database.open_report();
    let since = clock::now().saturating_sub(detected.at);
    FailoverReport {
        detected: detected.silent,
        open: opened.open,
        lease_wait: opened.lease_wait,
        first_commit: committed.then(|| since.saturating_sub(opened.lease_wait)),
    }
}
