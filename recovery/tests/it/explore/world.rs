//! Segments, actors, and the messages between them, in the order that the choices of a run give.

use std::collections::VecDeque;
use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::Message;
use sixfold_log_format::{History, Lsn, Manifest, QuorumModel, SegmentId, VolumeEpoch};
use sixfold_recovery::machine::{
    Recovery, RecoveryAction, RecoveryEvent, RecoveryOptions, RequestKey,
};

use super::judge::Oracle;
use super::writer::{Send, Task, Writer};
use super::{Chooser, Weak};
use crate::cluster::FakeSegment;
use crate::common::{entry, manifest_of, ms, node, segment, set, six, with_fleet};
use crate::model_world::merged;

/// Segments 0..6 are group 0, 6..12 group 1, the rest spare. Segment `n` is on node `n`; it is reached when its host is.
pub const SEGMENTS: u8 = 18;

/// The machine of a node, in the mask of whom an actor reaches: each of the first six hosts a segment of two groups.
fn host(number: usize) -> usize {
    if number < 12 { number % 6 } else { number - 6 }
}

/// How far the choices of a scenario go.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Groups at the start.
    pub groups: u8,
    /// Messages that may be late.
    pub late: usize,
    /// Actors that may die.
    pub deaths: usize,
}

#[derive(Debug, Clone)]
enum Item {
    Request { key: RequestKey, message: Message },
    Answer { key: RequestKey, message: Message },
    Unreachable { key: RequestKey },
    Sent(Send),
    Ack { scl: Lsn },
    Accepted { manifest: Box<Manifest>, scl: Lsn },
    Created,
}

#[derive(Debug, Clone)]
struct Flight {
    actor: usize,
    with: usize,
    item: Item,
}

#[derive(Debug)]
enum Role {
    Candidate(Box<Recovery>),
    Writer(Box<Writer>),
    Failed,
    Dead,
}

/// Somebody who reopens the volume, and then does its tasks.
#[derive(Debug)]
pub struct Actor {
    role: Role,
    reach: u32,
    tasks: Vec<Task>,
    /// Claims, installs and refills of this actor are where it may die.
    mortal: bool,
}

impl Actor {
    /// The epoch that it writes under.
    pub fn opened_epoch(&self) -> Option<VolumeEpoch> {
        match &self.role {
            Role::Writer(writer) => Some(writer.epoch),
            _ => None,
        }
    }
}

pub struct World {
    pub segments: Vec<FakeSegment>,
    pub actors: Vec<Actor>,
    pub oracle: Oracle,
    pub chooser: Chooser,
    pub died: usize,
    pub came_late: usize,
    now: Duration,
    queue: VecDeque<Flight>,
    late: VecDeque<Flight>,
    late_left: usize,
    deaths_left: usize,
    weak: Option<Weak>,
}

type Outcome = Result<(), String>;

impl World {
    pub fn new(bounds: Bounds, chooser: Chooser, weak: Option<Weak>) -> World {
        let mut pgs = vec![entry(0, vec![six()])];
        if bounds.groups > 1 {
            let second = set(QuorumModel::FourOfSix, &[6, 7, 8, 9, 10, 11]);
            pgs.push(entry(1, vec![second]));
        }
        let manifest = with_fleet(manifest_of(pgs));
        let segments = (0..SEGMENTS).map(|number| {
            let mut made = FakeSegment::new(number, manifest.clone());
            made.exists = number < 6 * bounds.groups;
            made
        });
        World {
            segments: segments.collect(),
            actors: Vec::new(),
            oracle: Oracle::default(),
            chooser,
            died: 0,
            came_late: 0,
            now: ms(1_000),
            queue: VecDeque::new(),
            late: VecDeque::new(),
            late_left: bounds.late,
            deaths_left: bounds.deaths,
            weak,
        }
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.chooser.choose(of.len())]
    }

    /// An actor starts to reopen. It dies nowhere.
    pub fn start(&mut self, options: RecoveryOptions, reach: u32, tasks: &[Task]) -> usize {
        let options = RecoveryOptions {
            nodes: (0..SEGMENTS).map(node).collect(),
            deadline: ms(4_000),
            ..options
        };
        self.actors.push(Actor {
            role: Role::Candidate(Box::new(Recovery::new(options, self.now))),
            reach,
            tasks: tasks.to_vec(),
            mortal: false,
        });
        self.actors.len() - 1
    }

    /// An actor starts that may die at any of its messages.
    pub fn start_mortal(&mut self, options: RecoveryOptions, reach: u32, tasks: &[Task]) -> usize {
        let who = self.start(options, reach, tasks);
        self.actors[who].mortal = true;
        who
    }

    /// A writer that has opened is given more to do; from now on it reaches only these.
    pub fn give(&mut self, who: usize, reach: u32, tasks: &[Task]) -> Outcome {
        let actor = &mut self.actors[who];
        actor.reach = reach;
        let Role::Writer(writer) = &mut actor.role else {
            return Err(format!("it did not open: {actor:?}"));
        };
        writer.give(tasks);
        writer.drive(&mut self.oracle)
    }

    /// From now on this one may die at any message, or not.
    pub fn set_mortal(&mut self, who: usize, mortal: bool) {
        self.actors[who].mortal = mortal;
    }

    /// Whoever reaches a write quorum of every group opens, unless it died: nothing that a dead writer left may block it.
    pub fn opens(&self, who: usize) -> Outcome {
        match self.actors[who].role {
            Role::Failed => Err(format!("actor {who} cannot open")),
            _ => Ok(()),
        }
    }

    /// Dies now, whatever the bounds say.
    pub fn kill(&mut self, who: usize) {
        self.actors[who].role = Role::Dead;
        self.queue.retain(|flight| flight.actor != who);
    }

    /// From here on a writer answers no more calls, but takes what comes in late.
    pub fn run(&mut self) -> Outcome {
        for _ in 0..20_000 {
            for who in 0..self.actors.len() {
                self.collect(who)?;
            }
            if !self.step()? {
                return Ok(());
            }
        }
        Err("it does not end".to_owned())
    }

    fn step(&mut self) -> Result<bool, String> {
        let Some(flight) = self.queue.pop_front() else {
            return Ok(self.wait());
        };
        if !matches!(self.actors[flight.actor].role, Role::Dead) && self.is_a_choice(&flight) {
            let may_die = usize::from(self.deaths_left > 0 && self.may_die_at(&flight));
            let may_wait = usize::from(self.late_left > 0);
            let may_come = usize::from(!self.late.is_empty());
            let chosen = self.chooser.choose(1 + may_die + may_wait + may_come);
            if chosen == 0 {
            } else if chosen <= may_die {
                self.deaths_left -= 1;
                self.died += 1;
                self.kill(flight.actor);
                return Ok(true);
            } else if chosen <= may_die + may_wait {
                self.late_left -= 1;
                self.late.push_back(flight);
                return Ok(true);
            } else {
                self.queue.push_front(flight);
                let late = self.late.pop_front().expect("it is not empty");
                self.came_late += 1;
                self.deliver(&late)?;
                return Ok(true);
            }
        }
        self.deliver(&flight)?;
        Ok(true)
    }

    /// Whether it matters when this arrives.
    fn is_a_choice(&self, flight: &Flight) -> bool {
        match &flight.item {
            Item::Request { message, .. } => {
                let matters = matches!(
                    message,
                    Message::Claim(_) | Message::Install(_) | Message::Refill(_)
                );
                matters && self.reaches(flight)
            }
            Item::Sent(_) => self.reaches(flight),
            Item::Ack { .. } | Item::Accepted { .. } => self.late_left > 0,
            _ => false,
        }
    }

    fn may_die_at(&self, flight: &Flight) -> bool {
        let actor = &self.actors[flight.actor];
        actor.mortal && matches!(flight.item, Item::Request { .. } | Item::Sent(_))
    }

    fn reaches(&self, flight: &Flight) -> bool {
        self.actors[flight.actor].reach & (1 << host(flight.with)) != 0
    }

    /// Nothing is under way: the clock goes to the next timer of a candidate. False when there is none.
    fn wait(&mut self) -> bool {
        let timers = self
            .actors
            .iter()
            .enumerate()
            .filter_map(|(who, actor)| match &actor.role {
                Role::Candidate(machine) => Some((machine.poll_timeout()?, who)),
                _ => None,
            });
        let Some((due, who)) = timers.min() else {
            return false;
        };
        self.now = self.now.max(due);
        self.tell(who, RecoveryEvent::Timeout);
        true
    }

    /// Everything that is late arrives now.
    pub fn deliver_late(&mut self) -> Outcome {
        self.late_left = 0;
        self.deaths_left = 0;
        while let Some(flight) = self.late.pop_front() {
            self.came_late += 1;
            self.deliver(&flight)?;
            self.run()?;
        }
        Ok(())
    }

    fn tell(&mut self, who: usize, event: RecoveryEvent) {
        if let Role::Candidate(machine) = &mut self.actors[who].role {
            machine.handle(self.now, event);
        }
    }

    /// Sends what an actor wants to send.
    fn collect(&mut self, who: usize) -> Outcome {
        let mut done = None;
        if let Role::Candidate(machine) = &mut self.actors[who].role {
            while let Some(action) = machine.poll_action() {
                match action {
                    RecoveryAction::Send {
                        request: key,
                        node: to,
                        message,
                    } => {
                        let with = usize::from(to.as_bytes()[0] - 101);
                        if let Message::Install(install) = &message {
                            self.oracle.fenced(&install.history)?;
                            self.oracle.said(&install.manifest)?;
                        }
                        let item = Item::Request { key, message };
                        self.queue.push_back(Flight {
                            actor: who,
                            with,
                            item,
                        });
                    }
                    RecoveryAction::Phase(_) => {}
                    RecoveryAction::Done(result) => done = Some(*result),
                }
            }
        }
        match done {
            None => {}
            Some(Err(_)) => self.actors[who].role = Role::Failed,
            Some(Ok(opened)) => {
                self.oracle.has_opened(&opened, &self.segments)?;
                let mut writer = Writer::new(&opened, &self.actors[who].tasks, self.weak);
                writer.drive(&mut self.oracle)?;
                self.actors[who].role = Role::Writer(Box::new(writer));
            }
        }
        if let Role::Writer(writer) = &mut self.actors[who].role {
            for (id, send) in writer.take_outbox() {
                if let Send::Create { manifest, .. } | Send::Offer(manifest) = &send {
                    self.oracle.said(manifest)?;
                }
                let with = usize::from(id.as_bytes()[0] - 1);
                let item = Item::Sent(send);
                self.queue.push_back(Flight {
                    actor: who,
                    with,
                    item,
                });
            }
        }
        Ok(())
    }

    fn answer(&mut self, to: &Flight, item: Item) {
        let (actor, with) = (to.actor, to.with);
        self.queue.push_back(Flight { actor, with, item });
    }

    fn deliver(&mut self, flight: &Flight) -> Outcome {
        let reached = self.reaches(flight);
        match &flight.item {
            Item::Request { key, .. } if !reached => {
                self.answer(flight, Item::Unreachable { key: *key })
            }
            Item::Request { key, message } => {
                for message in self.request(flight.with, message) {
                    self.answer(flight, Item::Answer { key: *key, message });
                }
            }
            Item::Answer { key, message } => {
                let (request, message) = (*key, message.clone());
                self.tell(flight.actor, RecoveryEvent::Answer { request, message });
            }
            Item::Unreachable { key } => {
                self.tell(flight.actor, RecoveryEvent::Unreachable { request: *key })
            }
            Item::Sent(_) if !reached => {}
            Item::Sent(send) => {
                if let Some(item) = self.sent(flight.actor, flight.with, send) {
                    self.answer(flight, item);
                }
            }
            item => {
                let id = segment(flight.with as u8);
                let Role::Writer(writer) = &mut self.actors[flight.actor].role else {
                    return Ok(());
                };
                match item {
                    Item::Ack { scl } => writer.acked(id, *scl, &mut self.oracle)?,
                    Item::Accepted { manifest, scl } => {
                        writer.accepted(id, manifest, *scl, &mut self.oracle)?
                    }
                    _ => writer.created(id, &mut self.oracle)?,
                }
            }
        }
        Ok(())
    }

    fn request(&mut self, with: usize, message: &Message) -> Vec<Message> {
        let before = self.segments[with].history.clone();
        let answers = self.segments[with].handle(message);
        self.merge_if_planted(with, &before);
        answers
    }

    /// R1: what no segment may do with a history that it takes.
    fn merge_if_planted(&mut self, with: usize, before: &History) {
        let held = &mut self.segments[with];
        if planted(Mutant::HistoryMerged) && held.history != *before {
            held.history = merged(before, &held.history);
        }
    }

    pub fn gossip(&mut self, to: usize, peer: &FakeSegment) {
        let before = self.segments[to].history.clone();
        self.segments[to].gossip(peer);
        self.merge_if_planted(to, &before);
    }

    /// What a segment makes of a writer's message. The writer's epoch, history and manifest come with each (R3); the sender may
    /// have died since.
    fn sent(&mut self, who: usize, with: usize, send: &Send) -> Option<Item> {
        if let Send::Create { pg, manifest } = send {
            let held = &mut self.segments[with];
            if !held.exists {
                (held.exists, held.pg, held.manifest) = (true, *pg, manifest.clone());
            }
            return (held.pg == *pg).then_some(Item::Created);
        }
        let Role::Writer(writer) = &self.actors[who].role else {
            return None;
        };
        if !self.segments[with].exists {
            return None;
        }
        let before = self.segments[with].history.clone();
        let manifest = match send {
            Send::Offer(manifest) => manifest,
            _ => &writer.manifest,
        };
        let held = &mut self.segments[with];
        let news = held.guard.install(writer.epoch, writer.id).ok()?;
        if news {
            held.take(&writer.history, manifest);
        } else if manifest.version > held.manifest.version {
            held.manifest = manifest.clone();
        }
        // The writer has opened: the end of its range is a VDL that was seen.
        held.floor = held.floor.max(writer.base);
        let item = match send {
            Send::Append(batch) => {
                held.put(batch);
                None
            }
            Send::Offer(manifest) => Some(Box::new(manifest.clone())),
            _ => None,
        };
        self.merge_if_planted(with, &before);
        if let Send::CatchUp(source) = send {
            let peer = self.segments[number_of(*source)].clone();
            self.gossip(with, &peer);
        }
        let scl = self.segments[with].scl();
        Some(match item {
            Some(manifest) => Item::Accepted { manifest, scl },
            None => Item::Ack { scl },
        })
    }
}

fn number_of(id: SegmentId) -> usize {
    usize::from(id.as_bytes()[0] - 1)
}
