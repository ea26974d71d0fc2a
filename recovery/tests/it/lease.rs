//! Read leases (T1).

use sixfold_log_format::QuorumModel;
use sixfold_recovery::lease::{GrantedLease, ReadLease};

use crate::common::{entry, full_tail, ms, segment, set, six};

#[test]
fn a_lease_counts_from_the_third_latest_send() {
    let pg = entry(0, vec![six()]);
    let mut lease = ReadLease::new(ms(50));
    lease.answered(segment(0), ms(10));
    lease.answered(segment(1), ms(30));
    assert_eq!(lease.valid_until(&pg), None);
    lease.answered(segment(2), ms(20));
    assert_eq!(lease.valid_until(&pg), Some(ms(60)));
    lease.answered(segment(0), ms(40));
    assert_eq!(lease.valid_until(&pg), Some(ms(70)));
    lease.answered(segment(0), ms(5));
    assert_eq!(
        lease.valid_until(&pg),
        Some(ms(70)),
        "an answer to an older message takes nothing back"
    );
}

#[test]
fn a_lease_needs_every_set_in_force_and_no_joining_member() {
    let mut entered = set(QuorumModel::FourOfSix, &[0, 1, 2, 3, 4, 6]);
    entered.members[5].joining = true;
    let pg = entry(0, vec![six(), entered]);
    let mut lease = ReadLease::new(ms(50));
    for number in [5, 6, 0, 1] {
        lease.answered(segment(number), ms(10));
    }
    assert_eq!(
        lease.valid_until(&pg),
        None,
        "the set entered has two whole answers only"
    );
    lease.answered(segment(2), ms(11));
    assert_eq!(lease.valid_until(&pg), Some(ms(60)));
}

#[test]
fn a_full_tail_lease_needs_a_full_segment() {
    let pg = entry(0, vec![full_tail()]);
    let mut lease = ReadLease::new(ms(50));
    for tail in [1, 3, 5] {
        lease.answered(segment(tail), ms(30));
    }
    assert_eq!(lease.valid_until(&pg), None);
    lease.answered(segment(2), ms(20));
    assert_eq!(lease.valid_until(&pg), Some(ms(70)));
}

#[test]
fn many_segments_do_not_grow_the_lease() {
    let pg = entry(0, vec![six()]);
    let mut lease = ReadLease::new(ms(50));
    for number in 0..150 {
        lease.answered(segment(number), ms(u64::from(number)));
    }
    assert_eq!(
        lease.valid_until(&pg),
        None,
        "segments of long ago were forgotten"
    );
}

#[test]
fn a_granted_lease_outlasts_what_the_writer_counts() {
    let mut granted = GrantedLease::none(ms(50));
    assert_eq!(granted.left(ms(0)), ms(0));
    granted.granted(ms(100));
    assert_eq!(granted.left(ms(100)), ms(50));
    assert_eq!(granted.left(ms(149) + ms(1) / 2), ms(1), "rounded up");
    assert_eq!(granted.left(ms(150)), ms(0));
    granted.granted(ms(90));
    assert_eq!(granted.left(ms(100)), ms(50), "it never shrinks");
}

#[test]
fn after_a_restart_the_full_length_is_running() {
    assert_eq!(
        GrantedLease::after_restart(ms(7), ms(50)).left(ms(17)),
        ms(40)
    );
}
