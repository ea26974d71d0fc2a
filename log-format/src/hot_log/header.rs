//! The superblock, and the first block of a hot-log file.
//!
//! Both begin alike in every version: checksum, magic, version. A reader can therefore tell damage, a foreign file and
//! a newer format apart.

use super::{
    BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, FileHeader, FileNumber, HOT_LOG_VERSION,
    SUPERBLOCK_COPY_BYTES, Superblock,
};
use crate::checksum::checksum;
use crate::codec::{Put, Reader};
use crate::error::DecodeError;
use crate::id::NodeId;

const CHECKSUM_BYTES: usize = 4;
const SUPERBLOCK_MAGIC: [u8; 8] = *b"SIXFSUPR";
const FILE_MAGIC: [u8; 8] = *b"SIXFHLOG";
const SUPERBLOCK: &str = "superblock";
const FILE: &str = "hot-log file header";

impl Superblock {
    /// The superblock file's contents.
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = begin(SUPERBLOCK_MAGIC);
        copy.put_u32(self.block_bytes);
        copy.put_u32(0);
        copy.put_u64(self.file_bytes);
        copy.extend_from_slice(self.node.as_bytes());
        let copy = end(copy, SUPERBLOCK_COPY_BYTES);
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
        let mut input = check(SUPERBLOCK, SUPERBLOCK_MAGIC, bytes, SUPERBLOCK_COPY_BYTES)?;
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
        let mut block = begin(FILE_MAGIC);
        block.put_u32(self.block_bytes);
        block.put_u32(0);
        block.put_u64(self.file.0);
        block.put_u64(self.first_sequence);
        block.extend_from_slice(self.node.as_bytes());
        end(block, self.block_bytes as usize)
    }

    /// Reads a file's first block; `bytes` may be longer than it.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not one.
    pub fn decode(bytes: &[u8]) -> Result<FileHeader, DecodeError> {
        // The block's size stands in the block: it is read once to know what the checksum covers.
        let mut early = Reader::new(FILE, bytes);
        early.take(CHECKSUM_BYTES + FILE_MAGIC.len() + 4)?;
        let block_bytes = early.u32()?;
        let block_bytes = check_block_bytes(&early, block_bytes);
        let covered = *block_bytes.as_ref().unwrap_or(&BLOCK_BYTES_MIN);
        let mut input = check(FILE, FILE_MAGIC, bytes, covered as usize)?;
        let block_bytes = block_bytes?;
        input.take(4)?;
        input.zeros(4)?;
        let header = FileHeader {
            file: FileNumber(input.u64()?),
            first_sequence: input.u64()?,
            node: NodeId::from_bytes(input.array()?),
            block_bytes,
        };
        input.zeros(input.remaining())?;
        Ok(header)
    }
}

fn begin(magic: [u8; 8]) -> Vec<u8> {
    let mut block = vec![0; CHECKSUM_BYTES];
    block.extend_from_slice(&magic);
    block.put_u16(HOT_LOG_VERSION);
    block.put_u16(0);
    block
}

fn end(mut block: Vec<u8>, bytes: usize) -> Vec<u8> {
    block.resize(bytes, 0);
    let checksum = checksum(&[], &block[CHECKSUM_BYTES..]);
    block[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    block
}

/// Checks magic, checksum over `count` bytes and version, in this order. Returns a reader behind them.
fn check<'a>(
    zone: &'static str,
    magic: [u8; 8],
    bytes: &'a [u8],
    count: usize,
) -> Result<Reader<'a>, DecodeError> {
    let block = Reader::new(zone, bytes).take(count)?;
    let mut input = Reader::new(zone, block);
    let expected = input.u32()?;
    let found_magic: [u8; 8] = input.array()?;
    if found_magic != magic {
        return Err(input.invalid_field("magic", u64::from_le_bytes(found_magic)));
    }
    let found = checksum(&[], &block[CHECKSUM_BYTES..]);
    if found != expected {
        return Err(DecodeError::Checksum {
            zone,
            found,
            expected,
        });
    }
    let version = input.u16()?;
    if version != HOT_LOG_VERSION {
        return Err(DecodeError::Version {
            zone,
            found: version,
            supported: HOT_LOG_VERSION,
        });
    }
    input.zeros(2)?;
    Ok(input)
}

fn check_block_bytes(input: &Reader<'_>, block_bytes: u32) -> Result<u32, DecodeError> {
    if block_bytes.is_power_of_two() && (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block_bytes) {
        Ok(block_bytes)
    } else {
        Err(input.invalid_field("block size", u64::from(block_bytes)))
    }
}
