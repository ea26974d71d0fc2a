//! Freeing what was dropped, a few pages an MTR: the sweeper's work.
//!
//! Each step takes what was dropped last. A page that refers to others puts them on the list in its place, and is free; so a
//! step frees one page, needs at most that one, and the list never grows beyond what the tree's height and width allow.

use sixfold_log_format::{CellFlags, Page, PageId, PageKind};

use crate::overflow::{Reference, index_ids};
use crate::pages::Dropped;
use crate::plan::{Plan, Planner};
use crate::source::{KvError, PageSource, check_node, child, corrupt, fetch};

/// Pages that a miss looks ahead for.
const READ_AHEAD_MAX: usize = 64;

/// Plans an MTR that frees pages of what was dropped: at most about `records_max` records (32 are enough for any step), at
/// least one page if there is something. Empty when nothing is left to do.
///
/// When a page is missing after some were freed, the plan holds those.
///
/// # Errors
/// [`KvError`]; a miss names the next pages that will be needed.
pub fn plan_reclaim(
    tip: &impl PageSource,
    records_max: usize,
    pages_max: u64,
) -> Result<Plan<'static>, KvError> {
    let mut planner = Planner::new(tip, 0, 0, pages_max)?;
    let mut freed = 0;
    while freed == 0 || planner.space.record_count(planner.draft.page_bytes) < records_max {
        match planner.free_dropped() {
            Ok(true) => freed += 1,
            Ok(false) => break,
            Err(KvError::Miss(_)) if freed > 0 => break,
            Err(KvError::Miss(_)) => return Err(planner.miss_ahead()?),
            Err(error) => return Err(error),
        }
    }
    planner.finish()
}

impl<S: PageSource> Planner<'_, '_, S> {
    /// Frees one page of what was dropped; false when nothing is left. A miss or an error has changed nothing.
    fn free_dropped(&mut self) -> Result<bool, KvError> {
        let Some(next) = self.space.dropped.peek(&self.draft, 1)?.first().copied() else {
            return Ok(false);
        };
        let next_page = self.space.meta.next_page;
        if next.page() <= PageId::META || next.page() >= next_page {
            return Err(corrupt(next.page(), "the dropped list leads to no page"));
        }
        let below = self.below(next)?;
        let taken = self.space.dropped.take(&self.draft, next_page)?;
        let (taken, trunk) = taken.expect("it was looked at");
        assert_eq!(taken, next, "what is taken is what was looked at");
        if let Some(trunk) = trunk {
            self.space.free.give(trunk);
        }
        self.space.free.give(next.page());
        // In reverse, so that they are freed in the order in which they stand.
        below
            .into_iter()
            .rev()
            .for_each(|dropped| self.space.dropped.give(dropped));
        Ok(true)
    }

    /// What the first page of `dropped` refers to.
    fn below(&self, dropped: Dropped) -> Result<Vec<Dropped>, KvError> {
        match dropped {
            Dropped::Value(0, id) => {
                // Not fetched for this: but if it is at hand it has to be one of a value.
                let held = self.draft.tip.page(id);
                if held.is_some_and(|page| page.kind() != PageKind::Overflow) {
                    return Err(corrupt(id, "a page without a value is on the dropped list"));
                }
                Ok(Vec::new())
            }
            Dropped::Value(level, id) => {
                let page = fetch(self.draft.tip, id)?;
                let ids = index_ids(&page, id, level)?.into_iter();
                Ok(ids.map(|id| Dropped::Value(level - 1, id)).collect())
            }
            Dropped::Tree(level, id) => {
                let page = fetch(self.draft.tip, id)?;
                check_node(&page, id, level)?;
                if level == 0 {
                    return values_of(&page);
                }
                (0..page.cell_count())
                    .map(|slot| Ok(Dropped::Tree(level - 1, child(&page, slot)?)))
                    .collect()
            }
        }
    }

    /// A miss of the pages that the next steps need.
    fn miss_ahead(&self) -> Result<KvError, KvError> {
        let next = self.space.dropped.peek(&self.draft, READ_AHEAD_MAX)?;
        let needed = next
            .into_iter()
            .filter(|next| !matches!(next, Dropped::Value(0, _)));
        let missing = needed
            .map(Dropped::page)
            .filter(|id| self.draft.tip.page(*id).is_none());
        Ok(KvError::Miss(missing.collect()))
    }
}

/// The large values of a leaf.
fn values_of(leaf: &Page) -> Result<Vec<Dropped>, KvError> {
    let mut values = Vec::new();
    for cell in leaf.cells() {
        if cell.flags.contains(CellFlags::OVERFLOW) {
            let reference = Reference::read(cell.value, leaf)?;
            let pages = reference.ids.iter();
            values.extend(pages.map(|id| Dropped::Value(reference.level, *id)));
        }
    }
    Ok(values)
}
