//! Tests of the page index: what was gathered and what is in the map are found alike.

use std::collections::BTreeMap;

use sixfold_log_format::{
    Batch, BatchBuilder, History, Lsn, Op, PageId, PageKind, PgId, Record, VolumeEpoch, VolumeId,
};

use crate::chain::BatchId;
use crate::index::{GATHERED_MAX, PageIndex};

const PAGES: u64 = 50;
const BATCH_RECORDS: u64 = 40;

/// The records `first..first + BATCH_RECORDS`, of pages all over the place; every third one begins its page's chain.
fn batch(first: u64) -> Batch {
    let (volume, pg, epoch) = (
        VolumeId::from_bytes([7; 16]),
        PgId::ROOT,
        VolumeEpoch::new(1),
    );
    let prev = Lsn::new(first).checked_minus(1).unwrap();
    let mut builder = BatchBuilder::new(volume, pg, epoch, prev);
    for lsn in first..first + BATCH_RECORDS {
        let starts = lsn % 3 == 0;
        let record = Record {
            lsn: Lsn::new(lsn),
            page: page_of(lsn),
            page_prev: if starts { Lsn::NONE } else { Lsn::new(lsn - 1) },
            cpl: Lsn::new(lsn),
            user_visible: false,
            op: if starts {
                Op::Init {
                    kind: PageKind::Leaf,
                    level: 0,
                }
            } else {
                Op::Truncate { from_slot: 0 }
            },
        };
        assert!(builder.push(&record));
    }
    builder.seal(Lsn::NONE, 0)
}

fn page_of(lsn: u64) -> PageId {
    PageId::new(2 + lsn.wrapping_mul(0x9E37_79B9_7F4A_7C15) % PAGES)
}

/// Compares every page with `known`, which has the LSNs of each.
fn check(index: &PageIndex, known: &BTreeMap<PageId, Vec<u64>>) {
    for number in 2..2 + PAGES {
        let page = PageId::new(number);
        let lsns = known.get(&page).map_or(&[][..], Vec::as_slice);
        for (after, through) in [(0, u64::MAX), (500, 700), (9_000, 9_001)] {
            let (after, through) = (Lsn::new(after), Lsn::new(through));
            let (found, starts) = index.records(page, after, through, &History::creation());
            let wanted: Vec<u64> = lsns
                .iter()
                .copied()
                .filter(|lsn| Lsn::new(*lsn) > after && Lsn::new(*lsn) <= through)
                .collect();
            let start = wanted.iter().rposition(|lsn| lsn % 3 == 0);
            assert_eq!(starts, start.is_some());
            let found: Vec<u64> = found.iter().map(|entry| entry.lsn.get()).collect();
            assert_eq!(found, wanted[start.unwrap_or(0)..], "page {page}");
        }
    }
}

#[test]
fn records_are_found_before_and_after_they_go_into_the_map() {
    let mut index = PageIndex::default();
    let mut known: BTreeMap<PageId, Vec<u64>> = BTreeMap::new();
    let count = GATHERED_MAX as u64 / BATCH_RECORDS + 3;
    // A peer filled a hole late: one batch comes behind others that follow it.
    let mut order: Vec<u64> = (0..count).collect();
    order.swap(1, 4);
    order.swap(2, 5);
    for (number, at) in (0..).zip(order) {
        let first = 1 + at * BATCH_RECORDS;
        index.add(BatchId(number), &batch(first), Lsn::NONE);
        for lsn in first..first + BATCH_RECORDS {
            let lsns = known.entry(page_of(lsn)).or_default();
            lsns.push(lsn);
            lsns.sort_unstable();
        }
        if number < 8 || u64::from(number) + 5 > count {
            check(&index, &known);
        }
    }
    index.settle();
    check(&index, &known);
    let chain_count = |lsns: &Vec<u64>| {
        let start = lsns.iter().rposition(|lsn| lsn % 3 == 0);
        lsns.len() - start.unwrap_or(0)
    };
    // A chain that was longer before its page began anew counts until the next sweep.
    let longest = known.values().map(chain_count).max();
    assert!(Some(index.longest_chain()) >= longest && index.longest_chain() < 40);
    let mut from = PageId::NONE;
    for (page, lsns) in &known {
        let (found, entries) = index.page_from(from).unwrap();
        assert_eq!((found, entries.len()), (*page, lsns.len()));
        from = PageId::new(page.get() + 1);
    }
    assert!(index.page_from(from).is_none());
}

#[test]
fn what_was_gathered_is_swept_like_the_rest() {
    let mut index = PageIndex::default();
    index.add(BatchId(0), &batch(1), Lsn::NONE);
    index.add(BatchId(1), &batch(1 + BATCH_RECORDS), Lsn::NONE);
    let folded = Lsn::new(BATCH_RECORDS + 10);
    index.begin_sweep();
    while !index.is_swept() {
        index.sweep(folded, folded, &History::creation(), 7);
    }
    let all: usize = (2..2 + PAGES)
        .map(|page| {
            let page = PageId::new(page);
            let found = index.records(page, folded, Lsn::MAX, &History::creation());
            let known = (1..=2 * BATCH_RECORDS).filter(|lsn| page_of(*lsn) == page);
            let last_start = known.clone().filter(|lsn| lsn % 3 == 0).max().unwrap_or(0);
            let above = known.filter(|lsn| *lsn > folded.get() && *lsn >= last_start);
            assert_eq!(found.0.len(), above.count());
            found.0.len()
        })
        .sum();
    assert!(all > 0);
}
