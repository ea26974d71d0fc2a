//! Latencies as they happen: fixed buckets, one atomic addition for the bucket and one for the sum. No lock, no allocation.
//!
//! The buckets are Sixfold's: from a tenth of a lone commit on a fast disk to ten seconds, about two a doubling where commits are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the buckets, microseconds, inclusive; one more is without an end.
pub const BUCKETS_US: [u64; 24] = [
    10, 20, 50, 100, 150, 200, 300, 400, 600, 800, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000,
    20_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
];

const _: () = {
    let mut index = 1;
    while index < BUCKETS_US.len() {
        assert!(BUCKETS_US[index - 1] < BUCKETS_US[index], "buckets rise");
        index += 1;
    }
};

/// Counts durations. Shared by reference between threads.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The last one is for what is above all ends.
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What a histogram held at one moment. A duration that was counted meanwhile may be in the buckets and not yet in the sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many fell into each bucket; not cumulative.
    pub buckets: [u64; BUCKETS_US.len() + 1],
    /// The sum of all, microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Counts one.
    pub fn count(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|&end| end < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What it holds.
    pub fn counted(&self) -> Counted {
        let mut counted = Counted::default();
        for (taken, bucket) in counted.buckets.iter_mut().zip(&self.buckets) {
            *taken = bucket.load(Ordering::Relaxed);
        }
        counted.sum_us = self.sum_us.load(Ordering::Relaxed);
        counted
    }
}

impl Counted {
    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What came since `before`, an older reading of the same histogram; everything when `before` is of another one.
    pub fn since(&self, before: &Counted) -> Counted {
        let mut news = self.clone();
        for (now, then) in news.buckets.iter_mut().zip(&before.buckets) {
            match now.checked_sub(*then) {
                Some(difference) => *now = difference,
                None => return self.clone(),
            }
        }
        news.sum_us = self.sum_us.saturating_sub(before.sum_us);
        news
    }

    /// The quantile `permille`/1000, microseconds: the end of the bucket that it falls into, `None` when nothing was counted. What is
    /// above all ends counts as the last of them.
    pub fn quantile_us(&self, permille: u64) -> Option<u64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let rank = (u128::from(total) * u128::from(permille))
            .div_ceil(1_000)
            .max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return Some(BUCKETS_US[index.min(BUCKETS_US.len() - 1)]);
            }
        }
        Some(BUCKETS_US[BUCKETS_US.len() - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_whose_end_it_does_not_pass() {
        let histogram = Histogram::default();
        for us in [0, 10, 11, 10_000_000, 10_000_001] {
            histogram.count(Duration::from_micros(us));
        }
        let counted = histogram.counted();
        assert_eq!(counted.buckets[0], 2);
        assert_eq!(counted.buckets[1], 1);
        assert_eq!(counted.buckets[BUCKETS_US.len() - 1], 1);
        assert_eq!(counted.buckets[BUCKETS_US.len()], 1);
        assert_eq!(counted.total(), 5);
        assert_eq!(counted.sum_us, 20_000_022);
    }

    #[test]
    fn quantiles_are_ends_of_buckets_and_news_is_a_difference() {
        let histogram = Histogram::default();
        assert_eq!(histogram.counted().quantile_us(500), None);
        for _ in 0..99 {
            histogram.count(Duration::from_micros(120));
        }
        let before = histogram.counted();
        histogram.count(Duration::from_secs(60));
        let counted = histogram.counted();
        assert_eq!(counted.quantile_us(500), Some(150));
        assert_eq!(counted.quantile_us(990), Some(150));
        assert_eq!(counted.quantile_us(1_000), Some(10_000_000));
        assert_eq!(counted.since(&before).total(), 1);
        // Another process: nothing is taken away.
        assert_eq!(before.since(&counted), before);
    }
}
