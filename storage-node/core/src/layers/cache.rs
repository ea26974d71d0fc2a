//! Blocks and indexes of layers in memory, least recently used out first.
//!
//! What is here was verified since it came off disk. One budget covers both kinds: an index is a few kilobytes for each megabyte
//! of its layer and is used by every read that its filter lets through, so that it stays by being used.

use std::collections::BTreeMap;
use std::sync::Arc;

use sixfold_log_format::SegmentId;
use sixfold_log_format::layer::{Block, LayerIndex, LayerNumber};

/// A part of a layer: its index, or a block by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LayerPart {
    /// Index and filter.
    Index,
    /// A data block.
    Block(u32),
}

type Key = (SegmentId, LayerNumber, LayerPart);

/// A verified part.
#[derive(Debug, Clone)]
pub(crate) enum Decoded {
    /// Index and filter.
    Index(Arc<LayerIndex>),
    /// A data block.
    Block(Block),
}

impl Decoded {
    /// Bytes of memory that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Decoded::Index(index) => index.memory_bytes(),
            Decoded::Block(block) => block.bytes().len(),
        }
    }
}

#[derive(Debug)]
struct Cached {
    part: Decoded,
    used: u64,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct LayerCache {
    parts: BTreeMap<Key, Cached>,
    by_use: BTreeMap<u64, Key>,
    clock: u64,
    index_bytes: usize,
    block_bytes: usize,
    bytes_max: usize,
}

impl LayerCache {
    pub(crate) fn new(bytes_max: usize) -> LayerCache {
        LayerCache {
            parts: BTreeMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
            index_bytes: 0,
            block_bytes: 0,
            bytes_max,
        }
    }

    /// Bytes of blocks.
    pub(crate) fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Bytes of indexes.
    pub(crate) fn index_bytes(&self) -> usize {
        self.index_bytes
    }

    pub(crate) fn get(
        &mut self,
        segment: SegmentId,
        layer: LayerNumber,
        part: LayerPart,
    ) -> Option<Decoded> {
        let key = (segment, layer, part);
        let cached = self.parts.get_mut(&key)?;
        self.clock += 1;
        self.by_use.remove(&cached.used);
        cached.used = self.clock;
        self.by_use.insert(self.clock, key);
        Some(cached.part.clone())
    }

    pub(crate) fn insert(
        &mut self,
        segment: SegmentId,
        layer: LayerNumber,
        at: LayerPart,
        part: Decoded,
    ) {
        let key = (segment, layer, at);
        let bytes = part.bytes();
        if bytes > self.bytes_max || self.parts.contains_key(&key) {
            return;
        }
        *self.count(at) += bytes;
        self.clock += 1;
        self.by_use.insert(self.clock, key);
        let used = self.clock;
        self.parts.insert(key, Cached { part, used });
        while self.index_bytes + self.block_bytes > self.bytes_max {
            let (_, key) = self.by_use.pop_first().expect("bytes are counted per part");
            self.remove(key);
        }
    }

    fn count(&mut self, part: LayerPart) -> &mut usize {
        match part {
            LayerPart::Index => &mut self.index_bytes,
            LayerPart::Block(_) => &mut self.block_bytes,
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(cached) = self.parts.remove(&key) {
            self.by_use.remove(&cached.used);
            *self.count(key.2) -= cached.part.bytes();
        }
    }

    /// A layer is gone.
    pub(crate) fn forget(&mut self, segment: SegmentId, layer: LayerNumber) {
        let from = (segment, layer, LayerPart::Index);
        let through = (segment, layer, LayerPart::Block(u32::MAX));
        let keys: Vec<Key> = self
            .parts
            .range(from..=through)
            .map(|(key, _)| *key)
            .collect();
        keys.into_iter().for_each(|key| self.remove(key));
    }
}
