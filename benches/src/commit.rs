//! Commits: each client has one transaction with one put at a time, in a closed or an open loop.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use sixfold::Database;

use crate::draw::{KeyName, scattered};
use crate::pace::{Pace, run as run_paced};

/// Keys that are drawn from.
pub const KEY_COUNT: u64 = 1_000_000;

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct CommitRun {
    /// Clients.
    pub clients: usize,
    /// Commits a second that were due, in an open loop.
    #[serde(rename = "rate", skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<u32>,
    /// Answered commits a second.
    pub commits_per_second: f64,
    /// Median latency; in an open loop from when a commit was due.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// Commits of an open loop that were due and never begun, since all clients waited for others.
    #[serde(skip_serializing_if = "is_zero")]
    pub never_begun: u64,
    /// Redo for each commit, bytes, headers of batches included.
    pub redo_bytes_per_commit: f64,
    /// Datagrams sent for each commit.
    pub datagrams_per_commit: f64,
    /// Shares of the commits, and the latency that each stays within.
    pub distribution_us: Vec<(f64, u64)>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // What serde calls.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A closed loop of `clients` for `time`, over keys from the first one on. See [`at_pace`].
///
/// # Errors
/// Those of [`at_pace`].
pub async fn run(
    database: &Database,
    clients: usize,
    value_bytes: usize,
    time: Duration,
) -> Result<CommitRun> {
    let pace = Pace {
        clients,
        time,
        rate: None,
    };
    at_pace(database, pace, value_bytes, &Rc::default()).await
}

/// Runs the clients on the calling thread (a `LocalSet` must be running). Keys are drawn from a million, evenly; they go on where the
/// run before on this `keys` ended.
///
/// # Errors
/// When a commit fails: none may.
pub async fn at_pace(
    database: &Database,
    pace: Pace,
    value_bytes: usize,
    keys: &Rc<Cell<u64>>,
) -> Result<CommitRun> {
    let before = database.stats().await?;
    let paced = {
        let (database, keys) = (database.clone(), Rc::clone(keys));
        let value: Rc<[u8]> = vec![0x5a; value_bytes].into();
        run_paced(pace, move |_, _| {
            let (database, value) = (database.clone(), Rc::clone(&value));
            let number = keys.replace(keys.get() + 1);
            async move {
                let transaction = database.begin().await?;
                transaction.put(KeyName::of(scattered(number, KEY_COUNT)), &value)?;
                transaction.commit().await.context("a commit failed")?;
                Ok(())
            }
        })
        .await?
    };
    let after = database.stats().await?;
    let commits = paced.latencies.count();
    #[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
    let per_commit = |count: u64| count as f64 / commits.max(1) as f64;
    Ok(CommitRun {
        clients: pace.clients,
        rate_per_second: pace.rate,
        commits_per_second: paced.per_second(),
        p50_us: paced.latencies.p50_us(),
        p99_us: paced.latencies.p99_us(),
        p999_us: paced.latencies.p999_us(),
        never_begun: paced.never_begun,
        redo_bytes_per_commit: per_commit(after.writer.redo_bytes - before.writer.redo_bytes),
        datagrams_per_commit: per_commit(after.wire.sent_datagrams - before.wire.sent_datagrams),
        distribution_us: paced.latencies.distribution(),
    })
}
