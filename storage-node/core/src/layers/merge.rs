//! Merging: neighboring runs become one, and what nobody can read any more stays behind.
//!
//! The runs are read block by block in the order of their entries, a few hundred kilobytes of each at a time, and composed into the
//! new run: memory does not depend on how much is merged. Where the oldest run is among them, every page begins in them; a layer of it that
//! holds nothing but images, of pages that no newer run has anything of, stays as it is and is not even read.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::sync::Arc;

use sixfold_log_format::layer::{Block, CatalogLayer, LayerEntry, LayerIndex, LayerNumber};
use sixfold_log_format::{DecodeError, Lsn, PageId};

use super::compose::{ChainBound, Composed, Composer, Depth, redo_bytes};
use super::gather::{Gather, Gathering, LayerDamage};
use super::output::{Output, Wanted};
use super::set::Run;
use crate::bounds::BASE_COST;
use crate::jobs::{BackgroundStep, JobError};
use crate::layers::cache::LayerCache;
use crate::parts::{Fetched, Located, Sources};
use crate::segment::Segment;

/// Blocks of one run that are read at once: what a page read may have to wait behind.
const BLOCKS_AT_ONCE: u32 = 8;

/// A place in a run.
#[derive(Debug)]
struct Cursor {
    layers: VecDeque<CatalogLayer>,
    index: Option<Arc<LayerIndex>>,
    /// The next block of the first layer to read.
    next_block: u32,
    /// Blocks that were read, and how many of their entries were taken.
    blocks: VecDeque<Block>,
    taken: usize,
}

impl Cursor {
    fn is_at_end(&self) -> bool {
        self.layers.is_empty()
    }

    /// Takes blocks that were fetched; says which are needed when there is none. `stops`: not those of another layer than the one
    /// at hand, of which it is not known whether it is read.
    fn fill(&mut self, sources: &mut Sources<'_>, needs: &mut Vec<Located>, stops: bool) {
        while self.blocks.is_empty() {
            let Some(layer) = self.layers.front() else {
                return;
            };
            let index = self.index.take().or_else(|| sources.index(layer.number));
            let Some(index) = index else {
                return needs.push(Located::index(sources.segment, layer));
            };
            let count = index.block_count();
            if self.next_block == count {
                self.layers.pop_front();
                self.next_block = 0;
                if stops {
                    return;
                }
                continue;
            }
            let end = (self.next_block + BLOCKS_AT_ONCE).min(count);
            let mut next = self.next_block;
            while next < end {
                let Some(block) = sources.block(layer.number, next) else {
                    break;
                };
                self.blocks.push_back(block);
                next += 1;
            }
            if next == self.next_block {
                let missing = (next..end).map(|number| index.block(number));
                needs.extend(missing.map(|at| Located::block(sources.segment, layer.number, &at)));
                self.index = Some(index);
                return;
            }
            self.next_block = next;
            self.index = Some(index);
        }
    }

    fn entries(&self) -> impl Iterator<Item = Result<LayerEntry<'_>, DecodeError>> {
        self.blocks.iter().flat_map(Block::entries).skip(self.taken)
    }

    /// `count` more entries were taken.
    fn advance(&mut self, count: usize) {
        self.taken += count;
        while let Some(block) = self.blocks.front()
            && self.taken >= block.entry_count() as usize
        {
            self.taken -= block.entry_count() as usize;
            self.blocks.pop_front();
        }
    }
}

/// A merge.
#[derive(Debug)]
pub(crate) struct MergeWork {
    /// Oldest first.
    cursors: Vec<Cursor>,
    pub(crate) gone: Vec<LayerNumber>,
    pub(crate) horizon: Lsn,
    composer: Composer,
    pub(crate) output: Output,
    base: Option<(u64, Gather, Lsn)>,
    /// The entry that was taken last.
    last: Option<Key>,
    merged: bool,
    /// Layers of the oldest run may stay as they are: it begins every page, and its layers need not become fewer.
    pub(crate) keeps_layers: bool,
    /// The first page of the oldest run's next layer, while it is not known whether that one is read: below it the others go on.
    fence: Option<PageId>,
}

/// What entries are sorted by: page, LSN, whether it is an image.
type Key = (PageId, Lsn, bool);

impl MergeWork {
    pub(crate) fn new(
        segment: &Segment,
        runs: &[Run],
        is_bottom: bool,
        horizon: Lsn,
        bound: ChainBound,
        output: Output,
    ) -> MergeWork {
        let page_bytes = segment.manifest.parameters.page_bytes as usize;
        let cursors = runs.iter().map(|run| Cursor {
            layers: run.layers.clone().into(),
            index: None,
            next_block: 0,
            blocks: VecDeque::new(),
            taken: 0,
        });
        let gone = runs.iter().flat_map(|run| &run.layers);
        MergeWork {
            cursors: cursors.collect(),
            gone: gone.map(|layer| layer.number).collect(),
            horizon,
            composer: Composer::new(page_bytes, horizon, bound, is_bottom),
            output,
            base: None,
            last: None,
            merged: false,
            keeps_layers: false,
            fence: None,
        }
    }

    /// Bytes of memory that it takes, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let blocks = self.cursors.iter().flat_map(|cursor| &cursor.blocks);
        let blocks: usize = blocks.map(|block| block.bytes().len()).sum();
        blocks + self.output.memory_bytes()
    }

    /// Goes on until something is needed or about `budget` entries were merged.
    pub(crate) fn step(
        &mut self,
        segment: &mut Segment,
        fetched: &mut Fetched,
        cache: &mut LayerCache,
        budget: &mut usize,
    ) -> Result<BackgroundStep, JobError> {
        loop {
            match self.output.next() {
                Some(Wanted::Write(layer, offset, bytes)) => {
                    return Ok(BackgroundStep::Write(layer, offset, bytes));
                }
                Some(Wanted::Sync(layer)) => return Ok(BackgroundStep::Sync(layer)),
                None if self.merged => return Ok(BackgroundStep::Publish),
                None => {}
            }
            if *budget == 0 {
                return Ok(BackgroundStep::Pause);
            }
            let mut sources = Sources {
                segment: segment.id,
                fetched,
                cache,
            };
            let mut needs = self
                .find_base(segment, &mut sources, budget)?
                .unwrap_or_default();
            if needs.is_empty() {
                for cursor in &mut self.cursors[1..] {
                    cursor.fill(&mut sources, &mut needs, false);
                }
                self.fence = None;
                if needs.is_empty() {
                    match self.oldest_next()? {
                        Next::Read => {
                            let stops = self.keeps_layers;
                            self.cursors[0].fill(&mut sources, &mut needs, stops);
                        }
                        Next::Wait(page) => self.fence = Some(page),
                        Next::Keep => {
                            self.keep_layer(segment);
                            continue;
                        }
                    }
                }
            }
            if !needs.is_empty() {
                let page = self.last.map_or(PageId::NONE, |(page, ..)| page);
                fetched.pass(segment, page, cache);
                return Ok(BackgroundStep::Fetch(needs));
            }
            self.merge(segment, budget)?;
        }
    }

    /// What becomes of the next layer of the oldest run. The others have been read on.
    fn oldest_next(&self) -> Result<Next, JobError> {
        let oldest = &self.cursors[0];
        let is_begun = oldest.next_block > 0 || !oldest.blocks.is_empty();
        let Some(layer) = oldest
            .layers
            .front()
            .filter(|_| self.keeps_layers && !is_begun)
        else {
            return Ok(Next::Read);
        };
        let summary = &layer.summary;
        let goes_on = oldest.layers.get(1);
        let is_shared = goes_on.is_some_and(|next| next.summary.page_first <= summary.page_last)
            || self.composer.page() >= Some(summary.page_first);
        // Records of it may be collected by now; images of pages that nobody wrote to may not.
        if summary.record_count > 0 || is_shared {
            return Ok(Next::Read);
        }
        let mut least: Option<PageId> = None;
        for cursor in &self.cursors[1..] {
            if let Some(entry) = cursor.entries().next() {
                let page = entry.map_err(JobError::Block)?.page();
                least = Some(least.map_or(page, |least| least.min(page)));
            }
        }
        Ok(match least {
            Some(page) if page < summary.page_first => Next::Wait(summary.page_first),
            Some(page) if page <= summary.page_last => Next::Read,
            _ => Next::Keep,
        })
    }

    /// The next layer of the oldest run stays. What is written ends before it and goes on behind it.
    fn keep_layer(&mut self, segment: &mut Segment) {
        if self.composer.page().is_some() {
            let builder = self.output.builder(|| segment.layers.take_number());
            self.composer.end_page(builder);
        }
        self.output.finish_layer();
        let oldest = &mut self.cursors[0];
        // That of this layer, where a look at it had been begun.
        oldest.index = None;
        let kept = oldest.layers.pop_front();
        let kept = kept.expect("looked at by the caller").number;
        self.gone.retain(|layer| *layer != kept);
    }

    /// Where the composer asked for a page: what is still needed for it.
    fn find_base(
        &mut self,
        segment: &Segment,
        sources: &mut Sources<'_>,
        budget: &mut usize,
    ) -> Result<Option<Vec<Located>>, JobError> {
        let Some((generation, mut gather, through)) = self.base.take() else {
            return Ok(None);
        };
        let runs = segment.layers.runs();
        let now = segment.layers.generation();
        let page = self.composer.page().expect("it asked for this page");
        if generation != now {
            gather = Gather::by_page(page, through, runs);
        }
        match gather.advance(runs, sources)? {
            Gathering::Needs(parts) => {
                self.base = Some((now, gather, through));
                Ok(Some(parts))
            }
            Gathering::Done => {
                *budget = budget.saturating_sub(BASE_COST);
                let page_bytes = segment.manifest.parameters.page_bytes as usize;
                self.composer.set_base(gather.into_page(page_bytes)?);
                Ok(None)
            }
        }
    }

    /// Merges what was read, until a run has to be read on, a chunk is ready, a page is needed, or the budget is used up.
    fn merge(&mut self, segment: &mut Segment, budget: &mut usize) -> Result<(), JobError> {
        let MergeWork {
            cursors,
            composer,
            output,
            base,
            last,
            fence,
            ..
        } = self;
        let layers = &mut segment.layers;
        let mut taken = vec![0; cursors.len()];
        let mut heads: Vec<_> = cursors
            .iter()
            .map(|cursor| cursor.entries().peekable())
            .collect();
        let outcome = loop {
            if output.has_chunk() || *budget == 0 {
                break Ok(false);
            }
            let (key, at) = match least(&mut heads, cursors, *fence)? {
                Least::Entry(key, at) => (key, at),
                Least::ReadOn => break Ok(false),
                Least::End => break Ok(true),
            };
            let (page, lsn, is_image) = key;
            if last.is_some_and(|last| key <= last) {
                if is_image && *last == Some(key) {
                    // Two runs made the same one.
                    heads[at].next();
                    taken[at] += 1;
                    continue;
                }
                let layer = cursors[at].layers.front();
                break Err(JobError::from(LayerDamage {
                    layer: layer.map_or(LayerNumber::FIRST, |layer| layer.number),
                    page,
                    what: format!("an entry at LSN {lsn} stands behind a later one"),
                }));
            }
            if composer.page() != Some(page) {
                if output.is_long() {
                    composer.end_page(output.builder(|| layers.take_number()));
                    output.finish_layer();
                    break Ok(false);
                }
                composer.end_page(output.builder(|| layers.take_number()));
                composer.begin(page, Depth::default());
            } else if output.is_too_long() {
                output.finish_layer();
                break Ok(false);
            }
            let Some(Ok(entry)) = heads[at].peek() else {
                unreachable!("looked at just now");
            };
            let bytes = match entry {
                LayerEntry::Record(record) => redo_bytes(&record.op),
                LayerEntry::Image(_) => 0,
            };
            *budget -= 1;
            let before = output.data_bytes();
            let builder = output.builder(|| layers.take_number());
            let composed = composer.push(entry, bytes, builder);
            *budget = budget.saturating_sub(output.cost_since(before));
            match composed {
                Ok(Composed::Taken) => {
                    heads[at].next();
                    taken[at] += 1;
                    *last = Some(key);
                }
                Ok(Composed::NeedsBase(page, lsn)) => {
                    let gather = Gather::by_page(page, lsn, layers.runs());
                    *base = Some((layers.generation(), gather, lsn));
                    break Ok(false);
                }
                Err(error) => break Err(JobError::from(error)),
            }
        };
        drop(heads);
        for (cursor, count) in self.cursors.iter_mut().zip(taken) {
            cursor.advance(count);
        }
        if outcome? {
            if self.composer.page().is_some() {
                let builder = self.output.builder(|| segment.layers.take_number());
                self.composer.end_page(builder);
            }
            self.output.finish_layer();
            self.merged = true;
        }
        Ok(())
    }
}

/// What becomes of the next layer of the oldest run.
enum Next {
    /// It is read, or was begun, or there is none.
    Read,
    /// That is known when all others are at this page.
    Wait(PageId),
    /// It stays as it is.
    Keep,
}

/// What a merge takes next.
enum Least {
    /// The next entry of this run.
    Entry(Key, usize),
    /// A run has to be read on before anything else is taken.
    ReadOn,
    /// Nothing is left.
    End,
}

/// The least of the next entries of all runs.
fn least<'a>(
    heads: &mut [Peekable<impl Iterator<Item = Result<LayerEntry<'a>, DecodeError>>>],
    cursors: &[Cursor],
    fence: Option<PageId>,
) -> Result<Least, JobError> {
    let mut first: Option<(Key, usize)> = None;
    for (at, head) in heads.iter_mut().enumerate() {
        match head.peek() {
            Some(Ok(entry)) => {
                let image = matches!(entry, LayerEntry::Image(_));
                let key = (entry.page(), entry.lsn(), image);
                if first.is_none_or(|(least, _)| key < least) {
                    first = Some((key, at));
                }
            }
            Some(Err(error)) => return Err(JobError::Block(error.clone())),
            None if cursors[at].is_at_end() => {}
            None if at == 0 && fence.is_some() => {}
            None => return Ok(Least::ReadOn),
        }
    }
    if let Some(fence) = fence
        && first.is_none_or(|((page, ..), _)| page >= fence)
    {
        return Ok(Least::ReadOn);
    }
    Ok(first.map_or(Least::End, |(key, at)| Least::Entry(key, at)))
}

/// Which neighbors should be merged: their place among the runs.
///
/// A run should be more than twice as large as everything newer together: sizes triple from run to run then, so that there are
/// about log3(all bytes / bytes of a freeze) + [`RUNS_MIN`] of them, and what can be collected is less than half of what cannot.
/// Where that does not hold for at least [`RUNS_MIN`] of them, they are merged. Above `runs_max` the newest ones are, whatever
/// their sizes. `crowded`: the catalogs need room, and all runs become one.
pub(crate) fn choose(
    runs: &[Run],
    runs_max: usize,
    crowded: bool,
) -> Option<std::ops::Range<usize>> {
    if crowded && runs.len() > 1 {
        return Some(0..runs.len());
    }
    let mut newer = 0;
    let mut start = None;
    for (at, run) in runs.iter().enumerate().rev() {
        let count = runs.len() - at;
        if count >= RUNS_MIN && run.bytes() <= 2 * newer {
            start = Some(at);
        }
        newer += run.bytes();
    }
    if start.is_none() && runs.len() > runs_max {
        start = Some(runs.len() - RUNS_MIN.min(runs.len()));
    }
    start.map(|start| start..runs.len())
}

/// Runs that are merged at once, at least.
pub(crate) const RUNS_MIN: usize = 4;
