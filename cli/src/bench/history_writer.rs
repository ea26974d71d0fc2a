//! A writer process of `bench history`: opens the volume, runs its clients, says each event on standard output.
//!
//! It first says `opened`, then an event a line. Standard input ends: its clients stop, and it ends. Said `last` before that, it reads
//! everything once more when they have stopped.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use rustix::process::Signal;
use sixfold::{Cluster, Database, Options};
use sixfold_benches::history::clients::{Clients, Settings};
use sixfold_benches::history::event::{Event, Planted, Workload};
use tokio::sync::oneshot;

use crate::cluster_dir::LOOPBACK_MTU_BYTES;

/// Flags of the process.
#[derive(Debug, Args)]
pub(super) struct HistoryWriterArgs {
    /// The cluster file
    #[arg(long)]
    cluster: PathBuf,
    #[arg(long)]
    workload: Workload,
    #[arg(long)]
    planted: Planted,
    /// Number of the first client: those of another process are never used again
    #[arg(long)]
    first_client: u32,
    #[arg(long)]
    clients: u32,
    /// When the run began, nanoseconds of CLOCK_BOOTTIME
    #[arg(long)]
    begun_ns: u64,
    /// Create the volume; otherwise take it over
    #[arg(long)]
    create: bool,
}

/// Runs the process.
pub(super) fn run(args: &HistoryWriterArgs) -> Result<()> {
    // The end of standard input tells a process that runs. One that is stopped when its parent is killed would stay for ever.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot ask to end with the parent")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, work(args))
}

async fn work(args: &HistoryWriterArgs) -> Result<()> {
    let mut told = told_by_stdin();
    let cluster = Cluster::load(&args.cluster)?;
    let options = Options::new(cluster).mtu_bytes(LOOPBACK_MTU_BYTES);
    let database = if args.create {
        Database::create(options).await?
    } else {
        Database::take_over(options).await?
    };
    say("opened")?;
    let settings = Settings {
        workload: args.workload,
        planted: args.planted,
        clients: args.first_client..args.first_client + args.clients,
        begun_ns: args.begun_ns,
        run: 0,
    };
    let clients = Clients::new(database.clone(), settings, Box::new(say_event));
    let mut tasks = clients.start();
    let reads_at_the_end = loop {
        tokio::select! {
            told = &mut told => break told.unwrap_or(false),
            ended = tasks.join_next() => {
                ended.context("no client runs")?.context("a client failed")??;
            }
        }
    };
    clients.stop();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client failed")??;
    }
    if reads_at_the_end {
        clients.read_all().await?;
    }
    database.close().await;
    Ok(())
}

fn say_event(event: &Event) -> Result<()> {
    say(&serde_json::to_string(event)?)
}

/// The line is in the pipe when this returns: a kill takes nothing of it back.
fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .context("nobody reads the history")
}

/// Resolves when standard input ends: true when it said `last`. A thread, since reading blocks.
fn told_by_stdin() -> oneshot::Receiver<bool> {
    let (sender, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut last = false;
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            last |= line == "last";
        }
        // Nobody waits when the process ends by itself.
        let _ = sender.send(last);
    });
    told
}
