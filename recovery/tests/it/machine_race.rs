//! Candidates that race each other.

use sixfold_log_format::VolumeEpoch;
use sixfold_log_format::wire::Message;
use sixfold_recovery::machine::{Opened, RecoveryError, RecoveryOptions};

use crate::cluster::{Cluster, Fate, nodes_of, options, take_over, written};
use crate::common::{batch_of, epoch, lsn, ms, writer};

const ALL: u32 = 0b11_1111;

/// Round trips that differ by candidate, segment and seed.
fn uneven(seed: u64) -> Box<dyn Fn(usize, usize) -> std::time::Duration> {
    Box::new(move |who, to| {
        let mixed =
            (seed * 31 + who as u64 * 17 + to as u64 * 7).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        ms(1) / 4 * (1 + mixed as u32 % 16)
    })
}

fn race(
    seed: u64,
    candidates: &[RecoveryOptions],
) -> (Cluster, Vec<Result<Opened, RecoveryError>>) {
    let (mut cluster, _) = written(&[11, 12], |number| {
        if number == 11 {
            nodes_of(ALL)
        } else {
            vec![0, 1, 2, 3]
        }
    });
    cluster.latency = uneven(seed);
    let all: Vec<usize> = candidates
        .iter()
        .map(|options| cluster.start(options.clone()))
        .collect();
    cluster.run();
    let results = all
        .into_iter()
        .map(|who| cluster.result(who).unwrap().clone())
        .collect();
    (cluster, results)
}

fn epochs(results: &[Result<Opened, RecoveryError>]) -> Vec<VolumeEpoch> {
    results
        .iter()
        .flatten()
        .map(|opened| opened.volume_epoch)
        .collect()
}

#[test]
fn rivals_that_take_over_end_with_one_holder_and_lose_nothing() {
    for seed in 0..60 {
        let (cluster, results) = race(seed, &[take_over(2), take_over(3), take_over(4)]);
        assert_eq!(epochs(&results).len(), 3, "each gets its turn: {results:?}");
        let highest = results
            .iter()
            .flatten()
            .max_by_key(|opened| opened.volume_epoch)
            .unwrap();
        let admit = |opened: &Opened| {
            let admits = cluster.segments.iter().filter(|segment| {
                segment
                    .guard
                    .admit(opened.volume_epoch, opened.writer)
                    .is_ok()
            });
            admits.count()
        };
        for opened in results.iter().flatten() {
            assert_eq!(opened.pg_last[0].1, lsn(12));
            if opened.volume_epoch != highest.volume_epoch {
                assert!(admit(opened) < 4, "seed {seed}: two writers");
            }
        }
        assert!(admit(highest) >= 4);
    }
}

#[test]
fn rivals_that_do_not_take_over_give_way_to_the_first() {
    let mut gave_way = 0;
    for seed in 0..60 {
        let (_, results) = race(seed, &[options(2), options(3)]);
        assert!(
            !epochs(&results).is_empty(),
            "seed {seed}: nobody opened: {results:?}"
        );
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            assert!(
                matches!(
                    error,
                    RecoveryError::Fenced { .. } | RecoveryError::InUse { .. }
                ),
                "{error}"
            );
            gave_way += 1;
        }
    }
    assert!(gave_way > 0, "the races were none");
}

#[test]
fn every_attempt_claims_under_a_writer_id_of_its_own() {
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    let seen = std::rc::Rc::new(std::cell::RefCell::new(std::collections::BTreeSet::new()));
    let claims = seen.clone();
    cluster.hook = Box::new(move |segments, _, to, message| {
        if let Message::Claim(claim) = message {
            claims
                .borrow_mut()
                .insert((claim.volume_epoch, claim.writer));
            // A rival is always faster at the first two attempts.
            if claim.volume_epoch < epoch(5) {
                let _ = segments[to].guard.claim(claim.volume_epoch, writer(77));
            }
        }
        Fate::Answered
    });
    let opened = cluster.recover(options(2)).unwrap();
    let seen = seen.borrow();
    let writers: std::collections::BTreeSet<_> = seen.iter().map(|&(_, by)| by).collect();
    assert_eq!(
        (seen.len(), writers.len(), opened.volume_epoch),
        (3, 3, epoch(5))
    );
    assert_eq!(seen.first().unwrap().1, writer(2));
}

/// R8: a rival that reached two segments first does not hold them for the whole epoch.
#[test]
fn a_history_takes_back_the_segments_that_a_rival_claimed_at_the_same_epoch() {
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    cluster.hook = Box::new(|segments, _, to, message| {
        if to >= 4 && matches!(message, Message::Claim(_)) {
            let _ = segments[to].guard.claim(epoch(3), writer(77));
        }
        Fate::Answered
    });
    // The others answer late, so that the rival's two have time to take the history.
    cluster.latency = Box::new(|_, to| if to == 0 { ms(9) } else { ms(1) });
    let opened = cluster.recover(options(2)).unwrap();
    let admits = |index: usize| {
        cluster.segments[index]
            .guard
            .admit(opened.volume_epoch, opened.writer)
            .is_ok()
    };
    assert!(admits(4) && admits(5));
}

#[test]
fn a_loser_that_claimed_and_installed_at_too_few_is_inert() {
    let (mut cluster, first) = written(&[11], |_| nodes_of(ALL));
    // The loser's claim reaches two segments, then it dies: the writer goes on with four.
    let mut left = 2;
    cluster.hook = Box::new(move |_, who, _, message| {
        if who == 1 && matches!(message, Message::Claim(_)) {
            if left == 0 {
                return Fate::CandidateDies;
            }
            left -= 1;
        }
        Fate::Answered
    });
    cluster.start(take_over(2));
    cluster.run();
    let batch = batch_of(0, 2, 11, &[12], 11, 0);
    assert_eq!(
        cluster.append(&first, &batch, &[0, 1, 2, 3, 4, 5]),
        4,
        "four acks, so 12 is answered"
    );
    let opened = cluster.recover(take_over(3)).unwrap();
    assert_eq!(opened.pg_last[0].1, lsn(12));
    assert_eq!(opened.volume_epoch, epoch(4), "above the loser's claim");
}

#[test]
fn a_history_that_a_rival_completed_ends_the_race_without_take_over() {
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    // The rival completes its fence between the candidate's probe and its claims.
    cluster.hook = Box::new(|segments, who, _, message| {
        if who == 1 && matches!(message, Message::Claim(_)) {
            for segment in segments.iter_mut() {
                let mut history = segment.history.clone();
                history.volume_epoch = epoch(7);
                if segment.guard.install(epoch(7), writer(77)) == Ok(true) {
                    segment.history = history;
                }
            }
        }
        Fate::Answered
    });
    assert_eq!(
        cluster.recover(options(2)).unwrap_err(),
        RecoveryError::Fenced {
            volume_epoch: epoch(7)
        }
    );
    let opened = cluster.recover(take_over(3)).unwrap();
    assert_eq!(opened.volume_epoch, epoch(8));
}
