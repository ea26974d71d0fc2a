//! A buffer that `O_DIRECT` takes, made without unsafe code.

use std::fmt;

/// Bytes whose first one stands at an address that is a multiple of [`IoBuf::ALIGN_BYTES`]. The length is fixed when it is made.
pub struct IoBuf {
    /// Never grows: it would move.
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl IoBuf {
    /// Alignment of the first byte: at least the block unit of every supported device.
    pub const ALIGN_BYTES: usize = 4096;

    /// A buffer of `len` zeros.
    pub fn zeroed(len: usize) -> IoBuf {
        let storage = vec![0; len + Self::ALIGN_BYTES];
        // Where the allocation happens to lie decides only how much of its head is skipped.
        let start = storage.as_ptr().align_offset(Self::ALIGN_BYTES);
        assert!(start + len <= storage.len());
        IoBuf {
            storage,
            start,
            len,
        }
    }

    /// A buffer with a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> IoBuf {
        // As `zeroed` does it, without writing each byte twice.
        let mut storage: Vec<u8> = Vec::with_capacity(bytes.len() + Self::ALIGN_BYTES);
        let start = storage.as_ptr().align_offset(Self::ALIGN_BYTES);
        let end = start.checked_add(bytes.len());
        assert!(end.is_some_and(|end| end <= storage.capacity()));
        storage.resize(start, 0);
        storage.extend_from_slice(bytes);
        IoBuf {
            storage,
            start,
            len: bytes.len(),
        }
    }
}

impl AsRef<[u8]> for IoBuf {
    fn as_ref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl AsMut<[u8]> for IoBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuf({} bytes)", self.len)
    }
}
