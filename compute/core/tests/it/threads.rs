//! Readers on threads of their own, beside the writer (R28).

use std::sync::atomic::{AtomicBool, Ordering};

use sixfold_kv::KvError;
use sixfold_log_format::Lsn;

use crate::cluster::{Cluster, put};

/// One reader: announces, reads, and looks whether its read point holds everything back that it needs.
fn read_until(shared: &std::sync::Arc<sixfold_compute_core::Shared>, done: &AtomicBool) -> usize {
    let mut last = (Lsn::NONE, 0_u64);
    let mut count = 0;
    while !done.load(Ordering::Relaxed) || count == 0 {
        let point = shared.announce();
        assert!(
            shared.read_point_min() <= point.lsn(),
            "an announced read point is not counted"
        );
        assert!(
            point.lsn() >= last.0,
            "read points of one reader never go back"
        );
        let value = |name: &[u8]| match sixfold_kv::get(&point.view(), name) {
            Ok(found) => Some(String::from_utf8(found.unwrap().value.to_vec()).unwrap()),
            // Possible when VDL ran away while it announced: the page would be fetched.
            Err(KvError::Miss(_)) => None,
            Err(error) => panic!("{error}"),
        };
        let (Some(one), Some(other)) = (value(b"one"), value(b"other")) else {
            continue;
        };
        let one: u64 = one.parse().unwrap();
        let other: u64 = other.parse().unwrap();
        assert_eq!(one, other, "both were written by one transaction");
        assert!(one >= last.1);
        last = (point.lsn(), one);
        count += 1;
    }
    count
}

#[test]
fn readers_beside_the_writer_see_whole_transactions_and_hold_back_what_they_announced() {
    let mut cluster = Cluster::new();
    let both = |number: u64| {
        let mut request = put("one", &number.to_string());
        request
            .writes
            .keys
            .extend(put("other", &number.to_string()).writes.keys);
        request
    };
    cluster.commit(both(0)).unwrap();
    let shared = cluster.core.shared();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| read_until(&shared, &done)))
            .collect();
        for number in 1..3_000 {
            cluster.commit(both(number)).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}
