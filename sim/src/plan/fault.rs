//! Faults that come at a time of their own.

use std::fmt;

use super::{Names, Wanted};
use crate::rng::Rng;

/// Something that goes wrong. Nodes are sets of bits, times are milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field says what it is")]
pub enum Fault {
    /// Processes die, with power or without, and start again.
    Crash { nodes: u16, power: bool, down: u64 },
    /// Processes stand still.
    PauseNodes { nodes: u16, length: u64 },
    /// Nobody hears these nodes, nor they anybody; `out` alone: they hear, but are not heard.
    Isolate { nodes: u16, out: bool, length: u64 },
    /// The nodes' gossip among each other does not get through.
    NoGossip { length: u64 },
    /// Connections to these nodes break.
    Reset { nodes: u16 },
    /// Links to these nodes are slow.
    SlowLinks { nodes: u16, times: u64, length: u64 },
    /// Packets are lost everywhere.
    Loss { length: u64 },
    /// Disks of these nodes are full.
    DiskFull { nodes: u16, length: u64 },
    /// Disks of these nodes are slow.
    DiskSlow { nodes: u16, times: u64, length: u64 },
    /// The next write fails.
    WriteError { nodes: u16 },
    /// Reads fail, or bring something else.
    Misreads { nodes: u16, length: u64 },
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
    CutWriter {
        nodes: u16,
        one_way: u8,
        length: u64,
    },
    /// Another writer begins beside the one that is there.
    Rival { host: usize, take_over: bool },
    /// A writer process says good-bye.
    CloseWriter,
    /// The wall clock of a machine is set, forward or back; processes on it go on.
    SetWallClock { host: usize, by_ms: i64 },
    /// An ambush: of one seal with several commits the batches of one group are held back, the others arrive, `hold_us` later the
    /// writer dies. The cut then falls through the middle of a batch (R5).
    SplitSeal { hold_us: u64 },
    /// An ambush: exactly four segments take what the writer ships, the forgetful one among them; the last of the four is late.
    /// The forgetful one forgets what only it had beside two others, comes back, and then the late one catches up (R12).
    Relapse { late: usize, after_ms: u64 },
    /// An operator drops the forgetful node's segment of a group, and would have it back.
    DropSegment { pg: u32 },
    /// Somebody opens the volume for reading (R23).
    OpenForReading { host: usize },
    /// A node is lost for good.
    Dead { node: usize },
    /// An operator leaves a wish.
    Want(Wanted),
    /// An ambush: a step of the membership, the one behind `skip` others, reaches these nodes alone; so long after its proposal the writer
    /// dies. `unseen`: the next candidate does not see them.
    SplitStep {
        reach: u16,
        skip: u32,
        hold_us: u64,
        unseen: bool,
    },
    /// The forgetful disk writes a group exactly over an earlier one of its length; then the power goes.
    Overwrite,
    /// An ambush: what the root's segments are to hear of the next step that appends a group is held back for so long; `dies`: the
    /// writer does at the end of it (R10).
    HoldGrowth { hold_ms: u64, dies: bool },
    /// An ambush: the segment that the next replacement removes hears nothing of it, and goes on; when the step is in force, three
    /// of those that stay hear nothing of the writer for so long (R20).
    LateLeaver { hold_ms: u64 },
    /// An ambush: a rival's claims reach these two nodes, then it dies, and the writer is left with exactly four (R8). `successor`: when it
    /// opens the volume again in place, somebody else was faster.
    BareQuorum { nodes: u16, successor: bool },
    /// These nodes are destroyed, all at once.
    Destroy { nodes: u16 },
    /// An operator gives the word that the destroyed nodes are lost (R19), again and again until the volume is open without them.
    GiveWord { host: usize },
    /// An ambush: the writer and one survivor die while segments join a group that lost copies, those that join as well if `joins`; or
    /// when they have just been confirmed.
    JoiningWindow {
        survivor: usize,
        joins: bool,
        confirmed: bool,
    },
    /// Somebody without the volume's token asks for all of it.
    Stranger,
    /// A process watches the writer, to take its place.
    StandBy { host: usize, patience_ms: u64 },
    /// Somebody opens the volume for reading, and the answers about one group take so much longer.
    SlowSurvey { host: usize, pg: u32, hold_ms: u64 },
    /// Three nodes, one after the other, do not hear the writer for longer than a standby's patience, tell the standby so, and are
    /// not heard by it any more when they hear the writer again.
    RollSilence { nodes: u16 },
}

impl Fault {
    pub(super) fn draw(rng: &mut Rng, harsh: bool) -> Fault {
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

impl Fault {
    /// Someone sets a clock: a little, as one does by hand, or to another year.
    pub(super) fn draw_wall_clock(rng: &mut Rng) -> Fault {
        let by_ms: i64 = rng.pick(&[40, 900, 70_000, 7_200_000, 40_000_000_000]);
        Fault::SetWallClock {
            host: rng.index(9),
            by_ms: if rng.chance(1, 2) { by_ms } else { -by_ms },
        }
    }

    /// Whether it makes the forgetful disk forget.
    pub(super) fn forgets(&self) -> bool {
        matches!(
            self,
            Fault::Rot
                | Fault::LostSync { .. }
                | Fault::Misdirect
                | Fault::Relapse { .. }
                | Fault::DropSegment { .. }
                | Fault::Overwrite
        )
    }

    pub(super) fn draw_split_seal(rng: &mut Rng) -> Fault {
        Fault::SplitSeal {
            hold_us: rng.pick(&[2_000, 8_000, 30_000]),
        }
    }

    pub(super) fn draw_relapse(rng: &mut Rng) -> Fault {
        Fault::Relapse {
            late: 1 + rng.index(5),
            after_ms: rng.pick(&[8, 20, 50]),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Crash { nodes, power, down } => {
                let how = if *power { "power cut" } else { "crash" };
                write!(f, "{how} at {} for {down} ms", Names(*nodes))
            }
            Fault::PauseNodes { nodes, length } => {
                write!(f, "{} stand still for {length} ms", Names(*nodes))
            }
            Fault::Isolate { nodes, out, length } => {
                let how = if *out { "are not heard" } else { "are cut off" };
                write!(f, "{} {how} for {length} ms", Names(*nodes))
            }
            Fault::CutWriter {
                nodes,
                one_way,
                length,
            } => write!(
                f,
                "the writer is cut off from {} for {length} ms ({})",
                Names(*nodes),
                ["both ways", "its messages are lost", "theirs are lost"][usize::from(*one_way)]
            ),
            other => write!(f, "{other:?}"),
        }
    }
}
