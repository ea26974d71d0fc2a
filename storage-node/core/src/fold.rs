//! Folding: a page at an LSN is an image of it plus the valid records behind, through `log-format`'s `apply`.
//!
//! A fold goes from one of its records to the next, batch by batch; where their bytes are not in memory it says which ones it
//! needs, a bounded amount at a time.

use std::collections::BTreeMap;

use sixfold_log_format::{ApplyError, Batch, Lsn, Page, apply};

use crate::bounds::JOB_BYTES_MAX;
use crate::chain::{BatchId, Chain};
use crate::index::IndexEntry;

/// How far a fold came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Folding {
    /// The page is whole.
    Done,
    /// These batches are needed next.
    Needs(Vec<BatchId>),
    /// It has folded as many records as it may in one go.
    Paused,
}

/// A fold of at least this many records leaves an image behind, so that the next one need not repeat it.
const IMAGE_AFTER_RECORDS: usize = 16;

/// A page that is being folded.
#[derive(Debug)]
pub(crate) struct Fold {
    page: Page,
    records: Vec<IndexEntry>,
    at: usize,
    /// Nothing at or below can be annulled any more (R11).
    settled: Lsn,
    /// The newest version at or below `settled`, as far as whole batches go.
    image: Option<Page>,
    /// The last version of it that was put aside while it waited.
    kept: Option<Lsn>,
}

impl Fold {
    /// A fold of `records` onto `page`; what is at or below `settled` may be kept.
    pub(crate) fn new(page: Page, records: Vec<IndexEntry>, settled: Lsn) -> Fold {
        Fold {
            page,
            records,
            at: 0,
            settled,
            image: None,
            kept: None,
        }
    }

    /// What may be kept of a fold that has to wait, so that whoever asks again goes on from there, and the LSN of what was kept
    /// before. Without it a fold that takes longer than its reader's patience would never end.
    pub(crate) fn keep(&mut self) -> Option<(Page, Option<Lsn>)> {
        let image = self.settled_page().or_else(|| self.image.clone())?;
        if self.at == 0 || self.kept == Some(image.lsn()) {
            return None;
        }
        let before = self.kept.replace(image.lsn());
        Some((image, before))
    }

    /// The LSN of the last version that [`Fold::keep`] gave.
    pub(crate) fn kept(&self) -> Option<Lsn> {
        self.kept
    }

    /// The page as far as it is, when nothing of it can be annulled any more.
    fn settled_page(&self) -> Option<Page> {
        let lsn = self.page.lsn();
        (lsn <= self.settled && !lsn.is_none()).then(|| self.page.clone())
    }

    /// The page, when the fold is done, and a version of it that may be kept.
    pub(crate) fn into_page(self) -> (Page, Option<Page>) {
        assert_eq!(
            self.at,
            self.records.len(),
            "only a finished fold is a page"
        );
        let image = self.settled_page().or(self.image);
        (self.page, image)
    }

    /// Goes on as far as bytes are at hand, and until about `budget` records were folded, which is counted down.
    ///
    /// # Errors
    /// [`ApplyError`]: a record does not fit, something durable is damaged.
    pub(crate) fn advance(
        &mut self,
        chain: &Chain,
        fetched: &BTreeMap<BatchId, Batch>,
        budget: &mut usize,
    ) -> Result<Folding, ApplyError> {
        while let Some(entry) = self.records.get(self.at) {
            let id = entry.batch;
            let of_batch = self.records[self.at..]
                .iter()
                .take_while(|entry| entry.batch == id)
                .count();
            let batch = chain.get(id).resident.as_ref().or_else(|| fetched.get(&id));
            let Some(batch) = batch else {
                return Ok(Folding::Needs(self.missing(chain)));
            };
            if *budget == 0 {
                return Ok(Folding::Paused);
            }
            *budget = budget.saturating_sub(of_batch);
            let records = &self.records[self.at..self.at + of_batch];
            let passes = records.last().is_some_and(|last| last.lsn > self.settled)
                && self.page.lsn() <= self.settled;
            if passes && self.at >= IMAGE_AFTER_RECORDS {
                self.image = Some(self.page.clone());
            }
            for entry in records {
                let record = entry.record(batch, self.page.id());
                apply(&mut self.page, &record)?;
            }
            self.at += of_batch;
        }
        Ok(Folding::Done)
    }

    fn missing(&self, chain: &Chain) -> Vec<BatchId> {
        let mut missing = Vec::new();
        let mut bytes = 0;
        for id in self.records[self.at..].iter().map(|entry| entry.batch) {
            if missing.last() == Some(&id) || chain.get(id).resident.is_some() {
                continue;
            }
            bytes += chain.get(id).bytes as usize;
            if bytes > JOB_BYTES_MAX && !missing.is_empty() {
                break;
            }
            missing.push(id);
        }
        missing.sort_unstable();
        missing.dedup();
        missing
    }
}
