//! `sixfold bench disk`: what the nodes of a cluster write for each byte of redo that they take, under commits.
//!
//! The hot log is counted by what the nodes say: whole groups with their headers and padding, the heads of files, what is left at
//! their ends. What the kernel saw a node's process write is told beside it: layers and the zeros of new hot-log files too.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use sixfold::{Cluster, Database, Options};
use sixfold_log_format::wire::NodeStatus;

use crate::child::{OwnedChild, stop_signal};
use crate::cluster_dir::{ClusterDir, LOOPBACK_MTU_BYTES, NODE_COUNT};
use crate::status::Operator;

/// Size of the cluster's hot-log files, MiB.
const FILE_MIB: u64 = 64;

/// Flags of `bench disk`.
#[derive(Debug, Args)]
pub(super) struct DiskArgs {
    /// Clients of each run
    #[arg(long, value_delimiter = ',', default_value = "64")]
    clients: Vec<usize>,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    value_bytes: u64,
    /// Length of each run, seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Where to keep the cluster; must be missing or empty. Default: a temporary directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// One run.
#[derive(Debug, Serialize)]
struct Run {
    clients: usize,
    commits_per_second: f64,
    /// Bytes of hot log for each byte of redo, mean of the nodes.
    disk_bytes_per_redo_byte_per_node: f64,
    /// The same of the node that has most.
    disk_bytes_per_redo_byte_max: f64,
    /// Redo that one write to the hot log took, mean, bytes.
    redo_bytes_per_write: f64,
    /// All that the kernel saw a node's process write, mean: layers and the zeros of new files too.
    written_bytes_per_redo_byte: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Of the last run.
    disk_bytes_per_redo_byte_per_node: f64,
    runs: Vec<Run>,
}

/// What a node has done so far.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    log_bytes: u64,
    redo_bytes: u64,
    group_writes: u64,
    written_bytes: u64,
}

impl Sum {
    fn of(status: &NodeStatus, written_bytes: u64) -> Sum {
        let freed_bytes = status.upkeep.files_freed * (FILE_MIB << 20);
        Sum {
            log_bytes: status.hot_log_bytes + freed_bytes,
            redo_bytes: status.redo_bytes,
            group_writes: status.group_writes,
            written_bytes,
        }
    }

    fn since(self, before: Sum) -> Sum {
        Sum {
            log_bytes: self.log_bytes.saturating_sub(before.log_bytes),
            redo_bytes: self.redo_bytes.saturating_sub(before.redo_bytes),
            group_writes: self.group_writes.saturating_sub(before.group_writes),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

/// Measures and prints.
pub(super) fn run(args: &DiskArgs) -> Result<()> {
    ensure!(!args.clients.contains(&0), "--clients must be at least 1");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            // Signals are waited for before there is anything to be left behind.
            biased;
            () = stop_signal(false) => bail!("interrupted"),
            report = measure(args) => report,
        }
    })?;
    say!(
        "{:>8} {:>12} {:>18} {:>8} {:>16} {:>18}",
        "clients",
        "commits/s",
        "hot log/redo byte",
        "max",
        "redo bytes/write",
        "written/redo byte"
    );
    for run in &report.runs {
        say!(
            "{:>8} {:>12.0} {:>18.2} {:>8.2} {:>16.0} {:>18.2}",
            run.clients,
            run.commits_per_second,
            run.disk_bytes_per_redo_byte_per_node,
            run.disk_bytes_per_redo_byte_max,
            run.redo_bytes_per_write,
            run.written_bytes_per_redo_byte
        );
    }
    if args.json {
        say!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

async fn measure(args: &DiskArgs) -> Result<Report> {
    let (root, _guard) = crate::demo::root_dir(args.dir.as_deref())?;
    let dir = ClusterDir::at(&root)?;
    dir.lay_out(FILE_MIB)?;
    let cluster = dir.cluster()?;
    let indexes: Vec<usize> = (0..NODE_COUNT).collect();
    let nodes = dir.start_nodes(&indexes).await?;
    let operator = Operator::new(&cluster, "operator")?;
    let database =
        Database::create(Options::new(cluster.clone()).mtu_bytes(LOOPBACK_MTU_BYTES)).await?;
    let mut runs = Vec::new();
    for &clients in &args.clients {
        let before = sums(&operator, &cluster, &nodes).await?;
        let time = Duration::from_secs(args.seconds);
        let value_bytes = usize::try_from(args.value_bytes)?;
        let commit = sixfold_benches::commit::run(&database, clients, value_bytes, time).await?;
        let after = sums(&operator, &cluster, &nodes).await?;
        let all: Vec<Sum> = after
            .iter()
            .zip(before)
            .map(|(after, before)| after.since(before))
            .collect();
        runs.push(run_of(clients, commit.commits_per_second, &all));
    }
    database.close().await;
    operator.close().await;
    let last = runs.last().context("no run")?;
    Ok(Report {
        disk_bytes_per_redo_byte_per_node: last.disk_bytes_per_redo_byte_per_node,
        runs,
    })
}

fn run_of(clients: usize, commits_per_second: f64, nodes: &[Sum]) -> Run {
    let ratio = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let mean =
        |of: &dyn Fn(&Sum) -> f64| nodes.iter().map(of).sum::<f64>() / nodes.len().max(1) as f64;
    let log = |sum: &Sum| ratio(sum.log_bytes, sum.redo_bytes);
    Run {
        clients,
        commits_per_second,
        disk_bytes_per_redo_byte_per_node: mean(&log),
        disk_bytes_per_redo_byte_max: nodes.iter().map(log).fold(0.0, f64::max),
        redo_bytes_per_write: mean(&|sum| ratio(sum.redo_bytes, sum.group_writes)),
        written_bytes_per_redo_byte: mean(&|sum| ratio(sum.written_bytes, sum.redo_bytes)),
    }
}

async fn sums(
    operator: &Operator,
    cluster: &Cluster,
    nodes: &[(usize, OwnedChild)],
) -> Result<Vec<Sum>> {
    let mut sums = Vec::new();
    for (node, (_, child)) in cluster.nodes.iter().zip(nodes) {
        let status = operator.node_status(node).await?;
        sums.push(Sum::of(&status, written_bytes(child.id())));
    }
    Ok(sums)
}

/// What the kernel saw a process write to devices, bytes; 0 where it does not count.
pub(super) fn written_bytes(process: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes: ")?.trim().parse().ok())
        .unwrap_or(0)
}
