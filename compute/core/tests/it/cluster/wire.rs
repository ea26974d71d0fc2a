//! Between the writer and its segments: what the writer asks for is done, and what segments say comes back as events.

use sixfold_compute_core::{AttachKey, FetchKey, WriterAction, WriterEvent, stream_bytes};
use sixfold_log_format::wire::{
    Ack, Attached, LogPiece, Message, PageAnswer, PageRequest, Pages, ReadLog, ReadPages, Refusal,
};
use sixfold_log_format::{Batch, Lsn, Manifest, SegmentId};

use super::{Cluster, VOLUME};

impl Cluster {
    pub fn index_of(&self, segment: SegmentId) -> usize {
        (0..self.segments.len())
            .find(|&index| self.segments[index].id == segment)
            .unwrap()
    }

    fn index_of_life(&self, attach: AttachKey) -> Option<usize> {
        self.segments
            .iter()
            .position(|segment| segment.life == Some(attach))
    }

    pub(super) fn perform(&mut self, action: WriterAction) {
        match action {
            WriterAction::Attach {
                attach,
                node,
                segment,
                message,
            } => {
                let index = self.index_of(segment);
                assert_eq!(node, self.segments[index].node);
                let Message::Attach(hello) = message else {
                    panic!("{message:?}")
                };
                assert_eq!(
                    (hello.segment, hello.volume_epoch),
                    (segment, self.volume_epoch)
                );
                self.attach(index, attach, &hello.manifest);
            }
            WriterAction::Detach { attach } => {
                self.detached.push(attach);
                if let Some(index) = self.index_of_life(attach) {
                    self.segments[index].life = None;
                }
            }
            WriterAction::Send { attach, message } => {
                if let Some(index) = self.index_of_life(attach) {
                    self.send(index, attach, message);
                }
            }
            WriterAction::Ask {
                fetch,
                node,
                message,
            } => {
                let read = match message {
                    Message::ReadPages(read) => read,
                    Message::ReadLog(read) => {
                        self.read_log(fetch, &read);
                        return;
                    }
                    message => {
                        self.call(fetch, node, message);
                        return;
                    }
                };
                let index = self.index_of(read.segment);
                assert_eq!(
                    (node, read.history_epoch),
                    (self.segments[index].node, self.volume_epoch)
                );
                self.segments[index].reads.push(read.clone());
                if self.segments[index].silent {
                    self.held_reads.push_back((fetch, index, read));
                } else {
                    self.serve(fetch, index, &read);
                }
            }
            WriterAction::Committed { ticket, result } => {
                // Published before answered (R28).
                if let Ok(lsn) = &result {
                    assert!(
                        *lsn <= self.core.shared().vdl(),
                        "{lsn} is answered above VDL"
                    );
                }
                self.answers.push((ticket, result));
            }
            WriterAction::Fetched { ticket, result } => self.fetched.push((ticket, result)),
            WriterAction::Rounded { ticket, result } => self.rounded.push((ticket, result)),
            WriterAction::LogRead { ticket, result } => self.log_reads.push((ticket, result)),
            WriterAction::Leased { ticket, held } => self.leased.push((ticket, held)),
            WriterAction::Fenced { volume_epoch } => self.fenced = Some(volume_epoch),
            WriterAction::Fleet { hints } => self.fleet = hints,
            WriterAction::WishReported { report } => self.reports.push(report),
            WriterAction::Refence => self.refences += 1,
            WriterAction::Drained => self.drained = true,
        }
    }

    fn attach(&mut self, index: usize, attach: AttachKey, manifest: &Manifest) {
        let segment = &mut self.segments[index];
        segment.attach_count += 1;
        if segment.down || self.dead_nodes.contains(&segment.node) {
            self.events.push_back(WriterEvent::Lost { attach });
            return;
        }
        let message = match segment.refuses.clone().or_else(|| segment.takes(manifest)) {
            Some(refusal) => Message::Refused(refusal),
            None => {
                segment.life = Some(attach);
                segment.echo = 0;
                segment.undrained.clear();
                let scl = segment.scl();
                Message::Attached(Attached {
                    scl,
                    history_epoch: self.volume_epoch,
                    vdl_seen: Lsn::NONE,
                })
            }
        };
        self.events
            .push_back(WriterEvent::Attached { attach, message });
    }

    fn send(&mut self, index: usize, attach: AttachKey, message: Message) {
        let bytes = stream_bytes(&message);
        let segment = &mut self.segments[index];
        if segment.stuck {
            segment.undrained.push_back(bytes);
            if let Message::Append(append) = message {
                segment.appends.push(append);
            }
            return;
        }
        if bytes > 0 {
            self.events
                .push_back(WriterEvent::Drained { attach, bytes });
        }
        self.receive(index, message);
        if !self.segments[index].mute {
            self.ack(index);
        }
    }

    /// The segment takes a message in.
    fn receive(&mut self, index: usize, message: Message) {
        let segment = &mut self.segments[index];
        let sequence = match message {
            Message::Append(append) => {
                let batch = Batch::decode(append.batch.clone(), VOLUME).unwrap();
                if !segment.full && !segment.lags {
                    segment.batches.insert(batch.header().first, batch);
                }
                segment.appends.push(append);
                segment.appends.last().unwrap().sequence
            }
            Message::Heartbeat(heartbeat) => {
                segment.heartbeats.push(heartbeat);
                heartbeat.sequence
            }
            other => panic!("{other:?} on a log stream"),
        };
        assert_eq!(sequence, segment.echo + 1, "sequence numbers count");
        segment.echo = sequence;
    }

    /// The segment acknowledges all that it has.
    pub fn ack(&mut self, index: usize) {
        let segment = &self.segments[index];
        let Some(attach) = segment.life else { return };
        let message = match &segment.refuses {
            Some(refusal) => Message::Refused(refusal.clone()),
            None => Message::Ack(Ack {
                echo: segment.echo,
                scl: segment.scl(),
                history_epoch: self.volume_epoch,
                slow: false,
                full: segment.full,
                wishes: self.wishes.clone(),
            }),
        };
        self.events
            .push_back(WriterEvent::Arrived { attach, message });
    }

    /// Acknowledges and runs.
    pub fn ack_and_run(&mut self, index: usize) {
        self.ack(index);
        self.run();
    }

    /// The stream breaks.
    pub fn lose(&mut self, index: usize) {
        if let Some(attach) = self.segments[index].life.take() {
            self.events.push_back(WriterEvent::Lost { attach });
        }
    }

    /// The node is gone.
    pub fn kill(&mut self, index: usize) {
        self.segments[index].down = true;
        self.lose(index);
    }

    /// A segment answers a page read.
    pub fn serve(&mut self, fetch: FetchKey, index: usize, read: &ReadPages) {
        let segment = &self.segments[index];
        let one = |request: &PageRequest| {
            let scl = segment.scl();
            if let Some(refusal) = &segment.refuses_reads {
                PageAnswer::Refused(refusal.clone())
            } else if scl < request.lsn.min(request.pg_last) {
                PageAnswer::Refused(Refusal::Behind { scl })
            } else {
                let page = segment.page(request.page, request.lsn, self.page_bytes);
                PageAnswer::Page(page.encode().into())
            }
        };
        let pages = read.pages.iter().map(one).collect();
        let is_up = !segment.down && !self.dead_nodes.contains(&segment.node);
        let answer = is_up.then_some(Message::Pages(Pages { pages }));
        self.events
            .push_back(WriterEvent::Answered { fetch, answer });
    }

    /// A segment answers with the batches that it holds.
    fn read_log(&mut self, fetch: FetchKey, read: &ReadLog) {
        let index = self.index_of(read.segment);
        assert_eq!(read.history_epoch, self.volume_epoch);
        let segment = &mut self.segments[index];
        segment.log_read_count += 1;
        if segment.silent {
            return;
        }
        let holds = |batch: &&Batch| {
            let runs = &batch.header().runs;
            let inside =
                |&(start, end): &(Lsn, Lsn)| start <= read.through && end > read.after.next();
            runs.iter().any(inside)
        };
        let found = segment.batches.values().filter(holds);
        let more = found.clone().count() > 1;
        let batches = found.take(1).map(|batch| batch.bytes().clone()).collect();
        let answer = if segment.down {
            None
        } else if let Some(refusal) = &segment.refuses_reads {
            Some(Message::Refused(refusal.clone()))
        } else {
            Some(Message::LogPiece(LogPiece { batches, more }))
        };
        self.events
            .push_back(WriterEvent::Answered { fetch, answer });
    }

    /// Answers every page read that is held back.
    pub fn serve_held(&mut self) {
        while let Some((fetch, index, read)) = self.held_reads.pop_front() {
            self.serve(fetch, index, &read);
        }
        self.run();
    }

    /// Gives a segment what another one has.
    pub fn gossip(&mut self, from: usize, to: usize) {
        let batches = self.segments[from].batches.clone();
        self.segments[to].batches.extend(batches);
    }

    /// Hands in an answer to a page read that the test made up.
    pub fn answer_read(&mut self, fetch: FetchKey, answer: Option<Message>) {
        self.events
            .push_back(WriterEvent::Answered { fetch, answer });
    }

    /// Hands in a message on a segment's stream that the test made up.
    pub fn say(&mut self, index: usize, message: Message) {
        let attach = self.segments[index].life.unwrap();
        self.events
            .push_back(WriterEvent::Arrived { attach, message });
    }
}
