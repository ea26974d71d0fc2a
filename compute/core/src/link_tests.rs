//! Tests of a log stream's bounds (R15).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::wire::{Append, Message};
use sixfold_log_format::{Lsn, MembershipEpoch};

use crate::event::AttachKey;
use crate::link::Stream;

const BATCH_BYTES: usize = 100;

fn batch(sequence: u64) -> Message {
    Message::Append(Append {
        sequence,
        membership_epoch: MembershipEpoch::new(1),
        pgmrpl: Lsn::NONE,
        pgmrpl_lease_ms: 0,
        batch: Bytes::from_static(&[0; BATCH_BYTES]),
    })
}

/// How many batches the stream takes, of many.
fn fill(stream: &mut Stream, bytes_max: usize) -> usize {
    let mut actions = VecDeque::new();
    (0..200_000)
        .take_while(|_| {
            let message = batch(stream.sequence + 1);
            stream.send(message, Duration::ZERO, bytes_max, &mut actions)
        })
        .count()
}

#[test]
fn a_stuck_stream_keeps_its_bound_however_small_the_batches_are() {
    let bytes_max = 16 << 10;
    let mut stream = Stream::new(AttachKey(1), Lsn::NONE, Duration::ZERO);
    assert_eq!(fill(&mut stream, bytes_max), bytes_max / BATCH_BYTES);
    // More of them than marks are kept for.
    let mut stream = Stream::new(AttachKey(2), Lsn::NONE, Duration::ZERO);
    let count = fill(&mut stream, 8 << 20);
    assert!(count * BATCH_BYTES <= 8 << 20, "{count} small batches");
    assert!(count < 100_000);
    assert_eq!(fill(&mut stream, 8 << 20), 0, "nothing was echoed");
    stream.echoed(10);
    assert_eq!(fill(&mut stream, 8 << 20), 10, "as many as were echoed");
}
