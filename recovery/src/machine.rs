//! One reopening, from probe to open: a machine of `handle`, `poll_action`, `poll_timeout`.
//!
//! It speaks to nodes by id, in the messages of the wire; the shell finds connections. All PGs go in parallel, behind the
//! root (R10).
//!
//! ```text
//!            +--------------- race lost: pause, then ask again -----------------+
//!            v                                                                  |
//! Probe --> Fence --> Truncate (install on a write quorum) --> Refill --> Lease --> open
//!   ^                                                            |
//!   +------------- a record's only holder is gone (R9) ----------+
//! ```
//!
//! The caller's duties, in order: take actions until there is none; send each request on a stream of its own, and report
//! each answer, or that none can come, under the request's key; call with [`RecoveryEvent::Timeout`] when
//! [`Recovery::poll_timeout`] has come. It may drop a recovery at any time: what it claimed or installed by then is inert
//! until the next one takes it up.

mod draw;
mod fence;
pub mod follow;
mod loss;
mod pieces;
mod probe;
mod refill;
mod requests;
mod settle;
pub mod survey;
mod types;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use sixfold_log_format::limits::READ_LEASE_MS;
use sixfold_log_format::wire::{Message, Probe, Refusal};
use sixfold_log_format::{Manifest, PgEntry, PgId, SegmentId, VolumeEpoch, WriterId};

use crate::membership::deciding;
use crate::quorum::{is_write_quorum, write_count};
use draw::Draw;
use fence::{FenceStep, FenceVerdict, Piece};
use loss::Loss;
use probe::{Past, ProbeStep, ProbeVerdict, Terms};
use requests::{Ask, Requests};
use settle::{SettleStep, SettleVerdict};

pub use types::{
    Caller, Opened, Phase, RecoveryAction, RecoveryError, RecoveryEvent, RecoveryOptions,
    RequestKey,
};

/// What a reopening is doing.
#[derive(Debug)]
enum Step {
    Probe(ProbeStep),
    /// A race was lost; the rival gets some time.
    Pause {
        until: Duration,
    },
    Fence(FenceStep),
    Settle(Box<SettleStep>),
    Over,
}

/// One reopening.
#[derive(Debug)]
pub struct Recovery {
    options: RecoveryOptions,
    deadline_at: Duration,
    draw: Draw,
    step: Step,
    requests: Requests,
    actions: VecDeque<RecoveryAction>,
    /// The id of the attempt that comes next.
    writer: WriterId,
    /// The newest manifest found, to ask the right nodes in later attempts.
    manifest: Option<Manifest>,
    highest_volume_epoch: VolumeEpoch,
    past: Past,
    lost_count: u32,
    restart_count: u32,
    /// Until when a lease that any segment told of may run.
    lease_until: Duration,
    refilled_batches: u64,
    /// The clock of the last call: a timeout in the past is none.
    now: Duration,
}

impl Recovery {
    /// Starts. `now` is the time since an arbitrary start of the clock that every later call uses.
    pub fn new(options: RecoveryOptions, now: Duration) -> Recovery {
        let mut recovery = Recovery {
            deadline_at: now + options.deadline,
            draw: Draw::new(options.seed, options.writer),
            step: Step::Over,
            requests: Requests::default(),
            actions: VecDeque::new(),
            writer: options.writer,
            manifest: None,
            highest_volume_epoch: VolumeEpoch::CREATION,
            past: Past::of(&options.caller),
            lost_count: 0,
            restart_count: 0,
            lease_until: now,
            refilled_batches: 0,
            now,
            options,
        };
        recovery.probe();
        recovery.drive(now);
        recovery
    }

    /// Takes an event. Late and double answers are ignored.
    pub fn handle(&mut self, now: Duration, event: RecoveryEvent) {
        match event {
            RecoveryEvent::Answer { request, message } => {
                if let Some(ask) = self.requests.ask_of(request) {
                    self.answered(now, request, ask, message);
                }
            }
            RecoveryEvent::Unreachable { request } => {
                if let Some(ask) = self.requests.ask_of(request) {
                    self.failed(now, ask);
                }
            }
            RecoveryEvent::Timeout => {}
        }
        self.drive(now);
    }

    /// The next action, until there is none.
    pub fn poll_action(&mut self) -> Option<RecoveryAction> {
        self.actions.pop_front()
    }

    /// When [`RecoveryEvent::Timeout`] is due next, if ever.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let own = match &self.step {
            Step::Over => return None,
            Step::Probe(step) => step.next_timeout(self.now, &self.options.caller),
            Step::Pause { until } => Some(*until),
            Step::Fence(step) => step.next_timeout(),
            Step::Settle(step) => step.next_timeout(self.now, self.lease_until),
        };
        let only_lease = matches!(&self.step, Step::Settle(step) if step.is_waiting_for_lease());
        let deadline = (!only_lease).then_some(self.deadline_at);
        [own, deadline, self.requests.next_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Epochs whose fence this machine completed: it alone may have left histories of them, be it that it failed later.
    pub fn attempts(&self) -> &BTreeSet<VolumeEpoch> {
        &self.past.fenced
    }

    fn answered(&mut self, now: Duration, key: RequestKey, ask: Ask, message: Message) {
        match (&mut self.step, ask, message) {
            (Step::Probe(step), Ask::Probe(node), Message::ProbeAnswer(answer)) => {
                self.requests.finish(ask);
                step.answered(now, node, answer);
            }
            (Step::Fence(step), Ask::Claim(segment), Message::Census(piece)) => {
                match step.census(key, segment, *piece) {
                    Piece::More => self.requests.touch(ask, now),
                    Piece::Whole { lease_left } => {
                        self.requests.finish(ask);
                        self.lease_until = self
                            .lease_until
                            .max(now + bounded_lease(lease_left, self.options.lease));
                    }
                    Piece::Nonsense => self.requests.rest(ask, now),
                }
            }
            (Step::Settle(step), Ask::Install(segment), Message::Installed(answer)) => {
                if step.installed(now, segment, answer) {
                    self.requests.finish(ask);
                } else {
                    self.requests.rest(ask, now);
                }
            }
            (Step::Settle(step), Ask::ReadLog(target), Message::LogPiece(piece)) => {
                // Whatever more the source sends under this key is late: the next read asks for it.
                self.requests.finish(ask);
                step.refill().piece(target, &piece);
            }
            (Step::Settle(step), Ask::Refill(target), Message::Installed(answer)) => {
                self.requests.finish(ask);
                step.filled(now, target, answer);
            }
            (_, _, Message::Refused(refusal)) => self.refused(now, ask, &refusal),
            _ => self.failed(now, ask),
        }
    }

    /// No answer, or none that helps.
    fn failed(&mut self, now: Duration, ask: Ask) {
        match (&mut self.step, ask) {
            (Step::Settle(step), Ask::ReadLog(target)) => {
                self.requests.finish(ask);
                step.refill().source_failed(target);
            }
            (Step::Settle(step), Ask::Refill(target)) => {
                self.requests.finish(ask);
                step.refill().target_failed(now, target);
            }
            _ => self.requests.rest(ask, now),
        }
    }

    fn refused(&mut self, now: Duration, ask: Ask, refusal: &Refusal) {
        let Refusal::StaleEpoch { volume_epoch } = *refusal else {
            return self.failed(now, ask);
        };
        match (&mut self.step, ask) {
            (Step::Fence(step), Ask::Claim(segment)) if volume_epoch >= step.volume_epoch => {
                self.requests.finish(ask);
                step.refused(segment, volume_epoch);
            }
            (Step::Settle(step), Ask::Install(segment) | Ask::Refill(segment))
                if volume_epoch >= step.volume_epoch() =>
            {
                self.requests.finish(ask);
                step.refused(segment, volume_epoch);
                step.refill().target_failed(now, segment);
            }
            _ => self.failed(now, ask),
        }
    }

    /// Draws the conclusions of what is known, and sends what is due.
    fn drive(&mut self, now: Duration) {
        self.now = now;
        for ask in self.requests.expire(now) {
            if matches!(ask, Ask::ReadLog(_) | Ask::Refill(_)) {
                self.failed(now, ask);
            }
        }
        while self.advance(now) {}
        if now >= self.deadline_at {
            self.give_up();
        }
        self.want();
        self.send(now);
    }

    /// One step forward; false when there is nothing to conclude now.
    fn advance(&mut self, now: Duration) -> bool {
        let terms = Terms {
            in_use: (!self.options.take_over).then_some(self.options.in_use),
            caller: &self.options.caller,
            past: &self.past,
        };
        match &mut self.step {
            Step::Over => false,
            Step::Pause { until } => {
                let over = *until <= now;
                if over {
                    self.probe();
                }
                over
            }
            Step::Probe(step) => match step.verdict(now, &terms) {
                ProbeVerdict::Wait => false,
                ProbeVerdict::Ready {
                    manifest,
                    highest_volume_epoch,
                } => self.fence(*manifest, highest_volume_epoch),
                ProbeVerdict::Failed(error) => self.finish(Err(error)),
            },
            // Somebody opened since the probe: before anything is installed, and as few claims as can be.
            Step::Fence(step) if let Some(rival) = terms.successor(step.histories()) => self
                .finish(Err(RecoveryError::Fenced {
                    volume_epoch: rival,
                })),
            Step::Fence(step) => match step.verdict(now) {
                FenceVerdict::Wait => false,
                FenceVerdict::Fenced => self.settle(now),
                FenceVerdict::Lost { volume_epoch } => self.lost(now, volume_epoch),
            },
            Step::Settle(step) => match step.verdict(now, self.lease_until) {
                SettleVerdict::Wait => false,
                SettleVerdict::Entered(phase) => {
                    self.actions.push_back(RecoveryAction::Phase(phase));
                    true
                }
                SettleVerdict::Open => self.open(now),
                SettleVerdict::HolderLost => {
                    self.restart_count += 1;
                    self.leave_attempt();
                    self.probe();
                    true
                }
                SettleVerdict::Lost { volume_epoch } => self.lost(now, volume_epoch),
            },
        }
    }

    fn loss(&self) -> Loss {
        Loss::new(self.options.declare_lost.clone())
    }

    fn probe(&mut self) {
        self.requests.clear();
        self.step = Step::Probe(ProbeStep::new(
            self.options.volume,
            &self.options.nodes,
            self.manifest.as_ref(),
            self.loss(),
        ));
        self.actions.push_back(RecoveryAction::Phase(Phase::Probe));
    }

    fn fence(&mut self, manifest: Manifest, highest_volume_epoch: VolumeEpoch) -> bool {
        self.requests.clear();
        self.highest_volume_epoch = self.highest_volume_epoch.max(highest_volume_epoch);
        let volume_epoch = self.highest_volume_epoch.next();
        self.highest_volume_epoch = volume_epoch;
        self.past.claimed = Some(volume_epoch);
        let next_writer = self.draw.writer();
        let writer = std::mem::replace(&mut self.writer, next_writer);
        self.manifest = Some(manifest.clone());
        self.step = Step::Fence(FenceStep::new(volume_epoch, writer, manifest, self.loss()));
        self.actions.push_back(RecoveryAction::Phase(Phase::Fence));
        true
    }

    fn settle(&mut self, now: Duration) -> bool {
        let Step::Fence(step) = std::mem::replace(&mut self.step, Step::Over) else {
            return false;
        };
        self.requests.clear();
        let (volume_epoch, writer) = (step.volume_epoch, step.writer);
        self.past.fenced.insert(volume_epoch);
        let manifest = step.manifest().clone();
        self.manifest = Some(manifest.clone());
        match SettleStep::new(
            now,
            volume_epoch,
            writer,
            &step.into_answers(),
            manifest,
            (self.restart_count, self.loss()),
        ) {
            Ok(step) => {
                self.step = Step::Settle(Box::new(step));
                self.actions
                    .push_back(RecoveryAction::Phase(Phase::Truncate));
                true
            }
            Err(error) => self.finish(Err(error)),
        }
    }

    /// Somebody claims higher. Stand back for a while, then look who it is.
    fn lost(&mut self, now: Duration, volume_epoch: VolumeEpoch) -> bool {
        self.leave_attempt();
        self.highest_volume_epoch = self.highest_volume_epoch.max(volume_epoch);
        self.step = Step::Pause {
            until: now + self.draw.pause(self.lost_count),
        };
        self.lost_count += 1;
        true
    }

    fn leave_attempt(&mut self) {
        self.requests.clear();
        if let Step::Settle(step) = &self.step {
            self.refilled_batches += step.refilled_batches();
            self.manifest = Some(step.manifest().clone());
        }
    }

    fn open(&mut self, now: Duration) -> bool {
        self.leave_attempt();
        let Step::Settle(step) = std::mem::replace(&mut self.step, Step::Over) else {
            return false;
        };
        let opened = step.into_opened(now, self.refilled_batches);
        self.finish(Ok(opened))
    }

    fn give_up(&mut self) {
        let fenced = (self.lost_count > 0).then_some(RecoveryError::Fenced {
            volume_epoch: self.highest_volume_epoch,
        });
        let error = match &self.step {
            Step::Over => return,
            Step::Settle(step) if step.is_waiting_for_lease() => return,
            Step::Probe(step) => Some(step.shortfall()),
            Step::Pause { .. } => fenced,
            Step::Fence(step) => step.shortfall(),
            Step::Settle(step) => step.shortfall(),
        };
        let nothing = RecoveryError::Unavailable {
            pg: PgId::ROOT,
            answered: 0,
            needed: 0,
        };
        self.finish(Err(error.unwrap_or(nothing)));
    }

    fn finish(&mut self, result: Result<Opened, RecoveryError>) -> bool {
        self.requests.clear();
        self.step = Step::Over;
        self.actions
            .push_back(RecoveryAction::Done(Box::new(result)));
        true
    }

    fn want(&mut self) {
        match &self.step {
            Step::Over | Step::Pause { .. } => {}
            Step::Probe(step) => step
                .wanted()
                .for_each(|node| self.requests.want(Ask::Probe(node))),
            Step::Fence(step) => {
                step.wanted()
                    .into_iter()
                    .for_each(|segment| self.requests.want(Ask::Claim(segment)));
            }
            Step::Settle(step) => step
                .wanted()
                .into_iter()
                .for_each(|ask| self.requests.want(ask)),
        }
    }

    fn send(&mut self, now: Duration) {
        for ask in self.requests.due(now) {
            let request = match (&self.step, ask) {
                (Step::Probe(_), Ask::Probe(node)) => Some((
                    node,
                    Message::Probe(Probe {
                        volume: self.options.volume,
                    }),
                )),
                (Step::Fence(step), Ask::Claim(segment)) => step
                    .request(segment)
                    .map(|(node, claim)| (node, Message::Claim(claim))),
                (Step::Settle(step), ask) => step.request(ask),
                _ => None,
            };
            let Some((node, message)) = request else {
                self.requests.finish(ask);
                continue;
            };
            let request = self.requests.sent(ask, now);
            self.actions.push_back(RecoveryAction::Send {
                request,
                node,
                message,
            });
        }
    }
}

/// How long to wait for a lease that a segment says still runs: a little longer, since the old writer's clock may run
/// slower than ours, but not for ever on one node's word.
fn bounded_lease(left: Duration, length: Duration) -> Duration {
    let length_max = 4 * length.max(Duration::from_millis(READ_LEASE_MS));
    let left = left.min(length_max);
    left + left / 20
}

/// The first PG without a write quorum of segments that `holds`, as an error; `None` when every PG has one.
fn shortfall(
    manifest: &Manifest,
    holds: &dyn Fn(PgId, SegmentId) -> bool,
) -> Option<RecoveryError> {
    let of_entry = |entry: &PgEntry| {
        let short = deciding(entry);
        let short = short
            .sets
            .iter()
            .find(|set| !is_write_quorum(set, &|segment| holds(entry.pg, segment)))?;
        let answered = short
            .members
            .iter()
            .filter(|member| holds(entry.pg, member.segment))
            .count();
        Some(RecoveryError::Unavailable {
            pg: entry.pg,
            answered,
            needed: write_count(short.model),
        })
    };
    manifest.pgs.iter().find_map(of_entry)
}
