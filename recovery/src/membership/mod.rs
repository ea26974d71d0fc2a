//! Changes of who holds which segment, as pure steps from one manifest to the next (R10, R19, R20, R21).
//!
//! `edit` makes the next manifest of each step, `change` says from when on a step is in force and when the next one may
//! follow, `placement` chooses nodes. Nothing here sends, waits or decides that a change is wanted: that is the writer's.
//!
//! ```text
//!   {S}  -- begin_replace -->  {S, S[F->G]}  -- finish_replace -->  {S[F->G]}
//!    ^                              |
//!    +---------- roll_back ---------+
//! ```

mod change;
mod edit;
mod loss;
mod placement;
mod reshape;

pub use change::{Change, is_complete};
pub use edit::{
    EditError, MANIFEST_BYTES_MAX, Replacement, append_pg, begin_replace, drop_hint,
    finish_replace, replacements, roll_back, set_hint,
};
pub use loss::{SURVIVORS_MIN, declare_lost, is_loss_fence, is_reformed};
pub use placement::{Load, PlacementError, place_group, place_more, place_replacement};
pub use reshape::{
    abandon_all, abandon_reshape, begin_reshape, confirm_reshape, deciding, finish_reshape,
    regrown, reshape_of,
};
