//! The decisions of a Sixfold storage node, without I/O.
//!
//! [`NodeCore`] takes [`Event`]s and gives [`Action`]s. Where a byte goes on disk, what a scan means, what is acknowledged
//! when: all of it is decided here, so that the simulator's torn writes meet the real code.
//!
//! The caller's duties: do the actions in the order in which they come; answer every [`Action::Write`], [`Action::Sync`],
//! [`Action::Read`], [`Action::Prepare`] and [`Action::AskPeer`] with exactly one event; call [`NodeCore::handle`] with [`Event::Timeout`] when
//! [`NodeCore::poll_timeout`] has come; end the process on [`Action::Stop`].
//!
//! Modules stand in the order in which a batch meets them.

pub mod action;
pub mod event;
pub mod io_buf;

mod bounds;

pub mod node;

mod roles;
mod streams;

mod segment;

mod hot_log;

mod chain;
mod index;

mod layers;
mod parts;

mod waiters;

mod census;
mod install;
mod removed;
mod tokens;
mod wishes;

mod gossip;
mod pulls;

mod catch_up;

mod fold;
mod jobs;
mod pace;
mod page_cache;
mod read;
mod scrub;

mod admin;
mod numbers;

pub use action::{Action, FileName, Severity};
pub use event::{ConnectionKey, DiskError, DiskToken, Event, FoundDirectory, PeerToken, StreamKey};
pub use io_buf::IoBuf;
pub use node::{Bounds, NodeCore};
pub use numbers::{HorizonHolder, NodeNumbers, REFUSAL_REASONS, Refused, SegmentNumbers};
