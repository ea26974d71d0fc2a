//! Every limit in one place, with proofs that they fit together.

/// Longest key of a user's, bytes.
pub const USER_KEY_BYTES_MAX: usize = 1_024;
/// What the engine may put before a user's key in the tree (keyspace, row kind), bytes.
pub const RESERVED_KEY_BYTES: usize = 32;
/// Longest key as it is stored, bytes. Stored keys are 1..=`KEY_BYTES_MAX`.
pub const KEY_BYTES_MAX: usize = USER_KEY_BYTES_MAX + RESERVED_KEY_BYTES;
/// Longest value, bytes; values that do not fit a leaf cell live in pages of their own.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// Largest sum of keys and values of one transaction, bytes.
pub const TRANSACTION_BYTES_MAX: usize = 64 << 20;
/// Bytes charged for each operation of a transaction beside its key and value (R18).
pub const OPERATION_OVERHEAD_BYTES: usize = 64;
/// Default and largest page size, bytes. The page size is a volume parameter.
pub const PAGE_BYTES_MAX: usize = 8_192;
/// Smallest page size, bytes; the simulator uses it.
pub const PAGE_BYTES_MIN: usize = 512;
/// A leaf cell whose value is longer than this share of the page (page size / 8) goes to overflow pages.
pub const INLINE_VALUE_SHARE: usize = 8;
/// LSN allocation limit: no LSN is minted above VDL plus this many. Fixed in the manifest; this is the default
/// and the largest.
pub const LAL_MAX: u64 = 10_000_000;
/// Most records in one MTR, as a share of the LAL (R18).
pub const MTR_LAL_SHARE: u64 = 4;
/// Largest batch, header included. A larger MTR spans batches.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Largest record body: a full image with its framing.
pub const RECORD_BYTES_MAX: usize = PAGE_BYTES_MAX + 64;
/// Largest sum of sealed, not yet durable bytes of a writer; admission holds MTRs back at it (R18).
pub const UNACKNOWLEDGED_BYTES_MAX: usize = 192 << 20;
/// Largest frame on a stream: a batch or an answer of pages, with its framing.
pub const FRAME_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Largest payload of pages in one answer.
pub const PAGES_ANSWER_BYTES_MAX: usize = 1 << 20;
/// Most pages asked for in one request.
pub const PAGES_REQUEST_COUNT_MAX: usize = 128;
/// Most protection groups of a volume.
pub const PG_COUNT_MAX: usize = 65_536;
/// Most segment sets in force for one protection group (two replacements at once make four).
pub const SET_COUNT_MAX: usize = 4;
/// Segments in a set.
pub const SEGMENTS_PER_SET_MAX: usize = 6;
/// Most annulled ranges that a history lists; older ones fold into its floor.
pub const HISTORY_RANGES_MAX: usize = 4_096;
/// Longest text in a message (reasons, addresses, names), bytes.
pub const TEXT_BYTES_MAX: usize = 1_024;
/// Most wishes of a volume that a node keeps open, and that an ack carries.
pub const WISHES_OPEN_MAX: usize = 32;
/// Most hints of a volume that a node keeps until they stand in the manifest.
pub const HINTS_LEFT_MAX: usize = 256;
/// Length of a read lease, milliseconds (T1).
pub const READ_LEASE_MS: u64 = 50;
/// A writer that a segment heard within this time is alive (T11), milliseconds.
pub const IN_USE_MS: u64 = 1_000;
/// Longest silence of a writer towards a PG, milliseconds (R16).
pub const HEARTBEAT_MS: u64 = 100;

/// Records of the largest transaction when splits stay rare (updates, ordered loads): one for each operation, which is
/// charged [`OPERATION_OVERHEAD_BYTES`], and one for each cell that a split moves, which is at most one per insert when a
/// page splits again only after it was filled again.
///
/// This is no bound for every transaction: tiny inserts into many full pages move half a page each. The writer must
/// therefore count the records and bytes of a planned MTR and refuse it before it mints when it needs more than its share
/// of the LAL or more than [`UNACKNOWLEDGED_BYTES_MAX`] (R18). The proofs below say that the usual transaction of the
/// largest size is not refused.
const MTR_RECORDS_USUAL: u64 = (TRANSACTION_BYTES_MAX / OPERATION_OVERHEAD_BYTES) as u64 * 2;

const _: () = assert!(MTR_RECORDS_USUAL < LAL_MAX / MTR_LAL_SHARE);
const _: () = assert!(TRANSACTION_BYTES_MAX * 3 <= UNACKNOWLEDGED_BYTES_MAX);
const _: () = assert!(RECORD_BYTES_MAX * 2 < BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX + (16 << 10) < FRAME_BYTES_MAX);
const _: () = assert!(PAGES_ANSWER_BYTES_MAX + PAGES_REQUEST_COUNT_MAX * 64 < FRAME_BYTES_MAX);
const _: () = assert!(KEY_BYTES_MAX * 4 < PAGE_BYTES_MAX);
const _: () =
    assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX + OPERATION_OVERHEAD_BYTES <= TRANSACTION_BYTES_MAX);
const _: () = assert!(READ_LEASE_MS < HEARTBEAT_MS && HEARTBEAT_MS * 5 < IN_USE_MS);
const _: () =
    assert!(HISTORY_RANGES_MAX * crate::history::ANNULLED_RANGE_BYTES < FRAME_BYTES_MAX / 8);
const _: () = assert!(BATCH_BYTES_MAX * 2 < crate::hot_log::GROUP_BYTES_MAX);
const _: () = assert!(HINTS_LEFT_MAX * (TEXT_BYTES_MAX * 2 + 32) < FRAME_BYTES_MAX);
const _: () = assert!(PAGE_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(TEXT_BYTES_MAX <= u16::MAX as usize);
