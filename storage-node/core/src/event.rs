//! What happens to a storage node: what the shell tells the core.

use core::net::SocketAddr;

use bytes::Bytes;
use sixfold_log_format::hot_log::FileNumber;
use sixfold_log_format::layer::LayerNumber;
use sixfold_log_format::wire::{Message, Role};
use sixfold_log_format::{NodeId, SegmentId, TokenDigest, VolumeId};

/// A connection of the shell's. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionKey(pub u64);

/// A stream of a connection, request or log. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey(pub u64);

/// A disk operation in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskToken(pub u64);

impl DiskToken {
    /// The `number`th read.
    pub(crate) fn read(number: u64) -> DiskToken {
        DiskToken(number * 4)
    }

    /// The `number`th write to the hot log. Nothing else has its token: its end would count as that of a sync, and a layer be named that
    /// is not durable.
    pub(crate) fn log_write(number: u64) -> DiskToken {
        DiskToken(number * 4 + 1)
    }

    /// The `number`th write or sync of a layer.
    pub(crate) fn layer_write(number: u64) -> DiskToken {
        DiskToken(number * 4 + 3)
    }
}

/// A request to a peer in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerToken(pub u64);

/// How a disk operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskError {
    /// No space is left.
    Full,
    /// Anything else. For a write it ends the process: nothing is acknowledged on hope.
    Failed,
}

/// An event. Every disk operation that the core asked for is answered once; streams are answered by
/// [`Event::StreamClosed`] at the latest.
#[derive(Debug)]
pub enum Event {
    /// A message arrived on a stream; the first one decides what the stream is. The opening of a connection
    /// (`Hello`, `Welcome`) is the shell's and never comes here.
    Message {
        /// The connection, for limits and for its role.
        connection: ConnectionKey,
        /// What the peer's certificate says that it is.
        role: Role,
        /// The stream.
        stream: StreamKey,
        /// The message.
        message: Message,
    },
    /// A connection was opened: what its hello said of a volume. Until this comes a connection has shown no token.
    Connected {
        /// The connection.
        connection: ConnectionKey,
        /// The volume, and the digest of the token that was shown for it.
        shown: Option<(VolumeId, TokenDigest)>,
    },
    /// A connection is gone.
    Disconnected {
        /// Which.
        connection: ConnectionKey,
    },
    /// A stream ended, from whichever side; nothing can be sent on it any more.
    StreamClosed {
        /// The stream.
        stream: StreamKey,
    },
    /// A write to the hot log is durable, a write to a layer is done, a layer is synced; or that failed.
    Written {
        /// Which.
        token: DiskToken,
        /// How it went.
        result: Result<(), DiskError>,
    },
    /// A read ended.
    Read {
        /// Which.
        token: DiskToken,
        /// The bytes: as many as asked for, fewer only at the end of a file.
        result: Result<Bytes, DiskError>,
    },
    /// A file was created, preallocated, zeroed and synced, or made of an old one, its directory entry too; or that failed.
    Prepared {
        /// Which.
        file: FileNumber,
        /// How it went.
        result: Result<(), DiskError>,
    },
    /// A peer answered, or could not be reached.
    PeerAnswer {
        /// Which request.
        token: PeerToken,
        /// The answer, if any came.
        answer: Option<Message>,
    },
    /// The node answers here. Where the manifest names this host with another port, peers and the writer are told (R25).
    Listening {
        /// The address that it is bound to.
        address: SocketAddr,
    },
    /// The file system of the data directory has so much room. Told now and then; until it is, nothing is known of it.
    Space {
        /// Bytes that may be written yet.
        free_bytes: u64,
    },
    /// [`crate::NodeCore::poll_timeout`] has come.
    Timeout,
}

/// What the shell found in a data directory when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDirectory {
    /// The node, as its superblock and configuration agree.
    pub node: NodeId,
    /// The availability zone, for status answers.
    pub az: String,
    /// Alignment unit of writes, bytes.
    pub block_bytes: u32,
    /// Size of a hot-log file, bytes.
    pub file_bytes: u64,
    /// The hot-log files that are there, in order, each with its length in bytes.
    pub files: Vec<(FileNumber, u64)>,
    /// The layer files that are there, each with its length in bytes.
    pub layers: Vec<(SegmentId, LayerNumber, u64)>,
    /// Bounds of memory and queues.
    pub bounds: crate::Bounds,
    /// Seeds what is drawn at random (gossip order).
    pub seed: u64,
}
