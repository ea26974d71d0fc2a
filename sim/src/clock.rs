//! The clocks of the world: one true time that nobody sees, and a clock for each process that starts somewhere and runs a
//! little too fast or too slow. Only rates matter to the protocol (T1), and they are within a percent.

use std::time::Duration;

use crate::rng::Rng;

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

/// Wall clocks in the world's first moment, milliseconds since 1970.
const WALL_START_MS: i64 = 1_700_000_000_000;

/// The wall clocks of the machines: each is wrong by some minutes, and somebody sets them while processes run. Nothing may
/// depend on them (T1, T5); the stamps of batches and clock records stay in order all the same (R29).
#[derive(Debug)]
pub(crate) struct WallClocks {
    wrong_by_ms: Vec<i64>,
}

impl WallClocks {
    pub(crate) fn new(hosts: usize, rng: &mut Rng) -> WallClocks {
        let mut draw = || i64::try_from(rng.below(600_000)).expect("minutes") - 300_000;
        WallClocks {
            wrong_by_ms: (0..hosts).map(|_| draw()).collect(),
        }
    }

    /// Somebody sets a machine's clock.
    pub(crate) fn set(&mut self, host: usize, by_ms: i64) {
        self.wrong_by_ms[host] += by_ms;
    }

    /// What a process on this machine reads.
    pub(crate) fn unix_ms(&self, host: usize, time: Time) -> u64 {
        let passed_ms = i64::try_from(time / MS).expect("a run is short");
        let shown = WALL_START_MS + passed_ms + self.wrong_by_ms[host];
        u64::try_from(shown).unwrap_or(0)
    }
}
