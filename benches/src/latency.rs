//! Latencies in microseconds.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies above this are counted as this, microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// A histogram of latencies, 1 us to 60 s at three digits.
#[derive(Debug, Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Latencies {
        let histogram =
            Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are sound");
        Latencies { histogram }
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_MAX_US);
        self.record_us(us);
    }

    /// Counts one, in microseconds.
    pub fn record_us(&mut self, us: u64) {
        self.histogram
            .saturating_record(us.clamp(1, LATENCY_MAX_US));
    }

    /// Counts what another one has counted, too.
    ///
    /// # Errors
    /// Never: all have the same bounds.
    pub fn add(&mut self, other: &Latencies) -> Result<(), hdrhistogram::AdditionError> {
        self.histogram.add(&other.histogram)
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The latency that this share of all stays within, microseconds; 0 when none was counted.
    pub fn quantile_us(&self, share: f64) -> u64 {
        self.histogram.value_at_quantile(share)
    }

    /// The distribution for a picture: shares, ever closer to 1, and the latency that each stays within, microseconds. Shares that
    /// so few were counted for that they would be the slowest one again are left out.
    pub fn distribution(&self) -> Vec<(f64, u64)> {
        let mut points = Vec::new();
        for nines in 0..6_i32 {
            let left = 10_f64.powi(-nines);
            for part in [1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.13] {
                let left = left * part;
                #[allow(clippy::cast_precision_loss)] // Far fewer than 2^53.
                let counted = self.count() as f64 * left;
                if counted >= 1.0 {
                    points.push((1.0 - left, self.quantile_us(1.0 - left)));
                }
            }
        }
        points
    }

    /// Median, microseconds.
    pub fn p50_us(&self) -> u64 {
        self.quantile_us(0.5)
    }

    /// 99 % stay within it, microseconds.
    pub fn p99_us(&self) -> u64 {
        self.quantile_us(0.99)
    }

    /// 99.9 % stay within it, microseconds.
    pub fn p999_us(&self) -> u64 {
        self.quantile_us(0.999)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        for us in 1..=1_000 {
            latencies.record(Duration::from_micros(us));
        }
        assert_eq!(
            (latencies.count(), latencies.p50_us(), latencies.p99_us()),
            (1_000, 500, 990)
        );
    }

    #[test]
    fn a_distribution_ends_where_single_latencies_begin() {
        let mut latencies = Latencies::default();
        for us in 1..=1_000 {
            latencies.record(Duration::from_micros(us));
        }
        let points = latencies.distribution();
        assert!(points.is_sorted_by(|left, right| left.0 < right.0 && left.1 <= right.1));
        let (share, us) = points.last().copied().unwrap();
        assert!(share <= 0.999 && us >= 998, "{share} {us}");
        assert!(Latencies::default().distribution().is_empty());
    }
}
