//! What stands in `cluster.toml`, and the settings that come beside it: of a writer (`[writer]`) and of a standby (`[standby]`).
//!
//! ```text
//!  what the caller says ─▶ environment ─▶ the file ─▶ the default      the first that says something counts
//! ```
//!
//! The one place that judges such a file: the library when it loads one, and `sixfold config check`. It says where something is wrong, and
//! which name was meant. It opens nothing and asks nobody.

mod cluster_file;
mod knobs;
mod place;

use std::path::Path;

pub(crate) use cluster_file::check_for_opening;
pub use cluster_file::check_text;
pub use knobs::{STANDBY_KEYS, SettingAbout, WRITER_KEYS, abouts, template};
pub use place::{Document, explain, nearest};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::options::Options;
use crate::standby::StandbyOptions;

/// Where a value was said, for whoever has to correct it, and the value.
type Said = (String, String);

/// Settings that the caller names, which go before environment and file: `writer.page_cache_mib=64`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides(Vec<(&'static str, &'static str, String)>);

impl Overrides {
    /// Takes them from texts of the form `TABLE.KEY=VALUE`.
    ///
    /// # Errors
    /// A line that names the text and what is wrong with it.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Overrides, String> {
        let mut all = Vec::with_capacity(texts.len());
        for text in texts {
            let text = text.as_ref();
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| format!("{text:?} is not TABLE.KEY=VALUE"))?;
            let known = knobs::keys().find(|(table, name)| key == format!("{table}.{name}"));
            let Some((table, name)) = known else {
                let names: Vec<String> = knobs::keys()
                    .map(|(table, name)| format!("{table}.{name}"))
                    .collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                return Err(place::unknown(key, &names));
            };
            all.push((table, name, value.to_owned()));
        }
        Ok(Overrides(all))
    }

    fn said(&self, table: &str, name: &str) -> Option<Said> {
        let mut all = self.0.iter().rev();
        if let Some((.., value)) = all.find(|one| (one.0, one.1) == (table, name)) {
            return Some((format!("{table}.{name}"), value.clone()));
        }
        let variable = variable(table, name);
        let value = std::env::var(&variable).ok()?;
        Some((variable, value))
    }
}

/// The environment variable of a setting.
fn variable(table: &str, name: &str) -> String {
    format!("SIXFOLD_{}_{}", table.to_uppercase(), name.to_uppercase())
}

/// [`Options::from_cluster_file`] with settings that go before all others.
///
/// # Errors
/// [`Error::Config`], one line with the place and what is wrong.
pub fn writer_options(path: &Path, overrides: &Overrides) -> Result<Options, Error> {
    let cluster = Cluster::load(path)?;
    let said = |name: &str| overrides.said(knobs::WRITER, name);
    with_file(path, |document| {
        knobs::writer(Options::new(cluster), document, &said)
    })
}

/// [`StandbyOptions::from_cluster_file`] with settings that go before all others.
///
/// # Errors
/// [`Error::Config`], one line with the place and what is wrong.
pub fn standby_options(path: &Path, overrides: &Overrides) -> Result<StandbyOptions, Error> {
    let said = |name: &str| overrides.said(knobs::STANDBY, name);
    with_file(path, |document| {
        knobs::standby(StandbyOptions::new(), document, &said)
    })
}

fn with_file<T>(
    path: &Path,
    work: impl FnOnce(&Document<'_>) -> Result<T, String>,
) -> Result<T, Error> {
    let text = read(path)?;
    Document::parse(&text)
        .and_then(|document| work(&document))
        .map_err(|line| Error::config(located(path, &line)))
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::config(format!("cannot read {}: {error}", path.display())))
}

/// A line about a file names it; one about what was said elsewhere does not.
pub(crate) fn located(path: &Path, line: &str) -> String {
    match line.starts_with("line ") {
        true => format!("{}: {line}", path.display()),
        false => line.to_owned(),
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod settings_tests;
