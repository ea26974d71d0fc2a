//! Integration tests.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub
)]

mod cluster;
mod common;

mod cut;
mod epoch;
mod lease;
mod machine_faults;
mod machine_race;
mod machine_reopen;
mod machine_rules;
mod model;
mod model_world;
mod points;
mod quorum;
mod truncate;
