//! `sixfold storage-node`: the daemon. Its settings stand in [`crate::config`]; what it tells a service manager, in [`crate::service`].

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use sixfold_storage_node::NodeOptions;

pub(crate) use crate::config::node::NodeConfig;
use crate::config::node::{Loaded, resolve};
use crate::service::Service;

/// Flags of `storage-node`; each overrides the file.
#[derive(Debug, Clone, Args)]
pub(crate) struct StorageNodeArgs {
    /// Settings (TOML); `sixfold config init` writes such a file
    #[arg(long, value_name = "FILE", env = "SIXFOLD_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: NodeConfig,
    /// End when standard input ends: a child follows its parent, however that died
    #[arg(long)]
    stop_with_stdin: bool,
}

impl StorageNodeArgs {
    /// What flags, environment and file say.
    pub(crate) fn options(self) -> Result<NodeOptions> {
        let file = self.config.as_deref().map(Loaded::read).transpose()?;
        resolve(self.settings, file.as_ref())
    }
}

/// Runs the daemon until SIGTERM, Ctrl-C or, with `--stop-with-stdin`, the end of standard input. Prints `ready ADDRESS` once, and tells
/// systemd where it was started by it (`Type=notify`, `WatchdogSec=`).
///
/// A stop needs no care for data: what was acknowledged is durable, and the writer goes on with the other segments.
pub(crate) fn run(args: StorageNodeArgs) -> Result<()> {
    let stop_with_stdin = args.stop_with_stdin;
    let options = args.options()?;
    let service = Service::from_environment();
    let stop = async {
        tokio::select! {
            biased;
            () = crate::child::stop_signal(stop_with_stdin) => {}
            // On the node's own thread: when that hangs, the watchdog hears nothing.
            () = service.keep_alive() => {}
        }
        service.stopping();
    };
    let ready = |address| {
        say_ready(address);
        service.ready(&format!("serving at {address}"));
    };
    sixfold_storage_node::run(options, ready, stop)?;
    Ok(())
}

/// Says that requests are answered at `address`.
pub(crate) fn say_ready(address: SocketAddr) {
    let mut stdout = std::io::stdout().lock();
    // Whoever waits for the line is gone if this fails; the node serves all the same.
    let _ = writeln!(stdout, "ready {address}").and_then(|()| stdout.flush());
}
