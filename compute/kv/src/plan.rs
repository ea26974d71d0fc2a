//! From a transaction's writes to the records of its MTR, on private copies (T4): a miss or an error drops the plan and has
//! changed nothing.

use std::borrow::Cow;
use std::sync::Arc;

use sixfold_log_format::limits::{KEY_BYTES_MAX, PAGE_BYTES_MIN, VALUE_BYTES_MAX};
use sixfold_log_format::page::{CELL_OVERHEAD_BYTES, DEADLINE_BYTES, PAGE_HEADER_BYTES};
use sixfold_log_format::{Cell, CellFlags, Op, Page, PageId, PageKind, Stamp};

use crate::draft::{Draft, Held};
use crate::meta::{HEIGHT_MAX, Meta};
use crate::overflow::{REFERENCE_BYTES, Reference};
use crate::source::{KvError, PageSource, child, child_slot, fetch};
use crate::space::Space;

/// One user-visible change. A transaction's writes come sorted by key, each key once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write<'a> {
    /// Puts a value.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// Wall-clock milliseconds after which it is expired.
        deadline_ms: Option<u64>,
    },
    /// Deletes a key; nothing happens when it is absent.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

impl<'a> Write<'a> {
    /// The key that it changes.
    pub fn key(&self) -> &'a [u8] {
        match self {
            Write::Put { key, .. } | Write::Delete { key } => key,
        }
    }
}

/// A record without LSNs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRecord<'a> {
    /// The page.
    pub page: PageId,
    /// What to do to it.
    pub op: Op<'a>,
    /// Whether a user asked for just this.
    pub user_visible: bool,
}

/// The records of one MTR, in the order in which they must be applied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan<'a> {
    /// The records; empty when nothing changes (deletes of absent keys).
    pub records: Vec<PlannedRecord<'a>>,
}

/// A page is never so small that a split could fail to make room: each half takes at least the largest cell.
const KEY_SHARE: usize = 4;
const _: () = assert!(
    PAGE_BYTES_MIN / KEY_SHARE + PAGE_BYTES_MIN / 8 + CELL_OVERHEAD_BYTES + DEADLINE_BYTES
        <= (PAGE_BYTES_MIN - PAGE_HEADER_BYTES) / 2
);
const _: () = assert!(REFERENCE_BYTES <= PAGE_BYTES_MIN / 8);

/// Longest key in a volume with pages of this size, bytes: the general limit, or a quarter of a small page.
pub fn key_bytes_max(page_bytes: usize) -> usize {
    KEY_BYTES_MAX.min(page_bytes / KEY_SHARE)
}

/// Plans the writes on the tip.
///
/// `pages_max` is how many pages the volume has: ids stay below it.
///
/// A write into a leaf with room becomes one record. The number of records otherwise depends on what splits: a split moves
/// up to half a page's cells, each by a record of its own, so the caller checks `records.len()` against its bounds before
/// anything is minted.
///
/// # Errors
/// [`KvError`].
///
/// # Panics
/// When the writes are not sorted, or a key or value is longer than the limits allow ([`key_bytes_max`]).
pub fn plan<'a>(
    tip: &impl PageSource,
    writes: &[Write<'a>],
    pages_max: u64,
) -> Result<Plan<'a>, KvError> {
    assert!(
        writes.is_sorted_by(|one, other| one.key() < other.key()),
        "writes come sorted, each key once"
    );
    let page = fetch(tip, PageId::META)?;
    let meta = Meta::read(&page)?;
    let mut planner = Planner {
        draft: Draft::new(tip, page.len_bytes(), writes.len()),
        space: Space::new(meta, pages_max),
        path: Path::new(),
        current: None,
        previous: None,
    };
    for write in writes {
        planner.write(write)?;
    }
    planner.space.finish(&mut planner.draft);
    Ok(Plan {
        records: planner.draft.records,
    })
}

/// The first MTR of a volume: meta page and an empty root leaf.
pub fn plan_creation() -> Plan<'static> {
    let record = |page, op| PlannedRecord {
        page,
        op,
        user_visible: false,
    };
    let init = |kind| Op::Init { kind, level: 0 };
    let body = Op::WriteBytes {
        offset: 0,
        bytes: Cow::Owned(Meta::CREATION.encode().to_vec()),
    };
    Plan {
        records: vec![
            record(PageId::META, init(PageKind::Meta)),
            record(PageId::META, body),
            record(Meta::CREATION.root, init(PageKind::Leaf)),
        ],
    }
}

/// The inner pages from the root down to a leaf, each with the slot of the child taken.
pub(crate) struct Path {
    steps: [(PageId, u16); HEIGHT_MAX as usize],
    depth: usize,
}

impl Path {
    fn new() -> Path {
        Path {
            steps: [(PageId::NONE, 0); HEIGHT_MAX as usize],
            depth: 0,
        }
    }

    fn push(&mut self, page: PageId, slot: u16) {
        self.steps[self.depth] = (page, slot);
        self.depth += 1;
    }

    pub(crate) fn clear(&mut self) {
        self.depth = 0;
    }

    /// The steps, the root first.
    pub(crate) fn steps(&self) -> &[(PageId, u16)] {
        &self.steps[..self.depth]
    }

    /// The level of the page at `depth`.
    pub(crate) fn level(&self, depth: usize) -> u8 {
        u8::try_from(self.depth - depth).expect("at most the height")
    }
}

/// The leaf that the last write went to.
pub(crate) struct Current {
    pub(crate) id: PageId,
    /// The page on the tip, and the one record planned on it; `None` once the draft has a copy.
    shared: Option<(Arc<Page>, Option<usize>)>,
}

/// Plans one MTR, write by write.
pub(crate) struct Planner<'s, 'a, S> {
    pub(crate) draft: Draft<'s, 'a, S>,
    pub(crate) space: Space,
    pub(crate) path: Path,
    pub(crate) current: Option<Current>,
    /// The leaf before it. If the current one is unlinked, its range may fall to this one.
    previous: Option<Current>,
}

impl<'a, S: PageSource> Planner<'_, 'a, S> {
    fn write(&mut self, write: &Write<'a>) -> Result<(), KvError> {
        let key = write.key();
        assert!(
            (1..=key_bytes_max(self.draft.page_bytes)).contains(&key.len()),
            "a key of {} bytes",
            key.len()
        );
        let leaf = self.seek(key)?;
        match *write {
            Write::Put {
                key,
                value,
                deadline_ms,
            } => self.put(leaf, key, value, deadline_ms),
            Write::Delete { key } => self.delete(leaf, key),
        }
    }

    /// Makes the leaf for `key` the current one, ready to be looked at.
    fn seek(&mut self, key: &[u8]) -> Result<PageId, KvError> {
        if let Some(current) = self.current.take() {
            if self.covers(key)? {
                let id = current.id;
                self.current = Some(current);
                self.copy_if_pending()?;
                return Ok(id);
            }
            self.previous = Some(current);
        }
        self.path.clear();
        let (mut id, mut level) = (self.space.meta.root, self.space.meta.root_level());
        while level > 0 {
            let page = self.draft.node(id, level)?;
            let slot = child_slot(&page, key)?;
            let next = child(&page, slot)?;
            self.path.push(id, slot);
            (id, level) = (next, level - 1);
        }
        self.draft.forget_leaves_before(key, id);
        let shared = match self.draft.node(id, 0)? {
            Held::Copy(_) => None,
            Held::Shared(page) => Some((page, None)),
        };
        self.current = Some(Current { id, shared });
        Ok(id)
    }

    /// Whether the path leads to the leaf for `key`, which is above the last key that it was made for.
    fn covers(&self, key: &[u8]) -> Result<bool, KvError> {
        for (depth, (id, slot)) in self.path.steps().iter().enumerate().rev() {
            let page = self.draft.node(*id, self.path.level(depth))?;
            if slot + 1 < page.cell_count() {
                return Ok(key < page.key(slot + 1));
            }
        }
        Ok(true)
    }

    fn current(&self) -> &Current {
        self.current.as_ref().expect("a leaf was sought")
    }

    /// The current leaf, to be looked at; records planned on it are in it.
    fn leaf(&self) -> &Page {
        let current = self.current();
        match &current.shared {
            Some((page, pending)) => {
                assert!(pending.is_none(), "a record was planned on the shared page");
                page
            }
            None => self.draft.leaf(current.id),
        }
    }

    /// Copies the current leaf if a record was planned on it, so that it can be looked at again.
    fn copy_if_pending(&mut self) -> Result<(), KvError> {
        match &self.current().shared {
            Some((_, Some(_))) => self.copy_leaf(),
            _ => Ok(()),
        }
    }

    /// Gives the draft a copy of the current leaf.
    pub(crate) fn copy_leaf(&mut self) -> Result<(), KvError> {
        let current = self.current.as_mut().expect("a leaf was sought");
        match current.shared.take() {
            Some((page, pending)) => self.draft.copy_leaf(&page, pending),
            None => Ok(()),
        }
    }

    /// Gives the draft a copy of the leaf before the current one, if a record was planned on it: the current one leaves the
    /// tree, and a later write may go to the one before.
    pub(crate) fn copy_previous(&mut self) -> Result<(), KvError> {
        match self.previous.take().and_then(|previous| previous.shared) {
            Some((page, pending @ Some(_))) => self.draft.copy_leaf(&page, pending),
            _ => Ok(()),
        }
    }

    /// Plans an operation on the current leaf: without a copy if it is the first one.
    pub(crate) fn change_leaf(&mut self, op: Op<'a>, user_visible: bool) -> Result<(), KvError> {
        let current = self.current.as_mut().expect("a leaf was sought");
        match &mut current.shared {
            Some((_, pending @ None)) => {
                *pending = Some(self.draft.push(current.id, op, user_visible));
                Ok(())
            }
            Some(_) => unreachable!("copied before it was looked at again"),
            None => self.draft.change_leaf(current.id, op, user_visible),
        }
    }

    fn put(
        &mut self,
        leaf: PageId,
        key: &'a [u8],
        value: &'a [u8],
        deadline_ms: Option<u64>,
    ) -> Result<(), KvError> {
        assert!(
            value.len() <= VALUE_BYTES_MAX,
            "a value of {} bytes",
            value.len()
        );
        let mut cell = Cell {
            key: Cow::Borrowed(key),
            value: Cow::Borrowed(value),
            stamp: Stamp::Commit,
            flags: CellFlags::PLAIN,
            deadline_ms,
        };
        if deadline_ms.is_some() {
            cell.flags = cell.flags.with(CellFlags::DEADLINE);
        }
        if let Some(reference) = self.space.store_value(&mut self.draft, value)? {
            cell.flags = cell.flags.with(CellFlags::OVERFLOW);
            cell.value = Cow::Owned(reference.encode().to_vec());
        }
        let page = self.leaf();
        let room_bytes = page.free_bytes();
        let new_bytes = Page::cell_bytes(&cell);
        match page.find(key) {
            Err(slot) if new_bytes <= room_bytes => {
                self.change_leaf(Op::Insert { slot, cell }, true)
            }
            Err(slot) => self.insert_with_split(slot, cell),
            Ok(slot) => {
                let old = old_value(page, slot, leaf)?;
                if new_bytes <= room_bytes + page.cell_bytes_at(slot) {
                    self.change_leaf(Op::Replace { slot, cell }, true)?;
                } else {
                    // The cell grows beyond the page: it goes, and comes back by a split.
                    self.copy_leaf()?;
                    let key = Cow::Borrowed(&[][..]);
                    self.change_leaf(Op::Remove { slot, key }, false)?;
                    self.insert_with_split(slot, cell)?;
                }
                self.free_old(old)
            }
        }
    }

    fn delete(&mut self, leaf: PageId, key: &'a [u8]) -> Result<(), KvError> {
        let page = self.leaf();
        let Ok(slot) = page.find(key) else {
            return Ok(());
        };
        let old = old_value(page, slot, leaf)?;
        let empties = page.cell_count() == 1;
        let key = Cow::Borrowed(key);
        self.change_leaf(Op::Remove { slot, key }, true)?;
        self.free_old(old)?;
        if empties {
            self.unlink_leaf(leaf)?;
        }
        Ok(())
    }

    fn free_old(&mut self, old: Option<Reference>) -> Result<(), KvError> {
        match old {
            Some(reference) => self.space.free_value(&mut self.draft, reference),
            None => Ok(()),
        }
    }
}

/// The large value that a cell refers to.
fn old_value(page: &Page, slot: u16, leaf: PageId) -> Result<Option<Reference>, KvError> {
    let cell = page.cell(slot);
    if cell.flags.contains(CellFlags::OVERFLOW) {
        Reference::read(cell.value, leaf).map(Some)
    } else {
        Ok(None)
    }
}
