//! Large values: a chain of overflow pages, and free pages, which are linked in the same way.
//!
//! | bytes of an overflow page's body | field |
//! |---|---|
//! | 8 | next page of the chain, 0 = none |
//! | 4 | value bytes in this page |
//! | rest | value bytes |
//!
//! | bytes of a reference in a leaf cell | field |
//! |---|---|
//! | 8 | first page |
//! | 8 | last page |
//! | 4 | length of the whole value |
//!
//! The last page is named so that a whole chain goes to the free list with one small write, whatever its length: its
//! end is linked to the list's head. A free page is an overflow page of which only the link counts.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use sixfold_log_format::limits::{INLINE_VALUE_SHARE, VALUE_BYTES_MAX};
use sixfold_log_format::{Op, Page, PageId, PageKind};

use crate::source::{KvError, PageSource, corrupt, fetch};

/// Bytes of a page's body before the value's.
pub const CHUNK_HEADER_BYTES: usize = 12;
/// Bytes of a reference.
pub const REFERENCE_BYTES: usize = 20;

/// Longest value that a leaf cell holds itself, bytes.
pub fn inline_bytes_max(page_bytes: usize) -> usize {
    page_bytes / INLINE_VALUE_SHARE
}

/// Value bytes in a full overflow page.
pub fn chunk_bytes_max(page_bytes: usize) -> usize {
    Page::capacity_bytes(page_bytes) - CHUNK_HEADER_BYTES
}

/// Where a large value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Its first page.
    pub first: PageId,
    /// Its last page.
    pub last: PageId,
    /// Its length in bytes.
    pub len_bytes: u32,
}

impl Reference {
    /// Reads a reference from a leaf cell of `leaf`.
    ///
    /// # Errors
    /// [`KvError::Corrupt`] when it is not one or names a length that no value has.
    pub fn read(value: &[u8], leaf: PageId) -> Result<Reference, KvError> {
        if value.len() != REFERENCE_BYTES {
            return Err(corrupt(leaf, "a reference of wrong length"));
        }
        let mut len_bytes = [0; 4];
        len_bytes.copy_from_slice(&value[16..]);
        let reference = Reference {
            first: page_id(value, 0),
            last: page_id(value, 8),
            len_bytes: u32::from_le_bytes(len_bytes),
        };
        if !(1..=VALUE_BYTES_MAX).contains(&(reference.len_bytes as usize)) {
            return Err(corrupt(leaf, "a reference to a value of impossible length"));
        }
        if reference.first <= PageId::META || reference.last <= PageId::META {
            return Err(corrupt(leaf, "a reference to no page"));
        }
        Ok(reference)
    }

    /// The bytes of the leaf cell's value.
    pub fn encode(&self) -> [u8; REFERENCE_BYTES] {
        let mut bytes = [0; REFERENCE_BYTES];
        bytes[..8].copy_from_slice(&self.first.get().to_le_bytes());
        bytes[8..16].copy_from_slice(&self.last.get().to_le_bytes());
        bytes[16..].copy_from_slice(&self.len_bytes.to_le_bytes());
        bytes
    }

    /// How many pages the value takes.
    pub fn page_count(&self, page_bytes: usize) -> usize {
        (self.len_bytes as usize).div_ceil(chunk_bytes_max(page_bytes))
    }
}

/// The value behind a reference.
///
/// # Errors
/// [`KvError`]; every page, length and the chain's end are checked.
pub(crate) fn read(source: &impl PageSource, reference: Reference) -> Result<Bytes, KvError> {
    let len_bytes = reference.len_bytes as usize;
    // The first page is there before memory for the whole is taken.
    let mut page = fetch_overflow(source, reference.first)?;
    let mut value = Vec::with_capacity(len_bytes);
    loop {
        let chunk = chunk(&page)?;
        if chunk.is_empty() || chunk.len() > len_bytes - value.len() {
            return Err(corrupt(page.id(), "value bytes of wrong length"));
        }
        value.extend_from_slice(chunk);
        if value.len() == len_bytes {
            break;
        }
        page = fetch_overflow(source, link(&page))?;
    }
    if page.id() != reference.last {
        return Err(corrupt(page.id(), "a chain ends at another page"));
    }
    Ok(Bytes::from(value))
}

/// The page, which must be an overflow page.
pub(crate) fn fetch_overflow(source: &impl PageSource, id: PageId) -> Result<Arc<Page>, KvError> {
    if id <= PageId::META {
        return Err(corrupt(id, "a chain leads to no page"));
    }
    let page = fetch(source, id)?;
    if page.kind() != PageKind::Overflow || page.id() != id {
        return Err(corrupt(id, "a chain leads to a page of another kind"));
    }
    Ok(page)
}

/// The next page of a chain or of the free list.
pub(crate) fn link(page: &Page) -> PageId {
    page_id(page.body(), 0)
}

/// The operation that links an overflow page to `next`.
pub(crate) fn write_link(next: PageId) -> Op<'static> {
    Op::WriteBytes {
        offset: 0,
        bytes: Cow::Owned(next.get().to_le_bytes().to_vec()),
    }
}

/// The operation that fills an overflow page.
pub(crate) fn write_chunk(next: PageId, chunk: &[u8]) -> Op<'static> {
    let len_bytes = u32::try_from(chunk.len()).expect("a chunk is shorter than a page");
    let bytes = [
        &next.get().to_le_bytes()[..],
        &len_bytes.to_le_bytes(),
        chunk,
    ]
    .concat();
    Op::WriteBytes {
        offset: 0,
        bytes: Cow::Owned(bytes),
    }
}

fn chunk(page: &Page) -> Result<&[u8], KvError> {
    let (header, rest) = page.body().split_at(CHUNK_HEADER_BYTES);
    let mut len_bytes = [0; 4];
    len_bytes.copy_from_slice(&header[8..]);
    rest.get(..u32::from_le_bytes(len_bytes) as usize)
        .ok_or_else(|| corrupt(page.id(), "value bytes of impossible length"))
}

fn page_id(bytes: &[u8], at: usize) -> PageId {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    PageId::new(u64::from_le_bytes(number))
}
