//! One of everything, always the same: what golden files, bit flips, truncations and mutations work on.

use std::borrow::Cow;

use bytes::Bytes;
use sixfold_log_format::hot_log::{Entry, FileHeader, FileNumber, Superblock, encode_group};
use sixfold_log_format::layer::{
    CatalogLayer, LayerBuilder, LayerCatalog, LayerIdentity, LayerNumber, LayerOptions,
    LayerSummary,
};
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::{
    AnnulledRange, Batch, BatchBuilder, Cell, CellFlags, History, Lsn, Manifest, ManifestVersion,
    Member, MemberKind, MembershipEpoch, NodeId, Op, Page, PageId, PageKind, PgEntry, PgId,
    QuorumModel, Record, SegmentId, SegmentSet, Stamp, TokenDigest, VolumeEpoch, VolumeId,
    VolumeParameters, WriterId, apply,
};

pub const VOLUME: VolumeId = VolumeId::from_bytes([0x11; 16]);
pub const NODE: NodeId = NodeId::from_bytes([0x22; 16]);
pub const WRITER: WriterId = WriterId::from_bytes([0x33; 16]);
pub const VOLUME_EPOCH: VolumeEpoch = VolumeEpoch::new(7);
pub const PAGE_BYTES: usize = 512;
pub const UNIX_MS: u64 = 1_790_000_000_000;

pub fn segment(number: u8) -> SegmentId {
    SegmentId::from_bytes([0x40 + number; 16])
}

pub fn plain<'a>(key: &'a [u8], value: &'a [u8]) -> Cell<'a> {
    Cell {
        key: Cow::Borrowed(key),
        value: Cow::Borrowed(value),
        stamp: Stamp::Commit,
        flags: CellFlags::PLAIN,
        deadline_ms: None,
    }
}

pub fn record(lsn: u64, page: u64, page_prev: u64, op: Op<'_>) -> Record<'_> {
    Record {
        lsn: Lsn::new(lsn),
        page: PageId::new(page),
        page_prev: Lsn::new(page_prev),
        cpl: Lsn::new(lsn),
        user_visible: false,
        op,
    }
}

pub fn init(lsn: u64, page: u64, kind: PageKind) -> Record<'static> {
    record(
        lsn,
        page,
        0,
        Op::Init {
            kind,
            level: u8::from(kind == PageKind::Inner),
        },
    )
}

/// A leaf with three cells, one of them with a deadline, one removed, so that there is a fragment.
pub fn leaf() -> Page {
    let mut page = Page::new(PageId::new(9), PAGE_BYTES);
    let mut expiring = plain(b"cherry", b"red");
    expiring.flags = CellFlags::DEADLINE.with(CellFlags::OVERFLOW);
    expiring.deadline_ms = Some(UNIX_MS);
    expiring.stamp = Stamp::At(Lsn::new(3));
    let records = [
        init(10, 9, PageKind::Leaf),
        record(
            11,
            9,
            10,
            Op::Insert {
                slot: 0,
                cell: plain(b"banana", b"yellow"),
            },
        ),
        record(
            12,
            9,
            11,
            Op::Insert {
                slot: 1,
                cell: expiring,
            },
        ),
        record(
            13,
            9,
            12,
            Op::Insert {
                slot: 0,
                cell: plain(b"apple", b"green"),
            },
        ),
        record(
            14,
            9,
            13,
            Op::Remove {
                slot: 1,
                key: Cow::Borrowed(b""),
            },
        ),
    ];
    for record in &records {
        apply(&mut page, record).unwrap();
    }
    page
}

/// Every kind of operation, and every flag.
pub fn records() -> Vec<Record<'static>> {
    let mut expiring = plain(b"key-2", b"reference");
    expiring.flags = CellFlags::OVERFLOW.with(CellFlags::DEADLINE);
    expiring.deadline_ms = Some(UNIX_MS + 500);
    let mut carried = plain(b"key-3", b"carried along by a split");
    carried.stamp = Stamp::At(Lsn::new(77));
    let mut child = plain(b"", &[5, 0, 0, 0, 0, 0, 0, 0]);
    child.stamp = Stamp::At(Lsn::NONE);
    let image = Cow::Owned(leaf().image());
    let ops = vec![
        (
            4,
            0,
            false,
            Op::Init {
                kind: PageKind::Leaf,
                level: 0,
            },
        ),
        (
            4,
            101,
            true,
            Op::Insert {
                slot: 0,
                cell: plain(b"key-1", b"value"),
            },
        ),
        (
            4,
            102,
            true,
            Op::Insert {
                slot: 1,
                cell: expiring,
            },
        ),
        (
            4,
            103,
            false,
            Op::Insert {
                slot: 2,
                cell: carried,
            },
        ),
        (
            70_000,
            0,
            false,
            Op::Init {
                kind: PageKind::Inner,
                level: 1,
            },
        ),
        (
            70_000,
            105,
            false,
            Op::Insert {
                slot: 0,
                cell: child,
            },
        ),
        (
            4,
            104,
            true,
            Op::Replace {
                slot: 0,
                cell: plain(b"key-1", b"other value"),
            },
        ),
        (
            4,
            107,
            true,
            Op::Remove {
                slot: 0,
                key: Cow::Borrowed(b"key-1"),
            },
        ),
        (
            4,
            108,
            false,
            Op::Remove {
                slot: 0,
                key: Cow::Borrowed(b""),
            },
        ),
        (4, 109, false, Op::Truncate { from_slot: 0 }),
        (
            1,
            90,
            false,
            Op::WriteBytes {
                offset: 16,
                bytes: Cow::Borrowed(b"allocation map"),
            },
        ),
        (9, 0, false, Op::Image { bytes: image }),
        (
            1,
            111,
            true,
            Op::DeleteRange {
                start: Cow::Borrowed(b"a"),
                end: Cow::Borrowed(b"b"),
            },
        ),
        (1, 113, false, Op::Clock { unix_ms: UNIX_MS }),
    ];
    (101..)
        .zip(ops)
        .map(|(lsn, (page, page_prev, user_visible, op))| Record {
            lsn: Lsn::new(lsn),
            page: PageId::new(page),
            page_prev: Lsn::new(page_prev),
            // The first eleven records are one MTR.
            cpl: Lsn::new(lsn.max(111)),
            user_visible,
            op,
        })
        .collect()
}

pub fn batch() -> Batch {
    let mut builder = BatchBuilder::new(VOLUME, PgId::new(2), VOLUME_EPOCH, Lsn::new(90));
    for record in records() {
        assert!(builder.push(&record));
    }
    // Behind a gap, where another PG's records lie.
    assert!(builder.push(&record(
        200,
        1,
        114,
        Op::Clock {
            unix_ms: UNIX_MS + 100
        }
    )));
    builder.seal(Lsn::new(80), UNIX_MS)
}

pub fn small_batch(first: u64) -> Bytes {
    let mut builder = BatchBuilder::new(VOLUME, PgId::ROOT, VOLUME_EPOCH, Lsn::new(first - 1));
    assert!(builder.push(&init(first, 4, PageKind::Leaf)));
    builder.seal(Lsn::new(first - 1), UNIX_MS).bytes().clone()
}

pub fn set(model: QuorumModel, first: u8) -> SegmentSet {
    let members = (first..).take(model.member_count()).map(|number| Member {
        segment: segment(number),
        node: NodeId::from_bytes([number; 16]),
        kind: if model == QuorumModel::FullTail && number % 2 == 1 {
            MemberKind::Tail
        } else {
            MemberKind::Full
        },
        joining: number == 7,
    });
    SegmentSet {
        model,
        members: members.collect(),
    }
}

pub fn manifest() -> Manifest {
    let pg = |number, sets| PgEntry {
        pg: PgId::new(number),
        sets,
        removed: Vec::new(),
    };
    let mut pgs = vec![
        pg(
            0,
            vec![
                set(QuorumModel::FourOfSix, 0),
                set(QuorumModel::FourOfSix, 2),
            ],
        ),
        pg(1, vec![set(QuorumModel::ThreeOfFour, 10)]),
        pg(2, vec![set(QuorumModel::FullTail, 20)]),
    ];
    pgs[0].removed = vec![segment(60)];
    Manifest {
        version: ManifestVersion {
            volume_epoch: VOLUME_EPOCH,
            membership_epoch: MembershipEpoch::new(3),
        },
        volume: VOLUME,
        parameters: VolumeParameters {
            page_bytes: 8192,
            lal: 10_000_000,
            pages_per_pg: 1 << 20,
            retention_ms: 60_000,
            retention_bytes: 0,
            token: None,
        },
        pgs,
        hints: vec![NodeHint {
            node: NODE,
            az: "az1".into(),
            address: "127.0.0.1:7001".into(),
        }],
    }
}

/// The same of a volume with a token.
pub fn manifest_with_token() -> Manifest {
    let mut manifest = manifest();
    manifest.parameters.token = Some(TokenDigest::from_bytes([7; 32]));
    manifest
}

pub fn history() -> History {
    let range = |after, through, volume_epoch| AnnulledRange {
        after: Lsn::new(after),
        through: Lsn::new(through),
        volume_epoch: VolumeEpoch::new(volume_epoch),
    };
    History {
        volume_epoch: VOLUME_EPOCH,
        floor: Lsn::new(50),
        ranges: vec![range(50, 60, 3), range(80, 95, 6), range(95, 99, 7)],
    }
}

pub fn file_header() -> FileHeader {
    FileHeader {
        node: NODE,
        file: FileNumber(3),
        block_bytes: 512,
        first_sequence: 1_000,
        folded: FileNumber(0),
    }
}

pub fn superblock() -> Superblock {
    Superblock {
        node: NODE,
        block_bytes: 4096,
        file_bytes: 64 << 20,
    }
}

pub fn entries() -> Vec<Entry> {
    vec![
        Entry::Created {
            segment: segment(1),
            pg: PgId::ROOT,
            manifest: manifest(),
        },
        Entry::Claim {
            segment: segment(1),
            volume_epoch: VOLUME_EPOCH,
            writer: WRITER,
        },
        Entry::Install {
            segment: segment(1),
            volume_epoch: VOLUME_EPOCH,
            writer: WRITER,
            history: history(),
            manifest: manifest(),
        },
        Entry::Batch {
            segment: segment(1),
            bytes: small_batch(101),
        },
        Entry::State {
            segment: segment(2),
            pg: PgId::new(1),
            volume_epoch: VOLUME_EPOCH,
            writer: WRITER,
            history: history(),
            manifest: manifest(),
            scl: Lsn::new(300),
            vdl: Lsn::new(290),
            catalog: catalog(),
        },
        Entry::Catalog {
            segment: segment(2),
            catalog: catalog(),
        },
        Entry::Dropped {
            segment: segment(3),
        },
    ]
}

/// A tombstone, which came later than the golden group.
pub fn removed() -> Entry {
    Entry::Removed {
        segment: segment(60),
        pg: PgId::ROOT,
        manifest: manifest(),
    }
}

pub fn removed_group() -> Bytes {
    let mut out = Vec::new();
    encode_group(&mut out, &file_header(), 1_001, &[removed()]);
    out.into()
}

pub fn group() -> Bytes {
    let mut out = Vec::new();
    encode_group(&mut out, &file_header(), 1_000, &entries());
    out.into()
}

pub fn identity() -> LayerIdentity {
    LayerIdentity {
        volume: VOLUME,
        pg: PgId::new(2),
        segment: segment(1),
        layer: LayerNumber(7),
    }
}

/// Every kind of record and an image, in small blocks.
pub fn layer() -> (Vec<u8>, LayerSummary) {
    let mut builder = LayerBuilder::new(LayerOptions {
        identity: identity(),
        lsn_after: Lsn::new(100),
        lsn_through: Lsn::new(120),
        unit_bytes: 512,
        block_bytes: 200,
    });
    let mut records = records();
    records.sort_by_key(|record| (record.page, record.lsn));
    let leaf = leaf();
    for record in &records {
        if record.page == leaf.id() {
            builder.push_image(leaf.id(), leaf.lsn(), &leaf.pack());
        }
        builder.push_record(record);
    }
    let summary = builder.finish();
    let mut bytes = vec![0; builder.ready_bytes()];
    assert_eq!(builder.take_ready(&mut bytes), 0);
    (bytes, summary)
}

/// Two layers, the second one copied from a peer.
pub fn catalog() -> LayerCatalog {
    let (_, summary) = layer();
    let mut copied = summary.clone();
    copied.identity.segment = segment(4);
    copied.identity.layer = LayerNumber(2);
    LayerCatalog {
        folded_through: Lsn::new(200),
        horizon: Lsn::new(110),
        next: LayerNumber(12),
        layers: vec![
            CatalogLayer {
                number: LayerNumber(7),
                summary,
            },
            CatalogLayer {
                number: LayerNumber(11),
                summary: copied,
            },
        ],
    }
}
