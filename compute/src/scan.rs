//! The merge of two sorted streams: what the pages hold, chunk by chunk, and what the transaction says itself, which wins.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Bound;

use bytes::Bytes;
use sixfold_kv::{Chunk, Direction};
use sixfold_log_format::Lsn;

use crate::error::Error;
use crate::overlay::{Own, OwnRange};
use crate::range::{Bounds, is_empty};

/// An item of a range, with its stored key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// The commit that put it; none for what the transaction wrote.
    pub(crate) stamp: Lsn,
    /// The deadline that it depends on, if any.
    pub(crate) deadline_ms: Option<u64>,
}

/// A merge under way. It asks for chunks and is asked for items; it waits for nothing itself.
#[derive(Debug)]
pub(crate) struct Scan {
    direction: Direction,
    /// What is not read yet, in scan order: the bounds without the transaction's cleared ranges.
    rest: VecDeque<Bounds>,
    stored: VecDeque<Entry>,
    own: VecDeque<OwnEntry>,
}

#[derive(Debug)]
struct OwnEntry {
    key: Bytes,
    own: Own,
    /// Of the stored value that an atomic operation was applied to.
    deadline_ms: Option<u64>,
}

impl Scan {
    /// A merge of what is stored within `bounds` with `own`.
    pub(crate) fn new(bounds: Bounds, direction: Direction, own: OwnRange) -> Scan {
        let mut rest = VecDeque::from(without(bounds, own.clears));
        let entries = own.keys.into_iter().map(|(key, own)| OwnEntry {
            key,
            own,
            deadline_ms: None,
        });
        let mut own: VecDeque<OwnEntry> = entries.collect();
        if direction == Direction::Reverse {
            rest.make_contiguous().reverse();
            own.make_contiguous().reverse();
        }
        Scan {
            direction,
            rest,
            stored: VecDeque::new(),
            own,
        }
    }

    /// Whether the next item cannot be told without more of the pages.
    pub(crate) fn needs_chunk(&self) -> bool {
        self.stored.is_empty() && !self.rest.is_empty()
    }

    /// Bounds of the next chunk.
    ///
    /// # Panics
    /// When no chunk is needed.
    pub(crate) fn next_bounds(&self) -> Bounds {
        self.rest
            .front()
            .cloned()
            .expect("only asked for when a chunk is needed")
    }

    /// How many stored items its own words may hide, at most.
    pub(crate) fn own_count(&self) -> usize {
        self.own.len()
    }

    /// Takes the chunk that was read within [`Scan::next_bounds`].
    pub(crate) fn take_chunk(&mut self, chunk: Chunk) {
        assert!(self.needs_chunk(), "nothing was asked for");
        let entries = chunk.items.into_iter().map(|item| Entry {
            key: item.key,
            value: item.found.value,
            stamp: item.found.stamp,
            deadline_ms: item.found.deadline_ms,
        });
        // In the memory of the items: nothing is moved twice.
        self.stored = entries.collect::<Vec<_>>().into();
        let bounds = self.rest.pop_front().expect("a chunk was needed");
        if let Some(next) = chunk.next {
            let next = next.map(Bytes::from);
            self.rest.push_front(match self.direction {
                Direction::Forward => (next, bounds.1),
                Direction::Reverse => (bounds.0, next),
            });
        }
    }

    /// Drops what the other side hides: stored items of which the transaction says something, and its deletions once what
    /// they hide is known. Afterwards, unless a chunk is needed, the front of one side is the next item.
    ///
    /// # Errors
    /// [`Error::Invalid`] when an atomic operation of the transaction cannot be done to what is stored. Settling again gives
    /// the same.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        while !self.needs_chunk() {
            let Some(own) = self.own.front_mut() else {
                return Ok(());
            };
            let stored = self.stored.front();
            let order = stored.map(|stored| ordered(self.direction, &own.key, &stored.key));
            match order {
                Some(Ordering::Greater) => return Ok(()),
                Some(Ordering::Equal) => {
                    if let Own::Modified(_) = own.own {
                        let value = own.own.over(stored.map(|stored| &stored.value))?;
                        own.deadline_ms = stored.and_then(|stored| stored.deadline_ms);
                        own.own = value.map_or(Own::Absent, Own::Value);
                    }
                    self.stored.pop_front();
                }
                Some(Ordering::Less) | None => match own.own {
                    Own::Value(_) => return Ok(()),
                    Own::Absent => {
                        self.own.pop_front();
                    }
                    Own::Modified(_) => {
                        let value = own.own.over(None)?;
                        own.own = value.map_or(Own::Absent, Own::Value);
                    }
                },
            }
        }
        Ok(())
    }

    /// The key of the next item; `None` at the end. To be called after [`Scan::settle`], when no chunk is needed.
    pub(crate) fn peek_key(&self) -> Option<&Bytes> {
        if self.own_is_next() {
            self.own.front().map(|own| &own.key)
        } else {
            self.stored.front().map(|stored| &stored.key)
        }
    }

    /// The deadline that the next item depends on.
    pub(crate) fn peek_deadline(&self) -> Option<u64> {
        if self.own_is_next() {
            self.own.front().and_then(|own| own.deadline_ms)
        } else {
            self.stored.front().and_then(|stored| stored.deadline_ms)
        }
    }

    /// The next item; `None` at the end. To be called after [`Scan::settle`], when no chunk is needed.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        assert!(!self.needs_chunk(), "the next item is not known yet");
        if !self.own_is_next() {
            return self.stored.pop_front();
        }
        let OwnEntry {
            key,
            own,
            deadline_ms,
        } = self.own.pop_front()?;
        let Own::Value(value) = own else {
            panic!("only values are left when it is settled");
        };
        Some(Entry {
            key,
            value,
            stamp: Lsn::NONE,
            deadline_ms,
        })
    }

    fn own_is_next(&self) -> bool {
        match (self.own.front(), self.stored.front()) {
            (Some(own), Some(stored)) => {
                ordered(self.direction, &own.key, &stored.key) == Ordering::Less
            }
            (own, _) => own.is_some(),
        }
    }
}

fn ordered(direction: Direction, one: &Bytes, other: &Bytes) -> Ordering {
    match direction {
        Direction::Forward => one.cmp(other),
        Direction::Reverse => other.cmp(one),
    }
}

/// What is left of `bounds` without the half-open ranges, which are ascending and meet it.
fn without(bounds: Bounds, clears: Vec<(Bytes, Bytes)>) -> Vec<Bounds> {
    let (mut lower, upper) = bounds;
    let mut left = Vec::with_capacity(clears.len() + 1);
    for (start, end) in clears {
        left.push((lower, Bound::Excluded(start)));
        lower = Bound::Included(end);
    }
    left.push((lower, upper));
    left.retain(|bounds| !is_empty(bounds));
    left
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod scan_tests;
