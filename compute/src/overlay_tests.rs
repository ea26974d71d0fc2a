use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn key(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[number])
}

fn value(number: i64) -> WriteValue {
    WriteValue {
        bytes: Bytes::copy_from_slice(&number.to_le_bytes()),
        deadline_ms: None,
    }
}

/// What one call does.
#[derive(Debug, Clone)]
enum Call {
    Put(u8, i64),
    Delete(u8),
    Modify(u8, Modify),
    Clear(u8, u8),
}

fn call() -> impl Strategy<Value = Call> {
    let keys = 0_u8..16;
    let op = prop_oneof![
        (-9_i64..9).prop_map(Modify::Add),
        (-9_i64..9).prop_map(Modify::Max),
        (-9_i64..9).prop_map(Modify::Min),
    ];
    prop_oneof![
        (keys.clone(), -9_i64..9).prop_map(|(key, number)| Call::Put(key, number)),
        keys.clone().prop_map(Call::Delete),
        (keys.clone(), op).prop_map(|(key, op)| Call::Modify(key, op)),
        (keys.clone(), keys).prop_map(|(start, end)| Call::Clear(start, end)),
    ]
}

proptest! {
    #[test]
    fn an_overlay_over_what_is_stored_is_what_the_calls_do_one_after_the_other(
        stored in proptest::collection::btree_map(0_u8..16, -9_i64..9, 0..16),
        calls in proptest::collection::vec(call(), 0..40),
    ) {
        let mut model: BTreeMap<u8, i64> = stored.clone();
        let mut overlay = Overlay::new(1 << 20);
        for call in calls {
            match call {
                Call::Put(at, number) => {
                    overlay.put(key(at), value(number)).unwrap();
                    model.insert(at, number);
                }
                Call::Delete(at) => {
                    overlay.delete(key(at)).unwrap();
                    model.remove(&at);
                }
                Call::Modify(at, op) => {
                    overlay.modify(&key(at), op).unwrap();
                    model.insert(at, op.apply(model.get(&at).copied()).unwrap());
                }
                Call::Clear(start, end) if start < end => {
                    overlay.clear(key(start), key(end)).unwrap();
                    model.retain(|at, _| !(start..end).contains(at));
                }
                Call::Clear(..) => {}
            }
        }
        for at in 0..16 {
            let held = stored.get(&at).map(|number| value(*number).bytes);
            let seen = match overlay.own(&key(at)) {
                Some(own) => own.over(held.as_ref()).unwrap(),
                None => held,
            };
            prop_assert_eq!(seen, model.get(&at).map(|number| value(*number).bytes), "key {}", at);
        }
        let charged: usize = overlay.writes.keys.iter().map(|(key, write)| charge_of(key, write)).sum();
        prop_assert!(overlay.bytes() >= charged);
        let all = overlay.within(&(Bound::Unbounded, Bound::Unbounded));
        prop_assert_eq!(all.keys.len(), overlay.writes.keys.len());
        prop_assert_eq!(all.clears.len(), overlay.writes.clears.len());
    }
}

#[test]
fn a_write_that_is_replaced_is_charged_once() {
    let mut overlay = Overlay::new(1 << 20);
    overlay.put(key(1), value(7)).unwrap();
    let once = overlay.bytes();
    overlay.put(key(1), value(8)).unwrap();
    assert_eq!(overlay.bytes(), once);
    overlay.delete(key(1)).unwrap();
    assert_eq!(overlay.bytes(), once - 8);
}

#[test]
fn an_overlay_that_is_full_takes_nothing_more_and_stays_as_it_is() {
    let mut overlay = Overlay::new(2 * (1 + 8 + OPERATION_OVERHEAD_BYTES));
    overlay.put(key(1), value(1)).unwrap();
    overlay.put(key(2), value(2)).unwrap();
    let before = overlay.bytes();
    let refused = [
        overlay.put(key(3), value(3)),
        overlay.delete(key(3)),
        overlay.modify(&key(3), Modify::Add(1)),
        overlay.clear(key(4), key(9)),
    ];
    for result in refused {
        assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
    }
    assert_eq!(overlay.bytes(), before);
    assert_eq!(overlay.own(&key(3)), None);
    // A clear that drops as much as it adds is taken.
    overlay.clear(key(0), key(9)).unwrap();
    assert_eq!(overlay.own(&key(1)), Some(Own::Absent));
}

#[test]
fn modifying_what_is_no_number_is_refused_where_it_is_known() {
    let mut overlay = Overlay::new(1 << 20);
    let text = WriteValue {
        bytes: Bytes::from_static(b"text"),
        deadline_ms: None,
    };
    overlay.put(key(1), text).unwrap();
    assert!(overlay.modify(&key(1), Modify::Add(1)).is_err());
    overlay.put(key(2), value(i64::MAX)).unwrap();
    assert!(overlay.modify(&key(2), Modify::Add(1)).is_err());
    overlay.modify(&key(3), Modify::Add(1)).unwrap();
    let own = overlay.own(&key(3)).unwrap();
    assert!(own.over(Some(&Bytes::from_static(b"text"))).is_err());
    assert!(own.over(Some(&value(i64::MAX).bytes)).is_err());
}

#[test]
fn clears_beside_a_range_are_not_given_to_it() {
    let mut overlay = Overlay::new(1 << 20);
    overlay.clear(key(2), key(4)).unwrap();
    overlay.clear(key(8), key(9)).unwrap();
    let clears = |bounds: Bounds| overlay.within(&bounds).clears.len();
    assert_eq!(
        clears((Bound::Included(key(4)), Bound::Excluded(key(8)))),
        0
    );
    assert_eq!(
        clears((Bound::Included(key(3)), Bound::Excluded(key(8)))),
        1
    );
    assert_eq!(clears((Bound::Unbounded, Bound::Included(key(8)))), 2);
    assert_eq!(clears((Bound::Unbounded, Bound::Excluded(key(2)))), 0);
}
