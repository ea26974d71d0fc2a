//! What a segment holds above the highest VDL that it has seen: the runs of a census (R6).
//!
//! Nothing here is filtered by the segment's own history, and holes do not hide what lies behind them: the cut decides.
//! Its size is bounded by what a writer may have unacknowledged; it is sent in pieces.

use std::collections::BTreeMap;

use sixfold_log_format::wire::CensusRun;
use sixfold_log_format::{Batch, Lsn, VolumeEpoch};

use crate::bounds::CENSUS_PIECE_COUNT;

/// Durable batches above the highest VDL seen. Where their CPLs are is looked up when a census is asked for.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    batches: BTreeMap<(Lsn, VolumeEpoch, u32), Batch>,
}

impl Unsettled {
    /// A batch became durable.
    pub(crate) fn add(&mut self, batch: &Batch, vdl_seen: Lsn) {
        let header = batch.header();
        if header.last <= vdl_seen {
            return;
        }
        let key = (header.first, header.volume_epoch, header.checksum);
        self.batches.insert(key, batch.clone());
    }

    /// The highest VDL seen rose.
    pub(crate) fn settle(&mut self, vdl_seen: Lsn) {
        while let Some(entry) = self.batches.first_entry() {
            if entry.get().header().last > vdl_seen {
                break;
            }
            entry.remove();
        }
    }

    /// Everything above `vdl_seen`, in LSN order, cut into pieces (at least one).
    pub(crate) fn pieces(&self, vdl_seen: Lsn) -> Vec<Vec<CensusRun>> {
        let mut pieces = vec![Vec::new()];
        let mut count = 0;
        for run in self.runs(vdl_seen) {
            for part in split(run) {
                let cost = 1 + part.cpls.len();
                if count + cost > CENSUS_PIECE_COUNT && count > 0 {
                    pieces.push(Vec::new());
                    count = 0;
                }
                count += cost;
                pieces.last_mut().expect("starts with one").push(part);
            }
        }
        pieces
    }

    fn runs(&self, vdl_seen: Lsn) -> Vec<CensusRun> {
        let mut runs: Vec<CensusRun> = Vec::new();
        for ((_, volume_epoch, _), batch) in &self.batches {
            let mut cpls = batch.cpls().filter(|cpl| *cpl > vdl_seen).peekable();
            for (start, end) in &batch.header().runs {
                let first = (*start).max(vdl_seen.next());
                let last = end.checked_minus(1).expect("runs are not empty");
                if first > last {
                    continue;
                }
                let mut in_run = Vec::new();
                while let Some(cpl) = cpls.next_if(|cpl| *cpl <= last) {
                    in_run.push(cpl);
                }
                match runs.last_mut() {
                    Some(run) if run.last.next() == first && run.volume_epoch == *volume_epoch => {
                        run.last = last;
                        run.cpls.append(&mut in_run);
                    }
                    _ => runs.push(CensusRun {
                        first,
                        last,
                        volume_epoch: *volume_epoch,
                        cpls: in_run,
                    }),
                }
            }
        }
        runs
    }
}

/// A run with more CPLs than a piece holds becomes several adjacent ones.
fn split(mut run: CensusRun) -> Vec<CensusRun> {
    let mut parts = Vec::new();
    while run.cpls.len() >= CENSUS_PIECE_COUNT {
        let rest = run.cpls.split_off(CENSUS_PIECE_COUNT - 1);
        let last = *run.cpls.last().expect("a piece holds more than one CPL");
        let first = last.next();
        let cpls = std::mem::replace(&mut run.cpls, rest);
        parts.push(CensusRun {
            first: run.first,
            last,
            volume_epoch: run.volume_epoch,
            cpls,
        });
        run.first = first;
    }
    parts.push(run);
    parts
}
