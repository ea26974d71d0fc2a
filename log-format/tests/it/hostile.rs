//! Hostile bytes: random ones, and sound ones with a few changes, into every decoder and into `apply`. Nothing may panic,
//! and what passes must be usable.

use bytes::Bytes;
use proptest::prelude::*;
use sixfold_log_format::checksum::checksum;
use sixfold_log_format::hot_log::{FileHeader, Found, Superblock, decode_group};
use sixfold_log_format::layer::{
    Block, BlockAt, LAYER_FOOTER_BYTES, LayerCatalog, LayerEntry, LayerHeader, LayerIndex,
    LayerSummary,
};
use sixfold_log_format::wire::Message;
use sixfold_log_format::{
    Batch, DecodeError, History, Lsn, Manifest, Op, Page, PageId, PageKind, apply,
};

use crate::messages::messages;
use crate::samples::{self, PAGE_BYTES, VOLUME, file_header, init, record};

/// Changes to make to sound bytes: at a share of the length, put a byte, or cut, or insert.
fn mutate(mut bytes: Vec<u8>, changes: &[(u16, u8, u8)]) -> Vec<u8> {
    for (place, what, byte) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = usize::from(*place) * bytes.len() / 65_536;
        match what % 8 {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, *byte),
            2 => bytes.truncate(at),
            3 => bytes[at] = 0xff,
            4 => bytes[at] ^= 1 << (byte % 8),
            _ => bytes[at] = *byte,
        }
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(u16, u8, u8)>> {
    prop::collection::vec(any::<(u16, u8, u8)>(), 1..6)
}

/// Makes the checksum at the start fit, so that a mutation reaches what lies behind the checksum.
fn sealed(mut bytes: Vec<u8>, seed: &[u8]) -> Vec<u8> {
    if bytes.len() >= 4 {
        let checksum = checksum(seed, &bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes
}

fn use_page(decoded: Result<Page, DecodeError>) {
    let Ok(mut page) = decoded else { return };
    let _ = (
        page.image(),
        page.encode(),
        page.find(b"m"),
        page.cells().count(),
    );
    let (id, lsn) = (page.id().get(), page.lsn().get());
    if lsn < u64::MAX - 2 {
        let op = Op::Insert {
            slot: 0,
            cell: samples::plain(b"!", b"12345678"),
        };
        let _ = apply(&mut page, &record(lsn + 1, id, lsn, op));
        let image = page.image();
        let op = Op::Image {
            bytes: image.into(),
        };
        apply(&mut page, &record(lsn + 2, id, 0, op)).unwrap();
    }
}

fn use_batch(decoded: Result<Batch, DecodeError>) {
    let Ok(batch) = decoded else { return };
    assert_eq!(
        batch.records().count(),
        batch.header().record_count as usize
    );
    for placed in batch.records() {
        let mut page = Page::new(placed.record.page, PAGE_BYTES);
        let _ = apply(&mut page, &placed.record);
        let mut page = samples::leaf();
        let here = sixfold_log_format::Record {
            page: page.id(),
            ..placed.record.clone()
        };
        let _ = apply(&mut page, &here);
        Page::decode(&page.encode(), page.id(), PAGE_BYTES).unwrap();
    }
}

fn use_message(body: &Bytes) {
    if let Ok(message) = Message::decode(body.clone()) {
        let again = message.encode().to_bytes().slice(4..);
        assert_eq!(again, *body, "what is read is written again the same");
    }
}

fn group_seed(header: &FileHeader) -> Vec<u8> {
    [&header.node.as_bytes()[..], &header.file.0.to_le_bytes()].concat()
}

fn layer_part(bytes: &[u8], range: std::ops::Range<u64>) -> &[u8] {
    &bytes[range.start as usize..range.end as usize]
}

/// The checksum seed of block 1, of the index, of the filter.
fn layer_seed(kind: u8) -> Vec<u8> {
    let identity = samples::identity();
    let number = u32::from(kind == 1);
    [
        &identity.volume.as_bytes()[..],
        &identity.pg.get().to_le_bytes(),
        identity.segment.as_bytes(),
        &identity.layer.0.to_le_bytes(),
        &[kind],
        &number.to_le_bytes(),
    ]
    .concat()
}

fn with_length(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = bytes.len() as u32;
    if let Some(field) = bytes.get_mut(4..8) {
        field.copy_from_slice(&length.to_le_bytes());
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let shared = Bytes::from(bytes.clone());
        use_batch(Batch::decode(shared.clone(), VOLUME));
        use_message(&shared);
        let _ = Manifest::decode(&bytes);
        let _ = History::decode(&bytes);
        let _ = Superblock::decode(&bytes);
        let _ = FileHeader::decode(&bytes);
        let _ = LayerHeader::decode(&bytes);
        let _ = LayerCatalog::decode(&bytes);
        let _ = LayerSummary::decode_footer(&bytes, 4096);
        let _ = Page::unpack(&bytes, PageId::new(9), PAGE_BYTES);
        let _ = decode_group(&shared, &file_header());
        use_page(Page::decode(&bytes, PageId::new(9), PAGE_BYTES));
        let mut page = samples::leaf();
        let image = record(15, 9, 0, Op::Image { bytes: bytes.into() });
        let _ = apply(&mut page, &image);
    }

    #[test]
    fn mutated_batches_never_panic(changes in changes(), fit in any::<bool>()) {
        let mut bytes = mutate(samples::batch().bytes().to_vec(), &changes);
        if fit {
            let length = bytes.len() as u32;
            if let Some(field) = bytes.get_mut(4..8) {
                field.copy_from_slice(&length.to_le_bytes());
            }
            bytes = sealed(bytes, VOLUME.as_bytes());
        }
        use_batch(Batch::decode(bytes.into(), VOLUME));
    }

    #[test]
    fn mutated_pages_never_panic(changes in changes()) {
        let mut bytes = mutate(samples::leaf().encode(), &changes);
        bytes.resize(PAGE_BYTES, 0);
        use_page(Page::decode(&sealed(bytes, &[]), PageId::new(9), PAGE_BYTES));
    }

    #[test]
    fn mutated_images_never_panic(changes in changes()) {
        let bytes = mutate(samples::leaf().image(), &changes);
        let mut page = samples::leaf();
        let before = page.clone();
        let image = record(15, 9, 0, Op::Image { bytes: bytes.into() });
        match apply(&mut page, &image) {
            Ok(()) => use_page(Ok(page)),
            Err(_) => prop_assert_eq!(page, before),
        }
    }

    #[test]
    fn mutated_groups_never_panic(changes in changes(), fit in any::<bool>()) {
        let header = file_header();
        let mut bytes = mutate(samples::group().to_vec(), &changes);
        if fit {
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            let length = bytes.len() as u32;
            bytes.resize(bytes.len().max(512), 0);
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            bytes = sealed(bytes, &group_seed(&header));
        }
        let length = bytes.len();
        if let Found::Group { bytes, .. } = decode_group(&bytes.into(), &header) {
            prop_assert!(bytes <= length);
        }
    }

    #[test]
    fn mutated_layers_never_panic(changes in changes(), which in 0..4_u8) {
        let (bytes, summary) = samples::layer();
        let index = LayerIndex::decode(&summary, layer_part(&bytes, summary.index_range())).unwrap();
        let at = index.block(1);
        let seed = layer_seed(which);
        match which {
            0 => {
                let footer = mutate(bytes[bytes.len() - LAYER_FOOTER_BYTES..].to_vec(), &changes);
                if let Ok(summary) = LayerSummary::decode_footer(&sealed(footer, &[]), summary.file_bytes) {
                    prop_assert!(summary.index_range().end <= summary.file_bytes);
                    let _ = LayerIndex::decode(&summary, layer_part(&bytes, summary.index_range()));
                }
            }
            1 => {
                let block = mutate(layer_part(&bytes, at.range()).to_vec(), &changes);
                let at = BlockAt { bytes: block.len() as u32, ..at };
                if let Ok(block) = Block::decode(&summary.identity, &at, sealed(with_length(block), &seed).into()) {
                    for entry in block.entries().flatten() {
                        if let LayerEntry::Image(image) = entry {
                            use_page(image.unpack(PAGE_BYTES));
                        }
                    }
                }
            }
            2 => {
                let parts = layer_part(&bytes, summary.index_range());
                let (index, filter) = parts.split_at(summary.index_bytes as usize);
                let index = sealed(with_length(mutate(index.to_vec(), &changes)), &seed);
                let summary = LayerSummary { index_bytes: index.len() as u32, ..summary };
                if let Ok(index) = LayerIndex::decode(&summary, &[&index, filter].concat()) {
                    let _ = index.blocks_for(PageId::new(9), Lsn::NONE, Lsn::MAX);
                }
            }
            _ => {
                let parts = layer_part(&bytes, summary.index_range());
                let (index, filter) = parts.split_at(summary.index_bytes as usize);
                let filter = sealed(with_length(mutate(filter.to_vec(), &changes)), &seed);
                let summary = LayerSummary { filter_bytes: filter.len() as u32, ..summary };
                if let Ok(index) = LayerIndex::decode(&summary, &[index, &filter].concat()) {
                    let _ = index.may_hold(PageId::new(9));
                }
            }
        }
    }

    #[test]
    fn mutated_catalogs_are_sound_or_refused(changes in changes()) {
        if let Ok(catalog) = LayerCatalog::decode(&mutate(samples::catalog().encode(), &changes)) {
            prop_assert_eq!(LayerCatalog::decode(&catalog.encode()).unwrap(), catalog);
        }
    }

    #[test]
    fn mutated_zones_never_panic(changes in changes()) {
        let superblock = mutate(samples::superblock().encode()[..4096].to_vec(), &changes);
        let _ = Superblock::decode(&sealed(superblock, &[]));
        let header = mutate(file_header().encode(), &changes);
        if let Ok(header) = FileHeader::decode(&sealed(header, &[])) {
            prop_assert!(header.block_bytes >= 512);
        }
    }

    #[test]
    fn mutated_messages_never_panic(which in any::<prop::sample::Index>(), changes in changes()) {
        let all = messages();
        let (_, message) = which.get(&all);
        use_message(&mutate(message.encode().to_bytes()[4..].to_vec(), &changes).into());
    }

    #[test]
    fn mutated_manifests_and_histories_are_sound_or_refused(changes in changes()) {
        if let Ok(manifest) = Manifest::decode(&mutate(samples::manifest().encode(), &changes)) {
            prop_assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
        }
        if let Ok(history) = History::decode(&mutate(samples::history().encode(), &changes)) {
            prop_assert_eq!(History::decode(&history.encode()).unwrap(), history);
        }
    }
}

#[test]
fn every_kind_of_record_meets_every_kind_of_page() {
    use PageKind::{Free, Inner, Leaf, Meta, Overflow};
    for sample in samples::records() {
        for kind in [Free, Meta, Leaf, Inner, Overflow] {
            let mut page = Page::new(sample.page, PAGE_BYTES);
            apply(&mut page, &init(50, sample.page.get(), kind)).unwrap();
            let page_prev = if sample.op.starts_chain() { 0 } else { 50 };
            let here = sixfold_log_format::Record {
                page_prev: Lsn::new(page_prev),
                ..sample.clone()
            };
            let before = page.clone();
            if apply(&mut page, &here).is_err() {
                assert_eq!(page, before, "{sample:?} on {kind:?}");
            }
            Page::decode(&page.encode(), page.id(), PAGE_BYTES).unwrap();
        }
    }
}
