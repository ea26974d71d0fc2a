//! Who holds which segment, and how that changes while the volume serves (R10, R20, R21, R24).
//!
//! The types here each hold one thing with its invariants; `writer/steps.rs` and its neighbors are where they meet the groups and the shipper.
//!
//! ```text
//! wish, silence, few copies     -> jobs: replace and reshape (create, begin, join, finish or roll back), grow, hint
//! or few free pages
//!                               -> one step at a time: `step` (proposed -> in force), calls with retries
//!                               -> stragglers told, removed segments dropped, wishes reported
//! ```
//!
//! Invariants, for the whole of it:
//! - Only one step is under way; its number is used once, since every step that was proposed comes into force.
//! - From the proposal until it is in force, writes, PGCL and the read lease satisfy every set left and every set entered.
//! - The next step of a group waits until a write quorum of each of its sets holds all that an acceptance of the last one named.
//! - A segment leaves only when the one that takes its place is whole.
//! - A group takes no record before the root's step that appends it is in force.

pub(crate) mod calls;
pub(crate) mod carrier;
pub(crate) mod fleet;
pub(crate) mod jobs;
pub(crate) mod leaving;
pub(crate) mod step;
pub(crate) mod wishes;

mod draw;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sixfold_log_format::wire::WishReport;
use sixfold_log_format::{Lsn, ManifestVersion, NodeId, PgEntry, PgId, SegmentId};
use sixfold_recovery::machine::Opened;

use self::calls::Calls;
use self::carrier::{Carrier, Pause};
use self::draw::Draw;
use self::fleet::Fleet;
use self::jobs::Jobs;
use self::leaving::Leaving;
use self::step::Step;
use self::wishes::Wishes;

/// Refusals remembered for status.
const REFUSALS_MAX: usize = 16;
/// A process that did not look for this long stood still: silence of others in that time tells nothing.
const STOOD_STILL: Duration = Duration::from_secs(1);
/// The longest pause between two looks at who is silent.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// How the writer changes the membership by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberBounds {
    /// A segment that was not heard for this long is replaced on a spare node, and a group that lost copies for good gets others
    /// (R19). `None` = never; what an earlier writer began goes on, and is taken back when commits wait for it.
    pub repair_after: Option<Duration>,
    /// Segments that are being replaced at the same time, by wish or by itself; the others wait.
    pub replacements_max: usize,
    /// The volume grows by a protection group when fewer pages than this are free. `None` = by wish only.
    pub grow_below_free_pages: Option<u64>,
    /// Protection groups that the volume may have, at most.
    pub pgs_max: usize,
    /// A writer that keeps only just a write quorum, because other segments hold a rival's claim, opens the volume again under a
    /// higher epoch after this long (R8). `None` = never.
    pub refence_after: Option<Duration>,
}

impl Default for MemberBounds {
    fn default() -> MemberBounds {
        MemberBounds {
            repair_after: Some(Duration::from_secs(300)),
            replacements_max: 4,
            grow_below_free_pages: None,
            pgs_max: 1_024,
            refence_after: None,
        }
    }
}

/// Where a replacement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplacePhase {
    /// The new segment is being made.
    Creating,
    /// The step that lets it join is not in force yet.
    Beginning,
    /// It catches up.
    Joining,
    /// The step that removes the old one is not in force yet.
    Finishing,
    /// The step that takes it back is not in force yet.
    RollingBack,
}

/// A replacement under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplacementStats {
    /// The group.
    pub pg: PgId,
    /// The segment that leaves.
    pub out: SegmentId,
    /// The one that takes its place.
    pub into: SegmentId,
    /// The node of the latter.
    pub node: NodeId,
    /// Where it stands.
    pub phase: ReplacePhase,
    /// How far the new segment is.
    pub scl: Lsn,
    /// Where it has to be before the old one leaves; the group's last LSN while that is not known.
    pub needed: Lsn,
}

/// A group that lost copies for good (R19) and gets more again: from three to four, and from four to six.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReshapeStats {
    /// The group.
    pub pg: PgId,
    /// How many segments join.
    pub joining: usize,
    /// Where it stands.
    pub phase: ReplacePhase,
    /// How far the one that is furthest behind is.
    pub scl: Lsn,
    /// Where it has to be; the group's last LSN while that is not known.
    pub needed: Lsn,
}

/// The membership, for status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MembershipStats {
    /// The manifest in force.
    pub version: ManifestVersion,
    /// The one that is proposed.
    pub proposed: Option<ManifestVersion>,
    /// How many sets are in force for each group.
    pub sets: Vec<(PgId, usize)>,
    /// The groups with all their sets, as in the manifest in force: who counts for a quorum, and how many make one.
    pub groups: Vec<PgEntry>,
    /// Replacements under way.
    pub replacements: Vec<ReplacementStats>,
    /// Segments whose replacement waits for its turn.
    pub waiting: usize,
    /// Groups with fewer segments than six since copies of them were declared lost, and how many they have.
    pub short: Vec<(PgId, usize)>,
    /// Those of them that get more.
    pub reshapes: Vec<ReshapeStats>,
    /// Whether a group is being appended.
    pub growing: bool,
    /// Members that have not accepted a step that is in force without them.
    pub stragglers: usize,
    /// Removed segments that were not dropped yet.
    pub leaving: usize,
    /// Why what was wanted was not done, the newest last.
    pub refusals: Vec<String>,
    /// The wishes of late, as far as they are.
    pub wishes: Vec<WishReport>,
    /// How often the volume was opened again in place.
    pub refences: u64,
}

/// What the writer holds about the membership beside the manifest in force.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) bounds: MemberBounds,
    pub(crate) step: Option<Step>,
    pub(crate) calls: Calls,
    pub(crate) jobs: Jobs,
    pub(crate) leaving: Leaving,
    pub(crate) wishes: Wishes,
    pub(crate) fleet: Fleet,
    pub(crate) draw: Draw,
    refusals: VecDeque<String>,
    looked_at: Duration,
    beat_at: Duration,
    /// Silent segments for which no place was found, and when to look again.
    pub(crate) repair_pauses: BTreeMap<SegmentId, Duration>,
    /// Groups that lack copies and could not be given any, and when to look again.
    pub(crate) reshape_pauses: BTreeMap<PgId, Pause>,
    /// Groups that lack copies: whether the members that they have carry their writes.
    pub(crate) carriers: BTreeMap<PgId, Carrier>,
    /// The volume could not grow by itself: not before.
    pub(crate) grow_not_before: Duration,
}

impl Members {
    pub(crate) fn new(opened: &Opened, bounds: MemberBounds, now: Duration) -> Members {
        Members {
            bounds,
            step: None,
            calls: Calls::default(),
            jobs: Jobs::default(),
            leaving: Leaving::default(),
            wishes: Wishes::new(opened.manifest.volume, opened.volume_epoch, opened.writer),
            fleet: Fleet::default(),
            draw: Draw::new(opened.writer, opened.volume_epoch),
            refusals: VecDeque::new(),
            looked_at: now,
            beat_at: now,
            repair_pauses: BTreeMap::new(),
            reshape_pauses: BTreeMap::new(),
            carriers: BTreeMap::new(),
            grow_not_before: now,
        }
    }

    /// Whether there is nothing to be done: the usual case, found without a look at any list of members.
    pub(crate) fn is_idle(&self) -> bool {
        self.step.is_none()
            && self.jobs.is_empty()
            && self.leaving.is_empty()
            && !self.wishes.is_pending()
    }

    /// Something that was wanted cannot be done.
    pub(crate) fn refused(&mut self, reason: String) {
        if self.refusals.back() == Some(&reason) {
            return;
        }
        if self.refusals.len() >= REFUSALS_MAX {
            self.refusals.pop_front();
        }
        self.refusals.push_back(reason);
    }

    pub(crate) fn refusals(&self) -> Vec<String> {
        self.refusals.iter().cloned().collect()
    }

    /// For how long this process stood still since the last beat, if it did.
    pub(crate) fn gap(&mut self, now: Duration) -> Option<Duration> {
        let gap = now.saturating_sub(self.beat_at);
        self.beat_at = now;
        (gap >= STOOD_STILL).then_some(gap)
    }

    /// Whether it is time to look who is silent, and how groups are that lack copies.
    pub(crate) fn take_look(&mut self, now: Duration) -> bool {
        let patience = self.bounds.repair_after.unwrap_or(LOOK_MAX * 4);
        let is_due = now >= self.looked_at + LOOK_MAX.min(patience / 4);
        if is_due {
            self.looked_at = now;
        }
        is_due
    }
}
