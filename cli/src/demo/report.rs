//! The demo's table and its JSON.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use sixfold_benches::latency::Latencies;

use super::check::Findings;
use super::record::{Line, Outcome, Phase};
use super::writer::{OpenedReport, WriterReport};

/// One phase in numbers.
#[derive(Debug, Default)]
pub(crate) struct PhaseReport {
    answered: u64,
    failed: u64,
    latencies: Latencies,
}

/// The reopening.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Reopen {
    unfolded_bytes: u64,
    lease_wait_ms: f64,
    open_ms: f64,
    first_commit_ms: f64,
}

/// An outage in numbers.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outage {
    acked: u64,
    failed: u64,
}

/// The demo's JSON object; its shape is fixed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    nodes: usize,
    acked: u64,
    lost: u64,
    torn: u64,
    outage: Outage,
    reopen: Reopen,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    commits_per_second: f64,
    wire_bytes_per_user_byte: f64,
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Nodes of the cluster.
    pub(crate) nodes: usize,
    /// How long the healthy phase was, seconds.
    pub(crate) healthy_seconds: f64,
    /// Redo that no node had folded into pages, at the time of the reopening.
    pub(crate) unfolded_bytes: u64,
    /// How long the returned nodes took to hold everything again, milliseconds.
    pub(crate) catch_up_ms: f64,
    /// The second writer's opening.
    pub(crate) reopened: OpenedReport,
    /// The last numbers of each writer process.
    pub(crate) writers: Vec<WriterReport>,
    /// The check's findings.
    pub(crate) findings: Findings,
}

/// Sorts the record by phase.
pub(crate) fn by_phase(lines: &[Line]) -> BTreeMap<Phase, PhaseReport> {
    let mut phases = BTreeMap::new();
    for line in lines {
        let phase: &mut PhaseReport = phases.entry(line.phase).or_default();
        match line.outcome {
            Outcome::Answered { latency_us, .. } => {
                phase.answered += 1;
                phase.latencies.record_us(latency_us);
            }
            Outcome::Unknown | Outcome::Refused => phase.failed += 1,
        }
    }
    phases
}

/// Whether nothing was lost and nothing torn, and the outage failed nothing.
pub(crate) fn is_good(summary: &Summary) -> bool {
    summary.lost == 0 && summary.torn == 0 && summary.outage.failed == 0
}

#[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Puts the JSON object together.
pub(crate) fn summarize(measured: &Measured, phases: &BTreeMap<Phase, PhaseReport>) -> Summary {
    let healthy = phases.get(&Phase::Healthy);
    let quantile = |q| healthy.map_or(0, |phase| phase.latencies.quantile_us(q));
    let outage = phases.get(&Phase::Outage);
    let wire_bytes = measured
        .writers
        .iter()
        .map(|writer| writer.wire_bytes)
        .sum();
    let user_bytes = measured
        .writers
        .iter()
        .map(|writer| writer.user_bytes)
        .sum();
    #[allow(clippy::cast_precision_loss)] // As above.
    let commits_per_second = healthy.map_or(0.0, |phase| {
        phase.answered as f64 / measured.healthy_seconds
    });
    Summary {
        nodes: measured.nodes,
        acked: measured.findings.answered,
        lost: measured.findings.lost,
        torn: measured.findings.torn,
        outage: Outage {
            acked: outage.map_or(0, |phase| phase.answered),
            failed: outage.map_or(0, |phase| phase.failed),
        },
        reopen: Reopen {
            unfolded_bytes: measured.unfolded_bytes,
            lease_wait_ms: rounded(measured.reopened.lease_wait_ms),
            open_ms: rounded(measured.reopened.open_ms),
            first_commit_ms: rounded(measured.reopened.first_commit_ms),
        },
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        p999_us: quantile(0.999),
        commits_per_second: rounded(commits_per_second),
        wire_bytes_per_user_byte: rounded(ratio(wire_bytes, user_bytes)),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Prints the table.
pub(crate) fn print_table(
    measured: &Measured,
    phases: &BTreeMap<Phase, PhaseReport>,
    summary: &Summary,
) -> Result<()> {
    say!("");
    say!(
        "{:<10} {:>10} {:>8} {:>10} {:>10} {:>10}",
        "phase",
        "answered",
        "failed",
        "p50 us",
        "p99 us",
        "p99.9 us"
    );
    for (phase, report) in phases {
        say!(
            "{:<10} {:>10} {:>8} {:>10} {:>10} {:>10}",
            phase.name(),
            report.answered,
            report.failed,
            report.latencies.quantile_us(0.5),
            report.latencies.quantile_us(0.99),
            report.latencies.quantile_us(0.999),
        );
    }
    let findings = &measured.findings;
    say!("");
    say!(
        "commits    {} answered, {} lost, {} torn; {} unknown ones are there",
        summary.acked,
        summary.lost,
        summary.torn,
        findings.unknown_found
    );
    say!(
        "sums       right at {} read points unless counted as torn",
        findings.read_points
    );
    say!(
        "speed      {} commits a second with six nodes up",
        summary.commits_per_second
    );
    say!(
        "catch-up   {:.0} ms until the returned zone held everything",
        measured.catch_up_ms
    );
    say!(
        "reopening  open {:.1} ms, first commit {:.1} ms, lease wait {:.1} ms apart, {:.1} MB of redo not folded",
        summary.reopen.open_ms,
        summary.reopen.first_commit_ms,
        summary.reopen.lease_wait_ms,
        ratio(measured.unfolded_bytes, 1_000_000),
    );
    say!(
        "wire       {} bytes at the writer per committed byte",
        summary.wire_bytes_per_user_byte
    );
    if let Some(first) = &findings.first {
        say!("WRONG      {first}");
    }
    Ok(())
}
