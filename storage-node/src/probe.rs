//! Asking a running node how it is, from other threads of its process: for metrics, health and the console.
//!
//! The node's own thread answers, between two events: that it answers at all is what `/healthz` wants to know. Nobody asks, nothing is
//! done.

use std::rc::Rc;
use std::time::Duration;

use sixfold_metrics::Counted;
use sixfold_storage_node_core::NodeNumbers;
use sixfold_transport::GateStats;
use tokio::sync::{mpsc, oneshot};

use crate::driver::Driver;

/// Questions that may wait.
const QUESTIONS_MAX: usize = 16;
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How a node is.
#[derive(Debug, Clone)]
pub struct NodeReport {
    /// What its core counts.
    pub numbers: NodeNumbers,
    /// Connections that are open.
    pub connections: usize,
    /// Their streams.
    pub streams: usize,
    /// Bytes of answers that peers have not read.
    pub queued_bytes: usize,
    /// What came of those who wanted a connection.
    pub gate: GateStats,
    /// How often the certificate was taken up anew from its files.
    pub renewals: u64,
    /// How long writes to the hot log took, from the ring to their completion.
    pub hot_log_writes: Counted,
}

/// Asks a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Probe {
    questions: mpsc::Sender<oneshot::Sender<NodeReport>>,
}

/// Where the questions come in; for [`run_probed`](crate::run_probed).
#[derive(Debug)]
pub struct Inbox {
    questions: mpsc::Receiver<oneshot::Sender<NodeReport>>,
}

/// Both ends.
pub fn probe() -> (Probe, Inbox) {
    let (sender, receiver) = mpsc::channel(QUESTIONS_MAX);
    let probe = Probe { questions: sender };
    let inbox = Inbox {
        questions: receiver,
    };
    (probe, inbox)
}

impl Probe {
    /// How the node is; `None` when it does not answer within two seconds, has not begun to, or is gone. Needs a runtime with a timer.
    pub async fn report(&self) -> Option<NodeReport> {
        let (tell, told) = oneshot::channel();
        let asked = async {
            self.questions.send(tell).await.ok()?;
            told.await.ok()
        };
        tokio::time::timeout(ANSWER_LIMIT, asked).await.ok()?
    }
}

/// Answers questions until nobody can ask any more.
pub(crate) async fn answer(mut inbox: Inbox, driver: Rc<Driver>) {
    while let Some(question) = inbox.questions.recv().await {
        let _gone = question.send(driver.report());
    }
}
