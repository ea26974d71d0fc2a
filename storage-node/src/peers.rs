//! Connections to other nodes: made when the core asks a peer something, kept, made again with growing pauses.
//!
//! One attempt at a time for each peer, in a task of its own. Who asks meanwhile waits a moment for it; a peer that does not
//! answer the attempt in that moment, or whose pause is not over, is answered for at once. A dead node therefore costs a
//! round of gossip next to nothing, though nobody says that it is dead.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use sixfold_log_format::NodeId;
use sixfold_log_format::wire::{Hello, Message, Role};
use sixfold_transport::{ConnectError, Connection, Endpoint, GateStats, TransportError};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use crate::failure::Failure;

/// Most questions in flight; more are answered as unreachable.
const QUESTIONS_MAX: usize = 256;
/// Longest time that an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long a question waits for an attempt, from the attempt's start.
const ATTEMPT_PATIENCE: Duration = Duration::from_millis(250);
/// First pause after a failed attempt.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The peers of a node.
pub(crate) struct Peers {
    endpoint: Endpoint,
    failure: Rc<Failure>,
    peers: RefCell<BTreeMap<NodeId, Rc<Peer>>>,
    questions: Cell<usize>,
}

/// One peer.
#[derive(Default)]
struct Peer {
    state: RefCell<State>,
    /// Pause after the next failed attempt.
    pause: Cell<Duration>,
    changed: Notify,
}

#[derive(Default)]
enum State {
    #[default]
    Unknown,
    Attempt {
        started: Instant,
    },
    Connected(Connection),
    /// Nobody tries before.
    Paused {
        until: Instant,
    },
}

/// What there is to do for a question.
enum Next {
    Ask(Connection),
    Wait { until: Instant },
    Attempt,
    GiveUp,
}

impl Peer {
    fn next(&self, now: Instant) -> Next {
        match &*self.state.borrow() {
            State::Connected(connection) => Next::Ask(connection.clone()),
            State::Attempt { started } if now < *started + ATTEMPT_PATIENCE => Next::Wait {
                until: *started + ATTEMPT_PATIENCE,
            },
            State::Paused { until } if *until <= now => Next::Attempt,
            State::Attempt { .. } | State::Paused { .. } => Next::GiveUp,
            State::Unknown => Next::Attempt,
        }
    }

    fn set(&self, state: State) {
        *self.state.borrow_mut() = state;
        self.changed.notify_waiters();
    }
}

impl Peers {
    /// What came of those who wanted in.
    pub(crate) fn gate_stats(&self) -> GateStats {
        self.endpoint.gate_stats()
    }

    /// How often the node's certificate was renewed while it ran.
    pub(crate) fn renewals(&self) -> u64 {
        self.endpoint.renewals()
    }

    /// No connections yet.
    pub(crate) fn new(endpoint: Endpoint, failure: Rc<Failure>) -> Peers {
        Peers {
            endpoint,
            failure,
            peers: RefCell::default(),
            questions: Cell::new(0),
        }
    }

    /// Asks a peer; `None` when it cannot be reached or does not answer in time.
    pub(crate) async fn ask(
        self: &Rc<Self>,
        node: NodeId,
        address: &str,
        message: &Message,
    ) -> Option<Message> {
        if self.questions.get() >= QUESTIONS_MAX {
            return None;
        }
        self.questions.set(self.questions.get() + 1);
        let answer = timeout(ANSWER_LIMIT, self.ask_within_limit(node, address, message)).await;
        self.questions.set(self.questions.get() - 1);
        answer.ok().flatten()
    }

    async fn ask_within_limit(
        self: &Rc<Self>,
        node: NodeId,
        address: &str,
        message: &Message,
    ) -> Option<Message> {
        let peer = Rc::clone(self.peers.borrow_mut().entry(node).or_default());
        let connection = self.connection(&peer, node, address).await?;
        match connection.call(message).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::debug!(%node, %error, "peer did not answer");
                let lost = matches!(error, TransportError::Lost { .. });
                // Another question may have noticed before, and an attempt be on its way.
                if lost && matches!(*peer.state.borrow(), State::Connected(_)) {
                    peer.set(State::Unknown);
                }
                None
            }
        }
    }

    /// The connection to a peer, if there is one soon enough.
    async fn connection(
        self: &Rc<Self>,
        peer: &Rc<Peer>,
        node: NodeId,
        address: &str,
    ) -> Option<Connection> {
        loop {
            let changed = peer.changed.notified();
            match peer.next(Instant::now()) {
                Next::Ask(connection) => return Some(connection),
                Next::GiveUp => return None,
                // When the patience ends first, the next look gives up.
                Next::Wait { until } => drop(timeout_at(until, changed).await),
                Next::Attempt => {
                    peer.set(State::Attempt {
                        started: Instant::now(),
                    });
                    let attempt =
                        Rc::clone(self).attempt(Rc::clone(peer), node, address.to_owned());
                    self.failure.spawn(attempt);
                }
            }
        }
    }

    async fn attempt(self: Rc<Self>, peer: Rc<Peer>, node: NodeId, address: String) {
        match self.connect(node, &address).await {
            Ok(connection) => {
                peer.pause.set(Duration::ZERO);
                peer.set(State::Connected(connection));
            }
            Err(error) => {
                tracing::debug!(%node, address, %error, "peer not reached");
                let pause = (peer.pause.get() * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                peer.pause.set(pause);
                peer.set(State::Paused {
                    until: Instant::now() + pause,
                });
            }
        }
    }

    async fn connect(&self, node: NodeId, address: &str) -> Result<Connection, PeerError> {
        let address = resolve(address).await?;
        let hello = Hello::new(Role::Node, node, None);
        let (connection, _welcome) = self.endpoint.connect(address, hello).await?;
        Ok(connection)
    }
}

/// Why a peer was not reached.
#[derive(Debug, thiserror::Error)]
enum PeerError {
    #[error("unknown address: {0}")]
    Address(std::io::Error),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// The address behind `host:port`.
async fn resolve(address: &str) -> Result<SocketAddr, PeerError> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let mut found = tokio::net::lookup_host(address)
        .await
        .map_err(PeerError::Address)?;
    found
        .next()
        .ok_or_else(|| PeerError::Address(std::io::ErrorKind::NotFound.into()))
}
