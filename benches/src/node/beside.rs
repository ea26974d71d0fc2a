//! What the node's own work costs those who wait: the same open load on two nodes in turns, of which one freezes, merges, scrubs and is
//! copied from, and the other does none of it.
//!
//! A thread of its own says when something arrives, as a socket would, and latency counts from then: who waits behind a step of the
//! node's own work waits in the figures too.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sixfold_log_format::Lsn;
use sixfold_log_format::wire::{Message, Refusal};
use sixfold_storage_node_core::{Bounds, StreamKey};
use tokio::sync::mpsc;

use super::load::{Drawn, Load, Reader, is_page};
use super::shell::{DiskCounts, LocalNode, prepare};
use super::{CHAIN_RECORDS, INDEX_CACHE_BYTES, Scratch};
use crate::latency::Latencies;

/// How long one node works before it is the other's turn.
const TURN: Duration = Duration::from_millis(250);
/// Work in flight that is too much: the node does not keep up with what arrives.
const OPEN_MAX: usize = 2_000;
/// Records in a batch: about 16 KiB.
const BATCH_RECORDS: usize = 120;
/// What a batch takes in the hot log at most, bytes.
const BATCH_BYTES: u64 = 24 << 10;
/// Pages with chains that are read, and pages that rows are written to.
const PAGE_COUNT: usize = 4_000;
/// Redo that the busy node keeps out of layers at most, bytes: half of it makes it freeze. An eighth of the default, so that it freezes all
/// the time; some five seconds of the load, so that a device that stands still for one does not stop it.
const BUSY_UNFOLDED_BYTES: u64 = 64 << 20;

/// What to measure.
#[derive(Debug, Clone)]
pub struct BesideOptions {
    /// How long each node is loaded.
    pub time: Duration,
    /// Appends a second.
    pub appends_per_second: u32,
    /// Page reads a second.
    pub reads_per_second: u32,
    /// What the scrub of the busy node verifies each round, bytes.
    pub scrub_bytes: usize,
    /// Its pace of freezes and merges, bytes a second; the default where it is 0.
    pub background_bytes_per_second: u64,
}

/// Latencies of one node.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// Appends that were acknowledged.
    pub appends: u64,
    /// Median until the ack.
    pub append_p50_us: u64,
    /// 99 of 100.
    pub append_p99_us: u64,
    /// 999 of 1,000.
    pub append_p999_us: u64,
    /// Page reads.
    pub reads: u64,
    /// Median.
    pub read_p50_us: u64,
    /// 99 of 100.
    pub read_p99_us: u64,
    /// 999 of 1,000.
    pub read_p999_us: u64,
    /// Reads that were refused because more waited than may.
    pub reads_refused: u64,
}

/// The figures.
#[derive(Debug, Clone, Serialize)]
pub struct Beside {
    /// Without work of its own.
    pub quiet: Side,
    /// With.
    pub busy: Side,
    /// How much longer 99 of 100 appends take beside background work, as a share: 0.1 is 10 %.
    pub append_p99_growth: f64,
    /// The same for reads.
    pub read_p99_growth: f64,
    /// Freezes of the busy node meanwhile.
    pub freezes: u64,
    /// Its merges.
    pub merges: u64,
    /// Bytes that it wrote to layers.
    pub layer_bytes: u64,
    /// Bytes that it read, for reads and for itself.
    pub read_bytes: u64,
    /// Bytes that its scrub verified.
    pub scrub_bytes: u64,
    /// Bytes of redo that it took.
    pub redo_bytes: u64,
    /// Turns of its core in which it did something for itself.
    pub turns: u64,
    /// Median of them.
    pub turn_p50_us: u64,
    /// 99 of 100.
    pub turn_p99_us: u64,
    /// 999 of 1,000.
    pub turn_p999_us: u64,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Append,
    Read,
}

/// One node under load.
struct Loaded {
    node: LocalNode,
    load: Load,
    reader: Reader,
    drawn: Drawn,
    appends: VecDeque<(Lsn, Instant)>,
    reads: BTreeMap<StreamKey, Instant>,
    append_latencies: Latencies,
    read_latencies: Latencies,
    /// Reads that were refused.
    refused: u64,
    /// Appends a second.
    rate: u32,
    _scratch: Scratch,
}

fn quiet() -> Bounds {
    Bounds {
        page_cache_bytes_max: 64 << 10,
        layer_cache_bytes_max: INDEX_CACHE_BYTES * 4,
        index_bytes_max: 4 << 30,
        unfolded_bytes_max: 64 << 30,
        log_window_bytes: 64 << 30,
        log_bytes_max: 256 << 30,
        scrub_bytes: 0,
        ..Bounds::default()
    }
}

fn busy(options: &BesideOptions) -> Bounds {
    let standard = Bounds::default();
    Bounds {
        index_bytes_max: standard.index_bytes_max,
        unfolded_bytes_max: BUSY_UNFOLDED_BYTES,
        scrub_bytes: options.scrub_bytes,
        background_bytes_per_second: match options.background_bytes_per_second {
            0 => standard.background_bytes_per_second,
            rate => rate,
        },
        ..quiet()
    }
}

impl Loaded {
    /// A node with chains in layers, started again with these bounds.
    async fn new(
        dir: &Path,
        name: &str,
        bounds: Bounds,
        (log_bytes, rate): (u64, u32),
    ) -> Result<Loaded> {
        let scratch = Scratch::new(dir, name)?;
        prepare(&scratch.0, log_bytes)?;
        let fold = Bounds {
            unfolded_bytes_max: 64 << 10,
            log_window_bytes: 64 << 30,
            log_bytes_max: 256 << 30,
            scrub_bytes: 0,
            ..Bounds::default()
        };
        let mut node = LocalNode::start(&scratch.0, quiet()).await?;
        let mut load = Load::create(&mut node).await?;
        for batches in load.chains(PAGE_COUNT as u64, CHAIN_RECORDS) {
            load.append(&mut node, batches, super::IN_FLIGHT).await?;
        }
        drop(node);
        let mut node = LocalNode::start(&scratch.0, fold).await?;
        let begun = Instant::now();
        while node.unfolded_bytes().await? > 64 << 10 && begun.elapsed() < super::FOLD_LIMIT {
            node.idle(Duration::from_millis(100)).await?;
        }
        drop(node);
        let mut node = LocalNode::start(&scratch.0, bounds).await?;
        load.attach_again(&mut node).await?;
        let reader = Reader::new(&load, PAGE_COUNT as u64);
        Ok(Loaded {
            node,
            load,
            reader,
            drawn: Drawn(11),
            appends: VecDeque::new(),
            reads: BTreeMap::new(),
            append_latencies: Latencies::default(),
            read_latencies: Latencies::default(),
            refused: 0,
            rate,
            _scratch: scratch,
        })
    }

    /// Serves what arrives until `arrivals` ends, then what is under way still.
    async fn turn(&mut self, mut arrivals: mpsc::UnboundedReceiver<(Kind, Instant)>) -> Result<()> {
        loop {
            match self.node.serve(&mut arrivals).await? {
                Some((kind, at)) => self.arrived(kind, at)?,
                None => {
                    if let Err(error) = self.take_answers() {
                        return Err(error.context(self.state().await?));
                    }
                }
            }
            if self.appends.len() + self.reads.len() > OPEN_MAX {
                bail!("the node does not keep up: ask for fewer appends and reads a second");
            }
            if arrivals.is_closed() && arrivals.is_empty() {
                break;
            }
        }
        // Nobody arrives any more; whoever waits is served.
        let (_keep, mut never) = mpsc::unbounded_channel::<()>();
        while !self.appends.is_empty() || !self.reads.is_empty() {
            self.node.serve(&mut never).await?;
            self.take_answers()?;
        }
        Ok(())
    }

    /// What the node says of itself, when it does not do what it should.
    async fn state(&mut self) -> Result<String> {
        let status = self.node.status().await?;
        let segment = status.segments.first().context("the segment is gone")?;
        Ok(format!(
            "after {} MiB of redo: {} MiB unfolded, {} runs, {} MiB of layers, {} freezes, {} merges, {} MiB in queue, {} MiB of index",
            status.redo_bytes >> 20,
            segment.unfolded_bytes >> 20,
            segment.run_count,
            segment.layer_bytes >> 20,
            status.upkeep.freezes,
            status.upkeep.merges,
            status.upkeep.memory.queued_bytes >> 20,
            status.upkeep.memory.index_bytes >> 20,
        ))
    }

    fn arrived(&mut self, kind: Kind, at: Instant) -> Result<()> {
        match kind {
            Kind::Append => {
                // Rows go to pages of their own, so that chains that are read stay as they are.
                let batch = self
                    .load
                    .rows(BATCH_RECORDS, 8 * PAGE_COUNT, &mut self.drawn);
                let (message, last) = self.load.append_message(batch);
                self.appends.push_back((last, at));
                self.node.tell(self.load.stream(), message)
            }
            Kind::Read => {
                let stream = self.node.open_stream();
                self.reads.insert(stream, at);
                let request = self.reader.request();
                self.node.tell(stream, request)
            }
        }
    }

    fn take_answers(&mut self) -> Result<()> {
        for (stream, message) in self.node.take_sent() {
            if stream == self.load.stream() {
                let Message::Ack(ack) = message else {
                    bail!(
                        "the node does not keep up with {} appends a second: {message:?}",
                        self.rate
                    );
                };
                while let Some((last, at)) = self.appends.front().copied()
                    && last <= ack.scl
                {
                    self.append_latencies.record(at.elapsed());
                    self.appends.pop_front();
                }
            } else if let Some(at) = self.reads.remove(&stream) {
                self.node.close_stream(stream);
                if message == Message::Refused(Refusal::Overloaded) {
                    // More wait than a node lets wait: the device stood still for a while.
                    self.refused += 1;
                    continue;
                }
                is_page(&message)?;
                self.read_latencies.record(at.elapsed());
            }
        }
        Ok(())
    }

    fn side(&self) -> Side {
        let (append, read) = (&self.append_latencies, &self.read_latencies);
        Side {
            appends: append.count(),
            append_p50_us: append.p50_us(),
            append_p99_us: append.p99_us(),
            append_p999_us: append.p999_us(),
            reads: read.count(),
            read_p50_us: read.p50_us(),
            read_p99_us: read.p99_us(),
            read_p999_us: read.p999_us(),
            reads_refused: self.refused,
        }
    }
}

/// Says when something arrives, evenly, for one turn.
fn arrivals(options: &BesideOptions) -> Result<mpsc::UnboundedReceiver<(Kind, Instant)>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let per_second = [
        (Kind::Append, options.appends_per_second),
        (Kind::Read, options.reads_per_second),
    ];
    let mut due: Vec<(Duration, Kind)> = Vec::new();
    for (kind, rate) in per_second {
        let mut at = Duration::ZERO;
        while rate > 0 && at < TURN {
            due.push((at, kind));
            at += Duration::from_secs(1) / rate;
        }
    }
    due.sort_by_key(|(at, _)| *at);
    std::thread::Builder::new()
        .name("arrivals".to_owned())
        .spawn(move || {
            let begun = Instant::now();
            for (at, kind) in due {
                let wait = at.saturating_sub(begun.elapsed());
                if !wait.is_zero() {
                    std::thread::sleep(wait);
                }
                if sender.send((kind, Instant::now())).is_err() {
                    return;
                }
            }
        })
        .context("cannot start a thread")?;
    Ok(receiver)
}

fn growth(quiet: u64, busy: u64) -> f64 {
    (busy as f64 - quiet as f64) / (quiet.max(1)) as f64
}

/// Loads both nodes in turns. Must be called in a current-thread runtime.
///
/// # Errors
/// When the device or a node fails, or does not keep up.
pub async fn run(dir: &Path, options: &BesideOptions) -> Result<Beside> {
    let rate = options.appends_per_second;
    let log_bytes = options.time.as_secs().max(1) * u64::from(rate) * BATCH_BYTES + (64 << 20);
    let mut quiet = Loaded::new(dir, "quiet", quiet(), (log_bytes, rate)).await?;
    let mut busy = Loaded::new(dir, "busy", busy(options), (log_bytes, rate)).await?;
    // Caches and files are warm before anything counts.
    for node in [&mut quiet, &mut busy] {
        node.turn(arrivals(options)?).await?;
        (node.append_latencies, node.read_latencies) = Default::default();
        node.refused = 0;
    }
    busy.node.take_turns();
    let before = busy.node.counts();
    let status_before = busy.node.status().await?;
    let turns = (options.time.as_millis() / TURN.as_millis()).max(1);
    for _ in 0..turns {
        quiet.turn(arrivals(options)?).await?;
        busy.turn(arrivals(options)?).await?;
    }
    let status = busy.node.status().await?;
    let after: DiskCounts = busy.node.counts();
    let turns = busy.node.take_turns();
    let (upkeep, upkeep_before) = (&status.upkeep, &status_before.upkeep);
    let (quiet, busy) = (quiet.side(), busy.side());
    Ok(Beside {
        append_p99_growth: growth(quiet.append_p99_us, busy.append_p99_us),
        read_p99_growth: growth(quiet.read_p99_us, busy.read_p99_us),
        quiet,
        busy,
        freezes: upkeep.freezes - upkeep_before.freezes,
        merges: upkeep.merges - upkeep_before.merges,
        layer_bytes: after.layer_bytes - before.layer_bytes,
        read_bytes: after.read_bytes - before.read_bytes,
        scrub_bytes: upkeep.scrub_bytes - upkeep_before.scrub_bytes,
        redo_bytes: status.redo_bytes - status_before.redo_bytes,
        turns: turns.count(),
        turn_p50_us: turns.p50_us(),
        turn_p99_us: turns.p99_us(),
        turn_p999_us: turns.p999_us(),
    })
}
