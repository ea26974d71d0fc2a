//! Phase two: claiming an epoch, the root PG first (R10); the answers are the census.

use std::collections::BTreeMap;
use std::time::Duration;

use sixfold_log_format::limits::LAL_MAX;
use sixfold_log_format::wire::{Census, Claim};
use sixfold_log_format::{
    Manifest, Member, NodeId, PgEntry, PgId, SegmentId, VolumeEpoch, WriterId,
};

use super::loss::Loss;
use super::pieces::{Assembled, Pieces};
use super::{RecoveryError, RequestKey, shortfall};

/// For how long claims are waited for that are not needed, but without which a change of a group's quorum model has to be taken back.
const UNNEEDED_GRACE: Duration = Duration::from_millis(500);

/// What the answers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FenceVerdict {
    Wait,
    /// A fence quorum of every PG of the manifest accepted the claim.
    Fenced,
    /// Too many segments hold a claim at least as high.
    Lost {
        volume_epoch: VolumeEpoch,
    },
}

/// What became of a piece of a census.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// More will come.
    More,
    /// The census of this segment is whole; its lease runs this much longer.
    Whole { lease_left: Duration },
    /// Not an answer to this claim.
    Nonsense,
}

/// The claims of one attempt.
#[derive(Debug)]
pub(super) struct FenceStep {
    pub(super) volume_epoch: VolumeEpoch,
    pub(super) writer: WriterId,
    manifest: Manifest,
    loss: Loss,
    pieces: Pieces,
    whole: BTreeMap<SegmentId, Census>,
    refused: BTreeMap<SegmentId, VolumeEpoch>,
    /// Since when the claims that are needed are there.
    fenced_at: Option<Duration>,
}

impl FenceStep {
    pub(super) fn new(
        volume_epoch: VolumeEpoch,
        writer: WriterId,
        manifest: Manifest,
        loss: Loss,
    ) -> FenceStep {
        FenceStep {
            volume_epoch,
            writer,
            manifest,
            loss,
            pieces: Pieces::default(),
            whole: BTreeMap::new(),
            refused: BTreeMap::new(),
            fenced_at: None,
        }
    }

    /// Whose claim is wanted now: the root's members until the root is fenced, then everybody's.
    pub(super) fn wanted(&self) -> Vec<SegmentId> {
        let pg_count = if self.root_is_fenced() {
            self.manifest.pgs.len()
        } else {
            1
        };
        let members = self
            .manifest
            .pgs
            .iter()
            .take(pg_count)
            .flat_map(|entry| self.loss.asked(entry));
        let open = |segment: &SegmentId| {
            !self.whole.contains_key(segment) && !self.refused.contains_key(segment)
        };
        members.map(|member| member.segment).filter(open).collect()
    }

    pub(super) fn request(&self, segment: SegmentId) -> Option<(NodeId, Claim)> {
        let member = find(&self.manifest, segment)?.1;
        Some((
            member.node,
            Claim {
                segment,
                volume_epoch: self.volume_epoch,
                writer: self.writer,
            },
        ))
    }

    /// A piece of a census.
    pub(super) fn census(&mut self, key: RequestKey, segment: SegmentId, piece: Census) -> Piece {
        let own = piece.segment == segment && piece.volume_epoch == self.volume_epoch;
        if !own || !self.is_sensible(&piece) {
            return Piece::Nonsense;
        }
        let whole = match self.pieces.add(key, segment, piece) {
            Assembled::More => return Piece::More,
            Assembled::Whole(whole) => *whole,
            Assembled::TooLong => return Piece::Nonsense,
        };
        let lease_left = Duration::from_millis(u64::from(whole.lease_left_ms));
        self.whole.insert(segment, whole);
        self.ask_the_root();
        Piece::Whole { lease_left }
    }

    /// The manifest found in the fenced root names the groups that count (R10, R21), also when the probe had heard of a newer one: had
    /// that been in force, a write quorum of the root would hold it. Before the root is fenced only a newer one of its own counts.
    fn ask_the_root(&mut self) {
        let of_root = |census: &&Census| {
            find(&census.manifest, census.segment).is_some_and(|(pg, _)| pg == PgId::ROOT)
        };
        let manifests = self.whole.values().filter(of_root);
        let newest = manifests
            .map(|census| &census.manifest)
            .max_by_key(|manifest| manifest.version);
        let Some(newest) = newest else {
            return;
        };
        let fenced = newest
            .pg(PgId::ROOT)
            .is_some_and(|entry| self.is_fenced(entry));
        let version = self.manifest.version;
        if newest.version > version || (newest.version < version && fenced && self.root_is_fenced())
        {
            self.manifest = newest.clone();
        }
    }

    /// Whether what follows may rely on this answer: a segment that accepted our claim holds nothing of our epoch yet.
    fn is_sensible(&self, census: &Census) -> bool {
        let manifest = &census.manifest;
        let below = |volume_epoch| volume_epoch < self.volume_epoch;
        manifest.volume == self.manifest.volume
            && !manifest.pgs.is_empty()
            && (1..=LAL_MAX).contains(&manifest.parameters.lal)
            && below(census.history.volume_epoch)
            && below(manifest.version.volume_epoch)
    }

    /// The epochs of the histories that were found.
    pub(super) fn histories(&self) -> impl Iterator<Item = VolumeEpoch> + '_ {
        self.whole
            .values()
            .map(|census| census.history.volume_epoch)
    }

    pub(super) fn refused(&mut self, segment: SegmentId, by: VolumeEpoch) {
        self.refused.insert(segment, by);
    }

    fn is_fenced(&self, entry: &PgEntry) -> bool {
        self.loss
            .is_fence(entry, &|segment| self.whole.contains_key(&segment))
    }

    fn root_is_fenced(&self) -> bool {
        self.manifest
            .pg(PgId::ROOT)
            .is_some_and(|entry| self.is_fenced(entry))
    }

    pub(super) fn verdict(&mut self, now: Duration) -> FenceVerdict {
        let possible = |entry: &PgEntry| {
            self.loss
                .is_fence(entry, &|segment| !self.refused.contains_key(&segment))
        };
        let mut entries = self.manifest.pgs.iter();
        if entries.all(|entry| self.is_fenced(entry)) {
            let at = *self.fenced_at.get_or_insert(now);
            return if self.is_whole() || at + UNNEEDED_GRACE <= now {
                FenceVerdict::Fenced
            } else {
                FenceVerdict::Wait
            };
        }
        self.fenced_at = None;
        if self.manifest.pgs.iter().all(possible) {
            return FenceVerdict::Wait;
        }
        let volume_epoch = self
            .refused
            .values()
            .copied()
            .max()
            .unwrap_or(self.volume_epoch);
        FenceVerdict::Lost { volume_epoch }
    }

    /// Whether every set of every group is fenced, also those that decide nothing yet; or nobody is left who could do that.
    fn is_whole(&self) -> bool {
        let is_whole = |entry: &PgEntry, holds: &dyn Fn(SegmentId) -> bool| {
            self.loss.is_whole_fence(entry, holds)
        };
        let free = |segment| !self.refused.contains_key(&segment);
        self.manifest.pgs.iter().all(|entry| {
            is_whole(entry, &|segment| self.whole.contains_key(&segment)) || !is_whole(entry, &free)
        })
    }

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.fenced_at.map(|at| at + UNNEEDED_GRACE)
    }

    /// The answers of all fences, for the cut.
    pub(super) fn into_answers(self) -> Vec<(PgId, Census)> {
        let manifest = self.manifest;
        let pg_of = |segment| find(&manifest, segment).map(|(pg, _)| pg);
        self.whole
            .into_iter()
            .filter_map(|(segment, census)| Some((pg_of(segment)?, census)))
            .collect()
    }

    /// For the error of the deadline.
    pub(super) fn shortfall(&self) -> Option<RecoveryError> {
        shortfall(&self.manifest, &|_, segment| {
            self.whole.contains_key(&segment)
        })
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// Where a segment stands in a manifest.
pub(super) fn find(manifest: &Manifest, segment: SegmentId) -> Option<(PgId, Member)> {
    let in_entry = |entry: &PgEntry| {
        let mut members = entry.sets.iter().flat_map(|set| &set.members);
        members
            .find(|member| member.segment == segment)
            .map(|member| (entry.pg, *member))
    };
    manifest.pgs.iter().find_map(in_entry)
}
