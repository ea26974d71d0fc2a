//! Drops: of many segments, of some that are being created or are at work, and what is told of those that were removed.

use std::time::Duration;

use sixfold_log_format::wire::{
    Claim, CreateSegment, DropSegment, Message, Probe, Refusal, Role, Survey,
};
use sixfold_log_format::{Manifest, PgId, SegmentId};
use sixfold_storage_node_core::Event;

use crate::layers::{PAGES, node_with, small};
use crate::members::{begin, drop_as, finish};
use crate::shell::{Shell, found};
use crate::writer::{Writer, census, manifest, node, refusal, segment_id, volume};

/// Identities that are dropped and remembered at most, and some.
const MANY: u32 = 4_096 + 40;

/// Each lower than the one before.
fn lower(number: u32) -> SegmentId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&(u32::MAX - number).to_be_bytes());
    SegmentId::from_bytes(bytes)
}

fn create(segment: SegmentId) -> Message {
    let mut manifest = manifest(1);
    manifest.pgs[0].sets[0].members[0].segment = segment;
    Message::CreateSegment(Box::new(CreateSegment {
        segment,
        pg: PgId::ROOT,
        manifest,
    }))
}

fn dropping(segment: SegmentId) -> Message {
    let volume = volume();
    Message::DropSegment(DropSegment { segment, volume })
}

#[test]
fn many_drops_with_entries_behind_them_are_read_back_and_the_newest_stay_refused() {
    let mut found = found(0);
    found.file_bytes = 4 << 20;
    found.bounds.group_bytes_max = 1 << 20;
    let mut shell = Shell::with(found);
    let writer = Writer::first();
    for number in 0..MANY {
        let segment = lower(number);
        assert_eq!(shell.ask(create(segment)), Message::Done);
        let stream = shell.open_stream();
        shell.say_as(Role::Operator, stream, dropping(segment));
        let claim = Claim {
            segment,
            volume_epoch: writer.epoch,
            writer: writer.id,
        };
        let behind = shell.open_stream();
        shell.say(behind, Message::Claim(claim));
        shell.settle();
        assert_eq!(shell.take(stream), [Message::Done]);
        shell.sent.clear();
    }
    for life in 0..2 {
        assert!(shell.status().segments.is_empty(), "life {life}");
        for number in [0, 20, 39] {
            let again = shell.ask(create(lower(MANY - 1 - number)));
            assert_eq!(refusal(again), Refusal::Exists, "life {life}");
        }
        shell = shell.crash(&|_| false);
        shell.work();
        assert!(shell.core.is_ready(), "{:?}", shell.stopped);
    }
}

#[test]
fn a_segment_that_is_being_created_is_not_unknown() {
    let mut shell = Shell::new(0);
    let created = shell.open_stream();
    shell.say(created, create(segment_id(0)));
    let writer = Writer::first();
    let mut asks = vec![(Role::Writer, writer.install(0))];
    for role in [Role::Writer, Role::Operator] {
        asks.push((role, dropping(segment_id(0))));
    }
    for (role, message) in asks {
        let answer = shell.request_as(role, message).pop().unwrap();
        assert_eq!(refusal(answer), Refusal::Overloaded, "{role:?}");
    }
    shell.settle();
    assert_eq!(shell.take(created), [Message::Done]);
    assert_eq!(drop_as(&mut shell, Role::Operator, 0), Message::Done);
    assert!(shell.status().segments.is_empty());
}

#[test]
fn a_creation_that_comes_behind_its_drop_comes_to_nothing() {
    let mut shell = Shell::new(0);
    for _ in 0..2 {
        assert_eq!(drop_as(&mut shell, Role::Writer, 0), Message::Done);
        let answer = shell.ask(create(segment_id(0)));
        assert_eq!(refusal(answer), Refusal::Exists);
        shell = shell.crash(&|_| false);
        shell.settle();
    }
}

#[test]
fn a_freeze_that_ends_behind_a_drop_leaves_no_files() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    for _ in 0..1_000 {
        if shell.layer_ops.is_empty() {
            let batch = writer.batch(&PAGES);
            let append = writer.append(&batch);
            writer.vdl = writer.prev;
            shell.say(stream, append);
            shell.settle();
            shell.turn();
        }
    }
    assert!(!shell.layer_ops.is_empty());
    // The drop is on its way to the disk while the freeze goes on to its end.
    let dropped = shell.open_stream();
    shell.say_as(Role::Operator, dropped, dropping(segment_id(0)));
    for _ in 0..1_000 {
        let _ = shell.complete_layer_op() || shell.turn();
    }
    assert!(!shell.layers.is_empty() && !shell.writes.is_empty());
    shell.work();
    assert_eq!(shell.take(dropped), [Message::Done]);
    assert!(shell.status().segments.is_empty());
    assert!(shell.layers.is_empty(), "{:?}", shell.layers.keys());
}

/// Node 5 of an old epoch, whose peer says that it was removed by this manifest.
fn told_by_a_removed_peer(by: &Manifest) -> (Shell, Writer) {
    let mut shell = node(5);
    let writer = Writer::first();
    writer.attach(&mut shell, 5);
    while shell.asks.is_empty() {
        shell.now += Duration::from_millis(200);
        shell.event(Event::Timeout);
    }
    let token = shell.asks.pop_front().unwrap().token;
    let manifest = Box::new(by.clone());
    let answer = Some(Message::Refused(Refusal::StaleMembership { manifest }));
    shell.event(Event::PeerAnswer { token, answer });
    shell.settle();
    (shell, writer)
}

#[test]
fn a_manifest_without_its_history_is_told_on_where_it_removes_and_taken_nowhere_else() {
    let removes = finish(&begin(&manifest(7), 5, 6), 5);
    let (mut shell, _) = told_by_a_removed_peer(&removes);
    match shell.ask(Message::Probe(Probe { volume: volume() })) {
        Message::ProbeAnswer(answer) => {
            assert_eq!(answer.manifest.map(|held| *held), Some(removes));
        }
        other => panic!("{other:?}"),
    }

    let names = finish(&begin(&manifest(7), 0, 6), 0);
    let (mut shell, writer) = told_by_a_removed_peer(&names);
    let segment = segment_id(5);
    let survey = Message::Survey(Survey { segment });
    let held = census(shell.ask_as(Role::Reader, survey)).manifest;
    assert_eq!(held.version, writer.manifest.version);
    let asked = shell.asks.pop_front().expect("a member is asked at once");
    assert!(matches!(asked.message, Message::Gossip(_)), "{asked:?}");
    let members = names.pgs[0].members();
    assert!(members.iter().any(|member| member.node == asked.node));
}
