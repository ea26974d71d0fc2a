//! A cache that holds nothing: every page is missed once, and nothing changes because of it.

use std::ops::Bound::Unbounded;

use sixfold_kv::{Direction, KvError, Write, get, missing, range_chunk};
use sixfold_log_format::PageId;

use crate::volume::{Cold, Volume, large, plan, put};

fn volume() -> (Volume, Vec<Vec<u8>>) {
    let mut volume = Volume::new(512);
    let keys: Vec<Vec<u8>> = (0..500_u32)
        .map(|n| (n * 7 % 501).to_be_bytes().to_vec())
        .collect();
    for key in &keys {
        volume.put(key, &[1; 40]);
    }
    let value = large(&volume, 4, 9);
    volume.put(&keys[77], &value);
    volume.check();
    (volume, keys)
}

#[test]
fn a_lookup_misses_each_page_on_its_way_once() {
    let (volume, keys) = volume();
    for (index, key) in keys.iter().enumerate() {
        let cold = Cold::new(&volume);
        let (found, misses) = cold.run(|source| get(source, key));
        assert_eq!(found, get(&volume, key).unwrap());
        let overflow_pages = usize::from(index == 77);
        assert_eq!(
            misses,
            1 + usize::from(volume.meta().height) + overflow_pages
        );
    }
}

#[test]
fn a_cold_plan_is_the_warm_plan() {
    let (volume, keys) = volume();
    let value = large(&volume, 2, 3);
    let mut writes: Vec<Write<'_>> = keys
        .iter()
        .enumerate()
        .map(|(index, key)| match index % 3 {
            0 => Write::Delete { key },
            1 => put(key, &value),
            _ => put(key, b"short"),
        })
        .collect();
    writes.sort_by_key(Write::key);
    let warm = plan(&volume, &writes, volume.pages_max).unwrap();
    let (cold, misses) = Cold::new(&volume).run(|source| plan(source, &writes, volume.pages_max));
    assert_eq!(cold, warm);
    // A miss names what all the writes are known to need: a round for each level, and a few for siblings and free pages.
    assert!((3..16).contains(&misses), "{misses} rounds");
}

#[test]
fn freeing_a_large_value_needs_none_of_its_pages() {
    let (mut volume, keys) = volume();
    let value = large(&volume, 5, 1);
    volume.put(b"zz", &value);
    volume.delete(b"zz");
    assert_eq!(volume.meta().free_count, 5);
    let writes = [Write::Delete { key: &keys[77] }];
    let (planned, misses) = Cold::new(&volume).run(|source| plan(source, &writes, u64::MAX));
    // Meta page, the way down, and the trunk of the free list is written but not read.
    assert_eq!(misses, 1 + usize::from(volume.meta().height));
    volume.apply(&planned);
    assert_eq!(volume.meta().free_count, 9);
    volume.check();
}

#[test]
fn a_scan_gives_what_it_has_before_it_misses_a_large_value() {
    let mut volume = Volume::new(512);
    let value = large(&volume, 2, 5);
    volume.commit(&[put(b"a", b"1"), put(b"b", &value), put(b"c", b"3")]);
    let cold = Cold::new(&volume);
    for page in [PageId::META, volume.meta().root] {
        cold.fetch(page);
    }
    let chunk = range_chunk(&cold, Unbounded, Unbounded, Direction::Forward, 9, 9_999).unwrap();
    assert_eq!(chunk.items.len(), 1);
    let next = chunk.next.unwrap();
    let from = next.as_ref().map(Vec::as_slice);
    let again = range_chunk(&cold, from, Unbounded, Direction::Forward, 9, 9_999);
    assert!(matches!(again, Err(KvError::Miss(_))));
    let (chunk, _) =
        cold.run(|cold| range_chunk(cold, from, Unbounded, Direction::Forward, 9, 9_999));
    assert_eq!(chunk.items.len(), 2);
}

#[test]
fn missing_names_the_pages_to_fetch_before_writes() {
    let (volume, keys) = volume();
    let cold = Cold::new(&volume);
    let sought = || keys[..100].iter().map(Vec::as_slice);
    let mut rounds = 0;
    loop {
        let pages = missing(&cold, sought(), 8).unwrap();
        assert!(pages.len() <= 8);
        if pages.is_empty() {
            break;
        }
        rounds += 1;
        pages.into_iter().for_each(|page| cold.fetch(page));
    }
    assert!(rounds > 3);
    for key in sought() {
        if key != keys[77] {
            get(&cold, key).unwrap();
        }
    }
}
