//! The files of layers: opened, made, synced and deleted off the thread that acknowledges.
//!
//! ```text
//!   Write / Read of a file that is open ────────────────────────────▶ ring
//!            of one that is not ─▶ waits here ─▶ helper opens it ─▶ ring
//!   Sync, Delete, the making of a file, ─▶ one lane, in the order in which the core asked
//!   the recycling of a hot-log file
//! ```
//!
//! Opening a file may read the file system's metadata, making or deleting one may wait for its journal: none of that may hold up
//! an ack. Writes to a layer are `O_DIRECT` without `O_DSYNC`: a layer counts only when the hot log names it, and that entry is
//! written after the sync. At most [`OPEN_MAX`] files are kept open.
//!
//! A layer is not begun when less than the reserve is left on the file system: what is left belongs to the hot log, whose
//! claims and catalogs must find room (they are what gives space back).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use sixfold_log_format::SegmentId;
use sixfold_log_format::layer::LayerNumber;
use sixfold_storage_node_core::{DiskToken, IoBuf};
use tokio::sync::oneshot;

use crate::directory::{Directory, sync_directory};
use crate::error::NodeError;
use crate::witness::{Change, Told};

/// The directory's name.
pub(crate) const LAYERS_NAME: &str = "layers";
/// Where damaged layers are kept.
pub(crate) const DAMAGED_NAME: &str = "damaged";
/// Most damaged layers that are kept.
const DAMAGED_MAX: usize = 16;
const SUFFIX: &str = ".layer";
/// Most files that are kept open; the one that was used longest ago is closed.
const OPEN_MAX: usize = 256;

/// Names a layer's file.
pub(crate) type LayerKey = (SegmentId, LayerNumber);

/// A layer's file that is there, with its length in bytes.
pub(crate) type FoundLayer = (SegmentId, LayerNumber, u64);

/// What waits for a file to be open.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// A write.
    Write {
        /// Which.
        token: DiskToken,
        /// Where.
        offset: u64,
        /// What.
        bytes: IoBuf,
    },
    /// A read.
    Read {
        /// Which.
        token: DiskToken,
        /// Where.
        offset: u64,
        /// How much.
        bytes: u32,
    },
}

/// What a helper says in the end.
pub(crate) type Answer<T> = oneshot::Receiver<io::Result<T>>;

#[derive(Debug)]
enum Slot {
    /// A helper is at it; what is asked for meanwhile waits. Bounded by the core's bounds on operations in flight.
    Opening(Vec<Waiting>),
    Open {
        file: Rc<File>,
        used: u64,
    },
}

/// The layers of the node.
#[derive(Debug)]
pub(crate) struct Layers {
    path: PathBuf,
    files: BTreeMap<LayerKey, Slot>,
    /// Counts uses, for the choice of what to close.
    uses: u64,
    reserve_bytes: u64,
    lane: Lane,
    told: Told,
}

impl Layers {
    /// Opens the directory, made now if it is not there, and lists what is in it with the lengths. `reserve_bytes` stay free.
    pub(crate) fn open(
        directory: &Directory,
        reserve_bytes: u64,
        told: Told,
    ) -> Result<(Layers, Vec<FoundLayer>), NodeError> {
        let path = directory.path().join(LAYERS_NAME);
        match fs::create_dir(&path) {
            Ok(()) => sync_directory(directory.path())?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(NodeError::file("create", &path, error)),
        }
        let found = list_layers(&path)?;
        let layers = Layers {
            path,
            files: BTreeMap::new(),
            uses: 0,
            reserve_bytes,
            lane: Lane::start(directory.lock())?,
            told,
        };
        Ok((layers, found))
    }

    /// The file, if it is open.
    pub(crate) fn file(&mut self, key: LayerKey) -> Option<Rc<File>> {
        self.uses += 1;
        match self.files.get_mut(&key) {
            Some(Slot::Open { file, used }) => {
                *used = self.uses;
                Some(Rc::clone(file))
            }
            Some(Slot::Opening(_)) | None => None,
        }
    }

    /// Lets an operation wait for a file that is not open. Returns what opens it when nobody is at it yet; `None` else.
    pub(crate) fn wait(&mut self, key: LayerKey, operation: Waiting) -> Option<Answer<File>> {
        let create = matches!(operation, Waiting::Write { .. });
        match self.files.get_mut(&key) {
            Some(Slot::Opening(waiting)) => {
                waiting.push(operation);
                return None;
            }
            Some(Slot::Open { .. }) => unreachable!("only called for a file that is not open"),
            None => {
                self.files.insert(key, Slot::Opening(vec![operation]));
            }
        }
        let path = path_of(&self.path, key);
        if create {
            let (directory, reserve_bytes) = (self.path.clone(), self.reserve_bytes);
            let told = self.told.clone();
            // In the lane: what had this name before is deleted first.
            return Some(self.lane.run(move || {
                keep_reserve(&directory, reserve_bytes)?;
                if !path.exists() {
                    told.changes(Change::Make(&path))?;
                }
                open(&path, true)
            }));
        }
        let (sender, answer) = oneshot::channel();
        tokio::task::spawn_blocking(move || sender.send(open(&path, false)));
        Some(answer)
    }

    /// Takes an opened file. Returns what waited for it. When the layer was deleted meanwhile, nothing does.
    pub(crate) fn opened(&mut self, key: LayerKey, file: Option<&Rc<File>>) -> Vec<Waiting> {
        let Some(Slot::Opening(waiting)) = self.files.remove(&key) else {
            return Vec::new();
        };
        if let Some(file) = file {
            self.close_one();
            let slot = Slot::Open {
                file: Rc::clone(file),
                used: self.uses,
            };
            self.files.insert(key, slot);
        }
        waiting
    }

    /// Makes room for one more open file. Operations in flight keep theirs open.
    fn close_one(&mut self) {
        if self.files.len() < OPEN_MAX {
            return;
        }
        let oldest = self
            .files
            .iter()
            .filter_map(|(key, slot)| match slot {
                Slot::Open { used, .. } => Some((*used, *key)),
                Slot::Opening(_) => None,
            })
            .min();
        if let Some((_, key)) = oldest {
            self.files.remove(&key);
        }
    }

    /// Makes a layer and its directory entry durable.
    pub(crate) fn sync(&self, key: LayerKey) -> Answer<()> {
        let (file, directory) = (path_of(&self.path, key), self.path.clone());
        let told = self.told.clone();
        self.lane.run(move || {
            told.sync_file(&file)?;
            told.sync_directory(&directory)
        })
    }

    /// Deletes a layer. Returns what waited for it to be open, which has failed.
    pub(crate) fn delete(&mut self, key: LayerKey) -> Vec<Waiting> {
        // Closed first: whoever lets go of it last frees its blocks, and that is not for the thread that acknowledges.
        let waiting = self.forget(key);
        let path = path_of(&self.path, key);
        let told = self.told.clone();
        self.lane.send(Box::new(move || match remove(&told, &path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(segment = %key.0, path = %path.display(), %error, "cannot delete a layer: the next start removes it, until then it takes space; look at the disk, and who may write there");
            }
            _ => {}
        }));
        waiting
    }

    /// Moves a damaged layer out of the way and keeps it. Returns what waited for it to be open, which has failed.
    pub(crate) fn set_aside(&mut self, key: LayerKey) -> Vec<Waiting> {
        let path = path_of(&self.path, key);
        let aside = self.path.with_file_name(DAMAGED_NAME);
        self.lane.send(Box::new(move || {
            if let Err(error) = keep_aside(&path, &aside) {
                tracing::warn!(segment = %key.0, path = %path.display(), %error, "cannot keep a damaged layer aside for whoever wants to look at it: the segment heals from its peers all the same; look at the disk");
            }
        }));
        self.forget(key)
    }

    fn forget(&mut self, key: LayerKey) -> Vec<Waiting> {
        match self.files.remove(&key) {
            Some(Slot::Opening(waiting)) => waiting,
            Some(Slot::Open { .. }) | None => Vec::new(),
        }
    }

    /// Does something else behind everything that was asked for so far.
    pub(crate) fn in_order<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Answer<T> {
        self.lane.run(work)
    }

    /// Deletes another file, which nobody writes any more.
    pub(crate) fn delete_path(&self, path: PathBuf) {
        let told = self.told.clone();
        self.lane.send(Box::new(move || {
            if let Err(error) = remove(&told, &path) {
                tracing::warn!(path = %path.display(), %error, "cannot delete a file of the hot log: it takes space until the node is started again; look at the disk, and who may write there");
            }
        }));
    }
}

/// Where a layer's file is.
pub(crate) fn path_of(layers: &Path, (segment, layer): LayerKey) -> PathBuf {
    layers.join(format!("{segment}-{:016x}{SUFFIX}", layer.0))
}

fn remove(told: &Told, path: &Path) -> io::Result<()> {
    told.changes(Change::Delete(path))?;
    fs::remove_file(path)
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).expect("flags of open(2) are an int");
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .mode(0o600)
        .custom_flags(direct)
        .open(path)
}

/// Fails as on a full disk when less than the reserve is free.
fn keep_reserve(directory: &Path, reserve_bytes: u64) -> io::Result<()> {
    let space = rustix::fs::statvfs(directory)?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < reserve_bytes {
        return Err(Errno::NOSPC.into());
    }
    Ok(())
}

/// The layer files in a directory, sorted, each with its length; a file of another name is refused.
pub(crate) fn list_layers(path: &Path) -> Result<Vec<FoundLayer>, NodeError> {
    let listed = |error| NodeError::file("list", path, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(listed)? {
        let entry = entry.map_err(listed)?;
        let metadata = entry.metadata().map_err(listed)?;
        let key = key_in(&entry.file_name().to_string_lossy()).filter(|_| metadata.is_file());
        let Some((segment, layer)) = key else {
            let path = entry.path().display().to_string();
            return Err(NodeError::UnknownFile { path });
        };
        found.push((segment, layer, metadata.len()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Moves a damaged file to where somebody can look at it; a few are kept, later ones are deleted. The file is nobody's any more, so
/// that its move need not be durable; but the directory is, before anything is moved there, or a power cut could lose both.
fn keep_aside(path: &Path, aside: &Path) -> io::Result<()> {
    match fs::create_dir(aside) {
        Ok(()) => {
            let beside = aside.parent().expect("it is a directory of the node's");
            File::open(beside)?.sync_all()?;
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) => {}
    }
    let name = path.file_name().expect("a layer's path has a name");
    let moved = if fs::read_dir(aside)?.count() < DAMAGED_MAX {
        fs::rename(path, aside.join(name))
    } else {
        fs::remove_file(path)
    };
    match moved {
        Ok(()) => File::open(aside)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The key in a name of exactly the form that is written here.
fn key_in(name: &str) -> Option<LayerKey> {
    let (segment, number) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let number = u64::from_str_radix(number, 16).ok()?;
    let key = (SegmentId::from_hex(segment)?, LayerNumber(number));
    (number > 0 && name == format!("{}-{number:016x}{SUFFIX}", key.0)).then_some(key)
}

type Job = Box<dyn FnOnce() + Send>;

/// A helper thread that does one job after the other. Dropping it waits for the job at hand and forgets the others.
#[derive(Debug)]
struct Lane {
    /// There until it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
}

impl Lane {
    fn start(lock: Arc<File>) -> Result<Lane, NodeError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = std::thread::Builder::new()
            .name("layers".to_owned())
            .spawn(move || {
                // Nobody else works in the directory meanwhile.
                let _lock = lock;
                for job in queue {
                    if !stop.load(Ordering::Relaxed) {
                        job();
                    }
                }
            })
            .map_err(|source| NodeError::Runtime { source })?;
        Ok(Lane {
            jobs: Some(jobs),
            thread: Some(thread),
            stopping,
        })
    }

    fn send(&self, job: Job) {
        // A job that panics ends the thread, and whoever waits is told by the lost answer.
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
        if !matches!(sent, Some(Ok(()))) {
            tracing::error!("the helper of the layers is gone: restart the node");
        }
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Answer<T> {
        let (sender, answer) = oneshot::channel();
        self.send(Box::new(move || {
            let _ = sender.send(work());
        }));
        answer
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(
                "the helper of the layers panicked, a bug: what it said stands above; start the node again and report it"
            );
        }
    }
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod layers_tests;
