//! Reads in a closed loop on threads: the one loop that reads this engine and its peers, so that nothing but the system differs.
//!
//! Beside the wall time the CPU time of the reading threads is taken: on a machine with other work it is the steadier figure.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::draw::Dice;

/// Reads between two looks at the clock; one of them is timed alone.
const READS_PER_LOOK: u64 = 64;
/// Latencies above this are counted as this, nanoseconds.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// How long, how many.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Round {
    /// Threads that read.
    pub threads: usize,
    /// Keys read in order from the drawn one on; 1 for a point read.
    pub keys_per_read: u64,
    /// How long.
    pub time_ms: u64,
    /// Another sequence of keys for each.
    pub seed: u64,
}

/// A round in numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PointRun {
    /// Reads a second, all threads together, by wall time.
    pub reads_per_second: f64,
    /// Keys a second.
    pub keys_per_second: f64,
    /// Median of the reads that were timed alone.
    pub p50_us: f64,
    /// 99th percentile of the same.
    pub p99_us: f64,
    /// CPU time of the reading threads for a read.
    pub cpu_us_per_read: f64,
}

/// The CPU time that this thread has used.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

struct Thread {
    reads: u64,
    keys: u64,
    cpu: Duration,
    wall: Duration,
    latencies: Histogram<u64>,
}

/// Runs a round over the keys `0..keys`. Each thread calls `open` once and then what it returned, with the number of a key; that
/// returns how many keys it found.
///
/// # Errors
/// When a read fails, or finds fewer keys than there are.
pub fn run<O, R>(round: Round, keys: u64, open: &O) -> Result<PointRun>
where
    O: Fn() -> Result<R> + Sync,
    R: FnMut(u64) -> Result<u64>,
{
    ensure!(round.threads > 0, "no threads");
    ensure!(
        (1..=keys).contains(&round.keys_per_read),
        "{} keys a read of {keys}",
        round.keys_per_read
    );
    let barrier = Barrier::new(round.threads);
    let threads = std::thread::scope(|scope| {
        let running: Vec<_> = (0..round.threads)
            .map(|index| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let reader = open();
                    // Also after an error, or the others would wait for ever.
                    barrier.wait();
                    read(round, index as u64, keys, &mut reader?)
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| {
                let ended = thread.join();
                ended.map_err(|_| anyhow::anyhow!("a reading thread panicked"))?
            })
            .collect::<Result<Vec<Thread>>>()
    })?;
    sum(&threads)
}

fn read(
    round: Round,
    index: u64,
    keys: u64,
    reader: &mut impl FnMut(u64) -> Result<u64>,
) -> Result<Thread> {
    let time = Duration::from_millis(round.time_ms);
    let mut dice = Dice::new(round.seed.wrapping_mul(1_000).wrapping_add(index));
    let starts = keys - round.keys_per_read + 1;
    let reads_per_look = if round.keys_per_read == 1 {
        READS_PER_LOOK
    } else {
        1
    };
    let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).context("a histogram")?;
    let mut thread = Thread {
        reads: 0,
        keys: 0,
        cpu: Duration::ZERO,
        wall: Duration::ZERO,
        latencies,
    };
    let (begun, cpu_begun) = (Instant::now(), cpu_time());
    while begun.elapsed() < time {
        let alone = Instant::now();
        thread.keys += reader(dice.below(starts))?;
        let ns = u64::try_from(alone.elapsed().as_nanos()).unwrap_or(LATENCY_MAX_NS);
        thread
            .latencies
            .saturating_record(ns.clamp(1, LATENCY_MAX_NS));
        for _ in 1..reads_per_look {
            thread.keys += reader(dice.below(starts))?;
        }
        thread.reads += reads_per_look;
    }
    thread.cpu = cpu_time().saturating_sub(cpu_begun);
    thread.wall = begun.elapsed();
    ensure!(
        thread.keys == thread.reads * round.keys_per_read,
        "{} keys found in {} reads of {}",
        thread.keys,
        thread.reads,
        round.keys_per_read
    );
    Ok(thread)
}

#[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
fn sum(threads: &[Thread]) -> Result<PointRun> {
    let mut latencies = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).context("a histogram")?;
    let (mut reads, mut per_second, mut keys_per_second) = (0, 0.0, 0.0);
    let mut cpu = Duration::ZERO;
    for thread in threads {
        latencies.add(&thread.latencies).context("a histogram")?;
        reads += thread.reads;
        cpu += thread.cpu;
        per_second += thread.reads as f64 / thread.wall.as_secs_f64();
        keys_per_second += thread.keys as f64 / thread.wall.as_secs_f64();
    }
    let us = |share: f64| latencies.value_at_quantile(share) as f64 / 1_000.0;
    Ok(PointRun {
        reads_per_second: per_second,
        keys_per_second,
        p50_us: us(0.5),
        p99_us: us(0.99),
        cpu_us_per_read: cpu.as_secs_f64() * 1e6 / reads.max(1) as f64,
    })
}

/// The run in the middle, by CPU time.
///
/// # Errors
/// When there is none.
pub fn middle(mut runs: Vec<PointRun>) -> Result<PointRun> {
    runs.sort_by(|left, right| left.cpu_us_per_read.total_cmp(&right.cpu_us_per_read));
    let at = runs.len() / 2;
    runs.into_iter().nth(at).context("no runs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_read_is_counted_and_within_the_keys() {
        let round = Round {
            threads: 2,
            keys_per_read: 10,
            time_ms: 10,
            seed: 1,
        };
        let run = run(round, 100, &|| {
            Ok(|number| {
                ensure!(number <= 90, "key {number}");
                Ok(10)
            })
        })
        .unwrap();
        let keys_per_read = run.keys_per_second / run.reads_per_second;
        assert!((keys_per_read - 10.0).abs() < 1e-6, "{run:?}");
    }

    #[test]
    fn a_key_that_is_missing_is_an_error() {
        let round = Round {
            threads: 1,
            keys_per_read: 1,
            time_ms: 1,
            seed: 1,
        };
        let run = run(round, 100, &|| Ok(|number| Ok(number % 2)));
        assert!(run.unwrap_err().to_string().contains("keys found"));
    }
}
