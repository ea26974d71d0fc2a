//! What a seed means: the shape of the cluster, the load, and the faults, drawn before anything runs, so that a failing run can
//! be cut down piece by piece.

mod failover;
mod fault;
mod members;
mod pieces;
mod shape;

use std::fmt;

use crate::clock::{MS, Time};
use crate::rng::Rng;

pub use failover::{End, Failover, Instead, Kill, Strike};
pub use fault::Fault;
pub use members::Wanted;
pub use shape::Shape;
pub(crate) use shape::Work;

/// From this seed on the membership changes.
const MEMBERSHIP_SEEDS: u64 = 1 << 50;
/// Most nodes of a run.
pub(crate) const NODES_MAX: usize = 9;

/// A whole run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of everything else that is drawn.
    pub seed: u64,
    /// Sizes.
    pub shape: Shape,
    /// When all faults are healed.
    pub end: Time,
    /// Faults by time.
    pub faults: Vec<(Time, Fault)>,
    /// Directed failovers, one after the other.
    pub failovers: Vec<Failover>,
}

impl Plan {
    /// What `seed` means.
    pub fn draw(seed: u64) -> Plan {
        let mut plan = Plan::without_piece(seed);
        plan.add_piece(&mut Rng::new(seed, 14));
        plan.add_strangers(&mut Rng::new(seed, 15));
        plan
    }

    /// What it meant before there were set pieces.
    pub fn without_piece(seed: u64) -> Plan {
        let mut rng = Rng::new(seed, 1);
        let mut shape = Shape::draw(&mut rng);
        shape.draw_layers(&mut Rng::new(seed, 8));
        let directed = rng.chance(1, 2);
        let random = !directed || rng.chance(1, 4);
        let mut end = rng.range(1_500, 5_000) * MS;
        let mut failovers = Vec::new();
        if directed {
            for _ in 0..rng.range(2, 7) {
                if rng.chance(1, 3) {
                    failovers.extend(Failover::recipe(&mut rng));
                } else {
                    failovers.push(Failover::draw(&mut rng));
                }
            }
            end = 12_000 * MS;
        }
        let mut faults = Vec::new();
        if random {
            let calm = rng.range(40, 500);
            let harsh = rng.chance(1, 3);
            let mut at = rng.range(20, 400);
            while at * MS < end {
                faults.push((at * MS, Fault::draw(&mut rng, harsh)));
                at += rng.range(1, calm);
            }
        }
        let mut plan = Plan {
            seed,
            shape,
            end,
            faults,
            failovers,
        };
        plan.add_ambushes(&mut Rng::new(seed, 6));
        plan.add_drop(&mut Rng::new(seed, 12));
        plan.shape.draw_watches(&mut Rng::new(seed, 10));
        plan.shape.draw_holders(&mut Rng::new(seed, 11));
        let mut rng = Rng::new(seed, 13);
        if seed >= MEMBERSHIP_SEEDS || rng.chance(1, 4) {
            plan.add_membership(&mut rng);
        }
        plan
    }

    /// An operator's slip, where nothing else makes a segment forget (R12); its node comes back soon after.
    fn add_drop(&mut self, rng: &mut Rng) {
        if !rng.chance(1, 10) || self.faults.iter().any(|(_, fault)| fault.forgets()) {
            return;
        }
        let pg = u32::try_from(rng.below(4)).expect("a few");
        let at = rng.range(60, 900) * MS;
        self.faults.push((at, Fault::DropSegment { pg }));
        for _ in 0..rng.range(1, 3) {
            let crash = Fault::Crash {
                nodes: 1 << self.shape.forgetful,
                power: rng.chance(1, 2),
                down: rng.pick(&[3, 50]),
            };
            let later = rng.pick(&[0, 1, 5, 100, 600]) * MS;
            self.faults.push((at + later + rng.below(MS), crash));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// In every second run the volume has a token, and now and then somebody comes without it.
    fn add_strangers(&mut self, rng: &mut Rng) {
        self.shape.token = rng.chance(1, 2);
        if self.shape.token && rng.chance(1, 2) {
            for _ in 0..rng.range(1, 4) {
                let at = rng.range(20, 2_500) * MS;
                self.faults.push((at, Fault::Stranger));
            }
            self.faults.sort_by_key(|(at, _)| *at);
        }
    }

    /// Ambushes and clocks, from a stream of their own.
    fn add_ambushes(&mut self, rng: &mut Rng) {
        let begin = |rng: &mut Rng| rng.range(20, 1_200) * MS;
        match rng.below(8) {
            0 | 1 => {
                self.shape.spread_out();
                for _ in 0..rng.range(1, 4) {
                    let at = begin(rng);
                    self.faults.push((at, Fault::draw_split_seal(rng)));
                }
            }
            2 => {
                // Nothing else: the moment is short, and what else goes wrong passes it by.
                self.shape.keep_busy();
                self.shape.lal = 128;
                self.failovers.clear();
                self.faults.clear();
                self.end = 3_000 * MS;
                for turn in 0..6 {
                    let at = (100 + 450 * turn + rng.below(200)) * MS;
                    self.faults.push((at, Fault::draw_relapse(rng)));
                }
            }
            _ => {}
        }
        if rng.chance(1, 3) {
            for _ in 0..rng.range(1, 6) {
                let at = begin(rng);
                self.faults.push((at, Fault::draw_wall_clock(rng)));
            }
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }
}

/// Nodes of a set.
pub(crate) fn members(nodes: u16) -> impl Iterator<Item = usize> {
    (0..NODES_MAX).filter(move |node| nodes & (1 << node) != 0)
}

pub(crate) struct Names(pub(crate) u16);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return write!(f, "none");
        }
        members(self.0).try_for_each(|node| write!(f, "{}", node_name(node)))
    }
}

/// Nodes are called A to I; the first six hold a new volume.
pub(crate) fn node_name(node: usize) -> char {
    ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I'][node]
}
