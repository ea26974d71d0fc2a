//! Quorums: monotone predicates on sets of segments, and PGCL.
//!
//! Every write, fence and reopening asks here whether enough segments answered. PGCL is computed on each ack, so
//! nothing here allocates. Who may be *asked* is not decided here.

use sixfold_log_format::limits::SEGMENTS_PER_SET_MAX;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, MemberKind, PgEntry, QuorumModel, SegmentId, SegmentSet};

/// Fulls that the fence of a full/tail set must hold (R12): all three of them may be a write set, and one of them may be
/// the segment that forgot.
const FENCE_FULLS_MIN: usize = 2;

/// How many members make a write quorum by their number alone. Under full/tail all fulls are one too, whatever
/// their number.
pub const fn write_count(model: QuorumModel) -> usize {
    match model {
        QuorumModel::FourOfSix | QuorumModel::FullTail => 4,
        QuorumModel::ThreeOfFour => 3,
        QuorumModel::TwoOfThree => 2,
    }
}

/// How many members make a read quorum. Under full/tail one of them must be full.
pub const fn read_count(model: QuorumModel) -> usize {
    match model {
        QuorumModel::FourOfSix | QuorumModel::FullTail => 3,
        QuorumModel::ThreeOfFour | QuorumModel::TwoOfThree => 2,
    }
}

/// Whether `holds` is true of a write quorum of this set.
pub fn is_write_quorum(set: &SegmentSet, holds: &dyn Fn(SegmentId) -> bool) -> bool {
    let held = Held::count(set, holds);
    held.any >= write_count(set.model) - usize::from(planted(Mutant::WriteQuorumOfThree))
        || (set.model == QuorumModel::FullTail && held.full > 0 && held.full == held.full_members)
}

/// Whether `holds` is true of a read quorum of this set; joining members count for nothing (R20).
pub fn is_read_quorum(set: &SegmentSet, holds: &dyn Fn(SegmentId) -> bool) -> bool {
    let held = Held::count(set, holds);
    held.any_whole >= read_count(set.model)
        && (set.model != QuorumModel::FullTail || held.full_whole > 0)
}

/// Whether `holds` is true of a set of segments whose claims fence this set: a write quorum and, under full/tail, at
/// least two fulls (R12). It meets every write quorum, and keeps meeting it when one segment forgot, except that a fence
/// of the three fulls alone has no forgetful segment to spare.
pub fn is_fence_quorum(set: &SegmentSet, holds: &dyn Fn(SegmentId) -> bool) -> bool {
    is_write_quorum(set, holds)
        && (set.model != QuorumModel::FullTail || Held::count(set, holds).full >= FENCE_FULLS_MIN)
}

/// Whether `holds` is true of a write quorum of every set in force. False for an entry without sets.
pub fn is_write_quorum_of_all(entry: &PgEntry, holds: &dyn Fn(SegmentId) -> bool) -> bool {
    !entry.sets.is_empty() && entry.sets.iter().all(|set| is_write_quorum(set, holds))
}

/// Whether `holds` is true of a read quorum of every set in force. False for an entry without sets.
pub fn is_read_quorum_of_all(entry: &PgEntry, holds: &dyn Fn(SegmentId) -> bool) -> bool {
    !entry.sets.is_empty() && entry.sets.iter().all(|set| is_read_quorum(set, holds))
}

/// Whether `holds` is true of a fence quorum of every set in force. False for an entry without sets.
pub fn is_fence_quorum_of_all(entry: &PgEntry, holds: &dyn Fn(SegmentId) -> bool) -> bool {
    !entry.sets.is_empty() && entry.sets.iter().all(|set| is_fence_quorum(set, holds))
}

/// PGCL: the highest LSN for which the segments with an SCL at or above it satisfy every set in force. `scl_of` answers
/// `Lsn::NONE` for a segment that has acknowledged nothing.
pub fn pgcl(entry: &PgEntry, scl_of: &dyn Fn(SegmentId) -> Lsn) -> Lsn {
    entry
        .sets
        .iter()
        .map(|set| highest_with_write_quorum(set, scl_of))
        .min()
        .unwrap_or(Lsn::NONE)
}

/// The highest LSN that a write quorum of this set has reached.
fn highest_with_write_quorum(set: &SegmentSet, scl_of: &dyn Fn(SegmentId) -> Lsn) -> Lsn {
    let mut scls = Highest::new();
    let mut lowest_full = None;
    for member in &set.members {
        let scl = scl_of(member.segment);
        scls.add(scl);
        if member.kind == MemberKind::Full {
            lowest_full = Some(lowest_full.map_or(scl, |lowest: Lsn| lowest.min(scl)));
        }
    }
    let by_count =
        scls.nth(write_count(set.model) - usize::from(planted(Mutant::WriteQuorumOfThree)));
    match set.model {
        QuorumModel::FullTail => by_count.max(lowest_full.unwrap_or(Lsn::NONE)),
        QuorumModel::FourOfSix | QuorumModel::ThreeOfFour | QuorumModel::TwoOfThree => by_count,
    }
}

/// The highest value that a read quorum of this set has reached, joining members left out. `T::default()` must be the
/// lowest value and means "nothing".
pub(crate) fn highest_with_read_quorum<T: Ord + Copy + Default>(
    set: &SegmentSet,
    value_of: &dyn Fn(SegmentId) -> T,
) -> T {
    let mut values = Highest::new();
    let mut highest_full = T::default();
    for member in set.members.iter().filter(|member| !member.joining) {
        let value = value_of(member.segment);
        values.add(value);
        if member.kind == MemberKind::Full {
            highest_full = highest_full.max(value);
        }
    }
    let by_count = values.nth(read_count(set.model));
    match set.model {
        QuorumModel::FullTail => by_count.min(highest_full),
        QuorumModel::FourOfSix | QuorumModel::ThreeOfFour | QuorumModel::TwoOfThree => by_count,
    }
}

/// Members for which a predicate holds.
struct Held {
    any: usize,
    full: usize,
    full_members: usize,
    any_whole: usize,
    full_whole: usize,
}

impl Held {
    fn count(set: &SegmentSet, holds: &dyn Fn(SegmentId) -> bool) -> Held {
        let mut held = Held {
            any: 0,
            full: 0,
            full_members: 0,
            any_whole: 0,
            full_whole: 0,
        };
        for member in &set.members {
            let full = usize::from(member.kind == MemberKind::Full);
            held.full_members += full;
            if holds(member.segment) {
                held.any += 1;
                held.full += full;
                if !member.joining {
                    held.any_whole += 1;
                    held.full_whole += full;
                }
            }
        }
        held
    }
}

/// The values of one set's members, highest first, without allocating.
struct Highest<T> {
    sorted: [T; SEGMENTS_PER_SET_MAX],
    count: usize,
}

impl<T: Ord + Copy + Default> Highest<T> {
    fn new() -> Highest<T> {
        Highest {
            sorted: [T::default(); SEGMENTS_PER_SET_MAX],
            count: 0,
        }
    }

    fn add(&mut self, value: T) {
        assert!(
            self.count < SEGMENTS_PER_SET_MAX,
            "a set has at most {SEGMENTS_PER_SET_MAX} members"
        );
        let mut place = self.count;
        while place > 0 && self.sorted[place - 1] < value {
            self.sorted[place] = self.sorted[place - 1];
            place -= 1;
        }
        self.sorted[place] = value;
        self.count += 1;
    }

    /// The `n`-th highest, from 1; the lowest value when there are fewer.
    fn nth(&self, n: usize) -> T {
        if n <= self.count {
            self.sorted[n - 1]
        } else {
            T::default()
        }
    }
}
