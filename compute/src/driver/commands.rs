//! What the user's threads ask of the driver. One hop in through a bounded channel, one hop out through a one-shot (F14).
//! Every command carries its deadline; the user's side has no timers, so that it runs on any executor.

use std::sync::Arc;
use std::time::Duration;

use sixfold_compute_core::{
    CommitError, CommitRequest, FetchError, LogAnswer, LogError, LogWant, ReadPoint, RoundError,
    WriterStats,
};
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{NodeStatus, Wish};
use sixfold_log_format::{Lsn, NodeId, Page, PageId};
use sixfold_transport::WireStats;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::wishes::WishNews;

/// Commands that may wait for the driver; senders beyond wait for room.
pub(crate) const COMMANDS_MAX: usize = 4_096;

/// What a commit holds until it is answered, also when nobody waits for it any more (T10).
#[derive(Debug)]
#[allow(dead_code)] // Held, not read.
pub(crate) struct Holds {
    /// Its versions are kept.
    pub(crate) read_point: Arc<ReadPoint>,
    /// Its share of the memory for commits that wait.
    pub(crate) room: OwnedSemaphorePermit,
}

/// How a commit ended, and when that was said.
pub(crate) type CommitAnswer = oneshot::Sender<(Result<Lsn, CommitError>, Duration)>;

/// A command.
#[derive(Debug)]
pub(crate) enum Command {
    /// Commit a transaction.
    Commit {
        request: CommitRequest,
        holds: Holds,
        answer: CommitAnswer,
    },
    /// Bring pages to the cache.
    Fetch {
        pages: Vec<PageId>,
        lsn: Lsn,
        deadline: Duration,
        answer: oneshot::Sender<Result<Vec<Arc<Page>>, FetchError>>,
    },
    /// Round a past LSN down to a consistency point (R29).
    RoundDown {
        lsn: Lsn,
        deadline: Duration,
        answer: oneshot::Sender<Result<Lsn, RoundError>>,
    },
    /// Bring a part of the log to a watcher.
    ReadLog {
        want: LogWant,
        deadline: Duration,
        answer: oneshot::Sender<Result<LogAnswer, LogError>>,
    },
    /// Answer at a time: the user's side has no timers.
    Pause {
        until: Duration,
        answer: oneshot::Sender<()>,
    },
    /// Hold the read lease (T1).
    WantLease {
        deadline: Duration,
        answer: oneshot::Sender<bool>,
    },
    /// Change who holds the volume's segments.
    Wish {
        wish: Wish,
        /// Where the node is that is to be added.
        hint: Option<NodeHint>,
        reports: WishNews,
        answer: oneshot::Sender<()>,
    },
    /// Say the writer's numbers.
    Stats {
        answer: oneshot::Sender<(WriterStats, WireStats)>,
    },
    /// Ask every node how it is.
    AskNodes {
        answer: oneshot::Sender<Vec<(NodeId, Option<NodeStatus>)>>,
    },
    /// Answer everything, then end.
    Close { answer: oneshot::Sender<()> },
}
