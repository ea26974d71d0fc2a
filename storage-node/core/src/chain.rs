//! The batches that a segment holds and the chain of valid records through them.
//!
//! A batch is *pending* from when it was accepted until its write is durable; only durable batches count. The SCL is the
//! last LSN of the gap-free chain of valid records, followed by back-links from the *base*, under the history held. Annulment is
//! a filter (R5), since a history may be replaced as a whole by a higher one.
//!
//! The base is where the layers end: everything valid at or below it is in them, and nothing there can be annulled any more
//! (R11). Batches below it stay until their file of the hot log goes; above the *log start* the log is whole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use sixfold_log_format::hot_log::FileNumber;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Batch, History, Lsn, VolumeEpoch};

use crate::hot_log::Place;

/// A batch of a segment, by the order of arrival. Numbers wrap: far fewer than 2^32 are held at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct BatchId(pub(crate) u32);

/// What a batch that is held takes in memory beside its bytes, about: its place in the list, in the order of LSNs, and its runs.
const HELD_BYTES: usize = size_of::<Option<Held>>() + size_of::<(Identity, BatchId)>() * 3 / 2 + 32;

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
    /// Stamp of its writer.
    pub(crate) unix_ms: u64,
    runs: Box<[(Lsn, Lsn)]>,
    /// Where its entry lies; `None` while it is pending.
    pub(crate) place: Option<Place>,
    /// Its bytes, while memory allows.
    pub(crate) resident: Option<Batch>,
    /// It was written again, behind batches that came later.
    moved: bool,
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
    /// Batches by number, from `front` on; `None` for one that went with its file.
    held: VecDeque<Option<Held>>,
    front: BatchId,
    by_first: BTreeMap<Identity, BatchId>,
    /// Those of which what is on disk was damaged when it was read last.
    bad: BTreeSet<Identity>,
    scl: Lsn,
    base: Lsn,
    log_start: Lsn,
    highest: Lsn,
    /// Batches that arrived before this one are folded, or gone.
    folded_before: BatchId,
}

impl Held {
    fn of(batch: &Batch) -> Held {
        let header = batch.header();
        Held {
            first: header.first,
            last: header.last,
            prev: header.prev,
            volume_epoch: header.volume_epoch,
            checksum: header.checksum,
            bytes: u32::try_from(batch.bytes().len()).expect("batches are bounded"),
            unix_ms: header.unix_ms,
            runs: header.runs.clone().into_boxed_slice(),
            place: None,
            resident: None,
            moved: false,
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        (self.first, self.volume_epoch, self.checksum)
    }

    /// Highest LSN of it at or below `at_most` that `history` does not annul.
    pub(crate) fn last_valid(&self, at_most: Lsn, history: &History) -> Option<Lsn> {
        last_valid_of(&self.runs, at_most, history)
    }
}

/// Highest LSN of these runs at or below `at_most` that `history` does not annul.
fn last_valid_of(runs: &[(Lsn, Lsn)], at_most: Lsn, history: &History) -> Option<Lsn> {
    let mut at_most = at_most;
    'below: loop {
        for (start, end) in runs.iter().rev() {
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

    /// Every valid record above it, up to the SCL, is in a batch that is held.
    pub(crate) fn log_start(&self) -> Lsn {
        self.log_start
    }

    fn slot(&self, id: BatchId) -> usize {
        id.0.wrapping_sub(self.front.0) as usize
    }

    /// Bytes of memory that it takes beside the batches' own bytes, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.by_first.len() * HELD_BYTES
    }

    /// The batch, unless it went with its file.
    pub(crate) fn find_held(&self, id: BatchId) -> Option<&Held> {
        self.held.get(self.slot(id))?.as_ref()
    }

    /// # Panics
    /// When it went with its file.
    pub(crate) fn get(&self, id: BatchId) -> &Held {
        self.find_held(id).expect("the batch is held")
    }

    fn get_mut(&mut self, id: BatchId) -> &mut Held {
        let slot = self.slot(id);
        let held = self.held.get_mut(slot).and_then(Option::as_mut);
        held.expect("the batch is held")
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
        if header.first <= self.base {
            // Layers end between two valid batches: this one is in them, or two writers used its LSNs.
            // Or they end inside it: a history that is not held any more annulled its tail, which is valid again.
            let last = last_valid_of(&header.runs, Lsn::MAX, history);
            let holds_base = last_valid_of(&header.runs, self.base, history) == Some(self.base);
            match last {
                Some(last) if last > self.base && !holds_base => {
                    return Arrival::Conflict { lsn: header.first };
                }
                Some(last) if last > self.base => {}
                _ => return Arrival::Duplicate,
            }
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
        let count = u32::try_from(self.held.len()).expect("far fewer are held");
        let id = BatchId(self.front.0.wrapping_add(count));
        let mut held = Held::of(&batch);
        held.resident = Some(batch);
        let before = self.by_first.insert(held.identity(), id);
        assert!(before.is_none(), "a batch is held once (R13)");
        self.held.push_back(Some(held));
        id
    }

    /// Takes a durable batch of a file before all others, that is in the layers already; one that was written again since, or
    /// reaches above the layers, is passed over. The log starts where it did until [`Chain::lower_log_start`].
    pub(crate) fn insert_older(&mut self, batch: &Batch, place: Place) {
        let held = Held {
            place: Some(place),
            ..Held::of(batch)
        };
        if held.last > self.base || self.by_first.contains_key(&held.identity()) {
            return;
        }
        self.front = BatchId(self.front.0.wrapping_sub(1));
        self.by_first.insert(held.identity(), self.front);
        self.held.push_front(Some(held));
    }

    /// The oldest file with a batch that is needed beside the layers, as `is_folded` says; `None` when there is none. What was folded
    /// stays so, and is not looked at again.
    pub(crate) fn first_needed(&mut self, is_folded: impl Fn(&Held) -> bool) -> Option<FileNumber> {
        let mut slot = self.slot(self.folded_before);
        assert!(slot <= self.held.len(), "what is held begins behind it");
        while let Some(held) = self.held.get(slot)
            && held
                .as_ref()
                .is_none_or(|held| held.place.is_some() && is_folded(held))
        {
            slot += 1;
        }
        let passed = u32::try_from(slot).expect("far fewer are held");
        self.folded_before = BatchId(self.front.0.wrapping_add(passed));
        // Arrival is the order of files, but for the few that were written again: those lie behind what came after them.
        let mut needed: Option<FileNumber> = None;
        for held in self.held.range(slot..).flatten() {
            let Some(place) = held.place else { break };
            if held.moved && is_folded(held) {
                continue;
            }
            needed = Some(needed.map_or(place.file, |file| file.min(place.file)));
            if !held.moved {
                break;
            }
        }
        needed
    }

    /// The batch of this identity.
    pub(crate) fn find(&self, identity: &Identity) -> Option<BatchId> {
        self.by_first.get(identity).copied()
    }

    /// A pending batch became durable.
    pub(crate) fn set_durable(&mut self, id: BatchId, place: Place) {
        let held = self.get_mut(id);
        assert!(held.place.is_none(), "a batch becomes durable once");
        held.place = Some(place);
        let last = held.last;
        self.highest = self.highest.max(last);
    }

    /// A batch that is durable was written again: that copy counts from now on.
    pub(crate) fn set_moved(&mut self, id: BatchId, place: Place) {
        let slot = self.slot(id);
        if let Some(held) = self.held.get_mut(slot).and_then(Option::as_mut) {
            held.place = Some(place);
            held.moved = true;
            let identity = held.identity();
            self.bad.remove(&identity);
        }
    }

    /// What is on disk of a batch is damaged.
    pub(crate) fn set_bad(&mut self, id: BatchId) {
        if let Some(held) = self.find_held(id) {
            let identity = held.identity();
            self.bad.insert(identity);
        }
    }

    /// Whether what is on disk of a batch is damaged.
    pub(crate) fn is_bad(&self, held: &Held) -> bool {
        !self.bad.is_empty() && self.bad.contains(&held.identity())
    }

    /// The first batch that is damaged on disk and not below the base.
    pub(crate) fn first_bad(&self) -> Option<(BatchId, &Held)> {
        let id = self.by_first[self.bad.first()?];
        Some((id, self.get(id)))
    }

    /// Batches whose only copy lies in this file or an earlier one, by number.
    pub(crate) fn in_file(&self, file: FileNumber) -> impl Iterator<Item = (BatchId, &Held)> {
        let numbered = self.held.iter().zip(0_u32..);
        // Arrival is the order of files, but for the few that were written again.
        numbered
            .filter_map(|(held, at)| {
                let id = BatchId(self.front.0.wrapping_add(at));
                held.as_ref().map(|held| (id, held))
            })
            .take_while(move |(_, held)| {
                let is_in = held.place.is_some_and(|place| place.file <= file);
                is_in || held.moved
            })
            .filter(move |(_, held)| held.place.is_some_and(|place| place.file <= file))
    }

    /// Every durable batch from this one on, or from the place where it was, in LSN order.
    pub(crate) fn durable_from(&self, from: Identity) -> impl Iterator<Item = (Identity, BatchId)> {
        let ids = self.by_first.range(from..).map(|(held, id)| (*held, *id));
        ids.filter(|(_, id)| self.get(*id).place.is_some())
    }

    /// Forgets a batch. Whoever asks for the log at or below it hears that it is forgotten. Its number is given to no other one,
    /// not even to an older batch that is read after it: somebody may hold on to it yet.
    pub(crate) fn forget(&mut self, id: BatchId, history: &History) {
        let slot = self.slot(id);
        let Some(held) = self.held.get_mut(slot).and_then(Option::take) else {
            return;
        };
        self.by_first.remove(&held.identity());
        self.bad.remove(&held.identity());
        if let Some(last) = held.last_valid(Lsn::MAX, history) {
            self.log_start = self.log_start.max(last);
        }
    }

    /// The oldest file is gone with all that it held: no batch before those that are left will be read any more.
    pub(crate) fn forget_front(&mut self) {
        while let Some(None) = self.held.front() {
            self.held.pop_front();
            if self.folded_before == self.front {
                self.folded_before = BatchId(self.front.0.wrapping_add(1));
            }
            self.front = BatchId(self.front.0.wrapping_add(1));
        }
    }

    /// Forgets a pending batch that will not be written. Its number is not used again. Returns its length.
    ///
    /// # Panics
    /// When it is durable, or gone.
    pub(crate) fn give_up(&mut self, id: BatchId) -> usize {
        let slot = self.slot(id);
        let held = self.held.get_mut(slot).and_then(Option::take);
        let held = held.expect("a pending batch is held");
        assert!(held.place.is_none(), "what is durable stays");
        self.by_first.remove(&held.identity());
        held.resident.map_or(0, |batch| batch.len_bytes())
    }

    /// Layers hold everything up to `base` now.
    pub(crate) fn raise_base(&mut self, base: Lsn, history: &History) {
        self.base = self.base.max(base);
        if self.scl < self.base {
            // The log has a hole up to here, if it has anything.
            self.scl = self.base;
            self.log_start = self.base;
        }
        self.highest = self.highest.max(self.base);
        self.advance(history);
    }

    /// After a start: how far down the log is whole, by back-links from the SCL.
    pub(crate) fn find_log_start(&mut self, history: &History) {
        let mut start = self.scl;
        let mut ids = self.by_first.values().rev();
        while let Some(held) = ids.next().map(|id| self.get(*id)) {
            if held.last_valid(Lsn::MAX, history) == Some(start) && held.prev < start {
                start = held.prev;
            }
        }
        self.log_start = start;
    }

    /// Older batches were added: how far down the log is whole now.
    pub(crate) fn lower_log_start(&mut self, history: &History) {
        let mut start = self.log_start;
        let below = (start, VolumeEpoch::new(u64::MAX), u32::MAX);
        for (_, id) in self.by_first.range(..=below).rev() {
            let held = self.get(*id);
            match held.last_valid(Lsn::MAX, history) {
                Some(last) if last == start && held.prev < start => start = held.prev,
                // Valid batches do not interleave: one is missing.
                Some(last) if last < start => break,
                _ => {}
            }
        }
        self.log_start = start;
    }

    /// Bytes of durable batches above the base that are not annulled.
    pub(crate) fn unfolded_bytes(&self, history: &History) -> u64 {
        let start = (self.base.next(), VolumeEpoch::new(0), 0);
        let above = self.by_first.range(start..).map(|(_, id)| self.get(*id));
        above
            .filter(|held| held.place.is_some() && !wholly_annulled(&held.runs, history))
            .map(|held| u64::from(held.bytes))
            .sum()
    }

    /// The batches of the chain above the base, in LSN order, while what is valid of them lies at or below `limit` and until they
    /// make about `bytes_max` bytes; and the last valid LSN of the last one. One with an annulled tail is taken when it lies at or
    /// below `settled`: else a higher history may bring the tail back, above where layers end that hold half of it.
    pub(crate) fn foldable(
        &self,
        (limit, settled): (Lsn, Lsn),
        bytes_max: u64,
        history: &History,
    ) -> (Vec<BatchId>, Lsn) {
        let (mut found, mut through, mut bytes) = (Vec::new(), self.base, 0);
        while through < self.scl {
            let Some((id, last)) = self.next_of(through, history) else {
                break;
            };
            let held = self.get(id);
            bytes += u64::from(held.bytes);
            let may_grow = held.last != last && held.last > settled;
            if last > limit || may_grow || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            found.push(id);
            through = last;
        }
        (found, through)
    }

    /// The durable batch that follows `tip` in the chain, with its last valid LSN.
    fn next_of(&self, tip: Lsn, history: &History) -> Option<(BatchId, Lsn)> {
        if let Some(found) = self.rest_of(tip, history) {
            return Some(found);
        }
        let mut from = tip.next();
        loop {
            let key = (from, VolumeEpoch::new(0), 0);
            let (_, id) = self.by_first.range(key..).next()?;
            let held = self.get(*id);
            if held.first <= history.floor && self.base < history.floor {
                // Which of these were annulled is forgotten: the layers of a peer know (R11).
                from = history.floor.next();
                continue;
            }
            if let Some(range) = history.range_of(held.first) {
                // New LSNs start above every annulled range, so nothing valid begins inside one (R1).
                from = range.through.next();
                continue;
            }
            let durable = held.place.is_some() || planted(Mutant::AckBeforeSync);
            let linked = held.prev == tip || planted(Mutant::SclPastAHole);
            if !durable || !linked {
                return None;
            }
            return Some((*id, held.last_valid(Lsn::MAX, history)?));
        }
    }

    /// The durable batch that holds `tip` and is valid above it, with its last valid LSN: an earlier history annulled its tail, and the
    /// one in force does not.
    fn rest_of(&self, tip: Lsn, history: &History) -> Option<(BatchId, Lsn)> {
        let key = (tip, VolumeEpoch::new(u64::MAX), u32::MAX);
        for id in self.by_first.range(..=key).rev().map(|(_, id)| *id) {
            let held = self.get(id);
            if held.last <= tip {
                if held.last == tip || held.last_valid(tip, history).is_some() {
                    // Valid batches do not interleave: nothing below this one reaches above it.
                    return None;
                }
                continue;
            }
            let Some(below) = held.last_valid(tip, history) else {
                continue;
            };
            let last = held.last_valid(Lsn::MAX, history)?;
            let grows = below == tip && last > tip && held.place.is_some();
            return grows.then_some((id, last));
        }
        None
    }

    /// Takes a batch's bytes out for a while.
    pub(crate) fn take_resident(&mut self, id: BatchId) -> Option<Batch> {
        self.get_mut(id).resident.take()
    }

    /// Puts them back.
    pub(crate) fn put_resident(&mut self, id: BatchId, batch: Batch) {
        self.get_mut(id).resident = Some(batch);
    }

    /// Forgets the bytes of a durable batch; its place stays. Returns how many bytes that were.
    pub(crate) fn evict(&mut self, id: BatchId) -> usize {
        let slot = self.slot(id);
        let Some(held) = self.held.get_mut(slot).and_then(Option::as_mut) else {
            return 0;
        };
        assert!(
            held.place.is_some(),
            "only what is on disk may leave memory"
        );
        held.resident.take().map_or(0, |batch| batch.bytes().len())
    }

    /// Follows the chain as far as durable batches go.
    pub(crate) fn advance(&mut self, history: &History) {
        while let Some((_, last)) = self.next_of(self.scl, history) {
            assert!(
                last > self.scl,
                "an SCL only moves forward under one history"
            );
            self.scl = last;
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
            // Below the base nothing is annulled, whatever ranges were folded away (R11).
            self.scl = self.last_valid(after, new).max(self.base);
        }
        if new.floor > old.floor && new.floor > self.base {
            // Ranges that this segment may never have heard of were folded away: only its layers are sure.
            self.scl = self.base;
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
            .max(self.base.min(at_most))
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

#[cfg(test)]
#[path = "chain_tests.rs"]
mod chain_tests;
