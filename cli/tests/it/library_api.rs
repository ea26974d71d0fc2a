//! What each call of the library means at its corners, against six real daemons.

use std::pin::pin;
use std::time::Duration;

use sixfold::{Database, Error, Lsn, Stream, Transaction};

use crate::library_cluster::{keys, number, put, text, with_database};

#[allow(clippy::needless_pass_by_value, reason = "it reads like an assertion")]
fn is_invalid<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
}

async fn begin(database: &Database) -> Transaction {
    database.begin().await.unwrap()
}

#[tokio::test]
async fn ranges_that_hold_nothing_hold_nothing_and_cost_no_conflict() {
    with_database(async |database| {
        for key in ["a", "b", "c"] {
            put(&database, key, key).await;
        }
        let txn = begin(&database).await;
        assert!(keys(txn.range("b".."b")).await.is_empty());
        assert!(keys(txn.range("c".."a")).await.is_empty());
        assert!(keys(txn.range("c"..="a").reverse()).await.is_empty());
        assert!(keys(txn.range(.."")).await.is_empty());
        assert!(keys(txn.range(..).limit(0)).await.is_empty());
        assert!(keys(txn.range(..).byte_budget(0)).await.is_empty());
        txn.delete_range("b".."b").unwrap();
        txn.delete_range("c".."a").unwrap();
        let mut ended = txn.range("a".."a");
        for _ in 0..3 {
            assert_eq!(ended.next().await.unwrap(), None);
        }
        txn.put("d", "d").unwrap();
        put(&database, "b", "again").await;
        txn.commit().await.unwrap();

        let snapshot = database.snapshot();
        assert_eq!(keys(snapshot.range("a"..="c")).await, ["a", "b", "c"]);
        assert_eq!(keys(snapshot.range("a\0".."c")).await, ["b"]);
        assert_eq!(keys(snapshot.range(..).limit(2)).await, ["a", "b"]);
        assert_eq!(
            keys(snapshot.range(..).reverse().limit(2)).await,
            ["d", "c"]
        );
        // One item may go beyond the budget, so that a scan always gets on.
        assert_eq!(keys(snapshot.range(..).byte_budget(1)).await, ["a"]);
        assert_eq!(keys(snapshot.range(..).byte_budget(3)).await, ["a", "b"]);
        assert_eq!(keys(snapshot.range(..).byte_budget(1 << 20)).await.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_range_sees_the_writes_of_its_transaction_as_of_its_call() {
    with_database(async |database| {
        for key in ["a", "c", "e"] {
            put(&database, key, 1_i64.to_le_bytes()).await;
        }
        let txn = begin(&database).await;
        txn.put("b", "mine").unwrap();
        txn.delete("c").unwrap();
        txn.add("e", 4).unwrap();
        let mut range = txn.range(..);
        assert_eq!(range.next().await.unwrap().unwrap().0, "a");
        txn.put("d", "later").unwrap();
        txn.delete_range("b"..).unwrap();
        assert_eq!(range.next_versioned().await.unwrap().unwrap().2, Lsn::NONE);
        let (key, value) = range.next().await.unwrap().unwrap();
        assert_eq!(
            (&key[..], &value[..]),
            (&b"e"[..], &5_i64.to_le_bytes()[..])
        );
        assert_eq!(range.next().await.unwrap(), None);
        assert_eq!(range.next().await.unwrap(), None);
        assert_eq!(keys(txn.range(..)).await, ["a"]);
        txn.put("bb", "after the clear").unwrap();
        assert_eq!(keys(txn.range(..).reverse()).await, ["bb", "a"]);
        txn.commit().await.unwrap();
        assert_eq!(keys(database.snapshot().range(..)).await, ["a", "bb"]);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_has_ended_refuses_every_call() {
    with_database(async |database| {
        put(&database, "key", "value").await;
        let committed = begin(&database).await;
        let mut range = committed.range(..);
        committed.put("other", "x").unwrap();
        committed.commit().await.unwrap();
        is_invalid(range.next().await);
        let rolled_back = begin(&database).await;
        rolled_back.rollback();
        rolled_back.rollback();
        for txn in [committed, rolled_back] {
            is_invalid(txn.get("key").await);
            is_invalid(txn.get_many(["key"]).await);
            is_invalid(txn.snapshot_read("key").await);
            is_invalid(txn.is_absent("key").await);
            is_invalid(txn.put("key", "x"));
            is_invalid(txn.put_with_ttl("key", "x", Duration::from_secs(1)));
            is_invalid(txn.delete("key"));
            is_invalid(txn.delete_range(..));
            is_invalid(txn.delete_range("b".."a"));
            is_invalid(txn.add("key", 1));
            is_invalid(txn.range(..).next().await);
            is_invalid(txn.estimate(..).await);
            is_invalid(txn.read_point());
            is_invalid(txn.commit().await);
        }
        assert_eq!(text(&database, "key").await.as_deref(), Some("value"));
    })
    .await;
}

#[tokio::test]
async fn clones_of_a_transaction_are_one_and_may_be_used_at_once() {
    with_database(async |database| {
        for key in 0..50 {
            put(&database, &format!("old/{key:02}"), "x").await;
        }
        let txn = begin(&database).await;
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let txn = txn.clone();
                tokio::spawn(async move {
                    for key in 0..25 {
                        txn.put(format!("new/{task}/{key:02}"), "y").unwrap();
                        assert!(txn.get(format!("old/{key:02}")).await.unwrap().is_some());
                        txn.add("count", 1).unwrap();
                    }
                    keys(txn.range(sixfold::prefix("old/"))).await.len()
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), 50);
        }
        txn.commit().await.unwrap();
        assert_eq!(number(&database, "count").await, Some(200));
        let new = keys(database.snapshot().range(sixfold::prefix("new/"))).await;
        assert_eq!(new.len(), 200);
    })
    .await;
}

#[tokio::test]
async fn reads_that_take_no_part_in_conflicts_fail_nobody() {
    with_database(async |database| {
        put(&database, "hint", "1").await;
        let txn = begin(&database).await;
        assert_eq!(txn.snapshot_read("hint").await.unwrap(), Some("1".into()));
        txn.estimate(..).await.unwrap();
        txn.put("mine", "x").unwrap();
        assert_eq!(txn.snapshot_read("mine").await.unwrap(), Some("x".into()));
        put(&database, "hint", "2").await;
        assert_eq!(txn.snapshot_read("hint").await.unwrap(), Some("1".into()));
        txn.commit().await.unwrap();

        let txn = begin(&database).await;
        assert!(txn.value_equals("hint", "2").await.unwrap());
        assert_eq!(
            txn.get_many(["mine", "absent", "hint", "mine"])
                .await
                .unwrap(),
            [Some("x".into()), None, Some("2".into()), Some("x".into())]
        );
        txn.put("mine", "y").unwrap();
        put(&database, "absent", "there").await;
        assert!(matches!(txn.commit().await, Err(Error::Conflict { .. })));
        // Reading alone never conflicts.
        let txn = begin(&database).await;
        txn.get("hint").await.unwrap();
        put(&database, "hint", "3").await;
        txn.commit().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn comparisons_hold_until_the_commit_or_it_fails() {
    with_database(async |database| {
        let lsn = put(&database, "key", "value").await;
        let txn = begin(&database).await;
        assert!(txn.value_equals("key", "value").await.unwrap());
        assert!(!txn.value_equals("key", "valu").await.unwrap());
        assert!(!txn.value_equals("absent", "").await.unwrap());
        assert!(txn.version_equals("key", lsn).await.unwrap());
        assert!(
            !txn.version_equals("key", Lsn::new(lsn.get() - 1))
                .await
                .unwrap()
        );
        assert!(!txn.version_equals("absent", Lsn::NONE).await.unwrap());
        assert!(txn.is_absent("absent").await.unwrap());
        txn.put("absent", "now").unwrap();
        assert!(!txn.is_absent("absent").await.unwrap());
        assert!(!txn.version_equals("absent", Lsn::NONE).await.unwrap());
        txn.commit().await.unwrap();
        for other in ["key", "absent"] {
            let txn = begin(&database).await;
            assert!(!txn.is_absent(other).await.unwrap());
            txn.put("note", "there").unwrap();
            put(&database, other, "changed").await;
            assert!(matches!(txn.commit().await, Err(Error::Conflict { .. })));
        }
    })
    .await;
}

#[tokio::test]
async fn numbers_are_added_up_without_conflicts_and_refused_where_they_make_no_sense() {
    with_database(async |database| {
        let adding: Vec<_> = (0..16)
            .map(|task| {
                let database = database.clone();
                tokio::spawn(async move {
                    for step in 0..10 {
                        let txn = begin(&database).await;
                        txn.add("sum", 1).unwrap();
                        txn.max("highest", task * 10 + step).unwrap();
                        txn.min("lowest", task * 10 + step - 50).unwrap();
                        txn.commit().await.expect("additions do not conflict");
                    }
                })
            })
            .collect();
        for task in adding {
            task.await.unwrap();
        }
        assert_eq!(number(&database, "sum").await, Some(160));
        assert_eq!(number(&database, "highest").await, Some(159));
        assert_eq!(number(&database, "lowest").await, Some(-50));

        // Read in the same transaction, it is a read like any other (T6).
        let txn = begin(&database).await;
        txn.add("sum", 1).unwrap();
        assert_eq!(
            txn.get("sum").await.unwrap(),
            Some(161_i64.to_le_bytes().to_vec().into())
        );
        txn.put("note", "161").unwrap();
        let other = begin(&database).await;
        other.add("sum", 1).unwrap();
        other.commit().await.unwrap();
        assert!(matches!(txn.commit().await, Err(Error::Conflict { .. })));

        put(&database, "text", "four").await;
        put(&database, "full", i64::MAX.to_le_bytes()).await;
        for key in ["text", "full"] {
            let txn = begin(&database).await;
            txn.add(key, 1).unwrap();
            txn.put("beside", "x").unwrap();
            is_invalid(txn.get(key).await);
            is_invalid(txn.commit().await);
            let txn = begin(&database).await;
            txn.add(key, 1).unwrap();
            txn.put("beside", "x").unwrap();
            is_invalid(txn.commit().await);
        }
        assert_eq!(text(&database, "beside").await, None);
        let txn = begin(&database).await;
        txn.put("text", "five").unwrap();
        is_invalid(txn.add("text", 1));
        txn.delete("text").unwrap();
        txn.add("text", 5).unwrap();
        txn.add("text", -2).unwrap();
        txn.commit().await.unwrap();
        assert_eq!(number(&database, "text").await, Some(3));
    })
    .await;
}

#[tokio::test]
async fn a_range_is_deleted_with_what_it_holds_at_the_commit() {
    with_database(async |database| {
        let load = begin(&database).await;
        for number in 0..2_000 {
            load.put(format!("row/{number:05}"), [7; 100]).unwrap();
        }
        load.put("other", "x").unwrap();
        load.commit().await.unwrap();
        let before = database.snapshot();

        let txn = begin(&database).await;
        txn.put("row/00100", "gone with the others").unwrap();
        txn.delete_range(sixfold::prefix("row/")).unwrap();
        txn.put("row/00200", "put again").unwrap();
        assert_eq!(txn.get("row/00100").await.unwrap(), None);
        // It read nothing, so that a put by somebody else fails nobody, and goes as well.
        put(&database, "row/99999", "new").await;
        let reader = begin(&database).await;
        assert!(!reader.is_absent("row/00001").await.unwrap());
        reader.put("seen", "row/00001").unwrap();
        txn.commit().await.unwrap();
        assert!(matches!(reader.commit().await, Err(Error::Conflict { .. })));
        assert_eq!(
            keys(database.snapshot().range(..)).await,
            ["other", "row/00200"]
        );
        assert_eq!(before.range(..).collect().await.unwrap().len(), 2_001);

        let txn = begin(&database).await;
        txn.delete_range("o".."row/0").unwrap();
        txn.put("p", "put behind").unwrap();
        assert_eq!(keys(txn.range(..)).await, ["p", "row/00200"]);
        txn.rollback();

        // All of it, and again on nothing.
        for _ in 0..2 {
            let txn = begin(&database).await;
            txn.delete_range(..).unwrap();
            txn.commit().await.unwrap();
        }
        assert!(keys(database.snapshot().range(..)).await.is_empty());
        put(&database, "row/00001", "back").await;
        assert_eq!(keys(database.snapshot().range(..)).await, ["row/00001"]);
    })
    .await;
}

#[tokio::test]
async fn keyspaces_share_nothing_but_their_commits() {
    with_database(async |database| {
        assert_eq!(database.keyspaces().await.unwrap(), [""; 0]);
        assert!(database.keyspace("users").await.unwrap().is_none());
        let users = database.create_keyspace("users").await.unwrap();
        let orders = database.create_keyspace("orders").await.unwrap();
        let again = database.create_keyspace("users").await.unwrap();
        assert_eq!(database.keyspaces().await.unwrap(), ["orders", "users"]);
        is_invalid(database.create_keyspace("").await.map(drop));
        is_invalid(database.keyspace(&"x".repeat(129)).await.map(drop));

        let txn = users.begin().await.unwrap();
        txn.put("1", "alice").unwrap();
        txn.within(&orders).put("1", "apples").unwrap();
        txn.within(&orders)
            .put_with_ttl("2", "pears", Duration::from_secs(60))
            .unwrap();
        txn.within(&orders).add("count", 1).unwrap();
        assert_eq!(txn.get("1").await.unwrap(), Some("alice".into()));
        assert_eq!(
            txn.within(&orders).get("1").await.unwrap(),
            Some("apples".into())
        );
        txn.commit().await.unwrap();
        put(&database, "1", "default").await;

        assert_eq!(keys(again.snapshot().range(..)).await, ["1"]);
        assert_eq!(keys(orders.snapshot().range(..)).await, ["1", "2", "count"]);
        assert_eq!(
            keys(orders.snapshot().range(..).reverse()).await,
            ["count", "2", "1"]
        );
        assert_eq!(keys(database.snapshot().range(..)).await, ["1"]);
        orders
            .transact(|txn| async move { txn.delete_range(..) })
            .await
            .unwrap();
        assert!(keys(orders.snapshot().range(..)).await.is_empty());
        assert_eq!(keys(users.snapshot().range(..)).await, ["1"]);
        assert_eq!(text(&database, "1").await.as_deref(), Some("default"));
    })
    .await;
}

#[tokio::test]
async fn a_keyspace_that_was_dropped_takes_nothing_any_more() {
    with_database(async |database| {
        let users = database.create_keyspace("users").await.unwrap();
        users
            .transact(|txn| async move { txn.put("1", "alice") })
            .await
            .unwrap();
        let before = users.snapshot();
        let (blind, reader) = (users.begin().await.unwrap(), users.begin().await.unwrap());
        blind.put("2", "bob").unwrap();
        assert!(!reader.is_absent("1").await.unwrap());
        reader.put("3", "carol").unwrap();
        assert!(database.drop_keyspace("users").await.unwrap());
        assert!(!database.drop_keyspace("users").await.unwrap());
        for txn in [blind, reader] {
            assert!(matches!(txn.commit().await, Err(Error::Conflict { .. })));
        }
        let late = users.begin().await.unwrap();
        is_invalid(late.get("1").await);
        late.put("1", "nobody").unwrap();
        is_invalid(late.commit().await);
        is_invalid(
            users
                .transact(|txn| async move { txn.put("1", "nobody") })
                .await,
        );
        assert_eq!(before.get("1").await.unwrap(), Some("alice".into()));

        // The name may be used again; the old handle is not the new one.
        let new = database.create_keyspace("users").await.unwrap();
        assert!(keys(new.snapshot().range(..)).await.is_empty());
        new.transact(|txn| async move { txn.put("1", "dora") })
            .await
            .unwrap();
        is_invalid(
            users
                .transact(|txn| async move { txn.put("1", "nobody") })
                .await,
        );
        assert_eq!(users.snapshot().get("1").await.unwrap(), None);
        assert_eq!(new.snapshot().get("1").await.unwrap(), Some("dora".into()));
    })
    .await;
}

#[tokio::test]
async fn a_transaction_from_before_a_keyspace_was_made_may_run_again() {
    with_database(async |database| {
        let (reader, blind) = (begin(&database).await, begin(&database).await);
        let users = database.create_keyspace("users").await.unwrap();
        let error = reader.within(&users).get("1").await.unwrap_err();
        assert!(
            matches!(error, Error::TooOld { .. }) && error.is_retryable(),
            "{error:?}"
        );
        blind.within(&users).put("1", "alice").unwrap();
        let error = blind.commit().await.unwrap_err();
        assert!(matches!(error, Error::TooOld { .. }), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_range_is_a_stream() {
    with_database(async |database| {
        for key in ["a", "b", "c"] {
            put(&database, key, key).await;
        }
        let mut stream = pin!(database.snapshot().range(..));
        let mut seen = Vec::new();
        while let Some(item) =
            std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await
        {
            seen.push(item.unwrap().0);
        }
        assert_eq!(seen, ["a", "b", "c"]);
        let after = std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await;
        assert!(after.is_none());
    })
    .await;
}

#[tokio::test]
async fn an_estimate_is_near_what_a_range_holds() {
    with_database(async |database| {
        for group in 0..10 {
            let txn = begin(&database).await;
            for key in 0..1_000 {
                txn.put(format!("row/{group}{key:03}"), [7; 100]).unwrap();
            }
            txn.commit().await.unwrap();
        }
        let snapshot = database.snapshot();
        let all = snapshot.estimate(..).await.unwrap();
        assert!((3_000..30_000).contains(&all.keys), "{all:?}");
        assert!((300_000..6_000_000).contains(&all.bytes), "{all:?}");
        let part = snapshot.estimate("row/2".."row/4").await.unwrap();
        assert!((600..6_000).contains(&part.keys), "{part:?}");
        for nothing in [
            snapshot.estimate("x".."x").await,
            snapshot.estimate("y".."x").await,
        ] {
            assert_eq!(nothing.unwrap().keys, 0);
        }
        assert_eq!(
            begin(&database).await.estimate("x"..).await.unwrap().keys,
            0
        );
    })
    .await;
}

#[tokio::test]
async fn what_a_snapshot_holds_back_is_seen_and_let_go() {
    with_database(async |database| {
        put(&database, "hot", "0").await;
        let snapshot = database.snapshot();
        for round in 0..200 {
            put(&database, "hot", round.to_string()).await;
        }
        let held = database.stats().await.unwrap();
        assert_eq!(held.writer.read_point_min, snapshot.lsn());
        assert!(held.writer.held_records >= 200, "{held:?}");
        assert!(held.writer.read_points >= 1);
        assert!(held.writer.conflict_bytes > 0);
        assert_eq!(held.waiting_commit_bytes, 0);
        assert_eq!(snapshot.get("hot").await.unwrap(), Some("0".into()));
        drop(snapshot);
        put(&database, "hot", "last").await;
        loop {
            let after = database.stats().await.unwrap().writer;
            if after.held_records < held.writer.held_records {
                break;
            }
            put(&database, "hot", "more").await;
        }
    })
    .await;
}
