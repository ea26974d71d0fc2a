//! What clients were told: every read at its read point, every commit against what it had read, the order in real time.

use std::ops::Bound;

use bytes::Bytes;
use sixfold_compute_core::{CommitError, KeyWrite, ReadRange, WriteSet, WriteValue};
use sixfold_log_format::{Lsn, VolumeEpoch};

use super::Held;
use super::truth::{Asked, Bad, Oracle};
use crate::reached::Reached;

/// A key that was looked up.
#[derive(Debug, Clone)]
pub(crate) struct GetSeen {
    pub(crate) key: Bytes,
    pub(crate) held: Held,
}

/// A range that was scanned.
#[derive(Debug, Clone)]
pub(crate) struct RangeSeen {
    pub(crate) lower: Bytes,
    pub(crate) upper: Bytes,
    pub(crate) reverse: bool,
    pub(crate) limit: usize,
    pub(crate) items: Vec<(Bytes, Bytes, Lsn)>,
}

impl Oracle {
    /// A current transaction began: it sees everything that was shown before.
    pub(crate) fn began(&self, read_point: Lsn, floor: Lsn) -> Result<(), Bad> {
        if read_point < floor {
            return Err(format!(
                "stale: a transaction began with read point {read_point}, after {floor} was shown (T1)"
            ));
        }
        Ok(())
    }

    /// A lookup ended.
    pub(crate) fn got(&self, read_point: Lsn, seen: &GetSeen) -> Result<(), Bad> {
        let wanted = self.held(&seen.key, read_point);
        if wanted != seen.held {
            return Err(format!(
                "wrong read of {:?} at {read_point}: {}, it is {}",
                seen.key,
                told(&seen.held),
                told(&wanted)
            ));
        }
        Ok(())
    }

    /// A scan ended.
    pub(crate) fn scanned(&self, read_point: Lsn, seen: &RangeSeen) -> Result<(), Bad> {
        let bounds = (Bound::Included(&seen.lower), Bound::Excluded(&seen.upper));
        let mut wanted: Vec<(Bytes, Bytes, Lsn)> = self
            .keys
            .range::<Bytes, _>(bounds)
            .filter_map(|(key, _)| {
                let (value, stamp) = self.held(key, read_point)?;
                Some((key.clone(), value, stamp))
            })
            .collect();
        if seen.reverse {
            wanted.reverse();
        }
        wanted.truncate(seen.limit);
        if wanted != seen.items {
            let differ = wanted
                .iter()
                .zip(&seen.items)
                .find(|(one, other)| one != other);
            return Err(format!(
                "wrong scan of {:?}..{:?} at {read_point}: {} items, there are {}; first difference {:?}",
                seen.lower,
                seen.upper,
                seen.items.len(),
                wanted.len(),
                differ.map(|(one, other)| (&one.0, one.2, &other.0, other.2))
            ));
        }
        Ok(())
    }

    /// A commit is asked for.
    pub(crate) fn asks(&mut self, transaction: u64, writes: &WriteSet) {
        let asked = Asked {
            writes: writes.clone(),
            refused: false,
            unknown: false,
        };
        self.asked.insert(transaction, asked);
    }

    /// The writer died, or was never heard again.
    pub(crate) fn left_unknown(&mut self, transaction: u64) {
        if let Some(asked) = self.asked.get_mut(&transaction) {
            asked.unknown = true;
        }
    }

    /// A commit was answered with an error.
    pub(crate) fn refused(&mut self, transaction: u64, error: &CommitError) -> Result<(), Bad> {
        if matches!(error, CommitError::Unknown { .. }) {
            self.left_unknown(transaction);
            return Ok(());
        }
        if let Some((lsn, _)) = self
            .commits
            .iter()
            .find(|(_, commit)| commit.transaction == Some(transaction))
        {
            return Err(format!(
                "transaction {transaction} was answered with \"{error}\" and stands at {lsn} (T2)"
            ));
        }
        if let Some(asked) = self.asked.get_mut(&transaction) {
            asked.refused = true;
        }
        Ok(())
    }

    /// A commit was answered.
    pub(crate) fn answered(
        &mut self,
        volume_epoch: VolumeEpoch,
        transaction: u64,
        read_point: Lsn,
        lsn: Lsn,
        reads: (&[GetSeen], &[ReadRange]),
    ) -> Result<(), Bad> {
        self.check_fenced(volume_epoch, lsn, "answered")?;
        let asked = self.asked.get(&transaction).ok_or("answered twice")?;
        let stands = self.commits.get(&lsn);
        let own = stands.is_some_and(|commit| commit.transaction == Some(transaction));
        let puts = asked
            .writes
            .keys
            .values()
            .any(|write| put_of(write).is_some());
        if puts && !own {
            return Err(format!(
                "transaction {transaction} was answered at {lsn}, where it does not stand"
            ));
        }
        for (key, write) in &asked.writes.keys {
            let wanted = put_of(write).map(|value| value.bytes.clone());
            if self.held(key, lsn).map(|(value, _)| value) != wanted {
                return Err(format!(
                    "transaction {transaction} was answered at {lsn} without its write of {key:?}"
                ));
            }
        }
        // At its place in the order nothing that it read had changed.
        let before = lsn.checked_minus(1).unwrap_or(Lsn::NONE);
        let before = if own { before } else { lsn };
        for seen in reads.0 {
            self.unchanged(&seen.key, read_point, before, transaction)?;
        }
        for range in reads.1 {
            let upper = match &range.end {
                Some(end) if range.end_included => Bound::Included(end),
                Some(end) => Bound::Excluded(end),
                None => Bound::Unbounded,
            };
            for (key, _) in self
                .keys
                .range::<Bytes, _>((Bound::Included(&range.start), upper))
            {
                self.unchanged(key, read_point, before, transaction)?;
            }
        }
        if volume_epoch < self.newest() {
            self.reached.hit(Reached::AnsweredAfterTheFence);
        }
        if puts {
            self.answered.insert(lsn, transaction);
        }
        self.floor = self.floor.max(lsn);
        Ok(())
    }

    fn unchanged(
        &self,
        key: &Bytes,
        read_point: Lsn,
        through: Lsn,
        transaction: u64,
    ) -> Result<(), Bad> {
        let Some(versions) = self.keys.get(key) else {
            return Ok(());
        };
        let next = versions.partition_point(|(at, _)| *at <= read_point);
        match versions.get(next) {
            Some((at, _)) if *at <= through => Err(format!(
                "not serializable: transaction {transaction} read {key:?} at {read_point}, it changed at {at}, and committed behind that"
            )),
            _ => Ok(()),
        }
    }

    /// A current transaction that only read has ended.
    pub(crate) fn read_only(&mut self, read_point: Lsn) {
        self.floor = self.floor.max(read_point);
    }
}

/// What a write puts, if it puts anything.
pub(super) fn put_of(write: &KeyWrite) -> Option<&WriteValue> {
    match write {
        KeyWrite::Put(value) => Some(value),
        KeyWrite::Delete | KeyWrite::Modify(_) => None,
    }
}

fn told(held: &Held) -> String {
    match held {
        None => "nothing".to_owned(),
        Some((value, stamp)) => {
            let number = value
                .get(..8)
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u64::from_le_bytes);
            format!("the value of transaction {number}, put at {stamp}")
        }
    }
}
