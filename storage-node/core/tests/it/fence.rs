//! Claims, census, histories: R2 to R7.

use std::time::Duration;

use sixfold_log_format::wire::{Message, Probe, Refusal};
use sixfold_log_format::{Lsn, VolumeEpoch, WriterId};

use crate::writer::{Writer, census, last_ack, lsn, node, refusal, volume};

#[test]
fn no_ack_follows_a_higher_claim_even_for_a_write_in_flight() {
    let mut shell = node(0);
    let mut old = Writer::first();
    let stream = old.attach(&mut shell, 0);
    let batch = old.batch(&[2]);
    let append = old.append(&batch);
    shell.say(stream, append);
    assert_eq!(shell.writes.len(), 1, "the batch is at the disk");

    let new = old.reopen(old.vdl, 3);
    let claim = shell.open_stream();
    shell.say(claim, new.claim(0));
    let told = shell.take(stream).pop().unwrap();
    assert_eq!(
        refusal(told),
        Refusal::StaleEpoch {
            volume_epoch: new.epoch
        }
    );
    assert!(shell.take(claim).is_empty(), "the claim is not durable");
    shell.settle();
    assert!(shell.take(stream).is_empty(), "R2: no ack");
    let census = census(shell.take(claim).pop().unwrap());
    assert_eq!(
        census.scl,
        batch.header().last,
        "and the batch is in the census"
    );
    assert_eq!(census.runs.len(), 1);
    assert_eq!(
        (census.runs[0].first, census.runs[0].last),
        (batch.header().first, batch.header().last)
    );
}

#[test]
fn a_batch_that_waits_behind_the_claim_is_not_acknowledged() {
    let mut shell = node(0);
    let mut old = Writer::first();
    let stream = old.attach(&mut shell, 0);
    let batches: Vec<_> = (0..3).map(|_| old.batch(&[2])).collect();
    for batch in &batches[..2] {
        let append = old.append(batch);
        shell.say(stream, append);
    }
    let new = old.reopen(old.vdl, 3);
    let claim = shell.open_stream();
    shell.say(claim, new.claim(0));
    shell.take(stream);
    let append = old.append(&batches[2]);
    shell.say(stream, append);
    assert!(matches!(
        shell.take(stream).pop(),
        Some(Message::Refused(_))
    ));
    shell.settle();
    assert!(shell.take(stream).is_empty());
    let census = census(shell.take(claim).pop().unwrap());
    assert_eq!(census.runs[0].last, batches[1].header().last);
}

#[test]
fn the_census_lists_everything_above_the_vdl_seen_behind_holes_too() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let first = writer.mtrs(&[&[2, 3], &[4]]);
    let _lost = writer.batch(&[5]);
    let third = writer.mtrs(&[&[6], &[7, 8, 9]]);
    writer.ship(&mut shell, stream, &third);
    writer.ship(&mut shell, stream, &first);
    let base = writer.history.highest_end().get();
    let census = census(shell.ask(writer.reopen(writer.vdl, 3).claim(0)));
    assert_eq!(census.vdl_seen, lsn(base));
    assert_eq!(census.last_valid, Lsn::NONE);
    assert_eq!(census.history, writer.history);
    let runs: Vec<_> = census
        .runs
        .iter()
        .map(|run| {
            (
                run.first.get() - base,
                run.last.get() - base,
                run.cpls.iter().map(|cpl| cpl.get() - base).collect(),
            )
        })
        .collect();
    assert_eq!(runs, [(1, 3, vec![2, 3]), (5, 8, vec![5, 8])]);
    assert!(census.lease_left_ms > 0 && census.lease_left_ms <= 50);
}

#[test]
fn the_census_begins_above_the_vdl_seen_and_names_the_last_valid_lsn_below() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let first = writer.batch(&[2]);
    let second = writer.mtrs(&[&[2], &[3], &[4]]);
    writer.ship(&mut shell, stream, &first);
    writer.ship(&mut shell, stream, &second);
    writer.vdl = second.header().first;
    let heartbeat = writer.heartbeat();
    shell.say(stream, heartbeat);
    shell.now += Duration::from_secs(1);
    let census = census(shell.ask(writer.reopen(writer.vdl, 3).claim(0)));
    assert_eq!(census.vdl_seen, second.header().first);
    assert_eq!(census.last_valid, second.header().first);
    assert_eq!(census.runs.len(), 1);
    assert_eq!(census.runs[0].first, second.header().first.next());
    assert_eq!(census.runs[0].cpls.len(), 2);
    assert_eq!(census.lease_left_ms, 0);
}

#[test]
fn a_repeated_claim_is_answered_again_and_a_rival_is_refused() {
    let mut shell = node(0);
    let writer = Writer::first();
    let one = census(shell.ask(writer.claim(0)));
    let writes = shell.writes_done;
    let two = census(shell.ask(writer.claim(0)));
    assert_eq!(
        (one.volume_epoch, writes),
        (two.volume_epoch, shell.writes_done)
    );
    let mut rival = writer.clone();
    rival.id = WriterId::from_bytes([99; 16]);
    assert_eq!(
        refusal(shell.ask(rival.claim(0))),
        Refusal::StaleEpoch {
            volume_epoch: writer.epoch
        }
    );
    // R8: a history of that epoch overrides the claim.
    assert!(matches!(shell.ask(rival.install(0)), Message::Installed(_)));
    assert!(matches!(
        shell.ask(writer.install(0)),
        Message::Refused(Refusal::StaleEpoch { .. })
    ));
}

#[test]
fn nothing_of_an_epoch_is_taken_or_served_before_its_history_is_durable() {
    let mut shell = node(0);
    let mut writer = Writer::first();
    let stream = shell.open_stream();
    shell.say(stream, writer.attach_message(0));
    assert!(shell.take(stream).is_empty());
    let read = shell.request_as(
        sixfold_log_format::wire::Role::Writer,
        writer.read(0, &[2], lsn(5), Lsn::NONE),
    );
    assert!(matches!(
        read[0],
        Message::Refused(Refusal::OtherHistory { .. })
    ));
    let batch = writer.batch(&[2]);
    let refill = shell.request_as(
        sixfold_log_format::wire::Role::Writer,
        writer.refill(0, &[batch]),
    );
    assert!(matches!(
        refill[0],
        Message::Refused(Refusal::OtherHistory { .. })
    ));
    shell.settle();
    assert!(matches!(
        shell.take(stream).pop(),
        Some(Message::Attached(_))
    ));
}

#[test]
fn a_history_below_the_claim_is_refused() {
    let mut shell = node(0);
    let first = Writer::first();
    let second = first.reopen(first.vdl, 3);
    shell.ask(second.claim(0));
    for message in [first.install(0), first.attach_message(0), first.claim(0)] {
        let told = refusal(shell.ask(message));
        assert_eq!(
            told,
            Refusal::StaleEpoch {
                volume_epoch: second.epoch
            }
        );
    }
    assert_eq!(
        shell.status().segments[0].history_epoch,
        VolumeEpoch::CREATION
    );
}

#[test]
fn a_half_annulled_batch_stays_and_the_chain_goes_on_from_its_valid_part() {
    let mut shell = node(0);
    let mut old = Writer::first();
    let stream = old.attach(&mut shell, 0);
    let first = old.batch(&[2]);
    let half = old.mtrs(&[&[2, 3], &[4, 5]]);
    old.ship(&mut shell, stream, &first);
    old.ship(&mut shell, stream, &half);
    old.check_pages(&mut shell, 0, &[2, 3, 4, 5], old.prev);

    let vdl = half.header().first.next();
    let mut new = old.reopen(vdl, 3);
    assert_eq!(new.prev, vdl);
    shell.ask(new.claim(0));
    let (stream, attached) = new.attached(&mut shell, 0);
    assert_eq!((attached.scl, attached.history_epoch), (vdl, new.epoch));
    let next = new.batch(&[4, 2]);
    assert_eq!(new.ship(&mut shell, stream, &next).scl, next.header().last);
    for at in [first.header().last, vdl, next.header().last] {
        new.check_pages(&mut shell, 0, &[2, 3, 4, 5], at);
    }
    // The same after a restart, from the same bytes.
    let mut shell = shell.crash(&|_| false);
    assert_eq!(shell.status().segments[0].scl, next.header().last);
    new.check_pages(&mut shell, 0, &[2, 3, 4, 5], next.header().last);
}

#[test]
fn a_higher_history_brings_back_what_a_losers_history_annulled() {
    // Epoch 3 cut at the base and annulled the batch; epoch 4 found the history of epoch 2 and the batch.
    let mut shell = node(0);
    let mut old = Writer::first();
    let stream = old.attach(&mut shell, 0);
    let batch = old.batch(&[2, 3]);
    old.ship(&mut shell, stream, &batch);
    let loser = old.reopen(old.vdl, 3);
    shell.ask(loser.claim(0));
    shell.ask(loser.install(0));
    assert_eq!(shell.status().segments[0].scl, Lsn::NONE);
    let winner = old.reopen(batch.header().last, 4);
    shell.ask(winner.claim(0));
    shell.ask(winner.install(0));
    assert_eq!(shell.status().segments[0].scl, batch.header().last);
    winner.check_pages(&mut shell, 0, &[2, 3], winner.vdl);
}

#[test]
fn refill_takes_batches_of_a_lower_epoch() {
    let mut shell = node(0);
    let mut old = Writer::first();
    let batches: Vec<_> = (0..4).map(|_| old.batch(&[2, 3])).collect();
    let new = old.reopen(old.prev, 3);
    shell.ask(new.claim(0));
    shell.ask(new.install(0));
    let Message::Installed(installed) = shell.ask(new.refill(0, &batches)) else {
        panic!()
    };
    assert_eq!(
        (installed.scl, installed.history_epoch),
        (old.prev, new.epoch)
    );
    new.check_pages(&mut shell, 0, &[2, 3], new.vdl);
    let other = old;
    let answer = shell.ask(
        Writer {
            id: WriterId::from_bytes([5; 16]),
            ..other
        }
        .refill(0, &batches),
    );
    assert_eq!(
        refusal(answer),
        Refusal::StaleEpoch {
            volume_epoch: new.epoch
        }
    );
}

#[test]
fn a_probe_writes_nothing_and_says_when_the_writer_was_heard() {
    let mut shell = node(0);
    let probe = |shell: &mut crate::shell::Shell| match shell
        .ask(Message::Probe(Probe { volume: volume() }))
    {
        Message::ProbeAnswer(answer) => answer.segments[0].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(probe(&mut shell).writer_heard_ms_ago, None);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    let heartbeat = writer.heartbeat();
    shell.say(stream, heartbeat);
    last_ack(&mut shell, stream);
    shell.now += Duration::from_millis(300);
    let writes = shell.writes_done;
    let told = probe(&mut shell);
    assert_eq!(
        (told.writer_heard_ms_ago, told.claim, told.history_epoch),
        (Some(300), writer.epoch, writer.epoch)
    );
    assert_eq!(shell.writes_done, writes);
    shell.ask(writer.reopen(writer.vdl, 3).claim(0));
    assert_eq!(
        probe(&mut shell).writer_heard_ms_ago,
        None,
        "a fenced writer keeps nothing in use"
    );
}

#[test]
fn a_claim_and_a_history_survive_a_restart() {
    let mut shell = node(0);
    let writer = Writer::first();
    shell.ask(writer.claim(0));
    let mut shell = shell.crash(&|_| false);
    let mut rival = writer.clone();
    rival.id = WriterId::from_bytes([9; 16]);
    assert!(matches!(
        shell.ask(rival.claim(0)),
        Message::Refused(Refusal::StaleEpoch { .. })
    ));
    let census = census(shell.ask(writer.claim(0)));
    assert_eq!(
        census.lease_left_ms, 50,
        "it does not know what it granted before the restart"
    );
    shell.ask(writer.install(0));
    let mut shell = shell.crash(&|_| false);
    assert_eq!(shell.status().segments[0].history_epoch, writer.epoch);
}

#[test]
fn the_end_of_a_range_counts_as_seen_once_its_writer_has_attached() {
    let mut shell = node(0);
    let mut old = Writer::first();
    let stream = old.attach(&mut shell, 0);
    let batch = old.batch(&[2, 3]);
    old.ship(&mut shell, stream, &batch);
    let new = old.reopen(batch.header().first, 3);
    shell.ask(new.claim(0));
    shell.ask(new.install(0));
    assert_eq!(
        shell.status().segments[0].vdl_seen,
        lsn(1000),
        "whoever has only installed may have counted a record that is lost (R9)"
    );
    let opened = new;
    opened.attach(&mut shell, 0);
    let census = census(shell.ask(opened.reopen(opened.vdl, 4).claim(0)));
    assert_eq!(census.vdl_seen, opened.history.highest_end(), "R1");
    assert_eq!(census.last_valid, batch.header().first);
    assert!(census.runs.is_empty());
}
