//! Batches: sealing, streams, what is retained (R15, F1, F2).

use std::time::Duration;

use sixfold_compute_core::{CommitError, WriterBounds};
use sixfold_log_format::wire::{Ack, Message, Refusal};
use sixfold_log_format::{Batch, Lsn, VolumeEpoch};

use crate::cluster::{Cluster, PATIENCE, VOLUME, VOLUME_EPOCH, bounds, opened, put};

fn batch_count(cluster: &Cluster) -> u64 {
    cluster.core.stats().batches
}

#[test]
fn an_idle_writer_seals_at_once_and_a_busy_one_gathers() {
    let mut cluster = Cluster::new();
    let before = batch_count(&cluster);
    cluster.commit(put("a", "1")).unwrap();
    assert_eq!(batch_count(&cluster), before + 1, "idle means at once");
    cluster.each(|segment| segment.mute = true);
    for number in 0..30 {
        cluster.submit(put(&format!("key {number}"), "x"));
        cluster.run();
    }
    assert_eq!(
        batch_count(&cluster),
        before + 3,
        "two sets lack their quorum, the rest gathers"
    );
    (0..4).for_each(|index| cluster.ack_and_run(index));
    assert_eq!(
        batch_count(&cluster),
        before + 4,
        "what has gathered goes as one"
    );
    (0..4).for_each(|index| cluster.ack_and_run(index));
    assert_eq!(cluster.answers.len(), 31);
}

#[test]
fn commits_at_hand_together_are_sealed_together() {
    let mut cluster = Cluster::new();
    let before = batch_count(&cluster);
    for number in 0..10 {
        cluster.submit(put(&format!("key {number}"), "x"));
    }
    cluster.run();
    assert_eq!(batch_count(&cluster), before + 1);
    assert_eq!(cluster.answers.len(), 10);
}

#[test]
fn all_segments_get_the_same_bytes() {
    let mut cluster = Cluster::new();
    cluster.commit(put("a", "1")).unwrap();
    for segment in &cluster.segments[1..] {
        assert_eq!(segment.batches, cluster.segments[0].batches);
    }
}

#[test]
fn a_batch_is_kept_until_it_is_within_pgcl() {
    let mut cluster = Cluster::new();
    cluster.each(|segment| segment.stuck = true);
    let ticket = cluster.submit(put("a", "1"));
    cluster.run();
    // All six streams break before anything arrived.
    (0..6).for_each(|index| cluster.kill(index));
    cluster.pass_ms(3_000);
    cluster.each(|segment| {
        segment.stuck = false;
        segment.down = false;
    });
    cluster.pass_ms(600);
    assert!(cluster.answer(ticket).unwrap().is_ok());
    assert!(
        cluster
            .segments
            .iter()
            .all(|segment| segment.scl() == cluster.core.stats().vdl)
    );
}

#[test]
fn a_segment_that_comes_a_moment_late_needs_no_gossip() {
    let mut cluster = Cluster::new();
    cluster.kill(5);
    cluster.pass_ms(30);
    for number in 0..3 {
        cluster.commit(put(&format!("key {number}"), "x")).unwrap();
    }
    assert!(cluster.segments[5].scl() < cluster.core.stats().vdl);
    cluster.segments[5].down = false;
    cluster.pass_ms(600);
    assert_eq!(cluster.segments[5].scl(), cluster.core.stats().vdl);
}

#[test]
fn a_stream_attached_again_resumes_from_the_scl() {
    let mut cluster = Cluster::new();
    cluster.commit(put("a", "1")).unwrap();
    // Three segments lose their streams: what follows cannot reach PGCL, so all of it is kept.
    (0..3).for_each(|index| cluster.segments[index].mute = true);
    let tickets: Vec<_> = (0..5)
        .map(|number| {
            let ticket = cluster.submit(put(&format!("key {number}"), "x"));
            cluster.run();
            ticket
        })
        .collect();
    let scl = cluster.segments[0].scl();
    cluster.segments[0].appends.clear();
    cluster.lose(0);
    cluster.segments[0].mute = false;
    cluster.pass_ms(30);
    assert!(
        tickets
            .iter()
            .all(|&ticket| cluster.answer(ticket).is_some())
    );
    for append in &cluster.segments[0].appends {
        let batch = Batch::decode(append.batch.clone(), VOLUME).unwrap();
        assert!(batch.header().last > scl, "what it holds is not sent again");
    }
    assert_eq!(cluster.segments[0].scl(), cluster.core.stats().vdl);
}

#[test]
fn attach_is_tried_again_with_a_growing_pause() {
    let mut cluster = Cluster::new();
    cluster.kill(5);
    let before = cluster.segments[5].attach_count;
    cluster.pass(Duration::from_secs(10));
    let tries = cluster.segments[5].attach_count - before;
    assert!((20..=30).contains(&tries), "{tries} tries in ten seconds");
}

#[test]
fn a_slow_sixth_holds_nobody_back_and_its_queue_is_bounded() {
    let small = WriterBounds {
        stream_bytes_max: 20_000,
        ..bounds()
    };
    let mut cluster = Cluster::with(small, opened(8_192, 100_000));
    cluster.segments[5].stuck = true;
    let value = "x".repeat(900);
    for number in 0..300 {
        cluster
            .commit(put(&format!("key {number}"), &value))
            .unwrap();
        let queued: usize = cluster.segments[5].undrained.iter().sum();
        assert!(queued <= 20_000, "{queued} bytes are queued");
    }
    assert_eq!(
        cluster.core.stats().unacknowledged_bytes,
        0,
        "it is left to gossip"
    );
    // It comes back: gossip fills the hole, the stream goes on with new batches.
    cluster.segments[5].stuck = false;
    cluster.lose(5);
    cluster.pass_ms(30);
    cluster.gossip(0, 5);
    cluster.commit(put("after", "1")).unwrap();
    assert_eq!(cluster.segments[5].scl(), cluster.core.stats().vdl);
}

#[test]
fn a_queue_that_drains_goes_on_without_attaching_again() {
    let small = WriterBounds {
        stream_bytes_max: 2_000,
        ..bounds()
    };
    let mut cluster = Cluster::with(small, opened(8_192, 100_000));
    let value = "x".repeat(900);
    cluster.each(|segment| segment.mute = true);
    let tickets: Vec<_> = (0..20)
        .map(|number| cluster.submit(put(&format!("key {number}"), &value)))
        .collect();
    for _ in 0..40 {
        (0..6).for_each(|index| cluster.ack_and_run(index));
    }
    assert!(
        tickets
            .iter()
            .all(|&ticket| cluster.answer(ticket).unwrap().is_ok())
    );
    assert!(
        cluster
            .segments
            .iter()
            .all(|segment| segment.attach_count == 1)
    );
}

#[test]
fn a_full_segment_is_no_part_of_the_write_quorum_and_catches_up() {
    let mut cluster = Cluster::new();
    for index in [0, 1, 2] {
        cluster.segments[index].full = true;
        cluster.ack(index);
    }
    cluster.run();
    let waits = cluster.submit(put("a", "1"));
    cluster.pass_ms(500);
    assert_eq!(cluster.answer(waits), None);
    cluster.segments[1].full = false;
    cluster.pass_ms(200);
    assert!(cluster.answer(waits).unwrap().is_ok());
    assert_eq!(cluster.segments[1].scl(), cluster.core.stats().vdl);
}

#[test]
fn what_a_segment_dropped_although_it_arrived_is_sent_again() {
    let mut cluster = Cluster::new();
    (0..3).for_each(|index| cluster.segments[index].mute = true);
    let ticket = cluster.submit(put("a", "1"));
    cluster.run();
    let batches = cluster.segments[0].batches.clone();
    let (&first, _) = batches.last_key_value().unwrap();
    cluster.segments[0].batches.remove(&first);
    cluster.segments[0].mute = false;
    cluster.ack_and_run(0);
    assert_eq!(cluster.answer(ticket), None);
    cluster.pass_ms(1_500);
    assert!(cluster.answer(ticket).unwrap().is_ok());
}

#[test]
fn acks_of_another_history_or_of_what_was_never_sent_do_not_count() {
    let mut cluster = Cluster::new();
    cluster.each(|segment| segment.mute = true);
    let ticket = cluster.submit(put("a", "1"));
    cluster.run();
    let scl = cluster.core.stats().last;
    let ack = |echo, scl, history_epoch| {
        let wishes = Vec::new();
        Message::Ack(Ack {
            echo,
            scl,
            history_epoch,
            slow: false,
            full: false,
            wishes,
        })
    };
    let echo = cluster.segments[0].echo;
    cluster.say(0, ack(echo, scl, VolumeEpoch::CREATION));
    cluster.say(1, ack(echo + 100, scl, VOLUME_EPOCH));
    cluster.say(2, ack(echo, scl.plus(1), VOLUME_EPOCH));
    cluster.run();
    assert_eq!(cluster.detached.len(), 3, "they are given up for a while");
    cluster.ack_and_run(3);
    assert_eq!(cluster.answer(ticket), None);
}

#[test]
fn an_scl_that_fell_is_not_counted() {
    let mut cluster = Cluster::new();
    // More than the writer keeps for segments that come late.
    for number in 0..6 {
        let large = put(&format!("large {number}"), &"x".repeat(900_000));
        cluster.commit(large).unwrap();
    }
    (0..3).for_each(|index| cluster.segments[index].mute = true);
    // It forgot all but its first batch.
    let keep = *cluster.segments[3].batches.first_key_value().unwrap().0;
    cluster.segments[3]
        .batches
        .retain(|&first, _| first == keep);
    cluster.lose(3);
    cluster.pass_ms(30);
    let ticket = cluster.submit(put("b", "1"));
    cluster.run();
    cluster.ack_and_run(0);
    assert_eq!(cluster.answer(ticket), None, "0, 4 and 5 have it");
    // Healed by its peers, it counts again.
    cluster.gossip(4, 3);
    cluster.ack_and_run(3);
    assert!(cluster.answer(ticket).unwrap().is_ok());
}

#[test]
fn an_scl_below_one_said_before_counts_for_nothing() {
    let mut cluster = Cluster::new();
    cluster.each(|segment| segment.mute = true);
    let first = cluster.submit(put("a", "1"));
    cluster.run();
    let first_scl = cluster.core.stats().last;
    cluster.submit(put("b", "1"));
    cluster.run();
    // 3, 4 and 5 have both; then 3 says that it has the first one only, as 0 does.
    (3..6).for_each(|index| cluster.ack_and_run(index));
    for index in [3, 0] {
        let echo = cluster.segments[index].echo;
        let wishes = Vec::new();
        let (scl, history_epoch) = (first_scl, VOLUME_EPOCH);
        let ack = Ack {
            echo,
            scl,
            history_epoch,
            slow: false,
            full: false,
            wishes,
        };
        cluster.say(index, Message::Ack(ack));
        cluster.run();
        assert_eq!(
            cluster.answer(first),
            None,
            "a damaged segment does not count"
        );
    }
    cluster.ack_and_run(1);
    assert!(cluster.answer(first).unwrap().is_ok());
}

#[test]
fn messages_of_an_earlier_life_are_dropped() {
    let mut cluster = Cluster::new();
    let old = cluster.segments[0].life.unwrap();
    cluster.lose(0);
    cluster.pass_ms(30);
    assert_ne!(cluster.segments[0].life, Some(old));
    let message = Message::Refused(Refusal::StaleEpoch {
        volume_epoch: VolumeEpoch::new(77),
    });
    for index in 0..6 {
        let _ = index;
        cluster.event(sixfold_compute_core::WriterEvent::Arrived {
            attach: old,
            message: message.clone(),
        });
    }
    cluster.event(sixfold_compute_core::WriterEvent::Lost { attach: old });
    cluster.commit(put("a", "1")).unwrap();
    assert_eq!(cluster.fenced, None);
    assert!(
        cluster
            .core
            .stats()
            .relations
            .iter()
            .all(|relation| relation.attached)
    );
}

#[test]
fn a_large_mtr_spans_batches_and_is_visible_whole() {
    let mut cluster = Cluster::new();
    let value = "v".repeat(20_000);
    let mut request = put("k000", &value);
    for number in 1..200 {
        request
            .writes
            .keys
            .extend(put(&format!("k{number:03}"), &value).writes.keys);
    }
    cluster.each(|segment| segment.mute = true);
    let before = batch_count(&cluster);
    let ticket = cluster.submit(request);
    cluster.run();
    assert!(
        batch_count(&cluster) >= before + 4,
        "a batch has at most 1 MiB"
    );
    assert_eq!(cluster.get("k000"), None);
    (0..4).for_each(|index| cluster.ack_and_run(index));
    let lsn = cluster.answer(ticket).unwrap().unwrap();
    assert_eq!(cluster.core.shared().vdl(), lsn);
    assert_eq!(cluster.get("k199").as_deref(), Some(&value[..]));
    let prevs: Vec<Lsn> = cluster.segments[0]
        .batches
        .values()
        .map(|batch| batch.header().prev)
        .collect();
    let lasts: Vec<Lsn> = cluster.segments[0]
        .batches
        .values()
        .map(|batch| batch.header().last)
        .collect();
    assert_eq!(prevs[1..], lasts[..lasts.len() - 1]);
}

#[test]
fn an_unfinished_mtr_is_never_durable() {
    // Four segments have all batches of a large MTR but the last: VDL stays below all of it.
    let mut cluster = Cluster::new();
    let vdl = cluster.core.shared().vdl();
    cluster.each(|segment| segment.mute = true);
    let value = "v".repeat(60_000);
    let mut request = put("k000", &value);
    for number in 1..40 {
        request
            .writes
            .keys
            .extend(put(&format!("k{number:03}"), &value).writes.keys);
    }
    let ticket = cluster.submit(request);
    cluster.run();
    let last = *cluster.segments[0].batches.last_key_value().unwrap().0;
    cluster.each(|segment| {
        segment.batches.remove(&last);
    });
    (0..6).for_each(|index| cluster.ack_and_run(index));
    assert_eq!(cluster.core.shared().vdl(), vdl);
    assert_eq!(cluster.answer(ticket), None);
    let deadline = cluster.now + PATIENCE;
    cluster.each(|segment| segment.mute = false);
    cluster.pass(deadline - cluster.now);
    assert!(!matches!(
        cluster.answer(ticket),
        Some(Err(CommitError::Unavailable { .. }))
    ));
}

#[test]
fn three_full_disks_stay_full_when_their_streams_are_attached_again() {
    let mut cluster = Cluster::new();
    for index in 0..3 {
        cluster.segments[index].full = true;
        cluster.segments[index].mute = true;
        cluster.say(index, Message::Refused(Refusal::DiskFull));
    }
    cluster.run();
    // Attached again, and their first answer is on its way: nothing says yet that there is room.
    cluster.pass_ms(1_500);
    assert!((0..3).all(|index| cluster.segments[index].life.is_some()));
    let last = cluster.core.stats().last;
    let refused = cluster.submit(put("a", "1"));
    cluster.pass(PATIENCE);
    assert!(matches!(
        cluster.answer(refused),
        Some(Err(CommitError::Unavailable { .. }))
    ));
    assert_eq!(cluster.core.stats().last, last, "nothing was minted");
    // An answer to a heartbeat says that there is room.
    cluster.segments[0].full = false;
    cluster.segments[0].mute = false;
    cluster.ack_and_run(0);
    cluster.pass_ms(200);
    cluster.commit(put("a", "1")).unwrap();
}
