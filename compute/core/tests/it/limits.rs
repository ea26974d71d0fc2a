//! Every bound: LAL, unacknowledged bytes, waiting commits, the cache (R18, R30).

use sixfold_compute_core::{CommitError, CommitRequest, CommitTicket, WriteValue, WriterBounds};

use crate::cluster::{Cluster, PATIENCE, bounds, opened, put};

fn many_puts(start: u32, count: u32, value: &str) -> CommitRequest {
    let mut request = CommitRequest::default();
    for number in start..start + count {
        request
            .writes
            .keys
            .extend(put(&format!("key {number:06}"), value).writes.keys);
    }
    request
}

#[test]
fn nothing_is_minted_above_vdl_plus_lal() {
    let lal = 64;
    let mut cluster = Cluster::with(bounds(), opened(8_192, lal));
    cluster.each(|segment| segment.mute = true);
    let base = cluster.core.shared().vdl();
    let tickets: Vec<_> = (0..200)
        .map(|n| cluster.submit(many_puts(n, 1, "x")))
        .collect();
    cluster.run();
    let last = cluster.core.stats().last;
    assert!(last <= base.plus(lal));
    assert!(last > base.plus(lal - 4), "the allowance is used");
    for _ in 0..40 {
        (0..4).for_each(|index| cluster.ack_and_run(index));
        let stats = cluster.core.stats();
        assert!(stats.last <= stats.vdl.plus(lal));
    }
    assert!(
        tickets
            .iter()
            .all(|&ticket| cluster.answer(ticket).unwrap().is_ok())
    );
}

#[test]
fn an_mtr_of_more_than_a_quarter_of_the_lal_is_refused_before_minting() {
    let mut cluster = Cluster::with(bounds(), opened(8_192, 64));
    let last = cluster.core.stats().last;
    for _ in 0..2 {
        let result = cluster.commit(many_puts(0, 40, "x"));
        let Err(CommitError::TooLarge {
            records,
            records_max,
        }) = result
        else {
            panic!("{result:?}, which is no better the next time")
        };
        assert!(records > records_max && records_max < 16);
    }
    assert_eq!(cluster.core.stats().last, last);
    cluster.commit(many_puts(0, 10, "x")).unwrap();
}

#[test]
fn unacknowledged_bytes_hold_commits_back_whole() {
    let tight = WriterBounds {
        unacknowledged_bytes_max: 200_000,
        ..bounds()
    };
    let mut cluster = Cluster::with(tight, opened(8_192, 100_000));
    cluster.each(|segment| segment.mute = true);
    let value = "v".repeat(1_000);
    let tickets: Vec<_> = (0..400)
        .map(|n| cluster.submit(many_puts(n, 1, &value)))
        .collect();
    cluster.run();
    assert!(cluster.core.stats().unacknowledged_bytes <= 200_000);
    let minted = cluster.core.stats().last;
    for ticket in &tickets {
        assert_eq!(cluster.answer(*ticket), None);
    }
    cluster.pass(PATIENCE);
    let count = |wanted: fn(&CommitError) -> bool| {
        let ends = tickets
            .iter()
            .map(|&ticket| cluster.answer(ticket).unwrap().unwrap_err());
        ends.filter(wanted).count()
    };
    let unknown = count(|error| matches!(error, CommitError::Unknown { .. }));
    let unavailable = count(|error| matches!(error, CommitError::Unavailable { .. }));
    assert_eq!(unknown + unavailable, 400);
    assert!(unknown > 0 && unavailable > 0);
    assert_eq!(
        cluster.core.stats().last,
        minted,
        "what waited was not minted"
    );
}

#[test]
fn an_mtr_larger_than_the_byte_bound_goes_alone() {
    let tight = WriterBounds {
        unacknowledged_bytes_max: 100_000,
        ..bounds()
    };
    let mut cluster = Cluster::with(tight, opened(8_192, 100_000));
    cluster.each(|segment| segment.mute = true);
    let small = cluster.submit(put("a", "1"));
    cluster.run();
    let large = cluster.submit(many_puts(0, 300, &"v".repeat(1_000)));
    let behind = cluster.submit(put("z", "1"));
    cluster.run();
    let last = cluster.core.stats().last;
    (0..4).for_each(|index| cluster.ack_and_run(index));
    assert!(cluster.answer(small).unwrap().is_ok());
    assert!(cluster.core.stats().last > last.plus(300), "now it goes");
    assert_eq!(cluster.answer(large), None);
    for _ in 0..4 {
        (0..4).for_each(|index| cluster.ack_and_run(index));
    }
    assert!(cluster.answer(large).unwrap().unwrap() < cluster.answer(behind).unwrap().unwrap());
}

#[test]
fn more_waiting_commits_than_the_bound_are_refused_at_once() {
    let few = WriterBounds {
        waiting_commits_max: 10,
        ..bounds()
    };
    let mut cluster = Cluster::with(few, opened(8_192, 100_000));
    (0..3).for_each(|index| cluster.kill(index));
    cluster.run();
    let tickets: Vec<_> = (0..12)
        .map(|n| cluster.submit(many_puts(n, 1, "x")))
        .collect();
    cluster.run();
    assert!(
        tickets[..10]
            .iter()
            .all(|&ticket| cluster.answer(ticket).is_none())
    );
    for &ticket in &tickets[10..] {
        assert!(matches!(
            cluster.answer(ticket),
            Some(Err(CommitError::Unavailable { .. }))
        ));
    }
}

#[test]
fn more_bytes_of_waiting_commits_than_the_bound_are_refused_at_once() {
    let mut cluster = Cluster::new();
    (0..3).for_each(|index| cluster.kill(index));
    cluster.run();
    // One buffer of 1 MiB, shared by all.
    let value = WriteValue {
        bytes: vec![7; 1 << 20].into(),
        deadline_ms: None,
    };
    let large = |number: u32| CommitRequest {
        writes: (0..32)
            .map(|part| (format!("{number} {part}").into(), Some(value.clone())))
            .collect(),
        ..CommitRequest::default()
    };
    let tickets: Vec<_> = (0..12).map(|n| cluster.submit(large(n))).collect();
    cluster.run();
    let waits = |ticket: &&CommitTicket| cluster.answer(**ticket).is_none();
    assert_eq!(tickets.iter().filter(waits).count(), 7, "256 MiB at most");
    let small = cluster.submit(put("small", "x"));
    cluster.run();
    assert_eq!(cluster.answer(small), None, "there is room for a small one");
    // When they have left, there is room again.
    cluster.pass(PATIENCE);
    assert!(tickets.iter().all(|&ticket| matches!(
        cluster.answer(ticket),
        Some(Err(CommitError::Unavailable { .. }))
    )));
    let again = cluster.submit(large(0));
    cluster.run();
    assert_eq!(cluster.answer(again), None);
}

#[test]
fn a_transaction_larger_than_the_cache_commits_without_deadlock() {
    let page_bytes = 512;
    let tiny = WriterBounds {
        cache_bytes_max: 64 * page_bytes,
        ..bounds()
    };
    let mut cluster = Cluster::with(tiny, opened(page_bytes as u32, 1_000_000));
    let value = "v".repeat(40);
    for start in (0..3_000).step_by(500) {
        cluster.commit(many_puts(start, 500, &value)).unwrap();
    }
    // Some 500 leaves, none of which fit together; two of them at once, and small ones beside.
    let spread = |offset: u32| {
        let mut request = CommitRequest::default();
        for number in (offset..3_000).step_by(6) {
            request
                .writes
                .keys
                .extend(put(&format!("key {number:06}"), "new").writes.keys);
        }
        request
    };
    let tickets: Vec<_> = (0..4)
        .flat_map(|n| {
            let large = cluster.submit(spread(n));
            [
                large,
                cluster.submit(put(&format!("key {n:06} small"), "x")),
            ]
        })
        .collect();
    cluster.run();
    for ticket in tickets {
        cluster.answer(ticket).expect("it ends").unwrap();
    }
    assert_eq!(cluster.get("key 000003").as_deref(), Some("new"));
    assert_eq!(cluster.get("key 000004").as_deref(), Some(&value[..]));
    assert!(
        cluster.core.stats().fetches > 100,
        "the cache was too small for it"
    );
}

#[test]
fn reads_of_a_tiny_cache_pass_through_and_end() {
    let tiny = WriterBounds {
        cache_bytes_max: 512,
        ..bounds()
    };
    let mut cluster = Cluster::with(tiny, opened(512, 1_000_000));
    for start in (0..400).step_by(50) {
        cluster
            .commit(many_puts(start, 50, "a value of some bytes"))
            .unwrap();
    }
    for number in (0..400).step_by(37) {
        let at = format!("key {number:06}");
        assert_eq!(cluster.get(&at).as_deref(), Some("a value of some bytes"));
    }
}
