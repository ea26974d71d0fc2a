//! Nodes are killed with SIGKILL under load: what an outage may and may not do. Deadlines that end a commit are short only where
//! the outage is longer than any deadline; elsewhere they are so long that a busy machine does not reach them.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use sixfold::{Database, Error, Options, Snapshot};

use crate::load::{Load, Outcomes, block_on, commit};
use crate::process::{LIMIT, eventually};
use crate::real_cluster::RealCluster;

/// Clients of each load.
const CLIENTS: usize = 8;
const ALL: [usize; 6] = [0, 1, 2, 3, 4, 5];
/// Keys that are there from the start: several times the small cache.
const ROWS: usize = 4_000;

/// No deadline ends anything.
fn patient(cluster: &RealCluster) -> Options {
    cluster
        .options()
        .commit_deadline(LIMIT)
        .read_deadline(LIMIT)
}

/// Opens the volume anew and compares it with what was answered.
fn check_in_a_new_writer(cluster: &RealCluster, outcomes: &Outcomes) {
    block_on(async {
        let options = patient(cluster).open_deadline(LIMIT);
        let database = Database::take_over(options).await.unwrap();
        outcomes.check(&database.snapshot()).await;
        database.close().await;
    });
}

fn row(number: usize) -> (String, String) {
    (format!("row/{number:05}"), format!("{number:0100}"))
}

async fn put_rows(database: &Database) {
    for rows in (0..ROWS).collect::<Vec<_>>().chunks(500) {
        let transaction = database.begin().await.unwrap();
        for &number in rows {
            let (key, value) = row(number);
            transaction.put(key, value).unwrap();
        }
        transaction.commit().await.unwrap();
    }
}

/// Reads a row, again when the machine was too slow for the deadline.
async fn read_row(snapshot: &Snapshot, number: usize) {
    let (key, value) = row(number);
    loop {
        match snapshot.get(&key).await {
            Ok(found) => break assert_eq!(found, Some(value.into()), "{key}"),
            Err(error) => assert!(
                matches!(error, Error::Unavailable { .. }),
                "{key}: {error:?}"
            ),
        }
    }
}

#[test]
fn three_lost_nodes_end_commits_as_unknown_or_unavailable_and_stop_no_read() {
    let mut cluster = RealCluster::start();
    let short = Duration::from_secs(2);
    let options = cluster
        .options()
        .commit_deadline(short)
        .read_deadline(short)
        .cache_bytes(256 << 10);
    let database = block_on(Database::create(options)).unwrap();
    block_on(put_rows(&database));
    let mut outcomes = Outcomes::default();
    // A zone and a node of another one; then a node of each zone.
    for (round, lost) in [[0, 1, 2], [1, 3, 5]].into_iter().enumerate() {
        let load = Load::start(&database, &format!("round {round}"), CLIENTS);
        load.until_answered(100);
        let running = block_on(database.begin()).unwrap();
        running
            .put(format!("left/running {round}"), "no matter")
            .unwrap();
        cluster.kill(&lost);
        let error = block_on(running.commit()).unwrap_err();
        assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
        load.until_refused(2 * CLIENTS);
        block_on(async {
            let snapshot = database.snapshot();
            let fetches = async || database.stats().await.unwrap().writer.fetches;
            let before = fetches().await;
            // The second reading of a row finds its page in the cache.
            for number in (0..ROWS).step_by(97) {
                read_row(&snapshot, number).await;
                read_row(&snapshot, number).await;
            }
            assert!(fetches().await > before, "all rows were in the cache");
        });
        load.until_refused(1);
        cluster.start_nodes(&lost[1..2]);
        load.until_answered(100);
        cluster.start_nodes(&[lost[0], lost[2]]);
        outcomes.add(load.stop());
        cluster.wait_until_equal();
    }
    assert!(!outcomes.refused.is_empty());
    block_on(async {
        let now = commit(&database, "at the end").await;
        assert!(
            now.is_ok() || matches!(now, Err(Error::Unknown { .. } | Error::Unavailable { .. })),
            "{now:?}"
        );
        database.close().await;
    });
    // No volume opens without a write quorum; with it, everything is there.
    cluster.kill(&[0, 2, 4]);
    let error = block_on(Database::take_over(cluster.options().open_deadline(short))).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    cluster.start_nodes(&[4]);
    check_in_a_new_writer(&cluster, &outcomes);
}

#[test]
fn a_zone_is_killed_under_load_and_no_commit_fails() {
    let mut cluster = RealCluster::start();
    let database = block_on(Database::create(patient(&cluster))).unwrap();
    let load = Load::start(&database, "load", CLIENTS);
    for zone in [[2, 3], [4, 5]] {
        load.until_answered(100);
        cluster.kill(&zone);
        load.until_answered(300);
        cluster.start_nodes(&zone);
        load.until_answered(100);
    }
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    cluster.wait_until_equal();
    // The volume opens without a zone, too.
    cluster.kill(&[0, 1]);
    check_in_a_new_writer(&cluster, &outcomes);
    block_on(database.close());
}

#[test]
fn nodes_that_freeze_are_like_nodes_that_are_gone() {
    let cluster = RealCluster::start();
    let database = block_on(Database::create(patient(&cluster))).unwrap();
    let load = Load::start(&database, "load", CLIENTS);
    load.until_answered(50);
    // With one zone frozen commits go on; with another node frozen they wait, longer than connections live.
    cluster.signal(&[0, 1], Signal::STOP);
    load.until_answered(200);
    cluster.signal(&[2], Signal::STOP);
    eventually("the writer gives three connections up", || {
        let stats = block_on(database.stats()).unwrap();
        let relations = stats.writer.relations;
        relations.iter().filter(|one| !one.attached).count() == 3
    });
    cluster.signal(&[0], Signal::CONT);
    load.until_answered(50);
    cluster.signal(&[1, 2], Signal::CONT);
    load.until_answered(50);
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    cluster.wait_until_equal();
    block_on(outcomes.check(&database.snapshot()));
    block_on(database.close());
}

#[test]
fn nodes_are_killed_at_random_and_all_answered_commits_survive() {
    let mut cluster = RealCluster::start();
    let database = block_on(Database::create(patient(&cluster))).unwrap();
    let load = Load::start(&database, "load", CLIENTS);
    let mut dice = 0x5eed_u64;
    let mut one_of = |choices: &[usize]| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        choices[(dice % choices.len() as u64) as usize]
    };
    for _ in 0..10 {
        // Never more than two are down, and sometimes a node comes back that has not caught up when the next one goes.
        if cluster.down().len() == 2 || one_of(&[0, 1, 2]) == 0 && !cluster.down().is_empty() {
            let back = one_of(&cluster.down());
            cluster.start_nodes(&[back]);
        } else {
            let lost = one_of(&cluster.running());
            cluster.kill(&[lost]);
        }
        load.until_answered(50);
    }
    // All at once: what lay in the memory of nodes is gone, and who waits long enough gets an answer all the same.
    cluster.kill(&cluster.running());
    cluster.start_nodes(&ALL);
    load.until_answered(50);
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    cluster.wait_until_equal();
    block_on(outcomes.check(&database.snapshot()));
    block_on(database.close());
    check_in_a_new_writer(&cluster, &outcomes);
}

/// Bytes that look like QUIC at their beginning, or like nothing.
fn garbage(seed: u64, buffer: &mut [u8]) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in buffer.iter_mut() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    match seed % 4 {
        // A first packet of version 1 with ids of 8 bytes.
        0 => buffer[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]),
        // A version that nobody speaks.
        1 => buffer[..6].copy_from_slice(&[0xc0, 0xba, 0xba, 0xba, 0xba, 8]),
        // A packet of a connection that there is not.
        2 => buffer[0] = 0x40 | buffer[0] & 0x3f,
        _ => {}
    }
    match seed % 3 {
        0 => 1_200,
        1 => (state % 1_400) as usize,
        _ => (state % 40) as usize,
    }
}

#[test]
fn garbage_datagrams_change_nothing() {
    let mut cluster = RealCluster::start();
    let database = block_on(Database::create(patient(&cluster))).unwrap();
    let load = Load::start(&database, "load", CLIENTS);
    let stopping = AtomicBool::new(false);
    let addresses: Vec<_> = cluster
        .cluster
        .nodes
        .iter()
        .map(|node| node.address)
        .collect();
    let sent = std::thread::scope(|scope| {
        let thrower = scope.spawn(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut buffer = [0; 1_400];
            let mut sent = 0_u64;
            while !stopping.load(Ordering::Relaxed) || sent < 6_000 {
                let length = garbage(sent, &mut buffer);
                for address in &addresses {
                    // A full socket buffer on the way is no failure of this test.
                    let _ = socket.send_to(&buffer[..length], address);
                }
                sent += 1;
                if sent.is_multiple_of(64) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            sent
        });
        // Stops the thrower also when the wait panics.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stop = Stop(&stopping);
        load.until_answered(300);
        drop(stop);
        thrower.join().unwrap()
    });
    assert!(sent >= 6_000);
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    cluster.assert_alive();
    cluster.wait_until_equal();
    block_on(outcomes.check(&database.snapshot()));
    block_on(database.close());
}
