//! Walks over the hot log: group after group, file after file, to the first place that holds none.

use bytes::Bytes;
use sixfold_log_format::hot_log::{
    ENTRY_HEADER_BYTES, Entry, FileHeader, FileNumber, Found, GROUP_BYTES_MAX, claimed_sequence,
    decode_group,
};
use sixfold_log_format::layer::LayerCatalog;
use sixfold_log_format::{Batch, History, Lsn, SegmentId, VolumeEpoch, WriterId};

use super::{HotLogFile, InspectError, Inspection, PlacedBatch, Segment, Verdict, failed};
use crate::directory::{HOT_LOG_NAME, file_path};
use crate::mmap::map;

/// Where a walk stopped.
struct Stop {
    file: FileNumber,
    offset: u64,
    /// Whether the place is empty: nothing was written there, in this life of the file.
    empty: bool,
}

impl Inspection {
    pub(super) fn read_hot_log(&mut self, files: &[(FileNumber, u64)]) -> Result<(), InspectError> {
        let hot_log = self.path.join(HOT_LOG_NAME);
        let (mut expected, mut stop): (Option<u64>, Option<Stop>) = (None, None);
        for (index, (number, _)) in files.iter().enumerate() {
            if index > 0 && number.0 != files[index - 1].0.0 + 1 {
                self.corrupt(
                    *number,
                    0,
                    format!("the file before {} is missing", number.0),
                );
            }
            let path = file_path(&hot_log, *number);
            let bytes = map(&path).map_err(|source| failed(&path, source))?;
            let wanted = expected;
            let (group_count, stopped) = self.read_file(*number, &bytes, &mut expected);
            // A file that begins with the group that is due shows that nothing is missing: what stands behind the last group of the
            // one before is of an earlier life, or was torn.
            let begins_with = self.files.last().and_then(|file| file.first_sequence);
            if group_count > 0
                && begins_with.is_some_and(|first| Some(first) != wanted)
                && let Some(before) = &stop
                && !before.empty
            {
                let reason = format!("unreadable, and file {} goes on", number.0);
                self.corrupt(before.file, before.offset, reason);
            }
            if group_count > 0 || stop.as_ref().is_none_or(|stop| stop.empty) {
                stop = Some(stopped);
            }
        }
        match stop {
            None => self.corrupt(FileNumber(1), 0, "no hot-log file".to_owned()),
            Some(stop) if !stop.empty && self.verdict == Verdict::Clean => {
                self.verdict = Verdict::TornTail {
                    file: stop.file,
                    offset: stop.offset,
                };
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn corrupt(&mut self, file: FileNumber, offset: u64, reason: String) {
        self.flaws.push(format!(
            "hot-log file {} is damaged at offset {offset}: {reason}",
            file.0
        ));
        if !matches!(self.verdict, Verdict::Corrupt { .. }) {
            self.verdict = Verdict::Corrupt {
                file,
                offset,
                reason,
            };
        }
    }

    /// Reads one file. Returns how many groups it has and where reading stopped.
    fn read_file(
        &mut self,
        number: FileNumber,
        bytes: &Bytes,
        expected: &mut Option<u64>,
    ) -> (u64, Stop) {
        let block = self.superblock.block_bytes as usize;
        let header = match FileHeader::decode(bytes) {
            Ok(header) => Some(header),
            Err(error) => {
                if bytes[..block.min(bytes.len())]
                    .iter()
                    .any(|byte| *byte != 0)
                {
                    self.flaws
                        .push(format!("hot-log file {}: its header: {error}", number.0));
                }
                None
            }
        };
        let identity = FileHeader {
            node: self.superblock.node,
            file: number,
            block_bytes: self.superblock.block_bytes,
            folded: header
                .as_ref()
                .map_or(FileNumber(0), |header| header.folded),
            // The first file may be one that a crash left without its header, on its way to be another.
            first_sequence: header.as_ref().map_or_else(
                || {
                    expected
                        .or_else(|| claimed_sequence(bytes.get(block..)?))
                        .unwrap_or(1)
                },
                |header| header.first_sequence,
            ),
        };
        if header.as_ref().is_some_and(|header| *header != identity) {
            self.corrupt(number, 0, "the header is another file's".to_owned());
        }
        let mut next = identity.first_sequence;
        if let Some(expected) = *expected
            && header.is_some()
            && expected != next
        {
            let reason = format!("begins with group {next}, {expected} was expected");
            self.corrupt(number, 0, reason);
        }
        let (mut at, mut group_count) = (block, 0);
        let empty = loop {
            if at + block > bytes.len() {
                break true;
            }
            match decode_group(&bytes.slice(at..), &identity) {
                Found::Group {
                    sequence,
                    entries,
                    bytes: length,
                } if sequence == next => {
                    for (offset, entry) in entries {
                        let offset = at as u64 + u64::from(offset);
                        self.take_entry(number, offset, entry);
                    }
                    at += length;
                    next += 1;
                    group_count += 1;
                }
                Found::Empty => break true,
                _ => break false,
            }
        };
        let empty = empty || is_of_an_earlier_life(bytes, block, at, next);
        if let Some((offset, sequence)) = later_group(bytes, &identity, at, next) {
            let reason = format!("group {next} is unreadable, group {sequence} stands at {offset}");
            self.corrupt(number, at as u64, reason);
        }
        if header.is_some() || group_count > 0 {
            *expected = Some(next);
        }
        self.files.push(HotLogFile {
            number,
            first_sequence: header.map(|header| header.first_sequence),
            group_count,
            used_bytes: if group_count > 0 { at as u64 } else { 0 },
        });
        let stop = Stop {
            file: number,
            offset: at as u64,
            empty,
        };
        (group_count, stop)
    }

    fn take_entry(&mut self, file: FileNumber, offset: u64, entry: Entry) {
        let id = entry.segment();
        let at = format!("hot-log file {} offset {offset}", file.0);
        if let Entry::Created { pg, manifest, .. } | Entry::State { pg, manifest, .. } = &entry {
            self.segments.entry(id).or_insert_with(|| Segment {
                pg: *pg,
                claim: VolumeEpoch::CREATION,
                writer: WriterId::NOBODY,
                history: History::creation(),
                manifest: manifest.clone(),
                catalog: LayerCatalog::empty(),
                vdl: Lsn::NONE,
                dropped: false,
                batches: Vec::new(),
            });
        }
        let Some(segment) = self.segments.get_mut(&id) else {
            self.flaws.push(format!(
                "{at}: an entry of segment {id}, which was not created"
            ));
            return;
        };
        if let Some(flaw) = segment.take(file, offset, entry, id) {
            self.flaws.push(format!("{at}: {flaw}"));
        }
    }
}

impl Segment {
    /// Takes the next entry of the hot log. Returns what is wrong with it.
    fn take(
        &mut self,
        file: FileNumber,
        offset: u64,
        entry: Entry,
        id: SegmentId,
    ) -> Option<String> {
        match entry {
            Entry::Created { .. } => {}
            Entry::Batch { bytes, .. } => match Batch::decode(bytes, self.manifest.volume) {
                Ok(batch) => {
                    self.vdl = self.vdl.max(batch.header().vdl);
                    self.batches.push(PlacedBatch {
                        file,
                        offset: offset + ENTRY_HEADER_BYTES as u64,
                        batch,
                    });
                }
                Err(error) => return Some(format!("segment {id}: {error}")),
            },
            Entry::Claim {
                volume_epoch,
                writer,
                ..
            } => (self.claim, self.writer) = (volume_epoch, writer),
            Entry::Install {
                volume_epoch,
                writer,
                history,
                manifest,
                ..
            } => {
                (self.claim, self.writer) = (volume_epoch, writer);
                self.vdl = self.vdl.max(history.highest_end());
                (self.history, self.manifest) = (history, manifest);
            }
            Entry::State {
                volume_epoch,
                writer,
                history,
                manifest,
                vdl,
                catalog,
                ..
            } => {
                (self.claim, self.writer) = (volume_epoch, writer);
                (self.history, self.manifest) = (history, manifest);
                self.vdl = self.vdl.max(vdl);
                self.catalog = catalog;
            }
            Entry::Catalog { catalog, .. } => self.catalog = catalog,
            Entry::Dropped { .. } | Entry::Removed { .. } => self.dropped = true,
        }
        None
    }
}

/// A sound group behind `at` that was written after group `next`: whatever stands at `at` was durable once. Each block is looked at; a
/// group's length is believed only as far as its checksum bears it out.
fn later_group(bytes: &Bytes, identity: &FileHeader, at: usize, next: u64) -> Option<(usize, u64)> {
    let block = identity.block_bytes as usize;
    let mut offset = at + block;
    while offset + block <= bytes.len() {
        let end = bytes.len().min(offset + GROUP_BYTES_MAX);
        // What is no later group need not be summed up: a recycled file is full of old ones.
        let may_be = claimed_sequence(&bytes[offset..end]).is_some_and(|claimed| claimed >= next);
        if may_be
            && let Found::Group { sequence, .. } = decode_group(&bytes.slice(offset..end), identity)
            && sequence >= next
        {
            return Some((offset, sequence));
        }
        offset += block;
    }
    None
}

/// Whether what stands at `at` and behind it was written before the file was recycled: groups with sequence numbers that were used
/// before `next`, and `next` itself was not begun here.
fn is_of_an_earlier_life(bytes: &Bytes, block: usize, at: usize, next: u64) -> bool {
    let claimed = |offset: usize| claimed_sequence(&bytes[offset..]);
    claimed(at) != Some(next)
        && (at..bytes.len())
            .step_by(block)
            .any(|offset| claimed(offset).is_some_and(|sequence| sequence < next))
}
