//! Folded pages in memory, least recently used out first.
//!
//! Holds only what no reopening can annul: images at or below min(SCL, highest VDL seen) (R11), and nothing of a segment
//! whose history was just replaced. A page may be here at a few points, so that an old snapshot and the present do not push
//! each other out.

use std::collections::BTreeMap;

use sixfold_log_format::{Lsn, Page, PageId, SegmentId};

/// Points at which one page is kept, at most.
const IMAGES_PER_PAGE_MAX: usize = 4;

type Key = (SegmentId, PageId, Lsn);

#[derive(Debug)]
struct Image {
    page: Page,
    used: u64,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct PageCache {
    images: BTreeMap<Key, Image>,
    by_use: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
    bytes_max: usize,
}

impl PageCache {
    pub(crate) fn new(bytes_max: usize) -> PageCache {
        PageCache {
            images: BTreeMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// Bytes of pages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The newest image of `page` at or below `lsn`.
    pub(crate) fn newest(&mut self, segment: SegmentId, page: PageId, lsn: Lsn) -> Option<&Page> {
        let range = (segment, page, Lsn::NONE)..=(segment, page, lsn);
        let (key, image) = self.images.range_mut(range).next_back()?;
        self.clock += 1;
        self.by_use.remove(&image.used);
        image.used = self.clock;
        self.by_use.insert(self.clock, *key);
        Some(&image.page)
    }

    /// Keeps an image, in the place of the one at `instead`, which is a step on the way to it. The caller has checked R11.
    pub(crate) fn insert(&mut self, segment: SegmentId, page: Page, instead: Option<Lsn>) {
        let key = (segment, page.id(), page.lsn());
        if let Some(lsn) = instead.filter(|lsn| *lsn != page.lsn()) {
            self.remove((segment, page.id(), lsn));
        }
        if self.images.contains_key(&key) || page.len_bytes() > self.bytes_max {
            return;
        }
        let of_page = (segment, page.id(), Lsn::NONE)..=(segment, page.id(), Lsn::MAX);
        if self.images.range(of_page.clone()).count() >= IMAGES_PER_PAGE_MAX {
            let oldest = self
                .images
                .range(of_page)
                .min_by_key(|(_, image)| image.used);
            let oldest = oldest.map(|(key, _)| *key).expect("counted just now");
            self.remove(oldest);
        }
        self.clock += 1;
        self.bytes += page.len_bytes();
        self.by_use.insert(self.clock, key);
        self.images.insert(
            key,
            Image {
                page,
                used: self.clock,
            },
        );
        while self.bytes > self.bytes_max {
            let (_, key) = self
                .by_use
                .pop_first()
                .expect("bytes are counted per image");
            self.remove(key);
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(image) = self.images.remove(&key) {
            self.by_use.remove(&image.used);
            self.bytes -= image.page.len_bytes();
        }
    }

    /// Drops every image of a segment: its history was replaced.
    pub(crate) fn clear(&mut self, segment: SegmentId) {
        let from = (segment, PageId::new(0), Lsn::NONE);
        let keys: Vec<Key> = self
            .images
            .range(from..)
            .map(|(key, _)| *key)
            .take_while(|key| key.0 == segment)
            .collect();
        keys.into_iter().for_each(|key| self.remove(key));
    }
}
