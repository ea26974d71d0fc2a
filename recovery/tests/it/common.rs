//! Names and small builders that all tests share.

use std::time::Duration;

use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{Census, CensusRun};
use sixfold_log_format::{
    AnnulledRange, Batch, BatchBuilder, History, Lsn, Manifest, ManifestVersion, Member,
    MemberKind, MembershipEpoch, NodeId, Op, PageId, PageKind, PgEntry, PgId, QuorumModel, Record,
    SegmentId, SegmentSet, VolumeEpoch, VolumeId, VolumeParameters, WriterId,
};

pub const LAL: u64 = 10;

pub fn lsn(number: u64) -> Lsn {
    Lsn::new(number)
}

pub fn epoch(number: u64) -> VolumeEpoch {
    VolumeEpoch::new(number)
}

pub fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

pub fn volume() -> VolumeId {
    VolumeId::from_bytes([7; 16])
}

pub fn segment(number: u8) -> SegmentId {
    SegmentId::from_bytes([number + 1; 16])
}

pub fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number + 101; 16])
}

pub fn writer(number: u8) -> WriterId {
    WriterId::from_bytes([number; 16])
}

pub fn member(number: u8) -> Member {
    Member {
        segment: segment(number),
        node: node(number),
        kind: MemberKind::Full,
        joining: false,
    }
}

pub fn set(model: QuorumModel, numbers: &[u8]) -> SegmentSet {
    SegmentSet {
        model,
        members: numbers.iter().map(|&number| member(number)).collect(),
    }
}

/// Fulls 0, 2, 4; tails 1, 3, 5.
pub fn full_tail() -> SegmentSet {
    let mut set = set(QuorumModel::FullTail, &[0, 1, 2, 3, 4, 5]);
    for tail in [1, 3, 5] {
        set.members[tail].kind = MemberKind::Tail;
    }
    set
}

pub fn six() -> SegmentSet {
    set(QuorumModel::FourOfSix, &[0, 1, 2, 3, 4, 5])
}

pub fn entry(pg: u32, sets: Vec<SegmentSet>) -> PgEntry {
    PgEntry {
        pg: PgId::new(pg),
        sets,
        removed: Vec::new(),
    }
}

pub fn manifest_of(pgs: Vec<PgEntry>) -> Manifest {
    Manifest {
        version: ManifestVersion {
            volume_epoch: epoch(1),
            membership_epoch: MembershipEpoch::new(1),
        },
        volume: volume(),
        parameters: VolumeParameters {
            page_bytes: 512,
            lal: LAL,
            pages_per_pg: 1_000,
            retention_ms: 0,
            retention_bytes: 0,
            token: None,
        },
        pgs,
        hints: Vec::new(),
    }
}

/// With a fleet that every member of any test lives in.
pub fn with_fleet(mut manifest: Manifest) -> Manifest {
    let hint = |number: u8| NodeHint {
        node: node(number),
        az: format!("az{}", number % 3),
        address: format!("10.0.0.{number}:1"),
    };
    manifest.hints = (0..60).map(hint).collect();
    manifest
}

pub fn manifest() -> Manifest {
    manifest_of(vec![entry(0, vec![six()])])
}

pub fn range(after: u64, through: u64, volume_epoch: u64) -> AnnulledRange {
    AnnulledRange {
        after: lsn(after),
        through: lsn(through),
        volume_epoch: epoch(volume_epoch),
    }
}

pub fn history(volume_epoch: u64, ranges: &[AnnulledRange]) -> History {
    History {
        volume_epoch: epoch(volume_epoch),
        floor: Lsn::NONE,
        ranges: ranges.to_vec(),
    }
}

pub fn run(first: u64, last: u64, volume_epoch: u64, cpls: &[u64]) -> CensusRun {
    CensusRun {
        first: lsn(first),
        last: lsn(last),
        volume_epoch: epoch(volume_epoch),
        cpls: cpls.iter().map(|&cpl| lsn(cpl)).collect(),
    }
}

/// A census of a segment that saw `vdl_seen`, holds `last_valid` at or below it, and `runs` above.
pub fn census(
    number: u8,
    history: History,
    vdl_seen: u64,
    last_valid: u64,
    runs: Vec<CensusRun>,
) -> Census {
    Census {
        segment: segment(number),
        volume_epoch: epoch(99),
        history,
        manifest: manifest(),
        scl: lsn(last_valid),
        vdl_seen: lsn(vdl_seen),
        last_valid: lsn(last_valid),
        lease_left_ms: 0,
        runs,
        more: false,
    }
}

/// A batch of PG `pg` with one-record MTRs at `lsns`; `salt` makes another batch of the same LSNs.
pub fn batch_of(pg: u32, volume_epoch: u64, prev: u64, lsns: &[u64], vdl: u64, salt: u64) -> Batch {
    let mut builder = BatchBuilder::new(volume(), PgId::new(pg), epoch(volume_epoch), lsn(prev));
    for &number in lsns {
        let record = Record {
            lsn: lsn(number),
            page: PageId::new(2 + salt),
            page_prev: Lsn::NONE,
            cpl: lsn(number),
            user_visible: false,
            op: Op::Init {
                kind: PageKind::Leaf,
                level: 0,
            },
        };
        assert!(builder.push(&record));
    }
    builder.seal(lsn(vdl), 1)
}

/// All subsets of `count` things, as bit masks.
pub fn subsets(count: u8) -> std::ops::Range<u32> {
    0..1 << count
}

/// All subsets of `of` with `size` members, as bit masks.
pub fn subsets_of(of: u32, size: u32) -> Vec<u32> {
    subsets(8)
        .filter(|mask| mask & !of == 0 && mask.count_ones() == size)
        .collect()
}

pub fn has(mask: u32) -> impl Fn(SegmentId) -> bool {
    move |id| mask & (1 << (id.as_bytes()[0] - 1)) != 0
}

/// A batch of 100 records from `first` on, about 300 KiB long.
pub fn big_batch(volume_epoch: u64, prev: u64, first: u64, vdl: u64) -> Batch {
    let mut builder = BatchBuilder::new(volume(), PgId::ROOT, epoch(volume_epoch), lsn(prev));
    for number in first..first + 100 {
        let record = Record {
            lsn: lsn(number),
            page: PageId::new(2),
            page_prev: lsn(number - 1),
            cpl: lsn(number),
            user_visible: false,
            op: Op::WriteBytes {
                offset: 0,
                bytes: vec![7; 3_000].into(),
            },
        };
        assert!(builder.push(&record));
    }
    builder.seal(lsn(vdl), 1)
}
