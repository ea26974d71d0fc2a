//! The next manifest of a step: replacing a segment, appending a protection group, changing a hint.
//!
//! Each function gives the manifest with the same volume epoch and the next membership epoch; only the holder of the volume
//! epoch may put it in force (R21). An edit looks at the manifest alone. Whether the step before it is in force and complete
//! is for [`super::Change`] and [`super::is_complete`] to say (R20).

use sixfold_log_format::limits::{
    FRAME_BYTES_MAX, PG_COUNT_MAX, SEGMENTS_PER_SET_MAX, SET_COUNT_MAX, TEXT_BYTES_MAX,
};
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::{
    Manifest, Member, MemberKind, MembershipEpoch, NodeId, PgEntry, PgId, QuorumModel, SegmentId,
    SegmentSet,
};

/// Longest manifest that an edit makes, bytes: it travels with a history in one frame.
pub const MANIFEST_BYTES_MAX: usize = FRAME_BYTES_MAX / 4 * 3;

/// A replacement under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replacement {
    /// The segment that leaves.
    pub out: SegmentId,
    /// The segment that joins in its place.
    pub into: SegmentId,
}

/// Why a manifest cannot be changed in this way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The volume has no such protection group.
    #[error("no protection group {pg}")]
    UnknownPg {
        /// The group.
        pg: PgId,
    },
    /// The segment is not in any set of the group.
    #[error("segment {segment} is not a member of protection group {pg}")]
    NotAMember {
        /// The segment.
        segment: SegmentId,
        /// The group.
        pg: PgId,
    },
    /// The segment joins or leaves already.
    #[error("segment {segment} of protection group {pg} is being replaced already")]
    UnderWay {
        /// The segment.
        segment: SegmentId,
        /// The group.
        pg: PgId,
    },
    /// The group has as many sets in force as it can, or changes its quorum model.
    #[error("protection group {pg} has {sets} sets in force and cannot begin another change")]
    Busy {
        /// The group.
        pg: PgId,
        /// How many.
        sets: usize,
    },
    /// No such change is under way.
    #[error("segment {into} is not joining protection group {pg} in place of {out}")]
    NotUnderWay {
        /// The group.
        pg: PgId,
        /// The segment that would leave.
        out: SegmentId,
        /// The segment that would join.
        into: SegmentId,
    },
    /// The identity is in use or was removed for ever (R12, R19).
    #[error("segment {segment} is or was a segment of this volume")]
    SegmentTaken {
        /// The segment.
        segment: SegmentId,
    },
    /// Two segments of one group on one node would die together.
    #[error("node {node} hosts a segment of protection group {pg} already")]
    NodeTaken {
        /// The node.
        node: NodeId,
        /// The group.
        pg: PgId,
    },
    /// A full member is replaced by a full one, a tail by a tail.
    #[error("segment {segment} is not of the kind of the one it replaces")]
    WrongKind {
        /// The segment that would join.
        segment: SegmentId,
    },
    /// No quorum model has such members.
    #[error("{members} members, {full} of them full, fit no quorum model")]
    NoModel {
        /// How many.
        members: usize,
        /// How many are full.
        full: usize,
    },
    /// The volume has as many protection groups as it can.
    #[error("the volume has {pgs} protection groups, no more are possible")]
    TooManyPgs {
        /// How many.
        pgs: usize,
    },
    /// The manifest does not name this node.
    #[error("node {node} is not in the fleet of this volume")]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// The node holds a segment.
    #[error("node {node} holds segment {segment} of protection group {pg}")]
    NodeInUse {
        /// The node.
        node: NodeId,
        /// The group.
        pg: PgId,
        /// One of its segments.
        segment: SegmentId,
    },
    /// A text is empty or too long.
    #[error("a hint's text has {bytes} bytes, 1 to {TEXT_BYTES_MAX} are possible")]
    HintText {
        /// How long it is.
        bytes: usize,
    },
    /// The hint says what the manifest says.
    #[error("the manifest says the same of node {node}")]
    HintKnown {
        /// The node.
        node: NodeId,
    },
    /// Fewer segments survive than answered commits need (R19).
    #[error("{survivors} segments of protection group {pg} survive, {needed} are needed")]
    TooFewSurvivors {
        /// The group.
        pg: PgId,
        /// How many survive.
        survivors: usize,
        /// How many must.
        needed: usize,
    },
    /// It would not fit a message.
    #[error("the manifest would have {bytes} bytes, {MANIFEST_BYTES_MAX} are possible")]
    TooLarge {
        /// How long.
        bytes: usize,
    },
}

/// Begins to replace `out` by `into` in a group: each set with `out` gets a twin with `into` at its place, `joining`
/// whatever `into` says (R20). One set becomes two, two become four.
///
/// # Errors
/// [`EditError`] when `out` is no whole member, when `into` is not fresh or not of its kind, when its node hosts another
/// segment of the group or is not in the fleet, or when the group has no room for another change.
pub fn begin_replace(
    m: &Manifest,
    pg: PgId,
    out: SegmentId,
    into: Member,
) -> Result<Manifest, EditError> {
    let entry = entry_of(m, pg)?;
    let leaving = member_of(entry, out)?;
    let moves = |change: &Replacement| change.out == out || change.into == out;
    if leaving.joining || replacements(entry).iter().any(moves) {
        return Err(EditError::UnderWay { segment: out, pg });
    }
    let is_reshaped = super::reshape_of(entry).is_some();
    if is_reshaped || entry.sets.len() * 2 > SET_COUNT_MAX {
        let sets = entry.sets.len();
        return Err(EditError::Busy { pg, sets });
    }
    check_fresh(m, into.segment)?;
    if into.kind != leaving.kind {
        return Err(EditError::WrongKind {
            segment: into.segment,
        });
    }
    check_node(entry, into.node, &[out])?;
    check_known(m, into.node)?;
    let joining = Member {
        joining: true,
        ..into
    };
    let twin = |set: &SegmentSet| SegmentSet {
        model: set.model,
        members: set
            .members
            .iter()
            .map(|&member| match member.segment == out {
                true => joining,
                false => member,
            })
            .collect(),
    };
    let mut sets = entry.sets.clone();
    sets.extend(entry.sets.iter().filter(|set| names(set, out)).map(twin));
    with_entry(m, pg, sets, &[])
}

/// Finishes a replacement: the sets without `out` stay, `into` joins no more, `out` is removed for ever. May be proposed
/// only when `into` is whole (R20).
///
/// # Errors
/// [`EditError`] when this replacement is not under way.
pub fn finish_replace(
    m: &Manifest,
    pg: PgId,
    out: SegmentId,
    into: SegmentId,
) -> Result<Manifest, EditError> {
    let mut sets = sets_without(m, pg, Replacement { out, into }, out)?;
    for member in sets.iter_mut().flat_map(|set| &mut set.members) {
        member.joining &= member.segment != into;
    }
    with_entry(m, pg, sets, &[out])
}

/// Takes a replacement back: the sets without `into` stay, `into` is removed for ever.
///
/// # Errors
/// [`EditError`] when this replacement is not under way.
pub fn roll_back(
    m: &Manifest,
    pg: PgId,
    out: SegmentId,
    into: SegmentId,
) -> Result<Manifest, EditError> {
    let sets = sets_without(m, pg, Replacement { out, into }, into)?;
    with_entry(m, pg, sets, &[into])
}

/// Appends a protection group of fresh, empty segments on as many nodes. They count at once: nothing was ever written
/// there, so nothing can be missing. It takes its first record only when this step is in force (R10).
///
/// Six full members make 4/6, three full of six full/tail, four full ones 3/4.
///
/// # Errors
/// [`EditError`] when the members fit no model, are not fresh, share a node or live on one that is not in the fleet, or when there
/// are too many groups.
pub fn append_pg(m: &Manifest, members: Vec<Member>) -> Result<Manifest, EditError> {
    let pgs = m.pgs.len();
    let number = u32::try_from(pgs).map_err(|_| EditError::TooManyPgs { pgs })?;
    if pgs >= PG_COUNT_MAX {
        return Err(EditError::TooManyPgs { pgs });
    }
    let model = model_of(&members)?;
    let pg = PgId::new(number);
    for (index, member) in members.iter().enumerate() {
        check_fresh(m, member.segment)?;
        check_known(m, member.node)?;
        for other in &members[..index] {
            if other.segment == member.segment {
                return Err(EditError::SegmentTaken {
                    segment: member.segment,
                });
            }
            if other.node == member.node {
                return Err(EditError::NodeTaken {
                    node: member.node,
                    pg,
                });
            }
        }
    }
    let whole = |member: Member| Member {
        joining: false,
        ..member
    };
    let mut next = next_version(m);
    next.pgs.push(PgEntry {
        pg,
        sets: vec![SegmentSet {
            model,
            members: members.into_iter().map(whole).collect(),
        }],
        removed: Vec::new(),
    });
    checked(next)
}

/// Adds a node to the fleet, or changes where one is (R25).
///
/// # Errors
/// [`EditError`] when a text is empty or too long, or when the manifest says so already.
pub fn set_hint(m: &Manifest, hint: NodeHint) -> Result<Manifest, EditError> {
    for text in [&hint.az, &hint.address] {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            return Err(EditError::HintText { bytes: text.len() });
        }
    }
    let mut next = next_version(m);
    match next.hints.iter_mut().find(|known| known.node == hint.node) {
        Some(known) if *known == hint => return Err(EditError::HintKnown { node: hint.node }),
        Some(known) => *known = hint,
        None => next.hints.push(hint),
    }
    checked(next)
}

/// Takes a node out of the fleet.
///
/// # Errors
/// [`EditError`] when it holds a segment of any set in force, or is not in the fleet.
pub fn drop_hint(m: &Manifest, node: NodeId) -> Result<Manifest, EditError> {
    for entry in &m.pgs {
        if let Some(member) = entry.members().iter().find(|member| member.node == node) {
            return Err(EditError::NodeInUse {
                node,
                pg: entry.pg,
                segment: member.segment,
            });
        }
    }
    let mut next = next_version(m);
    next.hints.retain(|hint| hint.node != node);
    if next.hints.len() == m.hints.len() {
        return Err(EditError::UnknownNode { node });
    }
    checked(next)
}

/// The replacements under way in a group, found from its joining members: whoever stands at the place of a joining member in
/// a set that is the same otherwise. A new writer finds them like this and goes on (R21).
pub fn replacements(entry: &PgEntry) -> Vec<Replacement> {
    let mut found: Vec<Replacement> = Vec::new();
    for set in &entry.sets {
        for (place, member) in set.members.iter().enumerate() {
            let known = found.iter().any(|change| change.into == member.segment);
            if !member.joining || known {
                continue;
            }
            let out = entry.sets.iter().find_map(|twin| twin_at(twin, set, place));
            if let Some(out) = out {
                found.push(Replacement {
                    out,
                    into: member.segment,
                });
            }
        }
    }
    found
}

/// Who stands in `twin` at the place of a member of `set`, if the two sets are the same otherwise.
fn twin_at(twin: &SegmentSet, set: &SegmentSet, place: usize) -> Option<SegmentId> {
    let same_shape = twin.model == set.model && twin.members.len() == set.members.len();
    let other = twin.members.get(place)?;
    let mut pairs = twin.members.iter().zip(&set.members).enumerate();
    let same_others = pairs.all(|(at, (one, two))| at == place || one.segment == two.segment);
    let is_twin = same_shape && same_others && !other.joining;
    (is_twin && other.segment != set.members[place].segment).then_some(other.segment)
}

fn sets_without(
    m: &Manifest,
    pg: PgId,
    change: Replacement,
    gone: SegmentId,
) -> Result<Vec<SegmentSet>, EditError> {
    let entry = entry_of(m, pg)?;
    if !replacements(entry).contains(&change) {
        let Replacement { out, into } = change;
        return Err(EditError::NotUnderWay { pg, out, into });
    }
    let sets = entry.sets.iter().filter(|set| !names(set, gone));
    Ok(sets.cloned().collect())
}

fn model_of(members: &[Member]) -> Result<QuorumModel, EditError> {
    let kind_is_full = |member: &&Member| member.kind == MemberKind::Full;
    let full = members.iter().filter(kind_is_full).count();
    match (members.len(), full) {
        (SEGMENTS_PER_SET_MAX, SEGMENTS_PER_SET_MAX) => Ok(QuorumModel::FourOfSix),
        (SEGMENTS_PER_SET_MAX, 3) => Ok(QuorumModel::FullTail),
        (4, 4) => Ok(QuorumModel::ThreeOfFour),
        (members, full) => Err(EditError::NoModel { members, full }),
    }
}

pub(super) fn names(set: &SegmentSet, segment: SegmentId) -> bool {
    set.members.iter().any(|member| member.segment == segment)
}

pub(super) fn entry_of(m: &Manifest, pg: PgId) -> Result<&PgEntry, EditError> {
    m.pg(pg).ok_or(EditError::UnknownPg { pg })
}

fn member_of(entry: &PgEntry, segment: SegmentId) -> Result<Member, EditError> {
    let mut members = entry.members().into_iter();
    members
        .find(|member| member.segment == segment)
        .ok_or(EditError::NotAMember {
            segment,
            pg: entry.pg,
        })
}

/// An identity is never used twice in a volume (R12).
pub(super) fn check_fresh(m: &Manifest, segment: SegmentId) -> Result<(), EditError> {
    let known = |entry: &PgEntry| {
        entry.removed.contains(&segment) || entry.sets.iter().any(|set| names(set, segment))
    };
    match m.pgs.iter().any(known) {
        true => Err(EditError::SegmentTaken { segment }),
        false => Ok(()),
    }
}

/// The node hosts no segment of the group but those that leave.
pub(super) fn check_node(
    entry: &PgEntry,
    node: NodeId,
    leaving: &[SegmentId],
) -> Result<(), EditError> {
    let hosts = |member: &Member| member.node == node && !leaving.contains(&member.segment);
    match entry.members().iter().any(hosts) {
        true => Err(EditError::NodeTaken { node, pg: entry.pg }),
        false => Ok(()),
    }
}

/// The node is in the fleet: a member whose node has no address would be found by no later writer (R25).
pub(super) fn check_known(m: &Manifest, node: NodeId) -> Result<(), EditError> {
    match m.hints.iter().any(|hint| hint.node == node) {
        true => Ok(()),
        false => Err(EditError::UnknownNode { node }),
    }
}

/// The next version with other sets for a group.
pub(super) fn with_entry(
    m: &Manifest,
    pg: PgId,
    sets: Vec<SegmentSet>,
    removed: &[SegmentId],
) -> Result<Manifest, EditError> {
    let mut next = next_version(m);
    let mut entries = next.pgs.iter_mut();
    let entry = entries
        .find(|entry| entry.pg == pg)
        .ok_or(EditError::UnknownPg { pg })?;
    entry.sets = sets;
    for &segment in removed {
        if !entry.removed.contains(&segment) {
            entry.removed.push(segment);
        }
    }
    checked(next)
}

pub(super) fn next_version(m: &Manifest) -> Manifest {
    let mut next = m.clone();
    let held = m.version.membership_epoch.get();
    let number = held.checked_add(1).expect("membership epochs exhausted");
    next.version.membership_epoch = MembershipEpoch::new(number);
    next
}

pub(super) fn checked(next: Manifest) -> Result<Manifest, EditError> {
    let bytes = next.encode().len();
    if bytes > MANIFEST_BYTES_MAX {
        return Err(EditError::TooLarge { bytes });
    }
    Ok(next)
}
