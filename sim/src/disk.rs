//! A simulated disk: writes that the core calls durable when they complete, and what a crash, a bad disk or a lying one makes
//! of them.
//!
//! A write in flight at a crash survives as any subset of its sectors. Only the one *forgetful* disk of a run may lose
//! what it called durable (lost syncs, misdirected writes, rot at rest): that is the budget of R12.

use std::collections::BTreeMap;

use bytes::Bytes;
use sixfold_storage_node_core::{DiskToken, FileName};

use crate::rng::Rng;

/// A sector survives whole or not at all.
pub(crate) const SECTOR_BYTES: usize = 512;

/// A write in flight.
#[derive(Debug)]
pub(crate) struct PendingWrite {
    pub(crate) token: DiskToken,
    pub(crate) file: u64,
    pub(crate) offset: usize,
    pub(crate) bytes: Vec<u8>,
}

/// A disk and its files.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<u64, Vec<u8>>,
    pub(crate) pending: Option<PendingWrite>,
    /// The files of layers.
    pub(crate) layers: crate::layers::LayerDisk,
    /// No file can be made.
    pub(crate) full: bool,
    /// Latency is this many times the usual one.
    pub(crate) slow: u64,
    pub(crate) fail_next_write: bool,
    /// Reads of a thousand that go wrong in transit.
    pub(crate) misreads: u64,
    /// Writes are acknowledged and stay in a cache that a crash loses.
    pub(crate) lies: bool,
    /// The next write goes to a wrong place.
    pub(crate) misdirect_next_write: bool,
    /// The next write goes exactly over an earlier one of its length.
    pub(crate) overwrite_next: bool,
    /// What lies under unsynced writes: newest last.
    undo: Vec<(u64, usize, Vec<u8>)>,
    /// What was written, by file and offset: whether it is still as it was.
    written: BTreeMap<(u64, usize), Written>,
    /// Something that was called durable is gone without a trace.
    forgot: bool,
}

/// A place that was written.
#[derive(Debug, Clone, Copy)]
struct Written {
    end: usize,
    sound: bool,
    /// Zeros prove nothing about what stands before them.
    is_zeros: bool,
}

impl Disk {
    /// An empty one.
    pub(crate) fn new() -> Disk {
        Disk {
            files: BTreeMap::new(),
            pending: None,
            layers: crate::layers::LayerDisk::default(),
            full: false,
            slow: 1,
            fail_next_write: false,
            misreads: 0,
            lies: false,
            misdirect_next_write: false,
            overwrite_next: false,
            undo: Vec::new(),
            written: BTreeMap::new(),
            forgot: false,
        }
    }

    /// The write in flight ended well. Whether it went over an earlier one.
    pub(crate) fn complete(&mut self, rng: &mut Rng) -> bool {
        let Some(write) = self.pending.take() else {
            return false;
        };
        let mut offset = write.offset;
        let over = self.overwrites(&write);
        let Some(file) = self.files.get_mut(&write.file) else {
            return false;
        };
        let mut misdirected = std::mem::take(&mut self.misdirect_next_write);
        if misdirected {
            let room = (file.len() - write.bytes.len()) / SECTOR_BYTES;
            offset = rng.index(room + 1) * SECTOR_BYTES;
        } else if let Some(at) = over {
            (offset, misdirected, self.overwrite_next) = (at, true, false);
        }
        let target = &mut file[offset..offset + write.bytes.len()];
        if self.lies {
            self.undo.push((write.file, offset, target.to_vec()));
        }
        target.copy_from_slice(&write.bytes);
        if misdirected {
            self.damage(write.file, offset, offset + write.bytes.len());
        }
        self.note_written(&write, !misdirected);
        misdirected && over.is_some()
    }

    /// The place of an earlier write of the same length in the same file, with something sound between the two.
    fn overwrites(&self, write: &PendingWrite) -> Option<usize> {
        if !self.overwrite_next || write.offset == 0 {
            return None;
        }
        let sound = |written: &Written| written.sound && !written.is_zeros;
        let places = self
            .written
            .range((write.file, 1)..(write.file, write.offset));
        let mut earlier = places.rev().filter(|(_, written)| sound(written)).skip(1);
        let length = |start: usize, written: &Written| written.end - start;
        let fits =
            earlier.find(|((_, start), written)| length(*start, written) == write.bytes.len());
        fits.map(|((_, start), _)| *start)
    }

    fn note_written(&mut self, write: &PendingWrite, sound: bool) {
        let (start, end) = (write.offset, write.offset + write.bytes.len());
        let under = self.written.range((write.file, 0)..(write.file, end));
        let under: Vec<(u64, usize)> = under
            .filter(|(_, before)| before.end > start)
            .map(|(place, _)| *place)
            .collect();
        for place in under {
            self.written.remove(&place);
        }
        let written = Written {
            end,
            sound,
            is_zeros: write.bytes.iter().all(|byte| *byte == 0),
        };
        self.written.insert((write.file, start), written);
    }

    /// Its process has noticed that something durable is damaged, and says so.
    pub(crate) fn noticed_damage(&mut self) {
        self.forgot = true;
    }

    /// A file becomes another one with the bytes that it has; its first block is zeroed. What was written to it in its earlier life is
    /// nobody's any more: it lies behind the tail and must never be read as anything.
    pub(crate) fn recycle(&mut self, from: u64, to: u64, block_bytes: usize) {
        let Some(mut bytes) = self.files.remove(&from) else {
            return;
        };
        bytes[..block_bytes].fill(0);
        self.written.retain(|(of, _), _| *of != from);
        self.undo.retain(|(of, _, _)| *of != from);
        let before = self.files.insert(to, bytes);
        assert!(before.is_none(), "a number is given once");
    }

    /// A file is deleted.
    pub(crate) fn delete(&mut self, file: u64) {
        self.files.remove(&file);
        self.written.retain(|(of, _), _| *of != file);
    }

    /// What lies in `[start, end)` of a file is no longer what was written.
    fn damage(&mut self, file: u64, start: usize, end: usize) {
        let touched = self.written.range_mut((file, 0)..(file, end));
        for (_, written) in touched.filter(|(_, written)| written.end > start) {
            written.sound = false;
        }
    }

    /// Whether a start may come back without something that was promised: what was lost left no trace, or nothing sound stands
    /// behind it, so that it looks like a torn tail (R12). Damage before something sound must be noticed.
    pub(crate) fn may_forget(&mut self) -> bool {
        // Of several damaged places the last one decides: there may be something sound between them.
        let mut damaged = self.written.iter().rev();
        let damaged = damaged.find(|(_, written)| !written.sound);
        if let Some((place, _)) = damaged {
            let behind = self.written.range(place..);
            let proof = |written: &Written| written.sound && !written.is_zeros;
            self.forgot |= !behind.into_iter().any(|(_, written)| proof(written));
        }
        self.forgot
    }

    /// The machine lost power, or the process died: what is left of the write in flight.
    pub(crate) fn crash(&mut self, power: bool, rng: &mut Rng) {
        self.layers.crash(power, rng);
        if let Some(write) = self.pending.take()
            && let Some(file) = self.files.get_mut(&write.file)
        {
            let shape = rng.below(4);
            let sectors = write.bytes.len() / SECTOR_BYTES;
            let cut = rng.index(sectors + 1);
            for sector in 0..sectors {
                let survives = match shape {
                    0 => false,
                    1 => true,
                    2 => sector < cut,
                    _ => rng.chance(1, 2),
                };
                if survives {
                    let at = sector * SECTOR_BYTES;
                    file[write.offset + at..write.offset + at + SECTOR_BYTES]
                        .copy_from_slice(&write.bytes[at..at + SECTOR_BYTES]);
                }
            }
        }
        let undo = std::mem::take(&mut self.undo);
        if power {
            self.forgot |= !undo.is_empty();
            for (number, offset, before) in undo.into_iter().rev() {
                if let Some(file) = self.files.get_mut(&number) {
                    file[offset..offset + before.len()].copy_from_slice(&before);
                }
            }
        } else {
            self.undo = undo;
        }
    }

    /// The lying cache was written out.
    pub(crate) fn settle(&mut self) {
        self.layers.settle();
        self.lies = false;
        self.undo.clear();
    }

    /// A part of the lying cache was written out, the oldest first; not all of it.
    pub(crate) fn settle_some(&mut self, rng: &mut Rng) {
        let count = rng.index(self.undo.len().max(1));
        self.undo.drain(..count);
    }

    /// Bytes of any file as they are.
    pub(crate) fn read_file(&self, file: FileName, offset: usize, bytes: usize) -> Option<Vec<u8>> {
        match file {
            FileName::HotLog(file) => self.read(file.0, offset, bytes),
            FileName::Layer(segment, layer) => self.layers.read((segment, layer), offset, bytes),
        }
    }

    /// Bytes as they are.
    pub(crate) fn read(&self, file: u64, offset: usize, bytes: usize) -> Option<Vec<u8>> {
        let file = self.files.get(&file)?;
        let end = (offset + bytes).min(file.len());
        Some(file.get(offset..end)?.to_vec())
    }

    /// Bytes as a bad cable brings them: a flipped bit, something stale, somebody else's sectors, or nothing.
    pub(crate) fn misread(
        &self,
        file: FileName,
        offset: usize,
        bytes: usize,
        rng: &mut Rng,
    ) -> Option<Bytes> {
        let mut read = self.read_file(file, offset, bytes)?;
        if read.is_empty() {
            return None;
        }
        match rng.below(4) {
            0 => {
                let at = rng.index(read.len());
                read[at] ^= 1 << rng.below(8);
            }
            1 => read.fill(0),
            2 => {
                let from = self.elsewhere(file, rng);
                let sectors = self.length_of(from)? / SECTOR_BYTES;
                let elsewhere = rng.index(sectors.max(1)) * SECTOR_BYTES;
                let at = if from == file { elsewhere } else { offset };
                let mut other = self.read_file(from, at, read.len())?;
                other.resize(read.len(), 0);
                read = other;
            }
            _ => return None,
        }
        Some(Bytes::from(read))
    }

    /// Where a misdirected read goes: the same place of another layer, or somewhere in this file.
    fn elsewhere(&self, file: FileName, rng: &mut Rng) -> FileName {
        if let FileName::Layer(..) = file
            && rng.chance(1, 2)
        {
            let others: Vec<_> = self.layers.files.keys().copied().collect();
            if let Some((segment, layer)) = others.get(rng.index(others.len().max(1))) {
                return FileName::Layer(*segment, *layer);
            }
        }
        file
    }

    fn length_of(&self, file: FileName) -> Option<usize> {
        match file {
            FileName::HotLog(file) => self.files.get(&file.0).map(Vec::len),
            FileName::Layer(segment, layer) => {
                let file = self.layers.files.get(&(segment, layer));
                file.map(|file| file.bytes.len())
            }
        }
    }

    /// Flips a bit of something that was written; where.
    pub(crate) fn rot(&mut self, rng: &mut Rng) -> Option<(u64, usize)> {
        // Not where the last byte is: behind the tail of a recycled file lies what nobody will miss.
        let mut used: BTreeMap<u64, usize> = BTreeMap::new();
        for ((number, _), written) in self.written.iter().filter(|(_, w)| !w.is_zeros) {
            let end = used.entry(*number).or_default();
            *end = written.end.max(*end);
        }
        let used: Vec<(u64, usize)> = used.into_iter().collect();
        let &(number, end) = used.get(rng.index(used.len().max(1)))?;
        // The newest is what hurts most.
        let at = if rng.chance(1, 2) {
            end - 1 - rng.index(end.min(2_048))
        } else {
            rng.index(end)
        };
        self.files.get_mut(&number)?[at] ^= 1 << rng.below(8);
        self.damage(number, at, at + 1);
        Some((number, at))
    }
}
