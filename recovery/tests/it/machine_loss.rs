//! Reopenings with nodes declared lost (R19): on three survivors, all of them, and in an order that a crash cannot spoil.

use std::cell::Cell;
use std::rc::Rc;

use sixfold_log_format::wire::Message;
use sixfold_log_format::{NodeId, PgId, QuorumModel, SegmentId};
use sixfold_recovery::machine::{Opened, RecoveryError, RecoveryOptions};
use sixfold_recovery::membership::EditError;

use crate::cluster::{Cluster, Fate, nodes_of, options, take_over, written};
use crate::common::{batch_of, entry, epoch, lsn, manifest_of, node, segment, set, six};

const ALL: u32 = 0b11_1111;
const SURVIVORS: u32 = 0b00_0111;

fn declaring(by: u8, lost: &[u8]) -> RecoveryOptions {
    RecoveryOptions {
        declare_lost: lost
            .iter()
            .map(|&number| node(number))
            .collect::<Vec<NodeId>>(),
        ..options(by)
    }
}

/// 11 is everywhere; 12 was answered by one survivor and the three nodes that are destroyed then.
fn destroyed() -> Cluster {
    let (mut cluster, _) = written(&[11, 12], |number| {
        nodes_of(if number == 11 { ALL } else { 0b11_1001 })
    });
    cluster.only_up(SURVIVORS);
    cluster
}

/// The first commit of the writer that declared the loss, at two segments; its LSN.
fn commit(cluster: &mut Cluster, opened: &Opened, to: &[usize]) -> u64 {
    let first = opened.vdl.next().get();
    let (by, vdl) = (opened.volume_epoch.get(), opened.vdl.get());
    let batch = batch_of(0, by, 12, &[first], vdl, 0);
    assert_eq!(cluster.append(opened, &batch, to), 2);
    first
}

fn guards(cluster: &Cluster) -> Vec<sixfold_recovery::epoch::EpochGuard> {
    cluster.segments.iter().map(|one| one.guard).collect()
}

#[test]
fn three_survivors_open_and_keep_what_one_of_them_alone_held() {
    let mut cluster = destroyed();
    assert!(matches!(
        cluster.recover(take_over(2)),
        Err(RecoveryError::Unavailable { answered: 3, .. })
    ));
    let opened = cluster.open(declaring(3, &[3, 4, 5]));
    assert_eq!(opened.cut, lsn(12));
    let root = opened.manifest.pg(PgId::ROOT).unwrap();
    assert_eq!(root.sets.len(), 1);
    assert_eq!(root.sets[0].model, QuorumModel::TwoOfThree);
    let lost: Vec<SegmentId> = [3, 4, 5].map(segment).to_vec();
    assert_eq!(root.removed, lost);
    for survivor in &cluster.segments[..3] {
        assert_eq!(survivor.manifest, opened.manifest);
        assert_eq!(survivor.all_valid(), [lsn(11), lsn(12)]);
    }
    // The volume takes commits, on two of the three, and opens again on two of them.
    let first = commit(&mut cluster, &opened, &[1, 2]);
    cluster.only_up(0b00_0101);
    let next = cluster.open(take_over(4));
    assert_eq!(next.cut, lsn(first));
    assert_eq!(next.manifest.pgs, opened.manifest.pgs);
}

#[test]
fn what_was_declared_lost_never_counts_again() {
    let mut cluster = destroyed();
    let opened = cluster.open(declaring(3, &[3, 4, 5]));
    let first = commit(&mut cluster, &opened, &[0, 1]);
    let before = guards(&cluster);
    // They return, and would be four of the old six with any survivor.
    for up in [0b11_1000, 0b11_1001, 0b11_1100] {
        cluster.only_up(up);
        let error = cluster.recover(take_over(4)).unwrap_err();
        assert!(
            matches!(error, RecoveryError::Unavailable { .. }),
            "{error}"
        );
    }
    assert_eq!(guards(&cluster)[..3], before[..3]);
    cluster.only_up(ALL);
    let next = cluster.open(take_over(5));
    assert_eq!(next.cut, lsn(first));
    assert_eq!(guards(&cluster)[3..], before[3..], "nobody asked them");
}

#[test]
fn a_loss_that_is_needless_or_too_large_claims_nothing() {
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    let before = guards(&cluster);
    cluster.only_up(0b00_1111);
    let error = cluster.recover(declaring(2, &[4, 5])).unwrap_err();
    assert_eq!(error, RecoveryError::NeedlessLoss);
    cluster.only_up(0b00_0011);
    let error = cluster.recover(declaring(2, &[2, 3, 4, 5])).unwrap_err();
    let too_few = EditError::TooFewSurvivors {
        pg: PgId::ROOT,
        survivors: 2,
        needed: 3,
    };
    assert_eq!(error, RecoveryError::Loss(too_few));
    // Two of three survivors are not enough, either: the third may hold what only it and the lost ones answered.
    let error = cluster.recover(declaring(2, &[3, 4, 5])).unwrap_err();
    assert!(
        matches!(error, RecoveryError::Unavailable { .. }),
        "{error}"
    );
    // And nobody who is alive is cut off by it.
    cluster.only_up(SURVIVORS);
    cluster.segments[1].heard_ms_ago = Some(20);
    let error = cluster.recover(declaring(2, &[3, 4, 5])).unwrap_err();
    assert_eq!(error, RecoveryError::InUse { heard_ms_ago: 20 });
    assert_eq!(guards(&cluster), before);
    // Naming nodes that hold nothing changes nothing.
    cluster.segments[1].heard_ms_ago = None;
    cluster.only_up(ALL);
    let opened = cluster.recover(declaring(3, &[17])).unwrap();
    assert_eq!(opened.manifest.pg(PgId::ROOT).unwrap().sets, [six()]);
}

/// The candidate dies at its n-th request, for each n; in every state that it leaves, whoever opens the volume finds all that was
/// answered, and no segment ever holds the new manifest before all survivors are whole.
#[test]
fn a_crash_at_any_step_of_a_loss_loses_nothing() {
    let mut died = 0;
    for step in 0..60 {
        for after in [
            0b00_0011, 0b00_0101, 0b00_0110, SURVIVORS, 0b11_1001, 0b11_1110, ALL,
        ] {
            let mut cluster = destroyed();
            let requests = Rc::new(Cell::new(0));
            let count = Rc::clone(&requests);
            cluster.hook = Box::new(move |segments, who, _, message| {
                if who == 0 {
                    return Fate::Answered;
                }
                if let Message::Install(install) = message
                    && install.manifest.pgs[0].sets[0].model == QuorumModel::TwoOfThree
                {
                    let whole = segments[..3].iter().filter(|one| one.scl() == lsn(12));
                    assert_eq!(whole.count(), 3, "the manifest came before the records");
                }
                count.set(count.get() + 1);
                if count.get() > step {
                    Fate::CandidateDies
                } else {
                    Fate::Answered
                }
            });
            let who = cluster.start(declaring(3, &[3, 4, 5]));
            cluster.run();
            let opened = cluster.result(who).is_some();
            died += usize::from(!opened);
            cluster.hook = Box::new(|_, _, _, _| Fate::Answered);
            cluster.only_up(after);
            match cluster.recover(take_over(5)) {
                Ok(next) => assert!(
                    next.cut >= lsn(12),
                    "step {step}, then {after:b}: cut at {}",
                    next.cut
                ),
                Err(error) => assert!(
                    matches!(error, RecoveryError::Unavailable { .. }),
                    "step {step}, then {after:b}: {error}"
                ),
            }
            // The operator tries again, unless somebody opened on six.
            cluster.only_up(SURVIVORS);
            let again = cluster.recover(declaring(6, &[3, 4, 5])).unwrap();
            assert!(again.cut >= lsn(12), "step {step}, then {after:b}");
        }
    }
    assert!(died > 50, "{died}");
}

#[test]
fn a_group_with_its_write_quorum_keeps_its_sets() {
    // Nodes 3, 4 and 5 hold three segments of the root; the second group loses one, on node 5.
    let mut second = set(QuorumModel::FourOfSix, &[6, 7, 8, 9, 10, 11]);
    second.members[5].node = node(5);
    let manifest = manifest_of(vec![entry(0, vec![six()]), entry(1, vec![second.clone()])]);
    let mut cluster = Cluster::of(&manifest, 12);
    let first = cluster.recover(options(1));
    // The harness has one segment a node: the twelfth is asked at the wrong one, and five do.
    assert!(first.is_ok(), "{first:?}");
    cluster.only_up(0b0111_1100_0111);
    let opened = cluster.open(declaring(3, &[3, 4, 5]));
    let groups = &opened.manifest.pgs;
    assert_eq!(groups[0].sets[0].model, QuorumModel::TwoOfThree);
    assert_eq!(groups[1].sets, [second]);
    assert_eq!(groups[1].removed, [segment(11)]);
    assert_eq!(opened.volume_epoch, epoch(3));
    // It is not asked any more, though the set names it until it is replaced.
    cluster.only_up(0b1111_1111_1111);
    cluster.hook = Box::new(|_, who, to, message| {
        let silent = to != 11 && !matches!(to, 3..=5);
        assert!(
            who < 2 || silent || matches!(message, Message::Probe(_)),
            "{to}"
        );
        Fate::Answered
    });
    cluster.open(take_over(4));
}

#[test]
fn who_was_lost_before_counts_for_nothing_in_a_second_loss() {
    let mut second = set(QuorumModel::FourOfSix, &[6, 7, 8, 9, 10, 11]);
    second.members[5].node = node(5);
    let manifest = manifest_of(vec![entry(0, vec![six()]), entry(1, vec![second])]);
    let mut cluster = Cluster::of(&manifest, 12);
    cluster.recover(options(1)).unwrap();
    cluster.only_up(0b0111_1100_0111);
    cluster.open(declaring(3, &[3, 4, 5]));
    // Of the second group 6 to 10 are left: two more, and three survive; three more, and too few do, though the set names 11 still.
    cluster.only_up(0b0100_1100_0111);
    let error = cluster.recover(declaring(4, &[8, 9, 7])).unwrap_err();
    assert!(
        matches!(
            error,
            RecoveryError::Loss(EditError::TooFewSurvivors { survivors: 2, .. })
        ),
        "{error:?}"
    );
    cluster.only_up(0b0100_1100_0111);
    let opened = cluster.open(declaring(5, &[8, 9]));
    let groups = &opened.manifest.pgs;
    assert_eq!(groups[1].sets[0].model, QuorumModel::TwoOfThree);
    let left: Vec<SegmentId> = [6, 7, 10].map(segment).to_vec();
    let members = groups[1].members();
    let members: Vec<SegmentId> = members.iter().map(|member| member.segment).collect();
    assert_eq!(members, left);
}
