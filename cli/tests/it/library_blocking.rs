//! The blocking facade, against six real daemons, on threads without a runtime.

use std::time::Duration;

use sixfold::Error;
use sixfold::blocking::{Database, Transaction};

use crate::library_cluster::LocalCluster;

#[test]
fn everything_works_without_a_runtime() {
    let cluster = LocalCluster::start();
    let database = Database::create(cluster.options()).unwrap();
    let txn = database.begin().unwrap();
    txn.put("a", "1").unwrap();
    txn.put_with_ttl("b", "2", Duration::from_secs(60)).unwrap();
    txn.add("n", 5).unwrap();
    let commit = txn.commit().unwrap();
    assert!(matches!(txn.commit(), Err(Error::Invalid { .. })));

    let threads: Vec<_> = (0..4)
        .map(|_| {
            let database = database.clone();
            std::thread::spawn(move || {
                for _ in 0..10 {
                    database
                        .transact(|txn: &Transaction| {
                            let held = txn.get("n")?.unwrap();
                            let held = i64::from_le_bytes(held.as_ref().try_into().unwrap());
                            txn.put("n", (held + 1).to_le_bytes())
                        })
                        .unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let snapshot = database.snapshot();
    assert_eq!(
        snapshot.get("n").unwrap(),
        Some(45_i64.to_le_bytes().to_vec().into())
    );
    let keys: Vec<_> = snapshot
        .range(..)
        .reverse()
        .limit(2)
        .map(|item| item.unwrap().0)
        .collect();
    assert_eq!(keys, ["n", "b"]);
    let then = database.snapshot_at(commit.lsn).unwrap();
    assert_eq!(
        then.get("n").unwrap(),
        Some(5_i64.to_le_bytes().to_vec().into())
    );
    let keyspace = database.create_keyspace("apart").unwrap();
    keyspace.transact(|txn| txn.put("a", "other")).unwrap();
    assert_eq!(keyspace.snapshot().get("a").unwrap(), Some("other".into()));
    assert_eq!(database.keyspaces().unwrap(), ["apart"]);
    assert!(database.drop_keyspace("apart").unwrap());
    let token = database.new_token();
    for _ in 0..2 {
        let txn = database.begin_with_token(token).unwrap();
        txn.add("once", 1).unwrap();
        txn.commit().unwrap();
    }
    assert_eq!(
        database.snapshot().get("once").unwrap(),
        Some(1_i64.to_le_bytes().to_vec().into())
    );
    database.close().unwrap();
    assert!(matches!(database.begin(), Err(Error::Closed { .. })));
}
