//! Times in the log: the stamps of batches and the clock records never go back, whoever writes and whatever wall clocks do (T5, R29).

use std::collections::BTreeMap;

use sixfold_log_format::{Lsn, PgId};

use super::Bad;

/// Stamps of what stands in the log, by LSN.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    clock: BTreeMap<Lsn, u64>,
    batches: BTreeMap<PgId, BTreeMap<Lsn, u64>>,
}

impl Stamps {
    /// A clock record of the log.
    pub(crate) fn clock_record(&mut self, lsn: Lsn, unix_ms: u64) -> Result<(), Bad> {
        in_order(&mut self.clock, lsn, unix_ms, "clock record")
    }

    /// A batch of the log.
    pub(crate) fn batch(&mut self, pg: PgId, first: Lsn, unix_ms: u64) -> Result<(), Bad> {
        let of_pg = self.batches.entry(pg).or_default();
        in_order(of_pg, first, unix_ms, "batch")
    }

    /// What the last clock record says.
    pub(crate) fn clock_ms(&self) -> u64 {
        self.clock.values().next_back().copied().unwrap_or(0)
    }

    /// The volume's clock at a point: 0 before the first clock record.
    pub(crate) fn clock_at(&self, lsn: Lsn) -> u64 {
        let last = self.clock.range(..=lsn).next_back();
        last.map_or(0, |(_, unix_ms)| *unix_ms)
    }

    /// What is gone counts no more.
    pub(crate) fn truncate(&mut self, gone: impl Fn(&Lsn) -> bool) {
        self.clock.retain(|lsn, _| !gone(lsn));
        for of_pg in self.batches.values_mut() {
            of_pg.retain(|lsn, _| !gone(lsn));
        }
    }
}

fn in_order(
    stamps: &mut BTreeMap<Lsn, u64>,
    lsn: Lsn,
    unix_ms: u64,
    what: &str,
) -> Result<(), Bad> {
    let before = stamps.range(..lsn).next_back();
    if let Some((at, stamp)) = before.filter(|(_, stamp)| **stamp > unix_ms) {
        return Err(format!(
            "the {what} at {lsn} is stamped {unix_ms}, the one at {at} before it {stamp} (R29)"
        ));
    }
    let after = stamps.range(lsn..).next();
    if let Some((at, stamp)) = after.filter(|(_, stamp)| **stamp < unix_ms) {
        return Err(format!(
            "the {what} at {lsn} is stamped {unix_ms}, the one at {at} behind it {stamp} (R29)"
        ));
    }
    stamps.insert(lsn, unix_ms);
    Ok(())
}
