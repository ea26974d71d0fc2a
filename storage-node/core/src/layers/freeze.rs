//! Freezing: the oldest part of the memory index becomes a run of layers.
//!
//! ```text
//!   load the chain's batches up to X, in LSN order  ->  walk the index by page  ->  compose, write, sync  ->  catalog
//! ```
//! X is never above min(SCL, highest VDL seen) (R11), and so near that its batches fit the budget: they are held in memory while
//! the walk picks records from them. The walk goes in small steps; what comes into the index meanwhile lies above X.

use std::collections::{BTreeMap, VecDeque};

use sixfold_log_format::layer::LayerEntry;
use sixfold_log_format::{Batch, Lsn, PageId, apply};

use super::compose::{ChainBound, Composed, Composer, Depth, redo_bytes};
use super::gather::{Gather, Gathering};
use super::output::{Output, Wanted};
use crate::bounds::{BASE_COST, JOB_BYTES_MAX};
use crate::chain::BatchId;
use crate::jobs::{BackgroundStep, JobError};
use crate::layers::cache::LayerCache;
use crate::parts::{Fetched, Located, Sources};
use crate::segment::Segment;

/// A freeze.
#[derive(Debug)]
pub(crate) struct FreezeWork {
    after: Lsn,
    pub(crate) through: Lsn,
    pub(crate) horizon: Lsn,
    missing: VecDeque<BatchId>,
    loaded: BTreeMap<BatchId, Batch>,
    loaded_bytes: usize,
    composer: Composer,
    pub(crate) output: Output,
    /// The page that the walk is at, and its last record that was taken.
    page: PageId,
    taken: Lsn,
    base: Option<(u64, Gather)>,
    walked: bool,
    /// How long the chains of its pages are when it is published.
    pub(crate) depths: Vec<(PageId, Depth)>,
}

impl FreezeWork {
    pub(crate) fn new(
        segment: &Segment,
        (batches, through): (Vec<BatchId>, Lsn),
        horizon: Lsn,
        bound: ChainBound,
        output: Output,
    ) -> FreezeWork {
        let page_bytes = segment.manifest.parameters.page_bytes as usize;
        let is_bottom = segment.layers.runs().is_empty();
        FreezeWork {
            after: segment.layers.folded_through(),
            through,
            horizon,
            missing: batches.into(),
            loaded: BTreeMap::new(),
            loaded_bytes: 0,
            composer: Composer::new(page_bytes, horizon, bound, is_bottom),
            output,
            page: PageId::NONE,
            taken: Lsn::NONE,
            base: None,
            walked: false,
            depths: Vec::new(),
        }
    }

    /// Bytes of memory that it takes, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let depths = self.depths.len() * size_of::<(PageId, Depth)>();
        self.loaded_bytes + depths + self.output.memory_bytes()
    }

    /// Goes on until something is needed or about `budget` records were walked.
    pub(crate) fn step(
        &mut self,
        segment: &mut Segment,
        fetched: &mut Fetched,
        cache: &mut LayerCache,
        budget: &mut usize,
    ) -> Result<BackgroundStep, JobError> {
        while let Some(id) = self.missing.front().copied() {
            if *budget == 0 {
                return Ok(BackgroundStep::Pause);
            }
            let resident = segment.chain.get(id).resident.clone();
            let Some(batch) = resident.or_else(|| fetched.batches.remove(&id)) else {
                return Ok(BackgroundStep::Fetch(self.next_batches(segment)));
            };
            *budget -= 1;
            self.loaded_bytes += batch.len_bytes();
            self.loaded.insert(id, batch);
            self.missing.pop_front();
        }
        loop {
            match self.output.next() {
                Some(Wanted::Write(layer, offset, bytes)) => {
                    return Ok(BackgroundStep::Write(layer, offset, bytes));
                }
                Some(Wanted::Sync(layer)) => return Ok(BackgroundStep::Sync(layer)),
                None if self.walked => return Ok(BackgroundStep::Publish),
                None => {}
            }
            if *budget == 0 {
                return Ok(BackgroundStep::Pause);
            }
            if let Some(needs) = self.find_base(segment, fetched, cache, budget)? {
                return Ok(BackgroundStep::Fetch(needs));
            }
            self.walk(segment, budget)?;
        }
    }

    fn next_batches(&self, segment: &Segment) -> Vec<Located> {
        let mut bytes = 0;
        let missing = self.missing.iter().copied();
        let missing = missing.filter(|id| segment.chain.get(*id).resident.is_none());
        let next = missing.take_while(|id| {
            bytes += segment.chain.get(*id).bytes as usize;
            bytes <= JOB_BYTES_MAX
        });
        let mut next: Vec<Located> = next.map(|id| Located::batch(&segment.chain, id)).collect();
        if next.is_empty() {
            next.extend(
                self.missing
                    .front()
                    .map(|id| Located::batch(&segment.chain, *id)),
            );
        }
        next
    }

    /// Where the composer asked for a page: what is still needed for it.
    fn find_base(
        &mut self,
        segment: &Segment,
        fetched: &mut Fetched,
        cache: &mut LayerCache,
        budget: &mut usize,
    ) -> Result<Option<Vec<Located>>, JobError> {
        let Some((generation, mut gather)) = self.base.take() else {
            return Ok(None);
        };
        let runs = segment.layers.runs();
        let now = segment.layers.generation();
        if generation != now {
            gather = Gather::by_page(self.page, self.after, runs);
        }
        let mut sources = Sources {
            segment: segment.id,
            fetched,
            cache,
        };
        match gather.advance(runs, &mut sources)? {
            Gathering::Needs(parts) => {
                self.base = Some((now, gather));
                fetched.pass(segment, self.page, cache);
                return Ok(Some(parts));
            }
            Gathering::Done => {}
        }
        *budget = budget.saturating_sub(BASE_COST);
        let page_bytes = segment.manifest.parameters.page_bytes as usize;
        let mut page = gather.into_page(page_bytes)?;
        let (entries, _) =
            segment
                .index
                .records(self.page, self.after, self.taken, &segment.history);
        for entry in entries {
            let Some(loaded) = self.loaded.get(&entry.batch) else {
                continue;
            };
            apply(&mut page, &entry.record(loaded, self.page))?;
        }
        self.composer.set_base(page);
        Ok(None)
    }

    /// Walks the index until a chunk is ready, a page is needed, or the budget is used up.
    fn walk(&mut self, segment: &mut Segment, budget: &mut usize) -> Result<(), JobError> {
        let Segment {
            index,
            layers,
            history,
            depths,
            ..
        } = segment;
        index.settle();
        while let Some((page, entries)) = index.page_from(self.page) {
            if page != self.page {
                (self.page, self.taken) = (page, Lsn::NONE);
            }
            let from = self.taken.max(self.after);
            let start = entries.partition_point(|entry| entry.lsn <= from);
            let end = entries.partition_point(|entry| entry.lsn <= self.through);
            for entry in &entries[start..end.max(start)] {
                let loaded = self
                    .loaded
                    .get(&entry.batch)
                    .filter(|_| !history.annuls(entry.lsn));
                let Some(loaded) = loaded else {
                    continue;
                };
                if self.output.has_chunk() || *budget == 0 {
                    return Ok(());
                }
                if self.composer.page() != Some(page) {
                    if self.output.is_long() {
                        let builder = self.output.builder(|| layers.take_number());
                        self.depths.extend(self.composer.end_page(builder));
                        self.output.finish_layer();
                        return Ok(());
                    }
                    let builder = self.output.builder(|| layers.take_number());
                    self.depths.extend(self.composer.end_page(builder));
                    let depth = depths.get(&page).copied().unwrap_or_default();
                    self.composer.begin(page, depth);
                } else if self.output.is_too_long() {
                    self.output.finish_layer();
                    return Ok(());
                }
                *budget -= 1;
                let record = entry.record(loaded, page);
                let bytes = redo_bytes(&record.op);
                let entry = LayerEntry::Record(record);
                let before = self.output.data_bytes();
                let builder = self.output.builder(|| layers.take_number());
                let composed = self.composer.push(&entry, bytes, builder)?;
                *budget = budget.saturating_sub(self.output.cost_since(before));
                match composed {
                    Composed::Taken => self.taken = entry.lsn(),
                    Composed::NeedsBase(..) => {
                        let gather = Gather::by_page(page, self.after, layers.runs());
                        self.base = Some((layers.generation(), gather));
                        return Ok(());
                    }
                }
            }
            *budget = budget.saturating_sub(1);
            self.page = PageId::new(page.get() + 1);
            self.taken = Lsn::NONE;
        }
        self.walked = true;
        if self.composer.page().is_some() {
            let builder = self.output.builder(|| layers.take_number());
            self.depths.extend(self.composer.end_page(builder));
        }
        self.output.finish_layer();
        Ok(())
    }
}
