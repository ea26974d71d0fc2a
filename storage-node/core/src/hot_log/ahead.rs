//! Reads for the scan, ahead of it: some chunks are under way while it works on what came.
//!
//! ```text
//!   scan wants [offset, +bytes) ─▶ the chunks that hold it, and a few behind, into the next files ─▶ all there? ─▶ scan
//! ```
//! What the scan asks for overlaps (a group that a chunk cuts is read as a whole); each chunk is read once all the same, unless
//! the scan looks back. Knows nothing of what the bytes mean.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use sixfold_log_format::hot_log::FileNumber;

use crate::bounds::{SCAN_AHEAD_CHUNKS, SCAN_CHUNK_BYTES};
use crate::event::{DiskError, DiskToken};

const CHUNK: u64 = SCAN_CHUNK_BYTES as u64;

/// A chunk: file, and its number in it.
type At = (FileNumber, u64);

#[derive(Debug)]
enum Chunk {
    Reading(DiskToken),
    Here(Result<Bytes, DiskError>),
}

/// A read to be asked for: file, offset, length.
pub(crate) type Wanted = (FileNumber, u64, u32);

/// Chunks that are there or on their way.
#[derive(Debug)]
pub(crate) struct Ahead {
    files: Vec<(FileNumber, u64)>,
    /// What the scan waits for.
    wanted: Option<Wanted>,
    chunks: BTreeMap<At, Chunk>,
}

impl Ahead {
    /// Nothing yet. `files` have these lengths.
    pub(crate) fn new(files: Vec<(FileNumber, u64)>) -> Ahead {
        Ahead {
            files,
            wanted: None,
            chunks: BTreeMap::new(),
        }
    }

    /// The scan waits for this. Returns reads that are not under way yet; each is told by [`Ahead::asked`].
    pub(crate) fn want(&mut self, wanted: Wanted) -> Vec<Wanted> {
        let (file, offset, bytes) = wanted;
        self.wanted = Some(wanted);
        let first = (file, offset / CHUNK);
        self.chunks = self.chunks.split_off(&first);
        let last = (offset + u64::from(bytes)).div_ceil(CHUNK);
        let count = usize::try_from(last - first.1).expect("the scan's reads are bounded");
        let mut reads = Vec::new();
        for (at, bytes) in self.from(first).take(count + SCAN_AHEAD_CHUNKS) {
            if !self.chunks.contains_key(&at) {
                reads.push((at.0, at.1 * CHUNK, bytes));
            }
        }
        reads
    }

    /// Chunks from this one on, with their lengths, into the files that follow.
    fn from(&self, first: At) -> impl Iterator<Item = (At, u32)> {
        let files = self
            .files
            .iter()
            .skip_while(move |(file, _)| *file < first.0);
        files.flat_map(move |(file, length)| {
            let begin = if *file == first.0 { first.1 } else { 0 };
            (begin..length.div_ceil(CHUNK)).map(move |number| {
                let bytes = (length - number * CHUNK).min(CHUNK);
                let bytes = u32::try_from(bytes).expect("a chunk is short");
                ((*file, number), bytes)
            })
        })
    }

    /// A read was asked for under this token.
    pub(crate) fn asked(&mut self, read: Wanted, token: DiskToken) {
        let at = (read.0, read.1 / CHUNK);
        self.chunks.insert(at, Chunk::Reading(token));
    }

    /// A read ended; false when it is none of these, or nobody needs it any more.
    pub(crate) fn arrived(&mut self, token: DiskToken, result: Result<Bytes, DiskError>) -> bool {
        for chunk in self.chunks.values_mut() {
            if matches!(chunk, Chunk::Reading(reading) if *reading == token) {
                *chunk = Chunk::Here(result);
                return true;
            }
        }
        false
    }

    /// What the scan waits for, when all of it is there: fewer bytes only where the file has ended.
    pub(crate) fn take(&mut self) -> Option<Result<Bytes, DiskError>> {
        let (file, offset, bytes) = self.wanted?;
        let end = offset + u64::from(bytes);
        let mut pieces = Vec::new();
        for number in offset / CHUNK..end.div_ceil(CHUNK) {
            let chunk = match self.chunks.get(&(file, number)) {
                // Behind the length that the file was found with.
                None => break,
                Some(Chunk::Reading(_)) => return None,
                Some(Chunk::Here(Err(error))) => return Some(Err(*error)),
                Some(Chunk::Here(Ok(bytes))) => bytes,
            };
            let start = number * CHUNK;
            let from = usize::try_from(offset.saturating_sub(start)).expect("within a chunk");
            let to = usize::try_from((end - start).min(CHUNK)).expect("within a chunk");
            let to = to.min(chunk.len());
            pieces.push(chunk.slice(from.min(to)..to));
            if (chunk.len() as u64) < CHUNK {
                break;
            }
        }
        self.wanted = None;
        Some(Ok(match &pieces[..] {
            [piece] => piece.clone(),
            pieces => {
                let mut all = BytesMut::with_capacity(bytes as usize);
                pieces.iter().for_each(|piece| all.extend_from_slice(piece));
                all.freeze()
            }
        }))
    }
}
