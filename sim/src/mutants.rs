//! Planted bugs: each must be found within a bounded number of seeds.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
pub use sixfold_log_format::mutant::{ALL, Mutant, plant};

use crate::run::run_seed;

/// Seeds within which each bug must be found, unless the command line says fewer or more.
pub const SEEDS_MAX: u64 = 400;

/// The bugs that the command line names: those of `only`, or a part `i/n` of all, or all.
///
/// # Errors
/// For a name or part that is none.
pub fn chosen(only: &[String], part: Option<&str>) -> Result<Vec<Mutant>> {
    let mut chosen = Vec::new();
    for name in only {
        let entry = ALL.iter().find(|(_, known)| known == name);
        chosen.push(
            entry
                .with_context(|| format!("no mutant is called {name}"))?
                .0,
        );
    }
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let (index, of) = match part {
        None => (0, 1),
        Some(part) => {
            let (index, of) = part.split_once('/').context("a part is like 2/5")?;
            (index.parse::<usize>()?, of.parse::<usize>()?)
        }
    };
    if of == 0 || index >= of {
        bail!("part {index} of {of} is none; the first is 0");
    }
    let all = ALL.iter().map(|(mutant, _)| *mutant);
    let of_part = all.enumerate().filter(|(at, _)| at % of == index);
    Ok(of_part.map(|(_, mutant)| mutant).collect())
}

/// Runs seeds with a bug until one fails: how many were tried, and what was seen. `None`: it was not found.
pub fn score(mutant: Mutant, seeds: u64, jobs: usize) -> Option<(u64, String)> {
    let next = AtomicU64::new(0);
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                plant(Some(mutant));
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let lowest = {
                        let found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        found.as_ref().map_or(seeds, |(tried, _)| *tried)
                    };
                    if seed >= lowest {
                        return;
                    }
                    if let Some(failure) = run_seed(seed).failure {
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        if found.as_ref().is_none_or(|(tried, _)| seed < *tried) {
                            *found = Some((seed + 1, failure));
                        }
                        return;
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}
