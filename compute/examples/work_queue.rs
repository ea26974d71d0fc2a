//! A queue of jobs that survives its workers: a job is claimed for a while, and comes back when its worker dies.
//!
//! Start a cluster with `sixfold local --dir queue`, then run this with the path of its cluster file:
//! `cargo run --release -p sixfold --example work_queue -- queue/cluster.toml`
//!
//! | key | value |
//! |---|---|
//! | `todo/ID` | the job |
//! | `running/ID` | the job, while somebody has it |
//! | `lease/ID` | who has it; expires by itself |
//! | `done` | how many are done |

use std::time::Duration;

use sixfold::{Bytes, Database, Error, Options, Transaction, prefix};

/// A worker that has not finished by then has died, as far as others care.
const LEASE: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: work_queue CLUSTER_FILE");
        std::process::exit(2);
    };
    let options = Options::from_cluster_file(path)?;
    let database = match Database::create(options.clone()).await {
        Err(Error::Exists { .. }) => Database::open(options).await?,
        created => created?,
    };
    run(&database, 100, 4).await?;
    database.close().await;
    Ok(())
}

/// Queues jobs and lets workers do them, each of which dies over one job.
pub async fn run(database: &Database, jobs: u64, workers: u64) -> Result<(), Error> {
    // A producer writes blindly: it conflicts with nobody.
    database
        .transact(|txn| async move {
            txn.put("done", 0_i64.to_le_bytes())?;
            for job in 0..jobs {
                txn.put(format!("todo/{job:08}"), format!("job {job}"))?;
            }
            Ok(())
        })
        .await?;
    let working: Vec<_> = (0..workers)
        .map(|worker| tokio::spawn(work(database.clone(), worker)))
        .collect();
    for worker in working {
        worker.await.expect("a worker does not panic")?;
    }
    let done = database.snapshot().get("done").await?;
    let done = done.and_then(|value| Some(i64::from_le_bytes(value.as_ref().try_into().ok()?)));
    println!("{done:?} of {jobs} jobs are done, each once");
    assert_eq!(done, i64::try_from(jobs).ok());
    Ok(())
}

/// Works until nothing is queued and nobody has a job any more.
async fn work(database: Database, worker: u64) -> Result<(), Error> {
    let mut dies_once = true;
    loop {
        let claimed = database.transact(|txn| claim(txn, worker)).await?;
        let Some((id, _job)) = claimed else {
            if database.transact(requeue).await? {
                return Ok(());
            }
            tokio::time::sleep(LEASE / 10).await;
            continue;
        };
        if std::mem::take(&mut dies_once) {
            continue;
        }
        database
            .transact(|txn| finish(txn, worker, id.clone()))
            .await?;
    }
}

/// Takes the next job, if there is one. Two workers who take the same one conflict, and one of them runs again.
async fn claim(txn: Transaction, worker: u64) -> Result<Option<(Bytes, Bytes)>, Error> {
    let mut queue = txn.range(prefix("todo/")).limit(1);
    let Some((key, job)) = queue.next().await? else {
        return Ok(None);
    };
    let id = key.slice("todo/".len()..);
    txn.delete(&key)?;
    txn.put(named("running/", &id), &job)?;
    txn.put_with_ttl(named("lease/", &id), worker.to_le_bytes(), LEASE)?;
    Ok(Some((id, job)))
}

/// Notes that a job is done, unless the worker has lost it meanwhile: then somebody else does it.
async fn finish(txn: Transaction, worker: u64, id: Bytes) -> Result<(), Error> {
    if txn
        .value_equals(named("lease/", &id), worker.to_le_bytes())
        .await?
    {
        txn.delete(named("lease/", &id))?;
        txn.delete(named("running/", &id))?;
        txn.add("done", 1)?;
    }
    Ok(())
}

/// Brings back what the dead have left. Whether nothing is left to be done.
async fn requeue(txn: Transaction) -> Result<bool, Error> {
    let running = txn.range(prefix("running/")).collect().await?;
    for (key, job) in &running {
        let id = key.slice("running/".len()..);
        if txn.is_absent(named("lease/", &id)).await? {
            txn.delete(key)?;
            txn.put(named("todo/", &id), job)?;
        }
    }
    let queued = txn.range(prefix("todo/")).limit(1).next().await?;
    Ok(running.is_empty() && queued.is_none())
}

fn named(kind: &str, id: &[u8]) -> Vec<u8> {
    [kind.as_bytes(), id].concat()
}
