//! Random transactions against a sorted map: clears, puts, deletions, numbers, deadlines, and freeing what was dropped, with
//! caches that hold nothing.

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;
use sixfold_kv::{
    Changes, Clear, Direction, Found, Item, KvError, Modify, ModifyError, PageSource, Write,
    estimate, get, is_expired, key_bytes_max, plan, plan_reclaim,
};
use sixfold_log_format::{Lsn, Op, PageId};

use crate::volume::{Cold, Volume, scan};

#[derive(Debug, Clone)]
enum Change {
    Put {
        len_bytes: usize,
        fill: u8,
        deadline_ms: Option<u64>,
    },
    Delete,
    Modify(Vec<Modify>),
    /// The deadline that the key has, or another one.
    Expire {
        right: bool,
    },
}

#[derive(Debug, Clone)]
struct Transaction {
    /// Key numbers; `None` = to the end.
    clear: Option<(u16, Option<u16>)>,
    changes: BTreeMap<Vec<u8>, Change>,
    tick_ms: u64,
    /// Records of a reclaim behind it.
    reclaim: Option<usize>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    value: Vec<u8>,
    stamp: Lsn,
    deadline_ms: Option<u64>,
}

type Model = BTreeMap<Vec<u8>, Entry>;

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

fn number_op() -> impl Strategy<Value = Modify> {
    let operand = prop_oneof![9 => -100_i64..100, 1 => any::<i64>()];
    (operand, 0..3).prop_map(|(operand, kind)| match kind {
        0 => Modify::Add(operand),
        1 => Modify::Max(operand),
        _ => Modify::Min(operand),
    })
}

fn change() -> impl Strategy<Value = Change> {
    let len_bytes = prop_oneof![
        8 => 0_usize..60,
        2 => 60_usize..1_100,
        1 => 1_100_usize..12_000,
        2 => Just(8),
    ];
    let deadline_ms = proptest::option::weighted(0.3, 0_u64..2_000);
    prop_oneof![
        5 => (len_bytes, any::<u8>(), deadline_ms).prop_map(|(len_bytes, fill, deadline_ms)| {
            Change::Put { len_bytes, fill, deadline_ms }
        }),
        5 => Just(Change::Delete),
        1 => proptest::collection::vec(number_op(), 1..3).prop_map(Change::Modify),
        1 => any::<bool>().prop_map(|right| Change::Expire { right }),
    ]
}

fn transactions(page_bytes: usize, keys: u16) -> impl Strategy<Value = Vec<Transaction>> {
    let writes = move |count: std::ops::Range<usize>| {
        let key = (0..keys).prop_map(move |number| key(number, page_bytes));
        proptest::collection::btree_map(key, change(), count)
    };
    let changes = prop_oneof![4 => writes(0..4), 1 => writes(1..120)];
    let clear =
        proptest::option::weighted(0.2, (0..keys, proptest::option::weighted(0.95, 0..keys)));
    let reclaim = proptest::option::weighted(0.3, 1_usize..200);
    let transaction =
        (clear, changes, 0_u64..120, reclaim).prop_map(|(clear, changes, tick_ms, reclaim)| {
            Transaction {
                clear,
                changes,
                tick_ms,
                reclaim,
            }
        });
    proptest::collection::vec(transaction, 1..40)
}

struct World {
    volume: Volume,
    model: Model,
    clock_ms: u64,
}

/// What the model says of a number.
fn modified(held: Option<&Entry>, ops: &[Modify]) -> Result<i64, ModifyError> {
    let mut number = match held {
        None => None,
        Some(entry) => {
            let len_bytes = entry.value.len();
            let bytes = <[u8; 8]>::try_from(&entry.value[..]);
            Some(i64::from_le_bytes(
                bytes.map_err(|_| ModifyError::NotANumber { len_bytes })?,
            ))
        }
    };
    for op in ops {
        number = Some(match (op, number) {
            (Modify::Add(added), held) => {
                let held = held.unwrap_or(0);
                let sum = held.checked_add(*added);
                sum.ok_or(ModifyError::Overflow {
                    held,
                    added: *added,
                })?
            }
            (Modify::Max(operand) | Modify::Min(operand), None) => *operand,
            (Modify::Max(operand), Some(held)) => held.max(*operand),
            (Modify::Min(operand), Some(held)) => held.min(*operand),
        });
    }
    Ok(number.unwrap())
}

impl World {
    fn live(&self, key: &[u8]) -> Option<&Entry> {
        let held = self.model.get(key);
        held.filter(|entry| !is_expired(entry.deadline_ms, self.clock_ms))
    }

    fn transact(&mut self, transaction: &Transaction, cold: bool) {
        self.clock_ms += transaction.tick_ms;
        self.volume.tick(self.clock_ms);
        let page_bytes = self.volume.page_bytes;
        let bounds = transaction.clear.and_then(|(start, end)| {
            let (start, end) = (key(start, page_bytes), end.map(|end| key(end, page_bytes)));
            end.as_ref()
                .is_none_or(|end| start < *end)
                .then_some((start, end))
        });
        let clears: Vec<Clear<'_>> = bounds
            .iter()
            .map(|(start, end)| (&start[..], end.as_deref()))
            .collect();
        let values: Vec<Vec<u8>> = transaction
            .changes
            .values()
            .map(|change| match change {
                Change::Put {
                    len_bytes, fill, ..
                } => vec![*fill; *len_bytes],
                _ => Vec::new(),
            })
            .collect();
        let writes: Vec<Write<'_>> = transaction
            .changes
            .iter()
            .zip(&values)
            .map(|((key, change), value)| match change {
                Change::Put { deadline_ms, .. } => Write::Put {
                    key,
                    value,
                    deadline_ms: *deadline_ms,
                },
                Change::Delete => Write::Delete { key },
                Change::Modify(ops) => Write::Modify { key, ops },
                Change::Expire { right } => Write::Expire {
                    key,
                    deadline_ms: self
                        .model
                        .get(key)
                        .and_then(|entry| entry.deadline_ms)
                        .map_or(7, |deadline| if *right { deadline } else { deadline ^ 1 }),
                },
            })
            .collect();
        let changes = Changes {
            clears: &clears,
            writes: &writes,
        };
        let before = self.volume.pages.clone();
        let pages_max = self.volume.pages_max;
        let planned = plan(&self.volume, &changes, self.clock_ms, pages_max);
        assert_eq!(self.volume.pages, before, "planning changed a page");
        if cold {
            let source = Cold::new(&self.volume);
            let again =
                source.run_to_end(|source| plan(source, &changes, self.clock_ms, pages_max));
            assert_eq!(again, planned);
        }
        let expected = self.expect(&clears, &writes);
        let (model, visible) = match (expected, &planned) {
            (Ok(expected), Ok(_)) => expected,
            (Err(expected), Err(KvError::Invalid(error))) if expected == *error => return,
            (expected, planned) => panic!("{planned:?}, expected {:?}", expected.map(drop)),
        };
        let planned = planned.unwrap();
        let found: Vec<_> = planned
            .records
            .iter()
            .filter(|record| record.user_visible)
            .map(|record| match &record.op {
                Op::Insert { cell, .. } | Op::Replace { cell, .. } => cell.key.to_vec(),
                Op::Remove { key, .. } => key.to_vec(),
                Op::DeleteRange { start, .. } => {
                    assert_eq!(record.page, PageId::META);
                    [b"clear", &start[..]].concat()
                }
                op => panic!("{op:?} is no change of a user's"),
            })
            .collect();
        assert_eq!(found, visible, "each change has its user-visible record");
        let cpl = self.volume.apply(&planned);
        self.model = model;
        for entry in self
            .model
            .values_mut()
            .filter(|entry| entry.stamp.is_none())
        {
            entry.stamp = cpl;
        }
    }

    /// The model after it, new entries without a stamp, and what is user-visible of it.
    fn expect(
        &self,
        clears: &[Clear<'_>],
        writes: &[Write<'_>],
    ) -> Result<(Model, Vec<Vec<u8>>), ModifyError> {
        let mut model = self.model.clone();
        let mut visible = Vec::new();
        for (start, end) in clears {
            model.retain(|key, _| &key[..] < *start || end.is_some_and(|end| &key[..] >= end));
            visible.push([b"clear", *start].concat());
        }
        for write in writes {
            let key = write.key().to_vec();
            let entry = |value: &[u8], deadline_ms| Entry {
                value: value.to_vec(),
                stamp: Lsn::NONE,
                deadline_ms,
            };
            match write {
                Write::Put {
                    value, deadline_ms, ..
                } => {
                    model.insert(key.clone(), entry(value, *deadline_ms));
                }
                Write::Delete { .. } => {
                    if model.remove(&key).is_none() {
                        continue;
                    }
                }
                Write::Modify { ops, .. } => {
                    let held = model.get(&key);
                    let held = held.filter(|held| !is_expired(held.deadline_ms, self.clock_ms));
                    let number = modified(held, ops)?;
                    model.insert(key.clone(), entry(&number.to_le_bytes(), None));
                }
                Write::Expire { deadline_ms, .. } => {
                    let held = model.get(&key).and_then(|entry| entry.deadline_ms);
                    if held != Some(*deadline_ms) || *deadline_ms > self.clock_ms {
                        continue;
                    }
                    model.remove(&key);
                }
            }
            visible.push(key);
        }
        Ok((model, visible))
    }

    fn reclaim(&mut self, records_max: usize, cold: bool) {
        let planned = plan_reclaim(&self.volume, records_max, self.volume.pages_max).unwrap();
        assert!(planned.records.len() <= records_max.max(32) + 8);
        if cold {
            let before = self.volume.meta().dropped_count;
            let source = Cold::new(&self.volume);
            let pages_max = self.volume.pages_max;
            let (again, _) = source.run(|source| plan_reclaim(source, records_max, pages_max));
            assert_eq!(again.records.is_empty(), before == 0);
        }
        self.volume.apply(&planned);
    }

    fn check(&self, keys: u16, limits: &[(usize, usize)]) {
        self.volume.check();
        for number in 0..keys {
            let key = key(number, self.volume.page_bytes);
            assert_eq!(get(&self.volume, &key).unwrap(), self.live(&key).map(found));
        }
        let live = self
            .model
            .iter()
            .filter(|(key, _)| self.live(key).is_some());
        let mut expected: Vec<Item> = live
            .map(|(key, entry)| Item {
                key: key.clone().into(),
                found: found(entry),
            })
            .collect();
        let all = (Bound::Unbounded, Bound::Unbounded);
        let found = scan(&self.volume, all, Direction::Forward, limits);
        assert_eq!(found, expected);
        expected.reverse();
        let found = scan(&self.volume, all, Direction::Reverse, limits);
        assert_eq!(found, expected);
        let estimate = estimate(&self.volume, all.0, all.1).unwrap();
        if self.volume.meta().height == 1 {
            assert_eq!(estimate.keys, self.model.len() as u64);
        }
    }
}

fn found(entry: &Entry) -> Found {
    Found {
        value: entry.value.clone().into(),
        stamp: entry.stamp,
        deadline_ms: entry.deadline_ms,
    }
}

fn run(page_bytes: usize, keys: u16, transactions: &[Transaction], limits: &[(usize, usize)]) {
    let mut world = World {
        volume: Volume::new(page_bytes),
        model: Model::new(),
        clock_ms: 0,
    };
    for (index, transaction) in transactions.iter().enumerate() {
        world.transact(transaction, index % 4 == 0);
        world.volume.check();
        if let Some(records_max) = transaction.reclaim {
            world.reclaim(records_max, index % 3 == 0);
            world.volume.check();
        }
    }
    world.check(keys, limits);
    let everything = Transaction {
        clear: None,
        changes: world
            .model
            .keys()
            .map(|key| (key.clone(), Change::Delete))
            .collect(),
        tick_ms: 0,
        reclaim: None,
    };
    world.transact(&everything, true);
    world.check(keys, limits);
    assert_eq!(world.volume.meta().height, 1, "an empty tree is a leaf");
    assert_eq!(world.volume.walk().reached.len(), 1);
    world.volume.reclaim(40);
    world.volume.check();
    let meta = world.volume.meta();
    // All that was ever used is free but for the meta page and the root.
    assert_eq!(meta.free_count, meta.next_page.get() - 3);
    assert!(world.volume.page(meta.root).is_some());
}

fn limits() -> impl Strategy<Value = Vec<(usize, usize)>> {
    proptest::collection::vec((1_usize..9, 0_usize..5_000), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

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
