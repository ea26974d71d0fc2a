//! `sixfold node make`, `add` and `forget`: which nodes are in the fleet. The volume's manifest says so to writers, `cluster.toml` to
//! whoever opens the volume.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sixfold::{Cluster, ClusterNode, Operation};
use sixfold_log_format::NodeId;

use super::hands::{Hands, View};
use super::outcome::{Outcome, conclude};
use super::{WishFlags, node_id, plan_and_do};
use crate::cluster_dir::ClusterDir;
use crate::storage_node::NodeConfig;

/// Flags of `node make`.
#[derive(Debug, Args)]
pub(crate) struct MakeArgs {
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Availability zone
    #[arg(long)]
    az: String,
    /// Size of its hot-log files, MiB
    #[arg(long, default_value_t = 64)]
    hot_log_file_mib: u64,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// Flags of `node add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    wish: WishFlags,
    /// The node's settings file, which says all of the following
    #[arg(long, value_name = "FILE", conflicts_with_all = ["node", "az", "address"], required_unless_present_all = ["node", "az", "address"])]
    config: Option<PathBuf>,
    /// The node's id, as in its certificate
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// Its availability zone
    #[arg(long)]
    az: Option<String>,
    /// Where it listens, HOST:PORT
    #[arg(long)]
    address: Option<SocketAddr>,
}

/// Flags of `node forget`.
#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    #[command(flatten)]
    wish: WishFlags,
    /// The node; it must hold no segment of the volume
    #[arg(long, value_name = "ID")]
    node: String,
}

/// `node make`: a directory for one more node of a local cluster, with its certificate. Starts nothing, adds nothing.
pub(crate) fn make(args: &MakeArgs) -> Result<()> {
    conclude("make", false, args.json, async {
        let (node, config) =
            ClusterDir::at(&args.dir)?.make_node(&args.az, args.hot_log_file_mib)?;
        Ok(Outcome::done(
            "make",
            format!(
                "node {} {} {}: start it with `sixfold storage-node --config {path}`, then `sixfold node add --dir {} --config {path}`",
                node.node,
                node.az,
                node.address,
                args.dir.display(),
                path = config.display(),
            ),
        ))
    })
}

/// `node add`.
pub(crate) fn add(args: &AddArgs) -> Result<()> {
    let flags = &args.wish;
    conclude("add", flags.dry_run, flags.json, async {
        let dir = ClusterDir::at(&flags.dir)?;
        let mut cluster = dir.cluster()?;
        let node = args.node()?;
        check(&cluster, &node)?;
        let hands = Hands::new(&cluster, "operator")?;
        let answered = hands.call(&node, &sixfold_log_format::wire::Message::AskStatus);
        answered
            .await
            .with_context(|| format!("node {} at {}", node.node, node.address))?;
        let outcome = add_to_volume(flags, &cluster, &hands, &node).await;
        hands.close().await;
        let outcome = outcome?;
        if outcome.state == "done" {
            list(&mut cluster, node);
            cluster.save(dir.cluster_file())?;
        }
        Ok(outcome)
    })
}

async fn add_to_volume(
    flags: &WishFlags,
    cluster: &Cluster,
    hands: &std::rc::Rc<Hands>,
    node: &ClusterNode,
) -> Result<Outcome> {
    let view = hands.look().await?;
    let text = format!("node {} is in the fleet, in {}", node.node, node.az);
    if is_uncreated(&view) {
        let outcome = Outcome::done("add", format!("{text}; the volume is not created yet"));
        return Ok(match flags.dry_run {
            true => Outcome::planned("add", Vec::new(), outcome.text),
            false => outcome,
        });
    }
    if flags.dry_run {
        return Ok(Outcome::planned(
            "add",
            Vec::new(),
            format!("node {} would be in the fleet, in {}", node.node, node.az),
        ));
    }
    let operation = Operation::AddNode { node: node.clone() };
    let outcome = plan_and_do("add", flags, cluster, hands, operation).await?;
    Ok(match outcome.state {
        "done" => Outcome { text, ..outcome },
        _ => outcome,
    })
}

/// Every node answered, and none holds anything of the volume.
fn is_uncreated(view: &View) -> bool {
    view.manifest.is_none() && view.nodes.iter().all(|node| node.status.is_ok())
}

impl AddArgs {
    fn node(&self) -> Result<ClusterNode> {
        if let Some(path) = &self.config {
            let config = NodeConfig::load(path)?;
            let lacks = |name: &str| format!("{}: {name} is not set", path.display());
            let id = config.node.with_context(|| lacks("node"))?;
            return Ok(ClusterNode {
                node: node_id(&id).with_context(|| path.display().to_string())?,
                az: config.az.with_context(|| lacks("az"))?,
                address: config.listen.with_context(|| lacks("listen"))?,
            });
        }
        let (Some(node), Some(az), Some(address)) = (&self.node, &self.az, self.address) else {
            bail!("give --config, or --node, --az and --address");
        };
        Ok(ClusterNode {
            node: node_id(node)?,
            az: az.clone(),
            address,
        })
    }
}

/// A node may be listed already, at the same or another address; it does not change its zone, and two nodes have no address in common.
fn check(cluster: &Cluster, node: &ClusterNode) -> Result<()> {
    ensure!(!node.az.is_empty(), "the availability zone is empty");
    for other in &cluster.nodes {
        if other.node == node.node {
            ensure!(
                other.az == node.az,
                "node {} is in {} already, not in {}",
                node.node,
                other.az,
                node.az
            );
        } else {
            ensure!(
                other.address != node.address,
                "address {} is that of node {}",
                node.address,
                other.node
            );
        }
    }
    Ok(())
}

fn list(cluster: &mut Cluster, node: ClusterNode) {
    let known = cluster
        .nodes
        .iter_mut()
        .find(|other| other.node == node.node);
    match known {
        Some(known) => *known = node,
        None => cluster.nodes.push(node),
    }
}

/// `node forget`.
pub(crate) fn forget(args: &ForgetArgs) -> Result<()> {
    let flags = &args.wish;
    conclude("forget", flags.dry_run, flags.json, async {
        let dir = ClusterDir::at(&flags.dir)?;
        let mut cluster = dir.cluster()?;
        let node: NodeId = node_id(&args.node)?;
        let hands = Hands::new(&cluster, "operator")?;
        let outcome = async {
            let view = hands.look().await?;
            if is_uncreated(&view) {
                let text = format!("node {node} is not in the fleet");
                return Ok(match flags.dry_run {
                    true => Outcome::planned("forget", Vec::new(), text),
                    false => Outcome::done("forget", text),
                });
            }
            let operation = Operation::ForgetNode { node };
            plan_and_do("forget", flags, &cluster, &hands, operation).await
        };
        let outcome = outcome.await;
        hands.close().await;
        let outcome = outcome?;
        if outcome.state == "done" {
            cluster.nodes.retain(|other| other.node != node);
            cluster.save(dir.cluster_file())?;
        }
        Ok(outcome)
    })
}
