//! Changes of a group's quorum model: to 3/4 for a long outage of an AZ, and back to six segments after it or after copies
//! were declared lost (R19, R20).
//!
//! Three steps, with two sets of different models in force in between:
//!
//! ```text
//!   {2 of 3}  -- begin -->  {2 of 3, 3 of 4 with one that joins}  -- confirm -->  {2 of 3, 3 of 4}  -- finish -->  {3 of 4}
//!       ^                                 |
//!       +------------ abandon ------------+                              and so on from {3 of 4} to {4 of 6}
//! ```
//!
//! Three survivors go to six by way of four, because in each of these steps the members that are whole make a write quorum of the set
//! entered by themselves: commits go on while the others catch up. Of three and three that join only two could be whole at first, and
//! nothing would become durable until the first of the three had copied all that the group holds.
//!
//! Invariant: *as long as a member of the set entered joins, the set left decides alone* ([`deciding`]). Whatever was answered satisfied
//! it too, and no manifest from which it is gone was ever said to anybody, since the step before that one, `confirm`, needs a write quorum
//! of both sets. So a write quorum of the set left fences the group, holds its manifests, and takes the change back, be the others dead:
//! a group that could do without one of its members before can do so while others join. From `confirm` on both sets count; a
//! `finish` that reached a few segments and never came into force would otherwise let a reader of those few miss what is answered
//! after it was taken back.

use std::borrow::Cow;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Manifest, Member, PgEntry, PgId, QuorumModel, SegmentId, SegmentSet};

use super::edit::{EditError, check_fresh, check_known, check_node, entry_of, names, with_entry};

/// The set that a change of the quorum model leads to, when one is under way.
pub fn reshape_of(entry: &PgEntry) -> Option<&SegmentSet> {
    match &entry.sets[..] {
        [base, target] if base.model != target.model => Some(target),
        _ => None,
    }
}

/// The sets that decide who fences a group, who has to hold its manifests, and who has to be whole before it opens: all that are in
/// force, but for the set that a change of the model enters while a member of it joins still. What is *answered* satisfies that one
/// too, and so does what is read.
pub fn deciding(entry: &PgEntry) -> Cow<'_, PgEntry> {
    let joins = |target: &SegmentSet| target.members.iter().any(|member| member.joining);
    match reshape_of(entry) {
        Some(target) if joins(target) || planted(Mutant::ConfirmedReshapeTakenBack) => {
            Cow::Owned(PgEntry {
                pg: entry.pg,
                sets: vec![entry.sets[0].clone()],
                removed: entry.removed.clone(),
            })
        }
        _ => Cow::Borrowed(entry),
    }
}

/// What a group that lost copies for good goes to next, on its way back to six; `None` where nothing is missing.
pub fn regrown(model: QuorumModel) -> Option<QuorumModel> {
    match model {
        QuorumModel::TwoOfThree => Some(QuorumModel::ThreeOfFour),
        QuorumModel::ThreeOfFour => Some(QuorumModel::FourOfSix),
        QuorumModel::FourOfSix | QuorumModel::FullTail => None,
    }
}

/// Begins to change a group's quorum model to that of `target`. Its members are members of the group already, or fresh
/// ones, which join.
///
/// # Errors
/// [`EditError`] when another change of the group is under way, when the model is the one in force or does not fit the members,
/// or when a new member is not fresh, shares a node, or lives on one that is not in the fleet.
pub fn begin_reshape(m: &Manifest, pg: PgId, target: SegmentSet) -> Result<Manifest, EditError> {
    let entry = entry_of(m, pg)?;
    let [base] = &entry.sets[..] else {
        let sets = entry.sets.len();
        return Err(EditError::Busy { pg, sets });
    };
    let mut target = target;
    let members = target.members.len();
    if target.model == base.model || members != target.model.member_count() {
        return Err(EditError::NoModel { members, full: 0 });
    }
    let mut stays: Vec<Member> = Vec::new();
    for member in &mut target.members {
        let held = base
            .members
            .iter()
            .find(|held| held.segment == member.segment);
        match held {
            Some(held) => *member = *held,
            None => {
                check_fresh(m, member.segment)?;
                let leaving: Vec<SegmentId> = Vec::new();
                check_node(entry, member.node, &leaving)?;
                check_known(m, member.node)?;
                member.joining = true;
            }
        }
        let twice = |other: &Member| other.segment == member.segment;
        if stays.iter().any(twice) {
            return Err(EditError::SegmentTaken {
                segment: member.segment,
            });
        }
        if stays.iter().any(|other| other.node == member.node) {
            return Err(EditError::NodeTaken {
                node: member.node,
                pg,
            });
        }
        stays.push(*member);
    }
    let sets = vec![base.clone(), target];
    with_entry(m, pg, sets, &[])
}

/// Says that its members join no more: both sets are in force and decide. May be proposed only when the joining members are whole (R20).
///
/// # Errors
/// [`EditError::Busy`] when no change of the model is under way.
pub fn confirm_reshape(m: &Manifest, pg: PgId) -> Result<Manifest, EditError> {
    let (base, target) = both_sets(m, pg)?;
    let mut whole = target.clone();
    for member in &mut whole.members {
        member.joining = false;
    }
    with_entry(m, pg, vec![base.clone(), whole], &[])
}

/// Finishes it: the new set alone stays, the members that are only in the old one are removed for ever.
///
/// # Errors
/// [`EditError::Busy`] when no change of the model is under way, or when members of the new set join still.
pub fn finish_reshape(m: &Manifest, pg: PgId) -> Result<Manifest, EditError> {
    let (base, target) = both_sets(m, pg)?;
    if target.members.iter().any(|member| member.joining) && !planted(Mutant::ReshapeUnconfirmed) {
        return Err(EditError::Busy { pg, sets: 2 });
    }
    let mut stays = target.clone();
    for member in &mut stays.members {
        member.joining = false;
    }
    with_entry(m, pg, vec![stays], &only_in(base, target))
}

/// Takes back every change of a group's model of which `is_given_up` is true: the manifest without them, `None` when there is none.
/// Each has members that join still.
///
/// # Errors
/// [`EditError::TooLarge`].
pub fn abandon_all(
    m: &Manifest,
    is_given_up: &dyn Fn(&PgEntry) -> bool,
) -> Result<Option<Manifest>, EditError> {
    let mut without = None;
    for entry in &m.pgs {
        if matches!(deciding(entry), Cow::Owned(_)) && is_given_up(entry) {
            without = Some(abandon_reshape(without.as_ref().unwrap_or(m), entry.pg)?);
        }
    }
    Ok(without)
}

/// Takes it back: the old set alone stays, the members that joined are removed for ever.
///
/// # Errors
/// [`EditError::Busy`] when no change of the model is under way.
pub fn abandon_reshape(m: &Manifest, pg: PgId) -> Result<Manifest, EditError> {
    let (base, target) = both_sets(m, pg)?;
    with_entry(m, pg, vec![base.clone()], &only_in(target, base))
}

fn both_sets(m: &Manifest, pg: PgId) -> Result<(&SegmentSet, &SegmentSet), EditError> {
    let entry = entry_of(m, pg)?;
    match reshape_of(entry) {
        Some(target) => Ok((&entry.sets[0], target)),
        None => Err(EditError::Busy {
            pg,
            sets: entry.sets.len(),
        }),
    }
}

fn only_in(one: &SegmentSet, other: &SegmentSet) -> Vec<SegmentId> {
    let segments = one.members.iter().map(|member| member.segment);
    segments.filter(|&segment| !names(other, segment)).collect()
}
