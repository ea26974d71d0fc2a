//! Watches: what committed transactions did to a range of keys, in LSN order, without gap or duplicate (T7).
//!
//! There is one source of truth, the log, and one decoder. While somebody watches, the writer keeps the newest batches at or below VDL
//! in a ring that is bounded in bytes and shared by all watchers; whoever is behind the ring reads the same batches from the
//! segments. Both go through `merge`, so that the change from one to the other is a matter of LSNs alone.
//!
//! ```text
//! seal ──▶ WatchTail (sealed, above VDL) ──VDL moved──▶ WatchShared (ring) ──┐
//!                                                                            ├─▶ merge (chain, history, whole MTRs) ─▶ Watcher ─▶ changes
//! segments ──LogPiece──▶ LogReads (who is asked, failover) ──────────────────┘
//! ```
//!
//! Keys here are stored keys. Annulled, unfinished and above-VDL changes are never delivered: the ring gets what VDL has
//! reached, a log read ends at VDL, and the merge drops what the history annuls and waits for the CPL of each MTR.

pub(crate) mod cursor;
pub(crate) mod merge;
pub(crate) mod reads;
pub(crate) mod ring;

#[cfg(test)]
mod log_maker;
#[cfg(test)]
mod merge_tests;
#[cfg(test)]
mod watcher_tests;

use bytes::Bytes;
use sixfold_log_format::wire::LogPiece;
use sixfold_log_format::{Lsn, PgId, SegmentId, VolumeEpoch};

/// Stored keys that are watched: `[start, end)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRange {
    /// First key.
    pub start: Bytes,
    /// Its end, exclusive; `None` = no upper bound.
    pub end: Option<Bytes>,
}

/// What one commit did to the keys that are watched. All of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitChanges {
    /// The commit LSN.
    pub lsn: Lsn,
    /// The consistency point just before the commit: what was read there is what the commit changed.
    pub before: Lsn,
    /// In the order in which they were done; a range that was deleted stands before what was put into it.
    pub changes: Vec<Change>,
}

/// One change. Keys are stored keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A value was put.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: ChangeValue,
        /// Wall-clock milliseconds after which it is expired.
        deadline_ms: Option<u64>,
    },
    /// A key was deleted.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// A key whose deadline had passed was removed in the background (T5).
    Expired {
        /// The key.
        key: Bytes,
    },
    /// Every key of a range was deleted by one operation; the range is clipped to what is watched.
    DeleteRange {
        /// First key.
        start: Bytes,
        /// Its end, exclusive; `None` = no upper bound.
        end: Option<Bytes>,
    },
}

/// The value of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeValue {
    /// It stands in the log.
    Inline(Bytes),
    /// It is large: to be read at the commit LSN.
    Large,
}

/// What a watcher does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchStep {
    /// This was committed.
    Commit(CommitChanges),
    /// These parts of the log are needed: a [`WriterEvent::ReadLog`](crate::WriterEvent) for each, then
    /// [`Watcher::supply`](crate::Watcher::supply).
    ReadLog(Vec<LogWant>),
    /// A good deal was looked through and nothing was found: more is at hand, others may run first.
    Again,
    /// Everything up to the published VDL was delivered.
    Wait,
}

/// A part of the log of one protection group that is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogWant {
    /// The protection group.
    pub pg: PgId,
    /// Records above this, through VDL.
    pub after: Lsn,
    /// Segments whose answer was no good.
    pub avoid: Vec<SegmentId>,
}

/// A segment's answer to a [`LogWant`], not looked into yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogAnswer {
    /// Who answered.
    pub segment: SegmentId,
    /// The protection group.
    pub pg: PgId,
    /// As asked.
    pub after: Lsn,
    /// VDL when it was asked.
    pub through: Lsn,
    /// The group's last LSN at or below `through`: a whole answer ends there (R26).
    pub pg_last: Lsn,
    /// The batches.
    pub piece: LogPiece,
}

/// Why a part of the log could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// No segment that covers it answered by the deadline.
    #[error("the log above {after} is unavailable: {reason}")]
    Unavailable {
        /// Where it was to begin.
        after: Lsn,
        /// What was tried last.
        reason: String,
    },
    /// It was collected.
    #[error("the log above {after} is forgotten, the oldest point is {oldest}")]
    Forgotten {
        /// Where it was to begin.
        after: Lsn,
        /// The oldest point from which it can still be read.
        oldest: Lsn,
    },
    /// Another writer holds the volume.
    #[error("fenced by another writer at epoch {volume_epoch}")]
    Fenced {
        /// Its epoch.
        volume_epoch: VolumeEpoch,
    },
}

/// Why a watcher cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The starting point is not durable yet.
    #[error("watch from {from}: the last durable commit is {vdl}")]
    AboveVdl {
        /// The starting point.
        from: Lsn,
        /// Published VDL.
        vdl: Lsn,
    },
    /// The log from there was collected.
    #[error("watch from {from}: the oldest point is {oldest}")]
    TooOld {
        /// Where it stands.
        from: Lsn,
        /// The oldest point.
        oldest: Lsn,
    },
    /// Every segment of a protection group gave a log that is damaged.
    #[error("the log above {after} is damaged: {reason}")]
    Corrupt {
        /// Where.
        after: Lsn,
        /// How.
        reason: String,
    },
}

impl WatchRange {
    /// Whether it holds this key.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// The part of `[start, end)` that lies in it; `None` when that is empty. An empty `end` means no upper bound.
    pub fn clip(&self, start: &[u8], end: &[u8]) -> Option<(Bytes, Option<Bytes>)> {
        let start = Bytes::copy_from_slice(start.max(&self.start[..]));
        let end = match (&self.end, end) {
            (watched, []) => watched.clone(),
            (Some(watched), end) if watched[..] < *end => Some(watched.clone()),
            (_, end) => Some(Bytes::copy_from_slice(end)),
        };
        let is_empty = end.as_ref().is_some_and(|end| *end <= start);
        (!is_empty).then_some((start, end))
    }
}
