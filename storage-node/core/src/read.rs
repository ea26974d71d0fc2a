//! Reads: pages at an LSN (R26) and batches of the log, answered at once from memory or as a job that reads the disk.
//!
//! A job goes as far as bytes are at hand, asks for a bounded amount of batches, and goes on when they came and were
//! verified. A job with much to fold stops now and then and goes on at the next timeout, which is due at once, so that acks do
//! not wait for it. What a waiting fold came to is kept in the page cache, so that a reader who lost patience finds it there.
//! Jobs and disk reads in flight are bounded. A job whose segment takes another history meanwhile is refused (R3).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sixfold_log_format::hot_log::{ENTRY_HEADER_BYTES, FileNumber};
use sixfold_log_format::limits::PAGES_REQUEST_COUNT_MAX;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{
    LogPiece, Message, PageAnswer, PageRequest, Pages, ReadLog, ReadPages, Refusal,
};
use sixfold_log_format::{Batch, Lsn, Page, PageId, SegmentId, VolumeEpoch};

use crate::action::{Action, Severity};
use crate::bounds::{
    LOG_ANSWER_BYTES_MAX, PIECE_BATCHES_MAX, PIECE_BYTES_MAX, READ_BYTES_MAX, READ_GAP_BYTES,
    STEP_RECORDS_MAX,
};
use crate::chain::BatchId;
use crate::event::{DiskError, DiskToken, StreamKey};
use crate::fold::{Fetched, Fold, Folding};
use crate::hot_log::{Place, whole_blocks};
use crate::node::NodeCore;
use crate::page_cache::PageCache;
use crate::segment::Segment;

/// A read that is being answered.
#[derive(Debug)]
struct Job {
    stream: StreamKey,
    segment: SegmentId,
    history_epoch: VolumeEpoch,
    work: Work,
    fetched: Fetched,
    /// Disk reads that are missing.
    waiting: usize,
    /// What went wrong with one of them.
    damage: Option<String>,
}

#[derive(Debug)]
enum Work {
    Pages(PagesWork),
    Log(LogWork),
}

#[derive(Debug)]
struct PagesWork {
    requests: Vec<PageRequest>,
    answers: Vec<PageAnswer>,
    fold: Option<Fold>,
}

#[derive(Debug)]
struct LogWork {
    batches: VecDeque<BatchId>,
    more: bool,
}

/// What a job does next.
#[derive(Debug)]
enum Step {
    /// It says this; the flag ends the stream and the job.
    Say(Message, bool),
    /// It reads these.
    Fetch(Vec<BatchId>),
    /// It goes on later.
    Pause,
}

/// A run of bytes of a file that holds batches.
#[derive(Debug)]
struct DiskRead {
    job: u64,
    file: FileNumber,
    offset: u64,
    bytes: u32,
    batches: Vec<BatchId>,
}

/// Jobs and the disk reads that they wait for.
#[derive(Debug)]
pub(crate) struct Reads {
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    /// Jobs that go on at the next timeout.
    paused: VecDeque<u64>,
    in_flight: BTreeMap<DiskToken, DiskRead>,
    queue: VecDeque<DiskRead>,
    in_flight_max: usize,
    last_token: u64,
}

impl Reads {
    pub(crate) fn new(in_flight_max: usize) -> Reads {
        Reads {
            jobs: BTreeMap::new(),
            next_job: 0,
            paused: VecDeque::new(),
            in_flight: BTreeMap::new(),
            queue: VecDeque::new(),
            in_flight_max: in_flight_max.max(1),
            last_token: 0,
        }
    }

    /// A token that no other operation has: reads are even, writes odd.
    pub(crate) fn next_token(&mut self) -> DiskToken {
        self.last_token += 2;
        DiskToken(self.last_token)
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn cancel(&mut self, stream: StreamKey) {
        self.jobs.retain(|_, job| job.stream != stream);
        let jobs = &self.jobs;
        self.queue.retain(|read| jobs.contains_key(&read.job));
        self.paused.retain(|job| jobs.contains_key(job));
    }

    /// Whether a job waits for nothing but its turn.
    pub(crate) fn has_paused(&self) -> bool {
        !self.paused.is_empty()
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
}

impl NodeCore {
    pub(crate) fn on_read_pages(&mut self, stream: StreamKey, read: ReadPages) {
        if read.pages.is_empty() || read.pages.len() > PAGES_REQUEST_COUNT_MAX {
            return self
                .refuse_malformed(stream, format!("{} pages in one request", read.pages.len()));
        }
        if read
            .pages
            .iter()
            .any(|request| request.page == PageId::NONE)
        {
            return self.refuse_malformed(stream, "page 0 is no page");
        }
        let work = PagesWork {
            requests: read.pages,
            answers: Vec::new(),
            fold: None,
        };
        self.start_job(stream, read.segment, read.history_epoch, |_| {
            Work::Pages(work)
        });
    }

    pub(crate) fn on_read_log(&mut self, stream: StreamKey, read: &ReadLog) {
        let bytes_max = (read.bytes_max as usize).min(LOG_ANSWER_BYTES_MAX);
        self.start_job(stream, read.segment, read.history_epoch, |segment| {
            let (batches, more) =
                segment
                    .chain
                    .range(read.after, read.through, bytes_max, &segment.history);
            Work::Log(LogWork {
                batches: batches.into(),
                more,
            })
        });
    }

    fn start_job(
        &mut self,
        stream: StreamKey,
        id: SegmentId,
        history_epoch: VolumeEpoch,
        work: impl FnOnce(&Segment) -> Work,
    ) {
        let Some(segment) = self.segments.get(&id) else {
            return self.refuse(stream, Refusal::UnknownSegment);
        };
        let checks = !planted(Mutant::ReadWithoutHistoryCheck);
        if segment.history_epoch() != history_epoch && checks {
            let history_epoch = segment.history_epoch();
            return self.refuse(stream, Refusal::OtherHistory { history_epoch });
        }
        let work = work(segment);
        let fetched = Fetched::new();
        let job = Job {
            stream,
            segment: id,
            history_epoch,
            work,
            fetched,
            waiting: 0,
            damage: None,
        };
        self.run_job(job, None);
    }

    /// Runs a job until it is answered or waits for the disk. `key` is `None` for one that never waited.
    fn run_job(&mut self, mut job: Job, key: Option<u64>) {
        self.index_durable();
        let mut budget = STEP_RECORDS_MAX;
        loop {
            let segment = self
                .segments
                .get_mut(&job.segment)
                .expect("segments are not removed");
            let checks = !planted(Mutant::ReadWithoutHistoryCheck);
            if segment.history_epoch() != job.history_epoch && checks {
                let history_epoch = segment.history_epoch();
                return self.refuse(job.stream, Refusal::OtherHistory { history_epoch });
            }
            let step = match &mut job.work {
                Work::Pages(pages) => pages.step(
                    segment,
                    &mut self.cache,
                    &job.fetched,
                    &mut budget,
                    &mut self.actions,
                ),
                Work::Log(log) => log.step(segment, &mut job.fetched),
            };
            match step {
                Step::Say(message, end) => {
                    let stream = job.stream;
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
                    if key.is_none() && self.reads.jobs.len() >= self.reads.in_flight_max =>
                {
                    return self.refuse(job.stream, Refusal::Overloaded);
                }
                Step::Fetch(batches) => return self.fetch(job, key, &batches),
                Step::Pause => {
                    let number = self.reads.number(key);
                    self.reads.jobs.insert(number, job);
                    return self.reads.paused.push_back(number);
                }
            }
        }
    }

    /// The job that has paused longest goes on.
    pub(crate) fn resume_paused(&mut self) {
        if let Some(number) = self.reads.paused.pop_front() {
            let job = self.reads.jobs.remove(&number);
            let job = job.expect("paused jobs are cancelled with their entry");
            self.run_job(job, Some(number));
        }
    }

    /// Reads batches back from disk, neighbors in one go.
    fn fetch(&mut self, mut job: Job, key: Option<u64>, batches: &[BatchId]) {
        let chain = &self.segments[&job.segment].chain;
        let mut places: Vec<(Place, BatchId)> = batches
            .iter()
            .map(|id| {
                (
                    chain
                        .get(*id)
                        .place
                        .expect("what is not durable is in memory"),
                    *id,
                )
            })
            .collect();
        places.sort_unstable();
        let number = self.reads.number(key);
        let reads = gather(&places, u64::from(self.block_bytes), number);
        if matches!(job.work, Work::Pages(_)) {
            // A fold goes batch by batch, and has passed these. A piece of the log needs all of its batches at once.
            job.fetched.clear();
        }
        job.waiting = reads.len();
        self.reads.jobs.insert(number, job);
        self.reads.queue.extend(reads);
        self.reads.issue(&mut self.actions);
    }

    /// A read of batches ended.
    pub(crate) fn on_read(&mut self, token: DiskToken, result: Result<Bytes, DiskError>) {
        let Some(read) = self.reads.in_flight.remove(&token) else {
            return;
        };
        self.reads.issue(&mut self.actions);
        let Some(mut job) = self.reads.jobs.remove(&read.job) else {
            return;
        };
        job.waiting -= 1;
        let segment = self
            .segments
            .get_mut(&job.segment)
            .expect("segments are not removed");
        match result {
            Ok(bytes) => verify(&read, &bytes, segment, &mut job),
            Err(error) => {
                let at = format!("hot-log file {} at offset {}", read.file.0, read.offset);
                job.damage = Some(format!("{at}: {error:?}"));
            }
        }
        if job.waiting > 0 {
            self.reads.jobs.insert(read.job, job);
            return;
        }
        match job.damage.take() {
            None => self.run_job(job, Some(read.job)),
            Some(reason) => {
                segment.unreadable = true;
                let text = format!("segment {}: {reason}", job.segment);
                self.log_line(Severity::Error, text);
                self.refuse(job.stream, Refusal::Corrupt { reason });
            }
        }
    }
}

/// Groups places, which are sorted, into reads of whole blocks.
fn gather(places: &[(Place, BatchId)], block_bytes: u64, job: u64) -> Vec<DiskRead> {
    let mut reads: Vec<DiskRead> = Vec::new();
    for (place, id) in places {
        let start = place.offset / block_bytes * block_bytes;
        let end = whole_blocks(place.offset + u64::from(place.bytes), block_bytes);
        if let Some(read) = reads.last_mut().filter(|read| read.file == place.file) {
            let read_end = read.offset + u64::from(read.bytes);
            if start <= read_end + READ_GAP_BYTES && end - read.offset <= READ_BYTES_MAX {
                let bytes = end.max(read_end) - read.offset;
                read.bytes = u32::try_from(bytes).expect("bounded by the longest read");
                read.batches.push(*id);
                continue;
            }
        }
        let bytes = u32::try_from(end - start).expect("an entry is bounded by its group");
        reads.push(DiskRead {
            job,
            file: place.file,
            offset: start,
            bytes,
            batches: vec![*id],
        });
    }
    reads
}

/// Verifies batches that came off the disk: nothing is served whose checksum was not.
fn verify(read: &DiskRead, bytes: &Bytes, segment: &Segment, job: &mut Job) {
    for id in &read.batches {
        let held = segment.chain.get(*id);
        let place = held.place.expect("only durable batches are read");
        let at = usize::try_from(place.offset - read.offset).expect("bounded by the read");
        let start = at + ENTRY_HEADER_BYTES;
        let end = start + held.bytes as usize;
        let batch = if end <= bytes.len() {
            Batch::decode(bytes.slice(start..end), segment.volume)
                .map_err(|error| error.to_string())
        } else {
            Err(format!("only {} bytes were read", bytes.len()))
        };
        let same = |batch: &Batch| {
            let header = batch.header();
            (header.first, header.volume_epoch, header.checksum) == held.identity()
        };
        match batch {
            Ok(batch) if same(&batch) => {
                job.fetched.insert(*id, batch);
            }
            Ok(_) => job.damage = Some(describe(place, held.first, "another batch stands there")),
            Err(error) => job.damage = Some(describe(place, held.first, &error)),
        }
    }
}

fn describe(place: Place, first: Lsn, what: &str) -> String {
    format!(
        "hot-log file {} at offset {}: batch {first}: {what}",
        place.file.0, place.offset
    )
}

impl PagesWork {
    fn step(
        &mut self,
        segment: &mut Segment,
        cache: &mut PageCache,
        fetched: &Fetched,
        budget: &mut usize,
        actions: &mut VecDeque<Action>,
    ) -> Step {
        while let Some(request) = self.requests.get(self.answers.len()).copied() {
            let mut fold = match self.fold.take() {
                Some(fold) => fold,
                None => match begin(&request, segment, cache) {
                    Ok(fold) => fold,
                    Err(answer) => {
                        self.answers.push(answer);
                        continue;
                    }
                },
            };
            let step = match fold.advance(&segment.chain, fetched, budget) {
                Ok(Folding::Done) => {
                    let kept = fold.kept();
                    let (page, image) = fold.into_page();
                    let encoded = Bytes::from(page.encode());
                    if let Some(image) = image {
                        keep(segment, cache, image, kept);
                    }
                    self.answers.push(PageAnswer::Page(encoded));
                    continue;
                }
                Ok(Folding::Needs(batches)) => Step::Fetch(batches),
                Ok(Folding::Paused) => Step::Pause,
                Err(error) => {
                    segment.unreadable = true;
                    let reason = format!("page {} at LSN {}: {error}", request.page, request.lsn);
                    let text = format!("segment {}: {reason}", segment.id);
                    actions.push_back(Action::Log {
                        severity: Severity::Error,
                        text,
                    });
                    self.answers
                        .push(PageAnswer::Refused(Refusal::Corrupt { reason }));
                    continue;
                }
            };
            if let Some((image, kept)) = fold.keep() {
                keep(segment, cache, image, kept);
            }
            self.fold = Some(fold);
            return step;
        }
        Step::Say(
            Message::Pages(Pages {
                pages: std::mem::take(&mut self.answers),
            }),
            true,
        )
    }
}

fn keep(segment: &Segment, cache: &mut PageCache, image: Page, instead: Option<Lsn>) {
    let settled = segment.scl().min(segment.vdl_seen);
    assert!(
        image.lsn() <= settled,
        "no image of what may be annulled is kept (R11)"
    );
    cache.insert(segment.id, image, instead);
}

/// Begins to fold a page, or answers at once.
fn begin(
    request: &PageRequest,
    segment: &Segment,
    cache: &mut PageCache,
) -> Result<Fold, PageAnswer> {
    let scl = segment.scl();
    // An idle PG's SCL stays below the reader's point for ever; its last LSN is what must be held (R26).
    let wanted = if planted(Mutant::IdlePgUnreadable) {
        request.lsn
    } else {
        request.lsn.min(request.pg_last)
    };
    if scl < wanted && !planted(Mutant::ReadAboveScl) {
        return Err(PageAnswer::Refused(Refusal::Behind { scl }));
    }
    let through = request.lsn.min(scl);
    let settled = scl.min(segment.vdl_seen);
    let image = cache.newest(segment.id, request.page, through);
    let image_lsn = image.map(Page::lsn);
    let (records, on_image) =
        segment
            .index
            .records(request.page, image_lsn, through, &segment.history);
    match image {
        Some(image) if on_image && records.is_empty() => {
            Err(PageAnswer::Page(Bytes::from(image.encode())))
        }
        Some(image) if on_image => Ok(Fold::new(image.clone(), records, settled)),
        _ => {
            let page_bytes = segment.manifest.parameters.page_bytes as usize;
            let page = Page::new(request.page, page_bytes);
            Ok(Fold::new(page, records, settled))
        }
    }
}

impl LogWork {
    /// The next piece, or what it needs. What was fetched stays until the piece is whole, whatever leaves memory meanwhile: else two
    /// batches could be missing in turn for ever.
    fn step(&mut self, segment: &Segment, fetched: &mut Fetched) -> Step {
        let chain = &segment.chain;
        let mut count = 0;
        let mut bytes = 0;
        for id in self.batches.iter().take(PIECE_BATCHES_MAX) {
            bytes += chain.get(*id).bytes as usize;
            if bytes > PIECE_BYTES_MAX && count > 0 {
                break;
            }
            count += 1;
        }
        let at_hand = |id: &BatchId| {
            let resident = chain.resident_bytes(*id);
            resident.or_else(|| fetched.get(id).map(|batch| batch.bytes().clone()))
        };
        let piece = self.batches.iter().take(count);
        let missing: Vec<BatchId> = piece
            .clone()
            .copied()
            .filter(|id| chain.get(*id).resident.is_none() && !fetched.contains_key(id))
            .collect();
        if !missing.is_empty() {
            return Step::Fetch(missing);
        }
        let batches: Vec<Bytes> = piece.filter_map(at_hand).collect();
        assert_eq!(batches.len(), count, "every batch of the piece is at hand");
        self.batches.drain(..count);
        fetched.clear();
        let end = self.batches.is_empty();
        let more = self.more || !end;
        Step::Say(Message::LogPiece(LogPiece { batches, more }), end)
    }
}
