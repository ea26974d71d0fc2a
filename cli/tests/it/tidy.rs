//! House rules that a machine can hold: which crate may know which, who may name a technology, words, sizes, and that every
//! invariant names code and tests that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Longest file without its tests, lines.
const FILE_LINES_MAX: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// All Rust files of the tree with their text, by path from the root.
fn sources() -> BTreeMap<String, String> {
    fn walk(dir: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    walk(&path, root, found);
                }
            } else if name.ends_with(".rs") {
                let key = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.insert(key, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let root = root();
    let mut found = BTreeMap::new();
    walk(&root, &root, &mut found);
    assert!(found.len() > 50, "the tree was not found");
    found
}

/// Product code: not tests, not examples, not this file.
fn is_product(path: &str) -> bool {
    !path.contains("/tests/")
        && !path.contains("/examples/")
        && !path.ends_with("_tests.rs")
        && !path.ends_with("/tests.rs")
}

/// Lines without comments.
fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
}

#[test]
fn arrows_between_crates_point_down() {
    let allowed: &[(&str, &[&str])] = &[
        ("log-format", &[]),
        ("recovery", &["sixfold-log-format"]),
        ("transport", &["sixfold-log-format"]),
        ("transport/metrics", &[]),
        (
            "storage-node/core",
            &["sixfold-log-format", "sixfold-recovery"],
        ),
        (
            "storage-node",
            &[
                "sixfold-log-format",
                "sixfold-metrics",
                "sixfold-storage-node-core",
                "sixfold-transport",
            ],
        ),
        ("compute/kv", &["sixfold-log-format"]),
        (
            "compute/core",
            &["sixfold-kv", "sixfold-log-format", "sixfold-recovery"],
        ),
        (
            "compute",
            &[
                "sixfold-compute-core",
                "sixfold-kv",
                "sixfold-log-format",
                "sixfold-metrics",
                "sixfold-recovery",
                "sixfold-transport",
            ],
        ),
    ];
    for (dir, allowed) in allowed {
        let manifest = std::fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
        for line in manifest.lines().filter(|line| line.starts_with("sixfold")) {
            let name = line.split(['.', ' ', '=']).next().unwrap();
            assert!(allowed.contains(&name), "{dir} may not depend on {name}");
        }
    }
}

#[test]
fn each_technology_has_one_door() {
    let doors: &[(&str, &[&str])] = &[
        ("quinn::", &["transport/"]),
        ("rustls::", &["transport/"]),
        ("io_uring::", &["storage-node/src/uring.rs"]),
        ("memmap2::", &["storage-node/src/mmap.rs"]),
        ("clap::", &["cli/", "sim/", "benches/versus/"]),
        ("anyhow::", &["cli/", "benches/", "sim/"]),
        ("hyper::", &["cli/src/observe/"]),
        ("ratatui::", &["cli/src/top/", "cli/src/top.rs"]),
    ];
    for (path, text) in sources().iter().filter(|(path, _)| is_product(path)) {
        for (name, doors) in doors {
            let named = code_lines(text).any(|line| line.contains(name));
            assert!(
                !named || doors.iter().any(|door| path.starts_with(door)),
                "{path} names {name}"
            );
        }
    }
}

#[test]
fn unsafe_code_is_in_the_doors_of_ring_and_mmap_alone() {
    // The peers' program has a workspace of its own; opening LMDB is unsafe.
    let doors = [
        "storage-node/src/uring.rs",
        "storage-node/src/mmap.rs",
        "benches/versus/src/lmdb.rs",
    ];
    for (path, text) in sources().iter().filter(|(path, _)| is_product(path)) {
        let used = code_lines(text)
            .any(|line| line.contains("unsafe {") || line.contains("allow(unsafe_code)"));
        assert!(
            !used || doors.contains(&path.as_str()),
            "{path} holds unsafe code"
        );
    }
}

#[test]
fn pure_crates_know_no_clock_socket_thread_or_hash_order() {
    let pure = [
        "log-format/src/",
        "recovery/src/",
        "storage-node/core/src/",
        "compute/kv/src/",
        "compute/core/src/",
    ];
    let banned = [
        "std::net",
        "std::fs",
        "std::thread",
        "std::process",
        "Instant::now",
        "SystemTime",
        "HashMap",
        "HashSet",
        "async fn",
        "tokio::",
        "getrandom",
    ];
    for (path, text) in sources().iter().filter(|(path, _)| is_product(path)) {
        if !pure.iter().any(|dir| path.starts_with(dir)) {
            continue;
        }
        for word in banned {
            assert!(
                !code_lines(text).any(|line| line.contains(word)),
                "{path} names {word}"
            );
        }
    }
}

#[test]
fn files_stay_readable() {
    for (path, text) in sources().iter().filter(|(path, _)| is_product(path)) {
        let lines = text
            .lines()
            .take_while(|line| line.trim() != "#[cfg(test)]" || text.contains("mod tests;"))
            .count();
        assert!(lines <= FILE_LINES_MAX, "{path} has {lines} lines");
        assert!(
            text.starts_with("//!"),
            "{path} does not say what it is for"
        );
    }
}

/// Words that mean something else in other engines, or nothing.
#[test]
fn names_are_the_fields_terms() {
    let banned = ["leader", "checkpoint", "replica", "flush"];
    // PostgreSQL is asked in its own words.
    let foreign = ["cli/src/bench/postgres.rs"];
    for (path, text) in sources().iter().filter(|(path, _)| is_product(path)) {
        if foreign.contains(&path.as_str()) {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            let lower = line
                .to_lowercase()
                .replace("read replica", "")
                .replace("flush()", "");
            for word in banned {
                assert!(!lower.contains(word), "{path}:{}: {word}", index + 1);
            }
        }
    }
}

/// The backticked words of a table cell.
fn ticked(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_invariant_names_code_and_tests_that_exist() {
    let page = std::fs::read_to_string(root().join("docs/INVARIANTS.md")).unwrap();
    let sources = sources();
    let functions: BTreeSet<&str> = sources
        .values()
        .flat_map(|text| text.lines())
        .filter_map(|line| {
            line.trim()
                .strip_prefix("fn ")
                .or_else(|| line.trim().strip_prefix("async fn "))
        })
        .filter_map(|rest| rest.split(['(', '<']).next())
        .collect();
    let mut rows = 0;
    for line in page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| #"))
    {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells.len() != 4 || cells[0].starts_with('-') {
            continue;
        }
        rows += 1;
        let (code, tests) = (ticked(cells[2]), ticked(cells[3]));
        assert!(
            !code.is_empty() && !tests.is_empty(),
            "invariant {} names no code or no test",
            cells[0]
        );
        for path in code {
            assert!(
                sources.contains_key(path),
                "invariant {}: no file {path}",
                cells[0]
            );
        }
        for test in tests {
            assert!(
                functions.contains(test),
                "invariant {}: no test {test}",
                cells[0]
            );
        }
    }
    assert!(rows >= 30, "only {rows} invariants were found");
}
