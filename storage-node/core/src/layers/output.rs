//! The files that a freeze or a merge writes: one after the other, each in whole chunks, then synced.

use sixfold_log_format::layer::{
    BLOCK_BYTES_USUAL, CatalogLayer, LAYER_BYTES_MAX, LayerBuilder, LayerIdentity, LayerNumber,
    LayerOptions,
};
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, PgId, SegmentId, VolumeId};

use crate::bounds::COST_BYTES;
use crate::io_buf::IoBuf;

/// What is written at once, bytes: what an append may have to wait behind at the device.
const CHUNK_BYTES: usize = 128 << 10;

/// What an output wants done.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// A write.
    Write(LayerNumber, u64, IoBuf),
    /// A sync: everything of this layer is written.
    Sync(LayerNumber),
}

/// Layers of one run in the making.
#[derive(Debug)]
pub(crate) struct Output {
    options: LayerOptions,
    layer_bytes_max: u64,
    builder: Option<LayerBuilder>,
    /// The layer that was finished and is not synced yet.
    finishing: Option<CatalogLayer>,
    /// Its sync was asked for.
    syncing: bool,
    /// Layers that are synced.
    pub(crate) done: Vec<CatalogLayer>,
    /// Every number that was taken, for whoever has to clean up.
    pub(crate) numbers: Vec<LayerNumber>,
}

impl Output {
    pub(crate) fn new(
        (volume, pg, segment): (VolumeId, PgId, SegmentId),
        (lsn_after, lsn_through): (Lsn, Lsn),
        unit_bytes: u32,
        layer_bytes_max: u64,
    ) -> Output {
        let identity = LayerIdentity {
            volume,
            pg,
            segment,
            layer: LayerNumber::FIRST,
        };
        Output {
            options: LayerOptions {
                identity,
                lsn_after,
                lsn_through,
                unit_bytes,
                block_bytes: BLOCK_BYTES_USUAL,
            },
            // Twice that, with index and filter, is still a layer.
            layer_bytes_max: layer_bytes_max.min(LAYER_BYTES_MAX / 4),
            builder: None,
            finishing: None,
            syncing: false,
            done: Vec::new(),
            numbers: Vec::new(),
        }
    }

    /// The builder that takes entries; `number` gives the number of a new layer.
    pub(crate) fn builder(&mut self, number: impl FnOnce() -> LayerNumber) -> &mut LayerBuilder {
        if self.builder.is_none() {
            let mut options = self.options.clone();
            options.identity.layer = number();
            self.numbers.push(options.identity.layer);
            self.builder = Some(LayerBuilder::new(options));
        }
        self.builder.as_mut().expect("made just now")
    }

    /// Bytes of the layer at hand.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.builder.as_ref().map_or(0, LayerBuilder::data_bytes)
    }

    /// Whether the layer at hand is so long that the next page should begin another one.
    pub(crate) fn is_long(&self) -> bool {
        self.data_bytes() >= self.layer_bytes_max
    }

    /// Whether it is so long that it ends within a page, which the next one goes on with: a page that is written all the time
    /// and may be read as it was long ago would outgrow every file.
    pub(crate) fn is_too_long(&self) -> bool {
        self.builder.as_ref().is_some_and(|builder| {
            !builder.is_empty() && builder.data_bytes() >= 2 * self.layer_bytes_max
        })
    }

    /// What the bytes cost that were put into the layer at hand since it had `before`, in entries walked.
    pub(crate) fn cost_since(&self, before: u64) -> usize {
        let bytes = self.data_bytes().saturating_sub(before);
        usize::try_from(bytes).unwrap_or(usize::MAX) / COST_BYTES
    }

    /// Whether a chunk is ready, so that nothing more should be pushed.
    pub(crate) fn has_chunk(&self) -> bool {
        let ready = self.builder.as_ref().map_or(0, LayerBuilder::ready_bytes);
        ready >= CHUNK_BYTES || self.finishing.is_some()
    }

    /// Ends the layer at hand. An empty one is dropped.
    pub(crate) fn finish_layer(&mut self) {
        assert!(self.finishing.is_none(), "one layer is finished at a time");
        let Some(builder) = &mut self.builder else {
            return;
        };
        if builder.is_empty() {
            self.builder = None;
            return;
        }
        let summary = builder.finish();
        self.finishing = Some(CatalogLayer {
            number: summary.identity.layer,
            summary,
        });
    }

    /// The next thing to be done on the disk, if any.
    pub(crate) fn next(&mut self) -> Option<Wanted> {
        let builder = self.builder.as_mut()?;
        let ready = builder.ready_bytes();
        if ready >= CHUNK_BYTES || (ready > 0 && self.finishing.is_some()) {
            let number = *self.numbers.last().expect("a builder has a number");
            let mut chunk = IoBuf::zeroed(ready.min(CHUNK_BYTES));
            let offset = builder.take_ready(chunk.as_mut());
            return Some(Wanted::Write(number, offset, chunk));
        }
        let layer = self.finishing.clone()?;
        self.builder = None;
        if planted(Mutant::CatalogBeforeSync) {
            self.finishing = None;
            self.done.push(layer);
            return None;
        }
        self.syncing = true;
        Some(Wanted::Sync(layer.number))
    }

    /// What was wanted last is done.
    pub(crate) fn completed(&mut self) {
        if std::mem::take(&mut self.syncing) {
            let layer = self.finishing.take();
            self.done
                .push(layer.expect("a sync follows the end of a layer"));
        }
    }

    /// Bytes of memory that it takes, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.builder.as_ref().map_or(0, LayerBuilder::memory_bytes)
    }
}
