//! Reopenings that are cut short, and the ones that come after them.

use sixfold_log_format::PgId;
use sixfold_log_format::limits::HISTORY_RANGES_MAX;
use sixfold_log_format::wire::{Message, Refusal};
use sixfold_recovery::cut::CutError;
use sixfold_recovery::machine::{Recovery, RecoveryAction, RecoveryError, RecoveryEvent};

use crate::cluster::{Cluster, Fate, assert_opened, nodes_of, options, take_over, written};
use crate::common::{batch_of, epoch, history, lsn, ms, range};

const ALL: u32 = 0b11_1111;

/// A candidate dies at its `death`-th request that writes; the next one opens, at every one of these points.
#[test]
fn a_recovery_of_a_recovery_keeps_every_answer_at_each_step() {
    for death in 0..24 {
        for (dead, second_dead) in [
            (0b10_0000, 0b00_0001),
            (0b01_0010, 0b10_0001),
            (0, 0b00_1100),
        ] {
            let holders = |number: u64| {
                if number <= 12 {
                    vec![0, 1, 2, 3]
                } else {
                    vec![3]
                }
            };
            let (mut cluster, _) = written(&[11, 12, 13], holders);
            cluster.only_up(ALL & !dead);
            let mut left = death;
            cluster.hook = Box::new(move |_, who, _, message| {
                let writes = matches!(
                    message,
                    Message::Claim(_) | Message::Install(_) | Message::Refill(_)
                );
                if who == 1 && writes {
                    if left == 0 {
                        return Fate::CandidateDies;
                    }
                    left -= 1;
                }
                Fate::Answered
            });
            cluster.start(take_over(2));
            cluster.run();
            cluster.only_up(ALL & !second_dead);
            let opened = cluster.recover(take_over(3)).unwrap();
            let kept = opened.pg_last[0].1;
            assert!(kept == lsn(12) || kept == lsn(13), "{kept}");
            let records: Vec<u64> = (11..=kept.get()).collect();
            assert_opened(&cluster, &opened, &records);
        }
    }
}

/// R9: 12 is on segment 0 alone. It answers the claim, and is gone before it can hand the record over.
#[test]
fn a_lost_only_holder_restarts_the_recovery_one_epoch_higher() {
    let (mut cluster, _) = written(&[11, 12], |number| {
        if number == 11 { nodes_of(ALL) } else { vec![0] }
    });
    cluster.only_up(0b01_1111);
    cluster.hook = Box::new(|segments, _, to, message| {
        if to == 0 && matches!(message, Message::Install(_)) {
            segments[0].up = false;
        }
        Fate::Answered
    });
    let opened = cluster.recover(options(2)).unwrap();
    assert_eq!(
        (opened.volume_epoch, opened.pg_last[0].1),
        (epoch(4), lsn(11))
    );
    assert_opened(&cluster, &opened, &[11]);
    // The cut below the range that was installed first covers it whole, so 12 can never come back.
    assert!(opened.history.annuls(lsn(12)));
    // Nor can it when the holder returns.
    cluster.hook = Box::new(|_, _, _, _| Fate::Answered);
    cluster.only_up(0b11_1001);
    let third = cluster.recover(options(3)).unwrap();
    assert_opened(&cluster, &third, &[11]);
}

#[test]
fn a_holder_that_dies_while_it_is_read_restarts_the_recovery_too() {
    let (mut cluster, _) = written(&[11, 12], |number| {
        if number == 11 { nodes_of(ALL) } else { vec![0] }
    });
    cluster.only_up(0b01_1111);
    cluster.hook = Box::new(|segments, _, to, message| {
        if to == 0 && matches!(message, Message::ReadLog(_)) {
            segments[0].up = false;
        }
        Fate::Answered
    });
    let opened = cluster.recover(options(2)).unwrap();
    assert_eq!(
        (opened.volume_epoch, opened.pg_last[0].1),
        (epoch(4), lsn(11))
    );
}

#[test]
fn a_silent_source_is_left_for_another_one() {
    let (mut cluster, _) = written(&[11, 12], |_| vec![0, 1, 2]);
    cluster.only_up(0b00_1111);
    cluster.hook = Box::new(|_, _, to, message| {
        if to == 2 && matches!(message, Message::ReadLog(_)) {
            Fate::Silence
        } else {
            Fate::Answered
        }
    });
    let opened = cluster.recover(options(2)).unwrap();
    assert_eq!(opened.volume_epoch, epoch(3));
    assert_opened(&cluster, &opened, &[11, 12]);
}

#[test]
fn a_target_that_fails_is_replaced_by_another_laggard() {
    let (mut cluster, _) = written(&[11, 12], |number| {
        if number == 11 {
            vec![0, 1, 2, 3]
        } else {
            vec![0, 1, 2]
        }
    });
    cluster.hook = Box::new(|_, _, to, message| {
        if to == 3 && matches!(message, Message::Refill(_)) {
            Fate::Unreachable
        } else {
            Fate::Answered
        }
    });
    let opened = cluster.recover(options(2)).unwrap();
    assert_opened(&cluster, &opened, &[11, 12]);
    assert_eq!(opened.volume_epoch, epoch(3));
}

#[test]
fn two_records_at_one_lsn_open_nothing() {
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    let foreign = batch_of(0, 5, 11, &[12], 10, 1);
    let own = batch_of(0, 2, 11, &[12], 10, 0);
    cluster.segments[0].put(&own);
    cluster.segments[1].put(&foreign);
    cluster.only_up(0b00_1111);
    let error = cluster.recover(options(2)).unwrap_err();
    let expected = CutError::TwoRecords {
        lsn: lsn(12),
        first: epoch(2),
        second: epoch(5),
    };
    assert_eq!(error, RecoveryError::Corrupt(expected));
}

#[test]
fn what_does_not_answer_in_time_is_unavailable() {
    let mut cluster = Cluster::new();
    cluster.hook = Box::new(|_, _, to, message| match message {
        Message::Install(_) if to > 2 => Fate::Silence,
        _ => Fate::Answered,
    });
    let error = cluster.recover(options(1)).unwrap_err();
    assert_eq!(
        error,
        RecoveryError::Unavailable {
            pg: PgId::ROOT,
            answered: 3,
            needed: 4
        }
    );
    assert_eq!(cluster.now, ms(21_000), "at the deadline, not later");
}

#[test]
fn late_double_and_senseless_answers_change_nothing() {
    let mut machine = Recovery::new(options(1), ms(0));
    let mut keys = Vec::new();
    while let Some(action) = machine.poll_action() {
        if let RecoveryAction::Send { request, .. } = action {
            keys.push(request);
        }
    }
    assert_eq!(keys.len(), 6);
    for &request in &keys {
        for message in [
            Message::Done,
            Message::Refused(Refusal::Overloaded),
            Message::Done,
        ] {
            machine.handle(ms(1), RecoveryEvent::Answer { request, message });
        }
        machine.handle(ms(1), RecoveryEvent::Unreachable { request });
    }
    assert!(
        machine.poll_action().is_none(),
        "they rest before they are asked again"
    );
    let due = machine.poll_timeout().unwrap();
    assert!(due > ms(1));
    machine.handle(due, RecoveryEvent::Timeout);
    let mut again = 0;
    while machine.poll_action().is_some() {
        again += 1;
    }
    assert_eq!(again, 6);
}

/// A segment that answers with a history as high as our claim breaks its word; it must not break the candidate.
#[test]
fn a_census_that_no_segment_can_give_is_not_counted() {
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    cluster.hook = Box::new(|segments, _, to, message| {
        match (message, to) {
            (Message::Claim(_), 0) => segments[0].history.volume_epoch = epoch(3),
            (Message::Claim(_), 1) => segments[1].manifest.version.volume_epoch = epoch(3),
            (Message::Claim(_), 2) => segments[2].manifest.parameters.lal = 0,
            _ => {}
        }
        Fate::Answered
    });
    let mut short = options(2);
    short.deadline = ms(2_000);
    assert!(matches!(
        cluster.recover(short),
        Err(RecoveryError::Unavailable {
            answered: 3,
            needed: 4,
            ..
        })
    ));
}

#[test]
fn a_volume_whose_history_is_full_gives_one_clear_line() {
    let mut cluster = Cluster::new();
    let count = HISTORY_RANGES_MAX as u64;
    let ranges: Vec<_> = (0..count)
        .map(|number| range(100 * number + 50, 100 * number + 60, number + 2))
        .collect();
    let full = history(count + 1, &ranges);
    let end = full.highest_end();
    for segment in &mut cluster.segments {
        segment.guard.claim = epoch(count + 1);
        segment.guard.history_epoch = epoch(count + 1);
        segment.history = full.clone();
        segment.floor = end;
    }
    // A reopening that found nothing new replaces the last range.
    let opened = cluster.open(options(1));
    assert_eq!(opened.history.ranges.len(), HISTORY_RANGES_MAX);

    let first = opened.vdl.next().get();
    let batch = batch_of(
        0,
        opened.volume_epoch.get(),
        0,
        &[first],
        opened.vdl.get(),
        0,
    );
    cluster.append(&opened, &batch, &nodes_of(ALL));
    cluster
        .segments
        .iter_mut()
        .for_each(|segment| segment.heard_ms_ago = None);
    let error = cluster.recover(options(2)).unwrap_err();
    assert_eq!(
        error,
        RecoveryError::HistoryFull {
            ranges: HISTORY_RANGES_MAX
        }
    );
    assert_eq!(
        error.to_string(),
        "the history is full: it lists 4096 annulled ranges, and this reopening would add one"
    );
    for segment in &cluster.segments {
        assert_eq!(segment.history, opened.history, "nothing was installed");
    }
}
