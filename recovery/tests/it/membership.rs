//! Steps of membership: what each edit gives, when a step is in force, where segments are placed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::{
    Lsn, Manifest, Member, MemberKind, NodeId, PgId, QuorumModel, SegmentId, SegmentSet,
};
use sixfold_recovery::membership::{
    Change, EditError, Load, PlacementError, Replacement, append_pg, begin_replace, begin_reshape,
    drop_hint, finish_replace, is_complete, place_group, place_more, place_replacement,
    replacements, roll_back, set_hint,
};

use crate::common::{
    entry, full_tail, has, lsn, manifest_of, member, node, segment, set, six, with_fleet,
};

pub const ROOT: PgId = PgId::ROOT;
const PG1: PgId = PgId::new(1);

pub fn two_pgs() -> Manifest {
    let second = set(QuorumModel::FourOfSix, &[10, 11, 12, 13, 14, 15]);
    with_fleet(manifest_of(vec![
        entry(0, vec![six()]),
        entry(1, vec![second]),
    ]))
}

fn manifest() -> Manifest {
    with_fleet(crate::common::manifest())
}

pub fn sets_of(m: &Manifest, pg: PgId) -> Vec<Vec<u8>> {
    let number = |member: &Member| member.segment.as_bytes()[0] - 1;
    let sets = m.pg(pg).unwrap().sets.iter();
    sets.map(|set| set.members.iter().map(number).collect())
        .collect()
}

fn hint(number: u8, az: &str) -> NodeHint {
    NodeHint {
        node: node(number),
        az: az.to_owned(),
        address: format!("127.0.0.1:{}", 4_000 + u16::from(number)),
    }
}

/// A manifest that a step made must be one that everybody can read.
pub fn readable(m: &Manifest) {
    assert_eq!(Manifest::decode(&m.encode()).as_ref(), Ok(m));
}

#[test]
fn a_replacement_doubles_the_sets_and_finishing_leaves_the_new_ones() {
    let m = manifest();
    let begun = begin_replace(&m, ROOT, segment(5), member(6)).unwrap();
    assert_eq!(begun.version.volume_epoch, m.version.volume_epoch);
    assert_eq!(begun.version.membership_epoch.get(), 2);
    assert_eq!(
        sets_of(&begun, ROOT),
        [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 6]]
    );
    let root = begun.pg(ROOT).unwrap();
    let joining: Vec<_> = root.members().into_iter().filter(|m| m.joining).collect();
    assert_eq!(joining.len(), 1);
    assert_eq!(joining[0].segment, segment(6));
    let under_way = Replacement {
        out: segment(5),
        into: segment(6),
    };
    assert_eq!(replacements(root), [under_way]);

    let twice = begin_replace(&begun, ROOT, segment(0), member(7)).unwrap();
    assert_eq!(
        sets_of(&twice, ROOT),
        [
            [0, 1, 2, 3, 4, 5],
            [0, 1, 2, 3, 4, 6],
            [7, 1, 2, 3, 4, 5],
            [7, 1, 2, 3, 4, 6]
        ]
    );
    let finished = finish_replace(&twice, ROOT, segment(5), segment(6)).unwrap();
    assert_eq!(
        sets_of(&finished, ROOT),
        [[0, 1, 2, 3, 4, 6], [7, 1, 2, 3, 4, 6]]
    );
    assert_eq!(finished.pg(ROOT).unwrap().removed, [segment(5)]);
    let back = roll_back(&finished, ROOT, segment(0), segment(7)).unwrap();
    assert_eq!(sets_of(&back, ROOT), [[0, 1, 2, 3, 4, 6]]);
    assert_eq!(back.pg(ROOT).unwrap().removed, [segment(5), segment(7)]);
    assert!(back.pg(ROOT).unwrap().members().iter().all(|m| !m.joining));
    assert_eq!(back.version.membership_epoch.get(), 5);
    [begun, twice, finished, back].iter().for_each(readable);
}

#[test]
fn a_replacement_that_makes_no_sense_is_refused() {
    let m = two_pgs();
    let begin = |m: &Manifest, out, into| begin_replace(m, ROOT, out, into).unwrap_err();
    let pg = ROOT;
    assert_eq!(
        begin_replace(&m, PgId::new(9), segment(0), member(6)),
        Err(EditError::UnknownPg { pg: PgId::new(9) })
    );
    assert_eq!(
        begin(&m, segment(10), member(6)),
        EditError::NotAMember {
            segment: segment(10),
            pg
        }
    );
    for taken in [3, 5, 12] {
        assert_eq!(
            begin(&m, segment(5), member(taken)),
            EditError::SegmentTaken {
                segment: segment(taken)
            }
        );
    }
    let shared = Member {
        node: node(2),
        ..member(6)
    };
    assert_eq!(
        begin(&m, segment(5), shared),
        EditError::NodeTaken { node: node(2), pg }
    );
    let tail = Member {
        kind: MemberKind::Tail,
        ..member(6)
    };
    assert_eq!(
        begin(&m, segment(5), tail),
        EditError::WrongKind {
            segment: segment(6)
        }
    );
    // The disk of a node was replaced: the same node may take over from itself.
    let same_node = Member {
        node: node(5),
        ..member(6)
    };
    assert!(begin_replace(&m, ROOT, segment(5), same_node).is_ok());

    let begun = begin_replace(&m, ROOT, segment(5), member(6)).unwrap();
    for moving in [5, 6] {
        assert_eq!(
            begin(&begun, segment(moving), member(7)),
            EditError::UnderWay {
                segment: segment(moving),
                pg
            }
        );
    }
    let twice = begin_replace(&begun, ROOT, segment(0), member(7)).unwrap();
    assert_eq!(
        begin(&twice, segment(1), member(8)),
        EditError::Busy { pg, sets: 4 }
    );
    let other = finish_replace(&begun, ROOT, segment(4), segment(6));
    assert!(matches!(other, Err(EditError::NotUnderWay { .. })));
    assert!(roll_back(&m, ROOT, segment(5), segment(6)).is_err());
    // What was removed never comes back, in any group.
    let back = roll_back(&begun, ROOT, segment(5), segment(6)).unwrap();
    let again = begin_replace(&back, PG1, segment(10), member(6));
    assert_eq!(
        again,
        Err(EditError::SegmentTaken {
            segment: segment(6)
        })
    );
}

#[test]
fn a_full_member_is_replaced_by_a_full_one_and_keeps_its_place() {
    let m = with_fleet(manifest_of(vec![entry(0, vec![full_tail()])]));
    let begun = begin_replace(&m, ROOT, segment(2), member(6)).unwrap();
    readable(&begun);
    let kinds = |set: &SegmentSet| -> Vec<_> { set.members.iter().map(|m| m.kind).collect() };
    let sets = &begun.pg(ROOT).unwrap().sets;
    assert_eq!(kinds(&sets[0]), kinds(&sets[1]));
    let tail = begin_replace(&m, ROOT, segment(1), member(6));
    assert!(matches!(tail, Err(EditError::WrongKind { .. })));
}

#[test]
fn a_group_is_appended_whole() {
    let m = manifest();
    let members: Vec<Member> = (10..16).map(member).collect();
    let grown = append_pg(&m, members.clone()).unwrap();
    readable(&grown);
    let entry = grown.pg(PG1).unwrap();
    assert_eq!((entry.pg, entry.sets.len()), (PG1, 1));
    assert_eq!(entry.sets[0].members, members);
    assert_eq!(entry.sets[0].model, QuorumModel::FourOfSix);
    assert_eq!(grown.pgs[0], m.pgs[0]);

    let mut twice = members.clone();
    twice[1].segment = twice[0].segment;
    assert!(matches!(
        append_pg(&m, twice),
        Err(EditError::SegmentTaken { .. })
    ));
    let mut shared = members.clone();
    shared[1].node = shared[0].node;
    assert!(matches!(
        append_pg(&m, shared),
        Err(EditError::NodeTaken { .. })
    ));
    let five = members[..5].to_vec();
    assert_eq!(
        append_pg(&m, five),
        Err(EditError::NoModel {
            members: 5,
            full: 5
        })
    );
    let known = (0..6).map(member).collect();
    assert!(matches!(
        append_pg(&m, known),
        Err(EditError::SegmentTaken { .. })
    ));
}

#[test]
fn a_node_leaves_the_fleet_only_when_it_holds_nothing() {
    let m = crate::common::manifest();
    let known = set_hint(&m, hint(3, "az1")).unwrap();
    let spare = set_hint(&known, hint(9, "az1")).unwrap();
    assert_eq!(spare.hints.len(), 2);
    let moved = NodeHint {
        address: "127.0.0.1:9".to_owned(),
        ..hint(9, "az1")
    };
    let moved_to = set_hint(&spare, moved.clone()).unwrap();
    assert_eq!(moved_to.hints, [hint(3, "az1"), moved.clone()]);
    assert_eq!(
        set_hint(&moved_to, moved),
        Err(EditError::HintKnown { node: node(9) })
    );
    assert_eq!(
        drop_hint(&spare, node(3)),
        Err(EditError::NodeInUse {
            node: node(3),
            pg: ROOT,
            segment: segment(3)
        })
    );
    assert_eq!(drop_hint(&spare, node(9)).unwrap().hints, known.hints);
    assert_eq!(
        drop_hint(&m, node(9)),
        Err(EditError::UnknownNode { node: node(9) })
    );
    let nowhere = NodeHint {
        address: String::new(),
        ..hint(9, "az1")
    };
    assert_eq!(set_hint(&m, nowhere), Err(EditError::HintText { bytes: 0 }));
}

/// No later writer would find it: hints are where addresses are.
#[test]
fn no_segment_is_placed_on_a_node_that_the_fleet_does_not_know() {
    let m = drop_hint(&manifest(), node(15)).unwrap();
    let unknown = Err(EditError::UnknownNode { node: node(15) });
    assert_eq!(
        begin_replace(&m, ROOT, segment(5), member(15)).map(|_| ()),
        unknown
    );
    let members = (10..16).map(member).collect();
    assert_eq!(append_pg(&m, members).map(|_| ()), unknown);
    let three = manifest_of(vec![entry(
        0,
        vec![set(QuorumModel::TwoOfThree, &[0, 1, 2])],
    )]);
    let four = set(QuorumModel::ThreeOfFour, &[0, 1, 2, 15]);
    let reshaped = begin_reshape(&three, ROOT, four);
    assert_eq!(reshaped.map(|_| ()), unknown);
}

#[test]
fn a_manifest_that_would_not_fit_a_message_is_refused() {
    let mut m = manifest();
    m.hints = (0..100)
        .map(|number| NodeHint {
            address: "x".repeat(1_000),
            az: "y".repeat(1_000),
            ..hint(number, "az1")
        })
        .collect();
    assert!(set_hint(&m, hint(120, "az1")).is_ok());
    let hints = m.hints.clone();
    m.hints.extend((0..4).flat_map(|_| hints.clone()));
    assert!(matches!(
        set_hint(&m, hint(120, "az1")),
        Err(EditError::TooLarge { .. })
    ));
}

fn steps() -> Vec<(&'static str, Change)> {
    let m = two_pgs();
    let begun = begin_replace(&m, PG1, segment(15), member(16)).unwrap();
    let twice = begin_replace(&begun, PG1, segment(14), member(17)).unwrap();
    let done = finish_replace(&twice, PG1, segment(15), segment(16)).unwrap();
    let back = roll_back(&done, PG1, segment(14), segment(17)).unwrap();
    let hinted = set_hint(&back, hint(1, "az1")).unwrap();
    let root = begin_replace(&hinted, ROOT, segment(0), member(6)).unwrap();
    let grown = append_pg(&root, (20..26).map(member).collect()).unwrap();
    let all = [m, begun, twice, done, back, hinted, root, grown];
    let names = [
        "begin", "second", "finish", "back", "hint", "root", "growth",
    ];
    let pairs = names.into_iter().zip(all.windows(2));
    pairs
        .map(|(name, pair)| (name, Change::new(pair[0].clone(), pair[1].clone())))
        .collect()
}

/// The sets that have to accept, collected the dull way: of the root, and of the group that differs, on both sides.
fn sets_concerned(change: &Change) -> Vec<SegmentSet> {
    let (from, to) = (change.from(), change.to());
    let mut sets: Vec<SegmentSet> = Vec::new();
    for entry in from.pgs.iter().chain(&to.pgs) {
        let differs = from.pg(entry.pg) != to.pg(entry.pg);
        if differs || entry.pg == ROOT {
            sets.extend(entry.sets.iter().cloned());
        }
    }
    sets
}

#[test]
fn a_step_is_in_force_when_every_set_left_and_entered_and_the_root_accepted() {
    for (name, change) in steps() {
        let sets = sets_concerned(&change);
        let mut segments: Vec<SegmentId> = sets
            .iter()
            .flat_map(|set| set.members.iter().map(|member| member.segment))
            .collect();
        segments.sort();
        segments.dedup();
        let wanted: BTreeSet<SegmentId> = change.wanted().iter().map(|(_, m)| m.segment).collect();
        assert_eq!(wanted, segments.iter().copied().collect(), "{name}");
        // All ways to leave up to three of them out, and every order of the first few.
        let count = segments.len() as u32;
        let bits = (0_u32..1 << count).filter(|mask| count - mask.count_ones() <= 4);
        for mask in bits {
            let mut change = change.clone();
            let accepted = |id: SegmentId| {
                let place = segments.iter().position(|&known| known == id);
                place.is_some_and(|place| mask & (1 << place) != 0)
            };
            for &id in segments.iter().filter(|&&id| accepted(id)) {
                change.accepted(id, lsn(1));
            }
            let expected = sets.iter().all(|set| {
                let held = set.members.iter().filter(|m| accepted(m.segment));
                held.count() >= 4
            });
            assert_eq!(change.is_in_force(), expected, "{name}: {mask:b}");
            assert_eq!(
                change.wanted().len(),
                segments.len() - mask.count_ones() as usize,
                "{name}: {mask:b}"
            );
        }
    }
}

#[test]
fn acceptances_of_strangers_count_for_nothing() {
    let (_, mut change) = steps().remove(0);
    change.accepted(segment(99), lsn(1_000));
    assert_eq!(change.floor(PG1), Lsn::NONE);
    assert_eq!(change.wanted().len(), 13);
}

#[test]
fn the_floor_is_the_highest_scl_of_the_acceptances_until_the_step_is_in_force() {
    let (_, mut change) = steps().remove(0);
    for number in 0..4 {
        change.accepted(segment(number), lsn(700));
    }
    for (number, scl) in [(10, 5), (11, 9), (12, 7)] {
        change.accepted(segment(number), lsn(scl));
    }
    assert_eq!(change.floor(PG1), lsn(9));
    assert_eq!(change.floor(ROOT), lsn(700));
    // A repeat brings the SCL of later; what counts is that of the acceptance.
    change.accepted(segment(10), lsn(50));
    assert!(!change.is_in_force());
    change.accepted(segment(13), lsn(8));
    assert!(change.is_in_force());
    assert_eq!(change.floor(PG1), lsn(9));
    change.accepted(segment(15), lsn(40));
    assert_eq!(change.floor(PG1), lsn(9));
    assert_eq!(change.wanted().len(), 13 - 9);
}

#[test]
fn the_joint_entry_has_every_set_of_both_sides_once() {
    let sets = |change: &Change| -> Vec<usize> {
        [ROOT, PG1]
            .map(|pg| change.joint_entry(pg).unwrap().sets.len())
            .to_vec()
    };
    let expected = [
        ("begin", [1, 2]),
        ("second", [1, 4]),
        ("finish", [1, 4]),
        ("back", [1, 2]),
        ("hint", [1, 1]),
        ("root", [2, 1]),
        ("growth", [2, 1]),
    ];
    for ((name, change), (same, counts)) in steps().iter().zip(expected) {
        assert_eq!((*name, sets(change)), (same, counts.to_vec()));
        assert_eq!(change.joint_entry(PgId::new(7)), None);
    }
    // Whoever joins on one side of the step joins in it: it counts in no read quorum before the step is in force (R20).
    let (_, finish) = steps().remove(2);
    let joint = finish.joint_entry(PG1).unwrap();
    let joins = |id| joint.members().iter().any(|m| m.segment == id && m.joining);
    assert!(joins(segment(16)) && joins(segment(17)));
    assert_eq!(joint.removed, [segment(15)]);
    let (_, growth) = steps().remove(6);
    assert_eq!(
        growth.joint_entry(PgId::new(2)).as_ref(),
        growth.to().pg(PgId::new(2))
    );
}

#[test]
#[should_panic(expected = "is no step from")]
fn a_step_goes_to_a_later_version() {
    let m = manifest();
    let one = set_hint(&m, hint(1, "az1")).unwrap();
    let _ = Change::new(one, m);
}

#[test]
#[should_panic(expected = "a step changes one group")]
fn a_step_changes_one_group() {
    let m = two_pgs();
    let mut both = begin_replace(&m, PG1, segment(15), member(16)).unwrap();
    both.pgs[0].removed.push(segment(77));
    let _ = Change::new(m, both);
}

#[test]
fn completeness_asks_a_write_quorum_of_each_remaining_set() {
    let begun = begin_replace(&manifest(), ROOT, segment(5), member(6)).unwrap();
    let root = begun.pg(ROOT).unwrap();
    for mask in 0..1_u32 << 7 {
        let scl_of = |id| if has(mask)(id) { lsn(8) } else { lsn(7) };
        let in_old = (mask & 0b011_1111).count_ones();
        let in_new = (mask & 0b101_1111).count_ones();
        assert_eq!(
            is_complete(root, lsn(8), &scl_of),
            in_old >= 4 && in_new >= 4
        );
        assert!(is_complete(root, lsn(7), &scl_of));
    }
}

/// One edit of a random walk.
#[derive(Debug, Clone, Copy)]
enum Edit {
    Begin { out: usize },
    Finish { which: usize },
    Back { which: usize },
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        3 => (0..8_usize).prop_map(|out| Edit::Begin { out }),
        2 => (0..2_usize).prop_map(|which| Edit::Finish { which }),
        1 => (0..2_usize).prop_map(|which| Edit::Back { which }),
    ];
    proptest::collection::vec(edit, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is begun, finished and taken back, in any order: the manifest can be read, the replacements under way are
    /// found in it, and nobody who was removed is in a set.
    #[test]
    fn replacements_are_found_in_the_manifest_alone(edits in edits()) {
        let mut m = manifest();
        let mut running: Vec<Replacement> = Vec::new();
        let mut fresh = 6_u8;
        for edit in edits {
            let entry = m.pg(ROOT).unwrap().clone();
            let next = match edit {
                Edit::Begin { out } => {
                    let members = entry.members();
                    let out = members[out % members.len()].segment;
                    let moving = running.iter().any(|r| r.out == out || r.into == out);
                    let next = begin_replace(&m, ROOT, out, member(fresh));
                    prop_assert_eq!(next.is_ok(), !moving && running.len() < 2);
                    if next.is_ok() {
                        running.push(Replacement { out, into: segment(fresh) });
                        fresh += 1;
                    }
                    next
                }
                Edit::Finish { which } | Edit::Back { which } => {
                    let Some(&under_way) = running.get(which) else { continue };
                    running.remove(which);
                    let Replacement { out, into } = under_way;
                    match edit {
                        Edit::Finish { .. } => finish_replace(&m, ROOT, out, into),
                        _ => roll_back(&m, ROOT, out, into),
                    }
                }
            };
            let Ok(next) = next else { continue };
            let change = Change::new(m, next);
            m = change.to().clone();
            let entry = m.pg(ROOT).unwrap();
            let read = Manifest::decode(&m.encode());
            prop_assert_eq!(read.as_ref(), Ok(&m));
            prop_assert_eq!(entry.sets.len(), 1 << running.len());
            let mut found = replacements(entry);
            found.sort();
            let mut expected = running.clone();
            expected.sort();
            prop_assert_eq!(found, expected);
            let members = entry.members();
            prop_assert!(members.iter().all(|m| !entry.removed.contains(&m.segment)));
            let joining = members.iter().filter(|m| m.joining).count();
            prop_assert_eq!(joining, running.len());
        }
    }

    /// Group after group on a fleet of equal zones: no node of a zone carries two more than another, and no group has two
    /// segments on a node.
    #[test]
    fn groups_spread_evenly(
        zones in proptest::collection::vec(2_usize..6, 3..5),
        groups in 1_usize..40,
    ) {
        let mut fleet = fleet(&zones);
        for _ in 0..groups {
            let placed = place_group(&fleet).unwrap();
            let distinct: BTreeSet<NodeId> = placed.iter().copied().collect();
            prop_assert_eq!(distinct.len(), 6);
            let mut by_zone: BTreeMap<String, usize> = BTreeMap::new();
            for load in fleet.iter_mut().filter(|load| distinct.contains(&load.node)) {
                load.segments += 1;
                *by_zone.entry(load.az.clone()).or_default() += 1;
            }
            prop_assert_eq!(by_zone.values().copied().collect::<Vec<_>>(), vec![2, 2, 2]);
            for load in &fleet {
                for other in fleet.iter().filter(|other| other.az == load.az) {
                    prop_assert!(load.segments.abs_diff(other.segments) <= 1);
                }
            }
        }
    }

    /// A replacement goes to the zone of the segment that leaves, to a node that holds nothing of the group, and none that
    /// could take it carries less.
    #[test]
    fn a_replacement_goes_to_the_least_loaded_spare_of_the_zone(
        zones in proptest::collection::vec(2_usize..6, 3..5),
        loads in proptest::collection::vec((0_usize..4, proptest::bool::weighted(0.8)), 24),
        out in 0_usize..6,
    ) {
        let mut fleet = fleet(&zones);
        let hosts = place_group(&fleet).unwrap();
        for (load, &(segments, usable)) in fleet.iter_mut().zip(&loads) {
            (load.segments, load.usable) = (segments, usable);
        }
        let members: Vec<Member> = (0_u8..).zip(hosts).map(|(number, node)| Member { node, ..member(number) }).collect();
        let az = fleet.iter().find(|load| load.node == members[out].node).unwrap().az.clone();
        let could: Vec<&Load> = fleet
            .iter()
            .filter(|load| load.usable && load.az == az && !hosts.contains(&load.node))
            .collect();
        match place_replacement(&fleet, &members, &members[out]) {
            Ok(node) => {
                let chosen = could.iter().find(|load| load.node == node).expect("one that could");
                prop_assert!(could.iter().all(|load| (load.segments, load.node) >= (chosen.segments, chosen.node)));
            }
            Err(error) => {
                prop_assert_eq!(error, PlacementError::NoSpare { az });
                prop_assert!(could.is_empty());
            }
        }
    }
}

fn fleet(zones: &[usize]) -> Vec<Load> {
    let mut numbers = 0_u8..;
    let mut fleet = Vec::new();
    for (zone, &count) in zones.iter().enumerate() {
        for number in numbers.by_ref().take(count) {
            fleet.push(Load {
                node: node(number),
                az: format!("az{zone}"),
                segments: 0,
                usable: true,
            });
        }
    }
    fleet
}

#[test]
fn a_group_needs_two_usable_nodes_in_three_zones() {
    let mut fleet = fleet(&[2, 2, 2]);
    assert!(place_group(&fleet).is_ok());
    fleet[3].usable = false;
    assert_eq!(
        place_group(&fleet),
        Err(PlacementError::TooFewZones { zones: 2 })
    );
    // A node that is listed twice is one node.
    let twin = fleet[2].clone();
    fleet.push(twin);
    assert!(place_group(&fleet).is_err());
    assert_eq!(
        place_replacement(&fleet, &[], &member(99)),
        Err(PlacementError::UnknownNode { node: node(99) })
    );
}

#[test]
fn the_least_loaded_zones_take_a_group_and_ties_go_by_id() {
    let mut fleet = fleet(&[2, 2, 2, 2]);
    fleet[0].segments = 1;
    let numbers = |placed: [NodeId; 6]| placed.map(|node| node.as_bytes()[0] - 101);
    assert_eq!(numbers(place_group(&fleet).unwrap()), [2, 3, 4, 5, 6, 7]);
    fleet[6].segments = 2;
    assert_eq!(numbers(place_group(&fleet).unwrap()), [2, 3, 4, 5, 1, 0]);
}

#[test]
fn what_a_group_lacks_goes_where_least_of_it_is() {
    let numbers = |placed: Vec<NodeId>| -> Vec<u8> {
        let number = |node: &NodeId| node.as_bytes()[0] - 101;
        placed.iter().map(number).collect()
    };
    // Nodes 0 to 2 in az0, 3 to 5 in az1, 6 to 8 in az2.
    let mut fleet = fleet(&[3, 3, 3]);
    let one_zone_and_one: Vec<Member> = [0, 1, 3].map(member).into();
    let place = |fleet: &[Load], members: &[Member], count| place_more(fleet, members, count);
    assert_eq!(
        numbers(place(&fleet, &one_zone_and_one, 3).unwrap()),
        [6, 4, 7]
    );
    let one_each: Vec<Member> = [0, 3, 6].map(member).into();
    assert_eq!(numbers(place(&fleet, &one_each, 3).unwrap()), [1, 4, 7]);
    // Neither loaded nor unusable ones, where there are others; never a third one in a zone.
    (fleet[6].segments, fleet[7].usable) = (5, false);
    assert_eq!(
        numbers(place(&fleet, &one_zone_and_one, 3).unwrap()),
        [8, 4, 6]
    );
    fleet[6].usable = false;
    assert_eq!(
        place(&fleet, &one_zone_and_one, 3),
        Err(PlacementError::TooFewNodes {
            found: 2,
            needed: 3
        })
    );
    assert_eq!(numbers(place(&fleet, &one_zone_and_one, 1).unwrap()), [8]);
}
