//! A lone synced 4 KiB append through rings of each setup, beside a plain `pwrite`, on the same pre-zeroed file, in turns.
//!
//! `cargo run --release -p sixfold-storage-node --example append -- [DIR] [ROUNDS]`

#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sixfold_storage_node::open_synced;
use sixfold_storage_node::uring::{Completion, Ring, Setup};
use sixfold_storage_node_core::{DiskToken, IoBuf};

const BLOCK_BYTES: usize = 4096;
const FILE_BYTES: u64 = 64 << 20;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments
        .next()
        .map_or_else(|| std::env::current_dir().unwrap(), PathBuf::from);
    let rounds: usize = arguments
        .next()
        .map_or(10_000, |text| text.parse().unwrap());
    let path = directory.join(format!("append-{}.tmp", std::process::id()));
    let file = prepare(&path);
    std::fs::remove_file(&path).unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut plain = Vec::with_capacity(rounds);
    let setups = [Setup::Cooperative, Setup::Deferred, Setup::Plain];
    let mut rings: Vec<(Setup, Vec<Duration>)> = setups
        .into_iter()
        .map(|setup| (setup, Vec::new()))
        .collect();
    // In turns, so that a noisy neighbor disturbs both.
    const TURN: usize = 500;
    let mut block = 0;
    while plain.len() < rounds {
        for _ in 0..TURN {
            plain.push(append_plain(&file, offset(&mut block)));
        }
        for (setup, samples) in &mut rings {
            match Ring::with(*setup) {
                Ok(ring) => runtime.block_on(append_ring(ring, &file, &mut block, TURN, samples)),
                Err(error) => println!("{setup:?}: {error}"),
            }
        }
    }
    report("pwrite O_DIRECT|O_DSYNC", &mut plain);
    for (setup, samples) in rings.iter_mut().filter(|(_, samples)| !samples.is_empty()) {
        report(&format!("io_uring in the reactor, {setup:?}"), samples);
    }
}

fn prepare(path: &std::path::Path) -> Rc<File> {
    File::create_new(path).unwrap();
    let file = open_synced(path).unwrap();
    let zeros = IoBuf::zeroed(1 << 20);
    for offset in (0..FILE_BYTES).step_by(1 << 20) {
        file.write_all_at(zeros.as_ref(), offset).unwrap();
    }
    Rc::new(file)
}

fn offset(block: &mut u64) -> u64 {
    *block = (*block + 1) % (FILE_BYTES / BLOCK_BYTES as u64);
    *block * BLOCK_BYTES as u64
}

fn append_plain(file: &File, offset: u64) -> Duration {
    let bytes = IoBuf::copy_of(&[1; BLOCK_BYTES]);
    let started = Instant::now();
    file.write_all_at(bytes.as_ref(), offset).unwrap();
    started.elapsed()
}

async fn append_ring(
    mut ring: Ring,
    file: &Rc<File>,
    block: &mut u64,
    count: usize,
    into: &mut Vec<Duration>,
) {
    let watch = ring.watch().unwrap();
    let mut ended = Vec::new();
    for _ in 0..count {
        let bytes = IoBuf::copy_of(&[2; BLOCK_BYTES]);
        let started = Instant::now();
        ring.write(DiskToken(1), Rc::clone(file), offset(block), bytes);
        ring.submit().unwrap();
        while ended.is_empty() {
            watch.signaled().await.unwrap();
            ring.reap(&mut ended).unwrap();
        }
        into.push(started.elapsed());
        assert!(matches!(
            ended.pop(),
            Some(Completion::Written { result: Ok(()), .. })
        ));
    }
}

fn report(what: &str, samples: &mut [Duration]) {
    samples.sort_unstable();
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize].as_micros();
    println!(
        "{what}: n={} p50 {} us, p99 {} us, p99.9 {} us",
        samples.len(),
        at(0.5),
        at(0.99),
        at(0.999)
    );
}
