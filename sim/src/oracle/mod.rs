//! What must hold, judged from what processes say to each other and to their clients. Nothing here looks into a core.

mod answers;
mod stamps;
mod truth;

pub(crate) use answers::{GetSeen, RangeSeen};
pub(crate) use truth::{Bad, Oracle};

/// What a key held: the value and the commit that put it.
pub(crate) type Held = Option<(bytes::Bytes, sixfold_log_format::Lsn)>;
