//! What the user's threads ask of the driver. One hop in through a bounded channel, one hop out through a one-shot (F14).
//! Every command carries its deadline; the user's side has no timers, so that it runs on any executor.

use std::sync::Arc;
use std::time::Duration;

use sixfold_compute_core::{CommitError, CommitRequest, FetchError, ReadPoint, WriterStats};
use sixfold_log_format::wire::NodeStatus;
use sixfold_log_format::{Lsn, NodeId, Page, PageId};
use sixfold_transport::WireStats;
use tokio::sync::oneshot;

/// Commands that may wait for the driver; senders beyond wait for room.
pub(crate) const COMMANDS_MAX: usize = 4_096;

/// A command.
#[derive(Debug)]
pub(crate) enum Command {
    /// Commit a transaction. The driver keeps the read point announced until the answer, also when nobody waits for it
    /// any more (T10).
    Commit {
        request: CommitRequest,
        read_point: Arc<ReadPoint>,
        answer: oneshot::Sender<Result<Lsn, CommitError>>,
    },
    /// Bring a page to the cache.
    Fetch {
        page: PageId,
        lsn: Lsn,
        deadline: Duration,
        answer: oneshot::Sender<Result<Arc<Page>, FetchError>>,
    },
    /// Hold the read lease (T1).
    WantLease {
        deadline: Duration,
        answer: oneshot::Sender<bool>,
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
