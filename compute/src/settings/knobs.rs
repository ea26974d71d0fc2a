//! The settings of a writer and of a standby that have a key: one table says name, unit, bounds, default and what each is for. Reading, checking,
//! the written file and the documentation all come from it.

use std::time::Duration;

use sixfold_log_format::limits;
use toml::de::DeValue;

use super::Said;
use super::place::Document;
use crate::cluster::Cluster;
use crate::options::Options;
use crate::standby::StandbyOptions;

/// The tables of the file.
pub(super) const WRITER: &str = "writer";
pub(super) const STANDBY: &str = "standby";

/// The longest time that a setting may say, milliseconds: ten years.
const MS_MAX: u64 = 10 * 365 * 24 * 60 * 60 * 1_000;
/// The largest size that a setting may say, MiB: a TiB.
const MIB_MAX: u64 = 1 << 20;

/// A setting: a whole number.
struct Knob<T> {
    name: &'static str,
    about: &'static str,
    /// The least and the most.
    bounds: (u64, u64),
    /// `None` where it is not set, which no number says.
    get: fn(&T) -> Option<u64>,
    set: fn(T, u64) -> T,
}

fn mib(bytes: usize) -> Option<u64> {
    Some(bytes as u64 >> 20)
}

/// Bounded by [`MIB_MAX`]; on a platform that cannot count so far, all that it can.
fn bytes(mib: u64) -> usize {
    usize::try_from(mib << 20).unwrap_or(usize::MAX)
}

fn ms(time: Duration) -> Option<u64> {
    u64::try_from(time.as_millis()).ok()
}

const WRITER_KNOBS: [Knob<Options>; 12] = [
    Knob {
        name: "page_cache_mib",
        about: "Pages kept in memory, MiB",
        bounds: (1, MIB_MAX),
        get: |options| mib(options.cache_bytes),
        set: |options, value| options.cache_bytes(bytes(value)),
    },
    Knob {
        name: "commit_deadline_ms",
        about: "How long a commit may take, milliseconds",
        bounds: (1, MS_MAX),
        get: |options| ms(options.commit_deadline),
        set: |options, value| options.commit_deadline(Duration::from_millis(value)),
    },
    Knob {
        name: "read_deadline_ms",
        about: "How long one read may wait for storage nodes, milliseconds",
        bounds: (1, MS_MAX),
        get: |options| ms(options.read_deadline),
        set: |options, value| options.read_deadline(Duration::from_millis(value)),
    },
    Knob {
        name: "open_deadline_ms",
        about: "How long opening may wait for enough storage nodes, milliseconds",
        bounds: (1, MS_MAX),
        get: |options| ms(options.open_deadline),
        set: |options, value| options.open_deadline(Duration::from_millis(value)),
    },
    Knob {
        name: "transact_deadline_ms",
        about: "How long `transact` runs a transaction again before it gives up, milliseconds",
        bounds: (0, MS_MAX),
        get: |options| ms(options.transact_deadline),
        set: |options, value| options.transact_deadline(Duration::from_millis(value)),
    },
    Knob {
        name: "transact_mib",
        about: "What a transaction of `transact` may write, MiB",
        bounds: (1, (limits::TRANSACTION_BYTES_MAX >> 20) as u64),
        get: |options| mib(options.transact_bytes_max),
        set: |options, value| options.transact_bytes_max(bytes(value)),
    },
    Knob {
        name: "token_retention_seconds",
        about: "How long a repeated transaction is known by its token, seconds; at least commit_deadline_ms and transact_deadline_ms together",
        bounds: (1, MS_MAX / 1_000),
        get: |options| Some(options.token_retention.as_secs()),
        set: |options, value| options.token_retention(Duration::from_secs(value)),
    },
    Knob {
        name: "watch_mib",
        about: "Recent redo kept in memory for watches, while there are any, MiB",
        bounds: (0, MIB_MAX),
        get: |options| mib(options.watch_bytes),
        set: |options, value| options.watch_bytes(bytes(value)),
    },
    Knob {
        name: "seals_in_flight",
        about: "Sealed sets of batches that may lack their write quorum: fewer make larger batches, more make lone commits wait less",
        bounds: (2, 4),
        get: |options| Some(options.seals_in_flight as u64),
        set: |options, value| options.seals_in_flight(usize::try_from(value).unwrap_or(usize::MAX)),
    },
    Knob {
        name: "repair_after_seconds",
        about: "How long a segment may be silent before it is built anew on a spare node of its zone, seconds; 0 = an operator decides",
        bounds: (0, MS_MAX / 1_000),
        get: |options| Some(options.repair_after.map_or(0, |time| time.as_secs())),
        set: |options, value| {
            options.repair_after(Some(Duration::from_secs(value)).filter(|time| !time.is_zero()))
        },
    },
    Knob {
        name: "grow_below_free_pages",
        about: "The volume grows when fewer pages than this are free; 0 = when an operator says so",
        bounds: (0, u64::MAX >> 16),
        get: |options| Some(options.grow_below_free_pages.unwrap_or(0)),
        set: |options, value| options.grow_below_free_pages(Some(value).filter(|&pages| pages > 0)),
    },
    Knob {
        name: "mtu_bytes",
        about: "UDP payload to begin with, bytes (8900 for jumbo frames); unless set, QUIC begins at 1200 and looks for more",
        bounds: (1_200, 65_000),
        get: |options| options.mtu_bytes.map(u64::from),
        set: |options, value| options.mtu_bytes(u16::try_from(value).unwrap_or(u16::MAX)),
    },
];

const STANDBY_KNOBS: [Knob<StandbyOptions>; 4] = [
    Knob {
        name: "patience_ms",
        about: "For how long the writer must have been silent before a standby takes over, milliseconds",
        bounds: (200, MS_MAX),
        get: |options| ms(options.patience),
        set: |options, value| options.patience(Duration::from_millis(value)),
    },
    Knob {
        name: "poll_ms",
        about: "How often storage nodes are asked while all is well, milliseconds",
        bounds: (10, MS_MAX),
        get: |options| ms(options.poll),
        set: |options, value| options.poll(Duration::from_millis(value)),
    },
    Knob {
        name: "hold_down_ms",
        about: "How long a standby only watches after a race that it lost, milliseconds; doubles when that happens again",
        bounds: (0, MS_MAX),
        get: |options| ms(options.hold_down),
        set: |options, value| options.hold_down(Duration::from_millis(value)),
    },
    Knob {
        name: "hold_down_max_ms",
        about: "The longest such time, milliseconds",
        bounds: (0, MS_MAX),
        get: |options| ms(options.hold_down_max),
        set: |options, value| options.hold_down_max(Duration::from_millis(value)),
    },
];

/// The keys of `[writer]`, in the order of the written file.
pub const WRITER_KEYS: [&str; WRITER_KNOBS.len()] = {
    let mut names = [""; WRITER_KNOBS.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = WRITER_KNOBS[index].name;
        index += 1;
    }
    names
};

/// The keys of `[standby]`.
pub const STANDBY_KEYS: [&str; STANDBY_KNOBS.len()] = {
    let mut names = [""; STANDBY_KNOBS.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = STANDBY_KNOBS[index].name;
        index += 1;
    }
    names
};

/// All keys with their tables.
pub(super) fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    let writer = WRITER_KEYS.into_iter().map(|name| (WRITER, name));
    writer.chain(STANDBY_KEYS.into_iter().map(|name| (STANDBY, name)))
}

/// A setting, for documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingAbout {
    /// Its table in the file.
    pub table: &'static str,
    /// Its key.
    pub name: &'static str,
    /// What it is for, with its unit.
    pub about: &'static str,
    /// Its default, if that is a number.
    pub default: Option<u64>,
}

fn about<T>(table: &'static str, knobs: &[Knob<T>], defaults: &T) -> Vec<SettingAbout> {
    let one = |knob: &Knob<T>| SettingAbout {
        table,
        name: knob.name,
        about: knob.about,
        default: (knob.get)(defaults),
    };
    knobs.iter().map(one).collect()
}

/// All settings.
pub fn abouts() -> Vec<SettingAbout> {
    let nowhere = Options::new(Cluster::new(Vec::new(), ""));
    let mut all = about(WRITER, &WRITER_KNOBS, &nowhere);
    all.extend(about(STANDBY, &STANDBY_KNOBS, &StandbyOptions::new()));
    all
}

/// Both tables with a comment at each key, which stands behind a hash with its default.
pub fn template() -> String {
    let mut text = String::new();
    for (table, what) in [
        (
            WRITER,
            "The writer's settings, for every process that opens the volume by this file. A key goes after SIXFOLD_WRITER_KEY of the\n# environment and after what the program itself says; keys behind a hash are at their defaults.",
        ),
        (
            STANDBY,
            "A standby's settings; SIXFOLD_STANDBY_KEY of the environment goes before. What it is once it is the writer, [writer] says.",
        ),
    ] {
        text.push_str(&format!("\n# {what}\n[{table}]\n"));
        for one in abouts().iter().filter(|one| one.table == table) {
            let default = one.default.map_or("No default.".to_owned(), |value| {
                format!("Default {value}.")
            });
            let value = one.default.unwrap_or(8_900);
            text.push_str(&format!(
                "# {}. {default}\n#{} = {value}\n",
                one.about, one.name
            ));
        }
    }
    text
}

/// Sets what is said, elsewhere or in the file.
fn apply<T>(
    (table, knobs): (&str, &[Knob<T>]),
    mut options: T,
    document: &Document<'_>,
    said: &dyn Fn(&str) -> Option<Said>,
) -> Result<T, String> {
    for knob in knobs {
        let found = match said(knob.name) {
            Some((source, value)) => {
                let number = value.trim().parse::<u64>();
                let number =
                    number.map_err(|_| format!("{source}: {value:?} is not a whole number"))?;
                Some((source, number))
            }
            None => in_file(document, table, knob.name)?,
        };
        let Some((source, value)) = found else {
            continue;
        };
        let (least, most) = knob.bounds;
        if !(least..=most).contains(&value) {
            return Err(format!("{source}: {value} is not in {least}..={most}"));
        }
        options = (knob.set)(options, value);
    }
    Ok(options)
}

/// A number of the file, and where it stands.
fn in_file(
    document: &Document<'_>,
    table: &str,
    name: &str,
) -> Result<Option<(String, u64)>, String> {
    let Some(value) = document.value_in(table, name) else {
        return Ok(None);
    };
    let source = format!("{}: {name}", document.place(&value.span()));
    let DeValue::Integer(number) = value.get_ref() else {
        let found = value.get_ref().type_str();
        return Err(format!(
            "{source}: a whole number is needed, this is of type {found}"
        ));
    };
    match u64::from_str_radix(number.as_str(), number.radix()) {
        Ok(number) => Ok(Some((source, number))),
        Err(_) => Err(format!(
            "{source}: {} is negative or too large",
            number.as_str()
        )),
    }
}

/// The writer's settings of a file, with what is said elsewhere before it.
pub(super) fn writer(
    options: Options,
    document: &Document<'_>,
    said: &dyn Fn(&str) -> Option<Said>,
) -> Result<Options, String> {
    let options = apply((WRITER, &WRITER_KNOBS), options, document, said)?;
    options.check_times().map_err(|what| {
        let key = "token_retention_seconds";
        let place = document.value_in(WRITER, key).map(|value| value.span());
        match place.or_else(|| document.span_of(WRITER)) {
            Some(span) => format!("{}: {what}", document.place(&span)),
            None => what,
        }
    })?;
    Ok(options)
}

/// A standby's.
pub(super) fn standby(
    options: StandbyOptions,
    document: &Document<'_>,
    said: &dyn Fn(&str) -> Option<Said>,
) -> Result<StandbyOptions, String> {
    apply((STANDBY, &STANDBY_KNOBS), options, document, said)
}

/// All that is wrong with both tables of a file, whatever is said elsewhere.
pub(super) fn check(document: &Document<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut known = true;
    for (table, keys) in [(WRITER, &WRITER_KEYS[..]), (STANDBY, &STANDBY_KEYS)] {
        match document
            .value(table)
            .map(|value| (value.get_ref(), value.span()))
        {
            None => {}
            Some((DeValue::Table(found), _)) => {
                let unknown = document.unknown_keys(found, keys);
                known &= unknown.is_empty();
                wrong.extend(unknown);
            }
            Some((other, span)) => {
                known = false;
                wrong.push(format!(
                    "{}: {table}: a table is needed ([{table}]), this is of type {}",
                    document.place(&span),
                    other.type_str()
                ));
            }
        }
    }
    if known {
        let nobody = |_: &str| None;
        let nowhere = Options::new(Cluster::new(Vec::new(), ""));
        wrong.extend(writer(nowhere, document, &nobody).err());
        wrong.extend(standby(StandbyOptions::new(), document, &nobody).err());
    }
    wrong
}
