//! Reopenings that go their way: what is kept, what is annulled, what is refilled.

use sixfold_log_format::wire::Message;
use sixfold_log_format::{Lsn, PgId};
use sixfold_recovery::machine::{Phase, RecoveryError};

use crate::cluster::{Cluster, Fate, assert_opened, nodes_of, options, take_over, written};
use crate::common::{
    batch_of, big_batch, entry, epoch, has, history, lsn, manifest_of, ms, range, segment, set,
    six, subsets, subsets_of, volume,
};

const ALL: u32 = 0b11_1111;

#[test]
fn a_fresh_volume_opens_above_its_first_range() {
    let mut cluster = Cluster::new();
    let opened = cluster.recover(options(1)).unwrap();
    assert_eq!(opened.volume_epoch, epoch(2));
    assert_eq!(opened.history, history(2, &[range(0, 10, 2)]));
    assert_eq!((opened.cut, opened.vdl), (lsn(0), lsn(10)));
    assert_eq!(opened.pg_last, [(PgId::ROOT, Lsn::NONE)]);
    assert_eq!(opened.manifest.version.volume_epoch, epoch(2));
    assert!(opened.scls.len() >= 4 && opened.scls.iter().all(|&(_, scl)| scl.is_none()));
    assert_eq!((opened.lease_wait, opened.refilled_batches), (ms(0), 0));
    assert_eq!(
        cluster.phases,
        [
            Phase::Probe,
            Phase::Fence,
            Phase::Truncate,
            Phase::Refill,
            Phase::Lease
        ]
    );
    assert_eq!(cluster.now, ms(1_006), "three round trips");
}

#[test]
fn an_answered_tail_is_kept_whoever_of_the_six_answers() {
    for holders in subsets_of(ALL, 4) {
        for up in subsets(6).filter(|up| up.count_ones() >= 4) {
            let (mut cluster, _) = written(&[11, 12, 13], |_| nodes_of(holders));
            cluster.only_up(up);
            let opened = cluster.recover(options(2)).unwrap();
            assert_eq!(
                (opened.volume_epoch, opened.cut),
                (epoch(3), lsn(13)),
                "{holders:b} {up:b}"
            );
            assert_opened(&cluster, &opened, &[11, 12, 13]);
        }
    }
}

#[test]
fn a_torn_tail_is_kept_or_annulled_but_never_half_there() {
    for holders in subsets(6).filter(|mask| mask.count_ones() <= 3) {
        for up in subsets_of(ALL, 4) {
            let (mut cluster, _) = written(&[11, 12], |number| {
                nodes_of(if number == 11 { ALL } else { holders })
            });
            cluster.only_up(up);
            let opened = cluster.recover(options(2)).unwrap();
            if holders & up == 0 {
                assert_eq!(opened.cut, lsn(11));
                assert_opened(&cluster, &opened, &[11]);
            } else {
                assert_eq!(opened.cut, lsn(12));
                assert_opened(&cluster, &opened, &[11, 12]);
                let lacking = (up & !holders).count_ones();
                assert_eq!(opened.refilled_batches, u64::from(lacking));
            }
        }
    }
}

#[test]
fn an_annulled_record_stays_annulled_when_its_holder_returns() {
    let (mut cluster, _) = written(&[11, 12], |number| {
        if number == 11 { nodes_of(ALL) } else { vec![5] }
    });
    cluster.only_up(0b00_1111);
    let second = cluster.open(options(2));
    assert_eq!(
        second.history,
        history(3, &[range(0, 10, 2), range(11, 21, 3)])
    );
    // Segment 5 returns and is among the answers; 12 must not.
    cluster.only_up(0b11_1001);
    let third = cluster.recover(options(3)).unwrap();
    assert_eq!((third.cut, third.vdl), (lsn(21), lsn(31)));
    assert_opened(&cluster, &third, &[11]);
}

#[test]
fn a_union_of_holes_is_refilled_from_several_sources() {
    // No segment holds the whole chain.
    let holders = |number: u64| match number {
        11 => vec![0, 1, 2, 3, 4],
        12 => vec![0],
        13 => vec![1],
        14 => vec![2],
        _ => vec![3, 0],
    };
    let (mut cluster, _) = written(&[11, 12, 13, 14, 15], holders);
    cluster.only_up(0b01_1111);
    let opened = cluster.recover(options(2)).unwrap();
    assert_eq!(opened.cut, lsn(15));
    assert_opened(&cluster, &opened, &[11, 12, 13, 14, 15]);
}

#[test]
fn a_long_laggard_is_refilled_in_pieces() {
    let mut cluster = Cluster::new();
    let first = cluster.open(options(1));
    cluster.attach(&first, &[0, 1, 2, 3, 4, 5]);
    let mut prev = 0;
    // About 3 MiB in batches of some 300 KiB.
    for number in 0..10_u64 {
        let start = 11 + number * 100;
        let batch = big_batch(2, prev, start, 10);
        cluster.append(&first, &batch, &[0, 1, 2]);
        prev = start + 99;
    }
    let bytes: usize = cluster.segments[0]
        .batches
        .iter()
        .map(|batch| batch.len_bytes())
        .sum();
    cluster.only_up(0b00_1111);
    let opened = cluster.recover(options(2)).unwrap();
    assert_eq!((opened.cut, opened.refilled_batches), (lsn(prev), 10));
    assert_eq!(cluster.segments[3].scl(), lsn(prev));
    assert!(bytes > 2 << 20, "{bytes} bytes fit one read");
}

#[test]
fn a_half_annulled_batch_links_at_its_last_valid_record() {
    // One batch of 11..15; the history found says that (13, 20] is annulled.
    let mut cluster = Cluster::new();
    let first = cluster.open(options(1));
    cluster.attach(&first, &[0, 1, 2, 3, 4, 5]);
    let batch = batch_of(0, 2, 0, &[11, 12, 13, 14, 15], 10, 0);
    cluster.append(&first, &batch, &[0, 1]);
    let cut = history(3, &[range(0, 10, 2), range(13, 23, 3)]);
    cluster.segments[2].history = cut;
    cluster.segments[2]
        .guard
        .install(epoch(3), crate::common::writer(9))
        .unwrap();
    cluster.only_up(0b00_1111);
    let opened = cluster.recover(options(2)).unwrap();
    assert_eq!((opened.cut, opened.pg_last[0].1), (lsn(23), lsn(13)));
    assert_opened(&cluster, &opened, &[11, 12, 13]);
}

#[test]
fn the_lease_of_the_old_writer_is_waited_for_and_told_apart() {
    let mut cluster = Cluster::new();
    cluster.segments[2].lease_left_ms = 40;
    let opened = cluster.recover(options(1)).unwrap();
    // The census comes at 1,004 ms; 40 ms and 5 % later the lease has run out.
    assert_eq!(cluster.now, ms(1_046));
    assert_eq!(opened.lease_wait, ms(40));
}

#[test]
fn a_lease_beyond_belief_does_not_block_the_volume() {
    let mut cluster = Cluster::new();
    cluster.segments[2].lease_left_ms = u32::MAX;
    cluster.recover(options(1)).unwrap();
    assert!(cluster.now < ms(1_300));
}

#[test]
fn a_living_writer_keeps_the_volume_unless_it_is_taken_over() {
    let (mut cluster, first) = written(&[11], |_| nodes_of(ALL));
    cluster.segments[1].heard_ms_ago = Some(999);
    assert_eq!(
        cluster.recover(options(2)).unwrap_err(),
        RecoveryError::InUse { heard_ms_ago: 999 }
    );
    assert_eq!(
        cluster.append(
            &first,
            &batch_of(0, 2, 11, &[12], 11, 0),
            &[0, 1, 2, 3, 4, 5]
        ),
        6,
        "not disturbed"
    );
    assert_eq!(cluster.open(take_over(3)).cut, lsn(12));
    assert_eq!(
        cluster.append(
            &first,
            &batch_of(0, 2, 12, &[13], 11, 0),
            &[0, 1, 2, 3, 4, 5]
        ),
        0,
        "fenced"
    );
    // A second of silence, and nobody has to take over.
    cluster.segments[1].heard_ms_ago = Some(1_000);
    cluster.recover(options(4)).unwrap();
}

#[test]
fn a_volume_that_nobody_knows_does_not_exist() {
    let mut cluster = Cluster::new();
    for segment in &mut cluster.segments {
        segment.exists = false;
    }
    let nowhere = RecoveryError::NoVolume { volume: volume() };
    assert_eq!(cluster.recover(options(1)).unwrap_err(), nowhere);
    // Two that do not answer are waited for a moment only.
    cluster.only_up(0b00_1111);
    assert_eq!(cluster.recover(options(1)).unwrap_err(), nowhere);
    // Three answers prove nothing.
    cluster.only_up(0b00_0111);
    let error = cluster.recover(options(1)).unwrap_err();
    assert_eq!(
        error,
        RecoveryError::Unavailable {
            pg: PgId::ROOT,
            answered: 3,
            needed: 4
        }
    );
}

#[test]
fn one_that_knows_the_volume_is_enough_for_it_to_exist() {
    let mut cluster = Cluster::new();
    for number in 0..5 {
        cluster.segments[number].exists = false;
    }
    let error = cluster.recover(options(1)).unwrap_err();
    assert_eq!(
        error,
        RecoveryError::Unavailable {
            pg: PgId::ROOT,
            answered: 1,
            needed: 4
        }
    );
}

#[test]
fn three_of_six_claim_nothing_and_disturb_nobody() {
    let (mut cluster, first) = written(&[11], |_| nodes_of(ALL));
    cluster.only_up(0b00_0111);
    let error = cluster.recover(take_over(2)).unwrap_err();
    assert_eq!(
        error,
        RecoveryError::Unavailable {
            pg: PgId::ROOT,
            answered: 3,
            needed: 4
        }
    );
    assert!(
        cluster
            .segments
            .iter()
            .all(|segment| segment.guard.claim == epoch(2))
    );
    assert_eq!(
        cluster.append(
            &first,
            &batch_of(0, 2, 11, &[12], 11, 0),
            &[0, 1, 2, 3, 4, 5]
        ),
        6
    );
}

#[test]
fn nodes_that_return_are_found_by_asking_again() {
    let mut cluster = Cluster::new();
    cluster.only_up(0b00_0011);
    let mut asked = 0;
    cluster.hook = Box::new(move |segments, _, to, _| {
        asked += usize::from(to >= 4);
        segments[4].up = asked > 5;
        segments[5].up = asked > 8;
        Fate::Answered
    });
    let opened = cluster.recover(options(1)).unwrap();
    assert_eq!(opened.scls.len(), 4);
}

#[test]
fn answers_that_are_lost_are_asked_for_again() {
    let (mut cluster, _) = written(&[11, 12], |_| vec![0, 1, 2, 3]);
    cluster.only_up(0b01_1011);
    let mut seen = 0_u32;
    cluster.hook = Box::new(move |_, _, _, _| {
        seen += 1;
        if seen.is_multiple_of(3) {
            Fate::AnswerLost
        } else {
            Fate::Answered
        }
    });
    let opened = cluster.recover(options(2)).unwrap();
    assert_opened(&cluster, &opened, &[11, 12]);
}

#[test]
fn a_candidate_learns_from_any_node_where_the_others_are() {
    let mut cluster = Cluster::new();
    let mut hinted = options(1);
    hinted.nodes.truncate(1);
    assert!(cluster.recover(hinted).unwrap().scls.len() >= 4);
}

/// R10: the candidate's manifest lists one PG; the root's fence finds the one that a writer appended meanwhile.
#[test]
fn a_group_that_only_the_root_knows_is_fenced_too() {
    let grown = manifest_of(vec![
        entry(0, vec![six()]),
        entry(1, vec![set(six().model, &[6, 7, 8, 9, 10, 11])]),
    ]);
    let mut cluster = Cluster::of(&grown, 12);
    let first = cluster.open(options(1));
    cluster.attach(&first, &(0..12).collect::<Vec<_>>());
    // Most of PG 0 still holds the manifest without PG 1, of the same writer.
    let mut old = first.manifest.clone();
    old.pgs.truncate(1);
    let mut new = first.manifest.clone();
    new.version.membership_epoch = sixfold_log_format::MembershipEpoch::new(2);
    for index in 0..6 {
        cluster.segments[index].manifest = old.clone();
    }
    cluster.append(&first, &batch_of(1, 2, 0, &[11], 10, 0), &[6, 7, 8, 9]);
    // The entry reaches a write quorum of PG 0 between the candidate's probe and its claim.
    cluster.hook = Box::new(move |segments, _, _, message| {
        if matches!(message, Message::Claim(_)) {
            for segment in segments
                .iter_mut()
                .take(4)
                .filter(|segment| segment.manifest.version < new.version)
            {
                segment.manifest = new.clone();
            }
        }
        Fate::Answered
    });
    cluster.segments[4].up = false;
    cluster.segments[5].up = false;
    let opened = cluster.recover(options(2)).unwrap();
    assert_eq!(opened.manifest.pgs.len(), 2);
    assert_eq!(opened.cut, lsn(11));
    assert_eq!(
        opened.pg_last,
        [(PgId::ROOT, Lsn::NONE), (PgId::new(1), lsn(11))]
    );
    let fenced = cluster.segments[6..]
        .iter()
        .filter(|segment| segment.history == opened.history)
        .count();
    assert!(fenced >= 4);
}

#[test]
fn a_long_census_comes_in_pieces() {
    // Gaps make runs of one record each, three pieces from each segment.
    let (mut cluster, _) = written(&[11, 12, 14, 16, 18], |_| nodes_of(ALL));
    let opened = cluster.recover(options(2)).unwrap();
    assert_eq!(opened.cut, lsn(12));
    assert_eq!(
        opened.history,
        history(3, &[range(0, 10, 2), range(12, 22, 3)])
    );
    let scl = opened
        .scls
        .iter()
        .find(|&&(id, _)| has(1)(id) && id == segment(0))
        .unwrap()
        .1;
    assert_eq!(scl, lsn(12));
}
