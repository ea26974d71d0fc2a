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
mod explore;
mod lease;
mod machine_caller;
mod machine_faults;
mod machine_follow;
mod machine_loss;
mod machine_race;
mod machine_reopen;
mod machine_reshape;
mod machine_rules;
mod machine_survey;
mod membership;
mod membership_loss;
mod membership_model;
mod model;
mod model_world;
mod points;
mod quorum;
mod reshape_model;
mod truncate;
