//! Reads a node's directory offline: identity, hot log, layers, one page's history. Never writes.
//!
//! It is a second reader of the formats, written apart from the one in the core, and it repairs nothing: what it finds is a
//! report, and each flaw is a line. While a daemon has the directory it is refused, so that what it reads stands still.

mod hot_log;
mod layers;
mod page;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sixfold_log_format::hot_log::{
    FileNumber, SUPERBLOCK_BYTES, SUPERBLOCK_COPY_BYTES, Superblock,
};
use sixfold_log_format::layer::{LayerCatalog, LayerNumber, LayerSummary};
use sixfold_log_format::{
    Batch, DecodeError, History, Lsn, Manifest, PgId, SegmentId, VolumeEpoch, WriterId,
};

use crate::directory::{HOT_LOG_NAME, LOCK_NAME, SUPERBLOCK_NAME, list_hot_log};
use crate::layers::{LAYERS_NAME, list_layers};

pub use page::{HistoryEntry, HistoryKind, PageHistory};

/// Why a directory cannot be inspected at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// A daemon has it.
    #[error("data directory {path} is in use by a running daemon: stop it, or inspect a copy")]
    InUse {
        /// Which.
        path: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not a node's directory, or neither copy of the superblock is sound.
    #[error("superblock {path}: {source}")]
    Superblock {
        /// The file.
        path: String,
        /// How.
        source: DecodeError,
    },
    /// The hot log's directory holds what no node writes there.
    #[error(transparent)]
    Directory(#[from] crate::NodeError),
    /// The segment asked for is not there.
    #[error("no segment {segment}")]
    NoSegment {
        /// Which.
        segment: SegmentId,
    },
    /// A page was asked for and there are several segments.
    #[error("{count} segments: say which one")]
    WhichSegment {
        /// How many there are.
        count: usize,
    },
}

/// What stands in a directory.
#[derive(Debug)]
pub struct Inspection {
    /// The directory.
    pub path: PathBuf,
    /// Identity and format.
    pub superblock: Superblock,
    /// Which copies of the superblock are sound.
    pub superblock_copies: [bool; 2],
    /// The hot log's files, in order.
    pub files: Vec<HotLogFile>,
    /// How the hot log ends.
    pub verdict: Verdict,
    /// The segments, as the hot log tells.
    pub segments: BTreeMap<SegmentId, Segment>,
    /// The layers: those of catalogs, then files that no catalog names.
    pub layers: Vec<Layer>,
    /// Everything that is wrong, a line each.
    pub flaws: Vec<String>,
    /// Held while anybody looks.
    _lock: Option<File>,
}

/// A file of the hot log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotLogFile {
    /// Its number.
    pub number: FileNumber,
    /// Sequence number of its first group; `None` when nothing was ever written to it.
    pub first_sequence: Option<u64>,
    /// Sound groups.
    pub group_count: u64,
    /// Bytes up to the end of the last one.
    pub used_bytes: u64,
}

/// How the hot log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Behind the last group there is nothing.
    Clean,
    /// Behind the last group lies something unreadable and nothing sound: a write that a crash cut short. Expected.
    TornTail {
        /// The file.
        file: FileNumber,
        /// Where it begins.
        offset: u64,
    },
    /// Something unreadable, or missing, before something sound.
    Corrupt {
        /// The file.
        file: FileNumber,
        /// Where it begins.
        offset: u64,
        /// What.
        reason: String,
    },
}

/// A segment, as its entries in the hot log tell, in their order.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Its protection group.
    pub pg: PgId,
    /// The highest claim.
    pub claim: VolumeEpoch,
    /// By whom.
    pub writer: WriterId,
    /// The history held.
    pub history: History,
    /// The manifest held.
    pub manifest: Manifest,
    /// The layer catalog.
    pub catalog: LayerCatalog,
    /// Highest VDL in anything that is there.
    pub vdl: Lsn,
    /// Whether it was dropped.
    pub dropped: bool,
    /// Its batches in the hot log, in the order of the log, each with where it stands.
    pub batches: Vec<PlacedBatch>,
}

/// A batch and where it stands.
#[derive(Debug, Clone)]
pub struct PlacedBatch {
    /// The file.
    pub file: FileNumber,
    /// Where in it.
    pub offset: u64,
    /// The batch.
    pub batch: Batch,
}

/// A file of a layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The segment that has it.
    pub segment: SegmentId,
    /// Its number there.
    pub number: LayerNumber,
    /// What it says of itself; `None` when it is unreadable.
    pub summary: Option<LayerSummary>,
    /// Whether a catalog names it. Others are garbage of a crash.
    pub listed: bool,
    /// Whether every checksum and every entry is sound.
    pub sound: bool,
}

impl Inspection {
    /// Reads everything in a directory and verifies every checksum.
    ///
    /// # Errors
    /// [`InspectError`] when there is nothing to report on; damage is part of the report.
    pub fn of(path: &Path) -> Result<Inspection, InspectError> {
        let lock = share(path)?;
        let (superblock, superblock_copies) = read_superblock(path)?;
        let listed = list_hot_log(&path.join(HOT_LOG_NAME), superblock.file_bytes)?;
        let mut inspection = Inspection {
            path: path.to_owned(),
            superblock,
            superblock_copies,
            files: Vec::new(),
            verdict: Verdict::Clean,
            segments: BTreeMap::new(),
            layers: Vec::new(),
            flaws: Vec::new(),
            _lock: lock,
        };
        for (index, sound) in superblock_copies.iter().enumerate() {
            if !sound {
                let flaw = format!("superblock: copy {} is damaged", index + 1);
                inspection.flaws.push(flaw);
            }
        }
        inspection.read_hot_log(&listed.files)?;
        let layers = path.join(LAYERS_NAME);
        let found = if layers.exists() {
            list_layers(&layers)?
        } else {
            Vec::new()
        };
        inspection.read_layers(&layers, &found);
        Ok(inspection)
    }

    /// Bytes of sound groups in the hot log.
    pub fn hot_log_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.used_bytes).sum()
    }

    /// The segment to look at: the one asked for, or the only one.
    ///
    /// # Errors
    /// [`InspectError`] when there is none, or it is not clear which.
    pub fn segment(&self, asked: Option<SegmentId>) -> Result<SegmentId, InspectError> {
        match asked {
            Some(segment) if self.segments.contains_key(&segment) => Ok(segment),
            Some(segment) => Err(InspectError::NoSegment { segment }),
            None => match self.segments.keys().copied().collect::<Vec<_>>()[..] {
                [segment] => Ok(segment),
                ref all => Err(InspectError::WhichSegment { count: all.len() }),
            },
        }
    }
}

impl Segment {
    /// Last LSN of the gap-free chain of valid records: what the segment would acknowledge. Counted from what is in layers.
    pub fn scl(&self) -> Lsn {
        let mut batches: Vec<&Batch> = self.batches.iter().map(|placed| &placed.batch).collect();
        batches.sort_by_key(|batch| batch.header().first);
        let mut scl = self.catalog.folded_through;
        for batch in batches {
            let header = batch.header();
            let valid = batch
                .records()
                .map(|placed| placed.record.lsn)
                .filter(|lsn| *lsn > scl && !self.history.annuls(*lsn))
                .last();
            // What is folded may lie in the middle of a batch.
            if let Some(last) = valid
                && (header.prev == scl || header.prev <= self.catalog.folded_through)
            {
                scl = last;
            }
        }
        scl
    }

    /// The highest LSN that the hot log holds for it, valid or not.
    pub fn highest(&self) -> Lsn {
        let last = self.batches.iter().map(|placed| placed.batch.header().last);
        last.max().unwrap_or(Lsn::NONE)
    }
}

/// Takes the directory's lock shared, so that no daemon starts meanwhile. A copy without a lock file has none.
fn share(path: &Path) -> Result<Option<File>, InspectError> {
    let name = path.join(LOCK_NAME);
    let file = match File::open(&name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(&name, source)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(InspectError::InUse {
            path: path.display().to_string(),
        }),
        Err(error) => Err(failed(&name, error.into())),
    }
}

fn failed(path: &Path, source: io::Error) -> InspectError {
    InspectError::File {
        path: path.display().to_string(),
        source,
    }
}

fn read_superblock(path: &Path) -> Result<(Superblock, [bool; 2]), InspectError> {
    let name = path.join(SUPERBLOCK_NAME);
    let mut bytes = fs::read(&name).map_err(|source| failed(&name, source))?;
    bytes.truncate(SUPERBLOCK_BYTES);
    let superblock = Superblock::decode(&bytes).map_err(|source| InspectError::Superblock {
        path: name.display().to_string(),
        source,
    })?;
    let sound = |copy: usize| {
        let start = copy * SUPERBLOCK_COPY_BYTES;
        bytes
            .get(start..start + SUPERBLOCK_COPY_BYTES)
            .is_some_and(|copy| Superblock::decode(copy).is_ok())
    };
    Ok((superblock, [sound(0), sound(1)]))
}
