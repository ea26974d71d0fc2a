//! Nodes that are destroyed, more than a volume survives by itself: a zone and one more. What is left can be read at the last durable point
//! (R23); and an operator may give the word that the others are lost, then three survivors go on, and nothing that was answered is gone (R19).

use std::collections::BTreeMap;

use sixfold_log_format::wire::{Install, Message};
use sixfold_log_format::{Lsn, NodeId, QuorumModel, SegmentId};
use sixfold_recovery::machine::Opened;

use super::writer::Writer;
use super::{Event, NODE_COUNT, WRITER_HOSTS, World};
use crate::clock::{MS, Time};
use crate::oracle::Bad;
use crate::plan::members;
use crate::reached::Reached;

/// The operator looks again so often.
const AGAIN: Time = 150 * MS;
/// A reading that ends a run must succeed so soon after the faults stopped.
const READ_BOUND: Time = 20_000 * MS;

/// Losses of a run.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    destroyed: Vec<NodeId>,
    /// The word that they are lost was given, and stands.
    given: bool,
    word: bool,
    /// Somebody has told a survivor so: whoever opens from now on may find that.
    left_out: bool,
    /// What survivors have said that they hold, to each writer that opens.
    said: BTreeMap<(usize, SegmentId), Lsn>,
    /// Who reads at the end of the run, and pages that readers who found a point wait for.
    last_reader: Option<usize>,
    unread: BTreeMap<usize, usize>,
    undecided: bool,
}

impl Losses {
    /// Whether nodes were destroyed.
    pub(super) fn are_there(&self) -> bool {
        !self.destroyed.is_empty()
    }

    /// Whom the next opening leaves out.
    pub(super) fn declared(&self) -> Vec<NodeId> {
        if self.word {
            self.destroyed.clone()
        } else {
            Vec::new()
        }
    }
}

impl World {
    /// Nodes are gone for good, all at once.
    pub(super) fn destroy(&mut self, nodes: u16) {
        for node in members(nodes) {
            let id = self.nodes[node].id;
            self.dies_for_good(node);
            self.losses.destroyed.push(id);
        }
    }

    /// An operator says that what was destroyed is lost, until the volume is open without it.
    pub(super) fn give_word(&mut self, index: usize, host: usize) {
        if self.losses.destroyed.is_empty() || self.finish.is_over() {
            return;
        }
        if !self.losses.given {
            (self.losses.given, self.losses.word) = (true, true);
            self.tell(|| "an operator gives the word that the destroyed nodes are lost".to_owned());
            let lost = self.losses.destroyed.clone();
            self.oracle.members.declare_lost(lost);
        }
        if !self.losses.word || !self.oracle.members.awaits_loss() {
            return;
        }
        let busy = self.writers.iter().filter(|w| w.is_recovering()).count();
        if busy == 0 {
            let host = NODE_COUNT + host;
            self.start_writer(host, true);
        }
        self.queue.push(self.now + AGAIN, Event::Fault { index });
    }

    /// When the faults are over the operator goes on as well: whoever was at work when the word was given did not know of it, and a writer
    /// that is left without its write quorum waits for ever.
    pub(super) fn operator_goes_on(&mut self) {
        let is_awaited = self.losses.word && self.oracle.members.awaits_loss();
        if is_awaited && !self.writers.iter().any(Writer::is_recovering) {
            let host = NODE_COUNT + self.rng.index(WRITER_HOSTS);
            self.start_writer(host, true);
        }
    }

    /// Every group has its write quorum without the nodes that were destroyed: the operator lets the volume repair itself.
    pub(super) fn word_was_needless(&mut self) {
        self.losses.word = false;
        self.oracle.members.nothing_lost();
    }

    /// A segment told somebody who opens the volume what it holds under its history.
    pub(super) fn survivor_says(&mut self, writer: usize, segment: SegmentId, scl: Lsn) {
        if self.losses.word {
            let said = self.losses.said.entry((writer, segment)).or_default();
            *said = scl.max(*said);
        }
    }

    /// Somebody who opens the volume tells a segment of a manifest: one that leaves lost segments out is for survivors that hold all that was
    /// ever answered (R19).
    pub(super) fn check_loss(&mut self, writer: usize, message: &Message) {
        let Message::Install(install) = message else {
            return;
        };
        if !self.losses.word || self.losses.left_out {
            return;
        }
        let Install { manifest, .. } = &**install;
        let three = |set: &&sixfold_log_format::SegmentSet| set.model == QuorumModel::TwoOfThree;
        let mut leaves_out = false;
        for entry in &manifest.pgs {
            let Some(set) = entry.sets.iter().find(three) else {
                continue;
            };
            leaves_out = true;
            let published = self.oracle.published_vdl();
            let lsns = self.oracle.pg_lsns.get(&entry.pg);
            let lsns = lsns.map_or(&[][..], Vec::as_slice);
            let below = lsns.partition_point(|lsn| *lsn <= published);
            let Some(last) = below.checked_sub(1).map(|at| lsns[at]) else {
                continue;
            };
            // Of two survivors of four the third one of the set is a lost one, until it is replaced.
            let destroyed = &self.losses.destroyed;
            let survivors = set.members.iter().filter(|m| !destroyed.contains(&m.node));
            for member in survivors {
                let said = self.losses.said.get(&(writer, member.segment));
                if said.is_none_or(|said| *said < last) {
                    let (segment, pg) = (member.segment, entry.pg);
                    return self.fail(format!(
                        "W{writer} leaves lost segments out although survivor {segment} of group {pg} has said {said:?}, {last} was durable (R19)"
                    ));
                }
            }
        }
        self.losses.left_out = leaves_out;
    }

    /// The volume was opened: perhaps without those that were lost.
    pub(super) fn opened_after_a_loss(&mut self, opened: &Opened) {
        let sets = opened.manifest.pgs.iter().flat_map(|entry| &entry.sets);
        if sets
            .into_iter()
            .any(|set| set.model == QuorumModel::TwoOfThree)
        {
            self.oracle.reached.hit(Reached::OpenedAfterALoss);
        }
    }

    /// All copies are there at the end of a run.
    pub(super) fn whole_again(&mut self) {
        let pgs = &self.oracle.members.in_force().pgs;
        if self.losses.left_out && pgs.iter().all(|entry| entry.members().len() == 6) {
            self.oracle.reached.hit(Reached::SixAfterALoss);
        }
    }

    /// The end of a run in which too few are left to write: whoever opens for reading finds everything that was answered, and can
    /// read it. Whether that was done.
    pub(super) fn read_what_is_left(&mut self, since: Time) -> Result<bool, Bad> {
        if self.losses.undecided {
            return Ok(true);
        }
        let last = self.losses.last_reader;
        let unread = last.and_then(|reader| self.losses.unread.get(&reader));
        if let (Some(reader), Some(0)) = (last, unread) {
            self.tell(|| format!("R{reader} has read what is left"));
            self.oracle.reached.hit(Reached::ReadAfterALoss);
            return Ok(true);
        }
        if self.now > since + READ_BOUND {
            return Err("liveness: three copies are left, and nobody can read them".to_owned());
        }
        if !last.is_some_and(|reader| self.is_reading(reader)) {
            self.losses.last_reader = Some(self.readers.len());
            self.start_reader(0);
        }
        Ok(false)
    }

    /// Rivals have left claims and histories that only nodes which are gone could decide about: nothing can be shown (R23).
    pub(super) fn is_undecided(&mut self) {
        self.losses.undecided |= self.plan.shape.members.ends_read_only;
    }

    /// A reader asks for so many pages of what is left.
    pub(super) fn reader_wants(&mut self, reader: usize, pages: usize) {
        self.losses.unread.insert(reader, pages);
    }

    /// It got one.
    pub(super) fn reader_got(&mut self, reader: usize) {
        if let Some(unread) = self.losses.unread.get_mut(&reader) {
            *unread = unread.saturating_sub(1);
        }
    }
}
