//! Ambushes: directed faults that wait for their moment inside a writer's life. One splits a seal, so that the next cut falls through
//! the middle of a batch (R5); the other makes a forgetful segment come back while exactly four are needed (R12).

use sixfold_log_format::{Batch, Lsn, PgId};

use super::faults::cut_pairs;
use super::{Event, World};
use crate::clock::{MS, Time, US};
use crate::plan::{Names, node_name};
use crate::reached::Reached;

/// An ambush that has not met its moment by then is given up.
const PATIENCE: Time = 1_500 * MS;
/// Batches shipped last that are looked at.
const REMEMBERED: usize = 12;
/// How long the late segment is left to catch up before all is mended.
const CATCH_UP: Time = 80 * MS;

/// The ambushes of a run; one of each kind at a time.
#[derive(Debug, Default)]
pub(crate) struct Ambushes {
    split: Option<SplitSeal>,
    relapse: Option<Relapse>,
    split_step: Option<SplitStep>,
    /// Counts stages, so that a late event is known.
    step: u64,
}

/// Batches of one seal, one of which is to be held back.
#[derive(Debug)]
struct SplitSeal {
    step: u64,
    hold: Time,
    shipped: Vec<Shipped>,
    /// The writer, once its batch is held.
    holds: Option<usize>,
}

#[derive(Debug)]
struct Shipped {
    pg: PgId,
    first: Lsn,
    last: Lsn,
    cpls: Vec<Lsn>,
}

/// A step of the membership that reaches some nodes alone.
#[derive(Debug)]
struct SplitStep {
    step: u64,
    reach: u16,
    skip: u32,
    hold: Time,
    unseen: bool,
    writer: Option<usize>,
    cut: Vec<(usize, usize)>,
    is_over: bool,
}

/// A forgetful segment among exactly four.
#[derive(Debug)]
struct Relapse {
    step: u64,
    stage: Stage,
    writer: usize,
    late: usize,
    /// Cuts from the writer to the late node, then to the two that stay away.
    late_cut: Vec<(usize, usize)>,
    away_cut: Vec<(usize, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Three hold what four should, the forgetful one among them.
    Short,
    /// It forgot and is on its way back.
    Back,
    /// The late one catches up.
    CatchingUp,
}

impl Ambushes {
    /// Whether the batches of this group are held back.
    pub(crate) fn forget_all(&mut self) {
        self.split = None;
        self.relapse = None;
        self.split_step = None;
    }

    fn next_step(&mut self) -> u64 {
        self.step += 1;
        self.step
    }
}

impl World {
    /// An ambush's time is over, or its next stage is due.
    pub(super) fn ambush_step(&mut self, step: u64) {
        let is_step = |split: &SplitStep| split.step == step;
        if self.ambushes.split_step.as_ref().is_some_and(is_step) {
            self.split_step_over();
        }
        if self
            .ambushes
            .split
            .as_ref()
            .is_some_and(|split| split.step == step)
        {
            self.end_split();
        }
        if self
            .ambushes
            .relapse
            .as_ref()
            .is_some_and(|relapse| relapse.step == step)
        {
            self.relapse_step();
        }
    }

    /// Waits for a step of the membership.
    pub(super) fn lie_in_wait_for_a_step(
        &mut self,
        reach: u16,
        skip: u32,
        hold: Time,
        unseen: bool,
    ) {
        if self.ambushes.split_step.is_some() {
            return;
        }
        let step = self.ambush_in(PATIENCE);
        self.ambushes.split_step = Some(SplitStep {
            step,
            reach,
            skip,
            hold,
            unseen,
            writer: None,
            cut: Vec::new(),
            is_over: false,
        });
    }

    /// The newest writer has proposed a step; nobody has heard of it yet.
    pub(super) fn step_proposed(&mut self, writer: usize) {
        let Some(split) = &mut self.ambushes.split_step else {
            return;
        };
        if split.writer.is_some() {
            return;
        }
        if split.skip > 0 {
            split.skip -= 1;
            return;
        }
        let (reach, hold) = (split.reach, split.hold);
        let cut = cut_pairs(self.writers[writer].host, 0b1_1111_1111 & !reach, 1);
        let step = self.ambush_in(hold);
        if let Some(split) = &mut self.ambushes.split_step {
            split.step = step;
            split.writer = Some(writer);
            split.cut.clone_from(&cut);
        }
        self.tell(|| format!("** the step of W{writer} reaches {} only", Names(reach)));
        self.cut_now(&cut);
    }

    fn split_step_over(&mut self) {
        let Some(mut split) = self.ambushes.split_step.take() else {
            return;
        };
        // It dies first: what was held back is lost with it.
        let writer = split.writer.filter(|_| !split.is_over);
        if let Some(writer) = writer {
            self.end_writer(writer, "dies");
        }
        self.mend_now(&split.cut);
        let Some(writer) = writer else {
            return;
        };
        self.oracle.reached.hit(Reached::StepSplit);
        if !split.unseen {
            return;
        }
        // The next candidate sees none of at most two that have heard of it.
        let mut unseen = split.reach;
        while unseen.count_ones() > 2 {
            unseen &= unseen - 1;
        }
        let others = super::WRITER_HOSTS;
        let host = self.writers[writer].host - super::NODE_COUNT;
        let host = super::NODE_COUNT + (host + 1) % others;
        self.tell(|| format!("** the next candidate does not see {}", Names(unseen)));
        split.cut = cut_pairs(host, unseen, 0);
        self.cut_now(&split.cut);
        split.is_over = true;
        split.step = self.ambush_in(400 * MS);
        self.ambushes.split_step = Some(split);
        self.start_writer(host, true);
    }

    fn ambush_in(&mut self, wait: Time) -> u64 {
        let step = self.ambushes.next_step();
        self.queue.push(self.now + wait, Event::Ambush { step });
        step
    }

    /// Waits for a seal that can be split.
    pub(super) fn lie_in_wait(&mut self, hold_us: u64) {
        if self.ambushes.split.is_some() {
            return;
        }
        let step = self.ambush_in(PATIENCE);
        self.ambushes.split = Some(SplitSeal {
            step,
            hold: hold_us * US,
            shipped: Vec::new(),
            holds: None,
        });
    }

    /// A writer is about to send a batch: is it the one to hold back? That is one whose first record follows a commit that ends
    /// inside a batch of another group.
    pub(super) fn look_at_seal(&mut self, writer: usize, bytes: &bytes::Bytes) {
        let waits = self
            .ambushes
            .split
            .as_ref()
            .is_some_and(|split| split.holds.is_none());
        if !waits || self.current_writer() != Some(writer) {
            return;
        }
        let Ok(batch) = Batch::decode(bytes.clone(), self.manifest.volume) else {
            return;
        };
        let header = batch.header();
        let Some(split) = &mut self.ambushes.split else {
            return;
        };
        let (pg, first) = (header.pg, header.first);
        if split.shipped.iter().any(|known| known.first == first) {
            return;
        }
        let splits = |other: &&Shipped| {
            let between = |cpl: &Lsn| other.first <= *cpl && *cpl < first;
            other.pg != pg && first < other.last && other.cpls.iter().any(between)
        };
        if let Some(other) = split.shipped.iter().find(splits) {
            let (from, through, of) = (other.first, other.last, other.pg);
            split.holds = Some(writer);
            let hold = split.hold;
            let step = self.ambush_in(hold);
            if let Some(split) = &mut self.ambushes.split {
                split.step = step;
            }
            self.net.holds_group = Some(pg);
            self.tell(|| {
                format!(
                    "** the batch of group {pg} that begins with {first} is held back; group {of} has {from}..={through}"
                )
            });
            return;
        }
        if split.shipped.len() == REMEMBERED {
            split.shipped.remove(0);
        }
        split.shipped.push(Shipped {
            pg,
            first,
            last: header.last,
            cpls: batch.cpls().collect(),
        });
    }

    fn end_split(&mut self) {
        let Some(split) = self.ambushes.split.take() else {
            return;
        };
        if let Some(writer) = split.holds {
            self.end_writer(writer, "dies");
            self.net.holds_group = None;
            self.release_held();
        }
    }

    /// Exactly four segments are left to the writer, one of them is late, and one begins to lie.
    pub(super) fn relapse(&mut self, late: usize, after: Time) {
        let forgetful = self.plan.shape.forgetful;
        let state = &self.nodes[forgetful];
        if self.ambushes.relapse.is_some() || state.core.is_none() || state.paused {
            return;
        }
        let Some(writer) = self.current_writer() else {
            return;
        };
        let other = |turn: usize| (forgetful + 1 + (late + turn) % 5) % 6;
        let late = other(0);
        let away = (1 << other(1)) | (1 << other(2));
        let host = self.writers[writer].host;
        let (late_cut, away_cut) = (cut_pairs(host, 1 << late, 1), cut_pairs(host, away, 1));
        self.tell(|| {
            format!(
                "** nothing that W{writer} says reaches {}, {} is late, gossip is silent, the disk of {} lies",
                Names(away),
                node_name(late),
                node_name(forgetful)
            )
        });
        self.cut_now(&late_cut);
        self.cut_now(&away_cut);
        self.net.quiet += 1;
        self.nodes[forgetful].suspect = true;
        self.nodes[forgetful].disk.lies = true;
        let step = self.ambush_in(after);
        self.ambushes.relapse = Some(Relapse {
            step,
            stage: Stage::Short,
            writer,
            late,
            late_cut,
            away_cut,
        });
    }

    fn relapse_step(&mut self) {
        let Some(mut relapse) = self.ambushes.relapse.take() else {
            return;
        };
        let forgetful = self.plan.shape.forgetful;
        match relapse.stage {
            Stage::Short => {
                // Some of what it called durable is.
                self.nodes[forgetful].disk.settle_some(&mut self.disk_rng);
                self.crash_node(forgetful, true);
                self.nodes[forgetful].disk.settle();
                self.nodes[forgetful].disk.slow = 30;
                self.restart_node(forgetful, MS);
                relapse.stage = Stage::Back;
                relapse.step = self.ambush_in(PATIENCE);
            }
            Stage::Back | Stage::CatchingUp => {
                if relapse.stage == Stage::Back {
                    self.mend_now(&relapse.late_cut);
                }
                self.mend_now(&relapse.away_cut);
                self.nodes[forgetful].disk.slow = 1;
                self.net.quiet -= 1;
                self.release_held();
                self.tell(|| "** over: a relapse".to_owned());
                return;
            }
        }
        self.ambushes.relapse = Some(relapse);
    }

    /// A node is attached to a writer: the moment that a relapse waits for.
    pub(super) fn ambush_attached(&mut self, writer: usize, node: usize) {
        let Some(relapse) = &mut self.ambushes.relapse else {
            return;
        };
        let waits = relapse.stage == Stage::Back && relapse.writer == writer;
        if !waits || node != self.plan.shape.forgetful {
            return;
        }
        relapse.stage = Stage::CatchingUp;
        let (late, cut) = (relapse.late, relapse.late_cut.clone());
        let step = self.ambush_in(CATCH_UP);
        if let Some(relapse) = &mut self.ambushes.relapse {
            relapse.step = step;
        }
        self.tell(|| format!("** {} catches up", node_name(late)));
        self.mend_now(&cut);
    }
}
