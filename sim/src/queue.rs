//! What will happen, by time; what falls on one time happens in the order in which it was scheduled.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Time;

/// Events to come.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<(Time, u64, u32)>>,
    slots: Vec<Option<E>>,
    free: Vec<u32>,
    count: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Queue<E> {
        Queue {
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            count: 0,
        }
    }

    /// Something happens at `at`.
    pub(crate) fn push(&mut self, at: Time, event: E) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                u32::try_from(self.slots.len() - 1).expect("fewer events than that at once")
            }
        };
        self.heap.push(Reverse((at, self.count, slot)));
        self.count += 1;
    }

    /// What happens next.
    pub(crate) fn pop(&mut self) -> Option<(Time, E)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        let event = self.slots[slot as usize].take();
        Some((at, event.expect("a slot holds its event until it happens")))
    }
}
