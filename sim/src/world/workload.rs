//! What clients do: the operations of a transaction, drawn from the client's own chance.
//!
//! A kind of work that is new to the library (an atomic operation, a deadline, a token) is an [`Op`] here, a step in `client.rs`,
//! and a line in the oracle.

use bytes::Bytes;

use crate::clock::{MS, US};
use crate::rng::Rng;

/// One step of a transaction.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Get(Bytes),
    Scan {
        lower: Bytes,
        upper: Bytes,
        reverse: bool,
        limit: usize,
    },
    Put(Bytes, usize),
    Delete(Bytes),
    Rest(u64),
}

/// A key of the load.
pub(super) fn key(number: u64) -> Bytes {
    // Some keys are long, so that leaves hold few.
    let pad = if number.is_multiple_of(7) { 40 } else { 0 };
    Bytes::from(format!("k{number:04}{:pad$}", ""))
}

/// A key that one client alone writes.
pub(super) fn marker(client: usize) -> Bytes {
    Bytes::from(format!("m{client}"))
}

/// Everything there is, then a write: what must succeed when all is well again.
pub(super) fn probe_ops(client: usize, key_count: u64) -> Vec<Op> {
    vec![
        Op::Scan {
            lower: key(0),
            upper: key(key_count),
            reverse: false,
            limit: usize::MAX,
        },
        Op::Put(marker(client), 8),
    ]
}

/// A transaction; `current`: one that is not merely a snapshot.
pub(super) fn draw_ops(rng: &mut Rng, client: usize, key_count: u64, current: bool) -> Vec<Op> {
    let some_key = |rng: &mut Rng| {
        // A few keys are hot.
        let number = if rng.chance(1, 3) {
            rng.below(key_count.min(4))
        } else {
            rng.below(key_count)
        };
        key(number)
    };
    let scan = |rng: &mut Rng| {
        let lower = rng.below(key_count);
        let width = rng.pick(&[2, 10, key_count]);
        Op::Scan {
            lower: key(lower),
            upper: key(lower + width),
            reverse: rng.chance(1, 3),
            limit: rng.pick(&[1, 3, usize::MAX]),
        }
    };
    let length = |rng: &mut Rng| match rng.below(12) {
        0 => usize::try_from(rng.range(65, 700)).expect("small"),
        1..=3 => 8,
        _ => usize::try_from(rng.range(8, 64)).expect("small"),
    };
    let mut ops = Vec::new();
    if !current {
        // A snapshot, held for a while.
        for _ in 0..rng.range(1, 5) {
            ops.push(if rng.chance(1, 3) {
                scan(rng)
            } else {
                Op::Get(some_key(rng))
            });
            ops.push(Op::Rest(rng.pick(&[10, 2_000, 60_000])));
        }
        return ops;
    }
    match rng.below(10) {
        // A transfer.
        0..=2 => {
            let (from, to) = (some_key(rng), some_key(rng));
            ops.extend([Op::Get(from.clone()), Op::Get(to.clone())]);
            ops.extend([Op::Put(from, 16), Op::Put(to, 16)]);
        }
        // Blind writes.
        3 | 4 => {
            for _ in 0..rng.range(1, 5) {
                let len = length(rng);
                ops.push(Op::Put(some_key(rng), len));
            }
            ops.push(Op::Put(marker(client), 8));
        }
        5 => {
            for _ in 0..rng.range(1, 4) {
                ops.push(Op::Delete(some_key(rng)));
            }
            if rng.chance(2, 3) {
                ops.push(Op::Put(marker(client), 8));
            }
        }
        // What was not there may come (phantoms).
        6 | 7 => {
            ops.push(scan(rng));
            if rng.chance(1, 3) {
                ops.push(Op::Rest(MS / US));
            }
            let len = length(rng);
            ops.push(Op::Put(some_key(rng), len));
            ops.push(Op::Put(marker(client), 8));
        }
        8 => {
            ops.push(Op::Get(some_key(rng)));
            if rng.chance(1, 2) {
                ops.push(scan(rng));
            }
        }
        _ => {
            let one = some_key(rng);
            ops.push(Op::Get(one.clone()));
            ops.push(Op::Rest(rng.pick(&[10, 5_000])));
            ops.push(Op::Put(one, 24));
        }
    }
    ops
}
