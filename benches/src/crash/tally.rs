//! What became of the cycles, in numbers: JSON and Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::case::Case;
use super::check::Findings;
use crate::history::judge::Verdict;
use crate::latency::Latencies;

/// One cycle.
#[derive(Debug, Clone)]
pub struct Played {
    /// The case.
    pub case: Case,
    /// What the check found.
    pub findings: Findings,
    /// Commits whose outcome nobody knows.
    pub unknown: u64,
    /// Commits that were refused.
    pub refused: u64,
    /// What the outside checker says of the history.
    pub verdict: Verdict,
    /// Longest time without an answered commit, from when it struck until commits were answered again.
    pub stall: Duration,
    /// From when all was well again until a commit was answered.
    pub recovery: Duration,
    /// Whether it struck at the moment that the case names.
    pub on_time: bool,
}

/// All cycles.
#[derive(Debug, Default)]
pub struct Tally {
    cases: BTreeMap<Case, Row>,
    skipped: BTreeMap<Case, String>,
    findings: Findings,
    unknown: u64,
    refused: u64,
    histories: Histories,
    first_violation: Option<String>,
    failures: Vec<(Case, String)>,
}

#[derive(Debug, Default)]
struct Row {
    cycles: u64,
    on_time: u64,
    acked: u64,
    unknown: u64,
    refused: u64,
    stall: Latencies,
    recovery: Latencies,
}

/// Histories by what the outside checker said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Histories {
    /// Strictly serializable, or not.
    checked: u64,
    /// Not.
    violations: u64,
    /// It could not tell.
    undecided: u64,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    cycles: u64,
    seed: u64,
    seconds: f64,
    acked: u64,
    lost: u64,
    torn: u64,
    /// Cycles that did not come to their end: a volume that does not open, a process that died of itself.
    failed: usize,
    unknown: u64,
    unknown_found: u64,
    refused: u64,
    cases: BTreeMap<String, u64>,
    skipped: BTreeMap<String, &'a str>,
    histories: Histories,
    rows: Vec<RowReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<String>,
}

#[derive(Debug, Serialize)]
struct RowReport {
    case: String,
    cycles: u64,
    on_time: u64,
    acked: u64,
    unknown: u64,
    refused: u64,
    stall_p50_ms: f64,
    stall_max_ms: f64,
    recovery_p50_ms: f64,
    recovery_max_ms: f64,
}

fn ms(latencies: &Latencies, share: f64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // At most a minute.
    let us = latencies.quantile_us(share) as f64;
    us / 1_000.0
}

impl Tally {
    /// Takes a cycle that came to its end.
    pub fn played(&mut self, played: Played) {
        let row = self.cases.entry(played.case).or_default();
        row.cycles += 1;
        row.on_time += u64::from(played.on_time);
        row.acked += played.findings.answered;
        row.unknown += played.unknown;
        row.refused += played.refused;
        row.stall.record(played.stall);
        row.recovery.record(played.recovery);
        self.unknown += played.unknown;
        self.refused += played.refused;
        self.findings.add(played.findings);
        match played.verdict {
            Verdict::Sound => self.histories.checked += 1,
            Verdict::Undecided(_) => self.histories.undecided += 1,
            Verdict::Violated(what) => {
                self.histories.checked += 1;
                self.histories.violations += 1;
                let what = format!("{}: {what}", played.case);
                self.first_violation.get_or_insert(what);
            }
        }
    }

    /// Notes a cycle that did not come to its end.
    pub fn failed(&mut self, case: Case, why: String) {
        self.failures.push((case, why));
    }

    /// Notes a case that this host cannot do.
    pub fn skip(&mut self, case: Case, why: &str) {
        self.skipped.insert(case, why.to_owned());
    }

    /// Cycles that came to their end.
    pub fn cycles(&self) -> u64 {
        self.cases.values().map(|row| row.cycles).sum()
    }

    /// What was found wrong first, if anything was.
    pub fn wrong(&self) -> Option<String> {
        let failure = self.failures.first();
        let failure = failure.map(|(case, why)| format!("{case}: {why}"));
        let found = self.findings.first.clone();
        found.or(self.first_violation.clone()).or(failure)
    }

    /// One JSON object.
    ///
    /// # Errors
    /// Never, as numbers go.
    pub fn json(&self, seed: u64, time: Duration) -> Result<String> {
        let row = |(case, row): (&Case, &Row)| RowReport {
            case: case.to_string(),
            cycles: row.cycles,
            on_time: row.on_time,
            acked: row.acked,
            unknown: row.unknown,
            refused: row.refused,
            stall_p50_ms: ms(&row.stall, 0.5),
            stall_max_ms: ms(&row.stall, 1.0),
            recovery_p50_ms: ms(&row.recovery, 0.5),
            recovery_max_ms: ms(&row.recovery, 1.0),
        };
        let counts = self.cases.iter();
        let report = Report {
            cycles: self.cycles(),
            seed,
            seconds: time.as_secs_f64(),
            acked: self.findings.answered,
            lost: self.findings.lost,
            torn: self.findings.torn,
            failed: self.failures.len(),
            unknown: self.unknown,
            unknown_found: self.findings.unknown_found,
            refused: self.refused,
            cases: counts
                .map(|(case, row)| (case.to_string(), row.cycles))
                .collect(),
            skipped: self
                .skipped
                .iter()
                .map(|(case, why)| (case.to_string(), why.as_str()))
                .collect(),
            histories: self.histories,
            rows: self.cases.iter().map(row).collect(),
            first: self.wrong(),
        };
        Ok(serde_json::to_string(&report)?)
    }

    /// A summary for people.
    pub fn summary(&self) -> String {
        let Findings {
            answered,
            lost,
            torn,
            unknown_found,
            ..
        } = &self.findings;
        let Histories {
            checked,
            violations,
            undecided,
        } = self.histories;
        format!(
            "{} cycles of {} cases: {answered} commits answered, {lost} lost, {torn} torn; {} of unknown outcome, of which {unknown_found} are there; {checked} histories checked, {violations} violations, {undecided} undecided; {} cycles failed, {} cases skipped",
            self.cycles(),
            self.cases.len(),
            self.unknown,
            self.failures.len(),
            self.skipped.len(),
        )
    }

    /// The report, in Markdown.
    ///
    /// # Errors
    /// Never, as text goes.
    pub fn markdown(&self, seed: u64, time: Duration) -> Result<String> {
        let mut text = String::from("# Crash suite\n\n");
        writeln!(
            text,
            "Seed {seed}, {:.0} s. {}.\n",
            time.as_secs_f64(),
            self.summary()
        )?;
        if let Some(wrong) = self.wrong() {
            writeln!(text, "**Wrong first: {wrong}**\n")?;
        }
        text.push_str(
            "*Stall* is the longest time without an answered commit after it struck; *recovery* is from when all was well again, or a new \
             writer was started, to the first answered commit. Milliseconds. *On time*: cycles in which it struck at the moment that the \
             case names.\n\n\
             | case | cycles | on time | answered | unknown | refused | stall p50 | stall max | recovery p50 | recovery max |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for (case, row) in &self.cases {
            writeln!(
                text,
                "| `{case}` | {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.0} | {:.0} |",
                row.cycles,
                row.on_time,
                row.acked,
                row.unknown,
                row.refused,
                ms(&row.stall, 0.5),
                ms(&row.stall, 1.0),
                ms(&row.recovery, 0.5),
                ms(&row.recovery, 1.0),
            )?;
        }
        if !self.skipped.is_empty() {
            text.push_str("\n| skipped | why |\n|---|---|\n");
            for (case, why) in &self.skipped {
                writeln!(text, "| `{case}` | {why} |")?;
            }
        }
        for (case, why) in &self.failures {
            writeln!(text, "\n`{case}` failed: {why}")?;
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::case::matrix;
    use super::*;

    fn played(case: Case, findings: Findings, verdict: Verdict) -> Played {
        Played {
            case,
            findings,
            unknown: 2,
            refused: 1,
            verdict,
            stall: Duration::from_millis(40),
            recovery: Duration::from_millis(8),
            on_time: true,
        }
    }

    #[test]
    fn a_clean_run_is_counted_and_nothing_in_it_is_wrong() {
        let mut tally = Tally::default();
        let cases = matrix();
        let findings = Findings {
            answered: 100,
            ..Findings::default()
        };
        tally.played(played(cases[0], findings.clone(), Verdict::Sound));
        tally.played(played(
            cases[0],
            findings,
            Verdict::Undecided(String::new()),
        ));
        tally.skip(cases[1], "no such thing");
        assert_eq!(tally.wrong(), None);
        let text = tally.json(1, Duration::from_secs(2)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["cycles"], 2);
        assert_eq!(json["acked"], 200);
        assert_eq!(json["cases"][cases[0].to_string()], 2);
        assert_eq!(json["skipped"][cases[1].to_string()], "no such thing");
        assert_eq!(json["histories"]["checked"], 1);
        assert_eq!(json["histories"]["undecided"], 1);
        let report = tally.markdown(1, Duration::ZERO).unwrap();
        assert!(report.contains(&cases[0].to_string()) && report.contains("no such thing"));
    }

    #[test]
    fn a_loss_a_violation_and_a_failure_are_each_wrong() {
        let case = matrix()[0];
        let mut lost = Tally::default();
        let findings = Findings {
            lost: 1,
            first: Some("it is lost".to_owned()),
            ..Findings::default()
        };
        lost.played(played(case, findings, Verdict::Sound));
        let mut violated = Tally::default();
        let verdict = Verdict::Violated("G1c".to_owned());
        violated.played(played(case, Findings::default(), verdict));
        let mut failed = Tally::default();
        failed.failed(case, "it does not open".to_owned());
        for tally in [lost, violated, failed] {
            assert!(tally.wrong().is_some());
        }
    }
}
