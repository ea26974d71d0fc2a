//! The files of the runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// What a verb said, and where.
#[derive(Debug, Deserialize)]
pub(crate) struct Run {
    /// What was run.
    pub(crate) command: String,
    commit: String,
    machine: String,
    date: String,
    load_before: f64,
    quick: bool,
    /// The JSON that it ended with.
    pub(crate) result: Value,
}

/// All of them, by the name of the file.
#[derive(Debug)]
pub(crate) struct Runs(BTreeMap<String, Run>);

impl Runs {
    /// Reads every `NAME.json` of a directory.
    pub(crate) fn read(dir: &Path) -> Result<Runs> {
        let mut runs = BTreeMap::new();
        let entries =
            std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let name = path.file_stem().and_then(|name| name.to_str());
            let name = name.context("a file name that is not UTF-8")?.to_owned();
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let run = serde_json::from_str(&text)
                .with_context(|| format!("{} is no result", path.display()))?;
            runs.insert(name, run);
        }
        ensure!(!runs.is_empty(), "{} holds no results", dir.display());
        Ok(Runs(runs))
    }

    /// The result of a run.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).map(|run| &run.result)
    }

    /// The rows of a result: what it calls `rows` or `runs`.
    pub(crate) fn rows(&self, name: &str) -> &[Value] {
        let found = self.get(name);
        let rows = found.and_then(|result| result.get("rows").or_else(|| result.get("runs")));
        rows.and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Runs whose name begins so.
    pub(crate) fn named(&self, prefix: &str) -> impl Iterator<Item = (&str, &Run)> {
        let all = self.0.iter().map(|(name, run)| (name.as_str(), run));
        all.filter(move |(name, _)| name.starts_with(prefix))
    }

    /// Machine, commit, commands.
    pub(crate) fn origin(&self) -> Result<String> {
        let mut text = String::new();
        let all = |part: fn(&Run) -> &str| -> String {
            let parts: BTreeSet<&str> = self.0.values().map(part).collect();
            parts.into_iter().collect::<Vec<_>>().join("; ")
        };
        writeln!(text, "- machine: {}", all(|run| &run.machine))?;
        writeln!(text, "- commit: {}", all(|run| &run.commit))?;
        if self.0.values().any(|run| run.quick) {
            text.push_str(
                "- **short runs, made to show that the suite works: not to be quoted**\n",
            );
        }
        text.push_str("\n| run | when | load before | command |\n|---|---|---|---|\n");
        for (name, run) in &self.0 {
            writeln!(
                text,
                "| {name} | {} | {:.1} | `{}` |",
                run.date, run.load_before, run.command
            )?;
        }
        Ok(text)
    }
}

/// A number of a row.
pub(crate) fn number(row: &Value, name: &str) -> Option<f64> {
    row.get(name)?.as_f64()
}

/// A text of a row.
pub(crate) fn word<'a>(row: &'a Value, name: &str) -> &'a str {
    row.get(name).and_then(Value::as_str).unwrap_or_default()
}
