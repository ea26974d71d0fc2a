//! What commits cost on the wire, at the writer.
//!
//! | figure | what is counted |
//! |---|---|
//! | wire bytes | IP packets over IPv4, sent and received by the writer's connections to all six nodes: the UDP payload, which QUIC counts, and 28 bytes of headers a datagram. Acknowledgments, heartbeats and handshakes are in it; the link layer is not |
//! | redo bytes | sealed batches with their headers, each counted once, not once a copy |
//! | user bytes | keys and values of answered commits |
//! | network writes | messages with redo on log streams: each sealed batch is one to every segment, six times what is sealed. It is the measure of Aurora's Table 1 (2017), where 0.95 includes the six copies. A message that was sent again to a lagging segment is not in it; the datagrams that all messages took are told beside it |

use std::cell::Cell;
use std::rc::Rc;

use anyhow::{Context, Result};
use serde::Serialize;
use sixfold::{Database, Stats};

use crate::draw::{KeyName, scattered};
use crate::pace::{Pace, run as run_paced};

/// What clients write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// New values for keys that are there, drawn evenly
    Update,
    /// New keys, ascending
    Ordered,
    /// New keys, in no order
    Random,
}

impl Load {
    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Load::Update => "update",
            Load::Ordered => "ordered",
            Load::Random => "random",
        }
    }

    /// The key of a commit, when `keys` are there before the run.
    fn key(self, number: u64, keys: u64) -> KeyName {
        // Far behind the keys that are there, so that none is put twice.
        const NEW: u64 = 100_000_000_000;
        match self {
            Load::Update => KeyName::of(scattered(number, keys)),
            Load::Ordered => KeyName::of(NEW + number),
            // An odd factor below a power of ten that it has no divisor in common with visits each number once.
            Load::Random => KeyName::of(NEW + number * 61_803_398_871 % NEW),
        }
    }
}

/// A run in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct WireRun {
    /// What was written.
    pub load: &'static str,
    /// Length of a value.
    pub value_bytes: usize,
    /// Clients, in a closed loop.
    pub clients: usize,
    /// Answered commits, one put each.
    pub commits: u64,
    /// Answered commits a second.
    pub commits_per_second: f64,
    /// IP bytes sent and received for each byte of redo.
    pub wire_bytes_per_redo_byte: f64,
    /// Of these: sent.
    pub sent_bytes_per_redo_byte: f64,
    /// Redo for each byte of keys and values.
    pub redo_bytes_per_user_byte: f64,
    /// Messages with redo to the six segments for each commit.
    pub network_writes_per_commit: f64,
    /// Datagrams sent for each commit.
    pub datagrams_per_commit: f64,
    /// Datagrams received for each commit.
    pub received_datagrams_per_commit: f64,
    /// Commits in a batch.
    pub commits_per_batch: f64,
}

/// Runs the clients on the calling thread (a `LocalSet` must be running). The keys `0..keys` must be there.
///
/// # Errors
/// When a commit fails: none may.
pub async fn run(
    database: &Database,
    load: Load,
    pace: Pace,
    value_bytes: usize,
    keys: u64,
) -> Result<WireRun> {
    let numbers = Rc::new(Cell::new(0_u64));
    let before = database.stats().await?;
    let paced = {
        let database = database.clone();
        let value: Rc<[u8]> = vec![0x5a; value_bytes].into();
        run_paced(pace, move |_, _| {
            let (database, value) = (database.clone(), Rc::clone(&value));
            let key = load.key(numbers.replace(numbers.get() + 1), keys);
            async move {
                let transaction = database.begin().await?;
                transaction.put(key, &value)?;
                transaction.commit().await.context("a commit failed")?;
                Ok(())
            }
        })
        .await?
    };
    let after = database.stats().await?;
    Ok(figures(
        load,
        pace,
        value_bytes,
        paced.per_second(),
        &before,
        &after,
    ))
}

fn figures(
    load: Load,
    pace: Pace,
    value_bytes: usize,
    commits_per_second: f64,
    before: &Stats,
    after: &Stats,
) -> WireRun {
    let of = |count: fn(&Stats) -> u64| count(after) - count(before);
    #[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
    let ratio = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let commits = of(|stats| stats.writer.commits);
    let redo_bytes = of(|stats| stats.writer.redo_bytes);
    let batches = of(|stats| stats.writer.batches);
    let segments = after.writer.relations.len() as u64;
    WireRun {
        load: load.name(),
        value_bytes,
        clients: pace.clients,
        commits,
        commits_per_second,
        wire_bytes_per_redo_byte: ratio(of(Stats::ip_bytes), redo_bytes),
        sent_bytes_per_redo_byte: ratio(
            of(|stats| stats.wire.sent_bytes + 28 * stats.wire.sent_datagrams),
            redo_bytes,
        ),
        redo_bytes_per_user_byte: ratio(redo_bytes, of(|stats| stats.writer.user_bytes)),
        network_writes_per_commit: ratio(batches * segments, commits),
        datagrams_per_commit: ratio(of(|stats| stats.wire.sent_datagrams), commits),
        received_datagrams_per_commit: ratio(of(|stats| stats.wire.received_datagrams), commits),
        commits_per_batch: ratio(commits, batches),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn new_keys_are_new_and_updated_ones_are_there() {
        for load in [Load::Ordered, Load::Random] {
            let keys: BTreeSet<Vec<u8>> = (0..100_000)
                .map(|number| load.key(number, 1_000).as_ref().to_vec())
                .collect();
            assert_eq!(keys.len(), 100_000);
            assert!(keys.first().unwrap().as_slice() >= KeyName::of(1_000).as_ref());
        }
        let updated: BTreeSet<Vec<u8>> = (0..100_000)
            .map(|number| Load::Update.key(number, 1_000).as_ref().to_vec())
            .collect();
        assert_eq!(updated.len(), 1_000);
        assert!(updated.last().unwrap().as_slice() < KeyName::of(1_000).as_ref());
    }
}
