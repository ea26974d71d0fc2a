//! What clients report: an operation begins, an operation ended. One JSON object a line on the way from a writer process to
//! its parent.

use std::str::FromStr;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What transactions do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Appends of unique values to lists, reads of whole lists: a read shows the order of all appends before it.
    ListAppend,
    /// Blind writes of unique values, and reads.
    RwRegister,
    /// One read or one write a transaction: for checkers of linearizability, key by key.
    Register,
}

impl Workload {
    const ALL: [(Workload, &'static str); 3] = [
        (Workload::ListAppend, "list-append"),
        (Workload::RwRegister, "rw-register"),
        (Workload::Register, "register"),
    ];

    /// Its name in arguments and reports.
    pub fn name(self) -> &'static str {
        name_of(&Workload::ALL, self)
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(name: &str) -> Result<Workload, String> {
        named(&Workload::ALL, name)
    }
}

/// A bug of the clients', to show that checkers find one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// None.
    Nothing,
    /// Reads add no conflict: lost updates and write skew appear.
    Unvalidated,
    /// Read-only transactions need no read lease (T1): a writer that was stopped and fenced goes on to read the past.
    Unleased,
}

impl Planted {
    const ALL: [(Planted, &'static str); 3] = [
        (Planted::Nothing, "nothing"),
        (Planted::Unvalidated, "unvalidated"),
        (Planted::Unleased, "unleased"),
    ];

    /// Its name in arguments.
    pub fn name(self) -> &'static str {
        name_of(&Planted::ALL, self)
    }
}

impl FromStr for Planted {
    type Err = String;

    fn from_str(name: &str) -> Result<Planted, String> {
        named(&Planted::ALL, name)
    }
}

fn name_of<T: Copy + PartialEq>(all: &[(T, &'static str)], wanted: T) -> &'static str {
    all.iter()
        .find(|(one, _)| *one == wanted)
        .map_or("", |(_, name)| name)
}

fn named<T: Copy>(all: &[(T, &'static str)], name: &str) -> Result<T, String> {
    let found = all.iter().find(|(_, known)| *known == name);
    found.map(|(one, _)| *one).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|(_, name)| *name).collect();
        format!("there are {}", known.join(", "))
    })
}

/// What a step of a transaction does to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// Appends a value to the list.
    #[serde(rename = "append")]
    Append,
    /// Overwrites the register.
    #[serde(rename = "w")]
    Write,
    /// Reads list or register.
    #[serde(rename = "r")]
    Read,
}

/// What a step wrote or has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A register's value, or the value that is appended.
    One(u64),
    /// A list.
    List(Vec<u64>),
}

/// A step of a transaction: `["append", key, value]`, `["w", key, value]`, `["r", key, seen]`. A read that has not ended yet, or
/// of a register that is not there, has seen nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step(pub Verb, pub u64, pub Option<Value>);

/// What an event says of its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It begins.
    Invoke,
    /// It is committed.
    Ok,
    /// It is certainly not committed, and never will be.
    Fail,
    /// Nobody knows.
    Info,
}

/// One event of one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Which client; those of another writer process have other numbers.
    pub client: u32,
    /// When, by [`now_ns`].
    pub at_ns: u64,
    /// What happened.
    pub what: What,
    /// The transaction; its reads are filled in once it is committed.
    pub steps: Vec<Step>,
    /// The commit LSN; for a transaction that wrote nothing, its read point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<u64>,
    /// For each step of a committed transaction: the LSN of the commit whose value it read, if it read one of another transaction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<Option<u64>>,
    /// Why it is not committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// CLOCK_BOOTTIME in nanoseconds: one clock for all processes of a machine.
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).expect("the clock starts at boot");
    let nanos = u64::try_from(time.tv_nsec).expect("nanoseconds are not negative");
    seconds * 1_000_000_000 + nanos
}
