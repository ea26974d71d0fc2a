//! What each acknowledgment and each commit cost at the writer, without tree and network: PGCL of six SCLs, VDL of the seals, the queue
//! of commits that wait for it. CPU time.
//!
//! The queue is no public part of its crate: its file is compiled into this bench.
#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::cast_possible_truncation
)]

mod cpu;

#[path = "../../compute/core/src/commit_queue.rs"]
mod commit_queue;
#[path = "../../compute/core/src/due.rs"]
mod due;
mod event {
    pub(crate) use sixfold_compute_core::event::CommitTicket;
}

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sixfold_log_format::{
    Lsn, Member, MemberKind, NodeId, PgEntry, PgId, QuorumModel, SegmentId, SegmentSet,
};
use sixfold_recovery::points::VolumePoints;
use sixfold_recovery::quorum::pgcl;

use commit_queue::{CommitQueue, Queued};
use cpu::{CpuTime, short};
use event::CommitTicket;

const SEGMENTS: u8 = 6;

fn segment(number: u8) -> SegmentId {
    SegmentId::from_bytes([number; 16])
}

fn set() -> SegmentSet {
    SegmentSet {
        model: QuorumModel::FourOfSix,
        members: (1..=SEGMENTS)
            .map(|number| Member {
                segment: segment(number),
                node: NodeId::from_bytes([number; 16]),
                kind: MemberKind::Full,
                joining: false,
            })
            .collect(),
    }
}

fn entry(sets: usize) -> PgEntry {
    PgEntry {
        pg: PgId::ROOT,
        sets: vec![set(); sets],
        removed: Vec::new(),
    }
}

fn points(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("quorum points");
    group.throughput(Throughput::Elements(1));
    for sets in [1, 2] {
        let entry = entry(sets);
        let mut scls: Vec<(SegmentId, Lsn)> = (1..=SEGMENTS)
            .map(|number| (segment(number), Lsn::new(u64::from(number) * 100)))
            .collect();
        let mut round = 0;
        group.bench_function(BenchmarkId::new("PGCL of sets", sets), |bencher| {
            bencher.iter(|| {
                let at = round % scls.len();
                scls[at].1 = scls[at].1.plus(7);
                round += 1;
                pgcl(&entry, &|wanted| {
                    scls.iter()
                        .find(|(segment, _)| *segment == wanted)
                        .map_or(Lsn::NONE, |(_, scl)| *scl)
                })
            });
        });
    }
    let mut volume = VolumePoints::new(Lsn::NONE);
    group.bench_function("seal, and VDL over it", |bencher| {
        bencher.iter(|| {
            let point = volume.last_sealed().plus(64);
            volume.sealed(point, &[(PgId::ROOT, point)]);
            volume.advance(PgId::ROOT, point).unwrap()
        });
    });
    group.finish();
}

fn queue(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("commit queue");
    for waiting in [1_u64, 64, 1_024] {
        let mut queue = CommitQueue::default();
        let mut lsn = Lsn::NONE;
        group.throughput(Throughput::Elements(waiting));
        group.bench_function(BenchmarkId::new("push and answer", waiting), |bencher| {
            bencher.iter(|| {
                for number in 0..waiting {
                    lsn = lsn.next();
                    queue.push(Queued {
                        ticket: CommitTicket(number),
                        cpl: lsn,
                        minted: true,
                        deadline: Duration::from_secs(5),
                        user_bytes: 116,
                    });
                }
                while let Some(queued) = queue.pop_durable(lsn) {
                    black_box(queued);
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = short();
    targets = points, queue
}
criterion_main!(benches);
