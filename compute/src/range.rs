//! Ranges of keys: bounds as users write them, and the scan that merges a transaction's own writes with the pages.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use sixfold_compute_core::{ReadPoint, ReadRange};
use sixfold_kv::{Chunk, Direction, Item, range_chunk};

use crate::database::Inner;
use crate::error::Error;
use crate::read;
use crate::transaction::{ReadRangeSlot, TransactionState};

/// Items that are read ahead of the caller, at most.
const CHUNK_COUNT_MAX: usize = 256;
/// About how many bytes of them.
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Bounds of a range of keys.
pub(crate) type Bounds = (Bound<Bytes>, Bound<Bytes>);

/// A range of keys as users write it: `..`, `"a".."b"`, `b"a".."b"`, `key..=key`, or a pair of [`Bound`]s. Keys are
/// compared byte by byte. See also [`prefix`].
pub trait KeyRange {
    /// Lower and upper bound.
    fn into_bounds(self) -> (Bound<Bytes>, Bound<Bytes>);
}

fn own<K: AsRef<[u8]>>(key: &K) -> Bytes {
    Bytes::copy_from_slice(key.as_ref())
}

impl KeyRange for std::ops::RangeFull {
    fn into_bounds(self) -> Bounds {
        (Bound::Unbounded, Bound::Unbounded)
    }
}

impl<K: AsRef<[u8]>> KeyRange for std::ops::Range<K> {
    fn into_bounds(self) -> Bounds {
        (
            Bound::Included(own(&self.start)),
            Bound::Excluded(own(&self.end)),
        )
    }
}

impl<K: AsRef<[u8]>> KeyRange for std::ops::RangeInclusive<K> {
    fn into_bounds(self) -> Bounds {
        (
            Bound::Included(own(self.start())),
            Bound::Included(own(self.end())),
        )
    }
}

impl<K: AsRef<[u8]>> KeyRange for std::ops::RangeFrom<K> {
    fn into_bounds(self) -> Bounds {
        (Bound::Included(own(&self.start)), Bound::Unbounded)
    }
}

impl<K: AsRef<[u8]>> KeyRange for std::ops::RangeTo<K> {
    fn into_bounds(self) -> Bounds {
        (Bound::Unbounded, Bound::Excluded(own(&self.end)))
    }
}

impl<K: AsRef<[u8]>> KeyRange for std::ops::RangeToInclusive<K> {
    fn into_bounds(self) -> Bounds {
        (Bound::Unbounded, Bound::Included(own(&self.end)))
    }
}

impl<K: AsRef<[u8]>> KeyRange for (Bound<K>, Bound<K>) {
    fn into_bounds(self) -> Bounds {
        (self.0.map(|key| own(&key)), self.1.map(|key| own(&key)))
    }
}

/// The range of all keys that begin with these bytes.
pub fn prefix(bytes: impl AsRef<[u8]>) -> impl KeyRange {
    let start = bytes.as_ref();
    let mut end = start.to_vec();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    let end = match end.last_mut() {
        Some(last) => {
            *last += 1;
            Bound::Excluded(end)
        }
        None => Bound::Unbounded,
    };
    (Bound::Included(start.to_vec()), end)
}

/// Whether no key can lie within bounds: they are empty or reversed.
fn is_empty(bounds: &Bounds) -> bool {
    match bounds {
        (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
        (
            Bound::Included(lower) | Bound::Excluded(lower),
            Bound::Included(upper) | Bound::Excluded(upper),
        ) => lower >= upper,
        (_, Bound::Excluded(upper)) => upper.is_empty(),
        (_, _) => false,
    }
}

/// The part of `bounds` that was read when `reached` was the last key returned; all of it when that is `None`.
fn consumed(bounds: &Bounds, direction: Direction, reached: Option<&Bytes>) -> ReadRange {
    let start = match &bounds.0 {
        Bound::Unbounded => Bytes::new(),
        Bound::Included(key) => key.clone(),
        // The lowest key above it.
        Bound::Excluded(key) => Bytes::from([key.as_ref(), &[0]].concat()),
    };
    let (end, end_included) = match &bounds.1 {
        Bound::Unbounded => (None, false),
        Bound::Included(key) => (Some(key.clone()), true),
        Bound::Excluded(key) => (Some(key.clone()), false),
    };
    match (reached, direction) {
        (None, _) => ReadRange {
            start,
            end,
            end_included,
        },
        (Some(key), Direction::Forward) => ReadRange {
            start,
            end: Some(key.clone()),
            end_included: true,
        },
        (Some(key), Direction::Reverse) => ReadRange {
            start: key.clone(),
            end,
            end_included,
        },
    }
}

/// A scan over a range of keys, read as it goes. Made by [`Transaction::range`](crate::Transaction::range) and
/// [`Snapshot::range`](crate::Snapshot::range).
///
/// An empty or reversed range, and a limit of 0, hold nothing. Dropping the future of [`Range::next`] loses nothing.
#[derive(Debug)]
pub struct Range {
    source: Source,
    bounds: Bounds,
    left: Option<usize>,
    own_writes: Vec<(Bytes, Option<Bytes>)>,
    /// `None` until the first item is asked for.
    scan: Option<Scan>,
    slot: Option<ReadRangeSlot>,
    direction: Direction,
    ended: bool,
}

#[derive(Debug)]
enum Source {
    Transaction(Arc<TransactionState>),
    Snapshot(Arc<Inner>, Arc<ReadPoint>),
}

impl Range {
    pub(crate) fn of_transaction(
        transaction: Arc<TransactionState>,
        range: impl KeyRange,
    ) -> Range {
        let bounds = range.into_bounds();
        let own_writes = if is_empty(&bounds) {
            Vec::new()
        } else {
            transaction.writes_within(bounds.clone())
        };
        Range::new(Source::Transaction(transaction), bounds, own_writes)
    }

    pub(crate) fn of_snapshot(
        inner: Arc<Inner>,
        point: Arc<ReadPoint>,
        range: impl KeyRange,
    ) -> Range {
        Range::new(
            Source::Snapshot(inner, point),
            range.into_bounds(),
            Vec::new(),
        )
    }

    fn new(source: Source, bounds: Bounds, own_writes: Vec<(Bytes, Option<Bytes>)>) -> Range {
        let ended = is_empty(&bounds);
        Range {
            source,
            bounds,
            left: None,
            own_writes,
            scan: None,
            slot: None,
            direction: Direction::Forward,
            ended,
        }
    }

    /// Descending keys. To be called before the first [`Range::next`].
    ///
    /// # Panics
    /// When the scan has begun.
    #[must_use]
    pub fn reverse(mut self) -> Range {
        assert!(
            self.scan.is_none(),
            "a range is reversed before its first item"
        );
        self.direction = Direction::Reverse;
        self
    }

    /// At most this many items.
    #[must_use]
    pub fn limit(mut self, count: usize) -> Range {
        self.left = Some(count);
        self
    }

    /// The next key and its value; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the transaction has ended; [`Error::Unavailable`], [`Error::TooOld`], [`Error::Fenced`],
    /// [`Error::Closed`]. After an error it may be called again, and goes on where it stood.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        if self.ended || self.left == Some(0) {
            return Ok(None);
        }
        let (bounds, direction) = (&self.bounds, self.direction);
        let own_writes = &mut self.own_writes;
        let scan = self.scan.get_or_insert_with(|| {
            Scan::new(bounds.clone(), direction, std::mem::take(own_writes))
        });
        while scan.needs_chunk() {
            let count_max = self.left.map_or(CHUNK_COUNT_MAX, |left| {
                (left + scan.own_count()).min(CHUNK_COUNT_MAX)
            });
            let chunk = read_chunk(&self.source, scan.rest(), direction, count_max).await?;
            scan.take_chunk(chunk);
        }
        // Noted first: an item that could not be noted must not be returned.
        let reached = scan.peek_key();
        if let Source::Transaction(transaction) = &self.source {
            let read = consumed(&self.bounds, self.direction, reached.as_ref());
            self.slot = Some(transaction.note_range(self.slot, read)?);
        }
        let item = scan.pop();
        if let (Some(left), Some(_)) = (&mut self.left, &item) {
            *left -= 1;
        }
        self.ended = item.is_none();
        Ok(item)
    }

    /// All that is left of it, in memory at once.
    ///
    /// # Errors
    /// Those of [`Range::next`].
    pub async fn collect(mut self) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let mut items = Vec::new();
        while let Some(item) = self.next().await? {
            items.push(item);
        }
        Ok(items)
    }
}

async fn read_chunk(
    source: &Source,
    rest: Bounds,
    direction: Direction,
    count_max: usize,
) -> Result<Chunk, Error> {
    let (inner, point) = match source {
        Source::Transaction(transaction) => (&transaction.inner, transaction.point()?),
        Source::Snapshot(inner, point) => (inner, Arc::clone(point)),
    };
    read::run(inner, &point, |pages| {
        let (lower, upper) = (
            rest.0.as_ref().map(Bytes::as_ref),
            rest.1.as_ref().map(Bytes::as_ref),
        );
        let mut chunk = range_chunk(pages, lower, upper, direction, count_max, CHUNK_BYTES_MAX)?;
        let mut kept = Vec::with_capacity(chunk.items.len());
        for Item { key, found } in chunk.items {
            if let Some(found) = read::unless_expired(pages, found)? {
                kept.push(Item { key, found });
            }
        }
        chunk.items = kept;
        Ok(chunk)
    })
    .await
}

/// The merge of two sorted streams: what the pages hold, chunk by chunk, and the transaction's own writes, which win.
#[derive(Debug)]
struct Scan {
    direction: Direction,
    /// What is not read yet; `None` when all is.
    rest: Option<Bounds>,
    stored: VecDeque<(Bytes, Bytes)>,
    own: VecDeque<(Bytes, Option<Bytes>)>,
}

impl Scan {
    /// `own` is ascending.
    fn new(bounds: Bounds, direction: Direction, own: Vec<(Bytes, Option<Bytes>)>) -> Scan {
        let mut own = VecDeque::from(own);
        if direction == Direction::Reverse {
            own.make_contiguous().reverse();
        }
        let mut scan = Scan {
            direction,
            rest: Some(bounds),
            stored: VecDeque::new(),
            own,
        };
        scan.settle();
        scan
    }

    /// Whether the next item cannot be told without more of the pages.
    fn needs_chunk(&self) -> bool {
        self.stored.is_empty() && self.rest.is_some()
    }

    /// Bounds of the next chunk.
    fn rest(&self) -> Bounds {
        self.rest
            .clone()
            .expect("only asked for when a chunk is needed")
    }

    fn own_count(&self) -> usize {
        self.own.len()
    }

    fn take_chunk(&mut self, chunk: Chunk) {
        self.stored.extend(
            chunk
                .items
                .into_iter()
                .map(|item| (item.key, item.found.value)),
        );
        let bounds = self.rest.take().expect("a chunk was needed");
        self.rest = chunk.next.map(|next| {
            let next = next.map(Bytes::from);
            match self.direction {
                Direction::Forward => (next, bounds.1),
                Direction::Reverse => (bounds.0, next),
            }
        });
        self.settle();
    }

    /// Drops what the other side hides: stored items that the transaction overwrote or deleted, and its deletions once
    /// what they hide is known. Afterwards, unless a chunk is needed, the front of each side is to be returned.
    fn settle(&mut self) {
        while !self.needs_chunk() {
            let Some((own_key, own_value)) = self.own.front() else {
                return;
            };
            let order = self
                .stored
                .front()
                .map(|(key, _)| self.ordered(own_key, key));
            match order {
                Some(std::cmp::Ordering::Greater) => return,
                Some(std::cmp::Ordering::Equal) => {
                    self.stored.pop_front();
                }
                Some(std::cmp::Ordering::Less) | None if own_value.is_none() => {
                    self.own.pop_front();
                }
                Some(std::cmp::Ordering::Less) | None => return,
            }
        }
    }

    fn ordered(&self, one: &Bytes, other: &Bytes) -> std::cmp::Ordering {
        match self.direction {
            Direction::Forward => one.cmp(other),
            Direction::Reverse => other.cmp(one),
        }
    }

    /// The key of the next item; `None` at the end.
    fn peek_key(&self) -> Option<Bytes> {
        match (self.own.front(), self.stored.front()) {
            (Some((own, _)), Some((stored, _))) => Some(
                if self.ordered(own, stored).is_lt() {
                    own
                } else {
                    stored
                }
                .clone(),
            ),
            (Some((own, _)), None) => Some(own.clone()),
            (None, Some((stored, _))) => Some(stored.clone()),
            (None, None) => None,
        }
    }

    fn pop(&mut self) -> Option<(Bytes, Bytes)> {
        assert!(!self.needs_chunk(), "the next item is not known yet");
        let own_first = match (self.own.front(), self.stored.front()) {
            (Some((own, _)), Some((stored, _))) => self.ordered(own, stored).is_lt(),
            (own, _) => own.is_some(),
        };
        let item = if own_first {
            let (key, value) = self.own.pop_front()?;
            Some((key, value.expect("deletions are settled away")))
        } else {
            self.stored.pop_front()
        };
        self.settle();
        item
    }
}

#[cfg(test)]
#[path = "range_tests.rs"]
mod range_tests;
