//! Parts: what jobs read from disk, each verified before anybody sees it.
//!
//! A part is a batch of the hot log, or a block or the index of a layer. A job says which parts it needs; neighbors are read in
//! one go; what came is verified here, against who it must be.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sixfold_log_format::hot_log::ENTRY_HEADER_BYTES;
use sixfold_log_format::layer::{Block, BlockAt, CatalogLayer, LayerIndex, LayerNumber};
use sixfold_log_format::{Batch, PageId, SegmentId};

use crate::action::FileName;
use crate::bounds::{READ_BYTES_MAX, READ_GAP_BYTES};
use crate::chain::{BatchId, Chain};
use crate::hot_log::{Place, whole_blocks};
use crate::layers::cache::{Decoded, LayerCache, LayerPart};
use crate::segment::Segment;

/// Something on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// A batch of the hot log.
    Batch(BatchId),
    /// A part of a layer.
    Layer(LayerNumber, LayerPart),
}

/// A part and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) part: Part,
    pub(crate) file: FileName,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

impl Located {
    /// A durable batch.
    pub(crate) fn batch(chain: &Chain, id: BatchId) -> Located {
        let place = chain.get(id).place;
        let place = place.expect("what is not durable is in memory");
        Located {
            part: Part::Batch(id),
            file: FileName::HotLog(place.file),
            offset: place.offset,
            bytes: place.bytes,
        }
    }

    /// The index of a layer.
    pub(crate) fn index(segment: SegmentId, layer: &CatalogLayer) -> Located {
        let range = layer.summary.index_range();
        Located {
            part: Part::Layer(layer.number, LayerPart::Index),
            file: FileName::Layer(segment, layer.number),
            offset: range.start,
            bytes: u32::try_from(range.end - range.start)
                .expect("two 32-bit lengths, bounded by the file"),
        }
    }

    /// A block of a layer.
    pub(crate) fn block(segment: SegmentId, layer: LayerNumber, at: &BlockAt) -> Located {
        Located {
            part: Part::Layer(layer, LayerPart::Block(at.number)),
            file: FileName::Layer(segment, layer),
            offset: at.offset,
            bytes: at.bytes,
        }
    }
}

/// A run of bytes of a file that holds parts.
#[derive(Debug)]
pub(crate) struct DiskRead {
    pub(crate) job: u64,
    pub(crate) file: FileName,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
    pub(crate) parts: Vec<Located>,
}

/// Groups parts into reads of whole blocks.
pub(crate) fn reads_of(mut parts: Vec<Located>, block_bytes: u64, job: u64) -> Vec<DiskRead> {
    parts.sort_unstable_by_key(|part| (part.file, part.offset));
    parts.dedup();
    let mut reads: Vec<DiskRead> = Vec::new();
    for part in parts {
        let start = part.offset / block_bytes * block_bytes;
        let end = whole_blocks(part.offset + u64::from(part.bytes), block_bytes);
        if let Some(read) = reads.last_mut().filter(|read| read.file == part.file) {
            let read_end = read.offset + u64::from(read.bytes);
            if start <= read_end + READ_GAP_BYTES && end - read.offset <= READ_BYTES_MAX {
                let bytes = end.max(read_end) - read.offset;
                read.bytes = u32::try_from(bytes).expect("bounded by the longest read");
                read.parts.push(part);
                continue;
            }
        }
        let bytes = u32::try_from(end - start).expect("a part is bounded");
        reads.push(DiskRead {
            job,
            file: part.file,
            offset: start,
            bytes,
            parts: vec![part],
        });
    }
    reads
}

/// Parts that were read for one job, verified.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    pub(crate) batches: BTreeMap<BatchId, Batch>,
    pub(crate) layers: BTreeMap<(LayerNumber, LayerPart), Decoded>,
}

impl Fetched {
    /// Bytes of memory that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        let batches = self.batches.values().map(Batch::len_bytes);
        let layers = self.layers.values().map(Decoded::bytes);
        batches.sum::<usize>() + layers.sum::<usize>()
    }

    /// Forgets parts of layers that end before `page`: whoever goes by page has passed them.
    pub(crate) fn pass(&mut self, segment: &Segment, page: PageId, cache: &mut LayerCache) {
        let mut sources = Sources {
            segment: segment.id,
            fetched: self,
            cache,
        };
        let mut at: Option<(LayerNumber, Option<Arc<LayerIndex>>)> = None;
        let mut passed = Vec::new();
        for (layer, part) in sources.fetched.layers.keys() {
            let held = segment.layers.layer(*layer);
            let is_passed = match (held, part) {
                (None, _) => true,
                (Some(held), LayerPart::Index) => held.summary.page_last < page,
                (Some(_), LayerPart::Block(number)) => {
                    if at.as_ref().is_none_or(|(of, _)| of != layer) {
                        at = Some((*layer, sources.index(*layer)));
                    }
                    let index = at.as_ref().and_then(|(_, index)| index.as_ref());
                    index.is_some_and(|index| {
                        let next = number + 1;
                        next < index.block_count() && index.first_of(next).0 < page
                    })
                }
            };
            if is_passed {
                passed.push((*layer, *part));
            }
        }
        for key in passed {
            self.layers.remove(&key);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.batches.clear();
        self.layers.clear();
    }
}

/// Where a job looks for parts before it asks the disk.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    pub(crate) segment: SegmentId,
    pub(crate) fetched: &'a Fetched,
    pub(crate) cache: &'a mut LayerCache,
}

impl Sources<'_> {
    fn layer_part(&mut self, layer: LayerNumber, part: LayerPart) -> Option<Decoded> {
        let fetched = self.fetched.layers.get(&(layer, part)).cloned();
        fetched.or_else(|| self.cache.get(self.segment, layer, part))
    }

    /// The index of a layer.
    pub(crate) fn index(&mut self, layer: LayerNumber) -> Option<Arc<LayerIndex>> {
        match self.layer_part(layer, LayerPart::Index)? {
            Decoded::Index(index) => Some(index),
            Decoded::Block(_) => unreachable!("kept under an index's name"),
        }
    }

    /// A block of a layer.
    pub(crate) fn block(&mut self, layer: LayerNumber, number: u32) -> Option<Block> {
        match self.layer_part(layer, LayerPart::Block(number))? {
            Decoded::Block(block) => Some(block),
            Decoded::Index(_) => unreachable!("kept under a block's name"),
        }
    }
}

/// Something on disk is not what it was when it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub(crate) struct Damage {
    /// What is damaged, as far as it is known: everything that a read was for when it failed altogether.
    pub(crate) parts: Vec<Located>,
    /// File and offset.
    pub(crate) place: String,
    /// What is wrong.
    pub(crate) what: String,
}

/// A file's name for a log line.
pub(crate) fn shown(file: FileName) -> String {
    match file {
        FileName::HotLog(file) => format!("hot-log file {}", file.0),
        FileName::Layer(segment, layer) => format!("layer {layer} of segment {segment}"),
    }
}

/// Verifies the parts of a read: nothing is served whose checksum was not. What is gone meanwhile is passed over. The bytes of
/// blocks that are to stay in memory are copied, so that they do not hold on to the whole read.
pub(crate) fn verify(
    read: &DiskRead,
    bytes: &Bytes,
    segment: &Segment,
    copies: bool,
    fetched: &mut Fetched,
) -> Result<(), Damage> {
    for part in &read.parts {
        let at = usize::try_from(part.offset - read.offset).expect("bounded by the read");
        let end = at + part.bytes as usize;
        let damage = |what: String| Damage {
            parts: vec![*part],
            place: format!("{} at offset {}", shown(read.file), part.offset),
            what,
        };
        let part_bytes = match bytes.get(at..end) {
            Some(_) => Ok(bytes.slice(at..end)),
            None => Err(damage(format!("only {} bytes were read", bytes.len()))),
        };
        match part.part {
            Part::Batch(id) => {
                let Some(held) = segment.chain.find_held(id) else {
                    continue;
                };
                let moved = |place: Place| {
                    (FileName::HotLog(place.file), place.offset) != (part.file, part.offset)
                };
                if held.place.is_some_and(moved) {
                    // Its copy counts; where it was something else may stand by now.
                    continue;
                }
                let part_bytes = part_bytes?;
                let end = ENTRY_HEADER_BYTES + held.bytes as usize;
                let batch = part_bytes.slice(ENTRY_HEADER_BYTES..end.min(part_bytes.len()));
                let batch = Batch::decode(batch, segment.volume)
                    .map_err(|error| damage(format!("batch {}: {error}", held.first)))?;
                let header = batch.header();
                if (header.first, header.volume_epoch, header.checksum) != held.identity() {
                    let what = format!("batch {}: another batch stands there", held.first);
                    return Err(damage(what));
                }
                fetched.batches.insert(id, batch);
            }
            Part::Layer(number, layer_part) => {
                let Some(layer) = segment.layers.layer(number) else {
                    continue;
                };
                let part_bytes = part_bytes?;
                let decoded = decode(layer, layer_part, part, &part_bytes, copies)
                    .map_err(|error| damage(error.to_string()))?;
                fetched.layers.insert((number, layer_part), decoded);
            }
        }
    }
    Ok(())
}

fn decode(
    layer: &CatalogLayer,
    layer_part: LayerPart,
    part: &Located,
    bytes: &Bytes,
    copies: bool,
) -> Result<Decoded, sixfold_log_format::DecodeError> {
    Ok(match layer_part {
        LayerPart::Index => Decoded::Index(Arc::new(LayerIndex::decode(&layer.summary, bytes)?)),
        LayerPart::Block(number) => {
            let at = BlockAt {
                number,
                offset: part.offset,
                bytes: part.bytes,
            };
            let bytes = if copies {
                Bytes::copy_from_slice(bytes)
            } else {
                bytes.clone()
            };
            Decoded::Block(Block::decode(&layer.summary.identity, &at, bytes)?)
        }
    })
}
