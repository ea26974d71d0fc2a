//! A log-is-the-database storage engine: an embedded, transactional, ordered key-value store on six storage nodes.
//!
//! Your process is the writer. It turns transactions into redo, ships the redo to six storage nodes in three availability
//! zones, and answers a commit once four of them have it on disk. It never writes a page: storage nodes build pages
//! from redo when somebody asks. A crash therefore loses nothing that was answered, and opening again takes milliseconds.
//!
//! ```no_run
//! use sixfold::{Database, Error, Options};
//!
//! # async fn example() -> Result<(), Error> {
//! let database = Database::open(Options::from_cluster_file("bank/cluster.toml")?).await?;
//!
//! // Move 10 from alice to bob: run again when somebody else has touched one of the two meanwhile, and applied once.
//! database
//!     .transact(|txn| async move {
//!         let alice = balance(txn.get("account/alice").await?);
//!         let bob = balance(txn.get("account/bob").await?);
//!         txn.put("account/alice", (alice - 10).to_le_bytes())?;
//!         txn.put("account/bob", (bob + 10).to_le_bytes())
//!     })
//!     .await?;
//!
//! // Read at one point, while others write on.
//! let snapshot = database.snapshot();
//! let mut accounts = snapshot.range(sixfold::prefix("account/"));
//! while let Some((key, value)) = accounts.next().await? {
//!     println!("{}: {}", String::from_utf8_lossy(&key), balance(Some(value)));
//! }
//! database.close().await;
//! # Ok(())
//! # }
//! # fn balance(value: Option<bytes::Bytes>) -> i64 {
//! #     value.and_then(|value| Some(i64::from_le_bytes(value.as_ref().try_into().ok()?))).unwrap_or(0)
//! # }
//! ```
//!
//! | to ... | use |
//! |---|---|
//! | open a volume | [`Options`], [`Database::create`], [`Database::open`], [`Database::take_over`] |
//! | read it while somebody else writes, or nobody can | [`Database::open_read_only`] |
//! | take over when the writer is gone | [`Database::standby`] |
//! | change it | [`Database::transact`], or [`Database::begin`] and [`Transaction::commit`] |
//! | read at one point | [`Database::snapshot`], [`Database::snapshot_at`], [`Database::snapshot_at_time`] |
//! | scan | [`Transaction::range`], [`Snapshot::range`], [`prefix`] |
//! | compare and set | [`Transaction::value_equals`], [`Transaction::version_equals`], [`Transaction::is_absent`] |
//! | count without conflicts | [`Transaction::add`], [`Transaction::max`], [`Transaction::min`] |
//! | let keys expire | [`Transaction::put_with_ttl`] |
//! | delete much at once | [`Transaction::delete_range`], [`Database::drop_keyspace`] |
//! | keep sets of keys apart | [`Database::create_keyspace`], [`Transaction::within`] |
//! | survive an unknown outcome | [`Database::begin_with_token`]; `transact` does by itself |
//! | follow changes | [`Database::watch`] |
//! | do without async | [`blocking`] |
//!
//! # What is promised
//!
//! - *Durable*: a commit that was answered is in every later state of the volume; an availability zone and one node more
//!   may be lost without losing it, and an availability zone without losing the ability to write.
//! - *Atomic*: a transaction is visible whole or not at all, at every read point, after every crash.
//! - *Strictly serializable*: transactions, their reads included, behave as if they ran one after the other, in an order
//!   that agrees with real time. Conflicts are found at the commit and are errors to be answered by running the
//!   transaction again ([`Error::is_retryable`]). What counts as read: keys that were got, present or absent; of a range
//!   the part that was consumed; what an expiring value's deadline decided. Transactions that only read never conflict and never
//!   wait for writers.
//! - *One writer*: a second one is refused ([`Error::InUse`]) or takes over ([`Database::take_over`]); the first can then
//!   commit nothing any more, and its reads end ([`Error::Fenced`]).
//! - *Applied once*: within the token retention ([`Options::token_retention`]) a transaction with a token is applied once, however
//!   often it is run and by whichever writer. Behind it, a token that the database made is refused, and one of the user's
//!   own is a new one.
//! - *Nothing by halves*: an error other than [`Error::Unknown`] says that nothing was written; the limits of
//!   keys (1,024 bytes), values (16 MiB) and transactions (64 MiB) are told before anything is.
//! - *Time is a record*: whether a value has expired is decided by the volume's clock, which is written to the log and never
//!   goes back, also across writers; never by comparing two clocks.
//!
//! # What is not promised
//!
//! - *A hot key is as slow as the network* (T9). A key that every transaction reads and writes does one transaction a quorum round,
//!   some thousand a second, since reads see durable commits only. [`Transaction::add`], [`Transaction::max`] and
//!   [`Transaction::min`] do not have this limit.
//! - *A dropped `commit` goes on* (T10). Dropping the future of [`Transaction::commit`] or [`Database::transact`] takes nothing
//!   back: its outcome is unknown.
//! - *A large transaction holds up the others* (F16). 64 MiB take about half a second to apply, during which nobody commits.
//!   `transact` therefore stops at 8 MiB unless told otherwise ([`Options::transact_bytes_max`]).
//! - *A snapshot is not current*: [`Database::snapshot`] asks nobody whether this is still the writer; [`Database::begin`] does.
//! - *The past ends*: points older than the retention window are refused as [`Error::TooOld`]. A transaction that runs for
//!   so long that the commits since its read point are not all remembered is refused so, too, when it commits what
//!   depends on reads.
//! - *Moments are ticks*: time is recorded each 100 ms; [`Database::snapshot_at_time`] and expiry are as exact as that.
//! - *An estimate is an estimate* ([`Estimate`]).
//! - *Volumes grow, they never shrink*: a protection group that was appended stays. With [`Options::grow_below_free_pages`] a volume grows
//!   by itself; without, commits that find no room end as full until an operator asks for more.
//!
//! # Threads and memory
//!
//! A database runs one thread of its own, `sixfold-writer`, which does all I/O and keeps all timers, so that the async calls work
//! on any executor. Gets and scans of what is in the page cache run on the caller's thread, take no lock of the writer's, and wait
//! for nobody. Memory is bounded by [`Options::cache_bytes`], by the redo that lacks its quorum, by what commits wait for the
//! writer ([`Stats::waiting_commit_bytes`]) and by what transactions hold themselves; a cache smaller than the data, down to nothing,
//! costs fetches and nothing else.

mod cluster;
mod error;
mod options;
mod random;

mod database;
mod stats;

mod metrics;

mod read_only;
mod standby;

mod keyspace;
mod space;

mod estimate;
mod past;
mod range;
mod read;
mod scan;
mod snapshot;

mod commit;
mod overlay;
mod reads;
mod token;
mod transact;
mod transaction;

mod watch;
mod watch_news;

mod driver;

mod admin;

pub mod blocking;

#[doc(hidden)] // For the command line, which judges the same files.
pub mod settings;

pub use admin::{Admin, Operation, OperationState, Progress, Subject};
pub use cluster::{
    CLUSTER_FILE, Cluster, ClusterNode, READER_IDENTITY, VOLUME_TOKEN_FILE, VOLUME_TOKEN_VARIABLE,
    WRITER_IDENTITY,
};
pub use commit::CommitInfo;
pub use database::Database;
pub use error::Error;
pub use estimate::Estimate;
pub use keyspace::Keyspace;
pub use options::Options;
pub use range::{KeyRange, Range, prefix};
pub use read_only::{AsOf, ReadOnly};
pub use snapshot::Snapshot;
pub use standby::{FailoverReport, Standby, StandbyOptions};
pub use stats::{OpenReport, StageLatencies, Stats, Status};
pub use token::Token;
pub use transaction::Transaction;
pub use watch::{Change, Watch, WatchEvent};

pub use bytes::Bytes;
pub use futures_core::Stream;
pub use sixfold_compute_core::{
    MembershipStats, Relation, ReplacePhase, ReplacementStats, ReshapeStats, WriterStats,
};
pub use sixfold_log_format::wire::{NodeStatus, SegmentStatus};
pub use sixfold_log_format::{Lsn, NodeId, SegmentId, VolumeEpoch, VolumeId};
pub use sixfold_metrics::{Counted, Snapshot as MetricsSnapshot};
pub use sixfold_transport::WireStats;
