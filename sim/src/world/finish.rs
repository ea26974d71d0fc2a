//! The end of a run: faults stop, commits must resume within a bound, six copies must come back, and what they hold is compared
//! with the truth.

use std::collections::BTreeMap;

use bytes::Bytes;
use sixfold_compute_core::ReadPoint;
use sixfold_log_format::wire::{
    CreateSegment, DropSegment, Message, NodeStatus, PageAnswer, PageRequest, ReadLog, ReadPages,
    Refusal,
};
use sixfold_log_format::{Batch, Lsn, PageId, PgEntry, PgId, SegmentId};

use super::net::{Kind, Party};
use super::writer::Writer;
use super::{Event, NODE_COUNT, World};
use crate::clock::{MS, Time};
use crate::plan::{Fault, node_name};
use crate::reached::Reached;

/// Commits must resume so soon after the last fault.
const RESUME: Time = 25_000 * MS;
/// All copies must be there so soon after that.
const CONVERGE: Time = 30_000 * MS;
/// Where the membership changes: a node that made no segment is not asked for a minute.
const CONVERGE_MEMBERS: Time = 150_000 * MS;
/// Where three nodes are gone: each group grows again by itself, step by step, and they are asked for segments as well.
const CONVERGE_LOSSES: Time = 400_000 * MS;
const STEP: Time = 150 * MS;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Faults,
    Probing {
        since: Time,
    },
    Converging {
        since: Time,
    },
    Auditing {
        since: Time,
    },
    /// Too few are left to write: what there is is read.
    Reading {
        since: Time,
    },
    Over,
}

#[derive(Debug)]
enum Question {
    Create(SegmentId),
    Drop(SegmentId),
    /// Somebody wants a dropped segment made once more.
    CreateAgain(SegmentId),
    Status {
        round: u64,
    },
    Log {
        segment: SegmentId,
        /// What lies at or below went into layers; its pages are compared all the same.
        after: Lsn,
        scl: Lsn,
        batches: Vec<Bytes>,
    },
    Pages,
    /// A page at some point in the past.
    Probe,
    /// How far a wish is, if it asks that.
    Wish(Option<usize>),
}

/// Where the end of a run stands.
#[derive(Debug, Default)]
pub(crate) struct Finish {
    stage: Stage,
    questions: BTreeMap<u64, Question>,
    last_question: u64,
    round: u64,
    statuses: BTreeMap<usize, NodeStatus>,
    reopened: u32,
    complaint: String,
    /// Since when the audit has met damage that is not healed.
    harmed_since: Option<Time>,
    /// The disk that rots has done so once more, just before the audit.
    rotted: bool,
    /// The writer whose read point the audit reads at, and that.
    point: Option<(usize, ReadPoint)>,
}

impl Finish {
    pub(crate) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether faults have stopped and a commit must go through.
    pub(crate) fn wants_probe(&self) -> bool {
        matches!(self.stage, Stage::Probing { .. })
    }

    /// Whether no transaction begins any more.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(
            self.stage,
            Stage::Converging { .. } | Stage::Auditing { .. }
        )
    }

    /// Whether what is left after a loss is being read.
    pub(crate) fn is_reading(&self) -> bool {
        matches!(self.stage, Stage::Reading { .. })
    }

    pub(crate) fn is_healed(&self) -> bool {
        self.stage != Stage::Faults
    }

    /// A commit of after the faults was answered.
    pub(crate) fn probed(&mut self, now: Time) {
        if self.wants_probe() {
            self.stage = Stage::Converging { since: now };
        }
    }
}

impl World {
    /// Makes the volume's segments, until all are there.
    pub(super) fn create(&mut self) {
        if self.created.len() == self.places.len() {
            self.is_created = true;
            let host = NODE_COUNT + self.rng.index(super::WRITER_HOSTS);
            self.start_writer(host, false);
            return;
        }
        let missing: Vec<(SegmentId, usize, PgId)> = self
            .places
            .iter()
            .filter(|(segment, _)| !self.created.contains(segment))
            .map(|(segment, (node, pg))| (*segment, *node, *pg))
            .collect();
        for (segment, node, pg) in missing {
            let message = Message::CreateSegment(Box::new(CreateSegment {
                segment,
                pg,
                manifest: self.manifest.clone(),
            }));
            self.ask(node, Question::Create(segment), message);
        }
        self.queue.push(self.now + 10 * MS, Event::Create);
    }

    /// An operator drops a segment.
    pub(super) fn ask_drop(&mut self, node: usize, segment: SegmentId) {
        let volume = self.manifest.volume;
        let drop = DropSegment { segment, volume };
        self.ask(node, Question::Drop(segment), Message::DropSegment(drop));
    }

    /// An operator makes a segment that was dropped once more.
    pub(super) fn ask_create_again(&mut self, node: usize, segment: SegmentId, pg: PgId) {
        let manifest = self.manifest.clone();
        let message = Message::CreateSegment(Box::new(CreateSegment {
            segment,
            pg,
            manifest,
        }));
        self.ask(node, Question::CreateAgain(segment), message);
    }

    /// An operator's tool says something to a node; `wish`: it asks how far that one is.
    pub(super) fn ask_operator(&mut self, node: usize, wish: Option<usize>, message: Message) {
        self.ask(node, Question::Wish(wish), message);
    }

    /// Reads pages at some point, for the oracle alone.
    pub(super) fn ask_probe(&mut self, node: usize, read: ReadPages) {
        self.ask(node, Question::Probe, Message::ReadPages(read));
    }

    fn ask(&mut self, node: usize, question: Question, message: Message) {
        if self.nodes[node].core.is_none() {
            return;
        }
        self.finish.last_question += 1;
        let number = self.finish.last_question;
        self.finish.questions.insert(number, question);
        self.open_stream(
            Party::Auditor,
            node,
            Kind::Audit { question: number },
            message,
        );
    }

    /// All faults end.
    pub(super) fn heal_all(&mut self) {
        if self.finish.is_healed() {
            return;
        }
        self.tell(|| "** all faults end".to_owned());
        self.director.stop();
        self.ambushes.forget_all();
        self.traps.forget_all();
        self.window = None;
        self.hearing.forget_all();
        self.heal_network();
        for node in 0..self.nodes.len() {
            let disk = &mut self.nodes[node].disk;
            disk.full = false;
            disk.slow = 1;
            disk.fail_next_write = false;
            disk.misreads = 0;
            disk.misdirect_next_write = false;
            disk.overwrite_next = false;
            disk.settle();
            let life = self.nodes[node].life;
            self.resume_node(node, life);
            if self.nodes[node].core.is_none() {
                self.start_node(node);
            }
        }
        for writer in 0..self.writers.len() {
            self.resume_writer(writer);
        }
        self.release_held();
        let since = self.now;
        self.finish.stage = if self.plan.shape.members.ends_read_only {
            Stage::Reading { since }
        } else {
            Stage::Probing { since }
        };
        self.queue.push(self.now + STEP, Event::Finish);
    }

    pub(super) fn finish_step(&mut self) {
        let now = self.now;
        match self.finish.stage {
            Stage::Faults | Stage::Over => return,
            Stage::Probing { since } => {
                self.supervise();
                self.operator_goes_on();
                if now > since + RESUME {
                    return self.fail("liveness: no commit was answered after the faults stopped");
                }
            }
            Stage::Converging { since } => {
                let bound = if self.losses.are_there() {
                    CONVERGE_LOSSES
                } else if self.plan.shape.members.spares > 0 {
                    CONVERGE_MEMBERS
                } else {
                    CONVERGE
                };
                if now > since + bound {
                    let complaint = self.finish.complaint.clone();
                    return self.fail(format!(
                        "liveness: the copies do not come back: {complaint}"
                    ));
                }
                self.supervise();
                self.judge_statuses();
            }
            Stage::Reading { since } => match self.read_what_is_left(since) {
                Ok(true) => {
                    self.finish.stage = Stage::Over;
                    return;
                }
                Ok(false) => {}
                Err(bad) => return self.fail(bad),
            },
            Stage::Auditing { since } => {
                if self.finish.questions.is_empty() {
                    self.finish.stage = Stage::Over;
                    self.finish.point = None;
                    let walked = self.oracle.walk_tree();
                    return self.check(walked);
                }
                if now > since + CONVERGE {
                    return self.fail("liveness: the audit is not answered");
                }
            }
        }
        self.queue.push(now + STEP, Event::Finish);
    }

    /// Whether every sound node holds everything; asks again where it is not known.
    fn judge_statuses(&mut self) {
        if self.writers.iter().any(Writer::is_recovering) {
            // It will either open, and everything begins anew, or give up.
            return;
        }
        let mut complaint = None;
        let newest = self.oracle.newest();
        let mut overtaken = false;
        for node in 0..self.nodes.len() {
            if self.nodes[node].lost || self.nodes[node].dead {
                continue;
            }
            let name = node_name(node);
            let Some(status) = self.finish.statuses.get(&node) else {
                complaint.get_or_insert(format!("{name} has not said how it is"));
                continue;
            };
            let held: Vec<SegmentId> = status.segments.iter().map(|held| held.segment).collect();
            complaint = complaint.or_else(|| self.judge_members(node, &held));
            let manifest = self.oracle.members.in_force();
            let is_member = |segment: SegmentId| {
                let entries = manifest.pgs.iter();
                let mut members = entries.flat_map(PgEntry::members);
                members.any(|member| member.segment == segment)
            };
            for segment in status
                .segments
                .iter()
                .filter(|held| is_member(held.segment))
            {
                overtaken |= segment.claim > newest;
                let last = self.oracle.pg_last(segment.pg);
                if segment.damaged {
                    complaint = Some(format!(
                        "{name} does not heal its damage in group {}",
                        segment.pg
                    ));
                }
                if segment.scl != last || segment.history_epoch != newest {
                    complaint = Some(format!(
                        "{name} has SCL {} of {last} in group {} under history {} of {newest}, claim {}",
                        segment.scl, segment.pg, segment.history_epoch, segment.claim
                    ));
                }
            }
        }
        let complaint = complaint
            .or_else(|| self.late_watch())
            .or_else(|| self.late_drop())
            .or_else(|| self.late_membership());
        match complaint {
            None => self.audit(),
            Some(complaint) => {
                self.finish.complaint = complaint;
                // A dead candidate left a claim that keeps a node away from the writer: the next opening brings it back.
                if overtaken && self.finish.reopened < 3 && self.finish.round > 20 {
                    self.finish.reopened += 1;
                    self.finish.round = 0;
                    if let Some(writer) = self.current_writer() {
                        self.end_writer(writer, "is started anew");
                    }
                    self.finish.stage = Stage::Probing { since: self.now };
                    return;
                }
                self.finish.round += 1;
                self.finish.questions.clear();
                let round = self.finish.round;
                for node in 0..self.nodes.len() {
                    self.ask(node, Question::Status { round }, Message::AskStatus);
                }
            }
        }
    }

    /// Reads everything from everybody.
    fn audit(&mut self) {
        // Announced first, so that it stays readable (R17).
        let Some((lsn, point)) = self.announce_for_audit() else {
            return self.supervise();
        };
        self.finish.point = Some(point);
        self.whole_again();
        let rots = |(_, fault): &(Time, Fault)| matches!(fault, Fault::Rot);
        if !self.finish.rotted && self.plan.faults.iter().any(rots) {
            self.finish.rotted = true;
            self.rot();
        }
        self.finish.stage = Stage::Auditing { since: self.now };
        self.finish.questions.clear();
        let newest = self.oracle.newest();
        let places: Vec<(SegmentId, usize, PgId)> = self
            .oracle
            .members
            .in_force()
            .pgs
            .iter()
            .flat_map(|entry| entry.members().into_iter().map(|member| (member, entry.pg)))
            .map(|(member, pg)| (member.segment, self.node_of(member.node), pg))
            .collect();
        for (segment, node, pg) in places {
            let status = self.finish.statuses.get(&node);
            let status = status.and_then(|status| {
                status
                    .segments
                    .iter()
                    .find(|known| known.segment == segment)
            });
            let Some((scl, history_epoch)) =
                status.map(|status| (status.scl, status.history_epoch))
            else {
                continue;
            };
            if self.nodes[node].lost || history_epoch != newest {
                continue;
            }
            self.ask_log(node, segment, Lsn::NONE, scl);
            let pages: Vec<PageId> = self
                .oracle
                .pages
                .keys()
                .copied()
                .filter(|page| self.manifest.pg_of(*page) == Some(pg))
                .collect();
            let pg_last = self.pg_last_at(pg, lsn);
            for pages in pages.chunks(64) {
                let request = |page: &PageId| PageRequest {
                    page: *page,
                    lsn,
                    pg_last,
                };
                let read = ReadPages {
                    segment,
                    history_epoch,
                    pages: pages.iter().map(request).collect(),
                };
                self.ask(node, Question::Pages, Message::ReadPages(read));
            }
            self.audit_the_past(node, segment, pg);
        }
    }

    /// A read point at the published VDL of the writer that is there.
    fn announce_for_audit(&self) -> Option<(Lsn, (usize, ReadPoint))> {
        let writer = self.current_writer()?;
        let shared = self.writers[writer].shared.as_ref()?;
        let point = shared.announce();
        Some((point.lsn(), (writer, point)))
    }

    /// Whether the point of the audit is announced still: the writer has not ended since.
    fn is_announced(&self) -> bool {
        let current = self.current_writer();
        let of_current = |(writer, _): &(usize, ReadPoint)| Some(*writer) == current;
        self.finish.point.as_ref().is_some_and(of_current)
    }

    /// Asks for the log of a segment in `(after, scl]`.
    fn ask_log(&mut self, node: usize, segment: SegmentId, after: Lsn, scl: Lsn) {
        let read = ReadLog {
            segment,
            history_epoch: self.oracle.newest(),
            after,
            through: scl,
            bytes_max: 16 << 20,
        };
        let question = Question::Log {
            segment,
            after,
            scl,
            batches: Vec::new(),
        };
        self.ask(node, question, Message::ReadLog(read));
    }

    pub(super) fn audit_answer(&mut self, node: usize, question: u64, message: Message) {
        let Some(asked) = self.finish.questions.get_mut(&question) else {
            return;
        };
        match (asked, message) {
            (Question::Create(segment), Message::Done) => {
                let segment = *segment;
                self.created.insert(segment);
            }
            (Question::Drop(segment), Message::Done) => {
                let segment = *segment;
                self.dropped_for_good(segment);
            }
            (Question::CreateAgain(segment), Message::Done) => {
                let bad = format!("segment {segment} was dropped, and is made once more (R12)");
                self.fail(bad);
            }
            (Question::Status { round }, Message::NodeStatus(status))
                if *round == self.finish.round =>
            {
                self.finish.statuses.insert(node, status);
            }
            (Question::Log { batches, .. }, Message::LogPiece(piece)) => {
                batches.extend(piece.batches);
            }
            (
                Question::Log {
                    segment,
                    after,
                    scl,
                    ..
                },
                Message::Refused(Refusal::Forgotten { horizon }),
            ) if *after < horizon => {
                let (segment, scl) = (*segment, *scl);
                self.finish.questions.remove(&question);
                if horizon < scl {
                    self.ask_log(node, segment, horizon, scl);
                }
            }
            (Question::Wish(Some(wish)), Message::WishReport(report)) => {
                let wish = *wish;
                self.wish_reported(wish, report.state, &report.text);
            }
            (Question::Probe, Message::Pages(pages)) => self.probed_pages(node, &pages.pages),
            (Question::Pages, Message::Pages(pages)) => {
                let forgets = !self.is_announced();
                let refused = pages.pages.iter().find_map(|answer| match answer {
                    PageAnswer::Refused(Refusal::Overloaded) | PageAnswer::Page(_) => None,
                    PageAnswer::Refused(Refusal::Forgotten { .. }) if forgets => None,
                    PageAnswer::Refused(refusal) => Some(refusal),
                });
                let refused = refused.cloned();
                if let Some(refusal) = refused
                    && !self.met_damage(node, &refusal)
                {
                    self.fail(format!(
                        "{} refuses a page to the audit: {refusal:?}",
                        node_name(node)
                    ));
                }
            }
            (Question::Log { .. } | Question::Pages, Message::Refused(refusal)) => {
                // Too many reads at once: the rest is looked at elsewhere.
                let busy = matches!(refusal, Refusal::Overloaded);
                self.finish.questions.remove(&question);
                if !busy && !self.met_damage(node, &refusal) {
                    self.fail(format!(
                        "{} refuses the audit: {refusal:?}",
                        node_name(node)
                    ));
                }
            }
            _ => {}
        }
    }

    /// Whether the audit has met what the one bad disk of the run did: that must be healed, and is looked at again.
    fn met_damage(&mut self, node: usize, refusal: &Refusal) -> bool {
        let state = &self.nodes[node];
        let may_be = state.suspect || state.layer_harmed || self.misreads_planned;
        if !may_be || !matches!(refusal, Refusal::Corrupt { .. }) {
            return false;
        }
        self.oracle.reached.hit(Reached::DamageFoundByAudit);
        let since = *self.finish.harmed_since.get_or_insert(self.now);
        self.finish.complaint = format!("{} does not heal: {refusal:?}", node_name(node));
        self.finish.stage = Stage::Converging { since };
        self.finish.statuses.clear();
        true
    }

    pub(super) fn audit_end(&mut self, question: u64, _whole: bool) {
        let Some(asked) = self.finish.questions.remove(&question) else {
            return;
        };
        let Question::Log {
            segment,
            after,
            scl,
            batches,
        } = asked
        else {
            return;
        };
        let (node, pg) = self.places[&segment];
        let history = match self.oracle.openings.last() {
            Some(opening) => opening.history.clone(),
            None => return,
        };
        let mut lsns = Vec::new();
        for bytes in batches {
            if !self.oracle.knows(&bytes) {
                return self.fail(format!(
                    "{} holds a batch that nobody shipped",
                    node_name(node)
                ));
            }
            let Ok(batch) = Batch::decode(bytes, self.manifest.volume) else {
                return self.fail(format!("{} holds what is no batch", node_name(node)));
            };
            for (start, end) in &batch.header().runs {
                lsns.extend(
                    (start.get()..end.get())
                        .map(Lsn::new)
                        .filter(|lsn| after < *lsn && *lsn <= scl && !history.annuls(*lsn)),
                );
            }
        }
        let mut wanted = self.oracle.pg_lsns.get(&pg).cloned().unwrap_or_default();
        // The writer's chores may have minted more since.
        wanted.retain(|lsn| after < *lsn && *lsn <= scl);
        if lsns != wanted {
            let differ = lsns.iter().zip(&wanted).find(|(one, other)| one != other);
            self.fail(format!(
                "{} holds {} valid records of group {pg}, there are {}; first difference {differ:?}",
                node_name(node),
                lsns.len(),
                wanted.len()
            ));
        }
    }
}
