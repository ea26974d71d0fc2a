//! The boxcar: open batches, one for each protection group, sealed together at a CPL without timers (F1, F2).
//!
//! Idle means at once; under load batches fill by themselves while enough sealed sets lack their write quorum.

use sixfold_log_format::{Batch, BatchBuilder, Lsn, PgId, Record, VolumeEpoch, VolumeId};

/// What one seal produced.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// The CPL at which it ends.
    pub(crate) point: Lsn,
    /// Each PG with records since the seal before, and its highest LSN.
    pub(crate) parts: Vec<(PgId, Lsn)>,
    /// The batches, one for each PG that had an open one.
    pub(crate) batches: Vec<Batch>,
}

/// The open batches. Invariant: seal points are CPLs, and rise.
#[derive(Debug)]
pub(crate) struct Boxcar {
    /// By PG number; PGs are dense.
    open: Vec<BatchBuilder>,
    last_cpl: Lsn,
    last_point: Lsn,
}

impl Boxcar {
    /// Empty batches that follow each PG's last valid LSN. `base`: where the volume opened.
    pub(crate) fn new(
        volume: VolumeId,
        volume_epoch: VolumeEpoch,
        base: Lsn,
        pg_last: &[(PgId, Lsn)],
    ) -> Boxcar {
        let builder = |&(pg, last): &(PgId, Lsn)| BatchBuilder::new(volume, pg, volume_epoch, last);
        Boxcar {
            open: pg_last.iter().map(builder).collect(),
            last_cpl: base,
            last_point: base,
        }
    }

    /// Adds a record. Returns the batch that was full, if there was one: it ends inside an MTR or behind a CPL that is no
    /// seal point; only the next seal counts it.
    pub(crate) fn push(
        &mut self,
        pg: PgId,
        record: &Record<'_>,
        vdl: Lsn,
        unix_ms: u64,
    ) -> Option<Batch> {
        let open = &mut self.open[pg.get() as usize];
        let full = if open.push(record) {
            None
        } else {
            let full = open.seal(vdl, unix_ms);
            assert!(
                open.push(record),
                "record {} does not fit an empty batch",
                record.lsn
            );
            Some(full)
        };
        if record.is_cpl() {
            self.last_cpl = record.lsn;
        }
        full
    }

    /// Whether a CPL stands above the last seal point.
    pub(crate) fn has_open(&self) -> bool {
        self.last_cpl > self.last_point
    }

    /// Seals all open batches together at the last CPL.
    ///
    /// # Panics
    /// When nothing is open.
    pub(crate) fn seal(&mut self, vdl: Lsn, unix_ms: u64) -> Sealed {
        assert!(self.has_open(), "nothing to seal above {}", self.last_point);
        let mut parts = Vec::new();
        let mut batches = Vec::new();
        for (number, open) in (0..).zip(&mut self.open) {
            if open.last() > self.last_point {
                parts.push((PgId::new(number), open.last()));
            }
            if !open.is_empty() {
                batches.push(open.seal(vdl, unix_ms));
            }
        }
        self.last_point = self.last_cpl;
        Sealed {
            point: self.last_cpl,
            parts,
            batches,
        }
    }

    /// Bytes in open batches.
    pub(crate) fn open_bytes(&self) -> usize {
        let bytes = |open: &BatchBuilder| if open.is_empty() { 0 } else { open.len_bytes() };
        self.open.iter().map(bytes).sum()
    }
}
