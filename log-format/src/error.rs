//! What a decoder says of bytes that it cannot take.

use thiserror::Error;

/// Bytes that are not what they should be. Decoders answer hostile input with this, never with a panic and
/// never with an allocation that the input has not paid for with its own length.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The input ended before the value did.
    #[error("{zone}: ends at byte {offset}, {needed} more needed")]
    Truncated {
        /// What was being read, for example `batch header`.
        zone: &'static str,
        /// Offset in the input at which reading stopped.
        offset: usize,
        /// Bytes that were missing, at least.
        needed: usize,
    },
    /// A checksum does not match.
    #[error("{zone}: checksum {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// What was being read.
        zone: &'static str,
        /// The checksum computed over the bytes found.
        found: u32,
        /// The checksum that the bytes claim.
        expected: u32,
    },
    /// A field holds a value that it may not have.
    #[error("{zone}: {field} is {found} at byte {offset}")]
    Invalid {
        /// What was being read.
        zone: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// Offset in the input.
        offset: usize,
    },
    /// The format version is not one that this build reads.
    #[error("{zone}: format version {found}, this build reads {supported}")]
    Version {
        /// What was being read.
        zone: &'static str,
        /// The version found.
        found: u16,
        /// The version that this build reads.
        supported: u16,
    },
    /// Bytes follow the value where none may.
    #[error("{zone}: {count} bytes follow the end")]
    TrailingBytes {
        /// What was being read.
        zone: &'static str,
        /// How many.
        count: usize,
    },
}
