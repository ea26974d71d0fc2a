//! Replacements, from the choice of a node to the end of the old segment (R20); and repair, which begins them.

use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{CreateSegment, Message, ProbeAnswer, Refusal};
use sixfold_log_format::{Member, NodeId, PgEntry, PgId, SegmentId};
use sixfold_recovery::membership::{
    EditError, Load, append_pg, begin_replace, finish_replace, replacements, roll_back,
};

use super::WriterCore;
use crate::members::ReplacementStats;
use crate::members::calls::Call;
use crate::members::fleet::{find, place};
use crate::members::jobs::{GrowPhase, Phase, Replace, Waiting};
use crate::members::step::Purpose;

/// A node has this long to make a segment.
pub(super) const CREATION_PATIENCE: Duration = Duration::from_secs(10);
/// Replacements of one group at the same time.
const PER_GROUP_MAX: usize = 2;
/// Before a place is looked for again for a segment that is silent.
pub(super) const REPAIR_PAUSE: Duration = Duration::from_secs(30);

impl WriterCore {
    /// Goes on with what an earlier writer began: joining members say what that is, and nodes say what it left.
    pub(super) fn take_up_replacements(&mut self) {
        let hints = self.manifest.hints.iter();
        let nodes = hints.map(|hint| hint.node);
        self.members.jobs.probes.extend(nodes);
        for number in 0..self.manifest.pgs.len() {
            let entry = &self.manifest.pgs[number];
            let members = entry.members();
            let member_of = |segment: SegmentId| {
                let found = members.iter().find(|member| member.segment == segment);
                *found.expect("a replacement is between members")
            };
            for replacement in replacements(entry) {
                let (out, into) = (member_of(replacement.out), member_of(replacement.into));
                // The reopening has brought a write quorum of every set to the group's last LSN.
                let needed = self.groups[number].last_sealed;
                // What was declared lost while it joined never becomes whole (R19).
                let is_lost = entry.removed.contains(&into.segment);
                let take_back = is_lost.then(|| "it was declared lost".to_owned());
                self.members.jobs.replaces.push(Replace {
                    pg: entry.pg,
                    out,
                    into,
                    phase: Phase::Joining { needed },
                    since: self.now,
                    object: None,
                    take_back,
                    wishes: Vec::new(),
                    restores: Vec::new(),
                });
            }
        }
    }

    /// Begins one that waits, if there is room.
    pub(super) fn start_waiting(&mut self) -> bool {
        let jobs = &self.members.jobs;
        if self.closing || jobs.replaces.len() >= self.members.bounds.replacements_max {
            return false;
        }
        let has_room = |job: &Waiting| {
            let running = jobs.replaces.iter().filter(|other| other.pg == job.pg);
            running.count() < PER_GROUP_MAX
        };
        let Some(next) = jobs.waiting.iter().position(has_room) else {
            return false;
        };
        let job = self
            .members
            .jobs
            .waiting
            .remove(next)
            .expect("it was just there");
        let Some((pg, out)) = find(&self.manifest, job.out) else {
            self.parts_done(&job.wishes, "it was removed already");
            return true;
        };
        match self.place_segment(pg, &out, job.object) {
            Ok(node) => {
                let into = Member {
                    segment: self.members.draw.segment(),
                    node,
                    joining: true,
                    ..out
                };
                self.members.jobs.replaces.push(Replace {
                    pg,
                    out,
                    into,
                    phase: Phase::Creating,
                    since: self.now,
                    object: job.object,
                    take_back: None,
                    wishes: job.wishes,
                    restores: Vec::new(),
                });
            }
            Err(reason) => {
                let pauses = &mut self.members.repair_pauses;
                pauses.insert(out.segment, self.now + REPAIR_PAUSE);
                self.parts_failed(&job.wishes, &reason);
            }
        }
        true
    }

    /// The fleet, for a placement. A node that is to be forgotten gets nothing more.
    pub(super) fn loads(&self) -> Vec<Load> {
        let jobs = &self.members.jobs;
        let links = self.shipper.links();
        let fleet = &self.members.fleet;
        let mut loads = fleet.loads(&self.manifest, links, jobs.coming(), self.now);
        for load in &mut loads {
            load.usable &= !jobs.forgets(load.node);
        }
        loads
    }

    /// A node for the segment that takes the place of `out`.
    pub(super) fn place_segment(
        &self,
        pg: PgId,
        out: &Member,
        object: Option<NodeId>,
    ) -> Result<NodeId, String> {
        let jobs = &self.members.jobs;
        if let Some(node) = object.filter(|&node| jobs.forgets(node)) {
            return Err(format!("node {node} is to leave the fleet"));
        }
        let loads = self.loads();
        let of_group = jobs.coming().filter(|(other, _)| *other == pg);
        let others: Vec<Member> = of_group.map(|(_, member)| member).collect();
        let entry = self.manifest.pg(pg).expect("the caller found it");
        place(&loads, entry, &others, out, object)
    }

    /// Segments that are to be made.
    pub(super) fn wanted_creations(&self) -> Vec<(Call, NodeId)> {
        let jobs = &self.members.jobs;
        let replaces = jobs.replaces.iter();
        let replaces = replaces.filter(|job| job.phase == Phase::Creating);
        let mut wanted: Vec<(Call, NodeId)> = replaces
            .map(|job| (Call::Create(job.into.segment), job.into.node))
            .collect();
        for job in &jobs.reshapes {
            if job.phase == Phase::Creating {
                let lacks = |member: &&Member| !job.made.contains(&member.segment);
                let members = job.joining.iter().filter(lacks);
                wanted.extend(members.map(|member| (Call::Create(member.segment), member.node)));
            }
        }
        if let Some(grow) = &jobs.grow
            && grow.phase == GrowPhase::Creating
        {
            let lacks = |member: &&Member| !grow.made.contains(&member.segment);
            let members = grow.members.iter().filter(lacks);
            wanted.extend(members.map(|member| (Call::Create(member.segment), member.node)));
        }
        wanted
    }

    /// The message that makes a segment. Its manifest names the segment, and has the version of the newest one that was said: it
    /// is the manifest of no step, and the one that is makes it forget this one (R21).
    pub(super) fn creation_of(&self, segment: SegmentId) -> Option<CreateSegment> {
        let jobs = &self.members.jobs;
        let replace = jobs.replaces.iter().find(|job| job.into.segment == segment);
        let (pg, manifest) = if let Some(job) = replace {
            let made = begin_replace(&self.manifest, job.pg, job.out.segment, job.into);
            (job.pg, made)
        } else if let Some(index) = jobs.reshape_of(segment) {
            let job = &jobs.reshapes[index];
            (job.pg, self.reshaped(job))
        } else {
            let grow = jobs.grow.as_ref()?;
            (grow.pg, append_pg(&self.manifest, grow.members.clone()))
        };
        let mut manifest = manifest.ok()?;
        manifest.version = self.shipper.hello().manifest.version;
        Some(CreateSegment {
            segment,
            pg,
            manifest,
        })
    }

    /// A node made a segment, or did not. Whether that is settled.
    pub(super) fn creation_answered(
        &mut self,
        segment: SegmentId,
        answer: Option<Message>,
    ) -> bool {
        let reason = match answer {
            Some(Message::Done) => {
                self.made(segment);
                return true;
            }
            Some(Message::Refused(refusal)) => {
                // It may hold one that a writer made before it died: that one goes, then there is room.
                if refusal == Refusal::Exists {
                    let coming = self.members.jobs.coming();
                    let node = coming.map(|(_, member)| member);
                    let node = node.filter(|member| member.segment == segment).last();
                    self.members
                        .jobs
                        .probes
                        .extend(node.map(|member| member.node));
                }
                refusal.to_string()
            }
            Some(_) => "an answer of another kind".to_owned(),
            None => "no answer".to_owned(),
        };
        if self
            .creation_since(segment)
            .is_some_and(|since| since + CREATION_PATIENCE <= self.now)
        {
            self.creation_failed(segment, &reason);
            return true;
        }
        false
    }

    /// A node says which segments of the volume it holds: those that nobody knows go.
    pub(super) fn probe_answered(&mut self, node: NodeId, answer: &ProbeAnswer) {
        self.members.jobs.probes.remove(&node);
        let said = self.said();
        for held in &answer.segments {
            let is_coming = self
                .members
                .jobs
                .coming()
                .any(|(_, member)| member.segment == held.segment);
            let is_known = find(&self.shipper.hello().manifest, held.segment).is_some()
                || find(&self.manifest, held.segment).is_some();
            if !is_known && !is_coming && self.members.leaving.get(held.segment).is_none() {
                let leaving = &mut self.members.leaving;
                leaving.orphaned(held.segment, node, said);
            }
        }
    }

    fn creation_since(&self, segment: SegmentId) -> Option<Duration> {
        let jobs = &self.members.jobs;
        let replace = jobs.replaces.iter().find(|job| job.into.segment == segment);
        let reshape = jobs.reshape_of(segment);
        let reshape = reshape.map(|index| jobs.reshapes[index].since);
        let grow = jobs.grow.as_ref().map(|job| job.since);
        replace.map(|job| job.since).or(reshape).or(grow)
    }

    fn made(&mut self, segment: SegmentId) {
        let jobs = &mut self.members.jobs;
        if let Some(job) = jobs.replace_of(segment) {
            if job.phase == Phase::Creating {
                job.phase = Phase::Made;
            }
        } else if let Some(index) = jobs.reshape_of(segment) {
            jobs.reshapes[index].made(segment);
        } else if let Some(grow) = &mut jobs.grow {
            grow.made.insert(segment);
        }
    }

    /// Another node, if the writer may choose.
    fn creation_failed(&mut self, segment: SegmentId, reason: &str) {
        let jobs = &mut self.members.jobs;
        let replace = jobs
            .replaces
            .iter()
            .position(|job| job.into.segment == segment);
        let Some(index) = replace else {
            return match jobs.reshape_of(segment) {
                Some(index) => self.reshape_creation_failed(index, segment, reason),
                None => self.growth_failed(segment, reason),
            };
        };
        let job = jobs.replaces.remove(index);
        let node = job.into.node;
        let said = self.said();
        self.members.leaving.orphaned(segment, node, said);
        self.members.fleet.shun(node, self.now);
        let reason = format!("node {node} makes no segment: {reason}");
        if job.object.is_some() || job.take_back.is_some() {
            self.parts_failed(&job.wishes, &reason);
            self.parts_done(&job.restores, &reason);
        } else {
            self.members.refused(reason);
            self.members.jobs.waiting.push_front(Waiting {
                pg: job.pg,
                out: job.out.segment,
                object: None,
                wishes: job.wishes,
            });
        }
    }

    /// The next step of a replacement, if one may follow.
    pub(super) fn propose_replace(&mut self) -> bool {
        for index in 0..self.members.jobs.replaces.len() {
            let job = &self.members.jobs.replaces[index];
            let moved = match job.phase {
                Phase::Creating | Phase::Made if job.take_back.is_some() => self.give_up(index),
                Phase::Made => self.propose_begin(index),
                Phase::Creating => self.give_up_creation(index),
                Phase::Joining { needed } => {
                    let whole = self.scl_of(job.pg, job.into.segment) >= needed;
                    if job.take_back.is_some() {
                        self.propose_roll_back(index)
                    } else {
                        (whole || planted(Mutant::FinishWithoutCompleteness))
                            && self.propose_finish(index)
                    }
                }
                Phase::Beginning | Phase::Finishing | Phase::RollingBack => false,
            };
            if moved {
                return true;
            }
        }
        false
    }

    /// A segment that no manifest can name any more, since another change took its place meanwhile, is never asked for: it must not
    /// wait for an answer. Whether it was given up.
    fn give_up_creation(&mut self, index: usize) -> bool {
        let job = &self.members.jobs.replaces[index];
        if job.since + CREATION_PATIENCE > self.now {
            return false;
        }
        let segment = job.into.segment;
        let begun = begin_replace(&self.manifest, job.pg, job.out.segment, job.into);
        match begun {
            Ok(_) | Err(EditError::Busy { .. }) => false,
            Err(error) => {
                self.creation_failed(segment, &error.to_string());
                true
            }
        }
    }

    /// It never began: the new segment goes.
    fn give_up(&mut self, index: usize) -> bool {
        let job = self.members.jobs.replaces.remove(index);
        let (segment, node) = (job.into.segment, job.into.node);
        let said = self.said();
        self.members.leaving.orphaned(segment, node, said);
        let reason = job.take_back.as_deref().unwrap_or("taken back");
        self.parts_failed(&job.wishes, reason);
        self.parts_done(&job.restores, "taken back");
        true
    }

    fn propose_begin(&mut self, index: usize) -> bool {
        let job = &self.members.jobs.replaces[index];
        let (pg, into) = (job.pg, job.into.segment);
        let begun = begin_replace(&self.manifest, pg, job.out.segment, job.into);
        match begun {
            Ok(to) => {
                let group = &self.groups[pg.get() as usize];
                if !group.is_complete(&group.entry, self.shipper.links()) {
                    return false;
                }
                self.members.jobs.replaces[index].phase = Phase::Beginning;
                self.propose(to, Purpose::Begin { pg, into });
                true
            }
            Err(EditError::Busy { .. }) => false,
            Err(error) => {
                self.members.jobs.replaces[index].take_back = Some(error.to_string());
                self.give_up(index)
            }
        }
    }

    /// The old segment leaves: the new one is whole, and a write quorum of each set that remains holds all that an acceptance
    /// of the last step named.
    fn propose_finish(&mut self, index: usize) -> bool {
        let job = &self.members.jobs.replaces[index];
        let (pg, out, into) = (job.pg, job.out.segment, job.into.segment);
        let to = finish_replace(&self.manifest, pg, out, into)
            .expect("the replacement was found in the manifest or put there");
        let remaining = to.pg(pg).expect("no group goes");
        let group = &self.groups[pg.get() as usize];
        if !group.is_complete(remaining, self.shipper.links())
            && !planted(Mutant::FinishWithoutCompleteness)
        {
            return false;
        }
        self.members.jobs.replaces[index].phase = Phase::Finishing;
        self.propose(to, Purpose::Finish { pg, into });
        true
    }

    fn propose_roll_back(&mut self, index: usize) -> bool {
        let job = &self.members.jobs.replaces[index];
        let (pg, out, into) = (job.pg, job.out.segment, job.into.segment);
        let to = roll_back(&self.manifest, pg, out, into)
            .expect("the replacement was found in the manifest or put there");
        let remaining = to.pg(pg).expect("no group goes");
        let group = &self.groups[pg.get() as usize];
        if !group.is_complete(remaining, self.shipper.links()) {
            return false;
        }
        self.members.jobs.replaces[index].phase = Phase::RollingBack;
        self.propose(to, Purpose::RollBack { pg, into });
        true
    }

    /// A step of a replacement came into force.
    pub(super) fn replace_in_force(&mut self, purpose: &Purpose) {
        let (Purpose::Begin { pg, into }
        | Purpose::Finish { pg, into }
        | Purpose::RollBack { pg, into }) = *purpose
        else {
            return;
        };
        let replaces = &mut self.members.jobs.replaces;
        let index = replaces.iter().position(|job| job.into.segment == into);
        let index = index.expect("a job stays until its last step is in force");
        if let Purpose::Begin { .. } = purpose {
            let group = &self.groups[pg.get() as usize];
            let needed = group.floor.max(group.last_sealed);
            replaces[index].phase = Phase::Joining { needed };
            return;
        }
        let job = replaces.remove(index);
        let entry = self.manifest.pg(pg).expect("no group goes");
        let gone = match purpose {
            Purpose::Finish { .. } => job.out.segment,
            _ => into,
        };
        assert!(
            !entry.members().iter().any(|member| member.segment == gone),
            "{gone} was removed and is still a member"
        );
        if let Purpose::Finish { .. } = purpose {
            // Who left may be what others could not join beside.
            self.members.reshape_pauses.remove(&pg);
            self.parts_done(&job.wishes, "replaced");
            self.parts_failed(&job.restores, "too late: it was replaced");
        } else {
            let reason = job.take_back.as_deref().unwrap_or("taken back");
            self.parts_failed(&job.wishes, reason);
            self.parts_done(&job.restores, "taken back");
        }
    }

    /// Segments that were not heard for so long are replaced; one that was joining is taken back.
    pub(super) fn look_for_silence(&mut self, patience: Duration) {
        let mut silent = Vec::new();
        for link in self.shipper.links() {
            if link.is_gone() || link.is_fenced() {
                continue;
            }
            if link.silent_for(self.now) < patience {
                self.members.repair_pauses.remove(&link.segment);
            } else {
                silent.push((link.pg, link.segment, link.node, link.joining));
            }
        }
        silent.extend(self.lost_members());
        for (pg, segment, node, joining) in silent {
            let jobs = &mut self.members.jobs;
            if joining {
                self.members.fleet.shun(node, self.now);
                self.reshape_silent(segment);
                let jobs = &mut self.members.jobs;
                if let Some(job) = jobs.replace_of(segment)
                    && job.into.segment == segment
                {
                    let reason = || format!("segment {segment} was not heard for too long");
                    job.take_back.get_or_insert_with(reason);
                }
                continue;
            }
            let pauses = &self.members.repair_pauses;
            let is_paused = pauses.get(&segment).is_some_and(|&until| self.now < until);
            if !is_paused && !jobs.moves(segment) {
                jobs.waiting.push_back(Waiting {
                    pg,
                    out: segment,
                    object: None,
                    wishes: Vec::new(),
                });
            }
        }
    }

    /// Members that were declared lost and stand in a set until they are replaced (R19).
    fn lost_members(&self) -> Vec<(PgId, SegmentId, NodeId, bool)> {
        let mut lost = Vec::new();
        for entry in self
            .manifest
            .pgs
            .iter()
            .filter(|entry| !entry.removed.is_empty())
        {
            let members = entry.members().into_iter();
            let is_lost =
                |member: &Member| !member.joining && entry.removed.contains(&member.segment);
            let of_group = members.filter(is_lost);
            lost.extend(of_group.map(|member| (entry.pg, member.segment, member.node, false)));
        }
        lost
    }

    /// For status.
    pub(super) fn replacement_stats(&self) -> Vec<ReplacementStats> {
        let show = |job: &Replace| {
            let group = &self.groups[job.pg.get() as usize];
            let needed = match job.phase {
                Phase::Joining { needed } => needed,
                _ => group.last_sealed,
            };
            ReplacementStats {
                pg: job.pg,
                out: job.out.segment,
                into: job.into.segment,
                node: job.into.node,
                phase: job.phase.shown(),
                scl: self.scl_of(job.pg, job.into.segment),
                needed,
            }
        };
        self.members.jobs.replaces.iter().map(show).collect()
    }

    /// Every member of any group that lives on a node, joining ones left out.
    pub(super) fn segments_on(&self, node: NodeId) -> Vec<(PgId, Member)> {
        let of_entry = |entry: &PgEntry| {
            let pg = entry.pg;
            let members = entry.members().into_iter();
            members
                .filter(move |member| member.node == node && !member.joining)
                .map(move |member| (pg, member))
                .collect::<Vec<_>>()
        };
        self.manifest.pgs.iter().flat_map(of_entry).collect()
    }
}
