//! Copies that an operator declares destroyed (R19): the one unsafe change.
//!
//! Where a group can still reach its write quorum without the lost ones, nothing but an ordinary replacement is needed, and
//! its sets stay. Where it cannot, what survives becomes a set of three, write 2 and read 2, until the writer has brought the group
//! back to six by [`super::begin_reshape`], by way of four. Every lost identity is refused for ever. Of a group of four two survivors are
//! enough: they become two of a set of three, the third of which is a lost one until it is replaced.
//!
//! Answered commits are on four of six. Three survivors meet all of them only together, so the reopening that installs this
//! manifest must have the census of *all three*: [`is_loss_fence`]. Two of four are met by every three of the four.
//!
//! A set that members join to change the group's model decides nothing yet ([`super::deciding`]): whether the group needs the
//! declaration at all is asked of the set that it leaves.

use sixfold_log_format::{Manifest, Member, PgEntry, QuorumModel, SegmentId, SegmentSet};

use super::edit::{EditError, checked, names, next_version};
use super::reshape::deciding;
use crate::quorum::{
    is_fence_quorum_of_all, is_read_quorum, is_write_quorum, is_write_quorum_of_all, read_count,
};

/// Segments of a group of six that must survive (R19).
pub const SURVIVORS_MIN: usize = 3;
/// Members of the set that survivors become.
const REFORMED: usize = 3;

/// The manifest without the segments in `lost`, as the next version. Ids that no group knows are ignored.
///
/// A group that has its write quorum without them keeps its sets; the lost members in them answer no more and are replaced
/// by ordinary steps. In any other group the changes under way are taken back, and the survivors of the set that is left
/// make a set of three. Members that an earlier declaration left in their sets are lost like those in `lost`.
///
/// # Errors
/// [`EditError::TooFewSurvivors`] when in some group that has to be re-formed fewer whole segments survive than a read quorum of its set
/// takes. [`EditError::TooLarge`].
pub fn declare_lost(manifest: &Manifest, lost: &[SegmentId]) -> Result<Manifest, EditError> {
    let mut next = next_version(manifest);
    for entry in &mut next.pgs {
        let members: Vec<SegmentId> = entry.members().iter().map(|m| m.segment).collect();
        let lost = &all_lost(entry, lost)[..];
        let stands = |segment| !lost.contains(&segment);
        let mut gone: Vec<SegmentId> = members
            .iter()
            .copied()
            .filter(|segment| lost.contains(segment))
            .collect();
        if !is_write_quorum_of_all(entry, &stands) {
            let kept = match without_loss(entry, lost) {
                Some(kept) => kept,
                None => reformed(entry, lost)?,
            };
            // Whatever was joining, or is not in the set that stays, is gone with it.
            let dropped = |segment: &&SegmentId| !names(&kept, **segment);
            gone.extend(members.iter().filter(dropped));
            entry.sets = vec![kept];
        }
        for segment in gone {
            if !entry.removed.contains(&segment) {
                entry.removed.push(segment);
            }
        }
    }
    checked(next)
}

/// The set that a change of the model leaves, when that one has its write quorum and only what joins holds the group back.
fn without_loss(entry: &PgEntry, lost: &[SegmentId]) -> Option<SegmentSet> {
    let decides = deciding(entry);
    let stands = |segment| !lost.contains(&segment);
    let has_quorum = is_write_quorum_of_all(&decides, &stands);
    has_quorum.then(|| decides.sets[0].clone())
}

/// Whether a group is re-formed from its survivors when these are lost, every one of which counts then.
pub fn is_reformed(entry: &PgEntry, lost: &[SegmentId]) -> bool {
    let lost = &all_lost(entry, lost)[..];
    !is_write_quorum_of_all(&deciding(entry), &|segment| !lost.contains(&segment))
}

/// Whether `holds` is true of the claims that a reopening with losses declared needs of a group, as the manifest *found* has it: a
/// fence quorum where one is left; where none is left, every survivor of the set that stays. Three of six leave no old writer its four.
pub fn is_loss_fence(
    entry: &PgEntry,
    lost: &[SegmentId],
    holds: &dyn Fn(SegmentId) -> bool,
) -> bool {
    if !is_reformed(entry, lost) {
        let lost = &all_lost(entry, lost)[..];
        return is_fence_quorum_of_all(&deciding(entry), &|segment| {
            !lost.contains(&segment) && holds(segment)
        });
    }
    let lost = &all_lost(entry, lost)[..];
    let survivors = survivors_of(entry, lost);
    let survives = |segment| survivors.iter().any(|member| member.segment == segment);
    settled_set(entry).is_some_and(|base| is_read_quorum(base, &survives))
        && survivors.iter().all(|member| holds(member.segment))
}

/// Those, and whom an earlier declaration removed: some of them may stand in a set still, until they are replaced.
fn all_lost(entry: &PgEntry, lost: &[SegmentId]) -> Vec<SegmentId> {
    lost.iter().chain(&entry.removed).copied().collect()
}

/// The set without joining members: every write, answered under whatever step is under way, satisfied it.
fn settled_set(entry: &PgEntry) -> Option<&SegmentSet> {
    let is_settled = |set: &&SegmentSet| set.members.iter().all(|member| !member.joining);
    entry.sets.iter().find(is_settled)
}

fn survivors_of(entry: &PgEntry, lost: &[SegmentId]) -> Vec<Member> {
    let members = settled_set(entry).map_or(&[][..], |set| &set.members);
    let survives = |member: &&Member| !lost.contains(&member.segment);
    members.iter().filter(survives).copied().collect()
}

/// The set of the survivors. With more of them than a read quorum the set itself has its write quorum, and only what was joining held
/// the group back: it stays as it is.
fn reformed(entry: &PgEntry, lost: &[SegmentId]) -> Result<SegmentSet, EditError> {
    let survivors = survivors_of(entry, lost);
    let survives = |segment| survivors.iter().any(|member| member.segment == segment);
    let base = settled_set(entry);
    let too_few = |needed| EditError::TooFewSurvivors {
        pg: entry.pg,
        survivors: survivors.len(),
        needed,
    };
    let base = base.ok_or(too_few(SURVIVORS_MIN))?;
    if is_write_quorum(base, &survives) {
        return Ok(base.clone());
    }
    if !is_read_quorum(base, &survives) {
        return Err(too_few(read_count(base.model)));
    }
    let others = base.members.iter().filter(|m| !survives(m.segment));
    let members = survivors.iter().chain(others).take(REFORMED).copied();
    Ok(SegmentSet {
        model: QuorumModel::TwoOfThree,
        members: members.collect(),
    })
}
