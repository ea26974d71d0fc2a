//! A snapshot of a process's metrics, and Prometheus' text of it (exposition format 0.0.4).
//!
//! A family has a name, a help line, a kind and samples; a sample has labels and a value. Names are checked when a family is made: what
//! breaks the naming rules is a bug and panics in the first test that asks for a snapshot.

use std::fmt::Write;

use crate::histogram::{BUCKETS_US, Counted};

/// The prefix of every name.
const PREFIX: &str = "sixfold_";

/// What a family's values mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, and begins at zero with the process. Its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts durations. Its name ends in `_seconds`.
    Histogram,
}

impl Kind {
    /// Prometheus' word for it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// What a sample says.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Seconds, mostly.
    Fraction(f64),
    /// A histogram.
    Counted(Box<Counted>),
}

/// One value of a family.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Names and values, each name once.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

/// Values of one kind under one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Its name, with prefix and unit.
    pub name: &'static str,
    /// What it says, one line.
    pub help: &'static str,
    /// What its values mean.
    pub kind: Kind,
    /// Its values; each set of labels once.
    pub samples: Vec<Sample>,
}

impl Family {
    /// A family without samples.
    ///
    /// # Panics
    /// When the name breaks a rule: prefix, characters, `_total` for counters alone, `_seconds` for histograms.
    pub fn new(kind: Kind, name: &'static str, help: &'static str) -> Family {
        assert!(name.starts_with(PREFIX), "{name} lacks the prefix");
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit()),
            "{name} is no name"
        );
        let is_total = name.ends_with("_total");
        assert_eq!(
            kind == Kind::Counter,
            is_total,
            "{name}: only counters are totals"
        );
        assert!(
            kind != Kind::Histogram || name.ends_with("_seconds"),
            "{name}: histograms count seconds"
        );
        assert!(
            !help.is_empty() && !help.contains(['\n', '\\']),
            "{name}: the help is one line"
        );
        Family {
            name,
            help,
            kind,
            samples: Vec::new(),
        }
    }

    /// Adds a sample.
    pub fn push(&mut self, labels: &[(&'static str, &str)], value: Value) {
        let labels = labels
            .iter()
            .map(|&(name, value)| (name, value.to_owned()))
            .collect();
        self.samples.push(Sample { labels, value });
    }
}

/// All families of a process at one moment, in the order in which they were first named.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The families; each name once.
    pub families: Vec<Family>,
}

impl Snapshot {
    fn family(&mut self, kind: Kind, name: &'static str, help: &'static str) -> &mut Family {
        let found = self.families.iter().position(|family| family.name == name);
        let index = found.unwrap_or_else(|| {
            self.families.push(Family::new(kind, name, help));
            self.families.len() - 1
        });
        let family = &mut self.families[index];
        assert_eq!(family.kind, kind, "{name} is of one kind");
        family
    }

    /// Names a family, also when it has no samples now.
    pub fn declare(&mut self, kind: Kind, name: &'static str, help: &'static str) {
        self.family(kind, name, help);
    }

    /// Adds a counter's value.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: u64,
    ) {
        self.family(Kind::Counter, name, help)
            .push(labels, Value::Whole(value));
    }

    /// Adds a gauge's value.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: u64,
    ) {
        self.family(Kind::Gauge, name, help)
            .push(labels, Value::Whole(value));
    }

    /// Adds a gauge's value in seconds.
    pub fn seconds(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: std::time::Duration,
    ) {
        self.family(Kind::Gauge, name, help)
            .push(labels, Value::Fraction(value.as_secs_f64()));
    }

    /// Adds a histogram.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        counted: Counted,
    ) {
        self.family(Kind::Histogram, name, help)
            .push(labels, Value::Counted(Box::new(counted)));
    }

    /// Adds the families of another part of the process.
    pub fn append(&mut self, other: Snapshot) {
        for family in other.families {
            let into = self.family(family.kind, family.name, family.help);
            into.samples.extend(family.samples);
        }
    }

    /// Prometheus' text of it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for family in &self.families {
            line(
                &mut text,
                format_args!("# HELP {} {}", family.name, family.help),
            );
            line(
                &mut text,
                format_args!("# TYPE {} {}", family.name, family.kind.word()),
            );
            for sample in &family.samples {
                put_sample(&mut text, family.name, sample);
            }
        }
        text
    }
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(text, "{what}").expect("a string takes everything");
}

fn put_sample(text: &mut String, name: &str, sample: &Sample) {
    let labels = labels_text(&sample.labels);
    match &sample.value {
        Value::Whole(value) => line(text, format_args!("{name}{} {value}", braced(&labels))),
        Value::Fraction(value) => line(text, format_args!("{name}{} {value}", braced(&labels))),
        Value::Counted(counted) => {
            let separator = if labels.is_empty() { "" } else { "," };
            let mut sum = 0;
            for (index, count) in counted.buckets.iter().enumerate() {
                sum += count;
                let end = BUCKETS_US
                    .get(index)
                    .map_or("+Inf".to_owned(), |&us| seconds(us));
                line(
                    text,
                    format_args!("{name}_bucket{{{labels}{separator}le=\"{end}\"}} {sum}"),
                );
            }
            let braced = braced(&labels);
            line(
                text,
                format_args!("{name}_sum{braced} {}", seconds(counted.sum_us)),
            );
            line(text, format_args!("{name}_count{braced} {sum}"));
        }
    }
}

fn braced(labels: &str) -> String {
    if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    }
}

fn labels_text(labels: &[(&'static str, String)]) -> String {
    let escaped = |value: &str| {
        value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    pairs.join(",")
}

/// Microseconds as seconds, exactly.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::histogram::Histogram;
    use crate::parse::parse;

    #[test]
    fn the_text_is_prometheus_text() {
        let mut snapshot = Snapshot::default();
        snapshot.counter("sixfold_things_total", "Things.", &[], 3);
        snapshot.gauge("sixfold_level", "A level.", &[("node", "a\"b\\c\nd")], 1);
        snapshot.seconds(
            "sixfold_age_seconds",
            "An age.",
            &[],
            Duration::from_millis(1_500),
        );
        let histogram = Histogram::default();
        histogram.count(Duration::from_micros(15));
        snapshot.histogram(
            "sixfold_wait_seconds",
            "Waits.",
            &[("pg", "0")],
            histogram.counted(),
        );
        let text = snapshot.text();
        assert!(text.contains("# TYPE sixfold_things_total counter\nsixfold_things_total 3\n"));
        assert!(text.contains("sixfold_level{node=\"a\\\"b\\\\c\\nd\"} 1\n"));
        assert!(text.contains("sixfold_age_seconds 1.5\n"));
        assert!(text.contains("sixfold_wait_seconds_bucket{pg=\"0\",le=\"0.00001\"} 0\n"));
        assert!(text.contains("sixfold_wait_seconds_bucket{pg=\"0\",le=\"0.00002\"} 1\n"));
        assert!(text.contains("sixfold_wait_seconds_bucket{pg=\"0\",le=\"+Inf\"} 1\n"));
        assert!(text.contains("sixfold_wait_seconds_sum{pg=\"0\"} 0.000015\n"));
        let parsed = parse(&text).unwrap();
        assert_eq!(parsed.families.len(), 4);
        let label = &parsed.family("sixfold_level").unwrap().samples[0].labels[0];
        assert_eq!(label.1, "a\"b\\c\nd");
    }

    #[test]
    #[should_panic(expected = "only counters are totals")]
    fn a_gauge_is_no_total() {
        Family::new(Kind::Gauge, "sixfold_things_total", "Things.");
    }

    #[test]
    fn snapshots_are_joined_by_name() {
        let mut one = Snapshot::default();
        one.gauge("sixfold_level", "A level.", &[("node", "a")], 1);
        let mut two = Snapshot::default();
        two.gauge("sixfold_level", "A level.", &[("node", "b")], 2);
        one.append(two);
        assert_eq!(one.families.len(), 1);
        assert_eq!(one.families[0].samples.len(), 2);
    }
}
