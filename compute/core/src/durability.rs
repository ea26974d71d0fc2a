//! From PGCLs to VDL: `sixfold_recovery::points` plus what each seal holds, so that what depends on VDL can follow it.

use std::collections::VecDeque;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, PgId};
use sixfold_recovery::points::VolumePoints;

/// A seal above VDL.
#[derive(Debug)]
struct Seal {
    point: Lsn,
    parts: Vec<(PgId, Lsn)>,
}

/// The volume's points and the seals above VDL.
#[derive(Debug)]
pub(crate) struct Durability {
    points: VolumePoints,
    seals: VecDeque<Seal>,
    /// By PG number: its last LSN at or below VDL, `T` of a page read (R26).
    durable_last: Vec<Lsn>,
}

impl Durability {
    /// Opens at `base` with each PG's last valid LSN.
    pub(crate) fn new(base: Lsn, pg_last: &[(PgId, Lsn)]) -> Durability {
        Durability {
            points: VolumePoints::new(base),
            seals: VecDeque::new(),
            durable_last: pg_last.iter().map(|&(_, last)| last).collect(),
        }
    }

    /// A group was appended to the volume; it is empty.
    pub(crate) fn add_group(&mut self, pg: PgId) {
        assert_eq!(
            pg.get() as usize,
            self.durable_last.len(),
            "groups are dense"
        );
        self.durable_last.push(Lsn::NONE);
    }

    /// All open batches were sealed together.
    pub(crate) fn sealed(&mut self, point: Lsn, parts: Vec<(PgId, Lsn)>) {
        self.points.sealed(point, &parts);
        self.seals.push_back(Seal { point, parts });
    }

    /// The last seal point.
    pub(crate) fn sealed_through(&self) -> Lsn {
        let newest = self.seals.back();
        newest.map_or(self.points.vdl(), |seal| seal.point)
    }

    /// A PG's PGCL moved; the new VDL when it moved.
    pub(crate) fn advance(&mut self, pg: PgId, pgcl: Lsn) -> Option<Lsn> {
        let vdl = self.points.advance(pg, pgcl)?;
        while let Some(seal) = self.seals.pop_front_if(|seal| seal.point <= vdl) {
            for (pg, last) in seal.parts {
                if !planted(Mutant::StalePgLast) {
                    self.durable_last[pg.get() as usize] = last;
                }
            }
        }
        Some(vdl)
    }

    /// The PG's last LSN at or below VDL.
    pub(crate) fn durable_last(&self, pg: PgId) -> Lsn {
        self.durable_last[pg.get() as usize]
    }

    /// Sealed sets that lack their write quorum (F2).
    pub(crate) fn unacknowledged_seals(&self) -> usize {
        self.points.unacknowledged_seals()
    }

    /// Volume complete LSN.
    pub(crate) fn vcl(&self) -> Lsn {
        self.points.vcl()
    }

    /// Volume durable LSN.
    pub(crate) fn vdl(&self) -> Lsn {
        self.points.vdl()
    }
}
