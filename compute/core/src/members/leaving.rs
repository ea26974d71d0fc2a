//! Who has to be told after a step is in force: members that have not heard of it, and segments that it removed.
//!
//! A removed segment is told the manifest that removed it, then its node drops it and keeps the tombstone (R20). Both are best
//! effort: a node that is gone for good never answers, and one that comes back learns from its peers.

use std::collections::BTreeMap;

use sixfold_log_format::{MembershipEpoch, NodeId, PgId, SegmentId};

/// Segments remembered, of each kind; the ones that were removed first are forgotten beyond.
const SEGMENTS_MAX: usize = 4_096;

/// A removed segment that was not dropped yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Removed {
    pub(crate) node: NodeId,
    /// Whether it holds a manifest that does not name it.
    pub(crate) told: bool,
    /// It was made with a manifest of this version that was never in force: only a higher one takes its place (R21).
    pub(crate) made_with: Option<MembershipEpoch>,
    order: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    removed: BTreeMap<SegmentId, Removed>,
    /// Members that have not accepted the last step that concerned them, and their nodes.
    stragglers: BTreeMap<SegmentId, (PgId, NodeId)>,
    next_order: u64,
}

impl Leaving {
    /// A segment was removed by a step.
    pub(crate) fn removed(&mut self, segment: SegmentId, node: NodeId, told: bool) {
        self.add(segment, node, told, None);
    }

    /// A segment was made, or may have been, and is not needed. `said`: the highest version that anybody was told.
    pub(crate) fn orphaned(&mut self, segment: SegmentId, node: NodeId, said: MembershipEpoch) {
        self.add(segment, node, false, Some(said));
    }

    /// The version that has to be passed before every orphan can be told that it is one.
    pub(crate) fn made_with(&self) -> Option<MembershipEpoch> {
        let untold = self.removed.values().filter(|held| !held.told);
        untold.filter_map(|held| held.made_with).max()
    }

    fn add(
        &mut self,
        segment: SegmentId,
        node: NodeId,
        told: bool,
        made_with: Option<MembershipEpoch>,
    ) {
        self.stragglers.remove(&segment);
        let order = self.next_order;
        self.next_order += 1;
        self.removed.insert(
            segment,
            Removed {
                node,
                told,
                made_with,
                order,
            },
        );
        if self.removed.len() > SEGMENTS_MAX {
            let oldest = self.removed.iter().min_by_key(|(_, held)| held.order);
            let oldest = oldest.map(|(&segment, _)| segment);
            oldest.map(|segment| self.removed.remove(&segment));
        }
    }

    /// A member has not heard of a step that is in force.
    pub(crate) fn straggles(&mut self, segment: SegmentId, pg: PgId, node: NodeId) {
        if self.stragglers.len() < SEGMENTS_MAX {
            self.stragglers.insert(segment, (pg, node));
        }
    }

    /// It holds the manifest in force.
    pub(crate) fn told(&mut self, segment: SegmentId) {
        self.stragglers.remove(&segment);
        if let Some(held) = self.removed.get_mut(&segment) {
            held.told = true;
        }
    }

    /// It is dropped.
    pub(crate) fn dropped(&mut self, segment: SegmentId) {
        self.removed.remove(&segment);
    }

    pub(crate) fn get(&self, segment: SegmentId) -> Option<&Removed> {
        self.removed.get(&segment)
    }

    pub(crate) fn iter_removed(&self) -> impl Iterator<Item = (SegmentId, &Removed)> {
        self.removed.iter().map(|(&segment, held)| (segment, held))
    }

    pub(crate) fn iter_stragglers(&self) -> impl Iterator<Item = (SegmentId, NodeId)> {
        self.stragglers
            .iter()
            .map(|(&segment, &(_, node))| (segment, node))
    }

    pub(crate) fn stragglers(&self) -> impl Iterator<Item = (PgId, SegmentId)> {
        self.stragglers
            .iter()
            .map(|(&segment, &(pg, _))| (pg, segment))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.stragglers.is_empty()
    }

    /// Stragglers, and removed segments that were not dropped.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.stragglers.len(), self.removed.len())
    }
}
