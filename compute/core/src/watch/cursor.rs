//! One watcher: where it stands, what it needs next, and what it has to deliver.
//!
//! It prefers the ring and reads the log where the ring does not reach; both are merged by the same code, and the change from one to the
//! other is decided by LSNs. It knows no I/O: the shell carries [`LogWant`]s to the writer and the answers back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Batch, Lsn, PgId, SegmentId};

use super::merge::{Damage, LogMerge};
use super::ring::{Tail, WatchShared};
use super::{CommitChanges, LogAnswer, LogError, LogWant, WatchError, WatchRange, WatchStep};

/// Bytes of the ring that are merged before anything is delivered, about.
const STEP_BYTES_MAX: usize = 1 << 20;

/// A cursor over the changes of a range of keys. Ends with its writer; another one goes on from [`Watcher::resume_lsn`].
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<WatchShared>,
    range: WatchRange,
    /// Commits at or below were delivered, or are not wanted.
    from: Lsn,
    /// While it is not certain that `from` is a consistency point: how far before it reading began.
    seeking: Option<u64>,
    /// The end of a commit that may be cut at `from`: if nothing before is left, it can begin there.
    met: Lsn,
    merge: LogMerge,
    ready: VecDeque<CommitChanges>,
    /// Segments whose answer was no good, of each group that lacks something.
    avoid: BTreeMap<PgId, Vec<SegmentId>>,
    damage: Option<String>,
    /// Whether the last thing merged came from the log.
    in_log: bool,
}

impl Watcher {
    /// Watches what is committed after `from`, which may be any LSN; a commit of which a part lies at or below it and its end above is
    /// delivered whole. `vdl`: published VDL.
    ///
    /// # Errors
    /// [`WatchError::AboveVdl`], [`WatchError::TooOld`] when `from` lies below what histories still tell.
    pub fn new(
        shared: Arc<WatchShared>,
        range: WatchRange,
        from: Lsn,
        vdl: Lsn,
    ) -> Result<Watcher, WatchError> {
        if from > vdl {
            return Err(WatchError::AboveVdl { from, vdl });
        }
        let history = shared.history();
        if from < history.floor {
            let oldest = history.floor;
            return Err(WatchError::TooOld { from, oldest });
        }
        let settled = from == vdl
            || from.is_none()
            || from == history.floor
            || history.annuls(from)
            || history.ranges.iter().any(|range| range.after == from);
        let seeking = (!settled).then_some(1);
        let start = start_of(from, seeking);
        let merge = LogMerge::new(range.clone(), &shared.pgs(), start);
        Ok(Watcher {
            shared,
            range,
            from,
            seeking,
            met: Lsn::NONE,
            merge,
            ready: VecDeque::new(),
            avoid: BTreeMap::new(),
            damage: None,
            in_log: false,
        })
    }

    /// The keys that are watched.
    pub fn range(&self) -> &WatchRange {
        &self.range
    }

    /// Everything committed at or below was delivered or changed nothing that is watched: a watcher that begins here misses nothing and
    /// is told nothing twice. Never inside a commit.
    pub fn resume_lsn(&self) -> Lsn {
        if self.seeking.is_some() {
            return self.from;
        }
        match self.ready.front() {
            // Never below what was delivered: the commit just before may be the one that was delivered last.
            Some(next) => next.before.max(self.from),
            None => self.merge.settled().max(self.from),
        }
    }

    /// What comes next. `vdl`: published VDL, read before this call.
    ///
    /// # Errors
    /// [`WatchError`]; it cannot go on then.
    pub fn step(&mut self, vdl: Lsn) -> Result<WatchStep, WatchError> {
        let found = if self.ready.is_empty() {
            self.read_ring()?
        } else {
            Some(true)
        };
        if let Some(commit) = self.ready.pop_front() {
            self.from = commit.lsn;
            return Ok(WatchStep::Commit(commit));
        }
        Ok(match found {
            Some(true) => WatchStep::Again,
            Some(false) => WatchStep::Wait,
            // The ring may begin above VDL, when somebody has just begun to watch.
            None if self.merge.cursor() >= vdl => WatchStep::Wait,
            None => {
                self.in_log = true;
                WatchStep::ReadLog(self.wants())
            }
        })
    }

    /// Takes a part of the log that was asked for. One that is damaged or not whole is asked for again, at another segment.
    ///
    /// # Errors
    /// [`WatchError`]; it cannot go on then.
    pub fn supply(&mut self, answer: LogAnswer) -> Result<(), WatchError> {
        let (pg, segment, after) = (answer.pg, answer.segment, answer.after);
        match self.take_piece(answer) {
            Ok(()) => {
                self.avoid.remove(&pg);
                Ok(())
            }
            Err(Damage { reason }) => {
                let avoid = self.avoid.entry(pg).or_default();
                if avoid.contains(&segment) {
                    return Err(WatchError::Corrupt { after, reason });
                }
                avoid.push(segment);
                self.damage = Some(reason);
                Ok(())
            }
        }?;
        self.merge_all()
    }

    /// A part of the log could not be had. Returns the error with which the watch ends, or `None` when it may ask again.
    pub fn refused(&mut self, pg: PgId, error: &LogError) -> Option<WatchError> {
        match error {
            LogError::Forgotten { oldest, .. } => Some(WatchError::TooOld {
                from: self.resume_lsn(),
                oldest: self.met.max(*oldest),
            }),
            LogError::Unavailable { after, .. } => {
                let tried = self.avoid.remove(&pg).is_some();
                let reason = self.damage.take().filter(|_| tried)?;
                Some(WatchError::Corrupt {
                    after: *after,
                    reason,
                })
            }
            LogError::Fenced { .. } => None,
        }
    }

    fn wants(&self) -> Vec<LogWant> {
        let want = |(pg, after)| LogWant {
            pg,
            after,
            avoid: self.avoid.get(&pg).cloned().unwrap_or_default(),
        };
        self.merge.lacking().map(want).collect()
    }

    /// Merges what the ring has behind the cursor: `Some(true)` when that was something, `Some(false)` when the cursor stands at its
    /// end, `None` when it does not reach down to the cursor.
    fn read_ring(&mut self) -> Result<Option<bool>, WatchError> {
        let mut bytes = 0;
        let mut moved = false;
        while self.ready.is_empty() && bytes < STEP_BYTES_MAX {
            match self.shared.after(self.merge.cursor()) {
                Tail::Group(group) => {
                    let group_bytes = group.batches.iter().map(Batch::len_bytes);
                    bytes += group_bytes.sum::<usize>();
                    let skipped = self.in_log && planted(Mutant::WatchHandoverGap);
                    self.in_log = false;
                    if skipped {
                        self.merge =
                            LogMerge::new(self.range.clone(), &self.shared.pgs(), group.through);
                    } else {
                        // Asked for behind the group was had: groups of which it has a batch are known by now.
                        self.merge.grow(&self.shared.pgs());
                        let history = self.shared.history();
                        self.merge
                            .add_group(&group.batches, group.through, &history)
                            .map_err(|damage| self.corrupt(damage))?;
                        self.merge_all()?;
                    }
                    moved = true;
                }
                Tail::End => return Ok(Some(moved)),
                Tail::NotHere if moved => return Ok(Some(true)),
                Tail::NotHere => return Ok(None),
            }
        }
        Ok(Some(true))
    }

    fn take_piece(&mut self, answer: LogAnswer) -> Result<(), Damage> {
        let LogAnswer {
            pg,
            after,
            through,
            pg_last,
            piece,
            ..
        } = answer;
        let mut batches = Vec::with_capacity(piece.batches.len());
        for bytes in piece.batches {
            let batch = Batch::decode(bytes, self.shared.volume).map_err(|error| Damage {
                reason: error.to_string(),
            })?;
            batches.push(batch);
        }
        let history = self.shared.history();
        self.merge.add_piece(
            pg,
            after,
            &batches,
            piece.more,
            (through, pg_last),
            &history,
        )
    }

    fn merge_all(&mut self) -> Result<(), WatchError> {
        // Every group of which VDL has reached a record must take part, and every annulled range be known.
        self.merge.grow(&self.shared.pgs());
        let history = self.shared.history();
        let commits = self
            .merge
            .merge(&history)
            .map_err(|damage| self.corrupt(damage))?;
        if let Some(span) = self.seeking {
            let start = start_of(self.from, self.seeking);
            if self.merge.cursor() == start {
                return Ok(());
            }
            // The first commit met may be cut: it must be one that is not wanted, unless the first LSN was met, or an annulled one,
            // before which no commit is open.
            let whole = start.is_none() || history.annuls(start.next());
            let cut = self.merge.first_cpl().filter(|cpl| *cpl > self.from);
            if let Some(cpl) = cut.filter(|_| !whole) {
                self.met = cpl;
                self.seeking = Some(span.saturating_mul(8));
                let start = start_of(self.from, self.seeking);
                if start < history.floor {
                    let oldest = history.floor.max(cpl);
                    return Err(WatchError::TooOld {
                        from: self.from,
                        oldest,
                    });
                }
                self.merge = LogMerge::new(self.range.clone(), &self.shared.pgs(), start);
                return Ok(());
            }
            self.seeking = None;
        }
        let from = self.from;
        let wanted = commits.into_iter().filter(|commit| commit.lsn > from);
        self.ready.extend(wanted);
        Ok(())
    }

    fn corrupt(&self, damage: Damage) -> WatchError {
        WatchError::Corrupt {
            after: self.merge.cursor(),
            reason: damage.reason,
        }
    }
}

/// Where reading begins.
fn start_of(from: Lsn, seeking: Option<u64>) -> Lsn {
    seeking.map_or(from, |span| from.checked_minus(span).unwrap_or(Lsn::NONE))
}
