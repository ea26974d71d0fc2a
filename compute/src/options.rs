//! Settings of a database.

use std::path::Path;
use std::time::Duration;

use sixfold_compute_core::{MemberBounds, WriterBounds};
use sixfold_log_format::VolumeParameters;
use sixfold_log_format::limits;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::settings::{self, Overrides};

/// Pages of a protection group by default: 10 GiB of 8 KiB pages.
const PAGES_PER_PG: u64 = (10 << 30) / limits::PAGE_BYTES_MAX as u64;

/// A writer that a dead rival's claims left with just a write quorum opens the volume again under a higher epoch after this long (R8).
const REFENCE_AFTER: Duration = Duration::from_secs(2);

/// How to create or open a database. Made from a [`Cluster`], which is read from a file or put together from its nodes; every
/// setting has a default.
///
/// ```no_run
/// # fn main() -> Result<(), sixfold::Error> {
/// use std::time::Duration;
///
/// let options = sixfold::Options::from_cluster_file("bank/cluster.toml")?
///     .cache_bytes(1 << 30)
///     .commit_deadline(Duration::from_secs(2));
/// # let _ = options;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) cluster: Cluster,
    pub(crate) cache_bytes: usize,
    pub(crate) commit_deadline: Duration,
    pub(crate) read_deadline: Duration,
    pub(crate) open_deadline: Duration,
    pub(crate) transact_deadline: Duration,
    pub(crate) transact_bytes_max: usize,
    pub(crate) token_retention: Duration,
    pub(crate) watch_bytes: usize,
    pub(crate) mtu_bytes: Option<u16>,
    pub(crate) seals_in_flight: usize,
    pub(crate) repair_after: Option<Duration>,
    pub(crate) grow_below_free_pages: Option<u64>,
    pub(crate) parameters: VolumeParameters,
}

impl Options {
    /// The defaults, for this cluster.
    pub fn new(cluster: Cluster) -> Options {
        Options {
            cluster,
            cache_bytes: 256 << 20,
            commit_deadline: Duration::from_secs(5),
            read_deadline: Duration::from_secs(5),
            open_deadline: Duration::from_secs(10),
            transact_deadline: Duration::from_secs(30),
            transact_bytes_max: 8 << 20,
            token_retention: Duration::from_secs(24 * 60 * 60),
            watch_bytes: 16 << 20,
            mtu_bytes: None,
            seals_in_flight: 3,
            repair_after: Some(Duration::from_secs(300)),
            grow_below_free_pages: None,
            parameters: VolumeParameters {
                page_bytes: u32::try_from(limits::PAGE_BYTES_MAX).expect("a page is small"),
                lal: limits::LAL_MAX,
                pages_per_pg: PAGES_PER_PG,
                retention_ms: 60 * 60 * 1_000,
                retention_bytes: 0,
                token: None,
            },
        }
    }

    /// For the cluster described in this file ([`Cluster::load`]), with the settings of its table `[writer]`, and those of the environment
    /// (`SIXFOLD_WRITER_PAGE_CACHE_MIB` for `page_cache_mib`) before these. What is set afterward goes before both.
    ///
    /// # Errors
    /// [`Error::Config`], one line with the file, the place and what is wrong.
    pub fn from_cluster_file(path: impl AsRef<Path>) -> Result<Options, Error> {
        settings::writer_options(path.as_ref(), &Overrides::default())
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Size of the page cache, bytes. 256 MiB unless set.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Options {
        self.cache_bytes = bytes;
        self
    }

    /// How long a commit may take. One that was not admitted by then is refused as [`Error::Unavailable`]; one that was
    /// shipped and lacks its quorum ends as [`Error::Unknown`]. 5 s unless set.
    #[must_use]
    pub fn commit_deadline(mut self, limit: Duration) -> Options {
        self.commit_deadline = limit;
        self
    }

    /// How long one read (`begin`, `get`, one step of a range) may wait for storage nodes. 5 s unless set.
    #[must_use]
    pub fn read_deadline(mut self, limit: Duration) -> Options {
        self.read_deadline = limit;
        self
    }

    /// How long `create`, `open` and `take_over` may wait for enough storage nodes. 10 s unless set.
    #[must_use]
    pub fn open_deadline(mut self, limit: Duration) -> Options {
        self.open_deadline = limit;
        self
    }

    /// How long `transact` runs a transaction again before it gives up with the last error. 30 s unless set.
    #[must_use]
    pub fn transact_deadline(mut self, limit: Duration) -> Options {
        self.transact_deadline = limit;
        self
    }

    /// How much a transaction run by `transact` may write, bytes of keys and values with 64 bytes for each operation. 8 MiB
    /// unless set, since a commit of 64 MiB, the most that any may have, holds up all others while it is applied
    /// (F16).
    #[must_use]
    pub fn transact_bytes_max(mut self, bytes: usize) -> Options {
        self.transact_bytes_max = bytes.min(limits::TRANSACTION_BYTES_MAX);
        self
    }

    /// How long tokens are good (T3): within this time, a transaction with the token of one that was committed is answered instead
    /// of being applied again. It counts from when the database drew the token, and for a token of the user's own from its
    /// commit. 24 hours unless set, at least the deadlines of a commit and of `transact` together; a token takes about 40
    /// bytes in the volume.
    #[must_use]
    pub fn token_retention(mut self, time: Duration) -> Options {
        self.token_retention = time;
        self
    }

    /// Directory with the certificates: `ca.pem`, `writer.pem` and `writer-key.pem`. The one that the cluster names unless set.
    #[must_use]
    pub fn tls_dir(mut self, dir: impl Into<std::path::PathBuf>) -> Options {
        self.cluster.tls_dir = dir.into();
        self
    }

    /// Recent redo that is kept in memory for all watches together, while there are any ([`Watch`](crate::Watch)), bytes. A watch that
    /// is behind it reads the log at the storage nodes. 16 MiB unless set.
    #[must_use]
    pub fn watch_bytes(mut self, bytes: usize) -> Options {
        self.watch_bytes = bytes;
        self
    }

    /// UDP payload to begin with, bytes: 8,900 fits jumbo frames and loopback. Unless set, QUIC starts at 1,200 and
    /// discovers more.
    #[must_use]
    pub fn mtu_bytes(mut self, bytes: u16) -> Options {
        self.mtu_bytes = Some(bytes);
        self
    }

    /// Sealed sets of batches that may lack their write quorum before commits gather for the next one (F2): 2 to 4, 3
    /// unless set. Fewer makes larger batches, more makes lone commits wait less.
    #[must_use]
    pub fn seals_in_flight(mut self, count: usize) -> Options {
        self.seals_in_flight = count;
        self
    }

    /// How long a segment may be silent before it is built anew on a spare node of its availability zone; `None` = for ever: an
    /// operator decides ([`Admin`](crate::Admin)). Five minutes unless set.
    #[must_use]
    pub fn repair_after(mut self, patience: Option<Duration>) -> Options {
        self.repair_after = patience;
        self
    }

    /// The volume grows by a protection group when fewer pages than this are free; `None` = by an operator's wish alone, which is so
    /// unless set.
    #[must_use]
    pub fn grow_below_free_pages(mut self, pages: Option<u64>) -> Options {
        self.grow_below_free_pages = pages;
        self
    }

    /// Page size of a volume to be created, bytes: a power of two up to 8,192, which is the default.
    #[must_use]
    pub fn page_bytes(mut self, bytes: u32) -> Options {
        self.parameters.page_bytes = bytes;
        self
    }

    /// LSN allocation limit of a volume to be created, records. 10,000,000 unless set, which is the most.
    #[must_use]
    pub fn lal(mut self, records: u64) -> Options {
        self.parameters.lal = records;
        self
    }

    /// Pages in a protection group of a volume to be created. 10 GiB of pages unless set.
    #[must_use]
    pub fn pages_per_pg(mut self, pages: u64) -> Options {
        self.parameters.pages_per_pg = pages;
        self
    }

    /// How long old versions of a volume to be created stay readable. One hour unless set.
    #[must_use]
    pub fn retention(mut self, time: Duration) -> Options {
        self.parameters.retention_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Checks what any use needs.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.cluster.check_nodes()?;
        if !(2..=4).contains(&self.seals_in_flight) {
            return Err(Error::config(format!(
                "seals_in_flight is {}, it must be 2 to 4",
                self.seals_in_flight
            )));
        }
        self.check_times().map_err(Error::config)?;
        if let Some(mtu_bytes) = self
            .mtu_bytes
            .filter(|bytes| !(1_200..=65_000).contains(bytes))
        {
            return Err(Error::config(format!(
                "mtu_bytes is {mtu_bytes}, it must be 1,200 to 65,000"
            )));
        }
        Ok(())
    }

    /// A token is good for as long as somebody may still use it.
    pub(crate) fn check_times(&self) -> Result<(), String> {
        let needed = self.commit_deadline.saturating_add(self.transact_deadline);
        if self.token_retention >= needed {
            return Ok(());
        }
        Err(format!(
            "token_retention is {:?}, it must be at least commit_deadline and transact_deadline together, {needed:?}",
            self.token_retention
        ))
    }

    /// Checks what a creation needs beyond that.
    pub(crate) fn check_for_creation(&self) -> Result<(), Error> {
        self.cluster.check_for_creation()?;
        let VolumeParameters {
            page_bytes,
            lal,
            pages_per_pg,
            ..
        } = self.parameters;
        let page_sizes = limits::PAGE_BYTES_MIN..=limits::PAGE_BYTES_MAX;
        if !page_bytes.is_power_of_two() || !page_sizes.contains(&(page_bytes as usize)) {
            return Err(Error::config(format!(
                "page_bytes is {page_bytes}, it must be a power of two up to 8,192"
            )));
        }
        // A creation's first MTR must fit a quarter of it, and a useful transaction some more.
        if !(64..=limits::LAL_MAX).contains(&lal) {
            return Err(Error::config(format!(
                "lal is {lal}, it must be 64 to {}",
                limits::LAL_MAX
            )));
        }
        if pages_per_pg < 16 {
            return Err(Error::config(format!(
                "pages_per_pg is {pages_per_pg}, it must be at least 16"
            )));
        }
        Ok(())
    }

    pub(crate) fn writer_bounds(&self) -> WriterBounds {
        WriterBounds {
            seals_in_flight_max: self.seals_in_flight,
            unacknowledged_bytes_max: limits::UNACKNOWLEDGED_BYTES_MAX,
            // The batches are shared between streams, so that this is a bound on lag, not on memory.
            stream_bytes_max: 32 << 20,
            cache_bytes_max: self.cache_bytes,
            waiting_commits_max: 65_536,
            remembered_keys_max: 2_000_000,
            watch_bytes_max: self.watch_bytes,
            lease: Duration::from_millis(limits::READ_LEASE_MS),
            token_retention: self.token_retention,
            members: MemberBounds {
                repair_after: self.repair_after,
                grow_below_free_pages: self.grow_below_free_pages,
                refence_after: Some(REFENCE_AFTER),
                ..MemberBounds::default()
            },
        }
    }
}
