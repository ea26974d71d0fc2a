//! The physical floor: an echo to the fourth of six daemons, and the fourth of six concurrent synced writes.

use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::{Hello, Message, Role};
use sixfold_storage_node_core::IoBuf;
use sixfold_transport::{Endpoint, Identity, TransportOptions};

use crate::bare_node::prepare_file;
use crate::latency::Latencies;

/// What is sent and written: one block.
const APPEND_BYTES: usize = 4096;
/// What a lone commit sends.
const ECHO_BYTES: usize = 512;
/// Which answer counts.
const QUORUM: usize = 4;

/// Sends 512 bytes to six daemons at once, `rounds` times, each round when the fourth answer of the one before is there.
///
/// # Errors
/// When a daemon cannot be reached.
pub async fn echo(
    identity: &Identity,
    options: &TransportOptions,
    nodes: &[(NodeId, SocketAddr)],
    rounds: usize,
) -> Result<Latencies> {
    let endpoint = Endpoint::client(identity, options)?;
    let mut links = Vec::new();
    for (node, address) in nodes {
        let hello = Hello::new(Role::Writer, *node, None);
        links.push(endpoint.connect(*address, hello).await?.0);
    }
    let mut latencies = Latencies::default();
    let message = Message::Echo(Bytes::from(vec![0x5a; ECHO_BYTES]));
    for _ in 0..rounds {
        let begun = Instant::now();
        let mut answers = tokio::task::JoinSet::new();
        for link in &links {
            let (link, message) = (link.clone(), message.clone());
            answers.spawn_local(async move { link.call(&message).await });
        }
        for _ in 0..QUORUM {
            answers
                .join_next()
                .await
                .context("fewer nodes than a quorum")?
                .context("an echo failed")??;
        }
        latencies.record(begun.elapsed());
        while let Some(answer) = answers.join_next().await {
            answer.context("an echo failed")??;
        }
    }
    endpoint.close().await;
    Ok(latencies)
}

/// Writes one block to six files at once (`O_DIRECT | O_DSYNC`, a thread each), `rounds` times; the fourth completion counts.
///
/// # Errors
/// When the file system says so.
pub fn append(dir: &Path, rounds: usize) -> Result<Latencies> {
    let (done, completions) = mpsc::channel();
    let mut starts = Vec::new();
    let mut threads = Vec::new();
    for index in 0..6 {
        let file = prepare_file(&dir.join(format!("append-{index}")))?;
        let (start, started) = mpsc::channel::<u64>();
        let done = done.clone();
        starts.push(start);
        threads.push(std::thread::spawn(move || {
            let block = IoBuf::zeroed(APPEND_BYTES);
            for round in started {
                let offset = round * APPEND_BYTES as u64 % (32 << 20);
                if done
                    .send(file.write_all_at(block.as_ref(), offset))
                    .is_err()
                {
                    break;
                }
            }
        }));
    }
    let mut latencies = Latencies::default();
    for round in 0..rounds {
        let begun = Instant::now();
        for start in &starts {
            start.send(round as u64).context("a writing thread ended")?;
        }
        for index in 0..starts.len() {
            completions
                .recv_timeout(Duration::from_secs(30))
                .context("a write hangs")?
                .context("a write failed")?;
            if index + 1 == QUORUM {
                latencies.record(begun.elapsed());
            }
        }
    }
    drop(starts);
    for thread in threads {
        if thread.join().is_err() {
            anyhow::bail!("a writing thread panicked");
        }
    }
    for index in 0..6 {
        std::fs::remove_file(dir.join(format!("append-{index}")))
            .context("cannot remove a file")?;
    }
    Ok(latencies)
}
