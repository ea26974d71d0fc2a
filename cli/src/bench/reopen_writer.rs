//! A writer process of `bench reopen`: fills a new volume or takes one over, then commits until it is killed.
//!
//! It says `filled JSON` or `opened JSON`, once. It ends by itself only when standard input does.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use sixfold::{Cluster, Database, Options};
use sixfold_benches::reopen;

use crate::child::stop_signal;
use crate::cluster_dir::LOOPBACK_MTU_BYTES;
use crate::demo::writer::OpenedReport;

/// Clients that commit when the process is killed.
const CLIENTS: usize = 8;
/// Keys that one process may write.
const KEYS_PER_PROCESS: u64 = 1_000_000_000;
/// No commit of a load may fail for a busy machine.
const COMMIT_DEADLINE: Duration = Duration::from_secs(60);

/// Flags of the process.
#[derive(Debug, Args)]
pub(super) struct ReopenWriterArgs {
    /// The cluster file
    #[arg(long)]
    cluster: PathBuf,
    /// Create the volume and write this much redo, bytes; otherwise take it over
    #[arg(long)]
    fill_bytes: Option<u64>,
    /// Which process this is: keys of another one are never written again
    #[arg(long)]
    number: u64,
}

/// Runs the process.
pub(super) fn run(args: &ReopenWriterArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work(args))
}

async fn work(args: &ReopenWriterArgs) -> Result<()> {
    let cluster = Cluster::load(&args.cluster)?;
    let options = Options::new(cluster)
        .mtu_bytes(LOOPBACK_MTU_BYTES)
        .commit_deadline(COMMIT_DEADLINE);
    let first_key = args.number * KEYS_PER_PROCESS;
    let database = match args.fill_bytes {
        Some(bytes) => {
            let database = Database::create(options).await?;
            say("filled", &reopen::fill(&database, bytes).await?)?;
            database
        }
        None => {
            let begun = Instant::now();
            let database = Database::take_over(options).await?;
            reopen::commit_one(&database, first_key).await?;
            let report = database.open_report();
            let opened = OpenedReport {
                volume_epoch: report.volume_epoch.get(),
                lease_wait_ms: millis(report.lease_wait),
                open_ms: millis(report.open),
                first_commit_ms: millis(begun.elapsed().saturating_sub(report.lease_wait)),
            };
            say("opened", &opened)?;
            database
        }
    };
    reopen::commit_until(&database, CLIENTS, first_key + 1, stop_signal(true)).await?;
    database.close().await;
    Ok(())
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// A line for the parent: what it is, and it as JSON.
pub(super) fn say(what: &str, report: &impl Serialize) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{what} {}", serde_json::to_string(report)?)
        .and_then(|()| output.flush())
        .context("nobody reads what the writer says")
}
