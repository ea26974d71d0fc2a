//! Clears and numbers: what they do, and with what they conflict.

use bytes::Bytes;
use sixfold_compute_core::{CommitError, CommitRequest, Modify, ReadRange, WriteSet};

use crate::cluster::{Cluster, key, put};

fn clear(start: &str, end: Option<&str>) -> CommitRequest {
    let mut request = CommitRequest::default();
    request.writes.clear(key(start), end.map(key));
    request
}

fn filled() -> Cluster {
    let mut cluster = Cluster::new();
    for number in 0..20 {
        cluster.commit(put(&format!("k{number:02}"), "x")).unwrap();
    }
    cluster
}

fn is_conflict(result: &Result<sixfold_log_format::Lsn, CommitError>) -> bool {
    matches!(result, Err(CommitError::Conflict { .. }))
}

#[test]
fn a_clear_takes_its_range_and_what_is_put_beside_it_stays() {
    let mut cluster = filled();
    let mut request = clear("k05", Some("k10"));
    request.writes.put(key("k07"), key("new"));
    cluster.commit(request).unwrap();
    for number in 0..20 {
        let held = cluster.get(&format!("k{number:02}"));
        let wanted = match number {
            7 => Some("new"),
            5..10 => None,
            _ => Some("x"),
        };
        assert_eq!(held.as_deref(), wanted, "k{number:02}");
    }
    cluster.commit(clear("k", None)).unwrap();
    assert_eq!(cluster.get("k19"), None);
}

#[test]
fn a_clear_conflicts_with_reads_of_keys_and_ranges_inside_and_with_no_others() {
    let read_key = |at: &str| CommitRequest {
        read_keys: vec![key(at)],
        ..put("z", "1")
    };
    let read_range = |start: &str, end: Option<&str>| CommitRequest {
        read_ranges: vec![ReadRange {
            start: key(start),
            end: end.map(key),
            end_included: false,
        }],
        ..put("z", "1")
    };
    let reads = [
        (read_key("k05"), true),
        (read_key("k09"), true),
        (read_key("k06 absent"), true),
        (read_key("k04"), false),
        (read_key("k10"), false),
        (read_range("k00", Some("k06")), true),
        (read_range("k07", Some("k08")), true),
        (read_range("k09", None), true),
        (read_range("k00", Some("k05")), false),
        (read_range("k10", Some("k11")), false),
    ];
    for (read, conflicts) in reads {
        let mut cluster = filled();
        let point = cluster.core.shared().announce();
        let read = CommitRequest {
            read_point: point.lsn(),
            ..read
        };
        cluster.commit(clear("k05", Some("k10"))).unwrap();
        let result = cluster.commit(read.clone());
        assert_eq!(is_conflict(&result), conflicts, "{read:?}: {result:?}");
    }
}

#[test]
fn a_clear_in_flight_conflicts_and_a_blind_one_does_not() {
    let mut cluster = filled();
    let read_point = cluster.core.shared().vdl();
    cluster.each(|segment| segment.mute = true);
    let first = cluster.submit(clear("k05", Some("k10")));
    let blind = cluster.submit(clear("k00", Some("k15")));
    let reads = cluster.submit(CommitRequest {
        read_point,
        read_keys: vec![key("k12")],
        ..put("z", "1")
    });
    cluster.run();
    assert!(is_conflict(&cluster.answer(reads).unwrap()));
    for _ in 0..3 {
        (0..4).for_each(|index| cluster.ack_and_run(index));
    }
    assert!(cluster.answer(first).unwrap().is_ok() && cluster.answer(blind).unwrap().is_ok());
}

#[test]
fn numbers_are_computed_at_the_commits_place_without_conflicts() {
    let mut cluster = Cluster::new();
    let modify = |ops: &[Modify]| {
        let mut request = CommitRequest::default();
        ops.iter()
            .for_each(|&op| request.writes.modify(key("n"), op).unwrap());
        request
    };
    cluster.each(|segment| segment.mute = true);
    let tickets: Vec<_> = (0..10)
        .map(|_| cluster.submit(modify(&[Modify::Add(2), Modify::Max(5), Modify::Add(1)])))
        .collect();
    cluster.run();
    cluster.each(|segment| segment.mute = false);
    (0..6).for_each(|index| cluster.ack_and_run(index));
    assert!(
        tickets
            .iter()
            .all(|&ticket| cluster.answer(ticket).unwrap().is_ok())
    );
    let number = |cluster: &mut Cluster| {
        let point = cluster.core.shared().announce();
        let found = cluster.read(&point, |view| sixfold_kv::get(view, b"n"));
        i64::from_le_bytes(found.unwrap().value[..].try_into().unwrap())
    };
    assert_eq!(number(&mut cluster), 6 + 9 * 3);
    // It conflicts readers of the key.
    let point = cluster.core.shared().announce();
    cluster.commit(modify(&[Modify::Min(0)])).unwrap();
    let reader = CommitRequest {
        read_point: point.lsn(),
        read_keys: vec![key("n")],
        ..put("z", "1")
    };
    assert!(is_conflict(&cluster.commit(reader)));
    assert_eq!(number(&mut cluster), 0);
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_minted() {
    let mut cluster = Cluster::new();
    cluster.commit(put("text", "no number")).unwrap();
    let mut large = CommitRequest::default();
    large
        .writes
        .modify(key("n"), Modify::Max(i64::MAX))
        .unwrap();
    cluster.commit(large).unwrap();
    let last = cluster.core.stats().last;
    let mut on_text = CommitRequest::default();
    on_text.writes.modify(key("text"), Modify::Add(1)).unwrap();
    let mut overflow = put("a", "1");
    overflow.writes.modify(key("n"), Modify::Add(1)).unwrap();
    let mut own_row = CommitRequest::default();
    own_row.writes.put(Bytes::from_static(b"\0t row"), key("x"));
    let mut own_rows = CommitRequest::default();
    own_rows.writes.clear(Bytes::from_static(b"\0"), None);
    let mut long = CommitRequest::default();
    long.writes.put(vec![1; 5_000].into(), key("x"));
    let mut reversed = CommitRequest::default();
    reversed.writes.clears = vec![(key("b"), Some(key("a")))];
    for request in [on_text, overflow, own_row, own_rows, long, reversed] {
        let result = cluster.commit(request.clone());
        assert!(
            matches!(result, Err(CommitError::Invalid { .. })),
            "{request:?}: {result:?}"
        );
    }
    assert_eq!(cluster.core.stats().last, last);
    assert_eq!(cluster.get("a"), None);
}

#[test]
fn a_write_set_keeps_the_last_word_and_joins_its_clears() {
    let mut set = WriteSet::new();
    set.put(key("b"), key("1"));
    set.put(key("d"), key("1"));
    set.clear(key("a"), Some(key("c")));
    assert!(!set.keys.contains_key(&key("b")[..]) && set.keys.contains_key(&key("d")[..]));
    set.clear(key("e"), Some(key("g")));
    set.clear(key("c"), Some(key("d")));
    set.clear(key("f"), Some(key("h")));
    assert_eq!(
        set.clears,
        [(key("a"), Some(key("d"))), (key("e"), Some(key("h")))]
    );
    assert!(set.is_cleared(b"a") && set.is_cleared(b"c1") && !set.is_cleared(b"d"));
    set.delete(key("b"));
    assert!(
        !set.keys.contains_key(&key("b")[..]),
        "nothing is left to delete"
    );
    set.modify(key("b"), Modify::Add(3)).unwrap();
    set.modify(key("b"), Modify::Add(4)).unwrap();
    let seven =
        sixfold_compute_core::KeyWrite::Put(Bytes::copy_from_slice(&7_i64.to_le_bytes()).into());
    assert_eq!(set.keys.get(&key("b")[..]), Some(&seven));
    set.clear(key("a"), None);
    assert_eq!(set.clears, [(key("a"), None)]);
    assert!(set.keys.is_empty());
}
