//! A cache that is never stale for long and never wrong about a point: filled from a snapshot, kept current by a watch, and resumed
//! after a restart from the point that it had reached.
//!
//! Start a cluster with `sixfold local --dir feed`, then run this with the path of its cluster file:
//! `cargo run --release -p sixfold --example watch -- feed/cluster.toml`

use std::collections::BTreeMap;

use sixfold::{Bytes, Change, Database, Error, Lsn, Options, Watch, WatchEvent};

const USERS: u64 = 100;
const CHANGES: u64 = 2_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: watch CLUSTER_FILE");
        std::process::exit(2);
    };
    let options = Options::from_cluster_file(path)?;
    let database = match Database::create(options.clone()).await {
        Err(Error::Exists { .. }) => Database::open(options).await?,
        created => created?,
    };

    let mut cache = Cache::fill(&database).await?;
    println!("{} users at LSN {}", cache.users.len(), cache.lsn);
    let writer = tokio::spawn(change_users(database.clone()));

    // The first half of the feed.
    let mut watch = database.watch(sixfold::prefix("user/"), cache.lsn)?;
    while cache.commits < CHANGES / 2 {
        cache.follow(&mut watch).await?;
    }
    drop(watch);

    // The process could end here: all that has to survive is the cache and its LSN. Meanwhile others write on.
    let last = writer.await.expect("the writer does not panic")?;
    println!("stopped at LSN {}, the volume went on to {last}", cache.lsn);
    let mut watch = database.watch(sixfold::prefix("user/"), cache.lsn)?;
    while cache.lsn < last {
        cache.follow(&mut watch).await?;
    }

    let truth = Cache::fill(&database).await?;
    assert_eq!(cache.users, truth.users);
    println!(
        "{} commits, {} users, the same as in the volume at LSN {}",
        cache.commits,
        cache.users.len(),
        truth.lsn
    );
    database.close().await;
    Ok(())
}

/// The users as of a point.
struct Cache {
    users: BTreeMap<Bytes, Bytes>,
    /// Everything at or below is in it: what a restart would begin from.
    lsn: Lsn,
    commits: u64,
}

impl Cache {
    async fn fill(database: &Database) -> Result<Cache, Error> {
        let snapshot = database.snapshot();
        let users = snapshot.range(sixfold::prefix("user/")).collect().await?;
        Ok(Cache {
            users: users.into_iter().collect(),
            lsn: snapshot.lsn(),
            commits: 0,
        })
    }

    /// Takes one event.
    async fn follow(&mut self, watch: &mut Watch) -> Result<(), Error> {
        match watch.next().await {
            Ok(WatchEvent::Commit { changes, .. }) => {
                changes.into_iter().for_each(|change| self.apply(change));
                self.commits += 1;
            }
            Ok(_) => {}
            // Storage nodes were slow: the watch is where it was.
            Err(Error::Unavailable { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.lsn = watch.resume_lsn();
        Ok(())
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Put { key, value, .. } => {
                self.users.insert(key, value);
            }
            Change::Delete { key, .. } | Change::Expired { key } => {
                self.users.remove(&key);
            }
            Change::DeleteRange { start, end } => {
                let deleted =
                    |key: &Bytes| *key >= start && end.as_ref().is_none_or(|end| key < end);
                self.users.retain(|key, _| !deleted(key));
            }
            _ => {}
        }
    }
}

/// Changes users at random; the LSN of the last commit.
async fn change_users(database: Database) -> Result<Lsn, Error> {
    let mut dice = 1;
    let mut last = Lsn::NONE;
    for number in 0..CHANGES {
        let key = format!("user/{:03}", roll(&mut dice) % USERS);
        let txn = database.begin().await?;
        match roll(&mut dice) % 10 {
            0 => txn.delete_range(sixfold::prefix(&key[..7]))?,
            1 => txn.delete(&key)?,
            _ => {}
        }
        txn.put(&key, format!("change {number}"))?;
        last = txn.commit().await?.lsn;
    }
    Ok(last)
}

/// A small generator of numbers that look random (xorshift).
fn roll(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
