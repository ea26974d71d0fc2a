//! What callers that know something of the volume spare: a writer that opens again in place spares its successor (R8), a standby
//! whoever was faster, and nobody who reaches fewer nodes than a write takes (T11).

use std::collections::BTreeSet;

use sixfold_log_format::VolumeEpoch;
use sixfold_log_format::wire::Message;
use sixfold_recovery::machine::{Caller, Opened, RecoveryError, RecoveryOptions};

use crate::cluster::{Cluster, Fate, assert_opened, nodes_of, options, take_over, written};
use crate::common::{epoch, ms, writer};

const ALL: u32 = 0b11_1111;

/// The writer of `written` is open at epoch 2.
fn in_place(by: u8, attempts: &[VolumeEpoch]) -> RecoveryOptions {
    RecoveryOptions {
        caller: Caller::Owner {
            volume_epoch: epoch(2),
            attempts: attempts.iter().copied().collect(),
        },
        ..take_over(by)
    }
}

fn standby(by: u8, seen: u64) -> RecoveryOptions {
    RecoveryOptions {
        caller: Caller::Standby {
            volume_epoch: epoch(seen),
        },
        ..options(by)
    }
}

/// The writer of epoch 2 was heard so long ago.
fn heard(cluster: &mut Cluster, ms_ago: [Option<u32>; 6]) {
    for (segment, ms_ago) in cluster.segments.iter_mut().zip(ms_ago) {
        segment.heard_ms_ago = ms_ago;
    }
}

fn claims(cluster: &Cluster) -> Vec<VolumeEpoch> {
    let segments = cluster.segments.iter();
    segments.map(|segment| segment.guard.claim).collect()
}

/// Somebody else opens at epoch 3, and is heard by all.
fn with_successor() -> (Cluster, Opened) {
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    let successor = cluster.open(options(2));
    assert_eq!(successor.volume_epoch, epoch(3));
    (cluster, successor)
}

#[test]
fn a_writer_that_opens_again_in_place_spares_its_successor() {
    let (mut cluster, _) = with_successor();
    // One that tells is enough, be it silent.
    for up in [ALL, 0b00_0001, 0b00_1111] {
        cluster.only_up(up);
        let result = cluster.recover(in_place(3, &[]));
        assert_eq!(
            result.unwrap_err(),
            RecoveryError::Fenced {
                volume_epoch: epoch(3)
            }
        );
        assert_eq!(claims(&cluster), [epoch(3); 6], "no claim was made");
    }
}

#[test]
fn a_writer_that_opens_again_in_place_overrides_the_claims_of_a_dead_rival() {
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    heard(&mut cluster, [Some(10); 6]);
    for index in [4, 5] {
        let guard = &mut cluster.segments[index].guard;
        guard.claim(epoch(7), writer(9)).unwrap();
    }
    let opened = cluster.recover(in_place(3, &[])).unwrap();
    assert_eq!(opened.volume_epoch, epoch(8));
    assert_opened(&cluster, &opened, &[11]);
}

#[test]
fn a_successor_that_opens_between_probe_and_claim_is_not_installed_over() {
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    let opened = cluster.recover(options(2)).unwrap();
    let (history, manifest) = (opened.history, opened.manifest);
    // As if it had opened just after the probe: segments say its history in the census only.
    for segment in &mut cluster.segments {
        segment.history.volume_epoch = epoch(2);
    }
    cluster.hook = Box::new(move |segments, _, to, message| {
        if let Message::Claim(_) = message {
            segments[to].take(&history, &manifest);
        }
        assert!(!matches!(message, Message::Install(_)), "it installs");
        Fate::Answered
    });
    let result = cluster.recover(in_place(3, &[]));
    assert!(matches!(result, Err(RecoveryError::Fenced { .. })));
}

/// It had installed its history at one segment when its time was over: the next machine does not take that for a rival's.
#[test]
fn a_writer_that_opens_again_in_place_knows_what_it_left_before() {
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    let mut installs = 0;
    cluster.hook = Box::new(move |_, who, _, message| match message {
        Message::Install(_) if who == 1 => {
            installs += 1;
            if installs == 1 {
                Fate::Answered
            } else {
                Fate::Unreachable
            }
        }
        _ => Fate::Answered,
    });
    let who = cluster.start(in_place(3, &[]));
    cluster.run();
    assert!(cluster.result(who).unwrap().is_err());
    let attempts: BTreeSet<_> = cluster.attempts(who).clone();
    assert!(attempts.contains(&epoch(3)), "{attempts:?}");
    let histories = cluster.segments.iter();
    let left = histories.filter(|segment| segment.history.volume_epoch > epoch(2));
    assert_eq!(left.count(), 1);
    let attempts: Vec<_> = attempts.into_iter().collect();
    let opened = cluster.recover(in_place(4, &attempts)).unwrap();
    assert_opened(&cluster, &opened, &[11]);
}

#[test]
fn a_standby_opens_although_too_few_for_a_write_still_hear_the_writer() {
    let heard_by = [
        [Some(5), Some(5), None, None, None, None],
        [
            Some(5),
            Some(5),
            Some(5),
            Some(2_000),
            Some(2_000),
            Some(9_000),
        ],
        [Some(1), Some(2_000), Some(1_000), None, Some(1), None],
    ];
    for ms_ago in heard_by {
        let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
        heard(&mut cluster, ms_ago);
        // Those that hear it are the nearest.
        cluster.latency = Box::new(|_, to| ms(1 + 20 * to as u64));
        let opened = cluster.recover(standby(2, 2)).unwrap();
        assert_opened(&cluster, &opened, &[11]);
        // Whoever opens without having watched asks first (T11).
        let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
        heard(&mut cluster, ms_ago);
        let result = cluster.recover(options(2));
        assert!(matches!(result, Err(RecoveryError::InUse { .. })));
    }
}

#[test]
fn a_standby_never_opens_while_a_write_quorum_hears_the_writer() {
    for deaf in [[0, 1], [2, 5]] {
        for up in [ALL, ALL & !0b1_0000, ALL & !0b1_1000] {
            let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
            let mut ms_ago = [Some(5); 6];
            deaf.iter().for_each(|&index: &usize| ms_ago[index] = None);
            heard(&mut cluster, ms_ago);
            cluster.only_up(up);
            let before = cluster.now;
            let result = cluster.recover(standby(2, 2));
            assert_eq!(
                result.unwrap_err(),
                RecoveryError::InUse { heard_ms_ago: 5 }
            );
            assert!(cluster.now < before + ms(1_000), "it says so soon");
            assert_eq!(claims(&cluster), [epoch(2); 6], "no claim was made");
        }
    }
}

/// Just after its attach fewer than four may have heard the faster one, or nobody.
#[test]
fn a_standby_spares_a_faster_one_that_was_hardly_heard_yet() {
    let spared = |cluster: &mut Cluster, seen| {
        let before = claims(cluster);
        let result = cluster.recover(standby(9, seen));
        assert_eq!(
            result.unwrap_err(),
            RecoveryError::Fenced {
                volume_epoch: epoch(seen + 1)
            }
        );
        assert_eq!(claims(cluster), before, "no claim was made");
    };
    let (mut cluster, _) = with_successor();
    spared(&mut cluster, 2);
    // One that has claimed, and not opened.
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    let guard = &mut cluster.segments[3].guard;
    guard.claim(epoch(3), writer(8)).unwrap();
    spared(&mut cluster, 2);
    // It died: who has seen its claim goes on.
    let opened = cluster.recover(standby(9, 3)).unwrap();
    assert_eq!(opened.volume_epoch, epoch(4));
}

/// Two standbys that saw the same and open at the same time: one of them opens, and the other leaves it alone.
#[test]
fn of_two_standbys_one_opens_and_stays() {
    for skew in 0..12 {
        let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
        cluster.latency = Box::new(move |who, to| ms(1 + (who * 5 + to * skew) as u64 % 7));
        let one = cluster.start(RecoveryOptions {
            seed: 1,
            ..standby(2, 2)
        });
        let other = cluster.start(RecoveryOptions {
            seed: 2 + skew as u64,
            ..standby(3, 2)
        });
        cluster.run();
        let results = [one, other].map(|who| cluster.result(who).unwrap().is_ok());
        assert_eq!(
            results.iter().filter(|&&ok| ok).count(),
            1,
            "skew {skew}: {:?}",
            [one, other].map(|who| cluster.result(who).cloned())
        );
    }
}
