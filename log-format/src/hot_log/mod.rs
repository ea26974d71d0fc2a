//! The hot log's zone on disk: superblock, file header, block groups and their entries.
//!
//! A node has one hot log for all its segments: a row of preallocated, pre-zeroed files. After one block of file
//! header come *groups*: what one write appended, a whole number of blocks with sequence number, length and
//! checksum. A group is there as a whole or not at all. Claims, histories and manifests are entries like the
//! batches, so that their place orders them against the batches (R2, F6).
//!
//! Here are the types; `header`, `entry` and `group` have their bytes.

mod entry;
mod group;
mod header;

use bytes::Bytes;

use crate::error::DecodeError;
use crate::history::History;
use crate::id::{NodeId, PgId, SegmentId, VolumeEpoch, WriterId};
use crate::layer::LayerCatalog;
use crate::lsn::Lsn;
use crate::manifest::Manifest;

/// A node's identity and what was fixed when its directory was formatted. Written once, in two copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The node.
    pub node: NodeId,
    /// Alignment unit of every write, bytes: the physical block of the device (F10).
    pub block_bytes: u32,
    /// Size of a hot-log file, bytes.
    pub file_bytes: u64,
}

pub use group::{claimed_sequence, decode_group, encode_group};

/// The version of the hot log's zones that this build writes and reads.
pub const HOT_LOG_VERSION: u16 = 2;
/// Bytes of one copy of the superblock.
pub const SUPERBLOCK_COPY_BYTES: usize = 4096;
/// Bytes of the superblock file: two copies, each in a block of its own.
pub const SUPERBLOCK_BYTES: usize = 2 * SUPERBLOCK_COPY_BYTES;
/// Bytes of a group's header.
pub const GROUP_HEADER_BYTES: usize = 32;
/// Bytes of an entry's header.
pub const ENTRY_HEADER_BYTES: usize = 24;
/// Largest group, padding included. A length above it is damage, whatever the input's size.
pub const GROUP_BYTES_MAX: usize = 64 << 20;
/// Smallest alignment unit, bytes.
pub const BLOCK_BYTES_MIN: u32 = 512;
/// Largest alignment unit, bytes.
pub const BLOCK_BYTES_MAX: u32 = 65_536;

/// The number of a hot-log file, from 1; also its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileNumber(pub u64);

/// The first block of a hot-log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHeader {
    /// The node that it belongs to.
    pub node: NodeId,
    /// Its number.
    pub file: FileNumber,
    /// Alignment unit, bytes.
    pub block_bytes: u32,
    /// Sequence number of its first group.
    pub first_sequence: u64,
    /// When it was begun, nothing up to this file was needed any more to start: all redo in them was in layers, and everything else
    /// stood at the head of a later file before this one. 0 for none.
    pub folded: FileNumber,
}

/// What a group holds. `segment` says whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A batch, verbatim. It was verified when it arrived; whoever reads it from disk verifies it again.
    Batch {
        /// The segment.
        segment: SegmentId,
        /// The bytes of [`crate::Batch`].
        bytes: Bytes,
    },
    /// A segment came into being.
    Created {
        /// The segment.
        segment: SegmentId,
        /// Its protection group.
        pg: PgId,
        /// The volume's first manifest.
        manifest: Manifest,
    },
    /// A claim was accepted (R2).
    Claim {
        /// The segment.
        segment: SegmentId,
        /// The epoch claimed.
        volume_epoch: VolumeEpoch,
        /// By whom.
        writer: WriterId,
    },
    /// History and manifest were taken, with the claim that holding them implies (R3).
    Install {
        /// The segment.
        segment: SegmentId,
        /// The epoch and its writer.
        volume_epoch: VolumeEpoch,
        /// By whom.
        writer: WriterId,
        /// The history, whole.
        history: History,
        /// The manifest.
        manifest: Manifest,
    },
    /// Everything above but the batches, as of the head of a file, so that older files can go (F6).
    State {
        /// The segment.
        segment: SegmentId,
        /// Its protection group.
        pg: PgId,
        /// The claim held.
        volume_epoch: VolumeEpoch,
        /// By whom.
        writer: WriterId,
        /// The history held.
        history: History,
        /// The manifest held.
        manifest: Manifest,
        /// SCL that was acknowledged before.
        scl: Lsn,
        /// Highest VDL seen.
        vdl: Lsn,
        /// Its layers.
        catalog: LayerCatalog,
    },
    /// The segment's layers are these from here on: their files were written and synced before. What the catalog before
    /// listed and this one does not may be deleted when the entry is durable.
    Catalog {
        /// The segment.
        segment: SegmentId,
        /// The list, whole.
        catalog: LayerCatalog,
    },
    /// The segment was dropped; its identity never answers again.
    Dropped {
        /// The segment.
        segment: SegmentId,
    },
    /// The segment was dropped because a manifest does not name it any more. Whoever asks for it is told that manifest (R20).
    Removed {
        /// The segment.
        segment: SegmentId,
        /// Its protection group.
        pg: PgId,
        /// The manifest.
        manifest: Manifest,
    },
}

/// What stands at a block boundary of a hot-log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A sound group.
    Group {
        /// Its sequence number.
        sequence: u64,
        /// Its entries, each with its offset from the start of the group.
        entries: Vec<(u32, Entry)>,
        /// Its length in bytes, a multiple of the block.
        bytes: usize,
    },
    /// A group that is longer than the input: call again with this many bytes.
    More {
        /// Bytes needed from the same start.
        bytes: usize,
    },
    /// A block of zeros: nothing was written here.
    Empty,
    /// Something else: torn or damaged.
    Bad(DecodeError),
}
