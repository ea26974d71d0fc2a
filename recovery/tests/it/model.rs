//! The random explorer and the directed schedules: with all rules nothing goes wrong, and each rule is needed.

use crate::common::{history, lsn, range};
use crate::model_world::{Bad, Msg, Phase, Rec, Rule, World};

const STEPS: usize = 2_500;

fn explore(seed: u64, off: &[Rule]) -> (World, Option<Bad>) {
    let mut world = World::new(seed, off);
    for _ in 0..STEPS {
        if let Err(bad) = world.step() {
            return (world, Some(bad));
        }
    }
    (world, None)
}

/// The first violation among these many seeds.
fn first_violation(off: &[Rule], seeds: u64) -> Option<(u64, Bad)> {
    (0..seeds).find_map(|seed| explore(seed, off).1.map(|bad| (seed, bad)))
}

#[test]
fn with_all_rules_no_run_goes_wrong() {
    let (mut answered, mut opened) = (0, 0);
    for seed in 0..2_000 {
        let (world, bad) = explore(seed, &[]);
        assert_eq!(bad, None, "seed {seed}");
        answered += world.answered.len();
        opened += world.opened.len() - 1;
    }
    // A world in which nothing happens proves nothing.
    assert!(
        answered > 1_500 && opened > 1_500,
        "{answered} answers, {opened} reopenings"
    );
}

#[test]
fn without_r1_lsns_are_minted_twice() {
    let found = first_violation(&[Rule::RangeEndIsCpl], 500);
    assert!(found.is_some());
}

#[test]
fn without_r2_answered_commits_are_lost() {
    let found = first_violation(&[Rule::NoAckAfterClaim], 2_000);
    assert!(matches!(found, Some((_, Bad::Lost(_)))), "{found:?}");
}

#[test]
fn without_r3_annulled_records_are_served() {
    let found = first_violation(&[Rule::HistoryFirst], 2_000);
    assert!(found.is_some());
}

#[test]
fn taking_an_installed_range_for_a_vdl_loses_records() {
    let found = first_violation(&[Rule::FloorOnlyWhenOpen], 2_000);
    assert!(found.is_some());
}

/// R13 is the second line behind R1: alone it has nothing to do, and without both a copy is counted that is none.
#[test]
fn r13_has_nothing_to_do_while_r1_holds() {
    assert_eq!(first_violation(&[Rule::DuplicateIsIdentical], 500), None);
    assert!(first_violation(&[Rule::RangeEndIsCpl, Rule::DuplicateIsIdentical], 500).is_some());
}

/// Three records by the first writer: two answered ones everywhere, and one, not answered, at `holders`.
fn tail_at(holders: &[usize], off: &[Rule]) -> (World, [Rec; 3]) {
    let mut world = World::new(1, off);
    let records = [world.mint(0), world.mint(0), world.mint(0)];
    for rec in &records[..2] {
        world.answered.push((2, *rec));
    }
    for to in 0..6 {
        let held = if holders.contains(&to) {
            &records[..]
        } else {
            &records[..2]
        };
        for rec in held {
            world.segs[to].log.insert(rec.lsn, vec![*rec]);
        }
    }
    world.writers[0].dead = true;
    (world, records)
}

/// Sends a message, and delivers the answer.
fn exchange(world: &mut World, msg: Msg) -> Result<(), Bad> {
    let before = world.msgs.len();
    world.deliver(msg)?;
    if world.msgs.len() > before {
        let answer = world.msgs.pop().unwrap();
        world.deliver(answer)?;
    }
    Ok(())
}

fn claim(world: &mut World, e: u64, at: &[usize]) -> Result<usize, Bad> {
    let w = world.writer();
    world.claim_epoch(w, e);
    for &to in at {
        exchange(world, Msg::Claim { to, w, e })?;
    }
    assert_eq!(world.writers[w].phase, Phase::Install);
    Ok(w)
}

fn install(world: &mut World, w: usize, at: &[usize]) -> Result<(), Bad> {
    let e = world.writers[w].epoch;
    for &to in at {
        exchange(world, Msg::Install { to, w, e })?;
    }
    let view = world.writers[w].view.clone();
    for &to in at {
        for &rec in &view {
            if world.writers[w].phase == Phase::Refill {
                exchange(world, Msg::Refill { to, w, e, rec })?;
            }
        }
    }
    Ok(())
}

/// The schedule that random search does not find: an installer dies after one install, and the next candidate is cut off
/// from just that segment.
fn merge_schedule(off: &[Rule]) -> Result<(), Bad> {
    let (mut world, records) = tail_at(&[4], off);
    let x = claim(&mut world, 3, &[0, 1, 2, 3])?;
    install(&mut world, x, &[0])?;
    world.writers[x].dead = true;
    assert_eq!(
        world.segs[0].history,
        history(3, &[range(0, 3, 2), range(5, 8, 3)])
    );

    let y = claim(&mut world, 4, &[2, 3, 4, 5])?;
    install(&mut world, y, &[2, 3, 4, 5])?;
    assert_eq!(
        (world.writers[y].phase, &world.writers[y].view[..]),
        (Phase::Open, &records[..])
    );
    let rec = world.mint(y);
    for to in 2..6 {
        world.deliver(Msg::Batch {
            to,
            w: y,
            e: 4,
            rec,
        })?;
        world.complete(to);
        let ack = world.msgs.pop().unwrap();
        world.deliver(ack)?;
    }
    assert_eq!(world.answered.last(), Some(&(4, rec)));
    for (to, from) in (0..36)
        .map(|pair| (pair / 6, pair % 6))
        .filter(|(to, from)| to != from)
    {
        world.gossip(to, from);
    }
    for _ in 0..200 {
        world.read()?;
    }
    world.writers[y].dead = true;
    let z = claim(&mut world, 5, &[0, 1, 2, 3])?;
    // With the gap that merging leaves in the chain Z does not even open; what it saw is enough.
    match records
        .iter()
        .find(|rec| !world.writers[z].view.contains(rec))
    {
        Some(rec) => Err(Bad::Lost(format!(
            "Z does not see {rec:?}, which Y built upon"
        ))),
        None => install(&mut world, z, &[0, 1, 2, 3]),
    }
}

#[test]
fn merging_histories_loses_what_a_dead_candidate_annulled() {
    assert_eq!(merge_schedule(&[]), Ok(()));
    assert!(matches!(
        merge_schedule(&[Rule::HighestHistoryWhole]),
        Err(Bad::Lost(_))
    ));
}

/// R4: Y installed at segment 0 alone and died. Z counted the tail of 2 and 3; gossip brings Y's history there, between
/// Z's claim and Z's install.
fn early_history_schedule(off: &[Rule]) -> Result<(), Bad> {
    let (mut world, records) = tail_at(&[2, 3], off);
    let y = claim(&mut world, 3, &[0, 1, 4, 5])?;
    install(&mut world, y, &[0])?;
    world.writers[y].dead = true;

    let z = claim(&mut world, 4, &[2, 3, 4, 5])?;
    assert_eq!(world.writers[z].view, records);
    world.gossip(2, 0);
    world.gossip(3, 0);
    install(&mut world, z, &[4, 5, 2, 3])?;
    assert_eq!(world.writers[z].phase, Phase::Open);
    world.writers[z].dead = true;
    let last = claim(&mut world, 5, &[0, 1, 2, 3])?;
    install(&mut world, last, &[0, 1, 2, 3])
}

/// Three rules stand before this loss; it takes all of them away to meet it.
#[test]
fn r4_a_history_between_claim_and_install_unmakes_a_refill_that_counted_early() {
    let rules = [
        Rule::NoHistoryBelowClaim,
        Rule::AnnulledStaysStored,
        Rule::RefillCountsUnderHistory,
    ];
    assert_eq!(early_history_schedule(&[]), Ok(()));
    assert!(matches!(early_history_schedule(&rules), Err(Bad::Lost(_))));
    for kept in rules {
        let off: Vec<Rule> = rules.into_iter().filter(|&rule| rule != kept).collect();
        assert_eq!(early_history_schedule(&off), Ok(()), "{kept:?} alone holds");
    }
}

/// R13: a segment holds another record at the LSN. A copy that is none must not make the fourth ack.
#[test]
fn r13_a_record_that_differs_is_not_acknowledged() {
    for (off, answers) in [(&[][..], 0), (&[Rule::DuplicateIsIdentical][..], 1)] {
        let mut world = World::new(1, off);
        let rec = world.mint(0);
        let other = Rec { tag: 999, ..rec };
        world.segs[0].log.insert(rec.lsn, vec![other]);
        for to in 0..4 {
            world
                .deliver(Msg::Batch {
                    to,
                    w: 0,
                    e: 2,
                    rec,
                })
                .unwrap();
            world.complete(to);
        }
        while let Some(ack) = world.msgs.pop() {
            world.deliver(ack).unwrap();
        }
        assert_eq!(world.answered.len(), answers);
        assert!(
            world.segs[3].log[&rec.lsn].contains(&rec) && world.segs[3].scl() == lsn(rec.lsn).get()
        );
    }
}
