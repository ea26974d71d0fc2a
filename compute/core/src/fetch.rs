//! Pages on their way from segments: fetched once for all who want the same page at the same read point, the pages of one
//! reader in one request, hedged when it is overdue, repeated until the deadline. A request of which every page came from
//! elsewhere counts no more, however long its segment keeps silent.
//!
//! A fetch is registered before it is asked, and the writer tells it of every record that it mints on the page: only an
//! arrival without such a record may become open-ended in the cache (R27).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::limits::{PAGES_ANSWER_BYTES_MAX, PAGES_REQUEST_COUNT_MAX};
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
/// A request for so many pages may take as long again; smaller ones tell how fast a segment is.
const PAGES_PER_PATIENCE: usize = 8;
/// Segments that must say that a version is forgotten, or all that there are: one alone may have collected more than it should.
const FORGOTTEN_COUNT: usize = 3;
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
    /// What the writer does by itself.
    Chore,
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
    /// Who said that the version is forgotten, and the oldest one each has.
    forgotten: Vec<(LinkIndex, Lsn)>,
    /// So many make it so.
    forgotten_needed: usize,
    failure: Failure,
}

impl Pending {
    /// The oldest version that any of those has who forgot this one, once enough of them say so.
    fn forgotten_by_enough(&self) -> Option<Lsn> {
        let oldest = self.forgotten.iter().map(|&(_, oldest)| oldest).min();
        oldest.filter(|_| self.forgotten.len() >= self.forgotten_needed)
    }

    /// What whoever waited too long hears.
    fn overdue_error(&self, page: PageId, lsn: Lsn) -> FetchError {
        match self.forgotten.iter().map(|&(_, oldest)| oldest).min() {
            Some(oldest) => FetchError::Forgotten { lsn, oldest },
            None => self.failure.error(page, lsn),
        }
    }
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
    /// In the order of the request.
    wanted: Vec<Wanted>,
    /// How many of them somebody waits for, as far as this request is concerned.
    waited_count: usize,
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

/// What an answer led to, for one page. Nothing is said of a page that is asked for again.
#[derive(Debug)]
pub(crate) enum Outcome {
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
    /// Page size.
    pub(crate) page_bytes: usize,
}

impl Segments<'_> {
    /// Pages whose answer fits one frame.
    fn pages_max(&self) -> usize {
        (PAGES_ANSWER_BYTES_MAX / self.page_bytes).clamp(1, PAGES_REQUEST_COUNT_MAX)
    }
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
                forgotten: Vec::new(),
                forgotten_needed: FORGOTTEN_COUNT,
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

    /// Asks for what is ready: neighbors in the queue that are wanted at the same read point, which are one reader's, in one
    /// request to each protection group.
    pub(crate) fn ask_ready(
        &mut self,
        now: Duration,
        segments: &mut Segments<'_>,
        actions: &mut VecDeque<WriterAction>,
    ) {
        while self.asks.len() < ASKS_MAX {
            let Some(first) = self.ready.pop_front() else {
                break;
            };
            let mut run = vec![first];
            while run.len() < segments.pages_max()
                && let Some(next) = self.ready.pop_front_if(|next| next.1 == first.1)
            {
                run.push(next);
            }
            while let Some(&(page, _)) = run.first() {
                let pg = (segments.pg_of)(page);
                let group = run.extract_if(.., |(page, _)| (segments.pg_of)(*page) == pg);
                let group = group.collect();
                self.ask(group, now, segments, actions);
            }
        }
    }

    /// Asks the next segment for pages of one protection group, or pauses when all were asked.
    fn ask(
        &mut self,
        mut group: Vec<Wanted>,
        now: Duration,
        segments: &mut Segments<'_>,
        actions: &mut VecDeque<WriterAction>,
    ) {
        group.retain(|wanted| self.pending.contains_key(wanted));
        let Some(&(page, _)) = group.first() else {
            return;
        };
        let Some(link) = self.choose(&group, page, segments) else {
            if group.len() > 1 {
                // They were refused by different segments: each by itself.
                for wanted in group {
                    self.ask(vec![wanted], now, segments, actions);
                }
            } else {
                self.pause(group[0], now);
            }
            return;
        };
        let fetch = self.next_key();
        let mut pages = Vec::with_capacity(group.len());
        let mut rounds = 0;
        let pg = segments.links[link].pg;
        let is_asked = |other: &&Link| other.pg == pg && other.may_be_asked();
        let members = segments.links.iter().filter(is_asked).count();
        for wanted in &group {
            let pending = self.pending.get_mut(wanted).expect("it was looked at");
            rounds = rounds.max(pending.asks.len());
            pending.tried.push(link);
            pending.asks.push(fetch);
            pending.forgotten_needed = members.min(FORGOTTEN_COUNT);
            pages.push(PageRequest {
                page: wanted.0,
                lsn: wanted.1,
                pg_last: pending.pg_last,
            });
        }
        // The more segments let a page wait, the longer each next one may: it may be a page that takes long.
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        let more = u32::try_from(group.len() / PAGES_PER_PATIENCE).unwrap_or(u32::MAX);
        let patience = segments.router.overdue_after(link) * (1 + more);
        let overdue_at = now + patience * 2_u32.saturating_pow(rounds);
        self.due.sooner(overdue_at);
        self.asked_count += group.len() as u64;
        self.asks.insert(
            fetch,
            Ask {
                waited_count: group.len(),
                wanted: group,
                link,
                sent: now,
                overdue_at: Some(overdue_at),
            },
        );
        let target = &segments.links[link];
        let message = Message::ReadPages(ReadPages {
            segment: target.segment,
            history_epoch: segments.history_epoch,
            pages,
        });
        actions.push_back(WriterAction::Ask {
            fetch,
            node: target.node,
            message,
        });
    }

    /// A segment that covers all of the group and was asked for none of it.
    fn choose(
        &self,
        group: &[Wanted],
        page: PageId,
        segments: &mut Segments<'_>,
    ) -> Option<LinkIndex> {
        let pg = (segments.pg_of)(page);
        let pendings = || group.iter().map(|wanted| &self.pending[wanted]);
        let may_ask = |index, link: &Link| {
            Some(link.pg) == pg && pendings().all(|pending| !pending.tried.contains(&index))
        };
        let needed = group.iter().zip(pendings());
        let scl_needed = needed.map(|(&(_, lsn), pending)| lsn.min(pending.pg_last));
        let scl_needed = scl_needed.max()?;
        segments.router.choose(segments.links, scl_needed, may_ask)
    }

    /// Every segment was asked for it: once more, after a while.
    fn pause(&mut self, wanted: Wanted, now: Duration) {
        let pending = self.pending.get_mut(&wanted).expect("it was looked at");
        if pending.asks.is_empty() {
            pending.tried.clear();
            pending.pause_until = Some(now + PAUSE);
            self.due.sooner(now + PAUSE);
        }
    }

    /// A name for a request to a segment.
    pub(crate) fn next_key(&mut self) -> FetchKey {
        self.next_key += 1;
        FetchKey(self.next_key)
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
    ) -> Vec<Outcome> {
        let Some(ask) = self.asks.remove(&fetch) else {
            self.answered_late(fetch, answer.is_some(), now, router);
            return Vec::new();
        };
        let count = ask.wanted.len();
        let mut outcomes = Vec::with_capacity(count);
        let mut came = false;
        let answers = split_answer(answer, count);
        for (wanted, answer) in ask.wanted.into_iter().zip(answers) {
            let asks = self
                .pending
                .get_mut(&wanted)
                .map(|pending| &mut pending.asks);
            let Some((asks, at)) = asks.and_then(|asks| {
                let at = asks.iter().position(|&other| other == fetch)?;
                Some((asks, at))
            }) else {
                continue;
            };
            asks.swap_remove(at);
            let is_last = asks.is_empty();
            let (id, lsn) = wanted;
            let page = answer.and_then(|bytes| read_page(&bytes, id, lsn, page_bytes));
            match page {
                Ok(page) if !contradicts(&page, lsn) => {
                    came = true;
                    let open = self.pending[&wanted].open;
                    outcomes.push(Outcome::Arrived {
                        page: Arc::new(page),
                        lsn,
                        open,
                        waiters: self.finish(wanted),
                    });
                }
                Err(Refused::Forgotten(oldest)) => {
                    came = true;
                    let pending = self.pending.get_mut(&wanted).expect("it was looked at");
                    if !pending.forgotten.iter().any(|&(said, _)| said == ask.link) {
                        pending.forgotten.push((ask.link, oldest));
                    }
                    if let Some(oldest) = pending.forgotten_by_enough() {
                        outcomes.push(Outcome::Failed {
                            error: FetchError::Forgotten { lsn, oldest },
                            waiters: self.finish(wanted),
                        });
                    } else if is_last {
                        self.ready.push_back(wanted);
                    }
                }
                page => {
                    let failure = match page {
                        Err(Refused::Other(failure)) => failure,
                        Err(Refused::Forgotten(_)) => unreachable!("taken above"),
                        Ok(page) => Failure::Corrupt(format!(
                            "page LSN {} at read point {lsn} contradicts what the writer knows",
                            page.lsn()
                        )),
                    };
                    let pending = self.pending.get_mut(&wanted).expect("it was looked at");
                    pending.failure = failure;
                    if is_last {
                        self.ready.push_back(wanted);
                    }
                }
            }
        }
        if !came {
            router.failed(ask.link);
        } else if count <= PAGES_PER_PATIENCE {
            router.answered(ask.link, now.saturating_sub(ask.sent));
        } else {
            router.answers(ask.link);
        }
        outcomes
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
                overdue.push(ask.wanted.clone());
                // A segment that is stopped never answers: this is all that is heard of it for long.
                segments.router.failed(ask.link);
            }
            ask.overdue_at
                .into_iter()
                .for_each(|at| self.due.sooner(at));
        }
        for group in overdue {
            let asked = self.asked_count;
            self.ask(group, now, segments, actions);
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
            let over = pending
                .waiters
                .extract_if(.., |&mut (_, deadline)| deadline <= now);
            for (waiter, _) in over.collect::<Vec<_>>() {
                expired.push((pending.overdue_error(page, lsn), waiter));
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

    /// Pages asked for, and how many of them as hedges.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.asked_count, self.hedged_count)
    }
}

/// Nobody waits any more for one of this request's pages. One for which nobody waits at all makes room among those that
/// count.
fn set_aside(
    fetch: FetchKey,
    asks: &mut BTreeMap<FetchKey, Ask>,
    late: &mut BTreeMap<FetchKey, Late>,
) {
    // The request that was just answered is gone already.
    let Some(ask) = asks.get_mut(&fetch) else {
        return;
    };
    ask.waited_count -= 1;
    if ask.waited_count > 0 {
        return;
    }
    let Ask { link, sent, .. } = asks.remove(&fetch).expect("it was just there");
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

#[derive(Clone)]
enum Refused {
    Forgotten(Lsn),
    Other(Failure),
}

/// The answer for each of `count` pages.
fn split_answer(answer: Option<Message>, count: usize) -> Vec<Result<Bytes, Refused>> {
    let refused = |reason: String| Refused::Other(Failure::Refused(reason));
    let failed = match answer {
        None => refused("no answer".to_owned()),
        Some(Message::Refused(refusal)) => refused(format!("{refusal:?}")),
        Some(Message::Pages(Pages { pages })) if pages.len() == count => {
            let one = |answer| match answer {
                PageAnswer::Page(bytes) => Ok(bytes),
                PageAnswer::Refused(Refusal::Forgotten { horizon }) => {
                    Err(Refused::Forgotten(horizon))
                }
                PageAnswer::Refused(refusal) => Err(refused(format!("{refusal:?}"))),
            };
            return pages.into_iter().map(one).collect();
        }
        Some(Message::Pages(Pages { pages })) => {
            refused(format!("{} pages, {count} asked for", pages.len()))
        }
        Some(_) => refused("an answer of another kind".to_owned()),
    };
    vec![Err(failed); count]
}

/// The page of an answer, verified: checksum, structure, id, and not newer than the read point.
fn read_page(bytes: &[u8], id: PageId, lsn: Lsn, page_bytes: usize) -> Result<Page, Refused> {
    let corrupt = |reason: String| Refused::Other(Failure::Corrupt(reason));
    let page = Page::decode(bytes, id, page_bytes).map_err(|error| corrupt(error.to_string()))?;
    if page.lsn() > lsn {
        return Err(corrupt(format!(
            "page LSN {} is above the read point {lsn}",
            page.lsn()
        )));
    }
    Ok(page)
}
