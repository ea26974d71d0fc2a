//! The isolation anomalies of the Hermitage list, each by its name: none is possible.
//!
//! Each test is the list's schedule, step by step. A transaction that would have to see or do what the anomaly is about is
//! refused with a conflict, or sees its own point in time.

use sixfold::{Database, Error, Transaction};

use crate::library_cluster::{put, text, with_database};

/// Two rows, as in the list.
async fn rows(database: &Database) {
    put(database, "row/1", "10").await;
    put(database, "row/2", "20").await;
}

async fn begin(database: &Database) -> Transaction {
    database.begin().await.unwrap()
}

async fn read(txn: &Transaction, key: &str) -> String {
    let value = txn.get(key).await.unwrap();
    String::from_utf8(value.unwrap().to_vec()).unwrap()
}

/// The rows whose value is divisible by `divisor`.
async fn divisible(txn: &Transaction, divisor: u64) -> Vec<String> {
    let rows = txn.range(sixfold::prefix("row/")).collect().await.unwrap();
    rows.into_iter()
        .map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
        .filter(|value| value.parse::<u64>().unwrap().is_multiple_of(divisor))
        .collect()
}

async fn conflicts(txn: &Transaction) {
    let result = txn.commit().await;
    assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
}

async fn both(database: &Database) -> [String; 2] {
    [
        text(database, "row/1").await.unwrap(),
        text(database, "row/2").await.unwrap(),
    ]
}

#[tokio::test]
async fn g0_write_cycles_are_prevented() {
    with_database(async |database| {
        rows(&database).await;
        let (one, two) = (begin(&database).await, begin(&database).await);
        one.put("row/1", "11").unwrap();
        two.put("row/1", "12").unwrap();
        one.put("row/2", "21").unwrap();
        one.commit().await.unwrap();
        assert_eq!(both(&database).await, ["11", "21"]);
        two.put("row/2", "22").unwrap();
        two.commit().await.unwrap();
        assert_eq!(both(&database).await, ["12", "22"]);
    })
    .await;
}

#[tokio::test]
async fn g1a_aborted_reads_are_prevented() {
    with_database(async |database| {
        rows(&database).await;
        let (one, two) = (begin(&database).await, begin(&database).await);
        one.put("row/1", "101").unwrap();
        assert_eq!(read(&two, "row/1").await, "10");
        one.rollback();
        assert_eq!(read(&two, "row/1").await, "10");
        two.commit().await.unwrap();
        assert_eq!(both(&database).await, ["10", "20"]);
    })
    .await;
}

#[tokio::test]
async fn g1b_intermediate_reads_are_prevented() {
    with_database(async |database| {
        rows(&database).await;
        let (one, two) = (begin(&database).await, begin(&database).await);
        one.put("row/1", "101").unwrap();
        assert_eq!(read(&two, "row/1").await, "10");
        one.put("row/1", "11").unwrap();
        one.commit().await.unwrap();
        assert_eq!(read(&two, "row/1").await, "10");
        two.commit().await.unwrap();
        assert_eq!(both(&database).await, ["11", "20"]);
    })
    .await;
}

#[tokio::test]
async fn g1c_circular_information_flow_is_prevented() {
    with_database(async |database| {
        rows(&database).await;
        let (one, two) = (begin(&database).await, begin(&database).await);
        one.put("row/1", "11").unwrap();
        two.put("row/2", "22").unwrap();
        assert_eq!(read(&one, "row/2").await, "20");
        assert_eq!(read(&two, "row/1").await, "10");
        one.commit().await.unwrap();
        conflicts(&two).await;
        assert_eq!(both(&database).await, ["11", "20"]);
    })
    .await;
}

#[tokio::test]
async fn otv_observed_transaction_vanishes_is_prevented() {
    with_database(async |database| {
        rows(&database).await;
        let (one, two) = (begin(&database).await, begin(&database).await);
        one.put("row/1", "11").unwrap();
        one.put("row/2", "19").unwrap();
        two.put("row/1", "12").unwrap();
        one.commit().await.unwrap();
        let three = begin(&database).await;
        assert_eq!(read(&three, "row/1").await, "11");
        two.put("row/2", "18").unwrap();
        assert_eq!(read(&three, "row/2").await, "19");
        two.commit().await.unwrap();
        assert_eq!(read(&three, "row/2").await, "19");
        assert_eq!(read(&three, "row/1").await, "11");
        three.commit().await.unwrap();
        assert_eq!(both(&database).await, ["12", "18"]);
    })
    .await;
}

#[tokio::test]
async fn pmp_predicate_many_preceders_are_prevented() {
    with_database(async |database| {
        rows(&database).await;
        let one = begin(&database).await;
        assert!(divisible(&one, 30).await.is_empty());
        put(&database, "row/3", "30").await;
        // It sees its point in time, whatever it asks ...
        assert!(divisible(&one, 3).await.is_empty());
        one.put("seen", "nothing").unwrap();
        // ... and what it writes on the ground of it is refused.
        conflicts(&one).await;

        // The same for a predicate that writes: delete what is 20, while it becomes 30.
        let (one, two) = (begin(&database).await, begin(&database).await);
        for (key, value) in one.range(sixfold::prefix("row/")).collect().await.unwrap() {
            let value: u64 = std::str::from_utf8(&value).unwrap().parse().unwrap();
            one.put(key, (value + 10).to_string()).unwrap();
        }
        for (key, value) in two.range(sixfold::prefix("row/")).collect().await.unwrap() {
            if value == "20" {
                two.delete(key).unwrap();
            }
        }
        one.commit().await.unwrap();
        conflicts(&two).await;
        assert_eq!(both(&database).await, ["20", "30"]);
    })
    .await;
}

#[tokio::test]
async fn p4_lost_updates_are_prevented() {
    with_database(async |database| {
        rows(&database).await;
        let (one, two) = (begin(&database).await, begin(&database).await);
        assert_eq!(read(&one, "row/1").await, "10");
        assert_eq!(read(&two, "row/1").await, "10");
        one.put("row/1", "11").unwrap();
        two.put("row/1", "11").unwrap();
        one.commit().await.unwrap();
        conflicts(&two).await;
    })
    .await;
}

#[tokio::test]
async fn g_single_read_skew_is_prevented() {
    with_database(async |database| {
        rows(&database).await;
        let (one, two) = (begin(&database).await, begin(&database).await);
        assert_eq!(read(&one, "row/1").await, "10");
        assert_eq!(read(&two, "row/1").await, "10");
        assert_eq!(read(&two, "row/2").await, "20");
        two.put("row/1", "12").unwrap();
        two.put("row/2", "18").unwrap();
        two.commit().await.unwrap();
        assert_eq!(read(&one, "row/2").await, "20");
        one.commit().await.unwrap();

        // With a predicate, and with a write that depends on it.
        let (one, two) = (begin(&database).await, begin(&database).await);
        assert!(divisible(&one, 5).await.is_empty());
        two.put("row/1", "15").unwrap();
        two.commit().await.unwrap();
        assert!(divisible(&one, 3).await.contains(&"12".to_owned()));
        one.delete("row/2").unwrap();
        conflicts(&one).await;
        assert_eq!(both(&database).await, ["15", "18"]);
    })
    .await;
}

#[tokio::test]
async fn g2_item_write_skew_on_rows_is_prevented() {
    with_database(async |database| {
        rows(&database).await;
        let (one, two) = (begin(&database).await, begin(&database).await);
        for txn in [&one, &two] {
            assert_eq!(read(txn, "row/1").await, "10");
            assert_eq!(read(txn, "row/2").await, "20");
        }
        one.put("row/1", "11").unwrap();
        two.put("row/2", "21").unwrap();
        one.commit().await.unwrap();
        conflicts(&two).await;
        assert_eq!(both(&database).await, ["11", "20"]);
    })
    .await;
}

#[tokio::test]
async fn g2_write_skew_on_predicates_is_prevented() {
    with_database(async |database| {
        rows(&database).await;
        let (one, two) = (begin(&database).await, begin(&database).await);
        assert!(divisible(&one, 3).await.is_empty());
        assert!(divisible(&two, 3).await.is_empty());
        one.put("row/3", "30").unwrap();
        two.put("row/4", "42").unwrap();
        one.commit().await.unwrap();
        conflicts(&two).await;
        assert_eq!(text(&database, "row/4").await, None);
    })
    .await;
}

#[tokio::test]
async fn phantoms_of_every_kind_of_write_are_prevented() {
    with_database(async |database| {
        rows(&database).await;
        put(&database, "row/3", 7_i64.to_le_bytes()).await;
        type Write = fn(&Transaction) -> Result<(), Error>;
        let writes: [(&str, Write); 5] = [
            ("a put of an absent key", |txn| txn.put("row/5", "new")),
            ("a put with a time to live", |txn| {
                txn.put_with_ttl("row/6", "new", std::time::Duration::from_secs(60))
            }),
            ("an atomic operation", |txn| txn.add("row/3", 1)),
            ("a delete", |txn| txn.delete("row/1")),
            ("a delete of a range", |txn| {
                txn.delete_range("row/2".."row/3")
            }),
        ];
        for (what, write) in writes {
            let reader = begin(&database).await;
            reader.range("row/".."row0").collect().await.unwrap();
            reader.put("count", what).unwrap();
            let beside = begin(&database).await;
            beside.range("row0"..).collect().await.unwrap();
            beside.put("beside", what).unwrap();
            let writer = begin(&database).await;
            write(&writer).unwrap();
            writer.commit().await.unwrap();
            let result = reader.commit().await;
            assert!(
                matches!(result, Err(Error::Conflict { .. })),
                "{what}: {result:?}"
            );
            beside.commit().await.unwrap();
        }
    })
    .await;
}
