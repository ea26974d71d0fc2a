//! Connections to all nodes of a fleet, kept while a verb runs, and what a look at all of them shows.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sixfold::{Cluster, ClusterNode};
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{Hello, Message, NodeStatus, Probe, SegmentProbe};
use sixfold_log_format::{Manifest, NodeId, SegmentId, VolumeId};
use sixfold_transport::{Connection, Endpoint, Identity, TransportOptions, VolumeToken};

/// How long one node may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Speaks to nodes without opening the volume.
pub(crate) struct Hands {
    endpoint: Endpoint,
    identity: Identity,
    volume: VolumeId,
    token: Option<VolumeToken>,
    nodes: RefCell<Vec<ClusterNode>>,
    connections: RefCell<BTreeMap<NodeId, Connection>>,
}

/// What a node said.
#[derive(Debug)]
pub(crate) struct NodeView {
    /// The node.
    pub(crate) node: ClusterNode,
    /// What it says of itself, or why it says nothing.
    pub(crate) status: Result<NodeStatus, String>,
    /// Its segments of the volume.
    pub(crate) segments: Vec<SegmentProbe>,
    manifest: Option<Box<Manifest>>,
}

/// What all of them said.
#[derive(Debug)]
pub(crate) struct View {
    /// Each node of the fleet.
    pub(crate) nodes: Vec<NodeView>,
    /// The newest manifest that any of them holds.
    pub(crate) manifest: Option<Manifest>,
}

impl View {
    /// How long ago any segment heard its writer, milliseconds.
    pub(crate) fn writer_heard_ms_ago(&self) -> Option<u32> {
        let segments = self.nodes.iter().flat_map(|node| &node.segments);
        segments
            .filter_map(|segment| segment.writer_heard_ms_ago)
            .min()
    }

    /// What a node says of a segment.
    pub(crate) fn segment(&self, segment: SegmentId) -> Option<&SegmentProbe> {
        let segments = self.nodes.iter().flat_map(|node| &node.segments);
        segments.into_iter().find(|probe| probe.segment == segment)
    }

    /// The manifest; an error when no node holds one.
    pub(crate) fn manifest(&self) -> Result<&Manifest> {
        let silent = self.nodes.iter().filter(|node| node.status.is_err());
        match (&self.manifest, silent.count()) {
            (Some(manifest), _) => Ok(manifest),
            (None, 0) => bail!("no node holds anything of the volume"),
            (None, silent) if silent == self.nodes.len() => bail!(
                "no node answered ({})",
                self.nodes[0].status.as_ref().err().map_or("", |why| why)
            ),
            (None, silent) => bail!(
                "none of the nodes that answered holds anything of the volume, and {silent} did not answer"
            ),
        }
    }
}

impl Hands {
    /// `identity` names the certificate in the cluster's TLS directory.
    pub(crate) fn new(cluster: &Cluster, identity: &str) -> Result<Rc<Hands>> {
        let identity = Identity::load(Path::new(&cluster.tls_dir), identity)?;
        Ok(Rc::new(Hands {
            endpoint: Endpoint::client(&identity, &TransportOptions::default())?,
            identity,
            volume: cluster.volume,
            token: cluster.volume_token()?,
            nodes: RefCell::new(cluster.nodes.clone()),
            connections: RefCell::default(),
        }))
    }

    /// The volume.
    pub(crate) fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The nodes known so far.
    pub(crate) fn nodes(&self) -> Vec<ClusterNode> {
        self.nodes.borrow().clone()
    }

    /// Nodes that the cluster's file does not list, but the manifest, or an operator.
    pub(crate) fn learn(&self, hints: &[NodeHint]) {
        let mut nodes = self.nodes.borrow_mut();
        for hint in hints {
            let known = nodes.iter().any(|node| node.node == hint.node);
            if let Ok(address) = hint.address.parse()
                && !known
            {
                nodes.push(ClusterNode {
                    node: hint.node,
                    az: hint.az.clone(),
                    address,
                });
            }
        }
    }

    /// One request and its answer.
    pub(crate) async fn call(&self, node: &ClusterNode, message: &Message) -> Result<Message> {
        let work = async {
            let known = self.connections.borrow().get(&node.node).cloned();
            if let Some(connection) = known {
                match connection.call(message).await {
                    Ok(answer) => return Ok(answer),
                    // It may have been restarted since.
                    Err(_) => self.connections.borrow_mut().remove(&node.node),
                };
            }
            let token = self.token.as_ref().map_or(&[][..], VolumeToken::as_bytes);
            let hello = Hello::new(self.identity.role(), node.node, Some(self.volume));
            let hello = hello.with_token(token);
            let (connection, _) = self.endpoint.connect(node.address, hello).await?;
            let answer = connection.call(message).await?;
            self.connections.borrow_mut().insert(node.node, connection);
            anyhow::Ok(answer)
        };
        match tokio::time::timeout(ANSWER_LIMIT, work).await {
            Ok(answer) => answer,
            Err(_) => {
                self.connections.borrow_mut().remove(&node.node);
                bail!("no answer in time")
            }
        }
    }

    /// The same to all nodes at once.
    pub(crate) async fn call_all(
        self: &Rc<Self>,
        message: &Message,
    ) -> Result<Vec<(ClusterNode, Result<Message>)>> {
        let ask = |node: ClusterNode| {
            let (hands, message) = (Rc::clone(self), message.clone());
            tokio::task::spawn_local(async move {
                let answer = hands.call(&node, &message).await;
                (node, answer)
            })
        };
        let asked: Vec<_> = self.nodes().into_iter().map(ask).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.push(answer.await.context("asking a node")?);
        }
        Ok(answers)
    }

    /// Asks all nodes how they are and what they hold. Nodes that only the manifest names are asked, too.
    pub(crate) async fn look(self: &Rc<Self>) -> Result<View> {
        let mut view = self.look_once().await?;
        let known = self.nodes.borrow().len();
        if let Some(manifest) = &view.manifest {
            self.learn(&manifest.hints);
        }
        if self.nodes.borrow().len() > known {
            view = self.look_once().await?;
        }
        Ok(view)
    }

    async fn look_once(self: &Rc<Self>) -> Result<View> {
        let probe = Message::Probe(Probe {
            volume: self.volume,
        });
        let probes = self.call_all(&probe).await?;
        let statuses = self.call_all(&Message::AskStatus).await?;
        let mut nodes = Vec::with_capacity(probes.len());
        for ((node, probe), (_, status)) in probes.into_iter().zip(statuses) {
            let (manifest, segments) = match probe {
                Ok(Message::ProbeAnswer(answer)) => (answer.manifest, answer.segments),
                _ => (None, Vec::new()),
            };
            let status = match status {
                Ok(Message::NodeStatus(status)) => Ok(status),
                Ok(Message::Refused(refusal)) => Err(format!("refused: {refusal}")),
                Ok(_) => Err("answered with something else".to_owned()),
                Err(error) => Err(crate::in_one_line(&error)),
            };
            nodes.push(NodeView {
                node,
                status,
                segments,
                manifest,
            });
        }
        let manifests = nodes.iter().filter_map(|node| node.manifest.as_deref());
        let newest = manifests.max_by_key(|manifest| manifest.version).cloned();
        Ok(View {
            nodes,
            manifest: newest,
        })
    }

    /// Closes all connections.
    pub(crate) async fn close(&self) {
        self.endpoint.close().await;
    }
}
