//! A CA with its identities, and daemons on threads of this process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use sixfold_log_format::NodeId;
use sixfold_log_format::wire::Role;
use sixfold_storage_node::witness::Witness;
use sixfold_storage_node::{NodeError, NodeOptions, TLS_NAME, run_before};
use sixfold_transport::{ClusterCa, Identity};
use tokio::sync::oneshot;

use crate::scratch::scratch;

/// Longest that a start or a stop may take; never reached by a healthy one.
const PATIENCE: Duration = Duration::from_secs(300);

pub fn node_id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

/// A cluster's CA and a place for data and certificates.
pub struct Cluster {
    root: tempfile::TempDir,
    ca: ClusterCa,
}

impl Cluster {
    pub fn new() -> Cluster {
        Cluster {
            root: scratch(),
            ca: ClusterCa::generate().unwrap(),
        }
    }

    /// Options of a node with an empty data directory (made here once) and its own certificate.
    pub fn options(&self, number: u8) -> NodeOptions {
        let tls_dir = self.root.path().join(format!("tls-{number}"));
        let data_dir = self.data_dir(number);
        if !tls_dir.exists() {
            std::fs::create_dir(&tls_dir).unwrap();
            std::fs::create_dir(&data_dir).unwrap();
            self.ca
                .issue(Role::Node, Some(node_id(number)))
                .unwrap()
                .save(&tls_dir, TLS_NAME)
                .unwrap();
        }
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut options = NodeOptions::with_defaults(
            data_dir,
            node_id(number),
            "az1".to_owned(),
            listen,
            tls_dir,
        );
        options.hot_log_file_bytes = 8 << 20;
        options
    }

    pub fn data_dir(&self, number: u8) -> PathBuf {
        self.root.path().join(format!("data-{number}"))
    }

    pub fn issue(&self, role: Role) -> Identity {
        self.ca.issue(role, None).unwrap()
    }
}

/// A running daemon.
pub struct Daemon {
    pub number: u8,
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), NodeError>>>,
}

impl Daemon {
    /// Starts a daemon and waits until it is ready, or gives the reason why it is not.
    pub fn start(options: NodeOptions) -> Result<Daemon, NodeError> {
        Daemon::start_before(options, None)
    }

    /// Starts one whose files a witness watches.
    pub fn start_before(
        options: NodeOptions,
        witness: Option<Arc<dyn Witness>>,
    ) -> Result<Daemon, NodeError> {
        let number = options.node.as_bytes()[0];
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            run_before(
                options,
                witness,
                move |address| ready.send(address).unwrap(),
                async {
                    let _ = stopped.await;
                },
            )
        });
        match is_ready.recv_timeout(PATIENCE) {
            Ok(address) => Ok(Daemon {
                number,
                address,
                stop: Some(stop),
                thread: Some(thread),
            }),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(thread.join().unwrap().unwrap_err()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("the daemon is not ready after {PATIENCE:?}")
            }
        }
    }

    /// Stops it and gives what `run` returned.
    pub fn stop(mut self) -> Result<(), NodeError> {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The line with which a start is refused.
pub fn refusal(options: NodeOptions) -> String {
    match Daemon::start(options) {
        Ok(_) => panic!("the daemon started"),
        Err(error) => error.to_string(),
    }
}
