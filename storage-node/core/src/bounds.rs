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
    /// Page indexes in memory, bytes; half of it makes a freeze due, all of it refuses batches.
    pub index_bytes_max: usize,
    /// Redo that no layer holds, bytes; half of it makes a freeze due, all of it refuses batches.
    pub unfolded_bytes_max: u64,
    /// Redo that one freeze takes, bytes: it is held in memory meanwhile. Never more than a quarter of [`Bounds::unfolded_bytes_max`].
    pub freeze_bytes_max: u64,
    /// Blocks and indexes of layers kept in memory, bytes.
    pub layer_cache_bytes_max: usize,
    /// Longest layer file, bytes, about. A run of more becomes several files, of which a merge leaves those as they are that hold
    /// nothing but images of pages that were not written to since.
    pub layer_bytes_max: u64,
    /// Longest chain of records of one page before an image cuts it. Where its version below has to be read for that, between half of it
    /// and all of it, so that pages which are written alike are not all cut in one freeze.
    pub chain_records_max: usize,
    /// The same in bytes of redo.
    pub chain_bytes_max: usize,
    /// Longest chain of one page in the memory index before a freeze is due, once a sixteenth of a freeze waits. Far more than
    /// [`Bounds::chain_records_max`]: it costs no device read, only a walk over records in memory, once, since what a fold came to stays in the page
    /// cache for the next one. Freezing each hot page at the length that bounds reads of the device would write a run of layers, and sync it,
    /// every few milliseconds.
    pub memory_chain_records_max: usize,
    /// Runs of a segment above which the newest ones are merged whatever their sizes; twice as many stop its freezes.
    pub runs_max: usize,
    /// Hot-log files kept for gossip and watch although everything in them is in layers, bytes. Fewer are where their batches are so
    /// small that knowing of them takes more memory than page indexes may.
    pub log_window_bytes: u64,
    /// How long they are kept at least, in the time of the writers' stamps; a volume's retention where that is longer.
    pub log_window: Duration,
    /// Hot-log files altogether, bytes; half of it frees what can be freed, all of it refuses batches.
    pub log_bytes_max: u64,
    /// What freezes, merges and the scrub read and write together while little waits for them, bytes a second; 0 for no limit. It grows
    /// with what waits, and where a bound is near there is none.
    pub background_bytes_per_second: u64,
    /// What the scrub verifies each round of gossip, bytes; 0 for none.
    pub scrub_bytes: usize,
}

impl Bounds {
    /// Memory that the node takes at most for redo, pages, layers and indexes, bytes, about: what each bound allows.
    pub fn memory_bytes_max(&self) -> u64 {
        let kept = [
            self.queued_bytes_max,
            self.resident_redo_bytes_max,
            self.page_cache_bytes_max,
            self.index_bytes_max,
            // Which batches the kept files hold.
            self.index_bytes_max,
            self.layer_cache_bytes_max,
            self.reads_in_flight_max * JOB_BYTES_MAX,
        ];
        let kept: u64 = kept.iter().map(|bytes| *bytes as u64).sum();
        // A freeze holds its batches, freeze and merge some chunks each.
        kept + self.freeze_bytes_max + 2 * BACKGROUND_BYTES
    }
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
            index_bytes_max: 128 << 20,
            unfolded_bytes_max: 512 << 20,
            freeze_bytes_max: 32 << 20,
            layer_cache_bytes_max: 128 << 20,
            layer_bytes_max: 256 << 20,
            chain_records_max: 64,
            chain_bytes_max: 4 << 10,
            memory_chain_records_max: 4_096,
            runs_max: 24,
            log_window_bytes: 512 << 20,
            log_window: Duration::from_secs(60),
            log_bytes_max: 2 << 30,
            background_bytes_per_second: 64 << 20,
            scrub_bytes: 1 << 20,
        }
    }
}

/// What a freeze or a merge holds beside the batches of a freeze, bytes, about: chunks, blocks, the index in the making.
const BACKGROUND_BYTES: u64 = 16 << 20;
/// What a background job does in one go, in entries walked, about: some 20 microseconds, a fraction of what an append takes, which
/// may have to wait behind it.
pub(crate) const BACKGROUND_STEP_COST: usize = 64;
/// Bytes of a new layer that cost as much as an entry that is walked.
pub(crate) const COST_BYTES: usize = 512;
/// What building a page from the layers costs, in entries walked.
pub(crate) const BASE_COST: usize = 32;
/// What a turn that reads and writes nothing counts for in the pace, bytes: at the usual pace about a tenth of the time.
pub(crate) const TURN_BYTES: usize = 8 << 10;
/// What is made up of the pace when its timer was late.
pub(crate) const PACE_BURST: Duration = Duration::from_millis(5);
/// How much faster than usual the node's own work becomes before a bound is near.
pub(crate) const PACE_GROWTH_MAX: u64 = 8;
/// Redo after which a node looks whether something is due, bytes.
pub(crate) const CHECK_REDO_BYTES: usize = 256 << 10;
/// Entries of a page index that are swept in one go.
pub(crate) const SWEEP_ENTRIES: usize = 1 << 10;
/// Batches that pin a file and are looked at in one go.
pub(crate) const PINNED_MAX: usize = 4 << 10;
/// Redo of a pinned file that is written again at once, bytes.
pub(crate) const MOVE_BYTES_MAX: usize = 4 << 20;
/// No group is longer, whatever is configured: the scan relies on it when it looks for something valid behind damage.
pub(crate) const GROUP_BYTES_LIMIT: usize = 4 << 20;
/// Longest history and manifest of a segment, bytes: with its catalog they are one entry of a group.
pub(crate) const CONTROL_BYTES_MAX: usize = GROUP_BYTES_LIMIT / 2;
/// What the scan reads at once.
pub(crate) const SCAN_CHUNK_BYTES: usize = 1 << 20;
/// What is read at once of files that a start passed over: acks wait while it is taken in.
pub(crate) const OLDER_CHUNK_BYTES: usize = 64 << 10;
/// Chunks that are read ahead of the scan: what the device may work on while a chunk is taken in.
pub(crate) const SCAN_AHEAD_CHUNKS: usize = 8;
/// Most bytes of batches in one piece of a log answer: one frame holds them.
pub(crate) const PIECE_BYTES_MAX: usize = 1 << 20;
/// Most batches in one piece of a log answer, so that their lengths fit the frame too.
pub(crate) const PIECE_BATCHES_MAX: usize = 4_096;
/// Most bytes of batches that one log request is answered with, whatever it asked for.
pub(crate) const LOG_ANSWER_BYTES_MAX: usize = 16 << 20;
/// Most redo that one read job holds while it works, bytes.
pub(crate) const JOB_BYTES_MAX: usize = 4 << 20;
/// Most records that one page job folds in one go, about: other events, acks among them, come in between.
pub(crate) const STEP_RECORDS_MAX: usize = 8 << 10;
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
/// Most identities of dropped segments that a node remembers.
pub(crate) const DROPPED_MAX: usize = 4_096;
/// Most of them that remember the manifest that removed them.
pub(crate) const TOMBSTONES_MAX: usize = 256;
/// Last reports on wishes of a volume that a node keeps.
pub(crate) const WISH_REPORTS_MAX: usize = 64;
/// A wish that a writer says nothing of is said to it again after this time.
pub(crate) const WISH_SAID_AGAIN: Duration = Duration::from_secs(1);
/// What peers are served beside foreground traffic, as a multiple of what the node's own background work takes: a copy that is rebuilt
/// is worth more than a merge.
pub(crate) const SERVED_RATE_FACTOR: u64 = 2;
/// A peer that was busy is asked again after this time, spread by as much again.
pub(crate) const BUSY_RETRY: Duration = Duration::from_millis(20);
/// So often in a row, before somebody else is asked.
pub(crate) const BUSY_RETRIES_MAX: u32 = 200;
/// Segments of a node that copy layers at a time.
pub(crate) const COPIES_MAX: usize = 4;
/// A copy whose peer did not answer asks again after this time.
pub(crate) const COPY_RETRY: Duration = Duration::from_secs(1);
/// A copy whose peer has not answered for this long is given up.
pub(crate) const COPY_PATIENCE: Duration = Duration::from_secs(30);
/// So often a copy reads the catalog of a peer again without finishing a layer between.
pub(crate) const CATALOG_READS_MAX: u32 = 16;
/// Runs and CPLs in one piece of a census.
///
/// All pieces of a census are queued in one turn, and a CPL takes 8 bytes. A shell that lets 32 MiB wait on one stream therefore
/// sends a census of up to about 4 million unsettled CPLs. A writer has far fewer records without an ack from its quorum; only
/// a segment that heard no VDL through millions of small MTRs would come near.
pub(crate) const CENSUS_PIECE_COUNT: usize = 32_768;
/// Pause before a file is asked for again after the disk was full.
pub(crate) const FULL_RETRY: Duration = Duration::from_secs(1);
/// Files beside those that were begun, recycled ones: as many as a freeze may let go at once.
pub(crate) const READY_FILES_MAX: usize = 4;
/// A write that takes this long makes the node call its disk slow in acks.
pub(crate) const SLOW_WRITE: Duration = Duration::from_millis(100);
/// A peer that did not answer for this long is given up, should the shell have lost the request.
pub(crate) const PEER_PATIENCE: Duration = Duration::from_secs(10);

const _: () = assert!(GROUP_BYTES_LIMIT > FRAME_BYTES_MAX + (64 << 10));
const _: () = assert!(PIECE_BYTES_MAX + PIECE_BATCHES_MAX * 8 < FRAME_BYTES_MAX);
