//! The library's examples, each run to its end against six real daemons. They check their results themselves.

use crate::library_cluster::with_database;

#[allow(dead_code, reason = "its `main` is another program's")]
#[path = "../../../compute/examples/bank.rs"]
mod bank;
#[allow(dead_code, reason = "its `main` is another program's")]
#[path = "../../../compute/examples/metadata_tree.rs"]
mod metadata_tree;
#[allow(dead_code, reason = "its `main` is another program's")]
#[path = "../../../compute/examples/secondary_index.rs"]
mod secondary_index;
#[allow(dead_code, reason = "its `main` is another program's")]
#[path = "../../../compute/examples/work_queue.rs"]
mod work_queue;

#[tokio::test]
async fn the_bank_loses_no_money() {
    with_database(async |database| bank::run(&database, 8, 50).await.unwrap()).await;
}

#[tokio::test]
async fn the_work_queue_does_every_job_once_although_workers_die() {
    with_database(async |database| work_queue::run(&database, 30, 3).await.unwrap()).await;
}

#[tokio::test]
async fn the_secondary_index_says_what_the_rows_say() {
    with_database(async |database| secondary_index::run(&database, 4, 30).await.unwrap()).await;
}

#[tokio::test]
async fn the_metadata_tree_stays_a_tree() {
    with_database(async |database| metadata_tree::run(&database, 4, 15).await.unwrap()).await;
}
