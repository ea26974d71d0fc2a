//! `sixfold bench outage`, the cases that end commits: what is counted, and that it agrees with what the design promises.

use serde_json::Value;

use crate::process::{processes_of, run, scratch};

#[test]
fn an_outage_is_counted_as_the_clients_saw_it() {
    let dir = scratch();
    let path = dir.path().join("outage");
    let args = [
        "bench",
        "outage",
        "--cases",
        "az-gone,az-plus-one,writer-failover,writer-cut-off",
        "--seconds",
        "5",
        "--warm-up-seconds",
        "1",
        "--clients",
        "4",
        "--json",
        "--dir",
        path.to_str().unwrap(),
    ];
    let finished = run(&args, "").well();
    let report: Value = serde_json::from_str(finished.output.last().unwrap()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let cases: Vec<_> = rows
        .iter()
        .map(|row| row["case"].as_str().unwrap())
        .collect();
    let expected = [
        "az-gone",
        "az-plus-one",
        "writer-failover",
        "writer-cut-off",
    ];
    assert_eq!(cases, expected);
    for row in rows {
        let of = |name: &str| row[name].as_u64().unwrap();
        assert_eq!(of("failed"), of("refused") + of("unknown"), "{row}");
        // Reads go on whatever breaks, and so do commits before and after.
        for name in [
            "answered_before",
            "answered_after",
            "p99_before_us",
            "p99_after_us",
        ] {
            assert!(of(name) > 0, "{name}: {row}");
        }
        // Without a quorum there is no read lease, either.
        for name in ["reads_during", "read_p99_during_us"] {
            assert!(
                of(name) > 0 || row["case"] == "writer-cut-off",
                "{name}: {row}"
            );
        }
        assert!(
            !row["distribution_before_us"].as_array().unwrap().is_empty(),
            "{row}"
        );
    }
    // Without a quorum commits end, as unknown when they had been shipped, else refused.
    let (az_gone, read_only, failover) = (&rows[0], &rows[1], &rows[2]);
    assert_eq!(az_gone["failed"], 0, "{az_gone}");
    assert!(read_only["unknown"].as_u64().unwrap() > 0, "{read_only}");
    assert!(read_only["refused"].as_u64().unwrap() > 0, "{read_only}");
    // Those who waited for the dead writer waited until the next one answered.
    assert_eq!(failover["in_flight_at_kill"], 4, "{failover}");
    let takeover_us = failover["takeover_ms"].as_f64().unwrap() * 1_000.0;
    let worst_us = failover["p99_during_us"].as_f64().unwrap();
    assert!(takeover_us > 0.0 && worst_us > 0.0, "{failover}");
    // What was on its way is answered when the network is whole again; nothing in between is.
    let cut_off = &rows[3];
    let answered = |phase: &str| cut_off[phase].as_u64().unwrap();
    assert!(
        answered("answered_during") * 10 < answered("answered_before"),
        "{cut_off}"
    );
    assert!(cut_off["refused"].as_u64().unwrap() > 0, "{cut_off}");
    assert_eq!(processes_of(&path), Vec::<u32>::new());
}
