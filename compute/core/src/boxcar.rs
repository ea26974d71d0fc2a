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
    /// By PG number: the stamp of its open batch.
    stamps_ms: Vec<u64>,
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
            stamps_ms: vec![0; pg_last.len()],
            last_cpl: base,
            last_point: base,
        }
    }

    /// A group was appended to the volume; it is empty.
    pub(crate) fn add_group(&mut self, volume: VolumeId, pg: PgId, volume_epoch: VolumeEpoch) {
        assert_eq!(pg.get() as usize, self.open.len(), "groups are dense");
        self.open
            .push(BatchBuilder::new(volume, pg, volume_epoch, Lsn::NONE));
        self.stamps_ms.push(0);
    }

    /// Adds a record; `unix_ms` stamps the batch that it begins, if it does. Returns the batch that was full, if there was one: it ends inside an MTR or behind a CPL that is no
    /// seal point; only the next seal counts it.
    pub(crate) fn push(
        &mut self,
        pg: PgId,
        record: &Record<'_>,
        vdl: Lsn,
        unix_ms: u64,
    ) -> Option<Batch> {
        let number = pg.get() as usize;
        let (open, stamp_ms) = (&mut self.open[number], &mut self.stamps_ms[number]);
        if open.is_empty() {
            *stamp_ms = unix_ms;
        }
        let full = if open.push(record) {
            None
        } else {
            let full = open.seal(vdl, *stamp_ms);
            *stamp_ms = unix_ms;
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
    pub(crate) fn seal(&mut self, vdl: Lsn) -> Sealed {
        assert!(self.has_open(), "nothing to seal above {}", self.last_point);
        let mut parts = Vec::new();
        let mut batches = Vec::new();
        let open = self.open.iter_mut().zip(&self.stamps_ms);
        for (number, (open, stamp_ms)) in (0..).zip(open) {
            if open.last() > self.last_point {
                parts.push((PgId::new(number), open.last()));
            }
            if !open.is_empty() {
                batches.push(open.seal(vdl, *stamp_ms));
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
