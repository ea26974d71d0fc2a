//! Reads of pages that are not in the writer's cache, and the floor below them: a round trip to one node, then one read of the device.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use sixfold::Database;
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::{Hello, Message, Role};
use sixfold_transport::{Endpoint, Identity, TransportOptions};

use crate::draw::{Dice, KeyName};
use crate::latency::Latencies;
use crate::node::Plain;

/// What a page request is, about, bytes.
const ECHO_BYTES: usize = 128;
/// What is read of the device: a page.
const PAGE_BYTES: u32 = 8_192;

/// What the reads were.
#[derive(Debug, Clone)]
pub struct MissRun {
    /// Of each read, hit or miss.
    pub latencies: Latencies,
    /// Pages that were fetched for a read.
    pub fetches_per_read: f64,
}

/// Gets `reads` keys at random of `0..keys`, one after the other.
///
/// # Errors
/// When a read fails, or finds nothing.
pub async fn reads(database: &Database, keys: u64, reads: u32) -> Result<MissRun> {
    let mut dice = Dice::new(7);
    let mut latencies = Latencies::default();
    let before = database.stats().await?.writer.fetches;
    for _ in 0..reads {
        let key = KeyName::of(dice.below(keys));
        let begun = Instant::now();
        let snapshot = database.snapshot();
        let found = snapshot.get(&key).await?;
        latencies.record(begun.elapsed());
        found.context("a key that was put is not there")?;
    }
    let fetches = database.stats().await?.writer.fetches - before;
    Ok(MissRun {
        latencies,
        #[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
        fetches_per_read: fetches as f64 / f64::from(reads.max(1)),
    })
}

/// A message to one node and back, then one page from a file in `dir`, `rounds` times; both together count.
///
/// # Errors
/// When the node cannot be reached, or the device fails.
pub async fn floor(
    identity: &Identity,
    options: &TransportOptions,
    (node, address): (NodeId, SocketAddr),
    dir: &Path,
    rounds: u32,
) -> Result<Latencies> {
    let endpoint = Endpoint::client(identity, options)?;
    let hello = Hello::new(Role::Writer, node, None);
    let (link, _) = endpoint.connect(address, hello).await?;
    let path = dir.join("floor");
    let mut plain = Plain::new(&path)?;
    let mut dice = Dice::new(7);
    let mut latencies = Latencies::default();
    let message = Message::Echo(Bytes::from(vec![0x5a; ECHO_BYTES]));
    for _ in 0..rounds {
        let begun = Instant::now();
        link.call(&message).await?;
        plain.read(dice.roll(), PAGE_BYTES).await?;
        latencies.record(begun.elapsed());
    }
    endpoint.close().await;
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(latencies)
}
