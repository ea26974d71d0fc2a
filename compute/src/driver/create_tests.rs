use sixfold_log_format::{QuorumModel, SegmentId, VolumeEpoch};

use super::create::first_manifest;
use crate::{Cluster, ClusterNode, Options};

fn six_nodes() -> Options {
    let node = |index: u16| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 4_000 + index));
        ClusterNode::new(format!("az{}", index / 2 + 1), address)
    };
    Options::new(Cluster::new((0..6).map(node).collect(), "tls"))
}

#[test]
fn the_first_manifest_has_a_full_segment_of_its_own_at_each_node() {
    let options = six_nodes();
    let mut minted = 0;
    let hosts: Vec<_> = options
        .cluster()
        .nodes
        .iter()
        .map(|node| node.node)
        .collect();
    let manifest = first_manifest(&options, &hosts, None, || {
        minted += 1;
        SegmentId::from_bytes([minted; 16])
    });
    assert_eq!(manifest.version.volume_epoch, VolumeEpoch::CREATION);
    assert_eq!(manifest.volume, options.cluster().volume);
    let [entry] = manifest.pgs.as_slice() else {
        panic!("one protection group")
    };
    let [set] = entry.sets.as_slice() else {
        panic!("one set")
    };
    assert_eq!(set.model, QuorumModel::FourOfSix);
    let nodes: Vec<_> = set.members.iter().map(|member| member.node).collect();
    assert_eq!(nodes, hosts);
    assert!(set.members.iter().enumerate().all(|(index, member)| {
        usize::from(member.segment.as_bytes()[0]) == index + 1 && !member.joining
    }));
    assert_eq!(manifest.hints.len(), 6);
}
