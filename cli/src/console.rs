//! `sixfold console`: a small web page with a living picture of a cluster, asked of its nodes as an operator.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use sixfold::Cluster;

use crate::child::stop_signal;
use crate::observe::{self, Source};

/// Which cluster is looked at.
#[derive(Debug, Clone, Args)]
pub(crate) struct LookArgs {
    /// Where the cluster is kept
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "cluster",
        conflicts_with = "cluster"
    )]
    dir: Option<PathBuf>,
    /// The cluster's file
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Where the writer serves its metrics, HOST:PORT: without it, the writer's own numbers are not seen
    #[arg(long, value_name = "ADDRESS")]
    writer: Option<String>,
}

impl LookArgs {
    /// The cluster, and where its writer is.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub(crate) fn load(&self) -> Result<(Cluster, Option<String>)> {
        let cluster = match (&self.cluster, &self.dir) {
            (Some(file), _) => Cluster::load(file)?,
            (None, Some(dir)) => crate::cluster_dir::ClusterDir::at(dir)?.cluster()?,
            (None, None) => anyhow::bail!("name the cluster with --dir or --cluster"),
        };
        Ok((cluster, self.writer.clone()))
    }
}

/// Flags of `console`.
#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    #[command(flatten)]
    look: LookArgs,
    /// Where to serve it, HOST:PORT. It asks nobody for a password: keep it on loopback, or behind something that does
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9700")]
    listen: SocketAddr,
    /// End when standard input ends
    #[arg(long)]
    stop_with_stdin: bool,
}

/// Serves until Ctrl-C.
pub(crate) fn run(args: &ConsoleArgs) -> Result<()> {
    let (cluster, writer) = args.look.load()?;
    let listener = observe::bind(args.listen)?;
    let served = observe::serve(listener, "console", Source::Cluster { cluster, writer })?;
    say!("ready http://{}/", served.address);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(stop_signal(args.stop_with_stdin));
    Ok(())
}
