//! Copies that an operator declares destroyed (R19): the one unsafe change.
//!
//! Where a group can still reach its write quorum without the lost ones, nothing but an ordinary replacement is needed, and
//! its sets stay. Where it cannot, what survives becomes a set of three, write 2 and read 2, until the writer has brought the group
//! back to six by [`super::begin_reshape`], by way of four. Every lost identity is refused for ever.
//!
//! Answered commits are on four of six. Three survivors meet all of them only together, so the reopening that installs this
//! manifest must have the census of *all three*: [`is_loss_fence`].

use sixfold_log_format::{Manifest, Member, PgEntry, QuorumModel, SegmentId, SegmentSet};

use super::edit::{EditError, checked, names, next_version};
use crate::quorum::{is_fence_quorum_of_all, is_read_quorum, is_write_quorum_of_all};

/// Segments of a group that must survive (R19).
pub const SURVIVORS_MIN: usize = 3;

/// The manifest without the segments in `lost`, as the next version. Ids that no group knows are ignored.
///
/// A group that has its write quorum without them keeps its sets; the lost members in them answer no more and are replaced
/// by ordinary steps. In any other group the replacements under way are taken back, and the survivors of the set that is left
/// make a set of three. Members that an earlier declaration left in their sets are lost like those in `lost`.
///
/// # Errors
/// [`EditError::TooFewSurvivors`] when fewer than three whole segments survive in some group, or three that are no read
/// quorum of its set. [`EditError::TooLarge`].
pub fn declare_lost(manifest: &Manifest, lost: &[SegmentId]) -> Result<Manifest, EditError> {
    let mut next = next_version(manifest);
    for entry in &mut next.pgs {
        let members: Vec<SegmentId> = entry.members().iter().map(|m| m.segment).collect();
        let lost = &all_lost(entry, lost)[..];
        let survivors = survivors_of(entry, lost);
        let needed = SURVIVORS_MIN;
        let survives = |segment| survivors.iter().any(|member| member.segment == segment);
        let too_few = EditError::TooFewSurvivors {
            pg: entry.pg,
            survivors: survivors.len(),
            needed,
        };
        if survivors.len() < needed {
            return Err(too_few);
        }
        let mut gone: Vec<SegmentId> = members
            .iter()
            .copied()
            .filter(|segment| lost.contains(segment))
            .collect();
        if !is_write_quorum_of_all(entry, &|segment| !lost.contains(&segment)) {
            let base = settled_set(entry).ok_or(too_few.clone())?;
            if !is_read_quorum(base, &survives) {
                return Err(too_few);
            }
            let kept = reformed(base, &survivors);
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

/// Whether `holds` is true of the claims that a reopening with losses declared needs of a group, as the manifest *found* has it: a
/// fence quorum where one is left; where none is left, every survivor of the set that stays. Three of six leave no old writer its four.
pub fn is_loss_fence(
    entry: &PgEntry,
    lost: &[SegmentId],
    holds: &dyn Fn(SegmentId) -> bool,
) -> bool {
    let lost = &all_lost(entry, lost)[..];
    if is_write_quorum_of_all(entry, &|segment| !lost.contains(&segment)) {
        return is_fence_quorum_of_all(entry, &|segment| {
            !lost.contains(&segment) && holds(segment)
        });
    }
    let survivors = survivors_of(entry, lost);
    survivors.len() >= SURVIVORS_MIN && survivors.iter().all(|member| holds(member.segment))
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

/// Three survivors make a set of three. With more of them the set itself has its write quorum, and only what was joining held
/// the group back: it stays as it is.
fn reformed(base: &SegmentSet, survivors: &[Member]) -> SegmentSet {
    if survivors.len() > SURVIVORS_MIN {
        return base.clone();
    }
    SegmentSet {
        model: QuorumModel::TwoOfThree,
        members: survivors.to_vec(),
    }
}
