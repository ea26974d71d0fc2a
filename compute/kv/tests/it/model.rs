//! Random transactions against a sorted map.

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;
use sixfold_kv::{Direction, Found, Item, Write, get, key_bytes_max, plan};
use sixfold_log_format::Lsn;

use crate::volume::{Cold, Volume, scan};

#[derive(Debug, Clone)]
enum Change {
    Put {
        len_bytes: usize,
        fill: u8,
        deadline_ms: Option<u64>,
    },
    Delete,
}

type Transaction = BTreeMap<Vec<u8>, Change>;
type Model = BTreeMap<Vec<u8>, (Vec<u8>, Lsn, Option<u64>)>;

/// Keys of all lengths, many with long prefixes in common.
fn key(number: u16, page_bytes: usize) -> Vec<u8> {
    let max = key_bytes_max(page_bytes);
    let tail = number.to_be_bytes();
    match number % 5 {
        0 => [&b"a"[..], &tail].concat(),
        1 => [&vec![b'p'; max - 2][..], &tail].concat(),
        2 => vec![b'p'; 1 + usize::from(number) % max],
        3 => [&b"user/00000000/"[..], &tail].concat(),
        _ => vec![number as u8],
    }
}

fn change() -> impl Strategy<Value = Change> {
    let len_bytes = prop_oneof![
        8 => 0_usize..60,
        2 => 60_usize..1_100,
        1 => 1_100_usize..9_000,
    ];
    prop_oneof![
        3 => (len_bytes, any::<u8>(), proptest::option::weighted(0.2, any::<u64>())).prop_map(
            |(len_bytes, fill, deadline_ms)| Change::Put { len_bytes, fill, deadline_ms }
        ),
        2 => Just(Change::Delete),
    ]
}

fn transactions(page_bytes: usize, keys: u16) -> impl Strategy<Value = Vec<Transaction>> {
    let writes = move |count: std::ops::Range<usize>| {
        let key = (0..keys).prop_map(move |number| key(number, page_bytes));
        proptest::collection::btree_map(key, change(), count)
    };
    let (small, large) = (writes(1..4), writes(1..120));
    proptest::collection::vec(prop_oneof![4 => small, 1 => large], 1..40)
}

fn commit(volume: &mut Volume, model: &mut Model, transaction: &Transaction, cold: bool) {
    let values: Vec<Vec<u8>> = transaction
        .values()
        .map(|change| match change {
            Change::Put {
                len_bytes, fill, ..
            } => vec![*fill; *len_bytes],
            Change::Delete => Vec::new(),
        })
        .collect();
    let writes: Vec<Write<'_>> = transaction
        .iter()
        .zip(&values)
        .map(|((key, change), value)| match change {
            Change::Put { deadline_ms, .. } => Write::Put {
                key,
                value,
                deadline_ms: *deadline_ms,
            },
            Change::Delete => Write::Delete { key },
        })
        .collect();
    let before = volume.pages.clone();
    let planned = plan(volume, &writes, volume.pages_max).unwrap();
    assert_eq!(volume.pages, before, "planning changed a page");
    if cold {
        let source = Cold::new(volume);
        let (again, _) = source.run(|source| plan(source, &writes, volume.pages_max));
        assert_eq!(again, planned);
    }
    let visible = planned
        .records
        .iter()
        .filter(|record| record.user_visible)
        .count();
    let cpl = volume.apply(&planned);
    let mut expected = 0;
    for ((key, change), value) in transaction.iter().zip(values) {
        match change {
            Change::Put { deadline_ms, .. } => {
                expected += 1;
                model.insert(key.clone(), (value, cpl, *deadline_ms));
            }
            Change::Delete => expected += usize::from(model.remove(key).is_some()),
        }
    }
    assert_eq!(visible, expected, "each change has its user-visible record");
}

fn found(entry: &(Vec<u8>, Lsn, Option<u64>)) -> Found {
    Found {
        value: entry.0.clone().into(),
        stamp: entry.1,
        deadline_ms: entry.2,
    }
}

fn check(volume: &Volume, model: &Model, keys: u16, limits: &[(usize, usize)]) {
    volume.check();
    for number in 0..keys {
        let key = key(number, volume.page_bytes);
        assert_eq!(get(volume, &key).unwrap(), model.get(&key).map(found));
    }
    let item = |(key, entry): (&Vec<u8>, &_)| Item {
        key: key.clone().into(),
        found: found(entry),
    };
    let all = (Bound::Unbounded, Bound::Unbounded);
    let mut expected: Vec<Item> = model.iter().map(item).collect();
    assert_eq!(scan(volume, all, Direction::Forward, limits), expected);
    expected.reverse();
    assert_eq!(scan(volume, all, Direction::Reverse, limits), expected);
}

fn run(page_bytes: usize, keys: u16, transactions: &[Transaction], limits: &[(usize, usize)]) {
    let mut volume = Volume::new(page_bytes);
    let mut model = Model::new();
    for (index, transaction) in transactions.iter().enumerate() {
        commit(&mut volume, &mut model, transaction, index % 4 == 0);
        volume.check();
    }
    check(&volume, &model, keys, limits);
    let everything: Transaction = model
        .keys()
        .map(|key| (key.clone(), Change::Delete))
        .collect();
    commit(&mut volume, &mut model, &everything, true);
    check(&volume, &model, keys, limits);
    assert_eq!(volume.meta().height, 1, "an empty tree is a leaf");
    assert_eq!(volume.walk().reached.len(), 1);
}

fn limits() -> impl Strategy<Value = Vec<(usize, usize)>> {
    proptest::collection::vec((1_usize..9, 0_usize..5_000), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn small_pages_hold_what_the_model_holds(
        transactions in transactions(512, 400),
        limits in limits(),
    ) {
        run(512, 400, &transactions, &limits);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn large_pages_hold_what_the_model_holds(
        transactions in transactions(8_192, 3_000),
        limits in limits(),
    ) {
        run(8_192, 3_000, &transactions, &limits);
    }
}
