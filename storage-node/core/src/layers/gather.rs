//! Finding a page in the layers: the newest image at or below an LSN and the records behind it.
//!
//! Newest run first, so that the search ends at the first image. Filter and page range of a layer say whether to look at all;
//! then it is one block, or the few that the page's entries fill. What is at hand already as a cached image bounds the search
//! from below.

use sixfold_log_format::layer::{Block, CatalogLayer, LayerEntry, LayerNumber};
use sixfold_log_format::{Lsn, Page, PageId, apply};

use super::set::Run;
use crate::parts::{Located, Sources};

/// How far a search came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gathering {
    /// Everything is at hand.
    Done,
    /// These parts are needed next.
    Needs(Vec<Located>),
}

/// The layers do not hold what they must: damage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("layer {layer}, page {page}: {what}")]
pub(crate) struct LayerDamage {
    pub(crate) layer: LayerNumber,
    pub(crate) page: PageId,
    pub(crate) what: String,
}

/// A search for one page.
#[derive(Debug)]
pub(crate) struct Gather {
    page: PageId,
    through: Lsn,
    /// A version of the page that is at hand.
    floor: Option<Page>,
    /// Runs below this one are still to be looked at.
    run: usize,
    /// Of the run at hand, of the layers that may hold the page those below this one are; all for `None`.
    layer_end: Option<usize>,
    /// Of the layer at hand, blocks below this one are.
    block_end: Option<u32>,
    /// Blocks that hold entries, newest first.
    blocks: Vec<(LayerNumber, Block)>,
    /// LSN of the entry that the page begins with, and whether that is an image.
    start: Option<(Lsn, bool)>,
    /// Blocks that are read along, behind those of the page: whoever goes by page wants them next.
    ahead: u32,
}

/// Blocks of one page that are asked for at once.
const BLOCKS_AT_ONCE: u32 = 8;

impl Gather {
    /// A search for `page` as of `through`, over `floor` where a version of it is known.
    pub(crate) fn new(page: PageId, through: Lsn, floor: Option<Page>, runs: &[Run]) -> Gather {
        Gather {
            page,
            through,
            floor,
            run: runs.len(),
            layer_end: None,
            block_end: None,
            blocks: Vec::new(),
            start: None,
            ahead: 0,
        }
    }

    /// The same for somebody who will ask for the pages behind this one.
    pub(crate) fn by_page(page: PageId, through: Lsn, runs: &[Run]) -> Gather {
        let ahead = BLOCKS_AT_ONCE;
        let gather = Gather::new(page, through, None, runs);
        Gather { ahead, ..gather }
    }

    fn floor_lsn(&self) -> Lsn {
        self.floor.as_ref().map_or(Lsn::NONE, Page::lsn)
    }

    /// Goes on as far as parts are at hand. `runs` are the same as in the calls before.
    ///
    /// # Errors
    /// [`LayerDamage`]: a block with a sound checksum is none.
    pub(crate) fn advance(
        &mut self,
        runs: &[Run],
        sources: &mut Sources<'_>,
    ) -> Result<Gathering, LayerDamage> {
        while self.run > 0 && self.start.is_none() {
            let run = &runs[self.run - 1];
            if run.through <= self.floor_lsn() {
                break;
            }
            let layers = match run.after < self.through {
                true => run.layers_of(self.page),
                false => &[],
            };
            let layer_end = self
                .layer_end
                .map_or(layers.len(), |end| end.min(layers.len()));
            let Some(layer) = layers[..layer_end].last() else {
                self.run -= 1;
                self.layer_end = None;
                continue;
            };
            let Some(index) = sources.index(layer.number) else {
                let missing = self.missing_indexes(runs, layer, sources);
                return Ok(Gathering::Needs(missing));
            };
            let range = index.blocks_for(self.page, self.floor_lsn(), self.through);
            let end = self.block_end.unwrap_or(range.end).min(range.end);
            if end <= range.start {
                self.layer_end = Some(layer_end - 1);
                self.block_end = None;
                continue;
            }
            let Some(block) = sources.block(layer.number, end - 1) else {
                let first = range.start.max(end.saturating_sub(BLOCKS_AT_ONCE));
                let behind = (end + self.ahead).min(index.block_count());
                let missing = (first..behind)
                    .map(|number| index.block(number))
                    .map(|at| Located::block(sources.segment, layer.number, &at));
                return Ok(Gathering::Needs(missing.collect()));
            };
            self.take(layer.number, block)?;
            self.block_end = Some(end - 1);
        }
        Ok(Gathering::Done)
    }

    /// The indexes that this search may want, of the layer at hand and of all runs below: one wait for all of them.
    fn missing_indexes(
        &self,
        runs: &[Run],
        layer: &CatalogLayer,
        sources: &mut Sources<'_>,
    ) -> Vec<Located> {
        let segment = sources.segment;
        let below = runs[..self.run - 1]
            .iter()
            .filter(|run| run.through > self.floor_lsn() && run.after < self.through);
        let layers = below.filter_map(|run| run.layers_of(self.page).last());
        layers
            .chain([layer])
            .filter(|layer| sources.index(layer.number).is_none())
            .map(|layer| Located::index(segment, layer))
            .collect()
    }

    fn take(&mut self, layer: LayerNumber, block: Block) -> Result<(), LayerDamage> {
        let floor = self.floor_lsn();
        let (mut holds, mut start) = (false, None);
        for entry in block.entries() {
            let entry = entry.map_err(|error| LayerDamage {
                layer,
                page: self.page,
                what: error.to_string(),
            })?;
            if entry.page() > self.page {
                break;
            }
            if entry.page() != self.page || entry.lsn() > self.through || entry.lsn() <= floor {
                continue;
            }
            holds = true;
            match &entry {
                LayerEntry::Image(image) => start = Some((image.lsn, true)),
                LayerEntry::Record(record) if record.op.starts_chain() => {
                    start = Some((record.lsn, false));
                }
                LayerEntry::Record(_) => {}
            }
        }
        if holds {
            self.blocks.push((layer, block));
        }
        self.start = start;
        Ok(())
    }

    /// The page as the layers have it.
    ///
    /// # Errors
    /// [`LayerDamage`]: its records do not fit.
    pub(crate) fn into_page(self, page_bytes: usize) -> Result<Page, LayerDamage> {
        let start = self.start.unwrap_or((Lsn::NONE, false));
        let floor = self.floor_lsn();
        let fresh = || Page::new(self.page, page_bytes);
        let mut page = match &self.floor {
            Some(floor) if self.start.is_none() => floor.clone(),
            _ => fresh(),
        };
        for (layer, block) in self.blocks.iter().rev() {
            let damage = |what: String| LayerDamage {
                layer: *layer,
                page: self.page,
                what,
            };
            for entry in block.entries() {
                let entry = entry.map_err(|error| damage(error.to_string()))?;
                let lsn = entry.lsn();
                if entry.page() > self.page {
                    break;
                }
                if entry.page() != self.page || lsn > self.through || lsn <= floor {
                    continue;
                }
                match entry {
                    LayerEntry::Image(image) if (lsn, true) == start => {
                        page = image
                            .unpack(page_bytes)
                            .map_err(|error| damage(error.to_string()))?;
                    }
                    LayerEntry::Record(record) if (lsn, false) >= start => {
                        apply(&mut page, &record).map_err(|error| damage(error.to_string()))?;
                    }
                    LayerEntry::Image(_) | LayerEntry::Record(_) => {}
                }
            }
        }
        Ok(page)
    }
}
