//! What a storage node does: what the core tells the shell.

use sixfold_log_format::hot_log::FileNumber;
use sixfold_log_format::layer::LayerNumber;
use sixfold_log_format::wire::Message;
use sixfold_log_format::{NodeId, SegmentId};

use crate::event::{ConnectionKey, DiskToken, PeerToken, StreamKey};
use crate::io_buf::IoBuf;

/// A file of the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// A file of the hot log. It has its full length from when it was prepared.
    HotLog(FileNumber),
    /// A layer. Its first write creates it; writes append.
    Layer(SegmentId, LayerNumber),
}

/// An action. The shell does them in the order in which they come and decides nothing.
#[derive(Debug)]
pub enum Action {
    /// Sends a message on a stream.
    Send {
        /// The stream; ignored when it has ended.
        stream: StreamKey,
        /// The message.
        message: Message,
        /// Ends the stream behind it.
        end: bool,
    },
    /// Closes a connection whose peer does not keep to the protocol.
    Disconnect {
        /// The connection.
        connection: ConnectionKey,
    },
    /// Writes. To the hot log the write syncs (`O_DIRECT | O_DSYNC`): its completion means that the bytes are durable, and one such
    /// write is in flight at a time. To a layer it does not: [`Action::Sync`] does. Answered by [`crate::Event::Written`].
    Write {
        /// Comes back in [`crate::Event::Written`].
        token: DiskToken,
        /// The file.
        file: FileName,
        /// Where; a multiple of the block.
        offset: u64,
        /// What; aligned, a multiple of the block.
        bytes: IoBuf,
    },
    /// Reads.
    Read {
        /// Comes back in [`crate::Event::Read`].
        token: DiskToken,
        /// The file.
        file: FileName,
        /// Where; a multiple of the block.
        offset: u64,
        /// How much; a multiple of the block.
        bytes: u32,
    },
    /// Makes a layer durable, all of its writes and its directory entry. Answered by [`crate::Event::Written`].
    Sync {
        /// Comes back.
        token: DiskToken,
        /// The layer's segment.
        segment: SegmentId,
        /// The layer.
        layer: LayerNumber,
    },
    /// Deletes a file that is not needed any more. Reads of it that are in flight may end either way. Not answered: a file that
    /// comes back after a crash is deleted again.
    Delete {
        /// The file.
        file: FileName,
    },
    /// Moves a damaged file out of the way and keeps it for whoever wants to look at it. Not answered.
    SetAside {
        /// The file.
        file: FileName,
    },
    /// Makes the next hot-log file, so that an append commits no file-system metadata. Answered by [`crate::Event::Prepared`].
    ///
    /// Without `from`: preallocated and zeroed. What a crash left of an earlier attempt at the same number is thrown away.
    ///
    /// With `from`: that file, which nobody needs any more, becomes the new one with the bytes that it has. In this order: its first
    /// block is zeroed and synced, it is renamed, the directory is synced. A crash between any two leaves the old file (which the
    /// next scan reads without its header) or the new one (which was not begun). Deletions asked for before are done before:
    /// the oldest files go first, or one would be missing after a crash. Reads of `from` may end with the bytes of either.
    /// Where it fails, `from` is deleted next.
    Prepare {
        /// Its number.
        file: FileNumber,
        /// Its length.
        bytes: u64,
        /// The file that becomes it.
        from: Option<FileNumber>,
    },
    /// Asks a peer; answered once by [`crate::Event::PeerAnswer`]. Every answer is a single message.
    AskPeer {
        /// Comes back with the answer.
        token: PeerToken,
        /// The node.
        node: NodeId,
        /// Where it was last seen, `host:port`.
        address: String,
        /// The request.
        message: Message,
    },
    /// Something that an operator should read, logged once.
    Log {
        /// How bad it is.
        severity: Severity,
        /// One line.
        text: String,
    },
    /// Ends the process: a write failed, or the directory is damaged beyond what may be served.
    Stop {
        /// One line.
        reason: String,
    },
}

/// How bad a logged line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Expected, but an operator may want to act.
    Warning,
    /// Damage.
    Error,
}
