//! What readers on other threads share with the writer: published points, announced read points, the page cache.
//!
//! Readers never wait for the writer here. The writer publishes VDL before it answers any commit at or below it (R28).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sixfold_kv::PageSource;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, Page, PageId};

use crate::page_cache::PageCache;
use crate::read_points::{Place, ReadPoints};
use crate::watch::ring::WatchShared;

/// How often VDL is read again before a read point is taken as it is.
const ANNOUNCE_TRIES: usize = 8;

/// Shared by the writer and its readers. Cheap to use from any thread.
#[derive(Debug)]
pub struct Shared {
    vdl: AtomicU64,
    /// Nanoseconds in the clock of `WriterCore::handle`; 0 = no lease.
    lease_until: AtomicU64,
    reads_served: AtomicBool,
    read_points: ReadPoints,
    watch: std::sync::OnceLock<Arc<WatchShared>>,
    pub(crate) cache: PageCache,
}

/// An announced read point (R28). While it lives, its versions are kept.
#[derive(Debug)]
pub struct ReadPoint {
    shared: Arc<Shared>,
    place: Place,
    lsn: Lsn,
}

/// The pages as of a read point, as far as they are in memory.
#[derive(Debug, Clone)]
pub struct PageView {
    shared: Arc<Shared>,
    lsn: Lsn,
    held: Vec<Arc<Page>>,
}

impl Shared {
    pub(crate) fn new(vdl: Lsn) -> Shared {
        Shared {
            vdl: AtomicU64::new(vdl.get()),
            lease_until: AtomicU64::new(0),
            reads_served: AtomicBool::new(false),
            read_points: ReadPoints::new(),
            watch: std::sync::OnceLock::new(),
            cache: PageCache::new(),
        }
    }

    /// The writer says what its watchers share; once.
    pub(crate) fn set_watch(&self, watch: Arc<WatchShared>) {
        let before = self.watch.set(watch);
        assert!(before.is_ok(), "a writer has one ring for its watchers");
    }

    /// What watchers share.
    pub fn watch(&self) -> &Arc<WatchShared> {
        self.watch.get().expect("the writer set it when it began")
    }

    /// Published VDL.
    pub fn vdl(&self) -> Lsn {
        Lsn::new(self.vdl.load(Ordering::SeqCst))
    }

    /// Until when read points are current (T1), in the clock of `WriterCore::handle`; `None` = no lease. The lease holds
    /// while the clock is *below* it.
    pub fn lease_until(&self) -> Option<Duration> {
        if planted(Mutant::LeaseIgnored) {
            return Some(Duration::MAX);
        }
        match self.lease_until.load(Ordering::SeqCst) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Announces a read point at the published VDL: announced first, then VDL is read again (R28).
    pub fn announce(self: &Arc<Self>) -> ReadPoint {
        if !self.reads_served.load(Ordering::Relaxed) {
            self.reads_served.store(true, Ordering::Relaxed);
        }
        let mut lsn = self.vdl();
        let place = self.read_points.announce(lsn);
        // Read again until it is what was announced, so that the writer keeps just the versions that are read. What is
        // announced is never above what is used, in no moment, so that giving up after some tries is safe.
        for _ in 0..ANNOUNCE_TRIES {
            let vdl = self.vdl();
            if vdl == lsn {
                break;
            }
            self.read_points.raise(&place, vdl);
            lsn = vdl;
        }
        ReadPoint {
            shared: Arc::clone(self),
            place,
            lsn,
        }
    }

    /// Announces a read point in the past; the caller rounded it down to a CPL (R29). `None` when it is above VDL.
    pub fn announce_at(self: &Arc<Self>, lsn: Lsn) -> Option<ReadPoint> {
        if lsn > self.vdl() {
            return None;
        }
        let place = self.read_points.announce(lsn);
        Some(ReadPoint {
            shared: Arc::clone(self),
            place,
            lsn,
        })
    }

    /// Lowest announced read point, or VDL.
    pub fn read_point_min(&self) -> Lsn {
        // VDL first: a reader that announces behind this line uses a VDL that is not below it.
        let vdl = self.vdl();
        self.read_points
            .lowest()
            .map_or(vdl, |lowest| lowest.min(vdl))
    }

    /// Every announced read point, sorted.
    pub(crate) fn announced(&self) -> Vec<Lsn> {
        self.read_points.sorted()
    }

    pub(crate) fn publish_vdl(&self, vdl: Lsn) {
        let before = self.vdl.swap(vdl.get(), Ordering::SeqCst);
        assert!(before <= vdl.get(), "VDL fell from {before} to {vdl}");
    }

    pub(crate) fn publish_lease(&self, until: Option<Duration>) {
        let nanos = until.map_or(0, |until| {
            u64::try_from(until.as_nanos()).unwrap_or(u64::MAX)
        });
        self.lease_until.store(nanos, Ordering::SeqCst);
    }

    /// Whether a current read point was announced since the last call.
    pub(crate) fn take_reads_served(&self) -> bool {
        self.reads_served.swap(false, Ordering::Relaxed)
    }
}

impl ReadPoint {
    /// The read point.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The pages as of it.
    pub fn view(&self) -> PageView {
        PageView {
            shared: Arc::clone(&self.shared),
            lsn: self.lsn,
            held: Vec::new(),
        }
    }
}

/// The pages as of it, those that the cache holds.
impl PageSource for ReadPoint {
    fn page(&self, id: PageId) -> Option<Arc<Page>> {
        self.shared.cache.get(id, self.lsn)
    }
}

impl Drop for ReadPoint {
    fn drop(&mut self) {
        self.shared.read_points.withdraw(&self.place);
    }
}

impl PageView {
    /// Its read point.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Keeps a page that was fetched at this view's read point, so that an operation that runs again finds it although
    /// the cache had no room (R30). Meant for the pages of one operation.
    pub fn hold(&mut self, page: Arc<Page>) {
        if !self.held.iter().any(|held| held.id() == page.id()) {
            self.held.push(page);
        }
    }

    /// Lets go of what [`PageView::hold`] kept.
    pub fn release(&mut self) {
        self.held.clear();
    }
}

impl PageSource for PageView {
    fn page(&self, id: PageId) -> Option<Arc<Page>> {
        let held = self.held.iter().find(|page| page.id() == id);
        held.cloned()
            .or_else(|| self.shared.cache.get(id, self.lsn))
    }
}
