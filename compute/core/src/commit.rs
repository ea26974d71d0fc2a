//! One commit, from writes to records: plan on the tip, count, mint, apply (T4).
//!
//! A miss or an error drops the plan and has minted nothing. The clock record of a tick goes first (T5), and before that now
//! and then an image of the meta page.

use std::borrow::Cow;

use sixfold_kv::{KvError, PageSource, Plan, PlannedRecord, Write};
use sixfold_log_format::limits::OPERATION_OVERHEAD_BYTES;
use sixfold_log_format::{Lsn, Op, PageId, Record};

use crate::admission::Need;
use crate::event::{CommitError, WriteSet, WriteValue};
use crate::tip::TipSource;

/// What an MTR carries on the meta page before the records of its commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Preface {
    /// An image of the meta page as it is, so that its chain at the segments is bounded: clocks come without end, and the
    /// writer, which has the page, never asks for it.
    pub(crate) image: bool,
    /// The clock of a tick (T5).
    pub(crate) clock: bool,
}

impl Preface {
    /// Its records, at most. Room is kept for them always, so that whether a commit is too large does not depend on when it
    /// comes.
    const RECORDS_MAX: u64 = 2;

    fn is_empty(self) -> bool {
        self == Preface::default()
    }
}

/// The records of an MTR and what they take.
#[derive(Debug)]
pub(crate) struct Planned<'a> {
    records: Vec<PlannedRecord<'a>>,
    need: Need,
}

/// How planning went.
#[derive(Debug)]
pub(crate) enum PlanVerdict<'a> {
    /// Ready to be judged and minted.
    Ready(Planned<'a>),
    /// Everything it deletes is absent: there is nothing to mint.
    Nothing,
    /// A page is missing.
    Miss(PageId),
    /// It cannot be done.
    Failed(CommitError),
}

/// Plans a transaction's writes on the tip. `preface`: what this MTR has to carry beside them.
pub(crate) fn plan<'a>(
    tip: &TipSource<'_>,
    writes: &'a WriteSet,
    pages_max: u64,
    page_bytes: usize,
    preface: Preface,
) -> PlanVerdict<'a> {
    let writes: Vec<Write<'a>> = writes
        .iter()
        .map(|(key, value)| write_of(key, value))
        .collect();
    match sixfold_kv::plan(tip, &writes, pages_max) {
        Ok(plan) if plan.records.is_empty() => PlanVerdict::Nothing,
        Ok(_) if !preface.is_empty() && tip.page(PageId::META).is_none() => {
            PlanVerdict::Miss(PageId::META)
        }
        Ok(plan) => PlanVerdict::Ready(Planned::new(plan, page_bytes, preface)),
        Err(KvError::Miss(page)) => PlanVerdict::Miss(page),
        Err(KvError::Full { .. }) => PlanVerdict::Failed(CommitError::Full),
        Err(error @ KvError::Corrupt { .. }) => PlanVerdict::Failed(CommitError::Corrupt {
            what: error.to_string(),
        }),
    }
}

fn write_of<'a>(key: &'a [u8], value: &'a Option<WriteValue>) -> Write<'a> {
    match value {
        Some(value) => Write::Put {
            key,
            value: &value.bytes,
            deadline_ms: value.deadline_ms,
        },
        None => Write::Delete { key },
    }
}

impl<'a> Planned<'a> {
    /// A plan and what it takes, with its preface.
    pub(crate) fn new(plan: Plan<'a>, page_bytes: usize, preface: Preface) -> Planned<'a> {
        let redo_bytes =
            |record: &PlannedRecord<'_>| op_bytes(&record.op) + OPERATION_OVERHEAD_BYTES;
        let mut pages: Vec<PageId> = plan.records.iter().map(|record| record.page).collect();
        pages.sort_unstable();
        pages.dedup();
        let page_count = pages.len() + usize::from(preface.image);
        let need = Need {
            records: plan.records.len() as u64 + Preface::RECORDS_MAX,
            bytes: plan.records.iter().map(redo_bytes).sum::<usize>() + page_count * page_bytes,
        };
        Planned {
            records: plan.records,
            need,
        }
    }

    /// What it takes.
    pub(crate) fn need(&self) -> Need {
        self.need
    }

    /// Mints the LSNs above `last`: hands each record to `place`, in order, and returns the CPL. `image`, `clock_ms`: the
    /// preface, which goes first.
    pub(crate) fn mint(
        self,
        last: Lsn,
        image: Option<Vec<u8>>,
        clock_ms: Option<u64>,
        mut place: impl FnMut(Record<'_>),
    ) -> Lsn {
        let on_meta = |op| PlannedRecord {
            page: PageId::META,
            op,
            user_visible: false,
        };
        let image = image.map(|bytes| {
            on_meta(Op::Image {
                bytes: Cow::Owned(bytes),
            })
        });
        let clock = clock_ms.map(|unix_ms| on_meta(Op::Clock { unix_ms }));
        let preface_count = u64::from(image.is_some()) + u64::from(clock.is_some());
        let count = self.records.len() as u64 + preface_count;
        assert!(
            count <= self.need.records,
            "an MTR grew after it was admitted"
        );
        let cpl = last.plus(count);
        let mut lsn = last;
        for PlannedRecord {
            page,
            op,
            user_visible,
        } in image.into_iter().chain(clock).chain(self.records)
        {
            lsn = lsn.next();
            // The page's last LSN is known to the tip alone; `place` fills it in.
            place(Record {
                lsn,
                page,
                page_prev: Lsn::NONE,
                cpl,
                user_visible,
                op,
            });
        }
        cpl
    }
}

/// The clock of the volume as of the tip; 0 before the first clock record.
pub(crate) fn clock_ms(tip: &TipSource<'_>) -> u64 {
    tip.page(PageId::META).map_or(0, |meta| meta.clock_ms())
}

/// The meta page as of the tip, as an image record holds it.
///
/// # Panics
/// When it is not at hand: planning has just asked for it.
pub(crate) fn meta_image(tip: &TipSource<'_>) -> Vec<u8> {
    let meta = tip.page(PageId::META);
    meta.expect("the meta page is at hand").image()
}

/// Keys and values, bytes.
pub(crate) fn user_bytes(writes: &WriteSet) -> u64 {
    let bytes = |value: &Option<WriteValue>| value.as_ref().map_or(0, |v| v.bytes.len());
    writes
        .iter()
        .map(|(key, value)| (key.len() + bytes(value)) as u64)
        .sum()
}

fn op_bytes(op: &Op<'_>) -> usize {
    match op {
        Op::Insert { cell, .. } | Op::Replace { cell, .. } => cell.key.len() + cell.value.len(),
        Op::Remove { key, .. } => key.len(),
        Op::WriteBytes { bytes, .. } | Op::Image { bytes } => bytes.len(),
        Op::DeleteRange { start, end } => start.len() + end.len(),
        Op::Init { .. } | Op::Truncate { .. } | Op::Clock { .. } => 0,
    }
}
