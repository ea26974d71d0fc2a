//! From the line to the open batches: validate, plan, judge, mint, apply.

use sixfold_kv::plan_creation;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, PageId, Record, VolumeEpoch};

use super::{Life, WriterCore};
use crate::admission::{Need, Verdict, Waiting};
use crate::commit::{PlanVerdict, Planned, Preface, clock_ms, meta_image, plan, user_bytes};
use crate::commit_queue::Queued;
use crate::event::{CommitError, CommitRequest, CommitTicket, WriterAction};
use crate::fetch::Waiter;
use crate::tip::TipSource;

/// Pages that a commit fetches at once.
const MISSES_MAX: usize = 256;
/// Records on the meta page after which the next MTR carries an image of it.
pub(super) const META_CHAIN_MAX: u64 = 4_096;

/// What became of the commit whose turn it was.
enum Turn {
    /// It left the line: the next one's turn.
    Done,
    /// It waits at its place, and all behind it.
    Blocked(Waiting),
}

impl WriterCore {
    /// A transaction wants to commit.
    pub(super) fn commit(&mut self, ticket: CommitTicket, request: CommitRequest) {
        if request.writes.is_empty() {
            self.answer(ticket, Ok(request.read_point));
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
        while self.life == Life::Open && self.writable {
            let Some(waiting) = self.line.pop() else {
                break;
            };
            if let Turn::Blocked(waiting) = self.take_turn(waiting) {
                self.line.keep_first(waiting);
                break;
            }
        }
    }

    fn take_turn(&mut self, mut waiting: Waiting) -> Turn {
        // What it needed last time says whether planning again is worth it.
        if waiting
            .need
            .is_some_and(|need| self.judge(need) == Verdict::Waits)
        {
            return Turn::Blocked(waiting);
        }
        if let Err(error) = self.recent.validate(&waiting.request) {
            self.refuse(waiting, error);
            return Turn::Done;
        }
        let source = TipSource {
            tip: &self.tip,
            cache: &self.shared.cache,
        };
        let preface = Preface {
            image: self.meta_chain >= META_CHAIN_MAX,
            clock: self.clock.tick_is_due(self.now),
        };
        let verdict = plan(
            &source,
            &waiting.request.writes,
            self.pages_max,
            self.page_bytes,
            preface,
        );
        match verdict {
            PlanVerdict::Ready(planned) => match self.judge(planned.need()) {
                Verdict::Admitted => {
                    let cpl = self.mint(planned, preface);
                    self.minted(waiting, cpl);
                }
                Verdict::Waits => {
                    let need = planned.need();
                    waiting.need = Some(need);
                    return Turn::Blocked(waiting);
                }
                Verdict::TooLarge { records_max } => {
                    let records = planned.need().records;
                    let error = CommitError::TooLarge {
                        records,
                        records_max,
                    };
                    self.refuse(waiting, error);
                }
            },
            PlanVerdict::Nothing => self.queue_commit(waiting, self.last, false),
            PlanVerdict::Miss(page) => self.miss(waiting, page),
            PlanVerdict::Failed(error) => self.refuse(waiting, error),
        }
        Turn::Done
    }

    fn judge(&self, need: Need) -> Verdict {
        let tip_bytes = self.tip.len() * self.page_bytes;
        let used_bytes =
            self.retained_bytes() + self.boxcar.open_bytes() + self.cache.above_bytes() + tip_bytes;
        self.admission
            .judge(need, self.last, self.vdl(), used_bytes)
    }

    /// Mints an MTR: LSNs, then apply, then the open batches. Nothing can fail from here on.
    fn mint(&mut self, planned: Planned<'_>, preface: Preface) -> Lsn {
        let source = TipSource {
            tip: &self.tip,
            cache: &self.shared.cache,
        };
        let image = preface.image.then(|| meta_image(&source));
        let clock_ms = preface
            .clock
            .then(|| self.clock.stamp(self.now, clock_ms(&source)));
        if preface.clock {
            self.clock.ticked(self.now);
        }
        let cpl = planned.mint(self.last, image, clock_ms, |record| self.place(record));
        let allowed = self.vdl().plus(self.admission.lal);
        assert!(cpl <= allowed, "minted {cpl} above VDL + LAL = {allowed}");
        self.last = cpl;
        cpl
    }

    /// Applies a record to the tip and adds it to the open batch of its PG.
    fn place(&mut self, mut record: Record<'_>) {
        let pg = self
            .manifest
            .pg_of(record.page)
            .expect("the tree stays within the volume");
        self.tip
            .apply(&self.shared.cache, &mut record, self.page_bytes);
        if record.page == PageId::META {
            let starts_chain = record.op.starts_chain();
            self.meta_chain = if starts_chain { 0 } else { self.meta_chain + 1 };
        }
        self.fetches.minted(record.page);
        let unix_ms = self.clock.stamp(self.now, 0);
        if let Some(full) = self
            .boxcar
            .push(pg, &record, self.durability.vdl(), unix_ms)
        {
            self.retain(&full);
            self.ship_to_all(pg);
        }
    }

    fn minted(&mut self, waiting: Waiting, cpl: Lsn) {
        for key in waiting.request.writes.keys() {
            if planted(Mutant::DurableConflictsOnly) {
                break;
            }
            self.recent.changed(key.clone(), cpl);
        }
        self.queue_commit(waiting, cpl, true);
    }

    /// It has its place in the order: it is answered when VDL reaches `cpl`.
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
    fn miss(&mut self, mut waiting: Waiting, page: PageId) {
        if !self.line.may_pin(waiting.id, self.cache.is_over_pinned()) {
            self.line.stall(waiting);
            return;
        }
        let source = TipSource {
            tip: &self.tip,
            cache: &self.shared.cache,
        };
        let keys = waiting.request.writes.keys().map(|key| &key[..]);
        // Damage shows when it is planned; here only the page that planning missed is certain.
        let mut pages = sixfold_kv::missing(&source, keys, MISSES_MAX).unwrap_or_default();
        if !pages.contains(&page) {
            pages.push(page);
        }
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
