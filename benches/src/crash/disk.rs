//! A storage node's disk as the suite wants it: full, failing, without power. It is a witness of the node's writes and changes of
//! directories (`sixfold_storage_node::witness`), on real files, and needs no root.
//!
//! A disk with a volatile cache keeps what lay under each write until the write is durable. Without power nothing ends well any more;
//! when the node is gone, [`Disk::lose`] takes back what a device may lose: any subset of the sectors that were not durable, and of the
//! changes of directories all behind some point, as a journal does. What the node has acknowledged was durable before, so that losing it
//! is the node's fault, never the disk's.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sixfold_storage_node::inspect::{Inspection, Verdict};
use sixfold_storage_node::witness::{Change, Witness, WriteNumber};
use sixfold_storage_node_core::IoBuf;

use crate::history::plan::Draw;

/// What a device writes whole.
const SECTOR_BYTES: usize = 512;
/// Longest rest of a write that is laid behind the log of a node that was writing nothing, sectors.
const REST_SECTORS_MAX: u64 = 40;
/// How long helpers of a node that has ended may take to end, too.
const HELPERS_LIMIT: Duration = Duration::from_secs(60);

/// A write that is not durable.
#[derive(Debug)]
struct Write {
    /// The file, whatever its name is by now.
    inode: u64,
    offset: u64,
    /// What lay there.
    before: Vec<u8>,
    /// How long the file was.
    file_bytes: u64,
    is_synced: bool,
    ended: bool,
}

/// A change of a directory that is not durable: how it is taken back.
#[derive(Debug)]
enum Undo {
    /// Deletes what was made.
    Unmake(PathBuf),
    /// Renames: from, to.
    Rename(PathBuf, PathBuf),
    /// Puts back what was deleted: a second name of it, and its own.
    Restore(PathBuf, PathBuf),
}

impl Undo {
    fn directory(&self) -> Option<&Path> {
        match self {
            Undo::Unmake(path) | Undo::Rename(_, path) | Undo::Restore(_, path) => path.parent(),
        }
    }

    fn run(&self) -> io::Result<()> {
        match self {
            Undo::Unmake(path) if path.exists() => fs::remove_file(path),
            // What was told and then not done is not there.
            Undo::Rename(from, to) if from.exists() && !to.exists() => fs::rename(from, to),
            Undo::Restore(grave, path) if !path.exists() => fs::rename(grave, path),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    writes: BTreeMap<WriteNumber, Write>,
    changes: Vec<Undo>,
    numbers: u64,
    is_full: bool,
    is_failing: bool,
    is_cut: bool,
}

/// How a node's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The power went: everything that was not synced may be gone.
    PowerCut,
    /// The process was killed in the middle of a write to its log: nothing else is gone.
    TornTail,
}

/// What was taken back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Sectors.
    pub sectors: usize,
    /// Changes of directories.
    pub changes: usize,
    /// Writes of which a part survived, and rests that were laid behind the log.
    pub torn: usize,
}

/// The disk of one node.
#[derive(Debug)]
pub struct Disk {
    state: Mutex<State>,
    /// Where second names of deleted files are kept; no cache, no graves.
    graves: Option<PathBuf>,
}

impl Disk {
    /// A disk without a volatile cache.
    pub fn new() -> Arc<Disk> {
        Arc::new(Disk {
            state: Mutex::default(),
            graves: None,
        })
    }

    /// One with such a cache. `graves` is an empty directory on the file system of the node's data.
    pub fn with_cache(graves: &Path) -> Arc<Disk> {
        Arc::new(Disk {
            state: Mutex::default(),
            graves: Some(graves.to_owned()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No file can be made any more, or again.
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// Every write fails from now on.
    pub fn fail(&self) {
        self.state().is_failing = true;
    }

    /// The power goes: nothing ends well any more.
    pub fn cut(&self) {
        self.state().is_cut = true;
    }

    /// Takes back what was not durable. The node has ended.
    ///
    /// # Errors
    /// When somebody still works in the directory, or a file cannot be changed.
    pub fn lose(&self, directory: &Path, end: End, seed: u64) -> Result<Lost> {
        until_free(directory)?;
        let state = std::mem::take(&mut *self.state());
        let mut draw = Draw::new(seed);
        let mut lost = Lost::default();
        let files = files_of(directory)?;
        for write in state.writes.values().rev() {
            let is_tail = write.is_synced && !write.ended;
            if end == End::TornTail && !is_tail {
                continue;
            }
            // A file that was deleted meanwhile may come back below.
            let Some(path) = files.get(&write.inode) else {
                continue;
            };
            lose_sectors(write, path, end, &mut draw, &mut lost)
                .with_context(|| format!("cannot change {}", path.display()))?;
        }
        if end == End::PowerCut {
            let kept = usize::try_from(draw.below(state.changes.len() as u64 + 1))?;
            for undo in state.changes[kept..].iter().rev() {
                undo.run().with_context(|| format!("cannot do {undo:?}"))?;
                lost.changes += 1;
            }
        } else if lost.torn == 0 {
            lost.torn += usize::from(lay_rest(directory, &mut draw)?);
        }
        if let Some(graves) = &self.graves {
            for entry in fs::read_dir(graves)? {
                fs::remove_file(entry?.path())?;
            }
        }
        Ok(lost)
    }
}

/// Takes back sectors of one write: all, none, those behind an edge, or any.
fn lose_sectors(
    write: &Write,
    path: &Path,
    end: End,
    draw: &mut Draw,
    lost: &mut Lost,
) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let sectors = write.before.len() / SECTOR_BYTES;
    // A torn write is there in part.
    let shape = match end {
        End::PowerCut => draw.below(4),
        End::TornTail => 2 + draw.below(2),
    };
    let edge = draw.below(sectors as u64 + 1);
    let mut gone = 0;
    for (sector, old) in write.before.chunks_exact(SECTOR_BYTES).enumerate() {
        let survives = match shape {
            0 => false,
            1 => true,
            2 => (sector as u64) < edge,
            _ => draw.one_in(2),
        };
        if !survives {
            let at = write.offset + (sector * SECTOR_BYTES) as u64;
            file.write_all_at(old, at)?;
            gone += 1;
        }
    }
    lost.sectors += gone;
    lost.torn += usize::from(gone > 0 && gone < sectors);
    if shape == 0 && write.file_bytes < file.metadata()?.len() {
        file.set_len(write.file_bytes.max(write.offset))?;
    }
    Ok(())
}

/// Lays sectors of a write behind the log that did not come to its end: its first part, or parts of it.
fn lay_rest(directory: &Path, draw: &mut Draw) -> Result<bool> {
    let found = Inspection::of(directory)?;
    let last = found.files.iter().rev().find(|file| file.group_count > 0);
    let (Some(last), Verdict::Clean) = (last, &found.verdict) else {
        // It ends in a torn write already.
        return Ok(false);
    };
    let (path, used) = (hot_log_file(directory, last.number.0), last.used_bytes);
    drop(found);
    let file = OpenOptions::new().write(true).read(true).open(&path)?;
    let room = file.metadata()?.len().saturating_sub(used) / SECTOR_BYTES as u64;
    let count = draw.below(REST_SECTORS_MAX.min(room) + 1);
    // The bytes of the last group once more: they look most like what belongs there.
    let like_before = draw.one_in(2);
    for sector in 0..count {
        if draw.one_in(4) {
            continue;
        }
        let at = used + sector * SECTOR_BYTES as u64;
        let mut bytes = [0; SECTOR_BYTES];
        let back = at.checked_sub(count * SECTOR_BYTES as u64);
        match back.filter(|_| like_before) {
            Some(back) => file.read_exact_at(&mut bytes, back)?,
            None => bytes.fill_with(|| u8::try_from(draw.below(256)).unwrap_or_default()),
        }
        file.write_all_at(&bytes, at)?;
    }
    Ok(count > 0)
}

fn hot_log_file(directory: &Path, number: u64) -> PathBuf {
    directory.join("hot-log").join(format!("{number:016x}.log"))
}

/// Every file of a data directory by its inode.
fn files_of(directory: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut files = BTreeMap::new();
    for name in ["hot-log", "layers", "damaged"] {
        let entries = match fs::read_dir(directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            files.insert(fs::metadata(&path)?.ino(), path);
        }
    }
    Ok(files)
}

/// Waits until no helper of a node works in a directory any more.
fn until_free(directory: &Path) -> Result<()> {
    let path = directory.join("LOCK");
    let lock = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        lock => lock.with_context(|| format!("cannot open {}", path.display()))?,
    };
    let until = Instant::now() + HELPERS_LIMIT;
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= until {
            bail!("somebody still works in {}", directory.display());
        }
        // Only how soon it is noticed depends on this.
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// What lies under a write. A file ends where it ends: behind it there are zeros.
fn bytes_under(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut under = IoBuf::zeroed(length);
    let mut done = 0;
    while done < length {
        match file.read_at(&mut under.as_mut()[done..], offset + done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(under.as_ref().to_vec())
}

impl Witness for Disk {
    fn write_begins(&self, file: &File, offset: u64, bytes: usize, is_synced: bool) -> WriteNumber {
        let write = self.graves.as_ref().and_then(|_| {
            let metadata = file.metadata().ok()?;
            Some(Write {
                inode: metadata.ino(),
                offset,
                before: bytes_under(file, offset, bytes).ok()?,
                file_bytes: metadata.len(),
                is_synced,
                ended: false,
            })
        });
        let mut state = self.state();
        // A write that cannot be taken back must not end well.
        state.is_failing |= self.graves.is_some() && write.is_none();
        state.numbers += 1;
        let number = state.numbers;
        state.writes.extend(write.map(|write| (number, write)));
        number
    }

    fn write_ended(&self, number: WriteNumber) -> bool {
        let mut state = self.state();
        if state.is_cut || state.is_failing {
            return false;
        }
        let is_durable = match state.writes.get_mut(&number) {
            Some(write) => {
                write.ended = true;
                write.is_synced
            }
            None => false,
        };
        if is_durable {
            state.writes.remove(&number);
        }
        true
    }

    fn file_synced(&self, path: &Path) -> io::Result<()> {
        let inode = fs::metadata(path)?.ino();
        let mut state = self.state();
        if state.is_cut {
            return Err(Errno::IO.into());
        }
        state
            .writes
            .retain(|_, write| write.inode != inode || !write.ended);
        Ok(())
    }

    fn changes(&self, change: Change<'_>) -> io::Result<()> {
        let mut state = self.state();
        if state.is_cut || state.is_failing {
            return Err(Errno::IO.into());
        }
        if state.is_full && !matches!(change, Change::Delete(_)) {
            return Err(Errno::NOSPC.into());
        }
        let Some(graves) = &self.graves else {
            return Ok(());
        };
        let undo = match change {
            Change::Make(path) => Undo::Unmake(path.to_owned()),
            Change::Rename(from, to) => Undo::Rename(to.to_owned(), from.to_owned()),
            Change::Delete(path) => {
                state.numbers += 1;
                let grave = graves.join(state.numbers.to_string());
                match fs::hard_link(path, &grave) {
                    Ok(()) => Undo::Restore(grave, path.to_owned()),
                    // It was never made.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        };
        state.changes.push(undo);
        Ok(())
    }

    fn directory_synced(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.is_cut {
            return Err(Errno::IO.into());
        }
        let (durable, left) = std::mem::take(&mut state.changes)
            .into_iter()
            .partition(|undo| undo.directory() == Some(path));
        state.changes = left;
        drop(state);
        let durable: Vec<Undo> = durable;
        for undo in durable {
            // Nobody will want it back.
            if let Undo::Restore(grave, _) = undo {
                fs::remove_file(grave)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod disk_tests;
