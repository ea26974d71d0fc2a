//! The writer's wall clock: stamps of batches and clock records (T5), never below an earlier one.
//!
//! It knows no clock: it advances with `now` from what it was told at the start, and is raised to what the volume's clock
//! record says, so that a new writer never goes back behind the old one.

use std::time::Duration;

/// Time between two clock records while commits flow (T5).
pub(crate) const CLOCK_TICK: Duration = Duration::from_millis(100);

/// Forced-monotone wall clock.
#[derive(Debug)]
pub(crate) struct WallClock {
    start: Duration,
    start_ms: u64,
    last_ms: u64,
    tick_at: Duration,
}

impl WallClock {
    /// `unix_ms` is the wall clock at `now`.
    pub(crate) fn new(now: Duration, unix_ms: u64) -> WallClock {
        WallClock {
            start: now,
            start_ms: unix_ms,
            last_ms: unix_ms,
            tick_at: now,
        }
    }

    /// The stamp at `now`, not below `floor_ms` nor any stamp before.
    pub(crate) fn stamp(&mut self, now: Duration, floor_ms: u64) -> u64 {
        let passed_ms = now.saturating_sub(self.start).as_millis();
        let ms = self
            .start_ms
            .saturating_add(u64::try_from(passed_ms).unwrap_or(u64::MAX));
        self.last_ms = self.last_ms.max(ms).max(floor_ms);
        self.last_ms
    }

    /// Whether the next commit has to carry a clock record.
    pub(crate) fn tick_is_due(&self, now: Duration) -> bool {
        now >= self.tick_at
    }

    /// A clock record was minted.
    pub(crate) fn ticked(&mut self, now: Duration) {
        self.tick_at = now + CLOCK_TICK;
    }
}
