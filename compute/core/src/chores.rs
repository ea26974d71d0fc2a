//! Chores: what the writer does by itself when nothing else is to be done. When each is due; `writer/chores.rs` does them.
//!
//! - *tick*: a clock record behind the last commits, so that the volume remembers when they were made (R29);
//! - *expire*: keys whose deadline has passed, and the clock record that says so in an idle volume (T5);
//! - *collect*: tokens and time rows that are older than their retention (T3);
//! - *reclaim*: pages of ranges that were cleared.
//!
//! Each is one small MTR, one at a time, and the next one comes when it is durable: chores yield to commits and never
//! fill the bounds that commits need. Commits that never cease hold them back for a while only. What is due takes turns, so
//! that one chore that fails, or never ends, keeps no other one from being done.

use std::time::Duration;

use sixfold_log_format::{Lsn, PageId};

use crate::due::Due;

/// After the opening, readers and commits have the segments for themselves for this long.
const START: Duration = Duration::from_millis(200);
/// Before a chore that was not possible is tried again.
const PAUSE: Duration = Duration::from_millis(100);
/// Before a chore that failed is tried again.
const FAILED: Duration = Duration::from_secs(2);
/// Behind commits that wait, a chore is put off for so long.
const PUT_OFF: Duration = Duration::from_millis(10);
/// Old tokens and time rows are looked for so many times in the token retention.
const COLLECTIONS: u32 = 32;
/// Bounds of the time between two looks.
const COLLECTION_MIN: Duration = Duration::from_secs(1);
const COLLECTION_MAX: Duration = Duration::from_secs(60);

/// When the next key expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextDeadline {
    /// Not known: the index has to be looked at.
    Unknown,
    /// Nothing has a deadline.
    Never,
    /// Not before this, wall-clock milliseconds.
    At(u64),
}

/// A chore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chore {
    Expire,
    Tick,
    Collect,
    Reclaim,
}

const CHORE_COUNT: usize = 4;

/// What is to be done, and what is under way.
#[derive(Debug)]
pub(crate) struct Chores {
    /// The MTR of the last one.
    in_flight: Lsn,
    missing_count: usize,
    pub(crate) pins: Vec<PageId>,
    /// Who waits for them.
    fetching: Chore,
    began_at: Duration,
    retry_at: Duration,
    /// Of each chore, behind a failure.
    failed_until: [Duration; CHORE_COUNT],
    /// Whose turn is next.
    turn: usize,
    next_deadline: NextDeadline,
    /// Commits were minted since the last clock record.
    tick_wanted: bool,
    collect_wanted: bool,
    collect_at: Duration,
    reclaim_wanted: bool,
}

impl Chores {
    pub(crate) fn new(now: Duration) -> Chores {
        Chores {
            in_flight: Lsn::NONE,
            missing_count: 0,
            pins: Vec::new(),
            fetching: Chore::Expire,
            began_at: now,
            retry_at: now + START,
            failed_until: [Duration::ZERO; CHORE_COUNT],
            turn: 0,
            next_deadline: NextDeadline::Unknown,
            tick_wanted: false,
            collect_wanted: true,
            collect_at: now + COLLECTION_MIN,
            reclaim_wanted: true,
        }
    }

    /// A key with a deadline was put.
    pub(crate) fn deadline_put(&mut self, deadline_ms: u64) {
        self.next_deadline = match self.next_deadline {
            NextDeadline::Unknown => NextDeadline::Unknown,
            NextDeadline::Never => NextDeadline::At(deadline_ms),
            NextDeadline::At(before_ms) => NextDeadline::At(before_ms.min(deadline_ms)),
        };
    }

    /// The index says when the next key expires.
    pub(crate) fn deadline_found(&mut self, next: Option<u64>) {
        self.next_deadline = next.map_or(NextDeadline::Never, NextDeadline::At);
    }

    /// An MTR was minted; `ticked`: with a clock record.
    pub(crate) fn minted(&mut self, ticked: bool) {
        self.tick_wanted = !ticked;
        self.collect_wanted |= ticked;
    }

    /// Ranges were cleared: there are pages to be freed.
    pub(crate) fn cleared(&mut self) {
        self.reclaim_wanted = true;
    }

    /// There is nothing to be freed.
    pub(crate) fn reclaimed(&mut self) {
        self.reclaim_wanted = false;
    }

    /// Old rows were looked for.
    pub(crate) fn collected(&mut self, now: Duration, token_retention: Duration) {
        self.collect_wanted = false;
        let interval = token_retention / COLLECTIONS;
        self.collect_at = now + interval.clamp(COLLECTION_MIN, COLLECTION_MAX);
    }

    /// One was minted.
    pub(crate) fn began(&mut self, chore: Chore, cpl: Lsn, now: Duration) {
        self.in_flight = cpl;
        self.began_at = now;
        self.pass_turn(chore);
    }

    fn pass_turn(&mut self, chore: Chore) {
        self.turn = (chore as usize + 1) % CHORE_COUNT;
    }

    /// Whether it is put off no longer behind commits that wait.
    pub(crate) fn is_overdue(&self, now: Duration) -> bool {
        now >= self.began_at + PUT_OFF
    }

    /// It is not possible now.
    pub(crate) fn pause(&mut self, now: Duration) {
        self.retry_at = now + PAUSE;
    }

    /// It failed; the others go on.
    pub(crate) fn failed(&mut self, chore: Chore, now: Duration) {
        self.failed_until[chore as usize] = now + FAILED;
        self.missing_count = 0;
        self.pass_turn(chore);
    }

    /// It waits for so many pages.
    pub(crate) fn missing(&mut self, chore: Chore, count: usize) {
        self.fetching = chore;
        self.missing_count = count;
    }

    /// One of the pages that it waits for cannot be had.
    pub(crate) fn fetch_failed(&mut self, now: Duration) {
        self.failed(self.fetching, now);
    }

    /// One of its pages is there, or cannot be had at that point any more: it is planned anew.
    pub(crate) fn found(&mut self) {
        self.missing_count = self.missing_count.saturating_sub(1);
    }

    /// Whether one is under way.
    pub(crate) fn is_busy(&self, vdl: Lsn) -> bool {
        self.in_flight > vdl || self.missing_count > 0
    }

    /// The chore to do now. `expires_at`: when a deadline comes, in the writer's time, no clock record being too early;
    /// `tick_at`: when the next clock record is due.
    pub(crate) fn next(
        &self,
        now: Duration,
        tick_at: Duration,
        expires_at: impl Fn(u64) -> Duration,
    ) -> Option<Chore> {
        let mut dues = self.dues(tick_at, expires_at);
        dues.rotate_left(self.turn);
        let mut due = dues.into_iter().flatten();
        due.find(|(_, at)| *at <= now).map(|(chore, _)| chore)
    }

    /// When there is something to do.
    pub(crate) fn due(&self, tick_at: Duration, expires_at: impl Fn(u64) -> Duration) -> Due {
        let mut due = Due::default();
        let dues = self.dues(tick_at, expires_at);
        dues.into_iter()
            .flatten()
            .for_each(|(_, at)| due.sooner(at));
        due
    }

    /// When each is due, in their order.
    fn dues(
        &self,
        tick_at: Duration,
        expires_at: impl Fn(u64) -> Duration,
    ) -> [Option<(Chore, Duration)>; CHORE_COUNT] {
        let expire = match self.next_deadline {
            NextDeadline::Unknown => Some(Duration::ZERO),
            NextDeadline::Never => None,
            NextDeadline::At(deadline_ms) => Some(expires_at(deadline_ms)),
        };
        let collect = self.collect_wanted.then_some(self.collect_at);
        let reclaim = self.reclaim_wanted.then_some(Duration::ZERO);
        [
            (Chore::Expire, expire),
            (Chore::Tick, self.tick_wanted.then_some(tick_at)),
            (Chore::Collect, collect),
            (Chore::Reclaim, reclaim),
        ]
        .map(|(chore, at)| {
            let earliest = self.retry_at.max(self.failed_until[chore as usize]);
            at.map(|at| (chore, at.max(earliest)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(10);

    #[test]
    fn a_chore_that_fails_for_good_keeps_no_other_one_from_being_done() {
        let mut chores = Chores::new(Duration::ZERO);
        chores.minted(false);
        let next = |chores: &Chores| chores.next(NOW, NOW, |_| NOW);
        let mut done = Vec::new();
        while let Some(chore) = next(&chores) {
            done.push(chore);
            chores.failed(chore, NOW);
        }
        let all = [Chore::Expire, Chore::Tick, Chore::Collect, Chore::Reclaim];
        assert_eq!(done, all);
        assert_eq!(chores.due(NOW, |_| NOW).at(), Some(NOW + FAILED));
    }

    #[test]
    fn what_never_ends_takes_turns_with_what_is_due_beside_it() {
        let mut chores = Chores::new(Duration::ZERO);
        let mut done = Vec::new();
        for lsn in 1..=4 {
            let chore = chores.next(NOW, NOW, |_| NOW).unwrap();
            chores.began(chore, Lsn::new(lsn), NOW);
            done.push(chore);
        }
        use Chore::{Collect, Expire, Reclaim};
        assert_eq!(done, [Expire, Collect, Reclaim, Expire]);
    }
}
