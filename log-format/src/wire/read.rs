//! Page reads.

use bytes::Bytes;

use super::Refusal;
use super::payload::{Input, Output, Payload};
use crate::codec::{Put, Reader, length_u32};
use crate::error::DecodeError;
use crate::field::{Field, struct_field, take_list};
use crate::id::{PageId, SegmentId, VolumeEpoch};
use crate::limits::PAGES_REQUEST_COUNT_MAX;
use crate::lsn::Lsn;

/// One page at one point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// The page.
    pub page: PageId,
    /// The read point `L`.
    pub lsn: Lsn,
    /// `T`: the PG's last LSN at or below the reader's VDL. A segment serves the read when SCL >= min(L, T) (R26).
    pub pg_last: Lsn,
}

/// Asks a segment for pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPages {
    /// The segment.
    pub segment: SegmentId,
    /// The reader's history: the segment must hold the same (R3).
    pub history_epoch: VolumeEpoch,
    /// The pages.
    pub pages: Vec<PageRequest>,
}

/// Answers [`ReadPages`], in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pages {
    /// One answer for each request.
    pub pages: Vec<PageAnswer>,
}

/// One page, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageAnswer {
    /// The encoded page ([`crate::Page::encode`]). A page that was never written comes as an empty one with LSN 0.
    Page(Bytes),
    /// Refused.
    Refused(Refusal),
}

struct_field!(PageRequest { page, lsn, pg_last });

impl Field for ReadPages {
    fn put(&self, out: &mut Vec<u8>) {
        self.segment.put(out);
        self.history_epoch.put(out);
        self.pages.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(ReadPages {
            segment: SegmentId::take(input)?,
            history_epoch: VolumeEpoch::take(input)?,
            pages: take_list(input.field("page count"), PAGES_REQUEST_COUNT_MAX)?,
        })
    }
}

/// A page's place in an answer: its length, since the pages stand behind all places, or the refusal.
enum Place {
    Page { length: u32 },
    Refused(Refusal),
}

impl Field for Place {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Place::Page { length } => {
                out.push(0);
                out.put_u32(*length);
            }
            Place::Refused(refusal) => refusal.put(out),
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if input.peek() == Some(0) {
            input.u8()?;
            return Ok(Place::Page {
                length: input.u32()?,
            });
        }
        Ok(Place::Refused(Refusal::take(input)?))
    }
}

impl Payload for Pages {
    fn put(&self, out: &mut Output) {
        out.head.put_u32(length_u32(self.pages.len()));
        for answer in &self.pages {
            match answer {
                PageAnswer::Page(bytes) => {
                    Place::Page {
                        length: length_u32(bytes.len()),
                    }
                    .put(&mut out.head);
                    out.put_rest(bytes);
                }
                PageAnswer::Refused(refusal) => {
                    Place::Refused(refusal.clone()).put(&mut out.head);
                }
            }
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let places: Vec<Place> =
            take_list(input.reader.field("page count"), PAGES_REQUEST_COUNT_MAX)?;
        let mut pages = Vec::with_capacity(places.len());
        for place in places {
            pages.push(match place {
                Place::Page { length } => PageAnswer::Page(input.bytes(length)?),
                Place::Refused(refusal) => PageAnswer::Refused(refusal),
            });
        }
        Ok(Pages { pages })
    }
}
