//! The scan at a start: reads the hot log from its first file on and ends with one of three verdicts.
//!
//! ```text
//!   group, group, ..., group, zeros or what an earlier
//!                              life of the file left      clean
//!   group, group, ..., group, anything else without a
//!                              later valid group          torn tail: cut, zeroed, written over
//!   group, ..., something unreadable, ..., later group    damaged: where; the scan goes on behind it
//! ```
//! Files are recycled: what stands behind the tail may be groups of an earlier life. No verdict leans on zeros. Whether a group is
//! sound says its checksum, which is seeded with the file's number, so that none of an earlier life ever is. Clean and torn
//! differ in a line of the node's log alone: the log ends at the same place, and writing goes on there. They are told apart by the
//! sequence numbers that never fall: a header with a lower one than expected is old, one with the expected one is torn. (Where the
//! file ends before an old header shows itself, old bytes are called torn.)
//! A recycled file that was not begun has a zeroed first block, so that no header of an earlier life is met.
//! The first file need not be file 1: older ones were deleted, and what they held beside batches stands at its head.
//! What damage took away shows itself: a segment's chain ends before it, and peers know what was acknowledged (R12).
//!
//! One write is in flight at a time, so at most the last group of the log can be torn, and what follows it was never
//! written. A group of a sequence number at or above the expected one behind an unreadable place therefore proves that
//! something durable is damaged. A group is at most [`GROUP_BYTES_LIMIT`] long, which is how far the scan looks; a later file
//! that was begun proves the same. The torn area is zeroed before anything is written, so that no remains of it can ever be
//! read as something later; among old bytes its first block is enough, since a group without its header is nothing. Damage of the very last group cannot be told from a tear (R12); peers find it by the SCL that
//! they were told before.
//!
//! A file's first block is predictable: where only it is unreadable, the scan goes on and it is written again.

use bytes::Bytes;
use sixfold_log_format::NodeId;
use sixfold_log_format::hot_log::{
    Entry, FileHeader, FileNumber, Found, claimed_sequence, decode_group,
};
use sixfold_log_format::mutant::{Mutant, planted};

use super::{Place, whole_blocks};
use crate::bounds::{GROUP_BYTES_LIMIT, SCAN_CHUNK_BYTES};

/// Where writing goes on.
#[derive(Debug)]
pub(crate) struct Tail {
    /// The file that was written last.
    pub(crate) current: Option<FileHeader>,
    /// Where in it the next group goes.
    pub(crate) offset: u64,
    /// The next group's sequence number.
    pub(crate) sequence: u64,
    /// Files that are there and were never begun.
    pub(crate) ready: Vec<FileNumber>,
    /// The next file to make.
    pub(crate) next_file: FileNumber,
    /// Torn areas to be zeroed first.
    pub(crate) zeros: Vec<(FileNumber, u64, usize)>,
    /// File headers to be written again.
    pub(crate) headers: Vec<FileHeader>,
    /// What the verdict was, when it was not clean: where the log was cut.
    pub(crate) torn: Option<(FileNumber, u64)>,
    /// Files that were begun, the oldest first.
    pub(crate) begun: Vec<FileNumber>,
    /// Where something durable could not be read.
    pub(crate) damage: Vec<String>,
    /// Files that were passed over, the oldest first, and the sequence number that the one behind them begins with.
    pub(crate) older: (Vec<FileNumber>, u64),
}

impl Tail {
    fn empty() -> Tail {
        Tail {
            current: None,
            offset: 0,
            sequence: 1,
            ready: Vec::new(),
            next_file: FileNumber(1),
            zeros: Vec::new(),
            headers: Vec::new(),
            torn: None,
            begun: Vec::new(),
            damage: Vec::new(),
            older: (Vec::new(), 0),
        }
    }

    /// Whether everything that was read was what it had to be, its end apart: what was passed over need not be read then.
    pub(crate) fn is_sound(&self) -> bool {
        let begins = self.begun.first()
            == self
                .older
                .0
                .last()
                .map(|last| FileNumber(last.0 + 1))
                .as_ref();
        begins && self.damage.is_empty() && self.headers.is_empty()
    }
}

/// Takes what the scan finds.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(Place, Entry, bool);

/// What the scan wants next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Bytes of a file.
    Read {
        /// The file.
        file: FileNumber,
        /// Where.
        offset: u64,
        /// How many.
        bytes: u32,
    },
    /// It is over: clean or cut.
    Done(Box<Tail>),
    /// The directory is not this node's, or damaged beyond reading.
    Corrupt(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Looking at a file's first block, with this many bytes.
    Head(usize),
    /// Reading groups.
    Groups,
    /// Looking behind an unreadable place.
    LookAhead,
}

/// The scan.
#[derive(Debug)]
pub(crate) struct Scan {
    node: NodeId,
    block_bytes: u32,
    file_bytes: u64,
    files: Vec<(FileNumber, u64)>,
    /// Files that are passed over: a start needs nothing of them.
    passed: usize,
    at: usize,
    step: Step,
    header: FileHeader,
    begun: bool,
    offset: u64,
    expected: u64,
    wanted: usize,
    tail: Tail,
}

impl Scan {
    /// A scan of `files` but for the first `passed`; [`Scan::start`] gives the first step.
    pub(crate) fn new(
        node: NodeId,
        block_bytes: u32,
        file_bytes: u64,
        files: Vec<(FileNumber, u64)>,
        passed: usize,
    ) -> Scan {
        let header = FileHeader {
            node,
            file: FileNumber(1),
            block_bytes,
            first_sequence: 1,
            folded: FileNumber(0),
        };
        Scan {
            node,
            block_bytes,
            file_bytes,
            files,
            passed,
            at: passed,
            step: Step::Head(SCAN_CHUNK_BYTES),
            header,
            begun: false,
            offset: 0,
            expected: 1,
            wanted: SCAN_CHUNK_BYTES,
            tail: Tail::empty(),
        }
    }

    /// How many of the oldest files it passes over.
    pub(crate) fn passed(&self) -> usize {
        self.passed
    }

    /// The first step.
    pub(crate) fn start(&mut self) -> Next {
        for pair in self.files.windows(2) {
            let ((before, _), (file, _)) = (pair[0], pair[1]);
            if file.0 != before.0 + 1 {
                let missing = before.0 + 1;
                let line = format!("hot-log file {missing} is missing");
                self.tail.damage.push(line);
            }
        }
        self.enter_file()
    }

    /// Takes the bytes that were asked for. Entries found go to `sink` with their places, in order, and whether nothing before
    /// them was unreadable.
    pub(crate) fn take(&mut self, bytes: &Bytes, sink: Sink<'_>) -> Next {
        if bytes.is_empty() {
            return Next::Corrupt(format!(
                "hot-log file {} is shorter than it was found",
                self.file().0
            ));
        }
        match self.step {
            Step::Head(asked) => self.take_head(asked, bytes, sink),
            Step::Groups => self.take_groups(bytes, sink),
            Step::LookAhead => self.take_look_ahead(bytes),
        }
    }

    fn file(&self) -> FileNumber {
        self.files[self.at].0
    }

    fn read(&self, offset: u64, bytes: usize) -> Next {
        let left = self.file_bytes - offset;
        let bytes = whole_blocks(bytes as u64, u64::from(self.block_bytes)).min(left);
        let bytes = u32::try_from(bytes).expect("reads are bounded by the group limit");
        Next::Read {
            file: self.file(),
            offset,
            bytes,
        }
    }

    fn enter_file(&mut self) -> Next {
        let Some((file, length)) = self.files.get(self.at).copied() else {
            return self.done();
        };
        if length != self.file_bytes {
            // Only a file that was being made when the node died may have another length.
            if self.at + 1 == self.files.len() && length < self.file_bytes {
                return self.done();
            }
            return Next::Corrupt(format!(
                "hot-log file {} has {length} bytes, expected {}",
                file.0, self.file_bytes
            ));
        }
        self.step = Step::Head(SCAN_CHUNK_BYTES);
        self.read(0, SCAN_CHUNK_BYTES)
    }

    fn done(&mut self) -> Next {
        let mut tail = std::mem::replace(&mut self.tail, Tail::empty());
        tail.sequence = self.expected;
        let older = self.files[..self.passed].iter();
        tail.older.0 = older.map(|(file, _)| *file).collect();
        let last = tail
            .ready
            .last()
            .copied()
            .or(tail.current.as_ref().map(|header| header.file));
        tail.next_file = FileNumber(last.map_or(1, |file| file.0 + 1));
        Next::Done(Box::new(tail))
    }

    fn take_head(&mut self, asked: usize, bytes: &Bytes, sink: Sink<'_>) -> Next {
        let file = self.file();
        let block = self.block_bytes as usize;
        if bytes.len() < block {
            return Next::Corrupt(format!(
                "hot-log file {} ends at byte {}",
                file.0,
                bytes.len()
            ));
        }
        let mut predicted = FileHeader {
            node: self.node,
            file,
            block_bytes: self.block_bytes,
            first_sequence: self.expected,
            folded: FileNumber(0),
        };
        let rest = bytes.slice(block..);
        // What came before the first file that is there is not known.
        let is_first = self.tail.begun.is_empty();
        let begun = match FileHeader::decode(&bytes[..block]) {
            Ok(header) => match self.check_header(&header) {
                Ok(()) => {
                    predicted = header;
                    true
                }
                Err(reason) => return Next::Corrupt(reason),
            },
            Err(_) => match decode_group(&rest, &predicted) {
                Found::Group { sequence, .. } if sequence == self.expected || is_first => {
                    self.expected = sequence;
                    predicted.first_sequence = sequence;
                    self.tail.headers.push(predicted.clone());
                    true
                }
                Found::More { bytes: more }
                    if more <= GROUP_BYTES_LIMIT && more > rest.len() && asked < more =>
                {
                    self.step = Step::Head(more + block);
                    return self.read(0, more + block);
                }
                _ => false,
            },
        };
        self.header = predicted;
        self.begun = begun;
        self.offset = block as u64;
        if begun {
            // Whatever lies behind the last group of the file before was never part of the log.
            self.tail.zeros.clear();
            self.tail.torn = None;
            self.tail.begun.append(&mut self.tail.ready);
            if self.tail.begun.is_empty() {
                self.tail.older.1 = self.expected;
            }
            self.tail.begun.push(file);
            self.step = Step::Groups;
            self.wanted = rest.len();
            self.take_groups(&rest, sink)
        } else {
            self.look_ahead()
        }
    }

    /// A readable header must be this file's and go on where the file before ended.
    fn check_header(&mut self, header: &FileHeader) -> Result<(), String> {
        let file = self.file();
        if header.node != self.node {
            return Err(format!(
                "hot-log file {} belongs to node {}, this is node {}",
                file.0, header.node, self.node
            ));
        }
        if header.file != file || header.block_bytes != self.block_bytes {
            return Err(format!("hot-log file {} has another file's header", file.0));
        }
        let is_first = self.tail.begun.is_empty() && self.tail.ready.is_empty();
        if header.first_sequence < self.expected {
            return Err(format!(
                "hot-log file {} begins with group {}, group {} was read before it",
                file.0, header.first_sequence, self.expected
            ));
        }
        if header.first_sequence > self.expected && !is_first {
            let current = self.tail.current.as_ref();
            let (last, offset) =
                current.map_or((file, 0), |header| (header.file, self.tail.offset));
            self.tail.damage.push(format!(
                "hot-log file {} is damaged at offset {offset}: group {} is unreadable, file {} begins with {}",
                last.0, self.expected, file.0, header.first_sequence
            ));
        }
        self.expected = header.first_sequence;
        Ok(())
    }

    fn take_groups(&mut self, bytes: &Bytes, sink: Sink<'_>) -> Next {
        let mut at = 0;
        loop {
            if self.offset == self.file_bytes {
                return self.end_file();
            }
            let here = bytes.slice(at..);
            if here.is_empty() {
                return self.want(SCAN_CHUNK_BYTES);
            }
            match decode_group(&here, &self.header) {
                Found::Group {
                    sequence,
                    entries,
                    bytes: length,
                } if sequence == self.expected || planted(Mutant::ScanTakesAnyGroup) => {
                    self.place_entries(entries, sink);
                    at += length;
                    self.offset += length as u64;
                    self.expected += 1;
                }
                Found::Group { sequence, .. } if sequence > self.expected => {
                    // Read once more, as the next one.
                    self.pass_over(sequence);
                }
                Found::More { bytes: more }
                    if more > here.len()
                        && more <= GROUP_BYTES_LIMIT
                        && more as u64 <= self.file_bytes - self.offset
                        && (at > 0 || more > self.wanted) =>
                {
                    return self.want(more.max(SCAN_CHUNK_BYTES));
                }
                Found::Group { .. } | Found::More { .. } | Found::Empty | Found::Bad(_) => {
                    return self.look_ahead();
                }
            }
        }
    }

    fn want(&mut self, bytes: usize) -> Next {
        self.step = Step::Groups;
        self.wanted = bytes;
        self.read(self.offset, bytes)
    }

    fn place_entries(&self, entries: Vec<(u32, Entry)>, sink: Sink<'_>) {
        for (offset, entry) in entries {
            let bytes = u32::try_from(entry.encoded_bytes()).expect("an entry fits a group");
            let place = Place {
                file: self.file(),
                offset: self.offset + u64::from(offset),
                bytes,
            };
            sink(place, entry, self.tail.damage.is_empty());
        }
    }

    /// Groups up to `later` are unreadable.
    fn pass_over(&mut self, later: u64) {
        self.tail.damage.push(format!(
            "hot-log file {} is damaged at offset {}: group {} is unreadable, group {later} behind it is sound",
            self.file().0,
            self.offset,
            self.expected
        ));
        self.expected = later;
    }

    fn look_ahead(&mut self) -> Next {
        self.step = Step::LookAhead;
        // A later group begins within one group's length; it must be whole in the window to be recognized.
        self.read(self.offset, 2 * GROUP_BYTES_LIMIT)
    }

    fn take_look_ahead(&mut self, bytes: &Bytes) -> Next {
        let block = self.block_bytes as usize;
        let (mut dirty, mut is_old) = (0, false);
        for at in (0..bytes.len()).step_by(block) {
            let end = (at + block).min(bytes.len());
            if bytes[at..end].iter().all(|byte| *byte == 0) {
                continue;
            }
            dirty = end;
            let claimed = claimed_sequence(&bytes[at..end]);
            is_old |= claimed.is_some_and(|sequence| sequence < self.expected);
            if at > 0
                && at <= GROUP_BYTES_LIMIT
                // What is no later group need not be summed up: old groups may be many.
                && claimed.is_some_and(|sequence| sequence >= self.expected)
                && let Found::Group { sequence, .. } =
                    decode_group(&bytes.slice(at..), &self.header)
                && sequence >= self.expected
                && !planted(Mutant::DamageCutAsTorn)
            {
                self.pass_over(sequence);
                self.offset += at as u64;
                if !self.begun {
                    self.begun = true;
                    let mut header = self.header.clone();
                    header.first_sequence = self.expected;
                    self.tail.headers.push(header);
                    self.tail.begun.append(&mut self.tail.ready);
                    self.tail.begun.push(self.file());
                }
                return self.want(SCAN_CHUNK_BYTES);
            }
        }
        if is_old {
            if claimed_sequence(bytes) == Some(self.expected) {
                self.tail.torn = Some((self.file(), self.offset));
            }
            dirty = dirty.min(block);
        } else if dirty > 0 {
            self.tail.torn = Some((self.file(), self.offset));
        }
        if dirty > 0 {
            let file = self.file();
            for start in (0..dirty).step_by(SCAN_CHUNK_BYTES) {
                let length = (dirty - start).min(SCAN_CHUNK_BYTES);
                let length = whole_blocks(length as u64, u64::from(self.block_bytes));
                let length = usize::try_from(length).expect("bounded by the chunk");
                self.tail
                    .zeros
                    .push((file, self.offset + start as u64, length));
            }
        }
        if self.begun {
            self.end_file()
        } else {
            self.tail.ready.push(self.file());
            self.at += 1;
            self.enter_file()
        }
    }

    fn end_file(&mut self) -> Next {
        self.tail.current = Some(self.header.clone());
        self.tail.offset = self.offset;
        self.at += 1;
        self.enter_file()
    }
}
