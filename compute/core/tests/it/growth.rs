//! Volumes that grow by a protection group while they serve (R10).

use std::time::Duration;

use sixfold_compute_core::{MemberBounds, WriterBounds};
use sixfold_log_format::wire::{WishState, WishVerb};
use sixfold_log_format::{PageId, PgId};

use crate::cluster::fleet::{fleet_node, grown_to, names};
use crate::cluster::{Cluster, bounds, put};

const STEPS: usize = 400;

fn groups(cluster: &Cluster) -> usize {
    cluster.core.stats().membership.sets.len()
}

/// Puts keys until one commit fails, or so many were put.
fn fill(cluster: &mut Cluster, from: usize, count: usize) -> usize {
    for number in from..from + count {
        let value = "a value of some length, so that pages fill up".to_owned();
        if cluster
            .commit(put(&format!("key {number:05}"), &value))
            .is_err()
        {
            return number;
        }
        if number % 16 == 0 {
            cluster.pass_ms(25);
        }
    }
    from + count
}

fn growing() -> WriterBounds {
    WriterBounds {
        members: MemberBounds {
            repair_after: None,
            grow_below_free_pages: Some(24),
            pgs_max: 4,
            ..MemberBounds::default()
        },
        ..bounds()
    }
}

/// No group holds a record of a page that is not its own, and none before the manifest names it.
fn check_groups(cluster: &Cluster) {
    for index in 0..cluster.segments.len() {
        let Some(pg) = cluster.pg_of(index) else {
            continue;
        };
        for batch in cluster.segments[index].batches.values() {
            for placed in batch.records() {
                assert_eq!(placed.record.page.get() / 64, u64::from(pg.get()));
            }
        }
    }
}

#[test]
fn a_volume_grows_by_wish_and_takes_more_than_it_had_room_for() {
    let mut cluster = Cluster::of_fleet(6, 1);
    let full = fill(&mut cluster, 0, 10_000);
    assert!(full < 1_000);
    let wish = cluster.wish(WishVerb::Grow, [0; 16], [0; 16]);
    for _ in 0..STEPS {
        if cluster.state(wish) == WishState::Done {
            break;
        }
        cluster.pass_ms(25);
    }
    assert_eq!(cluster.state(wish), WishState::Done);
    assert_eq!(groups(&cluster), 2);
    let end = fill(&mut cluster, full, full / 2);
    assert_eq!(end, full + full / 2);
    assert!(!cluster.segments[6].batches.is_empty());
    check_groups(&cluster);
    for number in (0..end).step_by(7) {
        assert!(cluster.get(&format!("key {number:05}")).is_some());
    }
}

#[test]
fn a_volume_grows_by_itself_and_no_commit_fails() {
    let mut cluster = Cluster::of_fleet_with(growing(), 6, 1);
    assert_eq!(fill(&mut cluster, 0, 600), 600);
    assert!(groups(&cluster) >= 2, "{}", groups(&cluster));
    check_groups(&cluster);
    // Until it has as many as it may.
    let full = fill(&mut cluster, 600, 10_000);
    assert!(full < 10_000);
    assert_eq!(groups(&cluster), 4);
}

#[test]
fn a_commit_that_finds_no_page_waits_for_the_group_that_is_coming() {
    let mut cluster = Cluster::of_fleet_with(growing(), 6, 1);
    // Nobody accepts the step.
    cluster.each(|segment| segment.deaf = true);
    let mut tickets = Vec::new();
    for number in 0..600 {
        let value = "a value of some length, so that pages fill up";
        tickets.push(cluster.submit(put(&format!("key {number:05}"), value)));
        cluster.run();
        cluster.pass_ms(1);
    }
    let waiting = tickets
        .iter()
        .filter(|ticket| cluster.answer(**ticket).is_none());
    assert!(waiting.count() > 0, "they all fitted");
    cluster.each(|segment| segment.deaf = false);
    cluster.pass_ms(3_000);
    for ticket in tickets {
        assert!(cluster.answer(ticket).unwrap().is_ok());
    }
    check_groups(&cluster);
}

/// What one commit needs may be more than there is, though more is free than makes the volume grow.
#[test]
fn a_commit_that_needs_more_pages_than_are_free_makes_the_volume_grow() {
    let mut bounds = growing();
    bounds.members.grow_below_free_pages = Some(1);
    let mut cluster = Cluster::of_fleet_with(bounds, 6, 1);
    fill(&mut cluster, 0, 150);
    assert_eq!(groups(&cluster), 1);
    let mut large = put("large", "x");
    for number in 0..100 {
        let value = put(&format!("large {number:03}"), &"v".repeat(200));
        large.writes.keys.extend(value.writes.keys);
    }
    large.deadline = cluster.now + Duration::from_secs(60);
    let ticket = cluster.submit(large);
    cluster.pass_ms(3_000);
    assert!(cluster.answer(ticket).unwrap().is_ok());
    assert!(groups(&cluster) >= 2);
    check_groups(&cluster);
}

/// A wish for four groups, of which one comes by itself, is done when there are four.
#[test]
fn a_wish_that_another_growth_overtakes_is_done() {
    let mut cluster = Cluster::of_fleet_with(growing(), 6, 1);
    // Nobody accepts the step of the one that comes by itself.
    cluster.each(|segment| segment.deaf = true);
    let mut number = 0;
    while !cluster.core.stats().membership.growing {
        number = fill(&mut cluster, number, 1);
        assert!(number < 2_000);
    }
    let mut object = [0; 16];
    object[0] = 4;
    let wish = cluster.wish(WishVerb::Grow, [0; 16], object);
    cluster.each(|segment| segment.deaf = false);
    for _ in 0..STEPS {
        cluster.pass_ms(25);
    }
    assert_eq!(groups(&cluster), 4);
    assert_eq!(cluster.state(wish), WishState::Done);
}

#[test]
fn a_group_takes_no_record_before_the_roots_step_is_in_force() {
    let mut cluster = Cluster::of_fleet(6, 1);
    let full = fill(&mut cluster, 0, 10_000);
    // The new group's segments hear of it, three of the root do.
    (0..3).for_each(|index| cluster.segments[index].deaf = true);
    let wish = cluster.wish(WishVerb::Grow, [0; 16], [0; 16]);
    cluster.pass_ms(500);
    assert_eq!(cluster.segments.len(), 12);
    assert_eq!(groups(&cluster), 1);
    let value = "a value of some length, so that pages fill up";
    let ticket = cluster.submit(put(&format!("key {full:05}"), value));
    cluster.pass_ms(100);
    assert_eq!(cluster.answer(ticket), None);
    assert!(
        cluster.segments[6..]
            .iter()
            .all(|segment| segment.batches.is_empty())
    );
    cluster.segments[0].deaf = false;
    cluster.pass_ms(2_000);
    assert_eq!(cluster.state(wish), WishState::Done);
    assert!(
        cluster.answer(ticket).unwrap().is_ok(),
        "it waited for pages"
    );
    assert_eq!(groups(&cluster), 2);
}

#[test]
fn a_successor_finds_the_group_or_does_not_and_goes_on_either_way() {
    let mut found = 0;
    for steps in 0..80 {
        let mut cluster = Cluster::of_fleet(6, 1);
        let full = fill(&mut cluster, 0, 150);
        cluster.submit_wish(WishVerb::Grow, [0; 16]);
        for _ in 0..steps {
            cluster.step();
        }
        let root = cluster.newest_manifest();
        cluster.take_over();
        assert_eq!(groups(&cluster), root.pgs.len(), "after {steps} steps");
        found += usize::from(groups(&cluster) == 2);
        if groups(&cluster) == 1 {
            let wish = cluster.wish(WishVerb::Grow, [0; 16], [0; 16]);
            for _ in 0..STEPS {
                if cluster.state(wish) != WishState::Working {
                    break;
                }
                cluster.pass_ms(25);
            }
            assert_eq!(cluster.state(wish), WishState::Done, "after {steps} steps");
        }
        let end = fill(&mut cluster, full, 250);
        assert_eq!(end, full + 250, "after {steps} steps");
        check_groups(&cluster);
        for number in (0..end).step_by(11) {
            assert!(cluster.get(&format!("key {number:05}")).is_some());
        }
    }
    assert!((1..80).contains(&found), "{found} of 80 found the group");
}

#[test]
fn a_group_is_placed_two_in_each_zone_and_another_node_is_tried_when_one_makes_nothing() {
    let mut cluster = Cluster::of_fleet(9, 1);
    cluster.dead_nodes.insert(fleet_node(6));
    let wish = cluster.wish(WishVerb::Grow, [0; 16], [0; 16]);
    for _ in 0..1_000 {
        if cluster.state(wish) != WishState::Working {
            break;
        }
        cluster.pass_ms(25);
    }
    assert_eq!(cluster.state(wish), WishState::Done);
    let manifest = cluster.newest_manifest();
    let entry = manifest.pg(PgId::new(1)).unwrap();
    let members = entry.members();
    for zone in 0..3 {
        let in_zone = |node| (0..9).any(|index| index % 3 == zone && fleet_node(index) == node);
        assert_eq!(
            members.iter().filter(|member| in_zone(member.node)).count(),
            2
        );
    }
    assert!(members.iter().all(|member| member.node != fleet_node(6)));
    // What was made in vain is dropped again.
    cluster.pass_ms(1_000);
    for segment in &cluster.segments {
        assert!(segment.dropped || names(&manifest, segment.id));
    }
}

#[test]
fn growth_is_refused_when_there_are_too_few_zones_or_too_many_groups() {
    let mut cluster = Cluster::of_fleet(5, 1);
    let wish = cluster.wish(WishVerb::Grow, [0; 16], [0; 16]);
    assert_eq!(cluster.state(wish), WishState::Refused);
    assert!(cluster.report(wish).text.contains("zones"));
    let mut cluster = Cluster::of_fleet_with(growing(), 6, 4);
    let wish = cluster.wish(WishVerb::Grow, [0; 16], [0; 16]);
    assert_eq!(cluster.state(wish), WishState::Refused);
    assert!(cluster.report(wish).text.contains("no more are allowed"));
}

#[test]
fn a_watcher_sees_what_is_committed_to_a_group_that_came_later() {
    use sixfold_compute_core::{LogAnswer, WatchRange, WatchStep, Watcher};
    let mut cluster = Cluster::of_fleet(6, 1);
    let full = fill(&mut cluster, 0, 10_000);
    let shared = cluster.core.shared();
    let from = shared.vdl();
    let range = WatchRange {
        start: crate::cluster::key("key"),
        end: None,
    };
    // One that follows the ring, and one that has to read the log.
    let mut watcher = Watcher::new(shared.watch().clone(), range, from, shared.vdl()).unwrap();
    let _seat = shared.watch().sit();
    cluster.wish(WishVerb::Grow, [0; 16], [0; 16]);
    for _ in 0..STEPS {
        if groups(&cluster) == 2 {
            break;
        }
        cluster.pass_ms(25);
    }
    cluster.pass_ms(100);
    let end = fill(&mut cluster, full, 100);
    assert_eq!(end, full + 100);
    assert!(!cluster.segments[6].batches.is_empty());
    let mut seen = 0;
    for _ in 0..10_000 {
        match watcher.step(shared.vdl()).unwrap() {
            WatchStep::Commit(commit) => seen += commit.changes.len(),
            WatchStep::ReadLog(wants) => {
                for want in wants {
                    let ticket = cluster.want_log(want);
                    cluster.run();
                    let answer: LogAnswer = cluster.log_read(ticket).unwrap().unwrap();
                    watcher.supply(answer).unwrap();
                }
            }
            WatchStep::Again => {}
            WatchStep::Wait => break,
        }
    }
    assert_eq!(seen, 100);
    assert!(cluster.is_cached(PageId::META));
}

/// The writer dies before every node that holds the wish has its report: the next one is brought the wish again.
#[test]
fn a_growth_that_names_its_result_is_done_once_by_whichever_writer() {
    use sixfold_log_format::wire::Wish;
    let mut cluster = Cluster::of_fleet(6, 1);
    cluster.commit(put("a key", "x")).unwrap();
    let wish = Wish {
        id: [3; 16],
        volume: crate::cluster::VOLUME,
        verb: WishVerb::Grow,
        subject: [0; 16],
        object: grown_to(2),
    };
    for _ in 0..2 {
        cluster.wishes.push(wish.clone());
        assert!(cluster.under_load(STEPS, |cluster| cluster.wishes.is_empty()));
        assert_eq!(cluster.state([3; 16]), WishState::Done);
        assert_eq!(groups(&cluster), 2);
        cluster.reports.clear();
        cluster.take_over();
    }
    // More than one at a time, and one that comes while another one is on its way to the same end.
    let first = cluster.grow_to(4);
    let second = cluster.grow_to(3);
    let is_over = |cluster: &Cluster| {
        cluster.state(first) == WishState::Done && cluster.state(second) == WishState::Done
    };
    assert!(cluster.under_load(STEPS, is_over));
    assert_eq!(groups(&cluster), 4);
    assert_eq!(cluster.report(first).done, 2);
    let refused = cluster.grow_to(1 << 40);
    assert!(cluster.report(refused).text.contains("no more are allowed"));
}
