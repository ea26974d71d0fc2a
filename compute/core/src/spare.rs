//! Memory of pages that nobody holds any more, for the copies that each seal needs (F1): page-sized allocations are slow.

use std::sync::Arc;

use sixfold_log_format::Page;

/// Pages kept, 8 MiB of the largest size.
const PAGES_MAX: usize = 1_024;

/// Pages that nobody else holds.
#[derive(Debug, Default)]
pub(crate) struct SparePages {
    pages: Vec<Arc<Page>>,
}

impl SparePages {
    /// A version has left the cache; kept unless a reader holds it.
    pub(crate) fn give(&mut self, mut page: Arc<Page>) {
        if self.pages.len() < PAGES_MAX && Arc::get_mut(&mut page).is_some() {
            self.pages.push(page);
        }
    }

    /// A copy that nobody else holds.
    pub(crate) fn copy(&mut self, page: &Page) -> Arc<Page> {
        let Some(mut copy) = self.pages.pop() else {
            return Arc::new(page.clone());
        };
        Arc::get_mut(&mut copy)
            .expect("spare pages are held by nobody else")
            .clone_from(page);
        copy
    }
}
