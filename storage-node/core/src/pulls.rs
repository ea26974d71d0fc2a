//! Batches that a segment pulls from a peer's log, piece after piece, and how long it waits for a peer that is busy with its own writers
//! and readers (F11).

use std::time::Duration;

use sixfold_log_format::wire::{LogPiece, Message, ReadLog};
use sixfold_log_format::{Lsn, Member, SegmentId, VolumeEpoch};

use crate::bounds::{BUSY_RETRIES_MAX, BUSY_RETRY, PIECE_BYTES_MAX};
use crate::node::NodeCore;

/// Batches that are being pulled from a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pull {
    pub(crate) peer: Member,
    pub(crate) history_epoch: VolumeEpoch,
    /// Received up to here.
    pub(crate) after: Lsn,
    pub(crate) through: Lsn,
    /// The SCL that the peer told under that history.
    pub(crate) theirs: Lsn,
    /// Waits for the hot log.
    pub(crate) paused: bool,
    /// So often in a row the peer was busy. Above 0, it waits for its time.
    pub(crate) busy: u32,
    /// It brings batches that are damaged here.
    pub(crate) heals: bool,
}

impl NodeCore {
    /// Asks for the next batches of a pull, unless the hot log is busy.
    pub(crate) fn pull_on(&mut self, now: Duration, id: SegmentId) {
        let busy = self.log.is_busy();
        let segment = self.segments.get_mut(&id).expect("named by the caller");
        let scl = segment.scl();
        let same = segment.history_epoch();
        let Some(pull) = &mut segment.gossip.pull else {
            return;
        };
        if !pull.heals {
            pull.after = pull.after.max(scl);
        }
        if pull.after >= pull.through || pull.history_epoch != same {
            segment.gossip.pull = None;
            return;
        }
        pull.paused = busy;
        if busy {
            return;
        }
        let (peer, read) = (
            pull.peer,
            ReadLog {
                segment: pull.peer.segment,
                history_epoch: pull.history_epoch,
                after: pull.after,
                through: pull.through,
                // One piece, one answer.
                bytes_max: u32::try_from(PIECE_BYTES_MAX).expect("a megabyte"),
            },
        );
        self.ask(now, id, peer, Message::ReadLog(read));
    }

    pub(crate) fn on_log_piece(&mut self, now: Duration, id: SegmentId, piece: LogPiece) {
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        let Some(pull) = segment.gossip.pull else {
            return;
        };
        if pull.history_epoch != segment.history_epoch() {
            segment.gossip.pull = None;
            return;
        }
        let mut after = pull.after;
        for bytes in piece.batches {
            if pull.heals {
                self.heal_batch(id, &bytes);
            }
            match self.take_batch(id, bytes, pull.history_epoch) {
                Ok(taken) => {
                    self.counters.gossip_batches += u64::from(taken.new);
                    after = after.max(taken.last);
                }
                Err(_) => break,
            }
        }
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        if after > pull.after && piece.more {
            segment.gossip.pull = Some(Pull {
                after,
                busy: 0,
                ..pull
            });
            self.pull_on(now, id);
        } else {
            segment.gossip.pull = None;
        }
    }

    /// The peer is busy with its own writers and readers: what it was asked for is asked again a little later, and of another one when
    /// that does not end.
    pub(crate) fn wait_for_busy(&mut self, now: Duration, id: SegmentId) {
        let segment = self.segments.get_mut(&id).expect("checked by the caller");
        let busy = match (&mut segment.copy, &mut segment.gossip.pull) {
            (Some(copy), _) => {
                copy.paused = true;
                &mut copy.busy
            }
            (None, Some(pull)) => {
                pull.paused = true;
                &mut pull.busy
            }
            (None, None) => return,
        };
        *busy += 1;
        if *busy > BUSY_RETRIES_MAX {
            segment.gossip.pull = None;
            return self.retry_copy(now, id, "it is busy");
        }
        let spread = BUSY_RETRY / 256 * u32::from(self.asking.draw().to_le_bytes()[0]);
        self.retries.insert((now + BUSY_RETRY + spread, id));
    }

    /// Asks peers again that were busy.
    pub(crate) fn ask_busy_again(&mut self, now: Duration) {
        while let Some((at, id)) = self.retries.first().copied()
            && at <= now
        {
            self.retries.pop_first();
            let Some(segment) = self.segments.get_mut(&id) else {
                continue;
            };
            if segment.gossip.asked.is_some() {
                continue;
            }
            if segment.copy.as_ref().is_some_and(|copy| copy.busy > 0) {
                self.copy_on(now, id);
            } else if segment.gossip.pull.is_some_and(|pull| pull.busy > 0) {
                if self.log.is_busy() {
                    // Nobody else wakes it.
                    self.retries.insert((now + BUSY_RETRY, id));
                    continue;
                }
                self.pull_on(now, id);
            }
        }
    }

    /// The hot log took a group, or a round of gossip has come: pulls that waited for the log go on.
    pub(crate) fn resume_pulls(&mut self, now: Duration) {
        if self.log.is_busy() {
            return;
        }
        let paused: Vec<SegmentId> = self
            .segments
            .iter()
            .filter(|(_, segment)| {
                let pull = segment.gossip.pull;
                pull.is_some_and(|pull| pull.paused && pull.busy == 0)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in paused {
            self.pull_on(now, id);
        }
    }
}
