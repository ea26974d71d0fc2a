//! Promises: what a node has said is durable must be there if it died this very moment.
//!
//! A shadow of the node starts on its disk as it is, without the write in flight, and is asked what it holds; and each real start is
//! compared with all that was ever said. Also here: the question by which the world learns what a node holds before it hands a message over.

use std::collections::BTreeMap;
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

/// What was said of a segment.
#[derive(Debug, Clone, Copy, Default)]
struct Promise {
    claim: VolumeEpoch,
    history_epoch: VolumeEpoch,
    scl: Lsn,
}

impl Promise {
    fn of(message: &Message, segment: Option<SegmentId>) -> Option<(SegmentId, Promise)> {
        match message {
            Message::Ack(ack) => {
                let promise = Promise {
                    claim: ack.history_epoch,
                    history_epoch: ack.history_epoch,
                    scl: ack.scl,
                };
                Some((segment?, promise))
            }
            Message::Installed(installed) => {
                let promise = Promise {
                    claim: installed.history_epoch,
                    history_epoch: installed.history_epoch,
                    scl: installed.scl,
                };
                Some((installed.segment, promise))
            }
            Message::Census(census) => {
                let promise = Promise {
                    claim: census.volume_epoch,
                    history_epoch: census.history.volume_epoch,
                    scl: census.scl,
                };
                Some((census.segment, promise))
            }
            _ => None,
        }
    }

    /// Whether a node that says this of itself keeps it.
    fn is_kept(&self, segment: SegmentId, status: &NodeStatus) -> bool {
        status.segments.iter().any(|held| {
            let newer = held.history_epoch > self.history_epoch;
            let whole = held.history_epoch == self.history_epoch && held.scl >= self.scl;
            segment == held.segment && held.claim >= self.claim && (newer || whole)
        })
    }
}

/// What a node has said of each of its segments, the most of it.
#[derive(Debug, Default)]
pub(crate) struct Promises(BTreeMap<SegmentId, Promise>);

impl Promises {
    fn add(&mut self, segment: SegmentId, promise: Promise) {
        let most = self.0.entry(segment).or_default();
        most.claim = most.claim.max(promise.claim);
        if (promise.history_epoch, promise.scl) > (most.history_epoch, most.scl) {
            most.history_epoch = promise.history_epoch;
            most.scl = promise.scl;
        }
    }
}

impl World {
    /// A node says something: if it died now, would it still be true?
    pub(super) fn check_promise(&mut self, node: usize, stream: usize, message: &Message) {
        let Some((segment, promise)) = Promise::of(message, self.streams[stream].segment) else {
            return;
        };
        let mut promise = promise;
        if self.streams[stream].surveys {
            // What it holds is durable; a claim that is on its way to the disk is told as well, and makes a reader careful.
            promise.claim = promise.history_epoch;
        }
        self.nodes[node].promises.add(segment, promise);
        if self.is_dropped(segment) {
            return;
        }
        let every = match message {
            Message::Ack(_) => ACKS_PER_CHECK,
            _ => ANSWERS_PER_CHECK,
        };
        if self.nodes[node].suspect || !self.events.is_multiple_of(every) {
            return;
        }
        let Some(status) = self.shadow(node) else {
            return self.fail(format!(
                "{} could not start again from its disk as it is",
                node_name(node)
            ));
        };
        if !promise.is_kept(segment, &status) {
            self.fail(format!(
                "{} says {} and would not know it after a crash",
                node_name(node),
                super::brief::brief(message)
            ));
        }
    }

    /// A node that has started knows what it ever promised, unless its disk may have lost it without a trace. Where something is
    /// damaged in the middle of its log it starts damaged and says so; it does not guess (R12).
    pub(super) fn check_start(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        let is_ready = state.core.as_ref().is_some_and(NodeCore::is_ready);
        if !is_ready || !state.layers.take_start() {
            return;
        }
        let owes_proof = std::mem::take(&mut state.owes_proof);
        let Some(status) = self.status_of(node) else {
            return self.fail(format!("{} does not say how it is", node_name(node)));
        };
        self.check_files(node, &status);
        let held: Vec<SegmentId> = status.segments.iter().map(|held| held.segment).collect();
        self.check_dropped(node, &held);
        self.check_tombs(node);
        let unaware = status.segments.iter().find(|held| !held.damaged);
        if let Some(held) = unaware.filter(|_| self.nodes[node].says_damaged) {
            return self.fail(format!(
                "{} found its log damaged and calls segment {} whole (R12)",
                node_name(node),
                held.segment
            ));
        }
        if !owes_proof {
            return;
        }
        let promises = &self.nodes[node].promises.0;
        let broken = promises.iter().find(|(segment, promise)| {
            !self.is_dropped(**segment) && !promise.is_kept(**segment, &status)
        });
        if let Some((segment, promise)) = broken {
            let pg = self.places[segment].1;
            let bad = format!(
                "{} starts without what it promised: claim {}, SCL {} under history {} in group {pg}",
                node_name(node),
                promise.claim,
                promise.scl,
                promise.history_epoch
            );
            self.fail(bad);
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
                    let read = self.nodes[node]
                        .disk
                        .read_file(file, offset, bytes as usize)?;
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

    /// What a node that runs says of itself.
    pub(super) fn status_of(&mut self, node: usize) -> Option<NodeStatus> {
        self.status = None;
        self.node_event(node, status_question());
        self.status.take()
    }

    /// History and highest LSN that a segment holds now.
    fn ask_status(&mut self, node: usize, segment: SegmentId) -> Option<(VolumeEpoch, Lsn)> {
        if !self.nodes[node].core.as_ref()?.is_ready() {
            return None;
        }
        let status = self.status_of(node)?;
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
