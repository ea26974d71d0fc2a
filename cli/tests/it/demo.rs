//! A short demo, whole.

use serde_json::Value;

use crate::process::{processes_of, run, scratch};

#[test]
fn a_short_demo_loses_nothing_and_says_so() {
    let dir = scratch();
    let path = dir.path().join("demo");
    let args = [
        "demo",
        "--seconds",
        "4",
        "--chunks",
        "20",
        "--clients",
        "4",
        "--json",
        "--dir",
        path.to_str().unwrap(),
    ];
    let finished = run(&args, "").well();
    let summary: Value = serde_json::from_str(finished.output.last().unwrap()).unwrap();
    for name in ["lost", "torn"] {
        assert_eq!(summary[name], 0, "{summary}");
    }
    assert_eq!(summary["nodes"], 6);
    assert_eq!(summary["outage"]["failed"], 0, "{summary}");
    for count in [
        &summary["acked"],
        &summary["outage"]["acked"],
        &summary["reopen"]["unfolded_bytes"],
        &summary["p50_us"],
    ] {
        assert!(count.as_u64().unwrap() > 0, "{summary}");
    }
    let names = [
        &summary["reopen"]["lease_wait_ms"],
        &summary["reopen"]["open_ms"],
        &summary["reopen"]["first_commit_ms"],
        &summary["p99_us"],
        &summary["p999_us"],
        &summary["commits_per_second"],
        &summary["wire_bytes_per_user_byte"],
    ];
    assert!(names.iter().all(|number| number.is_number()), "{summary}");
    // The table stands above it, and progress on a terminal only.
    assert!(
        finished
            .output
            .iter()
            .any(|line| line.starts_with("outage ")),
        "{finished:?}"
    );
    assert_eq!(finished.errors, "");
    // The record has a line for each answered commit, and no process is left.
    let record = std::fs::read_to_string(path.join("answered.log")).unwrap();
    let answered = record.lines().filter(|line| line.starts_with("A ")).count() as u64;
    assert_eq!(summary["acked"].as_u64(), Some(answered));
    assert_eq!(processes_of(&path), Vec::<u32>::new());
}
