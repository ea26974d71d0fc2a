//! `sixfold bench`: measures on a cluster of its own. `commit` is the engine, `floor` what transport and disk do without it, `wire`
//! what a commit costs on the network; `read`, `scan` and `mixed` read, too; `versus` runs the load of `commit` on other systems;
//! `history` writes what clients saw under faults, `reopen` and `outage` measure what becomes of a kill, `crash` lets everything fail
//! and looks for what was answered.

mod crash;
mod crash_cycle;
mod crash_node;
mod crash_site;
mod crash_throttle;
mod crash_writer;
mod disk;
mod history;
mod history_writer;
mod miss;
mod mixed;
mod node;
mod outage;
mod outage_writer;
mod postgres;
mod read;
mod reopen;
mod reopen_writer;
mod repair;
mod site;
mod versus;
mod versus_program;
mod wire;

use std::cell::Cell;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use sixfold::{Database, Options};
use sixfold_benches::commit::CommitRun;
use sixfold_benches::pace::Pace;
use sixfold_log_format::NodeId;
use sixfold_transport::{Identity, TransportOptions};

use crate::child::{OwnedChild, stop_signal};
use crate::cluster_dir::{ClusterDir, LOOPBACK_MTU_BYTES, NODE_COUNT, path_text};

/// How long a bare node may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Rounds of the floor's echo and append.
const FLOOR_ROUNDS: usize = 2_000;
/// A commit's bytes where no engine has run to say: a 100-byte put.
const COMMIT_BYTES: usize = 140;

/// Flags of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Commits of one put each, in a closed loop and at fixed rates
    Commit(CommitArgs),
    /// Bytes, datagrams and network writes at the writer for each commit
    Wire(wire::WireArgs),
    /// Point reads of what is in the cache, beside embedded peers
    Read(read::ReadArgs),
    /// Range scans of what is in the cache, beside embedded peers
    Scan(read::ScanArgs),
    /// Point reads whose page is in no cache, beside a round trip and a device read
    Miss(miss::MissArgs),
    /// YCSB's workloads A to F
    Mixed(mixed::MixedArgs),
    /// The load of `commit` on other durable systems
    Versus(versus::VersusArgs),
    /// What transport and disk do without an engine
    Floor(FloorArgs),
    /// A storage node beside its device
    Node(node::NodeArgs),
    /// What nodes write for each byte of redo, under commits
    Disk(disk::DiskArgs),
    /// Clients under faults, and what they saw in a file for outside checkers of isolation
    History(history::HistoryArgs),
    /// A writer process with clients, for `history`
    #[command(hide = true)]
    HistoryWriter(history_writer::HistoryWriterArgs),
    /// How long a volume takes to open after a kill, by how much redo no layer holds
    Reopen(reopen::ReopenArgs),
    /// A writer process for `reopen`
    #[command(hide = true)]
    ReopenWriter(reopen_writer::ReopenWriterArgs),
    /// How fast a lost node's segments are whole again on another one, and what commits see of it
    Repair(repair::RepairArgs),
    /// Commits and reads before, during and after outages of each kind
    Outage(outage::OutageArgs),
    /// A writer process with clients, for `outage`
    #[command(hide = true)]
    OutageWriter(outage_writer::OutageWriterArgs),
    /// Processes, networks and disks fail at every time, and every answered commit is looked for afterwards
    Crash(crash::CrashArgs),
    /// A writer or standby with clients, for `crash`
    #[command(hide = true)]
    CrashWriter(crash_writer::CrashWriterArgs),
    /// A storage node whose disk fails on command, for `crash`
    #[command(hide = true)]
    CrashNode(Box<crash_node::CrashNodeArgs>),
    /// A node without a storage node, for `floor`
    #[command(hide = true)]
    BareNode(BareNodeArgs),
}

#[derive(Debug, Args)]
struct CommonArgs {
    /// Clients of each run
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    clients: Vec<usize>,
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

#[derive(Debug, Args)]
struct CommitArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Length of a value, bytes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    value_bytes: u64,
    /// Commits a second that are due whatever became of those before, after the closed loop; latencies then count from when a
    /// commit was due
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Vec<u32>,
    /// Measure the floor in the same run
    #[arg(long)]
    with_floor: bool,
}

#[derive(Debug, Args)]
struct FloorArgs {
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
struct BareNodeArgs {
    #[arg(long)]
    node: String,
    #[arg(long)]
    tls_dir: PathBuf,
    #[arg(long)]
    file: PathBuf,
}

#[derive(Debug, Clone, Serialize)]
struct FloorFields {
    bare_commits_per_second: f64,
    bare_p50_us: u64,
    bare_p99_us: u64,
    echo_p50_us: u64,
    append_p50_us: u64,
}

#[derive(Debug, Clone, Serialize)]
struct Row {
    #[serde(flatten)]
    commit: Option<CommitRun>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bare_clients: Option<usize>,
    #[serde(flatten)]
    floor: Option<FloorFields>,
}

#[derive(Debug, Serialize)]
struct Report {
    runs: Vec<Row>,
}

/// Runs a measure.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.what {
        What::Commit(commit) => measure(&commit.common, Some(commit)),
        What::Floor(floor) => measure(&floor.common, None),
        What::Wire(args) => wire::run(args),
        What::Read(args) => read::run(args),
        What::Scan(args) => read::run_scan(args),
        What::Miss(args) => miss::run(args),
        What::Mixed(args) => mixed::run(args),
        What::Versus(args) => versus::run(args),
        What::Node(args) => node::run(args),
        What::Disk(args) => disk::run(args),
        What::History(args) => history::run(args),
        What::HistoryWriter(args) => history_writer::run(args),
        What::Reopen(args) => reopen::run(args),
        What::ReopenWriter(args) => reopen_writer::run(args),
        What::Repair(args) => repair::run(args),
        What::Outage(args) => outage::run(args),
        What::OutageWriter(args) => outage_writer::run(args),
        What::Crash(args) => crash::run(args),
        What::CrashWriter(args) => crash_writer::run(args),
        What::CrashNode(args) => crash_node::run(args),
        What::BareNode(node) => bare_node(node),
    }
}

fn measure(common: &CommonArgs, engine: Option<&CommitArgs>) -> Result<()> {
    if common.clients.contains(&0) {
        bail!("--clients must be at least 1");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let report = local.block_on(&runtime, async {
        let work = async {
            let (root, _guard) = crate::demo::root_dir(common.dir.as_deref())?;
            rows(common, engine, &root).await
        };
        tokio::select! {
            // Signals are waited for before there is anything to be left behind.
            biased;
            () = stop_signal(false) => bail!("interrupted"),
            report = work => report,
        }
    })?;
    print_rows(&report)?;
    if common.json {
        say!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

async fn rows(common: &CommonArgs, engine: Option<&CommitArgs>, root: &Path) -> Result<Report> {
    let dir = ClusterDir::at(root)?;
    dir.lay_out(64)?;
    let cluster = dir.cluster()?;
    let indexes: Vec<usize> = (0..NODE_COUNT).collect();
    let nodes = dir.start_nodes(&indexes).await?;
    let mut runs = Vec::new();
    let mut echo_us = None;
    let with_floor = engine.is_none_or(|engine| engine.with_floor);
    let identity = Identity::load(&cluster.tls_dir, "writer")?;
    let options = TransportOptions {
        mtu_bytes: Some(LOOPBACK_MTU_BYTES),
        ..TransportOptions::default()
    };
    if with_floor {
        say("echo to the fourth of six daemons");
        let addresses: Vec<_> = cluster
            .nodes
            .iter()
            .map(|node| (node.node, node.address))
            .collect();
        echo_us = Some(
            sixfold_benches::floor::echo(&identity, &options, &addresses, FLOOR_ROUNDS)
                .await?
                .p50_us(),
        );
    }
    if let Some(engine) = engine {
        let database =
            Database::create(Options::new(cluster.clone()).mtu_bytes(LOOPBACK_MTU_BYTES)).await?;
        let keys = Rc::new(Cell::new(0));
        let time = Duration::from_secs(common.seconds);
        for &clients in &common.clients {
            let closed = std::iter::once(None);
            for rate in closed.chain(engine.rate.iter().copied().map(Some)) {
                say(&match rate {
                    None => format!("{clients} clients"),
                    Some(rate) => format!("{clients} clients, {rate} commits a second"),
                });
                let value_bytes = usize::try_from(engine.value_bytes)?;
                let pace = Pace {
                    clients,
                    time,
                    rate,
                };
                let commit =
                    sixfold_benches::commit::at_pace(&database, pace, value_bytes, &keys).await?;
                runs.push(Row {
                    commit: Some(commit),
                    bare_clients: None,
                    floor: None,
                });
            }
        }
        database.close().await;
    } else {
        runs.extend(common.clients.iter().map(|&clients| Row {
            commit: None,
            bare_clients: Some(clients),
            floor: None,
        }));
    }
    drop(nodes);
    if let Some(echo_p50_us) = echo_us {
        say("the fourth of six synced writes");
        let append_p50_us = sixfold_benches::floor::append(root, FLOOR_ROUNDS)?.p50_us();
        let (_bare_nodes, addresses) = start_bare_nodes(&dir, root).await?;
        // The floor is a closed loop: it stands beside the closed loop's rows.
        let closed = runs.iter_mut().filter(|row| {
            row.commit
                .as_ref()
                .is_none_or(|run| run.rate_per_second.is_none())
        });
        for (row, &clients) in closed.zip(&common.clients) {
            say(&format!("{clients} clients without an engine"));
            // The same bytes for each commit as the engine made of it.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A few hundred.
            let bytes = row
                .commit
                .as_ref()
                .map_or(COMMIT_BYTES, |run| run.redo_bytes_per_commit as usize);
            let time = Duration::from_secs(common.seconds);
            let bare =
                sixfold_benches::bare::run(&identity, &options, &addresses, clients, bytes, time)
                    .await?;
            row.floor = Some(FloorFields {
                bare_commits_per_second: bare.commits_per_second,
                bare_p50_us: bare.latencies.p50_us(),
                bare_p99_us: bare.latencies.p99_us(),
                echo_p50_us,
                append_p50_us,
            });
        }
    }
    Ok(Report { runs })
}

/// Six bare nodes with the identities of the cluster's nodes, which have ended.
async fn start_bare_nodes(
    dir: &ClusterDir,
    root: &Path,
) -> Result<(Vec<OwnedChild>, Vec<(NodeId, std::net::SocketAddr)>)> {
    let cluster = dir.cluster()?;
    let mut children = Vec::new();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let args = vec![
            "bench".to_owned(),
            "bare-node".to_owned(),
            format!("--node={}", node.node),
            format!("--tls-dir={}", path_text(&dir.node_tls_dir(index))?),
            format!("--file={}", path_text(&root.join(format!("bare-{index}")))?),
        ];
        children.push(OwnedChild::start(
            &format!("bare node {}", index + 1),
            &args,
        )?);
    }
    let mut addresses = Vec::new();
    for (child, node) in children.iter_mut().zip(&cluster.nodes) {
        let address = child.wait_for("ready ", READY_LIMIT).await?;
        addresses.push((node.node, address.parse().context("a bare node's address")?));
    }
    Ok((children, addresses))
}

fn bare_node(args: &BareNodeArgs) -> Result<()> {
    let node = NodeId::from_hex(&args.node).context("--node is not 32 hexadecimal digits")?;
    let identity = Identity::load(&args.tls_dir, "node")?;
    let options = TransportOptions {
        mtu_bytes: Some(LOOPBACK_MTU_BYTES),
        ..TransportOptions::default()
    };
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let ready = crate::storage_node::say_ready;
    sixfold_benches::bare_node::run(
        listen,
        node,
        &identity,
        &options,
        &args.file,
        ready,
        stop_signal(true),
    )
}

/// What is being done, for a person who waits.
fn say(what: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{what}");
    }
}

fn print_rows(report: &Report) -> Result<()> {
    say!(
        "{:>8} {:>9} {:>12} {:>8} {:>8} {:>8} {:>12} {:>10} {:>10} {:>10}",
        "clients",
        "rate",
        "commits/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "bare/s",
        "bare p50",
        "echo p50",
        "append p50"
    );
    for row in &report.runs {
        let clients = row
            .commit
            .as_ref()
            .map(|run| run.clients)
            .or(row.bare_clients)
            .unwrap_or_default();
        let engine = match &row.commit {
            Some(run) => format!(
                "{:>12.0} {:>8} {:>8} {:>8}",
                run.commits_per_second, run.p50_us, run.p99_us, run.p999_us
            ),
            None => format!("{:>12} {:>8} {:>8} {:>8}", "-", "-", "-", "-"),
        };
        let floor = match &row.floor {
            Some(floor) => format!(
                "{:>12.0} {:>10} {:>10} {:>10}",
                floor.bare_commits_per_second,
                floor.bare_p50_us,
                floor.echo_p50_us,
                floor.append_p50_us
            ),
            None => format!("{:>12} {:>10} {:>10} {:>10}", "-", "-", "-", "-"),
        };
        let rate = row
            .commit
            .as_ref()
            .and_then(|run| run.rate_per_second)
            .map_or("-".to_owned(), |rate| rate.to_string());
        say!("{clients:>8} {rate:>9} {engine} {floor}");
    }
    Ok(())
}
