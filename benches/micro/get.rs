//! Point gets of keys in memory, through the library's public calls, beside redb in the same run.
//!
//! `cargo bench -p sixfold-benches --bench get`; `SIXFOLD_BENCH_KEYS` sets the number of keys (1,000,000). Six nodes run in this
//! process for the load; the gets themselves speak with none of them. All gets are of keys that are there, drawn evenly.
//! What is measured is the CPU time of the thread that gets, so that others on the machine disturb little.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod cpu;

use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use redb::{ReadableDatabase, TableDefinition};
use sixfold::blocking::Database;
use sixfold::{Cluster, ClusterNode, Options};
use sixfold_log_format::wire::Role;
use sixfold_storage_node::NodeOptions;
use sixfold_transport::ClusterCa;
use tokio::sync::oneshot;

use cpu::{CpuTime, short};

const VALUE_BYTES: usize = 100;
const KEYS_PER_COMMIT: u64 = 1_000;
const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("table");

fn key_count() -> u64 {
    let set = std::env::var("SIXFOLD_BENCH_KEYS").ok();
    set.map_or(1_000_000, |set| set.parse().unwrap())
}

fn key(number: u64) -> String {
    format!("key/{number:012}")
}

fn roll(dice: &mut u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    *dice
}

/// A future that has nothing to wait for.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("a get of a key in memory waited"),
    }
}

/// Six nodes on threads of this process, until the end of it.
fn cluster(dir: &std::path::Path) -> Cluster {
    let ca = ClusterCa::generate().unwrap();
    ca.save(dir).unwrap();
    let writer = ca.issue(Role::Writer, None).unwrap();
    writer.save(dir, "writer").unwrap();
    let nodes = (0..6).map(|index| {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = ClusterNode::new(format!("az{}", index / 2 + 1), address);
        let (tls, data) = (
            dir.join(format!("tls{index}")),
            dir.join(format!("data{index}")),
        );
        std::fs::create_dir_all(&tls).unwrap();
        std::fs::create_dir_all(&data).unwrap();
        let identity = ca.issue(Role::Node, Some(node.node)).unwrap();
        identity.save(&tls, "node").unwrap();
        let options = NodeOptions::with_defaults(data, node.node, node.az.clone(), address, tls);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (_keep, stop) = oneshot::channel::<()>();
            let ready = move |address| tell.send(address).unwrap();
            let stop = async {
                let _never = stop.await;
            };
            sixfold_storage_node::run(options, ready, stop).unwrap();
        });
        node.address = told.recv_timeout(Duration::from_secs(30)).unwrap();
        node
    });
    Cluster::new(nodes.collect(), dir)
}

fn load_sixfold(dir: &std::path::Path) -> Database {
    let options = Options::new(cluster(dir))
        .cache_bytes(4 << 30)
        .commit_deadline(Duration::from_secs(60));
    let database = Database::create(options).unwrap();
    for group in 0..key_count() / KEYS_PER_COMMIT {
        let txn = database.begin().unwrap();
        for number in group * KEYS_PER_COMMIT..(group + 1) * KEYS_PER_COMMIT {
            txn.put(key(number), [7; VALUE_BYTES]).unwrap();
        }
        txn.commit().unwrap();
    }
    let held = database.snapshot().range(..).count();
    assert_eq!(held as u64, key_count());
    database
}

fn load_redb(dir: &std::path::Path) -> redb::Database {
    let database = redb::Builder::new()
        .set_cache_size(4 << 30)
        .create(dir.join("redb"))
        .unwrap();
    for group in 0..key_count() / KEYS_PER_COMMIT {
        let mut txn = database.begin_write().unwrap();
        txn.set_durability(redb::Durability::None).unwrap();
        {
            let mut table = txn.open_table(TABLE).unwrap();
            for number in group * KEYS_PER_COMMIT..(group + 1) * KEYS_PER_COMMIT {
                let key = key(number);
                table.insert(key.as_bytes(), &[7; VALUE_BYTES][..]).unwrap();
            }
        }
        txn.commit().unwrap();
    }
    database
}

fn get(criterion: &mut Criterion<CpuTime>) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let keys = key_count();
    let sixfold = load_sixfold(dir.path());
    let redb = load_redb(dir.path());
    let mut group = criterion.benchmark_group(format!("get of {keys} keys"));
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(3));

    let snapshot = sixfold.as_async().snapshot();
    let mut dice = 1;
    group.bench_function("sixfold snapshot", |bencher| {
        bencher.iter(|| {
            now(snapshot.get(key(roll(&mut dice) % keys)))
                .unwrap()
                .unwrap()
                .len()
        });
    });
    let table = redb.begin_read().unwrap().open_table(TABLE).unwrap();
    group.bench_function("redb", |bencher| {
        bencher.iter(|| {
            let key = key(roll(&mut dice) % keys);
            let value = table.get(key.as_bytes()).unwrap().unwrap();
            // A copy, as the others give.
            bytes::Bytes::copy_from_slice(value.value()).len()
        });
    });
    group.bench_function("sixfold transaction of one get", |bencher| {
        bencher.iter(|| {
            let txn = sixfold.begin().unwrap();
            let txn = txn.get(key(roll(&mut dice) % keys)).unwrap().unwrap();
            txn.len()
        });
    });
    group.bench_function("key alone", |bencher| {
        bencher.iter(|| key(roll(&mut dice) % keys).len());
    });
    group.finish();

    let mut group = criterion.benchmark_group(format!("scan of {keys} keys"));
    group.sample_size(10);
    group.bench_function("sixfold snapshot", |bencher| {
        bencher.iter(|| snapshot_scan(&snapshot));
    });
    group.bench_function("redb", |bencher| {
        bencher.iter(|| {
            let range = redb::ReadableTable::range::<&[u8]>(&table, ..).unwrap();
            range
                .map(|item| item.unwrap().1.value().len())
                .sum::<usize>()
        });
    });
    group.finish();
    sixfold.close().unwrap();
}

fn snapshot_scan(snapshot: &sixfold::Snapshot) -> usize {
    let mut range = snapshot.range(..);
    let mut bytes = 0;
    while let Some((_, value)) = now(range.next()).unwrap() {
        bytes += value.len();
    }
    bytes
}

criterion_group! {
    name = benches;
    config = short();
    targets = get
}
criterion_main!(benches);
