//! `sixfold config`: writes the settings of a node or the file of a cluster with a comment at each key, and says what is wrong with one.

mod cluster;
pub(crate) mod node;

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::Role;
use sixfold_storage_node::TLS_NAME;
use sixfold_transport::Identity;

use self::node::{Loaded, NodeConfig, resolve};

/// Verbs of `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Write a file with every key, its default, its unit and a comment
    Init(InitArgs),
    /// Say what is wrong with a file, with line and column
    Check(CheckArgs),
}

/// Which kind of file.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Kind {
    /// The settings of a storage node (node.toml)
    #[arg(long)]
    node: bool,
    /// The description of a cluster, for whoever opens its volume (cluster.toml)
    #[arg(long)]
    cluster: bool,
}

/// Flags of `config init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    kind: Kind,
    /// Where to write it; standard output when not given. A file that is there already is left alone
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The node's id [default: drawn at random]
    #[arg(long, value_name = "ID", conflicts_with = "cluster")]
    id: Option<String>,
    /// The node's availability zone
    #[arg(long, default_value = "az1", conflicts_with = "cluster")]
    az: String,
    /// Where the node listens
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7070",
        conflicts_with = "cluster"
    )]
    listen: SocketAddr,
    /// The node's data directory, relative to the file
    #[arg(
        long,
        value_name = "DIR",
        default_value = "data",
        conflicts_with = "cluster"
    )]
    data_dir: PathBuf,
    /// Directory with the certificates, relative to the file
    #[arg(long, value_name = "DIR", default_value = "tls")]
    tls_dir: PathBuf,
}

/// Flags of `config check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    kind: Kind,
    /// The file; which kind it is, its keys say
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only the file itself: not whether its directories and certificates are there
    #[arg(long)]
    file_only: bool,
}

/// Runs one of them.
pub(crate) fn run(verb: &ConfigVerb) -> Result<()> {
    match verb {
        ConfigVerb::Init(args) => init(args),
        ConfigVerb::Check(args) => check(args),
    }
}

fn init(args: &InitArgs) -> Result<()> {
    let text = match args.kind.cluster {
        true => cluster::template(&args.tls_dir)?,
        false => {
            let id = match &args.id {
                Some(id) => NodeId::from_hex(id)
                    .with_context(|| format!("--id {id:?} is not 32 hexadecimal digits"))?,
                None => sixfold_storage_node::draw_node_id()?,
            };
            node::template(&NodeConfig {
                node: Some(id.to_string()),
                az: Some(args.az.clone()),
                listen: Some(args.listen),
                data_dir: Some(args.data_dir.clone()),
                tls_dir: Some(args.tls_dir.clone()),
                ..NodeConfig::default()
            })?
        }
    };
    let Some(path) = &args.file else {
        say!("{}", text.trim_end());
        return Ok(());
    };
    // Never over another: ids in it may be in certificates and manifests already.
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    say!("wrote {}", path.display());
    Ok(())
}

fn check(args: &CheckArgs) -> Result<()> {
    let path = &args.file;
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let is_cluster = args.kind.cluster || (!args.kind.node && cluster::is_one(&text));
    let (kind, wrong) = match is_cluster {
        true => ("cluster", cluster::check(path, &text, args.file_only)),
        false => ("node", check_node(path, text, args.file_only)),
    };
    let Some((last, others)) = wrong.split_last() else {
        say!("{}: settings of a {kind}, nothing is wrong", path.display());
        return Ok(());
    };
    for line in others {
        eprintln!("sixfold: {line}");
    }
    bail!("{last}")
}

fn check_node(path: &Path, text: String, file_only: bool) -> Vec<String> {
    let loaded = match Loaded::of(path, text) {
        Ok(loaded) => loaded,
        Err(lines) => return lines,
    };
    let options = match resolve(NodeConfig::default(), Some(&loaded)) {
        Ok(options) => options,
        Err(error) => return vec![crate::in_one_line(&error)],
    };
    let mut wrong = Vec::new();
    if file_only {
        return wrong;
    }
    if !options.data_dir.is_dir() {
        let what = format!("{} is no directory", options.data_dir.display());
        wrong.push(loaded.blame("data_dir", &what));
    }
    match Identity::load(&options.tls_dir, TLS_NAME) {
        Err(error) => wrong.push(loaded.blame("tls_dir", &error.to_string())),
        Ok(identity) if identity.role() != Role::Node => {
            wrong.push(loaded.blame("tls_dir", "node.pem is not the certificate of a node"));
        }
        Ok(identity) => {
            if identity.node() != Some(options.node) {
                let found = identity.node().unwrap_or_default();
                let what = format!("the certificate in tls_dir names node {found}");
                wrong.push(loaded.blame("node", &what));
            }
        }
    }
    wrong
}
