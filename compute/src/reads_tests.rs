use super::*;

fn range(end: &'static str) -> ReadRange {
    ReadRange {
        start: Bytes::new(),
        end: Some(end.into()),
        end_included: true,
    }
}

#[test]
fn a_range_that_goes_on_replaces_what_it_had_noted() {
    let mut reads = Reads::default();
    let first = reads.note_range(None, range("a")).unwrap();
    let second = reads.note_range(None, range("x")).unwrap();
    assert_ne!(first, second);
    assert_eq!(reads.note_range(Some(first), range("b")), Ok(first));
    assert_eq!(reads.ranges, vec![range("b"), range("x")]);
}

#[test]
fn a_key_that_is_read_twice_is_charged_once() {
    let mut reads = Reads::default();
    reads.note_key(&"key".into()).unwrap();
    let once = reads.bytes();
    reads.note_key(&"key".into()).unwrap();
    assert_eq!(reads.bytes(), once);
    assert_eq!(reads.keys.len(), 1);
}

#[test]
fn what_a_transaction_reads_is_bounded() {
    let mut reads = Reads {
        bytes: TRANSACTION_BYTES_MAX - OPERATION_OVERHEAD_BYTES - 2,
        ..Reads::default()
    };
    assert!(matches!(
        reads.note_key(&"key".into()),
        Err(Error::Invalid { .. })
    ));
    assert!(reads.keys.is_empty());
    reads.note_key(&"ke".into()).unwrap();
}

#[test]
fn the_earliest_deadline_that_was_seen_counts() {
    let mut reads = Reads::default();
    for deadline_ms in [None, Some(7), Some(5), None, Some(9)] {
        reads.note_deadline(deadline_ms);
    }
    assert_eq!(reads.earliest_deadline_ms, Some(5));
}
