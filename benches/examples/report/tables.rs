//! The figures themselves.

use std::fmt::Write;

use serde_json::Value;

use crate::runs::{Runs, number};

/// A table's columns: the field of a row, and its heading.
type Columns = &'static [(&'static str, &'static str)];

const COMMIT: Columns = &[
    ("clients", "clients"),
    ("rate", "due/s"),
    ("commits_per_second", "commits/s"),
    ("p50_us", "p50 us"),
    ("p99_us", "p99 us"),
    ("p999_us", "p99.9 us"),
    ("never_begun", "never begun"),
    ("bare_commits_per_second", "bare/s"),
    ("bare_p50_us", "bare p50 us"),
    ("echo_p50_us", "echo p50 us"),
    ("append_p50_us", "append p50 us"),
    ("redo_bytes_per_commit", "redo B/commit"),
    ("datagrams_per_commit", "datagrams/commit"),
];
const VERSUS: Columns = &[
    ("system", "system"),
    ("copies", "copies"),
    ("durable_copies", "on disk when answered"),
    ("commits_per_second", "commits/s"),
    ("p50_us", "p50 us"),
    ("p99_us", "p99 us"),
    ("p999_us", "p99.9 us"),
    ("version", "version"),
    ("settings", "settings"),
];
const READ: Columns = &[
    ("system", "system"),
    ("threads", "threads"),
    ("keys_per_read", "keys/read"),
    ("reads_per_second", "reads/s"),
    ("keys_per_second", "keys/s"),
    ("p50_us", "p50 us"),
    ("p99_us", "p99 us"),
    ("cpu_us_per_read", "CPU us/read"),
    ("settings", "settings"),
];
const MIXED: Columns = &[
    ("workload", "workload"),
    ("operation", "operation"),
    ("operations_per_second", "per second"),
    ("p50_us", "p50 us"),
    ("p99_us", "p99 us"),
    ("p999_us", "p99.9 us"),
    ("conflicts", "conflicts"),
];
const WIRE: Columns = &[
    ("load", "load"),
    ("value_bytes", "value B"),
    ("clients", "clients"),
    ("wire_bytes_per_redo_byte", "wire B/redo B"),
    ("sent_bytes_per_redo_byte", "of these sent"),
    ("redo_bytes_per_user_byte", "redo B/user B"),
    ("network_writes_per_commit", "network writes/commit"),
    ("datagrams_per_commit", "datagrams/commit"),
    ("commits_per_batch", "commits/batch"),
];
const REOPEN: Columns = &[
    ("unfolded_bytes", "redo outside layers, B"),
    ("lease_wait_ms", "lease wait ms"),
    ("open_ms", "open ms"),
    ("first_commit_ms", "first commit ms"),
    ("postgresql_wal_bytes", "PostgreSQL: log, B"),
    ("postgresql_first_commit_ms", "PostgreSQL: first commit ms"),
];
const OUTAGE: Columns = &[
    ("case", "case"),
    ("failed", "failed"),
    ("p50_before_us", "p50 before us"),
    ("p50_during_us", "p50 during us"),
    ("p99_before_us", "p99 before us"),
    ("p99_during_us", "p99 during us"),
    ("p99_after_us", "p99 after us"),
    ("p999_before_us", "p99.9 before us"),
    ("p999_during_us", "p99.9 during us"),
    ("takeover_ms", "takeover ms"),
];

/// All sections.
pub(crate) fn all(runs: &Runs) -> String {
    let mut text = String::new();
    section(
        &mut text,
        "Commits, closed loop",
        runs.rows("commit"),
        COMMIT,
    );
    section(
        &mut text,
        "Commits at fixed rates (latency from when a commit was due)",
        runs.rows("rate"),
        COMMIT,
    );
    for (name, _) in runs.named("versus-") {
        let clients = name.trim_start_matches("versus-");
        section(
            &mut text,
            &format!("Other systems, {clients} clients"),
            runs.rows(name),
            VERSUS,
        );
        skipped(&mut text, runs.get(name));
    }
    section(&mut text, "Point reads in memory", runs.rows("read"), READ);
    skipped(&mut text, runs.get("read"));
    section(&mut text, "Scans in memory", runs.rows("scan"), READ);
    skipped(&mut text, runs.get("scan"));
    section(&mut text, "YCSB", runs.rows("mixed"), MIXED);
    let wire: Vec<Value> = runs
        .named("wire-")
        .map(|(_, run)| run.result.clone())
        .collect();
    section(&mut text, "On the wire", &wire, WIRE);
    section(
        &mut text,
        "Reopening after a kill",
        runs.rows("reopen"),
        REOPEN,
    );
    section(&mut text, "Outages", runs.rows("outage"), OUTAGE);
    for name in ["disk", "node", "crash"] {
        if let Some(result) = runs.get(name) {
            flat(&mut text, name, result);
        }
    }
    text
}

/// A table; columns that no row has are left out, and so is a table without rows.
fn section(text: &mut String, title: &str, rows: &[Value], columns: Columns) {
    if rows.is_empty() {
        return;
    }
    let there: Vec<_> = columns
        .iter()
        .filter(|(field, _)| rows.iter().any(|row| row.get(*field).is_some()))
        .collect();
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let _ = write!(text, "\n## {title}\n\n");
    text.push_str(&line(
        there.iter().map(|(_, head)| (*head).to_owned()).collect(),
    ));
    text.push_str(&line(there.iter().map(|_| "---".to_owned()).collect()));
    for row in rows {
        text.push_str(&line(
            there.iter().map(|(field, _)| cell(row, field)).collect(),
        ));
    }
}

fn cell(row: &Value, field: &str) -> String {
    match number(row, field) {
        Some(number) => figure(number),
        None => match row.get(field) {
            Some(Value::String(text)) => text.replace('|', "/"),
            _ => "-".to_owned(),
        },
    }
}

/// Three digits at least, and no false ones.
pub(crate) fn figure(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        below if below < 10.0 && number.fract() != 0.0 => format!("{number:.2}"),
        below if below < 100.0 && number.fract() != 0.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

fn skipped(text: &mut String, result: Option<&Value>) {
    let list = result.and_then(|result| result.get("skipped")?.as_array());
    for skipped in list.into_iter().flatten() {
        let _ = write!(
            text,
            "\nSkipped: {} ({}).\n",
            cell(skipped, "system"),
            cell(skipped, "reason")
        );
    }
}

/// Numbers that stand alone.
fn flat(text: &mut String, title: &str, result: &Value) {
    let _ = write!(text, "\n## `bench {title}`\n\n| figure | |\n|---|---|\n");
    for (field, value) in result.as_object().into_iter().flatten() {
        if let Some(number) = value.as_f64() {
            let _ = writeln!(text, "| {} | {} |", field.replace('_', " "), figure(number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_about_three_digits() {
        let all = [0.0, 1.234, 12.34, 123.4, 12_345.6, 7.0].map(figure);
        assert_eq!(all, ["0", "1.23", "12.3", "123", "12346", "7"]);
    }

    #[test]
    fn a_table_has_the_columns_that_some_row_has() {
        let rows = [serde_json::json!({"case": "a|b", "failed": 0})];
        let mut text = String::new();
        section(&mut text, "Outages", &rows, OUTAGE);
        assert_eq!(
            text,
            "\n## Outages\n\n| case | failed |\n| --- | --- |\n| a/b | 0 |\n"
        );
    }
}
