//! The storage node's core against a shell that exists in memory only.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub
)]

mod append;
mod catch_up;
mod copies;
mod damage;
mod dropped;
mod every_offset;
mod fence;
mod file_heads;
mod gossip;
mod half_annulled;
mod hostile;
mod hot_log;
mod joining;
mod layers;
mod layers_model;
mod members;
mod merges;
mod model;
mod older;
mod planted;
mod reads;
mod recycle;
mod reopen;
mod restart;
mod scale;
mod shell;
mod tokens;
mod wishes;
mod writer;
