//! A cluster on this machine in one directory: CA, certificates, settings of six nodes, and `cluster.toml` for clients.
//!
//! ```text
//! DIR/cluster.toml            the volume, the nodes and their addresses, where the certificates are
//! DIR/tls/                    CA (with its key), writer, operator and reader identities
//! DIR/node-N/node.toml        settings of `sixfold storage-node`
//! DIR/node-N/tls, data        its identity, its data
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use sixfold::settings::{Overrides, standby_options, writer_options};
use sixfold::{Cluster, ClusterNode, Options, StandbyOptions, VOLUME_TOKEN_FILE};
use sixfold_benches::crash::relay::Relay;
use sixfold_log_format::wire::Role;
use sixfold_log_format::{NodeId, VolumeId};
use sixfold_transport::{ClusterCa, VolumeToken};

use crate::child::OwnedChild;
use crate::storage_node::NodeConfig;

/// Nodes of a local cluster.
pub(crate) const NODE_COUNT: usize = 6;
/// Nodes that one directory may hold.
pub(crate) const NODES_MAX: usize = 64;
/// How long a node may take to scan its log and answer.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Ports of a local cluster are above this one.
const FIRST_PORT: u16 = 10_000;
/// Ports that are tried before the system is asked for any.
const PORT_TRIES_MAX: usize = 1_000;

/// Settings of writers and standbys on the command line.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SettingArgs {
    /// A setting of cluster.toml for this process, for example writer.page_cache_mib=1024; goes before environment and file, may be repeated
    #[arg(long, value_name = "TABLE.KEY=VALUE")]
    set: Vec<String>,
}

impl SettingArgs {
    fn overrides(&self) -> Result<Overrides> {
        Overrides::parse(&self.set).map_err(|line| anyhow!("--set: {line}"))
    }
}

/// A cluster directory.
#[derive(Debug, Clone)]
pub(crate) struct ClusterDir {
    root: PathBuf,
}

/// The availability zone of the node with this index: az1, az1, az2, az2, az3, az3, then spares, one in each zone by turns.
pub(crate) fn az_of(index: usize) -> String {
    let zone = match index.checked_sub(NODE_COUNT) {
        None => index / 2,
        Some(spare) => spare % (NODE_COUNT / 2),
    };
    format!("az{}", zone + 1)
}

impl ClusterDir {
    /// Where a cluster is, or will be.
    pub(crate) fn at(root: &Path) -> Result<ClusterDir> {
        let root = root
            .canonicalize()
            .with_context(|| format!("directory {}", root.display()))?;
        Ok(ClusterDir { root })
    }

    /// The file that clients open a volume by.
    pub(crate) fn cluster_file(&self) -> PathBuf {
        self.root.join("cluster.toml")
    }

    /// Reads it.
    pub(crate) fn cluster(&self) -> Result<Cluster> {
        Ok(Cluster::load(self.cluster_file())?)
    }

    /// What its volume is opened with: flags before the environment, that before the file.
    pub(crate) fn options(&self, settings: &SettingArgs) -> Result<Options> {
        let overrides = settings.overrides()?;
        Ok(writer_options(&self.cluster_file(), &overrides)?)
    }

    /// How a standby of it watches.
    pub(crate) fn standby_options(&self, settings: &SettingArgs) -> Result<StandbyOptions> {
        let overrides = settings.overrides()?;
        Ok(standby_options(&self.cluster_file(), &overrides)?)
    }

    /// Whether a cluster was laid out here.
    pub(crate) fn exists(&self) -> bool {
        self.cluster_file().exists()
    }

    /// Lays a cluster of six nodes out, unless one was before.
    pub(crate) fn lay_out(&self, hot_log_file_mib: u64) -> Result<()> {
        self.lay_out_fleet(NODE_COUNT, hot_log_file_mib)
    }

    /// Lays a cluster out, unless one was before, of whatever size. `cluster.toml` comes last: without it nothing counts.
    pub(crate) fn lay_out_fleet(&self, node_count: usize, hot_log_file_mib: u64) -> Result<()> {
        if self.exists() {
            return Ok(());
        }
        let occupied = std::fs::read_dir(&self.root)
            .with_context(|| format!("directory {}", self.root.display()))?
            .next()
            .is_some();
        if occupied {
            bail!(
                "{} is not empty and holds no cluster.toml",
                self.root.display()
            );
        }
        let ca = ClusterCa::generate()?;
        let tls_dir = self.root.join("tls");
        std::fs::create_dir(&tls_dir)
            .with_context(|| format!("cannot make {}", tls_dir.display()))?;
        ca.save(&tls_dir)?;
        ca.issue(Role::Writer, None)?.save(&tls_dir, "writer")?;
        ca.issue(Role::Operator, None)?.save(&tls_dir, "operator")?;
        ca.issue(Role::Reader, None)?.save(&tls_dir, "reader")?;
        VolumeToken::draw().save(&tls_dir.join(VOLUME_TOKEN_FILE))?;
        let addresses = free_addresses(node_count)?;
        let mut nodes = Vec::with_capacity(node_count);
        for (index, address) in addresses.into_iter().enumerate() {
            nodes.push(self.lay_out_node(&ca, index, &az_of(index), address, hot_log_file_mib)?);
        }
        let volume = VolumeId::from_bytes(random_bytes()?);
        Cluster {
            volume,
            nodes,
            tls_dir: PathBuf::from("tls"),
            volume_token_file: None,
        }
        .save(self.cluster_file())?;
        Ok(())
    }

    fn lay_out_node(
        &self,
        ca: &ClusterCa,
        index: usize,
        az: &str,
        address: SocketAddr,
        hot_log_file_mib: u64,
    ) -> Result<ClusterNode> {
        let node = NodeId::from_bytes(random_bytes()?);
        let dir = self.node_dir(index);
        for dir in [dir.join("tls"), dir.join("data")] {
            std::fs::create_dir_all(&dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        ca.issue(Role::Node, Some(node))?
            .save(&dir.join("tls"), "node")?;
        let config = NodeConfig {
            node: Some(node.to_string()),
            az: Some(az.to_owned()),
            listen: Some(address),
            data_dir: Some("data".into()),
            tls_dir: Some("tls".into()),
            mtu_bytes: Some(LOOPBACK_MTU_BYTES),
            hot_log_file_mib: Some(hot_log_file_mib),
            ..NodeConfig::default()
        };
        let path = dir.join("node.toml");
        let text = toml::to_string(&config).context("cannot write settings")?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(ClusterNode {
            node,
            az: az.to_owned(),
            address,
        })
    }

    /// Stands a relay before the nodes of a cluster that nobody has used yet, and has clients find them there.
    pub(crate) fn put_behind_relay(&self) -> Result<Relay> {
        let mut cluster = self.cluster()?;
        let relay = Relay::start(cluster.nodes.iter().map(|node| node.address).collect())?;
        for (node, address) in cluster.nodes.iter_mut().zip(relay.addresses()) {
            node.address = *address;
        }
        cluster.save(self.cluster_file())?;
        Ok(relay)
    }

    /// Lays one more node out, beside the cluster: it is in no list yet. Returns it with its settings file.
    pub(crate) fn make_node(
        &self,
        az: &str,
        hot_log_file_mib: u64,
    ) -> Result<(ClusterNode, PathBuf)> {
        anyhow::ensure!(!az.is_empty(), "the availability zone is empty");
        anyhow::ensure!(
            self.exists(),
            "{} holds no cluster.toml",
            self.root.display()
        );
        let ca = ClusterCa::load(&self.root.join("tls"))?;
        let index = (0..NODES_MAX)
            .find(|&index| !self.node_dir(index).exists())
            .context("too many nodes in one directory")?;
        let address = free_addresses(1)?[0];
        let node = self.lay_out_node(&ca, index, az, address, hot_log_file_mib)?;
        Ok((node, self.node_dir(index).join("node.toml")))
    }

    /// The cluster's nodes that have a directory here, with their indexes.
    pub(crate) fn nodes_here(&self, cluster: &Cluster) -> Result<Vec<(usize, ClusterNode)>> {
        let mut here = Vec::new();
        for index in 0..NODES_MAX {
            let path = self.node_dir(index).join("node.toml");
            if !path.exists() {
                continue;
            }
            let id = NodeConfig::load(&path)?.node;
            let id = id.as_deref().and_then(NodeId::from_hex);
            let listed = cluster.nodes.iter().find(|node| Some(node.node) == id);
            here.extend(listed.map(|node| (index, node.clone())));
        }
        Ok(here)
    }

    /// Where a node's certificates are.
    pub(crate) fn node_tls_dir(&self, index: usize) -> PathBuf {
        self.node_dir(index).join("tls")
    }

    /// A node's directory: settings, certificates, data.
    pub(crate) fn node_dir(&self, index: usize) -> PathBuf {
        self.root.join(format!("node-{}", index + 1))
    }

    /// Starts a node; it ends with this process.
    pub(crate) fn start_node(&self, index: usize) -> Result<OwnedChild> {
        self.start_node_with(index, &[])
    }

    /// The same with flags that override its settings.
    fn start_node_with(&self, index: usize, flags: &[String]) -> Result<OwnedChild> {
        let config = self.node_dir(index).join("node.toml");
        let mut args = vec![
            "storage-node".into(),
            "--config".into(),
            path_text(&config)?,
            "--stop-with-stdin".into(),
        ];
        args.extend_from_slice(flags);
        OwnedChild::start(&format!("node {}", index + 1), &args)
    }

    /// Starts these nodes and waits until each is ready.
    pub(crate) async fn start_nodes(&self, indexes: &[usize]) -> Result<Vec<(usize, OwnedChild)>> {
        self.start_nodes_with(indexes, &[]).await
    }

    /// The same with flags that override the settings of each.
    pub(crate) async fn start_nodes_with(
        &self,
        indexes: &[usize],
        flags: &[String],
    ) -> Result<Vec<(usize, OwnedChild)>> {
        let mut nodes = Vec::with_capacity(indexes.len());
        for &index in indexes {
            nodes.push((index, self.start_node_with(index, flags)?));
        }
        for (_, node) in &mut nodes {
            node.wait_for("ready ", READY_LIMIT).await?;
        }
        Ok(nodes)
    }
}

/// The payload that loopback carries in one datagram.
pub(crate) const LOOPBACK_MTU_BYTES: u16 = 8_900;

/// A path as an argument for a child.
pub(crate) fn path_text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Free UDP addresses on loopback, below the ports that the system hands out itself: a node that is down for a moment must not
/// find its port taken by some client. All are held until the last is found, so that they differ.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let ports = FIRST_PORT..ephemeral_ports_start().max(FIRST_PORT + 1);
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..PORT_TRIES_MAX {
        if sockets.len() == count {
            break;
        }
        let draw = random_bytes()?;
        let offset = u16::from_le_bytes([draw[0], draw[1]]) % (ports.end - ports.start);
        sockets.extend(UdpSocket::bind(("127.0.0.1", ports.start + offset)));
    }
    while sockets.len() < count {
        sockets.push(UdpSocket::bind("127.0.0.1:0").context("cannot find a free port")?);
    }
    sockets
        .iter()
        .map(|socket| socket.local_addr().context("cannot read a port"))
        .collect()
}

/// The first port that the system gives to sockets that name none.
fn ephemeral_ports_start() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

/// Sixteen random bytes for an id.
pub(crate) fn random_bytes() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(bytes)
}
