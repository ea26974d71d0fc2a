//! Group append: exactly one write is in flight; while it is, entries gather, and the next write takes them (F10).
//!
//! ```text
//!   append -> queue -> (nothing in flight?) -> group -> Write -> durable, in order
//!                                    \-- no room in the file: the next file, prepared long ago
//! ```
//! No timers: a lone entry is written at once. A block that was written is never written again. The header of a file goes
//! out with its first group, in one write, so that nothing of the file is acknowledged before its header is durable.
//! What entries mean is not known here.

mod room;

use std::collections::VecDeque;
use std::time::Duration;

use sixfold_log_format::NodeId;
use sixfold_log_format::hot_log::{
    Entry, FileHeader, FileNumber, GROUP_HEADER_BYTES, encode_group,
};

use super::scan::Tail;
use super::{Place, Ticket, whole_blocks};
use crate::action::{Action, FileName};
use crate::bounds::{Bounds, FULL_RETRY, GROUP_BYTES_LIMIT, READY_FILES_MAX, SLOW_WRITE};
use crate::event::{DiskError, DiskToken};
use crate::io_buf::IoBuf;

/// What a state entry holds more than an install.
const STATE_MARGIN_BYTES: usize = 64;

/// Padding of a write, in hundredths of what it carries, above which a part of it goes out alone that has at most
/// [`FILLED_PERCENT`] of it.
const PADDED_PERCENT: u64 = 25;
/// See [`PADDED_PERCENT`].
const FILLED_PERCENT: u64 = 15;

/// Why an entry was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AppendError {
    /// It fits no file.
    #[error("an entry of {bytes} bytes does not fit a group of {bytes_max}")]
    TooLong { bytes: usize, bytes_max: usize },
    /// Too much waits already.
    #[error("{queued_bytes} bytes wait for the hot log")]
    Overloaded { queued_bytes: usize },
    /// The disk is full.
    #[error("the disk is full")]
    Full,
}

/// An entry that is durable now.
#[derive(Debug)]
pub(crate) struct Durable {
    /// Its ticket; `None` for what the log wrote for itself at the head of a file.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) entry: Entry,
    pub(crate) place: Place,
}

/// What the end of a write means.
#[derive(Debug)]
pub(crate) enum Written {
    /// These are durable, in this order. Empty after a repair.
    Durable(Vec<Durable>),
    /// The process must end.
    Failed(String),
}

#[derive(Debug)]
struct Queued {
    ticket: Option<Ticket>,
    entry: Entry,
    bytes: usize,
}

#[derive(Debug)]
struct InFlight {
    token: DiskToken,
    file: FileNumber,
    group_offset: u64,
    group: Vec<(Queued, u32)>,
    since: Duration,
}

/// The writing side of the hot log.
#[derive(Debug)]
pub(crate) struct HotLog {
    node: NodeId,
    block_bytes: u32,
    file_bytes: u64,
    group_bytes_max: usize,
    queued_bytes_max: usize,
    current: Option<FileHeader>,
    /// Where the next group goes in the current file.
    offset: u64,
    sequence: u64,
    /// Files that were begun, the oldest first; the last one is written.
    begun: VecDeque<FileNumber>,
    /// States at the head of the current file that are not durable yet.
    heads_missing: usize,
    /// Nothing up to this file is needed for a start, as far as is known: all redo in them is in layers.
    folded: FileNumber,
    ready: VecDeque<FileNumber>,
    /// The file in the making, and what it is made of.
    preparing: Option<(FileNumber, Option<FileNumber>)>,
    /// Files that nobody needs any more, the oldest first: they become next files.
    spares: VecDeque<FileNumber>,
    next_file: FileNumber,
    retry_at: Option<Duration>,
    full: bool,
    repairs: VecDeque<(FileNumber, u64, IoBuf)>,
    queue: VecDeque<Queued>,
    /// Entries at the head of the queue that the write in flight, or the last one, has left there.
    left_count: usize,
    queued_bytes: usize,
    in_flight: Option<InFlight>,
    last_ticket: Ticket,
    durable: Ticket,
    next_token: u64,
    last_write: Duration,
    pub(crate) group_writes: u64,
}

impl HotLog {
    /// A log that cannot write before [`HotLog::resume`].
    pub(crate) fn new(node: NodeId, block_bytes: u32, file_bytes: u64, bounds: &Bounds) -> HotLog {
        HotLog {
            node,
            block_bytes,
            file_bytes,
            group_bytes_max: bounds.group_bytes_max.min(GROUP_BYTES_LIMIT),
            queued_bytes_max: bounds.queued_bytes_max,
            current: None,
            offset: 0,
            sequence: 1,
            begun: VecDeque::new(),
            heads_missing: 0,
            folded: FileNumber(0),
            ready: VecDeque::new(),
            preparing: None,
            spares: VecDeque::new(),
            next_file: FileNumber(1),
            retry_at: None,
            full: false,
            repairs: VecDeque::new(),
            queue: VecDeque::new(),
            left_count: 0,
            queued_bytes: 0,
            in_flight: None,
            last_ticket: Ticket(0),
            durable: Ticket(0),
            next_token: 0,
            last_write: Duration::ZERO,
            group_writes: 0,
        }
    }

    /// Goes on where the scan ended.
    ///
    /// `heads` are states that are missing at the head of the last file: a crash cut them short, and nothing else stands there yet.
    pub(crate) fn resume(&mut self, tail: Tail, heads: Vec<Entry>) {
        self.begun = tail.older.0.into();
        self.begun.extend(tail.begun);
        self.heads_missing = heads.len();
        for entry in heads {
            let bytes = entry.encoded_bytes();
            self.queued_bytes += bytes;
            self.queue.push_back(Queued {
                ticket: None,
                entry,
                bytes,
            });
        }
        self.current = tail.current;
        self.offset = tail.offset;
        self.sequence = tail.sequence;
        self.ready = tail.ready.into();
        self.next_file = tail.next_file;
        self.repairs = tail
            .zeros
            .into_iter()
            .map(|(file, offset, bytes)| (file, offset, IoBuf::zeroed(bytes)))
            .collect();
        for header in tail.headers {
            self.repairs
                .push_back((header.file, 0, IoBuf::copy_of(&header.encode())));
        }
    }

    /// Longest entry that is taken: with a margin for the state of its segment, which stands at the head of a file and is a
    /// little longer than the install that brought it.
    fn entry_bytes_max(&self) -> usize {
        let file_room = self.file_bytes.saturating_sub(u64::from(self.block_bytes));
        usize::try_from(file_room)
            .unwrap_or(usize::MAX)
            .min(GROUP_BYTES_LIMIT)
            .saturating_sub(GROUP_HEADER_BYTES + STATE_MARGIN_BYTES)
    }

    /// Whether no next file could be made.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Whether the disk is slow now.
    pub(crate) fn is_slow(&self, now: Duration) -> bool {
        let waiting = self
            .in_flight
            .as_ref()
            .map_or(Duration::ZERO, |write| now.saturating_sub(write.since));
        self.last_write.max(waiting) >= SLOW_WRITE
    }

    /// Whether so much waits that nothing should be pulled from peers.
    pub(crate) fn is_busy(&self) -> bool {
        self.queued_bytes > self.queued_bytes_max / 2
    }

    /// Whether states at the head of the current file are not durable yet.
    pub(crate) fn lacks_heads(&self) -> bool {
        self.heads_missing > 0
    }

    /// Bytes of a file that the states of all segments may take at its head, and the same again for their catalogs.
    pub(crate) fn heads_bytes_max(&self) -> usize {
        usize::try_from(self.file_bytes / 4).unwrap_or(usize::MAX)
    }

    /// Bytes of a file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes that wait.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Everything appended so far has this ticket or a lower one.
    pub(crate) fn last_ticket(&self) -> Ticket {
        self.last_ticket
    }

    /// Everything with this ticket or a lower one is durable.
    pub(crate) fn durable(&self) -> Ticket {
        self.durable
    }

    /// Bytes of files in use.
    pub(crate) fn used_bytes(&self) -> u64 {
        let full = self.begun.len().saturating_sub(1) as u64 * self.file_bytes;
        full + if self.current.is_some() {
            self.offset
        } else {
            0
        }
    }

    /// Bytes that the files take that were begun.
    pub(crate) fn files_bytes(&self) -> u64 {
        self.begun.len() as u64 * self.file_bytes
    }

    /// The oldest file, when everything in it but batches stands at the head of the file after it, too, durably.
    pub(crate) fn oldest_spare(&self) -> Option<FileNumber> {
        let oldest = *self.begun.front()?;
        let behind = self.begun.len() > 1;
        let is_written = self.in_flight.as_ref().map(|write| write.file) == Some(oldest);
        // All states were found or written again behind it: the next file may have nothing but its header.
        (behind && !is_written && self.heads_missing == 0).then_some(oldest)
    }

    /// The oldest file is not needed any more: it is recycled, or deleted where there are enough.
    pub(crate) fn freed(&mut self, file: FileNumber) {
        let oldest = self.begun.pop_front();
        assert!(
            oldest == Some(file) && !self.begun.is_empty(),
            "only the oldest file goes, and never the last one"
        );
        // Its header may have been unreadable: nobody will miss it.
        self.repairs.retain(|(of, _, _)| *of != file);
        self.spares.push_back(file);
        // There is room again: a file that could not be made is tried at once.
        self.retry_at = self.retry_at.map(|_| Duration::ZERO);
    }

    /// Appends a batch that is held already, whatever the bounds say, while there is room for claims behind it: it is written so that
    /// a file can go, or in the place of a damaged one.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was taken.
    pub(crate) fn append_reserved(&mut self, entry: Entry) -> Result<Ticket, AppendError> {
        let bytes = entry.encoded_bytes();
        let bytes_max = self.entry_bytes_max();
        if bytes > bytes_max {
            return Err(AppendError::TooLong { bytes, bytes_max });
        }
        if bytes as u64 > self.copies_room() {
            return Err(AppendError::Full);
        }
        Ok(self.queue_entry(entry, bytes))
    }

    fn queue_entry(&mut self, entry: Entry, bytes: usize) -> Ticket {
        self.last_ticket = Ticket(self.last_ticket.0 + 1);
        self.queued_bytes += bytes;
        self.queue.push_back(Queued {
            ticket: Some(self.last_ticket),
            entry,
            bytes,
        });
        self.last_ticket
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was taken.
    pub(crate) fn append(&mut self, entry: Entry) -> Result<Ticket, AppendError> {
        let bytes = entry.encoded_bytes();
        let bytes_max = self.entry_bytes_max();
        if bytes > bytes_max {
            return Err(AppendError::TooLong { bytes, bytes_max });
        }
        if matches!(entry, Entry::Batch { .. }) {
            if self.queued_bytes + bytes > self.queued_bytes_max {
                return Err(AppendError::Overloaded {
                    queued_bytes: self.queued_bytes,
                });
            }
            if !self.takes_batches() {
                return Err(AppendError::Full);
            }
        }
        Ok(self.queue_entry(entry, bytes))
    }

    /// Starts the next write when none is in flight, and asks for the next file well ahead. `states` gives what stands at the
    /// head of every file (F6).
    pub(crate) fn pump(
        &mut self,
        now: Duration,
        states: &dyn Fn() -> Vec<Entry>,
        actions: &mut VecDeque<Action>,
    ) {
        self.prepare(now, actions);
        if self.in_flight.is_some() {
            return;
        }
        if let Some((file, offset, bytes)) = self.repairs.pop_front() {
            self.write(now, file, offset, bytes, Vec::new(), 0, actions);
            return;
        }
        if self.queue.is_empty() || !self.make_room(states) {
            return;
        }
        self.prepare(now, actions);
        self.write_group(now, actions);
    }

    fn group_bytes(&self, entries_bytes: usize) -> u64 {
        whole_blocks(
            (GROUP_HEADER_BYTES + entries_bytes) as u64,
            u64::from(self.block_bytes),
        )
    }

    /// Makes sure that the first entry fits the current file; false when it has to wait for a file.
    fn make_room(&mut self, states: &dyn Fn() -> Vec<Entry>) -> bool {
        let block_bytes = u64::from(self.block_bytes);
        loop {
            let first = self
                .queue
                .front()
                .expect("checked by the caller: the queue is not empty");
            let fits = self.offset + self.group_bytes(first.bytes) <= self.file_bytes;
            if self.current.is_some() && fits {
                let is_batch = matches!(first.entry, Entry::Batch { .. });
                return !is_batch || self.takes_now(first.bytes);
            }
            assert!(
                self.current.is_none() || self.offset > block_bytes,
                "an entry of {} bytes does not fit an empty hot-log file",
                first.bytes
            );
            let Some(file) = self.ready.pop_front() else {
                return false;
            };
            self.current = Some(FileHeader {
                node: self.node,
                file,
                block_bytes: self.block_bytes,
                first_sequence: self.sequence,
                folded: self.unneeded(),
            });
            self.offset = block_bytes;
            self.begun.push_back(file);
            let states = states();
            // What is left of the states of the file before: these are newer.
            while let Some(stale) = self.queue.pop_front_if(|next| next.ticket.is_none()) {
                self.queued_bytes -= stale.bytes;
            }
            let heads_bytes: usize = states.iter().map(Entry::encoded_bytes).sum();
            assert!(
                heads_bytes as u64 <= self.file_bytes / 8 * 7,
                "the states of all segments are {heads_bytes} bytes long: more than a hot-log file of {} bytes holds beside anything else",
                self.file_bytes
            );
            self.heads_missing = states.len();
            for entry in states.into_iter().rev() {
                let bytes = entry.encoded_bytes();
                self.queued_bytes += bytes;
                self.queue.push_front(Queued {
                    ticket: None,
                    entry,
                    bytes,
                });
            }
        }
    }

    /// How many of these entries go out with the next write: all, unless much of it would be padding and a part of them fills its
    /// blocks well. What is left is the head of the next write, which begins when this one ends: no entry waits for more than one.
    /// A lone entry, whatever fits one block, and the head of a file are never held back.
    fn well_filled(&self, taken: &[Queued]) -> usize {
        let is_padded = |bytes: usize, percent: u64| {
            self.group_bytes(bytes) * 100 > bytes as u64 * (100 + percent)
        };
        let all: usize = taken.iter().map(|queued| queued.bytes).sum();
        let block_bytes = u64::from(self.block_bytes);
        let is_short = self.group_bytes(all) <= block_bytes || self.offset == block_bytes;
        if is_short || !is_padded(all, PADDED_PERCENT) {
            return taken.len();
        }
        let mut bytes = 0;
        let mut best = taken.len();
        for (index, queued) in taken.iter().enumerate() {
            bytes += queued.bytes;
            if index + 1 >= self.left_count && !is_padded(bytes, FILLED_PERCENT) {
                best = index + 1;
            }
        }
        best
    }

    fn write_group(&mut self, now: Duration, actions: &mut VecDeque<Action>) {
        let header = self.current.clone().expect("make_room left a current file");
        let room = self.file_bytes - self.offset;
        let mut bytes = 0;
        let mut taken: Vec<Queued> = Vec::new();
        while let Some(next) = self.queue.front() {
            let total = bytes + next.bytes;
            let is_batch = matches!(next.entry, Entry::Batch { .. });
            let over = total + GROUP_HEADER_BYTES > self.group_bytes_max
                || self.group_bytes(total) > room
                || is_batch && !self.takes_now(total);
            if over && !taken.is_empty() {
                break;
            }
            bytes = total;
            taken.extend(self.queue.pop_front());
        }
        let block_bytes = u64::from(self.block_bytes);
        let with_header = self.offset == block_bytes;
        let left = taken.split_off(self.well_filled(&taken));
        self.left_count = left.len();
        for queued in left.into_iter().rev() {
            bytes -= queued.bytes;
            self.queue.push_front(queued);
        }
        self.queued_bytes -= bytes;
        let mut out = if with_header {
            header.encode()
        } else {
            Vec::new()
        };
        out.reserve(usize::try_from(self.group_bytes(bytes)).unwrap_or(0));
        let group_start = out.len();
        let (tickets, entries): (Vec<_>, Vec<_>) = taken
            .into_iter()
            .map(|queued| ((queued.ticket, queued.bytes), queued.entry))
            .unzip();
        let offsets = encode_group(&mut out, &header, self.sequence, &entries);
        let group = tickets
            .into_iter()
            .zip(entries)
            .zip(offsets)
            .map(|(((ticket, bytes), entry), offset)| {
                (
                    Queued {
                        ticket,
                        entry,
                        bytes,
                    },
                    offset,
                )
            })
            .collect();

        let group_offset = self.offset;
        let start = if with_header { 0 } else { group_offset };
        self.offset += (out.len() - group_start) as u64;
        self.sequence += 1;
        assert!(self.offset <= self.file_bytes && self.offset.is_multiple_of(block_bytes));
        self.write(
            now,
            header.file,
            start,
            IoBuf::copy_of(&out),
            group,
            group_offset,
            actions,
        );
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one place that fills in the write in flight"
    )]
    fn write(
        &mut self,
        now: Duration,
        file: FileNumber,
        offset: u64,
        bytes: IoBuf,
        group: Vec<(Queued, u32)>,
        group_offset: u64,
        actions: &mut VecDeque<Action>,
    ) {
        assert!(self.in_flight.is_none(), "one write at a time");
        self.next_token += 1;
        let token = DiskToken::log_write(self.next_token);
        self.in_flight = Some(InFlight {
            token,
            file,
            group_offset,
            group,
            since: now,
        });
        actions.push_back(Action::Write {
            token,
            file: FileName::HotLog(file),
            offset,
            bytes,
        });
    }

    /// A write ended.
    pub(crate) fn written(
        &mut self,
        now: Duration,
        token: DiskToken,
        result: Result<(), DiskError>,
    ) -> Written {
        let Some(write) = self.in_flight.take_if(|write| write.token == token) else {
            return Written::Failed(format!("a write that nobody asked for ended: {token:?}"));
        };
        if let Err(error) = result {
            return Written::Failed(format!(
                "write to hot-log file {} at offset {} failed: {error:?}",
                write.file.0, write.group_offset
            ));
        }
        self.last_write = now.saturating_sub(write.since);
        self.group_writes += u64::from(!write.group.is_empty());
        let durable = write.group.into_iter().map(|(queued, offset)| {
            match queued.ticket {
                Some(ticket) => {
                    assert!(ticket > self.durable, "tickets become durable in order");
                    self.durable = ticket;
                }
                None => self.heads_missing = self.heads_missing.saturating_sub(1),
            }
            Durable {
                ticket: queued.ticket,
                entry: queued.entry,
                place: Place {
                    file: write.file,
                    offset: write.group_offset + u64::from(offset),
                    bytes: u32::try_from(queued.bytes).expect("an entry fits a group"),
                },
            }
        });
        Written::Durable(durable.collect())
    }

    /// Asks for the files after the current one, one at a time: made of spares while there are any and they are not enough, made anew
    /// only when there is none at all.
    fn prepare(&mut self, now: Duration, actions: &mut VecDeque<Action>) {
        // A full disk gets back what it can.
        let ready_max = if self.full { 1 } else { READY_FILES_MAX };
        while !matches!(self.preparing, Some((_, Some(_)))) && !self.spares.is_empty() {
            let has_room = self.ready.len() + usize::from(self.preparing.is_some()) < ready_max;
            if has_room && self.preparing.is_some() {
                // It waits for the one that is made anew. No more do than there is room for.
                if self.spares.len() <= ready_max {
                    return;
                }
            } else if has_room {
                self.retry_at = None;
                let from = self.spares.pop_front();
                return self.ask_file(from, actions);
            }
            if let Some(file) = self.spares.pop_front() {
                let file = FileName::HotLog(file);
                actions.push_back(Action::Delete { file });
            }
        }
        let waits = self.retry_at.is_some_and(|at| now < at);
        if !self.ready.is_empty() || self.preparing.is_some() || waits {
            return;
        }
        self.retry_at = None;
        self.ask_file(None, actions);
    }

    fn ask_file(&mut self, from: Option<FileNumber>, actions: &mut VecDeque<Action>) {
        self.preparing = Some((self.next_file, from));
        actions.push_back(Action::Prepare {
            file: self.next_file,
            bytes: self.file_bytes,
            from,
        });
    }

    /// A file was made, or not. Returns one to be deleted: no other can be made of it.
    ///
    /// # Errors
    /// A line, when the process must end.
    pub(crate) fn prepared(
        &mut self,
        now: Duration,
        file: FileNumber,
        result: Result<(), DiskError>,
    ) -> Result<Option<FileNumber>, String> {
        let Some((_, from)) = self.preparing.take_if(|(preparing, _)| *preparing == file) else {
            return Err(format!(
                "hot-log file {} was made but not asked for",
                file.0
            ));
        };
        match result {
            Ok(()) => {
                self.ready.push_back(file);
                self.next_file = FileNumber(file.0 + 1);
                self.full = false;
                Ok(None)
            }
            // Its deletion makes room: what follows is made anew, at once.
            Err(DiskError::Full) if from.is_some() => Ok(from),
            Err(DiskError::Full) => {
                self.full = true;
                self.retry_at = Some(now + FULL_RETRY);
                Ok(None)
            }
            Err(DiskError::Failed) => Err(format!("hot-log file {} could not be made", file.0)),
        }
    }

    /// When a full disk is tried again.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        self.retry_at
    }
}
