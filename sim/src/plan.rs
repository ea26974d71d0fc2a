//! What a seed means: the shape of the cluster, the load, and the faults, drawn before anything runs, so that a failing run can
//! be cut down fault by fault.

use std::fmt;

use crate::clock::{MS, Time};
use crate::rng::Rng;

/// Bounds and sizes of one run. Small, so that everything is met.
#[derive(Debug, Clone)]
pub struct Shape {
    pub(crate) pg_count: u32,
    pub(crate) lal: u64,
    pub(crate) page_bytes: u32,
    pub(crate) pages_per_pg: u64,
    pub(crate) cache_pages: usize,
    pub(crate) seals_in_flight: usize,
    pub(crate) unacknowledged_bytes: usize,
    pub(crate) stream_bytes: usize,
    pub(crate) waiting_commits: usize,
    pub(crate) remembered_keys: usize,
    pub(crate) group_bytes: usize,
    pub(crate) queued_bytes: usize,
    pub(crate) resident_bytes: usize,
    pub(crate) node_cache_bytes: usize,
    pub(crate) reads_in_flight: usize,
    pub(crate) gossip_ms: u64,
    pub(crate) file_bytes: u64,
    /// Messages are encoded and decoded on the way.
    pub(crate) encodes: bool,
    pub(crate) disk_us: u64,
    pub(crate) link_us: u64,
    /// Longest pause of a client between transactions.
    pub(crate) think_us: u64,
    pub(crate) clients: usize,
    pub(crate) key_count: u64,
    /// The disk that may forget (R12).
    pub(crate) forgetful: usize,
}

/// Something that goes wrong. Nodes are sets of bits, times are milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field says what it is")]
pub enum Fault {
    /// Processes die, with power or without, and start again.
    Crash { nodes: u8, power: bool, down: u64 },
    /// Processes stand still.
    PauseNodes { nodes: u8, length: u64 },
    /// Nobody hears these nodes, nor they anybody; `out` alone: they hear, but are not heard.
    Isolate { nodes: u8, out: bool, length: u64 },
    /// The nodes' gossip among each other does not get through.
    NoGossip { length: u64 },
    /// Connections to these nodes break.
    Reset { nodes: u8 },
    /// Links to these nodes are slow.
    SlowLinks { nodes: u8, times: u64, length: u64 },
    /// Packets are lost everywhere.
    Loss { length: u64 },
    /// Disks of these nodes are full.
    DiskFull { nodes: u8, length: u64 },
    /// Disks of these nodes are slow.
    DiskSlow { nodes: u8, times: u64, length: u64 },
    /// The next write fails.
    WriteError { nodes: u8 },
    /// Reads fail, or bring something else.
    Misreads { nodes: u8, length: u64 },
    /// The forgetful disk rots.
    Rot,
    /// The forgetful disk loses what it said was durable when the power goes.
    LostSync { length: u64 },
    /// The forgetful disk writes to a wrong place.
    Misdirect,
    /// The writer dies.
    CrashWriter,
    /// The writer stands still.
    PauseWriter { length: u64 },
    /// Nothing passes between the writer and these nodes; `one_way`: 1 only its messages are lost, 2 only theirs.
    CutWriter { nodes: u8, one_way: u8, length: u64 },
    /// Another writer begins beside the one that is there.
    Rival { host: usize, take_over: bool },
    /// A writer process says good-bye.
    CloseWriter,
}

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
        nodes: u8,
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
    pub tail: u8,
    /// For how long, microseconds.
    pub tail_us: u64,
    /// Whether the last records of every second group reach nobody.
    pub splits_groups: bool,
    /// How the writer ends.
    pub end: End,
    /// Nodes that lose power with it.
    pub crash: u8,
    /// Milliseconds until the candidate begins.
    pub gap: u64,
    /// Nodes that the candidate cannot reach.
    pub unseen: u8,
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
    pub nodes: u8,
    /// For so many milliseconds.
    pub down: u64,
}

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
        let mut rng = Rng::new(seed, 1);
        let shape = Shape::draw(&mut rng);
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
        Plan {
            seed,
            shape,
            end,
            faults,
            failovers,
        }
    }
}

impl Shape {
    fn draw(rng: &mut Rng) -> Shape {
        let pg_count = rng.pick(&[1, 1, 2, 3, 4]);
        let page_bytes = rng.pick(&[512, 512, 1_024]);
        Shape {
            pg_count: u32::try_from(pg_count).expect("a few"),
            lal: rng.pick(&[64, 64, 100, 128, 256, 1_000]),
            page_bytes,
            pages_per_pg: if pg_count == 1 {
                4_096
            } else {
                rng.pick(&[16, 24, 40])
            },
            cache_pages: rng.pick(&[2, 4, 8, 16, 64]),
            seals_in_flight: rng.pick(&[2, 3, 4]),
            unacknowledged_bytes: rng.pick(&[8 << 10, 32 << 10, 96 << 10, 96 << 10]),
            stream_bytes: rng.pick(&[1 << 10, 4 << 10, 64 << 10]),
            waiting_commits: rng.pick(&[3, 16, 64]),
            remembered_keys: rng.pick(&[8, 64, 4_096]),
            group_bytes: rng.pick(&[2 << 10, 16 << 10, 64 << 10]),
            queued_bytes: rng.pick(&[128 << 10, 1 << 20]),
            resident_bytes: rng.pick(&[2 << 10, 16 << 10, 1 << 20]),
            node_cache_bytes: rng.pick(&[1 << 10, 8 << 10, 256 << 10]),
            reads_in_flight: rng.pick(&[2, 8, 64]),
            gossip_ms: rng.pick(&[20, 100, 200]),
            file_bytes: rng.pick(&[128 << 10, 128 << 10, 256 << 10]),
            encodes: rng.chance(1, 8),
            disk_us: rng.pick(&[60, 200, 1_000]),
            link_us: rng.pick(&[50, 150, 600]),
            think_us: rng.pick(&[500, 3_000, 12_000]),
            clients: rng.pick(&[1, 2, 4, 6, 12]),
            key_count: rng.pick(&[12, 60, 150]),
            forgetful: rng.index(6),
        }
    }
}

impl Fault {
    fn draw(rng: &mut Rng, harsh: bool) -> Fault {
        let few = if harsh {
            rng.pick(&[1, 2, 3])
        } else {
            rng.pick(&[1, 1, 1, 2])
        };
        let nodes = match rng.below(5) {
            // A whole zone, or a zone and one more.
            0 => 0b11 << (2 * rng.below(3)),
            1 if harsh => (0b11 << (2 * rng.below(3))) | (1 << rng.below(6)),
            _ => rng.nodes(few),
        };
        let length = rng.pick(&[3, 20, 100, 400, 1_500]);
        let times = rng.pick(&[5, 20, 100]);
        match rng.below(34) {
            0..=4 => Fault::Crash {
                nodes,
                power: rng.chance(1, 2),
                down: length,
            },
            5 | 6 => Fault::Crash {
                nodes: 0b11_1111,
                power: rng.chance(1, 2),
                down: rng.range(1, 200),
            },
            7 => Fault::PauseNodes { nodes, length },
            8 | 9 => Fault::Isolate {
                nodes,
                out: rng.chance(1, 3),
                length,
            },
            10 => Fault::NoGossip { length },
            11 => Fault::Reset { nodes },
            12 => Fault::SlowLinks {
                nodes,
                times,
                length,
            },
            13 => Fault::Loss { length },
            14 => Fault::DiskFull { nodes, length },
            15 => Fault::DiskSlow {
                nodes,
                times,
                length,
            },
            16 => Fault::WriteError { nodes },
            17 | 18 => Fault::Misreads { nodes, length },
            19 => Fault::Rot,
            20 => Fault::LostSync { length },
            21 => Fault::Misdirect,
            22..=24 => Fault::CrashWriter,
            25..=27 => Fault::PauseWriter { length },
            28 | 29 => Fault::CutWriter {
                nodes: if rng.chance(1, 2) { 0b11_1111 } else { nodes },
                one_way: rng.pick(&[0, 0, 1, 2]),
                length,
            },
            30..=32 => Fault::Rival {
                host: rng.index(3),
                take_over: rng.chance(3, 4),
            },
            _ => Fault::CloseWriter,
        }
    }
}

impl Failover {
    fn draw(rng: &mut Rng) -> Failover {
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
    fn recipe(rng: &mut Rng) -> [Failover; 2] {
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

/// Nodes of a set.
pub(crate) fn members(nodes: u8) -> impl Iterator<Item = usize> {
    (0..6).filter(move |node| nodes & (1 << node) != 0)
}

pub(crate) struct Names(pub(crate) u8);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return write!(f, "none");
        }
        members(self.0).try_for_each(|node| write!(f, "{}", node_name(node)))
    }
}

/// Nodes are called A to F.
pub(crate) fn node_name(node: usize) -> char {
    ['A', 'B', 'C', 'D', 'E', 'F'][node]
}
