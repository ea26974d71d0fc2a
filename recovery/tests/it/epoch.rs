//! Who is accepted and who is refused (R2, R3, R4, R8).

use sixfold_log_format::WriterId;
use sixfold_recovery::epoch::{EpochGuard, Stale};

use crate::common::{epoch, writer};

fn guard(claim: u64, by: u8, history: u64) -> EpochGuard {
    EpochGuard {
        claim: epoch(claim),
        writer: writer(by),
        history_epoch: epoch(history),
    }
}

#[test]
fn a_claim_must_be_higher_or_a_repeat() {
    let mut held = EpochGuard::creation();
    assert_eq!(
        held.claim(epoch(1), writer(1)),
        Err(Stale { claim: epoch(1) })
    );
    assert_eq!(
        held.claim(epoch(1), WriterId::NOBODY),
        Err(Stale { claim: epoch(1) })
    );
    assert_eq!(held.claim(epoch(2), writer(1)), Ok(()));
    assert_eq!(held.claim(epoch(2), writer(1)), Ok(()));
    assert_eq!(
        held.claim(epoch(2), writer(2)),
        Err(Stale { claim: epoch(2) })
    );
    assert_eq!(held.claim(epoch(5), writer(2)), Ok(()));
    assert_eq!(
        held.claim(epoch(4), writer(1)),
        Err(Stale { claim: epoch(5) })
    );
    assert_eq!(held, guard(5, 2, 1));
}

#[test]
fn after_a_higher_claim_the_old_writer_is_not_admitted() {
    let mut held = guard(4, 1, 4);
    assert_eq!(held.admit(epoch(4), writer(1)), Ok(()));
    held.claim(epoch(5), writer(2)).unwrap();
    assert_eq!(
        held.admit(epoch(4), writer(1)),
        Err(Stale { claim: epoch(5) })
    );
    // Nor is the new one, before its history is here (R3).
    assert!(held.admit(epoch(5), writer(2)).is_err());
    assert_eq!(held.install(epoch(5), writer(2)), Ok(true));
    assert_eq!(held.admit(epoch(5), writer(2)), Ok(()));
    assert_eq!(held.install(epoch(5), writer(2)), Ok(false));
}

#[test]
fn a_history_overrides_a_rivals_claim_to_the_same_epoch() {
    let mut held = guard(4, 1, 4);
    held.claim(epoch(5), writer(8)).unwrap();
    assert_eq!(held.install(epoch(5), writer(2)), Ok(true));
    assert_eq!(held, guard(5, 2, 5));
    assert_eq!(
        held.claim(epoch(5), writer(8)),
        Err(Stale { claim: epoch(5) })
    );
    assert_eq!(
        held.install(epoch(5), writer(8)),
        Err(Stale { claim: epoch(5) })
    );
    assert!(held.admit(epoch(5), writer(8)).is_err());
}

#[test]
fn a_history_below_the_claim_is_taken_from_nobody() {
    let mut held = guard(4, 1, 4);
    held.claim(epoch(7), writer(7)).unwrap();
    assert_eq!(
        held.install(epoch(6), writer(6)),
        Err(Stale { claim: epoch(7) })
    );
    assert!(!held.take_from_peer(epoch(6)));
    assert_eq!(held, guard(7, 7, 4));
    assert!(held.take_from_peer(epoch(7)));
    assert!(!held.take_from_peer(epoch(7)), "held already");
}

#[test]
fn a_history_from_a_peer_implies_the_claim_and_leaves_the_writer_to_show_itself() {
    let mut held = guard(4, 1, 4);
    held.claim(epoch(5), writer(8)).unwrap();
    assert!(held.take_from_peer(epoch(5)));
    assert_eq!(held, guard(5, 0, 5));
    assert!(
        held.admit(epoch(5), writer(8)).is_err(),
        "the rival does not own the history that a peer brought"
    );
    assert_eq!(
        held.claim(epoch(5), writer(8)),
        Err(Stale { claim: epoch(5) })
    );
    assert_eq!(held.install(epoch(5), writer(2)), Ok(false));
    assert_eq!(held.admit(epoch(5), writer(2)), Ok(()));
}

#[test]
fn nobody_writes_under_the_epoch_of_creation() {
    let mut held = EpochGuard::creation();
    assert!(held.admit(epoch(1), WriterId::NOBODY).is_err());
    assert!(held.install(epoch(1), WriterId::NOBODY).is_err());
    assert!(held.install(epoch(1), writer(1)).is_err());
    assert!(!held.take_from_peer(epoch(1)));
}

/// Every sequence of four steps by two writers: claim and history only rise, and nobody is admitted beside another.
#[test]
fn both_epochs_only_rise_and_one_writer_at_most_is_admitted() {
    let steps = 14_u32;
    for code in 0..steps.pow(4) {
        let mut held = EpochGuard::creation();
        for place in 0..4 {
            let step = code / steps.pow(place) % steps;
            let before = held;
            let (volume_epoch, by) = (
                epoch(u64::from(2 + step / 2 % 3)),
                writer(1 + (step % 2) as u8),
            );
            match step {
                0..=5 => drop(held.claim(volume_epoch, by)),
                6..=11 => drop(held.install(volume_epoch, by)),
                _ => drop(held.take_from_peer(epoch(u64::from(step) - 9))),
            }
            assert!(held.claim >= before.claim && held.history_epoch >= before.history_epoch);
            assert!(held.history_epoch <= held.claim);
            let admitted = (1..=2)
                .filter(|&by| (1..6).any(|e| held.admit(epoch(e), writer(by)).is_ok()))
                .count();
            assert!(admitted <= 1);
            let owner_changed = before.history_epoch == held.history_epoch
                && before.admit(before.claim, before.writer).is_ok()
                && held.claim == before.claim;
            assert!(
                !owner_changed || held.writer == before.writer,
                "{before:?} became {held:?}"
            );
        }
    }
}
