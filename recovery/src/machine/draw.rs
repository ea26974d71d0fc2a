//! What a recovery draws at random, all of it from one seed: pauses and writer ids.

use std::time::Duration;

use sixfold_log_format::WriterId;

/// Shortest pause after a lost race.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest part of the first pause that is drawn; it doubles with each lost race, to sixteen times as much.
const PAUSE_DRAWN: Duration = Duration::from_millis(40);
const PAUSE_DOUBLINGS_MAX: u32 = 4;

/// A small generator (SplitMix64). It decides who yields in a race, never what is right.
#[derive(Debug)]
pub(super) struct Draw {
    state: u64,
}

impl Draw {
    /// Two candidates never draw the same, even with one seed: their writer ids differ.
    pub(super) fn new(seed: u64, writer: WriterId) -> Draw {
        let mut draw = Draw { state: seed };
        for half in writer.as_bytes().chunks_exact(8) {
            let half = half
                .iter()
                .fold(0_u64, |number, &byte| (number << 8) | u64::from(byte));
            draw.state = draw.next() ^ half;
        }
        draw
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// An id for a new attempt (R8).
    pub(super) fn writer(&mut self) -> WriterId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next().to_le_bytes());
        bytes[15] |= 1; // never nobody
        WriterId::from_bytes(bytes)
    }

    /// How long to stand back after the `lost_count`-th lost race (R8).
    pub(super) fn pause(&mut self, lost_count: u32) -> Duration {
        let span = PAUSE_DRAWN * (1 << lost_count.min(PAUSE_DOUBLINGS_MAX));
        let span_us = u64::try_from(span.as_micros()).expect("pauses are short");
        PAUSE_MIN + Duration::from_micros(self.next() % span_us)
    }

    /// Some time shorter than `span`; none when that is shorter than a microsecond.
    pub(super) fn below(&mut self, span: Duration) -> Duration {
        let span_us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.next().checked_rem(span_us).unwrap_or(0))
    }
}
