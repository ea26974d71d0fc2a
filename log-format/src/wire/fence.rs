//! Reopening: probe, claim, census, install, refill.

use bytes::Bytes;

use super::payload::{Input, Output, Payload};
use crate::codec::Reader;
use crate::error::DecodeError;
use crate::field::{Field, struct_field};
use crate::history::History;
use crate::id::{PgId, SegmentId, VolumeEpoch, VolumeId, WriterId};
use crate::lsn::Lsn;
use crate::manifest::Manifest;

/// Asks a node about its segments of a volume, without writing anything (R8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The volume.
    pub volume: VolumeId,
}

/// Answers [`Probe`]: the node's segments of that volume, maybe none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// The newest manifest that the node holds of the volume.
    pub manifest: Option<Box<Manifest>>,
    /// Its segments.
    pub segments: Vec<SegmentProbe>,
}

/// What a probe says of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentProbe {
    /// The segment.
    pub segment: SegmentId,
    /// Its protection group.
    pub pg: PgId,
    /// The highest claim accepted.
    pub claim: VolumeEpoch,
    /// The history held.
    pub history_epoch: VolumeEpoch,
    /// The segment complete LSN.
    pub scl: Lsn,
    /// The highest VDL seen.
    pub vdl_seen: Lsn,
    /// Milliseconds since it heard its writer; `None` when it has not since the daemon's start (T11).
    pub writer_heard_ms_ago: Option<u32>,
}

/// Claims an epoch at a segment. Once it is accepted no ack of a lower epoch leaves (R2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The segment.
    pub segment: SegmentId,
    /// The epoch.
    pub volume_epoch: VolumeEpoch,
    /// Drawn for this attempt.
    pub writer: WriterId,
}

/// Asks for what [`Claim`] answers, without a claim: nothing is written, and no writer is fenced (R23). The census then carries the
/// claim that the segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survey {
    /// The segment.
    pub segment: SegmentId,
}

/// Answers [`Claim`] when the claim is durable, and [`Survey`]. A long census comes in pieces: all fields but `runs` are the same in
/// each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// The segment.
    pub segment: SegmentId,
    /// The epoch claimed; in the answer to a survey the claim that is held.
    pub volume_epoch: VolumeEpoch,
    /// The history held, whole.
    pub history: History,
    /// The manifest held.
    pub manifest: Manifest,
    /// SCL under that history.
    pub scl: Lsn,
    /// The highest VDL that this segment has seen.
    pub vdl_seen: Lsn,
    /// The PG's last valid LSN at or below `vdl_seen` that this segment holds (R6).
    pub last_valid: Lsn,
    /// How long a read lease that this segment granted may still run, milliseconds (T1).
    pub lease_left_ms: u32,
    /// Everything held above `vdl_seen`, behind holes too, annulled or not, in LSN order.
    pub runs: Vec<CensusRun>,
    /// More pieces follow.
    pub more: bool,
}

/// A contiguous run of LSNs of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CensusRun {
    /// First LSN.
    pub first: Lsn,
    /// Last LSN.
    pub last: Lsn,
    /// The epoch of the writer that sealed it.
    pub volume_epoch: VolumeEpoch,
    /// The CPLs in it.
    pub cpls: Vec<Lsn>,
}

/// Sets history and manifest of a completed fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// The segment.
    pub segment: SegmentId,
    /// The sender's epoch.
    pub volume_epoch: VolumeEpoch,
    /// The sender.
    pub writer: WriterId,
    /// The history, versioned with that epoch.
    pub history: History,
    /// The manifest, versioned with that epoch.
    pub manifest: Manifest,
}

/// Answers [`Install`] and [`Refill`] when it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed {
    /// The segment.
    pub segment: SegmentId,
    /// SCL under the history held now.
    pub scl: Lsn,
    /// That history.
    pub history_epoch: VolumeEpoch,
}

/// Batches that a segment lacks, from a candidate that read them at another segment. They keep the epoch that sealed
/// them (R7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refill {
    /// The segment.
    pub segment: SegmentId,
    /// The sender's epoch.
    pub volume_epoch: VolumeEpoch,
    /// The sender.
    pub writer: WriterId,
    /// The batches, in LSN order.
    pub batches: Vec<Bytes>,
}

struct_field!(Probe { volume });
struct_field!(ProbeAnswer { manifest, segments });
struct_field!(SegmentProbe {
    segment,
    pg,
    claim,
    history_epoch,
    scl,
    vdl_seen,
    writer_heard_ms_ago,
});
struct_field!(Claim {
    segment,
    volume_epoch,
    writer
});
struct_field!(Survey { segment });
struct_field!(Census {
    segment,
    volume_epoch,
    history,
    manifest,
    scl,
    vdl_seen,
    last_valid,
    lease_left_ms,
    runs,
    more,
});
struct_field!(Install {
    segment,
    volume_epoch,
    writer,
    history,
    manifest
});
struct_field!(Installed {
    segment,
    scl,
    history_epoch
});

impl Field for CensusRun {
    fn put(&self, out: &mut Vec<u8>) {
        self.first.put(out);
        self.last.put(out);
        self.volume_epoch.put(out);
        self.cpls.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let run = CensusRun {
            first: Lsn::take(input)?,
            last: Lsn::take(input)?,
            volume_epoch: VolumeEpoch::take(input)?,
            cpls: Vec::take(input.field("cpl count"))?,
        };
        if run.first.is_none() || run.last < run.first || run.last == Lsn::MAX {
            return Err(input.invalid_field("last lsn of a run", run.last.get()));
        }
        let mut before = None;
        for cpl in &run.cpls {
            if *cpl < run.first || *cpl > run.last || before >= Some(*cpl) {
                return Err(input.invalid_field("cpl", cpl.get()));
            }
            before = Some(*cpl);
        }
        Ok(run)
    }
}

impl Payload for Refill {
    fn put(&self, out: &mut Output) {
        self.segment.put(&mut out.head);
        self.volume_epoch.put(&mut out.head);
        self.writer.put(&mut out.head);
        out.put_list(&self.batches);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Ok(Refill {
            segment: SegmentId::take(&mut input.reader)?,
            volume_epoch: VolumeEpoch::take(&mut input.reader)?,
            writer: WriterId::take(&mut input.reader)?,
            batches: input.list()?,
        })
    }
}
