//! A data block: a run of entries under one checksum.
//!
//! Page and LSN of an entry are differences to the entry before it, from 0 at the head of the block, so that each block
//! reads alone. An entry never spans blocks.

use std::ops::Range;

use bytes::Bytes;

use super::{
    BLOCK_BYTES_LIMIT, BLOCK_HEADER_BYTES, BlockAt, Key, LayerEntry, LayerIdentity, LayerImage,
    Part, seed,
};
use crate::checksum::checksum;
use crate::codec::{Put, Reader, length_u32, unzigzag, zigzag};
use crate::error::DecodeError;
use crate::id::PageId;
use crate::limits::PAGE_BYTES_MAX;
use crate::lsn::Lsn;
use crate::mutant::{Mutant, planted};
use crate::record_codec::{RECORD_SAME_PAGE, decode_record, encode_record};

const ZONE: &str = "layer block";
const CHECKSUM_BYTES: usize = 4;
/// Head byte of an image; its low four bits are no kind of record.
pub(super) const IMAGE_HEAD: u8 = 0x0f;

/// The block that is being filled.
#[derive(Debug, Default)]
pub(super) struct BlockWriter {
    buffer: Vec<u8>,
    entry_count: u32,
    first: Option<(PageId, Lsn)>,
    page: PageId,
    lsn: Lsn,
}

impl BlockWriter {
    pub(super) fn is_empty(&self) -> bool {
        self.entry_count == 0
    }

    /// Bytes so far, header included.
    pub(super) fn len_bytes(&self) -> usize {
        self.buffer.len().max(BLOCK_HEADER_BYTES)
    }

    /// Page and LSN of its first entry.
    pub(super) fn first(&self) -> (PageId, Lsn) {
        self.first.expect("only asked of a block with entries")
    }

    /// Adds the entry when the block then has at most `bytes_max` bytes, or when it is the first one.
    #[must_use]
    pub(super) fn push(&mut self, entry: &LayerEntry<'_>, bytes_max: usize) -> bool {
        if self.buffer.is_empty() {
            self.buffer.resize(BLOCK_HEADER_BYTES, 0);
        }
        let start = self.buffer.len();
        let difference = entry.lsn().get().wrapping_sub(self.lsn.get());
        self.buffer.put_varint(zigzag(difference.cast_signed()));
        match entry {
            LayerEntry::Record(record) => encode_record(&mut self.buffer, record, self.page),
            LayerEntry::Image(image) => put_image(&mut self.buffer, image, self.page),
        }
        if self.buffer.len() > bytes_max && !self.is_empty() {
            self.buffer.truncate(start);
            return false;
        }
        assert!(
            self.buffer.len() <= BLOCK_BYTES_LIMIT,
            "an entry of {} bytes",
            self.buffer.len() - start
        );
        self.first.get_or_insert((entry.page(), entry.lsn()));
        self.page = entry.page();
        self.lsn = entry.lsn();
        self.entry_count += 1;
        true
    }

    /// Ends the block as number `number`: appends it to `out` and starts a new one. Returns its length.
    pub(super) fn finish(
        &mut self,
        out: &mut Vec<u8>,
        identity: &LayerIdentity,
        number: u32,
    ) -> u32 {
        assert!(!self.is_empty(), "a block without entries");
        let length = length_u32(self.buffer.len());
        self.buffer[4..8].copy_from_slice(&length.to_le_bytes());
        self.buffer[8..12].copy_from_slice(&self.entry_count.to_le_bytes());
        let seed = seed(identity, Part::Block(number));
        let checksum = checksum(&seed, &self.buffer[CHECKSUM_BYTES..]);
        self.buffer[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(&self.buffer);
        self.buffer.clear();
        *self = BlockWriter {
            buffer: std::mem::take(&mut self.buffer),
            ..BlockWriter::default()
        };
        length
    }
}

fn put_image(out: &mut Vec<u8>, image: &LayerImage<'_>, before: PageId) {
    assert!(
        image.packed.len() <= PAGE_BYTES_MAX,
        "an image of {} bytes",
        image.packed.len()
    );
    if image.page == before {
        out.push(IMAGE_HEAD | RECORD_SAME_PAGE);
    } else {
        out.push(IMAGE_HEAD);
        let difference = image.page.get().wrapping_sub(before.get());
        out.put_varint(zigzag(difference.cast_signed()));
    }
    out.put_varint(image.packed.len() as u64);
    out.extend_from_slice(image.packed);
}

/// A data block whose checksum has been verified since it came off disk.
#[derive(Debug, Clone)]
pub struct Block {
    bytes: Bytes,
    entry_count: u32,
}

impl Block {
    /// Checks the block that stands at `at` in the layer of `identity`: length, checksum, entry count. `bytes` are exactly
    /// the block.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not that block of that layer, unharmed.
    pub fn decode(
        identity: &LayerIdentity,
        at: &BlockAt,
        bytes: Bytes,
    ) -> Result<Block, DecodeError> {
        let mut input = Reader::new(ZONE, &bytes);
        let expected = input.u32()?;
        let length = input.u32()?;
        if length != at.bytes || bytes.len() != length as usize {
            return Err(input.invalid_field("length", u64::from(length)));
        }
        let seed = seed(identity, Part::Block(at.number));
        let found = checksum(&seed, &bytes[CHECKSUM_BYTES..]);
        if found != expected && !planted(Mutant::StaleBlockAccepted) {
            return Err(DecodeError::Checksum {
                zone: ZONE,
                found,
                expected,
            });
        }
        let entry_count = input.u32()?;
        // The shortest entry has a byte each for LSN, head and body.
        if entry_count == 0 || entry_count as usize > input.remaining() / 3 {
            return Err(input.invalid_field("entry count", u64::from(entry_count)));
        }
        Ok(Block { bytes, entry_count })
    }

    /// Its bytes; what a cache is charged for.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many entries it has.
    pub fn entry_count(&self) -> u32 {
        self.entry_count
    }

    /// Its entries in order. The first error ends them: a sound checksum over bytes that are no entries, a writer's bug.
    pub fn entries(&self) -> LayerEntries<'_> {
        let input = Reader::starting_at(ZONE, &self.bytes, BLOCK_HEADER_BYTES);
        LayerEntries {
            input,
            left: self.entry_count,
            before: None,
            failed: false,
        }
    }

    /// Checks every entry.
    ///
    /// # Errors
    /// [`DecodeError`] of the first one that cannot be read or stands out of order.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.entries().try_for_each(|entry| entry.map(|_| ()))
    }
}

/// The entries of a block, in order.
#[derive(Debug, Clone)]
pub struct LayerEntries<'a> {
    input: Reader<'a>,
    left: u32,
    before: Option<Key>,
    failed: bool,
}

impl LayerEntries<'_> {
    /// Where the next entry stands in the block. Differences of two of these tell how many bytes an entry took.
    pub fn offset(&self) -> usize {
        self.input.offset()
    }

    /// The bytes that are still ahead.
    pub fn ahead(&self) -> Range<usize> {
        self.offset()..self.offset() + self.input.remaining()
    }
}

impl<'a> LayerEntries<'a> {
    fn take(&mut self) -> Result<LayerEntry<'a>, DecodeError> {
        let (page, lsn, _) = self.before.unwrap_or_default();
        let difference = unzigzag(self.input.varint()?);
        let lsn = Lsn::new(lsn.get().wrapping_add_signed(difference));
        if lsn.is_none() {
            return Err(self.input.invalid_field("LSN", 0));
        }
        let entry = match self.input.peek() {
            Some(head) if head & IMAGE_HEAD == IMAGE_HEAD => {
                LayerEntry::Image(take_image(&mut self.input, page, lsn)?)
            }
            _ => LayerEntry::Record(decode_record(&mut self.input, lsn, page)?),
        };
        let key = entry.key();
        if self.before.is_some_and(|before| key <= before) {
            return Err(self.input.invalid_field("order", lsn.get()));
        }
        self.before = Some(key);
        Ok(entry)
    }
}

fn take_image<'a>(
    input: &mut Reader<'a>,
    before: PageId,
    lsn: Lsn,
) -> Result<LayerImage<'a>, DecodeError> {
    let page = match input.u8()? {
        head if head == IMAGE_HEAD | RECORD_SAME_PAGE => before,
        IMAGE_HEAD => match unzigzag(input.varint()?) {
            0 => return Err(input.invalid_field("page difference", 0)),
            difference => PageId::new(before.get().wrapping_add_signed(difference)),
        },
        head => return Err(input.invalid_field("image flags", u64::from(head))),
    };
    if page == PageId::NONE {
        return Err(input.invalid_field("page", 0));
    }
    let count = input.varint_at_most("image length", PAGE_BYTES_MAX)?;
    Ok(LayerImage {
        page,
        lsn,
        packed: input.take(count)?,
    })
}

impl<'a> Iterator for LayerEntries<'a> {
    type Item = Result<LayerEntry<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let taken = if self.left == 0 {
            self.input.finish().err().map(Err)
        } else {
            self.left -= 1;
            Some(self.take())
        };
        self.failed = !matches!(taken, Some(Ok(_)));
        taken
    }
}
