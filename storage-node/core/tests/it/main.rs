//! The storage node's core against a shell that exists in memory only.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub
)]

mod append;
mod catch_up;
mod fence;
mod gossip;
mod hostile;
mod hot_log;
mod layers;
mod layers_model;
mod model;
mod planted;
mod reads;
mod reopen;
mod restart;
mod scale;
mod shell;
mod writer;
