//! How commits end: committed, refused, unknown (T2), in LSN order.

use std::time::Duration;

use sixfold_compute_core::{CommitError, CommitRequest, KeyWrite, WriterEvent};
use sixfold_kv::PageSource;
use sixfold_log_format::wire::Refusal;
use sixfold_log_format::{Lsn, Op, PageId, PgId, VolumeEpoch};
use sixfold_recovery::machine::Opened;

use crate::cluster::{Cluster, PATIENCE, bounds, key, opened, put, segment_id};

#[test]
fn a_fresh_volume_is_open_when_its_first_mtr_is_durable() {
    let mut cluster = Cluster::unopened(bounds(), opened(8_192, 1_000));
    assert!(!cluster.core.is_open());
    cluster.each(|segment| segment.mute = true);
    cluster.run();
    assert!(!cluster.core.is_open(), "nobody has acknowledged it");
    let early = cluster.submit(put("a", "1"));
    for index in 0..4 {
        assert!(!cluster.core.is_open());
        cluster.ack_and_run(index);
    }
    assert!(cluster.core.is_open());
    for index in 0..4 {
        cluster.ack_and_run(index);
    }
    let lsn = cluster.answer(early).unwrap().unwrap();
    assert!(lsn > Lsn::new(1_000), "LSNs start above the annulled range");
    assert_eq!(cluster.get("a").as_deref(), Some("1"));
}

#[test]
fn commit_waits_for_the_fourth_ack() {
    let mut cluster = Cluster::new();
    cluster.each(|segment| segment.mute = true);
    let ticket = cluster.submit(put("a", "1"));
    cluster.run();
    let vdl = cluster.core.shared().vdl();
    for index in [5, 0, 3] {
        cluster.ack_and_run(index);
        assert_eq!(cluster.answer(ticket), None);
        assert_eq!(cluster.core.shared().vdl(), vdl);
    }
    cluster.ack_and_run(1);
    let lsn = cluster.answer(ticket).unwrap().unwrap();
    assert_eq!(cluster.core.shared().vdl(), lsn);
    assert_eq!(cluster.core.stats().unacknowledged_bytes, 0);
}

#[test]
fn an_ack_repeated_by_one_segment_counts_once() {
    let mut cluster = Cluster::new();
    cluster.each(|segment| segment.mute = true);
    let ticket = cluster.submit(put("a", "1"));
    cluster.run();
    for _ in 0..10 {
        cluster.ack_and_run(0);
        cluster.ack_and_run(1);
        cluster.ack_and_run(2);
    }
    assert_eq!(cluster.answer(ticket), None);
}

#[test]
fn commits_are_answered_in_lsn_order() {
    let mut cluster = Cluster::new();
    cluster.each(|segment| segment.mute = true);
    for number in 0..50 {
        cluster.submit(put(&format!("key {number}"), "x"));
        if number % 7 == 0 {
            cluster.run();
        }
    }
    for _ in 0..20 {
        (0..6).for_each(|index| cluster.ack_and_run(index));
    }
    let lsns: Vec<Lsn> = cluster
        .answers
        .iter()
        .map(|(_, result)| result.clone().unwrap())
        .collect();
    assert_eq!(lsns.len(), 50);
    assert!(lsns.is_sorted());
    let tickets: Vec<u64> = cluster.answers.iter().map(|(ticket, _)| ticket.0).collect();
    assert!(tickets.is_sorted(), "first come, first minted");
}

#[test]
fn a_read_only_transaction_is_answered_at_once_with_its_read_point() {
    let mut cluster = Cluster::new();
    let request = CommitRequest {
        read_point: Lsn::new(1),
        read_keys: vec![key("a")],
        ..CommitRequest::default()
    };
    cluster.commit(put("a", "1")).unwrap();
    cluster.each(|segment| segment.mute = true);
    assert_eq!(cluster.commit(request), Ok(Lsn::new(1)));
}

#[test]
fn a_commit_with_lsns_and_no_quorum_by_its_deadline_is_unknown() {
    let mut cluster = Cluster::new();
    cluster.each(|segment| segment.mute = true);
    let ticket = cluster.submit(put("a", "1"));
    cluster.pass(PATIENCE - Duration::from_millis(1));
    assert_eq!(cluster.answer(ticket), None);
    cluster.pass_ms(1);
    assert!(matches!(
        cluster.answer(ticket),
        Some(Err(CommitError::Unknown { .. }))
    ));
    // It was committed after all, as unknown allows.
    (0..4).for_each(|index| cluster.ack_and_run(index));
    assert_eq!(cluster.get("a").as_deref(), Some("1"));
    assert_eq!(cluster.answers.len(), 1);
}

#[test]
fn without_a_write_quorum_new_commits_are_unavailable_after_their_deadline_and_mint_nothing() {
    let mut cluster = Cluster::new();
    (0..3).for_each(|index| cluster.kill(index));
    cluster.run();
    let last = cluster.core.stats().last;
    let ticket = cluster.submit(put("a", "1"));
    cluster.pass(PATIENCE - Duration::from_millis(1));
    assert_eq!(cluster.answer(ticket), None);
    cluster.pass_ms(1);
    assert!(matches!(
        cluster.answer(ticket),
        Some(Err(CommitError::Unavailable { .. }))
    ));
    assert_eq!(cluster.core.stats().last, last);
    // One comes back: commits go on, also those that waited.
    let waits = cluster.submit(put("b", "2"));
    cluster.segments[1].down = false;
    cluster.pass_ms(600);
    assert!(cluster.answer(waits).unwrap().is_ok());
}

#[test]
fn three_killed_nodes_end_running_commits_as_unknown_and_one_that_returns_saves_them() {
    let mut cluster = Cluster::new();
    cluster.each(|segment| segment.mute = true);
    let running = cluster.submit(put("a", "1"));
    cluster.run();
    (0..3).for_each(|index| cluster.kill(index));
    (3..6).for_each(|index| cluster.ack(index));
    cluster.pass_ms(1_000);
    assert_eq!(cluster.answer(running), None);
    // What it held when it died is durable there: its attach answer counts.
    cluster.segments[0].down = false;
    cluster.pass_ms(600);
    assert!(cluster.answer(running).unwrap().is_ok());
}

#[test]
fn a_writer_refused_by_two_goes_on_and_by_three_is_fenced() {
    let mut cluster = Cluster::new();
    let rival = VolumeEpoch::new(3);
    for index in [4, 5] {
        cluster.segments[index].refuses = Some(Refusal::StaleEpoch {
            volume_epoch: rival,
        });
    }
    cluster.commit(put("a", "1")).unwrap();
    cluster.commit(put("b", "1")).unwrap();
    assert_eq!(cluster.fenced, None);

    (0..4).for_each(|index| cluster.segments[index].mute = true);
    let running = cluster.submit(put("c", "1"));
    cluster.run();
    let gone = cluster.submit(put("d", "1"));
    cluster.segments[0].refuses = Some(Refusal::StaleEpoch {
        volume_epoch: rival,
    });
    cluster.ack_and_run(0);
    assert_eq!(cluster.fenced, Some(rival));
    assert!(matches!(
        cluster.answer(running),
        Some(Err(CommitError::Unknown { .. }))
    ));
    assert!(matches!(
        cluster.answer(gone),
        Some(Err(CommitError::Unknown { .. } | CommitError::Fenced { .. }))
    ));
    let after = cluster.commit(put("e", "1"));
    assert_eq!(
        after,
        Err(CommitError::Fenced {
            volume_epoch: rival
        })
    );
    // Acks that were on the way answer nobody any more.
    (1..4).for_each(|index| cluster.ack_and_run(index));
    assert_eq!(cluster.core.poll_timeout(), None);
    assert_eq!(cluster.core.shared().lease_until(), None);
}

#[test]
fn commits_that_wait_in_line_are_fenced_and_not_unknown() {
    let mut cluster = Cluster::new();
    let rival = VolumeEpoch::new(9);
    cluster.kill(0);
    cluster.kill(1);
    cluster.kill(2);
    cluster.run();
    let waits = cluster.submit(put("a", "1"));
    cluster.each(|segment| {
        segment.down = false;
        segment.refuses = Some(Refusal::StaleEpoch {
            volume_epoch: rival,
        });
    });
    cluster.pass_ms(600);
    assert_eq!(
        cluster.answer(waits),
        Some(Err(CommitError::Fenced {
            volume_epoch: rival
        }))
    );
}

#[test]
fn a_refusal_below_the_own_epoch_fences_nobody() {
    let mut cluster = Cluster::new();
    cluster.each(|segment| {
        segment.refuses = Some(Refusal::StaleEpoch {
            volume_epoch: VolumeEpoch::CREATION,
        });
    });
    let ticket = cluster.submit(put("a", "1"));
    cluster.run();
    assert_eq!(cluster.fenced, None);
    cluster.each(|segment| segment.refuses = None);
    cluster.pass_ms(1_100);
    assert!(cluster.answer(ticket).unwrap().is_ok());
}

#[test]
fn deleting_what_is_absent_commits_without_a_record_behind_what_it_depends_on() {
    let mut cluster = Cluster::new();
    let delete = CommitRequest {
        writes: [(key("a"), KeyWrite::Delete)].into_iter().collect(),
        ..CommitRequest::default()
    };
    let last = cluster.core.stats().last;
    assert_eq!(cluster.commit(delete.clone()), Ok(last));
    cluster.commit(put("a", "1")).unwrap();
    cluster.each(|segment| segment.mute = true);
    let first = cluster.submit(delete.clone());
    cluster.run();
    let second = cluster.submit(delete);
    cluster.run();
    assert_eq!(
        (cluster.answer(first), cluster.answer(second)),
        (None, None)
    );
    (0..4).for_each(|index| cluster.ack_and_run(index));
    assert_eq!(cluster.answer(first), cluster.answer(second));
    assert_eq!(cluster.get("a"), None);
}

#[test]
fn close_answers_everything_and_refuses_what_comes_later() {
    let mut cluster = Cluster::new();
    cluster.each(|segment| segment.mute = true);
    let running = cluster.submit(put("a", "1"));
    cluster.event(WriterEvent::Close);
    let late = cluster.submit(put("b", "1"));
    cluster.run();
    assert!(matches!(
        cluster.answer(late),
        Some(Err(CommitError::Unavailable { .. }))
    ));
    assert!(!cluster.drained);
    (0..4).for_each(|index| cluster.ack_and_run(index));
    assert!(cluster.answer(running).unwrap().is_ok());
    assert!(cluster.drained);
    assert_eq!(cluster.detached.len(), 6);
    assert_eq!(cluster.core.poll_timeout(), None);
}

#[test]
fn close_without_a_quorum_ends_at_the_deadline() {
    let mut cluster = Cluster::new();
    cluster.each(|segment| segment.mute = true);
    let running = cluster.submit(put("a", "1"));
    cluster.event(WriterEvent::Close);
    cluster.pass(PATIENCE);
    cluster.run();
    assert!(matches!(
        cluster.answer(running),
        Some(Err(CommitError::Unknown { .. }))
    ));
    assert!(cluster.drained);
}

#[test]
fn stamps_and_clock_records_never_go_back() {
    let mut cluster = Cluster::new();
    let mut clocks = Vec::new();
    for number in 0..5 {
        cluster.commit(put("a", &number.to_string())).unwrap();
        let meta = cluster.segments[0].page(PageId::META, Lsn::MAX, cluster.page_bytes);
        clocks.push(meta.clock_ms());
        cluster.pass_ms(70);
    }
    assert!(clocks[0] >= 1_700_000_000_000);
    assert!(clocks.is_sorted());
    assert_eq!(clocks[0], clocks[1], "one record a tick");
    assert!(clocks[4] >= clocks[0] + 200);
    let stamps: Vec<u64> = cluster.segments[0]
        .batches
        .values()
        .map(|batch| batch.header().unix_ms)
        .collect();
    assert!(stamps.is_sorted());
}

/// Whatever the next writer's wall clock shows, it finds that record in its cut and stamps nothing below it (R29).
#[test]
fn a_batch_repeats_the_clock_record_before_it() {
    let mut cluster = Cluster::new();
    for number in 0..5 {
        cluster.commit(put("a", &number.to_string())).unwrap();
        cluster.pass_ms(70);
    }
    let mut clock_ms = 0;
    let mut stamps = Vec::new();
    for batch in cluster.segments[0].batches.values() {
        for placed in batch.records() {
            if let Op::Clock { unix_ms } = placed.record.op {
                clock_ms = unix_ms;
            }
        }
        // Each commit was sealed alone, and a clock record goes first.
        assert_eq!(batch.header().unix_ms, clock_ms);
        stamps.push(clock_ms);
    }
    stamps.dedup();
    assert!(stamps.len() >= 3, "{stamps:?}");
}

/// How many records each segment holds on the meta page since the last one that starts its chain, and how many images there
/// are.
fn meta_chain(cluster: &Cluster) -> (usize, usize) {
    let (mut chain, mut images) = (0, 0);
    for batch in cluster.segments[0].batches.values() {
        for placed in batch.records() {
            let record = &placed.record;
            if record.page == PageId::META {
                images += usize::from(matches!(record.op, Op::Image { .. }));
                chain = if record.op.starts_chain() {
                    0
                } else {
                    chain + 1
                };
                assert!(!record.user_visible);
            }
        }
    }
    (chain, images)
}

#[test]
fn the_chain_of_the_meta_page_is_cut_by_an_image_now_and_then() {
    let mut cluster = Cluster::new();
    assert_eq!(meta_chain(&cluster).1, 0, "creation starts the chain");
    let mut longest = 0;
    for number in 0..5_000 {
        // Each carries a clock record.
        cluster.now += Duration::from_millis(100);
        cluster
            .commit(put(&format!("key {}", number % 10), "x"))
            .unwrap();
        if number % 500 == 0 {
            longest = longest.max(meta_chain(&cluster).0);
        }
    }
    let (chain, images) = meta_chain(&cluster);
    assert_eq!(images, 4);
    assert!(chain < 1_024 && (900..=1_024).contains(&longest));
    let vdl = cluster.core.shared().vdl();
    let folded = cluster.segments[0].page(PageId::META, vdl, cluster.page_bytes);
    let point = cluster.core.shared().announce();
    let cached = point.view().page(PageId::META).unwrap();
    assert_eq!(folded.encode(), cached.encode());
    assert!(folded.clock_ms() > 0);
}

#[test]
fn the_first_commit_after_an_opening_cuts_a_chain_of_unknown_length() {
    let mut first = Cluster::new();
    first.commit(put("a", "1")).unwrap();
    let vdl = first.core.shared().vdl();
    let lal = 100_000;
    let reopened = Opened {
        vdl,
        cut: vdl,
        pg_last: vec![(PgId::ROOT, vdl)],
        scls: (0..6).map(|index| (segment_id(index), vdl)).collect(),
        ..opened(8_192, lal)
    };
    let mut cluster = Cluster::unopened(bounds(), reopened);
    for (segment, before) in cluster.segments.iter_mut().zip(&first.segments) {
        segment.batches = before.batches.clone();
    }
    cluster.run();
    assert_eq!(meta_chain(&cluster).1, 0);
    cluster.commit(put("a", "2")).unwrap();
    cluster.commit(put("a", "3")).unwrap();
    assert_eq!(meta_chain(&cluster), (1, 1), "an image and the clock");
    assert_eq!(cluster.get("a").as_deref(), Some("3"));
    let vdl = cluster.core.shared().vdl();
    let folded = cluster.segments[0].page(PageId::META, vdl, cluster.page_bytes);
    let cached = cluster.core.shared().announce().view().page(PageId::META);
    assert_eq!(folded, *cached.unwrap());
}
