//! What a run does to the membership: spare nodes, what operators want, what writers do by themselves, who is lost for good.

use std::time::Duration;

use sixfold_compute_core::MemberBounds;

use super::{Fault, Plan};
use crate::clock::MS;
use crate::rng::Rng;

/// The membership of a run: plain ones keep theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberShape {
    /// Nodes beside the first six, one in each zone at most.
    pub(crate) spares: usize,
    /// The volume is made with them in its fleet; else somebody has to add them.
    pub(crate) knows_spares: bool,
    pub(crate) repair_ms: Option<u64>,
    pub(crate) refence_ms: Option<u64>,
    pub(crate) grow_below: Option<u64>,
    pub(crate) replacements_max: usize,
    /// Groups above those that it is made with.
    pub(crate) pgs_more: usize,
    /// A zone and one more node are destroyed: what there is left at the end is looked at alone.
    pub(crate) ends_read_only: bool,
}

impl MemberShape {
    pub(crate) const PLAIN: MemberShape = MemberShape {
        spares: 0,
        knows_spares: false,
        repair_ms: None,
        refence_ms: None,
        grow_below: None,
        replacements_max: 4,
        pgs_more: 0,
        ends_read_only: false,
    };

    /// As a writer is told.
    pub(crate) fn bounds(&self, pg_count: u32) -> MemberBounds {
        MemberBounds {
            repair_after: self.repair_ms.map(Duration::from_millis),
            replacements_max: self.replacements_max,
            grow_below_free_pages: self.grow_below,
            pgs_max: pg_count as usize + self.pgs_more,
            refence_after: self.refence_ms.map(Duration::from_millis),
        }
    }
}

/// What an operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field says what it is")]
pub enum Wanted {
    /// The node's segment of a group, or all of them, somewhere else.
    Replace {
        node: usize,
        pg: Option<u32>,
        to: Option<usize>,
    },
    /// Nothing under way for this node any more.
    Restore { node: usize },
    /// Nothing on this node.
    Drain { node: usize },
    /// One more group.
    Grow,
    /// This node in the fleet.
    Add { node: usize },
    /// This one not.
    Forget { node: usize },
}

impl Wanted {
    fn draw(rng: &mut Rng, spares: usize) -> Wanted {
        let node = rng.index(6 + spares);
        match rng.below(16) {
            0..=6 => Wanted::Replace {
                node,
                pg: rng
                    .chance(2, 3)
                    .then(|| u32::try_from(rng.below(3)).expect("a few")),
                to: rng.chance(1, 3).then(|| rng.index(6 + spares)),
            },
            7 | 8 => Wanted::Restore { node },
            9 | 10 => Wanted::Drain { node },
            11..=13 => Wanted::Grow,
            14 => Wanted::Add {
                node: 6 + rng.index(spares.max(1)),
            },
            _ => Wanted::Forget { node },
        }
    }
}

impl Plan {
    /// Makes it a run in which the membership changes.
    pub(super) fn add_membership(&mut self, rng: &mut Rng) {
        let is_ambush = |fault: &Fault| matches!(fault, Fault::Relapse { .. });
        if self.faults.iter().any(|(_, fault)| is_ambush(fault)) {
            return;
        }
        let spares = rng.pick(&[1, 3, 3, 3]);
        self.shape.members = MemberShape {
            spares,
            knows_spares: !rng.chance(1, 4),
            repair_ms: rng.pick(&[None, None, Some(250), Some(700)]),
            refence_ms: rng.pick(&[None, Some(100), Some(600)]),
            grow_below: rng.pick(&[None, None, Some(1), Some(16)]),
            replacements_max: rng.pick(&[1, 2, 4]),
            pgs_more: rng.pick(&[1, 2]),
            ends_read_only: false,
        };
        let last = if self.failovers.is_empty() {
            self.end / MS
        } else {
            2_500
        };
        // The heads of files hold the states of all segments, with all that was ever removed.
        self.shape.file_bytes = self.shape.file_bytes.max(256 << 10);
        // What is lost with a node is the one copy of each group that a run may lose.
        let dies = rng.chance(1, 3);
        if dies || rng.chance(1, 2) {
            self.faults.retain(|(_, fault)| !fault.forgets());
        }
        if dies {
            let at = rng.range(60, last) * MS;
            let node = self.shape.forgetful;
            self.faults.push((at, Fault::Dead { node }));
        }
        let mut at = rng.range(30, 300);
        for _ in 0..rng.range(1, 7) {
            let wanted = Wanted::draw(rng, spares);
            self.faults.push((at * MS, Fault::Want(wanted)));
            if rng.chance(1, 3) {
                self.faults.push((at * MS - 1, Fault::draw_split_step(rng)));
            }
            if rng.chance(1, 4) {
                // A node of either side, or a whole zone with its spare one, in the middle of it.
                let zone = rng.below(3);
                let nodes = match rng.below(4) {
                    0 => 0b11 << (2 * zone) | 1 << (6 + zone),
                    1 => 1 << (6 + zone),
                    _ => 1 << rng.below(6 + spares as u64),
                };
                let crash = Fault::Crash {
                    nodes,
                    power: rng.chance(1, 2),
                    down: rng.pick(&[3, 60, 900]),
                };
                let later = rng.pick(&[1, 4, 20, 100]);
                self.faults.push(((at + later) * MS, crash));
            }
            at += rng.range(1, last.max(8) / 4);
        }
        for _ in 0..rng.below(6) {
            let at = rng.range(20, last) * MS;
            let host = rng.index(3);
            self.faults.push((at, Fault::OpenForReading { host }));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }
}

impl Fault {
    fn draw_split_step(rng: &mut Rng) -> Fault {
        let count = rng.pick(&[0, 1, 1, 2, 2, 3, 4]);
        let mut reach = 0_u16;
        while (reach.count_ones() as usize) < count {
            reach |= 1 << rng.below(9);
        }
        Fault::SplitStep {
            reach,
            skip: u32::try_from(rng.below(3)).expect("a few"),
            hold_us: rng.pick(&[1_000, 5_000, 40_000]),
            unseen: rng.chance(2, 3),
        }
    }
}
