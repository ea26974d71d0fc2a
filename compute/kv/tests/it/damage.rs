//! Trees that no checksum calls damaged: errors, never loops, panics or wrong answers.

use std::borrow::Cow;
use std::ops::Bound::Unbounded;
use std::sync::Arc;

use proptest::prelude::*;
use sixfold_kv::{Direction, KvError, Write, get, plan, range_chunk};
use sixfold_log_format::{Cell, CellFlags, Lsn, Op, Page, PageId, PageKind, Record, Stamp, apply};

use crate::volume::{Volume, large, put};

/// Applies an operation that no plan would hold.
fn tamper(volume: &mut Volume, id: PageId, op: Op<'_>) {
    volume.lsn = volume.lsn.next();
    let page = Arc::make_mut(volume.pages.get_mut(&id).unwrap());
    let starts = op.starts_chain();
    let record = Record {
        lsn: volume.lsn,
        page: id,
        page_prev: if starts { Lsn::NONE } else { page.lsn() },
        cpl: volume.lsn,
        user_visible: false,
        op,
    };
    apply(page, &record).unwrap();
}

fn child_cell(key: &[u8], child: PageId) -> Cell<'static> {
    Cell {
        key: Cow::Owned(key.to_vec()),
        value: Cow::Owned(child.get().to_le_bytes().to_vec()),
        stamp: Stamp::At(Lsn::NONE),
        flags: CellFlags::PLAIN,
        deadline_ms: None,
    }
}

fn tall() -> Volume {
    let mut volume = Volume::new(512);
    for number in 0..500_u32 {
        volume.put(&number.to_be_bytes(), &[1; 30]);
    }
    assert!(volume.meta().height > 2);
    volume
}

fn everything_fails(volume: &Volume, key: &[u8]) {
    let corrupt = |error: Option<KvError>| {
        assert!(matches!(error, Some(KvError::Corrupt { .. })), "{error:?}")
    };
    corrupt(get(volume, key).err());
    corrupt(plan(volume, &[put(key, b"1")], u64::MAX).err());
    corrupt(plan(volume, &[Write::Delete { key }], u64::MAX).err());
    for direction in [Direction::Forward, Direction::Reverse] {
        let bound = std::ops::Bound::Included(key);
        corrupt(range_chunk(volume, bound, bound, direction, 10, 100).err());
    }
}

#[test]
fn a_cycle_is_an_error() {
    let mut volume = tall();
    let root = volume.meta().root;
    let cell = child_cell(&[], root);
    tamper(&mut volume, root, Op::Replace { slot: 0, cell });
    everything_fails(&volume, &[0; 4]);
}

#[test]
fn a_child_of_another_kind_is_an_error() {
    for kind in [PageKind::Free, PageKind::Leaf, PageKind::Overflow] {
        let mut volume = tall();
        let root = volume.pages[&volume.meta().root].clone();
        let child = PageId::new(u64::from_le_bytes(root.cell(0).value.try_into().unwrap()));
        tamper(&mut volume, child, Op::Init { kind, level: 0 });
        everything_fails(&volume, &[0; 4]);
    }
}

#[test]
fn an_inner_page_without_children_is_an_error() {
    let mut volume = tall();
    let root = volume.meta().root;
    tamper(&mut volume, root, Op::Truncate { from_slot: 0 });
    everything_fails(&volume, &[0; 4]);
    let all = range_chunk(&volume, Unbounded, Unbounded, Direction::Reverse, 1, 1);
    assert!(matches!(all, Err(KvError::Corrupt { .. })));
}

#[test]
fn a_child_that_is_no_page_is_an_error() {
    for child in [PageId::NONE, PageId::META] {
        let mut volume = tall();
        let root = volume.meta().root;
        let cell = child_cell(&[], child);
        tamper(&mut volume, root, Op::Replace { slot: 0, cell });
        everything_fails(&volume, &[0; 4]);
    }
}

#[test]
fn a_meta_page_of_another_kind_is_an_error() {
    let mut volume = tall();
    tamper(
        &mut volume,
        PageId::META,
        Op::Init {
            kind: PageKind::Leaf,
            level: 0,
        },
    );
    everything_fails(&volume, b"a");
    tamper(
        &mut volume,
        PageId::META,
        Op::Init {
            kind: PageKind::Meta,
            level: 0,
        },
    );
    everything_fails(&volume, b"a");
}

#[test]
fn a_damaged_chain_is_an_error() {
    let write = |offset: u16, bytes: &'static [u8]| Op::WriteBytes {
        offset,
        bytes: Cow::Borrowed(bytes),
    };
    let first = PageId::new(3);
    let damages = [
        (first, write(0, &[3, 0, 0, 0, 0, 0, 0, 0])),
        (first, write(0, &[0; 8])),
        (first, write(0, &[1, 0, 0, 0, 0, 0, 0, 0])),
        (first, write(0, &[2, 0, 0, 0, 0, 0, 0, 0])),
        (first, write(8, &[0; 4])),
        (first, write(8, &[255; 4])),
        (
            first,
            Op::Init {
                kind: PageKind::Free,
                level: 0,
            },
        ),
        (PageId::new(5), write(8, &[1, 0, 0, 0])),
    ];
    for (page, op) in damages {
        let mut volume = Volume::new(512);
        let value = large(&volume, 3, 1);
        volume.put(b"a", &value);
        tamper(&mut volume, page, op);
        let error = get(&volume, b"a");
        assert!(matches!(error, Err(KvError::Corrupt { .. })), "{error:?}");
    }
}

#[test]
fn a_reference_to_a_value_of_impossible_length_is_an_error() {
    let mut volume = Volume::new(512);
    let root = volume.meta().root;
    let reference = |first: u64, last: u64, len_bytes: u32| {
        [
            &first.to_le_bytes()[..],
            &last.to_le_bytes(),
            &len_bytes.to_le_bytes(),
        ]
        .concat()
    };
    let references = [
        reference(2, 2, u32::MAX),
        reference(2, 2, 0),
        reference(0, 9, 5),
        vec![1; 8],
    ];
    for (slot, bytes) in (0..).zip(references) {
        let cell = Cell {
            key: Cow::Owned(vec![1 + slot as u8]),
            value: Cow::Owned(bytes),
            stamp: Stamp::Commit,
            flags: CellFlags::OVERFLOW,
            deadline_ms: None,
        };
        tamper(&mut volume, root, Op::Insert { slot, cell });
        everything_fails(&volume, &[1 + slot as u8]);
    }
}

#[test]
fn a_damaged_free_list_is_an_error() {
    let links: [&[u8]; 3] = [&[0; 8], &[1, 0, 0, 0, 0, 0, 0, 0], &[255; 8]];
    for link in links {
        let mut volume = Volume::new(512);
        let value = large(&volume, 3, 1);
        volume.put(b"a", &value);
        volume.delete(b"a");
        let head = volume.meta().free_head;
        let bytes = Cow::Borrowed(link);
        tamper(&mut volume, head, Op::WriteBytes { offset: 0, bytes });
        let error = plan(&volume, &[put(b"a", &value)], u64::MAX);
        assert!(matches!(error, Err(KvError::Corrupt { .. })), "{error:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Pages that changed places or went back in time: any answer, but always one.
    #[test]
    fn shuffled_pages_never_panic(
        moves in proptest::collection::vec((1_u64..60, 1_u64..60), 1..6),
        keys in proptest::collection::vec(0_u32..300, 1..20),
        delete in any::<bool>(),
    ) {
        let mut volume = Volume::new(512);
        for number in 0..250_u32 {
            let value = if number % 50 == 0 { large(&volume, 2, 1) } else { vec![1; 30] };
            volume.put(&number.to_be_bytes(), &value);
        }
        for (from, to) in moves {
            let (from, to) = (PageId::new(from), PageId::new(to));
            if let Some(page) = volume.pages.get(&from).cloned() {
                let image = Cow::Owned(with_id(&page, to));
                if volume.pages.contains_key(&to) {
                    tamper(&mut volume, to, Op::Image { bytes: image });
                }
            }
        }
        let keys: std::collections::BTreeSet<[u8; 4]> = keys.iter().map(|n| n.to_be_bytes()).collect();
        for key in &keys {
            let _ = get(&volume, key);
            let from = std::ops::Bound::Included(&key[..]);
            for direction in [Direction::Forward, Direction::Reverse] {
                let _ = range_chunk(&volume, from, Unbounded, direction, 10, 1_000);
            }
        }
        let writes: Vec<Write<'_>> = keys
            .iter()
            .map(|key| if delete { Write::Delete { key } } else { put(key, &[2; 60]) })
            .collect();
        let _ = plan(&volume, &writes, 1_000);
    }
}

/// The image of a page, said to be another one's.
fn with_id(page: &Page, id: PageId) -> Vec<u8> {
    let mut image = page.image();
    image[8..16].copy_from_slice(&id.get().to_le_bytes());
    image
}
