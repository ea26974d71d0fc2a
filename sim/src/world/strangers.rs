//! The volume's token: whoever belongs to the volume shows it on each of its connections, and strangers, who have the certificates but another
//! token or none, are refused whatever they ask, and change nothing.

use sixfold_log_format::wire::{Claim, DropSegment, Message, Probe, ReadLog, Refusal, Survey};
use sixfold_log_format::{Lsn, TokenDigest, WriterId};
use sixfold_storage_node_core::{ConnectionKey, Event as NodeEvent};

use super::World;
use super::brief::brief;
use super::net::{Kind, Party};
use crate::plan::node_name;
use crate::reached::Reached;

/// The digest of the volume's token.
pub(super) fn token() -> TokenDigest {
    TokenDigest::from_bytes([7; 32])
}

impl World {
    /// A connection is used for the first time in the life of a node's process: its hello comes before all else.
    pub(super) fn connect(&mut self, node: usize, connection: ConnectionKey, client: Party) {
        let is_known = !self.nodes[node].connected.insert(connection.0);
        if !self.plan.shape.token || is_known || matches!(client, Party::Node { .. }) {
            return;
        }
        let volume = self.manifest.volume;
        let shown = match client {
            // Every second one shows a token that is not the one.
            Party::Stranger if node.is_multiple_of(2) => None,
            Party::Stranger => Some((volume, TokenDigest::from_bytes([8; 32]))),
            _ => Some((volume, token())),
        };
        self.node_event(node, NodeEvent::Connected { connection, shown });
    }

    /// Somebody who has another volume would have this one: it asks every node for everything.
    pub(super) fn stranger(&mut self) {
        if !self.plan.shape.token || !self.is_created {
            return;
        }
        let volume = self.manifest.volume;
        let volume_epoch = self.oracle.newest().next();
        let writer = WriterId::from_bytes(self.rng.bytes());
        let places: Vec<_> = self.places.iter().map(|(id, at)| (*id, at.0)).collect();
        for (segment, node) in places {
            let claim = Claim {
                segment,
                volume_epoch,
                writer,
            };
            let read = ReadLog {
                segment,
                history_epoch: self.oracle.newest(),
                after: Lsn::NONE,
                through: self.oracle.last,
                bytes_max: 4_096,
            };
            for message in [
                Message::Claim(claim),
                Message::ReadLog(read),
                Message::Survey(Survey { segment }),
                Message::DropSegment(DropSegment { segment, volume }),
                Message::Probe(Probe { volume }),
            ] {
                self.open_stream(Party::Stranger, node, Kind::Nothing, message);
            }
        }
    }

    /// A node says something: to a stranger nothing but that it is refused.
    pub(super) fn check_stranger(&mut self, node: usize, stream: usize, message: &Message) {
        if self.streams[stream].client != Party::Stranger {
            return;
        }
        match message {
            Message::Refused(Refusal::Token) => self.oracle.reached.hit(Reached::StrangerRefused),
            // The segment is not here any more, or the node is not ready, or has too much to do.
            Message::Refused(_) => {}
            // One that holds nothing of the volume knows of none.
            Message::ProbeAnswer(answer) if answer.manifest.is_none() => {}
            // Nor has it anything to drop; what it had would be missed.
            Message::Done => {}
            other => self.fail(format!(
                "{} answers a stranger who has not shown the volume's token: {}",
                node_name(node),
                brief(other)
            )),
        }
    }
}
