//! Layers: immutable, sorted files of what a segment folded out of its hot log.
//!
//! ```text
//! | header | data blocks, about 16 KiB each | index | filter | zeros | footer |
//! ```
//!
//! There is one kind of file. It holds *entries*, sorted by page, then LSN: a *record* as it stood in a batch, or an
//! *image*, a page as it was at an LSN. A layer of records alone is what the field calls a delta layer, one of images
//! alone an image layer; a layer may hold both. Which layers a segment has is its [`LayerCatalog`], an entry of the hot
//! log: a file that no catalog names is garbage, whatever it holds.
//!
//! Nothing here does I/O. [`LayerBuilder`] gives bytes to write in pieces of bounded size; a reader takes
//! [`LayerSummary`] from the catalog (or from the footer, offline), [`LayerIndex`] from one read, and [`Block`]s as it needs
//! them. The caller keeps what is above min(SCL, highest VDL seen) out of a layer (R11): a record in a layer has lost its
//! epoch and cannot be annulled any more.
//!
//! ```text
//! write:  LayerBuilder::new -> push_record / push_image ... -> ready_bytes + take_ready ... -> finish -> take_ready ...
//! read:   summary.index_range() -> LayerIndex::decode -> blocks_for(page, after, through) -> Block::decode -> entries()
//! ```

mod block;
mod builder;
mod catalog;
mod ends;
mod filter;
mod index;

use std::fmt;
use std::ops::Range;

use crate::error::DecodeError;
use crate::id::{PageId, PgId, SegmentId, VolumeId};
use crate::lsn::Lsn;
use crate::page::Page;
use crate::record::Record;

pub use block::{Block, LayerEntries};
pub use builder::LayerBuilder;
pub use catalog::{CATALOG_VERSION, CatalogLayer, LayerCatalog};
pub use ends::LayerHeader;
pub use index::{BlockAt, LayerIndex};

/// The version of the layer format that this build writes and reads.
pub const LAYER_VERSION: u16 = 1;
/// Bytes of a layer's header.
pub const LAYER_HEADER_BYTES: usize = 128;
/// Bytes of a layer's footer: the last bytes of the file, never larger than its last unit.
pub const LAYER_FOOTER_BYTES: usize = 256;
/// Bytes of a data block before its entries: checksum, length, entry count.
pub const BLOCK_HEADER_BYTES: usize = 12;
/// Length that a data block aims at, its header included.
pub const BLOCK_BYTES_USUAL: u32 = 16 << 10;
/// Longest data block. A length above it is damage.
pub const BLOCK_BYTES_LIMIT: usize = 64 << 10;
/// Longest layer, bytes.
pub const LAYER_BYTES_MAX: u64 = 1 << 32;
/// Most layers in one catalog: what one entry of the hot log carries.
pub const CATALOG_LAYERS_MAX: usize = 2_048;
/// Bytes of a layer in a catalog.
pub const CATALOG_LAYER_BYTES: usize = 144;
/// Bits of the page filter for each page of the layer, about.
pub const FILTER_BITS_PER_PAGE: u64 = 10;
/// Bits that the filter sets for each page.
pub const FILTER_PROBES: u32 = 7;

const _: () =
    assert!(CATALOG_LAYERS_MAX * CATALOG_LAYER_BYTES < crate::limits::BATCH_BYTES_MAX / 2);
const _: () = assert!(LAYER_FOOTER_BYTES <= crate::hot_log::BLOCK_BYTES_MIN as usize);
const _: () =
    assert!(crate::limits::RECORD_BYTES_MAX + BLOCK_HEADER_BYTES + 64 < BLOCK_BYTES_USUAL as usize);

/// The number of a layer among those of its segment, from 1; never used again. Segment and number name the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerNumber(pub u64);

impl LayerNumber {
    /// The first one of a segment.
    pub const FIRST: LayerNumber = LayerNumber(1);

    /// The one after this.
    ///
    /// # Panics
    /// At the end of the 64-bit space.
    #[must_use]
    pub const fn next(self) -> LayerNumber {
        match self.0.checked_add(1) {
            Some(number) => LayerNumber(number),
            None => panic!("layer numbers exhausted"),
        }
    }
}

impl fmt::Display for LayerNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who wrote a layer. Every checksum in the file is seeded with it, so that a block of another layer, or of what stood at
/// the same place on disk before, never verifies. It stays when another segment of the protection group takes a copy of
/// the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerIdentity {
    /// The volume.
    pub volume: VolumeId,
    /// The protection group.
    pub pg: PgId,
    /// The segment that wrote it.
    pub segment: SegmentId,
    /// Its number at that segment.
    pub layer: LayerNumber,
}

/// What a builder has to know before the first entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerOptions {
    /// Who writes it.
    pub identity: LayerIdentity,
    /// The layer holds no record at or below it.
    pub lsn_after: Lsn,
    /// The layer holds everything of its pages in `(lsn_after, lsn_through]` that its writer wanted to keep, and nothing
    /// above. Images may lie at or below `lsn_after`.
    pub lsn_through: Lsn,
    /// Alignment unit of writes, bytes: the superblock's. The file is a multiple of it.
    pub unit_bytes: u32,
    /// Length that data blocks aim at, usually [`BLOCK_BYTES_USUAL`]. A block with a single entry may be longer.
    pub block_bytes: u32,
}

/// Everything about a layer that is not in its blocks: what the footer says, and what the catalog repeats, so that no footer is
/// read in the course of things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSummary {
    /// Who wrote it.
    pub identity: LayerIdentity,
    /// See [`LayerOptions::lsn_after`].
    pub lsn_after: Lsn,
    /// See [`LayerOptions::lsn_through`].
    pub lsn_through: Lsn,
    /// Alignment unit of the file, bytes.
    pub unit_bytes: u32,
    /// Length of the file, bytes.
    pub file_bytes: u64,
    /// The lowest page that has an entry.
    pub page_first: PageId,
    /// The highest page that has an entry (inclusive, as LSN points are).
    pub page_last: PageId,
    /// Pages that have entries.
    pub page_count: u64,
    /// Entries that are records.
    pub record_count: u64,
    /// Entries that are images.
    pub image_count: u64,
    /// Data blocks.
    pub block_count: u32,
    /// Where the data blocks end and the index begins.
    pub index_offset: u64,
    /// Length of the index, bytes. The filter follows.
    pub index_bytes: u32,
    /// Length of the filter, bytes.
    pub filter_bytes: u32,
    /// CRC-32 without a seed of everything before the footer. It names the contents: a copy of the file has the same.
    pub file_checksum: u32,
}

impl LayerSummary {
    /// Where index and filter stand in the file: what [`LayerIndex::decode`] takes. Not aligned; see [`aligned`].
    pub fn index_range(&self) -> Range<u64> {
        let end = self.index_offset + u64::from(self.index_bytes) + u64::from(self.filter_bytes);
        self.index_offset..end
    }

    /// Whether the page lies in the layer's page range. The filter of the index says more.
    pub fn covers_page(&self, page: PageId) -> bool {
        (self.page_first..=self.page_last).contains(&page)
    }

    /// Bytes that the decoded index and filter take in memory, about. With 16 KiB blocks that is 1.5 KiB a MiB of layer, and
    /// ten bits a page.
    pub fn index_memory_bytes(&self) -> usize {
        self.block_count as usize * index::MEMORY_BYTES_PER_BLOCK + self.filter_bytes as usize
    }
}

/// `range` widened to whole units: what `O_DIRECT` reads to get it.
pub fn aligned(range: &Range<u64>, unit_bytes: u32) -> Range<u64> {
    let unit = u64::from(unit_bytes);
    range.start / unit * unit..range.end.next_multiple_of(unit)
}

/// An entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerEntry<'a> {
    /// A record, as it stood in a batch.
    Record(Record<'a>),
    /// A page as it was at an LSN.
    Image(LayerImage<'a>),
}

/// A page as it was at the LSN of its last record, without its free space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerImage<'a> {
    /// The page.
    pub page: PageId,
    /// Its page LSN.
    pub lsn: Lsn,
    /// What [`Page::pack`] gave.
    pub packed: &'a [u8],
}

impl LayerEntry<'_> {
    /// Its page.
    pub fn page(&self) -> PageId {
        match self {
            LayerEntry::Record(record) => record.page,
            LayerEntry::Image(image) => image.page,
        }
    }

    /// Its LSN.
    pub fn lsn(&self) -> Lsn {
        match self {
            LayerEntry::Record(record) => record.lsn,
            LayerEntry::Image(image) => image.lsn,
        }
    }

    /// What entries are sorted by. A record stands before the image that has it folded in.
    fn key(&self) -> Key {
        let image = matches!(self, LayerEntry::Image(_));
        (self.page(), self.lsn(), image)
    }
}

impl LayerImage<'_> {
    /// The page itself, checked as one from disk is, byte for byte what was packed.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not a sound page of `page_bytes` bytes with this id and LSN.
    pub fn unpack(&self, page_bytes: usize) -> Result<Page, DecodeError> {
        let page = Page::unpack(self.packed, self.page, page_bytes)?;
        if page.lsn() != self.lsn {
            return Err(DecodeError::Invalid {
                zone: "layer image",
                field: "page LSN",
                found: page.lsn().get(),
                offset: 0,
            });
        }
        Ok(page)
    }
}

/// Page, LSN, whether it is an image.
type Key = (PageId, Lsn, bool);

/// The parts that have a checksum of their own behind the header.
#[derive(Debug, Clone, Copy)]
enum Part {
    Block(u32),
    Index,
    Filter,
}

/// What the checksum of a part begins with.
fn seed(identity: &LayerIdentity, part: Part) -> [u8; 49] {
    let (kind, number) = match part {
        Part::Block(number) => (1, number),
        Part::Index => (2, 0),
        Part::Filter => (3, 0),
    };
    let mut seed = [0; 49];
    seed[..16].copy_from_slice(identity.volume.as_bytes());
    seed[16..20].copy_from_slice(&identity.pg.get().to_le_bytes());
    seed[20..36].copy_from_slice(identity.segment.as_bytes());
    seed[36..44].copy_from_slice(&identity.layer.0.to_le_bytes());
    seed[44] = kind;
    seed[45..].copy_from_slice(&number.to_le_bytes());
    seed
}
