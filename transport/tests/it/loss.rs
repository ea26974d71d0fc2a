//! Peers that go away.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use sixfold_log_format::wire::Role;
use sixfold_transport::{Endpoint, TransportError};
use tokio::runtime::{Builder, Runtime};

use crate::common::{Cluster, assert_works, hello, message, serve_echo, within};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test]
async fn closing_an_endpoint_is_heard_at_once() {
    let mut cluster = Cluster::new();
    cluster.options.idle_limit = Duration::from_secs(3_600);
    let server = cluster.listen();
    let address = server.local_address();
    tokio::spawn(serve_echo(server.clone()));
    let client = cluster.client(Role::Writer);
    let (connection, _) = within(client.connect(address, hello(Role::Writer)))
        .await
        .unwrap();
    within(server.close()).await;
    let TransportError::Lost { reason } = within(connection.closed()).await else {
        panic!("closed differently");
    };
    assert!(reason.contains("endpoint closed"), "{reason}");
    assert!(within(server.accept()).await.is_none());
    assert!(within(connection.open()).await.is_err());
}

#[tokio::test]
async fn closing_a_connection_ends_what_waits_on_it() {
    let (near, far) = within(Cluster::new().pair()).await;
    let mut waiting = within(near.request(&message(1, 10))).await.unwrap();
    far.close("no more");
    let TransportError::Lost { reason } = within(waiting.recv()).await.unwrap_err() else {
        panic!("ended differently");
    };
    assert!(reason.contains("no more"), "{reason}");
    assert!(matches!(
        within(far.closed()).await,
        TransportError::Lost { .. }
    ));
}

#[test]
fn a_peer_that_stops_is_lost_at_the_idle_limit() {
    let mut cluster = Cluster::new();
    cluster.options.idle_limit = Duration::from_secs(1);
    cluster.options.keep_alive = Duration::from_millis(50);
    let (told, address) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let (node, options) = (cluster.node.clone(), cluster.options.clone());
    let frozen = std::thread::spawn(move || {
        runtime().block_on(async move {
            let server = Endpoint::server("127.0.0.1:0".parse().unwrap(), &node, &options).unwrap();
            told.send(server.local_address()).unwrap();
            let served = tokio::spawn(serve_echo(server));
            while stopped.try_recv().is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // The thread stands still here: the socket stays open and nobody answers.
            let _ = stopped.recv();
            served.abort();
        });
    });
    runtime().block_on(async {
        let client = cluster.client(Role::Writer);
        let address = address.recv().unwrap();
        let (connection, _) = within(client.connect(address, hello(Role::Writer)))
            .await
            .unwrap();
        within(assert_works(&connection)).await;
        // Silence longer than the limit does no harm while keep-alives are answered.
        let quiet = tokio::time::timeout(Duration::from_millis(2_500), connection.closed()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        stop.send(()).unwrap();
        let TransportError::Lost { reason } = within(connection.closed()).await else {
            panic!("lost differently");
        };
        assert!(reason.contains("timed out"), "{reason}");
        let error = within(connection.call(&message(1, 10))).await.unwrap_err();
        assert!(matches!(error, TransportError::Lost { .. }), "{error}");
    });
    drop(stop);
    frozen.join().unwrap();
}

/// A node in a thread of its own, which can be ended without a word to its peers.
struct Life {
    address: SocketAddr,
    end: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Life {
    fn begin(cluster: &Cluster, address: SocketAddr) -> Life {
        let (node, options) = (cluster.node.clone(), cluster.options.clone());
        let (told, bound) = mpsc::channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = runtime();
            runtime.block_on(async {
                let server = Endpoint::server(address, &node, &options).unwrap();
                told.send(server.local_address()).unwrap();
                tokio::spawn(serve_echo(server));
                let _ = ended.await;
            });
            // All tasks are dropped where they are; none runs again.
            drop(runtime);
        });
        Life {
            address: bound.recv().unwrap(),
            end,
            thread,
        }
    }

    fn kill(self) {
        self.end.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

#[test]
fn a_node_that_was_killed_and_started_again_tells_its_old_peers() {
    let mut cluster = Cluster::new();
    cluster.options.idle_limit = Duration::from_secs(3_600);
    cluster.options.keep_alive = Duration::from_millis(50);
    let first = Life::begin(&cluster, "127.0.0.1:0".parse().unwrap());
    let address = first.address;
    runtime().block_on(async {
        let client = cluster.client(Role::Writer);
        let (connection, _) = within(client.connect(address, hello(Role::Writer)))
            .await
            .unwrap();
        within(assert_works(&connection)).await;
        first.kill();
        let second = Life::begin(&cluster, address);
        let TransportError::Lost { reason } = within(connection.closed()).await else {
            panic!("lost differently");
        };
        assert!(reason.contains("reset by peer"), "{reason}");
        let (connection, _) = within(client.connect(address, hello(Role::Writer)))
            .await
            .unwrap();
        within(assert_works(&connection)).await;
        second.kill();
    });
}
