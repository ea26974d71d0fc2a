//! Verifies layers: header, footer, whole-file checksum, index, filter, every block and every entry.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use sixfold_log_format::DecodeError;
use sixfold_log_format::checksum::checksum;
use sixfold_log_format::layer::{
    Block, LAYER_FOOTER_BYTES, LayerEntry, LayerHeader, LayerIndex, LayerSummary,
};

use super::{Inspection, Layer};
use crate::layers::{FoundLayer, path_of};
use crate::mmap::map;

impl Inspection {
    pub(super) fn read_layers(&mut self, directory: &Path, found: &[FoundLayer]) {
        let mut left: BTreeSet<_> = found.iter().map(|(id, number, _)| (*id, *number)).collect();
        let mut listed = Vec::new();
        for (id, segment) in &self.segments {
            for layer in &segment.catalog.layers {
                listed.push((*id, layer.number, layer.summary.clone()));
            }
        }
        for (segment, number, summary) in listed {
            left.remove(&(segment, number));
            let sound = match check_listed(&path_of(directory, (segment, number)), &summary) {
                Ok(()) => true,
                Err(flaw) => {
                    self.flaws
                        .push(format!("layer {segment}-{:016x}: {flaw}", number.0));
                    false
                }
            };
            self.layers.push(Layer {
                segment,
                number,
                summary: Some(summary),
                listed: true,
                sound,
            });
        }
        for (segment, number) in left {
            let summary = map(&path_of(directory, (segment, number)))
                .ok()
                .and_then(|bytes| LayerSummary::decode_footer(&bytes, bytes.len() as u64).ok());
            let sound = summary.as_ref().is_some_and(|summary| {
                check_listed(&path_of(directory, (segment, number)), summary).is_ok()
            });
            self.layers.push(Layer {
                segment,
                number,
                summary,
                listed: false,
                sound,
            });
        }
    }
}

/// Checks a file against what the catalog says of it.
fn check_listed(path: &Path, summary: &LayerSummary) -> Result<(), String> {
    let bytes = map(path).map_err(|error| error.to_string())?;
    if bytes.len() as u64 != summary.file_bytes {
        return Err(format!(
            "{} bytes, expected {}",
            bytes.len(),
            summary.file_bytes
        ));
    }
    check(&bytes, summary).map_err(|error| error.to_string())
}

fn check(bytes: &Bytes, summary: &LayerSummary) -> Result<(), DecodeError> {
    let found = LayerSummary::decode_footer(bytes, bytes.len() as u64)?;
    if found != *summary || LayerHeader::decode(bytes)? != summary.header() {
        return Err(differs("footer", found.file_checksum.into()));
    }
    let body = &bytes[..bytes.len() - LAYER_FOOTER_BYTES];
    let found = checksum(&[], body);
    let (mut records, mut images) = (0_u64, 0_u64);
    let index = index_of(bytes, summary)?;
    let mut last = None;
    for number in 0..index.block_count() {
        let block = block_of(bytes, summary, &index, number)?;
        for entry in block.entries() {
            let entry = entry?;
            match &entry {
                LayerEntry::Record(record) => {
                    records += 1;
                    if record.lsn <= summary.lsn_after {
                        return Err(differs("LSN", record.lsn.get()));
                    }
                }
                LayerEntry::Image(_) => images += 1,
            }
            let key = (entry.page(), entry.lsn());
            let within = summary.covers_page(key.0) && key.1 <= summary.lsn_through;
            if !within || last.is_some_and(|last| key < last) || !index.may_hold(key.0) {
                return Err(differs("order", key.1.get()));
            }
            last = Some(key);
        }
    }
    if (records, images) != (summary.record_count, summary.image_count) {
        return Err(differs("entry count", records + images));
    }
    // Last, since it says less of where the damage lies.
    if found != summary.file_checksum {
        return Err(DecodeError::Checksum {
            zone: "layer",
            found,
            expected: summary.file_checksum,
        });
    }
    Ok(())
}

fn differs(field: &'static str, found: u64) -> DecodeError {
    DecodeError::Invalid {
        zone: "layer",
        field,
        found,
        offset: 0,
    }
}

/// The index of a mapped layer.
pub(super) fn index_of(bytes: &Bytes, summary: &LayerSummary) -> Result<LayerIndex, DecodeError> {
    let range = summary.index_range();
    LayerIndex::decode(summary, &part(bytes, range.start, range.end)?)
}

/// A block of a mapped layer.
pub(super) fn block_of(
    bytes: &Bytes,
    summary: &LayerSummary,
    index: &LayerIndex,
    number: u32,
) -> Result<Block, DecodeError> {
    let at = index.block(number);
    let range = at.range();
    Block::decode(&summary.identity, &at, part(bytes, range.start, range.end)?)
}

fn part(bytes: &Bytes, start: u64, end: u64) -> Result<Bytes, DecodeError> {
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    match range {
        Some((start, end)) if start <= end && end <= bytes.len() => Ok(bytes.slice(start..end)),
        _ => Err(DecodeError::Truncated {
            zone: "layer",
            offset: bytes.len(),
            needed: usize::try_from(end.saturating_sub(bytes.len() as u64)).unwrap_or(usize::MAX),
        }),
    }
}
