//! One commit, from writes to records: plan on the tip, count, mint, apply (T4).
//!
//! A miss or an error drops the plan and has minted nothing. The clock record of a tick goes first (T5), and before that now
//! and then an image of the meta page.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use sixfold_kv::{Changes, Clear, KvError, PageSource, Plan, PlannedRecord, Write};
use sixfold_log_format::limits::{OPERATION_OVERHEAD_BYTES, VALUE_BYTES_MAX};
use sixfold_log_format::mutant::{Mutant, planted};
use sixfold_log_format::{Lsn, Op, PageId, Record};

use crate::admission::Need;
use crate::event::{CommitError, CommitRequest};
use crate::rows;
use crate::tip::TipSource;
use crate::write_set::{KeyWrite, Token, WriteSet, WriteValue};

/// What an MTR carries on the meta page before the records of its commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Preface {
    /// An image of the meta page as it is, so that its chain at the segments is bounded: clocks come without end, and the
    /// writer, which has the page, never asks for it.
    pub(crate) image: bool,
    /// The clock of a tick (T5), wall-clock milliseconds.
    pub(crate) clock_ms: Option<u64>,
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
    /// Pages are missing, at least one.
    Miss(Vec<PageId>),
    /// It cannot be done.
    Failed(CommitError),
}

/// What the database adds to an MTR: internal rows, sorted.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    key: Bytes,
    /// `None` deletes.
    value: Option<Bytes>,
    deadline_ms: Option<u64>,
}

impl Rows {
    /// Puts a row.
    pub(crate) fn put(&mut self, key: Bytes, value: Bytes, deadline_ms: Option<u64>) {
        if let Some(deadline_ms) = deadline_ms {
            self.put(rows::expiry_row(deadline_ms, &key), Bytes::new(), None);
        }
        self.rows.push(Row {
            key,
            value: Some(value),
            deadline_ms,
        });
    }

    /// Deletes a row.
    pub(crate) fn delete(&mut self, key: Bytes) {
        self.rows.push(Row {
            key,
            value: None,
            deadline_ms: None,
        });
    }

    /// The time row of a tick, when there is one.
    pub(crate) fn tick(&mut self, clock_ms: Option<u64>) {
        if let Some(clock_ms) = clock_ms {
            self.put(rows::time_row(clock_ms), Bytes::new(), None);
        }
    }

    /// What a transaction brings along: its token, and the expiry index of what it puts. `clock_ms`: at its place.
    pub(crate) fn of_request(
        &mut self,
        request: &CommitRequest,
        clock_ms: u64,
        token_retention: Duration,
    ) {
        if let Some(token) = &request.token {
            let retention_ms = u64::try_from(token_retention.as_millis()).unwrap_or(u64::MAX);
            let deadline_ms =
                matches!(token, Token::Given(_)).then(|| clock_ms.saturating_add(retention_ms));
            self.put(rows::token_row(token), Bytes::new(), deadline_ms);
        }
        for (key, write) in &request.writes.keys {
            if let KeyWrite::Put(WriteValue {
                deadline_ms: Some(deadline_ms),
                ..
            }) = write
            {
                self.put(rows::expiry_row(*deadline_ms, key), Bytes::new(), None);
            }
        }
    }

    /// Their keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.rows.iter().map(|row| &row.key[..])
    }

    /// The earliest deadline that is put into the expiry index.
    pub(crate) fn earliest_deadline_ms(&self) -> Option<u64> {
        let put = self.rows.iter().filter(|row| row.value.is_some());
        let deadlines = put.filter_map(|row| rows::read_expiry_row(&row.key));
        deadlines.map(|(deadline_ms, _)| deadline_ms).min()
    }

    fn writes(&self) -> impl Iterator<Item = Write<'_>> {
        self.rows.iter().map(|row| match &row.value {
            Some(value) => Write::Put {
                key: &row.key,
                value,
                deadline_ms: row.deadline_ms,
            },
            None => Write::Delete { key: &row.key },
        })
    }
}

/// All that one MTR changes, as the tree takes it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Work<'a> {
    clears: Vec<Clear<'a>>,
    writes: Vec<Write<'a>>,
    /// Whether a user's value is put, for which the spare pages are not meant.
    puts_values: bool,
}

/// This part of a volume's pages is spare, up to [`SPARE_PAGES_MAX`]: an MTR that puts a user's value leaves it alone, so that
/// the rows beside deletions have room in a full volume. The tree keeps some more for its lists.
const SPARE_SHARE: u64 = 16;
/// Room for the rows of about 200,000 tokens.
const SPARE_PAGES_MAX: u64 = 1_024;

impl<'a> Work<'a> {
    /// A transaction's writes and the rows beside them.
    pub(crate) fn of_request(set: &'a WriteSet, rows: &'a Rows) -> Work<'a> {
        let mut work = Work {
            clears: set
                .clears
                .iter()
                .map(|(start, end)| (&start[..], end.as_deref()))
                .collect(),
            writes: Vec::with_capacity(set.keys.len() + rows.rows.len()),
            puts_values: !set.keys.values().all(|write| *write == KeyWrite::Delete),
        };
        work.writes.extend(rows.writes());
        work.writes
            .extend(set.keys.iter().map(|(key, write)| write_of(key, write)));
        if !rows.rows.is_empty() {
            work.writes
                .sort_unstable_by(|one, other| one.key().cmp(other.key()));
        }
        work
    }

    /// What the database does by itself.
    pub(crate) fn of_chore(
        clears: &'a [(Bytes, Bytes)],
        expires: &'a [(Bytes, u64)],
        rows: &'a Rows,
    ) -> Work<'a> {
        let mut writes: Vec<Write<'a>> = rows.writes().collect();
        writes.extend(expires.iter().map(|(key, deadline_ms)| {
            if planted(Mutant::SweeperTakesAnyDeadline) {
                return Write::Delete { key };
            }
            Write::Expire {
                key,
                deadline_ms: *deadline_ms,
            }
        }));
        writes.sort_unstable_by(|one, other| one.key().cmp(other.key()));
        let clears = clears
            .iter()
            .map(|(start, end)| (&start[..], Some(&end[..])));
        Work {
            clears: clears.collect(),
            writes,
            puts_values: false,
        }
    }

    /// Adds rows.
    fn add(&mut self, rows: &'a Rows) {
        self.writes.extend(rows.writes());
        self.writes
            .sort_unstable_by(|one, other| one.key().cmp(other.key()));
    }
}

/// Where an MTR is planned: the tip, and the clock there.
#[derive(Debug)]
pub(crate) struct Place<'t> {
    /// The pages.
    pub(crate) tip: TipSource<'t>,
    /// The clock, the preface's included.
    pub(crate) clock_ms: u64,
    /// What the MTR has to carry beside its work.
    pub(crate) preface: Preface,
    /// Pages of the volume.
    pub(crate) pages_max: u64,
    /// Page size.
    pub(crate) page_bytes: usize,
}

impl Place<'_> {
    /// Plans an MTR.
    pub(crate) fn plan<'a>(&self, work: &Work<'a>) -> PlanVerdict<'a> {
        let changes = Changes {
            clears: &work.clears,
            writes: &work.writes,
        };
        let spare = (self.pages_max / SPARE_SHARE).min(SPARE_PAGES_MAX);
        let spare = if work.puts_values { spare } else { 0 };
        let planned = sixfold_kv::plan(&self.tip, &changes, self.clock_ms, self.pages_max - spare);
        self.verdict(planned)
    }

    /// Plans an MTR with the time row of its tick, if there is one. In a full volume that row is left out: the moment is not
    /// remembered, but the clock record is there all the same.
    pub(crate) fn plan_with_tick<'a>(&self, work: &Work<'a>, tick: &'a Rows) -> PlanVerdict<'a> {
        if tick.rows.is_empty() {
            return self.plan(work);
        }
        let mut ticking = work.clone();
        ticking.add(tick);
        match self.plan(&ticking) {
            PlanVerdict::Failed(CommitError::Full) => self.plan(work),
            verdict => verdict,
        }
    }

    /// An MTR of nothing but the clock record that is due.
    pub(crate) fn clock_alone(&self) -> PlanVerdict<'static> {
        if self.preface.clock_ms.is_none() {
            return PlanVerdict::Nothing;
        }
        if self.tip.page(PageId::META).is_none() {
            return PlanVerdict::Miss(vec![PageId::META]);
        }
        let plan = Plan::default();
        PlanVerdict::Ready(Planned::new(plan, self.page_bytes, self.preface))
    }

    /// What a plan of the tree means for the writer.
    pub(crate) fn verdict<'a>(&self, planned: Result<Plan<'a>, KvError>) -> PlanVerdict<'a> {
        match planned {
            Ok(plan) if plan.records.is_empty() => PlanVerdict::Nothing,
            Ok(_) if !self.preface.is_empty() && self.tip.page(PageId::META).is_none() => {
                PlanVerdict::Miss(vec![PageId::META])
            }
            Ok(plan) => match self.not_at_hand(&plan) {
                pages if pages.is_empty() => {
                    PlanVerdict::Ready(Planned::new(plan, self.page_bytes, self.preface))
                }
                pages => PlanVerdict::Miss(pages),
            },
            Err(KvError::Miss(pages)) => PlanVerdict::Miss(pages),
            Err(error) => PlanVerdict::Failed(refusal(&error)),
        }
    }
}

impl Place<'_> {
    /// Pages that a plan writes to without having looked at them, the lists of free pages, and that are not in memory: `apply`
    /// needs them.
    fn not_at_hand(&self, plan: &Plan<'_>) -> Vec<PageId> {
        let mut pages = Vec::new();
        let mut begun = Vec::new();
        for record in &plan.records {
            let page = record.page;
            if record.op.starts_chain() {
                begun.push(page);
            } else if matches!(record.op, Op::WriteBytes { .. })
                && begun.last() != Some(&page)
                && !begun.contains(&page)
                && !pages.contains(&page)
                && self.tip.page(page).is_none()
            {
                pages.push(page);
            }
        }
        pages
    }
}

/// How a commit ends that the tree does not take.
///
/// # Panics
/// For a miss, which is none.
pub(crate) fn refusal(error: &KvError) -> CommitError {
    match error {
        KvError::Miss(_) => unreachable!("a miss is fetched, not answered"),
        KvError::Full { .. } => CommitError::Full,
        KvError::Invalid(_) => CommitError::Invalid {
            reason: error.to_string(),
        },
        KvError::Corrupt { .. } => CommitError::Corrupt {
            what: error.to_string(),
        },
    }
}

fn write_of<'a>(key: &'a [u8], write: &'a KeyWrite) -> Write<'a> {
    match write {
        KeyWrite::Put(value) => Write::Put {
            key,
            value: &value.bytes,
            deadline_ms: value.deadline_ms,
        },
        KeyWrite::Delete => Write::Delete { key },
        KeyWrite::Modify(ops) => Write::Modify { key, ops },
    }
}

/// Checks what the tree takes for granted: lengths, and that no row of the database's own is touched.
///
/// # Errors
/// `Invalid`.
pub(crate) fn check(request: &CommitRequest, page_bytes: usize) -> Result<(), CommitError> {
    let key_bytes_max = sixfold_kv::key_bytes_max(page_bytes);
    let invalid = |reason: String| Err(CommitError::Invalid { reason });
    for (key, write) in &request.writes.keys {
        let row_bytes = match write {
            KeyWrite::Put(value) if value.bytes.len() > VALUE_BYTES_MAX => {
                let len = value.bytes.len();
                return invalid(format!("a value of {len} bytes, {VALUE_BYTES_MAX} at most"));
            }
            KeyWrite::Put(value) if value.deadline_ms.is_some() => rows::EXPIRY_PREFIX_BYTES,
            KeyWrite::Put(_) | KeyWrite::Delete | KeyWrite::Modify(_) => 0,
        };
        let len = key.len();
        if key.is_empty() || len + row_bytes > key_bytes_max {
            let most = key_bytes_max - row_bytes;
            return invalid(format!(
                "a stored key of {len} bytes, 1 to {most} are taken"
            ));
        }
        if rows::is_reserved(key) {
            return invalid("a key of the database's own".to_owned());
        }
    }
    let mut last_end: Option<&Bytes> = None;
    for (index, (start, end)) in request.writes.clears.iter().enumerate() {
        let is_last = index + 1 == request.writes.clears.len();
        let is_empty = end.as_ref().is_some_and(|end| end <= start);
        if is_empty || (end.is_none() && !is_last) || last_end.is_some_and(|end| end > start) {
            return invalid("cleared ranges that are empty, not sorted or not disjoint".to_owned());
        }
        if start
            .first()
            .is_none_or(|&space| space == rows::INTERNAL_SPACE)
        {
            return invalid("a cleared range with rows of the database's own".to_owned());
        }
        last_end = end.as_ref();
    }
    Ok(())
}

impl<'a> Planned<'a> {
    /// A plan and what it takes, with its preface.
    pub(crate) fn new(plan: Plan<'a>, page_bytes: usize, preface: Preface) -> Planned<'a> {
        let redo_bytes =
            |record: &PlannedRecord<'_>| op_bytes(&record.op) + OPERATION_OVERHEAD_BYTES;
        let page_count = match &plan.records[..] {
            [_] => 1,
            records => {
                let mut pages: Vec<PageId> = records.iter().map(|record| record.page).collect();
                pages.sort_unstable();
                pages.dedup();
                pages.len()
            }
        };
        let page_count = page_count + usize::from(preface.image);
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
    let bytes = |write: &KeyWrite| match write {
        KeyWrite::Put(value) => value.bytes.len(),
        KeyWrite::Delete => 0,
        KeyWrite::Modify(ops) => size_of_val(&ops[..]),
    };
    let keys = writes.keys.iter();
    keys.map(|(key, write)| (key.len() + bytes(write)) as u64)
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
