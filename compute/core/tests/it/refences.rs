//! A writer without a segment to spare, because of a dead rival's claims, opens its volume again in place (R8).

use std::time::Duration;

use sixfold_compute_core::{MemberBounds, WriterBounds, WriterEvent};
use sixfold_log_format::wire::Refusal;
use sixfold_log_format::{Lsn, VolumeEpoch};
use sixfold_recovery::machine::RecoveryError;

use crate::cluster::fleet::opened_with_fleet;
use crate::cluster::{Cluster, bounds, put};

fn bounds_with_refence() -> WriterBounds {
    WriterBounds {
        members: MemberBounds {
            repair_after: None,
            refence_after: Some(Duration::from_secs(2)),
            ..MemberBounds::default()
        },
        ..bounds()
    }
}

/// Two segments hold a claim of epoch 9, whose claimer is gone.
fn bare() -> Cluster {
    let mut cluster = Cluster::with(bounds_with_refence(), opened_with_fleet(6, 1));
    cluster.under_load(20, |_| false);
    claim(&mut cluster, 4..6);
    cluster
}

/// A rival claims epoch 9 at these segments.
fn claim(cluster: &mut Cluster, indexes: std::ops::Range<usize>) {
    let volume_epoch = VolumeEpoch::new(9);
    for index in indexes {
        cluster.segments[index].refuses = Some(Refusal::StaleEpoch { volume_epoch });
        cluster.lose(index);
    }
    cluster.run();
}

/// The shell reopens: the claims are overridden.
fn reopen(cluster: &mut Cluster) {
    cluster.volume_epoch = VolumeEpoch::new(9);
    cluster.each(|segment| segment.refuses = None);
    let opened = cluster.reopened([77; 16]);
    cluster.event(WriterEvent::Refenced {
        result: Ok(Box::new(opened)),
    });
    cluster.run();
}

#[test]
fn it_waits_mints_nothing_meanwhile_and_goes_on_at_the_new_epoch() {
    let mut cluster = bare();
    let point = cluster.core.shared().announce();
    // 1.9 s.
    assert!(!cluster.under_load(75, |cluster| cluster.refences > 0));
    cluster.pass_ms(400);
    assert_eq!(cluster.refences, 1);
    let (last, vdl) = (cluster.core.stats().last, cluster.core.shared().vdl());
    assert_eq!(last, vdl, "all that was minted is durable");
    let ticket = cluster.submit(put("a key", "x"));
    cluster.pass_ms(200);
    assert_eq!(cluster.answer(ticket), None);
    assert_eq!(cluster.core.stats().last, last);
    assert_eq!(cluster.core.shared().lease_until(), None);
    let fetches = cluster.core.stats().fetches;
    reopen(&mut cluster);
    let lsn = cluster.answer(ticket).unwrap().unwrap();
    assert!(lsn > vdl.plus(100_000), "above the new range");
    assert_eq!(cluster.core.stats().membership.refences, 1);
    // All six are back, and the cache is what it was.
    let attached = |cluster: &Cluster| {
        let relations = cluster.core.stats().relations;
        relations
            .iter()
            .filter(|relation| relation.attached)
            .count()
    };
    assert_eq!(attached(&cluster), 6);
    assert_eq!(cluster.get("load 007").as_deref(), Some("57"));
    assert_eq!(cluster.get("a key").as_deref(), Some("x"));
    assert_eq!(cluster.core.stats().fetches, fetches);
    let at_old_point = cluster.read(&point, |view| sixfold_kv::get(view, b"a key"));
    assert!(at_old_point.is_none());
    drop(point);
    assert!(!cluster.under_load(150, |cluster| cluster.refences > 1));
    let lease = cluster.want_lease(Duration::from_millis(100));
    cluster.run();
    assert_eq!(cluster.leased(lease), Some(true));
}

#[test]
fn a_writer_with_one_to_spare_or_without_a_rival_goes_on_as_it_is() {
    let mut cluster = Cluster::with(bounds_with_refence(), opened_with_fleet(6, 1));
    claim(&mut cluster, 4..5);
    assert!(!cluster.under_load(200, |cluster| cluster.refences > 0));
    // Two that are merely gone are no rival's.
    let mut cluster = Cluster::with(bounds_with_refence(), opened_with_fleet(6, 1));
    cluster.kill(4);
    cluster.kill(5);
    assert!(!cluster.under_load(200, |cluster| cluster.refences > 0));
}

#[test]
fn it_waits_until_what_is_in_flight_is_durable() {
    let mut cluster = bare();
    assert!(!cluster.under_load(70, |cluster| cluster.refences > 0));
    cluster.segments[3].mute = true;
    let ticket = cluster.submit(put("a key", "x"));
    cluster.pass_ms(2_000);
    assert_eq!((cluster.refences, cluster.answer(ticket)), (0, None));
    cluster.segments[3].mute = false;
    cluster.ack_and_run(3);
    assert!(cluster.answer(ticket).unwrap().is_ok());
    cluster.pass_ms(200);
    assert_eq!(cluster.refences, 1);
}

#[test]
fn it_is_fenced_when_somebody_else_wrote_or_won() {
    let mut cluster = bare();
    cluster.pass_ms(2_500);
    assert_eq!(cluster.refences, 1);
    cluster.event(WriterEvent::Refenced {
        result: Err(RecoveryError::Fenced {
            volume_epoch: VolumeEpoch::new(12),
        }),
    });
    cluster.run();
    assert_eq!(cluster.fenced, Some(VolumeEpoch::new(12)));
    // A rival's record is in the volume.
    let mut cluster = bare();
    cluster.pass_ms(2_500);
    cluster.volume_epoch = VolumeEpoch::new(9);
    let mut opened = cluster.reopened([77; 16]);
    let last = opened.pg_last[0].1;
    opened.pg_last[0].1 = last.plus(5);
    opened.cut = opened.cut.plus(5);
    let volume_epoch = opened.volume_epoch;
    cluster.event(WriterEvent::Refenced {
        result: Ok(Box::new(opened)),
    });
    cluster.run();
    assert_eq!(cluster.fenced, Some(volume_epoch));
}

#[test]
fn it_asks_again_when_no_quorum_answered() {
    let mut cluster = bare();
    cluster.pass_ms(2_500);
    cluster.event(WriterEvent::Refenced {
        result: Err(RecoveryError::Unavailable {
            pg: sixfold_log_format::PgId::ROOT,
            answered: 3,
            needed: 4,
        }),
    });
    cluster.pass_ms(700);
    assert_eq!(cluster.refences, 2);
    reopen(&mut cluster);
    cluster.commit(put("a key", "x")).unwrap();
}

#[test]
fn a_replacement_under_way_goes_on_after_it() {
    use sixfold_log_format::wire::{WishState, WishVerb};
    let mut cluster = Cluster::with(bounds_with_refence(), opened_with_fleet(9, 1));
    cluster.under_load(20, |_| false);
    let out = crate::cluster::segment_id(0);
    let wish = cluster.wish(WishVerb::Replace, *out.as_bytes(), [0; 16]);
    cluster.under_load(10, |_| false);
    assert_eq!(cluster.core.stats().membership.sets[0].1, 2);
    // The new one is whole, and nobody hears of the step that follows.
    cluster.heal();
    cluster.each(|segment| segment.deaf = true);
    cluster.under_load(10, |_| false);
    assert!(cluster.core.stats().membership.proposed.is_some());
    claim(&mut cluster, 4..6);
    cluster.pass_ms(3_000);
    assert_eq!(cluster.refences, 1);
    assert_eq!(cluster.core.stats().membership.sets[0].1, 2);
    reopen(&mut cluster);
    cluster.commit(put("a key", "x")).unwrap();
    cluster.each(|segment| segment.deaf = false);
    assert!(cluster.under_load(400, |cluster| cluster.state(wish) == WishState::Done));
    assert_eq!(cluster.core.stats().membership.sets[0].1, 1);
}

#[test]
#[should_panic(expected = "was durable")]
fn a_cut_below_what_was_durable_is_a_bug() {
    let mut cluster = bare();
    cluster.pass_ms(2_500);
    let mut opened = cluster.reopened([77; 16]);
    opened.cut = Lsn::new(1);
    cluster.event(WriterEvent::Refenced {
        result: Ok(Box::new(opened)),
    });
}

#[test]
fn a_replacement_whose_first_step_nobody_heard_goes_on_after_it() {
    use sixfold_log_format::wire::{WishState, WishVerb};
    let mut cluster = Cluster::with(bounds_with_refence(), opened_with_fleet(9, 1));
    cluster.under_load(20, |_| false);
    let out = crate::cluster::segment_id(0);
    cluster.submit_wish(WishVerb::Replace, *out.as_bytes());
    cluster.cut_off_the_new(1);
    assert!(cluster.core.stats().membership.proposed.is_some());
    claim(&mut cluster, 4..6);
    cluster.pass_ms(3_000);
    assert_eq!(cluster.refences, 1);
    cluster.join_up();
    reopen(&mut cluster);
    assert_eq!(cluster.fenced, None);
    cluster.commit(put("a key", "x")).unwrap();
    let is_done = |cluster: &Cluster| cluster.state([5; 16]) == WishState::Done;
    assert!(cluster.under_load(400, |cluster| {
        cluster.core.stats().membership.sets[0].1 == 2 || is_done(cluster)
    }));
    cluster.heal();
    assert!(cluster.under_load(400, is_done));
    let relations = cluster.core.stats().relations;
    assert!(!relations.iter().any(|relation| relation.segment == out));
    assert_eq!(relations.len(), 6);
}

#[test]
fn a_group_whose_step_nobody_heard_is_appended_after_it() {
    use sixfold_log_format::wire::{WishState, WishVerb};
    let mut cluster = Cluster::with(bounds_with_refence(), opened_with_fleet(12, 1));
    cluster.under_load(20, |_| false);
    cluster.submit_wish(WishVerb::Grow, [0; 16]);
    cluster.cut_off_the_new(6);
    assert!(cluster.core.stats().membership.proposed.is_some());
    claim(&mut cluster, 4..6);
    cluster.pass_ms(3_000);
    assert_eq!(cluster.refences, 1);
    cluster.join_up();
    reopen(&mut cluster);
    assert_eq!(cluster.fenced, None);
    cluster.commit(put("a key", "x")).unwrap();
    let is_done = |cluster: &Cluster| cluster.state([5; 16]) == WishState::Done;
    assert!(cluster.under_load(400, is_done));
    assert_eq!(cluster.core.stats().membership.sets.len(), 2);
    assert_eq!(cluster.core.stats().relations.len(), 12);
}

/// Too few of its segments are heard: that is no reason to fence anybody, and a successor may be what it comes from.
#[test]
fn an_outage_is_no_reason_for_it() {
    let mut cluster = bare();
    cluster.kill(3);
    cluster.pass_ms(10_000);
    assert_eq!(cluster.refences, 0);
    cluster.segments[3].down = false;
    cluster.pass_ms(1_500);
    assert_eq!(cluster.refences, 0, "it waits anew");
    cluster.pass_ms(1_500);
    assert_eq!(cluster.refences, 1);
    // While it drains, too.
    let mut cluster = bare();
    cluster.segments[3].mute = true;
    let ticket = cluster.submit(put("a key", "x"));
    cluster.pass_ms(2_500);
    cluster.kill(2);
    cluster.segments[3].mute = false;
    cluster.ack_and_run(3);
    cluster.pass_ms(5_000);
    assert!(cluster.answer(ticket).unwrap().is_ok());
    assert_eq!(cluster.refences, 0);
}

#[test]
fn a_process_that_stood_still_does_not_go_by_what_it_knew() {
    let mut cluster = bare();
    cluster.pass_ms(1_500);
    cluster.now += Duration::from_secs(10);
    cluster.timeout();
    cluster.pass_ms(1_500);
    assert_eq!(cluster.refences, 0);
    cluster.pass_ms(1_000);
    assert_eq!(cluster.refences, 1);
}

fn unavailable() -> WriterEvent {
    WriterEvent::Refenced {
        result: Err(RecoveryError::Unavailable {
            pg: sixfold_log_format::PgId::ROOT,
            answered: 3,
            needed: 4,
        }),
    }
}

#[test]
fn a_close_while_it_drains_writes_what_waits() {
    let mut cluster = bare();
    cluster.segments[3].mute = true;
    let first = cluster.submit(put("a key", "x"));
    cluster.pass_ms(2_500);
    let second = cluster.submit(put("another key", "y"));
    cluster.run();
    cluster.event(WriterEvent::Close);
    cluster.run();
    assert_eq!(
        (cluster.answer(first), cluster.answer(second)),
        (None, None)
    );
    cluster.segments[3].mute = false;
    cluster.ack_and_run(3);
    assert!(cluster.answer(first).unwrap().is_ok());
    assert!(cluster.answer(second).unwrap().is_ok());
    assert!(cluster.drained);
    assert_eq!(cluster.refences, 0);
}

#[test]
fn a_close_while_it_cannot_open_refuses_what_waits_at_once() {
    use sixfold_compute_core::CommitError;
    for close_first in [false, true] {
        let mut cluster = bare();
        cluster.pass_ms(2_500);
        assert_eq!(cluster.refences, 1);
        let ticket = cluster.submit(put("a key", "x"));
        if close_first {
            cluster.event(WriterEvent::Close);
            cluster.event(unavailable());
        } else {
            cluster.event(unavailable());
            cluster.event(WriterEvent::Close);
        }
        cluster.run();
        let answer = cluster.answer(ticket).unwrap();
        assert!(matches!(answer, Err(CommitError::Unavailable { .. })));
        assert!(cluster.drained);
    }
}
