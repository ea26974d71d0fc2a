//! Range scans, a leaf at a time, so that a miss loses little and memory is bounded.
//!
//! Leaves are not linked to each other: a scan that comes to the end of a leaf goes on from the separator that bounds it,
//! down from the root again. Expired cells are the caller's to leave out.

use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;
use sixfold_log_format::Page;

use crate::lookup::{Found, found};
use crate::source::{KvError, PageSource, child, child_slot, corrupt, fetch_meta, fetch_node};

/// Which way a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Reverse,
}

/// One key and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Bytes,
    /// Value, stamp, deadline.
    pub found: Found,
}

/// A part of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Items in scan order; may be empty although more follow.
    pub items: Vec<Item>,
    /// The bound to go on from (lower bound when scanning forward, upper when in reverse); `None` at the range's end.
    pub next: Option<Bound<Vec<u8>>>,
}

/// The next items of a range: at most one leaf's, at most `count_max`, about `bytes_max` (at least one item when there is
/// one and `count_max` is not 0). Reversed or empty bounds give an empty chunk without `next`.
///
/// When large values are missing in the middle of a leaf, the items before them are returned; the miss comes with the
/// next call.
///
/// # Errors
/// [`KvError`]; a miss means: fetch and call again with the same bounds.
pub fn range_chunk(
    source: &impl PageSource,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
    direction: Direction,
    count_max: usize,
    bytes_max: usize,
) -> Result<Chunk, KvError> {
    if is_empty(lower, upper) {
        return Ok(Chunk {
            items: Vec::new(),
            next: None,
        });
    }
    let meta = fetch_meta(source)?;
    let mut place = Place {
        page: fetch_node(source, meta.root, meta.root_level())?,
        edge: None,
    };
    while place.page.level() > 0 {
        let slot = match direction {
            Direction::Forward => first_child(&place.page, lower)?,
            Direction::Reverse => last_child(&place.page, upper)?,
        };
        place = place.down(source, slot, direction)?;
    }
    let leaf = &place.page;
    let slots = start_slot(leaf, lower)..end_slot(leaf, upper);
    let reached_bound = match direction {
        Direction::Forward => slots.end < leaf.cell_count(),
        Direction::Reverse => slots.start > 0,
    };
    let after_leaf = if reached_bound {
        None
    } else {
        place.beyond(lower, upper, direction)
    };
    let from = match direction {
        Direction::Forward => lower,
        Direction::Reverse => upper,
    };
    collect(
        source,
        leaf,
        slots,
        direction,
        (count_max, bytes_max),
        from,
        after_leaf,
    )
}

/// A page on the way down, and the separator nearest to it in the direction of the scan.
struct Place {
    page: Arc<Page>,
    edge: Option<(Arc<Page>, u16)>,
}

impl Place {
    fn down(
        self,
        source: &impl PageSource,
        slot: u16,
        direction: Direction,
    ) -> Result<Place, KvError> {
        let next = child(&self.page, slot)?;
        let page = fetch_node(source, next, self.page.level() - 1)?;
        let edge_slot = match direction {
            Direction::Forward => Some(slot + 1).filter(|edge| *edge < self.page.cell_count()),
            Direction::Reverse => Some(slot).filter(|edge| *edge > 0),
        };
        let edge = match edge_slot {
            Some(edge) => Some((self.page, edge)),
            None => self.edge,
        };
        Ok(Place { page, edge })
    }

    /// Where the scan goes on behind this leaf; `None` when the range ends with it.
    fn beyond(
        &self,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        direction: Direction,
    ) -> Option<Bound<Vec<u8>>> {
        let (page, slot) = self.edge.as_ref()?;
        let edge = page.key(*slot);
        match direction {
            Direction::Forward if is_empty(Bound::Included(edge), upper) => None,
            Direction::Forward => Some(Bound::Included(edge.to_vec())),
            Direction::Reverse if is_empty(lower, Bound::Excluded(edge)) => None,
            Direction::Reverse => Some(Bound::Excluded(edge.to_vec())),
        }
    }
}

/// Takes items from `slots` of `leaf` until a limit is met.
fn collect(
    source: &impl PageSource,
    leaf: &Page,
    slots: Range<u16>,
    direction: Direction,
    (count_max, bytes_max): (usize, usize),
    from: Bound<&[u8]>,
    after_leaf: Option<Bound<Vec<u8>>>,
) -> Result<Chunk, KvError> {
    let mut items: Vec<Item> = Vec::with_capacity(slots.len().min(count_max));
    let mut bytes = 0;
    let total = slots.len();
    for index in 0..slots.end - slots.start {
        let slot = match direction {
            Direction::Forward => slots.start + index,
            Direction::Reverse => slots.end - 1 - index,
        };
        if items.len() >= count_max || (bytes >= bytes_max && !items.is_empty()) {
            break;
        }
        let cell = leaf.cell(slot);
        let found = match found(source, leaf.id(), &cell) {
            Err(KvError::Miss(_)) if !items.is_empty() => break,
            result => result?,
        };
        bytes += cell.key.len() + found.value.len();
        items.push(Item {
            key: Bytes::copy_from_slice(cell.key),
            found,
        });
    }
    let next = if items.len() == total {
        after_leaf
    } else {
        let last = items.last().map(|item| Bound::Excluded(item.key.to_vec()));
        Some(last.unwrap_or_else(|| from.map(<[u8]>::to_vec)))
    };
    Ok(Chunk { items, next })
}

/// Whether no key can lie between the bounds.
fn is_empty(lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> bool {
    match (lower, upper) {
        (Bound::Unbounded, Bound::Excluded(high)) => high.is_empty(),
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low >= high,
    }
}

/// The child in which the first key at or behind `lower` lies, if it is not at the start of the next one.
fn first_child(page: &Page, lower: Bound<&[u8]>) -> Result<u16, KvError> {
    match lower {
        Bound::Included(key) | Bound::Excluded(key) => child_slot(page, key),
        Bound::Unbounded if page.cell_count() > 0 => Ok(0),
        Bound::Unbounded => Err(corrupt(page.id(), "an inner page without children")),
    }
}

/// The child in which the last key before `upper` lies, if it is not at the end of the one before.
fn last_child(page: &Page, upper: Bound<&[u8]>) -> Result<u16, KvError> {
    let end = match upper {
        Bound::Included(key) => return child_slot(page, key),
        // A separator equal to the bound begins a subtree that holds nothing below it.
        Bound::Excluded(key) => page.find(key).unwrap_or_else(|slot| slot),
        Bound::Unbounded => page.cell_count(),
    };
    end.checked_sub(1)
        .ok_or_else(|| corrupt(page.id(), "no child for the bound"))
}

/// The first slot of a leaf at or behind `lower`.
fn start_slot(leaf: &Page, lower: Bound<&[u8]>) -> u16 {
    match lower {
        Bound::Included(key) => leaf.find(key).unwrap_or_else(|slot| slot),
        Bound::Excluded(key) => leaf.find(key).map_or_else(|slot| slot, |slot| slot + 1),
        Bound::Unbounded => 0,
    }
}

/// The slot behind the last one of a leaf before `upper`.
fn end_slot(leaf: &Page, upper: Bound<&[u8]>) -> u16 {
    match upper {
        Bound::Included(key) => leaf.find(key).map_or_else(|slot| slot, |slot| slot + 1),
        Bound::Excluded(key) => leaf.find(key).unwrap_or_else(|slot| slot),
        Bound::Unbounded => leaf.cell_count(),
    }
}
