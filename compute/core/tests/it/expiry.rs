//! Keys with a deadline: gone by the volume's clock record, never by a process's clock (T5).

use sixfold_compute_core::{CommitError, CommitRequest, Modify, WriteValue, WriterBounds};

use crate::cluster::{Cluster, UNIX_MS, bounds, key, opened, put, put_until};

#[test]
fn a_key_is_gone_soon_after_its_deadline_in_an_idle_volume_and_its_rows_too() {
    let mut cluster = Cluster::new();
    cluster
        .commit(put_until("a", "1", UNIX_MS + 1_000))
        .unwrap();
    cluster.commit(put("b", "2")).unwrap();
    cluster.pass_ms(900);
    assert_eq!(cluster.get("a").as_deref(), Some("1"));
    assert!(cluster.clock_ms() < UNIX_MS + 1_000);
    assert_eq!(cluster.row_count(b'd'), 1);
    cluster.pass_ms(250);
    assert!(cluster.clock_ms() >= UNIX_MS + 1_000);
    assert_eq!(cluster.get("a"), None);
    assert_eq!(cluster.row_count(b'd'), 0);
    assert_eq!(cluster.get("b").as_deref(), Some("2"));
    // Nothing is left to be done: the volume comes to rest.
    let last = cluster.core.stats().last;
    cluster.pass_ms(10_000);
    assert_eq!(cluster.core.stats().last, last);
}

#[test]
fn a_snapshot_before_the_deadline_still_sees_the_key() {
    let mut cluster = Cluster::new();
    cluster.commit(put_until("a", "1", UNIX_MS + 500)).unwrap();
    let before = cluster.core.shared().announce();
    cluster.pass_ms(2_000);
    assert_eq!(cluster.get("a"), None);
    let found = cluster.read(&before, |view| sixfold_kv::get(view, b"a"));
    assert!(found.is_some());
}

#[test]
fn a_key_that_was_put_again_outlives_its_first_deadline() {
    let mut cluster = Cluster::new();
    cluster.commit(put_until("a", "1", UNIX_MS + 500)).unwrap();
    cluster.commit(put_until("b", "1", UNIX_MS + 500)).unwrap();
    cluster.commit(put("a", "2")).unwrap();
    cluster
        .commit(put_until("b", "2", UNIX_MS + 5_000))
        .unwrap();
    cluster.pass_ms(2_000);
    assert_eq!(cluster.get("a").as_deref(), Some("2"));
    assert_eq!(cluster.get("b").as_deref(), Some("2"));
    assert_eq!(cluster.row_count(b'd'), 1);
    cluster.pass_ms(5_000);
    assert_eq!(cluster.get("b"), None);
    assert_eq!(cluster.row_count(b'd'), 0);
}

#[test]
fn a_key_with_several_deadlines_passed_at_once_is_swept_in_turns() {
    let mut cluster = Cluster::new();
    for number in 0..5 {
        cluster
            .commit(put_until("a", "1", UNIX_MS + 300 + number))
            .unwrap();
    }
    for number in 0..300 {
        let at = format!("key {number}");
        cluster.commit(put_until(&at, "1", UNIX_MS + 400)).unwrap();
    }
    cluster.pass_ms(3_000);
    assert_eq!(cluster.row_count(b'd'), 0);
    assert_eq!((cluster.get("a"), cluster.get("key 299")), (None, None));
}

#[test]
fn a_commit_that_saw_a_key_alive_behind_its_deadline_conflicts() {
    let mut cluster = Cluster::new();
    cluster
        .commit(put_until("a", "1", UNIX_MS + 1_000))
        .unwrap();
    let read = |cluster: &Cluster| CommitRequest {
        read_point: cluster.core.shared().vdl(),
        read_keys: vec![key("a")],
        earliest_deadline_ms: Some(UNIX_MS + 1_000),
        ..put("seen", "yes")
    };
    let in_time = read(&cluster);
    assert!(cluster.commit(in_time).is_ok());
    let late = read(&cluster);
    // The deadline comes between read and commit, and no sweeper was there before: the line is not empty.
    cluster.now += std::time::Duration::from_millis(1_050);
    let result = cluster.commit(late);
    assert!(
        matches!(result, Err(CommitError::Conflict { .. })),
        "{result:?}"
    );
    assert_eq!(cluster.get("seen").as_deref(), Some("yes"));
}

#[test]
fn modify_takes_an_expired_number_for_absent_by_the_clock_at_its_place() {
    let mut cluster = Cluster::new();
    let mut number = put_until("n", "", UNIX_MS + 1_000);
    let value = 41_i64.to_le_bytes();
    for write in number.writes.keys.values_mut() {
        let sixfold_compute_core::KeyWrite::Put(put) = write else {
            panic!()
        };
        put.bytes = value.to_vec().into();
    }
    cluster.commit(number).unwrap();
    let add = |cluster: &mut Cluster| {
        let mut request = CommitRequest::default();
        request.writes.modify(key("n"), Modify::Add(1)).unwrap();
        cluster.commit(request).unwrap();
        let point = cluster.core.shared().announce();
        let found = cluster.read(&point, |view| sixfold_kv::get(view, b"n"));
        i64::from_le_bytes(found.unwrap().value[..].try_into().unwrap())
    };
    let mut expired = Cluster::new();
    expired
        .commit(put_until("n", "12345678", UNIX_MS + 1_000))
        .unwrap();
    expired.now += std::time::Duration::from_millis(1_050);
    assert_eq!(add(&mut expired), 1, "the tick goes with it");
    assert_eq!(add(&mut cluster), 42);
    cluster.pass_ms(5_000);
    assert_eq!(add(&mut cluster), 43, "what it made has no deadline");
}

#[test]
fn between_two_clock_records_a_key_lives_on_whatever_the_writers_clock_says() {
    let mut cluster = Cluster::new();
    let mut number = CommitRequest::default();
    number.writes.put(
        key("n"),
        WriteValue {
            bytes: 41_i64.to_le_bytes().to_vec().into(),
            deadline_ms: Some(UNIX_MS + 30),
        },
    );
    cluster.commit(number).unwrap();
    // The next record is due after 100 ms.
    cluster.now += std::time::Duration::from_millis(50);
    assert_eq!(cluster.get("n").unwrap().as_bytes(), 41_i64.to_le_bytes());
    let mut request = CommitRequest::default();
    request.writes.modify(key("n"), Modify::Add(1)).unwrap();
    cluster.commit(request).unwrap();
    assert_eq!(cluster.clock_ms(), UNIX_MS);
    assert_eq!(cluster.get("n").unwrap().as_bytes(), 42_i64.to_le_bytes());
}

#[test]
fn a_new_writer_whose_clock_is_behind_brings_no_key_back_and_sweeps_all_the_same() {
    let mut cluster = Cluster::with(bounds(), opened(8_192, 1_000_000));
    cluster
        .commit(put_until("a", "1", UNIX_MS + 1_000))
        .unwrap();
    cluster
        .commit(put_until("b", "1", UNIX_MS + 3_000))
        .unwrap();
    cluster.pass_ms(2_000);
    assert_eq!(cluster.get("a"), None);
    let clock_ms = cluster.clock_ms();
    cluster.fail_over(UNIX_MS - 60_000);
    assert_eq!(cluster.get("a"), None);
    assert_eq!(cluster.get("b").as_deref(), Some("1"));
    cluster.commit(put("c", "1")).unwrap();
    assert!(cluster.clock_ms() >= clock_ms);
    cluster.pass_ms(70_000);
    assert_eq!(cluster.get("b"), None);
    assert_eq!(cluster.row_count(b'd'), 0);
}

#[test]
fn nothing_is_swept_without_a_quorum_or_when_closing() {
    let mut cluster = Cluster::new();
    cluster
        .commit(put_until("a", "1", UNIX_MS + 1_000))
        .unwrap();
    (0..3).for_each(|index| cluster.kill(index));
    cluster.pass_ms(200);
    let last = cluster.core.stats().last;
    cluster.pass_ms(3_000);
    assert_eq!(cluster.core.stats().last, last);
    cluster.each(|segment| segment.down = false);
    cluster.pass_ms(2_000);
    assert_eq!(cluster.get("a"), None);
}

#[test]
fn what_expires_at_once_goes_in_as_many_turns_as_a_small_volume_needs() {
    // An MTR may have 31 records, and the sweeper would take 64 keys.
    let mut cluster = Cluster::with(bounds(), opened(8_192, 128));
    for number in 0..40 {
        let at = format!("key {number:02}");
        cluster.commit(put_until(&at, "1", UNIX_MS + 400)).unwrap();
    }
    cluster.pass_ms(3_000);
    assert_eq!(cluster.row_count(b'd'), 0);
    assert!(cluster.clock_ms() >= UNIX_MS + 400);
}

#[test]
fn what_expires_goes_although_the_cache_holds_two_pages() {
    let bounds = WriterBounds {
        cache_bytes_max: 2 * 512,
        ..bounds()
    };
    let mut cluster = Cluster::with(bounds, opened(512, 1_000));
    for number in 0..60 {
        let at = format!("key {number:02}");
        cluster.commit(put_until(&at, "1", UNIX_MS + 400)).unwrap();
    }
    cluster.pass_ms(20_000);
    assert_eq!(cluster.row_count(b'd'), 0);
}
