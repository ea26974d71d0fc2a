//! Range scans, a leaf at a time, so that a miss loses little and memory is bounded.
//!
//! Leaves are not linked to each other: a scan that comes to the end of a leaf goes on from the separator that bounds it,
//! down from the root again. What will be needed next is named with a miss: the leaves behind a missing one, which their
//! parent knows, and the pages of all large values that fit the call's bounds.

use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;
use sixfold_log_format::page::PageCell;
use sixfold_log_format::{CellFlags, Page, PageId};

use crate::lookup::{Found, is_expired, root_of, value_bytes};
use crate::overflow::{self, Reference};
use crate::source::{KvError, MISS_PAGES_MAX, PageSource, child, child_slot, corrupt, fetch_node};

/// Most leaves that one miss names.
const READ_AHEAD_MAX: usize = 32;
/// A leaf is read ahead for each so many items that are wanted.
const READ_AHEAD_ITEMS: usize = 8;
/// Room taken for items before there are any.
const ITEMS_CAPACITY_MAX: usize = 256;

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
/// one and `count_max` is not 0). Reversed or empty bounds give an empty chunk without `next`. Expired items are left out
/// (T5); a chunk may be empty because of them although more follow.
///
/// Keys and values of a chunk share one buffer, of at most a leaf's size; large values have their own. When large values are
/// missing in the middle of a leaf, the items before them are returned; the miss comes with the next call.
///
/// # Errors
/// [`KvError`]; a miss means: fetch and call again with the same bounds. It names leaves ahead of the scan too, as many as
/// `count_max` and `bytes_max` make worth while.
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
    let scan = Scan {
        source,
        lower,
        upper,
        direction,
        count_max,
        bytes_max,
    };
    let (root, meta) = root_of(source)?;
    let mut place = Place {
        page: root,
        edge: None,
    };
    while place.page.level() > 0 {
        let slot = match direction {
            Direction::Forward => first_child(&place.page, lower)?,
            Direction::Reverse => last_child(&place.page, upper)?,
        };
        place = scan.down(place, slot)?;
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
        scan.beyond(&place)
    };
    scan.collect(leaf, slots, meta.clock_ms(), after_leaf)
}

/// A page on the way down, and the separator nearest to it in the direction of the scan.
struct Place {
    page: Arc<Page>,
    edge: Option<(Arc<Page>, u16)>,
}

/// What one call asks for.
struct Scan<'s, 'k, S> {
    source: &'s S,
    lower: Bound<&'k [u8]>,
    upper: Bound<&'k [u8]>,
    direction: Direction,
    count_max: usize,
    bytes_max: usize,
}

/// What is taken of a cell.
struct Taken<'p> {
    cell: PageCell<'p>,
    /// The value, when it is not in the cell.
    large: Option<Bytes>,
}

impl<S: PageSource> Scan<'_, '_, S> {
    fn down(&self, place: Place, slot: u16) -> Result<Place, KvError> {
        let Place { page, edge } = place;
        let next = child(&page, slot)?;
        let below = match fetch_node(self.source, next, page.level() - 1) {
            Err(KvError::Miss(missed)) => return Err(self.ahead(&page, slot, missed)?),
            below => below?,
        };
        let edge_slot = match self.direction {
            Direction::Forward => Some(slot + 1).filter(|edge| *edge < page.cell_count()),
            Direction::Reverse => Some(slot).filter(|edge| *edge > 0),
        };
        Ok(Place {
            page: below,
            edge: edge_slot.map(|edge| (page, edge)).or(edge),
        })
    }

    /// The miss of the child in `slot`, with those behind it that the scan will come to, if they are leaves.
    fn ahead(&self, page: &Page, slot: u16, missed: Vec<PageId>) -> Result<KvError, KvError> {
        let mut missed = missed;
        let wanted = (self.bytes_max / page.len_bytes())
            .min(self.count_max / READ_AHEAD_ITEMS)
            .min(READ_AHEAD_MAX);
        let mut at = slot;
        for _ in 1..wanted {
            // The separator on the way to the next child tells whether the range goes on there.
            let next = match self.direction {
                Direction::Forward => Some(at + 1).filter(|next| *next < page.cell_count()),
                Direction::Reverse => at.checked_sub(1),
            };
            let Some(next) = next.filter(|_| page.level() == 1) else {
                break;
            };
            let edge = page.key(at.max(next));
            let goes_on = match self.direction {
                Direction::Forward => !is_empty(Bound::Included(edge), self.upper),
                Direction::Reverse => !is_empty(self.lower, Bound::Excluded(edge)),
            };
            if !goes_on {
                break;
            }
            let id = child(page, next)?;
            if self.source.page(id).is_none() && !missed.contains(&id) {
                missed.push(id);
            }
            at = next;
        }
        Ok(KvError::Miss(missed))
    }

    /// Where the scan goes on behind this leaf; `None` when the range ends with it.
    fn beyond(&self, place: &Place) -> Option<Bound<Vec<u8>>> {
        let (page, slot) = place.edge.as_ref()?;
        let edge = page.key(*slot);
        match self.direction {
            Direction::Forward if is_empty(Bound::Included(edge), self.upper) => None,
            Direction::Forward => Some(Bound::Included(edge.to_vec())),
            Direction::Reverse if is_empty(self.lower, Bound::Excluded(edge)) => None,
            Direction::Reverse => Some(Bound::Excluded(edge.to_vec())),
        }
    }

    /// Takes items from `slots` of `leaf` until a limit is met.
    fn collect(
        &self,
        leaf: &Page,
        slots: Range<u16>,
        clock_ms: u64,
        after_leaf: Option<Bound<Vec<u8>>>,
    ) -> Result<Chunk, KvError> {
        let capacity = slots.len().min(self.count_max).min(ITEMS_CAPACITY_MAX);
        let mut taken: Vec<Taken<'_>> = Vec::with_capacity(capacity);
        let mut bytes = 0;
        let mut passed = None;
        let mut ended = true;
        for index in 0..slots.end.saturating_sub(slots.start) {
            let slot = match self.direction {
                Direction::Forward => slots.start + index,
                Direction::Reverse => slots.end - 1 - index,
            };
            let is_enough = bytes >= self.bytes_max && !taken.is_empty();
            if taken.len() >= self.count_max || is_enough {
                ended = false;
                break;
            }
            let cell = leaf.cell(slot);
            if !is_expired(cell.deadline_ms, clock_ms) {
                let large = match self.large_value(leaf, &cell) {
                    Err(KvError::Miss(missed)) => {
                        if taken.is_empty() {
                            let rest = (index, slots);
                            return Err(self.large_ahead(leaf, rest, clock_ms, missed)?);
                        }
                        ended = false;
                        break;
                    }
                    large => large?,
                };
                let value_bytes = large.as_ref().map_or(cell.value.len(), Bytes::len);
                bytes += cell.key.len() + value_bytes;
                taken.push(Taken { cell, large });
            }
            passed = Some(slot);
        }
        let next = if ended {
            after_leaf
        } else {
            let from = match self.direction {
                Direction::Forward => self.lower,
                Direction::Reverse => self.upper,
            };
            let passed = passed.map(|slot| Bound::Excluded(leaf.key(slot).to_vec()));
            Some(passed.unwrap_or_else(|| from.map(<[u8]>::to_vec)))
        };
        let items = items(&taken);
        Ok(Chunk { items, next })
    }

    fn large_value(&self, leaf: &Page, cell: &PageCell<'_>) -> Result<Option<Bytes>, KvError> {
        if !cell.flags.contains(CellFlags::OVERFLOW) {
            return Ok(None);
        }
        overflow::read(self.source, &Reference::read(cell.value, leaf)?).map(Some)
    }

    /// The miss of a large value, with those of the large values behind it that fit the bounds of the call.
    fn large_ahead(
        &self,
        leaf: &Page,
        (at, slots): (u16, Range<u16>),
        clock_ms: u64,
        missed: Vec<PageId>,
    ) -> Result<KvError, KvError> {
        let mut missed = missed;
        let mut bytes = 0;
        let mut count = 0;
        for index in at..slots.end - slots.start {
            let slot = match self.direction {
                Direction::Forward => slots.start + index,
                Direction::Reverse => slots.end - 1 - index,
            };
            let cell = leaf.cell(slot);
            if is_expired(cell.deadline_ms, clock_ms) {
                continue;
            }
            let is_enough = count >= self.count_max || bytes >= self.bytes_max;
            if is_enough || missed.len() >= MISS_PAGES_MAX {
                break;
            }
            count += 1;
            bytes += cell.key.len() + value_bytes(leaf.id(), &cell)?;
            if !cell.flags.contains(CellFlags::OVERFLOW) {
                continue;
            }
            let reference = Reference::read(cell.value, leaf)?;
            if let Err(KvError::Miss(more)) = overflow::missing(self.source, &reference) {
                missed.extend(more);
            }
        }
        missed.truncate(MISS_PAGES_MAX);
        missed.sort_unstable();
        missed.dedup();
        Ok(KvError::Miss(missed))
    }
}

/// The items, with keys and values in one buffer.
fn items(taken: &[Taken<'_>]) -> Vec<Item> {
    let in_buffer = |taken: &Taken<'_>| {
        let value = taken.large.as_ref().map_or(taken.cell.value, |_| &[]);
        taken.cell.key.len() + value.len()
    };
    let mut buffer = Vec::with_capacity(taken.iter().map(in_buffer).sum());
    for Taken { cell, large } in taken {
        buffer.extend_from_slice(cell.key);
        if large.is_none() {
            buffer.extend_from_slice(cell.value);
        }
    }
    let buffer = Bytes::from(buffer);
    let mut at = 0;
    let mut part = |len_bytes: usize| {
        at += len_bytes;
        buffer.slice(at - len_bytes..at)
    };
    let item = |Taken { cell, large }: &Taken<'_>| Item {
        key: part(cell.key.len()),
        found: Found {
            value: match large {
                Some(large) => large.clone(),
                None => part(cell.value.len()),
            },
            stamp: cell.stamp,
            deadline_ms: cell.deadline_ms,
        },
    };
    taken.iter().map(item).collect()
}

/// Whether no key can lie between the bounds.
pub(crate) fn is_empty(lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> bool {
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
pub(crate) fn first_child(page: &Page, lower: Bound<&[u8]>) -> Result<u16, KvError> {
    match lower {
        Bound::Included(key) | Bound::Excluded(key) => child_slot(page, key),
        Bound::Unbounded if page.cell_count() > 0 => Ok(0),
        Bound::Unbounded => Err(corrupt(page.id(), "an inner page without children")),
    }
}

/// The child in which the last key before `upper` lies, if it is not at the end of the one before.
pub(crate) fn last_child(page: &Page, upper: Bound<&[u8]>) -> Result<u16, KvError> {
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
pub(crate) fn start_slot(leaf: &Page, lower: Bound<&[u8]>) -> u16 {
    match lower {
        Bound::Included(key) => leaf.find(key).unwrap_or_else(|slot| slot),
        Bound::Excluded(key) => leaf.find(key).map_or_else(|slot| slot, |slot| slot + 1),
        Bound::Unbounded => 0,
    }
}

/// The slot behind the last one of a leaf before `upper`.
pub(crate) fn end_slot(leaf: &Page, upper: Bound<&[u8]>) -> u16 {
    match upper {
        Bound::Included(key) => leaf.find(key).map_or_else(|slot| slot, |slot| slot + 1),
        Bound::Excluded(key) => leaf.find(key).unwrap_or_else(|slot| slot),
        Bound::Unbounded => leaf.cell_count(),
    }
}
