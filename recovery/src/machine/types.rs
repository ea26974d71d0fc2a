//! What goes into a recovery and what comes out of it.

use std::collections::BTreeSet;
use std::time::Duration;

use sixfold_log_format::wire::Message;
use sixfold_log_format::{
    History, Lsn, Manifest, NodeId, PgId, SegmentId, VolumeEpoch, VolumeId, WriterId,
};

/// How to reopen.
#[derive(Debug, Clone)]
pub struct RecoveryOptions {
    /// The volume.
    pub volume: VolumeId,
    /// The nodes to ask first; the manifest found then says which count.
    pub nodes: Vec<NodeId>,
    /// Drawn for this attempt (R8); later attempts within the machine draw from `seed`.
    pub writer: WriterId,
    /// Whether to fence a writer that is alive (T11).
    pub take_over: bool,
    /// Without `take_over`: for how long a writer that was heard counts as alive. A standby says its patience here, so that of two
    /// the slower one finds the faster one alive.
    pub in_use: Duration,
    /// Nodes whose segments are destroyed, on an operator's word (R19). Unsafe: see [`RecoveryError::NeedlessLoss`] for when it is
    /// refused. Empty otherwise.
    pub declare_lost: Vec<NodeId>,
    /// How long to try before giving up, from the start. A wait for the old lease alone is not cut short.
    pub deadline: Duration,
    /// Length of a read lease. An answer that says that one runs for more than a few times as long is not believed.
    pub lease: Duration,
    /// Seeds pauses between rival attempts.
    pub seed: u64,
    /// Who opens.
    pub caller: Caller,
}

/// Who opens a volume, and what it knows of it: it is not to end a writer that came after what it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Caller {
    /// Somebody who knows nothing of it.
    #[default]
    Stranger,
    /// The volume's own writer, in place (R8). A history above its epoch is a successor's, and ends the machine as
    /// [`RecoveryError::Fenced`] before any claim, also with `take_over`. Claims alone are not looked at: it is for the sake of a dead
    /// rival's that it opens again.
    Owner {
        /// The epoch at which it is open.
        volume_epoch: VolumeEpoch,
        /// What its earlier machines said in [`Recovery::attempts`](super::Recovery::attempts): such histories are its own.
        attempts: BTreeSet<VolumeEpoch>,
    },
    /// A standby that has seen the writer gone. Without `take_over` its writer is alive unless a read quorum of every set of the root
    /// says that it has been silent for `in_use`: one that reaches fewer nodes than a write takes does not keep the volume. A claim or
    /// a history above what it had seen is another one's who was faster: [`RecoveryError::Fenced`].
    Standby {
        /// The highest claim or history that it had seen.
        volume_epoch: VolumeEpoch,
    },
}

/// Identifies a request, so that late and double answers are recognized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey(pub u64);

/// What happens to a recovery.
#[derive(Debug)]
pub enum RecoveryEvent {
    /// A node answered a request; a census and a log piece may come in several pieces, each an event.
    Answer {
        /// The request.
        request: RequestKey,
        /// The answer.
        message: Message,
    },
    /// A request cannot be answered: no connection, or it was lost. The machine asks again by its own timers.
    Unreachable {
        /// The request.
        request: RequestKey,
    },
    /// `poll_timeout` has come.
    Timeout,
}

/// What a recovery does.
#[derive(Debug)]
pub enum RecoveryAction {
    /// Sends a request on a stream of its own.
    Send {
        /// Comes back with the answer.
        request: RequestKey,
        /// To whom.
        node: NodeId,
        /// What.
        message: Message,
    },
    /// A phase began; for progress and traces.
    Phase(Phase),
    /// It is over.
    Done(Box<Result<Opened, RecoveryError>>),
}

/// The phases, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Asking without writing.
    Probe,
    /// Claiming an epoch, PG 0 first, then all others; the answers are the census.
    Fence,
    /// Computing VCL and VDL, and installing the new history and manifest on a write quorum of every PG.
    Truncate,
    /// Bringing a write quorum of every PG to its last valid LSN.
    Refill,
    /// Waiting for the old writer's read lease to run out.
    Lease,
}

/// A volume that may be written.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The epoch held.
    pub volume_epoch: VolumeEpoch,
    /// Under this id.
    pub writer: WriterId,
    /// The history installed.
    pub history: History,
    /// The manifest installed.
    pub manifest: Manifest,
    /// VDL = VCL = end of the annulled range; the first LSN is the next one.
    pub vdl: Lsn,
    /// The last commit that survived: the VDL that the cut found.
    pub cut: Lsn,
    /// Each PG's last valid LSN: the next back-link.
    pub pg_last: Vec<(PgId, Lsn)>,
    /// SCLs that segments reported under the new history.
    pub scls: Vec<(SegmentId, Lsn)>,
    /// How long the old lease was waited for, beyond all other work.
    pub lease_wait: Duration,
    /// Batches that were refilled.
    pub refilled_batches: u64,
}

/// Why a volume did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// A writer is alive (T11).
    #[error("the volume is in use: its writer was heard {heard_ms_ago} ms ago")]
    InUse {
        /// When a segment last heard it.
        heard_ms_ago: u32,
    },
    /// No node knows the volume.
    #[error("volume {volume} does not exist on the nodes asked")]
    NoVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// No write quorum answered in time.
    #[error("{answered} of {needed} segments of protection group {pg} answered in time")]
    Unavailable {
        /// The group.
        pg: PgId,
        /// How many did.
        answered: usize,
        /// How many must.
        needed: usize,
    },
    /// Another candidate was faster.
    #[error("fenced by another writer at epoch {volume_epoch}")]
    Fenced {
        /// Its epoch.
        volume_epoch: VolumeEpoch,
    },
    /// The history holds as many annulled ranges as a history can, and this reopening would add one. Histories come with the
    /// census, so this is found only when the segments are fenced: a writer that was alive is gone. Nothing was installed, and
    /// pages can still be read.
    #[error(
        "the history is full: it lists {ranges} annulled ranges, and this reopening would add one"
    )]
    HistoryFull {
        /// How many it lists.
        ranges: usize,
    },
    /// Nodes were declared lost, and every PG has a write quorum without them: an ordinary opening and replacements do (R19).
    #[error(
        "nothing has to be declared lost: every protection group has a write quorum without the nodes named"
    )]
    NeedlessLoss,
    /// The nodes cannot be declared lost (R19).
    #[error("cannot declare the nodes lost: {0}")]
    Loss(#[from] crate::membership::EditError),
    /// The answers contradict each other.
    #[error("corrupt: {0}")]
    Corrupt(#[from] crate::cut::CutError),
}
