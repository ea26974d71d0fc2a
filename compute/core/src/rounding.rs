//! Past read points: the consistency point at or below an LSN (R29).
//!
//! ```text
//! above what the writer opened at   -> a bit for each LSN it minted, the newest of them
//! in an annulled range              -> where the range begins or ends
//! else                              -> the log at the segments, batch by batch downwards, until an MTR ends
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sixfold_log_format::wire::{LogPiece, Message, ReadLog, Refusal};
use sixfold_log_format::{Batch, History, Lsn, PgId, VolumeId};

use crate::due::Due;
use crate::event::{FetchKey, FetchTicket, RoundError, WriterAction};
use crate::fetch::{Fetches, Segments};
use crate::shipper::LinkIndex;

/// Words of 64 LSNs whose MTRs are remembered: 16 million LSNs in 2 MiB.
const WORDS_MAX: usize = 1 << 18;
/// LSNs that are looked for at the segments at the same time.
const WALKS_MAX: usize = 64;
/// Protection groups that are asked at the same time for one LSN.
const GROUPS_MAX: usize = 16;
/// A segment that has not answered by then is passed over.
const PATIENCE: Duration = Duration::from_millis(250);
/// Segments of a group that must say that the log is forgotten: one alone may have lost more than others.
const FORGOTTEN_COUNT: usize = 3;
/// Before the segments are asked again after none had it.
const PAUSE: Duration = Duration::from_millis(50);

/// Which of the LSNs minted lately end an MTR.
#[derive(Debug)]
pub(crate) struct RecentPoints {
    /// The consistency point just below `first`, while that is the one at which the volume opened.
    base: Option<Lsn>,
    /// The LSN of the first bit.
    first: Lsn,
    words: VecDeque<u64>,
}

impl RecentPoints {
    /// The volume opened at `base`.
    pub(crate) fn new(base: Lsn) -> RecentPoints {
        RecentPoints {
            base: Some(base),
            first: base.next(),
            words: VecDeque::new(),
        }
    }

    /// An MTR was minted that ends at `cpl`, above all others.
    pub(crate) fn minted(&mut self, cpl: Lsn) {
        let (word, bit) = self.place(cpl);
        while self.words.len() <= word {
            self.words.push_back(0);
        }
        self.words[word] |= 1 << bit;
        while self.words.len() > WORDS_MAX {
            self.words.pop_front();
            self.first = self.first.plus(64);
            self.base = None;
        }
    }

    /// The end of an MTR at or below `lsn`, or the base; `None` when it is not remembered.
    pub(crate) fn round_down(&self, lsn: Lsn) -> Option<Lsn> {
        if lsn < self.first {
            return self.base.filter(|&base| base == lsn);
        }
        let (word, bit) = self.place(lsn);
        let mut mask = u64::MAX >> (63 - bit);
        for at in (0..=word).rev() {
            let ends = self.words.get(at).copied().unwrap_or(0) & mask;
            if ends != 0 {
                let highest = 63 - u64::from(ends.leading_zeros());
                return Some(self.first.plus(at as u64 * 64 + highest));
            }
            mask = u64::MAX;
        }
        self.base
    }

    fn place(&self, lsn: Lsn) -> (usize, u64) {
        let offset = lsn.since(self.first);
        let word = usize::try_from(offset / 64).expect("LSNs above VDL are bounded by the LAL");
        (word, offset % 64)
    }
}

/// An LSN that is looked for at the segments.
#[derive(Debug)]
struct Walk {
    ticket: FetchTicket,
    lsn: Lsn,
    /// The record that is looked at: everything above it, up to `lsn`, is within one MTR.
    at: Lsn,
    deadline: Duration,
    /// Requests in flight.
    asks: Vec<FetchKey>,
    /// The first group that was not asked for `at` in this round.
    next_group: usize,
    tried: Vec<LinkIndex>,
    /// Who has forgotten `at`, each once, and the oldest point that it still has.
    forgotten: Vec<(PgId, LinkIndex, Lsn)>,
    /// When to go on: what is asked is passed over then, or a pause is over.
    wake_at: Duration,
    reason: String,
}

/// All LSNs that are looked for at the segments.
#[derive(Debug)]
pub(crate) struct Rounding {
    volume: VolumeId,
    history: History,
    walks: BTreeMap<FetchTicket, Walk>,
    asks: BTreeMap<FetchKey, Ask>,
    due: Due,
}

/// A request in flight.
#[derive(Debug, Clone, Copy)]
struct Ask {
    ticket: FetchTicket,
    pg: PgId,
    link: LinkIndex,
}

/// What an answer tells of a walk.
enum Told {
    Found(Lsn),
    /// The MTR begins at or below this one.
    Below(Lsn),
    Nothing(String),
    Forgotten(Lsn),
}

impl Rounding {
    pub(crate) fn new(volume: VolumeId, history: History) -> Rounding {
        Rounding {
            volume,
            history,
            walks: BTreeMap::new(),
            asks: BTreeMap::new(),
            due: Due::default(),
        }
    }

    /// The volume was opened again by this very writer.
    pub(crate) fn reopened(&mut self, history: History) {
        self.history = history;
    }

    /// The point of an LSN that lies in an annulled range.
    pub(crate) fn in_history(&self, lsn: Lsn) -> Option<Lsn> {
        let range = self.history.range_of(lsn)?;
        Some(if lsn == range.through {
            lsn
        } else {
            range.after
        })
    }

    /// Where the volume's log begins: nothing can be read at or below it.
    pub(crate) fn beginning(&self) -> Lsn {
        let first = self.history.ranges.first();
        let unborn = first.filter(|range| range.after.is_none());
        unborn.map_or(self.history.floor, |range| range.through)
    }

    /// Looks for an LSN at the segments; false when too many are looked for.
    #[must_use]
    pub(crate) fn begin(&mut self, ticket: FetchTicket, lsn: Lsn, deadline: Duration) -> bool {
        if self.walks.len() >= WALKS_MAX {
            return false;
        }
        let walk = Walk {
            ticket,
            lsn,
            at: lsn,
            deadline,
            asks: Vec::new(),
            next_group: 0,
            tried: Vec::new(),
            forgotten: Vec::new(),
            wake_at: Duration::ZERO,
            reason: "no segment answered".to_owned(),
        };
        self.walks.insert(ticket, walk);
        self.due.sooner(Duration::ZERO);
        true
    }

    /// Whether a request is one of these.
    pub(crate) fn owns(&self, fetch: FetchKey) -> bool {
        self.asks.contains_key(&fetch)
    }

    /// A request was answered, or failed (`None`). The result, when there is one.
    pub(crate) fn answered(
        &mut self,
        fetch: FetchKey,
        answer: Option<Message>,
    ) -> Option<(FetchTicket, Result<Lsn, RoundError>)> {
        let Ask { ticket, pg, link } = self.asks.remove(&fetch)?;
        let walk = self.walks.get_mut(&ticket)?;
        walk.asks.retain(|&other| other != fetch);
        let told = read_answer(answer, self.volume, walk.at, &self.history);
        match told {
            Told::Found(point) => return self.end(ticket, Ok(point)),
            Told::Forgotten(oldest) => {
                walk.tried.push(link);
                walk.reason = format!("forgotten, the oldest point is {oldest}");
                if let Some(oldest) = walk.forgot(pg, link, oldest) {
                    let lsn = walk.lsn;
                    return self.end(ticket, Err(RoundError::Forgotten { lsn, oldest }));
                }
            }
            Told::Below(at) => {
                walk.at = at;
                walk.next_group = 0;
                walk.tried.clear();
                walk.forgotten.clear();
                for other in std::mem::take(&mut walk.asks) {
                    self.asks.remove(&other);
                }
            }
            Told::Nothing(reason) => {
                walk.tried.push(link);
                walk.reason = reason;
            }
        }
        if walk.asks.is_empty() {
            walk.wake_at = Duration::ZERO;
            self.due.sooner(Duration::ZERO);
        }
        None
    }

    fn end(
        &mut self,
        ticket: FetchTicket,
        result: Result<Lsn, RoundError>,
    ) -> Option<(FetchTicket, Result<Lsn, RoundError>)> {
        let walk = self.walks.remove(&ticket)?;
        for fetch in walk.asks {
            self.asks.remove(&fetch);
        }
        Some((ticket, result))
    }

    /// Asks for what is to be asked, passes over who does not answer, and gives up what is past its deadline.
    /// `group_last`: each group's last LSN at or below VDL.
    pub(crate) fn on_due(
        &mut self,
        now: Duration,
        group_last: &[(PgId, Lsn)],
        fetches: &mut Fetches,
        segments: &mut Segments<'_>,
        actions: &mut VecDeque<WriterAction>,
    ) -> Vec<(FetchTicket, RoundError)> {
        if !self.due.is_due(now) {
            return Vec::new();
        }
        self.due.clear();
        let mut over = Vec::new();
        for walk in self.walks.values_mut() {
            if walk.deadline <= now {
                let (lsn, reason) = (walk.lsn, std::mem::take(&mut walk.reason));
                over.push((walk.ticket, RoundError::Unavailable { lsn, reason }));
                continue;
            }
            if walk.wake_at <= now {
                for fetch in std::mem::take(&mut walk.asks) {
                    let passed = self.asks.remove(&fetch);
                    walk.tried.extend(passed.map(|ask| ask.link));
                }
                walk.ask(now, group_last, fetches, segments, &mut self.asks, actions);
            }
            self.due.sooner(walk.wake_at.min(walk.deadline));
        }
        for (ticket, _) in &over {
            let _ended = self.end(*ticket, Ok(Lsn::NONE));
        }
        over
    }

    /// Takes out everything: the writer ends.
    pub(crate) fn take_all(&mut self) -> Vec<(FetchTicket, Lsn)> {
        self.asks.clear();
        self.due.clear();
        let walks = std::mem::take(&mut self.walks);
        walks
            .into_values()
            .map(|walk| (walk.ticket, walk.lsn))
            .collect()
    }

    /// When to look again.
    pub(crate) fn due(&self) -> Due {
        self.due
    }
}

impl Walk {
    /// A segment has forgotten the record that is looked at. The oldest point that is left, once enough of its group say so.
    fn forgot(&mut self, pg: PgId, link: LinkIndex, oldest: Lsn) -> Option<Lsn> {
        self.forgotten.retain(|&(_, other, _)| other != link);
        self.forgotten.push((pg, link, oldest));
        let of_group = self.forgotten.iter().filter(|(other, ..)| *other == pg);
        let enough = of_group.clone().count() >= FORGOTTEN_COUNT;
        let oldest = of_group.map(|&(.., oldest)| oldest).min();
        oldest.filter(|_| enough)
    }

    /// Asks the next groups, or pauses when no segment of any is left.
    fn ask(
        &mut self,
        now: Duration,
        group_last: &[(PgId, Lsn)],
        fetches: &mut Fetches,
        segments: &mut Segments<'_>,
        asks: &mut BTreeMap<FetchKey, Ask>,
        actions: &mut VecDeque<WriterAction>,
    ) {
        // Another segment of the same groups when these did not have it, since one may lag.
        for _ in 0..=group_last.len().div_ceil(GROUPS_MAX) {
            let groups = group_last.iter().skip(self.next_group).take(GROUPS_MAX);
            for &(pg, last) in groups {
                let tried = &self.tried;
                let chosen =
                    segments
                        .router
                        .choose(segments.links, self.at.min(last), |index, link| {
                            link.pg == pg && !tried.contains(&index)
                        });
                let Some(link) = chosen else { continue };
                let fetch = fetches.next_key();
                let ticket = self.ticket;
                asks.insert(fetch, Ask { ticket, pg, link });
                self.asks.push(fetch);
                let target = &segments.links[link];
                let message = Message::ReadLog(ReadLog {
                    segment: target.segment,
                    history_epoch: segments.history_epoch,
                    after: self.at.checked_minus(1).unwrap_or(Lsn::NONE),
                    through: self.at,
                    bytes_max: 1,
                });
                actions.push_back(WriterAction::Ask {
                    fetch,
                    node: target.node,
                    message,
                });
            }
            self.next_group += GROUPS_MAX;
            if self.next_group >= group_last.len() {
                self.next_group = 0;
            }
            if !self.asks.is_empty() {
                self.wake_at = now + PATIENCE;
                return;
            }
        }
        self.tried.clear();
        self.wake_at = now + PAUSE;
    }
}

/// What the batches of an answer tell of the record at `at`.
fn read_answer(answer: Option<Message>, volume: VolumeId, at: Lsn, history: &History) -> Told {
    let batches = match answer {
        None => return Told::Nothing("no answer".to_owned()),
        Some(Message::Refused(Refusal::Forgotten { horizon })) => return Told::Forgotten(horizon),
        Some(Message::Refused(refusal)) => return Told::Nothing(format!("{refusal:?}")),
        Some(Message::LogPiece(LogPiece { batches, .. })) => batches,
        Some(_) => return Told::Nothing("an answer of another kind".to_owned()),
    };
    for bytes in batches {
        let batch = match Batch::decode(bytes, volume) {
            Ok(batch) => batch,
            Err(error) => return Told::Nothing(error.to_string()),
        };
        let below = batch
            .records()
            .map(|placed| (placed.record.lsn, placed.record.is_cpl()));
        let below: Vec<(Lsn, bool)> = below.take_while(|&(lsn, _)| lsn <= at).collect();
        let mut next = at;
        for &(lsn, is_cpl) in below.iter().rev() {
            if lsn != next {
                break;
            }
            if is_cpl {
                return Told::Found(lsn);
            }
            next = lsn.checked_minus(1).unwrap_or(Lsn::NONE);
            if next.is_none() || history.annuls(next) {
                // The MTR is the first one behind a reopening: its range's end is a consistency point (R1).
                return Told::Found(next);
            }
        }
        if next < at {
            return Told::Below(next);
        }
    }
    Told::Nothing(format!("no segment holds the record at {at}"))
}
