//! What of a page goes into a new layer: the one place that cuts chains and collects.
//!
//! Entries come page by page, the oldest first. Up to the horizon nobody reads between versions, so that they are folded and only
//! the newest one stays, as an image; above it records stay as they are, and an image cuts a chain that would grow past its
//! bound (F15: none is made for a point that nobody can read). Where a page's earlier version is not known, its records stay until
//! a chain grows too long; then the owner is asked for the page.

use sixfold_log_format::layer::{LayerBuilder, LayerEntry, LayerImage};
use sixfold_log_format::{ApplyError, Cell, DecodeError, Lsn, Op, Page, PageId, Record, apply};

/// Longest chain of a page within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChainBound {
    pub(crate) records_max: usize,
    pub(crate) bytes_max: usize,
}

/// Neighboring pages whose chains are cut at the same length where that takes a look at the layers below.
const SPREAD_PAGES: u64 = 128;

impl ChainBound {
    /// The bound for a page whose version below has to be read first: between half of it and all of it, by where the page is.
    ///
    /// Pages that are written alike reach the bound together. Cut all at once they would make one freeze read and write many times what
    /// it takes, and writers wait for it. Neighbors stand in the same blocks of the layers below, and are cut together.
    fn spread(self, page: PageId) -> ChainBound {
        // The finalizer of splitmix64.
        let mut hash = (page.get() / SPREAD_PAGES).wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = 32 + usize::try_from((hash ^ (hash >> 31)) % 33).expect("below 33");
        ChainBound {
            records_max: (self.records_max.saturating_mul(part) / 64).max(1),
            bytes_max: (self.bytes_max.saturating_mul(part) / 64).max(1),
        }
    }
}

/// How long the chain of a page is: records since its newest image, over all runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Depth {
    pub(crate) records: u32,
    pub(crate) bytes: u32,
}

/// What came of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Composed {
    /// It was taken.
    Taken,
    /// It was not: first say what the page is as of this LSN ([`Composer::set_base`]).
    NeedsBase(PageId, Lsn),
}

/// An entry that does not fit what stands before it: damage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ComposeError {
    /// A record does not fit.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// An image is none.
    #[error(transparent)]
    Image(#[from] DecodeError),
}

/// The page that is being composed.
#[derive(Debug)]
struct Composing {
    id: PageId,
    /// The page as of the last entry, where it is known.
    page: Option<Page>,
    /// The page as it is known is not in the layer yet.
    held: bool,
    /// It was asked for so that an image cuts its chain here.
    cut: bool,
    last: Lsn,
    records: usize,
    bytes: usize,
}

/// Composes pages into a layer.
#[derive(Debug)]
pub(crate) struct Composer {
    page_bytes: usize,
    horizon: Lsn,
    bound: ChainBound,
    at: Option<Composing>,
    /// Pages whose earlier version is nothing, since no layer lies below.
    is_bottom: bool,
}

impl Composer {
    /// `horizon` is the lowest point that anybody may still read; `is_bottom` says that what is composed begins every page.
    pub(crate) fn new(
        page_bytes: usize,
        horizon: Lsn,
        bound: ChainBound,
        is_bottom: bool,
    ) -> Composer {
        Composer {
            page_bytes,
            horizon,
            bound,
            at: None,
            is_bottom,
        }
    }

    /// The page that is being composed.
    pub(crate) fn page(&self) -> Option<PageId> {
        self.at.as_ref().map(|at| at.id)
    }

    /// Says what the page is as of its last entry so far.
    ///
    /// # Panics
    /// When another page is being composed, or this is not that version of it.
    pub(crate) fn set_base(&mut self, page: Page) {
        let at = self.at.as_mut().expect("a base is for the page at hand");
        assert!(
            at.id == page.id() && (at.last == page.lsn() || at.last.is_none()),
            "{page:?} is no base for page {} at {}",
            at.id,
            at.last
        );
        at.page = Some(page);
    }

    /// Begins a page, before its first entry; the one before was ended. `depth` is what its chain has below, as far as that is
    /// known.
    pub(crate) fn begin(&mut self, id: PageId, depth: Depth) {
        assert!(self.at.is_none(), "one page at a time");
        let fresh = self.is_bottom.then(|| Page::new(id, self.page_bytes));
        self.at = Some(Composing {
            id,
            page: fresh,
            held: false,
            cut: false,
            last: Lsn::NONE,
            records: depth.records as usize,
            bytes: depth.bytes as usize,
        });
    }

    /// Ends the page at hand, if there is one; how long its chain is now.
    pub(crate) fn end_page(&mut self, builder: &mut LayerBuilder) -> Option<(PageId, Depth)> {
        let mut at = self.at.take()?;
        at.put_held(builder);
        let depth = Depth {
            records: u32::try_from(at.records).unwrap_or(u32::MAX),
            bytes: u32::try_from(at.bytes).unwrap_or(u32::MAX),
        };
        Some((at.id, depth))
    }

    /// Takes the next entry of the page at hand.
    ///
    /// # Errors
    /// [`ComposeError`]: the layer cannot be made.
    pub(crate) fn push(
        &mut self,
        entry: &LayerEntry<'_>,
        bytes: usize,
        builder: &mut LayerBuilder,
    ) -> Result<Composed, ComposeError> {
        match entry {
            LayerEntry::Image(image) => self.push_image(image, builder)?,
            LayerEntry::Record(record) => return self.push_record(record, bytes, builder),
        }
        Ok(Composed::Taken)
    }

    fn push_image(
        &mut self,
        image: &LayerImage<'_>,
        builder: &mut LayerBuilder,
    ) -> Result<(), ComposeError> {
        let at = self.at.as_mut().expect("a page was begun");
        assert!(at.id == image.page, "an image of another page");
        let page = image.unpack(self.page_bytes)?;
        if image.lsn > self.horizon {
            at.put_held(builder);
            builder.push_image(image.page, image.lsn, image.packed);
        } else {
            at.held = true;
        }
        at.page = Some(page);
        at.last = image.lsn;
        (at.records, at.bytes) = (0, 0);
        Ok(())
    }

    fn push_record(
        &mut self,
        record: &Record<'_>,
        bytes: usize,
        builder: &mut LayerBuilder,
    ) -> Result<Composed, ComposeError> {
        let at = self.at.as_mut().expect("a page was begun");
        assert!(at.id == record.page, "a record of another page");
        let starts = record.op.starts_chain();
        if starts {
            let page = Page::new(record.page, self.page_bytes);
            if record.lsn > self.horizon {
                at.put_held(builder);
            }
            at.page = Some(page);
            at.cut = false;
            (at.records, at.bytes) = (0, 0);
        }
        let is_full = |at: &Composing, bound: ChainBound| {
            let over = at.records + 1 > bound.records_max || at.bytes + bytes > bound.bytes_max;
            over && at.records > 0
        };
        let cuts = is_full(at, self.bound.spread(at.id));
        let is_full = is_full(at, self.bound);
        let Some(page) = &mut at.page else {
            if cuts {
                at.cut = true;
                return Ok(Composed::NeedsBase(at.id, at.last));
            }
            builder.push_record(record);
            at.count(record.lsn, bytes);
            return Ok(Composed::Taken);
        };
        if record.lsn <= self.horizon {
            apply(page, record)?;
            // What is held becomes an image, which cuts the chain as well.
            (at.held, at.cut) = (true, false);
            at.last = record.lsn;
            return Ok(Composed::Taken);
        }
        if at.held {
            at.put_held(builder);
        } else if is_full || at.cut {
            // At the same LSN the image stands behind the record.
            let page = at.page.as_ref().expect("looked at just now");
            builder.push_image(at.id, page.lsn(), &page.pack());
            (at.records, at.bytes) = (0, 0);
        }
        at.cut = false;
        let page = at.page.as_mut().expect("looked at just now");
        apply(page, record)?;
        builder.push_record(record);
        at.count(record.lsn, bytes);
        Ok(Composed::Taken)
    }
}

impl Composing {
    fn count(&mut self, lsn: Lsn, bytes: usize) {
        self.last = lsn;
        self.records += 1;
        self.bytes += bytes;
    }

    /// What was folded below the horizon becomes an image.
    fn put_held(&mut self, builder: &mut LayerBuilder) {
        if std::mem::take(&mut self.held) {
            let page = self.page.as_ref().expect("only a known page is held");
            builder.push_image(self.id, page.lsn(), &page.pack());
            (self.records, self.bytes) = (0, 0);
        }
    }
}

/// Bytes of redo of an operation, about.
pub(crate) fn redo_bytes(op: &Op<'_>) -> usize {
    const FRAME_BYTES: usize = 8;
    let cell_bytes = |cell: &Cell<'_>| cell.key.len() + cell.value.len();
    FRAME_BYTES
        + match op {
            Op::Insert { cell, .. } | Op::Replace { cell, .. } => cell_bytes(cell),
            Op::Remove { key, .. } => key.len(),
            Op::WriteBytes { bytes, .. } | Op::Image { bytes } => bytes.len(),
            Op::DeleteRange { start, end } => start.len() + end.len(),
            Op::Init { .. } | Op::Truncate { .. } | Op::Clock { .. } => 0,
        }
}
