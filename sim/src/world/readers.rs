//! Read-only openings beside a writer, or where none is: processes that survey the volume without a claim, read at the point that they
//! found, and go (R23). What they show holds everything answered before they began, and lies within every later cut.

use std::time::Duration;

use sixfold_log_format::wire::{Message, PageRequest, ReadPages};
use sixfold_log_format::{Lsn, NodeId, PageId, VolumeEpoch};
use sixfold_recovery::machine::survey::{
    Survey, SurveyAction, SurveyError, SurveyOptions, Surveyed,
};
use sixfold_recovery::machine::{RecoveryEvent, RequestKey};

use super::brief::brief;
use super::net::{Kind, Party};
use super::{Event, NODE_COUNT, World};
use crate::clock::{LocalClock, MS, Time};
use crate::plan::node_name;
use crate::reached::Reached;

/// Pages that a reader reads.
const PAGES: usize = 8;
const DEADLINE: Duration = Duration::from_millis(1_500);
/// Pages that were asked for are there by then, or it is tried again.
const READ: Time = 600 * MS;

/// A reader's process.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) host: usize,
    clock: LocalClock,
    survey: Option<Survey>,
    /// The last commit that anybody was told of when it began.
    answered: Lsn,
    /// When it found the point.
    found_at: Option<Time>,
}

impl World {
    /// Somebody opens the volume for reading.
    pub(super) fn start_reader(&mut self, host: usize) {
        if !self.is_created {
            return;
        }
        let clock = self.draw_clock();
        let options = SurveyOptions {
            volume: self.manifest.volume,
            nodes: self.nodes.iter().map(|node| node.id).collect(),
            deadline: DEADLINE,
        };
        let survey = Survey::new(&options, clock.at(self.now));
        let answered = self.oracle.answered.keys().next_back().copied();
        self.readers.push(Reader {
            host: NODE_COUNT + host,
            clock,
            survey: Some(survey),
            answered: answered.unwrap_or(Lsn::NONE),
            found_at: None,
        });
        let reader = self.readers.len() - 1;
        self.tell(|| format!("R{reader} opens for reading"));
        self.pump_reader(reader);
    }

    pub(super) fn reader_event(&mut self, reader: usize, event: RecoveryEvent) {
        let now = self.readers[reader].clock.at(self.now);
        if let Some(survey) = &mut self.readers[reader].survey {
            survey.handle(now, event);
            self.pump_reader(reader);
        }
    }

    pub(super) fn reader_timer(&mut self, reader: usize) {
        let state = &self.readers[reader];
        let due = state.survey.as_ref().and_then(Survey::poll_timeout);
        if due.is_some_and(|due| due <= state.clock.at(self.now)) {
            self.reader_event(reader, RecoveryEvent::Timeout);
        }
    }

    /// A request of a reader cannot be answered.
    pub(super) fn reader_unheard(&mut self, reader: usize, request: RequestKey) {
        self.reader_event(reader, RecoveryEvent::Unreachable { request });
    }

    fn pump_reader(&mut self, reader: usize) {
        while let Some(action) = self.readers[reader]
            .survey
            .as_mut()
            .and_then(Survey::poll_action)
        {
            match action {
                SurveyAction::Send {
                    request,
                    node,
                    message,
                } => {
                    let node = self.node_of(node);
                    self.tell(|| format!("R{reader} -> {}: {}", node_name(node), brief(&message)));
                    let kind = Kind::Survey { request };
                    self.open_stream(Party::Reader(reader), node, kind, message);
                }
                SurveyAction::Done(result) => {
                    self.readers[reader].survey = None;
                    self.surveyed(reader, *result);
                }
            }
        }
        let state = &self.readers[reader];
        if let Some(due) = state.survey.as_ref().and_then(Survey::poll_timeout) {
            let at = state.clock.when(due).max(self.now + 1);
            self.queue.push(at, Event::ReaderTimer { reader });
        }
    }

    fn surveyed(&mut self, reader: usize, result: Result<Surveyed, SurveyError>) {
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                self.tell(|| format!("R{reader}: {error}"));
                match error {
                    SurveyError::Corrupt(_) | SurveyError::NoVolume { .. } => {
                        self.fail(format!("R{reader} cannot read: {error}"));
                    }
                    SurveyError::Undecided { .. } if self.finish.is_healed() => self.is_undecided(),
                    _ => {}
                }
                return;
            }
        };
        let (lsn, settled) = (found.lsn, found.settled);
        let epoch = found.history.volume_epoch;
        self.tell(|| format!("R{reader} reads at {lsn} of history {epoch}, settled: {settled}"));
        let answered = self.readers[reader].answered;
        if lsn < answered {
            return self.fail(format!(
                "R{reader} shows the volume at {lsn}, commit {answered} was answered before it began (R23)"
            ));
        }
        self.readers[reader].found_at = Some(self.now);
        self.check_surveyed(reader, &found);
        if !settled {
            self.oracle.reached.hit(Reached::ReadOnlyUnsettled);
            if self.finish.is_reading() {
                self.read_the_rest(reader, &found);
            }
            return;
        }
        let verdict = self.oracle.shown(epoch, lsn);
        self.check(verdict);
        self.oracle.reached.hit(if self.current_writer().is_some() {
            Reached::ReadOnlyBesideAWriter
        } else {
            Reached::ReadOnlyAlone
        });
        if self.finish.is_reading() {
            self.read_the_rest(reader, &found);
        } else if epoch == self.oracle.newest() {
            self.read_as_surveyed(reader, &found);
        }
    }

    /// What is left after a loss. Under a history that nobody has opened there is nothing to compare with: the truth is cut when
    /// somebody does.
    fn read_the_rest(&mut self, reader: usize, found: &Surveyed) {
        let is_newest = found.history.volume_epoch == self.oracle.newest();
        let count = if is_newest {
            self.read_as_surveyed(reader, found)
        } else {
            0
        };
        self.reader_wants(reader, count);
    }

    /// Whether it looks for its point, or waits for pages.
    pub(super) fn is_reading(&self, reader: usize) -> bool {
        let state = &self.readers[reader];
        let waits = |at: Time| self.now < at + READ;
        state.survey.is_some() || state.found_at.is_some_and(waits)
    }

    /// T of each group, with which pages are read at the point, is not below the group's last record at or below it (R23, R26).
    fn check_surveyed(&mut self, reader: usize, found: &Surveyed) {
        if found.history.volume_epoch != self.oracle.newest() {
            return;
        }
        for (pg, told) in &found.pg_last {
            let last = self.pg_last_at(*pg, found.lsn);
            if *told < last {
                return self.fail(format!(
                    "R{reader} reads at {} and believes that group {pg} ends with {told} there, it is {last} (R23)",
                    found.lsn
                ));
            }
        }
    }

    /// Reads some pages at the point; what is served is compared as it leaves. How many.
    fn read_as_surveyed(&mut self, reader: usize, found: &Surveyed) -> usize {
        let pages: Vec<PageId> = self.oracle.pages.keys().copied().collect();
        let reads_all = self.finish.is_reading();
        let mut count = 0;
        for turn in 0..PAGES.min(pages.len()) {
            let page = match turn {
                0 => PageId::META,
                _ => pages[self.rng.index(pages.len())],
            };
            let Some(pg) = found.manifest.pg_of(page) else {
                continue;
            };
            let mut holders: Vec<_> = found
                .manifest
                .pg(pg)
                .map_or(Vec::new(), sixfold_log_format::PgEntry::members);
            if reads_all {
                let dead = |id: NodeId| self.nodes[self.node_of(id)].dead;
                holders.retain(|member| !dead(member.node));
            }
            if holders.is_empty() {
                continue;
            }
            let member = holders[self.rng.index(holders.len())];
            let last = found.pg_last.iter().find(|(of, _)| *of == pg);
            let pg_last = last.map_or(found.lsn, |(_, last)| *last);
            let read = ReadPages {
                segment: member.segment,
                history_epoch: found.history.volume_epoch,
                pages: vec![PageRequest {
                    page,
                    lsn: found.lsn,
                    pg_last,
                }],
            };
            let node = self.node_of(member.node);
            let kind = if reads_all { Kind::Read } else { Kind::Nothing };
            self.open_stream(Party::Reader(reader), node, kind, Message::ReadPages(read));
            count += 1;
        }
        count
    }

    /// A node had too much to do for a page that a reader must get: it is asked once more.
    pub(super) fn reader_asks_again(&mut self, reader: usize, stream: usize) {
        let state = &self.streams[stream];
        let (node, pages) = (state.node, state.pages.clone());
        let Some(segment) = state.about.filter(|_| self.is_reading(reader)) else {
            return;
        };
        let read = ReadPages {
            segment,
            history_epoch: self.oracle.newest(),
            pages,
        };
        let message = Message::ReadPages(read);
        self.open_stream(Party::Reader(reader), node, Kind::Read, message);
    }

    /// A node names an epoch: somebody must have claimed it.
    pub(super) fn check_claimed(&mut self, node: usize, epoch: VolumeEpoch) {
        if epoch > self.claimed {
            self.fail(format!(
                "{} holds a claim of epoch {epoch}, the highest that anybody asked for is {} (R23)",
                node_name(node),
                self.claimed
            ));
        }
    }
}
