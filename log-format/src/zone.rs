//! What superblock, hot-log file and layer begin with, in every version: checksum, magic, version.
//!
//! A reader can therefore tell damage, a foreign file and a newer format apart. The checksum covers everything behind it, up to the end of
//! the zone, which is padded with zeros.

use crate::checksum::checksum;
use crate::codec::{Put, Reader};
use crate::error::DecodeError;

const CHECKSUM_BYTES: usize = 4;
/// Checksum, magic and version, with what is reserved behind it.
pub(crate) const ZONE_HEAD_BYTES: usize = CHECKSUM_BYTES + 8 + 4;

/// A kind of zone: its name in errors, and what it says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Zone {
    pub(crate) name: &'static str,
    pub(crate) magic: [u8; 8],
    pub(crate) version: u16,
}

impl Zone {
    /// The head of a zone; what follows is pushed behind it.
    pub(crate) fn begin(&self) -> Vec<u8> {
        let mut out = vec![0; CHECKSUM_BYTES];
        out.extend_from_slice(&self.magic);
        out.put_u16(self.version);
        out.put_u16(0);
        out
    }

    /// Pads a zone to its length and puts in its checksum.
    ///
    /// # Panics
    /// When it is longer than that.
    pub(crate) fn end(mut out: Vec<u8>, bytes: usize) -> Vec<u8> {
        assert!(out.len() <= bytes, "a zone of {} bytes", out.len());
        out.resize(bytes, 0);
        let checksum = checksum(&[], &out[CHECKSUM_BYTES..]);
        out[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Checks magic, checksum and version, in this order, of a zone that is all of `bytes`. Returns a reader behind them.
    ///
    /// # Errors
    /// [`DecodeError`]: which of them is wrong.
    pub(crate) fn check<'a>(&self, bytes: &'a [u8]) -> Result<Reader<'a>, DecodeError> {
        let zone = self.name;
        let mut input = Reader::new(zone, bytes);
        let expected = input.u32()?;
        let found_magic: [u8; 8] = input.array()?;
        if found_magic != self.magic {
            return Err(input.invalid_field("magic", u64::from_le_bytes(found_magic)));
        }
        let found = checksum(&[], &bytes[CHECKSUM_BYTES..]);
        if found != expected {
            return Err(DecodeError::Checksum {
                zone,
                found,
                expected,
            });
        }
        let version = input.u16()?;
        if version != self.version {
            return Err(DecodeError::Version {
                zone,
                found: version,
                supported: self.version,
            });
        }
        input.zeros(2)?;
        Ok(input)
    }
}
