//! Phases three to five of one attempt whose fence is complete: the new history and manifest on a write quorum of every
//! PG, the refill, and the old writer's lease.
//!
//! It keeps what the attempt found and decides when a phase is over. The refill itself is in [`super::refill`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{Census, Install, Installed, Message, ReadLog, Refill};
use sixfold_log_format::{
    History, Lsn, Manifest, ManifestVersion, NodeId, PgEntry, PgId, SegmentId, VolumeEpoch,
    WriterId,
};

use super::fence::find;
use super::loss::Loss;
use super::refill::{Group, READ_BYTES, RefillRequest, RefillStep};
use super::requests::Ask;
use super::{Opened, Phase, RecoveryError, shortfall};
use crate::cut::cut;
use crate::membership::{abandon_all, deciding};
use crate::quorum::is_write_quorum_of_all;
use crate::truncate::{extend, has_room};

/// What the answers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SettleVerdict {
    Wait,
    /// A phase began.
    Entered(Phase),
    /// The volume is open.
    Open,
    /// A record's only holder is gone: start over and cut lower (R9).
    HolderLost,
    /// Too many segments hold a higher claim.
    Lost {
        volume_epoch: VolumeEpoch,
    },
}

/// A fenced attempt.
#[derive(Debug)]
pub(super) struct SettleStep {
    volume_epoch: VolumeEpoch,
    writer: WriterId,
    history: History,
    manifest: Manifest,
    cut: Lsn,
    pg_last: Vec<(PgId, Lsn)>,
    phase: Phase,
    /// When a write quorum of every PG was whole: from here on only the lease is waited for.
    ready_at: Duration,
    refused: BTreeMap<SegmentId, VolumeEpoch>,
    refill: RefillStep,
    loss: Loss,
    /// The manifest to open with where that is not the one found, until it is installed: it leaves lost segments out (R19), or takes
    /// changes of the quorum model back that cannot go on.
    declared: Option<Manifest>,
    /// Everything is whole: it may be installed.
    declaring: bool,
    /// Who holds it.
    declared_at: BTreeSet<SegmentId>,
}

impl SettleStep {
    /// Cuts, and computes the history and manifest to install. `manifest`: the one found in the fenced root.
    ///
    /// # Errors
    /// [`RecoveryError::Corrupt`] when the answers contradict each other, [`RecoveryError::HistoryFull`] when the history found
    /// has no room for the range of this reopening.
    pub(super) fn new(
        now: Duration,
        volume_epoch: VolumeEpoch,
        writer: WriterId,
        answers: &[(PgId, Census)],
        mut manifest: Manifest,
        (restart_count, loss): (u32, Loss),
    ) -> Result<SettleStep, RecoveryError> {
        let found = cut(answers)?;
        if !has_room(&found.history, found.vdl) {
            return Err(RecoveryError::HistoryFull {
                ranges: found.history.ranges.len(),
            });
        }
        let history = extend(
            &found.history,
            found.vdl,
            manifest.parameters.lal,
            volume_epoch,
        );
        // Re-written under the own epoch, so that two writers can never make one version (R21).
        manifest.version = ManifestVersion {
            volume_epoch,
            membership_epoch: manifest.version.membership_epoch,
        };
        let last_of = |pg| {
            found
                .pg_last
                .iter()
                .find(|&&(known, _)| known == pg)
                .map_or(Lsn::NONE, |&(_, last)| last)
        };
        let declared = loss.declare(&manifest)?;
        let group = |entry: &PgEntry| Group {
            entry: entry.clone(),
            last: last_of(entry.pg),
            members: loss
                .asked(entry)
                .iter()
                .map(|member| member.segment)
                .collect(),
            needs_all: loss.reforms(entry),
        };
        let groups = manifest.pgs.iter().map(group).collect();
        let refill = RefillStep::new(
            now,
            manifest.volume,
            history.clone(),
            groups,
            highest_held(answers),
            restart_count,
        );
        Ok(SettleStep {
            volume_epoch,
            writer,
            history,
            manifest,
            cut: found.vdl,
            pg_last: found.pg_last,
            phase: Phase::Truncate,
            ready_at: now,
            refused: BTreeMap::new(),
            refill,
            loss,
            declared,
            declaring: false,
            declared_at: BTreeSet::new(),
        })
    }

    /// What is wanted: our history at every member, the rival's ones too (R8), and what the refill waits for.
    pub(super) fn wanted(&self) -> Vec<Ask> {
        let lacking = |segment: &SegmentId| {
            let lacks = if self.is_declaring() {
                !self.declared_at.contains(segment)
            } else {
                !self.refill.scls().contains_key(segment)
            };
            lacks && !self.refused.contains_key(segment)
        };
        let members = self
            .manifest
            .pgs
            .iter()
            .flat_map(|entry| self.loss.asked(entry))
            .map(|member| member.segment);
        members
            .filter(lacking)
            .map(Ask::Install)
            .chain(self.refill.wanted())
            .collect()
    }

    /// The message for something that is wanted.
    pub(super) fn request(&self, ask: Ask) -> Option<(NodeId, Message)> {
        let (volume_epoch, writer) = (self.volume_epoch, self.writer);
        let node_of = |segment| find(&self.manifest, segment).map(|(_, member)| member.node);
        match ask {
            Ask::Install(segment) => {
                let declared = self.declared.as_ref().filter(|_| self.is_declaring());
                let manifest = declared.unwrap_or(&self.manifest).clone();
                let history = self.history.clone();
                let install = Install {
                    segment,
                    volume_epoch,
                    writer,
                    history,
                    manifest,
                };
                Some((node_of(segment)?, Message::Install(Box::new(install))))
            }
            Ask::ReadLog(target) => {
                let RefillRequest::Read {
                    source,
                    after,
                    through,
                } = self.refill.request(target)?
                else {
                    return None;
                };
                let read = ReadLog {
                    segment: source,
                    history_epoch: volume_epoch,
                    after,
                    through,
                    bytes_max: READ_BYTES,
                };
                Some((node_of(source)?, Message::ReadLog(read)))
            }
            Ask::Refill(segment) => {
                let RefillRequest::Fill { batches } = self.refill.request(segment)? else {
                    return None;
                };
                Some((
                    node_of(segment)?,
                    Message::Refill(Refill {
                        segment,
                        volume_epoch,
                        writer,
                        batches,
                    }),
                ))
            }
            Ask::Probe(_) | Ask::Claim(_) | Ask::Survey(_) => None,
        }
    }

    /// A segment answered an install. Returns false when it is no answer to ours: ask again.
    pub(super) fn installed(
        &mut self,
        now: Duration,
        segment: SegmentId,
        answer: Installed,
    ) -> bool {
        let own = answer.segment == segment && answer.history_epoch == self.volume_epoch;
        if own {
            self.refill.installed(now, segment, answer.scl);
            if self.is_declaring() {
                self.declared_at.insert(segment);
            }
        }
        own
    }

    /// Whether everything is whole, and only the manifest that leaves lost segments out has to be installed.
    fn is_declaring(&self) -> bool {
        self.declaring && self.declared.is_some()
    }

    /// Whether that manifest is where it must be before anybody opens under it.
    fn is_declared(&self) -> bool {
        let holds = |segment| self.declared_at.contains(&segment);
        self.manifest.pgs.iter().all(|entry| {
            if self.loss.reforms(entry) {
                let mut asked = self.loss.asked(entry).into_iter();
                asked.all(|member| holds(member.segment))
            } else {
                is_write_quorum_of_all(&deciding(entry), &holds)
            }
        })
    }

    /// Whether everything is whole. What the volume opens with is decided then.
    fn is_refilled(&mut self, now: Duration) -> bool {
        if self.declaring {
            return true;
        }
        if self.declared.is_some() && planted(Mutant::LossManifestBeforeRefill) {
            self.declaring = true;
            return true;
        }
        let is_done = self.refill.is_done(now);
        if is_done {
            self.decide();
        }
        is_done
    }

    /// What the volume opens with is decided when everything is whole. A group of which a write quorum of the set that members join is
    /// not there, or not whole, goes back to the set that decides: the volume opens on that alone, and its commits must not wait.
    fn decide(&mut self) {
        let held = self.declared.as_ref().unwrap_or(&self.manifest);
        let is_given_up = |entry: &PgEntry| !self.refill.is_plenty(entry.pg);
        // One that does not fit is left as it is: it is in the way of commits until its members are back, and loses nothing.
        if let Ok(Some(without)) = abandon_all(held, &is_given_up) {
            self.declared = Some(without);
        }
        self.declaring = self.declared.is_some();
    }

    /// A segment answered a refill.
    pub(super) fn filled(&mut self, now: Duration, target: SegmentId, answer: Installed) {
        if answer.segment == target && answer.history_epoch == self.volume_epoch {
            self.refill.filled(now, target, answer.scl);
        } else {
            self.refill.target_failed(now, target);
        }
    }

    pub(super) fn refill(&mut self) -> &mut RefillStep {
        &mut self.refill
    }

    /// A segment holds a higher claim: it counts no more.
    pub(super) fn refused(&mut self, segment: SegmentId, by: VolumeEpoch) {
        self.refused.insert(segment, by);
    }

    pub(super) fn verdict(&mut self, now: Duration, lease_until: Duration) -> SettleVerdict {
        let possible = |entry: &PgEntry| {
            let free = |segment| !self.refused.contains_key(&segment);
            if self.loss.reforms(entry) {
                let mut asked = self.loss.asked(entry).into_iter();
                return asked.all(|member| free(member.segment));
            }
            is_write_quorum_of_all(&deciding(entry), &free)
        };
        if !self.manifest.pgs.iter().all(possible) {
            let volume_epoch = self
                .refused
                .values()
                .copied()
                .max()
                .unwrap_or(self.volume_epoch);
            return SettleVerdict::Lost { volume_epoch };
        }
        let is_done = self.phase == Phase::Refill && self.is_refilled(now);
        match self.phase {
            Phase::Truncate if self.refill.is_installed() => {
                self.phase = Phase::Refill;
                SettleVerdict::Entered(Phase::Refill)
            }
            Phase::Refill if self.is_declaring() && !self.is_declared() => SettleVerdict::Wait,
            Phase::Refill if is_done || planted(Mutant::OpenBeforeRefill) => {
                self.manifest = self
                    .declared
                    .take()
                    .unwrap_or_else(|| self.manifest.clone());
                self.phase = Phase::Lease;
                self.ready_at = now;
                SettleVerdict::Entered(Phase::Lease)
            }
            Phase::Refill if self.refill.is_starved(now) => SettleVerdict::HolderLost,
            Phase::Refill => {
                self.refill.start(now);
                SettleVerdict::Wait
            }
            Phase::Lease if now >= lease_until || planted(Mutant::LeaseNotAwaited) => {
                SettleVerdict::Open
            }
            _ => SettleVerdict::Wait,
        }
    }

    /// Whether only the lease is left; the deadline does not cut that short.
    pub(super) fn is_waiting_for_lease(&self) -> bool {
        self.phase == Phase::Lease
    }

    pub(super) fn next_timeout(&self, now: Duration, lease_until: Duration) -> Option<Duration> {
        if self.is_waiting_for_lease() {
            Some(lease_until)
        } else {
            self.refill.next_timeout(now)
        }
    }

    /// For the error of the deadline.
    pub(super) fn shortfall(&self) -> Option<RecoveryError> {
        shortfall(&self.manifest, &|pg, segment| match self.phase {
            Phase::Truncate => self.refill.scls().contains_key(&segment),
            _ => self.refill.is_whole(pg, segment),
        })
    }

    pub(super) fn into_opened(self, now: Duration, refilled_batches: u64) -> Opened {
        Opened {
            volume_epoch: self.volume_epoch,
            writer: self.writer,
            vdl: self.history.highest_end(),
            history: self.history,
            manifest: self.manifest,
            cut: self.cut,
            pg_last: self.pg_last,
            scls: self
                .refill
                .scls()
                .iter()
                .map(|(&segment, &scl)| (segment, scl))
                .collect(),
            lease_wait: now.saturating_sub(self.ready_at),
            refilled_batches,
        }
    }

    pub(super) fn refilled_batches(&self) -> u64 {
        self.refill.batch_count()
    }

    pub(super) fn volume_epoch(&self) -> VolumeEpoch {
        self.volume_epoch
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// The highest LSN that each segment holds, behind holes too.
fn highest_held(answers: &[(PgId, Census)]) -> BTreeMap<SegmentId, Lsn> {
    let highest = |census: &Census| {
        census
            .runs
            .iter()
            .map(|run| run.last)
            .max()
            .unwrap_or(census.last_valid)
    };
    answers
        .iter()
        .map(|(_, census)| (census.segment, highest(census).max(census.scl)))
        .collect()
}
