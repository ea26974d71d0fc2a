//! Between segments of a protection group: gossip, log reads, layer reads.

use bytes::Bytes;

use super::payload::{Input, Output, Payload};
use crate::error::DecodeError;
use crate::field::{Field, struct_field};
use crate::history::History;
use crate::id::{ManifestVersion, SegmentId, VolumeEpoch};
use crate::lsn::Lsn;
use crate::manifest::Manifest;

/// Compares two segments. Histories first (R3): the side with the lower one takes the higher one before anything else.
/// Gossip only pulls: whoever asks learns what it lacks and asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gossip {
    /// The segment asked.
    pub segment: SegmentId,
    /// The segment that asks.
    pub from: SegmentId,
    /// The history that the asker holds.
    pub history_epoch: VolumeEpoch,
    /// The manifest that the asker holds.
    pub manifest_version: ManifestVersion,
    /// The asker's SCL.
    pub scl: Lsn,
    /// The highest VDL that the asker has seen.
    pub vdl_seen: Lsn,
}

/// Answers [`Gossip`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipAnswer {
    /// The segment that answers.
    pub segment: SegmentId,
    /// The history that it holds.
    pub history_epoch: VolumeEpoch,
    /// Its SCL under that history.
    pub scl: Lsn,
    /// The highest VDL that it has seen.
    pub vdl_seen: Lsn,
    /// The highest SCL that the asker has ever told it: an asker below it has lost something (R12).
    pub asker_scl_max: Lsn,
    /// History and manifest, when the asker's history or manifest is lower.
    pub newer: Option<(History, Manifest)>,
}

/// Asks for batches that hold any LSN of `(after, through]`, in LSN order, as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLog {
    /// The segment.
    pub segment: SegmentId,
    /// The reader's history: the segment must hold the same.
    pub history_epoch: VolumeEpoch,
    /// Exclusive.
    pub after: Lsn,
    /// Inclusive.
    pub through: Lsn,
    /// Stop after about this many bytes.
    pub bytes_max: u32,
}

/// Answers [`ReadLog`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// Batches in LSN order; their records may be annulled, the reader filters (R5).
    pub batches: Vec<Bytes>,
    /// False when everything that the segment holds of the range was sent.
    pub more: bool,
}

/// Asks for a part of a layer file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLayer {
    /// The segment.
    pub segment: SegmentId,
    /// The layer's number in the segment's catalog; 0 is the catalog itself.
    pub layer: u64,
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub bytes_max: u32,
}

/// Answers [`ReadLayer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPiece {
    /// Length of the whole layer, bytes.
    pub layer_bytes: u64,
    /// The part.
    pub bytes: Bytes,
}

struct_field!(Gossip {
    segment,
    from,
    history_epoch,
    manifest_version,
    scl,
    vdl_seen
});
struct_field!(GossipAnswer {
    segment,
    history_epoch,
    scl,
    vdl_seen,
    asker_scl_max,
    newer
});
struct_field!(ReadLog {
    segment,
    history_epoch,
    after,
    through,
    bytes_max
});
struct_field!(ReadLayer {
    segment,
    layer,
    offset,
    bytes_max
});

impl Payload for LogPiece {
    fn put(&self, out: &mut Output) {
        self.more.put(&mut out.head);
        out.put_list(&self.batches);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let more = bool::take(input.reader.field("more"))?;
        Ok(LogPiece {
            batches: input.list()?,
            more,
        })
    }
}

impl Payload for LayerPiece {
    fn put(&self, out: &mut Output) {
        self.layer_bytes.put(&mut out.head);
        out.put_rest(&self.bytes);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Ok(LayerPiece {
            layer_bytes: u64::take(&mut input.reader)?,
            bytes: input.rest(),
        })
    }
}
