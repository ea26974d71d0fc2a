//! What is being done about the membership: replacements, groups that go back to six, a group that is appended, hints. Each goes through its phases on
//! its own; steps are proposed one at a time.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::{Lsn, Member, NodeId, PgId, QuorumModel, SegmentId};

use super::ReplacePhase;
use super::wishes::WishId;

/// Where a replacement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The new segment is being made.
    Creating,
    /// It is made, and its step waits for its turn.
    Made,
    /// The step that lets it join was proposed.
    Beginning,
    /// It joins; it is whole at `needed`.
    Joining { needed: Lsn },
    /// The step that removes the old one was proposed.
    Finishing,
    /// The step that takes it back was proposed.
    RollingBack,
}

/// A replacement under way.
#[derive(Debug)]
pub(crate) struct Replace {
    pub(crate) pg: PgId,
    pub(crate) out: Member,
    pub(crate) into: Member,
    pub(crate) phase: Phase,
    pub(crate) since: Duration,
    /// The node that was asked for, if one was.
    pub(crate) object: Option<NodeId>,
    /// It is to be taken back, and why.
    pub(crate) take_back: Option<String>,
    /// Whose part it is.
    pub(crate) wishes: Vec<WishId>,
    /// Who wants it taken back.
    pub(crate) restores: Vec<WishId>,
}

/// A replacement that waits for its turn.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) pg: PgId,
    pub(crate) out: SegmentId,
    /// Where to; `None`: the writer chooses.
    pub(crate) object: Option<NodeId>,
    pub(crate) wishes: Vec<WishId>,
}

/// A group that lost copies for good gets more again (R19).
#[derive(Debug)]
pub(crate) struct Reshape {
    pub(crate) pg: PgId,
    /// What it goes to.
    pub(crate) model: QuorumModel,
    /// Those that join.
    pub(crate) joining: Vec<Member>,
    /// Those of them that are made.
    pub(crate) made: BTreeSet<SegmentId>,
    /// The one that is named `needed` is where all of them have to be.
    pub(crate) phase: Phase,
    pub(crate) since: Duration,
    /// It is to be taken back, and why.
    pub(crate) take_back: Option<String>,
    /// The lowest SCL of those that join, and when it was last seen to grow.
    pub(crate) progress: (Lsn, Duration),
}

/// A group that is appended.
#[derive(Debug)]
pub(crate) struct Grow {
    pub(crate) pg: PgId,
    pub(crate) members: Vec<Member>,
    pub(crate) made: BTreeSet<SegmentId>,
    pub(crate) phase: GrowPhase,
    pub(crate) since: Duration,
    pub(crate) wish: Option<WishId>,
    /// How many groups the volume is to have.
    pub(crate) groups: usize,
}

/// A group that is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GrowWanted {
    pub(crate) wish: Option<WishId>,
    /// How many groups the volume is to have then: nothing is done when it has them (R24).
    pub(crate) groups: usize,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GrowPhase {
    /// Its segments are being made.
    Creating,
    /// The root's step was proposed.
    Appending,
    /// It is in force, and takes records as soon as a write quorum is attached.
    Opening,
}

/// A change of the fleet that waits for its turn.
#[derive(Debug)]
pub(crate) struct HintEdit {
    pub(crate) edit: Edit,
    pub(crate) wish: WishId,
    pub(crate) since: Duration,
}

#[derive(Debug)]
pub(crate) enum Edit {
    Set(NodeHint),
    Drop(NodeId),
}

/// All of it. Invariants: a segment is replaced by one job at most, running or waiting; a group is reshaped by one at most.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    pub(crate) replaces: Vec<Replace>,
    pub(crate) waiting: VecDeque<Waiting>,
    pub(crate) reshapes: Vec<Reshape>,
    pub(crate) grow: Option<Grow>,
    pub(crate) grows_wanted: VecDeque<GrowWanted>,
    pub(crate) hints: VecDeque<HintEdit>,
    /// Nodes that are to say which segments they hold: an earlier writer may have died before it dropped what it had removed, or
    /// had made in vain.
    pub(crate) probes: BTreeSet<NodeId>,
    /// Wishes to add a node whose address was not said, and the nodes that are still to be asked.
    pub(crate) hint_asks: Vec<(WishId, NodeId, Vec<NodeId>)>,
}

impl Jobs {
    pub(crate) fn is_empty(&self) -> bool {
        self.replaces.is_empty()
            && self.waiting.is_empty()
            && self.reshapes.is_empty()
            && self.grow.is_none()
            && self.grows_wanted.is_empty()
            && self.hints.is_empty()
            && self.hint_asks.is_empty()
            && self.probes.is_empty()
    }

    /// The job that replaces this segment, or brings it in.
    pub(crate) fn replace_of(&mut self, segment: SegmentId) -> Option<&mut Replace> {
        let concerns =
            |job: &&mut Replace| job.out.segment == segment || job.into.segment == segment;
        self.replaces.iter_mut().find(concerns)
    }

    /// The reshape that brings this segment in.
    pub(crate) fn reshape_of(&self, segment: SegmentId) -> Option<usize> {
        let brings = |job: &Reshape| job.joining.iter().any(|into| into.segment == segment);
        self.reshapes.iter().position(brings)
    }

    /// Whether this segment is being replaced, or is to be.
    pub(crate) fn moves(&self, segment: SegmentId) -> bool {
        self.replaces.iter().any(|job| job.out.segment == segment)
            || self.waiting.iter().any(|job| job.out == segment)
    }

    /// Whether a node is to leave the fleet.
    pub(crate) fn forgets(&self, node: NodeId) -> bool {
        let mut edits = self.hints.iter().map(|hint| &hint.edit);
        edits.any(|edit| matches!(edit, Edit::Drop(other) if *other == node))
    }

    /// Segments that are not in the manifest yet, with their groups and nodes.
    pub(crate) fn coming(&self) -> impl Iterator<Item = (PgId, Member)> {
        let joins = |job: &&Replace| matches!(job.phase, Phase::Creating | Phase::Made);
        let replaces = self.replaces.iter().filter(joins);
        let is_coming = |job: &&Reshape| matches!(job.phase, Phase::Creating | Phase::Made);
        let reshapes = self.reshapes.iter().filter(is_coming);
        let grows = self
            .grow
            .iter()
            .filter(|job| job.phase == GrowPhase::Creating);
        replaces
            .map(|job| (job.pg, job.into))
            .chain(reshapes.flat_map(|job| job.joining.iter().map(|&member| (job.pg, member))))
            .chain(grows.flat_map(|job| job.members.iter().map(|&member| (job.pg, member))))
    }
}

impl Reshape {
    /// A node made one of its segments.
    pub(crate) fn made(&mut self, segment: SegmentId) {
        self.made.insert(segment);
        if self.phase == Phase::Creating && self.made.len() == self.joining.len() {
            self.phase = Phase::Made;
        }
    }
}

impl Phase {
    /// For status.
    pub(crate) fn shown(self) -> ReplacePhase {
        match self {
            Phase::Creating | Phase::Made => ReplacePhase::Creating,
            Phase::Beginning => ReplacePhase::Beginning,
            Phase::Joining { .. } => ReplacePhase::Joining,
            Phase::Finishing => ReplacePhase::Finishing,
            Phase::RollingBack => ReplacePhase::RollingBack,
        }
    }
}
