//! The verbs that measure: each runs to its end on real processes, and its JSON has the fields that are promised. No figure is
//! compared with another or with time.

use serde_json::Value;

use crate::process::{processes_of, run, scratch};

/// Runs `bench` with these words in a directory of its own. Returns the object of the last line.
fn bench(words: &[&str]) -> Value {
    let dir = scratch();
    let path = dir.path().to_str().unwrap();
    let mut args = vec!["bench"];
    args.extend(words);
    args.extend(["--json", "--dir", path]);
    let finished = run(&args, "").well();
    assert_eq!(processes_of(dir.path()), Vec::<u32>::new());
    serde_json::from_str(finished.output.last().unwrap()).unwrap()
}

/// The fields are there and above zero.
fn assert_numbers(row: &Value, fields: &[&str]) {
    for field in fields {
        let number = row[field].as_f64();
        assert!(number.is_some_and(|number| number > 0.0), "{field}: {row}");
    }
}

#[test]
fn commits_have_rows_of_closed_and_of_open_loops() {
    let report = bench(&[
        "commit",
        "--clients",
        "1,4",
        "--rate",
        "50",
        "--seconds",
        "1",
    ]);
    let rows = report["runs"].as_array().unwrap();
    let of: Vec<_> = rows
        .iter()
        .map(|row| (row["clients"].as_u64().unwrap(), row["rate"].as_u64()))
        .collect();
    assert_eq!(of, [(1, None), (1, Some(50)), (4, None), (4, Some(50))]);
    for row in rows {
        let fields = ["commits_per_second", "p50_us", "p99_us", "p999_us"];
        assert_numbers(row, &fields);
        assert_numbers(row, &["redo_bytes_per_commit", "datagrams_per_commit"]);
        assert!(
            !row["distribution_us"].as_array().unwrap().is_empty(),
            "{row}"
        );
    }
}

#[test]
fn what_a_commit_costs_on_the_wire_is_told_for_each_load() {
    for load in ["update", "ordered", "random"] {
        let row = bench(&[
            "wire",
            "--load",
            load,
            "--keys",
            "500",
            "--clients",
            "8",
            "--seconds",
            "1",
        ]);
        assert_eq!(row["load"], load);
        assert_numbers(
            &row,
            &[
                "wire_bytes_per_redo_byte",
                "redo_bytes_per_user_byte",
                "network_writes_per_commit",
                "datagrams_per_commit",
            ],
        );
        // Six copies of the redo and what is around it; a batch has a commit at least.
        assert!(
            row["wire_bytes_per_redo_byte"].as_f64().unwrap() > 4.0,
            "{row}"
        );
        assert!(
            row["redo_bytes_per_user_byte"].as_f64().unwrap() >= 1.0,
            "{row}"
        );
    }
}

#[test]
fn reads_and_scans_have_a_row_for_each_number_of_threads() {
    let few = [
        "--systems",
        "sixfold",
        "--keys",
        "2000",
        "--rounds",
        "1",
        "--round-ms",
        "50",
    ];
    let read = bench(&[&["read"], &few[..]].concat());
    let scan = bench(&[&["scan", "--keys-per-scan", "50"], &few[..]].concat());
    for (report, keys_per_read) in [(read, 1), (scan, 50)] {
        let rows = report["rows"].as_array().unwrap();
        let threads: Vec<_> = rows
            .iter()
            .map(|row| row["threads"].as_u64().unwrap())
            .collect();
        assert_eq!(threads, [1, 2]);
        for row in rows {
            assert_eq!(row["system"], "sixfold");
            assert_eq!(row["keys_per_read"], keys_per_read);
            let fields = [
                "reads_per_second",
                "keys_per_second",
                "p50_us",
                "cpu_us_per_read",
            ];
            assert_numbers(row, &fields);
        }
    }
}

#[test]
fn every_workload_of_ycsb_runs_on_the_rows_of_the_one_before() {
    let report = bench(&[
        "mixed",
        "--keys",
        "500",
        "--value-bytes",
        "100",
        "--clients",
        "4",
        "--seconds",
        "1",
    ]);
    let rows = report["rows"].as_array().unwrap();
    let all: Vec<_> = rows
        .iter()
        .filter(|row| row["operation"] == "all")
        .map(|row| row["workload"].as_str().unwrap())
        .collect();
    assert_eq!(all, ["A", "B", "C", "F", "D", "E"]);
    for row in rows {
        assert_numbers(row, &["operations_per_second", "p50_us", "p99_us"]);
    }
    let has = |workload: &str, operation: &str| {
        let mut rows = rows.iter();
        rows.any(|row| row["workload"] == workload && row["operation"] == operation)
    };
    assert!(has("E", "scan") && has("F", "read-modify-write") && has("C", "read"));
}

#[test]
fn a_system_that_is_not_here_is_skipped_and_said_so() {
    let systems = ["sixfold", "redis", "redb"];
    let report = bench(&[
        "versus",
        "--systems",
        &systems.join(","),
        "--clients",
        "4",
        "--seconds",
        "1",
        "--warm-up-seconds",
        "0",
    ]);
    let names = |list: &str| -> Vec<String> {
        let list = report[list].as_array().unwrap().iter();
        list.map(|row| row["system"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("rows")[0], "sixfold");
    // The others as well, where somebody has built and installed them.
    let mut told = [names("rows"), names("skipped")].concat();
    told.sort_by_key(|name| systems.iter().position(|system| system == name));
    assert_eq!(told, systems);
    for row in report["rows"].as_array().unwrap() {
        assert_numbers(row, &["commits_per_second", "p50_us", "p99_us", "copies"]);
        assert!(
            row["settings"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{row}"
        );
    }
    for row in report["skipped"].as_array().unwrap() {
        assert!(
            row["reason"].as_str().is_some_and(|text| !text.is_empty()),
            "{row}"
        );
    }
}

#[test]
fn a_program_with_peers_that_is_named_must_be_there() {
    let finished = run(
        &["bench", "versus", "--versus", "/nowhere/sixfold-versus"],
        "",
    );
    assert_eq!(finished.one_line(), "/nowhere/sixfold-versus is no file");
}
