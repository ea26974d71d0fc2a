//! The driver's clocks: CLOCK_BOOTTIME for all durations (it goes on while a machine sleeps, which read leases need, T1),
//! the wall clock for the stamps of batches.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Time since boot, sleep included: the clock of the writer's core.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).expect("the clock starts at boot");
    let nanos = u32::try_from(time.tv_nsec).expect("nanoseconds of a second are few");
    Duration::new(seconds, nanos)
}

/// Wall-clock milliseconds; 0 on a machine that believes to live before 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The runtime's instant for a point of [`now`]'s clock; a point in the past is now.
pub(crate) fn instant(at: Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + at.saturating_sub(now())
}

/// Whole milliseconds, rounded up: for reports.
pub(crate) fn ceil_ms(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
