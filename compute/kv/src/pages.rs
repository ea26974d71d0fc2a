//! Two lists of pages, each a stack kept in *trunk* pages: pages that are free, and what was dropped and is to be freed.
//!
//! | bytes of a trunk's body | field |
//! |---|---|
//! | 8 | head (see `overflow.rs`) |
//! | 8 | the trunk before this one, 0 = none |
//! | 8 each | entries |
//!
//! Every trunk but the last is full, so that the meta page's count says how far the last one is filled: taking an entry
//! writes the meta page only. *Free list:* entries are page ids, and a trunk is itself a free page: the first of its group.
//! *Dropped list:* the lower 56 bits of an entry are a page id, the upper 8 say what begins there (see [`Dropped`]); trunks
//! are pages in use. A free page is formatted as [`PageKind::Free`], so that nothing that still refers to it is believed.
//!
//! What an MTR puts on a list is kept aside and written at its end, a record for each trunk; what it takes back before costs
//! nothing. Old versions of a freed page stay readable at older read points, since a version is an LSN; so a page may be
//! used again at once.

use std::borrow::Cow;
use std::sync::Arc;

use sixfold_log_format::{Op, Page, PageId, PageKind};

use crate::draft::Draft;
use crate::overflow::{BODY_HEAD_BYTES, Body, ID_BYTES, chunk_bytes_max, write_body};
use crate::source::{KvError, PageSource, corrupt, fetch};

/// Bytes of a trunk's body before its entries.
const TRUNK_HEAD_BYTES: usize = BODY_HEAD_BYTES + ID_BYTES;
const KIND_SHIFT: u32 = 56;
const ID_MASK: u64 = (1 << KIND_SHIFT) - 1;
const VALUE_BIT: u8 = 0x80;

/// Entries in a full trunk.
pub const fn trunk_entries_max(page_bytes: usize) -> usize {
    (chunk_bytes_max(page_bytes) - ID_BYTES) / ID_BYTES
}

/// Something that left the tree whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// A subtree: its root's level and page. Number of the entry: the level.
    Tree(u8, PageId),
    /// Pages of a large value, this one and what it names: 0 = a value page, from 1 = an index page of that level. Number
    /// of the entry: 128 + the level.
    Value(u8, PageId),
}

impl Dropped {
    fn encode(self) -> u64 {
        let (kind, id) = match self {
            Dropped::Tree(level, id) => (level, id),
            Dropped::Value(level, id) => (VALUE_BIT | level, id),
        };
        assert!(id.get() <= ID_MASK, "page {id} is out of range");
        u64::from(kind) << KIND_SHIFT | id.get()
    }

    fn decode(entry: u64) -> Dropped {
        let id = PageId::new(entry & ID_MASK);
        let kind = u8::try_from(entry >> KIND_SHIFT).expect("8 bits");
        if kind & VALUE_BIT == 0 {
            Dropped::Tree(kind, id)
        } else {
            Dropped::Value(kind & !VALUE_BIT, id)
        }
    }

    /// The page at which it begins.
    pub fn page(self) -> PageId {
        match self {
            Dropped::Tree(_, id) | Dropped::Value(_, id) => id,
        }
    }
}

/// The free list as the MTR has left it.
pub(crate) struct FreeList {
    /// Pages of the durable list that are still on it, and its last trunk.
    kept: u64,
    head: PageId,
    /// Pages on top of them, which this MTR gave back.
    given: Vec<PageId>,
}

/// The dropped list as the MTR has left it.
pub(crate) struct DroppedList {
    kept: u64,
    head: PageId,
    given: Vec<Dropped>,
}

/// A trunk, checked: the trunk before it, and its entries.
fn trunk<S: PageSource>(tip: &S, id: PageId, body: Body) -> Result<(PageId, Arc<Page>), KvError> {
    let page = fetch(tip, id)?;
    body.of(&page, id)?;
    Ok((PageId::new(number(&page, BODY_HEAD_BYTES)), page))
}

/// Entry `index` of a trunk.
fn entry(page: &Page, index: usize) -> u64 {
    number(page, TRUNK_HEAD_BYTES + index * ID_BYTES)
}

fn number(page: &Page, at: usize) -> u64 {
    let mut bytes = [0; ID_BYTES];
    bytes.copy_from_slice(&page.body()[at..at + ID_BYTES]);
    u64::from_le_bytes(bytes)
}

/// Entries behind each other, from entry `index` on.
fn write_entries(index: usize, entries: impl Iterator<Item = u64>) -> Op<'static> {
    let at = TRUNK_HEAD_BYTES + index * ID_BYTES;
    Op::WriteBytes {
        offset: u16::try_from(at).expect("a body is short"),
        bytes: Cow::Owned(entries.flat_map(u64::to_le_bytes).collect()),
    }
}

/// Formats a page as a trunk with its first entries.
fn new_trunk<S: PageSource>(
    draft: &mut Draft<'_, '_, S>,
    (id, before): (PageId, PageId),
    body: Body,
    entries: impl Iterator<Item = u64>,
) {
    let format = Op::Init {
        kind: PageKind::Overflow,
        level: 0,
    };
    draft.push(id, format, false);
    let Op::WriteBytes { bytes: head, .. } = write_body(body, &[]) else {
        unreachable!("a body is written as bytes");
    };
    let mut bytes = head.into_owned();
    bytes.extend(before.get().to_le_bytes());
    bytes.extend(entries.flat_map(u64::to_le_bytes));
    let write = Op::WriteBytes {
        offset: 0,
        bytes: Cow::Owned(bytes),
    };
    draft.push(id, write, false);
}

/// Place and length of what the last of `kept` entries is in, with groups of `group`.
fn place(kept: u64, group: usize) -> usize {
    usize::try_from((kept - 1) % group as u64).expect("less than a group")
}

impl FreeList {
    pub(crate) fn new(head: PageId, kept: u64) -> FreeList {
        FreeList {
            kept,
            head,
            given: Vec::new(),
        }
    }

    /// Takes a page, if one is free. It is below `next_page`.
    pub(crate) fn take<S: PageSource>(
        &mut self,
        draft: &Draft<'_, '_, S>,
        next_page: PageId,
    ) -> Result<Option<PageId>, KvError> {
        if let Some(id) = self.given.pop() {
            return Ok(Some(id));
        }
        if self.kept == 0 {
            return Ok(None);
        }
        let head = self.head;
        let (before, page) = trunk(draft.tip, head, Body::FreeTrunk)?;
        let place = place(self.kept, 1 + trunk_entries_max(draft.page_bytes));
        if place > 0 {
            let id = PageId::new(entry(&page, place - 1));
            if id <= PageId::META || id >= next_page {
                return Err(corrupt(head, "the free list leads to no page"));
            }
            // Not fetched for this: but if it is at hand it has to be a free one.
            let held = draft.tip.page(id);
            if held.is_some_and(|page| page.kind() != PageKind::Free) {
                return Err(corrupt(id, "a page in use is on the free list"));
            }
            self.kept -= 1;
            return Ok(Some(id));
        }
        if before == PageId::META || before >= next_page || before == head {
            return Err(corrupt(head, "the free list leads to no page"));
        }
        if (before == PageId::NONE) != (self.kept == 1) {
            return Err(corrupt(
                head,
                "the free list has another length than its count",
            ));
        }
        self.kept -= 1;
        self.head = before;
        Ok(Some(head))
    }

    /// Puts a page on the list.
    pub(crate) fn give(&mut self, id: PageId) {
        self.given.push(id);
    }

    /// How many records [`FreeList::finish`] will add, at most.
    pub(crate) fn record_count(&self, page_bytes: usize) -> usize {
        self.given.len() + 2 * (2 + self.given.len() / (1 + trunk_entries_max(page_bytes)))
    }

    /// Writes what was given. Returns the last trunk and the number of free pages.
    pub(crate) fn finish<S: PageSource>(self, draft: &mut Draft<'_, '_, S>) -> (PageId, u64) {
        let group = 1 + trunk_entries_max(draft.page_bytes);
        let mut head = self.head;
        let mut count = self.kept;
        let mut given = &self.given[..];
        while !given.is_empty() {
            let filled = usize::try_from(count % group as u64).expect("less than a group");
            let (now, later) = given.split_at(given.len().min(group - filled));
            let listed = if filled == 0 {
                let entries = now[1..].iter().map(|id| id.get());
                new_trunk(draft, (now[0], head), Body::FreeTrunk, entries);
                head = now[0];
                &now[1..]
            } else {
                let entries = now.iter().map(|id| id.get());
                draft.push(head, write_entries(filled - 1, entries), false);
                now
            };
            for id in listed {
                let format = Op::Init {
                    kind: PageKind::Free,
                    level: 0,
                };
                draft.push(*id, format, false);
            }
            count += now.len() as u64;
            given = later;
        }
        (head, count)
    }
}

impl DroppedList {
    pub(crate) fn new(head: PageId, kept: u64) -> DroppedList {
        DroppedList {
            kept,
            head,
            given: Vec::new(),
        }
    }

    /// Puts something on the list.
    pub(crate) fn give(&mut self, dropped: Dropped) {
        self.given.push(dropped);
    }

    /// What would be taken next, up to `count_max` entries of this MTR's or of the last trunk.
    pub(crate) fn peek<S: PageSource>(
        &self,
        draft: &Draft<'_, '_, S>,
        count_max: usize,
    ) -> Result<Vec<Dropped>, KvError> {
        if !self.given.is_empty() {
            let newest = self.given.iter().rev().take(count_max);
            return Ok(newest.copied().collect());
        }
        if self.kept == 0 {
            return Ok(Vec::new());
        }
        let (_, page) = trunk(draft.tip, self.head, Body::DroppedTrunk)?;
        let last = place(self.kept, trunk_entries_max(draft.page_bytes));
        let newest = (0..=last).rev().take(count_max);
        Ok(newest
            .map(|index| Dropped::decode(entry(&page, index)))
            .collect())
    }

    /// Takes what was put on the list last. The second answer is a trunk that is no longer needed.
    pub(crate) fn take<S: PageSource>(
        &mut self,
        draft: &Draft<'_, '_, S>,
        next_page: PageId,
    ) -> Result<Option<(Dropped, Option<PageId>)>, KvError> {
        if let Some(dropped) = self.given.pop() {
            return Ok(Some((dropped, None)));
        }
        if self.kept == 0 {
            return Ok(None);
        }
        let head = self.head;
        let (before, page) = trunk(draft.tip, head, Body::DroppedTrunk)?;
        let place = place(self.kept, trunk_entries_max(draft.page_bytes));
        let dropped = Dropped::decode(entry(&page, place));
        if dropped.page() <= PageId::META || dropped.page() >= next_page {
            return Err(corrupt(head, "the dropped list leads to no page"));
        }
        self.kept -= 1;
        if place > 0 {
            return Ok(Some((dropped, None)));
        }
        if before == PageId::META || before >= next_page || before == head {
            return Err(corrupt(head, "the dropped list leads to no page"));
        }
        if (before == PageId::NONE) != (self.kept == 0) {
            return Err(corrupt(
                head,
                "the dropped list has another length than its count",
            ));
        }
        self.head = before;
        Ok(Some((dropped, Some(head))))
    }

    /// How many records [`DroppedList::finish`] will add, at most.
    pub(crate) fn record_count(&self, page_bytes: usize) -> usize {
        2 * (self.given.len() / trunk_entries_max(page_bytes) + 2)
    }

    /// How many trunks [`DroppedList::finish`] needs.
    pub(crate) fn trunks_needed(&self, page_bytes: usize) -> usize {
        let group = trunk_entries_max(page_bytes);
        let filled = usize::try_from(self.kept % group as u64).expect("less than a group");
        let room = if filled == 0 { 0 } else { group - filled };
        self.given.len().saturating_sub(room).div_ceil(group)
    }

    /// Writes what was given, into the last trunk and `trunks`. Returns the last trunk and the number of entries.
    pub(crate) fn finish<S: PageSource>(
        self,
        draft: &mut Draft<'_, '_, S>,
        trunks: Vec<PageId>,
    ) -> (PageId, u64) {
        let group = trunk_entries_max(draft.page_bytes);
        let mut trunks = trunks.into_iter();
        let mut head = self.head;
        let mut count = self.kept;
        let mut given = &self.given[..];
        while !given.is_empty() {
            let filled = usize::try_from(count % group as u64).expect("less than a group");
            let (now, later) = given.split_at(given.len().min(group - filled));
            let entries = now.iter().map(|dropped| dropped.encode());
            if filled == 0 {
                let id = trunks.next().expect("enough trunks were counted");
                new_trunk(draft, (id, head), Body::DroppedTrunk, entries);
                head = id;
            } else {
                draft.push(head, write_entries(filled, entries), false);
            }
            count += now.len() as u64;
            given = later;
        }
        (head, count)
    }
}
