use super::*;

#[test]
fn reversed_and_empty_bounds_hold_nothing() {
    let nothing = ["b".."a", "a".."a"];
    for range in nothing {
        assert!(is_empty(&range.into_bounds()));
    }
    assert!(is_empty(&("b"..="a").into_bounds()));
    assert!(is_empty(&(.."").into_bounds()));
    assert!(is_empty(
        &(Bound::Excluded("a"), Bound::Included("a")).into_bounds()
    ));
    assert!(is_empty(
        &(Bound::Excluded("a"), Bound::Excluded("a")).into_bounds()
    ));
    assert!(!is_empty(&("a"..="a").into_bounds()));
    assert!(!is_empty(&("a".."b").into_bounds()));
    assert!(!is_empty(&(..).into_bounds()));
    assert!(!is_empty(&("a"..).into_bounds()));
    assert!(!is_empty(&(..="a").into_bounds()));
}

#[test]
fn a_prefix_ends_before_the_next_string_of_its_length() {
    let bounds = |bytes: &[u8]| prefix(bytes).into_bounds();
    assert_eq!(
        bounds(b"ab"),
        (Bound::Included("ab".into()), Bound::Excluded("ac".into()))
    );
    assert_eq!(
        bounds(b"a\xff"),
        (
            Bound::Included(b"a\xff".as_ref().into()),
            Bound::Excluded("b".into())
        )
    );
    assert_eq!(
        bounds(b"\xff\xff"),
        (
            Bound::Included(b"\xff\xff".as_ref().into()),
            Bound::Unbounded
        )
    );
    assert_eq!(bounds(b""), (Bound::Included("".into()), Bound::Unbounded));
}

#[test]
fn what_was_consumed_ends_at_the_last_key_returned() {
    let bounds = ("b".."y").into_bounds();
    let m = Bytes::from_static(b"m");
    let range = |start: &'static str, end: &'static str, end_included| ReadRange {
        start: start.into(),
        end: Some(end.into()),
        end_included,
    };
    assert_eq!(
        consumed(&bounds, Direction::Forward, Some(&m)),
        range("b", "m", true)
    );
    assert_eq!(
        consumed(&bounds, Direction::Reverse, Some(&m)),
        range("m", "y", false)
    );
    assert_eq!(
        consumed(&bounds, Direction::Forward, None),
        range("b", "y", false)
    );
    let bounds = (Bound::Excluded("b"), Bound::Included("y")).into_bounds();
    assert_eq!(
        consumed(&bounds, Direction::Forward, None),
        range("b\0", "y", true)
    );
    let all = (..).into_bounds();
    assert_eq!(
        consumed(&all, Direction::Reverse, None),
        ReadRange {
            start: Bytes::new(),
            end: None,
            end_included: false
        }
    );
}
