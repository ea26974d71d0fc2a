//! The truth: what the log that writers shipped says, cut at each reopening as the candidate said.
//!
//! Pages are folded from it record by record, commits are gathered from the user-visible records. Whatever anybody serves,
//! answers or annuls is compared with it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sixfold_compute_core::{Token, WriteSet};
use sixfold_log_format::batch::BATCH_HEADER_BYTES;
use sixfold_log_format::{
    Batch, History, Lsn, Manifest, Op, Page, PageId, PgId, Record, SegmentId, VolumeEpoch,
    VolumeId, apply,
};
use sixfold_recovery::machine::Opened;

use super::members::{Members, SetIds, write_quorum};
use super::model::Model;
use super::stamps::Stamps;
use crate::reached::{Counts, Reached};

/// A violation: which rule, and how.
pub(crate) type Bad = String;

/// A transaction whose commit was asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) writes: std::rc::Rc<WriteSet>,
    pub(crate) token: Option<Token>,
    /// Tries under way.
    pub(crate) open_count: u32,
    /// Refused before minting, each try: it must never be found.
    pub(crate) refused: bool,
    pub(crate) unknown: bool,
    /// The commit that was answered.
    pub(crate) answered_at: Option<Lsn>,
}

/// A commit of the truth.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) transaction: Option<u64>,
}

/// A reopening that ended well.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) volume_epoch: VolumeEpoch,
    pub(crate) cut: Lsn,
    pub(crate) vdl: Lsn,
    pub(crate) history: History,
}

/// All that is known.
#[derive(Debug)]
pub(crate) struct Oracle {
    volume: VolumeId,
    page_bytes: usize,
    headers: BTreeSet<[u8; BATCH_HEADER_BYTES]>,
    /// Every LSN ever seen, and who minted it.
    minted: BTreeMap<Lsn, VolumeEpoch>,
    /// Shipped by the newest writer, not yet in order.
    pending: BTreeMap<Lsn, (std::rc::Rc<Batch>, usize, PageId)>,
    pub(crate) last: Lsn,
    pub(crate) openings: Vec<Opening>,
    epochs: BTreeSet<VolumeEpoch>,
    pub(crate) pages: BTreeMap<PageId, Vec<(Lsn, Page)>>,
    /// Valid LSNs of each PG.
    pub(crate) pg_lsns: BTreeMap<PgId, Vec<Lsn>>,
    pub(crate) commits: BTreeMap<Lsn, Commit>,
    pub(super) model: Model,
    pub(crate) asked: BTreeMap<u64, Asked>,
    pub(crate) answered: BTreeMap<Lsn, u64>,
    /// Highest point that a current transaction has shown to anybody.
    pub(crate) floor: Lsn,
    /// Highest VDL published by anybody, and by whom.
    published: (Lsn, VolumeEpoch),
    /// The highest commit that any watch was told of.
    pub(super) told: Lsn,
    /// The highest point that a reader was shown.
    shown: Lsn,
    /// First and last LSN of each batch of the newest writer.
    batches: Vec<(Lsn, Lsn)>,
    pub(crate) stamps: Stamps,
    pub(crate) members: Members,
    pub(crate) reached: Counts,
}

impl Oracle {
    pub(crate) fn new(first: &Manifest, page_bytes: usize) -> Oracle {
        Oracle {
            volume: first.volume,
            members: Members::new(first.clone()),
            page_bytes,
            headers: BTreeSet::new(),
            minted: BTreeMap::new(),
            pending: BTreeMap::new(),
            last: Lsn::NONE,
            openings: Vec::new(),
            epochs: BTreeSet::new(),
            pages: BTreeMap::new(),
            pg_lsns: BTreeMap::new(),
            commits: BTreeMap::new(),
            model: Model::default(),
            asked: BTreeMap::new(),
            answered: BTreeMap::new(),
            floor: Lsn::NONE,
            published: (Lsn::NONE, VolumeEpoch::CREATION),
            told: Lsn::NONE,
            shown: Lsn::NONE,
            batches: Vec::new(),
            stamps: Stamps::default(),
            reached: Counts::default(),
        }
    }

    /// Bytes of a page.
    pub(super) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// The epoch of the newest opening.
    pub(crate) fn newest(&self) -> VolumeEpoch {
        self.openings
            .last()
            .map_or(VolumeEpoch::CREATION, |opening| opening.volume_epoch)
    }

    /// A writer of `volume_epoch` sends a batch.
    pub(crate) fn shipped(&mut self, volume_epoch: VolumeEpoch, bytes: &Bytes) -> Result<(), Bad> {
        let header: [u8; BATCH_HEADER_BYTES] = bytes[..BATCH_HEADER_BYTES]
            .try_into()
            .expect("a batch has a header");
        if !self.headers.insert(header) {
            return Ok(());
        }
        let batch = Batch::decode(bytes.clone(), self.volume)
            .map_err(|error| format!("a writer shipped what is no batch: {error}"))?;
        let header = batch.header();
        if header.volume_epoch != volume_epoch {
            return Err(format!(
                "the writer of epoch {volume_epoch} shipped a batch of epoch {}",
                header.volume_epoch
            ));
        }
        if volume_epoch == self.newest() {
            if self.members.in_force().pg(header.pg).is_none() {
                return Err(format!(
                    "a record of group {} is shipped before the root's entry is in force (R10)",
                    header.pg
                ));
            }
            self.batches.push((header.first, header.last));
            self.stamps.batch(header.pg, header.first, header.unix_ms)?;
        }
        let batch = std::rc::Rc::new(batch);
        let is_newest = volume_epoch == self.newest();
        for placed in batch.records() {
            let lsn = placed.record.lsn;
            if let Some(before) = self.minted.insert(lsn, volume_epoch) {
                return Err(format!(
                    "LSN {lsn} was minted twice, by epochs {before} and {volume_epoch} (R1)"
                ));
            }
            if is_newest {
                let place = (
                    std::rc::Rc::clone(&batch),
                    placed.offset,
                    placed.record.page,
                );
                self.pending.insert(lsn, place);
            }
        }
        while let Some(entry) = self.pending.first_entry() {
            if *entry.key() != self.last.next() {
                break;
            }
            let (lsn, (batch, offset, page)) = entry.remove_entry();
            let record = batch.record_at(offset, lsn, page);
            self.record(&record, batch.header().pg, volume_epoch)?;
            self.last = lsn;
        }
        Ok(())
    }

    fn record(
        &mut self,
        record: &Record<'_>,
        pg: PgId,
        volume_epoch: VolumeEpoch,
    ) -> Result<(), Bad> {
        let versions = self.pages.entry(record.page).or_default();
        let mut page = match versions.last() {
            Some((_, page)) => page.clone(),
            None => Page::new(record.page, self.page_bytes),
        };
        apply(&mut page, record)
            .map_err(|error| format!("record {} does not apply: {error}", record.lsn))?;
        versions.push((record.lsn, page));
        self.pg_lsns.entry(pg).or_default().push(record.lsn);
        if matches!(record.op, Op::Truncate { .. }) {
            self.reached.hit(Reached::Split);
        }
        if let Op::Clock { unix_ms } = &record.op {
            self.stamps.clock_record(record.lsn, *unix_ms)?;
        }
        self.note_effect(record);
        if record.is_cpl() {
            self.commit(record.lsn, volume_epoch)?;
        }
        Ok(())
    }

    /// A candidate opened: everything above its cut is gone.
    pub(crate) fn opened(&mut self, opened: &Opened) -> Result<(), Bad> {
        let epoch = opened.volume_epoch;
        if !self.epochs.insert(epoch) {
            return Err(format!("two writers opened at epoch {epoch}"));
        }
        if epoch < self.newest() {
            // It was whole before a rival fenced it, and waited for a lease since: it can neither write nor read.
            return Ok(());
        }
        if let Some(last) = self.openings.last() {
            for range in &last.history.ranges {
                let kept = (range.after.get() + 1..=range.through.get())
                    .find(|lsn| !opened.history.annuls(Lsn::new(*lsn)));
                if let Some(lsn) = kept {
                    return Err(format!(
                        "epoch {epoch} does not annul LSN {lsn}, which epoch {} did",
                        last.volume_epoch
                    ));
                }
            }
        }
        let (published, by) = self.published;
        if opened.cut < published {
            return Err(format!(
                "epoch {epoch} cut at {}, below VDL {published} of epoch {by}",
                opened.cut
            ));
        }
        let annulled = |lsn: &Lsn| *lsn > opened.cut || opened.history.annuls(*lsn);
        if let Some((lsn, transaction)) = self.answered.iter().find(|(lsn, _)| annulled(lsn)) {
            return Err(format!(
                "lost: transaction {transaction} was answered at {lsn}, epoch {epoch} cut at {}",
                opened.cut
            ));
        }
        if annulled(&self.told) && !self.told.is_none() {
            return Err(format!(
                "a watch was told of commit {}, epoch {epoch} cut at {} (T7)",
                self.told, opened.cut
            ));
        }
        if annulled(&self.shown) && !self.shown.is_none() {
            return Err(format!(
                "a reader was shown point {}, epoch {epoch} cut at {} (R23)",
                self.shown, opened.cut
            ));
        }
        self.truncate(opened)?;
        self.last = opened.vdl;
        self.pending.clear();
        self.walk_tree()?;
        let last = |pg| {
            let lsns = self.pg_lsns.get(&pg).and_then(|lsns| lsns.last());
            lsns.copied().unwrap_or(Lsn::NONE)
        };
        match self.members.opened(&opened.manifest, epoch, &last)? {
            Some(true) => self.reached.hit(Reached::OpeningFoundAStep),
            Some(false) => self.reached.hit(Reached::OpeningMissedAStep),
            None => {}
        }
        self.openings.push(Opening {
            volume_epoch: epoch,
            cut: opened.cut,
            vdl: opened.vdl,
            history: opened.history.clone(),
        });
        for (pg, last) in &opened.pg_last {
            let truth = self.pg_last(*pg);
            if truth != *last {
                return Err(format!(
                    "epoch {epoch} believes that {last} is the last LSN of group {pg}, it is {truth}"
                ));
            }
        }
        Ok(())
    }

    fn truncate(&mut self, opened: &Opened) -> Result<(), Bad> {
        let cut = opened.cut;
        let gone = |lsn: &Lsn| *lsn > cut || opened.history.annuls(*lsn);
        let last_minted = self
            .pg_lsns
            .values()
            .filter_map(|lsns| lsns.iter().rev().find(|lsn| !gone(lsn)))
            .max();
        if let Some(last) = last_minted
            && !self.commits.contains_key(last)
        {
            return Err(format!(
                "epoch {} cut at {cut}, in the middle of the transaction that holds {last}",
                opened.volume_epoch
            ));
        }
        for (lsn, commit) in &self.commits {
            let Some(asked) = commit.transaction.and_then(|id| self.asked.get(&id)) else {
                continue;
            };
            if asked.unknown {
                self.reached.hit(if gone(lsn) {
                    Reached::UnknownWasAnnulled
                } else {
                    Reached::UnknownWasCommitted
                });
            }
        }
        let half = |(first, last): &(Lsn, Lsn)| !gone(first) && gone(last);
        if self.batches.iter().any(half) {
            self.reached.hit(Reached::BatchHalfAnnulled);
        }
        self.batches.clear();
        self.model.truncate(&gone);
        self.stamps.truncate(gone);
        self.commits.retain(|lsn, _| !gone(lsn));
        for versions in self.pages.values_mut() {
            while versions.pop_if(|(lsn, _)| gone(lsn)).is_some() {}
        }
        for lsns in self.pg_lsns.values_mut() {
            while lsns.pop_if(|lsn| gone(lsn)).is_some() {}
        }
        Ok(())
    }

    /// A writer published VDL. `holds` says whether a segment has said that it holds its PG's log so far.
    pub(crate) fn published(
        &mut self,
        volume_epoch: VolumeEpoch,
        vdl: Lsn,
        acked: &dyn Fn(&SetIds, PgId, Lsn) -> usize,
    ) -> Result<(), Bad> {
        let is_base =
            |opening: &Opening| opening.volume_epoch == volume_epoch && opening.vdl == vdl;
        if !self.openings.iter().any(is_base) {
            self.check_fenced(volume_epoch, vdl, "published VDL")?;
        }
        if volume_epoch == self.newest() {
            if vdl > self.last {
                return Err(format!("VDL {vdl} is above the last LSN {}", self.last));
            }
            let base = self.openings.last().map(|opening| opening.vdl);
            if base != Some(vdl) && !self.commits.contains_key(&vdl) {
                return Err(format!("VDL {vdl} does not end a transaction"));
            }
            if base != Some(vdl) {
                for (pg, lsns) in &self.pg_lsns {
                    let below = lsns.partition_point(|lsn| *lsn <= vdl);
                    let Some(last) = below.checked_sub(1).map(|at| lsns[at]) else {
                        continue;
                    };
                    if base.is_some_and(|base| last <= base) {
                        continue;
                    }
                    let sets = self.members.sets(*pg);
                    let set_count = sets.len();
                    for set in sets {
                        let count = acked(set, *pg, last);
                        if count < write_quorum(set.len()) {
                            return Err(format!(
                                "VDL {vdl} was published with {last} of group {pg} on {count} segments of one of its {} sets (R20)",
                                set_count
                            ));
                        }
                    }
                }
            }
        }
        if vdl > self.published.0 {
            self.published = (vdl, volume_epoch);
        }
        Ok(())
    }

    /// A reader opened at a settled point: it lies within every cut of those who opened after that history (R23).
    pub(crate) fn shown(&mut self, history_epoch: VolumeEpoch, lsn: Lsn) -> Result<(), Bad> {
        self.check_fenced(history_epoch, lsn, "showed a reader")?;
        // The end of an annulled range is a point as well, which nothing is annulled at.
        if self.commits.contains_key(&lsn) {
            self.shown = self.shown.max(lsn);
        }
        Ok(())
    }

    /// The highest VDL that anybody published, or opened with: no later cut annuls a record at or below it.
    pub(crate) fn published_vdl(&self) -> Lsn {
        let opened = self.openings.last().map(|opening| opening.vdl);
        self.published.0.max(opened.unwrap_or(Lsn::NONE))
    }

    /// What an old writer says must lie within the cut of everyone who opened after it.
    pub(crate) fn check_fenced(
        &self,
        volume_epoch: VolumeEpoch,
        lsn: Lsn,
        what: &str,
    ) -> Result<(), Bad> {
        let beyond = self.openings.iter().find(|opening| {
            let gone = opening.cut < lsn || opening.history.annuls(lsn);
            opening.volume_epoch > volume_epoch && gone
        });
        match beyond {
            Some(opening) => Err(format!(
                "epoch {volume_epoch} {what} {lsn}, after epoch {} opened with the cut {}",
                opening.volume_epoch, opening.cut
            )),
            None => Ok(()),
        }
    }

    /// Last valid LSN of a PG.
    pub(crate) fn pg_last(&self, pg: PgId) -> Lsn {
        let lsns = self.pg_lsns.get(&pg);
        lsns.and_then(|lsns| lsns.last())
            .copied()
            .unwrap_or(Lsn::NONE)
    }

    /// A segment served a page.
    pub(crate) fn served(
        &self,
        segment: SegmentId,
        page: PageId,
        lsn: Lsn,
        bytes: &[u8],
    ) -> Result<(), Bad> {
        let served = Page::decode(bytes, page, self.page_bytes)
            .map_err(|error| format!("segment {segment} served a broken page {page}: {error}"))?;
        let fresh = Page::new(page, self.page_bytes);
        let wanted = self
            .pages
            .get(&page)
            .and_then(|versions| {
                let below = versions.partition_point(|(at, _)| *at <= lsn);
                versions.get(below.checked_sub(1)?)
            })
            .map_or(&fresh, |(_, page)| page);
        if served != *wanted {
            return Err(format!(
                "wrong page: segment {segment} served page {page} at {lsn} as of {}, it is as of {}",
                served.lsn(),
                wanted.lsn()
            ));
        }
        Ok(())
    }

    /// Whether nothing is torn at this point: an MTR ends there, or nothing was ever valid there.
    pub(crate) fn is_point(&self, lsn: Lsn) -> bool {
        let annuls = |opening: &Opening| opening.history.annuls(lsn);
        lsn.is_none() || self.commits.contains_key(&lsn) || self.openings.last().is_some_and(annuls)
    }

    /// Whether a transaction stands in the log above VDL.
    pub(crate) fn stands_above(&self, transaction: u64, vdl: Lsn) -> bool {
        self.model.stands(transaction).is_some_and(|lsn| lsn > vdl)
    }

    /// A past LSN was rounded down to a point (R29).
    pub(crate) fn rounded(&mut self, lsn: Lsn, point: Lsn) -> Result<(), Bad> {
        let mut between = self.commits.range(point.next()..);
        let is_missed = between.next().is_some_and(|(next, _)| *next <= lsn);
        if point > lsn || !self.is_point(point) || is_missed {
            return Err(format!(
                "LSN {lsn} was rounded to {point}, where a transaction is torn or missing (R29)"
            ));
        }
        if point < lsn {
            self.reached.hit(Reached::PastPointRounded);
        }
        Ok(())
    }

    /// Whether a batch with these bytes was ever shipped.
    pub(crate) fn knows(&self, bytes: &[u8]) -> bool {
        let header = bytes
            .get(..BATCH_HEADER_BYTES)
            .and_then(|header| header.try_into().ok());
        header.is_some_and(|header: [u8; BATCH_HEADER_BYTES]| self.headers.contains(&header))
    }
}
