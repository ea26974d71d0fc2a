//! Where pages come from, and the checks that every page passes before the tree believes it.
//!
//! A page off wire or disk was checked by itself (checksum, slots, key order). What is checked here is its place: that a
//! reference leads to a page of the kind and level that the reference promises, so that a damaged tree gives an error
//! and never a loop or a wrong answer.

use std::sync::Arc;

use sixfold_log_format::{Page, PageId, PageKind};

use crate::modify::ModifyError;

/// Pages as of one point: a read point for readers, the tip for the writer.
pub trait PageSource {
    /// The page as of that point, or `None` when it is not in memory.
    fn page(&self, id: PageId) -> Option<Arc<Page>>;
}

/// Why a tree operation did not end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// Control flow: fetch these pages, at least one, and run the operation again. Everything that is known to be needed
    /// is named, so that it can be fetched at once.
    #[error("{} pages are not in memory, page {} first", .0.len(), .0[0])]
    Miss(Vec<PageId>),
    /// What a [`Write::Modify`](crate::Write::Modify) asks for is not possible.
    #[error("{0}")]
    Invalid(ModifyError),
    /// The tree is not a tree; a bug or damage that no checksum showed.
    #[error("page {page}: {what}")]
    Corrupt {
        /// Where.
        page: PageId,
        /// What is wrong.
        what: &'static str,
    },
    /// The volume has no page left.
    #[error("the volume is full: {pages} pages")]
    Full {
        /// How many it has.
        pages: u64,
    },
}

/// Most pages that one miss names.
pub const MISS_PAGES_MAX: usize = 1_024;

/// A verdict of damage.
pub(crate) fn corrupt(page: PageId, what: &'static str) -> KvError {
    KvError::Corrupt { page, what }
}

/// A miss of one page.
pub(crate) fn miss(id: PageId) -> KvError {
    KvError::Miss(vec![id])
}

/// The page, or a miss.
pub(crate) fn fetch(source: &impl PageSource, id: PageId) -> Result<Arc<Page>, KvError> {
    source.page(id).ok_or_else(|| miss(id))
}

/// The page of the tree that a reference to `id` at `level` leads to.
pub(crate) fn fetch_node(
    source: &impl PageSource,
    id: PageId,
    level: u8,
) -> Result<Arc<Page>, KvError> {
    let page = fetch(source, id)?;
    page.warm();
    check_node(&page, id, level)?;
    Ok(page)
}

/// Checks that `page` is what a reference to `id` at `level` promises.
pub(crate) fn check_node(page: &Page, id: PageId, level: u8) -> Result<(), KvError> {
    let kind = if level == 0 {
        PageKind::Leaf
    } else {
        PageKind::Inner
    };
    if page.kind() != kind {
        return Err(corrupt(id, "another kind than its parent says"));
    }
    if page.level() != level {
        return Err(corrupt(id, "another level than its parent says"));
    }
    if page.id() != id {
        return Err(corrupt(id, "another id than its parent says"));
    }
    Ok(())
}

/// The slot of the child whose subtree would hold `key`: the last separator at or below it.
pub(crate) fn child_slot(page: &Page, key: &[u8]) -> Result<u16, KvError> {
    child_at(page, page.find(key))
}

/// The same, faster when it is at or near `guess`.
pub(crate) fn child_slot_near(page: &Page, key: &[u8], guess: u16) -> Result<u16, KvError> {
    child_at(page, page.find_near(key, guess))
}

fn child_at(page: &Page, found: Result<u16, u16>) -> Result<u16, KvError> {
    match found {
        Ok(slot) => Ok(slot),
        Err(0) => Err(corrupt(page.id(), "no child for the key")),
        Err(slot) => Ok(slot - 1),
    }
}

/// The child in `slot` of an inner page.
pub(crate) fn child(page: &Page, slot: u16) -> Result<PageId, KvError> {
    let bytes = page.cell(slot).value.try_into();
    let number = bytes.map_err(|_| corrupt(page.id(), "a child is not a page id"))?;
    let id = PageId::new(u64::from_le_bytes(number));
    if id <= PageId::META {
        return Err(corrupt(page.id(), "a child is no page of the tree"));
    }
    Ok(id)
}
