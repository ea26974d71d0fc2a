//! What `adya` says of a list-append history: a checker that nobody here wrote.

use std::path::Path;
use std::time::Duration;

use adya::{History, Opts, Valid, Workload, check};
use anyhow::{Context, Result};

/// Longest search for cycles.
const SEARCH_LIMIT: Duration = Duration::from_secs(20);
/// Anomalies that are told.
const TOLD_MAX: usize = 3;

/// A verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Strictly serializable.
    Sound,
    /// Not: in words.
    Violated(String),
    /// It cannot tell: in words.
    Undecided(String),
}

/// Judges a list-append history in a file, as [`super::file`] writes it.
///
/// # Errors
/// When it cannot be read.
pub fn judge(path: &Path) -> Result<Verdict> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let history = History::from_json(&text)
        .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    let opts = Opts {
        models: vec!["strict-serializable".to_owned()],
        timeout: SEARCH_LIMIT,
        ..Opts::default()
    };
    let report = check(&history, Workload::ListAppend, &opts);
    let shown = report.anomalies.values().flatten().take(TOLD_MAX);
    let told: Vec<String> = shown
        .map(|anomaly| format!("{}: {}", anomaly.kind, anomaly.explanation))
        .collect();
    Ok(match report.valid {
        Valid::True => Verdict::Sound,
        Valid::False => Verdict::Violated(told.join("; ")),
        Valid::Unknown => Verdict::Undecided(report.anomaly_types.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(lines: &[&str]) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        std::fs::write(&path, lines.join("\n")).unwrap();
        judge(&path).unwrap()
    }

    const APPENDED: [&str; 2] = [
        r#"{"index":0,"type":"invoke","process":0,"time":1,"value":[["append",3,7]]}"#,
        r#"{"index":1,"type":"ok","process":0,"time":2,"value":[["append",3,7]]}"#,
    ];

    #[test]
    fn a_read_of_what_was_appended_is_sound_and_a_read_of_the_past_is_not() {
        let read = |seen: &str| {
            let invoke =
                r#"{"index":2,"type":"invoke","process":1,"time":3,"value":[["r",3,null]]}"#;
            let ok = format!(
                r#"{{"index":3,"type":"ok","process":1,"time":4,"value":[["r",3,{seen}]]}}"#
            );
            verdict(&[APPENDED[0], APPENDED[1], invoke, &ok])
        };
        assert_eq!(read("[7]"), Verdict::Sound);
        assert!(matches!(read("[]"), Verdict::Violated(_)));
    }
}
