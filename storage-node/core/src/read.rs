//! Reads: pages at an LSN (R26), batches of the log, and bytes of layers, answered at once from memory or as a job.
//!
//! A page is the newest image at hand, from the page cache or the layers, plus the records behind it from the layers and the
//! memory index. What a waiting fold came to is kept in the page cache, so that a reader who lost patience finds it there.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::layer::LayerNumber;
use sixfold_log_format::limits::PAGES_REQUEST_COUNT_MAX;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::wire::{
    LayerPiece, LogPiece, Message, PageAnswer, PageRequest, Pages, ReadLayer, ReadLog, ReadPages,
    Refusal, Role,
};
use sixfold_log_format::{Lsn, Page, PageId, SegmentId, VolumeEpoch};

use crate::action::{Action, FileName, Severity};
use crate::bounds::{LOG_ANSWER_BYTES_MAX, PIECE_BATCHES_MAX, PIECE_BYTES_MAX, SERVED_RATE_FACTOR};
use crate::chain::BatchId;
use crate::event::{ConnectionKey, DiskError, StreamKey};
use crate::fold::{Fold, Folding};
use crate::hot_log::whole_blocks;
use crate::index::IndexEntry;
use crate::jobs::{Job, Owner, Step, Work};
use crate::layers::cache::LayerCache;
use crate::layers::gather::{Gather, Gathering};
use crate::node::NodeCore;
use crate::page_cache::PageCache;
use crate::parts::{Fetched, Located, Sources};
use crate::segment::Segment;

/// Pages that are read.
#[derive(Debug)]
pub(crate) struct PagesWork {
    requests: Vec<PageRequest>,
    answers: Vec<PageAnswer>,
    stage: Option<Stage>,
}

/// Where a page is.
#[derive(Debug)]
enum Stage {
    /// Its version in the layers is looked for; then these records are folded onto it.
    Gather(Box<Gather>, Vec<IndexEntry>),
    /// Records of the memory index are folded onto it.
    Fold(Fold),
}

/// Batches that are read.
#[derive(Debug)]
pub(crate) struct LogWork {
    batches: VecDeque<BatchId>,
    more: bool,
}

/// Bytes of a layer's file that are read as they are: whoever gets them verifies the whole.
#[derive(Debug)]
pub(crate) struct FileWork {
    layer_bytes: u64,
    /// Of what the disk gives, this part is the answer.
    skip: usize,
    length: usize,
}

impl FileWork {
    /// The answer, when the disk's came.
    pub(crate) fn answer(&self, read: Result<Bytes, DiskError>) -> Result<Message, Refusal> {
        let corrupt = |reason: &str| Refusal::Corrupt {
            reason: reason.to_owned(),
        };
        let bytes = read.map_err(|_| corrupt("the layer cannot be read"))?;
        let end = self.skip + self.length;
        if bytes.len() < end {
            return Err(corrupt("the layer is too short"));
        }
        Ok(Message::LayerPiece(LayerPiece {
            layer_bytes: self.layer_bytes,
            bytes: bytes.slice(self.skip..end),
        }))
    }
}

impl NodeCore {
    pub(crate) fn on_read_pages(
        &mut self,
        connection: ConnectionKey,
        stream: StreamKey,
        read: ReadPages,
    ) {
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
            stage: None,
        };
        let owner = Owner::Stream(connection, stream);
        self.start_job(owner, read.segment, read.history_epoch, |_| {
            Ok(Work::Pages(work))
        });
    }

    pub(crate) fn on_read_log(
        &mut self,
        now: Duration,
        (connection, role): (ConnectionKey, Role),
        stream: StreamKey,
        read: &ReadLog,
    ) {
        if role == Role::Node && !self.admits_peer(now) {
            return self.refuse(stream, Refusal::Overloaded);
        }
        let mut served = 0;
        let is_reading = self.older.is_pending();
        let bytes_max = (read.bytes_max as usize).min(LOG_ANSWER_BYTES_MAX);
        let owner = Owner::Stream(connection, stream);
        self.start_job(owner, read.segment, read.history_epoch, |segment| {
            // Below the floor nobody knows any more what was annulled: the layers do.
            let log_start = segment.chain.log_start().max(segment.history.floor);
            if read.after < log_start && read.through > read.after {
                let horizon = log_start.next();
                // It may be in a file that is kept, and that this start has not read yet.
                let is_coming = is_reading && read.after >= segment.history.floor;
                return Err(if is_coming {
                    Refusal::Overloaded
                } else {
                    Refusal::Forgotten { horizon }
                });
            }
            let (batches, more) =
                segment
                    .chain
                    .range(read.after, read.through, bytes_max, &segment.history);
            let bytes = batches.iter().map(|id| segment.chain.get(*id).bytes);
            served = bytes.map(u64::from).sum();
            Ok(Work::Log(LogWork {
                batches: batches.into(),
                more,
            }))
        });
        if role == Role::Node {
            self.pace.serves(served);
        }
    }

    /// Whether a peer that catches up is served now: what the node's own writers and readers want goes first (F11).
    fn admits_peer(&mut self, now: Duration) -> bool {
        let rate = self.bounds.background_bytes_per_second;
        self.pace
            .admits(now, rate.saturating_mul(SERVED_RATE_FACTOR))
    }

    /// A part of a layer, or of the catalog (layer 0). Whoever asks for the catalog means to copy what it lists: what can be
    /// frozen is, so that the next catalog reaches as far as it may.
    pub(crate) fn on_read_layer(
        &mut self,
        now: Duration,
        (connection, role): (ConnectionKey, Role),
        stream: StreamKey,
        read: &ReadLayer,
    ) {
        if let Err(refusal) = self.serving(read.segment) {
            return self.refuse(stream, refusal);
        }
        let segment = self.segments.get_mut(&read.segment);
        let segment = segment.expect("it serves");
        let bytes_max = (read.bytes_max as usize).min(PIECE_BYTES_MAX) as u64;
        let history_epoch = segment.history_epoch();
        if read.layer == 0 {
            segment.freeze_wanted = true;
            let catalog = Bytes::from(segment.layers.catalog().encode());
            let start = usize::try_from(read.offset).unwrap_or(usize::MAX);
            let start = start.min(catalog.len());
            let length = usize::try_from(bytes_max).expect("a megabyte");
            let end = (start + length).min(catalog.len());
            let piece = LayerPiece {
                layer_bytes: catalog.len() as u64,
                bytes: catalog.slice(start..end),
            };
            return self.answer(stream, Message::LayerPiece(piece));
        }
        let number = LayerNumber(read.layer);
        let Some(layer) = segment.layers.layer(number) else {
            // It was merged away since the catalog was read: a newer one names what took its place.
            let horizon = segment.layers.horizon();
            return self.refuse(stream, Refusal::Forgotten { horizon });
        };
        let layer_bytes = layer.summary.file_bytes;
        if read.offset >= layer_bytes || bytes_max == 0 {
            return self.refuse_malformed(stream, "past the end of the layer");
        }
        let admitted = role != Role::Node || self.admits_peer(now);
        if !admitted || !self.admits_raw(connection) {
            return self.refuse(stream, Refusal::Overloaded);
        }
        let block = u64::from(self.block_bytes);
        let end = (read.offset + bytes_max).min(layer_bytes);
        let start = read.offset / block * block;
        let bytes =
            u32::try_from(whole_blocks(end, block) - start).expect("a megabyte and a block");
        if role == Role::Node {
            self.pace.serves(u64::from(bytes));
        }
        let size = |bytes: u64| usize::try_from(bytes).expect("bounded by a piece");
        let work = FileWork {
            layer_bytes,
            skip: size(read.offset - start),
            length: size(end - read.offset),
        };
        let job = Job {
            owner: Owner::Stream(connection, stream),
            segment: read.segment,
            history_epoch,
            generation: 0,
            work: Work::File(work),
            fetched: Fetched::default(),
            waiting: 0,
            damage: None,
        };
        self.fetch_raw(job, FileName::Layer(read.segment, number), start, bytes);
    }

    fn start_job(
        &mut self,
        owner: Owner,
        id: SegmentId,
        history_epoch: VolumeEpoch,
        work: impl FnOnce(&Segment) -> Result<Work, Refusal>,
    ) {
        let Owner::Stream(_, stream) = owner else {
            unreachable!("somebody asks");
        };
        let segment = match self.serving(id) {
            Ok(segment) => segment,
            Err(refusal) => return self.refuse(stream, refusal),
        };
        let checks = !planted(Mutant::ReadWithoutHistoryCheck);
        if segment.history_epoch() != history_epoch && checks {
            let history_epoch = segment.history_epoch();
            return self.refuse(stream, Refusal::OtherHistory { history_epoch });
        }
        let work = match work(segment) {
            Ok(work) => work,
            Err(refusal) => return self.refuse(stream, refusal),
        };
        let job = Job {
            owner,
            segment: id,
            history_epoch,
            generation: segment.parts_generation,
            work,
            fetched: Fetched::default(),
            waiting: 0,
            damage: None,
        };
        self.run_job(job, None);
    }
}

impl PagesWork {
    /// Layers or batches went away: the page at hand is begun again. What was folded of it is in the page cache.
    pub(crate) fn parts_changed(&mut self) {
        self.stage = None;
    }

    /// Goes on with the pages until something is needed.
    pub(crate) fn step(
        &mut self,
        segment: &mut Segment,
        (cache, layer_cache): (&mut PageCache, &mut LayerCache),
        fetched: &mut Fetched,
        budget: &mut usize,
        actions: &mut VecDeque<Action>,
    ) -> Step {
        while let Some(request) = self.requests.get(self.answers.len()).copied() {
            let mut stage = match self.stage.take() {
                Some(stage) => stage,
                // Parts of the pages before are not kept: what another one needs too is in the cache.
                None if !fetched.layers.is_empty() => {
                    fetched.layers.clear();
                    continue;
                }
                None => match begin(&request, segment, cache) {
                    Ok(stage) => stage,
                    Err(answer) => {
                        self.answers.push(answer);
                        continue;
                    }
                },
            };
            let mut sources = Sources {
                segment: segment.id,
                fetched,
                cache: layer_cache,
            };
            let step = match advance(&mut stage, segment, cache, &mut sources, budget) {
                Ok(Next::Page(page)) => {
                    self.answers.push(PageAnswer::Page(page));
                    continue;
                }
                Ok(Next::Step(step)) => step,
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
            if let Stage::Fold(fold) = &mut stage
                && let Some((image, kept)) = fold.keep()
            {
                keep(segment, cache, image, kept);
            }
            self.stage = Some(stage);
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

/// What came of a stage.
enum Next {
    Page(Bytes),
    Step(Step),
}

fn advance(
    stage: &mut Stage,
    segment: &Segment,
    cache: &mut PageCache,
    sources: &mut Sources<'_>,
    budget: &mut usize,
) -> Result<Next, Box<dyn std::error::Error>> {
    if let Stage::Gather(gather, records) = stage {
        match gather.advance(segment.layers.runs(), sources)? {
            Gathering::Needs(parts) => return Ok(Next::Step(Step::Fetch(parts))),
            Gathering::Done => {}
        }
        let page_bytes = segment.manifest.parameters.page_bytes as usize;
        let empty = Gather::new(PageId::META, Lsn::NONE, None, &[]);
        let gather = std::mem::replace(&mut **gather, empty);
        let page = gather.into_page(page_bytes)?;
        let records = std::mem::take(records);
        *stage = Stage::Fold(Fold::new(page, records, settled(segment)));
    }
    let Stage::Fold(fold) = stage else {
        unreachable!("gathered just now");
    };
    match fold.advance(&segment.chain, &sources.fetched.batches, budget)? {
        Folding::Done => {}
        Folding::Needs(batches) => {
            let parts = batches
                .iter()
                .map(|id| Located::batch(&segment.chain, *id))
                .collect();
            return Ok(Next::Step(Step::Fetch(parts)));
        }
        Folding::Paused => return Ok(Next::Step(Step::Pause)),
    }
    let kept = fold.kept();
    let empty = Fold::new(Page::new(PageId::META, 512), Vec::new(), Lsn::NONE);
    let (page, image) = std::mem::replace(fold, empty).into_page();
    let encoded = Bytes::from(page.encode());
    if let Some(image) = image {
        keep(segment, cache, image, kept);
    }
    Ok(Next::Page(encoded))
}

/// Nothing at or below can be annulled any more (R11).
fn settled(segment: &Segment) -> Lsn {
    segment.scl().min(segment.vdl_seen)
}

fn keep(segment: &Segment, cache: &mut PageCache, image: Page, instead: Option<Lsn>) {
    assert!(
        image.lsn() <= settled(segment),
        "no image of what may be annulled is kept (R11)"
    );
    cache.insert(segment.id, image, instead);
}

/// Begins to build a page, or answers at once.
fn begin(
    request: &PageRequest,
    segment: &Segment,
    cache: &mut PageCache,
) -> Result<Stage, PageAnswer> {
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
    let horizon = segment.layers.horizon();
    if request.lsn < horizon {
        return Err(PageAnswer::Refused(Refusal::Forgotten { horizon }));
    }
    let through = request.lsn.min(scl);
    let folded = segment.layers.folded_through();
    let image = cache.newest(segment.id, request.page, through);
    let image_lsn = image.map_or(Lsn::NONE, Page::lsn);
    let (records, starts) = segment.index.records(
        request.page,
        image_lsn.max(folded),
        through,
        &segment.history,
    );
    let page_bytes = segment.manifest.parameters.page_bytes as usize;
    let fold = |page: Page| {
        Ok(Stage::Fold(Fold::new(
            page,
            records.clone(),
            settled(segment),
        )))
    };
    match image {
        _ if starts => fold(Page::new(request.page, page_bytes)),
        Some(image) if image_lsn >= folded.min(through) && records.is_empty() => {
            Err(PageAnswer::Page(Bytes::from(image.encode())))
        }
        Some(image) if image_lsn >= folded.min(through) => fold(image.clone()),
        None if segment.layers.runs().is_empty() => fold(Page::new(request.page, page_bytes)),
        image => {
            let through = through.min(folded);
            let runs = segment.layers.runs();
            let gather = Gather::new(request.page, through, image.cloned(), runs);
            Ok(Stage::Gather(Box::new(gather), records))
        }
    }
}

impl LogWork {
    /// The next piece, or what it needs. What was fetched stays until the piece is whole, whatever leaves memory meanwhile: else two
    /// batches could be missing in turn for ever.
    pub(crate) fn step(
        &mut self,
        segment: &Segment,
        fetched: &mut Fetched,
    ) -> Result<Step, Refusal> {
        let chain = &segment.chain;
        if self.batches.iter().any(|id| chain.find_held(*id).is_none()) {
            let horizon = chain.log_start().next();
            return Err(Refusal::Forgotten { horizon });
        }
        let mut count = 0;
        let mut bytes = 0;
        for id in self.batches.iter().take(PIECE_BATCHES_MAX) {
            bytes += chain.get(*id).bytes as usize;
            if bytes > PIECE_BYTES_MAX && count > 0 {
                break;
            }
            count += 1;
        }
        let batches = &mut fetched.batches;
        let piece = self.batches.iter().take(count);
        let missing: Vec<Located> = piece
            .clone()
            .filter(|id| chain.get(**id).resident.is_none() && !batches.contains_key(id))
            .map(|id| Located::batch(chain, *id))
            .collect();
        if !missing.is_empty() {
            return Ok(Step::Fetch(missing));
        }
        let at_hand = |id: &BatchId| {
            let resident = chain.resident_bytes(*id);
            resident.or_else(|| batches.get(id).map(|batch| batch.bytes().clone()))
        };
        let pieces: Vec<Bytes> = piece.filter_map(at_hand).collect();
        assert_eq!(pieces.len(), count, "every batch of the piece is at hand");
        self.batches.drain(..count);
        fetched.clear();
        let end = self.batches.is_empty();
        let more = self.more || !end;
        let piece = LogPiece {
            batches: pieces,
            more,
        };
        Ok(Step::Say(Message::LogPiece(piece), end))
    }
}
