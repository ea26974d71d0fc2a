//! Order, numbers and lines of histories.

use serde_json::Value as Json;

use super::*;

fn event(client: u32, at_ns: u64, what: What, steps: Vec<Step>) -> Event {
    Event {
        client,
        at_ns,
        what,
        steps,
        lsn: None,
        versions: Vec::new(),
        error: None,
    }
}

fn write(key: u64, value: u64) -> Step {
    Step(Verb::Write, key, Some(Value::One(value)))
}

fn read(key: u64, seen: Option<u64>) -> Step {
    Step(Verb::Read, key, seen.map(Value::One))
}

fn written(
    workload: Workload,
    events: Vec<Event>,
) -> (Vec<Json>, Counts, PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("history");
    let mut collector = Collector::new(100);
    for event in events {
        collector.event(event);
    }
    let counts = collector.write(workload, &out).unwrap();
    let text = std::fs::read_to_string(&out).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    (lines, counts, out, dir)
}

#[test]
fn events_are_ordered_by_stamp_and_equal_stamps_overlap() {
    // As they may arrive: the second process's completion before the first's invocation.
    let events = vec![
        event(1, 300, What::Invoke, vec![read(1, None)]),
        event(1, 400, What::Ok, vec![read(1, None)]),
        event(0, 350, What::Invoke, vec![read(1, None)]),
        event(0, 500, What::Ok, vec![read(1, None)]),
        event(2, 400, What::Invoke, vec![read(1, None)]),
        event(2, 600, What::Ok, vec![read(1, None)]),
    ];
    let (lines, counts, ..) = written(Workload::RwRegister, events);
    let order: Vec<(u64, &str, u64)> = lines
        .iter()
        .map(|line| {
            (
                line["process"].as_u64().unwrap(),
                line["type"].as_str().unwrap(),
                line["time"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = [
        (1, "invoke", 200),
        (0, "invoke", 250),
        (2, "invoke", 300),
        (1, "ok", 300),
        (0, "ok", 400),
        (2, "ok", 500),
    ];
    assert_eq!(order, expected);
    assert!((0..6).all(|index| lines[index]["index"] == index));
    assert_eq!((counts.ok, counts.fail, counts.info), (3, 0, 0));
}

#[test]
fn an_unknown_outcome_takes_a_new_process_and_what_a_kill_left_open_ends_unknown() {
    let events = vec![
        event(0, 110, What::Invoke, vec![write(1, 10)]),
        event(0, 120, What::Info, vec![write(1, 10)]),
        event(0, 130, What::Invoke, vec![write(1, 11)]),
        event(0, 140, What::Fail, vec![write(1, 11)]),
        event(1, 150, What::Invoke, vec![write(1, 12)]),
    ];
    let (lines, counts, ..) = written(Workload::RwRegister, events);
    let shown: Vec<(u64, &str)> = lines
        .iter()
        .map(|line| {
            (
                line["process"].as_u64().unwrap(),
                line["type"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        (0, "invoke"),
        (0, "info"),
        (2, "invoke"),
        (2, "fail"),
        (1, "invoke"),
        (1, "info"),
    ];
    assert_eq!(shown, expected);
    assert_eq!(lines[5]["value"].to_string(), r#"[["w",1,12]]"#);
    assert_eq!((counts.ok, counts.fail, counts.info), (0, 1, 2));
}

#[test]
fn commit_lsns_stand_beside_a_register_history_also_of_unknown_commits_that_were_read() {
    let mut reader = event(1, 140, What::Ok, vec![read(7, Some(10)), write(8, 20)]);
    reader.lsn = Some(55);
    reader.versions = vec![Some(44), None];
    let mut looker = event(1, 160, What::Ok, vec![read(9, None)]);
    looker.lsn = Some(60);
    let events = vec![
        event(0, 110, What::Invoke, vec![write(7, 10)]),
        event(0, 120, What::Info, vec![write(7, 10)]),
        event(1, 130, What::Invoke, vec![read(7, None), write(8, 20)]),
        reader,
        event(1, 150, What::Invoke, vec![read(9, None)]),
        looker,
    ];
    let (lines, _, out, _dir) = written(Workload::RwRegister, events);
    assert_eq!(lines[3]["versions"].to_string(), "[44,null]");
    let order = std::fs::read_to_string(with_suffix(&out, ".order.json")).unwrap();
    assert_eq!(order, r#"{"1":44,"3":55}"#);
}

#[test]
fn a_register_line_has_call_and_return_and_unknown_ones_stay_open() {
    let events = vec![
        event(0, 110, What::Invoke, vec![write(7, 10)]),
        event(0, 120, What::Ok, vec![write(7, 10)]),
        event(0, 130, What::Invoke, vec![read(7, None)]),
        event(0, 140, What::Ok, vec![read(7, Some(10))]),
        event(0, 150, What::Invoke, vec![write(7, 11)]),
    ];
    let (lines, ..) = written(Workload::Register, events);
    let expected = [
        r#"{"client":0,"op":"write","key":7,"value":10,"call":10,"ret":20,"outcome":"ok"}"#,
        r#"{"client":0,"op":"read","key":7,"value":10,"call":30,"ret":40,"outcome":"ok"}"#,
        r#"{"client":0,"op":"write","key":7,"value":11,"call":50,"ret":null,"outcome":"unknown"}"#,
    ];
    let expected: Vec<Json> = expected
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, expected);
}

#[test]
fn a_client_that_speaks_out_of_turn_is_an_error() {
    let events = vec![
        event(0, 110, What::Invoke, vec![read(7, None)]),
        event(0, 120, What::Invoke, vec![read(7, None)]),
    ];
    assert!(in_order(events).is_err());
    assert!(in_order(vec![event(0, 110, What::Ok, vec![read(7, None)])]).is_err());
}
