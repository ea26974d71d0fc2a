//! Cuts a failing plan down: fewer faults, fewer failovers, fewer clients, less time, as long as it still fails.

use crate::clock::MS;
use crate::plan::Plan;
use crate::run::run;

/// The smallest failing plan found within `tries` runs. Any failure counts: once something is wrong, what is seen first
/// depends on the schedule.
pub fn minimize(plan: &Plan, tries: usize) -> Plan {
    let mut best = plan.clone();
    let mut left = tries;
    let still_fails = |candidate: &Plan, left: &mut usize| {
        if *left == 0 {
            return false;
        }
        *left -= 1;
        run(candidate, false).failure.is_some()
    };
    loop {
        let mut smaller = false;
        let mut size = best.faults.len().div_ceil(2);
        while size > 0 {
            let mut start = 0;
            while start < best.faults.len() {
                let mut candidate = best.clone();
                let end = (start + size).min(candidate.faults.len());
                candidate.faults.drain(start..end);
                if still_fails(&candidate, &mut left) {
                    best = candidate;
                    smaller = true;
                } else {
                    start += size;
                }
            }
            size /= 2;
        }
        for index in (0..best.failovers.len()).rev() {
            let mut candidate = best.clone();
            candidate.failovers.remove(index);
            if still_fails(&candidate, &mut left) {
                best = candidate;
                smaller = true;
            }
        }
        while best.shape.clients > 1 {
            let mut candidate = best.clone();
            candidate.shape.clients -= 1;
            if !still_fails(&candidate, &mut left) {
                break;
            }
            best = candidate;
            smaller = true;
        }
        let mut candidate = best.clone();
        candidate.end = best.end / 2;
        candidate.faults.retain(|(at, _)| *at < candidate.end);
        if candidate.end > 100 * MS && still_fails(&candidate, &mut left) {
            best = candidate;
            smaller = true;
        }
        if !smaller || left == 0 {
            return best;
        }
    }
}
