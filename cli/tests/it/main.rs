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
mod bench_crash;
mod bench_figures;
mod bench_outage;
mod bench_reopen;
mod config;
mod declared_lost;
mod demo;
mod docs;
mod dump;
mod durability;
mod history;
mod history_check;
mod inspect;
mod library_api;
mod library_blocking;
mod library_bounds;
mod library_cluster;
mod library_end_to_end;
mod library_examples;
mod library_hermitage;
mod library_model;
mod library_past;
mod library_transact;
mod lifetimes;
mod membership;
mod node_loss;
mod observe;
mod packaging;
mod read_only;
mod refence;
mod security;
mod served;
mod shell;
mod split;
mod standby;
mod tidy;
mod volume;
mod watch;
