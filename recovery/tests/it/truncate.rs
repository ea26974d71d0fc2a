//! The new history (R1).

use sixfold_log_format::limits::HISTORY_RANGES_MAX;
use sixfold_recovery::truncate::{extend, has_room};

use crate::common::{LAL, epoch, history, lsn, range};

#[test]
fn the_first_opening_annuls_what_might_have_been_minted() {
    let first = extend(&history(1, &[]), lsn(0), LAL, epoch(2));
    assert_eq!(first, history(2, &[range(0, 10, 2)]));
    assert_eq!(first.highest_end(), lsn(10));
}

#[test]
fn earlier_ranges_stay() {
    let found = history(5, &[range(1000, 1010, 5)]);
    assert_eq!(
        extend(&found, lsn(1013), LAL, epoch(6)),
        history(6, &[range(1000, 1010, 5), range(1013, 1023, 6)])
    );
}

#[test]
fn a_reopening_that_found_nothing_new_adds_to_the_last_range() {
    let found = history(5, &[range(20, 30, 2), range(1000, 1010, 5)]);
    assert_eq!(
        extend(&found, lsn(1010), LAL, epoch(6)),
        history(6, &[range(20, 30, 2), range(1000, 1020, 6)])
    );
}

/// R1, second story: Y annulled (1001, 1011], the only copy of 1001 is gone, Z cuts at 1000. Z's range must reach 1011 at
/// least, or Z would mint 1011 into a history that counts it as annulled.
#[test]
fn a_cut_below_an_installed_range_covers_it_whole() {
    let found = history(6, &[range(1001, 1011, 6)]);
    assert_eq!(
        extend(&found, lsn(1000), LAL, epoch(7)),
        history(7, &[range(1000, 1011, 7)])
    );
    assert_eq!(
        extend(&found, lsn(1001), LAL, epoch(7)),
        history(7, &[range(1001, 1011, 7)])
    );
}

#[test]
fn nothing_annulled_is_revived_and_nothing_at_or_below_the_cut_is_lost() {
    let found = history(5, &[range(3, 6, 2), range(9, 12, 4), range(14, 18, 5)]);
    for vdl in (0..30).filter(|&vdl| !found.annuls(lsn(vdl)) || [6, 12, 18].contains(&vdl)) {
        let new = extend(&found, lsn(vdl), 5, epoch(6));
        assert!(new.highest_end() >= lsn(vdl + 5) && new.highest_end() >= found.highest_end());
        for number in 1..40 {
            let number_lsn = lsn(number);
            let expected =
                found.annuls(number_lsn) || (number > vdl && number_lsn <= new.highest_end());
            assert_eq!(new.annuls(number_lsn), expected, "LSN {number}, VDL {vdl}");
        }
        assert_eq!(
            sixfold_log_format::History::decode(&new.encode()).unwrap(),
            new,
            "the invariants hold"
        );
    }
}

#[test]
#[should_panic(expected = "lies inside")]
fn a_cut_inside_a_range_is_a_bug() {
    extend(
        &history(5, &[range(1000, 1010, 5)]),
        lsn(1005),
        LAL,
        epoch(6),
    );
}

#[test]
#[should_panic(expected = "not above")]
fn an_epoch_that_does_not_rise_is_a_bug() {
    extend(&history(5, &[]), lsn(5), LAL, epoch(5));
}

#[test]
fn a_full_history_has_room_only_for_a_range_that_replaces_another() {
    let count = HISTORY_RANGES_MAX as u64;
    let ranges: Vec<_> = (0..count)
        .map(|number| range(100 * number + 50, 100 * number + 60, number + 2))
        .collect();
    let full = history(count + 1, &ranges);
    let end = full.highest_end().get();
    // Something was written since: one range more.
    assert!(!has_room(&full, lsn(end + 1)));
    // Nothing was written, or the cut lies below the last range: as many as before.
    for vdl in [end, end - 11] {
        assert!(has_room(&full, lsn(vdl)));
        let new = extend(&full, lsn(vdl), LAL, epoch(count + 2));
        assert_eq!(new.ranges.len(), HISTORY_RANGES_MAX);
    }
    let roomy = history(count, &ranges[..HISTORY_RANGES_MAX - 1]);
    let vdl = roomy.highest_end().next();
    assert!(has_room(&roomy, vdl));
    let new = extend(&roomy, vdl, LAL, epoch(count + 2));
    assert_eq!(new.ranges.len(), HISTORY_RANGES_MAX);
}
