//! Tombstones are bounded: the oldest forget their manifests first, and identities stay refused as long as there is room.

use std::time::Duration;

use sixfold_log_format::{
    Lsn, Manifest, ManifestVersion, MembershipEpoch, NodeId, Page, PageId, PgId, SegmentId,
    VolumeEpoch, VolumeId, VolumeParameters,
};

use super::*;
use crate::event::FoundDirectory;

fn manifest(membership_epoch: u64) -> Manifest {
    Manifest {
        version: ManifestVersion {
            volume_epoch: VolumeEpoch::new(2),
            membership_epoch: MembershipEpoch::new(membership_epoch),
        },
        volume: VolumeId::from_bytes([7; 16]),
        parameters: VolumeParameters {
            page_bytes: 512,
            lal: 1_000,
            pages_per_pg: 1,
            retention_ms: 0,
            retention_bytes: 0,
            token: None,
        },
        pgs: Vec::new(),
        hints: Vec::new(),
    }
}

fn id(number: u64) -> SegmentId {
    let mut bytes = [0; 16];
    // The order of identities says nothing about age.
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    SegmentId::from_bytes(bytes)
}

#[test]
fn the_oldest_tombstones_forget_their_manifests_first() {
    let mut gone = Gone::default();
    let count = TOMBSTONES_MAX as u64 + 50;
    for number in 0..count {
        gone.put(id(number), Some((PgId::ROOT, manifest(number))));
        let bytes: usize = gone.entries().map(|entry| entry.encoded_bytes()).sum();
        assert_eq!(gone.bytes(), bytes);
    }
    for number in 0..count {
        assert!(gone.contains(id(number)));
        assert_eq!(gone.manifest_of(id(number)).is_some(), number >= 50);
    }
    assert_eq!(gone.of_volume(manifest(0).volume).count(), TOMBSTONES_MAX);
}

#[test]
fn identities_are_bounded_and_tombstones_are_the_last_to_go() {
    let mut gone = Gone::default();
    gone.put(id(0), Some((PgId::ROOT, manifest(1))));
    for number in 1..=DROPPED_MAX as u64 {
        gone.put(id(number), None);
    }
    assert_eq!(gone.ids().count(), DROPPED_MAX);
    assert!(gone.manifest_of(id(0)).is_some());
    let bytes: usize = gone.entries().map(|entry| entry.encoded_bytes()).sum();
    assert_eq!(gone.bytes(), bytes);
}

#[test]
fn a_tombstone_that_is_put_again_counts_once() {
    let mut gone = Gone::default();
    for _ in 0..3 {
        gone.put(id(1), Some((PgId::ROOT, manifest(1))));
    }
    assert_eq!(gone.bytes(), gone.entry(id(1)).encoded_bytes());
    gone.put(id(1), None);
    assert_eq!(gone.manifest_of(id(1)), None);
    assert_eq!(gone.bytes(), gone.entry(id(1)).encoded_bytes());
}

#[test]
fn a_fresh_drop_is_never_its_own_victim_and_the_oldest_goes() {
    let mut gone = Gone::default();
    for number in 0..DROPPED_MAX as u64 + 50 {
        gone.put(id(number), None);
        assert!(gone.contains(id(number)));
    }
    for number in 0..50 {
        assert!(!gone.contains(id(number)));
        assert!(gone.was_dropped(id(number)), "while the log is read");
    }
    gone.scan_ended();
    assert!(!gone.was_dropped(id(0)));
    // Heads list them in that order, so that the next life forgets the same ones.
    let mut again = Gone::default();
    for entry in gone.entries() {
        again.put(entry.segment(), None);
    }
    assert!(again.ids().eq(gone.ids()));
}

#[test]
fn a_head_that_repeats_a_drop_touches_nothing_else() {
    let found = FoundDirectory {
        node: NodeId::from_bytes([1; 16]),
        az: "az1".into(),
        block_bytes: 512,
        file_bytes: 64 << 10,
        files: Vec::new(),
        layers: Vec::new(),
        bounds: crate::bounds::Bounds::default(),
        seed: 1,
    };
    let mut core = NodeCore::new(found, Duration::ZERO);
    let drops = [
        Entry::Dropped { segment: id(1) },
        Entry::Removed {
            segment: id(2),
            pg: PgId::ROOT,
            manifest: manifest(1),
        },
    ];
    for drop in drops {
        core.apply_drop(&drop);
        assert!(core.gone.says(&drop));
        // A mark that a drop would take away.
        let page = Page::new(PageId::META, 512);
        core.cache.insert(drop.segment(), page, None);
        core.apply_drop(&drop);
        let kept = core.cache.newest(drop.segment(), PageId::META, Lsn::MAX);
        assert!(kept.is_some(), "{drop:?}");
    }
}
