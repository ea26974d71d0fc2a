//! What is aimed at, and what was measured.

use std::fmt::Write;

use serde_json::Value;

use crate::runs::{Runs, number, word};

/// One of them: its words, the bound, and whether more or less is better.
struct Goal {
    words: &'static str,
    bound: Bound,
    measured: Option<f64>,
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn at_most(words: &'static str, bound: f64, measured: Option<f64>) -> Goal {
        Goal {
            words,
            bound: Bound::AtMost(bound),
            measured,
        }
    }

    fn at_least(words: &'static str, bound: f64, measured: Option<f64>) -> Goal {
        Goal {
            words,
            bound: Bound::AtLeast(bound),
            measured,
        }
    }

    fn verdict(&self) -> &'static str {
        let reached = match (self.measured, &self.bound) {
            (None, _) => return "not measured",
            (Some(measured), Bound::AtMost(bound)) => measured <= *bound,
            (Some(measured), Bound::AtLeast(bound)) => measured >= *bound,
        };
        if reached { "reached" } else { "**missed**" }
    }
}

/// The closed loop's row of so many clients.
fn commit(runs: &Runs, clients: u64) -> Option<&Value> {
    let mut rows = runs.rows("commit").iter();
    rows.find(|row| row["clients"].as_u64() == Some(clients) && row.get("rate").is_none())
}

fn ratio(row: Option<&Value>, part: &str, whole: &str) -> Option<f64> {
    let row = row?;
    Some(number(row, part)? / number(row, whole)?)
}

/// How many times another system's figure this one's is, at so many clients.
fn against(runs: &Runs, clients: u64, system: &str) -> Option<f64> {
    let rows = runs.rows(&format!("versus-{clients}"));
    let of = |system: &str| {
        let row = rows.iter().find(|row| word(row, "system") == system)?;
        number(row, "commits_per_second")
    };
    Some(of("sixfold")? / of(system)?)
}

/// The same for reads, by the CPU time of a read: above 1 is faster.
fn read_against(runs: &Runs, threads: u64, system: &str) -> Option<f64> {
    let of = |system: &str| {
        let mut rows = runs.rows("read").iter();
        let row = rows.find(|row| {
            word(row, "system") == system && row["threads"].as_u64() == Some(threads)
        })?;
        number(row, "cpu_us_per_read")
    };
    Some(of(system)? / of("sixfold")?)
}

fn outage(runs: &Runs, case: &str) -> Option<f64> {
    let mut rows = runs.rows("outage").iter();
    let row = rows.find(|row| word(row, "case") == case);
    ratio(row, "p99_during_us", "p99_before_us")
}

fn wire(runs: &Runs, load: &str, name: &str) -> Option<f64> {
    number(runs.get(&format!("wire-{load}"))?, name)
}

fn slowest_reopening(runs: &Runs) -> Option<f64> {
    let rows = runs.rows("reopen").iter();
    rows.filter_map(|row| number(row, "first_commit_ms"))
        .reduce(f64::max)
}

fn goals(runs: &Runs) -> Vec<Goal> {
    let share = |clients| {
        let row = commit(runs, clients);
        ratio(row, "commits_per_second", "bare_commits_per_second")
    };
    let disk = runs
        .get("disk")
        .and_then(|disk| number(disk, "disk_bytes_per_redo_byte_per_node"));
    vec![
        Goal::at_most(
            "one client: commit p50 over that of the bare append",
            1.25,
            ratio(commit(runs, 1), "p50_us", "bare_p50_us"),
        ),
        Goal::at_least(
            "64 clients: share of the bare append's commits",
            0.7,
            share(64),
        ),
        Goal::at_least(
            "256 clients: share of the bare append's commits",
            0.7,
            share(256),
        ),
        Goal::at_least(
            "64 clients: times etcd of five",
            15.0,
            against(runs, 64, "etcd-5"),
        ),
        Goal::at_least(
            "64 clients: times PostgreSQL with four of six standbys",
            10.0,
            against(runs, 64, "postgresql-4of6"),
        ),
        Goal::at_least(
            "64 clients: six copies against one of Redis",
            1.0,
            against(runs, 64, "redis"),
        ),
        Goal::at_most(
            "wire bytes a redo byte, six copies",
            7.0,
            wire(runs, "update", "wire_bytes_per_redo_byte"),
        ),
        Goal::at_most(
            "redo bytes a user byte, updates",
            1.25,
            wire(runs, "update", "redo_bytes_per_user_byte"),
        ),
        Goal::at_most(
            "redo bytes a user byte, ordered load",
            1.25,
            wire(runs, "ordered", "redo_bytes_per_user_byte"),
        ),
        Goal::at_most(
            "network writes a commit, all six copies counted",
            0.95,
            wire(runs, "update", "network_writes_per_commit"),
        ),
        Goal::at_most("disk bytes a redo byte and node", 1.3, disk),
        Goal::at_most(
            "p99 with a node 50 ms slow, over p99 before",
            1.1,
            outage(runs, "slow-node"),
        ),
        Goal::at_most(
            "p99 with a node stopped, over p99 before",
            1.1,
            outage(runs, "stopped-node"),
        ),
        Goal::at_most(
            "p99 with a zone gone, over p99 before",
            2.0,
            outage(runs, "az-gone"),
        ),
        Goal::at_most(
            "slowest reopening, to the first commit, ms",
            100.0,
            slowest_reopening(runs),
        ),
        Goal::at_most(
            "a page in no cache: p99 of a read over that of a round trip and a device read",
            2.0,
            runs.get("miss")
                .and_then(|miss| number(miss, "p99_over_floor")),
        ),
        Goal::at_least(
            "a node's appends, 64 KiB groups: share of a plain writer's",
            0.9,
            ratio(
                runs.get("node"),
                "append_mb_per_second",
                "plain_append_mb_per_second",
            ),
        ),
        Goal::at_most(
            "a node's lone append: p50 over that of a plain write",
            1.2,
            ratio(runs.get("node"), "lone_p50_us", "plain_lone_p50_us"),
        ),
        Goal::at_most(
            "a node's page read at the longest chain: p99 over that of a device read",
            2.0,
            ratio(runs.get("node"), "read_p99_us", "device_read_p99_us"),
        ),
        Goal::at_least(
            "repair beside nothing: share of a plain writer's rate",
            0.8,
            runs.get("repair")
                .and_then(|repair| number(repair, "share_of_device")),
        ),
        Goal::at_most(
            "commit p99 during a repair, over p99 before",
            1.1,
            ratio(runs.get("repair"), "p99_during_us", "p99_before_us"),
        ),
        Goal::at_least(
            "cached point reads, one thread: times redb",
            1.0,
            read_against(runs, 1, "redb"),
        ),
        Goal::at_least(
            "cached point reads, one thread: times RocksDB",
            1.0,
            read_against(runs, 1, "rocksdb"),
        ),
        Goal::at_least(
            "cached point reads, two threads: times redb",
            1.0,
            read_against(runs, 2, "redb"),
        ),
        Goal::at_least(
            "cached point reads, two threads: times RocksDB",
            1.0,
            read_against(runs, 2, "rocksdb"),
        ),
    ]
}

/// The table.
pub(crate) fn table(runs: &Runs) -> String {
    let mut text = String::from("| goal | bound | measured | |\n|---|---|---|---|\n");
    for goal in goals(runs) {
        let bound = match goal.bound {
            Bound::AtMost(bound) => format!("at most {bound}"),
            Bound::AtLeast(bound) => format!("at least {bound}"),
        };
        let measured = goal
            .measured
            .map_or("-".to_owned(), |measured| format!("{measured:.2}"));
        // Writing into a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {bound} | {measured} | {} |",
            goal.words,
            goal.verdict()
        );
    }
    text
}
