//! What happens to the writer and what it does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{Message, Wish, WishReport};
use sixfold_log_format::{Lsn, NodeId, Page, PageId, PgId, SegmentId, VolumeEpoch};
use sixfold_recovery::machine::{Opened, RecoveryError};

use crate::members::MembershipStats;

use crate::watch::{LogAnswer, LogError, LogWant};
use crate::write_set::{Token, WriteSet};

/// The caller's name for a commit; answered once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitTicket(pub u64);

/// The caller's name for a page that it waits for; answered once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchTicket(pub u64);

/// A page request in flight to a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchKey(pub u64);

/// One life of a log stream. Messages of an earlier life are recognized and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachKey(pub u64);

/// A range of keys that a transaction has read: `[start, end)`, or through `end` when `end_included`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRange {
    /// First key.
    pub start: Bytes,
    /// Its end; `None` = no upper bound.
    pub end: Option<Bytes>,
    /// Whether `end` itself was read.
    pub end_included: bool,
}

/// A transaction that wants to commit.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// The read point of its reads; announced until the commit is answered.
    pub read_point: Lsn,
    /// Keys that it read, present or absent.
    pub read_keys: Vec<Bytes>,
    /// The consumed parts of ranges that it read.
    pub read_ranges: Vec<ReadRange>,
    /// What it writes; empty and without a token = read-only, which is answered at once.
    pub writes: WriteSet,
    /// Recognizes a second try (T3). One with a token and without writes closes the token: an earlier try that is still on
    /// its way finds it, and is not applied.
    pub token: Option<Token>,
    /// The earliest deadline among what it has read: a conflict when the clock has reached it at the commit's place (T5).
    pub earliest_deadline_ms: Option<u64>,
    /// Refused as unavailable when it cannot be admitted by then; a commit that has LSNs and no quorum by then ends as unknown.
    pub deadline: Duration,
}

/// Why a commit did not succeed. All but `Unknown` happened before minting: repeating is safe (T2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Something that it read was changed after its read point.
    #[error(
        "conflict: a key that was read changed at LSN {changed_at}, after read point {read_point}"
    )]
    Conflict {
        /// The read point.
        read_point: Lsn,
        /// The commit that changed it.
        changed_at: Lsn,
    },
    /// Its read point is older than what is remembered of commits.
    #[error("read point {read_point} is too old to be validated, oldest is {oldest}")]
    TooOld {
        /// The read point.
        read_point: Lsn,
        /// The oldest that can be.
        oldest: Lsn,
    },
    /// No write quorum, or the bounds on unacknowledged redo were full, until the deadline. Nothing was written.
    #[error("unavailable: {reason}")]
    Unavailable {
        /// What was missing.
        reason: String,
    },
    /// It got LSNs and its outcome is not known: it may be found committed or not after the next opening (T2).
    #[error("outcome unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// It needs more records than one commit may have (R18). Nothing was written, and it never will be.
    #[error("{records} records are too many for one commit, it may have {records_max}")]
    TooLarge {
        /// Records that it needs.
        records: u64,
        /// The most that it may have.
        records_max: u64,
    },
    /// Another writer holds the volume; nothing was written.
    #[error("fenced by another writer at epoch {volume_epoch}")]
    Fenced {
        /// Its epoch.
        volume_epoch: VolumeEpoch,
    },
    /// Its token is older than what is remembered of tokens (T3). Nothing was written by this try, and never will be; an
    /// earlier one may have been committed.
    #[error("a token born at LSN {birth} is too old, the token horizon is {horizon}")]
    TokenTooOld {
        /// When it was drawn.
        birth: Lsn,
        /// The oldest birth of which commits are remembered.
        horizon: Lsn,
    },
    /// It cannot be done to what is there: a number where there is none, an overflow, a key out of bounds (T6). Nothing was
    /// written.
    #[error("invalid: {reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// The volume is full.
    #[error("the volume is full")]
    Full,
    /// The tree is damaged.
    #[error("corrupt: {what}")]
    Corrupt {
        /// What.
        what: String,
    },
}

/// Why a page could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No segment that covers the read point answered by the deadline.
    #[error("page {page} at {lsn} is unavailable: {reason}")]
    Unavailable {
        /// The page.
        page: PageId,
        /// The read point.
        lsn: Lsn,
        /// What was tried last.
        reason: String,
    },
    /// The version was collected.
    #[error("read point {lsn} is forgotten, oldest is {oldest}")]
    Forgotten {
        /// The read point.
        lsn: Lsn,
        /// The oldest still readable.
        oldest: Lsn,
    },
    /// Another writer holds the volume.
    #[error("fenced by another writer at epoch {volume_epoch}")]
    Fenced {
        /// Its epoch.
        volume_epoch: VolumeEpoch,
    },
    /// The page is damaged at every segment asked.
    #[error("page {page} is corrupt: {reason}")]
    Corrupt {
        /// The page.
        page: PageId,
        /// How.
        reason: String,
    },
}

/// Why an LSN could not be rounded down to a consistency point (R29).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoundError {
    /// It lies above VDL.
    #[error("LSN {lsn} is above VDL {vdl}")]
    AboveVdl {
        /// The LSN.
        lsn: Lsn,
        /// Published VDL.
        vdl: Lsn,
    },
    /// No segment told by the deadline.
    #[error("what ends at LSN {lsn} cannot be told: {reason}")]
    Unavailable {
        /// The LSN.
        lsn: Lsn,
        /// What was tried last.
        reason: String,
    },
    /// The log there was collected.
    #[error("LSN {lsn} is forgotten, oldest is {oldest}")]
    Forgotten {
        /// The LSN.
        lsn: Lsn,
        /// The oldest that may still be readable.
        oldest: Lsn,
    },
    /// Another writer holds the volume.
    #[error("fenced by another writer at epoch {volume_epoch}")]
    Fenced {
        /// Its epoch.
        volume_epoch: VolumeEpoch,
    },
}

/// How the writer stands to a segment, for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Its protection group.
    pub pg: PgId,
    /// The segment.
    pub segment: SegmentId,
    /// Its node.
    pub node: NodeId,
    /// It is being brought up to the others, and counts in no read quorum (R20).
    pub joining: bool,
    /// Whether its log stream is up.
    pub attached: bool,
    /// Its SCL as last acknowledged.
    pub scl: Lsn,
    /// Smoothed time from send to ack, microseconds.
    pub ack_us: u64,
    /// Sealed LSNs of its group that it has not acknowledged: from its SCL to the group's last one.
    pub lag_lsns: u64,
    /// About for how long the oldest of them has been durable elsewhere; zero when it is complete.
    pub lag: Duration,
}

/// The writer's numbers, for status and benches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Last LSN minted.
    pub last: Lsn,
    /// Volume complete LSN.
    pub vcl: Lsn,
    /// Volume durable LSN.
    pub vdl: Lsn,
    /// Lowest announced read point.
    pub read_point_min: Lsn,
    /// About how long ago VDL passed the lowest announced read point.
    pub read_point_age: Duration,
    /// Announced read points.
    pub read_points: usize,
    /// Records between the lowest announced read point and VDL: what storage keeps for it.
    pub held_records: u64,
    /// Older versions in the page cache, bytes; kept for announced read points.
    pub held_cache_bytes: usize,
    /// Keys and ranges remembered for validation.
    pub conflict_entries: usize,
    /// What they take, bytes.
    pub conflict_bytes: usize,
    /// Read points below this one are too old to be validated.
    pub conflict_floor: Lsn,
    /// MTRs of the writer's own: clock, expiry, old tokens, dropped pages.
    pub chores: u64,
    /// Commits answered.
    pub commits: u64,
    /// Conflicts.
    pub conflicts: u64,
    /// Batches sealed.
    pub batches: u64,
    /// Bytes of sealed batches, each counted once.
    pub redo_bytes: u64,
    /// Keys and values of answered commits, bytes.
    pub user_bytes: u64,
    /// Sealed bytes that lack their quorum.
    pub unacknowledged_bytes: u64,
    /// Commits that wait for admission.
    pub waiting_commits: usize,
    /// Commits are taken, and every group has its write quorum of segments that take batches.
    pub is_writable: bool,
    /// Pages fetched from segments.
    pub fetches: u64,
    /// Reads that were hedged.
    pub hedged: u64,
    /// The segments.
    pub relations: Vec<Relation>,
    /// Who holds which segment, and what is being changed about it.
    pub membership: MembershipStats,
}

/// What happens to the writer.
#[derive(Debug)]
pub enum WriterEvent {
    /// A transaction wants to commit.
    Commit {
        /// Comes back in [`WriterAction::Committed`].
        ticket: CommitTicket,
        /// The transaction.
        request: CommitRequest,
    },
    /// A reader misses pages at a read point.
    Fetch {
        /// Comes back in [`WriterAction::Fetched`].
        ticket: FetchTicket,
        /// The pages, each once.
        pages: Vec<PageId>,
        /// The read point.
        lsn: Lsn,
        /// When to give up.
        deadline: Duration,
    },
    /// Somebody wants to read at a past LSN: which is the consistency point at or below it (R29)?
    RoundDown {
        /// Comes back in [`WriterAction::Rounded`].
        ticket: FetchTicket,
        /// The LSN.
        lsn: Lsn,
        /// When to give up.
        deadline: Duration,
    },
    /// A reader wants to be told that a read lease is held (T1): answered when a read quorum has answered a message sent after
    /// this event, or at once while a lease is valid.
    WantLease {
        /// Comes back in [`WriterAction::Leased`].
        ticket: FetchTicket,
        /// When to give up.
        deadline: Duration,
    },
    /// A watcher needs a part of the log.
    ReadLog {
        /// Comes back in [`WriterAction::LogRead`].
        ticket: FetchTicket,
        /// Which part.
        want: LogWant,
        /// When to give up.
        deadline: Duration,
    },
    /// A log stream was attached (the shell sent [`WriterAction::Attach`]'s message and got an answer).
    Attached {
        /// Which life.
        attach: AttachKey,
        /// `Attached` or `Refused`.
        message: Message,
    },
    /// Something arrived on a log stream: `Ack` or `Refused`.
    Arrived {
        /// Which life.
        attach: AttachKey,
        /// The message.
        message: Message,
    },
    /// A log stream is gone, or could not be had.
    Lost {
        /// Which life.
        attach: AttachKey,
    },
    /// A request to a segment was answered, or failed (`None`).
    Answered {
        /// Which.
        fetch: FetchKey,
        /// The answer.
        answer: Option<Message>,
    },
    /// A log stream has taken what was sent: room for this many more bytes.
    Drained {
        /// Which life.
        attach: AttachKey,
        /// Bytes that left the shell's queue.
        bytes: usize,
    },
    /// Somebody in this process wants something changed about the membership, beside the wishes that acks bring (R24). Each is
    /// taken once; [`WriterAction::WishReported`] says how far it is.
    Wish {
        /// What.
        wish: Wish,
        /// Where the subject of [`WishVerb::Add`](sixfold_log_format::wire::WishVerb::Add) is. `None`: the nodes are asked.
        hint: Option<NodeHint>,
    },
    /// The reopening that [`WriterAction::Refence`] asked for is over.
    Refenced {
        /// How it went.
        result: Result<Box<Opened>, RecoveryError>,
    },
    /// `poll_timeout` has come.
    Timeout,
    /// Seal what is open and refuse new commits; [`WriterAction::Drained`] follows when all is answered.
    Close,
}

/// What the writer does.
#[derive(Debug)]
pub enum WriterAction {
    /// Open a log stream to a segment: connect to its node, send the message, and report `Attached`, then `Arrived`, or `Lost`.
    Attach {
        /// The life that begins.
        attach: AttachKey,
        /// The node.
        node: NodeId,
        /// The segment.
        segment: SegmentId,
        /// The attach message.
        message: Message,
    },
    /// Give a log stream up.
    Detach {
        /// Which life.
        attach: AttachKey,
    },
    /// Send on a log stream. Never more bytes than fit the stream's bound ([`WriterBounds`](crate::WriterBounds)).
    Send {
        /// Which life.
        attach: AttachKey,
        /// `Append` or `Heartbeat`.
        message: Message,
    },
    /// Ask a node on a stream of its own; its first answer counts.
    Ask {
        /// Comes back in [`WriterEvent::Answered`].
        fetch: FetchKey,
        /// The node.
        node: NodeId,
        /// `ReadPages`, `ReadLog`, or what a change of membership takes: `CreateSegment`, `Install`, `DropSegment`, `AskHints`,
        /// `WishReport`.
        message: Message,
    },
    /// Where the nodes of the fleet are, as far as is known (R25): they may be asked from now on. Said again when it changes.
    Fleet {
        /// All that are known.
        hints: Vec<NodeHint>,
    },
    /// A wish got further, or ended.
    WishReported {
        /// How far it is.
        report: WishReport,
    },
    /// Reopen the volume at a higher epoch (`Recovery` with `take_over`, under a fresh writer id), and hand the outcome back as
    /// [`WriterEvent::Refenced`]. Nothing is in flight, and nothing is sent to any segment until then.
    Refence,
    /// A commit ended.
    Committed {
        /// Which.
        ticket: CommitTicket,
        /// Its commit LSN, or why not. A read-only transaction gets its read point.
        result: Result<Lsn, CommitError>,
    },
    /// Pages are in the cache now (ask the view again), or one of them cannot be had. They come along, since the cache may
    /// have no room (R30).
    Fetched {
        /// Which.
        ticket: FetchTicket,
        /// How it went: all of them, in any order.
        result: Result<Vec<Arc<Page>>, FetchError>,
    },
    /// A past LSN was rounded down to a consistency point (R29).
    Rounded {
        /// Which.
        ticket: FetchTicket,
        /// The point: a read point may be announced there.
        result: Result<Lsn, RoundError>,
    },
    /// A part of the log came from a segment, or cannot be had.
    LogRead {
        /// Which.
        ticket: FetchTicket,
        /// How it went.
        result: Result<LogAnswer, LogError>,
    },
    /// The read lease is held, or was not to be had by the deadline.
    Leased {
        /// Which.
        ticket: FetchTicket,
        /// Whether it is held.
        held: bool,
    },
    /// The writer was fenced: everything in flight was answered, nothing more will be taken.
    Fenced {
        /// By whom.
        volume_epoch: VolumeEpoch,
    },
    /// After [`WriterEvent::Close`]: everything is answered.
    Drained,
}

/// What a message counts for in the queue of a log stream (`stream_bytes_max`, [`WriterEvent::Drained`]): its batch.
/// Heartbeats cost nothing; the writer bounds their number.
pub fn stream_bytes(message: &Message) -> usize {
    match message {
        Message::Append(append) => append.batch.len(),
        _ => 0,
    }
}
