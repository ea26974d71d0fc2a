//! Metrics of Sixfold's processes: what a snapshot of them is, how latencies are counted, and the text that Prometheus reads.
//!
//! The writer's library and the storage node each make a [`Snapshot`] when they are asked for one, from the counters that their cores
//! hold anyway. There is no registry, no background task and no global state: an embedding application takes the snapshot and serves, logs
//! or forwards it as it likes, and a series whose segment is gone is gone from the next snapshot. Only latencies are counted as they
//! happen, in a [`Histogram`]: two atomic additions.
//!
//! ```text
//! cores' counters ──┐
//!                   ├──▶ Snapshot ──▶ text() ──▶ GET /metrics
//! Histogram ────────┘
//! ```
//!
//! It serves nothing and knows no clock.

mod histogram;
mod parse;
mod snapshot;

pub use histogram::{BUCKETS_US, Counted, Histogram};
pub use parse::{ParseError, Parsed, ParsedFamily, ParsedSample, parse};
pub use snapshot::{Family, Kind, Sample, Snapshot, Value};
