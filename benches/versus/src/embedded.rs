//! Embedded stores: one copy, in this process, each client a thread.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::CommitArgs;
use crate::commits::KEY_COUNT;
use crate::draw::{KeyName, scattered};
use crate::latency::Latencies;
#[cfg(not(feature = "rocksdb"))]
use crate::outcome::NotHere;
use crate::outcome::{About, CommitRow};
use crate::points::{PointRun, Round};

/// A store, opened.
pub(crate) trait Store: Send + Sync {
    /// Its name and version.
    fn version(&self) -> String;

    /// What was set beside the defaults.
    fn settings(&self) -> String;

    /// Puts one key in a transaction of its own, durable when this returns.
    fn commit(&self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Puts the rows `0..keys`, and leaves the store as it is best read.
    fn load(&self, keys: u64, value: &dyn Fn(u64) -> Vec<u8>) -> Result<()>;

    /// Runs a round of reads.
    fn reads(&self, round: Round, keys: u64, value_bytes: usize) -> Result<PointRun>;
}

/// Opens a store in a directory.
///
/// # Errors
/// [`NotHere`] for one that is not built in.
pub(crate) fn open(system: &str, dir: &Path, cache_mib: usize) -> Result<Box<dyn Store>> {
    match system {
        "redb" => Ok(Box::new(crate::redb::Redb::open(dir, cache_mib)?)),
        "lmdb" => Ok(Box::new(crate::lmdb::Lmdb::open(dir)?)),
        #[cfg(feature = "rocksdb")]
        "rocksdb" => Ok(Box::new(crate::rocksdb::Rocksdb::open(dir, cache_mib)?)),
        #[cfg(not(feature = "rocksdb"))]
        "rocksdb" => Err(NotHere(
            "sixfold-versus is built without it (--features rocksdb, needs librocksdb-dev and libclang-dev)"
                .to_owned(),
        )
        .into()),
        other => bail!("no embedded store {other:?}"),
    }
}

/// The rows `0..keys` in groups of so many: a commit of a load each.
pub(crate) fn groups(keys: u64, rows: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    (0..keys.div_ceil(rows)).map(move |group| group * rows..((group + 1) * rows).min(keys))
}

/// Cache for the load of commits, MiB: as much as Sixfold's default.
const COMMIT_CACHE_MIB: usize = 256;

pub(crate) fn commits(args: &CommitArgs) -> Result<CommitRow> {
    let store = open(&args.system, &args.dir, COMMIT_CACHE_MIB)?;
    let about = About {
        system: args.system.clone(),
        version: store.version(),
        copies: 1,
        durable_copies: 1,
        settings: format!("{}, a thread for each client", store.settings()),
    };
    let numbers = AtomicU64::new(0);
    if args.warm_up_seconds > 0 {
        closed_loop(args, &*store, &numbers, args.warm_up_seconds)?;
    }
    let (latencies, seconds) = closed_loop(args, &*store, &numbers, args.seconds)?;
    Ok(CommitRow::new(about, args.clients, &latencies, seconds))
}

/// Every client a thread, each after its last answer.
fn closed_loop(
    args: &CommitArgs,
    store: &dyn Store,
    numbers: &AtomicU64,
    seconds: u64,
) -> Result<(Latencies, f64)> {
    let value = vec![0x5a; args.value_bytes];
    let time = Duration::from_secs(seconds);
    let barrier = Barrier::new(args.clients);
    let begun = Instant::now();
    let clients = std::thread::scope(|scope| {
        let client = || {
            let mut latencies = Latencies::default();
            barrier.wait();
            let begun = Instant::now();
            while begun.elapsed() < time {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                let key = KeyName::of(scattered(number, KEY_COUNT));
                let asked = Instant::now();
                store.commit(key.as_ref(), &value)?;
                latencies.record(asked.elapsed());
            }
            Ok(latencies)
        };
        let threads: Vec<_> = (0..args.clients).map(|_| scope.spawn(client)).collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))?
            })
            .collect::<Result<Vec<Latencies>>>()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut all = Latencies::default();
    for client in &clients {
        all.add(client).context("histograms of one kind")?;
    }
    Ok((all, seconds))
}
