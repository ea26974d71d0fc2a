//! The writer process of the demo: opens the volume, loads it from many clients, and records every answered commit.
//!
//! Standard input says which phase begins (`phase NAME`); its end means: stop and close. Standard output says `opened JSON`,
//! `loaded`, and `stats JSON` four times a second.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use sixfold::{Database, Error, Options};
use sixfold_log_format::Lsn;

use super::record::{Kind, Phase, Recorder, WorkId};
use super::work;
use crate::cluster_dir::LOOPBACK_MTU_BYTES;
use crate::observe::collect::Slot;
use crate::observe::{ServeArgs, Source};

/// How often numbers are said.
const STATS_INTERVAL: Duration = Duration::from_millis(250);
/// Chunks of rows that are loaded side by side.
const LOADERS: u64 = 4;

/// Flags of the writer process.
#[derive(Debug, Args)]
pub(crate) struct DemoWriterArgs {
    /// The cluster file
    #[arg(long)]
    cluster: PathBuf,
    /// The record of answered commits
    #[arg(long)]
    record: PathBuf,
    /// Clients
    #[arg(long)]
    clients: u32,
    /// Number of the first client: those of another process are never used again
    #[arg(long, default_value_t = 0)]
    first_client: u32,
    /// Create the volume and load this many chunks of rows; otherwise take it over
    #[arg(long)]
    create_chunks: Option<u64>,
    #[command(flatten)]
    serve: ServeArgs,
}

/// What the process says of its opening.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OpenedReport {
    /// The volume epoch that it holds.
    pub(crate) volume_epoch: u64,
    /// The wait for the old writer's read lease.
    pub(crate) lease_wait_ms: f64,
    /// From the call of `take_over` to its end, without that wait.
    pub(crate) open_ms: f64,
    /// From the call of `take_over` to the first answered commit, without that wait.
    pub(crate) first_commit_ms: f64,
}

/// What the process says of its work.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct WriterReport {
    /// Commits answered.
    pub(crate) answered: u64,
    /// Commits that ended otherwise.
    pub(crate) failed: u64,
    /// Conflicts, which clients repeat.
    pub(crate) conflicts: u64,
    /// Keys and values of answered commits.
    pub(crate) user_bytes: u64,
    /// Redo sealed, each batch counted once.
    pub(crate) redo_bytes: u64,
    /// IP bytes sent and received by this process.
    pub(crate) wire_bytes: u64,
}

struct Load {
    database: Database,
    phase: Cell<Phase>,
    stopping: Cell<bool>,
    recorder: RefCell<Recorder>,
    answered: Cell<u64>,
    failed: Cell<u64>,
}

/// Runs the process.
pub(crate) fn run(args: &DemoWriterArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, work(args))
}

async fn work(args: &DemoWriterArgs) -> Result<()> {
    let options = Options::from_cluster_file(&args.cluster)?.mtu_bytes(LOOPBACK_MTU_BYTES);
    let cluster = options.cluster().clone();
    let begun = Instant::now();
    let database = match args.create_chunks {
        Some(_) => Database::create(options).await?,
        None => Database::take_over(options).await?,
    };
    let source = Source::Writer {
        slot: Slot::holding(&database),
        cluster,
    };
    let _served = args.serve.serve("writer", source)?;
    let load = Rc::new(Load {
        database,
        phase: Cell::new(if args.create_chunks.is_some() {
            Phase::Setup
        } else {
            Phase::After
        }),
        stopping: Cell::new(false),
        recorder: RefCell::new(Recorder::open(&args.record)?),
        answered: Cell::new(0),
        failed: Cell::new(0),
    });
    // The first commit of a reopened volume is what the reopening is measured by.
    let first = WorkId {
        kind: Kind::Put,
        client: args.first_client + args.clients,
        number: 0,
    };
    load.run_one(first).await?;
    let report = load.database.open_report();
    let opened = OpenedReport {
        volume_epoch: report.volume_epoch.get(),
        lease_wait_ms: millis(report.lease_wait),
        open_ms: millis(report.open),
        first_commit_ms: millis(begun.elapsed().saturating_sub(report.lease_wait)),
    };
    say("opened", &serde_json::to_string(&opened)?)?;
    if let Some(chunks) = args.create_chunks {
        load.set_up(chunks).await?;
        say("loaded", "")?;
    }
    let mut phases = phases_from_stdin();
    let mut clients = tokio::task::JoinSet::new();
    for client in args.first_client..args.first_client + args.clients {
        let load = Rc::clone(&load);
        clients.spawn_local(async move { load.client(client).await });
    }
    let mut tick = tokio::time::interval(STATS_INTERVAL);
    loop {
        tokio::select! {
            phase = phases.recv() => match phase {
                Some(phase) => load.phase.set(phase),
                None => break,
            },
            ended = clients.join_next() => {
                ended.context("no client runs")?.context("a client failed")??;
            }
            _ = tick.tick() => load.say_stats().await?,
        }
    }
    load.stopping.set(true);
    // A parent that was killed reads nothing any more, and took the nodes with it: no commit is waited for then.
    load.say_stats().await?;
    while let Some(ended) = clients.join_next().await {
        ended.context("a client failed")??;
    }
    load.say_stats().await?;
    load.database.close().await;
    Ok(())
}

impl Load {
    /// Accounts, then rows from a few loaders side by side.
    async fn set_up(self: &Rc<Self>, chunks: u64) -> Result<()> {
        self.run_one(WorkId {
            kind: Kind::Accounts,
            client: 0,
            number: 0,
        })
        .await?;
        let mut loaders = tokio::task::JoinSet::new();
        for loader in 0..LOADERS {
            let load = Rc::clone(self);
            loaders.spawn_local(async move {
                for number in (loader..chunks).step_by(usize::try_from(LOADERS).expect("few")) {
                    load.run_one(WorkId {
                        kind: Kind::Rows,
                        client: 0,
                        number,
                    })
                    .await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = loaders.join_next().await {
            ended.context("a loader failed")??;
        }
        Ok(())
    }

    /// One client, until the process stops.
    async fn client(&self, client: u32) -> Result<()> {
        for number in 0.. {
            if self.stopping.get() {
                break;
            }
            self.run_one(WorkId {
                kind: work::kind_of(client, number),
                client,
                number,
            })
            .await?;
        }
        Ok(())
    }

    /// One piece of work, repeated while it conflicts, and its line in the record.
    async fn run_one(&self, work: WorkId) -> Result<()> {
        let phase = self.phase.get();
        let outcome = loop {
            match self.attempt(work).await {
                Err(Error::Conflict { .. }) => {}
                outcome => break outcome,
            }
        };
        match outcome {
            Ok((lsn, latency_us)) => {
                self.recorder
                    .borrow_mut()
                    .answered(phase, work, lsn, latency_us)?;
                self.answered.set(self.answered.get() + 1);
            }
            Err(error) => {
                let unknown = matches!(error, Error::Unknown { .. });
                self.recorder
                    .borrow_mut()
                    .failed(phase, work, unknown, &error.to_string())?;
                self.failed.set(self.failed.get() + 1);
                // A refusal comes at once; without a pause the clients would only fill the record with it.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    async fn attempt(&self, work: WorkId) -> Result<(Lsn, u64), Error> {
        let transaction = self.database.begin().await?;
        match work.kind {
            Kind::Accounts => {
                for account in 0..work::ACCOUNT_COUNT {
                    transaction.put(
                        work::account_key(account),
                        work::ACCOUNT_START.to_le_bytes(),
                    )?;
                }
            }
            Kind::Rows => {
                for row in 0..work::ROWS_PER_CHUNK {
                    transaction.put(
                        work::row_key(work.number, row),
                        work::row_value(work.number, row),
                    )?;
                }
            }
            Kind::Put => transaction.put(work::mark_key(work), work::mark_value(work))?,
            Kind::Transfer => {
                let transfer = work::transfer(work);
                for (account, change) in [
                    (transfer.from, -transfer.amount),
                    (transfer.to, transfer.amount),
                ] {
                    let key = work::account_key(account);
                    let value = transaction.get(&key).await?;
                    // An account that is missing or malformed shows as a wrong sum at the end.
                    let balance = value.as_deref().and_then(work::balance).unwrap_or(0);
                    transaction.put(key, (balance + change).to_le_bytes())?;
                }
                transaction.put(work::mark_key(work), work::mark_value(work))?;
            }
        }
        let begun = Instant::now();
        let committed = transaction.commit().await?;
        let latency_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok((committed.lsn, latency_us))
    }

    async fn say_stats(&self) -> Result<()> {
        let stats = self.database.stats().await?;
        let report = WriterReport {
            answered: self.answered.get(),
            failed: self.failed.get(),
            conflicts: stats.writer.conflicts,
            user_bytes: stats.writer.user_bytes,
            redo_bytes: stats.writer.redo_bytes,
            wire_bytes: stats.ip_bytes(),
        };
        say("stats", &serde_json::to_string(&report)?)
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn say(what: &str, text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{what} {text}")
        .and_then(|()| output.flush())
        .context("nobody reads what the writer says")
}

/// The phases that standard input names; the channel ends with it. A thread, since reading blocks.
fn phases_from_stdin() -> tokio::sync::mpsc::Receiver<Phase> {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let phase = line
                .strip_prefix("phase ")
                .and_then(|name| Phase::parse(name).ok());
            if let Some(phase) = phase
                && sender.blocking_send(phase).is_err()
            {
                break;
            }
        }
    });
    receiver
}
