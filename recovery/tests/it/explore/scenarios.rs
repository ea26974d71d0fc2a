//! The scenarios, with their bounds.

use sixfold_log_format::mutant::Mutant;

use super::{Bounds, Scenario, Tally, Task, Weak, World, explore, finds};
use crate::cluster::take_over;

type Outcome = Result<(), String>;

const ALL: u32 = u32::MAX;
/// Everybody but two of the first six hosts.
const fn without(one: u32, other: u32) -> u32 {
    ALL & !(1 << one) & !(1 << other)
}
/// These and nobody else.
fn only(hosts: &[u32]) -> u32 {
    hosts.iter().map(|host| 1 << host).sum()
}
/// Whom an actor reaches: pairs left out in all the ways in which they can meet the first few segments.
const FEW: [u32; 3] = [without(0, 1), without(1, 2), without(4, 5)];
const SOME: [u32; 6] = [
    without(4, 5),
    without(0, 5),
    without(0, 1),
    without(1, 2),
    without(2, 3),
    without(1, 5),
];

fn long() -> bool {
    std::env::var_os("SIXFOLD_EXPLORE_LONG").is_some()
}

/// The first writer opens, writes one commit that everybody has, and dies; a second one opens, reaches only these from then on, and
/// dies at any message of its tasks.
fn first(world: &mut World, reach: u32, tasks: &[Task]) -> Result<usize, String> {
    let who = world.start(take_over(1), ALL, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
    world.kill(who);
    let who = world.start(take_over(2), ALL, &[]);
    world.run()?;
    world.set_mortal(who, true);
    world.give(who, reach, tasks)?;
    world.run()?;
    Ok(who)
}

/// A writer with two commits under way dies at any message; a candidate that reaches four dies at any message or writes; another
/// one that reaches four others reopens and writes.
fn two_deaths(world: &mut World) -> Outcome {
    let w = first(world, ALL, &[Task::Write(&[0]), Task::Write(&[0])])?;
    world.kill(w);
    let reach = world.pick(&SOME);
    let x = world.start_mortal(take_over(3), reach, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
    world.opens(x)?;
    world.kill(x);
    let reach = world.pick(if long() { &SOME[..] } else { &FEW[..] });
    let y = world.start(take_over(4), reach, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
    world.opens(y)?;
    world.kill(y);
    Ok(())
}

/// The same over two groups, with transactions that span them.
fn two_groups(world: &mut World) -> Outcome {
    let w = first(world, ALL, &[Task::Write(&[0, 1]), Task::Write(&[1, 0])])?;
    world.kill(w);
    let reach = world.pick(&FEW);
    let x = world.start_mortal(take_over(3), reach, &[Task::Write(&[1, 0]), Task::Answered]);
    world.run()?;
    world.opens(x)?;
    world.kill(x);
    let reach = world.pick(&FEW);
    let y = world.start(take_over(4), reach, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
    world.opens(y)?;
    world.kill(y);
    Ok(())
}

/// Two commits of a writer that nobody answered reach a few segments each, in all ways to have a gap; then reopenings.
fn gaps(world: &mut World) -> Outcome {
    const HOLDERS: [&[u32]; 5] = [&[], &[0], &[4], &[4, 5], &[0, 2, 4]];
    let w = first(world, ALL, &[])?;
    world.set_mortal(w, false);
    for _ in 0..2 {
        let holders = world.pick(&HOLDERS);
        world.give(w, only(holders), &[Task::Write(&[0])])?;
        world.run()?;
    }
    world.kill(w);
    let reach = world.pick(&FEW);
    let x = world.start_mortal(take_over(3), reach, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
    world.opens(x)?;
    world.kill(x);
    Ok(())
}

/// Two candidates at once.
fn race(world: &mut World) -> Outcome {
    let w = first(world, ALL, &[Task::Write(&[0])])?;
    world.kill(w);
    let (one, other) = world.pick(
        &[
            (without(4, 5), without(0, 1)),
            (without(4, 5), without(4, 5)),
            (without(0, 1), without(2, 3)),
        ][..if long() { 3 } else { 2 }],
    );
    let x = world.start_mortal(take_over(3), one, &[Task::Write(&[0])]);
    let reach = other;
    let y = world.start_mortal(take_over(4), reach, &[Task::Write(&[0])]);
    world.run()?;
    world.kill(x);
    world.kill(y);
    Ok(())
}

/// A writer is alive while another one takes over: appends and acks are late.
fn take_over_alive(world: &mut World) -> Outcome {
    let _alive = first(world, ALL, &[Task::Write(&[0]), Task::Write(&[0])])?;
    let reach = world.pick(&FEW);
    let x = world.start_mortal(take_over(3), reach, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
    world.opens(x)?;
    world.kill(x);
    Ok(())
}

const REPLACE: [Task; 5] = [
    Task::Write(&[0]),
    Task::Begin {
        pg: 0,
        out: 5,
        into: 12,
    },
    Task::Write(&[0]),
    Task::Finish {
        pg: 0,
        out: 5,
        into: 12,
    },
    Task::Write(&[0]),
];

/// A writer replaces a member of the root and dies at any message; the next one goes on with it.
fn replace(world: &mut World) -> Outcome {
    let w = first(world, ALL, &REPLACE)?;
    world.kill(w);
    let reach = world.pick(if long() { &SOME[..] } else { &FEW[..] });
    let x = world.start_mortal(
        take_over(3),
        reach,
        &[Task::Write(&[0]), Task::Resume, Task::Write(&[0])],
    );
    world.run()?;
    world.opens(x)?;
    world.kill(x);
    let reach = world.pick(if long() { &SOME[..] } else { &FEW[..] });
    let y = world.start(take_over(4), reach, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
    world.opens(y)?;
    world.kill(y);
    Ok(())
}

/// The same by a writer that is alive while another one takes over: any message is late.
fn replace_late(world: &mut World) -> Outcome {
    let _alive = first(world, ALL, &REPLACE)?;
    let reach = world.pick(if long() { &FEW[..] } else { &FEW[..1] });
    let x = world.start_mortal(
        take_over(3),
        reach,
        &[Task::Write(&[0]), Task::Resume, Task::Write(&[0])],
    );
    world.run()?;
    world.opens(x)?;
    world.kill(x);
    Ok(())
}

/// A member of the second group is replaced, and it is taken back; messages are late.
fn take_back(world: &mut World) -> Outcome {
    let tasks = [
        Task::Write(&[1]),
        Task::Begin {
            pg: 1,
            out: 11,
            into: 12,
        },
        Task::Write(&[0, 1]),
        Task::Back {
            pg: 1,
            out: 11,
            into: 12,
        },
        Task::Write(&[1]),
    ];
    let w = first(world, ALL, &tasks)?;
    world.kill(w);
    let reach = world.pick(&FEW);
    let x = world.start(
        take_over(3),
        reach,
        &[Task::Write(&[1]), Task::Resume, Task::Write(&[0])],
    );
    world.run()?;
    world.opens(x)?;
    world.kill(x);
    Ok(())
}

/// Two members of one group at once, with and without writes in between.
fn replace_two(world: &mut World) -> Outcome {
    const BEGIN: [Task; 2] = [
        Task::Begin {
            pg: 0,
            out: 5,
            into: 12,
        },
        Task::Begin {
            pg: 0,
            out: 4,
            into: 13,
        },
    ];
    const FINISH: [Task; 2] = [
        Task::Finish {
            pg: 0,
            out: 5,
            into: 12,
        },
        Task::Finish {
            pg: 0,
            out: 4,
            into: 13,
        },
    ];
    const WRITE: [Task; 2] = [Task::Write(&[0]), Task::Answered];
    let (before, between, after) = world.pick(&[(2, 0, 0), (2, 1, 1), (0, 0, 2)]);
    let tasks = [
        &WRITE[..before],
        &BEGIN,
        &WRITE[..between],
        &FINISH,
        &WRITE[..after],
    ]
    .concat();
    let reach = world.pick(&[ALL, without(2, 3), only(&[0, 1, 6, 7])]);
    let w = first(world, reach, &tasks)?;
    world.kill(w);
    let reach = world.pick(&[
        without(0, 1),
        without(2, 3),
        without(6, 7),
        only(&[2, 3, 4, 5]),
    ]);
    let x = world.start(
        take_over(3),
        reach,
        &[Task::Write(&[0]), Task::Resume, Task::Write(&[0])],
    );
    world.run()?;
    world.kill(x);
    Ok(())
}

/// A group is appended, and takes its first record (R10).
fn grow(world: &mut World) -> Outcome {
    let tasks = [
        Task::Grow([12, 13, 14, 15, 16, 17]),
        Task::Write(&[1]),
        Task::Write(&[0, 1]),
        Task::Answered,
    ];
    let reach = world.pick(&[ALL, only(&[0, 6, 7, 8, 9, 10, 11])]);
    let w = first(world, reach, &tasks)?;
    world.kill(w);
    let reach = world.pick(&[
        without(0, 1),
        without(2, 3),
        without(4, 5),
        without(6, 7),
        without(0, 6),
    ]);
    let x = world.start_mortal(
        take_over(3),
        reach,
        &[Task::Write(&[1]), Task::Write(&[0]), Task::Answered],
    );
    world.run()?;
    world.opens(x)?;
    world.kill(x);
    Ok(())
}

fn scenario(
    name: &'static str,
    (groups, late, deaths): (u8, usize, usize),
    run: fn(&mut World) -> Outcome,
) -> Scenario {
    Scenario {
        name,
        bounds: Bounds {
            groups,
            late,
            deaths,
        },
        run,
    }
}

fn reopenings() -> Vec<Scenario> {
    let more = usize::from(long());
    vec![
        scenario("two groups", (2, 0, 1 + more), two_groups),
        scenario("two deaths", (1, 0, 2), two_deaths),
        scenario("gaps", (1, more, 1), gaps),
        scenario("a writer alive", (1, 1 + more, more), take_over_alive),
        scenario("a race", (1, 1 + more, more), race),
    ]
}

fn memberships() -> Vec<Scenario> {
    let more = usize::from(long());
    vec![
        scenario("a replacement", (1, 0, 1 + more), replace),
        scenario("taken back", (2, more, 1), take_back),
        scenario("growth", (1, more, 1 + more), grow),
        scenario("two replacements", (1, more, 1), replace_two),
        scenario("a replacement, late", (1, 1, more), replace_late),
    ]
}

fn explore_all(scenarios: &[Scenario]) -> Tally {
    let mut all = Tally::default();
    for scenario in scenarios {
        let tally = explore(scenario, None).unwrap();
        println!("{}: {tally:?}", scenario.name);
        all.add(tally);
    }
    println!("{all:?}");
    all
}

#[test]
fn no_reopening_within_the_bounds_loses_or_invents_anything() {
    let all = explore_all(&reopenings());
    assert!(all.runs > 14_000, "{all:?}");
    assert!(
        all.answered > 40_000 && all.died > 5_000 && all.late > 5_000,
        "{all:?}"
    );
}

#[test]
fn no_change_of_membership_within_the_bounds_loses_or_invents_anything() {
    let all = explore_all(&memberships());
    assert!(all.runs > 6_000, "{all:?}");
    assert!(all.steps_in_force > 10_000 && all.died > 1_500, "{all:?}");
}

/// The bug, and the scenario whose runs meet it.
const PLANTED: [(Mutant, &str); 10] = [
    (Mutant::HistoryMerged, "two groups"),
    (Mutant::RangeEndNoCpl, "two groups"),
    (Mutant::LowestHistory, "two groups"),
    (Mutant::LsnReuse, "two groups"),
    (Mutant::CutInsideAnMtr, "two groups"),
    (Mutant::CutPastAGap, "gaps"),
    (Mutant::OpenBeforeRefill, "two groups"),
    (Mutant::InstallOnOne, "two groups"),
    (Mutant::WriteQuorumOfThree, "a writer alive"),
    (Mutant::StaleEpochAccepted, "a race"),
];

#[test]
fn planted_bugs_of_histories_and_quorums_are_found() {
    for (mutant, name) in PLANTED {
        let mut scenarios = reopenings();
        scenarios.retain(|scenario| scenario.name == name);
        let found = finds(mutant, &scenarios);
        println!("{}: {found:?}", mutant.name());
        assert!(found.is_some(), "{} in {name}", mutant.name());
    }
}

#[test]
fn weakened_rules_of_membership_are_found() {
    for (weak, name) in [
        (Weak::Completeness, "two replacements"),
        (Weak::InForceAtOnce, "two replacements"),
        (Weak::GrowthUnforced, "growth"),
    ] {
        let scenarios = memberships();
        let scenario = scenarios.iter().find(|scenario| scenario.name == name);
        let found = explore(scenario.unwrap(), Some(weak)).err();
        println!("{weak:?}: {found:?}");
        assert!(found.is_some(), "{weak:?} in {name}");
    }
}
