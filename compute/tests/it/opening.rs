//! Creating and opening, against made-up nodes.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sixfold::{Cluster, Database, Error, NodeId, Options, SegmentId};
use sixfold_log_format::manifest::{
    Manifest, Member, MemberKind, PgEntry, QuorumModel, SegmentSet,
};
use sixfold_log_format::wire::{CreateSegment, Message, ProbeAnswer, Refusal, Role, SegmentProbe};
use sixfold_log_format::{
    Lsn, ManifestVersion, MembershipEpoch, PgId, VolumeEpoch, VolumeParameters,
};
use sixfold_transport::ClusterCa;

use crate::made_up_node::{self, Heard};

const SOON: Duration = Duration::from_millis(1_500);

fn options(cluster: &Cluster) -> Options {
    Options::new(cluster.clone()).open_deadline(SOON)
}

fn nothing_held() -> Message {
    Message::ProbeAnswer(ProbeAnswer {
        manifest: None,
        segments: Vec::new(),
    })
}

fn segment_of(index: usize) -> SegmentId {
    SegmentId::from_bytes([u8::try_from(index).unwrap() + 1; 16])
}

fn manifest_of(cluster: &Cluster, version: u64) -> Manifest {
    let member = |(index, node): (usize, NodeId)| Member {
        segment: segment_of(index),
        node,
        kind: MemberKind::Full,
        joining: false,
    };
    let members = cluster
        .nodes
        .iter()
        .map(|node| node.node)
        .enumerate()
        .map(member)
        .collect();
    Manifest {
        version: ManifestVersion {
            volume_epoch: VolumeEpoch::new(version),
            membership_epoch: MembershipEpoch::new(1),
        },
        volume: cluster.volume,
        parameters: VolumeParameters {
            page_bytes: 8_192,
            lal: 1_000,
            pages_per_pg: 1_000,
            retention_ms: 0,
            retention_bytes: 0,
            token: None,
        },
        pgs: vec![PgEntry {
            pg: PgId::ROOT,
            sets: vec![SegmentSet {
                model: QuorumModel::FourOfSix,
                members,
            }],
            removed: Vec::new(),
        }],
        hints: Vec::new(),
    }
}

fn probe_answer(manifest: Manifest, index: usize, claim: u64) -> Message {
    let segment = SegmentProbe {
        segment: segment_of(index),
        pg: PgId::ROOT,
        claim: VolumeEpoch::new(claim),
        history_epoch: VolumeEpoch::CREATION,
        scl: Lsn::NONE,
        vdl_seen: Lsn::NONE,
        writer_heard_ms_ago: None,
    };
    Message::ProbeAnswer(ProbeAnswer {
        manifest: Some(Box::new(manifest)),
        segments: vec![segment],
    })
}

fn creations(heard: &Heard) -> Vec<(usize, CreateSegment)> {
    let heard = heard.lock().unwrap();
    let creations = heard.iter().filter_map(|(index, message)| match message {
        Message::CreateSegment(create) => Some((*index, create.as_ref().clone())),
        _ => None,
    });
    creations.collect()
}

#[tokio::test]
async fn every_node_is_told_to_make_its_own_segment_of_one_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let answer = |_: usize, request: &Message| match request {
        Message::Probe(_) => Some(nothing_held()),
        Message::CreateSegment(_) => Some(Message::Done),
        _ => None,
    };
    let (cluster, heard) = made_up_node::six(dir.path(), &made_up_node::answers(answer));
    // These nodes forget what they made, so that the opening that follows finds nothing.
    let error = Database::create(options(&cluster)).await.unwrap_err();
    assert!(
        matches!(error, Error::NoVolume { .. } | Error::Unavailable { .. }),
        "{error:?}"
    );

    let mut creations = creations(&heard);
    creations.sort_by_key(|(index, _)| *index);
    assert_eq!(
        creations
            .iter()
            .map(|(index, _)| *index)
            .collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5]
    );
    let manifest = &creations[0].1.manifest;
    let members = manifest.pg(PgId::ROOT).unwrap().members();
    for (index, create) in &creations {
        assert_eq!(&create.manifest, manifest);
        // Within a zone the members stand in the order of the nodes' identities, which are random.
        let own = members
            .iter()
            .find(|member| member.node == cluster.nodes[*index].node);
        assert_eq!(own.map(|member| member.segment), Some(create.segment));
    }
    let mut segments: Vec<_> = members.iter().map(|member| member.segment).collect();
    segments.sort();
    segments.dedup();
    assert_eq!(segments.len(), 6, "an identity of its own for each");
}

#[tokio::test]
async fn a_creation_that_broke_off_is_finished_with_the_identities_that_it_minted() {
    let dir = tempfile::tempdir().unwrap();
    let found = Arc::new(OnceLock::new());
    let held = Arc::clone(&found);
    let answer = move |index: usize, request: &Message| match request {
        // Only the third node was reached the first time.
        Message::Probe(_) if index == 2 => Some(probe_answer(held.get().cloned()?, index, 1)),
        Message::Probe(_) => Some(nothing_held()),
        Message::CreateSegment(_) => Some(Message::Done),
        _ => None,
    };
    let (cluster, heard) = made_up_node::six(dir.path(), &made_up_node::answers(answer));
    let manifest = manifest_of(&cluster, 1);
    found.set(manifest.clone()).unwrap();
    Database::create(options(&cluster)).await.unwrap_err();
    let creations = creations(&heard);
    assert_eq!(creations.len(), 6);
    for (index, create) in creations {
        assert_eq!(create.manifest, manifest);
        assert_eq!(create.segment, segment_of(index));
    }
}

#[tokio::test]
async fn a_volume_that_was_claimed_once_is_not_created_again() {
    for (version, claim) in [(2, 1), (1, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let found = Arc::new(OnceLock::new());
        let held = Arc::clone(&found);
        let answer = move |index: usize, request: &Message| match request {
            Message::Probe(_) if index == 4 => {
                Some(probe_answer(held.get().cloned()?, index, claim))
            }
            Message::Probe(_) => Some(nothing_held()),
            _ => None,
        };
        let (cluster, heard) = made_up_node::six(dir.path(), &made_up_node::answers(answer));
        found.set(manifest_of(&cluster, version)).unwrap();
        let error = Database::create(options(&cluster)).await.unwrap_err();
        assert_eq!(
            error,
            Error::Exists {
                volume: cluster.volume
            }
        );
        assert_eq!(creations(&heard), []);
    }
}

#[tokio::test]
async fn a_creation_needs_every_node() {
    let dir = tempfile::tempdir().unwrap();
    let answer = |index: usize, request: &Message| match request {
        Message::Probe(_) if index == 5 => Some(Message::Refused(Refusal::Overloaded)),
        Message::Probe(_) => Some(nothing_held()),
        _ => None,
    };
    let (cluster, heard) = made_up_node::six(dir.path(), &made_up_node::answers(answer));
    let error = Database::create(options(&cluster)).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(error.is_retryable());
    assert_eq!(creations(&heard), []);
}

#[tokio::test]
async fn nodes_that_know_nothing_have_no_volume() {
    let dir = tempfile::tempdir().unwrap();
    let answer =
        |_: usize, request: &Message| matches!(request, Message::Probe(_)).then(nothing_held);
    let (cluster, _) = made_up_node::six(dir.path(), &made_up_node::answers(answer));
    let error = Database::open(options(&cluster)).await.unwrap_err();
    assert_eq!(
        error,
        Error::NoVolume {
            volume: cluster.volume
        }
    );
}

#[tokio::test]
async fn silence_ends_as_unavailable_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, _) = made_up_node::six(dir.path(), &made_up_node::answers(|_, _| None));
    let error = Database::open(options(&cluster)).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_foreign_certificate_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, heard) = made_up_node::six(
        dir.path(),
        &made_up_node::answers(|_, _| Some(nothing_held())),
    );
    let foreign = tempfile::tempdir().unwrap();
    let ca = ClusterCa::generate().unwrap();
    ca.save(foreign.path()).unwrap();
    ca.issue(Role::Writer, None)
        .unwrap()
        .save(foreign.path(), "writer")
        .unwrap();
    cluster.tls_dir = foreign.path().to_path_buf();
    for error in [
        Database::open(options(&cluster)).await.unwrap_err(),
        Database::create(options(&cluster)).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Config { .. }), "{error:?}");
        let line = error.to_string();
        assert!(
            line.contains("certificate") && !line.contains('\n'),
            "{line}"
        );
    }
    assert!(heard.lock().unwrap().is_empty());
}
