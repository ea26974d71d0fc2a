//! Builds a batch: each record is encoded once, into the buffer that is sealed and sent.
//!
//! The runs stand before the records but are only known at the end. The buffer starts with room for a few of them,
//! and sealing writes header and runs right in front of the records, so that nothing moves.

use bytes::Bytes;

use super::header::{
    self, BATCH_HEADER_BYTES, CHECKSUM_BYTES, RUN_COUNT_MAX, checksum_of, encode_runs, run_bytes,
};
use super::{Batch, BatchHeader};
use crate::id::{PageId, PgId, VolumeEpoch, VolumeId};
use crate::limits::BATCH_BYTES_MAX;
use crate::lsn::Lsn;
use crate::record::Record;
use crate::record_codec::encode_record;

/// Room for runs before the records; batches with more runs are moved once.
const RUNS_ROOM_BYTES: usize = 56;
const RECORDS_START: usize = BATCH_HEADER_BYTES + RUNS_ROOM_BYTES;
const BUFFER_BYTES_MIN: usize = 512;
/// Largest buffer that is reserved ahead: a lone commit must not hold a large one until it is acknowledged.
const BUFFER_BYTES_AHEAD: usize = 16 << 10;

/// Collects the records of one protection group until they are sealed.
#[derive(Debug)]
pub struct BatchBuilder {
    volume: VolumeId,
    pg: PgId,
    volume_epoch: VolumeEpoch,
    prev: Lsn,
    /// Header and runs room, then the records; empty when there is no record.
    buffer: Vec<u8>,
    runs: Vec<(Lsn, Lsn)>,
    /// Encoded bytes of all runs but the last.
    closed_runs_bytes: usize,
    record_count: u32,
    page: PageId,
    buffer_bytes_ahead: usize,
}

impl BatchBuilder {
    /// An empty batch that follows `prev`, the PG's last valid LSN.
    pub fn new(volume: VolumeId, pg: PgId, volume_epoch: VolumeEpoch, prev: Lsn) -> BatchBuilder {
        BatchBuilder {
            volume,
            pg,
            volume_epoch,
            prev,
            buffer: Vec::new(),
            runs: Vec::new(),
            closed_runs_bytes: 0,
            record_count: 0,
            page: PageId::NONE,
            buffer_bytes_ahead: BUFFER_BYTES_MIN,
        }
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// How many records it holds.
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    /// The size in bytes of the batch if it were sealed now, at least.
    pub fn len_bytes(&self) -> usize {
        let records_bytes = self.buffer.len().saturating_sub(RECORDS_START);
        BATCH_HEADER_BYTES + self.runs_bytes() + records_bytes
    }

    fn runs_bytes(&self) -> usize {
        let before = self
            .runs
            .len()
            .checked_sub(2)
            .map(|index| self.runs[index].1);
        self.closed_runs_bytes
            + self
                .runs
                .last()
                .map_or(0, |(start, end)| run_bytes(before, *start, *end))
    }

    /// LSN of the last record pushed, or the back-link.
    pub fn last(&self) -> Lsn {
        match self.runs.last() {
            Some((_, end)) => end.checked_minus(1).expect("a run ends above its start"),
            None => self.prev,
        }
    }

    /// Adds a record.
    ///
    /// Returns false, and adds nothing, when the batch would grow past [`crate::limits::BATCH_BYTES_MAX`]: seal it
    /// and push the record into the next one.
    ///
    /// # Panics
    /// When the record's LSN is not above the last one pushed, and when the record breaks a rule of [`Record`] that the
    /// format relies on.
    #[must_use]
    pub fn push(&mut self, record: &Record<'_>) -> bool {
        let last = self.last();
        assert!(
            record.lsn > last,
            "record {} pushed after {last}",
            record.lsn
        );
        let extends = !self.is_empty() && record.lsn == last.next();
        if !extends && self.runs.len() == RUN_COUNT_MAX {
            return false;
        }
        if self.buffer.is_empty() {
            self.buffer.reserve(self.buffer_bytes_ahead);
            self.buffer.resize(RECORDS_START, 0);
        }
        let records_end = self.buffer.len();
        encode_record(&mut self.buffer, record, self.page);
        // The run that the record extends or begins may grow by two varints.
        let growth_max = if extends {
            1
        } else {
            2 * crate::codec::VARINT_BYTES_MAX
        };
        if self.len_bytes() + growth_max > BATCH_BYTES_MAX {
            self.buffer.truncate(records_end);
            return false;
        }
        self.extend_runs(record.lsn, extends);
        self.record_count += 1;
        self.page = record.page;
        true
    }

    fn extend_runs(&mut self, lsn: Lsn, extends: bool) {
        match self.runs.last_mut() {
            Some((_, end)) if extends => *end = lsn.next(),
            _ => {
                self.closed_runs_bytes = self.runs_bytes();
                self.runs.push((lsn, lsn.next()));
            }
        }
    }

    /// Ends the batch. `vdl` is the volume durable LSN now, `unix_ms` the writer's forced-monotone clock. The builder
    /// is left empty, with the sealed batch's last LSN as the next back-link.
    ///
    /// # Panics
    /// When it is empty.
    pub fn seal(&mut self, vdl: Lsn, unix_ms: u64) -> Batch {
        assert!(!self.is_empty(), "a batch without records");
        let batch_bytes = self.len_bytes();
        let last = self.last();
        let mut header = BatchHeader {
            pg: self.pg,
            volume_epoch: self.volume_epoch,
            first: self.runs[0].0,
            last,
            prev: self.prev,
            vdl,
            unix_ms,
            record_count: self.record_count,
            runs: std::mem::take(&mut self.runs),
            checksum: 0,
        };
        let mut front = header::encode(&header, batch_bytes);
        encode_runs(&mut front, &header.runs);
        let records_start = front.len();
        let mut buffer = std::mem::take(&mut self.buffer);
        let start = match RECORDS_START.checked_sub(records_start) {
            Some(start) => {
                buffer[start..RECORDS_START].copy_from_slice(&front);
                start
            }
            None => {
                buffer.splice(..RECORDS_START, front);
                0
            }
        };
        let checksum = checksum_of(&buffer[start..], self.volume);
        buffer[start..start + CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
        header.checksum = checksum;
        let bytes = Bytes::from(buffer).slice(start..);
        assert_eq!(bytes.len(), batch_bytes);

        self.prev = last;
        self.closed_runs_bytes = 0;
        self.record_count = 0;
        self.page = PageId::NONE;
        self.buffer_bytes_ahead =
            (batch_bytes + RUNS_ROOM_BYTES).clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_AHEAD);
        Batch {
            header,
            bytes,
            records_start,
        }
    }
}
