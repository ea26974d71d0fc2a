//! Numbers of a database: how it was opened, what it does, what snapshots hold back, what its nodes say.

use std::time::Duration;

use sixfold_compute_core::WriterStats;
use sixfold_log_format::wire::NodeStatus;
use sixfold_log_format::{Lsn, NodeId, VolumeEpoch, VolumeId};
use sixfold_metrics::Counted;
use sixfold_transport::WireStats;

use crate::driver::clock;

/// How a volume was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenReport {
    /// The volume epoch that this writer holds.
    pub volume_epoch: VolumeEpoch,
    /// The last point that survived of the writers before: everything that they answered is at or below it.
    pub cut: Lsn,
    /// Batches that were copied to segments that lacked them.
    pub refilled_batches: u64,
    /// How long the read lease of the writer before had to be waited for, beyond all other work.
    pub lease_wait: Duration,
    /// How long opening took, from the call until commits were taken, without `lease_wait`.
    pub open: Duration,
}

impl OpenReport {
    /// [`OpenReport::lease_wait`] in whole milliseconds, rounded up.
    pub fn lease_wait_ms(&self) -> u64 {
        clock::ceil_ms(self.lease_wait)
    }

    /// [`OpenReport::open`] in whole milliseconds, rounded up.
    pub fn open_ms(&self) -> u64 {
        clock::ceil_ms(self.open)
    }
}

/// Numbers of a database, since it was opened.
///
/// What snapshots and running transactions hold back is in [`Stats::writer`]: the lowest announced read point
/// (`read_point_min`) and its age, the records that storage nodes keep for it (`held_records`), the older versions of pages in
/// the cache (`held_cache_bytes`). So is the memory of the index of recent commits (`conflict_bytes`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// The writer's points, counts, memory, and how it stands to each segment.
    pub writer: WriterStats,
    /// What all its connections have moved.
    pub wire: WireStats,
    /// Commits that wait for the writer or for their answer, bytes of keys and values.
    pub waiting_commit_bytes: usize,
    /// The most that they may have; further commits wait with their caller.
    pub waiting_commit_bytes_max: usize,
}

impl Stats {
    /// Bytes sent and received as IP packets over IPv4: UDP payload and 28 bytes of headers a datagram.
    pub fn ip_bytes(&self) -> u64 {
        const HEADER_BYTES: u64 = 20 + 8;
        let WireStats {
            sent_bytes,
            sent_datagrams,
            received_bytes,
            received_datagrams,
        } = self.wire;
        sent_bytes + received_bytes + HEADER_BYTES * (sent_datagrams + received_datagrams)
    }
}

/// How long the parts of commits took, and page fetches, since the database was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageLatencies {
    /// A commit, from the call to the answer, as its caller saw it.
    pub commit: Counted,
    /// Until its batch was sealed.
    pub seal: Counted,
    /// From a batch's seal until QUIC had it, for each segment; a part of `quorum`.
    pub ship: Counted,
    /// From the seal until VDL passed it: network, disks, acks.
    pub quorum: Counted,
    /// From there until the caller ran again.
    pub wake: Counted,
    /// A page fetch.
    pub fetch: Counted,
}

/// How a database and its storage nodes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The volume.
    pub volume: VolumeId,
    /// How it was opened.
    pub opened: OpenReport,
    /// Its numbers.
    pub stats: Stats,
    /// What each node of the cluster says of itself, in the cluster's order; `None` for one that did not answer.
    pub nodes: Vec<(NodeId, Option<NodeStatus>)>,
}

impl Status {
    /// Bytes of this volume's redo that are not folded into pages yet: the most that any segment reports. `None` when no
    /// node answered.
    pub fn unfolded_bytes(&self) -> Option<u64> {
        let statuses = self.nodes.iter().filter_map(|(_, status)| status.as_ref());
        let segments = statuses.flat_map(|status| &status.segments);
        segments
            .filter(|segment| segment.volume == self.volume)
            .map(|segment| segment.unfolded_bytes)
            .max()
    }
}
