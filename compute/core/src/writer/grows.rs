//! Growth: a group is appended while the volume serves (R10), by wish or because free pages run low.

use std::collections::BTreeSet;
use std::time::Duration;

use sixfold_kv::{Meta, PageSource};
use sixfold_log_format::limits::PG_COUNT_MAX;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, Member, MemberKind, PageId, PgEntry, PgId, SegmentId};
use sixfold_recovery::membership::{append_pg, place_group};

use super::WriterCore;
use super::group::Group;
use crate::link::Link;
use crate::members::jobs::{Grow, GrowPhase, GrowWanted};
use crate::members::step::Purpose;
use crate::members::wishes::WishId;

/// Before the volume tries again to grow by itself.
const PAUSE: Duration = Duration::from_secs(10);

impl WriterCore {
    /// Wants a group when free pages run low.
    pub(super) fn grow_if_low(&mut self) {
        let Some(free_min) = self.members.bounds.grow_below_free_pages else {
            return;
        };
        if self.may_grow() && self.free_pages().is_some_and(|free| free < free_min) {
            self.want_room();
        }
    }

    /// Wants a group, unless one is on its way: free pages run low, or a commit needs more than there are, however many that is.
    pub(super) fn want_room(&mut self) {
        if self.grows_now() {
            return;
        }
        let groups = self.groups.len() + 1;
        let jobs = &mut self.members.jobs;
        jobs.grows_wanted
            .push_back(GrowWanted { wish: None, groups });
    }

    /// Whether a group is being appended, or is to be.
    fn grows_now(&self) -> bool {
        let jobs = &self.members.jobs;
        jobs.grow.is_some() || !jobs.grows_wanted.is_empty()
    }

    /// Whether a commit for which there is no page may wait for some.
    pub(super) fn may_grow(&self) -> bool {
        let by_itself = self.members.bounds.grow_below_free_pages.is_some()
            && self.groups.len() < self.pgs_max()
            && self.now >= self.members.grow_not_before;
        !self.closing && (self.grows_now() || by_itself)
    }

    pub(super) fn pgs_max(&self) -> usize {
        self.members.bounds.pgs_max.min(PG_COUNT_MAX)
    }

    /// Pages that hold nothing; not known while the meta page is not in memory.
    fn free_pages(&self) -> Option<u64> {
        let page = self.tip_source().page(PageId::META)?;
        let meta = Meta::read(&page).ok()?;
        let never_used = self
            .geometry
            .pages_max()
            .saturating_sub(meta.next_page.get());
        Some(never_used.saturating_add(meta.free_count))
    }

    /// Begins to append a group, if one is wanted.
    pub(super) fn start_grow(&mut self) -> bool {
        if self.members.jobs.grow.is_some() || self.closing {
            return false;
        }
        let Some(wanted) = self.members.jobs.grows_wanted.pop_front() else {
            return false;
        };
        if self.groups.len() >= wanted.groups {
            // By a wish of the same kind, or by itself.
            if let Some(id) = wanted.wish {
                let pgs = self.groups.len();
                let text = format!("the volume has {pgs} protection groups");
                self.members.wishes.done(id, text);
            }
            self.advance_line();
            return true;
        }
        let loads = self.loads();
        let placed = if self.groups.len() >= self.pgs_max() {
            let pgs = self.groups.len();
            Err(format!(
                "the volume has {pgs} protection groups, no more are allowed"
            ))
        } else {
            place_group(&loads).map_err(|error| error.to_string())
        };
        let nodes = match placed {
            Ok(nodes) => nodes,
            Err(reason) => {
                self.members.grow_not_before = self.now + PAUSE;
                self.growth_ended(wanted.wish, reason);
                self.advance_line();
                return true;
            }
        };
        let draw = &mut self.members.draw;
        let members = nodes.map(|node| Member {
            segment: draw.segment(),
            node,
            kind: MemberKind::Full,
            joining: false,
        });
        let number = u32::try_from(self.groups.len()).expect("groups are numbered by 32 bits");
        self.members.jobs.grow = Some(Grow {
            pg: PgId::new(number),
            members: members.to_vec(),
            made: BTreeSet::new(),
            phase: GrowPhase::Creating,
            since: self.now,
            wish: wanted.wish,
            groups: wanted.groups,
        });
        true
    }

    /// No group is appended now, nor are those that were to follow it.
    fn growth_ended(&mut self, wish: Option<WishId>, reason: String) {
        match wish {
            Some(id) => self.refuse_wish(id, reason),
            None => self.members.refused(reason),
        }
    }

    /// A node made no segment: the others go, and other nodes are tried.
    pub(super) fn growth_failed(&mut self, segment: SegmentId, reason: &str) {
        let Some(grow) = self.members.jobs.grow.take() else {
            return;
        };
        let said = self.said();
        for member in &grow.members {
            let leaving = &mut self.members.leaving;
            leaving.orphaned(member.segment, member.node, said);
            if member.segment == segment {
                self.members.fleet.shun(member.node, self.now);
                let node = member.node;
                self.members
                    .refused(format!("node {node} makes no segment: {reason}"));
            }
        }
        if let Grow {
            wish: wish @ Some(_),
            groups,
            ..
        } = grow
        {
            let wanted = GrowWanted { wish, groups };
            self.members.jobs.grows_wanted.push_front(wanted);
        }
    }

    /// The root's step, when every segment of the new group is made.
    pub(super) fn propose_append(&mut self) -> bool {
        let Some(grow) = &mut self.members.jobs.grow else {
            return false;
        };
        if grow.phase != GrowPhase::Creating || grow.made.len() < grow.members.len() {
            return false;
        }
        let pg = grow.pg;
        match append_pg(&self.manifest, grow.members.clone()) {
            Ok(to) => {
                grow.phase = GrowPhase::Appending;
                self.propose(to, Purpose::Append { pg });
                if planted(Mutant::RecordBeforeRootEntry) {
                    self.open_group(pg);
                }
            }
            Err(error) => {
                let grow = self.members.jobs.grow.take().expect("it was just there");
                let said = self.said();
                for member in &grow.members {
                    let leaving = &mut self.members.leaving;
                    leaving.orphaned(member.segment, member.node, said);
                }
                self.members.grow_not_before = self.now + PAUSE;
                self.growth_ended(grow.wish, error.to_string());
                self.advance_line();
            }
        }
        true
    }

    /// A group that is empty, and takes no record yet.
    pub(super) fn add_group(&mut self, entry: PgEntry) {
        let pg = entry.pg;
        assert_eq!(pg.get() as usize, self.groups.len(), "groups are dense");
        self.boxcar
            .add_group(self.manifest.volume, pg, self.volume_epoch);
        self.durability.add_group(pg);
        self.groups.push(Group::new(entry, Lsn::NONE));
    }

    /// The root's step is in force: the group takes records as soon as they can become durable there.
    pub(super) fn open_grown(&mut self) -> bool {
        let Some(grow) = &self.members.jobs.grow else {
            return false;
        };
        let (pg, links) = (grow.pg, self.shipper.links());
        let group = self.groups.get(pg.get() as usize);
        let is_ready = |group: &Group| group.is_write_quorum(links, Link::is_writable);
        if grow.phase != GrowPhase::Opening || !group.is_some_and(is_ready) {
            return false;
        }
        let grow = self.members.jobs.grow.take().expect("it was just there");
        if !planted(Mutant::RecordBeforeRootEntry) {
            self.open_group(pg);
        }
        self.appended(&grow);
        self.writable_moved();
        true
    }

    /// A group is there. More may be wanted.
    pub(super) fn appended(&mut self, grow: &Grow) {
        let text = format!("protection group {} was appended", grow.pg);
        self.parts_done(grow.wish.as_slice(), &text);
        let Grow { wish, groups, .. } = *grow;
        if wish.is_some() && self.groups.len() < groups {
            let wanted = GrowWanted { wish, groups };
            self.members.jobs.grows_wanted.push_front(wanted);
        } else if let Some(id) = wish {
            // Some of the groups that it is for may have come by themselves.
            let pgs = self.groups.len();
            let text = format!("the volume has {pgs} protection groups");
            self.members.wishes.done(id, text);
        }
    }

    fn open_group(&mut self, pg: PgId) {
        assert_eq!(
            pg.get() as usize,
            self.geometry.groups,
            "groups open in order"
        );
        self.open_next_group();
    }

    /// One more group takes records; watchers know of it before there is one.
    pub(super) fn open_next_group(&mut self) {
        self.geometry.groups += 1;
        self.shared.watch().set_groups(self.geometry.groups);
    }
}
