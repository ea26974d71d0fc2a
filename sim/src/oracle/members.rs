//! Who holds which segment, as processes say it on the wire: manifests that writers propose, segments that accept them.
//!
//! A step is in force when a write quorum of every set left and entered, and of the root's, has told the writer so. Until then what
//! counts satisfies both sides (R20). No step is proposed before the one before it is in force and complete; a group gets no record
//! before it is in force (R10); an opening finds what is in force, or a step that was proposed since (R21).

use std::collections::{BTreeMap, BTreeSet};

use sixfold_log_format::{
    Lsn, Manifest, ManifestVersion, NodeId, PgEntry, PgId, SegmentId, SegmentSet, VolumeEpoch,
};

use super::truth::Bad;

/// Of a set of so many, written from the rule, not taken from the arithmetic that is judged.
pub(crate) fn write_quorum(members: usize) -> usize {
    match members {
        3 => 2,
        4 => 3,
        _ => 4,
    }
}

/// What is needed to judge a step: where a segment says it stands, as far as that counts.
pub(crate) type SclOf<'a> = &'a dyn Fn(SegmentId) -> Lsn;

/// A step that was proposed and is not in force.
#[derive(Debug)]
struct Proposal {
    to: Manifest,
    accepted: BTreeMap<SegmentId, Lsn>,
}

/// A step that came into force just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepDone {
    Begun,
    Finished,
    RolledBack,
    /// Members of a set of another model join no more; both sets stay.
    Confirmed,
    Grown,
    Other,
}

/// All that is known of the membership.
#[derive(Debug)]
pub(crate) struct Members {
    in_force: Manifest,
    proposed: Option<Proposal>,
    /// Proposed since the one in force, by whomever: an opening may find any of them.
    candidates: Vec<Manifest>,
    /// The highest SCL in the acceptances of each group's last step.
    floors: BTreeMap<PgId, Lsn>,
    /// Where a joining segment has to be before another one leaves for it.
    needed: BTreeMap<SegmentId, Lsn>,
    /// Left by a step in force.
    removed: BTreeSet<SegmentId>,
    /// What a write of each group must satisfy now.
    sets: BTreeMap<PgId, BTreeSet<SetIds>>,
    /// Nodes that are destroyed, on an operator's word (R19).
    lost: BTreeSet<NodeId>,
}

/// The segments of a set, in order.
pub(crate) type SetIds = Vec<SegmentId>;

fn ids(set: &SegmentSet) -> SetIds {
    let mut ids: SetIds = set.members.iter().map(|member| member.segment).collect();
    ids.sort_unstable();
    ids
}

fn sets_of(entry: Option<&PgEntry>) -> BTreeSet<SetIds> {
    entry.map_or_else(BTreeSet::new, |entry| entry.sets.iter().map(ids).collect())
}

fn has_quorum(set: &SetIds, holds: impl Fn(SegmentId) -> bool) -> bool {
    set.iter().filter(|segment| holds(**segment)).count() >= write_quorum(set.len())
}

/// The set that a group with another model is about to enter, while members of it join: it decides nothing yet.
fn joining_reshape(entry: &PgEntry) -> Option<&SegmentSet> {
    let [base, target] = &entry.sets[..] else {
        return None;
    };
    let joins = target.members.iter().any(|member| member.joining);
    (joins && base.model != target.model).then_some(target)
}

/// What has to accept a step, fence and be whole: all sets but such a one.
fn deciding(entry: Option<&PgEntry>) -> BTreeSet<SetIds> {
    match entry {
        Some(entry) if joining_reshape(entry).is_some() => BTreeSet::from([ids(&entry.sets[0])]),
        entry => sets_of(entry),
    }
}

/// Whether a group goes back to the set that it had before members joined to change its model.
fn is_given_up(before: &PgEntry, after: &PgEntry) -> bool {
    joining_reshape(before).is_some() && after.sets[..] == before.sets[..1]
}

/// Whether `after` is `before`, but for changes of models that an opening took back.
fn is_taken_back(before: &Manifest, after: &Manifest) -> bool {
    let of_group = |(old, new): (&PgEntry, &PgEntry)| old == new || is_given_up(old, new);
    before.hints == after.hints
        && before.pgs.len() == after.pgs.len()
        && before.pgs.iter().zip(&after.pgs).all(of_group)
}

/// Whether `after` is `before` without the segments on lost nodes: a group that has its write quorum without them keeps its sets, of any
/// other one a read quorum is left, which makes a set of three (R19).
fn is_loss(before: &Manifest, after: &Manifest, lost: &BTreeSet<NodeId>) -> bool {
    let of_group = |(old, new): (&PgEntry, &PgEntry)| {
        let is_lost = |segment: SegmentId| {
            let members = old.members().into_iter();
            let mut on_lost = members.filter(|member| lost.contains(&member.node));
            on_lost.any(|member| member.segment == segment)
        };
        let keeps = |set: &SetIds| has_quorum(set, |segment| !is_lost(segment));
        if sets_of(Some(old)).iter().all(keeps) {
            return old.sets == new.sets || is_given_up(old, new);
        }
        if deciding(Some(old)).iter().all(keeps) {
            return is_given_up(old, new);
        }
        let joining = |set: &&SegmentSet| set.members.iter().any(|member| member.joining);
        let Some(base) = old.sets.iter().find(|set| !joining(set)).map(ids) else {
            return false;
        };
        let mut left = base.clone();
        left.retain(|segment| !is_lost(*segment));
        let [made] = &new.sets[..] else {
            return false;
        };
        let made = ids(made);
        let holds_all = left.iter().all(|segment| made.contains(segment));
        let needed = base.len() + 1 - write_quorum(base.len());
        let of_base = made.iter().all(|segment| base.contains(segment));
        left.len() == needed && made.len() == 3 && holds_all && of_base
    };
    !lost.is_empty()
        && before.pgs.len() == after.pgs.len()
        && before.pgs.iter().zip(&after.pgs).all(of_group)
}

impl Members {
    pub(crate) fn new(first: Manifest) -> Members {
        let mut members = Members {
            in_force: first,
            proposed: None,
            candidates: Vec::new(),
            floors: BTreeMap::new(),
            needed: BTreeMap::new(),
            removed: BTreeSet::new(),
            sets: BTreeMap::new(),
            lost: BTreeSet::new(),
        };
        members.recount();
        members
    }

    fn recount(&mut self) {
        let joint = |pg: PgId| {
            let mut sets = sets_of(self.in_force.pg(pg));
            if let Some(proposed) = &self.proposed {
                sets.extend(sets_of(proposed.to.pg(pg)));
            }
            (pg, sets)
        };
        self.sets = self
            .in_force
            .pgs
            .iter()
            .map(|entry| joint(entry.pg))
            .collect();
    }

    pub(crate) fn in_force(&self) -> &Manifest {
        &self.in_force
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.proposed.is_none()
    }

    /// An operator gives the word that these nodes are destroyed.
    pub(crate) fn declare_lost(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        self.lost.extend(nodes);
    }

    /// The word is withdrawn.
    pub(crate) fn nothing_lost(&mut self) {
        self.lost.clear();
    }

    /// Whether the word was given and no opening has heard it yet.
    pub(crate) fn awaits_loss(&self) -> bool {
        let members = self.in_force.pgs.iter().flat_map(PgEntry::members);
        let is_lost = |segment, node| self.lost.contains(&node) && !self.is_removed(segment);
        let mut members = members.filter(|member| is_lost(member.segment, member.node));
        members.next().is_some()
    }

    /// What the step that is proposed does.
    pub(crate) fn proposed_kind(&self) -> Option<StepDone> {
        let proposed = self.proposed.as_ref()?;
        Some(kind_of(&self.in_force, &proposed.to))
    }

    /// The group of a replacement that is about to end, who leaves, and who stays.
    pub(crate) fn leaving(&self) -> Option<(PgId, SegmentId, Vec<SegmentId>)> {
        let to = &self.proposed.as_ref()?.to;
        let changed = |entry: &&PgEntry| to.pg(entry.pg) != Some(*entry);
        let before = self.in_force.pgs.iter().find(changed)?;
        let stay: Vec<SegmentId> = to
            .pg(before.pg)?
            .members()
            .iter()
            .map(|m| m.segment)
            .collect();
        let members = before.members().into_iter();
        let mut gone = members.filter(|member| !stay.contains(&member.segment));
        Some((before.pg, gone.next()?.segment, stay))
    }

    /// A group whose model changes: who of it is whole, and who joined, or joins still.
    pub(crate) fn reshaping(&self) -> Option<(PgId, Vec<SegmentId>, Vec<SegmentId>)> {
        let entry = self.in_force.pgs.iter().find(|entry| {
            let mut sets = entry.sets.iter();
            entry.sets.len() == 2 && sets.any(|set| set.model != entry.sets[0].model)
        })?;
        let (whole, all) = (ids(&entry.sets[0]), ids(&entry.sets[1]));
        let comes = all.iter().filter(|segment| !whole.contains(segment));
        let comes = comes.copied().collect();
        Some((entry.pg, whole, comes))
    }

    /// Whether a manifest goes back to the set that a group had before members joined to change its model.
    pub(crate) fn gives_up(&self, manifest: &Manifest) -> bool {
        let pairs = self.in_force.pgs.iter().zip(&manifest.pgs);
        pairs.into_iter().any(|(old, new)| is_given_up(old, new))
    }

    /// The sets that decide of every group: who has to be there for the volume to open.
    pub(crate) fn all_deciding(&self) -> Vec<SetIds> {
        let entries = self.in_force.pgs.iter();
        entries.flat_map(|entry| deciding(Some(entry))).collect()
    }

    /// Whether a segment was removed for ever.
    pub(crate) fn is_removed(&self, segment: SegmentId) -> bool {
        self.removed.contains(&segment)
    }

    /// Whether a segment counts in no read quorum yet.
    pub(crate) fn is_joining(&self, segment: SegmentId) -> bool {
        let entries = self.in_force.pgs.iter();
        let mut members = entries
            .flat_map(|entry| &entry.sets)
            .flat_map(|set| &set.members);
        members.any(|member| member.segment == segment && member.joining)
    }

    /// What a write of a group must satisfy now: every set in force, and every set of a step that is proposed.
    pub(crate) fn sets(&self, pg: PgId) -> impl ExactSizeIterator<Item = &SetIds> {
        static NONE: BTreeSet<SetIds> = BTreeSet::new();
        self.sets.get(&pg).unwrap_or(&NONE).iter()
    }

    /// A candidate opened with this manifest. Whether it found a step that was not in force.
    pub(crate) fn opened(
        &mut self,
        manifest: &Manifest,
        epoch: VolumeEpoch,
        last: &dyn Fn(PgId) -> Lsn,
    ) -> Result<Option<bool>, Bad> {
        if manifest.version.volume_epoch != epoch {
            return Err(format!(
                "epoch {epoch} opened with manifest {} (R21)",
                manifest.version
            ));
        }
        let same = |known: &Manifest| known.pgs == manifest.pgs && known.hints == manifest.hints;
        let found = self.candidates.iter().any(same);
        let lost = |base: &Manifest| is_loss(base, manifest, &self.lost);
        let lost = lost(&self.in_force) || self.candidates.iter().any(lost);
        let back = |base: &Manifest| is_taken_back(base, manifest);
        let back = back(&self.in_force) || self.candidates.iter().any(back);
        if !same(&self.in_force) && !found && !lost && !back {
            return Err(format!(
                "epoch {epoch} opened with manifest {}, which is neither the one in force ({}) nor was it proposed since (R21)",
                manifest.version, self.in_force.version
            ));
        }
        let had_open_step = !self.candidates.is_empty();
        self.proposed = None;
        self.candidates.clear();
        self.floors.clear();
        self.enter(manifest.clone());
        self.needed.clear();
        for entry in &manifest.pgs {
            for member in entry.sets.iter().flat_map(|set| &set.members) {
                if member.joining {
                    self.needed.insert(member.segment, last(entry.pg));
                }
            }
        }
        Ok(had_open_step.then_some(found))
    }

    fn enter(&mut self, to: Manifest) {
        let gone = to
            .pgs
            .iter()
            .flat_map(|entry| entry.removed.iter().copied());
        self.removed.extend(gone);
        self.in_force = to;
        self.recount();
    }

    /// The newest writer says a manifest to somebody.
    pub(crate) fn said(&mut self, manifest: &Manifest, scl_of: SclOf<'_>) -> Result<bool, Bad> {
        let version = manifest.version;
        if version <= self.in_force.version {
            return Ok(false);
        }
        if let Some(proposed) = &self.proposed {
            if proposed.to == *manifest {
                return Ok(false);
            }
            return Err(format!(
                "manifest {version} is proposed while {} is not in force (R20)",
                proposed.to.version
            ));
        }
        self.judge_step(manifest, scl_of)?;
        self.candidates.push(manifest.clone());
        self.proposed = Some(Proposal {
            to: manifest.clone(),
            accepted: BTreeMap::new(),
        });
        self.recount();
        Ok(true)
    }

    /// Whether this step may follow the one in force (R20).
    fn judge_step(&self, to: &Manifest, scl_of: SclOf<'_>) -> Result<(), Bad> {
        let version = to.version;
        let from = &self.in_force;
        if version.volume_epoch != from.version.volume_epoch {
            return Err(format!("manifest {version} follows {} (R21)", from.version));
        }
        for entry in &to.pgs {
            let pg = entry.pg;
            let Some(before) = from.pg(pg) else { continue };
            if before.sets == entry.sets {
                continue;
            }
            let floor = self.floors.get(&pg).copied().unwrap_or(Lsn::NONE);
            let left = sets_of(Some(before));
            if joining_reshape(before).is_some()
                && !sets_of(Some(entry)).contains(&ids(&before.sets[0]))
            {
                return Err(format!(
                    "manifest {version} leaves a set of group {pg} for one whose members only join: no quorum of that one holds any manifest (R20)"
                ));
            }
            for set in sets_of(Some(entry)).intersection(&left) {
                if !has_quorum(set, |segment| scl_of(segment) >= floor) {
                    return Err(format!(
                        "manifest {version} is proposed although no write quorum of a set of group {pg} has told that it holds {floor}, which an acceptance of the last step named (R20)"
                    ));
                }
            }
            let joined = before
                .members()
                .into_iter()
                .filter(|member| self.is_joining(member.segment))
                .filter(|member| !entry.removed.contains(&member.segment));
            for member in joined {
                let mut now = entry.sets.iter().flat_map(|set| &set.members);
                let joins = now.any(|other| other.segment == member.segment && other.joining);
                let needed = self.needed.get(&member.segment).copied();
                // What was written since it began to join is on a write quorum of its set.
                let needed = needed.unwrap_or(Lsn::NONE);
                if !joins && scl_of(member.segment) < needed {
                    return Err(format!(
                        "manifest {version} lets segment {} of group {pg} join for good, which holds {} of {needed} (R20)",
                        member.segment,
                        scl_of(member.segment)
                    ));
                }
            }
        }
        Ok(())
    }

    /// A segment told the newest writer that it holds this version. What that brought into force, if it did.
    pub(crate) fn accepted(
        &mut self,
        segment: SegmentId,
        version: ManifestVersion,
        scl: Lsn,
        last: &dyn Fn(PgId) -> Lsn,
    ) -> Option<StepDone> {
        let proposed = self.proposed.as_mut()?;
        if proposed.to.version != version {
            return None;
        }
        proposed.accepted.entry(segment).or_insert(scl);
        let (from, to) = (&self.in_force, &proposed.to);
        let changed = to
            .pgs
            .iter()
            .filter(|entry| from.pg(entry.pg) != Some(*entry));
        let changed: Vec<PgId> = changed.map(|entry| entry.pg).collect();
        let concerned = changed.iter().copied().chain([PgId::ROOT]);
        let accepts = |segment| proposed.accepted.contains_key(&segment);
        let holds = |pg: PgId| {
            let mut sets = deciding(from.pg(pg));
            sets.extend(deciding(to.pg(pg)));
            sets.iter().all(|set| has_quorum(set, accepts))
        };
        if !concerned.clone().all(holds) {
            return None;
        }
        let done = kind_of(from, to);
        for pg in concerned {
            let mut members = sets_of(from.pg(pg));
            members.extend(sets_of(to.pg(pg)));
            let scls = members.iter().flatten();
            let highest = scls
                .filter_map(|segment| proposed.accepted.get(segment))
                .max();
            let floor = highest.copied().unwrap_or(Lsn::NONE);
            if changed.contains(&pg) {
                self.floors.insert(pg, floor);
            }
        }
        let to = to.clone();
        for entry in &to.pgs {
            for member in entry.sets.iter().flat_map(|set| &set.members) {
                if member.joining {
                    let needed = self.needed.entry(member.segment);
                    needed.or_insert(last(entry.pg));
                }
            }
        }
        self.proposed = None;
        self.candidates.clear();
        self.enter(to);
        Some(done)
    }
}

fn kind_of(from: &Manifest, to: &Manifest) -> StepDone {
    if to.pgs.len() > from.pgs.len() {
        return StepDone::Grown;
    }
    for (before, after) in from.pgs.iter().zip(&to.pgs) {
        if before.sets.len() < after.sets.len() {
            return StepDone::Begun;
        }
        if before.sets.len() > after.sets.len() {
            let was_joining = |segment: &SegmentId| {
                let mut members = before.sets.iter().flat_map(|set| &set.members);
                members.any(|member| member.segment == *segment && member.joining)
            };
            let mut gone = after.removed.iter().filter(|s| !before.removed.contains(s));
            return if gone.any(was_joining) {
                StepDone::RolledBack
            } else {
                StepDone::Finished
            };
        }
    }
    let joined = |(before, after): (&PgEntry, &PgEntry)| {
        joining_reshape(before).is_some() && joining_reshape(after).is_none()
    };
    if from.pgs.iter().zip(&to.pgs).any(joined) {
        return StepDone::Confirmed;
    }
    StepDone::Other
}
