//! How much lies in a range, without reading it: what stands along its two bounds and in one place between them, taken for
//! the rest.

use std::ops::Bound;
use std::sync::Arc;

use sixfold_log_format::Page;

use crate::cursor::{end_slot, first_child, is_empty, last_child, start_slot};
use crate::lookup::{root_of, value_bytes};
use crate::meta::HEIGHT_MAX;
use crate::source::{KvError, PageSource, child, fetch_node};

/// About how much lies in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Estimate {
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// Sizes a range: exact when it lies within one leaf or two that are neighbors, else an estimate from at most three pages on
/// each level. Expired keys count as long as they are not removed. Empty and reversed ranges hold nothing.
///
/// # Errors
/// [`KvError`]; a miss means: fetch and call again.
pub fn estimate(
    source: &impl PageSource,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
) -> Result<Estimate, KvError> {
    let mut tally = Tally::default();
    if is_empty(lower, upper) {
        return Ok(tally.inside);
    }
    let (mut page, _) = root_of(source)?;
    while page.level() > 0 {
        let (first, last) = (first_child(&page, lower)?, last_child(&page, upper)?);
        if first >= last {
            page = below(source, &page, first)?;
            continue;
        }
        tally.seen(&page);
        tally.whole(page.level() - 1, last - first - 1);
        let everything = (Bound::Unbounded, Bound::Unbounded);
        let paths = [
            Some((first, (lower, Bound::Unbounded), Side::Lower)),
            Some((last, (Bound::Unbounded, upper), Side::Upper)),
            (last - first > 1).then_some((first + (last - first) / 2, everything, Side::Middle)),
        ];
        let mut missed = Vec::new();
        for (slot, bounds, side) in paths.into_iter().flatten() {
            match tally.descend(source, below(source, &page, slot), bounds, side) {
                Err(KvError::Miss(pages)) => missed.extend(pages),
                result => result?,
            }
        }
        missed.sort_unstable();
        missed.dedup();
        return if missed.is_empty() {
            Ok(tally.total())
        } else {
            Err(KvError::Miss(missed))
        };
    }
    tally.leaf(&page, (lower, upper), Side::Lower)?;
    Ok(tally.inside)
}

fn below(source: &impl PageSource, page: &Page, slot: u16) -> Result<Arc<Page>, KvError> {
    fetch_node(source, child(page, slot)?, page.level() - 1)
}

type Bounds<'k> = (Bound<&'k [u8]>, Bound<&'k [u8]>);

/// Where a path goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Along the lower bound: what lies to its right is inside.
    Lower,
    /// Along the upper bound: what lies to its left is inside.
    Upper,
    /// Through a subtree that was counted as a whole: a sample only.
    Middle,
}

/// What was seen.
#[derive(Default)]
struct Tally {
    /// What was counted cell by cell.
    inside: Estimate,
    /// Whole subtrees inside, by the level of their root.
    whole: [u64; HEIGHT_MAX as usize],
    /// Pages seen and their cells, by level; leaves whole.
    pages: [u64; HEIGHT_MAX as usize],
    cells: [u64; HEIGHT_MAX as usize],
    leaf_bytes: u64,
}

impl Tally {
    fn seen(&mut self, page: &Page) {
        self.pages[usize::from(page.level())] += 1;
        self.cells[usize::from(page.level())] += u64::from(page.cell_count());
    }

    fn whole(&mut self, level: u8, count: u16) {
        self.whole[usize::from(level)] += u64::from(count);
    }

    fn descend(
        &mut self,
        source: &impl PageSource,
        page: Result<Arc<Page>, KvError>,
        (lower, upper): Bounds<'_>,
        side: Side,
    ) -> Result<(), KvError> {
        let mut page = page?;
        while page.level() > 0 {
            self.seen(&page);
            let (count, level) = (page.cell_count(), page.level() - 1);
            let slot = match side {
                Side::Lower => {
                    let slot = first_child(&page, lower)?;
                    self.whole(level, count - slot - 1);
                    slot
                }
                Side::Upper => {
                    let slot = last_child(&page, upper)?;
                    self.whole(level, slot);
                    slot
                }
                Side::Middle => count / 2,
            };
            page = below(source, &page, slot)?;
        }
        self.leaf(&page, (lower, upper), side)
    }

    fn leaf(&mut self, leaf: &Page, (lower, upper): Bounds<'_>, side: Side) -> Result<(), KvError> {
        self.seen(leaf);
        let slots = start_slot(leaf, lower)..end_slot(leaf, upper);
        for (slot, cell) in (0..).zip(leaf.cells()) {
            let bytes = (cell.key.len() + value_bytes(leaf.id(), &cell)?) as u64;
            self.leaf_bytes += bytes;
            if slots.contains(&slot) && side != Side::Middle {
                self.inside.keys += 1;
                self.inside.bytes += bytes;
            }
        }
        Ok(())
    }

    /// What was counted, and for each whole subtree what such a one holds on average.
    fn total(&self) -> Estimate {
        let mut leaves: u128 = 0;
        // From the top: subtrees of a level are as many of the level below as their pages have cells.
        for level in (1..self.whole.len()).rev() {
            leaves += u128::from(self.whole[level]);
            let (pages, cells) = (self.pages[level], self.cells[level]);
            leaves = leaves * u128::from(cells.max(1)) / u128::from(pages.max(1));
        }
        leaves += u128::from(self.whole[0]);
        let scaled = |sum: u64| {
            let estimate = leaves * u128::from(sum) / u128::from(self.pages[0].max(1));
            u64::try_from(estimate).unwrap_or(u64::MAX)
        };
        Estimate {
            keys: self.inside.keys.saturating_add(scaled(self.cells[0])),
            bytes: self.inside.bytes.saturating_add(scaled(self.leaf_bytes)),
        }
    }
}
