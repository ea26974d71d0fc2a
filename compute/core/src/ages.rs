//! How old a read point is: when VDL passed it, about. For status, so that a snapshot that lives for hours shows.

use std::collections::VecDeque;
use std::time::Duration;

use sixfold_log_format::Lsn;

/// Time between two samples at first.
const INTERVAL: Duration = Duration::from_millis(100);
/// Samples kept; of the older half every second one goes when there are more.
const SAMPLES_MAX: usize = 1_024;

/// Where VDL stood when. Invariant: times and LSNs rise.
#[derive(Debug)]
pub(crate) struct Ages {
    samples: VecDeque<(Duration, Lsn)>,
}

impl Ages {
    pub(crate) fn new(now: Duration, vdl: Lsn) -> Ages {
        Ages {
            samples: VecDeque::from([(now, vdl)]),
        }
    }

    /// Where VDL stands now.
    pub(crate) fn sample(&mut self, now: Duration, vdl: Lsn) {
        let is_news = |&(at, before): &(Duration, Lsn)| before < vdl && now >= at + INTERVAL;
        if !self.samples.back().is_none_or(is_news) {
            return;
        }
        if self.samples.len() >= SAMPLES_MAX {
            let half = SAMPLES_MAX / 2;
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index > half || index % 2 == 1
            });
        }
        self.samples.push_back((now, vdl));
    }

    /// For how long a newer point than `lsn` is there, as far as is remembered.
    pub(crate) fn age(&self, lsn: Lsn, now: Duration) -> Duration {
        let passed = self.samples.partition_point(|&(_, vdl)| vdl <= lsn);
        self.samples
            .get(passed)
            .map_or(Duration::ZERO, |&(at, _)| now.saturating_sub(at))
    }
}
