//! A protection group as the writer sees it.

use sixfold_log_format::{Lsn, PgEntry, PgId, SegmentId};
use sixfold_recovery::membership::is_complete;
use sixfold_recovery::quorum;

use crate::link::Link;
use crate::retained::RetainedBatches;
use crate::shipper::LinkIndex;

/// A protection group. Invariant: `links` are those of the members of `entry`, each once, and none of them is gone; members that
/// were declared lost have none.
#[derive(Debug)]
pub(super) struct Group {
    /// What a write has to satisfy: the sets in force, and while a step is under way those that it leaves and enters (R20).
    pub(super) entry: PgEntry,
    pub(super) links: Vec<LinkIndex>,
    pub(super) retained: RetainedBatches,
    pub(super) pgcl: Lsn,
    pub(super) last_sealed: Lsn,
    /// The highest SCL in the acceptances of the group's last step: what a write quorum of each set must hold before the next.
    pub(super) floor: Lsn,
}

impl Group {
    /// With `last` as its last valid LSN, which a write quorum of each set holds.
    pub(super) fn new(entry: PgEntry, last: Lsn) -> Group {
        Group {
            entry,
            links: Vec::new(),
            retained: RetainedBatches::default(),
            pgcl: last,
            last_sealed: last,
            floor: last,
        }
    }

    /// A member's link. A group has few members: looking at all of them is cheapest.
    pub(super) fn link<'l>(&self, links: &'l [Link], segment: SegmentId) -> Option<&'l Link> {
        let mut own = self.links.iter().map(|&index| &links[index]);
        own.find(|link| link.segment == segment)
    }

    /// The SCL of a member that counts.
    pub(super) fn scl_of(&self, links: &[Link], segment: SegmentId) -> Lsn {
        self.link(links, segment)
            .map_or(Lsn::NONE, Link::counted_scl)
    }

    /// Whether the members of which `holds` is true make a write quorum of every set.
    pub(super) fn is_write_quorum(&self, links: &[Link], holds: impl Fn(&Link) -> bool) -> bool {
        let of_segment = |segment| self.link(links, segment).is_some_and(&holds);
        quorum::is_write_quorum_of_all(&self.entry, &of_segment)
    }

    /// Whether the step that leaves these sets may follow (R20).
    pub(super) fn is_complete(&self, remaining: &PgEntry, links: &[Link]) -> bool {
        is_complete(remaining, self.floor, &|segment| {
            self.scl_of(links, segment)
        })
    }
}

/// Which pages belong to which group. Groups that take no record yet have no pages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) pages_per_pg: u64,
    pub(super) groups: usize,
}

impl Geometry {
    /// The group of a page; `None` beyond the volume's end.
    pub(super) fn pg_of(&self, page: sixfold_log_format::PageId) -> Option<PgId> {
        let number = page.get() / self.pages_per_pg;
        let number = (number < self.groups as u64).then_some(number)?;
        u32::try_from(number).ok().map(PgId::new)
    }

    /// One above the highest page.
    pub(super) fn pages_max(&self) -> u64 {
        self.pages_per_pg.saturating_mul(self.groups as u64)
    }
}
