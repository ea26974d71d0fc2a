//! What operators leave for the writer: wishes, and addresses of nodes (R24, R25). In memory, bounded by volume; only for volumes of
//! which this node hosts a segment.
//!
//! An ack carries a wish once to each writer, and again after a while until the writer reports that it is at it. A report that a wish
//! is done or refused ends it here; the last reports stay, for whoever asks. A wish of which nothing was heard for long is forgotten:
//! its operator has given up, and would be surprised by a writer that does it much later. Whoever still waits leaves it again.

use core::net::SocketAddr;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sixfold_log_format::checksum::checksum;
use sixfold_log_format::limits::{HINTS_LEFT_MAX, WISHES_OPEN_MAX};
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{
    AskHints, AskWish, Hints, LeaveHint, Message, Refusal, Role, Wish, WishReport, WishState,
    WishVerb,
};
use sixfold_log_format::{Manifest, NodeId, VolumeEpoch, VolumeId, WriterId};

use crate::bounds::{WISH_REPORTS_MAX, WISH_SAID_AGAIN};
use crate::event::StreamKey;
use crate::node::NodeCore;

/// A wish that was neither left again nor reported on for so long is forgotten.
const KEPT: Duration = Duration::from_secs(3_600);
/// The same of one that a writer is at.
const KEPT_AT_WORK: Duration = Duration::from_secs(24 * 3_600);
/// Where there is no room, one that was not for this long, and that nobody is at, makes room for another.
const KEPT_WITHOUT_ROOM: Duration = Duration::from_secs(600);

/// What was left about one volume.
#[derive(Debug, Default)]
struct Left {
    open: Vec<Open>,
    /// Oldest first.
    reports: VecDeque<WishReport>,
    hints: Vec<LeftHint>,
}

/// A wish that nobody has done yet.
#[derive(Debug)]
struct Open {
    wish: Wish,
    /// When it was left or reported on last.
    touched: Duration,
    /// To whom it was said last, and when.
    said: Option<(VolumeEpoch, WriterId, Duration)>,
    /// Who is at it.
    working: Option<(VolumeEpoch, WriterId)>,
}

#[derive(Debug)]
struct LeftHint {
    hint: NodeHint,
    /// What the manifest said when it was left.
    over: Option<String>,
    /// It could not be reached there: the next time it is asked where the manifest says, and so by turns.
    unreached: bool,
}

/// What was left with this node.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    volumes: BTreeMap<VolumeId, Left>,
}

impl Wishes {
    /// A wish is left. One that is known is not taken twice.
    fn leave(&mut self, now: Duration, wish: Wish) -> Result<(), Refusal> {
        let left = self.volumes.entry(wish.volume).or_default();
        left.expire(now);
        let is_over = |report: &WishReport| {
            report.id == wish.id && matches!(report.state, WishState::Done | WishState::Refused)
        };
        let known = left.open.iter_mut().find(|open| open.wish.id == wish.id);
        if let Some(known) = known {
            known.touched = now;
            return Ok(());
        }
        if left.reports.iter().any(is_over) {
            return Ok(());
        }
        if left.open.len() >= WISHES_OPEN_MAX && !left.make_room(now) {
            return Err(Refusal::Overloaded);
        }
        left.open.push(Open {
            wish,
            touched: now,
            said: None,
            working: None,
        });
        Ok(())
    }

    /// What an ack to this writer carries.
    pub(crate) fn due(
        &mut self,
        now: Duration,
        volume: VolumeId,
        writer: (VolumeEpoch, WriterId),
    ) -> Vec<Wish> {
        let Some(left) = self.volumes.get_mut(&volume) else {
            return Vec::new();
        };
        left.expire(now);
        let due = left.open.iter_mut().filter(|open| {
            let said = open.said.filter(|said| (said.0, said.1) == writer);
            let rests = said.is_some_and(|said| now.saturating_sub(said.2) < WISH_SAID_AGAIN);
            !rests && open.working != Some(writer)
        });
        due.map(|open| {
            open.said = Some((writer.0, writer.1, now));
            open.wish.clone()
        })
        .collect()
    }

    fn report(&mut self, now: Duration, report: WishReport) {
        let left = self.volumes.entry(report.volume).or_default();
        match report.state {
            WishState::Open => {}
            WishState::Working => {
                let open = left.open.iter_mut().find(|open| open.wish.id == report.id);
                if let Some(open) = open {
                    open.touched = now;
                    open.working = Some((report.volume_epoch, report.writer));
                }
            }
            WishState::Done | WishState::Refused => {
                left.open.retain(|open| open.wish.id != report.id);
            }
        }
        left.reports.retain(|before| before.id != report.id);
        left.reports.push_back(report);
        if left.reports.len() > WISH_REPORTS_MAX {
            left.reports.pop_front();
        }
    }

    fn ask(&self, ask: AskWish, claim: VolumeEpoch) -> Option<WishReport> {
        let left = self.volumes.get(&ask.volume)?;
        let reported = left.reports.iter().find(|report| report.id == ask.id);
        reported.cloned().or_else(|| {
            let open = left.open.iter().find(|open| open.wish.id == ask.id)?;
            Some(WishReport {
                volume: ask.volume,
                volume_epoch: claim,
                writer: WriterId::NOBODY,
                id: open.wish.id,
                state: WishState::Open,
                done: 0,
                of: 0,
                text: "no writer has said anything of it yet".to_owned(),
            })
        })
    }

    /// An address is left; `held` is what the manifest says. The newest of a node counts.
    fn leave_hint(&mut self, leave: LeaveHint, held: Option<&NodeHint>) -> Result<(), Refusal> {
        let left = self.volumes.entry(leave.volume).or_default();
        let node = leave.hint.node;
        left.hints.retain(|left| left.hint.node != node);
        if held == Some(&leave.hint) {
            return Ok(());
        }
        if left.hints.len() >= HINTS_LEFT_MAX {
            return Err(Refusal::Overloaded);
        }
        left.hints.push(LeftHint {
            hint: leave.hint,
            over: held.map(|hint| hint.address.clone()),
            unreached: false,
        });
        Ok(())
    }

    fn hints(&self, volume: VolumeId) -> Vec<NodeHint> {
        let left = self.volumes.get(&volume).into_iter();
        left.flat_map(|left| &left.hints)
            .map(|left| left.hint.clone())
            .collect()
    }

    /// Where a node is, if that was left and stands in no manifest yet.
    pub(crate) fn address_of(&self, volume: VolumeId, node: NodeId) -> Option<String> {
        let left = self.volumes.get(&volume)?;
        let left = left.hints.iter().find(|left| left.hint.node == node)?;
        (!left.unreached).then(|| left.hint.address.clone())
    }

    /// A node could not be reached where it was asked.
    pub(crate) fn unreached(&mut self, volume: VolumeId, node: NodeId) {
        let left = self.volumes.get_mut(&volume);
        let mut hints = left.into_iter().flat_map(|left| &mut left.hints);
        if let Some(left) = hints.find(|left| left.hint.node == node) {
            left.unreached = left.over.is_some() && !left.unreached;
        }
    }

    /// A manifest came: hints that it has, or that it has passed, go.
    pub(crate) fn learned(&mut self, manifest: &Manifest) {
        let Some(left) = self.volumes.get_mut(&manifest.volume) else {
            return;
        };
        left.hints.retain(|left| {
            let held = manifest
                .hints
                .iter()
                .find(|hint| hint.node == left.hint.node);
            held != Some(&left.hint) && held.map(|hint| &hint.address) == left.over.as_ref()
        });
    }

    /// A volume is retired.
    pub(crate) fn forget(&mut self, volume: VolumeId) {
        self.volumes.remove(&volume);
    }
}

impl Left {
    fn expire(&mut self, now: Duration) {
        self.open.retain(|open| {
            let kept = match open.working {
                Some(_) => KEPT_AT_WORK,
                None => KEPT,
            };
            now.saturating_sub(open.touched) < kept
        });
    }

    /// Whether there is room for one more.
    fn make_room(&mut self, now: Duration) -> bool {
        let may_go = |open: &&Open| {
            open.working.is_none() && now.saturating_sub(open.touched) >= KEPT_WITHOUT_ROOM
        };
        let oldest = self
            .open
            .iter()
            .filter(may_go)
            .min_by_key(|open| open.touched);
        let Some(oldest) = oldest.map(|open| open.wish.id) else {
            return false;
        };
        self.open.retain(|open| open.wish.id != oldest);
        true
    }
}

impl NodeCore {
    /// The highest claim of any segment of the volume, and whose it is.
    fn claim_of(&self, volume: VolumeId) -> Option<(VolumeEpoch, WriterId)> {
        let segments = self.segments.values();
        let held = segments.filter(|segment| segment.volume == volume);
        held.map(|segment| (segment.guard.claim, segment.guard.writer))
            .max()
    }

    fn done(&mut self, stream: StreamKey, result: Result<(), Refusal>) {
        match result {
            Ok(()) => self.answer(stream, Message::Done),
            Err(refusal) => self.refuse(stream, refusal),
        }
    }

    pub(crate) fn on_wish(&mut self, stream: StreamKey, wish: Wish) {
        if self.claim_of(wish.volume).is_none() {
            return self.refuse(stream, Refusal::UnknownSegment);
        }
        let left = self.wishes.leave(self.now, wish);
        self.done(stream, left);
    }

    /// A writer reports. One that was fenced says nothing that counts.
    pub(crate) fn on_wish_report(&mut self, stream: StreamKey, report: WishReport) {
        let Some((claim, writer)) = self.claim_of(report.volume) else {
            return self.refuse(stream, Refusal::UnknownSegment);
        };
        let rival =
            claim == report.volume_epoch && writer != report.writer && writer != WriterId::NOBODY;
        if claim > report.volume_epoch || rival {
            let volume_epoch = claim;
            return self.refuse(stream, Refusal::StaleEpoch { volume_epoch });
        }
        self.wishes.report(self.now, report);
        self.answer(stream, Message::Done);
    }

    pub(crate) fn on_ask_wish(&mut self, stream: StreamKey, ask: AskWish) {
        let claim = self.claim_of(ask.volume);
        let claim = claim.map_or(VolumeEpoch::default(), |(claim, _)| claim);
        match self.wishes.ask(ask, claim) {
            Some(report) => self.answer(stream, Message::WishReport(Box::new(report))),
            None => self.refuse(stream, Refusal::UnknownWish),
        }
    }

    /// A node's address is left: by an operator, who leaves the wish for it too, or by a node that was moved.
    pub(crate) fn on_leave_hint(&mut self, stream: StreamKey, role: Role, leave: LeaveHint) {
        let Some((claim, _)) = self.claim_of(leave.volume) else {
            return self.refuse(stream, Refusal::UnknownSegment);
        };
        let newest = self
            .manifests_of(leave.volume)
            .max_by_key(|manifest| manifest.version);
        let hints = newest.map_or(&[][..], |manifest| &manifest.hints);
        let held = hints.iter().find(|hint| hint.node == leave.hint.node);
        // A node says of itself that its port is another one, as it is for one that was started anew, and is believed no more than
        // that: from one that is wrong about others nobody is sent to another host. Whoever goes there looks for the certificate of
        // the node that is meant, and goes by the manifest when that is not it.
        if role == Role::Node && !held.is_some_and(|held| is_same_host(held, &leave.hint)) {
            return self.refuse(stream, Refusal::NotAllowed);
        }
        let moved = role == Role::Node && held != Some(&leave.hint);
        let held = held.cloned();
        let wish = moved.then(|| Wish {
            id: moved_id(&leave.hint, held.as_ref(), claim),
            volume: leave.volume,
            verb: WishVerb::Add,
            subject: *leave.hint.node.as_bytes(),
            object: [0; 16],
        });
        let left = self.wishes.leave_hint(leave, held.as_ref());
        let left =
            left.and_then(|()| wish.map_or(Ok(()), |wish| self.wishes.leave(self.now, wish)));
        self.done(stream, left);
    }

    pub(crate) fn on_ask_hints(&mut self, stream: StreamKey, ask: AskHints) {
        let hints = self.wishes.hints(ask.volume);
        self.answer(stream, Message::Hints(Hints { hints }));
    }

    /// The address that this node tells its peers, where the manifest names its host with another port (R25).
    pub(crate) fn moved_hint(&self, manifest: &Manifest) -> Option<LeaveHint> {
        let address = self.address?;
        let held = manifest.hints.iter().find(|hint| hint.node == self.node)?;
        let before: SocketAddr = held.address.parse().ok()?;
        let moved = before.ip() == address.ip() && before.port() != address.port();
        moved.then(|| LeaveHint {
            volume: manifest.volume,
            hint: NodeHint {
                address: address.to_string(),
                ..held.clone()
            },
        })
    }
}

fn is_same_host(one: &NodeHint, other: &NodeHint) -> bool {
    let host = |hint: &NodeHint| hint.address.parse().ok().map(|at: SocketAddr| at.ip());
    one.az == other.az && host(one).is_some() && host(one) == host(other)
}

/// The id of the wish that goes with a node's move: the same at every node that hears of it, so that it is done once.
fn moved_id(hint: &NodeHint, before: Option<&NodeHint>, claim: VolumeEpoch) -> [u8; 16] {
    let before = before.map_or("", |hint| hint.address.as_str());
    let news = [
        hint.node.as_bytes(),
        before.as_bytes(),
        &claim.get().to_le_bytes(),
    ]
    .concat();
    let mut id = *hint.node.as_bytes();
    let mixed = checksum(hint.address.as_bytes(), &news).to_le_bytes();
    for (byte, mixed) in id.iter_mut().zip(mixed) {
        *byte ^= mixed;
    }
    id
}
