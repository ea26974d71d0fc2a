//! Why a node cannot run: one clear line for each bad input.

use std::io;
use std::path::Path;

use sixfold_log_format::{DecodeError, NodeId};
use sixfold_transport::TlsError;
use sixfold_transport::endpoint::EndpointError;

/// Why a node cannot run. Each is one clear line; no data was touched unless it says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// A setting has a value that it may not have.
    #[error("setting {name}: {reason}")]
    Option {
        /// Which.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The data directory is missing.
    #[error("data directory {path} does not exist")]
    NoDirectory {
        /// Which.
        path: String,
    },
    /// The data directory is no directory.
    #[error("data directory {path} is not a directory")]
    NotADirectory {
        /// Which.
        path: String,
    },
    /// Another process holds the lock.
    #[error("data directory {path} is in use by another process")]
    Locked {
        /// Which.
        path: String,
    },
    /// Files, but no superblock: not a node's directory, or no longer one.
    #[error(
        "data directory {path} holds {name} but no superblock: it is neither empty nor a node's"
    )]
    NotEmpty {
        /// The directory.
        path: String,
        /// The first name that does not belong there.
        name: String,
    },
    /// A superblock, but not one file of the hot log: what the node promised is lost. It never becomes an empty node (R12).
    #[error(
        "data directory {path} has a superblock but no hot-log file: its log is lost, replace the node"
    )]
    HotLogLost {
        /// The directory.
        path: String,
    },
    /// The directory was formatted for another node.
    #[error("data directory {path} belongs to node {found}, this is node {configured}")]
    OtherNode {
        /// The directory.
        path: String,
        /// The node in its superblock.
        found: NodeId,
        /// The node in the configuration.
        configured: NodeId,
    },
    /// The directory was formatted by a build with another format.
    #[error("data directory {path} has format version {found}, this build reads {supported}")]
    OtherVersion {
        /// The directory.
        path: String,
        /// The version found.
        found: u16,
        /// The version that this build reads.
        supported: u16,
    },
    /// Neither copy of the superblock is sound.
    #[error("superblock {path} is damaged: {source}")]
    Superblock {
        /// The file.
        path: String,
        /// How.
        source: DecodeError,
    },
    /// A name that no node writes.
    #[error("{path} does not belong in a node's data directory")]
    UnknownFile {
        /// The file.
        path: String,
    },
    /// A hot-log file has been cut or has grown.
    #[error("hot-log file {path} has {found} bytes, expected {expected}")]
    FileLength {
        /// The file.
        path: String,
        /// Its length.
        found: u64,
        /// The length that every hot-log file of this directory has.
        expected: u64,
    },
    /// A write of the process before is still on its way to the disk.
    #[error(
        "hot-log file {path} is still being written by an earlier process after {waited_ms} ms: the disk hangs"
    )]
    StillWritten {
        /// The file.
        path: String,
        /// How long the write was waited for.
        waited_ms: u64,
    },
    /// The block unit cannot be used on this device.
    #[error("data directory {path} has a block unit of {found} bytes, the device needs {needed}")]
    BlockUnit {
        /// The directory.
        path: String,
        /// The unit in the superblock, or the largest that is supported.
        found: u32,
        /// The device's.
        needed: u32,
    },
    /// The file system has no `O_DIRECT`.
    #[error("the file system of {path} does not support direct I/O (O_DIRECT)")]
    NoDirectIo {
        /// The directory.
        path: String,
    },
    /// The host allows no io_uring.
    #[error(
        "io_uring is not available on this host ({source}); see /proc/sys/kernel/io_uring_disabled"
    )]
    NoRing {
        /// What the kernel said.
        source: io::Error,
    },
    /// The ring failed for another reason.
    #[error("io_uring: {source}")]
    Ring {
        /// What the kernel said.
        source: io::Error,
    },
    /// Certificate or key are missing, damaged or of a foreign CA.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate is one of another role.
    #[error("the certificate is a {role}'s, not a node's")]
    CertificateRole {
        /// Its role.
        role: &'static str,
    },
    /// The certificate is one of another node.
    #[error("the certificate names node {found}, this is node {configured}")]
    CertificateNode {
        /// The node in the configuration.
        configured: NodeId,
        /// The node in the certificate.
        found: NodeId,
    },
    /// The port is taken, or the socket cannot be made.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A file operation failed.
    #[error("cannot {operation} {path}: {source}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The runtime could not be built.
    #[error("cannot build the runtime: {source}")]
    Runtime {
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no randomness.
    #[error("no randomness: {reason}")]
    Randomness {
        /// What the system said.
        reason: String,
    },
    /// The node stopped itself: it may not go on serving.
    #[error("node stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// A bug: a task panicked. What it said stands above this line.
    #[error("node stopped: a task panicked")]
    Panicked,
}

impl NodeError {
    /// A failed file operation.
    pub(crate) fn file(
        operation: &'static str,
        path: &Path,
        source: impl Into<io::Error>,
    ) -> NodeError {
        NodeError::File {
            operation,
            path: path.display().to_string(),
            source: source.into(),
        }
    }

    /// A ring that could not be made.
    pub(crate) fn from_ring(source: io::Error) -> NodeError {
        // ENOSYS: not in this kernel. EPERM: switched off by sysctl or seccomp.
        match source.kind() {
            io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied => {
                NodeError::NoRing { source }
            }
            _ => NodeError::Ring { source },
        }
    }
}
