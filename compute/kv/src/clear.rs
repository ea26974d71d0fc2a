//! Clears: a range of keys goes, and what it costs depends on the tree's height, not on the keys.
//!
//! ```text
//!            [ a  b | c  d  e | f  g ]        children between the bounds leave whole, with one entry each on the dropped list
//!              /                 \\
//!     [ .. . | x x ]         [ x x | . .. ]   the two paths along the bounds lose what lies inside
//! ```
//!
//! Cells of one page go by a truncation, by a few removals, or, where those would be many, by an image of what is left. Pages
//! that have nothing left go with their parent's cell.

use std::borrow::Cow;
use std::ops::Range;

use sixfold_log_format::{Op, Page, PageId};

use crate::changes::Clear;
use crate::meta::HEIGHT_MAX;
use crate::pages::Dropped;
use crate::plan::Planner;
use crate::source::{KvError, PageSource, child, child_slot};
use crate::split::child_cell;
use crate::write::old_value;

/// More cells than this go by an image of what is left.
const REMOVALS_MAX: u16 = 8;

/// The keys that a page can hold: half-open, `None` = to the last key.
struct Span {
    low: Vec<u8>,
    high: Option<Vec<u8>>,
}

impl Span {
    fn is_within(&self, (start, end): Clear<'_>) -> bool {
        let below = |end: &[u8]| {
            self.high
                .as_ref()
                .is_some_and(|high| high.as_slice() <= end)
        };
        self.low.as_slice() >= start && end.is_none_or(below)
    }
}

impl<'a, S: PageSource> Planner<'_, 'a, S> {
    /// Plans one clear; it lies behind the one before.
    pub(crate) fn clear(&mut self, clear: Clear<'a>) -> Result<(), KvError> {
        let (start, end) = clear;
        let record = Op::DeleteRange {
            start: Cow::Borrowed(start),
            end: Cow::Borrowed(end.unwrap_or_default()),
        };
        self.draft.push(PageId::META, record, true);
        let (root, level) = (self.space.meta.root, self.space.meta.root_level());
        let all = Span {
            low: Vec::new(),
            high: None,
        };
        let is_empty = if level > 0 && all.is_within(clear) {
            let page = self.draft.node(root, level)?;
            for slot in 0..page.cell_count() {
                let dropped = Dropped::Tree(level - 1, child(&page, slot)?);
                self.space.dropped.give(dropped);
            }
            true
        } else {
            self.prune(root, level, clear, &all)?
        };
        if is_empty {
            if level == 0 && self.draft.node(root, 0)?.cell_count() == 0 {
                return Ok(());
            }
            self.draft.forget(root);
            self.draft.format(root, 0)?;
            self.space.meta.height = 1;
            return Ok(());
        }
        self.hand_over_root(HEIGHT_MAX)?;
        self.mend(start)?;
        end.map_or(Ok(()), |end| self.mend(end))?;
        self.hand_over_root(HEIGHT_MAX)
    }

    /// Takes what lies within `clear` out of a subtree. Answers whether nothing is left: then its page was not changed, and
    /// the caller gives it back.
    fn prune(
        &mut self,
        id: PageId,
        level: u8,
        clear: Clear<'_>,
        span: &Span,
    ) -> Result<bool, KvError> {
        let (gone, count) = if level == 0 {
            self.prune_leaf(id, clear)?
        } else {
            self.prune_children(id, level, clear, span)?
        };
        if gone.len() == usize::from(count) {
            return Ok(true);
        }
        self.remove_cells(id, level, gone)?;
        Ok(false)
    }

    /// The cells of a leaf that go, and how many it has.
    fn prune_leaf(&mut self, id: PageId, clear: Clear<'_>) -> Result<(Range<u16>, u16), KvError> {
        let page = self.draft.node(id, 0)?;
        let slot_of = |key| page.find(key).unwrap_or_else(|slot| slot);
        let end = clear.1.map_or(page.cell_count(), slot_of);
        let gone = slot_of(clear.0).min(end)..end;
        for slot in gone.clone() {
            if let Some(reference) = old_value(&page, slot)? {
                self.space.drop_value(&reference);
            }
        }
        Ok((gone, page.cell_count()))
    }

    /// The children of an inner page that go, and how many it has.
    fn prune_children(
        &mut self,
        id: PageId,
        level: u8,
        clear: Clear<'_>,
        span: &Span,
    ) -> Result<(Range<u16>, u16), KvError> {
        let page = self.draft.node(id, level)?;
        let count = page.cell_count();
        let first = child_slot(&page, clear.0.max(&span.low))?;
        // The last child that begins before the end.
        let last = match clear.1 {
            Some(end) => page.find(end).unwrap_or_else(|slot| slot).max(1) - 1,
            None => count - 1,
        };
        if last < first {
            return Ok((0..0, count));
        }
        for slot in first + 1..last {
            let dropped = Dropped::Tree(level - 1, child(&page, slot)?);
            self.space.dropped.give(dropped);
        }
        let mut gone = first + 1..last;
        let mut bounds = vec![(first, child(&page, first)?, child_span(&page, first, span))];
        if last > first {
            bounds.push((last, child(&page, last)?, child_span(&page, last, span)));
        }
        drop(page);
        for (slot, child, span) in bounds {
            if span.is_within(clear) {
                self.space.dropped.give(Dropped::Tree(level - 1, child));
            } else if self.prune(child, level - 1, clear, &span)? {
                self.space.free_node(&mut self.draft, child);
            } else {
                continue;
            }
            gone = if slot == first {
                first..gone.end.max(slot + 1)
            } else {
                gone.start..slot + 1
            };
        }
        Ok((gone.start..gone.end.max(gone.start), count))
    }

    /// Removes cells of a page of the tree, not all of them.
    pub(crate) fn remove_cells(
        &mut self,
        id: PageId,
        level: u8,
        gone: Range<u16>,
    ) -> Result<(), KvError> {
        if gone.is_empty() {
            return Ok(());
        }
        let page = self.draft.node(id, level)?;
        let count = page.cell_count();
        assert!(
            gone.len() < usize::from(count),
            "page {id} loses all its cells"
        );
        let mut gone = gone;
        if level > 0 && gone.start == 0 {
            // The first cell's empty key must stay: the first child that stays moves into it.
            let cell = child_cell(Vec::new(), child(&page, gone.end)?);
            drop(page);
            gone = 1..gone.end + 1;
            let slot = 0;
            self.draft.change(id, level, Op::Replace { slot, cell })?;
        } else {
            drop(page);
        }
        if gone.end == count {
            let from_slot = gone.start;
            return self.draft.change(id, level, Op::Truncate { from_slot });
        }
        if gone.end - gone.start > REMOVALS_MAX {
            let image = self.draft.image_without(id, level, gone)?;
            return self.draft.change(id, level, image);
        }
        for _ in gone.clone() {
            let (slot, key) = (gone.start, Cow::Borrowed(&[][..]));
            self.draft.change(id, level, Op::Remove { slot, key })?;
        }
        Ok(())
    }
}

/// The keys that the child in `slot` can hold.
fn child_span(page: &Page, slot: u16, span: &Span) -> Span {
    let low = page.key(slot).to_vec();
    let next = (slot + 1 < page.cell_count()).then(|| page.key(slot + 1).to_vec());
    Span {
        low: if slot == 0 { span.low.clone() } else { low },
        high: next.or_else(|| span.high.clone()),
    }
}
