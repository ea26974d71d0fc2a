//! What a peer says of its layers is believed as far as it can be true.

use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::layer::LayerCatalog;
use sixfold_log_format::wire::{GossipAnswer, LayerPiece, Message, Refusal};
use sixfold_log_format::{Lsn, VolumeEpoch};
use sixfold_storage_node_core::Event;

use crate::catch_up::Cluster;
use crate::shell::{Ask, Shell};
use crate::writer::{Writer, lsn, node};

/// What a peer with a forgotten log and this catalog answers.
fn answer(ask: &Ask, epoch: VolumeEpoch, catalog: &LayerCatalog) -> Message {
    match &ask.message {
        Message::Gossip(gossip) => Message::GossipAnswer(Box::new(GossipAnswer {
            segment: gossip.segment,
            history_epoch: epoch,
            scl: lsn(5_000),
            vdl_seen: lsn(5_000),
            asker_scl_max: Lsn::NONE,
            newer: None,
        })),
        Message::ReadLog(_) => Message::Refused(Refusal::Forgotten {
            horizon: lsn(5_000),
        }),
        Message::ReadLayer(_) => {
            let bytes = Bytes::from(catalog.encode());
            Message::LayerPiece(LayerPiece {
                layer_bytes: bytes.len() as u64,
                bytes,
            })
        }
        other => panic!("{other:?}"),
    }
}

fn told_a_catalog(folded_through: Lsn) -> Shell {
    let mut shell = node(0);
    let writer = Writer::first();
    writer.attach(&mut shell, 0);
    let catalog = LayerCatalog {
        folded_through,
        ..LayerCatalog::default()
    };
    for _ in 0..40 {
        let Some(ask) = shell.asks.pop_front() else {
            shell.work();
            shell.now += Duration::from_millis(300);
            shell.event(Event::Timeout);
            continue;
        };
        let is_last = matches!(ask.message, Message::ReadLayer(_));
        let answer = Some(answer(&ask, writer.epoch, &catalog));
        let token = ask.token;
        shell.event(Event::PeerAnswer { token, answer });
        if is_last {
            shell.work();
            return shell;
        }
    }
    panic!("the node asks for no layers");
}

#[test]
fn a_catalog_that_reaches_farther_than_its_peers_scl_or_has_holes_is_not_taken() {
    for folded_through in [lsn(u64::MAX), lsn(5_001), lsn(4_000)] {
        let mut shell = told_a_catalog(folded_through);
        assert_eq!(shell.status().segments[0].folded_through, Lsn::NONE);
        let mut shell = shell.crash(&|_| true);
        shell.work();
        assert!(shell.stopped.is_none());
        assert!(shell.status().segments[0].scl < lsn(4_000));
    }
}

#[test]
fn a_copy_ends_when_the_history_changes() {
    let mut cluster = Cluster::new(6);
    cluster.load(20, &[]);
    cluster.load(400, &[5]);
    cluster.next_ask(
        5,
        &|message| matches!(message, Message::ReadLayer(read) if read.layer > 0),
    );
    let next = cluster.writer.reopen(cluster.writer.prev, 3);
    let shell = &mut cluster.nodes[5];
    shell.ask(next.claim(5));
    shell.ask(next.install(5));
    let ended = shell
        .logged
        .iter()
        .any(|(_, text)| text.contains("another history is in force"));
    assert!(ended, "{:?}", shell.logged);
}
