//! What `sixfold bench repair` needs beside nodes: commits that go on while somebody looks at their latencies, and the device alone.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use sixfold::Database;
use tokio::task::JoinHandle;

use crate::draw::{KeyName, scattered};
use crate::latency::Latencies;
use crate::node::plain_append;
use crate::pace::{Pace, run as run_paced};

/// Commits that may be under way at once.
const CLIENTS: usize = 64;
/// Keys that are drawn from.
const KEY_COUNT: u64 = 100_000;
/// Length of a value, bytes.
const VALUE_BYTES: usize = 100;
/// Latencies can be taken this often.
const WINDOW: Duration = Duration::from_millis(500);
/// What the plain writer writes at once, bytes.
const PLAIN_WRITE_BYTES: usize = 1 << 20;

/// Commits at a fixed rate until they are stopped; latencies count from when a commit was due.
#[derive(Debug)]
pub struct Beside {
    shared: Rc<Shared>,
    task: JoinHandle<Result<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    latencies: RefCell<Latencies>,
    keys: Cell<u64>,
    stopping: Cell<bool>,
}

impl Beside {
    /// Begins; a `LocalSet` must be running. `rate`: commits a second.
    pub fn start(database: &Database, rate: u32) -> Beside {
        let shared = Rc::new(Shared::default());
        let task = tokio::task::spawn_local(work(database.clone(), rate, Rc::clone(&shared)));
        Beside { shared, task }
    }

    /// The latencies since it was last called, whole windows of half a second.
    pub fn take(&self) -> Latencies {
        self.shared.latencies.take()
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a commit failed: none may.
    pub async fn stop(self) -> Result<()> {
        self.shared.stopping.set(true);
        self.task.await.context("the clients failed")?
    }
}

async fn work(database: Database, rate: u32, shared: Rc<Shared>) -> Result<()> {
    let value: Rc<[u8]> = vec![0x5a; VALUE_BYTES].into();
    while !shared.stopping.get() {
        let pace = Pace {
            clients: CLIENTS,
            time: WINDOW,
            rate: Some(rate),
        };
        let (database, value, of) = (database.clone(), Rc::clone(&value), Rc::clone(&shared));
        let paced = run_paced(pace, move |_, _| {
            let (database, value) = (database.clone(), Rc::clone(&value));
            let number = of.keys.replace(of.keys.get() + 1);
            async move {
                let transaction = database.begin().await?;
                transaction.put(KeyName::of(scattered(number, KEY_COUNT)), &value)?;
                transaction.commit().await.context("a commit failed")?;
                Ok(())
            }
        })
        .await?;
        let mut latencies = shared.latencies.borrow_mut();
        latencies.add(&paced.latencies).context("two scales")?;
    }
    Ok(())
}

/// Bytes a second of one plain `O_DIRECT | O_DSYNC` writer in `dir`, a mebibyte at a time. Its file is removed.
///
/// # Errors
/// The device's.
pub async fn plain_bytes_per_second(dir: &Path, bytes: usize) -> Result<f64> {
    let path = dir.join("plain");
    let count = bytes.div_ceil(PLAIN_WRITE_BYTES);
    let seconds = plain_append(&path, count, PLAIN_WRITE_BYTES).await?;
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    #[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
    Ok((count * PLAIN_WRITE_BYTES) as f64 / seconds)
}
