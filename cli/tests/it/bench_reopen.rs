//! `sixfold bench reopen`, small: the shape of what it says, and that it measures what it says.

use serde_json::Value;

use crate::process::{processes_of, run, scratch};

#[test]
fn reopenings_are_measured_on_top_of_the_redo_that_was_asked_for() {
    let dir = scratch();
    let path = dir.path().join("reopen");
    let args = [
        "bench",
        "reopen",
        "--unfolded",
        "512KiB,4MiB",
        "--reopenings",
        "2",
        "--without-postgresql",
        "--json",
        "--dir",
        path.to_str().unwrap(),
    ];
    let finished = run(&args, "").well();
    let report: Value = serde_json::from_str(finished.output.last().unwrap()).unwrap();
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2, "{report}");
    for (run, wanted) in runs.iter().zip([512 << 10, 4 << 20]) {
        assert!(run["unfolded_bytes"].as_u64().unwrap() >= wanted, "{run}");
        assert_eq!(run["reopenings"], 2, "{run}");
        let of = |name: &str| run[name].as_f64().unwrap();
        assert!(of("lease_wait_ms") >= 0.0, "{run}");
        // A commit comes after the opening, and the next process only after the kill.
        assert!(
            0.0 < of("open_ms") && of("open_ms") < of("first_commit_ms"),
            "{run}"
        );
        assert!(
            of("first_commit_ms") < of("kill_to_first_commit_ms"),
            "{run}"
        );
    }
    assert!(
        report["postgresql"]
            .as_str()
            .unwrap()
            .starts_with("skipped"),
        "{report}"
    );
    assert_eq!(processes_of(&path), Vec::<u32>::new());
}

#[test]
fn sizes_that_make_no_sense_are_refused_in_words() {
    for (size, expected) in [
        ("8MB", "not a size such as 8MiB"),
        ("0", "not in 1..=16GiB"),
        ("99GiB", "not in 1..=16GiB"),
    ] {
        let said = run(&["bench", "reopen", "--unfolded", size], "");
        assert_eq!(said.status.code(), Some(2), "{said:?}");
        assert!(said.errors.contains(expected), "{said:?}");
    }
}
