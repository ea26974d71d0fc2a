//! A node that echoes, and what connects to it.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::{Hello, Message, Role, WIRE_VERSION};
use sixfold_transport::{
    ClusterCa, Connection, Endpoint, Identity, Receiver, Sender, TransportOptions,
};

/// No test waits longer.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const NODE: NodeId = NodeId::from_bytes(*b"node-0123456789a");
pub(crate) const OTHER_NODE: NodeId = NodeId::from_bytes(*b"node-bbbbbbbbbbb");
pub(crate) const INCARNATION: u64 = 77;

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work)
        .await
        .expect("the test hangs")
}

pub(crate) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(crate) fn hello(role: Role) -> Hello {
    Hello {
        wire_min: 1,
        wire_max: WIRE_VERSION,
        role,
        node: NODE,
        volume: None,
        token: Vec::new(),
    }
}

/// A cluster of one node and the parties that may connect to it.
pub(crate) struct Cluster {
    pub(crate) ca: ClusterCa,
    pub(crate) node: Identity,
    pub(crate) options: TransportOptions,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let ca = ClusterCa::generate().unwrap();
        let node = ca.issue(Role::Node, Some(NODE)).unwrap();
        Cluster {
            ca,
            node,
            options: TransportOptions::default(),
        }
    }

    /// The node, with nobody who accepts yet.
    pub(crate) fn listen(&self) -> Endpoint {
        Endpoint::server(loopback(), &self.node, &self.options).unwrap()
    }

    /// The node, with every stream answered by what comes in on it.
    pub(crate) fn serve(&self) -> SocketAddr {
        let endpoint = self.listen();
        let address = endpoint.local_address();
        tokio::spawn(serve_echo(endpoint));
        address
    }

    pub(crate) fn client(&self, role: Role) -> Endpoint {
        let node = (role == Role::Node).then_some(OTHER_NODE);
        Endpoint::client(&self.ca.issue(role, node).unwrap(), &self.options).unwrap()
    }

    /// A writer's connection to a served node.
    pub(crate) async fn connected(&self) -> Connection {
        let address = self.serve();
        let (connection, _) = self
            .client(Role::Writer)
            .connect(address, hello(Role::Writer))
            .await
            .unwrap();
        connection
    }

    /// Both ends of a connection.
    pub(crate) async fn pair(&self) -> (Connection, Connection) {
        let server = self.listen();
        let client = self.client(Role::Writer);
        let (near, far) = tokio::join!(
            client.connect(server.local_address(), hello(Role::Writer)),
            async {
                server
                    .accept()
                    .await
                    .unwrap()
                    .welcome(NODE, INCARNATION)
                    .await
            },
        );
        (near.unwrap().0, far.unwrap().0)
    }
}

pub(crate) async fn serve_echo(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let Ok((connection, _)) = incoming.welcome(NODE, INCARNATION).await else {
                return;
            };
            while let Ok((sender, receiver)) = connection.accept().await {
                tokio::spawn(echo(sender, receiver));
            }
        });
    }
}

async fn echo(mut sender: Sender, mut receiver: Receiver) {
    while let Ok(Some(message)) = receiver.recv().await {
        if sender.send(&message).await.is_err() {
            return;
        }
    }
}

/// A message that no other is equal to.
pub(crate) fn message(number: u64, bytes: usize) -> Message {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(bytes.max(8), number as u8);
    Message::Echo(Bytes::from(payload))
}

/// Checks that the connection carries messages.
pub(crate) async fn assert_works(connection: &Connection) {
    let said = message(4_711, 600);
    assert_eq!(connection.call(&said).await.unwrap(), said);
}
