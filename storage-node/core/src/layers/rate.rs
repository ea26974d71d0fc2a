//! How fast the node's own work goes: one pace for all of it, which grows with what waits.

use std::time::Duration;

use crate::bounds::{PACE_BURST, PACE_GROWTH_MAX};
use crate::node::NodeCore;

impl NodeCore {
    /// When a job of the node's own goes on after it did what counts for `bytes` bytes: all of them keep one pace, which grows with
    /// what waits, and ends where a bound is near. A short burst makes up for a timer that was late.
    pub(crate) fn next_slice(&mut self, bytes: usize) -> Duration {
        let rate = self.background_rate();
        if rate == 0 {
            return self.now;
        }
        let nanos = (bytes as u64).saturating_mul(1_000_000_000) / rate;
        let from = self
            .reads
            .pace_used
            .max(self.now.saturating_sub(PACE_BURST));
        self.reads.pace_used = from + Duration::from_nanos(nanos);
        self.reads.pace_used
    }

    /// How much waits for freezes and merges, in 64ths of what stops batches or freezes.
    pub(super) fn waiting(&self) -> u64 {
        let share = |held: u64, max: u64| held.saturating_mul(64) / max.max(1);
        let runs = self.segments.values().map(|held| held.layers.runs().len());
        let runs_max = self.bounds.runs_max * 2;
        [
            share(
                self.index_bytes() as u64,
                self.bounds.index_bytes_max as u64,
            ),
            share(self.unfolded_bytes(), self.bounds.unfolded_bytes_max),
            share(runs.max().unwrap_or(0) as u64, runs_max as u64),
        ]
        .into_iter()
        .max()
        .unwrap_or(0)
    }

    /// The pace of the node's own work, bytes a second; 0 for none. Half of what may wait makes a freeze due, three quarters slow
    /// writers down: in between the pace grows, and ends half way, so that the work catches up before anybody has to wait.
    fn background_rate(&self) -> u64 {
        const DUE: u64 = 32;
        const NEAR: u64 = 40;
        if self.pressed || self.upkeep.waiting >= NEAR {
            return 0;
        }
        let rate = self.bounds.background_bytes_per_second;
        let beyond = self.upkeep.waiting.saturating_sub(DUE);
        rate.saturating_add(rate.saturating_mul(PACE_GROWTH_MAX - 1) / (NEAR - DUE) * beyond)
    }
}
