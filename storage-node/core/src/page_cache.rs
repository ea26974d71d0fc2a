//! Folded pages in memory, least recently used out first.
//!
//! Holds only what no reopening can annul: images at or below min(SCL, highest VDL seen) (R11). So they outlive a new history, and
//! who takes the volume over reads from memory what was there before; an image above the point up to which both
//! histories annul the same is dropped all the same. A page may be here at a few points, so that an old snapshot and the present do not push each
//! other out.

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

    /// Drops the images of a segment above `through`: all of them for [`Lsn::NONE`].
    pub(crate) fn drop_above(&mut self, segment: SegmentId, through: Lsn) {
        let from = (segment, PageId::new(0), Lsn::NONE);
        let keys: Vec<Key> = self
            .images
            .range(from..)
            .map(|(key, _)| *key)
            .take_while(|key| key.0 == segment)
            .filter(|key| key.2 > through)
            .collect();
        keys.into_iter().for_each(|key| self.remove(key));
    }
}

#[cfg(test)]
mod tests {
    use sixfold_log_format::{Op, PageKind, Record, apply};

    use super::*;

    fn page_at(lsn: Lsn) -> Page {
        let mut page = Page::new(PageId::new(7), 4096);
        let record = Record {
            lsn,
            page: page.id(),
            page_prev: Lsn::NONE,
            cpl: lsn,
            user_visible: false,
            op: Op::Init {
                kind: PageKind::Leaf,
                level: 0,
            },
        };
        apply(&mut page, &record).unwrap();
        page
    }

    #[test]
    fn images_above_a_point_are_dropped_and_only_those_of_the_segment() {
        let mut cache = PageCache::new(1 << 20);
        let segments = [
            SegmentId::from_bytes([1; 16]),
            SegmentId::from_bytes([2; 16]),
        ];
        for segment in segments {
            for lsn in [10, 20, 30] {
                cache.insert(segment, page_at(Lsn::new(lsn)), None);
            }
        }
        cache.drop_above(segments[0], Lsn::new(20));
        let page = PageId::new(7);
        let mut newest = |segment| cache.newest(segment, page, Lsn::MAX).map(Page::lsn);
        assert_eq!(newest(segments[0]), Some(Lsn::new(20)));
        assert_eq!(newest(segments[1]), Some(Lsn::new(30)));
        cache.drop_above(segments[0], Lsn::NONE);
        assert_eq!(cache.bytes(), 3 * 4096);
        assert!(cache.newest(segments[0], page, Lsn::MAX).is_none());
    }
}
