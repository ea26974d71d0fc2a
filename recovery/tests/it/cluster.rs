//! Six segments in memory, with the real guard, history and batches, and a virtual clock that drives recoveries
//! against them. One request takes one millisecond each way unless a test says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sixfold_log_format::wire::{
    Census, CensusRun, Claim, Install, Installed, LogPiece, Message, ProbeAnswer, ReadLog, Refill,
    Refusal, SegmentProbe,
};
use sixfold_log_format::{Batch, History, Lsn, Manifest, PgId, SegmentId, VolumeEpoch, WriterId};
use sixfold_recovery::epoch::{EpochGuard, Stale};
use sixfold_recovery::machine::{
    Caller, Opened, Phase, Recovery, RecoveryAction, RecoveryError, RecoveryEvent, RecoveryOptions,
    RequestKey,
};

use crate::common::{batch_of, epoch, lsn, manifest, ms, node, segment, volume, writer};

/// One segment on a node of its own.
#[derive(Debug, Clone)]
pub struct FakeSegment {
    pub id: SegmentId,
    pub pg: PgId,
    pub guard: EpochGuard,
    pub history: History,
    pub manifest: Manifest,
    pub batches: Vec<Batch>,
    /// The highest VDL that an opened writer told it, by attaching or by heartbeat.
    pub floor: Lsn,
    pub heard_ms_ago: Option<u32>,
    pub lease_left_ms: u32,
    pub up: bool,
    /// Whether the node knows the volume at all.
    pub exists: bool,
    /// Runs in a piece of a census.
    pub census_piece_runs: usize,
    pub written_batches: usize,
}

fn stale(stale: Stale) -> Message {
    Message::Refused(Refusal::StaleEpoch {
        volume_epoch: stale.claim,
    })
}

impl FakeSegment {
    pub fn new(number: u8, manifest: Manifest) -> FakeSegment {
        let (id, pg) = (segment(number), PgId::new(u32::from(number) / 6));
        FakeSegment {
            id,
            pg,
            guard: EpochGuard::creation(),
            history: History::creation(),
            manifest,
            batches: Vec::new(),
            floor: Lsn::NONE,
            heard_ms_ago: None,
            lease_left_ms: 0,
            up: true,
            exists: true,
            census_piece_runs: 2,
            written_batches: 0,
        }
    }

    /// Stores a batch; the same again is no news.
    pub fn put(&mut self, batch: &Batch) {
        if !self.batches.contains(batch) {
            self.batches.push(batch.clone());
            self.batches
                .sort_by_key(|batch| (batch.header().first, batch.header().volume_epoch));
            self.written_batches += 1;
        }
    }

    fn valid(&self, batch: &Batch) -> Vec<Lsn> {
        batch
            .records()
            .map(|placed| placed.record.lsn)
            .filter(|&lsn| !self.history.annuls(lsn))
            .collect()
    }

    /// Every valid LSN held, behind holes too.
    pub fn all_valid(&self) -> Vec<Lsn> {
        self.batches
            .iter()
            .flat_map(|batch| self.valid(batch))
            .collect()
    }

    /// Follows the back-links from the beginning.
    pub fn scl(&self) -> Lsn {
        let mut scl = Lsn::NONE;
        let follows = |scl: Lsn| {
            let linked = self
                .batches
                .iter()
                .filter(|batch| batch.header().prev == scl);
            linked
                .filter_map(|batch| self.valid(batch).last().copied())
                .find(|&last| last > scl)
        };
        while let Some(last) = follows(scl) {
            scl = last;
        }
        scl
    }

    fn vdl_seen(&self) -> Lsn {
        self.batches
            .iter()
            .map(|batch| batch.header().vdl)
            .max()
            .unwrap_or(Lsn::NONE)
            .max(self.floor)
    }

    fn census(&self, claim: Claim) -> Vec<Message> {
        let vdl_seen = self.vdl_seen();
        let last_valid = self
            .all_valid()
            .into_iter()
            .filter(|&lsn| lsn <= vdl_seen)
            .max()
            .unwrap_or(Lsn::NONE);
        let mut runs: Vec<CensusRun> = Vec::new();
        for batch in &self.batches {
            for &(start, end) in &batch.header().runs {
                let first = start.max(vdl_seen.next());
                if first < end {
                    let last = end.checked_minus(1).unwrap();
                    let cpls = batch
                        .cpls()
                        .filter(|&cpl| cpl >= first && cpl <= last)
                        .collect();
                    runs.push(CensusRun {
                        first,
                        last,
                        volume_epoch: batch.header().volume_epoch,
                        cpls,
                    });
                }
            }
        }
        let head = Census {
            segment: self.id,
            volume_epoch: claim.volume_epoch,
            history: self.history.clone(),
            manifest: self.manifest.clone(),
            scl: self.scl(),
            vdl_seen,
            last_valid,
            lease_left_ms: self.lease_left_ms,
            runs: Vec::new(),
            more: false,
        };
        let mut pieces: Vec<_> = runs
            .chunks(self.census_piece_runs)
            .map(<[CensusRun]>::to_vec)
            .collect();
        if pieces.is_empty() {
            pieces.push(Vec::new());
        }
        let count = pieces.len();
        let census = |(index, runs)| Census {
            runs,
            more: index + 1 < count,
            ..head.clone()
        };
        pieces
            .into_iter()
            .enumerate()
            .map(|piece| Message::Census(Box::new(census(piece))))
            .collect()
    }

    fn installed(&self) -> Message {
        let history_epoch = self.history.volume_epoch;
        Message::Installed(Installed {
            segment: self.id,
            scl: self.scl(),
            history_epoch,
        })
    }

    pub fn take(&mut self, history: &History, manifest: &Manifest) {
        self.history = history.clone();
        self.manifest = manifest.clone();
    }

    fn install(&mut self, install: &Install) -> Message {
        match self.guard.install(install.volume_epoch, install.writer) {
            Err(held) => stale(held),
            Ok(news) => {
                if news || install.manifest.version > self.manifest.version {
                    self.take(&install.history, &install.manifest);
                }
                self.installed()
            }
        }
    }

    /// Takes a higher history from a peer, as gossip does before anything else (R3).
    pub fn gossip_history(&mut self, peer: &FakeSegment) -> bool {
        let taken = self.guard.take_from_peer(peer.history.volume_epoch);
        if taken {
            self.take(&peer.history, &peer.manifest);
        }
        taken
    }

    /// One round of gossip: the higher history, then what a peer of the same history is ahead by.
    pub fn gossip(&mut self, peer: &FakeSegment) {
        if peer.history.volume_epoch > self.history.volume_epoch {
            self.gossip_history(peer);
        }
        let scl = peer.scl();
        if peer.history.volume_epoch == self.history.volume_epoch && scl > self.scl() {
            for batch in peer
                .batches
                .iter()
                .filter(|batch| batch.header().first <= scl)
            {
                self.put(batch);
            }
        }
    }

    fn read_log(&self, read: ReadLog) -> Message {
        if read.history_epoch != self.history.volume_epoch {
            return Message::Refused(Refusal::OtherHistory {
                history_epoch: self.history.volume_epoch,
            });
        }
        let wanted = |batch: &&Batch| {
            batch.header().last > read.after && batch.header().first <= read.through
        };
        let mut batches = Vec::new();
        let mut left = read.bytes_max as usize;
        let mut more = false;
        for batch in self.batches.iter().filter(wanted) {
            if batch.len_bytes() > left && !batches.is_empty() {
                more = true;
                break;
            }
            left = left.saturating_sub(batch.len_bytes());
            batches.push(batch.bytes().clone());
        }
        Message::LogPiece(LogPiece { batches, more })
    }

    fn refill(&mut self, refill: &Refill) -> Message {
        if let Err(held) = self.guard.admit(refill.volume_epoch, refill.writer) {
            return stale(held);
        }
        for bytes in &refill.batches {
            self.put(&Batch::decode(bytes.clone(), volume()).unwrap());
        }
        self.installed()
    }

    /// Answers a request.
    pub fn handle(&mut self, message: &Message) -> Vec<Message> {
        match message {
            Message::Probe(_) if !self.exists => {
                vec![Message::ProbeAnswer(ProbeAnswer {
                    manifest: None,
                    segments: Vec::new(),
                })]
            }
            Message::Probe(_) => {
                let probe = SegmentProbe {
                    segment: self.id,
                    pg: self.pg,
                    claim: self.guard.claim,
                    history_epoch: self.history.volume_epoch,
                    scl: self.scl(),
                    vdl_seen: self.vdl_seen(),
                    writer_heard_ms_ago: self.heard_ms_ago,
                };
                let manifest = Some(Box::new(self.manifest.clone()));
                vec![Message::ProbeAnswer(ProbeAnswer {
                    manifest,
                    segments: vec![probe],
                })]
            }
            Message::Claim(claim) if claim.segment != self.id || !self.exists => {
                vec![Message::Refused(Refusal::UnknownSegment)]
            }
            Message::Claim(claim) => match self.guard.claim(claim.volume_epoch, claim.writer) {
                Ok(()) => {
                    // Whoever was heard is fenced.
                    self.heard_ms_ago = None;
                    self.census(*claim)
                }
                Err(held) => vec![stale(held)],
            },
            Message::Survey(survey) if survey.segment != self.id || !self.exists => {
                vec![Message::Refused(Refusal::UnknownSegment)]
            }
            Message::Survey(survey) => self.census(Claim {
                segment: survey.segment,
                volume_epoch: self.guard.claim,
                writer: self.guard.writer,
            }),
            Message::Install(install) => vec![self.install(install)],
            Message::ReadLog(read) => vec![self.read_log(*read)],
            Message::Refill(refill) => vec![self.refill(refill)],
            other => panic!("a candidate does not send {other:?}"),
        }
    }
}

/// What a hook makes of a request that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Answered,
    /// The segment acts on it, and the answer is lost.
    AnswerLost,
    Unreachable,
    /// Nothing happens, ever.
    Silence,
    /// The candidate that sent it dies, and the request with it.
    CandidateDies,
}

type Hook = Box<dyn FnMut(&mut Vec<FakeSegment>, usize, usize, &Message) -> Fate>;

#[derive(Debug)]
enum Item {
    Request { to: usize, message: Message },
    Answer(Message),
    Unreachable,
}

struct Candidate {
    machine: Recovery,
    result: Option<Result<Opened, RecoveryError>>,
    dead: bool,
}

/// The cluster and the candidates that work on it.
pub struct Cluster {
    pub segments: Vec<FakeSegment>,
    pub now: Duration,
    pub phases: Vec<Phase>,
    pub hook: Hook,
    /// How long a message takes one way: (candidate, segment) to time.
    pub latency: Box<dyn Fn(usize, usize) -> Duration>,
    candidates: Vec<Candidate>,
    wire: BTreeMap<(Duration, u64), (usize, RequestKey, usize, Item)>,
    sequence: u64,
}

pub fn options(by: u8) -> RecoveryOptions {
    RecoveryOptions {
        volume: volume(),
        nodes: (0..6).map(node).collect(),
        writer: writer(by),
        take_over: false,
        in_use: ms(1_000),
        declare_lost: Vec::new(),
        deadline: ms(20_000),
        lease: ms(50),
        seed: 1,
        caller: Caller::Stranger,
    }
}

pub fn take_over(by: u8) -> RecoveryOptions {
    RecoveryOptions {
        take_over: true,
        ..options(by)
    }
}

impl Cluster {
    pub fn new() -> Cluster {
        Cluster::of(&manifest(), 6)
    }

    pub fn of(manifest: &Manifest, count: u8) -> Cluster {
        Cluster {
            segments: (0..count)
                .map(|number| FakeSegment::new(number, manifest.clone()))
                .collect(),
            now: ms(1_000),
            phases: Vec::new(),
            hook: Box::new(|_, _, _, _| Fate::Answered),
            latency: Box::new(|_, _| ms(1)),
            candidates: Vec::new(),
            wire: BTreeMap::new(),
            sequence: 0,
        }
    }

    pub fn only_up(&mut self, mask: u32) {
        for (index, segment) in self.segments.iter_mut().enumerate() {
            segment.up = mask & (1 << index) != 0;
        }
    }

    /// An opened writer connects to these segments: they take its history and learn that its range's end is a VDL.
    pub fn attach(&mut self, opened: &Opened, to: &[usize]) {
        for &index in to {
            let segment = &mut self.segments[index];
            if segment
                .guard
                .install(opened.volume_epoch, opened.writer)
                .unwrap()
            {
                segment.take(&opened.history, &opened.manifest);
            }
            segment.floor = segment.floor.max(opened.history.highest_end());
        }
    }

    /// Appends one batch at these segments; returns how many acknowledge it.
    pub fn append(&mut self, opened: &Opened, batch: &Batch, to: &[usize]) -> usize {
        let admit = |segment: &FakeSegment| {
            segment
                .guard
                .admit(opened.volume_epoch, opened.writer)
                .is_ok()
        };
        let admitted: Vec<usize> = to
            .iter()
            .copied()
            .filter(|&index| admit(&self.segments[index]))
            .collect();
        for &index in &admitted {
            self.segments[index].put(batch);
        }
        admitted.len()
    }

    /// Opens with all phases, and attaches to the segments that are up.
    pub fn open(&mut self, options: RecoveryOptions) -> Opened {
        let opened = self.recover(options).unwrap();
        let up: Vec<usize> = (0..self.segments.len())
            .filter(|&index| self.segments[index].up)
            .collect();
        let installed = |index: &usize| {
            opened
                .scls
                .iter()
                .any(|&(id, _)| id == self.segments[*index].id)
        };
        let up: Vec<usize> = up.into_iter().filter(installed).collect();
        self.attach(&opened, &up);
        opened
    }

    pub fn recover(&mut self, options: RecoveryOptions) -> Result<Opened, RecoveryError> {
        self.start(options);
        self.run();
        let last = self.candidates.len() - 1;
        self.candidates[last]
            .result
            .clone()
            .expect("the candidate was not killed")
    }

    pub fn start(&mut self, options: RecoveryOptions) -> usize {
        let machine = Recovery::new(options, self.now);
        self.candidates.push(Candidate {
            machine,
            result: None,
            dead: false,
        });
        let who = self.candidates.len() - 1;
        self.collect(who);
        who
    }

    /// Epochs whose fence this candidate completed.
    pub fn attempts(&self, who: usize) -> &BTreeSet<VolumeEpoch> {
        self.candidates[who].machine.attempts()
    }

    pub fn result(&self, who: usize) -> Option<&Result<Opened, RecoveryError>> {
        self.candidates[who].result.as_ref()
    }

    /// Runs until every candidate that is not dead has a result.
    pub fn run(&mut self) {
        for _ in 0..200_000 {
            let waiting = |candidate: &&Candidate| candidate.result.is_none() && !candidate.dead;
            if self.candidates.iter().filter(waiting).count() == 0 {
                self.wire.clear();
                return;
            }
            let timers = self
                .candidates
                .iter()
                .enumerate()
                .filter(|(_, candidate)| waiting(candidate));
            let timer = timers
                .filter_map(|(who, candidate)| Some((candidate.machine.poll_timeout()?, who)))
                .min();
            let arrival = self.wire.first_key_value().map(|(&(at, _), _)| at);
            match (arrival, timer) {
                (Some(at), timer) if timer.is_none_or(|(due, _)| at <= due) => self.arrive(),
                (_, Some((due, who))) => {
                    self.now = self.now.max(due);
                    self.tell(who, RecoveryEvent::Timeout);
                }
                _ => panic!("nothing will ever happen"),
            }
        }
        panic!("it does not end");
    }

    fn tell(&mut self, who: usize, event: RecoveryEvent) {
        let now = self.now;
        self.candidates[who].machine.handle(now, event);
        self.collect(who);
    }

    fn collect(&mut self, who: usize) {
        while let Some(action) = self.candidates[who].machine.poll_action() {
            match action {
                RecoveryAction::Send {
                    request,
                    node: to,
                    message,
                } => {
                    let to = (0..self.segments.len())
                        .find(|&index| node(index as u8) == to)
                        .unwrap();
                    self.post(who, request, to, Item::Request { to, message });
                }
                RecoveryAction::Phase(phase) => self.phases.push(phase),
                RecoveryAction::Done(result) => self.candidates[who].result = Some(*result),
            }
        }
    }

    fn post(&mut self, who: usize, request: RequestKey, with: usize, item: Item) {
        self.sequence += 1;
        let at = self.now + (self.latency)(who, with);
        self.wire
            .insert((at, self.sequence), (who, request, with, item));
    }

    fn arrive(&mut self) {
        let ((at, _), (who, request, with, item)) = self.wire.pop_first().unwrap();
        self.now = self.now.max(at);
        if self.candidates[who].dead {
            return;
        }
        match item {
            Item::Request { to, message } => self.request(who, request, to, &message),
            Item::Answer(message) => {
                let _ = with;
                self.tell(who, RecoveryEvent::Answer { request, message });
            }
            Item::Unreachable => self.tell(who, RecoveryEvent::Unreachable { request }),
        }
    }

    fn request(&mut self, who: usize, request: RequestKey, to: usize, message: &Message) {
        let fate = (self.hook)(&mut self.segments, who, to, message);
        if fate == Fate::CandidateDies {
            self.candidates[who].dead = true;
            return;
        }
        if fate == Fate::Silence {
            return;
        }
        if fate == Fate::Unreachable || !self.segments[to].up {
            return self.post(who, request, to, Item::Unreachable);
        }
        let answers = self.segments[to].handle(message);
        if fate == Fate::Answered {
            for answer in answers {
                self.post(who, request, to, Item::Answer(answer));
            }
        }
    }
}

/// A cluster that a first writer opened (epoch 2, base 10) and wrote `numbers` to, a batch each, at the segments that
/// `holders` names for it. Returns the writer too.
pub fn written(numbers: &[u64], holders: impl Fn(u64) -> Vec<usize>) -> (Cluster, Opened) {
    let mut cluster = Cluster::new();
    let opened = cluster.open(options(1));
    assert_eq!((opened.volume_epoch, opened.vdl), (epoch(2), lsn(10)));
    cluster.attach(&opened, &[0, 1, 2, 3, 4, 5]);
    let mut prev = 0;
    for &number in numbers {
        let batch = batch_of(0, 2, prev, &[number], 10, 0);
        cluster.append(&opened, &batch, &holders(number));
        prev = number;
    }
    cluster.phases.clear();
    (cluster, opened)
}

/// Whether a write quorum of PG 0 holds the history of `opened` and exactly its records.
pub fn assert_opened(cluster: &Cluster, opened: &Opened, records: &[u64]) {
    let expected: Vec<Lsn> = records.iter().map(|&number| lsn(number)).collect();
    let last = expected.last().copied().unwrap_or(Lsn::NONE);
    let whole = cluster.segments.iter().filter(|segment| {
        segment.history == opened.history
            && segment.manifest == opened.manifest
            && segment.scl() == last
            && segment.all_valid() == expected
    });
    assert!(whole.count() >= 4, "{:#?}", cluster.segments);
    assert_eq!(opened.pg_last[0].1, last);
    assert_eq!(opened.vdl, opened.history.highest_end());
    assert_ne!(opened.writer, WriterId::NOBODY);
}

pub fn nodes_of(mask: u32) -> Vec<usize> {
    (0..6).filter(|index| mask & (1 << index) != 0).collect()
}
