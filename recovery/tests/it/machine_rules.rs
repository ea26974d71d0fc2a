//! The stories behind the rules, each as a test.

use sixfold_log_format::wire::Message;
use sixfold_log_format::{Lsn, PgId};

use crate::cluster::{Cluster, Fate, assert_opened, nodes_of, options, take_over, written};
use crate::common::{batch_of, epoch, history, lsn, range, writer};

const ALL: u32 = 0b11_1111;

/// R1, first story. W dies at VDL 1000. X opens at epoch 5 with (1000, 1010]; its 1011 and 1012 reach segment A alone, and
/// X dies. Y does not see A. When A returns, no LSN may have been minted twice.
#[test]
fn r1_a_recovery_that_wrote_nothing_never_mints_an_lsn_again() {
    let numbers: Vec<u64> = (11..=20).collect();
    let (mut cluster, _) = written(&numbers, |_| nodes_of(ALL));
    let x = cluster.open(options(5));
    assert_eq!((x.cut, x.vdl), (lsn(20), lsn(30)));
    let lost = batch_of(0, x.volume_epoch.get(), 20, &[31, 32], 30, 0);
    cluster.attach(&x, &[0, 1, 2, 3, 4, 5]);
    assert_eq!(cluster.append(&x, &lost, &[0]), 1);
    cluster.only_up(0b11_1110);
    let y = cluster.open(options(6));
    assert_eq!(
        y.cut,
        lsn(30),
        "the range's end is the VDL of the reopening that wrote nothing"
    );
    assert!(
        y.vdl >= lsn(40),
        "new LSNs start above all that X was allowed to mint"
    );
    let first = y.vdl.next().get();
    assert_eq!(
        cluster.append(
            &y,
            &batch_of(0, y.volume_epoch.get(), 20, &[first], 40, 1),
            &[1, 2, 3, 4]
        ),
        4
    );
    // A is back; its 31 and 32 are annulled, and there are no two records anywhere.
    cluster.only_up(0b01_1011);
    let z = cluster.recover(options(7)).unwrap();
    let expected: Vec<u64> = (11..=20).chain([first]).collect();
    assert_opened(&cluster, &z, &expected);
}

/// R1, second story. Y counts 12, whose only copy is on segment 0, installs (12, 22] at one segment and dies; segment 0
/// dies too. Z finds the gap below Y's range.
#[test]
fn r1_a_gap_below_an_installed_range_is_found_and_the_range_is_not_minted_into() {
    let (mut cluster, _) = written(&[11, 12], |number| {
        if number == 11 { nodes_of(ALL) } else { vec![0] }
    });
    cluster.only_up(0b01_1111);
    let mut installs = 0;
    cluster.hook = Box::new(move |_, who, to, message| match message {
        Message::Install(_) if who == 1 && to == 3 && installs == 0 => {
            installs += 1;
            Fate::AnswerLost
        }
        Message::Install(_) if who == 1 && to != 3 => Fate::Unreachable,
        Message::Install(_) if who == 1 => Fate::CandidateDies,
        _ => Fate::Answered,
    });
    cluster.start(take_over(2));
    cluster.run();
    assert_eq!(
        cluster.segments[3].history,
        history(3, &[range(0, 10, 2), range(12, 22, 3)])
    );
    cluster.only_up(0b11_1110);
    let z = cluster.recover(take_over(3)).unwrap();
    assert_eq!(z.cut, lsn(11));
    assert_eq!(z.history, history(4, &[range(0, 10, 2), range(11, 22, 4)]));
    // Segment 0 returns with 12, which nobody may see now.
    cluster.only_up(0b01_0111);
    let last = cluster.recover(take_over(4)).unwrap();
    assert_opened(&cluster, &last, &[11]);
}

/// The same story, with segments that take an installed range's end for a VDL that was seen. It is not: the installer
/// had not opened. The cut then starts above the gap, and two segments of one history disagree about 12.
#[test]
fn r1_a_range_end_that_was_only_installed_is_no_floor() {
    let (mut cluster, _) = written(&[11, 12], |number| {
        if number == 11 { nodes_of(ALL) } else { vec![0] }
    });
    // What the dead candidate left at segment 3: its history, and (wrongly) its end as a floor.
    cluster.segments[3]
        .guard
        .install(epoch(3), writer(9))
        .unwrap();
    cluster.segments[3].history = history(3, &[range(0, 10, 2), range(12, 22, 3)]);
    cluster.segments[3].floor = lsn(22);
    cluster.only_up(0b11_1110);
    let z = cluster.recover(take_over(3)).unwrap();
    assert_eq!((z.cut, z.pg_last[0].1), (lsn(22), lsn(11)));
    assert!(
        !z.history.annuls(lsn(12)),
        "12 is counted as there, and nobody who answered has it"
    );
    cluster.segments[0].history = z.history;
    assert_eq!(
        cluster.segments[0].scl(),
        lsn(12),
        "so its holder is ahead of the whole volume for ever"
    );
}

/// R2: the claim is accepted while a batch of the old writer is in flight at two segments.
#[test]
fn r2_no_ack_of_the_old_writer_leaves_after_the_claim() {
    let (mut cluster, w) = written(&[11], |_| nodes_of(ALL));
    let in_flight = batch_of(0, 2, 11, &[12], 11, 0);
    assert_eq!(cluster.append(&w, &in_flight, &[0, 1]), 2);
    cluster.only_up(0b11_1100);
    let opened = cluster.recover(take_over(2)).unwrap();
    assert_eq!(opened.cut, lsn(11));
    // The writes at 2 and 3 complete now: durable or not, they are not acknowledged. Two acks answer nobody.
    assert_eq!(cluster.append(&w, &in_flight, &[2, 3]), 0);
}

/// R3: F was away and holds records that were annulled meanwhile. Nothing of the new epoch counts there before it has
/// the history, and with the history it holds what the others hold.
#[test]
fn r3_a_segment_that_missed_the_recovery_takes_the_history_first() {
    let (mut cluster, _) = written(&[11, 12, 13], |number| {
        if number == 11 { nodes_of(ALL) } else { vec![5] }
    });
    cluster.only_up(0b00_1111);
    let opened = cluster.open(options(2));
    cluster.only_up(ALL);
    assert_eq!(cluster.segments[5].scl(), lsn(13));
    let batch = batch_of(0, 3, 11, &[22], 21, 0);
    assert_eq!(
        cluster.append(&opened, &batch, &[5]),
        0,
        "no history, no ack"
    );
    let peer = cluster.segments[0].clone();
    assert!(cluster.segments[5].gossip_history(&peer));
    assert_eq!(
        cluster.segments[5].scl(),
        lsn(11),
        "12 and 13 are annulled; the chain is recomputed"
    );
    assert_eq!(
        cluster.append(&opened, &batch, &[5]),
        0,
        "its writer has not shown itself yet"
    );
    cluster.attach(&opened, &[5]);
    assert_eq!(cluster.append(&opened, &batch, &[5]), 1);
    assert_eq!(cluster.segments[5].all_valid(), [lsn(11), lsn(22)]);
}

/// R4: Y(6) installed on one segment and died. Z(7) claimed another; gossip must not bring Y's history there.
#[test]
fn r4_a_losers_history_does_not_arrive_between_claim_and_install() {
    let (mut cluster, _) = written(&[11, 12], |number| {
        if number == 11 { nodes_of(ALL) } else { vec![3] }
    });
    cluster.segments[0]
        .guard
        .install(epoch(6), writer(6))
        .unwrap();
    cluster.segments[0].history = history(6, &[range(0, 10, 2), range(11, 21, 6)]);
    cluster.only_up(0b11_1110);
    // Between Z's claim and Z's install at segment 3 it gossips with segment 0.
    cluster.hook = Box::new(|segments, _, to, message| {
        if to == 3 && matches!(message, Message::Install(_)) {
            let peer = segments[0].clone();
            assert!(!segments[3].gossip_history(&peer), "6 is below the claim");
        }
        Fate::Answered
    });
    // Y's claim had reached the others, so that Z claims above it.
    for index in 1..6 {
        cluster.segments[index]
            .guard
            .claim(epoch(6), writer(66))
            .unwrap();
    }
    let z = cluster.recover(take_over(7)).unwrap();
    assert_eq!((z.volume_epoch, z.pg_last[0].1), (epoch(7), lsn(12)));
    assert_opened(&cluster, &z, &[11, 12]);
}

/// R8, R13 at the segment: the same LSN, epoch and checksum is a duplicate; nothing else is.
#[test]
fn r13_the_same_batch_twice_is_one_batch() {
    let (mut cluster, w) = written(&[11], |_| nodes_of(ALL));
    let before = cluster.segments[0].written_batches;
    cluster.append(&w, &batch_of(0, 2, 0, &[11], 10, 0), &[0]);
    assert_eq!(cluster.segments[0].written_batches, before);
    let opened = cluster.recover(take_over(2)).unwrap();
    assert_opened(&cluster, &opened, &[11]);
}

#[test]
fn many_reopenings_in_a_row_lose_nothing_and_keep_the_history_short() {
    let mut cluster = Cluster::new();
    let mut expected: Vec<u64> = Vec::new();
    let mut prev = Lsn::NONE;
    for round in 0..30_u8 {
        // Two nodes are away, other ones each time.
        let away = 0b100_0001_u32.rotate_left(u32::from(round) % 6) & ALL | 1 << (round / 6 % 6);
        cluster.only_up(ALL & !away);
        let opened = cluster.open(options(round + 1));
        assert_opened(&cluster, &opened, &expected);
        assert_eq!(opened.pg_last, [(PgId::ROOT, prev)]);
        if round % 3 == 0 {
            let number = opened.vdl.next().get();
            let batch = batch_of(
                0,
                opened.volume_epoch.get(),
                prev.get(),
                &[number],
                opened.vdl.get(),
                0,
            );
            let up = nodes_of(ALL & !away);
            assert!(cluster.append(&opened, &batch, &up) >= 4);
            expected.push(number);
            prev = lsn(number);
        }
        assert!(
            opened.history.ranges.len() <= expected.len() + 1,
            "ranges that touch are merged"
        );
    }
}
