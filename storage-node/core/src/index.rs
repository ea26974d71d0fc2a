//! The memory index of a segment: page -> its records, by LSN, with the batch that holds each.
//!
//! Every durable record is in it, valid or not: whoever folds filters by the history in force, so that a new history does
//! not touch the index (R5). It holds no bytes of records.

use std::collections::BTreeMap;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Batch, History, Lsn, PageId};

use crate::chain::BatchId;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Its LSN.
    pub(crate) lsn: Lsn,
    /// The batch that holds it.
    pub(crate) batch: BatchId,
    /// Its number in the batch, and in the lowest bit whether a page's chain may begin with it.
    packed: u32,
}

impl IndexEntry {
    fn new(lsn: Lsn, batch: BatchId, ordinal: usize, starts_chain: bool) -> IndexEntry {
        let ordinal = u32::try_from(ordinal).expect("a batch of a megabyte holds fewer records");
        IndexEntry {
            lsn,
            batch,
            packed: ordinal << 1 | u32::from(starts_chain),
        }
    }

    /// Its number in the batch, from 0.
    pub(crate) fn ordinal(&self) -> usize {
        (self.packed >> 1) as usize
    }

    fn starts_chain(&self) -> bool {
        self.packed & 1 == 1
    }
}

/// The index of one segment.
#[derive(Debug, Default)]
pub(crate) struct PageIndex {
    pages: BTreeMap<PageId, Vec<IndexEntry>>,
}

impl PageIndex {
    /// Adds the records of a batch.
    pub(crate) fn add(&mut self, id: BatchId, batch: &Batch) {
        for (ordinal, placed) in batch.records().enumerate() {
            let record = &placed.record;
            let entry = IndexEntry::new(record.lsn, id, ordinal, record.op.starts_chain());
            let entries = self.pages.entry(record.page).or_default();
            match entries.last() {
                Some(last) if last.lsn >= entry.lsn => {
                    let at = entries.partition_point(|known| known.lsn <= entry.lsn);
                    entries.insert(at, entry);
                }
                _ => entries.push(entry),
            }
        }
    }

    /// The valid records to apply, in order, to get `page` at `through` from an image of it at `image_lsn` (or from
    /// nothing). The flag is true when they stand on the image; false when they begin the page anew.
    pub(crate) fn records(
        &self,
        page: PageId,
        image_lsn: Option<Lsn>,
        through: Lsn,
        history: &History,
    ) -> (Vec<IndexEntry>, bool) {
        let Some(entries) = self.pages.get(&page) else {
            return (Vec::new(), image_lsn.is_some());
        };
        let end = entries.partition_point(|entry| entry.lsn <= through);
        let start = image_lsn.map_or(0, |lsn| entries.partition_point(|entry| entry.lsn <= lsn));
        let wanted = &entries[start..end.max(start)];
        let newest_start = wanted
            .iter()
            .rposition(|entry| entry.starts_chain() && !history.annuls(entry.lsn));
        let wanted = &wanted[newest_start.unwrap_or(0)..];
        let valid = wanted
            .iter()
            .copied()
            .filter(|entry| !history.annuls(entry.lsn) || planted(Mutant::AnnulledFolded))
            .collect();
        (valid, image_lsn.is_some() && newest_start.is_none())
    }
}
