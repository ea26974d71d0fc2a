//! Histories of clients for checkers that nobody here wrote: who asked for what when, and what came of it.
//!
//! ```text
//! writer process                                   parent
//!  plan ─► clients ── event, one line each ─ pipe ─► file: sort by stamp, number, write
//! ```
//! The clients live in the process of the writer that they use, since the engine is a library, and that process may be
//! killed or stopped at any instruction. So an event leaves it before the next step is taken: the invocation is in the pipe before the
//! operation begins, the completion after it ended. What a kill leaves open has an unknown outcome.
//!
//! # Order across processes
//!
//! Two writer processes may be alive at once (a stopped one that goes on, and the one that took over), and a checker draws
//! conclusions from "this ended before that began". The order of arrival at the parent is *not* sound for that: an
//! invocation may lie in one pipe while a completion overtakes it in the other, and the operation would seem to begin later than it
//! did. So each event carries a stamp of CLOCK_BOOTTIME, one clock for all processes and processors of a machine, whose readings
//! never fall from one to a later one. An invocation is stamped before its operation begins, a completion after it ended: a
//! recorded interval holds the real one, and a stop or a full pipe in between only widens it. Equal stamps count as overlapping.

pub mod event;
pub mod plan;

pub mod clients;

pub mod file;

pub mod judge;
