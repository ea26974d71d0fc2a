//! Peers that only the inside of the crate can play.

#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::{Frame, Hello, Message, Refusal, Role, WIRE_VERSION};

use super::{ask, peer_of};
use crate::connection::Connection;
use crate::tls::node_name;
use crate::{ClusterCa, ConnectError, Endpoint, Identity, TransportError, TransportOptions};

const NODE: NodeId = NodeId::from_bytes(*b"node-0123456789a");

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work)
        .await
        .expect("the test hangs")
}

fn hello(node: NodeId) -> Hello {
    Hello {
        wire_min: 1,
        wire_max: WIRE_VERSION,
        role: Role::Writer,
        node,
        volume: None,
        token: Vec::new(),
    }
}

struct Parties {
    server: Endpoint,
    address: SocketAddr,
    node: Identity,
    writer: Identity,
}

fn parties() -> Parties {
    let ca = ClusterCa::generate().unwrap();
    let node = ca.issue(Role::Node, Some(NODE)).unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Endpoint::server(address, &node, &TransportOptions::default()).unwrap();
    Parties {
        address: server.local_address(),
        server,
        node,
        writer: ca.issue(Role::Writer, None).unwrap(),
    }
}

fn client(identity: &Identity) -> Endpoint {
    Endpoint::client(identity, &TransportOptions::default()).unwrap()
}

/// A connection on which nothing has been said.
async fn mute(client: &Endpoint, address: SocketAddr) -> Connection {
    let quic = client
        .quic()
        .connect_with(client.client_config(), address, &node_name(NODE))
        .unwrap()
        .await
        .unwrap();
    let peer = peer_of(&quic).unwrap();
    Connection::new(quic, peer)
}

/// What the node makes of the next peer.
async fn welcomed(server: &Endpoint) -> Result<(Connection, Hello), TransportError> {
    server.accept().await.unwrap().welcome(NODE, 1).await
}

#[tokio::test]
async fn a_certificate_that_the_node_refuses_is_reported_as_that() {
    let parties = parties();
    let foreign = ClusterCa::generate()
        .unwrap()
        .issue(Role::Writer, None)
        .unwrap();
    let client = client(&foreign.trusting(&parties.node));
    let (near, far) = within(async {
        tokio::join!(
            client.connect(parties.address, hello(NODE)),
            welcomed(&parties.server)
        )
    })
    .await;
    let error = near.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Certificate { reason, .. } if reason.contains("by the node")),
        "{error}"
    );
    let error = far.unwrap_err();
    assert!(matches!(&error, TransportError::Lost { .. }), "{error}");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_dropped() {
    let parties = parties();
    let client = client(&parties.writer);
    let (connection, far) =
        within(async { tokio::join!(mute(&client, parties.address), welcomed(&parties.server)) })
            .await;
    assert!(matches!(far.unwrap_err(), TransportError::TimedOut));
    let TransportError::Lost { reason } = within(connection.closed()).await else {
        panic!("closed differently");
    };
    assert!(reason.contains("no hello in time"), "{reason}");
}

#[tokio::test]
async fn garbage_instead_of_a_hello_is_refused_as_malformed() {
    let claims_too_much = u32::MAX.to_le_bytes();
    let no_message = [3, 0, 0, 0, 0xFF, 1, 2];
    let empty = [0, 0, 0, 0];
    let cut_short = [8, 0, 0, 0, 1];
    let parties = parties();
    let client = client(&parties.writer);
    for garbage in [&claims_too_much[..], &no_message, &empty, &cut_short] {
        let speaking = async {
            let connection = mute(&client, parties.address).await;
            let (mut sender, mut receiver) = connection.open().await.unwrap();
            let frame = Frame {
                head: Bytes::copy_from_slice(garbage),
                tail: Vec::new(),
            };
            sender.send_frame(frame).await.unwrap();
            sender.finish();
            let answer = receiver.recv().await.unwrap();
            (answer, connection.closed().await)
        };
        let ((answer, closed), far) =
            within(async { tokio::join!(speaking, welcomed(&parties.server)) }).await;
        assert!(
            matches!(answer, Some(Message::Refused(Refusal::Malformed { .. }))),
            "{answer:?} to {garbage:?}"
        );
        assert!(matches!(closed, TransportError::Lost { .. }));
        assert!(matches!(far, Err(TransportError::Lost { .. })));
    }
}

#[tokio::test]
async fn a_hello_for_another_node_and_another_message_are_refused() {
    let parties = parties();
    let client = client(&parties.writer);
    let other = hello(NodeId::from_bytes([9; 16]));
    for said in [Message::Hello(other), Message::AskStatus] {
        let speaking = async {
            let connection = mute(&client, parties.address).await;
            match said.clone() {
                Message::Hello(hello) => ask(&connection, hello).await.unwrap(),
                said => connection.call(&said).await.unwrap(),
            }
        };
        let (answer, far) =
            within(async { tokio::join!(speaking, welcomed(&parties.server)) }).await;
        assert!(
            matches!(answer, Message::Refused(Refusal::Malformed { .. })),
            "{answer:?}"
        );
        assert!(far.is_err());
    }
}
