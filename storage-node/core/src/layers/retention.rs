//! What may be collected: the horizon.
//!
//! ```text
//!   horizon = min(PGMRPL while its lease runs, what retention keeps, SCL, highest VDL seen); it never falls
//! ```
//! PGMRPL comes from the writer of the epoch that is held, in its envelopes (R17), and only while its lease runs is anything
//! collected: a segment that does not hear the writer, be it that gossip alone feeds it, cannot know which snapshots the writer
//! has announced since. A dead reader holds nothing back for ever, since the writer counts it no more; nor does a dead writer: where
//! none is heard nothing new has to be collected, and the next one says what is in use. Time is the writer's, as stamped into
//! batches.

use std::collections::VecDeque;
use std::time::Duration;

use crate::numbers::HorizonHolder;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{BatchHeader, Lsn, VolumeParameters};

/// Points kept for looking up what retention keeps. When there are more, every second one goes.
const MARKS_MAX: usize = 1_024;
/// Longest lease that is honored, so that a wrong one cannot stop collection for ever.
const LEASE_MAX: Duration = Duration::from_secs(60);

/// A point of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    lsn: Lsn,
    unix_ms: u64,
    /// Redo up to here, counted from anywhere.
    redo_bytes: u64,
}

/// What a segment knows of what must stay readable.
#[derive(Debug)]
pub(crate) struct Retention {
    /// The lowest read point in use, and until when that is promised: later nothing is collected.
    pgmrpl: Lsn,
    lease_until: Duration,
    marks: VecDeque<Mark>,
    redo_bytes: u64,
    stamp: u64,
    /// Redo between marks.
    step_bytes: u64,
    step_ms: u64,
}

impl Retention {
    /// Of a segment that is created, or read back from the log.
    pub(crate) fn new() -> Retention {
        Retention {
            pgmrpl: Lsn::NONE,
            lease_until: Duration::ZERO,
            marks: VecDeque::new(),
            redo_bytes: 0,
            stamp: 0,
            step_bytes: 0,
            step_ms: 0,
        }
    }

    /// The writer of the epoch that is held says what is in use.
    pub(crate) fn heard(&mut self, now: Duration, pgmrpl: Lsn, lease_ms: u32) {
        self.pgmrpl = pgmrpl;
        let lease = Duration::from_millis(u64::from(lease_ms)).min(LEASE_MAX);
        self.lease_until = now + lease;
    }

    /// Somebody else claimed the volume: what was said before is void, and what is in use is not known.
    pub(crate) fn fenced(&mut self) {
        self.pgmrpl = Lsn::NONE;
        self.lease_until = Duration::ZERO;
    }

    /// A batch of the chain is durable.
    pub(crate) fn saw(&mut self, header: &BatchHeader, bytes: usize) {
        self.redo_bytes += bytes as u64;
        self.stamp = self.stamp.max(header.unix_ms);
        let mark = Mark {
            lsn: header.last,
            unix_ms: self.stamp,
            redo_bytes: self.redo_bytes,
        };
        match self.marks.back_mut() {
            // Out of order: what a peer brought. Later marks cover it.
            Some(last) if last.lsn >= mark.lsn => return,
            Some(last)
                if mark.redo_bytes - last.redo_bytes < self.step_bytes
                    && mark.unix_ms - last.unix_ms <= self.step_ms => {}
            _ => self.marks.push_back(mark),
        }
        if self.marks.len() > MARKS_MAX {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
            self.step_bytes = (self.step_bytes * 2).max(64 << 10);
            self.step_ms = (self.step_ms * 2).max(10);
        }
    }

    /// It may be collected up to here, as far as readers and retention go; `None` while no writer is heard that knows.
    pub(crate) fn limit(&self, now: Duration, parameters: &VolumeParameters) -> Option<Lsn> {
        let ignored = planted(Mutant::PgmrplIgnored);
        if now >= self.lease_until && !ignored {
            return None;
        }
        let retained = self.newest_old(parameters);
        let retained = retained.map_or(Lsn::NONE, |at| self.marks[at].lsn);
        let in_use = if ignored { Lsn::MAX } else { self.pgmrpl };
        Some(retained.min(in_use))
    }

    /// The lowest read point in use, as the writer said last.
    pub(crate) fn pgmrpl(&self) -> Lsn {
        self.pgmrpl
    }

    /// What [`Retention::limit`] stands at.
    pub(crate) fn holder(&self, now: Duration, parameters: &VolumeParameters) -> HorizonHolder {
        match self.limit(now, parameters) {
            None => HorizonHolder::NoWriter,
            // Where both are the same point, it is the reader who would hold more.
            Some(limit) if limit == self.pgmrpl => HorizonHolder::ReadPoint,
            Some(_) => HorizonHolder::Retention,
        }
    }

    /// The newest mark that retention does not keep, by its place.
    fn newest_old(&self, parameters: &VolumeParameters) -> Option<usize> {
        let (time, bytes) = (parameters.retention_ms, parameters.retention_bytes);
        let by_time = |mark: &Mark| mark.unix_ms.saturating_add(time) <= self.stamp;
        let by_bytes =
            |mark: &Mark| bytes > 0 && mark.redo_bytes.saturating_add(bytes) <= self.redo_bytes;
        let old = self.marks.partition_point(by_time);
        old.max(self.marks.partition_point(by_bytes)).checked_sub(1)
    }

    /// Forgets the marks below what retention keeps: nobody looks them up. Without that they would lie farther apart the longer the
    /// log grows, and what is collected would lag behind by as much.
    pub(crate) fn pass(&mut self, parameters: &VolumeParameters) {
        if let Some(at) = self.newest_old(parameters) {
            self.marks.drain(..at);
        }
        if self.marks.len() < MARKS_MAX / 4 {
            (self.step_bytes, self.step_ms) = (self.step_bytes / 2, self.step_ms / 2);
        }
    }

    /// Whether a batch with this stamp lies outside a window.
    pub(crate) fn is_older(&self, unix_ms: u64, window: Duration) -> bool {
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        unix_ms.saturating_add(window) <= self.stamp
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod retention_tests;
