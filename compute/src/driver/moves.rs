//! Nodes that were moved while nobody wrote (R25): whoever opens the volume found them by the cluster's description, and writes where they
//! are into the manifest, so that they find each other again.
//!
//! Only what was reached counts: the node answered there, with a certificate that names it. A description that is out of date changes
//! nothing. And where the manifest says that it is it must not answer: two applications may reach it in two ways, and the nodes, which go by
//! the manifest, perhaps in one of them only.

use std::net::SocketAddr;
use std::rc::Rc;

use sixfold_compute_core::WriterEvent;
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{Wish, WishVerb};
use sixfold_log_format::{NodeId, VolumeId};

use super::bridge::Bridge;
use crate::cluster::ClusterNode;
use crate::options::Options;
use crate::random;

/// Has the writer change the hints of nodes that were reached elsewhere, and are not where the manifest says. `hints`: those of the
/// manifest with which it opened.
pub(super) fn say(bridge: &Rc<Bridge>, options: &Options, hints: &[NodeHint]) {
    let cluster = options.cluster();
    let reached_at = |node: NodeId| bridge.links().reached_at(node);
    for (wish, hint, before) in moved(cluster.volume, &cluster.nodes, hints, reached_at) {
        let said = Rc::clone(bridge);
        bridge.spawn(async move {
            if let Some(before) = before
                && said.links().answers_at(hint.node, before).await
            {
                return;
            }
            tracing::info!(node = %hint.node, address = %hint.address, "a node was moved");
            said.event(WriterEvent::Wish {
                wish,
                hint: Some(hint),
            });
        });
    }
}

fn moved(
    volume: VolumeId,
    nodes: &[ClusterNode],
    hints: &[NodeHint],
    reached_at: impl Fn(NodeId) -> Option<SocketAddr>,
) -> Vec<(Wish, NodeHint, Option<SocketAddr>)> {
    let mut moved = Vec::new();
    for hint in hints {
        let Some(node) = nodes.iter().find(|node| node.node == hint.node) else {
            continue;
        };
        let before: Option<SocketAddr> = hint.address.parse().ok();
        // What is a node's own machine from here is another one from there.
        let is_only_here =
            node.address.ip().is_loopback() && before.is_some_and(|at| !at.ip().is_loopback());
        let is_elsewhere = before != Some(node.address) && !is_only_here;
        if is_elsewhere && reached_at(hint.node) == Some(node.address) {
            let wish = Wish {
                id: random::bytes(),
                volume,
                verb: WishVerb::Add,
                subject: *hint.node.as_bytes(),
                object: [0; 16],
            };
            let address = node.address.to_string();
            let hint = NodeHint {
                address,
                ..hint.clone()
            };
            moved.push((wish, hint, before));
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reached_elsewhere_is_said_and_nothing_else() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let nodes: Vec<ClusterNode> = (1..=4)
            .map(|port| ClusterNode::new("az1", at(port)))
            .collect();
        let hint = |index: usize, port: u16| NodeHint {
            node: nodes[index].node,
            az: "az1".to_owned(),
            address: at(port).to_string(),
        };
        // The first is where the manifest says; the second moved; the third was reached where the manifest says, though the
        // description names another place; the fourth was not reached.
        let mut hints = vec![hint(0, 1), hint(1, 12), hint(2, 13), hint(3, 14)];
        let reached_at = |node: NodeId| match node {
            node if node == nodes[0].node => Some(at(1)),
            node if node == nodes[1].node => Some(at(2)),
            node if node == nodes[2].node => Some(at(13)),
            _ => None,
        };
        let volume = VolumeId::from_bytes([7; 16]);
        let said = moved(volume, &nodes, &hints, reached_at);
        let said: Vec<_> = said.into_iter().map(|(_, hint, at)| (hint, at)).collect();
        assert_eq!(said, [(hint(1, 2), Some(at(12)))]);
        // A loopback address is of no use to others.
        hints[1].address = "10.0.0.7:12".to_owned();
        assert!(moved(volume, &nodes, &hints, reached_at).is_empty());
    }
}
