//! Whether the members that a group has left carry its writes, before and while others join (R19, R20).
//!
//! While others join, each of them is needed for a commit. One that only answers is not enough: its disk may be full, or it may be far
//! behind, which nobody noticed as long as the others were enough.

use std::time::Duration;

use sixfold_log_format::Lsn;

/// The longest pause before a group is given copies again after that was taken back.
const PAUSE_MAX: Duration = Duration::from_secs(30 * 60);
/// Most times that a pause doubles.
const DOUBLINGS_MAX: u32 = 16;

/// How one group's members did at the last looks. All of it is as of a look: between two of them nothing is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Carrier {
    /// Since when every member was found to carry, without a look at which one did not.
    steady_since: Duration,
    /// PGCL at the last look: who has it by the next one keeps up.
    mark: Lsn,
    /// Since when the group's writes stand still, if they do.
    stalled_since: Option<Duration>,
}

/// What a look found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) now: Duration,
    /// Whether every member that is whole is heard, takes batches, and held at this look what the group had durable at the last one.
    pub(crate) all_carry: bool,
    /// Whether those that are whole and take batches could make writes durable by themselves.
    pub(crate) may_write: bool,
    pub(crate) pgcl: Lsn,
    pub(crate) last_sealed: Lsn,
}

impl Carrier {
    pub(crate) fn new(now: Duration, pgcl: Lsn) -> Carrier {
        Carrier {
            steady_since: now,
            mark: pgcl,
            stalled_since: None,
        }
    }

    /// What each member has to hold at the next look.
    pub(crate) fn mark(&self) -> Lsn {
        self.mark
    }

    pub(crate) fn looked(&mut self, look: Look) {
        if !look.all_carry {
            self.steady_since = look.now;
        }
        let stands = look.pgcl < look.last_sealed && look.pgcl == self.mark;
        self.stalled_since = match self.stalled_since {
            _ if look.may_write && !stands => None,
            None => Some(look.now),
            since => since,
        };
        self.mark = look.pgcl;
    }

    /// For how long every member has carried.
    pub(crate) fn steady_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.steady_since)
    }

    /// For how long nothing became durable that was to, or could have.
    pub(crate) fn stalled_for(&self, now: Duration) -> Duration {
        let since = self.stalled_since;
        since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

/// A pause of a group that could not be given copies.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pause {
    pub(crate) until: Duration,
    /// How often it was tried and taken back.
    count: u32,
}

impl Pause {
    /// There was no node: others may come.
    pub(crate) fn no_place(&mut self, now: Duration, pause: Duration) {
        self.until = now + pause;
    }

    /// It was tried and taken back: each time it is waited for twice as long, since commits may have waited for it.
    pub(crate) fn taken_back(&mut self, now: Duration, pause: Duration) {
        self.until = now + (pause * 2_u32.pow(self.count)).min(PAUSE_MAX);
        self.count = (self.count + 1).min(DOUBLINGS_MAX);
    }

    pub(crate) fn is_repeated(&self) -> bool {
        self.count > 0
    }
}
