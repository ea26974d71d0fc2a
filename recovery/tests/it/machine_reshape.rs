//! Reopenings of a group to which copies are given just then (R19, R20): the set that it has decides alone, and nothing is worse than
//! if nobody had begun.

use sixfold_log_format::wire::Message;
use sixfold_log_format::{Manifest, PgId, QuorumModel};
use sixfold_recovery::machine::{Opened, RecoveryError, RecoveryOptions};
use sixfold_recovery::membership::{EditError, begin_reshape, confirm_reshape, reshape_of};

use crate::cluster::{Cluster, Fate, options, take_over};
use crate::common::{batch_of, entry, lsn, manifest_of, node, segment, set, with_fleet};

const PG: PgId = PgId::ROOT;

/// Three that survived, and a fourth one that joins.
fn begun() -> Manifest {
    let three = set(QuorumModel::TwoOfThree, &[0, 1, 2]);
    let m = with_fleet(manifest_of(vec![entry(0, vec![three])]));
    begin_reshape(&m, PG, set(QuorumModel::ThreeOfFour, &[0, 1, 2, 3])).unwrap()
}

/// The first record is at the members of `first`, the second, which nobody may have answered, at those of `second`.
fn written(manifest: &Manifest, first: &[usize], second: &[usize]) -> (Cluster, [u64; 2]) {
    let mut cluster = Cluster::of(manifest, 6);
    cluster.segments[4].exists = false;
    cluster.segments[5].exists = false;
    let opened = cluster.open(options(1));
    assert_eq!(opened.manifest.pgs, manifest.pgs);
    let one = opened.vdl.next().get();
    let (by, vdl) = (opened.volume_epoch.get(), opened.vdl.get());
    for (number, prev, to) in [(one, 0, first), (one + 1, one, second)] {
        let batch = batch_of(0, by, prev, &[number], vdl, 0);
        assert_eq!(cluster.append(&opened, &batch, to), to.len());
    }
    (cluster, [one, one + 1])
}

/// The newcomer takes nothing: it copies for hours.
fn far_from_whole(cluster: &mut Cluster) {
    cluster.hook = Box::new(|_, _, to, message| match message {
        Message::Refill(_) if to == 3 => Fate::Silence,
        _ => Fate::Answered,
    });
}

fn is_taken_back(opened: &Opened) -> bool {
    let root = opened.manifest.pg(PG).unwrap();
    root.sets.len() == 1
        && root.sets[0].model == QuorumModel::TwoOfThree
        && root.removed.contains(&segment(3))
}

fn goes_on(opened: &Opened) -> bool {
    reshape_of(opened.manifest.pg(PG).unwrap()).is_some()
}

#[test]
fn a_member_is_down_and_the_newcomer_is_not_whole() {
    let (mut cluster, [one, _]) = written(&begun(), &[0, 1, 2], &[]);
    far_from_whole(&mut cluster);
    cluster.only_up(0b00_1011);
    let opened = cluster.open(take_over(2));
    assert!(is_taken_back(&opened), "{:?}", opened.manifest.pgs);
    assert_eq!(opened.cut, lsn(one));
    // Whoever comes next meets it, also with those that never heard of it.
    for up in [0b00_1101, 0b00_1110, 0b00_0110] {
        let (mut cluster, [one, _]) = written(&begun(), &[0, 1, 2], &[]);
        far_from_whole(&mut cluster);
        cluster.only_up(0b00_1011);
        cluster.open(take_over(2));
        cluster.only_up(up);
        let next = cluster.open(take_over(3));
        assert!(is_taken_back(&next), "{up:b}");
        assert!(next.cut >= lsn(one), "{up:b}");
    }
}

#[test]
fn a_member_and_the_newcomer_are_down() {
    let (mut cluster, [one, two]) = written(&begun(), &[0, 1, 2], &[1]);
    cluster.only_up(0b00_0011);
    let before = cluster.now;
    let opened = cluster.open(take_over(2));
    assert!(is_taken_back(&opened));
    assert!(opened.cut >= lsn(one) && opened.cut <= lsn(two));
    let took = cluster.now - before;
    assert!(took.as_millis() < 3_000, "{took:?}");
}

#[test]
fn nothing_is_taken_back_when_all_members_are_there() {
    // One of them lags, and the newcomer has nothing: the members are a write quorum of four by themselves.
    let (mut cluster, [_, two]) = written(&begun(), &[0, 1, 2], &[0, 1]);
    far_from_whole(&mut cluster);
    cluster.only_up(0b00_1111);
    let opened = cluster.open(take_over(2));
    assert!(goes_on(&opened));
    assert_eq!(opened.cut, lsn(two));
    // The newcomer is away.
    cluster.only_up(0b00_0111);
    assert!(goes_on(&cluster.open(take_over(3))));
}

#[test]
fn a_newcomer_that_is_whole_stands_in_for_a_member() {
    let (mut cluster, _) = written(&begun(), &[0, 1, 3], &[]);
    cluster.only_up(0b00_1011);
    assert!(goes_on(&cluster.open(take_over(2))));
}

/// From then on both sets count, as the new one alone does soon.
#[test]
fn what_is_confirmed_is_not_taken_back() {
    let confirmed = confirm_reshape(&begun(), PG).unwrap();
    let (mut cluster, _) = written(&confirmed, &[0, 1, 2, 3], &[]);
    cluster.only_up(0b00_0011);
    let error = cluster.recover(take_over(2)).unwrap_err();
    assert!(
        matches!(error, RecoveryError::Unavailable { .. }),
        "{error}"
    );
    cluster.only_up(0b00_1011);
    let opened = cluster.open(take_over(3));
    assert_eq!(opened.manifest.pgs, confirmed.pgs);
}

fn declaring(by: u8, lost: &[u8]) -> RecoveryOptions {
    RecoveryOptions {
        declare_lost: lost.iter().map(|&number| node(number)).collect(),
        ..options(by)
    }
}

#[test]
fn the_loss_of_a_member_and_the_newcomer_needs_no_declaration() {
    let (mut cluster, [one, _]) = written(&begun(), &[0, 1, 2], &[]);
    cluster.only_up(0b00_0011);
    let error = cluster.recover(declaring(2, &[2, 3])).unwrap_err();
    assert_eq!(error, RecoveryError::NeedlessLoss);
    assert_eq!(cluster.open(take_over(3)).cut, lsn(one));
    // Two of three are another matter: the third does not hold all that was answered.
    let (mut cluster, _) = written(&begun(), &[0, 1, 2], &[]);
    cluster.only_up(0b00_0001);
    let error = cluster.recover(declaring(2, &[1, 2])).unwrap_err();
    let too_few = EditError::TooFewSurvivors {
        pg: PG,
        survivors: 1,
        needed: 2,
    };
    assert_eq!(error, RecoveryError::Loss(too_few));
}

/// The candidate dies at its n-th request: whoever comes finds all that was answered, with the reshape or without it.
#[test]
fn a_crash_at_any_step_of_taking_back_loses_nothing() {
    use std::cell::Cell;
    use std::rc::Rc;
    let mut died = 0;
    for step in 0..40 {
        for after in [0b00_0011, 0b00_0101, 0b00_0110, 0b00_1101, 0b00_1111] {
            let (mut cluster, [one, _]) = written(&begun(), &[0, 1, 2], &[]);
            cluster.only_up(0b00_1011);
            let requests = Rc::new(Cell::new(0));
            let count = Rc::clone(&requests);
            cluster.hook = Box::new(move |_, _, to, message| {
                count.set(count.get() + 1);
                match message {
                    _ if count.get() > step => Fate::CandidateDies,
                    Message::Refill(_) if to == 3 => Fate::Silence,
                    _ => Fate::Answered,
                }
            });
            let who = cluster.start(take_over(2));
            cluster.run();
            died += usize::from(cluster.result(who).is_none());
            far_from_whole(&mut cluster);
            cluster.only_up(after);
            let next = cluster.open(take_over(5));
            assert!(next.cut >= lsn(one), "step {step}, then {after:b}");
            assert!(goes_on(&next) || is_taken_back(&next));
        }
    }
    assert!(died > 50, "{died}");
}

/// Nodes are declared lost, not segments: a group of three that has two left is none of those that need it.
#[test]
fn a_group_of_three_with_two_left_does_not_hinder_a_declaration() {
    let mut six = set(QuorumModel::FourOfSix, &[6, 7, 8, 9, 10, 11]);
    six.members[5].node = node(2);
    let three = set(QuorumModel::TwoOfThree, &[0, 1, 2]);
    let manifest = with_fleet(manifest_of(vec![
        entry(0, vec![three]),
        entry(1, vec![six]),
    ]));
    let m = sixfold_recovery::membership::declare_lost(
        &manifest,
        &[segment(2), segment(11), segment(9), segment(10)],
    )
    .unwrap();
    assert_eq!(m.pgs[0].sets, manifest.pgs[0].sets);
    assert_eq!(m.pgs[0].removed, [segment(2)]);
    assert_eq!(m.pgs[1].sets[0].model, QuorumModel::TwoOfThree);
}

/// Two of four are met by every three of the four: they become two of a set of three, the third of which is replaced.
#[test]
fn two_survivors_of_four_are_enough() {
    let four = set(QuorumModel::ThreeOfFour, &[0, 1, 2, 3]);
    let manifest = with_fleet(manifest_of(vec![entry(0, vec![four])]));
    let (mut cluster, [one, _]) = written(&manifest, &[0, 2, 3], &[]);
    cluster.only_up(0b00_0011);
    let opened = cluster.open(declaring(2, &[2, 3]));
    assert_eq!(opened.cut, lsn(one));
    let root = opened.manifest.pg(PG).unwrap();
    assert_eq!(root.sets[0].model, QuorumModel::TwoOfThree);
    assert_eq!(root.removed, [segment(2), segment(3)]);
    assert!(
        root.sets[0]
            .members
            .iter()
            .any(|member| member.segment == segment(2))
    );
    for survivor in &cluster.segments[..2] {
        assert!(survivor.all_valid().contains(&lsn(one)));
    }
    // The lost ones are two of the old four, and one of the new three; nobody asks them.
    cluster.only_up(0b00_1101);
    assert!(cluster.recover(take_over(3)).is_err());
    cluster.only_up(0b00_0011);
    cluster.open(take_over(4));
}
