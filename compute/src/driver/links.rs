//! Connections to the storage nodes: one a node, shared by its log streams and requests, made when somebody needs it, and
//! made again after a pause that grows.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{Hello, Message, Refusal, Role};
use sixfold_log_format::{NodeId, VolumeId};
use sixfold_transport::{
    ConnectError, Connection, Endpoint, Receiver, TransportError, VolumeToken, WireStats,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::random;

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Addresses remembered for a node.
const ADDRESSES_MAX: usize = 4;
/// How long a node that was reached elsewhere may take to answer where it is said to be.
const ANSWERS_LIMIT: Duration = Duration::from_secs(2);

/// Why a node cannot be spoken to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    /// One of the two sides does not accept the other's certificate, or the node not the volume's token: no waiting helps.
    #[error("{0}")]
    Certificate(String),
    /// Anything else.
    #[error("{0}")]
    Unreachable(String),
}

impl From<ConnectError> for LinkError {
    fn from(error: ConnectError) -> LinkError {
        match error {
            ConnectError::Certificate { .. } => LinkError::Certificate(error.to_string()),
            ConnectError::Refused { .. } | ConnectError::Transport { .. } => {
                LinkError::Unreachable(error.to_string())
            }
        }
    }
}

impl From<TransportError> for LinkError {
    fn from(error: TransportError) -> LinkError {
        LinkError::Unreachable(error.to_string())
    }
}

/// What to do while a node is not to be tried again yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Fail at once: another node may do.
    None,
    /// Wait until it may be tried, then try once.
    OneTry,
}

/// All nodes.
#[derive(Debug)]
pub(crate) struct Links {
    endpoint: Endpoint,
    role: Role,
    volume: VolumeId,
    /// Shown to every node; empty where the volume has none.
    token: Vec<u8>,
    /// In the order of the cluster's description, then those that were heard of later.
    nodes: RefCell<Vec<NodeId>>,
    links: RefCell<BTreeMap<NodeId, Rc<Link>>>,
    /// What connections that are gone have moved.
    retired: Rc<Cell<WireStats>>,
}

/// One node.
#[derive(Debug)]
struct Link {
    /// Where it may be, tried in turn; at least one (R25).
    addresses: RefCell<Vec<SocketAddr>>,
    current: RefCell<Option<Connection>>,
    /// Held by whoever connects; the others wait and find the connection.
    connecting: Mutex<()>,
    failures: Cell<u32>,
    not_before: Cell<Option<Instant>>,
    trouble: RefCell<Option<LinkError>>,
}

impl Links {
    pub(crate) fn new(endpoint: Endpoint, cluster: &Cluster) -> Links {
        let links = cluster.nodes.iter();
        let links = links.map(|node| (node.node, Rc::new(Link::new(node.address))));
        Links {
            endpoint,
            role: Role::Writer,
            volume: cluster.volume,
            token: Vec::new(),
            nodes: RefCell::new(cluster.nodes.iter().map(|node| node.node).collect()),
            links: RefCell::new(links.collect()),
            retired: Rc::default(),
        }
    }

    /// The same for a certificate of another role.
    pub(crate) fn speaking_as(self, role: Role) -> Links {
        Links { role, ..self }
    }

    /// The same with the volume's token.
    pub(crate) fn showing(self, token: Option<&VolumeToken>) -> Links {
        let token = token.map_or_else(Vec::new, |token| token.as_bytes().to_vec());
        Links { token, ..self }
    }

    /// The volume.
    pub(crate) fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The nodes, in the order of the cluster's description.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.nodes.borrow().clone()
    }

    /// Where nodes are, as a manifest or an operator says: they may be asked from now on, and one that moved is found again (R25).
    pub(crate) fn learn(&self, hints: &[NodeHint]) {
        for hint in hints {
            let Ok(address) = hint.address.parse() else {
                tracing::warn!(node = %hint.node, address = %hint.address, "the fleet's address of a node is none: `sixfold node add` tells a new one");
                continue;
            };
            match self.link(hint.node) {
                Some(link) => link.learn(address),
                None => {
                    self.nodes.borrow_mut().push(hint.node);
                    let link = Rc::new(Link::new(address));
                    self.links.borrow_mut().insert(hint.node, link);
                }
            }
        }
    }

    /// Where a node is: there is a connection to it, and its certificate says that it is this node.
    pub(crate) fn reached_at(&self, node: NodeId) -> Option<SocketAddr> {
        let link = self.link(node)?;
        link.current().map(|_| link.address())
    }

    /// Whether a node answers at an address, be it reached elsewhere. The connection is made for the question only.
    pub(crate) async fn answers_at(&self, node: NodeId, address: SocketAddr) -> bool {
        let connect = self.endpoint.connect(address, self.hello(node));
        let connected = tokio::time::timeout(ANSWERS_LIMIT, connect).await;
        matches!(connected, Ok(Ok(_)))
    }

    fn link(&self, node: NodeId) -> Option<Rc<Link>> {
        self.links.borrow().get(&node).cloned()
    }

    fn all(&self) -> Vec<Rc<Link>> {
        self.links.borrow().values().cloned().collect()
    }

    /// A connection to a node: the one at hand, or a new one.
    ///
    /// # Errors
    /// [`LinkError`] when it cannot be had now.
    pub(crate) async fn connection(
        &self,
        node: NodeId,
        patience: Patience,
    ) -> Result<Connection, LinkError> {
        let Some(link) = self.link(node) else {
            return Err(LinkError::Unreachable(format!(
                "node {node} is not in the cluster's description"
            )));
        };
        if let Some(connection) = link.current() {
            return Ok(connection);
        }
        if patience == Patience::OneTry {
            while let Some(at) = link.pause_end() {
                tokio::time::sleep_until(at).await;
            }
        }
        let _connecting = link.connecting.lock().await;
        if let Some(connection) = link.current() {
            return Ok(connection);
        }
        if link.pause_end().is_some() {
            return Err(link.last_trouble());
        }
        let address = link.address();
        match self.endpoint.connect(address, self.hello(node)).await {
            Ok((connection, _welcome)) => {
                link.succeeded(connection.clone());
                self.watch(&link, connection.clone());
                Ok(connection)
            }
            Err(error) => {
                tracing::debug!(%node, %error, "cannot connect");
                Err(link.failed(error.into()))
            }
        }
    }

    /// One request, one answer.
    ///
    /// # Errors
    /// [`LinkError`] when no answer came by the limit.
    pub(crate) async fn call(
        &self,
        node: NodeId,
        message: &Message,
        limit: Duration,
    ) -> Result<Message, LinkError> {
        let call = async {
            let connection = self.connection(node, Patience::None).await?;
            Ok(connection.call(message).await?)
        };
        tokio::time::timeout(limit, call)
            .await
            .unwrap_or(Err(TransportError::TimedOut.into()))
    }

    /// One request, for which several answers may come.
    ///
    /// # Errors
    /// [`LinkError`] when it cannot be sent.
    pub(crate) async fn request(
        &self,
        node: NodeId,
        message: &Message,
    ) -> Result<Receiver, LinkError> {
        let connection = self.connection(node, Patience::None).await?;
        Ok(connection.request(message).await?)
    }

    /// A node wants the volume's token, and the one that was shown is not it.
    pub(crate) fn token_refused(&self, node: NodeId) {
        if let Some(link) = self.link(node) {
            let line = format!("{}: refused: {}", link.address(), Refusal::Token);
            link.trouble.replace(Some(LinkError::Certificate(line)));
        }
    }

    /// One line about certificates, or the volume's token, when `node_count` nodes or more cannot be spoken to because of them.
    pub(crate) fn certificate_trouble(&self, node_count: usize) -> Option<String> {
        let all = self.all();
        let mut lines = all.iter().filter_map(|link| match &*link.trouble.borrow() {
            Some(LinkError::Certificate(line)) => Some(line.clone()),
            _ => None,
        });
        let first = lines.next()?;
        (1 + lines.count() >= node_count).then_some(first)
    }

    /// One line about the nodes that cannot be spoken to; empty when there are none.
    pub(crate) fn troubles(&self) -> String {
        let lines: Vec<String> = self
            .all()
            .iter()
            .filter_map(|link| Some(link.trouble.borrow().as_ref()?.to_string()))
            .collect();
        lines.join("; ")
    }

    /// What all connections have moved since the start.
    pub(crate) fn wire_stats(&self) -> WireStats {
        let all = self.all();
        let current = all
            .iter()
            .filter_map(|link| Some(link.current.borrow().as_ref()?.stats()));
        current.fold(self.retired.get(), sum)
    }

    /// Closes all connections; the nodes are told.
    pub(crate) async fn close(&self) {
        self.endpoint.close().await;
    }

    fn hello(&self, node: NodeId) -> Hello {
        Hello::new(self.role, node, Some(self.volume)).with_token(&self.token)
    }

    /// Forgets a connection when it is gone. No new one is made while it stands in its place, so that it forgets itself.
    fn watch(&self, link: &Rc<Link>, connection: Connection) {
        let link = Rc::clone(link);
        let retired = Rc::clone(&self.retired);
        tokio::task::spawn_local(async move {
            let reason = connection.closed().await;
            let address = link.address();
            tracing::info!(%address, %reason, "connection to a storage node ended");
            retired.set(sum(retired.get(), connection.stats()));
            link.current.replace(None);
            link.trouble
                .replace(Some(LinkError::Unreachable(format!("{address}: {reason}"))));
        });
    }
}

impl Link {
    fn new(address: SocketAddr) -> Link {
        Link {
            addresses: RefCell::new(vec![address]),
            current: RefCell::new(None),
            connecting: Mutex::new(()),
            failures: Cell::new(0),
            not_before: Cell::new(None),
            trouble: RefCell::new(None),
        }
    }

    /// Where it is looked for now: after a failure somewhere else, if it may be somewhere else.
    fn address(&self) -> SocketAddr {
        let addresses = self.addresses.borrow();
        addresses[self.failures.get() as usize % addresses.len()]
    }

    /// It may be here, too.
    fn learn(&self, address: SocketAddr) {
        let mut addresses = self.addresses.borrow_mut();
        if !addresses.contains(&address) {
            addresses.truncate(ADDRESSES_MAX - 1);
            addresses.push(address);
        }
    }

    /// It is where it was looked for just now: that is where it is looked for next.
    fn found(&self) {
        let at = self.failures.get() as usize;
        let mut addresses = self.addresses.borrow_mut();
        let count = addresses.len();
        addresses.swap(0, at % count);
    }

    fn current(&self) -> Option<Connection> {
        self.current.borrow().clone()
    }

    fn pause_end(&self) -> Option<Instant> {
        self.not_before.get().filter(|&at| at > Instant::now())
    }

    fn last_trouble(&self) -> LinkError {
        let trouble = self.trouble.borrow().clone();
        trouble
            .unwrap_or_else(|| LinkError::Unreachable(format!("{}: not reachable", self.address())))
    }

    fn succeeded(&self, connection: Connection) {
        self.found();
        self.current.replace(Some(connection));
        self.trouble.replace(None);
        self.failures.set(0);
        self.not_before.set(None);
    }

    fn failed(&self, error: LinkError) -> LinkError {
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        self.not_before
            .set(Some(Instant::now() + pause(failures, random::bytes())));
        self.trouble.replace(Some(error.clone()));
        error
    }
}

/// The pause after a failure: doubles up to a bound, then somewhere between half and all of it, so that writers that lost
/// a node together do not come back together.
fn pause(failures_before: u32, dice: [u8; 1]) -> Duration {
    let longest = PAUSE_MIN
        .saturating_mul(1 << failures_before.min(10))
        .min(PAUSE_MAX);
    longest / 2 + longest.mul_f64(f64::from(dice[0]) / 512.0)
}

fn sum(one: WireStats, other: WireStats) -> WireStats {
    WireStats {
        sent_bytes: one.sent_bytes + other.sent_bytes,
        sent_datagrams: one.sent_datagrams + other.sent_datagrams,
        received_bytes: one.received_bytes + other.received_bytes,
        received_datagrams: one.received_datagrams + other.received_datagrams,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_to_its_bound_and_never_past_it() {
        for failures in 0..40 {
            let shortest = pause(failures, [0]);
            let longest = pause(failures, [255]);
            assert!(
                shortest >= PAUSE_MIN / 2 && longest <= PAUSE_MAX,
                "{failures}: {shortest:?} {longest:?}"
            );
            assert!(shortest < longest);
            assert!(pause(failures + 1, [0]) >= shortest);
        }
        assert_eq!(pause(40, [0]), PAUSE_MAX / 2);
    }
}
