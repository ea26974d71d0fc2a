//! Re-fencing in place: a writer that keeps only just a write quorum, because other segments hold a rival's claim, opens the
//! volume again under a higher epoch and goes on with its caches (R8).
//!
//! ```text
//! Idle --bare for so long--> Draining (mints nothing) --all durable--> Asked (the shell reopens) --> Idle, at the new epoch
//!                                                                        |            \--> fenced, when somebody else wrote
//!                                                                        +--> Pause, when no write quorum answered
//! ```
//!
//! It goes on only when nobody else wrote: then each group's last LSN is its own, and every page in the cache is what it was.

use std::time::Duration;

use sixfold_log_format::{Lsn, Manifest, PgEntry, PgId, SegmentSet};
use sixfold_recovery::machine::{Opened, RecoveryError};
use sixfold_recovery::membership::abandon_reshape;
use sixfold_recovery::quorum::write_count;

use super::WriterCore;
use super::group::Group;
use crate::boxcar::Boxcar;
use crate::durability::Durability;
use crate::event::WriterAction;
use crate::link::Link;
use crate::members::jobs::{GrowPhase, Phase};
use crate::rounding::RecentPoints;

/// Before a reopening that failed is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refence {
    /// Nothing is wanted. Since when there is no segment to spare, if so.
    Idle { bare_since: Option<Duration> },
    /// Nothing is minted; what is in flight becomes durable.
    Draining,
    /// The shell reopens. Nothing is in flight, and no stream is up.
    Asked,
    /// It could not; once more then.
    Pause { until: Duration },
}

/// Whether a reopening leaves this manifest like that: it takes back a change of a group's quorum model that cannot go on.
fn is_left(before: &Manifest, after: &Manifest) -> bool {
    before.pgs.len() == after.pgs.len()
        && before.pgs.iter().zip(&after.pgs).all(|(one, other)| {
            let without = || abandon_reshape(before, one.pg).ok();
            one == other || without().is_some_and(|without| without.pg(one.pg) == Some(other))
        })
}

impl WriterCore {
    /// Whether no stream may be had: the volume is being opened again.
    pub(super) fn is_suspended(&self) -> bool {
        matches!(self.refence, Refence::Asked | Refence::Pause { .. })
    }

    /// Whether LSNs may be given out.
    pub(super) fn may_mint(&self) -> bool {
        matches!(self.refence, Refence::Idle { .. })
    }

    /// Looks whether segments are missing because of a rival's claim, and goes on with what began.
    pub(super) fn refence_if_bare(&mut self) {
        let Some(patience) = self.members.bounds.refence_after else {
            return;
        };
        if self.closing || !self.is_alive() {
            return;
        }
        match self.refence {
            Refence::Idle { bare_since } => {
                let since = self.is_bare().then(|| bare_since.unwrap_or(self.now));
                let is_due = since.is_some_and(|since| since + patience <= self.now);
                self.refence = if is_due {
                    Refence::Draining
                } else {
                    Refence::Idle { bare_since: since }
                };
            }
            Refence::Draining if !self.is_bare() => {
                self.refence = Refence::Idle { bare_since: None };
                self.advance_line();
            }
            Refence::Draining if self.last == self.vdl() && self.queue.is_empty() => {
                self.ask_refence();
            }
            Refence::Pause { until } if until <= self.now => {
                self.refence = Refence::Asked;
                self.actions.push_back(WriterAction::Refence);
            }
            Refence::Draining | Refence::Asked | Refence::Pause { .. } => {}
        }
    }

    /// Nothing was heard for a while because this process stood still: what is known of the streams is of before. A successor's claims
    /// may be there by now, and are told of by all that is asked next.
    pub(super) fn refence_stood_still(&mut self) {
        if matches!(self.refence, Refence::Idle { .. } | Refence::Draining) {
            self.refence = Refence::Idle { bare_since: None };
            self.advance_line();
        }
    }

    /// The writer is to end: what waits is written while that can be, and refused when it cannot.
    pub(super) fn refence_closing(&mut self) {
        match self.refence {
            Refence::Draining => {
                self.refence = Refence::Idle { bare_since: None };
                self.advance_line();
            }
            Refence::Pause { .. } => self.refuse_line("closing"),
            Refence::Idle { .. } | Refence::Asked => {}
        }
    }

    /// Whether every group has a write quorum now, and some set of one has no member to spare, and members that hold a rival's claim.
    /// Without a write quorum it is an outage, which no reopening ends; and a successor may be what it comes from. A set that a step
    /// would enter is not needed for that.
    fn is_bare(&self) -> bool {
        let links = self.shipper.links();
        let count = |group: &Group, set: &SegmentSet, holds: fn(&Link) -> bool| {
            let members = set.members.iter();
            let links = members.filter_map(|member| group.link(links, member.segment));
            links.filter(|link| holds(link)).count()
        };
        let groups = &self.groups[..self.geometry.groups];
        let in_force = groups.iter().zip(&self.manifest.pgs);
        let can_write = in_force.into_iter().all(|(group, entry)| {
            let mut sets = entry.sets.iter();
            sets.all(|set| count(group, set, Link::is_writable) >= write_count(set.model))
        });
        can_write
            && groups.iter().any(|group| {
                group.entry.sets.iter().any(|set| {
                    count(group, set, Link::is_fenced) > 0
                        && count(group, set, Link::is_up) <= write_count(set.model)
                })
            })
    }

    fn ask_refence(&mut self) {
        assert!(
            self.tip.len() == 0 && !self.boxcar.has_open() && self.last == self.vdl(),
            "something is in flight above {}",
            self.vdl()
        );
        self.shipper.suspend(&mut self.actions);
        self.writable = false;
        // Reads are current again when the new epoch has a lease; the reopening waits for this one to run out.
        self.lease.suspended();
        self.shared.publish_lease(None);
        self.refence = Refence::Asked;
        self.actions.push_back(WriterAction::Refence);
    }

    /// The shell's reopening is over.
    pub(super) fn refenced(&mut self, result: Result<Box<Opened>, RecoveryError>) {
        if self.refence != Refence::Asked || !self.is_alive() {
            return;
        }
        match result {
            Ok(opened) if self.nobody_wrote(&opened) => self.go_on(*opened),
            Ok(opened) => self.fenced(opened.volume_epoch),
            Err(RecoveryError::Fenced { volume_epoch }) => self.fenced(volume_epoch),
            Err(
                RecoveryError::Unavailable { .. }
                | RecoveryError::InUse { .. }
                | RecoveryError::NoVolume { .. },
            ) => {
                let until = self.now + PAUSE;
                self.refence = Refence::Pause { until };
                if self.closing {
                    self.refence_closing();
                }
            }
            // Its claims are on the segments: nothing can be written under the old epoch any more.
            Err(_) => self.fenced(self.volume_epoch),
        }
    }

    /// Whether the volume is as this writer left it.
    fn nobody_wrote(&self, opened: &Opened) -> bool {
        assert!(
            opened.cut >= self.vdl(),
            "the volume was cut at {}, but everything through {} was durable",
            opened.cut,
            self.vdl()
        );
        let same_log = self.groups[..self.geometry.groups].iter().all(|group| {
            let last = super::last_of(&opened.pg_last, group.entry.pg);
            last == group.last_sealed
        });
        let proposed = self.members.step.as_ref().map(|step| step.to());
        let mut known = [Some(&self.manifest), proposed].into_iter().flatten();
        same_log && known.any(|manifest| is_left(manifest, &opened.manifest))
    }

    /// Everything goes on under the new epoch, with the caches.
    fn go_on(&mut self, opened: Opened) {
        let base = opened.vdl;
        self.refence = Refence::Idle { bare_since: None };
        self.refences += 1;
        self.volume_epoch = opened.volume_epoch;
        let pg_last: Vec<(PgId, Lsn)> = opened
            .manifest
            .pgs
            .iter()
            .map(|entry| (entry.pg, super::last_of(&opened.pg_last, entry.pg)))
            .collect();
        self.last = base;
        self.boxcar = Boxcar::new(opened.manifest.volume, opened.volume_epoch, base, &pg_last);
        self.durability = Durability::new(base, &pg_last);
        self.points = RecentPoints::new(base);
        self.rounding.reopened(opened.history.clone());
        self.shared.watch().reopened(opened.history.clone());
        self.shipper.reopened(&opened, self.now);
        self.members
            .wishes
            .reopened(opened.volume_epoch, opened.writer);
        self.members.step = None;
        self.members.calls.retain(|_| false);
        let hints_changed = self.manifest.hints != opened.manifest.hints;
        self.manifest = opened.manifest;
        if hints_changed {
            self.say_fleet();
        }
        self.settle_groups(&pg_last);
        self.settle_jobs();
        self.publish(base);
        self.lease.resumed();
        self.writable_moved();
    }

    /// Groups as the manifest has them: one that was about to be appended is there, or is not.
    fn settle_groups(&mut self, pg_last: &[(PgId, Lsn)]) {
        for group in self.groups.split_off(pg_last.len().min(self.groups.len())) {
            for index in group.links {
                self.shipper.remove(index, &mut self.actions);
            }
        }
        for (number, &(pg, last)) in pg_last.iter().enumerate() {
            let entry = self.manifest.pgs[number].clone();
            match self.groups.get_mut(number) {
                Some(group) => (group.entry, group.floor) = (entry, last),
                None => self.groups.push(Group::new(entry, last)),
            }
            self.recount(pg);
        }
        while self.geometry.groups < self.groups.len() {
            self.open_next_group();
        }
    }

    /// Jobs go on from what the manifest says.
    fn settle_jobs(&mut self) {
        let entry_names = |entry: &PgEntry, segment| {
            let mut members = entry.sets.iter().flat_map(|set| &set.members);
            members.any(|member| member.segment == segment)
        };
        let mut ended = Vec::new();
        for (index, job) in self.members.jobs.replaces.iter_mut().enumerate() {
            let entry = self.manifest.pg(job.pg).expect("no group goes");
            let joins = entry_names(entry, job.into.segment);
            let stays = entry_names(entry, job.out.segment);
            match job.phase {
                Phase::Creating | Phase::Made => {}
                _ if joins && stays => {
                    let needed = self.groups[job.pg.get() as usize].last_sealed;
                    job.phase = Phase::Joining { needed };
                }
                // The step that would have let it join was not found.
                _ if stays && !entry.removed.contains(&job.into.segment) => {
                    job.phase = Phase::Made;
                }
                _ => ended.push((index, joins)),
            }
        }
        for (index, finished) in ended.into_iter().rev() {
            let job = self.members.jobs.replaces.remove(index);
            let gone = if finished { job.out } else { job.into };
            let leaving = &mut self.members.leaving;
            leaving.removed(gone.segment, gone.node, false);
            if finished {
                self.parts_done(&job.wishes, "replaced");
                self.parts_failed(&job.restores, "too late: it was replaced");
            } else {
                let reason = job.take_back.as_deref().unwrap_or("taken back");
                self.parts_failed(&job.wishes, reason);
                self.parts_done(&job.restores, "taken back");
            }
        }
        self.settle_reshapes();
        let groups = self.groups.len();
        if let Some(grow) = &mut self.members.jobs.grow
            && grow.phase != GrowPhase::Creating
        {
            let is_there = (grow.pg.get() as usize) < groups;
            if is_there {
                let grow = self.members.jobs.grow.take().expect("it was just there");
                self.appended(&grow);
            } else {
                grow.phase = GrowPhase::Creating;
            }
        }
    }
}
