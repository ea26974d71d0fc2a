//! Tests of announced read points (R28).

use std::sync::Arc;

use sixfold_log_format::Lsn;

use crate::shared::Shared;

#[test]
fn the_lowest_announced_point_counts_until_it_is_dropped() {
    let shared = Arc::new(Shared::new(Lsn::new(100)));
    let first = shared.announce();
    shared.publish_vdl(Lsn::new(200));
    let second = shared.announce();
    assert_eq!((first.lsn(), second.lsn()), (Lsn::new(100), Lsn::new(200)));
    assert_eq!(shared.read_point_min(), Lsn::new(100));
    let past = shared.announce_at(Lsn::new(50)).unwrap();
    assert_eq!(shared.read_point_min(), Lsn::new(50));
    drop(past);
    drop(first);
    assert_eq!(shared.read_point_min(), Lsn::new(200));
    assert!(shared.announce_at(Lsn::new(201)).is_none(), "above VDL");
}

#[test]
fn more_readers_than_slots_are_all_seen() {
    let shared = Arc::new(Shared::new(Lsn::new(100)));
    let many: Vec<_> = (0..1_000).map(|_| shared.announce()).collect();
    let lowest = shared.announce_at(Lsn::new(7)).unwrap();
    assert_eq!(shared.read_point_min(), Lsn::new(7));
    drop(many);
    assert_eq!(shared.read_point_min(), Lsn::new(7));
    drop(lowest);
    assert_eq!(shared.read_point_min(), Lsn::new(100));
}
