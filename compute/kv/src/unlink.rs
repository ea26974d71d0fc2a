//! Emptied leaves leave the tree, and inner pages that lose their last child go with them.
//!
//! There is no merging of half-empty neighbors: a page is given back when nothing is left in it. The tree is never
//! without a leaf, an inner page never without a child, and a root with a single child hands over to it (one level at a
//! time, since the child need not be in memory).

use std::borrow::Cow;

use sixfold_log_format::{Cell, CellFlags, Lsn, Op, PageId, Stamp};

use crate::plan::Planner;
use crate::source::{KvError, PageSource, child};

impl<S: PageSource> Planner<'_, '_, S> {
    /// Takes the current leaf, which is empty, out of the tree.
    pub(crate) fn unlink_leaf(&mut self, leaf: PageId) -> Result<(), KvError> {
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
        let (id, slot) = self.path.steps()[keeper];
        let level = self.path.level(keeper);
        self.remove_child(id, level, slot)?;
        let page = self.draft.node(id, level)?;
        if keeper == 0 && page.cell_count() == 1 {
            self.space.meta.root = child(&page, 0)?;
            self.space.meta.height -= 1;
            drop(page);
            self.space.free_node(&mut self.draft, id);
        }
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
        for depth in 0..self.path.steps().len() {
            let (id, _) = self.path.steps()[depth];
            self.space.free_node(&mut self.draft, id);
        }
        self.path.clear();
        self.space.meta.root = leaf;
        self.space.meta.height = 1;
        Ok(())
    }

    /// Removes a child of an inner page that has others.
    fn remove_child(&mut self, id: PageId, level: u8, slot: u16) -> Result<(), KvError> {
        let mut gone = slot;
        if slot == 0 {
            // The first cell's empty key must stay: the second child moves into it.
            let second = self.draft.node(id, level)?.cell(1).value.to_vec();
            let cell = Cell {
                key: Cow::Borrowed(&[]),
                value: Cow::Owned(second),
                stamp: Stamp::At(Lsn::NONE),
                flags: CellFlags::PLAIN,
                deadline_ms: None,
            };
            self.draft
                .change_inner(id, level, Op::Replace { slot, cell })?;
            gone = 1;
        }
        let key = Cow::Borrowed(&[][..]);
        self.draft
            .change_inner(id, level, Op::Remove { slot: gone, key })
    }
}
