//! The offline inspection: what it says of a sound directory and of damage, and that it changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use sixfold_log_format::hot_log::{
    Entry, FileHeader, FileNumber, Found, decode_group, encode_group,
};
use sixfold_log_format::layer::{
    CatalogLayer, LAYER_HEADER_BYTES, LayerBuilder, LayerCatalog, LayerIdentity, LayerNumber,
    LayerOptions,
};
use sixfold_log_format::wire::{Message, Role};
use sixfold_log_format::{Lsn, Op, Page, PageId, PageKind, PgId, Record, apply};
use sixfold_storage_node::inspect::{HistoryKind, InspectError, Inspection, Verdict};

use crate::client::{Client, LAL, batch, bounded, segment, volume};
use crate::cluster::{Cluster, Daemon, node_id};
use crate::scratch::picture;

/// A directory with a segment and a few batches.
fn used(cluster: &Cluster) -> PathBuf {
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    bounded(async {
        let client = Client::connect(cluster, &daemon, Role::Writer).await;
        assert_eq!(client.create_segment().await, Message::Done);
        let mut stream = client.attach().await;
        let mut prev = Lsn::NONE;
        for number in 1..=5 {
            let batch = batch(LAL + number, prev);
            prev = batch.header().last;
            stream.append(&batch).await;
            stream.ack(|ack| ack.scl == prev).await;
        }
    });
    daemon.stop().unwrap();
    cluster.data_dir(1)
}

const FIRST: &str = "hot-log/0000000000000001.log";

fn header() -> FileHeader {
    FileHeader {
        node: node_id(1),
        file: FileNumber(1),
        block_bytes: 4096,
        first_sequence: 1,
        folded: FileNumber(0),
    }
}

/// Where the first hot-log file ends, and the next sequence number.
fn end_of(directory: &Path) -> (usize, u64) {
    let bytes = bytes::Bytes::from(fs::read(directory.join(FIRST)).unwrap());
    let (mut at, mut next) = (4096, 1);
    while let Found::Group {
        sequence,
        bytes: length,
        ..
    } = decode_group(&bytes.slice(at..), &header())
    {
        assert_eq!(sequence, next);
        at += length;
        next += 1;
    }
    (at, next)
}

/// Writes bytes into a file as they are.
fn patch(path: &Path, offset: usize, with: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset..offset + with.len()].copy_from_slice(with);
    fs::write(path, bytes).unwrap();
}

fn init(lsn: u64, page: u64) -> Record<'static> {
    Record {
        lsn: Lsn::new(lsn),
        page: PageId::new(page),
        page_prev: Lsn::NONE,
        cpl: Lsn::new(lsn),
        user_visible: false,
        op: Op::Init {
            kind: PageKind::Leaf,
            level: 0,
        },
    }
}

/// Puts a layer into the directory that holds what the first three batches hold, and its catalog into the hot log.
fn add_layer(directory: &Path) -> PathBuf {
    let mut builder = LayerBuilder::new(LayerOptions {
        identity: LayerIdentity {
            volume: volume(),
            pg: PgId::ROOT,
            segment: segment(1),
            layer: LayerNumber(1),
        },
        lsn_after: Lsn::new(LAL),
        lsn_through: Lsn::new(LAL + 3),
        unit_bytes: 4096,
        block_bytes: 128,
    });
    for number in 1..=3 {
        let record = init(LAL + number, LAL + number);
        builder.push_record(&record);
        let mut page = Page::new(record.page, 8192);
        apply(&mut page, &record).unwrap();
        builder.push_image(page.id(), page.lsn(), &page.pack());
    }
    let summary = builder.finish();
    let mut bytes = vec![0; builder.ready_bytes()];
    builder.take_ready(&mut bytes);
    fs::create_dir_all(directory.join("layers")).unwrap();
    let path = directory.join(format!("layers/{}-{:016x}.layer", segment(1), 1));
    fs::write(&path, bytes).unwrap();
    let catalog = LayerCatalog {
        folded_through: Lsn::new(LAL + 3),
        horizon: Lsn::NONE,
        next: LayerNumber(2),
        layers: vec![CatalogLayer {
            number: LayerNumber(1),
            summary,
        }],
    };
    let (end, next) = end_of(directory);
    let mut group = Vec::new();
    let entry = Entry::Catalog {
        segment: segment(1),
        catalog,
    };
    encode_group(&mut group, &header(), next, &[entry]);
    patch(&directory.join(FIRST), end, &group);
    path
}

#[test]
fn a_sound_directory_is_told_and_left_as_it_was() {
    let cluster = Cluster::new();
    let directory = used(&cluster);
    let before = picture(&directory);
    let found = Inspection::of(&directory).unwrap();
    assert_eq!(found.flaws, Vec::<String>::new());
    assert_eq!(found.verdict, Verdict::Clean);
    assert_eq!(found.superblock.node, node_id(1));
    assert_eq!(found.superblock_copies, [true, true]);
    let told = &found.segments[&segment(1)];
    assert_eq!(
        (told.scl(), told.highest()),
        (Lsn::new(LAL + 5), Lsn::new(LAL + 5))
    );
    assert_eq!(told.batches.len(), 5);
    assert_eq!(told.manifest.volume, volume());
    let page = found
        .page_history(None, PageId::new(LAL + 2), Lsn::MAX)
        .unwrap();
    assert_eq!(page.entries.len(), 1);
    assert_eq!(page.version.unwrap().lsn(), Lsn::new(LAL + 2));
    let earlier = found
        .page_history(None, PageId::new(LAL + 2), Lsn::new(LAL + 1))
        .unwrap();
    assert!(earlier.version.is_none() && earlier.entries.is_empty());
    drop(found);
    assert!(picture(&directory) == before, "the directory was touched");
    Daemon::start(cluster.options(1)).unwrap().stop().unwrap();
}

#[test]
fn a_directory_in_use_is_not_inspected_and_one_that_is_inspected_not_used() {
    let cluster = Cluster::new();
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    let directory = cluster.data_dir(1);
    let refused = Inspection::of(&directory).unwrap_err();
    assert!(matches!(refused, InspectError::InUse { .. }), "{refused}");
    daemon.stop().unwrap();
    let inspection = Inspection::of(&directory).unwrap();
    let line = crate::cluster::refusal(cluster.options(1));
    assert!(line.ends_with("is in use by another process"), "{line}");
    drop(inspection);
    Daemon::start(cluster.options(1)).unwrap().stop().unwrap();
}

#[test]
fn what_is_no_nodes_directory_is_refused() {
    let scratch = crate::scratch::scratch();
    assert!(matches!(
        Inspection::of(scratch.path()),
        Err(InspectError::File { .. })
    ));
    fs::write(scratch.path().join("superblock"), b"no").unwrap();
    assert!(matches!(
        Inspection::of(scratch.path()),
        Err(InspectError::Superblock { .. })
    ));
}

#[test]
fn a_torn_tail_and_damage_before_something_sound_are_told_apart() {
    let cluster = Cluster::new();
    let directory = used(&cluster);
    let (end, _) = end_of(&directory);
    patch(&directory.join(FIRST), end + 10, b"half a group");
    let found = Inspection::of(&directory).unwrap();
    let expected = Verdict::TornTail {
        file: FileNumber(1),
        offset: end as u64,
    };
    assert_eq!((found.verdict, found.flaws.len()), (expected, 0));

    patch(&directory.join(FIRST), 4096 + 100, b"damage");
    let found = Inspection::of(&directory).unwrap();
    assert!(
        matches!(
            found.verdict,
            Verdict::Corrupt {
                file: FileNumber(1),
                offset: 4096,
                ..
            }
        ),
        "{:?}",
        found.verdict
    );
    assert!(
        found.flaws[0].contains("is damaged at offset 4096"),
        "{:?}",
        found.flaws
    );
}

#[test]
fn a_damaged_copy_of_the_superblock_is_told() {
    let cluster = Cluster::new();
    let directory = used(&cluster);
    patch(&directory.join("superblock"), 5000, b"damage");
    let found = Inspection::of(&directory).unwrap();
    assert_eq!(found.superblock_copies, [true, false]);
    assert_eq!(found.flaws, ["superblock: copy 2 is damaged"]);
}

#[test]
fn a_missing_file_of_the_hot_log_is_told() {
    let cluster = Cluster::new();
    let directory = used(&cluster);
    let first = directory.join(FIRST);
    fs::rename(&first, directory.join("hot-log/0000000000000003.log")).unwrap();
    fs::write(&first, vec![0; 8 << 20]).unwrap();
    let _ = fs::remove_file(directory.join("hot-log/0000000000000002.log"));
    let found = Inspection::of(&directory).unwrap();
    assert!(
        matches!(found.verdict, Verdict::Corrupt { .. }),
        "{:?}",
        found.verdict
    );
    assert!(found.flaws[0].contains("missing"), "{:?}", found.flaws);
}

#[test]
fn a_page_is_told_from_layers_and_hot_log_together() {
    let cluster = Cluster::new();
    let directory = used(&cluster);
    add_layer(&directory);
    let stray = directory.join(format!("layers/{}-{:016x}.layer", segment(1), 9));
    fs::write(stray, b"garbage of a crash").unwrap();
    let found = Inspection::of(&directory).unwrap();
    assert_eq!(found.flaws, Vec::<String>::new());
    let layers: Vec<_> = found
        .layers
        .iter()
        .map(|layer| (layer.number.0, layer.listed, layer.sound))
        .collect();
    assert_eq!(layers, [(1, true, true), (9, false, false)]);
    let page = found
        .page_history(Some(segment(1)), PageId::new(LAL + 2), Lsn::MAX)
        .unwrap();
    assert_eq!(page.flaw, None);
    let kinds: Vec<_> = page.entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [HistoryKind::Record("init"), HistoryKind::Image]);
    assert!(
        page.entries[1].place.starts_with("layer"),
        "{:?}",
        page.entries
    );
    assert_eq!(found.segments[&segment(1)].scl(), Lsn::new(LAL + 5));
    let other = found.page_history(Some(segment(7)), PageId::new(1), Lsn::MAX);
    assert!(matches!(other, Err(InspectError::NoSegment { .. })));
}

#[test]
fn every_bit_flip_of_a_layer_is_told() {
    let cluster = Cluster::new();
    let directory = used(&cluster);
    let path = add_layer(&directory);
    let sound = fs::read(&path).unwrap();
    // Header, blocks, index, filter, some padding, footer: enough of each that the test stays short.
    let ends =
        (LAYER_HEADER_BYTES - 4..LAYER_HEADER_BYTES + 700).chain(sound.len() - 300..sound.len());
    for at in (0..40).chain(ends) {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, bytes).unwrap();
        let found = Inspection::of(&directory).unwrap();
        assert_eq!(found.flaws.len(), 1, "byte {at}: {:?}", found.flaws);
        assert!(!found.layers[0].sound, "byte {at}");
        assert!(found.flaws[0].starts_with("layer "), "{:?}", found.flaws);
    }
}

#[test]
fn a_layer_that_is_cut_anywhere_or_missing_is_told() {
    let cluster = Cluster::new();
    let directory = used(&cluster);
    let path = add_layer(&directory);
    let sound = fs::read(&path).unwrap();
    for length in (0..sound.len()).step_by(61) {
        fs::write(&path, &sound[..length]).unwrap();
        let found = Inspection::of(&directory).unwrap();
        assert!(found.flaws[0].contains("expected"), "{:?}", found.flaws);
    }
    fs::remove_file(&path).unwrap();
    let found = Inspection::of(&directory).unwrap();
    assert!(!found.layers[0].sound && found.flaws.len() == 1);
    let page = found
        .page_history(None, PageId::new(LAL + 2), Lsn::MAX)
        .unwrap();
    assert!(
        page.flaw.is_some(),
        "a page from a missing layer is no clean answer"
    );
}

#[test]
fn what_an_earlier_life_left_in_a_recycled_file_is_no_flaw_and_a_start_takes_it_as_not_begun() {
    let cluster = Cluster::new();
    let dir = used(&cluster);
    let hot_log = dir.join("hot-log");
    for entry in fs::read_dir(&hot_log).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("0000000000000001.log") {
            fs::remove_file(path).unwrap();
        }
    }
    let first = fs::read(dir.join(FIRST)).unwrap();
    let block = Inspection::of(&dir).unwrap().superblock.block_bytes as usize;
    let before = Inspection::of(&dir).unwrap();
    // As after a crash behind the renaming.
    let mut recycled = first;
    recycled[..block].fill(0);
    fs::write(hot_log.join("0000000000000002.log"), &recycled).unwrap();
    let inspection = Inspection::of(&dir).unwrap();
    assert_eq!(inspection.verdict, Verdict::Clean);
    assert_eq!(inspection.flaws, Vec::<String>::new());
    assert_eq!(inspection.files[1].group_count, 0);
    // As after a crash before it: the first file has lost its header.
    fs::remove_file(hot_log.join("0000000000000002.log")).unwrap();
    fs::write(dir.join(FIRST), &recycled).unwrap();
    let headless = Inspection::of(&dir).unwrap();
    assert_eq!(headless.verdict, Verdict::Clean);
    assert_eq!(headless.files[0].group_count, before.files[0].group_count);
    fs::write(hot_log.join("0000000000000002.log"), &recycled).unwrap();
    // Each holds a lock.
    let group_count = before.files[0].group_count;
    drop((before, inspection, headless));
    let daemon = Daemon::start(cluster.options(1)).unwrap();
    daemon.stop().unwrap();
    let started = Inspection::of(&dir).unwrap();
    assert_eq!(started.verdict, Verdict::Clean);
    assert_eq!(started.files[0].group_count, group_count);
}
