//! What segments have said to a writer, as the world hears it: against this VDL is judged.

use std::collections::BTreeMap;

use sixfold_log_format::{Lsn, PgId, SegmentId};

use crate::oracle::{SetIds, write_quorum};

/// SCLs said to one writer under its own history.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    said: BTreeMap<SegmentId, Said>,
    /// What a write quorum of a set had said at once: it stays durable within the budget when one of them forgets later.
    quorum: BTreeMap<SetIds, Lsn>,
    /// What every set that counted for a group had, at one time or another: a step that is taken later asks for nothing more (R20).
    durable: BTreeMap<PgId, Lsn>,
}

#[derive(Debug, Clone, Copy)]
struct Said {
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
    pub(crate) fn hear<'a>(
        &mut self,
        (segment, pg): (SegmentId, PgId),
        scl: Lsn,
        sets: impl IntoIterator<Item = &'a SetIds>,
    ) -> bool {
        let before = self.said.get(&segment);
        let scl_max = before.map_or(scl, |said| said.scl_max.max(scl));
        let said = Said { scl, scl_max };
        self.said.insert(segment, said);
        self.recount(pg, sets);
        scl < scl_max
    }

    /// What is durable under the sets that count now, since they have changed or are about to.
    pub(crate) fn recount<'a>(&mut self, pg: PgId, sets: impl IntoIterator<Item = &'a SetIds>) {
        let mut lowest: Option<Lsn> = None;
        for set in sets {
            let mut scls: Vec<Lsn> = set.iter().map(|member| self.scl_of(*member)).collect();
            scls.sort_unstable();
            let least = scls.len().checked_sub(write_quorum(scls.len()));
            let fourth = least.and_then(|at| scls.get(at));
            if let Some(&fourth) = fourth.filter(|scl| !scl.is_none()) {
                match self.quorum.get_mut(set) {
                    Some(quorum) => *quorum = fourth.max(*quorum),
                    None => {
                        self.quorum.insert(set.clone(), fourth);
                    }
                }
            }
            let holds = self.quorum.get(set).copied().unwrap_or(Lsn::NONE);
            lowest = Some(lowest.map_or(holds, |lowest| lowest.min(holds)));
        }
        if let Some(lowest) = lowest {
            let durable = self.durable.entry(pg).or_default();
            *durable = lowest.max(*durable);
        }
    }

    /// How many segments of a set hold its group's log up to `last`, as far as they have said; all of it when a write quorum had.
    pub(crate) fn holders(&self, set: &SetIds, pg: PgId, last: Lsn) -> usize {
        if self
            .durable
            .get(&pg)
            .is_some_and(|&durable| durable >= last)
        {
            return set.len();
        }
        if self.quorum.get(set).is_some_and(|&quorum| quorum >= last) {
            return set.len();
        }
        let scls = set.iter().map(|member| self.scl_of(*member));
        scls.filter(|scl| *scl >= last).count()
    }

    /// Where a segment says it stands, as far as that counts.
    pub(crate) fn scl_of(&self, segment: SegmentId) -> Lsn {
        let said = self.said.get(&segment);
        said.map_or(Lsn::NONE, |said| said.counted())
    }
}
