//! Misses: routing, hedging, retry, and what an arrival proves (R26, R27, T8).

use std::sync::Arc;
use std::time::Duration;

use sixfold_compute_core::{CommitError, CommitRequest, FetchError, WriterBounds};
use sixfold_log_format::wire::{Message, PageAnswer, Pages, Refusal};
use sixfold_log_format::{Lsn, Page, PageId, VolumeEpoch};

use crate::cluster::{Cluster, bounds, key, opened, put};

const PAGE_BYTES: usize = 512;

/// A volume whose cache holds one page, so that reads miss.
fn cold() -> Cluster {
    with_pages(1)
}

fn with_pages(page_count: usize) -> Cluster {
    let tiny = WriterBounds {
        cache_bytes_max: page_count * PAGE_BYTES,
        ..bounds()
    };
    let mut cluster = Cluster::with(tiny, opened(PAGE_BYTES as u32, 1_000_000));
    for number in 0..60 {
        cluster
            .commit(put(&format!("key {number:03}"), "a value of some bytes"))
            .unwrap();
    }
    cluster
}

/// A page that is not in the cache.
fn missing_page(cluster: &Cluster) -> PageId {
    (2..20)
        .map(PageId::new)
        .find(|&page| !cluster.is_cached(page))
        .unwrap()
}

fn read_count(cluster: &Cluster) -> usize {
    cluster
        .segments
        .iter()
        .map(|segment| segment.reads.len())
        .sum()
}

#[test]
fn many_who_want_one_page_share_one_request() {
    let mut cluster = cold();
    let page = missing_page(&cluster);
    let vdl = cluster.core.shared().vdl();
    let before = read_count(&cluster);
    let tickets: Vec<_> = (0..10).map(|_| cluster.fetch(page, vdl)).collect();
    cluster.run();
    assert_eq!(read_count(&cluster), before + 1);
    for ticket in tickets {
        assert_eq!(cluster.fetched(ticket).unwrap().unwrap().id(), page);
    }
}

#[test]
fn a_read_carries_the_read_point_and_the_last_lsn_of_the_pg() {
    let mut cluster = cold();
    let page = missing_page(&cluster);
    let vdl = cluster.core.shared().vdl();
    cluster.each(|segment| segment.reads.clear());
    cluster.fetch(page, vdl);
    cluster.run();
    let reads = cluster.segments.iter().flat_map(|segment| &segment.reads);
    let request = reads
        .map(|read| read.pages[0])
        .rfind(|request| request.page == page)
        .unwrap();
    assert_eq!((request.lsn, request.pg_last), (vdl, vdl));
}

#[test]
fn an_overdue_read_is_hedged_and_the_first_answer_wins() {
    let mut cluster = cold();
    cluster.each(|segment| segment.silent = true);
    let page = missing_page(&cluster);
    let ticket = cluster.fetch(page, cluster.core.shared().vdl());
    cluster.run();
    assert_eq!(cluster.held_reads.len(), 1);
    cluster.pass_ms(8);
    assert_eq!(cluster.held_reads.len(), 2, "one hedge, to another segment");
    assert_ne!(cluster.held_reads[0].1, cluster.held_reads[1].1);
    let (fetch, index, read) = cluster.held_reads.pop_back().unwrap();
    cluster.serve(fetch, index, &read);
    cluster.run();
    assert!(cluster.fetched(ticket).unwrap().is_ok());
    cluster.serve_held();
    assert_eq!(
        cluster
            .fetched
            .iter()
            .filter(|(fetched, _)| *fetched == ticket)
            .count(),
        1
    );
    assert_eq!(cluster.core.stats().hedged, 1);
}

/// Reads pages at many read points, one by one, and demands an answer to each within 20 ms.
fn read_around(cluster: &mut Cluster, read_count: u64) {
    let vdl = cluster.core.shared().vdl();
    for number in 0..read_count {
        let page = PageId::new(2 + number % 15);
        let lsn = Lsn::new(vdl.get() - (number / 15) % 25);
        let ticket = cluster.fetch(page, lsn);
        cluster.pass_ms(20);
        let held = cluster.held_reads.len();
        assert!(
            cluster.fetched(ticket).is_some(),
            "read {number} waits, though others serve; {held} are owed"
        );
    }
}

#[test]
fn a_stopped_segment_does_not_block_all_reads() {
    let mut cluster = cold();
    cluster.segments[0].silent = true;
    read_around(&mut cluster, 1_500);
    let owed = cluster.held_reads.len();
    assert!(owed < 60, "it is asked now and then only, not {owed} times");
}

#[test]
fn two_stopped_segments_do_not_make_a_read_wait_for_either() {
    let mut cluster = cold();
    cluster.each(|segment| segment.silent = true);
    let page = missing_page(&cluster);
    let ticket = cluster.fetch(page, cluster.core.shared().vdl());
    cluster.pass_ms(8);
    let owed = |cluster: &Cluster| cluster.held_reads.iter().map(|held| held.1).collect();
    let stopped: Vec<usize> = owed(&cluster);
    assert_eq!(stopped.len(), 2, "the first one and the hedge");
    cluster.each(|segment| segment.silent = false);
    cluster.pass_ms(20);
    assert_eq!(owed(&cluster), stopped);
    assert!(cluster.fetched(ticket).unwrap().is_ok());
    for index in stopped {
        cluster.segments[index].silent = true;
    }
    read_around(&mut cluster, 300);
}

#[test]
fn unanswered_reads_that_nobody_waits_for_leave_room_for_others() {
    let mut cluster = cold();
    cluster.each(|segment| segment.silent = true);
    let vdl = cluster.core.shared().vdl().get();
    let tickets: Vec<_> = (0..400)
        .map(|number| cluster.fetch(PageId::new(2 + number % 4), Lsn::new(vdl - number / 4)))
        .collect();
    cluster.pass(crate::cluster::PATIENCE);
    cluster.run();
    for ticket in tickets {
        assert!(cluster.fetched(ticket).is_some());
    }
    assert!(cluster.held_reads.len() > 256);
    // Nothing of it is ever answered.
    cluster.held_reads.clear();
    cluster.each(|segment| segment.silent = false);
    let page = missing_page(&cluster);
    let ticket = cluster.fetch(page, Lsn::new(vdl));
    cluster.run();
    assert!(cluster.fetched(ticket).unwrap().is_ok());
}

#[test]
fn a_page_that_contradicts_what_the_writer_knows_is_not_handed_out() {
    let mut cluster = cold();
    cluster.each(|segment| segment.silent = true);
    let vdl = cluster.core.shared().vdl();
    let earlier = Lsn::new(vdl.get() - 1);
    let at =
        |cluster: &Cluster, page: PageId, lsn: Lsn| cluster.segments[0].page(page, lsn, PAGE_BYTES);
    // A page with two versions, the last of them older than VDL.
    let page = (2..20)
        .map(PageId::new)
        .filter(|&page| !cluster.is_cached(page))
        .find(|&page| {
            let last = at(&cluster, page, vdl).lsn();
            let before = last.checked_minus(1).unwrap_or(Lsn::NONE);
            last < earlier && !at(&cluster, page, before).lsn().is_none()
        })
        .unwrap();
    let newest = at(&cluster, page, vdl);
    let stale = at(&cluster, page, newest.lsn().checked_minus(1).unwrap());

    let at_vdl = cluster.fetch(page, vdl);
    cluster.run();
    let at_earlier = cluster.fetch(page, earlier);
    cluster.run();
    let (fetch, index, read) = cluster.held_reads.pop_front().unwrap();
    cluster.serve(fetch, index, &read);
    cluster.run();
    assert_eq!(*cluster.fetched(at_vdl).unwrap().unwrap(), newest);
    // Sound in itself, but the page changed between it and the read point, as the writer has seen.
    let (fetch, liar, _) = cluster.held_reads.pop_front().unwrap();
    let message = Message::Pages(Pages {
        pages: vec![PageAnswer::Page(stale.encode().into())],
    });
    cluster.answer_read(fetch, Some(message));
    cluster.run();
    assert!(cluster.fetched(at_earlier).is_none());
    let (_, other, _) = cluster.held_reads[0];
    assert_ne!(other, liar, "the next segment is asked");
    cluster.serve_held();
    assert_eq!(*cluster.fetched(at_earlier).unwrap().unwrap(), newest);
}

#[test]
fn a_refused_read_goes_to_the_next_segment_until_one_serves_it() {
    let mut cluster = cold();
    cluster.each(|segment| segment.refuses_reads = Some(Refusal::Overloaded));
    cluster.segments[4].refuses_reads = None;
    let page = missing_page(&cluster);
    let ticket = cluster.fetch(page, cluster.core.shared().vdl());
    cluster.run();
    assert!(cluster.fetched(ticket).unwrap().is_ok());
}

#[test]
fn when_all_refuse_it_is_tried_again_until_the_deadline() {
    let mut cluster = cold();
    cluster.each(|segment| segment.refuses_reads = Some(Refusal::Overloaded));
    let page = missing_page(&cluster);
    let vdl = cluster.core.shared().vdl();
    let healed = cluster.fetch(page, vdl);
    cluster.pass_ms(100);
    assert!(cluster.fetched(healed).is_none());
    cluster.each(|segment| segment.refuses_reads = None);
    cluster.pass_ms(20);
    assert!(cluster.fetched(healed).unwrap().is_ok());

    cluster.each(|segment| segment.refuses_reads = Some(Refusal::Overloaded));
    let page = missing_page(&cluster);
    let before = read_count(&cluster);
    let lost = cluster.fetch(page, vdl);
    cluster.pass(Duration::from_secs(5));
    assert!(matches!(
        cluster.fetched(lost),
        Some(Err(FetchError::Unavailable { .. }))
    ));
    assert!(read_count(&cluster) - before < 6 * 600, "with pauses");
}

#[test]
fn a_collected_version_is_forgotten() {
    let mut cluster = cold();
    let horizon = Lsn::new(1_000_040);
    cluster.each(|segment| segment.refuses_reads = Some(Refusal::Forgotten { horizon }));
    let lsn = Lsn::new(1_000_020);
    let ticket = cluster.fetch(PageId::new(2), lsn);
    cluster.run();
    let forgotten = FetchError::Forgotten {
        lsn,
        oldest: horizon,
    };
    assert_eq!(cluster.fetched(ticket).unwrap().unwrap_err(), forgotten);
}

#[test]
fn one_segment_that_forgot_a_version_does_not_make_it_forgotten() {
    let mut cluster = cold();
    let vdl = cluster.core.shared().vdl();
    let horizon = vdl.next();
    for segment in &mut cluster.segments[..2] {
        segment.refuses_reads = Some(Refusal::Forgotten { horizon });
    }
    for page in (2..40).map(PageId::new) {
        let ticket = cluster.fetch(page, vdl);
        cluster.run();
        cluster.pass(Duration::from_millis(100));
        assert!(cluster.fetched(ticket).unwrap().is_ok(), "page {page}");
    }
}

#[test]
fn damaged_foreign_and_too_new_pages_are_not_believed() {
    let mut cluster = cold();
    cluster.each(|segment| segment.silent = true);
    let page = missing_page(&cluster);
    let vdl = cluster.core.shared().vdl();
    let ticket = cluster.fetch(page, vdl);
    cluster.run();
    let answers: Vec<fn(&Cluster, PageId) -> Vec<u8>> = vec![
        |cluster, page| {
            let mut bytes = cluster.segments[0]
                .page(page, Lsn::MAX, PAGE_BYTES)
                .encode();
            bytes[100] ^= 1;
            bytes
        },
        |cluster, _| {
            cluster.segments[0]
                .page(PageId::META, Lsn::MAX, PAGE_BYTES)
                .encode()
        },
        |_, _| vec![0; 17],
    ];
    for answer in answers {
        let (fetch, _, _) = cluster.held_reads.pop_front().unwrap();
        let bytes = answer(&cluster, page).into();
        let message = Message::Pages(Pages {
            pages: vec![PageAnswer::Page(bytes)],
        });
        cluster.answer_read(fetch, Some(message));
        cluster.run();
        assert!(cluster.fetched(ticket).is_none());
    }
    let (fetch, _, _) = cluster.held_reads.pop_front().unwrap();
    cluster.answer_read(fetch, Some(Message::Pages(Pages { pages: Vec::new() })));
    cluster.run();
    assert!(cluster.fetched(ticket).is_none());
    cluster.serve_held();
    assert!(cluster.fetched(ticket).unwrap().is_ok());
}

#[test]
fn a_read_above_vdl_or_beyond_the_volume_is_refused() {
    let mut cluster = cold();
    let vdl = cluster.core.shared().vdl();
    let above = cluster.fetch(PageId::new(2), vdl.plus(1));
    let beyond = cluster.fetch(PageId::new(u64::MAX), vdl);
    let none = cluster.fetch(PageId::NONE, vdl);
    cluster.run();
    assert!(matches!(
        cluster.fetched(above),
        Some(Err(FetchError::Unavailable { .. }))
    ));
    assert!(matches!(
        cluster.fetched(beyond),
        Some(Err(FetchError::Corrupt { .. }))
    ));
    assert!(matches!(
        cluster.fetched(none),
        Some(Err(FetchError::Corrupt { .. }))
    ));
}

#[test]
fn reads_go_on_with_three_nodes_and_stop_at_a_fence() {
    let mut cluster = cold();
    (0..3).for_each(|index| cluster.kill(index));
    cluster.run();
    assert_eq!(
        cluster.get("key 007").as_deref(),
        Some("a value of some bytes")
    );
    cluster.each(|segment| segment.silent = true);
    let page = missing_page(&cluster);
    let vdl = cluster.core.shared().vdl();
    let waits = cluster.fetch(page, vdl);
    cluster.run();
    let volume_epoch = VolumeEpoch::new(5);
    cluster.each(|segment| segment.refuses = Some(Refusal::StaleEpoch { volume_epoch }));
    (3..6).for_each(|index| cluster.ack(index));
    cluster.run();
    let fenced = FetchError::Fenced { volume_epoch };
    assert_eq!(cluster.fetched(waits).unwrap().unwrap_err(), fenced);
    let late = cluster.fetch(page, vdl);
    cluster.run();
    assert_eq!(cluster.fetched(late).unwrap().unwrap_err(), fenced);
    let lease = cluster.want_lease(Duration::from_secs(1));
    cluster.run();
    assert_eq!(cluster.leased(lease), Some(false));
}

#[test]
fn a_commit_that_misses_lets_others_pass_and_is_validated_again() {
    let mut cluster = with_pages(4);
    // The way to key 1 is in memory, the leaf of key 50 is not.
    for number in (5..45).chain([1, 1]) {
        cluster.get(&format!("key {number:03}"));
    }
    let point = cluster.core.shared().announce();
    cluster.each(|segment| segment.silent = true);
    let request = CommitRequest {
        read_point: point.lsn(),
        read_keys: vec![key("key 001")],
        ..put("key 050", "changed")
    };
    let misses = cluster.submit(request);
    cluster.run();
    assert!(!cluster.held_reads.is_empty(), "its pages are on their way");
    assert_eq!(cluster.answer(misses), None);
    // Meanwhile what it read is changed by a commit that came later.
    cluster.each(|segment| segment.silent = false);
    let passes = cluster.commit(put("key 001", "other")).unwrap();
    assert!(passes > point.lsn());
    cluster.serve_held();
    assert!(matches!(
        cluster.answer(misses),
        Some(Err(CommitError::Conflict { changed_at, .. })) if changed_at == passes
    ));
}

#[test]
fn a_commit_whose_pages_cannot_be_had_is_unavailable_and_mints_nothing() {
    let mut cluster = cold();
    cluster.each(|segment| segment.silent = true);
    let last = cluster.core.stats().last;
    let ticket = cluster.submit(put("key 050", "changed"));
    cluster.pass(crate::cluster::PATIENCE);
    cluster.run();
    assert!(matches!(
        cluster.answer(ticket),
        Some(Err(CommitError::Unavailable { .. }))
    ));
    assert_eq!(cluster.core.stats().last, last);
}

#[test]
fn a_record_minted_while_a_fetch_is_on_its_way_keeps_the_arrival_from_being_the_newest() {
    // Somebody asks for a page that was never used. Before the answer comes, a split uses it, is durable, and the page is
    // gone from the cache.
    let mut cluster = cold();
    let segment = &cluster.segments[0];
    let is_unused = |id: &PageId| segment.page(*id, Lsn::MAX, PAGE_BYTES).lsn().is_none();
    let page = (2..1_000).map(PageId::new).find(is_unused).unwrap();
    cluster.each(|segment| segment.silent = true);
    let ticket = cluster.fetch(page, cluster.core.shared().vdl());
    cluster.run();
    let held = std::mem::take(&mut cluster.held_reads);
    cluster.each(|segment| segment.silent = false);
    for number in 100..130 {
        cluster
            .commit(put(&format!("key {number:03}"), "a value of some bytes"))
            .unwrap();
    }
    assert!(
        !cluster.segments[0]
            .page(page, Lsn::MAX, PAGE_BYTES)
            .lsn()
            .is_none()
    );
    for number in 0..10 {
        cluster.get(&format!("key {number:03}")).unwrap();
    }
    assert!(!cluster.is_cached(page));
    cluster.held_reads = held;
    cluster.serve_held();
    assert!(
        cluster.fetched(ticket).unwrap().unwrap().lsn().is_none(),
        "as of its read point"
    );
    assert!(!cluster.is_cached(page), "it is not the page at VDL");
    for number in 100..130 {
        assert!(cluster.get(&format!("key {number:03}")).is_some());
        cluster
            .commit(put(&format!("key {number:03}"), "changed"))
            .unwrap();
    }
}

#[test]
fn a_reader_sees_its_read_point_whatever_is_committed_later() {
    let mut cluster = Cluster::new();
    cluster.commit(put("a", "1")).unwrap();
    let point = cluster.core.shared().announce();
    let before = cluster.get("a");
    for number in 2..100 {
        cluster.commit(put("a", &number.to_string())).unwrap();
        let seen = sixfold_kv::get(&point.view(), b"a").unwrap().unwrap();
        assert_eq!(
            Some(String::from_utf8(seen.value.to_vec()).unwrap()),
            before
        );
    }
    assert_eq!(read_count(&cluster), 0, "all of it from memory");
}

#[test]
fn a_view_finds_what_it_holds_although_the_cache_has_no_room() {
    let cluster = Cluster::new();
    let point = cluster.core.shared().announce();
    let mut view = point.view();
    let page = Arc::new(Page::new(PageId::new(99), 8_192));
    use sixfold_kv::PageSource;
    assert!(view.page(PageId::new(99)).is_none());
    view.hold(Arc::clone(&page));
    assert!(Arc::ptr_eq(&view.page(PageId::new(99)).unwrap(), &page));
    view.release();
    assert!(view.page(PageId::new(99)).is_none());
}

#[test]
fn the_pages_of_one_reader_travel_in_one_request() {
    let mut cluster = cold();
    let vdl = cluster.core.shared().vdl();
    let missing: Vec<PageId> = (2..60)
        .map(PageId::new)
        .filter(|&page| !cluster.is_cached(page))
        .collect();
    assert!(missing.len() > 3);
    cluster.each(|segment| segment.reads.clear());
    let ticket = cluster.fetch_all(missing.clone(), vdl);
    cluster.run();
    let pages = cluster.fetched_all(ticket).unwrap().unwrap();
    let mut got: Vec<PageId> = pages.iter().map(|page| page.id()).collect();
    got.sort_unstable();
    assert_eq!(got, missing);
    let requests = cluster.segments.iter().map(|segment| segment.reads.len());
    assert_eq!(requests.sum::<usize>(), 1);
}

#[test]
fn one_answer_stays_within_a_frame_and_one_page_that_fails_fails_the_reader_alone() {
    let mut cluster = cold();
    let vdl = cluster.core.shared().vdl();
    let many: Vec<PageId> = (2..402).map(PageId::new).collect();
    cluster.each(|segment| segment.reads.clear());
    let ticket = cluster.fetch_all(many, vdl);
    cluster.run();
    assert!(cluster.fetched_all(ticket).unwrap().is_ok());
    let counts: Vec<usize> = cluster
        .segments
        .iter()
        .flat_map(|segment| segment.reads.iter().map(|read| read.pages.len()))
        .collect();
    assert!(
        counts.len() >= 3 && counts.iter().all(|&count| count <= 128),
        "{counts:?}"
    );
    cluster.each(|segment| segment.silent = true);
    let page = (2..60)
        .map(PageId::new)
        .find(|&page| !cluster.is_cached(page))
        .unwrap();
    let both = cluster.fetch_all(vec![page, PageId::new(500)], vdl);
    let alone = cluster.fetch(page, vdl);
    cluster.run();
    let (fetch, _, read) = cluster.held_reads.pop_front().unwrap();
    assert_eq!(read.pages.len(), 2, "the second reader waits for the same");
    let good = cluster.segments[0].page(page, vdl, PAGE_BYTES).encode();
    let pages = vec![
        PageAnswer::Page(good.into()),
        PageAnswer::Refused(Refusal::Forgotten { horizon: vdl }),
    ];
    cluster.answer_read(fetch, Some(Message::Pages(Pages { pages })));
    cluster.run();
    assert!(cluster.fetched(alone).unwrap().is_ok());
    // The other page is asked of two more before it counts as forgotten.
    for _ in 0..2 {
        assert!(cluster.fetched_all(both).is_none());
        let (fetch, _, read) = cluster.held_reads.pop_back().unwrap();
        assert_eq!(read.pages.len(), 1);
        let pages = vec![PageAnswer::Refused(Refusal::Forgotten { horizon: vdl })];
        cluster.answer_read(fetch, Some(Message::Pages(Pages { pages })));
        cluster.run();
    }
    assert!(cluster.fetched_all(both).unwrap().is_err());
}
