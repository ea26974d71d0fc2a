//! The memory index of a segment: page -> its records, by LSN, with the batch that holds each.
//!
//! Every durable record that no layer holds is in it, valid or not: whoever folds filters by the history in force, so that a
//! new history does not touch the index (R5). It holds no bytes of records. What went into a layer is swept out in small
//! steps; until then readers pass over it.
//!
//! Records come in the order of LSNs, to pages all over the volume: a place in the map for each of them at once would wait for
//! main memory several times a record. So the newest are *gathered* as they come and go into the map some thousands at
//! a time, sorted by page. Who looks for one page looks through them, too.

use std::collections::BTreeMap;

use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Batch, History, Lsn, PageId, Record};

use crate::chain::BatchId;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Its LSN.
    pub(crate) lsn: Lsn,
    /// The batch that holds it.
    pub(crate) batch: BatchId,
    /// Where it stands in the batch, and in the lowest bit whether a page's chain may begin with it.
    packed: u32,
}

impl IndexEntry {
    fn new(lsn: Lsn, batch: BatchId, offset: usize, starts_chain: bool) -> IndexEntry {
        let offset = u32::try_from(offset).expect("a batch is about a megabyte at most");
        IndexEntry {
            lsn,
            batch,
            packed: offset << 1 | u32::from(starts_chain),
        }
    }

    /// The record of `page`, whose entry this is, in the batch that holds it. Those before it in the batch need not be looked at.
    ///
    /// # Panics
    /// When `batch` is another one: parts are verified to be the batch that was indexed when they are read.
    pub(crate) fn record<'a>(&self, batch: &'a Batch, page: PageId) -> Record<'a> {
        batch.record_at((self.packed >> 1) as usize, self.lsn, page)
    }

    fn starts_chain(&self) -> bool {
        self.packed & 1 == 1
    }
}

/// What an entry of the map takes beside its list, bytes, about.
const PAGE_OVERHEAD_BYTES: usize = 80;
/// What an entry of a list takes, bytes, about: lists grow ahead.
const ENTRY_BYTES: usize = size_of::<IndexEntry>() * 3 / 2;

/// Records gathered before they go into the map: looking through their pages takes some microseconds.
const GATHERED_MAX: usize = 8_192;
/// What a gathered record takes, bytes, and what sorting takes for each of them meanwhile.
const GATHERED_BYTES: usize = 2 * size_of::<(PageId, IndexEntry)>();

/// The index of one segment.
#[derive(Debug, Default)]
pub(crate) struct PageIndex {
    pages: BTreeMap<PageId, Vec<IndexEntry>>,
    /// Records that are not in `pages` yet, in the order in which they came.
    gathered: Vec<(PageId, IndexEntry)>,
    /// Of `pages`.
    entry_count: usize,
    /// Records of the longest chain since the last sweep.
    longest: usize,
    /// Where the sweep is; `None` when nothing is to be swept.
    sweep: Option<PageId>,
}

impl PageIndex {
    /// Adds the records of a batch that lie above `folded`: what is below stands in layers.
    pub(crate) fn add(&mut self, id: BatchId, batch: &Batch, folded: Lsn) {
        for placed in batch.records() {
            let record = &placed.record;
            if record.lsn <= folded {
                continue;
            }
            let entry = IndexEntry::new(record.lsn, id, placed.offset, record.op.starts_chain());
            self.gathered.push((record.page, entry));
        }
        if self.gathered.len() >= GATHERED_MAX {
            self.settle();
        }
    }

    /// Puts what was gathered into the map: before somebody walks over pages.
    pub(crate) fn settle(&mut self) {
        // Stable: the records of a page stay in the order of their LSNs, in which they mostly came.
        self.gathered.sort_by_key(|(page, _)| *page);
        for of_page in self.gathered.chunk_by(|one, other| one.0 == other.0) {
            let entries = self.pages.entry(of_page[0].0).or_default();
            for (_, entry) in of_page {
                insert(entries, *entry);
            }
            self.longest = self.longest.max(chain_count(entries));
        }
        self.entry_count += self.gathered.len();
        self.gathered.clear();
    }

    /// The valid records of `page` in `(after, through]`, from the newest one on that its chain may begin with. The flag says
    /// whether there is such a one: else they stand on a version of the page at or below `after`.
    pub(crate) fn records(
        &self,
        page: PageId,
        after: Lsn,
        through: Lsn,
        history: &History,
    ) -> (Vec<IndexEntry>, bool) {
        let known = self.pages.get(&page).map_or(&[][..], Vec::as_slice);
        let mut with_gathered = Vec::new();
        for (_, entry) in self.gathered.iter().filter(|(of, _)| *of == page) {
            if with_gathered.is_empty() {
                with_gathered.extend_from_slice(known);
            }
            insert(&mut with_gathered, *entry);
        }
        let entries = if with_gathered.is_empty() {
            known
        } else {
            &with_gathered
        };
        let end = entries.partition_point(|entry| entry.lsn <= through);
        let start = entries.partition_point(|entry| entry.lsn <= after);
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
        (valid, newest_start.is_some())
    }

    /// The first page at or behind `from` that has records.
    ///
    /// # Panics
    /// When records were added since [`PageIndex::settle`].
    pub(crate) fn page_from(&self, from: PageId) -> Option<(PageId, &[IndexEntry])> {
        assert!(
            self.gathered.is_empty(),
            "a walk begins with a settled index"
        );
        let (page, entries) = self.pages.range(from..).next()?;
        Some((*page, entries))
    }

    /// Bytes of memory that it takes, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.pages.len() * PAGE_OVERHEAD_BYTES
            + self.entry_count * ENTRY_BYTES
            + self.gathered.len() * GATHERED_BYTES
    }

    /// Records of the longest chain: those from the newest one on that a page may begin with, which is what a reader folds.
    pub(crate) fn longest_chain(&self) -> usize {
        self.longest
    }

    /// Layers hold more than before: what is in them is to be swept out.
    pub(crate) fn begin_sweep(&mut self) {
        self.settle();
        self.sweep = (!self.pages.is_empty()).then_some(PageId::NONE);
        self.longest = 0;
    }

    /// Whether [`PageIndex::sweep`] has something to do.
    pub(crate) fn is_swept(&self) -> bool {
        self.sweep.is_none()
    }

    /// Sweeps about `count` entries: those at or below `folded`, and those at or below `settled`
    /// that are annulled, which is for good.
    pub(crate) fn sweep(&mut self, folded: Lsn, settled: Lsn, history: &History, count: usize) {
        let Some(from) = self.sweep else { return };
        let mut empty = Vec::new();
        let mut looked_at = 0;
        self.sweep = None;
        for (page, entries) in self.pages.range_mut(from..) {
            if looked_at >= count {
                self.sweep = Some(*page);
                break;
            }
            looked_at += entries.len() + 1;
            let before = entries.len();
            entries.retain(|entry| {
                let gone = entry.lsn <= folded || entry.lsn <= settled && history.annuls(entry.lsn);
                !gone
            });
            self.entry_count -= before - entries.len();
            self.longest = self.longest.max(chain_count(entries));
            if entries.is_empty() {
                empty.push(*page);
            } else if entries.len() < entries.capacity() / 4 {
                entries.shrink_to_fit();
            }
        }
        for page in empty {
            self.pages.remove(&page);
        }
    }
}

/// Records from the newest one on that the page's chain may begin with, whatever a history says of it.
fn chain_count(entries: &[IndexEntry]) -> usize {
    let start = entries.iter().rposition(IndexEntry::starts_chain);
    entries.len() - start.unwrap_or(0)
}

/// Puts an entry in its place by LSN, nearly always the last one.
fn insert(entries: &mut Vec<IndexEntry>, entry: IndexEntry) {
    match entries.last() {
        Some(last) if last.lsn >= entry.lsn => {
            let at = entries.partition_point(|known| known.lsn <= entry.lsn);
            entries.insert(at, entry);
        }
        _ => entries.push(entry),
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod index_tests;
