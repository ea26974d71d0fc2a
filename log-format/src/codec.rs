//! Cursors over bytes: a bounded reader, writers that append to a vector, varints.
//!
//! Numbers are little-endian. Varints are LEB128, least significant group first, in their shortest form; signed
//! numbers are zigzag-coded first. A reader never reads past its input and never panics on it.

use crate::error::DecodeError;
use crate::limits::TEXT_BYTES_MAX;

/// Longest varint, bytes.
pub const VARINT_BYTES_MAX: usize = 10;

/// Reads values one after the other from bytes that nobody has checked yet.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    zone: &'static str,
    field: &'static str,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`; errors will name `zone`.
    pub fn new(zone: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader {
            bytes,
            at: 0,
            zone,
            field: "field",
        }
    }

    /// A reader of the same bytes from `at` on; errors name offsets from the start of `bytes`.
    pub(crate) fn starting_at(zone: &'static str, bytes: &'a [u8], at: usize) -> Reader<'a> {
        Reader {
            bytes,
            at: at.min(bytes.len()),
            zone,
            field: "field",
        }
    }

    /// Names the field that is read next, for errors.
    pub fn field(&mut self, field: &'static str) -> &mut Self {
        self.field = field;
        self
    }

    /// Names the zone that is read from here on, for errors. Returns the one before.
    pub fn set_zone(&mut self, zone: &'static str) -> &'static str {
        std::mem::replace(&mut self.zone, zone)
    }

    /// Offset of the next byte.
    #[inline]
    pub fn offset(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The error for a value that the field named last may not have.
    #[cold]
    pub fn invalid(&self, found: u64) -> DecodeError {
        self.invalid_field(self.field, found)
    }

    /// The error for a value that `field` may not have.
    #[cold]
    pub fn invalid_field(&self, field: &'static str, found: u64) -> DecodeError {
        DecodeError::Invalid {
            zone: self.zone,
            field,
            found,
            offset: self.at,
        }
    }

    #[cold]
    fn truncated(&self, needed: usize) -> DecodeError {
        DecodeError::Truncated {
            zone: self.zone,
            offset: self.bytes.len(),
            needed,
        }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when there are fewer.
    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let remaining = self.remaining();
        if count > remaining {
            return Err(self.truncated(count - remaining));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when there are fewer.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        match self.bytes.get(self.at) {
            Some(byte) => {
                self.at += 1;
                Ok(*byte)
            }
            None => Err(self.truncated(1)),
        }
    }

    /// Two bytes, little-endian.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A varint.
    ///
    /// # Errors
    /// [`DecodeError`] at the end, and for one that is longer than it must be or does not fit 64 bits.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        self.varint_rest(u64::from(first & 0x7f))
    }

    fn varint_rest(&mut self, mut value: u64) -> Result<u64, DecodeError> {
        for index in 1..VARINT_BYTES_MAX {
            let byte = self.u8()?;
            let last_index = index == VARINT_BYTES_MAX - 1;
            if byte == 0 || (last_index && byte > 1) {
                return Err(self.invalid_field("varint", u64::from(byte)));
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.invalid_field("varint", value))
    }

    /// A varint that counts bytes or things and may not be above `max`.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    #[inline]
    pub fn varint_at_most(
        &mut self,
        field: &'static str,
        max: usize,
    ) -> Result<usize, DecodeError> {
        let value = self.varint()?;
        match usize::try_from(value) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(self.invalid_field(field, value)),
        }
    }

    /// A text: its length in two bytes, then UTF-8.
    ///
    /// # Errors
    /// [`DecodeError`] when it is longer than the limit or not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, DecodeError> {
        let count = usize::from(self.u16()?);
        if count > TEXT_BYTES_MAX {
            return Err(self.invalid(count as u64));
        }
        let bytes = self.take(count)?;
        std::str::from_utf8(bytes).map_err(|error| self.invalid(error.valid_up_to() as u64))
    }

    /// `count` reserved bytes, which must be zero.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn zeros(&mut self, count: usize) -> Result<(), DecodeError> {
        match self.take(count)?.iter().find(|byte| **byte != 0) {
            Some(byte) => Err(self.invalid_field("reserved", u64::from(*byte))),
            None => Ok(()),
        }
    }

    /// The next byte, which stays.
    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`] when something is left.
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes {
                zone: self.zone,
                count,
            }),
        }
    }
}

/// Appends values to a vector, in the form in which [`Reader`] reads them.
pub trait Put {
    /// Two bytes, little-endian.
    fn put_u16(&mut self, value: u16);
    /// Four bytes, little-endian.
    fn put_u32(&mut self, value: u32);
    /// Eight bytes, little-endian.
    fn put_u64(&mut self, value: u64);
    /// A varint.
    fn put_varint(&mut self, value: u64);
    /// A text; what is longer than the limit is cut off at a character's boundary.
    fn put_text(&mut self, value: &str);
}

impl Put for Vec<u8> {
    #[inline]
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.push(value.to_le_bytes()[0]);
    }

    fn put_text(&mut self, value: &str) {
        let mut end = value.len().min(TEXT_BYTES_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        self.put_u16(u16::try_from(end).expect("texts are limited to less than 64 KiB"));
        self.extend_from_slice(&value.as_bytes()[..end]);
    }
}

/// Bytes of `value` as a varint.
#[inline]
pub fn varint_bytes(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Folds a signed difference into an unsigned number that is small when the difference is.
#[inline]
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The opposite of [`zigzag`].
#[inline]
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// A length as the four bytes in which formats keep it.
pub(crate) fn length_u32(count: usize) -> u32 {
    u32::try_from(count).expect("every length is bounded far below 4 GiB by the limits")
}

/// A length or offset as the two bytes in which pages and batches keep it.
pub(crate) fn length_u16(count: usize) -> u16 {
    u16::try_from(count).expect("bounded below 64 KiB by the limits")
}
