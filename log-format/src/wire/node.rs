//! What concerns a node as a whole: creation and end of segments, status.

use crate::field::struct_field;
use crate::id::{NodeId, PgId, SegmentId, VolumeEpoch, VolumeId};
use crate::lsn::Lsn;
use crate::manifest::Manifest;

/// Makes a segment, with the manifest that names it: the volume's first one, or the one of a step that is not in force yet (R20).
/// Repeatable: the same identity again is answered as done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSegment {
    /// The segment, as the manifest names it.
    pub segment: SegmentId,
    /// Its protection group.
    pub pg: PgId,
    /// That manifest.
    pub manifest: Manifest,
}

/// Drops a segment: its redo, its pages and its layers go, and its identity never answers again. Answered when that is
/// durable; a segment that is not there is answered as done.
///
/// A writer drops only what the manifest that the segment holds does not name (install one first); what stays is a tombstone with
/// that manifest (R20). An operator drops anything, a tombstone's manifest too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropSegment {
    /// The segment.
    pub segment: SegmentId,
    /// Its volume, so that no slip of the pen drops another one's.
    pub volume: VolumeId,
}

/// Drops every segment of a volume, its tombstones, and what was left about it. Answered when that is durable; repeatable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetireVolume {
    /// The volume.
    pub volume: VolumeId,
}

/// What a node's memory holds, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeMemory {
    /// What it may hold altogether.
    pub limit_bytes: u64,
    /// Page indexes.
    pub index_bytes: u64,
    /// Redo beside its place on disk.
    pub redo_bytes: u64,
    /// Redo that waits for the hot log.
    pub queued_bytes: u64,
    /// Folded pages.
    pub page_bytes: u64,
    /// Blocks of layers.
    pub block_bytes: u64,
    /// Indexes of layers.
    pub layer_index_bytes: u64,
    /// What freezes and merges hold.
    pub work_bytes: u64,
}

/// What a node did for itself, and what its memory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeUpkeep {
    /// Runs of layers frozen since the start.
    pub freezes: u64,
    /// Merges of runs since the start.
    pub merges: u64,
    /// Hot-log files freed since the start.
    pub files_freed: u64,
    /// Bytes that the scrub has verified since the start.
    pub scrub_bytes: u64,
    /// Times that the scrub has been through everything since the start.
    pub scrub_rounds: u64,
    /// Damaged places found since the start.
    pub damage_found: u64,
    /// Damaged places healed since the start.
    pub damage_healed: u64,
    /// No new batch is taken: the disk is full.
    pub full: bool,
    /// A bound is near: writers are asked to slow down.
    pub pressed: bool,
    /// What its memory holds.
    pub memory: NodeMemory,
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
    /// What the node did for itself, and what its memory holds.
    pub upkeep: Box<NodeUpkeep>,
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
    /// Layers hold everything valid at or below it.
    pub folded_through: Lsn,
    /// Pages cannot be read below it.
    pub horizon: Lsn,
    /// Batches at or below it are not kept any more.
    pub log_start: Lsn,
    /// Its layers.
    pub layer_count: u32,
    /// Runs of layers: what a page read looks at, at most.
    pub run_count: u32,
    /// Bytes of its layers.
    pub layer_bytes: u64,
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
    upkeep,
    segments,
});
struct_field!(NodeUpkeep {
    freezes,
    merges,
    files_freed,
    scrub_bytes,
    scrub_rounds,
    damage_found,
    damage_healed,
    full,
    pressed,
    memory,
});
struct_field!(DropSegment { segment, volume });
struct_field!(NodeMemory {
    limit_bytes,
    index_bytes,
    redo_bytes,
    queued_bytes,
    page_bytes,
    block_bytes,
    layer_index_bytes,
    work_bytes,
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
    folded_through,
    horizon,
    log_start,
    layer_count,
    run_count,
    layer_bytes,
});
struct_field!(RetireVolume { volume });
