//! Clears: what they cost, what they leave, and that all of it is freed.

use sixfold_kv::{Changes, KvError, Write, plan, plan_reclaim};
use sixfold_log_format::{Op, PageId};

use crate::volume::{Cold, Volume, fill, large, plan_clears, put};

fn numbered(page_bytes: usize, count: u32, value_bytes: usize) -> Volume {
    let mut volume = Volume::new(page_bytes);
    let value = vec![5; value_bytes];
    let keys: Vec<[u8; 4]> = (0..count).map(u32::to_be_bytes).collect();
    for keys in keys.chunks(1_000) {
        let writes: Vec<Write<'_>> = keys.iter().map(|key| put(key, &value)).collect();
        volume.commit(&writes);
    }
    volume
}

/// Clears a part of the keys; the answer is how many records and bytes of redo that took.
fn cleared(volume: &mut Volume, start: u32, end: u32) -> (usize, usize) {
    let (start, end) = (start.to_be_bytes(), end.to_be_bytes());
    let planned = plan_clears(volume, &[(&start, Some(&end))], volume.pages_max).unwrap();
    let bytes = planned.records.iter().map(|record| match &record.op {
        Op::Insert { cell, .. } | Op::Replace { cell, .. } => cell.key.len() + cell.value.len(),
        Op::WriteBytes { bytes, .. } | Op::Image { bytes } => bytes.len(),
        _ => 8,
    });
    let bytes = bytes.sum();
    let visible: Vec<_> = planned
        .records
        .iter()
        .filter(|record| record.user_visible)
        .collect();
    assert_eq!(visible.len(), 1);
    assert_eq!(visible[0].page, PageId::META);
    assert!(matches!(
        &visible[0].op,
        Op::DeleteRange { start: from, end: to } if **from == start && **to == end
    ));
    volume.apply(&planned);
    (planned.records.len(), bytes)
}

#[test]
fn a_clear_of_100_000_keys_takes_few_records() {
    let mut volume = numbered(8_192, 120_000, 100);
    let pages = volume.check().reached.len();
    assert!(pages > 1_500);
    let (records, bytes) = cleared(&mut volume, 10_007, 110_007);
    assert!(records < 100, "{records} records");
    assert!(bytes < 64 << 10, "{bytes} bytes");
    let walk = volume.check();
    assert!(walk.reached.len() < pages / 5);
    for (key, is_there) in [
        (0, true),
        (10_006, true),
        (10_007, false),
        (110_006, false),
        (110_007, true),
    ] {
        let key: u32 = key;
        assert_eq!(volume.get(&key.to_be_bytes()).is_some(), is_there, "{key}");
    }
    let before = volume.meta();
    assert_eq!(before.free_count, 0);
    let rounds = volume.reclaim(64);
    assert!(rounds > 20, "{rounds} small MTRs");
    volume.check();
    let meta = volume.meta();
    assert_eq!(
        meta.next_page, before.next_page,
        "reclaiming takes no pages for long"
    );
    let in_use = 2 + walk.reached.len() as u64;
    assert_eq!(meta.free_count + in_use, meta.next_page.get());
}

#[test]
fn what_a_clear_costs_does_not_grow_with_the_keys() {
    let mut small = numbered(512, 4_000, 20);
    let mut large = numbered(512, 40_000, 20);
    let (few, _) = cleared(&mut small, 333, 3_777);
    let (many, _) = cleared(&mut large, 333, 39_777);
    // One more level, and a trunk of the dropped list for each 57 children of the pages on the way.
    assert!(many < few + 40, "{few} and {many} records");
    large.check();
}

#[test]
fn clears_of_every_extent_leave_the_rest() {
    let keys = |range: std::ops::Range<u32>| range.map(|key| key.to_be_bytes().to_vec());
    for (start, end) in [
        (0, 900),
        (0, 1),
        (899, 900),
        (5, 6),
        (5, 5_000),
        (0, 450),
        (450, 900),
        (100, 103),
        (17, 880),
    ] {
        let mut volume = numbered(512, 900, 30);
        volume.clear(&u32::to_be_bytes(start), Some(&u32::to_be_bytes(end)));
        let walk = volume.check();
        let found: Vec<Vec<u8>> = walk
            .leaves
            .iter()
            .flat_map(|leaf| {
                leaf.cells()
                    .map(|cell| cell.key.to_vec())
                    .collect::<Vec<_>>()
            })
            .collect();
        let expected: Vec<Vec<u8>> = keys(0..start).chain(keys(end.min(900)..900)).collect();
        assert_eq!(found, expected, "{start}..{end}");
        volume.reclaim(40);
        volume.check();
    }
    let mut volume = numbered(512, 900, 30);
    volume.clear(&[], None);
    assert_eq!((volume.meta().height, volume.check().reached.len()), (1, 1));
    volume.clear(&[], None);
    volume.put(b"a", b"1");
    volume.check();
}

#[test]
fn a_clear_of_nothing_is_told_and_changes_nothing() {
    let volume = numbered(512, 100, 30);
    let planned = plan_clears(&volume, &[(b"x", Some(b"y"))], 1 << 20).unwrap();
    assert_eq!(planned.records.len(), 1);
    assert!(planned.records[0].user_visible);
}

#[test]
fn clears_go_before_writes() {
    let mut volume = numbered(512, 500, 30);
    let (start, end) = (100_u32.to_be_bytes(), 300_u32.to_be_bytes());
    let (inside, before) = (200_u32.to_be_bytes(), 3_u32.to_be_bytes());
    let writes = [put(&before, b"before"), put(&inside, b"inside")];
    let clears = [(&start[..], Some(&end[..]))];
    let changes = Changes {
        clears: &clears,
        writes: &writes,
    };
    let planned = plan(&volume, &changes, 0, volume.pages_max).unwrap();
    volume.apply(&planned);
    volume.check();
    assert_eq!(volume.get(&inside), Some(b"inside".to_vec()));
    assert_eq!(volume.get(&before), Some(b"before".to_vec()));
    assert_eq!(volume.get(&start), None);
    assert_eq!(volume.get(&99_u32.to_be_bytes()), Some(vec![5; 30]));
}

#[test]
fn a_clear_reads_its_bounds_only() {
    let volume = numbered(512, 20_000, 20);
    let (start, end) = (1_000_u32.to_be_bytes(), 19_000_u32.to_be_bytes());
    let source = Cold::new(&volume);
    let clears = [(&start[..], Some(&end[..]))];
    source.run(|source| plan_clears(source, &clears, 1 << 20));
    assert!(source.held_count() < 40, "{} pages", source.held_count());
}

#[test]
fn a_reclaim_that_misses_names_the_pages_ahead_and_changes_nothing() {
    let mut volume = numbered(512, 3_000, 30);
    volume.clear(&10_u32.to_be_bytes(), None);
    let source = Cold::new(&volume);
    source.fetch(PageId::META);
    let trunk = plan_reclaim(&source, 50, 1 << 20);
    assert_eq!(trunk, Err(KvError::Miss(vec![volume.meta().dropped_head])));
    source.fetch(volume.meta().dropped_head);
    match plan_reclaim(&source, 50, 1 << 20) {
        Err(KvError::Miss(pages)) => assert!(pages.len() > 3, "{pages:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reclaiming_keeps_to_its_records() {
    for page_bytes in [512, 8_192] {
        let mut volume = numbered(page_bytes, 20_000, 30);
        for number in 0..50_u32 {
            let value = large(&volume, 1 + number as usize, 1);
            volume.put(&(number * 300).to_be_bytes(), &value);
        }
        volume.clear(&7_u32.to_be_bytes(), None);
        volume.check();
        let pages = volume.meta().next_page;
        while volume.meta().dropped_count > 0 {
            let planned = plan_reclaim(&volume, 100, volume.pages_max).unwrap();
            assert!(planned.records.len() <= 108, "{}", planned.records.len());
            volume.apply(&planned);
        }
        let walk = volume.check();
        let meta = volume.meta();
        assert!(meta.next_page.get() <= pages.get() + 2);
        assert_eq!(
            meta.free_count + walk.reached.len() as u64 + 2,
            meta.next_page.get()
        );
    }
}

#[test]
fn a_full_volume_can_be_cleared() {
    let mut volume = Volume::new(512);
    volume.pages_max = 500;
    let value = large(&volume, 3, 1);
    for number in 0_u32.. {
        let key = number.to_be_bytes();
        match crate::volume::plan(&volume, &[put(&key, &value)], volume.pages_max) {
            Ok(planned) => drop(volume.apply(&planned)),
            Err(error) => {
                assert_eq!(error, KvError::Full { pages: 500 });
                break;
            }
        }
    }
    volume.clear(&[], None);
    volume.reclaim(64);
    volume.check();
    assert!(volume.meta().free_count > 480);
    volume.put(b"again", &value);
}

#[test]
fn pages_of_cleared_and_deleted_keys_are_used_again() {
    let mut volume = numbered(512, 5_000, 30);
    let pages = volume.meta().next_page;
    for round in 0..6_u32 {
        if round % 2 == 0 {
            volume.clear(&0_u32.to_be_bytes(), None);
        } else {
            (0..5_000_u32).for_each(|key| {
                volume.delete(&key.to_be_bytes());
            });
        }
        volume.reclaim(200);
        for key in 0..5_000_u32 {
            volume.put(&key.to_be_bytes(), &[1; 30]);
        }
    }
    let walk = volume.check();
    assert!(fill(&walk.leaves) > 0.9);
    assert!(volume.meta().next_page.get() <= pages.get() + 10);
}

#[test]
fn what_earlier_clears_left_of_a_leaf_is_what_writes_meet() {
    let mut volume = numbered(512, 900, 30);
    let key = |number: u32| number.to_be_bytes();
    let bounds: Vec<[[u8; 4]; 2]> = [(0, 3), (200, 203), (400, 403), (600, 603), (800, 803)]
        .map(|(start, end)| [key(start), key(end)])
        .to_vec();
    let clears: Vec<(&[u8], Option<&[u8]>)> = bounds
        .iter()
        .map(|[start, end]| (&start[..], Some(&end[..])))
        .collect();
    // The leaves of the first clears are met again, after those of the last ones.
    let keys: Vec<[u8; 4]> = (0..900).step_by(5).map(key).collect();
    let writes: Vec<Write<'_>> = keys.iter().map(|key| put(key, b"new")).collect();
    let changes = Changes {
        clears: &clears,
        writes: &writes,
    };
    let planned = plan(&volume, &changes, 0, volume.pages_max).unwrap();
    volume.apply(&planned);
    volume.check();
    for number in 0..900 {
        let expected = match number {
            _ if number % 5 == 0 => Some(b"new".to_vec()),
            _ if number % 200 < 3 => None,
            _ => Some(vec![5; 30]),
        };
        assert_eq!(volume.get(&key(number)), expected, "{number}");
    }
}
