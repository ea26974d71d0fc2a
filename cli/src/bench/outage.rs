//! `sixfold bench outage`: real processes, something breaks, and what the clients saw of it: commits and reads before, during and after.
//!
//! One cluster for all cases; between two of them every segment holds everything again. Only what cuts the network has a cluster of its own,
//! behind a relay, which costs latency before, during and after alike.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use rustix::process::Signal;
use serde::Serialize;
use sixfold_benches::crash::relay::{Cut, Relay};
use sixfold_benches::history::event::now_ns;
use sixfold_benches::outage::{Counts, Phase};

use super::reopen_writer::millis;
use crate::child::{OwnedChild, stop_signal};
use crate::cluster_dir::{ClusterDir, NODE_COUNT, path_text};
use crate::status::Operator;

/// How long a writer process may take to open, the first rows included.
const OPEN_LIMIT: Duration = Duration::from_secs(120);
/// How long one may take to say its numbers, or to end.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long returned nodes may take to hold everything again.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(120);
/// How often processes are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A slow node does nothing for this long, and works for this long.
const SLOW_DUTY: Duration = Duration::from_millis(50);
/// Clients that read, beside those that commit.
const READERS: usize = 4;

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// A node stands still for 50 ms of every 100 ms
    SlowNode,
    /// A node is stopped (SIGSTOP), so that its connections stay
    StoppedNode,
    /// A node is killed (SIGKILL)
    NodeKilled,
    /// Both nodes of a zone are killed
    AzGone,
    /// Both nodes of a zone and one more are killed: read-only
    AzPlusOne,
    /// The writer is killed; another process takes the volume over
    WriterFailover,
    /// The network splits, the writer with one zone: no quorum, no read lease
    WriterCutOff,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Case::SlowNode => "slow-node",
            Case::StoppedNode => "stopped-node",
            Case::NodeKilled => "node-killed",
            Case::AzGone => "az-gone",
            Case::AzPlusOne => "az-plus-one",
            Case::WriterFailover => "writer-failover",
            Case::WriterCutOff => "writer-cut-off",
        }
    }

    /// The nodes that suffer.
    fn nodes(self) -> &'static [usize] {
        match self {
            Case::SlowNode | Case::StoppedNode | Case::NodeKilled => &[2],
            Case::AzGone => &[2, 3],
            Case::AzPlusOne => &[2, 3, 5],
            Case::WriterFailover => &[],
            Case::WriterCutOff => &[2, 3, 4, 5],
        }
    }
}

/// Flags of `bench outage`.
#[derive(Debug, Args)]
pub(super) struct OutageArgs {
    /// What breaks, one after the other. Default: everything
    #[arg(long, value_enum, value_delimiter = ',')]
    cases: Vec<Case>,
    /// Clients that commit
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=512))]
    clients: u32,
    /// Length of each of the three phases, seconds; without a quorum commits are refused when connections are given up, after 3 s
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(5..=600))]
    seconds: u64,
    /// Length of the warm-up, seconds
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    warm_up_seconds: u64,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Where to keep the cluster; must be missing or empty. Default: a temporary directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A case in numbers. Percentiles are 0 where nothing was answered.
#[derive(Debug, Clone, Serialize)]
struct Row {
    case: &'static str,
    /// Commits that ended with an error, in all phases: refused and unknown ones.
    failed: u64,
    /// Of these: certainly not done.
    refused: u64,
    /// Of these: nobody knows.
    unknown: u64,
    /// Commits that the killed writer's clients waited for: their outcome is unknown, too.
    in_flight_at_kill: u64,
    answered_before: u64,
    answered_during: u64,
    answered_after: u64,
    p50_before_us: u64,
    p50_during_us: u64,
    p50_after_us: u64,
    p99_before_us: u64,
    p99_during_us: u64,
    p99_after_us: u64,
    p999_before_us: u64,
    p999_during_us: u64,
    p999_after_us: u64,
    /// For pictures: shares of the answered commits, and the latency that each stays within.
    distribution_before_us: Vec<(f64, u64)>,
    distribution_during_us: Vec<(f64, u64)>,
    reads_before: u64,
    reads_during: u64,
    reads_after: u64,
    reads_failed: u64,
    read_p99_before_us: u64,
    read_p99_during_us: u64,
    read_p99_after_us: u64,
    /// From the kill of the writer to the clients of the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    takeover_ms: Option<f64>,
}

impl Row {
    fn new(case: Case, counts: &Counts) -> Row {
        let Counts {
            before,
            during,
            after,
        } = counts;
        let refused = before.refused + during.refused + after.refused;
        let unknown = before.unknown + during.unknown + after.unknown;
        Row {
            case: case.name(),
            failed: refused + unknown,
            refused,
            unknown,
            in_flight_at_kill: 0,
            answered_before: before.answered,
            answered_during: during.answered,
            answered_after: after.answered,
            p50_before_us: before.p50_us,
            p50_during_us: during.p50_us,
            p50_after_us: after.p50_us,
            p99_before_us: before.p99_us,
            p99_during_us: during.p99_us,
            p99_after_us: after.p99_us,
            p999_before_us: before.p999_us,
            p999_during_us: during.p999_us,
            p999_after_us: after.p999_us,
            distribution_before_us: before.distribution_us.clone(),
            distribution_during_us: during.distribution_us.clone(),
            reads_before: before.reads,
            reads_during: during.reads,
            reads_after: after.reads,
            reads_failed: before.reads_failed + during.reads_failed + after.reads_failed,
            read_p99_before_us: before.read_p99_us,
            read_p99_during_us: during.read_p99_us,
            read_p99_after_us: after.read_p99_us,
            takeover_ms: None,
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    clients: u32,
    readers: usize,
    seconds: u64,
    rows: Vec<Row>,
}

/// Runs it.
pub(super) fn run(args: &OutageArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let rows = local.block_on(&runtime, async {
        let work = async {
            let (root, _guard) = crate::demo::root_dir(args.dir.as_deref())?;
            outages(args, &root).await
        };
        tokio::select! {
            // Signals are waited for before there is anything to be left behind.
            biased;
            () = stop_signal(false) => bail!("interrupted"),
            rows = work => rows,
        }
    })?;
    print(&rows)?;
    if args.json {
        let report = Report {
            clients: args.clients,
            readers: READERS,
            seconds: args.seconds,
            rows,
        };
        say!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

async fn outages(args: &OutageArgs, root: &Path) -> Result<Vec<Row>> {
    let mut bench = Bench::start(args, root, false).await?;
    let mut created = false;
    let cases = match args.cases.as_slice() {
        [] => Case::value_variants(),
        some => some,
    };
    let mut rows = Vec::with_capacity(cases.len());
    for &case in cases {
        tell(case.name());
        if bench.relay.is_some() != (case == Case::WriterCutOff) {
            // The cluster before ends first.
            let of_case = root.join(case.name());
            bench.operator.close().await;
            drop(std::mem::take(&mut bench.nodes));
            bench = Bench::start(args, &of_case, case == Case::WriterCutOff).await?;
            created = false;
        }
        let mut writer = bench.start_writer(!created, None)?;
        created = true;
        writer.wait_for("opened", OPEN_LIMIT).await?;
        bench
            .watch(&mut writer, Duration::from_secs(args.warm_up_seconds))
            .await?;
        writer.tell("phase before")?;
        bench.watch(&mut writer, bench.time()).await?;
        let row = match case {
            Case::WriterFailover => bench.failover(writer).await?,
            other => bench.outage(other, writer).await?,
        };
        rows.push(row);
        bench.until_level().await?;
    }
    bench.operator.close().await;
    Ok(rows)
}

struct Bench<'a> {
    args: &'a OutageArgs,
    dir: ClusterDir,
    nodes: Vec<(usize, OwnedChild)>,
    operator: Operator,
    /// Stands before the nodes where the network is to be cut.
    relay: Option<Relay>,
}

impl Bench<'_> {
    async fn start<'a>(args: &'a OutageArgs, root: &Path, relayed: bool) -> Result<Bench<'a>> {
        std::fs::create_dir_all(root)?;
        let dir = ClusterDir::at(root)?;
        ensure!(!dir.exists(), "{} holds a cluster already", root.display());
        dir.lay_out(64)?;
        let relay = relayed.then(|| dir.put_behind_relay()).transpose()?;
        let indexes: Vec<usize> = (0..NODE_COUNT).collect();
        let nodes = dir.start_nodes(&indexes).await?;
        let operator = Operator::new(&dir.cluster()?, "operator")?;
        Ok(Bench {
            args,
            dir,
            nodes,
            operator,
            relay,
        })
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.args.seconds)
    }

    fn start_writer(&self, create: bool, killed_ns: Option<u64>) -> Result<OwnedChild> {
        let mut args = vec![
            "bench".to_owned(),
            "outage-writer".to_owned(),
            format!("--cluster={}", path_text(&self.dir.cluster_file())?),
            format!("--clients={}", self.args.clients),
            format!("--readers={READERS}"),
        ];
        if create {
            args.push("--create".to_owned());
        }
        if let Some(killed_ns) = killed_ns {
            args.push(format!("--killed-ns={killed_ns}"));
            args.push(format!("--phase={}", Phase::During.name()));
        }
        OwnedChild::start("the writer", &args)
    }

    /// Lets the clients work; every process must live.
    async fn watch(&mut self, writer: &mut OwnedChild, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        loop {
            writer.check_alive()?;
            for (_, node) in &mut self.nodes {
                node.check_alive()?;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(LOOK_INTERVAL)).await;
        }
    }

    /// Something breaks and is mended; the writer stays.
    async fn outage(&mut self, case: Case, mut writer: OwnedChild) -> Result<Row> {
        writer.tell("phase during")?;
        match case {
            Case::SlowNode => self.slow_down(case.nodes(), &mut writer).await?,
            Case::StoppedNode => {
                self.signal(case.nodes(), Signal::STOP)?;
                self.watch(&mut writer, self.time()).await?;
                self.signal(case.nodes(), Signal::CONT)?;
            }
            Case::WriterCutOff => {
                let relay = self.relay.as_ref().context("no relay")?;
                relay.set(Cut {
                    nodes: case.nodes().iter().copied().collect(),
                    ..Cut::default()
                });
                self.watch(&mut writer, self.time()).await?;
                let relay = self.relay.as_ref().context("no relay")?;
                relay.set(Cut::default());
            }
            _ => {
                self.kill(case.nodes())?;
                self.watch(&mut writer, self.time()).await?;
                self.nodes.extend(self.dir.start_nodes(case.nodes()).await?);
            }
        }
        writer.tell("phase after")?;
        self.watch(&mut writer, self.time()).await?;
        let counts = report(&mut writer).await?;
        writer.finish(ANSWER_LIMIT).await?;
        Ok(Row::new(case, &counts))
    }

    /// The writer dies, and the clients wait for the next one.
    async fn failover(&mut self, mut writer: OwnedChild) -> Result<Row> {
        let before = report(&mut writer).await?;
        let (killed_ns, killed) = (now_ns(), Instant::now());
        writer.kill()?;
        let mut writer = self.start_writer(false, Some(killed_ns))?;
        writer.wait_for("opened", OPEN_LIMIT).await?;
        let takeover = killed.elapsed();
        self.watch(&mut writer, self.time()).await?;
        writer.tell("phase after")?;
        self.watch(&mut writer, self.time()).await?;
        let later = report(&mut writer).await?;
        writer.finish(ANSWER_LIMIT).await?;
        let counts = Counts {
            before: before.before,
            ..later
        };
        let row = Row::new(Case::WriterFailover, &counts);
        Ok(Row {
            in_flight_at_kill: u64::from(self.args.clients),
            takeover_ms: Some(millis(takeover)),
            ..row
        })
    }

    /// Stops and continues nodes in turns: what is sent to them waits up to one turn.
    async fn slow_down(&mut self, nodes: &[usize], writer: &mut OwnedChild) -> Result<()> {
        let until = Instant::now() + self.time();
        while Instant::now() < until {
            self.signal(nodes, Signal::STOP)?;
            tokio::time::sleep(SLOW_DUTY).await;
            self.signal(nodes, Signal::CONT)?;
            self.watch(writer, SLOW_DUTY).await?;
        }
        Ok(())
    }

    fn signal(&self, indexes: &[usize], signal: Signal) -> Result<()> {
        for (index, node) in &self.nodes {
            if indexes.contains(index) {
                node.signal(signal)?;
            }
        }
        Ok(())
    }

    fn kill(&mut self, indexes: &[usize]) -> Result<()> {
        for index in indexes {
            let place = self.nodes.iter().position(|(other, _)| other == index);
            let (_, node) = self.nodes.remove(place.context("no such node")?);
            node.kill()?;
        }
        Ok(())
    }

    /// Waits until all segments hold the same. Nobody writes meanwhile.
    async fn until_level(&self) -> Result<()> {
        let cluster = self.dir.cluster()?;
        let until = Instant::now() + CATCH_UP_LIMIT;
        loop {
            let mut scls = Vec::with_capacity(NODE_COUNT);
            for node in &cluster.nodes {
                // A node that has just come back may be silent for a moment.
                let status = self.operator.segment_status(node).await;
                scls.extend(status.ok().map(|status| status.scl));
            }
            if scls.len() == NODE_COUNT && scls.iter().all(|scl| *scl == scls[0]) {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "the nodes do not hold the same within {CATCH_UP_LIMIT:?}"
            );
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

async fn report(writer: &mut OwnedChild) -> Result<Counts> {
    writer.tell("report")?;
    let text = writer.wait_for("report ", ANSWER_LIMIT).await?;
    serde_json::from_str(&text).context("the writer's report cannot be read")
}

/// What is being done, for a person who waits.
fn tell(what: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{what}");
    }
}

fn print(rows: &[Row]) -> Result<()> {
    say!(
        "{:<16} {:>8} {:>8} {:>11} {:>11} {:>11} {:>9} {:>10} {:>12} {:>12}",
        "case",
        "refused",
        "unknown",
        "p99 before",
        "p99 during",
        "p99 after",
        "during",
        "reads",
        "reads failed",
        "takeover ms"
    );
    for row in rows {
        let takeover = row
            .takeover_ms
            .map_or("-".to_owned(), |ms| format!("{ms:.0}"));
        say!(
            "{:<16} {:>8} {:>8} {:>8} us {:>8} us {:>8} us {:>9} {:>10} {:>12} {takeover:>12}",
            row.case,
            row.refused,
            row.unknown + row.in_flight_at_kill,
            row.p99_before_us,
            row.p99_during_us,
            row.p99_after_us,
            row.answered_during,
            row.reads_during,
            row.reads_failed,
        );
    }
    Ok(())
}
