//! `sixfold storage-node`: the daemon. A TOML file, each setting also as flag and environment variable.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use sixfold_log_format::NodeId;
use sixfold_storage_node::NodeOptions;

/// Flags of `storage-node`; each overrides the file.
#[derive(Debug, Args)]
pub(crate) struct StorageNodeArgs {
    /// Settings (TOML)
    #[arg(long, value_name = "FILE", env = "SIXFOLD_CONFIG")]
    config: Option<PathBuf>,
    /// The node's id, 32 hexadecimal digits; the one in its certificate
    #[arg(long, env = "SIXFOLD_NODE")]
    node: Option<String>,
    /// Availability zone
    #[arg(long, env = "SIXFOLD_AZ")]
    az: Option<String>,
    /// Where to listen, HOST:PORT
    #[arg(long, env = "SIXFOLD_LISTEN")]
    listen: Option<SocketAddr>,
    /// Data directory; it must exist
    #[arg(long, value_name = "DIR", env = "SIXFOLD_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Directory with ca.pem, node.pem and node-key.pem
    #[arg(long, value_name = "DIR", env = "SIXFOLD_TLS_DIR")]
    tls_dir: Option<PathBuf>,
    /// UDP payload to begin with, bytes (8900 for jumbo frames)
    #[arg(long, env = "SIXFOLD_MTU_BYTES")]
    mtu_bytes: Option<u16>,
    /// Size of a hot-log file in a new data directory, MiB
    #[arg(long, env = "SIXFOLD_HOT_LOG_FILE_MIB")]
    hot_log_file_mib: Option<u64>,
    /// Redo kept in memory, MiB
    #[arg(long, env = "SIXFOLD_RESIDENT_REDO_MIB")]
    resident_redo_mib: Option<usize>,
    /// Folded pages kept in memory, MiB
    #[arg(long, env = "SIXFOLD_PAGE_CACHE_MIB")]
    page_cache_mib: Option<usize>,
    /// Blocks and indexes of layers kept in memory, MiB
    #[arg(long, env = "SIXFOLD_LAYER_CACHE_MIB")]
    layer_cache_mib: Option<usize>,
    /// Redo that no layer holds, MiB: what a restart reads; batches are refused above it
    #[arg(long, env = "SIXFOLD_UNFOLDED_REDO_MIB")]
    unfolded_redo_mib: Option<u64>,
    /// Hot-log files altogether, MiB; batches are refused above it
    #[arg(long, env = "SIXFOLD_HOT_LOG_MIB")]
    hot_log_mib: Option<u64>,
    /// Space of the file system that layers leave free, MiB
    #[arg(long, env = "SIXFOLD_RESERVE_MIB")]
    reserve_mib: Option<u64>,
    /// End when standard input ends: a child follows its parent, however that died
    #[arg(long)]
    stop_with_stdin: bool,
}

/// The settings file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeConfig {
    /// The node's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// Availability zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) az: Option<String>,
    /// Where to listen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<SocketAddr>,
    /// Data directory; relative to the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Directory with the node's certificates; relative to the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// UDP payload to begin with, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu_bytes: Option<u16>,
    /// Size of a hot-log file, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hot_log_file_mib: Option<u64>,
    /// Redo kept in memory, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resident_redo_mib: Option<usize>,
    /// Folded pages kept in memory, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) page_cache_mib: Option<usize>,
    /// Blocks and indexes of layers kept in memory, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) layer_cache_mib: Option<usize>,
    /// Redo that no layer holds, MiB: what a restart reads; batches are refused above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unfolded_redo_mib: Option<u64>,
    /// Hot-log files altogether, MiB; batches are refused above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hot_log_mib: Option<u64>,
    /// Space of the file system that layers leave free, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reserve_mib: Option<u64>,
}

impl NodeConfig {
    /// Reads a settings file.
    pub(crate) fn load(path: &Path) -> Result<NodeConfig> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let mut config: NodeConfig = toml::from_str(&text)
            .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), one_line(&error, &text)))?;
        let base = path.parent().unwrap_or(Path::new("."));
        config.data_dir = config.data_dir.map(|dir| base.join(dir));
        config.tls_dir = config.tls_dir.map(|dir| base.join(dir));
        Ok(config)
    }
}

/// A TOML error as one line with its line number.
pub(crate) fn one_line(error: &toml::de::Error, text: &str) -> String {
    let line = error
        .span()
        .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let message = error
        .message()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    match line {
        Some(line) => format!("line {line}: {message}"),
        None => message,
    }
}

fn required<T>(value: Option<T>, name: &str) -> Result<T> {
    value.with_context(|| {
        format!(
            "{name} is not set (in the settings file, as a flag, or as SIXFOLD_{})",
            name.to_uppercase()
        )
    })
}

fn options(args: StorageNodeArgs) -> Result<NodeOptions> {
    let config = args
        .config
        .as_deref()
        .map(NodeConfig::load)
        .transpose()?
        .unwrap_or_default();
    let node = required(args.node.or(config.node), "node")?;
    let Some(node) = NodeId::from_hex(&node) else {
        bail!("node: {node:?} is not 32 hexadecimal digits");
    };
    let mut options = NodeOptions::with_defaults(
        required(args.data_dir.or(config.data_dir), "data_dir")?,
        node,
        required(args.az.or(config.az), "az")?,
        required(args.listen.or(config.listen), "listen")?,
        required(args.tls_dir.or(config.tls_dir), "tls_dir")?,
    );
    options.mtu_bytes = args.mtu_bytes.or(config.mtu_bytes).or(options.mtu_bytes);
    if let Some(mib) = args.hot_log_file_mib.or(config.hot_log_file_mib) {
        options.hot_log_file_bytes = mib
            .checked_mul(1 << 20)
            .context("hot_log_file_mib is too large")?;
    }
    if let Some(mib) = args.resident_redo_mib.or(config.resident_redo_mib) {
        options.resident_redo_bytes_max = mib
            .checked_mul(1 << 20)
            .context("resident_redo_mib is too large")?;
    }
    if let Some(mib) = args.page_cache_mib.or(config.page_cache_mib) {
        options.page_cache_bytes_max = mib
            .checked_mul(1 << 20)
            .context("page_cache_mib is too large")?;
    }
    if let Some(mib) = args.layer_cache_mib.or(config.layer_cache_mib) {
        options.layer_cache_bytes_max = mib
            .checked_mul(1 << 20)
            .context("layer_cache_mib is too large")?;
    }
    if let Some(mib) = args.unfolded_redo_mib.or(config.unfolded_redo_mib) {
        options.unfolded_bytes_max = mib
            .checked_mul(1 << 20)
            .context("unfolded_redo_mib is too large")?;
    }
    if let Some(mib) = args.hot_log_mib.or(config.hot_log_mib) {
        options.log_bytes_max = mib
            .checked_mul(1 << 20)
            .context("hot_log_mib is too large")?;
    }
    if let Some(mib) = args.reserve_mib.or(config.reserve_mib) {
        options.reserve_bytes = mib
            .checked_mul(1 << 20)
            .context("reserve_mib is too large")?;
    }
    Ok(options)
}

/// Runs the daemon until SIGTERM, Ctrl-C or, with `--stop-with-stdin`, the end of standard input. Prints `ready ADDRESS` once.
pub(crate) fn run(args: StorageNodeArgs) -> Result<()> {
    let stop_with_stdin = args.stop_with_stdin;
    let options = options(args)?;
    sixfold_storage_node::run(
        options,
        say_ready,
        crate::child::stop_signal(stop_with_stdin),
    )?;
    Ok(())
}

/// Says that requests are answered at `address`.
pub(crate) fn say_ready(address: SocketAddr) {
    let mut stdout = std::io::stdout().lock();
    // Whoever waits for the line is gone if this fails; the node serves all the same.
    let _ = writeln!(stdout, "ready {address}").and_then(|()| stdout.flush());
}
