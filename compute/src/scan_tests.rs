use std::collections::BTreeMap;

use proptest::prelude::*;
use sixfold_kv::{Found, Item, Modify};

use super::*;

fn key(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[number])
}

fn number(value: i64) -> Bytes {
    Bytes::copy_from_slice(&value.to_le_bytes())
}

fn item(at: u8) -> Item {
    Item {
        key: key(at),
        found: Found {
            value: number(i64::from(at)),
            stamp: Lsn::new(1),
            deadline_ms: None,
        },
    }
}

/// Runs a scan over stored keys, each of which holds its own number, that come in chunks as `range_chunk` gives them.
fn run(
    stored: &[u8],
    own: OwnRange,
    direction: Direction,
    chunk_len: usize,
) -> Result<Vec<(u8, i64)>, Error> {
    let mut scan = Scan::new((Bound::Unbounded, Bound::Unbounded), direction, own);
    let mut items = Vec::new();
    loop {
        loop {
            scan.settle()?;
            if !scan.needs_chunk() {
                break;
            }
            let bounds = scan.next_bounds();
            let within = |at: &&u8| std::ops::RangeBounds::<Bytes>::contains(&bounds, &key(**at));
            let mut left: Vec<u8> = stored.iter().filter(within).copied().collect();
            if direction == Direction::Reverse {
                left.reverse();
            }
            let taken = &left[..left.len().min(chunk_len)];
            let last = taken.last().copied();
            scan.take_chunk(Chunk {
                items: taken.iter().map(|&at| item(at)).collect(),
                next: last
                    .filter(|_| taken.len() < left.len())
                    .map(|last| Bound::Excluded(vec![last])),
            });
        }
        let peeked = scan.peek_key().cloned();
        let popped = scan.pop();
        assert_eq!(peeked, popped.as_ref().map(|entry| entry.key.clone()));
        match popped {
            Some(entry) => items.push((
                entry.key[0],
                i64::from_le_bytes(entry.value.as_ref().try_into().unwrap()),
            )),
            None => return Ok(items),
        }
    }
}

#[derive(Debug, Clone)]
enum Word {
    Put,
    Delete,
    Add,
}

proptest! {
    #[test]
    fn a_scan_is_the_merge_of_what_is_stored_and_what_the_transaction_says(
        stored in proptest::collection::btree_set(0_u8..40, 0..30),
        words in proptest::collection::btree_map(
            0_u8..40, prop_oneof![Just(Word::Put), Just(Word::Delete), Just(Word::Add)], 0..20),
        cleared in proptest::collection::vec((0_u8..40, 1_u8..8), 0..4),
        reverse in any::<bool>(),
        chunk_len in 1_usize..6,
    ) {
        let mut overlay = crate::overlay::Overlay::new(1 << 20);
        let mut expected: BTreeMap<u8, i64> = stored.iter().map(|&at| (at, i64::from(at))).collect();
        for (start, len) in cleared {
            overlay.clear(key(start), key(start + len)).unwrap();
            expected.retain(|at, _| !(start..start + len).contains(at));
        }
        for (&at, word) in &words {
            match word {
                Word::Put => {
                    let value = sixfold_compute_core::WriteValue { bytes: number(1_000), deadline_ms: None };
                    overlay.put(key(at), value).unwrap();
                    expected.insert(at, 1_000);
                }
                Word::Delete => {
                    overlay.delete(key(at)).unwrap();
                    expected.remove(&at);
                }
                Word::Add => {
                    overlay.modify(&key(at), Modify::Add(100)).unwrap();
                    *expected.entry(at).or_insert(0) += 100;
                }
            }
        }
        let mut expected: Vec<(u8, i64)> = expected.into_iter().collect();
        if reverse {
            expected.reverse();
        }
        let direction = if reverse { Direction::Reverse } else { Direction::Forward };
        let own = overlay.within(&(Bound::Unbounded, Bound::Unbounded));
        let stored: Vec<u8> = stored.into_iter().collect();
        prop_assert_eq!(run(&stored, own, direction, chunk_len), Ok(expected));
    }
}

#[test]
fn a_chunk_without_items_is_followed_by_the_next() {
    let own = OwnRange {
        keys: vec![(key(9), Own::Absent)],
        clears: Vec::new(),
    };
    let everything = (Bound::Unbounded, Bound::Unbounded);
    let mut scan = Scan::new(everything, Direction::Forward, own);
    assert!(scan.needs_chunk());
    scan.take_chunk(Chunk {
        items: Vec::new(),
        next: Some(Bound::Included(vec![5])),
    });
    assert!(scan.needs_chunk());
    assert_eq!(
        scan.next_bounds(),
        (Bound::Included(key(5)), Bound::Unbounded)
    );
    scan.take_chunk(Chunk {
        items: vec![item(9)],
        next: None,
    });
    scan.settle().unwrap();
    assert_eq!(scan.pop(), None);
}

#[test]
fn what_the_transaction_cleared_is_not_read_at_all() {
    let clears = vec![(key(0), key(3)), (key(5), key(9))];
    let own = OwnRange {
        keys: Vec::new(),
        clears,
    };
    let bounds = (Bound::Included(key(1)), Bound::Excluded(key(8)));
    let scan = Scan::new(bounds, Direction::Forward, own);
    assert_eq!(
        scan.rest,
        [(Bound::Included(key(3)), Bound::Excluded(key(5)))]
    );
}

#[test]
fn an_operation_on_what_is_no_number_is_an_error_that_stays() {
    let own = OwnRange {
        keys: vec![(key(1), Own::Modified(vec![Modify::Add(i64::MAX)]))],
        clears: Vec::new(),
    };
    let everything = (Bound::Unbounded, Bound::Unbounded);
    let mut scan = Scan::new(everything, Direction::Forward, own);
    scan.take_chunk(Chunk {
        items: vec![item(1)],
        next: None,
    });
    for _ in 0..2 {
        assert!(matches!(scan.settle(), Err(Error::Invalid { .. })));
    }
}
