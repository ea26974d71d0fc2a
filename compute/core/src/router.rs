//! The read router: which segment is asked for a page.
//!
//! Usually the fastest of those that cover the read point (R26), now and then the one that was asked least lately, so that
//! estimates stay fresh. Counters decide, not chance.

use std::time::Duration;

use sixfold_log_format::Lsn;

use crate::link::Link;
use crate::shipper::LinkIndex;

/// Every so many choices another segment than the fastest is asked.
const PROBE_EVERY: u64 = 32;
/// What a failed read counts for, at least.
const FAILED: Duration = Duration::from_millis(5);
/// The most that failed reads count for.
const PENALTY_MAX: Duration = Duration::from_secs(1);
/// A read is never overdue before this.
const OVERDUE_MIN: Duration = Duration::from_millis(5);
/// The most that one answer counts for: one from a segment that was stopped tells nothing of the next.
const SAMPLE_MAX: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, Default)]
struct Latency {
    /// Smoothed; zero before the first answer.
    smoothed: Duration,
    /// What reads that failed or are overdue since the last answer count for; kept apart, so that trying such a segment
    /// again does not take longer.
    penalty: Duration,
    asked_last: u64,
}

/// Latencies by link.
#[derive(Debug)]
pub(crate) struct Router {
    latencies: Vec<Latency>,
    choices: u64,
}

impl Router {
    pub(crate) fn new(link_count: usize) -> Router {
        Router {
            latencies: vec![Latency::default(); link_count],
            choices: 0,
        }
    }

    /// A link was added at the end of the list.
    pub(crate) fn added(&mut self) {
        self.latencies.push(Latency::default());
    }

    /// The link to ask among those with `may_ask`: one that covers `scl_needed` if there is one; else any, since what is known of
    /// its SCL may be old.
    pub(crate) fn choose(
        &mut self,
        links: &[Link],
        scl_needed: Lsn,
        may_ask: impl Fn(LinkIndex, &Link) -> bool,
    ) -> Option<LinkIndex> {
        self.choices += 1;
        let probe = self.choices.is_multiple_of(PROBE_EVERY);
        let rank = |&(index, link): &(LinkIndex, &Link)| {
            let latency = self.latencies[index];
            let by_age = if probe { latency.asked_last } else { 0 };
            let unlikely = link.scl < scl_needed;
            (
                unlikely,
                !link.is_up(),
                by_age,
                latency.smoothed + latency.penalty,
                latency.asked_last,
            )
        };
        let candidates = links
            .iter()
            .enumerate()
            .filter(|&(index, link)| link.may_be_asked() && may_ask(index, link));
        let (chosen, _) = candidates.min_by_key(rank)?;
        self.latencies[chosen].asked_last = self.choices;
        Some(chosen)
    }

    /// A read was answered.
    pub(crate) fn answered(&mut self, link: LinkIndex, took: Duration) {
        let latency = &mut self.latencies[link];
        let took = took.min(SAMPLE_MAX);
        latency.penalty = Duration::ZERO;
        let first = latency.smoothed.is_zero();
        latency.smoothed = if first {
            took
        } else {
            (latency.smoothed * 7 + took) / 8
        };
    }

    /// A read was answered of which the time tells little.
    pub(crate) fn answers(&mut self, link: LinkIndex) {
        self.latencies[link].penalty = Duration::ZERO;
    }

    /// A read failed, was refused, or is overdue.
    pub(crate) fn failed(&mut self, link: LinkIndex) {
        let latency = &mut self.latencies[link];
        latency.penalty = (latency.penalty * 2).clamp(FAILED, PENALTY_MAX);
    }

    /// After how long a read from this link is overdue.
    pub(crate) fn overdue_after(&self, link: LinkIndex) -> Duration {
        (self.latencies[link].smoothed * 3).max(OVERDUE_MIN)
    }
}
