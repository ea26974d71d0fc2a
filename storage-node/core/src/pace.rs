//! How fast a node serves its peers' catching up while its own writers and readers are there: foreground first (F11).
//!
//! Without foreground traffic there is no limit but the disk's. With it, what peers read is paid from an allowance that fills at a
//! configured rate; a request that finds it empty is refused as overloaded and comes again a little later.

use std::time::Duration;

/// The node counts as having foreground traffic for so long after the last of it.
const FOREGROUND: Duration = Duration::from_millis(100);
/// What may be read at once, bytes: an idle moment is not saved up for longer.
const BURST_BYTES: u64 = 4 << 20;

/// The allowance of all peers together.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When a writer or a reader was last served.
    foreground: Option<Duration>,
    /// Bytes that were served and are not paid for yet.
    owed_bytes: u64,
    since: Duration,
}

impl Pace {
    /// A writer or a reader was served.
    pub(crate) fn saw_foreground(&mut self, now: Duration) {
        self.foreground = Some(now);
    }

    /// Whether a peer is served now. `bytes_per_second` is the rate beside foreground traffic; 0 for no limit.
    pub(crate) fn admits(&mut self, now: Duration, bytes_per_second: u64) -> bool {
        let passed = now.saturating_sub(self.since);
        self.since = now;
        let paid = u128::from(bytes_per_second) * passed.as_nanos() / 1_000_000_000;
        self.owed_bytes = self
            .owed_bytes
            .saturating_sub(u64::try_from(paid).unwrap_or(u64::MAX));
        let busy = self
            .foreground
            .is_some_and(|at| now.saturating_sub(at) < FOREGROUND);
        if !busy || bytes_per_second == 0 {
            self.owed_bytes = 0;
        }
        self.owed_bytes < BURST_BYTES
    }

    /// A peer is served so many bytes.
    pub(crate) fn serves(&mut self, bytes: u64) {
        self.owed_bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 100 << 20;
    const PIECE: u64 = 1 << 20;

    /// Bytes served in a second, asked for every millisecond.
    fn served(pace: &mut Pace, from: Duration, foreground: bool) -> u64 {
        let mut bytes = 0;
        for ms in 0..1_000 {
            let now = from + Duration::from_millis(ms);
            if foreground {
                pace.saw_foreground(now);
            }
            if pace.admits(now, RATE) {
                pace.serves(PIECE);
                bytes += PIECE;
            }
        }
        bytes
    }

    #[test]
    fn peers_get_the_rate_beside_foreground_traffic_and_everything_without_it() {
        let mut pace = Pace::default();
        let start = Duration::from_secs(100);
        assert_eq!(served(&mut pace, start, false), 1_000 * PIECE);
        let beside = served(&mut pace, start + Duration::from_secs(1), true);
        let allowed = RATE + BURST_BYTES + PIECE;
        assert!(beside > RATE - 2 * PIECE && beside <= allowed, "{beside}");
        let beside = served(&mut pace, start + Duration::from_secs(2), true);
        assert!(beside.abs_diff(RATE) <= 2 * PIECE, "{beside}");
        let alone = served(&mut pace, start + Duration::from_secs(3), false);
        assert!(alone > 9 * RATE / 2, "the foreground has gone: {alone}");
    }

    #[test]
    fn a_clock_that_jumps_far_gives_no_more_than_a_burst() {
        let mut pace = Pace::default();
        pace.saw_foreground(Duration::MAX);
        for _ in 0..100 {
            if pace.admits(Duration::MAX, RATE) {
                pace.serves(PIECE);
            }
        }
        assert_eq!(pace.owed_bytes, BURST_BYTES);
    }
}
