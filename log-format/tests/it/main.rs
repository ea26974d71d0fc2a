//! Integration tests: the formats as another crate sees them.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub
)]

mod apply;
mod batch;
mod format_md;
mod golden;
mod hostile;
mod hot_log;
mod layer;
mod manifest_history;
mod messages;
mod page;
mod samples;
mod wire;
