//! Slots and cells of a page: looking them up, and the primitive changes that `apply` is made of.
//!
//! The primitives take arguments that `apply` has checked; they assert and never fail half-way.

use super::{
    CELL_COUNT_AT, CELL_HEADER_BYTES, DEADLINE_BYTES, FRAGMENTED_AT, HEAP_START_AT,
    PAGE_HEADER_BYTES, Page, PageCell, SLOT_BYTES,
};
use crate::codec::length_u16;
use crate::limits::PAGE_BYTES_MAX;
use crate::lsn::Lsn;
use crate::record::{Cell, CellFlags};

/// How far behind the header the byte lies that [`Page::warm`] loads: about the middle of the slots of a page whose cells
/// have a hundred bytes.
const SLOTS_WARMED_BYTES: usize = 64;

/// Bytes that `cell` takes among the cells, its slot not counted.
pub(super) fn heap_bytes(cell: &Cell<'_>) -> usize {
    let deadline_bytes = if cell.deadline_ms.is_some() {
        DEADLINE_BYTES
    } else {
        0
    };
    CELL_HEADER_BYTES + deadline_bytes + cell.key.len() + cell.value.len()
}

/// Where the parts of a cell are.
struct Span {
    key_start: usize,
    value_start: usize,
    end: usize,
}

impl Page {
    pub(super) fn slots_end(&self) -> usize {
        PAGE_HEADER_BYTES + SLOT_BYTES * usize::from(self.cell_count())
    }

    pub(super) fn heap_start(&self) -> usize {
        usize::from(self.u16(HEAP_START_AT))
    }

    pub(super) fn fragmented_bytes(&self) -> usize {
        usize::from(self.u16(FRAGMENTED_AT))
    }

    /// Bytes free for cells, fragments included (apply compacts when it must). 0 in pages that hold no cells.
    pub fn free_bytes(&self) -> usize {
        if !self.kind().has_cells() {
            return 0;
        }
        self.heap_start() - self.slots_end() + self.fragmented_bytes()
    }

    #[inline]
    pub(super) fn cell_offset(&self, slot: u16) -> usize {
        assert!(
            slot < self.cell_count(),
            "slot {slot} of {}",
            self.cell_count()
        );
        usize::from(self.u16(PAGE_HEADER_BYTES + SLOT_BYTES * usize::from(slot)))
    }

    #[inline]
    fn span(&self, offset: usize) -> Span {
        let deadline_bytes = if self.bytes[offset] & CellFlags::DEADLINE.bits() == 0 {
            0
        } else {
            DEADLINE_BYTES
        };
        let key_start = offset + CELL_HEADER_BYTES + deadline_bytes;
        let value_start = key_start + usize::from(self.u16(offset + 1));
        Span {
            key_start,
            value_start,
            end: value_start + usize::from(self.u16(offset + 3)),
        }
    }

    /// Where the cell at `offset` ends, as its own lengths say; `None` when its header is cut off by the page's end.
    pub(super) fn checked_cell_end(&self, offset: usize) -> Option<usize> {
        (offset + CELL_HEADER_BYTES <= self.bytes.len()).then(|| self.span(offset).end)
    }

    /// The cell in `slot`.
    ///
    /// # Panics
    /// When there is no such slot.
    #[inline]
    pub fn cell(&self, slot: u16) -> PageCell<'_> {
        let offset = self.cell_offset(slot);
        let span = self.span(offset);
        let flags = CellFlags::from_bits(self.bytes[offset]).expect("checked when it was put");
        let deadline_ms = flags
            .contains(CellFlags::DEADLINE)
            .then(|| self.u64(offset + CELL_HEADER_BYTES));
        PageCell {
            key: &self.bytes[span.key_start..span.value_start],
            value: &self.bytes[span.value_start..span.end],
            stamp: Lsn::new(self.u64(offset + 5)),
            flags,
            deadline_ms,
        }
    }

    /// The key of the cell in `slot`.
    ///
    /// # Panics
    /// When there is no such slot.
    #[inline]
    pub fn key(&self, slot: u16) -> &[u8] {
        let span = self.span(self.cell_offset(slot));
        &self.bytes[span.key_start..span.value_start]
    }

    /// Binary search: `Ok(slot)` of the cell with `key`, or `Err(slot)` where it would be inserted.
    ///
    /// # Errors
    /// The slot at which a cell with `key` would be inserted.
    pub fn find(&self, key: &[u8]) -> Result<u16, u16> {
        self.find_within(key, 0, self.cell_count())
    }

    /// The same as [`Page::find`], and faster when the cell is at or near `guess`: a page that is not in the processor's
    /// cache is slow to search, since each probe waits for memory. From the guess it goes the way that the key lies, by
    /// growing steps, until it has passed it. A wrong guess costs a few probes.
    ///
    /// # Errors
    /// Those of [`Page::find`].
    pub fn find_near(&self, key: &[u8], guess: u16) -> Result<u16, u16> {
        let count = self.cell_count();
        let (mut low, mut high) = (0, count);
        let mut probe = guess.min(count.saturating_sub(1));
        for step in [1, 4, 16, 64] {
            // What is left lies between two probes, or nothing is left.
            if low >= high || (low > 0 && high < count) {
                break;
            }
            match self.probe(probe).cmp(key) {
                std::cmp::Ordering::Less => low = probe + 1,
                std::cmp::Ordering::Greater => high = probe,
                std::cmp::Ordering::Equal => return Ok(probe),
            }
            probe = if low > 0 {
                probe.saturating_add(step).min(high.saturating_sub(1))
            } else {
                probe.saturating_sub(step)
            };
        }
        self.find_within(key, low, high)
    }

    #[inline]
    fn find_within(&self, key: &[u8], low: u16, high: u16) -> Result<u16, u16> {
        let (mut low, mut high) = (low, high);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.probe(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// Begins to load the slots, for a page that is about to be searched: main memory brings them together with the header,
    /// whose cell count a search needs first, and not after it.
    #[inline]
    pub fn warm(&self) {
        // Slots of a leaf of usual size; the processor goes on without waiting for the byte.
        std::hint::black_box(self.bytes[PAGE_HEADER_BYTES + SLOTS_WARMED_BYTES]);
    }

    /// The key in a slot that is there, without what only the value needs: this is where lookups spend their time.
    #[inline]
    fn probe(&self, slot: u16) -> &[u8] {
        let offset = usize::from(self.u16(PAGE_HEADER_BYTES + SLOT_BYTES * usize::from(slot)));
        let cell = &self.bytes[offset..];
        let [flags, short, long, ..] = *cell else {
            unreachable!("a cell has its header");
        };
        let has_deadline = flags & CellFlags::DEADLINE.bits() != 0;
        let key_start = CELL_HEADER_BYTES + if has_deadline { DEADLINE_BYTES } else { 0 };
        &cell[key_start..key_start + usize::from(u16::from_le_bytes([short, long]))]
    }

    /// Bytes that the cell in `slot` takes, its slot included.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn cell_bytes_at(&self, slot: u16) -> usize {
        let offset = self.cell_offset(slot);
        SLOT_BYTES + self.span(offset).end - offset
    }

    fn set_cell_offset(&mut self, slot: u16, offset: usize) {
        self.set_u16(
            PAGE_HEADER_BYTES + SLOT_BYTES * usize::from(slot),
            length_u16(offset),
        );
    }

    fn set_heap(&mut self, heap_start: usize, fragmented_bytes: usize) {
        self.set_u16(HEAP_START_AT, length_u16(heap_start));
        self.set_u16(FRAGMENTED_AT, length_u16(fragmented_bytes));
    }

    /// Puts `cell` before the one in `slot`. There must be room.
    pub(crate) fn insert_cell(&mut self, slot: u16, cell: &Cell<'_>, commit: Lsn) {
        let cell_count = self.cell_count();
        assert!(slot <= cell_count && Page::cell_bytes(cell) <= self.free_bytes());
        if self.heap_start() - self.slots_end() < Page::cell_bytes(cell) {
            self.compact();
        }
        let slot_at = PAGE_HEADER_BYTES + SLOT_BYTES * usize::from(slot);
        let slots_end = self.slots_end();
        self.bytes
            .copy_within(slot_at..slots_end, slot_at + SLOT_BYTES);
        self.set_u16(CELL_COUNT_AT, cell_count + 1);
        self.place_cell(slot, cell, commit);
    }

    /// Replaces the cell in `slot`. There must be room.
    pub(crate) fn replace_cell(&mut self, slot: u16, cell: &Cell<'_>, commit: Lsn) {
        let offset = self.cell_offset(slot);
        let old_bytes = self.span(offset).end - offset;
        let new_bytes = heap_bytes(cell);
        assert!(new_bytes <= self.free_bytes() + old_bytes);
        if new_bytes <= old_bytes {
            self.write_cell(offset, cell, commit);
            self.bytes[offset + new_bytes..offset + old_bytes].fill(0);
            self.set_heap(
                self.heap_start(),
                self.fragmented_bytes() + old_bytes - new_bytes,
            );
            return;
        }
        self.free_cell(offset);
        if self.heap_start() - self.slots_end() < new_bytes {
            // Offset 0 lies in the header: no cell is there, and compaction passes over it.
            self.set_cell_offset(slot, 0);
            self.compact();
        }
        self.place_cell(slot, cell, commit);
    }

    /// Removes the cell in `slot`.
    pub(crate) fn remove_cell(&mut self, slot: u16) {
        self.free_cell(self.cell_offset(slot));
        let slot_at = PAGE_HEADER_BYTES + SLOT_BYTES * usize::from(slot);
        let slots_end = self.slots_end();
        self.bytes
            .copy_within(slot_at + SLOT_BYTES..slots_end, slot_at);
        self.bytes[slots_end - SLOT_BYTES..slots_end].fill(0);
        self.set_u16(CELL_COUNT_AT, self.cell_count() - 1);
        self.forget_fragments_when_empty();
    }

    /// Removes every cell from `from_slot` on.
    pub(crate) fn truncate_cells(&mut self, from_slot: u16) {
        for slot in from_slot..self.cell_count() {
            self.free_cell(self.cell_offset(slot));
        }
        let slots_end = self.slots_end();
        let kept_end = PAGE_HEADER_BYTES + SLOT_BYTES * usize::from(from_slot);
        self.bytes[kept_end..slots_end].fill(0);
        self.set_u16(CELL_COUNT_AT, from_slot);
        self.forget_fragments_when_empty();
    }

    /// Moves the cells together at the page's end, in the order of their slots: slot 0 stands last.
    pub(super) fn compact(&mut self) {
        let mut old = [0; PAGE_BYTES_MAX];
        let page_bytes = self.bytes.len();
        old[..page_bytes].copy_from_slice(&self.bytes);
        let mut heap_start = page_bytes;
        for slot in 0..self.cell_count() {
            let offset = self.cell_offset(slot);
            if offset == 0 {
                continue;
            }
            // The cell's lengths are read from the copy: its old place may be overwritten by now.
            let end = offset + cell_len(&old[offset..page_bytes]);
            heap_start -= end - offset;
            self.bytes[heap_start..heap_start + (end - offset)].copy_from_slice(&old[offset..end]);
            self.set_cell_offset(slot, heap_start);
        }
        let slots_end = self.slots_end();
        self.bytes[slots_end..heap_start].fill(0);
        self.set_heap(heap_start, 0);
    }

    /// Zeroes the cell at `offset` and counts its bytes as free; its slot stays.
    fn free_cell(&mut self, offset: usize) {
        let end = self.span(offset).end;
        self.bytes[offset..end].fill(0);
        if offset == self.heap_start() {
            self.set_heap(end, self.fragmented_bytes());
        } else {
            self.set_heap(self.heap_start(), self.fragmented_bytes() + (end - offset));
        }
    }

    fn forget_fragments_when_empty(&mut self) {
        if self.cell_count() == 0 {
            self.set_heap(self.bytes.len(), 0);
        }
    }

    fn place_cell(&mut self, slot: u16, cell: &Cell<'_>, commit: Lsn) {
        let offset = self.heap_start() - heap_bytes(cell);
        assert!(offset >= self.slots_end());
        self.write_cell(offset, cell, commit);
        self.set_heap(offset, self.fragmented_bytes());
        self.set_cell_offset(slot, offset);
    }

    fn write_cell(&mut self, offset: usize, cell: &Cell<'_>, commit: Lsn) {
        let stamp = match cell.stamp {
            crate::record::Stamp::Commit => commit,
            crate::record::Stamp::At(stamp) => stamp,
        };
        self.bytes[offset] = cell.flags.bits();
        self.set_u16(offset + 1, length_u16(cell.key.len()));
        self.set_u16(offset + 3, length_u16(cell.value.len()));
        self.set_u64(offset + 5, stamp.get());
        if let Some(deadline_ms) = cell.deadline_ms {
            self.set_u64(offset + CELL_HEADER_BYTES, deadline_ms);
        }
        let span = self.span(offset);
        self.bytes[span.key_start..span.value_start].copy_from_slice(&cell.key);
        self.bytes[span.value_start..span.end].copy_from_slice(&cell.value);
    }
}

/// Length of the cell at the start of `bytes`.
fn cell_len(bytes: &[u8]) -> usize {
    let deadline_bytes = if bytes[0] & CellFlags::DEADLINE.bits() == 0 {
        0
    } else {
        DEADLINE_BYTES
    };
    let key_bytes = u16::from_le_bytes([bytes[1], bytes[2]]);
    let value_bytes = u16::from_le_bytes([bytes[3], bytes[4]]);
    CELL_HEADER_BYTES + deadline_bytes + usize::from(key_bytes) + usize::from(value_bytes)
}
