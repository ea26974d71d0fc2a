//! Writes a layer, entry after entry, into pieces of bounded size.

use super::block::BlockWriter;
use super::ends::{encode_footer, encode_header};
use super::filter::encode_filter;
use super::index::IndexWriter;
use super::{
    BLOCK_BYTES_LIMIT, BLOCK_HEADER_BYTES, Key, LAYER_BYTES_MAX, LAYER_FOOTER_BYTES,
    LAYER_HEADER_BYTES, LayerEntry, LayerImage, LayerOptions, LayerSummary,
};
use crate::codec::length_u32;
use crate::id::PageId;
use crate::lsn::Lsn;
use crate::record::Record;

/// A layer under construction.
///
/// It keeps the bytes that nobody has taken yet, one open block, 24 bytes for each block and 8 bytes for each page: take
/// what is ready after every few entries, and memory stays bounded by what the index and the filter need.
#[derive(Debug)]
pub struct LayerBuilder {
    options: LayerOptions,
    block: BlockWriter,
    index: IndexWriter,
    /// Finished bytes from `ready_offset` on.
    ready: Vec<u8>,
    ready_offset: u64,
    taken: crc32fast::Hasher,
    last: Option<Key>,
    page_first: PageId,
    pages: Vec<PageId>,
    record_count: u64,
    image_count: u64,
    finished: bool,
}

impl LayerBuilder {
    /// A layer without entries.
    ///
    /// # Panics
    /// When the options make no sense: an empty LSN range, a unit that is no power of two or smaller than
    /// [`crate::hot_log::BLOCK_BYTES_MIN`], blocks above [`BLOCK_BYTES_LIMIT`].
    pub fn new(options: LayerOptions) -> LayerBuilder {
        assert!(
            options.lsn_after < options.lsn_through,
            "a layer of ({}, {}]",
            options.lsn_after,
            options.lsn_through
        );
        assert!(
            options.unit_bytes.is_power_of_two()
                && options.unit_bytes >= crate::hot_log::BLOCK_BYTES_MIN,
            "a unit of {} bytes",
            options.unit_bytes
        );
        assert!(
            (BLOCK_HEADER_BYTES..=BLOCK_BYTES_LIMIT).contains(&(options.block_bytes as usize)),
            "blocks of {} bytes",
            options.block_bytes
        );
        let ready = encode_header(&options);
        LayerBuilder {
            options,
            block: BlockWriter::default(),
            index: IndexWriter::default(),
            ready,
            ready_offset: 0,
            taken: crc32fast::Hasher::new(),
            last: None,
            page_first: PageId::NONE,
            pages: Vec::new(),
            record_count: 0,
            image_count: 0,
            finished: false,
        }
    }

    /// Whether nothing was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Bytes of the file so far, without index, filter and footer: when to stop and begin the next layer.
    pub fn data_bytes(&self) -> u64 {
        let open = if self.block.is_empty() {
            0
        } else {
            self.block.len_bytes()
        };
        self.ready_offset + (self.ready.len() + open) as u64
    }

    /// Bytes of memory that it takes, about.
    pub fn memory_bytes(&self) -> usize {
        let blocks = self.index.block_count() as usize * super::index::MEMORY_BYTES_PER_BLOCK;
        self.ready.len() + self.block.len_bytes() + blocks + self.pages.len() * 8
    }

    /// Adds a record.
    ///
    /// # Panics
    /// When it does not stand behind the last entry in the order of (page, LSN), when its LSN is not in
    /// `(lsn_after, lsn_through]`, and when it breaks a rule of [`Record`] that the format relies on.
    pub fn push_record(&mut self, record: &Record<'_>) {
        assert!(
            record.lsn > self.options.lsn_after,
            "record {} in a layer after {}",
            record.lsn,
            self.options.lsn_after
        );
        self.record_count += 1;
        self.push(&LayerEntry::Record(record.clone()));
    }

    /// Adds an image: the page as it was after its record `lsn`, which is its page LSN. `packed` is what
    /// [`crate::Page::pack`] gave. At the same LSN it stands behind the record.
    ///
    /// # Panics
    /// When it does not stand behind the last entry in the order of (page, LSN), or lies above `lsn_through`.
    pub fn push_image(&mut self, page: PageId, lsn: Lsn, packed: &[u8]) {
        assert!(
            page != PageId::NONE && !lsn.is_none(),
            "an image of page {page} at {lsn}"
        );
        self.image_count += 1;
        self.push(&LayerEntry::Image(LayerImage { page, lsn, packed }));
    }

    fn push(&mut self, entry: &LayerEntry<'_>) {
        assert!(!self.finished, "an entry pushed into a finished layer");
        let key = entry.key();
        if let Some(last) = self.last {
            assert!(last < key, "{key:?} pushed after {last:?}");
        }
        assert!(
            entry.lsn() <= self.options.lsn_through,
            "{key:?} in a layer through {}",
            self.options.lsn_through
        );
        if !self.block.push(entry, self.options.block_bytes as usize) {
            self.end_block();
            assert!(
                self.block.push(entry, self.options.block_bytes as usize),
                "a block takes one entry"
            );
        }
        match self.last {
            None => self.page_first = key.0,
            Some((page, ..)) if page == key.0 => {
                self.last = Some(key);
                return;
            }
            Some(_) => {}
        }
        self.pages.push(key.0);
        self.last = Some(key);
    }

    fn end_block(&mut self) {
        let number = self.index.block_count();
        let (page, lsn) = self.block.first();
        let bytes = self
            .block
            .finish(&mut self.ready, &self.options.identity, number);
        self.index.push(page, lsn, bytes);
    }

    /// Finished bytes that can be taken now: whole units.
    pub fn ready_bytes(&self) -> usize {
        let unit = self.options.unit_bytes as usize;
        self.ready.len() / unit * unit
    }

    /// Takes finished bytes: fills `out` and returns their offset in the file. Offsets follow each other without gaps.
    ///
    /// # Panics
    /// When `out` is not a whole number of units, or longer than [`LayerBuilder::ready_bytes`].
    pub fn take_ready(&mut self, out: &mut [u8]) -> u64 {
        assert!(
            out.len() <= self.ready_bytes()
                && out.len().is_multiple_of(self.options.unit_bytes as usize),
            "{} bytes of {} taken",
            out.len(),
            self.ready.len()
        );
        let offset = self.ready_offset;
        out.copy_from_slice(&self.ready[..out.len()]);
        if !self.finished {
            self.taken.update(out);
        }
        self.ready.drain(..out.len());
        self.ready_offset += out.len() as u64;
        offset
    }

    /// Ends the layer: index, filter and footer are ready to be taken with the rest. Take until nothing is ready.
    ///
    /// # Panics
    /// When it is empty, when it was finished before, and when the file is longer than [`LAYER_BYTES_MAX`].
    pub fn finish(&mut self) -> LayerSummary {
        assert!(!self.finished, "a layer finished twice");
        let (page_last, ..) = self.last.expect("a layer has an entry");
        self.end_block();
        let identity = &self.options.identity;
        let index_offset = self.ready_offset + self.ready.len() as u64;
        let index_bytes = self.index.encode(&mut self.ready, identity);
        let filter_bytes = encode_filter(&mut self.ready, identity, &self.pages);
        let unit = u64::from(self.options.unit_bytes);
        let end = self.ready_offset + (self.ready.len() + LAYER_FOOTER_BYTES) as u64;
        let file_bytes = end.next_multiple_of(unit);
        assert!(
            file_bytes <= LAYER_BYTES_MAX,
            "a layer of {file_bytes} bytes"
        );
        let footer_offset = file_bytes - LAYER_FOOTER_BYTES as u64;
        let padded = footer_offset - self.ready_offset;
        let padded = length_u32(usize::try_from(padded).expect("bounded by the layer's length"));
        self.ready.resize(padded as usize, 0);
        self.taken.update(&self.ready);
        let summary = LayerSummary {
            identity: *identity,
            lsn_after: self.options.lsn_after,
            lsn_through: self.options.lsn_through,
            unit_bytes: self.options.unit_bytes,
            file_bytes,
            page_first: self.page_first,
            page_last,
            page_count: self.pages.len() as u64,
            record_count: self.record_count,
            image_count: self.image_count,
            block_count: self.index.block_count(),
            index_offset,
            index_bytes,
            filter_bytes,
            file_checksum: self.taken.clone().finalize(),
        };
        self.ready.extend_from_slice(&encode_footer(&summary));
        self.pages = Vec::new();
        self.finished = true;
        assert!(self.ready_offset + self.ready.len() as u64 == file_bytes);
        assert!(index_offset > LAYER_HEADER_BYTES as u64);
        summary
    }
}
