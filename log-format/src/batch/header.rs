//! The header of a batch, and its runs.
//!
//! The flags and the length of an extension are reserved: encrypted batches will name cipher, key and nonce there. Both are
//! zero in version 1, and a batch in which they are not is refused rather than misread.

use super::BatchHeader;
use crate::checksum::checksum;
use crate::codec::{Put, Reader, length_u16, length_u32, varint_bytes};
use crate::error::DecodeError;
use crate::id::{PgId, VolumeEpoch, VolumeId};
use crate::limits::BATCH_BYTES_MAX;
use crate::lsn::Lsn;
use crate::mutant::{Mutant, planted};

/// The version of batches that this build writes and reads.
pub const BATCH_VERSION: u16 = 1;
/// Bytes of a batch's header; the runs follow.
pub const BATCH_HEADER_BYTES: usize = 72;
/// Bytes of the checksum, which stands first and covers all the rest.
pub(super) const CHECKSUM_BYTES: usize = 4;
/// Most runs in a batch: their count has two bytes.
pub(super) const RUN_COUNT_MAX: usize = u16::MAX as usize;

const ZONE: &str = "batch header";

/// Writes the header for a batch of `batch_bytes` bytes, with a checksum of zero.
pub(super) fn encode(header: &BatchHeader, batch_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(BATCH_HEADER_BYTES);
    out.put_u32(0);
    out.put_u32(length_u32(batch_bytes));
    out.put_u16(BATCH_VERSION);
    out.put_u16(0);
    out.put_u16(0);
    out.put_u16(length_u16(header.runs.len()));
    out.put_u32(header.pg.get());
    out.put_u32(header.record_count);
    out.put_u64(header.volume_epoch.get());
    for lsn in [header.first, header.last, header.prev, header.vdl] {
        out.put_u64(lsn.get());
    }
    out.put_u64(header.unix_ms);
    assert_eq!(out.len(), BATCH_HEADER_BYTES);
    out
}

/// Appends the runs: the length of the first, then gap and length of each further one.
pub(super) fn encode_runs(out: &mut Vec<u8>, runs: &[(Lsn, Lsn)]) {
    let mut before: Option<Lsn> = None;
    for (start, end) in runs {
        if let Some(before) = before {
            out.put_varint(start.since(before));
        }
        out.put_varint(end.since(*start));
        before = Some(*end);
    }
}

/// Bytes that the run `[start, end)` takes behind a run that ends at `before`.
pub(super) fn run_bytes(before: Option<Lsn>, start: Lsn, end: Lsn) -> usize {
    before.map_or(0, |before| varint_bytes(start.since(before))) + varint_bytes(end.since(start))
}

/// The checksum of a batch.
pub(super) fn checksum_of(bytes: &[u8], volume: VolumeId) -> u32 {
    checksum(volume.as_bytes(), &bytes[CHECKSUM_BYTES..])
}

/// Reads header and runs of a whole batch, and verifies its checksum. Returns where the records start.
pub(super) fn decode(bytes: &[u8], volume: VolumeId) -> Result<(BatchHeader, usize), DecodeError> {
    let mut input = Reader::new(ZONE, bytes);
    let expected = input.u32()?;
    let length = input.u32()?;
    let version = input.u16()?;
    // Length before version: what is cut short says so. Version before checksum: what a later version covers is not
    // known here.
    if length as usize != bytes.len() || bytes.len() > BATCH_BYTES_MAX {
        return Err(input.invalid_field("length", u64::from(length)));
    }
    if version != BATCH_VERSION {
        return Err(DecodeError::Version {
            zone: ZONE,
            found: version,
            supported: BATCH_VERSION,
        });
    }
    let found = checksum_of(bytes, volume);
    if found != expected && !planted(Mutant::RotServed) {
        return Err(DecodeError::Checksum {
            zone: "batch",
            found,
            expected,
        });
    }
    let flags = input.u16()?;
    if flags != 0 {
        return Err(input.invalid_field("flags", u64::from(flags)));
    }
    let extension_bytes = input.u16()?;
    if extension_bytes != 0 {
        return Err(input.invalid_field("extension length", u64::from(extension_bytes)));
    }
    let run_count = input.u16()?;
    let pg = PgId::new(input.u32()?);
    let record_count = input.u32()?;
    let volume_epoch = VolumeEpoch::new(input.u64()?);
    let mut lsns = [Lsn::NONE; 4];
    for lsn in &mut lsns {
        *lsn = Lsn::new(input.u64()?);
    }
    let [first, last, prev, vdl] = lsns;
    let unix_ms = input.u64()?;
    if prev >= first || last < first || last == Lsn::MAX {
        return Err(input.invalid_field("first lsn", first.get()));
    }
    let runs = decode_runs(&mut input, first, usize::from(run_count))?;
    let held = runs
        .iter()
        .map(|(start, end)| end.since(*start))
        .sum::<u64>();
    if held != u64::from(record_count) {
        return Err(input.invalid_field("record count", u64::from(record_count)));
    }
    if runs.last().map(|(_, end)| *end) != last.checked_plus(1) {
        return Err(input.invalid_field("last lsn", last.get()));
    }
    let header = BatchHeader {
        pg,
        volume_epoch,
        first,
        last,
        prev,
        vdl,
        unix_ms,
        record_count,
        runs,
        checksum: expected,
    };
    Ok((header, input.offset()))
}

fn decode_runs(
    input: &mut Reader<'_>,
    first: Lsn,
    run_count: usize,
) -> Result<Vec<(Lsn, Lsn)>, DecodeError> {
    // A run takes a byte at least, and so does each of its records: the input pays for what is allocated.
    if run_count == 0 || run_count > input.remaining() {
        return Err(input.invalid_field("run count", run_count as u64));
    }
    let mut runs = Vec::with_capacity(run_count);
    let mut held = 0;
    let mut start = first;
    while runs.len() < run_count {
        if !runs.is_empty() {
            let gap = input.varint()?;
            start = match start.checked_plus(gap) {
                Some(start) if gap > 0 => start,
                _ => return Err(input.invalid_field("gap between runs", gap)),
            };
        }
        let count = input.varint()?;
        let end = start.checked_plus(count);
        held += count.min(BATCH_BYTES_MAX as u64);
        match end {
            Some(end) if count > 0 && held <= BATCH_BYTES_MAX as u64 => {
                runs.push((start, end));
                start = end;
            }
            _ => return Err(input.invalid_field("run length", count)),
        }
    }
    Ok(runs)
}
