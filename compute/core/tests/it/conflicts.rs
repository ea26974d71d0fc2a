//! Validation: what a transaction read must not have changed since, durable or not.

use sixfold_compute_core::{CommitError, CommitRequest, ReadRange};
use sixfold_log_format::Lsn;

use crate::cluster::{Cluster, bounds, key, opened, put};

fn reading(cluster: &Cluster, keys: &[&str], write: (&str, &str)) -> CommitRequest {
    CommitRequest {
        read_point: cluster.core.shared().vdl(),
        read_keys: keys.iter().map(key).collect(),
        ..put(write.0, write.1)
    }
}

fn is_conflict(result: Option<Result<Lsn, CommitError>>) -> bool {
    matches!(result, Some(Err(CommitError::Conflict { .. })))
}

#[test]
fn a_changed_key_conflicts_and_mints_nothing() {
    let mut cluster = Cluster::new();
    cluster.commit(put("a", "1")).unwrap();
    let point = cluster.core.shared().announce();
    let request = reading(&cluster, &["a"], ("b", "2"));
    let changed_at = cluster.commit(put("a", "3")).unwrap();
    let last = cluster.core.stats().last;
    let read_point = point.lsn();
    assert_eq!(
        cluster.commit(request),
        Err(CommitError::Conflict {
            read_point,
            changed_at
        })
    );
    assert_eq!(cluster.core.stats().last, last);
    assert_eq!(cluster.get("b"), None);
    assert_eq!(cluster.core.stats().conflicts, 1);
}

#[test]
fn a_commit_that_is_not_durable_yet_conflicts_too() {
    let mut cluster = Cluster::new();
    cluster.commit(put("a", "1")).unwrap();
    let request = reading(&cluster, &["a"], ("b", "2"));
    cluster.each(|segment| segment.mute = true);
    let in_flight = cluster.submit(put("a", "3"));
    cluster.run();
    assert_eq!(cluster.answer(in_flight), None);
    let ticket = cluster.submit(request);
    cluster.run();
    assert!(is_conflict(cluster.answer(ticket)));
}

#[test]
fn of_two_read_modify_writes_at_one_read_point_one_conflicts() {
    let mut cluster = Cluster::new();
    cluster.commit(put("counter", "0")).unwrap();
    let both = [reading(&cluster, &["counter"], ("counter", "1")); 1];
    let [request] = both;
    let first = cluster.submit(request.clone());
    let second = cluster.submit(request);
    cluster.run();
    assert!(cluster.answer(first).unwrap().is_ok());
    assert!(is_conflict(cluster.answer(second)));
}

#[test]
fn an_absent_key_that_appears_conflicts() {
    let mut cluster = Cluster::new();
    let request = reading(&cluster, &["missing"], ("b", "2"));
    let _point = cluster.core.shared().announce();
    cluster.commit(put("missing", "1")).unwrap();
    let ticket = cluster.submit(request);
    cluster.run();
    assert!(is_conflict(cluster.answer(ticket)));
}

#[test]
fn a_phantom_in_a_consumed_range_conflicts_and_one_behind_it_does_not() {
    let mut cluster = Cluster::new();
    cluster.commit(put("m1", "1")).unwrap();
    let _point = cluster.core.shared().announce();
    let ranged = |cluster: &Cluster, end: &str, write: &str| CommitRequest {
        read_point: cluster.core.shared().vdl(),
        read_ranges: vec![ReadRange {
            start: key("m"),
            end: Some(key(end)),
            end_included: true,
        }],
        ..put(write, "x")
    };
    let consumed = ranged(&cluster, "m5", "z1");
    let stopped_early = ranged(&cluster, "m2", "z2");
    cluster.commit(put("m3", "phantom")).unwrap();
    let first = cluster.submit(consumed);
    let second = cluster.submit(stopped_early);
    cluster.run();
    assert!(is_conflict(cluster.answer(first)));
    assert!(cluster.answer(second).unwrap().is_ok());
}

#[test]
fn blind_writes_never_conflict() {
    let mut cluster = Cluster::new();
    for number in 0..20 {
        cluster.submit(put("a", &number.to_string()));
    }
    cluster.run();
    assert_eq!(cluster.answers.len(), 20);
    assert!(cluster.answers.iter().all(|(_, result)| result.is_ok()));
    assert_eq!(cluster.get("a").as_deref(), Some("19"));
}

#[test]
fn read_only_transactions_never_conflict() {
    let mut cluster = Cluster::new();
    let point = cluster.core.shared().announce();
    let read_only = CommitRequest {
        read_point: point.lsn(),
        read_keys: vec![key("a")],
        ..CommitRequest::default()
    };
    cluster.commit(put("a", "1")).unwrap();
    assert_eq!(cluster.commit(read_only), Ok(point.lsn()));
}

#[test]
fn a_read_point_below_what_is_remembered_is_too_old() {
    let few = sixfold_compute_core::WriterBounds {
        remembered_keys_max: 4,
        ..bounds()
    };
    let mut cluster = Cluster::with(few, opened(8_192, 100_000));
    let _point = cluster.core.shared().announce();
    let request = reading(&cluster, &["a"], ("b", "2"));
    for number in 0..6 {
        cluster
            .commit(put(&format!("other {number}"), "x"))
            .unwrap();
    }
    assert!(matches!(
        cluster.commit(request),
        Err(CommitError::TooOld { .. })
    ));
}

#[test]
fn the_version_of_a_key_is_the_lsn_of_its_commit() {
    let mut cluster = Cluster::new();
    let mut writes = put("a", "1");
    writes.writes.keys.extend(put("b", "2").writes.keys);
    let lsn = cluster.commit(writes).unwrap();
    let view = cluster.core.shared().announce().view();
    for at in ["a", "b"] {
        assert_eq!(
            sixfold_kv::get(&view, at.as_bytes())
                .unwrap()
                .unwrap()
                .stamp,
            lsn
        );
    }
}

#[test]
fn a_hundred_thousand_small_ranges_do_not_stop_the_writer() {
    let mut cluster = Cluster::new();
    let held = cluster.core.shared().announce();
    for number in 0..4_000 {
        cluster
            .commit(put(&format!("hot {}", number % 7), "x"))
            .unwrap();
    }
    let mut request = put("mine", "1");
    request.read_point = held.lsn();
    for number in 0..100_000 {
        request.read_ranges.push(ReadRange {
            start: format!("dir/{number:06}/").into(),
            end: Some(format!("dir/{number:06}0").into()),
            end_included: false,
        });
    }
    // Without a bound on the work this takes minutes, not seconds.
    for _ in 0..50 {
        request.read_point = held.lsn();
        cluster.commit(request.clone()).unwrap();
    }
    request.read_ranges[99_999].start = "hot".into();
    request.read_ranges[99_999].end = None;
    assert!(is_conflict(Some(cluster.commit(request))));
}
