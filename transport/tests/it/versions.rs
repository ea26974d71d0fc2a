//! Two builds of different wire versions.

use sixfold_log_format::wire::{Message, Refusal, Role, WIRE_VERSION};
use sixfold_transport::{Connection, Endpoint, TransportOptions};

use crate::common::{Cluster, INCARNATION, NODE, assert_works, hello, loopback, within};

/// The build before this one, as far as the wire goes.
fn before() -> TransportOptions {
    TransportOptions {
        wire_max: WIRE_VERSION - 1,
        ..TransportOptions::default()
    }
}

/// Both ends of a connection between builds that speak up to these versions.
async fn pair(cluster: &Cluster, client_max: u16, node_max: u16) -> (Connection, Connection) {
    let options = |wire_max| TransportOptions {
        wire_max,
        ..TransportOptions::default()
    };
    let writer = cluster.ca.issue(Role::Writer, None).unwrap();
    let client = Endpoint::client(&writer, &options(client_max)).unwrap();
    let server = Endpoint::server(loopback(), &cluster.node, &options(node_max)).unwrap();
    let (near, far) = within(async {
        tokio::join!(
            client.connect(server.local_address(), hello(Role::Writer)),
            async {
                let incoming = server.accept().await.unwrap();
                incoming.welcome(NODE, INCARNATION).await
            }
        )
    })
    .await;
    (near.unwrap().0, far.unwrap().0)
}

#[tokio::test]
async fn builds_of_two_versions_speak_the_lower_one_and_new_words_are_said_in_old_ones() {
    let cluster = Cluster::new();
    for (client, node) in [
        (WIRE_VERSION, WIRE_VERSION),
        (WIRE_VERSION - 1, WIRE_VERSION),
        (WIRE_VERSION, WIRE_VERSION - 1),
        (WIRE_VERSION - 1, WIRE_VERSION - 1),
    ] {
        let (near, far) = pair(&cluster, client, node).await;
        let common = client.min(node);
        assert_eq!((near.wire(), far.wire()), (common, common));
        let answer = async {
            let (mut sender, mut receiver) = far.accept().await.unwrap();
            let asked = receiver.recv().await.unwrap().unwrap();
            sender.send(&asked).await.unwrap();
            sender
                .send(&Message::Refused(Refusal::Token))
                .await
                .unwrap();
            sender.finish();
        };
        let ask = async {
            let mut answers = near.request(&Message::AskStatus).await.unwrap();
            let echo = answers.recv().await.unwrap().unwrap();
            (echo, answers.recv().await.unwrap().unwrap())
        };
        let ((), (echo, refused)) = within(async { tokio::join!(answer, ask) }).await;
        assert_eq!(echo, Message::AskStatus);
        let expected = match common {
            WIRE_VERSION => Refusal::Token,
            _ => Refusal::NotAllowed,
        };
        assert_eq!(refused, Message::Refused(expected));
    }
}

#[tokio::test]
async fn a_node_of_the_build_before_refuses_a_peer_that_speaks_only_later_versions() {
    let cluster = Cluster::new();
    let server = Endpoint::server(loopback(), &cluster.node, &before()).unwrap();
    let address = server.local_address();
    tokio::spawn(crate::common::serve_echo(server));
    let client = cluster.client(Role::Writer);
    let mut later = hello(Role::Writer);
    later.wire_min = WIRE_VERSION;
    let error = within(client.connect(address, later)).await.unwrap_err();
    let expected = format!(
        "{address}: refused: no wire version in common, the node speaks 1 to {}",
        WIRE_VERSION - 1
    );
    assert_eq!(error.to_string(), expected);
    let (connection, welcome) = within(client.connect(address, hello(Role::Writer)))
        .await
        .unwrap();
    assert_eq!(welcome.wire, WIRE_VERSION - 1);
    within(assert_works(&connection)).await;
}
