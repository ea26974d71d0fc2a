//! Groups that lost copies for good get others, until they have six again (R19, R20): three survivors go to four, four go to six.
//!
//! By way of four, so that no commit waits meanwhile: in each of these steps the members that are whole make a write quorum of the set
//! entered by themselves. That holds as long as all of them are heard, take batches and keep up ([`Carrier`]): it is not begun before they
//! have for a while; and when one falls silent or the group's writes stand still, the step is taken back, for which the set that was left
//! is enough. A silent one is replaced first like any other.
//!
//! ```text
//! lost copies --nodes are there, all members carry--> Creating -> Made -> Beginning -> Joining --all whole--> Confirming -> Finishing -> done
//!                         ^                                                              |
//!                         +-- a pause, longer each time <-- RollingBack <--a member silent, writes stand still, or no progress--+
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{
    Lsn, Manifest, Member, MemberKind, PgEntry, PgId, QuorumModel, SegmentId, SegmentSet,
};
use sixfold_recovery::membership::{
    EditError, abandon_reshape, begin_reshape, confirm_reshape, finish_reshape, place_more,
    regrown, reshape_of,
};

use super::WriterCore;
use super::replaces::{CREATION_PATIENCE, REPAIR_PAUSE};
use crate::link::Link;
use crate::members::ReshapeStats;
use crate::members::carrier::{Carrier, Look};
use crate::members::jobs::{Phase, Reshape};
use crate::members::step::Purpose;

/// While segments join, every whole member is needed for a commit: one that was not heard for this long ends the joining.
const MEMBER_PATIENCE: Duration = Duration::from_secs(5);
/// A member that carries is heard at least this often.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// For how long the members have to have carried before others join, or for `repair_after`, if that is shorter.
const STEADY: Duration = Duration::from_secs(20);
/// Segments that join and were not heard for so long, or have a full disk for so long, are taken back where nobody said `repair_after`.
const JOINING_PATIENCE: Duration = Duration::from_secs(300);
/// Segments that join and got no further for so long are taken back. What they copy shows in their SCL only at its end.
const STUCK: Duration = Duration::from_secs(6 * 3_600);

impl WriterCore {
    /// Goes on with what an earlier writer began.
    pub(super) fn take_up_reshapes(&mut self) {
        for (number, entry) in self.manifest.pgs.iter().enumerate() {
            let Some(target) = reshape_of(entry) else {
                continue;
            };
            // The reopening has brought a write quorum of every set to the group's last LSN.
            let needed = self.groups[number].last_sealed;
            let joining: Vec<Member> = joining_of(target);
            let mut members = entry.members().into_iter();
            // One that was declared lost never becomes whole, and without a whole one commits may have to wait.
            let is_lost = members.any(|member| entry.removed.contains(&member.segment));
            let take_back = is_lost.then(|| "one of them was declared lost".to_owned());
            self.members.jobs.reshapes.push(Reshape {
                pg: entry.pg,
                model: target.model,
                made: joining.iter().map(|member| member.segment).collect(),
                joining,
                phase: Phase::Joining { needed },
                since: self.now,
                take_back,
                progress: (Lsn::NONE, self.now),
            });
        }
    }

    /// Groups that lack copies are given some, unless nobody is to do that; those that are being given some are looked after.
    pub(super) fn look_for_losses(&mut self) {
        for number in 0..self.manifest.pgs.len() {
            let entry = &self.manifest.pgs[number];
            let pg = entry.pg;
            let missing = match &entry.sets[..] {
                [set] => regrown(set.model).map(|model| (model, set.members.len())),
                _ => None,
            };
            let reshapes = &self.members.jobs.reshapes;
            let is_running = reshapes.iter().any(|job| job.pg == pg);
            if !is_running && missing.is_none() {
                self.members.carriers.remove(&pg);
                continue;
            }
            self.look_at_carriers(number);
            if is_running {
                self.look_after(pg);
            } else if let Some((model, held)) = missing
                && self.members.bounds.repair_after.is_some()
                && !self.closing
            {
                self.start_reshape(number, model, model.member_count() - held);
            }
        }
    }

    /// How its members do.
    fn look_at_carriers(&mut self, number: usize) {
        let (group, links, now) = (&self.groups[number], self.shipper.links(), self.now);
        let carrier = self.members.carriers.entry(group.entry.pg);
        let carrier = carrier.or_insert_with(|| Carrier::new(now, group.pgcl));
        let mark = carrier.mark();
        let carries = |link: &Link| {
            link.is_writable() && link.silent_for(now) < HEARD_WITHIN && link.counted_scl() >= mark
        };
        let mut members = group.entry.sets.iter().flat_map(|set| &set.members);
        let all_carry = members.all(|member| {
            let link = group.link(links, member.segment);
            link.is_some_and(|link| link.joining || carries(link))
        });
        let keeps_up = |link: &Link| link.is_writable() && link.counted_scl() >= mark;
        carrier.looked(Look {
            now,
            all_carry,
            may_write: group.is_write_quorum(links, keeps_up),
            pgcl: group.pgcl,
            last_sealed: group.last_sealed,
        });
    }

    /// Whether all members have carried for long enough, and do now.
    fn is_steady(&self, number: usize) -> bool {
        let (group, links) = (&self.groups[number], self.shipper.links());
        let needed = self
            .members
            .bounds
            .repair_after
            .unwrap_or(STEADY)
            .min(STEADY);
        let carrier = self.members.carriers.get(&group.entry.pg);
        let mut members = group.entry.sets.iter().flat_map(|set| &set.members);
        carrier.is_some_and(|carrier| carrier.steady_for(self.now) >= needed)
            && members.all(|member| {
                let link = group.link(links, member.segment);
                link.is_some_and(Link::is_writable)
            })
    }

    /// It was tried in vain: later again.
    fn pause_reshapes(&mut self, pg: PgId) {
        let pause = self.members.bounds.repair_after.unwrap_or(REPAIR_PAUSE);
        let pauses = self.members.reshape_pauses.entry(pg).or_default();
        pauses.taken_back(self.now, pause.min(REPAIR_PAUSE));
    }

    /// Begins, where there are nodes for it.
    fn start_reshape(&mut self, number: usize, model: QuorumModel, needed: usize) {
        let group = &self.groups[number];
        let pg = group.entry.pg;
        let pauses = &self.members.reshape_pauses;
        let is_paused = pauses.get(&pg).is_some_and(|pause| self.now < pause.until);
        if is_paused {
            return;
        }
        let mut members = group.entry.members();
        let held = members.len();
        let jobs = &self.members.jobs;
        let of_group = jobs.coming().filter(|(other, _)| *other == pg);
        members.extend(of_group.map(|(_, member)| member));
        // That there is no place is said at once.
        let mut loads = self.loads();
        let mut placed = place_more(&loads, &members, needed);
        if placed.is_ok() {
            // A member that is down is replaced, or comes back; until then no commit could do without the ones that join.
            if !self.is_steady(number) {
                return;
            }
            // A node that has not yet said what it holds may be one of those that were destroyed.
            for load in &mut loads {
                load.usable &= !jobs.probes.contains(&load.node);
            }
            placed = place_more(&loads, &members, needed);
        }
        match placed {
            Ok(nodes) => {
                let draw = &mut self.members.draw;
                let joining: Vec<Member> = nodes
                    .into_iter()
                    .map(|node| Member {
                        segment: draw.segment(),
                        node,
                        kind: MemberKind::Full,
                        joining: true,
                    })
                    .collect();
                self.members.jobs.reshapes.push(Reshape {
                    pg,
                    model,
                    joining,
                    made: BTreeSet::new(),
                    phase: Phase::Creating,
                    since: self.now,
                    take_back: None,
                    progress: (Lsn::NONE, self.now),
                });
            }
            Err(error) => {
                let pauses = self.members.reshape_pauses.entry(pg).or_default();
                pauses.no_place(self.now, REPAIR_PAUSE);
                let text = format!("protection group {pg} has {held} copies: {error}");
                self.members.refused(text);
            }
        }
    }

    /// Takes it back when a whole member is silent or the group's writes stand still: what joins may be far from whole. And when what
    /// joins gets nowhere: until it is whole there is no member to spare.
    fn look_after(&mut self, pg: PgId) {
        let Some(index) = self.reshape_at(pg) else {
            return;
        };
        let reason = self.hindrance(index);
        let job = &mut self.members.jobs.reshapes[index];
        if let Some(reason) = reason {
            job.take_back.get_or_insert(reason);
        }
    }

    fn reshape_at(&self, pg: PgId) -> Option<usize> {
        let mut reshapes = self.members.jobs.reshapes.iter();
        reshapes.position(|job| job.pg == pg)
    }

    /// Why a reshape cannot go on.
    fn hindrance(&mut self, index: usize) -> Option<String> {
        let now = self.now;
        let patience = self.members.bounds.repair_after;
        let patience = patience.unwrap_or(JOINING_PATIENCE);
        let job = &self.members.jobs.reshapes[index];
        let pg = job.pg;
        let begun = !matches!(job.phase, Phase::Creating | Phase::Made);
        let links = self.shipper.links().iter();
        let of_group = links.filter(|link| link.pg == pg && !link.is_gone());
        for link in of_group {
            let segment = link.segment;
            let silent = link.silent_for(now);
            if !link.joining && silent >= MEMBER_PATIENCE {
                return Some(format!("segment {segment} was not heard, which has to be"));
            }
            if link.joining && silent >= patience {
                return Some(format!("segment {segment} was not heard for too long"));
            }
        }
        let carrier = self.members.carriers.get(&pg);
        if begun && carrier.is_some_and(|one| one.stalled_for(now) >= MEMBER_PATIENCE) {
            return Some("the group's writes stand still without those that join".to_owned());
        }
        let Phase::Joining { .. } = job.phase else {
            return None;
        };
        let members = job.joining.iter();
        let scl = members.map(|member| self.scl_of(pg, member.segment)).min();
        let is_full = job.joining.iter().any(|member| {
            let link = self.groups[pg.get() as usize].link(self.shipper.links(), member.segment);
            link.is_some_and(|link| link.full)
        });
        let scl = scl.unwrap_or(Lsn::NONE);
        let job = &mut self.members.jobs.reshapes[index];
        if scl > job.progress.0 {
            job.progress = (scl, now);
        }
        let stuck = now.saturating_sub(job.progress.1);
        let has_no_end = stuck >= if is_full { patience } else { STUCK };
        has_no_end.then(|| format!("what joins has got no further than {scl}"))
    }

    /// One of those that join was not heard for too long.
    pub(super) fn reshape_silent(&mut self, segment: SegmentId) {
        if let Some(index) = self.members.jobs.reshape_of(segment) {
            let job = &mut self.members.jobs.reshapes[index];
            let reason = || format!("segment {segment} was not heard for too long");
            job.take_back.get_or_insert_with(reason);
        }
    }

    /// The step that lets them join.
    pub(super) fn reshaped(&self, job: &Reshape) -> Result<Manifest, EditError> {
        let pg = job.pg;
        let entry = self.manifest.pg(pg).ok_or(EditError::UnknownPg { pg })?;
        let [set] = &entry.sets[..] else {
            let sets = entry.sets.len();
            return Err(EditError::Busy { pg, sets });
        };
        let joining = job.joining.iter();
        let target = SegmentSet {
            model: job.model,
            members: set.members.iter().chain(joining).copied().collect(),
        };
        begin_reshape(&self.manifest, pg, target)
    }

    /// A node made none: other nodes are tried.
    pub(super) fn reshape_creation_failed(
        &mut self,
        index: usize,
        segment: SegmentId,
        reason: &str,
    ) {
        let members = self.members.jobs.reshapes[index].joining.iter();
        let failed = members.copied().find(|member| member.segment == segment);
        if let Some(Member { node, .. }) = failed {
            self.members.fleet.shun(node, self.now);
            self.drop_reshape(index, &format!("node {node} makes no segment: {reason}"));
        }
    }

    /// It never began: what was made for it goes.
    fn drop_reshape(&mut self, index: usize, reason: &str) {
        let job = self.members.jobs.reshapes.remove(index);
        let said = self.said();
        for member in &job.joining {
            let leaving = &mut self.members.leaving;
            leaving.orphaned(member.segment, member.node, said);
        }
        self.members.refused(reason.to_owned());
    }

    /// The next step of one, if it may follow.
    pub(super) fn propose_reshape(&mut self) -> bool {
        for index in 0..self.members.jobs.reshapes.len() {
            let job = &self.members.jobs.reshapes[index];
            let is_old = job.since + CREATION_PATIENCE <= self.now;
            let moved = match (job.phase, &job.take_back) {
                (Phase::Creating | Phase::Made, Some(reason)) => {
                    let (pg, reason) = (job.pg, reason.clone());
                    self.pause_reshapes(pg);
                    self.drop_reshape(index, &reason);
                    true
                }
                (Phase::Creating, None) => is_old && self.drop_impossible(index),
                (Phase::Made, None) => self.propose_joining(index),
                // Once they count, going on takes no more than going back.
                (Phase::Joining { .. }, _) if self.is_confirmed(job.pg) => {
                    self.propose_end(index, End::Finish)
                }
                (Phase::Joining { .. }, Some(_)) => self.propose_end(index, End::Abandon),
                (Phase::Joining { needed }, None) => {
                    let mut joining = job.joining.iter();
                    let is_whole = |member: &Member| self.scl_of(job.pg, member.segment) >= needed;
                    joining.all(is_whole) && self.propose_end(index, self.end_of_joining())
                }
                (Phase::Beginning | Phase::Finishing | Phase::RollingBack, _) => false,
            };
            if moved {
                return true;
            }
        }
        false
    }

    /// What no manifest can name any more is never made, and not waited for.
    fn drop_impossible(&mut self, index: usize) -> bool {
        match self.reshaped(&self.members.jobs.reshapes[index]) {
            Ok(_) | Err(EditError::Busy { .. }) => false,
            Err(error) => {
                self.drop_reshape(index, &error.to_string());
                true
            }
        }
    }

    fn propose_joining(&mut self, index: usize) -> bool {
        let job = &self.members.jobs.reshapes[index];
        let pg = job.pg;
        match self.reshaped(job) {
            Ok(to) => {
                let number = pg.get() as usize;
                let group = &self.groups[number];
                let is_complete = group.is_complete(&group.entry, self.shipper.links());
                if !is_complete || !self.is_steady(number) {
                    return false;
                }
                self.members.jobs.reshapes[index].phase = Phase::Beginning;
                self.propose(to, Purpose::BeginReshape { pg });
                true
            }
            Err(_) => self.drop_impossible(index),
        }
    }

    /// Whether the members that joined count: a manifest in force says so.
    fn is_confirmed(&self, pg: PgId) -> bool {
        let entry = self.manifest.pg(pg);
        let target = entry.and_then(reshape_of);
        target.is_some_and(|target| joining_of(target).is_empty())
    }

    fn end_of_joining(&self) -> End {
        match planted(Mutant::ReshapeUnconfirmed) {
            true => End::Finish,
            false => End::Confirm,
        }
    }

    /// They are whole, or are taken back; and a write quorum of the sets that remain holds all that an acceptance of the last step
    /// named.
    fn propose_end(&mut self, index: usize, end: End) -> bool {
        let pg = self.members.jobs.reshapes[index].pg;
        let (to, phase, purpose) = match end {
            End::Abandon => (
                abandon_reshape(&self.manifest, pg),
                Phase::RollingBack,
                Purpose::AbandonReshape { pg },
            ),
            End::Confirm => (
                confirm_reshape(&self.manifest, pg),
                Phase::Finishing,
                Purpose::ConfirmReshape { pg },
            ),
            End::Finish => (
                finish_reshape(&self.manifest, pg),
                Phase::Finishing,
                Purpose::FinishReshape { pg },
            ),
        };
        let to = to.expect("it was found in the manifest or put there");
        let remaining = to.pg(pg).expect("no group goes");
        let group = &self.groups[pg.get() as usize];
        if !group.is_complete(remaining, self.shipper.links()) {
            return false;
        }
        self.members.jobs.reshapes[index].phase = phase;
        self.propose(to, purpose);
        true
    }

    /// A step of one came into force.
    pub(super) fn reshape_in_force(&mut self, purpose: &Purpose) {
        let pg = purpose.pg().expect("a step of one group");
        let reshapes = &mut self.members.jobs.reshapes;
        let index = reshapes.iter().position(|job| job.pg == pg);
        let index = index.expect("a job stays until its last step is in force");
        if let Purpose::BeginReshape { .. } | Purpose::ConfirmReshape { .. } = purpose {
            let group = &self.groups[pg.get() as usize];
            let needed = group.floor.max(group.last_sealed);
            reshapes[index].phase = Phase::Joining { needed };
            reshapes[index].progress.1 = self.now;
            return;
        }
        let job = reshapes.remove(index);
        let is_back = matches!(purpose, Purpose::AbandonReshape { .. });
        if is_back {
            self.pause_reshapes(pg);
        } else {
            self.members.reshape_pauses.remove(&pg);
        }
        if let Some(reason) = job.take_back.filter(|_| is_back) {
            self.members.refused(format!(
                "protection group {pg} gets no more copies for now: {reason}"
            ));
        }
    }

    /// After a reopening in place they go on from what the manifest says.
    pub(super) fn settle_reshapes(&mut self) {
        let (manifest, groups) = (&self.manifest, &self.groups);
        let leaving = &mut self.members.leaving;
        self.members.jobs.reshapes.retain_mut(|job| {
            let entry = manifest.pg(job.pg).expect("no group goes");
            let members = entry.members();
            let names = |joins: &Member| members.iter().any(|held| held.segment == joins.segment);
            let is_removed = |joins: &Member| entry.removed.contains(&joins.segment);
            match job.phase {
                Phase::Creating | Phase::Made => true,
                _ if reshape_of(entry).is_some() => {
                    let needed = groups[job.pg.get() as usize].last_sealed;
                    job.phase = Phase::Joining { needed };
                    true
                }
                _ if job.joining.iter().all(names) => false,
                _ if job.joining.iter().any(is_removed) => {
                    for member in &job.joining {
                        leaving.removed(member.segment, member.node, false);
                    }
                    false
                }
                // The step that would have let them join was not found.
                _ => {
                    job.phase = Phase::Made;
                    true
                }
            }
        });
    }

    /// For status.
    pub(super) fn reshape_stats(&self) -> Vec<ReshapeStats> {
        let show = |job: &Reshape| {
            let group = &self.groups[job.pg.get() as usize];
            let needed = match job.phase {
                Phase::Joining { needed } => needed,
                _ => group.last_sealed,
            };
            let members = job.joining.iter();
            let scls = members.map(|member| self.scl_of(job.pg, member.segment));
            ReshapeStats {
                pg: job.pg,
                joining: job.joining.len(),
                phase: job.phase.shown(),
                scl: scls.min().unwrap_or(Lsn::NONE),
                needed,
            }
        };
        self.members.jobs.reshapes.iter().map(show).collect()
    }

    /// Groups with fewer segments than six.
    pub(super) fn short_groups(&self) -> Vec<(PgId, usize)> {
        let is_short = |entry: &&PgEntry| {
            let mut sets = entry.sets.iter();
            sets.any(|set| regrown(set.model).is_some())
        };
        let short = self.manifest.pgs.iter().filter(is_short);
        let whole = |entry: &PgEntry| {
            let members = entry.members();
            members.iter().filter(|member| !member.joining).count()
        };
        short.map(|entry| (entry.pg, whole(entry))).collect()
    }
}

/// How the joining ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// They are taken back.
    Abandon,
    /// They count.
    Confirm,
    /// The old set goes.
    Finish,
}

fn joining_of(target: &SegmentSet) -> Vec<Member> {
    let members = target.members.iter().copied();
    members.filter(|member| member.joining).collect()
}
