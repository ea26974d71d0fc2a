//! Both ends of a layer: the header, which says whose file it is, and the footer, which says where everything stands.
//!
//! The footer is what the builder knows only at the end;
//! the file has no other place that is written twice.

use super::{
    BLOCK_BYTES_LIMIT, LAYER_BYTES_MAX, LAYER_FOOTER_BYTES, LAYER_HEADER_BYTES, LAYER_VERSION,
    LayerIdentity, LayerNumber, LayerOptions, LayerSummary,
};
use crate::codec::{Put, Reader};
use crate::error::DecodeError;
use crate::field::Field;
use crate::hot_log::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN};
use crate::lsn::Lsn;
use crate::zone::Zone;

const HEADER: Zone = Zone {
    name: "layer header",
    magic: *b"SIXFLAYR",
    version: LAYER_VERSION,
};
const FOOTER: Zone = Zone {
    name: "layer footer",
    magic: *b"SIXFLEND",
    version: LAYER_VERSION,
};

/// The first bytes of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerHeader {
    /// Who wrote it.
    pub identity: LayerIdentity,
    /// See [`LayerOptions::lsn_after`].
    pub lsn_after: Lsn,
    /// See [`LayerOptions::lsn_through`].
    pub lsn_through: Lsn,
    /// Alignment unit of the file, bytes.
    pub unit_bytes: u32,
}

fn begin(zone: Zone, header: &LayerHeader) -> Vec<u8> {
    let mut out = zone.begin();
    out.put_u32(header.unit_bytes);
    header.identity.put(&mut out);
    header.lsn_after.put(&mut out);
    header.lsn_through.put(&mut out);
    out
}

/// Reads what header and footer share.
fn take_common(zone: Zone, bytes: &[u8]) -> Result<(LayerHeader, Reader<'_>), DecodeError> {
    let mut input = zone.check(bytes)?;
    let header = take_header(&mut input)?;
    Ok((header, input))
}

fn take_header(input: &mut Reader<'_>) -> Result<LayerHeader, DecodeError> {
    let unit_bytes = input.u32()?;
    if !unit_bytes.is_power_of_two() || !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&unit_bytes) {
        return Err(input.invalid_field("unit", u64::from(unit_bytes)));
    }
    let header = LayerHeader {
        identity: Field::take(input)?,
        lsn_after: Field::take(input)?,
        lsn_through: Field::take(input)?,
        unit_bytes,
    };
    if header.lsn_after >= header.lsn_through {
        return Err(input.invalid_field("LSN range", header.lsn_through.get()));
    }
    Ok(header)
}

pub(super) fn encode_header(options: &LayerOptions) -> Vec<u8> {
    let header = LayerHeader {
        identity: options.identity,
        lsn_after: options.lsn_after,
        lsn_through: options.lsn_through,
        unit_bytes: options.unit_bytes,
    };
    Zone::end(begin(HEADER, &header), LAYER_HEADER_BYTES)
}

impl LayerHeader {
    /// Reads the header. `bytes` are the start of the file, [`LAYER_HEADER_BYTES`] at least.
    ///
    /// # Errors
    /// [`DecodeError`] when it is not one.
    pub fn decode(bytes: &[u8]) -> Result<LayerHeader, DecodeError> {
        let bytes = Reader::new(HEADER.name, bytes).take(LAYER_HEADER_BYTES)?;
        let (header, mut input) = take_common(HEADER, bytes)?;
        input.zeros(input.remaining())?;
        Ok(header)
    }
}

pub(super) fn encode_footer(summary: &LayerSummary) -> Vec<u8> {
    let mut out = begin(FOOTER, &summary.header());
    summary.put_rest(&mut out);
    Zone::end(out, LAYER_FOOTER_BYTES)
}

impl LayerSummary {
    /// What the header of the file must say.
    pub fn header(&self) -> LayerHeader {
        LayerHeader {
            identity: self.identity,
            lsn_after: self.lsn_after,
            lsn_through: self.lsn_through,
            unit_bytes: self.unit_bytes,
        }
    }

    /// Reads the footer of a file of `file_bytes` bytes. `tail` are the last bytes of the file, [`LAYER_FOOTER_BYTES`] at
    /// least: its last unit, for example.
    ///
    /// # Errors
    /// [`DecodeError`] when the file does not end with the footer of a layer of that length.
    pub fn decode_footer(tail: &[u8], file_bytes: u64) -> Result<LayerSummary, DecodeError> {
        let start = tail.len().saturating_sub(LAYER_FOOTER_BYTES);
        let bytes = Reader::new(FOOTER.name, &tail[start..]).take(LAYER_FOOTER_BYTES)?;
        let (header, mut input) = take_common(FOOTER, bytes)?;
        let summary = LayerSummary::take_rest(&mut input, &header)?;
        if summary.file_bytes != file_bytes {
            return Err(input.invalid_field("file length", summary.file_bytes));
        }
        input.zeros(input.remaining())?;
        Ok(summary)
    }

    fn put_rest(&self, out: &mut Vec<u8>) {
        self.page_first.put(out);
        self.page_last.put(out);
        out.put_u64(self.file_bytes);
        out.put_u64(self.record_count);
        out.put_u64(self.image_count);
        out.put_u64(self.page_count);
        out.put_u32(self.block_count);
        out.put_u32(self.file_checksum);
        out.put_u64(self.index_offset);
        out.put_u32(self.index_bytes);
        out.put_u32(self.filter_bytes);
    }

    fn take_rest(
        input: &mut Reader<'_>,
        header: &LayerHeader,
    ) -> Result<LayerSummary, DecodeError> {
        let page_first = Field::take(input)?;
        let page_last = Field::take(input)?;
        let file_bytes = input.u64()?;
        let record_count = input.u64()?;
        let image_count = input.u64()?;
        let page_count = input.u64()?;
        let block_count = input.u32()?;
        let summary = LayerSummary {
            identity: header.identity,
            lsn_after: header.lsn_after,
            lsn_through: header.lsn_through,
            unit_bytes: header.unit_bytes,
            file_bytes,
            page_first,
            page_last,
            page_count,
            record_count,
            image_count,
            block_count,
            file_checksum: input.u32()?,
            index_offset: input.u64()?,
            index_bytes: input.u32()?,
            filter_bytes: input.u32()?,
        };
        summary.check(input)?;
        Ok(summary)
    }

    /// What must hold whatever the layer is, so that nothing computed from it leaves the file.
    fn check(&self, input: &Reader<'_>) -> Result<(), DecodeError> {
        let unit = u64::from(self.unit_bytes);
        if self.file_bytes > LAYER_BYTES_MAX || !self.file_bytes.is_multiple_of(unit) {
            return Err(input.invalid_field("file length", self.file_bytes));
        }
        if self.page_first > self.page_last || self.page_first.get() == 0 {
            return Err(input.invalid_field("page range", self.page_first.get()));
        }
        let entry_count = self.record_count.checked_add(self.image_count);
        if self.page_count == 0 || entry_count.is_none_or(|count| count < self.page_count) {
            return Err(input.invalid_field("page count", self.page_count));
        }
        let data_bytes = self.index_offset.checked_sub(LAYER_HEADER_BYTES as u64);
        let blocks_bytes_max = u64::from(self.block_count) * BLOCK_BYTES_LIMIT as u64;
        if data_bytes.is_none_or(|bytes| bytes == 0 || bytes > blocks_bytes_max) {
            return Err(input.invalid_field("index offset", self.index_offset));
        }
        let parts = u64::from(self.index_bytes) + u64::from(self.filter_bytes);
        let end = self
            .index_offset
            .checked_add(parts + LAYER_FOOTER_BYTES as u64);
        if end.is_none_or(|end| end.next_multiple_of(unit) != self.file_bytes) {
            return Err(input.invalid_field("index length", parts));
        }
        Ok(())
    }
}

impl Field for LayerNumber {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.0);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u64()? {
            0 => Err(input.invalid_field("layer number", 0)),
            number => Ok(LayerNumber(number)),
        }
    }
}

impl Field for LayerIdentity {
    fn put(&self, out: &mut Vec<u8>) {
        self.pg.put(out);
        self.volume.put(out);
        self.segment.put(out);
        self.layer.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let pg = Field::take(input)?;
        Ok(LayerIdentity {
            volume: Field::take(input)?,
            pg,
            segment: Field::take(input)?,
            layer: Field::take(input)?,
        })
    }
}

/// As it stands in a catalog: unit, identity, LSN range, then as in the footer.
impl Field for LayerSummary {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u32(self.unit_bytes);
        self.identity.put(out);
        self.lsn_after.put(out);
        self.lsn_through.put(out);
        self.put_rest(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let header = take_header(input)?;
        LayerSummary::take_rest(input, &header)
    }
}
