//! What the writer does by itself: it gets on beside commits, in small volumes and in full ones.

use std::borrow::Cow;
use std::time::Duration;

use sixfold_compute_core::{CommitError, CommitRequest, Token, WriterBounds};
use sixfold_log_format::wire::{Message, PageAnswer, PageRequest, Pages};
use sixfold_log_format::{Cell, CellFlags, Lsn, Op, PageKind, Record, Stamp, apply};

use crate::cluster::{Cluster, UNIX_MS, bounds, key, opened, opened_with_pgs, put, put_until};

/// Keys that expire at `UNIX_MS + 1_100`, put behind the sweeper's first look.
fn with_expiring_keys(count: u32) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.pass_ms(1_000);
    for number in 0..count {
        let at = format!("ttl {number}");
        cluster
            .commit(put_until(&at, "1", UNIX_MS + 1_100))
            .unwrap();
    }
    cluster
}

#[test]
fn expired_keys_go_while_commits_flow() {
    let mut cluster = with_expiring_keys(2_000);
    for number in 0..1_000 {
        cluster.now += Duration::from_millis(1);
        cluster.commit(put("x", &number.to_string())).unwrap();
    }
    assert_eq!(cluster.row_count(b'd'), 0);
}

#[test]
fn thousands_of_expired_keys_go_within_a_second_in_an_idle_volume() {
    let mut cluster = with_expiring_keys(2_000);
    cluster.pass_ms(1_000);
    assert_eq!(cluster.row_count(b'd'), 0);
}

#[test]
fn keys_expire_in_a_volume_with_a_small_lal() {
    let mut cluster = Cluster::with(bounds(), opened(8_192, 512));
    for number in 0..100 {
        let at = format!("ttl {number}");
        cluster.commit(put_until(&at, "1", UNIX_MS + 500)).unwrap();
    }
    cluster.pass_ms(5_000);
    assert_eq!(cluster.get("ttl 0"), None);
    assert_eq!(cluster.row_count(b'd'), 0);
}

#[test]
fn scattered_keys_expire_with_a_tiny_cache() {
    let tiny = WriterBounds {
        cache_bytes_max: 64 * 512,
        ..bounds()
    };
    let mut cluster = Cluster::with(tiny, opened(512, 100_000));
    for number in 0..1_000u32 {
        // Neighbors in the expiry index are far apart in the tree.
        let at = format!("ttl {:010}", number.wrapping_mul(2_654_435_761));
        let deadline_ms = UNIX_MS + 5_000 + u64::from(number);
        let value = "0123456789012345678901234567890";
        cluster.commit(put_until(&at, value, deadline_ms)).unwrap();
    }
    cluster.pass_ms(120_000);
    assert_eq!(cluster.row_count(b'd'), 0);
}

/// A small volume that takes no more values, and how many keys it holds.
fn full() -> (Cluster, u32) {
    let mut cluster = Cluster::with(bounds(), opened_with_pgs(512, 100_000, 1, 256));
    let value = "0123456789012345678901234567890123456789";
    for count in 0.. {
        cluster.now += Duration::from_millis(7);
        match cluster.commit(put(&at(count), value)) {
            Ok(_) => {}
            Err(CommitError::Full) => return (cluster, count),
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

fn at(number: u32) -> String {
    format!("key {number:06}")
}

/// Deletes all, a key at a time in the order that `place` gives, with a token each or without, so far apart in time.
fn empty(cluster: &mut Cluster, count: u32, with_tokens: bool, step_ms: u64) {
    // 37 apart: no leaf loses two keys in a row.
    let stride = if with_tokens { 1 } else { 37 };
    assert_ne!(count % 37, 0);
    for number in 0..count {
        cluster.pass_ms(step_ms);
        let mut request = CommitRequest::default();
        let at = at((number * stride) % count);
        request.writes.delete(key(&at));
        if with_tokens {
            let birth = cluster.core.shared().vdl();
            let id = u128::from(number).to_le_bytes();
            request.token = Some(Token::Made { birth, id });
        }
        let done = cluster.commit(request);
        assert!(done.is_ok(), "delete {number} of {count}: {done:?}");
        assert_eq!(cluster.get(&at), None);
    }
}

#[test]
fn a_full_volume_is_emptied_key_by_key_in_any_order_however_long_it_takes() {
    let (mut cluster, count) = full();
    empty(&mut cluster, count, false, 100);
    cluster.commit(put("again", "1")).unwrap();
}

#[test]
fn a_full_volume_is_emptied_key_by_key_with_tokens() {
    let (mut cluster, count) = full();
    empty(&mut cluster, count, true, 20);
    cluster.commit(put("again", "1")).unwrap();
}

#[test]
fn a_full_volume_is_emptied_by_a_clear_with_a_token() {
    let (mut cluster, _) = full();
    cluster.pass_ms(1_000);
    let mut request = CommitRequest::default();
    request.writes.clear(key("key"), Some(key("kez")));
    request.token = Some(Token::Given([7; 16]));
    cluster.commit(request).unwrap();
    cluster.pass_ms(5_000);
    cluster.commit(put("again", "1")).unwrap();
}

#[test]
fn the_clock_goes_on_in_a_full_volume() {
    let (mut cluster, _) = full();
    let rows_before = cluster.row_count(b'c');
    for _ in 0..500 {
        cluster.pass_ms(100);
        // In place: it needs no page.
        cluster.commit(put(&at(0), "0")).unwrap();
        let passed_ms = cluster.now.as_millis() as u64 - 1_000_000;
        assert!(cluster.clock_ms() + 100 >= UNIX_MS + passed_ms);
    }
    // What is left of the volume is not eaten up by moments.
    assert!(cluster.row_count(b'c') < rows_before + 500);
    assert_eq!(cluster.commit(put("one more", "1")), Err(CommitError::Full));
}

/// What a segment answers for a page, its first child beyond the volume.
fn astray(cluster: &Cluster, request: &PageRequest) -> PageAnswer {
    let mut page = cluster.segments[0].page(request.page, request.lsn, cluster.page_bytes);
    if page.kind() == PageKind::Inner {
        let cell = Cell {
            key: Cow::Borrowed(&[]),
            value: Cow::Owned((1_u64 << 40).to_le_bytes().to_vec()),
            stamp: Stamp::At(Lsn::NONE),
            flags: CellFlags::PLAIN,
            deadline_ms: None,
        };
        let record = Record {
            lsn: page.lsn().next(),
            page: page.id(),
            page_prev: page.lsn(),
            cpl: page.lsn().next(),
            user_visible: false,
            op: Op::Replace { slot: 0, cell },
        };
        apply(&mut page, &record).unwrap();
    }
    PageAnswer::Page(page.encode().into())
}

#[test]
fn a_page_that_leads_out_of_the_volume_ends_commits_as_corrupt_and_not_the_writer() {
    let mut cluster = Cluster::with(bounds(), opened(512, 10_000));
    for number in 0..40 {
        let value = "0123456789012345678901234567890123456789";
        cluster.commit(put(&at(number), value)).unwrap();
    }
    cluster.fail_over(UNIX_MS);
    cluster.each(|segment| segment.silent = true);
    // The internal rows lie on the leftmost path, and so does this key.
    let ticket = cluster.submit(put("!", "x"));
    // The chores go the same way.
    cluster.pass_ms(300);
    for _ in 0..20 {
        cluster.run();
        while let Some((fetch, _, read)) = cluster.held_reads.pop_front() {
            let pages = read.pages.iter().map(|request| astray(&cluster, request));
            let message = Message::Pages(Pages {
                pages: pages.collect(),
            });
            cluster.answer_read(fetch, Some(message));
        }
        cluster.pass_ms(10);
    }
    let result = cluster.answer(ticket).unwrap();
    assert!(
        matches!(result, Err(CommitError::Corrupt { .. })),
        "{result:?}"
    );
    assert!(cluster.core.is_open());
}
