//! The log stream of one segment: attach, append, heartbeat, ack.

use bytes::Bytes;

use super::payload::{Input, Output, Payload};
use crate::error::DecodeError;
use crate::field::{Field, struct_field};
use crate::history::History;
use crate::id::{MembershipEpoch, SegmentId, VolumeEpoch, WriterId};
use crate::lsn::Lsn;
use crate::manifest::Manifest;

/// Opens the log stream of a segment. The segment makes history and manifest durable before it answers, takes, acks,
/// serves or counts anything of that epoch (R3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The segment.
    pub segment: SegmentId,
    /// The sender's epoch.
    pub volume_epoch: VolumeEpoch,
    /// The sender.
    pub writer: WriterId,
    /// The history of that epoch.
    pub history: History,
    /// The manifest of that epoch.
    pub manifest: Manifest,
}

/// Answers [`Attach`]: the writer sends from `scl` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// The segment complete LSN, durable.
    pub scl: Lsn,
    /// The history under which it was computed (R5).
    pub history_epoch: VolumeEpoch,
    /// The highest VDL that the segment has seen.
    pub vdl_seen: Lsn,
}

/// A batch. What may differ from one send to the next is here and not in the batch (R17).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Counts the messages of this stream, from 1.
    pub sequence: u64,
    /// The sender's membership epoch.
    pub membership_epoch: MembershipEpoch,
    /// Lowest read point in use in this PG.
    pub pgmrpl: Lsn,
    /// How long it holds without being said again, milliseconds.
    pub pgmrpl_lease_ms: u32,
    /// The batch.
    pub batch: Bytes,
}

/// What is said when there is nothing to ship (R16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Counts the messages of this stream.
    pub sequence: u64,
    /// The sender's membership epoch.
    pub membership_epoch: MembershipEpoch,
    /// The PG's last LSN: shows a segment that the last batch was lost.
    pub pg_last: Lsn,
    /// The volume durable LSN.
    pub vdl: Lsn,
    /// Lowest read point in use in this PG.
    pub pgmrpl: Lsn,
    /// How long it holds, milliseconds.
    pub pgmrpl_lease_ms: u32,
}

/// What a segment holds on disk. Cumulative: one ack may answer many messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Highest sequence number *received* on this stream; renews the read lease (T1).
    pub echo: u64,
    /// The segment complete LSN, durable.
    pub scl: Lsn,
    /// The history under which it was computed.
    pub history_epoch: VolumeEpoch,
    /// The segment's disk is slow.
    pub slow: bool,
    /// The segment's disk is full: batches are refused, reads go on.
    pub full: bool,
    /// What operators left with the node (R24).
    pub wishes: Vec<super::Wish>,
}

struct_field!(Attach {
    segment,
    volume_epoch,
    writer,
    history,
    manifest
});
struct_field!(Attached {
    scl,
    history_epoch,
    vdl_seen
});
struct_field!(Heartbeat {
    sequence,
    membership_epoch,
    pg_last,
    vdl,
    pgmrpl,
    pgmrpl_lease_ms
});
struct_field!(Ack {
    echo,
    scl,
    history_epoch,
    slow,
    full,
    wishes
});

impl Payload for Append {
    fn put(&self, out: &mut Output) {
        self.sequence.put(&mut out.head);
        self.membership_epoch.put(&mut out.head);
        self.pgmrpl.put(&mut out.head);
        self.pgmrpl_lease_ms.put(&mut out.head);
        out.put_rest(&self.batch);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        Ok(Append {
            sequence: u64::take(&mut input.reader)?,
            membership_epoch: MembershipEpoch::take(&mut input.reader)?,
            pgmrpl: Lsn::take(&mut input.reader)?,
            pgmrpl_lease_ms: u32::take(&mut input.reader)?,
            batch: input.rest(),
        })
    }
}
