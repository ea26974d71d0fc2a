//! `sixfold bench repair`: a node is lost for good; how fast are its segments whole again on a spare one, alone and beside commits?
//!
//! Seven nodes. What a repair brings is compared with what the device takes from one plain writer in the same run; all seven nodes
//! and the writer share the machine.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use sixfold::{Cluster, ClusterNode, Database, Options, Subject};
use sixfold_benches::latency::Latencies;
use sixfold_benches::repair::{Beside, plain_bytes_per_second};

use super::disk::written_bytes;
use crate::child::{OwnedChild, stop_signal};
use crate::cluster_dir::{ClusterDir, LOOPBACK_MTU_BYTES, NODE_COUNT};
use crate::status::Operator;

/// Size of the cluster's hot-log files, MiB.
const FILE_MIB: u64 = 64;
/// Length of a value, bytes.
const VALUE_BYTES: usize = 1_000;
/// Longest repair.
const REPAIR_LIMIT: Duration = Duration::from_secs(300);
/// How long nodes may take to be level and to have their layers written.
const LEVEL_LIMIT: Duration = Duration::from_secs(120);
/// What the plain writer writes.
const PLAIN_BYTES: usize = 256 << 20;

/// Flags of `bench repair`.
#[derive(Debug, Args)]
pub(super) struct RepairArgs {
    /// Rows before the loss, MiB
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    mib: u64,
    /// Commits a second that are due beside the second repair
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Seconds of these commits before that repair begins
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Where to keep the cluster; must be missing or empty. Default: a temporary directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// One repair.
#[derive(Debug, Serialize)]
struct Repair {
    /// From the operator's word to six whole copies.
    seconds: f64,
    /// What the new segment is, bytes: its layers and the redo that no layer holds.
    segment_bytes: u64,
    /// What the kernel saw the new node write meanwhile, bytes.
    written_bytes: u64,
    /// The segment's bytes by the time, in 10^6.
    mb_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    idle: Repair,
    beside: Repair,
    /// One plain writer, a mebibyte at a time, in 10^6 bytes a second.
    plain_mb_per_second: f64,
    /// The idle repair's rate in that one's.
    share_of_device: f64,
    rate: u32,
    p50_before_us: u64,
    p99_before_us: u64,
    p50_during_us: u64,
    p99_during_us: u64,
    commits_before: u64,
    commits_during: u64,
}

/// Measures and prints.
pub(super) fn run(args: &RepairArgs) -> Result<()> {
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
    for (name, repair) in [("idle", &report.idle), ("beside", &report.beside)] {
        say!(
            "{name:>7}: {:.0} MB in {:.2} s, {:.0} MB/s; {:.0} MB written",
            repair.segment_bytes as f64 / 1e6,
            repair.seconds,
            repair.mb_per_second,
            repair.written_bytes as f64 / 1e6
        );
    }
    say!(
        "  plain: {:.0} MB/s; commits at {} a second: p50 {} us and p99 {} us before, {} us and {} us during",
        report.plain_mb_per_second,
        report.rate,
        report.p50_before_us,
        report.p99_before_us,
        report.p50_during_us,
        report.p99_during_us
    );
    if args.json {
        say!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

async fn measure(args: &RepairArgs) -> Result<Report> {
    let (root, _guard) = crate::demo::root_dir(args.dir.as_deref())?;
    let plain = plain_bytes_per_second(&root, PLAIN_BYTES).await?;
    let mut fleet = Fleet::start(&root).await?;
    let options = Options::new(fleet.cluster.clone())
        .mtu_bytes(LOOPBACK_MTU_BYTES)
        // The operator's word begins a repair, nothing else.
        .repair_after(None);
    let database = Database::create(options).await?;
    let rows = (args.mib << 20) / VALUE_BYTES as u64;
    sixfold_benches::fill::rows(&database, rows, VALUE_BYTES).await?;
    fleet.until_level().await?;

    let idle = fleet.repair(&database).await?;
    fleet.until_level().await?;

    let load = Beside::start(&database, args.rate);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let before = load.take();
    let beside = fleet.repair(&database).await?;
    let during = load.take();
    load.stop().await?;
    database.close().await;
    fleet.operator.close().await;
    Ok(report(args, plain, (idle, beside), (&before, &during)))
}

fn report(
    args: &RepairArgs,
    plain_bytes_per_second: f64,
    (idle, beside): (Repair, Repair),
    (before, during): (&Latencies, &Latencies),
) -> Report {
    let plain_mb_per_second = plain_bytes_per_second / 1e6;
    Report {
        share_of_device: idle.mb_per_second / plain_mb_per_second,
        idle,
        beside,
        plain_mb_per_second,
        rate: args.rate,
        p50_before_us: before.p50_us(),
        p99_before_us: before.p99_us(),
        p50_during_us: during.p50_us(),
        p99_during_us: during.p99_us(),
        commits_before: before.count(),
        commits_during: during.count(),
    }
}

/// Seven nodes, six of which hold the volume.
struct Fleet {
    dir: ClusterDir,
    cluster: Cluster,
    operator: Operator,
    /// By their places in the cluster's list.
    nodes: Vec<Option<OwnedChild>>,
}

impl Fleet {
    async fn start(root: &std::path::Path) -> Result<Fleet> {
        let root = root.join("cluster");
        std::fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
        let dir = ClusterDir::at(&root)?;
        dir.lay_out_fleet(NODE_COUNT + 1, FILE_MIB)?;
        let cluster = dir.cluster()?;
        let indexes: Vec<usize> = (0..=NODE_COUNT).collect();
        let nodes = dir.start_nodes(&indexes).await?;
        let operator = Operator::new(&cluster, "operator")?;
        Ok(Fleet {
            dir,
            cluster,
            operator,
            nodes: nodes.into_iter().map(|(_, node)| Some(node)).collect(),
        })
    }

    /// The node without a segment.
    async fn spare(&self) -> Result<usize> {
        for (index, node) in self.cluster.nodes.iter().enumerate() {
            if self.operator.node_status(node).await?.segments.is_empty() {
                return Ok(index);
            }
        }
        bail!("each node holds a segment")
    }

    /// Kills a node of the spare's zone, has it replaced, and starts it again as the next spare.
    async fn repair(&mut self, database: &Database) -> Result<Repair> {
        let spare = self.spare().await?;
        let az = &self.cluster.nodes[spare].az;
        let lost = (0..self.cluster.nodes.len())
            .find(|&index| index != spare && self.cluster.nodes[index].az == *az)
            .context("the spare's zone has no other node")?;
        let onto: ClusterNode = self.cluster.nodes[spare].clone();
        let process = self.nodes[spare].as_ref().context("the spare runs")?.id();
        let written_before = written_bytes(process);
        self.nodes[lost].take().context("the node runs")?.kill()?;

        let begun = Instant::now();
        let subject = Subject::Node(self.cluster.nodes[lost].node);
        let progress = database.admin().replace(subject, Some(onto.node)).await?;
        let state = tokio::time::timeout(REPAIR_LIMIT, progress.finished())
            .await
            .with_context(|| format!("the repair takes more than {REPAIR_LIMIT:?}"))??;
        let seconds = begun.elapsed().as_secs_f64();
        ensure!(state.is_done, "the repair was refused: {}", state.text);
        let status = self.operator.node_status(&onto).await?;
        let bytes = status.segments.iter();
        let segment_bytes = bytes.map(|one| one.layer_bytes + one.unfolded_bytes).sum();
        let repair = Repair {
            seconds,
            segment_bytes,
            written_bytes: written_bytes(process).saturating_sub(written_before),
            mb_per_second: segment_bytes as f64 / 1e6 / seconds,
        };
        let started = self.dir.start_nodes(&[lost]).await?;
        self.nodes[lost] = started.into_iter().map(|(_, node)| node).next();
        Ok(repair)
    }

    /// Waits until six segments hold the same and one node has none.
    async fn until_level(&self) -> Result<()> {
        let until = Instant::now() + LEVEL_LIMIT;
        loop {
            let mut scls = Vec::new();
            let mut spares = 0;
            for node in &self.cluster.nodes {
                let status = self.operator.node_status(node).await?;
                spares += usize::from(status.segments.is_empty());
                scls.extend(status.segments.iter().map(|segment| segment.scl));
            }
            let level = scls.windows(2).all(|two| two[0] == two[1]);
            if level && spares == 1 && scls.len() == NODE_COUNT {
                return Ok(());
            }
            ensure!(Instant::now() < until, "the nodes do not become level");
            // Only how soon it is noticed depends on this.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
