//! The merge against every odd shape that a log can have.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

use sixfold_log_format::{Batch, Lsn, PgId};

use super::log_maker::{Dice, Do, LogMaker, all, put};
use super::merge::LogMerge;
use super::{Change, CommitChanges, LogWant, WatchRange};

/// Reads the whole log above `after`, `batches_max` batches at a time.
fn read(maker: &LogMaker, after: Lsn, batches_max: usize) -> Result<Vec<CommitChanges>, String> {
    read_range(maker, all(), after, batches_max)
}

fn read_range(
    maker: &LogMaker,
    range: WatchRange,
    after: Lsn,
    batches_max: usize,
) -> Result<Vec<CommitChanges>, String> {
    let mut merge = LogMerge::new(range, &maker.pgs(), after);
    let mut commits = Vec::new();
    for _ in 0..10_000 {
        if merge.cursor() == maker.vdl {
            assert_eq!(merge.settled(), maker.vdl, "VDL is a consistency point");
            return Ok(commits);
        }
        let lacking: Vec<(PgId, Lsn)> = merge.lacking().collect();
        for (pg, after) in lacking {
            let avoid = Vec::new();
            let answer = maker.answer(&LogWant { pg, after, avoid }, maker.vdl, batches_max);
            add(&mut merge, maker, &answer)?;
        }
        commits.extend(
            merge
                .merge(&maker.history)
                .map_err(|damage| damage.reason)?,
        );
    }
    panic!("it does not end");
}

fn add(merge: &mut LogMerge, maker: &LogMaker, answer: &super::LogAnswer) -> Result<(), String> {
    let decode = |bytes: &bytes::Bytes| Batch::decode(bytes.clone(), super::log_maker::VOLUME);
    let batches: Vec<Batch> = answer.piece.batches.iter().flat_map(decode).collect();
    let bounds = (answer.through, answer.pg_last);
    merge
        .add_piece(
            answer.pg,
            answer.after,
            &batches,
            answer.piece.more,
            bounds,
            &maker.history,
        )
        .map_err(|damage| damage.reason)
}

#[test]
fn a_commit_over_several_groups_and_batches_comes_out_once_and_whole() {
    let mut maker = LogMaker::new(3);
    let noise = Some(Do::Noise);
    maker.mtr(&[
        (0, Some(put("a", "1"))),
        (1, Some(put("b", "2"))),
        (0, None),
        (0, noise.clone()),
        (2, Some(Do::Delete("c".into()))),
        (1, None),
        (0, None),
        (1, Some(put("d", "4"))),
    ]);
    maker.mtr(&[(2, noise)]);
    maker.mtr(&[(0, Some(put("a", "5")))]);
    maker.seal();
    assert!(maker.batches[0].len() > 2);
    for batches_max in [1, 2, 100] {
        let commits = read(&maker, Lsn::NONE, batches_max).unwrap();
        assert_eq!(commits, maker.commits);
        assert_eq!(
            (commits[0].lsn, commits[0].before),
            (Lsn::new(5), Lsn::NONE)
        );
        assert_eq!(commits[0].changes.len(), 4);
    }
}

#[test]
fn a_half_annulled_batch_gives_what_is_valid_of_it_and_nothing_else() {
    let mut maker = LogMaker::new(2);
    let cut = maker.mtr(&[(0, Some(put("kept", "1"))), (1, Some(put("kept too", "1")))]);
    maker.mtr(&[(0, Some(put("annulled", "2")))]);
    maker.torn(1, &put("torn", "3"));
    maker.seal();
    assert_eq!(maker.batches[0].len(), 1, "one batch holds both");
    maker.reopen(cut, 50, true);
    maker.mtr(&[(1, Some(put("new", "4")))]);
    maker.seal();
    let commits = read(&maker, Lsn::NONE, 1).unwrap();
    let keys: Vec<_> = commits.iter().flat_map(|commit| &commit.changes).collect();
    assert_eq!(commits, maker.commits);
    assert_eq!(keys.len(), 3);
    // What follows an annulled range follows its end, which is a consistency point.
    assert_eq!(commits[1].before, maker.history.ranges[0].through);
    // The group that is idle since holds nothing back, wherever reading begins.
    for after in 0..=maker.vdl.get() {
        if maker.history.annuls(Lsn::new(after)) || after == cut.get() {
            assert_eq!(
                read(&maker, Lsn::new(after), 1).unwrap(),
                maker.commits[1..]
            );
        }
    }
}

#[test]
fn an_unfinished_commit_is_not_delivered_and_holds_the_resume_point_back() {
    let mut maker = LogMaker::new(1);
    let first = maker.mtr(&[(0, Some(put("a", "1")))]);
    maker.mtr(&[
        (0, Some(put("b", "2"))),
        (0, None),
        (0, Some(put("c", "3"))),
    ]);
    maker.seal();
    let mut merge = LogMerge::new(all(), &maker.pgs(), Lsn::NONE);
    let want = LogWant {
        pg: PgId::ROOT,
        after: Lsn::NONE,
        avoid: Vec::new(),
    };
    add(&mut merge, &maker, &maker.answer(&want, maker.vdl, 1)).unwrap();
    let commits = merge.merge(&maker.history).unwrap();
    assert_eq!(commits, maker.commits[..1]);
    assert_eq!((merge.cursor(), merge.settled()), (Lsn::new(2), first));
}

#[test]
fn what_is_watched_is_clipped_and_the_rest_left_out() {
    let mut maker = LogMaker::new(1);
    maker.mtr(&[(0, Some(put("a", "1")))]);
    maker.mtr(&[
        (0, Some(Do::Clear("a".into(), "c".into()))),
        (0, Some(put("b", "2"))),
        (0, Some(put("bb", "3"))),
        (0, Some(put("c", "4"))),
    ]);
    maker.mtr(&[(0, Some(Do::Clear("b".into(), String::new())))]);
    maker.mtr(&[(0, Some(Do::Clear("c".into(), "d".into())))]);
    maker.seal();
    let range = WatchRange {
        start: "b".into(),
        end: Some("bb".into()),
    };
    let commits = read_range(&maker, range, Lsn::NONE, 9).unwrap();
    let clear = Change::DeleteRange {
        start: "b".into(),
        end: Some("bb".into()),
    };
    assert_eq!(commits.len(), 2);
    assert_eq!(commits[0].changes.len(), 2);
    assert_eq!(commits[0].changes[0], clear);
    assert_eq!(commits[1].changes, [clear]);
}

#[test]
fn a_key_that_goes_with_its_row_of_the_expiry_index_has_expired() {
    let mut maker = LogMaker::new(2);
    maker.mtr(&[
        (1, Some(Do::Unindex("old".into()))),
        (0, Some(Do::Delete("old".into()))),
        (0, Some(Do::Delete("other".into()))),
    ]);
    maker.mtr(&[(1, Some(Do::Unindex("gone before".into())))]);
    maker.seal();
    let range = WatchRange {
        start: "a".into(),
        end: None,
    };
    let commits = read_range(&maker, range, Lsn::NONE, 9).unwrap();
    assert_eq!(commits.len(), 1);
    assert_eq!(
        commits[0].changes,
        [
            Change::Expired { key: "old".into() },
            Change::Delete {
                key: "other".into()
            }
        ]
    );
}

#[test]
fn a_batch_that_is_missing_in_the_middle_or_at_the_end_is_damage() {
    let mut maker = LogMaker::new(2);
    for number in 0..6 {
        maker.mtr(&[(number % 2, Some(put("key", &number.to_string())))]);
        maker.seal();
    }
    for group in 0..2 {
        for missing in 0..3 {
            let whole = maker.batches[group].clone();
            let want = LogWant {
                pg: PgId::new(group as u32),
                after: Lsn::NONE,
                avoid: Vec::new(),
            };
            let mut answer = maker.answer(&want, maker.vdl, 9);
            answer.piece.batches.remove(missing);
            let mut merge = LogMerge::new(all(), &maker.pgs(), Lsn::NONE);
            assert!(
                add(&mut merge, &maker, &answer).is_err(),
                "{group} {missing}"
            );
            assert_eq!(whole.len(), 3);
        }
    }
}

#[test]
fn duplicates_overlaps_and_batches_out_of_the_range_change_nothing() {
    for seed in 1..200 {
        let mut dice = Dice(seed * 7_919);
        let mut maker = LogMaker::new(1 + seed as usize % 3);
        maker.grow(&mut dice, 30);
        let middle = maker.commits[maker.commits.len() / 2].lsn;
        let mut merge = LogMerge::new(all(), &maker.pgs(), middle);
        let mut commits = Vec::new();
        while merge.cursor() < maker.vdl {
            let lacking: Vec<(PgId, Lsn)> = merge.lacking().collect();
            for (pg, after) in lacking {
                let avoid = Vec::new();
                let count = 1 + dice.below(3) as usize;
                let mut answer = maker.answer(&LogWant { pg, after, avoid }, maker.vdl, count);
                // What lies below was asked for by nobody, and a batch comes twice.
                let group = &maker.batches[pg.get() as usize];
                let below = group.iter().filter(|batch| batch.header().last <= after);
                let below: Vec<_> = below.map(|batch| batch.bytes().clone()).collect();
                let twice = answer.piece.batches.clone();
                answer.piece.batches.splice(0..0, below);
                answer.piece.batches.extend(twice);
                add(&mut merge, &maker, &answer).unwrap();
            }
            commits.extend(merge.merge(&maker.history).unwrap());
        }
        assert_eq!(commits, maker.commits_after(middle), "seed {seed}");
    }
}

#[test]
fn any_log_of_any_writers_gives_exactly_the_commits_that_survived() {
    for seed in 1..400 {
        let mut dice = Dice(seed * 104_729);
        let mut maker = LogMaker::new(1 + dice.below(4) as usize);
        for _ in 0..1 + dice.below(3) {
            let count = 1 + dice.below(25);
            maker.grow(&mut dice, count);
            let cpls: Vec<Lsn> = maker.commits.iter().map(|commit| commit.lsn).collect();
            let recent = cpls.iter().rev().take(5);
            let floor = maker.history.highest_end();
            let cut = recent.copied().take_while(|&lsn| lsn > floor).min();
            if dice.below(2) == 0 {
                maker.torn(0, &put("torn", "away"));
            }
            let keep = dice.below(2) == 0;
            maker.reopen(cut.unwrap_or(floor), dice.below(9), keep);
        }
        maker.grow(&mut dice, 10);
        for batches_max in [1, 3, 1_000] {
            assert_eq!(
                read(&maker, Lsn::NONE, batches_max).as_ref(),
                Ok(&maker.commits),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn a_hostile_piece_is_an_error_or_changes_nothing_and_never_a_panic() {
    let mut refused = 0;
    for seed in 1..2_000_u64 {
        let mut dice = Dice(seed * 15_485_863);
        let mut maker = LogMaker::new(2);
        maker.grow(&mut dice, 12);
        let cut = maker.commits.last().unwrap().lsn;
        maker.reopen(cut, 3, true);
        maker.grow(&mut dice, 4);
        let mut others = LogMaker::new(2);
        others.grow(&mut dice, 12);
        let mut merge = LogMerge::new(all(), &maker.pgs(), Lsn::NONE);
        let mut commits = Vec::new();
        let outcome = (|| {
            for _ in 0..4 {
                let lacking: Vec<(PgId, Lsn)> = merge.lacking().collect();
                for (pg, after) in lacking {
                    let avoid = Vec::new();
                    let want = LogWant { pg, after, avoid };
                    let mut answer = maker.answer(&want, maker.vdl, 4);
                    if dice.below(2) == 0 {
                        // Of a log that another volume, or a fork, might hold.
                        let stray = others.answer(&want, others.vdl, 3).piece.batches;
                        answer.piece.batches.extend(stray);
                    }
                    if dice.below(2) == 0 && !answer.piece.batches.is_empty() {
                        let count = answer.piece.batches.len() as u64;
                        let (one, other) = (dice.below(count), dice.below(count));
                        answer.piece.batches.swap(one as usize, other as usize);
                    }
                    answer.piece.more ^= dice.below(4) == 0;
                    answer.pg_last = Lsn::new(dice.below(answer.pg_last.get() + 2));
                    add(&mut merge, &maker, &answer)?;
                }
                commits.extend(
                    merge
                        .merge(&maker.history)
                        .map_err(|damage| damage.reason)?,
                );
            }
            Ok::<(), String>(())
        })();
        refused += usize::from(outcome.is_err());
        // Never above VDL, never out of order.
        assert!(commits.iter().all(|commit| commit.lsn <= maker.vdl));
        assert!(commits.is_sorted_by(|one, other| one.lsn < other.lsn));
    }
    assert!(refused > 200, "only {refused} were refused");
}
