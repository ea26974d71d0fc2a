//! What the writer does by itself, one small MTR at a time: `chores.rs` says when.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use sixfold_kv::{Direction, KvError};
use sixfold_log_format::{Lsn, PageId};

use super::{Life, WriterCore};
use crate::admission::Verdict;
use crate::chores::Chore;
use crate::commit::{PlanVerdict, Preface, Rows, Work, clock_ms};
use crate::due::Due;
use crate::fetch::Waiter;
use crate::rows;
use crate::tip::TipSource;
use crate::tokens::horizon_value;

/// Keys that one MTR expires at most.
const EXPIRES_MAX: usize = 64;
/// Records of an MTR that frees pages, about.
const RECLAIM_RECORDS_MAX: usize = 128;
/// When VDL has not moved for this long although it should, no chore begins.
const STALLED: Duration = Duration::from_millis(500);
/// As long as VDL has moved just now, a chore may go before commits that wait.
const FLOWS: Duration = Duration::from_millis(50);
/// How long a chore waits for a page.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a chore went.
enum Done {
    /// It was minted.
    Minted,
    /// There is nothing to be done.
    Nothing,
    /// When there is room.
    Waits,
    /// Its pages are on their way.
    Misses(Vec<PageId>),
    /// It needs more records than one MTR may have.
    TooLarge,
    /// Not now.
    Failed,
}

/// What a chore changes.
#[derive(Default)]
struct Job {
    clears: Vec<(Bytes, Bytes)>,
    expires: Vec<(Bytes, u64)>,
    rows: Rows,
    horizon: Option<Lsn>,
}

impl WriterCore {
    /// Does one, if one is due and nothing else is to be done.
    pub(super) fn do_chores(&mut self) {
        if !self.may_do_chores() {
            return;
        }
        let clock = &self.clock;
        let expires_at = |deadline_ms| clock.expires_at(deadline_ms);
        let Some(chore) = self.chores.next(self.now, clock.tick_at(), expires_at) else {
            return;
        };
        let done = match chore {
            Chore::Expire => self.expire_keys(),
            Chore::Tick => Ok(self.mint_tick()),
            Chore::Collect => self.collect_rows(),
            Chore::Reclaim => Ok(self.reclaim_pages()),
        };
        let done = done.unwrap_or_else(Done::from);
        if !matches!(done, Done::Misses(_)) {
            self.unpin_for_chore();
        }
        match done {
            Done::Minted => self.chores.began(chore, self.last, self.now),
            Done::Nothing => match chore {
                Chore::Reclaim => self.chores.reclaimed(),
                Chore::Collect => {
                    self.chores.collected(self.now, self.bounds.token_retention);
                }
                Chore::Expire | Chore::Tick => {}
            },
            Done::Waits => self.chores.pause(self.now),
            Done::Misses(pages) => self.fetch_for_chore(chore, pages),
            Done::TooLarge | Done::Failed => self.chores.failed(chore, self.now),
        }
    }

    /// Only beside a quorum that answers, behind all commits unless those never cease, and one at a time.
    fn may_do_chores(&self) -> bool {
        let answers = self.last == self.vdl() || self.now < self.vdl_moved_at + STALLED;
        let is_open = self.life == Life::Open
            && self.writable
            && self.may_mint()
            && !self.closing
            && !self.drained;
        let flows = self.now < self.vdl_moved_at + FLOWS;
        let may_go = self.line.is_empty() || flows && self.chores.is_overdue(self.now);
        is_open && answers && may_go && !self.chores.is_busy(self.vdl())
    }

    /// When there is something to be done.
    pub(super) fn chores_due(&self) -> Due {
        if !self.may_do_chores() {
            return Due::default();
        }
        let clock = &self.clock;
        let expires_at = |deadline_ms| clock.expires_at(deadline_ms);
        self.chores.due(clock.tick_at(), expires_at)
    }

    /// Mints a clock record alone; false when that is not possible now.
    pub(super) fn tick(&mut self) -> bool {
        matches!(self.mint_tick(), Done::Minted)
    }

    /// The clock record that is due, with its time row if that can be had: whatever becomes of that, the clock goes on.
    fn mint_tick(&mut self) -> Done {
        match self.mint_chore(&Job::default()) {
            Done::Nothing | Done::TooLarge | Done::Failed => {
                let place = self.place_now();
                let (preface, verdict) = (place.preface, place.clock_alone());
                self.mint_if_admitted(verdict, preface)
            }
            done => done,
        }
    }

    /// Removes keys whose deadline the clock has reached, through the expiry index. A key that was put again has another
    /// deadline by now, or none, and stays (T5). Fewer at a time when those are too many for an MTR of this volume (R18): what
    /// expires must go, since commits that have seen it conflict until a clock record is minted.
    fn expire_keys(&mut self) -> Result<Done, KvError> {
        let mut count_max = EXPIRES_MAX;
        loop {
            match self.expire_some(count_max)? {
                Done::TooLarge if count_max > 1 => count_max /= 2,
                // It cannot go, but it is gone to all who look once the clock says so.
                Done::TooLarge if self.clock.tick_is_due(self.now) => return Ok(self.mint_tick()),
                done => return Ok(done),
            }
        }
    }

    fn expire_some(&mut self, count_max: usize) -> Result<Done, KvError> {
        let clock_ms = self.place_now().clock_ms;
        let source = self.tip_source();
        let start = rows::expiry_row(0, &[]);
        let found = rows::first_rows(
            &source,
            Bound::Included(&start),
            Bound::Excluded(&rows::expiry_end()),
            Direction::Forward,
            count_max,
        )?;
        let mut expires = BTreeMap::new();
        let mut job = Job::default();
        let mut next_ms = None;
        for (row, _) in found {
            let Some((deadline_ms, key)) = rows::read_expiry_row(&row) else {
                return Ok(Done::Failed);
            };
            if deadline_ms > clock_ms {
                next_ms = next_ms.or(Some(deadline_ms));
                break;
            }
            // A key comes once in an MTR; its later deadline waits for the next one.
            if expires.contains_key(&key) {
                break;
            }
            expires.insert(key, deadline_ms);
            job.rows.delete(row);
        }
        if expires.is_empty() {
            self.chores.deadline_found(next_ms);
            return Ok(Done::Nothing);
        }
        job.expires = expires.into_iter().collect();
        Ok(self.mint_chore(&job))
    }

    /// Drops tokens born before the horizon, which moves first, and time rows that nobody may ask for any more.
    fn collect_rows(&mut self) -> Result<Done, KvError> {
        let token_retention = self.bounds.token_retention;
        let source = TipSource {
            tip: &self.tip,
            cache: &self.shared.cache,
        };
        let clock_ms = clock_ms(&source);
        let token_ms = u64::try_from(token_retention.as_millis()).unwrap_or(u64::MAX);
        let time_ms = token_ms.max(self.manifest.parameters.retention_ms);
        let mut job = Job::default();
        let horizon = self.token_horizon.load(&source)?;
        if let Some(point) = rows::time_at(&source, clock_ms.saturating_sub(token_ms))? {
            let (start, end) = (rows::tokens_from(Lsn::NONE), rows::tokens_from(point.lsn));
            let old = rows::first_row(
                &source,
                Bound::Included(&start),
                Bound::Excluded(&end),
                Direction::Forward,
            )?;
            if old.is_some() && point.lsn > horizon {
                job.clears.push((start, end));
                job.rows
                    .put(rows::horizon_row(), horizon_value(point.lsn), None);
                job.horizon = Some(point.lsn);
            }
        }
        let kept = rows::time_at(&source, clock_ms.saturating_sub(time_ms))?;
        let oldest = rows::oldest_time(&source)?;
        if let (Some(kept), Some(oldest)) = (kept, oldest)
            && oldest.unix_ms < kept.unix_ms
        {
            let (start, end) = (rows::time_row(0), rows::time_row(kept.unix_ms));
            job.clears.insert(0, (start, end));
        }
        if job.clears.is_empty() {
            return Ok(Done::Nothing);
        }
        let done = self.mint_chore(&job);
        if matches!(done, Done::Minted) {
            self.chores.cleared();
            self.chores.collected(self.now, token_retention);
        }
        Ok(done)
    }

    /// Frees pages of ranges that were cleared.
    fn reclaim_pages(&mut self) -> Done {
        let mut records_max = RECLAIM_RECORDS_MAX;
        loop {
            match self.reclaim_some(records_max) {
                Done::TooLarge if records_max > 1 => records_max /= 2,
                done => return done,
            }
        }
    }

    fn reclaim_some(&mut self, records_max: usize) -> Done {
        let pages_max = self.geometry.pages_max();
        let mut place = self.place_now();
        // The tick, if one is due, comes with a commit or alone.
        place.preface = Preface::default();
        let planned = sixfold_kv::plan_reclaim(&place.tip, records_max, pages_max);
        let (preface, verdict) = (place.preface, place.verdict(planned));
        self.mint_if_admitted(verdict, preface)
    }

    fn mint_chore(&mut self, job: &Job) -> Done {
        let place = self.place_now();
        let mut tick = Rows::default();
        tick.tick(place.preface.clock_ms);
        let work = Work::of_chore(&job.clears, &job.expires, &job.rows);
        let (preface, verdict) = (place.preface, place.plan_with_tick(&work, &tick));
        let done = self.mint_if_admitted(verdict, preface);
        if let (Done::Minted, Some(horizon)) = (&done, job.horizon) {
            self.token_horizon.moved(horizon);
        }
        done
    }

    fn mint_if_admitted(&mut self, verdict: PlanVerdict<'_>, preface: Preface) -> Done {
        match verdict {
            PlanVerdict::Ready(planned) => match self.judge(planned.need()) {
                Verdict::Admitted => {
                    self.mint(planned, preface);
                    self.counters.chores += 1;
                    Done::Minted
                }
                Verdict::Waits => Done::Waits,
                Verdict::TooLarge { .. } => Done::TooLarge,
            },
            PlanVerdict::Nothing => Done::Nothing,
            PlanVerdict::Miss(pages) => Done::Misses(pages),
            PlanVerdict::Failed(_) => Done::Failed,
        }
    }

    /// Its pages are fetched, and pinned so that it gets on, beyond the budget where it must: unless a commit is there when it
    /// begins, and one that comes has the right to pin for itself (R30).
    fn fetch_for_chore(&mut self, chore: Chore, pages: Vec<PageId>) {
        if self.cache.is_over_pinned() && !self.line.is_empty() {
            self.unpin_for_chore();
            return self.chores.pause(self.now);
        }
        self.chores.missing(chore, pages.len());
        pages.iter().for_each(|&page| self.cache.pin(page));
        self.chores.pins.extend(&pages);
        let deadline = self.now + PATIENCE;
        for page in pages {
            self.request_page(page, self.vdl(), Waiter::Chore, deadline);
        }
    }

    fn unpin_for_chore(&mut self) {
        for page in std::mem::take(&mut self.chores.pins) {
            self.cache.unpin(page);
        }
    }

    /// One of its pages cannot be had.
    pub(super) fn chore_failed(&mut self) {
        self.unpin_for_chore();
        self.chores.fetch_failed(self.now);
    }
}

impl From<KvError> for Done {
    fn from(error: KvError) -> Done {
        match error {
            KvError::Miss(pages) => Done::Misses(pages),
            KvError::Invalid(_) | KvError::Corrupt { .. } | KvError::Full { .. } => Done::Failed,
        }
    }
}
