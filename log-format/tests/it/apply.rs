//! `apply` against a simple model, and each of its refusals.

use std::borrow::Cow;
use std::collections::BTreeMap;

use proptest::prelude::*;
use sixfold_log_format::{
    ApplyError, Cell, CellFlags, Lsn, Op, Page, PageId, PageKind, Record, Stamp, apply,
};

use crate::samples::{PAGE_BYTES, init, leaf, plain, record};

type Model = BTreeMap<Vec<u8>, (Vec<u8>, Lsn, Option<u64>)>;

#[derive(Debug, Clone)]
enum Step {
    Put {
        key: u8,
        key_bytes: usize,
        value_bytes: usize,
        stamp: Option<u64>,
        deadline: Option<u64>,
    },
    Remove {
        place: u16,
        user_visible: bool,
    },
    Truncate {
        place: u16,
    },
    Image,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let put = (
        any::<u8>(),
        1..20_usize,
        0..90_usize,
        any::<Option<u64>>(),
        any::<Option<u64>>(),
    );
    let step = prop_oneof![
        8 => put.prop_map(|(key, key_bytes, value_bytes, stamp, deadline)| {
            Step::Put { key, key_bytes, value_bytes, stamp, deadline }
        }),
        3 => any::<(u16, bool)>().prop_map(|(place, user_visible)| Step::Remove { place, user_visible }),
        1 => any::<u16>().prop_map(|place| Step::Truncate { place }),
        1 => Just(Step::Image),
    ];
    prop::collection::vec(step, 1..120)
}

/// The record of a step on `page`, and what it makes of the model.
fn plan(page: &Page, step: &Step, model: &mut Model) -> Record<'static> {
    let (id, lsn) = (page.id().get(), page.lsn().get() + 3);
    let user_visible = matches!(
        step,
        Step::Put { .. }
            | Step::Remove {
                user_visible: true,
                ..
            }
    );
    let slot_at = |place: u16| place % page.cell_count().max(1);
    let op = match step {
        Step::Put {
            key,
            key_bytes,
            value_bytes,
            stamp,
            deadline,
        } => {
            let (key, value) = (vec![*key; *key_bytes], vec![key ^ 0x55; *value_bytes]);
            let deadline_flag = if deadline.is_some() {
                CellFlags::DEADLINE
            } else {
                CellFlags::PLAIN
            };
            let stamp = stamp.map(Lsn::new);
            model.insert(
                key.clone(),
                (value.clone(), stamp.unwrap_or(Lsn::new(lsn + 1)), *deadline),
            );
            let found = page.find(&key);
            let cell = Cell {
                key: Cow::Owned(key),
                value: Cow::Owned(value),
                stamp: stamp.map_or(Stamp::Commit, Stamp::At),
                flags: deadline_flag,
                deadline_ms: *deadline,
            };
            match found {
                Ok(slot) => Op::Replace { slot, cell },
                Err(slot) => Op::Insert { slot, cell },
            }
        }
        Step::Remove {
            place,
            user_visible,
        } => {
            let slot = slot_at(*place);
            let key = model.keys().nth(usize::from(slot)).cloned();
            key.as_ref().and_then(|key| model.remove(key));
            let key = if *user_visible {
                key.unwrap_or(vec![0])
            } else {
                Vec::new()
            };
            Op::Remove {
                slot,
                key: Cow::Owned(key),
            }
        }
        Step::Truncate { place } => {
            let from_slot = slot_at(*place);
            let kept = model.iter().take(usize::from(from_slot));
            *model = kept
                .map(|(key, cell)| (key.clone(), cell.clone()))
                .collect();
            Op::Truncate { from_slot }
        }
        Step::Image => Op::Image {
            bytes: Cow::Owned(page.image()),
        },
    };
    let page_prev = if op.starts_chain() {
        0
    } else {
        page.lsn().get()
    };
    Record {
        user_visible,
        cpl: Lsn::new(lsn + 1),
        ..record(lsn, id, page_prev, op)
    }
}

fn cells_of(page: &Page) -> Model {
    let cells = page.cells();
    cells
        .map(|cell| {
            (
                cell.key.to_vec(),
                (cell.value.to_vec(), cell.stamp, cell.deadline_ms),
            )
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_page_behaves_like_a_sorted_map(steps in steps()) {
        let mut page = Page::new(PageId::new(9), PAGE_BYTES);
        apply(&mut page, &init(1, 9, PageKind::Leaf)).unwrap();
        // The same records, through wire or disk before each: storage's page beside the writer's.
        let mut stored = page.clone();
        let mut model = Model::new();
        for step in &steps {
            let mut after = model.clone();
            let record = plan(&page, step, &mut after);
            let before = page.clone();
            let applied = apply(&mut page, &record);
            let needed: usize = after.iter().map(|(key, (value, _, deadline))| {
                15 + key.len() + value.len() + if deadline.is_some() { 8 } else { 0 }
            }).sum();
            let possible = needed <= Page::capacity_bytes(PAGE_BYTES)
                && !(before.cell_count() == 0 && matches!(step, Step::Remove { .. }));
            prop_assert_eq!(applied.is_ok(), possible, "{:?}: {:?}", record, applied);
            if possible {
                model = after;
            } else {
                prop_assert_eq!(&page, &before);
            }
            stored = Page::decode(&stored.encode(), PageId::new(9), PAGE_BYTES).unwrap();
            prop_assert_eq!(apply(&mut stored, &record).is_ok(), possible);
            prop_assert_eq!(&stored, &page);
            prop_assert_eq!(cells_of(&page), model.clone());
            let used: usize = (0..page.cell_count()).map(|slot| page.cell_bytes_at(slot)).sum();
            prop_assert_eq!(page.free_bytes(), Page::capacity_bytes(PAGE_BYTES) - used);
        }
    }

    #[test]
    fn records_survive_a_batch_and_do_the_same_there(steps in steps()) {
        use sixfold_log_format::{Batch, BatchBuilder, PgId};
        use crate::samples::{VOLUME_EPOCH, VOLUME};
        let mut page = Page::new(PageId::new(9), PAGE_BYTES);
        let mut builder = BatchBuilder::new(VOLUME, PgId::ROOT, VOLUME_EPOCH, Lsn::NONE);
        let first = init(1, 9, PageKind::Leaf);
        apply(&mut page, &first).unwrap();
        prop_assert!(builder.push(&first));
        let mut model = Model::new();
        for step in &steps {
            let record = plan(&page, step, &mut model);
            if apply(&mut page, &record).is_ok() {
                prop_assert!(builder.push(&record));
            } else {
                model = cells_of(&page);
            }
        }
        let sealed = builder.seal(Lsn::NONE, 0);
        let batch = Batch::decode(sealed.bytes().clone(), VOLUME).unwrap();
        prop_assert_eq!(&batch, &sealed);
        let mut folded = Page::new(PageId::new(9), PAGE_BYTES);
        for placed in batch.records() {
            apply(&mut folded, &placed.record).unwrap();
        }
        prop_assert_eq!(folded, page);
    }
}

/// Applies to a page and says what came of it; an error must leave the page alone.
fn refused(page: &Page, record: &Record<'_>) -> ApplyError {
    let mut changed = page.clone();
    let error = apply(&mut changed, record).unwrap_err();
    assert_eq!(changed, *page, "{record:?}");
    error
}

#[test]
fn a_record_of_another_page_or_version_is_refused() {
    let mut page = leaf();
    let op = || Op::Truncate { from_slot: 0 };
    let error = refused(&page, &record(15, 8, 14, op()));
    assert!(matches!(error, ApplyError::OtherPage { .. }));
    for (lsn, prev) in [(15, 13), (15, 0), (14, 14), (3, 14)] {
        let error = refused(&page, &record(lsn, 9, prev, op()));
        assert!(
            matches!(error, ApplyError::OtherVersion { .. }),
            "{lsn} {prev}"
        );
    }
    let error = refused(&page, &init(14, 9, PageKind::Leaf));
    assert!(matches!(error, ApplyError::OtherVersion { .. }));
    // What needs no earlier version goes on anything below it.
    apply(&mut page, &init(15, 9, PageKind::Overflow)).unwrap();
}

#[test]
fn impossible_operations_are_refused() {
    let page = leaf();
    let key = |key: &'static [u8]| Cow::Borrowed(key);
    let mut no_flag = plain(b"b", b"");
    no_flag.deadline_ms = Some(1);
    let long_key = vec![b'b'; 1_025];
    let large = vec![0; PAGE_BYTES];
    let ops = [
        Op::Insert {
            slot: 0,
            cell: plain(b"b", b""),
        },
        Op::Insert {
            slot: 2,
            cell: plain(b"b", b""),
        },
        Op::Insert {
            slot: 1,
            cell: plain(b"apple", b""),
        },
        Op::Insert {
            slot: 3,
            cell: plain(b"zebra", b""),
        },
        Op::Insert {
            slot: 0,
            cell: plain(b"", b""),
        },
        Op::Insert {
            slot: 1,
            cell: no_flag,
        },
        Op::Insert {
            slot: 1,
            cell: plain(&long_key, b""),
        },
        Op::Insert {
            slot: 1,
            cell: plain(b"b", &large),
        },
        Op::Replace {
            slot: 0,
            cell: plain(b"b", b""),
        },
        Op::Replace {
            slot: 2,
            cell: plain(b"b", b""),
        },
        Op::Replace {
            slot: 0,
            cell: plain(b"apple", &large),
        },
        Op::Remove {
            slot: 2,
            key: key(b""),
        },
        Op::Truncate { from_slot: 3 },
        Op::WriteBytes {
            offset: 0,
            bytes: key(b"x"),
        },
        Op::DeleteRange {
            start: key(b"a"),
            end: key(b"b"),
        },
        Op::Clock { unix_ms: 1 },
        Op::Image { bytes: key(b"") },
        Op::Init {
            kind: PageKind::Leaf,
            level: 1,
        },
        Op::Init {
            kind: PageKind::Inner,
            level: 0,
        },
    ];
    for op in ops {
        let prev = if op.starts_chain() { 0 } else { 14 };
        let error = refused(&page, &record(15, 9, prev, op));
        assert!(matches!(error, ApplyError::Impossible { .. }), "{error}");
    }
    let other_key = Op::Remove {
        slot: 0,
        key: key(b"banana"),
    };
    let error = refused(
        &page,
        &Record {
            user_visible: true,
            ..record(15, 9, 14, other_key)
        },
    );
    assert!(matches!(error, ApplyError::Impossible { .. }), "{error}");
}

#[test]
fn the_meta_page_has_a_clock_that_never_goes_back() {
    let mut meta = Page::new(PageId::META, PAGE_BYTES);
    apply(&mut meta, &init(1, 1, PageKind::Meta)).unwrap();
    for (lsn, unix_ms) in [(2, 100), (3, 100), (4, 101)] {
        apply(&mut meta, &record(lsn, 1, lsn - 1, Op::Clock { unix_ms })).unwrap();
    }
    assert_eq!(meta.clock_ms(), 101);
    refused(&meta, &record(5, 1, 4, Op::Clock { unix_ms: 100 }));
    let body = meta.body().to_vec();
    let range = Op::DeleteRange {
        start: b"a"[..].into(),
        end: b""[..].into(),
    };
    apply(&mut meta, &record(5, 1, 4, range)).unwrap();
    assert_eq!(
        (meta.lsn(), meta.clock_ms(), meta.body()),
        (Lsn::new(5), 101, &body[..])
    );
    let past_end = Op::WriteBytes {
        offset: 463,
        bytes: b"xy"[..].into(),
    };
    refused(&meta, &record(6, 1, 5, past_end));
    let at_end = Op::WriteBytes {
        offset: 463,
        bytes: b"x"[..].into(),
    };
    apply(&mut meta, &record(6, 1, 5, at_end)).unwrap();
    assert_eq!(meta.body().last(), Some(&b'x'));
}

#[test]
fn inner_pages_hold_children_and_one_empty_separator() {
    let mut page = Page::new(PageId::new(4), PAGE_BYTES);
    apply(&mut page, &init(1, 4, PageKind::Inner)).unwrap();
    let child = |key: &'static [u8]| plain(key, &[7, 0, 0, 0, 0, 0, 0, 0]);
    apply(
        &mut page,
        &record(
            2,
            4,
            1,
            Op::Insert {
                slot: 0,
                cell: child(b""),
            },
        ),
    )
    .unwrap();
    apply(
        &mut page,
        &record(
            3,
            4,
            2,
            Op::Insert {
                slot: 1,
                cell: child(b"m"),
            },
        ),
    )
    .unwrap();
    refused(
        &page,
        &record(
            4,
            4,
            3,
            Op::Insert {
                slot: 1,
                cell: child(b""),
            },
        ),
    );
    refused(
        &page,
        &record(
            4,
            4,
            3,
            Op::Insert {
                slot: 1,
                cell: plain(b"c", b"123"),
            },
        ),
    );
    assert_eq!(page.find(b"zebra"), Err(2));
}

#[test]
fn what_was_removed_leaves_no_bytes_behind() {
    let mut page = leaf();
    let secret = Op::Insert {
        slot: 0,
        cell: plain(b"aa", b"secret"),
    };
    apply(&mut page, &record(15, 9, 14, secret)).unwrap();
    let shorter = Op::Replace {
        slot: 0,
        cell: plain(b"aa", b"-"),
    };
    apply(&mut page, &record(16, 9, 15, shorter)).unwrap();
    let holds = |page: &Page, text: &[u8]| page.encode().windows(text.len()).any(|at| at == text);
    assert!(!holds(&page, b"ecret") && holds(&page, b"green"));
    apply(&mut page, &record(17, 9, 16, Op::Truncate { from_slot: 0 })).unwrap();
    assert!(!holds(&page, b"green"));
    assert_eq!(page.free_bytes(), Page::capacity_bytes(PAGE_BYTES));
}
