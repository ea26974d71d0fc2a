//! Redo records: physiological operations on one page.
//!
//! A record says what was done to one page, in terms of slots and cells of that page. A change that a user made
//! carries its key, so that the log can be watched (T7); changes that only move cells between pages do not count
//! as user-visible. Records are encoded by [`crate::batch`], since their LSN, page and back-link are deltas to
//! the record before them.

use std::borrow::Cow;

use crate::id::PageId;
use crate::lsn::Lsn;
use crate::page::PageKind;

/// Cell flags, stored in pages and records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CellFlags(u8);

impl CellFlags {
    /// An inline value without a deadline.
    pub const PLAIN: CellFlags = CellFlags(0);
    /// The value is a reference to overflow pages.
    pub const OVERFLOW: CellFlags = CellFlags(1);
    /// The cell has a deadline (T5).
    pub const DEADLINE: CellFlags = CellFlags(2);
    const KNOWN: u8 = 3;

    /// The flags with these bits, or `None` when an unknown bit is set.
    pub const fn from_bits(bits: u8) -> Option<CellFlags> {
        if bits & !Self::KNOWN == 0 {
            Some(CellFlags(bits))
        } else {
            None
        }
    }

    /// The bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether every flag of `other` is set.
    pub const fn contains(self, other: CellFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: CellFlags) -> CellFlags {
        CellFlags(self.0 | other.0)
    }
}

/// The commit LSN that put a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stamp {
    /// The commit that this record belongs to: the CPL of its MTR (T4). Costs no byte.
    Commit,
    /// An earlier commit; what a split carries along. `Lsn::NONE` in cells that no user put (inner pages).
    At(Lsn),
}

/// A cell of a page: what a leaf, an inner page or a free list holds in a slot.
///
/// In a leaf the value is the user's value, or with [`CellFlags::OVERFLOW`] a reference; in an inner page it is the
/// child's page id, 8 bytes little-endian.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cell<'a> {
    /// The key; separators of inner pages may be empty (the leftmost child).
    pub key: Cow<'a, [u8]>,
    /// The value or reference.
    pub value: Cow<'a, [u8]>,
    /// Who put it.
    pub stamp: Stamp,
    /// Must hold [`CellFlags::DEADLINE`] exactly when there is a deadline.
    pub flags: CellFlags,
    /// Wall-clock milliseconds after which the cell is expired (compared with the clock record, T5).
    pub deadline_ms: Option<u64>,
}

/// One physiological operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op<'a> {
    /// Formats the page as empty: whatever it held is gone. Needs no earlier version.
    Init {
        /// What it becomes.
        kind: PageKind,
        /// Distance from the leaves; 0 for leaves and pages outside the tree.
        level: u8,
    },
    /// Puts a cell before the one in `slot`.
    Insert {
        /// Where.
        slot: u16,
        /// What.
        cell: Cell<'a>,
    },
    /// Replaces the cell in `slot`; the key stays the same.
    Replace {
        /// Where.
        slot: u16,
        /// What.
        cell: Cell<'a>,
    },
    /// Removes the cell in `slot`.
    Remove {
        /// Where.
        slot: u16,
        /// Its key; empty unless the record is user-visible.
        key: Cow<'a, [u8]>,
    },
    /// Removes every cell from `from_slot` on; what a split does to the page that it halves.
    Truncate {
        /// The first slot that goes.
        from_slot: u16,
    },
    /// Overwrites bytes of the page's body area (meta and overflow pages). The offset counts from the end of the
    /// page header.
    WriteBytes {
        /// Where, bytes after the page header.
        offset: u16,
        /// What.
        bytes: Cow<'a, [u8]>,
    },
    /// The whole page, as [`crate::page::Page::image`] gives it. Needs no earlier version.
    Image {
        /// The page without the free space between slots and cells.
        bytes: Cow<'a, [u8]>,
    },
    /// The user deleted `[start, end)`; the pages changed by records of their own. Changes nothing but the page LSN of
    /// the meta page that carries it (T7).
    DeleteRange {
        /// First key deleted.
        start: Cow<'a, [u8]>,
        /// First key not deleted; empty = to the end.
        end: Cow<'a, [u8]>,
    },
    /// The writer's clock, never below the last one (T5). Sets the clock of the meta page that carries it.
    Clock {
        /// Wall-clock milliseconds.
        unix_ms: u64,
    },
}

/// One redo record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record<'a> {
    /// Its LSN.
    pub lsn: Lsn,
    /// The page that it changes; never [`PageId::NONE`].
    pub page: PageId,
    /// The LSN of the page's record before this one; [`Lsn::NONE`] for `Init` and `Image`, which need none.
    pub page_prev: Lsn,
    /// The CPL of its MTR: `lsn` itself for the record that ends it.
    pub cpl: Lsn,
    /// Whether a user asked for just this change (T7).
    pub user_visible: bool,
    /// What it does.
    pub op: Op<'a>,
}

impl Record<'_> {
    /// Whether it ends its MTR.
    pub fn is_cpl(&self) -> bool {
        self.lsn == self.cpl
    }
}

impl Op<'_> {
    /// Whether it rebuilds the page from nothing, so that a page's chain may begin with it.
    pub fn starts_chain(&self) -> bool {
        matches!(self, Op::Init { .. } | Op::Image { .. })
    }
}
