use std::collections::BTreeMap;

use proptest::prelude::*;
use sixfold_kv::Found;
use sixfold_log_format::Lsn;

use super::*;

fn key(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[number])
}

fn item(number: u8) -> Item {
    Item {
        key: key(number),
        found: Found {
            value: Bytes::from_static(b"stored"),
            stamp: Lsn::new(1),
            deadline_ms: None,
        },
    }
}

/// Runs a scan over stored keys that come in chunks of `chunk_len`, as `range_chunk` gives them.
fn run(
    stored: &[u8],
    own: &BTreeMap<u8, bool>,
    direction: Direction,
    chunk_len: usize,
) -> Vec<(u8, bool)> {
    let mut stored: Vec<u8> = stored.to_vec();
    let writes = own
        .iter()
        .map(|(&number, &put)| (key(number), put.then(|| Bytes::from_static(b"own"))))
        .collect();
    if direction == Direction::Reverse {
        stored.reverse();
    }
    let mut chunks = stored.chunks(chunk_len).peekable();
    let mut scan = Scan::new((Bound::Unbounded, Bound::Unbounded), direction, writes);
    let mut items = Vec::new();
    loop {
        while scan.needs_chunk() {
            let numbers = chunks.next().unwrap_or(&[]);
            let last = numbers.last().copied().unwrap_or(0);
            let next = chunks.peek().map(|_| Bound::Excluded(vec![last]));
            scan.take_chunk(Chunk {
                items: numbers.iter().map(|&number| item(number)).collect(),
                next,
            });
        }
        let peeked = scan.peek_key();
        let popped = scan.pop();
        assert_eq!(peeked, popped.as_ref().map(|(key, _)| key.clone()));
        match popped {
            Some((key, value)) => items.push((key[0], value == "own")),
            None => return items,
        }
    }
}

proptest! {
    #[test]
    fn a_scan_is_the_merge_of_what_is_stored_and_what_the_transaction_wrote(
        stored in proptest::collection::btree_set(0_u8..40, 0..30),
        own in proptest::collection::btree_map(0_u8..40, any::<bool>(), 0..20),
        reverse in any::<bool>(),
        chunk_len in 1_usize..6,
    ) {
        let mut expected: BTreeMap<u8, bool> = stored.iter().map(|&number| (number, false)).collect();
        for (&number, &put) in &own {
            if put {
                expected.insert(number, true);
            } else {
                expected.remove(&number);
            }
        }
        let mut expected: Vec<(u8, bool)> = expected.into_iter().collect();
        if reverse {
            expected.reverse();
        }
        let direction = if reverse { Direction::Reverse } else { Direction::Forward };
        let stored: Vec<u8> = stored.into_iter().collect();
        prop_assert_eq!(run(&stored, &own, direction, chunk_len), expected);
    }
}

#[test]
fn a_chunk_without_items_is_followed_by_the_next() {
    let mut scan = Scan::new(
        (Bound::Unbounded, Bound::Unbounded),
        Direction::Forward,
        vec![(key(9), None)],
    );
    assert!(scan.needs_chunk());
    scan.take_chunk(Chunk {
        items: Vec::new(),
        next: Some(Bound::Included(vec![5])),
    });
    assert!(scan.needs_chunk());
    assert_eq!(scan.rest(), (Bound::Included(key(5)), Bound::Unbounded));
    scan.take_chunk(Chunk {
        items: vec![item(9)],
        next: None,
    });
    assert_eq!(scan.pop(), None);
}

#[test]
fn reversed_and_empty_bounds_hold_nothing() {
    let nothing = ["b".."a", "a".."a"];
    for range in nothing {
        assert!(is_empty(&range.into_bounds()));
    }
    assert!(is_empty(&("b"..="a").into_bounds()));
    assert!(is_empty(&(.."").into_bounds()));
    assert!(is_empty(
        &(Bound::Excluded("a"), Bound::Included("a")).into_bounds()
    ));
    assert!(is_empty(
        &(Bound::Excluded("a"), Bound::Excluded("a")).into_bounds()
    ));
    assert!(!is_empty(&("a"..="a").into_bounds()));
    assert!(!is_empty(&("a".."b").into_bounds()));
    assert!(!is_empty(&(..).into_bounds()));
    assert!(!is_empty(&("a"..).into_bounds()));
    assert!(!is_empty(&(..="a").into_bounds()));
}

#[test]
fn a_prefix_ends_before_the_next_string_of_its_length() {
    let bounds = |bytes: &[u8]| prefix(bytes).into_bounds();
    assert_eq!(
        bounds(b"ab"),
        (Bound::Included("ab".into()), Bound::Excluded("ac".into()))
    );
    assert_eq!(
        bounds(b"a\xff"),
        (
            Bound::Included(b"a\xff".as_ref().into()),
            Bound::Excluded("b".into())
        )
    );
    assert_eq!(
        bounds(b"\xff\xff"),
        (
            Bound::Included(b"\xff\xff".as_ref().into()),
            Bound::Unbounded
        )
    );
    assert_eq!(bounds(b""), (Bound::Included("".into()), Bound::Unbounded));
}

#[test]
fn what_was_consumed_ends_at_the_last_key_returned() {
    let bounds = ("b".."y").into_bounds();
    let m = Bytes::from_static(b"m");
    let range = |start: &'static str, end: &'static str, end_included| ReadRange {
        start: start.into(),
        end: Some(end.into()),
        end_included,
    };
    assert_eq!(
        consumed(&bounds, Direction::Forward, Some(&m)),
        range("b", "m", true)
    );
    assert_eq!(
        consumed(&bounds, Direction::Reverse, Some(&m)),
        range("m", "y", false)
    );
    assert_eq!(
        consumed(&bounds, Direction::Forward, None),
        range("b", "y", false)
    );
    let bounds = (Bound::Excluded("b"), Bound::Included("y")).into_bounds();
    assert_eq!(
        consumed(&bounds, Direction::Forward, None),
        range("b\0", "y", true)
    );
    let all = (..).into_bounds();
    assert_eq!(
        consumed(&all, Direction::Reverse, None),
        ReadRange {
            start: Bytes::new(),
            end: None,
            end_included: false
        }
    );
}
