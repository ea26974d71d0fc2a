//! Clients through an outage: commits and reads in closed loops, counted before, during and after it. Who breaks what is the
//! caller's affair; it says when each phase begins.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sixfold::{Database, Error};
use tokio::task::JoinSet;

use crate::latency::Latencies;

/// Keys that are there from the start.
const ROW_COUNT: u64 = 20_000;
/// Rows in a transaction of the first load.
const ROWS_PER_COMMIT: u64 = 250;
/// Length of a value, bytes.
const VALUE_BYTES: usize = 100;
/// What a client waits after an error, so that refusals are not all it does.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// When something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not counted.
    WarmUp,
    /// All is well.
    Before,
    /// From just before something breaks until it is mended.
    During,
    /// All is well again, but what was broken catches up.
    After,
}

impl Phase {
    /// Its name between processes.
    pub fn name(self) -> &'static str {
        match self {
            Phase::WarmUp => "warm-up",
            Phase::Before => "before",
            Phase::During => "during",
            Phase::After => "after",
        }
    }

    /// The phase of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Phase> {
        let all = [Phase::WarmUp, Phase::Before, Phase::During, Phase::After];
        match all.into_iter().find(|phase| phase.name() == name) {
            Some(phase) => Ok(phase),
            None => bail!("{name:?} is no phase"),
        }
    }

    /// The phase of what began in one and ended in another: a commit that was held up by the outage is one of the outage, whenever
    /// it ended.
    fn of_span(begun: Phase, ended: Phase) -> Phase {
        if begun == Phase::During || ended == Phase::During {
            Phase::During
        } else {
            ended
        }
    }
}

/// One phase in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseCounts {
    /// Commits answered.
    pub answered: u64,
    /// Median of those, microseconds; 0 when there were none.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// The whole of it, as [`Latencies::distribution`] gives it.
    pub distribution_us: Vec<(f64, u64)>,
    /// Commits refused: certainly not done.
    pub refused: u64,
    /// Commits of which nobody knows.
    pub unknown: u64,
    /// Reads answered.
    pub reads: u64,
    /// 99th percentile of those, microseconds.
    pub read_p99_us: u64,
    /// Reads that ended with an error.
    pub reads_failed: u64,
}

/// The phases that are counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Before it.
    pub before: PhaseCounts,
    /// During it.
    pub during: PhaseCounts,
    /// After it.
    pub after: PhaseCounts,
}

#[derive(Debug, Default)]
struct Tally {
    commits: Latencies,
    reads: Latencies,
    refused: u64,
    unknown: u64,
    reads_failed: u64,
}

impl Tally {
    fn counts(&self) -> PhaseCounts {
        PhaseCounts {
            answered: self.commits.count(),
            p50_us: self.commits.p50_us(),
            p99_us: self.commits.p99_us(),
            p999_us: self.commits.p999_us(),
            distribution_us: self.commits.distribution(),
            refused: self.refused,
            unknown: self.unknown,
            reads: self.reads.count(),
            read_p99_us: self.reads.p99_us(),
            reads_failed: self.reads_failed,
        }
    }
}

/// Clients.
pub struct Load {
    database: Database,
    phase: Cell<Phase>,
    stopping: Cell<bool>,
    tallies: RefCell<[Tally; 4]>,
    draw: Cell<u64>,
}

/// Writes the rows that clients read and write.
///
/// # Errors
/// When a commit fails.
pub async fn set_up(database: &Database) -> Result<()> {
    for first in (0..ROW_COUNT).step_by(usize::try_from(ROWS_PER_COMMIT)?) {
        let transaction = database.begin().await?;
        for row in first..first + ROWS_PER_COMMIT {
            transaction.put(row_key(row), value(row))?;
        }
        transaction.commit().await.context("a commit failed")?;
    }
    Ok(())
}

impl Load {
    /// No client runs yet.
    pub fn new(database: Database, phase: Phase) -> Rc<Load> {
        Rc::new(Load {
            database,
            phase: Cell::new(phase),
            stopping: Cell::new(false),
            tallies: RefCell::default(),
            draw: Cell::new(0),
        })
    }

    /// Starts clients; a `LocalSet` must be running. `waited`: how long each client of commits has waited for an answer already, which
    /// its first commit counts too: the clients of a writer that died.
    pub fn start(
        self: &Rc<Self>,
        clients: usize,
        readers: usize,
        waited: Duration,
    ) -> JoinSet<Result<()>> {
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let load = Rc::clone(self);
            tasks.spawn_local(async move { load.commit_client(waited).await });
        }
        for _ in 0..readers {
            let load = Rc::clone(self);
            tasks.spawn_local(async move { load.read_client().await });
        }
        tasks
    }

    /// What begins now belongs to this phase.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
    }

    /// Clients end when they have the answer that they wait for.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        let tallies = self.tallies.borrow();
        Counts {
            before: tallies[Phase::Before as usize].counts(),
            during: tallies[Phase::During as usize].counts(),
            after: tallies[Phase::After as usize].counts(),
        }
    }

    async fn commit_client(&self, waited: Duration) -> Result<()> {
        let mut waited = waited;
        while !self.stopping.get() {
            let (phase, begun) = (self.phase.get(), Instant::now());
            let ended = self.commit().await;
            let phase = Phase::of_span(phase, self.phase.get());
            let failed = {
                let tally = &mut self.tallies.borrow_mut()[phase as usize];
                match ended {
                    Ok(()) => {
                        tally.commits.record(begun.elapsed() + waited);
                        waited = Duration::ZERO;
                        false
                    }
                    Err(Error::Unknown { .. }) => {
                        tally.unknown += 1;
                        true
                    }
                    Err(error) if error.is_retryable() => {
                        tally.refused += 1;
                        true
                    }
                    Err(error) => return Err(error).context("a commit failed"),
                }
            };
            if failed {
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
        Ok(())
    }

    async fn commit(&self) -> Result<(), Error> {
        let transaction = self.database.begin().await?;
        let draw = self.next_draw();
        transaction.put(row_key(draw % ROW_COUNT), value(draw))?;
        transaction.commit().await.map(|_| ())
    }

    /// Reads as of now, one at a time.
    async fn read_client(&self) -> Result<()> {
        while !self.stopping.get() {
            let (phase, begun) = (self.phase.get(), Instant::now());
            let ended = self.read().await;
            let phase = Phase::of_span(phase, self.phase.get());
            let failed = {
                let tally = &mut self.tallies.borrow_mut()[phase as usize];
                match ended {
                    Ok(true) => tally.reads.record(begun.elapsed()),
                    Ok(false) => bail!("a row is missing"),
                    Err(ref error) if error.is_retryable() => tally.reads_failed += 1,
                    Err(error) => return Err(error).context("a read failed"),
                }
                ended.is_err()
            };
            if failed {
                tokio::time::sleep(ERROR_PAUSE).await;
            } else {
                // A read from memory never waits: the other clients must come to run.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn read(&self) -> Result<bool, Error> {
        let transaction = self.database.begin().await?;
        let key = row_key(self.next_draw() % ROW_COUNT);
        Ok(transaction.get(&key).await?.is_some())
    }

    /// Spread numbers, another one each time.
    fn next_draw(&self) -> u64 {
        let number = self.draw.get() + 1;
        self.draw.set(number);
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
    }
}

fn row_key(row: u64) -> Vec<u8> {
    format!("row/{row:08}").into_bytes()
}

fn value(number: u64) -> Vec<u8> {
    let mut value = vec![0x5a; VALUE_BYTES];
    value[..8].copy_from_slice(&number.to_le_bytes());
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_outage_held_up_counts_as_its_own() {
        use Phase::{After, Before, During, WarmUp};
        for (begun, ended, counted) in [
            (Before, Before, Before),
            (Before, During, During),
            (During, After, During),
            (After, After, After),
            (WarmUp, Before, Before),
        ] {
            assert_eq!(Phase::of_span(begun, ended), counted);
        }
    }

    #[test]
    fn a_phase_is_found_by_its_name() {
        for phase in [Phase::WarmUp, Phase::Before, Phase::During, Phase::After] {
            assert_eq!(Phase::parse(phase.name()).ok(), Some(phase));
        }
        assert!(Phase::parse("never").is_err());
    }
}
