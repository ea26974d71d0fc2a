//! The head of a hot-log file: what a crash leaves of its first write, and what fits it.

use std::time::Duration;

use sixfold_log_format::hot_log::FileNumber;
use sixfold_log_format::wire::{CreateSegment, DropSegment, Message, Refusal, Role};
use sixfold_log_format::{Lsn, PgId, SegmentId, VolumeId};

use crate::layers::{check_at, load, node_with, say_heartbeat, small};
use crate::shell::{BLOCK, Shell};
use crate::writer::{Writer, manifest, refusal};

pub fn other(number: u8) -> CreateSegment {
    let mut manifest = manifest(1);
    manifest.volume = VolumeId::from_bytes([number; 16]);
    let segment = SegmentId::from_bytes([number; 16]);
    manifest.pgs[0].sets[0].members[0].segment = segment;
    CreateSegment {
        segment,
        pg: PgId::ROOT,
        manifest,
    }
}

fn make(shell: &mut Shell, create: &CreateSegment) -> Message {
    let stream = shell.open_stream();
    let message = Message::CreateSegment(Box::new(create.clone()));
    shell.say(stream, message);
    for _ in 0..1_000 {
        if !shell.complete_write() {
            break;
        }
    }
    shell.take(stream).pop().expect("it is answered")
}

/// A node whose first write to its second file is in flight, with a segment that was dropped before.
fn begins_its_second_file() -> (Shell, Writer, CreateSegment) {
    let mut shell = node_with(small());
    let dropped = other(1);
    assert_eq!(make(&mut shell, &dropped), Message::Done);
    let drop = DropSegment {
        segment: dropped.segment,
        volume: dropped.manifest.volume,
    };
    let answer = shell.ask_as(Role::Operator, Message::DropSegment(drop));
    assert_eq!(answer, Message::Done);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    for _ in 0..5_000 {
        let batch = writer.batch(&[2, 3, 4]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        let next = shell.writes.front();
        if next.is_some_and(|write| write.file == FileNumber(2)) {
            return (shell, writer, dropped);
        }
        shell.settle();
        shell.take(stream);
    }
    panic!("the first file is never full");
}

/// Life goes on until the first two files are gone, and once more after a restart.
fn live_on(shell: Shell, writer: &Writer, dropped: &CreateSegment, case: &str) {
    let mut shell = shell;
    shell.work();
    let scl = shell.status().segments[0].scl;
    assert!(shell.errors().is_empty(), "{case}: {:?}", shell.errors());
    let mut next = writer.reopen(scl, 3);
    let stream = next.attach(&mut shell, 0);
    for _ in 0..100 {
        let oldest = shell.files.keys().next().copied();
        if oldest > Some(FileNumber(2)) {
            break;
        }
        load(&mut shell, &mut next, stream, 20);
    }
    let oldest = shell.files.keys().next().copied();
    assert!(oldest > Some(FileNumber(2)), "{case}: {oldest:?}");
    let before = shell.status().segments[0].clone();
    let mut shell = shell.crash(&|_| false);
    assert!(shell.stopped.is_none(), "{case}: {:?}", shell.stopped);
    shell.work();
    let status = shell.status();
    assert_eq!(status.segments.len(), 1, "{case}");
    assert_eq!(status.segments[0].scl, before.scl, "{case}");
    assert_eq!(status.segments[0].claim, before.claim, "{case}");
    assert_eq!(status.segments[0].layer_count, before.layer_count, "{case}");
    assert_eq!(
        refusal(make(&mut shell, dropped)),
        Refusal::Exists,
        "{case}"
    );
    assert!(shell.errors().is_empty(), "{case}: {:?}", shell.errors());
}

#[test]
fn a_first_write_of_a_file_that_is_torn_anywhere_loses_no_state() {
    let (shell, _, _) = begins_its_second_file();
    let write = shell.writes.front().unwrap();
    assert_eq!(write.offset, 0);
    let blocks = write.bytes.len() / BLOCK;
    assert!(blocks >= 3, "{blocks} blocks");
    for cut in 0..=blocks {
        let (shell, writer, dropped) = begins_its_second_file();
        let shell = shell.crash(&|block| block < cut);
        live_on(shell, &writer, &dropped, &format!("cut at {cut}"));
        let (shell, writer, dropped) = begins_its_second_file();
        let shell = shell.crash(&|block| block != cut);
        live_on(shell, &writer, &dropped, &format!("without {cut}"));
    }
}

#[test]
fn a_file_with_nothing_but_its_header_is_begun_again_when_it_is_torn_twice() {
    let (shell, writer, dropped) = begins_its_second_file();
    let shell = shell.crash(&|block| block == 0);
    assert!(shell.writes.front().is_some(), "the states are written");
    let shell = shell.crash(&|block| block == 0);
    live_on(shell, &writer, &dropped, "torn twice");
}

#[test]
fn segments_whose_states_would_fill_a_file_are_refused_and_the_node_goes_on() {
    let mut shell = node_with(small());
    let mut made = 1;
    let reason = (10..90_u8).find_map(|number| match make(&mut shell, &other(number)) {
        Message::Done => {
            made += 1;
            None
        }
        Message::Refused(Refusal::Malformed { reason }) => Some(reason),
        other => panic!("{other:?}"),
    });
    let reason = reason.expect("there is a bound");
    assert!(reason.contains("a hot-log file of 32768 bytes"), "{reason}");
    assert!(made > 5, "{made} segments");
    // What is there is served, through many files.
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 300);
    shell.pass(Duration::from_secs(1));
    assert!(shell.status().upkeep.files_freed > 1);
    let next = writer.reopen(writer.prev, 3);
    assert!(matches!(shell.ask(next.claim(0)), Message::Census(_)));
    assert!(matches!(shell.ask(next.install(0)), Message::Installed(_)));
    let mut shell = shell.crash(&|_| false);
    shell.work();
    assert_eq!(shell.status().segments.len(), made);
}

/// A node whose layers would hold a page each, so that a catalog would name more of them than the head of a file has room for.
pub fn many_layers() {
    let mut found = small();
    found.bounds.layer_bytes_max = 1;
    let mut shell = node_with(found);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    // Half of a quarter of a file, at 144 bytes a layer.
    let layers_max = (32 << 10) / 4 / 144 / 2;
    let mut most = 0;
    for number in 0..400_u64 {
        let pages: Vec<u64> = (0..4).map(|at| 2 + (number * 4 + at) % 100).collect();
        let batch = writer.batch(&pages);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.settle();
        writer.vdl = writer.prev;
        say_heartbeat(&mut shell, &mut writer, stream);
        let layers = shell.status().segments[0].layer_count;
        assert!(layers <= layers_max, "{layers} layers at batch {number}");
        most = most.max(layers);
    }
    // Pauses for want of room end, and what can be frozen is.
    for _ in 0..20 {
        shell.pass(Duration::from_millis(100));
        shell.work();
    }
    let status = shell.status();
    assert_eq!(status.segments[0].scl, writer.prev, "no batch was refused");
    assert!(most > 1 && status.upkeep.freezes > 5, "{most}: {status:?}");
    assert!(status.segments[0].folded_through > Lsn::NONE);
    let logged = format!("{:?}", shell.logged);
    assert!(logged.contains("its layers become longer"), "{logged}");
    check_at(&mut shell, &writer, writer.prev).unwrap();
    let mut shell = shell.crash(&|_| false);
    shell.work();
    assert_eq!(
        shell.layers.len(),
        shell.status().segments[0].layer_count as usize
    );
    check_at(&mut shell, &writer, writer.prev).unwrap();
    assert!(shell.errors().is_empty(), "{:?}", shell.logged);
}

#[test]
fn catalogs_that_would_outgrow_the_head_of_a_file_get_fewer_and_longer_layers() {
    many_layers();
}
