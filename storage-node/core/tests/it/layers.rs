//! Layers: freezes, merges, collection, trimming, and what a crash leaves of each.

use std::time::Duration;

use sixfold_log_format::hot_log::FileNumber;
use sixfold_log_format::wire::{Message, PageAnswer, Refusal};
use sixfold_log_format::{Lsn, Page, PageId};
use sixfold_storage_node_core::StreamKey;

use crate::shell::{BLOCK, Shell, found};
use crate::writer::{PAGE_BYTES, Writer, create, refusal};

pub const PAGES: [u64; 8] = [2, 3, 4, 5, 6, 7, 8, 9];

/// A node that freezes, merges and trims early.
pub fn small() -> sixfold_storage_node_core::FoundDirectory {
    let mut found = found(0);
    found.file_bytes = 32 << 10;
    let bounds = &mut found.bounds;
    bounds.resident_redo_bytes_max = 8 << 10;
    bounds.page_cache_bytes_max = 2 << 10;
    bounds.index_bytes_max = 1 << 20;
    bounds.unfolded_bytes_max = 16 << 10;
    bounds.freeze_bytes_max = 4 << 10;
    bounds.layer_cache_bytes_max = 32 << 10;
    bounds.layer_bytes_max = 8 << 10;
    bounds.chain_records_max = 4;
    bounds.chain_bytes_max = 1 << 10;
    bounds.runs_max = 6;
    bounds.log_window_bytes = 64 << 10;
    bounds.log_window = Duration::ZERO;
    bounds.log_bytes_max = 320 << 10;
    bounds.background_bytes_per_second = 0;
    bounds.scrub_bytes = 4 << 10;
    found
}

pub fn node_with(found: sixfold_storage_node_core::FoundDirectory) -> Shell {
    let mut shell = Shell::with(found);
    create(&mut shell, 0);
    shell
}

/// Ships batches; what was shipped is durable everywhere at once.
pub fn load(shell: &mut Shell, writer: &mut Writer, stream: StreamKey, batches: u64) {
    for number in 0..batches {
        let pages: Vec<u64> = (0..1 + number % 7)
            .map(|at| PAGES[((number + at) % 8) as usize])
            .collect();
        let batch = writer.batch(&pages);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.settle();
        assert!(writer.prev == batch.header().last);
        writer.vdl = writer.prev;
        say_heartbeat(shell, writer, stream);
    }
}

pub fn say_heartbeat(shell: &mut Shell, writer: &mut Writer, stream: StreamKey) {
    let heartbeat = writer.heartbeat();
    shell.say(stream, heartbeat);
    shell.pass(Duration::from_millis(3));
    shell.take(stream);
}

/// Reads every page at `at`: all as they must be, or all forgotten.
pub fn check_at(shell: &mut Shell, writer: &Writer, at: Lsn) -> Result<(), Lsn> {
    let message = writer.read(0, &PAGES, at, writer.prev);
    let stream = shell.open_stream();
    shell.say(stream, message);
    let mut answers = shell.take(stream);
    for _ in 0..10_000 {
        if !answers.is_empty() {
            break;
        }
        assert!(shell.turn() || shell.complete_write() || shell.complete_layer_op());
        answers = shell.take(stream);
    }
    let Some(Message::Pages(answer)) = answers.pop() else {
        panic!("{answers:?} at {at}: {:?}", shell.logged)
    };
    for (page, answer) in PAGES.iter().zip(answer.pages) {
        match answer {
            PageAnswer::Page(bytes) => {
                let found = Page::decode(&bytes, PageId::new(*page), PAGE_BYTES).unwrap();
                assert_eq!(found, writer.page_at(*page, at), "page {page} at {at}");
            }
            PageAnswer::Refused(Refusal::Forgotten { horizon }) => {
                assert!(at < horizon);
                return Err(horizon);
            }
            PageAnswer::Refused(other) => panic!("{other:?} at {at}"),
        }
    }
    Ok(())
}

pub fn check_all(shell: &mut Shell, writer: &Writer, from: Lsn) {
    let lsns: Vec<Lsn> = writer
        .pages
        .values()
        .flatten()
        .map(Page::lsn)
        .filter(|lsn| *lsn >= from)
        .collect();
    for lsn in lsns {
        check_at(shell, writer, lsn).unwrap();
    }
}

#[test]
fn what_is_frozen_is_read_as_before_at_every_lsn() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 600);
    let status = shell.status();
    assert!(
        status.upkeep.freezes > 5 && status.upkeep.merges > 0,
        "{status:?}"
    );
    let segment = &status.segments[0];
    assert!(segment.folded_through > Lsn::NONE && segment.layer_count > 0);
    assert_eq!(segment.horizon, Lsn::NONE, "somebody reads at 0");
    check_all(&mut shell, &writer, Lsn::NONE);
    // And after a restart, from what is on disk.
    let mut shell = shell.crash(&|_| false);
    shell.work();
    check_all(&mut shell, &writer, Lsn::NONE);
    assert!(shell.errors().is_empty(), "{:?}", shell.logged);
}

#[test]
fn nothing_above_the_highest_vdl_seen_is_frozen() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let opened = writer.vdl;
    for number in 0..400 {
        let batch = writer.batch(&[2 + number % 8, 3]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.work();
    }
    let status = shell.status();
    assert!(status.segments[0].folded_through <= opened);
    // A bound is reached: the writer is told, before anything breaks.
    let full = shell.take(stream).into_iter().any(|message| match message {
        Message::Ack(ack) => ack.slow,
        Message::Refused(refusal) => refusal == Refusal::Overloaded,
        _ => false,
    });
    assert!(full);
}

#[test]
fn endless_load_with_a_small_retention_stays_flat() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let mut peak = (0, 0, 0);
    let mut half = peak;
    for round in 0..60 {
        load(&mut shell, &mut writer, stream, 50);
        writer.pgmrpl = writer.prev.checked_minus(100).unwrap();
        for versions in writer.pages.values_mut() {
            let keep = versions.len().saturating_sub(200);
            versions.drain(..keep);
        }
        say_heartbeat(&mut shell, &mut writer, stream);
        let layer_bytes: usize = shell.layers.values().map(|file| file.bytes.len()).sum();
        let now = (shell.files.len(), shell.layers.len(), layer_bytes);
        peak = (peak.0.max(now.0), peak.1.max(now.1), peak.2.max(now.2));
        if round == 30 {
            half = peak;
        }
        check_at(&mut shell, &writer, writer.prev).unwrap();
        check_at(&mut shell, &writer, writer.pgmrpl).unwrap();
    }
    assert!(peak.0 <= 10, "{} hot-log files", peak.0);
    assert!(peak.2 <= half.2 * 3 / 2, "{half:?} {peak:?}");
    let status = shell.status();
    assert!(status.segments[0].horizon > Lsn::new(1_000), "{status:?}");
    let old = Lsn::new(1_010);
    assert!(check_at(&mut shell, &writer, old).is_err());
    assert!(!shell.files.contains_key(&FileNumber(1)));
    // What is left is enough for a restart.
    let mut shell = shell.crash(&|_| false);
    shell.work();
    assert_eq!(shell.status().segments[0].scl, writer.prev);
    check_at(&mut shell, &writer, writer.prev).unwrap();
    let horizon = shell.status().segments[0].horizon;
    assert_eq!(horizon, status.segments[0].horizon, "it never falls");
}

#[test]
fn a_crash_at_any_write_of_freeze_merge_and_catalog_leaves_the_old_or_the_new() {
    let mut total = 0;
    let mut cut = 0;
    loop {
        let mut shell = node_with(small());
        let mut writer = Writer::first();
        let stream = writer.attach(&mut shell, 0);
        for number in 0..220_u64 {
            let batch = writer.batch(&[2 + number % 8, 2, 3 + number % 3]);
            let append = writer.append(&batch);
            shell.say(stream, append);
            shell.settle();
            writer.vdl = writer.prev;
            if number > 100 {
                writer.pgmrpl = writer.batches[number as usize - 100].header().last;
            }
            let heartbeat = writer.heartbeat();
            shell.say(stream, heartbeat);
            while shell.turn() || step(&mut shell) {
                if shell.layer_ops_done + shell.writes_done > cut && shell.layer_ops_done > 0 {
                    break;
                }
            }
            if shell.layer_ops_done + shell.writes_done > cut && shell.layer_ops_done > 0 {
                break;
            }
        }
        let ended = writer.batches.len() == 220;
        let scl = shell.status().segments[0].scl;
        let mut seed = cut as u64 + 1;
        let mut shell = shell.power_cut(&mut || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 62 & 1 == 0
        });
        shell.work();
        assert!(
            shell.stopped.is_none() && shell.errors().is_empty(),
            "{:?}",
            shell.logged
        );
        let status = shell.status();
        assert!(status.segments[0].scl >= scl, "cut {cut}");
        assert_eq!(shell.layers.len(), status.segments[0].layer_count as usize);
        let from = writer.pgmrpl;
        check_all(&mut shell, &writer, from.max(Lsn::new(1_001)));
        let stream = writer.attach(&mut shell, 0);
        for batch in writer.batches.clone() {
            if batch.header().last > shell.status().segments[0].scl {
                writer.ship(&mut shell, stream, &batch);
            }
        }
        load(&mut shell, &mut writer, stream, 20);
        check_at(&mut shell, &writer, writer.prev).unwrap();
        total += 1;
        if ended {
            break;
        }
        cut += 3;
    }
    assert!(total > 60, "{total}");
}

/// One operation of the disk ends.
fn step(shell: &mut Shell) -> bool {
    shell.complete_layer_op() || shell.complete_write()
}

#[test]
fn records_that_wait_for_their_vdl_do_not_pin_the_log_for_ever() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let batch = writer.batch(&[2, 3]);
    writer.ship(&mut shell, stream, &batch);
    // Above the highest VDL seen: it cannot be frozen, only written again.
    let opened = writer.vdl;
    for _ in 0..40 {
        let batch = writer.batch(&[2, 3, 4]);
        writer.ship(&mut shell, stream, &batch);
    }
    assert_eq!(shell.status().segments[0].vdl_seen, opened);
    let before = shell.status().hot_log_bytes;
    assert!(before > 0);
    writer.vdl = writer.prev;
    say_heartbeat(&mut shell, &mut writer, stream);
    load(&mut shell, &mut writer, stream, 300);
    assert!(!shell.files.contains_key(&FileNumber(1)));
    check_all(&mut shell, &writer, Lsn::NONE);
}

#[test]
fn the_log_below_its_start_is_forgotten_and_says_where_it_begins() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 600);
    assert!(!shell.files.contains_key(&FileNumber(1)));
    let read = |after: Lsn| {
        Message::ReadLog(sixfold_log_format::wire::ReadLog {
            segment: crate::writer::segment_id(0),
            history_epoch: writer.epoch,
            after,
            through: writer.prev,
            bytes_max: 64 << 20,
        })
    };
    let answer = refusal(shell.ask(read(Lsn::NONE)));
    let Refusal::Forgotten { horizon } = answer else {
        panic!("{answer:?}")
    };
    let start = horizon.checked_minus(1).unwrap();
    let check = |shell: &mut Shell| {
        let Message::LogPiece(piece) = shell.ask(read(start)) else {
            panic!()
        };
        let expected = writer
            .batches
            .iter()
            .filter(|batch| batch.header().last > start);
        let expected: Vec<_> = expected.map(|batch| batch.bytes().clone()).collect();
        assert_eq!(piece.batches, expected);
        assert!(expected.len() < writer.batches.len() && expected.len() > 10);
    };
    check(&mut shell);
    let mut shell = shell.crash(&|_| false);
    shell.work();
    assert_eq!(refusal(shell.ask(read(Lsn::NONE))), answer);
    check(&mut shell);
}

#[test]
fn a_file_name_of_an_earlier_life_never_passes_the_scan() {
    // The checksum of a group names its file: what stood in file 1 is nothing in another file.
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 30);
    let (first, stale) = shell
        .files
        .first_key_value()
        .map(|(k, v)| (*k, v.clone()))
        .unwrap();
    let (last, bytes) = shell
        .files
        .last_key_value()
        .map(|(k, v)| (*k, v.len()))
        .unwrap();
    assert!(first < last && bytes == stale.len());
    assert!(stale[BLOCK..2 * BLOCK].iter().any(|byte| *byte != 0));
    let scl = shell.status().segments[0].scl;
    let mut bytes = vec![0; BLOCK];
    bytes.extend_from_slice(&stale[BLOCK..]);
    shell.files.insert(last, bytes);
    let mut shell = shell.crash(&|_| false);
    shell.work();
    assert_eq!(shell.status().segments[0].scl, scl);
    load(&mut shell, &mut writer, stream, 0);
    assert!(shell.stopped.is_none() && shell.errors().is_empty());
}

/// Every entry of every layer of the node: page, LSN, whether it is an image.
fn entries(shell: &Shell) -> Vec<(PageId, Lsn, bool)> {
    use sixfold_log_format::layer::{Block, LayerEntry, LayerIndex, LayerSummary};

    let mut all = Vec::new();
    for file in shell.layers.values() {
        let bytes = bytes::Bytes::from(file.bytes.clone());
        let summary = LayerSummary::decode_footer(&bytes, bytes.len() as u64).unwrap();
        let range = summary.index_range();
        let index = &bytes[range.start as usize..range.end as usize];
        let index = LayerIndex::decode(&summary, index).unwrap();
        for number in 0..index.block_count() {
            let at = index.block(number);
            let range = at.range();
            let block = bytes.slice(range.start as usize..range.end as usize);
            let block = Block::decode(&summary.identity, &at, block).unwrap();
            all.extend(block.entries().map(|entry| {
                let entry = entry.unwrap();
                (
                    entry.page(),
                    entry.lsn(),
                    matches!(entry, LayerEntry::Image(_)),
                )
            }));
        }
    }
    all.sort_unstable();
    all
}

#[test]
fn no_chain_is_longer_than_its_bound_and_a_cold_read_takes_few_device_reads() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    for number in 0..500_u64 {
        // Page 2 in every batch, the others now and then.
        let batch = writer.batch(&[2, 3 + number % 7]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.settle();
        writer.vdl = writer.prev;
        say_heartbeat(&mut shell, &mut writer, stream);
    }
    let (mut longest, mut chain, mut page) = (0, 0, PageId::NONE);
    for (of, _, is_image) in entries(&shell) {
        if of != page || is_image {
            chain = 0;
        }
        page = of;
        chain += usize::from(!is_image);
        longest = longest.max(chain);
    }
    assert!(
        longest <= shell.found.bounds.chain_records_max,
        "a chain of {longest} records"
    );
    let runs = shell.status().segments[0].run_count as usize;
    assert!(runs <= shell.found.bounds.runs_max);
    let mut shell = shell.crash(&|_| false);
    shell.settle();
    let folded = shell.status().segments[0].folded_through;
    for page in [2, 5] {
        let before = shell.reads_done;
        writer.check_pages(&mut shell, 0, &[page], folded);
        let reads = shell.reads_done - before;
        assert!(reads <= runs + 2, "{reads} device reads with {runs} runs");
    }
}

#[test]
fn a_segment_that_does_not_hear_the_writer_collects_nothing() {
    for announced_late in [false, true] {
        let mut shell = node_with(small());
        let mut writer = Writer::first();
        let stream = writer.attach(&mut shell, 0);
        load(&mut shell, &mut writer, stream, 5);
        if announced_late {
            writer.pgmrpl = writer.prev;
            say_heartbeat(&mut shell, &mut writer, stream);
        }
        let announced = writer.pgmrpl;
        // The lease runs out; a peer, or a candidate, brings what follows.
        shell.pass(Duration::from_millis(1_500));
        for _ in 0..30 {
            let batches: Vec<_> = (0..10)
                .map(|number| {
                    let batch = writer.batch(&[2, 3, 4 + number % 4]);
                    writer.vdl = writer.prev;
                    batch
                })
                .collect();
            shell.ask(writer.refill(0, &batches));
            shell.work();
        }
        let status = shell.status();
        assert!(status.upkeep.freezes > 2, "{status:?}");
        assert!(status.segments[0].horizon <= announced, "{status:?}");
        // It is heard again.
        writer.pgmrpl = writer.prev;
        load(&mut shell, &mut writer, stream, 100);
        assert!(shell.status().segments[0].horizon > announced);
    }
}

#[test]
fn nothing_is_collected_under_a_claim_whose_writer_has_not_opened() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 40);
    writer.pgmrpl = writer.prev;
    let next = writer.reopen(writer.prev, 3);
    say_heartbeat(&mut shell, &mut writer, stream);
    let before = shell.status().segments[0].clone();
    assert!(matches!(shell.ask(next.claim(0)), Message::Census(_)));
    // A peer copies: what can be frozen is.
    let ask = Message::ReadLayer(sixfold_log_format::wire::ReadLayer {
        segment: crate::writer::segment_id(0),
        layer: 0,
        offset: 0,
        bytes_max: 1 << 20,
    });
    shell.ask_as(sixfold_log_format::wire::Role::Node, ask);
    shell.pass(Duration::from_secs(30));
    let after = shell.status().segments[0].clone();
    assert!(after.folded_through > before.folded_through);
    assert_eq!(after.horizon, before.horizon);
}

#[test]
fn one_volume_that_cannot_be_folded_leaves_room_for_another() {
    let mut found = small();
    found.bounds.unfolded_bytes_max = 64 << 10;
    let mut shell = node_with(found);
    // The other segment: another volume on the same node.
    let other = sixfold_log_format::VolumeId::from_bytes([8; 16]);
    let mut manifest = crate::writer::manifest(1);
    manifest.volume = other;
    manifest.pgs[0].sets[0].members[0].segment = sixfold_log_format::SegmentId::from_bytes([9; 16]);
    let create = sixfold_log_format::wire::CreateSegment {
        segment: sixfold_log_format::SegmentId::from_bytes([9; 16]),
        pg: sixfold_log_format::PgId::ROOT,
        manifest,
    };
    assert_eq!(
        shell.ask(Message::CreateSegment(Box::new(create))),
        Message::Done
    );
    // Its VDL never moves, so that nothing of it can be frozen.
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let mut refused = false;
    for _ in 0..2_000 {
        let batch = writer.batch(&[2, 3, 4]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.work();
        refused |= shell
            .take(stream)
            .contains(&Message::Refused(Refusal::Overloaded));
        if refused {
            break;
        }
    }
    assert!(refused);
    let status = shell.status();
    let unfolded: u64 = status.segments.iter().map(|held| held.unfolded_bytes).sum();
    assert!(unfolded < 64 << 10, "the bound is not broken: {unfolded}");
    assert!(unfolded > 32 << 10, "and used: {unfolded}");
}

#[test]
fn redo_that_memory_does_not_keep_goes_into_a_layer_whatever_its_bound() {
    for (resident_bytes, freezes) in [(1 << 20, false), (2 << 10, true)] {
        let mut found = small();
        found.bounds.unfolded_bytes_max = 1 << 20;
        found.bounds.log_bytes_max = 4 << 20;
        found.bounds.resident_redo_bytes_max = resident_bytes;
        let mut shell = node_with(found);
        let mut writer = Writer::first();
        let stream = writer.attach(&mut shell, 0);
        load(&mut shell, &mut writer, stream, 100);
        let layers = shell.status().segments[0].layer_count;
        assert_eq!(layers > 0, freezes, "{layers} layers");
    }
}
