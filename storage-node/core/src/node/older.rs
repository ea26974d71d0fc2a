//! Hot-log files that a start passed over: their redo is in layers, and everything else of them stands at the head of a later file.
//!
//! ```text
//!   ready -> the newest of them, a chunk at a time, at the pace of the node's own work -> its batches are held again -> the one before
//! ```
//! They are kept for gossip and watch alone. Until a file was read, whoever asks for its batches is asked to come again; a file
//! that must go goes unread. Damage is said, and the file and those before it are of no use: nothing is lost but the window.

use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::Batch;
use sixfold_log_format::hot_log::{
    Entry, FileHeader, FileNumber, Found, claimed_sequence, decode_group,
};

use super::NodeCore;
use crate::action::{Action, FileName, Severity};
use crate::bounds::{GROUP_BYTES_LIMIT, OLDER_CHUNK_BYTES};
use crate::event::{DiskError, DiskToken};
use crate::hot_log::{Place, whole_blocks};
use crate::layers::rate::Lane;

/// The files that were passed over and not read yet.
#[derive(Debug, Default)]
pub(crate) struct Older {
    /// Oldest first; the last one is read next.
    files: Vec<FileNumber>,
    /// The sequence number that the file behind them begins with.
    next_sequence: u64,
    /// One is damaged: it and those before it stay unread until they go.
    given_up: bool,
    /// The read in flight.
    token: Option<DiskToken>,
    /// When the next one may be asked for.
    due: Duration,
    /// Where reading is in the last file.
    header: Option<FileHeader>,
    sequence: u64,
    offset: u64,
    wanted: usize,
}

/// What came of a chunk.
enum Read {
    /// So many bytes are wanted next.
    More(usize),
    /// Nothing follows in this file.
    End,
    /// This is wrong.
    Damaged(String),
}

impl Older {
    /// These were passed over; the file behind them begins with group `next_sequence`.
    pub(crate) fn new(files: Vec<FileNumber>, next_sequence: u64, now: Duration) -> Older {
        Older {
            files,
            next_sequence,
            due: now,
            ..Older::default()
        }
    }

    /// Whether a file was passed over and not read to its end since.
    pub(crate) fn holds(&self, file: FileNumber) -> bool {
        self.files.binary_search(&file).is_ok()
    }

    /// Whether more of the log will be there soon.
    pub(crate) fn is_pending(&self) -> bool {
        !self.files.is_empty() && !self.given_up
    }

    /// When something is to be read.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        (self.is_pending() && self.token.is_none()).then_some(self.due)
    }

    /// The oldest file goes.
    pub(crate) fn forget(&mut self, file: FileNumber) {
        if self.files.last() == Some(&file) {
            self.begin_file();
        }
        self.files.retain(|held| *held != file);
    }

    fn begin_file(&mut self) {
        (self.header, self.offset, self.token) = (None, 0, None);
        self.wanted = OLDER_CHUNK_BYTES;
    }
}

impl NodeCore {
    /// Reads the next chunk of the files that the start passed over, when it is time.
    pub(super) fn read_older(&mut self, now: Duration) {
        if self.older.poll_timeout().is_none_or(|due| due > now) {
            return;
        }
        let file = *self.older.files.last().expect("it is pending");
        let bytes = self.older_asked();
        let token = self.reads.next_token();
        self.older.token = Some(token);
        self.actions.push_back(Action::Read {
            token,
            file: FileName::HotLog(file),
            offset: self.older.offset,
            bytes: u32::try_from(bytes).expect("bounded by the longest group"),
        });
    }

    /// Bytes that the read at hand is for.
    fn older_asked(&self) -> u64 {
        let left = self.log.file_bytes() - self.older.offset;
        let wanted = self.older.wanted.max(OLDER_CHUNK_BYTES) as u64;
        whole_blocks(wanted, u64::from(self.block_bytes)).min(left)
    }

    /// A read ended; false when it is none of these.
    pub(super) fn on_older_read(
        &mut self,
        token: DiskToken,
        result: &Result<Bytes, DiskError>,
    ) -> bool {
        if self.older.token != Some(token) {
            return false;
        }
        self.older.token = None;
        let read = match result {
            Ok(bytes) => {
                self.older.due = self.next_slice(Lane::Rest, bytes.len());
                self.take_older(bytes)
            }
            Err(error) => Read::Damaged(format!("{error:?}")),
        };
        let file = *self.older.files.last().expect("it was read");
        let read = match read {
            Read::End if self.older.sequence != self.older.next_sequence => {
                let (expected, next) = (self.older.sequence, self.older.next_sequence);
                Read::Damaged(format!(
                    "group {expected} is unreadable, group {next} behind it is sound"
                ))
            }
            read => read,
        };
        match read {
            Read::More(bytes) => self.older.wanted = bytes,
            Read::End => self.older_file_ended(),
            Read::Damaged(what) => {
                let offset = self.older.offset;
                self.scrub.damage_found += 1;
                self.older.given_up = true;
                self.log_line(
                    Severity::Error,
                    format!(
                        "hot-log file {} is damaged at offset {offset}: {what}; what it held is in layers",
                        file.0
                    ),
                );
            }
        }
        true
    }

    /// All of a file was read: the log is whole from its first batch on.
    fn older_file_ended(&mut self) {
        let header = self.older.header.take();
        self.older.next_sequence = header.map_or(0, |header| header.first_sequence);
        self.older.files.pop();
        self.older.begin_file();
        for segment in self.segments.values_mut() {
            segment.chain.lower_log_start(&segment.history);
        }
        self.upkeep.look();
    }

    fn take_older(&mut self, bytes: &Bytes) -> Read {
        let block = self.block_bytes as usize;
        let file = *self.older.files.last().expect("it was read");
        let mut at = 0;
        // It was whole when the start listed it.
        if (bytes.len() as u64) < self.older_asked() {
            let end = self.older.offset + bytes.len() as u64;
            return Read::Damaged(format!("it ends at byte {end}"));
        }
        if self.older.offset == 0 {
            // What its header says is known but for this, and its groups say it, too.
            let first = bytes.get(block..).and_then(claimed_sequence);
            let header = FileHeader {
                node: self.node,
                file,
                block_bytes: self.block_bytes,
                first_sequence: first.unwrap_or(0),
                folded: FileNumber(0),
            };
            self.older.sequence = header.first_sequence;
            self.older.header = Some(header);
            at = block;
        }
        let start = self.older.offset;
        let header = self.older.header.clone().expect("read at the file's begin");
        loop {
            self.older.offset = start + at as u64;
            let left = self.log.file_bytes() - self.older.offset;
            let here = bytes.slice(at..);
            if left == 0 {
                return Read::End;
            }
            if here.is_empty() {
                return if at == 0 { Read::End } else { Read::More(0) };
            }
            match decode_group(&here, &header) {
                Found::Group {
                    sequence,
                    entries,
                    bytes: length,
                } if sequence == self.older.sequence => {
                    for (offset, entry) in entries {
                        let place = Place {
                            file,
                            offset: self.older.offset + u64::from(offset),
                            bytes: u32::try_from(entry.encoded_bytes())
                                .expect("an entry fits a group"),
                        };
                        if let Err(what) = self.hold_older(&entry, place) {
                            return Read::Damaged(what);
                        }
                    }
                    at += length;
                    self.older.sequence += 1;
                }
                Found::More { bytes: more }
                    if more <= GROUP_BYTES_LIMIT
                        && more as u64 <= left
                        && (at > 0 || more > here.len()) =>
                {
                    return Read::More(more);
                }
                Found::Group { .. } | Found::More { .. } | Found::Empty | Found::Bad(_) => {
                    return Read::End;
                }
            }
        }
    }

    /// A batch that is in the layers is held again. Everything else was said again behind it.
    fn hold_older(&mut self, entry: &Entry, place: Place) -> Result<(), String> {
        let Entry::Batch { segment: id, bytes } = entry else {
            return Ok(());
        };
        let Some(segment) = self.segments.get_mut(id) else {
            return Ok(());
        };
        let batch =
            Batch::decode(bytes.clone(), segment.volume).map_err(|error| error.to_string())?;
        segment.chain.insert_older(&batch, place);
        Ok(())
    }
}
