//! Standbys: processes that watch the writer and take its place when it is gone. What they believe is compared with what the root's segments
//! have really heard.

use std::collections::BTreeMap;
use std::time::Duration;

use sixfold_log_format::limits::READ_LEASE_MS;
use sixfold_log_format::wire::Message;
use sixfold_log_format::{PgId, SegmentId, VolumeEpoch};
use sixfold_recovery::machine::follow::{Follow, FollowAction, FollowOptions};
use sixfold_recovery::machine::{Caller, RecoveryEvent};

use super::faults::cut_pairs;
use super::net::{Kind, Party};
use super::writer::Start;
use super::{Event, NODE_COUNT, WRITER_HOSTS, World};
use crate::clock::{LocalClock, MS, Time};
use crate::oracle::write_quorum;
use crate::plan::{members, node_name};
use crate::reached::Reached;

/// What a segment says of a silence may be believed for so long.
const BELIEVED: Time = 500 * MS;
/// Clocks that run apart, by one percent of what is believed, and milliseconds that are rounded up.
const SLACK: Time = 6 * MS;
/// What a takeover may need beyond patience and lease, when nothing else is wrong: what was sent last arrives late, a round of questions, the
/// reopening, packets that are lost in it.
const TAKEOVER: Time = 600 * MS;
/// And when two race for it.
const RACE: Time = 900 * MS;
/// Silences that no standby has the patience to call one.
const LOUD: Time = 150 * MS;

/// A process that stands by.
#[derive(Debug)]
pub(crate) struct Standby {
    pub(crate) host: usize,
    clock: LocalClock,
    patience: Time,
    /// `None` when it is the writer, or gone.
    follow: Option<Follow>,
    /// The opening that it tries.
    writer: Option<usize>,
    armed: Option<Time>,
}

/// What the root's segments hear of the newest writer.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    heard: BTreeMap<SegmentId, Heard>,
    /// The nodes that are silenced one after the other, and where that is.
    roll: Option<Roll>,
    number: u64,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    node: usize,
    last: Time,
    /// Silences, by their length and end, the last few.
    silences: [(Time, Time); 8],
}

#[derive(Debug)]
struct Roll {
    left: Vec<usize>,
    now: Option<usize>,
    cut: Vec<(usize, usize)>,
    unseen: Vec<(usize, usize)>,
    /// Each has said so once, and hears the writer.
    all_said: bool,
}

impl Hearing {
    pub(super) fn forget_all(&mut self) {
        self.roll = None;
        self.number += 1;
    }

    /// What a process heard is forgotten with it.
    pub(super) fn node_started(&mut self, node: usize) {
        self.heard.retain(|_, heard| heard.node != node);
    }

    /// Whether a segment may have said, not long ago, that it had heard nothing for so long.
    fn may_be_silent(&self, segment: SegmentId, patience: Time, now: Time) -> bool {
        let least = (patience / 100 * 99).saturating_sub(SLACK);
        let Some(heard) = self.heard.get(&segment) else {
            return true;
        };
        let since = now.saturating_sub(BELIEVED + SLACK);
        let was = |&(length, end): &(Time, Time)| length >= least && end >= since;
        now - heard.last >= least || heard.silences.iter().any(was)
    }
}

impl World {
    pub(super) fn start_standby(&mut self, host: usize, patience: Time) {
        if self.finish.is_healed() {
            return;
        }
        let clock = self.draw_clock();
        let options = FollowOptions {
            volume: self.manifest.volume,
            nodes: self.nodes.iter().map(|node| node.id).collect(),
            patience: Duration::from_nanos(patience),
            poll: Duration::from_millis(self.rng.pick(&[20, 50])),
            hold_down: Duration::from_millis(self.rng.pick(&[50, 200])),
            hold_down_max: Duration::from_millis(800),
            seed: self.rng.draw(),
        };
        let follow = Follow::new(options, clock.at(self.now));
        self.standbys.push(Standby {
            host,
            clock,
            patience,
            follow: Some(follow),
            writer: None,
            armed: None,
        });
        let standby = self.standbys.len() - 1;
        self.tell(|| format!("S{standby} stands by on host {}", host - NODE_COUNT));
        self.pump_standby(standby);
    }

    /// Whether somebody will take over.
    pub(super) fn somebody_stands_by(&self) -> bool {
        self.standbys.iter().any(|standby| standby.follow.is_some())
    }

    pub(super) fn standby_event(&mut self, standby: usize, event: RecoveryEvent) {
        let state = &mut self.standbys[standby];
        let now = state.clock.at(self.now);
        if let Some(follow) = &mut state.follow {
            follow.handle(now, event);
            self.pump_standby(standby);
        }
    }

    pub(super) fn standby_timer(&mut self, standby: usize) {
        let state = &mut self.standbys[standby];
        if state.armed.is_none_or(|armed| armed > self.now) {
            return;
        }
        state.armed = None;
        let due = state.follow.as_ref().and_then(Follow::poll_timeout);
        if due.is_some_and(|due| due <= state.clock.at(self.now)) {
            self.standby_event(standby, RecoveryEvent::Timeout);
        } else {
            self.pump_standby(standby);
        }
    }

    fn pump_standby(&mut self, standby: usize) {
        while let Some(action) = self.standbys[standby]
            .follow
            .as_mut()
            .and_then(Follow::poll_action)
        {
            match action {
                FollowAction::Send {
                    request,
                    node,
                    message,
                } => {
                    let node = self.node_of(node);
                    let kind = Kind::Watch { request };
                    self.open_stream(Party::Standby(standby), node, kind, message);
                }
                FollowAction::Gone { silent } => self.calls_gone(standby, silent),
            }
        }
        let state = &mut self.standbys[standby];
        if let Some(due) = state.follow.as_ref().and_then(Follow::poll_timeout) {
            let at = state.clock.when(due).max(self.now + 1);
            if state.armed.is_none_or(|armed| at < armed) {
                state.armed = Some(at);
                self.queue.push(at, Event::StandbyTimer { standby });
            }
        }
    }

    /// A standby calls the writer gone: enough of the root's segments must have said so of just now.
    fn calls_gone(&mut self, standby: usize, silent: Duration) {
        let (host, patience) = (self.standbys[standby].host, self.standbys[standby].patience);
        self.tell(|| format!("S{standby} calls the writer gone, silent for {silent:?}"));
        let root = self.oracle.members.in_force().pg(PgId::ROOT);
        let sets = root.map_or(&[][..], |entry| &entry.sets);
        let now = self.now;
        let may = |segment| self.hearing.may_be_silent(segment, patience, now);
        for set in sets {
            let members = set.members.iter();
            let silent = members.filter(|member| may(member.segment)).count();
            let needed = set.members.len() + 1 - write_quorum(set.members.len());
            if silent < needed {
                return self.fail(format!(
                    "S{standby} calls the writer gone, and only {silent} segments of the root can have said so of the last half second"
                ));
            }
        }
        let seen = self.standbys[standby].follow.as_ref();
        let volume_epoch = seen.map_or(self.oracle.newest(), Follow::volume_epoch);
        let start = Start {
            take_over: false,
            in_use: Some(Duration::from_nanos(patience)),
            caller: Caller::Standby { volume_epoch },
        };
        self.standbys[standby].writer = Some(self.writers.len());
        self.start_writer_as(host, start);
    }

    /// An opening is over: a standby that failed watches on.
    pub(super) fn standby_failed(&mut self, writer: usize) {
        let of_writer = |state: &Standby| state.writer == Some(writer);
        let Some(standby) = self.standbys.iter().position(of_writer) else {
            return;
        };
        self.oracle.reached.hit(Reached::StandbyStoodBack);
        let state = &mut self.standbys[standby];
        state.writer = None;
        let now = state.clock.at(self.now);
        if let Some(follow) = &mut state.follow {
            follow.stand_back(now);
            self.tell(|| format!("S{standby} stands back"));
        }
        self.pump_standby(standby);
    }

    /// The writer ended: where nothing else is wrong, a standby has opened the volume soon after its patience and the lease.
    pub(super) fn expects_a_takeover(&mut self, writer: usize) {
        let volume_epoch = self.writers[writer].epoch;
        let is_newest = volume_epoch == self.oracle.newest();
        let following = self.standbys.iter().filter(|s| s.follow.is_some());
        let patience = following.clone().map(|standby| standby.patience).max();
        let (Some(patience), true) = (patience, is_newest && self.plan.shape.prompt) else {
            return;
        };
        // Of two the one that lost a race stands back, and so may the other.
        let race = if following.count() > 1 { RACE } else { 0 };
        let due = self.now + patience + READ_LEASE_MS * MS + TAKEOVER + race;
        self.queue.push(due, Event::TakeoverDue { volume_epoch });
    }

    /// By now it is open.
    pub(super) fn takeover_due(&mut self, volume_epoch: VolumeEpoch) {
        if self.finish.is_healed() {
            return;
        }
        if self.oracle.newest() == volume_epoch {
            return self.fail(format!(
                "liveness: no standby has taken over from the writer of epoch {volume_epoch} so long after patience and lease"
            ));
        }
        self.oracle.reached.hit(Reached::TakenOverInTime);
    }

    /// A standby has become the writer; another one takes its place.
    pub(super) fn standby_opened(&mut self, writer: usize) {
        let of_writer = |state: &Standby| state.writer == Some(writer);
        let Some(standby) = self.standbys.iter().position(of_writer) else {
            return;
        };
        self.oracle.reached.hit(Reached::StandbyTookOver);
        let state = &mut self.standbys[standby];
        state.follow = None;
        state.writer = None;
        let patience = state.patience;
        let host = NODE_COUNT + (state.host - NODE_COUNT + 1) % WRITER_HOSTS;
        self.client_gone(Party::Standby(standby));
        let event = Event::StandBy { host, patience };
        self.queue.push(self.now + 80 * MS, event);
    }

    /// A node says something on a log stream: from `Attached` on its segment hears what comes, until the node ends the stream.
    pub(super) fn hears_from_now_on(&mut self, stream: usize, message: &Message, end: bool) {
        if matches!(message, Message::Attached(_)) {
            self.streams[stream].is_heard = true;
            self.hears_the_writer(stream);
        }
        if end {
            self.streams[stream].is_heard = false;
        }
    }

    /// What a writer sent reaches the core of a segment's node: whatever becomes of it, this is the moment when it was heard.
    pub(super) fn hears_the_writer(&mut self, stream: usize) {
        let state = &self.streams[stream];
        if self.standbys.is_empty() || !state.is_heard {
            return;
        }
        let (Party::Writer(writer), Some(segment)) = (state.client, state.segment) else {
            return;
        };
        let (node, pg) = self.places[&segment];
        if pg != PgId::ROOT || self.writers[writer].epoch != self.oracle.newest() {
            return;
        }
        let now = self.now;
        let heard = self.hearing.heard.entry(segment).or_insert(Heard {
            node,
            last: now,
            // It was just started, or never heard anybody: it may have said so.
            silences: [(Time::MAX, now); 8],
        });
        let silence = now - heard.last;
        if silence > LOUD {
            heard.silences.rotate_right(1);
            heard.silences[0] = (silence, now);
        }
        heard.last = now;
    }

    /// Three nodes do not hear the writer, one after the other.
    pub(super) fn roll_silence(&mut self, nodes: u16) {
        if self.hearing.roll.is_some() || !self.somebody_stands_by() {
            return;
        }
        self.hearing.roll = Some(Roll {
            left: members(nodes).collect(),
            now: None,
            cut: Vec::new(),
            unseen: Vec::new(),
            all_said: false,
        });
        self.roll_on(self.hearing.number);
    }

    /// The one that was silenced is heard no more by the standby and hears the writer again; the next one is silenced.
    pub(super) fn roll_on(&mut self, number: u64) {
        if number != self.hearing.number || self.finish.is_healed() {
            return;
        }
        let standby = self.standbys.iter().position(|s| s.follow.is_some());
        let (Some(mut roll), Some(standby)) = (self.hearing.roll.take(), standby) else {
            return;
        };
        let (watcher, patience) = (self.standbys[standby].host, self.standbys[standby].patience);
        if let Some(node) = roll.now.take() {
            self.tell(|| format!("** S{standby} and {} lose each other", node_name(node)));
            let unseen = cut_pairs(watcher, 1 << node, 0);
            self.cut_now(&unseen);
            roll.unseen.extend(unseen);
        }
        self.mend_now(&roll.cut);
        roll.cut.clear();
        self.hearing.number += 1;
        let number = self.hearing.number;
        let writer = self.current_writer();
        let host = writer.map(|writer| self.writers[writer].host);
        let Some(host) = host.filter(|host| *host != watcher && !roll.all_said) else {
            return self.mend_now(&roll.unseen);
        };
        let mut wait = patience + 200 * MS;
        if let Some(node) = roll.left.pop() {
            self.tell(|| format!("** {} does not hear the writer", node_name(node)));
            roll.cut = cut_pairs(host, 1 << node, 0);
            self.cut_now(&roll.cut);
            roll.now = Some(node);
        } else {
            self.oracle.reached.hit(Reached::SilenceRolled);
            roll.all_said = true;
            wait = 300 * MS;
        }
        self.hearing.roll = Some(roll);
        self.queue.push(self.now + wait, Event::Roll { number });
    }
}
