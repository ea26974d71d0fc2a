//! `sixfold local`: six storage nodes and more on this machine, kept until Ctrl-C.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::child::stop_signal;
use crate::cluster_dir::{ClusterDir, NODE_COUNT, NODES_MAX};

/// How often the children are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A node that dies twice within this time is not started a third time.
const RESTART_INTERVAL: Duration = Duration::from_secs(5);

/// Flags of `local`.
#[derive(Debug, Args)]
pub(crate) struct LocalArgs {
    /// Where the cluster is kept; made when it is not there, and found again at the next start
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Nodes of a new cluster: six hold the first protection group, the others are spares, one in each zone by turns
    #[arg(long, default_value_t = NODE_COUNT, value_parser = node_count)]
    nodes: usize,
    /// Size of a hot-log file of a new cluster, MiB
    #[arg(long, default_value_t = 64)]
    hot_log_file_mib: u64,
    /// End when standard input ends
    #[arg(long)]
    stop_with_stdin: bool,
}

fn node_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ NODE_COUNT..=NODES_MAX) => Ok(count),
        _ => Err(format!("not in {NODE_COUNT}..={NODES_MAX}")),
    }
}

/// Starts the nodes and keeps them. A node that dies is started again.
pub(crate) fn run(args: &LocalArgs) -> Result<()> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot make {}", args.dir.display()))?;
    let dir = ClusterDir::at(&args.dir)?;
    dir.lay_out_fleet(args.nodes, args.hot_log_file_mib)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            // Signals are waited for before there is anything to be left behind.
            biased;
            () = stop_signal(args.stop_with_stdin) => Ok(()),
            kept = keep(args, &dir) => kept,
        }
    })
}

/// Starts the nodes and starts again what dies; gives up when a node dies twice within a short time.
async fn keep(args: &LocalArgs, dir: &ClusterDir) -> Result<()> {
    let cluster = dir.cluster()?;
    let here = dir.nodes_here(&cluster)?;
    let indexes: Vec<usize> = here.iter().map(|(index, _)| *index).collect();
    let mut nodes = dir.start_nodes(&indexes).await?;
    for ((index, process), (_, node)) in nodes.iter().zip(&here) {
        say!(
            "node {} {} {} pid {}",
            index + 1,
            node.az,
            node.address,
            process.id()
        );
    }
    say!("ready: sixfold shell --dir {}", args.dir.display());
    let mut restarted: [Option<Instant>; NODES_MAX] = [None; NODES_MAX];
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        for (index, node) in &mut nodes {
            let Err(error) = node.check_alive() else {
                continue;
            };
            if restarted[*index].is_some_and(|last| last.elapsed() < RESTART_INTERVAL) {
                return Err(error.context("it had just been started again"));
            }
            eprintln!("sixfold: {error}; starting it again");
            restarted[*index] = Some(Instant::now());
            *node = dir.start_node(*index)?;
        }
    }
}
