//! What concerns a node as a whole: creation of segments, status, wishes.

use crate::field::{code_field, struct_field};
use crate::id::{NodeId, PgId, SegmentId, VolumeEpoch, VolumeId};
use crate::lsn::Lsn;
use crate::manifest::Manifest;

/// Makes a segment, with the volume's first manifest. Repeatable: the same identity again is answered as done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSegment {
    /// The segment, as the manifest names it.
    pub segment: SegmentId,
    /// Its protection group.
    pub pg: PgId,
    /// The volume's first manifest.
    pub manifest: Manifest,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// Its availability zone.
    pub az: String,
    /// Bytes of the hot log that are in use.
    pub hot_log_bytes: u64,
    /// Writes to the hot log since the start.
    pub group_writes: u64,
    /// Bytes of redo appended since the start.
    pub redo_bytes: u64,
    /// Messages refused since the start.
    pub refused: u64,
    /// Batches that gossip brought since the start.
    pub gossip_batches: u64,
    /// Its segments.
    pub segments: Vec<SegmentStatus>,
}

/// How a segment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentStatus {
    /// The segment.
    pub segment: SegmentId,
    /// Its volume.
    pub volume: VolumeId,
    /// Its protection group.
    pub pg: PgId,
    /// The highest claim accepted.
    pub claim: VolumeEpoch,
    /// The history held.
    pub history_epoch: VolumeEpoch,
    /// The segment complete LSN.
    pub scl: Lsn,
    /// The highest LSN held, behind holes too.
    pub highest: Lsn,
    /// The highest VDL seen.
    pub vdl_seen: Lsn,
    /// Bytes of redo that are in no image of a page yet.
    pub unfolded_bytes: u64,
    /// Damage that was found and not healed yet.
    pub damaged: bool,
}

/// What an operator wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WishVerb {
    /// Replace `subject` (a segment or node) by a segment on node `object`.
    Replace,
    /// Undo a replacement of `subject`.
    Restore,
    /// Move everything away from node `subject`.
    Drain,
    /// Append a protection group.
    Grow,
}

/// A wish. Left with nodes, carried to the writer by acks, acted on by the writer (R24).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Drawn by the operator's tool, so that a wish is done once.
    pub id: [u8; 16],
    /// The volume.
    pub volume: VolumeId,
    /// What to do.
    pub verb: WishVerb,
    /// To whom.
    pub subject: [u8; 16],
    /// With whom; zeros when the writer may choose.
    pub object: [u8; 16],
}

struct_field!(CreateSegment {
    segment,
    pg,
    manifest
});
struct_field!(NodeStatus {
    node,
    az,
    hot_log_bytes,
    group_writes,
    redo_bytes,
    refused,
    gossip_batches,
    segments,
});
struct_field!(SegmentStatus {
    segment,
    volume,
    pg,
    claim,
    history_epoch,
    scl,
    highest,
    vdl_seen,
    unfolded_bytes,
    damaged,
});
code_field!(WishVerb { Replace = 1, Restore = 2, Drain = 3, Grow = 4 });
struct_field!(Wish {
    id,
    volume,
    verb,
    subject,
    object
});
