//! Which pages are free: allocation, and giving pages back.
//!
//! Free pages form a list that begins in the meta page; each is an overflow page that links to the next one. A large value's
//! chain joins the list as it is, by a link from its last page to the old head. Allocation takes from the list first.
//! Old versions of a freed page stay readable at older read points, since a version is an LSN; so a page may be used again at
//! once.

use std::collections::BTreeMap;

use sixfold_log_format::{Op, PageId, PageKind};

use crate::draft::Draft;
use crate::meta::Meta;
use crate::overflow::{
    Reference, chunk_bytes_max, fetch_overflow, inline_bytes_max, link, write_chunk, write_link,
};
use crate::source::{KvError, PageSource, corrupt};

/// The meta page's numbers as the MTR has left them so far, and the links that it has written.
pub(crate) struct Space {
    found: Meta,
    /// What the meta page will say.
    pub(crate) meta: Meta,
    freed: BTreeMap<PageId, PageId>,
    pages_max: u64,
}

impl Space {
    pub(crate) fn new(found: Meta, pages_max: u64) -> Space {
        Space {
            found,
            meta: found,
            freed: BTreeMap::new(),
            pages_max,
        }
    }

    /// A page that holds nothing. The caller formats it.
    pub(crate) fn allocate<S: PageSource>(
        &mut self,
        draft: &Draft<'_, '_, S>,
    ) -> Result<PageId, KvError> {
        let id = self.meta.free_head;
        if id == PageId::NONE {
            return self.allocate_new();
        }
        let next = match self.freed.remove(&id) {
            Some(next) => next,
            None => link(&*fetch_overflow(draft.tip, id)?),
        };
        let count = self.meta.free_count.checked_sub(1);
        let is_last = next == PageId::NONE;
        match count {
            Some(count) if is_last == (count == 0) => self.meta.free_count = count,
            _ => {
                return Err(corrupt(
                    id,
                    "the free list has another length than its count",
                ));
            }
        }
        if next == PageId::META || next >= self.meta.next_page {
            return Err(corrupt(id, "the free list leads to no page"));
        }
        self.meta.free_head = next;
        Ok(id)
    }

    fn allocate_new(&mut self) -> Result<PageId, KvError> {
        let id = self.meta.next_page;
        if id.get() >= self.pages_max {
            return Err(KvError::Full {
                pages: self.pages_max,
            });
        }
        self.meta.next_page = PageId::new(id.get() + 1);
        Ok(id)
    }

    /// Gives back a page of the tree.
    pub(crate) fn free_node<S: PageSource>(&mut self, draft: &mut Draft<'_, '_, S>, id: PageId) {
        draft.forget(id);
        let format = Op::Init {
            kind: PageKind::Overflow,
            level: 0,
        };
        draft.push(id, format, false);
        draft.push(id, write_link(self.meta.free_head), false);
        self.give_back(id, id, 1);
    }

    /// Gives back the pages of a large value.
    pub(crate) fn free_value<S: PageSource>(
        &mut self,
        draft: &mut Draft<'_, '_, S>,
        reference: Reference,
    ) -> Result<(), KvError> {
        // The chain's end links to no page already, which is right when the list is empty.
        if self.meta.free_head != PageId::NONE {
            fetch_overflow(draft.tip, reference.last)?;
            draft.push(reference.last, write_link(self.meta.free_head), false);
        }
        let page_count = reference.page_count(draft.page_bytes) as u64;
        self.give_back(reference.first, reference.last, page_count);
        Ok(())
    }

    fn give_back(&mut self, first: PageId, last: PageId, page_count: u64) {
        self.freed.insert(last, self.meta.free_head);
        self.meta.free_head = first;
        self.meta.free_count += page_count;
    }

    /// Puts a value into overflow pages, if it is too long for a leaf cell.
    pub(crate) fn store_value<S: PageSource>(
        &mut self,
        draft: &mut Draft<'_, '_, S>,
        value: &[u8],
    ) -> Result<Option<Reference>, KvError> {
        if value.len() <= inline_bytes_max(draft.page_bytes) {
            return Ok(None);
        }
        let chunks = value.chunks(chunk_bytes_max(draft.page_bytes));
        let pages: Vec<PageId> = (0..chunks.len())
            .map(|_| self.allocate(draft))
            .collect::<Result<_, _>>()?;
        for (index, chunk) in chunks.enumerate() {
            let next = pages.get(index + 1).copied().unwrap_or(PageId::NONE);
            let format = Op::Init {
                kind: PageKind::Overflow,
                level: 0,
            };
            draft.push(pages[index], format, false);
            draft.push(pages[index], write_chunk(next, chunk), false);
        }
        Ok(Some(Reference {
            first: pages[0],
            last: pages[pages.len() - 1],
            len_bytes: u32::try_from(value.len()).expect("values are at most a MiB"),
        }))
    }

    /// Ends the MTR: what changed in the meta page.
    pub(crate) fn finish<S: PageSource>(&self, draft: &mut Draft<'_, '_, S>) {
        for op in self.found.changes(&self.meta) {
            draft.push(PageId::META, op, false);
        }
    }
}
