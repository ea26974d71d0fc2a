//! What watches are told: each commit once, whole, in order, none that is not durable, none left out (T7).

use bytes::Bytes;
use sixfold_compute_core::{Change, CommitChanges, WatchRange};
use sixfold_log_format::Lsn;

use super::truth::{Bad, Oracle};

/// What one watch was told so far, over all its writers.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    range: WatchRange,
    /// Where it began: any LSN.
    from: Lsn,
    /// Everything at or below was told, or did not concern it.
    through: Lsn,
}

impl Watched {
    pub(crate) fn new(range: WatchRange, from: Lsn) -> Watched {
        Watched {
            range,
            from,
            through: from,
        }
    }
}

impl Oracle {
    /// A watch is told of a commit; VDL was read before.
    pub(crate) fn watch_told(
        &mut self,
        watched: &mut Watched,
        told: &CommitChanges,
        vdl: Lsn,
    ) -> Result<(), Bad> {
        let lsn = told.lsn;
        if lsn > vdl {
            return Err(format!(
                "a watch was told of commit {lsn} above VDL {vdl} (T7)"
            ));
        }
        if lsn <= watched.through {
            return Err(format!(
                "a watch was told of commit {lsn}, it was through {} already (T7)",
                watched.through
            ));
        }
        self.nothing_left_out(watched, lsn.checked_minus(1).unwrap_or(Lsn::NONE))?;
        let wanted = self.changes_of(lsn, &watched.range);
        if wanted != told.changes {
            return Err(format!(
                "a watch was told that commit {lsn} did {:?}, it did {wanted:?} (T7)",
                told.changes
            ));
        }
        if !self.is_point(told.before) || told.before >= lsn {
            return Err(format!(
                "a watch was told that {} is the point before commit {lsn} (T7)",
                told.before
            ));
        }
        watched.through = lsn;
        self.told = self.told.max(lsn);
        Ok(())
    }

    /// A watch says where another one would go on.
    pub(crate) fn watch_stands(&self, watched: &mut Watched, resume: Lsn) -> Result<(), Bad> {
        if resume == watched.from && watched.through == watched.from {
            return Ok(());
        }
        if resume < watched.through || !self.is_point(resume) {
            return Err(format!(
                "a watch that was told everything through {} would go on from {resume} (T7)",
                watched.through
            ));
        }
        self.nothing_left_out(watched, resume)?;
        watched.through = resume;
        Ok(())
    }

    fn nothing_left_out(&self, watched: &Watched, through: Lsn) -> Result<(), Bad> {
        if through <= watched.through {
            return Ok(());
        }
        let mut since = self.model.changes.range(watched.through.next()..=through);
        match since.find(|(lsn, _)| !self.changes_of(**lsn, &watched.range).is_empty()) {
            Some((lsn, _)) => Err(format!(
                "a watch went from {} to {through} and was not told of commit {lsn} (T7)",
                watched.through
            )),
            None => Ok(()),
        }
    }

    fn changes_of(&self, lsn: Lsn, range: &WatchRange) -> Vec<Change> {
        let changes = self.model.changes.get(&lsn).into_iter().flatten();
        changes
            .filter_map(|change| clipped(change, range))
            .collect()
    }
}

fn clipped(change: &Change, range: &WatchRange) -> Option<Change> {
    let is_watched = |key: &Bytes| range.contains(key).then(|| change.clone());
    match change {
        Change::Put { key, .. } | Change::Delete { key } | Change::Expired { key } => {
            is_watched(key)
        }
        Change::DeleteRange { start, end } => {
            let (start, end) = range.clip(start, end.as_deref().unwrap_or_default())?;
            Some(Change::DeleteRange { start, end })
        }
    }
}
