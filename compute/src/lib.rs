//! A log-is-the-database storage engine: an embedded, transactional key-value store on six storage nodes.
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
//! // Move 10 from alice to bob; again, should somebody else have touched one of the two meanwhile.
//! loop {
//!     let txn = database.begin().await?;
//!     let alice = balance(txn.get("account/alice").await?);
//!     let bob = balance(txn.get("account/bob").await?);
//!     txn.put("account/alice", (alice - 10).to_le_bytes())?;
//!     txn.put("account/bob", (bob + 10).to_le_bytes())?;
//!     match txn.commit().await {
//!         Ok(commit) => {
//!             println!("durable in two of three availability zones at least, at LSN {}", commit.lsn);
//!             break;
//!         }
//!         Err(error) if error.is_retryable() => {}
//!         Err(error) => return Err(error),
//!     }
//! }
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
//! # What is promised
//!
//! - *Durable*: a commit that was answered is in every later state of the volume; an availability zone and one node more
//!   may be lost without losing it, and an availability zone without losing the ability to write.
//! - *Strictly serializable*: transactions, their reads included, behave as if they ran one after the other, in an order
//!   that agrees with real time. Conflicts are found at the commit and are errors to be answered by running the
//!   transaction again ([`Error::is_retryable`]).
//! - *One writer*: a second one is refused ([`Error::InUse`]) or takes over ([`Database::take_over`]); the first can then
//!   commit nothing any more, and its reads end ([`Error::Fenced`]).
//!
//! # Known limits
//!
//! A key that every transaction reads and writes does one transaction a quorum round (reads see durable commits only): some
//! thousand a second. A volume has one protection group so far. LSNs that are not a commit's are not rounded down by
//! [`Database::snapshot_at`].

mod cluster;
mod error;
mod options;
mod random;

mod database;

mod range;
mod read;
mod snapshot;
mod transaction;

mod driver;

pub use cluster::{CLUSTER_FILE, Cluster, ClusterNode, WRITER_IDENTITY};
pub use database::{Database, OpenReport, Stats, Status};
pub use error::Error;
pub use options::Options;
pub use range::{KeyRange, Range, prefix};
pub use snapshot::Snapshot;
pub use transaction::{CommitInfo, Transaction};

pub use bytes::Bytes;
pub use sixfold_compute_core::{Relation, WriterStats};
pub use sixfold_log_format::wire::{NodeStatus, SegmentStatus};
pub use sixfold_log_format::{Lsn, NodeId, SegmentId, VolumeEpoch, VolumeId};
pub use sixfold_transport::WireStats;
