//! Log streams: attach, append, heartbeat, ack.
//!
//! A stream belongs to one segment and one writer of one epoch. It opens when the epoch's history is durable (R3) and ends
//! when a higher claim is accepted: from then on no ack leaves on it, also not for writes in flight (R2). Acks are
//! cumulative, at most one per stream and event.

use std::time::Duration;

use sixfold_log_format::hot_log::Entry;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{Ack, Append, Attach, Attached, Heartbeat, Message, Refusal};
use sixfold_log_format::{Lsn, MembershipEpoch, SegmentId, VolumeEpoch, WriterId};

use crate::action::{Action, Severity};
use crate::event::StreamKey;
use crate::install::Installation;
use crate::node::NodeCore;
use crate::removed::names;
use crate::segment::{IngestError, Ingested};
use crate::waiters::Waiter;

/// A log stream.
#[derive(Debug)]
pub(crate) struct LogStream {
    pub(crate) segment: SegmentId,
    pub(crate) volume_epoch: VolumeEpoch,
    pub(crate) writer: WriterId,
    /// Highest sequence number received.
    echo: u64,
    /// Whether [`Attached`] was sent.
    open: bool,
}

/// What came of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    /// Whether it was appended.
    pub(crate) new: bool,
    /// Its last LSN.
    pub(crate) last: Lsn,
}

impl NodeCore {
    pub(crate) fn on_attach(&mut self, now: Duration, stream: StreamKey, attach: Attach) {
        let Attach {
            segment: id,
            volume_epoch,
            writer,
            history,
            manifest,
        } = attach;
        if self.streams.contains_key(&stream) {
            return self.end_stream(stream, malformed("a stream attaches once"));
        }
        let installation = Installation {
            volume_epoch,
            writer,
            history,
            manifest,
        };
        let pg = self.segments.get(&id).map(|segment| segment.pg);
        let named = pg.is_some_and(|pg| names(&installation.manifest, pg, id));
        let ticket = match self.install(id, installation) {
            Ok(ticket) => ticket,
            Err(refusal) => return self.refuse(stream, refusal),
        };
        if !named && !planted(Mutant::RemovedSegmentServes) {
            // It learned that it is no member, and takes nothing.
            return self.refuse_malformed(stream, "the manifest does not name this segment");
        }
        // What is left of this segment's streams is of the same writer: this one replaces it.
        for older in self.streams_of(id) {
            self.end_stream(
                older,
                malformed("a newer stream of the same writer replaced this one"),
            );
        }
        self.streams.insert(
            stream,
            LogStream {
                segment: id,
                volume_epoch,
                writer,
                echo: 0,
                open: false,
            },
        );
        self.wait(now, ticket, Waiter::Attach { stream });
    }

    /// The history of a stream that attaches is durable.
    pub(crate) fn answer_attach(&mut self, now: Duration, stream: StreamKey) {
        let Some(log_stream) = self.streams.get_mut(&stream) else {
            return;
        };
        let id = log_stream.segment;
        let segment = self
            .segments
            .get_mut(&id)
            .expect("streams are of segments that are here");
        if !segment.admits(log_stream.volume_epoch, log_stream.writer) {
            let claim = segment.guard.claim;
            return self.end_stream(
                stream,
                Refusal::StaleEpoch {
                    volume_epoch: claim,
                },
            );
        }
        log_stream.open = true;
        segment.stream = Some(stream);
        // What its history annuls is annulled for good from here on.
        segment.index.begin_sweep();
        segment.unfolded_bytes = segment.chain.unfolded_bytes(&segment.history);
        if !segment.index.is_swept() {
            self.upkeep.unswept.insert(id);
        }
        self.upkeep.look();
        // Only a writer that has opened attaches: the end of its history's last range is the VDL of its reopening (R1).
        segment.saw_vdl(segment.history.highest_end());
        segment.writer_heard = Some(now);
        segment.lease.granted(now);
        let attached = Attached {
            scl: segment.scl(),
            history_epoch: segment.history_epoch(),
            vdl_seen: segment.vdl_seen,
        };
        let message = Message::Attached(attached);
        self.actions.push_back(Action::Send {
            stream,
            message,
            end: false,
        });
    }

    /// What append and heartbeat have in common: the stream is open, its writer the current one, its manifest not old.
    fn hear(
        &mut self,
        now: Duration,
        stream: StreamKey,
        sequence: u64,
        membership_epoch: MembershipEpoch,
    ) -> Result<SegmentId, Refusal> {
        let log_stream = match self.streams.get_mut(&stream) {
            Some(log_stream) if log_stream.open => log_stream,
            _ => return Err(malformed("the stream is not attached")),
        };
        let id = log_stream.segment;
        let segment = self
            .segments
            .get_mut(&id)
            .expect("streams are of segments that are here");
        if !segment.admits(log_stream.volume_epoch, log_stream.writer)
            && !planted(Mutant::AckAfterClaim)
        {
            return Err(Refusal::StaleEpoch {
                volume_epoch: segment.guard.claim,
            });
        }
        // A lower membership epoch is no reason to refuse: only this writer changes the manifest, and an envelope may be older than
        // an install that overtook it (R20).
        log_stream.echo = log_stream.echo.max(sequence);
        segment.writer_heard = Some(now);
        let held = segment.manifest.version.membership_epoch;
        if membership_epoch > held.max(segment.gossip.membership_heard) {
            // Some peer may have the manifest already.
            segment.gossip.membership_heard = membership_epoch;
            self.ask_a_peer(now, id);
        }
        Ok(id)
    }

    pub(crate) fn on_append(&mut self, now: Duration, stream: StreamKey, append: Append) {
        let id = match self.hear(now, stream, append.sequence, append.membership_epoch) {
            Ok(id) => id,
            Err(refusal) => return self.end_stream(stream, refusal),
        };
        self.pace.saw_foreground(now);
        let sender = self.streams[&stream].volume_epoch;
        if let Some(segment) = self.segments.get_mut(&id) {
            segment
                .retention
                .heard(now, append.pgmrpl, append.pgmrpl_lease_ms);
        }
        match self.take_batch_of(id, append.batch, sender, true) {
            Ok(taken) if taken.new && !planted(Mutant::AckBeforeSync) => {}
            // Held already, or on its way to the disk: the ack says how far.
            Ok(_) => {
                self.ack_due.insert(id);
            }
            Err(refusal) => self.end_stream(stream, refusal),
        }
    }

    pub(crate) fn on_heartbeat(&mut self, now: Duration, stream: StreamKey, heartbeat: &Heartbeat) {
        let id = match self.hear(now, stream, heartbeat.sequence, heartbeat.membership_epoch) {
            Ok(id) => id,
            Err(refusal) => return self.end_stream(stream, refusal),
        };
        let segment = self.segments.get_mut(&id).expect("heard just now");
        segment.saw_vdl(heartbeat.vdl);
        segment
            .retention
            .heard(now, heartbeat.pgmrpl, heartbeat.pgmrpl_lease_ms);
        segment.gossip.pg_last = segment.gossip.pg_last.max(heartbeat.pg_last);
        if self.pressed {
            // What could not be frozen before may be now.
            self.upkeep.look();
        }
        self.ack_due.insert(id);
    }

    /// Verifies a batch from an admitted sender and appends it when it is new.
    pub(crate) fn take_batch(
        &mut self,
        id: SegmentId,
        bytes: bytes::Bytes,
        sender: VolumeEpoch,
    ) -> Result<Taken, Refusal> {
        self.take_batch_of(id, bytes, sender, false)
    }

    /// The same; with `bounded`, for the writer, it is refused when a bound is near. What closes a hole is taken all the same: without
    /// it nothing behind the hole could ever go into a layer.
    fn take_batch_of(
        &mut self,
        id: SegmentId,
        bytes: bytes::Bytes,
        sender: VolumeEpoch,
        bounded: bool,
    ) -> Result<Taken, Refusal> {
        let segment = self.segments.get_mut(&id).expect("the caller found it");
        let batch = match segment.ingest(bytes, sender) {
            Ok(Ingested::New(batch)) => batch,
            Ok(Ingested::Nothing(last)) => return Ok(Taken { new: false, last }),
            Err(IngestError::Malformed(reason)) => return Err(Refusal::Malformed { reason }),
            Err(error @ IngestError::Conflict { .. }) => {
                let reason = error.to_string();
                self.log_line(Severity::Error, format!("segment {id}: {reason}"));
                return Err(Refusal::Corrupt { reason });
            }
        };
        let last = batch.header().last;
        let segment = &self.segments[&id];
        let closes_hole =
            segment.chain.highest() > segment.scl() && batch.header().prev == segment.scl();
        if bounded && !closes_hole && self.is_crowded(segment) {
            return Err(if self.is_full_for(segment) {
                Refusal::DiskFull
            } else {
                Refusal::Overloaded
            });
        }
        self.append(Entry::Batch {
            segment: id,
            bytes: batch.bytes().clone(),
        })?;
        self.segments
            .get_mut(&id)
            .expect("the caller found it")
            .accept(batch);
        if planted(Mutant::AckBeforeSync)
            && let Some(segment) = self.segments.get_mut(&id)
        {
            segment.chain.advance(&segment.history);
        }
        Ok(Taken { new: true, last })
    }

    /// One ack for each segment about which there is something to say.
    pub(crate) fn send_acks(&mut self, now: Duration) {
        if self.ack_due.is_empty() {
            return;
        }
        let pressed = self.pressed;
        for id in std::mem::take(&mut self.ack_due) {
            let Some(segment) = self.segments.get(&id) else {
                continue;
            };
            let full = self.is_full_for(segment);
            let Some(stream) = segment.stream else {
                continue;
            };
            let log_stream = &self.streams[&stream];
            assert!(
                segment.admits(log_stream.volume_epoch, log_stream.writer)
                    || planted(Mutant::AckAfterClaim),
                "no ack of a lower epoch leaves once a claim is accepted (R2)"
            );
            let segment = self.segments.get_mut(&id).expect("found above");
            segment.lease.granted(now);
            let writer = (log_stream.volume_epoch, log_stream.writer);
            let ack = Ack {
                echo: log_stream.echo,
                scl: segment.scl(),
                history_epoch: segment.history_epoch(),
                slow: self.log.is_slow(now) || pressed,
                full,
                wishes: self.wishes.due(now, segment.volume, writer),
            };
            self.actions.push_back(Action::Send {
                stream,
                message: Message::Ack(ack),
                end: false,
            });
        }
    }

    pub(crate) fn streams_of(&self, id: SegmentId) -> Vec<StreamKey> {
        let of_segment = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.segment == id);
        of_segment.map(|(key, _)| *key).collect()
    }

    /// A claim or history was accepted: streams of lower epochs and of rivals end (R2).
    pub(crate) fn end_stale_streams(&mut self, id: SegmentId) {
        let guard = self.segments[&id].guard;
        for key in self.streams_of(id) {
            let stream = &self.streams[&key];
            if stream.volume_epoch != guard.claim || stream.writer != guard.writer {
                self.end_stream(
                    key,
                    Refusal::StaleEpoch {
                        volume_epoch: guard.claim,
                    },
                );
            }
        }
    }

    /// Refuses and ends a stream.
    pub(crate) fn end_stream(&mut self, stream: StreamKey, refusal: Refusal) {
        self.forget_stream(stream);
        self.refuse(stream, refusal);
    }

    /// Forgets a stream; no ack leaves on it any more.
    pub(crate) fn forget_stream(&mut self, stream: StreamKey) {
        if let Some(log_stream) = self.streams.remove(&stream)
            && let Some(segment) = self.segments.get_mut(&log_stream.segment)
        {
            segment.stream.take_if(|current| *current == stream);
        }
    }
}

fn malformed(reason: &str) -> Refusal {
    Refusal::Malformed {
        reason: reason.to_string(),
    }
}
