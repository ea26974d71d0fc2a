//! What the log's user-visible records say: versions of keys with their deadlines, tokens, and what each commit changed.
//!
//! Time is what the clock records say, nothing else (T5). What a commit did is compared with what was asked for, what the
//! database did by itself with what it may do: remove what is expired, forget old tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use sixfold_compute_core::rows::INTERNAL_SPACE;
use sixfold_compute_core::{Change, ChangeValue, KeyWrite, Modify, Token, WriteSet};
use sixfold_kv::Meta;
use sixfold_log_format::{CellFlags, Lsn, Op, PageId, Record, VolumeEpoch};

use super::Held;
use super::truth::{Bad, Commit, Oracle};
use crate::reached::Reached;

/// What a user-visible record did.
#[derive(Debug)]
pub(super) enum Effect {
    /// The value is `None` when it is large: it stands in pages of its own.
    Put {
        key: Bytes,
        value: Option<Bytes>,
        deadline_ms: Option<u64>,
    },
    Remove {
        key: Bytes,
    },
    Clear {
        start: Bytes,
        end: Option<Bytes>,
    },
}

/// A value as it was put.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) value: Bytes,
    deadline_ms: Option<u64>,
}

/// A version of a key.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) lsn: Lsn,
    stored: Option<Stored>,
    /// The sweeper removed what was expired: nobody can see a difference.
    pub(super) swept: bool,
}

/// All keys, and what each commit did to them.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) keys: BTreeMap<Bytes, Vec<Version>>,
    pub(super) effects: Vec<Effect>,
    /// What each commit did to users' keys.
    pub(super) changes: BTreeMap<Lsn, Vec<Change>>,
    /// Commits of each transaction.
    applied: BTreeMap<u64, Vec<Lsn>>,
    /// Entries of the dropped list, and who put the last one there.
    dropped: (u64, VolumeEpoch),
}

impl Model {
    pub(super) fn truncate(&mut self, gone: &impl Fn(&Lsn) -> bool) {
        self.effects.clear();
        self.changes.retain(|lsn, _| !gone(lsn));
        for versions in self.keys.values_mut() {
            while versions.pop_if(|version| gone(&version.lsn)).is_some() {}
        }
        for lsns in self.applied.values_mut() {
            while lsns.pop_if(|lsn| gone(lsn)).is_some() {}
        }
    }

    /// Whether a transaction stands.
    pub(super) fn stands(&self, transaction: u64) -> Option<Lsn> {
        self.applied.get(&transaction)?.last().copied()
    }

    fn latest(&self, key: &[u8]) -> Option<&Stored> {
        self.keys.get(key)?.last()?.stored.as_ref()
    }

    fn push(&mut self, key: Bytes, lsn: Lsn, stored: Option<Stored>, swept: bool) {
        let versions = self.keys.entry(key).or_default();
        versions.pop_if(|version| version.lsn == lsn);
        versions.push(Version { lsn, stored, swept });
    }

    fn clear(&mut self, start: &Bytes, end: Option<&Bytes>, lsn: Lsn) {
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let inside = self
            .keys
            .range_mut::<Bytes, _>((Bound::Included(start), upper));
        for (_, versions) in inside {
            if versions.last().is_some_and(|last| last.stored.is_some()) {
                let stored = None;
                let swept = false;
                versions.push(Version { lsn, stored, swept });
            }
        }
    }
}

impl Oracle {
    /// Notes what a record did that users can see.
    pub(super) fn note_effect(&mut self, record: &Record<'_>) {
        if !record.user_visible {
            return;
        }
        let effect = match &record.op {
            Op::Insert { cell, .. } | Op::Replace { cell, .. } => {
                let is_large = cell.flags.contains(CellFlags::OVERFLOW);
                Effect::Put {
                    key: Bytes::copy_from_slice(&cell.key),
                    value: (!is_large).then(|| Bytes::copy_from_slice(&cell.value)),
                    deadline_ms: cell.deadline_ms,
                }
            }
            Op::Remove { key, .. } => Effect::Remove {
                key: Bytes::copy_from_slice(key),
            },
            Op::DeleteRange { start, end } => Effect::Clear {
                start: Bytes::copy_from_slice(start),
                end: (!end.is_empty()).then(|| Bytes::copy_from_slice(end)),
            },
            _ => return,
        };
        self.model.effects.push(effect);
    }

    /// An MTR has ended.
    pub(super) fn commit(&mut self, cpl: Lsn, volume_epoch: VolumeEpoch) -> Result<(), Bad> {
        let effects = std::mem::take(&mut self.model.effects);
        let transaction = effects.iter().find_map(transaction_of);
        let asked = match transaction {
            None => None,
            Some(id) => {
                let asked = self.asked.get(&id).ok_or_else(|| {
                    format!("commit {cpl} is transaction {id}, which nobody began")
                })?;
                if asked.refused {
                    return Err(format!(
                        "transaction {id} was refused as not committed, and stands at {cpl} (T2)"
                    ));
                }
                let (writes, token) = (std::rc::Rc::clone(&asked.writes), asked.token);
                self.judge_once(id, token, cpl)?;
                Some((writes, token))
            }
        };
        let clears = effects.iter().any(|effect| match effect {
            Effect::Clear { start, .. } => !is_own_row(start),
            _ => false,
        });
        let expired: BTreeMap<Bytes, u64> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Remove { key } => expiry_of(key),
                _ => None,
            })
            .collect();
        let clock_ms = self.stamps.clock_at(cpl);
        let wanted = asked.as_ref().map(|(writes, _)| &**writes);
        let mut put = BTreeSet::new();
        let mut changes = Vec::new();
        for effect in effects {
            if let Effect::Put { key, .. } = &effect {
                put.insert(key.clone());
            }
            let change = self.follow(effect, cpl, clock_ms, wanted, &expired)?;
            changes.extend(change);
        }
        if let Some((writes, token)) = &asked {
            self.judge_whole(cpl, writes, *token, &put)?;
        }
        if !changes.is_empty() {
            self.model.changes.insert(cpl, changes);
        }
        self.look_at_dropped(volume_epoch, clears);
        if let Some(id) = transaction {
            self.model.applied.entry(id).or_default().push(cpl);
        }
        self.commits.insert(cpl, Commit { transaction });
        Ok(())
    }

    /// A transaction is applied once; one with a user's token once while that is remembered (T3).
    fn judge_once(&self, id: u64, token: Option<Token>, cpl: Lsn) -> Result<(), Bad> {
        let Some(before) = self.model.stands(id) else {
            return Ok(());
        };
        if let Some(token @ Token::Given(_)) = token {
            let stored = self.model.latest(&token_row(&token));
            if !is_alive(stored, self.stamps.clock_at(cpl)) {
                return Ok(());
            }
        }
        Err(format!(
            "transaction {id} with token {token:?} was applied at {before}, and again at {cpl} (T3)"
        ))
    }

    fn follow(
        &mut self,
        effect: Effect,
        cpl: Lsn,
        clock_ms: u64,
        wanted: Option<&WriteSet>,
        expired: &BTreeMap<Bytes, u64>,
    ) -> Result<Option<Change>, Bad> {
        match effect {
            Effect::Clear { start, end } => {
                self.model.clear(&start, end.as_ref(), cpl);
                if is_own_row(&start) {
                    return Ok(None);
                }
                let is_wanted = |clears: &Vec<(Bytes, Option<Bytes>)>| {
                    clears
                        .iter()
                        .any(|(one, other)| *one == start && *other == end)
                };
                if !wanted.is_some_and(|writes| is_wanted(&writes.clears)) {
                    return Err(format!(
                        "commit {cpl} clears {start:?}..{end:?}, which nobody asked for"
                    ));
                }
                Ok(Some(Change::DeleteRange { start, end }))
            }
            Effect::Remove { key } => self.removed(key, cpl, clock_ms, wanted, expired),
            Effect::Put {
                key,
                value,
                deadline_ms,
            } => {
                if is_own_row(&key) {
                    if is_token_row(&key) {
                        let value = Bytes::new();
                        let stored = Stored { value, deadline_ms };
                        self.model.push(key, cpl, Some(stored), false);
                    }
                    return Ok(None);
                }
                let word = wanted.and_then(|writes| writes.keys.get(&key));
                let (should, should_deadline_ms) = match word {
                    Some(KeyWrite::Put(value)) => (value.bytes.clone(), value.deadline_ms),
                    Some(KeyWrite::Modify(ops)) => (self.modified(&key, ops, clock_ms, cpl)?, None),
                    Some(KeyWrite::Delete) | None => {
                        return Err(format!("commit {cpl} puts {key:?}, which nobody asked for"));
                    }
                };
                let differs = value.as_ref().is_some_and(|value| *value != should);
                if differs || deadline_ms != should_deadline_ms {
                    return Err(format!(
                        "commit {cpl} puts {value:?} until {deadline_ms:?} at {key:?}, it should put {should:?} until {should_deadline_ms:?}"
                    ));
                }
                let told = match &value {
                    Some(value) => ChangeValue::Inline(value.clone()),
                    None => ChangeValue::Large,
                };
                let stored = Stored {
                    value: should,
                    deadline_ms,
                };
                self.model.push(key.clone(), cpl, Some(stored), false);
                Ok(Some(Change::Put {
                    key,
                    value: told,
                    deadline_ms,
                }))
            }
        }
    }

    fn removed(
        &mut self,
        key: Bytes,
        cpl: Lsn,
        clock_ms: u64,
        wanted: Option<&WriteSet>,
        expired: &BTreeMap<Bytes, u64>,
    ) -> Result<Option<Change>, Bad> {
        let is_own = is_own_row(&key);
        if is_own && !is_token_row(&key) {
            return Ok(None);
        }
        if let Some(&deadline_ms) = expired.get(&key) {
            let held = self.model.latest(&key).map(|stored| stored.deadline_ms);
            if held != Some(Some(deadline_ms)) || deadline_ms > clock_ms {
                return Err(format!(
                    "the sweeper removed {key:?} for deadline {deadline_ms} at {cpl}, when the clock was {clock_ms} and it held {held:?} (T5)"
                ));
            }
            self.reached.hit(Reached::Swept);
            self.model.push(key.clone(), cpl, None, true);
            return Ok((!is_own).then_some(Change::Expired { key }));
        }
        if is_own {
            return Err(format!(
                "commit {cpl} removes token {key:?} that is not expired"
            ));
        }
        let word = wanted.map(|writes| writes.keys.get(&key));
        if !matches!(word, None | Some(Some(KeyWrite::Delete))) {
            return Err(format!(
                "commit {cpl} removes {key:?}, which nobody asked for"
            ));
        }
        self.model.push(key.clone(), cpl, None, false);
        Ok(Some(Change::Delete { key }))
    }

    /// What a number must be after it was modified (T6).
    fn modified(&self, key: &Bytes, ops: &[Modify], clock_ms: u64, cpl: Lsn) -> Result<Bytes, Bad> {
        let stored = self.model.latest(key);
        let held = stored.filter(|_| is_alive(stored, clock_ms));
        let held = held.map(|stored| {
            let bytes = stored.value[..].try_into();
            bytes.map(i64::from_le_bytes)
        });
        let held = held.transpose();
        let held =
            held.map_err(|_| format!("commit {cpl} modified {key:?}, which is no number"))?;
        let after = Modify::apply_all(ops, held)
            .map_err(|error| format!("commit {cpl} modified {key:?}: {error}"))?;
        let after = after.ok_or_else(|| format!("commit {cpl} modified {key:?} by nothing"))?;
        Ok(Bytes::copy_from_slice(&after.to_le_bytes()))
    }

    /// A transaction is there whole.
    fn judge_whole(
        &self,
        cpl: Lsn,
        writes: &WriteSet,
        token: Option<Token>,
        put: &BTreeSet<Bytes>,
    ) -> Result<(), Bad> {
        for (key, write) in &writes.keys {
            let is_there = match write {
                KeyWrite::Put(_) | KeyWrite::Modify(_) => put.contains(key),
                KeyWrite::Delete => self.model.latest(key).is_none(),
            };
            if !is_there {
                return Err(format!("commit {cpl} lacks its write of {key:?}"));
            }
        }
        for (start, end) in &writes.clears {
            let upper = end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut inside = self
                .model
                .keys
                .range::<Bytes, _>((Bound::Included(start), upper));
            let left = inside.find(|(key, versions)| {
                !put.contains(*key) && versions.last().is_some_and(|last| last.stored.is_some())
            });
            if let Some((key, _)) = left {
                return Err(format!("commit {cpl} did not clear {key:?}"));
            }
        }
        if let Some(token) = token
            && !put.contains(&token_row(&token))
        {
            return Err(format!("commit {cpl} lacks its token {token:?}"));
        }
        Ok(())
    }

    /// Subtrees that were dropped, and those that were reclaimed.
    fn look_at_dropped(&mut self, volume_epoch: VolumeEpoch, clears: bool) {
        let meta = self.pages.get(&PageId::META).and_then(|meta| meta.last());
        let Some(Ok(meta)) = meta.map(|(_, page)| Meta::read(page)) else {
            return;
        };
        let (before, by) = self.model.dropped;
        let count = meta.dropped_count;
        if count > before {
            self.model.dropped.1 = volume_epoch;
            if clears {
                self.reached.hit(Reached::ClearDroppedSubtree);
            }
        }
        if count < before && by < volume_epoch {
            self.reached.hit(Reached::ReclaimResumed);
        }
        self.model.dropped.0 = count;
    }

    /// What a key held at a read point: value, commit and deadline; nothing from the clock record on that reaches the deadline (T5).
    pub(crate) fn held(&self, key: &[u8], lsn: Lsn) -> Held {
        let versions = self.model.keys.get(key)?;
        let below = versions.partition_point(|version| version.lsn <= lsn);
        let version = versions.get(below.checked_sub(1)?)?;
        let stored = version.stored.as_ref();
        if stored.is_some_and(|stored| stored.deadline_ms.is_some())
            && !is_alive(stored, self.stamps.clock_at(lsn))
        {
            return None;
        }
        stored.map(|stored| (stored.value.clone(), version.lsn, stored.deadline_ms))
    }

    /// Whether a token is remembered as of the last record.
    pub(super) fn remembers(&self, token: &Token) -> bool {
        is_alive(self.model.latest(&token_row(token)), self.stamps.clock_ms())
    }
}

fn is_alive(stored: Option<&Stored>, clock_ms: u64) -> bool {
    stored.is_some_and(|stored| stored.deadline_ms.is_none_or(|at| at > clock_ms))
}

pub(super) fn is_own_row(key: &[u8]) -> bool {
    key.first() == Some(&INTERNAL_SPACE)
}

fn is_token_row(key: &[u8]) -> bool {
    matches!(key, [INTERNAL_SPACE, b't' | b'u', ..])
}

/// The row of a token, as `rows.rs` of the writer says.
fn token_row(token: &Token) -> Bytes {
    let mut row = vec![INTERNAL_SPACE];
    match token {
        Token::Made { birth, id } => {
            row.push(b't');
            row.extend_from_slice(&birth.get().to_be_bytes());
            row.extend_from_slice(id);
        }
        Token::Given(id) => {
            row.push(b'u');
            row.extend_from_slice(id);
        }
    }
    row.into()
}

/// Key and deadline of a row of the expiry index.
fn expiry_of(row: &Bytes) -> Option<(Bytes, u64)> {
    let deadline = row.strip_prefix(&[INTERNAL_SPACE, b'd'])?.first_chunk()?;
    Some((row.slice(10..), u64::from_be_bytes(*deadline)))
}

/// Whose a change is: tokens hold the number of their transaction, and values begin with it, but for numbers.
fn transaction_of(effect: &Effect) -> Option<u64> {
    let Effect::Put { key, value, .. } = effect else {
        return None;
    };
    let bytes = match &key[..] {
        [INTERNAL_SPACE, b't', ..] => key.get(10..18)?,
        [INTERNAL_SPACE, b'u', ..] => key.get(2..10)?,
        [INTERNAL_SPACE | b'n', ..] => return None,
        _ => value.as_ref()?.get(..8)?,
    };
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
