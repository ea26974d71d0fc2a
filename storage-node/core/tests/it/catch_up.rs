//! Catching up by layers, scrub, and what damage is healed with.

use std::time::Duration;

use sixfold_log_format::Lsn;
use sixfold_log_format::wire::{DropSegment, Message, Refusal, Role};
use sixfold_storage_node_core::{Event, StreamKey};

use crate::layers::{PAGES, check_at, say_heartbeat, small};
use crate::shell::{Ask, Shell, node_id};
use crate::writer::{Writer, create, refusal, segment_id, volume};

pub struct Cluster {
    pub nodes: Vec<Shell>,
    pub streams: Vec<StreamKey>,
    pub writer: Writer,
}

impl Cluster {
    pub fn new(count: u8) -> Cluster {
        let writer = Writer::first();
        let mut nodes: Vec<Shell> = (0..count)
            .map(|number| {
                let mut small = small();
                small.node = node_id(number);
                small.seed = u64::from(number);
                let mut shell = Shell::with(small);
                create(&mut shell, number);
                shell
            })
            .collect();
        let streams = (0..count)
            .map(|number| writer.attach(&mut nodes[usize::from(number)], number))
            .collect();
        Cluster {
            nodes,
            streams,
            writer,
        }
    }

    /// Ships batches to all nodes but those that are away.
    pub fn load(&mut self, batches: u64, away: &[usize]) {
        for number in 0..batches {
            let pages: Vec<u64> = (0..1 + number % 5)
                .map(|at| PAGES[((number + at) % 8) as usize])
                .collect();
            let batch = self.writer.batch(&pages);
            self.writer.vdl = batch.header().last;
            for node in (0..self.nodes.len()).filter(|node| !away.contains(node)) {
                let append = self.writer.append(&batch);
                self.nodes[node].say(self.streams[node], append);
                self.nodes[node].settle();
                say_heartbeat(&mut self.nodes[node], &mut self.writer, self.streams[node]);
            }
        }
    }

    pub fn round(&mut self) {
        for node in &mut self.nodes {
            node.now += Duration::from_millis(200);
            node.event(Event::Timeout);
            node.work();
        }
        for _ in 0..10_000 {
            let Some(from) =
                (0..self.nodes.len()).find(|index| !self.nodes[*index].asks.is_empty())
            else {
                return;
            };
            let ask = self.nodes[from].asks.pop_front().unwrap();
            let to = (0..self.nodes.len()).find(|index| ask.node == node_id(*index as u8));
            let answer = to.and_then(|to| {
                let stream = self.nodes[to].open_stream();
                self.nodes[to].say_as(Role::Node, stream, ask.message.clone());
                self.nodes[to].work();
                self.nodes[to].take(stream).pop()
            });
            self.nodes[from].event(Event::PeerAnswer {
                token: ask.token,
                answer,
            });
            self.nodes[from].work();
        }
        panic!("gossip does not end");
    }

    /// The next request of that kind from a node; everything before it is answered.
    pub fn next_ask(&mut self, node: usize, is_it: &dyn Fn(&Message) -> bool) -> Ask {
        for _ in 0..2_000 {
            let Some(ask) = self.nodes[node].asks.pop_front() else {
                let shell = &mut self.nodes[node];
                shell.now += Duration::from_millis(200);
                shell.event(Event::Timeout);
                shell.work();
                continue;
            };
            if is_it(&ask.message) {
                return ask;
            }
            let to = (0..self.nodes.len()).find(|index| ask.node == node_id(*index as u8));
            let answer = to.and_then(|to| {
                let stream = self.nodes[to].open_stream();
                self.nodes[to].say_as(Role::Node, stream, ask.message.clone());
                self.nodes[to].work();
                self.nodes[to].take(stream).pop()
            });
            let token = ask.token;
            self.nodes[node].event(Event::PeerAnswer { token, answer });
            self.nodes[node].work();
        }
        panic!("it never asks");
    }

    pub fn scl(&mut self, node: usize) -> Lsn {
        self.nodes[node].status().segments[0].scl
    }

    pub fn rounds_until(&mut self, what: &str, is_done: &mut dyn FnMut(&mut Cluster) -> bool) {
        for _ in 0..400 {
            if is_done(self) {
                return;
            }
            self.round();
        }
        let status: Vec<_> = self.nodes.iter_mut().map(Shell::status).collect();
        let logged: Vec<_> = self.nodes.iter().map(|node| &node.logged).collect();
        panic!("{what}: {status:#?} {logged:?}");
    }
}

#[test]
fn a_node_that_was_away_for_long_copies_layers_and_then_the_log() {
    let mut cluster = Cluster::new(6);
    cluster.load(20, &[]);
    cluster.load(600, &[5]);
    let start = cluster.nodes[0].status().segments[0].log_start;
    assert!(start > cluster.scl(5), "the log does not reach down to it");
    let tip = cluster.writer.prev;
    cluster.rounds_until("catch up", &mut |cluster| cluster.scl(5) == tip);
    let status = cluster.nodes[5].status();
    assert!(status.segments[0].layer_count > 0 && !status.segments[0].damaged);
    assert!(
        cluster.nodes[5]
            .logged
            .iter()
            .any(|(_, text)| text.contains("copied the layers")),
        "{:?}",
        cluster.nodes[5].logged
    );
    let writer = Writer {
        epoch: cluster.writer.epoch,
        ..cluster.writer.clone()
    };
    check_node(&mut cluster.nodes[5], &writer, 5);
    // And it keeps them over a restart.
    let shell = cluster.nodes.remove(5).crash(&|_| false);
    cluster.nodes.push(shell);
    cluster.nodes[5].work();
    assert_eq!(cluster.scl(5), tip);
    check_node(&mut cluster.nodes[5], &writer, 5);
    assert!(
        cluster.nodes[5].errors().is_empty(),
        "{:?}",
        cluster.nodes[5].logged
    );
}

/// Reads pages of node `number` at a few LSNs.
pub fn check_node(shell: &mut Shell, writer: &Writer, number: u8) {
    let lsns: Vec<Lsn> = writer
        .batches
        .iter()
        .map(|batch| batch.header().last)
        .collect();
    for at in lsns.iter().rev().step_by(37).take(12) {
        writer.check_pages(shell, number, &PAGES, *at);
    }
}

#[test]
fn a_damaged_layer_is_found_by_the_scrub_said_once_and_healed_from_a_peer() {
    let mut cluster = Cluster::new(6);
    cluster.load(300, &[]);
    let shell = &mut cluster.nodes[2];
    let (key, file) = shell.layers.iter_mut().next().unwrap();
    let key = *key;
    file.bytes[300] ^= 4;
    cluster.rounds_until("found", &mut |cluster| {
        cluster.nodes[2].status().upkeep.damage_found > 0
    });
    cluster.rounds_until("healed", &mut |cluster| {
        let status = cluster.nodes[2].status();
        !status.segments[0].damaged && status.upkeep.damage_healed > 0
    });
    let errors: Vec<String> = cluster.nodes[2]
        .errors()
        .iter()
        .map(|line| line.to_string())
        .collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    let aside = sixfold_storage_node_core::FileName::Layer(key.0, key.1);
    assert_eq!(cluster.nodes[2].set_aside, [aside]);
    let writer = cluster.writer.clone();
    check_node(&mut cluster.nodes[2], &writer, 2);
}

#[test]
fn a_batch_that_rots_in_the_hot_log_is_healed_from_a_peer() {
    let mut cluster = Cluster::new(6);
    cluster.load(60, &[]);
    let bytes = cluster.writer.batches[58].bytes().clone();
    for file in cluster.nodes[1].files.values_mut() {
        if let Some(at) = file
            .windows(bytes.len())
            .position(|window| *window == bytes[..])
        {
            file[at + 5] ^= 1;
        }
    }
    cluster.rounds_until("found", &mut |cluster| {
        cluster.nodes[1].status().upkeep.damage_found > 0
    });
    cluster.rounds_until("healed", &mut |cluster| {
        !cluster.nodes[1].status().segments[0].damaged
    });
    assert_eq!(cluster.nodes[1].status().upkeep.damage_healed, 1);
    assert_eq!(
        cluster.nodes[1].errors().len(),
        1,
        "{:?}",
        cluster.nodes[1].logged
    );
    let shell = cluster.nodes.remove(1).crash(&|_| false);
    cluster.nodes.insert(1, shell);
    cluster.nodes[1].work();
    cluster.rounds_until("proven", &mut |cluster| {
        let scl = cluster.writer.prev;
        cluster.scl(1) == scl && !cluster.nodes[1].status().segments[0].damaged
    });
    let writer = cluster.writer.clone();
    check_node(&mut cluster.nodes[1], &writer, 1);
}

#[test]
fn damage_in_the_middle_of_the_hot_log_at_a_start_is_healed_from_peers() {
    let mut cluster = Cluster::new(6);
    cluster.load(60, &[]);
    let tip = cluster.writer.prev;
    let bytes = cluster.writer.batches[40].bytes().clone();
    let mut shell = cluster.nodes.remove(3);
    for file in shell.files.values_mut() {
        if let Some(at) = file
            .windows(bytes.len())
            .position(|window| *window == bytes[..])
        {
            file[at + 9] ^= 1;
        }
    }
    let mut shell = shell.crash(&|_| false);
    shell.work();
    assert!(shell.stopped.is_none());
    let status = shell.status();
    assert!(status.segments[0].damaged);
    assert!(
        shell.errors()[0].contains("is damaged at offset"),
        "{:?}",
        shell.logged
    );
    cluster.nodes.insert(3, shell);
    cluster.rounds_until("healed", &mut |cluster| {
        cluster.scl(3) == tip && !cluster.nodes[3].status().segments[0].damaged
    });
    let writer = cluster.writer.clone();
    check_node(&mut cluster.nodes[3], &writer, 3);
}

#[test]
fn a_dropped_segment_is_gone_with_its_files_and_never_answers_again() {
    let mut shell = Shell::with(small());
    create(&mut shell, 0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    crate::layers::load(&mut shell, &mut writer, stream, 200);
    assert!(!shell.layers.is_empty());
    let ask = |shell: &mut Shell, volume| {
        let drop = DropSegment {
            segment: segment_id(0),
            volume,
        };
        shell.ask_as(Role::Operator, Message::DropSegment(drop))
    };
    let other = sixfold_log_format::VolumeId::from_bytes([1; 16]);
    assert!(matches!(
        refusal(ask(&mut shell, other)),
        Refusal::WrongVolume { .. }
    ));
    assert_eq!(ask(&mut shell, volume()), Message::Done);
    shell.pass(Duration::from_secs(1));
    assert!(shell.layers.is_empty() && shell.status().segments.is_empty());
    assert_eq!(ask(&mut shell, volume()), Message::Done);
    for life in 0..2 {
        let answer = shell.ask(writer.claim(0));
        assert_eq!(refusal(answer), Refusal::UnknownSegment, "life {life}");
        let create = sixfold_log_format::wire::CreateSegment {
            segment: segment_id(0),
            pg: sixfold_log_format::PgId::ROOT,
            manifest: crate::writer::manifest(1),
        };
        let answer = shell.ask(Message::CreateSegment(Box::new(create)));
        assert_eq!(refusal(answer), Refusal::Exists, "life {life}");
        shell = shell.crash(&|_| false);
        shell.work();
        assert!(shell.stopped.is_none());
    }
}

#[test]
fn a_layer_that_found_no_space_is_tried_again_when_its_time_comes() {
    let mut small = small();
    small.bounds.gossip_interval = Duration::from_secs(60);
    let mut shell = Shell::with(small);
    create(&mut shell, 0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    shell.layers_full = true;
    crate::layers::load(&mut shell, &mut writer, stream, 100);
    // A round of gossip looks what is due.
    shell.now = Duration::from_secs(70);
    shell.event(Event::Timeout);
    while shell.turn() || shell.complete_write() || shell.complete_layer_op() {}
    assert!(shell.layer_ops_done > 0 && shell.layers.is_empty());
    shell.layers_full = false;
    // Nothing but the clock says that it is time.
    let due = shell.core.poll_timeout().unwrap();
    assert!(shell.now < due && due <= shell.now + Duration::from_secs(1));
    shell.now = due;
    for _ in 0..1_000 {
        if shell.core.poll_timeout().is_none_or(|due| due > shell.now) {
            break;
        }
        shell.event(Event::Timeout);
        while shell.complete_write() || shell.complete_layer_op() {}
    }
    assert!(shell.core.poll_timeout().is_none_or(|due| due > shell.now));
    assert!(!shell.layers.is_empty());
}

#[test]
fn a_full_disk_refuses_batches_serves_reads_and_goes_on_when_space_returns() {
    let mut small = small();
    small.bounds.log_bytes_max = 1 << 30;
    small.bounds.unfolded_bytes_max = 1 << 30;
    let mut shell = Shell::with(small);
    create(&mut shell, 0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    crate::layers::load(&mut shell, &mut writer, stream, 20);
    shell.disk_full = true;
    shell.layers_full = true;
    let mut refused = false;
    for _ in 0..600 {
        let batch = writer.batch(&[2, 3, 4, 5, 6, 7]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.work();
        writer.vdl = shell.status().segments[0].scl;
        refused = shell
            .take(stream)
            .iter()
            .any(|message| *message == Message::Refused(Refusal::DiskFull));
        if refused {
            break;
        }
    }
    assert!(refused);
    assert!(shell.status().upkeep.full);
    let scl = shell.status().segments[0].scl;
    check_at(
        &mut shell,
        &Writer {
            prev: scl,
            ..writer.clone()
        },
        scl,
    )
    .unwrap();
    // Metadata still finds room: a claim is answered.
    let next = writer.reopen(scl, 3);
    assert!(matches!(shell.ask(next.claim(0)), Message::Census(_)));
    shell.disk_full = false;
    shell.layers_full = false;
    shell.pass(Duration::from_secs(3));
    assert!(!shell.status().upkeep.full);
    let mut next = next;
    let stream = next.attach(&mut shell, 0);
    crate::layers::load(&mut shell, &mut next, stream, 5);
    assert_eq!(shell.status().segments[0].scl, next.prev);
}
