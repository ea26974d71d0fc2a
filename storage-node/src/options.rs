//! Settings of a node, their defaults and their limits. Reads no file: the binary maps its configuration to this.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sixfold_log_format::NodeId;
use sixfold_log_format::limits::FRAME_BYTES_MAX;
use sixfold_log_format::wire::{WIRE_VERSION, WIRE_VERSION_MIN};
use sixfold_storage_node_core::{Bounds, IoBuf};

use crate::error::NodeError;

/// Smallest hot-log file, bytes: a few of the largest groups and the header.
pub const HOT_LOG_FILE_BYTES_MIN: u64 = 8 << 20;
/// Largest hot-log file, bytes: preparing one must not take minutes.
pub const HOT_LOG_FILE_BYTES_MAX: u64 = 4 << 30;
/// Longest name of an availability zone, bytes.
pub const AZ_BYTES_MAX: usize = 64;

const _: () = assert!(HOT_LOG_FILE_BYTES_MIN >= 4 * FRAME_BYTES_MAX as u64);

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Data directory; it must exist. Formatted when it is empty.
    pub data_dir: PathBuf,
    /// The node's id; must be the one in its certificate and in its superblock.
    pub node: NodeId,
    /// Availability zone.
    pub az: String,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Directory with `ca.pem`, `node.pem`, `node-key.pem`.
    pub tls_dir: PathBuf,
    /// UDP payload to begin with, bytes.
    pub mtu_bytes: Option<u16>,
    /// Highest wire version to speak.
    pub wire_max: u16,
    /// Size of a hot-log file, bytes, when the directory is formatted. A multiple of 4,096.
    pub hot_log_file_bytes: u64,
    /// Space of the file system that layers leave free, bytes: room for the hot log's next files, so that claims and catalogs,
    /// which give space back, can still be written when the disk is full.
    pub reserve_bytes: u64,
    /// Redo kept in memory, bytes.
    pub resident_redo_bytes_max: usize,
    /// Folded pages kept in memory, bytes.
    pub page_cache_bytes_max: usize,
    /// Blocks and indexes of layers kept in memory, bytes.
    pub layer_cache_bytes_max: usize,
    /// Page indexes in memory, bytes; half of it makes layers due, all of it refuses batches.
    pub index_bytes_max: usize,
    /// Redo that no layer holds, bytes; half of it makes layers due, all of it refuses batches. It bounds a restart.
    pub unfolded_bytes_max: u64,
    /// Hot-log files kept for gossip and watch although everything in them is in layers, bytes.
    pub log_window_bytes: u64,
    /// Hot-log files altogether, bytes; half of it frees what can be freed, all of it refuses batches.
    pub log_bytes_max: u64,
    /// Time between two rounds of gossip.
    pub gossip_interval: Duration,
}

impl NodeOptions {
    /// Options with the default for everything that has one.
    pub fn with_defaults(
        data_dir: PathBuf,
        node: NodeId,
        az: String,
        listen: SocketAddr,
        tls_dir: PathBuf,
    ) -> NodeOptions {
        NodeOptions {
            data_dir,
            node,
            az,
            listen,
            tls_dir,
            mtu_bytes: None,
            wire_max: WIRE_VERSION,
            hot_log_file_bytes: 64 << 20,
            reserve_bytes: 128 << 20,
            resident_redo_bytes_max: 256 << 20,
            page_cache_bytes_max: 64 << 20,
            layer_cache_bytes_max: 64 << 20,
            index_bytes_max: 64 << 20,
            unfolded_bytes_max: 256 << 20,
            log_window_bytes: 512 << 20,
            log_bytes_max: 2 << 30,
            gossip_interval: Duration::from_millis(200),
        }
    }

    /// What the core may use.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            resident_redo_bytes_max: self.resident_redo_bytes_max,
            page_cache_bytes_max: self.page_cache_bytes_max,
            layer_cache_bytes_max: self.layer_cache_bytes_max,
            index_bytes_max: self.index_bytes_max,
            unfolded_bytes_max: self.unfolded_bytes_max,
            log_window_bytes: self.log_window_bytes,
            log_bytes_max: self.log_bytes_max,
            gossip_interval: self.gossip_interval,
            ..Bounds::default()
        }
    }

    /// Whether each value is one that a node can run with.
    ///
    /// # Errors
    /// [`NodeError::Option`], naming the first that is not.
    pub fn check(&self) -> Result<(), NodeError> {
        let bytes = self.hot_log_file_bytes;
        if !(HOT_LOG_FILE_BYTES_MIN..=HOT_LOG_FILE_BYTES_MAX).contains(&bytes) {
            return Err(NodeError::Option {
                name: "hot_log_file_bytes",
                reason: format!(
                    "{bytes} is not in {HOT_LOG_FILE_BYTES_MIN}..={HOT_LOG_FILE_BYTES_MAX}"
                ),
            });
        }
        if !bytes.is_multiple_of(IoBuf::ALIGN_BYTES as u64) {
            return Err(NodeError::Option {
                name: "hot_log_file_bytes",
                reason: format!("{bytes} is not a multiple of {}", IoBuf::ALIGN_BYTES),
            });
        }
        if self.az.is_empty() || self.az.len() > AZ_BYTES_MAX {
            return Err(NodeError::Option {
                name: "az",
                reason: format!(
                    "its length is {} bytes, not in 1..={AZ_BYTES_MAX}",
                    self.az.len()
                ),
            });
        }
        if self.node == NodeId::default() {
            return Err(NodeError::Option {
                name: "node",
                reason: "the id is all zeros".to_owned(),
            });
        }
        if self.unfolded_bytes_max > self.log_bytes_max {
            return Err(NodeError::Option {
                name: "unfolded_bytes_max",
                reason: format!(
                    "{} bytes of redo do not fit a hot log of {} bytes",
                    self.unfolded_bytes_max, self.log_bytes_max
                ),
            });
        }
        if self.log_bytes_max < 2 * self.hot_log_file_bytes {
            return Err(NodeError::Option {
                name: "log_bytes_max",
                reason: format!(
                    "{} bytes are not two files of {}",
                    self.log_bytes_max, self.hot_log_file_bytes
                ),
            });
        }
        if !(WIRE_VERSION_MIN..=WIRE_VERSION).contains(&self.wire_max) {
            return Err(NodeError::Option {
                name: "wire_max",
                reason: format!(
                    "{} is not in {WIRE_VERSION_MIN}..={WIRE_VERSION}",
                    self.wire_max
                ),
            });
        }
        if self.gossip_interval.is_zero() {
            return Err(NodeError::Option {
                name: "gossip_interval",
                reason: "it is zero".to_owned(),
            });
        }
        Ok(())
    }
}
