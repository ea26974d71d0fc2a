//! The batches that a segment holds and the chain of valid records through them.
//!
//! A batch is *pending* from when it was accepted until its write is durable; only durable batches count. The SCL is the
//! last LSN of the gap-free chain of valid records, followed by back-links from [`Lsn::NONE`], under the history held. Records
//! are never removed: annulment is a filter (R5), since a history may be replaced as a whole by a higher one.

use std::collections::BTreeMap;

use bytes::Bytes;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Batch, History, Lsn, VolumeEpoch};

use crate::hot_log::Place;

/// A batch of a segment, by the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BatchId(pub(crate) u32);

/// What makes two batches the same (R13).
pub(crate) type Identity = (Lsn, VolumeEpoch, u32);

/// A batch that is held.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    pub(crate) prev: Lsn,
    pub(crate) volume_epoch: VolumeEpoch,
    pub(crate) checksum: u32,
    pub(crate) bytes: u32,
    runs: Box<[(Lsn, Lsn)]>,
    /// Where its entry lies; `None` while it is pending.
    pub(crate) place: Option<Place>,
    /// Its bytes, while memory allows.
    pub(crate) resident: Option<Batch>,
}

/// What to do with a batch that arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is new.
    New,
    /// It is held already, maybe not yet durable.
    Duplicate,
    /// All of it was annulled.
    Annulled,
    /// Other bytes are held at an LSN of it (R13).
    Conflict {
        /// The LSN.
        lsn: Lsn,
    },
}

/// The batches of one segment.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    held: Vec<Held>,
    by_first: BTreeMap<Identity, BatchId>,
    scl: Lsn,
    highest: Lsn,
    redo_bytes: u64,
}

impl Held {
    pub(crate) fn identity(&self) -> Identity {
        (self.first, self.volume_epoch, self.checksum)
    }

    /// Highest LSN of it at or below `at_most` that `history` does not annul.
    fn last_valid(&self, at_most: Lsn, history: &History) -> Option<Lsn> {
        let mut at_most = at_most;
        'below: loop {
            for (start, end) in self.runs.iter().rev() {
                if *start > at_most {
                    continue;
                }
                let last = end
                    .checked_minus(1)
                    .expect("runs are not empty")
                    .min(at_most);
                let Some(range) = history.range_of(last) else {
                    return Some(last);
                };
                at_most = range.after;
                continue 'below;
            }
            return None;
        }
    }
}

/// The lowest LSN that both runs hold and `history` does not annul. Linear in the runs, which a peer chose.
fn common_valid(one: &[(Lsn, Lsn)], other: &[(Lsn, Lsn)], history: &History) -> Option<Lsn> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    while let (Some((one_start, one_end)), Some((other_start, other_end))) =
        (one.peek(), other.peek())
    {
        let mut at = *one_start.max(other_start);
        let end = *one_end.min(other_end);
        while at < end {
            match history.range_of(at) {
                None => return Some(at),
                Some(range) => at = range.through.next(),
            }
        }
        if one_end <= other_end {
            one.next();
        } else {
            other.next();
        }
    }
    None
}

impl Chain {
    /// Segment complete LSN under the history of the last [`Chain::advance`] or [`Chain::rewind`].
    pub(crate) fn scl(&self) -> Lsn {
        self.scl
    }

    /// The highest LSN held durably, behind holes too.
    pub(crate) fn highest(&self) -> Lsn {
        self.highest
    }

    /// Bytes of batches held durably.
    pub(crate) fn redo_bytes(&self) -> u64 {
        self.redo_bytes
    }

    pub(crate) fn get(&self, id: BatchId) -> &Held {
        &self.held[id.0 as usize]
    }

    /// Judges a batch that arrives.
    pub(crate) fn judge(&self, batch: &Batch, history: &History) -> Arrival {
        let header = batch.header();
        if self
            .by_first
            .contains_key(&(header.first, header.volume_epoch, header.checksum))
        {
            return Arrival::Duplicate;
        }
        if wholly_annulled(&header.runs, history) {
            return Arrival::Annulled;
        }
        let last_key = (header.last, VolumeEpoch::new(u64::MAX), u32::MAX);
        for id in self.by_first.range(..=last_key).rev().map(|(_, id)| *id) {
            let held = self.get(id);
            if let Some(lsn) = common_valid(&header.runs, &held.runs, history) {
                return Arrival::Conflict { lsn };
            }
            // Valid batches do not interleave, so nothing below a valid one reaches up here.
            if held.last < header.first && held.last_valid(Lsn::MAX, history).is_some() {
                break;
            }
        }
        Arrival::New
    }

    /// Takes a new batch, pending.
    ///
    /// # Panics
    /// When it is held already.
    pub(crate) fn insert(&mut self, batch: Batch) -> BatchId {
        let header = batch.header();
        let id = BatchId(u32::try_from(self.held.len()).expect("batches are counted in 32 bits"));
        let held = Held {
            first: header.first,
            last: header.last,
            prev: header.prev,
            volume_epoch: header.volume_epoch,
            checksum: header.checksum,
            bytes: u32::try_from(batch.bytes().len()).expect("batches are bounded"),
            runs: header.runs.clone().into_boxed_slice(),
            place: None,
            resident: Some(batch),
        };
        let before = self.by_first.insert(held.identity(), id);
        assert!(before.is_none(), "a batch is held once (R13)");
        self.held.push(held);
        id
    }

    /// The batch of this identity.
    pub(crate) fn find(&self, identity: &Identity) -> Option<BatchId> {
        self.by_first.get(identity).copied()
    }

    /// A pending batch became durable.
    pub(crate) fn set_durable(&mut self, id: BatchId, place: Place) {
        let held = &mut self.held[id.0 as usize];
        assert!(held.place.is_none(), "a batch becomes durable once");
        held.place = Some(place);
        self.highest = self.highest.max(held.last);
        self.redo_bytes += u64::from(held.bytes);
    }

    /// Takes a batch's bytes out for a while.
    pub(crate) fn take_resident(&mut self, id: BatchId) -> Option<Batch> {
        self.held[id.0 as usize].resident.take()
    }

    /// Puts them back.
    pub(crate) fn put_resident(&mut self, id: BatchId, batch: Batch) {
        self.held[id.0 as usize].resident = Some(batch);
    }

    /// Forgets the bytes of a durable batch; its place stays. Returns how many bytes that were.
    pub(crate) fn evict(&mut self, id: BatchId) -> usize {
        let held = &mut self.held[id.0 as usize];
        assert!(
            held.place.is_some(),
            "only what is on disk may leave memory"
        );
        held.resident.take().map_or(0, |batch| batch.bytes().len())
    }

    /// Follows the chain as far as durable batches go.
    pub(crate) fn advance(&mut self, history: &History) {
        let mut from = self.scl.next();
        loop {
            let key = (from, VolumeEpoch::new(0), 0);
            let Some((_, id)) = self.by_first.range(key..).next() else {
                return;
            };
            let held = self.get(*id);
            if let Some(range) = history.range_of(held.first) {
                // New LSNs start above every annulled range, so nothing valid begins inside one (R1).
                from = range.through.next();
                continue;
            }
            let durable = held.place.is_some() || planted(Mutant::AckBeforeSync);
            let linked = held.prev == self.scl || planted(Mutant::SclPastAHole);
            if !durable || !linked {
                return;
            }
            let Some(last) = held.last_valid(Lsn::MAX, history) else {
                return;
            };
            assert!(
                last > self.scl,
                "an SCL only moves forward under one history"
            );
            self.scl = last;
            from = last.next();
        }
    }

    /// Recomputes the SCL when `old` is replaced by `new`: up to where they first differ all stays as it was (R5).
    pub(crate) fn rewind(&mut self, old: &History, new: &History) {
        let same = old
            .ranges
            .iter()
            .zip(&new.ranges)
            .take_while(|(one, other)| one.after == other.after && one.through == other.through)
            .count();
        let differ_after = [old.ranges.get(same), new.ranges.get(same)]
            .into_iter()
            .flatten()
            .map(|range| range.after)
            .min();
        if let Some(after) = differ_after
            && after < self.scl
        {
            self.scl = self.last_valid(after, new);
        }
        self.advance(new);
    }

    /// Highest durable valid LSN at or below `at_most`.
    pub(crate) fn last_valid(&self, at_most: Lsn, history: &History) -> Lsn {
        let key = (at_most, VolumeEpoch::new(u64::MAX), u32::MAX);
        self.by_first
            .range(..=key)
            .rev()
            .map(|(_, id)| self.get(*id))
            .filter(|held| held.place.is_some())
            .find_map(|held| held.last_valid(at_most, history))
            .unwrap_or(Lsn::NONE)
    }

    /// Durable batches with a valid record, that hold any LSN of `(after, through]`, in LSN order, until they make
    /// `bytes_max` bytes (at least one). The flag says whether more would follow.
    pub(crate) fn range(
        &self,
        after: Lsn,
        through: Lsn,
        bytes_max: usize,
        history: &History,
    ) -> (Vec<BatchId>, bool) {
        let mut found = Vec::new();
        let mut bytes = 0;
        if through <= after {
            return (found, false);
        }
        let below = (after, VolumeEpoch::new(u64::MAX), u32::MAX);
        let mut start = (after, VolumeEpoch::new(u64::MAX), u32::MAX);
        for (identity, id) in self.by_first.range(..=below).rev() {
            let held = self.get(*id);
            if held.last > after {
                start = *identity;
            } else if held.last_valid(Lsn::MAX, history).is_some() {
                break;
            }
        }
        for id in self.by_first.range(start..).map(|(_, id)| *id) {
            let held = self.get(id);
            if held.first > through {
                break;
            }
            let inside = held.runs.iter().any(|(run_start, run_end)| {
                *run_start <= through && run_end.get() - 1 > after.get()
            });
            if !inside || held.place.is_none() || wholly_annulled(&held.runs, history) {
                continue;
            }
            bytes += held.bytes as usize;
            if bytes > bytes_max && !found.is_empty() {
                return (found, true);
            }
            found.push(id);
        }
        (found, false)
    }

    /// The bytes of a batch, while they are in memory.
    pub(crate) fn resident_bytes(&self, id: BatchId) -> Option<Bytes> {
        self.get(id)
            .resident
            .as_ref()
            .map(|batch| batch.bytes().clone())
    }
}

/// Whether `history` annuls every LSN of these runs.
fn wholly_annulled(runs: &[(Lsn, Lsn)], history: &History) -> bool {
    common_valid(runs, runs, history).is_none()
}
