//! A storage node beside its device: the real core, the real ring, real files, and no sockets, in turns with a writer that does
//! nothing but write. What the transport costs is measured elsewhere ([`crate::floor`]).

mod beside;
mod load;
mod plain;
mod shell;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use sixfold_storage_node_core::Bounds;

use crate::latency::Latencies;
pub use beside::{Beside, BesideOptions, Side, run as run_beside};
use load::{Drawn, Load, Reader};
pub(crate) use plain::Plain;
pub use plain::plain_append;
use shell::LocalNode;

/// The group that both writers write, bytes.
const GROUP_BYTES: usize = 64 << 10;
/// What both append before it is the other's turn, so that a noisy neighbor disturbs both.
const TURN_BYTES: u64 = 32 << 20;
/// Lone appends in a turn.
const TURN_LONE: usize = 250;
/// Batches that a writer keeps under way: enough that the node never waits for the next.
const IN_FLIGHT: usize = 8;
/// Records that a page gets before it is read: the longest chain that a node lets grow.
const CHAIN_RECORDS: u64 = 64;
/// Cache while reads are measured, bytes: next to nothing.
const COLD_CACHE_BYTES: usize = 64 << 10;
/// Room for the indexes of layers and a few of their blocks, bytes: what a node with ten times its memory of data has left.
const INDEX_CACHE_BYTES: usize = 1 << 20;
/// Most records in a batch of the mixed load: as many as 64 clients can have in one.
const MIXED_RECORDS_MAX: u64 = 64;
/// Pages that the mixed load writes to.
const MIXED_PAGES: usize = 16_000;
/// Its batches under way: a writer seals the next while two or three lack their quorum (F2).
const MIXED_IN_FLIGHT: usize = 3;
/// Longest wait for the node to fold what it has.
const FOLD_LIMIT: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Where; an existing directory on the device to be measured.
    pub dir: PathBuf,
    /// Bytes that each writer appends in groups.
    pub append_bytes: u64,
    /// Lone appends of each writer.
    pub lone_count: usize,
    /// Pages with chains.
    pub page_count: u64,
    /// Cold page reads, and reads of the device.
    pub read_count: usize,
    /// Sizes of hot logs that are scanned at a start, bytes.
    pub restart_bytes: Vec<u64>,
    /// Latencies beside background work; not measured for `None`.
    pub beside: Option<BesideOptions>,
}

/// The figures.
#[derive(Debug, Clone, Serialize)]
pub struct NodeRun {
    /// Redo appended and acknowledged, 10^6 bytes a second.
    pub append_mb_per_second: f64,
    /// The same bytes by a writer that does nothing else.
    pub plain_append_mb_per_second: f64,
    /// Median of a lone append of one block until its ack.
    pub lone_p50_us: u64,
    /// 99 of 100.
    pub lone_p99_us: u64,
    /// Median of a lone write of one block.
    pub plain_lone_p50_us: u64,
    /// 99 of 100.
    pub plain_lone_p99_us: u64,
    /// Median of a cold page read at the longest chain.
    pub read_p50_us: u64,
    /// 99 of 100.
    pub read_p99_us: u64,
    /// Median of a read of one block.
    pub device_read_p50_us: u64,
    /// 99 of 100.
    pub device_read_p99_us: u64,
    /// Device reads that a page read took.
    pub device_reads_per_read: f64,
    /// Redo that was not in layers when reads were measured, bytes.
    pub unfolded_bytes: u64,
    /// Bytes written to the hot log for each byte of redo, at groups of 64 KiB: headers, padding and heads of files included, the zeros
    /// of new files and what was written to layers not.
    pub disk_bytes_per_redo_byte: f64,
    /// The same for small batches as a writer with 64 clients seals them.
    pub mixed_disk_bytes_per_redo_byte: f64,
    /// Redo of a mean batch of that mix, bytes.
    pub mixed_batch_bytes: u64,
    /// Zeros written to make the files that both took.
    pub zeroed_bytes: u64,
    /// Starts of a node.
    pub restarts: Vec<Restart>,
    /// Beside background work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
}

/// A start of a node.
#[derive(Debug, Clone, Serialize)]
pub struct Restart {
    /// Redo that had been appended, bytes.
    pub appended_bytes: u64,
    /// Nearly all of it was in layers, and its files were kept for gossip and watch all the same: the start passes over them.
    pub folded: bool,
    /// Bytes that the start read.
    pub read_bytes: u64,
    /// Until it is ready, milliseconds.
    pub restart_ms: f64,
}

/// Runs all of it. Takes about ten seconds and `append_bytes` of space three times over. Must be called in a current-thread runtime.
///
/// # Errors
/// When the device or the node fails.
pub async fn run(options: &NodeOptions) -> Result<NodeRun> {
    let Appends {
        append,
        plain_append,
        lone,
        plain_lone,
        disk,
    } = appends(options).await?;
    let mixed = mixed(options).await?;
    let (read, device_read, reads_per_read, unfolded_bytes) = reads(options).await?;
    let mut restarts = Vec::new();
    for bytes in &options.restart_bytes {
        restarts.push(restart(options, *bytes, false).await?);
    }
    if let Some(bytes) = options.restart_bytes.iter().max() {
        restarts.push(restart(options, *bytes, true).await?);
    }
    let beside = match &options.beside {
        Some(beside) => Some(beside::run(&options.dir, beside).await?),
        None => None,
    };
    Ok(NodeRun {
        append_mb_per_second: append,
        plain_append_mb_per_second: plain_append,
        lone_p50_us: lone.p50_us(),
        lone_p99_us: lone.p99_us(),
        plain_lone_p50_us: plain_lone.p50_us(),
        plain_lone_p99_us: plain_lone.p99_us(),
        read_p50_us: read.p50_us(),
        read_p99_us: read.p99_us(),
        device_read_p50_us: device_read.p50_us(),
        device_read_p99_us: device_read.p99_us(),
        device_reads_per_read: reads_per_read,
        unfolded_bytes,
        disk_bytes_per_redo_byte: disk.ratio(),
        mixed_disk_bytes_per_redo_byte: mixed.ratio(),
        mixed_batch_bytes: mixed.redo_bytes / mixed.batches.max(1),
        zeroed_bytes: disk.zero_bytes + mixed.zero_bytes,
        restarts,
        beside,
    })
}

/// What a load made of a hot log.
#[derive(Debug, Clone, Copy)]
struct DiskBytes {
    redo_bytes: u64,
    batches: u64,
    log_bytes: u64,
    zero_bytes: u64,
}

impl DiskBytes {
    fn ratio(&self) -> f64 {
        self.log_bytes as f64 / self.redo_bytes.max(1) as f64
    }
}

/// Latencies and throughput of both writers.
struct Appends {
    append: f64,
    plain_append: f64,
    lone: Latencies,
    plain_lone: Latencies,
    disk: DiskBytes,
}

/// Small batches, as many under way as a writer with 64 clients has, drawn around what it seals.
async fn mixed(options: &NodeOptions) -> Result<DiskBytes> {
    let scratch = Scratch::new(&options.dir, "mixed")?;
    let mut node = LocalNode::start(&scratch.0, Bounds::default()).await?;
    let mut load = Load::create(&mut node).await?;
    let mut drawn = Drawn(5);
    let before = node.counts();
    let (mut redo_bytes, mut batches) = (0, 0);
    while redo_bytes < options.append_bytes / 8 {
        let some: Vec<_> = (0..256)
            .map(|_| {
                let records = usize::try_from(drawn.next() % MIXED_RECORDS_MAX).expect("a few");
                load.rows(records, MIXED_PAGES, &mut drawn)
            })
            .collect();
        redo_bytes += some.iter().map(|batch| batch.len() as u64).sum::<u64>();
        batches += some.len() as u64;
        load.append(&mut node, some, MIXED_IN_FLIGHT).await?;
    }
    let after = node.counts();
    Ok(DiskBytes {
        redo_bytes,
        batches,
        log_bytes: after.log_bytes - before.log_bytes,
        zero_bytes: after.zero_bytes - before.zero_bytes,
    })
}

/// A directory for one measurement, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(dir: &Path, name: &str) -> Result<Scratch> {
        let path = dir.join(format!("node-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is in a directory that says what it was; the figures are not worse for it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn megabytes_per_second(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / 1e6 / elapsed.as_secs_f64()
}

async fn appends(options: &NodeOptions) -> Result<Appends> {
    let scratch = Scratch::new(&options.dir, "append")?;
    let bounds = Bounds {
        group_bytes_max: GROUP_BYTES,
        ..Bounds::default()
    };
    let room = options.append_bytes + options.lone_count as u64 * 4096;
    shell::prepare(&scratch.0, room)?;
    let mut node = LocalNode::start(&scratch.0, bounds).await?;
    let mut load = Load::create(&mut node).await?;
    let mut plain = Plain::new(&scratch.0.join("plain"))?;
    let (mut node_time, mut plain_time, mut done) = (Duration::ZERO, Duration::ZERO, 0);
    let (before, mut batch_count) = (node.counts(), 0);
    while done < options.append_bytes {
        let batches = load.large_batches(TURN_BYTES, GROUP_BYTES);
        let bytes: u64 = batches.iter().map(|batch| batch.len() as u64).sum();
        let count = batches.len();
        let begun = Instant::now();
        load.append(&mut node, batches, IN_FLIGHT).await?;
        node_time += begun.elapsed();
        let begun = Instant::now();
        plain.append(count, GROUP_BYTES).await?;
        plain_time += begun.elapsed();
        done += bytes;
        batch_count += count as u64;
    }
    let after = node.counts();
    let disk = DiskBytes {
        redo_bytes: done,
        batches: batch_count,
        log_bytes: after.log_bytes - before.log_bytes,
        zero_bytes: after.zero_bytes - before.zero_bytes,
    };
    let (mut lone, mut plain_lone) = (Latencies::default(), Latencies::default());
    while lone.count() < options.lone_count as u64 {
        for batch in load.lone_batches(TURN_LONE) {
            let begun = Instant::now();
            load.append(&mut node, vec![batch], 1).await?;
            lone.record(begun.elapsed());
        }
        for _ in 0..TURN_LONE {
            let begun = Instant::now();
            plain.append(1, 4096).await?;
            plain_lone.record(begun.elapsed());
        }
    }
    Ok(Appends {
        append: megabytes_per_second(done, node_time),
        plain_append: megabytes_per_second(done, plain_time),
        lone,
        plain_lone,
        disk,
    })
}

async fn reads(options: &NodeOptions) -> Result<(Latencies, Latencies, f64, u64)> {
    let scratch = Scratch::new(&options.dir, "read")?;
    let mut node = LocalNode::start(&scratch.0, Bounds::default()).await?;
    let mut load = Load::create(&mut node).await?;
    for batches in load.chains(options.page_count, CHAIN_RECORDS) {
        load.append(&mut node, batches, IN_FLIGHT).await?;
    }
    // A start folds what a full index would have made it fold.
    let cold = Bounds {
        resident_redo_bytes_max: COLD_CACHE_BYTES,
        page_cache_bytes_max: COLD_CACHE_BYTES,
        layer_cache_bytes_max: INDEX_CACHE_BYTES,
        unfolded_bytes_max: COLD_CACHE_BYTES as u64,
        ..Bounds::default()
    };
    drop(node);
    let mut node = LocalNode::start(&scratch.0, cold.clone()).await?;
    let begun = Instant::now();
    let mut unfolded_bytes = node.unfolded_bytes().await?;
    while unfolded_bytes > 0 && begun.elapsed() < FOLD_LIMIT {
        node.idle(Duration::from_millis(100)).await?;
        let now = node.unfolded_bytes().await?;
        if now == unfolded_bytes && begun.elapsed() > FOLD_LIMIT / 10 {
            break;
        }
        unfolded_bytes = now;
    }
    drop(node);
    let mut node = LocalNode::start(&scratch.0, cold).await?;
    let mut plain = Plain::new(&scratch.0.join("plain"))?;
    let mut reader = Reader::new(&load, options.page_count);
    let (mut read, mut device) = (Latencies::default(), Latencies::default());
    let before = node.counts().reads;
    while read.count() < options.read_count as u64 {
        for _ in 0..100 {
            let begun = Instant::now();
            reader.read(&mut node).await?;
            read.record(begun.elapsed());
        }
        for _ in 0..100 {
            let begun = Instant::now();
            plain.read(reader.draw(), 4096).await?;
            device.record(begun.elapsed());
        }
    }
    let device_reads = (node.counts().reads - before) as f64 / read.count() as f64;
    Ok((read, device, device_reads, unfolded_bytes))
}

/// Measures a start behind `bytes` of redo, in layers or not.
async fn restart(options: &NodeOptions, bytes: u64, folded: bool) -> Result<Restart> {
    let keeping = Bounds {
        log_window_bytes: 64 << 30,
        log_bytes_max: 256 << 30,
        ..Bounds::default()
    };
    let scratch = Scratch::new(&options.dir, "restart")?;
    let mut node = LocalNode::start(&scratch.0, keeping.clone()).await?;
    let mut load = Load::create(&mut node).await?;
    let mut appended_bytes = 0;
    while appended_bytes < bytes {
        let batches = load.large_batches(TURN_BYTES.min(bytes), 1 << 20);
        appended_bytes += batches.iter().map(|batch| batch.len() as u64).sum::<u64>();
        load.append(&mut node, batches, IN_FLIGHT).await?;
    }
    drop(node);
    if folded {
        let fold = Bounds {
            unfolded_bytes_max: 1 << 20,
            ..keeping.clone()
        };
        let mut node = LocalNode::start(&scratch.0, fold).await?;
        let begun = Instant::now();
        while node.unfolded_bytes().await? > 1 << 20 && begun.elapsed() < FOLD_LIMIT {
            node.idle(Duration::from_millis(100)).await?;
        }
        drop(node);
        // The next file's header says that those before it are not needed.
        let mut node = LocalNode::start(&scratch.0, keeping.clone()).await?;
        load.attach_again(&mut node).await?;
        let batches = load.large_batches(2 * TURN_BYTES, 1 << 20);
        appended_bytes += batches.iter().map(|batch| batch.len() as u64).sum::<u64>();
        load.append(&mut node, batches, IN_FLIGHT).await?;
    }
    let begun = Instant::now();
    let mut node = LocalNode::start(&scratch.0, keeping).await?;
    let elapsed = begun.elapsed();
    ensure!(
        load.is_all_there(&mut node).await?,
        "the node lost something in a restart"
    );
    Ok(Restart {
        appended_bytes,
        folded,
        read_bytes: node.start_bytes(),
        restart_ms: elapsed.as_secs_f64() * 1e3,
    })
}
