//! Checkers of histories: `adya` for lists and registers under transactions, a replay in the order of the commit LSNs, and
//! linearizability of single registers.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use adya::{History, Opts, Report, Valid, check};
use serde_json::Value;

/// The lines of a history.
pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What `adya` says about strict serializability. Registers are checked with the order of the commits, which makes their version order
/// complete; that of lists shows in what was read.
pub fn adya(workload: &str, path: &Path) -> Report {
    let history = History::from_json(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut opts = Opts {
        models: vec!["strict-serializable".to_owned()],
        timeout: Duration::from_secs(20),
        ..Opts::default()
    };
    let workload = match workload {
        "list-append" => adya::Workload::ListAppend,
        _ => {
            let order = commit_order(path).into_iter();
            let order = order.map(|(index, lsn)| (index, lsn.try_into().unwrap()));
            opts.transaction_order = Some(order.collect());
            adya::Workload::RwRegister
        }
    };
    check(&history, workload, &opts)
}

/// A report in words.
pub fn told(report: &Report) -> String {
    let shown = report.anomalies.values().flatten().take(3);
    shown
        .map(|anomaly| format!("{}: {}\n", anomaly.kind, anomaly.explanation))
        .collect()
}

pub fn assert_strict_serializable(workload: &str, path: &Path) {
    let report = adya(workload, path);
    assert_eq!(report.valid, Valid::True, "{workload}: {}", told(&report));
}

/// Commit LSNs by the index of the completion.
fn commit_order(path: &Path) -> BTreeMap<u64, u64> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".order.json");
    let text = std::fs::read_to_string(beside).unwrap();
    let order: BTreeMap<String, u64> = serde_json::from_str(&text).unwrap();
    order
        .into_iter()
        .map(|(index, lsn)| (index.parse().unwrap(), lsn))
        .collect()
}

/// Whether a history of rw-register is what one gets by running its transactions one after the other in the order of their LSNs
/// (readers after the commit at their read point), and that order agrees with real time. This proves strict
/// serializability outright; an error says what is wrong.
pub fn replay(history: &[Value], path: &Path) -> Result<(), String> {
    let order = commit_order(path);
    let mut open: BTreeMap<u64, u64> = BTreeMap::new();
    // What was answered before a transaction began is at or below it, and below it if it wrote.
    let mut answered = 0;
    let mut serial = Vec::new();
    for line in history.iter().filter(|line| line["process"].is_number()) {
        let (index, process) = (
            line["index"].as_u64().unwrap(),
            line["process"].as_u64().unwrap(),
        );
        let before = match line["type"].as_str().unwrap() {
            "invoke" => {
                open.insert(process, answered);
                continue;
            }
            _ => open.remove(&process).unwrap(),
        };
        let known = line["lsn"].as_u64().or_else(|| order.get(&index).copied());
        let Some(lsn) = known.filter(|_| line["type"] != "fail") else {
            continue;
        };
        let writes = order.contains_key(&index);
        if lsn < before || (writes && lsn == before) {
            return Err(format!(
                "LSN {before} was answered before this began: {line}"
            ));
        }
        if line["type"] == "ok" {
            answered = answered.max(lsn);
        }
        serial.push((lsn, !writes, line));
    }
    serial.sort_by_key(|(lsn, reads_only, _)| (*lsn, *reads_only));
    let mut state: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (lsn, _, line) in serial {
        let mut own: BTreeMap<u64, u64> = BTreeMap::new();
        for (place, step) in line["value"].as_array().unwrap().iter().enumerate() {
            let key = step[1].as_u64().unwrap();
            if step[0] == "w" {
                own.insert(key, step[2].as_u64().unwrap());
                continue;
            }
            let there = state.get(&key).copied();
            let (value, version) = match own.get(&key) {
                Some(own) => (Some(*own), None),
                None => (there.map(|(value, _)| value), there.map(|(_, lsn)| lsn)),
            };
            let seen = (step[2].as_u64(), line["versions"][place].as_u64());
            if line["type"] == "ok" && seen != (value, version) {
                return Err(format!(
                    "key {key} is {value:?} of {version:?} then: {line}"
                ));
            }
        }
        state.extend(own.into_iter().map(|(key, value)| (key, (value, lsn))));
    }
    Ok(())
}

/// An operation on a register.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// What was written; `None` for a read.
    written: Option<u64>,
    /// What was read.
    seen: Option<u64>,
    call: u64,
    ret: u64,
}

/// Whether a `register` history is linearizable, key by key; an error names the first key that is not. (Wing and Gong's search
/// with Lowe's memory of states.)
///
/// Values are written once each, which makes unknown outcomes easy: a write that nobody has read may have happened after everything else;
/// one that was read happened before that read ended.
pub fn linearizable(history: &[Value]) -> Result<usize, String> {
    let mut keys: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for line in history {
        keys.entry(line["key"].as_u64().unwrap())
            .or_default()
            .push(line);
    }
    for (key, lines) in &keys {
        let operations = operations(lines);
        if !one_linearizable(&operations) {
            return Err(format!("key {key} is not linearizable: {operations:#?}"));
        }
    }
    Ok(keys.len())
}

fn operations(lines: &[&Value]) -> Vec<Operation> {
    let mut first_seen: BTreeMap<u64, u64> = BTreeMap::new();
    for line in lines
        .iter()
        .filter(|line| line["op"] == "read" && line["outcome"] == "ok")
    {
        if let Some(value) = line["value"].as_u64() {
            let ret = line["ret"].as_u64().unwrap();
            first_seen
                .entry(value)
                .and_modify(|first| *first = ret.min(*first))
                .or_insert(ret);
        }
    }
    let mut operations: Vec<Operation> = lines
        .iter()
        .filter_map(|line| {
            let value = line["value"].as_u64();
            let is_write = line["op"] == "write";
            let ret = match line["outcome"].as_str().unwrap() {
                "ok" => line["ret"].as_u64().unwrap(),
                "unknown" if is_write => *first_seen.get(&value.unwrap())?,
                _ => return None,
            };
            Some(Operation {
                written: value.filter(|_| is_write),
                seen: value.filter(|_| !is_write),
                call: line["call"].as_u64().unwrap(),
                ret,
            })
        })
        .collect();
    operations.sort_by_key(|operation| operation.call);
    operations
}

/// Where a search is: all before `first` are done, and these after it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    first: usize,
    done: Vec<usize>,
    value: Option<u64>,
}

impl Place {
    fn with(&self, index: usize, value: Option<u64>) -> Place {
        let mut place = Place {
            value,
            ..self.clone()
        };
        place.done.push(index);
        place.done.sort_unstable();
        while place.done.first() == Some(&place.first) {
            place.done.remove(0);
            place.first += 1;
        }
        place
    }

    /// What may come next: what was called before the first of the others returned.
    fn candidates(&self, operations: &[Operation]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut first_ret = u64::MAX;
        for (index, operation) in operations.iter().enumerate().skip(self.first) {
            if operation.call > first_ret {
                break;
            }
            if self.done.binary_search(&index).is_err() {
                first_ret = first_ret.min(operation.ret);
                found.push(index);
            }
        }
        found.retain(|index| operations[*index].call <= first_ret);
        found
    }
}

/// `operations` are in the order of their calls.
fn one_linearizable(operations: &[Operation]) -> bool {
    let mut known = HashSet::new();
    let mut open = vec![Place {
        first: 0,
        done: Vec::new(),
        value: None,
    }];
    while let Some(place) = open.pop() {
        if place.first == operations.len() {
            return true;
        }
        if !known.insert(place.clone()) {
            continue;
        }
        let candidates = place.candidates(operations);
        let reads_now = |index: &&usize| {
            let operation = operations[**index];
            operation.written.is_none() && operation.seen == place.value
        };
        if let Some(read) = candidates.iter().find(reads_now) {
            // It changes nothing: what can be done without it can be done after it.
            open.push(place.with(*read, place.value));
            continue;
        }
        for index in candidates {
            if let Some(value) = operations[index].written {
                open.push(place.with(index, Some(value)));
            }
        }
    }
    false
}

/// Operation, value, call, return, outcome.
type Line = (&'static str, Option<u64>, u64, Option<u64>, &'static str);

fn register(lines: &[Line]) -> Result<usize, String> {
    let lines: Vec<Value> = lines
        .iter()
        .map(|(op, value, call, ret, outcome)| {
            serde_json::json!({
                "client": 0, "op": op, "key": 1, "value": value, "call": call, "ret": ret, "outcome": outcome,
            })
        })
        .collect();
    linearizable(&lines)
}

#[test]
fn a_register_that_is_read_as_written_is_linearizable() {
    register(&[
        ("read", None, 0, Some(1), "ok"),
        ("write", Some(7), 2, Some(9), "ok"),
        // The two overlap the write: one sees it, an earlier one not yet.
        ("read", None, 3, Some(4), "ok"),
        ("read", Some(7), 5, Some(6), "ok"),
        ("write", Some(8), 10, Some(20), "ok"),
        ("write", Some(9), 11, Some(19), "ok"),
        ("read", Some(8), 21, Some(22), "ok"),
    ])
    .unwrap();
}

#[test]
fn reads_of_the_past_are_not_linearizable() {
    // After the answer of the write.
    let write = ("write", Some(7), 0, Some(1), "ok");
    register(&[write, ("read", None, 2, Some(3), "ok")]).unwrap_err();
    // After somebody else has read it, while the write is still under way.
    register(&[
        ("write", Some(7), 0, Some(9), "ok"),
        ("read", Some(7), 1, Some(2), "ok"),
        ("read", None, 3, Some(4), "ok"),
    ])
    .unwrap_err();
    // Back and forth between two writes.
    register(&[
        ("write", Some(7), 0, Some(9), "ok"),
        ("write", Some(8), 0, Some(9), "ok"),
        ("read", Some(7), 10, Some(11), "ok"),
        ("read", Some(8), 12, Some(13), "ok"),
    ])
    .unwrap_err();
}

#[test]
fn an_unknown_write_may_happen_late_or_never_and_a_failed_one_never() {
    let unknown = ("write", Some(7), 0, None, "unknown");
    let before = ("read", None, 2, Some(3), "ok");
    register(&[unknown, before]).unwrap();
    register(&[unknown, before, ("read", Some(7), 4, Some(5), "ok")]).unwrap();
    register(&[
        unknown,
        ("read", Some(7), 4, Some(5), "ok"),
        ("read", None, 6, Some(7), "ok"),
    ])
    .unwrap_err();
    let failed = ("write", Some(7), 0, Some(1), "fail");
    register(&[failed, before]).unwrap();
    register(&[failed, ("read", Some(7), 4, Some(5), "ok")]).unwrap_err();
}
