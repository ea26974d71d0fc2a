//! The tree alone, on a million keys in memory: lookups, single-put transactions up to the sealed batch, scans. redb runs the
//! same lookups and scans, so that figures of one run can be compared.
//!
//! Pages are held in a vector: no cache, no versions, no threads. A put is planned, minted, applied to its page and encoded
//! into a batch, as the writer does it, without validation and network. What is measured is the thread's CPU time, so that
//! others on the machine disturb little.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::cast_possible_truncation
)]

mod cpu;

use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use redb::{ReadableDatabase, TableDefinition};
use sixfold_kv::{
    Changes, Direction, Modify, PageSource, Plan, Write, get, plan, plan_creation, range_chunk,
};
use sixfold_log_format::{
    BatchBuilder, Lsn, Page, PageId, PgId, Record, VolumeEpoch, VolumeId, apply,
};

use cpu::{CpuTime, short};

const KEY_COUNT: u64 = 1_000_000;
const PAGE_BYTES: usize = 8_192;
const VALUE: [u8; 100] = [7; 100];
const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("table");

/// Commits after which the open batch is sealed.
const SEAL_COMMITS: u64 = 64;

struct Volume {
    pages: Vec<Arc<Page>>,
    lsn: Lsn,
    batch: BatchBuilder,
    open_commits: u64,
}

impl PageSource for Volume {
    fn page(&self, id: PageId) -> Option<Arc<Page>> {
        self.pages.get(usize::try_from(id.get()).ok()?).cloned()
    }
}

impl Volume {
    fn new() -> Volume {
        let mut volume = Volume {
            pages: Vec::new(),
            lsn: Lsn::NONE,
            batch: BatchBuilder::new(
                VolumeId::from_bytes([1; 16]),
                PgId::new(0),
                VolumeEpoch::new(1),
                Lsn::NONE,
            ),
            open_commits: 0,
        };
        volume.mint(plan_creation());
        volume
    }

    /// A volume with every key, put in ascending order.
    fn loaded() -> Volume {
        let mut volume = Volume::new();
        (0..KEY_COUNT).for_each(|number| volume.put(&key(number)));
        volume
    }

    /// Mints, applies and encodes a plan, as the writer does.
    fn mint(&mut self, plan: Plan<'_>) {
        let cpl = self.lsn.plus(plan.records.len() as u64);
        for planned in plan.records {
            let index = usize::try_from(planned.page.get()).unwrap();
            while self.pages.len() <= index {
                let id = PageId::new(self.pages.len() as u64);
                self.pages.push(Arc::new(Page::new(id, PAGE_BYTES)));
            }
            let page = Arc::make_mut(&mut self.pages[index]);
            self.lsn = self.lsn.next();
            let starts = planned.op.starts_chain();
            let record = Record {
                lsn: self.lsn,
                page: planned.page,
                page_prev: if starts { Lsn::NONE } else { page.lsn() },
                cpl,
                user_visible: planned.user_visible,
                op: planned.op,
            };
            apply(page, &record).unwrap();
            if !self.batch.push(&record) {
                self.seal();
                assert!(self.batch.push(&record));
            }
        }
        self.open_commits += 1;
        if self.open_commits == SEAL_COMMITS {
            self.seal();
        }
    }

    fn seal(&mut self) {
        self.open_commits = 0;
        black_box(self.batch.seal(Lsn::NONE, 0));
    }

    fn write(&mut self, write: Write<'_>) {
        let changes = Changes {
            clears: &[],
            writes: &[write],
        };
        // What the plan borrows from is the transaction, not the pages.
        let planned = plan(self, &changes, 0, u64::MAX).unwrap();
        self.mint(planned);
    }

    fn put(&mut self, key: &[u8]) {
        self.write(Write::Put {
            key,
            value: &VALUE,
            deadline_ms: None,
        });
    }
}

/// 16-byte keys; `number` runs through all of `0..KEY_COUNT` in a scattered order.
fn scattered(number: u64) -> [u8; 16] {
    key(number.wrapping_mul(7_919_337_077) % KEY_COUNT)
}

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"user000000000000";
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// One number after the other, over all the iterations of a bench.
fn numbers() -> impl FnMut() -> u64 {
    let mut number = 0;
    move || {
        number += 1;
        number
    }
}

fn redb_loaded() -> redb::Database {
    let backend = redb::backends::InMemoryBackend::new();
    let database = redb::Builder::new()
        .set_cache_size(1 << 30)
        .create_with_backend(backend)
        .unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(TABLE).unwrap();
        for number in 0..KEY_COUNT {
            table.insert(&key(number)[..], &VALUE[..]).unwrap();
        }
    }
    transaction.commit().unwrap();
    database
}

fn lookups(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("point get of a million keys");
    group.throughput(Throughput::Elements(1));
    let volume = Volume::loaded();
    let database = redb_loaded();
    let transaction = database.begin_read().unwrap();
    let table = transaction.open_table(TABLE).unwrap();
    for (name, span) in [("scattered", KEY_COUNT), ("of 1,000", 1_000)] {
        let mut next = numbers();
        group.bench_function(BenchmarkId::new("sixfold-kv", name), |bencher| {
            bencher.iter(|| get(&volume, &scattered(next() % span)).unwrap().unwrap());
        });
        let mut next = numbers();
        group.bench_function(BenchmarkId::new("redb", name), |bencher| {
            bencher.iter(|| {
                let found = table.get(&scattered(next() % span)[..]).unwrap();
                bytes::Bytes::copy_from_slice(found.unwrap().value())
            });
        });
    }
    group.finish();
}

fn puts(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("transaction of one put");
    group.throughput(Throughput::Elements(1));
    let mut volume = Volume::loaded();
    for (name, span) in [("scattered", KEY_COUNT), ("of 1,000", 1_000)] {
        let mut next = numbers();
        group.bench_function(BenchmarkId::new("replace", name), |bencher| {
            bencher.iter(|| volume.put(&scattered(next() % span)));
        });
    }
    let mut next = numbers();
    group.bench_function("insert/ascending", |bencher| {
        bencher.iter(|| volume.put(&key(KEY_COUNT + next())));
    });
    let mut volume = Volume::new();
    let mut next = numbers();
    group.bench_function("insert/scattered", |bencher| {
        bencher.iter(|| volume.put(&key(next().wrapping_mul(0x9E37_79B9_7F4A_7C15))));
    });
    let mut volume = Volume::new();
    group.bench_function("add/one counter", |bencher| {
        bencher.iter(|| {
            volume.write(Write::Modify {
                key: b"counter",
                ops: &[Modify::Add(1)],
            });
        });
    });
    group.finish();
}

fn scans(criterion: &mut Criterion<CpuTime>) {
    const ITEM_COUNT: usize = 10_000;
    let mut group = criterion.benchmark_group("scan of 10,000 keys");
    group.throughput(Throughput::Elements(ITEM_COUNT as u64));
    let volume = Volume::loaded();
    let starts = || {
        let mut next = numbers();
        move || scattered(next()).to_vec()
    };
    for direction in [Direction::Forward, Direction::Reverse] {
        let mut start = starts();
        group.bench_function(
            BenchmarkId::new("sixfold-kv", format!("{direction:?}")),
            |bencher| {
                bencher.iter(|| {
                    let from = Bound::Included(start());
                    let (mut lower, mut upper) = match direction {
                        Direction::Forward => (from, Bound::Unbounded),
                        Direction::Reverse => (Bound::Unbounded, from),
                    };
                    let mut count = 0;
                    while count < ITEM_COUNT {
                        let bounds = (
                            lower.as_ref().map(Vec::as_slice),
                            upper.as_ref().map(Vec::as_slice),
                        );
                        let chunk =
                            range_chunk(&volume, bounds.0, bounds.1, direction, 256, 256 << 10);
                        let chunk = chunk.unwrap();
                        count += black_box(chunk.items).len();
                        match (chunk.next, direction) {
                            (None, _) => break,
                            (Some(next), Direction::Forward) => lower = next,
                            (Some(next), Direction::Reverse) => upper = next,
                        }
                    }
                    count
                });
            },
        );
    }
    let database = redb_loaded();
    let transaction = database.begin_read().unwrap();
    let table = transaction.open_table(TABLE).unwrap();
    let mut start = starts();
    group.bench_function("redb/Forward", |bencher| {
        bencher.iter(|| {
            let range = table.range(&start()[..]..).unwrap().take(ITEM_COUNT);
            range
                .map(|item| {
                    let (key, value) = item.unwrap();
                    let own = bytes::Bytes::copy_from_slice;
                    black_box((own(key.value()), own(value.value())));
                })
                .count()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = short();
    targets = lookups, puts, scans
}
criterion_main!(benches);
