//! More than fits: caches smaller than the data, long scans, large values, loads, nodes that are away, all in bounded memory.

use std::time::{Duration, Instant};

use sixfold::{Database, Error};

use crate::library_cluster::{LocalCluster, keys, limited, put, with_database};

fn value(number: usize, bytes: usize) -> Vec<u8> {
    let byte = |index: usize| u8::try_from((index * 31 + number * 7) % 251).unwrap();
    (0..bytes).map(byte).collect()
}

#[tokio::test]
async fn a_cache_of_64_pages_serves_a_volume_many_times_its_size() {
    let cluster = LocalCluster::start();
    limited(async {
        let options = cluster.options().cache_bytes(64 * 8_192);
        let database = Database::create(options.clone()).await.unwrap();
        // 8 MiB and more, sixteen times the cache.
        for group in 0..20 {
            let txn = database.begin().await.unwrap();
            for number in 0..1_000 {
                txn.put(format!("row/{group:02}{number:03}"), value(number, 400))
                    .unwrap();
            }
            txn.commit().await.unwrap();
        }
        let readers: Vec<_> = (0..4_usize)
            .map(|reader| {
                let database = database.clone();
                tokio::spawn(async move {
                    let snapshot = database.snapshot();
                    let mut seen = 0;
                    let mut range = snapshot.range(sixfold::prefix("row/"));
                    if reader.is_multiple_of(2) {
                        range = range.reverse();
                    }
                    while let Some((_, value)) = range.next().await.unwrap() {
                        assert_eq!(value.len(), 400);
                        seen += 1;
                    }
                    for number in 0..200 {
                        let (group, number) = ((number + reader) % 20, number * 5);
                        let held = snapshot.get(format!("row/{group:02}{number:03}")).await;
                        assert_eq!(held.unwrap().unwrap(), value(number, 400));
                    }
                    seen
                })
            })
            .collect();
        // Written at the same time, all over the tree.
        for number in 0..100 {
            put(
                &database,
                &format!("row/{:02}{:03}", number % 20, number * 7),
                value(number, 400),
            )
            .await;
        }
        for reader in readers {
            assert_eq!(reader.await.unwrap(), 20_000);
        }
        let many: Vec<String> = (0..300)
            .map(|number| format!("row/{:02}500", number % 20))
            .collect();
        let held = database.snapshot().get_many(&many).await.unwrap();
        assert!(held.iter().all(Option::is_some));
        database.close().await;

        // Cold, with the smallest cache there is.
        let database = Database::take_over(options.cache_bytes(1)).await.unwrap();
        let held = keys(database.snapshot().range("row/07".."row/09")).await;
        assert_eq!(held.len(), 2_000);
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_cold_large_value_is_fetched_in_a_few_rounds() {
    let cluster = LocalCluster::start();
    limited(async {
        let large = value(3, 1 << 20);
        let database = Database::create(cluster.options()).await.unwrap();
        let txn = database.begin().await.unwrap();
        txn.put("large", &large).unwrap();
        txn.commit().await.unwrap();
        database.close().await;
        let database = Database::take_over(cluster.options()).await.unwrap();
        let before = database.stats().await.unwrap();
        let held = database.snapshot().get("large").await.unwrap();
        assert_eq!(held.as_deref(), Some(&large[..]));
        let after = database.stats().await.unwrap();
        assert!(
            after.writer.fetches - before.writer.fetches >= 129,
            "{after:?}"
        );
        // A request a page would need more datagrams than pages, with the acknowledgments of what comes back.
        let sent = after.wire.sent_datagrams - before.wire.sent_datagrams;
        assert!(sent < 129, "{sent} datagrams were sent");
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn large_transactions_in_parallel_wait_for_room_and_all_end() {
    let cluster = LocalCluster::start();
    limited(async {
        // Six nodes write it all to one disk.
        let options = cluster.options().commit_deadline(Duration::from_secs(50));
        let database = Database::create(options).await.unwrap();
        let commits: Vec<_> = (0..6_usize)
            .map(|number| {
                let database = database.clone();
                tokio::spawn(async move {
                    let txn = database.begin().await.unwrap();
                    for part in 0..4 {
                        txn.put(format!("large/{number}/{part}"), value(number, 1 << 20))
                            .unwrap();
                    }
                    txn.commit().await
                })
            })
            .collect();
        let mut most = 0;
        for commit in commits {
            let stats = database.stats().await.unwrap();
            assert!(stats.waiting_commit_bytes <= stats.waiting_commit_bytes_max);
            most = most.max(stats.waiting_commit_bytes);
            commit.await.unwrap().unwrap();
        }
        assert!(most > 1 << 20, "{most}");
        assert_eq!(database.stats().await.unwrap().waiting_commit_bytes, 0);
        for number in [0, 5] {
            let held = database
                .snapshot()
                .get(format!("large/{number}/3"))
                .await
                .unwrap();
            assert_eq!(held.unwrap(), value(number, 1 << 20));
        }
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn limits_are_told_before_anything_is_written() {
    with_database(async |database| {
        let txn = database.begin().await.unwrap();
        let longest = [7; 1_024];
        txn.put(longest, "x").unwrap();
        assert_eq!(txn.write_bytes(), 1_024 + 1 + 1 + 64);
        let too_long = [7; 1_025];
        let refused = [
            txn.put("", "x"),
            txn.put(too_long, "x"),
            txn.delete(too_long),
            txn.add(too_long, 1),
        ];
        for result in refused {
            assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
        }
        assert!(matches!(
            txn.get(too_long).await,
            Err(Error::Invalid { .. })
        ));
        // Bounds may be longer than any key.
        assert_eq!(txn.range(&too_long[..]..).collect().await.unwrap().len(), 0);
        assert_eq!(txn.range(..&too_long[..]).collect().await.unwrap().len(), 1);
        txn.delete_range(&too_long[..]..).unwrap();
        txn.commit().await.unwrap();
        assert!(database.snapshot().get(longest).await.unwrap().is_some());
        let txn = database.begin().await.unwrap();
        txn.delete_range(..&too_long[..]).unwrap();
        txn.commit().await.unwrap();
        assert!(database.snapshot().get(longest).await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_read_ends_at_its_own_deadline_when_nobody_answers() {
    let mut cluster = LocalCluster::start();
    limited(async {
        let options = cluster.options().cache_bytes(1);
        let database = Database::create(options).await.unwrap();
        for number in 0..50 {
            put(&database, &format!("row/{number:02}"), value(number, 900)).await;
        }
        let snapshot = database.snapshot();
        let txn = database.begin().await.unwrap();
        for index in 0..6 {
            cluster.stop_node(index);
        }
        let limit = Duration::from_millis(200);
        let begun = Instant::now();
        let mut failed = 0;
        for number in 0..50 {
            let key = format!("row/{number:02}");
            for result in [
                snapshot.with_read_deadline(limit).get(&key).await,
                txn.with_read_deadline(limit).get(&key).await,
            ] {
                match result {
                    Ok(held) => assert!(held.is_some()),
                    Err(Error::Unavailable { .. }) => failed += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
            if failed > 3 {
                break;
            }
        }
        let range = snapshot.with_read_deadline(limit).range(..).collect().await;
        assert!(matches!(range, Err(Error::Unavailable { .. })), "{range:?}");
        assert!(failed > 0);
        assert!(begun.elapsed() < Duration::from_secs(30));
        drop((snapshot, txn, database));
    })
    .await;
}
