//! What makes a page sound. Every page from wire, disk or an image passes here, so that all other code may trust
//! offsets and lengths.

use super::{
    CELL_COUNT_AT, CLOCK_AT, FRAGMENTED_AT, HEAP_START_AT, KIND_AT, LEVEL_AT, PAGE_HEADER_BYTES,
    Page, PageKind, RESERVED_AT, SLOT_BYTES,
};
use crate::error::DecodeError;
use crate::limits::{KEY_BYTES_MAX, PAGE_BYTES_MAX};
use crate::record::CellFlags;

/// Value of an inner page's cell: a page id.
pub(crate) const CHILD_BYTES: usize = 8;

/// The error for a field of a page.
pub(super) fn invalid(field: &'static str, found: u64, offset: usize) -> DecodeError {
    DecodeError::Invalid {
        zone: "page",
        field,
        found,
        offset,
    }
}

/// Which bytes of a page belong to a cell: one bit each.
struct Claimed([u64; PAGE_BYTES_MAX / 64]);

impl Claimed {
    /// Claims `[start, end)`; false when a byte of it was claimed before.
    fn claim(&mut self, start: usize, end: usize) -> bool {
        let mut at = start;
        while at < end {
            let bit = at % 64;
            let count = (64 - bit).min(end - at);
            let mask = (u64::MAX >> (64 - count)) << bit;
            if self.0[at / 64] & mask != 0 {
                return false;
            }
            self.0[at / 64] |= mask;
            at += count;
        }
        true
    }
}

impl Page {
    /// Checks the header by itself: kind, level, reserved bytes, and that slots and cells have a place.
    pub(super) fn check_header(&self) -> Result<PageKind, DecodeError> {
        let code = self.bytes[KIND_AT];
        let kind =
            PageKind::from_code(code).ok_or_else(|| invalid("kind", u64::from(code), KIND_AT))?;
        if !kind.allows_level(self.level()) {
            return Err(invalid("level", u64::from(self.level()), LEVEL_AT));
        }
        if let Some(byte) = self.bytes[RESERVED_AT..PAGE_HEADER_BYTES]
            .iter()
            .find(|byte| **byte != 0)
        {
            return Err(invalid("reserved", u64::from(*byte), RESERVED_AT));
        }
        if kind != PageKind::Meta && self.clock_ms() != 0 {
            return Err(invalid("clock", self.clock_ms(), CLOCK_AT));
        }
        if kind.has_cells() {
            if !(self.slots_end()..=self.bytes.len()).contains(&self.heap_start()) {
                return Err(invalid(
                    "heap start",
                    self.heap_start() as u64,
                    HEAP_START_AT,
                ));
            }
        } else if self.cell_count() != 0 || self.heap_start() != 0 || self.fragmented_bytes() != 0 {
            return Err(invalid(
                "cell count",
                u64::from(self.cell_count()),
                CELL_COUNT_AT,
            ));
        }
        Ok(kind)
    }

    /// Checks everything that a page consists of.
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        match self.check_header()? {
            PageKind::Free => self.check_zeros(PAGE_HEADER_BYTES, self.bytes.len()),
            PageKind::Meta | PageKind::Overflow => Ok(()),
            kind @ (PageKind::Leaf | PageKind::Inner) => self.check_cells(kind),
        }
    }

    fn check_zeros(&self, start: usize, end: usize) -> Result<(), DecodeError> {
        match self.bytes[start..end].iter().position(|byte| *byte != 0) {
            Some(index) => Err(invalid(
                "free byte",
                u64::from(self.bytes[start + index]),
                start + index,
            )),
            None => Ok(()),
        }
    }

    fn check_cells(&self, kind: PageKind) -> Result<(), DecodeError> {
        self.check_zeros(self.slots_end(), self.heap_start())?;
        let mut claimed = Claimed([0; PAGE_BYTES_MAX / 64]);
        let mut used = self.fragmented_bytes();
        for slot in 0..self.cell_count() {
            let slot_at = PAGE_HEADER_BYTES + SLOT_BYTES * usize::from(slot);
            let offset = self.cell_offset(slot);
            let end = match self.checked_cell_end(offset) {
                Some(end) if offset >= self.heap_start() && end <= self.bytes.len() => end,
                _ => return Err(invalid("cell offset", offset as u64, slot_at)),
            };
            if !claimed.claim(offset, end) {
                return Err(invalid("cell offset", offset as u64, slot_at));
            }
            used += end - offset;
            self.check_cell(kind, slot, offset)?;
        }
        if used != self.bytes.len() - self.heap_start() {
            let found = self.fragmented_bytes() as u64;
            return Err(invalid("fragmented bytes", found, FRAGMENTED_AT));
        }
        Ok(())
    }

    fn check_cell(&self, kind: PageKind, slot: u16, offset: usize) -> Result<(), DecodeError> {
        let flags = self.bytes[offset];
        if CellFlags::from_bits(flags).is_none() {
            return Err(invalid("cell flags", u64::from(flags), offset));
        }
        let cell = self.cell(slot);
        if cell.key.len() > KEY_BYTES_MAX || (kind == PageKind::Leaf && cell.key.is_empty()) {
            return Err(invalid("key length", cell.key.len() as u64, offset + 1));
        }
        if kind == PageKind::Inner && cell.value.len() != CHILD_BYTES {
            return Err(invalid("child length", cell.value.len() as u64, offset + 3));
        }
        if slot > 0 && self.key(slot - 1) >= cell.key {
            return Err(invalid("key order at slot", u64::from(slot), offset));
        }
        Ok(())
    }
}
