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
    let once = reads.bytes;
    reads.note_key(&"key".into()).unwrap();
    assert_eq!(reads.bytes, once);
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
fn handles_may_cross_threads_and_wait_there() {
    fn sendable<T: Send + Sync>() {}
    fn future_sendable<T: Send>(_: &T) {}
    sendable::<crate::Database>();
    sendable::<Transaction>();
    sendable::<crate::Snapshot>();
    sendable::<Range>();
    let _never_called = |database: crate::Database, transaction: Transaction, mut range: Range| {
        future_sendable(&crate::Database::open(any_options()));
        future_sendable(&database.begin());
        future_sendable(&transaction.get("key"));
        future_sendable(&transaction.commit());
        future_sendable(&range.next());
    };
}

fn any_options() -> crate::Options {
    crate::Options::new(crate::Cluster::new(Vec::new(), "tls"))
}
