//! The node's one hot log: where entries go ([`writer`]) and what is there after a start ([`scan`]).
//!
//! All segments of the node share it. Claims, histories and manifests are entries like the batches, so that their place
//! orders them against the batches (R2, F6). An entry gets a [`Ticket`] when it is appended; tickets become durable in order.
//! A file goes when nobody needs it any more; what it held beside batches stands at the head of the next one.

pub(crate) mod ahead;
pub(crate) mod scan;
pub(crate) mod writer;

use sixfold_log_format::hot_log::FileNumber;

/// Counts the entries appended since the start; what waits for an entry waits for its ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Ticket(pub(crate) u64);

/// Where an entry lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The file.
    pub(crate) file: FileNumber,
    /// Offset of the entry's first byte in the file.
    pub(crate) offset: u64,
    /// Length of the entry, its header included.
    pub(crate) bytes: u32,
}

/// `bytes` rounded up to whole blocks.
pub(crate) fn whole_blocks(bytes: u64, block_bytes: u64) -> u64 {
    bytes.div_ceil(block_bytes) * block_bytes
}
