//! `sixfold bench wire`: what commits cost on the wire.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use sixfold_benches::fill;
use sixfold_benches::pace::Pace;
use sixfold_benches::wire::{Load, WireRun, run as measure};

use super::say;
use super::site::on_a_cluster;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LoadName {
    /// New values for keys that are there, drawn evenly
    Update,
    /// New keys, ascending
    Ordered,
    /// New keys, in no order
    Random,
}

/// Flags of `bench wire`.
#[derive(Debug, Args)]
pub(super) struct WireArgs {
    /// What clients write, one put a commit
    #[arg(long, value_enum, default_value = "update")]
    load: LoadName,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    value_bytes: u32,
    /// Clients in a closed loop
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    clients: u16,
    /// Rows that are there before
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    /// Page cache, MiB
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    cache_mib: u64,
    /// Length of the run, seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Where to keep the cluster; must be missing or empty. Default: a temporary directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Measures and prints.
pub(super) fn run(args: &WireArgs) -> Result<()> {
    let load = match args.load {
        LoadName::Update => Load::Update,
        LoadName::Ordered => Load::Ordered,
        LoadName::Random => Load::Random,
    };
    let value_bytes = usize::try_from(args.value_bytes)?;
    let pace = Pace {
        clients: usize::from(args.clients),
        time: Duration::from_secs(args.seconds),
        rate: None,
    };
    let run = on_a_cluster(args.dir.as_deref(), &[], async |site| {
        let database = site.create_volume(args.cache_mib).await?;
        say(&format!("{} rows before", args.keys));
        fill::rows(&database, args.keys, value_bytes).await?;
        say(&format!("{} clients", args.clients));
        let run = measure(&database, load, pace, value_bytes, args.keys).await?;
        database.close().await;
        Ok(run)
    })?;
    print(&run)?;
    if args.json {
        say!("{}", serde_json::to_string(&run)?);
    }
    Ok(())
}

fn print(run: &WireRun) -> Result<()> {
    say!(
        "{} of {} bytes, {} clients, {:.0} commits/s, {:.1} commits a batch",
        run.load,
        run.value_bytes,
        run.clients,
        run.commits_per_second,
        run.commits_per_batch
    );
    say!(
        "{:>8.2} bytes on the wire a byte of redo ({:.2} of them sent)",
        run.wire_bytes_per_redo_byte,
        run.sent_bytes_per_redo_byte
    );
    say!(
        "{:>8.2} bytes of redo a byte of keys and values",
        run.redo_bytes_per_user_byte
    );
    say!(
        "{:>8.2} network writes a commit, six for each batch",
        run.network_writes_per_commit
    );
    say!(
        "{:>8.2} datagrams sent and {:.2} received a commit",
        run.datagrams_per_commit,
        run.received_datagrams_per_commit
    );
    Ok(())
}
