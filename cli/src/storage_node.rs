//! `sixfold storage-node`: the daemon. Its settings stand in [`crate::config`]; what it tells a service manager, in [`crate::service`].

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use sixfold_storage_node::NodeOptions;
use sixfold_storage_node::probe::{self, Probe};

pub(crate) use crate::config::node::NodeConfig;
use crate::config::node::{Loaded, MetricsAt, resolve_all};
use crate::observe::{self, Served, Source};
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
    /// Highest wire version to speak: for upgrades that may have to be taken back, and for tests of them
    #[arg(long, hide = true, env = "SIXFOLD_WIRE_MAX")]
    wire_max: Option<u16>,
}

impl StorageNodeArgs {
    /// What flags, environment and file say.
    pub(crate) fn options(self) -> Result<NodeOptions> {
        Ok(self.resolve()?.0)
    }

    fn resolve(self) -> Result<(NodeOptions, MetricsAt)> {
        let file = self.config.as_deref().map(Loaded::read).transpose()?;
        let (mut options, metrics) = resolve_all(self.settings, file.as_ref())?;
        options.wire_max = self.wire_max.unwrap_or(options.wire_max);
        Ok((options, metrics))
    }
}

/// Serves the node's metrics where the settings say. An address that was only guessed may be taken: the node runs all the same.
fn serve_metrics(at: MetricsAt, node: SocketAddr, probe: Probe) -> Result<Option<Served>> {
    let source = Source::Node {
        probe,
        address: node,
    };
    match at {
        MetricsAt::Off => Ok(None),
        MetricsAt::Address(address) => {
            observe::serve(observe::bind(address)?, "storage-node", source).map(Some)
        }
        // A port that the system will choose is not known yet.
        MetricsAt::BesidePort if node.port() == 0 => Ok(None),
        MetricsAt::BesidePort => {
            // A node on a loopback address of its own, beside others on theirs, serves there.
            let own = Some(node.ip()).filter(IpAddr::is_loopback);
            let host = own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let address = SocketAddr::new(host, node.port());
            match observe::bind(address) {
                Ok(listener) => observe::serve(listener, "storage-node", source).map(Some),
                Err(error) => {
                    tracing::warn!(
                        "{}; the node runs without: set `metrics` to another address, or to \"off\"",
                        crate::in_one_line(&error)
                    );
                    Ok(None)
                }
            }
        }
    }
}

/// Runs the daemon until SIGTERM, Ctrl-C or, with `--stop-with-stdin`, the end of standard input. Prints `ready ADDRESS` once, and tells
/// systemd where it was started by it (`Type=notify`, `WatchdogSec=`).
///
/// A stop needs no care for data: what was acknowledged is durable, and the writer goes on with the other segments.
pub(crate) fn run(args: StorageNodeArgs) -> Result<()> {
    let stop_with_stdin = args.stop_with_stdin;
    let (options, metrics) = args.resolve()?;
    options.check()?;
    let (probe, inbox) = probe::probe();
    let _served = serve_metrics(metrics, options.listen, probe)?;
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
    sixfold_storage_node::run_probed(options, inbox, ready, stop)?;
    Ok(())
}

/// Says that requests are answered at `address`.
pub(crate) fn say_ready(address: SocketAddr) {
    let mut stdout = std::io::stdout().lock();
    // Whoever waits for the line is gone if this fails; the node serves all the same.
    let _ = writeln!(stdout, "ready {address}").and_then(|()| stdout.flush());
}
