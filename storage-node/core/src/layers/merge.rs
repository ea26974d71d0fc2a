//! Merging: neighboring runs become one, and what nobody can read any more stays behind.
//!
//! The runs are read block by block in the order of their entries, a few hundred kilobytes of each at a time, and composed into the
//! new run: memory does not depend on how much is merged. Where the oldest run is among them, every page begins in them.

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

    /// Takes blocks that were fetched; says which are needed when there is none.
    fn fill(&mut self, sources: &mut Sources<'_>, needs: &mut Vec<Located>) {
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
                for cursor in &mut self.cursors {
                    cursor.fill(&mut sources, &mut needs);
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
            let (key, at) = match least(&mut heads, cursors)? {
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
) -> Result<Least, JobError> {
    let mut first = None;
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
            None => return Ok(Least::ReadOn),
        }
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
