//! Directed failovers: schedules that chance does not find. The last records reach only some nodes, the writer ends in one of
//! several ways, the next candidate sees only some nodes, installs on some and dies, and the one after it cannot reach those.

use sixfold_recovery::machine::Phase;

use super::faults::cut_pairs;
use super::{Event, NODE_COUNT, WRITER_HOSTS, World};
use crate::clock::{MS, Time, US};
use crate::plan::{End, Failover, Instead, Kill, Names, Plan};

const ALL: u16 = 0b11_1111;
/// Those and the spare ones.
const EVERY: u16 = 0b1_1111_1111;
/// A candidate that is not open by then is given up.
const PATIENCE: Time = 3_000 * MS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// For a writer to be open.
    Waiting,
    Lead,
    Tail,
    Gap,
    Recovering,
    Idle,
}

/// Where a run's directed failovers stand.
#[derive(Debug)]
pub(crate) struct Director {
    failovers: Vec<Failover>,
    at: usize,
    state: State,
    step: u64,
    cut: Vec<(usize, usize)>,
    quiet: bool,
    candidate: Option<usize>,
    old_host: usize,
    installed: u16,
    /// Who has the last records of the writer that ended last.
    tail: u16,
    /// A power cut that is due, counted so that a late one is known.
    strikes: u64,
}

impl Director {
    pub(crate) fn new(plan: &Plan) -> Director {
        Director {
            failovers: plan.failovers.clone(),
            at: 0,
            state: if plan.failovers.is_empty() {
                State::Idle
            } else {
                State::Waiting
            },
            step: 0,
            cut: Vec::new(),
            quiet: false,
            candidate: None,
            old_host: NODE_COUNT,
            installed: 0,
            tail: 0,
            strikes: 0,
        }
    }

    /// Whether it has nothing more to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Whatever it had in mind is over.
    pub(crate) fn stop(&mut self) {
        self.state = State::Idle;
        self.step += 1;
        self.cut.clear();
        self.quiet = false;
    }
}

impl World {
    fn direct_in(&mut self, state: State, wait: Time) {
        self.director.state = state;
        self.director.step += 1;
        let step = self.director.step;
        self.queue.push(self.now + wait, Event::Direct { step });
    }

    /// A writer opened.
    pub(super) fn directed_open(&mut self, writer: usize) {
        match self.director.state {
            State::Waiting => {}
            // Its end is near; that it opened with so few installs is for the oracle to judge.
            State::Recovering
                if self.director.installed != 0 && self.director.candidate == Some(writer) =>
            {
                return;
            }
            State::Recovering => self.director.at += 1,
            _ => return,
        }
        self.mend();
        self.lead();
    }

    fn lead(&mut self) {
        match self.director.failovers.get(self.director.at) {
            Some(failover) => {
                let wait = failover.lead * MS + MS;
                self.direct_in(State::Lead, wait);
            }
            None => self.directed_end(),
        }
    }

    fn directed_end(&mut self) {
        self.mend();
        self.director.state = State::Idle;
        self.queue.push(self.now + MS, Event::Supervise);
        let later = self.plan.faults.last().map_or(0, |(at, _)| *at);
        let at = later.max(self.now + 300 * MS).min(self.plan.end);
        self.queue.push(at.max(self.now), Event::HealAll);
    }

    fn mend(&mut self) {
        let cut = std::mem::take(&mut self.director.cut);
        self.mend_now(&cut);
        if std::mem::take(&mut self.director.quiet) {
            self.net.quiet -= 1;
            self.release_held();
        }
    }

    pub(super) fn direct(&mut self, step: u64) {
        if step != self.director.step {
            return;
        }
        let Some(failover) = self.director.failovers.get(self.director.at).copied() else {
            return;
        };
        match self.director.state {
            State::Waiting | State::Idle => {}
            State::Lead => self.direct_tail(&failover),
            State::Tail => self.direct_end(&failover),
            State::Gap => self.direct_candidate(&failover),
            State::Recovering => {
                if let Some(candidate) = self.director.candidate {
                    self.end_writer(candidate, "dies");
                }
                self.mend();
                self.director.at += 1;
                if self.director.at == self.director.failovers.len() {
                    return self.directed_end();
                }
                let gap = self.director.failovers[self.director.at].gap;
                self.direct_in(State::Gap, gap * MS + MS);
            }
        }
    }

    fn direct_tail(&mut self, failover: &Failover) {
        let Some(writer) = self.current_writer() else {
            return self.direct_in(State::Gap, MS);
        };
        let host = self.writers[writer].host;
        if failover.tail != ALL {
            self.tell(|| {
                format!(
                    "** from now on W{writer} reaches {} only",
                    Names(failover.tail)
                )
            });
            let pairs = cut_pairs(host, EVERY & !failover.tail, 1);
            self.cut_now(&pairs);
            self.director.cut = pairs;
        }
        self.director.tail = failover.tail;
        self.net.holds_odd_groups = failover.splits_groups;
        self.direct_in(State::Tail, failover.tail_us * US);
    }

    fn direct_end(&mut self, failover: &Failover) {
        if let Some(writer) = self.current_writer() {
            let host = self.writers[writer].host;
            self.director.old_host = host;
            match failover.end {
                End::Crash => self.end_writer(writer, "dies"),
                End::Pause { length } => self.pause_writer(writer, length * MS),
                End::Cut { length } => {
                    self.tell(|| format!("** W{writer} is cut off from all nodes"));
                    self.block_pairs(cut_pairs(host, EVERY, 0), length * MS);
                }
                End::Alive => {}
                End::Reset => {
                    self.tell(|| format!("** W{writer} loses every connection"));
                    self.break_streams_of(writer);
                    self.net.holds_odd_groups = false;
                    self.mend();
                    self.director.at += 1;
                    return self.lead();
                }
            }
        }
        if failover.crash != 0 {
            self.tell(|| format!("** power cut at {}", Names(failover.crash)));
            self.crash_nodes(failover.crash, true, 2 * MS);
        }
        self.net.holds_odd_groups = false;
        self.release_held();
        self.mend();
        self.direct_in(State::Gap, failover.gap * MS);
    }

    fn direct_candidate(&mut self, failover: &Failover) {
        let others = WRITER_HOSTS - 1;
        let turn = 1 + self.rng.index(others);
        let host = NODE_COUNT + (self.director.old_host - NODE_COUNT + turn) % WRITER_HOSTS;
        let installed = self.director.installed;
        let unseen = match failover.instead {
            Instead::Installed if installed != 0 => installed,
            Instead::Tail if self.director.tail != 0 => self.director.tail,
            _ => failover.unseen,
        };
        let unseen = at_most_two(unseen);
        if unseen != 0 {
            self.tell(|| format!("** the next candidate does not see {}", Names(unseen)));
            let pairs = cut_pairs(host, unseen, 0);
            self.cut_now(&pairs);
            self.director.cut = pairs;
        }
        if failover.quiet {
            self.net.quiet += 1;
            self.director.quiet = true;
        }
        self.director.old_host = host;
        self.director.installed = 0;
        self.direct_in(State::Recovering, PATIENCE);
        self.director.candidate = Some(self.writers.len());
        self.start_writer(host, true);
        if failover.twin {
            let other = NODE_COUNT + (host - NODE_COUNT + 1) % WRITER_HOSTS;
            self.start_writer(other, true);
        }
    }

    /// The power goes in the middle of a reopening.
    pub(super) fn strike(&mut self, number: u64, nodes: u16, down: Time) {
        if number == self.director.strikes && !self.director.is_idle() {
            self.tell(|| format!("** power cut at {} in the middle of it", Names(nodes)));
            self.crash_nodes(nodes, true, down);
        }
    }

    /// A candidate entered a phase.
    pub(super) fn directed_phase(&mut self, writer: usize, phase: Phase) {
        if self.director.state != State::Recovering || self.director.candidate != Some(writer) {
            return;
        }
        let Some(failover) = self.director.failovers.get(self.director.at).copied() else {
            return;
        };
        let number = match phase {
            Phase::Probe => 0,
            Phase::Fence => 1,
            Phase::Truncate => 2,
            Phase::Refill => 3,
            Phase::Lease => 4,
        };
        if let Some(strike) = failover.strike.filter(|strike| strike.phase == number) {
            self.director.strikes += 1;
            let number = self.director.strikes;
            let event = Event::Strike {
                number,
                nodes: strike.nodes,
                down: strike.down * MS,
            };
            self.queue.push(self.now + strike.after_us * US, event);
        }
        match failover.kill {
            Kill::InPhase { phase, after_us } if phase == number => {
                self.direct_in(State::Recovering, after_us * US);
            }
            Kill::Installing { nodes, after_us } if phase == Phase::Truncate => {
                self.tell(|| format!("** installs of W{writer} reach {} only", Names(nodes)));
                let pairs = cut_pairs(self.writers[writer].host, EVERY & !nodes, 1);
                self.cut_now(&pairs);
                self.director.cut.extend(pairs);
                self.director.installed = nodes;
                self.direct_in(State::Recovering, after_us * US);
            }
            _ => {}
        }
    }
}

fn at_most_two(nodes: u16) -> u16 {
    let mut kept = nodes;
    while kept.count_ones() > 2 {
        kept &= kept - 1;
    }
    kept
}
