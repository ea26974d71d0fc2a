//! The volume's manifest: its parameters, and which segment of which node holds which protection group.
//!
//! It lives with the segments of PG 0 (R10); every PG keeps its own part. Only the holder of the volume epoch
//! changes it (R21).

use crate::id::{ManifestVersion, NodeId, PageId, PgId, SegmentId, TokenDigest, VolumeId};

mod codec;

pub use codec::MANIFEST_VERSION;

/// What is fixed when a volume is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeParameters {
    /// Page size in bytes, a power of two within the limits.
    pub page_bytes: u32,
    /// LSN allocation limit, records (R1: fixed, so that every reopening annuls far enough).
    pub lal: u64,
    /// Pages in a protection group; page ids are dealt to PGs in runs of this many.
    pub pages_per_pg: u64,
    /// How long old versions stay readable, milliseconds.
    pub retention_ms: u64,
    /// How much redo stays readable, bytes; 0 = no bound.
    pub retention_bytes: u64,
    /// Whoever speaks of the volume shows the token with this digest; `None` = any certificate of the right role will do.
    pub token: Option<TokenDigest>,
}

/// How many segments of a set make a quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuorumModel {
    /// Six segments, write 4, read 3.
    FourOfSix,
    /// Four segments, write 3, read 2; for a long outage of one AZ.
    ThreeOfFour,
    /// Six segments of which three are full: write 4 of any or all fulls, read 3 of any with a full one.
    FullTail,
    /// Three segments, write 2, read 2; what is left where copies were declared lost (R19).
    TwoOfThree,
}

/// What a segment keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberKind {
    /// Log and pages.
    Full,
    /// Log only.
    Tail,
}

/// One segment of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    /// The segment.
    pub segment: SegmentId,
    /// The node that hosts it.
    pub node: NodeId,
    /// What it keeps.
    pub kind: MemberKind,
    /// True until it holds everything: it then counts in no read quorum (R20).
    pub joining: bool,
}

/// One set of segments with its quorum model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SegmentSet {
    /// How many make a quorum.
    pub model: QuorumModel,
    /// The segments; their number is fixed by the model.
    pub members: Vec<Member>,
}

/// A protection group and every set that is in force for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PgEntry {
    /// The group.
    pub pg: PgId,
    /// The sets in force: one, or up to four while segments are being replaced. A write must satisfy all.
    pub sets: Vec<SegmentSet>,
    /// Segments that were removed, for their tombstones (R20) and for identities declared lost (R19).
    pub removed: Vec<SegmentId>,
}

/// Where a node was last seen. Hints only: the certificate says who answers (R25).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeHint {
    /// The node.
    pub node: NodeId,
    /// Its availability zone, for example `az1`.
    pub az: String,
    /// `host:port`.
    pub address: String,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its version.
    pub version: ManifestVersion,
    /// The volume.
    pub volume: VolumeId,
    /// What was fixed at creation.
    pub parameters: VolumeParameters,
    /// The protection groups, PG 0 first, without gaps.
    pub pgs: Vec<PgEntry>,
    /// Where nodes were last seen.
    pub hints: Vec<NodeHint>,
}

impl Manifest {
    /// The protection group that holds a page, or `None` for a page beyond the volume's end.
    pub fn pg_of(&self, page: PageId) -> Option<PgId> {
        let index = page.get() / self.parameters.pages_per_pg;
        let entry = self.pgs.get(usize::try_from(index).ok()?)?;
        Some(entry.pg)
    }

    /// The entry of a protection group.
    pub fn pg(&self, pg: PgId) -> Option<&PgEntry> {
        self.pgs.get(pg.get() as usize)
    }
}

impl QuorumModel {
    /// How many segments a set of this model has.
    pub const fn member_count(self) -> usize {
        match self {
            QuorumModel::FourOfSix | QuorumModel::FullTail => 6,
            QuorumModel::ThreeOfFour => 4,
            QuorumModel::TwoOfThree => 3,
        }
    }
}

impl PgEntry {
    /// Every distinct member of any set, in order of first mention.
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = Vec::new();
        for member in self.sets.iter().flat_map(|set| &set.members) {
            if !members.iter().any(|known| known.segment == member.segment) {
                members.push(*member);
            }
        }
        members
    }
}
