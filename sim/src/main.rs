//! `sixfold-sim`: runs seeds, searches for failing ones, shows what is reached and that planted bugs are found.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sixfold_sim::minimize::{minimize, size};
use sixfold_sim::plan::Plan;
use sixfold_sim::run::run;
use sixfold_sim::search::{Found, Search, search};

/// Simulates whole Sixfold clusters under faults, each decided by one seed.
#[derive(Debug, Parser)]
#[command(name = "sixfold-sim", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs one seed.
    Run {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Prints what happens.
        #[arg(long)]
        trace: bool,
        /// Cuts a failing run down before it is told.
        #[arg(long)]
        minimize: bool,
        /// Plants a bug first; needs a build with the feature `mutants`.
        #[arg(long)]
        mutant: Option<String>,
    },
    /// Runs many seeds.
    Search {
        /// For so long.
        #[arg(long)]
        seconds: Option<u64>,
        /// So many.
        #[arg(long)]
        seeds: Option<u64>,
        /// From this one on; drawn from the clock unless given.
        #[arg(long)]
        first: Option<u64>,
        /// On so many threads.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Ends with one line of JSON.
        #[arg(long)]
        json: bool,
        /// Prints how often each situation was met.
        #[arg(long)]
        reached: bool,
        /// Fails when a situation was not met.
        #[arg(long)]
        all_reached: bool,
        /// Goes on after failures until there are so many.
        #[arg(long, default_value_t = 1)]
        failures: usize,
    },
    /// Plants bugs, one at a time, and counts how many are found.
    Mutants {
        /// Only these.
        #[arg(long)]
        only: Vec<String>,
        /// Only a part of them, as `2/5`.
        #[arg(long)]
        part: Option<String>,
        /// Seeds tried for each; 400 unless given.
        #[arg(long)]
        seeds: Option<u64>,
        /// Threads.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Ends with one line of JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    execute(Arguments::parse().verb).unwrap_or_else(|error| {
        eprintln!("sixfold-sim: {error:#}");
        ExitCode::from(2)
    })
}

fn execute(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Run {
            seed,
            trace,
            minimize,
            mutant,
        } => {
            if let Some(name) = mutant {
                plant(&name)?;
            }
            Ok(run_one(seed, trace, minimize))
        }
        Verb::Search {
            seconds,
            seeds,
            first,
            jobs,
            json,
            reached,
            all_reached,
            failures,
        } => {
            let plan = Search {
                first: first.unwrap_or_else(fresh_seed),
                count: seeds.unwrap_or(u64::MAX),
                limit: seconds
                    .map(Duration::from_secs)
                    .or_else(|| seeds.is_none().then_some(Duration::from_secs(60))),
                jobs,
                failures_max: failures,
            };
            Ok(search_many(
                &plan,
                json,
                reached || all_reached,
                all_reached,
            ))
        }
        Verb::Mutants {
            only,
            part,
            seeds,
            jobs,
            json,
        } => mutants(&only, part.as_deref(), seeds, jobs, json),
    }
}

/// Where a search begins when nobody says: somewhere else each time.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place where chance comes in; the seed is printed"
)]
fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    (since.as_secs() << 20) & 0xFFFF_FFFF_FFFF
}

fn run_one(seed: u64, trace: bool, cut_down: bool) -> ExitCode {
    let mut plan = Plan::draw(seed);
    let mut outcome = run(&plan, trace && !cut_down);
    if cut_down && outcome.failure.is_some() {
        plan = minimize(&plan, 300);
        outcome = run(&plan, true);
        println!("cut down to {}", size(&plan));
    }
    for line in &outcome.story {
        println!("{line}");
    }
    println!(
        "seed {seed}: {} events, {} commits, {} openings, hash {:016x}",
        outcome.events, outcome.commits, outcome.openings, outcome.hash
    );
    match outcome.failure {
        Some(failure) => {
            println!("FAILED: {failure}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn bar(plan: &Search) -> ProgressBar {
    let bar = match plan.limit {
        _ if plan.count < u64::MAX => ProgressBar::new(plan.count),
        _ => ProgressBar::new_spinner(),
    };
    let style = ProgressStyle::with_template("{elapsed_precise} {pos} seeds {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

fn search_many(plan: &Search, as_json: bool, reached: bool, all_reached: bool) -> ExitCode {
    let bar = bar(plan);
    let found = search(plan, &|seeds, events, failures| {
        bar.set_position(seeds);
        bar.set_message(format!("{events} events, {failures} failures"));
    });
    bar.finish_and_clear();
    tell(&found, reached);
    if let Some((seed, failure)) = found.failures.first() {
        tell_failure(*seed, failure);
    }
    let missing = found.reached.missing();
    let all_there = !all_reached || missing.is_empty();
    if !all_there {
        println!("not reached: {}", missing.join(", "));
    }
    if as_json {
        let line = json!({
            "seeds": found.seeds,
            "events": found.events,
            "failures": found.failures.len(),
        });
        println!("{line}");
    }
    if found.failures.is_empty() && all_there {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A failing run, cut down, and how to keep it.
fn tell_failure(seed: u64, failure: &str) {
    let small = minimize(&Plan::draw(seed), 200);
    let outcome = run(&small, true);
    let skip = outcome.story.len().saturating_sub(400);
    println!(
        "--- seed {seed}, cut down to {}, its last lines:",
        size(&small)
    );
    outcome
        .story
        .iter()
        .skip(skip)
        .for_each(|line| println!("{line}"));
    println!("--- again: sixfold-sim run --seed {seed} --minimize");
    println!("--- to keep it, with its story, in ONCE_FAILED of sim/tests/it/runs.rs:");
    println!("    // {failure}");
    println!("    {seed},");
}

fn tell(found: &Found, reached: bool) {
    let seconds = found.busy.as_secs_f64().max(0.001);
    println!(
        "{} seeds, {} events, {} commits, {} openings, {:.0} events a second a core, {} failures",
        found.seeds,
        found.events,
        found.commits,
        found.openings,
        found.events as f64 / seconds,
        found.failures.len()
    );
    if reached {
        for (name, count) in found.reached.all() {
            println!("{count:>10}  {name}");
        }
    }
    for (seed, failure) in &found.failures {
        println!("seed {seed}: {failure}");
    }
}

#[cfg(not(feature = "mutants"))]
fn plant(_: &str) -> Result<()> {
    anyhow::bail!("build with --features mutants: no bug is planted in this build")
}

#[cfg(feature = "mutants")]
fn plant(name: &str) -> Result<()> {
    let chosen = sixfold_sim::mutants::chosen(&[name.to_owned()], None)?;
    sixfold_sim::mutants::plant(chosen.first().copied());
    Ok(())
}

#[cfg(not(feature = "mutants"))]
fn mutants(_: &[String], _: Option<&str>, _: Option<u64>, _: usize, _: bool) -> Result<ExitCode> {
    anyhow::bail!("build with --features mutants: no bug is planted in this build")
}

#[cfg(feature = "mutants")]
fn mutants(
    only: &[String],
    part: Option<&str>,
    seeds: Option<u64>,
    jobs: usize,
    as_json: bool,
) -> Result<ExitCode> {
    use sixfold_sim::mutants::{SEEDS_MAX, chosen, score};

    let seeds = seeds.unwrap_or(SEEDS_MAX);
    let chosen = chosen(only, part)?;
    let mut missed = Vec::new();
    for mutant in &chosen {
        match score(*mutant, seeds, jobs) {
            Some((tried, failure)) => {
                println!(
                    "{:<32} found after {tried:>4} seeds: {failure}",
                    mutant.name()
                );
            }
            None => {
                println!("{:<32} MISSED in {seeds} seeds", mutant.name());
                missed.push(mutant.name());
            }
        }
    }
    let found = chosen.len() - missed.len();
    if as_json {
        let line = json!({"planted": chosen.len(), "found": found, "missed": missed});
        println!("{line}");
    } else {
        println!("{found} of {} found", chosen.len());
    }
    Ok(if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
