//! What a transaction writes: a commit request's changes, before they have a place.
//!
//! Cleared ranges come first, then one word on each key; whoever buffers a clear drops the words on keys inside it. Nothing
//! here looks at the tree: what a key holds is only known at the commit's place.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use sixfold_log_format::Lsn;

use sixfold_kv::modify::{Modify, ModifyError, number};

/// What a transaction writes: cleared ranges first, then the last word on each key. Keys are stored keys: space byte first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteSet {
    /// Cleared ranges `[start, end)`, sorted and disjoint; `None` = no upper bound. They happen before `keys`.
    pub clears: Vec<(Bytes, Option<Bytes>)>,
    /// What becomes of single keys.
    pub keys: BTreeMap<Bytes, KeyWrite>,
}

/// What becomes of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyWrite {
    /// It gets a value.
    Put(WriteValue),
    /// It goes; nothing happens when it is absent.
    Delete,
    /// It is computed from what it holds when the commit takes its place, in this order (T6). Never empty.
    Modify(Vec<Modify>),
}

/// A value to be put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteValue {
    /// The bytes.
    pub bytes: Bytes,
    /// Wall-clock milliseconds after which it is expired.
    pub deadline_ms: Option<u64>,
}

/// A number by which the database recognizes a commit that it has done already (T3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Token {
    /// Drawn by the database. One that is older than the token horizon is refused, never applied.
    Made {
        /// A read point at the time when it was drawn.
        birth: Lsn,
        /// Drawn at random.
        id: [u8; 16],
    },
    /// Given by the user; remembered for the token retention after the commit.
    Given([u8; 16]),
}

impl From<Bytes> for WriteValue {
    fn from(bytes: Bytes) -> WriteValue {
        WriteValue {
            bytes,
            deadline_ms: None,
        }
    }
}

impl From<Option<WriteValue>> for KeyWrite {
    fn from(value: Option<WriteValue>) -> KeyWrite {
        value.map_or(KeyWrite::Delete, KeyWrite::Put)
    }
}

impl<W: Into<KeyWrite>> FromIterator<(Bytes, W)> for WriteSet {
    fn from_iter<I: IntoIterator<Item = (Bytes, W)>>(keys: I) -> WriteSet {
        let keys = keys.into_iter().map(|(key, write)| (key, write.into()));
        WriteSet {
            clears: Vec::new(),
            keys: keys.collect(),
        }
    }
}

impl WriteSet {
    /// Nothing.
    pub fn new() -> WriteSet {
        WriteSet::default()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.clears.is_empty() && self.keys.is_empty()
    }

    /// Puts a value, whatever was said of the key before.
    pub fn put(&mut self, key: Bytes, value: impl Into<WriteValue>) {
        self.keys.insert(key, KeyWrite::Put(value.into()));
    }

    /// Deletes a key, whatever was said of it before. Inside a cleared range nothing needs to be said.
    pub fn delete(&mut self, key: Bytes) {
        if self.is_cleared(&key) {
            self.keys.remove(&key);
        } else {
            self.keys.insert(key, KeyWrite::Delete);
        }
    }

    /// Computes a key from what it will hold: from what this transaction says of it, where it does.
    ///
    /// # Errors
    /// [`ModifyError`]: what this transaction put there is no number, or it overflows.
    pub fn modify(&mut self, key: Bytes, op: Modify) -> Result<(), ModifyError> {
        let is_cleared = self.is_cleared(&key);
        let written = match self.keys.get_mut(&key) {
            Some(KeyWrite::Modify(ops)) => {
                ops.push(op);
                return Ok(());
            }
            Some(KeyWrite::Put(value)) => Some(modified(op, Some(&value.bytes))?),
            Some(KeyWrite::Delete) => Some(modified(op, None)?),
            None if is_cleared => Some(modified(op, None)?),
            None => None,
        };
        let write = match written {
            Some(number) => KeyWrite::Put(Bytes::copy_from_slice(&number).into()),
            None => KeyWrite::Modify(vec![op]),
        };
        self.keys.insert(key, write);
        Ok(())
    }

    /// Clears `[start, end)`; `None` = no upper bound. What was said of keys inside is dropped. Nothing happens when the range is
    /// empty.
    pub fn clear(&mut self, start: Bytes, end: Option<Bytes>) {
        if end.as_ref().is_some_and(|end| *end <= start) {
            return;
        }
        let upper = end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let inside = (Bound::Included(start.clone()), upper);
        self.keys.extract_if(inside, |_, _| true).for_each(drop);
        // It becomes one with every range that it touches.
        let first = self
            .clears
            .partition_point(|(_, other)| other.as_ref().is_some_and(|other| *other < start));
        let behind = self.clears[first..]
            .partition_point(|(other, _)| end.as_ref().is_none_or(|end| other <= end))
            + first;
        let mut joined = (start, end);
        for (other_start, other_end) in self.clears.drain(first..behind) {
            joined.0 = joined.0.min(other_start);
            joined.1 = match (joined.1, other_end) {
                (Some(one), Some(other)) => Some(one.max(other)),
                _ => None,
            };
        }
        self.clears.insert(first, joined);
    }

    /// Whether a cleared range holds the key.
    pub fn is_cleared(&self, key: &[u8]) -> bool {
        let behind = self.clears.partition_point(|(start, _)| &start[..] <= key);
        let before = behind.checked_sub(1).map(|at| &self.clears[at]);
        before.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < &end[..]))
    }
}

/// The number that a key holds after `op`, as it is stored. `before`: its value; `None` = absent.
fn modified(op: Modify, before: Option<&[u8]>) -> Result<[u8; 8], ModifyError> {
    let before = before.map(number).transpose()?;
    Ok(op.apply(before)?.to_le_bytes())
}
