//! A table from page ids to what is known of them, for the page cache: open addressing, one cache line a page.
//!
//! A reader of a page in memory waits for main memory more than for anything else. Here it waits once, for the line of the
//! page's place; a tree of nodes costs it a line or two a level. The table grows by doubling and never shrinks: it is as
//! large as the most pages that were ever cached at once need, 64 to 170 bytes each.

use sixfold_log_format::PageId;

/// Places of the smallest table.
const PLACES_MIN: usize = 4;

/// A number that spreads ids: neighbors, and ids with a common stride, come to lie far apart.
pub(crate) const fn spread(id: PageId) -> u64 {
    id.get().wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Invariant: at least a quarter of the places is free, and no free place lies between where an id belongs and where it is.
#[derive(Debug)]
pub(crate) struct PageTable<T> {
    /// None, or a power of two of them.
    places: Box<[Place<T>]>,
    count: usize,
}

/// A line of its own when `T` fits.
#[derive(Debug)]
#[repr(align(64))]
struct Place<T> {
    id: PageId,
    held: Option<T>,
}

impl<T> Default for PageTable<T> {
    fn default() -> PageTable<T> {
        PageTable {
            places: Box::default(),
            count: 0,
        }
    }
}

impl<T> PageTable<T> {
    /// What is held for the page.
    pub(crate) fn get(&self, id: PageId) -> Option<&T> {
        let mut at = self.home(id);
        loop {
            let place = self.places.get(at)?;
            let held = place.held.as_ref()?;
            if place.id == id {
                return Some(held);
            }
            at = self.after(at);
        }
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, id: PageId) -> Option<&mut T> {
        let at = self.find(id)?;
        self.places[at].held.as_mut()
    }

    /// What is held for the page; `make` is held from now on when nothing was.
    pub(crate) fn get_or_insert_with(&mut self, id: PageId, make: impl FnOnce() -> T) -> &mut T {
        let at = self.find(id).unwrap_or_else(|| self.insert(id, make()));
        let held = self.places[at].held.as_mut();
        held.expect("it was found, or put there")
    }

    /// Takes out what is held for the page.
    pub(crate) fn remove(&mut self, id: PageId) -> Option<T> {
        let mut hole = self.find(id)?;
        let removed = self.places[hole].held.take();
        self.count -= 1;
        // Whoever lies behind the hole and belongs at or before it moves up, so that no search ends at the hole too early.
        let mut at = self.after(hole);
        while self.places[at].held.is_some() {
            let from_home = self.distance(self.home(self.places[at].id), at);
            if from_home >= self.distance(hole, at) {
                self.places.swap(hole, at);
                hole = at;
            }
            at = self.after(at);
        }
        removed
    }

    fn find(&self, id: PageId) -> Option<usize> {
        let mut at = self.home(id);
        loop {
            let place = self.places.get(at)?;
            place.held.as_ref()?;
            if place.id == id {
                return Some(at);
            }
            at = self.after(at);
        }
    }

    /// Puts in what is not there yet; where it went.
    fn insert(&mut self, id: PageId, held: T) -> usize {
        if (self.count + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        let mut at = self.home(id);
        while self.places[at].held.is_some() {
            at = self.after(at);
        }
        self.places[at] = Place {
            id,
            held: Some(held),
        };
        self.count += 1;
        at
    }

    fn grow(&mut self) {
        let free = || Place {
            id: PageId::NONE,
            held: None,
        };
        let place_count = (self.places.len() * 2).max(PLACES_MIN);
        let old = std::mem::replace(
            &mut self.places,
            std::iter::repeat_with(free).take(place_count).collect(),
        );
        self.count = 0;
        for place in old {
            if let Some(held) = place.held {
                self.insert(place.id, held);
            }
        }
    }

    /// Where the page belongs: the upper bits, which the choice of a shard does not use.
    fn home(&self, id: PageId) -> usize {
        let bits = self.places.len().max(1).trailing_zeros();
        let top = spread(id).checked_shr(u64::BITS - bits).unwrap_or(0);
        usize::try_from(top).expect("below the number of places")
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    /// Steps from one place to another, around the end.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.places.len() - 1)
    }
}

#[cfg(test)]
#[path = "page_table_tests.rs"]
mod page_table_tests;
