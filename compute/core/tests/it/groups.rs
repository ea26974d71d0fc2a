//! Volumes of several protection groups: one log, one VDL.

use sixfold_compute_core::{CommitRequest, WriterBounds};
use sixfold_log_format::{Lsn, PageId, PgId};

use crate::cluster::{Cluster, bounds, opened_with_pgs, put};

const PAGES_PER_PG: u64 = 8;

/// Four groups of a few pages each, and keys in all of them.
fn cluster() -> (Cluster, u32) {
    let tiny = WriterBounds {
        cache_bytes_max: 8 * 512,
        ..bounds()
    };
    let mut cluster = Cluster::with(tiny, opened_with_pgs(512, 100_000, 4, PAGES_PER_PG));
    let mut count = 0;
    while cluster.segments[18].batches.is_empty() {
        cluster
            .commit(put(&format!("key {count:03}"), "a value of some bytes"))
            .unwrap();
        count += 1;
    }
    (cluster, count)
}

fn many(count: u32, value: &str) -> CommitRequest {
    let mut request = CommitRequest::default();
    for number in 0..count {
        request
            .writes
            .keys
            .extend(put(&format!("key {number:03}"), value).writes.keys);
    }
    request
}

#[test]
fn each_group_gets_its_own_pages_only_and_its_chain_has_no_gap() {
    let (cluster, _) = cluster();
    for (index, segment) in cluster.segments.iter().enumerate() {
        let pg = PgId::new(index as u32 / 6);
        let mut before = Lsn::NONE;
        for batch in segment.batches.values() {
            assert_eq!((batch.header().pg, batch.header().prev), (pg, before));
            before = batch.header().last;
            for placed in batch.records() {
                assert_eq!(placed.record.page.get() / PAGES_PER_PG, u64::from(pg.get()));
            }
        }
        assert_eq!(segment.scl(), before);
    }
}

#[test]
fn vdl_waits_for_every_group_of_a_seal_and_for_no_idle_one() {
    let (mut cluster, count) = cluster();
    // The last group acknowledges nothing: a commit that touches all of them waits for it.
    (18..24).for_each(|index| cluster.segments[index].mute = true);
    let vdl = cluster.core.shared().vdl();
    let ticket = cluster.submit(many(count, "changed"));
    cluster.run();
    assert_eq!(cluster.answer(ticket), None);
    assert_eq!(cluster.core.shared().vdl(), vdl);
    (18..22).for_each(|index| cluster.ack_and_run(index));
    assert!(cluster.answer(ticket).unwrap().is_ok());
    // A commit that touches other groups only does not.
    cluster.commit(put("key 000", "again")).unwrap();
}

#[test]
fn pages_are_read_from_the_group_that_holds_them() {
    let (mut cluster, count) = cluster();
    for number in 0..count {
        let value = cluster.get(&format!("key {number:03}"));
        assert_eq!(value.as_deref(), Some("a value of some bytes"));
    }
    for (index, segment) in cluster.segments.iter().enumerate() {
        for read in &segment.reads {
            assert_eq!(read.pages[0].page.get() / PAGES_PER_PG, index as u64 / 6);
            // An idle group is asked for what it has, not for the volume's last LSN (R26).
            assert!(read.pages[0].pg_last <= segment.scl());
        }
    }
    assert!(
        cluster.segments[18..]
            .iter()
            .any(|segment| !segment.reads.is_empty())
    );
    let meta = cluster.core.shared().vdl();
    let ticket = cluster.fetch(PageId::META, meta);
    cluster.run();
    assert!(cluster.fetched(ticket).unwrap().is_ok());
}

#[test]
fn a_group_without_a_write_quorum_holds_all_commits_back_before_minting() {
    let (mut cluster, _) = cluster();
    (6..9).for_each(|index| cluster.kill(index));
    cluster.run();
    let last = cluster.core.stats().last;
    let ticket = cluster.submit(put("key 000", "x"));
    cluster.pass_ms(100);
    assert_eq!(cluster.answer(ticket), None);
    assert_eq!(cluster.core.stats().last, last);
    cluster.segments[7].down = false;
    cluster.pass_ms(600);
    assert!(cluster.answer(ticket).unwrap().is_ok());
}
