//! A standby's watch over the writer: when is it gone?
//!
//! It asks the nodes how long ago each of their segments heard its writer. Nobody's wall clock is looked at: a node counts the silence by
//! its own clock, and only that all clocks run at about the same rate is relied on.
//!
//! The writer counts as gone when a read quorum of every set of the root PG says that it has been silent for the patience. A
//! writer that can still write is heard by a write quorum, which leaves too few others: no standby that sees only a part of the
//! nodes ever disturbs it. Even then the volume is opened as one that nobody writes: the same is asked again, with the patience as
//! the limit of *in use* (T11), and whoever claimed or opened since what was seen is left alone ([`Caller::Standby`]): of two
//! standbys the slower one finds the faster one, and goes back to watching.
//!
//! [`Caller::Standby`]: super::Caller::Standby
//!
//! ```text
//! Watching --a read quorum of the root has not heard the writer--> Gone, the shell opens the volume
//!     ^                                                                |
//!     +------- stands back: a drawn pause that grows (no storm) -------+ somebody was faster, or too few nodes answer
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{Message, Probe, ProbeAnswer};
use sixfold_log_format::{
    Manifest, NodeId, PgEntry, PgId, SegmentId, VolumeEpoch, VolumeId, WriterId,
};

use super::draw::Draw;
use super::{RecoveryEvent, RequestKey};
use crate::quorum::is_read_quorum_of_all;

/// An answer is waited for so long; then the node is asked again.
const ANSWER_WAIT: Duration = Duration::from_millis(500);
/// What an answer says of a silence is believed for so long: the writer may have been heard since.
const FRESH: Duration = Duration::from_millis(500);
/// Two rounds of questions are at least so far apart.
const ROUND_MIN: Duration = Duration::from_millis(5);
/// Most times that the time to stand back doubles.
const DOUBLINGS_MAX: u32 = 8;

/// How to watch.
#[derive(Debug, Clone)]
pub struct FollowOptions {
    /// The volume.
    pub volume: VolumeId,
    /// The nodes to ask; the manifest found then names more.
    pub nodes: Vec<NodeId>,
    /// For how long the writer must have been silent.
    pub patience: Duration,
    /// The longest time between two rounds of questions.
    pub poll: Duration,
    /// About how long to stand back after the first race that was lost; it doubles with each further one.
    pub hold_down: Duration,
    /// The longest time to stand back.
    pub hold_down_max: Duration,
    /// Seeds what is drawn; two standbys have two.
    pub seed: u64,
}

/// What a watch does. It takes [`RecoveryEvent`]s.
#[derive(Debug)]
pub enum FollowAction {
    /// Asks a node.
    Send {
        /// Comes back with the answer.
        request: RequestKey,
        /// To whom.
        node: NodeId,
        /// What.
        message: Message,
    },
    /// The writer is gone: open the volume, then say [`Follow::stand_back`] if that failed. Nothing is asked until then.
    Gone {
        /// For how long it has been silent, as the segments say that decided.
        silent: Duration,
    },
}

/// What a segment said last.
#[derive(Debug, Clone, Copy)]
struct Word {
    /// When the question was sent: it was true then or later.
    at: Duration,
    /// The silence at that time.
    silent: Duration,
    /// Since when it says that it heard no writer at all; for how long before is not known.
    none_since: Option<Duration>,
}

/// A node that is asked.
#[derive(Debug, Default)]
struct Asked {
    in_flight: Option<(RequestKey, Duration)>,
}

/// A watch.
#[derive(Debug)]
pub struct Follow {
    options: FollowOptions,
    draw: Draw,
    nodes: BTreeMap<NodeId, Asked>,
    manifest: Option<Manifest>,
    words: BTreeMap<SegmentId, Word>,
    /// The highest claim or history that any segment ever told of.
    volume_epoch: VolumeEpoch,
    last_key: u64,
    asked_at: Option<Duration>,
    next_round: Duration,
    /// Before this nothing is concluded.
    not_before: Duration,
    lost_count: u32,
    lost_at: Duration,
    /// The writer was declared gone: the shell is opening.
    opening: bool,
    actions: VecDeque<FollowAction>,
}

impl Follow {
    /// Starts to watch. `now` is the time since an arbitrary start of the clock that every later call uses.
    pub fn new(options: FollowOptions, now: Duration) -> Follow {
        let nodes = options.nodes.iter().map(|&node| (node, Asked::default()));
        let mut follow = Follow {
            draw: Draw::new(options.seed, WriterId::NOBODY),
            nodes: nodes.collect(),
            manifest: None,
            words: BTreeMap::new(),
            volume_epoch: VolumeEpoch::CREATION,
            last_key: 0,
            asked_at: None,
            next_round: now,
            not_before: now,
            lost_count: 0,
            lost_at: now,
            opening: false,
            actions: VecDeque::new(),
            options,
        };
        follow.drive(now);
        follow
    }

    /// Takes an event. Late and double answers are ignored.
    pub fn handle(&mut self, now: Duration, event: RecoveryEvent) {
        match event {
            RecoveryEvent::Answer { request, message } => {
                let Some((node, sent)) = self.finish(request) else {
                    return;
                };
                if let Message::ProbeAnswer(answer) = message {
                    self.answered(now, node, sent, &answer);
                }
            }
            RecoveryEvent::Unreachable { request } => {
                self.finish(request);
            }
            RecoveryEvent::Timeout => {}
        }
        self.drive(now);
    }

    /// The next action, until there is none.
    pub fn poll_action(&mut self) -> Option<FollowAction> {
        self.actions.pop_front()
    }

    /// When [`RecoveryEvent::Timeout`] is due next, if ever.
    pub fn poll_timeout(&self) -> Option<Duration> {
        (!self.opening).then_some(self.next_round)
    }

    /// The volume did not open after [`FollowAction::Gone`], or was lost again soon: watches on, and concludes nothing for a while
    /// that is drawn, and longer each time.
    pub fn stand_back(&mut self, now: Duration) {
        let calm = self.options.hold_down_max * 4;
        if now.saturating_sub(self.lost_at) > calm {
            self.lost_count = 0;
        }
        let doubled = self.options.hold_down * (1 << self.lost_count.min(DOUBLINGS_MAX));
        let span = doubled.min(self.options.hold_down_max);
        self.lost_count = self.lost_count.saturating_add(1);
        self.lost_at = now;
        self.not_before = now + span / 2 + self.draw.below(span / 2);
        self.opening = false;
        self.next_round = now + ROUND_MIN;
        // What was known was not enough to go by.
        self.words.clear();
    }

    /// Concludes nothing before `at`.
    pub fn hold_until(&mut self, at: Duration) {
        self.not_before = self.not_before.max(at);
    }

    /// The highest claim or history that any segment told of: what is above it when the volume is opened is a rival's.
    pub fn volume_epoch(&self) -> VolumeEpoch {
        self.volume_epoch
    }

    /// Until when nothing is concluded.
    pub fn stands_back_until(&self) -> Duration {
        self.not_before
    }

    fn finish(&mut self, request: RequestKey) -> Option<(NodeId, Duration)> {
        let (node, asked) = self
            .nodes
            .iter_mut()
            .find(|(_, asked)| matches!(asked.in_flight, Some((key, _)) if key == request))?;
        let (_, sent) = asked.in_flight.take()?;
        Some((*node, sent))
    }

    fn answered(&mut self, now: Duration, node: NodeId, sent: Duration, answer: &ProbeAnswer) {
        if let Some(manifest) = &answer.manifest {
            self.learn(manifest);
        }
        for probe in &answer.segments {
            let told = probe.claim.max(probe.history_epoch);
            self.volume_epoch = self.volume_epoch.max(told);
            let before = self.words.get(&probe.segment);
            let (silent, none_since) = match probe.writer_heard_ms_ago {
                Some(ms) => (Duration::from_millis(u64::from(ms)), None),
                None => {
                    let since = before.and_then(|word| word.none_since).unwrap_or(now);
                    (sent.saturating_sub(since), Some(since))
                }
            };
            let word = Word {
                at: sent,
                silent,
                none_since,
            };
            self.words.insert(probe.segment, word);
        }
        self.nodes.entry(node).or_default();
    }

    fn learn(&mut self, manifest: &Manifest) {
        let known = self.manifest.as_ref();
        let newer = known.is_none_or(|known| manifest.version > known.version);
        if manifest.volume != self.options.volume || !newer {
            return;
        }
        for member in manifest.pgs.iter().flat_map(PgEntry::members) {
            self.nodes.entry(member.node).or_default();
        }
        self.manifest = Some(manifest.clone());
    }

    fn drive(&mut self, now: Duration) {
        if self.opening {
            return;
        }
        if now >= self.not_before
            && let Some(silent) = self.silence(now)
        {
            self.opening = true;
            self.actions.push_back(FollowAction::Gone { silent });
            return;
        }
        if now >= self.next_round {
            self.ask(now);
        }
        self.next_round = self.round_after(now);
    }

    /// For how long the writer has been silent, when enough say so of just now.
    fn silence(&self, now: Duration) -> Option<Duration> {
        let root = self.manifest.as_ref()?.pg(PgId::ROOT)?;
        let mut patience = self.options.patience;
        if planted(Mutant::StandbyImpatient) {
            patience /= 2;
        }
        if planted(Mutant::StandbyDrowsy) {
            patience *= 5;
        }
        let is_fresh =
            |word: &Word| now.saturating_sub(word.at) <= FRESH || planted(Mutant::StandbyStaleWord);
        let is_silent = |segment| {
            self.words
                .get(&segment)
                .is_some_and(|word| word.silent >= patience && is_fresh(word))
        };
        if !is_read_quorum_of_all(root, &is_silent) {
            return None;
        }
        let silences = root
            .members()
            .into_iter()
            .map(|member| member.segment)
            .filter(|&segment| is_silent(segment));
        silences.map(|segment| self.words[&segment].silent).min()
    }

    fn ask(&mut self, now: Duration) {
        self.asked_at = Some(now);
        let volume = self.options.volume;
        for (&node, asked) in &mut self.nodes {
            let waits = asked
                .in_flight
                .is_some_and(|(_, sent)| now.saturating_sub(sent) < ANSWER_WAIT);
            if waits {
                continue;
            }
            self.last_key += 1;
            let request = RequestKey(self.last_key);
            asked.in_flight = Some((request, now));
            self.actions.push_back(FollowAction::Send {
                request,
                node,
                message: Message::Probe(Probe { volume }),
            });
        }
    }

    /// When to ask again: after the longest pause, or sooner, when enough segments will have heard nothing for the patience if
    /// they have heard nothing since.
    fn round_after(&self, now: Duration) -> Duration {
        let Some(asked_at) = self.asked_at else {
            return now;
        };
        let soonest = asked_at + ROUND_MIN;
        let latest = asked_at + self.options.poll.max(ROUND_MIN);
        let gone_at = self.gone_at(now).map(|at| at.max(self.not_before));
        gone_at.map_or(latest, |at| at.clamp(soonest, latest))
    }

    /// When the writer will be gone if it is not heard again.
    fn gone_at(&self, now: Duration) -> Option<Duration> {
        let root = self.manifest.as_ref()?.pg(PgId::ROOT)?;
        let old = FRESH + self.options.poll;
        let at_of = |segment: SegmentId| {
            let word = self.words.get(&segment)?;
            // Whoever does not answer any more is asked no sooner for what it said long ago.
            if now.saturating_sub(word.at) > old {
                return None;
            }
            Some(word.at + self.options.patience.saturating_sub(word.silent))
        };
        let mut times: Vec<Duration> = root
            .members()
            .iter()
            .filter_map(|member| at_of(member.segment))
            .collect();
        times.sort_unstable();
        times.into_iter().find(|&time| {
            is_read_quorum_of_all(root, &|segment| at_of(segment).is_some_and(|at| at <= time))
        })
    }
}
