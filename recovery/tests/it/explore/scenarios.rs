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

/// The first writer of every scenario but the races: opens and writes one commit that everybody has.
fn first(world: &mut World, tasks: &[Task]) -> Result<usize, String> {
    let who = world.start(take_over(1), ALL, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
    world.kill(who);
    let who = world.start_mortal(take_over(2), ALL, tasks);
    world.run()?;
    Ok(who)
}

/// A writer with two commits under way dies at any message; a candidate that reaches four dies at any message or writes; another
/// one that reaches four others reopens and writes.
fn two_deaths(world: &mut World) -> Outcome {
    let w = first(world, &[Task::Write(&[0]), Task::Write(&[0])])?;
    world.kill(w);
    let reach = world.pick(&SOME);
    let x = world.start_mortal(take_over(3), reach, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
    world.kill(x);
    let reach = world.pick(if long() { &SOME[..] } else { &SOME[..4] });
    let y = world.start(take_over(4), reach, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
    world.kill(y);
    Ok(())
}

/// The same over two groups, with transactions that span them.
fn two_groups(world: &mut World) -> Outcome {
    let w = first(world, &[Task::Write(&[0, 1]), Task::Write(&[1, 0])])?;
    world.kill(w);
    let reach = world.pick(&FEW);
    let x = world.start_mortal(take_over(3), reach, &[Task::Write(&[1, 0]), Task::Answered]);
    world.run()?;
    world.kill(x);
    let reach = world.pick(&FEW);
    let y = world.start(take_over(4), reach, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
    world.kill(y);
    Ok(())
}

/// Two candidates at once.
fn race(world: &mut World) -> Outcome {
    let w = first(world, &[Task::Write(&[0])])?;
    world.kill(w);
    let reach = world.pick(&FEW);
    let x = world.start_mortal(take_over(3), reach, &[Task::Write(&[0])]);
    let reach = world.pick(&FEW);
    let y = world.start_mortal(take_over(4), reach, &[Task::Write(&[0])]);
    world.run()?;
    world.kill(x);
    world.kill(y);
    Ok(())
}

/// A writer is alive while another one takes over: appends and acks are late.
fn take_over_alive(world: &mut World) -> Outcome {
    let _alive = first(world, &[Task::Write(&[0]), Task::Write(&[0])])?;
    let reach = world.pick(&FEW);
    let x = world.start_mortal(take_over(3), reach, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
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
    let w = first(world, &REPLACE)?;
    world.kill(w);
    let reach = world.pick(&SOME);
    let x = world.start_mortal(
        take_over(3),
        reach,
        &[Task::Write(&[0]), Task::Resume, Task::Write(&[0])],
    );
    world.run()?;
    world.kill(x);
    let reach = world.pick(&SOME);
    let y = world.start(take_over(4), reach, &[Task::Write(&[0]), Task::Answered]);
    world.run()?;
    world.kill(y);
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
    let w = first(world, &tasks)?;
    world.kill(w);
    let reach = world.pick(&FEW);
    let x = world.start(
        take_over(3),
        reach,
        &[Task::Write(&[1]), Task::Resume, Task::Write(&[0])],
    );
    world.run()?;
    world.kill(x);
    Ok(())
}

/// Two members of one group at once.
fn replace_two(world: &mut World) -> Outcome {
    let tasks = [
        Task::Write(&[0]),
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
        Task::Write(&[0]),
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
        Task::Write(&[0]),
    ];
    let w = first(world, &tasks)?;
    world.kill(w);
    let reach = world.pick(&[without(0, 1), without(2, 3), without(6, 7), without(0, 6)]);
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
        Task::Write(&[0]),
        Task::Grow([12, 13, 14, 15, 16, 17]),
        Task::Write(&[1]),
        Task::Write(&[0, 1]),
        Task::Answered,
    ];
    let w = first(world, &tasks)?;
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
    world.kill(x);
    Ok(())
}

fn scenarios() -> Vec<Scenario> {
    let scenario = |name, groups, late, deaths, run| Scenario {
        name,
        bounds: Bounds {
            groups,
            late,
            deaths,
        },
        run,
    };
    let more = usize::from(long());
    vec![
        scenario("two deaths", 1, 0, 2, two_deaths),
        scenario("two groups", 2, 0, 1 + more, two_groups),
        scenario("a race", 1, 1 + more, more, race),
        scenario("a writer alive", 1, 1 + more, 1, take_over_alive),
        scenario("a replacement", 1, 0, 1 + more, replace),
        scenario("a replacement, late", 1, 1, more, replace),
        scenario("taken back", 2, more, 1, take_back),
        scenario("two replacements", 1, 1, more, replace_two),
        scenario("growth", 1, more, 2, grow),
    ]
}

#[test]
fn no_schedule_within_the_bounds_loses_or_invents_anything() {
    let mut all = Tally::default();
    for scenario in scenarios() {
        let tally = explore(&scenario, None).unwrap();
        println!("{}: {tally:?}", scenario.name);
        all.runs += tally.runs;
        all.answered += tally.answered;
        all.opened += tally.opened;
        all.died += tally.died;
        all.late += tally.late;
        all.steps_in_force += tally.steps_in_force;
    }
    println!("{all:?}");
}

#[test]
fn planted_bugs_of_histories_and_quorums_are_found() {
    for mutant in [
        Mutant::HistoryMerged,
        Mutant::RangeEndNoCpl,
        Mutant::LowestHistory,
        Mutant::LsnReuse,
        Mutant::CutPastAGap,
        Mutant::CutInsideAnMtr,
        Mutant::OpenBeforeRefill,
        Mutant::InstallOnOne,
        Mutant::WriteQuorumOfThree,
        Mutant::StaleEpochAccepted,
    ] {
        let found = finds(mutant, &scenarios());
        println!("{}: {found:?}", mutant.name());
        assert!(found.is_some(), "{}", mutant.name());
    }
}

#[test]
fn weakened_rules_of_membership_are_found() {
    for weak in [Weak::Completeness, Weak::Joint, Weak::GrowthUnforced] {
        let found = scenarios()
            .iter()
            .find_map(|scenario| explore(scenario, Some(weak)).err());
        println!("{weak:?}: {found:?}");
        assert!(found.is_some(), "{weak:?}");
    }
}
