//! Reading the past: points are rounded down to the end of a transaction (R29), and the volume remembers times.

use std::time::Duration;

use sixfold_compute_core::{CommitError, CommitRequest, RoundError, rows};
use sixfold_log_format::Lsn;
use sixfold_log_format::wire::Refusal;

use crate::cluster::{Cluster, PATIENCE, UNIX_MS, bounds, opened, put};

fn several(count: u32, value: &str) -> CommitRequest {
    let mut request = CommitRequest::default();
    for number in 0..count {
        let one = put(&format!("key {number:02}"), value);
        request.writes.keys.extend(one.writes.keys);
    }
    request
}

fn rounded(cluster: &mut Cluster, lsn: Lsn) -> Result<Lsn, RoundError> {
    let ticket = cluster.round_down(lsn);
    cluster.run();
    cluster.rounded(ticket).expect("it is answered")
}

/// The end of the last transaction at or below an LSN.
fn expected(lsns: &[Lsn], lsn: Lsn) -> Lsn {
    *lsns.iter().filter(|&&end| end <= lsn).max().unwrap()
}

#[test]
fn an_lsn_inside_a_transaction_is_rounded_down_to_the_one_before() {
    let mut cluster = Cluster::new();
    let mut ends = vec![cluster.core.shared().vdl()];
    for number in 1..8 {
        ends.push(cluster.commit(several(number, "x")).unwrap());
    }
    let last = cluster.core.shared().vdl();
    for lsn in ends[0].get()..=last.get() {
        let lsn = Lsn::new(lsn);
        let point = rounded(&mut cluster, lsn).unwrap();
        assert_eq!(point, expected(&ends, lsn), "{lsn}");
    }
    assert_eq!(
        cluster
            .segments
            .iter()
            .map(|segment| segment.log_read_count)
            .sum::<usize>(),
        0
    );
    let above = rounded(&mut cluster, last.next());
    assert!(
        matches!(above, Err(RoundError::AboveVdl { .. })),
        "{above:?}"
    );
}

#[test]
fn before_a_failover_it_is_told_from_the_log_and_in_an_annulled_range_from_the_history() {
    let mut cluster = Cluster::with(bounds(), opened(512, 10_000));
    let mut ends = vec![cluster.core.shared().vdl()];
    for number in 1..8 {
        let request = several(number * 4, "xxxxxxxxxxxxxxxxxxxx");
        ends.push(cluster.commit(request).unwrap());
    }
    let cut = cluster.core.shared().vdl();
    cluster.fail_over(UNIX_MS);
    let base = cluster.core.shared().vdl();
    for lsn in (ends[0].get()..=cut.get()).rev() {
        let lsn = Lsn::new(lsn);
        let wanted = expected(&ends, lsn);
        assert_eq!(rounded(&mut cluster, lsn), Ok(wanted), "{lsn}");
    }
    assert_eq!(rounded(&mut cluster, cut.next()), Ok(cut));
    assert_eq!(rounded(&mut cluster, base), Ok(base));
    let end = cluster.commit(several(5, "y")).unwrap();
    assert_eq!(rounded(&mut cluster, end), Ok(end));
    let inside = Lsn::new(end.get() - 1);
    assert_eq!(rounded(&mut cluster, inside), Ok(base));
}

#[test]
fn the_log_is_asked_elsewhere_when_a_segment_refuses_and_the_deadline_ends_it() {
    let mut cluster = Cluster::new();
    cluster.commit(several(5, "x")).unwrap();
    let end = cluster.commit(several(5, "y")).unwrap();
    let inside = Lsn::new(end.get() - 2);
    cluster.fail_over(UNIX_MS);
    for index in 0..5 {
        cluster.segments[index].refuses_reads = Some(Refusal::Overloaded);
    }
    let point = rounded(&mut cluster, inside).unwrap();
    assert!(point < inside);
    cluster.segments[5].refuses_reads = Some(Refusal::Overloaded);
    let ticket = cluster.round_down(inside);
    cluster.pass(PATIENCE + Duration::from_millis(1));
    let result = cluster.rounded(ticket).unwrap();
    assert!(
        matches!(result, Err(RoundError::Unavailable { .. })),
        "{result:?}"
    );
    cluster.each(|segment| {
        segment.refuses_reads = Some(Refusal::Forgotten {
            horizon: Lsn::new(7),
        });
    });
    let oldest = Lsn::new(7);
    let lsn = inside;
    assert_eq!(
        rounded(&mut cluster, inside),
        Err(RoundError::Forgotten { lsn, oldest })
    );
}

#[test]
fn segments_that_forgot_more_than_the_others_do_not_end_it() {
    let mut cluster = Cluster::new();
    cluster.commit(several(5, "x")).unwrap();
    let end = cluster.commit(several(5, "y")).unwrap();
    let inside = Lsn::new(end.get() - 2);
    cluster.fail_over(UNIX_MS);
    for index in 0..6 {
        cluster.each(|segment| segment.refuses_reads = None);
        for forgetful in [index, (index + 1) % 6] {
            cluster.segments[forgetful].refuses_reads = Some(Refusal::Forgotten { horizon: end });
        }
        assert!(rounded(&mut cluster, inside).unwrap() < inside);
    }
    // Three say so, the others nothing.
    let horizons = [end, Lsn::new(end.get() - 1), end];
    for (segment, horizon) in cluster.segments.iter_mut().zip(horizons) {
        segment.refuses_reads = Some(Refusal::Forgotten { horizon });
    }
    for segment in &mut cluster.segments[3..] {
        segment.refuses_reads = Some(Refusal::Overloaded);
    }
    let ticket = cluster.round_down(inside);
    cluster.pass(PATIENCE);
    let (lsn, oldest) = (inside, horizons[1]);
    let result = cluster.rounded(ticket).unwrap();
    assert_eq!(result, Err(RoundError::Forgotten { lsn, oldest }));
}

#[test]
fn before_the_volumes_first_transaction_nothing_can_be_read() {
    let mut cluster = Cluster::new();
    let first = cluster.core.shared().vdl();
    assert_eq!(rounded(&mut cluster, first), Ok(first));
    for lsn in [first.get() - 1, first.get() - 10, 1] {
        let result = rounded(&mut cluster, Lsn::new(lsn));
        assert!(
            matches!(result, Err(RoundError::Forgotten { .. })),
            "{result:?}"
        );
    }
}

#[test]
fn a_time_leads_to_what_was_committed_by_then_also_when_the_volume_is_idle() {
    let mut cluster = Cluster::new();
    let first = cluster.commit(put("a", "1")).unwrap();
    cluster.pass_ms(30);
    let second = cluster.commit(put("a", "2")).unwrap();
    cluster.pass_ms(1_000);
    let third = cluster.commit(put("a", "3")).unwrap();
    cluster.pass_ms(500);
    let point = cluster.core.shared().announce();
    let mut at = |unix_ms: u64| {
        let found = cluster.read(&point, |view| rows::time_at(view, unix_ms));
        found.map(|found| found.lsn)
    };
    assert_eq!(at(UNIX_MS - 1), None);
    assert_eq!(at(UNIX_MS), Some(first));
    let rest = at(UNIX_MS + 999).unwrap();
    assert!(second <= rest && rest < third);
    assert!(at(UNIX_MS + 1_600).unwrap() >= third);
    let last = cluster.core.stats().last;
    cluster.pass_ms(20_000);
    assert_eq!(cluster.core.stats().last, last, "an idle volume is silent");
}

#[test]
fn times_beyond_the_retention_go() {
    let brief = sixfold_compute_core::WriterBounds {
        token_retention: Duration::from_secs(5),
        ..bounds()
    };
    let mut cluster = Cluster::with(brief, opened(8_192, 1_000_000));
    for _ in 0..400 {
        cluster.pass_ms(100);
        cluster.commit(put("a", "1")).unwrap();
    }
    let rows = cluster.row_count(b'c');
    assert!((50..=80).contains(&rows), "{rows}");
}

#[test]
fn stats_say_what_a_snapshot_holds_back() {
    let mut cluster = Cluster::new();
    cluster.commit(put("a", "1")).unwrap();
    let old = cluster.core.shared().announce();
    for number in 0..50 {
        cluster.pass_ms(200);
        cluster.commit(put("a", &number.to_string())).unwrap();
    }
    let stats = cluster.core.stats();
    assert_eq!((stats.read_point_min, stats.read_points), (old.lsn(), 1));
    assert_eq!(stats.held_records, stats.vdl.since(old.lsn()));
    let age = stats.read_point_age;
    assert!((9_500..=10_100).contains(&age.as_millis()), "{age:?}");
    assert!(stats.held_cache_bytes > 0);
    assert!(stats.conflict_entries >= 50 && stats.conflict_bytes > 50 * 4);
    drop(old);
    cluster.pass_ms(500);
    let stats = cluster.core.stats();
    assert_eq!((stats.held_records, stats.conflict_entries), (0, 0));
    assert_eq!(
        (stats.read_points, stats.read_point_age),
        (0, Duration::ZERO)
    );
    let result: Result<Lsn, CommitError> = cluster.commit(put("b", "1"));
    assert!(result.is_ok());
}
