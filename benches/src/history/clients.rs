//! The clients of one writer process: transactions in a closed loop, each reported before it begins and after it ended.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sixfold::{Database, Error, Lsn, Snapshot, Transaction};
use tokio::task::JoinSet;

use super::event::{Event, Planted, Step, Value, Verb, What, Workload, now_ns};
use super::plan::{Plan, keys_until};

/// Pause after a transaction that failed for another reason than a conflict: such refusals come at once.
const FAILED_PAUSE: Duration = Duration::from_millis(10);
/// Keys in one transaction of the last reads.
const LAST_READ_KEYS: usize = 64;
/// How often one of those is tried.
const LAST_READ_TRIES: usize = 50;

/// What the clients of a process do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What transactions do.
    pub workload: Workload,
    /// A bug, if any.
    pub planted: Planted,
    /// Numbers of the clients.
    pub clients: Range<u32>,
    /// When the run began, by [`now_ns`]: all processes of a run use the same keys at the same time.
    pub begun_ns: u64,
    /// Which run it is: each has keys of its own in a volume.
    pub run: u32,
}

/// Where events go. It must not keep them: an operation begins when its event was reported.
pub type Report = Box<dyn FnMut(&Event) -> Result<()>>;

/// The clients of one process.
pub struct Clients {
    database: Database,
    settings: Settings,
    stopping: Cell<bool>,
    paused: Cell<bool>,
    report: RefCell<Report>,
}

impl Clients {
    /// Clients that have not begun.
    pub fn new(database: Database, settings: Settings, report: Report) -> Rc<Clients> {
        Rc::new(Clients {
            database,
            settings,
            stopping: Cell::new(false),
            paused: Cell::new(false),
            report: RefCell::new(report),
        })
    }

    /// Starts them on the calling thread (a `LocalSet` must be running). One ends with an error when it cannot report, or
    /// has read what nobody can have written.
    pub fn start(self: &Rc<Self>) -> JoinSet<Result<()>> {
        let mut tasks = JoinSet::new();
        for client in self.settings.clients.clone() {
            let clients = Rc::clone(self);
            tasks.spawn_local(async move { clients.client(client).await });
        }
        tasks
    }

    /// Each waits after the transaction that it is at, or goes on.
    pub fn pause(&self, paused: bool) {
        self.paused.set(paused);
    }

    /// Each ends after the transaction that it is at.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    /// Reads every key that the run has used: so the history shows what became of the last writes. As one client more.
    ///
    /// # Errors
    /// When a part cannot be read after many tries.
    pub async fn read_all(&self) -> Result<()> {
        let elapsed = self.elapsed();
        let keys: Vec<u64> = keys_until(elapsed).collect();
        let steps_max = match self.settings.workload {
            Workload::Register => 1,
            _ => LAST_READ_KEYS,
        };
        let mut last_ns = 0;
        'parts: for part in keys.chunks(steps_max) {
            let steps: Vec<Step> = part
                .iter()
                .map(|key| Step(Verb::Read, *key, None))
                .collect();
            for _ in 0..LAST_READ_TRIES {
                let ended = self
                    .run_one(self.settings.clients.end, &steps, &mut last_ns)
                    .await?;
                if ended == What::Ok {
                    continue 'parts;
                }
                tokio::time::sleep(FAILED_PAUSE).await;
            }
            bail!("the last reads do not succeed");
        }
        Ok(())
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(now_ns().saturating_sub(self.settings.begun_ns))
    }

    async fn client(&self, client: u32) -> Result<()> {
        let mut plan = Plan::new(self.settings.workload, client);
        let mut last_ns = 0;
        while !self.stopping.get() {
            if self.paused.get() {
                tokio::time::sleep(FAILED_PAUSE).await;
                continue;
            }
            let steps = plan.next(self.elapsed());
            self.run_one(client, &steps, &mut last_ns).await?;
            let pause = plan.pause();
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    /// One transaction with its two events. `last_ns`: the client's last stamp; each is above the one before.
    async fn run_one(&self, client: u32, steps: &[Step], last_ns: &mut u64) -> Result<What> {
        let mut event = Event {
            client,
            at_ns: stamp_after(last_ns),
            what: What::Invoke,
            steps: steps.to_vec(),
            lsn: None,
            versions: Vec::new(),
            error: None,
        };
        self.say(&event)?;
        let ended = self.attempt(steps).await;
        event.at_ns = stamp_after(last_ns);
        let mut pause = false;
        match ended {
            Ok(done) => {
                event.what = What::Ok;
                event.steps = done.steps;
                event.versions = done.versions;
                event.lsn = Some(done.lsn.get());
            }
            Err(error @ (Error::Corrupt { .. } | Error::Invalid { .. })) => {
                return Err(error).context("a transaction failed");
            }
            Err(error) => {
                // Only `Unknown` leaves open whether a commit happened (T2): a history in which anything else did is wrong.
                let unknown = matches!(error, Error::Unknown { .. });
                event.what = if unknown { What::Info } else { What::Fail };
                pause = !matches!(error, Error::Conflict { .. });
                event.error = Some(error.to_string());
            }
        }
        self.say(&event)?;
        if pause {
            tokio::time::sleep(FAILED_PAUSE).await;
        }
        Ok(event.what)
    }

    fn say(&self, event: &Event) -> Result<()> {
        (self.report.borrow_mut())(event)
    }

    async fn attempt(&self, plan: &[Step]) -> Result<Done, Error> {
        let read_only = plan.iter().all(|Step(verb, ..)| *verb == Verb::Read);
        let mut access = Access::begin(&self.database, &self.settings, read_only).await?;
        let is_list = self.settings.workload == Workload::ListAppend;
        let mut done = Done::default();
        for Step(verb, key, value) in plan {
            let mut version = None;
            let mut seen = value.clone();
            match (verb, value) {
                (Verb::Read, _) => {
                    let found = access.get(*key).await?;
                    version = found.as_ref().and_then(|(_, lsn)| *lsn);
                    let numbers = found.map(|(bytes, _)| numbers(&bytes)).transpose()?;
                    seen = match numbers {
                        Some(list) if is_list => Some(Value::List(list)),
                        None if is_list => Some(Value::List(Vec::new())),
                        Some(one) => one.first().copied().map(Value::One),
                        None => None,
                    };
                }
                (Verb::Append, Some(Value::One(value))) => {
                    let found = access.get(*key).await?;
                    let mut bytes = found.map(|(bytes, _)| bytes).unwrap_or_default();
                    bytes.extend_from_slice(&value.to_le_bytes());
                    access.put(*key, bytes)?;
                }
                (Verb::Write, Some(Value::One(value))) => {
                    access.put(*key, value.to_le_bytes().to_vec())?;
                }
                (Verb::Append | Verb::Write, _) => unreachable!("plans write single values"),
            }
            done.steps.push(Step(*verb, *key, seen));
            done.versions.push(version);
        }
        done.lsn = access.commit().await?;
        Ok(done)
    }
}

/// A committed transaction.
#[derive(Debug, Default)]
struct Done {
    steps: Vec<Step>,
    versions: Vec<Option<u64>>,
    lsn: Lsn,
}

/// A transaction, or what a planted bug makes of it.
struct Access {
    transaction: Option<Transaction>,
    /// Read instead of the transaction.
    planted: Option<Snapshot>,
    /// What the transaction has put: the planted snapshot does not see it.
    own: BTreeMap<u64, Vec<u8>>,
    run: u32,
}

impl Access {
    async fn begin(
        database: &Database,
        settings: &Settings,
        read_only: bool,
    ) -> Result<Access, Error> {
        let planted = settings.planted;
        let unleased = planted == Planted::Unleased && read_only;
        let transaction = match unleased {
            true => None,
            false => Some(database.begin().await?),
        };
        let planted = unleased || planted == Planted::Unvalidated;
        Ok(Access {
            transaction,
            planted: planted.then(|| database.snapshot()),
            own: BTreeMap::new(),
            run: settings.run,
        })
    }

    /// The value of a key, and the commit that put it if it was not this transaction.
    async fn get(&self, key: u64) -> Result<Option<(Vec<u8>, Option<u64>)>, Error> {
        let found = match (&self.planted, &self.transaction) {
            (Some(snapshot), _) => {
                if let Some(own) = self.own.get(&key) {
                    return Ok(Some((own.clone(), None)));
                }
                snapshot.get_versioned(self.key_bytes(key)).await?
            }
            (None, Some(transaction)) => transaction.get_versioned(self.key_bytes(key)).await?,
            (None, None) => unreachable!("there is one of the two"),
        };
        Ok(found.map(|(bytes, lsn)| {
            let version = (lsn != Lsn::NONE).then(|| lsn.get());
            (bytes.to_vec(), version)
        }))
    }

    fn put(&mut self, key: u64, value: Vec<u8>) -> Result<(), Error> {
        let transaction = self.transaction.as_ref().expect("a reader puts nothing");
        transaction.put(self.key_bytes(key), &value)?;
        if self.planted.is_some() {
            self.own.insert(key, value);
        }
        Ok(())
    }

    fn key_bytes(&self, key: u64) -> Vec<u8> {
        format!("history/{:06}/{key:010}", self.run).into_bytes()
    }

    async fn commit(self) -> Result<Lsn, Error> {
        match (self.transaction, self.planted) {
            (Some(transaction), _) => Ok(transaction.commit().await?.lsn),
            (None, Some(snapshot)) => Ok(snapshot.lsn()),
            (None, None) => unreachable!("there is one of the two"),
        }
    }
}

fn numbers(bytes: &[u8]) -> Result<Vec<u64>, Error> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || numbers.is_empty() {
        // Nobody wrote this; only the engine can have made it.
        return Err(Error::Corrupt {
            what: format!("a value of {} bytes", bytes.len()),
        });
    }
    Ok(numbers
        .iter()
        .map(|bytes| u64::from_le_bytes(*bytes))
        .collect())
}

/// The time, above the last stamp: events of a client never share one.
fn stamp_after(last_ns: &mut u64) -> u64 {
    let mut now = now_ns();
    while now <= *last_ns {
        std::hint::spin_loop();
        now = now_ns();
    }
    *last_ns = now;
    now
}
