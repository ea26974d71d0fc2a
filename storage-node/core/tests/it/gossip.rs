//! Gossip: histories first, then batches; holes close without the writer.

use std::time::Duration;

use sixfold_log_format::wire::{Message, Refusal, Role};
use sixfold_log_format::{Lsn, WriterId};
use sixfold_storage_node_core::Event;

use crate::shell::{Shell, node_id};
use crate::writer::{Writer, last_ack, node, refusal};

struct Cluster {
    nodes: Vec<Shell>,
}

impl Cluster {
    fn new(count: u8) -> Cluster {
        Cluster {
            nodes: (0..count).map(node).collect(),
        }
    }

    /// Carries requests between nodes until there are none; nodes that are not there cannot be reached.
    fn deliver(&mut self) {
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
                self.nodes[to].settle();
                let mut answers = self.nodes[to].take(stream);
                assert!(
                    answers.len() <= 1,
                    "one answer for one request: {answers:?}"
                );
                answers.pop()
            });
            self.nodes[from].event(Event::PeerAnswer {
                token: ask.token,
                answer,
            });
            self.nodes[from].settle();
        }
        panic!("gossip does not end");
    }

    fn round(&mut self) {
        for node in &mut self.nodes {
            node.now += Duration::from_millis(200);
            node.event(Event::Timeout);
        }
        self.deliver();
    }

    fn scls(&mut self) -> Vec<Lsn> {
        self.nodes
            .iter_mut()
            .map(|node| node.status().segments[0].scl)
            .collect()
    }

    fn rounds_until(&mut self, scl: Lsn) -> usize {
        for round in 0..200 {
            if self.scls().iter().all(|held| *held == scl) {
                return round;
            }
            self.round();
        }
        panic!("{:?} instead of {scl}", self.scls());
    }
}

#[test]
fn holes_and_lost_last_batches_close_without_the_writer() {
    let mut cluster = Cluster::new(6);
    let mut writer = Writer::first();
    let streams: Vec<_> = (0..6_u8)
        .map(|number| writer.attach(&mut cluster.nodes[usize::from(number)], number))
        .collect();
    for number in 0..60_usize {
        let batch = writer.batch(&[2, 3, 4]);
        for (index, stream) in streams.iter().enumerate() {
            // Each batch is lost at two nodes; the last ones at node 5.
            let lost =
                index == number % 6 || index == (number + 1) % 6 || (index == 5 && number > 50);
            if !lost {
                let append = writer.append(&batch);
                cluster.nodes[index].say(*stream, append);
                cluster.nodes[index].settle();
            }
        }
    }
    cluster.rounds_until(writer.prev);
    for number in 0..6_u8 {
        writer.check_pages(
            &mut cluster.nodes[usize::from(number)],
            number,
            &[2, 3, 4],
            writer.prev,
        );
    }
    let brought: u64 = cluster
        .nodes
        .iter_mut()
        .map(|node| node.status().gossip_batches)
        .sum();
    assert!(brought >= 120, "{brought}");
}

#[test]
fn a_node_that_was_away_takes_the_history_first_and_then_everything() {
    let mut cluster = Cluster::new(6);
    let mut old = Writer::first();
    let mut away = cluster.nodes.pop().unwrap();
    // The node that is away holds a batch that nobody else has; it will be annulled.
    let stream = old.attach(&mut away, 5);
    let lonely = old.batch(&[9]);
    old.ship(&mut away, stream, &lonely);

    let mut new = old.reopen(old.vdl, 3);
    for number in 0..5_u8 {
        let shell = &mut cluster.nodes[usize::from(number)];
        let stream = new.attach(shell, number);
        if number == 0 {
            for _ in 0..300 {
                new.batch(&[2, 3, 4, 5]);
            }
        }
        for batch in new.batches.clone() {
            let append = new.append(&batch);
            shell.say(stream, append);
        }
        shell.settle();
    }
    cluster.nodes.push(away);
    cluster.rounds_until(new.prev);
    let status = cluster.nodes[5].status();
    assert_eq!(status.segments[0].history_epoch, new.epoch);
    assert!(matches!(
        cluster.nodes[5].take(stream).pop(),
        Some(Message::Refused(Refusal::StaleEpoch { .. }))
    ));
    new.check_pages(&mut cluster.nodes[5], 5, &[2, 3, 9], new.prev);
    // The writer shows itself later and is accepted, a rival is not.
    let (_, attached) = new.attached(&mut cluster.nodes[5], 5);
    assert_eq!(attached.scl, new.prev);
    let mut rival = new.clone();
    rival.id = WriterId::from_bytes([3; 16]);
    let answer = cluster.nodes[5].ask(rival.attach_message(5));
    assert!(matches!(refusal(answer), Refusal::StaleEpoch { .. }));
}

#[test]
fn a_history_below_the_claim_is_taken_from_no_peer() {
    let mut cluster = Cluster::new(2);
    let first = Writer::first();
    let loser = first.reopen(first.vdl, 3);
    cluster.nodes[1].ask(loser.install(1));
    let candidate = first.reopen(first.vdl, 4);
    cluster.nodes[0].ask(candidate.claim(0));
    for _ in 0..100 {
        cluster.round();
    }
    let status = cluster.nodes[0].status();
    assert_eq!(status.segments[0].history_epoch.get(), 1, "R4");
    assert_eq!(status.segments[0].claim.get(), 4);
}

#[test]
fn nothing_is_pulled_while_the_writer_feeds_everybody() {
    let mut cluster = Cluster::new(6);
    let mut writer = Writer::first();
    let streams: Vec<_> = (0..6_u8)
        .map(|number| writer.attach(&mut cluster.nodes[usize::from(number)], number))
        .collect();
    for _ in 0..40 {
        let batch = writer.batch(&[2]);
        for (index, stream) in streams.iter().enumerate() {
            // Between two nodes a gossip round looks: half of them are one batch behind.
            if index == 3 {
                cluster.round();
            }
            let append = writer.append(&batch);
            cluster.nodes[index].say(*stream, append);
            cluster.nodes[index].settle();
        }
    }
    let brought: u64 = cluster
        .nodes
        .iter_mut()
        .map(|node| node.status().gossip_batches)
        .sum();
    assert_eq!(brought, 0);
}

#[test]
fn a_heartbeat_that_names_a_lost_batch_makes_gossip_fetch_it_in_a_round() {
    let mut cluster = Cluster::new(6);
    let mut writer = Writer::first();
    let streams: Vec<_> = (0..6_u8)
        .map(|number| writer.attach(&mut cluster.nodes[usize::from(number)], number))
        .collect();
    let batch = writer.batch(&[2]);
    for (index, stream) in streams.iter().enumerate().take(5) {
        let append = writer.append(&batch);
        cluster.nodes[index].say(*stream, append);
        cluster.nodes[index].settle();
    }
    let heartbeat = writer.heartbeat();
    cluster.nodes[5].say(streams[5], heartbeat);
    assert_eq!(last_ack(&mut cluster.nodes[5], streams[5]).scl, Lsn::NONE);
    assert_eq!(cluster.rounds_until(writer.prev), 1);
}

#[test]
fn a_segment_that_lost_acknowledged_records_learns_of_it_and_is_healed() {
    let mut cluster = Cluster::new(6);
    let mut writer = Writer::first();
    for number in 0..6_u8 {
        let shell = &mut cluster.nodes[usize::from(number)];
        let stream = writer.attach(shell, number);
        if number == 0 {
            for _ in 0..10 {
                writer.batch(&[2, 3]);
            }
        }
        for batch in writer.batches.clone() {
            writer.ship(shell, stream, &batch);
        }
    }
    for _ in 0..40 {
        cluster.round();
    }
    // The last, acknowledged group of node 2 rots, which looks like a torn tail (R12).
    let mut shell = cluster.nodes.remove(2);
    let bytes = writer.batches[9].bytes().clone();
    for file in shell.files.values_mut() {
        if let Some(found) = file
            .windows(bytes.len())
            .position(|window| *window == bytes[..])
        {
            file[found] ^= 1;
        }
    }
    cluster.nodes.insert(2, shell.crash(&|_| false));
    cluster.nodes[2].settle();
    assert_eq!(cluster.scls()[2], writer.batches[8].header().last);
    cluster.round();
    assert_eq!(
        cluster.nodes[2].errors().len(),
        1,
        "{:?}",
        cluster.nodes[2].logged
    );
    cluster.rounds_until(writer.prev);
    assert!(!cluster.nodes[2].status().segments[0].damaged);
}

#[test]
fn a_newer_manifest_spreads_but_not_below_a_claim() {
    let mut cluster = Cluster::new(2);
    let first = Writer::first();
    let mut changed = first.clone();
    changed.manifest.version.membership_epoch = sixfold_log_format::MembershipEpoch::new(2);
    cluster.nodes[0].ask(first.install(0));
    cluster.nodes[1].ask(changed.install(1));
    let probe = |cluster: &mut Cluster| {
        let probe = sixfold_log_format::wire::Probe {
            volume: crate::writer::volume(),
        };
        match cluster.nodes[0].ask(Message::Probe(probe)) {
            Message::ProbeAnswer(answer) => answer.manifest.unwrap().version,
            other => panic!("{other:?}"),
        }
    };
    let candidate = first.reopen(first.vdl, 3);
    let mut claimed = Cluster::new(2);
    claimed.nodes[0].ask(first.install(0));
    claimed.nodes[1].ask(changed.install(1));
    claimed.nodes[0].ask(candidate.claim(0));
    for _ in 0..60 {
        cluster.round();
        claimed.round();
    }
    assert_eq!(probe(&mut cluster), changed.manifest.version);
    assert_eq!(probe(&mut claimed), first.manifest.version, "R4, R21");
}

#[test]
fn a_pull_whose_queue_was_given_up_goes_on_when_there_is_space_again() {
    let mut cluster = Cluster::new(2);
    cluster.nodes[1].hold_making = true;
    let mut writer = Writer::first();
    let streams = [0_u8, 1].map(|number| {
        let shell = &mut cluster.nodes[usize::from(number)];
        writer.attach(shell, number)
    });
    // More than half of what may wait does, for a file that does not come.
    let queued = |shell: &mut Shell| shell.status().upkeep.memory.queued_bytes;
    for number in 0..20_000 {
        let batch = writer.batch(&[2, 3, 4, 5, 6, 7, 8, 9]);
        for (index, stream) in streams.iter().enumerate() {
            let append = writer.append(&batch);
            cluster.nodes[index].say(*stream, append);
            cluster.nodes[index].settle();
        }
        if number % 64 == 0 && queued(&mut cluster.nodes[1]) > 600 << 10 {
            break;
        }
    }
    assert!(queued(&mut cluster.nodes[1]) > 600 << 10);
    for _ in 0..5 {
        cluster.round();
    }
    let lagging = cluster.scls()[1];
    assert!(lagging < writer.prev);
    cluster.nodes[1].disk_full = true;
    cluster.nodes[1].complete_making();
    cluster.nodes[1].settle();
    assert_eq!(queued(&mut cluster.nodes[1]), 0);
    assert_eq!(cluster.scls(), [writer.prev, lagging]);
    cluster.nodes[1].disk_full = false;
    cluster.nodes[1].hold_making = false;
    cluster.rounds_until(writer.prev);
}
