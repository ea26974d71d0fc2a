//! Pages on their way from segments: one request for all who want the same page at the same read point, hedged when it is
//! overdue, repeated until the deadline. A request that lost the race counts no more, however long its segment keeps silent.
//!
//! A fetch is registered before it is asked, and the writer tells it of every record that it mints on the page: only an
//! arrival without such a record may become open-ended in the cache (R27).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{Message, PageAnswer, PageRequest, Pages, ReadPages, Refusal};
use sixfold_log_format::{Lsn, Page, PageId, PgId, VolumeEpoch};

use crate::admission::LineId;
use crate::due::Due;
use crate::event::{FetchError, FetchKey, FetchTicket, WriterAction};
use crate::link::Link;
use crate::router::Router;
use crate::shipper::LinkIndex;

/// Requests in flight.
const ASKS_MAX: usize = 256;
/// Everybody who waits for a page.
const WAITERS_MAX: usize = 65_536;
/// Requests whose page came from elsewhere, of which a late answer still tells how fast the segment is.
const LATE_MAX: usize = 256;
/// Before the segments are asked again after all have failed.
const PAUSE: Duration = Duration::from_millis(10);

type Wanted = (PageId, Lsn);

/// Who waits for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// A reader.
    Reader(FetchTicket),
    /// A commit that missed it.
    Commit(LineId),
}

/// A page at a read point that is wanted.
#[derive(Debug)]
struct Pending {
    waiters: Vec<(Waiter, Duration)>,
    /// Whether the page is the newest as far as the writer knows.
    open: bool,
    /// `T`: the PG's last LSN at or below VDL (R26).
    pg_last: Lsn,
    asks: Vec<FetchKey>,
    tried: Vec<LinkIndex>,
    pause_until: Option<Duration>,
    failure: Failure,
}

/// Why the last segment asked did not give the page.
#[derive(Debug, Clone)]
enum Failure {
    None,
    Refused(String),
    Corrupt(String),
}

#[derive(Debug)]
struct Ask {
    wanted: Wanted,
    link: LinkIndex,
    sent: Duration,
    /// When another segment is asked as well; `None` when it was.
    overdue_at: Option<Duration>,
}

/// A request that nobody waits for any more.
#[derive(Debug)]
struct Late {
    link: LinkIndex,
    sent: Duration,
}

/// What an answer led to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing yet.
    Goes,
    /// The page is here.
    Arrived {
        page: Arc<Page>,
        lsn: Lsn,
        open: bool,
        waiters: Vec<Waiter>,
    },
    /// It cannot be had.
    Failed {
        error: FetchError,
        waiters: Vec<Waiter>,
    },
}

/// Where to ask: borrowed from the writer for one call.
pub(crate) struct Segments<'a> {
    pub(crate) links: &'a [Link],
    pub(crate) router: &'a mut Router,
    pub(crate) history_epoch: VolumeEpoch,
    /// The protection group of a page.
    pub(crate) pg_of: &'a dyn Fn(PageId) -> Option<PgId>,
}

/// All fetches.
#[derive(Debug, Default)]
pub(crate) struct Fetches {
    pending: BTreeMap<Wanted, Pending>,
    asks: BTreeMap<FetchKey, Ask>,
    /// What a stopped segment owes takes no room among `asks`.
    late: BTreeMap<FetchKey, Late>,
    /// To be asked as soon as there is room.
    ready: VecDeque<Wanted>,
    waiter_count: usize,
    next_key: u64,
    due: Due,
    asked_count: u64,
    hedged_count: u64,
}

impl Fetches {
    /// Registers who wants a page. `open`: see [`Pending`]; it counts for the first who wants it. False when too many wait.
    #[must_use]
    pub(crate) fn request(
        &mut self,
        wanted: Wanted,
        waiter: Waiter,
        deadline: Duration,
        open: bool,
        pg_last: Lsn,
    ) -> bool {
        if self.waiter_count >= WAITERS_MAX {
            return false;
        }
        self.waiter_count += 1;
        self.due.sooner(deadline);
        let pending = self.pending.entry(wanted).or_insert_with(|| {
            self.ready.push_back(wanted);
            Pending {
                waiters: Vec::new(),
                open,
                pg_last,
                asks: Vec::new(),
                tried: Vec::new(),
                pause_until: None,
                failure: Failure::None,
            }
        });
        pending.waiters.push((waiter, deadline));
        true
    }

    /// A record was minted on this page.
    pub(crate) fn minted(&mut self, page: PageId) {
        if self.pending.is_empty() || planted(Mutant::ArrivalOpenEnded) {
            return;
        }
        for (_, pending) in self.pending.range_mut((page, Lsn::NONE)..=(page, Lsn::MAX)) {
            pending.open = false;
        }
    }

    /// Asks for what is ready.
    pub(crate) fn ask_ready(
        &mut self,
        now: Duration,
        segments: &mut Segments<'_>,
        actions: &mut VecDeque<WriterAction>,
    ) {
        while self.asks.len() < ASKS_MAX {
            let Some(wanted) = self.ready.pop_front() else {
                break;
            };
            self.ask(wanted, now, segments, actions);
        }
    }

    /// Asks the next segment for a page, or pauses when all were asked.
    fn ask(
        &mut self,
        wanted: Wanted,
        now: Duration,
        segments: &mut Segments<'_>,
        actions: &mut VecDeque<WriterAction>,
    ) {
        let Some(pending) = self.pending.get_mut(&wanted) else {
            return;
        };
        let (page, lsn) = wanted;
        let pg = (segments.pg_of)(page);
        let may_ask = |index, link: &Link| Some(link.pg) == pg && !pending.tried.contains(&index);
        let chosen = segments
            .router
            .choose(segments.links, lsn.min(pending.pg_last), may_ask);
        let Some(link) = chosen else {
            if pending.asks.is_empty() {
                pending.tried.clear();
                pending.pause_until = Some(now + PAUSE);
                self.due.sooner(now + PAUSE);
            }
            return;
        };
        self.next_key += 1;
        let fetch = FetchKey(self.next_key);
        // The more segments let a page wait, the longer each next one may: it may be a page that takes long.
        let rounds = u32::try_from(pending.asks.len()).unwrap_or(u32::MAX);
        let patience = segments.router.overdue_after(link) * 2_u32.saturating_pow(rounds);
        let overdue_at = now + patience;
        self.due.sooner(overdue_at);
        pending.tried.push(link);
        pending.asks.push(fetch);
        self.asked_count += 1;
        self.asks.insert(
            fetch,
            Ask {
                wanted,
                link,
                sent: now,
                overdue_at: Some(overdue_at),
            },
        );
        let target = &segments.links[link];
        let message = Message::ReadPages(ReadPages {
            segment: target.segment,
            history_epoch: segments.history_epoch,
            pages: vec![PageRequest {
                page,
                lsn,
                pg_last: pending.pg_last,
            }],
        });
        actions.push_back(WriterAction::Ask {
            fetch,
            node: target.node,
            message,
        });
    }

    /// A request was answered, or failed (`None`). `contradicts`: whether a page at a read point cannot be, as far as the
    /// writer knows.
    pub(crate) fn answered(
        &mut self,
        fetch: FetchKey,
        answer: Option<Message>,
        now: Duration,
        page_bytes: usize,
        contradicts: impl Fn(&Page, Lsn) -> bool,
        router: &mut Router,
    ) -> Outcome {
        let Some(ask) = self.asks.remove(&fetch) else {
            self.answered_late(fetch, answer.is_some(), now, router);
            return Outcome::Goes;
        };
        let pending = self.pending.get_mut(&ask.wanted);
        let pending = pending.expect("a request that counts has somebody who waits");
        pending.asks.retain(|&other| other != fetch);
        let (id, lsn) = ask.wanted;
        let failure = match read_answer(answer, id, lsn, page_bytes) {
            Ok(page) if contradicts(&page, lsn) => Failure::Corrupt(format!(
                "page LSN {} at read point {lsn} contradicts what the writer knows",
                page.lsn()
            )),
            Ok(page) => {
                router.answered(ask.link, now.saturating_sub(ask.sent));
                let open = pending.open;
                let waiters = self.finish(ask.wanted);
                return Outcome::Arrived {
                    page: Arc::new(page),
                    lsn,
                    open,
                    waiters,
                };
            }
            Err(Refused::Forgotten(oldest)) => {
                let waiters = self.finish(ask.wanted);
                return Outcome::Failed {
                    error: FetchError::Forgotten { lsn, oldest },
                    waiters,
                };
            }
            Err(Refused::Other(failure)) => failure,
        };
        router.failed(ask.link);
        pending.failure = failure;
        if pending.asks.is_empty() {
            self.ready.push_back(ask.wanted);
        }
        Outcome::Goes
    }

    /// A request was answered, or failed, whose page came from elsewhere: it still tells of the segment.
    fn answered_late(
        &mut self,
        fetch: FetchKey,
        has_answer: bool,
        now: Duration,
        router: &mut Router,
    ) {
        match self.late.remove(&fetch) {
            Some(late) if has_answer => router.answered(late.link, now.saturating_sub(late.sent)),
            Some(late) => router.failed(late.link),
            None => {}
        }
    }

    /// What became due: hedges, pauses that are over, deadlines. Who waited too long is returned.
    pub(crate) fn on_due(
        &mut self,
        now: Duration,
        segments: &mut Segments<'_>,
        actions: &mut VecDeque<WriterAction>,
    ) -> Vec<(FetchError, Waiter)> {
        if !self.due.is_due(now) {
            return Vec::new();
        }
        self.due.clear();
        let expired = self.take_expired(now);
        let mut overdue = Vec::new();
        for ask in self.asks.values_mut() {
            if ask.overdue_at.is_some_and(|at| at <= now) {
                ask.overdue_at = None;
                overdue.push(ask.wanted);
                // A segment that is stopped never answers: this is all that is heard of it for long.
                segments.router.failed(ask.link);
            }
            ask.overdue_at
                .into_iter()
                .for_each(|at| self.due.sooner(at));
        }
        for wanted in overdue {
            let asked = self.asked_count;
            self.ask(wanted, now, segments, actions);
            self.hedged_count += self.asked_count - asked;
        }
        for (&wanted, pending) in &mut self.pending {
            match pending.pause_until {
                Some(until) if until <= now => {
                    pending.pause_until = None;
                    self.ready.push_back(wanted);
                }
                Some(until) => self.due.sooner(until),
                None => {}
            }
        }
        expired
    }

    fn take_expired(&mut self, now: Duration) -> Vec<(FetchError, Waiter)> {
        let mut expired = Vec::new();
        let Fetches {
            pending,
            asks,
            late,
            due,
            waiter_count,
            ..
        } = self;
        pending.retain(|&(page, lsn), pending| {
            for (waiter, _) in pending
                .waiters
                .extract_if(.., |&mut (_, deadline)| deadline <= now)
            {
                expired.push((pending.failure.error(page, lsn), waiter));
            }
            pending
                .waiters
                .iter()
                .for_each(|&(_, deadline)| due.sooner(deadline));
            let is_wanted = !pending.waiters.is_empty();
            if !is_wanted {
                let fetches = std::mem::take(&mut pending.asks);
                fetches
                    .into_iter()
                    .for_each(|fetch| set_aside(fetch, asks, late));
            }
            is_wanted
        });
        *waiter_count -= expired.len();
        expired
    }

    fn finish(&mut self, wanted: Wanted) -> Vec<Waiter> {
        let pending = self.pending.remove(&wanted).expect("a pending page");
        self.waiter_count -= pending.waiters.len();
        for fetch in pending.asks {
            set_aside(fetch, &mut self.asks, &mut self.late);
        }
        pending
            .waiters
            .into_iter()
            .map(|(waiter, _)| waiter)
            .collect()
    }

    /// Takes out everybody who waits: the writer was fenced.
    pub(crate) fn take_all(&mut self) -> Vec<(PageId, Lsn, Waiter)> {
        self.asks.clear();
        self.late.clear();
        self.ready.clear();
        self.due.clear();
        self.waiter_count = 0;
        let mut waiters = Vec::new();
        for ((page, lsn), pending) in std::mem::take(&mut self.pending) {
            waiters.extend(
                pending
                    .waiters
                    .into_iter()
                    .map(|(waiter, _)| (page, lsn, waiter)),
            );
        }
        waiters
    }

    /// When to look again.
    pub(crate) fn due(&self) -> Due {
        self.due
    }

    /// Requests sent, and how many of them were hedges.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.asked_count, self.hedged_count)
    }
}

/// Nobody waits for this request any more: it makes room among those that count.
fn set_aside(
    fetch: FetchKey,
    asks: &mut BTreeMap<FetchKey, Ask>,
    late: &mut BTreeMap<FetchKey, Late>,
) {
    let Ask { link, sent, .. } = asks.remove(&fetch).expect("a request that counts");
    late.insert(fetch, Late { link, sent });
    if late.len() > LATE_MAX {
        late.pop_first();
    }
}

impl Failure {
    fn error(&self, page: PageId, lsn: Lsn) -> FetchError {
        let unavailable = |reason: &str| FetchError::Unavailable {
            page,
            lsn,
            reason: reason.to_owned(),
        };
        match self {
            Failure::None => unavailable("no segment answered"),
            Failure::Refused(reason) => unavailable(reason),
            Failure::Corrupt(reason) => FetchError::Corrupt {
                page,
                reason: reason.clone(),
            },
        }
    }
}

enum Refused {
    Forgotten(Lsn),
    Other(Failure),
}

/// The page of an answer, verified: checksum, structure, id, and not newer than the read point.
fn read_answer(
    answer: Option<Message>,
    id: PageId,
    lsn: Lsn,
    page_bytes: usize,
) -> Result<Page, Refused> {
    let refused = |reason: String| Refused::Other(Failure::Refused(reason));
    let bytes = match answer {
        None => return Err(refused("no answer".to_owned())),
        Some(Message::Refused(refusal)) => return Err(refused(format!("{refusal:?}"))),
        Some(Message::Pages(Pages { pages })) => match <[PageAnswer; 1]>::try_from(pages) {
            Ok([PageAnswer::Page(bytes)]) => bytes,
            Ok([PageAnswer::Refused(Refusal::Forgotten { horizon })]) => {
                return Err(Refused::Forgotten(horizon));
            }
            Ok([PageAnswer::Refused(refusal)]) => return Err(refused(format!("{refusal:?}"))),
            Err(pages) => return Err(refused(format!("{} pages, 1 asked for", pages.len()))),
        },
        Some(_) => return Err(refused("an answer of another kind".to_owned())),
    };
    let corrupt = |reason: String| Refused::Other(Failure::Corrupt(reason));
    let page = Page::decode(&bytes, id, page_bytes).map_err(|error| corrupt(error.to_string()))?;
    if page.lsn() > lsn {
        return Err(corrupt(format!(
            "page LSN {} is above the read point {lsn}",
            page.lsn()
        )));
    }
    Ok(page)
}
