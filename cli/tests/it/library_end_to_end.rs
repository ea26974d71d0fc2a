//! The library against six real daemons: the whole path from `put` to the disks and back.

use std::time::Duration;

use sixfold::{Bytes, Database, Error, Lsn, Transaction};

use crate::library_cluster::LocalCluster;

/// Bounds every wait of a test; timing decides nothing.
const LIMIT: Duration = Duration::from_secs(60);

async fn limited<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .expect("it ends in time")
}

async fn put(database: &Database, key: &str, value: &str) -> Result<Lsn, Error> {
    let txn = database.begin().await?;
    txn.put(key, value)?;
    Ok(txn.commit().await?.lsn)
}

async fn get(database: &Database, key: &str) -> Option<Bytes> {
    database.begin().await.unwrap().get(key).await.unwrap()
}

async fn keys(txn: &Transaction) -> Vec<Bytes> {
    txn.range(..)
        .collect()
        .await
        .unwrap()
        .into_iter()
        .map(|(key, _)| key)
        .collect()
}

#[tokio::test]
async fn what_was_committed_is_read_now_and_after_opening_again() {
    let cluster = LocalCluster::start();
    limited(async {
        let database = Database::create(cluster.options()).await.unwrap();
        let lsn = put(&database, "fruit/apple", "red").await.unwrap();
        put(&database, "fruit/banana", "yellow").await.unwrap();
        let before = database.snapshot();
        let txn = database.begin().await.unwrap();
        assert_eq!(
            txn.get_versioned("fruit/apple").await.unwrap(),
            Some(("red".into(), lsn))
        );
        txn.delete("fruit/apple").unwrap();
        txn.put("fruit/cherry", "black").unwrap();
        assert_eq!(keys(&txn).await, ["fruit/banana", "fruit/cherry"]);
        let info = txn.commit().await.unwrap();
        assert!(matches!(
            txn.get("fruit/banana").await,
            Err(Error::Invalid { .. })
        ));
        assert!(matches!(txn.commit().await, Err(Error::Invalid { .. })));
        assert_eq!(before.get("fruit/apple").await.unwrap(), Some("red".into()));
        assert_eq!(before.get("fruit/cherry").await.unwrap(), None);
        assert!(before.lsn() < info.lsn);
        let first = database.open_report();
        database.close().await;
        assert!(matches!(database.begin().await, Err(Error::Closed { .. })));
        assert!(matches!(
            before.get("fruit/apple").await,
            Err(Error::Closed { .. })
        ));

        assert!(matches!(
            Database::create(cluster.options()).await,
            Err(Error::Exists { .. })
        ));
        let database = Database::take_over(cluster.options()).await.unwrap();
        assert!(database.open_report().volume_epoch > first.volume_epoch);
        assert!(database.open_report().cut >= info.lsn);
        assert_eq!(get(&database, "fruit/apple").await, None);
        assert_eq!(get(&database, "fruit/cherry").await, Some("black".into()));
        let then = database.snapshot_at(lsn).await.unwrap();
        assert_eq!(then.get("fruit/apple").await.unwrap(), Some("red".into()));
        assert_eq!(then.get("fruit/banana").await.unwrap(), None);
        let status = database.status().await.unwrap();
        assert!(
            status.nodes.iter().all(|(_, node)| node.is_some()),
            "{status:?}"
        );
        assert!(status.unfolded_bytes().is_some_and(|bytes| bytes > 0));
        assert_eq!(status.stats.writer.relations.len(), 6);
        assert!(status.stats.ip_bytes() > 0);
        database.close().await;
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_second_writer_is_refused_or_takes_over() {
    let cluster = LocalCluster::start();
    limited(async {
        let first = Database::create(cluster.options()).await.unwrap();
        put(&first, "key", "first").await.unwrap();
        assert!(matches!(
            Database::open(cluster.options()).await,
            Err(Error::InUse { .. })
        ));
        // A refused opening has harmed nobody.
        put(&first, "key", "still first").await.unwrap();
        let txn = first.begin().await.unwrap();
        txn.put("key", "too late").unwrap();

        let second = Database::take_over(cluster.options()).await.unwrap();
        assert_eq!(get(&second, "key").await, Some("still first".into()));
        let error = txn.commit().await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Fenced { .. } | Error::Unavailable { .. } | Error::Unknown { .. }
            ),
            "{error:?}"
        );
        put(&second, "key", "second").await.unwrap();
        // T1: what the first one reads as current is current, or it refuses.
        if let Ok(txn) = first.begin().await {
            assert_eq!(txn.get("key").await.unwrap(), Some("second".into()));
        }
        assert_eq!(get(&second, "key").await, Some("second".into()));
        first.close().await;
        second.close().await;
    })
    .await;
}

#[tokio::test]
async fn whoever_read_what_was_changed_meanwhile_runs_again() {
    let cluster = LocalCluster::start();
    limited(async {
        let database = Database::create(cluster.options()).await.unwrap();
        put(&database, "a/1", "1").await.unwrap();

        let (one, two) = (
            database.begin().await.unwrap(),
            database.begin().await.unwrap(),
        );
        one.get("a/1").await.unwrap();
        two.get("a/1").await.unwrap();
        one.put("a/1", "one").unwrap();
        two.put("a/1", "two").unwrap();
        one.commit().await.unwrap();
        let error = two.commit().await.unwrap_err();
        assert!(
            matches!(error, Error::Conflict { .. }) && error.is_retryable(),
            "{error:?}"
        );

        // A key that was not there when the range was read.
        let one = database.begin().await.unwrap();
        assert_eq!(
            one.range(sixfold::prefix("a/"))
                .collect()
                .await
                .unwrap()
                .len(),
            1
        );
        one.put("count", "1").unwrap();
        put(&database, "a/2", "2").await.unwrap();
        assert!(matches!(one.commit().await, Err(Error::Conflict { .. })));

        // Behind the part that was consumed: no conflict.
        let one = database.begin().await.unwrap();
        let mut range = one.range(sixfold::prefix("a/"));
        assert_eq!(range.next().await.unwrap().unwrap().0, "a/1");
        one.put("count", "1").unwrap();
        put(&database, "a/3", "3").await.unwrap();
        one.commit().await.unwrap();

        // Absent keys are read too; blind writes and reads alone never conflict.
        let one = database.begin().await.unwrap();
        assert_eq!(one.get("absent").await.unwrap(), None);
        let two = database.begin().await.unwrap();
        two.put("absent", "now here").unwrap();
        let three = database.begin().await.unwrap();
        three.put("absent", "later").unwrap();
        two.commit().await.unwrap();
        three.commit().await.unwrap();
        one.commit().await.unwrap();
        let reverse = database
            .snapshot()
            .range(..)
            .reverse()
            .limit(2)
            .collect()
            .await
            .unwrap();
        assert_eq!(
            reverse
                .iter()
                .map(|(key, _)| key.clone())
                .collect::<Vec<_>>(),
            ["count", "absent"]
        );
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn money_is_moved_and_none_is_lost() {
    const ACCOUNTS: u64 = 50;
    let cluster = LocalCluster::start();
    limited(async {
        let database = Database::create(cluster.options()).await.unwrap();
        let account = |number: u64| format!("account/{number:04}");
        let balance =
            |value: Option<Bytes>| i64::from_le_bytes(value.unwrap().as_ref().try_into().unwrap());
        let txn = database.begin().await.unwrap();
        for number in 0..ACCOUNTS {
            txn.put(account(number), 100_i64.to_le_bytes()).unwrap();
        }
        txn.commit().await.unwrap();
        let tellers: Vec<_> = (0..8_u64)
            .map(|teller| {
                let database = database.clone();
                tokio::spawn(async move {
                    let mut dice = teller + 1;
                    let mut roll = move || {
                        dice ^= dice << 13;
                        dice ^= dice >> 7;
                        dice ^= dice << 17;
                        dice % ACCOUNTS
                    };
                    for _ in 0..50 {
                        let (from, to) = (roll(), roll());
                        loop {
                            let txn = database.begin().await.unwrap();
                            let payer = balance(txn.get(account(from)).await.unwrap());
                            txn.put(account(from), (payer - 1).to_le_bytes()).unwrap();
                            let payee = balance(txn.get(account(to)).await.unwrap());
                            txn.put(account(to), (payee + 1).to_le_bytes()).unwrap();
                            match txn.commit().await {
                                Ok(_) => break,
                                Err(error) => assert!(error.is_retryable(), "{error:?}"),
                            }
                        }
                    }
                })
            })
            .collect();
        let sum_now = || async {
            let all = database
                .snapshot()
                .range(sixfold::prefix("account/"))
                .collect()
                .await
                .unwrap();
            all.into_iter()
                .map(|(_, value)| balance(Some(value)))
                .sum::<i64>()
        };
        while tellers.iter().any(|teller| !teller.is_finished()) {
            assert_eq!(sum_now().await, 5_000);
            tokio::task::yield_now().await;
        }
        for teller in tellers {
            teller.await.unwrap();
        }
        assert_eq!(sum_now().await, 5_000);
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_availability_zone_may_go_and_come_back() {
    let mut cluster = LocalCluster::start();
    limited(async {
        let database = Database::create(cluster.options()).await.unwrap();
        put(&database, "before", "1").await.unwrap();
        cluster.stop_node(0);
        cluster.stop_node(1);
        for number in 0..200 {
            put(&database, &format!("during/{number:03}"), "1")
                .await
                .unwrap();
        }
        assert_eq!(get(&database, "during/199").await, Some("1".into()));
        cluster.start_node(0);
        cluster.start_node(1);
        // Another zone goes only when the first has caught up.
        until(&database, |scls| scls.iter().all(|scl| *scl == scls[0])).await;
        cluster.stop_node(4);
        cluster.stop_node(5);
        put(&database, "after", "1").await.unwrap();
        let txn = database.begin().await.unwrap();
        assert_eq!(keys(&txn).await.len(), 202);
        database.close().await;
    })
    .await;
}

/// Waits until the SCLs of all six segments are as wanted.
async fn until(database: &Database, wanted: impl Fn(&[Lsn]) -> bool) {
    loop {
        let relations = database.stats().await.unwrap().writer.relations;
        let scls: Vec<Lsn> = relations.iter().map(|relation| relation.scl).collect();
        if relations.iter().all(|relation| relation.attached) && wanted(&scls) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn without_a_write_quorum_reads_go_on_and_commits_when_one_returns() {
    let mut cluster = LocalCluster::start();
    limited(async {
        let options = cluster
            .options()
            .commit_deadline(Duration::from_millis(1_500))
            .read_deadline(Duration::from_millis(500));
        let database = Database::create(options).await.unwrap();
        put(&database, "key", "before").await.unwrap();
        for index in [1, 3, 5] {
            cluster.stop_node(index);
        }
        let error = put(&database, "key", "unsure").await.unwrap_err();
        assert!(
            matches!(error, Error::Unknown { .. } | Error::Unavailable { .. }),
            "{error:?}"
        );
        let error = put(&database, "other", "refused").await.unwrap_err();
        assert!(
            matches!(error, Error::Unavailable { .. } | Error::Unknown { .. }),
            "{error:?}"
        );
        assert_eq!(
            database.snapshot().get("key").await.unwrap(),
            Some("before".into())
        );
        assert_eq!(get(&database, "key").await, Some("before".into()));
        // Two nodes can say neither that this is still the writer (T1) nor that it is not.
        cluster.stop_node(0);
        loop {
            match database.begin().await {
                Ok(_leased_still) => tokio::task::yield_now().await,
                Err(Error::Unavailable { .. }) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(
            database.snapshot().get("key").await.unwrap(),
            Some("before".into())
        );
        cluster.start_node(0);
        cluster.start_node(3);
        loop {
            match put(&database, "last", "after").await {
                Ok(_) => break,
                Err(error) => assert!(
                    error.is_retryable() || matches!(error, Error::Unknown { .. }),
                    "{error:?}"
                ),
            }
        }
        assert_eq!(get(&database, "last").await, Some("after".into()));
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn what_was_answered_is_there_after_the_volume_is_taken_over_under_load() {
    let cluster = LocalCluster::start();
    limited(async {
        let mut database = Database::create(cluster.options()).await.unwrap();
        let mut answered = Vec::new();
        for round in 0..3 {
            let writers: Vec<_> = (0..8)
                .map(|writer| {
                    let database = database.clone();
                    tokio::spawn(async move {
                        let mut answered = Vec::new();
                        for number in 0.. {
                            let key = format!("{round}/{writer}/{number:05}");
                            match put(&database, &key, &key).await {
                                Ok(_) => answered.push(key),
                                Err(_) => break,
                            }
                        }
                        answered
                    })
                })
                .collect();
            // Under load, the volume is taken from it.
            until(&database, |scls| {
                scls.iter().max().unwrap().get() % 1_000 > 100
            })
            .await;
            let next = Database::take_over(cluster.options()).await.unwrap();
            for writer in writers {
                answered.extend(writer.await.unwrap());
            }
            drop(std::mem::replace(&mut database, next));
            let snapshot = database.snapshot();
            for key in &answered {
                assert_eq!(
                    snapshot.get(key).await.unwrap(),
                    Some(Bytes::from(key.clone())),
                    "lost {key}"
                );
            }
        }
        assert!(!answered.is_empty());
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_cache_of_a_few_pages_and_large_values_work() {
    let cluster = LocalCluster::start();
    limited(async {
        let database = Database::create(cluster.options().cache_bytes(64 << 10))
            .await
            .unwrap();
        let large: Vec<u8> = (0..1_u32 << 20)
            .map(|index| index.to_le_bytes()[1])
            .collect();
        let txn = database.begin().await.unwrap();
        txn.put("large", &large).unwrap();
        txn.commit().await.unwrap();
        for group in 0..20 {
            let txn = database.begin().await.unwrap();
            for number in 0..100 {
                txn.put(format!("small/{group:02}{number:02}"), [7; 200])
                    .unwrap();
            }
            txn.commit().await.unwrap();
        }
        let txn = database.begin().await.unwrap();
        assert_eq!(
            txn.get("large").await.unwrap().as_deref(),
            Some(large.as_slice())
        );
        assert_eq!(
            txn.range(sixfold::prefix("small/"))
                .collect()
                .await
                .unwrap()
                .len(),
            2_000
        );
        assert_eq!(
            txn.range("small/0500".."small/0510")
                .reverse()
                .collect()
                .await
                .unwrap()
                .len(),
            10
        );

        assert!(matches!(txn.put("", "x"), Err(Error::Invalid { .. })));
        assert!(matches!(
            txn.put([0; 1_025], "x"),
            Err(Error::Invalid { .. })
        ));
        assert!(matches!(
            txn.put("x", vec![0; (16 << 20) + 1]),
            Err(Error::Invalid { .. })
        ));
        for number in 0..63 {
            txn.put(format!("limit/{number}"), &large).unwrap();
        }
        assert!(matches!(
            txn.put("limit/63", &large),
            Err(Error::Invalid { .. })
        ));
        txn.rollback();
        assert_eq!(get(&database, "limit/0").await, None);
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_commit_goes_on_when_nobody_waits_for_it_any_more() {
    let cluster = LocalCluster::start();
    limited(async {
        let database = Database::create(cluster.options()).await.unwrap();
        let txn = database.begin().await.unwrap();
        txn.put("key", "value").unwrap();
        tokio::select! {
            biased;
            // Polled once, which sends it on its way.
            _ = txn.commit() => panic!("answered at once"),
            () = std::future::ready(()) => {}
        }
        drop(txn);
        while get(&database, "key").await.is_none() {}
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_writer_without_handles_is_gone_and_the_volume_opens_when_it_was_silent_for_a_second() {
    let cluster = LocalCluster::start();
    limited(async {
        let database = Database::create(cluster.options()).await.unwrap();
        put(&database, "key", "value").await.unwrap();
        let snapshot = database.snapshot();
        drop(database);
        assert_eq!(
            snapshot.get("key").await.unwrap(),
            Some("value".into()),
            "a snapshot is a handle"
        );
        drop(snapshot);
        let mut refused = 0;
        let database = loop {
            match Database::open(cluster.options()).await {
                Ok(database) => break database,
                Err(Error::InUse { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(refused > 0);
        assert_eq!(get(&database, "key").await, Some("value".into()));
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn transactions_work_from_any_thread_of_any_executor() {
    let cluster = LocalCluster::start();
    let database = limited(Database::create(cluster.options())).await.unwrap();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let database = database.clone();
            std::thread::spawn(move || {
                poll_without_a_runtime(async {
                    for number in 0..20 {
                        put(&database, &format!("{thread}/{number}"), "value")
                            .await
                            .unwrap();
                    }
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(
        database.snapshot().range(..).collect().await.unwrap().len(),
        80
    );
    database.close().await;
}

/// The smallest executor there is.
fn poll_without_a_runtime(future: impl Future<Output = ()>) {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    while future.as_mut().poll(&mut context).is_pending() {
        std::thread::park_timeout(LIMIT);
    }
}
