//! The bytes of the log: records into a batch and out again, onto pages, the checksum over them, groups of the hot log.
//!
//! A record puts a 100-byte value into a leaf, 64 records make a batch, as under load. CPU time.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::cast_possible_truncation
)]

mod cpu;

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sixfold_log_format::checksum::checksum;
use sixfold_log_format::hot_log::{Entry, FileHeader, FileNumber, decode_group, encode_group};
use sixfold_log_format::wire::{Append, Message};
use sixfold_log_format::{
    Batch, BatchBuilder, Cell, CellFlags, Lsn, MembershipEpoch, NodeId, Op, Page, PageId, PageKind,
    PgId, Record, SegmentId, Stamp, VolumeEpoch, VolumeId, apply,
};

use cpu::{CpuTime, short};

const PAGE_BYTES: usize = 8_192;
const VALUE_BYTES: usize = 100;
const RECORDS_PER_BATCH: u64 = 64;
const VOLUME: VolumeId = VolumeId::from_bytes([1; 16]);
const SEGMENT: SegmentId = SegmentId::from_bytes([2; 16]);

fn builder() -> BatchBuilder {
    BatchBuilder::new(VOLUME, PgId::ROOT, VolumeEpoch::new(1), Lsn::new(1))
}

/// The first record of each page makes it a leaf; those after put into it.
fn records(value: &[u8], pages: u64) -> Vec<Record<'_>> {
    let (mut lsn, mut records) = (Lsn::new(1), Vec::new());
    for page in 1..=pages {
        lsn = lsn.next();
        records.push(Record {
            lsn,
            page: PageId::new(page),
            page_prev: Lsn::NONE,
            cpl: lsn,
            user_visible: false,
            op: Op::Init {
                kind: PageKind::Leaf,
                level: 0,
            },
        });
    }
    for index in 0..RECORDS_PER_BATCH - pages {
        let page = index % pages + 1;
        let prev = records
            .iter()
            .rev()
            .find(|record| record.page == PageId::new(page))
            .map_or(Lsn::NONE, |record| record.lsn);
        lsn = lsn.next();
        records.push(Record {
            lsn,
            page: PageId::new(page),
            page_prev: prev,
            cpl: lsn,
            user_visible: true,
            op: Op::Insert {
                slot: u16::try_from(index / pages).unwrap(),
                cell: Cell {
                    key: format!("key/{index:012}").into_bytes().into(),
                    value: value.into(),
                    stamp: Stamp::Commit,
                    flags: CellFlags::PLAIN,
                    deadline_ms: None,
                },
            },
        });
    }
    records
}

fn sealed(records: &[Record<'_>]) -> Batch {
    let mut builder = builder();
    for record in records {
        assert!(builder.push(record));
    }
    builder.seal(Lsn::new(1), 1)
}

fn batches(criterion: &mut Criterion<CpuTime>) {
    let value = [7; VALUE_BYTES];
    let records = records(&value, 4);
    let batch = sealed(&records);
    let mut group = criterion.benchmark_group("batch of 64 records");
    group.throughput(Throughput::Elements(RECORDS_PER_BATCH));
    group.bench_function("encode and seal", |bencher| {
        let mut builder = builder();
        bencher.iter_batched(
            || (),
            |()| {
                for record in &records {
                    black_box(builder.push(record));
                }
                let sealed = builder.seal(Lsn::new(1), 1);
                builder = self::builder();
                sealed
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| Batch::decode(batch.bytes().clone(), VOLUME).unwrap());
    });
    group.bench_function("walk", |bencher| {
        bencher.iter(|| {
            batch
                .records()
                .map(|placed| black_box(placed.record).lsn.get())
                .sum::<u64>()
        });
    });
    group.bench_function("apply to 4 pages", |bencher| {
        let empty: Vec<Page> = (1..=4)
            .map(|page| Page::new(PageId::new(page), PAGE_BYTES))
            .collect();
        bencher.iter_batched_ref(
            || empty.clone(),
            |pages| {
                for record in &records {
                    let index = record.page.get() as usize - 1;
                    apply(&mut pages[index], record).unwrap();
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("message to a node", |bencher| {
        bencher.iter(|| {
            Message::Append(Append {
                sequence: 1,
                membership_epoch: MembershipEpoch::new(1),
                pgmrpl: Lsn::NONE,
                pgmrpl_lease_ms: 0,
                batch: batch.bytes().clone(),
            })
            .encode()
        });
    });
    group.finish();
}

fn checksums(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("checksum");
    for length in [64, 512, 4_096, 65_536] {
        let bytes = vec![0x5a; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| checksum(b"seed", black_box(&bytes)));
        });
    }
    group.finish();
}

fn hot_log(criterion: &mut Criterion<CpuTime>) {
    let value = [7; VALUE_BYTES];
    let batch = sealed(&records(&value, 4));
    let header = FileHeader {
        node: NodeId::from_bytes([3; 16]),
        file: FileNumber(1),
        block_bytes: 4_096,
        first_sequence: 1,
        folded: FileNumber(0),
    };
    let mut group = criterion.benchmark_group("hot-log group");
    for count in [1, 4] {
        let entry = || Entry::Batch {
            segment: SEGMENT,
            bytes: batch.bytes().clone(),
        };
        let entries: Vec<Entry> = (0..count).map(|_| entry()).collect();
        let mut out = Vec::new();
        encode_group(&mut out, &header, 1, &entries);
        let bytes = bytes::Bytes::from(out.clone());
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("encode", count), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode_group(&mut out, &header, 1, &entries)
            });
        });
        group.bench_function(BenchmarkId::new("decode", count), |bencher| {
            bencher.iter(|| decode_group(&bytes, &header));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = short();
    targets = batches, checksums, hot_log
}
criterion_main!(benches);
