//! What a commit of the crash suite writes, what its process says of it, and the record of that outside of the engine.
//!
//! A commit puts one row in each of two places that share no page, and its number under the client's name. Who it is of and which number
//! it has decides every byte, so that a line is enough to check it:
//!
//! ```text
//! A <client> <number> <lsn>      answered
//! U <client> <number>            nobody knows
//! F <client> <number>            refused: certainly not done
//! ```
//! A client counts its commits from 0 and waits for each: what a kill keeps from being said is its next number, and no other.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use sixfold::Lsn;

/// Shortest value, bytes.
const VALUE_BYTES_MIN: u64 = 64;
/// How much longer values are at most, bytes.
const VALUE_BYTES_SPAN: u64 = 1_400;

/// Names a commit in all cycles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The cycle.
    pub cycle: u32,
    /// The client; no other process of the run has one of this number.
    pub client: u32,
    /// The client's how manieth.
    pub number: u64,
}

/// The two places.
pub const PLACES: [char; 2] = ['a', 'b'];

/// Where the rows of a cycle begin in a place.
pub fn rows_of(place: char, cycle: u32) -> String {
    format!("crash/{place}/{cycle:06}/")
}

/// Where the numbers of a cycle's clients begin.
pub fn numbers_of(cycle: u32) -> String {
    format!("crash/n/{cycle:06}/")
}

impl Mark {
    /// Its row in a place.
    pub fn row(self, place: char) -> String {
        let (client, number) = (self.client, self.number);
        format!("{}{client:06}/{number:010}", rows_of(place, self.cycle))
    }

    /// Client and number from what stands behind [`rows_of`].
    pub fn of_row(cycle: u32, rest: &[u8]) -> Option<Mark> {
        let (client, number) = std::str::from_utf8(rest).ok()?.split_once('/')?;
        Some(Mark {
            cycle,
            client: client.parse().ok()?,
            number: number.parse().ok()?,
        })
    }

    /// The key under which its client keeps the number of its last commit.
    pub fn last(self) -> String {
        format!("{}{:06}", numbers_of(self.cycle), self.client)
    }

    /// What its row holds: bytes that nothing else writes.
    pub fn value(self, place: char) -> Vec<u8> {
        let seed = u64::from(self.cycle) << 40 ^ u64::from(self.client) << 8 ^ u64::from(place);
        let mut state = mix(mix(seed) ^ self.number);
        let length = VALUE_BYTES_MIN + state % VALUE_BYTES_SPAN;
        let length = usize::try_from(length).expect("a value is short");
        let mut value = Vec::with_capacity(length + 8);
        while value.len() < length {
            state = mix(state);
            value.extend_from_slice(&state.to_le_bytes());
        }
        value.truncate(length);
        value
    }
}

/// A 64-bit mixer (splitmix64).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How a commit ended, as its process said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, with its commit LSN.
    Answered(Lsn),
    /// Nobody knows.
    Unknown,
    /// Certainly not done.
    Refused,
}

/// What a process says of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// The client.
    pub client: u32,
    /// Its how manieth.
    pub number: u64,
    /// How it ended.
    pub outcome: Outcome,
}

impl Said {
    /// The line.
    pub fn line(self) -> String {
        let Said { client, number, .. } = self;
        match self.outcome {
            Outcome::Answered(lsn) => format!("A {client} {number} {}", lsn.get()),
            Outcome::Unknown => format!("U {client} {number}"),
            Outcome::Refused => format!("F {client} {number}"),
        }
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When it is no such line, as one that was cut by a kill.
    pub fn parse(line: &str) -> Result<Said> {
        let mut words = line.split(' ');
        let mut word = || words.next().context("a line that is too short");
        let letter = word()?;
        let (client, number) = (word()?.parse()?, word()?.parse()?);
        let outcome = match letter {
            "A" => Outcome::Answered(Lsn::new(word()?.parse()?)),
            "U" => Outcome::Unknown,
            "F" => Outcome::Refused,
            other => bail!("a line begins with {other:?}"),
        };
        Ok(Said {
            client,
            number,
            outcome,
        })
    }
}

/// Everything that was said, by cycle and client, in the order of the numbers.
#[derive(Debug, Default)]
pub struct Record {
    said: BTreeMap<(u32, u32), Vec<Outcome>>,
}

impl Record {
    /// Notes what was said.
    ///
    /// # Errors
    /// When it is out of turn.
    pub fn note(&mut self, cycle: u32, said: Said) -> Result<()> {
        let outcomes = self.said.entry((cycle, said.client)).or_default();
        ensure!(
            outcomes.len() as u64 == said.number,
            "client {} says {} after {} others",
            said.client,
            said.number,
            outcomes.len()
        );
        outcomes.push(said.outcome);
        Ok(())
    }

    /// What the clients of a cycle said.
    pub fn of_cycle(&self, cycle: u32) -> impl Iterator<Item = (u32, &[Outcome])> {
        let found = self.said.range((cycle, 0)..=(cycle, u32::MAX));
        found.map(|((_, client), outcomes)| (*client, outcomes.as_slice()))
    }

    /// How many commits of a cycle ended so.
    pub fn count(&self, cycle: u32, is: impl Fn(&Outcome) -> bool) -> u64 {
        let all = self.of_cycle(cycle).flat_map(|(_, outcomes)| outcomes);
        all.filter(|outcome| is(outcome)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_and_a_cut_one_does_not() {
        for outcome in [
            Outcome::Answered(Lsn::new(77)),
            Outcome::Unknown,
            Outcome::Refused,
        ] {
            let said = Said {
                client: 3,
                number: 12,
                outcome,
            };
            assert_eq!(Said::parse(&said.line()).unwrap(), said);
        }
        assert!(Said::parse("A 3 12").is_err());
        assert!(Said::parse("A").is_err());
        assert!(Said::parse("").is_err());
    }

    #[test]
    fn a_row_names_its_commit_and_no_two_hold_the_same() {
        let mark = Mark {
            cycle: 4,
            client: 5,
            number: 6,
        };
        let row = mark.row('a');
        let rest = row.strip_prefix(&rows_of('a', 4)).unwrap();
        assert_eq!(Mark::of_row(4, rest.as_bytes()), Some(mark));
        let other = Mark { number: 7, ..mark };
        assert_ne!(mark.value('a'), mark.value('b'));
        assert_ne!(mark.value('a'), other.value('a'));
    }

    #[test]
    fn what_is_said_out_of_turn_is_no_record() {
        let mut record = Record::default();
        let said = |number| Said {
            client: 1,
            number,
            outcome: Outcome::Unknown,
        };
        record.note(0, said(0)).unwrap();
        record.note(0, said(1)).unwrap();
        assert!(record.note(0, said(3)).is_err());
        record.note(1, said(0)).unwrap();
        assert_eq!(record.count(0, |one| *one == Outcome::Unknown), 2);
    }
}
