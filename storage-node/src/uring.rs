//! The io_uring door: the only file that names io-uring, and the only one with unsafe code.
//!
//! ```text
//!   write/read ─▶ waiting ─▶ slot (owns the buffer) ─▶ kernel ─▶ reap ─▶ Completion
//! ```
//!
//! An operation owns its buffer and its file from the call until its completion was reaped. Dropping the ring waits for
//! what is in flight, so that the kernel never writes into freed memory. Short transfers are continued here. Completions
//! are announced on an eventfd in the reactor; the door itself never blocks but in `drop`, and decides nothing.
//!
//! The daemon's ring runs without `DEFER_TASKRUN` (F5): completions are posted whenever this thread enters the kernel, sleeping
//! in `epoll_wait` included, and each posting signals the eventfd, so that no wake-up can be lost. `COOP_TASKRUN` spares
//! the interrupt that would post them a little earlier while the thread is running. Deferred, registered files and registered
//! buffers were measured and bring nothing (docs/decisions/2026-11-23-plain-operations.md); [`Setup`] keeps that repeatable.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use bytes::Bytes;
use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use sixfold_storage_node_core::{DiskError, DiskToken, IoBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::witness::{Told, WriteNumber};

/// Most operations in flight; more wait in order.
pub const IN_FLIGHT_MAX: u32 = 256;
/// Most writes in flight that nobody waits for: the device's queue stays short for those that somebody does.
const BEHIND_IN_FLIGHT_MAX: usize = 4;
/// `IOPRIO_CLASS_BE`, the lowest of its levels, for them; schedulers that know priorities heed it.
const BEHIND_PRIORITY: u16 = (2 << 13) | 7;
/// `RWF_DSYNC` of `linux/fs.h`: the completion of a write means that it is durable, however the file was opened.
const RWF_DSYNC: i32 = 2;
/// A transfer that ends off this unit ended at the end of the file: direct I/O moves whole sectors.
const SECTOR_BYTES: usize = 512;
/// How often an operation that the kernel interrupts is tried again before it counts as failed.
const TRIES_MAX: u8 = 16;
/// How often a submission is tried again that the kernel has no memory for.
const SUBMIT_TRIES_MAX: u32 = 10_000;

/// How a ring is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// `SINGLE_ISSUER | COOP_TASKRUN`: the daemon's, where the kernel has them.
    Cooperative,
    /// `SINGLE_ISSUER | DEFER_TASKRUN`: completions are posted only by an enter that asks for events (F5).
    Deferred,
    /// No flags: for kernels before 6.0, with an interrupt more.
    Plain,
}

/// An operation that ended.
#[derive(Debug)]
pub enum Completion {
    /// A write is durable, or failed.
    Written {
        /// Which.
        token: DiskToken,
        /// How it went.
        result: Result<(), DiskError>,
    },
    /// A read ended.
    Read {
        /// Which.
        token: DiskToken,
        /// The bytes, fewer than asked for only at the end of the file.
        result: Result<Bytes, DiskError>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    /// A write that is synced later, by somebody else.
    WriteBehind,
}

/// An operation and everything that the kernel may look at while it runs.
struct Operation {
    token: DiskToken,
    kind: Kind,
    file: Rc<File>,
    offset: u64,
    buf: IoBuf,
    /// Bytes moved so far.
    done: usize,
    tries: u8,
    /// Under which number a witness knows it.
    told: Option<WriteNumber>,
}

impl Operation {
    /// Takes the kernel's result: bytes moved, or a negated error. `None` when the rest has to be submitted, else how the
    /// operation ended.
    fn advance(&mut self, result: i32) -> Option<Result<(), Errno>> {
        let Ok(moved) = usize::try_from(result) else {
            let error = Errno::from_raw_os_error(result.wrapping_neg());
            self.tries += 1;
            let transient = error == Errno::INTR || error == Errno::AGAIN;
            return if transient && self.tries < TRIES_MAX {
                None
            } else {
                Some(Err(error))
            };
        };
        let length = self.buf.as_ref().len();
        assert!(
            moved <= length - self.done,
            "the kernel moved more than was asked for"
        );
        self.done += moved;
        if self.done == length {
            return Some(Ok(()));
        }
        let ended = moved == 0 || !self.done.is_multiple_of(SECTOR_BYTES);
        match self.kind {
            Kind::Read if ended => Some(Ok(())),
            Kind::Write | Kind::WriteBehind if ended => Some(Err(Errno::IO)),
            Kind::Read | Kind::Write | Kind::WriteBehind => None,
        }
    }

    fn complete(self, result: Result<(), Errno>) -> Completion {
        let token = self.token;
        let result = result.map_err(|error| {
            tracing::error!(kind = ?self.kind, offset = self.offset, bytes = self.buf.as_ref().len(), %error, "the disk failed an operation: look at it, and replace the node if it does so again");
            disk_error(error)
        });
        match self.kind {
            Kind::Write | Kind::WriteBehind => Completion::Written { token, result },
            Kind::Read => {
                let done = self.done;
                let buf = self.buf;
                Completion::Read {
                    token,
                    result: result.map(|()| Bytes::from_owner(buf).slice(..done)),
                }
            }
        }
    }
}

/// What the core is told of a system error.
pub(crate) fn disk_error(error: Errno) -> DiskError {
    match error {
        Errno::NOSPC | Errno::DQUOT => DiskError::Full,
        _ => DiskError::Failed,
    }
}

/// A ring, used by the thread that made it.
pub struct Ring {
    ring: IoUring,
    /// Fixed in length: a buffer's address may be with the kernel, and its owner stays where it is.
    slots: Box<[Option<Operation>]>,
    free: Vec<usize>,
    in_flight: usize,
    /// Entries that stand in the submission queue and have not been taken by the kernel.
    unsubmitted: usize,
    /// Beyond [`IN_FLIGHT_MAX`]; bounded by whoever asks (the core's bounds).
    waiting: VecDeque<Operation>,
    /// Writes that nobody waits for, beyond [`BEHIND_IN_FLIGHT_MAX`].
    waiting_behind: VecDeque<Operation>,
    behind_in_flight: usize,
    event: OwnedFd,
    told: Told,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("in_flight", &self.in_flight)
            .field("waiting", &self.waiting.len())
            .field("waiting_behind", &self.waiting_behind.len())
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring of this thread, as the kernel has it: a kernel that knows no flags gives one without.
    ///
    /// # Errors
    /// `ENOSYS` or `EPERM` where the host allows no io_uring; other errors when it is short of something.
    pub fn new() -> io::Result<Ring> {
        Ring::first_of(&[Setup::Cooperative, Setup::Plain])
    }

    /// The first of these setups that the kernel knows.
    fn first_of(setups: &[Setup]) -> io::Result<Ring> {
        let (last, others) = setups.split_last().expect("there is always one more");
        for setup in others {
            match Ring::with(*setup) {
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
                other => return other,
            }
        }
        Ring::with(*last)
    }

    /// A ring of this thread, set up in one way.
    ///
    /// # Errors
    /// As [`Ring::new`]; `EINVAL` where the kernel does not know the setup.
    pub fn with(setup: Setup) -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        match setup {
            Setup::Cooperative => builder
                .setup_single_issuer()
                .setup_coop_taskrun()
                .setup_taskrun_flag(),
            Setup::Deferred => builder
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_taskrun_flag(),
            Setup::Plain => &mut builder,
        };
        let ring: IoUring = builder.build(IN_FLIGHT_MAX)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let count = IN_FLIGHT_MAX as usize;
        Ok(Ring {
            ring,
            slots: std::iter::repeat_with(|| None).take(count).collect(),
            free: (0..count).rev().collect(),
            in_flight: 0,
            unsubmitted: 0,
            waiting: VecDeque::new(),
            waiting_behind: VecDeque::new(),
            behind_in_flight: 0,
            event,
            told: Told::default(),
        })
    }

    /// Who is told of writes from now on.
    pub(crate) fn tell(&mut self, told: Told) {
        self.told = told;
    }

    /// What tells that completions are there to be reaped. Must be called inside a tokio runtime with its I/O driver on.
    ///
    /// # Errors
    /// When no file descriptor is left.
    pub fn watch(&self) -> io::Result<Watch> {
        let event = self.event.try_clone()?;
        // SAFETY: the descriptor is owned by the watch, so that it stays open, and the same one, until the watch is dropped
        // and has taken it out of the reactor.
        let event = unsafe { AsyncFd::register_with_interest(event, Interest::READABLE) }?;
        Ok(Watch { event })
    }

    /// Operations that have not been reaped.
    pub fn pending(&self) -> usize {
        self.in_flight + self.waiting.len() + self.waiting_behind.len()
    }

    /// Queues a synced write. The door owns the buffer until the completion.
    ///
    /// # Panics
    /// When `bytes` is empty.
    pub fn write(&mut self, token: DiskToken, file: Rc<File>, offset: u64, bytes: IoBuf) {
        self.queue(Operation {
            token,
            kind: Kind::Write,
            file,
            offset,
            buf: bytes,
            done: 0,
            tries: 0,
            told: None,
        });
    }

    /// Queues a write that is not synced: for files that are synced as a whole later. Whatever else is queued goes first, and only a
    /// few of these are in flight at a time.
    ///
    /// # Panics
    /// When `bytes` is empty.
    pub fn write_behind(&mut self, token: DiskToken, file: Rc<File>, offset: u64, bytes: IoBuf) {
        self.queue(Operation {
            token,
            kind: Kind::WriteBehind,
            file,
            offset,
            buf: bytes,
            done: 0,
            tries: 0,
            told: None,
        });
    }

    /// Queues a read of `bytes` bytes.
    ///
    /// # Panics
    /// When `bytes` is 0.
    pub fn read(&mut self, token: DiskToken, file: Rc<File>, offset: u64, bytes: u32) {
        let buf = IoBuf::zeroed(bytes as usize);
        self.queue(Operation {
            token,
            kind: Kind::Read,
            file,
            offset,
            buf,
            done: 0,
            tries: 0,
            told: None,
        });
    }

    fn queue(&mut self, operation: Operation) {
        assert!(
            !operation.buf.as_ref().is_empty(),
            "an operation moves at least one byte"
        );
        match operation.kind {
            Kind::Read | Kind::Write => self.waiting.push_back(operation),
            Kind::WriteBehind => self.waiting_behind.push_back(operation),
        }
        self.fill();
    }

    /// Moves waiting operations into free slots.
    fn fill(&mut self) {
        while !self.free.is_empty() {
            let Some(mut operation) = self.next_waiting() else {
                return;
            };
            if operation.kind != Kind::Read {
                let (bytes, is_synced) =
                    (operation.buf.as_ref().len(), operation.kind == Kind::Write);
                let (file, offset) = (&operation.file, operation.offset);
                operation.told = self.told.write_begins(file, offset, bytes, is_synced);
            }
            let slot = self.free.pop().expect("checked above");
            assert!(self.slots[slot].is_none());
            self.slots[slot] = Some(operation);
            self.in_flight += 1;
            self.push(slot);
        }
    }

    fn next_waiting(&mut self) -> Option<Operation> {
        if let Some(operation) = self.waiting.pop_front() {
            return Some(operation);
        }
        if self.behind_in_flight == BEHIND_IN_FLIGHT_MAX {
            return None;
        }
        let operation = self.waiting_behind.pop_front()?;
        self.behind_in_flight += 1;
        Some(operation)
    }

    /// Puts what is left of the operation in `slot` into the submission queue.
    fn push(&mut self, slot: usize) {
        let operation = self.slots[slot]
            .as_mut()
            .expect("only called for a slot in use");
        let file = types::Fd(operation.file.as_raw_fd());
        let offset = operation.offset + operation.done as u64;
        let rest = &mut operation.buf.as_mut()[operation.done..];
        let length = u32::try_from(rest.len()).expect("a group or a read is far below 4 GiB");
        let entry: squeue::Entry = match operation.kind {
            Kind::Write => opcode::Write::new(file, rest.as_ptr(), length)
                .offset(offset)
                .rw_flags(RWF_DSYNC)
                .build(),
            Kind::WriteBehind => opcode::Write::new(file, rest.as_ptr(), length)
                .offset(offset)
                .ioprio(BEHIND_PRIORITY)
                .build(),
            Kind::Read => opcode::Read::new(file, rest.as_mut_ptr(), length)
                .offset(offset)
                .build(),
        };
        let entry = entry.user_data(slot as u64);
        // SAFETY: the entry names a descriptor and `length` bytes of memory. Both are owned by the operation in `slot`,
        // which nobody touches before its completion was reaped (`reap`) or awaited (`drop`); where neither can be, the
        // operation is leaked. The slots never move, and a buffer's bytes live on the heap.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("the queue has an entry for each slot, and a slot has one entry at most");
        self.unsubmitted += 1;
    }

    /// Hands what was queued to the kernel, in one system call. Does nothing when nothing was.
    ///
    /// # Errors
    /// When the kernel takes no more; the ring is then of no use.
    pub fn submit(&mut self) -> io::Result<()> {
        let mut tries = 0;
        while self.unsubmitted > 0 {
            match self.ring.submit() {
                Ok(taken) => self.unsubmitted -= taken.min(self.unsubmitted),
                Err(error) if is_transient(&error) && tries < SUBMIT_TRIES_MAX => {
                    tries += 1;
                    std::thread::yield_now();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves the operations that ended into `ended`, and starts what waited for a free slot. Never blocks.
    ///
    /// # Errors
    /// As [`Ring::submit`].
    pub fn reap(&mut self, ended: &mut Vec<Completion>) -> io::Result<()> {
        if self.in_flight == 0 {
            return Ok(());
        }
        if self.ring.submission().taskrun() {
            // Completions wait for this thread to enter the kernel; `submit` does so when this flag is up.
            match self.ring.submit() {
                Ok(taken) => self.unsubmitted -= taken.min(self.unsubmitted),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        while let Some((slot, result)) = self.next_completion() {
            let operation = self.slots[slot]
                .as_mut()
                .expect("a completion is of a slot in use");
            match operation.advance(result) {
                None => self.push(slot),
                Some(outcome) => {
                    let operation = self.release(slot);
                    let outcome = match outcome {
                        Ok(()) if !self.told.write_ended(operation.told) => Err(Errno::IO),
                        outcome => outcome,
                    };
                    ended.push(operation.complete(outcome));
                }
            }
        }
        self.fill();
        self.submit()
    }

    fn next_completion(&mut self) -> Option<(usize, i32)> {
        let entry = self.ring.completion().next()?;
        let slot = usize::try_from(entry.user_data()).expect("user data is a slot");
        Some((slot, entry.result()))
    }

    fn release(&mut self, slot: usize) -> Operation {
        let operation = self.slots[slot]
            .take()
            .expect("a completion is of a slot in use");
        self.free.push(slot);
        self.in_flight -= 1;
        if operation.kind == Kind::WriteBehind {
            self.behind_in_flight -= 1;
        }
        operation
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.in_flight > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if is_transient(&error) => {}
                Err(_) => {
                    // The kernel may still write into these buffers: they must never be freed.
                    self.slots
                        .iter_mut()
                        .for_each(|slot| std::mem::forget(slot.take()));
                    return;
                }
            }
            while let Some((slot, _)) = self.next_completion() {
                drop(self.release(slot));
            }
        }
    }
}

/// Tells that a ring has completions.
#[derive(Debug)]
pub struct Watch {
    event: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Returns when completions were posted since the last call returned. Call [`Ring::reap`] behind it.
    ///
    /// The eventfd is watched edge-triggered and never read, which saves a system call for each write: what was posted
    /// before the readiness is cleared here is reaped afterwards, and what is posted later is an edge of its own.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn signaled(&self) -> io::Result<()> {
        self.event.readable().await?.clear_ready();
        Ok(())
    }
}

fn is_transient(error: &io::Error) -> bool {
    [Errno::INTR, Errno::AGAIN, Errno::BUSY]
        .iter()
        .any(|known| error.raw_os_error() == Some(known.raw_os_error()))
}

#[cfg(test)]
#[path = "uring_tests.rs"]
mod uring_tests;
