//! What a transaction wants changed, as the tree takes it.

use crate::modify::Modify;

/// One user-visible change. A transaction's writes come sorted by key, each key once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write<'a> {
    /// Puts a value.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// Wall-clock milliseconds after which it is expired.
        deadline_ms: Option<u64>,
    },
    /// Deletes a key; nothing happens when it is absent.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Changes the number that a key holds (T6). What comes out has no deadline.
    Modify {
        /// The key.
        key: &'a [u8],
        /// The operations, in order.
        ops: &'a [Modify],
    },
    /// Removes a key if it has just this deadline and that has passed: the sweeper's write.
    Expire {
        /// The key.
        key: &'a [u8],
        /// The deadline that it must have, wall-clock milliseconds.
        deadline_ms: u64,
    },
}

/// A range of keys to delete, half-open; `None` = to the last key of the tree.
pub type Clear<'a> = (&'a [u8], Option<&'a [u8]>);

/// What one MTR changes: the clears first, then the writes.
#[derive(Debug, Clone, Copy)]
pub struct Changes<'c, 'a> {
    /// Ranges that are deleted, sorted, disjoint, none empty.
    pub clears: &'c [Clear<'a>],
    /// Writes, sorted by key, each key once.
    pub writes: &'c [Write<'a>],
}

impl<'a> Write<'a> {
    /// The key that it changes.
    pub fn key(&self) -> &'a [u8] {
        match self {
            Write::Put { key, .. }
            | Write::Delete { key }
            | Write::Modify { key, .. }
            | Write::Expire { key, .. } => key,
        }
    }
}

impl Changes<'_, '_> {
    /// Whether clears and writes are in order.
    pub(crate) fn are_sorted(&self) -> bool {
        let none_empty = |(start, end): &Clear<'_>| end.is_none_or(|end| *start < end);
        let apart = |(_, end): &Clear<'_>, next: &Clear<'_>| end.is_some_and(|end| end <= next.0);
        self.clears.iter().all(none_empty)
            && self.clears.is_sorted_by(apart)
            && self
                .writes
                .is_sorted_by(|one, other| one.key() < other.key())
    }
}
