//! The load before a reopening: redo that no storage node has put into a layer. `sixfold bench reopen` kills the writer on top of it.
//!
//! Rows of a fixed set are written again and again. Fresh rows would do less: each leaf that they need is counted on the
//! volume's first page, and a node freezes what has one page with too long a chain, whatever its bound on redo.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sixfold::Database;

use crate::latency::Latencies;

/// Rows: few enough that the volume's first page has a short chain, enough that each row's page has one, too.
const ROW_COUNT: u64 = 4_000;
/// Length of a row's value, bytes: just below what moves out of its leaf.
const VALUE_BYTES: usize = 1_000;
/// Rows in a transaction.
const ROWS_PER_COMMIT: u64 = 48;
/// Transactions side by side.
const LOADERS: u64 = 4;
/// How long nodes that lag may take to hold what the others hold.
const LAG_LIMIT: Duration = Duration::from_secs(60);

/// What was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Filled {
    /// Redo that no layer holds, bytes: at the node that holds least of it.
    pub unfolded_bytes: u64,
    /// Redo sealed, each batch counted once, bytes.
    pub redo_bytes: u64,
}

/// Writes until every node holds at least this much redo that no layer holds. A `LocalSet` must be running.
///
/// # Errors
/// When a commit fails, or when nodes put redo into layers: their bounds are too small.
pub async fn fill(database: &Database, unfolded_bytes: u64) -> Result<Filled> {
    let load = Rc::new(Filler {
        database: database.clone(),
        next: Cell::new(0),
        user_bytes_left: Cell::new(0),
    });
    loop {
        let found = least_unfolded_bytes(database).await?;
        let redo_bytes = database.stats().await?.writer.redo_bytes;
        if found >= unfolded_bytes {
            return Ok(Filled {
                unfolded_bytes: found,
                redo_bytes,
            });
        }
        ensure!(
            redo_bytes < unfolded_bytes.saturating_mul(2).max(16 << 20),
            "the nodes hold only {found} bytes of redo outside of layers after {redo_bytes} were written"
        );
        load.user_bytes_left.set(unfolded_bytes - found);
        let mut loaders = tokio::task::JoinSet::new();
        for _ in 0..LOADERS {
            let load = Rc::clone(&load);
            loaders.spawn_local(async move { load.run().await });
        }
        while let Some(ended) = loaders.join_next().await {
            ended.context("a loader failed")??;
        }
        until_level(database).await?;
    }
}

struct Filler {
    database: Database,
    next: Cell<u64>,
    user_bytes_left: Cell<u64>,
}

impl Filler {
    async fn run(&self) -> Result<()> {
        loop {
            let left = self.user_bytes_left.get();
            if left == 0 {
                return Ok(());
            }
            self.user_bytes_left
                .set(left.saturating_sub(ROWS_PER_COMMIT * VALUE_BYTES as u64));
            let transaction = self.database.begin().await?;
            for _ in 0..ROWS_PER_COMMIT {
                let number = self.next.get();
                self.next.set(number + 1);
                // An odd multiplier visits every row before any comes again.
                let row = number.wrapping_mul(7_919) % ROW_COUNT;
                let mut value = vec![0x5a; VALUE_BYTES];
                value[..8].copy_from_slice(&number.to_le_bytes());
                transaction.put(row_key(row), value)?;
            }
            transaction.commit().await.context("a commit failed")?;
        }
    }
}

fn row_key(row: u64) -> Vec<u8> {
    format!("row/{row:08}").into_bytes()
}

/// Redo that no layer holds, at the node that holds least of it; 0 while one is silent. Spare nodes do not count.
async fn least_unfolded_bytes(database: &Database) -> Result<u64> {
    let status = database.status().await?;
    let of_node = |node: &Option<_>| {
        let node: &sixfold_log_format::wire::NodeStatus = node.as_ref()?;
        let ours = node.segments.iter();
        let ours = ours.filter(|segment| segment.volume == status.volume);
        Some(ours.map(|segment| segment.unfolded_bytes).collect())
    };
    let each = status.nodes.iter().map(|(_, node)| of_node(node));
    let each = each.flat_map(|node: Option<Vec<u64>>| node.unwrap_or_else(|| vec![0]));
    Ok(each.min().unwrap_or(0))
}

/// Waits until every segment holds what the highest one holds: those beyond the fourth may lag.
async fn until_level(database: &Database) -> Result<()> {
    let until = Instant::now() + LAG_LIMIT;
    loop {
        let status = database.status().await?;
        let nodes = status.nodes.iter().filter_map(|(_, node)| node.as_ref());
        let segments = nodes.flat_map(|node| &node.segments);
        let scls = segments.filter(|segment| segment.volume == status.volume);
        let scls: Vec<_> = scls.map(|segment| (segment.pg, segment.scl)).collect();
        let level = scls.iter().all(|(pg, scl)| {
            let highest = scls.iter().filter(|other| other.0 == *pg);
            highest.map(|other| other.1).max() == Some(*scl)
        });
        if level && status.nodes.iter().all(|(_, node)| node.is_some()) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "a node does not catch up");
        // Only how soon it is noticed depends on this.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One commit: what a reopening is measured to.
///
/// # Errors
/// Those of the commit.
pub async fn commit_one(database: &Database, number: u64) -> Result<()> {
    let transaction = database.begin().await?;
    transaction.put(format!("after/{number:012}"), number.to_le_bytes())?;
    transaction.commit().await.context("a commit failed")?;
    Ok(())
}

/// Clients that commit one small put each until `stop` resolves, so that the writer dies in the middle of work. Keys begin at
/// `first`.
///
/// # Errors
/// When a commit fails.
pub async fn commit_until(
    database: &Database,
    clients: usize,
    first: u64,
    stop: impl Future<Output = ()>,
) -> Result<u64> {
    let (number, stopping) = (Rc::new(Cell::new(first)), Rc::new(Cell::new(false)));
    let latencies = Rc::new(RefCell::new(Latencies::default()));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (database, number) = (database.clone(), Rc::clone(&number));
        let (stopping, latencies) = (Rc::clone(&stopping), Rc::clone(&latencies));
        tasks.spawn_local(async move {
            while !stopping.get() {
                let mine = number.get();
                number.set(mine + 1);
                let begun = Instant::now();
                commit_one(&database, mine).await?;
                latencies.borrow_mut().record(begun.elapsed());
            }
            anyhow::Ok(())
        });
    }
    tokio::select! {
        () = stop => stopping.set(true),
        ended = tasks.join_next() => {
            ended.context("no client runs")?.context("a client failed")??;
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client failed")??;
    }
    Ok(latencies.borrow().count())
}

/// The one in the middle; 0 of none.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn the_load_visits_every_row_before_any_comes_again() {
        let mut rows: Vec<u64> = (0..ROW_COUNT)
            .map(|number: u64| number.wrapping_mul(7_919) % ROW_COUNT)
            .collect();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len() as u64, ROW_COUNT);
    }
}
