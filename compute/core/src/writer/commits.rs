//! From the line to the open batches: validate, plan, judge, mint, apply.

use sixfold_kv::{KvError, plan_creation};
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, PageId, Record, VolumeEpoch};

use super::{Life, WriterCore};
use crate::admission::{Need, Verdict, Waiting};
use crate::commit::{
    Place, PlanVerdict, Planned, Preface, Rows, Work, check, clock_ms, meta_image, refusal,
    user_bytes,
};
use crate::commit_queue::Queued;
use crate::event::{CommitError, CommitRequest, CommitTicket, WriterAction};
use crate::fetch::Waiter;
use crate::tip::TipSource;
use crate::tokens::{Seen, look_up};
use crate::write_set::{KeyWrite, Token};

/// Pages that a commit fetches at once.
const MISSES_MAX: usize = 256;
/// Records on the meta page after which the next MTR carries an image of it, a hundred bytes: well below the chain at which a storage
/// node folds a page early.
pub(super) const META_CHAIN_MAX: u64 = 1_024;

/// What became of the commit whose turn it was.
enum Turn {
    /// It left the line: the next one's turn.
    Done,
    /// It waits at its place, and all behind it.
    Blocked(Box<Waiting>),
}

impl WriterCore {
    /// A transaction wants to commit.
    pub(super) fn commit(&mut self, ticket: CommitTicket, request: CommitRequest) {
        if request.writes.is_empty() && request.token.is_none() {
            self.answer(ticket, Ok(request.read_point));
        } else if let Err(error) = check(&request, self.page_bytes) {
            self.answer(ticket, Err(error));
        } else if let Life::Fenced(volume_epoch) = self.life {
            self.answer(ticket, Err(CommitError::Fenced { volume_epoch }));
        } else if self.closing {
            self.answer(ticket, Err(unavailable("closing")));
        } else if self.line.enter(ticket, request) {
            self.advance_line();
        } else {
            self.answer(ticket, Err(unavailable("too much is waiting")));
        }
    }

    /// Takes commits from the line as long as they are admitted.
    pub(super) fn advance_line(&mut self) {
        while self.life == Life::Open && self.writable && self.may_mint() {
            let Some(waiting) = self.line.pop() else {
                break;
            };
            if let Turn::Blocked(waiting) = self.take_turn(waiting) {
                self.line.keep_first(*waiting);
                break;
            }
        }
    }

    fn take_turn(&mut self, waiting: Waiting) -> Turn {
        // What it needed last time says whether planning again is worth it.
        if waiting
            .need
            .is_some_and(|need| self.judge(need) == Verdict::Waits)
        {
            return Turn::Blocked(Box::new(waiting));
        }
        // The token first: what conflicts with its own first try is done, not refused (T3).
        if let Some(token) = waiting.request.token {
            match self.find_token(&token) {
                Ok(Seen::New) => {}
                Ok(Seen::Done(lsn)) => {
                    self.queue_retry(waiting, lsn);
                    return Turn::Done;
                }
                Ok(Seen::Refused(error)) => {
                    self.refuse(waiting, error);
                    return Turn::Done;
                }
                Err(KvError::Miss(pages)) => {
                    self.miss(waiting, pages);
                    return Turn::Done;
                }
                Err(error) => {
                    self.refuse(waiting, refusal(&error));
                    return Turn::Done;
                }
            }
        }
        let valid = self.recent.validate(&waiting.request);
        if let Err(error) = valid.and_then(|()| self.recheck_deadline(&waiting.request)) {
            self.refuse(waiting, error);
            return Turn::Done;
        }
        self.plan_turn(waiting)
    }

    /// Where an MTR that is minted now has its place (T5).
    pub(super) fn place_now(&mut self) -> Place<'_> {
        let tip = TipSource {
            tip: &self.tip,
            cache: &self.shared.cache,
        };
        let volume_ms = self.clock.volume_ms().unwrap_or_else(|| clock_ms(&tip));
        let ticks = self.clock.tick_is_due(self.now);
        let tick_ms = ticks.then(|| self.clock.stamp(self.now, volume_ms));
        let clock_ms = if planted(Mutant::ExpiryByWritersClock) {
            self.clock.stamp(self.now, volume_ms)
        } else {
            tick_ms.unwrap_or(volume_ms)
        };
        Place {
            tip,
            clock_ms,
            preface: Preface {
                image: self.meta_chain >= META_CHAIN_MAX,
                clock_ms: tick_ms,
            },
            pages_max: self.geometry.pages_max(),
            page_bytes: self.page_bytes,
        }
    }

    fn find_token(&mut self, token: &Token) -> Result<Seen, KvError> {
        if planted(Mutant::TokenAtVdl) {
            let view = self.shared.announce().view();
            return look_up(&view, &mut self.token_horizon, token, self.last);
        }
        let source = TipSource {
            tip: &self.tip,
            cache: &self.shared.cache,
        };
        look_up(&source, &mut self.token_horizon, token, self.last)
    }

    /// What it saw alive may be gone at its place, by the clock alone (T5).
    fn recheck_deadline(&mut self, request: &CommitRequest) -> Result<(), CommitError> {
        let Some(deadline_ms) = request.earliest_deadline_ms else {
            return Ok(());
        };
        if deadline_ms > self.place_now().clock_ms || planted(Mutant::DeadlineNotRechecked) {
            return Ok(());
        }
        Err(CommitError::Conflict {
            read_point: request.read_point,
            changed_at: self.last,
        })
    }

    fn plan_turn(&mut self, mut waiting: Waiting) -> Turn {
        let token_retention = self.bounds.token_retention;
        let (last, vdl) = (self.last, self.vdl());
        let used_bytes = self.used_bytes();
        let place = self.place_now();
        let mut rows = Rows::default();
        rows.of_request(&waiting.request, place.clock_ms, token_retention);
        if place.preface.clock_ms.is_some() && may_change_nothing(&waiting.request) {
            // What changes nothing is no reason for a tick.
            let work = Work::of_request(&waiting.request.writes, &rows);
            if matches!(place.plan(&work), PlanVerdict::Nothing) {
                self.queue_commit(waiting, last, false);
                return Turn::Done;
            }
        }
        let preface = place.preface;
        let mut tick = Rows::default();
        tick.tick(preface.clock_ms);
        let work = Work::of_request(&waiting.request.writes, &rows);
        match place.plan_with_tick(&work, &tick) {
            PlanVerdict::Ready(planned) => {
                let need = planned.need();
                match self.admission.judge(need, last, vdl, used_bytes) {
                    Verdict::Admitted => {
                        let cpl = self.mint(planned, preface);
                        if let Some(deadline_ms) = rows.earliest_deadline_ms() {
                            self.chores.deadline_put(deadline_ms);
                        }
                        self.minted(waiting, cpl);
                    }
                    Verdict::Waits => {
                        waiting.need = Some(need);
                        return Turn::Blocked(Box::new(waiting));
                    }
                    // Whether it is too large must not depend on when it comes: the tick goes alone, and it once more.
                    Verdict::TooLarge { records_max }
                        if preface.clock_ms.is_some()
                            && self.fits_without_tick(&waiting.request, records_max)
                            && self.tick() =>
                    {
                        return self.plan_turn(waiting);
                    }
                    Verdict::TooLarge { records_max } => {
                        let records = need.records;
                        let error = CommitError::TooLarge {
                            records,
                            records_max,
                        };
                        self.refuse(waiting, error);
                    }
                }
            }
            PlanVerdict::Nothing => self.queue_commit(waiting, self.last, false),
            PlanVerdict::Miss(mut pages) => {
                let keys = rows.keys().chain(tick.keys());
                let missing = sixfold_kv::missing(&self.tip_source(), keys, MISSES_MAX);
                pages.extend(missing.unwrap_or_default());
                self.miss(waiting, pages);
            }
            // Pages are on their way, or are to be.
            PlanVerdict::Failed(CommitError::Full) if self.may_grow() => {
                self.want_room();
                return Turn::Blocked(Box::new(waiting));
            }
            PlanVerdict::Failed(error) => self.refuse(waiting, error),
        }
        Turn::Done
    }

    /// Whether it is the time row alone that makes the MTR too large.
    fn fits_without_tick(&mut self, request: &CommitRequest, records_max: u64) -> bool {
        let token_retention = self.bounds.token_retention;
        let place = self.place_now();
        let mut rows = Rows::default();
        rows.of_request(request, place.clock_ms, token_retention);
        match place.plan(&Work::of_request(&request.writes, &rows)) {
            PlanVerdict::Ready(planned) => planned.need().records <= records_max,
            _ => false,
        }
    }

    pub(super) fn judge(&self, need: Need) -> Verdict {
        self.admission
            .judge(need, self.last, self.vdl(), self.used_bytes())
    }

    /// What is above VDL: redo and pages, bytes.
    fn used_bytes(&self) -> usize {
        let tip_bytes = self.tip.len() * self.page_bytes;
        self.retained_bytes() + self.boxcar.open_bytes() + self.cache.above_bytes() + tip_bytes
    }

    /// The pages as of the last record minted.
    pub(super) fn tip_source(&self) -> TipSource<'_> {
        TipSource {
            tip: &self.tip,
            cache: &self.shared.cache,
        }
    }

    /// Mints an MTR: LSNs, then apply, then the open batches. Nothing can fail from here on.
    pub(super) fn mint(&mut self, planned: Planned<'_>, preface: Preface) -> Lsn {
        let source = self.tip_source();
        let image = preface.image.then(|| meta_image(&source));
        let known_ms = preface.clock_ms.or(self.clock.volume_ms());
        let clock_ms = known_ms.unwrap_or_else(|| clock_ms(&source));
        self.clock.recorded(clock_ms);
        if preface.clock_ms.is_some() {
            self.clock.ticked(self.now);
        }
        let cpl = planned.mint(self.last, image, preface.clock_ms, |record| {
            self.place(record);
        });
        let allowed = self.vdl().plus(self.admission.lal);
        assert!(cpl <= allowed, "minted {cpl} above VDL + LAL = {allowed}");
        self.last = cpl;
        self.points.minted(cpl);
        self.chores.minted(preface.clock_ms.is_some());
        cpl
    }

    /// Applies a record to the tip and adds it to the open batch of its PG.
    fn place(&mut self, mut record: Record<'_>) {
        // Only groups of which the entry is in force have pages (R10).
        let pg = self
            .geometry
            .pg_of(record.page)
            .expect("the tree stays within the volume");
        assert!(
            self.manifest.pg(pg).is_some() || planted(Mutant::RecordBeforeRootEntry),
            "a record for group {pg}, which no manifest in force names (R10)"
        );
        self.tip.apply(
            &self.shared.cache,
            self.cache.spare(),
            &mut record,
            self.page_bytes,
        );
        if record.page == PageId::META {
            let starts_chain = record.op.starts_chain();
            self.meta_chain = if starts_chain { 0 } else { self.meta_chain + 1 };
        }
        self.fetches.minted(record.page);
        let unix_ms = self.clock.batch_stamp();
        if let Some(full) = self
            .boxcar
            .push(pg, &record, self.durability.vdl(), unix_ms)
        {
            self.retain(&full);
            self.ship_to_all(pg);
        }
    }

    fn minted(&mut self, waiting: Waiting, cpl: Lsn) {
        if !planted(Mutant::DurableConflictsOnly) {
            for (start, end) in &waiting.request.writes.clears {
                self.recent.range_cleared(start.clone(), end.clone(), cpl);
                self.chores.cleared();
            }
            for key in waiting.request.writes.keys.keys() {
                self.recent.changed(key.clone(), cpl);
            }
        }
        self.queue_commit(waiting, cpl, true);
    }

    /// It was done before by the commit at `lsn`: it is answered with that one, as soon as that one is (T3).
    fn queue_retry(&mut self, waiting: Waiting, lsn: Lsn) {
        if planted(Mutant::TokenInFlightAnswered) {
            self.answer(waiting.ticket, Ok(lsn));
            self.leave(waiting);
        } else {
            self.queue_commit(waiting, lsn, true);
        }
    }

    /// It has its place in the order: it is answered with `cpl` when VDL reaches it. `minted`: see [`Queued`].
    fn queue_commit(&mut self, waiting: Waiting, cpl: Lsn, minted: bool) {
        self.queue.push(Queued {
            ticket: waiting.ticket,
            cpl,
            minted,
            deadline: waiting.request.deadline,
            user_bytes: user_bytes(&waiting.request.writes),
        });
        self.leave(waiting);
        if cpl <= self.vdl() || planted(Mutant::AnswerBeforeVdl) {
            self.answer_durable();
        }
    }

    /// It leaves the line until its pages are there (T8); it pins them, so that it gets on (R30).
    fn miss(&mut self, mut waiting: Waiting, missed: Vec<PageId>) {
        if !self.line.may_pin(waiting.id, self.cache.is_over_pinned()) {
            self.line.stall(waiting);
            return;
        }
        let source = self.tip_source();
        let keys = waiting.request.writes.keys.keys().map(|key| &key[..]);
        // Damage shows when it is planned; here only the pages that planning missed are certain.
        let mut pages = sixfold_kv::missing(&source, keys, MISSES_MAX).unwrap_or_default();
        pages.extend(missed);
        pages.sort_unstable();
        pages.dedup();
        waiting.missing_count = pages.len();
        waiting.pins.extend(&pages);
        let (id, deadline) = (waiting.id, waiting.request.deadline);
        self.line.miss(waiting);
        pages.iter().for_each(|&page| self.cache.pin(page));
        for page in pages {
            self.request_page(page, self.vdl(), Waiter::Commit(id), deadline);
        }
    }

    /// Answers what VDL has reached.
    pub(super) fn answer_durable(&mut self) {
        let durable = if planted(Mutant::AnswerBeforeVdl) {
            self.last
        } else {
            self.durability.vdl()
        };
        while let Some(queued) = self.queue.pop_durable(durable) {
            self.counters.user_bytes += queued.user_bytes;
            self.answer(queued.ticket, Ok(queued.cpl));
        }
    }

    /// Ends what is past its deadline.
    pub(super) fn expire_commits(&mut self) {
        for queued in self.queue.take_expired(self.now) {
            let reason = "no write quorum by the deadline";
            let error = if queued.minted {
                unknown(reason)
            } else {
                unavailable(reason)
            };
            self.answer(queued.ticket, Err(error));
        }
        let expired = self.line.take_expired(self.now);
        if expired.is_empty() {
            return;
        }
        let reason = if self.life != Life::Open {
            "the volume is being created"
        } else if !self.writable {
            "no write quorum is attached"
        } else {
            "pages or room for redo were missing until the deadline"
        };
        for waiting in expired {
            self.refuse(waiting, unavailable(reason));
        }
        self.advance_line();
    }

    /// Ends everything: another writer holds the volume (T2).
    pub(super) fn refuse_commits(&mut self, volume_epoch: VolumeEpoch) {
        for queued in self.queue.take_all() {
            let error = if queued.minted && !planted(Mutant::FencedSaidUnwritten) {
                unknown("fenced before it was durable")
            } else {
                CommitError::Fenced { volume_epoch }
            };
            self.answer(queued.ticket, Err(error));
        }
        for waiting in self.line.take_all() {
            self.refuse(waiting, CommitError::Fenced { volume_epoch });
        }
    }

    /// Refuses everything that waits in the line: it was never minted, and is safe to repeat.
    pub(super) fn refuse_line(&mut self, reason: &str) {
        for waiting in self.line.take_all() {
            self.refuse(waiting, unavailable(reason));
        }
    }

    /// Refuses what has no LSNs.
    pub(super) fn refuse(&mut self, waiting: Waiting, error: CommitError) {
        self.answer(waiting.ticket, Err(error));
        self.leave(waiting);
    }

    fn leave(&mut self, waiting: Waiting) {
        for page in waiting.pins {
            self.cache.unpin(page);
        }
        self.line.left(waiting.id, waiting.bytes);
    }

    fn answer(&mut self, ticket: CommitTicket, result: Result<Lsn, CommitError>) {
        match &result {
            Ok(_) => self.counters.commits += 1,
            Err(CommitError::Conflict { .. } | CommitError::TooOld { .. }) => {
                self.counters.conflicts += 1;
            }
            Err(_) => {}
        }
        self.actions
            .push_back(WriterAction::Committed { ticket, result });
    }

    /// The first MTR of a volume.
    pub(super) fn create(&mut self) {
        let preface = Preface::default();
        let planned = Planned::new(plan_creation(), self.page_bytes, preface);
        let cpl = self.mint(planned, preface);
        self.life = Life::Creating(cpl);
    }
}

/// Whether it may be that everything it deletes is absent.
fn may_change_nothing(request: &CommitRequest) -> bool {
    let mut writes = request.writes.keys.values();
    request.token.is_none() && writes.all(|write| matches!(write, KeyWrite::Delete))
}

fn unavailable(reason: &str) -> CommitError {
    CommitError::Unavailable {
        reason: reason.to_owned(),
    }
}

fn unknown(reason: &str) -> CommitError {
    CommitError::Unknown {
        reason: reason.to_owned(),
    }
}
