//! Reading a volume without being its writer (R23).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::{Lsn, VolumeEpoch, VolumeId};
use tokio::sync::{mpsc, oneshot};

use crate::database::{Database, Inner};
use crate::driver::clock;
use crate::driver::commands::Command;
use crate::driver::reader::{self, Again, Reading};
use crate::error::Error;
use crate::options::Options;
use crate::range::{KeyRange, Range};
use crate::read::ReadLimit;
use crate::snapshot::Snapshot;

/// A volume, open for reading at one point. Cheap to clone.
///
/// It claims nothing: a writer that is alive beside it does not notice it, and where too few storage nodes are left for a writer,
/// half of the nodes of each protection group, three of six, still serve it. What it shows does not move:
/// [`ReadOnly::refresh`] gives another handle with the state of now.
///
/// ```no_run
/// # async fn example() -> Result<(), sixfold::Error> {
/// use sixfold::{Database, Options};
///
/// let options = Options::from_cluster_file("bank/cluster.toml")?;
/// let reader = Database::open_read_only(options).await?;
/// println!("{}: {:?}", reader.as_of(), reader.get("account/alice").await?);
/// # Ok(())
/// # }
/// ```
///
/// # What it shows
///
/// Everything that was answered before it was opened or refreshed, nothing that is committed later. Where a reopening had begun and no
/// node told how it ended, [`AsOf::settled`] is false: what was answered is shown all the same, but of commits whose outcome was unknown
/// to their writer some may be shown that vanish later.
///
/// # How long it can be read
///
/// For as long as the volume keeps old versions ([`Options::retention`]). Nobody tells the storage nodes that somebody reads here, as the
/// writer's own snapshots do: on a volume with a short retention, and a writer that is busy, reads may soon end as
/// [`Error::TooOld`]. Refresh then. When another writer opens the volume meanwhile, reading goes on; should that one have annulled the
/// point, which happens to unsettled ones only, every further read of what is not in memory ends as [`Error::Fenced`].
#[derive(Debug, Clone)]
pub struct ReadOnly {
    inner: Arc<Inner>,
    options: Arc<Options>,
    as_of: AsOf,
    again: mpsc::Sender<Again>,
}

/// The point that a [`ReadOnly`] shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsOf {
    /// It shows the commits at or below this one.
    pub lsn: Lsn,
    /// The volume's clock at that point, wall-clock milliseconds, a tick of 100 ms before the last commit at most; `None` for a volume
    /// that has recorded no time yet.
    pub unix_ms: Option<u64>,
    /// False when a reopening had begun of which no node told how it ended: of commits whose outcome was unknown some may be shown that
    /// vanish later. What was answered never does.
    pub settled: bool,
    /// The epoch of the last writer that opened the volume, as far as the nodes told.
    pub volume_epoch: VolumeEpoch,
    /// How long finding the point took.
    pub open: Duration,
}

impl AsOf {
    /// [`AsOf::open`] in whole milliseconds, rounded up.
    pub fn open_ms(&self) -> u64 {
        clock::ceil_ms(self.open)
    }
}

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "as of {}", self.lsn)?;
        if let Some(unix_ms) = self.unix_ms {
            write!(f, " at {unix_ms} ms")?;
        }
        if !self.settled {
            f.write_str(", unsettled")?;
        }
        Ok(())
    }
}

impl Database {
    /// Opens a volume for reading only. Three of the six segments of each protection group have to answer; nobody is
    /// disturbed, and nothing is written.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when fewer answer, or when they do not come to hold the same in time; [`Error::NoVolume`],
    /// [`Error::Config`], [`Error::Corrupt`].
    pub async fn open_read_only(options: Options) -> Result<ReadOnly, Error> {
        let begin = clock::now();
        let reading = reader::start(options.clone()).await?;
        ReadOnly::new(Arc::new(options), reading, begin).await
    }
}

impl ReadOnly {
    async fn new(
        options: Arc<Options>,
        reading: Reading,
        begin: Duration,
    ) -> Result<ReadOnly, Error> {
        let Reading {
            started,
            lsn,
            settled,
            again,
        } = reading;
        let report = started.report;
        let inner = Inner::new(&options, started);
        // Shows, too, that pages can be read.
        let recorded_ms = inner
            .recorded_ms(ReadLimit::of_opening(&options, begin))
            .await?;
        let as_of = AsOf {
            lsn,
            unix_ms: Some(recorded_ms).filter(|&ms| ms > 0),
            settled,
            volume_epoch: report.volume_epoch,
            open: report.open,
        };
        Ok(ReadOnly {
            inner: Arc::new(inner),
            options,
            as_of,
            again,
        })
    }

    /// What it shows.
    pub fn as_of(&self) -> AsOf {
        self.as_of
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.inner.volume()
    }

    /// A view of the point.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(Arc::clone(&self.inner), self.inner.shared.announce())
    }

    /// A view of the point over the keys of a keyspace; `None` when there was none of this name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty name or one above 128 bytes; those of [`Snapshot::get`].
    pub async fn keyspace(&self, name: &str) -> Result<Option<Snapshot>, Error> {
        let snapshot = self.snapshot();
        crate::keyspace::snapshot_of(&snapshot, &self.inner, name).await
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty or overlong key, [`Error::Unavailable`], [`Error::TooOld`], [`Error::Fenced`],
    /// [`Error::Closed`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        self.snapshot().get(key).await
    }

    /// The values of keys, in the order of the keys: what is not in memory is fetched together.
    ///
    /// # Errors
    /// Those of [`ReadOnly::get`].
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        self.snapshot().get_many(keys).await
    }

    /// The keys and values of a range, ascending. See [`Range`].
    pub fn range(&self, range: impl KeyRange) -> Range {
        self.snapshot().range(range)
    }

    /// Another handle, with the state of now, over the same connections. This one stays as it is.
    ///
    /// # Errors
    /// Those of [`Database::open_read_only`], [`Error::Closed`].
    pub async fn refresh(&self) -> Result<ReadOnly, Error> {
        self.inner.state.check_open()?;
        let begin = clock::now();
        let (answer, answered) = oneshot::channel();
        let gone = |_| self.inner.state.gone();
        self.again
            .send(answer)
            .await
            .map_err(|_| self.inner.state.gone())?;
        let reading = answered.await.map_err(gone)??;
        ReadOnly::new(Arc::clone(&self.options), reading, begin).await
    }

    /// Closes it, with every handle that was refreshed from it or that it was refreshed from: later calls are refused as
    /// [`Error::Closed`]. Closing twice is no error.
    pub async fn close(&self) {
        let closed = self.inner.ask(|answer| Command::Close { answer });
        // It has ended already when there is no answer.
        let _ended = closed.await;
    }
}
