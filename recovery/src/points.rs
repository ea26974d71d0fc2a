//! VCL and VDL at the writer: what is durable, from the PGCLs and the seal points.
//!
//! Stands behind [`crate::quorum::pgcl`] on the commit path: an ack moves an SCL, the SCLs a PGCL, the PGCLs VDL, and VDL
//! answers commits. It does not know segments.

use std::collections::VecDeque;

use sixfold_log_format::{Lsn, PgId};

/// Most sealed sets that may lack their write quorum at once. The boxcar keeps a handful (F2) and the bound on
/// unacknowledged bytes holds back before this; it is here so that a bug shows as a panic and not as memory.
pub const OPEN_SEALS_MAX: usize = 65_536;

/// One seal that is not durable yet, or stands behind one that is not.
#[derive(Debug)]
struct Seal {
    point: Lsn,
    part_count: usize,
}

/// The volume's points. Invariants: VDL <= VCL <= last sealed LSN; each only moves forward.
#[derive(Debug)]
pub struct VolumePoints {
    /// Seals above VDL, in order; the parts of all of them stand in `parts`, in the same order.
    seals: VecDeque<Seal>,
    parts: VecDeque<(PgId, Lsn)>,
    /// PGCLs as last reported, sorted by PG. A PG that never reported is at [`Lsn::NONE`].
    pgcls: Vec<(PgId, Lsn)>,
    last_sealed: Lsn,
    vcl: Lsn,
    vdl: Lsn,
}

impl VolumePoints {
    /// Opens at `base`, the end of the annulled range: VDL = VCL = `base` (R1).
    pub fn new(base: Lsn) -> VolumePoints {
        VolumePoints {
            seals: VecDeque::new(),
            parts: VecDeque::new(),
            pgcls: Vec::new(),
            last_sealed: base,
            vcl: base,
            vdl: base,
        }
    }

    /// All open batches were sealed together: `parts` names, for each PG with records in this seal, its highest LSN in it.
    /// `seal_point` is the CPL at which it ends; VDL moves only from seal point to seal point (F1).
    ///
    /// # Panics
    /// When seal points do not rise, when a part lies outside the seal, when no part ends it (LSNs are dense, so one
    /// must), or when more than [`OPEN_SEALS_MAX`] seals are open.
    pub fn sealed(&mut self, seal_point: Lsn, parts: &[(PgId, Lsn)]) {
        assert!(
            seal_point > self.last_sealed,
            "seal point {seal_point} is not above {}",
            self.last_sealed
        );
        assert!(
            parts
                .iter()
                .all(|&(_, last)| last > self.last_sealed && last <= seal_point),
            "a part lies outside the seal ({}, {seal_point}]: {parts:?}",
            self.last_sealed
        );
        assert!(
            parts.iter().any(|&(_, last)| last == seal_point),
            "no part ends at {seal_point}: {parts:?}"
        );
        assert!(
            self.seals.len() < OPEN_SEALS_MAX,
            "{OPEN_SEALS_MAX} seals are open"
        );
        self.last_sealed = seal_point;
        self.seals.push_back(Seal {
            point: seal_point,
            part_count: parts.len(),
        });
        self.parts.extend(parts);
    }

    /// A PG's PGCL moved. Returns the new VDL when it moved. An idle PG holds nothing back.
    ///
    /// A PGCL below one reported earlier is no news: what was durable stays so.
    pub fn advance(&mut self, pg: PgId, pgcl: Lsn) -> Option<Lsn> {
        match self.pgcls.binary_search_by_key(&pg, |&(known, _)| known) {
            Ok(index) if pgcl <= self.pgcls[index].1 => return None,
            Ok(index) => self.pgcls[index].1 = pgcl,
            Err(index) => self.pgcls.insert(index, (pg, pgcl)),
        }
        let before = self.vdl;
        while let Some(front) = self.seals.front() {
            let complete = self
                .parts
                .range(..front.part_count)
                .all(|&part| self.is_within_pgcl(part));
            if !complete {
                break;
            }
            self.vdl = front.point;
            self.parts.drain(..front.part_count);
            self.seals.pop_front();
        }
        self.vcl = self.vcl.max(self.complete_up_to());
        assert!(self.vdl <= self.vcl && self.vcl <= self.last_sealed);
        (self.vdl > before).then_some(self.vdl)
    }

    /// Volume complete LSN: every record at or below it is within its PG's PGCL. Exact at seal points; inside a seal it
    /// is what the PGCLs alone can tell, which may be lower than what a record-by-record count would give.
    pub fn vcl(&self) -> Lsn {
        self.vcl
    }

    /// Volume durable LSN: the highest seal point at or below VCL.
    pub fn vdl(&self) -> Lsn {
        self.vdl
    }

    /// The highest seal point, durable or not; the base when nothing was sealed.
    pub fn last_sealed(&self) -> Lsn {
        self.last_sealed
    }

    /// Sealed sets that lack their write quorum: what the boxcar counts (F2).
    pub fn unacknowledged_seals(&self) -> usize {
        let mut parts_start = 0;
        let mut lacking_count = 0;
        for seal in &self.seals {
            let parts_end = parts_start + seal.part_count;
            let complete = self
                .parts
                .range(parts_start..parts_end)
                .all(|&part| self.is_within_pgcl(part));
            lacking_count += usize::from(!complete);
            parts_start = parts_end;
        }
        lacking_count
    }

    fn pgcl_of(&self, pg: PgId) -> Lsn {
        self.pgcls
            .binary_search_by_key(&pg, |&(known, _)| known)
            .map_or(Lsn::NONE, |index| self.pgcls[index].1)
    }

    fn is_within_pgcl(&self, (pg, last): (PgId, Lsn)) -> bool {
        self.pgcl_of(pg) >= last
    }

    /// The first open seal has a PG whose records above its PGCL are missing: everything up to the lowest such PGCL is
    /// there.
    fn complete_up_to(&self) -> Lsn {
        let Some(front) = self.seals.front() else {
            return self.last_sealed;
        };
        self.parts
            .range(..front.part_count)
            .filter(|&&part| !self.is_within_pgcl(part))
            .map(|&(pg, _)| self.pgcl_of(pg).max(self.vdl))
            .min()
            .unwrap_or(self.vdl)
    }
}
