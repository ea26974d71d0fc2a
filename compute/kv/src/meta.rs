//! The meta page: where the tree begins, which pages are free, and which are to be freed.
//!
//! Body of page [`PageId::META`], little-endian, offsets from the end of the page header:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic, `6KV1` |
//! | 4 | 2 | version of the tree's format, 2 |
//! | 6 | 1 | height: levels of the tree, 1 = the root is a leaf |
//! | 7 | 1 | 0 |
//! | 8 | 8 | root page |
//! | 16 | 8 | next page: the lowest page id that was never used |
//! | 24 | 8 | last trunk of the free list, 0 = none |
//! | 32 | 8 | free pages, trunks included |
//! | 40 | 8 | last trunk of the dropped list, 0 = none |
//! | 48 | 8 | entries of the dropped list |
//!
//! It is changed by `WriteBytes` records only (and by clock records, which leave the body alone), and only the bytes
//! that differ cross the log.

use std::borrow::Cow;

use sixfold_log_format::{Op, Page, PageId, PageKind};

use crate::source::{KvError, corrupt};

/// Bytes of the body that are in use.
pub const META_BYTES: usize = 56;
/// Most levels that a tree can have. With at least two children a page it would hold 2^31 leaves; a taller one is damage.
pub const HEIGHT_MAX: u8 = 32;

const MAGIC: [u8; 4] = *b"6KV1";
const VERSION: u16 = 2;
/// Two differing runs of bytes that lie closer than this are written as one: a record costs about as much.
const RUN_GAP_BYTES: usize = 8;

/// What the meta page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Levels of the tree; 1 = the root is a leaf.
    pub height: u8,
    /// The root.
    pub root: PageId,
    /// The lowest page id that was never used.
    pub next_page: PageId,
    /// The last trunk of the free list; [`PageId::NONE`] when no page is free.
    pub free_head: PageId,
    /// How many pages are free, trunks included.
    pub free_count: u64,
    /// The last trunk of the dropped list; [`PageId::NONE`] when nothing is dropped.
    pub dropped_head: PageId,
    /// How many entries the dropped list has: whether [`plan_reclaim`](crate::plan_reclaim) has work.
    pub dropped_count: u64,
}

impl Meta {
    /// The meta page of an empty volume: page 2 is the root, an empty leaf.
    pub const CREATION: Meta = Meta {
        height: 1,
        root: PageId::new(2),
        next_page: PageId::new(3),
        free_head: PageId::NONE,
        free_count: 0,
        dropped_head: PageId::NONE,
        dropped_count: 0,
    };

    /// Reads the meta page.
    ///
    /// # Errors
    /// [`KvError::Corrupt`] when it is not one or contradicts itself.
    pub fn read(page: &Page) -> Result<Meta, KvError> {
        let bad = |what| Err(corrupt(PageId::META, what));
        if page.kind() != PageKind::Meta {
            return bad("not the meta page");
        }
        let Some(body) = page.body().first_chunk::<META_BYTES>() else {
            return bad("too short for the meta page");
        };
        if body[..4] != MAGIC || body[4..6] != VERSION.to_le_bytes() || body[7] != 0 {
            return bad("not a tree that this build reads");
        }
        let meta = Meta {
            height: body[6],
            root: PageId::new(number(body, 8)),
            next_page: PageId::new(number(body, 16)),
            free_head: PageId::new(number(body, 24)),
            free_count: number(body, 32),
            dropped_head: PageId::new(number(body, 40)),
            dropped_count: number(body, 48),
        };
        if !(1..=HEIGHT_MAX).contains(&meta.height) {
            return bad("height out of range");
        }
        if meta.root <= PageId::META || meta.root >= meta.next_page {
            return bad("root out of range");
        }
        let lists = [
            (meta.free_head, meta.free_count),
            (meta.dropped_head, meta.dropped_count),
        ];
        for (head, count) in lists {
            if head >= meta.next_page || head == PageId::META {
                return bad("a trunk out of range");
            }
            // Nothing is listed twice, so that a list is never longer than there are pages.
            if (head == PageId::NONE) != (count == 0) || count >= meta.next_page.get() {
                return bad("a list of impossible length");
            }
        }
        Ok(meta)
    }

    /// The body that says this.
    pub fn encode(&self) -> [u8; META_BYTES] {
        let mut body = [0; META_BYTES];
        body[..4].copy_from_slice(&MAGIC);
        body[4..6].copy_from_slice(&VERSION.to_le_bytes());
        body[6] = self.height;
        let numbers = [
            self.root.get(),
            self.next_page.get(),
            self.free_head.get(),
            self.free_count,
            self.dropped_head.get(),
            self.dropped_count,
        ];
        for (field, value) in body[8..].chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        body
    }

    /// The level of the root.
    pub fn root_level(&self) -> u8 {
        self.height - 1
    }

    /// The operations that turn this meta page into `after`: a write for each run of bytes that differ.
    pub(crate) fn changes(&self, after: &Meta) -> Vec<Op<'static>> {
        if self == after {
            return Vec::new();
        }
        let (old, new) = (self.encode(), after.encode());
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for at in (0..META_BYTES).filter(|at| old[*at] != new[*at]) {
            match runs.last_mut() {
                Some((_, end)) if at < *end + RUN_GAP_BYTES => *end = at + 1,
                _ => runs.push((at, at + 1)),
            }
        }
        let write = |(start, end): (usize, usize)| Op::WriteBytes {
            offset: u16::try_from(start).expect("the body is short"),
            bytes: Cow::Owned(new[start..end].to_vec()),
        };
        runs.into_iter().map(write).collect()
    }
}

/// The root page that a meta page names.
///
/// # Errors
/// As [`Meta::read`].
pub fn root(page: &Page) -> Result<PageId, KvError> {
    Ok(Meta::read(page)?.root)
}

/// The levels of the tree that a meta page tells of.
///
/// # Errors
/// As [`Meta::read`].
pub fn height(page: &Page) -> Result<u8, KvError> {
    Ok(Meta::read(page)?.height)
}

/// The lowest page id that was never used.
///
/// # Errors
/// As [`Meta::read`].
pub fn next_page(page: &Page) -> Result<PageId, KvError> {
    Ok(Meta::read(page)?.next_page)
}

fn number(body: &[u8; META_BYTES], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&body[at..at + 8]);
    u64::from_le_bytes(bytes)
}
