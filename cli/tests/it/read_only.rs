//! Read-only openings (R23) against six real processes: beside a living writer, without one, and with too few nodes for one.

use std::time::Duration;

use sixfold::{Database, Error, ReadOnly, prefix};

use crate::load::{Load, block_on, commit};
use crate::process::{LIMIT, eventually, run};
use crate::real_cluster::RealCluster;

const CLIENTS: usize = 4;
const SOON: Duration = Duration::from_secs(2);

async fn open(cluster: &RealCluster) -> ReadOnly {
    let options = cluster.options().open_deadline(LIMIT).read_deadline(LIMIT);
    Database::open_read_only(options).await.unwrap()
}

/// The commits that a reader shows, each of which is there whole.
async fn shown(reader: &ReadOnly) -> Vec<String> {
    let names = async |side: &str| {
        let items = reader.range(prefix(side)).collect().await.unwrap();
        let names = items.into_iter().map(|(key, _)| {
            let key = String::from_utf8(key.to_vec()).unwrap();
            key[side.len()..].to_owned()
        });
        names.collect::<Vec<_>>()
    };
    let (left, right) = (names("left/").await, names("right/").await);
    assert_eq!(left, right, "a commit is torn {}", reader.as_of());
    left
}

async fn put(database: &Database, key: &str, value: &str) -> sixfold::Lsn {
    let txn = database.begin().await.unwrap();
    txn.put(key, value).unwrap();
    txn.commit().await.unwrap().lsn
}

#[test]
fn a_reader_beside_a_living_writer_shows_all_that_was_answered_and_is_not_noticed() {
    let cluster = RealCluster::start();
    let options = cluster
        .options()
        .commit_deadline(LIMIT)
        .read_deadline(LIMIT);
    let database = block_on(Database::create(options)).unwrap();
    let epoch = database.open_report().volume_epoch;
    let load = Load::start(&database, "load", CLIENTS);
    load.until_answered(50);
    let mut reader = None;
    for number in 0..10 {
        let number = format!("{number}");
        let (answered, fresh) = block_on(async {
            let answered = put(&database, "number", &number).await;
            let fresh = match &reader {
                None => open(&cluster).await,
                Some(reader) => ReadOnly::refresh(reader).await.unwrap(),
            };
            (answered, fresh)
        });
        block_on(async {
            let as_of = fresh.as_of();
            assert!(as_of.lsn >= answered && as_of.settled, "{as_of}");
            assert!(as_of.unix_ms.is_some());
            assert_eq!(as_of.volume_epoch, epoch);
            assert_eq!(fresh.get("number").await.unwrap(), Some(number.into()));
            let first = shown(&fresh).await;
            put(&database, "later", "x").await;
            // It stays where it is, however often it is asked.
            assert_eq!(shown(&fresh).await, first);
            if let Some(before) = &reader {
                let before: &ReadOnly = before;
                assert!(before.as_of().lsn < as_of.lsn);
                assert!(shown(before).await.len() <= first.len());
            }
        });
        reader = Some(fresh);
    }
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    block_on(async {
        let last = open(&cluster).await;
        outcomes.check(&last.snapshot()).await;
        // The writer was not disturbed, and no segment changed its claim.
        put(&database, "at the end", "x").await;
        assert!(!database.is_fenced());
        let status = database.status().await.unwrap();
        let segments = status
            .nodes
            .iter()
            .flat_map(|(_, node)| &node.as_ref().unwrap().segments);
        assert!(
            segments.clone().count() == 6 && segments.clone().all(|segment| segment.claim == epoch)
        );
        let reader = reader.unwrap();
        reader.close().await;
        assert!(matches!(
            reader.get("number").await,
            Err(Error::Closed { .. })
        ));
        assert!(matches!(reader.refresh().await, Err(Error::Closed { .. })));
        database.close().await;
    });
}

#[test]
fn without_a_zone_and_a_node_nothing_is_written_and_everything_is_read() {
    let mut cluster = RealCluster::start();
    let options = cluster.options().commit_deadline(SOON).read_deadline(SOON);
    let database = block_on(Database::create(options)).unwrap();
    let load = Load::start(&database, "load", CLIENTS);
    load.until_answered(50);
    cluster.kill(&[0, 1, 2]);
    load.until_refused(CLIENTS);
    let mut outcomes = load.stop();
    block_on(async {
        // The writer itself: no commit, current reads under its lease, which three segments renew.
        let refused = commit(&database, "refused").await;
        assert!(
            matches!(
                refused,
                Err(Error::Unavailable { .. } | Error::Unknown { .. })
            ),
            "{refused:?}"
        );
        let txn = database.begin().await.unwrap();
        let name = outcomes.answered.last().unwrap();
        assert!(txn.get(format!("left/{name}")).await.unwrap().is_some());
        drop(txn);
        // A reader beside it.
        let reader = open(&cluster).await;
        outcomes.check(&reader.snapshot()).await;
        let before = shown(&reader).await;
        database.close().await;
        // And without it. What was shown stays shown.
        let reader = reader.refresh().await.unwrap();
        let after = shown(&reader).await;
        assert!(before.iter().all(|name| after.contains(name)));
        assert!(reader.as_of().settled);
        // No writer opens.
        let error = Database::take_over(cluster.options().open_deadline(SOON)).await;
        assert!(matches!(error, Err(Error::Unavailable { .. })), "{error:?}");
        reader.close().await;
    });
    // One more node gone: one clear line.
    cluster.kill(&[3]);
    let options = cluster.options().open_deadline(SOON);
    let error = block_on(Database::open_read_only(options)).unwrap_err();
    let line = error.to_string();
    assert!(
        line.starts_with(
            "unavailable: 2 of 3 segments of protection group 0 that a reader needs answered in time"
        ),
        "{line}"
    );
    // With a write quorum again: everything that a reader was shown is in the next writer.
    cluster.start_nodes(&[0, 3]);
    block_on(async {
        let options = cluster.options().open_deadline(LIMIT).read_deadline(LIMIT);
        let database = Database::take_over(options).await.unwrap();
        outcomes.refused.clear();
        outcomes.check(&database.snapshot()).await;
        database.close().await;
    });
}

#[test]
fn what_a_reader_was_shown_is_in_every_later_writer() {
    let mut cluster = RealCluster::start();
    let mut database = block_on(Database::create(cluster.options())).unwrap();
    for (round, away) in [[0, 2, 4], [1, 2, 3], [3, 4, 5]].into_iter().enumerate() {
        let load = Load::start(&database, &format!("round {round}"), CLIENTS);
        load.until_answered(30);
        let reader = block_on(open(&cluster));
        // The writer dies with commits on their way; other nodes stop, so that what few segments hold counts.
        drop(database);
        cluster.kill(&away);
        let after = block_on(open(&cluster));
        let names = block_on(shown(&after));
        drop(load);
        cluster.start_nodes(&away);
        // Another three tell the next writer, with one of those that told the reader.
        let others: Vec<usize> = (0..6).filter(|node| !away.contains(node)).collect();
        cluster.kill(&others[..2]);
        database = block_on(Database::take_over(cluster.options().open_deadline(LIMIT))).unwrap();
        block_on(async {
            assert!(database.open_report().cut >= after.as_of().lsn);
            let snapshot = database.snapshot();
            for name in &names {
                let found = snapshot.get(format!("left/{name}")).await.unwrap();
                assert!(found.is_some(), "{name} was shown {}", after.as_of());
            }
            assert!(after.as_of().lsn >= reader.as_of().lsn);
        });
        cluster.start_nodes(&others[..2]);
        eventually("the nodes are back", || cluster.scls().len() == 6);
    }
    block_on(database.close());
}

#[test]
fn a_reader_goes_on_when_another_writer_opens_the_volume() {
    let cluster = RealCluster::start();
    block_on(async {
        let first = Database::create(cluster.options()).await.unwrap();
        for number in 0..400 {
            let txn = first.begin().await.unwrap();
            for part in 0..10 {
                txn.put(format!("row/{number:03}/{part}"), format!("{number:0200}"))
                    .unwrap();
            }
            txn.commit().await.unwrap();
        }
        let options = cluster.options().cache_bytes(64 << 10).read_deadline(LIMIT);
        let reader = Database::open_read_only(options).await.unwrap();
        let get = async |number: usize| {
            let found = reader.get(format!("row/{number:03}/7")).await.unwrap();
            assert_eq!(found, Some(format!("{number:0200}").into()), "{number}");
        };
        get(0).await;
        let second = Database::take_over(cluster.options()).await.unwrap();
        let txn = second.begin().await.unwrap();
        txn.delete_range("row/".."row0").unwrap();
        txn.commit().await.unwrap();
        for number in (0..400).step_by(7) {
            get(number).await;
        }
        assert_eq!(
            reader.range(prefix("row/")).collect().await.unwrap().len(),
            4_000
        );
        let now = reader.refresh().await.unwrap();
        assert!(
            now.range(prefix("row/"))
                .collect()
                .await
                .unwrap()
                .is_empty()
        );
        assert!(now.as_of().volume_epoch > reader.as_of().volume_epoch);
        assert_eq!(now.keyspace("none").await.unwrap().map(|_| ()), None);
        second.close().await;
        reader.close().await;
    });
}

#[test]
fn keyspaces_are_read_too() {
    let cluster = RealCluster::start();
    block_on(async {
        let database = Database::create(cluster.options()).await.unwrap();
        let users = database.create_keyspace("users").await.unwrap();
        let txn = users.begin().await.unwrap();
        txn.put("7", "Alice").unwrap();
        txn.commit().await.unwrap();
        let reader = open(&cluster).await;
        let users = reader.keyspace("users").await.unwrap().unwrap();
        assert_eq!(users.get("7").await.unwrap(), Some("Alice".into()));
        assert_eq!(reader.get("7").await.unwrap(), None);
        assert!(matches!(
            reader.keyspace("").await,
            Err(Error::Invalid { .. })
        ));
        database.close().await;
        reader.close().await;
    });
}

#[test]
fn a_read_only_shell_reads_beside_a_writer_and_refuses_to_write() {
    let cluster = RealCluster::start();
    let dir = cluster.path().to_str().unwrap();
    let shell = |input: &str| run(&["shell", "--read-only", "--dir", dir], input);
    // The volume is not made by looking for it.
    let line = shell("get a\n").one_line();
    assert!(line.contains("does not exist"), "{line}");
    let database = block_on(Database::create(cluster.options())).unwrap();
    let lsn = block_on(put(&database, "a", "1"));
    let said = shell("get a\nscan\nget b\nrefresh\nstatus\n").well();
    assert_eq!(said.output[..3], ["1", "a 1", "(absent)"]);
    assert!(said.output[3].starts_with("as of "), "{said:?}");
    assert!(said.output[4].starts_with("read-only as of "), "{said:?}");
    for write in ["put a 2", "delete a", "begin", "commit"] {
        let line = shell(&format!("{write}\n")).one_line();
        let said = match write {
            "commit" => "no transaction is open",
            _ => "nothing can be changed",
        };
        assert!(line.contains(said), "{line}");
    }
    block_on(async {
        let txn = database.begin().await.unwrap();
        assert_eq!(txn.get("a").await.unwrap(), Some("1".into()));
        assert!(database.snapshot().lsn() >= lsn);
        database.close().await;
    });
}

#[test]
fn a_node_that_is_slow_fails_no_commit() {
    let cluster = RealCluster::start();
    let options = cluster
        .options()
        .commit_deadline(LIMIT)
        .read_deadline(LIMIT);
    let database = block_on(Database::create(options)).unwrap();
    let load = Load::start(&database, "load", CLIENTS);
    for slow in [0, 3] {
        // It runs for a few milliseconds now and then.
        for _ in 0..20 {
            cluster.signal(&[slow], rustix::process::Signal::STOP);
            load.until_answered(10);
            cluster.signal(&[slow], rustix::process::Signal::CONT);
            load.until_answered(1);
        }
    }
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    block_on(outcomes.check(&database.snapshot()));
    block_on(database.close());
}

#[test]
fn a_writer_that_is_cut_off_answers_nothing_that_may_be_stale() {
    let cluster = RealCluster::start();
    let options = cluster.options().commit_deadline(SOON).read_deadline(SOON);
    let database = block_on(Database::create(options)).unwrap();
    block_on(put(&database, "a", "1"));
    let snapshot = database.snapshot();
    block_on(snapshot.get("a")).unwrap();
    // Two nodes are left to it: no quorum of any kind.
    cluster.signal(&[0, 2, 3, 4], rustix::process::Signal::STOP);
    block_on(async {
        // Its lease is over within milliseconds.
        let begun = loop {
            match database.begin().await {
                Ok(txn) => drop(txn),
                Err(error) => break error,
            }
        };
        assert!(matches!(begun, Error::Unavailable { .. }), "{begun:?}");
        // A fixed point in memory is served on, and says of itself that it is not current.
        assert_eq!(snapshot.get("a").await.unwrap(), Some("1".into()));
        let options = cluster.options().open_deadline(SOON);
        let error = Database::open_read_only(options).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    });
    cluster.signal(&[0, 2, 3, 4], rustix::process::Signal::CONT);
    block_on(async {
        while let Err(error) = database.begin().await {
            assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        }
        put(&database, "a", "2").await;
        database.close().await;
    });
}
