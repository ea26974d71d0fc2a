//! Tests of validation: forgetting, floors and the two ways to check ranges.

use bytes::Bytes;
use sixfold_log_format::Lsn;

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
        let conflicts = |request: CommitRequest| {
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
