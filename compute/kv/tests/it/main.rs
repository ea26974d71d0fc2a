//! The tree against a model, with pages of both sizes, faults of the cache and damage.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub
)]

mod clears;
mod damage;
mod misses;
mod model;
mod scans;
mod shape;
mod values;
mod volume;
