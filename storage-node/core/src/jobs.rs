//! Jobs: what takes more than one turn. Reads of pages, log and layers for somebody who waits, and the node's own work on layers.
//!
//! A job goes as far as parts are at hand, asks for a bounded amount of them, and goes on when they came and were verified. One with
//! much to do stops now and then and goes on at the next timeout, which is due at once, so that acks do not wait for it; jobs that
//! somebody waits for go first. Jobs and disk reads in flight are bounded. A job whose segment takes another history meanwhile is
//! refused (R3); one whose parts went away meanwhile begins its page again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::layer::LayerNumber;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{Message, Refusal};
use sixfold_log_format::{ApplyError, DecodeError, SegmentId, VolumeEpoch};

use crate::action::{Action, FileName, Severity};
use crate::bounds::{BACKGROUND_STEP_COST, STEP_RECORDS_MAX, TURN_BYTES};
use crate::event::{ConnectionKey, DiskError, DiskToken, StreamKey};
use crate::io_buf::IoBuf;
use crate::layers::cache::LayerPart;
use crate::layers::compose::ComposeError;
use crate::layers::freeze::FreezeWork;
use crate::layers::gather::LayerDamage;
use crate::layers::merge::MergeWork;
use crate::layers::rate::Lanes;
use crate::layers::trim::MoveWork;
use crate::node::NodeCore;
use crate::parts::{Damage, DiskRead, Fetched, Located, Part, reads_of, shown, verify};
use crate::read::{FileWork, LogWork, PagesWork};
use crate::scrub::ScrubWork;

/// For whom a job works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Somebody waits on this stream.
    Stream(ConnectionKey, StreamKey),
    /// The node itself.
    Node,
}

/// A job.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) owner: Owner,
    pub(crate) segment: SegmentId,
    pub(crate) history_epoch: VolumeEpoch,
    /// [`crate::segment::Segment::parts_generation`] when it last looked.
    pub(crate) generation: u64,
    pub(crate) work: Work,
    pub(crate) fetched: Fetched,
    /// Disk operations that are missing.
    pub(crate) waiting: usize,
    pub(crate) damage: Option<Damage>,
}

/// What a job does.
#[derive(Debug)]
pub(crate) enum Work {
    Pages(PagesWork),
    Log(LogWork),
    File(FileWork),
    Freeze(Box<FreezeWork>),
    Merge(Box<MergeWork>),
    Scrub(ScrubWork),
    Move(MoveWork),
}

/// What a job does next.
#[derive(Debug)]
pub(crate) enum Step {
    /// It says this; the flag ends the stream and the job.
    Say(Message, bool),
    /// It reads these.
    Fetch(Vec<Located>),
    /// It goes on later.
    Pause,
}

/// What work on layers does next.
#[derive(Debug)]
pub(crate) enum BackgroundStep {
    /// It reads these.
    Fetch(Vec<Located>),
    /// It goes on later.
    Pause,
    /// It writes.
    Write(LayerNumber, u64, IoBuf),
    /// It syncs.
    Sync(LayerNumber),
    /// Its layers are to be published.
    Publish,
    /// It is over.
    End,
}

/// Why work on layers cannot go on: damage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JobError {
    /// Of a layer that was searched for a page.
    #[error(transparent)]
    Layer(#[from] LayerDamage),
    /// A record does not fit.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A new layer cannot be composed.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// A block with a sound checksum is none.
    #[error(transparent)]
    Block(DecodeError),
}

/// Jobs and what they wait for.
#[derive(Debug)]
pub(crate) struct Jobs {
    pub(crate) jobs: BTreeMap<u64, Job>,
    next_job: u64,
    /// Jobs that go on at the next timeout, those that somebody waits for.
    paused: VecDeque<u64>,
    /// The node's own.
    background: VecDeque<u64>,
    /// The node's own that keep the pace, by when they may go on.
    paced: BTreeMap<(Duration, u64), ()>,
    /// Until when the pace is used up by what they have done.
    pub(crate) pace_used: Lanes<Duration>,
    in_flight: BTreeMap<DiskToken, DiskRead>,
    queue: VecDeque<DiskRead>,
    /// Writes and syncs of layers, by the job that waits.
    writes: BTreeMap<DiskToken, (u64, FileName, usize)>,
    pub(crate) in_flight_max: usize,
    last_token: u64,
    last_write: u64,
}

impl Jobs {
    pub(crate) fn new(in_flight_max: usize) -> Jobs {
        Jobs {
            jobs: BTreeMap::new(),
            next_job: 0,
            paused: VecDeque::new(),
            background: VecDeque::new(),
            paced: BTreeMap::new(),
            pace_used: Lanes::default(),
            in_flight: BTreeMap::new(),
            queue: VecDeque::new(),
            writes: BTreeMap::new(),
            in_flight_max: in_flight_max.max(1),
            last_token: 0,
            last_write: 0,
        }
    }

    /// Tokens go on behind those of a start that was broken off: its reads may end yet.
    pub(crate) fn go_on_behind(&mut self, before: &Jobs) {
        (self.last_token, self.last_write) = (before.last_token, before.last_write);
    }

    /// A token for a read.
    pub(crate) fn next_token(&mut self) -> DiskToken {
        self.last_token += 1;
        DiskToken::read(self.last_token)
    }

    /// A token for an operation on a layer.
    pub(crate) fn next_write_token(&mut self) -> DiskToken {
        self.last_write += 1;
        DiskToken::layer_write(self.last_write)
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn cancel(&mut self, stream: StreamKey) {
        self.jobs
            .retain(|_, job| !matches!(job.owner, Owner::Stream(_, owner) if owner == stream));
        self.forget_gone();
    }

    /// The segment is gone, or its layers were replaced from outside: nothing of it goes on.
    pub(crate) fn cancel_segment(&mut self, segment: SegmentId) -> Vec<Job> {
        let numbers: Vec<u64> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.segment == segment)
            .map(|(number, _)| *number)
            .collect();
        let gone = numbers
            .iter()
            .filter_map(|number| self.jobs.remove(number))
            .collect();
        self.forget_gone();
        gone
    }

    /// The node's own work on a segment does not go on.
    pub(crate) fn cancel_background(&mut self, segment: SegmentId) -> Vec<Job> {
        let numbers: Vec<u64> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.segment == segment && job.owner == Owner::Node)
            .map(|(number, _)| *number)
            .collect();
        let gone = numbers
            .iter()
            .filter_map(|number| self.jobs.remove(number))
            .collect();
        self.forget_gone();
        gone
    }

    fn forget_gone(&mut self) {
        let jobs = &self.jobs;
        self.queue.retain(|read| jobs.contains_key(&read.job));
        self.paused.retain(|job| jobs.contains_key(job));
        self.background.retain(|job| jobs.contains_key(job));
        self.paced.retain(|(_, job), ()| jobs.contains_key(job));
    }

    /// When a job that waits for nothing but its turn goes on.
    pub(crate) fn next_turn(&self, now: Duration) -> Option<Duration> {
        if !self.paused.is_empty() || !self.background.is_empty() {
            return Some(now);
        }
        self.paced.first_key_value().map(|((at, _), ())| *at)
    }

    /// How many jobs somebody waits for; of this connection alone when one is named.
    fn waited_for(&self, connection: Option<ConnectionKey>) -> usize {
        let owners = self.jobs.values().map(|job| job.owner);
        owners
            .filter(|owner| match owner {
                Owner::Stream(of, _) => connection.is_none_or(|connection| connection == *of),
                Owner::Node => false,
            })
            .count()
    }

    /// Bytes that jobs hold, about: those that somebody waits for what they read, the node's own what they make, too.
    pub(crate) fn work_bytes(&self) -> usize {
        let bytes = |job: &Job| match &job.work {
            Work::Freeze(freeze) => freeze.memory_bytes(),
            Work::Merge(merge) => merge.memory_bytes(),
            Work::Pages(_) | Work::Log(_) | Work::File(_) | Work::Scrub(_) | Work::Move(_) => 0,
        };
        let jobs = self.jobs.values();
        jobs.map(|job| bytes(job) + job.fetched.bytes()).sum()
    }

    /// The number of a job, a new one for `None`.
    fn number(&mut self, key: Option<u64>) -> u64 {
        key.unwrap_or_else(|| {
            self.next_job += 1;
            self.next_job
        })
    }

    fn issue(&mut self, actions: &mut VecDeque<Action>) {
        while self.in_flight.len() < self.in_flight_max {
            let Some(read) = self.queue.pop_front() else {
                return;
            };
            let token = self.next_token();
            let (file, offset, bytes) = (read.file, read.offset, read.bytes);
            self.in_flight.insert(token, read);
            actions.push_back(Action::Read {
                token,
                file,
                offset,
                bytes,
            });
        }
    }

    fn pause(&mut self, job: Job, key: Option<u64>) {
        let number = self.number(key);
        match job.owner {
            Owner::Stream(..) => self.paused.push_back(number),
            Owner::Node => self.background.push_back(number),
        }
        self.jobs.insert(number, job);
    }

    fn pause_until(&mut self, at: Duration, job: Job, key: Option<u64>) {
        let number = self.number(key);
        self.paced.insert((at, number), ());
        self.jobs.insert(number, job);
    }
}

impl NodeCore {
    /// Starts a job of the node's own at its next turn.
    pub(crate) fn start_background(&mut self, segment: SegmentId, work: Work) {
        let Some(held) = self.segments.get(&segment) else {
            return;
        };
        let job = Job {
            owner: Owner::Node,
            segment,
            history_epoch: held.history_epoch(),
            generation: held.parts_generation,
            work,
            fetched: Fetched::default(),
            waiting: 0,
            damage: None,
        };
        self.reads.pause(job, None);
    }

    /// Runs a job until it is answered or waits. `key` is `None` for one that never waited.
    pub(crate) fn run_job(&mut self, mut job: Job, key: Option<u64>) {
        self.index_durable();
        match job.owner {
            Owner::Stream(connection, stream) => {
                let mut budget = STEP_RECORDS_MAX;
                loop {
                    let step = match self.foreground_step(&mut job, &mut budget) {
                        Ok(step) => step,
                        Err(refusal) => return self.refuse(stream, refusal),
                    };
                    match step {
                        Step::Say(message, end) => {
                            self.actions.push_back(Action::Send {
                                stream,
                                message,
                                end,
                            });
                            if end {
                                return;
                            }
                        }
                        Step::Fetch(_) | Step::Pause
                            if key.is_none() && !self.admits_job(connection) =>
                        {
                            return self.refuse(stream, Refusal::Overloaded);
                        }
                        Step::Fetch(parts) => return self.fetch(job, key, parts),
                        Step::Pause => return self.reads.pause(job, key),
                    }
                }
            }
            Owner::Node => self.run_background(job, key),
        }
    }

    /// Whether one more job may wait for the disk: one connection takes three quarters of the room at most, so that there is
    /// always some for another.
    fn admits_job(&self, connection: ConnectionKey) -> bool {
        let all = self.reads.in_flight_max;
        let share = (all * 3).div_ceil(4);
        self.reads.waited_for(None) < all && self.reads.waited_for(Some(connection)) < share
    }

    /// The same for a read that answers nothing from memory.
    pub(crate) fn admits_raw(&self, connection: ConnectionKey) -> bool {
        self.admits_job(connection)
    }

    fn foreground_step(&mut self, job: &mut Job, budget: &mut usize) -> Result<Step, Refusal> {
        let segment = self
            .segments
            .get_mut(&job.segment)
            .ok_or(Refusal::UnknownSegment)?;
        let checks = !planted(Mutant::ReadWithoutHistoryCheck);
        if segment.history_epoch() != job.history_epoch && checks {
            let history_epoch = segment.history_epoch();
            return Err(Refusal::OtherHistory { history_epoch });
        }
        if segment.parts_generation != job.generation {
            job.generation = segment.parts_generation;
            job.work.parts_changed();
        }
        let caches = (&mut self.cache, &mut self.layer_cache);
        match &mut job.work {
            Work::Pages(pages) => {
                let fetched = &mut job.fetched;
                let step = pages.step(segment, caches, fetched, budget, &mut self.actions);
                Ok(step)
            }
            Work::Log(log) => log.step(segment, &mut job.fetched),
            Work::File(_) => unreachable!("answered when its read ends"),
            Work::Freeze(_) | Work::Merge(_) | Work::Scrub(_) | Work::Move(_) => {
                unreachable!("nobody waits for it")
            }
        }
    }

    fn run_background(&mut self, mut job: Job, key: Option<u64>) {
        let Some(segment) = self.segments.get_mut(&job.segment) else {
            return self.background_ended(&job);
        };
        job.generation = segment.parts_generation;
        let mut budget = BACKGROUND_STEP_COST;
        let (fetched, cache) = (&mut job.fetched, &mut self.layer_cache);
        let step = match &mut job.work {
            Work::Freeze(freeze) => freeze.step(segment, fetched, cache, &mut budget),
            Work::Merge(merge) => merge.step(segment, fetched, cache, &mut budget),
            Work::Scrub(scrub) => Ok(scrub.step(segment, fetched)),
            Work::Move(moves) => Ok(moves.step(segment, fetched)),
            Work::Pages(_) | Work::Log(_) | Work::File(_) => {
                unreachable!("the node reads no pages for itself")
            }
        };
        match step {
            Ok(BackgroundStep::Fetch(parts)) => self.fetch(job, key, parts),
            // What it computes keeps the pace, too: the thread is the one that acknowledges.
            Ok(BackgroundStep::Pause) => self.go_on(TURN_BYTES, job, key),
            Ok(BackgroundStep::Write(layer, offset, bytes)) => {
                let file = FileName::Layer(job.segment, layer);
                let token = self.wait_for_write(job, key, file, bytes.as_ref().len());
                self.actions.push_back(Action::Write {
                    token,
                    file,
                    offset,
                    bytes,
                });
            }
            // One layer more: better given up now than when all of it is written.
            Ok(BackgroundStep::Sync(_)) if !self.has_room_for_output(&job) => {
                self.drop_for_room(&job);
            }
            Ok(BackgroundStep::Sync(layer)) => {
                let segment = job.segment;
                let file = FileName::Layer(segment, layer);
                let token = self.wait_for_write(job, key, file, 0);
                self.actions.push_back(Action::Sync {
                    token,
                    segment,
                    layer,
                });
            }
            Ok(BackgroundStep::Publish) => self.publish_job(job, key),
            Ok(BackgroundStep::End) => {
                match &job.work {
                    Work::Move(_) => self.move_batches(&job),
                    Work::Scrub(scrub) => self.scrub_ended(job.segment, scrub, &job.fetched),
                    _ => {}
                }
                self.background_ended(&job);
            }
            Err(error) => {
                let damage = Damage {
                    parts: Vec::new(),
                    place: format!("segment {}", job.segment),
                    what: error.to_string(),
                };
                self.abandon(&job, &damage);
            }
        }
    }

    /// A job cannot be published just now: it tries again at its next turn.
    pub(crate) fn retry_job(&mut self, at: Duration, job: Job, key: Option<u64>) {
        self.reads.pause_until(at, job, key);
    }

    fn go_on(&mut self, bytes: usize, job: Job, key: Option<u64>) {
        let at = self.next_slice(job.work.lane(), bytes);
        if at > self.now {
            self.reads.pause_until(at, job, key);
        } else {
            self.reads.pause(job, key);
        }
    }

    fn wait_for_write(
        &mut self,
        mut job: Job,
        key: Option<u64>,
        file: FileName,
        bytes: usize,
    ) -> DiskToken {
        let number = self.reads.number(key);
        let token = self.reads.next_write_token();
        job.waiting = 1;
        self.reads.jobs.insert(number, job);
        self.reads.writes.insert(token, (number, file, bytes));
        token
    }

    /// A write or sync of a layer ended; false when it is none.
    pub(crate) fn on_layer_written(
        &mut self,
        token: DiskToken,
        result: Result<(), DiskError>,
    ) -> bool {
        let Some((number, file, bytes)) = self.reads.writes.remove(&token) else {
            return false;
        };
        let job = self.reads.jobs.remove(&number);
        match (result, job) {
            (Ok(()), Some(mut job)) => {
                job.waiting = 0;
                job.work.written();
                self.go_on(bytes, job, Some(number));
            }
            // The job was cancelled meanwhile: whatever it wrote is nobody's.
            (Ok(()), None) => self.actions.push_back(Action::Delete { file }),
            (Err(DiskError::Full), job) => {
                self.actions.push_back(Action::Delete { file });
                if let Some(job) = job {
                    self.disk_full_for(&job);
                }
            }
            (Err(DiskError::Failed), Some(_)) => {
                self.stop(format!("write to {} failed", shown(file)));
            }
            // What waited for its file to be opened fails when the file is deleted. The job is gone, and its failure is nobody's.
            (Err(DiskError::Failed), None) => self.actions.push_back(Action::Delete { file }),
        }
        true
    }

    /// The job that has paused longest goes on.
    pub(crate) fn resume_paused(&mut self, now: Duration) {
        while let Some((at, number)) = self.reads.paced.first_key_value().map(|(key, ())| *key)
            && at <= now
        {
            self.reads.paced.pop_first();
            self.reads.background.push_back(number);
        }
        let number = self
            .reads
            .paused
            .pop_front()
            .or_else(|| self.reads.background.pop_front());
        if let Some(number) = number {
            let job = self.reads.jobs.remove(&number);
            let job = job.expect("paused jobs are cancelled with their entry");
            self.run_job(job, Some(number));
        }
    }

    /// Reads parts from disk, neighbors in one go.
    pub(crate) fn fetch(&mut self, mut job: Job, key: Option<u64>, parts: Vec<Located>) {
        assert!(!parts.is_empty(), "a job that needs nothing goes on");
        let number = self.reads.number(key);
        let reads = reads_of(parts, u64::from(self.block_bytes), number);
        if let Work::Pages(_) = job.work {
            // A fold goes batch by batch, and has passed these. A piece of the log needs all of its batches at once.
            job.fetched.batches.clear();
            // A search keeps the blocks that it wants, and needs the index of the layer it is at.
            let is_index = |part: &LayerPart| *part == LayerPart::Index;
            job.fetched.layers.retain(|(_, part), _| is_index(part));
        }
        job.waiting = reads.len();
        self.reads.jobs.insert(number, job);
        self.reads.queue.extend(reads);
        self.reads.issue(&mut self.actions);
    }

    /// Reads bytes as they are, for a job that verifies nothing.
    pub(crate) fn fetch_raw(&mut self, mut job: Job, file: FileName, offset: u64, bytes: u32) {
        let number = self.reads.number(None);
        job.waiting = 1;
        self.reads.jobs.insert(number, job);
        self.reads.queue.push_back(DiskRead {
            job: number,
            file,
            offset,
            bytes,
            parts: Vec::new(),
        });
        self.reads.issue(&mut self.actions);
    }

    /// A read of parts ended.
    pub(crate) fn on_read(&mut self, token: DiskToken, result: Result<Bytes, DiskError>) {
        let Some(read) = self.reads.in_flight.remove(&token) else {
            return;
        };
        self.reads.issue(&mut self.actions);
        let Some(mut job) = self.reads.jobs.remove(&read.job) else {
            return;
        };
        job.waiting -= 1;
        if let Work::File(file) = &job.work {
            let (owner, message) = (job.owner, file.answer(result));
            return self.answer_raw(owner, message);
        }
        let Some(segment) = self.segments.get(&job.segment) else {
            return self.run_job(job, Some(read.job));
        };
        // Work that goes by page keeps for itself what it read ahead.
        let copies = !matches!(job.work, Work::Merge(_) | Work::Scrub(_) | Work::Freeze(_));
        let verified = match result {
            Ok(bytes) => verify(&read, &bytes, segment, copies, &mut job.fetched),
            // What went with its file meanwhile is not damaged.
            Err(_) if segment.parts_generation != job.generation => Ok(()),
            // Nobody can say which part is to blame: each is doubted, and read again.
            Err(error) => Err(Damage {
                parts: read.parts.clone(),
                place: format!("{} at offset {}", shown(read.file), read.offset),
                what: format!("{error:?}"),
            }),
        };
        match verified {
            Ok(()) => self.keep_parts(&job, &read, copies),
            Err(damage) => job.damage = Some(damage),
        }
        if job.waiting > 0 {
            if job.owner == Owner::Node {
                // All that it read counts.
                self.next_slice(job.work.lane(), read.bytes as usize);
            }
            self.reads.jobs.insert(read.job, job);
            return;
        }
        match job.damage.take() {
            None => match job.owner {
                Owner::Stream(..) => self.run_job(job, Some(read.job)),
                Owner::Node => self.go_on(read.bytes as usize, job, Some(read.job)),
            },
            Some(damage) => self.abandon(&job, &damage),
        }
    }

    /// Parts of layers stay in memory for the next one.
    fn keep_parts(&mut self, job: &Job, read: &DiskRead, blocks_too: bool) {
        for located in &read.parts {
            if let Part::Layer(layer, part) = located.part
                && (blocks_too || part == LayerPart::Index)
                && let Some(decoded) = job.fetched.layers.get(&(layer, part))
            {
                self.layer_cache
                    .insert(job.segment, layer, part, decoded.clone());
            }
        }
    }

    fn answer_raw(&mut self, owner: Owner, message: Result<Message, Refusal>) {
        if let Owner::Stream(_, stream) = owner {
            match message {
                Ok(message) => self.answer(stream, message),
                Err(refusal) => self.refuse(stream, refusal),
            }
        }
    }

    /// Damage was found: it is said once, remembered until it is healed, and the job ends.
    fn abandon(&mut self, job: &Job, damage: &Damage) {
        self.damaged(job.segment, damage);
        if let Owner::Stream(_, stream) = job.owner {
            let reason = damage.to_string();
            self.refuse(stream, Refusal::Corrupt { reason });
            return;
        }
        self.clean_up(job);
        if let Work::Freeze(_) | Work::Merge(_) = job.work {
            self.upkeep.pause(job.segment, self.now);
        }
        self.background_ended(job);
    }

    /// What a job has written and nobody published is garbage.
    pub(crate) fn clean_up(&mut self, job: &Job) {
        let output = match &job.work {
            Work::Freeze(freeze) => &freeze.output,
            Work::Merge(merge) => &merge.output,
            Work::Pages(_) | Work::Log(_) | Work::File(_) | Work::Scrub(_) | Work::Move(_) => {
                return;
            }
        };
        for layer in &output.numbers {
            let file = FileName::Layer(job.segment, *layer);
            self.actions.push_back(Action::Delete { file });
        }
    }

    fn disk_full_for(&mut self, job: &Job) {
        self.log_line(
            Severity::Warning,
            format!(
                "segment {}: the disk is full, a layer is not written",
                job.segment
            ),
        );
        self.clean_up(job);
        self.background_ended(job);
        self.upkeep.wait_for_space(self.now);
    }
}

impl Work {
    fn parts_changed(&mut self) {
        if let Work::Pages(pages) = self {
            pages.parts_changed();
        }
    }

    /// What it wanted written or synced is.
    fn written(&mut self) {
        let output = match self {
            Work::Freeze(freeze) => &mut freeze.output,
            Work::Merge(merge) => &mut merge.output,
            Work::Pages(_) | Work::Log(_) | Work::File(_) | Work::Scrub(_) | Work::Move(_) => {
                return;
            }
        };
        output.completed();
    }
}
