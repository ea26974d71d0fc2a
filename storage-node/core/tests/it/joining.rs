//! A segment that joins a volume which has been running for long: at any epoch, under load, with ranges folded away; and one that was
//! removed while it was away.

use std::collections::VecDeque;
use std::time::Duration;

use sixfold_log_format::wire::{Message, Refusal, Role, Survey};
use sixfold_log_format::{Lsn, Manifest, PgEntry, PgId};
use sixfold_storage_node_core::Event;

use crate::catch_up::{Cluster, check_node};
use crate::layers::{PAGES, load, small};
use crate::members::{begin, create, drop_as, finish, installed, member};
use crate::shell::{Ask, Shell, node_id};
use crate::writer::{Writer, manifest, refusal, segment_id};

/// Begins to replace segment 5 by one on node 6, which is made.
pub fn begin_join(cluster: &mut Cluster) {
    let to = begin(&cluster.writer.manifest, 5, 6);
    let mut small = small();
    small.node = node_id(6);
    small.seed = 6;
    let mut shell = Shell::with(small);
    assert_eq!(create(&mut shell, 6, &to), Message::Done);
    cluster.nodes.push(shell);
    cluster.writer.manifest = to;
    for number in 0..6_u8 {
        let writer = &cluster.writer;
        installed(&mut cluster.nodes[usize::from(number)], writer, number);
    }
}

/// All attach to the next writer, which found everything up to `vdl`.
fn reopen(cluster: &mut Cluster, vdl: Lsn, epoch: u64) {
    let before = cluster.writer.manifest.clone();
    cluster.writer = cluster.writer.reopen(vdl, epoch);
    let version = cluster.writer.manifest.version;
    cluster.writer.manifest = Manifest { version, ..before };
    cluster.streams = (0..6_u8)
        .map(|number| {
            let writer = &cluster.writer;
            writer.attach(&mut cluster.nodes[usize::from(number)], number)
        })
        .collect();
}

/// Ships a batch of which nobody says that it is durable.
fn unsettled(cluster: &mut Cluster) {
    let batch = cluster.writer.batch(&[2, 3, 4]);
    for node in 0..cluster.nodes.len() {
        let append = cluster.writer.append(&batch);
        cluster.nodes[node].say(cluster.streams[node], append);
        cluster.nodes[node].work();
    }
}

pub fn is_whole(cluster: &mut Cluster) -> bool {
    let tip = cluster.writer.prev;
    cluster.scl(6) == tip
}

#[test]
fn a_joining_segment_gets_layers_and_log_from_its_peers_alone() {
    let mut cluster = Cluster::new(6);
    cluster.load(400, &[]);
    begin_join(&mut cluster);
    cluster.rounds_until("join", &mut is_whole);
    let status = cluster.nodes[6].status();
    assert!(status.segments[0].layer_count > 0);
    assert_eq!(status.segments[0].history_epoch, cluster.writer.epoch);
    let writer = cluster.writer.clone();
    check_node(&mut cluster.nodes[6], &writer, 6);
    let shell = cluster.nodes.remove(6).crash(&|_| false);
    cluster.nodes.push(shell);
    cluster.nodes[6].work();
    assert!(is_whole(&mut cluster));
    check_node(&mut cluster.nodes[6], &writer, 6);
}

#[test]
fn a_joining_segment_of_a_young_volume_needs_no_layers() {
    let mut cluster = Cluster::new(6);
    cluster.load(3, &[]);
    begin_join(&mut cluster);
    cluster.rounds_until("join", &mut is_whole);
    let writer = cluster.writer.clone();
    check_node(&mut cluster.nodes[6], &writer, 6);
}

#[test]
fn a_joining_segment_catches_up_while_its_writer_goes_on_and_on() {
    let mut cluster = Cluster::new(6);
    cluster.load(400, &[]);
    begin_join(&mut cluster);
    let stream = cluster.writer.attach(&mut cluster.nodes[6], 6);
    cluster.streams.push(stream);
    for round in 0..300 {
        cluster.load(2, &[]);
        if is_whole(&mut cluster) && round > 20 {
            let writer = cluster.writer.clone();
            check_node(&mut cluster.nodes[6], &writer, 6);
            return;
        }
        cluster.round();
        // What came above the hole may be too much for it: its writer attaches again.
        let said = cluster.nodes[6].take(cluster.streams[6]);
        let refused = |message: &Message| matches!(message, Message::Refused(_));
        if said.iter().any(refused) {
            cluster.streams[6] = cluster.writer.attach(&mut cluster.nodes[6], 6);
        }
    }
    panic!("{:#?}", cluster.nodes[6].status());
}

#[test]
fn a_joining_segment_of_a_later_epoch_holds_nothing_that_was_annulled() {
    for folds in [false, true] {
        let mut cluster = Cluster::new(6);
        cluster.load(60, &[]);
        let vdl = cluster.writer.prev;
        unsettled(&mut cluster);
        reopen(&mut cluster, vdl, 3);
        cluster.load(60, &[]);
        let vdl = cluster.writer.prev;
        unsettled(&mut cluster);
        reopen(&mut cluster, vdl, 4);
        cluster.load(400, &[]);
        if folds {
            // Everything before is in layers everywhere: a later history forgets its ranges.
            let vdl = cluster.writer.prev;
            let annulled = cluster.writer.history.highest_end();
            for node in 0..6 {
                let folded = cluster.nodes[node].status().segments[0].folded_through;
                assert!(folded > annulled);
            }
            let mut next = cluster.writer.reopen(vdl, 5);
            next.history.floor = annulled;
            next.history.ranges.retain(|range| range.after >= annulled);
            assert_eq!(next.history.ranges.len(), 1);
            let before = cluster.writer.manifest.clone();
            let version = next.manifest.version;
            next.manifest = Manifest { version, ..before };
            cluster.writer = next;
            for number in 0..6_u8 {
                let shell = &mut cluster.nodes[usize::from(number)];
                let (stream, attached) = cluster.writer.attached(shell, number);
                assert_eq!(attached.scl, vdl, "it was above the floor");
                cluster.streams[usize::from(number)] = stream;
            }
            cluster.load(5, &[]);
        }
        begin_join(&mut cluster);
        cluster.rounds_until("join", &mut is_whole);
        let writer = cluster.writer.clone();
        check_node(&mut cluster.nodes[6], &writer, 6);
        let floor = writer.history.floor;
        let status = cluster.nodes[6].status();
        assert!(
            status.segments[0].log_start >= floor,
            "by layers up to there"
        );
    }
}

#[test]
fn a_segment_below_a_floor_takes_layers_and_never_the_log() {
    let mut cluster = Cluster::new(6);
    cluster.load(30, &[]);
    let held = cluster.scl(5);
    // Node 5 is away: it has a batch that is annulled meanwhile, in a range that is folded away.
    let vdl = cluster.writer.prev;
    unsettled(&mut cluster);
    assert!(cluster.scl(5) > held);
    let away = cluster.nodes.pop().unwrap();
    let mut next = cluster.writer.reopen(vdl, 3);
    let attach = |cluster: &mut Cluster, next: &Writer| {
        cluster.streams = (0..5_u8)
            .map(|number| next.attach(&mut cluster.nodes[usize::from(number)], number))
            .collect();
        cluster.writer = next.clone();
    };
    attach(&mut cluster, &next);
    cluster.load(400, &[]);
    next = cluster.writer.reopen(cluster.writer.prev, 4);
    let annulled = cluster.writer.history.highest_end();
    next.history.floor = annulled;
    next.history.ranges.retain(|range| range.after >= annulled);
    attach(&mut cluster, &next);
    cluster.load(5, &[]);
    cluster.nodes.push(away);
    let tip = cluster.writer.prev;
    cluster.rounds_until("catch up", &mut |cluster| cluster.scl(5) == tip);
    let writer = cluster.writer.clone();
    check_node(&mut cluster.nodes[5], &writer, 5);
    let shell = cluster.nodes.pop().unwrap().crash(&|_| false);
    cluster.nodes.push(shell);
    cluster.nodes[5].work();
    assert_eq!(cluster.scl(5), tip);
    check_node(&mut cluster.nodes[5], &writer, 5);
}

fn survey(shell: &mut Shell, number: u8) -> Message {
    let survey = Survey {
        segment: segment_id(number),
    };
    shell.ask_as(Role::Reader, Message::Survey(survey))
}

#[test]
fn a_segment_that_was_away_while_it_was_removed_learns_it_from_its_peers() {
    let mut cluster = Cluster::new(6);
    cluster.load(30, &[]);
    begin_join(&mut cluster);
    cluster.rounds_until("join", &mut is_whole);
    let away = cluster.nodes.remove(5).crash(&|_| false);
    let mut placeholder = small();
    placeholder.node = node_id(5);
    cluster.nodes.insert(5, Shell::with(placeholder));
    cluster.writer.manifest = finish(&cluster.writer.manifest, 5);
    for number in [0, 1, 2, 3, 4, 6] {
        let writer = &cluster.writer;
        installed(&mut cluster.nodes[usize::from(number)], writer, number);
    }
    cluster.nodes[5] = away;
    cluster.nodes[5].work();
    assert!(matches!(
        survey(&mut cluster.nodes[5], 5),
        Message::Census(_)
    ));
    let expected = Refusal::StaleMembership {
        manifest: Box::new(cluster.writer.manifest.clone()),
    };
    cluster.rounds_until("learn", &mut |cluster| {
        survey(&mut cluster.nodes[5], 5) == Message::Refused(expected.clone())
    });
    assert_eq!(
        drop_as(&mut cluster.nodes[5], Role::Writer, 5),
        Message::Done
    );
    assert_eq!(refusal(survey(&mut cluster.nodes[5], 5)), expected);
    // Its peers do not miss it.
    cluster.load(3, &[5, 6]);
    cluster.rounds_until("go on", &mut is_whole);
}

#[test]
fn a_removed_segment_and_its_tombstone_tell_their_peers_the_manifest() {
    for drops in [false, true] {
        let mut cluster = Cluster::new(6);
        cluster.load(10, &[]);
        begin_join(&mut cluster);
        let held = cluster.writer.manifest.clone();
        cluster.writer.manifest = finish(&held, 5);
        // Nobody else heard of it yet.
        installed(&mut cluster.nodes[5], &cluster.writer.clone(), 5);
        if drops {
            let answer = drop_as(&mut cluster.nodes[5], Role::Writer, 5);
            assert_eq!(answer, Message::Done);
        }
        let version = cluster.writer.manifest.version;
        cluster.rounds_until("learn", &mut |cluster| {
            (0..5).all(|number| {
                let answer = survey(&mut cluster.nodes[number], number as u8);
                matches!(answer, Message::Census(census) if census.manifest.version == version)
            })
        });
    }
}

/// Three groups, of which two nodes host a segment each: `group * 10` and `group * 10 + 6`.
pub fn three_groups() -> Manifest {
    let mut manifest = manifest(2);
    let set = manifest.pgs[0].sets[0].clone();
    manifest.pgs = (0..3_u8)
        .map(|group| {
            let mut set = set.clone();
            for (held, number) in set.members.iter_mut().zip(0..) {
                *held = member(group * 10 + number, false);
                held.node = node_id(number);
            }
            set.members[5] = member(group * 10 + 6, true);
            set.members[5].node = node_id(6);
            PgEntry {
                pg: PgId::new(group.into()),
                sets: vec![set],
                removed: Vec::new(),
            }
        })
        .collect();
    manifest.hints[5].node = node_id(6);
    manifest
}

#[test]
fn segments_of_several_groups_copy_layers_at_the_same_time() {
    let manifest = three_groups();
    let mut nodes = [0, 6].map(|number| {
        let mut small = small();
        small.node = node_id(number);
        small.file_bytes = 64 << 10;
        small.bounds.log_bytes_max = 1 << 20;
        small.bounds.unfolded_bytes_max = 64 << 10;
        let mut shell = Shell::with(small);
        for group in 0..3_u8 {
            let create = sixfold_log_format::wire::CreateSegment {
                segment: segment_id(group * 10 + number),
                pg: PgId::new(group.into()),
                manifest: manifest.clone(),
            };
            let answer = shell.ask(Message::CreateSegment(Box::new(create)));
            assert_eq!(answer, Message::Done);
        }
        shell
    });
    let mut writers: Vec<_> = (0..3_u8)
        .map(|group| {
            let mut writer = Writer::first();
            writer.manifest = manifest.clone();
            writer.pg = PgId::new(group.into());
            let stream = writer.attach(&mut nodes[0], group * 10);
            (writer, stream)
        })
        .collect();
    // By turns, so that the log reaches down to nobody's beginning.
    for _ in 0..8 {
        for (writer, stream) in &mut writers {
            load(&mut nodes[0], writer, *stream, 100);
        }
    }
    let writers: Vec<Writer> = writers.into_iter().map(|(writer, _)| writer).collect();
    let mut at_once = 0;
    for _ in 0..1_000 {
        for node in &mut nodes {
            node.now += Duration::from_millis(200);
            node.event(Event::Timeout);
            node.work();
        }
        // One answer a round, so that a copy takes many.
        let is_copy = |ask: &&Ask| matches!(ask.message, Message::ReadLayer(_));
        at_once = at_once.max(nodes[1].asks.iter().filter(is_copy).count());
        let asks = std::mem::take(&mut nodes[1].asks);
        let (mut reached, lost): (VecDeque<_>, VecDeque<_>) =
            asks.into_iter().partition(|ask| ask.node == node_id(0));
        let first = reached.pop_front();
        nodes[1].asks = reached;
        for ask in lost.into_iter().chain(first) {
            let answer = (ask.node == node_id(0)).then(|| {
                let stream = nodes[0].open_stream();
                nodes[0].say_as(Role::Node, stream, ask.message);
                nodes[0].work();
                nodes[0].take(stream).pop()
            });
            nodes[1].event(Event::PeerAnswer {
                token: ask.token,
                answer: answer.flatten(),
            });
            nodes[1].work();
        }
        nodes[0].asks.clear();
        let status = nodes[1].status();
        let whole = status.segments.iter().zip(&writers);
        if whole.clone().all(|(held, writer)| held.scl == writer.prev) {
            assert!(at_once >= 2, "{at_once} copies at a time");
            for (group, writer) in (0..3_u8).zip(&writers) {
                writer.check_pages(&mut nodes[1], group * 10 + 6, &PAGES, writer.prev);
            }
            return;
        }
    }
    panic!("{:#?}", nodes[1].status());
}

#[test]
fn a_busy_peer_is_asked_for_the_same_again_soon_and_given_up_when_it_stays_busy() {
    for batches in [5, 400] {
        let mut cluster = Cluster::new(6);
        cluster.load(batches, &[]);
        begin_join(&mut cluster);
        let is_piece = |message: &Message| match message {
            Message::ReadLog(_) => batches == 5,
            Message::ReadLayer(read) => read.layer > 0,
            _ => false,
        };
        let mut ask = cluster.next_ask(6, &is_piece);
        let mut asked = 1;
        loop {
            let shell = &mut cluster.nodes[6];
            let answer = Some(Message::Refused(Refusal::Overloaded));
            let token = ask.token;
            shell.event(Event::PeerAnswer { token, answer });
            let due = shell.core.poll_timeout().unwrap();
            shell.now = due.max(shell.now);
            shell.event(Event::Timeout);
            shell.work();
            let mut waited = Duration::ZERO;
            while shell.asks.is_empty() {
                let due = shell.core.poll_timeout().unwrap();
                waited += due.saturating_sub(shell.now);
                shell.now = due.max(shell.now);
                shell.event(Event::Timeout);
                shell.work();
            }
            let again = shell.asks.pop_front().unwrap();
            if again.message != ask.message {
                assert!(matches!(again.message, Message::Gossip(_)), "{again:?}");
                break;
            }
            assert!(waited < Duration::from_millis(100), "{waited:?}");
            (ask, asked) = (again, asked + 1);
        }
        assert!((100..400).contains(&asked), "{asked} times");
        cluster.rounds_until("join", &mut is_whole);
    }
}
