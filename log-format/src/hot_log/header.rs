//! The superblock, and the first block of a hot-log file.

use super::{
    BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, FileHeader, FileNumber, HOT_LOG_VERSION,
    SUPERBLOCK_COPY_BYTES, Superblock,
};
use crate::codec::{Put, Reader};
use crate::error::DecodeError;
use crate::id::NodeId;
use crate::zone::{ZONE_HEAD_BYTES, Zone};

const SUPERBLOCK: Zone = Zone {
    name: "superblock",
    magic: *b"SIXFSUPR",
    version: HOT_LOG_VERSION,
};
const FILE: Zone = Zone {
    name: "hot-log file header",
    magic: *b"SIXFHLOG",
    version: HOT_LOG_VERSION,
};

impl Superblock {
    /// The superblock file's contents.
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = SUPERBLOCK.begin();
        copy.put_u32(self.block_bytes);
        copy.put_u32(0);
        copy.put_u64(self.file_bytes);
        copy.extend_from_slice(self.node.as_bytes());
        let copy = Zone::end(copy, SUPERBLOCK_COPY_BYTES);
        [copy.as_slice(), copy.as_slice()].concat()
    }

    /// Reads the superblock from whichever copy is sound.
    ///
    /// # Errors
    /// [`DecodeError`] of the first copy when neither is.
    pub fn decode(bytes: &[u8]) -> Result<Superblock, DecodeError> {
        let first = Superblock::decode_copy(bytes);
        let second = bytes
            .get(SUPERBLOCK_COPY_BYTES..)
            .map(Superblock::decode_copy);
        match (first, second) {
            (Err(_), Some(Ok(superblock))) => Ok(superblock),
            (first, _) => first,
        }
    }

    fn decode_copy(bytes: &[u8]) -> Result<Superblock, DecodeError> {
        let copy = Reader::new(SUPERBLOCK.name, bytes).take(SUPERBLOCK_COPY_BYTES)?;
        let mut input = SUPERBLOCK.check(copy)?;
        let block_bytes = input.u32()?;
        input.zeros(4)?;
        let superblock = Superblock {
            node: NodeId::default(),
            block_bytes: check_block_bytes(&input, block_bytes)?,
            file_bytes: input.u64()?,
        };
        // The first block is the header's.
        let blocks = superblock.file_bytes / u64::from(block_bytes);
        if blocks < 2 || !superblock.file_bytes.is_multiple_of(u64::from(block_bytes)) {
            return Err(input.invalid_field("file size", superblock.file_bytes));
        }
        let superblock = Superblock {
            node: NodeId::from_bytes(input.array()?),
            ..superblock
        };
        input.zeros(input.remaining())?;
        Ok(superblock)
    }
}

impl FileHeader {
    /// The file's first block.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = FILE.begin();
        block.put_u32(self.block_bytes);
        block.put_u32(0);
        block.put_u64(self.file.0);
        block.put_u64(self.first_sequence);
        block.extend_from_slice(self.node.as_bytes());
        block.put_u64(self.folded.0);
        Zone::end(block, self.block_bytes as usize)
    }

    /// Reads a file's first block; `bytes` may be longer than it.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not one.
    pub fn decode(bytes: &[u8]) -> Result<FileHeader, DecodeError> {
        // The block's size stands in the block: it is read once to know what the checksum covers.
        let mut early = Reader::new(FILE.name, bytes);
        early.take(ZONE_HEAD_BYTES)?;
        let block_bytes = early.u32()?;
        let block_bytes = check_block_bytes(&early, block_bytes);
        let covered = *block_bytes.as_ref().unwrap_or(&BLOCK_BYTES_MIN);
        let block = Reader::new(FILE.name, bytes).take(covered as usize)?;
        let mut input = FILE.check(block)?;
        let block_bytes = block_bytes?;
        input.take(4)?;
        input.zeros(4)?;
        let header = FileHeader {
            file: FileNumber(input.u64()?),
            first_sequence: input.u64()?,
            node: NodeId::from_bytes(input.array()?),
            folded: FileNumber(input.u64()?),
            block_bytes,
        };
        // The file before was written while this was found out.
        if header.folded.0 > 0 && header.folded.0.saturating_add(1) >= header.file.0 {
            return Err(input.invalid_field("folded file", header.folded.0));
        }
        input.zeros(input.remaining())?;
        Ok(header)
    }
}

fn check_block_bytes(input: &Reader<'_>, block_bytes: u32) -> Result<u32, DecodeError> {
    if block_bytes.is_power_of_two() && (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block_bytes) {
        Ok(block_bytes)
    } else {
        Err(input.invalid_field("block size", u64::from(block_bytes)))
    }
}
