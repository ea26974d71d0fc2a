//! Point lookups.

use std::sync::Arc;

use bytes::Bytes;
use sixfold_log_format::page::PageCell;
use sixfold_log_format::{CellFlags, Lsn, Page, PageId};

use crate::meta::Meta;
use crate::overflow::{self, Reference};
use crate::source::{KvError, PageSource, child, child_slot_near, fetch, fetch_node};

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// The commit LSN that put it.
    pub stamp: Lsn,
    /// Its deadline, if any: above the clock as of the source.
    pub deadline_ms: Option<u64>,
}

/// Looks a key up. A cell whose deadline has passed by the clock of the meta page, as of the same source, is not there (T5).
///
/// # Errors
/// [`KvError`]; a miss means: fetch and call again.
pub fn get(source: &impl PageSource, key: &[u8]) -> Result<Option<Found>, KvError> {
    let (root, meta) = root_of(source)?;
    let (leaf, guess) = leaf_for(source, root, key)?;
    let Ok(slot) = leaf.find_near(key, guess) else {
        return Ok(None);
    };
    let cell = leaf.cell(slot);
    if is_expired(cell.deadline_ms, meta.clock_ms()) {
        return Ok(None);
    }
    let value = if cell.flags.contains(CellFlags::OVERFLOW) {
        overflow::read(source, &Reference::read(cell.value, &leaf)?)?
    } else {
        Bytes::copy_from_slice(cell.value)
    };
    Ok(Some(Found {
        value,
        stamp: cell.stamp,
        deadline_ms: cell.deadline_ms,
    }))
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
        match root_of(source).and_then(|(root, _)| leaf_for(source, root, key)) {
            // Sorted keys meet the same page in a row; unsorted ones are few or cost little.
            Err(KvError::Miss(missed)) => {
                for page in missed {
                    if !pages.contains(&page) {
                        pages.push(page);
                    }
                }
            }
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pages)
}

/// The root, and the meta page that names it.
pub(crate) fn root_of(source: &impl PageSource) -> Result<(Arc<Page>, Arc<Page>), KvError> {
    let page = fetch(source, PageId::META)?;
    let meta = Meta::read(&page)?;
    Ok((fetch_node(source, meta.root, meta.root_level())?, page))
}

/// The leaf below `page` that would hold `key`, and about where in it. Levels fall by one on each step, so that a damaged
/// tree cannot make this loop.
fn leaf_for(
    source: &impl PageSource,
    page: Arc<Page>,
    key: &[u8],
) -> Result<(Arc<Page>, u16), KvError> {
    let mut page = page;
    // The root has no bounds to guess by; its middle is as good as any place.
    let mut guess = page.cell_count() / 2;
    while page.level() > 0 {
        let slot = child_slot_near(&page, key, guess)?;
        let below = fetch_node(source, child(&page, slot)?, page.level() - 1)?;
        guess = guess_share(&page, slot, key).of(below.cell_count());
        page = below;
    }
    Ok((page, guess))
}

/// About where in the child in `slot` of `parent` the key would be.
pub(crate) fn guess_share(parent: &Page, slot: u16, key: &[u8]) -> Share {
    if slot + 1 < parent.cell_count() {
        share_between(key, (parent.key(slot), parent.key(slot + 1)))
    } else {
        // The last child has no upper bound; what goes there often goes to its end.
        Share(Share::WHOLE)
    }
}

/// A part of a page's cells: those before about the place of a key. In parts of 2^16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share(u64);

impl Share {
    const BITS: u32 = u16::BITS;
    const WHOLE: u64 = 1 << Share::BITS;
    /// No cell is before it.
    pub(crate) const START: Share = Share(0);

    /// The slot, of `count`.
    pub(crate) fn of(self, count: u16) -> u16 {
        let place = (self.0 * u64::from(count)) >> Share::BITS;
        u16::try_from(place)
            .unwrap_or(count)
            .min(count.saturating_sub(1))
    }
}

/// The share of keys below `key` among such that lie evenly between the bounds, as it does.
fn share_between(key: &[u8], (low, high): (&[u8], &[u8])) -> Share {
    /// Numbers are cut to so many bits, so that one of them can be multiplied with the parts of a share.
    const BITS_MAX: u32 = u64::BITS - Share::BITS - 1;
    let common = low.iter().zip(high).take_while(|(a, b)| a == b).count();
    let tails = [key, low, high].map(|key| tail(key, common));
    let are_decimal = tails.iter().all(|(tail, len)| is_decimal(&tail[..*len]));
    let [key, low, high] = tails.map(|(tail, len)| {
        if are_decimal {
            // Digits fill a small part of what a byte can say: keys that count lie evenly as numbers only.
            decimal(&tail, len)
        } else {
            u64::from_be_bytes(tail)
        }
    });
    let width = high.saturating_sub(low).max(1);
    let offset = key.saturating_sub(low).min(width);
    let cut = (u64::BITS - width.leading_zeros()).saturating_sub(BITS_MAX);
    Share((offset >> cut) * Share::WHOLE / (width >> cut))
}

/// Up to 8 bytes of a key from `start` on, filled up with zeros, and how many there were.
fn tail(key: &[u8], start: usize) -> ([u8; 8], usize) {
    let rest = key.get(start..).unwrap_or_default();
    let mut tail = [0; 8];
    let len = rest.len().min(tail.len());
    tail[..len].copy_from_slice(&rest[..len]);
    (tail, len)
}

fn is_decimal(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_digit)
}

/// The number that up to 8 digits begin; those that are missing count as 0, as separators are cut short.
fn decimal(tail: &[u8; 8], len: usize) -> u64 {
    let digits = tail.iter().enumerate();
    digits.fold(0, |number, (at, digit)| {
        number * 10 + if at < len { u64::from(digit - b'0') } else { 0 }
    })
}

/// Whether a deadline has passed (T5): at its very millisecond the cell is gone.
pub fn is_expired(deadline_ms: Option<u64>, clock_ms: u64) -> bool {
    deadline_ms.is_some_and(|deadline_ms| deadline_ms <= clock_ms)
}

/// Bytes of the value that a cell of `leaf` stands for.
pub(crate) fn value_bytes(leaf: PageId, cell: &PageCell<'_>) -> Result<usize, KvError> {
    if cell.flags.contains(CellFlags::OVERFLOW) {
        Ok(Reference::len_bytes(cell.value, leaf)? as usize)
    } else {
        Ok(cell.value.len())
    }
}
