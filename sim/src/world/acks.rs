//! What segments have said to a writer, as the world hears it: against this VDL is judged.

use std::collections::BTreeMap;

use sixfold_log_format::{Lsn, PgId, SegmentId};

/// SCLs said to one writer under its own history.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    said: BTreeMap<SegmentId, Said>,
    /// What four segments of a group had said at once: it stays durable within the budget when one of them forgets later.
    quorum: BTreeMap<PgId, Lsn>,
}

#[derive(Debug, Clone, Copy)]
struct Said {
    pg: PgId,
    scl: Lsn,
    scl_max: Lsn,
}

impl Said {
    /// One that says less than it said before has forgotten, and counts for nothing until that is healed (R12).
    fn counted(self) -> Lsn {
        if self.scl < self.scl_max {
            Lsn::NONE
        } else {
            self.scl
        }
    }
}

impl Acks {
    /// A segment said where it stands. Whether it said less than before.
    pub(crate) fn hear(&mut self, segment: SegmentId, pg: PgId, scl: Lsn) -> bool {
        let before = self.said.get(&segment);
        let scl_max = before.map_or(scl, |said| said.scl_max.max(scl));
        let said = Said { pg, scl, scl_max };
        self.said.insert(segment, said);
        let mut scls: Vec<Lsn> = self.of(pg).collect();
        scls.sort_unstable();
        if let Some(&fourth) = scls.len().checked_sub(4).and_then(|at| scls.get(at)) {
            let quorum = self.quorum.entry(pg).or_default();
            *quorum = fourth.max(*quorum);
        }
        scl < scl_max
    }

    /// How many segments of a group hold it up to `last`, as far as they have said; four when four had.
    pub(crate) fn holders(&self, pg: PgId, last: Lsn) -> usize {
        if self.quorum.get(&pg).is_some_and(|&quorum| quorum >= last) {
            return 4;
        }
        self.of(pg).filter(|scl| *scl >= last).count()
    }

    fn of(&self, pg: PgId) -> impl Iterator<Item = Lsn> + '_ {
        let of_pg = self.said.values().filter(move |said| said.pg == pg);
        of_pg.map(|said| said.counted())
    }
}
