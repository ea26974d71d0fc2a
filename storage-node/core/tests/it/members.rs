//! Membership at a segment: removed ones, tombstones, creations of a step, retired volumes.

use std::time::Duration;

use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{
    CreateSegment, DropSegment, Gossip, Install, Message, Probe, ProbeAnswer, ReadLayer, ReadLog,
    Refusal, RetireVolume, Role, Survey,
};
use sixfold_log_format::{
    Lsn, Manifest, ManifestVersion, Member, MemberKind, MembershipEpoch, PgId, VolumeEpoch,
};
use sixfold_storage_node_core::StreamKey;

use crate::layers::{load, small};
use crate::shell::{Shell, node_id};
use crate::writer::{Writer, census, last_ack, manifest, node, refusal, segment_id, volume};

/// Segment `number` on node `number`.
pub fn member(number: u8, joining: bool) -> Member {
    Member {
        segment: segment_id(number),
        node: node_id(number),
        kind: MemberKind::Full,
        joining,
    }
}

fn next(from: &Manifest) -> Manifest {
    let mut to = from.clone();
    let before = to.version.membership_epoch.get();
    to.version.membership_epoch = MembershipEpoch::new(before + 1);
    to
}

/// The step that begins to replace `out` by `into` on the node of that number.
pub fn begin(from: &Manifest, out: u8, into: u8) -> Manifest {
    let mut to = next(from);
    let mut sets = to.pgs[0].sets.clone();
    for set in &mut sets {
        for held in &mut set.members {
            if held.segment == segment_id(out) {
                *held = member(into, true);
            }
        }
    }
    to.pgs[0].sets.extend(sets);
    to.hints.push(NodeHint {
        node: node_id(into),
        az: "az1".into(),
        address: format!("127.0.0.1:{}", 9000 + u16::from(into)),
    });
    to
}

/// The same step with the segment on that node.
fn placed(mut to: Manifest, number: u8, node: u8) -> Manifest {
    for held in to.pgs[0].sets.iter_mut().flat_map(|set| &mut set.members) {
        if held.segment == segment_id(number) {
            held.node = node_id(node);
        }
    }
    to
}

/// The step that ends it: `out` is removed.
pub fn finish(from: &Manifest, out: u8) -> Manifest {
    let mut to = next(from);
    let entry = &mut to.pgs[0];
    let names = |set: &sixfold_log_format::SegmentSet| {
        let mut members = set.members.iter();
        members.any(|held| held.segment == segment_id(out))
    };
    entry.sets.retain(|set| !names(set));
    for held in entry.sets.iter_mut().flat_map(|set| &mut set.members) {
        held.joining = false;
    }
    entry.removed.push(segment_id(out));
    to
}

pub fn installed(shell: &mut Shell, writer: &Writer, number: u8) {
    let answer = shell.ask(writer.install(number));
    assert!(matches!(answer, Message::Installed(_)), "{answer:?}");
}

pub fn create(shell: &mut Shell, number: u8, manifest: &Manifest) -> Message {
    shell.ask(Message::CreateSegment(Box::new(CreateSegment {
        segment: segment_id(number),
        pg: PgId::ROOT,
        manifest: manifest.clone(),
    })))
}

pub fn drop_as(shell: &mut Shell, role: Role, number: u8) -> Message {
    let drop = DropSegment {
        segment: segment_id(number),
        volume: volume(),
    };
    shell.ask_as(role, Message::DropSegment(drop))
}

fn survey(number: u8) -> Message {
    Message::Survey(Survey {
        segment: segment_id(number),
    })
}

fn probe(shell: &mut Shell) -> ProbeAnswer {
    match shell.ask(Message::Probe(Probe { volume: volume() })) {
        Message::ProbeAnswer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

/// The manifest of a refusal.
fn told(answer: Message) -> ManifestVersion {
    match refusal(answer) {
        Refusal::StaleMembership { manifest } => manifest.version,
        other => panic!("{other:?}"),
    }
}

/// Everything that is asked of a segment that takes no part.
fn asks(writer: &Writer, number: u8) -> Vec<(Role, Message)> {
    let segment = segment_id(number);
    let history_epoch = writer.epoch;
    let next = writer.reopen(writer.prev, writer.epoch.get() + 1);
    vec![
        (Role::Writer, next.claim(number)),
        (Role::Writer, writer.refill(number, &[])),
        (
            Role::Writer,
            writer.read(number, &[2], writer.prev, writer.prev),
        ),
        (Role::Reader, survey(number)),
        (
            Role::Node,
            Message::ReadLog(ReadLog {
                segment,
                history_epoch,
                after: Lsn::NONE,
                through: Lsn::MAX,
                bytes_max: 1,
            }),
        ),
        (
            Role::Node,
            Message::ReadLayer(ReadLayer {
                segment,
                layer: 0,
                offset: 0,
                bytes_max: 1 << 10,
            }),
        ),
        (
            Role::Node,
            Message::Gossip(Gossip {
                segment,
                from: segment_id(1),
                history_epoch,
                manifest_version: writer.manifest.version,
                scl: Lsn::NONE,
                vdl_seen: Lsn::NONE,
            }),
        ),
    ]
}

fn takes_no_part(shell: &mut Shell, writer: &Writer, number: u8, version: ManifestVersion) {
    for (role, message) in asks(writer, number) {
        let name = format!("{message:?}");
        let answer = shell.ask_as(role, message);
        assert_eq!(told(answer), version, "{name}");
    }
    shell.now += Duration::from_secs(1);
    shell.event(sixfold_storage_node_core::Event::Timeout);
    assert!(shell.asks.is_empty(), "it asks nobody: {:?}", shell.asks);
}

/// Node 5, whose segment was replaced by one on node 6, with what was shipped before and its stream.
fn replaced() -> (Shell, Writer, StreamKey) {
    let mut shell = node(5);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 5);
    for _ in 0..5 {
        let batch = writer.batch(&[2, 3]);
        writer.ship(&mut shell, stream, &batch);
    }
    writer.manifest = begin(&writer.manifest, 5, 6);
    installed(&mut shell, &writer, 5);
    let batch = writer.batch(&[2, 3]);
    let ack = writer.ship(&mut shell, stream, &batch);
    assert_eq!(ack.scl, writer.prev, "both sets take writes");
    writer.manifest = finish(&writer.manifest, 5);
    (shell, writer, stream)
}

#[test]
fn a_survey_says_what_a_claim_would_and_claims_nothing() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let batch = writer.mtrs(&[&[2, 3], &[4]]);
    writer.ship(&mut shell, stream, &batch);
    let writes = shell.status().group_writes;
    let surveyed = census(shell.ask_as(Role::Reader, survey(0)));
    assert_eq!(shell.status().group_writes, writes, "nothing is written");
    assert_eq!(surveyed.volume_epoch, writer.epoch, "the claim held");
    let batch = writer.batch(&[5]);
    let ack = writer.ship(&mut shell, stream, &batch);
    assert_eq!(ack.scl, writer.prev, "the writer goes on");
    let again = census(shell.ask_as(Role::Reader, survey(0)));
    let next = writer.reopen(writer.prev, 9);
    let mut claimed = census(shell.ask(next.claim(0)));
    assert_eq!(claimed.volume_epoch, next.epoch);
    claimed.volume_epoch = writer.epoch;
    assert_eq!(claimed, again);
    assert!(again.runs != surveyed.runs && !surveyed.runs.is_empty());
    let held = census(shell.ask_as(Role::Reader, survey(0)));
    assert_eq!(held.volume_epoch, next.epoch, "the claim held");
}

#[test]
fn a_segment_that_learns_that_it_is_removed_ends_everything_and_keeps_its_data() {
    let (mut shell, writer, stream) = replaced();
    installed(&mut shell, &writer, 5);
    let version = writer.manifest.version;
    let said = shell.take(stream).pop().unwrap();
    assert_eq!(told(said), version, "its stream ends");
    takes_no_part(&mut shell, &writer, 5, version);
    installed(&mut shell, &writer, 5);
    let mut shell = shell.crash(&|_| false);
    shell.settle();
    takes_no_part(&mut shell, &writer, 5, version);
    let status = shell.status();
    assert_eq!(status.segments[0].scl, writer.prev, "its data is there");
    let stream = shell.open_stream();
    shell.say(stream, writer.attach_message(5));
    assert!(matches!(
        refusal(shell.take(stream).pop().unwrap()),
        Refusal::Malformed { .. }
    ));
}

#[test]
fn a_removed_segment_comes_back_when_a_higher_manifest_names_it() {
    let (mut shell, writer, _) = replaced();
    installed(&mut shell, &writer, 5);
    // The next writer never heard of the finish: it goes on from the step before.
    let mut next = writer.reopen(writer.prev, 3);
    next.manifest = begin(&manifest(3), 5, 6);
    let (stream, attached) = next.attached(&mut shell, 5);
    assert_eq!(attached.scl, writer.prev);
    let batch = next.batch(&[2]);
    assert_eq!(next.ship(&mut shell, stream, &batch).scl, next.prev);
    // And the manifest of the fenced one is nothing to it.
    let answer = shell.ask(writer.install(5));
    assert!(matches!(refusal(answer), Refusal::StaleEpoch { .. }));
}

#[test]
fn a_writer_drops_only_what_was_removed_and_a_tombstone_stays() {
    let (mut shell, writer, _) = replaced();
    let answer = drop_as(&mut shell, Role::Writer, 5);
    assert!(
        told(answer) < writer.manifest.version,
        "it is a member still"
    );
    installed(&mut shell, &writer, 5);
    assert_eq!(drop_as(&mut shell, Role::Writer, 5), Message::Done);
    let version = writer.manifest.version;
    for life in 0..3 {
        assert!(shell.status().segments.is_empty(), "life {life}");
        takes_no_part(&mut shell, &writer, 5, version);
        let answer = shell.ask(writer.install(5));
        assert_eq!(told(answer), version);
        let stream = shell.open_stream();
        shell.say(stream, writer.attach_message(5));
        assert_eq!(told(shell.take(stream).pop().unwrap()), version);
        assert_eq!(told(create(&mut shell, 5, &manifest(1))), version);
        assert_eq!(drop_as(&mut shell, Role::Writer, 5), Message::Done);
        let answer = probe(&mut shell);
        assert_eq!(answer.manifest.unwrap().version, version);
        assert!(answer.segments.is_empty());
        shell = shell.crash(&|_| false);
        shell.settle();
    }
    // An operator's word makes it forget the manifest, not the identity.
    assert_eq!(drop_as(&mut shell, Role::Operator, 5), Message::Done);
    for _ in 0..2 {
        let answer = shell.ask_as(Role::Reader, survey(5));
        assert_eq!(refusal(answer), Refusal::UnknownSegment);
        assert_eq!(
            refusal(create(&mut shell, 5, &manifest(1))),
            Refusal::Exists
        );
        shell = shell.crash(&|_| false);
        shell.settle();
    }
}

#[test]
fn a_tombstone_outlives_the_hot_log_files_that_it_stood_in() {
    let mut small = small();
    small.node = node_id(5);
    let mut shell = Shell::with(small);
    crate::writer::create(&mut shell, 5);
    let mut writer = Writer::first();
    writer.attach(&mut shell, 5);
    writer.manifest = finish(&begin(&writer.manifest, 5, 6), 5);
    installed(&mut shell, &writer, 5);
    assert_eq!(drop_as(&mut shell, Role::Writer, 5), Message::Done);
    let removed_by = writer.manifest.version;
    // Another segment fills file after file.
    let to = placed(begin(&writer.manifest, 4, 40), 40, 5);
    assert_eq!(create(&mut shell, 40, &to), Message::Done);
    writer.manifest = to;
    let stream = writer.attach(&mut shell, 40);
    let first = *shell.files.keys().next().unwrap();
    load(&mut shell, &mut writer, stream, 600);
    shell.pass(Duration::from_secs(1));
    assert!(!shell.files.contains_key(&first), "the first file is gone");
    for life in 0..2 {
        let version = told(shell.ask_as(Role::Reader, survey(5)));
        assert!(
            version >= removed_by,
            "life {life}: the newest manifest that is known here"
        );
        shell = shell.crash(&|_| false);
        shell.work();
    }
}

#[test]
fn a_crash_at_any_write_of_a_removal_leaves_a_member_a_removed_one_or_a_tombstone() {
    for writes in 0..6 {
        for torn in 0..3 {
            let (mut shell, writer, _) = replaced();
            let version = writer.manifest.version;
            let stream = shell.open_stream();
            shell.say(stream, writer.install(5));
            let mut left = writes;
            let mut step = |shell: &mut Shell| {
                while left > 0 && shell.complete_write() {
                    left -= 1;
                }
            };
            step(&mut shell);
            let is_installed = !shell.take(stream).is_empty();
            let stream = shell.open_stream();
            let drop = DropSegment {
                segment: segment_id(5),
                volume: volume(),
            };
            shell.say(stream, Message::DropSegment(drop));
            step(&mut shell);
            let is_dropped = shell.take(stream).contains(&Message::Done);
            let mut shell = shell.crash(&|block| block < torn);
            shell.settle();
            assert!(shell.stopped.is_none());
            let held = shell.status().segments.len();
            let answer = shell.ask_as(Role::Reader, survey(5));
            let at = format!("{writes} writes, {torn} blocks of the next one");
            match answer {
                Message::Census(_) => assert!(!is_installed && !is_dropped, "{at}"),
                Message::Refused(Refusal::StaleMembership { manifest }) => {
                    assert_eq!(manifest.version, version, "{at}");
                    assert!(held == 0 || !is_dropped, "{at}");
                }
                other => panic!("{at}: {other:?}"),
            }
            if !is_dropped {
                // Whoever goes on gets there.
                installed_or_gone(&mut shell, &writer, version);
                assert_eq!(drop_as(&mut shell, Role::Writer, 5), Message::Done);
            }
            takes_no_part(&mut shell, &writer, 5, version);
        }
    }
}

fn installed_or_gone(shell: &mut Shell, writer: &Writer, version: ManifestVersion) {
    match shell.ask(writer.install(5)) {
        Message::Installed(_) => {}
        other => assert_eq!(told(other), version),
    }
}

#[test]
fn a_creation_for_a_step_is_repeatable_at_any_time() {
    let mut shell = Shell::new(6);
    let mut writer = Writer::first();
    writer.manifest = begin(&writer.manifest, 5, 6);
    for _ in 0..2 {
        assert_eq!(create(&mut shell, 6, &writer.manifest), Message::Done);
    }
    installed(&mut shell, &writer, 6);
    assert_eq!(create(&mut shell, 6, &writer.manifest), Message::Done);
    // Its volume's creation is over.
    let mut first = manifest(1);
    first.pgs[0].sets[0].members[5] = member(6, false);
    assert_eq!(refusal(create(&mut shell, 6, &first)), Refusal::Exists);
    // Another one of the same group on the same node is none.
    let mut to = placed(begin(&writer.manifest, 4, 41), 41, 6);
    assert_eq!(refusal(create(&mut shell, 41, &to)), Refusal::Exists);
    // What was removed makes room.
    writer.manifest = finish(&writer.manifest, 6);
    installed(&mut shell, &writer, 6);
    assert_eq!(
        told(create(
            &mut shell,
            41,
            &placed(begin(&manifest(2), 4, 41), 41, 6)
        )),
        writer.manifest.version,
        "an older step"
    );
    to.version = next(&writer.manifest).version;
    assert_eq!(create(&mut shell, 41, &to), Message::Done);
}

#[test]
fn an_orphan_is_found_by_probe_names_no_manifest_and_can_be_dropped() {
    let mut shell = Shell::new(6);
    let writer = Writer::first();
    let to = begin(&writer.manifest, 5, 6);
    assert_eq!(create(&mut shell, 6, &to), Message::Done);
    let answer = probe(&mut shell);
    assert_eq!(answer.segments.len(), 1);
    assert_eq!(
        answer.manifest, None,
        "what it was created with may never have been in force"
    );
    // The next writer's manifest does not name it.
    let next = writer.reopen(Lsn::new(1_000), 3);
    let answer = drop_as(&mut shell, Role::Writer, 6);
    assert_eq!(told(answer), to.version, "it names itself");
    installed(&mut shell, &next, 6);
    let answer = probe(&mut shell);
    assert_eq!(answer.manifest.unwrap().version, next.manifest.version);
    assert_eq!(answer.segments.len(), 1, "it can be found to be dropped");
    assert_eq!(drop_as(&mut shell, Role::Writer, 6), Message::Done);
    takes_no_part(&mut shell, &next, 6, next.manifest.version);
}

#[test]
fn two_manifests_of_one_version_are_never_taken() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    writer.manifest = begin(&writer.manifest, 5, 6);
    writer.attach(&mut shell, 0);
    let mut other = writer.clone();
    other.manifest = begin(&manifest(2), 4, 7);
    assert_eq!(other.manifest.version, writer.manifest.version);
    let answer = shell.ask(other.install(0));
    assert!(matches!(refusal(answer), Refusal::Malformed { .. }));
    assert_eq!(shell.errors().len(), 1, "{:?}", shell.logged);
    // An older one of the same writer is not taken either, and says so.
    other.manifest = manifest(2);
    let answer = shell.ask(other.install(0));
    assert_eq!(told(answer), writer.manifest.version);
    installed(&mut shell, &writer, 0);
}

#[test]
fn manifests_that_overtake_each_other_end_with_the_newest() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    writer.attach(&mut shell, 0);
    let first = begin(&writer.manifest, 5, 6);
    let second = finish(&first, 5);
    let install = |writer: &Writer, manifest: &Manifest| {
        Message::Install(Box::new(Install {
            segment: segment_id(0),
            volume_epoch: writer.epoch,
            writer: writer.id,
            history: writer.history.clone(),
            manifest: manifest.clone(),
        }))
    };
    // Both are on their way to the disk at once, the newer one first.
    for manifest in [&second, &first] {
        let stream = shell.open_stream();
        shell.say(stream, install(&writer, manifest));
    }
    shell.settle();
    for _ in 0..2 {
        writer.manifest = second.clone();
        let held = census(shell.ask_as(Role::Reader, survey(0))).manifest;
        assert_eq!(held, second);
        shell = shell.crash(&|_| false);
        shell.settle();
    }
}

#[test]
fn a_retired_volume_leaves_nothing_and_its_identities_stay_refused() {
    let (mut shell, writer, _) = replaced();
    installed(&mut shell, &writer, 5);
    assert_eq!(drop_as(&mut shell, Role::Writer, 5), Message::Done);
    let to = placed(begin(&writer.manifest, 4, 41), 41, 5);
    assert_eq!(create(&mut shell, 41, &to), Message::Done);
    let retire = |shell: &mut Shell, role| {
        let retire = RetireVolume { volume: volume() };
        shell.ask_as(role, Message::RetireVolume(retire))
    };
    assert_eq!(
        refusal(retire(&mut shell, Role::Writer)),
        Refusal::NotAllowed
    );
    assert_eq!(retire(&mut shell, Role::Operator), Message::Done);
    for life in 0..2 {
        let answer = probe(&mut shell);
        assert!(answer.manifest.is_none() && answer.segments.is_empty());
        for number in [5, 41] {
            let answer = shell.ask_as(Role::Reader, survey(number));
            assert_eq!(refusal(answer), Refusal::UnknownSegment, "life {life}");
        }
        assert_eq!(refusal(create(&mut shell, 41, &to)), Refusal::Exists);
        assert_eq!(retire(&mut shell, Role::Operator), Message::Done);
        shell = shell.crash(&|_| false);
        shell.settle();
    }
}

#[test]
fn a_higher_membership_epoch_in_an_envelope_makes_it_ask_a_peer_once() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let known = writer.manifest.clone();
    writer.manifest = begin(&known, 5, 6);
    for _ in 0..3 {
        shell.say(stream, writer.heartbeat());
    }
    assert_eq!(shell.asks.len(), 1, "{:?}", shell.asks);
    let Message::Gossip(gossip) = &shell.asks[0].message else {
        panic!("{:?}", shell.asks)
    };
    assert_eq!(gossip.manifest_version, known.version);
    let ack = last_ack(&mut shell, stream);
    assert_eq!(ack.history_epoch, VolumeEpoch::new(2));
}

#[test]
fn a_member_that_was_declared_lost_is_refused_for_ever_and_asked_by_nobody() {
    let (mut lost, mut writer, stream) = replaced();
    let mut peer = node(0);
    writer.manifest = next(&begin(&manifest(2), 5, 6));
    writer.manifest.pgs[0].sets.truncate(1);
    writer.manifest.pgs[0].removed.push(segment_id(5));
    let version = writer.manifest.version;
    installed(&mut lost, &writer, 5);
    assert_eq!(told(lost.take(stream).pop().unwrap()), version);
    takes_no_part(&mut lost, &writer, 5, version);
    installed(&mut peer, &writer, 0);
    for _ in 0..100 {
        peer.now += Duration::from_secs(11);
        peer.event(sixfold_storage_node_core::Event::Timeout);
        for ask in std::mem::take(&mut peer.asks) {
            assert_ne!(ask.node, node_id(5));
        }
    }
    // Its identity is made nowhere again where that manifest is known.
    let mut again = next(&writer.manifest);
    again.pgs[0].removed.clear();
    let create = |shell: &mut Shell, to: &Manifest| create(shell, 5, &placed(to.clone(), 5, 0));
    assert_eq!(told(create(&mut peer, &again)), version);
}
