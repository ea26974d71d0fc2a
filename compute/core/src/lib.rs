//! The single writer of a Sixfold volume, without I/O.
//!
//! [`WriterCore`] takes [`WriterEvent`]s and gives [`WriterAction`]s: it validates and applies commits, seals and ships
//! batches, advances the durability points and answers commits. Readers on other threads share [`Shared`] with it: the
//! published points, the announced read points and the page cache.
//!
//! ```text
//! commit -> admission (line) -> conflict -> kv::plan -> commit (mint, apply to tip) -> boxcar (open batches)
//!        -> seal: retained + shipper (six streams), tip pages -> page cache
//! ack    -> shipper (SCL) -> durability (PGCL, VCL, VDL) -> publish VDL -> commit_queue (answers)
//! miss   -> fetch -> router -> one segment -> page cache
//! ```

pub mod shared;

pub mod page_cache;
mod page_table;
mod read_points;
mod spare;

pub mod event;
pub mod write_set;
pub mod writer;

mod due;

mod admission;
mod clock;
pub mod rows;
mod tokens;

mod cleared;
mod commit;
mod conflict;
mod tip;

mod boxcar;
mod link;
mod retained;
mod shipper;

mod commit_queue;
mod durability;
mod heartbeat;

pub mod members;

mod fetch;
pub mod reader;
mod rounding;
mod router;

pub mod watch;

mod ages;
mod chores;

#[cfg(test)]
mod conflict_tests;
#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod page_cache_tests;
#[cfg(test)]
mod read_points_tests;

pub use event::{
    AttachKey, CommitError, CommitRequest, CommitTicket, FetchError, FetchKey, FetchTicket,
    ReadRange, Relation, RoundError, WriterAction, WriterEvent, WriterStats, stream_bytes,
};
pub use members::{MemberBounds, MembershipStats, ReplacePhase, ReplacementStats, ReshapeStats};
pub use reader::{ReaderAction, ReaderCore};
pub use shared::{PageView, ReadPoint, Shared};
pub use sixfold_kv::modify::{Modify, ModifyError};
pub use watch::cursor::Watcher;
pub use watch::ring::{WatchSeat, WatchShared};
pub use watch::{
    Change, ChangeValue, CommitChanges, LogAnswer, LogError, LogWant, WatchError, WatchRange,
    WatchStep,
};
pub use write_set::{KeyWrite, Token, WriteSet, WriteValue};
pub use writer::{WriterBounds, WriterCore};
