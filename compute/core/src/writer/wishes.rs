//! Wishes: what operators, and this process, want done about the membership (R24).

use std::time::Duration;

use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{Wish, WishVerb};
use sixfold_log_format::{Manifest, NodeId, PgId, SegmentId};
use sixfold_recovery::membership::{EditError, drop_hint, set_hint};

use super::WriterCore;
use crate::event::{AttachKey, WriterAction};
use crate::members::MembershipStats;
use crate::members::fleet::find;
use crate::members::jobs::{Edit, GrowWanted, HintEdit, Phase, Waiting};
use crate::members::step::{Purpose, Step};
use crate::members::wishes::{Taken, WishId};

/// A node that is to be forgotten has this long to say what it holds, and to drop it.
const FORGET_PATIENCE: Duration = Duration::from_secs(10);
/// Nodes that are asked where another one is.
const HINT_ASKS_MAX: usize = 6;

impl WriterCore {
    /// An ack brought wishes.
    pub(super) fn take_wishes(&mut self, attach: AttachKey, wishes: &[Wish]) {
        let node = self.shipper.node_of(attach);
        let mut any = false;
        for wish in wishes {
            if wish.volume == self.manifest.volume
                && self.members.wishes.take(wish, node, self.now) == Taken::New
            {
                self.begin_wish(wish, None);
                any = true;
            }
        }
        if any {
            self.drive_members();
        }
    }

    /// This process wants something.
    pub(super) fn own_wish(&mut self, wish: &Wish, hint: Option<NodeHint>) {
        let taken = self.members.wishes.take(wish, None, self.now);
        if taken == Taken::New {
            self.begin_wish(wish, hint);
            self.drive_members();
        } else {
            let report = self.members.wishes.report_of(wish.id);
            let report = report.unwrap_or_else(|| self.members.wishes.too_many(wish.id));
            self.actions
                .push_back(WriterAction::WishReported { report });
        }
    }

    fn begin_wish(&mut self, wish: &Wish, hint: Option<NodeHint>) {
        let id = wish.id;
        let is_alive = self.is_alive() && !self.closing;
        match wish.verb {
            _ if !is_alive => self.refuse_wish(id, "the writer is closing".to_owned()),
            WishVerb::Replace | WishVerb::Drain => self.wish_move(wish),
            WishVerb::Restore => self.wish_restore(wish),
            WishVerb::Grow => self.wish_grow(wish),
            WishVerb::Add => self.wish_add(wish, hint),
            WishVerb::Forget => self.wish_forget(wish),
        }
    }

    /// Append groups. The object says how many the volume is to have then, so that the wish is done once however often it is brought,
    /// to whichever writer; all zero, by a tool that does not say: one more than there are.
    fn wish_grow(&mut self, wish: &Wish) {
        let id = wish.id;
        let (pgs, pgs_max) = (self.groups.len(), self.pgs_max());
        let groups = match wish.object {
            [0, ..] if wish.object == [0; 16] => pgs + 1,
            [a, b, c, d, e, f, g, h, ..] => {
                let wanted = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                usize::try_from(wanted).unwrap_or(usize::MAX)
            }
        };
        if groups <= pgs {
            let text = format!("the volume has {pgs} protection groups");
            return self.members.wishes.done(id, text);
        }
        if groups > pgs_max {
            let text = format!("the volume has {pgs} protection groups, no more are allowed");
            return self.refuse_wish(id, text);
        }
        let count = (groups - pgs) as u64;
        let text = format!("{count} protection groups to be appended");
        self.members.wishes.begun(id, count, text);
        let wish = Some(id);
        let jobs = &mut self.members.jobs;
        jobs.grows_wanted.push_back(GrowWanted { wish, groups });
    }

    /// Take a node out of the fleet. It is asked first what it holds: what an earlier writer made there or removed is dropped before
    /// nobody asks it any more.
    fn wish_forget(&mut self, wish: &Wish) {
        let (id, node) = (wish.id, NodeId::from_bytes(wish.subject));
        if self.is_coming_to(node) {
            let text = format!("node {node} is about to get a segment");
            return self.refuse_wish(id, text);
        }
        if self.manifest.hints.iter().any(|hint| hint.node == node) {
            self.members.jobs.probes.insert(node);
        }
        self.want_edit(Edit::Drop(node), id);
    }

    fn want_edit(&mut self, edit: Edit, wish: WishId) {
        let since = self.now;
        let hints = &mut self.members.jobs.hints;
        hints.push_back(HintEdit { edit, wish, since });
    }

    /// Whether a node has to be heard before it is forgotten, and may be yet.
    fn holds_segments(&self, edit: &HintEdit) -> bool {
        let Edit::Drop(node) = edit.edit else {
            return false;
        };
        let holds = self.members.jobs.probes.contains(&node)
            || self
                .members
                .leaving
                .iter_removed()
                .any(|(_, held)| held.node == node);
        holds && self.now < edit.since + FORGET_PATIENCE
    }

    /// Whether a segment is being made there.
    fn is_coming_to(&self, node: NodeId) -> bool {
        let mut coming = self.members.jobs.coming();
        coming.any(|(_, member)| member.node == node)
    }

    pub(super) fn refuse_wish(&mut self, id: WishId, text: String) {
        self.members.refused(text.clone());
        self.members.wishes.refuse(id, text);
    }

    pub(super) fn parts_done(&mut self, wishes: &[WishId], text: &str) {
        for &id in wishes {
            self.members.wishes.part_done(id, text);
        }
    }

    pub(super) fn parts_failed(&mut self, wishes: &[WishId], text: &str) {
        self.members.refused(text.to_owned());
        for &id in wishes {
            self.members.wishes.part_failed(id, text);
        }
    }

    /// Replace a segment, or every segment of a node.
    fn wish_move(&mut self, wish: &Wish) {
        let id = wish.id;
        let object = (wish.object != [0; 16]).then(|| NodeId::from_bytes(wish.object));
        let segment = SegmentId::from_bytes(wish.subject);
        let node = NodeId::from_bytes(wish.subject);
        let is_removed = |entry: &sixfold_log_format::PgEntry| entry.removed.contains(&segment);
        let found = find(&self.manifest, segment);
        let subjects = if let Some((pg, member)) = found {
            if member.joining {
                let text = format!("segment {segment} is joining: restore it instead");
                return self.refuse_wish(id, text);
            }
            vec![(pg, member)]
        } else if self.manifest.pgs.iter().any(is_removed) {
            let text = format!("segment {segment} was removed already");
            return self.members.wishes.done(id, text);
        } else {
            let on_node = self.segments_on(node);
            let is_known = self.manifest.hints.iter().any(|hint| hint.node == node);
            if on_node.is_empty() && !is_known {
                let text = format!("{node} is neither a segment nor a node of this volume");
                return self.refuse_wish(id, text);
            }
            if wish.verb == WishVerb::Drain {
                self.members.fleet.empty(node);
            }
            if on_node.is_empty() {
                let text = format!("node {node} holds no segment");
                return self.members.wishes.done(id, text);
            }
            on_node
        };
        // What cannot be done at all is said before anything is begun.
        let mut places = subjects
            .iter()
            .filter(|(_, out)| !self.members.jobs.moves(out.segment));
        let impossible = places.find_map(|(pg, out)| self.place_segment(*pg, out, object).err());
        if let Some(reason) = impossible {
            self.members.fleet.welcome(node);
            return self.refuse_wish(id, reason);
        }
        let count = subjects.len() as u64;
        let text = format!("{count} segments to be replaced");
        self.members.wishes.begun(id, count, text);
        for (pg, out) in subjects {
            self.want_replace(pg, out.segment, object, id);
        }
    }

    fn want_replace(&mut self, pg: PgId, out: SegmentId, object: Option<NodeId>, id: WishId) {
        let jobs = &mut self.members.jobs;
        let running = jobs.replaces.iter_mut().find(|job| job.out.segment == out);
        if let Some(job) = running {
            job.wishes.push(id);
        } else if let Some(job) = jobs.waiting.iter_mut().find(|job| job.out == out) {
            job.wishes.push(id);
            job.object = job.object.or(object);
        } else {
            jobs.waiting.push_back(Waiting {
                pg,
                out,
                object,
                wishes: vec![id],
            });
        }
    }

    /// Take back what is under way for a segment, or for every segment of a node.
    fn wish_restore(&mut self, wish: &Wish) {
        let (id, subject) = (wish.id, wish.subject);
        let is_subject = |segment: SegmentId, node: NodeId| {
            *segment.as_bytes() == subject || *node.as_bytes() == subject
        };
        let welcomed = self.members.fleet.welcome(NodeId::from_bytes(subject));
        let manifest = &self.manifest;
        let jobs = &mut self.members.jobs;
        let mut count = 0;
        let mut ended = Vec::new();
        jobs.waiting.retain(|job| {
            let out = find(manifest, job.out);
            let concerned = out.is_some_and(|(_, out)| is_subject(out.segment, out.node));
            if concerned {
                count += 1;
                ended.extend(&job.wishes);
            }
            !concerned
        });
        let waiting = count;
        let (mut too_late, mut taken_back) = (0, 0);
        for job in &mut jobs.replaces {
            let concerned = is_subject(job.out.segment, job.out.node)
                || is_subject(job.into.segment, job.into.node);
            if !concerned {
                continue;
            }
            if job.phase == Phase::Finishing {
                too_late += 1;
                continue;
            }
            job.take_back
                .get_or_insert_with(|| "taken back by wish".to_owned());
            job.restores.push(id);
            count += 1;
        }
        for job in &mut jobs.reshapes {
            let mut joining = job.joining.iter();
            if joining.any(|member| is_subject(member.segment, member.node)) {
                // It ends by itself, and is not waited for.
                job.take_back
                    .get_or_insert_with(|| "taken back by wish".to_owned());
                taken_back += 1;
            }
        }
        self.parts_failed(&ended, "taken back by wish");
        if count > 0 {
            self.members
                .wishes
                .begun(id, count, "taking back".to_owned());
            for _ in 0..waiting {
                self.members.wishes.part_done(id, "it had not begun");
            }
        } else if taken_back > 0 {
            let text = "the group gets no more copies for now".to_owned();
            self.members.wishes.done(id, text);
        } else if welcomed {
            self.members
                .wishes
                .done(id, "the node may be given segments again".to_owned());
        } else if too_late > 0 {
            self.refuse_wish(id, "too late: the last step was proposed".to_owned());
        } else {
            self.refuse_wish(id, "no replacement of it is under way".to_owned());
        }
    }

    /// Take a node into the fleet.
    fn wish_add(&mut self, wish: &Wish, hint: Option<NodeHint>) {
        let (id, node) = (wish.id, NodeId::from_bytes(wish.subject));
        self.members.fleet.welcome(node);
        self.members
            .wishes
            .begun(id, 1, format!("adding node {node}"));
        let jobs = &mut self.members.jobs;
        match hint {
            Some(hint) if hint.node == node => self.want_edit(Edit::Set(hint), id),
            Some(hint) => {
                let text = format!("node {} is not the one that is to be added", hint.node);
                self.refuse_wish(id, text);
            }
            None => {
                // Whoever brought it knows best.
                let mut nodes = self.members.wishes.nodes_of(id);
                let known = self.manifest.hints.iter().map(|hint| hint.node);
                let known = known.filter(|known| *known != node && !nodes.contains(known));
                let others: Vec<NodeId> = known.take(HINT_ASKS_MAX).collect();
                nodes.extend(others);
                nodes.truncate(HINT_ASKS_MAX);
                jobs.hint_asks.push((id, node, nodes));
            }
        }
    }

    /// A node said what addresses were left with it.
    pub(super) fn hints_answered(&mut self, asked: NodeId, hints: &[NodeHint]) {
        let mut ended = Vec::new();
        for (id, node, nodes) in &mut self.members.jobs.hint_asks {
            if !nodes.contains(&asked) {
                continue;
            }
            nodes.retain(|other| *other != asked);
            match hints.iter().find(|hint| hint.node == *node) {
                Some(hint) => ended.push((*id, Ok(hint.clone()))),
                None if nodes.is_empty() => ended.push((*id, Err(*node))),
                None => {}
            }
        }
        for (id, hint) in ended {
            self.members
                .jobs
                .hint_asks
                .retain(|(other, ..)| *other != id);
            match hint {
                Ok(hint) => self.want_edit(Edit::Set(hint), id),
                Err(node) => {
                    let text = format!("nobody said where node {node} is");
                    self.refuse_wish(id, text);
                }
            }
        }
    }

    /// The next change of the fleet.
    pub(super) fn propose_hint(&mut self) -> bool {
        let Some(next) = self.members.jobs.hints.front() else {
            return false;
        };
        let id = next.wish;
        // One that began when the wish was taken, or was not found by a reopening in place, is not in the manifest yet.
        if let Edit::Drop(node) = next.edit
            && self.is_coming_to(node)
        {
            self.members.jobs.hints.pop_front();
            self.refuse_wish(id, format!("node {node} is about to get a segment"));
            return true;
        }
        // A node that holds none of the volume is forgotten at once; one that does not answer, after a while.
        if self.holds_segments(next) && drop_hint_is_possible(&self.manifest, next) {
            return false;
        }
        let edited = match &next.edit {
            Edit::Set(hint) => set_hint(&self.manifest, hint.clone()),
            Edit::Drop(node) => drop_hint(&self.manifest, *node),
        };
        match edited {
            Ok(to) => self.propose(to, Purpose::Hint),
            Err(error) => {
                self.members.jobs.hints.pop_front();
                match error {
                    EditError::HintKnown { .. } => {
                        self.members.wishes.done(id, error.to_string());
                    }
                    error => self.refuse_wish(id, error.to_string()),
                }
            }
        }
        true
    }

    /// A step is in force: what it was for goes on.
    pub(super) fn job_in_force(&mut self, purpose: &Purpose) {
        match purpose {
            Purpose::Begin { .. } | Purpose::Finish { .. } | Purpose::RollBack { .. } => {
                self.replace_in_force(purpose);
            }
            Purpose::BeginReshape { .. }
            | Purpose::ConfirmReshape { .. }
            | Purpose::FinishReshape { .. }
            | Purpose::AbandonReshape { .. } => self.reshape_in_force(purpose),
            Purpose::Append { .. } => {
                let grow = self.members.jobs.grow.as_mut();
                let grow = grow.expect("a job stays until its group is open");
                grow.phase = crate::members::jobs::GrowPhase::Opening;
            }
            Purpose::Nothing => {}
            Purpose::Hint => {
                // There may be a place now for what found none.
                self.members.repair_pauses.clear();
                self.members
                    .reshape_pauses
                    .retain(|_, pause| pause.is_repeated());
                let edit = self.members.jobs.hints.pop_front();
                let edit = edit.expect("an edit stays until its step is in force");
                if let Edit::Drop(node) = edit.edit {
                    self.members.jobs.probes.remove(&node);
                }
                self.parts_done(&[edit.wish], "done");
            }
        }
    }

    /// For status.
    pub(super) fn membership_stats(&self) -> MembershipStats {
        let members = &self.members;
        let (stragglers, leaving) = members.leaving.counts();
        let entries = self.manifest.pgs.iter();
        MembershipStats {
            version: self.manifest.version,
            proposed: members.step.as_ref().map(Step::version),
            sets: entries.map(|entry| (entry.pg, entry.sets.len())).collect(),
            groups: self.manifest.pgs.clone(),
            replacements: self.replacement_stats(),
            waiting: members.jobs.waiting.len(),
            short: self.short_groups(),
            reshapes: self.reshape_stats(),
            growing: members.jobs.grow.is_some(),
            stragglers,
            leaving,
            refusals: members.refusals(),
            wishes: members.wishes.reports(),
            refences: self.refences,
        }
    }
}

/// Whether the edit is possible: what would be refused is refused at once.
fn drop_hint_is_possible(manifest: &Manifest, edit: &HintEdit) -> bool {
    match edit.edit {
        Edit::Drop(node) => drop_hint(manifest, node).is_ok(),
        Edit::Set(_) => true,
    }
}
