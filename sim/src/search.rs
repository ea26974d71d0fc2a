//! Many seeds on many threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::reached::Counts;
use crate::run::run_seed;

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// Seeds run.
    pub seeds: u64,
    /// Events that happened.
    pub events: u64,
    /// Commits that were answered.
    pub commits: u64,
    /// Reopenings that ended well.
    pub openings: u64,
    /// Failing seeds, and what was violated.
    pub failures: Vec<(u64, String)>,
    /// What was met.
    pub reached: Counts,
    /// Time that all threads together took.
    pub busy: Duration,
}

/// How to search.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// The first seed.
    pub first: u64,
    /// How many seeds at most.
    pub count: u64,
    /// Stop after so long.
    pub limit: Option<Duration>,
    /// Threads.
    pub jobs: usize,
    /// Stop after so many failures.
    pub failures_max: usize,
}

/// Runs seeds. `progress` is told seeds, events and failures now and then.
#[allow(
    clippy::disallowed_methods,
    reason = "a search runs for so long of real time; no run sees a clock"
)]
pub fn search(search: &Search, progress: &(dyn Fn(u64, u64, usize) + Sync)) -> Found {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let found = Mutex::new(Found::default());
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..search.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let over = search.limit.is_some_and(|limit| begin.elapsed() >= limit);
                    if index >= search.count || over {
                        return;
                    }
                    let seed = search.first.wrapping_add(index);
                    let started = Instant::now();
                    let outcome = run_seed(seed);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.busy += started.elapsed();
                    found.seeds += 1;
                    found.events += outcome.events;
                    found.commits += outcome.commits;
                    found.openings += outcome.openings;
                    found.reached.add(&outcome.reached);
                    if let Some(failure) = outcome.failure {
                        found.failures.push((seed, failure));
                        if found.failures.len() >= search.failures_max {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                    progress(found.seeds, found.events, found.failures.len());
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.failures.sort();
    found
}
