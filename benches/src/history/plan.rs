//! What a client does next: which keys, reads or writes, and values that nobody writes twice.

use std::time::Duration;

use super::event::{Step, Value, Verb, Workload};

/// Keys in use at a time. Few, so that transactions meet; not so few that most of them conflict.
const FAST_KEYS: u64 = 16;
/// How long they are in use: a list must not grow for ever, and a checker should see many.
const FAST_WINDOW: Duration = Duration::from_millis(100);
/// Keys that are in use for longer: across takeovers and outages.
const SLOW_KEYS: u64 = 4;
/// How long those are in use.
const SLOW_WINDOW: Duration = Duration::from_secs(2);
/// One step in so many goes to them.
const SLOW_ONE_IN: u64 = 8;
/// Their numbers begin here.
const SLOW_KEY_FIRST: u64 = 1_000_000_000;
/// Most steps of a transaction.
const STEPS_MAX: u64 = 4;
/// A value is its client's number times this, and the client's how manieth write it is.
const VALUES_PER_CLIENT: u64 = 10_000_000;

/// Numbers that look random (splitmix64).
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    /// A stream of its own for each seed.
    pub fn new(seed: u64) -> Draw {
        Draw(seed.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// True once in so many.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// What one client does.
#[derive(Debug)]
pub struct Plan {
    workload: Workload,
    client: u32,
    draw: Draw,
    written: u64,
}

impl Plan {
    /// The plan of a client. It follows from the client's number and the time.
    pub fn new(workload: Workload, client: u32) -> Plan {
        Plan {
            workload,
            client,
            draw: Draw::new(u64::from(client) + 1),
            written: 0,
        }
    }

    /// The next transaction, so long after the run began.
    pub fn next(&mut self, elapsed: Duration) -> Vec<Step> {
        let steps = match self.workload {
            Workload::Register => 1,
            _ => 1 + self.draw.below(STEPS_MAX),
        };
        let read_only = self.draw.one_in(4);
        let read_only = read_only && self.workload != Workload::Register;
        (0..steps)
            .map(|_| {
                let key = self.key(elapsed);
                if read_only || self.draw.one_in(2) {
                    Step(Verb::Read, key, None)
                } else {
                    let verb = match self.workload {
                        Workload::ListAppend => Verb::Append,
                        Workload::RwRegister | Workload::Register => Verb::Write,
                    };
                    Step(verb, key, Some(Value::One(self.value())))
                }
            })
            .collect()
    }

    /// How long to wait before the next one: half of the time not at all.
    pub fn pause(&mut self) -> Duration {
        if self.draw.one_in(2) {
            Duration::ZERO
        } else {
            Duration::from_millis(1 + self.draw.below(8))
        }
    }

    fn key(&mut self, elapsed: Duration) -> u64 {
        if self.draw.one_in(SLOW_ONE_IN) {
            return SLOW_KEY_FIRST
                + window(elapsed, SLOW_WINDOW) * SLOW_KEYS
                + self.draw.below(SLOW_KEYS);
        }
        // The window before is still used for a while: windows are not cut at one moment.
        let window = window(elapsed, FAST_WINDOW).saturating_sub(u64::from(self.draw.one_in(4)));
        window * FAST_KEYS + self.draw.below(FAST_KEYS)
    }

    fn value(&mut self) -> u64 {
        self.written += 1;
        assert!(
            self.written < VALUES_PER_CLIENT,
            "client {} has no value left",
            self.client
        );
        u64::from(self.client) * VALUES_PER_CLIENT + self.written
    }
}

/// Every key that any plan can have used within this time.
pub fn keys_until(elapsed: Duration) -> impl Iterator<Item = u64> {
    let fast = (window(elapsed, FAST_WINDOW) + 1) * FAST_KEYS;
    let slow = (window(elapsed, SLOW_WINDOW) + 1) * SLOW_KEYS;
    (0..fast).chain((0..slow).map(|key| SLOW_KEY_FIRST + key))
}

fn window(elapsed: Duration, length: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos() / length.as_nanos()).expect("a run is short")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_once_and_keys_are_found_at_the_end() {
        let mut values = std::collections::BTreeSet::new();
        let mut used = std::collections::BTreeSet::new();
        let mut now = Duration::ZERO;
        let mut plans: Vec<Plan> = (0..5)
            .map(|client| Plan::new(Workload::ListAppend, client))
            .collect();
        for _ in 0..1_000 {
            now += Duration::from_millis(7);
            for plan in &mut plans {
                for Step(verb, key, value) in plan.next(now) {
                    used.insert(key);
                    if verb != Verb::Read {
                        let Some(Value::One(value)) = value else {
                            panic!("no value")
                        };
                        assert!(values.insert(value), "{value} again");
                    }
                }
            }
        }
        let all: std::collections::BTreeSet<u64> = keys_until(now).collect();
        assert!(used.is_subset(&all));
        assert!(values.len() > 1_000);
    }

    #[test]
    fn a_register_transaction_has_one_step() {
        let mut plan = Plan::new(Workload::Register, 3);
        let verbs: Vec<Verb> = (0..100)
            .map(|_| {
                let steps = plan.next(Duration::ZERO);
                assert_eq!(steps.len(), 1);
                steps[0].0
            })
            .collect();
        assert!(verbs.contains(&Verb::Read) && verbs.contains(&Verb::Write));
    }
}
