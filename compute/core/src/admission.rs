//! Admission: the line of commits before minting, and the bounds that hold whole MTRs back (R18).
//!
//! Nothing here has LSNs: whatever leaves the line without being minted was refused and is safe to repeat (T2). A commit
//! that misses a page leaves the line and comes back at its end when the page is there (T8).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::limits::MTR_LAL_SHARE;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, PageId};

use crate::due::Due;
use crate::event::{CommitRequest, CommitTicket};
use crate::write_set::KeyWrite;

/// What each key, value or range of a request takes beside its bytes, about.
const ITEM_BYTES: usize = 128;

/// A commit before minting, under a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineId(u64);

/// A commit before minting.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) id: LineId,
    pub(crate) ticket: CommitTicket,
    pub(crate) request: CommitRequest,
    /// What the request takes in memory.
    pub(crate) bytes: usize,
    /// What it needed when it was planned last.
    pub(crate) need: Option<Need>,
    /// Pages that it has pinned in the cache (R30).
    pub(crate) pins: Vec<PageId>,
    /// Pages that are on their way to it.
    pub(crate) missing_count: usize,
}

/// What an MTR takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    /// Records.
    pub(crate) records: u64,
    /// Redo and pages above VDL, bytes; an estimate.
    pub(crate) bytes: usize,
}

/// Whether an MTR may be minted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Yes.
    Admitted,
    /// When VDL has moved.
    Waits,
    /// Never: it is larger than any MTR may be.
    TooLarge {
        /// The most records that it may have.
        records_max: u64,
    },
}

/// The bounds (R18).
#[derive(Debug)]
pub(crate) struct Admission {
    /// LSN allocation limit of the volume.
    pub(crate) lal: u64,
    /// Bound on redo without its quorum and pages above VDL.
    pub(crate) bytes_max: usize,
}

impl Admission {
    /// Judges a whole MTR, before its first LSN is minted. `used_bytes`: what is above VDL already; an MTR larger than the
    /// bound goes alone.
    pub(crate) fn judge(&self, need: Need, last: Lsn, vdl: Lsn, used_bytes: usize) -> Verdict {
        let records_max = (self.lal / MTR_LAL_SHARE).saturating_sub(1);
        if need.records > records_max {
            return Verdict::TooLarge { records_max };
        }
        let within_lal = last.since(vdl) + need.records <= self.lal || planted(Mutant::LalIgnored);
        let within_bytes = used_bytes.saturating_add(need.bytes) <= self.bytes_max;
        if within_lal && (within_bytes || used_bytes == 0) {
            Verdict::Admitted
        } else {
            Verdict::Waits
        }
    }
}

/// Every commit before minting: in line, waiting for a page, or waiting for its turn to pin pages.
#[derive(Debug)]
pub(crate) struct Line {
    line: VecDeque<Waiting>,
    missing: BTreeMap<LineId, Waiting>,
    /// Wait until the holder of the right to pin beyond the budget is done (R30).
    stalled: VecDeque<Waiting>,
    holder: Option<LineId>,
    /// What all of them take in memory.
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
    next_id: u64,
    due: Due,
}

impl Line {
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> Line {
        Line {
            line: VecDeque::new(),
            missing: BTreeMap::new(),
            stalled: VecDeque::new(),
            holder: None,
            bytes: 0,
            count_max,
            bytes_max,
            next_id: 0,
            due: Due::default(),
        }
    }

    /// Takes a commit to the end of the line; false when too much waits. One larger than the bound waits alone.
    #[must_use]
    pub(crate) fn enter(&mut self, ticket: CommitTicket, request: CommitRequest) -> bool {
        let count = self.line.len() + self.missing.len() + self.stalled.len();
        let bytes = request_bytes(&request);
        let has_room = self.bytes == 0 || self.bytes.saturating_add(bytes) <= self.bytes_max;
        if count >= self.count_max || !has_room {
            return false;
        }
        self.bytes += bytes;
        let id = LineId(self.next_id);
        self.next_id += 1;
        self.due.sooner(request.deadline);
        self.line.push_back(Waiting {
            id,
            ticket,
            request,
            bytes,
            need: None,
            pins: Vec::new(),
            missing_count: 0,
        });
        true
    }

    /// The commit whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        self.line.pop_front()
    }

    /// It is not admitted yet and keeps its place.
    pub(crate) fn keep_first(&mut self, waiting: Waiting) {
        self.line.push_front(waiting);
    }

    /// It misses a page. `over_pinned`: pins have reached their budget, so that only one commit may go on pinning; false when
    /// another one is at it, and this one has to wait.
    #[must_use]
    pub(crate) fn may_pin(&mut self, id: LineId, over_pinned: bool) -> bool {
        if !over_pinned {
            return true;
        }
        *self.holder.get_or_insert(id) == id
    }

    /// It waits for `missing_count` pages.
    pub(crate) fn miss(&mut self, waiting: Waiting) {
        self.missing.insert(waiting.id, waiting);
    }

    /// It waits for its turn to pin.
    pub(crate) fn stall(&mut self, waiting: Waiting) {
        self.stalled.push_back(waiting);
    }

    /// One of its pages is there; when all are, it is judged again at the end of the line (T8).
    pub(crate) fn found(&mut self, id: LineId) {
        let Some(waiting) = self.missing.get_mut(&id) else {
            return;
        };
        waiting.missing_count -= 1;
        if waiting.missing_count == 0 {
            self.line.extend(self.missing.remove(&id));
        }
    }

    /// Its page cannot be had.
    pub(crate) fn give_up(&mut self, id: LineId) -> Option<Waiting> {
        self.missing.remove(&id)
    }

    /// It was minted or answered. `bytes`: as [`Waiting`] has them.
    pub(crate) fn left(&mut self, id: LineId, bytes: usize) {
        self.bytes -= bytes;
        if self.holder == Some(id) {
            self.holder = None;
            self.line.append(&mut self.stalled);
        }
    }

    /// Takes out what is past its deadline.
    pub(crate) fn take_expired(&mut self, now: Duration) -> Vec<Waiting> {
        if !self.due.is_due(now) {
            return Vec::new();
        }
        self.due.clear();
        let is_over = |waiting: &mut Waiting| waiting.request.deadline <= now;
        let mut expired = take_if(&mut self.line, is_over);
        expired.extend(take_if(&mut self.stalled, is_over));
        expired.extend(
            self.missing
                .extract_if(.., |_, waiting| is_over(waiting))
                .map(|(_, waiting)| waiting),
        );
        let left = self
            .line
            .iter()
            .chain(&self.stalled)
            .chain(self.missing.values());
        left.for_each(|waiting| self.due.sooner(waiting.request.deadline));
        expired
    }

    /// Takes out everything: the writer was fenced.
    pub(crate) fn take_all(&mut self) -> Vec<Waiting> {
        self.due.clear();
        self.holder = None;
        let missing = std::mem::take(&mut self.missing).into_values();
        self.line
            .drain(..)
            .chain(self.stalled.drain(..))
            .chain(missing)
            .collect()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.line.len() + self.missing.len() + self.stalled.len()
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty() && self.missing.is_empty() && self.stalled.is_empty()
    }

    /// When to look for deadlines.
    pub(crate) fn due(&self) -> Due {
        self.due
    }
}

/// What a request takes in memory: keys, values, and something for each of them.
fn request_bytes(request: &CommitRequest) -> usize {
    let value_bytes = |write: &KeyWrite| match write {
        KeyWrite::Put(value) => value.bytes.len(),
        KeyWrite::Delete => 0,
        KeyWrite::Modify(ops) => size_of_val(&ops[..]),
    };
    let range_bytes = |start: &Bytes, end: &Option<Bytes>| {
        start.len() + end.as_ref().map_or(0, Bytes::len) + ITEM_BYTES
    };
    let writes = request.writes.keys.iter();
    let write_bytes = writes.map(|(key, write)| key.len() + value_bytes(write) + ITEM_BYTES);
    let clears = request.writes.clears.iter();
    let clear_bytes = clears.map(|(start, end)| range_bytes(start, end));
    let key_bytes = request.read_keys.iter().map(|key| key.len() + ITEM_BYTES);
    let ranges = request.read_ranges.iter();
    let read_bytes = ranges.map(|range| range_bytes(&range.start, &range.end));
    ITEM_BYTES
        + write_bytes
            .chain(clear_bytes)
            .chain(key_bytes)
            .chain(read_bytes)
            .sum::<usize>()
}

fn take_if(line: &mut VecDeque<Waiting>, is_over: impl Fn(&mut Waiting) -> bool) -> Vec<Waiting> {
    let mut expired = Vec::new();
    let mut kept = VecDeque::with_capacity(line.len());
    for mut waiting in line.drain(..) {
        if is_over(&mut waiting) {
            expired.push(waiting)
        } else {
            kept.push_back(waiting)
        }
    }
    *line = kept;
    expired
}
