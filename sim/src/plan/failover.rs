//! Directed failovers: what the director follows step by step.

use crate::rng::Rng;

/// How a writer ends in a directed failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It dies.
    Crash,
    /// It stands still, and goes on later.
    Pause {
        /// For how long.
        length: u64,
    },
    /// It is cut off from all nodes.
    Cut {
        /// For how long.
        length: u64,
    },
    /// It is as well as before.
    Alive,
    /// It loses every connection, and what was under way; nobody takes over.
    Reset,
}

/// Whom a candidate cannot reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// Those that were drawn.
    Drawn,
    /// Those that the last candidate has installed on.
    Installed,
    /// Those that have the last records of the last writer.
    Tail,
}

/// When a candidate dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// It does not.
    No,
    /// So many microseconds into this phase: 1 fence, 3 refill, 4 lease.
    InPhase {
        /// Which.
        phase: u8,
        /// When.
        after_us: u64,
    },
    /// Its installs reach these nodes alone, then it dies.
    Installing {
        /// These.
        nodes: u16,
        /// So long after it began.
        after_us: u64,
    },
}

/// A directed failover: the tail of the log reaches only some nodes, the writer ends, the next candidate sees only some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failover {
    /// Milliseconds of undisturbed work before.
    pub lead: u64,
    /// Nodes that the last records reach.
    pub tail: u16,
    /// For how long, microseconds.
    pub tail_us: u64,
    /// Whether the last records of every second group reach nobody.
    pub splits_groups: bool,
    /// How the writer ends.
    pub end: End,
    /// Nodes that lose power with it.
    pub crash: u16,
    /// Milliseconds until the candidate begins.
    pub gap: u64,
    /// Nodes that the candidate cannot reach.
    pub unseen: u16,
    /// Whom it cannot reach in place of `unseen`.
    pub instead: Instead,
    /// When it dies.
    pub kill: Kill,
    /// Whether gossip is silent until it is open or dead.
    pub quiet: bool,
    /// Whether a rival begins at the same time.
    pub twin: bool,
    /// Nodes that lose power while the candidate is at work, if any.
    pub strike: Option<Strike>,
}

/// A power cut in the middle of a reopening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// In this phase: 1 fence, 2 install, 3 refill.
    pub phase: u8,
    /// So many microseconds into it.
    pub after_us: u64,
    /// At these nodes.
    pub nodes: u16,
    /// For so many milliseconds.
    pub down: u64,
}

impl Failover {
    pub(super) fn draw(rng: &mut Rng) -> Failover {
        let tail_count = rng.pick(&[0, 1, 1, 2, 3, 6]);
        let crash_count = rng.pick(&[0, 0, 1, 2, 6]);
        let unseen_count = rng.pick(&[0, 1, 2, 2]);
        let install_count = rng.pick(&[0, 1, 1, 1, 2, 3]);
        let phase = rng.pick(&[1, 3, 4]);
        let drawn = Failover {
            lead: rng.pick(&[0, 20, 150, 500]),
            tail: rng.nodes(tail_count),
            tail_us: rng.pick(&[500, 3_000, 15_000, 50_000]),
            splits_groups: rng.chance(1, 3),
            end: match rng.below(6) {
                0 | 1 => End::Crash,
                2 => End::Pause {
                    length: rng.pick(&[30, 120, 600]),
                },
                3 => End::Cut {
                    length: rng.pick(&[30, 120, 600]),
                },
                4 => End::Alive,
                _ => End::Reset,
            },
            crash: rng.nodes(crash_count),
            gap: rng.pick(&[0, 1, 5, 60]),
            unseen: rng.nodes(unseen_count),
            instead: rng.pick(&[
                Instead::Drawn,
                Instead::Installed,
                Instead::Installed,
                Instead::Tail,
            ]),
            kill: match rng.below(6) {
                0 => Kill::InPhase {
                    phase,
                    after_us: rng.pick(&[0, 300, 1_000, 3_000]),
                },
                1 | 2 => Kill::Installing {
                    nodes: rng.nodes(install_count),
                    after_us: rng.pick(&[1_500, 4_000, 12_000]),
                },
                _ => Kill::No,
            },
            quiet: rng.chance(1, 2),
            twin: rng.chance(1, 6),
            strike: rng.chance(1, 3).then(|| Strike::draw(rng)),
        };
        if drawn.end == End::Reset {
            // Most of it reaches nobody.
            let tail = if rng.chance(2, 3) { 0 } else { drawn.tail };
            return Failover {
                tail,
                tail_us: 30_000,
                ..drawn
            };
        }
        if drawn.splits_groups {
            return Failover {
                tail: 0b11_1111,
                ..drawn
            };
        }
        drawn
    }
}

impl Failover {
    /// The schedules that chance hardly finds. The last record is on one segment, which the first candidate sees or does not see;
    /// it installs on another one alone and dies; the second candidate cannot reach that one, or cannot reach the holder.
    pub(super) fn recipe(rng: &mut Rng) -> [Failover; 2] {
        let holder = rng.below(6);
        let target = (holder + 1 + rng.below(5)) % 6;
        let third = (holder + 1 + rng.below(5)) % 6;
        let (first, second) = rng.pick(&[
            (Instead::Tail, Instead::Installed),
            (Instead::Tail, Instead::Installed),
            (Instead::Drawn, Instead::Tail),
            (Instead::Drawn, Instead::Installed),
        ]);
        let quiet = rng.chance(3, 4);
        let base = Failover {
            lead: rng.pick(&[5, 50, 200]),
            tail: 1 << holder,
            tail_us: rng.pick(&[10_000, 30_000, 60_000]),
            splits_groups: false,
            end: End::Crash,
            crash: 0,
            gap: 2,
            unseen: if third == target { 0 } else { 1 << third },
            instead: first,
            kill: Kill::Installing {
                nodes: 1 << target,
                after_us: rng.pick(&[5_000, 40_000]),
            },
            quiet,
            twin: false,
            strike: None,
        };
        let next = Failover {
            instead: second,
            kill: Kill::No,
            ..base
        };
        if rng.chance(1, 4) {
            // The holder is seen, counted, and gone before anybody has copied what it alone holds (R9).
            let strike = Strike {
                phase: 2,
                after_us: rng.pick(&[0, 300]),
                nodes: 1 << holder,
                down: 1_500,
            };
            let counted = Failover {
                instead: Instead::Drawn,
                unseen: 0,
                kill: Kill::No,
                strike: Some(strike),
                ..base
            };
            let after = Failover {
                instead: Instead::Tail,
                lead: 1,
                ..next
            };
            return [counted, after];
        }
        [base, next]
    }
}

impl Strike {
    fn draw(rng: &mut Rng) -> Strike {
        let count = rng.pick(&[1, 1, 2, 6]);
        Strike {
            phase: rng.pick(&[1, 2, 2, 3]),
            after_us: rng.pick(&[0, 200, 500, 2_000, 8_000]),
            nodes: rng.nodes(count),
            down: rng.pick(&[2, 30, 900]),
        }
    }
}
