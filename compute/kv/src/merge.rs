//! What becomes of pages that lost cells: emptied ones leave the tree, underfull ones join a sibling.
//!
//! A page is looked at when it is left, if it has just fallen below a quarter, an eighth and so on of its room: not at every
//! deletion, since looking may mean fetching its siblings. Of two siblings that fit into three quarters of a page, the one
//! with less in it moves over to the other. The tree is never without a leaf, an inner page never without a child, and a
//! root with a single child hands over to it.

use std::borrow::Cow;

use sixfold_log_format::{Op, Page, PageId};

use crate::draft::moved;
use crate::plan::{Planner, used_bytes};
use crate::source::{KvError, PageSource, child};
use crate::split::child_cell;

/// A page with less than this part of its room in use is underfull; looked at again at each step of [`STEPS`] below.
const UNDERFULL_STEPS: usize = 4;
const STEPS: usize = 16;

/// Whether a page that held `before` bytes of `capacity` and now holds `after` should look for a sibling to join.
fn falls_underfull(before: usize, after: usize, capacity: usize) -> bool {
    let step = |bytes: usize| bytes * STEPS / capacity;
    step(after) < UNDERFULL_STEPS && step(after) < step(before)
}

impl<S: PageSource> Planner<'_, '_, S> {
    /// Leaves the current leaf, if there is one.
    pub(crate) fn leave(&mut self) -> Result<(), KvError> {
        let Some(current) = &self.current else {
            return Ok(());
        };
        let (before, after) = (current.sought_bytes, current.used_bytes);
        if after == 0 {
            return self.unlink_leaf(current.id);
        }
        let capacity = Page::capacity_bytes(self.draft.page_bytes);
        if !falls_underfull(before, after, capacity) || !self.join(self.path.steps().len())? {
            self.previous = self.current.take();
        }
        Ok(())
    }

    /// Joins the page at `depth` of the path (the current leaf at its end) with a sibling, if there is one with room. When it
    /// does, the path is no longer good and there is no current leaf.
    fn join(&mut self, depth: usize) -> Result<bool, KvError> {
        let Some(above) = depth.checked_sub(1) else {
            return Ok(false);
        };
        self.copy_if_pending()?;
        self.copy_previous()?;
        let (parent, slot) = self.path.steps()[above];
        let level = self.path.level(above) - 1;
        let count = self.draft.node(parent, level + 1)?.cell_count();
        // The pairs of which it is the left or the right one.
        let pairs = [Some(slot).filter(|_| slot + 1 < count), slot.checked_sub(1)];
        for left_slot in pairs.into_iter().flatten() {
            if self.join_pair(above, left_slot, level)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Joins the children of the page at depth `above` in `left_slot` and behind it, if they fit.
    fn join_pair(&mut self, above: usize, left_slot: u16, level: u8) -> Result<bool, KvError> {
        let (parent, _) = self.path.steps()[above];
        let page = self.draft.node(parent, level + 1)?;
        let (left, right) = (child(&page, left_slot)?, child(&page, left_slot + 1)?);
        let separator = match level {
            0 => Vec::new(),
            _ => page.key(left_slot + 1).to_vec(),
        };
        let parent_key = page.key(left_slot).to_vec();
        drop(page);
        let left_bytes = used_bytes(&*self.draft.node(left, level)?);
        let right_bytes = used_bytes(&*self.draft.node(right, level)?);
        let capacity = Page::capacity_bytes(self.draft.page_bytes);
        if left_bytes + right_bytes + separator.len() > capacity / 4 * 3 {
            return Ok(false);
        }
        let moves_left = left_bytes < right_bytes;
        if moves_left {
            self.prepend(left, right, level, separator)?;
            let cell = child_cell(parent_key, right);
            let slot = left_slot;
            self.draft
                .change_inner(parent, level + 1, Op::Replace { slot, cell })?;
        } else {
            self.append(right, left, level, separator)?;
        }
        self.current = None;
        let gone = if moves_left { left } else { right };
        self.space.free_node(&mut self.draft, gone);
        self.remove_child(above, left_slot + 1)?;
        self.path.clear();
        Ok(true)
    }

    /// Moves the cells of `from`, the right sibling, to the end of `to`. The first key of an inner page is left out there;
    /// it is the separator.
    fn append(
        &mut self,
        from: PageId,
        to: PageId,
        level: u8,
        separator: Vec<u8>,
    ) -> Result<(), KvError> {
        let mut cells = self.moved_cells(from, level)?;
        if let Some(first) = cells.first_mut().filter(|_| level > 0) {
            first.key = Cow::Owned(separator);
        }
        let count = self.draft.node(to, level)?.cell_count();
        for (slot, cell) in (count..).zip(cells) {
            self.draft.change(to, level, Op::Insert { slot, cell })?;
        }
        Ok(())
    }

    /// Moves the cells of `from`, the left sibling, to the start of `to`.
    fn prepend(
        &mut self,
        from: PageId,
        to: PageId,
        level: u8,
        separator: Vec<u8>,
    ) -> Result<(), KvError> {
        if level > 0 {
            let first = child(&*self.draft.node(to, level)?, 0)?;
            let (slot, key) = (0, Cow::Borrowed(&[][..]));
            self.draft.change(to, level, Op::Remove { slot, key })?;
            let cell = child_cell(separator, first);
            self.draft.change(to, level, Op::Insert { slot, cell })?;
        }
        let cells = self.moved_cells(from, level)?;
        for (slot, cell) in (0..).zip(cells) {
            self.draft.change(to, level, Op::Insert { slot, cell })?;
        }
        Ok(())
    }

    fn moved_cells(
        &self,
        id: PageId,
        level: u8,
    ) -> Result<Vec<sixfold_log_format::Cell<'static>>, KvError> {
        let page = self.draft.node(id, level)?;
        Ok(page.cells().map(|cell| moved(&cell)).collect())
    }

    /// Takes the current leaf, which is empty, out of the tree.
    fn unlink_leaf(&mut self, leaf: PageId) -> Result<(), KvError> {
        let Some(keeper) = self.lowest_with_siblings()? else {
            return self.empty_tree(leaf);
        };
        self.current = None;
        self.copy_previous()?;
        self.space.free_node(&mut self.draft, leaf);
        for depth in keeper + 1..self.path.steps().len() {
            let (id, _) = self.path.steps()[depth];
            self.space.free_node(&mut self.draft, id);
        }
        let (_, slot) = self.path.steps()[keeper];
        self.remove_child(keeper, slot)?;
        self.path.clear();
        Ok(())
    }

    /// Depth of the lowest inner page on the path that has another child.
    fn lowest_with_siblings(&self) -> Result<Option<usize>, KvError> {
        for (depth, (id, _)) in self.path.steps().iter().enumerate().rev() {
            if self.draft.node(*id, self.path.level(depth))?.cell_count() > 1 {
                return Ok(Some(depth));
            }
        }
        Ok(None)
    }

    /// The last leaf is empty: it becomes the root and stays.
    fn empty_tree(&mut self, leaf: PageId) -> Result<(), KvError> {
        self.copy_if_pending()?;
        for depth in 0..self.path.steps().len() {
            let (id, _) = self.path.steps()[depth];
            self.space.free_node(&mut self.draft, id);
        }
        self.path.clear();
        self.current = None;
        self.space.meta.root = leaf;
        self.space.meta.height = 1;
        Ok(())
    }

    /// Removes a child of the inner page at `depth` of the path, which has others, and looks at what is left of that page.
    fn remove_child(&mut self, depth: usize, slot: u16) -> Result<(), KvError> {
        let (id, _) = self.path.steps()[depth];
        let level = self.path.level(depth);
        let before = used_bytes(&*self.draft.node(id, level)?);
        self.remove_cells(id, level, slot..slot + 1)?;
        let after = used_bytes(&*self.draft.node(id, level)?);
        let capacity = Page::capacity_bytes(self.draft.page_bytes);
        if depth == 0 {
            self.hand_over_root(1)
        } else if falls_underfull(before, after, capacity) {
            self.join(depth).map(drop)
        } else {
            Ok(())
        }
    }

    /// While the root is an inner page with a single child, that child becomes the root: at most `count_max` times.
    pub(crate) fn hand_over_root(&mut self, count_max: u8) -> Result<(), KvError> {
        for _ in 0..count_max {
            let (root, level) = (self.space.meta.root, self.space.meta.root_level());
            if level == 0 {
                break;
            }
            let page = self.draft.node(root, level)?;
            if page.cell_count() != 1 {
                break;
            }
            self.space.meta.root = child(&page, 0)?;
            self.space.meta.height -= 1;
            drop(page);
            self.space.free_node(&mut self.draft, root);
        }
        Ok(())
    }

    /// Joins what lies around `key` with siblings, on every level: a clear has cut there.
    pub(crate) fn mend(&mut self, key: &[u8]) -> Result<(), KvError> {
        let capacity = Page::capacity_bytes(self.draft.page_bytes);
        for level in 0..self.space.meta.height {
            self.current = None;
            let leaf = self.seek(key)?;
            let Some(depth) = self.path.steps().len().checked_sub(usize::from(level)) else {
                break;
            };
            let id = self.path.steps().get(depth).map_or(leaf, |step| step.0);
            let after = used_bytes(&*self.draft.node(id, level)?);
            if falls_underfull(capacity, after, capacity) {
                self.join(depth)?;
            }
        }
        self.current = None;
        self.path.clear();
        Ok(())
    }
}
