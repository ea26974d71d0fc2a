//! Ranges with every kind of bound.

use std::ops::Bound::{self, Excluded, Included, Unbounded};

use sixfold_kv::{Chunk, Direction, range_chunk};

use crate::volume::{Volume, large, put, scan};

fn numbered(count: u32) -> (Volume, Vec<Vec<u8>>) {
    let mut volume = Volume::new(512);
    let keys: Vec<Vec<u8>> = (0..count)
        .map(|n| format!("key{n:05}").into_bytes())
        .collect();
    for key in &keys {
        volume.put(key, key);
    }
    (volume, keys)
}

#[test]
fn every_pair_of_bounds_gives_the_keys_between_in_both_directions() {
    let (volume, keys) = numbered(120);
    // On keys, between keys, on separators, before the first and behind the last.
    let mut points: Vec<Vec<u8>> = volume.walk().separators;
    points.extend(
        [
            "key00000",
            "key00000x",
            "key00042",
            "key00119",
            "k",
            "z",
            "",
        ]
        .map(|p| p.into()),
    );
    let mut bounds: Vec<Bound<&[u8]>> = vec![Unbounded];
    for point in &points {
        bounds.push(Included(point));
        bounds.push(Excluded(point));
    }
    for lower in &bounds {
        for upper in &bounds {
            let inside = |key: &&Vec<u8>| {
                let above = match lower {
                    Included(low) => key.as_slice() >= *low,
                    Excluded(low) => key.as_slice() > *low,
                    Unbounded => true,
                };
                above
                    && match upper {
                        Included(high) => key.as_slice() <= *high,
                        Excluded(high) => key.as_slice() < *high,
                        Unbounded => true,
                    }
            };
            let mut expected: Vec<&Vec<u8>> = keys.iter().filter(inside).collect();
            for direction in [Direction::Forward, Direction::Reverse] {
                let items = scan(
                    &volume,
                    (*lower, *upper),
                    direction,
                    &[(3, 1_000), (50, 1_000)],
                );
                let found: Vec<Vec<u8>> = items.iter().map(|item| item.key.to_vec()).collect();
                assert!(
                    found.iter().eq(expected.iter().copied()),
                    "{lower:?} {upper:?} {direction:?}"
                );
                expected.reverse();
            }
        }
    }
}

#[test]
fn a_chunk_of_no_items_goes_on_where_it_began() {
    let (volume, _) = numbered(10);
    let chunk = range_chunk(
        &volume,
        Excluded(b"key00003"),
        Unbounded,
        Direction::Forward,
        0,
        100,
    );
    let next = Some(Excluded(b"key00003".to_vec()));
    assert_eq!(
        chunk,
        Ok(Chunk {
            items: vec![],
            next
        })
    );
}

#[test]
fn a_reversed_range_is_empty_and_ends() {
    let (volume, _) = numbered(10);
    for (low, high) in [
        (Included("b"), Included("a")),
        (Excluded("a"), Included("a")),
    ] {
        let (low, high) = (low.map(str::as_bytes), high.map(str::as_bytes));
        let chunk = range_chunk(&volume, low, high, Direction::Reverse, 10, 100).unwrap();
        assert_eq!(
            chunk,
            Chunk {
                items: vec![],
                next: None
            }
        );
    }
}

#[test]
fn a_chunk_ends_at_its_bytes_but_holds_at_least_one_item() {
    let mut volume = Volume::new(512);
    let value = large(&volume, 3, 7);
    volume.commit(&[put(b"a", &value), put(b"b", &value), put(b"c", b"")]);
    let chunk = |bytes_max| {
        let items = range_chunk(
            &volume,
            Unbounded,
            Unbounded,
            Direction::Forward,
            10,
            bytes_max,
        );
        items.unwrap().items.len()
    };
    assert_eq!(
        (chunk(0), chunk(value.len()), chunk(value.len() + 2)),
        (1, 1, 2)
    );
    assert_eq!(chunk(usize::MAX), 3);
}
