//! The handle that users hold.

use std::sync::Arc;
use std::time::Duration;

use sixfold_compute_core::{PageView, Shared};
use sixfold_kv::{KvError, PageSource};
use sixfold_log_format::limits::TRANSACTION_BYTES_MAX;
use sixfold_log_format::{NodeId, PageId, VolumeId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::driver::clock::{self, VolumeClock};
use crate::driver::commands::Command;
use crate::driver::recovery::Respect;
use crate::driver::standby::Detected;
use crate::driver::state::State;
use crate::driver::{self, Mode, Started};
use crate::error::Error;
use crate::options::Options;
use crate::random;
use crate::read::{self, Pages, ReadLimit};
use crate::snapshot::Snapshot;
use crate::space::Space;
use crate::stats::{OpenReport, Stats, Status};
use crate::token::Token;
use crate::transaction::Transaction;
use crate::watch_news::WatchWaker;

/// Most bytes of commits that wait for the writer or for their answer. Any one transaction fits: what it writes and what it
/// has read are bounded by the same limit.
const WAITING_COMMIT_BYTES_MAX: usize = 4 * TRANSACTION_BYTES_MAX;

/// A volume, open for writing. Cheap to clone; clones are the same database, for any number of threads and tasks.
///
/// It runs a thread of its own and works with any async executor. When the last clone, transaction and snapshot are
/// dropped without [`Database::close`], the thread ends at once, and commits in flight end with an unknown outcome.
///
/// Transactions and snapshots that are made here see the keys of the default keyspace; [`Database::create_keyspace`] makes
/// others.
#[derive(Debug, Clone)]
pub struct Database {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) state: Arc<State>,
    /// The default keyspace.
    pub(crate) space: Space,
    pub(crate) transact_deadline: Duration,
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    report: OpenReport,
    volume: VolumeId,
    clock: VolumeClock,
    commit_deadline: Duration,
    read_deadline: Duration,
    transact_bytes_max: usize,
    pub(crate) watch_waker: WatchWaker,
}

impl Database {
    /// Creates the volume that the cluster names, and opens it. Needs all six nodes. A creation that broke off is
    /// finished.
    ///
    /// # Errors
    /// [`Error::Exists`] when it was opened before, [`Error::Config`], [`Error::Unavailable`] when a node did not answer.
    pub async fn create(options: Options) -> Result<Database, Error> {
        Database::start(options, Mode::Create).await
    }

    /// Opens a volume that nobody is writing. It takes milliseconds, however much was written since pages were last
    /// built: nothing is redone.
    ///
    /// # Errors
    /// [`Error::InUse`] while another writer is alive, [`Error::NoVolume`], [`Error::Unavailable`] without a write
    /// quorum, [`Error::Config`].
    pub async fn open(options: Options) -> Result<Database, Error> {
        Database::start(options, Mode::Open(Respect::the_living())).await
    }

    /// Opens a volume also when another writer is alive, which is fenced: nothing that it tries from then on succeeds.
    /// What it had answered is there.
    ///
    /// # Errors
    /// Those of [`Database::open`] but [`Error::InUse`]; [`Error::Fenced`] when yet another one was faster.
    pub async fn take_over(options: Options) -> Result<Database, Error> {
        Database::start(options, Mode::Open(Respect::nobody())).await
    }

    /// **Unsafe for the data.** Opens a volume of which three copies or more are destroyed, on the word of the caller that the copies on
    /// `nodes` are gone for good (R19). No other way leads on from there, since no change of membership is possible without four of six.
    ///
    /// All three survivors of each protection group have to answer. What was answered to clients is kept, for each answered commit is
    /// on one of them at least. The groups go on with their survivors, at first as sets of three, and the identities of the lost segments are
    /// refused for ever, also should they return.
    ///
    /// Do this only to nodes that are destroyed, or off for good. Nodes that are merely cut off from here may still serve a writer
    /// somewhere else, whose reads are then stale for as long as it finds three of them.
    ///
    /// # Errors
    /// [`Error::Invalid`] when every group has its write quorum without these nodes, so that an ordinary opening and replacements do, or when
    /// fewer than three segments of a group are left; [`Error::Unavailable`] when a survivor does not answer;
    /// [`Error::InUse`] while a writer is alive; those of [`Database::open`]. Nothing was changed then.
    pub async fn open_declaring_lost(
        options: Options,
        nodes: &[NodeId],
    ) -> Result<Database, Error> {
        let respect = Respect {
            lost: nodes.to_vec(),
            ..Respect::the_living()
        };
        Database::start(options, Mode::Open(respect)).await
    }

    async fn start(options: Options, mode: Mode) -> Result<Database, Error> {
        Ok(Database::start_as(options, mode).await?.0)
    }

    /// Opens it. Of a standby: when and why, too.
    pub(crate) async fn start_as(
        options: Options,
        mode: Mode,
    ) -> Result<(Database, Option<Detected>), Error> {
        let begin = clock::now();
        let started = driver::start(options.clone(), mode).await?;
        let detected = started.detected;
        let mut inner = Inner::new(&options, started);
        let recorded = inner
            .recorded_ms(ReadLimit::of_opening(&options, begin))
            .await;
        if let Ok(recorded_ms) = recorded {
            inner.clock.raise(recorded_ms);
        }
        let inner = Arc::new(inner);
        let database = Database { inner };
        match recorded {
            Ok(_) => Ok((database, detected)),
            Err(error) => {
                database.close().await;
                Err(error)
            }
        }
    }

    /// Begins a transaction that sees everything answered before this call, and nothing that is answered later.
    ///
    /// Usually this costs nothing but a look at a clock: the writer holds a *read lease* (T1). Without one, because the
    /// volume was idle or nodes are slow, it waits for one round to the nodes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when too few nodes answer to tell that this is still the volume's writer,
    /// [`Error::Fenced`], [`Error::Closed`].
    pub async fn begin(&self) -> Result<Transaction, Error> {
        self.begin_as(None, TRANSACTION_BYTES_MAX).await
    }

    /// Begins a transaction that is applied at most once, however often it is run: the token is stored with the commit for the
    /// retention window. When a commit with this token was done before, by this writer or by one before it, the commit of this
    /// transaction changes nothing and is answered with the LSN of the one that was done. That is how an
    /// [`Error::Unknown`] is solved: run the transaction again with the same token. (T3)
    ///
    /// [`Database::transact`] does so by itself; a token of one's own is for work that has to survive the process.
    /// A transaction that writes nothing uses its token up, too. An error of a second run speaks of that run alone: when it
    /// says that nothing was written, an earlier run whose outcome was unknown may have been done, or may still be
    /// ([`Error::Conflict`], [`Error::TooOld`] and [`Error::Invalid`] of the commit come behind the look at the token: then
    /// none was).
    ///
    /// ```no_run
    /// # async fn example(database: sixfold::Database) -> Result<(), sixfold::Error> {
    /// // Kept where it survives, before the first try.
    /// let token = database.new_token();
    /// let commit = loop {
    ///     let txn = database.begin_with_token(token).await?;
    ///     txn.add("account/bob", 10)?;
    ///     match txn.commit().await {
    ///         Err(error) if error.is_unknown() || error.is_retryable() => continue,
    ///         result => break result?,
    ///     }
    /// };
    /// println!("ten, once, at {}", commit.lsn);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`Database::begin`].
    pub async fn begin_with_token(&self, token: impl Into<Token>) -> Result<Transaction, Error> {
        self.begin_as(Some(token.into()), TRANSACTION_BYTES_MAX)
            .await
    }

    /// A token for [`Database::begin_with_token`]: it is never used twice, and one that is older than what is remembered
    /// is refused ([`Error::TokenTooOld`]) instead of being applied again.
    pub fn new_token(&self) -> Token {
        Token::made(self.inner.shared.vdl(), random::bytes())
    }

    pub(crate) async fn begin_for_transact(&self, token: Token) -> Result<Transaction, Error> {
        let bytes_max = self.inner.transact_bytes_max;
        let txn = self.begin_as(Some(token), bytes_max).await?;
        txn.leave_token_open();
        Ok(txn)
    }

    async fn begin_as(&self, token: Option<Token>, bytes_max: usize) -> Result<Transaction, Error> {
        self.inner.state.check_writable()?;
        // The read point is taken first and the lease looked at afterwards. A lease that is valid at a moment t says that
        // no other writer has answered anything before t. The read point was VDL before t, and after this call began; so
        // whatever was answered before the call began is at or below it: answered by this writer, which publishes VDL
        // before it answers, or by an earlier one, whose commits this one opened with. (Looking at the lease first would
        // leave a gap: the process may be stopped between the two.) For the same reason a lease that had to be asked for
        // proves the read point taken before: its round began after.
        let point = self.inner.shared.announce();
        if !self.inner.is_leased() {
            let deadline = self.inner.read_until(ReadLimit::default());
            if !self
                .inner
                .ask(|answer| Command::WantLease { deadline, answer })
                .await?
            {
                self.inner.state.check_writable()?;
                return Err(Error::unavailable(
                    "no read lease: too few storage nodes answered in time",
                ));
            }
        }
        let inner = Arc::clone(&self.inner);
        Ok(Transaction::new(inner, point, token, bytes_max))
    }

    /// A view of the volume as of now, for reading only. It never conflicts, and it never waits for a lease: should another
    /// writer have taken the volume over unnoticed, it is as of the last point that this one knows.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(Arc::clone(&self.inner), self.inner.shared.announce())
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.inner.volume
    }

    /// How the volume was opened.
    pub fn open_report(&self) -> OpenReport {
        self.inner.report
    }

    /// The database's numbers.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn stats(&self) -> Result<Stats, Error> {
        let (writer, wire) = self.inner.ask(|answer| Command::Stats { answer }).await?;
        Ok(Stats {
            writer,
            wire,
            waiting_commit_bytes: WAITING_COMMIT_BYTES_MAX - self.inner.room.available_permits(),
            waiting_commit_bytes_max: WAITING_COMMIT_BYTES_MAX,
        })
    }

    /// The database's numbers, and those of its storage nodes, which are asked: it may take two seconds when some are
    /// down.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn status(&self) -> Result<Status, Error> {
        let nodes = self
            .inner
            .ask(|answer| Command::AskNodes { answer })
            .await?;
        let stats = self.stats().await?;
        Ok(Status {
            volume: self.inner.volume,
            opened: self.inner.report,
            stats,
            nodes,
        })
    }

    /// Closes the database: commits that were called before are answered, later calls on any clone, transaction or
    /// snapshot are refused as [`Error::Closed`]. Returns when the storage nodes have been told. Closing twice is no error.
    pub async fn close(&self) {
        // The answer is missing when the thread has ended already.
        let (answer, answered) = oneshot::channel();
        if self
            .inner
            .commands
            .send(Command::Close { answer })
            .await
            .is_ok()
        {
            let _ended = answered.await;
        }
    }
}

impl Inner {
    /// What users hold of an open volume.
    pub(crate) fn new(options: &Options, started: Started) -> Inner {
        Inner {
            shared: started.shared,
            state: started.state,
            space: Space::default_of(started.page_bytes),
            transact_deadline: options.transact_deadline,
            commands: started.commands,
            room: Arc::new(Semaphore::new(WAITING_COMMIT_BYTES_MAX)),
            report: started.report,
            volume: options.cluster.volume,
            clock: started.clock,
            commit_deadline: options.commit_deadline,
            read_deadline: options.read_deadline,
            transact_bytes_max: options.transact_bytes_max,
            watch_waker: started.watch_waker,
        }
    }

    /// Whether the read lease is held at this moment (T1).
    fn is_leased(&self) -> bool {
        // The lease is read first: it only grows.
        self.shared
            .lease_until()
            .is_some_and(|until| clock::now() < until)
    }

    /// When a read that begins now is given up.
    pub(crate) fn read_until(&self, limit: ReadLimit) -> Duration {
        clock::now().saturating_add(limit.0.unwrap_or(self.read_deadline))
    }

    /// The engine's own rows.
    pub(crate) fn engine_space(&self) -> Space {
        self.space.engine()
    }

    /// The volume's clock, wall-clock milliseconds: the writer's, which was raised to what earlier writers recorded (T5).
    pub(crate) fn volume_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// The volume.
    pub(crate) fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The clock that the volume has recorded.
    pub(crate) async fn recorded_ms(&self, limit: ReadLimit) -> Result<u64, Error> {
        let point = self.shared.announce();
        let meta = |view: &PageView| match view.page(PageId::META) {
            Some(meta) => Ok(meta.clock_ms()),
            None => Err(KvError::Miss(vec![PageId::META])),
        };
        read::run(self, &mut Pages::new(&point), limit, meta).await
    }

    /// Room for a commit among those that wait for the writer.
    pub(crate) async fn room_for(&self, bytes: usize) -> OwnedSemaphorePermit {
        let bytes = u32::try_from(bytes.min(WAITING_COMMIT_BYTES_MAX)).expect("it is below 4 GiB");
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        room.expect("the semaphore is never closed")
    }

    /// When a commit that begins now is given up.
    pub(crate) fn commit_until(&self) -> Duration {
        clock::now().saturating_add(self.commit_deadline)
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Error> {
        let answered = self.send(command).await?;
        answered.await.map_err(|_| self.state.gone())
    }

    /// Sends a command.
    pub(crate) async fn send<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<oneshot::Receiver<T>, Error> {
        self.state.check_open()?;
        let (answer, answered) = oneshot::channel();
        self.commands
            .send(command(answer))
            .await
            .map_err(|_| self.state.gone())?;
        Ok(answered)
    }
}
