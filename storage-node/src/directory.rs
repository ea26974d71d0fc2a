//! The data directory: whose it is, whether it may be used, and what lies in it.
//!
//! ```text
//!   LOCK               locked exclusively while a daemon runs (R25); always empty
//!   superblock         node, block unit, hot-log file size; written once
//!   superblock.tmp     a format that a crash cut short; the next start begins anew
//!   hot-log/           0000000000000001.log ...   prepared files, each of the superblock's file size
//!                      0000000000000002.log.tmp   one whose preparation a crash cut short; removed at the next start
//!   layers/            SEGMENT-0000000000000001.layer ...   what catalogs in the hot log name, and garbage of crashes
//!   damaged/           damaged layers, kept for whoever wants to look at them
//! ```
//!
//! Everything is checked before anything is written, and a directory that is not this node's is left as it was found. A
//! directory without a superblock is formatted only if it holds nothing at all, so that a lost superblock never turns
//! into an empty node that answers for the old one (R12). The first hot-log file is there before the superblock is: a superblock
//! without one has lost its log, and does not begin a new one. What the bytes in the files mean is the core's business.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use sixfold_log_format::hot_log::{FileNumber, SUPERBLOCK_BYTES, Superblock};
use sixfold_log_format::{DecodeError, NodeId};
use sixfold_storage_node_core::IoBuf;

use crate::device::{Preparation, block_unit};
use crate::error::NodeError;

pub(crate) const LOCK_NAME: &str = "LOCK";
pub(crate) const SUPERBLOCK_NAME: &str = "superblock";
const SUPERBLOCK_TEMPORARY_NAME: &str = "superblock.tmp";
pub(crate) const HOT_LOG_NAME: &str = "hot-log";
/// What file systems put into their root.
const LOST_AND_FOUND_NAME: &str = "lost+found";
const FILE_SUFFIX: &str = ".log";
const TEMPORARY_SUFFIX: &str = ".log.tmp";

/// A locked data directory that is this node's, or empty.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    node: NodeId,
    superblock: Option<Superblock>,
    /// Holds the lock until the last clone is dropped.
    lock: Arc<File>,
}

/// What lies in the hot log's directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct HotLogFiles {
    /// Prepared files in order, with their lengths in bytes.
    pub(crate) files: Vec<(FileNumber, u64)>,
    /// Preparations that a crash cut short.
    pub(crate) leftovers: Vec<PathBuf>,
}

impl Directory {
    /// Locks the directory and checks that it is the node's, or empty. Writes nothing but an empty `LOCK`, and not even that
    /// into a directory that holds something else.
    pub(crate) fn open(path: &Path, node: NodeId) -> Result<Directory, NodeError> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(NodeError::NotADirectory { path: shown(path) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NodeError::NoDirectory { path: shown(path) });
            }
            Err(error) => return Err(NodeError::file("access", path, error)),
        }
        // Once without the lock, so that no LOCK is left in somebody else's directory; once with it, to be sure.
        read_superblock(path, node)?;
        let lock = lock(path)?;
        let superblock = read_superblock(path, node)?;
        if let Some(superblock) = &superblock {
            check_block_unit(path, superblock)?;
            let hot_log = path.join(HOT_LOG_NAME);
            if list_hot_log(&hot_log, superblock.file_bytes)?
                .files
                .is_empty()
            {
                return Err(NodeError::HotLogLost { path: shown(path) });
            }
        }
        Ok(Directory {
            path: path.to_owned(),
            node,
            superblock,
            lock: Arc::new(lock),
        })
    }

    /// The superblock; written now if the directory is empty. A crash at any point leaves either an empty directory or a
    /// formatted one.
    pub(crate) fn format_if_fresh(&mut self, file_bytes: u64) -> Result<Superblock, NodeError> {
        if let Some(superblock) = &self.superblock {
            return Ok(superblock.clone());
        }
        let block_bytes = block_unit(&self.path)?;
        let superblock = Superblock {
            node: self.node,
            block_bytes,
            file_bytes,
        };
        let temporary = self.path.join(SUPERBLOCK_TEMPORARY_NAME);
        let target = self.path.join(SUPERBLOCK_NAME);
        // It says that whatever lies in the hot log's directory is of this format: nothing was ever written to it.
        write_synced(&temporary, &superblock.encode())
            .map_err(|error| NodeError::file("write", &temporary, error))?;
        sync_directory(&self.path)?;
        self.make_hot_log(file_bytes)?;
        fs::rename(&temporary, &target)
            .map_err(|error| NodeError::file("rename to", &target, error))?;
        sync_directory(&self.path)?;
        tracing::info!(path = %self.path.display(), node = %self.node, block_bytes, file_bytes, "data directory formatted");
        self.superblock = Some(superblock.clone());
        Ok(superblock)
    }

    /// Makes the hot log's directory anew, with its first file.
    fn make_hot_log(&self, file_bytes: u64) -> Result<(), NodeError> {
        let hot_log = self.hot_log();
        match fs::create_dir(&hot_log) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(NodeError::file("create", &hot_log, error));
            }
            _ => sync_directory(&self.path)?,
        }
        for name in names(&hot_log)? {
            let path = hot_log.join(name);
            fs::remove_file(&path).map_err(|error| NodeError::file("remove", &path, error))?;
        }
        let first = Preparation::first(hot_log.clone(), file_bytes, self.lock());
        let made = first.run_or_tell();
        made.map_err(|error| NodeError::file("prepare a file in", &hot_log, error))?;
        Ok(())
    }

    /// The lock, for whoever still writes when the node has ended.
    pub(crate) fn lock(&self) -> Arc<File> {
        Arc::clone(&self.lock)
    }

    /// Where the hot-log files are.
    pub(crate) fn hot_log(&self) -> PathBuf {
        self.path.join(HOT_LOG_NAME)
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The path of a hot-log file.
pub(crate) fn file_path(hot_log: &Path, file: FileNumber) -> PathBuf {
    hot_log.join(format!("{:016x}{FILE_SUFFIX}", file.0))
}

/// Where a hot-log file is prepared.
pub(crate) fn temporary_path(hot_log: &Path, file: FileNumber) -> PathBuf {
    hot_log.join(format!("{:016x}{TEMPORARY_SUFFIX}", file.0))
}

/// Lists the hot log's directory; each file must have the length that all have.
pub(crate) fn list_hot_log(hot_log: &Path, file_bytes: u64) -> Result<HotLogFiles, NodeError> {
    let mut found = HotLogFiles::default();
    for name in names(hot_log)? {
        let path = hot_log.join(&name);
        if number_in(&name, TEMPORARY_SUFFIX).is_some() {
            found.leftovers.push(path);
            continue;
        }
        let Some(file) = number_in(&name, FILE_SUFFIX) else {
            return Err(NodeError::UnknownFile { path: shown(&path) });
        };
        let metadata =
            fs::symlink_metadata(&path).map_err(|error| NodeError::file("access", &path, error))?;
        if !metadata.is_file() {
            return Err(NodeError::UnknownFile { path: shown(&path) });
        }
        if metadata.len() != file_bytes {
            return Err(NodeError::FileLength {
                path: shown(&path),
                found: metadata.len(),
                expected: file_bytes,
            });
        }
        found.files.push((file, metadata.len()));
    }
    found.files.sort_unstable();
    Ok(found)
}

/// Makes a directory's entries durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), NodeError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| NodeError::file("sync", path, error))
}

/// The number in a name of exactly the form that [`file_path`] and [`temporary_path`] write.
fn number_in(name: &str, suffix: &str) -> Option<FileNumber> {
    let digits = name.strip_suffix(suffix)?;
    let written = digits.len() == 16
        && digits
            .bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let number = u64::from_str_radix(digits, 16).ok().filter(|_| written)?;
    (number > 0).then_some(FileNumber(number))
}

/// The superblock, or `None` for a directory that holds nothing. Writes nothing.
fn read_superblock(path: &Path, node: NodeId) -> Result<Option<Superblock>, NodeError> {
    let names = names(path)?;
    if !names.iter().any(|name| name == SUPERBLOCK_NAME) {
        return match foreign_name(path, &names)? {
            Some(name) => Err(NodeError::NotEmpty {
                path: shown(path),
                name,
            }),
            None => Ok(None),
        };
    }
    let file = path.join(SUPERBLOCK_NAME);
    let superblock = decode_superblock(&file, path)?;
    if superblock.node != node {
        return Err(NodeError::OtherNode {
            path: shown(path),
            found: superblock.node,
            configured: node,
        });
    }
    let known = [
        LOCK_NAME,
        SUPERBLOCK_NAME,
        SUPERBLOCK_TEMPORARY_NAME,
        HOT_LOG_NAME,
        crate::layers::LAYERS_NAME,
        crate::layers::DAMAGED_NAME,
        LOST_AND_FOUND_NAME,
    ];
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(NodeError::UnknownFile {
            path: shown(&path.join(name)),
        });
    }
    Ok(Some(superblock))
}

fn decode_superblock(file: &Path, path: &Path) -> Result<Superblock, NodeError> {
    let length = fs::metadata(file)
        .map_err(|error| NodeError::file("access", file, error))?
        .len();
    let beyond = length.saturating_sub(SUPERBLOCK_BYTES as u64);
    if beyond > 0 {
        let count = usize::try_from(beyond).unwrap_or(usize::MAX);
        let source = DecodeError::TrailingBytes {
            zone: "superblock",
            count,
        };
        return Err(NodeError::Superblock {
            path: shown(file),
            source,
        });
    }
    let bytes = fs::read(file).map_err(|error| NodeError::file("read", file, error))?;
    Superblock::decode(&bytes).map_err(|error| match error {
        DecodeError::Version {
            found, supported, ..
        } => NodeError::OtherVersion {
            path: shown(path),
            found,
            supported,
        },
        source => NodeError::Superblock {
            path: shown(file),
            source,
        },
    })
}

/// The first name in a directory without superblock that forbids to format it.
fn foreign_name(path: &Path, names: &[String]) -> Result<Option<String>, NodeError> {
    for name in names {
        match name.as_str() {
            LOCK_NAME | SUPERBLOCK_TEMPORARY_NAME | LOST_AND_FOUND_NAME => {}
            // Formatting makes it before the superblock; a file in it is older than the lost superblock, unless it is the
            // first one and the temporary superblock says that the format was not finished.
            HOT_LOG_NAME if is_unfinished(&self::names(&path.join(HOT_LOG_NAME))?, names) => {}
            _ => return Ok(Some(name.clone())),
        }
    }
    Ok(None)
}

/// Whether the files of a hot log can be what a format that was cut short has left.
fn is_unfinished(files: &[String], beside: &[String]) -> bool {
    let first = file_path(Path::new(""), FileNumber(1))
        .display()
        .to_string();
    let making = temporary_path(Path::new(""), FileNumber(1))
        .display()
        .to_string();
    let formatting = beside.iter().any(|name| name == SUPERBLOCK_TEMPORARY_NAME);
    files
        .iter()
        .all(|file| *file == making || (formatting && *file == first))
}

/// The names in a directory, sorted.
fn names(path: &Path) -> Result<Vec<String>, NodeError> {
    let failed = |error| NodeError::file("list", path, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        names.push(
            entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort_unstable();
    Ok(names)
}

/// Takes the lock, and shows on the way that the file system does direct I/O.
fn lock(path: &Path) -> Result<File, NodeError> {
    let name = path.join(LOCK_NAME);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(|error| NodeError::file("open", &name, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(NodeError::Locked { path: shown(path) }),
        Err(error) => return Err(NodeError::file("lock", &name, error)),
    }
    let direct = i32::try_from(OFlags::DIRECT.bits()).expect("a flag of open(2)");
    match OpenOptions::new()
        .read(true)
        .custom_flags(direct)
        .open(&name)
    {
        Ok(_) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(NodeError::NoDirectIo { path: shown(path) })
        }
        Err(error) => Err(NodeError::file("open", &name, error)),
    }
}

/// A directory that was copied to a device with larger blocks cannot be written block by block any more (F10).
fn check_block_unit(path: &Path, superblock: &Superblock) -> Result<(), NodeError> {
    let needed = crate::device::block_sizes(path)?.logical;
    let found = superblock.block_bytes;
    let usable = found.is_power_of_two() && found >= needed && found as usize <= IoBuf::ALIGN_BYTES;
    if usable {
        Ok(())
    } else {
        Err(NodeError::BlockUnit {
            path: shown(path),
            found,
            needed,
        })
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod directory_tests;
