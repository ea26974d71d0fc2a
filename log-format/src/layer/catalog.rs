//! The layer catalog of a segment: which layers it has. Publishing it is one entry of the hot log, atomic and synced as
//! claims are: a crash at any byte leaves the old list or the new one.

use super::{CATALOG_LAYERS_MAX, LayerNumber, LayerSummary};
use crate::codec::{Put, Reader};
use crate::error::DecodeError;
use crate::field::{Field, struct_field, take_list};
use crate::lsn::Lsn;

/// The version of the catalog that this build writes and reads.
pub const CATALOG_VERSION: u16 = 1;
const ZONE: &str = "layer catalog";

/// A layer of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogLayer {
    /// Its number here: with the segment, the file's name. For a layer that was copied from a peer it is not the number in
    /// [`super::LayerIdentity`].
    pub number: LayerNumber,
    /// What it is.
    pub summary: LayerSummary,
}

/// Which layers a segment has, whole: the newest catalog in the hot log counts, older ones do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerCatalog {
    /// Every valid record of the segment at or below it is in the layers, or collected. Never above
    /// min(SCL, highest VDL seen) (R11).
    pub folded_through: Lsn,
    /// Pages cannot be read below it: what was needed for that may be collected. It never falls.
    pub horizon: Lsn,
    /// The number of the next layer. Files at or above it are garbage of a crash, as is every file that is not listed.
    pub next: LayerNumber,
    /// The layers, by number.
    pub layers: Vec<CatalogLayer>,
}

impl Default for LayerCatalog {
    fn default() -> LayerCatalog {
        LayerCatalog {
            folded_through: Lsn::NONE,
            horizon: Lsn::NONE,
            next: LayerNumber::FIRST,
            layers: Vec::new(),
        }
    }
}

impl LayerCatalog {
    /// The catalog of a segment without layers.
    pub fn empty() -> LayerCatalog {
        LayerCatalog::default()
    }

    /// The layer with this number.
    pub fn layer(&self, number: LayerNumber) -> Option<&CatalogLayer> {
        let at = self
            .layers
            .binary_search_by_key(&number, |layer| layer.number);
        at.ok().map(|at| &self.layers[at])
    }

    /// Bytes of all layers.
    pub fn file_bytes(&self) -> u64 {
        self.layers
            .iter()
            .map(|layer| layer.summary.file_bytes)
            .sum()
    }

    /// Its bytes, as they stand in hot-log entries too.
    ///
    /// # Panics
    /// When it breaks an invariant: layers out of order or at or above `next`, more than [`CATALOG_LAYERS_MAX`], a
    /// horizon or a layer above `folded_through`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// Reads a catalog and checks its invariants.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that is not one whole catalog.
    pub fn decode(bytes: &[u8]) -> Result<LayerCatalog, DecodeError> {
        let mut input = Reader::new(ZONE, bytes);
        let catalog = LayerCatalog::take(&mut input)?;
        input.finish()?;
        Ok(catalog)
    }

    /// The first thing that is wrong, with its value.
    fn flaw(&self) -> Option<(&'static str, u64)> {
        if self.layers.len() > CATALOG_LAYERS_MAX {
            return Some(("layer count", self.layers.len() as u64));
        }
        if self.horizon > self.folded_through {
            return Some(("horizon", self.horizon.get()));
        }
        let mut before = None;
        for layer in &self.layers {
            if Some(layer.number) <= before || layer.number >= self.next {
                return Some(("layer number", layer.number.0));
            }
            if layer.summary.lsn_through > self.folded_through {
                return Some(("layer above", layer.summary.lsn_through.get()));
            }
            before = Some(layer.number);
        }
        None
    }
}

struct_field!(CatalogLayer { number, summary });

impl Field for LayerCatalog {
    fn put(&self, out: &mut Vec<u8>) {
        if let Some((what, value)) = self.flaw() {
            panic!("a layer catalog with {what} {value}");
        }
        out.put_u16(CATALOG_VERSION);
        self.folded_through.put(out);
        self.horizon.put(out);
        self.next.put(out);
        self.layers.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let zone = input.set_zone(ZONE);
        let version = input.u16()?;
        if version != CATALOG_VERSION {
            return Err(DecodeError::Version {
                zone: ZONE,
                found: version,
                supported: CATALOG_VERSION,
            });
        }
        let catalog = LayerCatalog {
            folded_through: Field::take(input)?,
            horizon: Field::take(input)?,
            next: Field::take(input)?,
            layers: take_list(input.field("layer count"), CATALOG_LAYERS_MAX)?,
        };
        if let Some((what, value)) = catalog.flaw() {
            return Err(input.invalid_field(what, value));
        }
        input.set_zone(zone);
        Ok(catalog)
    }
}
