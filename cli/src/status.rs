//! `sixfold status`: how the nodes of a cluster are, asked of each.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use sixfold::{Cluster, ClusterNode};
use sixfold_log_format::wire::{Attach, Hello, Message, NodeStatus, Role, SegmentStatus};
use sixfold_transport::{Connection, Endpoint, Identity, TransportOptions, VolumeToken};

use crate::cluster_dir::ClusterDir;

/// How long one node may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Flags of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Asks all nodes at once and prints a line for each and for each segment.
pub(crate) fn run(args: &StatusArgs) -> Result<()> {
    let dir = ClusterDir::at(&args.dir)?;
    let cluster = dir.cluster()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let operator = Rc::new(Operator::new(&cluster, "operator")?);
        let ask = |node: &ClusterNode| {
            let (operator, node) = (Rc::clone(&operator), node.clone());
            tokio::task::spawn_local(async move { operator.node_status(&node).await })
        };
        let asked: Vec<_> = cluster.nodes.iter().map(ask).collect();
        let mut silent = 0;
        for (node, asked) in cluster.nodes.iter().zip(asked) {
            match asked.await? {
                Ok(status) => print_status(node, &status)?,
                Err(error) => {
                    silent += 1;
                    let (id, az, address) = (node.node, &node.az, node.address);
                    say!(
                        "node {id} {az} {address} silent: {}",
                        crate::in_one_line(&error)
                    );
                }
            }
        }
        operator.close().await;
        anyhow::ensure!(silent < cluster.nodes.len(), "no node answered");
        Ok(())
    })
}

fn print_status(node: &ClusterNode, status: &NodeStatus) -> Result<()> {
    say!(
        "node {} {} {} hot log {} bytes, {} writes, {} batches by gossip, {} refused",
        node.node,
        node.az,
        node.address,
        status.hot_log_bytes,
        status.group_writes,
        status.gossip_batches,
        status.refused
    );
    for segment in &status.segments {
        say!(
            "  pg {} segment {} claim {} history {} scl {} highest {} vdl seen {} unfolded {} bytes{}",
            segment.pg,
            segment.segment,
            segment.claim,
            segment.history_epoch,
            segment.scl,
            segment.highest,
            segment.vdl_seen,
            segment.unfolded_bytes,
            if segment.damaged { " DAMAGED" } else { "" }
        );
    }
    Ok(())
}

/// Speaks to nodes one by one, without opening the volume.
#[derive(Debug)]
pub(crate) struct Operator {
    endpoint: Endpoint,
    cluster: Cluster,
    token: Option<VolumeToken>,
    role: Role,
}

impl Operator {
    /// `identity` names the certificate in the cluster's TLS directory.
    pub(crate) fn new(cluster: &Cluster, identity: &str) -> Result<Operator> {
        let identity = Identity::load(Path::new(&cluster.tls_dir), identity)?;
        let endpoint = Endpoint::client(&identity, &TransportOptions::default())?;
        Ok(Operator {
            endpoint,
            cluster: cluster.clone(),
            token: cluster.volume_token()?,
            role: identity.role(),
        })
    }

    /// Connects to a node.
    pub(crate) async fn connect(&self, node: &ClusterNode) -> Result<Connection> {
        let token = self.token.as_ref().map_or(&[][..], VolumeToken::as_bytes);
        let hello = Hello::new(self.role, node.node, Some(self.cluster.volume)).with_token(token);
        Ok(self.endpoint.connect(node.address, hello).await?.0)
    }

    /// One request and its answer.
    pub(crate) async fn call(&self, node: &ClusterNode, message: &Message) -> Result<Message> {
        let work = async {
            let connection = self.connect(node).await?;
            let answer = connection.call(message).await?;
            connection.close("done");
            Ok(answer)
        };
        tokio::time::timeout(ANSWER_LIMIT, work)
            .await
            .context("no answer in time")?
    }

    /// Opens a log stream and returns what the segment says to it.
    pub(crate) async fn attach(&self, node: &ClusterNode, attach: Attach) -> Result<Message> {
        let work = async {
            let connection = self.connect(node).await?;
            let (mut sender, mut receiver) = connection.open().await?;
            sender.send(&Message::Attach(Box::new(attach))).await?;
            let answer = receiver
                .recv()
                .await?
                .context("the log stream ended without an answer")?;
            connection.close("done");
            anyhow::Ok(answer)
        };
        tokio::time::timeout(ANSWER_LIMIT, work)
            .await
            .context("no answer in time")?
    }

    /// How a node is.
    pub(crate) async fn node_status(&self, node: &ClusterNode) -> Result<NodeStatus> {
        match self.call(node, &Message::AskStatus).await? {
            Message::NodeStatus(status) => Ok(status),
            Message::Refused(refusal) => anyhow::bail!("refused: {refusal}"),
            _ => anyhow::bail!("answered with something else"),
        }
    }

    /// The cluster's segment on a node.
    pub(crate) async fn segment_status(&self, node: &ClusterNode) -> Result<SegmentStatus> {
        let status = self.node_status(node).await?;
        let volume = self.cluster.volume;
        status
            .segments
            .into_iter()
            .find(|segment| segment.volume == volume)
            .context("hosts no segment of the volume")
    }

    /// Closes all connections.
    pub(crate) async fn close(&self) {
        self.endpoint.close().await;
    }
}
