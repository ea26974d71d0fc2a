//! The step under way: from its proposal until it is in force (R20), with what it means for whom.

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, Manifest, ManifestVersion, Member, PgEntry, PgId, SegmentId};
use sixfold_recovery::membership::Change;

/// What a step is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A segment begins to join.
    Begin { pg: PgId, into: SegmentId },
    /// It has taken the place of another one.
    Finish { pg: PgId, into: SegmentId },
    /// It is taken back.
    RollBack { pg: PgId, into: SegmentId },
    /// Segments begin to join a group that lost copies for good (R19).
    BeginReshape { pg: PgId },
    /// They are whole and join no more: both sets count.
    ConfirmReshape { pg: PgId },
    /// They are members like the others.
    FinishReshape { pg: PgId },
    /// They are taken back.
    AbandonReshape { pg: PgId },
    /// A group is appended.
    Append { pg: PgId },
    /// The fleet changes.
    Hint,
    /// Nothing changes but the version: a segment that was made and is not needed has to hear a manifest above the one that it
    /// was made with (R21).
    Nothing,
}

impl Purpose {
    /// The group whose entry changes.
    pub(crate) fn pg(&self) -> Option<PgId> {
        match *self {
            Purpose::Begin { pg, .. }
            | Purpose::Finish { pg, .. }
            | Purpose::RollBack { pg, .. }
            | Purpose::BeginReshape { pg }
            | Purpose::ConfirmReshape { pg }
            | Purpose::FinishReshape { pg }
            | Purpose::AbandonReshape { pg }
            | Purpose::Append { pg } => Some(pg),
            Purpose::Hint | Purpose::Nothing => None,
        }
    }
}

/// A step that was proposed and is not in force yet.
#[derive(Debug)]
pub(crate) struct Step {
    change: Change,
    pub(crate) purpose: Purpose,
}

impl Step {
    pub(crate) fn new(from: Manifest, to: Manifest, purpose: Purpose) -> Step {
        Step {
            change: Change::new(from, to),
            purpose,
        }
    }

    pub(crate) fn version(&self) -> ManifestVersion {
        self.change.to().version
    }

    pub(crate) fn to(&self) -> &Manifest {
        self.change.to()
    }

    /// Every set left and every set entered of this group: who is spoken to now.
    pub(crate) fn entry(&self, pg: PgId) -> Option<PgEntry> {
        self.change.joint_entry(pg)
    }

    /// What the writes of this group have to satisfy now: all of `joint`, its entry.
    pub(crate) fn counted(&self, joint: PgEntry) -> PgEntry {
        let (from, to) = (self.change.from().pg(joint.pg), self.to().pg(joint.pg));
        if planted(Mutant::StepCountsNewSetsOnly)
            && let (Some(left), Some(entered)) = (from, to)
            && left != entered
        {
            let mut new = entered.clone();
            new.sets.retain(|set| !left.sets.contains(set));
            return new;
        }
        joint
    }

    /// Who has to be told and has not accepted.
    pub(crate) fn wanted(&self) -> Vec<(PgId, Member)> {
        self.change.wanted()
    }

    pub(crate) fn accepted(&mut self, segment: SegmentId, scl: Lsn) {
        self.change.accepted(segment, scl);
    }

    pub(crate) fn is_in_force(&self) -> bool {
        self.change.is_in_force()
    }

    /// The highest SCL of a group in the acceptances.
    pub(crate) fn floor(&self, pg: PgId) -> Lsn {
        self.change.floor(pg)
    }
}
