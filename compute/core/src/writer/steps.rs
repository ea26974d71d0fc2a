//! Steps of membership: proposed, told, in force (R20).

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{
    AskHints, DropSegment, Install, Installed, Message, Probe, Refusal,
};
use sixfold_log_format::{
    Lsn, Manifest, ManifestVersion, MembershipEpoch, NodeId, PgEntry, PgId, SegmentId,
};

use super::WriterCore;
use crate::event::{FetchKey, WriterAction};
use crate::members::calls::Call;
use crate::members::fleet::find;
use crate::members::step::{Purpose, Step};
use crate::shipper::linked;

/// Times that a node is told how far a wish is, when it does not answer.
const REPORTS_MAX: u32 = 8;

impl WriterCore {
    /// Looks now and then at what concerns the membership.
    pub(super) fn members_beat(&mut self) {
        if let Some(gap) = self.members.gap(self.now) {
            self.shipper.stood_still(gap);
            self.refence_stood_still();
        }
        if self.members.take_look(self.now) {
            if let Some(patience) = self.members.bounds.repair_after {
                self.look_for_silence(patience);
            }
            self.look_for_losses();
        }
        self.grow_if_low();
        self.refence_if_bare();
        self.drive_members();
    }

    /// Does what can be done about the membership now.
    pub(super) fn drive_members(&mut self) {
        if self.members.is_idle() || !self.is_alive() || self.is_suspended() {
            return;
        }
        while self.advance_members() {}
        self.send_calls();
        let news = self.members.wishes.take_news();
        let reported = |report| WriterAction::WishReported { report };
        self.actions.extend(news.into_iter().map(reported));
    }

    /// One thing; false when there is none.
    fn advance_members(&mut self) -> bool {
        self.accept_attached();
        if self.members.step.as_ref().is_some_and(Step::is_in_force) {
            self.in_force();
            return true;
        }
        let proposed = self.members.step.is_none() && !self.closing && self.propose_next();
        proposed || self.start_waiting() || self.start_grow() || self.open_grown()
    }

    /// The next step that may follow, if there is one.
    fn propose_next(&mut self) -> bool {
        self.propose_hint()
            || self.propose_replace()
            || self.propose_reshape()
            || self.propose_append()
            || self.propose_nothing()
    }

    /// A step that changes nothing, so that segments that were made and are not needed can be told so.
    fn propose_nothing(&mut self) -> bool {
        let made_with = self.members.leaving.made_with();
        if made_with.is_none_or(|version| version < self.manifest.version.membership_epoch) {
            return false;
        }
        let mut to = self.manifest.clone();
        to.version.membership_epoch = MembershipEpoch::new(self.said().get() + 1);
        self.propose(to, Purpose::Nothing);
        true
    }

    /// The highest membership epoch that anybody was told.
    pub(super) fn said(&self) -> MembershipEpoch {
        self.shipper.hello().manifest.version.membership_epoch
    }

    /// From here until it is in force, what its group writes satisfies the sets of both sides.
    pub(super) fn propose(&mut self, to: Manifest, purpose: Purpose) {
        assert!(
            self.members.step.is_none(),
            "one step at a time: {} before {} is in force",
            to.version,
            self.shipper.hello().manifest.version
        );
        self.shipper.set_manifest(&to);
        let pg = purpose.pg();
        if let Purpose::Append { pg } = purpose {
            let entry = to.pg(pg).expect("it appends this group");
            self.add_group(entry.clone());
        }
        self.members.step = Some(Step::new(self.manifest.clone(), to, purpose));
        if let Some(pg) = pg {
            self.recount(pg);
        }
    }

    /// A write quorum of every set left and entered, and of the root's, holds the step.
    fn in_force(&mut self) {
        let step = self.members.step.take().expect("the caller looked");
        let before = std::mem::replace(&mut self.manifest, step.to().clone());
        let wanted = step.wanted();
        for (pg, member) in &wanted {
            if find(&self.manifest, member.segment).is_some() {
                let leaving = &mut self.members.leaving;
                leaving.straggles(member.segment, *pg, member.node);
            }
        }
        if before.hints != self.manifest.hints {
            self.say_fleet();
        }
        if let Some(pg) = step.purpose.pg() {
            let group = &mut self.groups[pg.get() as usize];
            group.floor = group.floor.max(step.floor(pg)).max(group.pgcl);
            for member in before.pg(pg).map_or(Vec::new(), PgEntry::members) {
                if find(&self.manifest, member.segment).is_none() {
                    let hears = |(_, other): &(PgId, _)| *other == member;
                    let told = !wanted.iter().any(hears);
                    let leaving = &mut self.members.leaving;
                    leaving.removed(member.segment, member.node, told);
                }
            }
            if let (Purpose::Finish { into, .. }, true) =
                (&step.purpose, planted(Mutant::RemovedAckCounts))
            {
                let names = |set: &sixfold_log_format::SegmentSet| {
                    set.members.iter().any(|member| member.segment == *into)
                };
                let group = &mut self.groups[pg.get() as usize];
                group.entry.sets.retain(|set| !names(set));
            } else {
                self.recount(pg);
            }
        }
        self.job_in_force(&step.purpose);
    }

    /// What a group's writes have to satisfy has changed: its links follow, and what is durable.
    pub(super) fn recount(&mut self, pg: PgId) {
        let step = self.members.step.as_ref();
        let entry = step.map_or_else(|| self.manifest.pg(pg).cloned(), |step| step.entry(pg));
        let entry = entry.expect("the group is in the manifest");
        let number = pg.get() as usize;
        let removed = self.manifest.pg(pg).map_or(&[][..], |entry| &entry.removed);
        let members = linked(&entry, removed);
        let joins = |segment: SegmentId| {
            let mut all = entry.sets.iter().flat_map(|set| &set.members);
            all.any(|member| member.segment == segment && member.joining)
        };
        let mut kept = Vec::with_capacity(members.len());
        for index in std::mem::take(&mut self.groups[number].links) {
            let segment = self.shipper.links()[index].segment;
            if members.iter().any(|member| member.segment == segment) {
                kept.push(index);
            } else {
                self.shipper.remove(index, &mut self.actions);
            }
        }
        for member in members {
            let segment = member.segment;
            let of_member = |&&index: &&usize| self.shipper.links()[index].segment == segment;
            let index = match kept.iter().find(of_member) {
                Some(&index) => index,
                None => {
                    let index = self.shipper.add(pg, member, self.now);
                    self.router.added();
                    kept.push(index);
                    index
                }
            };
            self.shipper.set_joining(index, joins(segment));
        }
        let step = self.members.step.as_ref();
        let group = &mut self.groups[number];
        group.links = kept;
        group.entry = match step {
            Some(step) => step.counted(entry),
            None => entry,
        };
        if pg == PgId::ROOT {
            // What granted it may be no read quorum of a set that was entered.
            self.lease.recount(&self.groups[number].entry);
            self.shared.publish_lease(self.lease.until());
        }
        self.attach_due();
        self.scl_moved(pg);
        self.writable_moved();
    }

    /// Whoever attached with a manifest holds it.
    fn accept_attached(&mut self) {
        let links = self.shipper.links();
        let told = |pg: PgId, segment: SegmentId, version: ManifestVersion| {
            let link = self.groups.get(pg.get() as usize)?.link(links, segment)?;
            (link.told >= version.membership_epoch).then_some(link.scl)
        };
        let version = self.shipper.hello().manifest.version;
        if let Some(step) = &mut self.members.step {
            for (pg, member) in step.wanted() {
                if let Some(scl) = told(pg, member.segment, version) {
                    step.accepted(member.segment, scl);
                }
            }
        }
        let leaving = &mut self.members.leaving;
        let stragglers: Vec<(PgId, SegmentId)> = leaving.stragglers().collect();
        for (pg, segment) in stragglers {
            if told(pg, segment, version).is_some() || find(&self.manifest, segment).is_none() {
                leaving.told(segment);
            }
        }
    }

    /// Everything that is wanted of nodes.
    fn wanted_calls(&mut self) -> Vec<(Call, NodeId)> {
        let version = self.shipper.hello().manifest.version;
        let mut wanted = self.wanted_creations();
        if let Some(step) = &self.members.step {
            let installs = step.wanted().into_iter();
            wanted.extend(
                installs.map(|(_, member)| (Call::Install(member.segment, version), member.node)),
            );
        }
        for (segment, held) in self.members.leaving.iter_removed() {
            let call = if held.told {
                Call::Drop(segment)
            } else {
                Call::Install(segment, version)
            };
            wanted.push((call, held.node));
        }
        let stragglers = self.members.leaving.iter_stragglers();
        wanted.extend(stragglers.map(|(segment, node)| (Call::Install(segment, version), node)));
        let probes = self.members.jobs.probes.iter();
        wanted.extend(probes.map(|&node| (Call::Probe(node), node)));
        let asks = self.members.jobs.hint_asks.iter();
        wanted.extend(
            asks.flat_map(|(_, _, nodes)| nodes.iter().map(|&node| (Call::Hints(node), node))),
        );
        let untold = self.members.wishes.untold().into_iter();
        wanted.extend(untold.map(|(id, node)| (Call::Report(id, node), node)));
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    fn send_calls(&mut self) {
        let wanted = self.wanted_calls();
        let is_wanted = |call: &Call| wanted.binary_search_by_key(call, |&(call, _)| call).is_ok();
        self.members.calls.retain(is_wanted);
        for (call, node) in wanted {
            let Some(message) = self.message_of(call) else {
                continue;
            };
            if let Some(fetch) = self.members.calls.wanted(call, self.now) {
                if let Call::Report(id, node) = call {
                    self.members.wishes.sent(id, node);
                }
                self.actions.push_back(WriterAction::Ask {
                    fetch,
                    node,
                    message,
                });
            }
        }
    }

    fn message_of(&self, call: Call) -> Option<Message> {
        let hello = self.shipper.hello();
        let volume = self.manifest.volume;
        Some(match call {
            Call::Create(segment) => Message::CreateSegment(Box::new(self.creation_of(segment)?)),
            Call::Install(segment, _) => Message::Install(Box::new(Install {
                segment,
                volume_epoch: hello.volume_epoch,
                writer: hello.writer,
                history: hello.history.clone(),
                manifest: hello.manifest.clone(),
            })),
            Call::Drop(segment) => Message::DropSegment(DropSegment { segment, volume }),
            Call::Probe(_) => Message::Probe(Probe { volume }),
            Call::Hints(_) => Message::AskHints(AskHints { volume }),
            Call::Report(id, _) => {
                Message::WishReport(Box::new(self.members.wishes.report_of(id)?))
            }
        })
    }

    /// A node answered, or failed to.
    pub(super) fn call_answered(&mut self, fetch: FetchKey, answer: Option<Message>) {
        let Some(call) = self.members.calls.answered(fetch) else {
            return;
        };
        let done = match (call, answer) {
            (Call::Create(segment), answer) => self.creation_answered(segment, answer),
            (Call::Install(segment, version), Some(Message::Installed(installed))) => {
                self.installed(segment, version, installed)
            }
            (Call::Install(segment, _), Some(Message::Refused(refusal))) => {
                self.install_refused(segment, &refusal)
            }
            (
                Call::Drop(segment),
                Some(Message::Done | Message::Refused(Refusal::UnknownSegment)),
            ) => {
                self.members.leaving.dropped(segment);
                true
            }
            (Call::Probe(node), Some(Message::ProbeAnswer(answer))) => {
                self.probe_answered(node, &answer);
                true
            }
            (Call::Hints(node), answer) => {
                let hints = match answer {
                    Some(Message::Hints(hints)) => hints.hints,
                    _ => Vec::new(),
                };
                self.hints_answered(node, &hints);
                true
            }
            (Call::Report(id, node), Some(Message::Done)) => {
                self.members.wishes.told(id, node, self.now);
                true
            }
            (Call::Report(id, node), _) if self.members.calls.failures(call) >= REPORTS_MAX => {
                self.members.wishes.unheard(id, node);
                true
            }
            _ => false,
        };
        if done {
            self.members.calls.done(call);
        } else {
            self.members.calls.failed(call, self.now);
        }
        self.drive_members();
    }

    /// A segment made a manifest durable.
    fn installed(
        &mut self,
        segment: SegmentId,
        version: ManifestVersion,
        answer: Installed,
    ) -> bool {
        if answer.segment != segment || answer.history_epoch != self.volume_epoch {
            return false;
        }
        self.members.leaving.told(segment);
        let links = self.shipper.links();
        let of_segment = |link: &&crate::link::Link| link.segment == segment && !link.is_gone();
        let found = links.iter().enumerate().find(|(_, link)| of_segment(link));
        let Some((index, link)) = found else {
            // One that leaves; what else has no link does not count.
            return self.members.leaving.get(segment).is_some();
        };
        if answer.scl > self.groups[link.pg.get() as usize].last_sealed {
            return false;
        }
        self.shipper.told(index, version.membership_epoch);
        if let Some(step) = &mut self.members.step
            && step.version() == version
        {
            step.accepted(segment, answer.scl);
        }
        true
    }

    /// Whether the refusal settles it.
    fn install_refused(&mut self, segment: SegmentId, refusal: &Refusal) -> bool {
        if self.members.leaving.get(segment).is_none() {
            return false;
        }
        match refusal {
            Refusal::UnknownSegment => {
                self.members.leaving.dropped(segment);
                true
            }
            // Its tombstone answers, or it knows a newer one that does not name it.
            Refusal::StaleMembership { manifest } if find(manifest, segment).is_none() => {
                self.members.leaving.told(segment);
                true
            }
            _ => false,
        }
    }

    /// Where the nodes are.
    pub(super) fn say_fleet(&mut self) {
        let hints = self.manifest.hints.clone();
        self.actions.push_back(WriterAction::Fleet { hints });
    }

    /// The SCL of a member, as far as it counts.
    pub(super) fn scl_of(&self, pg: PgId, segment: SegmentId) -> Lsn {
        self.groups[pg.get() as usize].scl_of(self.shipper.links(), segment)
    }
}
