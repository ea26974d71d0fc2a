//! Commits in a closed loop: each client has one transaction with one put at a time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use sixfold::Database;

use crate::latency::Latencies;

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct CommitRun {
    /// Clients.
    pub clients: usize,
    /// Answered commits a second.
    pub commits_per_second: f64,
    /// Median latency.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// Redo for each commit, bytes, headers of batches included.
    pub redo_bytes_per_commit: f64,
    /// Datagrams sent for each commit.
    pub datagrams_per_commit: f64,
}

struct Load {
    database: Database,
    value: Vec<u8>,
    until: Instant,
    latencies: RefCell<Latencies>,
    keys: Cell<u64>,
}

/// Runs `clients` for `time` on the calling thread (a `LocalSet` must be running). Keys are drawn from a million,
/// evenly.
///
/// # Errors
/// When a commit fails: none may.
pub async fn run(
    database: &Database,
    clients: usize,
    value_bytes: usize,
    time: Duration,
) -> Result<CommitRun> {
    let before = database.stats().await?;
    let begun = Instant::now();
    let load = Rc::new(Load {
        database: database.clone(),
        value: vec![0x5a; value_bytes],
        until: begun + time,
        latencies: RefCell::default(),
        keys: Cell::new(0),
    });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let load = Rc::clone(&load);
        tasks.spawn_local(async move { load.client().await });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client failed")??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let after = database.stats().await?;
    let latencies = load.latencies.borrow();
    let commits = latencies.count();
    #[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
    let per_commit = |count: u64| count as f64 / commits.max(1) as f64;
    #[allow(clippy::cast_precision_loss)] // As above.
    Ok(CommitRun {
        clients,
        commits_per_second: commits as f64 / seconds,
        p50_us: latencies.p50_us(),
        p99_us: latencies.p99_us(),
        p999_us: latencies.p999_us(),
        redo_bytes_per_commit: per_commit(after.writer.redo_bytes - before.writer.redo_bytes),
        datagrams_per_commit: per_commit(after.wire.sent_datagrams - before.wire.sent_datagrams),
    })
}

impl Load {
    async fn client(&self) -> Result<()> {
        while Instant::now() < self.until {
            let begun = Instant::now();
            let transaction = self.database.begin().await?;
            transaction.put(self.next_key(), self.value.as_slice())?;
            transaction.commit().await.context("a commit failed")?;
            self.latencies.borrow_mut().record(begun.elapsed());
        }
        Ok(())
    }

    fn next_key(&self) -> Vec<u8> {
        let number = self.keys.get();
        self.keys.set(number + 1);
        // An odd multiplier visits all residues: spread over a million keys without drawing at random.
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        format!("key/{:012}", spread % 1_000_000).into_bytes()
    }
}
