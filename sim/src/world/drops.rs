//! Segments that an operator drops: gone for good, whatever becomes of their node, and never made again (R12).
//!
//! A member that is dropped is the one copy of its group that a run may lose: it is on the forgetful node, which then forgets nothing else.

use sixfold_log_format::wire::Message;
use sixfold_log_format::{PgId, SegmentId};

use super::{Event, World};
use crate::clock::MS;
use crate::plan::node_name;
use crate::reached::Reached;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropping {
    /// It was asked for; it may have happened.
    Asked,
    /// It was answered: it has happened, durably.
    Done,
}

impl World {
    /// An operator drops the forgetful node's segment of a group, as soon as the node listens.
    pub(super) fn drop_segment(&mut self, index: usize, pg: u32) {
        let node = self.plan.shape.forgetful;
        let pg = PgId::new(pg % self.plan.shape.pg_count);
        let place = self.places.iter().find(|(_, place)| **place == (node, pg));
        let Some((&segment, _)) = place else { return };
        if self.dropped.get(&segment) == Some(&Dropping::Done) {
            return;
        }
        let state = &self.nodes[node];
        let listens = state.core.as_ref().is_some_and(|core| core.is_ready()) && !state.paused;
        if listens && self.is_created {
            self.dropped.insert(segment, Dropping::Asked);
            self.ask_drop(node, segment);
        }
        // Until it is answered.
        self.queue.push(self.now + 20 * MS, Event::Fault { index });
    }

    /// A drop was answered.
    pub(super) fn dropped_for_good(&mut self, segment: SegmentId) {
        let Some((node, pg)) = self.places.get(&segment).copied() else {
            return;
        };
        if self.dropped.insert(segment, Dropping::Done) != Some(Dropping::Done) {
            self.tell(|| format!("{} has dropped its segment of group {pg}", node_name(node)));
            self.oracle.reached.hit(Reached::SegmentDropped);
        }
        self.ask_create_again(node, segment, pg);
    }

    /// Whether what a segment promised is nobody's any more.
    pub(super) fn is_dropped(&self, segment: SegmentId) -> bool {
        self.dropped.contains_key(&segment)
            || self.oracle.members.is_removed(segment)
            || self.tombs.contains_key(&segment)
    }

    /// A segment that is gone says nothing.
    pub(super) fn check_silence(&mut self, node: usize, segment: SegmentId, message: &Message) {
        let speaks = matches!(
            message,
            Message::Ack(_)
                | Message::Attached(_)
                | Message::Census(_)
                | Message::Installed(_)
                | Message::Pages(_)
                | Message::LogPiece(_)
                | Message::GossipAnswer(_)
        );
        if speaks && self.dropped.get(&segment) == Some(&Dropping::Done) {
            self.fail(format!(
                "{} speaks for segment {segment}, which it has dropped: {}",
                node_name(node),
                super::brief::brief(message)
            ));
        }
    }

    /// What a node that has started says of itself: nothing of what it has dropped.
    pub(super) fn check_dropped(&mut self, node: usize, held: &[SegmentId]) {
        let back = held
            .iter()
            .find(|segment| self.dropped.get(segment) == Some(&Dropping::Done));
        if let Some(segment) = back {
            return self.fail(format!(
                "{} starts with segment {segment}, which it had dropped",
                node_name(node)
            ));
        }
        let was_there = |segment: &SegmentId| {
            self.dropped.get(segment) == Some(&Dropping::Done) && self.places[segment].0 == node
        };
        if self.dropped.keys().any(was_there) {
            self.oracle.reached.hit(Reached::StartedAfterADrop);
        }
    }

    /// A drop that was asked for and not answered.
    pub(super) fn late_drop(&mut self) -> Option<String> {
        let open = self
            .dropped
            .iter()
            .find(|(_, dropping)| **dropping == Dropping::Asked);
        let segment = *open?.0;
        let node = self.places[&segment].0;
        self.ask_drop(node, segment);
        Some(format!(
            "{} does not answer that it dropped segment {segment}",
            node_name(node)
        ))
    }
}
