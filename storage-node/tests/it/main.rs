//! The daemon on real files, a real ring and real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    missing_docs,
    unreachable_pub
)]

mod client;
mod cluster;
mod scratch;
mod script;

mod crash;
mod daemon;
mod directory;
mod inspect;
mod power;
mod recycle;
mod soak;
mod start;
mod uring;
mod volatile;
