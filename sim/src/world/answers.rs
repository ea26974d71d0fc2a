//! What nodes say on streams, and the ends of streams, brought to whoever opened them.

use sixfold_compute_core::{AttachKey, FetchKey, WriterEvent};
use sixfold_log_format::wire::{Message, PageAnswer, Refusal};
use sixfold_recovery::machine::{RecoveryEvent, RequestKey};

use super::net::{Kind, Party};
use super::{Event, World};
use crate::clock::US;
use crate::reached::Reached;

impl World {
    /// What was queued for a stream has left.
    pub(super) fn writer_drained(&mut self, writer: usize, attach: AttachKey, bytes: usize) {
        let Some(state) = self.writers.get_mut(writer) else {
            return;
        };
        if state.paused || state.is_gone() {
            return;
        }
        let undrained = state.undrained.entry(attach).or_default();
        *undrained += bytes;
        if *undrained >= self.plan.shape.stream_bytes / 4 {
            let bytes = std::mem::take(undrained);
            self.writer_event(writer, WriterEvent::Drained { attach, bytes });
        }
    }

    /// A message reaches the client's side of a stream.
    pub(super) fn deliver_down(&mut self, stream: usize, message: Message) {
        let first = !std::mem::replace(&mut self.streams[stream].answered, true);
        let state = &self.streams[stream];
        let node = state.node;
        match (state.client, state.kind.clone()) {
            (Party::Writer(writer), Kind::Log { attach }) => {
                self.log_stream_says(writer, attach, message, first);
            }
            (Party::Writer(writer), Kind::Recovery { request, round }) => {
                self.recovery_answer(writer, (request, round), message);
            }
            (Party::Writer(writer), Kind::Ask { fetch }) if first => {
                if let Message::Installed(installed) = &message
                    && installed.history_epoch == self.writers[writer].epoch
                {
                    self.hears_acceptance(writer, stream, installed.segment, installed.scl);
                }
                self.page_answer(writer, fetch, Some(message));
            }
            (Party::Reader(reader), Kind::Survey { request }) => {
                self.reader_event(reader, RecoveryEvent::Answer { request, message });
            }
            (Party::Reader(reader), Kind::Read) => match &message {
                Message::Pages(pages) if matches!(pages.pages[..], [PageAnswer::Page(_)]) => {
                    self.reader_got(reader);
                }
                Message::Refused(Refusal::Overloaded) => self.reader_asks_again(reader, stream),
                _ => {}
            },
            (Party::Standby(standby), Kind::Watch { request }) => {
                self.standby_event(standby, RecoveryEvent::Answer { request, message });
            }
            (Party::Node { node, life }, Kind::Peer { token }) if first => {
                self.peer_answer((node, life), token, Some(message));
            }
            (Party::Auditor, Kind::Audit { question }) => {
                self.audit_answer(node, question, message);
            }
            _ => {}
        }
    }

    fn log_stream_says(&mut self, writer: usize, attach: AttachKey, message: Message, first: bool) {
        let Some(&(_, segment)) = self.writers[writer].streams.get(&attach) else {
            return;
        };
        let said = match &message {
            Message::Attached(attached) => Some((attached.history_epoch, attached.scl)),
            Message::Ack(ack) => Some((ack.history_epoch, ack.scl)),
            _ => None,
        };
        if let Some((history_epoch, scl)) = said
            && history_epoch == self.writers[writer].epoch
        {
            let (node, pg) = self.places[&segment];
            let sets = self.oracle.members.sets(pg);
            if self.writers[writer].acks.hear((segment, pg), scl, sets) {
                self.oracle.reached.hit(Reached::SclFell);
            }
            if first {
                let stream = self.writers[writer].streams[&attach].0;
                self.hears_acceptance(writer, stream, segment, scl);
            }
            if first {
                self.ambush_attached(writer, node);
            }
        }
        if first {
            if let Message::Refused(Refusal::StaleEpoch { .. }) = &message {
                self.oracle.reached.hit(Reached::AttachRefusedStale);
            }
            self.writer_event(writer, WriterEvent::Attached { attach, message });
        } else {
            self.writer_event(writer, WriterEvent::Arrived { attach, message });
        }
    }

    fn recovery_answer(
        &mut self,
        writer: usize,
        (request, round): (RequestKey, u32),
        message: Message,
    ) {
        if let Message::Census(census) = &message {
            let newest = self.oracle.newest();
            if census.history.volume_epoch > newest {
                self.oracle.reached.hit(Reached::RecoveryOfARecovery);
            }
            if let Some(opening) = self.oracle.openings.last() {
                let history = &opening.history;
                let mut offered = false;
                for run in &census.runs {
                    let (first, last) = (history.annuls(run.first), history.annuls(run.last));
                    offered |= first || last;
                }
                if offered {
                    self.oracle.reached.hit(Reached::AnnulledRecordOffered);
                }
            }
        }
        self.refencing_hears(writer, &message);
        if let Message::Installed(installed) = &message {
            self.survivor_says(writer, installed.segment, installed.scl);
        }
        self.recovery_event(writer, round, RecoveryEvent::Answer { request, message });
    }

    fn page_answer(&mut self, writer: usize, fetch: FetchKey, answer: Option<Message>) {
        let asked = self.writers[writer].asks.remove(&fetch);
        if let (Some(wanted), Some(Message::Pages(pages))) = (asked, &answer)
            && matches!(pages.pages[..], [PageAnswer::Page(_)])
        {
            self.oracle.reached.hit(Reached::PageMissFetched);
            let earlier = self.writers[writer].asks.range(..fetch);
            if earlier.into_iter().any(|(_, other)| *other == wanted) {
                self.oracle.reached.hit(Reached::HedgedReadWon);
            }
        }
        self.writer_event(writer, WriterEvent::Answered { fetch, answer });
    }

    /// The client's side of a stream is over; `clean`: the node ended it behind its answers.
    pub(super) fn client_end(&mut self, stream: usize, clean: bool) {
        let state = &mut self.streams[stream];
        if !std::mem::replace(&mut state.client_open, false) {
            return;
        }
        let (answered, client, kind) = (state.answered, state.client, state.kind.clone());
        let node_open = state.node_open;
        self.live.remove(&stream);
        match (client, kind) {
            (Party::Writer(writer), Kind::Log { attach }) => {
                if node_open {
                    self.queue
                        .push(self.now + 100 * US, Event::NodeEnd { stream });
                }
                if self.writers[writer].streams.remove(&attach).is_some() {
                    self.writer_event(writer, WriterEvent::Lost { attach });
                }
            }
            (Party::Writer(writer), Kind::Recovery { request, round }) if !(clean && answered) => {
                self.recovery_event(writer, round, RecoveryEvent::Unreachable { request });
            }
            (Party::Writer(writer), Kind::Ask { fetch }) if !answered => {
                self.page_answer(writer, fetch, None);
            }
            (Party::Reader(reader), Kind::Survey { request }) if !(clean && answered) => {
                self.reader_unheard(reader, request);
            }
            (Party::Standby(standby), Kind::Watch { request }) if !(clean && answered) => {
                self.standby_event(standby, RecoveryEvent::Unreachable { request });
            }
            (Party::Node { node, life }, Kind::Peer { token }) if !answered => {
                self.peer_answer((node, life), token, None);
            }
            (Party::Auditor, Kind::Audit { question }) => {
                self.audit_end(question, clean && answered);
            }
            _ => {}
        }
    }
}
