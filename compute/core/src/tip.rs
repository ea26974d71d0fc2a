//! The tip: pages changed since the last seal, private to the writer (F1).
//!
//! A page is copied at its first touch after a seal and changed in place until the next; then it becomes a version of the
//! page cache. `log_format::apply` is the only thing that changes it, as at storage.

use std::collections::BTreeMap;
use std::sync::Arc;

use sixfold_kv::PageSource;
use sixfold_log_format::{Lsn, Page, PageId, Record, apply};

use crate::page_cache::PageCache;
use crate::spare::SparePages;

/// A page changed since the last seal.
#[derive(Debug)]
pub(crate) struct TipPage {
    /// The page as it is after the last record minted.
    pub(crate) page: Arc<Page>,
    /// The first record since the last seal: the version before it is the page up to the LSN before.
    pub(crate) first: Lsn,
}

/// The pages changed since the last seal.
#[derive(Debug, Default)]
pub(crate) struct Tip {
    pages: BTreeMap<PageId, TipPage>,
}

impl Tip {
    /// Applies a record that was just minted, after naming the page's last record in it, which is known here alone.
    ///
    /// # Panics
    /// When it cannot be applied: the page is not at hand although planning has just used it, or the tree planned something
    /// impossible.
    pub(crate) fn apply(
        &mut self,
        cache: &PageCache,
        spare: &mut SparePages,
        record: &mut Record<'_>,
        page_bytes: usize,
    ) {
        let tip = self.pages.entry(record.page).or_insert_with(|| {
            let page = if record.op.starts_chain() {
                Arc::new(Page::new(record.page, page_bytes))
            } else {
                let page = cache.newest(record.page);
                page.unwrap_or_else(|| {
                    panic!(
                        "page {} of a planned record is not at hand: {:?}",
                        record.page, record.op
                    )
                })
            };
            TipPage {
                page,
                first: record.lsn,
            }
        });
        if !record.op.starts_chain() {
            record.page_prev = tip.page.lsn();
        }
        // Copies the page when the cache or a reader holds it too, which is at the first touch after a seal.
        if Arc::get_mut(&mut tip.page).is_none() {
            tip.page = spare.copy(&tip.page);
        }
        let page = Arc::get_mut(&mut tip.page).expect("it was copied when others held it");
        if let Err(error) = apply(page, record) {
            panic!("the tree planned a record that does not apply: {error}");
        }
    }

    /// Whether the page has changed since the last seal.
    pub(crate) fn contains(&self, id: PageId) -> bool {
        self.pages.contains_key(&id)
    }

    /// How many pages it holds.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// All pages, at a seal.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = TipPage> {
        std::mem::take(&mut self.pages).into_values()
    }
}

/// The pages as of the last record minted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TipSource<'a> {
    /// What changed since the last seal.
    pub(crate) tip: &'a Tip,
    /// Where the rest is.
    pub(crate) cache: &'a PageCache,
}

impl PageSource for TipSource<'_> {
    fn page(&self, id: PageId) -> Option<Arc<Page>> {
        let tip = self.tip.pages.get(&id).map(|tip| Arc::clone(&tip.page));
        tip.or_else(|| self.cache.newest(id))
    }
}
