//! A rival that claimed two segments and died: the writer, left with just a write quorum, opens its volume again in place (R8).

use sixfold::{Database, Error};
use sixfold_log_format::wire::{Claim, Message, Probe};
use sixfold_log_format::{VolumeEpoch, WriterId};

use crate::load::{Load, block_on};
use crate::membership::patient;
use crate::process::eventually;
use crate::real_cluster::RealCluster;

const CLIENTS: usize = 4;

/// The root's segment on a node.
async fn segment_of(cluster: &RealCluster, index: usize) -> sixfold::SegmentId {
    let volume = cluster.cluster.volume;
    let probe = Message::Probe(Probe { volume });
    match cluster.ask(index, "writer", &probe).await {
        Message::ProbeAnswer(answer) => answer.segments[0].segment,
        other => panic!("{other:?}"),
    }
}

/// What a rival does last: it claims the segments of these nodes and is heard of no more.
async fn claim(cluster: &RealCluster, indexes: &[usize], volume_epoch: VolumeEpoch) {
    for &index in indexes {
        let claim = Message::Claim(Claim {
            segment: segment_of(cluster, index).await,
            volume_epoch,
            writer: WriterId::from_bytes([0x5a; 16]),
        });
        let answer = cluster.ask(index, "writer", &claim).await;
        assert!(matches!(answer, Message::Census(_)), "{answer:?}");
    }
}

fn attached(database: &Database) -> usize {
    let relations = block_on(database.stats()).unwrap().writer.relations;
    relations.iter().filter(|one| one.attached).count()
}

fn refences(database: &Database) -> u64 {
    block_on(database.admin().membership()).unwrap().refences
}

#[test]
fn a_dead_rivals_claims_are_overridden_in_place_and_no_commit_fails() {
    let cluster = RealCluster::start();
    let database = block_on(Database::create(patient(&cluster))).unwrap();
    let epoch = database.open_report().volume_epoch;
    let rival = VolumeEpoch::new(epoch.get() + 1);
    let load = Load::start(&database, "load", CLIENTS);
    load.until_answered(100);
    block_on(claim(&cluster, &[4], rival));
    eventually("a segment is lost to the rival", || {
        attached(&database) == 5
    });
    // One to spare: no reason to do anything about it.
    load.until_answered(200);
    assert_eq!(refences(&database), 0);
    block_on(claim(&cluster, &[5], rival));
    eventually("the volume is opened again", || refences(&database) == 1);
    eventually("all six are back", || attached(&database) == 6);
    // It goes on, with its clients, its reads and without another reopening.
    load.until_answered(500);
    block_on(async {
        let txn = database.begin().await.unwrap();
        txn.put("a key", "x").unwrap();
        txn.commit().await.unwrap();
        let txn = database.begin().await.unwrap();
        assert_eq!(txn.get("a key").await.unwrap(), Some("x".into()));
    });
    assert_eq!(refences(&database), 1);
    let outcomes = load.stop();
    outcomes.assert_none_failed();
    // It is the volume's writer still: a stranger finds it in use, and the next one has everything.
    let error = block_on(Database::open(patient(&cluster))).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error:?}");
    block_on(async {
        database.close().await;
        let next = Database::take_over(patient(&cluster)).await.unwrap();
        assert!(next.open_report().volume_epoch > rival);
        outcomes.check(&next.snapshot()).await;
        next.close().await;
    });
}
