//! Promises: what a node has said is durable must be there if it died this very moment.
//!
//! A shadow of the node starts on its disk as it is, without the write in flight, and is asked what it holds. Also here: the
//! question by which the world learns what a node holds before it hands a message over.

use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::wire::{Message, NodeStatus, Role};
use sixfold_log_format::{Lsn, SegmentId, VolumeEpoch};
use sixfold_storage_node_core::{Action, ConnectionKey, Event as NodeEvent, NodeCore, StreamKey};

use super::World;
use crate::plan::node_name;
use crate::reached::Reached;

/// The stream of the world's own questions.
pub(super) const STATUS_STREAM: u64 = u64::MAX;
/// Acks of which one is checked.
const ACKS_PER_CHECK: u64 = 401;
/// Answers to claims and installs of which one is checked: a start costs as much as many events.
const ANSWERS_PER_CHECK: u64 = 5;

/// What was said.
struct Promise {
    segment: Option<SegmentId>,
    claim: VolumeEpoch,
    history_epoch: VolumeEpoch,
    scl: Lsn,
}

impl World {
    /// A node says something: if it died now, would it still be true?
    pub(super) fn check_promise(&mut self, node: usize, message: &Message) {
        let promise = match message {
            Message::Ack(ack) if self.events.is_multiple_of(ACKS_PER_CHECK) => Promise {
                segment: None,
                claim: ack.history_epoch,
                history_epoch: ack.history_epoch,
                scl: ack.scl,
            },
            Message::Installed(installed) => Promise {
                segment: Some(installed.segment),
                claim: installed.history_epoch,
                history_epoch: installed.history_epoch,
                scl: installed.scl,
            },
            Message::Census(census) => Promise {
                segment: Some(census.segment),
                claim: census.volume_epoch,
                history_epoch: census.history.volume_epoch,
                scl: census.scl,
            },
            _ => return,
        };
        let rare = !matches!(message, Message::Ack(_));
        if self.nodes[node].suspect || (rare && !self.events.is_multiple_of(ANSWERS_PER_CHECK)) {
            return;
        }
        let Some(status) = self.shadow(node) else {
            return self.fail(format!(
                "{} could not start again from its disk as it is",
                node_name(node)
            ));
        };
        let keeps = status.segments.iter().any(|held| {
            let same = promise
                .segment
                .is_none_or(|segment| segment == held.segment);
            let newer = held.history_epoch > promise.history_epoch;
            let whole = held.history_epoch == promise.history_epoch && held.scl >= promise.scl;
            same && held.claim >= promise.claim && (newer || whole)
        });
        if !keeps {
            self.fail(format!(
                "{} says {} and would not know it after a crash",
                node_name(node),
                super::brief::brief(message)
            ));
        }
    }

    /// What a node would say of itself if it had died a moment ago.
    fn shadow(&self, node: usize) -> Option<NodeStatus> {
        let found = self.found_directory(node, 1);
        let now = Duration::from_secs(1);
        let mut core = NodeCore::new(found, now);
        core.handle(now, status_question());
        while let Some(action) = core.poll_action() {
            match action {
                Action::Read {
                    token,
                    file,
                    offset,
                    bytes,
                } => {
                    let offset = usize::try_from(offset).ok()?;
                    let read = self.nodes[node].disk.read(file.0, offset, bytes as usize)?;
                    let result = Ok(Bytes::from(read));
                    core.handle(now, NodeEvent::Read { token, result });
                }
                Action::Send {
                    message: Message::NodeStatus(status),
                    ..
                } => return Some(status),
                Action::Stop { .. } => return None,
                _ => {}
            }
        }
        None
    }

    /// What the world wants to know of a node before it hands a message over.
    pub(super) fn before_delivery(&mut self, node: usize, stream: usize, message: &Message) {
        match message {
            Message::ReadPages(read) if self.events.is_multiple_of(3) => {
                let held = self.ask_status(node, read.segment);
                if held.is_some_and(|(history_epoch, _)| history_epoch != read.history_epoch) {
                    self.must_refuse = Some(stream);
                }
            }
            Message::Attach(attach) => {
                let held = self.ask_status(node, attach.segment);
                if held.is_some_and(|(_, highest)| attach.history.annuls(highest)) {
                    self.oracle.reached.hit(Reached::ReturningNodeAnnuls);
                }
            }
            _ => {}
        }
    }

    /// History and highest LSN that a segment holds now.
    fn ask_status(&mut self, node: usize, segment: SegmentId) -> Option<(VolumeEpoch, Lsn)> {
        if !self.nodes[node].core.as_ref()?.is_ready() {
            return None;
        }
        self.status = None;
        self.node_event(node, status_question());
        let status = self.status.take()?;
        let held = status
            .segments
            .iter()
            .find(|held| held.segment == segment)?;
        Some((held.history_epoch, held.highest))
    }
}

fn status_question() -> NodeEvent {
    NodeEvent::Message {
        connection: ConnectionKey(u64::MAX),
        role: Role::Operator,
        stream: StreamKey(STATUS_STREAM),
        message: Message::AskStatus,
    }
}
