//! Three copies of six are destroyed, and an operator says so (R19).

use std::time::Duration;

use sixfold::{Database, Error, NodeId};

use crate::load::{Load, block_on};
use crate::process::LIMIT;
use crate::real_cluster::RealCluster;

const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_volume_lives_on_three_survivors_when_an_operator_says_that_the_others_are_lost() {
    let mut cluster = RealCluster::start();
    let options = cluster.options().commit_deadline(SOON).read_deadline(SOON);
    let database = block_on(Database::create(options)).unwrap();
    let load = Load::start(&database, "load", 4);
    load.until_answered(50);
    let nodes: Vec<NodeId> = cluster.cluster.nodes.iter().map(|node| node.node).collect();
    cluster.kill(&[1, 3, 5]);
    load.until_refused(4);
    let mut outcomes = load.stop();
    drop(database);
    // Nothing is built anew meanwhile on nodes that come back.
    let options = cluster.options().read_deadline(LIMIT).repair_after(None);
    let lost = [nodes[1], nodes[3], nodes[5]];
    block_on(async {
        let soon = options.clone().open_deadline(SOON);
        let error = Database::take_over(soon.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        // Needless, and too many.
        for lost in [&nodes[4..], &nodes[2..]] {
            let error = loop {
                match Database::open_declaring_lost(soon.clone(), lost).await {
                    Err(Error::InUse { .. }) => {}
                    other => break other.unwrap_err(),
                }
            };
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        }
        let options = options.clone().open_deadline(LIMIT);
        let database = Database::open_declaring_lost(options, &lost).await.unwrap();
        outcomes.refused.clear();
        outcomes.check(&database.snapshot()).await;
        let txn = database.begin().await.unwrap();
        txn.put("after", "1").unwrap();
        txn.commit().await.unwrap();
        database.close().await;
    });
    // They were not destroyed after all: nobody counts them any more, and nothing of theirs comes back.
    cluster.start_nodes(&[1, 3, 5]);
    block_on(async {
        let options = options.clone().open_deadline(LIMIT);
        let database = Database::take_over(options).await.unwrap();
        outcomes.check(&database.snapshot()).await;
        let snapshot = database.snapshot();
        assert_eq!(snapshot.get("after").await.unwrap(), Some("1".into()));
        database.close().await;
    });
    cluster.kill(&[0, 2]);
    let error = block_on(Database::take_over(options.open_deadline(SOON))).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}
