//! Cuts a stream of bytes into frames.
//!
//! Chunks arrive as QUIC delivers them, with borders that mean nothing. A frame that lies inside one chunk is handed on
//! as a slice of it; one that spans chunks is put together in a buffer of its own, which grows with what has arrived,
//! not with what the length claims. It does not look into frames.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// Length of the length that opens a frame.
const LENGTH_BYTES: usize = 4;
/// A frame that spans chunks gets this much room, or its length if that is less, before more of it has arrived.
const FIRST_ROOM_BYTES: usize = 64 << 10;

/// A frame claims to be longer than allowed. Nothing after it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong {
    /// What it claims, bytes.
    pub(crate) bytes: usize,
}

/// The bytes between two frames.
#[derive(Debug)]
pub(crate) struct FrameReader {
    frame_bytes_max: usize,
    chunks: VecDeque<Bytes>,
    /// What has arrived of the length of a frame that spans chunks.
    length: [u8; LENGTH_BYTES],
    length_held: usize,
    /// What has arrived of its body.
    body: Vec<u8>,
}

impl FrameReader {
    pub(crate) fn new(frame_bytes_max: usize) -> FrameReader {
        FrameReader {
            frame_bytes_max,
            chunks: VecDeque::new(),
            length: [0; LENGTH_BYTES],
            length_held: 0,
            body: Vec::new(),
        }
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    /// Whether bytes were taken that are not part of a whole frame.
    pub(crate) fn is_inside_frame(&self) -> bool {
        self.length_held > 0 || !self.chunks.is_empty()
    }

    /// The body of the next frame; `None` until more bytes come.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Bytes>, TooLong> {
        if let Some(body) = self.slice_whole_frame()? {
            return Ok(Some(body));
        }
        loop {
            if self.length_held == LENGTH_BYTES {
                let claimed = self.claimed(self.length)?;
                if self.body.len() == claimed {
                    self.length_held = 0;
                    return Ok(Some(Bytes::from(std::mem::take(&mut self.body))));
                }
                if !self.move_into_body(claimed) {
                    return Ok(None);
                }
            } else if !self.move_into_length() {
                return Ok(None);
            }
        }
    }

    /// The usual case: between frames, and the first chunk holds a whole one.
    fn slice_whole_frame(&mut self) -> Result<Option<Bytes>, TooLong> {
        if self.length_held > 0 {
            return Ok(None);
        }
        let Some(length) = self.chunks.front().and_then(|chunk| chunk.first_chunk()) else {
            return Ok(None);
        };
        let claimed = self.claimed(*length)?;
        let chunk = self.chunks.front_mut().expect("its length was just read");
        if chunk.len() - LENGTH_BYTES < claimed {
            return Ok(None);
        }
        chunk.advance(LENGTH_BYTES);
        let body = chunk.split_to(claimed);
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
        Ok(Some(body))
    }

    fn claimed(&self, length: [u8; LENGTH_BYTES]) -> Result<usize, TooLong> {
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > self.frame_bytes_max {
            return Err(TooLong { bytes });
        }
        Ok(bytes)
    }

    /// False when no bytes are left.
    fn move_into_length(&mut self) -> bool {
        let Some(chunk) = self.chunks.front_mut() else {
            return false;
        };
        let count = chunk.len().min(LENGTH_BYTES - self.length_held);
        chunk.copy_to_slice(&mut self.length[self.length_held..self.length_held + count]);
        self.length_held += count;
        self.drop_empty_chunk();
        true
    }

    /// False when no bytes are left.
    fn move_into_body(&mut self, claimed: usize) -> bool {
        let Some(chunk) = self.chunks.front_mut() else {
            return false;
        };
        let held = self.body.len();
        let count = chunk.len().min(claimed - held);
        if self.body.capacity() - held < count {
            let room = FIRST_ROOM_BYTES
                .max(2 * self.body.capacity())
                .max(held + count);
            self.body.reserve_exact(room.min(claimed) - held);
        }
        self.body.extend_from_slice(&chunk[..count]);
        chunk.advance(count);
        self.drop_empty_chunk();
        true
    }

    fn drop_empty_chunk(&mut self) {
        if self.chunks.front().is_some_and(Bytes::is_empty) {
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
#[path = "frame_reader_tests.rs"]
mod frame_reader_tests;
