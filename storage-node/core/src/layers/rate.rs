//! How fast the node's own work goes: a pace that grows with what waits, one for what makes room and one for the rest.
//!
//! Writers wait for freezes when these do not keep up. Merges, scrub and what is read again after a start can wait: beside a freeze
//! they go at half the pace, until runs become too many.

use std::time::Duration;

use crate::bounds::{PACE_BURST, PACE_GROWTH_MAX};
use crate::jobs::Work;
use crate::node::NodeCore;

/// What keeps a pace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// What makes room in memory and in the hot log.
    Folds,
    /// The rest.
    Rest,
}

/// Something for both lanes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lanes<T> {
    folds: T,
    rest: T,
}

impl<T> Lanes<T> {
    fn of(&mut self, lane: Lane) -> &mut T {
        match lane {
            Lane::Folds => &mut self.folds,
            Lane::Rest => &mut self.rest,
        }
    }
}

impl Work {
    /// The lane that work of the node's own keeps to.
    pub(crate) fn lane(&self) -> Lane {
        match self {
            Work::Freeze(_) | Work::Move(_) => Lane::Folds,
            Work::Merge(_) | Work::Scrub(_) | Work::Pages(_) | Work::Log(_) | Work::File(_) => {
                Lane::Rest
            }
        }
    }
}

impl NodeCore {
    /// When a job of the node's own goes on after it did what counts for `bytes` bytes: all of a lane keep one pace, which grows with
    /// what waits, and ends where a bound is near. A short burst makes up for a timer that was late.
    pub(crate) fn next_slice(&mut self, lane: Lane, bytes: usize) -> Duration {
        let rate = self.background_rate(lane);
        if rate == 0 {
            return self.now;
        }
        let nanos = (bytes as u64).saturating_mul(1_000_000_000) / rate;
        let used = self.reads.pace_used.of(lane);
        *used = (*used).max(self.now.saturating_sub(PACE_BURST)) + Duration::from_nanos(nanos);
        *used
    }

    /// How much waits for freezes, in 64ths of what stops batches, and for merges, in 64ths of the runs that there should be at most.
    pub(super) fn waiting(&self) -> Lanes<u64> {
        let share = |held: u64, max: u64| held.saturating_mul(64) / max.max(1);
        let runs = self.segments.values().map(|held| held.layers.runs().len());
        let index = share(
            self.index_bytes() as u64,
            self.bounds.index_bytes_max as u64,
        );
        Lanes {
            folds: index.max(share(self.unfolded_bytes(), self.bounds.unfolded_bytes_max)),
            rest: share(runs.max().unwrap_or(0) as u64, self.bounds.runs_max as u64),
        }
    }

    /// The pace of a lane, bytes a second; 0 for none. Half of what may wait makes a freeze due, three quarters slow
    /// writers down: in between the pace grows, and ends half way, so that the work catches up before anybody has to wait.
    fn background_rate(&mut self, lane: Lane) -> u64 {
        const DUE: u64 = 32;
        const NEAR: u64 = 40;
        let waiting = *self.upkeep.waiting.of(lane);
        if waiting >= NEAR || self.pressed && lane == Lane::Folds {
            return 0;
        }
        let mut rate = self.bounds.background_bytes_per_second;
        if lane == Lane::Rest && self.upkeep.is_freezing() {
            rate = rate.div_ceil(2);
        }
        let beyond = waiting.saturating_sub(DUE);
        rate.saturating_add(rate.saturating_mul(PACE_GROWTH_MAX - 1) / (NEAR - DUE) * beyond)
    }
}
