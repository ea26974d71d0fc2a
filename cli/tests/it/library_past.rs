//! The past and time: snapshots at an LSN or a moment, values that expire, against six real daemons.

use std::time::{Duration, SystemTime};

use sixfold::{Database, Error, Lsn};

use crate::library_cluster::{LocalCluster, keys, limited, put, text, with_database};

#[tokio::test]
async fn a_snapshot_at_any_lsn_is_one_of_the_commits_before_it() {
    let cluster = LocalCluster::start();
    limited(async {
        let mut database = Database::create(cluster.options()).await.unwrap();
        let mut commits = Vec::new();
        for number in 0..20 {
            let txn = database.begin().await.unwrap();
            // Several records each, so that most LSNs are no commit's.
            for part in 0..5 {
                txn.put(format!("part/{part}"), format!("{number}"))
                    .unwrap();
            }
            commits.push(txn.commit().await.unwrap().lsn);
            if number == 10 {
                database = Database::take_over(cluster.options()).await.unwrap();
            }
        }
        let last = database.snapshot().lsn();
        for lsn in (commits[0].get()..=commits[12].get()).chain([last.get()]) {
            // Annulled ranges are long and hold nothing.
            if lsn > commits[10].get() + 40 && lsn + 40 < commits[11].get() {
                continue;
            }
            let snapshot = database.snapshot_at(Lsn::new(lsn)).await.unwrap();
            assert!(snapshot.lsn().get() <= lsn);
            let newest = commits
                .iter()
                .rposition(|commit| commit.get() <= lsn)
                .unwrap();
            assert!(snapshot.lsn() >= commits[newest], "{lsn}");
            let parts = snapshot
                .range(sixfold::prefix("part/"))
                .collect()
                .await
                .unwrap();
            assert_eq!(parts.len(), 5);
            for (_, value) in parts {
                assert_eq!(
                    value,
                    newest.to_string(),
                    "at {lsn}, as of {}",
                    snapshot.lsn()
                );
            }
        }
        let future = database.snapshot_at(Lsn::new(last.get() + 1_000_000)).await;
        assert!(matches!(future, Err(Error::Invalid { .. })), "{future:?}");
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_at_a_moment_sees_nothing_that_came_after_it() {
    with_database(async |database| {
        put(&database, "key", "first").await;
        // The volume's clock ticks with commits, each 100 ms.
        let mut moments = Vec::new();
        for number in 0..6 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            let before = SystemTime::now();
            let lsn = put(&database, "key", number.to_string()).await;
            moments.push((before, lsn, SystemTime::now()));
        }
        for (number, &(before, lsn, after)) in moments.iter().enumerate().skip(1) {
            // The volume's clock counts whole milliseconds from its opening on.
            let slack = Duration::from_millis(10);
            let snapshot = database.snapshot_at_time(before - slack).await.unwrap();
            assert!(
                snapshot.lsn() < lsn,
                "{number} was not there before it began"
            );
            let seen = snapshot.get("key").await.unwrap().unwrap();
            assert_ne!(seen, number.to_string());
            // It began a tick of its own.
            let snapshot = database.snapshot_at_time(after + slack).await.unwrap();
            assert_eq!(
                snapshot.get("key").await.unwrap(),
                Some(number.to_string().into())
            );
        }
        let future = SystemTime::now() + Duration::from_secs(3_600);
        let snapshot = database.snapshot_at_time(future).await.unwrap();
        assert_eq!(snapshot.get("key").await.unwrap(), Some("5".into()));
        let long_ago = SystemTime::now() - Duration::from_secs(3_600);
        match database.snapshot_at_time(long_ago).await {
            Err(Error::TimeTooOld {
                unix_ms,
                oldest_unix_ms,
                oldest,
            }) => {
                assert!(unix_ms < oldest_unix_ms);
                assert!(oldest > Lsn::NONE);
            }
            other => panic!("{other:?}"),
        }
    })
    .await;
}

#[tokio::test]
async fn a_value_expires_for_reads_behind_its_deadline_and_stays_for_those_before() {
    let cluster = LocalCluster::start();
    limited(async {
        let first = Database::create(cluster.options()).await.unwrap();
        let txn = first.begin().await.unwrap();
        txn.put_with_ttl("short", "x", Duration::from_millis(300))
            .unwrap();
        txn.put_with_ttl("long", "x", Duration::from_secs(3_600))
            .unwrap();
        txn.put_with_ttl("ended", "x", Duration::from_millis(300))
            .unwrap();
        txn.put("ever", "x").unwrap();
        assert!(matches!(
            txn.put_with_ttl("never", "x", Duration::ZERO),
            Err(Error::Invalid { .. })
        ));
        assert_eq!(
            keys(txn.range(..)).await,
            ["ended", "ever", "long", "short"]
        );
        txn.commit().await.unwrap();
        // Putting it again ends the deadline.
        put(&first, "ended", "y").await;
        let before = first.snapshot();
        // Of an idle volume, too: nobody writes here.
        while text(&first, "short").await.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let expected = ["ended", "ever", "long"];
        assert_eq!(keys(first.snapshot().range(..)).await, expected);
        assert_eq!(
            keys(first.snapshot().range(..).reverse().limit(1)).await,
            ["long"]
        );
        assert_eq!(before.get("short").await.unwrap(), Some("x".into()));

        let second = Database::take_over(cluster.options()).await.unwrap();
        assert_eq!(keys(second.snapshot().range(..)).await, expected);
        let txn = second.begin().await.unwrap();
        txn.put_with_ttl("short", "again", Duration::from_millis(200))
            .unwrap();
        txn.commit().await.unwrap();
        let third = Database::take_over(cluster.options()).await.unwrap();
        while text(&third, "short").await.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(keys(third.snapshot().range(..)).await, expected);
        third.close().await;
    })
    .await;
}

#[tokio::test]
async fn whoever_relied_on_a_value_that_has_expired_meanwhile_runs_again() {
    with_database(async |database| {
        let txn = database.begin().await.unwrap();
        txn.put_with_ttl("lease", "mine", Duration::from_millis(400))
            .unwrap();
        txn.commit().await.unwrap();
        let (by_key, by_range, absent) = (
            database.begin().await.unwrap(),
            database.begin().await.unwrap(),
            database.begin().await.unwrap(),
        );
        assert!(by_key.value_equals("lease", "mine").await.unwrap());
        assert_eq!(keys(by_range.range("l".."m")).await, ["lease"]);
        assert!(absent.is_absent("other").await.unwrap());
        while text(&database, "lease").await.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for txn in [by_key, by_range] {
            txn.put("work", "done").unwrap();
            let result = txn.commit().await;
            assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
        }
        absent.put("work", "other").unwrap();
        absent.commit().await.unwrap();
        assert_eq!(text(&database, "work").await.as_deref(), Some("other"));
    })
    .await;
}
