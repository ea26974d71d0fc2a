//! Splits: a full page gives its upper cells to a new one.
//!
//! Records of a split: format the new page, insert the moved cells there with the stamps that they had, truncate the old
//! page, insert the new cell, insert the separator in the parent, which may split in turn. There are no full images (F3).
//! Where the full page is cut:
//!
//! | the new cell goes | cut | separator |
//! |---|---|---|
//! | to the end of the tree | before the new cell | shortest |
//! | into the upper half of a leaf, right behind its newest cells | before the new cell | right behind the last key kept |
//! | elsewhere | in the middle, by bytes | shortest |
//!
//! So ascending loads fill their pages, also those that run in the midst of other keys. The second line's separator gives
//! the whole gap in front of the new cell to the new page; a shorter one would leave a part of it to the full page, and
//! descending keys in that part would be given a page each.

use std::borrow::Cow;

use sixfold_log_format::limits::KEY_BYTES_MAX;
use sixfold_log_format::{Cell, CellFlags, Lsn, Op, Page, PageId, Stamp};

use crate::draft::moved;
use crate::meta::HEIGHT_MAX;
use crate::plan::Planner;
use crate::source::{KvError, PageSource, corrupt};

/// A full page with the cell that it has no room for, in the place where that belongs.
struct Overfull<'p> {
    page: &'p Page,
    slot: u16,
    key: &'p [u8],
    bytes: usize,
}

/// What a split does to a page.
struct Cut {
    /// Cells of the old page that stay.
    kept: u16,
    /// Where the new cell goes: a slot of the old page, or of the new one.
    place: Result<u16, u16>,
    /// What the new page's keys begin at.
    separator: Vec<u8>,
}

impl Overfull<'_> {
    /// The cut right before the new cell.
    fn cut_before_new(&self, separator: Vec<u8>) -> Cut {
        Cut {
            kept: self.slot,
            place: Err(0),
            separator,
        }
    }

    /// The cut that comes nearest to two halves of equal bytes.
    fn cut_in_middle(&self) -> Result<Cut, KvError> {
        let capacity = Page::capacity_bytes(self.page.len_bytes());
        let total = capacity - self.page.free_bytes() + self.bytes;
        let mut left = 0;
        let mut best: Option<(usize, u16)> = None;
        // Cells are numbered as if the new one were in its place; a cut after the last one would cut nothing.
        for number in 0..self.page.cell_count() {
            left += match number.cmp(&self.slot) {
                std::cmp::Ordering::Less => self.page.cell_bytes_at(number),
                std::cmp::Ordering::Equal => self.bytes,
                std::cmp::Ordering::Greater => self.page.cell_bytes_at(number - 1),
            };
            let right = total.saturating_sub(left);
            let skew = left.abs_diff(right);
            if left <= capacity && right <= capacity && best.is_none_or(|(least, _)| skew < least) {
                best = Some((skew, number + 1));
            }
        }
        let Some((_, left_count)) = best else {
            return Err(corrupt(self.page.id(), "no split makes room"));
        };
        let (kept, place) = if self.slot < left_count {
            (left_count - 1, Ok(self.slot))
        } else {
            (left_count, Err(self.slot - left_count))
        };
        Ok(Cut {
            kept,
            place,
            separator: self.shortest(left_count)?,
        })
    }

    fn key(&self, number: u16) -> &[u8] {
        match number.cmp(&self.slot) {
            std::cmp::Ordering::Less => self.page.key(number),
            std::cmp::Ordering::Equal => self.key,
            std::cmp::Ordering::Greater => self.page.key(number - 1),
        }
    }

    /// The shortest separator below cell `number` and above the one before it.
    fn shortest(&self, number: u16) -> Result<Vec<u8>, KvError> {
        let (low, high) = (self.key(number - 1), self.key(number));
        let common = low.iter().zip(high).take_while(|(a, b)| a == b).count();
        match high.get(..=common) {
            Some(prefix) => Ok(prefix.to_vec()),
            None => Err(corrupt(self.page.id(), "keys out of order")),
        }
    }

    /// Whether the cells right before the new one are the page's newest: keys have been coming in ascending order.
    fn continues_run(&self) -> bool {
        let stamp = |slot: u16| self.page.cell(slot).stamp;
        let newest = self.page.cells().map(|cell| cell.stamp).max();
        self.slot > 0
            && Some(stamp(self.slot - 1)) == newest
            && (self.slot == self.page.cell_count() || Some(stamp(self.slot)) < newest)
    }
}

/// The lowest key above `low`, if it may be a separator; else `high`.
fn successor(low: &[u8], high: &[u8]) -> Vec<u8> {
    if low.len() < KEY_BYTES_MAX {
        [low, &[0]].concat()
    } else {
        high.to_vec()
    }
}

/// A cell of an inner page.
pub(crate) fn child_cell(separator: Vec<u8>, child: PageId) -> Cell<'static> {
    Cell {
        key: Cow::Owned(separator),
        value: Cow::Owned(child.get().to_le_bytes().to_vec()),
        stamp: Stamp::At(Lsn::NONE),
        flags: CellFlags::PLAIN,
        deadline_ms: None,
    }
}

impl<'a, S: PageSource> Planner<'_, 'a, S> {
    /// Inserts a cell into the current leaf, which has no room for it.
    pub(crate) fn insert_with_split(&mut self, slot: u16, cell: Cell<'a>) -> Result<(), KvError> {
        self.copy_leaf()?;
        let old = self.current.take().expect("a leaf was sought").id;
        let full = Overfull {
            page: self.draft.leaf(old),
            slot,
            key: &cell.key,
            bytes: Page::cell_bytes(&cell),
        };
        if full.page.cell_count() == 0 {
            return Err(corrupt(old, "no split makes room"));
        }
        let at_end = slot == full.page.cell_count();
        let cut = if at_end && self.ends_tree(self.path.steps().len())? {
            full.cut_before_new(full.shortest(slot)?)
        } else {
            let middle = full.cut_in_middle()?;
            if middle.place.is_err() && full.continues_run() {
                full.cut_before_new(successor(full.key(slot - 1), full.key))
            } else {
                middle
            }
        };
        let cells: Vec<Cell<'static>> = moved_cells(full.page, cut.kept);
        let new = self.space.allocate(&self.draft)?;
        self.draft.format(new, 0)?;
        for (slot, cell) in (0..).zip(cells) {
            self.draft
                .change_leaf(new, Op::Insert { slot, cell }, false)?;
        }
        if cut.kept < self.draft.leaf(old).cell_count() {
            let from_slot = cut.kept;
            self.draft
                .change_leaf(old, Op::Truncate { from_slot }, false)?;
        }
        let (page, slot) = match cut.place {
            Ok(slot) => (old, slot),
            Err(slot) => (new, slot),
        };
        self.draft
            .change_leaf(page, Op::Insert { slot, cell }, true)?;
        self.link(cut.separator, new, old)
    }

    /// Whether every step of the path above `depth` takes the last child.
    fn ends_tree(&self, depth: usize) -> Result<bool, KvError> {
        for (above, (id, slot)) in self.path.steps()[..depth].iter().enumerate() {
            let page = self.draft.node(*id, self.path.level(above))?;
            if slot + 1 < page.cell_count() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes `new` known to the parents, right behind the page that the path leads to. `old` is the page that was split.
    fn link(&mut self, separator: Vec<u8>, new: PageId, old: PageId) -> Result<(), KvError> {
        let (mut separator, mut new, mut old) = (separator, new, old);
        for depth in (0..self.path.steps().len()).rev() {
            let (id, slot) = self.path.steps()[depth];
            let level = self.path.level(depth);
            let slot = slot + 1;
            let cell = child_cell(separator, new);
            let has_room = Page::cell_bytes(&cell) <= self.draft.node(id, level)?.free_bytes();
            if has_room {
                return self
                    .draft
                    .change_inner(id, level, Op::Insert { slot, cell });
            }
            (separator, new) = self.split_inner(depth, slot, cell)?;
            old = id;
        }
        self.grow(separator, new, old)
    }

    /// Splits the inner page at `depth` of the path to insert `cell`. Returns separator and id of the new page.
    fn split_inner(
        &mut self,
        depth: usize,
        slot: u16,
        mut cell: Cell<'static>,
    ) -> Result<(Vec<u8>, PageId), KvError> {
        let (old, _) = self.path.steps()[depth];
        let level = self.path.level(depth);
        let ends_tree = self.ends_tree(depth)?;
        let page = self.draft.node(old, level)?;
        let full = Overfull {
            page: &page,
            slot,
            key: &cell.key,
            bytes: Page::cell_bytes(&cell),
        };
        let mut cut = if ends_tree && slot == page.cell_count() {
            full.cut_before_new(Vec::new())
        } else {
            full.cut_in_middle()?
        };
        let count = page.cell_count();
        let mut cells = moved_cells(&page, cut.kept);
        drop(page);
        // The separator between inner pages is the new page's first key, which is left out there: whatever is below it
        // does not come this way.
        let first = match cut.place {
            Err(0) => &mut cell,
            _ => &mut cells[0],
        };
        cut.separator = std::mem::take(&mut first.key).into_owned();
        if let Err(at) = cut.place {
            cells.insert(usize::from(at), cell);
            cell = child_cell(Vec::new(), PageId::NONE);
        }
        let new = self.space.allocate(&self.draft)?;
        self.draft.format(new, level)?;
        for (slot, cell) in (0..).zip(cells) {
            self.draft
                .change_inner(new, level, Op::Insert { slot, cell })?;
        }
        if cut.kept < count {
            let from_slot = cut.kept;
            self.draft
                .change_inner(old, level, Op::Truncate { from_slot })?;
        }
        if let Ok(slot) = cut.place {
            self.draft
                .change_inner(old, level, Op::Insert { slot, cell })?;
        }
        Ok((cut.separator, new))
    }

    /// Puts a new root above `old`, the root that was split.
    fn grow(&mut self, separator: Vec<u8>, new: PageId, old: PageId) -> Result<(), KvError> {
        let level = self.space.meta.height;
        assert!(level < HEIGHT_MAX, "a tree of {level} levels");
        let root = self.space.allocate(&self.draft)?;
        self.draft.format(root, level)?;
        let cells = [child_cell(Vec::new(), old), child_cell(separator, new)];
        for (slot, cell) in (0..).zip(cells) {
            self.draft
                .change_inner(root, level, Op::Insert { slot, cell })?;
        }
        self.space.meta.root = root;
        self.space.meta.height += 1;
        Ok(())
    }
}

/// The cells from `start` on, as they move.
fn moved_cells(page: &Page, start: u16) -> Vec<Cell<'static>> {
    (start..page.cell_count())
        .map(|slot| moved(&page.cell(slot)))
        .collect()
}
