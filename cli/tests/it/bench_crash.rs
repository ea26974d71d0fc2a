//! `sixfold bench crash`, a case of each kind: it strikes, the volume opens again, nothing is lost, and no process is left behind.

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Running, eventually, processes_of, run, scratch};

/// Plays these cases, each once, and gives the object and the report.
fn played(only: &str, cycles: usize) -> (Value, String) {
    let dir = scratch();
    let path = dir.path().join("crash");
    let report = dir.path().join("report.md");
    let cycles = cycles.to_string();
    let args = [
        "bench",
        "crash",
        "--cycles",
        &cycles,
        "--only",
        only,
        "--json",
        "--report",
        report.to_str().unwrap(),
        "--dir",
        path.to_str().unwrap(),
    ];
    let finished = run(&args, "").well();
    assert_eq!(processes_of(dir.path()), Vec::<u32>::new());
    let object = serde_json::from_str(finished.output.last().unwrap()).unwrap();
    (object, std::fs::read_to_string(report).unwrap())
}

fn assert_clean(object: &Value, cases: &[&str]) {
    let (count, of) = (cases.len() as u64, |name: &str| object[name].as_u64());
    assert_eq!(of("cycles"), Some(count), "{object}");
    for wrong in ["lost", "torn", "failed"] {
        assert_eq!(of(wrong), Some(0), "{object}");
    }
    assert!(of("acked").unwrap() > 100 * count, "{object}");
    let histories = &object["histories"];
    assert_eq!(histories["violations"], 0, "{object}");
    assert_eq!(
        histories["checked"].as_u64().unwrap() + histories["undecided"].as_u64().unwrap(),
        count
    );
    for case in cases {
        assert_eq!(object["cases"][case], 1, "{object}");
    }
}

#[test]
fn a_writer_that_dies_or_is_cut_off_loses_nothing() {
    let cases = [
        "writer/partition/load",
        "standby/sigkill/recovery",
        "writer/sigstop/recovery",
    ];
    let (object, report) = played(&cases.join(","), cases.len());
    assert_clean(&object, &cases);
    for case in cases {
        assert!(report.contains(&format!("| `{case}` | 1 |")), "{report}");
    }
}

#[test]
fn nodes_without_power_and_with_failing_disks_lose_nothing() {
    let cases = [
        "all/power-cut/load",
        "az+1/torn-tail/load",
        "az/io-error/coalescing",
        "node/disk-full/load",
    ];
    let (object, _) = played(&cases.join(","), cases.len());
    assert_clean(&object, &cases);
}

#[test]
fn a_segment_that_is_being_replaced_survives_a_partition() {
    let cases = ["az/partition/membership"];
    let (object, _) = played(cases[0], 1);
    assert_clean(&object, &cases);
}

#[test]
fn a_slow_device_is_played_or_skipped_and_said_so() {
    let (case, other) = ("node/slow-disk/load", "node/sigkill/idle");
    let (object, _) = played(&format!("{case},{other}"), 2);
    let skipped = object["skipped"].as_object().unwrap();
    if skipped.is_empty() {
        assert_clean(&object, &[case, other]);
    } else {
        // What this host can do takes its turn.
        assert!(skipped.contains_key(case), "{object}");
        assert_eq!(object["cases"][other], 2, "{object}");
    }
}

#[test]
fn cases_are_named_and_unknown_ones_refused() {
    let listed = run(&["bench", "crash", "--list"], "").well().output;
    assert!(listed.len() > 100);
    let of_writer = run(&["bench", "crash", "--list", "--only", "writer/load"], "").well();
    let expected = [
        "writer/sigkill/load",
        "writer/sigstop/load",
        "writer/partition/load",
    ];
    assert_eq!(of_writer.output, expected);
    let refused = run(&["bench", "crash", "--only", "writer/power-cut"], "").one_line();
    assert!(refused.contains("writer/power-cut"), "{refused}");
}

#[test]
fn an_interrupted_suite_leaves_no_process_behind() {
    let dir = scratch();
    let path = dir.path().join("crash");
    let args = [
        "bench",
        "crash",
        "--only",
        "node/sigstop/load",
        "--dir",
        path.to_str().unwrap(),
    ];
    let running = Running::start(&args);
    eventually("a writer works", || {
        std::fs::read_to_string(path.join("story.log")).is_ok_and(|story| story.contains("blow"))
    });
    running.signal(Signal::INT);
    assert!(running.wait().one_line().contains("interrupted"));
    assert_eq!(processes_of(&path), Vec::<u32>::new());
}
