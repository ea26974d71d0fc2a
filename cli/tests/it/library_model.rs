//! The whole library against a model: random transactions of every kind of write, read back at the present and in the past, with
//! tiny caches, small pages and changes of the writer.

use std::collections::BTreeMap;
use std::ops::Bound;

use sixfold::{Database, Lsn, Options, Snapshot, Transaction};

use crate::library_cluster::{LocalCluster, limited};

type Model = BTreeMap<Vec<u8>, (Vec<u8>, Lsn)>;

const KEY_COUNT: u64 = 300;

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn key(&mut self) -> Vec<u8> {
        let number = self.below(KEY_COUNT);
        // Of very different lengths.
        let tail = "x".repeat(usize::try_from(number % 7 * 4).unwrap());
        format!("key/{number:04}/{tail}").into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.below(10) {
            0 => 0,
            1 => 3_000 + self.below(9_000),
            _ => self.below(120),
        };
        let byte = u8::try_from(self.below(256)).unwrap();
        vec![byte; usize::try_from(len).unwrap()]
    }
}

/// One random write, to the transaction and to the model.
fn write(dice: &mut Dice, txn: &Transaction, model: &mut Model) {
    let key = dice.key();
    match dice.below(20) {
        0 => {
            let (one, other) = (dice.key(), key);
            txn.delete_range(&one..&other).unwrap();
            model.retain(|key, _| !(one <= *key && *key < other));
        }
        1..6 => {
            txn.delete(&key).unwrap();
            model.remove(&key);
        }
        6..9 => {
            let key = [b"number/", &key[..8]].concat();
            let operand = i64::try_from(dice.below(100)).unwrap() - 50;
            let held = model.get(&key);
            let held = held.map(|(value, _)| i64::from_le_bytes(value[..].try_into().unwrap()));
            let after = match dice.below(3) {
                0 => {
                    txn.add(&key, operand).unwrap();
                    held.unwrap_or(0) + operand
                }
                1 => {
                    txn.max(&key, operand).unwrap();
                    held.map_or(operand, |held| held.max(operand))
                }
                _ => {
                    txn.min(&key, operand).unwrap();
                    held.map_or(operand, |held| held.min(operand))
                }
            };
            model.insert(key, (after.to_le_bytes().to_vec(), Lsn::NONE));
        }
        _ => {
            let value = dice.value();
            txn.put(&key, &value).unwrap();
            model.insert(key, (value, Lsn::NONE));
        }
    }
}

async fn check_range(dice: &mut Dice, snapshot: &Snapshot, model: &Model) {
    let (lower, upper) = (dice.key(), dice.key());
    let bounds = (
        Bound::Included(lower.clone()),
        Bound::Excluded(upper.clone()),
    );
    let limit = usize::try_from(dice.below(60)).unwrap();
    let reverse = dice.below(2) == 0;
    let mut expected: Vec<_> = model
        .iter()
        .filter(|(key, _)| lower <= **key && **key < upper)
        .map(|(key, (value, lsn))| (key.clone(), value.clone(), *lsn))
        .collect();
    let mut range = snapshot.range(bounds).limit(limit);
    if reverse {
        expected.reverse();
        range = range.reverse();
    }
    expected.truncate(limit);
    let mut seen = Vec::new();
    while let Some((key, value, lsn)) = range.next_versioned().await.unwrap() {
        seen.push((key.to_vec(), value.to_vec(), lsn));
    }
    assert_eq!(seen, expected);
}

async fn check(snapshot: &Snapshot, model: &Model) {
    let mut range = snapshot.range(..);
    let mut expected = model.iter();
    while let Some((key, value, lsn)) = range.next_versioned().await.unwrap() {
        let (model_key, (model_value, model_lsn)) =
            expected.next().expect("no more than the model");
        assert_eq!(key, model_key);
        assert_eq!(value, model_value);
        assert_eq!(lsn, *model_lsn, "version of {key:?} at {}", snapshot.lsn());
    }
    assert_eq!(expected.next(), None, "at {}", snapshot.lsn());
}

async fn run(seed: u64, options: Options) {
    let mut dice = Dice(seed);
    let mut database = Database::create(options.clone()).await.unwrap();
    let mut model = Model::new();
    let mut past: Vec<(Lsn, Model)> = Vec::new();
    for round in 0..150 {
        let txn = database.begin().await.unwrap();
        let mut after = model.clone();
        for _ in 0..=dice.below(40) {
            write(&mut dice, &txn, &mut after);
            if dice.below(4) == 0 {
                let key = dice.key();
                let own = txn.get(&key).await.unwrap();
                assert_eq!(own.as_deref(), after.get(&key).map(|(value, _)| &value[..]));
            }
        }
        if dice.below(5) == 0 {
            txn.rollback();
            continue;
        }
        let own = txn.range(..).collect().await.unwrap();
        assert!(
            own.iter()
                .map(|(key, _)| &key[..])
                .eq(after.keys().map(|key| &key[..]))
        );
        let lsn = txn.commit().await.unwrap().lsn;
        for (_, version) in after
            .values_mut()
            .filter(|(_, version)| *version == Lsn::NONE)
        {
            *version = lsn;
        }
        model = after;
        past.push((lsn, model.clone()));
        check_range(&mut dice, &database.snapshot(), &model).await;
        if round % 25 == 24 {
            if dice.below(2) == 0 {
                database = Database::take_over(options.clone()).await.unwrap();
            }
            check(&database.snapshot(), &model).await;
            let index = usize::try_from(dice.below(past.len() as u64)).unwrap();
            let (lsn, then) = &past[index];
            let snapshot = database.snapshot_at(*lsn).await.unwrap();
            assert_eq!(snapshot.lsn(), *lsn);
            check(&snapshot, then).await;
        }
    }
    database.close().await;
}

#[tokio::test]
async fn the_library_does_what_a_map_with_versions_does_with_a_cache_of_64_pages() {
    let cluster = LocalCluster::start();
    limited(run(11, cluster.options().cache_bytes(64 * 8_192))).await;
}

#[tokio::test]
async fn the_library_does_what_a_map_with_versions_does_on_small_pages() {
    let cluster = LocalCluster::start();
    let options = cluster.options().page_bytes(1_024).cache_bytes(64 * 1_024);
    limited(run(12, options)).await;
}
