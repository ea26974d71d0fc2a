//! Batches: the unit that is sealed, shipped, acknowledged, appended and gossiped.
//!
//! All six segments of a protection group get the same bytes: encoded once, checksummed once, verified on arrival,
//! stored verbatim, verified again on every read from disk. The volume's id is not in the header but in the
//! checksum's seed (F9), so that a batch of another volume never verifies.
//!
//! ```text
//! | header, 72 bytes | runs, varints | records |
//! ```

mod builder;
mod header;

use bytes::Bytes;

use crate::codec::Reader;
use crate::error::DecodeError;
use crate::id::{PageId, PgId, VolumeEpoch, VolumeId};
use crate::lsn::Lsn;
use crate::record::Record;
use crate::record_codec::{decode_record, decode_record_of};

pub use builder::BatchBuilder;
pub use header::{BATCH_HEADER_BYTES, BATCH_VERSION};

/// What a batch says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHeader {
    /// The protection group.
    pub pg: PgId,
    /// The epoch of the writer that sealed it. It stays when the batch is refilled or gossiped later (R7).
    pub volume_epoch: VolumeEpoch,
    /// LSN of its first record.
    pub first: Lsn,
    /// LSN of its last record.
    pub last: Lsn,
    /// The back-link: the PG's highest LSN below `first` that is not annulled (R5); [`Lsn::NONE`] at the beginning.
    pub prev: Lsn,
    /// VDL when it was sealed; true whatever becomes of the batch (R17).
    pub vdl: Lsn,
    /// Wall-clock milliseconds when it was sealed, never below an earlier batch's.
    pub unix_ms: u64,
    /// How many records it holds.
    pub record_count: u32,
    /// The half-open runs of LSNs `[start, end)` that it holds, in order; more than one when other PGs' records lie
    /// between.
    pub runs: Vec<(Lsn, Lsn)>,
    /// Checksum over everything behind it, seeded with the volume's id. Two batches are the same when
    /// first LSN, epoch and checksum are (R13).
    pub checksum: u32,
}

/// A batch whose checksum was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    bytes: Bytes,
    records_start: usize,
}

/// A record of a batch and where it stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<'a> {
    /// The record.
    pub record: Record<'a>,
    /// Offset of its first byte in the batch.
    pub offset: usize,
}

impl Batch {
    /// Verifies `bytes` as one whole batch of `volume`: length, version, checksum and every record.
    ///
    /// # Errors
    /// [`DecodeError`] when anything is not as it should be.
    pub fn decode(bytes: Bytes, volume: VolumeId) -> Result<Batch, DecodeError> {
        let (header, records_start) = header::decode(&bytes, volume)?;
        let mut walk = Walk::new(&bytes, records_start, &header.runs);
        while walk.advance()?.is_some() {}
        walk.input.finish()?;
        Ok(Batch {
            header,
            bytes,
            records_start,
        })
    }

    /// Its header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The bytes as they are stored and shipped.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its size in bytes.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Its records, in LSN order. They were checked by [`Batch::decode`], so that no error can occur.
    pub fn records(&self) -> impl Iterator<Item = Placed<'_>> {
        let mut walk = Walk::new(&self.bytes, self.records_start, &self.header.runs);
        std::iter::from_fn(move || {
            walk.advance()
                .expect("every record was checked when the batch was")
        })
    }

    /// The LSNs in it that end an MTR, in order.
    pub fn cpls(&self) -> impl Iterator<Item = Lsn> {
        self.records()
            .filter(|placed| placed.record.is_cpl())
            .map(|placed| placed.record.lsn)
    }

    /// The one record at `offset`, which [`Batch::records`] gave with this `lsn` and `page`. Saves walking through the
    /// records before it.
    ///
    /// # Panics
    /// When no record begins there.
    pub fn record_at(&self, offset: usize, lsn: Lsn, page: PageId) -> Record<'_> {
        let mut input = Reader::starting_at("record", &self.bytes, offset);
        decode_record_of(&mut input, lsn, page).expect("a record that was walked over begins there")
    }
}

/// A walk over records: what [`Batch::decode`] checks and [`Batch::records`] yields is the same code.
struct Walk<'a> {
    input: Reader<'a>,
    runs: std::slice::Iter<'a, (Lsn, Lsn)>,
    next: Lsn,
    run_end: Lsn,
    page: PageId,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], records_start: usize, runs: &'a [(Lsn, Lsn)]) -> Walk<'a> {
        Walk {
            input: Reader::starting_at("record", bytes, records_start),
            runs: runs.iter(),
            next: Lsn::NONE,
            run_end: Lsn::NONE,
            page: PageId::NONE,
        }
    }

    #[inline]
    fn advance(&mut self) -> Result<Option<Placed<'a>>, DecodeError> {
        if self.next == self.run_end {
            match self.runs.next() {
                Some((start, end)) => (self.next, self.run_end) = (*start, *end),
                None => return Ok(None),
            }
        }
        let offset = self.input.offset();
        let record = decode_record(&mut self.input, self.next, self.page)?;
        self.next = self.next.next();
        self.page = record.page;
        Ok(Some(Placed { record, offset }))
    }
}
