//! The clocks of the world: one true time that nobody sees, and a clock for each process that starts somewhere and runs a
//! little too fast or too slow. Only rates matter to the protocol (T1), and they are within a percent.

use std::time::Duration;

/// True time, nanoseconds since the start of the world.
pub(crate) type Time = u64;

/// A millisecond.
pub(crate) const MS: Time = 1_000_000;
/// A microsecond.
pub(crate) const US: Time = 1_000;

const MILLION: i128 = 1_000_000;

/// The clock of one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalClock {
    base: u64,
    start: Time,
    /// How much too fast it runs, parts in a million.
    drift: i64,
}

impl LocalClock {
    pub(crate) fn new(base: u64, start: Time, drift: i64) -> LocalClock {
        LocalClock { base, start, drift }
    }

    /// What it shows at a true time.
    pub(crate) fn at(&self, time: Time) -> Duration {
        let passed = i128::from(time - self.start);
        let shown = passed * (MILLION + i128::from(self.drift)) / MILLION;
        Duration::from_nanos(self.base + u64::try_from(shown).expect("clocks run forward"))
    }

    /// The true time at which it shows `due` or more.
    pub(crate) fn when(&self, due: Duration) -> Time {
        let due = i128::try_from(due.as_nanos()).expect("clocks show sane times");
        let ahead = due - i128::from(self.base);
        if ahead <= 0 {
            return self.start;
        }
        let passed = ahead * MILLION / (MILLION + i128::from(self.drift)) + 1;
        self.start + u64::try_from(passed).unwrap_or(u64::MAX / 4)
    }
}
