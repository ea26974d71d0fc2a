//! When something has to be looked at again: a lower bound, so that setting it costs nothing.
//!
//! Whoever owns many deadlines keeps the soonest ever set; when that time comes it looks at all of them and sets the bound
//! anew. Most deadlines are never reached, so this is far cheaper than an ordered set.

use std::time::Duration;

/// The soonest time at which something may be due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Due(Option<Duration>);

impl Due {
    /// Something is due at `at`.
    pub(crate) fn sooner(&mut self, at: Duration) {
        self.0 = Some(self.0.map_or(at, |due| due.min(at)));
    }

    /// Whether it is time to look.
    pub(crate) fn is_due(self, now: Duration) -> bool {
        self.0.is_some_and(|due| due <= now)
    }

    /// Forgets the bound; the owner sets it again from what it holds.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// The bound.
    pub(crate) fn at(self) -> Option<Duration> {
        self.0
    }
}
