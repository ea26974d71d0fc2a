//! Endpoints that talk over loopback, on one thread unless a test says otherwise.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod common;
mod handshake;
mod hostile;
mod identity;
mod loss;
mod renewal;
mod streams;
mod versions;
