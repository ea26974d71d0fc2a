//! The entries of a group: a header of 24 bytes, then what the entry's type says.

use bytes::Bytes;

use super::{ENTRY_HEADER_BYTES, Entry};
use crate::codec::{Put, Reader, length_u32};
use crate::error::DecodeError;
use crate::field::Field;
use crate::id::SegmentId;

const ZONE: &str = "hot-log entry";

/// The number of each type of entry.
pub(super) mod kind {
    pub(crate) const BATCH: u8 = 1;
    pub(crate) const CREATED: u8 = 2;
    pub(crate) const CLAIM: u8 = 3;
    pub(crate) const INSTALL: u8 = 4;
    pub(crate) const STATE: u8 = 5;
    pub(crate) const DROPPED: u8 = 6;
    pub(crate) const CATALOG: u8 = 7;
    pub(crate) const REMOVED: u8 = 8;
}

impl Entry {
    /// Bytes that it takes in a group, its header included.
    pub fn encoded_bytes(&self) -> usize {
        if let Entry::Batch { bytes, .. } = self {
            return ENTRY_HEADER_BYTES + bytes.len();
        }
        let mut payload = Vec::new();
        self.put_payload(&mut payload);
        ENTRY_HEADER_BYTES + payload.len()
    }

    /// The segment that it is of.
    pub fn segment(&self) -> SegmentId {
        match self {
            Entry::Batch { segment, .. }
            | Entry::Created { segment, .. }
            | Entry::Claim { segment, .. }
            | Entry::Install { segment, .. }
            | Entry::State { segment, .. }
            | Entry::Catalog { segment, .. }
            | Entry::Removed { segment, .. }
            | Entry::Dropped { segment } => *segment,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Entry::Batch { .. } => kind::BATCH,
            Entry::Created { .. } => kind::CREATED,
            Entry::Claim { .. } => kind::CLAIM,
            Entry::Install { .. } => kind::INSTALL,
            Entry::State { .. } => kind::STATE,
            Entry::Dropped { .. } => kind::DROPPED,
            Entry::Catalog { .. } => kind::CATALOG,
            Entry::Removed { .. } => kind::REMOVED,
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[self.kind(), 0, 0, 0]);
        out.put_u32(0);
        self.segment().put(out);
        assert_eq!(out.len() - start, ENTRY_HEADER_BYTES);
        self.put_payload(out);
        let payload_bytes = length_u32(out.len() - start - ENTRY_HEADER_BYTES);
        out[start + 4..start + 8].copy_from_slice(&payload_bytes.to_le_bytes());
    }

    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Entry::Batch { bytes, .. } => out.extend_from_slice(bytes),
            Entry::Created { pg, manifest, .. } | Entry::Removed { pg, manifest, .. } => {
                pg.put(out);
                manifest.put(out);
            }
            Entry::Claim {
                volume_epoch,
                writer,
                ..
            } => {
                volume_epoch.put(out);
                writer.put(out);
            }
            Entry::Install {
                volume_epoch,
                writer,
                history,
                manifest,
                ..
            } => {
                volume_epoch.put(out);
                writer.put(out);
                history.put(out);
                manifest.put(out);
            }
            Entry::State {
                pg,
                volume_epoch,
                writer,
                history,
                manifest,
                scl,
                vdl,
                catalog,
                ..
            } => {
                pg.put(out);
                volume_epoch.put(out);
                writer.put(out);
                history.put(out);
                manifest.put(out);
                scl.put(out);
                vdl.put(out);
                catalog.put(out);
            }
            Entry::Catalog { catalog, .. } => catalog.put(out),
            Entry::Dropped { .. } => {}
        }
    }

    /// Reads the next entry of `input`, a reader of the group `group`. Batches share its memory.
    pub(super) fn take(input: &mut Reader<'_>, group: &Bytes) -> Result<Entry, DecodeError> {
        let kind = input.u8()?;
        input.zeros(3)?;
        let payload_bytes = input.u32()?;
        let segment = SegmentId::take(input)?;
        let payload = input.take(payload_bytes as usize)?;
        if kind == kind::BATCH {
            return Ok(Entry::Batch {
                segment,
                bytes: group.slice_ref(payload),
            });
        }
        let mut input = Reader::new(ZONE, payload);
        let entry = Entry::take_payload(&mut input, kind, segment)?;
        input.finish()?;
        Ok(entry)
    }

    fn take_payload(
        input: &mut Reader<'_>,
        kind: u8,
        segment: SegmentId,
    ) -> Result<Entry, DecodeError> {
        Ok(match kind {
            kind::CREATED => Entry::Created {
                segment,
                pg: Field::take(input)?,
                manifest: Field::take(input)?,
            },
            kind::CLAIM => Entry::Claim {
                segment,
                volume_epoch: Field::take(input)?,
                writer: Field::take(input)?,
            },
            kind::INSTALL => Entry::Install {
                segment,
                volume_epoch: Field::take(input)?,
                writer: Field::take(input)?,
                history: Field::take(input)?,
                manifest: Field::take(input)?,
            },
            kind::STATE => Entry::State {
                segment,
                pg: Field::take(input)?,
                volume_epoch: Field::take(input)?,
                writer: Field::take(input)?,
                history: Field::take(input)?,
                manifest: Field::take(input)?,
                scl: Field::take(input)?,
                vdl: Field::take(input)?,
                catalog: Field::take(input)?,
            },
            kind::CATALOG => Entry::Catalog {
                segment,
                catalog: Field::take(input)?,
            },
            kind::DROPPED => Entry::Dropped { segment },
            kind::REMOVED => Entry::Removed {
                segment,
                pg: Field::take(input)?,
                manifest: Field::take(input)?,
            },
            _ => return Err(input.invalid_field("entry type", u64::from(kind))),
        })
    }
}
