//! Transcripts of VCL and VDL.

use sixfold_log_format::PgId;
use sixfold_recovery::points::VolumePoints;

use crate::common::lsn;

const ONE: PgId = PgId::new(1);
const TWO: PgId = PgId::new(2);

/// Odd LSNs go to PG1, even ones to PG2; PGCL1 = 103, PGCL2 = 104, and 105 is not at quorum.
#[test]
fn the_example_of_the_paper_has_vcl_104() {
    let mut points = VolumePoints::new(lsn(100));
    for number in 101..=105 {
        points.sealed(
            lsn(number),
            &[(if number % 2 == 1 { ONE } else { TWO }, lsn(number))],
        );
    }
    assert_eq!(points.unacknowledged_seals(), 5);
    assert_eq!(points.advance(TWO, lsn(104)), None);
    assert_eq!(points.unacknowledged_seals(), 3);
    assert_eq!(points.advance(ONE, lsn(103)), Some(lsn(104)));
    assert_eq!(
        (points.vcl(), points.vdl(), points.unacknowledged_seals()),
        (lsn(104), lsn(104), 1)
    );
}

/// Complete to 1007, CPLs at 900, 1000, 1100: durable at 1000.
#[test]
fn the_second_example_of_the_paper_has_vdl_1000() {
    let mut points = VolumePoints::new(lsn(800));
    for cpl in [900, 1000, 1100] {
        points.sealed(lsn(cpl), &[(ONE, lsn(cpl))]);
    }
    assert_eq!(points.advance(ONE, lsn(1007)), Some(lsn(1000)));
    assert_eq!((points.vcl(), points.vdl()), (lsn(1007), lsn(1000)));
    assert_eq!(points.advance(ONE, lsn(1099)), None);
    assert_eq!(points.advance(ONE, lsn(1100)), Some(lsn(1100)));
    assert_eq!(points.unacknowledged_seals(), 0);
}

#[test]
fn a_reopened_volume_is_complete_and_durable_at_its_base() {
    let mut points = VolumePoints::new(lsn(1010));
    assert_eq!((points.vcl(), points.vdl()), (lsn(1010), lsn(1010)));
    assert_eq!(points.advance(ONE, lsn(1000)), None);
    points.sealed(lsn(1012), &[(ONE, lsn(1012))]);
    assert_eq!((points.vcl(), points.last_sealed()), (lsn(1010), lsn(1012)));
}

#[test]
fn an_idle_group_holds_nothing_back() {
    let mut points = VolumePoints::new(lsn(0));
    points.sealed(lsn(4), &[(ONE, lsn(3)), (TWO, lsn(4))]);
    points.sealed(lsn(9), &[(ONE, lsn(9))]);
    assert_eq!(points.advance(ONE, lsn(9)), None);
    assert_eq!(points.advance(TWO, lsn(4)), Some(lsn(9)));
}

#[test]
fn a_seal_waits_for_every_group_in_it_and_for_the_seals_before_it() {
    let mut points = VolumePoints::new(lsn(0));
    points.sealed(lsn(4), &[(ONE, lsn(2)), (TWO, lsn(4))]);
    points.sealed(lsn(6), &[(TWO, lsn(6))]);
    assert_eq!(points.advance(TWO, lsn(6)), None);
    assert_eq!(
        points.unacknowledged_seals(),
        1,
        "the second seal has its quorum and waits for the first"
    );
    assert_eq!(points.vcl(), lsn(0), "PG1 may hold LSN 1");
    assert_eq!(points.advance(ONE, lsn(1)), None);
    assert_eq!(points.vcl(), lsn(1));
    assert_eq!(points.advance(ONE, lsn(2)), Some(lsn(6)));
}

#[test]
fn points_never_fall() {
    let mut points = VolumePoints::new(lsn(0));
    points.sealed(lsn(4), &[(ONE, lsn(4))]);
    points.sealed(lsn(8), &[(ONE, lsn(8))]);
    assert_eq!(points.advance(ONE, lsn(5)), Some(lsn(4)));
    // A change of membership may lower a PGCL; what was durable stays so.
    assert_eq!(points.advance(ONE, lsn(1)), None);
    assert_eq!((points.vcl(), points.vdl()), (lsn(5), lsn(4)));
}

#[test]
#[should_panic(expected = "not above")]
fn a_seal_point_that_does_not_rise_is_a_bug() {
    let mut points = VolumePoints::new(lsn(4));
    points.sealed(lsn(4), &[(ONE, lsn(4))]);
}
