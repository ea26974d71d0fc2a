//! `sixfold bench read` and `scan`: reads of what is in memory, on one thread and on two, beside embedded peers.
//!
//! Each system holds the same rows and is read by the same loop; the rounds of the systems alternate, so that what else the machine does
//! hits all of them, and a row is the middle round by CPU time. This engine reads from a snapshot, with its six nodes running.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use sixfold::blocking;
use sixfold_benches::fill;
use sixfold_benches::points::{PointRun, Round, middle};
use sixfold_benches::read::run as measure;

use super::say;
use super::site::on_a_cluster;
use super::versus::System;
use super::versus_program::{Outcome, Reader, VersusProgram};

/// Systems that can be read in process.
const SYSTEMS: [System; 4] = [System::Sixfold, System::Redb, System::Rocksdb, System::Lmdb];
/// How long nodes and background work of all systems rest before the first round.
const REST: Duration = Duration::from_secs(1);

/// Flags of both.
#[derive(Debug, Args)]
struct CommonArgs {
    /// Which systems: sixfold, redb, rocksdb, lmdb. Default: all
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<System>,
    /// Rows
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    value_bytes: u32,
    /// Threads of each run
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Rounds; a row is the one in the middle
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
    rounds: u64,
    /// Length of a round, milliseconds
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    round_ms: u64,
    /// Page cache, MiB; the peers have as much
    #[arg(long, default_value_t = 4_096, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    cache_mib: u64,
    /// The program with the peers. Default: `sixfold-versus` beside this one or in the checkout
    #[arg(long, value_name = "FILE")]
    versus: Option<PathBuf>,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Where to keep all data; must be missing or empty. Default: a temporary directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Flags of `bench read`.
#[derive(Debug, Args)]
pub(super) struct ReadArgs {
    #[command(flatten)]
    common: CommonArgs,
}

/// Flags of `bench scan`.
#[derive(Debug, Args)]
pub(super) struct ScanArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Keys of a scan, for each run
    #[arg(long, value_delimiter = ',', default_value = "100,10000")]
    keys_per_scan: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Row {
    system: &'static str,
    threads: usize,
    keys_per_read: u64,
    #[serde(flatten)]
    run: PointRun,
    settings: String,
}

#[derive(Debug, Serialize)]
struct Skipped {
    system: &'static str,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Report {
    keys: u64,
    value_bytes: u32,
    rows: Vec<Row>,
    skipped: Vec<Skipped>,
}

/// One that has its rows.
enum Loaded {
    Own(blocking::Snapshot),
    Peer(Box<Reader>),
}

/// Measures and prints point reads.
pub(super) fn run(args: &ReadArgs) -> Result<()> {
    report(&args.common, &[1])
}

/// Measures and prints scans.
pub(super) fn run_scan(args: &ScanArgs) -> Result<()> {
    ensure!(
        args.keys_per_scan.iter().all(|&keys| keys > 1),
        "--keys-per-scan must be at least 2"
    );
    report(&args.common, &args.keys_per_scan)
}

fn report(args: &CommonArgs, keys_per_read: &[u64]) -> Result<()> {
    ensure!(!args.threads.contains(&0), "--threads must be at least 1");
    if let Some(keys) = keys_per_read.iter().find(|keys| **keys > args.keys) {
        bail!("{keys} keys in a read, but only {} rows", args.keys);
    }
    for system in &args.systems {
        ensure!(
            SYSTEMS.contains(system),
            "{} cannot be read in process",
            system.name()
        );
    }
    if let Some(named) = &args.versus {
        VersusProgram::find(Some(named))?;
    }
    let report = rows(args, keys_per_read)?;
    print(&report)?;
    if args.json {
        say!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

fn rows(args: &CommonArgs, keys_per_read: &[u64]) -> Result<Report> {
    let systems: &[System] = if args.systems.is_empty() {
        &SYSTEMS
    } else {
        &args.systems
    };
    let mut report = Report {
        keys: args.keys,
        value_bytes: args.value_bytes,
        rows: Vec::new(),
        skipped: Vec::new(),
    };
    on_a_cluster(args.dir.as_deref(), &[], async |site| {
        let database = site.create_volume(args.cache_mib).await?;
        let mut loaded: Vec<(System, Loaded)> = Vec::new();
        for &system in systems {
            say(&format!("{} loads {} rows", system.name(), args.keys));
            if system == System::Sixfold {
                fill::rows(&database, args.keys, usize::try_from(args.value_bytes)?).await?;
                let own = blocking::Database::from(database.clone());
                loaded.push((system, Loaded::Own(own.snapshot())));
                continue;
            }
            match peer(args, system, site.root()).await? {
                Outcome::Row(reader) => loaded.push((system, Loaded::Peer(Box::new(reader)))),
                Outcome::Skipped(reason) => report.skipped.push(Skipped {
                    system: system.name(),
                    reason,
                }),
            }
        }
        tokio::time::sleep(REST).await;
        for &keys_per_read in keys_per_read {
            for &threads in &args.threads {
                say(&format!("{threads} threads, {keys_per_read} keys a read"));
                let rows = alternate(args, &mut loaded, threads, keys_per_read).await?;
                report.rows.extend(rows);
            }
        }
        for (_, loaded) in loaded {
            if let Loaded::Peer(reader) = loaded {
                reader.finish().await?;
            }
        }
        database.close().await;
        Ok(())
    })?;
    Ok(report)
}

async fn peer(
    args: &CommonArgs,
    system: System,
    root: &std::path::Path,
) -> Result<Outcome<Reader>> {
    let program = match VersusProgram::find(args.versus.as_deref()) {
        Ok(program) => program,
        Err(error) => return Ok(Outcome::Skipped(error.to_string())),
    };
    let dir = root.join(system.name());
    std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    program
        .reader(
            system.name(),
            args.keys,
            args.value_bytes,
            args.cache_mib,
            &dir,
        )
        .await
}

/// The rounds of all systems, one after the other and again; the middle one of each.
async fn alternate(
    args: &CommonArgs,
    loaded: &mut [(System, Loaded)],
    threads: usize,
    keys_per_read: u64,
) -> Result<Vec<Row>> {
    let mut runs: Vec<Vec<PointRun>> = loaded.iter().map(|_| Vec::new()).collect();
    // Round 0 warms up.
    for seed in 0..=args.rounds {
        for (index, (_, loaded)) in loaded.iter_mut().enumerate() {
            let round = Round {
                threads,
                keys_per_read,
                time_ms: args.round_ms,
                seed,
            };
            let run = match loaded {
                Loaded::Own(snapshot) => own_round(args, snapshot.clone(), round).await?,
                Loaded::Peer(reader) => reader.round(round).await?,
            };
            if seed > 0 {
                runs[index].push(run);
            }
        }
    }
    loaded
        .iter()
        .zip(runs)
        .map(|((system, loaded), runs)| {
            Ok(Row {
                system: system.name(),
                threads,
                keys_per_read,
                run: middle(runs)?,
                settings: match loaded {
                    Loaded::Own(_) => format!(
                        "{}: one snapshot, page cache {} MiB, values as counted slices of pages, six nodes running beside",
                        env!("CARGO_PKG_VERSION"),
                        args.cache_mib
                    ),
                    Loaded::Peer(reader) => reader.settings().to_owned(),
                },
            })
        })
        .collect()
}

/// On threads of its own: blocking calls have no place on a runtime's thread.
async fn own_round(
    args: &CommonArgs,
    snapshot: blocking::Snapshot,
    round: Round,
) -> Result<PointRun> {
    let (keys, value_bytes) = (args.keys, usize::try_from(args.value_bytes)?);
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Nobody is told when the verb was interrupted meanwhile.
        let _ = tell.send(measure(&snapshot, round, keys, value_bytes));
    });
    told.await.context("a reading thread panicked")?
}

fn print(report: &Report) -> Result<()> {
    say!(
        "{:<9} {:>7} {:>9} {:>12} {:>12} {:>9} {:>9} {:>12}   settings",
        "system",
        "threads",
        "keys/read",
        "reads/s",
        "keys/s",
        "p50 us",
        "p99 us",
        "cpu us/read"
    );
    for row in &report.rows {
        say!(
            "{:<9} {:>7} {:>9} {:>12.0} {:>12.0} {:>9.2} {:>9.2} {:>12.3}   {}",
            row.system,
            row.threads,
            row.keys_per_read,
            row.run.reads_per_second,
            row.run.keys_per_second,
            row.run.p50_us,
            row.run.p99_us,
            row.run.cpu_us_per_read,
            row.settings
        );
    }
    for skipped in &report.skipped {
        say!("{:<9} skipped: {}", skipped.system, skipped.reason);
    }
    Ok(())
}
