//! From batches of all protection groups to commits in LSN order.
//!
//! Each group's batches must follow its chain of back-links, which is what shows that none is missing; over all groups the valid
//! records and the annulled ranges must cover every LSN once. What the history annuls is dropped record by record (R5), and a commit
//! comes out when its CPL is covered in every group. Whatever contradicts that is damage, told with the group that showed it.

use std::collections::VecDeque;

use bytes::Bytes;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Batch, CellFlags, History, Lsn, Op, PgId, Record};

use super::{Change, ChangeValue, CommitChanges, WatchRange};
use crate::rows;

/// The log contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    /// How.
    pub(crate) reason: String,
}

/// The batches of one protection group that were not merged yet.
#[derive(Debug)]
struct Group {
    pg: PgId,
    /// Each with the LSN up to which its records came with an earlier batch.
    batches: VecDeque<(Batch, Lsn)>,
    /// Everything of this group at or below is in `batches`, or was merged.
    covered: Lsn,
    /// Its last valid LSN so far; `None` before the first batch.
    link: Option<Lsn>,
}

/// A commit of which the CPL was not merged yet.
#[derive(Debug)]
struct Open {
    cpl: Lsn,
    before: Lsn,
    changes: Vec<Change>,
    /// Keys of which a row of the expiry index was removed.
    expiries: Vec<Bytes>,
}

/// A valid record of the window that is merged.
struct Mark {
    lsn: Lsn,
    cpl: Lsn,
    seen: Seen,
}

/// What a record means for a watcher.
enum Seen {
    Nothing,
    Changed(Change),
    /// The row of this key in the expiry index is gone.
    Expiry(Bytes),
}

/// Merges one volume's log from one point on.
#[derive(Debug)]
pub(crate) struct LogMerge {
    range: WatchRange,
    groups: Vec<Group>,
    /// Everything at or below was merged.
    cursor: Lsn,
    open: Option<Open>,
    /// The end of the first commit that was seen, whole or not.
    first_cpl: Option<Lsn>,
}

impl LogMerge {
    /// Begins behind `after`. The first commit may be cut when that is no consistency point; [`LogMerge::first_cpl`] tells which
    /// one it is.
    pub(crate) fn new(range: WatchRange, pgs: &[PgId], after: Lsn) -> LogMerge {
        let group = |&pg: &PgId| Group {
            pg,
            batches: VecDeque::new(),
            covered: after,
            link: None,
        };
        LogMerge {
            range,
            groups: pgs.iter().map(group).collect(),
            cursor: after,
            open: None,
            first_cpl: None,
        }
    }

    /// The volume has these groups by now. One that was appended has no record at or below what was merged: without it nothing
    /// behind its first record is merged.
    pub(crate) fn grow(&mut self, pgs: &[PgId]) {
        for &pg in pgs.get(self.groups.len()..).unwrap_or_default() {
            self.groups.push(Group {
                pg,
                batches: VecDeque::new(),
                covered: self.cursor,
                link: None,
            });
        }
    }

    /// Everything at or below was merged.
    pub(crate) fn cursor(&self) -> Lsn {
        self.cursor
    }

    /// Everything at or below was merged, and no commit is cut.
    pub(crate) fn settled(&self) -> Lsn {
        self.open.as_ref().map_or(self.cursor, |open| open.before)
    }

    /// The CPL of the first record that was merged.
    pub(crate) fn first_cpl(&self) -> Option<Lsn> {
        self.first_cpl
    }

    /// What keeps it from going on: the groups that cover least, each with where more is needed.
    pub(crate) fn lacking(&self) -> impl Iterator<Item = (PgId, Lsn)> {
        let lowest = self.groups.iter().map(|group| group.covered).min();
        let lacks = move |group: &&Group| Some(group.covered) == lowest;
        self.groups
            .iter()
            .filter(lacks)
            .map(|group| (group.pg, group.covered))
    }

    /// Adds what the ring holds: whole batches of all groups, through `through`. The caller knows that nothing is missing between the
    /// cursor and them.
    ///
    /// # Errors
    /// [`Damage`].
    pub(crate) fn add_group<'b>(
        &mut self,
        batches: impl IntoIterator<Item = &'b Batch>,
        through: Lsn,
        history: &History,
    ) -> Result<(), Damage> {
        for batch in batches {
            let pg = batch.header().pg;
            let group = self.groups.iter_mut().find(|group| group.pg == pg);
            let group = group.ok_or_else(|| damage(format!("a batch of group {pg}")))?;
            group.push(batch, through, history)?;
        }
        for group in &mut self.groups {
            group.covered = group.covered.max(through);
        }
        Ok(())
    }

    /// Adds what a segment answered: the batches of `pg` behind `after`, through `through` or, with `more`, some of them. `pg_last`: the
    /// group's last LSN at or below `through`, with which a whole answer ends (R26).
    ///
    /// An answer to something else than what lacks now is dropped.
    ///
    /// # Errors
    /// [`Damage`]; what was good of it stays.
    pub(crate) fn add_piece(
        &mut self,
        pg: PgId,
        after: Lsn,
        batches: &[Batch],
        more: bool,
        (through, pg_last): (Lsn, Lsn),
        history: &History,
    ) -> Result<(), Damage> {
        let group = self.groups.iter_mut().find(|group| group.pg == pg);
        let Some(group) = group.filter(|group| group.covered == after) else {
            return Ok(());
        };
        for batch in batches {
            if batch.header().pg != pg {
                return Err(damage(format!("a batch of group {}", batch.header().pg)));
            }
            group.push(batch, through, history)?;
        }
        if more {
            if group.covered <= after {
                return Err(damage("a piece without anything new".to_owned()));
            }
            return Ok(());
        }
        let end = group.link.unwrap_or(Lsn::NONE).max(after);
        if end < pg_last {
            return Err(damage(format!(
                "the log of group {pg} ends at {end}, its last LSN is {pg_last}"
            )));
        }
        group.covered = group.covered.max(through);
        Ok(())
    }

    /// Merges what every group covers. Commits that end in it come out in order, those that changed nothing that is watched left out.
    ///
    /// # Errors
    /// [`Damage`]: an LSN is missing or is there twice. Nothing can be merged any more.
    pub(crate) fn merge(&mut self, history: &History) -> Result<Vec<CommitChanges>, Damage> {
        let covered = self.groups.iter().map(|group| group.covered).min();
        let through = covered.unwrap_or(self.cursor);
        if through <= self.cursor {
            return Ok(Vec::new());
        }
        let mut marks = Vec::new();
        for group in &mut self.groups {
            group.take(self.cursor, through, history, |record| {
                marks.push(Mark {
                    lsn: record.lsn,
                    cpl: record.cpl,
                    seen: seen(record, &self.range),
                });
            });
        }
        if self.groups.len() > 1 || planted(Mutant::WatchAnnulled) {
            marks.sort_by_key(|mark| mark.lsn);
        }
        let mut commits = Vec::new();
        for mark in marks {
            if !planted(Mutant::WatchAnnulled) {
                self.pass_annulled(mark.lsn, history)?;
            }
            self.follow(mark, &mut commits)?;
        }
        if !planted(Mutant::WatchAnnulled) {
            self.pass_annulled(through.next(), history)?;
        }
        self.cursor = through;
        Ok(commits)
    }

    /// Moves the cursor to just before `next`, over LSNs that the history annuls.
    fn pass_annulled(&mut self, next: Lsn, history: &History) -> Result<(), Damage> {
        while self.cursor.next() < next {
            let missing = self.cursor.next();
            let Some(range) = history.range_of(missing) else {
                return Err(damage(format!("LSN {missing} is in no group")));
            };
            if let Some(open) = &self.open {
                return Err(damage(format!(
                    "the commit that ends at {} is half annulled at {missing}",
                    open.cpl
                )));
            }
            let last = next.checked_minus(1).expect("above the cursor");
            self.cursor = range.through.min(last);
        }
        if self.cursor.next() > next {
            return Err(damage(format!("LSN {next} is in two groups")));
        }
        Ok(())
    }

    /// Takes the record behind the cursor.
    fn follow(&mut self, mark: Mark, commits: &mut Vec<CommitChanges>) -> Result<(), Damage> {
        let Mark { lsn, cpl, seen } = mark;
        self.first_cpl.get_or_insert(cpl);
        self.cursor = self.cursor.max(lsn);
        let open = self.open.get_or_insert_with(|| Open {
            cpl,
            before: lsn.checked_minus(1).expect("LSNs begin at 1"),
            changes: Vec::new(),
            expiries: Vec::new(),
        });
        if open.cpl != cpl && !planted(Mutant::WatchAnnulled) {
            return Err(damage(format!(
                "record {lsn} ends at {cpl}, the commit around it at {}",
                open.cpl
            )));
        }
        match seen {
            Seen::Nothing => {}
            Seen::Changed(change) => open.changes.push(change),
            Seen::Expiry(key) => open.expiries.push(key),
        }
        if lsn == cpl
            && let Some(open) = self.open.take()
        {
            commits.extend(open.close());
        }
        Ok(())
    }
}

impl Open {
    /// The commit, if it changed anything.
    fn close(mut self) -> Option<CommitChanges> {
        // The sweeper removes a key together with its row in the expiry index, in a commit of its own.
        for change in &mut self.changes {
            if let Change::Delete { key } = change
                && self.expiries.iter().any(|expired| expired[..] == key[..])
            {
                *change = Change::Expired { key: key.clone() };
            }
        }
        (!self.changes.is_empty()).then_some(CommitChanges {
            lsn: self.cpl,
            before: self.before,
            changes: self.changes,
        })
    }
}

impl Group {
    /// Adds a batch, if it has anything new at or below `through`.
    fn push(&mut self, batch: &Batch, through: Lsn, history: &History) -> Result<(), Damage> {
        let header = batch.header();
        let Some(last) = last_valid(&header.runs, through, history) else {
            // Wholly annulled, or above VDL.
            return Ok(());
        };
        let known = self.link.unwrap_or(self.covered);
        if last <= known {
            // It came before. Its annulled part covers nothing that could be missed.
            self.covered = self.covered.max(header.last.min(through));
            self.link = self.link.or(Some(last));
            return Ok(());
        }
        // Before the first batch the chain is not known: what the batch follows must not lie above where reading began. Later it
        // follows the last one, or holds it.
        let follows = match self.link {
            None => header.prev <= self.covered,
            Some(link) => header.prev == link || header.prev < link && holds(&header.runs, link),
        };
        if !follows {
            return Err(damage(format!(
                "batch {} of group {} follows {}, the one before ended at {known}",
                header.first, self.pg, header.prev
            )));
        }
        self.batches.push_back((batch.clone(), self.covered));
        self.link = Some(last);
        // Valid batches of a group do not interleave, and above the last valid LSN of a batch only annulled ones follow in it.
        self.covered = self.covered.max(header.last.min(through));
        Ok(())
    }

    /// Hands out the valid records in `(after, through]`, and lets go of the batches that end there.
    fn take(
        &mut self,
        after: Lsn,
        through: Lsn,
        history: &History,
        mut each: impl FnMut(&Record<'_>),
    ) {
        for (batch, came) in &self.batches {
            if batch.header().first > through {
                break;
            }
            let after = after.max(*came);
            for placed in batch.records() {
                let lsn = placed.record.lsn;
                let counts = !history.annuls(lsn) || planted(Mutant::WatchAnnulled);
                if lsn > after && lsn <= through && counts {
                    each(&placed.record);
                }
            }
        }
        while self
            .batches
            .pop_front_if(|(batch, _)| batch.header().last <= through)
            .is_some()
        {}
    }
}

/// What a record means for whoever watches `range`.
fn seen(record: &Record<'_>, range: &WatchRange) -> Seen {
    match &record.op {
        Op::Insert { cell, .. } | Op::Replace { cell, .. }
            if record.user_visible && range.contains(&cell.key) =>
        {
            let is_large = cell.flags.contains(CellFlags::OVERFLOW);
            Seen::Changed(Change::Put {
                key: Bytes::copy_from_slice(&cell.key),
                value: if is_large {
                    ChangeValue::Large
                } else {
                    ChangeValue::Inline(Bytes::copy_from_slice(&cell.value))
                },
                deadline_ms: cell.deadline_ms,
            })
        }
        Op::Remove { key, .. } if record.user_visible => {
            if range.contains(key) {
                return Seen::Changed(Change::Delete {
                    key: Bytes::copy_from_slice(key),
                });
            }
            if key.first() != Some(&rows::INTERNAL_SPACE) {
                return Seen::Nothing;
            }
            match rows::read_expiry_row(&Bytes::copy_from_slice(key)) {
                Some((_, key)) if range.contains(&key) => Seen::Expiry(key),
                _ => Seen::Nothing,
            }
        }
        Op::DeleteRange { start, end } if record.user_visible => match range.clip(start, end) {
            Some((start, end)) => Seen::Changed(Change::DeleteRange { start, end }),
            None => Seen::Nothing,
        },
        _ => Seen::Nothing,
    }
}

/// The highest LSN of the runs at or below `at_most` that the history does not annul. Linear in runs and ranges.
fn last_valid(runs: &[(Lsn, Lsn)], at_most: Lsn, history: &History) -> Option<Lsn> {
    let mut at_most = at_most;
    'below: loop {
        for &(start, end) in runs.iter().rev() {
            if start > at_most {
                continue;
            }
            let last = end.checked_minus(1).expect("runs are not empty");
            let last = last.min(at_most);
            let Some(range) = history.range_of(last) else {
                return Some(last);
            };
            at_most = range.after;
            continue 'below;
        }
        return None;
    }
}

/// Whether one of the runs holds this LSN.
fn holds(runs: &[(Lsn, Lsn)], lsn: Lsn) -> bool {
    runs.iter().any(|&(start, end)| start <= lsn && lsn < end)
}

fn damage(reason: String) -> Damage {
    Damage { reason }
}
