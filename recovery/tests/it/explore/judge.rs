//! What must hold in every run, seen from outside: it knows what was minted, answered and opened, and never asks the machine.

use std::collections::BTreeMap;

use sixfold_log_format::{History, Lsn, Manifest, ManifestVersion, PgId, VolumeEpoch};
use sixfold_recovery::machine::Opened;
use sixfold_recovery::quorum::is_write_quorum_of_all;
use sixfold_recovery::truncate::extend;

use super::world::World;
use crate::cluster::{FakeSegment, take_over};
use crate::common::LAL;

/// Its books.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Every LSN that was ever minted, with its group and its writer's epoch.
    pub minted: BTreeMap<Lsn, (PgId, VolumeEpoch)>,
    /// All transactions, answered or not.
    pub transactions: Vec<Vec<Lsn>>,
    /// Commits that were answered: all LSNs of the transaction, and the writer's epoch.
    pub answered: Vec<(VolumeEpoch, Vec<Lsn>)>,
    pub opened: Vec<Opened>,
    /// Histories that candidates with a complete fence sent, by epoch.
    pub histories: BTreeMap<VolumeEpoch, History>,
    /// Every manifest that was ever said to a segment.
    manifests: BTreeMap<ManifestVersion, Manifest>,
    pub steps_in_force: usize,
}

impl Oracle {
    /// LSNs are minted once, whoever mints them (R1).
    pub fn minted(&mut self, lsn: Lsn, pg: PgId, epoch: VolumeEpoch) -> Result<(), String> {
        match self.minted.insert(lsn, (pg, epoch)) {
            None => Ok(()),
            Some((_, before)) => Err(format!("LSN {lsn} of epoch {epoch} was minted at {before}")),
        }
    }

    /// No commit outside the cut is answered after its fence completed (R14).
    pub fn answered(&mut self, epoch: VolumeEpoch, lsns: Vec<Lsn>) -> Result<(), String> {
        let above = self.histories.range(epoch.next()..);
        for (by, history) in above {
            if let Some(lsn) = lsns.iter().find(|&&lsn| history.annuls(lsn)) {
                return Err(format!(
                    "{lsn} of epoch {epoch} is answered after {by} fenced and cut it"
                ));
            }
        }
        self.answered.push((epoch, lsns));
        Ok(())
    }

    /// A candidate installs: its fence is complete. Its history is one of those that were, as a whole, and one range more.
    pub fn fenced(&mut self, history: &History) -> Result<(), String> {
        let epoch = history.volume_epoch;
        if let Some(known) = self.histories.get(&epoch) {
            return match known == history {
                true => Ok(()),
                false => Err(format!("two histories of epoch {epoch}")),
            };
        }
        let creation = History::creation();
        let before = self.histories.range(..epoch).map(|(_, history)| history);
        let extends = |found: &History| {
            // The cut lies at the start of the range that was added, or anywhere in a range that it was merged with.
            let cuts = history.ranges.last().map(|range| range.after);
            let ends = found.ranges.iter().map(|range| range.through);
            cuts.into_iter().chain(ends).any(|cut| {
                let is_cut = cut >= found.floor
                    && found.range_of(cut).is_none_or(|range| range.through == cut);
                is_cut && extend(found, cut, LAL, epoch) == *history
            })
        };
        if !before.chain([&creation]).any(extends) {
            return Err(format!(
                "{history:?} continues none of the histories that were"
            ));
        }
        self.histories.insert(epoch, history.clone());
        Ok(())
    }

    /// One version is one manifest, whoever says it (R21).
    pub fn said(&mut self, manifest: &Manifest) -> Result<(), String> {
        let version = manifest.version;
        let known = self
            .manifests
            .entry(version)
            .or_insert_with(|| manifest.clone());
        match known == manifest {
            true => Ok(()),
            false => Err(format!("two manifests of version {version}")),
        }
    }

    pub fn has_opened(&mut self, opened: &Opened, segments: &[FakeSegment]) -> Result<(), String> {
        let epoch = opened.volume_epoch;
        let rival = self.opened.iter().find(|other| other.volume_epoch == epoch);
        if let Some(rival) = rival {
            return Err(format!(
                "{} and {} opened at epoch {epoch}",
                rival.writer, opened.writer
            ));
        }
        if opened.manifest.version.volume_epoch != epoch {
            return Err(format!(
                "epoch {epoch} opens with manifest {}",
                opened.manifest.version
            ));
        }
        for (by, lsns) in self.answered.iter().filter(|(by, _)| *by < epoch) {
            if let Some(lsn) = lsns
                .iter()
                .find(|&&lsn| lsn > opened.cut || opened.history.annuls(lsn))
            {
                return Err(format!(
                    "epoch {epoch} opens at {} without {lsn}, answered by {by}",
                    opened.cut
                ));
            }
        }
        let is_in = |lsn: &&Lsn| **lsn <= opened.cut && !opened.history.annuls(**lsn);
        let is_torn = |lsns: &&Vec<Lsn>| {
            let count = lsns.iter().filter(is_in).count();
            count != 0 && count != lsns.len()
        };
        if let Some(torn) = self.transactions.iter().find(is_torn) {
            return Err(format!(
                "epoch {epoch} opens at {} with a part of {torn:?}",
                opened.cut
            ));
        }
        self.opened.push(opened.clone());
        self.is_held(opened, segments)
    }

    /// What a volume that opened consists of.
    fn view(&self, opened: &Opened, pg: PgId) -> Vec<Lsn> {
        let minted = self.minted.iter().filter(|(_, (of, _))| *of == pg);
        let minted = minted.map(|(&lsn, _)| lsn);
        minted
            .filter(|&lsn| lsn <= opened.cut && !opened.history.annuls(lsn))
            .collect()
    }

    /// A write quorum of every set in force holds all of it under the new history (R9).
    fn is_held(&self, opened: &Opened, segments: &[FakeSegment]) -> Result<(), String> {
        for entry in &opened.manifest.pgs {
            let view = self.view(opened, entry.pg);
            let holds = |id| {
                let segment = segments.iter().find(|segment| segment.id == id);
                segment.is_some_and(|segment| {
                    // One that took a higher history since is a rival's by now.
                    let valid = segment.all_valid();
                    let ours = segment.history == opened.history;
                    segment.history.volume_epoch > opened.volume_epoch
                        || ours && view.iter().all(|lsn| valid.contains(lsn))
                })
            };
            let epoch = opened.volume_epoch;
            if !is_write_quorum_of_all(entry, &holds) {
                return Err(format!(
                    "epoch {epoch} opens, and no write quorum of {} holds {view:?}",
                    entry.pg
                ));
            }
            let last = view.last().copied().unwrap_or(Lsn::NONE);
            let said = opened.pg_last.iter().find(|(pg, _)| *pg == entry.pg);
            if said.is_none_or(|&(_, said)| said != last) {
                return Err(format!(
                    "the last LSN of {} is {last}, not {said:?}",
                    entry.pg
                ));
            }
        }
        Ok(())
    }
}

impl World {
    /// The end: what is late arrives, gossip runs, a judge who reaches everybody reopens and compares every segment that
    /// counts with what was ever answered.
    pub fn judge(&mut self) -> Result<(), String> {
        self.deliver_late()?;
        let all = self.start(take_over(200), u32::MAX, &[]);
        self.run()?;
        if self.actors[all].opened_epoch().is_none() {
            return Err(format!("the judge cannot open: {:?}", self.actors[all]));
        }
        let Some(opened) = self.oracle.opened.last().cloned() else {
            return Err("nobody opened".to_owned());
        };
        let count = self.segments.len();
        for (to, from) in (0..count * count).map(|pair| (pair / count, pair % count)) {
            let (one, other) = (&self.segments[to], &self.segments[from]);
            if to != from && one.pg == other.pg && one.exists && other.exists {
                let peer = other.clone();
                self.gossip(to, &peer);
            }
        }
        let versions: Vec<ManifestVersion> =
            self.segments.iter().map(|s| s.manifest.version).collect();
        for entry in &opened.manifest.pgs {
            let view = self.oracle.view(&opened, entry.pg);
            for member in entry.members() {
                let segment = self
                    .segments
                    .iter()
                    .find(|segment| segment.id == member.segment);
                let Some(segment) = segment.filter(|segment| segment.history == opened.history)
                else {
                    continue;
                };
                let last = view.last().copied().unwrap_or(Lsn::NONE);
                if segment.scl() == last && segment.all_valid() != view {
                    return Err(format!(
                        "{:?} holds {:?}, not {view:?}",
                        segment.id,
                        segment.all_valid()
                    ));
                }
            }
        }
        let newest = versions.iter().max();
        if newest > Some(&opened.manifest.version) {
            return Err(format!(
                "a manifest {newest:?} above {:?}",
                opened.manifest.version
            ));
        }
        Ok(())
    }
}
