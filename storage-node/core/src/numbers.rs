//! The node's numbers for metrics: its status, and what no peer asks for.
//!
//! All of it is counted where it happens, as plain integers of the core; here they are only gathered. Beside the path: nothing is decided.

use sixfold_log_format::wire::{NodeStatus, Refusal};
use sixfold_log_format::{Lsn, SegmentId};

use crate::node::NodeCore;
use crate::segment::Segment;

/// Why messages are refused, for counting; the last stands for a violation of the protocol, which ends its connection.
pub const REFUSAL_REASONS: [&str; 17] = [
    "wire_version",
    "not_allowed",
    "malformed",
    "unknown_segment",
    "wrong_volume",
    "stale_epoch",
    "stale_membership",
    "other_history",
    "behind",
    "forgotten",
    "corrupt",
    "disk_full",
    "overloaded",
    "exists",
    "unknown_wish",
    "volume_token",
    "violation",
];

/// Place of a violation in [`REFUSAL_REASONS`].
const VIOLATION: usize = REFUSAL_REASONS.len() - 1;

/// Refusals since the start, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refused([u64; REFUSAL_REASONS.len()]);

impl Refused {
    /// Counts one.
    pub(crate) fn count(&mut self, refusal: &Refusal) {
        let place = match refusal {
            Refusal::Wire { .. } => 0,
            Refusal::NotAllowed => 1,
            Refusal::Malformed { .. } => 2,
            Refusal::UnknownSegment => 3,
            Refusal::WrongVolume { .. } => 4,
            Refusal::StaleEpoch { .. } => 5,
            Refusal::StaleMembership { .. } => 6,
            Refusal::OtherHistory { .. } => 7,
            Refusal::Behind { .. } => 8,
            Refusal::Forgotten { .. } => 9,
            Refusal::Corrupt { .. } => 10,
            Refusal::DiskFull => 11,
            Refusal::Overloaded => 12,
            Refusal::Exists => 13,
            Refusal::UnknownWish => 14,
            Refusal::Token => 15,
        };
        self.0[place] += 1;
    }

    /// Counts a message that ends its connection.
    pub(crate) fn violation(&mut self) {
        self.0[VIOLATION] += 1;
    }

    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Each reason with its count.
    pub fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        REFUSAL_REASONS.into_iter().zip(self.0)
    }
}

/// What keeps a segment from collecting more of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HorizonHolder {
    /// The volume's retention: as it should be.
    Retention,
    /// A read point that the writer announced: a snapshot, a transaction, a watch.
    ReadPoint,
    /// No writer is heard that could say what is in use.
    NoWriter,
    /// A claim whose writer is not known to have opened.
    Claim,
}

impl HorizonHolder {
    /// All of them.
    pub const ALL: [HorizonHolder; 4] = [
        HorizonHolder::Retention,
        HorizonHolder::ReadPoint,
        HorizonHolder::NoWriter,
        HorizonHolder::Claim,
    ];

    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            HorizonHolder::Retention => "retention",
            HorizonHolder::ReadPoint => "read_point",
            HorizonHolder::NoWriter => "no_writer",
            HorizonHolder::Claim => "claim",
        }
    }
}

/// Of a segment what its status does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentNumbers {
    /// The segment.
    pub segment: SegmentId,
    /// Records that a reader of the page with the longest chain folds.
    pub chain_records: usize,
    /// The lowest read point in use, as the writer said last.
    pub pgmrpl: Lsn,
    /// What holds the horizon.
    pub held_by: HorizonHolder,
}

/// The node's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNumbers {
    /// What peers are told.
    pub status: NodeStatus,
    /// Beside `status.segments`, in the same order.
    pub segments: Vec<SegmentNumbers>,
    /// Refusals since the start.
    pub refused: Refused,
    /// The hot log was read; requests are answered.
    pub is_ready: bool,
    /// Writers' log streams.
    pub log_streams: usize,
    /// Answers that wait for a write.
    pub waiters: usize,
    /// Reads and background jobs that are not done.
    pub jobs: usize,
    /// Bytes of hot-log files.
    pub hot_log_files_bytes: u64,
    /// What hot-log files may take, bytes.
    pub hot_log_limit_bytes: u64,
    /// Redo that no layer holds, bytes: what a restart reads.
    pub unfolded_bytes: u64,
    /// What that may be, bytes.
    pub unfolded_limit_bytes: u64,
}

impl NodeCore {
    /// The node's numbers.
    pub fn numbers(&self) -> NodeNumbers {
        let of_segment = |(id, segment): (&SegmentId, &Segment)| SegmentNumbers {
            segment: *id,
            chain_records: segment.index.longest_chain(),
            pgmrpl: segment.retention.pgmrpl(),
            held_by: segment.horizon_holder(self.now),
        };
        NodeNumbers {
            status: self.status(),
            segments: self.segments.iter().map(of_segment).collect(),
            refused: self.counters.refusals,
            is_ready: self.is_ready(),
            log_streams: self.streams.len(),
            waiters: self.waiters.len(),
            jobs: self.reads.jobs.len(),
            hot_log_files_bytes: self.log.files_bytes(),
            hot_log_limit_bytes: self.bounds.log_bytes_max,
            unfolded_bytes: self.unfolded_bytes(),
            unfolded_limit_bytes: self.bounds.unfolded_bytes_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_reason() {
        let mut refused = Refused::default();
        refused.count(&Refusal::DiskFull);
        refused.count(&Refusal::DiskFull);
        refused.count(&Refusal::UnknownWish);
        refused.violation();
        let counted: Vec<_> = refused
            .by_reason()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(
            counted,
            [("disk_full", 2), ("unknown_wish", 1), ("violation", 1)]
        );
    }
}
