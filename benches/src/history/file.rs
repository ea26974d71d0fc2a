//! From events to a file: put in order, numbered, written as outside checkers read it.
//!
//! *list-append* and *rw-register*, a line an event, as `adya` and Jepsen's Elle take them:
//!
//! ```text
//! {"index":0,"type":"invoke","process":0,"time":12,"value":[["append",3,7],["r",4,null]]}
//! {"index":1,"type":"ok","process":0,"time":34,"value":[["append",3,7],["r",4,[1,7]]],"lsn":345,"versions":[null,301]}
//! {"index":2,"type":"info","process":"nemesis","f":"kill-az","time":56,"value":"az2"}
//! ```
//! `time` is in nanoseconds since the run began. `lsn` and `versions` are more than checkers ask for: the commit LSN, and for each read
//! the LSN of the commit whose value it saw. Beside a file of rw-register stands `FILE.order.json`, which gives each
//! completion that wrote its commit LSN: `adya check -m rw-register --transaction-order FILE.order.json FILE`.
//!
//! *register*, a line an operation:
//!
//! ```text
//! {"client":0,"op":"write","key":3,"value":7,"call":12,"ret":34,"outcome":"ok"}
//! ```
//! `ret` is null where the outcome is `unknown`: the operation may take effect at any time after its call, or never.
//!
//! Whoever's transaction ended with an unknown outcome takes a new number.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::event::{Event, Step, Value, Verb, What, Workload, now_ns};

/// Most events of a run: what is collected is bounded.
pub const EVENTS_MAX: usize = 4_000_000;

/// Collects the events of a run from all its processes.
#[derive(Debug)]
pub struct Collector {
    begun_ns: u64,
    events: Vec<Event>,
    faults: Vec<FaultEvent>,
}

#[derive(Debug)]
struct FaultEvent {
    at_ns: u64,
    name: &'static str,
    value: String,
}

/// What a history holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Transactions that are committed.
    pub ok: u64,
    /// Those that are certainly not.
    pub fail: u64,
    /// Those of which nobody knows.
    pub info: u64,
}

impl Collector {
    /// Nothing yet, for a run that began then.
    pub fn new(begun_ns: u64) -> Collector {
        Collector {
            begun_ns,
            events: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Takes everything out.
    pub fn take(&mut self) -> Collector {
        let begun_ns = self.begun_ns;
        std::mem::replace(self, Collector::new(begun_ns))
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether the run should end.
    pub fn is_full(&self) -> bool {
        self.events.len() >= EVENTS_MAX
    }

    /// Notes an event.
    pub fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Notes that something was done to the cluster just now.
    pub fn fault(&mut self, name: &'static str, value: String) {
        self.faults.push(FaultEvent {
            at_ns: now_ns(),
            name,
            value,
        });
    }

    /// Writes the history to `out`, whole or not at all.
    ///
    /// # Errors
    /// When a client's events do not alternate, or the file cannot be written.
    pub fn write(self, workload: Workload, out: &Path) -> Result<Counts> {
        let begun_ns = self.begun_ns;
        let faults = match workload {
            Workload::Register => Vec::new(),
            Workload::ListAppend | Workload::RwRegister => self.faults,
        };
        let history = in_order(self.events)?;
        let part = with_suffix(out, ".part");
        let file =
            File::create(&part).with_context(|| format!("cannot write {}", part.display()))?;
        let mut file = BufWriter::new(file);
        let written = match workload {
            Workload::Register => write_register(&history, begun_ns, &mut file),
            Workload::ListAppend | Workload::RwRegister => {
                write_transactions(&history, &faults, begun_ns, &mut file)
            }
        };
        let order = written
            .and_then(|order| file.flush().map(|()| order).map_err(Into::into))
            .with_context(|| format!("cannot write {}", part.display()))?;
        if workload == Workload::RwRegister {
            let path = with_suffix(out, ".order.json");
            std::fs::write(&path, serde_json::to_string(&order)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        std::fs::rename(&part, out).with_context(|| format!("cannot write {}", out.display()))?;
        Ok(counts(&history))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn counts(history: &[Event]) -> Counts {
    let count = |what| history.iter().filter(|event| event.what == what).count() as u64;
    Counts {
        ok: count(What::Ok),
        fail: count(What::Fail),
        info: count(What::Info),
    }
}

/// Puts events in the order of their stamps, ends with an unknown outcome what a kill left open, and gives clients new
/// numbers after unknown outcomes.
fn in_order(mut events: Vec<Event>) -> Result<Vec<Event>> {
    // Equal stamps overlap: what begins comes before what ends. No client has two events of one stamp.
    events.sort_by_key(|event| (event.at_ns, event.what != What::Invoke, event.client));
    let mut open: BTreeMap<u32, usize> = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        let before = match event.what {
            What::Invoke => open.insert(event.client, index).is_none(),
            What::Ok | What::Fail | What::Info => open.remove(&event.client).is_some(),
        };
        ensure!(
            before,
            "client {} says {:?} out of turn, at event {index}",
            event.client,
            event.what
        );
    }
    let end_ns = events.last().map_or(0, |event| event.at_ns);
    for (client, index) in open {
        let mut event = events[index].clone();
        event.what = What::Info;
        event.at_ns = end_ns;
        event.error = Some("the process was killed".to_owned());
        assert!(event.client == client, "the event is the client's");
        events.push(event);
    }
    let mut fresh = events
        .iter()
        .map(|event| event.client + 1)
        .max()
        .unwrap_or(0);
    let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
    for event in &mut events {
        let client = event.client;
        event.client = *numbers.entry(client).or_insert(client);
        if event.what == What::Info {
            numbers.insert(client, fresh);
            fresh += 1;
        }
    }
    Ok(events)
}

/// Commit LSNs that only readers tell: of transactions whose own answer was lost, by key and value that they wrote.
fn versions_seen(history: &[Event]) -> BTreeMap<(u64, u64), u64> {
    let mut seen = BTreeMap::new();
    for event in history.iter().filter(|event| event.what == What::Ok) {
        for (Step(verb, key, value), version) in event.steps.iter().zip(&event.versions) {
            if let (Verb::Read, Some(Value::One(value)), Some(version)) = (verb, value, version) {
                seen.insert((*key, *value), *version);
            }
        }
    }
    seen
}

/// Writes a line an event. Returns the commit LSN of each completion that wrote.
fn write_transactions(
    history: &[Event],
    faults: &[FaultEvent],
    begun_ns: u64,
    file: &mut impl Write,
) -> Result<BTreeMap<u64, u64>> {
    let seen = versions_seen(history);
    let mut order = BTreeMap::new();
    let mut index = 0_u64;
    let mut faults = faults.iter().peekable();
    let mut fault = |before_ns: u64, index: &mut u64, file: &mut dyn Write| -> Result<()> {
        while let Some(fault) = faults.next_if(|fault| fault.at_ns <= before_ns) {
            let line = FaultLine {
                index: *index,
                kind: What::Info,
                process: "nemesis",
                f: fault.name,
                time: fault.at_ns.saturating_sub(begun_ns),
                value: &fault.value,
            };
            serde_json::to_writer(&mut *file, &line)?;
            writeln!(file)?;
            *index += 1;
        }
        Ok(())
    };
    for event in history {
        fault(event.at_ns, &mut index, file)?;
        let mut written = event
            .steps
            .iter()
            .filter_map(|Step(verb, key, value)| match value {
                Some(Value::One(value)) if *verb != Verb::Read => Some((*key, *value)),
                _ => None,
            });
        let lsn = match event.what {
            What::Ok => written.next().and(event.lsn),
            // It took place if somebody has read what it wrote. If nobody did, its place does not matter.
            What::Info => written.find_map(|written| seen.get(&written).copied()),
            What::Invoke | What::Fail => None,
        };
        order.extend(lsn.map(|lsn| (index, lsn)));
        let line = Line {
            index,
            kind: event.what,
            process: event.client,
            time: event.at_ns.saturating_sub(begun_ns),
            value: &event.steps,
            lsn: event.lsn,
            versions: &event.versions,
            error: event.error.as_deref(),
        };
        serde_json::to_writer(&mut *file, &line)?;
        writeln!(file)?;
        index += 1;
    }
    fault(u64::MAX, &mut index, file)?;
    Ok(order)
}

#[derive(Serialize)]
struct Line<'a> {
    index: u64,
    #[serde(rename = "type")]
    kind: What,
    process: u32,
    time: u64,
    value: &'a [Step],
    #[serde(skip_serializing_if = "Option::is_none")]
    lsn: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    versions: &'a [Option<u64>],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct FaultLine<'a> {
    index: u64,
    #[serde(rename = "type")]
    kind: What,
    process: &'static str,
    f: &'static str,
    time: u64,
    value: &'a str,
}

/// Writes a line an operation, in the order of their calls.
fn write_register(
    history: &[Event],
    begun_ns: u64,
    file: &mut impl Write,
) -> Result<BTreeMap<u64, u64>> {
    let mut completions: BTreeMap<u32, Vec<&Event>> = BTreeMap::new();
    for event in history
        .iter()
        .rev()
        .filter(|event| event.what != What::Invoke)
    {
        completions.entry(event.client).or_default().push(event);
    }
    for call in history.iter().filter(|event| event.what == What::Invoke) {
        let ended = completions.get_mut(&call.client).and_then(Vec::pop);
        let ended = ended.context("an operation without an end")?;
        let [Step(verb, key, value)] = ended.steps.as_slice() else {
            bail!("a register's transaction has {} steps", ended.steps.len());
        };
        let ret = ended.at_ns.saturating_sub(begun_ns);
        let line = RegisterLine {
            client: call.client,
            op: match verb {
                Verb::Read => "read",
                Verb::Append | Verb::Write => "write",
            },
            key: *key,
            value: value.as_ref(),
            call: call.at_ns.saturating_sub(begun_ns),
            ret: (ended.what != What::Info).then_some(ret),
            outcome: match ended.what {
                What::Ok => "ok",
                What::Fail => "fail",
                What::Invoke | What::Info => "unknown",
            },
        };
        serde_json::to_writer(&mut *file, &line)?;
        writeln!(file)?;
    }
    Ok(BTreeMap::new())
}

#[derive(Serialize)]
struct RegisterLine<'a> {
    client: u32,
    op: &'static str,
    key: u64,
    value: Option<&'a Value>,
    call: u64,
    ret: Option<u64>,
    outcome: &'static str,
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod file_tests;
