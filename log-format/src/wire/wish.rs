//! How operators reach the writer (R24): wishes and addresses are left with nodes, acks carry the wishes, the writer reports.
//!
//! ```text
//!   operator -- Wish, LeaveHint --> nodes -- Ack { wishes } --> writer -- AskHints --> node
//!   operator -- AskWish --> node -- WishReport -->      nodes <-- WishReport -- writer
//! ```
//! Nodes keep all of it in memory, bounded: the operator's tool leaves a wish again until somebody reports on it.

use crate::codec::Reader;
use crate::error::DecodeError;
use crate::field::{Field, code_field, struct_field, take_list};
use crate::id::{VolumeEpoch, VolumeId, WriterId};
use crate::limits::HINTS_LEFT_MAX;
use crate::manifest::NodeHint;

/// What an operator wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WishVerb {
    /// Replace `subject` (a segment or node) by a segment on node `object`.
    Replace,
    /// Undo a replacement of `subject`.
    Restore,
    /// Move everything away from node `subject`.
    Drain,
    /// Append a protection group.
    Grow,
    /// Take node `subject` into the fleet, or learn its new address: a [`LeaveHint`] says where it is.
    Add,
    /// Take node `subject` out of the fleet. It must hold no segment.
    Forget,
}

/// A wish. Left with nodes, carried to the writer by acks, acted on by the writer (R24).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Drawn by the operator's tool, so that a wish is done once.
    pub id: [u8; 16],
    /// The volume.
    pub volume: VolumeId,
    /// What to do.
    pub verb: WishVerb,
    /// To whom.
    pub subject: [u8; 16],
    /// With whom; zeros when the writer may choose.
    pub object: [u8; 16],
}

/// What has become of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WishState {
    /// It was left; no writer has said anything of it yet.
    Open,
    /// The writer is at it.
    Working,
    /// It is done.
    Done,
    /// It will not be done; the text says why.
    Refused,
}

/// How far a wish is. From the writer to nodes, which keep the last ones; and from a node to whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WishReport {
    /// The volume.
    pub volume: VolumeId,
    /// The epoch of the writer that reports; what the node's segments hold when nobody has reported yet.
    pub volume_epoch: VolumeEpoch,
    /// That writer; nobody when nobody has reported yet.
    pub writer: WriterId,
    /// The wish.
    pub id: [u8; 16],
    /// What has become of it.
    pub state: WishState,
    /// Steps done.
    pub done: u64,
    /// Of so many, as far as is known.
    pub of: u64,
    /// For people.
    pub text: String,
}

/// Asks how far a wish is. Answered by [`WishReport`], or refused as unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskWish {
    /// The volume.
    pub volume: VolumeId,
    /// The wish.
    pub id: [u8; 16],
}

/// Says where a node is, for the writer to put into the manifest, and for peers until then (R25).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveHint {
    /// The volume.
    pub volume: VolumeId,
    /// The node and its address. The newest one of a node counts.
    pub hint: NodeHint,
}

/// Asks for the hints that were left and stand in no manifest yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskHints {
    /// The volume.
    pub volume: VolumeId,
}

/// Answers [`AskHints`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hints {
    /// The hints, one a node.
    pub hints: Vec<NodeHint>,
}

code_field!(WishVerb { Replace = 1, Restore = 2, Drain = 3, Grow = 4, Add = 5, Forget = 6 });
code_field!(WishState { Open = 0, Working = 1, Done = 2, Refused = 3 });
struct_field!(Wish {
    id,
    volume,
    verb,
    subject,
    object
});
struct_field!(WishReport {
    volume,
    volume_epoch,
    writer,
    id,
    state,
    done,
    of,
    text
});
struct_field!(AskWish { volume, id });
struct_field!(LeaveHint { volume, hint });
struct_field!(AskHints { volume });

impl Field for Hints {
    fn put(&self, out: &mut Vec<u8>) {
        self.hints.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Hints {
            hints: take_list(input.field("hint count"), HINTS_LEFT_MAX)?,
        })
    }
}
