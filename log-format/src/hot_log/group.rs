//! Groups: what one write appends. There as a whole or not at all: one checksum covers header, entries and padding.

use bytes::Bytes;

use super::{ENTRY_HEADER_BYTES, Entry, FileHeader, Found, GROUP_BYTES_MAX, GROUP_HEADER_BYTES};
use crate::checksum::checksum;
use crate::codec::{Put, Reader, length_u32};
use crate::error::DecodeError;

const ZONE: &str = "hot-log group";
const MAGIC: [u8; 4] = *b"SXGR";
const CHECKSUM_BYTES: usize = 4;

/// What a group must belong to: its checksum is seeded with it, so that no group of another node or of a file's
/// earlier life verifies. File numbers that differ in their low 32 bits alone differ by one burst, which changes every CRC-32: a
/// group of an earlier life is not unlikely to verify under a later number, it cannot.
fn seed(header: &FileHeader) -> [u8; 24] {
    let mut seed = [0; 24];
    seed[..16].copy_from_slice(header.node.as_bytes());
    seed[16..].copy_from_slice(&header.file.0.to_le_bytes());
    seed
}

/// Writes a group into `out` (appended at its end): header, entries, zeros up to a whole number of blocks. Returns the
/// offset of each entry from the start of the group; its payload stands [`ENTRY_HEADER_BYTES`] behind it.
///
/// # Panics
/// When there is no entry, or the group is larger than [`GROUP_BYTES_MAX`].
pub fn encode_group(
    out: &mut Vec<u8>,
    header: &FileHeader,
    sequence: u64,
    entries: &[Entry],
) -> Vec<u32> {
    assert!(!entries.is_empty(), "a group without entries");
    let start = out.len();
    out.put_u32(0);
    out.extend_from_slice(&MAGIC);
    out.put_u32(0);
    out.put_u32(length_u32(entries.len()));
    out.put_u64(sequence);
    out.put_u64(0);
    assert_eq!(out.len() - start, GROUP_HEADER_BYTES);
    let mut offsets = Vec::with_capacity(entries.len());
    for entry in entries {
        offsets.push(length_u32(out.len() - start));
        entry.put(out);
    }
    let group_bytes = (out.len() - start).next_multiple_of(header.block_bytes as usize);
    assert!(
        group_bytes <= GROUP_BYTES_MAX,
        "a group of {group_bytes} bytes"
    );
    out.resize(start + group_bytes, 0);
    out[start + 8..start + 12].copy_from_slice(&length_u32(group_bytes).to_le_bytes());
    let checksum = checksum(&seed(header), &out[start + CHECKSUM_BYTES..]);
    out[start..start + CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    offsets
}

/// Looks at the bytes of the file of `header` from a block boundary on. What follows the group is not looked at. The
/// caller compares the sequence number with the one that it expects, and a length asked for with what the file has.
///
/// # Panics
/// When the header's block size is 0.
pub fn decode_group(bytes: &Bytes, header: &FileHeader) -> Found {
    let block_bytes = header.block_bytes as usize;
    assert!(block_bytes > 0, "blocks of no bytes");
    let Some(block) = bytes.get(..block_bytes) else {
        return Found::More { bytes: block_bytes };
    };
    if block.iter().all(|byte| *byte == 0) {
        return Found::Empty;
    }
    decode(bytes, header).unwrap_or_else(Found::Bad)
}

/// The sequence number that stands in a group's header, if the bytes begin with something that looks like one. Nothing is verified:
/// it may be torn, damaged, or left from an earlier life of the file. Sequence numbers never fall, so that one below what is
/// expected is of an earlier life.
pub fn claimed_sequence(bytes: &[u8]) -> Option<u64> {
    let header = bytes.get(..GROUP_HEADER_BYTES)?;
    let sequence = header[16..24].first_chunk()?;
    (header[CHECKSUM_BYTES..8] == MAGIC).then(|| u64::from_le_bytes(*sequence))
}

fn decode(bytes: &Bytes, header: &FileHeader) -> Result<Found, DecodeError> {
    let mut input = Reader::new(ZONE, bytes);
    let expected = input.u32()?;
    let magic: [u8; 4] = input.array()?;
    if magic != MAGIC {
        return Err(input.invalid_field("magic", u64::from(u32::from_le_bytes(magic))));
    }
    let length = input.u32()?;
    let group_bytes = length as usize;
    let in_range = (header.block_bytes as usize..=GROUP_BYTES_MAX).contains(&group_bytes);
    if !in_range || !length.is_multiple_of(header.block_bytes) {
        return Err(input.invalid_field("length", u64::from(length)));
    }
    if bytes.len() < group_bytes {
        return Ok(Found::More { bytes: group_bytes });
    }
    let group = bytes.slice(..group_bytes);
    let found = checksum(&seed(header), &group[CHECKSUM_BYTES..]);
    if found != expected {
        return Err(DecodeError::Checksum {
            zone: ZONE,
            found,
            expected,
        });
    }
    let mut input = Reader::starting_at(ZONE, &group, input.offset());
    let entry_count = input.u32()?;
    let sequence = input.u64()?;
    input.zeros(8)?;
    if entry_count == 0 || entry_count as usize > input.remaining() / ENTRY_HEADER_BYTES {
        return Err(input.invalid_field("entry count", u64::from(entry_count)));
    }
    let mut entries = Vec::new();
    for _ in 0..entry_count {
        let offset = length_u32(input.offset());
        entries.push((offset, Entry::take(&mut input, &group)?));
    }
    if input.remaining() >= header.block_bytes as usize {
        return Err(input.invalid_field("padding", input.remaining() as u64));
    }
    input.zeros(input.remaining())?;
    Ok(Found::Group {
        sequence,
        entries,
        bytes: group_bytes,
    })
}
