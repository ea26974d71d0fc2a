//! Simulated layer files: writes that a power cut may take back until they are synced.
//!
//! An unsynced write survives a loss of power as any subset of its sectors; a file that was never synced may be gone
//! altogether. A process that dies loses only what was in flight.

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
}

#[derive(Debug)]
enum Pending {
    Write(LayerKey, usize, Vec<u8>),
    Sync(LayerKey),
}

/// The layer files of a disk.
#[derive(Debug, Default)]
pub(crate) struct LayerDisk {
    pub(crate) files: BTreeMap<LayerKey, LayerFile>,
    pending: BTreeMap<DiskToken, Pending>,
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

    /// An operation ended; false when it is none of a layer.
    pub(crate) fn end(&mut self, token: DiskToken, is_ok: bool) -> bool {
        match self.pending.remove(&token) {
            None => return false,
            Some(_) if !is_ok => {}
            Some(Pending::Write(key, offset, bytes)) => self.put(key, offset, &bytes),
            Some(Pending::Sync(key)) => {
                if let Some(file) = self.files.get_mut(&key) {
                    file.undo.clear();
                    file.entry_synced = true;
                }
            }
        }
        true
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
        self.files
            .retain(|_, file| file.entry_synced || rng.chance(1, 2));
        for file in self.files.values_mut() {
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
        Some((key, at))
    }
}
