//! Six storage-node processes of the real binary and more in one directory, laid out as `sixfold local` does it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::process::Signal;
use sixfold::{Cluster, ClusterNode, Options};
use sixfold_log_format::wire::{Hello, Message, Role};
use sixfold_transport::{ClusterCa, Endpoint, Identity, TransportOptions, VolumeToken};

use crate::process::{Running, eventually, run, scratch};

pub const NODE_COUNT: usize = 6;
/// Below the ports that the system hands out: nobody takes the port of a node that is down.
const FIRST_PORT: u16 = 7_100;

/// A cluster; its processes go with it.
pub struct RealCluster {
    dir: tempfile::TempDir,
    pub ca: ClusterCa,
    pub cluster: Cluster,
    nodes: Vec<Option<Running>>,
}

/// A loopback address that no other cluster of this machine's tests has.
fn own_address() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(0);
    let [low, high, ..] = std::process::id().to_le_bytes();
    let count = COUNT.fetch_add(1, Ordering::Relaxed) % 100;
    Ipv4Addr::new(127, 100 + count, high, low)
}

impl RealCluster {
    /// Lays a cluster out without starting anything.
    pub fn lay_out() -> RealCluster {
        RealCluster::lay_out_fleet(NODE_COUNT)
    }

    /// The same with spares, one in each zone by turns.
    pub fn lay_out_fleet(node_count: usize) -> RealCluster {
        let dir = scratch();
        let ca = ClusterCa::generate().unwrap();
        let tls_dir = dir.path().join("tls");
        ca.issue(Role::Writer, None)
            .unwrap()
            .save(&tls_dir, "writer")
            .unwrap();
        ca.issue(Role::Operator, None)
            .unwrap()
            .save(&tls_dir, "operator")
            .unwrap();
        ca.issue(Role::Reader, None)
            .unwrap()
            .save(&tls_dir, "reader")
            .unwrap();
        VolumeToken::draw()
            .save(&tls_dir.join("volume.token"))
            .unwrap();
        let ip = IpAddr::V4(own_address());
        let node = |index: usize| {
            let address = SocketAddr::new(ip, FIRST_PORT + index as u16);
            let zone = match index.checked_sub(NODE_COUNT) {
                None => index / 2,
                Some(spare) => spare % 3,
            };
            ClusterNode::new(format!("az{}", zone + 1), address)
        };
        let cluster = Cluster::new((0..node_count).map(node).collect(), &tls_dir);
        cluster.save(dir.path().join("cluster.toml")).unwrap();
        let nodes = (0..node_count).map(|_| None).collect();
        let laid_out = RealCluster {
            dir,
            ca,
            cluster,
            nodes,
        };
        for (index, node) in laid_out.cluster.nodes.iter().enumerate() {
            std::fs::create_dir_all(laid_out.data_dir(index)).unwrap();
            let identity = laid_out.ca.issue(Role::Node, Some(node.node)).unwrap();
            identity
                .save(&laid_out.node_tls_dir(index), "node")
                .unwrap();
            let text = format!(
                "node = \"{}\"\naz = \"{}\"\nlisten = \"{}\"\ndata_dir = \"data\"\ntls_dir = \"tls\"\nhot_log_file_mib = 8\n",
                node.node, node.az, node.address
            );
            std::fs::write(laid_out.config(index), text).unwrap();
        }
        laid_out
    }

    /// A running cluster.
    pub fn start() -> RealCluster {
        RealCluster::start_fleet(NODE_COUNT)
    }

    /// The same with spares.
    pub fn start_fleet(node_count: usize) -> RealCluster {
        let mut cluster = RealCluster::lay_out_fleet(node_count);
        let all: Vec<usize> = (0..node_count).collect();
        cluster.start_nodes(&all);
        cluster
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn config(&self, index: usize) -> PathBuf {
        self.node_dir(index).join("node.toml")
    }

    pub fn data_dir(&self, index: usize) -> PathBuf {
        self.node_dir(index).join("data")
    }

    pub fn node_tls_dir(&self, index: usize) -> PathBuf {
        self.node_dir(index).join("tls")
    }

    fn node_dir(&self, index: usize) -> PathBuf {
        self.path().join(format!("node-{}", index + 1))
    }

    pub fn options(&self) -> Options {
        Options::new(self.cluster.clone()).mtu_bytes(8_900)
    }

    /// A node's process, whatever becomes of it.
    pub fn spawn(&self, index: usize) -> Running {
        Running::start(&[
            "storage-node",
            "--stop-with-stdin",
            "--config",
            self.config(index).to_str().unwrap(),
        ])
    }

    /// Starts nodes where they were, and waits until they are ready.
    pub fn start_nodes(&mut self, indexes: &[usize]) {
        for &index in indexes {
            assert!(self.nodes[index].is_none(), "node {index} runs already");
            self.nodes[index] = Some(self.spawn(index));
        }
        for &index in indexes {
            let address = self.nodes[index].as_mut().unwrap().wait_for("ready ");
            assert_eq!(address, self.cluster.nodes[index].address.to_string());
        }
    }

    /// The same, of a build that speaks no higher wire version.
    pub fn start_node_of_wire(&mut self, index: usize, wire_max: u16) {
        assert!(self.nodes[index].is_none(), "node {index} runs already");
        let config = self.config(index);
        let wire_max = wire_max.to_string();
        let mut node = Running::start(&[
            "storage-node",
            "--stop-with-stdin",
            "--wire-max",
            &wire_max,
            "--config",
            config.to_str().unwrap(),
        ]);
        node.wait_for("ready ");
        self.nodes[index] = Some(node);
    }

    /// All nodes, none of which runs, are told to listen elsewhere, and the cluster's file says so.
    pub fn move_all(&mut self) {
        for index in 0..self.cluster.nodes.len() {
            let node = &mut self.cluster.nodes[index];
            let before = node.address.to_string();
            node.address.set_port(node.address.port() + 100);
            let now = node.address.to_string();
            let config = self.config(index);
            let text = std::fs::read_to_string(&config).unwrap();
            assert!(text.contains(&before), "{text}");
            std::fs::write(config, text.replace(&before, &now)).unwrap();
        }
        self.cluster.save(self.path().join("cluster.toml")).unwrap();
    }

    /// One request to a node, with a certificate of the cluster's, and its first answer.
    pub async fn ask(&self, index: usize, identity: &str, message: &Message) -> Message {
        let identity = Identity::load(&self.path().join("tls"), identity).unwrap();
        let endpoint = Endpoint::client(&identity, &TransportOptions::default()).unwrap();
        let node = &self.cluster.nodes[index];
        let token = self.cluster.volume_token().unwrap().unwrap();
        let hello = Hello::new(identity.role(), node.node, Some(self.cluster.volume));
        let hello = hello.with_token(token.as_bytes());
        let (connection, _) = endpoint.connect(node.address, hello).await.unwrap();
        let answer = connection.call(message).await.unwrap();
        endpoint.close().await;
        answer
    }

    /// SIGKILL.
    pub fn kill(&mut self, indexes: &[usize]) {
        for &index in indexes {
            self.nodes[index].take().expect("the node runs").kill();
        }
    }

    /// SIGTERM: a node ends in order.
    pub fn terminate(&mut self, index: usize) {
        let node = self.nodes[index].take().expect("the node runs");
        node.signal(Signal::TERM);
        node.wait().well();
    }

    /// SIGSTOP or SIGCONT: a node that is there and does nothing.
    pub fn signal(&self, indexes: &[usize], signal: Signal) {
        for &index in indexes {
            self.nodes[index]
                .as_ref()
                .expect("the node runs")
                .signal(signal);
        }
    }

    /// The id of a node's process.
    pub fn process(&self, index: usize) -> u32 {
        self.nodes[index].as_ref().expect("the node runs").id()
    }

    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|&index| self.nodes[index].is_some())
            .collect()
    }

    pub fn down(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|&index| self.nodes[index].is_none())
            .collect()
    }

    /// No node has ended by itself.
    pub fn assert_alive(&mut self) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            assert!(
                node.as_mut().is_none_or(Running::is_running),
                "node {index} has ended"
            );
        }
    }

    /// What `sixfold status` says is each segment's SCL; none for a silent node.
    pub fn scls(&self) -> Vec<String> {
        let said = run(&["status", "--dir", self.path().to_str().unwrap()], "").well();
        let segments = said.output.iter().filter(|line| line.starts_with("  pg "));
        segments
            .map(|line| {
                line.split(" scl ")
                    .nth(1)
                    .unwrap()
                    .split(' ')
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    }

    /// Waits until all six segments hold the same, which needs a pause in the load.
    pub fn wait_until_equal(&self) {
        let mut seen = Vec::new();
        eventually("all six segments hold the same", || {
            seen = self.scls();
            seen.len() == NODE_COUNT && seen.iter().all(|scl| *scl == seen[0])
        });
    }
}
