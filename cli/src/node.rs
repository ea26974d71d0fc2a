//! `sixfold node`: what an operator does to nodes and their segments. What the writer does on a wish stands in [`crate::verbs`].

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use sixfold::ClusterNode;
use sixfold_log_format::wire::{DropSegment, Message};
use sixfold_log_format::{NodeId, SegmentId, VolumeId};

use crate::cluster_dir::ClusterDir;
use crate::status::Operator;
use crate::verbs::add::{self, AddArgs, ForgetArgs, MakeArgs};
use crate::verbs::moves::{self, DrainArgs, ReplaceArgs, RestoreArgs};
use crate::verbs::not_an_id;

/// Verbs of `node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List the segments that nodes hold, of any volume
    List(ListArgs),
    /// Drop a segment, for ever: its identity never answers again
    Drop(DropArgs),
    /// Lay out the directory of one more node of a local cluster
    Make(MakeArgs),
    /// Take a running node into the fleet, or tell its new address
    Add(AddArgs),
    /// Take a node that holds nothing of the volume out of the fleet
    Forget(ForgetArgs),
    /// Build a node's segments, or one segment, anew on another node
    Replace(ReplaceArgs),
    /// Take a running replacement back
    Restore(RestoreArgs),
    /// Move everything away from a node
    Drain(DrainArgs),
}

/// Flags of `node list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Only this node
    #[arg(long, value_name = "ID")]
    node: Option<String>,
}

/// Flags of `node drop`.
#[derive(Debug, Args)]
pub(crate) struct DropArgs {
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The node
    #[arg(long, value_name = "ID")]
    node: String,
    /// The segment
    #[arg(long, value_name = "ID")]
    segment: String,
    /// The volume that it is of, so that no slip of the pen drops another one's
    #[arg(long, value_name = "ID")]
    volume: String,
}

/// Runs one of them.
pub(crate) fn run(verb: &NodeVerb) -> Result<()> {
    match verb {
        NodeVerb::List(args) => with_operator(&args.dir, async |operator, nodes| {
            list(operator, nodes, args).await
        }),
        NodeVerb::Drop(args) => with_operator(&args.dir, async |operator, nodes| {
            drop_segment(operator, nodes, args).await
        }),
        NodeVerb::Make(args) => add::make(args),
        NodeVerb::Add(args) => add::add(args),
        NodeVerb::Forget(args) => add::forget(args),
        NodeVerb::Replace(args) => moves::replace(args),
        NodeVerb::Restore(args) => moves::restore(args),
        NodeVerb::Drain(args) => moves::drain(args),
    }
}

fn with_operator(
    dir: &Path,
    work: impl AsyncFnOnce(&Operator, &[ClusterNode]) -> Result<()>,
) -> Result<()> {
    let cluster = ClusterDir::at(dir)?.cluster()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let operator = Operator::new(&cluster, "operator")?;
        let done = work(&operator, &cluster.nodes).await;
        operator.close().await;
        done
    })
}

async fn list(operator: &Operator, nodes: &[ClusterNode], args: &ListArgs) -> Result<()> {
    let only = args.node.as_deref().map(|id| find(nodes, id)).transpose()?;
    let mut silent = 0;
    let asked = only.map_or(nodes, std::slice::from_ref);
    for node in asked {
        match operator.node_status(node).await {
            Ok(status) => {
                for segment in status.segments {
                    say!(
                        "node {} segment {} volume {} pg {} scl {} layers {} of {} bytes",
                        node.node,
                        segment.segment,
                        segment.volume,
                        segment.pg,
                        segment.scl,
                        segment.layer_count,
                        segment.layer_bytes
                    );
                }
            }
            Err(error) => {
                silent += 1;
                say!("node {} silent: {}", node.node, crate::in_one_line(&error));
            }
        }
    }
    anyhow::ensure!(silent < asked.len(), "no node answered");
    Ok(())
}

async fn drop_segment(operator: &Operator, nodes: &[ClusterNode], args: &DropArgs) -> Result<()> {
    let node = find(nodes, &args.node)?;
    let drop = DropSegment {
        segment: SegmentId::from_hex(&args.segment).with_context(|| not_an_id(&args.segment))?,
        volume: VolumeId::from_hex(&args.volume).with_context(|| not_an_id(&args.volume))?,
    };
    let status = operator.node_status(node).await?;
    if !status
        .segments
        .iter()
        .any(|held| held.segment == drop.segment)
    {
        bail!("node {} holds no segment {}", node.node, drop.segment);
    }
    match operator.call(node, &Message::DropSegment(drop)).await? {
        Message::Done => {}
        Message::Refused(refusal) => bail!("refused: {refusal}"),
        _ => bail!("answered with something else"),
    }
    say!("dropped segment {} of node {}", args.segment, node.node);
    Ok(())
}

fn find<'a>(nodes: &'a [ClusterNode], id: &str) -> Result<&'a ClusterNode> {
    let wanted = NodeId::from_hex(id).with_context(|| not_an_id(id))?;
    let found = nodes.iter().find(|node| node.node == wanted);
    found.with_context(|| format!("the cluster has no node {id}"))
}
