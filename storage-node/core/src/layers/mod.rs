//! Layers: what a segment folded out of the hot log, and the work of writing, merging and reading them.
//!
//! ```text
//!   memory index ──freeze──▶ run ──merge──▶ larger run        each published by one catalog entry of the hot log
//!        └─────── gather (newest run first, down to an image) ───▶ fold ───▶ page @ LSN
//! ```
//! [`set`] says which layers there are, [`cache`] holds parts of them, [`gather`] finds a page's versions, [`compose`] decides
//! what of a page goes into a new layer, [`output`] writes its file, [`freeze`] and [`merge`] are the two ways to make one,
//! [`heads`] how many of them a hot-log file has room to name, [`retention`] says what may be collected, [`upkeep`] when what is due, [`rate`] how fast it goes,
//! [`trim`] which hot-log files may go.

pub(crate) mod cache;
pub(crate) mod compose;
pub(crate) mod freeze;
pub(crate) mod gather;
pub(crate) mod heads;
pub(crate) mod merge;
pub(crate) mod output;
pub(crate) mod rate;
pub(crate) mod retention;
pub(crate) mod set;
pub(crate) mod trim;
pub(crate) mod upkeep;
