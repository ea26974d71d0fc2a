//! The whole cluster in one thread under one seed: the real cores of storage nodes, reopening, writer, tree and transactions,
//! with simulated disks, network, processes and clocks, under faults that stay within what the cluster promises to survive.
//!
//! ```text
//!  seed -> plan -> world: events <-> cores -> oracle -> outcome
//!                    |                                     |
//!                    +---- story, reached situations       +-> minimize -> story of a failure
//! ```
//! One seed decides everything: the same seed gives the same hash over all events. A failure is always a bug: either of a
//! core, or of what is said here about the world. It does not simulate transport, files or threads; those have tests of
//! their own with real processes.

pub mod rng;

mod clock;
mod disk;
mod layers;
mod queue;

pub mod plan;
pub mod reached;

mod oracle;
mod world;

pub mod minimize;
pub mod run;
pub mod search;

#[cfg(feature = "mutants")]
pub mod mutants;
