//! What clients do: the operations of a transaction, drawn from the client's own chance.
//!
//! A kind of work that is new to the library (an atomic operation, a deadline, a token) is an [`Op`] here, a step in `client.rs`,
//! and a line in the oracle.

use bytes::Bytes;
use sixfold_compute_core::Modify;

use crate::clock::{MS, US};
use crate::plan::Work;
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
    /// Puts a value that expires so many milliseconds behind the volume's clock.
    PutFor(Bytes, usize, u64),
    /// Puts a number, for so many milliseconds if at all.
    PutNumber(Bytes, i64, Option<u64>),
    /// Modifies a number at the tip.
    Modify(Bytes, Modify),
    Delete(Bytes),
    /// Clears a range.
    Clear(Bytes, Option<Bytes>),
    Rest(u64),
}

/// Keys of numbers.
const NUMBERS: u64 = 6;

/// A key that holds a number.
fn number_key(number: u64) -> Bytes {
    Bytes::from(format!("n{number:02}"))
}

/// The end of all keys.
pub(super) fn keys_end() -> Bytes {
    Bytes::from_static(b"o")
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
pub(super) fn probe_ops(client: usize) -> Vec<Op> {
    vec![
        Op::Scan {
            lower: key(0),
            upper: keys_end(),
            reverse: false,
            limit: usize::MAX,
        },
        Op::Put(marker(client), 8),
    ]
}

/// A transaction; `current`: one that is not merely a snapshot.
pub(super) fn draw_ops(
    rng: &mut Rng,
    client: usize,
    key_count: u64,
    current: bool,
    work: Work,
) -> Vec<Op> {
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
    if rng.chance(1, 3)
        && let Some(ops) = draw_special(rng, client, key_count, work)
    {
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

/// A snapshot that is held for long, and read now and then.
pub(super) fn draw_hold(rng: &mut Rng, key_count: u64) -> Vec<Op> {
    let mut ops = Vec::new();
    for _ in 0..rng.range(2, 12) {
        ops.push(Op::Rest(rng.pick(&[20_000, 200_000, 900_000])));
        for _ in 0..rng.range(1, 4) {
            ops.push(Op::Get(key(rng.below(key_count))));
        }
    }
    ops
}

/// Something that not every store can do.
fn draw_special(rng: &mut Rng, client: usize, key_count: u64, work: Work) -> Option<Vec<Op>> {
    let some_key = |rng: &mut Rng| key(rng.below(key_count));
    let some_number = |rng: &mut Rng| number_key(rng.below(NUMBERS));
    let lifetime_ms = |rng: &mut Rng| rng.pick(&[0, 1, 20, 60, 120, 250, 800]);
    let mut ops = Vec::new();
    match rng.below(8) {
        0 | 1 if work.numbers => {
            for _ in 0..rng.range(1, 4) {
                let operand = i64::try_from(rng.below(2_000)).expect("small") - 1_000;
                ops.push(Op::Modify(
                    some_number(rng),
                    match rng.below(8) {
                        0 => Modify::Max(operand),
                        1 => Modify::Min(operand),
                        2 if rng.chance(1, 4) => Modify::Add(i64::MAX),
                        _ => Modify::Add(operand),
                    },
                ));
            }
            if rng.chance(1, 3) {
                ops.push(Op::Get(some_number(rng)));
            }
        }
        2 if work.numbers => {
            let start = i64::try_from(rng.below(100)).expect("small");
            let lifetime = (work.deadlines && rng.chance(2, 3)).then(|| lifetime_ms(rng));
            ops.push(Op::PutNumber(some_number(rng), start, lifetime));
        }
        // What is seen alive may be gone when it counts.
        3 | 4 if work.deadlines => {
            ops.push(Op::Get(some_key(rng)));
            if rng.chance(1, 4) {
                let lower = rng.below(key_count);
                ops.push(Op::Scan {
                    lower: key(lower),
                    upper: key(lower + 6),
                    reverse: rng.chance(1, 3),
                    limit: usize::MAX,
                });
            }
            ops.push(Op::Rest(rng.pick(&[10, 10_000, 90_000])));
        }
        5 | 6 if work.deadlines => {
            for _ in 0..rng.range(1, 4) {
                let len = usize::try_from(rng.pick(&[8, 30, 200])).expect("small");
                let lifetime = lifetime_ms(rng);
                ops.push(Op::PutFor(some_key(rng), len, lifetime));
            }
        }
        7 if work.clears => {
            let lower = rng.below(key_count);
            let width = rng.pick(&[1, 5, 30, key_count]);
            if rng.chance(1, 4) {
                ops.push(Op::Get(some_key(rng)));
            }
            let start = if rng.chance(1, 6) { key(0) } else { key(lower) };
            let end = (!rng.chance(1, 12)).then(|| key(lower + width));
            ops.push(Op::Clear(start, end));
            if rng.chance(1, 3) {
                ops.push(Op::Put(key(lower), 16));
            }
        }
        _ => return None,
    }
    ops.push(Op::Put(marker(client), 8));
    Some(ops)
}
