//! Layers: built in pieces, read in pieces; damage, truncation and hostile bytes.

use std::ops::Range;

use bytes::Bytes;
use proptest::prelude::*;
use sixfold_log_format::hot_log::{Entry, Found, decode_group, encode_group};
use sixfold_log_format::layer::{
    BLOCK_BYTES_USUAL, Block, CATALOG_LAYER_BYTES, CATALOG_LAYERS_MAX, CatalogLayer,
    LAYER_FOOTER_BYTES, LAYER_HEADER_BYTES, LAYER_VERSION, LayerBuilder, LayerCatalog, LayerEntry,
    LayerHeader, LayerIdentity, LayerIndex, LayerNumber, LayerOptions, LayerSummary, aligned,
};
use sixfold_log_format::{
    DecodeError, Lsn, Op, Page, PageId, PageKind, PgId, SegmentId, VolumeId, apply,
};

use crate::samples::{self, PAGE_BYTES, catalog, identity, init, layer, plain, record};

/// Everything that is pushed and read, in a form that compares.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plain {
    page: u64,
    lsn: u64,
    image: Option<Vec<u8>>,
    record: Option<String>,
}

fn plain_of(entry: &LayerEntry<'_>) -> Plain {
    let (image, record) = match entry {
        LayerEntry::Record(record) => (None, Some(format!("{record:?}"))),
        LayerEntry::Image(image) => (Some(image.packed.to_vec()), None),
    };
    Plain {
        page: entry.page().get(),
        lsn: entry.lsn().get(),
        image,
        record,
    }
}

fn part(bytes: &[u8], range: Range<u64>) -> Result<&[u8], DecodeError> {
    let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
    bytes.get(range.clone()).ok_or(DecodeError::Truncated {
        zone: "file",
        offset: bytes.len(),
        needed: range.end - bytes.len().min(range.end),
    })
}

/// Reads a whole layer as a node does that has the summary from its catalog.
fn read(summary: &LayerSummary, bytes: &[u8]) -> Result<Vec<Plain>, DecodeError> {
    let index = LayerIndex::decode(summary, part(bytes, summary.index_range())?)?;
    let mut entries = Vec::new();
    for number in 0..index.block_count() {
        let at = index.block(number);
        let block = Bytes::copy_from_slice(part(bytes, at.range())?);
        let block = Block::decode(&summary.identity, &at, block)?;
        for entry in block.entries() {
            entries.push(plain_of(&entry?));
        }
    }
    Ok(entries)
}

/// Reads a whole layer as somebody does who has nothing but the file, and checks all of it.
fn read_alone(bytes: &[u8]) -> Result<Vec<Plain>, DecodeError> {
    let summary = LayerSummary::decode_footer(bytes, bytes.len() as u64)?;
    let header = LayerHeader::decode(bytes)?;
    assert_eq!(header, summary.header());
    let body = &bytes[..bytes.len() - LAYER_FOOTER_BYTES];
    let found = sixfold_log_format::checksum::checksum(&[], body);
    if found != summary.file_checksum {
        return Err(DecodeError::Checksum {
            zone: "file",
            found,
            expected: summary.file_checksum,
        });
    }
    read(&summary, bytes)
}

#[test]
fn a_layer_comes_back_as_it_was_pushed() {
    let (bytes, summary) = layer();
    assert_eq!(bytes.len() as u64, summary.file_bytes);
    assert_eq!(bytes.len() % 512, 0);
    let mut expected: Vec<Plain> = samples::records()
        .into_iter()
        .map(|record| plain_of(&LayerEntry::Record(record)))
        .collect();
    let leaf = samples::leaf();
    expected.push(Plain {
        page: 9,
        lsn: leaf.lsn().get(),
        image: Some(leaf.pack()),
        record: None,
    });
    expected.sort_by_key(|entry| (entry.page, entry.lsn));
    assert_eq!(read(&summary, &bytes).unwrap(), expected);
    assert_eq!(read_alone(&bytes).unwrap(), expected);
    assert_eq!(
        (
            summary.record_count,
            summary.image_count,
            summary.page_count
        ),
        (14, 1, 4)
    );
    assert_eq!(
        (summary.page_first.get(), summary.page_last.get()),
        (1, 70_000)
    );
    assert!(summary.block_count > 1);
    let last_unit = &bytes[bytes.len() - 512..];
    assert_eq!(
        LayerSummary::decode_footer(last_unit, summary.file_bytes).unwrap(),
        summary,
        "the last unit is enough"
    );
}

#[test]
fn an_image_gives_the_same_bytes_as_the_page_had() {
    let leaf = samples::leaf();
    let (bytes, summary) = layer();
    let index = LayerIndex::decode(&summary, part(&bytes, summary.index_range()).unwrap()).unwrap();
    let mut found = false;
    for number in index.blocks_for(leaf.id(), Lsn::NONE, leaf.lsn()) {
        let at = index.block(number);
        let block = Bytes::copy_from_slice(part(&bytes, at.range()).unwrap());
        let block = Block::decode(&summary.identity, &at, block).unwrap();
        for entry in block.entries() {
            if let LayerEntry::Image(image) = entry.unwrap() {
                assert_eq!(image.unpack(PAGE_BYTES).unwrap(), leaf);
                assert!(image.unpack(2 * PAGE_BYTES).is_err(), "of another size");
                found = true;
            }
        }
    }
    assert!(found);
}

#[test]
fn a_packed_page_keeps_its_fragments_and_an_image_does_not() {
    let leaf = samples::leaf();
    let packed = leaf.pack();
    assert_eq!(Page::unpack(&packed, leaf.id(), PAGE_BYTES).unwrap(), leaf);
    assert!(packed.len() > leaf.image().len());
    assert!(Page::unpack(&packed, PageId::new(8), PAGE_BYTES).is_err());
    assert!(Page::unpack(&packed, leaf.id(), 500).is_err());
    let meta = {
        let mut page = Page::new(PageId::META, PAGE_BYTES);
        apply(&mut page, &init(10, 1, PageKind::Meta)).unwrap();
        page
    };
    assert_eq!(
        Page::unpack(&meta.pack(), PageId::META, PAGE_BYTES).unwrap(),
        meta
    );
}

#[test]
fn every_bit_flip_of_a_layer_is_detected() {
    let (sound, summary) = layer();
    let expected = read(&summary, &sound).unwrap();
    let padding = summary.index_range().end..(sound.len() - LAYER_FOOTER_BYTES) as u64;
    for bit in 0..sound.len() * 8 {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read_alone(&bytes).is_err(), "bit {bit}");
        // A node that has the summary from its catalog does not look at header, footer and padding.
        let at = (bit / 8) as u64;
        let looked_at = (LAYER_HEADER_BYTES as u64..padding.start).contains(&at);
        match read(&summary, &bytes) {
            Ok(found) => assert!(!looked_at && found == expected, "bit {bit}"),
            Err(_) => assert!(looked_at, "bit {bit}"),
        }
    }
}

#[test]
fn a_layer_that_is_cut_anywhere_is_refused() {
    let (sound, summary) = layer();
    let used = usize::try_from(summary.index_range().end).unwrap();
    for length in 0..sound.len() {
        let bytes = &sound[..length];
        assert!(
            LayerSummary::decode_footer(bytes, length as u64).is_err(),
            "{length} bytes"
        );
        assert_eq!(
            read(&summary, bytes).is_err(),
            length < used,
            "{length} bytes"
        );
    }
    assert!(LayerSummary::decode_footer(&sound, summary.file_bytes + 512).is_err());
    for length in 0..LAYER_HEADER_BYTES {
        assert!(LayerHeader::decode(&sound[..length]).is_err());
    }
}

#[test]
fn blocks_of_another_layer_segment_volume_or_place_do_not_verify() {
    let (bytes, summary) = layer();
    let index = LayerIndex::decode(&summary, part(&bytes, summary.index_range()).unwrap()).unwrap();
    let at = index.block(1);
    let block = Bytes::copy_from_slice(part(&bytes, at.range()).unwrap());
    assert!(Block::decode(&summary.identity, &at, block.clone()).is_ok());
    let others = [
        LayerIdentity {
            layer: LayerNumber(8),
            ..identity()
        },
        LayerIdentity {
            segment: SegmentId::from_bytes([1; 16]),
            ..identity()
        },
        LayerIdentity {
            volume: VolumeId::from_bytes([1; 16]),
            ..identity()
        },
        LayerIdentity {
            pg: PgId::new(9),
            ..identity()
        },
    ];
    for other in others {
        assert!(
            matches!(
                Block::decode(&other, &at, block.clone()),
                Err(DecodeError::Checksum { .. })
            ),
            "{other:?}"
        );
        let summary = LayerSummary {
            identity: other,
            ..summary.clone()
        };
        assert!(
            LayerIndex::decode(&summary, part(&bytes, summary.index_range()).unwrap()).is_err()
        );
    }
    let mut moved = at;
    moved.number = 0;
    assert!(Block::decode(&summary.identity, &moved, block).is_err());
}

#[test]
fn a_newer_version_is_named() {
    let newer = |mut bytes: Vec<u8>| {
        bytes[12] = LAYER_VERSION.to_le_bytes()[0] + 1;
        let checksum = sixfold_log_format::checksum::checksum(&[], &bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    };
    let (bytes, summary) = layer();
    let header = newer(bytes[..LAYER_HEADER_BYTES].to_vec());
    assert!(matches!(
        LayerHeader::decode(&header),
        Err(DecodeError::Version { found: 2, .. })
    ));
    let footer = newer(bytes[bytes.len() - LAYER_FOOTER_BYTES..].to_vec());
    assert!(matches!(
        LayerSummary::decode_footer(&footer, summary.file_bytes),
        Err(DecodeError::Version { found: 2, .. })
    ));
    let mut catalog = catalog().encode();
    catalog[0] = 9;
    assert!(matches!(
        LayerCatalog::decode(&catalog),
        Err(DecodeError::Version { found: 9, .. })
    ));
}

fn options(unit_bytes: u32, block_bytes: u32) -> LayerOptions {
    LayerOptions {
        identity: identity(),
        lsn_after: Lsn::NONE,
        lsn_through: Lsn::new(1 << 40),
        unit_bytes,
        block_bytes,
    }
}

fn panics(action: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    std::panic::catch_unwind(action).is_err()
}

#[test]
fn entries_out_of_order_or_out_of_range_are_a_bug_of_the_caller() {
    let push = |first: (u64, u64), second: (u64, u64)| {
        panics(move || {
            let mut builder = LayerBuilder::new(options(512, 512));
            builder.push_record(&init(first.1, first.0, PageKind::Leaf));
            builder.push_record(&init(second.1, second.0, PageKind::Leaf));
        })
    };
    assert!(!push((3, 10), (3, 11)));
    assert!(!push((3, 10), (4, 9)));
    assert!(push((3, 10), (3, 10)));
    assert!(push((3, 10), (3, 9)));
    assert!(push((3, 10), (2, 11)));
    let range = |lsn: u64| {
        panics(move || {
            let mut builder = LayerBuilder::new(LayerOptions {
                lsn_after: Lsn::new(5),
                lsn_through: Lsn::new(7),
                ..options(512, 512)
            });
            builder.push_record(&init(lsn, 3, PageKind::Leaf));
        })
    };
    assert!(range(5) && !range(6) && !range(7) && range(8));
    assert!(panics(|| {
        LayerBuilder::new(options(512, 512)).finish();
    }));
}

#[test]
fn a_record_stands_before_the_image_of_the_same_lsn() {
    let mut page = Page::new(PageId::new(3), PAGE_BYTES);
    let first = init(10, 3, PageKind::Leaf);
    apply(&mut page, &first).unwrap();
    let mut builder = LayerBuilder::new(options(512, 512));
    builder.push_record(&first);
    builder.push_image(page.id(), page.lsn(), &page.pack());
    assert!(panics(move || builder.push_record(&first)));
}

/// Takes what is ready in pieces of at most `piece` bytes.
fn take(builder: &mut LayerBuilder, out: &mut Vec<u8>, piece: usize) {
    while builder.ready_bytes() > 0 {
        let mut bytes = vec![0; builder.ready_bytes().min(piece)];
        let offset = builder.take_ready(&mut bytes);
        assert_eq!(offset, out.len() as u64, "without gaps");
        out.extend_from_slice(&bytes);
    }
}

#[test]
fn a_large_layer_takes_bounded_memory_and_finds_every_page() {
    let mut builder = LayerBuilder::new(options(4096, BLOCK_BYTES_USUAL));
    let mut bytes = Vec::new();
    let value = [7; 100];
    let mut lsn = 0;
    for page in 1..=20_000_u64 {
        lsn += 1;
        builder.push_record(&init(lsn, 3 * page, PageKind::Leaf));
        for _ in 0..2 {
            lsn += 1;
            let op = Op::Insert {
                slot: 0,
                cell: plain(b"sixteen byte key", &value),
            };
            builder.push_record(&record(lsn, 3 * page, lsn - 1, op));
        }
        if builder.ready_bytes() >= 64 << 10 {
            take(&mut builder, &mut bytes, 32 << 10);
        }
        assert!(builder.memory_bytes() < 1 << 20);
    }
    let data = builder.data_bytes();
    let summary = builder.finish();
    take(&mut builder, &mut bytes, 1 << 20);
    assert_eq!(builder.ready_bytes(), 0);
    assert_eq!(summary.file_bytes, bytes.len() as u64);
    assert_eq!(summary.index_offset, data);
    let overhead = summary.file_bytes - data;
    assert!(overhead * 50 < data, "{overhead} bytes beside {data}");
    let index = LayerIndex::decode(&summary, part(&bytes, summary.index_range()).unwrap()).unwrap();
    assert!(index.memory_bytes() as u64 * 100 < data);
    let mut wrong = 0;
    for page in 1..=60_000 {
        let blocks = index.blocks_for(PageId::new(page), Lsn::NONE, Lsn::MAX);
        if page % 3 == 0 {
            assert!((1..=2).contains(&blocks.len()), "page {page}: {blocks:?}");
        } else {
            wrong += u32::from(!blocks.is_empty());
        }
    }
    assert!(
        wrong < 800,
        "{wrong} of 40,000 absent pages pass the filter"
    );
    assert!(
        index
            .blocks_for(PageId::new(60_001), Lsn::NONE, Lsn::MAX)
            .is_empty()
    );
}

#[test]
fn reads_are_widened_to_whole_units() {
    assert_eq!(aligned(&(0..1), 512), 0..512);
    assert_eq!(aligned(&(511..513), 512), 0..1024);
    assert_eq!(aligned(&(512..1024), 512), 512..1024);
}

#[test]
fn a_catalog_comes_back_as_it_was() {
    let catalog = catalog();
    let bytes = catalog.encode();
    assert_eq!(LayerCatalog::decode(&bytes).unwrap(), catalog);
    for length in 0..bytes.len() {
        assert!(
            LayerCatalog::decode(&bytes[..length]).is_err(),
            "{length} bytes"
        );
    }
    assert!(LayerCatalog::decode(&[&bytes[..], &[0]].concat()).is_err());
    let empty = LayerCatalog::empty();
    assert_eq!(LayerCatalog::decode(&empty.encode()).unwrap(), empty);
    let each = (bytes.len() - empty.encode().len()) / catalog.layers.len();
    assert_eq!(each, CATALOG_LAYER_BYTES);
    assert_eq!(catalog.layer(LayerNumber(7)), Some(&catalog.layers[0]));
    assert_eq!(catalog.layer(LayerNumber(8)), None);
    assert_eq!(
        catalog.file_bytes(),
        2 * catalog.layers[0].summary.file_bytes
    );
}

#[test]
fn a_catalog_that_breaks_a_rule_is_never_written() {
    let refused = |change: fn(&mut LayerCatalog)| {
        let mut catalog = catalog();
        change(&mut catalog);
        panics(move || drop(catalog.encode()))
    };
    assert!(!refused(|_| {}));
    assert!(refused(|catalog| catalog.next = LayerNumber(9)));
    assert!(refused(|catalog| catalog.layers.swap(0, 1)));
    assert!(refused(|catalog| catalog.folded_through = Lsn::new(119)));
    assert!(refused(|catalog| catalog.horizon = Lsn::new(201)));
    assert!(refused(|catalog| {
        let layer = catalog.layers[0].clone();
        catalog.next = LayerNumber(1 << 20);
        catalog.layers = (1..=CATALOG_LAYERS_MAX as u64 + 1)
            .map(|number| CatalogLayer {
                number: LayerNumber(number),
                ..layer.clone()
            })
            .collect();
    }));
}

#[test]
fn the_largest_catalog_fits_a_group() {
    let layer = catalog().layers[0].clone();
    let catalog = LayerCatalog {
        next: LayerNumber(1 << 20),
        layers: (1..=CATALOG_LAYERS_MAX as u64)
            .map(|number| CatalogLayer {
                number: LayerNumber(number),
                ..layer.clone()
            })
            .collect(),
        ..catalog()
    };
    let entry = Entry::Catalog {
        segment: samples::segment(1),
        catalog,
    };
    let mut out = Vec::new();
    encode_group(
        &mut out,
        &samples::file_header(),
        5,
        std::slice::from_ref(&entry),
    );
    let Found::Group { entries, .. } = decode_group(&out.into(), &samples::file_header()) else {
        panic!("no group")
    };
    assert_eq!(entries[0].1, entry);
}

/// Random runs of entries: page, LSNs of its records, and whether an image follows.
fn runs() -> impl Strategy<Value = Vec<(u64, Vec<(u8, bool)>)>> {
    let entries = prop::collection::vec((1..9_u8, any::<bool>()), 1..12);
    prop::collection::vec((1..50_u64, entries), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn blocks_for_finds_what_a_full_scan_finds(
        runs in runs(), block_bytes in 64..2_000_u32, piece in 1..5_usize,
    ) {
        let mut builder = LayerBuilder::new(options(512, block_bytes));
        let (mut bytes, mut pushed, mut page) = (Vec::new(), Vec::new(), 0);
        for (step, entries) in &runs {
            page += step;
            let mut lsn = 100 - page.min(90);
            for (gap, image) in entries {
                lsn += u64::from(*gap);
                let record = init(lsn, page, PageKind::Leaf);
                builder.push_record(&record);
                pushed.push(plain_of(&LayerEntry::Record(record.clone())));
                if *image {
                    let mut formatted = Page::new(PageId::new(page), PAGE_BYTES);
                    apply(&mut formatted, &record).unwrap();
                    builder.push_image(PageId::new(page), Lsn::new(lsn), &formatted.pack());
                    pushed.push(Plain { page, lsn, image: Some(formatted.pack()), record: None });
                }
                take(&mut builder, &mut bytes, 512 * piece);
            }
        }
        let summary = builder.finish();
        take(&mut builder, &mut bytes, 512 * piece);
        prop_assert_eq!(&read_alone(&bytes).unwrap(), &pushed);
        let index = LayerIndex::decode(&summary, part(&bytes, summary.index_range()).unwrap()).unwrap();
        for page in 0..page + 3 {
            for (after, through) in [(0, 1 << 40), (0, 60), (20, 70), (50, 51), (90, 300)] {
                let wanted = |entry: &&Plain| entry.page == page && entry.lsn > after && entry.lsn <= through;
                let mut found = Vec::new();
                for number in index.blocks_for(PageId::new(page), Lsn::new(after), Lsn::new(through)) {
                    let at = index.block(number);
                    let block = Bytes::copy_from_slice(part(&bytes, at.range()).unwrap());
                    let block = Block::decode(&summary.identity, &at, block).unwrap();
                    found.extend(block.entries().map(|entry| plain_of(&entry.unwrap())));
                }
                let found: Vec<_> = found.iter().filter(wanted).collect();
                let expected: Vec<_> = pushed.iter().filter(wanted).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
