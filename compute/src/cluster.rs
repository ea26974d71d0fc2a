//! The description of a cluster: which volume, which storage nodes, where the certificates are.
//!
//! It is a small TOML file, `cluster.toml`, beside the cluster's certificates. Addresses in it are where to look first;
//! who answers is proved by certificates (R25).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sixfold_log_format::{NodeId, VolumeId};
use sixfold_transport::VolumeToken;

use crate::error::Error;
use crate::random;
use crate::settings;

/// Name of the file in a cluster's directory.
pub const CLUSTER_FILE: &str = "cluster.toml";

/// Name of the writer's certificate in the certificate directory: `writer.pem`, `writer-key.pem`.
pub const WRITER_IDENTITY: &str = "writer";

/// Name of a reader's certificate there: `reader.pem`, `reader-key.pem`. It has no power to write; a cluster may do without.
pub const READER_IDENTITY: &str = "reader";

/// Name of the file with the volume's token in the certificate directory: 64 hexadecimal digits.
pub const VOLUME_TOKEN_FILE: &str = "volume.token";

/// Environment variable with the digits of the volume's token; it goes before any file.
pub const VOLUME_TOKEN_VARIABLE: &str = "SIXFOLD_VOLUME_TOKEN";

/// A cluster, as its writer needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The volume.
    pub volume: VolumeId,
    /// The storage nodes.
    pub nodes: Vec<ClusterNode>,
    /// Directory with `ca.pem`, `writer.pem` and `writer-key.pem`.
    pub tls_dir: PathBuf,
    /// File with the volume's token. Unless set it is [`VOLUME_TOKEN_FILE`] in `tls_dir`, where that is there.
    pub volume_token_file: Option<PathBuf>,
}

/// A storage node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNode {
    /// Its id, as in its certificate.
    pub node: NodeId,
    /// Its availability zone.
    pub az: String,
    /// Where it listens.
    pub address: SocketAddr,
}

impl ClusterNode {
    /// A node with an id drawn now.
    pub fn new(az: impl Into<String>, address: SocketAddr) -> ClusterNode {
        ClusterNode {
            node: NodeId::from_bytes(random::bytes()),
            az: az.into(),
            address,
        }
    }
}

impl Cluster {
    /// A cluster for a volume whose id is drawn now.
    pub fn new(nodes: Vec<ClusterNode>, tls_dir: impl Into<PathBuf>) -> Cluster {
        Cluster {
            volume: VolumeId::from_bytes(random::bytes()),
            nodes,
            tls_dir: tls_dir.into(),
            volume_token_file: None,
        }
    }

    /// The token of the volume: what [`VOLUME_TOKEN_VARIABLE`] says, else [`Cluster::volume_token_file`], else
    /// [`VOLUME_TOKEN_FILE`] in `tls_dir`, where it is there; `None` for a volume without one.
    ///
    /// # Errors
    /// [`Error::Config`], when a token is set and is none, or its file cannot be read.
    pub fn volume_token(&self) -> Result<Option<VolumeToken>, Error> {
        if let Ok(digits) = std::env::var(VOLUME_TOKEN_VARIABLE) {
            let token = VolumeToken::from_hex(digits.trim()).ok_or_else(|| {
                Error::config(format!(
                    "{VOLUME_TOKEN_VARIABLE} is not 64 hexadecimal digits"
                ))
            })?;
            return Ok(Some(token));
        }
        let path = self.volume_token_path();
        // Without a word about it the file need not be there.
        if self.volume_token_file.is_none() && !path.exists() {
            return Ok(None);
        }
        let token = VolumeToken::load(&path).map_err(|error| Error::config(error.to_string()))?;
        Ok(Some(token))
    }

    /// Where the volume's token is looked for.
    pub fn volume_token_path(&self) -> PathBuf {
        match &self.volume_token_file {
            Some(path) => path.clone(),
            None => self.tls_dir.join(VOLUME_TOKEN_FILE),
        }
    }

    /// Reads a cluster file. A relative `tls_dir` or `volume_token_file` in it counts from the file's directory.
    ///
    /// # Errors
    /// [`Error::Config`], one line with the file and what is wrong.
    pub fn load(path: impl AsRef<Path>) -> Result<Cluster, Error> {
        let path = path.as_ref();
        let text = settings::read(path)?;
        settings::check_for_opening(&text)
            .map_err(|line| Error::config(settings::located(path, &line)))?;
        let file: ClusterToml = toml::from_str(&text).map_err(|error| {
            let line = settings::explain(&error, &text);
            Error::config(format!("{}: {line}", path.display()))
        })?;
        let dir = path.parent().unwrap_or_else(|| Path::new(""));
        file.into_cluster(dir)
            .map_err(|what| Error::config(format!("{}: {what}", path.display())))
    }

    /// Writes the cluster file, whole or not at all. A path below the file's directory is written relative to it, so
    /// that the directory can be moved. Settings of writers and standbys that stand in a file there already are kept, comments are not.
    ///
    /// # Errors
    /// [`Error::Config`], when it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let failed = |error: std::io::Error| {
            Error::config(format!("cannot write {}: {error}", path.display()))
        };
        let dir = path.parent().unwrap_or_else(|| Path::new(""));
        let mut file = ClusterToml::of(self, dir);
        if let Ok(old) = std::fs::read_to_string(path)
            && let Ok(mut old) = toml::from_str::<toml::Table>(&old)
        {
            let mut table = |name: &str| old.remove(name)?.try_into().ok();
            file.writer = table("writer");
            file.standby = table("standby");
        }
        let text = toml::to_string(&file)
            .map_err(|error| Error::config(format!("cannot write {}: {error}", path.display())))?;
        let draft = path.with_extension("toml.new");
        std::fs::write(&draft, text).map_err(failed)?;
        std::fs::rename(&draft, path).map_err(failed)
    }

    /// Checks that a volume can be made here: a fleet with two nodes and more in each of three availability zones and more, each named
    /// once.
    pub(crate) fn check_for_creation(&self) -> Result<(), Error> {
        self.check_nodes()?;
        if self.nodes.len() < 6 {
            return Err(Error::config(format!(
                "a volume needs six storage nodes, the cluster has {}",
                self.nodes.len()
            )));
        }
        let count_in = |az: &str| self.nodes.iter().filter(|node| node.az == az).count();
        let mut wide: Vec<&str> = self.nodes.iter().map(|node| node.az.as_str()).collect();
        wide.sort_unstable();
        wide.dedup();
        wide.retain(|az| count_in(az) >= 2);
        if wide.len() < 3 {
            let narrow = self.nodes.iter().find(|node| count_in(&node.az) != 2);
            let az = narrow.map_or("", |node| &node.az);
            return Err(Error::config(format!(
                "a volume needs two storage nodes in each of three availability zones, {az:?} has {}",
                count_in(az)
            )));
        }
        Ok(())
    }

    /// Checks what any use needs: at least one node, none named twice.
    pub(crate) fn check_nodes(&self) -> Result<(), Error> {
        if self.nodes.is_empty() {
            return Err(Error::config("the cluster has no storage nodes"));
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if self.nodes[..index]
                .iter()
                .any(|other| other.node == node.node)
            {
                return Err(Error::config(format!(
                    "storage node {} is named twice",
                    node.node
                )));
            }
            if self.nodes[..index]
                .iter()
                .any(|other| other.address == node.address)
            {
                return Err(Error::config(format!(
                    "address {} is named twice",
                    node.address
                )));
            }
        }
        Ok(())
    }
}

/// The file as it stands on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterToml {
    volume: String,
    tls_dir: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    volume_token_file: Option<PathBuf>,
    #[serde(default)]
    nodes: Vec<NodeToml>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    writer: Option<toml::Table>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    standby: Option<toml::Table>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeToml {
    node: String,
    az: String,
    address: String,
}

impl ClusterToml {
    fn of(cluster: &Cluster, dir: &Path) -> ClusterToml {
        let relative = |path: &Path| {
            let below = path.strip_prefix(dir).ok();
            match below.filter(|_| !dir.as_os_str().is_empty()) {
                Some(below) if below.as_os_str().is_empty() => PathBuf::from("."),
                Some(below) => below.to_path_buf(),
                None => path.to_path_buf(),
            }
        };
        let nodes = cluster.nodes.iter().map(|node| NodeToml {
            node: node.node.to_string(),
            az: node.az.clone(),
            address: node.address.to_string(),
        });
        ClusterToml {
            volume: cluster.volume.to_string(),
            tls_dir: relative(&cluster.tls_dir),
            volume_token_file: cluster.volume_token_file.as_deref().map(relative),
            nodes: nodes.collect(),
            writer: None,
            standby: None,
        }
    }

    fn into_cluster(self, dir: &Path) -> Result<Cluster, String> {
        let volume = VolumeId::from_hex(&self.volume)
            .ok_or_else(|| format!("volume {:?} is not 32 hexadecimal digits", self.volume))?;
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for node in self.nodes {
            nodes.push(ClusterNode {
                node: NodeId::from_hex(&node.node)
                    .ok_or_else(|| format!("node {:?} is not 32 hexadecimal digits", node.node))?,
                az: node.az,
                address: node.address.parse().map_err(|_| {
                    format!(
                        "address {:?} is not an IP address with a port",
                        node.address
                    )
                })?,
            });
        }
        let cluster = Cluster {
            volume,
            nodes,
            tls_dir: dir.join(self.tls_dir),
            volume_token_file: self.volume_token_file.map(|file| dir.join(file)),
        };
        cluster.check_nodes().map_err(|error| error.to_string())?;
        Ok(cluster)
    }
}
