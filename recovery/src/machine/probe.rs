//! Phase one: asking without writing (R8). A candidate that reaches too few segments must not disturb a writer that
//! reaches enough.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{ProbeAnswer, SegmentProbe};
use sixfold_log_format::{Manifest, NodeId, PgEntry, PgId, SegmentId, VolumeEpoch, VolumeId};

use super::loss::Loss;
use super::{Caller, RecoveryError, shortfall};
use crate::quorum::is_read_quorum_of_all;

/// Nodes that must have said that they do not know the volume before it is said not to exist.
const NO_VOLUME_ANSWERS_MIN: usize = 4;
/// How long the last two nodes may be waited for before that is said.
const NO_VOLUME_GRACE: Duration = Duration::from_millis(200);
/// How long a standby waits for the answers that may say that the writer is silent, from the first one on: those that hear it may be
/// the nearest. And a writer that opens again in place, for those who hold the claims that it is to override.
const ANSWERS_GRACE: Duration = Duration::from_millis(500);

/// What this candidate did before, so that it does not take itself for a rival.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The highest epoch that it claimed.
    pub(super) claimed: Option<VolumeEpoch>,
    /// Epochs whose fence it completed: histories of them are its own.
    pub(super) fenced: BTreeSet<VolumeEpoch>,
}

impl Past {
    pub(super) fn of(caller: &Caller) -> Past {
        let fenced = match caller {
            Caller::Owner { attempts, .. } => attempts.clone(),
            Caller::Stranger | Caller::Standby { .. } => BTreeSet::new(),
        };
        Past {
            claimed: None,
            fenced,
        }
    }
}

/// Whom a reopening spares.
#[derive(Debug)]
pub(super) struct Terms<'t> {
    /// For how long a writer that was heard counts as alive; `None` when it is to be fenced alive, too.
    pub(super) in_use: Option<Duration>,
    pub(super) caller: &'t Caller,
    pub(super) past: &'t Past,
}

impl Terms<'_> {
    /// The highest of these histories that belongs to somebody who opened after what the caller knows.
    pub(super) fn successor(
        &self,
        histories: impl Iterator<Item = VolumeEpoch>,
    ) -> Option<VolumeEpoch> {
        let known = match *self.caller {
            Caller::Stranger => return None,
            Caller::Owner { .. } if planted(Mutant::RefenceIgnoresSuccessor) => return None,
            Caller::Owner { volume_epoch, .. } | Caller::Standby { volume_epoch } => volume_epoch,
        };
        histories
            .filter(|history| *history > known && !self.past.fenced.contains(history))
            .max()
    }
}

/// What the answers say.
#[derive(Debug)]
pub(super) enum ProbeVerdict {
    Wait,
    /// A fence quorum of every PG answered.
    Ready {
        manifest: Box<Manifest>,
        highest_volume_epoch: VolumeEpoch,
    },
    Failed(RecoveryError),
}

/// The answers so far.
#[derive(Debug)]
pub(super) struct ProbeStep {
    volume: VolumeId,
    loss: Loss,
    nodes: BTreeMap<NodeId, bool>,
    segments: BTreeMap<SegmentId, SegmentProbe>,
    manifest: Option<Manifest>,
    first_none_at: Option<Duration>,
}

impl ProbeStep {
    pub(super) fn new(
        volume: VolumeId,
        nodes: &[NodeId],
        known: Option<&Manifest>,
        loss: Loss,
    ) -> ProbeStep {
        let asked = nodes.iter().filter(|&&node| !loss.has(node));
        let mut step = ProbeStep {
            volume,
            nodes: asked.map(|&node| (node, false)).collect(),
            loss,
            segments: BTreeMap::new(),
            manifest: None,
            first_none_at: None,
        };
        if let Some(manifest) = known {
            step.learn(manifest);
        }
        step
    }

    /// Whom to ask still.
    pub(super) fn wanted(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes
            .iter()
            .filter(|&(_, &answered)| !answered)
            .map(|(&node, _)| node)
    }

    pub(super) fn answered(&mut self, now: Duration, node: NodeId, answer: ProbeAnswer) {
        self.nodes.insert(node, true);
        if let Some(manifest) = &answer.manifest {
            // Which groups there are only the root tells (R10): a group that was being appended when its writer died may be known to
            // its own segments alone, and be one that can never be fenced.
            if answer.segments.iter().any(|probe| probe.pg == PgId::ROOT) {
                self.learn(manifest);
            } else if manifest.volume == self.volume {
                self.learn_nodes(manifest);
            }
        }
        for segment in answer.segments {
            self.segments.insert(segment.segment, segment);
        }
        self.first_none_at.get_or_insert(now);
    }

    /// Somebody holds this manifest.
    pub(super) fn learn(&mut self, manifest: &Manifest) {
        let newer = self
            .manifest
            .as_ref()
            .is_none_or(|known| manifest.version > known.version);
        if manifest.volume != self.volume || !newer {
            return;
        }
        self.learn_nodes(manifest);
        self.manifest = Some(manifest.clone());
    }

    fn learn_nodes(&mut self, manifest: &Manifest) {
        for member in manifest.pgs.iter().flat_map(|entry| self.loss.asked(entry)) {
            self.nodes.entry(member.node).or_insert(false);
        }
    }

    fn has_answered(&self, pg: PgId, segment: SegmentId) -> bool {
        self.segments
            .get(&segment)
            .is_some_and(|probe| probe.pg == pg)
    }

    pub(super) fn verdict(&self, now: Duration, terms: &Terms<'_>) -> ProbeVerdict {
        if let Some(error) = self.spares(terms) {
            return ProbeVerdict::Failed(error);
        }
        let Some(manifest) = &self.manifest else {
            return if self.is_nowhere(now) {
                ProbeVerdict::Failed(RecoveryError::NoVolume {
                    volume: self.volume,
                })
            } else {
                ProbeVerdict::Wait
            };
        };
        if let Err(error) = self.loss.check(manifest) {
            return ProbeVerdict::Failed(error);
        }
        let reachable = |entry: &PgEntry| {
            self.loss
                .is_fence(entry, &|segment| self.has_answered(entry.pg, segment))
        };
        if manifest.pgs.is_empty() || !manifest.pgs.iter().all(reachable) {
            return ProbeVerdict::Wait;
        }
        let waited = self.grace_at().is_some_and(|at| at <= now);
        let answered = self.nodes.values().all(|&answered| answered);
        if matches!(terms.caller, Caller::Owner { .. }) && !waited && !answered {
            return ProbeVerdict::Wait;
        }
        if let (Caller::Standby { .. }, Some(limit)) = (terms.caller, terms.in_use)
            && !self.is_silent(limit)
        {
            return if waited || !self.may_be_silent(limit) {
                ProbeVerdict::Failed(RecoveryError::InUse {
                    heard_ms_ago: self.heard_ms_ago(terms.past).unwrap_or_default(),
                })
            } else {
                ProbeVerdict::Wait
            };
        }
        let claims = self
            .segments
            .values()
            .map(|probe| probe.claim.max(probe.history_epoch));
        let highest_volume_epoch = claims
            .max()
            .unwrap_or(VolumeEpoch::CREATION)
            .max(manifest.version.volume_epoch);
        ProbeVerdict::Ready {
            manifest: Box::new(manifest.clone()),
            highest_volume_epoch,
        }
    }

    /// Whom the caller is not to end, as far as one answer is enough to tell.
    fn spares(&self, terms: &Terms<'_>) -> Option<RecoveryError> {
        let fenced = |volume_epoch| RecoveryError::Fenced { volume_epoch };
        let probes = || self.segments.values();
        let successor = terms.successor(probes().map(|probe| probe.history_epoch));
        if successor.is_some() {
            return successor.map(fenced);
        }
        let limit = terms.in_use?;
        let Caller::Standby { volume_epoch } = *terms.caller else {
            return self.somebody_lives(limit, terms.past);
        };
        // A claim is a rival's, too: it is about to open, and nobody hears it before it has.
        let known = terms
            .past
            .claimed
            .map_or(volume_epoch, |own| own.max(volume_epoch));
        let claims = probes().map(|probe| probe.claim);
        let rival = claims.max().filter(|&claim| claim > known);
        rival.or_else(|| self.rival(terms.past)).map(fenced)
    }

    /// T11: a writer that was heard just now is alive; so is a rival that completed its fence.
    fn somebody_lives(&self, limit: Duration, past: &Past) -> Option<RecoveryError> {
        let heard = self.heard_ms_ago(past);
        if let Some(heard_ms_ago) = heard.filter(|&ms| Duration::from_millis(u64::from(ms)) < limit)
        {
            return Some(RecoveryError::InUse { heard_ms_ago });
        }
        let rival = self.rival(past);
        rival.map(|volume_epoch| RecoveryError::Fenced { volume_epoch })
    }

    fn foreign(&self, past: &Past) -> impl Iterator<Item = &SegmentProbe> {
        self.segments
            .values()
            .filter(|probe| !past.fenced.contains(&probe.history_epoch))
    }

    /// A history above our own claim is of a rival that completed its fence.
    fn rival(&self, past: &Past) -> Option<VolumeEpoch> {
        let claimed = past.claimed?;
        let rival = self.foreign(past).map(|probe| probe.history_epoch).max()?;
        (rival >= claimed).then_some(rival)
    }

    fn heard_ms_ago(&self, past: &Past) -> Option<u32> {
        let heard = self.foreign(past);
        heard.filter_map(|probe| probe.writer_heard_ms_ago).min()
    }

    /// Whether a segment says that it heard no writer for so long.
    fn says_silent(probe: &SegmentProbe, limit: Duration) -> bool {
        probe
            .writer_heard_ms_ago
            .is_none_or(|ms| Duration::from_millis(u64::from(ms)) >= limit)
    }

    /// Whether a read quorum of every set of the root says that the writer is silent: the others are too few for a write.
    fn is_silent(&self, limit: Duration) -> bool {
        self.is_read_quorum_of_root(&|probe| {
            probe.is_some_and(|probe| ProbeStep::says_silent(probe, limit))
        })
    }

    /// Whether those that have not answered may make it one.
    fn may_be_silent(&self, limit: Duration) -> bool {
        self.is_read_quorum_of_root(&|probe| {
            probe.is_none_or(|probe| ProbeStep::says_silent(probe, limit))
        })
    }

    fn is_read_quorum_of_root(&self, holds: &dyn Fn(Option<&SegmentProbe>) -> bool) -> bool {
        let root = self
            .manifest
            .as_ref()
            .and_then(|found| found.pg(PgId::ROOT));
        root.is_some_and(|root| {
            is_read_quorum_of_all(root, &|segment| holds(self.segments.get(&segment)))
        })
    }

    fn grace_at(&self) -> Option<Duration> {
        self.first_none_at.map(|at| at + ANSWERS_GRACE)
    }

    /// The newest manifest found.
    pub(super) fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Whether it is told that no node knows the volume.
    pub(super) fn is_nowhere(&self, now: Duration) -> bool {
        let answered = self.nodes.values().filter(|&&answered| answered).count();
        let enough = answered >= NO_VOLUME_ANSWERS_MIN.max(self.nodes.len().saturating_sub(2));
        let waited = self.no_volume_at().is_some_and(|at| at <= now);
        self.segments.is_empty() && enough && (answered == self.nodes.len() || waited)
    }

    fn no_volume_at(&self) -> Option<Duration> {
        self.first_none_at.map(|at| at + NO_VOLUME_GRACE)
    }

    pub(super) fn next_timeout(&self, now: Duration, caller: &Caller) -> Option<Duration> {
        let waits = *caller != Caller::Stranger;
        let grace = if self.manifest.is_none() {
            self.no_volume_at()
        } else {
            self.grace_at().filter(|_| waits)
        };
        grace.filter(|&at| at > now)
    }

    /// For the error of the deadline.
    pub(super) fn shortfall(&self) -> RecoveryError {
        let answered = self.nodes.values().filter(|&&answered| answered).count();
        let unknown = RecoveryError::Unavailable {
            pg: PgId::ROOT,
            answered,
            needed: NO_VOLUME_ANSWERS_MIN,
        };
        let Some(manifest) = &self.manifest else {
            return unknown;
        };
        shortfall(manifest, &|pg, segment| self.has_answered(pg, segment)).unwrap_or(unknown)
    }
}
