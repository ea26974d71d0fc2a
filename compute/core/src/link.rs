//! One segment as the writer sees it: its link, and the log stream while that is up.

use std::collections::VecDeque;
use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{Ack, Message};
use sixfold_log_format::{Lsn, Member, MembershipEpoch, NodeId, PgId, SegmentId};

use crate::event::{AttachKey, Relation, WriterAction, stream_bytes};

/// The first pause before a stream that was lost is attached again.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Messages of one stream that may lack their echo; beyond, the segment lags and is left to gossip (R15).
const MARKS_MAX: usize = 65_536;

/// How the writer stands to one segment.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) pg: PgId,
    pub(crate) segment: SegmentId,
    pub(crate) node: NodeId,
    /// SCL as last said by the segment under this writer's history.
    pub(crate) scl: Lsn,
    /// The highest it ever said: a lower one later is damage and is not counted (R12).
    scl_max: Lsn,
    pub(crate) state: LinkState,
    backoff: Duration,
    /// Its disk is full: it refuses batches. Outlives the stream; only an ack that says otherwise ends it.
    pub(crate) full: bool,
    /// It is being brought up to the others: it is asked for nothing until it is whole (R20).
    pub(crate) joining: bool,
    /// When it last said anything; at first, when the link was made. One that refused for now is not asked for a while, and is not
    /// silent in that time: then it is when it is asked again.
    pub(crate) heard_at: Duration,
    /// The newest manifest that it is known to hold, of this writer's.
    pub(crate) told: MembershipEpoch,
    ack_us: u64,
}

/// Where a link stands.
#[derive(Debug)]
pub(crate) enum LinkState {
    Down {
        retry_at: Duration,
    },
    Attaching,
    Up(Stream),
    /// It accepted a higher claim; nothing is asked of it any more.
    Fenced,
    /// The manifest does not name it any more. Its place in the list stays empty: requests name it by place.
    Gone,
}

/// A log stream that is up.
#[derive(Debug)]
pub(crate) struct Stream {
    attach: AttachKey,
    /// Sequence number of the last message sent.
    pub(crate) sequence: u64,
    /// Messages that were not echoed yet.
    pub(crate) marks: VecDeque<Mark>,
    unechoed_bytes: usize,
    pub(crate) undrained_bytes: usize,
    /// Batches through this LSN were sent on this stream, or need not be.
    pub(crate) sent_through: Lsn,
    pub(crate) last_sent: Duration,
    pub(crate) progress_at: Duration,
}

/// A message that was sent.
#[derive(Debug)]
pub(crate) struct Mark {
    sequence: u64,
    at: Duration,
    bytes: usize,
}

impl Link {
    pub(crate) fn new(pg: PgId, member: Member, scl: Lsn, now: Duration) -> Link {
        Link {
            pg,
            segment: member.segment,
            node: member.node,
            scl,
            scl_max: scl,
            state: LinkState::Down { retry_at: now },
            backoff: BACKOFF_MIN,
            full: false,
            joining: member.joining,
            heard_at: now,
            told: MembershipEpoch::default(),
            ack_us: 0,
        }
    }

    /// Whether its stream is up and its disk takes batches.
    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.state, LinkState::Up(_)) && !self.full
    }

    /// Whether its stream is up.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, LinkState::Up(_))
    }

    /// Whether a page or the log may be asked of it: a joining segment counts in no read quorum and answers no read (R20).
    pub(crate) fn may_be_asked(&self) -> bool {
        !self.joining && !self.is_gone()
    }

    /// Whether the manifest does not name it any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.state, LinkState::Gone)
    }

    /// Whether it accepted a higher claim.
    pub(crate) fn is_fenced(&self) -> bool {
        matches!(self.state, LinkState::Fenced)
    }

    /// The SCL that counts for PGCL: one below what it said before is damage (R12).
    pub(crate) fn counted_scl(&self) -> Lsn {
        if self.scl < self.scl_max && !planted(Mutant::FallenSclCounted) {
            Lsn::NONE
        } else {
            self.scl
        }
    }

    /// For how long nothing was heard of it that was to be.
    pub(crate) fn silent_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard_at)
    }

    /// For status.
    pub(crate) fn relation(&self) -> Relation {
        Relation {
            pg: self.pg,
            segment: self.segment,
            node: self.node,
            joining: self.joining,
            attached: self.is_up(),
            scl: self.scl,
            ack_us: self.ack_us,
            lag_lsns: 0,
            lag: Duration::ZERO,
        }
    }

    /// It said where it stands.
    pub(crate) fn said(&mut self, scl: Lsn) {
        self.scl = scl;
        self.scl_max = self.scl_max.max(scl);
    }

    /// Its stream is gone: when to attach again.
    pub(crate) fn lost(&mut self, now: Duration) -> Duration {
        let retry_at = now + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        self.state = LinkState::Down { retry_at };
        retry_at
    }

    /// An ack: when the newest message was sent that it is the first to answer, and whether the disk takes batches again.
    /// `None` when it echoes what was never sent.
    pub(crate) fn acked(&mut self, ack: &Ack, now: Duration) -> Option<(Option<Duration>, bool)> {
        let LinkState::Up(stream) = &mut self.state else {
            return None;
        };
        if ack.echo > stream.sequence {
            return None;
        }
        let sent = stream.echoed(ack.echo);
        if let Some(sent) = sent {
            self.backoff = BACKOFF_MIN;
            let sample_us = u64::try_from(now.saturating_sub(sent).as_micros()).unwrap_or(u64::MAX);
            self.ack_us = if self.ack_us == 0 {
                sample_us
            } else {
                (self.ack_us * 7 + sample_us) / 8
            };
        }
        if ack.scl > self.scl {
            stream.progress_at = now;
        }
        let writable_changed = self.full != ack.full;
        if self.full && !ack.full {
            // What arrived meanwhile was refused.
            stream.sent_through = ack.scl;
        }
        self.full = ack.full;
        Some((sent, writable_changed))
    }
}

impl Stream {
    pub(crate) fn new(attach: AttachKey, scl: Lsn, now: Duration) -> Stream {
        Stream {
            attach,
            sequence: 0,
            marks: VecDeque::new(),
            unechoed_bytes: 0,
            undrained_bytes: 0,
            sent_through: scl,
            last_sent: now,
            progress_at: now,
        }
    }

    /// Sends, unless the queue has no room; a message larger than the bound goes alone.
    pub(crate) fn send(
        &mut self,
        message: Message,
        now: Duration,
        bytes_max: usize,
        actions: &mut VecDeque<WriterAction>,
    ) -> bool {
        let bytes = stream_bytes(&message);
        // What was echoed has left the queue, whatever the shell counted.
        let queued_bytes = self.undrained_bytes.min(self.unechoed_bytes);
        if queued_bytes > 0 && queued_bytes + bytes > bytes_max {
            return false;
        }
        // No mark is dropped before its echo: what it stands for would no longer be counted.
        if self.marks.len() >= MARKS_MAX {
            return false;
        }
        self.sequence += 1;
        self.undrained_bytes = queued_bytes + bytes;
        self.unechoed_bytes += bytes;
        self.last_sent = now;
        self.marks.push_back(Mark {
            sequence: self.sequence,
            at: now,
            bytes,
        });
        actions.push_back(WriterAction::Send {
            attach: self.attach,
            message,
        });
        true
    }

    /// Messages through `echo` arrived: when the last of them was sent, if that is news.
    pub(crate) fn echoed(&mut self, echo: u64) -> Option<Duration> {
        let mut sent = None;
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.sequence <= echo) {
            self.unechoed_bytes -= mark.bytes;
            sent = Some(mark.at);
        }
        sent
    }
}
