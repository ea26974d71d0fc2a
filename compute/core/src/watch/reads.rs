//! Log reads of watchers on their way: each part of the log is asked from one segment that covers it, from the next one when that refuses,
//! fails or is overdue, until the deadline. What comes back is not looked into here: that is done on the watcher's thread.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sixfold_log_format::wire::{LogPiece, Message, ReadLog, Refusal};
use sixfold_log_format::{Lsn, SegmentId, VolumeEpoch};

use super::{LogAnswer, LogError, LogWant};
use crate::due::Due;
use crate::event::{FetchKey, FetchTicket, WriterAction};
use crate::link::Link;
use crate::router::Router;
use crate::shipper::LinkIndex;

/// Log reads that wait or are asked, of all watchers; more are refused.
const PENDING_MAX: usize = 1_024;
/// Requests in flight, late ones included.
const ASKS_MAX: usize = 16;
/// What one request asks for.
const PIECE_BYTES: u32 = 1 << 20;
/// A log read is never overdue before this: it moves a megabyte, off the disk if need be.
const OVERDUE_MIN: Duration = Duration::from_millis(100);
/// Before the segments are asked again after all have failed.
const PAUSE: Duration = Duration::from_millis(50);
/// Segments that must say that the log is forgotten, or all that answer: one alone may have lost more than others.
const FORGOTTEN_COUNT: usize = 3;
/// Keys of log reads have this bit, those of page reads have not.
const KEY_BIT: u64 = 1 << 63;

/// What a segment is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// VDL.
    pub(crate) through: Lsn,
    /// The group's last LSN at or below it.
    pub(crate) pg_last: Lsn,
}

/// Where to ask: borrowed from the writer for one call.
pub(crate) struct LogSegments<'a> {
    pub(crate) links: &'a [Link],
    pub(crate) router: &'a mut Router,
    pub(crate) history_epoch: VolumeEpoch,
    /// VDL, and the last LSN at or below it of a want's group.
    pub(crate) bounds_of: &'a dyn Fn(&LogWant) -> Bounds,
}

#[derive(Debug)]
struct Pending {
    want: LogWant,
    deadline: Duration,
    tried: Vec<LinkIndex>,
    asks: Vec<FetchKey>,
    pause_until: Option<Duration>,
    forgotten: Vec<(SegmentId, Lsn)>,
    failure: String,
}

#[derive(Debug)]
struct Ask {
    /// `None` when another segment was faster, or nobody waits any more.
    ticket: Option<FetchTicket>,
    link: LinkIndex,
    bounds: Bounds,
    /// When another segment is asked as well; `None` when it was.
    overdue_at: Option<Duration>,
}

/// All log reads.
#[derive(Debug, Default)]
pub(crate) struct LogReads {
    pending: BTreeMap<FetchTicket, Pending>,
    asks: BTreeMap<FetchKey, Ask>,
    ready: VecDeque<FetchTicket>,
    next_key: u64,
    due: Due,
}

/// An end of a log read.
pub(crate) type Ended = (FetchTicket, Result<LogAnswer, LogError>);

/// Whether the answer to this request is one of a log read.
pub(crate) fn is_log_read(fetch: FetchKey) -> bool {
    fetch.0 & KEY_BIT != 0
}

impl LogReads {
    /// Registers a log read. False when too many wait.
    #[must_use]
    pub(crate) fn request(
        &mut self,
        ticket: FetchTicket,
        want: LogWant,
        deadline: Duration,
    ) -> bool {
        if self.pending.len() >= PENDING_MAX {
            return false;
        }
        self.due.sooner(deadline);
        let pending = Pending {
            want,
            deadline,
            tried: Vec::new(),
            asks: Vec::new(),
            pause_until: None,
            forgotten: Vec::new(),
            failure: "no segment answered".to_owned(),
        };
        let before = self.pending.insert(ticket, pending);
        assert!(before.is_none(), "{ticket:?} waits already");
        self.ready.push_back(ticket);
        true
    }

    /// Asks for what is ready. Returns what cannot be asked for.
    pub(crate) fn ask_ready(
        &mut self,
        now: Duration,
        segments: &mut LogSegments<'_>,
        actions: &mut VecDeque<WriterAction>,
    ) -> Vec<Ended> {
        let mut ended = Vec::new();
        while self.asks.len() < ASKS_MAX {
            let Some(ticket) = self.ready.pop_front() else {
                break;
            };
            ended.extend(self.ask(ticket, now, segments, actions));
        }
        ended
    }

    /// Asks the next segment, or pauses when all were asked.
    fn ask(
        &mut self,
        ticket: FetchTicket,
        now: Duration,
        segments: &mut LogSegments<'_>,
        actions: &mut VecDeque<WriterAction>,
    ) -> Option<Ended> {
        let pending = self.pending.get_mut(&ticket)?;
        let want = &pending.want;
        let bounds = (segments.bounds_of)(want);
        let is_asked = |link: &Link| link.pg == want.pg && link.may_be_asked();
        let useful = |link: &Link| is_asked(link) && !want.avoid.contains(&link.segment);
        let may_ask = |index, link: &Link| useful(link) && !pending.tried.contains(&index);
        let needed = bounds.pg_last.min(bounds.through);
        let Some(link) = segments.router.choose(segments.links, needed, may_ask) else {
            // Those that were removed meanwhile count for nothing.
            let said = |link: &&Link| {
                let forgot = |&(segment, _): &(SegmentId, Lsn)| segment == link.segment;
                pending.forgotten.iter().any(forgot)
            };
            let mut members = segments.links.iter().filter(|link| useful(link));
            let all_forgot = !pending.forgotten.is_empty() && members.all(|link| said(&link));
            if all_forgot || !segments.links.iter().any(useful) {
                return Some(self.end(ticket));
            }
            // Who is still to answer is not asked twice.
            let (asks, open) = (&self.asks, &pending.asks);
            let is_open = |tried: &LinkIndex| open.iter().any(|fetch| asks[fetch].link == *tried);
            pending.tried.retain(is_open);
            pending.pause_until = Some(now + PAUSE);
            self.due.sooner(now + PAUSE);
            return None;
        };
        self.next_key += 1;
        let fetch = FetchKey(self.next_key | KEY_BIT);
        let rounds = u32::try_from(pending.asks.len()).unwrap_or(u32::MAX);
        let patience = segments.router.overdue_after(link).max(OVERDUE_MIN);
        let overdue_at = now + patience.saturating_mul(2_u32.saturating_pow(rounds));
        self.due.sooner(overdue_at);
        pending.tried.push(link);
        pending.asks.push(fetch);
        let target = &segments.links[link];
        let message = Message::ReadLog(ReadLog {
            segment: target.segment,
            history_epoch: segments.history_epoch,
            after: want.after,
            through: bounds.through,
            bytes_max: PIECE_BYTES,
        });
        self.asks.insert(
            fetch,
            Ask {
                ticket: Some(ticket),
                link,
                bounds,
                overdue_at: Some(overdue_at),
            },
        );
        actions.push_back(WriterAction::Ask {
            fetch,
            node: target.node,
            message,
        });
        None
    }

    /// A request was answered, or failed (`None`).
    pub(crate) fn answered(
        &mut self,
        fetch: FetchKey,
        answer: Option<Message>,
        links: &[Link],
        router: &mut Router,
    ) -> Option<Ended> {
        let Ask {
            ticket,
            link,
            bounds,
            ..
        } = self.asks.remove(&fetch)?;
        let ticket = ticket?;
        let pending = self.pending.get_mut(&ticket)?;
        pending.asks.retain(|&other| other != fetch);
        let segment = links[link].segment;
        match read_answer(answer) {
            Ok(piece) => {
                let Pending { want, asks, .. } =
                    self.pending.remove(&ticket).expect("looked up above");
                self.abandon(&asks);
                let answer = LogAnswer {
                    segment,
                    pg: want.pg,
                    after: want.after,
                    through: bounds.through,
                    pg_last: bounds.pg_last,
                    piece,
                };
                return Some((ticket, Ok(answer)));
            }
            Err(Refused::Forgotten(oldest)) => {
                pending.failure = format!("forgotten, the oldest point is {oldest}");
                if !pending.forgotten.iter().any(|&(said, _)| said == segment) {
                    pending.forgotten.push((segment, oldest));
                }
                if pending.forgotten.len() >= FORGOTTEN_COUNT {
                    return Some(self.end(ticket));
                }
            }
            Err(Refused::Other(reason)) => {
                router.failed(link);
                pending.failure = reason;
            }
        }
        // One that is overdue may never answer: it holds the next one back no more.
        let (asks, open) = (&self.asks, &pending.asks);
        if open.iter().all(|fetch| asks[fetch].overdue_at.is_none()) {
            self.ready.push_back(ticket);
        }
        None
    }

    /// What became due: requests that take long, pauses that are over, deadlines.
    pub(crate) fn on_due(
        &mut self,
        now: Duration,
        segments: &mut LogSegments<'_>,
        actions: &mut VecDeque<WriterAction>,
    ) -> Vec<Ended> {
        if !self.due.is_due(now) {
            return Vec::new();
        }
        self.due.clear();
        let late = self.pending.iter().filter(|(_, one)| one.deadline <= now);
        let late: Vec<FetchTicket> = late.map(|(&ticket, _)| ticket).collect();
        let mut ended: Vec<Ended> = late.into_iter().map(|ticket| self.end(ticket)).collect();
        let mut overdue = Vec::new();
        for ask in self.asks.values_mut() {
            if ask.overdue_at.is_some_and(|at| at <= now) {
                ask.overdue_at = None;
                segments.router.failed(ask.link);
                overdue.extend(ask.ticket);
            }
            ask.overdue_at
                .into_iter()
                .for_each(|at| self.due.sooner(at));
        }
        for (&ticket, pending) in &mut self.pending {
            self.due.sooner(pending.deadline);
            match pending.pause_until {
                Some(until) if until <= now => {
                    pending.pause_until = None;
                    self.ready.push_back(ticket);
                }
                Some(until) => self.due.sooner(until),
                None => {}
            }
        }
        for ticket in overdue {
            if self.asks.len() < ASKS_MAX {
                ended.extend(self.ask(ticket, now, segments, actions));
            }
        }
        ended
    }

    /// Takes out everybody who waits: the writer was fenced, or ends.
    pub(crate) fn take_all(&mut self) -> Vec<(FetchTicket, Lsn)> {
        self.asks.clear();
        self.ready.clear();
        self.due.clear();
        let pending = std::mem::take(&mut self.pending).into_iter();
        pending
            .map(|(ticket, pending)| (ticket, pending.want.after))
            .collect()
    }

    /// When to look again.
    pub(crate) fn due(&self) -> Due {
        self.due
    }

    fn end(&mut self, ticket: FetchTicket) -> Ended {
        let pending = self.pending.remove(&ticket).expect("it waits");
        self.abandon(&pending.asks);
        let after = pending.want.after;
        let oldest = pending.forgotten.iter().map(|&(_, oldest)| oldest).min();
        let error = match oldest {
            Some(oldest) => LogError::Forgotten { after, oldest },
            None => LogError::Unavailable {
                after,
                reason: pending.failure,
            },
        };
        (ticket, Err(error))
    }

    /// Nobody waits for these requests any more; they take room until they end, since a stopped segment may owe them for long.
    fn abandon(&mut self, asks: &[FetchKey]) {
        for fetch in asks {
            if let Some(ask) = self.asks.get_mut(fetch) {
                ask.ticket = None;
                ask.overdue_at = None;
            }
        }
    }
}

enum Refused {
    Forgotten(Lsn),
    Other(String),
}

fn read_answer(answer: Option<Message>) -> Result<LogPiece, Refused> {
    match answer {
        Some(Message::LogPiece(piece)) => Ok(piece),
        Some(Message::Refused(Refusal::Forgotten { horizon })) => Err(Refused::Forgotten(horizon)),
        Some(Message::Refused(refusal)) => Err(Refused::Other(refusal.to_string())),
        Some(_) => Err(Refused::Other("a message of another kind".to_owned())),
        None => Err(Refused::Other("no answer".to_owned())),
    }
}
