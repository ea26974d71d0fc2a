//! Cuts a failing plan down as long as it still fails in the same way: fewer faults and failovers, less work, plainer sizes, less time.

use crate::clock::MS;
use crate::plan::{Fault, Plan, Shape};
use crate::run::run;

/// What kind of failure it is. A run that is cut down may fail with another rule, since what is seen first depends on the schedule,
/// but a panic stays a panic, and a run that stands still is not what a broken rule is cut down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Panic,
    StandsStill,
    Rule,
}

fn kind_of(failure: &str) -> Kind {
    if failure.starts_with("panic") {
        Kind::Panic
    } else if failure.starts_with("liveness") || failure.starts_with("livelock") {
        Kind::StandsStill
    } else {
        Kind::Rule
    }
}

/// A plan that fails, and how many more runs may be spent on it.
struct Cut {
    best: Plan,
    kind: Kind,
    left: usize,
}

impl Cut {
    /// Takes the candidate if it fails as well.
    fn take(&mut self, candidate: Plan) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        // Without an operator's word nobody is to write after a loss: such a run stands still for another reason.
        let has = |wanted: fn(&Fault) -> bool| candidate.faults.iter().any(|(_, f)| wanted(f));
        let is_destroyed = has(|fault| matches!(fault, Fault::Destroy { .. }));
        let is_told = has(|fault| matches!(fault, Fault::GiveWord { .. }));
        if is_destroyed && !is_told && !candidate.shape.members.ends_read_only {
            return false;
        }
        let failure = run(&candidate, false).failure;
        let same = failure.is_some_and(|failure| kind_of(&failure) == self.kind);
        if same {
            self.best = candidate;
        }
        same
    }

    fn faults(&mut self) -> bool {
        let mut smaller = false;
        let mut size = self.best.faults.len().div_ceil(2);
        while size > 0 {
            let mut start = 0;
            while start < self.best.faults.len() {
                let mut candidate = self.best.clone();
                let end = (start + size).min(candidate.faults.len());
                candidate.faults.drain(start..end);
                if self.take(candidate) {
                    smaller = true;
                } else {
                    start += size;
                }
            }
            size /= 2;
        }
        smaller
    }

    fn failovers(&mut self) -> bool {
        let mut smaller = false;
        for index in (0..self.best.failovers.len()).rev() {
            let mut candidate = self.best.clone();
            candidate.failovers.remove(index);
            smaller |= self.take(candidate);
        }
        smaller
    }

    /// Fewer transactions: half as many as long as that fails, then a few less.
    fn transactions(&mut self) -> bool {
        let mut smaller = false;
        let most = run(&self.best, false).transactions;
        let mut count = self.best.shape.transactions_max.min(most);
        let mut step = count.div_ceil(2);
        while step > 0 {
            let mut candidate = self.best.clone();
            candidate.shape.transactions_max = count - step;
            if self.take(candidate) {
                count -= step;
                smaller = true;
            }
            if step == 1 || self.left == 0 {
                break;
            }
            step = step.min(count).div_ceil(2);
        }
        smaller
    }

    fn shape(&mut self) -> bool {
        let mut smaller = false;
        let mut next = 0;
        while let Some(shape) = self.best.shape.plainer().into_iter().nth(next) {
            let candidate = Plan {
                shape,
                ..self.best.clone()
            };
            if self.take(candidate) {
                // The list is shorter by this one.
                smaller = true;
            } else {
                next += 1;
            }
        }
        smaller
    }

    fn time(&mut self) -> bool {
        let mut candidate = self.best.clone();
        candidate.end /= 2;
        candidate.faults.retain(|(at, _)| *at < candidate.end);
        candidate.end > 100 * MS && self.take(candidate)
    }
}

/// The smallest failing plan found within `tries` runs; the plan itself where it does not fail.
pub fn minimize(plan: &Plan, tries: usize) -> Plan {
    let Some(failure) = run(plan, false).failure else {
        return plan.clone();
    };
    let mut cut = Cut {
        best: plan.clone(),
        kind: kind_of(&failure),
        left: tries,
    };
    loop {
        // All of them, one after the other: each makes room for the next.
        let smaller = [
            cut.faults(),
            cut.failovers(),
            cut.transactions(),
            cut.shape(),
            cut.time(),
        ];
        if !smaller.contains(&true) || cut.left == 0 {
            return cut.best;
        }
    }
}

/// How large a plan is, in words.
pub fn size(plan: &Plan) -> String {
    let Shape {
        clients,
        key_count,
        pg_count,
        transactions_max,
        ..
    } = &plan.shape;
    let work = if *transactions_max == u64::MAX {
        String::new()
    } else {
        format!(" with {transactions_max} transactions")
    };
    format!(
        "{} faults and {} failovers, {clients} clients{work} on {key_count} keys, {pg_count} groups",
        plan.faults.len(),
        plan.failovers.len()
    )
}
