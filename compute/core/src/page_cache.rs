//! The page cache: page id -> versions, each with the interval of read points for which it is known to be the page (R27).
//!
//! Any thread looks up; only the writer's thread puts in and takes out, through the keeper. A version above VDL is
//! never taken out and is charged to the bound on unacknowledged redo, not to the cache's (R30).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, Page, PageId};

use crate::shared::Shared;
use crate::spare::SparePages;
use crate::tip::TipPage;

const SHARD_COUNT: usize = 256;
/// Versions of one page at which those between the announced read points go.
const VERSIONS_MAX: usize = 8;
/// Closed versions remembered for trimming, as a multiple of the versions that fit; what is forgotten goes by eviction.
const CLOSED_SHARE: usize = 4;

/// A version of a page.
#[derive(Debug)]
struct Version {
    /// Page LSN: the first read point for which this is the page.
    start: Lsn,
    /// The last one known; `None` = until the writer changes the page.
    end: Option<Lsn>,
    page: Arc<Page>,
}

/// Versions by rising start. Only the last one may be open-ended.
#[derive(Debug, Default)]
struct Entry {
    versions: Vec<Version>,
    referenced: AtomicBool,
}

type Shard = BTreeMap<PageId, Entry>;

/// The cache as readers see it.
#[derive(Debug)]
pub struct PageCache {
    shards: Box<[RwLock<Shard>]>,
}

impl PageCache {
    pub(crate) fn new() -> PageCache {
        PageCache {
            shards: (0..SHARD_COUNT).map(|_| RwLock::default()).collect(),
        }
    }

    /// The page as of read point `lsn`, if it is known here.
    pub fn get(&self, id: PageId, lsn: Lsn) -> Option<Arc<Page>> {
        let shard = self.shard(id).read();
        let entry = shard.get(&id)?;
        let version = entry
            .versions
            .iter()
            .rev()
            .find(|version| version.start <= lsn)?;
        let past = version.end.is_some_and(|end| end < lsn);
        if past && !planted(Mutant::CachedWithoutInterval) {
            return None;
        }
        entry.touch();
        Some(Arc::clone(&version.page))
    }

    /// The page as of the last seal, if it is known here.
    pub(crate) fn newest(&self, id: PageId) -> Option<Arc<Page>> {
        let shard = self.shard(id).read();
        let entry = shard.get(&id)?;
        let version = entry
            .versions
            .last()
            .filter(|version| version.end.is_none())?;
        entry.touch();
        Some(Arc::clone(&version.page))
    }

    /// Whether a version that starts above `lsn` is held.
    pub(crate) fn has_above(&self, id: PageId, lsn: Lsn) -> bool {
        let shard = self.shard(id).read();
        let newest = shard.get(&id).and_then(|entry| entry.versions.last());
        newest.is_some_and(|newest| newest.start > lsn)
    }

    fn shard(&self, id: PageId) -> &RwLock<Shard> {
        // Neighbors go to different shards; the multiplier spreads ids with a common stride.
        let spread = id.get().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &self.shards[spread as usize % SHARD_COUNT]
    }
}

impl Entry {
    fn touch(&self) {
        // Most pages are touched already: the line stays shared between readers.
        if !self.referenced.load(Ordering::Relaxed) {
            self.referenced.store(true, Ordering::Relaxed);
        }
    }

    /// Where a version that begins at `start` is, or belongs.
    fn index_of(&self, start: Lsn) -> usize {
        self.versions
            .partition_point(|version| version.start < start)
    }

    /// Whether a version that is known differs from a page that starts at `start` and is said to hold through `through`.
    /// What the writer knows itself is right; a segment that says otherwise is not believed.
    fn contradicts(&self, index: usize, start: Lsn, through: Lsn) -> bool {
        let before = index.checked_sub(1).map(|before| &self.versions[before]);
        let later = self.versions[index..]
            .iter()
            .find(|version| version.start > start);
        before.is_some_and(|before| before.end.is_none_or(|end| end >= start))
            || later.is_some_and(|later| later.start <= through)
    }

    /// Takes out the versions for which `goes` holds; how many.
    fn drop_versions(&mut self, spare: &mut SparePages, goes: impl Fn(&Version) -> bool) -> usize {
        let before = self.versions.len();
        let gone = self.versions.extract_if(.., |version| goes(version));
        gone.for_each(|version| spare.give(version.page));
        before - self.versions.len()
    }
}

/// The writer's side of the cache: what goes in, what goes out, what it costs.
///
/// Invariant: `charged_count` is how many versions start at or below `vdl`.
#[derive(Debug)]
pub(crate) struct CacheKeeper {
    shared: Arc<Shared>,
    page_bytes: usize,
    versions_max: usize,
    vdl: Lsn,
    charged_count: usize,
    /// Seals above VDL: seal point and versions.
    above: VecDeque<(Lsn, usize)>,
    above_count: usize,
    /// Pages with a version that was closed by the seal at this point.
    closed: VecDeque<(Lsn, PageId)>,
    /// Second-chance order: each page with an entry once.
    clock: VecDeque<PageId>,
    pins: BTreeMap<PageId, usize>,
    spare: SparePages,
}

impl CacheKeeper {
    pub(crate) fn new(
        shared: Arc<Shared>,
        page_bytes: usize,
        cache_bytes_max: usize,
    ) -> CacheKeeper {
        CacheKeeper {
            vdl: shared.vdl(),
            shared,
            page_bytes,
            versions_max: (cache_bytes_max / page_bytes).max(1),
            charged_count: 0,
            above: VecDeque::new(),
            above_count: 0,
            closed: VecDeque::new(),
            clock: VecDeque::new(),
            pins: BTreeMap::new(),
            spare: SparePages::default(),
        }
    }

    /// The tip's pages become versions at the seal `point`. Comes before VDL can reach it.
    pub(crate) fn seal(&mut self, point: Lsn, pages: impl Iterator<Item = TipPage>) {
        let mut count = 0;
        let mut announced = None;
        for TipPage { page, first } in pages {
            count += 1;
            self.install(point, page, first, &mut announced);
        }
        let excess = self
            .closed
            .len()
            .saturating_sub(self.versions_max * CLOSED_SHARE);
        self.closed.drain(..excess);
        self.above.push_back((point, count));
        self.above_count += count;
    }

    fn install(
        &mut self,
        point: Lsn,
        page: Arc<Page>,
        first: Lsn,
        announced: &mut Option<Vec<Lsn>>,
    ) {
        let id = page.id();
        let start = page.lsn();
        assert!(
            first > self.vdl && start <= point,
            "page {id} at {start} sealed at {point}"
        );
        let mut shard = self.shared.cache.shard(id).write();
        let entry = shard.entry(id).or_insert_with(|| {
            self.clock.push_back(id);
            Entry::default()
        });
        if let Some(before) = entry.versions.last_mut() {
            assert!(
                before.start < start,
                "page {id} at {start} follows {}",
                before.start
            );
            if before.end.is_none() {
                // The first record after the version ends it; between that and `start` nothing is known.
                before.end = first.checked_minus(1);
                self.closed.push_back((point, id));
            }
        }
        entry.versions.push(Version {
            start,
            end: None,
            page,
        });
        // A long snapshot keeps versions of a hot page, but only the ones that somebody reads.
        if entry.versions.len() > VERSIONS_MAX {
            let announced = announced.get_or_insert_with(|| self.shared.announced());
            self.charged_count -= entry.drop_versions(&mut self.spare, |version| {
                let Some(end) = version.end.filter(|&end| end < self.vdl) else {
                    return false;
                };
                let next = announced.partition_point(|&read_point| read_point < version.start);
                announced
                    .get(next)
                    .is_none_or(|&read_point| read_point > end)
            });
        }
    }

    /// Whether a page that was fetched at read point `through` contradicts what the writer knows: then it is damaged, however
    /// sound it looks.
    pub(crate) fn contradicts(&self, page: &Page, through: Lsn) -> bool {
        let shard = self.shared.cache.shard(page.id()).read();
        let start = page.lsn();
        shard
            .get(&page.id())
            .is_some_and(|entry| entry.contradicts(entry.index_of(start), start, through))
    }

    /// A page that was fetched at read point `through` arrived; kept unless it contradicts what is known. `open`: the writer has minted nothing on it above `through`
    /// since before the fetch began. An arrival never replaces a newer version.
    pub(crate) fn arrived(&mut self, page: &Arc<Page>, through: Lsn, open: bool) {
        let (id, start) = (page.id(), page.lsn());
        assert!(
            start <= through && through <= self.vdl,
            "page {id} at {start}, read at {through}"
        );
        {
            let mut shard = self.shared.cache.shard(id).write();
            let entry = shard.entry(id).or_insert_with(|| {
                self.clock.push_back(id);
                Entry::default()
            });
            let index = entry.index_of(start);
            if entry.contradicts(index, start, through) {
                return;
            }
            let is_newest = entry.versions.get(index + 1).is_none();
            match entry.versions.get_mut(index) {
                Some(same) if same.start == start => {
                    let end = same.end.map(|end| end.max(through));
                    same.end = if open && is_newest { None } else { end };
                }
                newer => {
                    let end = if open && newer.is_none() {
                        None
                    } else {
                        Some(through)
                    };
                    entry.versions.insert(
                        index,
                        Version {
                            start,
                            end,
                            page: Arc::clone(page),
                        },
                    );
                    self.charged_count += 1;
                }
            }
        }
        self.evict();
    }

    /// VDL moved: versions at or below it count, and may go.
    pub(crate) fn durable(&mut self, vdl: Lsn, read_point_min: Lsn) {
        self.vdl = vdl;
        while let Some((_, count)) = self.above.pop_front_if(|&mut (point, _)| point <= vdl) {
            self.above_count -= count;
            self.charged_count += count;
        }
        self.trim(read_point_min);
        self.evict();
    }

    /// Drops closed versions that no announced read point needs.
    pub(crate) fn trim(&mut self, read_point_min: Lsn) {
        while let Some((_, id)) = self
            .closed
            .pop_front_if(|&mut (point, _)| point <= read_point_min)
        {
            let mut shard = self.shared.cache.shard(id).write();
            let Some(entry) = shard.get_mut(&id) else {
                continue;
            };
            self.charged_count -= entry.drop_versions(&mut self.spare, |version| {
                version.end.is_some_and(|end| end < read_point_min)
            });
        }
    }

    /// Second chance over pages until the bound holds, or only pinned pages and versions above VDL are left.
    fn evict(&mut self) {
        let mut steps_left = 2 * self.clock.len();
        while self.charged_count > self.versions_max && steps_left > 0 {
            steps_left -= 1;
            let Some(id) = self.clock.pop_front() else {
                break;
            };
            let mut shard = self.shared.cache.shard(id).write();
            let Some(entry) = shard.get_mut(&id) else {
                continue;
            };
            let referenced = entry.referenced.swap(false, Ordering::Relaxed);
            if !referenced && !self.pins.contains_key(&id) {
                let all = planted(Mutant::EvictionAboveVdl);
                self.charged_count -= entry
                    .drop_versions(&mut self.spare, |version| version.start <= self.vdl || all);
            }
            if entry.versions.is_empty() {
                shard.remove(&id);
            } else {
                self.clock.push_back(id);
            }
        }
    }

    /// Memory of versions that have gone.
    pub(crate) fn spare(&mut self) -> &mut SparePages {
        &mut self.spare
    }

    /// An operation that waits for pages keeps what it has (R30).
    pub(crate) fn pin(&mut self, id: PageId) {
        *self.pins.entry(id).or_insert(0) += 1;
    }

    /// The operation went on, or ended.
    ///
    /// # Panics
    /// When the page is not pinned.
    pub(crate) fn unpin(&mut self, id: PageId) {
        let count = self.pins.get_mut(&id).expect("a pinned page");
        *count -= 1;
        if *count == 0 {
            self.pins.remove(&id);
        }
    }

    /// Whether pins take half of the cache or more: only one operation may go on pinning then (R30).
    pub(crate) fn is_over_pinned(&self) -> bool {
        self.pins.len() * 2 >= self.versions_max
    }

    /// Bytes of versions above VDL, for the bound on unacknowledged redo (R30).
    pub(crate) fn above_bytes(&self) -> usize {
        self.above_count * self.page_bytes
    }

    /// Bytes of older versions that are kept, at most: pages whose newest version began lately, each counted for every seal.
    pub(crate) fn closed_bytes(&self) -> usize {
        self.closed.len() * self.page_bytes
    }

    /// Bytes of versions at or below VDL.
    #[cfg(test)]
    pub(crate) fn charged_bytes(&self) -> usize {
        self.charged_count * self.page_bytes
    }
}
