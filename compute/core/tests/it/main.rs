//! The writer against a cluster of six segments that lives in the test.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    missing_docs,
    unreachable_pub
)]

mod cluster;

mod chores;
mod expiry;
mod past;
mod tokens;
mod writes;

mod commits;
mod conflicts;
mod groups;
mod growth;
mod leases;
mod limits;
mod members;
mod members_model;
mod model;
mod readers;
mod reads;
mod refences;
mod reshapes;
mod ships;
mod threads;
mod watches;
