//! Pages on wire and disk.

use sixfold_log_format::page::{CELL_HEADER_BYTES, PAGE_HEADER_BYTES};
use sixfold_log_format::{Lsn, Op, Page, PageId, PageKind, apply};

use crate::samples::{PAGE_BYTES, init, leaf, plain, record};

fn decode(bytes: &[u8]) -> Result<Page, sixfold_log_format::DecodeError> {
    Page::decode(bytes, PageId::new(9), PAGE_BYTES)
}

#[test]
fn a_page_comes_back_as_it_was() {
    let page = leaf();
    assert_eq!(decode(&page.encode()).unwrap(), page);
    let fresh = Page::new(PageId::new(9), PAGE_BYTES);
    assert!(fresh.is_fresh() && !page.is_fresh());
    assert_eq!(decode(&fresh.encode()).unwrap(), fresh);
}

#[test]
fn cells_can_be_read() {
    let page = leaf();
    let keys: Vec<_> = page.cells().map(|cell| cell.key).collect();
    assert_eq!(keys, [&b"apple"[..], b"cherry"]);
    let cherry = page.cell(page.find(b"cherry").unwrap());
    assert_eq!((cherry.value, cherry.stamp), (&b"red"[..], Lsn::new(3)));
    assert!(cherry.deadline_ms.is_some());
    assert_eq!(page.cell(0).stamp, Lsn::new(13));
    assert_eq!(page.find(b"banana"), Err(1));
    assert_eq!(page.find(b""), Err(0));
    assert_eq!(page.find(b"zebra"), Err(2));
}

#[test]
fn every_bit_flip_is_detected() {
    let sound = leaf().encode();
    for bit in 0..sound.len() * 8 {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bytes).is_err(), "bit {bit}");
    }
}

#[test]
fn another_page_or_size_is_refused() {
    let bytes = leaf().encode();
    assert!(Page::decode(&bytes, PageId::new(8), PAGE_BYTES).is_err());
    assert!(Page::decode(&bytes, PageId::new(9), 1024).is_err());
    assert!(Page::decode(&bytes[..500], PageId::new(9), 500).is_err());
    assert!(Page::decode(&[], PageId::new(9), 0).is_err());
}

/// The page with `change` made to its bytes and a checksum that fits them.
fn forged(change: impl FnOnce(&mut [u8])) -> bool {
    let mut bytes = leaf().encode();
    change(&mut bytes);
    let checksum = sixfold_log_format::checksum::checksum(&[], &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    decode(&bytes).is_ok()
}

#[test]
fn unsound_structure_is_refused_even_with_a_fitting_checksum() {
    let slot = PAGE_HEADER_BYTES;
    assert!(forged(|_| {}));
    assert!(!forged(|bytes| bytes[4] = 9), "kind");
    assert!(!forged(|bytes| bytes[5] = 1), "level of a leaf");
    assert!(!forged(|bytes| bytes[6] = 3), "one slot more");
    assert!(!forged(|bytes| bytes[6] = 1), "one slot less");
    assert!(!forged(|bytes| bytes[24] = 1), "clock of a leaf");
    assert!(!forged(|bytes| bytes[32] -= 1), "heap start");
    assert!(!forged(|bytes| bytes[34] += 1), "fragments");
    assert!(!forged(|bytes| bytes[40] = 1), "reserved");
    assert!(!forged(|bytes| bytes[slot] += 1), "slot off by one");
    assert!(
        !forged(|bytes| bytes[slot..slot + 2].fill(0xff)),
        "slot out of the page"
    );
    assert!(
        !forged(|bytes| bytes.copy_within(slot..slot + 2, slot + 2)),
        "two slots, one cell"
    );
    assert!(!forged(|bytes| bytes[100] = 1), "free byte");
    let swap = |bytes: &mut [u8]| bytes[slot..slot + 4].rotate_left(2);
    assert!(!forged(swap), "key order");
    let cell = usize::from(u16::from_le_bytes([
        leaf().encode()[slot],
        leaf().encode()[slot + 1],
    ]));
    assert!(!forged(|bytes| bytes[cell] |= 0x80), "cell flags");
    assert!(!forged(|bytes| bytes[cell + 1] += 1), "key length");
    assert!(!forged(|bytes| bytes[cell + 3] = 0xff), "value length");
    assert!(
        forged(|bytes| bytes[cell + CELL_HEADER_BYTES] = b'b'),
        "another key in order"
    );
}

#[test]
fn an_image_rebuilds_the_page() {
    let page = leaf();
    let image = page.image();
    assert!(image.len() < page.len_bytes());
    let mut rebuilt = Page::new(PageId::new(9), PAGE_BYTES);
    apply(
        &mut rebuilt,
        &record(
            15,
            9,
            0,
            Op::Image {
                bytes: image.into(),
            },
        ),
    )
    .unwrap();
    assert_eq!(
        rebuilt.cells().collect::<Vec<_>>(),
        page.cells().collect::<Vec<_>>()
    );
    assert_eq!(rebuilt.free_bytes(), page.free_bytes());
    assert_eq!(rebuilt.lsn(), Lsn::new(15));
    // A compact page equals what its image builds, but for the page LSN.
    let mut again = Page::new(PageId::new(9), PAGE_BYTES);
    let image = rebuilt.image();
    apply(
        &mut again,
        &record(
            15,
            9,
            0,
            Op::Image {
                bytes: image.into(),
            },
        ),
    )
    .unwrap();
    assert_eq!(again, rebuilt);
}

#[test]
fn images_of_bodies_leave_the_zeros_at_the_end_out() {
    let mut meta = Page::new(PageId::META, PAGE_BYTES);
    apply(&mut meta, &init(1, 1, PageKind::Meta)).unwrap();
    apply(
        &mut meta,
        &record(
            2,
            1,
            1,
            Op::WriteBytes {
                offset: 3,
                bytes: b"abc"[..].into(),
            },
        ),
    )
    .unwrap();
    apply(&mut meta, &record(3, 1, 2, Op::Clock { unix_ms: 55 })).unwrap();
    let image = meta.image();
    assert_eq!(image.len(), PAGE_HEADER_BYTES + 6);
    let mut rebuilt = Page::new(PageId::META, PAGE_BYTES);
    apply(
        &mut rebuilt,
        &record(
            4,
            1,
            0,
            Op::Image {
                bytes: image.into(),
            },
        ),
    )
    .unwrap();
    assert_eq!(rebuilt.body(), meta.body());
    assert_eq!(rebuilt.clock_ms(), 55);
    assert_eq!(
        Page::decode(&rebuilt.encode(), PageId::META, PAGE_BYTES).unwrap(),
        rebuilt
    );
}

#[test]
fn a_page_of_every_size_takes_cells_to_the_last_byte() {
    for page_bytes in [512, 1024, 2048, 4096, 8192] {
        let mut page = Page::new(PageId::new(9), page_bytes);
        apply(&mut page, &init(1, 9, PageKind::Leaf)).unwrap();
        assert_eq!(page.free_bytes(), Page::capacity_bytes(page_bytes));
        let value = vec![1; Page::capacity_bytes(page_bytes) - Page::cell_bytes(&plain(b"k", b""))];
        apply(
            &mut page,
            &record(
                2,
                9,
                1,
                Op::Insert {
                    slot: 0,
                    cell: plain(b"k", &value),
                },
            ),
        )
        .unwrap();
        assert_eq!(page.free_bytes(), 0);
        assert_eq!(page.cell_bytes_at(0), Page::capacity_bytes(page_bytes));
        assert_eq!(
            Page::decode(&page.encode(), PageId::new(9), page_bytes).unwrap(),
            page
        );
    }
}

/// What a decoder says of `page` after `change`, with a checksum that fits.
fn tampered(page: &Page, change: impl FnOnce(&mut [u8])) -> Result<Page, String> {
    let mut bytes = page.encode();
    change(&mut bytes);
    let checksum = sixfold_log_format::checksum::checksum(&[], &bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    decode(&bytes).map_err(|error| error.to_string())
}

#[test]
fn cells_that_overlap_are_refused() {
    // The value of the first cell is itself a cell, and as many bytes are free as a second slot for it accounts for.
    let mut inner = [0; CELL_HEADER_BYTES + 1];
    inner[1] = 1;
    inner[CELL_HEADER_BYTES] = b'z';
    let mut page = Page::new(PageId::new(9), PAGE_BYTES);
    apply(&mut page, &init(1, 9, PageKind::Leaf)).unwrap();
    for (lsn, key, value) in [(2, b"x", &[0; 40][..]), (3, b"b", &inner[..])] {
        let op = Op::Insert {
            slot: 0,
            cell: plain(key, value),
        };
        apply(&mut page, &record(lsn, 9, lsn - 1, op)).unwrap();
    }
    apply(
        &mut page,
        &record(
            4,
            9,
            3,
            Op::Remove {
                slot: 1,
                key: b""[..].into(),
            },
        ),
    )
    .unwrap();
    let slot = PAGE_HEADER_BYTES;
    let offset = u16::from_le_bytes([page.encode()[slot], page.encode()[slot + 1]]);
    let inside = offset + CELL_HEADER_BYTES as u16 + 1;
    let error = tampered(&page, |bytes| {
        bytes[6] = 2;
        bytes[slot + 2..slot + 4].copy_from_slice(&inside.to_le_bytes());
        bytes[34] -= inner.len() as u8;
    })
    .unwrap_err();
    assert!(error.contains("cell offset"), "{error}");
}

#[test]
fn the_same_key_twice_is_refused() {
    let mut page = Page::new(PageId::new(9), PAGE_BYTES);
    apply(&mut page, &init(1, 9, PageKind::Leaf)).unwrap();
    for (lsn, slot, key) in [(2, 0, b"a"), (3, 1, b"b")] {
        let op = Op::Insert {
            slot,
            cell: plain(key, b""),
        };
        apply(&mut page, &record(lsn, 9, lsn - 1, op)).unwrap();
    }
    let key_at = |cells| PAGE_BYTES - cells * (CELL_HEADER_BYTES + 1) + CELL_HEADER_BYTES;
    assert!(tampered(&page, |bytes| bytes[key_at(2)] = b'c').is_ok());
    let error = tampered(&page, |bytes| bytes[key_at(2)] = b'a').unwrap_err();
    assert!(error.contains("key order"), "{error}");
}

#[test]
fn a_cell_past_the_pages_end_is_refused() {
    let mut page = Page::new(PageId::new(9), PAGE_BYTES);
    apply(&mut page, &init(1, 9, PageKind::Leaf)).unwrap();
    let op = Op::Insert {
        slot: 0,
        cell: plain(b"a", b"value"),
    };
    apply(&mut page, &record(2, 9, 1, op)).unwrap();
    let cell = PAGE_BYTES - CELL_HEADER_BYTES - 6;
    let error = tampered(&page, |bytes| bytes[cell + 3] += 1).unwrap_err();
    assert!(error.contains("cell offset"), "{error}");
    let slot = PAGE_HEADER_BYTES;
    let near_end = (PAGE_BYTES as u16 - 3).to_le_bytes();
    let error = tampered(&page, |bytes| {
        bytes[slot..slot + 2].copy_from_slice(&near_end)
    });
    assert!(error.unwrap_err().contains("cell offset"));
}

/// Pages of every kind, and leaves that are empty, filled to different heights, with gaps among their cells and cut off.
fn pages_of_all_shapes() -> Vec<Page> {
    let mut pages = vec![Page::new(PageId::new(9), PAGE_BYTES), leaf()];
    for kind in [PageKind::Meta, PageKind::Overflow] {
        let mut page = Page::new(PageId::new(9), PAGE_BYTES);
        let bytes = std::borrow::Cow::Borrowed(&[0xEE; 200][..]);
        apply(&mut page, &init(10, 9, kind)).unwrap();
        apply(
            &mut page,
            &record(11, 9, 10, Op::WriteBytes { offset: 40, bytes }),
        )
        .unwrap();
        pages.push(page);
    }
    for count in [0, 1, 3, 9] {
        let mut page = Page::new(PageId::new(9), PAGE_BYTES);
        let mut lsn = 10;
        let mut change = |page: &mut Page, op| {
            lsn += 1;
            apply(page, &record(lsn, 9, lsn - 1, op)).unwrap();
        };
        apply(&mut page, &init(10, 9, PageKind::Leaf)).unwrap();
        for slot in 0..count {
            let key = vec![b'a' + u8::try_from(slot).unwrap()];
            let mut cell = plain(&[], &[0x77; 20]);
            cell.key = std::borrow::Cow::Owned(key);
            change(&mut page, Op::Insert { slot, cell });
        }
        pages.push(page.clone());
        if count > 1 {
            let key = std::borrow::Cow::Borrowed(&[][..]);
            change(&mut page, Op::Remove { slot: 1, key });
            pages.push(page.clone());
            change(&mut page, Op::Truncate { from_slot: 1 });
            pages.push(page);
        }
    }
    pages
}

#[test]
fn a_page_copied_over_any_other_equals_it_to_the_byte() {
    let pages = pages_of_all_shapes();
    for page in &pages {
        for before in &pages {
            let mut copy = before.clone();
            copy.clone_from(page);
            assert_eq!(copy, *page, "{page:?} over {before:?}");
            assert_eq!(copy.encode(), page.encode(), "{page:?} over {before:?}");
        }
    }
}
