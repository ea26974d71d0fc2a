//! `sixfold bench reopen`: how long a volume takes to open after its writer was killed, by how much redo no layer holds.
//!
//! Each size has a cluster of its own. The writer is killed under load, several times; each time a fresh process takes the volume
//! over. PostgreSQL's crash recovery after the same bytes of its log stands beside it, where PostgreSQL is installed.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use sixfold_benches::reopen::{Filled, median};

use super::postgres::{self, Postgres};
use super::reopen_writer::millis;
use crate::child::{OwnedChild, stop_signal};
use crate::cluster_dir::{ClusterDir, NODE_COUNT, path_text};
use crate::demo::writer::OpenedReport;
use crate::status::Operator;

/// How long a writer process may take to open.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// How long one may take to write a mebibyte of redo, and how long it may take anyway.
const FILL_LIMIT_PER_MIB: Duration = Duration::from_secs(2);
const FILL_LIMIT_MIN: Duration = Duration::from_secs(120);
/// How long a writer works before it is killed: it dies under load, with its lease running.
const WORK_TIME: Duration = Duration::from_millis(300);
/// Most redo: a node's bounds on hot log and restart are several times as large.
const UNFOLDED_MAX: u64 = 16 << 30;

/// Flags of `bench reopen`.
#[derive(Debug, Args)]
pub(super) struct ReopenArgs {
    /// Redo that no layer holds when the writer is killed, for example 8MiB,512MiB
    #[arg(long, value_delimiter = ',', default_value = "8MiB,64MiB,512MiB", value_parser = parse_bytes)]
    unfolded: Vec<u64>,
    /// How often the writer is killed at each size
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    reopenings: u32,
    /// Without PostgreSQL's crash recovery beside it
    #[arg(long)]
    without_postgresql: bool,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Where to keep the clusters; must be missing or empty. Default: a temporary directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Bytes from `8MiB`, `512KiB`, `1GiB` or a plain number.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0), ("", 0)];
    let (number, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .ok_or("not a size")?;
    let number: u64 = number
        .trim()
        .parse()
        .map_err(|_| "not a size such as 8MiB".to_owned())?;
    let bytes = number.checked_mul(1 << shift).ok_or("too large")?;
    match bytes {
        1..=UNFOLDED_MAX => Ok(bytes),
        _ => Err(format!("not in 1..={}GiB", UNFOLDED_MAX >> 30)),
    }
}

/// One size. The times are medians over the reopenings.
#[derive(Debug, Clone, Default, Serialize)]
struct Run {
    /// Redo that no layer held at the first kill, at the node that held least of it.
    unfolded_bytes: u64,
    unfolded_wanted_bytes: u64,
    redo_bytes: u64,
    reopenings: usize,
    lease_wait_ms: f64,
    open_ms: f64,
    first_commit_ms: f64,
    open_max_ms: f64,
    first_commit_max_ms: f64,
    /// From the kill to the first answered commit of the next process, its start and the lease of the old one included.
    kill_to_first_commit_ms: f64,
    #[serde(flatten)]
    postgres: Option<postgres::Recovery>,
}

#[derive(Debug, Serialize)]
struct Report {
    runs: Vec<Run>,
    /// Its version, or why it was left out.
    postgresql: String,
}

/// Runs it.
pub(super) fn run(args: &ReopenArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let report = local.block_on(&runtime, async {
        let work = async {
            let (root, _guard) = crate::demo::root_dir(args.dir.as_deref())?;
            ensure!(
                std::fs::read_dir(&root).is_ok_and(|mut entries| entries.next().is_none()),
                "{} is not an empty directory",
                root.display()
            );
            measure(args, &root).await
        };
        tokio::select! {
            // Signals are waited for before there is anything to be left behind.
            biased;
            () = stop_signal(false) => bail!("interrupted"),
            report = work => report,
        }
    })?;
    print(&report)?;
    if args.json {
        say!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

async fn measure(args: &ReopenArgs, root: &Path) -> Result<Report> {
    let postgres = match args.without_postgresql {
        true => Err("skipped: not wanted".to_owned()),
        false => Postgres::find().map_err(|error| format!("skipped: {error}")),
    };
    let mut runs = Vec::new();
    for (index, &bytes) in args.unfolded.iter().enumerate() {
        let dir = root.join(format!("cluster-{}", index + 1));
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut run = reopenings(args, bytes, &dir).await?;
        std::fs::remove_dir_all(&dir)
            .with_context(|| format!("cannot remove {}", dir.display()))?;
        if let Ok(postgres) = &postgres {
            tell(&format!("PostgreSQL, {} MiB of log", bytes >> 20));
            run.postgres = Some(postgres.recovery(run.unfolded_bytes).await?);
        }
        runs.push(run);
    }
    let postgresql = match postgres {
        Ok(postgres) => postgres.version().to_owned(),
        Err(why) => why,
    };
    Ok(Report { runs, postgresql })
}

async fn reopenings(args: &ReopenArgs, bytes: u64, root: &Path) -> Result<Run> {
    let dir = ClusterDir::at(root)?;
    dir.lay_out(64)?;
    let cluster = dir.cluster()?;
    // Freezes begin at half of a bound, and where memory does not hold what no layer has: neither must come near.
    let bound_mib = (bytes >> 20) * 3 + 256;
    let settings = [
        format!("--unfolded-redo-mib={bound_mib}"),
        format!("--hot-log-mib={}", bound_mib + 1024),
        format!("--resident-redo-mib={bound_mib}"),
    ];
    let indexes: Vec<usize> = (0..NODE_COUNT).collect();
    let _nodes = dir.start_nodes_with(&indexes, &settings).await?;
    let operator = Operator::new(&cluster, "operator")?;
    tell(&format!("writing {} MiB of redo", bytes >> 20));
    let mut writer = start_writer(&dir, 0, Some(bytes))?;
    let fill_limit = FILL_LIMIT_PER_MIB.mul_f64((bytes >> 20) as f64) + FILL_LIMIT_MIN;
    let filled: Filled = serde_json::from_str(&writer.wait_for("filled ", fill_limit).await?)
        .context("the writer's report cannot be read")?;
    let mut run = Run {
        unfolded_wanted_bytes: bytes,
        redo_bytes: filled.redo_bytes,
        ..Run::default()
    };
    let mut opened = Vec::new();
    let mut since_kill_ms = Vec::new();
    for number in 1..=u64::from(args.reopenings) {
        tokio::time::sleep(WORK_TIME).await;
        writer.check_alive()?;
        let killed = Instant::now();
        writer.kill()?;
        writer = start_writer(&dir, number, None)?;
        let text = writer.wait_for("opened ", OPEN_LIMIT).await?;
        since_kill_ms.push(millis(killed.elapsed()));
        let report: OpenedReport =
            serde_json::from_str(&text).context("the writer's report cannot be read")?;
        tell(&format!(
            "reopening {number}: open {:.1} ms, first commit {:.1} ms",
            report.open_ms, report.first_commit_ms
        ));
        opened.push(report);
        if number == 1 {
            // Asked afterwards, so that nothing stands between kill and reopening; it has only grown.
            run.unfolded_bytes = least_unfolded_bytes(&operator, &cluster).await?;
        }
    }
    let unfolded_at_the_end = least_unfolded_bytes(&operator, &cluster).await?;
    // A volume's first page has a record each tenth of a second; a node freezes a part of what has one page with too long a chain.
    ensure!(
        unfolded_at_the_end >= bytes / 4 * 3,
        "the nodes put redo into layers meanwhile: {unfolded_at_the_end} bytes are left of {bytes}"
    );
    writer.kill()?;
    operator.close().await;
    let of = |figure: fn(&OpenedReport) -> f64| opened.iter().map(figure).collect::<Vec<_>>();
    let highest = |figures: &[f64]| figures.iter().copied().fold(0.0, f64::max);
    let (open_ms, first_commit_ms) = (of(|one| one.open_ms), of(|one| one.first_commit_ms));
    Ok(Run {
        reopenings: opened.len(),
        lease_wait_ms: median(&of(|one| one.lease_wait_ms)),
        open_ms: median(&open_ms),
        first_commit_ms: median(&first_commit_ms),
        open_max_ms: highest(&open_ms),
        first_commit_max_ms: highest(&first_commit_ms),
        kill_to_first_commit_ms: median(&since_kill_ms),
        ..run
    })
}

fn start_writer(dir: &ClusterDir, number: u64, fill_bytes: Option<u64>) -> Result<OwnedChild> {
    let mut args = vec![
        "bench".to_owned(),
        "reopen-writer".to_owned(),
        format!("--cluster={}", path_text(&dir.cluster_file())?),
        format!("--number={number}"),
    ];
    args.extend(fill_bytes.map(|bytes| format!("--fill-bytes={bytes}")));
    OwnedChild::start("the writer", &args)
}

/// Redo that no layer holds, at the node that holds least of it.
async fn least_unfolded_bytes(operator: &Operator, cluster: &sixfold::Cluster) -> Result<u64> {
    let mut least = u64::MAX;
    for node in &cluster.nodes {
        least = least.min(operator.segment_status(node).await?.unfolded_bytes);
    }
    Ok(least)
}

/// What is being done, for a person who waits.
fn tell(what: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{what}");
    }
}

fn print(report: &Report) -> Result<()> {
    say!(
        "{:>14} {:>10} {:>10} {:>10} {:>16} {:>16}",
        "unfolded MiB",
        "lease ms",
        "open ms",
        "commit ms",
        "kill to commit",
        "postgresql ms"
    );
    for run in &report.runs {
        let postgres = match &run.postgres {
            Some(recovery) => format!("{:.0}", recovery.first_commit_ms),
            None => "-".to_owned(),
        };
        say!(
            "{:>14.1} {:>10.1} {:>10.1} {:>10.1} {:>16.1} {postgres:>16}",
            run.unfolded_bytes as f64 / f64::from(1 << 20),
            run.lease_wait_ms,
            run.open_ms,
            run.first_commit_ms,
            run.kill_to_first_commit_ms
        );
    }
    say!("postgresql: {}", report.postgresql);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_bytes("8MiB"), Ok(8 << 20));
        assert_eq!(parse_bytes("512KiB"), Ok(512 << 10));
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("4096"), Ok(4_096));
        for bad in ["", "MiB", "8MB", "-1", "0", "17GiB", "99999999999GiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
