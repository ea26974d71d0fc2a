//! Simulated layer files: writes that a power cut may take back until they are synced.
//!
//! An unsynced write survives a loss of power as any subset of its sectors; a file that was never synced may be gone
//! altogether. A process that dies loses only what was in flight. Only the forgetful disk of a run lies about a sync, writes a
//! layer to a wrong place, or lets one rot: checksums must find it, and a peer's layers heal it.

use std::collections::BTreeMap;

use sixfold_log_format::SegmentId;
use sixfold_log_format::layer::LayerNumber;
use sixfold_storage_node_core::DiskToken;

use crate::disk::SECTOR_BYTES;
use crate::rng::Rng;

pub(crate) type LayerKey = (SegmentId, LayerNumber);

/// A layer's file.
#[derive(Debug, Default)]
pub(crate) struct LayerFile {
    /// As a reader sees it.
    pub(crate) bytes: Vec<u8>,
    /// What lies under writes that are not synced, oldest first: offset, what was there.
    undo: Vec<(usize, Vec<u8>)>,
    /// Its directory entry is durable.
    entry_synced: bool,
    /// It was called durable and is not.
    claimed: bool,
}

#[derive(Debug)]
enum Pending {
    Write(LayerKey, usize, Vec<u8>),
    Sync(LayerKey),
}

/// What ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing of a layer.
    OfTheLog,
    Write,
    Sync,
    Failed,
}

/// The layer files of a disk.
#[derive(Debug, Default)]
pub(crate) struct LayerDisk {
    pub(crate) files: BTreeMap<LayerKey, LayerFile>,
    pending: BTreeMap<DiskToken, Pending>,
    /// Syncs do nothing.
    pub(crate) lies: bool,
    /// What was called durable is damaged or gone.
    harmed: bool,
}

impl LayerDisk {
    pub(crate) fn write(&mut self, token: DiskToken, key: LayerKey, offset: usize, bytes: Vec<u8>) {
        self.pending
            .insert(token, Pending::Write(key, offset, bytes));
    }

    pub(crate) fn sync(&mut self, token: DiskToken, key: LayerKey) {
        self.pending.insert(token, Pending::Sync(key));
    }

    pub(crate) fn delete(&mut self, key: LayerKey) {
        self.files.remove(&key);
    }

    /// Whether an operation with this token is in flight.
    pub(crate) fn has(&self, token: DiskToken) -> bool {
        self.pending.contains_key(&token)
    }

    /// An operation ended.
    pub(crate) fn end(&mut self, token: DiskToken, is_ok: bool) -> Ended {
        match self.pending.remove(&token) {
            None => return Ended::OfTheLog,
            Some(_) if !is_ok => {}
            Some(Pending::Write(key, offset, bytes)) => {
                self.put(key, offset, &bytes);
                return Ended::Write;
            }
            Some(Pending::Sync(key)) => {
                if let Some(file) = self.files.get_mut(&key) {
                    if self.lies {
                        file.claimed = true;
                    } else {
                        file.undo.clear();
                        file.entry_synced = true;
                    }
                }
                return Ended::Sync;
            }
        }
        Ended::Failed
    }

    /// The next write in flight goes to some other layer in place of its own, if there are both; whether there were.
    pub(crate) fn misdirect(&mut self, token: DiskToken, rng: &mut Rng) -> bool {
        let Some(Pending::Write(own, _, bytes)) = self.pending.get(&token) else {
            return false;
        };
        let others = self
            .files
            .iter()
            .filter(|(key, file)| *key != own && file.bytes.len() >= bytes.len());
        let others: Vec<LayerKey> = others.map(|(key, _)| *key).collect();
        let Some(&other) = others.get(rng.index(others.len().max(1))) else {
            return false;
        };
        let (own, bytes) = (*own, bytes.clone());
        let file = self.files.get_mut(&other).expect("listed just now");
        let room = (file.bytes.len() - bytes.len()) / SECTOR_BYTES;
        let at = rng.index(room + 1) * SECTOR_BYTES;
        file.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
        // Its own place stays as it was.
        let zeros = vec![0; bytes.len()];
        let offset = match self.pending.remove(&token) {
            Some(Pending::Write(_, offset, _)) => offset,
            _ => unreachable!("looked at just now"),
        };
        self.pending
            .insert(token, Pending::Write(own, offset, zeros));
        self.harmed = true;
        true
    }

    /// Whether something that was called durable was harmed since this was asked last.
    pub(crate) fn take_harmed(&mut self) -> bool {
        std::mem::take(&mut self.harmed)
    }

    /// The lying cache was written out.
    pub(crate) fn settle(&mut self) {
        self.lies = false;
        for file in self.files.values_mut().filter(|file| file.claimed) {
            file.undo.clear();
            file.entry_synced = true;
            file.claimed = false;
        }
    }

    /// Files of one segment.
    pub(crate) fn count_of(&self, segment: SegmentId) -> usize {
        let (first, last) = (LayerNumber(0), LayerNumber(u64::MAX));
        self.files.range((segment, first)..=(segment, last)).count()
    }

    fn put(&mut self, key: LayerKey, offset: usize, bytes: &[u8]) {
        let file = self.files.entry(key).or_default();
        let end = offset + bytes.len();
        if file.bytes.len() < end {
            file.bytes.resize(end, 0);
        }
        let target = &mut file.bytes[offset..end];
        file.undo.push((offset, target.to_vec()));
        target.copy_from_slice(bytes);
    }

    /// What is left after a crash.
    pub(crate) fn crash(&mut self, power: bool, rng: &mut Rng) {
        for (_, pending) in std::mem::take(&mut self.pending) {
            if let Pending::Write(key, offset, bytes) = pending
                && rng.chance(1, 2)
            {
                let cut = rng.index(bytes.len() / SECTOR_BYTES + 1) * SECTOR_BYTES;
                self.put(key, offset, &bytes[..cut]);
            }
        }
        if !power {
            return;
        }
        self.harmed |= self.files.values().any(|file| file.claimed);
        self.files
            .retain(|_, file| file.entry_synced || rng.chance(1, 2));
        for file in self.files.values_mut() {
            file.claimed = false;
            for (offset, before) in std::mem::take(&mut file.undo).into_iter().rev() {
                for (sector, old) in before.chunks(SECTOR_BYTES).enumerate() {
                    if rng.chance(1, 2) {
                        let at = offset + sector * SECTOR_BYTES;
                        file.bytes[at..at + old.len()].copy_from_slice(old);
                    }
                }
            }
            file.entry_synced = true;
        }
    }

    /// Bytes as they are.
    pub(crate) fn read(&self, key: LayerKey, offset: usize, bytes: usize) -> Option<Vec<u8>> {
        let file = &self.files.get(&key)?.bytes;
        let end = (offset + bytes).min(file.len());
        Some(file.get(offset..end)?.to_vec())
    }

    /// Flips a bit of some layer; where.
    pub(crate) fn rot(&mut self, rng: &mut Rng) -> Option<(LayerKey, usize)> {
        let keys: Vec<LayerKey> = self
            .files
            .iter()
            .filter(|(_, file)| !file.bytes.is_empty())
            .map(|(key, _)| *key)
            .collect();
        let key = *keys.get(rng.index(keys.len().max(1)))?;
        let bytes = &mut self.files.get_mut(&key)?.bytes;
        let at = rng.index(bytes.len());
        bytes[at] ^= 1 << rng.below(8);
        self.harmed = true;
        Some((key, at))
    }
}
