//! What a recovery has asked and not been answered, and when to ask again.
//!
//! Each [`Ask`] is wanted until it is finished. It is in flight under one key at a time, so that an answer to an earlier
//! sending is recognized as late. It decides nothing about what an answer means.

use std::collections::BTreeMap;
use std::time::Duration;

use sixfold_log_format::{NodeId, SegmentId};

use super::RequestKey;

/// First wait after a request could not be delivered or was refused for now; it doubles up to [`REST_MAX`].
const REST_MIN: Duration = Duration::from_millis(20);
const REST_MAX: Duration = Duration::from_millis(200);
/// First wait for an answer that does not come; it doubles without bound, since the deadline ends it.
pub(super) const ANSWER_WAIT: Duration = Duration::from_millis(500);
const ANSWER_WAIT_DOUBLINGS_MAX: u32 = 10;

/// Something that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    /// What a node holds.
    Probe(NodeId),
    /// That a segment accepts our claim.
    Claim(SegmentId),
    /// That a segment takes our history and manifest.
    Install(SegmentId),
    /// Batches for this segment, at another one.
    ReadLog(SegmentId),
    /// That this segment takes batches.
    Refill(SegmentId),
    /// A census of a segment, without a claim.
    Survey(SegmentId),
}

#[derive(Debug)]
enum State {
    Due,
    InFlight { key: RequestKey, expires: Duration },
    Resting { until: Duration },
}

#[derive(Debug)]
struct Task {
    state: State,
    rest_count: u32,
    expired_count: u32,
}

/// All that is asked. At most a few entries for each segment of the volume.
#[derive(Debug, Default)]
pub(super) struct Requests {
    last_key: u64,
    tasks: BTreeMap<Ask, Task>,
    keys: BTreeMap<RequestKey, Ask>,
}

impl Requests {
    /// Wants an answer; nothing new when it is wanted already.
    pub(super) fn want(&mut self, ask: Ask) {
        self.tasks.entry(ask).or_insert(Task {
            state: State::Due,
            rest_count: 0,
            expired_count: 0,
        });
    }

    /// No longer wanted.
    pub(super) fn finish(&mut self, ask: Ask) {
        if let Some(Task {
            state: State::InFlight { key, .. },
            ..
        }) = self.tasks.remove(&ask)
        {
            self.keys.remove(&key);
        }
    }

    /// Nothing is wanted any more; keys are never used again, so that late answers find nothing.
    pub(super) fn clear(&mut self) {
        self.tasks.clear();
        self.keys.clear();
    }

    /// What a key stands for; `None` for late and double answers.
    pub(super) fn ask_of(&self, key: RequestKey) -> Option<Ask> {
        self.keys.get(&key).copied()
    }

    /// A part of the answer came: the rest has time again.
    pub(super) fn touch(&mut self, ask: Ask, now: Duration) {
        if let Some(task) = self.tasks.get_mut(&ask) {
            let wait = task.answer_wait();
            if let State::InFlight { expires, .. } = &mut task.state {
                *expires = now + wait;
            }
        }
    }

    /// Could not be delivered, or was refused for now: asks again after a rest.
    pub(super) fn rest(&mut self, ask: Ask, now: Duration) {
        let Some(task) = self.tasks.get_mut(&ask) else {
            return;
        };
        if let State::InFlight { key, .. } = task.state {
            self.keys.remove(&key);
        }
        let wait = REST_MIN * (1 << task.rest_count.min(4));
        task.rest_count += 1;
        task.state = State::Resting {
            until: now + wait.min(REST_MAX),
        };
    }

    /// What has waited too long for its answer; all of it is due again.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<Ask> {
        let mut expired = Vec::new();
        for (ask, task) in &mut self.tasks {
            if let State::InFlight { key, expires } = task.state
                && expires <= now
            {
                self.keys.remove(&key);
                task.state = State::Due;
                task.expired_count += 1;
                expired.push(*ask);
            }
        }
        expired
    }

    /// What is to be sent now.
    pub(super) fn due(&self, now: Duration) -> Vec<Ask> {
        let is_due = |task: &Task| match task.state {
            State::Due => true,
            State::Resting { until } => until <= now,
            State::InFlight { .. } => false,
        };
        self.tasks
            .iter()
            .filter(|(_, task)| is_due(task))
            .map(|(ask, _)| *ask)
            .collect()
    }

    /// It is being sent: the key to send it under.
    ///
    /// # Panics
    /// When it is not wanted.
    pub(super) fn sent(&mut self, ask: Ask, now: Duration) -> RequestKey {
        let task = self
            .tasks
            .get_mut(&ask)
            .expect("only what is wanted is sent");
        self.last_key += 1;
        let key = RequestKey(self.last_key);
        task.state = State::InFlight {
            key,
            expires: now + task.answer_wait(),
        };
        self.keys.insert(key, ask);
        key
    }

    /// When something is due or expires next.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        let at = |task: &Task| match task.state {
            State::Due => Duration::ZERO,
            State::Resting { until } => until,
            State::InFlight { expires, .. } => expires,
        };
        self.tasks.values().map(at).min()
    }
}

impl Task {
    fn answer_wait(&self) -> Duration {
        ANSWER_WAIT * (1 << self.expired_count.min(ANSWER_WAIT_DOUBLINGS_MAX))
    }
}
