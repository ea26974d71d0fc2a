//! Watches beside the writers: cursors that go on at the next writer, at their own pace, as users' watches do.

use bytes::Bytes;
use sixfold_compute_core::{
    FetchTicket, LogAnswer, LogError, LogWant, WatchError, WatchRange, WatchSeat, WatchStep,
    Watcher, WriterEvent,
};
use sixfold_log_format::{Lsn, PgId};

use super::{Event, World};
use crate::clock::US;
use crate::oracle::Watched;
use crate::reached::Reached;
use crate::rng::Rng;

use std::time::Duration;

/// How long a part of the log is waited for.
const LOG_DEADLINE: Duration = Duration::from_millis(1_500);
/// What is taken from a watch in one go.
const STEPS_MAX: usize = 8;

/// A watch, over all writers.
#[derive(Debug)]
pub(crate) struct Watch {
    rng: Rng,
    range: WatchRange,
    /// Where it goes on.
    resume: Lsn,
    seen: Watched,
    at: Option<Attached>,
    /// The writer that it was attached to last.
    last_writer: Option<usize>,
    /// It was too old, and began anew with the oldest that it was told of.
    anew_from: Option<Lsn>,
    /// Steps scheduled for an earlier life are void.
    step: u64,
}

/// A watch at its writer.
#[derive(Debug)]
struct Attached {
    writer: usize,
    watcher: Watcher,
    _seat: WatchSeat,
    /// Parts of the log that are under way.
    waiting: usize,
    /// It has been at the ring's end.
    was_live: bool,
    /// It has been told something here.
    was_told: bool,
}

/// A part of the log that a watch waits for.
#[derive(Debug)]
pub(crate) struct LogRead {
    watch: usize,
    step: u64,
    pg: PgId,
}

impl World {
    /// A writer has opened: watches go on there.
    pub(super) fn start_watches(&mut self, writer: usize) {
        while self.watches.len() < self.plan.shape.watches {
            let mut rng = Rng::new(self.rng.draw(), 9);
            let vdl = self.writers[writer].vdl_now();
            let from = match rng.below(3) {
                0 => Lsn::NONE,
                1 => vdl,
                _ => Lsn::new(rng.below(vdl.get() + 1)),
            };
            let range = draw_range(&mut rng, self.plan.shape.key_count);
            self.watches.push(Watch {
                rng,
                seen: Watched::new(range.clone(), from),
                range,
                resume: from,
                at: None,
                last_writer: None,
                anew_from: None,
                step: 0,
            });
        }
        if self.writers[writer].epoch < self.oracle.newest() {
            return;
        }
        for watch in 0..self.watches.len() {
            let state = &mut self.watches[watch];
            // The old writer may still be there: it knows nothing that the new one does not.
            if state.at.is_none() || state.rng.chance(1, 2) {
                self.attach_watch(watch, writer);
            }
        }
    }

    fn attach_watch(&mut self, watch: usize, writer: usize) {
        let Some(shared) = self.writers[writer].shared.clone() else {
            return;
        };
        let state = &mut self.watches[watch];
        state.at = None;
        state.step += 1;
        let seat = shared.watch().sit();
        let vdl = shared.vdl();
        let from = state.resume;
        let made = Watcher::new(shared.watch().clone(), state.range.clone(), from, vdl);
        self.tell(|| format!("watch {watch} goes on at W{writer} from {from}"));
        match made {
            Ok(watcher) => {
                self.watches[watch].at = Some(Attached {
                    writer,
                    watcher,
                    _seat: seat,
                    waiting: 0,
                    was_live: false,
                    was_told: false,
                });
                self.watch_later(watch, 2_000);
            }
            Err(error) => self.watch_over(watch, writer, &error),
        }
    }

    /// A watch cannot go on: only what is forgotten ends it.
    fn watch_over(&mut self, watch: usize, writer: usize, error: &WatchError) {
        self.tell(|| format!("watch {watch} at W{writer} is over: {error}"));
        let state = &mut self.watches[watch];
        state.at = None;
        state.step += 1;
        match error {
            WatchError::TooOld { oldest, .. } => self.begin_anew(watch, writer, *oldest),
            WatchError::AboveVdl { .. } | WatchError::Corrupt { .. } => {
                self.fail(format!("watch {watch} at W{writer} is over: {error}"));
            }
        }
    }

    /// It was too old: that must be true, and where it is told to begin it can begin.
    fn begin_anew(&mut self, watch: usize, writer: usize, oldest: Lsn) {
        self.oracle.reached.hit(Reached::WatchTooOld);
        let vdl = self.writers[writer].vdl_now();
        let mut forgotten_through = Lsn::NONE;
        let mut all_heard = true;
        for node in 0..self.nodes.len() {
            let runs = self.nodes[node].core.as_ref();
            let is_ready = runs.is_some_and(|core| core.is_ready());
            let status = is_ready.then(|| self.status_of(node)).flatten();
            all_heard &= status.is_some();
            let segments = status.map_or_else(Vec::new, |status| status.segments);
            let starts = segments.iter().map(|held| held.log_start);
            forgotten_through = forgotten_through.max(starts.max().unwrap_or(Lsn::NONE));
        }
        if all_heard && oldest > forgotten_through.next() && !self.oracle.is_point(oldest) {
            return self.fail(format!(
                "watch {watch} is told that nothing below {oldest} is left, nobody has forgotten more than {forgotten_through}"
            ));
        }
        let state = &mut self.watches[watch];
        if state.anew_from.is_some_and(|before| oldest <= before) || oldest <= state.resume {
            return self.fail(format!(
                "watch {watch} was told that it can begin with {oldest}, began there or behind, and is too old"
            ));
        }
        // It begins anew, with the next writer: with the oldest there is, or with what is new.
        let from_oldest = oldest <= vdl && state.rng.chance(1, 2);
        let from = if from_oldest { oldest } else { vdl };
        state.resume = from;
        state.seen = Watched::new(state.range.clone(), from);
        state.anew_from = from_oldest.then_some(oldest);
        state.last_writer = None;
    }

    fn watch_later(&mut self, watch: usize, within_us: u64) {
        let state = &mut self.watches[watch];
        let Some(at) = &state.at else {
            return;
        };
        state.step += 1;
        let event = Event::Watch {
            writer: at.writer,
            watch,
            step: state.step,
        };
        let wait = state.rng.below(within_us) * US;
        self.queue.push(self.now + 1 + wait, event);
    }

    pub(super) fn watch_step(&mut self, writer: usize, watch: usize, step: u64) {
        if self.watches[watch].step != step {
            return;
        }
        if self.watches[watch].rng.chance(1, 100) {
            // Its process goes on from what it kept.
            return self.attach_watch(watch, writer);
        }
        for _ in 0..STEPS_MAX {
            let vdl = self.writers[writer].vdl_now();
            let state = &mut self.watches[watch];
            let Some(at) = &mut state.at else {
                return;
            };
            let stepped = at.watcher.step(vdl);
            let resume = at.watcher.resume_lsn();
            match stepped {
                Ok(WatchStep::Commit(commit)) => {
                    let is_first = !std::mem::replace(&mut at.was_told, true);
                    let elsewhere = state.last_writer.is_some_and(|last| last != writer);
                    if is_first && elsewhere {
                        self.oracle.reached.hit(Reached::WatchResumed);
                    }
                    if is_first {
                        state.last_writer = Some(writer);
                    }
                    let verdict = self.oracle.watch_told(&mut state.seen, &commit, vdl);
                    self.check(verdict);
                }
                Ok(WatchStep::ReadLog(wants)) => {
                    if at.was_live {
                        self.oracle.reached.hit(Reached::WatchFellBack);
                    }
                    self.watch_stands(watch, resume);
                    return self.read_log(writer, watch, wants);
                }
                Ok(WatchStep::Again) => {}
                Ok(WatchStep::Wait) => {
                    at.was_live = true;
                    self.watch_stands(watch, resume);
                    let state = &mut self.watches[watch];
                    let within_us = match state.rng.below(40) {
                        0 => 400_000,
                        1..=4 => 40_000,
                        _ => 4_000,
                    };
                    return self.watch_later(watch, within_us);
                }
                Err(error) => return self.watch_over(watch, writer, &error),
            }
            self.watch_stands(watch, resume);
            if self.bad.is_some() {
                return;
            }
        }
        self.watch_later(watch, 500);
    }

    fn watch_stands(&mut self, watch: usize, resume: Lsn) {
        let state = &mut self.watches[watch];
        state.resume = resume;
        let verdict = self.oracle.watch_stands(&mut state.seen, resume);
        self.check(verdict);
    }

    fn read_log(&mut self, writer: usize, watch: usize, wants: Vec<LogWant>) {
        let state = &mut self.watches[watch];
        state.step += 1;
        let step = state.step;
        if let Some(at) = &mut state.at {
            at.waiting = wants.len();
        }
        let deadline = self.writers[writer].clock.at(self.now) + LOG_DEADLINE;
        for want in wants {
            let state = &mut self.writers[writer];
            state.last_ticket += 1;
            let ticket = FetchTicket(state.last_ticket);
            let pg = want.pg;
            state.log_reads.insert(ticket, LogRead { watch, step, pg });
            let event = WriterEvent::ReadLog {
                ticket,
                want,
                deadline,
            };
            self.writer_event(writer, event);
        }
    }

    pub(super) fn log_read(
        &mut self,
        writer: usize,
        ticket: FetchTicket,
        result: Result<LogAnswer, LogError>,
    ) {
        let Some(read) = self.writers[writer].log_reads.remove(&ticket) else {
            return self.fail("a log read was answered twice");
        };
        let LogRead { watch, step, pg } = read;
        if self.watches[watch].step != step {
            return;
        }
        let Some(at) = &mut self.watches[watch].at else {
            return;
        };
        at.waiting -= 1;
        let is_last = at.waiting == 0;
        let over = match result {
            Ok(answer) => at.watcher.supply(answer).err(),
            Err(error) => at.watcher.refused(pg, &error),
        };
        match over {
            Some(error) => self.watch_over(watch, writer, &error),
            None if is_last => self.watch_later(watch, 2_000),
            None => {}
        }
    }

    /// The process is gone; its watches go on with the next one.
    pub(super) fn abandon_watches(&mut self, writer: usize) {
        self.writers[writer].log_reads.clear();
        for watch in &mut self.watches {
            if watch.at.as_ref().is_some_and(|at| at.writer == writer) {
                watch.at = None;
                watch.step += 1;
            }
        }
    }

    /// A watch at the living writer that has not been told everything.
    pub(super) fn late_watch(&self) -> Option<String> {
        let writer = self.current_writer()?;
        let vdl = self.writers[writer].vdl_now();
        let late = |watch: &&Watch| {
            watch.resume < vdl && watch.at.as_ref().is_some_and(|at| at.writer == writer)
        };
        let watch = self.watches.iter().find(late)?;
        Some(format!("a watch stands at {}, VDL is {vdl}", watch.resume))
    }
}

fn draw_range(rng: &mut Rng, key_count: u64) -> WatchRange {
    let all = WatchRange {
        start: Bytes::from_static(b"\x01"),
        end: None,
    };
    if rng.chance(1, 2) {
        return all;
    }
    let start = rng.below(key_count);
    let end = start + 1 + rng.below(key_count);
    WatchRange {
        start: super::workload::key(start),
        end: rng.chance(3, 4).then(|| super::workload::key(end)),
    }
}
