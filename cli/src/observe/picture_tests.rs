//! What a picture makes of what was seen.

use sixfold_log_format::{Member, MemberKind, NodeId, PgId};

use super::*;

fn id(index: usize) -> SegmentId {
    let index = u8::try_from(index).unwrap();
    SegmentId::from_bytes([index; 16])
}

fn set(model: QuorumModel, members: &[usize], fulls: usize) -> SegmentSet {
    let member = |(place, &index): (usize, &usize)| Member {
        segment: id(index),
        node: NodeId::default(),
        kind: if place < fulls {
            MemberKind::Full
        } else {
            MemberKind::Tail
        },
        joining: false,
    };
    SegmentSet {
        model,
        members: members.iter().enumerate().map(member).collect(),
    }
}

fn group(sets: Vec<SegmentSet>) -> PgEntry {
    PgEntry {
        pg: PgId::ROOT,
        sets,
        removed: Vec::new(),
    }
}

fn four_of_six() -> Vec<PgEntry> {
    vec![group(vec![set(
        QuorumModel::FourOfSix,
        &[0, 1, 2, 3, 4, 5],
        6,
    )])]
}

/// Nodes with one segment each, of which those in `up` answer, with the SCLs given; not settled.
fn nodes(scls: &[u64], up: usize) -> Picture {
    let node = |(index, &scl): (usize, &u64)| NodeView {
        node: format!("{index:032x}"),
        az: format!("az{}", index / 2 + 1),
        is_up: index < up,
        segments: (index < up)
            .then(|| SegmentView {
                segment: id(index).to_string(),
                scl,
                highest: scl,
                ..SegmentView::default()
            })
            .into_iter()
            .collect(),
        ..NodeView::default()
    };
    Picture {
        seen_by: "operator".to_owned(),
        nodes: scls.iter().enumerate().map(node).collect(),
        ..Picture::default()
    }
}

fn settled(scls: &[u64], up: usize, entries: &[PgEntry]) -> Picture {
    let mut picture = nodes(scls, up);
    picture.settle(entries);
    picture
}

#[test]
fn a_group_is_complete_up_to_its_fourth_highest_scl() {
    let picture = settled(&[10, 20, 30, 40, 50, 60], 6, &four_of_six());
    assert_eq!(picture.groups[0].pgcl, Some(30));
    assert_eq!(picture.groups[0].highest, 60);
    assert_eq!(picture.groups[0].rule.as_deref(), Some("4 of 6"));
    assert_eq!(picture.nodes[0].segments[0].lag_lsns, 50);
    assert_eq!(picture.notes, []);
}

#[test]
fn what_stops_commits_is_said_first() {
    let picture = settled(&[10; 6], 3, &four_of_six());
    assert!(picture.notes[0].is_grave);
    assert_eq!(
        picture.notes[0].text,
        "group 0 has 3 segments that answer: commits need 4 of 6"
    );
    assert_eq!(picture.notes.len(), 4);
    assert!(!picture.notes[3].is_grave);
}

#[test]
fn each_quorum_model_has_its_own_count() {
    let scls = [10, 20, 30, 40, 50, 60];
    for (model, members, fulls, up, complete, rule, writable) in [
        (QuorumModel::ThreeOfFour, 4, 4, 3, 10, "3 of 4", true),
        (QuorumModel::ThreeOfFour, 4, 4, 2, 0, "3 of 4", false),
        (QuorumModel::TwoOfThree, 3, 3, 2, 10, "2 of 3", true),
        (QuorumModel::TwoOfThree, 3, 3, 1, 0, "2 of 3", false),
        // The three full ones are a write quorum by themselves.
        (
            QuorumModel::FullTail,
            6,
            3,
            3,
            10,
            "4 of 6 or all full ones",
            true,
        ),
        (
            QuorumModel::FullTail,
            6,
            4,
            3,
            0,
            "4 of 6 or all full ones",
            false,
        ),
    ] {
        let all: Vec<usize> = (0..members).collect();
        let entries = [group(vec![set(model, &all, fulls)])];
        let picture = settled(&scls[..members], up, &entries);
        let seen = &picture.groups[0];
        assert_eq!(seen.pgcl, Some(complete), "{model:?} {up}");
        assert_eq!(seen.rule.as_deref(), Some(rule));
        assert_eq!(seen.is_writable, Some(writable), "{model:?} {up}");
        let grave = picture.notes.iter().filter(|note| note.is_grave).count();
        assert_eq!(grave, usize::from(!writable), "{:?}", picture.notes);
    }
}

#[test]
fn while_one_set_replaces_another_both_must_have_it() {
    let sets = vec![
        set(QuorumModel::FourOfSix, &[0, 1, 2, 3, 4, 5], 6),
        set(QuorumModel::FourOfSix, &[1, 2, 3, 4, 5, 6], 6),
    ];
    let picture = settled(&[60, 60, 60, 60, 5, 5, 5], 7, &[group(sets)]);
    assert_eq!(picture.groups[0].pgcl, Some(5));
    assert_eq!(picture.groups[0].rule.as_deref(), Some("4 of 6 and 4 of 6"));
}

#[test]
fn a_group_of_which_nobody_answers_is_there_and_grave() {
    let picture = settled(&[1; 6], 0, &four_of_six());
    assert_eq!(picture.groups.len(), 1);
    assert_eq!(picture.groups[0].is_writable, Some(false));
}

#[test]
fn without_a_manifest_nothing_is_claimed_of_quorums() {
    let picture = settled(&[10; 6], 1, &[]);
    assert_eq!(picture.groups[0].pgcl, None);
    assert_eq!(picture.groups[0].rule, None);
    assert!(picture.notes.iter().all(|note| !note.is_grave));
    let text = serde_json::to_string(&picture).unwrap();
    assert!(!text.contains("pgcl"), "{text}");
}

#[test]
fn what_the_writer_refused_is_a_note_also_when_it_was_told_by_the_writer() {
    let mut picture = nodes(&[10; 6], 6);
    picture.writer = Some(WriterView {
        state: "open".to_owned(),
        refusals: vec!["no node of az2 has room".to_owned()],
        ..WriterView::default()
    });
    picture.settle(&four_of_six());
    assert_eq!(picture.notes[0].text, "the writer: no node of az2 has room");
}

#[test]
fn a_picture_survives_its_json() {
    let picture = settled(&[1, 2, 3, 4, 5, 6], 5, &four_of_six());
    let text = serde_json::to_string(&picture).unwrap();
    assert_eq!(serde_json::from_str::<Picture>(&text).unwrap(), picture);
}
