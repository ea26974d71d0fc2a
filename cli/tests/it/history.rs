//! Histories of clients under faults, given to checkers: clean ones pass, planted bugs do not.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use adya::Valid;
use serde_json::Value;

use crate::history_check::{adya, assert_strict_serializable, linearizable, lines, replay, told};
use crate::process::{Running, eventually, processes_of, run, scratch};

/// A planted bug shows by chance, far more often than not; so many runs miss it only when it cannot be seen at all.
const PLANTED_RUNS_MAX: usize = 5;

/// A history, and what the verb says of it.
struct Recorded {
    path: PathBuf,
    summary: Value,
    took: Duration,
    _dir: tempfile::TempDir,
}

fn record(workload: &str, faults: &str, seconds: u64, planted: &str) -> Recorded {
    let dir = scratch();
    let path = dir.path().join("history.jsonl");
    let cluster = dir.path().join("cluster");
    let seconds = seconds.to_string();
    let args = [
        "bench",
        "history",
        "--workload",
        workload,
        "--faults",
        faults,
        "--seconds",
        &seconds,
        "--planted",
        planted,
        "--out",
        path.to_str().unwrap(),
        "--dir",
        cluster.to_str().unwrap(),
        "--json",
    ];
    let begun = Instant::now();
    let finished = run(&args, "").well();
    let took = begun.elapsed();
    assert_eq!(finished.errors, "");
    assert_eq!(processes_of(dir.path()), Vec::<u32>::new());
    let summary: Value = serde_json::from_str(finished.output.last().unwrap()).unwrap();
    for fault in faults.split(',').filter(|fault| *fault != "none") {
        let count = summary["faults"][fault].as_u64();
        assert!(count.is_some_and(|count| count > 0), "{summary}");
    }
    assert!(summary["ok"].as_u64().unwrap() > 0, "{summary}");
    Recorded {
        path,
        summary,
        took,
        _dir: dir,
    }
}

/// How long each history runs, seconds: a few, or `SIXFOLD_HISTORY_SECONDS` for a long run by hand.
fn seconds() -> u64 {
    let wanted = std::env::var("SIXFOLD_HISTORY_SECONDS").ok();
    wanted.map_or(3, |wanted| wanted.parse().unwrap())
}

/// Records both kinds of transactions under a fault, and checks them.
fn both_are_strict_serializable(fault: &str) {
    let seconds = seconds();
    for workload in ["list-append", "rw-register"] {
        let history = record(workload, fault, seconds, "nothing");
        let begun = Instant::now();
        assert_strict_serializable(workload, &history.path);
        let checked = begun.elapsed();
        if workload == "rw-register" {
            replay(&lines(&history.path), &history.path).unwrap();
        }
        // For who runs it by hand.
        println!(
            "{} in {:.1} s, strict-serializable, checked in {:.1} s",
            history.summary,
            history.took.as_secs_f64(),
            checked.as_secs_f64()
        );
    }
}

fn register_is_linearizable(faults: &str) {
    let seconds = 2 * seconds();
    let history = record("register", faults, seconds, "nothing");
    let keys = linearizable(&lines(&history.path)).unwrap();
    println!("{}, linearizable at each of {keys} keys", history.summary);
}

#[test]
fn histories_are_strict_serializable_without_faults() {
    both_are_strict_serializable("none");
}

#[test]
fn histories_are_strict_serializable_when_the_writer_is_killed() {
    both_are_strict_serializable("kill-writer");
}

#[test]
fn histories_are_strict_serializable_when_the_writer_is_stopped_and_goes_on() {
    both_are_strict_serializable("pause-writer");
}

#[test]
fn histories_are_strict_serializable_when_a_node_is_killed() {
    both_are_strict_serializable("kill-node");
}

#[test]
fn histories_are_strict_serializable_when_a_zone_is_killed() {
    both_are_strict_serializable("kill-az");
}

#[test]
fn registers_are_linearizable_under_all_faults() {
    register_is_linearizable("kill-writer,pause-writer,kill-node,kill-az");
}

/// Runs until a checker finds the planted bug, and gives what it says.
fn found(workload: &str, fault: &str, planted: &str) -> String {
    for _ in 0..PLANTED_RUNS_MAX {
        let history = record(workload, fault, 3, planted);
        let lines = lines(&history.path);
        if workload == "register" {
            if let Err(error) = linearizable(&lines) {
                return error;
            }
            continue;
        }
        let report = adya(workload, &history.path);
        if report.valid == Valid::False {
            let replayed = workload == "rw-register" && replay(&lines, &history.path).is_ok();
            assert!(!replayed, "it replays, yet: {}", told(&report));
            return told(&report);
        }
    }
    panic!(
        "{planted}: no checker finds it in {PLANTED_RUNS_MAX} histories of {workload} under {fault}"
    );
}

#[test]
fn reads_that_add_no_conflict_are_found() {
    for workload in ["list-append", "rw-register"] {
        found(workload, "none", "unvalidated");
    }
}

#[test]
fn reads_of_a_fenced_writer_without_a_lease_are_found() {
    for workload in ["list-append", "rw-register", "register"] {
        found(workload, "pause-writer", "unleased");
    }
}

/// Whether a process is stopped by a signal.
fn is_stopped(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name before it is in brackets and may hold anything.
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| rest.starts_with('T'))
}

#[test]
fn a_stopped_writer_does_not_outlive_a_killed_parent() {
    let dir = scratch();
    let path = dir.path().join("cluster");
    let out = dir.path().join("history.jsonl");
    let args = [
        "bench",
        "history",
        "--workload",
        "register",
        "--faults",
        "pause-writer",
        "--seconds",
        "100",
        "--out",
        out.to_str().unwrap(),
        "--dir",
        path.to_str().unwrap(),
    ];
    let running = Running::start(&args);
    eventually("a writer is stopped", || {
        processes_of(&path).into_iter().any(is_stopped)
    });
    running.kill();
    eventually("all children end", || processes_of(&path).is_empty());
    assert!(!out.exists());
}
