//! A standby's watch, in virtual time: when it calls the writer gone, and when it does not.

use std::time::Duration;

use sixfold_log_format::wire::{Message, ProbeAnswer, SegmentProbe};
use sixfold_log_format::{Lsn, NodeId, PgId};
use sixfold_recovery::machine::follow::{Follow, FollowAction, FollowOptions};
use sixfold_recovery::machine::{RecoveryEvent, RequestKey};

use crate::common::{epoch, manifest, ms, node, segment, volume};

fn options() -> FollowOptions {
    FollowOptions {
        volume: volume(),
        nodes: (0..6).map(node).collect(),
        patience: ms(1_000),
        poll: ms(200),
        hold_down: ms(400),
        hold_down_max: ms(10_000),
        seed: 3,
    }
}

/// Six nodes that say since when they have not heard the writer.
struct World {
    now: Duration,
    follow: Follow,
    /// When each node heard the writer last; `None` = never since its start.
    heard: [Option<Duration>; 6],
    up: [bool; 6],
    asked: Vec<(Duration, usize)>,
    gone: Vec<(Duration, Duration)>,
}

impl World {
    fn new() -> World {
        let now = ms(10_000);
        World {
            now,
            follow: Follow::new(options(), now),
            heard: [Some(now); 6],
            up: [true; 6],
            asked: Vec::new(),
            gone: Vec::new(),
        }
    }

    fn answer(&self, index: usize) -> Message {
        let heard = self.heard[index].map(|at| (self.now - at).as_millis() as u32);
        Message::ProbeAnswer(ProbeAnswer {
            manifest: Some(Box::new(manifest())),
            segments: vec![SegmentProbe {
                segment: segment(index as u8),
                pg: PgId::ROOT,
                claim: epoch(2),
                history_epoch: epoch(2),
                scl: Lsn::NONE,
                vdl_seen: Lsn::NONE,
                writer_heard_ms_ago: heard,
            }],
        })
    }

    /// Runs until `until`; `each` is called each step, and says what the nodes heard.
    fn run(&mut self, until: Duration, mut each: impl FnMut(&mut World)) {
        let mut steps = 0;
        while self.now < until {
            steps += 1;
            assert!(steps < 100_000, "it asks without end");
            each(self);
            let mut sends: Vec<(RequestKey, NodeId)> = Vec::new();
            while let Some(action) = self.follow.poll_action() {
                match action {
                    FollowAction::Send { request, node, .. } => sends.push((request, node)),
                    FollowAction::Gone { silent } => self.gone.push((self.now, silent)),
                }
            }
            for (request, to) in sends {
                let index = (0..6).find(|&index| node(index) == to).unwrap() as usize;
                self.asked.push((self.now, index));
                self.now += Duration::from_micros(100);
                let event = if self.up[index] {
                    let message = self.answer(index);
                    RecoveryEvent::Answer { request, message }
                } else {
                    RecoveryEvent::Unreachable { request }
                };
                self.follow.handle(self.now, event);
            }
            let Some(due) = self.follow.poll_timeout() else {
                if let Some(FollowAction::Gone { silent }) = self.follow.poll_action() {
                    self.gone.push((self.now, silent));
                }
                return;
            };
            self.now = due.max(self.now).min(until);
            self.follow.handle(self.now, RecoveryEvent::Timeout);
        }
    }

    /// The writer is heard each 100 ms by these nodes.
    fn beats(&mut self, by: &[usize]) {
        for &index in by {
            let beat = self.now.as_millis() / 100 * 100;
            self.heard[index] = Some(ms(beat as u64));
        }
    }
}

#[test]
fn a_writer_that_is_heard_is_left_alone_for_ever() {
    let mut world = World::new();
    world.run(ms(600_000), |world| world.beats(&[0, 1, 2, 3, 4, 5]));
    assert_eq!(world.gone, []);
    // And the nodes are asked no more than they have to be.
    assert!(
        world.asked.len() <= 6 * (590_000 / 200 + 2),
        "{}",
        world.asked.len()
    );
}

#[test]
fn a_writer_that_a_write_quorum_hears_is_left_alone() {
    for deaf in [[0, 1], [2, 5]] {
        let mut world = World::new();
        let hears: Vec<usize> = (0..6).filter(|index| !deaf.contains(index)).collect();
        world.run(ms(60_000), |world| world.beats(&hears));
        assert_eq!(world.gone, []);
        // Nor is it called gone when only the deaf ones, and few others, answer the standby.
        for &index in &hears[1..] {
            world.up[index] = false;
        }
        world.run(ms(120_000), |world| world.beats(&hears));
        assert_eq!(world.gone, []);
    }
}

#[test]
fn a_silent_writer_is_gone_after_the_patience_and_hardly_later() {
    let mut world = World::new();
    world.run(ms(30_000), |world| world.beats(&[0, 1, 2, 3, 4, 5]));
    let last = world.heard[0].unwrap();
    world.run(ms(40_000), |_| {});
    let [(at, silent)] = world.gone[..] else {
        panic!("{:?}", world.gone)
    };
    assert!(silent >= ms(1_000) && silent < ms(1_020), "{silent:?}");
    assert!(
        at - last >= ms(1_000) && at - last < ms(1_020),
        "{:?}",
        at - last
    );
}

#[test]
fn three_nodes_are_enough_to_tell() {
    let mut world = World::new();
    world.up = [true, false, true, false, true, false];
    world.run(ms(30_000), |_| {});
    assert_eq!(world.gone.len(), 1);
    let mut world = World::new();
    world.up = [true, false, true, false, false, false];
    world.run(ms(30_000), |_| {});
    assert_eq!(world.gone, []);
}

#[test]
fn nodes_that_were_just_started_prove_nothing_yet() {
    let mut world = World::new();
    world.run(ms(30_000), |world| world.beats(&[0, 1, 2, 3, 4, 5]));
    world.heard = [None; 6];
    world.run(ms(30_900), |_| {});
    assert_eq!(world.gone, []);
    world.run(ms(32_000), |_| {});
    let [(at, _)] = world.gone[..] else {
        panic!("{:?}", world.gone)
    };
    assert!(at >= ms(31_000) && at < ms(31_300), "{at:?}");
}

#[test]
fn a_stop_of_the_standby_itself_proves_nothing() {
    let mut world = World::new();
    world.run(ms(30_000), |world| world.beats(&[0, 1, 2, 3, 4, 5]));
    // Nothing happens for it for ten seconds, while the writer goes on.
    world.now = ms(40_000);
    world.run(ms(60_000), |world| world.beats(&[0, 1, 2, 3, 4, 5]));
    assert_eq!(world.gone, []);
}

#[test]
fn a_lost_race_is_followed_by_longer_and_longer_pauses_and_calm_ends_them() {
    let mut world = World::new();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        world.run(world.now + ms(60_000), |_| {});
        let &(at, _) = world.gone.last().unwrap();
        world.follow.stand_back(at);
        pauses.push(world.follow.stands_back_until() - at);
    }
    assert!(pauses[0] >= ms(200) && pauses[0] <= ms(400), "{pauses:?}");
    assert!(
        pauses[7] >= ms(5_000) && pauses[7] <= ms(10_000),
        "{pauses:?}"
    );
    for pair in pauses[..5].windows(2) {
        assert!(pair[1] > pair[0], "{pauses:?}");
    }
    // Each attempt came after its pause.
    for (pair, pause) in world.gone.windows(2).zip(&pauses) {
        assert!(pair[1].0 - pair[0].0 >= *pause);
    }
    let calm = world.now + ms(100_000);
    world.run(calm, |world| world.beats(&[0, 1, 2, 3, 4, 5]));
    world.follow.stand_back(calm);
    assert!(world.follow.stands_back_until() - calm <= ms(400));
}

#[test]
fn two_standbys_draw_different_pauses() {
    let pause = |seed| {
        let mut follow = Follow::new(FollowOptions { seed, ..options() }, ms(1));
        follow.stand_back(ms(1));
        follow.stands_back_until()
    };
    assert_ne!(pause(1), pause(2));
    assert_eq!(pause(1), pause(1));
}

#[test]
fn nodes_that_are_gone_are_not_asked_in_a_storm() {
    let mut world = World::new();
    world.run(ms(30_000), |_| {});
    assert_eq!(world.gone.len(), 1);
    world.follow.stand_back(ms(30_000));
    world.up = [false; 6];
    let before = world.asked.len();
    world.run(ms(90_000), |_| {});
    assert!(
        world.asked.len() - before <= 6 * (60_000 / 200 + 60),
        "{}",
        world.asked.len()
    );
    assert_eq!(world.gone.len(), 1);
}
