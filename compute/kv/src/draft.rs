//! The draft of an MTR: its records so far, and private copies of the pages that they change.
//!
//! A copy is made only when a later step must see an earlier one: the common plan, one write into one leaf, copies nothing. Copies
//! carry provisional LSNs. Their cells put by this MTR carry the stamp [`Lsn::MAX`], which no commit has: it says *this
//! commit*, and must leave as [`Stamp::Commit`] when a split moves such a cell on.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::page::PageCell;
use sixfold_log_format::{ApplyError, Cell, Lsn, Op, Page, PageId, PageKind, Record, Stamp, apply};

use crate::plan::PlannedRecord;
use crate::source::{KvError, PageSource, check_node, corrupt, fetch};

/// The stamp of cells that this MTR put, in private copies.
const THIS_COMMIT: Lsn = Lsn::MAX;

/// A page as the MTR has left it so far.
pub(crate) enum Held<'p> {
    /// Changed by the MTR.
    Copy(&'p Page),
    /// As it stands on the tip.
    Shared(Arc<Page>),
}

impl Deref for Held<'_> {
    type Target = Page;

    fn deref(&self) -> &Page {
        match self {
            Held::Copy(page) => page,
            Held::Shared(page) => page,
        }
    }
}

/// Records and private copies.
pub(crate) struct Draft<'s, 'a, S> {
    pub(crate) tip: &'s S,
    pub(crate) page_bytes: usize,
    pub(crate) records: Vec<PlannedRecord<'a>>,
    inner: BTreeMap<PageId, Page>,
    leaves: BTreeMap<PageId, Page>,
}

impl<'s, 'a, S: PageSource> Draft<'s, 'a, S> {
    pub(crate) fn new(tip: &'s S, page_bytes: usize, write_count: usize) -> Self {
        Draft {
            tip,
            page_bytes,
            records: Vec::with_capacity(write_count),
            inner: BTreeMap::new(),
            leaves: BTreeMap::new(),
        }
    }

    /// The page of the tree that a reference to `id` at `level` leads to.
    pub(crate) fn node(&self, id: PageId, level: u8) -> Result<Held<'_>, KvError> {
        let copies = if level == 0 {
            &self.leaves
        } else {
            &self.inner
        };
        let page = match copies.get(&id) {
            Some(copy) => Held::Copy(copy),
            None => Held::Shared(fetch(self.tip, id)?),
        };
        check_node(&page, id, level)?;
        Ok(page)
    }

    /// The private copy of a leaf that has one.
    pub(crate) fn leaf(&self, id: PageId) -> &Page {
        self.leaves.get(&id).expect("the leaf was copied")
    }

    /// Adds a record that no later step looks at. Returns its index.
    pub(crate) fn push(&mut self, page: PageId, op: Op<'a>, user_visible: bool) -> usize {
        self.records.push(PlannedRecord {
            page,
            op,
            user_visible,
        });
        self.records.len() - 1
    }

    /// Copies `shared`, a leaf, and brings the copy up to the record `pending`, if any.
    pub(crate) fn copy_leaf(
        &mut self,
        shared: &Page,
        pending: Option<usize>,
    ) -> Result<(), KvError> {
        let mut copy = shared.clone();
        if let Some(index) = pending {
            let planned = &mut self.records[index];
            let op = std::mem::replace(&mut planned.op, Op::Truncate { from_slot: 0 });
            planned.op = try_op(&mut copy, op, planned.user_visible)?;
        }
        self.leaves.insert(copy.id(), copy);
        Ok(())
    }

    /// Changes a leaf that has a private copy.
    pub(crate) fn change_leaf(
        &mut self,
        id: PageId,
        op: Op<'a>,
        user_visible: bool,
    ) -> Result<(), KvError> {
        let page = self.leaves.get_mut(&id).expect("the leaf was copied");
        let op = try_op(page, op, user_visible)?;
        self.push(id, op, user_visible);
        Ok(())
    }

    /// Changes an inner page, copying it first where that was not done.
    pub(crate) fn change_inner(
        &mut self,
        id: PageId,
        level: u8,
        op: Op<'a>,
    ) -> Result<(), KvError> {
        if !self.inner.contains_key(&id) {
            let copy = Page::clone(&*self.node(id, level)?);
            self.inner.insert(id, copy);
        }
        let page = self.inner.get_mut(&id).expect("copied above");
        let op = try_op(page, op, false)?;
        self.push(id, op, false);
        Ok(())
    }

    /// Changes a page of the tree, copying it first where that was not done. A leaf on which a record was planned without a
    /// copy must have been copied before.
    pub(crate) fn change(&mut self, id: PageId, level: u8, op: Op<'a>) -> Result<(), KvError> {
        if level > 0 {
            return self.change_inner(id, level, op);
        }
        if !self.leaves.contains_key(&id) {
            let copy = Page::clone(&*self.node(id, 0)?);
            self.leaves.insert(id, copy);
        }
        self.change_leaf(id, op, false)
    }

    /// The image of a page without the cells of `gone`, none of which this MTR has put, nor any other of the page.
    pub(crate) fn image_without(
        &self,
        id: PageId,
        level: u8,
        gone: std::ops::Range<u16>,
    ) -> Result<Op<'static>, KvError> {
        let mut scratch = Page::clone(&*self.node(id, level)?);
        for _ in gone.clone() {
            let slot = gone.start;
            let key = Cow::Borrowed(&[][..]);
            try_op(&mut scratch, Op::Remove { slot, key }, false)?;
        }
        assert!(
            scratch.cells().all(|cell| cell.stamp != THIS_COMMIT),
            "an image has no way to say: this commit"
        );
        let bytes = Cow::Owned(scratch.image());
        Ok(Op::Image { bytes })
    }

    /// Formats a page that holds nothing as a page of the tree.
    pub(crate) fn format(&mut self, id: PageId, level: u8) -> Result<(), KvError> {
        let mut page = Page::new(id, self.page_bytes);
        let (kind, copies) = if level == 0 {
            (PageKind::Leaf, &mut self.leaves)
        } else {
            (PageKind::Inner, &mut self.inner)
        };
        let op = try_op(&mut page, Op::Init { kind, level }, false)?;
        copies.insert(id, page);
        self.push(id, op, false);
        Ok(())
    }

    /// Forgets the private copy of a page that has left the tree.
    pub(crate) fn forget(&mut self, id: PageId) {
        self.inner.remove(&id);
        self.leaves.remove(&id);
    }

    /// Forgets the copies of leaves that lie before `key`, but for `current` and the nearest one: writes come in ascending
    /// order, so that nothing looks at the others again. This keeps a large MTR from holding a copy of every leaf that
    /// it changed. The nearest one takes over the range of a leaf that is unlinked behind it, and may be met again.
    pub(crate) fn forget_leaves_before(&mut self, key: &[u8], current: PageId) {
        if self.leaves.len() <= 2 {
            return;
        }
        let last_key = |page: &Page| page.key(page.cell_count() - 1).to_vec();
        let is_before = |id: &PageId, page: &Page| {
            *id != current && page.cell_count() > 0 && page.key(page.cell_count() - 1) < key
        };
        let before = self.leaves.iter().filter(|(id, page)| is_before(id, page));
        let nearest = before
            .max_by_key(|(_, page)| last_key(page))
            .map(|(id, _)| *id);
        self.leaves
            .retain(|id, page| Some(*id) == nearest || !is_before(id, page));
    }
}

/// A cell as it moves from one page to another, with the stamp that it had.
pub(crate) fn moved(cell: &PageCell<'_>) -> Cell<'static> {
    Cell {
        key: Cow::Owned(cell.key.to_vec()),
        value: Cow::Owned(cell.value.to_vec()),
        stamp: if cell.stamp == THIS_COMMIT || planted(Mutant::SplitStampsAnew) {
            Stamp::Commit
        } else {
            Stamp::At(cell.stamp)
        },
        flags: cell.flags,
        deadline_ms: cell.deadline_ms,
    }
}

/// Applies an operation to a private copy, and gives it back.
fn try_op<'a>(page: &mut Page, op: Op<'a>, user_visible: bool) -> Result<Op<'a>, KvError> {
    let id = page.id();
    let lsn = page.lsn().checked_plus(1);
    let record = Record {
        lsn: lsn.ok_or_else(|| corrupt(id, "page LSN at the end of its space"))?,
        page: id,
        page_prev: if op.starts_chain() {
            Lsn::NONE
        } else {
            page.lsn()
        },
        cpl: THIS_COMMIT,
        user_visible,
        op,
    };
    match apply(page, &record) {
        Ok(()) => Ok(record.op),
        Err(ApplyError::Impossible { what, .. }) => Err(corrupt(id, what)),
        Err(_) => unreachable!("the record was made for this version of this page"),
    }
}
