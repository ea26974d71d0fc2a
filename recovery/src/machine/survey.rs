//! A read-only opening (R23): where a volume can be read without claiming anything.
//!
//! It disturbs nobody and needs nobody: a writer may be alive beside it, or too few segments for a writer be left. It serves one point:
//! everything that was answered before it began, nothing later.
//!
//! ```text
//! Look:   three of every PG say what they hold          -> the cut, as a reopening computes it: the point P
//! Settle: three of every PG, asked again, hold all of P -> open at P
//!           somebody holds a newer history or manifest: Look again
//! ```
//!
//! Why twice. While a writer is alive the answers of one round are of different moments: the highest VDL that one segment names
//! may stand above records of another PG that its segments did not have yet when they answered. Nothing at or below P is minted
//! after the first round, so the second one, asked when P stands, tells each PG's last LSN at or below it.
//!
//! Why three that hold all of P. A later fence meets three in at least one segment, so its cut is not below P. What only one
//! segment held when it was counted is held by three before anybody reads it. This machine refills nobody, since a reader has no
//! power to write: the segments gossip, and it asks until they have. Segments that hold an older history count for nothing, and
//! joining ones neither (R20).
//!
//! A claim above the highest history that was seen may belong to a fence that was complete before: then a history may exist unseen,
//! and P may hold what it annuls. Such a point is *unsettled*; what was answered is in it all the same.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{self, Census, Message, Probe, Refusal};
use sixfold_log_format::{
    History, Lsn, Manifest, NodeId, PgEntry, PgId, SegmentId, VolumeEpoch, VolumeId,
};

use super::fence::find;
use super::loss::Loss;
use super::pieces::{Assembled, Pieces};
use super::probe::ProbeStep;
use super::requests::{Ask, Requests};
use super::{Caller, RecoveryError, RecoveryEvent, RequestKey};
use crate::cut::{CutError, cut, last_at_or_below};
use crate::quorum::{is_read_quorum, is_read_quorum_of_all, read_count};

/// How long a claim above the history is watched before the point is said to be unsettled: a reopening that is under way
/// is over by then, and the next look finds its history.
const UNSETTLED_WAIT: Duration = Duration::from_millis(300);

/// What to survey.
#[derive(Debug, Clone)]
pub struct SurveyOptions {
    /// The volume.
    pub volume: VolumeId,
    /// The nodes to ask first; the manifest found then says which count.
    pub nodes: Vec<NodeId>,
    /// How long to try, from the start.
    pub deadline: Duration,
}

/// What a survey does. It takes [`RecoveryEvent`]s.
#[derive(Debug)]
pub enum SurveyAction {
    /// Sends a request on a stream of its own; its answers may be several.
    Send {
        /// Comes back with the answer.
        request: RequestKey,
        /// To whom.
        node: NodeId,
        /// What.
        message: Message,
    },
    /// It is over.
    Done(Box<Result<Surveyed, SurveyError>>),
}

/// A volume that may be read at one point.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// The point: everything that was answered before the survey began is at or below it, and three of every PG hold it.
    pub lsn: Lsn,
    /// False when a history may exist that nobody told of: what was answered is at or below the point for ever, but what was
    /// never answered may vanish from it (R23).
    pub settled: bool,
    /// The history to read under.
    pub history: History,
    /// The manifest.
    pub manifest: Manifest,
    /// `T` of reads (R26): each PG's last LSN at or below the point, or the point where that is not known.
    pub pg_last: Vec<(PgId, Lsn)>,
    /// SCLs that segments told under that history.
    pub scls: Vec<(SegmentId, Lsn)>,
}

/// Why a volume cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SurveyError {
    /// No node knows the volume.
    #[error("volume {volume} does not exist on the nodes asked")]
    NoVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// Too few segments answered in time.
    #[error(
        "{answered} of {needed} segments of protection group {pg} that a reader needs answered in time"
    )]
    Unavailable {
        /// The group.
        pg: PgId,
        /// How many did.
        answered: usize,
        /// How many must.
        needed: usize,
    },
    /// Enough answered, and too few of them came to hold what others of them hold.
    #[error(
        "fewer than {needed} segments of protection group {pg} came to hold everything up to LSN {lsn} in time"
    )]
    Behind {
        /// The group.
        pg: PgId,
        /// What they lack, or a part of it.
        lsn: Lsn,
        /// How many must hold it.
        needed: usize,
    },
    /// A reopening broke off between its claims and its opening, and no reader can tell what it decided.
    #[error(
        "a reopening at volume epoch {volume_epoch} broke off: open the volume for writing, which settles it"
    )]
    Undecided {
        /// Its epoch, or that of a later one.
        volume_epoch: VolumeEpoch,
    },
    /// The answers contradict each other.
    #[error("corrupt: {0}")]
    Corrupt(#[from] CutError),
}

/// The point that a look found.
#[derive(Debug)]
struct Point {
    lsn: Lsn,
    history: History,
    manifest: Manifest,
    /// What a segment of a PG must hold.
    last: BTreeMap<PgId, Lsn>,
    unsettled_since: Option<Duration>,
}

/// One survey.
#[derive(Debug)]
pub struct Survey {
    volume: VolumeId,
    deadline_at: Duration,
    probe: ProbeStep,
    requests: Requests,
    pieces: Pieces,
    /// Answers to what was asked in this round, the latest of each segment.
    round: BTreeMap<SegmentId, Census>,
    /// `None` while looking.
    point: Option<Point>,
    over: bool,
    actions: VecDeque<SurveyAction>,
    now: Duration,
}

impl Survey {
    /// Starts. `now` is the time since an arbitrary start of the clock that every later call uses.
    pub fn new(options: &SurveyOptions, now: Duration) -> Survey {
        let mut survey = Survey {
            volume: options.volume,
            deadline_at: now + options.deadline,
            probe: ProbeStep::new(options.volume, &options.nodes, None, Loss::default()),
            requests: Requests::default(),
            pieces: Pieces::default(),
            round: BTreeMap::new(),
            point: None,
            over: false,
            actions: VecDeque::new(),
            now,
        };
        survey.drive(now);
        survey
    }

    /// Takes an event. Late and double answers are ignored.
    pub fn handle(&mut self, now: Duration, event: RecoveryEvent) {
        match event {
            RecoveryEvent::Answer { request, message } => {
                if let Some(ask) = self.requests.ask_of(request) {
                    self.answered(now, request, ask, message);
                }
            }
            RecoveryEvent::Unreachable { request } => {
                if let Some(ask) = self.requests.ask_of(request) {
                    self.requests.rest(ask, now);
                }
            }
            RecoveryEvent::Timeout => {}
        }
        self.drive(now);
    }

    /// The next action, until there is none.
    pub fn poll_action(&mut self) -> Option<SurveyAction> {
        self.actions.pop_front()
    }

    /// When [`RecoveryEvent::Timeout`] is due next, if ever.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.over {
            return None;
        }
        let unsettled = self.point.as_ref().and_then(|point| point.unsettled_since);
        let dues = [
            Some(self.deadline_at),
            self.requests.next_timeout(),
            self.probe.next_timeout(self.now, &Caller::Stranger),
            unsettled.map(|since| since + UNSETTLED_WAIT),
        ];
        dues.into_iter().flatten().filter(|&at| at > self.now).min()
    }

    fn answered(&mut self, now: Duration, key: RequestKey, ask: Ask, message: Message) {
        match (ask, message) {
            (Ask::Probe(node), Message::ProbeAnswer(answer)) => {
                self.requests.finish(ask);
                self.probe.answered(now, node, answer);
            }
            (Ask::Survey(segment), Message::Census(piece)) if self.is_sensible(segment, &piece) => {
                match self.pieces.add(key, segment, *piece) {
                    Assembled::More => self.requests.touch(ask, now),
                    Assembled::Whole(census) => {
                        // Which groups there are only the root tells (R10).
                        if is_of_root(&census) {
                            self.probe.learn(&census.manifest);
                        }
                        if let Some(point) = &mut self.point {
                            point.learn(&census);
                        }
                        self.round.insert(segment, *census);
                        // While looking it is not wanted any more; while settling it is asked again.
                        self.requests.rest(ask, now);
                    }
                    Assembled::TooLong => self.requests.rest(ask, now),
                }
            }
            (_, Message::Refused(Refusal::StaleMembership { manifest })) => {
                self.probe.learn(&manifest);
                self.requests.rest(ask, now);
            }
            _ => self.requests.rest(ask, now),
        }
    }

    fn is_sensible(&self, segment: SegmentId, census: &Census) -> bool {
        census.segment == segment
            && census.manifest.volume == self.volume
            && !census.manifest.pgs.is_empty()
    }

    fn drive(&mut self, now: Duration) {
        self.now = now;
        self.requests.expire(now);
        while !self.over && self.advance(now) {}
        if !self.over && now >= self.deadline_at {
            self.finish(Err(self.shortfall()));
        }
        if !self.over {
            self.want();
            self.send(now);
        }
    }

    /// One step forward; false when there is nothing to conclude now.
    fn advance(&mut self, now: Duration) -> bool {
        let Some(manifest) = self.probe.manifest() else {
            if self.probe.is_nowhere(now) {
                let volume = self.volume;
                self.finish(Err(SurveyError::NoVolume { volume }));
            }
            return false;
        };
        let Some(point) = &self.point else {
            let answered = |segment: SegmentId| self.round.contains_key(&segment);
            let enough = manifest
                .pgs
                .iter()
                .all(|entry| is_read_quorum_of_all(entry, &answered));
            if enough {
                let answers = answers(manifest, &self.round);
                self.look(&answers);
            }
            return enough;
        };
        let seen = point.history.volume_epoch;
        let newer = |census: &Census| census.history.volume_epoch > seen;
        if manifest.version > point.manifest.version || self.round.values().any(newer) {
            self.point = None;
            self.begin_round();
            return true;
        }
        self.settle(now);
        false
    }

    /// Finds the point.
    fn look(&mut self, answers: &[(PgId, Census)]) {
        match cut(answers) {
            Err(error) => self.finish(Err(error.into())),
            Ok(found) => {
                self.point = Some(Point {
                    lsn: found.vdl,
                    history: found.history,
                    manifest: found.manifest,
                    last: found.pg_last.into_iter().collect(),
                    unsettled_since: None,
                });
                if !planted(Mutant::SurveyOneRound) {
                    self.begin_round();
                }
            }
        }
    }

    fn begin_round(&mut self) {
        self.requests.clear();
        self.pieces.clear();
        self.round.clear();
    }

    /// Opens when three of every PG hold all of the point.
    fn settle(&mut self, now: Duration) {
        let point = self.point.as_mut().expect("the caller looked at it");
        let whole = |entry: &PgEntry| {
            is_read_quorum_of_all(entry, &|segment| {
                point.is_held(entry.pg, self.round.get(&segment))
            })
        };
        if !point.manifest.pgs.iter().all(whole) {
            point.unsettled_since = None;
            return;
        }
        let highest_claim = self.round.values().map(|census| census.volume_epoch).max();
        let settled = highest_claim <= Some(point.history.volume_epoch);
        if !settled && *point.unsettled_since.get_or_insert(now) + UNSETTLED_WAIT > now {
            return;
        }
        let surveyed = Surveyed {
            lsn: point.lsn,
            settled,
            history: point.history.clone(),
            manifest: point.manifest.clone(),
            pg_last: point.last.iter().map(|(&pg, &last)| (pg, last)).collect(),
            scls: point.scls(&self.round),
        };
        self.finish(Ok(surveyed));
    }

    fn finish(&mut self, result: Result<Surveyed, SurveyError>) {
        self.requests.clear();
        self.over = true;
        self.actions.push_back(SurveyAction::Done(Box::new(result)));
    }

    fn want(&mut self) {
        for node in self.probe.wanted() {
            self.requests.want(Ask::Probe(node));
        }
        let Some(manifest) = self.probe.manifest() else {
            return;
        };
        for member in manifest
            .pgs
            .iter()
            .flat_map(|entry| Loss::default().asked(entry))
        {
            let ask = Ask::Survey(member.segment);
            if self.point.is_some() || !self.round.contains_key(&member.segment) {
                self.requests.want(ask);
            } else {
                self.requests.finish(ask);
            }
        }
    }

    fn send(&mut self, now: Duration) {
        for ask in self.requests.due(now) {
            let request = match ask {
                Ask::Probe(node) => {
                    let volume = self.volume;
                    Some((node, Message::Probe(Probe { volume })))
                }
                Ask::Survey(segment) => self
                    .probe
                    .manifest()
                    .and_then(|manifest| find(manifest, segment))
                    .map(|(_, member)| (member.node, Message::Survey(wire::Survey { segment }))),
                _ => None,
            };
            let Some((node, message)) = request else {
                self.requests.finish(ask);
                continue;
            };
            let request = self.requests.sent(ask, now);
            self.actions.push_back(SurveyAction::Send {
                request,
                node,
                message,
            });
        }
    }

    /// What was missing when the time was over.
    fn shortfall(&self) -> SurveyError {
        let Some(manifest) = self.probe.manifest() else {
            let (answered, needed) = match self.probe.shortfall() {
                RecoveryError::Unavailable {
                    answered, needed, ..
                } => (answered, needed),
                _ => (0, 0),
            };
            let pg = PgId::ROOT;
            return SurveyError::Unavailable {
                pg,
                answered,
                needed,
            };
        };
        let answered = |_: PgId, segment: SegmentId| self.round.contains_key(&segment);
        if let Some((pg, answered, needed)) = short(manifest, &answered) {
            return SurveyError::Unavailable {
                pg,
                answered,
                needed,
            };
        }
        let unknown = SurveyError::Unavailable {
            pg: PgId::ROOT,
            answered: 0,
            needed: 0,
        };
        let Some(point) = &self.point else {
            return unknown;
        };
        let seen = point.history.volume_epoch;
        let stuck =
            |census: &&Census| census.history.volume_epoch < seen && census.volume_epoch > seen;
        if let Some(stuck) = self.round.values().find(stuck) {
            let volume_epoch = stuck.volume_epoch;
            return SurveyError::Undecided { volume_epoch };
        }
        let held = |pg, segment| point.is_held(pg, self.round.get(&segment));
        match short(manifest, &held) {
            Some((pg, _, needed)) => SurveyError::Behind {
                pg,
                lsn: point.last_of(pg),
                needed,
            },
            None => unknown,
        }
    }
}

impl Point {
    /// What a segment of this PG must hold.
    fn last_of(&self, pg: PgId) -> Lsn {
        self.last.get(&pg).copied().unwrap_or(self.lsn)
    }

    fn is_held(&self, pg: PgId, census: Option<&Census>) -> bool {
        census.is_some_and(|census| {
            census.history.volume_epoch == self.history.volume_epoch
                && census.scl >= self.last_of(pg)
        })
    }

    /// Takes up what an answer tells of its PG's last LSN at or below the point.
    fn learn(&mut self, census: &Census) {
        let of_history = census.history.volume_epoch == self.history.volume_epoch;
        let Some((pg, _)) = find(&self.manifest, census.segment).filter(|_| of_history) else {
            return;
        };
        let told = if census.last_valid > self.lsn {
            // It holds records behind the point, and does not say which is its last before it.
            self.lsn
        } else {
            let answer = [(pg, census.clone())];
            let lasts = last_at_or_below(self.lsn, &answer, &self.history, &self.manifest);
            let of_pg = lasts.into_iter().find(|&(known, _)| known == pg);
            of_pg.map_or(Lsn::NONE, |(_, last)| last)
        };
        let last = self.last.entry(pg).or_insert(Lsn::NONE);
        *last = told.max(*last);
    }

    fn scls(&self, round: &BTreeMap<SegmentId, Census>) -> Vec<(SegmentId, Lsn)> {
        let of_history =
            |census: &&Census| census.history.volume_epoch == self.history.volume_epoch;
        round
            .values()
            .filter(of_history)
            .map(|census| (census.segment, census.scl))
            .collect()
    }
}

fn is_of_root(census: &Census) -> bool {
    find(&census.manifest, census.segment).is_some_and(|(pg, _)| pg == PgId::ROOT)
}

/// The answers of a manifest's members, with their PGs.
fn answers(manifest: &Manifest, round: &BTreeMap<SegmentId, Census>) -> Vec<(PgId, Census)> {
    round
        .values()
        .filter_map(|census| Some((find(manifest, census.segment)?.0, census.clone())))
        .collect()
}

/// The first PG without a read quorum of segments that `holds`, how many do, and how many must.
fn short(
    manifest: &Manifest,
    holds: &dyn Fn(PgId, SegmentId) -> bool,
) -> Option<(PgId, usize, usize)> {
    manifest.pgs.iter().find_map(|entry| {
        let held = |segment| holds(entry.pg, segment);
        let set = entry.sets.iter().find(|set| !is_read_quorum(set, &held))?;
        let count = set
            .members
            .iter()
            .filter(|member| !member.joining && held(member.segment))
            .count();
        Some((entry.pg, count, read_count(set.model)))
    })
}
