//! A volume's token: who did not show it is refused, whatever he asks, and nothing changes.

use sixfold_log_format::wire::{
    AskHints, AskWish, CreateSegment, DropSegment, LeaveHint, Message, Probe, ReadLayer, ReadLog,
    Refusal, RetireVolume, Role, Survey, Wish, WishReport, WishState, WishVerb,
};
use sixfold_log_format::{Lsn, Manifest, PgId, TokenDigest, VolumeEpoch, VolumeId};
use sixfold_storage_node_core::{ConnectionKey, Event};

use crate::shell::Shell;
use crate::writer::{Writer, census, manifest, refusal, segment_id, volume};

const TOKEN: TokenDigest = TokenDigest::from_bytes([7; 32]);
const OTHER: TokenDigest = TokenDigest::from_bytes([8; 32]);

/// The one that has the token, as [`Shell::say`] speaks; and those that have not.
const OWNER: u64 = 1;
const SILENT: u64 = 2;
const WRONG: u64 = 3;
const ELSEWHERE: u64 = 4;

fn with_token() -> Manifest {
    let mut manifest = manifest(1);
    manifest.parameters.token = Some(TOKEN);
    manifest
}

fn create(manifest: Manifest) -> Message {
    Message::CreateSegment(Box::new(CreateSegment {
        segment: segment_id(0),
        pg: PgId::ROOT,
        manifest,
    }))
}

fn connect(shell: &mut Shell, connection: u64, volume: VolumeId, token: TokenDigest) {
    shell.event(Event::Connected {
        connection: ConnectionKey(connection),
        shown: Some((volume, token)),
    });
}

fn connect_all(shell: &mut Shell) {
    connect(shell, OWNER, volume(), TOKEN);
    connect(shell, WRONG, volume(), OTHER);
    connect(shell, ELSEWHERE, VolumeId::from_bytes([99; 16]), TOKEN);
}

/// What a connection is answered, of whatever role.
fn ask(shell: &mut Shell, connection: u64, role: Role, message: Message) -> Option<Message> {
    let stream = shell.open_stream();
    shell.event(Event::Message {
        connection: ConnectionKey(connection),
        role,
        stream,
        message,
    });
    shell.settle();
    shell.take(stream).into_iter().next()
}

fn guarded() -> Shell {
    let mut shell = Shell::new(0);
    connect_all(&mut shell);
    assert_eq!(shell.ask(create(with_token())), Message::Done);
    shell
}

fn writers_words(writer: &Writer) -> Vec<Message> {
    let segment = segment_id(0);
    let report = WishReport {
        volume: volume(),
        volume_epoch: writer.epoch,
        writer: writer.id,
        id: [1; 16],
        state: WishState::Done,
        done: 1,
        of: 1,
        text: String::new(),
    };
    vec![
        writer.claim(0),
        writer.install(0),
        writer.attach_message(0),
        writer.refill(0, &[]),
        writer.read(0, &[0], Lsn::new(1), Lsn::new(1)),
        Message::ReadLog(ReadLog {
            segment,
            history_epoch: VolumeEpoch::CREATION,
            after: Lsn::NONE,
            through: Lsn::new(10),
            bytes_max: 1_000,
        }),
        Message::ReadLayer(ReadLayer {
            segment,
            layer: 1,
            offset: 0,
            bytes_max: 1_000,
        }),
        Message::Survey(Survey { segment }),
        Message::Probe(Probe { volume: volume() }),
        create(manifest(1)),
        create(with_token()),
        Message::DropSegment(DropSegment {
            segment,
            volume: volume(),
        }),
        Message::WishReport(Box::new(report)),
        Message::AskWish(AskWish {
            volume: volume(),
            id: [1; 16],
        }),
        Message::AskHints(AskHints { volume: volume() }),
    ]
}

#[test]
fn without_the_token_nothing_is_said_and_nothing_changes() {
    let mut shell = guarded();
    let writer = Writer::first();
    for connection in [SILENT, WRONG, ELSEWHERE] {
        for message in writers_words(&writer) {
            let before = shell.status();
            let shown = format!("{connection}: {message:?}");
            let answer = ask(&mut shell, connection, Role::Writer, message).unwrap();
            assert_eq!(answer, Message::Refused(Refusal::Token), "{shown}");
            let after = shell.status();
            assert_eq!(after.refused, before.refused + 1, "{shown}");
            assert_eq!(after.segments, before.segments, "{shown}");
        }
        let read = writer.read(0, &[0], Lsn::new(1), Lsn::new(1));
        let answer = ask(&mut shell, connection, Role::Reader, read).unwrap();
        assert_eq!(refusal(answer), Refusal::Token);
    }
    let claimed = census(shell.ask(writer.claim(0)));
    assert_eq!(claimed.volume_epoch, writer.epoch);
}

#[test]
fn a_volume_is_made_by_whoever_has_its_token() {
    let mut shell = Shell::new(0);
    for connection in [SILENT, WRONG, ELSEWHERE] {
        connect_all(&mut shell);
        let answer = ask(&mut shell, connection, Role::Writer, create(with_token()));
        assert_eq!(refusal(answer.unwrap()), Refusal::Token);
    }
    assert!(shell.status().segments.is_empty());
    assert_eq!(shell.ask(create(with_token())), Message::Done);
}

#[test]
fn a_token_is_asked_for_after_a_restart_too() {
    let mut shell = guarded().crash(&|_| true);
    shell.settle();
    let claim = Writer::first().claim(0);
    // The connections of before are gone with the process.
    assert_eq!(refusal(shell.ask(claim.clone())), Refusal::Token);
    connect_all(&mut shell);
    let answer = ask(&mut shell, WRONG, Role::Writer, claim.clone());
    assert_eq!(refusal(answer.unwrap()), Refusal::Token);
    census(shell.ask(claim.clone()));
    // What a connection showed goes with it.
    shell.event(Event::Disconnected {
        connection: ConnectionKey(OWNER),
    });
    assert_eq!(refusal(shell.ask(claim)), Refusal::Token);
}

#[test]
fn what_was_shown_while_the_log_was_read_counts() {
    let mut shell = guarded().crash(&|_| true);
    connect_all(&mut shell);
    let stream = shell.open_stream();
    shell.say(stream, Writer::first().claim(0));
    shell.settle();
    census(shell.take(stream).remove(0));
}

#[test]
fn an_operator_without_the_token_sees_and_drops_but_has_no_say() {
    let mut shell = guarded();
    let operator = |shell: &mut Shell, message| {
        ask(shell, SILENT, Role::Operator, message).expect("it is answered")
    };
    let wish = Wish {
        id: [1; 16],
        volume: volume(),
        verb: WishVerb::Grow,
        subject: [0; 16],
        object: [0; 16],
    };
    let hint = with_token().hints[0].clone();
    for message in [
        Message::Wish(wish),
        Message::AskWish(AskWish {
            volume: volume(),
            id: [1; 16],
        }),
        Message::AskHints(AskHints { volume: volume() }),
        Message::LeaveHint(Box::new(LeaveHint {
            volume: volume(),
            hint,
        })),
        Message::Survey(Survey {
            segment: segment_id(0),
        }),
    ] {
        assert_eq!(refusal(operator(&mut shell, message)), Refusal::Token);
    }
    let probe = Message::Probe(Probe { volume: volume() });
    let Message::ProbeAnswer(answer) = operator(&mut shell, probe) else {
        panic!("it sees");
    };
    assert_eq!(answer.segments.len(), 1);
    let retire = Message::RetireVolume(RetireVolume { volume: volume() });
    assert_eq!(operator(&mut shell, retire), Message::Done);
    assert!(shell.status().segments.is_empty());
}
