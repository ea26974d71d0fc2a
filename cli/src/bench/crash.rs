//! `sixfold bench crash`: cases of the crash suite in turn, on real processes; after each the volume is opened anew, every answered
//! commit looked for, and the clients' history judged. Stops at the first cycle that is wrong, and keeps its directory.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sixfold::{Database, Snapshot};
use sixfold_benches::crash::case::{Case, How, in_turn, matrix};
use sixfold_benches::crash::check::{Findings, compare, read};
use sixfold_benches::crash::tally::{Played, Tally};
use sixfold_benches::crash::work::Outcome;
use sixfold_benches::history::clients::{Clients, Settings};
use sixfold_benches::history::event::{Planted, Workload};
use sixfold_benches::history::file::Collector;
use sixfold_benches::history::judge::{Verdict, judge};

use super::crash_cycle::{Course, Cycle, stamp};
use super::crash_site::Site;
use super::{crash_throttle, crash_writer};
use crate::child::stop_signal;

/// How long the volume may take to open after a cycle, and a read to be answered.
const OPEN_LIMIT: Duration = Duration::from_secs(90);
const READ_LIMIT: Duration = Duration::from_secs(30);
/// How long a replacement whose writer died may take under the next one.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
/// After so many cycles those before are looked at once more, and at the end.
const LOOK_BACK: u32 = 20;

/// Flags of `bench crash`.
#[derive(Debug, Args)]
pub(super) struct CrashArgs {
    /// Cycles
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    cycles: u32,
    /// Only cases of which these are parts, for example `writer`, `node/power-cut` or `az+1/sigkill/load`; several by commas
    #[arg(long, value_delimiter = ',', value_name = "WHO/HOW/WHEN")]
    only: Vec<String>,
    /// Decides the order of the cases, and within each who is struck when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A report in Markdown
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Name the cases, and do nothing
    #[arg(long)]
    list: bool,
    /// Where to keep the cluster; must be missing or empty. Default: a temporary directory, kept when something is wrong
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs it.
pub(super) fn run(args: &CrashArgs) -> Result<()> {
    let mut cases = matrix();
    for pattern in &args.only {
        let known = cases.iter().any(|case| case.matches(pattern));
        ensure!(known, "--only {pattern}: no case has such parts");
    }
    cases.retain(|case| {
        args.only.is_empty() || args.only.iter().any(|pattern| case.matches(pattern))
    });
    if args.list {
        for case in &cases {
            say!("{case}");
        }
        return Ok(());
    }
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let mut tally = Tally::default();
    local.block_on(&runtime, async {
        let work = async {
            let (root, guard) = crate::demo::root_dir(args.dir.as_deref())?;
            let played = cycles(args, &cases, &root, &mut tally).await;
            let is_wrong = played.is_err() || tally.wrong().is_some();
            if let Some(guard) = guard.filter(|_| is_wrong) {
                eprintln!("kept: {}", guard.keep().display());
            }
            played
        };
        tokio::select! {
            // Signals are waited for before there is anything to be left behind.
            biased;
            () = stop_signal(false) => bail!("interrupted"),
            played = work => played,
        }
    })?;
    let time = begun.elapsed();
    say!("{}", tally.summary());
    if let Some(path) = &args.report {
        std::fs::write(path, tally.markdown(args.seed, time)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        say!("{}", tally.json(args.seed, time)?);
    }
    match tally.wrong() {
        None => Ok(()),
        Some(wrong) => bail!("{wrong}"),
    }
}

async fn cycles(args: &CrashArgs, cases: &[Case], root: &Path, tally: &mut Tally) -> Result<()> {
    let cases = possible(cases, root, tally);
    ensure!(!cases.is_empty(), "this host can do none of the cases");
    let mut site = Site::start(root).await?;
    for cycle in 0..args.cycles {
        let (turn, place) = (cycle as usize / cases.len(), cycle as usize % cases.len());
        let case = in_turn(&cases, args.seed, turn as u64)[place];
        site.note(&format!("cycle {cycle}: {case}"));
        match one(&mut site, case, cycle, args.seed).await {
            Ok(played) => {
                site.note(&format!(
                    "{} answered, stall {:?}, recovery {:?}, {:?}",
                    played.findings.answered, played.stall, played.recovery, played.verdict
                ));
                tally.played(played);
            }
            Err(error) => {
                let why = format!("cycle {cycle}: {error:#}");
                site.note(&why);
                tally.failed(case, why);
            }
        }
        if tally.wrong().is_some() {
            return Ok(());
        }
    }
    site.hands.close().await;
    Ok(())
}

/// The cases that this host can do; the others are told.
fn possible(cases: &[Case], root: &Path, tally: &mut Tally) -> Vec<Case> {
    let slow = cases.iter().any(|case| case.how == How::SlowDisk);
    let why = slow.then(|| crash_throttle::why_not(root)).flatten();
    let is_possible = |case: &&Case| match &why {
        Some(why) if case.how == How::SlowDisk => {
            tally.skip(**case, why);
            false
        }
        _ => true,
    };
    cases.iter().filter(is_possible).copied().collect()
}

/// A cycle and its check.
async fn one(site: &mut Site, case: Case, cycle: u32, seed: u64) -> Result<Played> {
    let begun_ns = stamp();
    {
        let log = &mut *site.log.borrow_mut();
        log.cycle = cycle;
        log.events = Collector::new(begun_ns);
        log.answers.clear();
    }
    let seed = seed ^ (u64::from(cycle) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let playing = Cycle::new(site, case, seed, begun_ns, cycle == 0);
    let course = playing.play().await?;
    site.note("checking");
    let reopened = reopen(site, cycle, begun_ns).await?;
    let log = site.log.borrow();
    let Course {
        stall,
        recovery,
        on_time,
    } = course;
    Ok(Played {
        case,
        findings: reopened.0,
        unknown: log.record.count(cycle, |one| *one == Outcome::Unknown),
        refused: log.record.count(cycle, |one| *one == Outcome::Refused),
        verdict: reopened.1,
        stall,
        recovery,
        on_time,
    })
}

/// Every commit of a cycle against what was said of it.
async fn check(snapshot: &Snapshot, site: &Site, cycle: u32) -> Result<Findings> {
    let mut findings = Findings::default();
    let seen = read(snapshot, cycle, &mut findings).await?;
    compare(&seen, &site.log.borrow().record, cycle, &mut findings);
    Ok(findings)
}

/// Opens the volume anew, looks for what was answered, reads what the history has written, and has it judged.
async fn reopen(site: &mut Site, cycle: u32, begun_ns: u64) -> Result<(Findings, Verdict)> {
    let options = crash_writer::options(site.cluster.clone())
        .open_deadline(OPEN_LIMIT)
        .read_deadline(READ_LIMIT);
    let database = Database::take_over(options)
        .await
        .context("the volume does not open after it")?;
    let snapshot = database.snapshot();
    let mut findings = check(&snapshot, site, cycle).await?;
    if cycle % LOOK_BACK == LOOK_BACK - 1 {
        for before in 0..cycle {
            let again = check(&snapshot, site, before).await?;
            // They were counted when they were new.
            findings.add(Findings {
                answered: 0,
                unknown_found: 0,
                ..again
            });
        }
    }
    let client = site.draw_client();
    let log = Rc::clone(&site.log);
    let settings = Settings {
        workload: Workload::ListAppend,
        planted: Planted::Nothing,
        clients: client..client + 1,
        begun_ns,
        run: cycle,
    };
    let note = move |event: &_| {
        log.borrow_mut().events.event(Clone::clone(event));
        Ok(())
    };
    Clients::new(database.clone(), settings, Box::new(note))
        .read_all()
        .await?;
    let until = Instant::now() + SETTLE_LIMIT;
    while !site.look().await? {
        ensure!(
            Instant::now() < until,
            "a replacement does not come to its end within {SETTLE_LIMIT:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    database.close().await;
    let path = site.root().join("history.jsonl");
    let events = site.log.borrow_mut().events.take();
    let counts = events.write(Workload::ListAppend, &path)?;
    ensure!(counts.ok > 0, "no transaction of the history was committed");
    Ok((findings, judge(&path)?))
}
