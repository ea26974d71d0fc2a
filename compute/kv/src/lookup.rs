//! Point lookups.

use std::sync::Arc;

use bytes::Bytes;
use sixfold_log_format::page::PageCell;
use sixfold_log_format::{CellFlags, Lsn, Page, PageId};

use crate::overflow::{self, Reference};
use crate::source::{KvError, PageSource, child, child_slot, fetch_meta, fetch_node};

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// The commit LSN that put it.
    pub stamp: Lsn,
    /// Its deadline, if any; the caller compares it with the clock as of its read point.
    pub deadline_ms: Option<u64>,
}

/// Looks a key up.
///
/// # Errors
/// [`KvError`]; a miss means: fetch and call again.
pub fn get(source: &impl PageSource, key: &[u8]) -> Result<Option<Found>, KvError> {
    let leaf = leaf_for(source, key)?;
    match leaf.find(key) {
        Ok(slot) => found(source, leaf.id(), &leaf.cell(slot)).map(Some),
        Err(_) => Ok(None),
    }
}

/// The pages on the way to `keys` that are not in memory, at most `count_max`, each once, in the order of the keys: what
/// to fetch before planning writes, or many reads, of them. Empty when every leaf is at hand. Large values are not
/// looked into.
///
/// # Errors
/// [`KvError::Corrupt`]; never a miss.
pub fn missing<'k>(
    source: &impl PageSource,
    keys: impl IntoIterator<Item = &'k [u8]>,
    count_max: usize,
) -> Result<Vec<PageId>, KvError> {
    let mut pages = Vec::new();
    for key in keys {
        if pages.len() >= count_max {
            break;
        }
        match leaf_for(source, key) {
            // Sorted keys meet the same page in a row; unsorted ones are few or cost little.
            Err(KvError::Miss(page)) if !pages.contains(&page) => pages.push(page),
            Err(KvError::Miss(_)) | Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pages)
}

/// The leaf that would hold `key`. Levels fall by one on each step, so that a damaged tree cannot make this loop.
fn leaf_for(source: &impl PageSource, key: &[u8]) -> Result<Arc<Page>, KvError> {
    let meta = fetch_meta(source)?;
    let mut page = fetch_node(source, meta.root, meta.root_level())?;
    while page.level() > 0 {
        let next = child(&page, child_slot(&page, key)?)?;
        page = fetch_node(source, next, page.level() - 1)?;
    }
    Ok(page)
}

/// What a cell of `leaf` holds.
pub(crate) fn found(
    source: &impl PageSource,
    leaf: PageId,
    cell: &PageCell<'_>,
) -> Result<Found, KvError> {
    let value = if cell.flags.contains(CellFlags::OVERFLOW) {
        overflow::read(source, Reference::read(cell.value, leaf)?)?
    } else {
        Bytes::copy_from_slice(cell.value)
    };
    Ok(Found {
        value,
        stamp: cell.stamp,
        deadline_ms: cell.deadline_ms,
    })
}
