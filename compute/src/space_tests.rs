use proptest::prelude::*;

use super::*;
use crate::range::KeyRange;

fn default_space() -> Space {
    Space::default_of(8_192)
}

fn space_of(id: u32) -> Space {
    let name = format!("keyspace {id}");
    default_space().named(Arc::new(Named { name, id }))
}

#[test]
fn keys_are_one_byte_to_the_limit_long() {
    let space = default_space();
    for key in [vec![], vec![7; USER_KEY_BYTES_MAX + 1]] {
        assert!(matches!(space.stored(&key), Err(Error::Invalid { .. })));
        assert!(matches!(space.lookup_key(&key), Err(Error::Invalid { .. })));
    }
    for len in [1, SHORT_KEY_BYTES - 1, SHORT_KEY_BYTES, USER_KEY_BYTES_MAX] {
        let key = vec![7; len];
        let stored = space.stored(&key).unwrap();
        assert_eq!(&*space.lookup_key(&key).unwrap(), stored.as_ref());
        assert_eq!(space.user_key(&stored), key);
    }
}

#[test]
fn small_pages_have_shorter_keys_that_still_fit_with_what_is_reserved() {
    let space = Space::default_of(512);
    let len_max = space.key_bytes_max;
    assert!((16..USER_KEY_BYTES_MAX).contains(&len_max));
    assert!(space.stored(&vec![7; len_max]).is_ok());
    assert!(space.stored(&vec![7; len_max + 1]).is_err());
}

#[test]
fn keyspaces_lie_apart_whatever_their_ids() {
    let ids = [1, 2, 127, 128, 129, 255, 256, 16_383, 16_384, u32::MAX];
    let mut ranges: Vec<(Bytes, Bytes)> = ids
        .iter()
        .map(|&id| space_of(id).stored_range((..).into_bounds()).unwrap())
        .collect();
    ranges.push(default_space().stored_range((..).into_bounds()).unwrap());
    ranges.sort();
    for pair in ranges.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "{pair:?} overlap");
    }
    assert!(ranges[0].0 > Bytes::from_static(&[0, 0xff, 0xff]));
}

fn bound() -> impl Strategy<Value = Bound<Bytes>> {
    let key = proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xff)], 0..5)
        .prop_map(Bytes::from);
    prop_oneof![
        Just(Bound::Unbounded),
        key.clone().prop_map(Bound::Included),
        key.prop_map(Bound::Excluded),
    ]
}

proptest! {
    #[test]
    fn a_half_open_stored_range_holds_the_keys_that_the_bounds_hold(
        lower in bound(),
        upper in bound(),
        keys in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xff)], 1..=3), 1..20),
    ) {
        // Keys are three bytes at most here, bounds up to four.
        let mut space = space_of(300);
        space.key_bytes_max = 3;
        let range = space.stored_range((lower.clone(), upper.clone()));
        let bounds = space.stored_bounds((lower.clone(), upper.clone()));
        for key in keys {
            let held = std::ops::RangeBounds::<Bytes>::contains(
                &(lower.clone(), upper.clone()), &Bytes::from(key.clone()));
            let stored = space.stored(&key).unwrap();
            let in_range = range.as_ref().is_some_and(|(start, end)| (start..end).contains(&&stored));
            prop_assert_eq!(in_range, held);
            let in_bounds = std::ops::RangeBounds::<Bytes>::contains(&bounds, &stored);
            prop_assert_eq!(in_bounds, held);
        }
    }
}
