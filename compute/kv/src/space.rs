//! Which pages hold nothing: allocation, and giving pages back at once or later.
//!
//! Allocation takes from the free list first, then pages that were never used. Single pages and values of few pages are given
//! back in the MTR that lets go of them. Subtrees and larger values are *dropped*: unlinked with one entry each, and freed by
//! [`plan_reclaim`](crate::plan_reclaim), so that what a transaction costs does not depend on how much it lets go of.

use sixfold_log_format::{Op, PageId, PageKind};

use crate::draft::Draft;
use crate::meta::Meta;
use crate::overflow::{
    Body, Reference, chunk_bytes_max, ids_bytes, index_ids_max, inline_bytes_max, shape, write_body,
};
use crate::pages::{Dropped, DroppedList, FreeList};
use crate::source::{KvError, PageSource};

/// Pages of a volume that only deletions may take, so that a full volume can be emptied: trunks of the dropped list.
const SPARE_PAGES: u64 = 8;

/// The meta page's numbers as the MTR has left them so far, and the lists.
pub(crate) struct Space {
    found: Meta,
    /// What the meta page will say, but for the lists.
    pub(crate) meta: Meta,
    pub(crate) free: FreeList,
    pub(crate) dropped: DroppedList,
    pages_max: u64,
}

impl Space {
    pub(crate) fn new(found: Meta, pages_max: u64) -> Space {
        Space {
            found,
            meta: found,
            free: FreeList::new(found.free_head, found.free_count),
            dropped: DroppedList::new(found.dropped_head, found.dropped_count),
            pages_max,
        }
    }

    /// A page that holds nothing. The caller formats it.
    pub(crate) fn allocate<S: PageSource>(
        &mut self,
        draft: &Draft<'_, '_, S>,
    ) -> Result<PageId, KvError> {
        let spare = SPARE_PAGES.min(self.pages_max / 16);
        self.allocate_below(draft, self.pages_max - spare)
    }

    fn allocate_below<S: PageSource>(
        &mut self,
        draft: &Draft<'_, '_, S>,
        end: u64,
    ) -> Result<PageId, KvError> {
        if let Some(id) = self.free.take(draft, self.meta.next_page)? {
            return Ok(id);
        }
        let id = self.meta.next_page;
        if id.get() >= end {
            return Err(KvError::Full {
                pages: self.pages_max,
            });
        }
        self.meta.next_page = PageId::new(id.get() + 1);
        Ok(id)
    }

    /// Gives back a page of the tree that holds nothing more.
    pub(crate) fn free_node<S: PageSource>(&mut self, draft: &mut Draft<'_, '_, S>, id: PageId) {
        draft.forget(id);
        self.free.give(id);
    }

    /// Gives back the pages of a large value: at once when the cell names them all.
    pub(crate) fn free_value(&mut self, reference: &Reference) {
        for id in &reference.ids {
            if reference.level == 0 {
                self.free.give(*id);
            } else {
                self.dropped.give(Dropped::Value(reference.level, *id));
            }
        }
    }

    /// Gives back the pages of a large value later, whatever they are.
    pub(crate) fn drop_value(&mut self, reference: &Reference) {
        for id in &reference.ids {
            self.dropped.give(Dropped::Value(reference.level, *id));
        }
    }

    /// Puts a value into pages of its own, if it is too long for a leaf cell.
    pub(crate) fn store_value<S: PageSource>(
        &mut self,
        draft: &mut Draft<'_, '_, S>,
        value: &[u8],
    ) -> Result<Option<Reference>, KvError> {
        if value.len() <= inline_bytes_max(draft.page_bytes) {
            return Ok(None);
        }
        let mut ids = Vec::new();
        for (place, chunk) in (0..).zip(value.chunks(chunk_bytes_max(draft.page_bytes))) {
            ids.push(self.store_body(draft, Body::Value { place }, chunk)?);
        }
        let (level_max, id_count) = shape(value.len(), draft.page_bytes);
        for level in 1..=level_max {
            let mut above = Vec::new();
            for part in ids.chunks(index_ids_max(draft.page_bytes)) {
                let content: Vec<u8> = ids_bytes(part).collect();
                above.push(self.store_body(draft, Body::Index { level }, &content)?);
            }
            ids = above;
        }
        assert_eq!(ids.len(), id_count, "the reference's shape is its length's");
        Ok(Some(Reference {
            len_bytes: u32::try_from(value.len()).expect("values are at most 16 MiB"),
            level: level_max,
            ids,
        }))
    }

    fn store_body<S: PageSource>(
        &mut self,
        draft: &mut Draft<'_, '_, S>,
        body: Body,
        content: &[u8],
    ) -> Result<PageId, KvError> {
        let id = self.allocate(draft)?;
        let format = Op::Init {
            kind: PageKind::Overflow,
            level: 0,
        };
        draft.push(id, format, false);
        draft.push(id, write_body(body, content), false);
        Ok(id)
    }

    /// How many records [`Space::finish`] will add, at most.
    pub(crate) fn record_count(&self, page_bytes: usize) -> usize {
        /// The meta page's numbers differ in so many runs at most.
        const META_RUNS: usize = 7;
        self.free.record_count(page_bytes) + self.dropped.record_count(page_bytes) + META_RUNS
    }

    /// Ends the MTR: writes the lists, and what changed in the meta page.
    pub(crate) fn finish<S: PageSource>(
        mut self,
        draft: &mut Draft<'_, '_, S>,
    ) -> Result<(), KvError> {
        let trunks: Vec<PageId> = (0..self.dropped.trunks_needed(draft.page_bytes))
            .map(|_| self.allocate_below(draft, self.pages_max))
            .collect::<Result<_, _>>()?;
        let mut meta = self.meta;
        (meta.dropped_head, meta.dropped_count) = self.dropped.finish(draft, trunks);
        (meta.free_head, meta.free_count) = self.free.finish(draft);
        for op in self.found.changes(&meta) {
            draft.push(PageId::META, op, false);
        }
        Ok(())
    }
}
