//! Requests of a change of membership: each is repeated until it is answered or no longer wanted.

use std::collections::BTreeMap;
use std::time::Duration;

use sixfold_log_format::{ManifestVersion, NodeId, SegmentId};

use crate::event::FetchKey;

/// The keys of these requests have this bit and not the one of log reads.
const KEY_BIT: u64 = 1 << 62;
const LOG_READ_BIT: u64 = 1 << 63;
/// A request that was not answered by then is made again.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause after the first failure; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const PAUSE_DOUBLINGS_MAX: u32 = 6;
/// Requests in flight.
const CALLS_MAX: usize = 256;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    /// Make a segment.
    Create(SegmentId),
    /// Take this manifest.
    Install(SegmentId, ManifestVersion),
    /// Drop a removed segment.
    Drop(SegmentId),
    /// Say which segments are there.
    Probe(NodeId),
    /// Say which hints were left.
    Hints(NodeId),
    /// Hear how far a wish is.
    Report([u8; 16], NodeId),
}

/// How a request stands.
#[derive(Debug, Clone, Copy)]
enum Slot {
    InFlight { fetch: FetchKey, until: Duration },
    Pause { until: Duration },
}

/// All requests. Invariant: each call is in flight once at most.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    slots: BTreeMap<Call, (Slot, u32)>,
    in_flight: BTreeMap<FetchKey, Call>,
    next_key: u64,
}

/// Whether the answer to this request is one of these.
pub(crate) fn is_call(fetch: FetchKey) -> bool {
    fetch.0 & (KEY_BIT | LOG_READ_BIT) == KEY_BIT
}

impl Calls {
    /// A call is wanted: the key under which it is to be sent now, if it is.
    pub(crate) fn wanted(&mut self, call: Call, now: Duration) -> Option<FetchKey> {
        let failures = match self.slots.get(&call) {
            None => 0,
            Some((Slot::Pause { until }, failures)) if *until <= now => *failures,
            Some((Slot::InFlight { fetch, until }, failures)) if *until <= now => {
                self.in_flight.remove(fetch);
                failures + 1
            }
            Some(_) => return None,
        };
        if self.in_flight.len() >= CALLS_MAX {
            return None;
        }
        self.next_key += 1;
        let fetch = FetchKey(self.next_key | KEY_BIT);
        let until = now + PATIENCE;
        self.in_flight.insert(fetch, call);
        self.slots
            .insert(call, (Slot::InFlight { fetch, until }, failures));
        Some(fetch)
    }

    /// A request was answered, or failed; what it was, if it counts still.
    pub(crate) fn answered(&mut self, fetch: FetchKey) -> Option<Call> {
        self.in_flight.remove(&fetch)
    }

    /// The answer helps nothing: once more, after a pause.
    pub(crate) fn failed(&mut self, call: Call, now: Duration) {
        let failures = self.failures(call) + 1;
        let pause = PAUSE_MIN * 2_u32.pow((failures - 1).min(PAUSE_DOUBLINGS_MAX));
        let until = now + pause.min(PAUSE_MAX);
        self.slots.insert(call, (Slot::Pause { until }, failures));
    }

    /// It is done.
    pub(crate) fn done(&mut self, call: Call) {
        self.slots.remove(&call);
    }

    /// How often it failed in a row.
    pub(crate) fn failures(&self, call: Call) -> u32 {
        self.slots.get(&call).map_or(0, |&(_, failures)| failures)
    }

    /// Forgets calls that are not wanted any more.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&Call) -> bool) {
        self.slots.retain(|call, _| wanted(call));
        self.in_flight.retain(|_, call| wanted(call));
    }
}
