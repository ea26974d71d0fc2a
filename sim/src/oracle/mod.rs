//! What must hold, judged from what processes say to each other and to their clients. Nothing here looks into a core.

mod answers;
mod members;
mod model;
mod stamps;
mod tree;
mod truth;
mod watched;

pub(crate) use answers::Reads;
pub(crate) use answers::{GetSeen, RangeSeen};
pub(crate) use members::{SetIds, StepDone, write_quorum};
pub(crate) use truth::{Bad, Oracle};
pub(crate) use watched::Watched;

/// What a key held: the value, the commit that put it, and when it expires.
pub(crate) type Held = Option<(bytes::Bytes, sixfold_log_format::Lsn, Option<u64>)>;
