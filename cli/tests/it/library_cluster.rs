//! Six storage-node daemons on threads of this process, for tests of the library.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use sixfold::{Cluster, ClusterNode, Database, Lsn, Options, Range};
use sixfold_log_format::wire::Role;
use sixfold_storage_node::NodeOptions;
use sixfold_transport::ClusterCa;
use tokio::sync::oneshot;

/// Longest wait for a daemon to start; far above what it takes.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Six daemons, two in each of three availability zones, and their cluster.
pub struct LocalCluster {
    dir: tempfile::TempDir,
    cluster: Cluster,
    daemons: Vec<Option<Daemon>>,
}

struct Daemon {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl LocalCluster {
    /// Starts all six on empty directories.
    pub fn start() -> LocalCluster {
        // A temporary file system may lack O_DIRECT; the build's own directory is on a real one.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let ca = ClusterCa::generate().unwrap();
        ca.save(dir.path()).unwrap();
        ca.issue(Role::Writer, None)
            .unwrap()
            .save(dir.path(), "writer")
            .unwrap();
        let node = |index: usize| {
            let address = SocketAddr::from(([127, 0, 0, 1], 0));
            ClusterNode::new(format!("az{}", index / 2 + 1), address)
        };
        let cluster = Cluster::new((0..6).map(node).collect(), dir.path());
        let mut cluster = LocalCluster {
            dir,
            cluster,
            daemons: (0..6).map(|_| None).collect(),
        };
        for index in 0..6 {
            let tls_dir = cluster.tls_dir(index);
            std::fs::create_dir_all(&tls_dir).unwrap();
            std::fs::create_dir_all(cluster.data_dir(index)).unwrap();
            let identity = ca
                .issue(Role::Node, Some(cluster.cluster.nodes[index].node))
                .unwrap();
            identity.save(&tls_dir, "node").unwrap();
            cluster.start_node(index);
        }
        cluster
    }

    /// Options for the cluster with deadlines that suit tests.
    pub fn options(&self) -> Options {
        Options::new(self.cluster.clone())
    }

    /// Starts a node where it was.
    pub fn start_node(&mut self, index: usize) {
        assert!(self.daemons[index].is_none(), "node {index} runs already");
        let node = &self.cluster.nodes[index];
        let mut options = NodeOptions::with_defaults(
            self.data_dir(index),
            node.node,
            node.az.clone(),
            node.address,
            self.tls_dir(index),
        );
        options.hot_log_file_bytes = 8 << 20;
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let ready = move |address| tell.send(address).unwrap();
            let stop = async {
                let _dropped = stopped.await;
            };
            if let Err(error) = sixfold_storage_node::run(options, ready, stop) {
                panic!("node {index}: {error}");
            }
        });
        self.cluster.nodes[index].address = told.recv_timeout(START_LIMIT).unwrap();
        self.daemons[index] = Some(Daemon { stop, thread });
    }

    /// Stops a node and waits for its end.
    pub fn stop_node(&mut self, index: usize) {
        let daemon = self.daemons[index].take().expect("the node runs");
        daemon.stop.send(()).unwrap();
        daemon.thread.join().unwrap();
    }

    fn tls_dir(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("node{index}-tls"))
    }

    fn data_dir(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("node{index}"))
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        let daemons: Vec<Daemon> = self.daemons.iter_mut().filter_map(Option::take).collect();
        let threads: Vec<JoinHandle<()>> = daemons
            .into_iter()
            .map(|Daemon { stop, thread }| {
                drop(stop);
                thread
            })
            .collect();
        for thread in threads {
            let ended = thread.join();
            // A second panic would hide the first.
            assert!(ended.is_ok() || std::thread::panicking(), "a node panicked");
        }
    }
}

/// Bounds every wait of a test; timing decides nothing.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits for a test's end, for a time far above what it takes.
pub async fn limited<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, test)
        .await
        .expect("it ends in time")
}

/// Runs a test against a volume of six fresh nodes.
pub async fn with_database(test: impl AsyncFnOnce(Database)) {
    let cluster = LocalCluster::start();
    limited(async {
        let database = Database::create(cluster.options()).await.unwrap();
        test(database.clone()).await;
        database.close().await;
    })
    .await;
}

/// Commits one put; its LSN.
pub async fn put(database: &Database, key: &str, value: impl AsRef<[u8]>) -> Lsn {
    let txn = database.begin().await.unwrap();
    txn.put(key, value).unwrap();
    txn.commit().await.unwrap().lsn
}

/// What a new transaction reads, as text.
pub async fn text(database: &Database, key: &str) -> Option<String> {
    let value = database.begin().await.unwrap().get(key).await.unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// The number that a key holds.
pub async fn number(database: &Database, key: &str) -> Option<i64> {
    let value = database.begin().await.unwrap().get(key).await.unwrap();
    value.map(|value| i64::from_le_bytes(value.as_ref().try_into().unwrap()))
}

/// The keys of a range, as text.
pub async fn keys(range: Range) -> Vec<String> {
    let items = range.collect().await.unwrap().into_iter();
    items
        .map(|(key, _)| String::from_utf8(key.to_vec()).unwrap())
        .collect()
}
