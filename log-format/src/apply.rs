//! `apply`: the only code that changes a page (one meaning at writer and storage).
//!
//! The writer does not edit its cached page and then describe the edit: it builds the record and calls this, as
//! storage does. What the cache holds is what storage would build, by construction.

use thiserror::Error;

use crate::id::PageId;
use crate::limits::KEY_BYTES_MAX;
use crate::lsn::Lsn;
use crate::page::{CHILD_BYTES, Page, PageKind};
use crate::record::{Cell, CellFlags, Op, Record};

/// Why a record does not fit a page. At the writer this is a bug; at storage it is damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// The record belongs to another page.
    #[error("record {lsn} is for page {expected}, applied to page {found}")]
    OtherPage {
        /// The record.
        lsn: Lsn,
        /// Its page.
        expected: PageId,
        /// The page at hand.
        found: PageId,
    },
    /// The page's last record is not the one that the record follows.
    #[error("record {lsn} follows {expected} on page {page}, which is at {found}")]
    OtherVersion {
        /// The record.
        lsn: Lsn,
        /// Its page.
        page: PageId,
        /// The page LSN that it needs.
        expected: Lsn,
        /// The page LSN found.
        found: Lsn,
    },
    /// The operation is not possible on this page: no such slot, no room, wrong kind, key order violated.
    #[error("record {lsn} on page {page}: {what}")]
    Impossible {
        /// The record.
        lsn: Lsn,
        /// Its page.
        page: PageId,
        /// What is wrong.
        what: &'static str,
    },
}

/// Applies `record` to `page`; afterwards the page LSN is the record's LSN. Deterministic to the byte: two pages with
/// equal bytes are equal after the same record.
///
/// # Errors
/// [`ApplyError`]; the page is unchanged.
pub fn apply(page: &mut Page, record: &Record<'_>) -> Result<(), ApplyError> {
    let (lsn, id) = (record.lsn, page.id());
    if record.page != id {
        return Err(ApplyError::OtherPage {
            lsn,
            expected: record.page,
            found: id,
        });
    }
    let found = page.lsn();
    // Init and Image need no earlier version, but nothing ever goes back.
    if lsn <= found || (!record.op.starts_chain() && record.page_prev != found) {
        return Err(ApplyError::OtherVersion {
            lsn,
            page: id,
            expected: record.page_prev,
            found,
        });
    }
    apply_op(page, record).map_err(|what| ApplyError::Impossible {
        lsn,
        page: id,
        what,
    })?;
    page.set_lsn(lsn);
    Ok(())
}

/// Why an operation is impossible, in words.
type What = &'static str;

/// Checks first and changes afterwards, so that a page is never left half changed.
fn apply_op(page: &mut Page, record: &Record<'_>) -> Result<(), What> {
    match &record.op {
        Op::Init { kind, level } => {
            require(kind.allows_level(*level), "level does not fit the kind")?;
            page.format(*kind, *level);
        }
        Op::Insert { slot, cell } => {
            check_cell(page, cell)?;
            require(*slot <= page.cell_count(), "no such slot")?;
            require(Page::cell_bytes(cell) <= page.free_bytes(), "no room")?;
            require(
                *slot == 0 || page.key(*slot - 1) < &*cell.key,
                "key not above the one before",
            )?;
            require(
                *slot == page.cell_count() || page.key(*slot) > &*cell.key,
                "key not below the one behind",
            )?;
            page.insert_cell(*slot, cell, record.cpl);
        }
        Op::Replace { slot, cell } => {
            check_cell(page, cell)?;
            check_slot(page, *slot)?;
            require(page.key(*slot) == &*cell.key, "another key in the slot")?;
            let old_bytes = page.cell_bytes_at(*slot);
            require(
                Page::cell_bytes(cell) <= page.free_bytes() + old_bytes,
                "no room",
            )?;
            page.replace_cell(*slot, cell, record.cpl);
        }
        Op::Remove { slot, key } => {
            check_slot(page, *slot)?;
            let matches = !record.user_visible || page.key(*slot) == &**key;
            require(matches, "another key in the slot")?;
            page.remove_cell(*slot);
        }
        Op::Truncate { from_slot } => {
            require(page.kind().has_cells(), "a page without cells")?;
            require(*from_slot <= page.cell_count(), "no such slot")?;
            page.truncate_cells(*from_slot);
        }
        Op::WriteBytes { offset, bytes } => {
            require(page.kind().has_body(), "a page without body")?;
            let start = usize::from(*offset);
            let end = start + bytes.len();
            require(end <= page.body().len(), "past the end of the body")?;
            page.body_mut()[start..end].copy_from_slice(bytes);
        }
        Op::Image { bytes } => {
            *page = Page::from_image(bytes, record.page, page.len_bytes())
                .map_err(|_| "image is not a sound page")?;
        }
        Op::DeleteRange { .. } => require(page.kind() == PageKind::Meta, "not the meta page")?,
        Op::Clock { unix_ms } => {
            require(page.kind() == PageKind::Meta, "not the meta page")?;
            require(*unix_ms >= page.clock_ms(), "clock goes back")?;
            page.set_clock_ms(*unix_ms);
        }
    }
    Ok(())
}

fn require(holds: bool, what: What) -> Result<(), What> {
    if holds { Ok(()) } else { Err(what) }
}

fn check_slot(page: &Page, slot: u16) -> Result<(), What> {
    require(page.kind().has_cells(), "a page without cells")?;
    require(slot < page.cell_count(), "no such slot")
}

fn check_cell(page: &Page, cell: &Cell<'_>) -> Result<(), What> {
    require(page.kind().has_cells(), "a page without cells")?;
    require(cell.key.len() <= KEY_BYTES_MAX, "key too long")?;
    require(
        cell.flags.contains(CellFlags::DEADLINE) == cell.deadline_ms.is_some(),
        "deadline flag without deadline or the other way round",
    )?;
    match page.kind() {
        PageKind::Leaf => require(!cell.key.is_empty(), "empty key in a leaf"),
        _ => require(cell.value.len() == CHILD_BYTES, "child is not a page id"),
    }
}
