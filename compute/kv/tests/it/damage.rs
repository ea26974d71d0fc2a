//! Trees that no checksum calls damaged: errors, never loops, panics or wrong answers.

use std::borrow::Cow;
use std::ops::Bound::Unbounded;
use std::sync::Arc;

use proptest::prelude::*;
use sixfold_kv::{Direction, KvError, Write, estimate, get, plan_reclaim, range_chunk};
use sixfold_log_format::{Cell, CellFlags, Lsn, Op, Page, PageId, PageKind, Record, Stamp, apply};

use crate::volume::{Volume, large, plan, plan_clears, put};

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
    corrupt(plan_clears(volume, &[(key, Some(&[key, &[0]].concat()))], u64::MAX).err());
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

fn write(offset: u16, bytes: &[u8]) -> Op<'static> {
    let bytes = Cow::Owned(bytes.to_vec());
    Op::WriteBytes { offset, bytes }
}

const FREE: Op<'static> = Op::Init {
    kind: PageKind::Free,
    level: 0,
};

#[test]
fn a_damaged_large_value_is_an_error() {
    // Three value pages: the leaf names them. Then 20: page 23 is their index.
    for (page_count, damages) in [
        (
            3,
            vec![
                (3, write(0, &[2])),
                (3, write(0, &[3])),
                (3, write(1, &[1])),
                (4, write(1, &[0])),
                (3, write(4, &[0; 4])),
                (3, write(4, &[255; 4])),
                (5, write(4, &[1, 0, 0, 0])),
                (4, FREE),
            ],
        ),
        (
            20,
            vec![
                (23, write(0, &[1])),
                (23, write(1, &[2])),
                (23, write(4, &[0; 4])),
                (23, write(4, &[8, 0, 0, 0])),
                (23, write(4, &[7, 0, 0, 0])),
                (23, write(4, &[255; 4])),
                (23, write(8, &[0; 8])),
                (23, write(8, &[2, 0, 0, 0, 0, 0, 0, 0])),
                (23, write(8, &[23, 0, 0, 0, 0, 0, 0, 0])),
                (23, write(8, &[5, 0, 0, 0, 0, 0, 0, 0])),
                (23, FREE),
                (9, FREE),
            ],
        ),
    ] {
        for (page, op) in damages {
            let mut volume = Volume::new(512);
            let value = large(&volume, page_count, 1);
            volume.put(b"a", &value);
            assert_eq!(volume.get(b"a"), Some(value));
            let shown = format!("{page_count}: {page} {op:?}");
            tamper(&mut volume, PageId::new(page), op);
            let error = get(&volume, b"a");
            assert!(
                matches!(error, Err(KvError::Corrupt { .. })),
                "{shown}: {error:?}"
            );
        }
    }
}

#[test]
fn a_reference_of_wrong_shape_is_an_error() {
    let mut volume = Volume::new(512);
    let root = volume.meta().root;
    let reference = |len_bytes: u32, level: u8, ids: &[u64]| {
        let ids = ids.iter().flat_map(|id| id.to_le_bytes());
        let head = len_bytes.to_le_bytes().into_iter().chain([level, 0, 0, 0]);
        head.chain(ids).collect::<Vec<u8>>()
    };
    let references = [
        reference(u32::MAX, 0, &[5]),
        reference(0, 0, &[]),
        reference(100, 0, &[0]),
        reference(100, 0, &[1]),
        reference(100, 0, &[5, 6]),
        reference(100, 1, &[5]),
        reference(1_000, 0, &[5]),
        vec![1; 7],
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
    let number = |number: u64| number.to_le_bytes();
    let damages = [
        write(0, &[4]),
        write(0, &[1]),
        write(8, &number(1)),
        write(8, &number(u64::MAX)),
        write(16, &number(0)),
        write(16, &number(1)),
        write(16, &number(u64::MAX)),
        // The root is not free, and not what the list may give away.
        write(16, &number(2)),
        FREE,
    ];
    for op in damages {
        let mut volume = Volume::new(512);
        let value = large(&volume, 3, 1);
        volume.put(b"a", &value);
        volume.delete(b"a");
        let trunk = volume.meta().free_head;
        let shown = format!("{op:?}");
        tamper(&mut volume, trunk, op);
        let value = large(&volume, 4, 1);
        let error = plan(&volume, &[put(b"a", &value)], u64::MAX);
        assert!(
            matches!(error, Err(KvError::Corrupt { .. })),
            "{shown}: {error:?}"
        );
    }
}

#[test]
fn a_damaged_dropped_list_is_an_error() {
    let entry = |kind: u64, id: u64| (kind << 56 | id).to_le_bytes();
    let volume = || {
        let mut volume = tall();
        let value = large(&volume, 20, 1);
        volume.put(&5_000_u32.to_be_bytes(), &value);
        volume.clear(&100_u32.to_be_bytes(), None);
        volume
    };
    let (trunk, last) = {
        let volume = volume();
        let meta = volume.meta();
        assert!((2..40).contains(&meta.dropped_count));
        (meta.dropped_head, meta.dropped_count - 1)
    };
    let at_last = 16 + 8 * u16::try_from(last).unwrap();
    let damages = [
        write(0, &[3]),
        write(at_last, &entry(0, 0)),
        write(at_last, &entry(0, 1)),
        write(at_last, &entry(0, 1 << 40)),
        write(at_last, &entry(31, 4)),
        write(at_last, &entry(99, 4)),
        write(at_last, &entry(128 + 1, 4)),
        write(at_last, &entry(128 + 9, 4)),
        // A leaf is not a value page.
        write(at_last, &entry(128, 4)),
        FREE,
    ];
    for op in damages {
        let mut volume = volume();
        let shown = format!("{op:?}");
        tamper(&mut volume, trunk, op);
        let error = plan_reclaim(&volume, 1, u64::MAX);
        assert!(
            matches!(error, Err(KvError::Corrupt { .. })),
            "{shown}: {error:?}"
        );
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
        volume.clear(&50_u32.to_be_bytes(), Some(&200_u32.to_be_bytes()));
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
        let _ = estimate(&volume, Unbounded, Unbounded);
        let _ = estimate(&volume, std::ops::Bound::Excluded(&[0, 0, 0, 9]), Unbounded);
        let _ = plan_clears(&volume, &[(&[0, 0, 0, 9], Some(&[0, 0, 0, 200]))], 1_000);
        let _ = plan_clears(&volume, &[(&[0, 0, 0, 9], None)], 1_000);
        let writes: Vec<Write<'_>> = keys
            .iter()
            .map(|key| if delete { Write::Delete { key } } else { put(key, &[2; 60]) })
            .collect();
        let _ = plan(&volume, &writes, 1_000);
        for _ in 0..100 {
            match plan_reclaim(&volume, 50, 1_000) {
                Ok(plan) if !plan.records.is_empty() => drop(volume.try_apply(&plan)),
                _ => break,
            }
        }
    }
}

/// The image of a page, said to be another one's.
fn with_id(page: &Page, id: PageId) -> Vec<u8> {
    let mut image = page.image();
    image[8..16].copy_from_slice(&id.get().to_le_bytes());
    image
}
