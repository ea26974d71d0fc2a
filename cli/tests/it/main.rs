//! Tests on the real binary, and the house rules.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub
)]

mod load;
mod process;
mod real_cluster;

mod bad_input;
mod demo;
mod durability;
mod library_cluster;
mod library_end_to_end;
mod lifetimes;
mod node_loss;
mod shell;
mod tidy;
