//! The read lease (T1): when a read point may be called current. Only the rate of clocks matters.
//!
//! The writer counts from the *send* time of what a segment answered, the segment from its answer, which is later: the
//! segment's view always outlasts the writer's. Nobody compares clocks of two machines.

use std::time::Duration;

use sixfold_log_format::limits::{SEGMENTS_PER_SET_MAX, SET_COUNT_MAX};
use sixfold_log_format::{PgEntry, SegmentId};

use crate::quorum::highest_with_read_quorum;

/// Segments remembered: twice what can be in force at once, so that a change of membership never drops a live one.
const SEGMENTS_MAX: usize = 2 * SET_COUNT_MAX * SEGMENTS_PER_SET_MAX;

/// The writer's side: the times at which messages were *sent* that each segment of PG 0 has answered.
#[derive(Debug)]
pub struct ReadLease {
    length: Duration,
    sent: Vec<(SegmentId, Duration)>,
}

impl ReadLease {
    /// No lease yet.
    pub fn new(length: Duration) -> ReadLease {
        ReadLease {
            length,
            sent: Vec::new(),
        }
    }

    /// A segment answered a message that was sent at `sent`.
    pub fn answered(&mut self, segment: SegmentId, sent: Duration) {
        if let Some((_, latest)) = self.sent.iter_mut().find(|(known, _)| *known == segment) {
            *latest = sent.max(*latest);
            return;
        }
        if self.sent.len() == SEGMENTS_MAX {
            let oldest = (0..self.sent.len())
                .min_by_key(|&index| self.sent[index].1)
                .expect("the list is full");
            self.sent.swap_remove(oldest);
        }
        self.sent.push((segment, sent));
    }

    /// Until when read points are current: a read quorum of every set in force answered a message sent less than the
    /// lease's length before. `None` = no lease. Time does not decide here: the caller compares with now, and the lease
    /// holds while now is *below* what is returned.
    pub fn valid_until(&self, entry: &PgEntry) -> Option<Duration> {
        let sent_of = |segment| {
            self.sent
                .iter()
                .find(|&&(known, _)| known == segment)
                .map(|&(_, sent)| sent)
        };
        let oldest_counted = entry
            .sets
            .iter()
            .map(|set| highest_with_read_quorum(set, &sent_of))
            .min()??;
        Some(oldest_counted + self.length)
    }
}

/// The segment's side: how long a lease that it granted may still run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantedLease {
    length: Duration,
    runs_until: Duration,
}

impl GrantedLease {
    /// For a segment that was just created: nobody was ever answered.
    pub const fn none(length: Duration) -> GrantedLease {
        GrantedLease {
            length,
            runs_until: Duration::ZERO,
        }
    }

    /// After a start of the daemon: it does not know what it granted before, so the full length is running.
    pub fn after_restart(now: Duration, length: Duration) -> GrantedLease {
        GrantedLease {
            length,
            runs_until: now + length,
        }
    }

    /// It answered its writer.
    pub fn granted(&mut self, now: Duration) {
        self.runs_until = self.runs_until.max(now + self.length);
    }

    /// What is left, rounded up to whole milliseconds, since that is what a census says.
    pub fn left(&self, now: Duration) -> Duration {
        let left = self.runs_until.saturating_sub(now);
        let whole_ms = Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        if whole_ms < left {
            whole_ms + Duration::from_millis(1)
        } else {
            whole_ms
        }
    }
}
