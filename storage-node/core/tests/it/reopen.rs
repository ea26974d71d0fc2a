//! Whole reopenings: the real recovery machine against six real cores, with nodes down and batches lost.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;
use sixfold_log_format::wire::Message;
use sixfold_log_format::{Lsn, WriterId};
use sixfold_recovery::machine::{
    Caller, Opened, Recovery, RecoveryAction, RecoveryError, RecoveryEvent, RecoveryOptions,
};
use sixfold_storage_node_core::StreamKey;

use crate::shell::{Shell, node_id};
use crate::writer::{Writer, node, volume};

struct Cluster {
    nodes: Vec<Shell>,
    down: Vec<usize>,
    now: Duration,
    attempts: u8,
}

impl Cluster {
    fn new() -> Cluster {
        let nodes = (0..6).map(node).collect();
        Cluster {
            nodes,
            down: Vec::new(),
            now: Duration::from_secs(10),
            attempts: 0,
        }
    }

    /// Answers of a node, or nothing when it is down.
    fn call(&mut self, index: usize, message: Message) -> Vec<Message> {
        if self.down.contains(&index) {
            return Vec::new();
        }
        let shell = &mut self.nodes[index];
        shell.now = self.now;
        let stream = shell.open_stream();
        shell.say(stream, message);
        shell.settle();
        shell.take(stream)
    }

    fn reopen(&mut self, take_over: bool) -> Result<Opened, RecoveryError> {
        self.attempts += 1;
        let options = RecoveryOptions {
            volume: volume(),
            nodes: (0..6).map(node_id).collect(),
            writer: WriterId::from_bytes([self.attempts; 16]),
            take_over,
            in_use: Duration::from_secs(1),
            declare_lost: Vec::new(),
            deadline: Duration::from_secs(5),
            lease: Duration::from_millis(50),
            seed: u64::from(self.attempts),
            caller: Caller::Stranger,
        };
        let mut recovery = Recovery::new(options, self.now);
        let mut sends = VecDeque::new();
        for _ in 0..100_000 {
            while let Some(action) = recovery.poll_action() {
                match action {
                    RecoveryAction::Send {
                        request,
                        node,
                        message,
                    } => {
                        sends.push_back((request, node, message));
                    }
                    RecoveryAction::Phase(_) => {}
                    RecoveryAction::Done(result) => return *result,
                }
            }
            if let Some((request, node, message)) = sends.pop_front() {
                let index = (0..6).find(|index| node_id(*index as u8) == node).unwrap();
                let answers = self.call(index, message);
                if answers.is_empty() {
                    recovery.handle(self.now, RecoveryEvent::Unreachable { request });
                }
                for message in answers {
                    recovery.handle(self.now, RecoveryEvent::Answer { request, message });
                }
            } else {
                self.now = self
                    .now
                    .max(recovery.poll_timeout().expect("nothing to wait for"));
                recovery.handle(self.now, RecoveryEvent::Timeout);
            }
        }
        panic!("the recovery does not end");
    }

    fn status_scl(&mut self, index: usize) -> Lsn {
        self.nodes[index].status().segments[0].scl
    }

    /// The highest LSN that a write quorum holds under the writer's history: what it may have answered.
    fn answered(&mut self, writer: Option<&Writer>) -> Lsn {
        let Some(writer) = writer else {
            return Lsn::NONE;
        };
        let mut scls: Vec<Lsn> = self
            .nodes
            .iter_mut()
            .map(|node| node.status().segments[0].clone())
            .filter(|segment| segment.history_epoch == writer.epoch)
            .map(|segment| segment.scl)
            .collect();
        scls.sort_unstable();
        scls.len()
            .checked_sub(4)
            .map_or(Lsn::NONE, |fourth| scls[fourth])
    }
}

/// The writer that an opened volume makes, with the pages that were left by the cut.
fn writer_of(opened: &Opened, before: Option<&Writer>) -> Writer {
    let mut writer = before.cloned().unwrap_or_else(Writer::first);
    for versions in writer.pages.values_mut() {
        versions.retain(|page| page.lsn() <= opened.cut);
    }
    writer.pages.retain(|_, versions| !versions.is_empty());
    Writer {
        epoch: opened.volume_epoch,
        id: opened.writer,
        history: opened.history.clone(),
        manifest: opened.manifest.clone(),
        next: opened.vdl.next(),
        prev: opened.pg_last[0].1,
        vdl: opened.vdl,
        batches: Vec::new(),
        sequence: 0,
        ..writer
    }
}

fn attach_all(cluster: &mut Cluster, writer: &Writer) -> Vec<Option<StreamKey>> {
    (0..6)
        .map(|index| {
            if cluster.down.contains(&index) {
                return None;
            }
            cluster.nodes[index].now = cluster.now;
            Some(writer.attach(&mut cluster.nodes[index], index as u8))
        })
        .collect()
}

#[test]
fn a_fresh_volume_opens_and_a_volume_in_use_does_not() {
    let mut cluster = Cluster::new();
    let opened = cluster.reopen(false).unwrap();
    assert_eq!(opened.volume_epoch.get(), 2);
    let mut writer = writer_of(&opened, None);
    let streams = attach_all(&mut cluster, &writer);
    let batch = writer.batch(&[2, 3]);
    for (index, stream) in streams.iter().enumerate() {
        let ack = writer.ship(&mut cluster.nodes[index], stream.unwrap(), &batch);
        assert_eq!(ack.scl, batch.header().last);
    }
    assert!(matches!(
        cluster.reopen(false),
        Err(RecoveryError::InUse { .. })
    ));
    let opened = cluster.reopen(true).unwrap();
    assert_eq!(opened.cut, batch.header().last);
    assert!(
        opened.lease_wait <= Duration::from_millis(60),
        "{:?}",
        opened.lease_wait
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_write_quorum_held_survives_every_reopening(
        lives in prop::collection::vec(
            (
                prop::collection::vec((0_u64..64, 1_usize..6), 0..12),
                prop::collection::btree_set(0_usize..6, 0..3),
                prop::collection::btree_set(0_usize..6, 0..6),
            ),
            1..5,
        )
    ) {
        let mut cluster = Cluster::new();
        let mut before: Option<Writer> = None;
        let mut answered = Lsn::NONE;
        for (batches, down, crashed) in lives {
            cluster.down = down.into_iter().collect();
            answered = answered.max(cluster.answered(before.as_ref()));
            let opened = cluster.reopen(true).unwrap();
            prop_assert!(opened.cut >= answered, "answered {answered}, cut {}", opened.cut);
            let mut writer = writer_of(&opened, before.as_ref());
            let streams = attach_all(&mut cluster, &writer);
            for index in 0..6 {
                let up = !cluster.down.contains(&index);
                if up && cluster.status_scl(index) >= opened.pg_last[0].1 {
                    writer.check_pages(&mut cluster.nodes[index], index as u8, &[2, 3, 4, 5, 6], opened.vdl);
                }
            }
            // Each batch is lost at the nodes that its mask names, and where nodes are down.
            for (lost, records) in batches {
                let pages: Vec<u64> = (0..records as u64).map(|page| 2 + (page + lost) % 5).collect();
                let (one, other) = pages.split_at(records / 2);
                let batch = if one.is_empty() { writer.batch(other) } else { writer.mtrs(&[one, other]) };
                for (index, stream) in streams.iter().enumerate() {
                    if let Some(stream) = stream.filter(|_| lost >> index & 1 == 0) {
                        writer.ship(&mut cluster.nodes[index], stream, &batch);
                    }
                }
            }
            for index in crashed {
                let shell = cluster.nodes.remove(index);
                let mut shell = shell.crash(&|_| false);
                shell.settle();
                cluster.nodes.insert(index, shell);
            }
            before = Some(writer);
        }
        cluster.down.clear();
        answered = answered.max(cluster.answered(before.as_ref()));
        let opened = cluster.reopen(true).unwrap();
        prop_assert!(opened.cut >= answered);
        let writer = writer_of(&opened, before.as_ref());
        let mut whole = 0;
        for index in 0..6 {
            cluster.nodes[index].ask(writer.attach_message(index as u8));
            if cluster.status_scl(index) >= opened.pg_last[0].1 {
                writer.check_pages(&mut cluster.nodes[index], index as u8, &[2, 3, 4, 5, 6], opened.vdl);
                whole += 1;
            }
        }
        prop_assert!(whole >= 4, "refilled {whole}");
        for shell in &cluster.nodes {
            prop_assert!(shell.errors().is_empty(), "{:?}", shell.errors());
        }
    }
}
