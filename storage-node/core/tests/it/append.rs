//! The write path: group gather, acks, duplicates, conflicts.

use sixfold_log_format::wire::{Claim, Message, Refusal, Role};
use sixfold_log_format::{Lsn, MembershipEpoch, VolumeEpoch, WriterId};
use sixfold_storage_node_core::StreamKey;

use crate::shell::Shell;
use crate::writer::{Writer, last_ack, lsn, node, refusal, segment_id};

#[test]
fn a_batch_is_acknowledged_only_when_it_is_durable() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let batch = writer.batch(&[2, 3]);
    let append = writer.append(&batch);
    shell.say(stream, append);
    assert!(shell.take(stream).is_empty());
    assert!(shell.complete_write());
    let ack = last_ack(&mut shell, stream);
    assert_eq!(
        (ack.scl, ack.echo, ack.history_epoch),
        (batch.header().last, 1, writer.epoch)
    );
}

#[test]
fn what_arrives_during_a_write_goes_out_with_the_next_one() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let before = shell.writes_done;
    for _ in 0..20 {
        let batch = writer.batch(&[2]);
        let append = writer.append(&batch);
        shell.say(stream, append);
    }
    shell.settle();
    assert_eq!(
        shell.writes_done - before,
        2,
        "the first alone, nineteen together"
    );
    let acks = shell.take(stream);
    assert_eq!(acks.len(), 2, "one ack per group");
    let Some(Message::Ack(ack)) = acks.first() else {
        panic!()
    };
    let first = writer.batches[0].header().last;
    assert_eq!(ack.scl, first, "what is still in flight does not count");
    let Some(Message::Ack(ack)) = acks.last() else {
        panic!()
    };
    assert_eq!((ack.scl, ack.echo), (writer.prev, 20));
}

#[test]
fn padding_stays_within_its_share_under_load_and_nothing_waits_for_more_than_one_write() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let mut seed = 7_u64;
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(9);
        (seed >> 33) % below
    };
    let (mut redo_bytes, mut waiting) = (0, std::collections::VecDeque::new());
    let before = shell.log_writes.len();
    for _ in 0..400 {
        // Three to five batches of a few hundred bytes come while a write is in flight.
        for _ in 0..3 + draw(3) {
            let pages: Vec<u64> = (0..2 + draw(40)).map(|at| 2 + at % 9).collect();
            let batch = writer.batch(&pages);
            redo_bytes += batch.bytes().len();
            waiting.push_back((shell.writes_done, batch.header().last));
            let append = writer.append(&batch);
            shell.say(stream, append);
        }
        shell.complete_write();
        let acks = shell.take(stream);
        let Some(Message::Ack(ack)) = acks.last() else {
            panic!("{acks:?}")
        };
        while waiting.front().is_some_and(|(_, last)| *last <= ack.scl) {
            let (since, _) = waiting.pop_front().unwrap();
            // The write that was in flight, the one behind it, and one more.
            assert!(shell.writes_done - since <= 3);
        }
    }
    let written = shell.log_writes[before..].iter();
    let disk_bytes: usize = written.map(|(_, _, bytes)| bytes).sum();
    let percent = disk_bytes * 100 / redo_bytes;
    assert!(percent <= 130, "{disk_bytes} bytes for {redo_bytes}");
}

#[test]
fn a_group_does_not_grow_past_its_bound() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    for _ in 0..400 {
        let batch = writer.batch(&[2]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        assert!(
            shell
                .writes
                .iter()
                .all(|write| write.bytes.len() <= 16 << 10)
        );
    }
    while shell.complete_write() {
        assert!(
            shell
                .writes
                .iter()
                .all(|write| write.bytes.len() <= (16 << 10) + 512)
        );
    }
    assert_eq!(last_ack(&mut shell, stream).scl, writer.prev);
}

#[test]
fn a_duplicate_is_acknowledged_and_not_stored_again() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let batch = writer.batch(&[2]);
    writer.ship(&mut shell, stream, &batch);
    let redo = shell.status().redo_bytes;
    let writes = shell.writes_done;
    let ack = writer.ship(&mut shell, stream, &batch);
    assert_eq!((ack.scl, ack.echo), (batch.header().last, 2));
    assert_eq!(
        (shell.status().redo_bytes, shell.writes_done),
        (redo, writes)
    );
}

#[test]
fn a_duplicate_of_a_batch_in_flight_is_stored_once() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let batch = writer.batch(&[2]);
    for _ in 0..3 {
        let append = writer.append(&batch);
        shell.say(stream, append);
    }
    shell.settle();
    assert_eq!(last_ack(&mut shell, stream).scl, batch.header().last);
    assert_eq!(shell.status().redo_bytes, batch.bytes().len() as u64);
}

#[test]
fn other_bytes_at_an_lsn_are_refused_loudly() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let mut twin = writer.clone();
    let batch = writer.batch(&[2]);
    writer.ship(&mut shell, stream, &batch);
    let other = twin.batch(&[3, 4]);
    let append = twin.append(&other);
    shell.say(stream, append);
    let answer = shell.take(stream).pop().unwrap();
    assert!(matches!(refusal(answer), Refusal::Corrupt { .. }));
    assert_eq!(shell.errors().len(), 1);
    assert_eq!(shell.status().segments[0].highest, batch.header().last);
}

#[test]
fn a_batch_behind_a_hole_is_kept_and_counts_when_the_hole_closes() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let first = writer.batch(&[2]);
    let second = writer.batch(&[2, 3]);
    let third = writer.batch(&[4]);
    assert_eq!(writer.ship(&mut shell, stream, &third).scl, Lsn::NONE);
    assert_eq!(
        writer.ship(&mut shell, stream, &first).scl,
        first.header().last
    );
    assert_eq!(
        writer.ship(&mut shell, stream, &second).scl,
        third.header().last
    );
}

#[test]
fn heartbeats_are_acknowledged_at_once_and_raise_the_vdl_seen() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let batch = writer.batch(&[2]);
    writer.ship(&mut shell, stream, &batch);
    writer.vdl = batch.header().last;
    let heartbeat = writer.heartbeat();
    shell.say(stream, heartbeat);
    let ack = last_ack(&mut shell, stream);
    assert_eq!((ack.echo, ack.scl), (2, batch.header().last));
    assert_eq!(shell.status().segments[0].vdl_seen, writer.vdl);
}

#[test]
fn an_envelope_with_an_older_membership_epoch_is_not_refused() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    writer.manifest.version.membership_epoch = MembershipEpoch::new(5);
    let stream = writer.attach(&mut shell, 0);
    let mut old = writer.clone();
    old.manifest.version.membership_epoch = MembershipEpoch::new(4);
    let batch = writer.batch(&[2]);
    let append = old.append(&batch);
    shell.say(stream, append);
    shell.settle();
    assert_eq!(last_ack(&mut shell, stream).scl, writer.prev);
    shell.say(stream, old.heartbeat());
    assert_eq!(last_ack(&mut shell, stream).scl, writer.prev);
}

#[test]
fn a_newer_stream_of_the_same_writer_replaces_the_older_one() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let old = writer.attach(&mut shell, 0);
    let new = writer.attach(&mut shell, 0);
    assert!(matches!(
        shell.take(old).pop(),
        Some(Message::Refused(Refusal::Malformed { .. }))
    ));
    let batch = writer.batch(&[2]);
    writer.ship(&mut shell, new, &batch);
    assert!(shell.take(old).is_empty());
}

#[test]
fn appends_beyond_the_queue_are_refused_as_overloaded() {
    let mut found = crate::shell::found(0);
    found.bounds.queued_bytes_max = 4 << 10;
    let mut shell = Shell::with(found);
    crate::writer::create(&mut shell, 0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let mut refused = None;
    for _ in 0..100 {
        let batch = writer.batch(&[2, 3, 4, 5]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        refused = refused.or(shell.take(stream).pop());
    }
    assert_eq!(refusal(refused.unwrap()), Refusal::Overloaded);
    shell.settle();
    assert!(shell.take(stream).is_empty(), "the stream ended");
    let (_, attached) = writer.attached(&mut shell, 0);
    assert!(attached.scl > Lsn::NONE && attached.scl < writer.prev);
}

#[test]
fn roles_are_kept_apart() {
    let mut shell = node(0);
    let writer = Writer::first();
    for (role, message) in [
        (Role::Node, writer.attach_message(0)),
        (Role::Reader, writer.claim(0)),
        (Role::Operator, writer.install(0)),
        (Role::Reader, writer.refill(0, &[])),
        (Role::Node, writer.read(0, &[2], lsn(1), lsn(1))),
        (Role::Reader, Message::AskStatus),
    ] {
        let answer = shell.request_as(role, message).pop().unwrap();
        assert_eq!(refusal(answer), Refusal::NotAllowed);
    }
    let answer = shell.request_as(Role::Reader, Message::Echo(vec![1, 2].into()));
    assert_eq!(answer, [Message::Echo(vec![1, 2].into())]);
    assert!(shell.request_as(Role::Writer, Message::Done).is_empty());
    assert_eq!(shell.disconnected.len(), 1);
}

#[test]
fn creation_is_repeatable_until_somebody_claimed() {
    let mut shell = node(0);
    crate::writer::create(&mut shell, 0);
    let create = |segment: u8| {
        Message::CreateSegment(Box::new(sixfold_log_format::wire::CreateSegment {
            segment: segment_id(segment),
            pg: sixfold_log_format::PgId::ROOT,
            manifest: crate::writer::manifest(1),
        }))
    };
    assert!(matches!(
        shell.ask(create(1)),
        Message::Refused(Refusal::Malformed { .. })
    ));
    let writer = Writer::first();
    shell.ask(writer.claim(0));
    assert_eq!(refusal(shell.ask(create(0))), Refusal::Exists);
}

#[test]
fn a_full_disk_refuses_batches_serves_reads_and_takes_claims() {
    let mut shell = node(0);
    shell.disk_full = true;
    let mut writer = Writer::first();
    let mut stream = writer.attach(&mut shell, 0);
    let mut full = false;
    for _ in 0..2_000 {
        let batch = writer.batch(&[2]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.settle();
        if let Some(Message::Refused(refusal)) = shell.take(stream).pop() {
            assert_eq!(refusal, Refusal::DiskFull);
            full = true;
            break;
        }
    }
    assert!(full);
    let last = writer.batches[writer.batches.len() - 2].header().last;
    let scl = shell.status().segments[0].scl;
    assert_eq!(scl, last);
    stream = writer.attach(&mut shell, 0);
    let heartbeat = writer.heartbeat();
    shell.say(stream, heartbeat);
    assert!(last_ack(&mut shell, stream).full);
    let answer = shell.ask(writer.read(0, &[2], last, last));
    assert!(matches!(answer, Message::Pages(_)));
    shell.disk_full = false;
    shell.now = shell
        .core
        .poll_timeout()
        .unwrap()
        .max(shell.now + std::time::Duration::from_secs(2));
    shell.event(sixfold_storage_node_core::Event::Timeout);
    let batch = writer.batches.last().unwrap().clone();
    assert_eq!(
        writer.ship(&mut shell, stream, &batch).scl,
        batch.header().last
    );
}

/// A node whose next file does not come, with batches that wait for it. How far it acknowledged.
fn waiting_for_a_file(writer: &mut Writer) -> (Shell, StreamKey, Lsn) {
    let mut shell = node(0);
    shell.hold_making = true;
    let stream = writer.attach(&mut shell, 0);
    let mut acked = Lsn::NONE;
    for _ in 0..2_000 {
        let batch = writer.batch(&[2]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.settle();
        match shell.take(stream).pop() {
            Some(Message::Ack(ack)) => acked = ack.scl,
            Some(other) => panic!("{other:?}"),
            None => break,
        }
    }
    for _ in 0..5 {
        let batch = writer.batch(&[3]);
        let append = writer.append(&batch);
        shell.say(stream, append);
    }
    shell.settle();
    assert!(shell.making.is_some() && shell.take(stream).is_empty());
    assert!(Lsn::NONE < acked && acked < writer.prev);
    (shell, stream, acked)
}

#[test]
fn what_waits_when_the_disk_turns_out_to_be_full_is_refused() {
    let mut writer = Writer::first();
    let (mut shell, stream, acked) = waiting_for_a_file(&mut writer);
    shell.disk_full = true;
    shell.complete_making();
    shell.settle();
    shell.event(sixfold_storage_node_core::Event::Timeout);
    let said = shell.take(stream);
    assert_eq!(said, [Message::Refused(Refusal::DiskFull)]);
    let status = shell.status();
    assert_eq!(status.segments[0].scl, acked);
    assert_eq!(status.upkeep.memory.queued_bytes, 0);
    // What was not written is new when it comes again.
    shell.disk_full = false;
    shell.hold_making = false;
    shell.pass(std::time::Duration::from_secs(3));
    let stream = writer.attach(&mut shell, 0);
    for batch in writer.batches.clone() {
        if batch.header().last > acked {
            writer.ship(&mut shell, stream, &batch);
        }
    }
    let mut shell = shell.crash(&|_| false);
    assert_eq!(shell.status().segments[0].scl, writer.prev);
    writer.check_pages(&mut shell, 0, &[2, 3], writer.prev);
}

#[test]
fn a_claim_behind_batches_that_wait_is_taken_on_a_disk_that_turns_out_to_be_full() {
    let mut writer = Writer::first();
    let (mut shell, _, acked) = waiting_for_a_file(&mut writer);
    let next = Claim {
        segment: segment_id(0),
        volume_epoch: VolumeEpoch::new(9),
        writer: WriterId::from_bytes([9; 16]),
    };
    let claim = shell.open_stream();
    shell.say(claim, Message::Claim(next));
    shell.settle();
    assert!(shell.take(claim).is_empty());
    shell.disk_full = true;
    shell.complete_making();
    shell.event(sixfold_storage_node_core::Event::Timeout);
    shell.settle();
    let Some(Message::Census(census)) = shell.take(claim).pop() else {
        panic!("the claim is not taken");
    };
    assert_eq!(census.scl, acked);
}

#[test]
fn layers_without_space_end_in_refusals_that_say_so_and_nothing_else_changes() {
    let mut shell = crate::layers::node_with(crate::layers::small());
    shell.layers_full = true;
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let (mut refused, mut told) = (None, false);
    for _ in 0..2_000 {
        let batch = writer.batch(&[2, 3, 4]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        // All of it could be frozen.
        writer.vdl = writer.prev;
        let heartbeat = writer.heartbeat();
        shell.say(stream, heartbeat);
        shell.pass(std::time::Duration::from_millis(3));
        for message in shell.take(stream) {
            match message {
                Message::Ack(ack) => told |= ack.full,
                Message::Refused(refusal) => refused = refused.or(Some(refusal)),
                other => panic!("{other:?}"),
            }
        }
        if refused.is_some() {
            break;
        }
    }
    assert_eq!(refused, Some(Refusal::DiskFull));
    let status = shell.status();
    assert!(status.upkeep.full && status.upkeep.freezes > 0);
    let last = status.segments[0].scl;
    let answer = shell.ask(writer.read(0, &[2], last, last));
    assert!(matches!(answer, Message::Pages(_)));
    let stream = writer.attach(&mut shell, 0);
    let heartbeat = writer.heartbeat();
    shell.say(stream, heartbeat);
    assert!(told || last_ack(&mut shell, stream).full);
    // Space returns, and with it the writer.
    shell.layers_full = false;
    shell.pass(std::time::Duration::from_secs(3));
    let batch = writer.batches.last().unwrap().clone();
    let ack = writer.ship(&mut shell, stream, &batch);
    assert_eq!(ack.scl, batch.header().last);
    assert!(!ack.full && !shell.status().upkeep.full);
}

#[test]
fn a_disk_that_takes_long_is_called_slow_in_acks_until_it_is_not() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let said = |shell: &mut Shell, writer: &mut Writer| {
        let heartbeat = writer.heartbeat();
        shell.say(stream, heartbeat);
        last_ack(shell, stream).slow
    };
    assert!(!said(&mut shell, &mut writer));
    let batch = writer.batch(&[2]);
    let append = writer.append(&batch);
    shell.say(stream, append);
    assert!(!said(&mut shell, &mut writer));
    // While the write goes on, and by what it took.
    shell.now += std::time::Duration::from_millis(150);
    assert!(said(&mut shell, &mut writer));
    assert!(shell.complete_write());
    assert!(last_ack(&mut shell, stream).slow);
    let batch = writer.batch(&[3]);
    assert!(!writer.ship(&mut shell, stream, &batch).slow);
}
