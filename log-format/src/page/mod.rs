//! The page: a slotted block of bytes.
//!
//! ```text
//! | header, 48 bytes | slots -> |      free      | <- cells |      leaf and inner pages
//! | header, 48 bytes | body                                |      meta and overflow pages
//! ```
//!
//! `FORMAT.md` has the tables. What is read here is public; what changes a page is private to the crate, since
//! [`crate::apply()`] is the only code that does. Bytes that no cell uses are always zero, so that what was deleted
//! is gone, and a page that was compacted equals the one that is built from its image.

mod cells;
mod check;

pub(crate) use check::CHILD_BYTES;

use crate::checksum::checksum;
use crate::error::DecodeError;
use crate::id::PageId;
use crate::limits::{PAGE_BYTES_MAX, PAGE_BYTES_MIN};
use crate::lsn::Lsn;
use crate::record::{Cell, CellFlags};

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageKind {
    /// Never written, or given back: holds nothing.
    Free,
    /// The volume's meta page.
    Meta,
    /// A leaf of the tree: keys and values.
    Leaf,
    /// An inner page of the tree: separators and children.
    Inner,
    /// A part of a large value, in the body area.
    Overflow,
}

impl PageKind {
    /// Its number in pages and records.
    pub const fn code(self) -> u8 {
        match self {
            PageKind::Free => 0,
            PageKind::Meta => 1,
            PageKind::Leaf => 2,
            PageKind::Inner => 3,
            PageKind::Overflow => 4,
        }
    }

    /// The kind with this number.
    pub const fn from_code(code: u8) -> Option<PageKind> {
        match code {
            0 => Some(PageKind::Free),
            1 => Some(PageKind::Meta),
            2 => Some(PageKind::Leaf),
            3 => Some(PageKind::Inner),
            4 => Some(PageKind::Overflow),
            _ => None,
        }
    }

    /// Whether it holds cells.
    pub const fn has_cells(self) -> bool {
        matches!(self, PageKind::Leaf | PageKind::Inner)
    }

    /// Whether it has a body area that [`crate::Op::WriteBytes`] writes.
    pub const fn has_body(self) -> bool {
        matches!(self, PageKind::Meta | PageKind::Overflow)
    }

    /// Whether a page of this kind may have this level: inner pages lie above the leaves, all others at 0.
    pub const fn allows_level(self, level: u8) -> bool {
        (level > 0) == matches!(self, PageKind::Inner)
    }
}

/// A page in memory. Its checksum is only computed for wire and disk.
#[derive(PartialEq, Eq)]
pub struct Page {
    bytes: Box<[u8]>,
}

impl Clone for Page {
    fn clone(&self) -> Page {
        Page {
            bytes: self.bytes.clone(),
        }
    }

    /// Takes the memory that is there, when it has the same size, and copies what is used of a page with cells: between slots
    /// and cells there are zeros in both.
    fn clone_from(&mut self, other: &Page) {
        let have_cells = self.kind().has_cells() && other.kind().has_cells();
        if !have_cells || self.bytes.len() != other.bytes.len() {
            return self.bytes.clone_from(&other.bytes);
        }
        let (slots_end, heap_start) = (other.slots_end(), other.heap_start());
        let (old_slots_end, old_heap_start) = (self.slots_end(), self.heap_start());
        self.bytes[..slots_end].copy_from_slice(&other.bytes[..slots_end]);
        self.bytes[heap_start..].copy_from_slice(&other.bytes[heap_start..]);
        if old_slots_end > slots_end {
            self.bytes[slots_end..old_slots_end.min(heap_start)].fill(0);
        }
        if old_heap_start < heap_start {
            self.bytes[old_heap_start.max(slots_end)..heap_start].fill(0);
        }
    }
}

/// A cell as it stands in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCell<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value, reference or child.
    pub value: &'a [u8],
    /// The commit that put it; [`Lsn::NONE`] in inner pages.
    pub stamp: Lsn,
    /// Its flags.
    pub flags: CellFlags,
    /// Its deadline, wall-clock milliseconds.
    pub deadline_ms: Option<u64>,
}

/// Bytes of the page header.
pub const PAGE_HEADER_BYTES: usize = 48;
/// Bytes that a cell takes in a page beside key, value and deadline: slot, flags, lengths and stamp.
pub const CELL_OVERHEAD_BYTES: usize = SLOT_BYTES + CELL_HEADER_BYTES;
/// Bytes of a deadline in a cell.
pub const DEADLINE_BYTES: usize = 8;
/// Bytes of a slot: the offset of its cell.
pub const SLOT_BYTES: usize = 2;
/// Bytes of a cell before deadline, key and value: flags, key length, value length, stamp.
pub const CELL_HEADER_BYTES: usize = 1 + 2 + 2 + 8;

const CHECKSUM_AT: usize = 0;
const KIND_AT: usize = 4;
const LEVEL_AT: usize = 5;
const CELL_COUNT_AT: usize = 6;
const ID_AT: usize = 8;
const LSN_AT: usize = 16;
const CLOCK_AT: usize = 24;
const HEAP_START_AT: usize = 32;
const FRAGMENTED_AT: usize = 34;
const RESERVED_AT: usize = 36;

impl Page {
    /// The page `id` before its first record: kind [`PageKind::Free`], LSN 0.
    ///
    /// # Panics
    /// When `page_bytes` is not a power of two within the limits.
    pub fn new(id: PageId, page_bytes: usize) -> Page {
        assert!(
            page_bytes.is_power_of_two() && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes),
            "a page of {page_bytes} bytes"
        );
        let mut page = Page {
            bytes: vec![0; page_bytes].into_boxed_slice(),
        };
        page.set_u64(ID_AT, id.get());
        page
    }

    /// Takes a page from wire or disk: checks size, id, checksum and structure (every slot and cell in bounds).
    ///
    /// # Errors
    /// [`DecodeError`] when it is not a sound page `id` of `page_bytes` bytes.
    pub fn decode(bytes: &[u8], id: PageId, page_bytes: usize) -> Result<Page, DecodeError> {
        if bytes.len() != page_bytes
            || !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes)
            || !page_bytes.is_power_of_two()
        {
            return Err(check::invalid("length", bytes.len() as u64, 0));
        }
        let mut page = Page {
            bytes: bytes.into(),
        };
        let expected = page.u32(CHECKSUM_AT);
        let found = page.checksum();
        if found != expected {
            return Err(DecodeError::Checksum {
                zone: "page",
                found,
                expected,
            });
        }
        page.bytes[CHECKSUM_AT..KIND_AT].fill(0);
        if page.id() != id {
            return Err(check::invalid("id", page.id().get(), ID_AT));
        }
        page.check()?;
        Ok(page)
    }

    /// The page's bytes with the checksum filled in, for wire or disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.bytes.to_vec();
        bytes[CHECKSUM_AT..KIND_AT].copy_from_slice(&self.checksum().to_le_bytes());
        bytes
    }

    fn checksum(&self) -> u32 {
        checksum(&[], &self.bytes[KIND_AT..])
    }

    /// The page without the free space between slots and cells: what [`crate::record::Op::Image`] carries. Fragments are
    /// left out too, and so are the zeros at the end of a body.
    pub fn image(&self) -> Vec<u8> {
        if !self.kind().has_cells() {
            let used = self
                .bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            return self.bytes[..used.max(PAGE_HEADER_BYTES)].to_vec();
        }
        if self.fragmented_bytes() > 0 {
            let mut compact = self.clone();
            compact.compact();
            return compact.image();
        }
        [
            &self.bytes[..self.slots_end()],
            &self.bytes[self.heap_start()..],
        ]
        .concat()
    }

    /// The page without its free space and nothing else: fragments stay where they are, so that [`Page::unpack`] gives
    /// back the same bytes. What the images of layers hold; a page that was compacted on one segment and not on another
    /// would differ from the writer's.
    pub fn pack(&self) -> Vec<u8> {
        if !self.kind().has_cells() {
            return self.image();
        }
        [
            &self.bytes[..self.slots_end()],
            &self.bytes[self.heap_start()..],
        ]
        .concat()
    }

    /// The page `id` of `page_bytes` bytes that was packed, checked as one from disk is.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not a sound page.
    pub fn unpack(packed: &[u8], id: PageId, page_bytes: usize) -> Result<Page, DecodeError> {
        if !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes) || !page_bytes.is_power_of_two()
        {
            return Err(check::invalid("length", page_bytes as u64, 0));
        }
        Page::from_image(packed, id, page_bytes)
    }

    /// Its size in bytes.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
    /// Its id.
    #[inline]
    pub fn id(&self) -> PageId {
        PageId::new(self.u64(ID_AT))
    }
    /// LSN of the last record applied to it.
    pub fn lsn(&self) -> Lsn {
        Lsn::new(self.u64(LSN_AT))
    }
    /// Whether no record was ever applied to it.
    pub fn is_fresh(&self) -> bool {
        self.lsn().is_none()
    }
    /// What it is.
    #[inline]
    pub fn kind(&self) -> PageKind {
        PageKind::from_code(self.bytes[KIND_AT]).expect("the kind was checked when it was set")
    }
    /// Distance from the leaves.
    #[inline]
    pub fn level(&self) -> u8 {
        self.bytes[LEVEL_AT]
    }
    /// The clock as of this version of the meta page, wall-clock milliseconds; 0 elsewhere.
    pub fn clock_ms(&self) -> u64 {
        self.u64(CLOCK_AT)
    }
    /// How many cells it holds.
    #[inline]
    pub fn cell_count(&self) -> u16 {
        self.u16(CELL_COUNT_AT)
    }
    /// The cells, in the order of their slots.
    pub fn cells(&self) -> impl DoubleEndedIterator<Item = PageCell<'_>> + ExactSizeIterator {
        (0..self.cell_count()).map(|slot| self.cell(slot))
    }
    /// The body area of meta and overflow pages: everything behind the header.
    pub fn body(&self) -> &[u8] {
        &self.bytes[PAGE_HEADER_BYTES..]
    }
    /// Bytes that `cell` would take of [`Page::free_bytes`], slot included.
    pub fn cell_bytes(cell: &Cell<'_>) -> usize {
        SLOT_BYTES + cells::heap_bytes(cell)
    }
    /// Bytes of [`Page::free_bytes`] in an empty page.
    pub fn capacity_bytes(page_bytes: usize) -> usize {
        page_bytes - PAGE_HEADER_BYTES
    }

    #[inline]
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    #[inline]
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    #[inline]
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[at..at + N]);
        array
    }

    fn set_u16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set_u64(&mut self, at: usize, value: u64) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn set_lsn(&mut self, lsn: Lsn) {
        self.set_u64(LSN_AT, lsn.get());
    }

    pub(crate) fn set_clock_ms(&mut self, clock_ms: u64) {
        self.set_u64(CLOCK_AT, clock_ms);
    }

    pub(crate) fn body_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[PAGE_HEADER_BYTES..]
    }

    /// Makes it an empty page of `kind`, with LSN 0.
    pub(crate) fn format(&mut self, kind: PageKind, level: u8) {
        let id = self.id();
        self.bytes.fill(0);
        self.set_u64(ID_AT, id.get());
        self.bytes[KIND_AT] = kind.code();
        self.bytes[LEVEL_AT] = level;
        if kind.has_cells() {
            let heap_start = crate::codec::length_u16(self.bytes.len());
            self.set_u16(HEAP_START_AT, heap_start);
        }
    }

    /// The page `id` of `page_bytes` bytes that `image` describes, checked as a page from disk is.
    pub(crate) fn from_image(
        image: &[u8],
        id: PageId,
        page_bytes: usize,
    ) -> Result<Page, DecodeError> {
        if !(PAGE_HEADER_BYTES..=page_bytes).contains(&image.len()) {
            return Err(check::invalid("image length", image.len() as u64, 0));
        }
        let mut page = Page {
            bytes: vec![0; page_bytes].into_boxed_slice(),
        };
        page.bytes[..PAGE_HEADER_BYTES].copy_from_slice(&image[..PAGE_HEADER_BYTES]);
        if page.id() != id || page.u32(CHECKSUM_AT) != 0 {
            return Err(check::invalid("id", page.id().get(), ID_AT));
        }
        let kind = page.check_header()?;
        if kind.has_cells() {
            let (slots_end, heap_start) = (page.slots_end(), page.heap_start());
            if image.len() != slots_end + (page_bytes - heap_start) {
                return Err(check::invalid("image length", image.len() as u64, 0));
            }
            let (slots, heap) = image[PAGE_HEADER_BYTES..].split_at(slots_end - PAGE_HEADER_BYTES);
            page.bytes[PAGE_HEADER_BYTES..slots_end].copy_from_slice(slots);
            page.bytes[heap_start..].copy_from_slice(heap);
        } else {
            page.bytes[..image.len()].copy_from_slice(image);
        }
        page.check()?;
        Ok(page)
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Page({}@{}, {:?}, {} cells)",
            self.id(),
            self.lsn(),
            self.kind(),
            self.cell_count()
        )
    }
}
