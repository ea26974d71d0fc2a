//! `sixfold bench mixed`: YCSB's workloads.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use sixfold_benches::fill;
use sixfold_benches::mixed::{MixedRow, Workload, run as measure};
use sixfold_benches::pace::Pace;

use super::say;
use super::site::on_a_cluster;

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WorkloadName {
    /// Half reads, half updates
    A,
    /// 95 % reads, 5 % updates
    B,
    /// Reads
    C,
    /// 95 % reads of what is latest, 5 % inserts
    D,
    /// 95 % scans, 5 % inserts
    E,
    /// Half reads, half read-modify-writes
    F,
}

impl WorkloadName {
    fn workload(self) -> Workload {
        match self {
            WorkloadName::A => Workload::A,
            WorkloadName::B => Workload::B,
            WorkloadName::C => Workload::C,
            WorkloadName::D => Workload::D,
            WorkloadName::E => Workload::E,
            WorkloadName::F => Workload::F,
        }
    }
}

/// Flags of `bench mixed`.
#[derive(Debug, Args)]
pub(super) struct MixedArgs {
    /// Which, one after the other, in YCSB's order: those that insert come last
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        ignore_case = true,
        default_value = "a,b,c,f,d,e"
    )]
    workloads: Vec<WorkloadName>,
    /// Clients in a closed loop
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    clients: u16,
    /// Rows that are there before
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(2..=100_000_000))]
    keys: u64,
    /// Length of a row's value, bytes
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    value_bytes: u32,
    /// Page cache, MiB; less than the rows take makes reads go to the nodes
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    cache_mib: u64,
    /// Length of each workload, seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Where to keep the cluster; must be missing or empty. Default: a temporary directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    keys: u64,
    value_bytes: u32,
    cache_mib: u64,
    rows: Vec<MixedRow>,
}

/// Measures and prints.
pub(super) fn run(args: &MixedArgs) -> Result<()> {
    let value_bytes = usize::try_from(args.value_bytes)?;
    let pace = Pace {
        clients: usize::from(args.clients),
        time: Duration::from_secs(args.seconds),
        rate: None,
    };
    let rows = on_a_cluster(args.dir.as_deref(), &[], async |site| {
        let database = site.create_volume(args.cache_mib).await?;
        say(&format!("{} rows before", args.keys));
        fill::rows(&database, args.keys, value_bytes).await?;
        let (keys, mut rows) = (Rc::new(Cell::new(args.keys)), Vec::new());
        for workload in args.workloads.iter().map(|name| name.workload()) {
            say(&format!("workload {}", workload.name()));
            rows.extend(measure(&database, workload, pace, value_bytes, &keys).await?);
        }
        database.close().await;
        Ok(rows)
    })?;
    print(&rows)?;
    if args.json {
        let report = Report {
            keys: args.keys,
            value_bytes: args.value_bytes,
            cache_mib: args.cache_mib,
            rows,
        };
        say!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

fn print(rows: &[MixedRow]) -> Result<()> {
    say!(
        "{:<9} {:<18} {:>12} {:>8} {:>8} {:>8} {:>10}",
        "workload",
        "operation",
        "per second",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "conflicts"
    );
    for row in rows {
        say!(
            "{:<9} {:<18} {:>12.0} {:>8} {:>8} {:>8} {:>10}",
            row.workload,
            row.operation,
            row.operations_per_second,
            row.p50_us,
            row.p99_us,
            row.p999_us,
            row.conflicts
        );
    }
    Ok(())
}
