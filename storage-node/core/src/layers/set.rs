//! Which layers a segment has, as its catalog says, in the order in which reads want them.
//!
//! Layers form *runs*: a run covers a range of LSNs, `(after, through]`, each of its layers for pages of its own; but a page that would
//! make a layer too long goes on in the next one, its later entries there. Runs do not overlap and leave no gap, the oldest one
//! first. A freeze adds a run at the end, a merge replaces neighbors by one. Layers of the oldest run that a merge left as they were, since
//! nothing newer touched their pages, end below the others of their run: there is nothing of their pages in between.

use std::collections::BTreeMap;

use sixfold_log_format::layer::{CatalogLayer, LayerCatalog, LayerNumber};
use sixfold_log_format::{Lsn, PageId};

/// Layers of one range of LSNs, by page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) after: Lsn,
    pub(crate) through: Lsn,
    pub(crate) layers: Vec<CatalogLayer>,
}

impl Run {
    /// Bytes of its files.
    pub(crate) fn bytes(&self) -> u64 {
        self.layers
            .iter()
            .map(|layer| layer.summary.file_bytes)
            .sum()
    }

    /// The layers that may hold a page, its oldest entries first. Nearly always it is one.
    pub(crate) fn layers_of(&self, page: PageId) -> &[CatalogLayer] {
        let layers = &self.layers;
        let start = layers.partition_point(|layer| layer.summary.page_last < page);
        let end = layers.partition_point(|layer| layer.summary.page_first <= page);
        &layers[start..end.max(start)]
    }
}

/// The layers of a segment.
#[derive(Debug, Default)]
pub(crate) struct LayerSet {
    /// The catalog that is durable.
    catalog: LayerCatalog,
    runs: Vec<Run>,
    /// The next number, above all that were given out in this life.
    next: LayerNumberOrFirst,
    /// Counts the catalogs: whoever read layers looks whether they are still the same.
    generation: u64,
}

/// A [`LayerNumber`] with a default.
#[derive(Debug, Clone, Copy)]
struct LayerNumberOrFirst(LayerNumber);

impl Default for LayerNumberOrFirst {
    fn default() -> Self {
        LayerNumberOrFirst(LayerNumber::FIRST)
    }
}

/// Why a catalog is none that this build wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CatalogError {
    /// Layers overlap in LSNs without sharing their range, or in pages within a run.
    #[error("layer {layer} overlaps another one")]
    Overlap {
        /// The layer.
        layer: LayerNumber,
    },
}

/// Groups the layers of a catalog into runs.
pub(crate) fn runs_of(catalog: &LayerCatalog) -> Result<Vec<Run>, CatalogError> {
    let mut by_range: BTreeMap<(Lsn, Lsn), Vec<CatalogLayer>> = BTreeMap::new();
    for layer in &catalog.layers {
        let range = (layer.summary.lsn_after, layer.summary.lsn_through);
        by_range.entry(range).or_default().push(layer.clone());
    }
    let mut runs: Vec<Run> = Vec::new();
    for ((after, through), mut layers) in by_range {
        // One job wrote all of a run, in this order; a copy keeps the number that the file was written under.
        layers.sort_by_key(|layer| {
            let summary = &layer.summary;
            let written = summary.identity.layer;
            (summary.page_first, summary.page_last, written)
        });
        let layer = layers[0].number;
        match runs.last_mut().filter(|before| before.after == after) {
            Some(same) => {
                same.layers.append(&mut layers);
                let pages =
                    |layer: &CatalogLayer| (layer.summary.page_first, layer.summary.page_last);
                // Stable: each of the two is in order, and a page is in one of them.
                same.layers.sort_by_key(pages);
                same.through = through;
                let is_shared = |pair: &[CatalogLayer]| {
                    let (one, other) = (&pair[0].summary, &pair[1].summary);
                    one.lsn_through != other.lsn_through && one.page_last >= other.page_first
                };
                if same.layers.windows(2).any(is_shared) {
                    return Err(CatalogError::Overlap { layer });
                }
            }
            None => runs.push(Run {
                after,
                through,
                layers,
            }),
        }
        let is_clash = match &runs[..] {
            [.., before, last] => before.through > last.after,
            _ => false,
        };
        let run = runs.last().expect("added just now");
        let overlap = run
            .layers
            .windows(2)
            .any(|pair| pair[0].summary.page_last > pair[1].summary.page_first);
        if overlap || is_clash {
            return Err(CatalogError::Overlap { layer });
        }
    }
    Ok(runs)
}

impl LayerSet {
    /// The catalog that is durable.
    pub(crate) fn catalog(&self) -> &LayerCatalog {
        &self.catalog
    }

    /// The runs, the oldest first.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Where the layers end.
    pub(crate) fn folded_through(&self) -> Lsn {
        self.catalog.folded_through
    }

    /// Below it no page can be read.
    pub(crate) fn horizon(&self) -> Lsn {
        self.catalog.horizon
    }

    /// Changes with every catalog.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// A layer.
    pub(crate) fn layer(&self, number: LayerNumber) -> Option<&CatalogLayer> {
        self.catalog.layer(number)
    }

    /// A number that no file has.
    pub(crate) fn take_number(&mut self) -> LayerNumber {
        let number = self.next.0;
        self.next.0 = number.next();
        number
    }

    /// A file of this number lies on the disk.
    pub(crate) fn saw_file(&mut self, number: LayerNumber) {
        self.next.0 = self.next.0.max(number.next());
    }

    /// The catalog that has `new` in the place of `gone`.
    pub(crate) fn replaced(
        &self,
        gone: &[LayerNumber],
        new: &[CatalogLayer],
        folded_through: Lsn,
        horizon: Lsn,
    ) -> LayerCatalog {
        let kept = self
            .catalog
            .layers
            .iter()
            .filter(|layer| !gone.contains(&layer.number));
        let mut layers: Vec<CatalogLayer> = kept.chain(new).cloned().collect();
        layers.sort_by_key(|layer| layer.number);
        LayerCatalog {
            folded_through: self.catalog.folded_through.max(folded_through),
            horizon: self.catalog.horizon.max(horizon),
            next: self.next.0,
            layers,
        }
    }

    /// A catalog became durable. Returns the layers that it does not list any more.
    ///
    /// # Errors
    /// [`CatalogError`]; nothing was taken.
    pub(crate) fn apply(
        &mut self,
        catalog: &LayerCatalog,
    ) -> Result<Vec<LayerNumber>, CatalogError> {
        if *catalog == self.catalog {
            return Ok(Vec::new());
        }
        let runs = runs_of(catalog)?;
        let gone = self
            .catalog
            .layers
            .iter()
            .map(|layer| layer.number)
            .filter(|number| catalog.layer(*number).is_none())
            .collect();
        self.runs = runs;
        self.next.0 = self.next.0.max(catalog.next);
        self.catalog = catalog.clone();
        self.generation += 1;
        Ok(gone)
    }
}
