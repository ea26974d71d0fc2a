//! How a verb ends: a line for people, one JSON object for scripts, an exit code for both.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use sixfold::Error;

use super::plan::Move;

/// The object. `state` is `done`, `planned`, `refused`, `timeout` or `failed`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) verb: &'static str,
    pub(crate) state: &'static str,
    pub(crate) dry_run: bool,
    /// Parts done.
    pub(crate) done: u64,
    /// Of so many.
    pub(crate) of: u64,
    /// For people; why, where it was not done.
    pub(crate) text: String,
    /// Who did it: `writer`, or `this process` where no writer was alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<&'static str>,
    pub(crate) moves: Vec<Move>,
    pub(crate) seconds: f64,
}

impl Outcome {
    /// It is done.
    pub(crate) fn done(verb: &'static str, text: impl Into<String>) -> Outcome {
        Outcome {
            verb,
            state: "done",
            dry_run: false,
            done: 0,
            of: 0,
            text: text.into(),
            by: None,
            moves: Vec::new(),
            seconds: 0.0,
        }
    }

    /// It ended with an error.
    pub(crate) fn failed(verb: &'static str, error: &anyhow::Error) -> Outcome {
        Outcome {
            state: "failed",
            ..Outcome::done(verb, crate::in_one_line(error))
        }
    }

    /// Nothing was done: that is what would be.
    pub(crate) fn planned(
        verb: &'static str,
        moves: Vec<Move>,
        text: impl Into<String>,
    ) -> Outcome {
        Outcome {
            state: "planned",
            dry_run: true,
            of: moves.len() as u64,
            moves,
            ..Outcome::done(verb, text)
        }
    }
}

/// Runs a verb on a runtime of its own, and says how it ended.
pub(crate) fn conclude(
    verb: &'static str,
    dry_run: bool,
    json: bool,
    work: impl Future<Output = Result<Outcome>>,
) -> Result<()> {
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            biased;
            () = crate::child::stop_signal(false) => anyhow::bail!("interrupted; what the writer has taken on goes on"),
            result = work => result,
        }
    });
    let (mut outcome, failure) = match result {
        Ok(outcome) => {
            let is_good = matches!(outcome.state, "done" | "planned");
            let failure = (!is_good).then(|| anyhow::anyhow!("{}", outcome.text));
            (outcome, failure)
        }
        Err(error) => {
            let outcome = Outcome {
                dry_run,
                ..Outcome::failed(verb, &error)
            };
            (outcome, Some(error))
        }
    };
    outcome.seconds = begun.elapsed().as_secs_f64();
    if failure.is_none() {
        for moved in &outcome.moves {
            say!(
                "{}{}",
                if dry_run { "would move: " } else { "" },
                moved.line()
            );
        }
        if !outcome.text.is_empty() {
            say!("{}", outcome.text);
        }
    }
    if json {
        say!("{}", serde_json::to_string(&outcome)?);
    }
    failure.map_or(Ok(()), Err)
}

/// What a time limit says of itself.
pub(crate) fn timeout_text(limit: Duration, last: &str) -> String {
    let last = if last.is_empty() {
        "nothing was heard of it"
    } else {
        last
    };
    format!("not done within {} s, it goes on: {last}", limit.as_secs())
}

/// An error of the library, for the operator.
pub(crate) fn of_library(error: Error) -> anyhow::Error {
    anyhow::Error::new(error)
}
