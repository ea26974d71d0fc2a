//! Ambushes around steps of the membership and around rivals: they wait for one moment in a writer's life and hold back just what makes
//! the difference. What the root is told of growth (R10); what a segment that leaves is told of it (R20); a rival that dies when two
//! segments have its claim (R8).

use std::collections::BTreeSet;

use sixfold_log_format::{PgEntry, PgId, SegmentId};
use sixfold_recovery::machine::Phase;

use super::faults::cut_pairs;
use super::{Event, NODE_COUNT, WRITER_HOSTS, World};
use crate::clock::{MS, Time};
use crate::oracle::StepDone;
use crate::plan::{Names, node_name};
use crate::reached::Reached;

/// One that has not met its moment by then is given up.
const PATIENCE: Time = 1_500 * MS;
/// How long the leaving segment waits for the step to come into force.
const IN_FORCE: Time = 250 * MS;
/// How long the claims of a rival travel before it dies.
const CLAIMS: Time = 12 * MS;
/// How long a writer that opens again in place is not heard, when somebody else is faster.
const OVERTAKEN: Time = 400 * MS;
/// Every node.
const EVERY: u16 = 0b1_1111_1111;

/// The ones of a run; one of each kind at a time.
#[derive(Debug, Default)]
pub(crate) struct Traps {
    growth: Option<Growth>,
    leaver: Option<Leaver>,
    bare: Option<Bare>,
    step: u64,
}

/// What the root is told of growth is held back.
#[derive(Debug)]
struct Growth {
    step: u64,
    hold: Time,
    dies: bool,
    writer: Option<usize>,
}

/// A segment that leaves does not hear of it.
#[derive(Debug)]
struct Leaver {
    step: u64,
    hold: Time,
    stage: Stage,
    pg: PgId,
    stay: Vec<SegmentId>,
    cut: Vec<(usize, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// Everybody else hears of it.
    Told,
    /// It is in force, and too few of those that stay hear the writer.
    Short,
}

/// A rival whose claims reach two nodes.
#[derive(Debug)]
struct Bare {
    step: u64,
    rival: usize,
    nodes: u16,
    successor: bool,
    cut: Vec<(usize, usize)>,
    is_over: bool,
}

impl Traps {
    pub(crate) fn forget_all(&mut self) {
        (self.growth, self.leaver, self.bare) = (None, None, None);
    }
}

impl World {
    fn trap_in(&mut self, wait: Time) -> u64 {
        self.traps.step += 1;
        let step = self.traps.step;
        self.queue.push(self.now + wait, Event::Trap { step });
        step
    }

    /// The next stage of one of them is due.
    pub(super) fn trap_step(&mut self, step: u64) {
        if self
            .traps
            .growth
            .as_ref()
            .is_some_and(|trap| trap.step == step)
        {
            self.growth_told();
        }
        if self
            .traps
            .leaver
            .as_ref()
            .is_some_and(|trap| trap.step == step)
        {
            self.leaver_over();
        }
        if self
            .traps
            .bare
            .as_ref()
            .is_some_and(|trap| trap.step == step)
        {
            self.bare_step();
        }
    }

    pub(super) fn lie_in_wait_for_growth(&mut self, hold: Time, dies: bool) {
        if self.traps.growth.is_none() {
            let step = self.trap_in(PATIENCE);
            let writer = None;
            self.traps.growth = Some(Growth {
                step,
                hold,
                dies,
                writer,
            });
        }
    }

    pub(super) fn lie_in_wait_for_a_leaver(&mut self, hold: Time) {
        if self.traps.leaver.is_none() {
            let step = self.trap_in(PATIENCE);
            self.traps.leaver = Some(Leaver {
                step,
                hold,
                stage: Stage::Waiting,
                pg: PgId::ROOT,
                stay: Vec::new(),
                cut: Vec::new(),
            });
        }
    }

    /// The newest writer has proposed a step; nobody has heard of it yet.
    pub(super) fn trap_proposed(&mut self, writer: usize) {
        match self.oracle.members.proposed_kind() {
            Some(StepDone::Grown) => self.growth_proposed(writer),
            Some(StepDone::Finished) => self.leaving_proposed(),
            _ => {}
        }
    }

    fn growth_proposed(&mut self, writer: usize) {
        let Some(hold) = self.traps.growth.as_ref().map(|trap| trap.hold) else {
            return;
        };
        if self.net.holds_steps.is_empty() {
            let root = self.oracle.members.in_force().pg(PgId::ROOT);
            let root = root.map_or(Vec::new(), PgEntry::members);
            self.net.holds_steps = root.iter().map(|member| member.segment).collect();
            let step = self.trap_in(hold);
            if let Some(trap) = &mut self.traps.growth {
                (trap.step, trap.writer) = (step, Some(writer));
            }
            self.tell(|| {
                format!("** the root hears nothing of the growth that W{writer} proposes")
            });
        }
    }

    fn growth_told(&mut self) {
        let Some(trap) = self.traps.growth.take() else {
            return;
        };
        let Some(writer) = trap.writer else { return };
        self.oracle.reached.hit(Reached::GrowthHeldBack);
        if trap.dies {
            self.end_writer(writer, "dies");
        }
        self.tell_the_held();
    }

    fn tell_the_held(&mut self) {
        self.net.holds_steps = BTreeSet::new();
        self.release_held();
    }

    fn leaving_proposed(&mut self) {
        let waits = |trap: &Leaver| trap.stage == Stage::Waiting;
        if !self.traps.leaver.as_ref().is_some_and(waits) || !self.net.holds_steps.is_empty() {
            return;
        }
        let Some((pg, out, stay)) = self.oracle.members.leaving() else {
            return;
        };
        let step = self.trap_in(IN_FORCE);
        self.net.holds_steps = BTreeSet::from([out]);
        self.net.quiet += 1;
        let node = self.places[&out].0;
        self.tell(|| {
            format!(
                "** {} hears nothing of the step that removes its segment of group {pg}; gossip is silent",
                node_name(node)
            )
        });
        if let Some(trap) = &mut self.traps.leaver {
            (trap.step, trap.stage) = (step, Stage::Told);
            (trap.pg, trap.stay) = (pg, stay);
        }
    }

    /// A replacement is over; the segment that left does not know.
    pub(super) fn trap_in_force(&mut self, done: StepDone) {
        let told = |trap: &Leaver| trap.stage == Stage::Told;
        if done != StepDone::Finished || !self.traps.leaver.as_ref().is_some_and(told) {
            return;
        }
        let Some(writer) = self.current_writer() else {
            return;
        };
        let (mut stay, hold) = match &self.traps.leaver {
            Some(trap) => (trap.stay.clone(), trap.hold),
            None => return,
        };
        // The new one, and two others: three that stay are left, and the one that left.
        let mut nodes = 0_u16;
        while nodes.count_ones() < 3 && !stay.is_empty() {
            let last = stay.len() == 6;
            let index = if last { 5 } else { self.rng.index(stay.len()) };
            nodes |= 1 << self.places[&stay.swap_remove(index)].0;
        }
        let cut = cut_pairs(self.writers[writer].host, nodes, 1);
        self.tell(|| format!("** nothing that W{writer} says reaches {}", Names(nodes)));
        self.cut_now(&cut);
        self.oracle.reached.hit(Reached::LeaverUnaware);
        let step = self.trap_in(hold);
        if let Some(trap) = &mut self.traps.leaver {
            (trap.step, trap.stage, trap.cut) = (step, Stage::Short, cut);
        }
    }

    fn leaver_over(&mut self) {
        let Some(trap) = self.traps.leaver.take() else {
            return;
        };
        self.mend_now(&trap.cut);
        if trap.stage != Stage::Waiting {
            self.net.quiet -= 1;
            self.tell_the_held();
            self.tell(|| {
                format!(
                    "** over: the segment that left group {} hears of it",
                    trap.pg
                )
            });
        }
    }

    /// A rival begins beside the writer, and will die when two nodes have its claims.
    pub(super) fn bare_quorum(&mut self, nodes: u16, successor: bool) {
        let alone = self.writers.iter().filter(|w| !w.is_gone()).count() == 1;
        let Some(writer) = self.current_writer().filter(|_| alone) else {
            return;
        };
        if self.traps.bare.is_some() {
            return;
        }
        let host = self.other_host(writer);
        let step = self.trap_in(PATIENCE);
        let rival = self.writers.len();
        self.traps.bare = Some(Bare {
            step,
            rival,
            nodes,
            successor,
            cut: Vec::new(),
            is_over: false,
        });
        self.start_writer(host, true);
    }

    fn other_host(&self, writer: usize) -> usize {
        let host = self.writers[writer].host - NODE_COUNT;
        NODE_COUNT + (host + 1) % WRITER_HOSTS
    }

    /// A candidate entered a phase.
    pub(super) fn trap_phase(&mut self, writer: usize, phase: Phase) {
        let Some(trap) = &self.traps.bare else { return };
        if phase != Phase::Fence || trap.rival != writer || !trap.cut.is_empty() {
            return;
        }
        let nodes = trap.nodes;
        let cut = cut_pairs(self.writers[writer].host, EVERY & !nodes, 1);
        self.tell(|| format!("** the claims of W{writer} reach {} only", Names(nodes)));
        self.cut_now(&cut);
        let step = self.trap_in(CLAIMS);
        if let Some(trap) = &mut self.traps.bare {
            (trap.step, trap.cut) = (step, cut);
        }
    }

    fn bare_step(&mut self) {
        let Some(trap) = &mut self.traps.bare else {
            return;
        };
        let cut = std::mem::take(&mut trap.cut);
        let (rival, ends) = (trap.rival, trap.is_over || !trap.successor);
        let first = !std::mem::replace(&mut trap.is_over, true);
        if first {
            self.end_writer(rival, "dies");
        }
        self.mend_now(&cut);
        if ends {
            self.traps.bare = None;
            return;
        }
        let step = self.trap_in(PATIENCE);
        if let Some(trap) = &mut self.traps.bare {
            trap.step = step;
        }
    }

    /// A writer opens the volume again in place: somebody else may be faster.
    pub(super) fn trap_refence(&mut self, writer: usize) {
        let Some(trap) = &self.traps.bare else { return };
        if !trap.successor || !trap.is_over || !trap.cut.is_empty() {
            return;
        }
        let cut = cut_pairs(self.writers[writer].host, EVERY, 0);
        self.tell(|| format!("** W{writer} is cut off from all nodes, and somebody is faster"));
        self.cut_now(&cut);
        let step = self.trap_in(OVERTAKEN);
        if let Some(trap) = &mut self.traps.bare {
            (trap.step, trap.cut) = (step, cut);
        }
        let host = self.other_host(writer);
        self.start_writer(host, true);
    }
}
