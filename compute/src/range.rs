//! Ranges of keys: bounds as users write them, and scans that are read as they go.

use std::ops::Bound;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use sixfold_compute_core::{ReadPoint, ReadRange};
use sixfold_kv::{Chunk, Direction, range_chunk};
use sixfold_log_format::Lsn;

use crate::database::Inner;
use crate::error::Error;
use crate::overlay::OwnRange;
use crate::read::{self, Pages, ReadLimit};
use crate::reads::ReadRangeSlot;
use crate::scan::{Entry, Scan};
use crate::space::Space;
use crate::transaction::TransactionState;

/// Items that are read ahead of the caller, at most.
const CHUNK_COUNT_MAX: usize = 256;
/// About how many bytes of them.
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Bounds of a range of keys.
pub(crate) type Bounds = (Bound<Bytes>, Bound<Bytes>);

/// A range of keys as users write it: `..`, `"a".."b"`, `b"a".."b"`, `key..=key`, or a pair of [`Bound`]s. Keys are
/// compared byte by byte. See also [`prefix`].
///
/// A range whose bounds are equal or reversed holds nothing; that is no error.
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

/// The range of all keys that begin with these bytes. An empty prefix is every key.
///
/// ```
/// use sixfold::{KeyRange, prefix};
/// use std::ops::Bound;
///
/// let (lower, upper) = prefix("user/").into_bounds();
/// assert_eq!(lower, Bound::Included("user/".into()));
/// assert_eq!(upper, Bound::Excluded("user0".into()));
/// ```
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
pub(crate) fn is_empty(bounds: &Bounds) -> bool {
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

/// A scan over a range of keys, read as it goes: memory stays bounded however long it is. Made by
/// [`Transaction::range`](crate::Transaction::range) and [`Snapshot::range`](crate::Snapshot::range).
///
/// [`Range::next`] gives item after item; the type is also a [`Stream`](futures_core::Stream). An empty or reversed
/// range, a limit of 0 and a byte budget of 0 hold nothing. Dropping the future of [`Range::next`] loses nothing. After
/// the end it stays at the end.
///
/// ```no_run
/// # async fn example(snapshot: sixfold::Snapshot) -> Result<(), sixfold::Error> {
/// // The ten latest orders of a customer, at most 64 KiB of them.
/// let mut orders = snapshot
///     .range(sixfold::prefix("orders/alice/"))
///     .reverse()
///     .limit(10)
///     .byte_budget(64 << 10);
/// while let Some((key, order)) = orders.next().await? {
///     println!("{key:?}: {} bytes", order.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Range {
    source: Source,
    space: Space,
    bounds: Bounds,
    direction: Direction,
    count_left: Option<usize>,
    bytes_left: Option<usize>,
    own: OwnRange,
    /// `None` until the first item is asked for.
    scan: Option<Scan>,
    slot: Option<ReadRangeSlot>,
    /// Pages that were read ahead, between two chunks.
    pages: Option<Pages>,
    reading: Option<Reading>,
    limit: ReadLimit,
    ended: bool,
}

/// Where a range reads.
#[derive(Debug, Clone)]
enum Source {
    Transaction(Arc<TransactionState>),
    Snapshot(Arc<Inner>, Arc<ReadPoint>),
}

/// A chunk on its way. It outlives a dropped [`Range::next`]. Never locked: the mutex makes it `Sync`.
struct Reading(Mutex<ChunkFuture>);

type ChunkFuture = Pin<Box<dyn Future<Output = Result<(Chunk, Pages), Error>> + Send>>;

impl std::fmt::Debug for Reading {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Reading")
    }
}

impl Range {
    pub(crate) fn of_transaction(
        transaction: Arc<TransactionState>,
        space: Space,
        limit: ReadLimit,
        range: impl KeyRange,
    ) -> Range {
        let bounds = range.into_bounds();
        let own = if is_empty(&bounds) {
            OwnRange::default()
        } else {
            transaction.own_within(&space.stored_bounds(bounds.clone()))
        };
        Range::new(Source::Transaction(transaction), space, limit, bounds, own)
    }

    pub(crate) fn of_snapshot(
        inner: Arc<Inner>,
        point: Arc<ReadPoint>,
        space: Space,
        limit: ReadLimit,
        range: impl KeyRange,
    ) -> Range {
        let bounds = range.into_bounds();
        let source = Source::Snapshot(inner, point);
        Range::new(source, space, limit, bounds, OwnRange::default())
    }

    fn new(source: Source, space: Space, limit: ReadLimit, bounds: Bounds, own: OwnRange) -> Range {
        Range {
            source,
            ended: is_empty(&bounds),
            bounds: space.stored_bounds(bounds),
            space,
            direction: Direction::Forward,
            count_left: None,
            bytes_left: None,
            own,
            scan: None,
            slot: None,
            pages: None,
            reading: None,
            limit,
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

    /// At most this many items from here on; 0 = none.
    #[must_use]
    pub fn limit(mut self, count: usize) -> Range {
        self.count_left = Some(count);
        self
    }

    /// Ends when the keys and values returned from here on have reached this many bytes: the last item may go beyond, so that
    /// one item larger than the budget is still returned; 0 = none.
    #[must_use]
    pub fn byte_budget(mut self, bytes: usize) -> Range {
        self.bytes_left = Some(bytes);
        self
    }

    /// The next key and its value; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the transaction has ended, or an atomic operation of its own cannot be done to what is
    /// stored; [`Error::Unavailable`], [`Error::TooOld`], [`Error::Fenced`], [`Error::Closed`]. After an error it may be
    /// called again, and goes on where it stood.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        let entry = std::future::poll_fn(|context| self.poll_entry(context)).await?;
        Ok(entry.map(|entry| (self.space.take_user_key(entry.key), entry.value)))
    }

    /// The next key, its value, and the LSN of the commit that put it ([`Lsn::NONE`] for what the transaction itself wrote);
    /// `None` at the end.
    ///
    /// # Errors
    /// Those of [`Range::next`].
    pub async fn next_versioned(&mut self) -> Result<Option<(Bytes, Bytes, Lsn)>, Error> {
        let entry = std::future::poll_fn(|context| self.poll_entry(context)).await?;
        Ok(entry.map(|entry| {
            (
                self.space.take_user_key(entry.key),
                entry.value,
                entry.stamp,
            )
        }))
    }

    /// The next key, its value, and the deadline at which that expires, milliseconds of the volume's clock
    /// ([`Transaction::put_until`](crate::Transaction::put_until)); `None` at the end. What the transaction itself has put tells no
    /// deadline.
    ///
    /// # Errors
    /// Those of [`Range::next`].
    pub async fn next_with_deadline(
        &mut self,
    ) -> Result<Option<(Bytes, Bytes, Option<u64>)>, Error> {
        let entry = std::future::poll_fn(|context| self.poll_entry(context)).await?;
        Ok(entry.map(|entry| {
            (
                self.space.take_user_key(entry.key),
                entry.value,
                entry.deadline_ms,
            )
        }))
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

    fn poll_entry(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Entry>, Error>> {
        if self.ended || self.count_left == Some(0) || self.bytes_left == Some(0) {
            return Poll::Ready(Ok(None));
        }
        loop {
            let (bounds, direction) = (&self.bounds, self.direction);
            let own = &mut self.own;
            let scan = self
                .scan
                .get_or_insert_with(|| Scan::new(bounds.clone(), direction, std::mem::take(own)));
            scan.settle()?;
            if !scan.needs_chunk() {
                return Poll::Ready(self.take_entry());
            }
            let mut reading = match self.reading.take() {
                Some(reading) => reading,
                None => self.read_chunk(),
            };
            let future = reading.0.get_mut().expect("it is never locked");
            match future.as_mut().poll(context) {
                Poll::Pending => {
                    self.reading = Some(reading);
                    return Poll::Pending;
                }
                Poll::Ready(result) => {
                    let (chunk, pages) = result?;
                    self.pages = Some(pages);
                    let scan = self.scan.as_mut().expect("it has begun");
                    scan.take_chunk(chunk);
                }
            }
        }
    }

    /// Begins to read what the scan needs next.
    fn read_chunk(&mut self) -> Reading {
        let scan = self.scan.as_ref().expect("it has begun");
        let bounds = scan.next_bounds();
        let count_max = self.count_left.map_or(CHUNK_COUNT_MAX, |left| {
            left.saturating_add(scan.own_count()).min(CHUNK_COUNT_MAX)
        });
        let bytes_max = self
            .bytes_left
            .map_or(CHUNK_BYTES_MAX, |left| left.min(CHUNK_BYTES_MAX));
        let (source, space) = (self.source.clone(), self.space.clone());
        let (direction, limit) = (self.direction, self.limit);
        let pages = self.pages.take();
        Reading(Mutex::new(Box::pin(async move {
            let (inner, point) = match &source {
                Source::Transaction(transaction) => {
                    transaction.check_keyspace(&space, limit).await?;
                    (&transaction.inner, transaction.point()?)
                }
                Source::Snapshot(inner, point) => (inner, Arc::clone(point)),
            };
            let mut pages = pages.unwrap_or_else(|| Pages::new(&point));
            pages.trim();
            let (lower, upper) = (
                bounds.0.as_ref().map(Bytes::as_ref),
                bounds.1.as_ref().map(Bytes::as_ref),
            );
            let chunk = read::run(inner, &mut pages, limit, |pages| {
                range_chunk(pages, lower, upper, direction, count_max, bytes_max)
            });
            let chunk = transaction_saw(&source, chunk.await)?;
            Ok((chunk, pages))
        })))
    }

    /// The next item, which is at hand. Noted before it is given: what could not be noted must not be returned.
    fn take_entry(&mut self) -> Result<Option<Entry>, Error> {
        let scan = self.scan.as_mut().expect("it has begun");
        if let Source::Transaction(transaction) = &self.source {
            let read = consumed(&self.bounds, self.direction, scan.peek_key());
            self.slot = Some(transaction.note_range(self.slot, read, scan.peek_deadline())?);
        }
        let entry = scan.pop();
        match &entry {
            Some(entry) => {
                if let Some(left) = &mut self.count_left {
                    *left -= 1;
                }
                if let Some(left) = &mut self.bytes_left {
                    let key_bytes = entry.key.len() - self.space.prefix().len();
                    *left = left.saturating_sub(key_bytes + entry.value.len());
                }
            }
            None => {
                self.ended = true;
                self.pages = None;
            }
        }
        Ok(entry)
    }
}

/// A transaction remembers what running it again may heal.
fn transaction_saw<T>(source: &Source, result: Result<T, Error>) -> Result<T, Error> {
    match source {
        Source::Transaction(transaction) => transaction.saw(result),
        Source::Snapshot(..) => result,
    }
}

/// Ends after the last item. An error ends nothing: asked again, it goes on where it stood.
impl futures_core::Stream for Range {
    type Item = Result<(Bytes, Bytes), Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let entry = std::task::ready!(self.poll_entry(context)).transpose();
        Poll::Ready(
            entry
                .map(|entry| entry.map(|entry| (self.space.take_user_key(entry.key), entry.value))),
        )
    }
}

#[cfg(test)]
#[path = "range_tests.rs"]
mod range_tests;
