//! The clients of one writer process: commits in a closed loop with small pauses, each said when it has ended.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use sixfold::{Database, Error, Lsn};
use tokio::task::JoinSet;

use super::work::{Mark, Outcome, PLACES, Said};
use crate::history::plan::Draw;

/// Longest pause between two commits of a client: the machine has to have room for what goes wrong.
const PAUSE_MS_MAX: u64 = 4;
/// Pause after an error: refusals come at once.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// How often a client that may not work looks whether it may.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Where lines go. It must not keep them: a commit counts as answered when its line has left the process.
pub type Report = Box<dyn FnMut(Said) -> Result<()>>;

/// The clients.
pub struct Load {
    database: Database,
    cycle: u32,
    paused: Cell<bool>,
    stopping: Cell<bool>,
    report: RefCell<Report>,
}

impl Load {
    /// Nobody works yet.
    pub fn new(database: Database, cycle: u32, report: Report) -> Rc<Load> {
        Rc::new(Load {
            database,
            cycle,
            paused: Cell::new(false),
            stopping: Cell::new(false),
            report: RefCell::new(report),
        })
    }

    /// Starts clients of these numbers; a `LocalSet` must be running. One ends by itself when the writer is fenced.
    pub fn start(self: &Rc<Self>, clients: Range<u32>) -> JoinSet<Result<()>> {
        let mut tasks = JoinSet::new();
        for client in clients {
            let load = Rc::clone(self);
            tasks.spawn_local(async move { load.client(client).await });
        }
        tasks
    }

    /// Clients wait after the commit that they are at, or go on.
    pub fn pause(&self, paused: bool) {
        self.paused.set(paused);
    }

    /// Each ends after the commit that it is at.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    async fn client(&self, client: u32) -> Result<()> {
        let mut draw = Draw::new(u64::from(client));
        let mut number = 0;
        while !self.stopping.get() {
            if self.paused.get() {
                tokio::time::sleep(LOOK_INTERVAL).await;
                continue;
            }
            let mark = Mark {
                cycle: self.cycle,
                client,
                number,
            };
            let (outcome, ends) = match self.commit(mark).await {
                Ok(lsn) => (Outcome::Answered(lsn), false),
                Err(Error::Unknown { .. }) => (Outcome::Unknown, false),
                Err(Error::Fenced { .. } | Error::Closed { .. }) => (Outcome::Refused, true),
                Err(error) if error.is_retryable() => (Outcome::Refused, false),
                Err(error) => return Err(error).context("a commit failed"),
            };
            (self.report.borrow_mut())(Said {
                client,
                number,
                outcome,
            })?;
            if ends {
                return Ok(());
            }
            number += 1;
            match outcome {
                Outcome::Answered(_) => {
                    let pause = Duration::from_millis(draw.below(PAUSE_MS_MAX + 1));
                    tokio::time::sleep(pause).await;
                }
                _ => tokio::time::sleep(ERROR_PAUSE).await,
            }
        }
        Ok(())
    }

    async fn commit(&self, mark: Mark) -> Result<Lsn, Error> {
        let transaction = self.database.begin().await?;
        for place in PLACES {
            transaction.put(mark.row(place), mark.value(place))?;
        }
        transaction.put(mark.last(), mark.number.to_le_bytes())?;
        Ok(transaction.commit().await?.lsn)
    }
}
