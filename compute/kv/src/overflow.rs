//! Large values, and what stands in pages that are not of the tree.
//!
//! A large value lies in *value pages*. The leaf cell names them itself when they are few; else it names *index pages*,
//! which name the value pages, on as many levels as it takes. So every page of a value can be fetched at once, after the few
//! of its index.
//!
//! | bytes of a body | field |
//! |---|---|
//! | 1 | what it is: 1 value page, 2 index page, 3 trunk of the free list, 4 trunk of the dropped list |
//! | 3 | value page: its place in the value, from 0; index page: its level, from 1; else 0 |
//! | 4 | value and index page: bytes behind this head that count; else 0 |
//! | rest | value bytes; page ids; or what `pages.rs` says |
//!
//! | bytes of a reference in a leaf cell | field |
//! |---|---|
//! | 4 | length of the whole value |
//! | 1 | level of the pages named: 0 = value pages |
//! | 3 | 0 |
//! | 8 each | the pages named |

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use sixfold_log_format::limits::{INLINE_VALUE_SHARE, PAGE_BYTES_MIN, VALUE_BYTES_MAX};
use sixfold_log_format::page::PAGE_HEADER_BYTES;
use sixfold_log_format::{Op, Page, PageId, PageKind};

use crate::source::{KvError, MISS_PAGES_MAX, PageSource, corrupt};

/// Bytes of a body before what it holds.
pub const BODY_HEAD_BYTES: usize = 8;
/// Bytes of a page id.
pub const ID_BYTES: usize = 8;
/// Bytes of a reference before the page ids.
pub const REFERENCE_HEAD_BYTES: usize = 8;
/// Most pages that a leaf cell names. A value of so many is given back page by page, in the MTR that lets go of it.
pub const REFERENCE_IDS_MAX: usize = 16;
/// Most index levels; enough for the longest value in the smallest pages.
const INDEX_LEVEL_MAX: u8 = 3;

const SMALLEST_INDEX_IDS: usize = index_ids_max(PAGE_BYTES_MIN);
const _: () = assert!(
    reference_ids_max(PAGE_BYTES_MIN) * SMALLEST_INDEX_IDS.pow(INDEX_LEVEL_MAX as u32)
        >= VALUE_BYTES_MAX.div_ceil(chunk_bytes_max(PAGE_BYTES_MIN))
);
// A value page's place takes 3 bytes.
const _: () = assert!(VALUE_BYTES_MAX.div_ceil(chunk_bytes_max(PAGE_BYTES_MIN)) < 1 << 24);

/// What a page that is not of the tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// A part of a large value: its place in it.
    Value { place: u32 },
    /// Ids of a large value's pages.
    Index { level: u8 },
    /// A trunk of the free list.
    FreeTrunk,
    /// A trunk of the dropped list.
    DroppedTrunk,
}

impl Body {
    /// The head of a body with `len_bytes` behind it.
    pub(crate) fn head(self, len_bytes: usize) -> [u8; BODY_HEAD_BYTES] {
        let (tag, detail) = match self {
            Body::Value { place } => (1, place),
            Body::Index { level } => (2, u32::from(level)),
            Body::FreeTrunk => (3, 0),
            Body::DroppedTrunk => (4, 0),
        };
        let len_bytes = u32::try_from(len_bytes).expect("a body is short");
        let [a, b, c, _] = detail.to_le_bytes();
        let [d, e, f, g] = len_bytes.to_le_bytes();
        [tag, a, b, c, d, e, f, g]
    }

    /// The bytes behind the head of `page`, which must be just this.
    pub(crate) fn of(self, page: &Page, id: PageId) -> Result<&[u8], KvError> {
        if page.kind() != PageKind::Overflow || page.id() != id {
            return Err(corrupt(id, "another kind than what refers to it says"));
        }
        let Some((head, rest)) = page.body().split_at_checked(BODY_HEAD_BYTES) else {
            return Err(corrupt(id, "too short for its head"));
        };
        let len_bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if self.head(0)[..4] != head[..4] {
            return Err(corrupt(id, "another use than what refers to it says"));
        }
        rest.get(..len_bytes as usize)
            .ok_or_else(|| corrupt(id, "a body of impossible length"))
    }
}

/// Longest value that a leaf cell holds itself, bytes.
pub const fn inline_bytes_max(page_bytes: usize) -> usize {
    page_bytes / INLINE_VALUE_SHARE
}

/// Value bytes in a full value page.
pub const fn chunk_bytes_max(page_bytes: usize) -> usize {
    page_bytes - PAGE_HEADER_BYTES - BODY_HEAD_BYTES
}

/// Page ids in a full index page.
pub const fn index_ids_max(page_bytes: usize) -> usize {
    chunk_bytes_max(page_bytes) / ID_BYTES
}

/// Page ids in a reference.
pub const fn reference_ids_max(page_bytes: usize) -> usize {
    let room = (inline_bytes_max(page_bytes) - REFERENCE_HEAD_BYTES) / ID_BYTES;
    if room < REFERENCE_IDS_MAX {
        room
    } else {
        REFERENCE_IDS_MAX
    }
}

/// Where a large value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its length in bytes.
    pub len_bytes: u32,
    /// Level of the pages named: 0 = value pages.
    pub level: u8,
    /// The pages named.
    pub ids: Vec<PageId>,
}

impl Reference {
    /// Reads a reference from a leaf cell of `leaf`.
    ///
    /// # Errors
    /// [`KvError::Corrupt`] when it is not one or contradicts itself.
    pub fn read(value: &[u8], leaf: &Page) -> Result<Reference, KvError> {
        let bad = |what| Err(corrupt(leaf.id(), what));
        let len_bytes = Reference::len_bytes(value, leaf.id())?;
        let (head, rest) = value.split_at(REFERENCE_HEAD_BYTES);
        let (level, id_count) = shape(len_bytes as usize, leaf.len_bytes());
        if head[4..] != [level, 0, 0, 0] || rest.len() != id_count * ID_BYTES {
            return bad("a reference of wrong shape");
        }
        let Some(ids) = ids_of(rest) else {
            return bad("a reference to no page");
        };
        Ok(Reference {
            len_bytes,
            level,
            ids,
        })
    }

    /// The length that a reference in a cell of `leaf` tells of.
    pub(crate) fn len_bytes(value: &[u8], leaf: PageId) -> Result<u32, KvError> {
        let Some(head) = value.first_chunk::<REFERENCE_HEAD_BYTES>() else {
            return Err(corrupt(leaf, "a reference of wrong length"));
        };
        let len_bytes = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        if (1..=VALUE_BYTES_MAX).contains(&(len_bytes as usize)) {
            Ok(len_bytes)
        } else {
            Err(corrupt(leaf, "a reference to a value of impossible length"))
        }
    }

    /// The bytes of the leaf cell's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.len_bytes.to_le_bytes().to_vec();
        bytes.extend([self.level, 0, 0, 0]);
        bytes.extend(ids_bytes(&self.ids));
        bytes
    }
}

/// Level and number of the pages that the reference to a value of this length names.
pub(crate) fn shape(len_bytes: usize, page_bytes: usize) -> (u8, usize) {
    let mut level = 0;
    let mut count = len_bytes.div_ceil(chunk_bytes_max(page_bytes));
    while count > reference_ids_max(page_bytes) {
        level += 1;
        assert!(level <= INDEX_LEVEL_MAX, "a value of {len_bytes} bytes");
        count = count.div_ceil(index_ids_max(page_bytes));
    }
    (level, count)
}

/// Page ids one after another; `None` when one of them is no page.
pub(crate) fn ids_of(bytes: &[u8]) -> Option<Vec<PageId>> {
    let (ids, rest) = bytes.as_chunks::<ID_BYTES>();
    let ids = ids.iter().map(|id| PageId::new(u64::from_le_bytes(*id)));
    let ids: Vec<PageId> = ids.collect();
    (rest.is_empty() && ids.iter().all(|id| *id > PageId::META)).then_some(ids)
}

/// The bytes of page ids one after another.
pub(crate) fn ids_bytes(ids: &[PageId]) -> impl Iterator<Item = u8> {
    ids.iter().flat_map(|id| id.get().to_le_bytes())
}

/// The operation that writes a whole body.
pub(crate) fn write_body(body: Body, content: &[u8]) -> Op<'static> {
    Op::WriteBytes {
        offset: 0,
        bytes: Cow::Owned([&body.head(content.len())[..], content].concat()),
    }
}

/// The ids that an index page holds.
pub(crate) fn index_ids(page: &Page, id: PageId, level: u8) -> Result<Vec<PageId>, KvError> {
    let ids = ids_of(Body::Index { level }.of(page, id)?);
    ids.ok_or_else(|| corrupt(id, "an index of no pages"))
}

/// The value behind a reference.
///
/// # Errors
/// [`KvError`]; every page is checked. A miss names all pages that can be known, up to [`MISS_PAGES_MAX`].
pub(crate) fn read(source: &impl PageSource, reference: &Reference) -> Result<Bytes, KvError> {
    let pages = pages_of(source, reference)?;
    // Every page is there before memory for the whole is taken.
    let len_bytes = reference.len_bytes as usize;
    let mut value = Vec::with_capacity(len_bytes);
    for (place, (page, id)) in (0..).zip(&pages) {
        let chunk = Body::Value { place }.of(page, *id)?;
        let expected = chunk_bytes_max(page.len_bytes()).min(len_bytes - value.len());
        if chunk.len() != expected {
            return Err(corrupt(*id, "value bytes of wrong length"));
        }
        value.extend_from_slice(chunk);
    }
    if value.len() != len_bytes {
        let last = pages.last().map_or(PageId::NONE, |(_, id)| *id);
        return Err(corrupt(last, "a value ends early"));
    }
    Ok(Bytes::from(value))
}

/// Whether all pages of the value are at hand; if not, those that are known to be needed.
pub(crate) fn missing(source: &impl PageSource, reference: &Reference) -> Result<(), KvError> {
    pages_of(source, reference).map(drop)
}

type Pages = Vec<(Arc<Page>, PageId)>;

/// The value pages, in order.
fn pages_of(source: &impl PageSource, reference: &Reference) -> Result<Pages, KvError> {
    let mut pages = all_at_hand(source, &reference.ids)?;
    for level in (1..=reference.level).rev() {
        let mut ids = Vec::with_capacity(pages.len());
        for (page, id) in &pages {
            ids.extend(index_ids(page, *id, level)?);
        }
        if ids.len() > VALUE_BYTES_MAX.div_ceil(chunk_bytes_max(PAGE_BYTES_MIN)) {
            return Err(corrupt(reference.ids[0], "an index of too many pages"));
        }
        pages = all_at_hand(source, &ids)?;
    }
    Ok(pages)
}

fn all_at_hand(source: &impl PageSource, ids: &[PageId]) -> Result<Pages, KvError> {
    let mut missing = Vec::new();
    let mut pages = Vec::with_capacity(ids.len());
    for id in ids {
        match source.page(*id) {
            Some(page) => pages.push((page, *id)),
            None if missing.len() < MISS_PAGES_MAX && !missing.contains(id) => missing.push(*id),
            None => {}
        }
    }
    if missing.is_empty() {
        Ok(pages)
    } else {
        Err(KvError::Miss(missing))
    }
}
