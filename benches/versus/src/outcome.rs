//! How a peer's run ended, as the parent reads it.

use anyhow::Error;
use serde::Serialize;

use crate::latency::Latencies;

/// A row, or why there is none.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome<T> {
    /// It was measured.
    Row(T),
    /// It is not installed or not built in.
    Skipped(String),
}

/// That a system is not here: the run is skipped and not failed.
#[derive(Debug)]
pub(crate) struct NotHere(pub(crate) String);

impl std::fmt::Display for NotHere {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for NotHere {}

impl<T> Outcome<T> {
    /// A missing system is an outcome; everything else that went wrong stays an error.
    pub(crate) fn of(result: Result<T, Error>) -> Result<Outcome<T>, Error> {
        match result {
            Ok(row) => Ok(Outcome::Row(row)),
            Err(error) => match error.downcast_ref::<NotHere>() {
                Some(not_here) => Ok(Outcome::Skipped(not_here.0.clone())),
                None => Err(error),
            },
        }
    }
}

/// What a system is.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) system: String,
    pub(crate) version: String,
    /// Copies of the data.
    pub(crate) copies: u32,
    /// Copies on disk when a commit is answered.
    pub(crate) durable_copies: u32,
    /// What was set beside the defaults, and how it was asked.
    pub(crate) settings: String,
}

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct CommitRow {
    system: String,
    version: String,
    copies: u32,
    durable_copies: u32,
    clients: usize,
    commits_per_second: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    settings: String,
    distribution_us: Vec<(f64, u64)>,
}

impl CommitRow {
    #[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
    pub(crate) fn new(about: About, clients: usize, latencies: &Latencies, seconds: f64) -> Self {
        CommitRow {
            system: about.system,
            version: about.version,
            copies: about.copies,
            durable_copies: about.durable_copies,
            clients,
            commits_per_second: latencies.count() as f64 / seconds,
            p50_us: latencies.p50_us(),
            p99_us: latencies.p99_us(),
            p999_us: latencies.p999_us(),
            settings: about.settings,
            distribution_us: latencies.distribution(),
        }
    }
}
