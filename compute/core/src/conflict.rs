//! Validation (T2): has anything that a transaction read been changed after its read point, durable or not?
//!
//! Remembers the last commit of each key changed lately and of each range cleared lately, up to a bound. What was forgotten
//! is covered by a floor: a read point below it is too old to be judged. Writes and clears alone need no validation, and so
//! changes are only ordered by key when a transaction comes that has read something.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use sixfold_log_format::Lsn;
use sixfold_log_format::mutant::{Mutant, planted};

use crate::cleared::ClearedRanges;
use crate::event::{CommitError, CommitRequest, ReadRange};

/// Up to this many changes since the read point, each is looked up among the ranges; beyond, the ranges are walked. Either
/// way the work grows with the ranges and the changes, not with their product.
const CHANGES_SCANNED_MAX: usize = 4_096;

/// What a remembered change takes beside its key, about: its places in both collections.
const CHANGE_BYTES: usize = 96;

/// What a commit changed.
#[derive(Debug)]
enum Change {
    Key(Bytes),
    /// `[start, end)`; `None` = no upper bound.
    Range(Bytes, Option<Bytes>),
}

/// Recent commits by key and range. Invariant: every change above `floor` is in `changes`; of these every range is in
/// `cleared`, and every key but those of the last `unordered_count` changes in `last`.
#[derive(Debug)]
pub(crate) struct RecentCommits {
    last: BTreeMap<Bytes, Lsn>,
    cleared: ClearedRanges,
    changes: VecDeque<(Lsn, Change)>,
    unordered_count: usize,
    floor: Lsn,
    /// Of `changes`, keys included.
    bytes: usize,
    keys_max: usize,
    bytes_max: usize,
}

impl RecentCommits {
    /// Nothing is known of commits at or below `floor`.
    pub(crate) fn new(floor: Lsn, keys_max: usize, bytes_max: usize) -> RecentCommits {
        RecentCommits {
            last: BTreeMap::new(),
            cleared: ClearedRanges::default(),
            changes: VecDeque::new(),
            unordered_count: 0,
            floor,
            bytes: 0,
            keys_max,
            bytes_max,
        }
    }

    /// Whether the transaction may be ordered behind everything minted so far.
    ///
    /// # Errors
    /// `Conflict` or `TooOld`.
    pub(crate) fn validate(&mut self, request: &CommitRequest) -> Result<(), CommitError> {
        let read_point = request.read_point;
        if request.read_keys.is_empty() && request.read_ranges.is_empty() {
            return Ok(());
        }
        if read_point < self.floor {
            return Err(CommitError::TooOld {
                read_point,
                oldest: self.floor,
            });
        }
        if self
            .changes
            .back()
            .is_none_or(|(newest, _)| *newest <= read_point)
        {
            return Ok(());
        }
        self.order();
        let changed_at = self
            .changed_key(&request.read_keys, read_point)
            .or_else(|| self.changed_range(&request.read_ranges, read_point));
        match changed_at {
            Some(changed_at) => Err(CommitError::Conflict {
                read_point,
                changed_at,
            }),
            None => Ok(()),
        }
    }

    /// The commit at `cpl` changed `key`. Beyond the bounds the oldest changes are forgotten, also when a read point that is in
    /// use needs them: it is too old then, and its transaction may begin again.
    pub(crate) fn changed(&mut self, key: Bytes, cpl: Lsn) {
        self.remember(cpl, Change::Key(key));
    }

    /// The commit at `cpl` cleared `[start, end)`; `None` = no upper bound. As [`RecentCommits::changed`].
    pub(crate) fn range_cleared(&mut self, start: Bytes, end: Option<Bytes>, cpl: Lsn) {
        self.cleared.clear(start.clone(), end.clone(), cpl);
        self.remember(cpl, Change::Range(start, end));
    }

    fn remember(&mut self, cpl: Lsn, change: Change) {
        self.bytes += change.bytes();
        self.changes.push_back((cpl, change));
        self.unordered_count += 1;
        while self.changes.len() > self.keys_max || self.bytes > self.bytes_max {
            self.forget_oldest();
        }
    }

    /// Orders by key what has come since the last time.
    fn order(&mut self) {
        let ordered_count = self.changes.len() - self.unordered_count;
        for (lsn, change) in self.changes.range(ordered_count..) {
            if let Change::Key(key) = change {
                self.last.insert(key.clone(), *lsn);
            }
        }
        self.unordered_count = 0;
    }

    /// No transaction with a read point below `read_point_min` will come any more.
    pub(crate) fn trim(&mut self, read_point_min: Lsn) {
        while self
            .changes
            .front()
            .is_some_and(|(lsn, _)| *lsn <= read_point_min)
        {
            self.forget_oldest();
        }
    }

    /// What the changes remembered take, bytes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Read points below it are too old.
    pub(crate) fn floor(&self) -> Lsn {
        self.floor
    }

    /// How many changes are remembered.
    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    fn forget_oldest(&mut self) {
        let Some((lsn, change)) = self.changes.pop_front() else {
            return;
        };
        self.bytes -= change.bytes();
        self.floor = self.floor.max(lsn);
        let was_ordered = self.changes.len() >= self.unordered_count;
        self.unordered_count = self.unordered_count.min(self.changes.len());
        match change {
            Change::Key(_) if !was_ordered => {}
            Change::Key(key) => {
                if self.last.get(&key) == Some(&lsn) {
                    self.last.remove(&key);
                }
            }
            Change::Range(..) => self.cleared.forget(lsn),
        }
    }

    fn changed_key(&self, keys: &[Bytes], read_point: Lsn) -> Option<Lsn> {
        let last = |key: &Bytes| {
            let put = self.last.get(key).copied();
            put.into_iter().chain(self.cleared.last_at(key)).max()
        };
        keys.iter().filter_map(last).find(|&lsn| lsn > read_point)
    }

    fn changed_range(&self, ranges: &[ReadRange], read_point: Lsn) -> Option<Lsn> {
        if ranges.is_empty() || planted(Mutant::RangesNotValidated) {
            return None;
        }
        let read = Disjoint::of(ranges);
        let mut each = read.bounds();
        let cleared = each.find_map(|bounds| self.cleared.last_within(bounds, read_point));
        if cleared.is_some() {
            return cleared;
        }
        let start = self.changes.partition_point(|(lsn, _)| *lsn <= read_point);
        if self.changes.len() - start <= CHANGES_SCANNED_MAX {
            let mut since = self.changes.range(start..);
            let is_read = |change: &Change| match change {
                Change::Key(key) => read.contains(key),
                Change::Range(..) => false,
            };
            return since
                .find(|(_, change)| is_read(change))
                .map(|(lsn, _)| *lsn);
        }
        read.bounds().find_map(|bounds| {
            let mut keys = self.last.range::<[u8], _>(bounds);
            keys.find(|&(_, &lsn)| lsn > read_point)
                .map(|(_, &lsn)| lsn)
        })
    }
}

impl Change {
    fn bytes(&self) -> usize {
        CHANGE_BYTES
            + match self {
                Change::Key(key) => key.len(),
                // Each bound stands in the steps of the cleared ranges too.
                Change::Range(start, end) => {
                    2 * start.len() + end.as_ref().map_or(0, |end| 2 * end.len())
                }
            }
    }
}

/// Where a range ends: a key, and whether that one is read too; `None` = nowhere.
type End<'r> = Option<(&'r [u8], bool)>;

/// Ranges that were read, sorted, those that meet made one.
struct Disjoint<'r>(Vec<(&'r [u8], End<'r>)>);

impl<'r> Disjoint<'r> {
    fn of(ranges: &'r [ReadRange]) -> Disjoint<'r> {
        let read = ranges.iter().filter(|range| !range.is_empty());
        let mut sorted: Vec<_> = read.map(|range| (&range.start[..], range.end())).collect();
        // Ranges mostly come in ascending order: a stable sort finds the runs.
        sorted.sort_by_key(|(start, _)| *start);
        sorted.dedup_by(|next, joined| {
            let meets = joined.1.is_none_or(|(end, _)| next.0 <= end);
            if meets {
                joined.1 = match (joined.1, next.1) {
                    (Some(one), Some(other)) => Some(one.max(other)),
                    _ => None,
                };
            }
            meets
        });
        Disjoint(sorted)
    }

    fn contains(&self, key: &[u8]) -> bool {
        let behind = self.0.partition_point(|(start, _)| *start <= key);
        let before = behind.checked_sub(1).map(|at| self.0[at]);
        before.is_some_and(|(_, end)| {
            end.is_none_or(|(end, included)| key < end || (included && key == end))
        })
    }

    fn bounds(&self) -> impl Iterator<Item = (Bound<&'r [u8]>, Bound<&'r [u8]>)> {
        self.0.iter().map(|&(start, end)| {
            let end = match end {
                None => Bound::Unbounded,
                Some((end, true)) => Bound::Included(end),
                Some((end, false)) => Bound::Excluded(end),
            };
            (Bound::Included(start), end)
        })
    }
}

impl ReadRange {
    fn is_empty(&self) -> bool {
        let reaches = |end: &Bytes| self.start < *end || (self.end_included && self.start == *end);
        !self.end.as_ref().is_none_or(reaches)
    }

    fn end(&self) -> End<'_> {
        let end = self.end.as_ref()?;
        Some((&end[..], self.end_included))
    }
}
