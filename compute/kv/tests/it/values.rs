//! Large values, deadlines, numbers, and sizes of ranges.

use std::ops::Bound::{Excluded, Included, Unbounded};

use sixfold_kv::{
    Changes, Direction, KvError, Modify, ModifyError, Write, estimate, get, plan, range_chunk,
};
use sixfold_log_format::limits::VALUE_BYTES_MAX;

use crate::volume::{Cold, Volume, large, put, scan};

/// Bytes that differ from page to page.
fn pattern(len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|at| (at / 449 * 7 + at) as u8).collect()
}

#[test]
fn values_of_every_length_come_back_in_few_rounds_and_are_freed() {
    for page_bytes in [512, 8_192] {
        let chunk = large(&Volume::new(page_bytes), 1, 0).len();
        let ids = sixfold_kv::overflow::reference_ids_max(page_bytes);
        let index = sixfold_kv::overflow::index_ids_max(page_bytes);
        let pages = [1, 2, ids, ids + 1, ids * index, ids * index + 1];
        let lengths = pages.iter().flat_map(|pages| {
            let full = pages * chunk;
            [full - 1, full, full + 1]
        });
        let lengths = lengths.chain([VALUE_BYTES_MAX - 1, VALUE_BYTES_MAX]);
        for len_bytes in lengths.filter(|len_bytes| *len_bytes <= VALUE_BYTES_MAX) {
            let mut volume = Volume::new(page_bytes);
            let value = pattern(len_bytes);
            volume.put(b"a", &value);
            let source = Cold::new(&volume);
            let (found, rounds) = source.run(|source| get(source, b"a"));
            assert!(found.unwrap().value == value, "{len_bytes} bytes");
            // Meta page, leaf, at most three levels of index, and the value in parts of 1,024 pages.
            let parts = len_bytes.div_ceil(chunk).div_ceil(1_024);
            assert!(
                rounds <= 2 + 3 + parts,
                "{len_bytes} bytes in {rounds} rounds"
            );
            volume.delete(b"a");
            volume.reclaim(3_000);
            volume.check();
            assert_eq!(volume.meta().free_count, volume.meta().next_page.get() - 3);
        }
    }
}

#[test]
fn a_scan_of_large_values_fetches_those_that_fit_at_once() {
    let mut volume = Volume::new(8_192);
    for key in 0..20_u8 {
        let value = large(&volume, 4, key);
        volume.put(&[key], &value);
    }
    let source = Cold::new(&volume);
    let (chunk, rounds) = source.run(|source| {
        range_chunk(
            source,
            Unbounded,
            Unbounded,
            Direction::Forward,
            100,
            1 << 20,
        )
    });
    assert_eq!((chunk.items.len(), rounds), (20, 3));
}

#[test]
fn a_scan_reads_leaves_ahead() {
    let mut volume = Volume::new(512);
    for number in 0..4_000_u32 {
        volume.put(&number.to_be_bytes(), &[1; 20]);
    }
    let leaves = volume.leaves().len();
    for direction in [Direction::Forward, Direction::Reverse] {
        let source = Cold::new(&volume);
        let (mut low, mut high) = (Unbounded, Unbounded);
        let (mut items, mut misses) = (0, 0);
        loop {
            let bounds = (
                low.as_ref().map(Vec::as_slice),
                high.as_ref().map(Vec::as_slice),
            );
            let (chunk, rounds) = source
                .run(|source| range_chunk(source, bounds.0, bounds.1, direction, 1_000, 64 << 10));
            items += chunk.items.len();
            misses += rounds;
            match (chunk.next, direction) {
                (None, _) => break,
                (Some(next), Direction::Forward) => low = next,
                (Some(next), Direction::Reverse) => high = next,
            }
        }
        assert_eq!(items, 4_000);
        assert!(misses < leaves / 6, "{misses} rounds for {leaves} leaves");
    }
    // A short scan does not read what it will not need, nor one that ends.
    let key = 7_u32.to_be_bytes();
    for (upper, count_max) in [(Unbounded, 4), (Included(&key[..]), 1_000)] {
        let source = Cold::new(&volume);
        source.run(|source| {
            range_chunk(
                source,
                Unbounded,
                upper,
                Direction::Forward,
                count_max,
                1 << 20,
            )
        });
        assert_eq!(source.held_count(), 1 + usize::from(volume.meta().height));
    }
}

fn with_deadline<'a>(key: &'a [u8], deadline_ms: u64) -> Write<'a> {
    Write::Put {
        key,
        value: b"value",
        deadline_ms: Some(deadline_ms),
    }
}

#[test]
fn an_expired_key_is_gone_at_the_millisecond_of_its_deadline_by_the_sources_own_clock() {
    let mut volume = Volume::new(512);
    volume.tick(1_000);
    volume.commit(&[with_deadline(b"a", 2_000), put(b"b", b"1")]);
    let count = |volume: &Volume| {
        let all = (Unbounded, Unbounded);
        scan(volume, all, Direction::Reverse, &[(9, 999)]).len()
    };
    volume.tick(1_999);
    assert_eq!((volume.get(b"a").is_some(), count(&volume)), (true, 2));
    let before = Volume {
        pages: volume.pages.clone(),
        ..volume
    };
    volume.tick(2_000);
    assert_eq!((volume.get(b"a").is_some(), count(&volume)), (false, 1));
    assert_eq!((before.get(b"a").is_some(), count(&before)), (true, 2));
    volume.commit(&[with_deadline(b"a", 2_001)]);
    assert!(volume.get(b"a").is_some());
    volume.check();
}

#[test]
fn a_scan_over_expired_keys_advances_leaf_by_leaf() {
    let mut volume = Volume::new(512);
    for number in 0..1_000_u32 {
        volume.commit(&[with_deadline(&number.to_be_bytes(), 10)]);
    }
    volume.put(&2_000_u32.to_be_bytes(), b"the end");
    volume.tick(10);
    let leaves = volume.leaves().len();
    let mut low = Unbounded;
    let mut chunks = 0;
    loop {
        let from = low.as_ref().map(Vec::as_slice);
        let chunk = range_chunk(&volume, from, Unbounded, Direction::Forward, 5, 100).unwrap();
        chunks += 1;
        assert_eq!(chunk.items.is_empty(), chunk.next.is_some());
        let Some(next) = chunk.next else { break };
        low = next;
    }
    assert_eq!(chunks, leaves);
}

#[test]
fn expire_removes_a_key_only_with_its_very_deadline_and_only_when_that_has_passed() {
    let mut volume = Volume::new(512);
    volume.commit(&[with_deadline(b"a", 50), put(b"b", b"1")]);
    let expire = |volume: &Volume, key: &[u8], deadline_ms, clock_ms| {
        let writes = [Write::Expire { key, deadline_ms }];
        let changes = Changes {
            clears: &[],
            writes: &writes,
        };
        let planned = plan(volume, &changes, clock_ms, 1_000).unwrap();
        let visible = planned.records.iter().filter(|record| record.user_visible);
        visible.count()
    };
    assert_eq!(expire(&volume, b"a", 50, 49), 0);
    assert_eq!(expire(&volume, b"a", 49, 60), 0);
    assert_eq!(expire(&volume, b"b", 50, 60), 0);
    assert_eq!(expire(&volume, b"c", 50, 60), 0);
    assert_eq!(expire(&volume, b"a", 50, 50), 1);
}

fn modify(volume: &mut Volume, clock_ms: u64, ops: &[Modify]) -> Result<Option<i64>, ModifyError> {
    let writes = [Write::Modify { key: b"n", ops }];
    let changes = Changes {
        clears: &[],
        writes: &writes,
    };
    match plan(volume, &changes, clock_ms, 1_000) {
        Ok(planned) => {
            volume.apply(&planned);
            let value = volume.get(b"n");
            Ok(value.map(|value| i64::from_le_bytes(value.try_into().unwrap())))
        }
        Err(KvError::Invalid(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn numbers_are_modified_where_they_are() {
    let volume = &mut Volume::new(512);
    assert_eq!(modify(volume, 0, &[Modify::Max(-5)]), Ok(Some(-5)));
    assert_eq!(
        modify(volume, 0, &[Modify::Add(7), Modify::Add(1)]),
        Ok(Some(3))
    );
    assert_eq!(modify(volume, 0, &[Modify::Min(2)]), Ok(Some(2)));
    assert_eq!(
        modify(volume, 0, &[Modify::Min(9), Modify::Max(4)]),
        Ok(Some(4))
    );
    let overflow = ModifyError::Overflow {
        held: 4,
        added: i64::MAX,
    };
    assert_eq!(modify(volume, 0, &[Modify::Add(i64::MAX)]), Err(overflow));
    assert_eq!(modify(volume, 0, &[]), Ok(Some(4)));
    volume.put(b"n", b"seven b");
    let error = ModifyError::NotANumber { len_bytes: 7 };
    assert_eq!(modify(volume, 0, &[Modify::Add(1)]), Err(error));
    let value = large(volume, 2, 1);
    volume.put(b"n", &value);
    let len_bytes = value.len();
    assert_eq!(
        modify(volume, 0, &[Modify::Add(1)]),
        Err(ModifyError::NotANumber { len_bytes })
    );
    // Expired is absent, and what comes out has no deadline.
    volume.commit(&[with_deadline(b"n", 20)]);
    volume.tick(20);
    assert_eq!(modify(volume, 20, &[Modify::Add(-1)]), Ok(Some(-1)));
    assert_eq!(get(volume, b"n").unwrap().unwrap().deadline_ms, None);
    volume.check();
}

#[test]
fn estimates_are_near_and_of_small_ranges_exact() {
    for page_bytes in [512, 8_192] {
        let mut volume = Volume::new(page_bytes);
        for number in 0..30_011_u32 {
            let key = (number * 7_919 % 30_011).to_be_bytes();
            volume.put(&key, &[1; 20]);
        }
        let key = |number: u32| number.to_be_bytes().to_vec();
        for (low, high) in [
            (0, 30_011),
            (0, 15_000),
            (1_000, 1_500),
            (20_000, 29_999),
            (5, 7_000),
        ] {
            let (lower, upper) = (key(low), key(high));
            let bounds = (Included(&lower[..]), Excluded(&upper[..]));
            let source = Cold::new(&volume);
            let (found, rounds) = source.run(|source| estimate(source, bounds.0, bounds.1));
            let exact = u64::from(high - low);
            assert!(
                (exact * 3 / 4..exact * 4 / 3).contains(&found.keys),
                "{low}..{high}: {found:?}"
            );
            assert!(found.bytes.abs_diff(found.keys * 24) < 24 + found.bytes / 100);
            assert!(rounds <= 1 + usize::from(volume.meta().height));
        }
        for (low, high) in [(100, 100), (100, 101), (100, 104)] {
            let (lower, upper) = (key(low), key(high));
            let found = estimate(&volume, Included(&lower), Excluded(&upper)).unwrap();
            assert_eq!(found.keys, u64::from(high - low));
        }
        assert_eq!(
            estimate(&volume, Included(b"b"), Included(b"a"))
                .unwrap()
                .keys,
            0
        );
        volume.put(&key(u32::MAX), &pattern(1 << 20));
        let last = key(u32::MAX);
        let found = estimate(&volume, Included(&last), Unbounded).unwrap();
        assert_eq!((found.keys, found.bytes), (1, 4 + (1 << 20)));
    }
}
