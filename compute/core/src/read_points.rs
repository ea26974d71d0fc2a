//! Announced read points (R28): what readers still need, cheap to announce from any thread.
//!
//! The order is what makes it safe: a reader announces first and reads VDL afterwards; whoever asks for the lowest reads VDL
//! first and looks at the announcements afterwards. A reader that was not seen therefore uses a VDL that is not below the
//! one that the asker read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use sixfold_log_format::Lsn;

/// Read points that are announced without a lock; more go to the overflow.
const SLOT_COUNT: usize = 256;

/// A cache line of its own, so that readers do not slow each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot(AtomicU64);

/// All announced read points. A slot holds the LSN plus one, 0 when it is free.
#[derive(Debug)]
pub(crate) struct ReadPoints {
    slots: Box<[Slot]>,
    hint: AtomicUsize,
    overflow: Mutex<BTreeMap<Lsn, usize>>,
    overflow_count: AtomicUsize,
}

/// Where a read point was announced.
#[derive(Debug)]
pub(crate) enum Place {
    /// In a slot.
    Slot(usize),
    /// In the overflow.
    Overflow(Lsn),
}

impl ReadPoints {
    pub(crate) fn new() -> ReadPoints {
        ReadPoints {
            slots: (0..SLOT_COUNT).map(|_| Slot::default()).collect(),
            hint: AtomicUsize::new(0),
            overflow: Mutex::new(BTreeMap::new()),
            overflow_count: AtomicUsize::new(0),
        }
    }

    /// Announces `lsn` until [`ReadPoints::withdraw`].
    pub(crate) fn announce(&self, lsn: Lsn) -> Place {
        let start = self.hint.fetch_add(1, Ordering::Relaxed);
        for step in 0..SLOT_COUNT {
            let index = start.wrapping_add(step) % SLOT_COUNT;
            let slot = &self.slots[index].0;
            let free = slot.load(Ordering::Relaxed) == 0;
            let word = word_of(lsn);
            if free
                && slot
                    .compare_exchange(0, word, Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok()
            {
                return Place::Slot(index);
            }
        }
        let mut overflow = self.overflow.lock();
        *overflow.entry(lsn).or_insert(0) += 1;
        self.overflow_count.fetch_add(1, Ordering::SeqCst);
        Place::Overflow(lsn)
    }

    /// Announces a later read point in the same place, if it can; what stays lower holds back more than needed.
    pub(crate) fn raise(&self, place: &Place, lsn: Lsn) {
        if let Place::Slot(index) = *place {
            self.slots[index].0.store(word_of(lsn), Ordering::SeqCst);
        }
    }

    /// The read point is not needed any more.
    pub(crate) fn withdraw(&self, place: &Place) {
        match *place {
            Place::Slot(index) => self.slots[index].0.store(0, Ordering::SeqCst),
            Place::Overflow(lsn) => {
                let mut overflow = self.overflow.lock();
                let count = overflow
                    .get_mut(&lsn)
                    .expect("an announced point stays until withdrawn");
                *count -= 1;
                if *count == 0 {
                    overflow.remove(&lsn);
                }
                self.overflow_count.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// Every announced read point, sorted. One that is being announced just now uses a VDL that is not below the one that the
    /// caller has read before.
    pub(crate) fn sorted(&self) -> Vec<Lsn> {
        let words = self.slots.iter().map(|slot| slot.0.load(Ordering::SeqCst));
        let mut points: Vec<Lsn> = words
            .filter(|&word| word != 0)
            .map(|word| Lsn::new(word - 1))
            .collect();
        points.extend(self.overflow.lock().keys());
        points.sort_unstable();
        points
    }

    /// The lowest announced read point. The caller has read VDL before.
    pub(crate) fn lowest(&self) -> Option<Lsn> {
        let words = self.slots.iter().map(|slot| slot.0.load(Ordering::SeqCst));
        let lowest = words
            .filter(|&word| word != 0)
            .min()
            .map(|word| Lsn::new(word - 1));
        if self.overflow_count.load(Ordering::SeqCst) == 0 {
            return lowest;
        }
        let overflow = self.overflow.lock().first_key_value().map(|(&lsn, _)| lsn);
        lowest.into_iter().chain(overflow).min()
    }
}

fn word_of(lsn: Lsn) -> u64 {
    lsn.next().get()
}
