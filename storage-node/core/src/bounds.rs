//! Bounds: how much memory and how many things in flight a node takes. Everything queued is bounded.
//!
//! [`Bounds`] is configuration; the constants are what no configuration changes.

use std::time::Duration;

use sixfold_log_format::limits::FRAME_BYTES_MAX;

/// Bounds of memory and queues. Everything queued is bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Largest group that one write appends, bytes.
    pub group_bytes_max: usize,
    /// Most bytes waiting for the hot log; above it appends are refused as overloaded.
    pub queued_bytes_max: usize,
    /// Redo kept in memory beside its place on disk, bytes.
    pub resident_redo_bytes_max: usize,
    /// Folded pages kept in memory, bytes.
    pub page_cache_bytes_max: usize,
    /// Reads waiting for the disk, at most.
    pub reads_in_flight_max: usize,
    /// Time between two rounds of gossip.
    pub gossip_interval: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            group_bytes_max: 1 << 20,
            queued_bytes_max: 64 << 20,
            resident_redo_bytes_max: 512 << 20,
            page_cache_bytes_max: 128 << 20,
            reads_in_flight_max: 64,
            gossip_interval: Duration::from_millis(200),
        }
    }
}

/// No group is longer, whatever is configured: the scan relies on it when it looks for something valid behind damage.
pub(crate) const GROUP_BYTES_LIMIT: usize = 4 << 20;
/// What the scan reads at once.
pub(crate) const SCAN_CHUNK_BYTES: usize = 1 << 20;
/// Most bytes of batches in one piece of a log answer: one frame holds them.
pub(crate) const PIECE_BYTES_MAX: usize = 1 << 20;
/// Most batches in one piece of a log answer, so that their lengths fit the frame too.
pub(crate) const PIECE_BATCHES_MAX: usize = 4_096;
/// Most bytes of batches that one log request is answered with, whatever it asked for.
pub(crate) const LOG_ANSWER_BYTES_MAX: usize = 16 << 20;
/// Most redo that one read job holds while it works, bytes.
pub(crate) const JOB_BYTES_MAX: usize = 4 << 20;
/// Most records that one page job walks in one go, about: other events, acks among them, come in between.
pub(crate) const STEP_RECORDS_MAX: usize = 64 << 10;
/// Longest single read of batches, bytes.
pub(crate) const READ_BYTES_MAX: u64 = 1 << 20;
/// Batches that lie no farther apart on disk are read in one go, bytes.
pub(crate) const READ_GAP_BYTES: u64 = 64 << 10;
/// Most answers that wait for the hot log.
pub(crate) const WAITERS_MAX: usize = 4_096;
/// Most messages that wait for the scan. None of them carries redo.
pub(crate) const EARLY_MESSAGES_MAX: usize = 1_024;
/// Most bytes of messages that wait for the scan, as encoded: manifests and histories, most of them.
pub(crate) const EARLY_BYTES_MAX: usize = 16 << 20;
/// Most segments of a node.
pub(crate) const SEGMENTS_MAX: usize = 4_096;
/// Runs and CPLs in one piece of a census.
///
/// All pieces of a census are queued in one turn, and a CPL takes 8 bytes. A shell that lets 32 MiB wait on one stream therefore
/// sends a census of up to about 4 million unsettled CPLs. A writer has far fewer records without an ack from its quorum; only
/// a segment that heard no VDL through millions of small MTRs would come near.
pub(crate) const CENSUS_PIECE_COUNT: usize = 32_768;
/// Pause before a file is asked for again after the disk was full.
pub(crate) const FULL_RETRY: Duration = Duration::from_secs(1);
/// A write that takes this long makes the node call its disk slow in acks.
pub(crate) const SLOW_WRITE: Duration = Duration::from_millis(100);
/// A peer that did not answer for this long is given up, should the shell have lost the request.
pub(crate) const PEER_PATIENCE: Duration = Duration::from_secs(10);

const _: () = assert!(GROUP_BYTES_LIMIT > FRAME_BYTES_MAX + (64 << 10));
const _: () = assert!(PIECE_BYTES_MAX + PIECE_BATCHES_MAX * 8 < FRAME_BYTES_MAX);
