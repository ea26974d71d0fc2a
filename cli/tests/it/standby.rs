//! Standbys as processes of their own: the writer is killed, stopped, left alone; two of them.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use sixfold::{Database, Error, StandbyOptions};

use crate::load::block_on;
use crate::process::{LIMIT, Running, run};
use crate::real_cluster::RealCluster;

/// A writer that is a process: a shell whose input stays open.
struct Writer(Running);

impl Writer {
    fn start(cluster: &RealCluster) -> Writer {
        let dir = cluster.path().to_str().unwrap();
        Writer(Running::start(&["shell", "--take-over", "--dir", dir]))
    }

    fn put(&mut self, key: &str, value: &str) {
        self.0.tell(&format!("put {key} {value}"));
        self.0.wait_for("committed at ");
    }

    fn get(&mut self, key: &str) -> String {
        self.0.tell(&format!("get {key}"));
        self.0.line()
    }
}

fn standby(cluster: &RealCluster) -> Running {
    let dir = cluster.path().to_str().unwrap();
    let args = ["standby", "--json", "--stop-with-stdin", "--dir", dir];
    let mut standby = Running::start(&args);
    assert_eq!(event(&mut standby)["event"], "following");
    standby
}

fn event(standby: &mut Running) -> Value {
    serde_json::from_str(&standby.line()).unwrap()
}

fn get(cluster: &RealCluster, key: &str) -> Vec<String> {
    let dir = cluster.path().to_str().unwrap();
    let said = run(
        &["shell", "--read-only", "--dir", dir],
        &format!("get {key}\n"),
    );
    said.well().output
}

fn claims(cluster: &RealCluster) -> Vec<String> {
    let dir = cluster.path().to_str().unwrap();
    let said = run(&["status", "--dir", dir], "").well();
    let segments = said.output.iter().filter(|line| line.starts_with("  pg "));
    segments
        .map(|line| {
            let claim = line.split(" claim ").nth(1).unwrap();
            claim.split(' ').next().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn a_standby_leaves_a_living_writer_alone_and_takes_over_when_it_is_killed() {
    let cluster = RealCluster::start();
    let mut writer = Writer::start(&cluster);
    writer.put("a", "1");
    let mut standby = standby(&cluster);
    let before = claims(&cluster);
    // Idle for longer than the patience, then busy.
    std::thread::sleep(Duration::from_millis(2_500));
    for number in 0..50 {
        writer.put("b", &number.to_string());
    }
    assert_eq!(claims(&cluster), before, "nobody claimed anything");
    writer.0.kill();
    let opened = event(&mut standby);
    assert_eq!(opened["event"], "opened", "{opened}");
    assert!(opened["detected_ms"].as_u64().unwrap() >= 1_000, "{opened}");
    assert!(opened["first_commit_ms"].is_u64(), "{opened}");
    eprintln!("{opened}");
    assert_eq!(get(&cluster, "a"), ["1"]);
    assert_eq!(get(&cluster, "b"), ["49"]);
    // It holds the volume: another writer is told so.
    let options = cluster.options().open_deadline(LIMIT);
    let error = block_on(Database::open(options)).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error:?}");
    standby.finish().well();
}

#[test]
fn a_writer_that_was_stopped_and_goes_on_is_fenced_and_says_nothing_stale() {
    let cluster = RealCluster::start();
    let mut writer = Writer::start(&cluster);
    writer.put("x", "1");
    assert_eq!(writer.get("x"), "1");
    let mut standby = standby(&cluster);
    writer.0.signal(Signal::STOP);
    // Told while it cannot hear.
    writer.0.tell("get x");
    assert_eq!(event(&mut standby)["event"], "opened");
    standby.finish().well();
    let mut next = Writer::start(&cluster);
    next.put("x", "2");
    writer.0.signal(Signal::CONT);
    let ended = writer.0.finish();
    // The get that was told while it was stopped has no answer, and the shell ends with it.
    assert!(
        !ended.status.success() && ended.output.is_empty(),
        "{ended:?}"
    );
    assert!(ended.errors.contains("fenced"), "{ended:?}");
    assert_eq!(next.get("x"), "2");
    next.0.finish().well();
}

#[test]
fn of_two_standbys_one_wins_and_the_other_follows_it() {
    let cluster = RealCluster::start();
    let mut writer = Writer::start(&cluster);
    writer.put("a", "1");
    let mut standbys = vec![standby(&cluster), standby(&cluster)];
    std::thread::sleep(Duration::from_millis(1_500));
    writer.0.kill();
    // Each line of either is looked at: exactly one opens.
    let winner = first_with_a_line(&mut standbys);
    let mut first = standbys.remove(winner);
    assert_eq!(event(&mut first)["event"], "opened");
    let mut second = standbys.remove(0);
    let epoch = claims(&cluster);
    std::thread::sleep(Duration::from_secs(4));
    assert!(
        first.try_line().is_none() && second.try_line().is_none(),
        "a storm"
    );
    assert_eq!(claims(&cluster), epoch, "a storm");
    // The winner dies in turn.
    first.kill();
    let opened = event(&mut second);
    assert_eq!(opened["event"], "opened", "{opened}");
    assert_eq!(get(&cluster, "a"), ["1"]);
    second.finish().well();
}

fn first_with_a_line(standbys: &mut [Running]) -> usize {
    let until = Instant::now() + LIMIT;
    loop {
        assert!(Instant::now() < until, "nobody opened");
        if let Some(winner) = standbys.iter_mut().position(Running::has_line) {
            return winner;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_standby_that_lost_the_volume_soon_stands_back_before_it_takes_it_again() {
    let cluster = RealCluster::start();
    block_on(async {
        let first = Database::create(cluster.options()).await.unwrap();
        first.close().await;
        let hold_down = Duration::from_secs(3);
        let watch = StandbyOptions::new().hold_down(hold_down);
        let mut standby = Database::standby(cluster.options(), watch);
        let (held, report) = standby.opened().await.unwrap();
        assert!(report.first_commit.is_some(), "{report:?}");
        let rival = Database::take_over(cluster.options()).await.unwrap();
        while !held.is_fenced() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rival.close().await;
        let begun = Instant::now();
        let (held, _) = standby.opened().await.unwrap();
        assert!(begun.elapsed() >= hold_down);
        held.close().await;
    });
}

#[test]
fn a_standby_waits_for_a_volume_that_is_not_there_yet_and_for_nodes_that_are_down() {
    let mut cluster = RealCluster::start();
    let mut standby = standby(&cluster);
    let database = block_on(Database::create(cluster.options())).unwrap();
    // Its writer goes with two nodes of a zone and one of another: no writer can open.
    cluster.kill(&[0, 1, 2]);
    block_on(database.close());
    std::thread::sleep(Duration::from_secs(3));
    assert!(standby.try_line().is_none());
    cluster.start_nodes(&[0]);
    assert_eq!(event(&mut standby)["event"], "opened");
    standby.signal(Signal::TERM);
    standby.wait().well();
}
