//! A commit with a token is done once, however often it is tried (T3).

use std::time::Duration;

use sixfold_compute_core::{CommitError, CommitRequest, Modify, Token, WriterBounds};
use sixfold_log_format::Lsn;

use crate::cluster::{Cluster, PATIENCE, UNIX_MS, bounds, key, opened, put};

const ID: [u8; 16] = [5; 16];

fn made(cluster: &Cluster) -> Token {
    Token::Made {
        birth: cluster.core.shared().vdl(),
        id: ID,
    }
}

/// Adds one to a counter, under a token.
fn add(token: Token) -> CommitRequest {
    let mut request = CommitRequest {
        token: Some(token),
        ..CommitRequest::default()
    };
    request
        .writes
        .modify(key("counter"), Modify::Add(1))
        .unwrap();
    request
}

fn counter(cluster: &mut Cluster) -> i64 {
    let point = cluster.core.shared().announce();
    let found = cluster.read(&point, |view| sixfold_kv::get(view, b"counter"));
    found.map_or(0, |found| {
        i64::from_le_bytes(found.value[..].try_into().unwrap())
    })
}

#[test]
fn a_second_try_is_answered_with_the_first_ones_lsn_and_mints_nothing() {
    for given in [false, true] {
        let mut cluster = Cluster::new();
        let token = if given {
            Token::Given(ID)
        } else {
            made(&cluster)
        };
        let first = cluster.commit(add(token)).unwrap();
        cluster.commit(put("other", "1")).unwrap();
        let last = cluster.core.stats().last;
        assert_eq!(cluster.commit(add(token)), Ok(first));
        assert_eq!(cluster.core.stats().last, last);
        assert_eq!(counter(&mut cluster), 1);
    }
}

#[test]
fn a_second_try_of_a_commit_in_flight_waits_for_it() {
    let mut cluster = Cluster::new();
    let token = made(&cluster);
    cluster.each(|segment| segment.mute = true);
    let first = cluster.submit(add(token));
    let later = cluster.submit(put("other", "1"));
    let again = cluster.submit(add(token));
    cluster.run();
    assert_eq!(cluster.answer(again), None, "nobody has it yet");
    (0..4).for_each(|index| cluster.ack_and_run(index));
    let lsn = cluster.answer(first).unwrap().unwrap();
    assert_eq!(cluster.answer(again), Some(Ok(lsn)));
    (0..4).for_each(|index| cluster.ack_and_run(index));
    assert!(cluster.answer(later).unwrap().unwrap() > lsn);
    assert_eq!(counter(&mut cluster), 1);
}

#[test]
fn a_second_try_behind_an_unknown_outcome_waits_and_ends_unknown_too() {
    let mut cluster = Cluster::new();
    let token = made(&cluster);
    cluster.each(|segment| segment.mute = true);
    let first = cluster.submit(add(token));
    cluster.pass(PATIENCE);
    assert!(matches!(
        cluster.answer(first),
        Some(Err(CommitError::Unknown { .. }))
    ));
    let second = cluster.submit(add(token));
    cluster.pass(PATIENCE);
    assert!(matches!(
        cluster.answer(second),
        Some(Err(CommitError::Unknown { .. }))
    ));
    let third = cluster.submit(add(token));
    (0..4).for_each(|index| cluster.ack_and_run(index));
    assert!(cluster.answer(third).unwrap().is_ok());
    assert_eq!(counter(&mut cluster), 1);
}

#[test]
fn a_second_try_does_not_conflict_with_the_first() {
    let mut cluster = Cluster::new();
    cluster.commit(put("a", "1")).unwrap();
    let token = made(&cluster);
    let point = cluster.core.shared().announce();
    let try_once = CommitRequest {
        read_point: point.lsn(),
        read_keys: vec![key("a")],
        token: Some(token),
        ..put("a", "2")
    };
    let first = cluster.commit(try_once.clone()).unwrap();
    assert_eq!(cluster.commit(try_once.clone()), Ok(first));
    let without = CommitRequest {
        token: None,
        ..try_once
    };
    let result = cluster.commit(without);
    assert!(
        matches!(result, Err(CommitError::Conflict { .. })),
        "{result:?}"
    );
}

#[test]
fn a_second_try_that_writes_nothing_is_told_of_the_first_or_closes_the_token() {
    let mut cluster = Cluster::new();
    let token = made(&cluster);
    let nothing = CommitRequest {
        token: Some(token),
        ..CommitRequest::default()
    };
    let closed = cluster.commit(nothing.clone()).unwrap();
    assert_eq!(cluster.commit(add(token)), Ok(closed), "it comes too late");
    assert_eq!(counter(&mut cluster), 0);
    let token = Token::Given([6; 16]);
    let first = cluster.commit(add(token)).unwrap();
    let again = CommitRequest {
        token: Some(token),
        ..nothing
    };
    assert_eq!(cluster.commit(again), Ok(first));
}

#[test]
fn a_second_try_with_another_writer_is_answered_with_the_first_ones_lsn() {
    let mut cluster = Cluster::new();
    let token = made(&cluster);
    let first = cluster.commit(add(token)).unwrap();
    let given = cluster.commit(add(Token::Given(ID))).unwrap();
    // In flight when the first writer ends, but in the cut.
    let late = Token::Made {
        birth: cluster.core.shared().vdl(),
        id: [7; 16],
    };
    cluster.each(|segment| segment.mute = true);
    let unknown = cluster.submit(add(late));
    cluster.run();
    assert_eq!(cluster.answer(unknown), None);
    cluster.fail_over(UNIX_MS);
    let last = cluster.core.stats().last;
    assert_eq!(cluster.commit(add(token)), Ok(first));
    assert_eq!(cluster.commit(add(Token::Given(ID))), Ok(given));
    assert!(cluster.commit(add(late)).unwrap() > given);
    assert_eq!(cluster.core.stats().last, last);
    assert_eq!(counter(&mut cluster), 3);
}

fn brief() -> WriterBounds {
    WriterBounds {
        token_retention: Duration::from_secs(4),
        ..bounds()
    }
}

#[test]
fn old_tokens_go_and_are_refused_from_then_on_also_by_another_writer() {
    let mut cluster = Cluster::with(brief(), opened(8_192, 1_000_000));
    let token = made(&cluster);
    cluster.commit(add(token)).unwrap();
    assert_eq!(cluster.row_count(b't'), 1);
    for _ in 0..3 {
        cluster.pass_ms(500);
        cluster.commit(put("a", "1")).unwrap();
    }
    assert!(
        cluster.commit(add(token)).is_ok(),
        "it is remembered for its retention"
    );
    for _ in 0..20 {
        cluster.pass_ms(500);
        cluster.commit(put("a", "1")).unwrap();
    }
    cluster.pass_ms(2_000);
    assert_eq!(cluster.row_count(b't'), 0);
    let is_too_old = |result: Result<Lsn, CommitError>| matches!(result, Err(CommitError::TokenTooOld { birth, horizon }) if birth < horizon);
    assert!(is_too_old(cluster.commit(add(token))));
    cluster.fail_over(UNIX_MS);
    assert!(is_too_old(cluster.commit(add(token))));
    assert_eq!(counter(&mut cluster), 1);
    let fresh = made(&cluster);
    cluster.commit(add(fresh)).unwrap();
    assert_eq!(counter(&mut cluster), 2);
}

#[test]
fn given_tokens_are_remembered_for_their_retention() {
    let mut cluster = Cluster::with(brief(), opened(8_192, 1_000_000));
    let token = Token::Given(ID);
    let first = cluster.commit(add(token)).unwrap();
    cluster.pass_ms(3_500);
    assert_eq!(cluster.commit(add(token)), Ok(first));
    cluster.pass_ms(2_000);
    assert_eq!((cluster.row_count(b'u'), cluster.row_count(b'd')), (0, 0));
    assert!(
        cluster.commit(add(token)).unwrap() > first,
        "forgotten, as documented"
    );
}

#[test]
fn a_token_from_the_future_is_refused() {
    let mut cluster = Cluster::new();
    let birth = cluster.core.stats().last.plus(1_000);
    let result = cluster.commit(add(Token::Made { birth, id: ID }));
    assert!(
        matches!(result, Err(CommitError::Invalid { .. })),
        "{result:?}"
    );
}

#[test]
fn the_token_table_is_found_through_misses() {
    let tiny = WriterBounds {
        cache_bytes_max: 64 * 512,
        ..bounds()
    };
    let mut cluster = Cluster::with(tiny, opened(512, 1_000_000));
    let tokens: Vec<Token> = (0..200_u8)
        .map(|number| {
            let birth = cluster.core.shared().vdl();
            let token = Token::Made {
                birth,
                id: [number; 16],
            };
            cluster.commit(add(token)).unwrap();
            token
        })
        .collect();
    for token in tokens.into_iter().step_by(7) {
        cluster.commit(add(token)).unwrap();
    }
    assert_eq!(counter(&mut cluster), 200);
}
