//! Phase four: bringing a write quorum of every PG to its last valid LSN (R9).
//!
//! Only segments that hold the new history count, ask or are asked. A target reads what it lacks from one segment at a
//! time, through this machine. It pulls the least: as many laggards as the quorum needs, the nearest ones first.
//!
//! ```text
//! Idle --a source is left--> Reading --batches--> Filling --taken--> Reading or, when the source has no more, Idle
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::limits::FRAME_BYTES_MAX;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::LogPiece;
use sixfold_log_format::{Batch, BatchHeader, History, Lsn, PgEntry, PgId, SegmentId, VolumeId};

use super::requests::{ANSWER_WAIT, Ask};
use crate::membership::deciding;
use crate::quorum::is_write_quorum_of_all;

/// How much a read of a source asks for: with its framing it fits a frame.
pub(super) const READ_BYTES: u32 = 960 << 10;
/// Bytes of a refill message that are not batches, at most: tag, ids, and a length for each batch.
const REFILL_FRAMING_BYTES: usize = 256;
const BATCH_FRAMING_BYTES: usize = 16;
/// How long a target rests after it, or all of its sources, failed.
const REST: Duration = Duration::from_millis(50);
/// For how long a group that is whole enough to open is refilled further, so that a change of its quorum model has not to be taken back.
const UNNEEDED_GRACE: Duration = Duration::from_secs(1);
/// Most times that the patience for a lost holder doubles.
const PATIENCE_DOUBLINGS_MAX: u32 = 6;

/// A request of the refill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RefillRequest {
    Read {
        source: SegmentId,
        after: Lsn,
        through: Lsn,
    },
    Fill {
        batches: Vec<Bytes>,
    },
}

#[derive(Debug)]
enum TargetState {
    Idle,
    Reading {
        source: SegmentId,
    },
    /// Front of `chunks` is being sent; `last` of each is the highest LSN in it.
    Filling {
        source: SegmentId,
        chunks: VecDeque<Vec<Bytes>>,
        more: bool,
    },
}

#[derive(Debug)]
struct Target {
    state: TargetState,
    /// What was read and passed on already, behind holes too.
    read_through: Lsn,
    /// Sources that brought no progress since the last.
    tried: Vec<SegmentId>,
    rests_until: Option<Duration>,
    /// When every source had been asked in vain.
    toured_at: Option<Duration>,
}

/// A PG that is refilled.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) entry: PgEntry,
    /// Its last valid LSN.
    pub(super) last: Lsn,
    /// Who may be asked and filled.
    pub(super) members: Vec<SegmentId>,
    /// Every one of them has to be whole, not only a write quorum: it is re-formed from its survivors (R19).
    pub(super) needs_all: bool,
}

impl Group {
    /// Whether those for which `holds` is true are enough.
    fn is_enough(&self, holds: &dyn Fn(SegmentId) -> bool) -> bool {
        self.is_enough_for(&deciding(&self.entry), holds)
    }

    /// Whether they are enough also for a set that members join, which decides nothing yet.
    fn is_plenty(&self, holds: &dyn Fn(SegmentId) -> bool) -> bool {
        self.is_enough_for(&self.entry, holds)
    }

    fn is_enough_for(&self, entry: &PgEntry, holds: &dyn Fn(SegmentId) -> bool) -> bool {
        if self.needs_all {
            return self.members.iter().all(|&segment| holds(segment));
        }
        is_write_quorum_of_all(entry, &holds)
    }
}

/// The refill of all PGs.
#[derive(Debug)]
pub(super) struct RefillStep {
    volume: VolumeId,
    history: History,
    groups: Vec<Group>,
    /// Segments that hold the new history, with their SCL under it.
    scls: BTreeMap<SegmentId, Lsn>,
    /// The highest LSN that the census saw at a segment, behind holes too: where to look first for what no SCL covers.
    highest_held: BTreeMap<SegmentId, Lsn>,
    targets: BTreeMap<SegmentId, Target>,
    progress_at: Duration,
    patience: Duration,
    batch_count: u64,
    /// Since when every group is whole enough to open.
    enough_at: Option<Duration>,
}

impl RefillStep {
    /// `restart_count` says how often a lost holder made this recovery start over: each time it is waited for longer.
    pub(super) fn new(
        now: Duration,
        volume: VolumeId,
        history: History,
        groups: Vec<Group>,
        highest_held: BTreeMap<SegmentId, Lsn>,
        restart_count: u32,
    ) -> RefillStep {
        RefillStep {
            volume,
            history,
            groups,
            scls: BTreeMap::new(),
            highest_held,
            targets: BTreeMap::new(),
            progress_at: now,
            patience: ANSWER_WAIT * (1 << restart_count.min(PATIENCE_DOUBLINGS_MAX)),
            batch_count: 0,
            enough_at: None,
        }
    }

    /// A segment holds the new history and this SCL under it.
    pub(super) fn installed(&mut self, now: Duration, segment: SegmentId, scl: Lsn) {
        let before = self.scls.insert(segment, scl);
        if before.is_none_or(|before| scl > before) {
            self.progress_at = now;
        }
        if before.is_none() {
            // A new source: whoever ran out of them may look again.
            for target in self.targets.values_mut() {
                target.rests_until = None;
            }
        }
    }

    pub(super) fn scls(&self) -> &BTreeMap<SegmentId, Lsn> {
        &self.scls
    }

    pub(super) fn batch_count(&self) -> u64 {
        self.batch_count
    }

    /// Whether a segment counts: history `e` (or it would not be here) and exactly the PG's last valid LSN.
    pub(super) fn is_whole(&self, pg: PgId, segment: SegmentId) -> bool {
        let group = self.groups.iter().find(|group| group.entry.pg == pg);
        group.is_some_and(|group| self.scls.get(&segment) == Some(&group.last))
    }

    /// Whether history and manifest are durable on a write quorum of every PG.
    pub(super) fn is_installed(&self) -> bool {
        let holds = |segment| self.scls.contains_key(&segment);
        if planted(Mutant::InstallOnOne) {
            return !self.scls.is_empty();
        }
        self.groups.iter().all(|group| group.is_enough(&holds))
    }

    /// Whether a write quorum of every PG is whole, of every set of it, or of those that decide for long enough.
    pub(super) fn is_done(&mut self, now: Duration) -> bool {
        if planted(Mutant::InstallOnOne) {
            return self.is_installed();
        }
        if !self.is_enough() {
            self.enough_at = None;
            return false;
        }
        let at = *self.enough_at.get_or_insert(now);
        at + UNNEEDED_GRACE <= now || self.groups.iter().all(|group| self.has_plenty(group))
    }

    /// Whether a write quorum of every set that decides is whole.
    fn is_enough(&self) -> bool {
        let is_enough = |group: &Group| group.is_enough(&|segment| self.is_at_end(group, segment));
        self.groups.iter().all(is_enough)
    }

    fn has_plenty(&self, group: &Group) -> bool {
        group.is_plenty(&|segment| self.is_at_end(group, segment))
    }

    fn is_at_end(&self, group: &Group, segment: SegmentId) -> bool {
        self.scls.get(&segment) == Some(&group.last)
    }

    /// Whether a write quorum of every set of a group is whole.
    pub(super) fn is_plenty(&self, pg: PgId) -> bool {
        let mut groups = self.groups.iter();
        let group = groups.find(|group| group.entry.pg == pg);
        group.is_some_and(|group| self.has_plenty(group))
    }

    /// Starts what can be started: laggards that the quorums need and that have a source left.
    pub(super) fn start(&mut self, now: Duration) {
        for (target, pg) in self.active(now) {
            let source = self.next_source(target, pg);
            let scl = self.scls[&target];
            let entry = self.targets.entry(target).or_insert_with(|| Target {
                state: TargetState::Idle,
                read_through: scl,
                tried: Vec::new(),
                rests_until: None,
                toured_at: None,
            });
            if !matches!(entry.state, TargetState::Idle) {
                continue;
            }
            match source {
                Some(source) => {
                    entry.read_through = scl;
                    entry.rests_until = None;
                    entry.state = TargetState::Reading { source };
                }
                None => {
                    entry.tried.clear();
                    entry.rests_until = Some(now + REST);
                    entry.toured_at = Some(now);
                }
            }
        }
    }

    /// What the targets wait for.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Ask> + '_ {
        self.targets
            .iter()
            .filter_map(|(&segment, target)| match target.state {
                TargetState::Idle => None,
                TargetState::Reading { .. } => Some(Ask::ReadLog(segment)),
                TargetState::Filling { .. } => Some(Ask::Refill(segment)),
            })
    }

    /// Laggards that the quorums need, nearest first.
    fn active(&self, now: Duration) -> Vec<(SegmentId, PgId)> {
        let mut active = Vec::new();
        for group in self.groups.iter().filter(|group| !self.has_plenty(group)) {
            let rests = |segment: &SegmentId| {
                let target = self.targets.get(segment);
                target
                    .and_then(|target| target.rests_until)
                    .is_some_and(|until| until > now)
            };
            let lags =
                |segment: &&SegmentId| self.scls.get(*segment).is_some_and(|&scl| scl < group.last);
            let mut laggards: Vec<_> = group
                .members
                .iter()
                .filter(lags)
                .filter(|segment| !rests(segment))
                .copied()
                .collect();
            laggards.sort_by_key(|segment| std::cmp::Reverse(self.scls[segment]));
            let enough = (0..laggards.len()).find(|&count| {
                let chosen = &laggards[..count];
                group.is_plenty(&|segment| {
                    chosen.contains(&segment) || self.is_at_end(group, segment)
                })
            });
            laggards.truncate(enough.unwrap_or(laggards.len()));
            active.extend(
                laggards
                    .into_iter()
                    .map(|segment| (segment, group.entry.pg)),
            );
        }
        active
    }

    /// Whom to ask for what `target` lacks: whoever holds most of the chain, then whoever holds most behind holes.
    fn next_source(&self, target: SegmentId, pg: PgId) -> Option<SegmentId> {
        let group = self.groups.iter().find(|group| group.entry.pg == pg)?;
        let tried = self
            .targets
            .get(&target)
            .map_or(&[][..], |target| &target.tried[..]);
        let usable = |segment: &&SegmentId| {
            **segment != target && !tried.contains(segment) && self.scls.contains_key(*segment)
        };
        let worth = |segment: &&SegmentId| {
            let held = self
                .highest_held
                .get(*segment)
                .copied()
                .unwrap_or(Lsn::NONE);
            (self.scls[*segment], held)
        };
        group
            .members
            .iter()
            .filter(usable)
            .max_by_key(worth)
            .copied()
    }

    /// What a target is waiting for now.
    pub(super) fn request(&self, target: SegmentId) -> Option<RefillRequest> {
        let group = self
            .groups
            .iter()
            .find(|group| group.members.contains(&target))?;
        let entry = self.targets.get(&target)?;
        match &entry.state {
            TargetState::Idle => None,
            TargetState::Reading { source } => Some(RefillRequest::Read {
                source: *source,
                after: entry.read_through,
                through: group.last,
            }),
            TargetState::Filling { chunks, .. } => Some(RefillRequest::Fill {
                batches: chunks.front().cloned().unwrap_or_default(),
            }),
        }
    }

    /// A source answered.
    pub(super) fn piece(&mut self, target: SegmentId, piece: &LogPiece) {
        let Some(group) = self
            .groups
            .iter()
            .find(|group| group.members.contains(&target))
        else {
            return;
        };
        let Some(entry) = self.targets.get_mut(&target) else {
            return;
        };
        let TargetState::Reading { source } = entry.state else {
            return;
        };
        let mut wanted = Vec::new();
        let mut more = piece.more;
        let read_before = entry.read_through;
        for bytes in &piece.batches {
            // A source that sends what does not verify is not asked again for this.
            let Ok(batch) = Batch::decode(bytes.clone(), self.volume) else {
                more = false;
                break;
            };
            let header = batch.header();
            if header.pg != group.entry.pg || header.last <= entry.read_through {
                continue;
            }
            entry.read_through = header.last;
            if holds_valid(header, &self.history) {
                wanted.push(bytes.clone());
            }
        }
        more &= entry.read_through > read_before && entry.read_through < group.last;
        let chunks = chunks(wanted);
        if !chunks.is_empty() {
            entry.state = TargetState::Filling {
                source,
                chunks,
                more,
            };
        } else if !more {
            entry.give_up_source(source);
        }
    }

    /// The target took a chunk.
    pub(super) fn filled(&mut self, now: Duration, target: SegmentId, scl: Lsn) {
        let before = self.scls.get(&target).copied().unwrap_or(Lsn::NONE);
        self.installed(now, target, scl);
        let Some(group) = self
            .groups
            .iter()
            .find(|group| group.members.contains(&target))
        else {
            return;
        };
        let Some(entry) = self.targets.get_mut(&target) else {
            return;
        };
        let TargetState::Filling {
            source,
            chunks,
            more,
        } = &mut entry.state
        else {
            return;
        };
        let taken = chunks.pop_front().map_or(0, |chunk| chunk.len());
        self.batch_count += u64::try_from(taken).expect("a chunk is small");
        if scl > before {
            entry.tried.clear();
        }
        let (source, more, chunks_left) = (*source, *more, !chunks.is_empty());
        if scl >= group.last {
            entry.state = TargetState::Idle;
        } else if !chunks_left && more {
            entry.read_through = entry.read_through.max(scl);
            entry.state = TargetState::Reading { source };
        } else if !chunks_left {
            entry.give_up_source(source);
        }
    }

    /// The source that `target` reads cannot answer.
    pub(super) fn source_failed(&mut self, target: SegmentId) {
        if let Some(entry) = self.targets.get_mut(&target)
            && let TargetState::Reading { source } = entry.state
        {
            entry.give_up_source(source);
        }
    }

    /// The target itself cannot take batches now.
    pub(super) fn target_failed(&mut self, now: Duration, target: SegmentId) {
        if let Some(entry) = self.targets.get_mut(&target) {
            entry.state = TargetState::Idle;
            entry.rests_until = Some(now + REST);
        }
    }

    /// Whether a record's only holder must be taken for lost (R9): a quorum is ready to take it, every source was asked
    /// in vain, and for a while nothing has moved.
    pub(super) fn is_starved(&self, now: Duration) -> bool {
        let busy = self
            .targets
            .values()
            .any(|target| !matches!(target.state, TargetState::Idle));
        let toured = self
            .targets
            .values()
            .any(|target| target.toured_at.is_some_and(|at| at >= self.progress_at));
        !busy && toured && self.is_installed() && !self.is_enough() && self.starves_at() <= now
    }

    fn starves_at(&self) -> Duration {
        self.progress_at + self.patience
    }

    pub(super) fn next_timeout(&self, now: Duration) -> Option<Duration> {
        if !self.is_installed() || self.groups.iter().all(|group| self.has_plenty(group)) {
            return None;
        }
        let rests = self
            .targets
            .values()
            .filter_map(|target| target.rests_until);
        rests
            .chain([self.starves_at()])
            .chain(self.enough_at.map(|at| at + UNNEEDED_GRACE))
            .filter(|&at| at > now)
            .min()
    }
}

impl Target {
    fn give_up_source(&mut self, source: SegmentId) {
        self.tried.push(source);
        self.state = TargetState::Idle;
    }
}

/// Whether any record of a batch stays valid.
fn holds_valid(header: &BatchHeader, history: &History) -> bool {
    let run_is_valid = |&(start, end): &(Lsn, Lsn)| {
        start < end
            && history
                .range_of(start)
                .is_none_or(|range| range.through.next() < end)
    };
    header.runs.iter().any(run_is_valid)
}

/// Batches in chunks that fit a frame each.
fn chunks(batches: Vec<Bytes>) -> VecDeque<Vec<Bytes>> {
    let mut chunks: VecDeque<Vec<Bytes>> = VecDeque::new();
    let mut room_bytes = 0;
    for batch in batches {
        let need_bytes = batch.len() + BATCH_FRAMING_BYTES;
        match chunks.back_mut() {
            Some(chunk) if need_bytes <= room_bytes => {
                chunk.push(batch);
                room_bytes -= need_bytes;
            }
            _ => {
                chunks.push_back(vec![batch]);
                room_bytes = (FRAME_BYTES_MAX - REFILL_FRAMING_BYTES).saturating_sub(need_bytes);
            }
        }
    }
    chunks
}
