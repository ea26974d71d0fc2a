use super::*;

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
        future_sendable(&database.snapshot_at(Lsn::NONE));
        future_sendable(&database.transact(|txn| async move { txn.put("key", "value") }));
        future_sendable(&database.drop_keyspace("name"));
    };
}

fn any_options() -> crate::Options {
    crate::Options::new(crate::Cluster::new(Vec::new(), "tls"))
}
