//! The driver's clocks: one for all durations, which goes on while a machine sleeps, as read leases need it (T1); the wall clock for
//! the stamps of batches.
//!
//! The first is CLOCK_BOOTTIME on Linux and CLOCK_MONOTONIC elsewhere on Unix, which counts sleep on macOS; on Windows it is the performance counter
//! under `Instant`, which counts it too. On the BSDs, whose servers do not sleep, nothing is said of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since boot, sleep included: the clock of the writer's core.
#[cfg(unix)]
pub(crate) fn now() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::Monotonic;

    let time = clock_gettime(CLOCK);
    let seconds = u64::try_from(time.tv_sec).expect("the clock starts at boot");
    let nanos = u32::try_from(time.tv_nsec).expect("nanoseconds of a second are few");
    Duration::new(seconds, nanos)
}

/// Time since it was first asked for, sleep included: the clock of the writer's core.
#[cfg(not(unix))]
pub(crate) fn now() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// Wall-clock milliseconds; 0 on a machine that believes to live before 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The writer's wall clock as its core knows it: it goes on from one look at the machine's, with the clock of [`now`], so that
/// setting the machine's clock changes nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VolumeClock {
    start: Duration,
    start_ms: u64,
    /// What earlier writers recorded.
    floor_ms: u64,
}

impl VolumeClock {
    /// `unix_ms` is the wall clock at `start`.
    pub(crate) fn new(start: Duration, unix_ms: u64) -> VolumeClock {
        VolumeClock {
            start,
            start_ms: unix_ms,
            floor_ms: 0,
        }
    }

    /// The volume has recorded `unix_ms`: it is never earlier from now on.
    pub(crate) fn raise(&mut self, unix_ms: u64) {
        self.floor_ms = self.floor_ms.max(unix_ms);
    }

    /// Wall-clock milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        let passed_ms = now().saturating_sub(self.start).as_millis();
        let now_ms = self
            .start_ms
            .saturating_add(u64::try_from(passed_ms).unwrap_or(u64::MAX));
        now_ms.max(self.floor_ms)
    }
}

/// The runtime's instant for a point of [`now`]'s clock; a point in the past is now, one that is years ahead comes in years.
pub(crate) fn instant(at: Duration) -> tokio::time::Instant {
    const AHEAD_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    tokio::time::Instant::now() + at.saturating_sub(now()).min(AHEAD_MAX)
}

/// Whole milliseconds, rounded up: for reports.
pub(crate) fn ceil_ms(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_volumes_clock_stands_where_an_earlier_writer_left_it_until_this_machines_gets_there() {
        let mut clock = VolumeClock::new(now(), 1_000_000);
        assert!(clock.now_ms() >= 1_000_000);
        clock.raise(900_000_000_000);
        assert_eq!(clock.now_ms(), 900_000_000_000);
        clock.raise(5);
        assert_eq!(clock.now_ms(), 900_000_000_000);
    }
}
