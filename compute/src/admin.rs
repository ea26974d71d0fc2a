//! What operators do to a volume that this process has open: who holds its segments (R20, R24).
//!
//! The writer does it all, and goes on serving meanwhile: no commit waits for any of it. Tools of another process leave the same wishes
//! with the storage nodes, from where they come to the writer; `sixfold node` and `sixfold volume` do.

use std::sync::Arc;

use sixfold_compute_core::MembershipStats;
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{Wish, WishReport, WishState, WishVerb};
use sixfold_log_format::{NodeId, SegmentId, VolumeId};
use tokio::sync::{oneshot, watch};

use crate::cluster::ClusterNode;
use crate::database::{Database, Inner};
use crate::driver::commands::Command;
use crate::error::Error;
use crate::random;

/// Whose segments are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// This one.
    Segment(SegmentId),
    /// All that this node holds of the volume.
    Node(NodeId),
}

/// What an operator wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Build the subject's segments anew on another node of the fleet, from the others' layers and redo. The old ones leave when the
    /// new ones are whole.
    Replace {
        /// What is replaced.
        subject: Subject,
        /// By a segment on this node; otherwise the writer chooses one in the same availability zone.
        onto: Option<NodeId>,
    },
    /// Take a running replacement back.
    Restore {
        /// What was to be replaced.
        subject: Subject,
    },
    /// Replace everything that a node holds, and give it nothing new until it is added again.
    Drain {
        /// The node.
        node: NodeId,
    },
    /// Append a protection group.
    Grow,
    /// Append protection groups until the volume has this many. Of use where the wish may reach more than one writer, since it is done
    /// once whoever does it: what `sixfold volume grow` leaves with the storage nodes.
    GrowTo {
        /// How many it is to have.
        groups: u64,
    },
    /// Take a node into the fleet, or learn its new address.
    AddNode {
        /// The node.
        node: ClusterNode,
    },
    /// Take a node out of the fleet. It must hold no segment.
    ForgetNode {
        /// The node.
        node: NodeId,
    },
}

impl Operation {
    /// The same as a wish for the nodes of `volume`, under an id that makes it be done once.
    pub fn to_wish(&self, id: [u8; 16], volume: VolumeId) -> Wish {
        let of_subject = |subject: &Subject| match subject {
            Subject::Segment(segment) => *segment.as_bytes(),
            Subject::Node(node) => *node.as_bytes(),
        };
        let nobody = [0; 16];
        let (verb, subject, object) = match self {
            Operation::Replace { subject, onto } => {
                let onto = onto.map_or(nobody, |node| *node.as_bytes());
                (WishVerb::Replace, of_subject(subject), onto)
            }
            Operation::Restore { subject } => (WishVerb::Restore, of_subject(subject), nobody),
            Operation::Drain { node } => (WishVerb::Drain, *node.as_bytes(), nobody),
            Operation::Grow => (WishVerb::Grow, nobody, nobody),
            Operation::GrowTo { groups } => {
                let mut object = nobody;
                object[..8].copy_from_slice(&groups.to_le_bytes());
                (WishVerb::Grow, nobody, object)
            }
            Operation::AddNode { node } => (WishVerb::Add, *node.node.as_bytes(), nobody),
            Operation::ForgetNode { node } => (WishVerb::Forget, *node.as_bytes(), nobody),
        };
        Wish {
            id,
            volume,
            verb,
            subject,
            object,
        }
    }

    /// Where the node is that is to be added.
    pub fn to_hint(&self) -> Option<NodeHint> {
        match self {
            Operation::AddNode { node } => Some(NodeHint {
                node: node.node,
                az: node.az.clone(),
                address: node.address.to_string(),
            }),
            _ => None,
        }
    }
}

/// How far an operation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationState {
    /// It ended, and everything was done.
    pub is_done: bool,
    /// It ended, and not everything was done; `text` says why.
    pub is_refused: bool,
    /// Parts done: segments, mostly.
    pub done: u64,
    /// Of so many.
    pub of: u64,
    /// For people.
    pub text: String,
}

impl From<WishReport> for OperationState {
    fn from(report: WishReport) -> OperationState {
        OperationState {
            is_done: report.state == WishState::Done,
            is_refused: report.state == WishState::Refused,
            done: report.done,
            of: report.of,
            text: report.text,
        }
    }
}

/// An operation under way. Dropping it stops nothing.
#[derive(Debug)]
pub struct Progress {
    id: [u8; 16],
    reports: watch::Receiver<Option<WishReport>>,
    inner: Arc<Inner>,
    has_ended: bool,
}

impl Progress {
    /// The operation's id.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Waits for the next news; `None` after the last. What came and went meanwhile is left out.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Fenced`]: the next writer finishes a replacement that is under way.
    pub async fn next(&mut self) -> Result<Option<OperationState>, Error> {
        if self.has_ended {
            return Ok(None);
        }
        if self.reports.changed().await.is_err() {
            self.inner.state.check_writable()?;
            return Err(self.inner.state.gone());
        }
        let report = self.reports.borrow_and_update().clone();
        let report = report.expect("what is sent is a report");
        let state = OperationState::from(report);
        self.has_ended = state.is_done || state.is_refused;
        Ok(Some(state))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Those of [`Progress::next`]. That it was refused is no error: look at [`OperationState::is_done`].
    pub async fn finished(mut self) -> Result<OperationState, Error> {
        let mut last = None;
        while let Some(state) = self.next().await? {
            last = Some(state);
        }
        // Only a `Progress` that was read to its end before has nothing to say.
        last.ok_or_else(|| Error::invalid("the end of this operation was told already"))
    }
}

/// What operators do with an open volume: [`Database::admin`].
///
/// ```no_run
/// # async fn example(database: sixfold::Database, old: sixfold::NodeId) -> Result<(), sixfold::Error> {
/// let mut progress = database.admin().drain(old).await?;
/// while let Some(state) = progress.next().await? {
///     println!("{} of {}: {}", state.done, state.of, state.text);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

impl Database {
    /// Changes who holds the volume's segments.
    pub fn admin(&self) -> Admin {
        Admin {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl Admin {
    /// Has an operation done. Several may run at the same time.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Fenced`].
    pub async fn start(&self, operation: &Operation) -> Result<Progress, Error> {
        self.start_as(random::bytes(), operation).await
    }

    /// The same under an id of the caller's own: one that was left with storage nodes as well is done once.
    ///
    /// # Errors
    /// Those of [`Admin::start`].
    pub async fn start_as(&self, id: [u8; 16], operation: &Operation) -> Result<Progress, Error> {
        self.inner.state.check_writable()?;
        let wish = operation.to_wish(id, self.inner.volume());
        let hint = operation.to_hint();
        let (tell, reports) = watch::channel(None);
        self.inner
            .ask(|answer: oneshot::Sender<()>| Command::Wish {
                wish,
                hint,
                reports: tell,
                answer,
            })
            .await?;
        Ok(Progress {
            id,
            reports,
            inner: Arc::clone(&self.inner),
            has_ended: false,
        })
    }

    /// [`Operation::Replace`].
    ///
    /// # Errors
    /// Those of [`Admin::start`].
    pub async fn replace(&self, subject: Subject, onto: Option<NodeId>) -> Result<Progress, Error> {
        self.start(&Operation::Replace { subject, onto }).await
    }

    /// [`Operation::Restore`].
    ///
    /// # Errors
    /// Those of [`Admin::start`].
    pub async fn restore(&self, subject: Subject) -> Result<Progress, Error> {
        self.start(&Operation::Restore { subject }).await
    }

    /// [`Operation::Drain`].
    ///
    /// # Errors
    /// Those of [`Admin::start`].
    pub async fn drain(&self, node: NodeId) -> Result<Progress, Error> {
        self.start(&Operation::Drain { node }).await
    }

    /// [`Operation::Grow`].
    ///
    /// # Errors
    /// Those of [`Admin::start`].
    pub async fn grow(&self) -> Result<Progress, Error> {
        self.start(&Operation::Grow).await
    }

    /// [`Operation::AddNode`].
    ///
    /// # Errors
    /// Those of [`Admin::start`].
    pub async fn add_node(&self, node: ClusterNode) -> Result<Progress, Error> {
        self.start(&Operation::AddNode { node }).await
    }

    /// [`Operation::ForgetNode`].
    ///
    /// # Errors
    /// Those of [`Admin::start`].
    pub async fn forget_node(&self, node: NodeId) -> Result<Progress, Error> {
        self.start(&Operation::ForgetNode { node }).await
    }

    /// Who holds what, as the writer sees it now, and what is being changed about it.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn membership(&self) -> Result<MembershipStats, Error> {
        let (stats, _) = self.inner.ask(|answer| Command::Stats { answer }).await?;
        Ok(stats.membership)
    }
}
