//! The record of answered commits, kept outside the engine: a plain file with a line for each, written before the
//! commit is counted.
//!
//! ```text
//! A <phase> <kind> <client> <number> <lsn> <latency_us>     answered
//! U <phase> <kind> <client> <number> <reason>               ended as unknown
//! F <phase> <kind> <client> <number> <reason>               refused
//! ```
//! Client and number decide the contents of the commit ([`super::work`]), so that the line is enough to check it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sixfold_log_format::Lsn;

/// What the demo goes through, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// Accounts and rows to begin with.
    Setup,
    /// Six nodes, load.
    Healthy,
    /// One availability zone is gone, load.
    Outage,
    /// The zone is back and catches up, load.
    Rejoin,
    /// The writer is killed somewhere in here.
    Crash,
    /// The new writer, load.
    After,
}

impl Phase {
    /// All, in order.
    pub(crate) const ALL: [Phase; 6] = [
        Phase::Setup,
        Phase::Healthy,
        Phase::Outage,
        Phase::Rejoin,
        Phase::Crash,
        Phase::After,
    ];

    /// Its name in files and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Setup => "setup",
            Phase::Healthy => "healthy",
            Phase::Outage => "outage",
            Phase::Rejoin => "rejoin",
            Phase::Crash => "crash",
            Phase::After => "after",
        }
    }

    /// The phase with this name.
    pub(crate) fn parse(name: &str) -> Result<Phase> {
        match Phase::ALL.into_iter().find(|phase| phase.name() == name) {
            Some(phase) => Ok(phase),
            None => bail!("no phase {name:?}"),
        }
    }
}

/// What kind of work a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// All accounts, at the start.
    Accounts,
    /// A chunk of rows.
    Rows,
    /// A transfer between two accounts, with its ledger entry.
    Transfer,
    /// One 100-byte value.
    Put,
}

impl Kind {
    const ALL: [(Kind, &'static str); 4] = [
        (Kind::Accounts, "accounts"),
        (Kind::Rows, "rows"),
        (Kind::Transfer, "transfer"),
        (Kind::Put, "put"),
    ];

    /// Its name in files.
    pub(crate) fn name(self) -> &'static str {
        Kind::ALL
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("", |(_, name)| name)
    }

    fn parse(name: &str) -> Result<Kind> {
        match Kind::ALL.iter().find(|(_, known)| *known == name) {
            Some((kind, _)) => Ok(*kind),
            None => bail!("no kind of work {name:?}"),
        }
    }
}

/// Which commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkId {
    /// What it did.
    pub(crate) kind: Kind,
    /// Which client.
    pub(crate) client: u32,
    /// The client's how manieth.
    pub(crate) number: u64,
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered with its commit LSN.
    Answered {
        /// The commit LSN.
        lsn: Lsn,
        /// From the call of `commit` to its answer.
        latency_us: u64,
    },
    /// Unknown.
    Unknown,
    /// Refused.
    Refused,
}

/// A line of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    /// When.
    pub(crate) phase: Phase,
    /// Which.
    pub(crate) work: WorkId,
    /// How it ended.
    pub(crate) outcome: Outcome,
}

/// Writes the record. Each line is one `write` call, so that a killed process leaves whole lines but for the last.
#[derive(Debug)]
pub(crate) struct Recorder {
    file: File,
}

impl Recorder {
    /// Begins a record, or goes on with one.
    pub(crate) fn open(path: &Path) -> Result<Recorder> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Recorder { file })
    }

    /// Writes an answered commit.
    pub(crate) fn answered(
        &mut self,
        phase: Phase,
        work: WorkId,
        lsn: Lsn,
        latency_us: u64,
    ) -> Result<()> {
        self.write(&format!("A {} {lsn} {latency_us}\n", head(phase, work)))
    }

    /// Writes one that was not.
    pub(crate) fn failed(
        &mut self,
        phase: Phase,
        work: WorkId,
        unknown: bool,
        reason: &str,
    ) -> Result<()> {
        let letter = if unknown { 'U' } else { 'F' };
        let reason = reason.replace('\n', " ");
        self.write(&format!("{letter} {} {reason}\n", head(phase, work)))
    }

    fn write(&mut self, line: &str) -> Result<()> {
        self.file
            .write_all(line.as_bytes())
            .context("cannot write the record of answered commits")
    }
}

fn head(phase: Phase, work: WorkId) -> String {
    format!(
        "{} {} {} {}",
        phase.name(),
        work.kind.name(),
        work.client,
        work.number
    )
}

/// Reads a record. A last line without its end was cut by a kill: its commit was not counted either.
pub(crate) fn read(path: &Path) -> Result<Vec<Line>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .enumerate()
        .map(|(index, line)| {
            parse(line).with_context(|| format!("{} line {}", path.display(), index + 1))
        })
        .collect()
}

fn parse(line: &str) -> Result<Line> {
    let mut words = line.split(' ');
    let mut word = || words.next().context("too short");
    let letter = word()?;
    let phase = Phase::parse(word()?)?;
    let work = WorkId {
        kind: Kind::parse(word()?)?,
        client: word()?.parse()?,
        number: word()?.parse()?,
    };
    let outcome = match letter {
        "A" => Outcome::Answered {
            lsn: Lsn::new(word()?.parse()?),
            latency_us: word()?.parse()?,
        },
        "U" => Outcome::Unknown,
        "F" => Outcome::Refused,
        other => bail!("begins with {other:?}"),
    };
    Ok(Line {
        phase,
        work,
        outcome,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_a_cut_last_line_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let work = WorkId {
            kind: Kind::Transfer,
            client: 3,
            number: 7,
        };
        let mut recorder = Recorder::open(&path).unwrap();
        recorder
            .answered(Phase::Outage, work, Lsn::new(12), 345)
            .unwrap();
        recorder
            .failed(Phase::Crash, work, true, "no\nquorum")
            .unwrap();
        recorder.write("A crash put 1 2 3").unwrap();
        let lines = read(&path).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[0].outcome,
            Outcome::Answered {
                lsn: Lsn::new(12),
                latency_us: 345
            }
        );
        assert_eq!((lines[0].phase, lines[0].work), (Phase::Outage, work));
        assert_eq!(lines[1].outcome, Outcome::Unknown);
    }
}
