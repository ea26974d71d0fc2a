//! Sizes that a node meets in practice.

use sixfold_log_format::wire::Message;

use sixfold_log_format::Lsn;
use sixfold_log_format::wire::NodeStatus;

use crate::layers::{check_at, load, node_with, small};
use crate::shell::{Shell, found};
use crate::writer::{Writer, create};

fn large_node() -> Shell {
    let mut found = found(0);
    found.file_bytes = 8 << 20;
    found.bounds.group_bytes_max = 1 << 20;
    found.bounds.queued_bytes_max = 64 << 20;
    found.bounds.resident_redo_bytes_max = 256 << 20;
    found.bounds.page_cache_bytes_max = 0;
    let mut shell = Shell::with(found);
    create(&mut shell, 0);
    shell
}

/// 5,000 batches of 64 records, 8 of them on one hot page.
#[test]
fn a_page_with_forty_thousand_records_is_folded() {
    let mut shell = large_node();
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    for number in 0..5_000_u64 {
        let pages: Vec<u64> = (0..64)
            .map(|at| {
                if at % 8 == 0 {
                    2
                } else {
                    3 + (number * 56 + at) % 2_000
                }
            })
            .collect();
        let batch = writer.batch(&pages);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.take(stream);
        // Only the newest versions are looked at.
        for versions in writer.pages.values_mut() {
            let old = versions.len().saturating_sub(2);
            versions.drain(..old);
        }
    }
    shell.settle();
    writer.check_pages(&mut shell, 0, &[2], writer.prev);

    let mut shell = shell.crash(&|_| false);
    assert_eq!(shell.status().segments[0].scl, writer.prev);

    let next = writer.reopen(writer.batches[2_500].header().last, 3);
    assert!(matches!(shell.ask(next.claim(0)), Message::Census(_)));
    assert!(matches!(shell.ask(next.install(0)), Message::Installed(_)));
    assert_eq!(
        shell.status().segments[0].scl,
        next.prev.max(writer.batches[2_500].header().last)
    );
}

/// Each part of a node's memory, and its bound.
fn check_ledger(status: &NodeStatus, bounds: &sixfold_storage_node_core::Bounds) {
    let memory = &status.upkeep.memory;
    // What jobs hold: batches of a freeze, some chunks and blocks of each of two, what reads wait for.
    let work_bytes_max = bounds.freeze_bytes_max + (4 << 20);
    let parts = [
        ("index", memory.index_bytes, bounds.index_bytes_max as u64),
        (
            "redo",
            memory.redo_bytes,
            bounds.resident_redo_bytes_max as u64,
        ),
        ("queue", memory.queued_bytes, bounds.queued_bytes_max as u64),
        (
            "pages",
            memory.page_bytes,
            bounds.page_cache_bytes_max as u64,
        ),
        (
            "layers",
            memory.block_bytes + memory.layer_index_bytes,
            bounds.layer_cache_bytes_max as u64,
        ),
        ("work", memory.work_bytes, work_bytes_max),
    ];
    for (name, bytes, bytes_max) in parts {
        assert!(bytes <= bytes_max, "{name}: {bytes} of {bytes_max} bytes");
    }
    let all: u64 = parts.iter().map(|(_, bytes, _)| bytes).sum();
    assert!(all <= memory.limit_bytes, "{all} of {}", memory.limit_bytes);
}

#[test]
fn a_node_with_ten_times_its_memory_of_data_serves_everything_within_its_budget() {
    let mut found = small();
    found.bounds.index_bytes_max = 32 << 10;
    found.bounds.layer_cache_bytes_max = 16 << 10;
    found.file_bytes = 128 << 10;
    found.bounds.log_bytes_max = 1 << 20;
    let bounds = found.bounds.clone();
    let mut shell = node_with(found);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let budget = bounds.index_bytes_max
        + bounds.resident_redo_bytes_max
        + bounds.page_cache_bytes_max
        + bounds.layer_cache_bytes_max;
    let mut data = 0;
    for _ in 0..400 {
        load(&mut shell, &mut writer, stream, 10);
        let status = shell.status();
        check_ledger(&status, &bounds);
        data = status.segments[0].layer_bytes;
        if data >= 10 * budget as u64 {
            break;
        }
    }
    assert!(
        data >= 10 * budget as u64,
        "{data} bytes in layers, {budget} of memory"
    );
    assert_eq!(shell.status().segments[0].scl, writer.prev);
    // Every version of every page, as far apart as they lie.
    let count = writer.batches.len();
    for number in 0..200 {
        let at = writer.batches[number * 7_919 % count].header().last;
        check_at(&mut shell, &writer, at).unwrap();
        check_ledger(&shell.status(), &bounds);
    }
    check_at(&mut shell, &writer, Lsn::NONE).unwrap();
    let mut shell = shell.crash(&|_| false);
    shell.work();
    check_ledger(&shell.status(), &bounds);
    check_at(&mut shell, &writer, writer.prev).unwrap();
}

#[test]
fn files_of_very_small_batches_go_before_knowing_of_them_takes_too_much_memory() {
    let mut found = small();
    found.bounds.index_bytes_max = 64 << 10;
    found.bounds.log_bytes_max = 8 << 20;
    // They would be kept for a minute.
    found.bounds.log_window_bytes = 4 << 20;
    found.bounds.log_window = std::time::Duration::from_secs(60);
    let mut shell = node_with(found);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    for _ in 0..1_500 {
        let batch = writer.batch(&[2]);
        writer.ship(&mut shell, stream, &batch);
        writer.vdl = writer.prev;
        crate::layers::say_heartbeat(&mut shell, &mut writer, stream);
    }
    let status = shell.status();
    let start = status.segments[0].log_start;
    let held = writer
        .batches
        .iter()
        .filter(|batch| batch.header().last > start);
    let held = held.count();
    assert!((100..600).contains(&held), "{held} batches: {status:?}");
    check_at(&mut shell, &writer, writer.prev).unwrap();
    check_at(&mut shell, &writer, writer.batches[50].header().last).unwrap();
}
