//! The cut, on answers written by hand and against a record-by-record twin.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sixfold_log_format::wire::Census;
use sixfold_log_format::{History, MembershipEpoch, PgId};
use sixfold_recovery::cut::{Cut, CutError, cut};

use crate::common::{census, entry, epoch, history, lsn, manifest_of, range, run, segment, six};

fn cut_of(answers: Vec<Census>) -> Result<Cut, CutError> {
    let answers: Vec<_> = answers
        .into_iter()
        .map(|census| (PgId::ROOT, census))
        .collect();
    cut(&answers)
}

fn points(cut: &Cut) -> (u64, u64, u64) {
    (cut.vcl.get(), cut.vdl.get(), cut.pg_last[0].1.get())
}

#[test]
fn an_untouched_volume_is_cut_at_nothing() {
    let answers = (0..4)
        .map(|number| census(number, history(1, &[]), 0, 0, Vec::new()))
        .collect();
    assert_eq!(points(&cut_of(answers).unwrap()), (0, 0, 0));
}

#[test]
fn nobody_answered() {
    assert_eq!(cut(&[]), Err(CutError::NoAnswers));
}

#[test]
fn the_union_of_all_answers_counts_up_to_the_first_gap() {
    let found = history(2, &[range(0, 10, 2)]);
    let answers = vec![
        census(0, found.clone(), 12, 12, vec![run(13, 13, 2, &[13])]),
        census(
            1,
            found.clone(),
            10,
            0,
            vec![run(11, 12, 2, &[11, 12]), run(14, 15, 2, &[15])],
        ),
        census(2, found.clone(), 11, 11, vec![run(17, 18, 2, &[17, 18])]),
        census(3, found, 11, 11, Vec::new()),
    ];
    assert_eq!(points(&cut_of(answers).unwrap()), (15, 15, 15));
}

#[test]
fn vdl_is_a_cpl_and_the_last_valid_lsn_may_lie_below_it() {
    let found = history(2, &[range(0, 10, 2)]);
    let answers = vec![
        census(0, found.clone(), 11, 11, vec![run(12, 16, 2, &[13])]),
        census(1, found, 11, 11, vec![]),
    ];
    assert_eq!(points(&cut_of(answers).unwrap()), (16, 13, 13));
}

#[test]
fn a_range_end_is_a_consistency_point() {
    // The reopening at epoch 3 annulled (12, 22] and wrote nothing.
    let found = history(3, &[range(0, 10, 2), range(12, 22, 3)]);
    let answers = vec![
        census(0, found, 11, 11, vec![run(12, 14, 2, &[12, 14])]),
        census(1, history(2, &[range(0, 10, 2)]), 11, 11, vec![]),
    ];
    assert_eq!(points(&cut_of(answers).unwrap()), (22, 22, 12));
}

#[test]
fn the_highest_history_counts_whole_and_all_others_are_void() {
    let low = history(3, &[range(12, 22, 3)]);
    let high = history(4, &[range(13, 23, 4)]);
    let answers = vec![
        census(0, low, 12, 12, Vec::new()),
        census(1, high.clone(), 12, 12, vec![run(13, 13, 2, &[13])]),
    ];
    let cut = cut_of(answers).unwrap();
    assert_eq!((points(&cut), cut.history), ((23, 23, 13), high));
}

#[test]
fn the_highest_manifest_counts() {
    let mut newer = census(2, history(1, &[]), 0, 0, Vec::new());
    newer.manifest.version.membership_epoch = MembershipEpoch::new(9);
    let newest = newer.manifest.clone();
    let answers = vec![
        census(0, history(1, &[]), 0, 0, Vec::new()),
        newer,
        census(3, history(1, &[]), 0, 0, Vec::new()),
    ];
    assert_eq!(cut_of(answers).unwrap().manifest, newest);
}

#[test]
fn a_gap_below_an_installed_range_cuts_below_it() {
    // R1, second story: 1001 was counted by the one who installed (1001, 1011], and its only copy is gone.
    let answers = vec![
        census(
            0,
            history(6, &[range(1001, 1011, 6)]),
            1000,
            1000,
            Vec::new(),
        ),
        census(1, history(5, &[]), 1000, 1000, Vec::new()),
    ];
    assert_eq!(points(&cut_of(answers).unwrap()), (1000, 1000, 1000));
}

#[test]
fn a_batch_is_cut_in_the_middle_when_another_group_lost_a_record() {
    // PG1 holds 11..15, PG0's 16 is lost, CPLs are 13 and 16 (R5).
    let manifest = manifest_of(vec![entry(0, vec![six()]), entry(1, vec![six()])]);
    let mut one = census(1, history(1, &[]), 10, 4, vec![run(11, 15, 2, &[13])]);
    let mut zero = census(0, history(1, &[]), 10, 10, Vec::new());
    one.manifest = manifest.clone();
    zero.manifest = manifest;
    let cut = cut(&[(PgId::ROOT, zero), (PgId::new(1), one)]).unwrap();
    assert_eq!((cut.vcl, cut.vdl), (lsn(15), lsn(13)));
    assert_eq!(
        cut.pg_last,
        [(PgId::ROOT, lsn(10)), (PgId::new(1), lsn(13))]
    );
}

#[test]
fn two_records_at_one_lsn_are_never_passed_over() {
    let found = history(1, &[]);
    let answers = vec![
        census(0, found.clone(), 10, 10, vec![run(11, 13, 5, &[])]),
        census(1, found.clone(), 10, 10, vec![run(13, 14, 6, &[])]),
    ];
    let expected = CutError::TwoRecords {
        lsn: lsn(13),
        first: epoch(5),
        second: epoch(6),
    };
    assert_eq!(cut_of(answers), Err(expected));
    // Where the history annuls the LSN there is no second record.
    let settled = history(6, &[range(12, 13, 6)]);
    let answers = vec![
        census(0, found, 10, 10, vec![run(11, 13, 5, &[])]),
        census(1, settled, 10, 10, vec![run(13, 14, 6, &[])]),
    ];
    assert_eq!(points(&cut_of(answers).unwrap()).0, 14);
}

#[test]
fn nonsense_is_refused() {
    for nonsense in [
        census(0, history(1, &[]), 10, 10, vec![run(12, 11, 2, &[])]),
        census(0, history(1, &[]), 10, 10, vec![run(0, 3, 2, &[])]),
        census(0, history(1, &[]), 10, 10, vec![run(11, 12, 2, &[13])]),
        census(0, history(1, &[]), 10, 10, vec![run(11, u64::MAX, 2, &[])]),
        census(0, history(1, &[]), u64::MAX, 10, Vec::new()),
        census(
            0,
            history(3, &[range(5, 9, 2), range(1, 3, 3)]),
            10,
            10,
            Vec::new(),
        ),
        census(0, history(3, &[range(5, 5, 2)]), 10, 10, Vec::new()),
    ] {
        let refused = cut_of(vec![nonsense, census(1, history(1, &[]), 0, 0, Vec::new())]);
        assert!(
            matches!(refused, Err(CutError::Malformed { segment: blamed, .. }) if blamed == segment(0))
        );
    }
}

/// The same, one LSN after the other.
fn twin(answers: &[Census]) -> Result<(u64, u64, u64), ()> {
    let found = answers
        .iter()
        .map(|census| &census.history)
        .max_by_key(|history| history.volume_epoch)
        .unwrap();
    let mut records: BTreeMap<u64, u64> = BTreeMap::new();
    let mut points: BTreeSet<u64> = found
        .ranges
        .iter()
        .map(|range| range.through.get())
        .collect();
    for run in answers.iter().flat_map(|census| &census.runs) {
        for number in run.first.get()..=run.last.get() {
            if found.annuls(lsn(number)) {
                continue;
            }
            let before = records.insert(number, run.volume_epoch.get());
            if before.is_some_and(|before| before != run.volume_epoch.get()) {
                return Err(());
            }
            points.extend(
                run.cpls
                    .iter()
                    .filter(|&&cpl| cpl == lsn(number))
                    .map(|cpl| cpl.get()),
            );
        }
    }
    let start = answers
        .iter()
        .map(|census| census.vdl_seen.get())
        .max()
        .unwrap();
    let mut vcl = start;
    while records.contains_key(&(vcl + 1)) || found.annuls(lsn(vcl + 1)) {
        vcl += 1;
    }
    let vdl = points
        .iter()
        .copied()
        .filter(|&point| point <= vcl)
        .max()
        .unwrap_or(0)
        .max(start);
    let below = answers
        .iter()
        .map(|census| census.last_valid.get())
        .filter(|&last| !found.annuls(lsn(last)));
    let last = records
        .keys()
        .copied()
        .chain(below)
        .filter(|&last| last <= vdl)
        .max()
        .unwrap_or(0);
    Ok((vcl, vdl, last))
}

fn any_history() -> impl Strategy<Value = History> {
    (
        2..5_u64,
        proptest::collection::vec((0..4_u64, 1..5_u64), 0..3),
    )
        .prop_map(|(volume_epoch, steps)| {
            let mut at = 8;
            let ranges: Vec<_> = steps
                .into_iter()
                .map(|(gap, length)| {
                    let new = range(at + gap, at + gap + length, 2);
                    at += gap + length;
                    new
                })
                .collect();
            history(volume_epoch, &ranges)
        })
}

fn any_census(number: u8) -> impl Strategy<Value = Census> {
    let runs = proptest::collection::vec((1..3_u64, 0..5_u64, 2..4_u64, any::<u8>()), 0..5);
    (any_history(), 6..12_u64, 0..3_u64, runs).prop_map(move |(found, seen, below, steps)| {
        let mut at = seen;
        let runs = steps
            .into_iter()
            .map(|(gap, length, volume_epoch, cpls)| {
                let (first, last) = (at + gap, at + gap + length);
                at = last;
                let cpls: Vec<u64> = (first..=last)
                    .filter(|cpl| cpls & (1 << (cpl - first)) != 0)
                    .collect();
                // Mostly of one epoch, so that most cases get past the check for two records.
                run(
                    first,
                    last,
                    if volume_epoch == 3 && number == 0 {
                        3
                    } else {
                        2
                    },
                    &cpls,
                )
            })
            .collect();
        census(number, found, seen, seen - below, runs)
    })
}

proptest! {
    #[test]
    fn the_cut_agrees_with_its_twin(answers in (any_census(0), any_census(1), any_census(2))) {
        let answers = vec![answers.0, answers.1, answers.2];
        let expected = twin(&answers);
        match cut_of(answers) {
            Ok(cut) => prop_assert_eq!(Ok(points(&cut)), expected),
            Err(CutError::TwoRecords { .. }) => prop_assert!(expected.is_err()),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
