//! What clients were told: every read at its read point, every commit against what it had read, the order in real time.

use std::ops::Bound;

use bytes::Bytes;
use sixfold_compute_core::{CommitError, KeyWrite, ReadRange, Token, WriteSet};
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

/// What a transaction read, as far as its commit was to be validated against it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reads<'a> {
    pub(crate) read_point: Lsn,
    pub(crate) gets: &'a [GetSeen],
    pub(crate) ranges: &'a [ReadRange],
    /// The earliest deadline of what it saw alive.
    pub(crate) earliest_deadline_ms: Option<u64>,
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
            .model
            .keys
            .range::<Bytes, _>(bounds)
            .filter_map(|(key, _)| {
                let (value, stamp, _) = self.held(key, read_point)?;
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

    /// A commit is asked for, once more if it has a token.
    pub(crate) fn asks(&mut self, transaction: u64, writes: &WriteSet, token: Option<Token>) {
        let asked = self.asked.entry(transaction).or_insert_with(|| Asked {
            writes: std::rc::Rc::new(writes.clone()),
            token,
            open_count: 0,
            refused: false,
            unknown: false,
            answered_at: None,
        });
        asked.open_count += 1;
        asked.refused = false;
    }

    /// The writer died, or was never heard again.
    pub(crate) fn left_unknown(&mut self, transaction: u64) {
        if let Some(asked) = self.asked.get_mut(&transaction) {
            asked.open_count -= 1;
            asked.unknown = true;
        }
    }

    /// A commit was answered with an error.
    pub(crate) fn refused(&mut self, transaction: u64, error: &CommitError) -> Result<(), Bad> {
        if matches!(error, CommitError::Unknown { .. }) {
            self.left_unknown(transaction);
            return Ok(());
        }
        let stands = self.model.stands(transaction);
        let Some(asked) = self.asked.get_mut(&transaction) else {
            return Ok(());
        };
        asked.open_count -= 1;
        let token = asked.token;
        let is_over = asked.open_count == 0 && !asked.unknown && asked.answered_at.is_none();
        asked.refused = is_over;
        let Some(lsn) = stands else {
            return Ok(());
        };
        let conflicts = matches!(
            error,
            CommitError::Conflict { .. } | CommitError::TooOld { .. }
        );
        if is_over || conflicts && token.is_some_and(|token| self.remembers(&token)) {
            return Err(format!(
                "transaction {transaction} was answered with \"{error}\" and stands at {lsn} (T2, T3)"
            ));
        }
        Ok(())
    }

    /// A commit was answered. `reads`: `None` when this try was not to be validated.
    pub(crate) fn answered(
        &mut self,
        volume_epoch: VolumeEpoch,
        transaction: u64,
        lsn: Lsn,
        reads: Option<Reads<'_>>,
    ) -> Result<(), Bad> {
        self.check_fenced(volume_epoch, lsn, "answered")?;
        let asked = self.asked.get_mut(&transaction).ok_or("answered twice")?;
        asked.open_count -= 1;
        let earlier = asked.answered_at.replace(lsn);
        let (writes, token) = (std::rc::Rc::clone(&asked.writes), asked.token);
        if let (Some(earlier), Some(Token::Made { .. })) = (earlier, token)
            && earlier != lsn
        {
            return Err(format!(
                "transaction {transaction} was answered at {earlier}, and then at {lsn} (T3)"
            ));
        }
        let stands = self.commits.get(&lsn);
        let own = stands.is_some_and(|commit| commit.transaction == Some(transaction));
        let is_delete = |write: &KeyWrite| matches!(write, KeyWrite::Delete);
        let deletes_only = writes.clears.is_empty() && writes.keys.values().all(is_delete);
        if !own && (token.is_some() || !deletes_only) {
            return Err(format!(
                "transaction {transaction} was answered at {lsn}, where it does not stand"
            ));
        }
        // What it wrote was looked at when it was shipped, if it can be told whose it is.
        if !own && let Some(key) = writes.keys.keys().find(|key| self.held(key, lsn).is_some()) {
            return Err(format!(
                "transaction {transaction} was answered at {lsn} without its write of {key:?}"
            ));
        }
        if let Some(reads) = reads {
            self.serial(transaction, lsn, own, reads)?;
        }
        if volume_epoch < self.newest() {
            self.reached.hit(Reached::AnsweredAfterTheFence);
        }
        if own {
            self.answered.insert(lsn, transaction);
        }
        self.floor = self.floor.max(lsn);
        Ok(())
    }

    /// At its place in the order nothing that it read had changed.
    fn serial(&self, transaction: u64, lsn: Lsn, own: bool, reads: Reads<'_>) -> Result<(), Bad> {
        let read_point = reads.read_point;
        let before = lsn.checked_minus(1).unwrap_or(Lsn::NONE);
        let before = if own { before } else { lsn };
        for seen in reads.gets {
            self.unchanged(&seen.key, read_point, before, transaction)?;
        }
        for range in reads.ranges {
            let upper = match &range.end {
                Some(end) if range.end_included => Bound::Included(end),
                Some(end) => Bound::Excluded(end),
                None => Bound::Unbounded,
            };
            let bounds = (Bound::Included(&range.start), upper);
            for (key, _) in self.model.keys.range::<Bytes, _>(bounds) {
                self.unchanged(key, read_point, before, transaction)?;
            }
        }
        let clock_ms = self.stamps.clock_at(lsn);
        match reads.earliest_deadline_ms {
            Some(deadline_ms) if deadline_ms <= clock_ms => Err(format!(
                "transaction {transaction} relied on what expires at {deadline_ms}, and was committed at {lsn}, when the clock was {clock_ms} (T5)"
            )),
            _ => Ok(()),
        }
    }

    fn unchanged(
        &self,
        key: &Bytes,
        read_point: Lsn,
        through: Lsn,
        transaction: u64,
    ) -> Result<(), Bad> {
        let Some(versions) = self.model.keys.get(key) else {
            return Ok(());
        };
        let next = versions.partition_point(|version| version.lsn <= read_point);
        let changed = versions[next..].iter().find(|version| !version.swept);
        match changed.map(|version| version.lsn) {
            Some(at) if at <= through => Err(format!(
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

fn told(held: &Held) -> String {
    match held {
        None => "nothing".to_owned(),
        Some((value, stamp, _)) => {
            let number = value
                .get(..8)
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u64::from_le_bytes);
            format!("the value of transaction {number}, put at {stamp}")
        }
    }
}
