//! Planted bugs: a few of them in full, and what is told of all. CI runs these with `--features mutants`; `sixfold-sim mutants` plants
//! them all.

use std::collections::BTreeSet;

use sixfold_sim::minimize::minimize;
use sixfold_sim::mutants::{ALL, Mutant, SEEDS_MAX, chosen, plant, score};
use sixfold_sim::plan::Plan;
use sixfold_sim::run::run;

fn is_found(mutant: Mutant, seeds: u64) {
    let found = score(mutant, seeds, 2);
    assert!(found.is_some(), "{} is not found", mutant.name());
}

#[test]
fn an_ack_before_the_sync_is_found() {
    is_found(Mutant::AckBeforeSync, 20);
}

#[test]
fn a_write_quorum_of_three_is_found() {
    is_found(Mutant::WriteQuorumOfThree, 20);
}

#[test]
fn an_ignored_read_lease_is_found() {
    is_found(Mutant::LeaseIgnored, 60);
}

#[test]
fn a_cached_page_beyond_its_interval_is_found() {
    is_found(Mutant::CachedWithoutInterval, 20);
}

#[test]
fn a_log_cut_at_damage_in_its_middle_is_found() {
    is_found(Mutant::DamageCutAsTorn, 60);
}

#[test]
fn a_bug_that_no_seed_may_look_for_is_missed() {
    assert_eq!(score(Mutant::AckBeforeSync, 0, 2), None);
}

#[test]
fn the_parts_together_are_all_bugs_each_once() {
    let mut named = BTreeSet::new();
    for part in 0..8 {
        for mutant in chosen(&[], Some(&format!("{part}/8"))).unwrap() {
            assert!(named.insert(mutant.name()), "{} twice", mutant.name());
        }
    }
    assert!(named.len() >= 68);
    let all: BTreeSet<&str> = ALL.iter().map(|(_, name)| *name).collect();
    assert_eq!(named, all);
    assert!(chosen(&["no-such-bug".to_owned()], None).is_err());
    assert!(chosen(&[], Some("8/8")).is_err());
}

#[test]
fn a_failing_run_is_cut_down_in_faults_and_in_work() {
    let (tried, _) = score(Mutant::WriteQuorumOfThree, SEEDS_MAX, 2).unwrap();
    plant(Some(Mutant::WriteQuorumOfThree));
    let plan = Plan::draw(tried - 1);
    let small = minimize(&plan, 120);
    assert!(run(&small, false).failure.is_some());
    assert!(small.faults.len() + small.failovers.len() <= plan.faults.len() + plan.failovers.len());
    // Without the bug both run to their ends.
    plant(None);
    let (whole, cut) = (run(&plan, false), run(&small, false));
    assert_eq!((whole.failure, cut.failure), (None, None));
    assert!(cut.transactions < whole.transactions / 2);
}
