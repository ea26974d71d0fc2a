//! The writer's wall clock: clock records (T5), never below an earlier one, and the stamps of batches, which repeat them.
//!
//! It knows no clock: it advances with `now` from what it was told at the start, and is raised to what the volume's clock
//! record says, so that a new writer never goes back behind the old one.

use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};

/// Time between two clock records while commits flow (T5).
pub(crate) const CLOCK_TICK: Duration = Duration::from_millis(100);

/// Forced-monotone wall clock.
#[derive(Debug)]
pub(crate) struct WallClock {
    start: Duration,
    start_ms: u64,
    last_ms: u64,
    /// The volume's clock as of the last MTR.
    recorded_ms: u64,
    tick_at: Duration,
}

impl WallClock {
    /// `unix_ms` is the wall clock at `now`.
    pub(crate) fn new(now: Duration, unix_ms: u64) -> WallClock {
        WallClock {
            start: now,
            start_ms: unix_ms,
            last_ms: unix_ms,
            recorded_ms: 0,
            tick_at: now,
        }
    }

    /// The stamp at `now`, not below `floor_ms` nor any stamp before.
    pub(crate) fn stamp(&mut self, now: Duration, floor_ms: u64) -> u64 {
        let floor_ms = if planted(Mutant::ClockNotRaised) {
            0
        } else {
            floor_ms
        };
        let passed_ms = now.saturating_sub(self.start).as_millis();
        let ms = self
            .start_ms
            .saturating_add(u64::try_from(passed_ms).unwrap_or(u64::MAX));
        self.last_ms = self.last_ms.max(ms).max(floor_ms);
        self.last_ms
    }

    /// The volume's clock as of the MTR that is minted now.
    pub(crate) fn recorded(&mut self, unix_ms: u64) {
        self.recorded_ms = unix_ms;
    }

    /// The volume's clock as of the last record minted; `None` before the first MTR of this writer.
    pub(crate) fn volume_ms(&self) -> Option<u64> {
        (self.recorded_ms > 0).then_some(self.recorded_ms)
    }

    /// The stamp of a batch that begins now: what the log says, not what this machine's clock says. A batch that is in a cut brings
    /// the clock record that it repeats along, so that no later writer stamps below it, whatever its own clock shows (R29).
    pub(crate) fn batch_stamp(&self) -> u64 {
        self.recorded_ms
    }

    /// Whether the next commit has to carry a clock record.
    pub(crate) fn tick_is_due(&self, now: Duration) -> bool {
        now >= self.tick_at
    }

    /// When the next clock record is due.
    pub(crate) fn tick_at(&self) -> Duration {
        self.tick_at
    }

    /// When a key with this deadline can be removed: at once when the volume's clock has reached it, else with the clock record
    /// that does, which is not minted before it is due.
    pub(crate) fn expires_at(&self, deadline_ms: u64) -> Duration {
        if deadline_ms <= self.recorded_ms {
            Duration::ZERO
        } else {
            self.reaches_at(deadline_ms).max(self.tick_at)
        }
    }

    /// When the stamp reaches `unix_ms`.
    fn reaches_at(&self, unix_ms: u64) -> Duration {
        if unix_ms <= self.last_ms {
            return Duration::ZERO;
        }
        self.start
            .saturating_add(Duration::from_millis(unix_ms - self.start_ms))
    }

    /// A clock record was minted.
    pub(crate) fn ticked(&mut self, now: Duration) {
        self.tick_at = now + CLOCK_TICK;
    }
}
