//! Reading without writing: the pages of a volume at the one point that a survey found (R23), without I/O.
//!
//! It has the writer's page cache, router and hedged fetches, and nothing that mints, ships or counts. Nobody tells the segments of
//! its read point: a living writer may let the horizon pass it, and then reads end as forgotten.
//!
//! When another writer opens the volume, the segments take that one's history and refuse a reader of the old one. The point may well
//! be readable still: [`ReaderCore::is_outdated`] asks the shell for another survey, and [`ReaderCore::renew`] goes on under the history
//! found, if that one did not annul the point.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sixfold_log_format::wire::{Message, Refusal};
use sixfold_log_format::{Lsn, Manifest, NodeId, Page, PageId, PgId, SegmentId, VolumeEpoch};
use sixfold_recovery::machine::survey::Surveyed;

use crate::event::{FetchError, FetchKey, FetchTicket, WriterAction};
use crate::fetch::{Fetches, Outcome, Segments, Waiter};
use crate::link::Link;
use crate::page_cache::CacheKeeper;
use crate::router::Router;
use crate::shared::Shared;

/// What a reader does.
#[derive(Debug)]
pub enum ReaderAction {
    /// Ask a segment on a stream of its own; its first answer counts.
    Ask {
        /// Comes back in [`ReaderCore::answered`].
        fetch: FetchKey,
        /// The node.
        node: NodeId,
        /// `ReadPages`.
        message: Message,
    },
    /// Pages came, or one of them cannot be had.
    Fetched {
        /// Which.
        ticket: FetchTicket,
        /// How it went: all of them, in any order.
        result: Result<Vec<Arc<Page>>, FetchError>,
    },
}

/// Somebody who waits for pages.
#[derive(Debug)]
struct Waiting {
    missing: Vec<PageId>,
    pages: Vec<Arc<Page>>,
    lsn: Lsn,
    deadline: Duration,
}

/// The reader without I/O.
#[derive(Debug)]
pub struct ReaderCore {
    now: Duration,
    lsn: Lsn,
    manifest: Manifest,
    history_epoch: VolumeEpoch,
    pg_last: Vec<(PgId, Lsn)>,
    page_bytes: usize,
    links: Vec<Link>,
    shared: Arc<Shared>,
    cache: CacheKeeper,
    router: Router,
    fetches: Fetches,
    waiting: BTreeMap<FetchTicket, Waiting>,
    outdated: bool,
    /// Why nothing more can be read, once that is so.
    ended: Option<VolumeEpoch>,
    actions: VecDeque<ReaderAction>,
}

impl ReaderCore {
    /// Reads at the point of `surveyed`. `now`: the time since an arbitrary start, as in every later call.
    pub fn new(surveyed: Surveyed, cache_bytes_max: usize, now: Duration) -> ReaderCore {
        let shared = Arc::new(Shared::new(surveyed.lsn));
        let page_bytes = surveyed.manifest.parameters.page_bytes;
        let page_bytes = usize::try_from(page_bytes).expect("a page fits in memory");
        let links = links(&surveyed, now);
        ReaderCore {
            now,
            lsn: surveyed.lsn,
            history_epoch: surveyed.history.volume_epoch,
            manifest: surveyed.manifest,
            pg_last: surveyed.pg_last,
            page_bytes,
            router: Router::new(links.len()),
            links,
            cache: CacheKeeper::new(Arc::clone(&shared), page_bytes, cache_bytes_max),
            shared,
            fetches: Fetches::default(),
            waiting: BTreeMap::new(),
            outdated: false,
            ended: None,
            actions: VecDeque::new(),
        }
    }

    /// What readers on other threads share: the point, and the page cache.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Somebody misses pages at a read point.
    pub fn fetch(
        &mut self,
        now: Duration,
        ticket: FetchTicket,
        pages: &[PageId],
        lsn: Lsn,
        deadline: Duration,
    ) {
        self.now = self.now.max(now);
        if let Some(error) = self.refusal(pages, lsn) {
            return self.answer(ticket, Err(error));
        }
        let cached = pages
            .iter()
            .map(|&page| (page, self.shared.cache.get(page, lsn)));
        let (there, missing): (Vec<_>, Vec<_>) = cached.partition(|(_, page)| page.is_some());
        let there = there.into_iter().filter_map(|(_, page)| page).collect();
        if missing.is_empty() {
            return self.answer(ticket, Ok(there));
        }
        let waiting = Waiting {
            missing: missing.into_iter().map(|(page, _)| page).collect(),
            pages: there,
            lsn,
            deadline,
        };
        let missing = waiting.missing.clone();
        self.waiting.insert(ticket, waiting);
        self.request(ticket, missing, lsn, deadline);
        self.ask_ready();
    }

    fn refusal(&self, pages: &[PageId], lsn: Lsn) -> Option<FetchError> {
        let first = pages.first().copied().unwrap_or(PageId::NONE);
        let is_foreign = |page: &&PageId| self.pg_of(**page).is_none();
        if let Some(volume_epoch) = self.ended {
            Some(FetchError::Fenced { volume_epoch })
        } else if lsn > self.lsn {
            Some(unavailable(
                first,
                lsn,
                "the read point is above the reader's",
            ))
        } else {
            let &page = pages.iter().find(is_foreign)?;
            let reason = "no such page in the volume".to_owned();
            Some(FetchError::Corrupt { page, reason })
        }
    }

    fn pg_of(&self, page: PageId) -> Option<PgId> {
        (page != PageId::NONE).then(|| self.manifest.pg_of(page))?
    }

    fn request(&mut self, ticket: FetchTicket, pages: Vec<PageId>, lsn: Lsn, deadline: Duration) {
        for page in pages {
            let pg = self.pg_of(page);
            let last = self.pg_last.iter().find(|&&(known, _)| Some(known) == pg);
            // Where it is not known, the point itself is right, too.
            let pg_last = last.map_or(lsn, |&(_, last)| last);
            let waiter = Waiter::Reader(ticket);
            if !self
                .fetches
                .request((page, lsn), waiter, deadline, false, pg_last)
            {
                let error = unavailable(page, lsn, "too many page reads wait");
                return self.failed(ticket, error);
            }
        }
    }

    /// A segment answered, or failed (`None`).
    pub fn answered(&mut self, now: Duration, fetch: FetchKey, answer: Option<Message>) {
        self.now = self.now.max(now);
        match &answer {
            Some(Message::Refused(Refusal::OtherHistory { history_epoch }))
                if *history_epoch > self.history_epoch =>
            {
                self.outdated = true;
            }
            Some(Message::Refused(Refusal::StaleMembership { .. })) => self.outdated = true,
            _ => {}
        }
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
                    page, lsn, waiters, ..
                } => {
                    self.cache.arrived(&page, lsn, false);
                    for waiter in waiters {
                        self.came(waiter, &page);
                    }
                }
                Outcome::Failed { error, waiters } => {
                    for waiter in waiters {
                        if let Waiter::Reader(ticket) = waiter {
                            self.failed(ticket, error.clone());
                        }
                    }
                }
            }
        }
        self.tick(now);
    }

    fn came(&mut self, waiter: Waiter, page: &Arc<Page>) {
        let Waiter::Reader(ticket) = waiter else {
            return;
        };
        // It is gone when another of its pages could not be had.
        let Some(waiting) = self.waiting.get_mut(&ticket) else {
            return;
        };
        waiting.missing.retain(|&missing| missing != page.id());
        waiting.pages.push(Arc::clone(page));
        if waiting.missing.is_empty() {
            let waiting = self.waiting.remove(&ticket).expect("it was just there");
            self.answer(ticket, Ok(waiting.pages));
        }
    }

    fn failed(&mut self, ticket: FetchTicket, error: FetchError) {
        if self.waiting.remove(&ticket).is_some() {
            self.answer(ticket, Err(error));
        }
    }

    fn answer(&mut self, ticket: FetchTicket, result: Result<Vec<Arc<Page>>, FetchError>) {
        self.actions
            .push_back(ReaderAction::Fetched { ticket, result });
    }

    /// To be called when [`ReaderCore::poll_timeout`] has come.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        let mut asks = VecDeque::new();
        let manifest = &self.manifest;
        let mut segments = Segments {
            links: &self.links,
            router: &mut self.router,
            history_epoch: self.history_epoch,
            pg_of: &|page| manifest.pg_of(page),
            page_bytes: self.page_bytes,
        };
        let expired = self.fetches.on_due(self.now, &mut segments, &mut asks);
        self.take_asks(asks);
        for (error, waiter) in expired {
            if let Waiter::Reader(ticket) = waiter {
                self.failed(ticket, error);
            }
        }
        self.ask_ready();
    }

    fn ask_ready(&mut self) {
        let mut asks = VecDeque::new();
        let manifest = &self.manifest;
        let mut segments = Segments {
            links: &self.links,
            router: &mut self.router,
            history_epoch: self.history_epoch,
            pg_of: &|page| manifest.pg_of(page),
            page_bytes: self.page_bytes,
        };
        self.fetches.ask_ready(self.now, &mut segments, &mut asks);
        self.take_asks(asks);
    }

    fn take_asks(&mut self, asks: VecDeque<WriterAction>) {
        let asks = asks.into_iter().map(|action| match action {
            WriterAction::Ask {
                fetch,
                node,
                message,
            } => ReaderAction::Ask {
                fetch,
                node,
                message,
            },
            other => unreachable!("fetches only ask: {other:?}"),
        });
        self.actions.extend(asks);
    }

    /// The next action, until there is none.
    pub fn poll_action(&mut self) -> Option<ReaderAction> {
        self.actions.pop_front()
    }

    /// When [`ReaderCore::tick`] is due next.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.fetches.due().at()
    }

    /// Whether the segments have moved on to another history or manifest: a survey is wanted.
    pub fn is_outdated(&self) -> bool {
        self.outdated && self.ended.is_none()
    }

    /// Another survey of the volume. True when the point is read on, under its history. False when that history annuls it, so that no
    /// page can be had any more, in memory or not: the point had not been settled.
    pub fn renew(&mut self, now: Duration, surveyed: Surveyed) -> bool {
        self.now = self.now.max(now);
        self.outdated = false;
        let history = &surveyed.history;
        let kept = match history.range_of(self.lsn) {
            Some(range) => range.through == self.lsn,
            None => self.lsn <= surveyed.lsn,
        };
        if !kept {
            self.ended = Some(history.volume_epoch);
            for ticket in self.waiting.keys().copied().collect::<Vec<_>>() {
                let volume_epoch = history.volume_epoch;
                self.failed(ticket, FetchError::Fenced { volume_epoch });
            }
            self.fetches.take_all();
            return false;
        }
        self.links = links(&surveyed, now);
        self.router = Router::new(self.links.len());
        self.history_epoch = history.volume_epoch;
        self.manifest = surveyed.manifest;
        // What was the last below this point stays so; a PG that is new holds nothing below it.
        self.fetches.take_all();
        let waiting: Vec<_> = self
            .waiting
            .iter()
            .map(|(&ticket, waiting)| {
                (
                    ticket,
                    waiting.missing.clone(),
                    waiting.lsn,
                    waiting.deadline,
                )
            })
            .collect();
        for (ticket, missing, lsn, deadline) in waiting {
            self.request(ticket, missing, lsn, deadline);
        }
        self.ask_ready();
        true
    }

    /// No survey could be had now: reads wait for their deadlines, and the next refusal asks for another.
    pub fn not_renewed(&mut self) {
        self.outdated = false;
    }
}

/// One link for each segment that holds pages; none of them is ever attached.
fn links(surveyed: &Surveyed, now: Duration) -> Vec<Link> {
    let scl_of = |segment: SegmentId| {
        let known = surveyed.scls.iter().find(|&&(known, _)| known == segment);
        known.map_or(Lsn::NONE, |&(_, scl)| scl)
    };
    let members = |entry: &sixfold_log_format::PgEntry| {
        let pg = entry.pg;
        entry.members().into_iter().map(move |member| (pg, member))
    };
    surveyed
        .manifest
        .pgs
        .iter()
        .flat_map(members)
        .map(|(pg, member)| Link::new(pg, member, scl_of(member.segment), now))
        .collect()
}

fn unavailable(page: PageId, lsn: Lsn, reason: &str) -> FetchError {
    FetchError::Unavailable {
        page,
        lsn,
        reason: reason.to_owned(),
    }
}
