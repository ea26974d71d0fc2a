//! One page's history: every record and image that the directory holds for it, and the page as of an LSN.

use std::collections::BTreeMap;

use sixfold_log_format::layer::LayerEntry;
use sixfold_log_format::{Lsn, Op, Page, PageId, Record, SegmentId, apply};

use super::layers::{block_of, index_of};
use super::{InspectError, Inspection};
use crate::layers::{LAYERS_NAME, path_of};
use crate::mmap::map;

/// What happened to a page, and what it was.
#[derive(Debug)]
pub struct PageHistory {
    /// The segment.
    pub segment: SegmentId,
    /// The page.
    pub page: PageId,
    /// As of when.
    pub lsn: Lsn,
    /// Everything at or below it, by LSN, the same record once.
    pub entries: Vec<HistoryEntry>,
    /// The page as of then; `None` when nothing at or below is known of it.
    pub version: Option<Page>,
    /// What kept the page from being built.
    pub flaw: Option<String>,
}

/// A record or an image of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Its LSN.
    pub lsn: Lsn,
    /// The commit that it belongs to; the LSN itself for an image.
    pub cpl: Lsn,
    /// What it is.
    pub kind: HistoryKind,
    /// Where it was found: a hot-log file and offset, a layer and block.
    pub place: String,
}

/// What an entry of a page's history is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HistoryKind {
    /// A record, with the name of its operation.
    Record(&'static str),
    /// An image in a layer.
    Image,
}

/// What is known of a page at an LSN; a record before the image that has it folded in.
#[derive(Default)]
struct Known {
    record: Option<(Record<'static>, String)>,
    image: Option<(Page, String)>,
}

impl Inspection {
    /// The history of `page` up to `lsn`, from layers and hot log, without what the segment's history annuls.
    ///
    /// # Errors
    /// [`InspectError`] when it is not clear which segment is meant. Damage on the way is a flaw in the answer.
    pub fn page_history(
        &self,
        asked: Option<SegmentId>,
        page: PageId,
        lsn: Lsn,
    ) -> Result<PageHistory, InspectError> {
        let segment = self.segment(asked)?;
        let mut known = BTreeMap::new();
        let mut flaw = self.add_layers(segment, page, lsn, &mut known).err();
        self.add_hot_log(segment, page, lsn, &mut known);
        let mut version: Option<Page> = None;
        let page_bytes = self.segments[&segment].manifest.parameters.page_bytes as usize;
        let mut entries = Vec::new();
        for (at, known) in known {
            if let Some((record, place)) = known.record {
                entries.push(entry_of(&record, place));
                flaw = flaw.or(fold(&mut version, &record, page_bytes));
            }
            if let Some((image, place)) = known.image {
                entries.push(HistoryEntry {
                    lsn: at,
                    cpl: at,
                    kind: HistoryKind::Image,
                    place,
                });
                if version.as_ref().is_some_and(|version| *version != image) {
                    flaw.get_or_insert(format!("the image at {at} is not what the records give"));
                }
                version = Some(image);
            }
        }
        Ok(PageHistory {
            segment,
            page,
            lsn,
            entries,
            version,
            flaw,
        })
    }

    fn add_hot_log(
        &self,
        segment: SegmentId,
        page: PageId,
        lsn: Lsn,
        known: &mut BTreeMap<Lsn, Known>,
    ) {
        let segment = &self.segments[&segment];
        for placed in &segment.batches {
            for at in placed.batch.records() {
                let record = at.record;
                if record.page != page || record.lsn > lsn || segment.history.annuls(record.lsn) {
                    continue;
                }
                let offset = placed.offset + at.offset as u64;
                let place = format!("hot-log file {} offset {offset}", placed.file.0);
                let known = known.entry(record.lsn).or_default();
                known.record.get_or_insert((owned(&record), place));
            }
        }
    }

    fn add_layers(
        &self,
        id: SegmentId,
        page: PageId,
        lsn: Lsn,
        known: &mut BTreeMap<Lsn, Known>,
    ) -> Result<(), String> {
        let segment = &self.segments[&id];
        let page_bytes = segment.manifest.parameters.page_bytes as usize;
        let mut result = Ok(());
        for layer in &segment.catalog.layers {
            let mut read = || -> Result<(), String> {
                let path = path_of(&self.path.join(LAYERS_NAME), (id, layer.number));
                let bytes = map(&path).map_err(|error| error.to_string())?;
                let told = |error: sixfold_log_format::DecodeError| error.to_string();
                let index = index_of(&bytes, &layer.summary).map_err(told)?;
                for number in index.blocks_for(page, Lsn::NONE, lsn) {
                    let block = block_of(&bytes, &layer.summary, &index, number).map_err(told)?;
                    let place = || format!("layer {:016x} block {number}", layer.number.0);
                    for entry in block.entries() {
                        let entry = entry.map_err(told)?;
                        if entry.page() != page || entry.lsn() > lsn {
                            continue;
                        }
                        let known = known.entry(entry.lsn()).or_default();
                        match entry {
                            LayerEntry::Record(record) => {
                                known.record = Some((owned(&record), place()));
                            }
                            LayerEntry::Image(image) => {
                                let image = image.unpack(page_bytes).map_err(told)?;
                                known.image = Some((image, place()));
                            }
                        }
                    }
                }
                Ok(())
            };
            if let Err(flaw) = read() {
                result = Err(format!("layer {:016x}: {flaw}", layer.number.0));
            }
        }
        result
    }
}

/// Applies a record. Returns what is wrong. Records whose base was collected leave nothing to apply them to.
fn fold(version: &mut Option<Page>, record: &Record<'_>, page_bytes: usize) -> Option<String> {
    if version.is_none() && !record.op.starts_chain() && !record.page_prev.is_none() {
        return None;
    }
    let page = version.get_or_insert_with(|| Page::new(record.page, page_bytes));
    apply(page, record).err().map(|error| error.to_string())
}

fn entry_of(record: &Record<'_>, place: String) -> HistoryEntry {
    let name = match &record.op {
        Op::Init { .. } => "init",
        Op::Insert { .. } => "insert",
        Op::Replace { .. } => "replace",
        Op::Remove { .. } => "remove",
        Op::Truncate { .. } => "truncate",
        Op::WriteBytes { .. } => "write-bytes",
        Op::Image { .. } => "full-image",
        Op::DeleteRange { .. } => "delete-range",
        Op::Clock { .. } => "clock",
    };
    HistoryEntry {
        lsn: record.lsn,
        cpl: record.cpl,
        kind: HistoryKind::Record(name),
        place,
    }
}

/// The record with memory of its own.
fn owned(record: &Record<'_>) -> Record<'static> {
    use std::borrow::Cow;
    let own = |bytes: &Cow<'_, [u8]>| Cow::Owned(bytes.to_vec());
    let cell = |cell: &sixfold_log_format::Cell<'_>| sixfold_log_format::Cell {
        key: own(&cell.key),
        value: own(&cell.value),
        ..*cell
    };
    let op = match &record.op {
        Op::Init { kind, level } => Op::Init {
            kind: *kind,
            level: *level,
        },
        Op::Insert { slot, cell: found } => Op::Insert {
            slot: *slot,
            cell: cell(found),
        },
        Op::Replace { slot, cell: found } => Op::Replace {
            slot: *slot,
            cell: cell(found),
        },
        Op::Remove { slot, key } => Op::Remove {
            slot: *slot,
            key: own(key),
        },
        Op::Truncate { from_slot } => Op::Truncate {
            from_slot: *from_slot,
        },
        Op::WriteBytes { offset, bytes } => Op::WriteBytes {
            offset: *offset,
            bytes: own(bytes),
        },
        Op::Image { bytes } => Op::Image { bytes: own(bytes) },
        Op::DeleteRange { start, end } => Op::DeleteRange {
            start: own(start),
            end: own(end),
        },
        Op::Clock { unix_ms } => Op::Clock { unix_ms: *unix_ms },
    };
    Record {
        lsn: record.lsn,
        page: record.page,
        page_prev: record.page_prev,
        cpl: record.cpl,
        user_visible: record.user_visible,
        op,
    }
}
