//! The handle that users hold.

use std::sync::Arc;
use std::time::Duration;

use sixfold_compute_core::{Shared, WriterStats};
use sixfold_log_format::wire::NodeStatus;
use sixfold_log_format::{Lsn, NodeId, VolumeEpoch, VolumeId};
use sixfold_transport::WireStats;
use tokio::sync::{mpsc, oneshot};

use crate::driver::commands::Command;
use crate::driver::state::State;
use crate::driver::{self, Mode, Started, clock};
use crate::error::Error;
use crate::options::Options;
use crate::snapshot::Snapshot;
use crate::transaction::Transaction;

/// A volume, open for writing. Cheap to clone; clones are the same database.
///
/// It runs a thread of its own and works with any async executor. When the last clone, transaction and snapshot are
/// dropped without [`Database::close`], the thread ends at once, and commits in flight end with an unknown outcome.
#[derive(Debug, Clone)]
pub struct Database {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) state: Arc<State>,
    commands: mpsc::Sender<Command>,
    report: OpenReport,
    volume: VolumeId,
    commit_deadline: Duration,
    read_deadline: Duration,
}

/// How a volume was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenReport {
    /// The volume epoch that this writer holds.
    pub volume_epoch: VolumeEpoch,
    /// The last point that survived of the writers before: everything that they answered is at or below it.
    pub cut: Lsn,
    /// Batches that were copied to segments that lacked them.
    pub refilled_batches: u64,
    /// How long the read lease of the writer before had to be waited for, beyond all other work.
    pub lease_wait: Duration,
    /// How long opening took, from the call until commits were taken, without `lease_wait`.
    pub open: Duration,
}

impl OpenReport {
    /// [`OpenReport::lease_wait`] in whole milliseconds, rounded up.
    pub fn lease_wait_ms(&self) -> u64 {
        clock::ceil_ms(self.lease_wait)
    }

    /// [`OpenReport::open`] in whole milliseconds, rounded up.
    pub fn open_ms(&self) -> u64 {
        clock::ceil_ms(self.open)
    }
}

/// Numbers of a database, since it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// The writer's points, counts, and how it stands to each segment.
    pub writer: WriterStats,
    /// What all its connections have moved.
    pub wire: WireStats,
}

impl Stats {
    /// Bytes sent and received as IP packets over IPv4: UDP payload and 28 bytes of headers a datagram.
    pub fn ip_bytes(&self) -> u64 {
        const HEADER_BYTES: u64 = 20 + 8;
        let WireStats {
            sent_bytes,
            sent_datagrams,
            received_bytes,
            received_datagrams,
        } = self.wire;
        sent_bytes + received_bytes + HEADER_BYTES * (sent_datagrams + received_datagrams)
    }
}

/// How a database and its storage nodes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The volume.
    pub volume: VolumeId,
    /// How it was opened.
    pub opened: OpenReport,
    /// Its numbers.
    pub stats: Stats,
    /// What each node of the cluster says of itself, in the cluster's order; `None` for one that did not answer.
    pub nodes: Vec<(NodeId, Option<NodeStatus>)>,
}

impl Status {
    /// Bytes of this volume's redo that are not folded into pages yet: the most that any segment reports. `None` when no
    /// node answered.
    pub fn unfolded_bytes(&self) -> Option<u64> {
        let statuses = self.nodes.iter().filter_map(|(_, status)| status.as_ref());
        let segments = statuses.flat_map(|status| &status.segments);
        segments
            .filter(|segment| segment.volume == self.volume)
            .map(|segment| segment.unfolded_bytes)
            .max()
    }
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
        Database::start(options, Mode::Open).await
    }

    /// Opens a volume also when another writer is alive, which is fenced: nothing that it tries from then on succeeds.
    /// What it had answered is there.
    ///
    /// # Errors
    /// Those of [`Database::open`] but [`Error::InUse`]; [`Error::Fenced`] when yet another one was faster.
    pub async fn take_over(options: Options) -> Result<Database, Error> {
        Database::start(options, Mode::TakeOver).await
    }

    async fn start(options: Options, mode: Mode) -> Result<Database, Error> {
        let volume = options.cluster.volume;
        let (commit_deadline, read_deadline) = (options.commit_deadline, options.read_deadline);
        let Started {
            commands,
            shared,
            state,
            report,
        } = driver::start(options, mode).await?;
        let inner = Inner {
            shared,
            state,
            commands,
            report,
            volume,
            commit_deadline,
            read_deadline,
        };
        Ok(Database {
            inner: Arc::new(inner),
        })
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
        self.inner.state.check_writable()?;
        // The read point is taken first and the lease looked at afterwards. A lease that is valid at a moment t says that
        // no other writer has answered anything before t. The read point was VDL before t, and after this call began; so
        // whatever was answered before the call began is at or below it: answered by this writer, which publishes VDL
        // before it answers, or by an earlier one, whose commits this one opened with. (Looking at the lease first would
        // leave a gap: the process may be stopped between the two.) For the same reason a lease that had to be asked for
        // proves the read point taken before: its round began after.
        let point = self.inner.shared.announce();
        if !self.inner.is_leased() {
            let deadline = clock::now() + self.inner.read_deadline;
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
        Ok(Transaction::new(Arc::clone(&self.inner), point))
    }

    /// A view of the volume as of now, for reading only. It never conflicts, and it never waits for a lease: should another
    /// writer have taken the volume over unnoticed, it is as of the last point that this one knows.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(Arc::clone(&self.inner), self.inner.shared.announce())
    }

    /// A view of the volume as of a commit: `lsn` is what [`CommitInfo::lsn`](crate::CommitInfo) or [`Snapshot::lsn`] said.
    /// Other LSNs are not rounded down to a commit yet, and may show a part of a transaction.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a point that is not durable yet. A point older than what is retained is refused by its first
    /// read, as [`Error::TooOld`].
    pub fn snapshot_at(&self, lsn: Lsn) -> Result<Snapshot, Error> {
        let point = self.inner.shared.announce_at(lsn).ok_or_else(|| {
            Error::invalid(format!(
                "snapshot at {lsn}: the last durable commit is {}",
                self.inner.shared.vdl()
            ))
        })?;
        Ok(Snapshot::new(Arc::clone(&self.inner), point))
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
        Ok(Stats { writer, wire })
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
    /// Whether the read lease is held at this moment (T1).
    fn is_leased(&self) -> bool {
        // The lease is read first: it only grows.
        self.shared
            .lease_until()
            .is_some_and(|until| clock::now() < until)
    }

    /// When a read that begins now is given up.
    pub(crate) fn read_until(&self) -> Duration {
        clock::now() + self.read_deadline
    }

    /// When a commit that begins now is given up.
    pub(crate) fn commit_until(&self) -> Duration {
        clock::now() + self.commit_deadline
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
