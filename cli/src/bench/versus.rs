//! `sixfold bench versus`: one load on this engine and on its peers, one after the other, each durable, nothing tuned.

use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};
use sixfold_benches::pace::Pace;

use super::say;
use super::site::{Site, on_a_cluster};
use super::versus_program::{Outcome, VersusProgram};

/// Page cache of this engine, MiB: its default.
const CACHE_MIB: u64 = 256;

/// A system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum System {
    /// This engine: six nodes, answered by the fourth
    Sixfold,
    /// etcd, three members
    #[value(name = "etcd-3")]
    Etcd3,
    /// etcd, five members
    #[value(name = "etcd-5")]
    Etcd5,
    /// PostgreSQL with six standbys, answered by any four
    #[value(name = "postgresql-4of6")]
    Postgresql,
    /// Redis, one copy, appendfsync always
    Redis,
    /// redb, embedded, one copy
    Redb,
    /// RocksDB, embedded, one copy
    Rocksdb,
    /// LMDB, embedded, one copy
    Lmdb,
}

impl System {
    /// Its name in figures.
    pub(super) fn name(self) -> &'static str {
        match self {
            System::Sixfold => "sixfold",
            System::Etcd3 => "etcd-3",
            System::Etcd5 => "etcd-5",
            System::Postgresql => "postgresql-4of6",
            System::Redis => "redis",
            System::Redb => "redb",
            System::Rocksdb => "rocksdb",
            System::Lmdb => "lmdb",
        }
    }
}

/// Flags of `bench versus`.
#[derive(Debug, Args)]
pub(super) struct VersusArgs {
    /// Which systems, one after the other. Default: all
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<System>,
    /// Clients in a closed loop
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    clients: u16,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    value_bytes: u32,
    /// Length of each run, seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// The same load before each run, not counted, seconds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=3600))]
    warm_up_seconds: u64,
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

#[derive(Debug, Serialize)]
struct Skipped {
    system: &'static str,
    reason: String,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    rows: Vec<Value>,
    skipped: Vec<Skipped>,
}

/// Measures and prints.
pub(super) fn run(args: &VersusArgs) -> Result<()> {
    if let Some(named) = &args.versus {
        VersusProgram::find(Some(named))?;
    }
    let systems = if args.systems.is_empty() {
        System::value_variants()
    } else {
        &args.systems
    };
    let (root, _guard) = crate::demo::root_dir(args.dir.as_deref())?;
    // A server that does not run as root must get to its own directory in it.
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o711))
        .with_context(|| format!("cannot open {} to others", root.display()))?;
    let mut report = Report::default();
    for &system in systems {
        say(system.name());
        let outcome = match system {
            System::Sixfold => Outcome::Row(sixfold(args, &root)?),
            peer => self::peer(args, peer, &root)?,
        };
        match outcome {
            Outcome::Row(row) => report.rows.push(row),
            Outcome::Skipped(reason) => report.skipped.push(Skipped {
                system: system.name(),
                reason,
            }),
        }
    }
    print(&report)?;
    if args.json {
        say!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

/// This engine, in a cluster that is gone before the next system starts.
fn sixfold(args: &VersusArgs, root: &Path) -> Result<Value> {
    let pace = |seconds| Pace {
        clients: usize::from(args.clients),
        time: Duration::from_secs(seconds),
        rate: None,
    };
    let value_bytes = usize::try_from(args.value_bytes)?;
    let run = on_a_cluster(Some(&root.join("own")), &[], async |site: &Site| {
        let database = site.create_volume(CACHE_MIB).await?;
        let keys = Rc::new(Cell::new(0));
        if args.warm_up_seconds > 0 {
            let pace = pace(args.warm_up_seconds);
            sixfold_benches::commit::at_pace(&database, pace, value_bytes, &keys).await?;
        }
        let pace = pace(args.seconds);
        let run = sixfold_benches::commit::at_pace(&database, pace, value_bytes, &keys).await?;
        database.close().await;
        Ok(run)
    })?;
    std::fs::remove_dir_all(root.join("own")).context("cannot remove the cluster")?;
    let mut row = serde_json::to_value(&run)?;
    row["system"] = json!(System::Sixfold.name());
    row["version"] = json!(env!("CARGO_PKG_VERSION"));
    row["copies"] = json!(6);
    row["durable_copies"] = json!(4);
    row["settings"] = json!(
        "six node processes, a commit is answered when four have it on disk (O_DIRECT, O_DSYNC); clients are tasks of the \
         writer's process, QUIC with TLS to the nodes over loopback, UDP payload 8,900 bytes; defaults otherwise"
    );
    Ok(row)
}

fn peer(args: &VersusArgs, system: System, root: &Path) -> Result<Outcome<Value>> {
    let program = match VersusProgram::find(args.versus.as_deref()) {
        Ok(program) => program,
        Err(error) => return Ok(Outcome::Skipped(error.to_string())),
    };
    let flags = [
        format!("--clients={}", args.clients),
        format!("--value-bytes={}", args.value_bytes),
        format!("--seconds={}", args.seconds),
        format!("--warm-up-seconds={}", args.warm_up_seconds),
    ];
    let dir = root.join(system.name());
    std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let time = Duration::from_secs(args.seconds + args.warm_up_seconds);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            biased;
            () = crate::child::stop_signal(false) => anyhow::bail!("interrupted"),
            done = program.commits(system.name(), &flags, time, &dir) => done,
        }
    })?;
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    Ok(outcome)
}

fn print(report: &Report) -> Result<()> {
    say!(
        "{:<16} {:>7} {:>12} {:>8} {:>8} {:>8}   settings",
        "system",
        "copies",
        "commits/s",
        "p50 us",
        "p99 us",
        "p99.9 us"
    );
    for row in &report.rows {
        let number = |name: &str| row[name].as_f64().unwrap_or_default();
        say!(
            "{:<16} {:>7} {:>12.0} {:>8.0} {:>8.0} {:>8.0}   {}: {}",
            row["system"].as_str().unwrap_or_default(),
            number("copies"),
            number("commits_per_second"),
            number("p50_us"),
            number("p99_us"),
            number("p999_us"),
            row["version"].as_str().unwrap_or_default(),
            row["settings"].as_str().unwrap_or_default()
        );
    }
    for skipped in &report.skipped {
        say!("{:<16} skipped: {}", skipped.system, skipped.reason);
    }
    Ok(())
}
