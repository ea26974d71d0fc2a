//! The read lease (T1) and heartbeats (R16).

use std::time::Duration;

use sixfold_log_format::Lsn;

use crate::cluster::fleet::opened_with_fleet;
use crate::cluster::{Cluster, bounds, put, segment_id};

const MS: Duration = Duration::from_millis(1);

/// Lets any lease run out, then makes every segment hold its acks.
fn without_lease(cluster: &mut Cluster) {
    cluster.each(|segment| segment.mute = true);
    cluster.pass_ms(200);
    assert!(
        cluster
            .core
            .shared()
            .lease_until()
            .is_none_or(|until| until <= cluster.now)
    );
}

#[test]
fn a_lease_is_held_with_three_answers_and_counted_from_the_send() {
    let mut cluster = Cluster::new();
    without_lease(&mut cluster);
    let sent = cluster.now;
    let want = cluster.want_lease(Duration::from_secs(1));
    cluster.run();
    cluster.now += 10 * MS;
    for index in [2, 4] {
        cluster.ack_and_run(index);
        assert_eq!(cluster.leased(want), None);
    }
    cluster.ack_and_run(0);
    assert_eq!(cluster.leased(want), Some(true));
    assert_eq!(cluster.core.shared().lease_until(), Some(sent + 50 * MS));
}

#[test]
fn two_answers_give_no_lease_by_the_deadline() {
    let mut cluster = Cluster::new();
    without_lease(&mut cluster);
    for index in [0, 1] {
        cluster.segments[index].mute = false;
    }
    let want = cluster.want_lease(300 * MS);
    cluster.pass_ms(299);
    assert_eq!(cluster.leased(want), None);
    cluster.pass_ms(1);
    cluster.run();
    assert_eq!(cluster.leased(want), Some(false));
}

#[test]
fn answers_to_messages_sent_before_the_want_do_not_make_it_current() {
    let mut cluster = Cluster::new();
    without_lease(&mut cluster);
    // Heartbeats of 60 ms ago and more are answered now: they say nothing about now.
    cluster.now += 60 * MS;
    let want = cluster.want_lease(Duration::from_secs(1));
    for index in 0..6 {
        cluster.ack(index);
    }
    let before = cluster.now;
    cluster.run();
    // The round that the want asked for went out in the same run, after those acks.
    assert_eq!(cluster.leased(want), None);
    (0..3).for_each(|index| cluster.ack_and_run(index));
    assert_eq!(cluster.leased(want), Some(true));
    assert_eq!(cluster.core.shared().lease_until(), Some(before + 50 * MS));
}

#[test]
fn a_slow_round_still_answers_who_waited_for_it() {
    let mut cluster = Cluster::new();
    without_lease(&mut cluster);
    let want = cluster.want_lease(Duration::from_secs(1));
    cluster.run();
    cluster.now += 80 * MS;
    (0..3).for_each(|index| cluster.ack_and_run(index));
    assert_eq!(
        cluster.leased(want),
        Some(true),
        "three answered what was sent after the want"
    );
}

#[test]
fn acks_of_commits_renew_the_lease() {
    let mut cluster = Cluster::new();
    cluster.pass_ms(30);
    cluster.commit(put("a", "1")).unwrap();
    assert_eq!(
        cluster.core.shared().lease_until(),
        Some(cluster.now + 50 * MS)
    );
}

#[test]
fn the_lease_stays_while_current_reads_are_served_and_ends_when_nobody_reads() {
    let mut cluster = Cluster::new();
    let want = cluster.want_lease(Duration::from_secs(1));
    cluster.run();
    assert_eq!(cluster.leased(want), Some(true));
    for _ in 0..100 {
        let _reader = cluster.core.shared().announce();
        cluster.pass_ms(25);
        assert!(cluster.core.shared().lease_until().unwrap() > cluster.now);
    }
    let sent = |cluster: &Cluster| cluster.segments[0].heartbeats.len();
    let busy = sent(&cluster);
    cluster.pass_ms(3_000);
    let idle = sent(&cluster);
    cluster.pass_ms(1_000);
    let quiet = sent(&cluster) - idle;
    assert!(
        (10..=15).contains(&quiet),
        "an idle second has {quiet} heartbeats"
    );
    assert!(idle - busy < 120, "reading for three seconds takes 200");
}

#[test]
fn silence_is_never_longer_than_100_ms() {
    let mut cluster = Cluster::new();
    for offset_ms in [0, 1, 26, 49, 51, 76, 99] {
        cluster.pass_ms(offset_ms);
        cluster.commit(put("a", "1")).unwrap();
        for _ in 0..3 {
            let count = |cluster: &Cluster| {
                let segments = cluster.segments.iter();
                segments
                    .map(|segment| segment.heartbeats.len())
                    .collect::<Vec<_>>()
            };
            let before = count(&cluster);
            cluster.pass_ms(100);
            assert!(
                count(&cluster)
                    .iter()
                    .zip(before)
                    .all(|(now, before)| *now > before)
            );
        }
    }
    let vdl = cluster.core.shared().vdl();
    let beat = *cluster.segments[3].heartbeats.last().unwrap();
    assert_eq!((beat.pg_last, beat.vdl, beat.pgmrpl), (vdl, vdl, vdl));
    assert!(beat.pgmrpl_lease_ms >= 1_000);
}

#[test]
fn heartbeats_and_batches_carry_the_lowest_read_point() {
    let mut cluster = Cluster::new();
    let snapshot = cluster.core.shared().announce();
    cluster.commit(put("a", "1")).unwrap();
    cluster.pass_ms(150);
    let said = |cluster: &Cluster| cluster.segments[0].heartbeats.last().unwrap().pgmrpl;
    assert_eq!(said(&cluster), snapshot.lsn());
    assert_eq!(
        cluster.segments[0].appends.last().unwrap().pgmrpl,
        snapshot.lsn()
    );
    drop(snapshot);
    cluster.pass_ms(150);
    assert_eq!(said(&cluster), cluster.core.shared().vdl());
    assert!(said(&cluster) > Lsn::NONE);
}

#[test]
fn a_stopped_segment_piles_up_no_heartbeats() {
    let mut cluster = Cluster::new();
    cluster.segments[0].stuck = true;
    cluster.pass(Duration::from_secs(600));
    assert!(cluster.segments[0].undrained.len() <= 300);
}

/// Those that granted it are no read quorum of the set that a step enters: from the proposal on it holds no more.
#[test]
fn a_lease_does_not_outlast_the_sets_that_granted_it() {
    use sixfold_log_format::wire::WishVerb;
    let mut cluster = Cluster::with(bounds(), opened_with_fleet(9, 1));
    cluster.commit(put("a key", "x")).unwrap();
    without_lease(&mut cluster);
    let want = cluster.want_lease(Duration::from_secs(1));
    cluster.run();
    for index in [3, 4, 5] {
        cluster.ack_and_run(index);
    }
    assert_eq!(cluster.leased(want), Some(true));
    let now = cluster.now;
    assert!(cluster.core.shared().lease_until() > Some(now));
    cluster.submit_wish(WishVerb::Replace, *segment_id(5).as_bytes());
    cluster.cut_off_the_new(1);
    assert!(cluster.core.stats().membership.proposed.is_some());
    assert_eq!(cluster.now, now);
    let until = cluster.core.shared().lease_until();
    assert!(until.is_none_or(|until| until <= now), "{until:?}");
}
