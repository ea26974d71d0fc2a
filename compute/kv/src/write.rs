//! One write of a transaction, in the leaf of its key.

use std::borrow::Cow;

use sixfold_log_format::limits::VALUE_BYTES_MAX;
use sixfold_log_format::{Cell, CellFlags, Op, Page, Stamp};

use crate::changes::Write;
use crate::lookup::is_expired;
use crate::modify::{Modify, ModifyError, number};
use crate::overflow::Reference;
use crate::plan::{Planner, key_bytes_max};
use crate::source::{KvError, PageSource};

impl<'a, S: PageSource> Planner<'_, 'a, S> {
    /// Plans one write; its key is above that of the write before.
    pub(crate) fn write(&mut self, write: &Write<'a>) -> Result<(), KvError> {
        let key = write.key();
        assert!(
            (1..=key_bytes_max(self.draft.page_bytes)).contains(&key.len()),
            "a key of {} bytes",
            key.len()
        );
        self.seek(key)?;
        match *write {
            Write::Put {
                key,
                value,
                deadline_ms,
            } => self.put(key, Cow::Borrowed(value), deadline_ms),
            Write::Delete { key } => self.delete(key),
            Write::Modify { key, ops } => self.modify(key, ops),
            Write::Expire { key, deadline_ms } => self.expire(key, deadline_ms),
        }
    }

    fn put(
        &mut self,
        key: &'a [u8],
        value: Cow<'a, [u8]>,
        deadline_ms: Option<u64>,
    ) -> Result<(), KvError> {
        assert!(
            value.len() <= VALUE_BYTES_MAX,
            "a value of {} bytes",
            value.len()
        );
        let mut cell = Cell {
            key: Cow::Borrowed(key),
            value,
            stamp: Stamp::Commit,
            flags: CellFlags::PLAIN,
            deadline_ms,
        };
        if deadline_ms.is_some() {
            cell.flags = cell.flags.with(CellFlags::DEADLINE);
        }
        if let Some(reference) = self.space.store_value(&mut self.draft, &cell.value)? {
            cell.flags = cell.flags.with(CellFlags::OVERFLOW);
            cell.value = Cow::Owned(reference.encode());
        }
        let page = self.leaf();
        let room_bytes = page.free_bytes();
        let new_bytes = Page::cell_bytes(&cell);
        match self.find(key) {
            Err(slot) if new_bytes <= room_bytes => {
                self.change_leaf(Op::Insert { slot, cell }, true)
            }
            Err(slot) => self.insert_with_split(slot, cell),
            Ok(slot) => {
                let old = old_value(page, slot)?;
                if new_bytes <= room_bytes + page.cell_bytes_at(slot) {
                    self.change_leaf(Op::Replace { slot, cell }, true)?;
                } else {
                    // The cell grows beyond the page: it goes, and comes back by a split.
                    self.copy_leaf()?;
                    let key = Cow::Borrowed(&[][..]);
                    self.change_leaf(Op::Remove { slot, key }, false)?;
                    self.insert_with_split(slot, cell)?;
                }
                self.free_old(old);
                Ok(())
            }
        }
    }

    fn delete(&mut self, key: &'a [u8]) -> Result<(), KvError> {
        let page = self.leaf();
        let Ok(slot) = self.find(key) else {
            return Ok(());
        };
        let old = old_value(page, slot)?;
        let key = Cow::Borrowed(key);
        self.change_leaf(Op::Remove { slot, key }, true)?;
        self.free_old(old);
        Ok(())
    }

    fn modify(&mut self, key: &'a [u8], ops: &[Modify]) -> Result<(), KvError> {
        let page = self.leaf();
        let mut held = None;
        if let Ok(slot) = self.find(key) {
            let cell = page.cell(slot);
            if !is_expired(cell.deadline_ms, self.clock_ms) {
                let value = if cell.flags.contains(CellFlags::OVERFLOW) {
                    let len_bytes = Reference::len_bytes(cell.value, page.id())? as usize;
                    Err(ModifyError::NotANumber { len_bytes })
                } else {
                    number(cell.value)
                };
                held = Some(value.map_err(KvError::Invalid)?);
            }
        }
        match Modify::apply_all(ops, held).map_err(KvError::Invalid)? {
            Some(after) => self.put(key, Cow::Owned(after.to_le_bytes().to_vec()), None),
            None => Ok(()),
        }
    }

    fn expire(&mut self, key: &'a [u8], deadline_ms: u64) -> Result<(), KvError> {
        let page = self.leaf();
        let held = self
            .find(key)
            .ok()
            .and_then(|slot| page.cell(slot).deadline_ms);
        if held == Some(deadline_ms) && is_expired(held, self.clock_ms) {
            self.delete(key)
        } else {
            Ok(())
        }
    }

    fn free_old(&mut self, old: Option<Reference>) {
        if let Some(reference) = old {
            self.space.free_value(&reference);
        }
    }
}

/// The large value that a cell refers to.
pub(crate) fn old_value(page: &Page, slot: u16) -> Result<Option<Reference>, KvError> {
    let cell = page.cell(slot);
    if cell.flags.contains(CellFlags::OVERFLOW) {
        Reference::read(cell.value, page).map(Some)
    } else {
        Ok(None)
    }
}
