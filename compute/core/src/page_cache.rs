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

use crate::page_table::{PageTable, spread};
use crate::shared::Shared;
use crate::spare::SparePages;
use crate::tip::TipPage;

const SHARD_COUNT: usize = 256;
/// Versions of one page at which those between the announced read points go.
const VERSIONS_MAX: usize = 8;
/// Closed versions remembered for trimming, as a multiple of the versions that fit; what is forgotten goes by eviction.
const CLOSED_SHARE: usize = 4;

/// The end of a version that is the page until the writer changes it.
const OPEN: Lsn = Lsn::MAX;

/// A version of a page.
#[derive(Debug)]
struct Version {
    /// Page LSN: the first read point for which this is the page.
    start: Lsn,
    /// The last one known, or [`OPEN`].
    end: Lsn,
    page: Arc<Page>,
}

/// Versions of a page. Only the newest may be open. The newest stands by itself, since nearly every page has no other:
/// an entry is then in one cache line.
#[derive(Debug, Default)]
struct Entry {
    newest: Option<Version>,
    /// By rising start; none when there is no newest.
    older: Vec<Version>,
    referenced: AtomicBool,
}

type Shard = PageTable<Entry>;

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
        let entry = shard.get(id)?;
        let version = entry.falling().find(|version| version.start <= lsn)?;
        if version.end < lsn && !planted(Mutant::CachedWithoutInterval) {
            return None;
        }
        entry.touch();
        Some(Arc::clone(&version.page))
    }

    /// The page as of the last seal, if it is known here.
    pub(crate) fn newest(&self, id: PageId) -> Option<Arc<Page>> {
        let shard = self.shard(id).read();
        let entry = shard.get(id)?;
        let version = entry.newest.as_ref().filter(|version| version.is_open())?;
        entry.touch();
        Some(Arc::clone(&version.page))
    }

    /// Whether a version that starts above `lsn` is held.
    pub(crate) fn has_above(&self, id: PageId, lsn: Lsn) -> bool {
        let shard = self.shard(id).read();
        let newest = shard.get(id).and_then(|entry| entry.newest.as_ref());
        newest.is_some_and(|newest| newest.start > lsn)
    }

    fn shard(&self, id: PageId) -> &RwLock<Shard> {
        // Neighbors go to different shards; the multiplier spreads ids with a common stride.
        &self.shards[(spread(id) >> 32) as usize % SHARD_COUNT]
    }
}

impl Version {
    fn is_open(&self) -> bool {
        self.end == OPEN
    }
}

impl Entry {
    fn touch(&self) {
        // Most pages are touched already: the line stays shared between readers.
        if !self.referenced.load(Ordering::Relaxed) {
            self.referenced.store(true, Ordering::Relaxed);
        }
    }

    /// The versions by falling start.
    fn falling(&self) -> impl Iterator<Item = &Version> {
        self.newest.iter().chain(self.older.iter().rev())
    }

    fn len(&self) -> usize {
        self.older.len() + usize::from(self.newest.is_some())
    }

    /// The version that begins at `start`.
    fn starting_at(&mut self, start: Lsn) -> Option<&mut Version> {
        let mut versions = self.newest.iter_mut().chain(&mut self.older);
        versions.find(|version| version.start == start)
    }

    /// Whether no version begins above `start`.
    fn is_newest(&self, start: Lsn) -> bool {
        let newest = self.newest.as_ref();
        newest.is_none_or(|newest| newest.start <= start)
    }

    /// Puts a version in its place. None begins where it does.
    fn insert(&mut self, version: Version) {
        if self.is_newest(version.start) {
            self.older.extend(self.newest.replace(version));
        } else {
            let before = |older: &Version| older.start < version.start;
            self.older
                .insert(self.older.partition_point(before), version);
        }
    }

    /// Whether a version that is known differs from a page that starts at `start` and is said to hold through `through`.
    /// What the writer knows itself is right; a segment that says otherwise is not believed.
    fn contradicts(&self, start: Lsn, through: Lsn) -> bool {
        self.falling().any(|version| {
            if version.start < start {
                version.end >= start
            } else {
                version.start > start && version.start <= through
            }
        })
    }

    /// Takes out the versions for which `goes` holds; how many.
    fn drop_versions(&mut self, spare: &mut SparePages, goes: impl Fn(&Version) -> bool) -> usize {
        let before = self.len();
        let newest = self.newest.take_if(|version| goes(version));
        let gone = self.older.extract_if(.., |version| goes(version));
        gone.chain(newest)
            .for_each(|version| spare.give(version.page));
        if self.newest.is_none() {
            self.newest = self.older.pop();
        }
        before - self.len()
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
        let entry = shard.get_or_insert_with(id, || {
            self.clock.push_back(id);
            Entry::default()
        });
        if let Some(before) = &mut entry.newest {
            assert!(
                before.start < start,
                "page {id} at {start} follows {}",
                before.start
            );
            if before.is_open() {
                // The first record after the version ends it; between that and `start` nothing is known.
                before.end = first.checked_minus(1).expect("it follows a record");
                self.closed.push_back((point, id));
            }
        }
        entry.insert(Version {
            start,
            end: OPEN,
            page,
        });
        // A long snapshot keeps versions of a hot page, but only the ones that somebody reads.
        if entry.len() > VERSIONS_MAX {
            let announced = announced.get_or_insert_with(|| self.shared.announced());
            self.charged_count -= entry.drop_versions(&mut self.spare, |version| {
                if version.is_open() || version.end >= self.vdl {
                    return false;
                }
                let next = announced.partition_point(|&read_point| read_point < version.start);
                announced
                    .get(next)
                    .is_none_or(|&read_point| read_point > version.end)
            });
        }
    }

    /// Whether a page that was fetched at read point `through` contradicts what the writer knows: then it is damaged, however
    /// sound it looks.
    pub(crate) fn contradicts(&self, page: &Page, through: Lsn) -> bool {
        let shard = self.shared.cache.shard(page.id()).read();
        let start = page.lsn();
        shard
            .get(page.id())
            .is_some_and(|entry| entry.contradicts(start, through))
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
            let entry = shard.get_or_insert_with(id, || {
                self.clock.push_back(id);
                Entry::default()
            });
            if entry.contradicts(start, through) {
                return;
            }
            let end = if open && entry.is_newest(start) {
                OPEN
            } else {
                through
            };
            if let Some(same) = entry.starting_at(start) {
                same.end = same.end.max(end);
            } else {
                entry.insert(Version {
                    start,
                    end,
                    page: Arc::clone(page),
                });
                self.charged_count += 1;
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
            let Some(entry) = shard.get_mut(id) else {
                continue;
            };
            self.charged_count -= entry.drop_versions(&mut self.spare, |version| {
                !version.is_open() && version.end < read_point_min
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
            let Some(entry) = shard.get_mut(id) else {
                continue;
            };
            let referenced = entry.referenced.swap(false, Ordering::Relaxed);
            if !referenced && !self.pins.contains_key(&id) {
                let all = planted(Mutant::EvictionAboveVdl);
                self.charged_count -= entry
                    .drop_versions(&mut self.spare, |version| version.start <= self.vdl || all);
            }
            if entry.newest.is_none() {
                shard.remove(id);
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
