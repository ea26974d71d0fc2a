//! A volume in memory: mints LSNs and applies plans as the writer does, and checks the whole tree.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use sixfold_kv::overflow::{Reference, chunk_bytes_max};
use sixfold_kv::pages::trunk_entries_max;
use sixfold_kv::{
    Changes, Clear, Direction, Item, KvError, Meta, PageSource, Plan, Write, plan_creation,
    plan_reclaim, range_chunk,
};
use sixfold_log_format::{ApplyError, CellFlags, Lsn, Page, PageId, PageKind, Record, apply};

pub struct Volume {
    pub pages: BTreeMap<PageId, Arc<Page>>,
    pub lsn: Lsn,
    pub page_bytes: usize,
    pub pages_max: u64,
}

impl PageSource for Volume {
    fn page(&self, id: PageId) -> Option<Arc<Page>> {
        self.pages.get(&id).cloned()
    }
}

impl Volume {
    pub fn new(page_bytes: usize) -> Volume {
        let mut volume = Volume {
            pages: BTreeMap::new(),
            lsn: Lsn::new(1_000),
            page_bytes,
            pages_max: 1 << 20,
        };
        volume.apply(&plan_creation());
        volume
    }

    /// Applies a plan as one MTR; the answer is its CPL.
    pub fn apply(&mut self, plan: &Plan<'_>) -> Lsn {
        self.try_apply(plan).unwrap()
    }

    /// The same, for a tree that is damaged.
    pub fn try_apply(&mut self, plan: &Plan<'_>) -> Result<Lsn, ApplyError> {
        let cpl = self.lsn.plus(plan.records.len() as u64);
        for planned in &plan.records {
            self.lsn = self.lsn.next();
            let fresh = || Arc::new(Page::new(planned.page, self.page_bytes));
            let page = Arc::make_mut(self.pages.entry(planned.page).or_insert_with(fresh));
            let starts = planned.op.starts_chain();
            let record = Record {
                lsn: self.lsn,
                page: planned.page,
                page_prev: if starts { Lsn::NONE } else { page.lsn() },
                cpl,
                user_visible: planned.user_visible,
                op: planned.op.clone(),
            };
            apply(page, &record)?;
        }
        assert_eq!(self.lsn, cpl);
        Ok(cpl)
    }

    pub fn commit(&mut self, writes: &[Write<'_>]) -> Lsn {
        let plan = plan(self, writes, self.pages_max).unwrap();
        self.apply(&plan)
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Lsn {
        self.commit(&[put(key, value)])
    }

    pub fn delete(&mut self, key: &[u8]) -> Lsn {
        self.commit(&[Write::Delete { key }])
    }

    pub fn clear(&mut self, start: &[u8], end: Option<&[u8]>) -> Lsn {
        let plan = plan_clears(self, &[(start, end)], self.pages_max).unwrap();
        self.apply(&plan)
    }

    /// Moves the clock.
    pub fn tick(&mut self, unix_ms: u64) {
        let record = sixfold_kv::PlannedRecord {
            page: PageId::META,
            op: sixfold_log_format::Op::Clock { unix_ms },
            user_visible: false,
        };
        let records = vec![record];
        self.apply(&Plan { records });
    }

    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        sixfold_kv::get(self, key)
            .unwrap()
            .map(|found| found.value.to_vec())
    }

    pub fn meta(&self) -> Meta {
        Meta::read(&self.pages[&PageId::META]).unwrap()
    }

    /// Leaves in the order of their keys.
    pub fn leaves(&self) -> Vec<Arc<Page>> {
        self.walk().leaves
    }

    pub fn walk(&self) -> Walk {
        let meta = self.meta();
        let mut walk = Walk::default();
        self.visit(&mut walk, meta.root, meta.height - 1, &[], None);
        walk
    }

    fn visit(&self, walk: &mut Walk, id: PageId, level: u8, low: &[u8], high: Option<&[u8]>) {
        assert!(walk.reached.insert(id), "page {id} is reached twice");
        let page = &self.pages[&id];
        Page::decode(&page.encode(), id, self.page_bytes).unwrap();
        assert_eq!(page.level(), level);
        let keys: Vec<&[u8]> = page.cells().map(|cell| cell.key).collect();
        for (index, cell) in page.cells().enumerate() {
            if level == 0 {
                assert!(cell.key >= low && high.is_none_or(|high| cell.key < high));
                assert!(cell.stamp <= self.lsn && !cell.stamp.is_none());
                if cell.flags.contains(CellFlags::OVERFLOW) {
                    let reference = Reference::read(cell.value, page).unwrap();
                    self.visit_value(walk, &reference);
                }
                continue;
            }
            assert_eq!(cell.key.is_empty(), index == 0, "empty keys stand first");
            assert!(cell.stamp.is_none());
            let child = PageId::new(u64::from_le_bytes(cell.value.try_into().unwrap()));
            let from = if index == 0 { low } else { cell.key };
            assert!(from >= low && high.is_none_or(|high| from < high));
            let to = keys.get(index + 1).copied().or(high);
            if index > 0 {
                walk.separators.push(cell.key.to_vec());
            }
            self.visit(walk, child, level - 1, from, to);
        }
        if level == 0 {
            assert_eq!(page.kind(), PageKind::Leaf);
            walk.leaves.push(page.clone());
        } else {
            assert_eq!(page.kind(), PageKind::Inner);
            assert!(page.cell_count() > 0);
            walk.inner.push(page.clone());
        }
    }

    fn visit_value(&self, walk: &mut Walk, reference: &Reference) {
        for id in &reference.ids {
            self.visit_value_page(walk, reference.level, *id);
        }
    }

    fn visit_value_page(&self, walk: &mut Walk, level: u8, id: PageId) {
        assert!(walk.reached.insert(id), "page {id} is reached twice");
        let page = &self.pages[&id];
        assert_eq!(page.kind(), PageKind::Overflow);
        assert_eq!(page.body()[0], if level == 0 { 1 } else { 2 });
        if level > 0 {
            let len_bytes = u32::from_le_bytes(page.body()[4..8].try_into().unwrap()) as usize;
            for id in page.body()[8..8 + len_bytes].chunks(8) {
                self.visit_value_page(walk, level - 1, id_of(id));
            }
        }
    }

    /// The trunks of a list, the last first, each with its entries.
    fn trunks(&self, head: PageId, tag: u8, last_count: usize) -> Vec<(PageId, Vec<u64>)> {
        let mut trunks = Vec::new();
        let mut id = head;
        let mut count = last_count;
        while id != PageId::NONE {
            assert!(trunks.len() <= self.pages.len(), "the trunks do not end");
            let page = &self.pages[&id];
            assert_eq!((page.kind(), page.body()[0]), (PageKind::Overflow, tag));
            let entries = page.body()[16..16 + 8 * count].chunks(8);
            trunks.push((id, entries.map(|id| id_of(id).get()).collect()));
            id = id_of(&page.body()[8..16]);
            count = trunk_entries_max(self.page_bytes);
        }
        trunks
    }

    /// Every page that was ever allocated is in the tree, in a large value, free, or dropped and to be freed, and none is
    /// twice.
    pub fn check(&self) -> Walk {
        let mut walk = self.walk();
        let meta = self.meta();
        let tree = walk.reached.clone();
        let entries_max = trunk_entries_max(self.page_bytes);
        let last = |count: u64, group: usize| match count {
            0 => 0,
            count => (count as usize - 1) % group,
        };
        let mut free_count = 0;
        for (trunk, entries) in
            self.trunks(meta.free_head, 3, last(meta.free_count, entries_max + 1))
        {
            assert!(
                walk.reached.insert(trunk),
                "trunk {trunk} is twice somewhere"
            );
            for id in entries.iter().map(|id| PageId::new(*id)) {
                assert!(
                    walk.reached.insert(id),
                    "page {id} is free and in use, or twice free"
                );
                assert_eq!(self.pages[&id].kind(), PageKind::Free);
                free_count += 1;
            }
            free_count += 1;
        }
        assert_eq!(meta.free_count, free_count);
        let last_count = match meta.dropped_count {
            0 => 0,
            count => last(count, entries_max) + 1,
        };
        let mut dropped_count = 0;
        let mut below = Walk::default();
        for (trunk, entries) in self.trunks(meta.dropped_head, 4, last_count) {
            assert!(
                walk.reached.insert(trunk),
                "trunk {trunk} is twice somewhere"
            );
            for entry in entries {
                let (kind, id) = ((entry >> 56) as u8, PageId::new(entry << 8 >> 8));
                if kind < 128 {
                    self.visit(&mut below, id, kind, &[], None);
                } else {
                    self.visit_value_page(&mut below, kind - 128, id);
                }
                dropped_count += 1;
            }
        }
        assert_eq!(meta.dropped_count, dropped_count);
        for id in below.reached {
            assert!(walk.reached.insert(id), "page {id} is dropped and in use");
        }
        walk.reached.insert(PageId::META);
        let expected: BTreeSet<PageId> = (1..meta.next_page.get()).map(PageId::new).collect();
        assert_eq!(walk.reached, expected, "a page leaked");
        walk.reached = tree;
        walk
    }

    /// Frees everything that was dropped, a few pages at a time.
    pub fn reclaim(&mut self, records_max: usize) -> usize {
        for round in 0..1_000_000 {
            let plan = plan_reclaim(self, records_max, self.pages_max).unwrap();
            if plan.records.is_empty() {
                assert_eq!(self.meta().dropped_count, 0);
                return round;
            }
            assert!(plan.records.iter().all(|record| !record.user_visible));
            self.apply(&plan);
        }
        panic!("reclaiming does not end");
    }
}

fn id_of(bytes: &[u8]) -> PageId {
    PageId::new(u64::from_le_bytes(bytes.try_into().unwrap()))
}

#[derive(Default)]
pub struct Walk {
    pub reached: BTreeSet<PageId>,
    pub leaves: Vec<Arc<Page>>,
    pub inner: Vec<Arc<Page>>,
    pub separators: Vec<Vec<u8>>,
}

/// How full pages are, 0 to 1.
pub fn fill(pages: &[Arc<Page>]) -> f64 {
    let capacity: usize = pages
        .iter()
        .map(|page| Page::capacity_bytes(page.len_bytes()))
        .sum();
    let free: usize = pages.iter().map(|page| page.free_bytes()).sum();
    1.0 - free as f64 / capacity as f64
}

/// Plans clears alone, at clock 0.
pub fn plan_clears<'a>(
    source: &impl PageSource,
    clears: &[Clear<'a>],
    pages_max: u64,
) -> Result<Plan<'a>, KvError> {
    let writes = &[];
    sixfold_kv::plan(source, &Changes { clears, writes }, 0, pages_max)
}

/// Plans writes alone, at clock 0.
pub fn plan<'a>(
    source: &impl PageSource,
    writes: &[Write<'a>],
    pages_max: u64,
) -> Result<Plan<'a>, KvError> {
    let clears = &[];
    sixfold_kv::plan(source, &Changes { clears, writes }, 0, pages_max)
}

pub fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Write<'a> {
    Write::Put {
        key,
        value,
        deadline_ms: None,
    }
}

/// Bytes of a value that takes this many overflow pages.
pub fn large(volume: &Volume, page_count: usize, fill: u8) -> Vec<u8> {
    vec![fill; chunk_bytes_max(volume.page_bytes) * page_count]
}

/// A source that holds nothing until it is told to fetch.
pub struct Cold<'v> {
    pub volume: &'v Volume,
    held: RefCell<BTreeSet<PageId>>,
}

impl PageSource for Cold<'_> {
    fn page(&self, id: PageId) -> Option<Arc<Page>> {
        self.held
            .borrow()
            .contains(&id)
            .then(|| self.volume.pages[&id].clone())
    }
}

impl<'v> Cold<'v> {
    pub fn new(volume: &'v Volume) -> Cold<'v> {
        let held = RefCell::new(BTreeSet::new());
        Cold { volume, held }
    }

    pub fn held_count(&self) -> usize {
        self.held.borrow().len()
    }

    pub fn fetch(&self, id: PageId) {
        assert!(
            self.held.borrow_mut().insert(id),
            "page {id} was missed although it is there"
        );
    }

    /// Runs an operation again and again, fetching the pages that it misses. Also says how often it missed.
    pub fn run<T>(&self, op: impl Fn(&Self) -> Result<T, KvError>) -> (T, usize) {
        let (result, misses) = self.run_counting(op);
        (result.unwrap(), misses)
    }

    /// The same, for operations that may fail.
    pub fn run_to_end<T>(&self, op: impl Fn(&Self) -> Result<T, KvError>) -> Result<T, KvError> {
        self.run_counting(op).0
    }

    fn run_counting<T>(
        &self,
        op: impl Fn(&Self) -> Result<T, KvError>,
    ) -> (Result<T, KvError>, usize) {
        for misses in 0..=self.volume.pages.len() {
            match op(self) {
                Err(KvError::Miss(ids)) => {
                    assert!(!ids.is_empty());
                    ids.into_iter().for_each(|id| self.fetch(id));
                }
                result => return (result, misses),
            }
        }
        panic!("more misses than pages");
    }
}

/// All items of a range, in chunks of the sizes that `limits` gives in turn.
pub fn scan(
    source: &impl PageSource,
    bounds: (Bound<&[u8]>, Bound<&[u8]>),
    direction: Direction,
    limits: &[(usize, usize)],
) -> Vec<Item> {
    let own = |bound: Bound<&[u8]>| bound.map(<[u8]>::to_vec);
    let (mut lower, mut upper) = (own(bounds.0), own(bounds.1));
    let mut items = Vec::new();
    for (count_max, bytes_max) in limits.iter().cycle().take(100_000) {
        let chunk = range_chunk(
            source,
            lower.as_ref().map(Vec::as_slice),
            upper.as_ref().map(Vec::as_slice),
            direction,
            *count_max,
            *bytes_max,
        )
        .unwrap();
        assert!(chunk.items.len() <= *count_max);
        items.extend(chunk.items);
        match (chunk.next, direction) {
            (None, _) => return items,
            (Some(next), Direction::Forward) => lower = next,
            (Some(next), Direction::Reverse) => upper = next,
        }
    }
    panic!("the scan does not end");
}
