//! A few planted bugs; `sixfold-sim mutants` plants them all.

use sixfold_sim::mutants::{Mutant, score};

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
