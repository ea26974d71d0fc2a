//! What a node does to its files, told as it is done: the seam behind which tests stand in for a device whose cache loses power.
//!
//! ```text
//!   write ─▶ begins ─▶ kernel ─▶ ends ─▶ core        rename, make, delete, sync ─▶ told ─▶ file system
//!                └────────── a witness ──────────┘
//! ```
//! A daemon has none, and pays a branch for it. A witness decides nothing about the node but one thing: it may say that an operation
//! has failed, as a device does whose power is gone.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Names a write between its beginning and its end.
pub type WriteNumber = u64;

/// A change of a directory, before it is made. It is durable when the directory was synced behind it.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// A file is made under this name.
    Make(&'a Path),
    /// A file is renamed: from, to.
    Rename(&'a Path, &'a Path),
    /// A file is deleted.
    Delete(&'a Path),
}

/// Sees what a node does to its files. Called from the node's thread and from its helpers.
pub trait Witness: std::fmt::Debug + Send + Sync {
    /// A write begins. `is_synced`: when it ends well, its bytes are durable; else they are when the file was synced.
    fn write_begins(&self, file: &File, offset: u64, bytes: usize, is_synced: bool) -> WriteNumber;

    /// It ended well, as far as the kernel knows; false makes it fail.
    fn write_ended(&self, write: WriteNumber) -> bool;

    /// A file was synced: all writes to it that ended before are durable.
    ///
    /// # Errors
    /// When it is not.
    fn file_synced(&self, path: &Path) -> io::Result<()>;

    /// A directory is about to be changed.
    ///
    /// # Errors
    /// When it cannot be.
    fn changes(&self, change: Change<'_>) -> io::Result<()>;

    /// A directory was synced: the changes in it are durable.
    ///
    /// # Errors
    /// When it was not.
    fn directory_synced(&self, path: &Path) -> io::Result<()>;
}

/// A witness, if there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(pub(crate) Option<Arc<dyn Witness>>);

impl Told {
    pub(crate) fn write_begins(
        &self,
        file: &File,
        offset: u64,
        bytes: usize,
        is_synced: bool,
    ) -> Option<WriteNumber> {
        let witness = self.0.as_ref()?;
        Some(witness.write_begins(file, offset, bytes, is_synced))
    }

    /// Whether a write that ended well did so for the witness, too.
    pub(crate) fn write_ended(&self, write: Option<WriteNumber>) -> bool {
        match (&self.0, write) {
            (Some(witness), Some(write)) => witness.write_ended(write),
            _ => true,
        }
    }

    pub(crate) fn changes(&self, change: Change<'_>) -> io::Result<()> {
        match &self.0 {
            Some(witness) => witness.changes(change),
            None => Ok(()),
        }
    }

    /// Syncs a file, data and metadata.
    pub(crate) fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()?;
        match &self.0 {
            Some(witness) => witness.file_synced(path),
            None => Ok(()),
        }
    }

    /// Syncs a directory.
    pub(crate) fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()?;
        match &self.0 {
            Some(witness) => witness.directory_synced(path),
            None => Ok(()),
        }
    }
}
