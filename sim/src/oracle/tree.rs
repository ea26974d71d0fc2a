//! The tree as the log says it is: every page that was ever used hangs in it once, is free, or was dropped and waits to be freed.

use std::collections::BTreeSet;

use sixfold_kv::Meta;
use sixfold_kv::overflow::Reference;
use sixfold_kv::pages::trunk_entries_max;
use sixfold_log_format::{CellFlags, Lsn, Page, PageId, PageKind};

use super::truth::{Bad, Oracle};

/// The tag of a trunk of the free list, and of one of the dropped list, in its body's first byte.
const FREE_TRUNK: u8 = 3;
const DROPPED_TRUNK: u8 = 4;
/// Where entries begin in a trunk's body, and where the one before it is named.
const ENTRIES_AT: usize = 16;
const BEFORE_AT: usize = 8;
/// Entries of the dropped list from this kind on are pages of values.
const VALUE_KIND: u8 = 128;

/// A walk over everything at one point.
struct Walk<'a> {
    oracle: &'a Oracle,
    lsn: Lsn,
    seen: BTreeSet<PageId>,
}

impl Oracle {
    /// Walks the tree as of the last commit.
    pub(crate) fn walk_tree(&self) -> Result<(), Bad> {
        let Some((&lsn, _)) = self.commits.last_key_value() else {
            return Ok(());
        };
        let mut walk = Walk {
            oracle: self,
            lsn,
            seen: BTreeSet::from([PageId::META]),
        };
        let walked = walk.all();
        walked.map_err(|bad| format!("the tree at {lsn}: {bad}"))
    }
}

impl<'a> Walk<'a> {
    fn page(&self, id: PageId) -> Result<&'a Page, Bad> {
        let versions = self.oracle.pages.get(&id);
        let versions = versions.map_or(&[][..], Vec::as_slice);
        let below = versions.partition_point(|(at, _)| *at <= self.lsn);
        let at = below.checked_sub(1).and_then(|at| versions.get(at));
        at.map(|(_, page)| page)
            .ok_or_else(|| format!("page {id} was never written"))
    }

    fn see(&mut self, id: PageId) -> Result<&'a Page, Bad> {
        if !self.seen.insert(id) {
            return Err(format!("page {id} is in two places"));
        }
        self.page(id)
    }

    fn all(&mut self) -> Result<(), Bad> {
        let meta = Meta::read(self.page(PageId::META)?).map_err(|error| error.to_string())?;
        self.subtree(meta.root, meta.root_level())?;
        let reachable = self.seen.len();
        let entries_max = trunk_entries_max(self.oracle.page_bytes());
        let free_last = group_rest(meta.free_count, entries_max + 1);
        for id in self.list(meta.free_head, FREE_TRUNK, free_last)? {
            let page = self.see(PageId::new(id))?;
            if page.kind() != PageKind::Free {
                return Err(format!("page {id} is listed as free and is not"));
            }
        }
        let free_count = (self.seen.len() - reachable) as u64;
        if free_count != meta.free_count {
            return Err(format!(
                "{free_count} pages are free, the meta page says {}",
                meta.free_count
            ));
        }
        let dropped_last = match meta.dropped_count {
            0 => 0,
            count => group_rest(count, entries_max) + 1,
        };
        let entries = self.list(meta.dropped_head, DROPPED_TRUNK, dropped_last)?;
        if entries.len() as u64 != meta.dropped_count {
            return Err(format!(
                "{} entries are dropped, the meta page says {}",
                entries.len(),
                meta.dropped_count
            ));
        }
        for entry in entries {
            let [.., kind] = entry.to_le_bytes();
            let id = PageId::new(entry << 8 >> 8);
            if kind < VALUE_KIND {
                self.subtree(id, kind)?;
            } else {
                self.value(id, kind - VALUE_KIND)?;
            }
        }
        let used = meta.next_page.get() - 1;
        if self.seen.len() as u64 != used {
            let lost = (1..=used).find(|id| !self.seen.contains(&PageId::new(*id)));
            return Err(format!(
                "{used} pages were used, {} are reachable, free or dropped; page {lost:?} is nowhere",
                self.seen.len()
            ));
        }
        Ok(())
    }

    fn subtree(&mut self, id: PageId, level: u8) -> Result<(), Bad> {
        let page = self.see(id)?;
        let kind = if level == 0 {
            PageKind::Leaf
        } else {
            PageKind::Inner
        };
        if page.level() != level || page.kind() != kind {
            return Err(format!("page {id} is no {kind:?} of level {level}"));
        }
        for cell in page.cells() {
            if level > 0 {
                self.subtree(id_at(cell.value, 0)?, level - 1)?;
            } else if cell.flags.contains(CellFlags::OVERFLOW) {
                let reference =
                    Reference::read(cell.value, page).map_err(|error| error.to_string())?;
                for id in reference.ids {
                    self.value(id, reference.level)?;
                }
            }
        }
        Ok(())
    }

    /// A page of a large value, and those below it.
    fn value(&mut self, id: PageId, level: u8) -> Result<(), Bad> {
        let page = self.see(id)?;
        if page.kind() != PageKind::Overflow {
            return Err(format!("page {id} is no part of a value"));
        }
        if level > 0 {
            let body = page.body();
            let bytes = body.get(4..8).and_then(|len| len.try_into().ok());
            let bytes = bytes.map_or(0, u32::from_le_bytes) as usize;
            for at in (8..8 + bytes).step_by(8) {
                self.value(id_at(body, at)?, level - 1)?;
            }
        }
        Ok(())
    }

    /// The entries of a list; its trunks are seen.
    fn list(&mut self, head: PageId, tag: u8, last_count: usize) -> Result<Vec<u64>, Bad> {
        let mut entries = Vec::new();
        let (mut id, mut count) = (head, last_count);
        while id != PageId::NONE {
            let page = self.see(id)?;
            let body = page.body();
            if page.kind() != PageKind::Overflow || body.first() != Some(&tag) {
                return Err(format!("page {id} is no trunk"));
            }
            for at in 0..count {
                entries.push(id_at(body, ENTRIES_AT + 8 * at)?.get());
            }
            id = id_at(body, BEFORE_AT)?;
            count = trunk_entries_max(self.oracle.page_bytes());
        }
        Ok(entries)
    }
}

/// Entries of the last trunk of a list where the others have `group` each.
fn group_rest(count: u64, group: usize) -> usize {
    let before = count.saturating_sub(1);
    usize::try_from(before).map_or(0, |before| before % group)
}

fn id_at(bytes: &[u8], at: usize) -> Result<PageId, Bad> {
    let id = bytes
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok());
    id.map(|id| PageId::new(u64::from_le_bytes(id)))
        .ok_or_else(|| "a page is too short for what it names".to_owned())
}
