//! The hot log's files: which are open, how a new one is prepared, how large the device's blocks are.
//!
//! A file is prepared on a helper thread: created under a temporary name, preallocated, written with zeros, synced, renamed,
//! its directory synced. Appending to it then changes no file-system metadata, so that a synced write is one write.
//! Where something is written is the core's decision; the ring does it.
//!
//! A file that nobody needs any more becomes the next one as it is: its first block is zeroed and synced, then it is renamed and the
//! directory synced. That costs one block where a new file costs all of its bytes once more. Its description stays open, and
//! with it the lock.
//!
//! Each file is locked (`flock`) through the very description that is written through. A write that the kernel still has on
//! its way when a process is killed holds a reference to that description, and the lock goes with the last one: whoever has
//! the lock knows that nothing from an earlier life will land in the file any more, over what was acknowledged since.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{
    CWD, FallocateFlags, FlockOperation, OFlags, RenameFlags, fallocate, flock, major, minor,
    renameat_with,
};
use rustix::io::Errno;
use sixfold_log_format::hot_log::{FileNumber, Superblock};
use sixfold_storage_node_core::{DiskError, IoBuf};

use crate::directory::{Directory, file_path, list_hot_log, temporary_path};
use crate::error::NodeError;
use crate::uring::disk_error;
use crate::witness::{Change, Told};

/// What is written with zeros at once when a file is prepared and nothing else is going on.
const ZERO_BYTES: usize = 1 << 20;
/// The same when the hot log is in use: an append waits behind one such write at most.
const PACED_ZERO_BYTES: usize = 256 << 10;
/// The block unit where the device does not say.
const BLOCK_BYTES_DEFAULT: u32 = 4096;
/// How often a paced preparation looks whether it may go on.
const PAUSE: Duration = Duration::from_millis(5);
/// How fast a paced preparation goes in an idle node, bytes a millisecond.
const TRICKLE_BYTES_PER_MS: u64 = 4 << 10;

/// How often a locked file is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How long a start waits for writes of an earlier process.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// The open files of the hot log.
#[derive(Debug)]
pub(crate) struct Device {
    directory: Directory,
    block_bytes: u32,
    file_bytes: u64,
    files: BTreeMap<FileNumber, Rc<File>>,
    /// How far the newest file is filled; 0 until this process writes to it.
    filled_bytes: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    told: Told,
}

impl Device {
    /// Opens every hot-log file and removes what a crash left of a preparation. Returns the files that are there.
    pub(crate) fn open(
        directory: Directory,
        superblock: &Superblock,
        told: Told,
    ) -> Result<(Device, Vec<(FileNumber, u64)>), NodeError> {
        let hot_log = directory.hot_log();
        let found = list_hot_log(&hot_log, superblock.file_bytes)?;
        for leftover in &found.leftovers {
            tracing::info!(path = %leftover.display(), "removes an unfinished hot-log file");
            fs::remove_file(leftover)
                .map_err(|error| NodeError::file("remove", leftover, error))?;
        }
        let mut files = BTreeMap::new();
        for (number, _) in &found.files {
            let path = file_path(&hot_log, *number);
            let file = open_synced(&path).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => NodeError::NoDirectIo {
                    path: directory.path().display().to_string(),
                },
                _ => NodeError::file("open", &path, error),
            })?;
            files.insert(*number, Rc::new(file));
        }
        let stopping = Arc::new(AtomicBool::new(false));
        Ok((
            Device {
                directory,
                block_bytes: superblock.block_bytes,
                file_bytes: superblock.file_bytes,
                files,
                filled_bytes: Arc::default(),
                stopping,
                told,
            },
            found.files,
        ))
    }

    /// Waits until nothing from an earlier life is on its way to any file. Only then may the hot log be read, let alone written.
    pub(crate) async fn lock(&self, patience: Duration) -> Result<(), NodeError> {
        let begun = Instant::now();
        for (number, file) in &self.files {
            let path = file_path(&self.directory.hot_log(), *number);
            let mut told = false;
            while !try_lock(file).map_err(|error| NodeError::file("lock", &path, error))? {
                let waited = begun.elapsed();
                if waited >= patience {
                    return Err(NodeError::StillWritten {
                        path: path.display().to_string(),
                        waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                    });
                }
                if !told {
                    tracing::warn!(path = %path.display(), "waits for a write of an earlier process");
                    told = true;
                }
                tokio::time::sleep(LOCK_PAUSE).await;
            }
        }
        Ok(())
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// An open file.
    pub(crate) fn file(&self, number: FileNumber) -> Option<Rc<File>> {
        self.files.get(&number).cloned()
    }

    /// Notes that a write will end at `end` of this file: the next preparation keeps pace with it.
    pub(crate) fn appends(&self, number: FileNumber, end: u64) {
        if self
            .files
            .last_key_value()
            .is_some_and(|(newest, _)| *newest == number)
        {
            self.filled_bytes.store(end, Ordering::Relaxed);
        }
    }

    /// What it takes to prepare a file, for a helper thread. It is paced when the hot log is already in use.
    ///
    /// # Panics
    /// When the core asks for another length than the superblock fixes.
    pub(crate) fn preparation(&self, number: FileNumber, bytes: u64) -> Preparation {
        assert_eq!(
            bytes, self.file_bytes,
            "hot-log files have the length that the superblock fixes"
        );
        Preparation {
            hot_log: self.directory.hot_log(),
            number,
            bytes,
            // Before the first append of this process somebody may be waiting for the file.
            paced: self.filled_bytes.load(Ordering::Relaxed) > 0,
            filled_bytes: Arc::clone(&self.filled_bytes),
            stopping: Arc::clone(&self.stopping),
            told: self.told.clone(),
            _lock: self.directory.lock(),
        }
    }

    /// What it takes to make file `number` of file `from`, for a helper thread. Nothing is read from or written to `from` any more.
    ///
    /// # Errors
    /// When no descriptor is left, or `from` is not open.
    pub(crate) fn recycling(
        &mut self,
        number: FileNumber,
        from: FileNumber,
    ) -> io::Result<Recycling> {
        let file = self.files.remove(&from).ok_or(io::ErrorKind::NotFound)?;
        Ok(Recycling {
            hot_log: self.directory.hot_log(),
            number,
            from,
            block_bytes: self.block_bytes,
            file: file.try_clone()?,
            told: self.told.clone(),
        })
    }

    /// Closes a file that is about to be deleted. Returns its path.
    pub(crate) fn forget(&mut self, number: FileNumber) -> PathBuf {
        self.files.remove(&number);
        file_path(&self.directory.hot_log(), number)
    }

    /// Takes a prepared file.
    pub(crate) fn add(&mut self, number: FileNumber, file: File) {
        let before = self.files.insert(number, Rc::new(file));
        assert!(before.is_none(), "a hot-log file is prepared once");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

/// The making of a hot-log file of an old one.
#[derive(Debug)]
pub(crate) struct Recycling {
    hot_log: PathBuf,
    number: FileNumber,
    from: FileNumber,
    block_bytes: u32,
    /// The same description as before: it holds the lock.
    file: File,
    told: Told,
}

impl Recycling {
    /// Does it. Blocks; not for the thread that serves. A crash between any two steps leaves the old file or the new one.
    pub(crate) fn run(self) -> io::Result<File> {
        self.behead()?;
        self.rename()?;
        self.told.sync_directory(&self.hot_log)?;
        Ok(self.file)
    }

    /// Zeroes the first block and no more: no header of the earlier life is met under the new name, and after a crash the groups can
    /// still be read under the old one. The file syncs its writes.
    fn behead(&self) -> io::Result<()> {
        let block = IoBuf::zeroed(self.block_bytes as usize);
        let number = self
            .told
            .write_begins(&self.file, 0, block.as_ref().len(), true);
        self.file.write_all_at(block.as_ref(), 0)?;
        if self.told.write_ended(number) {
            Ok(())
        } else {
            Err(Errno::IO.into())
        }
    }

    fn rename(&self) -> io::Result<()> {
        let from = file_path(&self.hot_log, self.from);
        let to = file_path(&self.hot_log, self.number);
        self.told.changes(Change::Rename(&from, &to))?;
        // Never over a file that is there: it may hold what was acknowledged.
        Ok(renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE)?)
    }
}

/// The making of a hot-log file.
#[derive(Debug)]
pub(crate) struct Preparation {
    hot_log: PathBuf,
    number: FileNumber,
    bytes: u64,
    paced: bool,
    filled_bytes: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    told: Told,
    /// A helper thread may outlive the node for a moment; nobody else prepares files here meanwhile.
    _lock: Arc<File>,
}

impl Preparation {
    /// The making of the first file, while the directory is formatted and nobody else is there.
    pub(crate) fn first(hot_log: PathBuf, bytes: u64, lock: Arc<File>) -> Preparation {
        Preparation {
            hot_log,
            number: FileNumber(1),
            bytes,
            paced: false,
            filled_bytes: Arc::default(),
            stopping: Arc::default(),
            told: Told::default(),
            _lock: lock,
        }
    }

    /// Does it. Blocks; not for the thread that serves. Leaves no temporary file behind when it fails.
    pub(crate) fn run(self) -> Result<File, DiskError> {
        let temporary = temporary_path(&self.hot_log, self.number);
        self.run_or_tell().map_err(|error| {
            let kind = error.raw_os_error().map_or(DiskError::Failed, |raw| {
                disk_error(Errno::from_raw_os_error(raw))
            });
            // A full disk is tried again and again; the core says once that it is full.
            if kind == DiskError::Failed && !self.stopping.load(Ordering::Relaxed) {
                tracing::error!(path = %temporary.display(), %error, "cannot prepare a hot-log file, the node stops: look at the disk, and who may write there, then start it again");
            }
            kind
        })
    }

    /// As [`Preparation::run`], with what the system says.
    pub(crate) fn run_or_tell(&self) -> io::Result<File> {
        let temporary = temporary_path(&self.hot_log, self.number);
        self.make(&temporary).inspect_err(|_| {
            if let Err(error) = fs::remove_file(&temporary)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %temporary.display(), %error, "cannot remove a hot-log file that was not finished: the next start does");
            }
        })
    }

    fn make(&self, temporary: &Path) -> io::Result<File> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(flags(OFlags::DIRECT))
            .open(temporary)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            // The zeros below allocate as well, in more pieces.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        self.write_zeros(&file)?;
        file.sync_all()?;
        drop(file);
        let file = open_synced(temporary)?;
        if !try_lock(&file)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let path = file_path(&self.hot_log, self.number);
        self.told.changes(Change::Rename(temporary, &path))?;
        // Never over a file that is there: it may hold what was acknowledged.
        renameat_with(CWD, temporary, CWD, &path, RenameFlags::NOREPLACE)?;
        self.told.sync_directory(&self.hot_log)?;
        Ok(file)
    }

    fn write_zeros(&self, file: &File) -> io::Result<()> {
        let zeros = IoBuf::zeroed(if self.paced {
            PACED_ZERO_BYTES
        } else {
            ZERO_BYTES
        });
        let begun = Instant::now();
        let mut offset = 0;
        while offset < self.bytes {
            if self.stopping.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let left = usize::try_from(self.bytes - offset).unwrap_or(usize::MAX);
            let piece = &zeros.as_ref()[..left.min(zeros.as_ref().len())];
            file.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
            while self.paced
                && offset
                    > allowed_bytes(self.filled_bytes.load(Ordering::Relaxed), begun.elapsed())
                && !self.stopping.load(Ordering::Relaxed)
            {
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }
}

/// How far a paced preparation may be: twice as far as the file in use is filled, so that the next one is there when half of it
/// is full, and a trickle beside that, so that it gets there in an idle node too.
fn allowed_bytes(filled_bytes: u64, elapsed: Duration) -> u64 {
    let trickle = elapsed.as_millis() * u128::from(TRICKLE_BYTES_PER_MS);
    (2 * filled_bytes).saturating_add(u64::try_from(trickle).unwrap_or(u64::MAX))
}

/// `O_DSYNC` of the kernel on every architecture that this runs on. rustix 1.1 gives `O_SYNC` under that name on Linux, which
/// would commit the file's times with each append.
const O_DSYNC: u32 = 0o10000;

/// Opens a file as the hot log needs it, `O_DIRECT | O_DSYNC`: what was written is durable when the write is complete.
///
/// # Errors
/// `InvalidInput` when the file system does no direct I/O; others as for any file.
pub fn open_synced(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags(OFlags::DIRECT | OFlags::from_bits_retain(O_DSYNC)))
        .open(path)
}

/// Locks a file for this open description; false when another one has it.
fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).expect("flags of open(2) are an int")
}

/// What a device says of its blocks, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockSizes {
    /// What it writes without tearing a neighbor.
    pub(crate) physical: u32,
    /// What it can address.
    pub(crate) logical: u32,
}

/// The unit in which a directory on this device is written, bytes: its physical block, never below the logical one (F10).
pub(crate) fn block_unit(directory: &Path) -> Result<u32, NodeError> {
    let sizes = block_sizes(directory)?;
    let needed = sizes.physical.max(sizes.logical);
    if needed.is_power_of_two() && needed as usize <= IoBuf::ALIGN_BYTES {
        return Ok(needed);
    }
    // A physical block beyond what buffers are aligned to is given up for the next best; a logical one cannot be.
    if sizes.logical as usize <= IoBuf::ALIGN_BYTES {
        return Ok(BLOCK_BYTES_DEFAULT);
    }
    Err(NodeError::BlockUnit {
        path: directory.display().to_string(),
        found: BLOCK_BYTES_DEFAULT,
        needed,
    })
}

/// The block sizes of the device that holds a directory. File systems without one device are said to have the default.
pub(crate) fn block_sizes(directory: &Path) -> Result<BlockSizes, NodeError> {
    let device = fs::metadata(directory)
        .map_err(|error| NodeError::file("access", directory, error))?
        .dev();
    let name = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let physical =
        queue_value(Path::new(&name), "physical_block_size").unwrap_or(BLOCK_BYTES_DEFAULT);
    let logical = queue_value(Path::new(&name), "logical_block_size").unwrap_or(512);
    Ok(BlockSizes { physical, logical })
}

/// A value of the device's request queue; a partition has none, its parent has.
fn queue_value(device: &Path, name: &str) -> Option<u32> {
    let device = fs::canonicalize(device).ok()?;
    [Some(device.as_path()), device.parent()]
        .into_iter()
        .flatten()
        .find_map(|holder| {
            let text = fs::read_to_string(holder.join("queue").join(name)).ok()?;
            text.trim()
                .parse()
                .ok()
                .filter(|bytes: &u32| (512..=1 << 20).contains(bytes))
        })
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod device_tests;
