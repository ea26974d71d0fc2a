//! Answers that wait for the hot log: each for a ticket, given in the order of tickets.

use std::collections::BTreeSet;
use std::time::Duration;

use sixfold_log_format::wire::{Installed, Message, Refusal};
use sixfold_log_format::{SegmentId, VolumeEpoch, WriterId};

use crate::event::StreamKey;
use crate::hot_log::Ticket;
use crate::node::NodeCore;

/// Who waits, and for which answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Waiter {
    /// A log stream that attaches.
    Attach {
        /// The stream.
        stream: StreamKey,
    },
    /// A claim: the answer is the census.
    Claim {
        /// The stream.
        stream: StreamKey,
        /// The segment.
        segment: SegmentId,
        /// The epoch claimed.
        volume_epoch: VolumeEpoch,
        /// By whom.
        writer: WriterId,
    },
    /// An install or a refill.
    Install {
        /// The stream.
        stream: StreamKey,
        /// The segment.
        segment: SegmentId,
        /// The sender's epoch.
        volume_epoch: VolumeEpoch,
        /// The sender.
        writer: WriterId,
    },
    /// A creation.
    Create {
        /// The stream.
        stream: StreamKey,
    },
}

impl Waiter {
    /// Where the answer goes.
    pub(crate) fn stream(&self) -> StreamKey {
        match self {
            Waiter::Attach { stream }
            | Waiter::Claim { stream, .. }
            | Waiter::Install { stream, .. }
            | Waiter::Create { stream } => *stream,
        }
    }
}

impl NodeCore {
    /// Answers when everything up to `ticket` is durable, which may be now.
    pub(crate) fn wait(&mut self, now: Duration, ticket: Ticket, waiter: Waiter) {
        if ticket <= self.log.durable() {
            return self.answer_waiter(now, waiter);
        }
        self.next_waiter += 1;
        self.waiters.insert((ticket, self.next_waiter), waiter);
    }

    /// Batches of these segments, `oldest` and later, are not written: who waits for them, with an install or a refill, waits no more.
    pub(crate) fn take_refills(
        &mut self,
        oldest: Ticket,
        of: &BTreeSet<SegmentId>,
    ) -> Vec<StreamKey> {
        let mut taken = Vec::new();
        self.waiters.retain(|(ticket, _), waiter| match waiter {
            Waiter::Install {
                stream, segment, ..
            } if *ticket >= oldest && of.contains(segment) => {
                taken.push(*stream);
                false
            }
            _ => true,
        });
        taken
    }

    /// Everything up to `ticket` is durable and applied, and nothing behind it is.
    pub(crate) fn answer_waiters(&mut self, now: Duration, ticket: Ticket) {
        while let Some(entry) = self.waiters.first_entry() {
            if entry.key().0 > ticket {
                break;
            }
            let waiter = entry.remove();
            self.answer_waiter(now, waiter);
        }
    }

    fn answer_waiter(&mut self, now: Duration, waiter: Waiter) {
        match waiter {
            Waiter::Attach { stream } => self.answer_attach(now, stream),
            Waiter::Claim {
                stream,
                segment,
                volume_epoch,
                writer,
            } => {
                self.answer_claim(now, stream, segment, volume_epoch, writer);
            }
            Waiter::Install {
                stream,
                segment,
                volume_epoch,
                writer,
            } => {
                self.answer_install(stream, segment, volume_epoch, writer);
            }
            Waiter::Create { stream } => self.answer(stream, Message::Done),
        }
    }

    fn answer_install(
        &mut self,
        stream: StreamKey,
        id: SegmentId,
        volume_epoch: VolumeEpoch,
        writer: WriterId,
    ) {
        let Some(segment) = self.segments.get(&id) else {
            let refusal = self.why_not(id);
            return self.refuse(stream, refusal);
        };
        // A higher claim may have been accepted since: then this sender counts no more (R9).
        if !segment.admits(volume_epoch, writer) {
            let claim = segment.guard.claim;
            return self.refuse(
                stream,
                Refusal::StaleEpoch {
                    volume_epoch: claim,
                },
            );
        }
        let installed = Installed {
            segment: id,
            scl: segment.scl(),
            history_epoch: segment.history_epoch(),
        };
        self.answer(stream, Message::Installed(installed));
    }
}
