//! The truncation history of a volume: which LSNs were annulled by which reopening.

use crate::codec::{Put, Reader, length_u32};
use crate::error::DecodeError;
use crate::field::{Field, struct_field, take_list};
use crate::id::VolumeEpoch;
use crate::limits::HISTORY_RANGES_MAX;
use crate::lsn::Lsn;

/// The version of histories that this build writes and reads.
pub const HISTORY_VERSION: u16 = 1;
/// Bytes of a history before its ranges.
pub const HISTORY_HEADER_BYTES: usize = 22;
/// Bytes of an annulled range.
pub const ANNULLED_RANGE_BYTES: usize = 24;

const ZONE: &str = "history";

/// LSNs that a reopening annulled: `(after, through]`, exclusive and inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnnulledRange {
    /// The last LSN that stayed: the VDL that the reopening found.
    pub after: Lsn,
    /// The last LSN that was annulled. It is a consistency point: after the reopening VDL = VCL = `through` (R1).
    pub through: Lsn,
    /// The volume epoch of the writer that annulled it.
    pub volume_epoch: VolumeEpoch,
}

/// All annulled ranges of a volume, as one whole: histories are compared by epoch, the highest wins, and they
/// are never merged with each other (R1).
///
/// Invariants (kept by `sixfold-recovery` and checked when decoded): ranges are sorted, do not overlap, are not
/// empty, lie above `floor`, and no range has an epoch above `volume_epoch`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct History {
    /// The epoch of the reopening that wrote this history. Only a completed fence has one.
    pub volume_epoch: VolumeEpoch,
    /// Everything at or below is settled: ranges below it were folded away.
    pub floor: Lsn,
    /// The ranges, sorted.
    pub ranges: Vec<AnnulledRange>,
}

impl History {
    /// The history of a volume that was never reopened.
    pub fn creation() -> History {
        History {
            volume_epoch: VolumeEpoch::CREATION,
            floor: Lsn::NONE,
            ranges: Vec::new(),
        }
    }

    /// Whether the record at `lsn` was annulled, whatever epoch sealed it: a record inside a range whose epoch is not
    /// below the range's cannot exist, since that writer minted above the range (R1); it counts as annulled too.
    pub fn annuls(&self, lsn: Lsn) -> bool {
        self.range_of(lsn).is_some()
    }

    /// The range that holds `lsn`, if any.
    pub fn range_of(&self, lsn: Lsn) -> Option<AnnulledRange> {
        let index = self.ranges.partition_point(|range| range.through < lsn);
        self.ranges
            .get(index)
            .copied()
            .filter(|range| range.after < lsn)
    }

    /// The last LSN up to which this history and another one annul the same; [`Lsn::MAX`] where they are alike. Also what one of them
    /// alone brings back counts: a loser's range is missing in the history above it (R1).
    pub fn agrees_through(&self, other: &History) -> Lsn {
        let lacks = |of: &'_ History, range: &AnnulledRange| !of.ranges.contains(range);
        let here = self.ranges.iter().filter(|range| lacks(other, range));
        let there = other.ranges.iter().filter(|range| lacks(self, range));
        let first = here.chain(there).map(|range| range.after).min();
        first.unwrap_or(Lsn::MAX)
    }

    /// The highest end of any range, or the floor.
    pub fn highest_end(&self) -> Lsn {
        self.ranges.last().map_or(self.floor, |range| range.through)
    }

    /// Its bytes, as they stand in messages and hot-log entries too.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_bytes());
        self.put(&mut out);
        out
    }

    /// How many bytes [`History::encode`] gives.
    pub fn encoded_bytes(&self) -> usize {
        HISTORY_HEADER_BYTES + ANNULLED_RANGE_BYTES * self.ranges.len()
    }

    /// Reads a history and checks its invariants.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that is not one whole history.
    pub fn decode(bytes: &[u8]) -> Result<History, DecodeError> {
        let mut input = Reader::new(ZONE, bytes);
        let history = History::take(&mut input)?;
        input.finish()?;
        Ok(history)
    }

    fn check(&self, input: &Reader<'_>) -> Result<(), DecodeError> {
        let mut end = self.floor;
        for range in &self.ranges {
            if range.after < end {
                return Err(input.invalid_field("after", range.after.get()));
            }
            if range.through <= range.after || range.through == Lsn::MAX {
                return Err(input.invalid_field("through", range.through.get()));
            }
            if range.volume_epoch > self.volume_epoch {
                return Err(input.invalid_field("volume epoch", range.volume_epoch.get()));
            }
            end = range.through;
        }
        Ok(())
    }
}

struct_field!(AnnulledRange {
    after,
    through,
    volume_epoch
});

impl Field for History {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u16(HISTORY_VERSION);
        self.volume_epoch.put(out);
        self.floor.put(out);
        out.put_u32(length_u32(self.ranges.len()));
        for range in &self.ranges {
            range.put(out);
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let zone = input.set_zone(ZONE);
        let version = input.u16()?;
        if version != HISTORY_VERSION {
            return Err(DecodeError::Version {
                zone: ZONE,
                found: version,
                supported: HISTORY_VERSION,
            });
        }
        let history = History {
            volume_epoch: VolumeEpoch::take(input)?,
            floor: Lsn::take(input)?,
            ranges: take_list(input.field("range count"), HISTORY_RANGES_MAX)?,
        };
        history.check(input)?;
        input.set_zone(zone);
        Ok(history)
    }
}
