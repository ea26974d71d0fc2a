//! The membership in the world: operators who leave wishes with nodes until somebody reports on them, steps that writers take, nodes that are
//! lost for good, segments that were removed and speak no more.

use sixfold_log_format::wire::{
    AskWish, LeaveHint, Message, PageRequest, ReadPages, Refusal, Wish, WishState, WishVerb,
};
use sixfold_log_format::{Manifest, NodeId, PageId, PgEntry, PgId, SegmentId};

use super::writer::Doing;
use super::{Event, World, hint_of, zone_of};
use crate::clock::MS;
use crate::oracle::StepDone;
use crate::plan::{Wanted, node_name};
use crate::reached::Reached;

/// Nodes that an operator's tool leaves a wish with at a time.
const LEFT_WITH: usize = 2;

/// A wish that nobody has reported the end of yet.
#[derive(Debug)]
pub(super) struct Open {
    wish: Wish,
    /// The node that it is about, for its address.
    node: Option<usize>,
    state: WishState,
}

impl Open {
    fn is_over(&self) -> bool {
        matches!(self.state, WishState::Done | WishState::Refused)
    }
}

fn names(manifest: &Manifest, segment: SegmentId) -> bool {
    let entries = manifest.pgs.iter();
    let mut members = entries
        .flat_map(|entry| &entry.sets)
        .flat_map(|set| &set.members);
    members.any(|member| member.segment == segment)
}

impl World {
    /// Where the segments of a manifest are.
    pub(super) fn know_places(&mut self, manifest: &Manifest) {
        for entry in &manifest.pgs {
            for member in entry.members() {
                let node = self.node_of(member.node);
                self.places.insert(member.segment, (node, entry.pg));
            }
        }
        self.manifest = self.oracle.members.in_force().clone();
    }

    /// A request of a writer that concerns the membership, for the story.
    pub(super) fn tell_call(&mut self, writer: usize, node: usize, message: &Message) {
        self.tell(|| {
            format!(
                "W{writer} -> {}: {}",
                node_name(node),
                super::brief::brief(message)
            )
        });
    }

    /// A step came into force.
    pub(super) fn step_in_force(&mut self, done: StepDone) {
        let manifest = self.oracle.members.in_force().clone();
        let most = manifest.pgs.iter().map(|entry| entry.sets.len()).max();
        if most >= Some(4) {
            self.oracle.reached.hit(Reached::FourSets);
        }
        self.know_places(&manifest);
        self.oracle.reached.hit(match done {
            StepDone::Begun => Reached::ReplacementBegun,
            StepDone::Finished => Reached::ReplacementFinished,
            StepDone::RolledBack => Reached::ReplacementTakenBack,
            StepDone::Confirmed => Reached::ReshapeConfirmed,
            StepDone::Grown => Reached::VolumeGrew,
            StepDone::Other => Reached::FleetChanged,
        });
        self.trap_in_force(done);
        self.window_in_force(done);
    }

    /// An operator wants something.
    pub(super) fn want(&mut self, index: usize, wanted: Wanted) {
        if !self.is_created {
            self.queue.push(self.now + 50 * MS, Event::Fault { index });
            return;
        }
        let count = self.nodes.len();
        let id = |node: usize| *self.nodes[node % count].id.as_bytes();
        let none = [0; 16];
        let (verb, subject, object, node) = match wanted {
            Wanted::Replace { node, pg, to } => {
                let pgs = u32::try_from(self.manifest.pgs.len()).expect("a few");
                let pg = pg.map(|pg| PgId::new(pg % pgs));
                let of_pg = pg.and_then(|pg| self.segment_on(node % count, pg));
                let subject = of_pg.map_or(id(node), |segment| *segment.as_bytes());
                let object = to.map_or(none, id);
                (WishVerb::Replace, subject, object, None)
            }
            Wanted::Restore { node } => (WishVerb::Restore, id(node), none, None),
            Wanted::Drain { node } => (WishVerb::Drain, id(node), none, None),
            Wanted::Grow => {
                // One more, or as many as there are and one: then it is done once, whoever hears of it.
                let wanted = self.manifest.pgs.len() as u64 + 1;
                let mut object = none;
                if self.wishes.len() % 2 == 1 {
                    object[..8].copy_from_slice(&wanted.to_le_bytes());
                }
                (WishVerb::Grow, none, object, None)
            }
            Wanted::Add { node } => (WishVerb::Add, id(node), none, Some(node % count)),
            Wanted::Forget { node } => (WishVerb::Forget, id(node), none, None),
        };
        let wish = Wish {
            id: self.rng.bytes(),
            volume: self.manifest.volume,
            verb,
            subject,
            object,
        };
        self.wishes.push(Open {
            wish,
            node,
            state: WishState::Open,
        });
        let wish = self.wishes.len() - 1;
        self.leave(wish);
    }

    fn segment_on(&self, node: usize, pg: PgId) -> Option<SegmentId> {
        let members = self.manifest.pg(pg)?.members();
        let on_node = |member: &sixfold_log_format::Member| member.node == self.nodes[node].id;
        members
            .into_iter()
            .find(on_node)
            .map(|member| member.segment)
    }

    /// The operator's tool leaves a wish, asks how far it is, and comes again.
    pub(super) fn leave(&mut self, wish: usize) {
        if self.wishes[wish].is_over() || self.finish.is_over() {
            return;
        }
        let running: Vec<usize> = (0..self.nodes.len())
            .filter(|node| self.nodes[*node].core.is_some())
            .collect();
        let Open {
            wish: left, node, ..
        } = &self.wishes[wish];
        let (left, about) = (left.clone(), *node);
        for _ in 0..LEFT_WITH.min(running.len()) {
            let node = running[self.rng.index(running.len())];
            if let Some(about) = about {
                let hint = hint_of(self.nodes[about].id, about);
                let volume = left.volume;
                let hint = LeaveHint { volume, hint };
                self.ask_operator(node, None, Message::LeaveHint(Box::new(hint)));
            }
            self.ask_operator(node, None, Message::Wish(left.clone()));
        }
        if !running.is_empty() {
            let node = running[self.rng.index(running.len())];
            let ask = AskWish {
                volume: left.volume,
                id: left.id,
            };
            self.ask_operator(node, Some(wish), Message::AskWish(ask));
        }
        let wait = 80 * MS + self.rng.below(60 * MS);
        self.queue.push(self.now + wait, Event::Leave { wish });
    }

    /// A node says how far a wish is.
    pub(super) fn wish_reported(&mut self, wish: usize, state: WishState, text: &str) {
        let open = &mut self.wishes[wish];
        if open.is_over() {
            if open.state != state && matches!(state, WishState::Done | WishState::Refused) {
                // Two writers may have looked at it: the second one finds that nothing is left, or that it cannot be.
                open.state = state;
            }
            return;
        }
        open.state = state;
        if !open.is_over() {
            return;
        }
        let verb = open.wish.verb;
        self.tell(|| format!("wish {verb:?} is over: {state:?}, {text}"));
        self.oracle.reached.hit(match state {
            WishState::Done => Reached::WishDone,
            _ => Reached::WishRefused,
        });
    }

    /// A node is lost for good.
    pub(super) fn dies_for_good(&mut self, node: usize) {
        self.crash_node(node, true);
        self.nodes[node].dead = true;
    }

    /// A node says something on a stream: whether that shows that it knows a segment removed, and whether a removed one speaks.
    pub(super) fn check_removed(&mut self, node: usize, stream: usize, message: &Message) {
        let state = &self.streams[stream];
        let Some(segment) = state.about else { return };
        let (removes, version) = (state.removes, state.version);
        // A higher manifest that names it brings it back: the step that removed it never came into force (R21).
        let tomb = self.tombs.get(&segment).copied();
        if let (Some(tomb), Some(version)) = (tomb, version)
            && !removes
            && version > tomb
            && matches!(message, Message::Attached(_) | Message::Installed(_))
        {
            self.tombs.remove(&segment);
        }
        if self.tombs.contains_key(&segment) {
            let speaks = matches!(
                message,
                Message::Ack(_)
                    | Message::Attached(_)
                    | Message::Census(_)
                    | Message::Pages(_)
                    | Message::LogPiece(_)
            );
            if speaks && !self.nodes[node].suspect {
                self.fail(format!(
                    "{} speaks for segment {segment}, which it knows to be removed: {} (R20)",
                    node_name(node),
                    super::brief::brief(message)
                ));
            }
            match message {
                Message::Refused(Refusal::StaleMembership { .. }) => {
                    self.oracle.reached.hit(Reached::RemovedRefused);
                }
                Message::Done => {
                    self.laid.insert(segment);
                    self.ask_tomb(node, segment);
                }
                Message::Refused(Refusal::UnknownSegment)
                    if self.laid.contains(&segment) && !self.nodes[node].suspect =>
                {
                    self.fail(format!(
                        "{} has forgotten the manifest that removed segment {segment} (R20)",
                        node_name(node)
                    ));
                }
                _ => {}
            }
            return;
        }
        let knows = match message {
            Message::Installed(_) => version.filter(|_| removes),
            Message::Refused(Refusal::StaleMembership { manifest }) => {
                Some(manifest.version).filter(|_| !names(manifest, segment))
            }
            _ => None,
        };
        if let Some(version) = knows {
            self.tombs.insert(segment, version);
            self.ask_tomb(node, segment);
        }
    }

    /// Asks a node for a segment that was removed and dropped.
    fn ask_tomb(&mut self, node: usize, segment: SegmentId) {
        let read = ReadPages {
            segment,
            history_epoch: self.oracle.newest(),
            pages: vec![PageRequest {
                page: PageId::META,
                lsn: self.oracle.last,
                pg_last: self.oracle.last,
            }],
        };
        self.ask_probe(node, read);
    }

    /// A node has started: its tombstones are there.
    pub(super) fn check_tombs(&mut self, node: usize) {
        let places = &self.places;
        let here = |segment: &&SegmentId| places.get(segment).is_some_and(|(at, _)| *at == node);
        let laid: Vec<SegmentId> = self.laid.iter().filter(here).copied().collect();
        for segment in laid {
            self.ask_tomb(node, segment);
        }
    }

    /// A node takes a manifest from a peer: it may bring back a segment that an older one removed.
    pub(super) fn takes_manifest(&mut self, node: usize, manifest: &Manifest) {
        let places = &self.places;
        self.tombs.retain(|segment, tomb| {
            let here = places.get(segment).is_some_and(|(at, _)| *at == node);
            !(here && manifest.version > *tomb && names(manifest, *segment))
        });
    }

    /// What is not as it should be at the end: wishes, steps, repairs.
    pub(super) fn late_membership(&self) -> Option<String> {
        let late = self.late_members()?;
        let writer = self
            .current_writer()
            .map(|writer| &self.writers[writer].doing);
        let says = match writer {
            Some(Doing::Open(core)) => {
                let says = core.stats().membership;
                format!(
                    "{} waiting, replacements {:?}, growing {}, wishes {:?}, refusals {:?}",
                    says.waiting, says.replacements, says.growing, says.wishes, says.refusals
                )
            }
            _ => "there is none".to_owned(),
        };
        Some(format!("{late}; the writer: {says}"))
    }

    fn late_members(&self) -> Option<String> {
        let mut groups = self.oracle.members.in_force().pgs.iter();
        let waits = groups.any(|entry| self.never_joins(entry));
        let mut wishes = self.wishes.iter().filter(|_| !waits);
        if let Some(open) = wishes.find(|open| !open.is_over()) {
            let verb = open.wish.verb;
            return Some(format!("nobody reports the end of a wish ({verb:?})"));
        }
        let members = &self.oracle.members;
        if !members.is_settled() {
            return Some("a step of the membership does not come into force".to_owned());
        }
        for entry in &members.in_force().pgs {
            if entry.sets.len() != 1 && !self.never_joins(entry) {
                return Some(format!(
                    "group {} has {} sets, a replacement does not end",
                    entry.pg,
                    entry.sets.len()
                ));
            }
            let copies = entry.members().len();
            if copies < 6 && self.plan.shape.members.repair_ms.is_some() && self.has_room_for_six()
            {
                return Some(format!("group {} has {copies} copies", entry.pg));
            }
            let gone = |node: NodeId| {
                let node = self.node_of(node);
                self.nodes[node].dead || self.nodes[node].lost
            };
            let lacking = entry.members().into_iter().find(|member| gone(member.node));
            if let Some(member) = lacking
                && self.plan.shape.members.repair_ms.is_some()
                && self.has_spare(entry, self.node_of(member.node))
            {
                return Some(format!(
                    "{} is lost and its segment of group {} is not replaced",
                    node_name(self.node_of(member.node)),
                    entry.pg
                ));
            }
        }
        None
    }

    /// Whether a replacement waits for a node that is gone for good: where nobody repairs by himself, that is until an operator restores what
    /// was there before.
    fn never_joins(&self, entry: &PgEntry) -> bool {
        let is_gone = |node: NodeId| {
            let node = self.node_of(node);
            self.nodes[node].dead || self.nodes[node].lost
        };
        let mut members = entry.sets.iter().flat_map(|set| &set.members);
        let by_itself = self.plan.shape.members.repair_ms.is_some();
        !by_itself && members.any(|member| member.joining && is_gone(member.node))
    }

    /// Whether two nodes of each zone are there.
    fn has_room_for_six(&self) -> bool {
        (0..3).all(|zone| {
            let lives = |node: &usize| !self.nodes[*node].dead && !self.nodes[*node].lost;
            let nodes = (0..self.nodes.len()).filter(|node| zone_of(*node) == zone);
            nodes.filter(lives).count() >= 2
        })
    }

    /// Whether a node of the fleet in the same zone could take a segment of this group.
    fn has_spare(&self, entry: &PgEntry, lost: usize) -> bool {
        let fleet = &self.manifest.hints;
        (0..self.nodes.len()).any(|node| {
            let state = &self.nodes[node];
            let is_drained = self.wishes.iter().any(|open| {
                let drains = matches!(open.wish.verb, WishVerb::Drain | WishVerb::Forget);
                drains && open.wish.subject == *state.id.as_bytes()
            });
            let hosts = entry.members().iter().any(|member| member.node == state.id);
            let is_known = fleet.iter().any(|hint| hint.node == state.id);
            let is_fit = !state.dead && !state.lost && !hosts && !is_drained;
            is_fit && is_known && zone_of(node) == zone_of(lost)
        })
    }

    /// What a node holds at the end against the manifest in force.
    pub(super) fn judge_members(&self, node: usize, held: &[SegmentId]) -> Option<String> {
        let manifest = self.oracle.members.in_force();
        let name = node_name(node);
        let id = self.nodes[node].id;
        for entry in &manifest.pgs {
            let members = entry.members();
            let mine = members.iter().find(|member| member.node == id);
            if let Some(member) = mine.filter(|member| !held.contains(&member.segment))
                && !self.is_dropped(member.segment)
                && !self.nodes[node].suspect
            {
                let (segment, pg) = (member.segment, entry.pg);
                return Some(format!("{name} lacks segment {segment} of group {pg}"));
            }
        }
        // What a lying disk brings back of it refuses everybody, until the next writer asks what is there.
        if self.nodes[node].suspect {
            return None;
        }
        let members = &self.oracle.members;
        let kept = held
            .iter()
            .find(|segment| members.is_removed(**segment) && !names(manifest, **segment));
        kept.map(|segment| format!("{name} still has segment {segment}, which was removed"))
    }
}
