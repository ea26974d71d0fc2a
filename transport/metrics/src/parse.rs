//! Reads Prometheus' text, strictly: for tests of what endpoints say, and for whoever reads another process's numbers.
//!
//! Stricter than Prometheus itself: every sample belongs to a family with help and type before it, every family stands in one piece, no
//! series comes twice, histograms have rising buckets that end in `+Inf` and agree with their count. No timestamps, no other kinds.

use std::collections::{BTreeMap, BTreeSet};

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for ParseError {}

/// A sample.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedSample {
    /// Its name: the family's, or with `_bucket`, `_sum` or `_count` behind it.
    pub name: String,
    /// Its labels, as they stood.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

/// A family.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedFamily {
    /// Its name.
    pub name: String,
    /// Its help line.
    pub help: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// Its samples.
    pub samples: Vec<ParsedSample>,
}

/// A whole text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// Its families, as they stood.
    pub families: Vec<ParsedFamily>,
}

impl Parsed {
    /// The family of this name.
    pub fn family(&self, name: &str) -> Option<&ParsedFamily> {
        self.families.iter().find(|family| family.name == name)
    }

    /// The sum of all samples of this very name.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let samples = self.families.iter().flat_map(|family| &family.samples);
        let mut values = samples
            .filter(|sample| sample.name == name)
            .map(|sample| sample.value)
            .peekable();
        values.peek()?;
        Some(values.sum())
    }
}

/// Reads a text.
///
/// # Errors
/// The first flaw.
pub fn parse(text: &str) -> Result<Parsed, ParseError> {
    let mut parsed = Parsed::default();
    let mut names = BTreeSet::new();
    let mut series = BTreeSet::new();
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(flaw(text.lines().count(), "the last line has no end"));
    }
    let mut help: Option<(String, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest
                .split_once(' ')
                .ok_or_else(|| flaw(number, "help without words"))?;
            check_name(name).map_err(|reason| flaw(number, reason))?;
            if !names.insert(name.to_owned()) {
                return Err(flaw(number, format!("family {name} comes twice")));
            }
            help = Some((name.to_owned(), words.to_owned()));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest
                .split_once(' ')
                .ok_or_else(|| flaw(number, "a type without a word"))?;
            let (_, words) = help
                .take()
                .filter(|(of, _)| of == name)
                .ok_or_else(|| flaw(number, format!("{name} has no help before its type")))?;
            if !["counter", "gauge", "histogram"].contains(&kind) {
                return Err(flaw(number, format!("no such type: {kind}")));
            }
            parsed.families.push(ParsedFamily {
                name: name.to_owned(),
                help: words,
                kind: kind.to_owned(),
                samples: Vec::new(),
            });
        } else {
            let sample = sample(line).map_err(|reason| flaw(number, reason))?;
            let family = parsed
                .families
                .last_mut()
                .filter(|family| help.is_none() && family.takes(&sample.name))
                .ok_or_else(|| flaw(number, format!("{} is of no family here", sample.name)))?;
            if family.kind != "gauge" && (sample.value < 0.0 || sample.value.is_nan()) {
                return Err(flaw(number, format!("{} is below zero", sample.name)));
            }
            let mut sorted = sample.labels.clone();
            sorted.sort();
            if !series.insert((sample.name.clone(), sorted)) {
                return Err(flaw(number, format!("series {line} comes twice")));
            }
            family.samples.push(sample);
        }
    }
    if let Some((name, _)) = help {
        return Err(flaw(text.lines().count(), format!("{name} has no type")));
    }
    for family in &parsed.families {
        family
            .check()
            .map_err(|reason| flaw(text.lines().count(), reason))?;
    }
    Ok(parsed)
}

impl ParsedFamily {
    fn takes(&self, sample: &str) -> bool {
        if self.kind != "histogram" {
            return sample == self.name;
        }
        sample
            .strip_prefix(self.name.as_str())
            .is_some_and(|rest| ["_bucket", "_sum", "_count"].contains(&rest))
    }

    /// Buckets rise, end in `+Inf`, and agree with the count.
    fn check(&self) -> Result<(), String> {
        if self.kind != "histogram" {
            return Ok(());
        }
        type Labels = Vec<(String, String)>;
        let mut buckets: BTreeMap<Labels, (f64, f64)> = BTreeMap::new();
        let mut counts: BTreeMap<Labels, f64> = BTreeMap::new();
        let mut sums = 0;
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            if sample.name.ends_with("_bucket") {
                let at = labels.iter().position(|(name, _)| name == "le");
                let (_, end) = labels.remove(at.ok_or("a bucket without an end")?);
                let end = number(&end)?;
                let before = buckets.insert(labels, (end, sample.value));
                if before.is_some_and(|(e, v)| e >= end || v > sample.value) {
                    return Err(format!("buckets of {} do not rise", self.name));
                }
            } else if sample.name.ends_with("_count") {
                counts.insert(labels, sample.value);
            } else {
                sums += 1;
            }
        }
        let agree = buckets.len() == counts.len()
            && sums == counts.len()
            && buckets.iter().all(|(labels, &(end, value))| {
                end == f64::INFINITY && counts.get(labels) == Some(&value)
            });
        if agree {
            Ok(())
        } else {
            Err(format!("buckets and counts of {} disagree", self.name))
        }
    }
}

fn flaw(line: usize, reason: impl Into<String>) -> ParseError {
    ParseError {
        line,
        reason: reason.into(),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let head = name
        .bytes()
        .next()
        .is_some_and(|byte| !byte.is_ascii_digit());
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    if head && name.bytes().all(is_good) {
        Ok(())
    } else {
        Err(format!("{name:?} is no name"))
    }
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "NaN" => Ok(f64::NAN),
        _ => text
            .parse()
            .ok()
            .filter(|value: &f64| value.is_finite())
            .ok_or_else(|| format!("{text:?} is no number")),
    }
}

/// `name value` or `name{label="value",...} value`.
fn sample(line: &str) -> Result<ParsedSample, String> {
    let end = line
        .find(['{', ' '])
        .ok_or_else(|| format!("{line:?} is no sample"))?;
    let (name, mut rest) = line.split_at(end);
    check_name(name)?;
    let mut labels: Vec<(String, String)> = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, behind) = rest
                .split_once("=\"")
                .ok_or_else(|| format!("{rest:?} is no label"))?;
            check_name(label)?;
            if labels.iter().any(|(known, _)| known == label) {
                return Err(format!("label {label} comes twice"));
            }
            let (value, behind) = quoted(behind)?;
            labels.push((label.to_owned(), value));
            if let Some(next) = behind.strip_prefix(',') {
                rest = next;
            } else {
                rest = behind
                    .strip_prefix('}')
                    .ok_or_else(|| format!("{behind:?} behind a label"))?;
                break;
            }
        }
    }
    let value = rest
        .strip_prefix(' ')
        .ok_or_else(|| format!("no value in {line:?}"))?;
    Ok(ParsedSample {
        name: name.to_owned(),
        labels,
        value: number(value)?,
    })
}

/// A label's value up to its closing quote, and what stands behind.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                _ => return Err("an escape of nothing".to_owned()),
            },
            char => value.push(char),
        }
    }
    Err("a value without an end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flaw_is_found() {
        let head = "# HELP a A.\n# TYPE a gauge\n";
        let histogram = "# HELP h H.\n# TYPE h histogram\n";
        for (text, reason) in [
            ("a 1\n".to_owned(), "of no family"),
            (format!("{head}a 1"), "no end"),
            (format!("{head}b 1\n"), "of no family"),
            (format!("{head}a 1\na 2\n"), "twice"),
            (format!("{head}a x\n"), "no number"),
            (format!("{head}a{{b=\"1\n"), "without an end"),
            (format!("{head}a{{b=\"1\"x 1\n"), "behind a label"),
            (format!("{head}a{{b=\"1\",b=\"2\"}} 1\n"), "twice"),
            (format!("{head}{head}"), "twice"),
            ("# HELP a A.\n".to_owned(), "no type"),
            ("# TYPE a gauge\n".to_owned(), "no help"),
            ("# HELP a A.\n# TYPE a summary\n".to_owned(), "no such type"),
            (
                "# HELP a A.\n# TYPE a counter\na -1\n".to_owned(),
                "below zero",
            ),
            (
                format!("{histogram}h_bucket{{le=\"1\"}} 1\nh_sum 1\nh_count 1\n"),
                "disagree",
            ),
            (
                format!(
                    "{histogram}h_bucket{{le=\"1\"}} 2\nh_bucket{{le=\"+Inf\"}} 1\nh_sum 1\nh_count 1\n"
                ),
                "do not rise",
            ),
            (format!("{histogram}h 1\n"), "of no family"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.reason.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn sums_are_over_all_series_of_a_name() {
        let text = "# HELP a A.\n# TYPE a gauge\na{b=\"1\"} 1\na{b=\"2\"} 2.5\n";
        let parsed = parse(text).unwrap();
        assert_eq!(parsed.sum("a"), Some(3.5));
        assert_eq!(parsed.sum("b"), None);
    }
}
