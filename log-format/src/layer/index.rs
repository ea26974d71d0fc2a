//! The index of a layer: the first page and LSN of each block, and where the block stands. Decoded it takes 24 bytes a block,
//! so 1.5 KiB for each MiB of layer; a node keeps as many of them as its budget allows and reads the others again.

use std::ops::Range;

use super::filter::PageFilter;
use super::{
    BLOCK_BYTES_LIMIT, BLOCK_HEADER_BYTES, LAYER_HEADER_BYTES, LayerIdentity, LayerSummary, Part,
    seed,
};
use crate::checksum::checksum;
use crate::codec::{Put, Reader, length_u32, unzigzag, zigzag};
use crate::error::DecodeError;
use crate::id::PageId;
use crate::lsn::Lsn;

const ZONE: &str = "layer index";
const CHECKSUM_BYTES: usize = 4;
/// Bytes of a decoded index for each block.
pub(super) const MEMORY_BYTES_PER_BLOCK: usize = size_of::<First>();

/// Where a data block stands in its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockAt {
    /// Its number, from 0.
    pub number: u32,
    /// Its offset in the file; not aligned.
    pub offset: u64,
    /// Its length.
    pub bytes: u32,
}

impl BlockAt {
    /// Its bytes in the file; [`super::aligned`] says what to read for them.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.bytes)
    }
}

#[derive(Debug, Clone, Copy)]
struct First {
    page: PageId,
    lsn: Lsn,
    offset: u64,
}

/// Collects what the index says while the blocks are written.
#[derive(Debug, Default)]
pub(super) struct IndexWriter {
    blocks: Vec<(PageId, Lsn, u32)>,
}

impl IndexWriter {
    pub(super) fn block_count(&self) -> u32 {
        length_u32(self.blocks.len())
    }

    pub(super) fn push(&mut self, page: PageId, lsn: Lsn, bytes: u32) {
        self.blocks.push((page, lsn, bytes));
    }

    /// Appends the index to `out`. Returns its length.
    pub(super) fn encode(&self, out: &mut Vec<u8>, identity: &LayerIdentity) -> u32 {
        let start = out.len();
        out.put_u32(0);
        out.put_u32(0);
        let (mut page_before, mut lsn_before) = (0, 0);
        for (page, lsn, bytes) in &self.blocks {
            out.put_varint(page.get() - page_before);
            out.put_varint(zigzag(lsn.get().wrapping_sub(lsn_before).cast_signed()));
            out.put_varint(u64::from(*bytes));
            (page_before, lsn_before) = (page.get(), lsn.get());
        }
        end_part(out, start, identity, Part::Index)
    }
}

/// Fills in length and checksum of the part that begins at `start`. Returns its length.
pub(super) fn end_part(out: &mut [u8], start: usize, identity: &LayerIdentity, part: Part) -> u32 {
    let length = length_u32(out.len() - start);
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    let checksum = checksum(&seed(identity, part), &out[start + CHECKSUM_BYTES..]);
    out[start..start + CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    length
}

/// Checks length and checksum of a part. Returns a reader behind them.
pub(super) fn check_part<'a>(
    zone: &'static str,
    bytes: &'a [u8],
    identity: &LayerIdentity,
    part: Part,
) -> Result<Reader<'a>, DecodeError> {
    let mut input = Reader::new(zone, bytes);
    let expected = input.u32()?;
    let length = input.u32()?;
    if length as usize != bytes.len() {
        return Err(input.invalid_field("length", u64::from(length)));
    }
    let found = checksum(&seed(identity, part), &bytes[CHECKSUM_BYTES..]);
    if found != expected {
        return Err(DecodeError::Checksum {
            zone,
            found,
            expected,
        });
    }
    Ok(input)
}

/// The decoded index of a layer, its filter included.
#[derive(Debug, Clone)]
pub struct LayerIndex {
    firsts: Box<[First]>,
    end: u64,
    page_last: PageId,
    filter: PageFilter,
}

impl LayerIndex {
    /// Reads index and filter. `bytes` are exactly [`LayerSummary::index_range`] of the file.
    ///
    /// # Errors
    /// [`DecodeError`] when they are not what the summary says, unharmed.
    pub fn decode(summary: &LayerSummary, bytes: &[u8]) -> Result<LayerIndex, DecodeError> {
        let mut both = Reader::new(ZONE, bytes);
        let index = both.take(summary.index_bytes as usize)?;
        let filter = both.take(summary.filter_bytes as usize)?;
        both.finish()?;
        let mut input = check_part(ZONE, index, &summary.identity, Part::Index)?;
        // Three bytes at least for each block: the count is paid for by the input.
        if summary.block_count == 0 || summary.block_count as usize > input.remaining() / 3 {
            return Err(input.invalid_field("block count", u64::from(summary.block_count)));
        }
        let mut firsts = Vec::with_capacity(summary.block_count as usize);
        let mut offset = LAYER_HEADER_BYTES as u64;
        let (mut page, mut lsn) = (PageId::NONE, Lsn::NONE);
        for _ in 0..summary.block_count {
            let step = input.varint()?;
            let before = (page, lsn);
            page = match page.get().checked_add(step) {
                Some(page) if page > 0 => PageId::new(page),
                _ => return Err(input.invalid_field("page", step)),
            };
            let difference = unzigzag(input.varint()?);
            lsn = Lsn::new(lsn.get().wrapping_add_signed(difference));
            // Equal for an image behind its record.
            if (page, lsn) < before || lsn.is_none() {
                return Err(input.invalid_field("order", lsn.get()));
            }
            firsts.push(First { page, lsn, offset });
            let length = input.varint_at_most("block length", BLOCK_BYTES_LIMIT)?;
            if length <= BLOCK_HEADER_BYTES {
                return Err(input.invalid_field("block length", length as u64));
            }
            offset += length as u64;
        }
        input.finish()?;
        if offset != summary.index_offset || firsts[0].page != summary.page_first {
            return Err(input.invalid_field("end of the blocks", offset));
        }
        Ok(LayerIndex {
            firsts: firsts.into(),
            end: offset,
            page_last: summary.page_last,
            filter: PageFilter::decode(&summary.identity, filter)?,
        })
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> u32 {
        length_u32(self.firsts.len())
    }

    /// Where block `number` stands.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn block(&self, number: u32) -> BlockAt {
        let at = number as usize;
        let offset = self.firsts[at].offset;
        let end = self.firsts.get(at + 1).map_or(self.end, |next| next.offset);
        BlockAt {
            number,
            offset,
            bytes: length_u32(usize::try_from(end - offset).expect("a block's length")),
        }
    }

    /// Page and LSN of the first entry of block `number`.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn first_of(&self, number: u32) -> (PageId, Lsn) {
        let first = &self.firsts[number as usize];
        (first.page, first.lsn)
    }

    /// False when the page has no entry in the layer. True says nothing, about one time in a hundred.
    pub fn may_hold(&self, page: PageId) -> bool {
        page <= self.page_last && self.filter.may_hold(page)
    }

    /// The blocks that may hold entries of `page` in `(after, through]`, in order; none when the filter knows the page to
    /// be absent. One block, or the few that the page's entries fill: for a version at `through`, start with the last.
    pub fn blocks_for(&self, page: PageId, after: Lsn, through: Lsn) -> Range<u32> {
        if after >= through || !self.may_hold(page) {
            return 0..0;
        }
        let lowest = (page, after.next());
        let start = self
            .firsts
            .partition_point(|first| (first.page, first.lsn) < lowest);
        let end = self
            .firsts
            .partition_point(|first| (first.page, first.lsn) <= (page, through));
        length_u32(start.saturating_sub(1))..length_u32(end)
    }

    /// Bytes of memory that it takes, about.
    pub fn memory_bytes(&self) -> usize {
        self.firsts.len() * MEMORY_BYTES_PER_BLOCK + self.filter.memory_bytes()
    }
}
