//! Tests of validation: forgetting, floors and the two ways to check ranges.

use std::collections::VecDeque;
use std::ops::Bound;

use bytes::Bytes;
use sixfold_log_format::Lsn;

use crate::cleared::ClearedRanges;
use crate::conflict::RecentCommits;
use crate::event::{CommitError, CommitRequest, ReadRange};

fn key(number: u32) -> Bytes {
    Bytes::from(format!("{number:06}"))
}

fn reads(read_point: u64, keys: &[u32]) -> CommitRequest {
    CommitRequest {
        read_point: Lsn::new(read_point),
        read_keys: keys.iter().copied().map(key).collect(),
        ..CommitRequest::default()
    }
}

fn reads_range(read_point: u64, start: u32, end: Option<u32>, end_included: bool) -> CommitRequest {
    let range = ReadRange {
        start: key(start),
        end: end.map(key),
        end_included,
    };
    CommitRequest {
        read_point: Lsn::new(read_point),
        read_ranges: vec![range],
        ..CommitRequest::default()
    }
}

#[test]
fn a_key_conflicts_only_with_commits_above_the_read_point() {
    let mut recent = RecentCommits::new(Lsn::new(100), 1_000, usize::MAX);
    recent.changed(key(1), Lsn::new(110));
    assert_eq!(recent.validate(&reads(110, &[1])), Ok(()));
    assert_eq!(
        recent.validate(&reads(109, &[2, 1])),
        Err(CommitError::Conflict {
            read_point: Lsn::new(109),
            changed_at: Lsn::new(110)
        })
    );
    assert_eq!(recent.validate(&reads(109, &[2])), Ok(()));
}

#[test]
fn a_forgotten_commit_makes_older_read_points_too_old() {
    let mut recent = RecentCommits::new(Lsn::new(100), 2, usize::MAX);
    for (number, lsn) in [(1, 110), (2, 120), (1, 130)] {
        recent.changed(key(number), Lsn::new(lsn));
    }
    assert_eq!(recent.len(), 2);
    let too_old = CommitError::TooOld {
        read_point: Lsn::new(109),
        oldest: Lsn::new(110),
    };
    assert_eq!(recent.validate(&reads(109, &[7])), Err(too_old));
    // The newer commit of key 1 is still known although its older one was forgotten.
    assert!(matches!(
        recent.validate(&reads(120, &[1])),
        Err(CommitError::Conflict { .. })
    ));
    assert_eq!(recent.validate(&reads(110, &[7])), Ok(()));
    // Writes alone are never too old.
    assert_eq!(recent.validate(&reads(1, &[])), Ok(()));
}

#[test]
fn trimming_keeps_what_the_lowest_read_point_needs() {
    let mut recent = RecentCommits::new(Lsn::new(100), 1_000, usize::MAX);
    recent.changed(key(1), Lsn::new(110));
    recent.changed(key(2), Lsn::new(120));
    recent.trim(Lsn::new(110));
    assert_eq!(recent.len(), 1);
    assert_eq!(recent.validate(&reads(110, &[1])), Ok(()));
    assert!(matches!(
        recent.validate(&reads(110, &[2])),
        Err(CommitError::Conflict { .. })
    ));
}

#[test]
fn ranges_conflict_the_same_way_with_few_and_with_many_changes() {
    for change_count in [10_u32, 20_000] {
        let mut recent = RecentCommits::new(Lsn::new(100), 1_000_000, usize::MAX);
        for number in 0..change_count {
            recent.changed(key(2 * number), Lsn::new(101 + u64::from(number)));
        }
        let mut conflicts = |request: CommitRequest| {
            matches!(recent.validate(&request), Err(CommitError::Conflict { .. }))
        };
        assert!(conflicts(reads_range(100, 4, Some(5), false)));
        assert!(
            !conflicts(reads_range(100, 5, Some(6), false)),
            "the end is not read"
        );
        assert!(
            conflicts(reads_range(100, 5, Some(6), true)),
            "the end is read"
        );
        assert!(
            !conflicts(reads_range(100, 7, Some(7), false)),
            "an empty range"
        );
        assert!(
            !conflicts(reads_range(100, 9, Some(3), true)),
            "a reversed range"
        );
        assert!(
            conflicts(reads_range(100, 1, None, false)),
            "without an end"
        );
        assert!(
            !conflicts(reads_range(100, 900_000, None, false)),
            "behind the last change"
        );
    }
}

#[test]
fn long_keys_are_forgotten_by_their_bytes_and_raise_the_floor() {
    let mut recent = RecentCommits::new(Lsn::new(100), 1_000_000, 64 << 10);
    let long = |number: u64| Bytes::from(format!("{number:01024}"));
    for number in 1..=1_000 {
        recent.changed(long(number), Lsn::new(100 + number));
    }
    assert!(
        (50..=64).contains(&recent.len()),
        "{} of 1 KiB",
        recent.len()
    );
    assert!(matches!(
        recent.validate(&reads(500, &[7])),
        Err(CommitError::TooOld { .. })
    ));
    assert_eq!(recent.validate(&reads(1_099, &[7])), Ok(()));
    recent.trim(Lsn::new(1_100));
    recent.changed(long(1), Lsn::new(1_101));
    assert_eq!(recent.len(), 1, "what was forgotten takes no room");
}

/// What is remembered of clears, against a list of them.
#[test]
fn cleared_ranges_agree_with_a_list_of_clears_and_do_not_grow() {
    let remembered = 40;
    let mut steps = ClearedRanges::default();
    let mut list: VecDeque<(u32, Option<u32>, Lsn)> = VecDeque::new();
    let mut forgotten = Lsn::NONE;
    let mut state = 7_u32;
    let mut draw = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    for number in 1..=3_000 {
        let start = draw(60);
        let end = (draw(12) > 0).then(|| start + 1 + draw(20));
        let lsn = Lsn::new(number);
        steps.clear(key(start), end.map(key), lsn);
        list.push_back((start, end, lsn));
        if list.len() > remembered {
            let (_, _, oldest) = list.pop_front().unwrap();
            steps.forget(oldest);
            forgotten = oldest;
        }
        assert!(steps.len() <= 4 * remembered + 4, "{} steps", steps.len());
        let at = draw(90);
        let holds = |&&(start, end, _): &&(u32, Option<u32>, Lsn)| {
            start <= at && end.is_none_or(|end| at < end)
        };
        let wanted = list.iter().rev().find(holds).map(|&(_, _, lsn)| lsn);
        let found = steps.last_at(&key(at)).filter(|&lsn| lsn > forgotten);
        assert_eq!(found, wanted, "key {at} after {number} clears");
        let (low, high, after) = (
            at,
            at + 1 + draw(9),
            Lsn::new(number - u64::from(draw(30)) % number),
        );
        let after = after.max(forgotten);
        let touches = |&(start, end, lsn): &(u32, Option<u32>, Lsn)| {
            lsn > after && start < high && end.is_none_or(|end| low < end)
        };
        // A later clear may hide an earlier one, but only where it says more.
        let (first, last) = (key(low), key(high));
        let bounds = (Bound::Included(&first[..]), Bound::Excluded(&last[..]));
        assert_eq!(
            steps.last_within(bounds, after).is_some(),
            list.iter().any(touches),
            "keys {low}..{high} above {after}"
        );
    }
}

#[test]
fn ranges_that_meet_overlap_or_come_unsorted_are_checked_as_each_alone_would_be() {
    let mut recent = RecentCommits::new(Lsn::new(100), 10_000, usize::MAX);
    let ranges = [
        (40, Some(50), false),
        (10, Some(30), false),
        (20, Some(25), true),
        (30, Some(35), true),
        (60, Some(60), true),
        (70, Some(70), false),
        (15, Some(30), true),
        (90, None, false),
        (95, Some(97), false),
    ];
    let mut request = reads(100, &[]);
    for (start, end, end_included) in ranges {
        let one = reads_range(100, start, end, end_included);
        request.read_ranges.extend(one.read_ranges);
    }
    // Both ways: each change among the ranges, and, behind many changes, each range.
    for round in 0..2u64 {
        for number in 0..100 {
            let lsn = Lsn::new(10_000 * round + 201 + u64::from(number));
            let read_point = Lsn::new(lsn.get() - 1);
            let mut recent = RecentCommits::new(Lsn::new(100), 10_000, usize::MAX);
            recent.changed(key(number), lsn);
            (0..round * 5_000).for_each(|_| recent.changed(key(55), lsn.next()));
            let inside = [10..36, 40..50, 60..61, 90..100];
            let is_read = inside.iter().any(|range| range.contains(&number));
            let request = CommitRequest {
                read_point,
                ..request.clone()
            };
            let valid = recent.validate(&request);
            assert_eq!(valid.is_err(), is_read, "{number}: {valid:?}");
        }
    }
    recent.range_cleared(key(61), Some(key(70)), Lsn::new(110));
    assert_eq!(recent.validate(&request), Ok(()));
    recent.range_cleared(key(69), Some(key(91)), Lsn::new(120));
    assert!(recent.validate(&request).is_err());
}

#[test]
fn changes_that_nobody_asked_about_are_judged_and_forgotten_as_others_are() {
    // Every change and its LSN, and what was forgotten of them: the plain way to say it.
    for seed in 1..200_u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut draw = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut recent = RecentCommits::new(Lsn::new(100), 12, usize::MAX);
        let mut plain: VecDeque<(u64, u32)> = VecDeque::new();
        let (mut lsn, mut floor) = (100, 100);
        for _ in 0..100 {
            match draw(8) {
                0 => {
                    let through = floor + draw(lsn - floor + 1);
                    recent.trim(Lsn::new(through));
                    while plain.front().is_some_and(|(lsn, _)| *lsn <= through) {
                        floor = plain.pop_front().unwrap().0;
                    }
                }
                1 | 2 => {
                    let read_point = floor + draw(lsn - floor + 1);
                    let number = u32::try_from(draw(6)).unwrap();
                    let conflicts = plain
                        .iter()
                        .any(|(lsn, key)| *key == number && *lsn > read_point);
                    let judged = recent.validate(&reads(read_point, &[number]));
                    assert_eq!(judged.is_err(), conflicts, "seed {seed}: {judged:?}");
                }
                _ => {
                    lsn += 1 + draw(3);
                    let number = u32::try_from(draw(6)).unwrap();
                    recent.changed(key(number), Lsn::new(lsn));
                    plain.push_back((lsn, number));
                    if plain.len() > 12 {
                        floor = plain.pop_front().unwrap().0;
                    }
                }
            }
            assert_eq!((recent.len(), recent.floor().get()), (plain.len(), floor));
        }
    }
}
