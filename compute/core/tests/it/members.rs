//! Segments that are replaced while the volume serves (R20, R21, R24).

use std::time::Duration;

use sixfold_compute_core::{MemberBounds, ReplacePhase, WriterAction, WriterBounds};
use sixfold_log_format::wire::{Wish, WishState, WishVerb};
use sixfold_log_format::{PgEntry, PgId, SegmentId};

use crate::cluster::fleet::{fleet_node, hint, names, opened_with_fleet};
use crate::cluster::{Cluster, VOLUME, bounds, put, segment_id};

const STEPS: usize = 400;

/// Who replaces segment `out` now.
fn into(cluster: &Cluster, out: SegmentId) -> SegmentId {
    let stats = cluster.core.stats().membership;
    let job = stats.replacements.iter().find(|job| job.out == out);
    job.expect("a replacement is under way").into
}

fn phase(cluster: &Cluster, out: SegmentId) -> Option<ReplacePhase> {
    let stats = cluster.core.stats().membership;
    let job = stats.replacements.iter().find(|job| job.out == out);
    job.map(|job| job.phase)
}

fn is_joining(cluster: &Cluster, out: SegmentId) -> bool {
    phase(cluster, out) == Some(ReplacePhase::Joining)
}

fn is_idle(cluster: &Cluster) -> bool {
    let stats = cluster.core.stats().membership;
    stats.replacements.is_empty() && stats.waiting == 0 && stats.proposed.is_none()
}

fn members(cluster: &Cluster) -> Vec<SegmentId> {
    let relations = cluster.core.stats().relations;
    relations.iter().map(|relation| relation.segment).collect()
}

/// Everything that was put under load is there.
fn assert_readable(cluster: &mut Cluster) {
    for number in 0..5 {
        assert!(cluster.get(&format!("load {number:03}")).is_some());
    }
}

#[test]
fn a_segment_is_replaced_under_load_and_no_commit_fails() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.under_load(20, |_| false);
    let out = segment_id(5);
    let wish = cluster.replace(out);
    assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, out)));
    // It stays so until the new one is whole.
    assert!(!cluster.under_load(20, is_idle));
    let new = into(&cluster, out);
    assert_eq!(cluster.state(wish), WishState::Working);
    assert!(cluster.core.stats().membership.sets == [(PgId::ROOT, 2)]);
    cluster.heal();
    assert!(cluster.under_load(STEPS, is_idle));
    assert_eq!(cluster.state(wish), WishState::Done);
    assert!(members(&cluster).contains(&new) && !members(&cluster).contains(&out));
    assert_eq!(cluster.core.stats().membership.sets, [(PgId::ROOT, 1)]);
    // In the same zone, on a node that held nothing of it.
    assert_eq!(cluster.segments[6].node, fleet_node(8));
    // The old one was told, and dropped.
    cluster.pass_ms(500);
    assert!(cluster.segments[5].dropped);
    assert_eq!(cluster.core.stats().membership.leaving, 0);
    assert_readable(&mut cluster);
}

#[test]
fn a_segment_on_a_dead_node_is_replaced() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.under_load(20, |_| false);
    cluster.dead_nodes.insert(fleet_node(1));
    cluster.kill(1);
    let wish = cluster.replace(segment_id(1));
    assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, segment_id(1))));
    cluster.heal();
    assert!(cluster.under_load(STEPS, is_idle));
    assert_eq!(cluster.state(wish), WishState::Done);
    // It comes back with its old manifest: nobody attaches to it, and it is told and dropped.
    assert!(!cluster.segments[1].dropped);
    let attached = cluster.segments[1].attach_count;
    cluster.dead_nodes.clear();
    cluster.segments[1].down = false;
    cluster.under_load(STEPS, |cluster| cluster.segments[1].dropped);
    assert!(cluster.segments[1].dropped);
    assert_eq!(cluster.segments[1].attach_count, attached);
    assert!(!names(
        cluster.segments[1].manifest.as_ref().unwrap(),
        segment_id(1)
    ));
}

#[test]
fn two_segments_of_a_group_are_replaced_at_the_same_time() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.under_load(20, |_| false);
    let (one, two) = (segment_id(0), segment_id(1));
    cluster.replace(one);
    cluster.replace(two);
    let both = |cluster: &Cluster| is_joining(cluster, one) && is_joining(cluster, two);
    assert!(cluster.under_load(STEPS, both));
    assert_eq!(cluster.core.stats().membership.sets, [(PgId::ROOT, 4)]);
    // The one that is whole first goes first.
    let second = cluster.index_of(into(&cluster, two));
    cluster.segments[second].lags = false;
    let whole = cluster.segments[0].batches.clone();
    cluster.segments[second].batches.extend(whole);
    assert!(cluster.under_load(STEPS, |cluster| phase(cluster, two).is_none()));
    assert!(is_joining(&cluster, one));
    assert_eq!(cluster.core.stats().membership.sets, [(PgId::ROOT, 2)]);
    cluster.heal();
    assert!(cluster.under_load(STEPS, is_idle));
    assert_eq!(cluster.core.stats().membership.sets, [(PgId::ROOT, 1)]);
    assert!(!members(&cluster).contains(&one) && !members(&cluster).contains(&two));
    assert_readable(&mut cluster);
}

#[test]
fn writes_need_both_sets_while_a_segment_joins() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.under_load(20, |_| false);
    let out = segment_id(5);
    cluster.replace(out);
    assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, out)));
    // A, B, C and F hold it: four of the old set, three of the new one.
    [3, 4, 6]
        .into_iter()
        .for_each(|index| cluster.segments[index].mute = true);
    let ticket = cluster.submit(put("a key", "x"));
    cluster.pass_ms(50);
    assert_eq!(cluster.answer(ticket), None);
    cluster.segments[3].mute = false;
    cluster.ack_and_run(3);
    assert!(cluster.answer(ticket).unwrap().is_ok());
}

#[test]
fn acks_of_a_removed_segment_count_for_nothing() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.under_load(20, |_| false);
    let out = segment_id(5);
    cluster.replace(out);
    assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, out)));
    let life = cluster.segments[5].life.unwrap();
    cluster.heal();
    assert!(cluster.under_load(STEPS, is_idle));
    assert!(cluster.detached.contains(&life));
    // Three members hold what comes now; the removed one says that it does too.
    [3, 4, 6]
        .into_iter()
        .for_each(|index| cluster.segments[index].mute = true);
    let ticket = cluster.submit(put("a key", "x"));
    cluster.run();
    cluster.segments[5].batches = cluster.segments[0].batches.clone();
    cluster.segments[5].life = Some(life);
    cluster.segments[5].echo = 1;
    cluster.ack_and_run(5);
    cluster.pass_ms(50);
    assert_eq!(cluster.answer(ticket), None);
    cluster.segments[6].mute = false;
    cluster.ack_and_run(6);
    assert!(cluster.answer(ticket).unwrap().is_ok());
}

#[test]
fn a_joining_segment_is_asked_for_no_page_and_counts_for_no_lease() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.under_load(20, |_| false);
    let out = segment_id(5);
    cluster.replace(out);
    assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, out)));
    cluster.heal();
    // It holds everything by now, but its step is not in force: three others are deaf.
    (0..6).for_each(|index| cluster.segments[index].deaf = true);
    cluster.under_load(8, |_| false);
    assert_eq!(phase(&cluster, out), Some(ReplacePhase::Finishing));
    // Two whole members of the new set answer, and it; three of the old one do.
    (2..5).for_each(|index| cluster.segments[index].mute = true);
    cluster.pass_ms(100);
    let lease = cluster.want_lease(Duration::from_millis(40));
    cluster.pass_ms(60);
    assert_eq!(cluster.leased(lease), Some(false));
    cluster.segments[2].mute = false;
    let lease = cluster.want_lease(Duration::from_millis(40));
    cluster.pass_ms(60);
    assert_eq!(cluster.leased(lease), Some(true));
    assert!(cluster.segments[6].reads.is_empty());
}

#[test]
fn a_replacement_is_taken_back_as_long_as_its_last_step_was_not_proposed() {
    for wanted in [
        ReplacePhase::Creating,
        ReplacePhase::Beginning,
        ReplacePhase::Joining,
    ] {
        let mut cluster = Cluster::of_fleet(9, 1);
        cluster.under_load(20, |_| false);
        let out = segment_id(5);
        match wanted {
            ReplacePhase::Creating => {
                cluster.dead_nodes.insert(fleet_node(8));
            }
            ReplacePhase::Beginning => {
                cluster.each(|segment| segment.deaf = true);
            }
            _ => {}
        }
        let wish = cluster.replace(out);
        cluster.under_load(4, |_| false);
        assert_eq!(phase(&cluster, out), Some(wanted));
        let new = into(&cluster, out);
        let restore = cluster.wish(WishVerb::Restore, *out.as_bytes(), [0; 16]);
        cluster.under_load(4, |_| false);
        cluster.each(|segment| segment.deaf = false);
        cluster.dead_nodes.clear();
        assert!(cluster.under_load(STEPS, is_idle), "{wanted:?}");
        assert_eq!(cluster.state(restore), WishState::Done, "{wanted:?}");
        assert_eq!(cluster.state(wish), WishState::Refused, "{wanted:?}");
        assert!(members(&cluster).contains(&out) && !members(&cluster).contains(&new));
        // What was made for nothing goes.
        let gone = |cluster: &Cluster| cluster.core.stats().membership.leaving == 0;
        assert!(cluster.under_load(STEPS, gone), "{wanted:?}");
        let made = cluster.segments.iter().find(|held| held.id == new);
        assert!(made.is_none_or(|made| made.dropped), "{wanted:?}");
        // And the same node may be tried again.
        cluster.replace(out);
        assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, out)));
        cluster.heal();
        assert!(cluster.under_load(STEPS, is_idle));
        assert!(!members(&cluster).contains(&out));
    }
}

#[test]
fn it_is_too_late_to_take_it_back_when_the_last_step_was_proposed() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.under_load(20, |_| false);
    let out = segment_id(5);
    cluster.replace(out);
    assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, out)));
    cluster.heal();
    cluster.each(|segment| segment.deaf = true);
    cluster.under_load(4, |_| false);
    assert_eq!(phase(&cluster, out), Some(ReplacePhase::Finishing));
    let restore = cluster.wish(WishVerb::Restore, *out.as_bytes(), [0; 16]);
    assert_eq!(cluster.state(restore), WishState::Refused);
    cluster.each(|segment| segment.deaf = false);
    assert!(cluster.under_load(STEPS, is_idle));
    assert!(!members(&cluster).contains(&out));
}

#[test]
fn a_step_is_in_force_only_with_a_write_quorum_of_what_it_leaves_and_enters() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.under_load(20, |_| false);
    let out = segment_id(5);
    // Streams are up, so that nobody is told by attaching; three hear of the step.
    (3..6).for_each(|index| cluster.segments[index].deaf = true);
    cluster.replace(out);
    cluster.under_load(40, |_| false);
    assert_eq!(phase(&cluster, out), Some(ReplacePhase::Beginning));
    // A, B, C and G: four of the set entered, three of the one left.
    let new = into(&cluster, out);
    assert!(names(cluster.segments[6].manifest.as_ref().unwrap(), new));
    cluster.segments[5].deaf = false;
    assert!(!cluster.under_load(STEPS, |_| false));
    assert!(is_joining(&cluster, out));
}

#[test]
fn a_wish_is_carried_by_acks_done_once_and_reported_to_who_brought_it() {
    let mut cluster = Cluster::of_fleet(9, 1);
    let wish = Wish {
        id: [3; 16],
        volume: VOLUME,
        verb: WishVerb::Replace,
        subject: *segment_id(2).as_bytes(),
        object: *fleet_node(8).as_bytes(),
    };
    cluster.wishes.push(wish.clone());
    assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, segment_id(2))));
    cluster.heal();
    assert!(cluster.under_load(STEPS, |cluster| cluster.wishes.is_empty()));
    assert_eq!(cluster.state([3; 16]), WishState::Done);
    assert_eq!(cluster.segments[6].node, fleet_node(8));
    let is_told = |node: usize| {
        let mut reports = cluster.node_reports.iter();
        reports.any(|(told, report)| {
            *told == fleet_node(node) && report.state == WishState::Done && report.done == 1
        })
    };
    assert!((0..6).any(is_told));
    // Brought again, it is not done again: whoever brings it is told again.
    let count = cluster.segments.len();
    cluster.pass_ms(2_000);
    cluster.wishes.push(wish);
    assert!(cluster.under_load(STEPS, |cluster| cluster.wishes.is_empty()));
    cluster.under_load(10, |_| false);
    assert_eq!(cluster.segments.len(), count);
}

#[test]
fn wishes_that_cannot_be_done_are_refused_with_a_reason() {
    let mut cluster = Cluster::of_fleet(6, 1);
    let spare_of_another_zone = *fleet_node(0).as_bytes();
    let cases = [
        (
            WishVerb::Replace,
            [9; 16],
            [0; 16],
            "neither a segment nor a node",
        ),
        (
            WishVerb::Replace,
            *segment_id(1).as_bytes(),
            [0; 16],
            "no spare node",
        ),
        (
            WishVerb::Drain,
            *fleet_node(1).as_bytes(),
            [0; 16],
            "no spare node",
        ),
        (
            WishVerb::Replace,
            *segment_id(1).as_bytes(),
            spare_of_another_zone,
            "hosts a segment",
        ),
        (
            WishVerb::Replace,
            *segment_id(1).as_bytes(),
            [9; 16],
            "not in the fleet",
        ),
        (
            WishVerb::Restore,
            *segment_id(1).as_bytes(),
            [0; 16],
            "no replacement",
        ),
        (
            WishVerb::Forget,
            *fleet_node(1).as_bytes(),
            [0; 16],
            "holds segment",
        ),
        (WishVerb::Forget, [9; 16], [0; 16], "not in the fleet"),
        (
            WishVerb::Add,
            *fleet_node(7).as_bytes(),
            [0; 16],
            "nobody said where",
        ),
    ];
    for (verb, subject, object, reason) in cases {
        let wish = cluster.wish(verb, subject, object);
        let report = cluster.report(wish);
        assert_eq!(report.state, WishState::Refused, "{verb:?}");
        assert!(report.text.contains(reason), "{verb:?}: {}", report.text);
        let refusals = cluster.core.stats().membership.refusals;
        assert_eq!(refusals.last(), Some(&report.text));
    }
    // Nothing was changed by that, and the node may be used again.
    assert_eq!(cluster.segments.len(), 6);
    assert!(is_idle(&cluster));
}

#[test]
fn a_node_is_added_drained_and_forgotten() {
    let mut cluster = Cluster::of_fleet(6, 2);
    cluster.under_load(20, |_| false);
    cluster.left_hints.push(hint(7));
    let add = cluster.wish(WishVerb::Add, *fleet_node(7).as_bytes(), [0; 16]);
    assert!(cluster.under_load(10, |cluster| cluster.state(add) == WishState::Done));
    assert!(cluster.fleet.contains(&hint(7)));
    let drain = cluster.wish(WishVerb::Drain, *fleet_node(1).as_bytes(), [0; 16]);
    assert_eq!(cluster.report(drain).of, 2);
    for _ in 0..STEPS {
        if cluster.under_load(2, |cluster| cluster.state(drain) == WishState::Done) {
            break;
        }
        cluster.heal();
    }
    assert_eq!(cluster.report(drain).done, 2);
    let nodes = |cluster: &Cluster| {
        let relations = cluster.core.stats().relations;
        relations
            .iter()
            .map(|relation| relation.node)
            .collect::<Vec<_>>()
    };
    assert!(!nodes(&cluster).contains(&fleet_node(1)));
    assert_eq!(
        nodes(&cluster)
            .iter()
            .filter(|node| **node == fleet_node(7))
            .count(),
        2
    );
    // It gets nothing back, and goes.
    let back = cluster.wish(WishVerb::Drain, *fleet_node(7).as_bytes(), [0; 16]);
    assert!(cluster.report(back).text.contains("no spare node"));
    let forget = cluster.wish(WishVerb::Forget, *fleet_node(1).as_bytes(), [0; 16]);
    assert!(cluster.under_load(10, |cluster| cluster.state(forget) == WishState::Done));
    assert!(!cluster.fleet.contains(&hint(1)));
    assert_readable(&mut cluster);
}

fn repairing() -> WriterBounds {
    WriterBounds {
        members: MemberBounds {
            repair_after: Some(Duration::from_secs(2)),
            ..MemberBounds::default()
        },
        ..bounds()
    }
}

#[test]
fn a_silent_segment_is_replaced_after_the_patience_and_not_before() {
    let mut cluster = Cluster::of_fleet_with(repairing(), 9, 2);
    cluster.under_load(20, |_| false);
    cluster.dead_nodes.insert(fleet_node(4));
    cluster.kill(4);
    cluster.kill(10);
    // 1.5 s.
    assert!(!cluster.under_load(60, |cluster| !is_idle(cluster)));
    assert!(cluster.under_load(80, |cluster| is_joining(cluster, segment_id(4))));
    cluster.heal();
    assert!(cluster.under_load(STEPS, is_idle));
    assert!(!members(&cluster).contains(&segment_id(4)));
    assert!(!members(&cluster).contains(&segment_id(10)));
    assert_eq!(cluster.segments[12].node, fleet_node(7));
    assert_eq!(cluster.segments[13].node, fleet_node(7));
    // One that is back in time is left alone.
    cluster.kill(2);
    assert!(!cluster.under_load(40, |cluster| !is_idle(cluster)));
    cluster.segments[2].down = false;
    assert!(!cluster.under_load(200, |cluster| !is_idle(cluster)));
}

#[test]
fn a_process_that_stood_still_replaces_nobody() {
    let mut cluster = Cluster::of_fleet_with(repairing(), 9, 1);
    cluster.under_load(20, |_| false);
    cluster.now += Duration::from_secs(3_600);
    cluster.under_load(80, |_| false);
    assert_eq!(cluster.segments.len(), 6);
    assert!(is_idle(&cluster));
}

#[test]
fn a_joining_segment_that_dies_is_taken_back_and_another_node_is_tried() {
    let mut cluster = Cluster::of_fleet_with(repairing(), 12, 1);
    cluster.under_load(20, |_| false);
    let out = segment_id(5);
    cluster.dead_nodes.insert(fleet_node(5));
    cluster.kill(5);
    assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, out)));
    let first = into(&cluster, out);
    let index = cluster.index_of(first);
    let node = cluster.segments[index].node;
    cluster.dead_nodes.insert(node);
    cluster.kill(index);
    let again = |cluster: &Cluster| is_joining(cluster, out) && into(cluster, out) != first;
    assert!(cluster.under_load(STEPS, again));
    cluster.heal();
    assert!(cluster.under_load(STEPS, is_idle));
    assert!(!members(&cluster).contains(&out) && !members(&cluster).contains(&first));
}

#[test]
fn without_a_spare_node_nothing_is_begun_and_status_says_why() {
    let mut cluster = Cluster::of_fleet_with(repairing(), 6, 1);
    cluster.dead_nodes.insert(fleet_node(4));
    cluster.kill(4);
    cluster.under_load(200, |_| false);
    assert!(is_idle(&cluster));
    let refusals = cluster.core.stats().membership.refusals;
    assert!(
        refusals.last().unwrap().contains("no spare node"),
        "{refusals:?}"
    );
}

/// The writer dies after so many actions of a change; its successor goes on, and nothing that was answered is missing.
#[test]
fn a_successor_goes_on_wherever_the_writer_died() {
    let out = segment_id(5);
    let mut taken_up = 0;
    for steps in 0..60 {
        let mut cluster = Cluster::of_fleet(9, 1);
        cluster.under_load(10, |_| false);
        cluster.submit_wish(WishVerb::Replace, *out.as_bytes());
        let mut written = Vec::new();
        for step in 0..steps {
            if step % 8 == 0 {
                written.push(cluster.submit(put(&format!("key {step:02}"), "x")));
            }
            if step == 40 {
                cluster.heal();
            }
            if step % 5 == 4 {
                cluster.now += Duration::from_millis(25);
                cluster.timeout();
            }
            cluster.step();
        }
        let answered: Vec<usize> = written
            .iter()
            .enumerate()
            .filter(|(_, ticket)| matches!(cluster.answer(**ticket), Some(Ok(_))))
            .map(|(number, _)| number)
            .collect();
        let lsn = cluster.core.shared().vdl();
        cluster.check_held(lsn);
        cluster.take_over();
        let stats = cluster.core.stats().membership;
        taken_up += usize::from(!stats.replacements.is_empty());
        let is_member = members(&cluster).contains(&out);
        if stats.replacements.is_empty() && is_member {
            // It was not found: it is wanted again.
            cluster.replace(out);
        }
        if !cluster.under_load(STEPS, |cluster| {
            is_idle(cluster) || is_joining(cluster, out)
        }) {
            panic!("after {steps} steps: {:?}", cluster.core.stats().membership);
        }
        cluster.heal();
        assert!(cluster.under_load(STEPS, is_idle), "after {steps} steps");
        assert!(!members(&cluster).contains(&out), "after {steps} steps");
        for number in answered {
            let key = format!("key {:02}", number * 8);
            assert_eq!(
                cluster.get(&key).as_deref(),
                Some("x"),
                "after {steps} steps"
            );
        }
    }
    assert!(taken_up > 0, "no successor found a change under way");
}

#[test]
fn a_successor_takes_back_what_it_found_when_that_is_wanted() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.under_load(20, |_| false);
    let out = segment_id(5);
    cluster.replace(out);
    assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, out)));
    let new = into(&cluster, out);
    cluster.take_over();
    assert!(is_joining(&cluster, out) && into(&cluster, out) == new);
    let restore = cluster.wish(WishVerb::Restore, *new.as_bytes(), [0; 16]);
    assert!(cluster.under_load(STEPS, is_idle));
    assert_eq!(cluster.state(restore), WishState::Done);
    assert!(members(&cluster).contains(&out) && !members(&cluster).contains(&new));
}

#[test]
fn a_segment_that_a_dead_writer_made_gives_its_place_up() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.under_load(20, |_| false);
    let out = segment_id(5);
    cluster.submit_wish(WishVerb::Replace, *out.as_bytes());
    // Up to the creation and not further.
    while cluster.segments.len() < 7 {
        cluster.step();
    }
    cluster.take_over();
    assert!(is_idle(&cluster));
    cluster.replace(out);
    assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, out)));
    assert!(cluster.segments[6].dropped);
    assert_eq!(cluster.segments[7].node, fleet_node(8));
}

#[test]
fn every_group_of_a_node_moves_and_the_root_is_one_of_them() {
    let mut cluster = Cluster::of_fleet(9, 4);
    cluster.under_load(20, |_| false);
    let drain = cluster.wish(WishVerb::Drain, *fleet_node(0).as_bytes(), [0; 16]);
    let mut most = 0;
    for _ in 0..STEPS {
        most = most.max(cluster.core.stats().membership.replacements.len());
        if cluster.under_load(2, |cluster| cluster.state(drain) == WishState::Done) {
            break;
        }
        cluster.heal();
    }
    assert_eq!(cluster.state(drain), WishState::Done);
    assert!((1..=4).contains(&most), "{most} at once");
    let manifest = cluster.newest_manifest();
    for entry in &manifest.pgs {
        let nodes: Vec<_> = entry.members().iter().map(|member| member.node).collect();
        assert!(!nodes.contains(&fleet_node(0)));
        assert_eq!(nodes.len(), 6);
    }
    assert_readable(&mut cluster);
}

#[test]
fn heartbeats_and_batches_name_the_newest_manifest() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.replace(segment_id(5));
    cluster.under_load(10, |_| false);
    let version = cluster.core.stats().membership.version;
    let last = cluster.segments[0].appends.last().unwrap();
    assert_eq!(last.membership_epoch, version.membership_epoch);
    let manifest = cluster.newest_manifest();
    assert_eq!(manifest.version, version);
    assert_eq!(
        manifest
            .pgs
            .iter()
            .map(PgEntry::members)
            .map(|all| all.len())
            .sum::<usize>(),
        7
    );
}

#[test]
fn an_idle_writer_says_where_the_fleet_is_once() {
    let opened = opened_with_fleet(9, 1);
    let now = Duration::from_secs(1_000);
    let mut core = sixfold_compute_core::WriterCore::new(opened, bounds(), now, 0);
    let mut fleets = 0;
    while let Some(action) = core.poll_action() {
        fleets += usize::from(matches!(action, WriterAction::Fleet { hints } if hints.len() == 9));
    }
    assert_eq!(fleets, 1);
}

#[test]
fn a_node_that_is_to_be_forgotten_gets_no_segment_meanwhile() {
    let mut cluster = Cluster::of_fleet(9, 1);
    // The edit waits behind a step that nobody hears of.
    cluster.each(|segment| segment.deaf = true);
    cluster.left_hints.push(hint(12));
    let add = cluster.wish(WishVerb::Add, *fleet_node(12).as_bytes(), [0; 16]);
    assert!(cluster.core.stats().membership.proposed.is_some());
    let forget = cluster.wish(WishVerb::Forget, *fleet_node(6).as_bytes(), [0; 16]);
    // Node 6 is the only spare one in the zone of segment 0.
    let by_choice = cluster.wish(WishVerb::Replace, *segment_id(0).as_bytes(), [0; 16]);
    let object = *fleet_node(6).as_bytes();
    let by_name = cluster.wish(WishVerb::Replace, *segment_id(1).as_bytes(), object);
    cluster.each(|segment| segment.deaf = false);
    let is_done = |cluster: &Cluster| {
        let mut reports = cluster.reports.iter();
        reports.any(|report| report.id == forget && report.state == WishState::Done)
    };
    assert!(cluster.under_load(40, is_done));
    for wish in [by_choice, by_name] {
        assert_eq!(cluster.state(wish), WishState::Refused);
    }
    assert_eq!(cluster.state(add), WishState::Done);
    cluster.under_load(40, |_| false);
    let manifest = cluster.newest_manifest();
    for member in manifest.pgs.iter().flat_map(PgEntry::members) {
        let mut hints = manifest.hints.iter();
        assert!(hints.any(|hint| hint.node == member.node), "{member:?}");
    }
}

#[test]
fn a_node_drops_what_it_holds_before_it_is_forgotten() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.under_load(20, |_| false);
    // Its segment was replaced and does not hear of it.
    cluster.segments[1].deaf = true;
    let drain = cluster.wish(WishVerb::Drain, *fleet_node(1).as_bytes(), [0; 16]);
    assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, segment_id(1))));
    cluster.heal();
    assert!(cluster.under_load(STEPS, |cluster| cluster.state(drain) == WishState::Done));
    // Nor does another one that an earlier writer made there in vain.
    cluster.take_over();
    let forget = cluster.wish(WishVerb::Forget, *fleet_node(1).as_bytes(), [0; 16]);
    let is_done = |cluster: &Cluster| {
        let mut reports = cluster.reports.iter();
        reports.any(|report| report.id == forget && report.state == WishState::Done)
    };
    assert!(!cluster.under_load(200, is_done));
    assert!(!cluster.segments[1].dropped);
    cluster.segments[1].deaf = false;
    assert!(cluster.under_load(400, |cluster| is_done(cluster)
        || cluster.segments[1].dropped));
    assert!(cluster.segments[1].dropped, "forgotten with what it holds");
    assert!(cluster.under_load(40, is_done));
    assert!(!cluster.fleet.contains(&hint(1)));
}

/// It may be gone for good: that is what most nodes are forgotten for.
#[test]
fn a_node_that_does_not_answer_is_forgotten_after_a_while() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.dead_nodes.insert(fleet_node(7));
    let forget = cluster.wish(WishVerb::Forget, *fleet_node(7).as_bytes(), [0; 16]);
    let is_done = |cluster: &Cluster| {
        let mut reports = cluster.reports.iter();
        reports.any(|report| report.id == forget && report.state == WishState::Done)
    };
    assert!(!cluster.under_load(200, is_done));
    assert!(cluster.under_load(400, is_done));
}

/// The set keeps its write quorum, so that the lost one stays in it until a step takes it out: it never becomes whole.
#[test]
fn a_joining_segment_that_is_declared_lost_is_taken_back() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.under_load(20, |_| false);
    let out = segment_id(5);
    cluster.replace(out);
    assert!(cluster.under_load(STEPS, |cluster| is_joining(cluster, out)));
    let new = into(&cluster, out);
    cluster.declare_lost(&[new]);
    assert!(cluster.under_load(STEPS, is_idle));
    assert!(members(&cluster).contains(&out) && !members(&cluster).contains(&new));
    assert_eq!(cluster.core.stats().membership.sets, [(PgId::ROOT, 1)]);
}
