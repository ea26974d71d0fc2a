//! The simulator's own tests: it is determined, fixed seeds hold and reach what they must, and planted bugs are found.

#![allow(missing_docs, unreachable_pub)]

mod runs;

#[cfg(feature = "mutants")]
mod planted;
