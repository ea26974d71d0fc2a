//! Who gets in, and who is told what when not.

use std::time::{Duration, Instant};

use sixfold_log_format::wire::{Refusal, Role, WIRE_VERSION};
use sixfold_transport::endpoint::EndpointError;
use sixfold_transport::{ConnectError, Endpoint, TransportError};

use crate::common::{
    Cluster, INCARNATION, NODE, OTHER_NODE, assert_works, hello, loopback, within,
};

#[tokio::test]
async fn each_role_is_welcomed_and_known_to_the_node() {
    let cluster = Cluster::new();
    for role in [Role::Node, Role::Writer, Role::Reader, Role::Operator] {
        let server = cluster.listen();
        let client = cluster.client(role);
        let (near, far) = within(async {
            tokio::join!(client.connect(server.local_address(), hello(role)), async {
                server
                    .accept()
                    .await
                    .unwrap()
                    .welcome(NODE, INCARNATION)
                    .await
            })
        })
        .await;
        let (near, welcome) = near.unwrap();
        assert_eq!(
            (welcome.node, welcome.incarnation, welcome.wire),
            (NODE, INCARNATION, WIRE_VERSION)
        );
        assert_eq!(
            (near.peer_role(), near.peer_node()),
            (Role::Node, Some(NODE))
        );
        let (far, heard) = far.unwrap();
        assert_eq!(heard, hello(role));
        assert_eq!(far.peer_role(), role);
        assert_eq!(far.peer_node(), (role == Role::Node).then_some(OTHER_NODE));
    }
}

#[tokio::test]
async fn a_node_connects_to_itself_from_the_socket_it_listens_on() {
    let cluster = Cluster::new();
    let server = cluster.listen();
    let address = server.local_address();
    tokio::spawn(crate::common::serve_echo(server.clone()));
    let (connection, _) = within(server.connect(address, hello(Role::Node)))
        .await
        .unwrap();
    within(assert_works(&connection)).await;
}

#[tokio::test]
async fn a_node_of_a_foreign_authority_is_not_trusted() {
    let address = Cluster::new().serve();
    let error = within(
        Cluster::new()
            .client(Role::Writer)
            .connect(address, hello(Role::Writer)),
    )
    .await
    .unwrap_err();
    let ConnectError::Certificate { reason, .. } = error else {
        panic!("{error}");
    };
    assert!(reason.contains("UnknownIssuer"), "{reason}");
}

#[tokio::test]
async fn a_node_with_another_id_than_asked_for_is_not_trusted() {
    let cluster = Cluster::new();
    let address = cluster.serve();
    let mut wrong = hello(Role::Writer);
    wrong.node = OTHER_NODE;
    let error = within(cluster.client(Role::Writer).connect(address, wrong))
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Certificate { .. }), "{error}");
}

#[tokio::test]
async fn a_role_that_the_certificate_does_not_name_is_refused() {
    let cluster = Cluster::new();
    let address = cluster.serve();
    let error = within(
        cluster
            .client(Role::Reader)
            .connect(address, hello(Role::Writer)),
    )
    .await
    .unwrap_err();
    assert!(
        matches!(
            error,
            ConnectError::Refused {
                refusal: Refusal::NotAllowed,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_wire_version_out_of_reach_is_refused_and_a_range_around_ours_is_not() {
    let cluster = Cluster::new();
    let address = cluster.serve();
    let client = cluster.client(Role::Writer);
    for (wire_min, wire_max) in [(WIRE_VERSION + 1, WIRE_VERSION + 5), (0, 0), (9, 3)] {
        let mut other = hello(Role::Writer);
        (other.wire_min, other.wire_max) = (wire_min, wire_max);
        let error = within(client.connect(address, other)).await.unwrap_err();
        let ConnectError::Refused { refusal, .. } = error else {
            panic!("{error}");
        };
        let expected = Refusal::Wire {
            min: 1,
            max: WIRE_VERSION,
        };
        assert_eq!(refusal, expected);
    }
    let mut wide = hello(Role::Writer);
    (wide.wire_min, wide.wire_max) = (0, u16::MAX);
    let (_, welcome) = within(client.connect(address, wide)).await.unwrap();
    assert_eq!(welcome.wire, WIRE_VERSION);
}

#[tokio::test]
async fn a_node_that_turns_newcomers_away_is_overloaded() {
    let cluster = Cluster::new();
    let server = cluster.listen();
    let client = cluster.client(Role::Writer);
    let (result, ()) = within(async {
        tokio::join!(
            client.connect(server.local_address(), hello(Role::Writer)),
            async {
                server.accept().await.unwrap().refuse();
            }
        )
    })
    .await;
    let error = result.unwrap_err();
    assert!(
        matches!(
            error,
            ConnectError::Refused {
                refusal: Refusal::Overloaded,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn connecting_to_nobody_ends_at_the_limit() {
    let mut cluster = Cluster::new();
    cluster.options.connect_limit = Duration::from_millis(200);
    // A socket that nobody reads: its port is taken and silent.
    let silent = std::net::UdpSocket::bind(loopback()).unwrap();
    let client = cluster.client(Role::Writer);
    let begun = Instant::now();
    let error = within(client.connect(silent.local_addr().unwrap(), hello(Role::Writer)))
        .await
        .unwrap_err();
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert!(
        matches!(
            error,
            ConnectError::Transport {
                source: TransportError::TimedOut,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn only_a_node_can_listen() {
    let cluster = Cluster::new();
    let writer = cluster.ca.issue(Role::Writer, None).unwrap();
    let error = Endpoint::server(loopback(), &writer, &cluster.options).unwrap_err();
    assert!(matches!(error, EndpointError::Tls(_)), "{error}");
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let cluster = Cluster::new();
    let address = cluster.listen();
    let taken = address.local_address();
    let error = Endpoint::server(taken, &cluster.node, &cluster.options).unwrap_err();
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
}
