//! A step under way, at the writer: who has accepted it, from when on it is in force, and when the next one may follow (R20).

use std::collections::BTreeMap;

use sixfold_log_format::{Lsn, Manifest, Member, PgEntry, PgId, SegmentId, SegmentSet};

use super::edit::names;
use super::reshape::deciding;
use crate::quorum::is_write_quorum_of_all;

/// A step from one manifest to the next.
///
/// From the moment it is proposed until it is in force, what counts for a group is its [`Change::joint_entry`]. The writer
/// sends the manifest to [`Change::wanted`] and reports acceptances; it keeps telling stragglers after the step is in force.
///
/// Invariant: the floor is that of the acceptances which put the step in force. What was answered by then under the sets
/// left is on a write quorum of each of them, so one of the acceptors of each has it and its SCL says so.
#[derive(Debug, Clone)]
pub struct Change {
    from: Manifest,
    to: Manifest,
    /// The joint entries of the root and of the group that changes.
    concerned: Vec<PgEntry>,
    /// What of them has to accept: without a set that decides nothing yet.
    needed: Vec<PgEntry>,
    accepted: BTreeMap<SegmentId, Lsn>,
    in_force: bool,
    /// SCLs of the acceptances until the step was in force.
    floors: BTreeMap<PgId, Lsn>,
}

impl Change {
    /// A step that is now proposed.
    ///
    /// Its version is usually the next one; one that was said to anybody before, in a step that was given up, is left out (R21).
    ///
    /// # Panics
    /// When `to` is not a later version of `from` under the same volume epoch, or changes more than one group.
    pub fn new(from: Manifest, to: Manifest) -> Change {
        assert!(
            from.volume == to.volume
                && from.version.volume_epoch == to.version.volume_epoch
                && from.version < to.version,
            "{} is no step from {}",
            to.version,
            from.version
        );
        assert!(
            to.pgs.len() >= from.pgs.len(),
            "a volume never loses a protection group"
        );
        let changed: Vec<PgId> = to
            .pgs
            .iter()
            .filter(|entry| from.pg(entry.pg) != Some(*entry))
            .map(|entry| entry.pg)
            .collect();
        assert!(changed.len() <= 1, "a step changes one group: {changed:?}");
        let root = (!changed.contains(&PgId::ROOT)).then_some(PgId::ROOT);
        let pgs: Vec<PgId> = root.into_iter().chain(changed).collect();
        let entries = |joint: fn(Option<&PgEntry>, Option<&PgEntry>) -> Option<PgEntry>| {
            let of = |pg: &PgId| joint(from.pg(*pg), to.pg(*pg));
            pgs.iter().filter_map(of).collect()
        };
        let (concerned, needed) = (entries(joint), entries(joint_deciding));
        Change {
            from,
            to,
            concerned,
            needed,
            accepted: BTreeMap::new(),
            in_force: false,
            floors: BTreeMap::new(),
        }
    }

    /// The manifest that is left.
    pub fn from(&self) -> &Manifest {
        &self.from
    }

    /// The manifest that is entered.
    pub fn to(&self) -> &Manifest {
        &self.to
    }

    /// A group with every set left and every set entered: what writes, PGCL and the read lease have to satisfy while the step
    /// is not in force. A member that joins on either side joins here. For a group that does not change it is its entry;
    /// `None` for an unknown one.
    pub fn joint_entry(&self, pg: PgId) -> Option<PgEntry> {
        joint(self.from.pg(pg), self.to.pg(pg))
    }

    /// Who has to hear of it and has not accepted, with their groups: the members of every set left or entered of the group
    /// that changes, and of the root's.
    pub fn wanted(&self) -> Vec<(PgId, Member)> {
        let members = |entry: &PgEntry| {
            let pg = entry.pg;
            entry
                .members()
                .into_iter()
                .map(move |member| (pg, member))
                .collect::<Vec<_>>()
        };
        let mut wanted: Vec<_> = self.concerned.iter().flat_map(members).collect();
        wanted.retain(|(_, member)| !self.accepted.contains_key(&member.segment));
        wanted
    }

    /// A segment made the manifest durable; `scl` is what it held then. Repeats do no harm. A segment that the step does not
    /// concern is ignored.
    pub fn accepted(&mut self, segment: SegmentId, scl: Lsn) {
        let is_in = |entry: &&PgEntry| entry.sets.iter().any(|set| names(set, segment));
        let Some(pg) = self.concerned.iter().find(is_in).map(|entry| entry.pg) else {
            return;
        };
        if self.accepted.contains_key(&segment) {
            return;
        }
        self.accepted.insert(segment, scl);
        if self.in_force {
            return;
        }
        let floor = self.floors.entry(pg).or_insert(Lsn::NONE);
        *floor = scl.max(*floor);
        self.in_force = self.needed.iter().all(|entry| {
            is_write_quorum_of_all(entry, &|segment| self.accepted.contains_key(&segment))
        });
    }

    /// Whether a write quorum of every set left and of every set entered, and of the root's, accepted (R20); a set of which members join
    /// to change the group's model is not asked (see [`super::deciding`]).
    pub fn is_in_force(&self) -> bool {
        self.in_force
    }

    /// The highest SCL of a group in the acceptances that put the step in force; for a step that is not in force, so far.
    pub fn floor(&self, pg: PgId) -> Lsn {
        self.floors.get(&pg).copied().unwrap_or(Lsn::NONE)
    }
}

/// Whether the next step of a group may follow one that is in force: a write quorum of every remaining set has reached the
/// floor (R20). `entry` is the group under the manifest entered; `scl_of` answers [`Lsn::NONE`] for a segment that was not
/// heard. Whether a joining segment is whole is a further condition of finishing and is asked of that segment alone.
pub fn is_complete(entry: &PgEntry, floor: Lsn, scl_of: &dyn Fn(SegmentId) -> Lsn) -> bool {
    is_write_quorum_of_all(entry, &|segment| scl_of(segment) >= floor)
}

/// The sets of both sides that decide, each once.
fn joint_deciding(left: Option<&PgEntry>, entered: Option<&PgEntry>) -> Option<PgEntry> {
    let (left, entered) = (left.map(deciding), entered.map(deciding));
    joint(left.as_deref(), entered.as_deref())
}

/// The sets of both sides, each once.
fn joint(left: Option<&PgEntry>, entered: Option<&PgEntry>) -> Option<PgEntry> {
    let last = entered.or(left)?;
    let mut sets: Vec<SegmentSet> = Vec::new();
    for set in left
        .into_iter()
        .chain(entered)
        .flat_map(|entry| &entry.sets)
    {
        match sets.iter_mut().find(|known| is_same_set(known, set)) {
            Some(known) => join_both(known, set),
            None => sets.push(set.clone()),
        }
    }
    Some(PgEntry {
        pg: last.pg,
        sets,
        removed: last.removed.clone(),
    })
}

/// The same segments under the same model. Whether one of them joins is not the set's identity.
fn is_same_set(one: &SegmentSet, other: &SegmentSet) -> bool {
    one.model == other.model
        && one.members.len() == other.members.len()
        && one
            .members
            .iter()
            .all(|member| names(other, member.segment))
}

fn join_both(known: &mut SegmentSet, other: &SegmentSet) {
    for member in &mut known.members {
        let also = |twin: &Member| twin.segment == member.segment && twin.joining;
        member.joining |= other.members.iter().any(also);
    }
}
