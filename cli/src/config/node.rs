//! Settings of a storage node: a flag, an environment variable, a line of the file, or a default, in this order. One struct is all three,
//! so that none lacks a key.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde::{Deserialize, Serialize};
use sixfold::settings::{Document, explain};
use sixfold_log_format::NodeId;
use sixfold_storage_node::{NodeError, NodeOptions};

/// Payloads that QUIC can begin with, bytes.
const MTU_BYTES: std::ops::RangeInclusive<u16> = 1_200..=65_000;

/// The settings; those that are not set are at the next source, and at last at their defaults.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeConfig {
    /// The node's id, 32 hexadecimal digits; the one in its certificate
    #[arg(long, value_name = "ID", env = "SIXFOLD_NODE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// Availability zone
    #[arg(long, env = "SIXFOLD_AZ")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) az: Option<String>,
    /// Where to listen, HOST:PORT (UDP)
    #[arg(long, value_name = "ADDRESS", env = "SIXFOLD_LISTEN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<SocketAddr>,
    /// Data directory; it must exist, on a file system with O_DIRECT. In a file, relative to the file
    #[arg(long, value_name = "DIR", env = "SIXFOLD_DATA_DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Directory with ca.pem, node.pem and node-key.pem. In a file, relative to the file
    #[arg(long, value_name = "DIR", env = "SIXFOLD_TLS_DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// Where metrics, health and the console are served over HTTP: HOST:PORT (TCP), or "off"; unless set, on loopback at the number of the UDP port
    #[arg(long, value_name = "ADDRESS", env = "SIXFOLD_METRICS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<String>,
    /// UDP payload to begin with, bytes, 1200 to 65000 (8900 for jumbo frames); unless set, QUIC begins at 1200 and looks for more
    #[arg(long, value_name = "BYTES", env = "SIXFOLD_MTU_BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu_bytes: Option<u16>,
    /// Size of a hot-log file in a new data directory, MiB, 8 to 4096
    #[arg(long, value_name = "MIB", env = "SIXFOLD_HOT_LOG_FILE_MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hot_log_file_mib: Option<u64>,
    /// Hot-log files altogether, MiB; half of it frees what can be freed, all of it refuses batches
    #[arg(long, value_name = "MIB", env = "SIXFOLD_HOT_LOG_MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hot_log_mib: Option<u64>,
    /// Hot-log files kept for peers and watches although layers hold what is in them, MiB
    #[arg(long, value_name = "MIB", env = "SIXFOLD_LOG_WINDOW_MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log_window_mib: Option<u64>,
    /// Redo that no layer holds, MiB: what a restart reads; half of it makes layers due, all of it refuses batches
    #[arg(long, value_name = "MIB", env = "SIXFOLD_UNFOLDED_REDO_MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unfolded_redo_mib: Option<u64>,
    /// Redo kept in memory, MiB
    #[arg(long, value_name = "MIB", env = "SIXFOLD_RESIDENT_REDO_MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resident_redo_mib: Option<u64>,
    /// Page indexes in memory, MiB; half of it makes layers due, all of it refuses batches
    #[arg(long, value_name = "MIB", env = "SIXFOLD_INDEX_MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index_mib: Option<u64>,
    /// Folded pages kept in memory, MiB
    #[arg(long, value_name = "MIB", env = "SIXFOLD_PAGE_CACHE_MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) page_cache_mib: Option<u64>,
    /// Blocks and indexes of layers kept in memory, MiB
    #[arg(long, value_name = "MIB", env = "SIXFOLD_LAYER_CACHE_MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) layer_cache_mib: Option<u64>,
    /// Space of the file system that layers leave free, MiB
    #[arg(long, value_name = "MIB", env = "SIXFOLD_RESERVE_MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reserve_mib: Option<u64>,
    /// Time between two rounds of gossip, milliseconds
    #[arg(long, value_name = "MS", env = "SIXFOLD_GOSSIP_INTERVAL_MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gossip_interval_ms: Option<u64>,
}

/// Keys that have no default.
pub(crate) const REQUIRED: [&str; 5] = ["node", "az", "listen", "data_dir", "tls_dir"];

/// Keys whose default is not a value, each with a value for the template.
const OPTIONAL: [&str; 2] = ["metrics", "mtu_bytes"];

/// Where a node serves metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricsAt {
    /// Nowhere.
    Off,
    /// On loopback, at the number of the node's port; without them when that is taken.
    BesidePort,
    /// Here, or not at all.
    Address(SocketAddr),
}

impl MetricsAt {
    fn parse(text: Option<&str>) -> Result<MetricsAt, String> {
        match text {
            None => Ok(MetricsAt::BesidePort),
            Some("off") => Ok(MetricsAt::Off),
            Some(text) => text.parse().map(MetricsAt::Address).map_err(|_| {
                format!("{text:?} is neither HOST:PORT with a numeric host, nor \"off\"")
            }),
        }
    }
}

/// A setting that is a number with a default.
struct Number {
    name: &'static str,
    /// The daemon's own name, in the errors of [`NodeOptions::check`].
    option: &'static str,
    /// How many of the daemon's unit one is.
    scale: u64,
    field: fn(&mut NodeConfig) -> &mut Option<u64>,
    get: fn(&NodeOptions) -> u64,
    /// `None` when the platform cannot count so far.
    set: fn(&mut NodeOptions, u64) -> Option<()>,
}

/// A size, MiB in the file and bytes in the daemon.
macro_rules! mebibytes {
    ($name:ident, $option:ident) => {
        Number {
            name: stringify!($name),
            option: stringify!($option),
            scale: 1 << 20,
            field: |config| &mut config.$name,
            get: |options| options.$option as u64,
            set: |options, value| {
                options.$option = value.try_into().ok()?;
                Some(())
            },
        }
    };
}

const NUMBERS: [Number; 10] = [
    mebibytes!(hot_log_file_mib, hot_log_file_bytes),
    mebibytes!(hot_log_mib, log_bytes_max),
    mebibytes!(log_window_mib, log_window_bytes),
    mebibytes!(unfolded_redo_mib, unfolded_bytes_max),
    mebibytes!(resident_redo_mib, resident_redo_bytes_max),
    mebibytes!(index_mib, index_bytes_max),
    mebibytes!(page_cache_mib, page_cache_bytes_max),
    mebibytes!(layer_cache_mib, layer_cache_bytes_max),
    mebibytes!(reserve_mib, reserve_bytes),
    Number {
        name: "gossip_interval_ms",
        option: "gossip_interval",
        scale: 1,
        field: |config| &mut config.gossip_interval_ms,
        get: |options| u64::try_from(options.gossip_interval.as_millis()).unwrap_or(u64::MAX),
        set: |options, value| {
            options.gossip_interval = Duration::from_millis(value);
            Some(())
        },
    },
];

/// All keys, in the order of the file.
pub(crate) fn names() -> Vec<&'static str> {
    let numbers = NUMBERS.iter().map(|number| number.name);
    REQUIRED
        .into_iter()
        .chain(OPTIONAL)
        .chain(numbers)
        .collect()
}

impl NodeConfig {
    /// Reads a settings file. Directories in it count from the file's.
    ///
    /// # Errors
    /// One line with the file and the place.
    pub(crate) fn load(path: &Path) -> Result<NodeConfig> {
        Ok(Loaded::read(path)?.config)
    }

    /// These, and those of `other` where nothing is said here.
    fn or(mut self, mut other: NodeConfig) -> NodeConfig {
        for number in &NUMBERS {
            let value = (number.field)(&mut self).or(*(number.field)(&mut other));
            *(number.field)(&mut self) = value;
        }
        NodeConfig {
            node: self.node.or(other.node),
            az: self.az.or(other.az),
            listen: self.listen.or(other.listen),
            data_dir: self.data_dir.or(other.data_dir),
            tls_dir: self.tls_dir.or(other.tls_dir),
            metrics: self.metrics.or(other.metrics),
            mtu_bytes: self.mtu_bytes.or(other.mtu_bytes),
            ..self
        }
    }

    /// Every setting at its default; those without one stay as they are.
    #[cfg(test)]
    pub(crate) fn filled(mut self) -> NodeConfig {
        let defaults = defaults();
        for number in &NUMBERS {
            let default = (number.get)(&defaults) / number.scale;
            (number.field)(&mut self).get_or_insert(default);
        }
        self
    }
}

fn defaults() -> NodeOptions {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    NodeOptions::with_defaults(
        PathBuf::new(),
        NodeId::default(),
        String::new(),
        nowhere,
        PathBuf::new(),
    )
}

/// A settings file that was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    path: PathBuf,
    text: String,
    pub(crate) config: NodeConfig,
}

impl Loaded {
    /// Reads a file.
    ///
    /// # Errors
    /// One line with the file, the place and what is wrong there first.
    pub(crate) fn read(path: &Path) -> Result<Loaded> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let loaded = Loaded::of(path, text);
        loaded.map_err(|lines| anyhow!("{}", lines.into_iter().next().unwrap_or_default()))
    }

    /// The same with all that is wrong.
    pub(crate) fn of(path: &Path, text: String) -> Result<Loaded, Vec<String>> {
        let located = |line: String| format!("{}: {line}", path.display());
        let document = Document::parse(&text).map_err(|line| vec![located(line)])?;
        let unknown = document.unknown_keys(&document.table, &names());
        if !unknown.is_empty() {
            return Err(unknown.into_iter().map(located).collect());
        }
        let mut config: NodeConfig =
            toml::from_str(&text).map_err(|error| vec![located(explain(&error, &text))])?;
        let base = path.parent().unwrap_or(Path::new("."));
        config.data_dir = config.data_dir.map(|dir| base.join(dir));
        config.tls_dir = config.tls_dir.map(|dir| base.join(dir));
        Ok(Loaded {
            path: path.to_owned(),
            text,
            config,
        })
    }

    /// What is wrong with the value of a key in this file.
    pub(crate) fn blame(&self, key: &str, what: &str) -> String {
        let document = Document::parse(&self.text).ok();
        let place = document.and_then(|document| document.place_of(key));
        match place {
            Some(place) => format!("{}: {place}: {key}: {what}", self.path.display()),
            None => format!("{}: {key}: {what}", self.path.display()),
        }
    }
}

/// What is wrong with a setting, and where it was set.
fn blame(key: &str, what: &str, flags: &NodeConfig, file: Option<&Loaded>) -> anyhow::Error {
    let in_flags = toml::Table::try_from(flags).is_ok_and(|table| table.contains_key(key));
    match file {
        Some(file) if !in_flags => anyhow!("{}", file.blame(key, what)),
        _ => anyhow!("{key}: {what}"),
    }
}

fn required<T>(value: Option<T>, name: &str) -> Result<T> {
    value.with_context(|| {
        format!(
            "{name} is not set (in the settings file, as a flag, or as SIXFOLD_{})",
            name.to_uppercase()
        )
    })
}

/// What a node runs with: flags and environment before the file, that before the defaults.
///
/// # Errors
/// One line: the key, where it was set, and what is wrong with it.
pub(crate) fn resolve(flags: NodeConfig, file: Option<&Loaded>) -> Result<NodeOptions> {
    Ok(resolve_all(flags, file)?.0)
}

/// The same, and where metrics are served.
///
/// # Errors
/// Those of [`resolve`].
pub(crate) fn resolve_all(
    flags: NodeConfig,
    file: Option<&Loaded>,
) -> Result<(NodeOptions, MetricsAt)> {
    let said = flags.clone();
    let wrong = |key: &str, what: &str| blame(key, what, &said, file);
    let mut config = flags.or(file.map(|file| file.config.clone()).unwrap_or_default());
    let node = required(config.node.take(), "node")?;
    let node = NodeId::from_hex(&node)
        .ok_or_else(|| wrong("node", &format!("{node:?} is not 32 hexadecimal digits")))?;
    let mut options = NodeOptions::with_defaults(
        required(config.data_dir.take(), "data_dir")?,
        node,
        required(config.az.take(), "az")?,
        required(config.listen, "listen")?,
        required(config.tls_dir.take(), "tls_dir")?,
    );
    let metrics = MetricsAt::parse(config.metrics.as_deref());
    let metrics = metrics.map_err(|what| wrong("metrics", &what))?;
    options.mtu_bytes = config.mtu_bytes;
    if let Some(mtu_bytes) = config.mtu_bytes.filter(|bytes| !MTU_BYTES.contains(bytes)) {
        let (least, most) = (MTU_BYTES.start(), MTU_BYTES.end());
        return Err(wrong(
            "mtu_bytes",
            &format!("{mtu_bytes} is not in {least}..={most}"),
        ));
    }
    for number in &NUMBERS {
        if let Some(value) = *(number.field)(&mut config) {
            let scaled = value.checked_mul(number.scale);
            scaled
                .and_then(|scaled| (number.set)(&mut options, scaled))
                .ok_or_else(|| wrong(number.name, &format!("{value} is too large")))?;
        }
    }
    match options.check() {
        Ok(()) => Ok((options, metrics)),
        Err(NodeError::Option { name, reason }) => {
            let number = NUMBERS.iter().find(|number| number.option == name);
            let key = number.map_or(name, |number| number.name);
            let unit = match number {
                Some(number) if number.scale > 1 => " (bytes)",
                _ => "",
            };
            Err(wrong(key, &format!("{reason}{unit}")))
        }
        Err(other) => Err(other.into()),
    }
}

/// A settings file with a comment at each key. Those without a default are as in `config`; the others stand there with their
/// defaults, behind a hash.
pub(crate) fn template(config: &NodeConfig) -> Result<String> {
    let mut text = String::from(
        "# Settings of a Sixfold storage node. `sixfold config check FILE` says what is wrong with them.\n\
         #\n\
         # A flag of `sixfold storage-node` (--page-cache-mib) comes before the environment (SIXFOLD_PAGE_CACHE_MIB), that before\n\
         # this file, and that before the default. Keys behind a hash are at their defaults.\n",
    );
    let command = NodeConfig::augment_args(clap::Command::new("node"));
    let about = |name: &str| {
        let mut arguments = command.get_arguments();
        let found = arguments.find(|argument| argument.get_id() == name);
        let help = found.and_then(|argument| argument.get_help());
        help.map(ToString::to_string).unwrap_or_default()
    };
    let given = toml::Table::try_from(config).context("cannot write settings")?;
    let defaults = defaults();
    for name in names() {
        text.push_str(&format!("\n# {}.", about(name)));
        if let Some(number) = NUMBERS.iter().find(|number| number.name == name) {
            let default = (number.get)(&defaults) / number.scale;
            text.push_str(&format!(" Default {default}.\n"));
            match given.get(name) {
                Some(value) => text.push_str(&format!("{name} = {value}\n")),
                None => text.push_str(&format!("#{name} = {default}\n")),
            }
            continue;
        }
        text.push_str(if REQUIRED.contains(&name) {
            " Required.\n"
        } else {
            " No default.\n"
        });
        match given.get(name) {
            Some(value) => text.push_str(&format!("{name} = {value}\n")),
            None if name == "metrics" => text.push_str("#metrics = \"127.0.0.1:9706\"\n"),
            None => text.push_str(&format!("#{name} = 8900\n")),
        }
    }
    Ok(text)
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod node_tests;
