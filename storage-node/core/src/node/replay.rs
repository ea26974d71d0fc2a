//! The scan at a start, as the node takes it: what it asks for, what each entry found means, and what follows when it is over.
//!
//! The entries go through the same functions as those that become durable later, so that both end in the same state. How the log
//! is read and where it ends is [`Scan`](crate::hot_log::scan::Scan)'s to say.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::hot_log::{Entry, FileHeader, FileNumber};
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Batch, SegmentId};
use sixfold_recovery::lease::GrantedLease;

use super::older::Older;
use super::{NodeCore, Phase};
use crate::action::{Action, FileName, Severity};
use crate::admin::Counters;
use crate::bounds::READY_FILES_MAX;
use crate::event::{DiskError, DiskToken, FoundDirectory};
use crate::hot_log::Place;
use crate::hot_log::ahead::Ahead;
use crate::hot_log::scan::{Next, Scan, Tail};
use crate::segment::{Applied, READ_LEASE, Segment};

/// The begin of a start: which files have to be read.
///
/// ```text
///   the newest file that was begun says: nothing up to file k is needed  ->  the scan begins behind k
///   anything behind k is not what it must be                             ->  the scan begins again, with the first file
/// ```
#[derive(Debug)]
pub(super) struct Begin {
    found: FoundDirectory,
    /// The file whose header is read, by its place among those that are there, and the read.
    at: usize,
    token: Option<DiskToken>,
}

impl Begin {
    pub(super) fn new(found: FoundDirectory) -> Begin {
        Begin {
            at: found.files.len(),
            token: None,
            found,
        }
    }

    /// How many of the oldest files a header says that no start needs; `None` when it is no header of that file.
    fn passed_by(&self, bytes: &[u8]) -> Option<usize> {
        let (file, _) = self.found.files[self.at];
        let header = FileHeader::decode(bytes).ok()?;
        let expected = (self.found.node, file, self.found.block_bytes);
        if (header.node, header.file, header.block_bytes) != expected {
            return None;
        }
        let files = &self.found.files;
        let passed = files.partition_point(|(file, _)| *file <= header.folded);
        let length = self.found.file_bytes;
        let is_whole = files[..passed].iter().all(|(_, bytes)| *bytes == length);
        let goes_on = files.get(passed).map(|(file, _)| file.0) == Some(header.folded.0 + 1);
        Some(if is_whole && goes_on { passed } else { 0 })
    }
}

impl NodeCore {
    /// Reads the header of the newest file that may have been begun: those behind it are few.
    pub(super) fn look_at_newest(&mut self, now: Duration) {
        let begin = self.begin.as_mut().expect("the start goes on");
        let count = begin.found.files.len();
        let is_worth = count > 2 && begin.at > 0 && count - begin.at <= READY_FILES_MAX + 1;
        if !is_worth {
            return self.begin_scan(now, 0);
        }
        begin.at -= 1;
        let token = self.reads.next_token();
        begin.token = Some(token);
        self.actions.push_back(Action::Read {
            token,
            file: FileName::HotLog(begin.found.files[begin.at].0),
            offset: 0,
            bytes: self.block_bytes,
        });
    }

    /// A header came.
    pub(super) fn on_newest_read(
        &mut self,
        now: Duration,
        token: DiskToken,
        result: &Result<Bytes, DiskError>,
    ) {
        let begin = self.begin.as_ref().expect("the start goes on");
        if begin.token != Some(token) {
            return;
        }
        match result.as_ref().map(|bytes| begin.passed_by(bytes)) {
            Ok(Some(passed)) => self.begin_scan(now, passed),
            // It was not begun. Whatever else it is, the scan meets it.
            Ok(None) => self.look_at_newest(now),
            Err(_) => self.begin_scan(now, 0),
        }
    }

    fn begin_scan(&mut self, now: Duration, passed: usize) {
        let found = &self.begin.as_ref().expect("the start goes on").found;
        let files = found.files.clone();
        let ahead = Ahead::new(files.clone());
        let mut scan = Scan::new(self.node, self.block_bytes, found.file_bytes, files, passed);
        let next = scan.start();
        self.scan = Some((scan, ahead));
        self.scan_step(now, next);
    }

    /// Something behind the files that were passed over is damaged: what they hold is not needed only while all behind them is
    /// sound. The scan begins again, with all of them.
    fn start_over(&mut self, now: Duration, why: &str) {
        // Where the second scan finds nothing wrong, this is all that anybody hears of it.
        self.log_line(
            Severity::Warning,
            format!("the hot log is read again, with the files whose redo is in layers: {why}"),
        );
        let begin = self.begin.take().expect("the start goes on");
        let mut fresh = NodeCore::blank(begin.found, self.now);
        fresh.early = std::mem::take(&mut self.early);
        fresh.actions = std::mem::take(&mut self.actions);
        fresh.address = self.address;
        fresh.tokens = std::mem::take(&mut self.tokens);
        fresh.reads.go_on_behind(&self.reads);
        *self = fresh;
        self.begin_scan(now, 0);
    }

    fn has_passed_over(&self) -> bool {
        self.scan
            .as_ref()
            .is_some_and(|(scan, _)| scan.passed() > 0)
    }

    pub(super) fn scan_step(&mut self, now: Duration, next: Next) {
        match next {
            Next::Read {
                file,
                offset,
                bytes,
            } => {
                let (_, ahead) = self.scan.as_mut().expect("it asks");
                for read in ahead.want((file, offset, bytes)) {
                    let token = self.reads.next_token();
                    ahead.asked(read, token);
                    let (file, offset, bytes) = read;
                    self.actions.push_back(Action::Read {
                        token,
                        file: FileName::HotLog(file),
                        offset,
                        bytes,
                    });
                }
            }
            Next::Corrupt(line) if self.has_passed_over() => self.start_over(now, &line),
            Next::Done(tail) if self.has_passed_over() && !tail.is_sound() => {
                let why = tail
                    .damage
                    .first()
                    .map_or("it does not end as it should", |line| line);
                self.start_over(now, why);
            }
            Next::Corrupt(line) => {
                self.log_line(Severity::Error, line.clone());
                self.stop(line);
            }
            Next::Done(tail) => self.scan_done(now, *tail),
        }
    }

    /// Bytes came. The scan takes what it waits for, chunk after chunk as far as they are there.
    pub(super) fn on_scan_read(&mut self, now: Duration) {
        while let Some((mut scan, mut ahead)) = self.scan.take() {
            let Some(result) = ahead.take() else {
                self.scan = Some((scan, ahead));
                return;
            };
            self.index_durable();
            let bytes = match result {
                Ok(bytes) => bytes,
                Err(error) => return self.stop(format!("reading the hot log failed: {error:?}")),
            };
            let mut damage = None;
            let next = scan.take(&bytes, &mut |place, entry, is_whole| {
                if damage.is_none() {
                    damage = self.replay(place, &entry, is_whole).err();
                }
            });
            self.scan = Some((scan, ahead));
            self.scan_step(now, damage.map_or(next, Next::Corrupt));
            if !matches!(self.phase, Phase::Scanning) {
                return;
            }
        }
    }

    /// Takes an entry that the scan found.
    fn replay(&mut self, place: Place, entry: &Entry, is_whole: bool) -> Result<(), String> {
        let at = || format!("hot-log file {} at offset {}", place.file.0, place.offset);
        let id = entry.segment();
        if self.heads.0 != place.file {
            let held = self.segments.keys().copied();
            self.heads = (place.file, held.chain(self.gone.ids()).collect());
        }
        if let Entry::State { pg, manifest, .. } = entry
            && !self.segments.contains_key(&id)
            && !self.gone.contains(id)
        {
            // Its creation stood in a file that was deleted, or is damaged.
            let lease = GrantedLease::none(READ_LEASE);
            let segment = Segment::new(id, *pg, manifest.clone(), lease);
            self.segments.insert(id, segment);
        }
        if let Entry::State { .. } | Entry::Dropped { .. } | Entry::Removed { .. } = entry {
            self.heads.1.remove(&id);
        }
        if let Entry::Dropped { .. } | Entry::Removed { .. } = entry {
            self.index_durable();
            self.apply_drop(entry);
            return Ok(());
        }
        if let Entry::Created { .. } = entry {
            self.apply(entry, place);
            return Ok(());
        }
        let Some(segment) = self.segments.get_mut(&id) else {
            if self.gone.was_dropped(id) || !is_whole {
                return Ok(());
            }
            return Err(format!(
                "{}: an entry of segment {id}, which was not created",
                at()
            ));
        };
        if let Entry::Claim { volume_epoch, .. } | Entry::Install { volume_epoch, .. } = entry
            && *volume_epoch < segment.durable_guard.claim
        {
            // A disk that loses what it called durable may bring back an older state behind a newer one.
            return Err(format!(
                "{}: epoch {volume_epoch} of segment {id} behind epoch {}",
                at(),
                segment.durable_guard.claim
            ));
        }
        let applied = match entry {
            Entry::Batch { bytes, .. } => {
                let batch = Batch::decode(bytes.clone(), segment.volume)
                    .map_err(|error| format!("{}: {error}", at()))?;
                segment.replay_batch(batch, place)
            }
            Entry::State { .. } => segment.apply_state(entry),
            Entry::Dropped { .. } | Entry::Removed { .. } => Applied::Other,
            Entry::Claim { .. } if planted(Mutant::RestartForgetsClaims) => Applied::Other,
            Entry::Created { .. }
            | Entry::Claim { .. }
            | Entry::Install { .. }
            | Entry::Catalog { .. } => segment.apply(entry, place),
        };
        self.applied(id, applied);
        Ok(())
    }

    fn scan_done(&mut self, now: Duration, tail: Tail) {
        if let Some((file, offset)) = tail.torn {
            self.log_line(
                Severity::Info,
                format!(
                    "hot-log file {} was cut at offset {offset}: a write was torn",
                    file.0
                ),
            );
        }
        for line in &tail.damage {
            self.log_line(Severity::Error, line.clone());
        }
        let is_damaged = !tail.damage.is_empty();
        self.scrub.damage_found += tail.damage.len() as u64;
        (self.scan, self.begin) = (None, None);
        let (older, next_sequence) = tail.older.clone();
        self.older = Older::new(older, next_sequence, now);
        let (file, missing) = std::mem::replace(&mut self.heads, (FileNumber(0), BTreeSet::new()));
        let last = tail.current.as_ref().map(|header| header.file);
        let is_missing = |id: &SegmentId| match last {
            Some(last) if last == file => missing.contains(id),
            // Not one entry of its first write survived, whatever its header did: nothing stands in it yet.
            Some(_) => true,
            None => false,
        };
        let held = self.segments.values();
        let states = held.filter(|segment| is_missing(&segment.id));
        let states = states.map(Segment::state_entry);
        let gone = self.gone.ids().filter(is_missing);
        let heads = states.chain(gone.map(|id| self.gone.entry(id))).collect();
        self.gone.scan_ended();
        self.log.resume(tail, heads);
        self.ack_due.clear();
        self.counters = Counters::default();
        let mut damaged = Vec::new();
        for segment in self.segments.values_mut() {
            segment.settle_after_scan();
            if is_damaged {
                segment.unproven = segment.proofs_needed();
            }
            // It does not know what it granted before (T1).
            segment.lease = GrantedLease::after_restart(now, READ_LEASE);
            if let Some(lsn) = segment.missing_below.filter(|_| segment.is_damaged()) {
                damaged.push((segment.id, segment.scl(), lsn));
            }
        }
        for (id, scl, lsn) in damaged {
            self.log_line(
                Severity::Error,
                format!("segment {id} has SCL {scl} and acknowledged {lsn} before"),
            );
        }
        self.phase = Phase::Running;
        let found = std::mem::take(&mut self.found_layers);
        self.check_layer_files(found, is_damaged);
        self.upkeep.look();
        for early in std::mem::take(&mut self.early) {
            self.on_message(
                now,
                early.connection,
                early.role,
                early.stream,
                early.message,
            );
        }
    }
}
