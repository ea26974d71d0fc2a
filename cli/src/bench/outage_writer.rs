//! A writer process of `bench outage`: opens the volume and runs its clients.
//!
//! It says `opened`. Standard input says which phase begins (`phase NAME`) or asks for numbers (`report`, answered by `report JSON`); its
//! end ends the clients and the process.

use std::io::BufRead;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use sixfold::{Cluster, Database, Options};
use sixfold_benches::history::event::now_ns;
use sixfold_benches::outage::{Load, Phase, set_up};
use tokio::sync::mpsc;

use super::reopen_writer::say;
use crate::cluster_dir::LOOPBACK_MTU_BYTES;

/// Deadlines of commits and reads: short, so that what an outage stops is refused within it.
const DEADLINE: Duration = Duration::from_secs(1);
/// Smaller than what the clients read: most reads go to the nodes.
const CACHE_BYTES: usize = 512 << 10;

/// Flags of the process.
#[derive(Debug, Args)]
pub(super) struct OutageWriterArgs {
    /// The cluster file
    #[arg(long)]
    cluster: PathBuf,
    #[arg(long)]
    clients: usize,
    #[arg(long)]
    readers: usize,
    /// Create the volume and write the first rows; otherwise take it over
    #[arg(long)]
    create: bool,
    /// The phase that it begins in
    #[arg(long, default_value = "warm-up")]
    phase: String,
    /// When the writer before was killed, nanoseconds of CLOCK_BOOTTIME: its clients wait since then
    #[arg(long)]
    killed_ns: Option<u64>,
}

/// Runs the process.
pub(super) fn run(args: &OutageWriterArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work(args))
}

async fn work(args: &OutageWriterArgs) -> Result<()> {
    let mut told = lines_of_stdin();
    let cluster = Cluster::load(&args.cluster)?;
    let options = Options::new(cluster)
        .mtu_bytes(LOOPBACK_MTU_BYTES)
        .cache_bytes(CACHE_BYTES)
        .commit_deadline(DEADLINE)
        .read_deadline(DEADLINE);
    let database = if args.create {
        let database = Database::create(options).await?;
        set_up(&database).await?;
        database
    } else {
        Database::take_over(options).await?
    };
    let load = Load::new(database.clone(), Phase::parse(&args.phase)?);
    let waited = args
        .killed_ns
        .map(|killed_ns| Duration::from_nanos(now_ns().saturating_sub(killed_ns)));
    let mut tasks = load.start(args.clients, args.readers, waited.unwrap_or_default());
    say("opened", &())?;
    loop {
        tokio::select! {
            line = told.recv() => match line.as_deref() {
                Some("report") => say("report", &load.counts())?,
                Some(line) => {
                    let name = line.strip_prefix("phase ").context("told something else")?;
                    load.set_phase(Phase::parse(name)?);
                }
                None => break,
            },
            ended = tasks.join_next() => {
                ended.context("no client runs")?.context("a client failed")??;
            }
        }
    }
    load.stop();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client failed")??;
    }
    database.close().await;
    Ok(())
}

/// What standard input says; the channel ends with it. A thread, since reading blocks.
pub(super) fn lines_of_stdin() -> mpsc::Receiver<String> {
    let (sender, told) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    told
}
