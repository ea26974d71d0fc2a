//! Integration tests of the library: settings, and what it makes of the answers of made-up nodes. Tests with real nodes are
//! the command line's.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod cluster_file;
mod made_up_node;
mod opening;
