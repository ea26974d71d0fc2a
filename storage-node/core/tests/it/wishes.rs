//! Wishes, reports and addresses: left with a node, carried to the writer, forgotten when they are done.

use std::time::Duration;

use sixfold_log_format::limits::WISHES_OPEN_MAX;
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{
    AskHints, AskWish, LeaveHint, Message, Refusal, RetireVolume, Role, Wish, WishReport,
    WishState, WishVerb,
};
use sixfold_log_format::{MembershipEpoch, NodeId, VolumeId};
use sixfold_storage_node_core::{Event, StreamKey};

use crate::shell::{Shell, node_id};
use crate::writer::{Writer, last_ack, node, refusal, volume};

fn wish(number: u8) -> Wish {
    Wish {
        id: [number; 16],
        volume: volume(),
        verb: WishVerb::Drain,
        subject: [9; 16],
        object: [0; 16],
    }
}

fn leave(shell: &mut Shell, wish: Wish) -> Message {
    shell.ask_as(Role::Operator, Message::Wish(wish))
}

fn report(writer: &Writer, number: u8, state: WishState) -> Message {
    Message::WishReport(Box::new(WishReport {
        volume: volume(),
        volume_epoch: writer.epoch,
        writer: writer.id,
        id: [number; 16],
        state,
        done: 1,
        of: 2,
        text: "one of two".into(),
    }))
}

fn ask(shell: &mut Shell, number: u8) -> Message {
    let ask = AskWish {
        volume: volume(),
        id: [number; 16],
    };
    shell.ask_as(Role::Operator, Message::AskWish(ask))
}

fn state(answer: Message) -> WishState {
    match answer {
        Message::WishReport(report) => report.state,
        other => panic!("{other:?}"),
    }
}

/// Numbers of the wishes that the next ack carries.
fn carried(shell: &mut Shell, writer: &mut Writer, stream: StreamKey) -> Vec<u8> {
    let heartbeat = writer.heartbeat();
    shell.say(stream, heartbeat);
    let ack = last_ack(shell, stream);
    ack.wishes.iter().map(|wish| wish.id[0]).collect()
}

#[test]
fn an_ack_carries_a_wish_once_until_the_writer_is_silent_about_it_for_a_while() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    assert!(carried(&mut shell, &mut writer, stream).is_empty());
    assert_eq!(leave(&mut shell, wish(1)), Message::Done);
    assert_eq!(leave(&mut shell, wish(1)), Message::Done);
    assert_eq!(state(ask(&mut shell, 1)), WishState::Open);
    assert_eq!(carried(&mut shell, &mut writer, stream), [1]);
    assert!(carried(&mut shell, &mut writer, stream).is_empty());
    shell.now += Duration::from_secs(2);
    assert_eq!(carried(&mut shell, &mut writer, stream), [1]);
    let working = report(&writer, 1, WishState::Working);
    assert_eq!(shell.ask(working), Message::Done);
    assert_eq!(state(ask(&mut shell, 1)), WishState::Working);
    shell.now += Duration::from_secs(20);
    assert!(carried(&mut shell, &mut writer, stream).is_empty());
    // Another writer has not heard of it.
    let mut next = writer.reopen(writer.vdl, 3);
    let stream = next.attach(&mut shell, 0);
    assert_eq!(carried(&mut shell, &mut next, stream), [1]);
    let done = report(&next, 1, WishState::Done);
    assert_eq!(shell.ask(done), Message::Done);
    shell.now += Duration::from_secs(20);
    assert!(carried(&mut shell, &mut next, stream).is_empty());
    assert_eq!(state(ask(&mut shell, 1)), WishState::Done);
    // It is done once, however often it is left.
    assert_eq!(leave(&mut shell, wish(1)), Message::Done);
    assert!(carried(&mut shell, &mut next, stream).is_empty());
}

#[test]
fn a_fenced_writer_reports_nothing_and_nobody_reports_for_others() {
    let mut shell = node(0);
    let writer = Writer::first();
    writer.attach(&mut shell, 0);
    let next = writer.reopen(writer.vdl, 3);
    shell.ask(next.claim(0));
    leave(&mut shell, wish(1));
    let answer = shell.ask(report(&writer, 1, WishState::Done));
    assert!(matches!(refusal(answer), Refusal::StaleEpoch { .. }));
    let mut rival = next.clone();
    rival.id = writer.id;
    let answer = shell.ask(report(&rival, 1, WishState::Done));
    assert!(matches!(refusal(answer), Refusal::StaleEpoch { .. }));
    assert_eq!(state(ask(&mut shell, 1)), WishState::Open);
    for role in [Role::Operator, Role::Reader, Role::Node] {
        let answer = shell.ask_as(role, report(&next, 1, WishState::Done));
        assert_eq!(refusal(answer), Refusal::NotAllowed);
    }
    let answer = shell.ask_as(Role::Writer, Message::Wish(wish(2)));
    assert_eq!(refusal(answer), Refusal::NotAllowed);
}

#[test]
fn wishes_are_bounded_of_known_volumes_and_gone_after_a_restart_or_a_retirement() {
    let mut shell = node(0);
    for number in 0..WISHES_OPEN_MAX as u8 {
        assert_eq!(leave(&mut shell, wish(number)), Message::Done);
    }
    let answer = leave(&mut shell, wish(200));
    assert_eq!(refusal(answer), Refusal::Overloaded);
    let answer = leave(
        &mut shell,
        Wish {
            volume: VolumeId::from_bytes([1; 16]),
            ..wish(200)
        },
    );
    assert_eq!(refusal(answer), Refusal::UnknownSegment);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    assert_eq!(
        carried(&mut shell, &mut writer, stream).len(),
        WISHES_OPEN_MAX
    );
    for number in 0..100 {
        let refused = report(&writer, number, WishState::Refused);
        assert_eq!(shell.ask(refused), Message::Done);
    }
    assert_eq!(
        refusal(ask(&mut shell, 0)),
        Refusal::UnknownWish,
        "long ago"
    );
    assert_eq!(state(ask(&mut shell, 99)), WishState::Refused);
    leave(&mut shell, wish(201));
    let mut shell = shell.crash(&|_| false);
    shell.settle();
    assert_eq!(refusal(ask(&mut shell, 201)), Refusal::UnknownWish);
    assert_eq!(leave(&mut shell, wish(201)), Message::Done);
    let retire = RetireVolume { volume: volume() };
    shell.ask_as(Role::Operator, Message::RetireVolume(retire));
    assert_eq!(refusal(ask(&mut shell, 201)), Refusal::UnknownWish);
}

fn hint(node: NodeId, address: &str) -> NodeHint {
    NodeHint {
        node,
        az: "az1".into(),
        address: address.into(),
    }
}

fn hints(shell: &mut Shell) -> Vec<NodeHint> {
    let ask = AskHints { volume: volume() };
    match shell.ask(Message::AskHints(ask)) {
        Message::Hints(hints) => hints.hints,
        other => panic!("{other:?}"),
    }
}

fn leave_hint(shell: &mut Shell, role: Role, hint: NodeHint) -> Message {
    let leave = LeaveHint {
        volume: volume(),
        hint,
    };
    shell.ask_as(role, Message::LeaveHint(Box::new(leave)))
}

/// Where the next requests to a node go.
fn address_of(shell: &mut Shell, node: NodeId) -> String {
    for _ in 0..200 {
        shell.now += Duration::from_secs(11);
        shell.event(Event::Timeout);
        let found = shell.asks.iter().find(|ask| ask.node == node);
        let found = found.map(|ask| ask.address.clone());
        for ask in std::mem::take(&mut shell.asks) {
            shell.event(Event::PeerAnswer {
                token: ask.token,
                answer: None,
            });
        }
        if let Some(found) = found {
            return found;
        }
    }
    panic!("nobody asks {node}");
}

#[test]
fn a_hint_that_was_left_counts_until_a_manifest_has_it_or_has_passed_it() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    writer.attach(&mut shell, 0);
    let before = address_of(&mut shell, node_id(3));
    assert_eq!(before, "127.0.0.1:9003");
    for address in ["10.0.0.3:1", "10.0.0.3:2"] {
        let left = leave_hint(&mut shell, Role::Operator, hint(node_id(3), address));
        assert_eq!(left, Message::Done);
    }
    assert_eq!(hints(&mut shell), [hint(node_id(3), "10.0.0.3:2")]);
    assert_eq!(address_of(&mut shell, node_id(3)), "10.0.0.3:2");
    let added = hint(node_id(30), "10.0.0.30:1");
    leave_hint(&mut shell, Role::Operator, added.clone());
    // A step that has nothing to do with it changes nothing.
    let mut epoch = 1;
    let mut step = |shell: &mut Shell, writer: &mut Writer, change: &[NodeHint]| {
        epoch += 1;
        writer.manifest.version.membership_epoch = MembershipEpoch::new(epoch);
        for hint in change {
            writer.manifest.hints.retain(|held| held.node != hint.node);
            writer.manifest.hints.push(hint.clone());
        }
        crate::members::installed(shell, writer, 0);
    };
    step(&mut shell, &mut writer, &[]);
    assert_eq!(hints(&mut shell).len(), 2);
    step(&mut shell, &mut writer, std::slice::from_ref(&added));
    assert_eq!(hints(&mut shell), [hint(node_id(3), "10.0.0.3:2")]);
    // It has moved again since.
    step(&mut shell, &mut writer, &[hint(node_id(3), "10.0.0.3:3")]);
    assert!(hints(&mut shell).is_empty());
    assert_eq!(address_of(&mut shell, node_id(3)), "10.0.0.3:3");
    // What the manifest says already is not kept.
    leave_hint(&mut shell, Role::Operator, added);
    assert!(hints(&mut shell).is_empty());
}

#[test]
fn a_node_that_was_moved_to_another_port_tells_its_peers_and_through_them_the_writer() {
    let mut moved = node(3);
    let writer = Writer::first();
    writer.attach(&mut moved, 3);
    let address = "127.0.0.1:7777".parse().unwrap();
    moved.event(Event::Listening { address });
    let mut left = None;
    for _ in 0..200 {
        moved.now += Duration::from_secs(11);
        moved.event(Event::Timeout);
        let asks = std::mem::take(&mut moved.asks);
        left = asks
            .into_iter()
            .map(|ask| ask.message)
            .find(|message| matches!(message, Message::LeaveHint(_)));
        if left.is_some() {
            break;
        }
    }
    let left = left.unwrap();
    let mut peer = node(0);
    let mut writer = writer;
    let stream = writer.attach(&mut peer, 0);
    for _ in 0..2 {
        assert_eq!(peer.ask_as(Role::Node, left.clone()), Message::Done);
    }
    assert_eq!(address_of(&mut peer, node_id(3)), "127.0.0.1:7777");
    let heartbeat = writer.heartbeat();
    peer.say(stream, heartbeat);
    let ack = last_ack(&mut peer, stream);
    assert_eq!(ack.wishes.len(), 1, "left twice, wished once");
    assert_eq!(ack.wishes[0].verb, WishVerb::Add);
    assert_eq!(ack.wishes[0].subject, *node_id(3).as_bytes());
    let expected = NodeHint {
        az: "az2".into(),
        ..hint(node_id(3), "127.0.0.1:7777")
    };
    assert_eq!(hints(&mut peer), std::slice::from_ref(&expected));
    // When the manifest says it, nobody says anything any more.
    writer.manifest.version.membership_epoch = MembershipEpoch::new(9);
    writer.manifest.hints[3] = expected;
    crate::members::installed(&mut moved, &writer, 3);
    crate::members::installed(&mut peer, &writer, 0);
    assert!(hints(&mut peer).is_empty());
    for _ in 0..50 {
        moved.now += Duration::from_secs(11);
        moved.event(Event::Timeout);
        for ask in std::mem::take(&mut moved.asks) {
            assert!(matches!(ask.message, Message::Gossip(_)), "{ask:?}");
        }
    }
}

#[test]
fn a_node_on_another_host_than_the_manifest_says_keeps_quiet() {
    let mut shell = node(3);
    Writer::first().attach(&mut shell, 3);
    let address = "10.9.9.9:7777".parse().unwrap();
    shell.event(Event::Listening { address });
    for _ in 0..50 {
        shell.now += Duration::from_secs(11);
        shell.event(Event::Timeout);
        for ask in std::mem::take(&mut shell.asks) {
            assert!(matches!(ask.message, Message::Gossip(_)), "{ask:?}");
        }
    }
}

#[test]
fn wishes_that_nobody_cares_for_any_more_are_forgotten() {
    let hour = Duration::from_secs(3_600);
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    for number in 0..3 {
        leave(&mut shell, wish(number));
    }
    assert_eq!(carried(&mut shell, &mut writer, stream), [0, 1, 2]);
    shell.ask(report(&writer, 0, WishState::Working));
    shell.now += hour / 2;
    leave(&mut shell, wish(1));
    shell.now += hour / 2;
    // A writer is at the first one, the second was left again since, the third is an hour old.
    let mut next = writer.reopen(writer.vdl, 3);
    let stream = next.attach(&mut shell, 0);
    assert_eq!(carried(&mut shell, &mut next, stream), [0, 1]);
    shell.now += hour;
    assert_eq!(carried(&mut shell, &mut next, stream), [0]);
    shell.now += 24 * hour;
    assert!(carried(&mut shell, &mut next, stream).is_empty());
    // Where there is no room, the oldest that nobody is at goes.
    for number in 0..WISHES_OPEN_MAX as u8 {
        assert_eq!(leave(&mut shell, wish(number)), Message::Done);
    }
    shell.ask(report(&next, 0, WishState::Working));
    assert_eq!(refusal(leave(&mut shell, wish(100))), Refusal::Overloaded);
    shell.now += Duration::from_secs(660);
    leave(&mut shell, wish(2));
    assert_eq!(leave(&mut shell, wish(100)), Message::Done);
    let held = carried(&mut shell, &mut next, stream);
    assert!(held.contains(&2) && held.contains(&100) && !held.contains(&1));
    assert_eq!(held.len(), WISHES_OPEN_MAX - 1);
    assert_eq!(state(ask(&mut shell, 0)), WishState::Working);
}

/// It may be wrong about them, and everybody goes by what was left. Operators know.
#[test]
fn no_node_sends_others_to_another_host() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    writer.manifest.hints = (0..6)
        .map(|index| {
            hint(
                node_id(index),
                &format!("127.0.0.1:{}", 4_000 + u16::from(index)),
            )
        })
        .collect();
    let stream = writer.attach(&mut shell, 0);
    let left = |address: &str| {
        Message::LeaveHint(Box::new(LeaveHint {
            volume: volume(),
            hint: hint(node_id(3), address),
        }))
    };
    for elsewhere in ["10.0.0.1:4003", "no address"] {
        let answer = shell.ask_as(Role::Node, left(elsewhere));
        assert_eq!(refusal(answer), Refusal::NotAllowed);
    }
    let unknown = Message::LeaveHint(Box::new(LeaveHint {
        volume: volume(),
        hint: hint(NodeId::from_bytes([77; 16]), "127.0.0.1:4003"),
    }));
    let answer = shell.ask_as(Role::Node, unknown);
    assert_eq!(refusal(answer), Refusal::NotAllowed);
    assert!(carried(&mut shell, &mut writer, stream).is_empty());
    assert_eq!(shell.ask_as(Role::Node, left("127.0.0.1:7")), Message::Done);
    assert_eq!(carried(&mut shell, &mut writer, stream).len(), 1);
    let answer = shell.ask_as(Role::Operator, left("10.0.0.1:4003"));
    assert_eq!(answer, Message::Done);
}
