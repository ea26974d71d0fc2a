//! Whatever arrives: the node answers, refuses or disconnects, and never panics.

use bytes::Bytes;
use proptest::prelude::*;
use sixfold_log_format::Lsn;
use sixfold_log_format::PgId;
use sixfold_log_format::wire::{
    AskHints, AskWish, CreateSegment, DropSegment, Gossip, LeaveHint, Message, Probe, ReadLayer,
    ReadLog, RetireVolume, Role, Survey, Wish, WishReport, WishState, WishVerb,
};
use sixfold_storage_node_core::{ConnectionKey, DiskToken, Event, PeerToken, StreamKey};

use crate::shell::Shell;
use crate::writer::{Writer, manifest, node, segment_id, volume};

const ROLES: [Role; 4] = [Role::Writer, Role::Node, Role::Reader, Role::Operator];

fn samples() -> Vec<Message> {
    let mut writer = Writer::first();
    let batch = writer.batch(&[2, 3, 4]);
    let next = writer.reopen(batch.header().first, 3);
    vec![
        writer.attach_message(0),
        writer.append(&batch),
        writer.heartbeat(),
        writer.refill(0, std::slice::from_ref(&batch)),
        next.claim(0),
        next.install(0),
        writer.read(0, &[2, 3], writer.prev, writer.prev),
        Message::Probe(Probe { volume: volume() }),
        Message::AskStatus,
        Message::ReadLog(ReadLog {
            segment: segment_id(0),
            history_epoch: writer.epoch,
            after: Lsn::NONE,
            through: Lsn::MAX,
            bytes_max: u32::MAX,
        }),
        Message::ReadLayer(ReadLayer {
            segment: segment_id(0),
            layer: 0,
            offset: 0,
            bytes_max: 9,
        }),
        Message::Gossip(Gossip {
            segment: segment_id(0),
            from: segment_id(1),
            history_epoch: writer.epoch,
            manifest_version: writer.manifest.version,
            scl: Lsn::MAX,
            vdl_seen: Lsn::MAX,
        }),
        Message::CreateSegment(Box::new(CreateSegment {
            segment: segment_id(0),
            pg: PgId::ROOT,
            manifest: manifest(1),
        })),
        Message::Echo(Bytes::from_static(b"echo")),
        Message::Survey(Survey {
            segment: segment_id(0),
        }),
        Message::DropSegment(DropSegment {
            segment: segment_id(0),
            volume: volume(),
        }),
        Message::Wish(Wish {
            id: [1; 16],
            volume: volume(),
            verb: WishVerb::Grow,
            subject: [0; 16],
            object: [0; 16],
        }),
        Message::WishReport(Box::new(WishReport {
            volume: volume(),
            volume_epoch: writer.epoch,
            writer: writer.id,
            id: [1; 16],
            state: WishState::Working,
            done: 1,
            of: 2,
            text: String::new(),
        })),
        Message::AskWish(AskWish {
            volume: volume(),
            id: [1; 16],
        }),
        Message::LeaveHint(Box::new(LeaveHint {
            volume: volume(),
            hint: manifest(1).hints[0].clone(),
        })),
        Message::AskHints(AskHints { volume: volume() }),
        Message::RetireVolume(RetireVolume { volume: volume() }),
    ]
}

fn body(message: &Message) -> Vec<u8> {
    let frame = message.encode();
    let mut bytes = frame.head[4..].to_vec();
    frame
        .tail
        .iter()
        .for_each(|tail| bytes.extend_from_slice(tail));
    bytes
}

fn loaded() -> Shell {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let batch = writer.batch(&[2, 3, 4]);
    writer.ship(&mut shell, stream, &batch);
    shell
}

#[test]
fn any_order_of_sound_messages_is_survived() {
    let mut shell = node(0);
    let messages = samples();
    for round in 0..messages.len() {
        for (index, role) in ROLES.iter().cycle().enumerate().take(messages.len() * 4) {
            let message = messages[(index * (round + 1) + round) % messages.len()].clone();
            let stream = StreamKey((index % 3) as u64 + 1_000);
            shell.say_as(*role, stream, message);
            if index % 5 == 0 {
                shell.complete_write();
            }
            if index % 7 == 0 {
                shell.event(Event::StreamClosed { stream });
            }
        }
    }
    shell.settle();
    assert!(shell.stopped.is_none());
    let shell = shell.crash(&|_| false);
    assert!(shell.stopped.is_none(), "{:?}", shell.stopped);
}

#[test]
fn answers_that_nobody_asked_for_are_ignored() {
    let mut shell = loaded();
    shell.event(Event::PeerAnswer {
        token: PeerToken(77),
        answer: None,
    });
    shell.event(Event::Read {
        token: DiskToken(78),
        result: Ok(Bytes::new()),
    });
    shell.event(Event::StreamClosed {
        stream: StreamKey(79),
    });
    assert!(shell.stopped.is_none());
}

#[test]
fn a_failed_write_ends_the_process() {
    let mut shell = loaded();
    let mut writer = Writer::first();
    writer.batch(&[2, 3, 4]);
    let stream = writer.attach(&mut shell, 0);
    let batch = writer.batch(&[5]);
    let append = writer.append(&batch);
    shell.say(stream, append);
    let token = shell.writes.pop_front().unwrap().token;
    let result = Err(sixfold_storage_node_core::DiskError::Failed);
    shell.event(Event::Written { token, result });
    assert!(shell.stopped.is_some());
    assert!(
        shell.take(stream).is_empty(),
        "nothing is acknowledged on hope"
    );
    shell.say(stream, Message::AskStatus);
    assert!(shell.take(stream).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_messages_never_panic(
        picks in prop::collection::vec((0_usize..14, any::<u16>(), any::<u8>(), 0_usize..4, any::<bool>()), 1..40)
    ) {
        let mut shell = loaded();
        let messages = samples();
        for (pick, at, byte, role, restart) in picks {
            let mut bytes = body(&messages[pick % messages.len()]);
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
            if let Ok(message) = Message::decode(Bytes::from(bytes)) {
                let stream = shell.open_stream();
                let event = Event::Message { connection: ConnectionKey(1), role: ROLES[role], stream, message };
                shell.event(event);
            }
            if restart {
                shell.settle();
            }
        }
        shell.settle();
        prop_assert!(shell.stopped.is_none());
        let shell = shell.crash(&|_| false);
        prop_assert!(shell.stopped.is_none(), "{:?}", shell.stopped);
    }
}
