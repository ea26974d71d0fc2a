//! The live tail: the newest batches at or below VDL, for all watchers together.
//!
//! [`WatchTail`] is the writer's: it gathers what is sealed and hands it over when VDL has reached it. [`WatchShared`] is what
//! watchers on other threads read. Nothing is gathered while nobody watches. The ring is bounded in bytes: what falls out is read from
//! the log again by whoever still needs it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Batch, History, Lsn, PgId, VolumeId};

use crate::shared::ReadPoint;

/// Records behind VDL at which what a watcher holds back is let go.
const HELD_RECORDS_MAX: u64 = 1_000_000;
/// How far VDL moves between two looks at what watchers hold back, records.
const HELD_LOOK_RECORDS: u64 = 4_096;

/// All batches that one seal ended. It ends at a CPL, so that no MTR spans two of them.
#[derive(Debug)]
pub(crate) struct SealedGroup {
    /// The seal point.
    pub(crate) through: Lsn,
    /// In no order; each is of another protection group, or a full one that was sealed before.
    pub(crate) batches: Vec<Batch>,
    bytes: usize,
}

/// What the ring has behind a point.
#[derive(Debug)]
pub(crate) enum Tail {
    /// The group that holds what follows.
    Group(Arc<SealedGroup>),
    /// Nothing: the point is where the ring ends.
    End,
    /// What follows must be read from the log.
    NotHere,
}

/// The ring. Invariant: `groups` hold exactly the batches of the writer's seals in `(covered_after, through]`.
#[derive(Debug)]
struct Ring {
    groups: VecDeque<Arc<SealedGroup>>,
    bytes: usize,
    bytes_max: usize,
    covered_after: Lsn,
    through: Lsn,
    /// Whether it follows VDL.
    live: bool,
}

/// What watchers share with the writer and with each other.
#[derive(Debug)]
pub struct WatchShared {
    pub(crate) volume: VolumeId,
    /// The history of this writer; a longer one when it opens the volume again in place.
    history: Mutex<Arc<History>>,
    /// How many protection groups take records; never fewer than any record says that VDL has reached.
    group_count: AtomicUsize,
    watcher_count: AtomicUsize,
    ring: Mutex<Ring>,
    held: Mutex<Held>,
}

/// Read points that watchers hold (see [`WatchSeat::hold`]).
#[derive(Debug, Default)]
struct Held {
    points: BTreeMap<u64, ReadPoint>,
    next_seat: u64,
    looked_at: Lsn,
}

/// Being counted as a watcher. While one lives, the writer keeps the ring.
#[derive(Debug)]
pub struct WatchSeat {
    shared: Arc<WatchShared>,
    number: u64,
}

impl WatchShared {
    /// For the writer that opened at `base` with this history.
    pub(crate) fn new(
        volume: VolumeId,
        history: History,
        group_count: usize,
        base: Lsn,
        bytes_max: usize,
    ) -> WatchShared {
        WatchShared {
            volume,
            history: Mutex::new(Arc::new(history)),
            group_count: AtomicUsize::new(group_count),
            watcher_count: AtomicUsize::new(0),
            ring: Mutex::new(Ring {
                groups: VecDeque::new(),
                bytes: 0,
                bytes_max,
                covered_after: base,
                through: base,
                live: false,
            }),
            held: Mutex::default(),
        }
    }

    /// The history under which everything that was published is to be read.
    pub(crate) fn history(&self) -> Arc<History> {
        Arc::clone(&self.history.lock())
    }

    /// The writer opened the volume again in place. Said before anything is published under the new epoch.
    pub(crate) fn reopened(&self, history: History) {
        *self.history.lock() = Arc::new(history);
    }

    /// Protection groups that take records.
    pub(crate) fn pgs(&self) -> Vec<PgId> {
        let count = u32::try_from(self.group_count.load(Ordering::SeqCst));
        let count = count.expect("groups are numbered by 32 bits");
        (0..count).map(PgId::new).collect()
    }

    /// More groups take records. Said before there is one.
    pub(crate) fn set_groups(&self, count: usize) {
        self.group_count.store(count, Ordering::SeqCst);
    }

    /// Takes a seat.
    pub fn sit(self: &Arc<Self>) -> WatchSeat {
        let number = {
            let mut held = self.held.lock();
            held.next_seat += 1;
            held.next_seat
        };
        self.watcher_count.fetch_add(1, Ordering::SeqCst);
        WatchSeat {
            shared: Arc::clone(self),
            number,
        }
    }

    /// How many watch, and how many bytes of redo the ring holds for them.
    pub fn usage(&self) -> (usize, usize) {
        let watchers = self.watcher_count.load(Ordering::SeqCst);
        (watchers, self.ring.lock().bytes)
    }

    fn is_watched(&self) -> bool {
        self.watcher_count.load(Ordering::Relaxed) > 0
    }

    /// What the ring has behind `position`.
    pub(crate) fn after(&self, position: Lsn) -> Tail {
        let ring = self.ring.lock();
        if !ring.live || position < ring.covered_after {
            return Tail::NotHere;
        }
        let next = ring
            .groups
            .partition_point(|group| group.through <= position);
        ring.groups
            .get(next)
            .map_or(Tail::End, |group| Tail::Group(Arc::clone(group)))
    }

    /// Lets go of read points that hold back too much.
    fn release_held(&self, vdl: Lsn) {
        let mut held = self.held.lock();
        if vdl.since(held.looked_at) < HELD_LOOK_RECORDS {
            return;
        }
        held.looked_at = vdl;
        held.points
            .retain(|_, point| vdl.since(point.lsn()) <= HELD_RECORDS_MAX);
    }
}

impl WatchSeat {
    /// Holds a read point for this watcher in place of the one before, so that what its commits changed stays readable. It is let go when
    /// the watcher falls behind too far: a watcher that nobody asks any more must not hold the horizon back for ever. `vdl`: published VDL.
    pub fn hold(&self, point: ReadPoint, vdl: Lsn) {
        if vdl.since(point.lsn()) > HELD_RECORDS_MAX {
            return;
        }
        // What was held before is dropped outside the lock.
        let _before = self.shared.held.lock().points.insert(self.number, point);
    }

    /// The point that is held.
    pub fn held(&self) -> Option<Lsn> {
        let held = self.shared.held.lock();
        held.points.get(&self.number).map(ReadPoint::lsn)
    }
}

impl Drop for WatchSeat {
    fn drop(&mut self) {
        let _held = self.shared.held.lock().points.remove(&self.number);
        if self.shared.watcher_count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.ring.lock().clear();
        }
    }
}

impl Ring {
    /// Adds a group at the end.
    fn push(&mut self, group: SealedGroup) {
        assert!(
            group.through > self.through,
            "a group that ends at {} behind {}",
            group.through,
            self.through
        );
        self.through = group.through;
        self.bytes += group.bytes;
        self.groups.push_back(Arc::new(group));
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.groups.pop_front()
        {
            self.bytes -= oldest.bytes;
            self.covered_after = oldest.through;
        }
    }

    /// Forgets everything; what follows is added as before.
    fn clear(&mut self) {
        self.groups.clear();
        self.bytes = 0;
        self.covered_after = self.through;
    }

    /// Begins anew behind `after`.
    fn restart(&mut self, after: Lsn) {
        self.through = after;
        self.clear();
        self.live = true;
    }
}

/// What the writer has sealed and VDL has not reached, while somebody watches. It holds the bytes of batches that the writer
/// retains anyway (R15), so that it needs no bound of its own.
#[derive(Debug)]
pub(crate) struct WatchTail {
    shared: Arc<WatchShared>,
    recording: bool,
    open: Vec<Batch>,
    sealed: VecDeque<SealedGroup>,
}

impl WatchTail {
    pub(crate) fn new(shared: Arc<WatchShared>) -> WatchTail {
        WatchTail {
            shared,
            recording: false,
            open: Vec::new(),
            sealed: VecDeque::new(),
        }
    }

    /// A batch was sealed.
    pub(crate) fn push(&mut self, batch: &Batch) {
        if self.recording {
            self.open.push(batch.clone());
        }
    }

    /// All open batches were sealed together at `point`: what was pushed since the seal before is one group.
    pub(crate) fn seal(&mut self, point: Lsn) {
        if self.recording {
            let batches = std::mem::take(&mut self.open);
            let bytes = batches.iter().map(|batch| batch.bytes().len()).sum();
            self.sealed.push_back(SealedGroup {
                through: point,
                batches,
                bytes,
            });
            if planted(Mutant::WatchAboveVdl) {
                self.publish(point);
            }
        }
        let watched = self.shared.is_watched();
        if watched != self.recording {
            self.turn(watched, point);
        }
    }

    /// Begins or ends to record. Only at a seal: a group is never half there.
    fn turn(&mut self, on: bool, point: Lsn) {
        self.recording = on;
        self.sealed.clear();
        let mut ring = self.shared.ring.lock();
        if on {
            ring.restart(point);
        } else {
            ring.clear();
            ring.live = false;
        }
    }

    /// VDL was published: what it has reached is for everybody.
    pub(crate) fn publish(&mut self, vdl: Lsn) {
        if !self.recording {
            return;
        }
        if self
            .sealed
            .front()
            .is_some_and(|front| front.through <= vdl)
        {
            let mut ring = self.shared.ring.lock();
            while let Some(group) = self.sealed.pop_front_if(|group| group.through <= vdl) {
                ring.push(group);
            }
        }
        self.shared.release_held(vdl);
    }
}
