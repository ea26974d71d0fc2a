//! From a transaction's changes to the records of its MTR, on private copies (T4): a miss or an error drops the plan and has
//! changed nothing.
//!
//! Clears go first, then the writes in the order of their keys, so that a leaf that was left behind is met again only when a
//! later one hands its range to it. What becomes of a leaf that lost cells is settled when it is left (see `merge.rs`).

use std::borrow::Cow;
use std::sync::Arc;

use sixfold_log_format::limits::{KEY_BYTES_MAX, PAGE_BYTES_MIN};
use sixfold_log_format::page::{CELL_OVERHEAD_BYTES, DEADLINE_BYTES, PAGE_HEADER_BYTES};
use sixfold_log_format::{Op, Page, PageId, PageKind};

use crate::changes::Changes;
use crate::draft::{Draft, Held};
use crate::lookup::{Share, guess_share, missing};
use crate::meta::{HEIGHT_MAX, Meta};
use crate::source::{KvError, PageSource, child, child_slot, fetch};
use crate::space::Space;

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

/// Pages that a plan which misses looks ahead for.
const MISS_AHEAD_MAX: usize = 256;

/// Longest key in a volume with pages of this size, bytes: the general limit, or a quarter of a small page.
pub fn key_bytes_max(page_bytes: usize) -> usize {
    KEY_BYTES_MAX.min(page_bytes / KEY_SHARE)
}

/// Plans the changes on the tip.
///
/// `clock_ms` is the volume's clock at the place of this MTR, a clock record of its own included (T5). `pages_max` is how many
/// pages the volume has: ids stay below it.
///
/// A write into a leaf with room becomes one record, and so does the removal of a key. A clear becomes one user-visible record
/// on the meta page (T7), also when no key is in it, and a number of others that depends on the tree's height and not on the
/// keys. The number of records otherwise depends on what splits: a split moves up to half a page's cells, each by a record of
/// its own, so the caller checks `records.len()` against its bounds before anything is minted.
///
/// # Errors
/// [`KvError`]. A miss names what all the changes are known to need, up to a bound.
///
/// # Panics
/// When clears or writes are not sorted, or a key or value is longer than the limits allow ([`key_bytes_max`]).
pub fn plan<'a>(
    tip: &impl PageSource,
    changes: &Changes<'_, 'a>,
    clock_ms: u64,
    pages_max: u64,
) -> Result<Plan<'a>, KvError> {
    assert!(
        changes.are_sorted(),
        "changes come sorted, clears are disjoint, each key is there once"
    );
    let planned = Planner::new(tip, changes.writes.len(), clock_ms, pages_max)
        .and_then(|planner| planner.run(changes));
    match planned {
        Err(KvError::Miss(first)) => Err(miss_of_all(tip, changes, first)),
        planned => planned,
    }
}

/// What a plan misses: `first`, which it met, and what its other keys are known to need.
fn miss_of_all(tip: &impl PageSource, changes: &Changes<'_, '_>, first: Vec<PageId>) -> KvError {
    let ends = |(start, end): &(_, Option<_>)| [Some(*start), *end].into_iter().flatten();
    let cleared = changes.clears.iter().flat_map(ends);
    let written = changes.writes.iter().map(|write| write.key());
    // Damage shows when it is planned.
    let ahead = missing(tip, cleared.chain(written), MISS_AHEAD_MAX).unwrap_or_default();
    let mut pages = first;
    for page in ahead {
        if !pages.contains(&page) {
            pages.push(page);
        }
    }
    KvError::Miss(pages)
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
    /// Bytes that its cells took when it was sought, and take now.
    pub(crate) sought_bytes: usize,
    pub(crate) used_bytes: usize,
    /// About where the key is that it was sought for.
    guess: u16,
}

/// Plans one MTR, write by write.
pub(crate) struct Planner<'s, 'a, S> {
    pub(crate) draft: Draft<'s, 'a, S>,
    pub(crate) space: Space,
    pub(crate) path: Path,
    pub(crate) current: Option<Current>,
    /// The leaf before it. If the current one leaves the tree, its range may fall to this one.
    pub(crate) previous: Option<Current>,
    /// Whether leaves come in ascending order from here on, so that copies of earlier ones may be forgotten.
    ascending: bool,
    /// The volume's clock.
    pub(crate) clock_ms: u64,
}

/// Bytes that the cells of a page take.
pub(crate) fn used_bytes(page: &Page) -> usize {
    Page::capacity_bytes(page.len_bytes()) - page.free_bytes()
}

impl<'s, 'a, S: PageSource> Planner<'s, 'a, S> {
    pub(crate) fn new(
        tip: &'s S,
        write_count: usize,
        clock_ms: u64,
        pages_max: u64,
    ) -> Result<Self, KvError> {
        let page = fetch(tip, PageId::META)?;
        let meta = Meta::read(&page)?;
        Ok(Planner {
            draft: Draft::new(tip, page.len_bytes(), write_count),
            space: Space::new(meta, pages_max),
            path: Path::new(),
            current: None,
            previous: None,
            ascending: false,
            clock_ms,
        })
    }

    fn run(mut self, changes: &Changes<'_, 'a>) -> Result<Plan<'a>, KvError> {
        for clear in changes.clears {
            self.clear(*clear)?;
        }
        self.ascending = true;
        for write in changes.writes {
            self.write(write)?;
        }
        self.leave()?;
        self.finish()
    }

    pub(crate) fn finish(mut self) -> Result<Plan<'a>, KvError> {
        self.space.finish(&mut self.draft)?;
        Ok(Plan {
            records: self.draft.records,
        })
    }

    /// Makes the leaf for `key` the current one, ready to be looked at.
    pub(crate) fn seek(&mut self, key: &[u8]) -> Result<PageId, KvError> {
        if let Some(Current { id, .. }) = self.current {
            if self.covers(key)? {
                self.copy_if_pending()?;
                return Ok(id);
            }
            self.leave()?;
        }
        self.path.clear();
        let (mut id, mut level) = (self.space.meta.root, self.space.meta.root_level());
        let mut share = Share::START;
        while level > 0 {
            let page = self.draft.node(id, level)?;
            let slot = child_slot(&page, key)?;
            let next = child(&page, slot)?;
            if level == 1 {
                share = guess_share(&page, slot, key);
            }
            drop(page);
            self.path.push(id, slot);
            (id, level) = (next, level - 1);
        }
        if self.ascending {
            self.draft.forget_leaves_before(key, id);
        }
        let leaf = self.draft.node(id, 0)?;
        let guess = share.of(leaf.cell_count());
        let used_bytes = used_bytes(&leaf);
        let shared = match leaf {
            Held::Copy(_) => None,
            Held::Shared(page) => Some((page, None)),
        };
        self.current = Some(Current {
            id,
            shared,
            sought_bytes: used_bytes,
            used_bytes,
            guess,
        });
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

    pub(crate) fn current(&self) -> &Current {
        self.current.as_ref().expect("a leaf was sought")
    }

    /// The current leaf, to be looked at; records planned on it are in it.
    pub(crate) fn leaf(&self) -> &Page {
        let current = self.current();
        match &current.shared {
            Some((page, pending)) => {
                assert!(pending.is_none(), "a record was planned on the shared page");
                page
            }
            None => self.draft.leaf(current.id),
        }
    }

    /// Where `key` is in the current leaf, or belongs.
    pub(crate) fn find(&self, key: &[u8]) -> Result<u16, u16> {
        self.leaf().find_near(key, self.current().guess)
    }

    /// Copies the current leaf if a record was planned on it, so that it can be looked at again.
    pub(crate) fn copy_if_pending(&mut self) -> Result<(), KvError> {
        let shared = self
            .current
            .as_ref()
            .and_then(|current| current.shared.as_ref());
        match shared {
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
        let gone_bytes = match &op {
            Op::Replace { slot, .. } | Op::Remove { slot, .. } => self.leaf().cell_bytes_at(*slot),
            _ => 0,
        };
        let new_bytes = match &op {
            Op::Insert { cell, .. } | Op::Replace { cell, .. } => Page::cell_bytes(cell),
            _ => 0,
        };
        let current = self.current.as_mut().expect("a leaf was sought");
        current.used_bytes = current.used_bytes + new_bytes - gone_bytes;
        match &mut current.shared {
            Some((_, pending @ None)) => {
                *pending = Some(self.draft.push(current.id, op, user_visible));
                Ok(())
            }
            Some(_) => unreachable!("copied before it was looked at again"),
            None => self.draft.change_leaf(current.id, op, user_visible),
        }
    }
}
