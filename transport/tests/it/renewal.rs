//! Certificates that are renewed in their files while processes run.

use std::path::Path;

use sixfold_log_format::wire::Role;
use sixfold_transport::{ClusterCa, Connection, Endpoint, Identity, TransportOptions, certificate};

use crate::common::{INCARNATION, NODE, assert_works, hello, loopback, serve_echo, within};

/// The files of a node and of a writer, of one authority.
fn write(ca: &ClusterCa, dir: &Path) {
    ca.issue(Role::Node, Some(NODE))
        .unwrap()
        .save(dir, "node")
        .unwrap();
    ca.issue(Role::Writer, None)
        .unwrap()
        .save(dir, "writer")
        .unwrap();
}

fn endpoints(dir: &Path) -> (Endpoint, Endpoint) {
    let options = TransportOptions::default();
    let node = Identity::load(dir, "node").unwrap();
    let writer = Identity::load(dir, "writer").unwrap();
    (
        Endpoint::server(loopback(), &node, &options).unwrap(),
        Endpoint::client(&writer, &options).unwrap(),
    )
}

async fn connects(client: &Endpoint, server: &Endpoint) -> Option<Connection> {
    let connected = client.connect(server.local_address(), hello(Role::Writer));
    let (connection, welcome) = connected.await.ok()?;
    assert_eq!(welcome.incarnation, INCARNATION);
    Some(connection)
}

/// Asks until it succeeds; the test's own limit of time ends it.
async fn eventually(client: &Endpoint, server: &Endpoint) -> Connection {
    loop {
        if let Some(connection) = connects(client, server).await {
            return connection;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Whether a certificate of this authority gets in.
async fn lets_in(server: &Endpoint, ca: &ClusterCa) -> bool {
    // The node has to be trusted, too: that is of no interest here.
    let dir = tempfile::tempdir().unwrap();
    ca.issue(Role::Writer, None)
        .unwrap()
        .save(dir.path(), "writer")
        .unwrap();
    let writer = Identity::load(dir.path(), "writer").unwrap();
    let client = Endpoint::client(&writer, &TransportOptions::default()).unwrap();
    connects(&client, server).await.is_some()
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_up_and_open_connections_stay() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::generate().unwrap();
    write(&ca, dir.path());
    let (server, client) = endpoints(dir.path());
    tokio::spawn(serve_echo(server.clone()));
    let old = within(connects(&client, &server)).await.unwrap();
    write(&ca, dir.path());
    within(eventually(&client, &server)).await;
    within(assert_works(&old)).await;
}

#[tokio::test]
async fn an_authority_is_exchanged_in_three_steps_and_every_connection_comes_about() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (
        ClusterCa::generate().unwrap(),
        ClusterCa::generate().unwrap(),
    );
    write(&old, dir.path());
    let files = tempfile::tempdir().unwrap();
    let (old_dir, new_dir) = (files.path().join("old"), files.path().join("new"));
    old.save(&old_dir).unwrap();
    new.save(&new_dir).unwrap();
    let (server, client) = endpoints(dir.path());
    tokio::spawn(serve_echo(server.clone()));
    let first = within(connects(&client, &server)).await.unwrap();
    // What each step is good for shows a second later at the latest; until then and after it, everybody gets in.
    let step = async |what: &str| {
        let until = tokio::time::Instant::now() + std::time::Duration::from_millis(1_300);
        while tokio::time::Instant::now() < until {
            let connection = within(connects(&client, &server)).await;
            within(assert_works(&connection.expect(what))).await;
        }
    };
    certificate::trust(dir.path(), &new_dir.join("ca.pem")).unwrap();
    step("the new authority is trusted, too").await;
    for (name, role, node) in [
        ("node", Role::Node, Some(NODE)),
        ("writer", Role::Writer, None),
    ] {
        let identity = new.issue(role, node).unwrap();
        identity.save_own(dir.path(), name).unwrap();
    }
    step("certificates are of the new authority").await;
    certificate::distrust(dir.path(), &old_dir.join("ca.pem"), &["node", "writer"]).unwrap();
    step("the old authority is gone").await;
    assert!(within(lets_in(&server, &new)).await);
    assert!(!within(lets_in(&server, &old)).await);
    within(assert_works(&first)).await;
}

/// Whoever looks once a second may find an authority added and its certificates there at once.
#[tokio::test]
async fn two_steps_of_an_exchange_between_two_looks_are_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (
        ClusterCa::generate().unwrap(),
        ClusterCa::generate().unwrap(),
    );
    write(&old, dir.path());
    let new_dir = tempfile::tempdir().unwrap();
    new.save(new_dir.path()).unwrap();
    let (server, client) = endpoints(dir.path());
    tokio::spawn(serve_echo(server.clone()));
    within(connects(&client, &server)).await.unwrap();
    certificate::trust(dir.path(), &new_dir.path().join("ca.pem")).unwrap();
    for (name, role, node) in [
        ("node", Role::Node, Some(NODE)),
        ("writer", Role::Writer, None),
    ] {
        let identity = new.issue(role, node).unwrap();
        identity.save_own(dir.path(), name).unwrap();
    }
    let taken_up = async { while !lets_in(&server, &new).await {} };
    within(taken_up).await;
    within(eventually(&client, &server)).await;
}

#[tokio::test]
async fn files_of_another_cluster_are_not_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::generate().unwrap();
    write(&ca, dir.path());
    let (server, client) = endpoints(dir.path());
    tokio::spawn(serve_echo(server.clone()));
    let foreign = ClusterCa::generate().unwrap();
    write(&foreign, dir.path());
    let until = tokio::time::Instant::now() + std::time::Duration::from_millis(1_500);
    while tokio::time::Instant::now() < until {
        assert!(within(connects(&client, &server)).await.is_some());
        assert!(!within(lets_in(&server, &foreign)).await);
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::generate().unwrap();
    write(&ca, dir.path());
    let (server, client) = endpoints(dir.path());
    tokio::spawn(serve_echo(server.clone()));
    // Half of a renewal: a key without its certificate.
    let beside = tempfile::tempdir().unwrap();
    write(&ca, beside.path());
    for name in ["node-key.pem", "writer-key.pem"] {
        std::fs::copy(beside.path().join(name), dir.path().join(name)).unwrap();
    }
    // Longer than the files may go without a look.
    let until = tokio::time::Instant::now() + std::time::Duration::from_millis(1_500);
    while tokio::time::Instant::now() < until {
        let connection = within(connects(&client, &server)).await;
        within(assert_works(
            &connection.expect("the old ones are good still"),
        ))
        .await;
    }
    // The other half.
    for name in ["node.pem", "writer.pem"] {
        std::fs::copy(beside.path().join(name), dir.path().join(name)).unwrap();
    }
    within(eventually(&client, &server)).await;
}

#[tokio::test]
async fn a_certificate_of_another_party_is_not_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::generate().unwrap();
    write(&ca, dir.path());
    let (server, client) = endpoints(dir.path());
    tokio::spawn(serve_echo(server.clone()));
    let other = sixfold_log_format::NodeId::from_bytes([9; 16]);
    ca.issue(Role::Node, Some(other))
        .unwrap()
        .save(dir.path(), "node")
        .unwrap();
    let until = tokio::time::Instant::now() + std::time::Duration::from_millis(1_500);
    while tokio::time::Instant::now() < until {
        assert!(within(connects(&client, &server)).await.is_some());
    }
}

#[test]
fn an_expired_certificate_names_its_party_still() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ClusterCa::generate().unwrap();
    ca.issue(Role::Node, Some(NODE))
        .unwrap()
        .save(dir.path(), "node")
        .unwrap();
    let named = Identity::named_in(dir.path(), "node").unwrap();
    assert_eq!(named, (Role::Node, Some(NODE)));
    let short = std::time::Duration::from_secs(3_600);
    let issued = ca.issue_for(Role::Reader, None, short).unwrap();
    issued.save(dir.path(), "reader").unwrap();
    assert_eq!(
        Identity::load(dir.path(), "reader").unwrap().role(),
        Role::Reader
    );
}
