//! What counting costs a commit: `cargo bench -p sixfold-benches --bench metrics`.
//!
//! A commit is counted in four histograms (`commit`, `seal`, `quorum`, `wake`) and once more for each of its six segments (`ship`), and looks at the clock twice for
//! them. All of it happens beside fsyncs and network: what is measured here is the processor's time alone.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use sixfold_metrics::Histogram;

/// Parts of a commit that are counted once, and those that are counted for each segment.
const PARTS: usize = 4;
const SEGMENTS: usize = 6;

fn counted(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics");
    let one = Histogram::default();
    group.bench_function("one duration is counted", |bencher| {
        bencher.iter(|| one.count(black_box(Duration::from_micros(730))));
    });
    let parts: [Histogram; PARTS] = Default::default();
    let ship = Histogram::default();
    let commit = || {
        let begun = Instant::now();
        for part in &parts {
            part.count(black_box(Duration::from_micros(730)));
        }
        for _ in 0..SEGMENTS {
            ship.count(black_box(Duration::from_micros(90)));
        }
        black_box(begun.elapsed())
    };
    group.bench_function("all of one commit", |bencher| bencher.iter(commit));

    // Another thread that counts into the same lines of the cache, as callers and the writer's thread do.
    let shared = Arc::new(Histogram::default());
    let stopped = Arc::new(AtomicBool::new(false));
    let other = {
        let (shared, stopped) = (Arc::clone(&shared), Arc::clone(&stopped));
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                shared.count(Duration::from_micros(730));
            }
        })
    };
    group.bench_function("one duration beside a thread that only counts", |bencher| {
        bencher.iter(|| shared.count(black_box(Duration::from_micros(730))));
    });
    stopped.store(true, Ordering::Relaxed);
    other.join().expect("it only counts");
    group.finish();
}

criterion_group!(benches, counted);
criterion_main!(benches);
