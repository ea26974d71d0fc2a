//! Watchers over ring and log: where they begin, how they go over from one to the other, what they ask for.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use sixfold_log_format::{Lsn, PgId};

use super::cursor::Watcher;
use super::log_maker::{Dice, Do, LogMaker, all, put};
use super::ring::{WatchSeat, WatchShared, WatchTail};
use super::{CommitChanges, LogError, WatchError, WatchStep};

/// The writer's side of a made-up log.
struct Writer {
    maker: LogMaker,
    shared: Arc<WatchShared>,
    tail: WatchTail,
    /// Seals that went to the tail.
    handed: usize,
}

impl Writer {
    /// Opens on what the maker holds.
    fn open(maker: LogMaker, ring_bytes: usize) -> Writer {
        let (history, base) = (maker.history.clone(), maker.vdl);
        let volume = super::log_maker::VOLUME;
        let shared = WatchShared::new(volume, history, maker.pgs().len(), base, ring_bytes);
        let shared = Arc::new(shared);
        let handed = maker.seals.len();
        Writer {
            tail: WatchTail::new(Arc::clone(&shared)),
            maker,
            shared,
            handed,
        }
    }

    /// What was sealed becomes durable.
    fn publish(&mut self) {
        for (point, batches) in &self.maker.seals[self.handed..] {
            batches.iter().for_each(|batch| self.tail.push(batch));
            self.tail.seal(*point);
        }
        self.handed = self.maker.seals.len();
        self.tail.publish(self.maker.vdl);
    }

    fn watch(&self, from: Lsn) -> Watcher {
        Watcher::new(Arc::clone(&self.shared), all(), from, self.maker.vdl).unwrap()
    }

    /// One step, log reads included. `None` when it waits.
    fn step(&self, watcher: &mut Watcher, reads: &mut usize) -> Option<CommitChanges> {
        for _ in 0..10_000 {
            match watcher.step(self.maker.vdl).unwrap() {
                WatchStep::Commit(commit) => return Some(commit),
                WatchStep::Wait => return None,
                WatchStep::Again => {}
                WatchStep::ReadLog(wants) => {
                    for want in wants {
                        *reads += 1;
                        let answer = self.maker.answer(&want, self.maker.vdl, 2);
                        watcher.supply(answer).unwrap();
                    }
                }
            }
        }
        panic!("it does not end");
    }

    fn drain(&self, watcher: &mut Watcher) -> (Vec<CommitChanges>, usize) {
        let mut reads = 0;
        let commits = std::iter::from_fn(|| self.step(watcher, &mut reads)).collect();
        (commits, reads)
    }
}

fn grown(seed: u64, groups: usize) -> (LogMaker, Dice) {
    let mut dice = Dice(seed);
    let mut maker = LogMaker::new(groups);
    maker.grow(&mut dice, 40);
    let cut = maker.commits.last().unwrap().lsn;
    maker.torn(0, &put("torn", "away"));
    maker.reopen(cut, 5, true);
    maker.grow(&mut dice, 20);
    (maker, dice)
}

#[test]
fn from_any_lsn_exactly_the_commits_above_it_are_delivered_whole() {
    for seed in 1..12 {
        let (maker, _) = grown(seed * 31, 1 + seed as usize % 3);
        let writer = Writer::open(maker, 1 << 20);
        for from in 0..=writer.maker.vdl.get() {
            let from = Lsn::new(from);
            let mut watcher = writer.watch(from);
            let (commits, _) = writer.drain(&mut watcher);
            assert_eq!(
                commits,
                writer.maker.commits_after(from),
                "seed {seed} from {from}"
            );
            assert_eq!(watcher.resume_lsn(), writer.maker.vdl);
        }
    }
}

#[test]
fn a_watcher_that_is_stopped_anywhere_resumes_without_gap_or_duplicate() {
    for seed in 1..60 {
        let (maker, mut dice) = grown(seed * 77, 2);
        let writer = Writer::open(maker, 1 << 20);
        let mut watcher = writer.watch(Lsn::NONE);
        let mut commits = Vec::new();
        let mut reads = 0;
        loop {
            let resume = watcher.resume_lsn();
            let cuts = |commit: &CommitChanges| commit.before < resume && resume < commit.lsn;
            assert!(
                !writer.maker.commits.iter().any(cuts),
                "{resume} cuts a commit"
            );
            if dice.below(4) == 0 {
                watcher = writer.watch(resume);
            }
            match writer.step(&mut watcher, &mut reads) {
                Some(commit) => commits.push(commit),
                None => break,
            }
        }
        assert_eq!(
            commits,
            writer.maker.commits_after(Lsn::NONE),
            "seed {seed}"
        );
    }
}

#[test]
fn a_watcher_goes_over_from_the_log_to_the_ring_and_back_by_lsn() {
    for ring_bytes in [0, 300, 1_000, 1 << 20] {
        let mut log_reads = 0;
        for seed in 1..80 {
            let (maker, mut dice) = grown(seed * 1_237, 1 + seed as usize % 3);
            let mut writer = Writer::open(maker, ring_bytes);
            let _seat = writer.shared.sit();
            let from = Lsn::new(dice.below(writer.maker.vdl.get()));
            let mut watcher = writer.watch(from);
            let mut commits = Vec::new();
            for _ in 0..30 {
                let count = dice.below(4);
                writer.maker.grow(&mut dice, count);
                writer.publish();
                // It takes some, all, or nothing of what there is.
                for _ in 0..dice.below(12) {
                    commits.extend(writer.step(&mut watcher, &mut log_reads));
                }
                assert!(writer.shared.usage().1 <= ring_bytes);
            }
            commits.extend(writer.drain(&mut watcher).0);
            assert_eq!(
                commits,
                writer.maker.commits_after(from),
                "seed {seed}, ring of {ring_bytes}"
            );
        }
        assert!(log_reads > 0);
    }
}

#[test]
fn who_keeps_up_never_reads_the_log() {
    let (maker, mut dice) = grown(5, 2);
    let mut writer = Writer::open(maker, 1 << 20);
    let _seat = writer.shared.sit();
    // Recording begins with the next seal.
    writer.maker.grow(&mut dice, 3);
    writer.publish();
    let mut watchers: Vec<Watcher> = (0..4).map(|_| writer.watch(writer.maker.vdl)).collect();
    let from = writer.maker.vdl;
    let mut seen = vec![Vec::new(); watchers.len()];
    for _ in 0..50 {
        writer.maker.grow(&mut dice, 3);
        writer.publish();
        for (watcher, seen) in watchers.iter_mut().zip(&mut seen) {
            let (commits, reads) = writer.drain(watcher);
            assert_eq!(reads, 0);
            seen.extend(commits);
        }
    }
    for seen in seen {
        assert_eq!(seen, writer.maker.commits_after(from));
    }
}

#[test]
fn nothing_is_delivered_before_vdl_has_reached_it() {
    let mut writer = Writer::open(LogMaker::new(1), 1 << 20);
    let _seat = writer.shared.sit();
    writer.maker.mtr(&[(0, Some(Do::Noise))]);
    writer.maker.seal();
    writer.publish();
    let vdl = writer.maker.vdl;
    let mut watcher = writer.watch(vdl);
    writer.maker.mtr(&[(0, Some(put("a", "1")))]);
    writer.maker.seal();
    let (point, batches) = writer.maker.seals.last().unwrap().clone();
    batches.iter().for_each(|batch| writer.tail.push(batch));
    writer.tail.seal(point);
    assert_eq!(watcher.step(vdl), Ok(WatchStep::Wait));
    assert_eq!(watcher.resume_lsn(), vdl);
    writer.tail.publish(point);
    assert!(matches!(watcher.step(point), Ok(WatchStep::Commit(commit)) if commit.lsn == point));
}

#[test]
fn the_ring_is_kept_for_watchers_only_and_let_go_with_the_last() {
    let mut writer = Writer::open(LogMaker::new(1), 1 << 20);
    let mut dice = Dice(3);
    let mut grow = |writer: &mut Writer| {
        writer.maker.grow(&mut dice, 3);
        writer.publish();
        writer.shared.usage()
    };
    assert_eq!(grow(&mut writer), (0, 0));
    let seats: Vec<WatchSeat> = (0..2).map(|_| writer.shared.sit()).collect();
    grow(&mut writer);
    let (count, bytes) = grow(&mut writer);
    assert!(count == 2 && bytes > 0);
    drop(seats);
    assert_eq!(writer.shared.usage(), (0, 0));
    let from = writer.maker.vdl;
    let mut watcher = writer.watch(from);
    let seat = writer.shared.sit();
    grow(&mut writer);
    grow(&mut writer);
    let (commits, _) = writer.drain(&mut watcher);
    assert_eq!(commits, writer.maker.commits_after(from));
    drop(seat);
    assert_eq!(grow(&mut writer), (0, 0));
    assert_eq!(grow(&mut writer), (0, 0));
}

#[test]
fn an_idle_range_moves_the_resume_point_all_the_same() {
    let (maker, _) = grown(9, 2);
    let writer = Writer::open(maker, 1 << 20);
    let mut range = all();
    range.start = Bytes::from_static(b"nobody writes here");
    let vdl = writer.maker.vdl;
    let mut watcher = Watcher::new(Arc::clone(&writer.shared), range, Lsn::new(3), vdl).unwrap();
    // Ranges that were deleted reach into it only when they have no end.
    assert_eq!(writer.drain(&mut watcher).0, []);
    assert_eq!(watcher.resume_lsn(), vdl);
}

#[test]
fn a_damaged_or_incomplete_answer_is_asked_for_at_another_segment() {
    let (maker, _) = grown(11, 1);
    let writer = Writer::open(maker, 0);
    let vdl = writer.maker.vdl;
    for fault in 0..4 {
        let mut watcher = writer.watch(Lsn::NONE);
        let WatchStep::ReadLog(wants) = watcher.step(vdl).unwrap() else {
            panic!("it must read the log");
        };
        let mut answer = writer.maker.answer(&wants[0], vdl, 1_000);
        match fault {
            0 => drop(answer.piece.batches.pop()),
            1 => drop(answer.piece.batches.remove(1)),
            2 => answer.piece.batches[0] = Bytes::from_static(b"no batch"),
            _ => (answer.piece.batches, answer.piece.more) = (Vec::new(), true),
        }
        watcher.supply(answer.clone()).unwrap();
        let WatchStep::ReadLog(wants) = next_read(&mut watcher, vdl) else {
            panic!("it must read again");
        };
        assert_eq!(wants[0].avoid, [answer.segment], "fault {fault}");
        // The others are as bad, or there are none: damage, with where and how.
        let unavailable = LogError::Unavailable {
            after: wants[0].after,
            reason: "nobody is left".to_owned(),
        };
        let error = watcher.refused(PgId::ROOT, &unavailable).unwrap();
        assert!(matches!(error, WatchError::Corrupt { .. }), "{error}");
        // Asked again, a whole answer heals it.
        let (_, reads) = writer.drain(&mut watcher);
        assert!(reads > 0);
        assert_eq!(watcher.resume_lsn(), vdl);
    }
}

fn next_read(watcher: &mut Watcher, vdl: Lsn) -> WatchStep {
    for _ in 0..10_000 {
        match watcher.step(vdl).unwrap() {
            WatchStep::Commit(_) | WatchStep::Again => {}
            step => return step,
        }
    }
    panic!("it does not end");
}

#[test]
fn a_start_above_vdl_or_below_the_floor_is_refused_with_the_bound() {
    let (mut maker, _) = grown(13, 1);
    maker.history.floor = Lsn::new(4);
    maker
        .history
        .ranges
        .retain(|range| range.after >= Lsn::new(4));
    let vdl = maker.vdl;
    let writer = Writer::open(maker, 0);
    let watch = |from| Watcher::new(Arc::clone(&writer.shared), all(), from, vdl).map(drop);
    let above = vdl.next();
    assert_eq!(watch(above), Err(WatchError::AboveVdl { from: above, vdl }));
    let (from, oldest) = (Lsn::new(3), Lsn::new(4));
    assert_eq!(watch(from), Err(WatchError::TooOld { from, oldest }));
    assert_eq!(watch(oldest), Ok(()));
    let mut watcher = writer.watch(oldest);
    let forgotten = LogError::Forgotten {
        after: oldest,
        oldest: Lsn::new(40),
    };
    let error = watcher.refused(PgId::ROOT, &forgotten).unwrap();
    let oldest = Lsn::new(40);
    assert_eq!(
        error,
        WatchError::TooOld {
            from: Lsn::new(4),
            oldest
        }
    );
}
