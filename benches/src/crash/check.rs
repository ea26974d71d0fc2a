//! The check after a cycle: every answered commit against the reopened volume. Whole, where and as it was answered.

use std::collections::BTreeMap;

use anyhow::Result;
use sixfold::{Lsn, Snapshot, prefix};

use super::work::{Mark, Outcome, PLACES, Record, numbers_of, rows_of};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Commits answered.
    pub answered: u64,
    /// Of those, not there.
    pub lost: u64,
    /// There in part, or other than it was written, or at another LSN, or there although it was refused, or by nobody.
    pub torn: u64,
    /// Commits of unknown outcome that are there.
    pub unknown_found: u64,
    /// What was found wrong first.
    pub first: Option<String>,
}

impl Findings {
    fn lost(&mut self, what: impl FnOnce() -> String) {
        self.lost += 1;
        self.first.get_or_insert_with(what);
    }

    fn torn(&mut self, what: impl FnOnce() -> String) {
        self.torn += 1;
        self.first.get_or_insert_with(what);
    }

    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.torn == 0
    }

    /// Both together.
    pub fn add(&mut self, other: Findings) {
        self.answered += other.answered;
        self.lost += other.lost;
        self.torn += other.torn;
        self.unknown_found += other.unknown_found;
        self.first = self.first.take().or(other.first);
    }
}

/// What stands in the volume of a cycle's commits.
#[derive(Debug, Default)]
pub struct Seen {
    /// The commit LSN of each row, by place.
    pub(crate) rows: BTreeMap<(u32, u64), [Option<Lsn>; PLACES.len()]>,
    /// Each client's last number.
    pub(crate) last: BTreeMap<u32, u64>,
}

/// Reads the commits of a cycle. What nobody can have written is found at once.
///
/// # Errors
/// When the volume cannot be read.
pub async fn read(snapshot: &Snapshot, cycle: u32, findings: &mut Findings) -> Result<Seen> {
    let mut seen = Seen::default();
    for (index, place) in PLACES.into_iter().enumerate() {
        let start = rows_of(place, cycle);
        let mut rows = snapshot.range(prefix(&start));
        while let Some((key, value, lsn)) = rows.next_versioned().await? {
            match Mark::of_row(cycle, &key[start.len()..]) {
                Some(mark) if value[..] == mark.value(place)[..] => {
                    let row = seen.rows.entry((mark.client, mark.number)).or_default();
                    row[index] = Some(lsn);
                }
                _ => findings.torn(|| format!("{key:?} at {lsn} holds what nobody wrote")),
            }
        }
    }
    let start = numbers_of(cycle);
    let mut numbers = snapshot.range(prefix(&start));
    while let Some((key, value)) = numbers.next().await? {
        let client = std::str::from_utf8(&key[start.len()..]).ok();
        let client = client.and_then(|text| text.parse().ok());
        match (client, <[u8; 8]>::try_from(&value[..])) {
            (Some(client), Ok(number)) => {
                seen.last.insert(client, u64::from_le_bytes(number));
            }
            _ => findings.torn(|| format!("{key:?} holds what nobody wrote")),
        }
    }
    Ok(seen)
}

/// Compares what is there with what was said.
pub fn compare(seen: &Seen, record: &Record, cycle: u32, findings: &mut Findings) {
    let said: BTreeMap<u32, &[Outcome]> = record.of_cycle(cycle).collect();
    for (&client, outcomes) in &said {
        for (number, outcome) in (0_u64..).zip(outcomes.iter()) {
            let there = seen.rows.get(&(client, number));
            let name = || format!("cycle {cycle}, client {client}, commit {number}");
            match (outcome, there) {
                (Outcome::Answered(lsn), there) => {
                    findings.answered += 1;
                    match there {
                        None => {
                            findings.lost(|| format!("{}, answered at {lsn}, is lost", name()));
                        }
                        Some(row) if row.iter().all(|one| one == &Some(*lsn)) => {}
                        // A half that is there is judged below.
                        Some(row) if row.contains(&None) => {}
                        Some(row) => findings
                            .torn(|| format!("{}, answered at {lsn}, is at {row:?}", name())),
                    }
                }
                (Outcome::Unknown, there) => findings.unknown_found += u64::from(there.is_some()),
                (Outcome::Refused, None) => {}
                (Outcome::Refused, Some(row)) => {
                    findings.torn(|| format!("{} was refused and is there: {row:?}", name()));
                }
            }
        }
    }
    let mut highest: BTreeMap<u32, u64> = BTreeMap::new();
    for (&(client, number), row) in &seen.rows {
        highest.insert(client, number);
        let whole = row.iter().all(|one| one.is_some() && one == &row[0]);
        if !whole {
            findings.torn(|| {
                format!("cycle {cycle}, client {client}, commit {number} is there in part: {row:?}")
            });
        }
        // A kill keeps one outcome from being said: the next one's.
        let sayable = said
            .get(&client)
            .map_or(0, |outcomes| outcomes.len() as u64);
        if number > sayable {
            findings.torn(|| {
                format!("cycle {cycle}, client {client}, commit {number} was never tried")
            });
        }
    }
    if highest != seen.last {
        findings.torn(|| {
            let last = &seen.last;
            format!("cycle {cycle}: the clients' last rows are {highest:?}, their numbers {last:?}")
        });
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod check_tests;
