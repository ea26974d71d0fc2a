//! Brute-force twins of the quorum arithmetic, and the intersections that the protocol stands on.

use sixfold_log_format::{Lsn, MemberKind, PgEntry, QuorumModel, SegmentSet};
use sixfold_recovery::quorum::{
    is_fence_quorum, is_fence_quorum_of_all, is_read_quorum, is_read_quorum_of_all,
    is_write_quorum, is_write_quorum_of_all, pgcl,
};

use crate::common::{entry, full_tail, has, lsn, set, six, subsets, subsets_of};

const ABCDEF: u32 = 0b0011_1111;
const ABCDEG: u32 = 0b0101_1111;
const ABCDGH: u32 = 0b1100_1111;
const ABCD: u32 = 0b0000_1111;
const FULLS: u32 = 0b0001_0101;

/// What the page on quorums says, counted the dull way.
fn write_twin(set: &SegmentSet, mask: u32) -> bool {
    let held: Vec<_> = set
        .members
        .iter()
        .filter(|member| has(mask)(member.segment))
        .collect();
    let fulls_missing = set
        .members
        .iter()
        .any(|member| member.kind == MemberKind::Full && !has(mask)(member.segment));
    match set.model {
        QuorumModel::FourOfSix => held.len() >= 4,
        QuorumModel::ThreeOfFour => held.len() >= 3,
        QuorumModel::TwoOfThree => held.len() >= 2,
        QuorumModel::FullTail => held.len() >= 4 || !fulls_missing,
    }
}

fn read_twin(set: &SegmentSet, mask: u32) -> bool {
    let held: Vec<_> = set
        .members
        .iter()
        .filter(|member| !member.joining && has(mask)(member.segment))
        .collect();
    match set.model {
        QuorumModel::FourOfSix => held.len() >= 3,
        QuorumModel::ThreeOfFour | QuorumModel::TwoOfThree => held.len() >= 2,
        QuorumModel::FullTail => {
            held.len() >= 3 && held.iter().any(|member| member.kind == MemberKind::Full)
        }
    }
}

fn all_sets() -> Vec<SegmentSet> {
    let mut joining = six();
    joining.members[5].joining = true;
    let mut joining_full = full_tail();
    joining_full.members[0].joining = true;
    joining_full.members[1].joining = true;
    let mut joining_four = set(QuorumModel::ThreeOfFour, &[0, 1, 2, 3]);
    joining_four.members[2].joining = true;
    vec![
        six(),
        full_tail(),
        set(QuorumModel::ThreeOfFour, &[0, 1, 2, 3]),
        set(QuorumModel::TwoOfThree, &[0, 1, 2]),
        joining,
        joining_full,
        joining_four,
    ]
}

#[test]
fn quorums_agree_with_their_twins_on_every_subset() {
    for set in all_sets() {
        for mask in subsets(6) {
            assert_eq!(
                is_write_quorum(&set, &has(mask)),
                write_twin(&set, mask),
                "write {mask:b} of {set:?}"
            );
            assert_eq!(
                is_read_quorum(&set, &has(mask)),
                read_twin(&set, mask),
                "read {mask:b} of {set:?}"
            );
        }
    }
}

#[test]
fn quorums_are_monotone() {
    for set in all_sets() {
        for mask in subsets(6) {
            for more in 0..6 {
                let larger = mask | 1 << more;
                assert!(is_write_quorum(&set, &has(larger)) || !is_write_quorum(&set, &has(mask)));
                assert!(is_read_quorum(&set, &has(larger)) || !is_read_quorum(&set, &has(mask)));
                assert!(is_fence_quorum(&set, &has(larger)) || !is_fence_quorum(&set, &has(mask)));
            }
        }
    }
}

/// The highest LSN, tried one by one.
fn pgcl_twin(entry: &PgEntry, scls: &[u64]) -> Lsn {
    let reached = |candidate: u64| {
        entry.sets.iter().all(|set| {
            let mask = scls
                .iter()
                .enumerate()
                .filter(|&(_, &scl)| scl >= candidate)
                .map(|(index, _)| 1 << index)
                .sum();
            write_twin(set, mask)
        })
    };
    lsn((0..=4).rev().find(|&candidate| reached(candidate)).unwrap())
}

fn check_pgcl(entry: &PgEntry, members: usize) {
    let mut scls = vec![0_u64; members];
    for code in 0..4_u32.pow(members as u32) {
        for (index, scl) in scls.iter_mut().enumerate() {
            *scl = u64::from(code / 4_u32.pow(index as u32) % 4);
        }
        let scl_of =
            |id: sixfold_log_format::SegmentId| lsn(scls[usize::from(id.as_bytes()[0] - 1)]);
        assert_eq!(
            pgcl(entry, &scl_of),
            pgcl_twin(entry, &scls),
            "{scls:?} of {entry:?}"
        );
    }
}

#[test]
fn pgcl_agrees_with_its_twin() {
    for set in all_sets() {
        check_pgcl(&entry(0, vec![set]), 6);
    }
    check_pgcl(
        &entry(
            0,
            vec![six(), set(QuorumModel::FourOfSix, &[0, 1, 2, 3, 4, 6])],
        ),
        7,
    );
    check_pgcl(
        &entry(0, vec![six(), set(QuorumModel::ThreeOfFour, &[0, 1, 2, 3])]),
        6,
    );
}

#[test]
fn an_entry_without_sets_has_no_quorum_and_no_pgcl() {
    let empty = entry(0, Vec::new());
    assert!(!is_write_quorum_of_all(&empty, &|_| true));
    assert!(!is_fence_quorum_of_all(&empty, &|_| true));
    assert_eq!(pgcl(&empty, &|_| lsn(9)), Lsn::NONE);
}

/// Pairs of a write set and a later reader that do not meet; `whole` were made complete in between.
fn misses(writes: &[u32], readers: &[u32], whole: u32) -> usize {
    writes
        .iter()
        .flat_map(|write| readers.iter().map(move |reader| (write | whole) & reader))
        .filter(|&m| m == 0)
        .count()
}

fn sets_where(holds: impl Fn(u32) -> bool) -> Vec<u32> {
    subsets(6).filter(|&mask| holds(mask)).collect()
}

#[test]
fn every_fence_and_every_read_meets_every_write() {
    for set in [
        six(),
        full_tail(),
        set(QuorumModel::ThreeOfFour, &[0, 1, 2, 3]),
        set(QuorumModel::TwoOfThree, &[0, 1, 2]),
    ] {
        let of_set = |mask: u32| mask < 1 << set.model.member_count();
        let writes = sets_where(|mask| of_set(mask) && is_write_quorum(&set, &has(mask)));
        let fences = sets_where(|mask| of_set(mask) && is_fence_quorum(&set, &has(mask)));
        let reads = sets_where(|mask| of_set(mask) && is_read_quorum(&set, &has(mask)));
        assert!(!writes.is_empty() && !fences.is_empty() && !reads.is_empty());
        assert_eq!(misses(&writes, &fences, 0), 0);
        assert_eq!(misses(&writes, &reads, 0), 0);
        // Two writers never both find a write quorum.
        assert_eq!(misses(&writes, &writes, 0), 0);
    }
}

/// The fence, counted the dull way: a write quorum, of full/tail with two fulls (R12).
#[test]
fn fences_agree_with_their_twin_on_every_subset() {
    for set in all_sets() {
        for mask in subsets(6) {
            let is_full = |number: &usize| set.members[*number].kind == MemberKind::Full;
            let held = (0..set.members.len()).filter(|number| mask & (1 << number) != 0);
            let fulls = held.filter(is_full).count();
            let twin = write_twin(&set, mask) && (set.model != QuorumModel::FullTail || fulls >= 2);
            assert_eq!(
                is_fence_quorum(&set, &has(mask)),
                twin,
                "{mask:b} of {set:?}"
            );
        }
    }
}

/// A read quorum of several sets needs one of each: what is answered while a step is under way may be missed by either alone.
#[test]
fn quorums_of_several_sets_hold_in_each_of_them() {
    let many = [
        vec![six(), set(QuorumModel::FourOfSix, &[0, 1, 2, 3, 4, 6])],
        vec![six(), set(QuorumModel::ThreeOfFour, &[0, 1, 2, 3])],
        vec![full_tail(), {
            let mut entered = full_tail();
            entered.members[1] = crate::common::member(6);
            entered.members[1].kind = MemberKind::Tail;
            entered.members[1].joining = true;
            entered
        }],
    ];
    for sets in many {
        let entry = entry(0, sets);
        let all = |mask, twin: &dyn Fn(&SegmentSet, u32) -> bool| {
            entry.sets.iter().all(|set| twin(set, mask))
        };
        for mask in 0..1_u32 << 7 {
            let held = has(mask);
            assert_eq!(
                is_write_quorum_of_all(&entry, &held),
                all(mask, &write_twin)
            );
            assert_eq!(is_read_quorum_of_all(&entry, &held), all(mask, &read_twin));
            let fences = entry.sets.iter().all(|set| is_fence_quorum(set, &held));
            assert_eq!(is_fence_quorum_of_all(&entry, &held), fences);
        }
    }
}

/// Answered writes of which one segment forgot everything, and fences that then miss them.
fn forgetful_misses(set: &SegmentSet, forgetful_count: u32, fence: impl Fn(u32) -> bool) -> usize {
    let mut count = 0;
    for write in sets_where(|mask| is_write_quorum(set, &has(mask))) {
        for forgot in subsets_of(write, forgetful_count) {
            count += misses(&[write & !forgot], &sets_where(&fence), 0);
        }
    }
    count
}

#[test]
fn a_fence_survives_one_forgetful_segment_and_a_read_survives_none() {
    let six = six();
    let fence = |mask: u32| is_fence_quorum(&six, &has(mask));
    assert_eq!(forgetful_misses(&six, 1, fence), 0);
    assert!(forgetful_misses(&six, 2, fence) > 0);
    assert!(forgetful_misses(&six, 1, |mask| is_read_quorum(&six, &has(mask))) > 0);
}

#[test]
fn a_full_tail_fence_holds_two_fulls() {
    let set = full_tail();
    let one_full = 0b10_1011; // A, B, D, F
    assert!(is_write_quorum(&set, &has(one_full)) && !is_fence_quorum(&set, &has(one_full)));
    let two_fulls = 0b10_1101; // A, C, D, F
    assert!(is_fence_quorum(&set, &has(two_fulls)));
    assert!(is_fence_quorum(&set, &has(FULLS)));
    // Of the six misses of a plain write quorum (R12) the second full removes those of a write to the fulls alone. A
    // fence of the fulls alone keeps the other three: there the budget is no forgetful segment.
    let lean = |mask: u32| mask == FULLS || mask.count_ones() == 4;
    let minimal = |fence: &dyn Fn(u32) -> bool| {
        let mut count = 0;
        for write in sets_where(|mask| lean(mask) && is_write_quorum(&set, &has(mask))) {
            for forgot in subsets_of(write, 1) {
                count += misses(
                    &[write & !forgot],
                    &sets_where(|mask| lean(mask) && fence(mask)),
                    0,
                );
            }
        }
        count
    };
    assert_eq!(minimal(&|mask| is_write_quorum(&set, &has(mask))), 6);
    assert_eq!(minimal(&|mask| is_fence_quorum(&set, &has(mask))), 3);
}

/// R20: what is answered under ABCDEF and read under its successors.
#[test]
fn a_joining_segment_that_counted_would_miss_answered_writes() {
    let writes = subsets_of(ABCDEF, 4);
    assert_eq!(misses(&writes, &subsets_of(ABCDEG, 3), 0), 10);
    // It does not count: the read set of ABCDEG loses those with the empty G in it.
    let mut with_g = set(QuorumModel::FourOfSix, &[0, 1, 2, 3, 4, 6]);
    with_g.members[5].joining = true;
    let reads: Vec<u32> = subsets(8)
        .filter(|&mask| is_read_quorum(&with_g, &has(mask)))
        .collect();
    assert_eq!(misses(&writes, &reads, 0), 0);
}

#[test]
fn two_replaced_at_once_miss_even_a_full_fence_until_they_are_whole() {
    let writes = subsets_of(ABCDEF, 4);
    assert_eq!(misses(&writes, &subsets_of(ABCDEG, 4), 0), 0);
    assert_eq!(misses(&writes, &subsets_of(ABCDGH, 4), 0), 6);
    assert_eq!(misses(&writes, &subsets_of(ABCD, 3), 0), 0);
    assert_eq!(misses(&writes, &subsets_of(ABCD, 2), 0), 6);
    // With the rule: a write quorum of the set entered is whole before the old one is left.
    for (entered, write, read) in [(ABCDEG, 4, 3), (ABCDGH, 4, 3), (ABCD, 3, 2)] {
        for whole in subsets_of(entered, write) {
            assert_eq!(misses(&writes, &subsets_of(entered, read), whole), 0);
        }
    }
}

#[test]
fn a_step_held_by_the_entered_set_alone_leaves_blind_readers_of_the_old_one() {
    let entered = subsets_of(ABCDEG, 4);
    let blind = subsets_of(ABCDEF, 3);
    assert_eq!(misses(&entered, &blind, 0), 10);
    for left in subsets_of(ABCDEF, 4) {
        assert_eq!(misses(&entered, &blind, left), 0);
    }
}
