//! A reopening with nodes declared lost (R19), the one unsafe opening. What it relies on is the operator's word that the nodes are
//! destroyed; a writer that still speaks to them may serve reads that are stale.
//!
//! Invariant: *a manifest that leaves lost segments out is on no disk before every survivor of each group that it re-forms holds all
//! that was ever answered; and no writer opens under it before every such survivor holds it.* Hence
//!
//! - whoever finds it may fence two of three survivors, as its sets say: what the third holds, the two hold;
//! - whoever does not find it has met no survivor, and without one no four of the old six are left.
//!
//! So the order is: claims of all survivors, the cut, the new history with the manifest *found* on all survivors, their refill, and only
//! then the manifest that leaves the lost out, on all survivors. A crash anywhere leaves one of the two manifests, and both are right.
//! Groups that have their write quorum without the lost ones keep their sets and their quorums.

use sixfold_log_format::{Manifest, Member, NodeId, PgEntry, SegmentId};

use super::RecoveryError;
use crate::membership::{deciding, declare_lost, is_loss_fence, is_reformed};
use crate::quorum::is_fence_quorum_of_all;

/// The nodes that are declared lost; mostly none.
#[derive(Debug, Clone, Default)]
pub(super) struct Loss {
    nodes: Vec<NodeId>,
}

impl Loss {
    pub(super) fn new(nodes: Vec<NodeId>) -> Loss {
        Loss { nodes }
    }

    /// Whether this node is never asked.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }

    /// Members of a group that may be asked: not those on lost nodes, nor any that was removed for ever and is a member still,
    /// since it waits for its replacement (R19).
    pub(super) fn asked(&self, entry: &PgEntry) -> Vec<Member> {
        let mut members = entry.members();
        members.retain(|member| !self.has(member.node) && !entry.removed.contains(&member.segment));
        members
    }

    /// The members that are declared lost here and were not before.
    fn segments_of(&self, entry: &PgEntry) -> Vec<SegmentId> {
        let mut members = entry.members();
        members.retain(|member| self.has(member.node) && !entry.removed.contains(&member.segment));
        members.iter().map(|member| member.segment).collect()
    }

    /// Whether the claims of segments for which `holds` is true fence a group.
    pub(super) fn is_fence(&self, entry: &PgEntry, holds: &dyn Fn(SegmentId) -> bool) -> bool {
        let holds = |segment| !entry.removed.contains(&segment) && holds(segment);
        let lost = self.segments_of(entry);
        if lost.is_empty() {
            is_fence_quorum_of_all(&deciding(entry), &holds)
        } else {
            is_loss_fence(entry, &lost, &holds)
        }
    }

    /// Whether these claims fence every set of a group, also the one that members join.
    pub(super) fn is_whole_fence(
        &self,
        entry: &PgEntry,
        holds: &dyn Fn(SegmentId) -> bool,
    ) -> bool {
        let holds = |segment| !entry.removed.contains(&segment) && holds(segment);
        self.reforms(entry) || is_fence_quorum_of_all(entry, &holds)
    }

    /// Whether a group is re-formed from its survivors, every one of which counts then.
    pub(super) fn reforms(&self, entry: &PgEntry) -> bool {
        let lost = self.segments_of(entry);
        !lost.is_empty() && is_reformed(entry, &lost)
    }

    /// Whether the volume can be, and has to be, opened with this loss declared.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<(), RecoveryError> {
        self.declare(manifest).map(drop)
    }

    /// The manifest that leaves the lost segments out; `None` when it names none of them, since none are declared or an earlier opening
    /// has left them out.
    ///
    /// # Errors
    /// [`RecoveryError::NeedlessLoss`], [`RecoveryError::Loss`].
    pub(super) fn declare(&self, manifest: &Manifest) -> Result<Option<Manifest>, RecoveryError> {
        let lost: Vec<SegmentId> = manifest
            .pgs
            .iter()
            .flat_map(|entry| self.segments_of(entry))
            .collect();
        if lost.is_empty() {
            return Ok(None);
        }
        if !manifest.pgs.iter().any(|entry| self.reforms(entry)) {
            return Err(RecoveryError::NeedlessLoss);
        }
        Ok(Some(declare_lost(manifest, &lost)?))
    }
}
