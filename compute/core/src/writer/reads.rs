//! Misses and leases: what readers need of the writer.

use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::Message;
use sixfold_log_format::{Lsn, PageId, VolumeEpoch};

use super::{Life, WriterCore};
use crate::event::{CommitError, FetchError, FetchKey, FetchTicket, WriterAction};
use crate::fetch::{Outcome, Segments, Waiter};

impl WriterCore {
    /// A reader misses a page at a read point.
    pub(super) fn fetch(
        &mut self,
        ticket: FetchTicket,
        page: PageId,
        lsn: Lsn,
        deadline: Duration,
    ) {
        let refusal = if let Life::Fenced(volume_epoch) = self.life {
            Some(FetchError::Fenced { volume_epoch })
        } else if self.drained {
            Some(unavailable(page, lsn, "closing"))
        } else if lsn > self.vdl() {
            Some(unavailable(page, lsn, "the read point is above VDL"))
        } else if page == PageId::NONE || self.manifest.pg_of(page).is_none() {
            let reason = "no such page in the volume".to_owned();
            Some(FetchError::Corrupt { page, reason })
        } else {
            None
        };
        if let Some(error) = refusal {
            self.read_failed(Waiter::Reader(ticket), error);
        } else if let Some(cached) = self.shared.cache.get(page, lsn) {
            // It came while the reader was on its way.
            self.actions.push_back(WriterAction::Fetched {
                ticket,
                result: Ok(cached),
            });
        } else {
            self.request_page(page, lsn, Waiter::Reader(ticket), deadline);
        }
    }

    /// Registers who wants a page, before anything is asked (R27).
    pub(super) fn request_page(
        &mut self,
        page: PageId,
        lsn: Lsn,
        waiter: Waiter,
        deadline: Duration,
    ) {
        // Every record above VDL is in the tip or in a version above VDL, and those are never evicted: if there is none,
        // the page at VDL is the page at the tip.
        let open = planted(Mutant::ArrivalOpenEnded)
            || lsn >= self.vdl()
                && !self.tip.contains(page)
                && !self.shared.cache.has_above(page, lsn);
        let pg = self.manifest.pg_of(page).expect("a page of the volume");
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
        let outcome = self.fetches.answered(
            fetch,
            answer,
            self.now,
            self.page_bytes,
            |page, lsn| cache.contradicts(page, lsn),
            &mut self.router,
        );
        match outcome {
            Outcome::Goes => {}
            Outcome::Arrived {
                page,
                lsn,
                open,
                waiters,
            } => {
                self.cache.arrived(&page, lsn, open);
                for waiter in waiters {
                    match waiter {
                        Waiter::Reader(ticket) => {
                            let result = Ok(std::sync::Arc::clone(&page));
                            self.actions
                                .push_back(WriterAction::Fetched { ticket, result });
                        }
                        Waiter::Commit(id) => self.line.found(id),
                    }
                }
                self.advance_line();
            }
            Outcome::Failed { error, waiters } => {
                for waiter in waiters {
                    match waiter {
                        // The tip has moved on while it waited: it is planned, and fetched, anew.
                        Waiter::Commit(id) => self.line.found(id),
                        Waiter::Reader(_) => self.read_failed(waiter, error.clone()),
                    }
                }
                self.advance_line();
            }
        }
    }

    fn read_failed(&mut self, waiter: Waiter, error: FetchError) {
        match waiter {
            Waiter::Reader(ticket) => {
                self.actions.push_back(WriterAction::Fetched {
                    ticket,
                    result: Err(error),
                });
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
        let (manifest, links) = (&self.manifest, self.shipper.links());
        let mut segments = Segments {
            links,
            router: &mut self.router,
            history_epoch: self.volume_epoch,
            pg_of: &|page| manifest.pg_of(page),
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
        let (manifest, links) = (&self.manifest, self.shipper.links());
        let mut segments = Segments {
            links,
            router: &mut self.router,
            history_epoch: self.volume_epoch,
            pg_of: &|page| manifest.pg_of(page),
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
