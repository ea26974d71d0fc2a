//! How far what may be collected lags behind what retention says.

use sixfold_log_format::{BatchBuilder, Op, PageId, PageKind, PgId, Record, VolumeEpoch, VolumeId};

use super::*;

const BYTES: usize = 4 << 10;

fn header() -> BatchHeader {
    let volume = VolumeId::from_bytes([1; 16]);
    let mut builder = BatchBuilder::new(volume, PgId::ROOT, VolumeEpoch::new(1), Lsn::NONE);
    assert!(builder.push(&Record {
        lsn: Lsn::new(1),
        page: PageId::new(1),
        page_prev: Lsn::NONE,
        cpl: Lsn::new(1),
        user_visible: false,
        op: Op::Init {
            kind: PageKind::Overflow,
            level: 0,
        },
    }));
    builder.seal(Lsn::NONE, 0).header().clone()
}

/// How far behind the tip what may be collected is, in batches, of which one comes each millisecond: at its worst in the last tenth.
fn lag(batches: u64, parameters: &VolumeParameters) -> u64 {
    let mut retention = Retention::new();
    let mut header = header();
    let mut lag = 0;
    for number in 1..=batches {
        (header.last, header.unix_ms) = (Lsn::new(number), number);
        retention.saw(&header, BYTES);
        retention.heard(Duration::ZERO, Lsn::MAX, 1_000);
        if number % 64 == 0 {
            retention.pass(parameters);
            let limit = retention.limit(Duration::ZERO, parameters).unwrap();
            if number > batches / 10 * 9 {
                lag = lag.max(number - limit.get());
            }
        }
        assert!(retention.marks.len() <= MARKS_MAX);
    }
    lag
}

#[test]
fn what_may_be_collected_keeps_up_however_long_the_log_is() {
    let with = |retention_ms, retention_bytes| VolumeParameters {
        retention_ms,
        retention_bytes,
        page_bytes: 512,
        lal: 10_000,
        pages_per_pg: 1 << 20,
        token: None,
    };
    for batches in [20_000, 200_000, 1_000_000] {
        assert!(lag(batches, &with(0, 0)) < 200, "of {batches}");
        let by_time = lag(batches, &with(5_000, 0));
        assert!((5_000..5_500).contains(&by_time), "{by_time} of {batches}");
        let by_bytes = lag(batches, &with(u64::MAX, 4_000 * BYTES as u64));
        assert!(
            (4_000..4_500).contains(&by_bytes),
            "{by_bytes} of {batches}"
        );
    }
}
