//! Changes of the quorum model, and copies that are declared lost (R19).

use sixfold_log_format::{Manifest, PgEntry, QuorumModel, SegmentId, SegmentSet};
use sixfold_recovery::membership::{
    EditError, abandon_reshape, begin_replace, begin_reshape, confirm_reshape, declare_lost,
    finish_replace, finish_reshape, is_loss_fence, regrown, replacements, reshape_of,
};
use sixfold_recovery::quorum::{is_fence_quorum_of_all, is_write_quorum_of_all};

use crate::common::{
    entry, full_tail, has, manifest_of, member, node, segment, set, six, subsets, subsets_of,
    with_fleet,
};
use crate::membership::{ROOT, readable, sets_of, two_pgs};

fn manifest() -> Manifest {
    with_fleet(crate::common::manifest())
}

/// In each step the whole members of the set entered are a write quorum of it: commits wait for nobody who catches up.
#[test]
fn three_survivors_become_six_in_steps_that_make_no_write_wait() {
    let lost = [segment(3), segment(4), segment(5)];
    let mut m = declare_lost(&manifest(), &lost).unwrap();
    let mut held = vec![0, 1, 2];
    let mut begun = 0;
    while let Some(model) = regrown(m.pg(ROOT).unwrap().sets[0].model) {
        let count = u8::try_from(model.member_count() - held.len()).unwrap();
        let fresh = 20 + held[held.len() - 1];
        held.extend(fresh..fresh + count);
        let joint = begin_reshape(&m, ROOT, set(model, &held)).unwrap();
        let entry = joint.pg(ROOT).unwrap();
        let members = entry.members();
        let is_whole = |segment| {
            let mut members = members.iter();
            members.any(|member| member.segment == segment && !member.joining)
        };
        assert!(is_write_quorum_of_all(entry, &is_whole), "{model:?}");
        assert!(finish_reshape(&joint, ROOT).is_err(), "not confirmed yet");
        m = confirm_reshape(&joint, ROOT).unwrap();
        readable(&m);
        m = finish_reshape(&m, ROOT).unwrap();
        readable(&m);
        begun += 1;
    }
    assert_eq!(begun, 2);
    assert_eq!(m.pg(ROOT).unwrap().sets[0].model, QuorumModel::FourOfSix);
    assert_eq!(m.pg(ROOT).unwrap().removed, lost);
}

#[test]
fn the_quorum_model_changes_in_two_steps_and_back() {
    let m = manifest();
    let four = set(QuorumModel::ThreeOfFour, &[0, 1, 2, 3]);
    let begun = begin_reshape(&m, ROOT, four).unwrap();
    assert_eq!(sets_of(&begun, ROOT).len(), 2);
    assert!(replacements(begun.pg(ROOT).unwrap()).is_empty());
    assert!(reshape_of(begun.pg(ROOT).unwrap()).is_some());
    let busy = begin_replace(&begun, ROOT, segment(0), member(6));
    assert_eq!(busy, Err(EditError::Busy { pg: ROOT, sets: 2 }));
    let back = abandon_reshape(&begun, ROOT).unwrap();
    assert_eq!(back.pgs, m.pgs);
    let begun = confirm_reshape(&begun, ROOT).unwrap();
    let small = finish_reshape(&begun, ROOT).unwrap();
    assert_eq!(small.pg(ROOT).unwrap().removed, [segment(4), segment(5)]);

    let six = set(QuorumModel::FourOfSix, &[0, 1, 2, 3, 6, 7]);
    let growing = begin_reshape(&small, ROOT, six).unwrap();
    let joining = growing.pg(ROOT).unwrap().members();
    let joining: Vec<_> = joining.iter().filter(|m| m.joining).collect();
    assert_eq!(joining.len(), 2);
    let growing = confirm_reshape(&growing, ROOT).unwrap();
    let whole = finish_reshape(&growing, ROOT).unwrap();
    assert_eq!(sets_of(&whole, ROOT), [[0, 1, 2, 3, 6, 7]]);
    let abandoned = abandon_reshape(&growing, ROOT).unwrap();
    assert_eq!(
        abandoned.pg(ROOT).unwrap().removed,
        [segment(4), segment(5), segment(6), segment(7)]
    );
    [begun, back, small, growing, whole, abandoned]
        .iter()
        .for_each(readable);
}

#[test]
fn a_change_of_the_model_that_makes_no_sense_is_refused() {
    let m = manifest();
    let refused = |target: SegmentSet| begin_reshape(&m, ROOT, target).unwrap_err();
    assert!(matches!(refused(six()), EditError::NoModel { .. }));
    let three = set(QuorumModel::ThreeOfFour, &[0, 1, 2]);
    assert!(matches!(refused(three), EditError::NoModel { .. }));
    let twice = set(QuorumModel::ThreeOfFour, &[0, 1, 2, 2]);
    assert!(matches!(refused(twice), EditError::SegmentTaken { .. }));
    let mut shared = set(QuorumModel::ThreeOfFour, &[0, 1, 2, 6]);
    shared.members[3].node = node(5);
    assert!(matches!(refused(shared), EditError::NodeTaken { .. }));
    let busy = begin_replace(&m, ROOT, segment(5), member(6)).unwrap();
    let four = set(QuorumModel::ThreeOfFour, &[0, 1, 2, 3]);
    assert!(matches!(
        begin_reshape(&busy, ROOT, four),
        Err(EditError::Busy { .. })
    ));
    assert!(finish_reshape(&busy, ROOT).is_err() && abandon_reshape(&busy, ROOT).is_err());
}

/// R19, over every set of lost segments of a 4/6 group: it is refused below three survivors; with a write quorum left the sets
/// stay; with exactly three the survivors are the set. Whatever is left is read by everybody who may open the volume.
#[test]
fn losses_are_declared_on_three_survivors_and_never_on_fewer() {
    let m = two_pgs();
    for mask in subsets(6) {
        let lost: Vec<SegmentId> = (0..6).map(segment).filter(|&id| has(mask)(id)).collect();
        let survivors = 6 - mask.count_ones();
        let declared = declare_lost(&m, &lost);
        if survivors < 3 {
            let expected = EditError::TooFewSurvivors {
                pg: ROOT,
                survivors: survivors as usize,
                needed: 3,
            };
            assert_eq!(declared, Err(expected));
            continue;
        }
        let declared = declared.unwrap();
        readable(&declared);
        assert_eq!(declared.version.membership_epoch.get(), 2);
        let root = declared.pg(ROOT).unwrap();
        assert_eq!(declared.pgs[1], m.pgs[1]);
        assert_eq!(root.removed, lost);
        let standing = |id: SegmentId| !lost.contains(&id);
        assert!(is_write_quorum_of_all(root, &standing));
        let found = m.pg(ROOT).unwrap();
        if survivors >= 4 {
            assert_eq!(root.sets, found.sets);
        } else {
            assert_eq!(root.sets[0].model, QuorumModel::TwoOfThree);
            assert!(root.members().iter().all(|m| standing(m.segment)));
        }
        check_loss_fences(found, root, mask, &lost);
    }
}

/// Every fence of the reopening that declares the loss meets every answered write and leaves the old writer no quorum; what is
/// whole afterwards is met by every later fence.
fn check_loss_fences(found: &PgEntry, after: &PgEntry, lost_mask: u32, lost: &[SegmentId]) {
    let writes = subsets_of(0b11_1111, 4);
    for fence in subsets(6).filter(|fence| fence & lost_mask == 0) {
        if !is_loss_fence(found, lost, &has(fence)) {
            continue;
        }
        assert!(writes.iter().all(|write| write & fence != 0));
        let whole = subsets(6)
            .filter(|&held| held & lost_mask == 0 && is_write_quorum_of_all(after, &has(held)));
        for held in whole {
            let later = subsets(6).filter(|&later| is_fence_quorum_of_all(after, &has(later)));
            for later in later {
                assert!(held & later != 0, "{held:b} and {later:b}");
            }
        }
    }
}

/// Two of the three survivors are a fence of the set that is installed. As the fence of the reopening that installs it they miss
/// what is answered: the reason for a predicate of its own.
#[test]
fn two_of_three_survivors_would_miss_answered_commits() {
    let m = manifest();
    let lost = [segment(3), segment(4), segment(5)];
    let after = declare_lost(&m, &lost).unwrap();
    let (found, after) = (m.pg(ROOT).unwrap(), after.pg(ROOT).unwrap());
    let (write, two) = (0b11_1001, 0b00_0110);
    assert!(is_fence_quorum_of_all(after, &has(two)) && write & two == 0);
    assert!(!is_loss_fence(found, &lost, &has(two)));
    assert!(is_loss_fence(found, &lost, &has(0b00_0111)));
    assert!(!is_loss_fence(found, &lost[..2], &has(0b00_0111)));
}

#[test]
fn a_loss_takes_back_what_was_joining() {
    let begun = begin_replace(&manifest(), ROOT, segment(5), member(6)).unwrap();
    // Three whole survivors; the joining one may lack anything.
    let lost = [segment(3), segment(4), segment(5)];
    let declared = declare_lost(&begun, &lost).unwrap();
    assert_eq!(sets_of(&declared, ROOT), [[0, 1, 2]]);
    let removed = &declared.pg(ROOT).unwrap().removed;
    assert_eq!(removed, &[segment(3), segment(4), segment(5), segment(6)]);
    let two_left = [segment(2), segment(3), segment(4), segment(5)];
    assert!(declare_lost(&begun, &two_left).is_err());
    // Only the entered set lost its quorum: the old one stays as it was.
    let lost = [segment(3), segment(4), segment(6)];
    let declared = declare_lost(&begun, &lost).unwrap();
    assert_eq!(sets_of(&declared, ROOT), [[0, 1, 2, 3, 4, 5]]);
    let root = declared.pg(ROOT).unwrap();
    assert_eq!(root.removed, lost);
    assert!(root.members().iter().all(|m| !m.joining));
    // And what is lost can be replaced by an ordinary step.
    let next = begin_replace(&declared, ROOT, segment(3), member(9)).unwrap();
    let done = finish_replace(&next, ROOT, segment(3), segment(9)).unwrap();
    assert_eq!(done.pg(ROOT).unwrap().removed, lost);
}

#[test]
fn the_survivors_of_a_full_tail_group_need_a_full_one() {
    let m = manifest_of(vec![entry(0, vec![full_tail()])]);
    let fulls = [segment(0), segment(2), segment(4)];
    assert!(matches!(
        declare_lost(&m, &fulls),
        Err(EditError::TooFewSurvivors { .. })
    ));
    let tails = [segment(1), segment(3), segment(5)];
    let declared = declare_lost(&m, &tails).unwrap();
    // The fulls alone are a write quorum.
    assert_eq!(declared.pg(ROOT).unwrap().sets, m.pg(ROOT).unwrap().sets);
    let mixed = [segment(0), segment(2), segment(1)];
    let declared = declare_lost(&m, &mixed).unwrap();
    assert_eq!(sets_of(&declared, ROOT), [[3, 4, 5]]);
}

/// A member that was declared lost before stands in its set until it is replaced, and survives nothing.
#[test]
fn who_was_lost_before_is_no_survivor_of_a_second_loss() {
    let m = declare_lost(&manifest(), &[segment(0), segment(1)]).unwrap();
    assert_eq!(sets_of(&m, ROOT), [[0, 1, 2, 3, 4, 5]]);
    let found = m.pg(ROOT).unwrap();
    let three = 0b01_1100;
    let declared = declare_lost(&m, &[segment(5)]).unwrap();
    assert_eq!(sets_of(&declared, ROOT), [[2, 3, 4]]);
    assert!(is_loss_fence(found, &[segment(5)], &has(three)));
    assert!(!is_loss_fence(found, &[segment(5)], &has(0b00_1100)));
    assert!(!is_loss_fence(found, &[segment(5)], &has(0b00_1111)));
    assert!(matches!(
        declare_lost(&m, &[segment(4), segment(5)]),
        Err(EditError::TooFewSurvivors { survivors: 2, .. })
    ));
}
