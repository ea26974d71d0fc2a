//! YCSB's core workloads (Cooper and others, "Benchmarking cloud serving systems with YCSB", 2010), each operation a transaction:
//!
//! | workload | operations | keys |
//! |---|---|---|
//! | A | half reads, half updates | zipfian |
//! | B | 95 % reads, 5 % updates | zipfian |
//! | C | reads | zipfian |
//! | D | 95 % reads, 5 % inserts | the latest most often |
//! | E | 95 % scans of 1 to 100 rows, 5 % inserts | zipfian |
//! | F | half reads, half read-modify-writes | zipfian |
//!
//! The exponent is 0.99, frequent keys lie scattered over all of them, a row is one value of 1,000 bytes (YCSB: ten fields of 100),
//! and an update writes it whole. Reads and scans are strictly serializable transactions that write nothing. A read-modify-write
//! that meets a conflict is run again until it is committed, and its latency is that of all its runs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use sixfold::Database;

use crate::draw::{Dice, KeyName, Zipf};
use crate::fill;
use crate::latency::Latencies;
use crate::pace::{Pace, run as run_paced};

/// Most rows of a scan.
const SCAN_ROWS_MAX: u64 = 100;

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Half reads, half updates
    A,
    /// Mostly reads
    B,
    /// Reads
    C,
    /// Reads of what is latest, and inserts
    D,
    /// Scans and inserts
    E,
    /// Reads and read-modify-writes
    F,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Read,
    Update,
    Insert,
    Scan,
    ReadModifyWrite,
}

const OPERATIONS: [Operation; 5] = [
    Operation::Read,
    Operation::Update,
    Operation::Insert,
    Operation::Scan,
    Operation::ReadModifyWrite,
];

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Update => "update",
            Operation::Insert => "insert",
            Operation::Scan => "scan",
            Operation::ReadModifyWrite => "read-modify-write",
        }
    }
}

impl Workload {
    /// Its letter in figures.
    pub fn name(self) -> &'static str {
        match self {
            Workload::A => "A",
            Workload::B => "B",
            Workload::C => "C",
            Workload::D => "D",
            Workload::E => "E",
            Workload::F => "F",
        }
    }

    /// What comes next: the frequent operation, or with the given percentage the other one.
    fn draw(self, dice: &mut Dice) -> Operation {
        let (most, other, percent) = match self {
            Workload::A => (Operation::Read, Operation::Update, 50),
            Workload::B => (Operation::Read, Operation::Update, 5),
            Workload::C => (Operation::Read, Operation::Read, 0),
            Workload::D => (Operation::Read, Operation::Insert, 5),
            Workload::E => (Operation::Scan, Operation::Insert, 5),
            Workload::F => (Operation::Read, Operation::ReadModifyWrite, 50),
        };
        if dice.below(100) < percent {
            other
        } else {
            most
        }
    }
}

/// One kind of operation of a workload, or all of them.
#[derive(Debug, Clone, Serialize)]
pub struct MixedRow {
    /// The workload.
    pub workload: &'static str,
    /// Which operations: `all`, or one kind.
    pub operation: &'static str,
    /// Clients, in a closed loop.
    pub clients: usize,
    /// Operations a second.
    pub operations_per_second: f64,
    /// Median latency.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// Transactions that were run again after a conflict.
    pub conflicts: u64,
}

struct State {
    database: Database,
    workload: Workload,
    value_bytes: usize,
    dice: RefCell<Dice>,
    zipf: RefCell<Zipf>,
    rows: Rc<Cell<u64>>,
    /// Rows whose insert was answered, without a gap: what "latest" may draw from.
    inserted: RefCell<Inserted>,
    latencies: RefCell<[Latencies; OPERATIONS.len()]>,
    conflicts: Cell<u64>,
}

/// Inserts are answered in any order; a row is there for all when those before it are.
#[derive(Debug, Default)]
struct Inserted {
    whole_end: u64,
    beyond: std::collections::BTreeSet<u64>,
}

impl Inserted {
    fn add(&mut self, row: u64) {
        self.beyond.insert(row);
        while self.beyond.remove(&self.whole_end) {
            self.whole_end += 1;
        }
    }
}

/// Runs a workload on the calling thread (a `LocalSet` must be running). The keys `0..rows` must be there; inserts add to them.
///
/// # Errors
/// When an operation fails for anything but a conflict.
pub async fn run(
    database: &Database,
    workload: Workload,
    pace: Pace,
    value_bytes: usize,
    rows: &Rc<Cell<u64>>,
) -> Result<Vec<MixedRow>> {
    let state = Rc::new(State {
        database: database.clone(),
        workload,
        value_bytes,
        dice: RefCell::new(Dice::new(1)),
        zipf: RefCell::new(Zipf::new(rows.get())),
        rows: Rc::clone(rows),
        inserted: RefCell::new(Inserted {
            whole_end: rows.get(),
            ..Inserted::default()
        }),
        latencies: RefCell::default(),
        conflicts: Cell::new(0),
    });
    let theirs = Rc::clone(&state);
    let paced = run_paced(pace, move |_, _| {
        let state = Rc::clone(&theirs);
        async move { state.operation().await }
    })
    .await?;
    let conflicts = state.conflicts.get();
    let row = |operation, latencies: &Latencies, conflicts| MixedRow {
        workload: workload.name(),
        operation,
        clients: pace.clients,
        #[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
        operations_per_second: latencies.count() as f64 / paced.seconds,
        p50_us: latencies.p50_us(),
        p99_us: latencies.p99_us(),
        p999_us: latencies.p999_us(),
        conflicts,
    };
    let mut found = vec![row("all", &paced.latencies, conflicts)];
    for (operation, latencies) in OPERATIONS.iter().zip(&*state.latencies.borrow()) {
        if latencies.count() > 0 {
            let own = match operation {
                Operation::ReadModifyWrite => conflicts,
                _ => 0,
            };
            found.push(row(operation.name(), latencies, own));
        }
    }
    Ok(found)
}

impl State {
    async fn operation(&self) -> Result<()> {
        let operation = self.workload.draw(&mut self.dice.borrow_mut());
        let begun = Instant::now();
        match operation {
            Operation::Read => self.read().await?,
            Operation::Update => self.put(self.old_row()).await?,
            Operation::Insert => {
                let row = self.rows.replace(self.rows.get() + 1);
                self.put(row).await?;
                self.inserted.borrow_mut().add(row);
                let there = self.inserted.borrow().whole_end;
                self.zipf.borrow_mut().grow(there);
            }
            Operation::Scan => self.scan().await?,
            Operation::ReadModifyWrite => self.read_modify_write().await?,
        }
        self.latencies.borrow_mut()[operation as usize].record(begun.elapsed());
        Ok(())
    }

    /// A row that is there.
    fn old_row(&self) -> u64 {
        let (zipf, dice) = (&*self.zipf.borrow(), &mut *self.dice.borrow_mut());
        match self.workload {
            Workload::D => {
                let there = self.inserted.borrow().whole_end;
                there - 1 - zipf.rank(dice).min(there - 1)
            }
            _ => zipf.scrambled(dice),
        }
    }

    async fn read(&self) -> Result<()> {
        let row = self.old_row();
        let transaction = self.database.begin().await?;
        let found = transaction.get(KeyName::of(row)).await?;
        found.with_context(|| format!("row {row} is missing"))?;
        Ok(())
    }

    async fn put(&self, row: u64) -> Result<()> {
        let transaction = self.database.begin().await?;
        transaction.put(KeyName::of(row), fill::value(row, self.value_bytes))?;
        transaction.commit().await.context("a commit failed")?;
        Ok(())
    }

    async fn scan(&self) -> Result<()> {
        let first = KeyName::of(self.old_row());
        let rows = 1 + self.dice.borrow_mut().below(SCAN_ROWS_MAX);
        let transaction = self.database.begin().await?;
        let range = transaction
            .range(first.as_ref()..)
            .limit(usize::try_from(rows)?);
        let found = range.collect().await?;
        anyhow::ensure!(!found.is_empty(), "a scan found nothing");
        Ok(())
    }

    async fn read_modify_write(&self) -> Result<()> {
        let row = self.old_row();
        loop {
            let transaction = self.database.begin().await?;
            let found = transaction.get(KeyName::of(row)).await?;
            let mut value = found
                .with_context(|| format!("row {row} is missing"))?
                .to_vec();
            if let Some(byte) = value.first_mut() {
                *byte = byte.wrapping_add(1);
            }
            transaction.put(KeyName::of(row), &value)?;
            match transaction.commit().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_retryable() => {
                    self.conflicts.set(self.conflicts.get() + 1);
                }
                Err(error) => return Err(error).context("a commit failed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_latest_only_when_those_before_it_are_there() {
        let mut inserted = Inserted {
            whole_end: 10,
            ..Inserted::default()
        };
        inserted.add(11);
        assert_eq!(inserted.whole_end, 10);
        inserted.add(10);
        assert_eq!(inserted.whole_end, 12);
    }

    #[test]
    fn operations_come_in_the_shares_of_each_workload() {
        let share = |workload: Workload, operation: Operation| {
            let mut dice = Dice::new(7);
            let drawn = (0..10_000).filter(|_| workload.draw(&mut dice) == operation);
            drawn.count() / 100
        };
        assert!((48..52).contains(&share(Workload::A, Operation::Update)));
        assert!((3..7).contains(&share(Workload::B, Operation::Update)));
        assert_eq!(share(Workload::C, Operation::Read), 100);
        assert!((3..7).contains(&share(Workload::D, Operation::Insert)));
        assert!((93..97).contains(&share(Workload::E, Operation::Scan)));
        assert!((48..52).contains(&share(Workload::F, Operation::ReadModifyWrite)));
    }
}
