//! Misses and leases: what readers need of the writer.

use std::sync::Arc;
use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::Message;
use sixfold_log_format::{Lsn, Page, PageId, VolumeEpoch};

use super::{Life, WriterCore};
use crate::event::{CommitError, FetchError, FetchKey, FetchTicket, WriterAction};
use crate::fetch::{Outcome, Segments, Waiter};

/// A reader that waits for pages.
#[derive(Debug)]
pub(super) struct Reader {
    /// Pages that are on their way.
    missing_count: usize,
    pages: Vec<Arc<Page>>,
}

impl WriterCore {
    /// A reader misses pages at a read point.
    pub(super) fn fetch(
        &mut self,
        ticket: FetchTicket,
        pages: &[PageId],
        lsn: Lsn,
        deadline: Duration,
    ) {
        if let Some(error) = self.refusal(pages, lsn) {
            self.answer_fetch(ticket, Err(error));
            return;
        }
        // What came while the reader was on its way.
        let cache = &self.shared.cache;
        let cached = pages.iter().map(|&page| (page, cache.get(page, lsn)));
        let (there, missing): (Vec<_>, Vec<_>) = cached.partition(|(_, page)| page.is_some());
        let there = there.into_iter().filter_map(|(_, page)| page).collect();
        if missing.is_empty() {
            self.answer_fetch(ticket, Ok(there));
            return;
        }
        let reader = Reader {
            missing_count: missing.len(),
            pages: there,
        };
        self.readers.insert(ticket, reader);
        for (page, _) in missing {
            self.request_page(page, lsn, Waiter::Reader(ticket), deadline);
        }
    }

    /// Why these pages cannot be fetched at this read point.
    fn refusal(&self, pages: &[PageId], lsn: Lsn) -> Option<FetchError> {
        let first = pages.first().copied().unwrap_or(PageId::NONE);
        let is_foreign =
            |page: &&PageId| **page == PageId::NONE || self.geometry.pg_of(**page).is_none();
        if let Life::Fenced(volume_epoch) = self.life {
            Some(FetchError::Fenced { volume_epoch })
        } else if self.drained {
            Some(unavailable(first, lsn, "closing"))
        } else if lsn > self.vdl() {
            Some(unavailable(first, lsn, "the read point is above VDL"))
        } else if let Some(&page) = pages.iter().find(is_foreign) {
            let reason = "no such page in the volume".to_owned();
            Some(FetchError::Corrupt { page, reason })
        } else {
            None
        }
    }

    fn answer_fetch(&mut self, ticket: FetchTicket, result: Result<Vec<Arc<Page>>, FetchError>) {
        self.actions
            .push_back(WriterAction::Fetched { ticket, result });
    }

    /// Registers who wants a page, before anything is asked (R27).
    pub(super) fn request_page(
        &mut self,
        page: PageId,
        lsn: Lsn,
        waiter: Waiter,
        deadline: Duration,
    ) {
        let Some(pg) = self.geometry.pg_of(page) else {
            // A damaged page led there.
            let reason = "no such page in the volume".to_owned();
            return self.read_failed(waiter, FetchError::Corrupt { page, reason });
        };
        // Every record above VDL is in the tip or in a version above VDL, and those are never evicted: if there is none,
        // the page at VDL is the page at the tip.
        let open = planted(Mutant::ArrivalOpenEnded)
            || lsn >= self.vdl()
                && !self.tip.contains(page)
                && !self.shared.cache.has_above(page, lsn);
        let pg_last = self.durability.durable_last(pg);
        if !self
            .fetches
            .request((page, lsn), waiter, deadline, open, pg_last)
        {
            self.read_failed(waiter, unavailable(page, lsn, "too many page reads wait"));
        }
    }

    /// A segment answered, or failed.
    pub(super) fn page_answered(&mut self, fetch: FetchKey, answer: Option<Message>) {
        let cache = &self.cache;
        let outcomes = self.fetches.answered(
            fetch,
            answer,
            self.now,
            self.page_bytes,
            |page, lsn| cache.contradicts(page, lsn),
            &mut self.router,
        );
        for outcome in outcomes {
            match outcome {
                Outcome::Arrived {
                    page,
                    lsn,
                    open,
                    waiters,
                } => {
                    self.cache.arrived(&page, lsn, open);
                    for waiter in waiters {
                        self.page_came(waiter, &page);
                    }
                }
                Outcome::Failed { error, waiters } => {
                    for waiter in waiters {
                        match waiter {
                            // The tip has moved on while it waited: it is planned, and fetched, anew.
                            Waiter::Commit(id) => self.line.found(id),
                            // No deadline ends it: it is tried again later.
                            Waiter::Chore | Waiter::Reader(_) => {
                                self.read_failed(waiter, error.clone());
                            }
                        }
                    }
                }
            }
        }
        self.advance_line();
    }

    fn page_came(&mut self, waiter: Waiter, page: &Arc<Page>) {
        match waiter {
            Waiter::Reader(ticket) => {
                // It is gone when another of its pages could not be had.
                let Some(reader) = self.readers.get_mut(&ticket) else {
                    return;
                };
                reader.pages.push(Arc::clone(page));
                reader.missing_count -= 1;
                if reader.missing_count == 0 {
                    let reader = self.readers.remove(&ticket).expect("it was just there");
                    self.answer_fetch(ticket, Ok(reader.pages));
                }
            }
            Waiter::Commit(id) => self.line.found(id),
            Waiter::Chore => self.chores.found(),
        }
    }

    fn read_failed(&mut self, waiter: Waiter, error: FetchError) {
        match waiter {
            Waiter::Reader(ticket) => {
                if self.readers.remove(&ticket).is_some() {
                    self.answer_fetch(ticket, Err(error));
                }
            }
            Waiter::Commit(id) => {
                let Some(waiting) = self.line.give_up(id) else {
                    return;
                };
                let error = match error {
                    FetchError::Corrupt { .. } => CommitError::Corrupt {
                        what: error.to_string(),
                    },
                    FetchError::Fenced { volume_epoch } => CommitError::Fenced { volume_epoch },
                    FetchError::Unavailable { .. } | FetchError::Forgotten { .. } => {
                        CommitError::Unavailable {
                            reason: error.to_string(),
                        }
                    }
                };
                self.refuse(waiting, error);
            }
            Waiter::Chore => self.chore_failed(),
        }
    }

    /// A reader wants to be current (T1).
    pub(super) fn want_lease(&mut self, ticket: FetchTicket, deadline: Duration) {
        let answer = if self.is_alive() {
            self.lease.want(ticket, self.now, deadline).then_some(true)
        } else {
            Some(false)
        };
        let leased = answer.map(|held| WriterAction::Leased { ticket, held });
        self.actions.extend(leased);
    }

    /// Hedges, pauses and deadlines of reads; deadlines of those who wait for a lease.
    pub(super) fn expire_reads(&mut self) {
        let (geometry, links) = (self.geometry, self.shipper.links());
        let mut segments = Segments {
            links,
            router: &mut self.router,
            history_epoch: self.volume_epoch,
            pg_of: &|page| geometry.pg_of(page),
            page_bytes: self.page_bytes,
        };
        let expired = self
            .fetches
            .on_due(self.now, &mut segments, &mut self.actions);
        if !expired.is_empty() {
            for (error, waiter) in expired {
                self.read_failed(waiter, error);
            }
            // Commits that stood back for one that gave up may pin pages now.
            self.advance_line();
        }
        for ticket in self.lease.take_expired(self.now) {
            self.actions.push_back(WriterAction::Leased {
                ticket,
                held: false,
            });
        }
    }

    /// Asks segments for what is wanted.
    pub(super) fn ask_ready(&mut self) {
        let (geometry, links) = (self.geometry, self.shipper.links());
        let mut segments = Segments {
            links,
            router: &mut self.router,
            history_epoch: self.volume_epoch,
            pg_of: &|page| geometry.pg_of(page),
            page_bytes: self.page_bytes,
        };
        self.fetches
            .ask_ready(self.now, &mut segments, &mut self.actions);
    }

    /// Ends everything: fenced, or closed.
    pub(super) fn refuse_reads(&mut self, fenced: Option<VolumeEpoch>) {
        for (page, lsn, waiter) in self.fetches.take_all() {
            let error = match fenced {
                Some(volume_epoch) => FetchError::Fenced { volume_epoch },
                None => unavailable(page, lsn, "closing"),
            };
            self.read_failed(waiter, error);
        }
        for ticket in self.lease.take_all() {
            self.actions.push_back(WriterAction::Leased {
                ticket,
                held: false,
            });
        }
        self.shared.publish_lease(None);
    }
}

fn unavailable(page: PageId, lsn: Lsn, reason: &str) -> FetchError {
    FetchError::Unavailable {
        page,
        lsn,
        reason: reason.to_owned(),
    }
}
