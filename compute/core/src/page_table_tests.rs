//! Tests of the table of pages: it answers as a sorted map does.

use std::collections::BTreeMap;

use sixfold_log_format::PageId;

use crate::page_table::PageTable;

#[test]
fn a_table_answers_as_a_sorted_map_does() {
    let mut dice = 1_u64;
    let mut roll = move |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice % sides
    };
    // Few ids meet often; many fill it, and common strides crowd it.
    for (id_count, stride) in [(3, 1), (40, 1), (40, 256), (700, 1), (700, 1 << 20)] {
        let mut table = PageTable::default();
        let mut map = BTreeMap::new();
        for step in 0..20_000_u64 {
            let id = PageId::new(1 + stride * roll(id_count));
            match roll(4) {
                0 => assert_eq!(table.remove(id), map.remove(&id)),
                1 => {
                    let held = *table.get_or_insert_with(id, || step);
                    assert_eq!(held, *map.entry(id).or_insert(step));
                }
                2 => {
                    if let Some(held) = table.get_mut(id) {
                        *held += 1;
                    }
                    if let Some(held) = map.get_mut(&id) {
                        *held += 1;
                    }
                }
                _ => assert_eq!(table.get(id), map.get(&id)),
            }
        }
        for number in 0..id_count {
            let id = PageId::new(1 + stride * number);
            assert_eq!(table.get(id), map.get(&id));
        }
    }
}

#[test]
fn a_table_without_places_holds_nothing() {
    let mut table = PageTable::<u64>::default();
    assert_eq!(table.get(PageId::new(7)), None);
    assert_eq!(table.get_mut(PageId::new(7)), None);
    assert_eq!(table.remove(PageId::new(7)), None);
}
