//! What a peer says of its layers is believed as far as it can be true.

use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::layer::LayerCatalog;
use sixfold_log_format::wire::{GossipAnswer, LayerPiece, Message, Refusal, Role};
use sixfold_log_format::{Lsn, VolumeEpoch};
use sixfold_storage_node_core::Event;

use crate::catch_up::{Cluster, check_node};
use crate::joining::{begin_join, is_whole};
use crate::shell::{Ask, Shell, node_id};
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

fn has_logged(shell: &Shell, what: &str) -> bool {
    shell.logged.iter().any(|(_, text)| text.contains(what))
}

/// The next request of node 6, in its time.
fn next_ask(cluster: &mut Cluster) -> Ask {
    cluster.next_ask(6, &|_| true)
}

fn is_layer(message: &Message) -> bool {
    matches!(message, Message::ReadLayer(read) if read.layer > 0)
}

/// What the peer that is asked says.
fn said(cluster: &mut Cluster, ask: &Ask) -> Option<Message> {
    let to = (0..6).find(|number| ask.node == node_id(*number))?;
    let peer = &mut cluster.nodes[usize::from(to)];
    let stream = peer.open_stream();
    peer.say_as(Role::Node, stream, ask.message.clone());
    peer.work();
    peer.take(stream).pop()
}

fn tell(cluster: &mut Cluster, ask: &Ask, answer: Option<Message>) {
    let token = ask.token;
    cluster.nodes[6].event(Event::PeerAnswer { token, answer });
    cluster.nodes[6].work();
}

/// Node 6 is whole, serves, and has no file that no catalog names.
fn check_joined(cluster: &mut Cluster) {
    cluster.rounds_until("join", &mut is_whole);
    let writer = cluster.writer.clone();
    check_node(&mut cluster.nodes[6], &writer, 6);
    let named = cluster.nodes[6].status().segments[0].layer_count;
    assert_eq!(cluster.nodes[6].layers.len() as u32, named);
}

#[test]
fn a_peer_that_merges_between_any_two_pieces_is_copied_all_the_same() {
    let mut cluster = Cluster::new(6);
    cluster.load(400, &[]);
    begin_join(&mut cluster);
    let mut forgotten = 0;
    for _ in 0..400 {
        let ask = next_ask(&mut cluster);
        let answer = said(&mut cluster, &ask);
        let is_forgotten = matches!(answer, Some(Message::Refused(Refusal::Forgotten { .. })));
        forgotten += u32::from(is_forgotten && is_layer(&ask.message));
        tell(&mut cluster, &ask, answer);
        if has_logged(&cluster.nodes[6], "copied the layers") {
            assert!(forgotten > 0, "no layer went meanwhile");
            assert!(!has_logged(&cluster.nodes[6], "copies no layers from"));
            return check_joined(&mut cluster);
        }
        if is_layer(&ask.message) {
            cluster.load(30, &[6]);
            cluster.nodes[..6].iter_mut().for_each(Shell::work);
        }
    }
    panic!("{forgotten} times, {:?}", cluster.nodes[6].logged);
}

#[test]
fn a_lost_answer_is_asked_for_again_and_throws_nothing_away() {
    let mut cluster = Cluster::new(6);
    cluster.load(400, &[]);
    begin_join(&mut cluster);
    // The first layer comes, and of every other request the first answer is lost.
    let first = cluster.next_ask(6, &is_layer);
    let answer = said(&mut cluster, &first);
    tell(&mut cluster, &first, answer);
    let mut layers = 0;
    while !has_logged(&cluster.nodes[6], "copied the layers") {
        let ask = next_ask(&mut cluster);
        assert!(is_layer(&ask.message), "{ask:?}");
        tell(&mut cluster, &ask, None);
        let again = next_ask(&mut cluster);
        assert_eq!(again.message, ask.message);
        let answer = said(&mut cluster, &again);
        tell(&mut cluster, &again, answer);
        layers += 1;
    }
    assert!(layers > 3, "{layers}");
    check_joined(&mut cluster);
}

#[test]
fn a_copy_ends_when_its_peer_is_gone_for_good_or_never_keeps_what_it_names() {
    for forgets in [false, true] {
        let mut cluster = Cluster::new(6);
        cluster.load(400, &[]);
        begin_join(&mut cluster);
        let first = cluster.next_ask(6, &is_layer);
        let answer = said(&mut cluster, &first);
        tell(&mut cluster, &first, answer);
        assert!(!cluster.nodes[6].layers.is_empty());
        let mut asked = 0;
        while !has_logged(&cluster.nodes[6], "copies no layers from") {
            let ask = next_ask(&mut cluster);
            let horizon = lsn(1);
            let answer = if is_layer(&ask.message) {
                forgets.then_some(Message::Refused(Refusal::Forgotten { horizon }))
            } else {
                said(&mut cluster, &ask)
            };
            tell(&mut cluster, &ask, answer);
            asked += 1;
            assert!(asked < 200);
        }
        assert!(cluster.nodes[6].layers.is_empty(), "nothing is left of it");
        check_joined(&mut cluster);
    }
}
