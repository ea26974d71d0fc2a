//! How long the parts of a commit take, counted as they happen: two atomic additions a part, no lock, no allocation.
//!
//! ```text
//!  call ──▶ driver ──seal──▶ sealed ──────────quorum──────────▶ VDL passed ──wake──▶ the caller runs
//!                               └──ship──▶ taken by QUIC, for each segment; its disk's part is counted by the node
//!  └───────────────────────────────── commit ─────────────────────────────────────────────┘
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use sixfold_log_format::Lsn;
use sixfold_metrics::Histogram;

/// Seal points that are remembered; the oldest go when there are more.
const SEALS_MAX: usize = 4_096;

/// Latencies, for every thread of the database.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    /// From the call to the answer, as the caller sees it. Answered commits alone.
    pub(crate) commit: Histogram,
    /// From the driver's taking it to its seal: waiting for admission, for pages, for the boxcar.
    pub(crate) seal: Histogram,
    /// From the core's sending a batch to QUIC's taking it, for each segment.
    pub(crate) ship: Histogram,
    /// From the seal to a write quorum: ship, network, the fourth disk, ack.
    pub(crate) quorum: Histogram,
    /// From the answer to the caller's running again.
    pub(crate) wake: Histogram,
    /// Page fetches, from the miss to the pages.
    pub(crate) fetch: Histogram,
}

/// When what was sealed. Invariant: LSNs rise.
#[derive(Debug, Default)]
pub(crate) struct SealTimes {
    seals: VecDeque<(Lsn, Duration)>,
}

impl SealTimes {
    /// A batch that ends here leaves the core. Each is told once a segment: the first counts.
    pub(crate) fn sealed(&mut self, last: Lsn, now: Duration) {
        if self.seals.back().is_some_and(|&(known, _)| known >= last) {
            return;
        }
        if self.seals.len() >= SEALS_MAX {
            self.seals.pop_front();
        }
        self.seals.push_back((last, now));
    }

    /// When the commit at this LSN was sealed, if that is remembered. Commits are asked for in the order of their LSNs.
    pub(crate) fn of(&mut self, lsn: Lsn) -> Option<Duration> {
        while self.seals.front().is_some_and(|&(last, _)| last < lsn) {
            self.seals.pop_front();
        }
        self.seals.front().map(|&(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_was_sealed_with_the_first_batch_that_reaches_it() {
        let mut seals = SealTimes::default();
        let ms = Duration::from_millis;
        seals.sealed(Lsn::new(10), ms(1));
        // The same batch to another segment, and an older one again.
        seals.sealed(Lsn::new(10), ms(2));
        seals.sealed(Lsn::new(4), ms(3));
        seals.sealed(Lsn::new(20), ms(4));
        assert_eq!(seals.of(Lsn::new(5)), Some(ms(1)));
        assert_eq!(seals.of(Lsn::new(10)), Some(ms(1)));
        assert_eq!(seals.of(Lsn::new(11)), Some(ms(4)));
        assert_eq!(seals.of(Lsn::new(21)), None);
    }
}
