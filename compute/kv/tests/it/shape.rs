//! What the tree and its records look like.

use sixfold_kv::{KvError, Write};
use sixfold_log_format::{Op, PageId, PageKind};

use crate::volume::{Volume, fill, large, plan, put};

fn kinds(volume: &Volume, writes: &[Write<'_>]) -> Vec<&'static str> {
    let planned = plan(volume, writes, volume.pages_max).unwrap();
    let kind = |op: &Op<'_>| match op {
        Op::Init { .. } => "init",
        Op::Insert { .. } => "insert",
        Op::Replace { .. } => "replace",
        Op::Remove { .. } => "remove",
        Op::Truncate { .. } => "truncate",
        Op::WriteBytes { .. } => "write",
        _ => "other",
    };
    planned
        .records
        .iter()
        .map(|record| kind(&record.op))
        .collect()
}

#[test]
fn a_write_into_a_leaf_with_room_is_one_record() {
    let mut volume = Volume::new(8_192);
    assert_eq!(kinds(&volume, &[put(b"a", b"1")]), ["insert"]);
    volume.put(b"a", b"1");
    assert_eq!(kinds(&volume, &[put(b"a", b"22")]), ["replace"]);
    assert_eq!(kinds(&volume, &[Write::Delete { key: b"a" }]), ["remove"]);
    assert_eq!(kinds(&volume, &[Write::Delete { key: b"b" }]), [""; 0]);
    let writes = [
        put(b"a", b"3"),
        put(b"b", b"4"),
        Write::Delete { key: b"c" },
    ];
    assert_eq!(kinds(&volume, &writes), ["replace", "insert"]);
}

#[test]
fn a_large_value_crosses_the_log_once() {
    let mut volume = Volume::new(8_192);
    let value = vec![7; 1 << 20];
    let writes = [put(b"a", &value)];
    let planned = plan(&volume, &writes, volume.pages_max).unwrap();
    let written: usize = planned
        .records
        .iter()
        .map(|record| match &record.op {
            Op::WriteBytes { bytes, .. } => bytes.len(),
            Op::Insert { cell, .. } => cell.value.len(),
            _ => 8,
        })
        .sum();
    assert!(written < value.len() * 101 / 100, "{written} bytes");
    volume.apply(&planned);
    assert_eq!(volume.get(b"a"), Some(value));
}

fn load(page_bytes: usize, keys: impl Iterator<Item = Vec<u8>>, value_bytes: usize) -> Volume {
    let mut volume = Volume::new(page_bytes);
    let value = vec![9; value_bytes];
    for key in keys {
        volume.put(&key, &value);
    }
    volume
}

#[test]
fn ascending_loads_fill_their_pages() {
    let keys = (0..20_000_u64).map(|n| n.to_be_bytes().to_vec());
    let walk = load(8_192, keys, 100).check();
    assert!(fill(&walk.leaves) > 0.9 && walk.leaves.len() > 100);
    let keys = (0..5_000_u64).map(|n| n.to_be_bytes().to_vec());
    let walk = load(512, keys, 30).check();
    assert!(fill(&walk.leaves) > 0.9);
    assert!(fill(&walk.inner) > 0.9, "{}", fill(&walk.inner));
}

#[test]
fn ascending_loads_in_one_mtr_fill_their_pages() {
    let mut volume = Volume::new(512);
    let keys: Vec<[u8; 8]> = (0..3_000_u64).map(u64::to_be_bytes).collect();
    let writes: Vec<Write<'_>> = keys.iter().map(|key| put(key, b"0123456789")).collect();
    let planned = plan(&volume, &writes, volume.pages_max).unwrap();
    assert!(planned.records.len() < keys.len() * 6 / 5);
    let cpl = volume.apply(&planned);
    let walk = volume.check();
    assert!(fill(&walk.leaves) > 0.9);
    let stamps = walk
        .leaves
        .iter()
        .flat_map(|leaf| leaf.cells())
        .map(|cell| cell.stamp);
    assert!(stamps.into_iter().all(|stamp| stamp == cpl));
}

#[test]
fn ascending_loads_that_do_not_end_the_tree_fill_their_pages_too() {
    let mut volume = Volume::new(512);
    volume.put(b"\xff", b"the end");
    volume.put(b"\x00", b"the start");
    for number in 0..3_000_u32 {
        for stream in [b'a', b'b', b'c'] {
            let key = [&[stream][..], &number.to_be_bytes()].concat();
            volume.put(&key, &[1; 20]);
        }
    }
    let walk = volume.check();
    assert!(fill(&walk.leaves) > 0.9, "{}", fill(&walk.leaves));
}

#[test]
fn descending_and_random_loads_fill_half_their_pages() {
    let keys = (0..5_000_u64).rev().map(|n| n.to_be_bytes().to_vec());
    assert!(fill(&load(512, keys, 20).check().leaves) > 0.4);
    let keys = (0..5_003_u64).map(|n| (n * 2_003 % 5_003).to_be_bytes().to_vec());
    assert!(fill(&load(512, keys, 20).check().leaves) > 0.6);
}

#[test]
fn descending_keys_behind_a_full_leaf_do_not_get_a_page_each() {
    let ascending = (0..1_000_u32).map(|n| n.to_be_bytes().to_vec());
    let mut volume = load(512, ascending, 20);
    let leaves = volume.leaves();
    let full = &leaves[leaves.len() / 2];
    let last = full.key(full.cell_count() - 1);
    for tail in (0..=250).rev() {
        volume.put(&[last, &[tail]].concat(), &[1; 20]);
    }
    let more = volume.check().leaves.len() - leaves.len();
    assert!(more < 60, "{more} leaves");
}

#[test]
fn separators_are_as_short_as_they_can_be() {
    let long = "x".repeat(60);
    let keys = (0..400_u32).map(|n| format!("{:04}{long}", n * 131 % 401).into_bytes());
    let walk = load(512, keys, 20).check();
    assert!(walk.separators.len() > 30);
    assert!(walk.separators.iter().all(|separator| separator.len() <= 4));
}

#[test]
fn a_split_moves_cells_without_images_and_keeps_their_stamps() {
    let mut volume = Volume::new(512);
    let mut stamps = Vec::new();
    for number in 0..40_u64 {
        let key = (number * 17 % 41).to_be_bytes();
        stamps.push((key, volume.put(&key, &[3; 30])));
    }
    assert!(volume.check().leaves.len() > 3);
    for (key, stamp) in stamps {
        assert_eq!(
            sixfold_kv::get(&volume, &key).unwrap().unwrap().stamp,
            stamp
        );
    }
    let keys = (0..8_u8).map(|n| vec![n]);
    let volume = load(512, keys, 40);
    let moved = kinds(&volume, &[put(&[3, 0], &[1; 40])]);
    let expected = [&["init"][..], &["insert"; 4], &["truncate", "insert"]].concat();
    assert_eq!(moved[..7], expected);
}

#[test]
fn freed_pages_are_used_again() {
    let mut volume = Volume::new(512);
    let value = large(&volume, 6, 1);
    volume.put(b"a", &value);
    volume.put(b"a", &value);
    let pages = volume.meta().next_page;
    for round in 0..50_u8 {
        volume.put(b"a", &large(&volume, 6, round));
        assert_eq!(volume.get(b"a"), Some(large(&volume, 6, round)));
    }
    assert_eq!(volume.meta().next_page, pages, "the volume grew");
    volume.check();
    volume.delete(b"a");
    assert_eq!(volume.meta().free_count, pages.get() - 3);
    volume.check();
}

#[test]
fn emptied_leaves_come_back_as_new_ones() {
    let mut volume = Volume::new(512);
    let keys: Vec<[u8; 4]> = (0..1_000_u32).map(u32::to_be_bytes).collect();
    for key in &keys {
        volume.put(key, &[1; 30]);
    }
    let pages = volume.meta().next_page;
    // A queue: the front goes, the end comes, and the volume does not grow.
    for number in 1_000..6_000_u32 {
        volume.delete(&(number - 1_000).to_be_bytes());
        volume.put(&number.to_be_bytes(), &[1; 30]);
    }
    volume.check();
    assert!(volume.meta().next_page.get() <= pages.get() + 10);
}

#[test]
fn a_leaf_that_takes_over_a_freed_neighbors_range_is_seen_as_the_mtr_left_it() {
    let mut volume = Volume::new(512);
    for number in 0..100_u32 {
        volume.put(&number.to_be_bytes(), &[1; 30]);
    }
    let leaves = volume.leaves();
    let keys = |leaf: usize| leaves[leaf].cells().map(|cell| cell.key.to_vec());
    // The first leaf loses cells, the second leaf empties, and then a key in its range goes to the first.
    for lost in [1, 2] {
        let (first, second): (Vec<_>, Vec<_>) = (keys(0).collect(), keys(1).collect());
        let late = [&second[second.len() - 1][..], b"x"].concat();
        let mut writes: Vec<Write<'_>> = first[..lost]
            .iter()
            .map(|key| Write::Delete { key })
            .collect();
        writes.extend(second.iter().map(|key| Write::Delete { key }));
        writes.push(put(&late, &[3; 2]));
        let planned = plan(&volume, &writes, volume.pages_max).unwrap();
        let mut after = Volume::new(512);
        (after.pages, after.lsn) = (volume.pages.clone(), volume.lsn);
        after.apply(&planned);
        after.check();
        assert_eq!(after.get(&first[0]), None);
        assert_eq!(after.get(&first[2]), Some(vec![1; 30]));
        assert_eq!(after.get(&late), Some(vec![3; 2]));
        assert_eq!(after.get(&second[0]), None);
    }
}

#[test]
fn a_tree_that_empties_from_either_end_becomes_a_leaf_again() {
    for reverse in [false, true] {
        let keys = (0..600_u32).map(|n| n.to_be_bytes().to_vec());
        let mut volume = load(512, keys.clone(), 30);
        assert!(volume.meta().height > 2);
        let mut keys: Vec<Vec<u8>> = keys.collect();
        if reverse {
            keys.reverse();
        }
        for key in &keys {
            volume.delete(key);
            volume.check();
        }
        assert_eq!((volume.meta().height, volume.walk().reached.len()), (1, 1));
        volume.put(b"again", b"1");
        assert_eq!(volume.get(b"again"), Some(b"1".to_vec()));
    }
}

#[test]
fn a_guess_changes_only_how_fast_a_key_is_found() {
    let volume = load(
        512,
        (0..200_u32).map(|n| (n * 3).to_be_bytes().to_vec()),
        10,
    );
    for leaf in volume.leaves() {
        let (low, high) = (
            leaf.key(0).to_vec(),
            leaf.key(leaf.cell_count() - 1).to_vec(),
        );
        let number = |key: &[u8]| u32::from_be_bytes(key.try_into().unwrap());
        for number in number(&low).saturating_sub(2)..number(&high) + 3 {
            let key = number.to_be_bytes();
            for guess in (0..leaf.cell_count() + 3).chain([u16::MAX]) {
                assert_eq!(leaf.find_near(&key, guess), leaf.find(&key));
            }
        }
    }
    let empty = &Volume::new(512).leaves()[0];
    assert_eq!(empty.find_near(b"a", 7), Err(0));
}

#[test]
fn underfull_pages_join_their_siblings() {
    for (step, page_bytes) in [(1_u32, 512), (7, 512), (1, 8_192), (7, 8_192)] {
        let count = if page_bytes == 512 { 4_001 } else { 60_017 };
        let order = |n: u32| (n * step * 131 % count).to_be_bytes().to_vec();
        let mut volume = load(page_bytes, (0..count).map(order), 30);
        let before = volume.check();
        // Nine of ten go, in another order than they came.
        for number in (0..count).filter(|number| number % 10 != 3) {
            volume.delete(&(number * 17 % count).to_be_bytes());
        }
        let walk = volume.check();
        assert!(walk.leaves.len() * 3 < before.leaves.len());
        assert!(fill(&walk.leaves) > 0.35, "{}", fill(&walk.leaves));
        if walk.inner.len() > 2 {
            assert!(fill(&walk.inner) > 0.2, "{}", fill(&walk.inner));
        }
        let left = walk
            .leaves
            .iter()
            .map(|leaf| usize::from(leaf.cell_count()));
        let kept = (0..count).filter(|number| number % 10 == 3).count();
        assert_eq!(left.sum::<usize>(), kept);
    }
}

#[test]
fn a_leaf_joins_its_neighbor_as_the_mtr_has_left_that() {
    let mut volume = load(512, (0..16_u8).map(|n| vec![n]), 30);
    let leaves = volume.leaves();
    assert_eq!(leaves.len(), 2);
    let keys = |leaf: usize| -> Vec<Vec<u8>> {
        let cells = leaves[leaf].cells();
        cells.map(|cell| cell.key.to_vec()).collect()
    };
    let (first, second) = (keys(0), keys(1));
    for key in &first[4..] {
        volume.delete(key);
    }
    // One record on the first leaf, of which no copy is made; then the second becomes underfull and joins it.
    let mut writes = vec![Write::Delete { key: &first[1] }];
    writes.extend(second[1..].iter().map(|key| Write::Delete { key }));
    let planned = plan(&volume, &writes, volume.pages_max).unwrap();
    volume.apply(&planned);
    assert_eq!(volume.check().leaves.len(), 1);
    let left: Vec<Vec<u8>> = volume.leaves()[0]
        .cells()
        .map(|cell| cell.key.to_vec())
        .collect();
    let expected = [&first[0], &first[2], &first[3], &second[0]];
    assert!(left.iter().eq(expected), "{left:?}");
}

#[test]
fn a_join_keeps_stamps_and_is_not_user_visible() {
    let mut volume = Volume::new(512);
    let mut stamps = std::collections::BTreeMap::new();
    for number in 0..60_u32 {
        let key = number.to_be_bytes();
        stamps.insert(key, volume.put(&key, &[1; 30]));
    }
    let leaves = volume.check().leaves.len();
    let gone: Vec<[u8; 4]> = (0..60)
        .filter(|n| n % 5 != 0)
        .map(u32::to_be_bytes)
        .collect();
    let writes: Vec<Write<'_>> = gone.iter().map(|key| Write::Delete { key }).collect();
    let planned = plan(&volume, &writes, volume.pages_max).unwrap();
    let visible = planned.records.iter().filter(|record| record.user_visible);
    assert_eq!(visible.count(), gone.len());
    volume.apply(&planned);
    assert!(volume.check().leaves.len() < leaves / 2);
    for number in (0..60).step_by(5) {
        let key = u32::to_be_bytes(number);
        let found = sixfold_kv::get(&volume, &key).unwrap().unwrap();
        assert_eq!(found.stamp, stamps[&key]);
    }
}

#[test]
fn a_full_volume_says_so_and_stays_as_it_is() {
    let mut volume = Volume::new(512);
    volume.pages_max = 6;
    let value = large(&volume, 3, 1);
    volume.put(b"a", &value);
    let before = volume.pages.clone();
    let full = plan(&volume, &[put(b"b", &value)], volume.pages_max);
    assert_eq!(full, Err(KvError::Full { pages: 6 }));
    assert_eq!(volume.pages, before);
    assert_eq!(volume.meta().next_page, PageId::new(6));
    volume.delete(b"a");
    volume.put(b"b", &value);
    volume.check();
}

#[test]
fn the_meta_page_changes_by_few_bytes() {
    let keys = (0..2_000_u32).map(|n| n.to_be_bytes().to_vec());
    let mut volume = load(512, keys, 30);
    for number in 2_000..2_100_u32 {
        let key = number.to_be_bytes();
        let writes = [put(&key, &[1; 30])];
        let planned = plan(&volume, &writes, volume.pages_max).unwrap();
        let meta: Vec<_> = planned
            .records
            .iter()
            .filter(|r| r.page == PageId::META)
            .collect();
        assert!(meta.len() <= 2);
        for record in meta {
            assert!(!record.user_visible);
            assert!(matches!(&record.op, Op::WriteBytes { bytes, .. } if bytes.len() <= 10));
        }
        volume.apply(&planned);
    }
}

#[test]
fn the_first_mtr_makes_an_empty_tree() {
    let volume = Volume::new(512);
    let meta = &volume.pages[&PageId::META];
    assert_eq!(sixfold_kv::meta::root(meta), Ok(PageId::new(2)));
    assert_eq!(sixfold_kv::meta::height(meta), Ok(1));
    assert_eq!(sixfold_kv::meta::next_page(meta), Ok(PageId::new(3)));
    assert_eq!(volume.pages[&PageId::new(2)].kind(), PageKind::Leaf);
    assert_eq!(volume.get(b"a"), None);
    volume.check();
}

#[test]
#[should_panic(expected = "sorted")]
fn unsorted_writes_are_a_bug_of_the_caller() {
    let volume = Volume::new(512);
    let _ = plan(&volume, &[put(b"b", b""), put(b"a", b"")], 100);
}

#[test]
fn bodies_have_the_bytes_that_the_tables_say() {
    let mut volume = Volume::new(512);
    volume.put(b"a", &large(&volume, 2, 0xee)[..500]);
    volume.put(b"b", &large(&volume, 1, 0xdd));
    volume.delete(b"b");
    let body = |page: u64, bytes: usize| volume.pages[&PageId::new(page)].body()[..bytes].to_vec();
    let number = |number: u64| number.to_le_bytes();
    let meta = [
        &b"6KV1\x02\0\x01\0"[..],
        &number(2),
        &number(6),
        &number(5),
        &number(1),
        &number(0),
        &number(0),
    ];
    assert_eq!(body(1, 56), meta.concat());
    // 512 bytes less headers of 48 and 8 bytes leave 456 for the value.
    assert_eq!(body(3, 10), [1, 0, 0, 0, 0xc8, 1, 0, 0, 0xee, 0xee]);
    assert_eq!(body(4, 9), [1, 1, 0, 0, 44, 0, 0, 0, 0xee]);
    assert_eq!(body(5, 16), [[3, 0, 0, 0, 0, 0, 0, 0], number(0)].concat());
    let reference = volume.pages[&PageId::new(2)].cell(0).value;
    assert_eq!(
        reference,
        [&[0xf4, 1, 0, 0, 0, 0, 0, 0][..], &number(3), &number(4)].concat()
    );
}
