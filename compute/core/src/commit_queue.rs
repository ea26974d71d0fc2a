//! Commits that were given a place in the log and wait for VDL, in LSN order.
//!
//! What stands here ends as committed or unknown, never as anything else (T2); only an entry without records of its own
//! (everything it wanted to delete was absent) may still be refused.

use std::collections::VecDeque;
use std::time::Duration;

use sixfold_log_format::Lsn;

use crate::due::Due;
use crate::event::CommitTicket;

/// A commit that waits for VDL to reach `cpl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queued {
    /// Who asked.
    pub(crate) ticket: CommitTicket,
    /// Its commit LSN.
    pub(crate) cpl: Lsn,
    /// Whether records stand for it: its own, or those of its first try.
    pub(crate) minted: bool,
    /// When it ends as unknown.
    pub(crate) deadline: Duration,
    /// Keys and values, bytes.
    pub(crate) user_bytes: u64,
}

/// The queue. Invariant: commit LSNs never fall from front to back.
#[derive(Debug, Default)]
pub(crate) struct CommitQueue {
    queue: VecDeque<Queued>,
    due: Due,
}

impl CommitQueue {
    /// Adds a commit behind those at or below its LSN: at the end, but for the second try of one that stands here already.
    pub(crate) fn push(&mut self, queued: Queued) {
        self.due.sooner(queued.deadline);
        if self.queue.back().is_none_or(|last| last.cpl <= queued.cpl) {
            self.queue.push_back(queued);
        } else {
            let place = self.queue.partition_point(|other| other.cpl <= queued.cpl);
            self.queue.insert(place, queued);
        }
    }

    /// The next commit at or below `vdl`.
    pub(crate) fn pop_durable(&mut self, vdl: Lsn) -> Option<Queued> {
        self.queue.pop_front_if(|front| front.cpl <= vdl)
    }

    /// Takes out what is past its deadline, in LSN order.
    pub(crate) fn take_expired(&mut self, now: Duration) -> Vec<Queued> {
        if !self.due.is_due(now) {
            return Vec::new();
        }
        self.due.clear();
        let (expired, kept): (VecDeque<_>, VecDeque<_>) = self
            .queue
            .drain(..)
            .partition(|queued| queued.deadline <= now);
        self.queue = kept;
        self.queue
            .iter()
            .for_each(|queued| self.due.sooner(queued.deadline));
        expired.into()
    }

    /// Takes out everything: the writer was fenced.
    pub(crate) fn take_all(&mut self) -> Vec<Queued> {
        self.due.clear();
        std::mem::take(&mut self.queue).into()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When to look for deadlines.
    pub(crate) fn due(&self) -> Due {
        self.due
    }
}
