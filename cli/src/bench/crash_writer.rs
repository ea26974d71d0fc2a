//! A writer or standby process of `bench crash`: has the volume, runs its clients, says what comes of each commit.
//!
//! | it says | when |
//! |---|---|
//! | `following` | a standby watches the writer |
//! | `opened` | it has the volume, and clients begin |
//! | `A`, `U`, `F` ... | a commit has ended (`sixfold_benches::crash::work`) |
//! | `{...}` | an event of the history |
//!
//! Standard input: `pause`, `go`; its end ends the clients and the process.

use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use rustix::process::Signal;
use sixfold::{Cluster, Database, Error, Options, StandbyOptions};
use sixfold_benches::crash::load::Load;
use sixfold_benches::history::clients::{Clients, Settings};
use sixfold_benches::history::event::{Planted, Workload};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::outage_writer::lines_of_stdin;
use crate::cluster_dir::LOOPBACK_MTU_BYTES;

/// Deadlines of commits and reads: what an outage stops ends within it.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a writer tries to open.
const OPEN_DEADLINE: Duration = Duration::from_secs(60);
/// Small: most reads go to the nodes.
const CACHE_BYTES: usize = 1 << 20;
/// How soon a standby takes over, and how often it looks.
const PATIENCE: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(50);

/// Flags of the process.
#[derive(Debug, Args)]
pub(super) struct CrashWriterArgs {
    /// The cluster file
    #[arg(long)]
    cluster: PathBuf,
    /// The cycle: keys are its own
    #[arg(long)]
    cycle: u32,
    /// Number of the first client: those of another process are never used again
    #[arg(long)]
    first_client: u32,
    /// Clients that commit rows
    #[arg(long)]
    clients: u32,
    /// Clients of the history, numbered behind them
    #[arg(long)]
    history_clients: u32,
    /// When the cycle began, nanoseconds of CLOCK_BOOTTIME
    #[arg(long)]
    begun_ns: u64,
    /// Create the volume
    #[arg(long)]
    create: bool,
    /// Take the volume over again when another one takes it meanwhile: an operator's verb that found no writer
    #[arg(long)]
    insist: bool,
    /// Follow the writer, and take over when it is gone
    #[arg(long)]
    standby: bool,
}

/// Options of whoever opens the volume.
pub(super) fn options(cluster: Cluster) -> Options {
    Options::new(cluster)
        .mtu_bytes(LOOPBACK_MTU_BYTES)
        .cache_bytes(CACHE_BYTES)
        .commit_deadline(DEADLINE)
        .read_deadline(DEADLINE)
        .open_deadline(OPEN_DEADLINE)
        // Operators' verbs move segments here, at the time that a case names.
        .repair_after(None)
}

/// Runs the process.
pub(super) fn run(args: &CrashWriterArgs) -> Result<()> {
    // The end of standard input tells a process that runs. One that is stopped when its parent is killed would stay for ever.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot ask to end with the parent")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work(args))
}

async fn work(args: &CrashWriterArgs) -> Result<()> {
    let mut told = lines_of_stdin();
    let Some(database) = open(args, &mut told).await? else {
        return Ok(());
    };
    say("opened")?;
    let load = Load::new(
        database.clone(),
        args.cycle,
        Box::new(|said| say(&said.line())),
    );
    let first_of_history = args.first_client + args.clients;
    let settings = Settings {
        workload: Workload::ListAppend,
        planted: Planted::Nothing,
        clients: first_of_history..first_of_history + args.history_clients,
        begun_ns: args.begun_ns,
        run: args.cycle,
    };
    let say_event = |event: &_| say(&serde_json::to_string(event)?);
    let history = Clients::new(database.clone(), settings, Box::new(say_event));
    let mut tasks = JoinSet::new();
    for mut clients in [
        load.start(args.first_client..first_of_history),
        history.start(),
    ] {
        tasks.spawn_local(async move {
            while let Some(ended) = clients.join_next().await {
                ended.context("a client failed")??;
            }
            anyhow::Ok(())
        });
    }
    loop {
        tokio::select! {
            line = told.recv() => match line.as_deref() {
                Some("pause") => pause(&load, &history, true),
                Some("go") => pause(&load, &history, false),
                Some(_) => {}
                None => break,
            },
            // Those of a fenced writer end by themselves.
            Some(ended) = tasks.join_next() => ended.context("a client failed")??,
        }
    }
    load.stop();
    history.stop();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client failed")??;
    }
    database.close().await;
    Ok(())
}

fn pause(load: &Rc<Load>, history: &Rc<Clients>, paused: bool) {
    load.pause(paused);
    history.pause(paused);
}

/// Opens the volume, or waits for its time to come; none when it is told to end before that.
async fn open(
    args: &CrashWriterArgs,
    told: &mut mpsc::Receiver<String>,
) -> Result<Option<Database>> {
    let options = options(Cluster::load(&args.cluster)?);
    if args.create {
        return Ok(Some(Database::create(options).await?));
    }
    if !args.standby {
        let until = Instant::now() + OPEN_DEADLINE;
        loop {
            match Database::take_over(options.clone()).await {
                // All nodes may go in the middle of it.
                Err(error)
                    if Instant::now() < until
                        && (error.is_retryable()
                            || args.insist && matches!(error, Error::Fenced { .. })) =>
                {
                    tokio::time::sleep(POLL).await;
                }
                opened => return Ok(Some(opened?)),
            }
        }
    }
    let watch = StandbyOptions::new().patience(PATIENCE).poll(POLL);
    let mut standby = Database::standby(options, watch);
    say("following")?;
    loop {
        tokio::select! {
            opened = standby.opened() => return Ok(Some(opened?.0)),
            line = told.recv() => if line.is_none() {
                return Ok(None);
            },
        }
    }
}

/// The line is in the pipe when this returns: a kill takes nothing of it back.
fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .context("nobody reads what the writer says")
}
