//! Running again: `transact`, tokens, unknown outcomes, failover, against six real daemons.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sixfold::{Database, Error, Token};

use crate::library_cluster::{LocalCluster, limited, number, put, text, with_database};

#[tokio::test]
async fn transact_runs_again_until_nobody_was_faster_also_from_spawned_tasks() {
    with_database(async |database| {
        put(&database, "count", 0_i64.to_le_bytes()).await;
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let database = database.clone();
                // Spawned: the future must be `Send`, whatever the body borrows or awaits.
                tokio::spawn(async move {
                    let key = String::from("count");
                    for _ in 0..10 {
                        database
                            .transact(|txn| {
                                let key = &key;
                                async move {
                                    let held = txn.get(key).await?.unwrap();
                                    let held =
                                        i64::from_le_bytes(held.as_ref().try_into().unwrap());
                                    tokio::task::yield_now().await;
                                    txn.put(key, (held + 1).to_le_bytes())
                                }
                            })
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(number(&database, "count").await, Some(80));
        assert!(database.stats().await.unwrap().writer.conflicts > 0);
    })
    .await;
}

#[tokio::test]
async fn transact_ends_with_what_the_body_says() {
    #[derive(Debug, PartialEq)]
    enum Mine {
        SoldOut,
        Database(Error),
    }
    impl From<Error> for Mine {
        fn from(error: Error) -> Mine {
            Mine::Database(error)
        }
    }
    with_database(async |database| {
        let runs = AtomicU32::new(0);
        let refused: Result<((), _), Mine> = database
            .try_transact(|txn| {
                runs.fetch_add(1, Ordering::Relaxed);
                async move {
                    txn.put("key", "never")?;
                    Err(Mine::SoldOut)
                }
            })
            .await;
        assert_eq!(refused.unwrap_err(), Mine::SoldOut);
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        assert_eq!(text(&database, "key").await, None);

        // Rolled back by the body: not committed, and no error.
        let given = database.transact(|txn| async move {
            txn.put("key", "never")?;
            txn.rollback();
            Ok(7)
        });
        assert_eq!(given.await, Ok(7));
        assert_eq!(text(&database, "key").await, None);

        let (given, commit) = database
            .try_transact(|txn| async move {
                txn.put("key", "there")?;
                Ok::<_, Mine>("given")
            })
            .await
            .unwrap();
        assert_eq!(given, "given");
        let versioned = database.snapshot().get_versioned("key").await.unwrap();
        assert_eq!(versioned, Some(("there".into(), commit.lsn)));

        let too_large = database.transact(|txn| async move {
            for key in 0..9 {
                txn.put([key], vec![0; 1 << 20])?;
            }
            Ok(())
        });
        assert!(matches!(too_large.await, Err(Error::Invalid { .. })));
    })
    .await;
}

#[tokio::test]
async fn transact_gives_up_at_its_deadline_with_the_last_conflict() {
    let cluster = LocalCluster::start();
    limited(async {
        let options = cluster.options().transact_deadline(Duration::from_secs(2));
        let database = Database::create(options).await.unwrap();
        let runs = AtomicU32::new(0);
        let result = database
            .transact(|txn| {
                runs.fetch_add(1, Ordering::Relaxed);
                let database = database.clone();
                async move {
                    txn.get("contended").await?;
                    // Somebody is always faster.
                    put(&database, "contended", "x").await;
                    txn.put("mine", "x")
                }
            })
            .await;
        assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
        assert!(runs.load(Ordering::Relaxed) >= 2);
        assert_eq!(text(&database, "mine").await, None);
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_token_is_applied_once_by_this_writer_and_by_the_next() {
    let cluster = LocalCluster::start();
    limited(async {
        let first = Database::create(cluster.options()).await.unwrap();
        let given = Token::from(*b"sixteen bytes ok");
        let made = first.new_token();
        let mut lsns = Vec::new();
        for token in [given, made] {
            let txn = first.begin_with_token(token).await.unwrap();
            txn.add("count", 1).unwrap();
            lsns.push(txn.commit().await.unwrap().lsn);
        }
        put(&first, "other", "x").await;
        for (token, lsn) in [given, made].into_iter().zip(&lsns) {
            // What it reads is new, and makes no conflict with what it did itself.
            let txn = first.begin_with_token(token).await.unwrap();
            txn.get("other").await.unwrap();
            put(&first, "other", "changed").await;
            txn.add("count", 1).unwrap();
            assert_eq!(txn.commit().await.unwrap().lsn, *lsn);
        }
        assert_eq!(number(&first, "count").await, Some(2));

        let second = Database::take_over(cluster.options()).await.unwrap();
        for (token, lsn) in [given, made].into_iter().zip(&lsns) {
            let kept = Token::from_bytes(&token.to_bytes()).unwrap();
            let txn = second.begin_with_token(kept).await.unwrap();
            txn.add("count", 1).unwrap();
            txn.put("never", "x").unwrap();
            assert_eq!(txn.commit().await.unwrap().lsn, *lsn);
        }
        assert_eq!(number(&second, "count").await, Some(2));
        assert_eq!(text(&second, "never").await, None);
        // Another token is another commit.
        let txn = second.begin_with_token(second.new_token()).await.unwrap();
        txn.add("count", 1).unwrap();
        txn.commit().await.unwrap();
        assert_eq!(number(&second, "count").await, Some(3));
        second.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_run_that_writes_nothing_closes_its_token() {
    with_database(async |database| {
        for token in [database.new_token(), Token::from([3; 16])] {
            let empty = database.begin_with_token(token).await.unwrap();
            let late = database.begin_with_token(token).await.unwrap();
            late.put("late", "x").unwrap();
            let closed = empty.commit().await.unwrap();
            assert_eq!(late.commit().await.unwrap(), closed);
            assert_eq!(text(&database, "late").await, None);
        }
    })
    .await;
}

#[tokio::test]
async fn a_commit_that_lost_its_writer_is_found_by_its_token_or_done_then() {
    let cluster = LocalCluster::start();
    limited(async {
        let mut database = Database::create(cluster.options()).await.unwrap();
        let mut done = 0;
        for round in 0..3_i64 {
            // Many at once are on their way when the volume is taken.
            let commits: Vec<_> = (0..32)
                .map(|_| {
                    let database = database.clone();
                    tokio::spawn(async move {
                        let token = database.new_token();
                        let txn = database.begin_with_token(token).await?;
                        txn.add("count", 1)?;
                        Ok::<_, Error>((token, txn.commit().await))
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            let next = Database::take_over(cluster.options()).await.unwrap();
            for commit in commits {
                let Ok((token, result)) = commit.await.unwrap() else {
                    continue;
                };
                // Whatever its writer said, the next one says for sure.
                let txn = next.begin_with_token(token).await.unwrap();
                txn.add("count", 1).unwrap();
                let lsn = txn.commit().await.unwrap().lsn;
                if let Ok(info) = result {
                    assert_eq!(info.lsn, lsn);
                }
                done += 1;
            }
            assert_eq!(
                number(&next, "count").await,
                Some(done).filter(|&done| done > 0)
            );
            put(&next, "round", round.to_le_bytes()).await;
            database = next;
        }
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn transact_through_outages_applies_each_once() {
    let mut cluster = LocalCluster::start();
    limited(async {
        let options = cluster
            .options()
            .commit_deadline(Duration::from_millis(200));
        let database = Database::create(options).await.unwrap();
        let left = Arc::new(AtomicU32::new(200));
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let (database, left) = (database.clone(), Arc::clone(&left));
                tokio::spawn(async move {
                    let mut done = 0;
                    while left.fetch_sub(1, Ordering::Relaxed) <= 200 && done < 25 {
                        database
                            .transact(|txn| async move { txn.add("count", 1) })
                            .await
                            .unwrap();
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        // Without a quorum for longer than a commit may take, so that some end unknown.
        for _ in 0..2 {
            for index in [1, 3, 5] {
                cluster.stop_node(index);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            for index in [1, 3, 5] {
                cluster.start_node(index);
            }
            loop {
                let txn = database.begin().await;
                let Ok(txn) = txn else { continue };
                txn.put("alive", "x").unwrap();
                if txn.commit().await.is_ok() {
                    break;
                }
            }
        }
        let mut done = 0_i64;
        for client in clients {
            done += client.await.unwrap();
        }
        assert_eq!(number(&database, "count").await, Some(done));
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_transact_that_is_dropped_was_done_once_or_not_at_all() {
    with_database(async |database| {
        for _ in 0..50 {
            let transact = database.transact(|txn| async move { txn.add("count", 1) });
            tokio::select! {
                biased;
                result = transact => result.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        }
        // Whatever was on its way has arrived when a later commit has.
        put(&database, "after", "x").await;
        let count = number(&database, "count").await.unwrap_or(0);
        assert!((0..=50).contains(&count), "{count}");
        assert_eq!(number(&database, "count").await.unwrap_or(0), count);
    })
    .await;
}
