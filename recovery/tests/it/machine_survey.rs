//! Read-only openings (R23) against segments in memory: what they show, what they wait for, whom they disturb.

use std::collections::VecDeque;
use std::time::Duration;

use sixfold_log_format::manifest::Manifest;
use sixfold_log_format::wire::Message;
use sixfold_log_format::{Lsn, PgId, QuorumModel};
use sixfold_recovery::machine::RecoveryEvent;
use sixfold_recovery::machine::survey::{
    Survey, SurveyAction, SurveyError, SurveyOptions, Surveyed,
};

use crate::cluster::{Cluster, FakeSegment, Fate, nodes_of, options, take_over, written};
use crate::common::{
    batch_of, entry, epoch, history, lsn, manifest_of, member, ms, node, range, set, six,
    subsets_of, volume, writer,
};

const ALL: u32 = 0b11_1111;

/// Called before each request is answered, and whenever nothing is under way.
type Hook<'a> = &'a mut dyn FnMut(&mut Cluster, Option<(usize, &Message)>);

/// Runs a survey against the cluster; each answer takes a millisecond.
fn survey_with(cluster: &mut Cluster, hook: Hook<'_>) -> Result<Surveyed, SurveyError> {
    let options = SurveyOptions {
        volume: volume(),
        nodes: (0..6).map(node).collect(),
        deadline: ms(5_000),
    };
    let mut now = ms(1_000);
    let mut survey = Survey::new(&options, now);
    let mut asked = VecDeque::new();
    for _ in 0..100_000 {
        while let Some(action) = survey.poll_action() {
            match action {
                SurveyAction::Send {
                    request,
                    node,
                    message,
                } => asked.push_back((request, node, message)),
                SurveyAction::Done(result) => return *result,
            }
        }
        let Some((request, to, message)) = asked.pop_front() else {
            hook(cluster, None);
            now = survey.poll_timeout().expect("it is not over").max(now);
            survey.handle(now, RecoveryEvent::Timeout);
            continue;
        };
        now += ms(1);
        let to = (0..cluster.segments.len())
            .find(|&index| node(index as u8) == to)
            .unwrap();
        hook(cluster, Some((to, &message)));
        assert!(
            matches!(message, Message::Probe(_) | Message::Survey(_)),
            "a reader says {message:?}"
        );
        if cluster.segments[to].up {
            for message in cluster.segments[to].handle(&message) {
                survey.handle(now, RecoveryEvent::Answer { request, message });
            }
        } else {
            survey.handle(now, RecoveryEvent::Unreachable { request });
        }
    }
    panic!("it does not end");
}

/// Segments gossip whenever the survey rests.
fn survey(cluster: &mut Cluster) -> Result<Surveyed, SurveyError> {
    survey_with(cluster, &mut |cluster, request| {
        if request.is_none() {
            gossip(&mut cluster.segments);
        }
    })
}

fn gossip(segments: &mut [FakeSegment]) {
    for index in 0..segments.len() {
        for peer in 0..segments.len() {
            if segments[index].up && segments[peer].up && segments[index].pg == segments[peer].pg {
                let peer = segments[peer].clone();
                segments[index].gossip(&peer);
            }
        }
    }
}

/// Whether three of the PG's segments that are up hold what the survey says that they hold.
fn assert_held(cluster: &Cluster, surveyed: &Surveyed) {
    for &(pg, last) in &surveyed.pg_last {
        let holds = |segment: &&FakeSegment| {
            segment.pg == pg
                && segment.up
                && segment.history == surveyed.history
                && segment.scl() >= last
        };
        assert!(cluster.segments.iter().filter(holds).count() >= 3, "{pg}");
    }
}

#[test]
fn three_segments_are_enough_to_read_and_nobody_is_disturbed() {
    let (mut cluster, first) = written(&[11, 12, 13], |_| nodes_of(ALL));
    cluster.only_up(0b01_0101);
    let before: Vec<_> = cluster.segments.iter().map(|one| one.guard).collect();
    let surveyed = survey(&mut cluster).unwrap();
    assert_eq!((surveyed.lsn, surveyed.settled), (lsn(13), true));
    assert_eq!(surveyed.pg_last, [(PgId::ROOT, lsn(13))]);
    assert_eq!(surveyed.history, first.history);
    assert_held(&cluster, &surveyed);
    // The writer is alive, and goes on.
    let after: Vec<_> = cluster.segments.iter().map(|one| one.guard).collect();
    assert_eq!(before, after);
    cluster.only_up(ALL);
    let batch = batch_of(0, 2, 13, &[14], 13, 0);
    assert_eq!(cluster.append(&first, &batch, &nodes_of(ALL)), 6);
}

#[test]
fn two_segments_are_refused_in_one_line() {
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    cluster.only_up(0b00_0011);
    let error = survey(&mut cluster).unwrap_err();
    let expected = SurveyError::Unavailable {
        pg: PgId::ROOT,
        answered: 2,
        needed: 3,
    };
    assert_eq!(error, expected);
    assert_eq!(
        error.to_string(),
        "2 of 3 segments of protection group 0 that a reader needs answered in time"
    );
}

#[test]
fn a_volume_that_nobody_knows_is_not_read() {
    let mut cluster = Cluster::new();
    for segment in &mut cluster.segments {
        segment.exists = false;
    }
    let nowhere = SurveyError::NoVolume { volume: volume() };
    assert_eq!(survey(&mut cluster).unwrap_err(), nowhere);
}

#[test]
fn r23_what_one_segment_holds_is_shown_only_when_three_hold_it() {
    let last_on = |holders: &'static [usize]| {
        written(&[11, 12], |number| {
            if number == 11 {
                nodes_of(ALL)
            } else {
                holders.to_vec()
            }
        })
        .0
    };
    // The holder answers: its record is in the cut, and waited for.
    let mut cluster = last_on(&[0]);
    cluster.only_up(0b00_0111);
    let surveyed = survey(&mut cluster).unwrap();
    assert_eq!((surveyed.lsn, surveyed.settled), (lsn(12), true));
    assert_held(&cluster, &surveyed);
    // Where the segments do not gossip it is not shown.
    let mut cluster = last_on(&[0]);
    cluster.only_up(0b00_0111);
    let error = survey_with(&mut cluster, &mut |_, _| {}).unwrap_err();
    let behind = SurveyError::Behind {
        pg: PgId::ROOT,
        lsn: lsn(12),
        needed: 3,
    };
    assert_eq!(error, behind);
    // The holder does not answer: nothing of it is shown.
    let mut cluster = last_on(&[0]);
    cluster.only_up(0b00_1110);
    assert_eq!(survey(&mut cluster).unwrap().lsn, lsn(11));
}

/// Whatever a reader was shown is in every later state of the volume: any holders of the last record, any three that answer the
/// reader, any fence that meets them in one segment.
#[test]
fn r23_a_settled_point_survives_every_later_fence() {
    for holders in (1..=3).flat_map(|size| subsets_of(ALL, size)) {
        for readers in subsets_of(ALL, 3) {
            for kept in subsets_of(readers, 1) {
                let (mut cluster, _) = written(&[11, 12], |number| {
                    nodes_of(if number == 11 { ALL } else { holders })
                });
                cluster.only_up(readers);
                let surveyed = survey(&mut cluster).unwrap();
                assert!(surveyed.settled);
                cluster.only_up(ALL & !readers | kept);
                let opened = cluster.recover(take_over(9)).unwrap();
                assert!(
                    opened.cut >= surveyed.lsn,
                    "holders {holders:b} readers {readers:b} kept {kept:b}"
                );
            }
        }
    }
}

/// X fenced B, C, D, E without A, put its history on D alone and died. A reader on A, B, C shows A's 12, which Z annuls when it meets D.
#[test]
fn r23_a_claim_above_the_history_makes_the_point_unsettled() {
    let (mut cluster, _) = written(&[11, 12], |number| {
        nodes_of(if number == 11 { ALL } else { 0b00_0001 })
    });
    cluster.only_up(0b01_1110);
    cluster.hook = Box::new(|_, _, to, message| match message {
        Message::Install(_) if to == 3 => Fate::AnswerLost,
        Message::Install(_) => Fate::Unreachable,
        _ => Fate::Answered,
    });
    cluster.start(take_over(5));
    let tried = cluster.recover(take_over(5));
    assert!(tried.is_err(), "{tried:?}");
    cluster.only_up(0b00_0111);
    let surveyed = survey(&mut cluster).unwrap();
    assert_eq!((surveyed.lsn, surveyed.settled), (lsn(12), false));
}

#[test]
fn a_reopening_beside_it_makes_the_reader_look_again() {
    let (mut cluster, _) = written(&[11, 12], |number| {
        nodes_of(if number == 11 { ALL } else { 0b00_0001 })
    });
    cluster.only_up(0b01_1111);
    let mut surveys = 0;
    let surveyed = survey_with(&mut cluster, &mut |cluster, request| {
        if let Some((_, Message::Survey(_))) = request {
            surveys += 1;
            if surveys == 9 {
                // The last record's only holder is away for it.
                cluster.only_up(0b11_1110);
                cluster.open(take_over(7));
                cluster.only_up(0b01_1111);
            }
        }
        if request.is_none() {
            gossip(&mut cluster.segments);
        }
    });
    let surveyed = surveyed.unwrap();
    let annulled = history(3, &[range(0, 10, 2), range(11, 21, 3)]);
    assert_eq!(surveyed.history, annulled);
    assert_eq!((surveyed.lsn, surveyed.settled), (lsn(21), true));
    assert_eq!(surveyed.pg_last, [(PgId::ROOT, lsn(11))]);
    assert_held(&cluster, &surveyed);
}

#[test]
fn a_history_on_one_and_higher_claims_on_the_others_are_not_for_a_reader_to_decide() {
    let (mut cluster, _) = written(&[11], |_| nodes_of(ALL));
    cluster.segments[0]
        .guard
        .install(epoch(5), writer(5))
        .unwrap();
    cluster.segments[0].history = history(5, &[range(0, 10, 2), range(11, 21, 5)]);
    for segment in &mut cluster.segments[1..] {
        segment.guard.claim(epoch(6), writer(6)).unwrap();
    }
    let error = survey(&mut cluster).unwrap_err();
    let undecided = SurveyError::Undecided {
        volume_epoch: epoch(6),
    };
    assert_eq!(error, undecided);
    // A writer settles it.
    cluster.open(options(8));
    assert!(survey(&mut cluster).unwrap().settled);
}

fn two_groups() -> Manifest {
    let second = set(QuorumModel::FourOfSix, &[6, 7, 8, 9, 10, 11]);
    manifest_of(vec![entry(0, vec![six()]), entry(1, vec![second])])
}

/// A writer commits while the reader asks: first PG 1 says what it holds, then 12 is written there and 13 to PG 0, which says a VDL of 13.
#[test]
fn answers_of_different_moments_make_one_point() {
    for moment in 0..40 {
        let mut cluster = Cluster::of(&two_groups(), 12);
        let opened = cluster.open(options(1));
        let base = opened.vdl.get();
        let everywhere: Vec<usize> = (0..12).collect();
        cluster.attach(&opened, &everywhere);
        let (mut prev, mut next, mut vdl) = ([0, 0], base + 1, base);
        let mut commit = |cluster: &mut Cluster, pg: usize| {
            let batch = batch_of(pg as u32, 2, prev[pg], &[next], vdl, 0);
            let group = everywhere[6 * pg..6 * (pg + 1)].to_vec();
            cluster.append(&opened, &batch, &group);
            (prev[pg], vdl) = (next, next);
            for segment in &mut cluster.segments {
                segment.floor = lsn(vdl);
            }
            next += 1;
        };
        commit(&mut cluster, 0);
        commit(&mut cluster, 1);
        let mut requests = 0;
        let surveyed = survey_with(&mut cluster, &mut |cluster, request| {
            if request.is_some() {
                requests += 1;
                if requests >= moment {
                    commit(cluster, requests % 2);
                }
            }
        });
        let surveyed = surveyed.unwrap();
        assert!(surveyed.settled && surveyed.lsn >= lsn(base + 2));
        // Every segment holds every batch; the last one of each PG at or below the point is known, or not said to be lower.
        for &(pg, last) in &surveyed.pg_last {
            let of_pg = cluster.segments.iter().find(|segment| segment.pg == pg);
            let held = of_pg.unwrap().all_valid();
            let truth = held.into_iter().filter(|&lsn| lsn <= surveyed.lsn).max();
            assert!(Some(last) >= truth, "{moment}: {pg} {last} {truth:?}");
        }
        assert_held(&cluster, &surveyed);
    }
}

#[test]
fn a_joining_segment_counts_for_nothing() {
    let mut manifest = manifest_of(vec![entry(0, vec![six()])]);
    let mut joined = six();
    joined.members[5] = member(6);
    joined.members[5].joining = true;
    manifest.pgs[0].sets.push(joined);
    let mut cluster = Cluster::of(&manifest, 7);
    cluster.segments[6].pg = PgId::ROOT;
    cluster.open(options(1));
    cluster.only_up(0b100_0011);
    let error = survey(&mut cluster).unwrap_err();
    assert!(
        matches!(error, SurveyError::Unavailable { answered: 2, .. }),
        "{error}"
    );
    cluster.only_up(0b000_0111);
    survey(&mut cluster).unwrap();
}

#[test]
fn a_volume_that_was_never_written_is_read_at_nothing() {
    let mut cluster = Cluster::new();
    let surveyed = survey(&mut cluster).unwrap();
    assert_eq!(surveyed.lsn, Lsn::NONE);
}

#[test]
fn it_ends_by_its_deadline_when_nobody_answers() {
    let mut cluster = Cluster::new();
    cluster.only_up(0);
    let error = survey(&mut cluster).unwrap_err();
    assert!(
        matches!(error, SurveyError::Unavailable { answered: 0, .. }),
        "{error}"
    );
    let _: Duration = ms(0);
}
