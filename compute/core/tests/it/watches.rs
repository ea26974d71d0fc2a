//! Watches over the writer: what they are given, when, and from where.

use std::sync::Arc;

use bytes::Bytes;
use sixfold_compute_core::{
    Change, ChangeValue, CommitChanges, LogError, LogWant, WatchError, WatchRange, WatchSeat,
    WatchStep, Watcher, WriterBounds,
};
use sixfold_log_format::wire::Refusal;
use sixfold_log_format::{Lsn, PgId};

use crate::cluster::{Cluster, bounds, key, opened, opened_with_pgs, put, segment_id};

/// One who watches everything that is put by these tests.
struct Watching {
    watcher: Watcher,
    _seat: WatchSeat,
    seen: Vec<CommitChanges>,
}

impl Watching {
    fn new(cluster: &Cluster, from: Lsn) -> Watching {
        let shared = cluster.core.shared();
        let range = WatchRange {
            start: key("key"),
            end: Some(key("key~")),
        };
        let watch = Arc::clone(shared.watch());
        let seat = watch.sit();
        Watching {
            watcher: Watcher::new(watch, range, from, shared.vdl()).unwrap(),
            _seat: seat,
            seen: Vec::new(),
        }
    }

    /// Takes everything that there is; how many parts of the log it needed.
    fn drain(&mut self, cluster: &mut Cluster) -> usize {
        let mut reads = 0;
        for _ in 0..100_000 {
            match self.watcher.step(cluster.core.shared().vdl()).unwrap() {
                WatchStep::Commit(commit) => {
                    assert!(commit.lsn <= cluster.core.shared().vdl());
                    self.seen.push(commit);
                }
                WatchStep::Again => {}
                WatchStep::Wait => return reads,
                WatchStep::ReadLog(wants) => {
                    for want in wants {
                        reads += 1;
                        let ticket = cluster.want_log(want);
                        cluster.pass_ms(500);
                        let answer = cluster.log_read(ticket).expect("it is answered");
                        self.watcher.supply(answer.unwrap()).unwrap();
                    }
                }
            }
        }
        panic!("it does not end");
    }

    fn values(&self) -> Vec<(Lsn, String)> {
        let text = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
        let values = self.seen.iter().flat_map(|commit| {
            commit.changes.iter().map(|change| match change {
                Change::Put {
                    value: ChangeValue::Inline(value),
                    ..
                } => (commit.lsn, text(value)),
                other => panic!("{other:?}"),
            })
        });
        values.collect()
    }
}

/// Puts under one of many keys, so that the tree grows and splits.
fn commit(cluster: &mut Cluster, number: usize) -> (Lsn, String) {
    let value = format!("value {number} {}", "x".repeat(40));
    let lsn = cluster
        .commit(put(&format!("key {:04}", number * 7 % 1_000), &value))
        .unwrap();
    (lsn, value)
}

fn tiny_pages(groups: u32, watch_bytes_max: usize) -> Cluster {
    let bounds = WriterBounds {
        watch_bytes_max,
        ..bounds()
    };
    let pages_per_pg = 512 / u64::from(groups * groups);
    Cluster::with(bounds, opened_with_pgs(512, 100_000, groups, pages_per_pg))
}

#[test]
fn four_watchers_at_their_own_pace_are_told_every_commit_once() {
    for (groups, ring_bytes) in [(1, 1 << 20), (4, 2_000), (4, 0)] {
        let mut cluster = tiny_pages(groups, ring_bytes);
        let mut model = Vec::new();
        for number in 0..100 {
            model.push(commit(&mut cluster, number));
        }
        let from = model[60].0;
        let mut watching: Vec<Watching> = (0..4).map(|_| Watching::new(&cluster, from)).collect();
        for number in 100..300 {
            model.push(commit(&mut cluster, number));
            for (index, one) in watching.iter_mut().enumerate() {
                if number % (index * 30 + 1) == 0 {
                    one.drain(&mut cluster);
                }
            }
        }
        for one in &mut watching {
            one.drain(&mut cluster);
            assert_eq!(
                one.values(),
                model[61..],
                "{groups} groups, ring of {ring_bytes}"
            );
            assert_eq!(one.watcher.resume_lsn(), cluster.core.shared().vdl());
        }
        assert!(cluster.core.shared().watch().usage().1 <= ring_bytes);
        let another_group = 6.min(cluster.segments.len() - 6);
        assert!(!cluster.segments[another_group].batches.is_empty());
    }
}

#[test]
fn a_change_is_told_when_its_quorum_has_it_and_not_before() {
    let mut cluster = Cluster::new();
    let mut watching = Watching::new(&cluster, cluster.core.shared().vdl());
    cluster.commit(put("key", "first")).unwrap();
    watching.drain(&mut cluster);
    assert_eq!(watching.seen.len(), 1);
    cluster.each(|segment| segment.mute = true);
    let ticket = cluster.submit(put("key", "second"));
    cluster.run();
    (0..3).for_each(|index| cluster.ack_and_run(index));
    assert_eq!(watching.drain(&mut cluster), 0);
    assert_eq!((watching.seen.len(), cluster.answer(ticket)), (1, None));
    cluster.ack_and_run(3);
    assert_eq!(watching.drain(&mut cluster), 0, "it comes from memory");
    assert_eq!(watching.seen.len(), 2);
    let lsn = cluster.answer(ticket).unwrap().unwrap();
    assert_eq!(watching.seen[1].lsn, lsn);
}

#[test]
fn a_fenced_writer_tells_what_is_durable_and_never_the_rest() {
    let mut cluster = Cluster::new();
    let mut watching = Watching::new(&cluster, cluster.core.shared().vdl());
    let (lsn, _) = commit(&mut cluster, 1);
    let (last, _) = commit(&mut cluster, 2);
    cluster.each(|segment| segment.mute = true);
    cluster.submit(put("key", "lost"));
    cluster.run();
    let volume_epoch = sixfold_log_format::VolumeEpoch::new(9);
    for index in 0..3 {
        cluster.say(
            index,
            sixfold_log_format::wire::Message::Refused(Refusal::StaleEpoch { volume_epoch }),
        );
    }
    cluster.run();
    assert_eq!(cluster.fenced, Some(volume_epoch));
    let vdl = cluster.core.shared().vdl();
    let mut steps = Vec::new();
    let end = loop {
        match watching.watcher.step(vdl).unwrap() {
            WatchStep::Commit(commit) => steps.push(commit.lsn),
            WatchStep::Again => {}
            step => break step,
        }
    };
    // The first commits came before the ring began, and a fenced writer reads no log.
    if let WatchStep::ReadLog(mut wants) = end {
        let ticket = cluster.want_log(wants.remove(0));
        cluster.run();
        let refused = cluster.log_read(ticket);
        assert_eq!(refused, Some(Err(LogError::Fenced { volume_epoch })));
    } else {
        assert_eq!((end, steps), (WatchStep::Wait, vec![lsn, last]));
    }
}

#[test]
fn after_a_failover_a_watch_goes_on_where_it_stood() {
    let mut cluster = tiny_pages(1, 4_000);
    let mut watching = Watching::new(&cluster, cluster.core.shared().vdl());
    let mut model: Vec<_> = (0..50).map(|number| commit(&mut cluster, number)).collect();
    let mut seen = Vec::new();
    for round in 0..4 {
        for number in 0..20 {
            model.push(commit(&mut cluster, round * 100 + number));
            if number == 7 {
                watching.drain(&mut cluster);
            }
        }
        let from = watching.watcher.resume_lsn();
        seen.extend(watching.values());
        cluster.fail_over(crate::cluster::UNIX_MS);
        watching = Watching::new(&cluster, from);
    }
    watching.drain(&mut cluster);
    seen.extend(watching.values());
    assert_eq!(seen, model);
    assert_eq!(watching.watcher.resume_lsn(), cluster.core.shared().vdl());
}

fn want(after: Lsn) -> LogWant {
    LogWant {
        pg: PgId::ROOT,
        after,
        avoid: Vec::new(),
    }
}

#[test]
fn the_log_is_read_from_a_segment_that_covers_it_and_from_another_when_that_fails() {
    let mut cluster = Cluster::new();
    let from = cluster.core.shared().vdl();
    // The last two are behind.
    (4..6).for_each(|index| cluster.segments[index].stuck = true);
    for number in 0..10 {
        commit(&mut cluster, number);
    }
    let asked = |cluster: &Cluster| -> Vec<usize> {
        cluster
            .segments
            .iter()
            .map(|one| one.log_read_count)
            .collect()
    };
    for _ in 0..4 {
        let ticket = cluster.want_log(want(from));
        cluster.run();
        let answer = cluster.log_read(ticket).unwrap().unwrap();
        assert_eq!(answer.through, cluster.core.shared().vdl());
        assert!(!answer.piece.batches.is_empty());
    }
    assert_eq!(asked(&cluster)[4..], [0, 0]);
    // A silent one is overdue, one refuses, one is down; what was no good before is not asked.
    cluster.segments[0].silent = true;
    cluster.segments[1].refuses_reads = Some(Refusal::Overloaded);
    cluster.segments[2].down = true;
    for _ in 0..4 {
        let ticket = cluster.want_log(want(from));
        cluster.pass_ms(2_000);
        let answer = cluster.log_read(ticket).unwrap().unwrap();
        assert_eq!(answer.segment, segment_id(3));
    }
    let avoided = LogWant {
        avoid: (0..6).map(segment_id).collect(),
        ..want(from)
    };
    let ticket = cluster.want_log(avoided);
    cluster.run();
    assert!(matches!(
        cluster.log_read(ticket),
        Some(Err(LogError::Unavailable { .. }))
    ));
    // Nobody answers any more: by the deadline it is said so.
    cluster.each(|segment| segment.silent = true);
    let ticket = cluster.want_log(want(from));
    cluster.pass_ms(6_000);
    let error = cluster.log_read(ticket).unwrap().unwrap_err();
    assert!(matches!(error, LogError::Unavailable { .. }), "{error}");
}

#[test]
fn a_forgotten_start_is_told_with_the_oldest_point() {
    let mut cluster = Cluster::new();
    let from = cluster.core.shared().vdl();
    for number in 0..10 {
        commit(&mut cluster, number);
    }
    let forgotten = |horizon| Some(Refusal::Forgotten { horizon });
    // One that forgot alone is passed over.
    cluster.segments[0].refuses_reads = forgotten(from.plus(3));
    for _ in 0..6 {
        let ticket = cluster.want_log(want(from));
        cluster.run();
        assert!(cluster.log_read(ticket).unwrap().is_ok());
    }
    cluster.each(|segment| segment.refuses_reads = forgotten(from.plus(5)));
    let mut watching = Watching::new(&cluster, from);
    let vdl = cluster.core.shared().vdl();
    let WatchStep::ReadLog(mut wants) = watching.watcher.step(vdl).unwrap() else {
        panic!("it reads the log");
    };
    let ticket = cluster.want_log(wants.remove(0));
    cluster.run();
    let error = cluster.log_read(ticket).unwrap().unwrap_err();
    let oldest = from.plus(5);
    assert!(matches!(error, LogError::Forgotten { oldest: said, .. } if said == oldest));
    let error = watching.watcher.refused(PgId::ROOT, &error);
    assert_eq!(error, Some(WatchError::TooOld { from, oldest }));
}

#[test]
fn what_a_watcher_holds_back_ends_with_it_and_with_the_distance() {
    let mut cluster = Cluster::with(bounds(), opened(8_192, 100_000));
    let shared = cluster.core.shared();
    let seat = shared.watch().sit();
    let start = shared.vdl();
    commit(&mut cluster, 0);
    seat.hold(shared.announce_at(start).unwrap(), shared.vdl());
    commit(&mut cluster, 1);
    assert_eq!((seat.held(), shared.read_point_min()), (Some(start), start));
    // A point too far behind is not held at all.
    let far = shared.vdl().plus(2_000_000);
    let other = shared.watch().sit();
    other.hold(shared.announce_at(start).unwrap(), far);
    assert_eq!(other.held(), None);
    drop(seat);
    assert_eq!(shared.read_point_min(), shared.vdl());
}
