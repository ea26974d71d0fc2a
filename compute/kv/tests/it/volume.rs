//! A volume in memory: mints LSNs and applies plans as the writer does, and checks the whole tree.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use sixfold_kv::overflow::{Reference, chunk_bytes_max};
use sixfold_kv::{
    Direction, Item, KvError, Meta, PageSource, Plan, Write, plan, plan_creation, range_chunk,
};
use sixfold_log_format::{CellFlags, Lsn, Page, PageId, PageKind, Record, apply};

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
            apply(page, &record).unwrap();
        }
        assert_eq!(self.lsn, cpl);
        cpl
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
                    let reference = Reference::read(cell.value, id).unwrap();
                    self.visit_value(walk, reference);
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

    fn visit_value(&self, walk: &mut Walk, reference: Reference) {
        let mut id = reference.first;
        for index in 1..=reference.page_count(self.page_bytes) {
            assert!(walk.reached.insert(id), "page {id} is reached twice");
            let is_last = index == reference.page_count(self.page_bytes);
            assert_eq!(id == reference.last, is_last);
            id = self.link(id);
        }
    }

    fn link(&self, id: PageId) -> PageId {
        assert_eq!(self.pages[&id].kind(), PageKind::Overflow);
        let bytes = self.pages[&id].body()[..8].try_into().unwrap();
        PageId::new(u64::from_le_bytes(bytes))
    }

    /// Every page that was ever allocated is reached or free, and none is both.
    pub fn check(&self) -> Walk {
        let walk = self.walk();
        let meta = self.meta();
        let mut all = walk.reached.clone();
        let mut id = meta.free_head;
        let mut free_count = 0;
        while id != PageId::NONE {
            assert!(
                all.insert(id),
                "page {id} is free and in use, or twice free"
            );
            free_count += 1;
            id = self.link(id);
        }
        assert_eq!(meta.free_count, free_count);
        all.insert(PageId::META);
        let expected: BTreeSet<PageId> = (1..meta.next_page.get()).map(PageId::new).collect();
        assert_eq!(all, expected, "a page leaked");
        walk
    }
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

    pub fn fetch(&self, id: PageId) {
        assert!(
            self.held.borrow_mut().insert(id),
            "page {id} was missed although it is there"
        );
    }

    /// Runs an operation again and again, fetching the page that it misses. Also says how often it missed.
    pub fn run<T>(&self, op: impl Fn(&Self) -> Result<T, KvError>) -> (T, usize) {
        for misses in 0..=self.volume.pages.len() {
            match op(self) {
                Ok(value) => return (value, misses),
                Err(KvError::Miss(id)) => self.fetch(id),
                Err(error) => panic!("{error}"),
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
