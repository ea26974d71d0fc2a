//! What waits to be sent on one stream: bounded, encoded, in order.
//!
//! The driver puts frames in without waiting; the stream's task takes them out and waits for the peer's window. A peer that
//! reads too slowly fills its outbox and loses its connection; it costs nobody else anything.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use sixfold_log_format::wire::Frame;
use tokio::sync::Notify;

/// Most bytes that wait on one stream: the longest answer (a log request's, 16 MiB) and as much again.
pub(crate) const STREAM_BYTES_MAX: usize = 32 << 20;
/// Most frames that wait on one stream.
pub(crate) const STREAM_FRAMES_MAX: usize = 65_536;
/// Most bytes that wait on all streams together.
pub(crate) const TOTAL_BYTES_MAX: usize = 256 << 20;

/// There is no room for a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// This stream's peer reads too slowly.
    Stream,
    /// All streams together hold too much. Whoever holds most is to go; then the frame may be pushed again.
    Total(Frame),
}

/// Frames of one stream.
#[derive(Debug)]
pub(crate) struct Outbox {
    frames: RefCell<VecDeque<Frame>>,
    queued_bytes: Cell<usize>,
    /// Nothing comes behind what is queued.
    ending: Cell<bool>,
    changed: Notify,
    total_bytes: Rc<Cell<usize>>,
}

impl Outbox {
    /// An empty outbox that counts its bytes into `total_bytes` too.
    pub(crate) fn new(total_bytes: Rc<Cell<usize>>) -> Outbox {
        Outbox {
            frames: RefCell::default(),
            queued_bytes: Cell::new(0),
            ending: Cell::new(false),
            changed: Notify::new(),
            total_bytes,
        }
    }

    /// Queues a frame; ignored behind the end.
    pub(crate) fn push(&self, frame: Frame) -> Result<(), Full> {
        if self.ending.get() {
            return Ok(());
        }
        let bytes = frame_bytes(&frame);
        let mut frames = self.frames.borrow_mut();
        if self.queued_bytes.get() + bytes > STREAM_BYTES_MAX || frames.len() >= STREAM_FRAMES_MAX {
            return Err(Full::Stream);
        }
        if self.total_bytes.get() + bytes > TOTAL_BYTES_MAX {
            return Err(Full::Total(frame));
        }
        frames.push_back(frame);
        self.queued_bytes.set(self.queued_bytes.get() + bytes);
        self.total_bytes.set(self.total_bytes.get() + bytes);
        self.changed.notify_one();
        Ok(())
    }

    /// Says that nothing more comes.
    pub(crate) fn end(&self) {
        self.ending.set(true);
        self.changed.notify_one();
    }

    /// Drops what is queued; nothing is sent any more. For a connection that is being closed.
    pub(crate) fn cut(&self) {
        while self.pop().is_some() {}
        self.end();
    }

    /// Bytes that are queued.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes.get()
    }

    /// The next frame to send; `None` when all were sent and the end was said.
    pub(crate) async fn next(&self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.pop() {
                return Some(frame);
            }
            if self.ending.get() {
                return None;
            }
            self.changed.notified().await;
        }
    }

    fn pop(&self) -> Option<Frame> {
        let frame = self.frames.borrow_mut().pop_front()?;
        let bytes = frame_bytes(&frame);
        self.queued_bytes.set(self.queued_bytes.get() - bytes);
        self.total_bytes.set(self.total_bytes.get() - bytes);
        Some(frame)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.total_bytes
            .set(self.total_bytes.get() - self.queued_bytes.get());
    }
}

fn frame_bytes(frame: &Frame) -> usize {
    frame.head.len() + frame.tail.iter().map(bytes::Bytes::len).sum::<usize>()
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod outbox_tests;
