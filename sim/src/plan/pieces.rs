//! Set pieces: runs that are about one situation, with little beside it that could pass its moment by.
//!
//! Each clears the field as far as it has to, gives the run the shape in which the situation matters, and places its ambushes.

use super::members::MemberShape;
use super::{Fault, Plan, Wanted};
use crate::clock::MS;
use crate::rng::Rng;

/// One of so many runs is about one of them.
const ONE_IN: u64 = 4;
/// How many there are.
const PIECES: u64 = 9;
/// One of so many runs that are about none of those is about one that came later: what older seeds mean stays as it is.
const LATER_ONE_IN: u64 = 12;
/// How many of those there are.
const LATER: u64 = 2;

impl Plan {
    /// Makes it a run about one situation, or leaves it as it is.
    pub(super) fn add_piece(&mut self, rng: &mut Rng) {
        match rng.below(ONE_IN * PIECES) {
            0 => self.overwrite(rng),
            1 => self.hold_growth(rng),
            2 => self.late_leaver(rng),
            3 => self.bare_quorum(rng),
            4 => self.destroy(rng, false),
            5 => self.destroy(rng, true),
            6 => self.stand_by(rng),
            7 => self.roll_silence(rng),
            8 => self.slow_surveys(rng),
            _ => match rng.below(LATER_ONE_IN * LATER) {
                0 => self.regrow(rng),
                1 => self.take_over_in_time(rng),
                _ => {}
            },
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// Nothing else goes wrong, and somebody always commits.
    fn calm(&mut self, end: u64) {
        self.faults.clear();
        self.failovers.clear();
        self.shape.keep_busy();
        self.shape.disk_us = self.shape.disk_us.min(200);
        self.end = end * MS;
    }

    /// All six, and three spare nodes that the volume knows.
    fn with_spares(&mut self) {
        self.shape.members = MemberShape {
            spares: 3,
            knows_spares: true,
            replacements_max: 2,
            ..MemberShape::PLAIN
        };
        self.shape.file_bytes = self.shape.file_bytes.max(256 << 10);
    }

    fn add(&mut self, at: u64, fault: Fault) {
        self.faults.push((at * MS, fault));
    }

    /// The scan meets a sound group that is not the next one (R12).
    fn overwrite(&mut self, rng: &mut Rng) {
        self.faults.retain(|(_, fault)| !fault.forgets());
        self.shape.keep_busy();
        let mut at = rng.range(60, 300);
        while at * MS < self.end.min(2_500 * MS) {
            self.add(at, Fault::Overwrite);
            at += rng.range(100, 500);
        }
    }

    /// Pages run out while the step that appends a group is not in force (R10).
    fn hold_growth(&mut self, rng: &mut Rng) {
        self.calm(4_000);
        self.with_spares();
        let shape = &mut self.shape;
        (shape.pg_count, shape.pages_per_pg, shape.page_bytes) = (2, 16, 512);
        (shape.lal, shape.key_count) = (shape.lal.max(256), 150);
        (shape.clients, shape.think_us) = (shape.clients.max(6), 500);
        (shape.work.clears, shape.work.deadlines) = (false, false);
        shape.members.grow_below = Some(rng.pick(&[1, 4, 8]));
        shape.members.pgs_more = 3;
        for turn in 0..6 {
            let hold = Fault::HoldGrowth {
                hold_ms: rng.pick(&[120, 250]),
                dies: rng.chance(1, 3),
            };
            self.add(20 + 500 * turn, hold);
        }
    }

    /// A segment that was removed says that it holds what the writer sends (R20).
    fn late_leaver(&mut self, rng: &mut Rng) {
        self.calm(4_500);
        self.with_spares();
        if rng.chance(1, 2) {
            self.shape.pg_count = 1;
            self.shape.pages_per_pg = 4_096;
        }
        for turn in 0..5 {
            let at = 100 + 800 * turn + rng.below(100);
            let hold_ms = rng.pick(&[40, 80, 150]);
            self.add(at, Fault::LateLeaver { hold_ms });
            let wanted = Wanted::Replace {
                node: rng.index(9),
                pg: Some(u32::try_from(rng.below(2)).expect("small")),
                to: None,
            };
            self.add(at + 1, Fault::Want(wanted));
            // And one that somebody thinks better of while it is under way.
            let node = rng.index(9);
            let (pg, to) = (Some(0), None);
            let at = at + 350;
            self.add(at, Fault::Want(Wanted::Replace { node, pg, to }));
            let later = rng.pick(&[2, 6, 15, 40]);
            self.add(at + later, Fault::Want(Wanted::Restore { node }));
        }
    }

    /// A writer keeps just four, since a dead rival holds the other two (R8).
    fn bare_quorum(&mut self, rng: &mut Rng) {
        self.calm(4_500);
        self.shape.members = MemberShape {
            refence_ms: Some(rng.pick(&[50, 100, 400])),
            ..MemberShape::PLAIN
        };
        for turn in 0..3 {
            let nodes = rng.nodes(2);
            let successor = rng.chance(2, 5);
            let at = 150 + 1_300 * turn + rng.below(200);
            self.add(at, Fault::BareQuorum { nodes, successor });
        }
    }

    /// A zone and one more are gone for good. Without the word of an operator the volume can be read at its last durable point (R23);
    /// with it three survivors go on (R19).
    fn destroy(&mut self, rng: &mut Rng, word: bool) {
        self.faults.retain(|(at, fault)| {
            let early = *at < 900 * MS;
            let wants = matches!(fault, Fault::Want(_) | Fault::Dead { .. });
            early && !fault.forgets() && !wants
        });
        self.failovers.clear();
        self.end = 4_000 * MS;
        self.with_spares();
        self.shape.members.ends_read_only = !word;
        // The shorter one is over before a writer speaks again to a joining segment that refused it for a moment.
        let patience_ms = if self.seed.is_multiple_of(2) {
            2_500
        } else {
            700
        };
        self.shape.members.repair_ms = word.then_some(patience_ms);
        let zone = rng.below(3);
        let other = (2 * zone + 2 + rng.below(4)) % 6;
        let mut nodes = (0b11 << (2 * zone)) | (1 << other);
        if word && rng.chance(1, 2) {
            // One of each zone: the spare nodes are enough for six again.
            nodes = (0..3).fold(0, |nodes, zone| nodes | 1 << (2 * zone + rng.below(2)));
        }
        let at = rng.range(700, 1_300);
        if rng.chance(2, 3) {
            // What the writer sent last is not everywhere.
            let first = rng.below(6);
            let lives = |node: &u64| nodes & (1 << *node) == 0;
            let survivor = (first..first + 6).map(|node| node % 6).find(lives);
            let cut = Fault::CutWriter {
                nodes: survivor.map_or(0, |node| 1 << node),
                one_way: 1,
                length: 400,
            };
            self.add(at - rng.pick(&[4, 30, 120]), cut);
            self.add(at - 130, Fault::NoGossip { length: 600 });
        }
        self.add(at, Fault::Destroy { nodes });
        for _ in 0..rng.below(4) {
            let host = rng.index(3);
            self.add(at + rng.range(1, 2_000), Fault::OpenForReading { host });
        }
        if word {
            let host = rng.index(3);
            let begin = at + rng.pick(&[5, 60, 400]);
            self.add(begin, Fault::GiveWord { host });
            for _ in 0..rng.below(3) {
                self.add(begin + rng.range(1, 500), Fault::CrashWriter);
            }
            if rng.chance(1, 2) {
                // A survivor in the middle of it.
                let left: Vec<u64> = (0..6).filter(|node| nodes & (1 << node) == 0).collect();
                let crash = Fault::Crash {
                    nodes: 1 << left[rng.index(left.len())],
                    power: rng.chance(1, 2),
                    down: rng.pick(&[3, 60, 300]),
                };
                self.add(begin + rng.range(1, 300), crash);
            }
        }
    }

    /// Survivors get copies again; in the middle of that the writer and one of them die (R19).
    fn regrow(&mut self, rng: &mut Rng) {
        self.calm(100_000);
        self.with_spares();
        self.shape.members.repair_ms = Some(20_000);
        // It waits for half a minute until its members have been heard without a gap.
        (self.shape.think_us, self.shape.gossip_ms) = (400_000, 200);
        self.shape.clients = 2;
        let nodes = (0..3).fold(0, |nodes, zone| nodes | 1 << (2 * zone + rng.below(2)));
        self.add(700, Fault::Destroy { nodes });
        self.add(760, Fault::GiveWord { host: rng.index(3) });
        let window = Fault::JoiningWindow {
            survivor: rng.index(4),
            joins: rng.chance(1, 2),
            confirmed: false,
        };
        let window = match rng.chance(1, 3) {
            true => Fault::JoiningWindow {
                survivor: rng.index(3),
                joins: true,
                confirmed: true,
            },
            false => window,
        };
        let at = rng.pick(&[2_000, 2_000, 40_000]);
        self.add(at, window);
        if rng.chance(1, 2) {
            // What joins is far from whole when they die.
            for turn in 0..50 {
                self.add(20_000 + 1_500 * turn, Fault::NoGossip { length: 1_000 });
            }
        }
    }

    /// A writer dies, nothing else is wrong, and standbys are there.
    fn take_over_in_time(&mut self, rng: &mut Rng) {
        self.calm(6_000);
        self.shape.prompt = true;
        for turn in 0..rng.range(1, 3) {
            let host = usize::try_from(turn).expect("small");
            let patience_ms = rng.pick(&[300, 500]);
            self.add(40 + turn, Fault::StandBy { host, patience_ms });
        }
        for turn in 0..3 {
            self.add(500 + 1_800 * turn + rng.below(200), Fault::CrashWriter);
        }
    }

    /// Standbys see writers die, stand still and be cut off, and race each other.
    fn stand_by(&mut self, rng: &mut Rng) {
        self.failovers.clear();
        self.end = 6_000 * MS;
        self.faults.retain(|(_, fault)| {
            matches!(
                fault,
                Fault::Crash { .. }
                    | Fault::Isolate { .. }
                    | Fault::Reset { .. }
                    | Fault::PauseWriter { .. }
                    | Fault::OpenForReading { .. }
            )
        });
        let hosts = rng.range(1, 3);
        for turn in 0..hosts {
            let patience_ms = rng.pick(&[300, 500]);
            let host = usize::try_from(turn).expect("small");
            self.add(40 + turn, Fault::StandBy { host, patience_ms });
        }
        for turn in 0..4 {
            let at = 300 + 1_300 * turn + rng.below(300);
            let ends = match rng.below(3) {
                0 => Fault::CrashWriter,
                1 => Fault::PauseWriter { length: 1_000 },
                _ => Fault::CutWriter {
                    nodes: 0b11_1111,
                    one_way: rng.pick(&[0, 1]),
                    length: 1_000,
                },
            };
            self.add(at, ends);
        }
    }

    /// Nobody is gone, although each of three nodes has once said so.
    fn roll_silence(&mut self, rng: &mut Rng) {
        self.calm(5_500);
        let patience_ms = 300;
        let host = rng.index(3);
        self.add(40, Fault::StandBy { host, patience_ms });
        for turn in 0..2 {
            let nodes = rng.nodes(3);
            let at = 300 + 2_600 * turn + rng.below(200);
            self.add(at, Fault::RollSilence { nodes });
        }
    }

    /// Answers to a reader are of different moments (R23).
    fn slow_surveys(&mut self, rng: &mut Rng) {
        self.calm(3_000);
        self.shape.spread_out();
        for turn in 0..12 {
            let slow = Fault::SlowSurvey {
                host: rng.index(3),
                pg: u32::try_from(rng.below(4)).expect("small"),
                hold_ms: rng.pick(&[3, 10, 40]),
            };
            self.add(150 + 220 * turn + rng.below(100), slow);
        }
    }
}
