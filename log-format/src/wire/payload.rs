//! Messages that carry batches, pages or parts of layers: payloads stand last, behind all fields, and are copied neither
//! when the message is encoded nor when it is decoded.

use bytes::Bytes;

use crate::codec::{Put, Reader, length_u32};
use crate::error::DecodeError;
use crate::field::take_list;

/// A message on its way to a frame.
pub(super) struct Output {
    /// The fields.
    pub(super) head: Vec<u8>,
    /// The payloads.
    pub(super) tail: Vec<Bytes>,
}

impl Output {
    /// The next payload. Its length is in the fields, or it is the rest of the message.
    pub(super) fn put_rest(&mut self, payload: &Bytes) {
        self.tail.push(payload.clone());
    }

    /// A list of payloads: their count and lengths among the fields.
    pub(super) fn put_list(&mut self, payloads: &[Bytes]) {
        self.head.put_u32(length_u32(payloads.len()));
        for payload in payloads {
            self.head.put_u32(length_u32(payload.len()));
            self.put_rest(payload);
        }
    }
}

/// A message on its way from a frame.
pub(super) struct Input<'a> {
    body: &'a Bytes,
    pub(super) reader: Reader<'a>,
}

impl<'a> Input<'a> {
    pub(super) fn new(zone: &'static str, body: &'a Bytes) -> Input<'a> {
        Input {
            body,
            reader: Reader::new(zone, body),
        }
    }

    /// The next payload, of `length` bytes; it shares the frame's memory.
    pub(super) fn bytes(&mut self, length: u32) -> Result<Bytes, DecodeError> {
        let taken = self.reader.take(length as usize)?;
        Ok(self.body.slice_ref(taken))
    }

    /// All that is left, as one payload.
    pub(super) fn rest(&mut self) -> Bytes {
        self.body.slice_ref(self.reader.rest())
    }

    /// A list of payloads.
    pub(super) fn list(&mut self) -> Result<Vec<Bytes>, DecodeError> {
        let lengths: Vec<u32> = take_list(self.reader.field("batch count"), usize::MAX)?;
        lengths
            .into_iter()
            .map(|length| self.bytes(length))
            .collect()
    }
}

/// A message with payloads.
pub(super) trait Payload: Sized {
    fn put(&self, out: &mut Output);
    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError>;
}
