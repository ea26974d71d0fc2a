//! Clients that commit pairs of keys from a thread of their own, and remember how each commit ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sixfold::{Database, Error, Snapshot};

use crate::process::{LIMIT, eventually};

/// Runs a future to its end, within the limit.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(LIMIT, future)
            .await
            .expect("it ends in time")
    })
}

/// How the commits ended, by the name of each.
#[derive(Debug, Default)]
pub struct Outcomes {
    pub answered: Vec<String>,
    pub unknown: Vec<String>,
    pub refused: Vec<(String, Error)>,
}

impl Outcomes {
    pub fn add(&mut self, mut other: Outcomes) {
        self.answered.append(&mut other.answered);
        self.unknown.append(&mut other.unknown);
        self.refused.append(&mut other.refused);
    }

    pub fn assert_none_failed(&self) {
        assert!(
            self.unknown.is_empty() && self.refused.is_empty(),
            "{:?} {:?}",
            self.unknown,
            self.refused
        );
    }

    /// Every answered commit is there, every unknown one whole or not at all, no refused one.
    pub async fn check(&self, snapshot: &Snapshot) {
        assert!(!self.answered.is_empty());
        for name in &self.answered {
            assert_eq!(halves(snapshot, name).await, (true, true), "lost: {name}");
        }
        for name in &self.unknown {
            let (left, right) = halves(snapshot, name).await;
            assert_eq!(left, right, "torn: {name}");
        }
        for (name, error) in &self.refused {
            assert_eq!(
                halves(snapshot, name).await,
                (false, false),
                "refused as {error:?}, and there: {name}"
            );
        }
    }
}

/// The two keys of a commit, far apart, so that they are in two pages once there is more than one.
fn keys(name: &str) -> [String; 2] {
    [format!("left/{name}"), format!("right/{name}")]
}

fn value(key: &str) -> String {
    key.repeat(100 / key.len() + 1)
}

/// Which halves of a commit are there.
async fn halves(snapshot: &Snapshot, name: &str) -> (bool, bool) {
    let mut found = [false; 2];
    for (found, key) in found.iter_mut().zip(keys(name)) {
        let read = snapshot.get(&key).await.unwrap();
        assert!(
            read.as_ref().is_none_or(|read| *read == value(&key)),
            "{key} holds {read:?}"
        );
        *found = read.is_some();
    }
    (found[0], found[1])
}

/// One commit.
pub async fn commit(database: &Database, name: &str) -> Result<(), Error> {
    let transaction = database.begin().await?;
    for key in keys(name) {
        transaction.put(&key, value(&key))?;
    }
    transaction.commit().await?;
    Ok(())
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicUsize,
    unknown: AtomicUsize,
    refused: AtomicUsize,
    stopping: AtomicBool,
}

/// A running load.
pub struct Load {
    counts: Arc<Counts>,
    thread: Option<std::thread::JoinHandle<Outcomes>>,
}

impl Load {
    /// Starts `clients` clients. `name` must not have been used with this volume.
    pub fn start(database: &Database, name: &str, clients: usize) -> Load {
        let counts = Arc::new(Counts::default());
        let (database, name, theirs) = (database.clone(), name.to_owned(), Arc::clone(&counts));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let mut all = tokio::task::JoinSet::new();
                for client in 0..clients {
                    all.spawn(work(
                        database.clone(),
                        format!("{name}/{client}"),
                        Arc::clone(&theirs),
                    ));
                }
                let mut outcomes = Outcomes::default();
                while let Some(client) = all.join_next().await {
                    outcomes.add(client.unwrap());
                }
                outcomes
            })
        });
        Load {
            counts,
            thread: Some(thread),
        }
    }

    /// Waits until so many more commits were answered.
    pub fn until_answered(&self, more: usize) {
        self.until("commits are answered", &self.counts.answered, more);
    }

    /// Waits until so many more were refused.
    pub fn until_refused(&self, more: usize) {
        self.until("commits are refused", &self.counts.refused, more);
    }

    fn until(&self, what: &str, count: &AtomicUsize, more: usize) {
        let wanted = count.load(Ordering::Relaxed) + more;
        eventually(what, || {
            let ended = self
                .thread
                .as_ref()
                .is_none_or(|thread| thread.is_finished());
            assert!(!ended, "the load has ended: {:?}", self.counts);
            count.load(Ordering::Relaxed) >= wanted
        });
    }

    /// Stops the clients after the commit that each is at.
    pub fn stop(mut self) -> Outcomes {
        self.counts.stopping.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.counts.stopping.store(true, Ordering::Relaxed);
    }
}

async fn work(database: Database, name: String, counts: Arc<Counts>) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for number in 0.. {
        if counts.stopping.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("{name}/{number:06}");
        match commit(&database, &name).await {
            Ok(()) => {
                outcomes.answered.push(name);
                counts.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::Unknown { .. }) => {
                outcomes.unknown.push(name);
                counts.unknown.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert!(
                    matches!(error, Error::Unavailable { .. }),
                    "{name}: {error:?}"
                );
                outcomes.refused.push((name, error));
                counts.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    outcomes
}
