//! `sixfold bench history`: clients on a real cluster under faults, and their history in a file that outside checkers read.
//!
//! The clients live in writer processes ([`super::history_writer`]). This process starts and kills them and the nodes, and
//! collects what they say; why the order of it is sound stands in `sixfold_benches::history`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use rustix::process::Signal;
use serde::Serialize;
use sixfold_benches::history::event::{Event, Planted, Workload, now_ns};
use sixfold_benches::history::file::{Collector, Counts};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::child::{OwnedChild, stop_signal};
use crate::cluster_dir::{ClusterDir, NODE_COUNT, az_of, path_text};

/// How long a writer process may take to open.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// How long one may take to end: its clients wait for their commits.
const END_LIMIT: Duration = Duration::from_secs(60);
/// How often processes are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long killed nodes stay away.
const NODES_AWAY: Duration = Duration::from_millis(500);
/// How long the new writer works before one that was stopped for long goes on.
const LONG_STOP: Duration = Duration::from_millis(300);
/// How long before one that was stopped for a moment does: a few commits.
const SHORT_STOP: Duration = Duration::from_millis(5);
/// When that one is stopped, counted from the start of the new writer's process: at another point of the takeover each time.
const SHORT_STOP_AFTER_MS: [u64; 5] = [4, 16, 8, 24, 12];
/// How long both live then.
const BOTH_FOR: Duration = Duration::from_millis(300);

/// What is done to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Fault {
    /// Nothing
    None,
    /// The writer's process is killed, another one takes over
    KillWriter,
    /// The writer's process is stopped, another one takes over, the first goes on
    PauseWriter,
    /// A storage node is killed and restarted
    KillNode,
    /// Both nodes of an availability zone are killed and restarted
    KillAz,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Fault::None => "none",
            Fault::KillWriter => "kill-writer",
            Fault::PauseWriter => "pause-writer",
            Fault::KillNode => "kill-node",
            Fault::KillAz => "kill-az",
        }
    }
}

/// Flags of `bench history`.
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// What transactions do: list-append, rw-register, or register (one read or write each)
    #[arg(long)]
    workload: Workload,
    /// Clients
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=512))]
    clients: u32,
    /// How long they work, seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=3600))]
    seconds: u64,
    /// What is done to the cluster meanwhile, in turn
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none")]
    faults: Vec<Fault>,
    /// The history
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Where to keep the cluster; must be missing or empty. Default: a temporary directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A bug of the clients, to show that a checker finds it
    #[arg(long, hide = true, default_value = "nothing")]
    planted: Planted,
}

#[derive(Debug, Serialize)]
struct Report {
    workload: &'static str,
    clients: u32,
    seconds: f64,
    faults: BTreeMap<&'static str, u64>,
    /// More events than that are not collected: it ended before its time.
    ended_early: bool,
    #[serde(flatten)]
    counts: Counts,
}

/// Runs it.
pub(super) fn run(args: &HistoryArgs) -> Result<()> {
    // Said now, not when all the work is done.
    let directory = args
        .out
        .parent()
        .filter(|path| !path.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    ensure!(
        directory.is_dir() && !args.out.is_dir(),
        "--out {}: not a file in a directory that exists",
        args.out.display()
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let report = local.block_on(&runtime, async {
        let work = async {
            let (root, _guard) = crate::demo::root_dir(args.dir.as_deref())?;
            history(args, &root).await
        };
        tokio::select! {
            // Signals are waited for before there is anything to be left behind.
            biased;
            () = stop_signal(false) => bail!("interrupted"),
            report = work => report,
        }
    })?;
    let Counts { ok, fail, info } = report.counts;
    let faults: Vec<String> = report
        .faults
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    say!(
        "{}: {ok} committed, {fail} not, {info} unknown, in {:.1} s{}; faults: {}",
        args.out.display(),
        report.seconds,
        if report.ended_early {
            ", when there were too many events"
        } else {
            ""
        },
        if faults.is_empty() {
            "none".to_owned()
        } else {
            faults.join(", ")
        },
    );
    if args.json {
        say!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

async fn history(args: &HistoryArgs, root: &Path) -> Result<Report> {
    let mut run = Run::start(args, root).await?;
    let begun = Instant::now();
    let time = Duration::from_secs(args.seconds);
    let calm = (time / 6).min(Duration::from_secs(1));
    let mut done: BTreeMap<&'static str, u64> = BTreeMap::new();
    for fault in args.faults.iter().cycle() {
        run.watch(calm).await?;
        if begun.elapsed() >= time || run.events.borrow().is_full() {
            break;
        }
        run.suffer(*fault).await?;
        if *fault != Fault::None {
            *done.entry(fault.name()).or_default() += 1;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let ended_early = run.events.borrow().is_full();
    run.say("reading everything once more");
    let mut writer = run.writer.take().context("no writer")?;
    writer.child.tell("last")?;
    writer.finish().await?;
    let events = run.events.replace(Collector::new(0));
    let counts = events.write(args.workload, &args.out)?;
    ensure!(counts.ok > 0, "no transaction was committed");
    Ok(Report {
        workload: args.workload.name(),
        clients: args.clients,
        seconds,
        faults: done,
        ended_early,
        counts,
    })
}

/// A writer process, and what reads its events.
struct Writer {
    child: OwnedChild,
    /// Ends with the process's output, however it ended.
    reader: JoinHandle<Result<()>>,
}

impl Writer {
    /// Ends its input, waits for its end and for everything that it said.
    async fn finish(self) -> Result<()> {
        self.child.finish(END_LIMIT).await?;
        self.reader.await.context("a reader failed")?
    }

    /// SIGKILL. What it said before is taken all the same.
    async fn kill(self) -> Result<()> {
        self.child.kill()?;
        self.reader.await.context("a reader failed")?
    }
}

struct Run<'a> {
    args: &'a HistoryArgs,
    dir: ClusterDir,
    nodes: Vec<(usize, OwnedChild)>,
    writer: Option<Writer>,
    next_client: u32,
    begun_ns: u64,
    events: Rc<RefCell<Collector>>,
    /// How many faults there were: nodes and zones take turns.
    turn: usize,
}

impl Run<'_> {
    async fn start<'a>(args: &'a HistoryArgs, root: &Path) -> Result<Run<'a>> {
        let dir = ClusterDir::at(root)?;
        ensure!(!dir.exists(), "{} holds a cluster already", root.display());
        dir.lay_out(64)?;
        let indexes: Vec<usize> = (0..NODE_COUNT).collect();
        let nodes = dir.start_nodes(&indexes).await?;
        let begun_ns = now_ns();
        let mut run = Run {
            args,
            dir,
            nodes,
            writer: None,
            next_client: 0,
            begun_ns,
            events: Rc::new(RefCell::new(Collector::new(begun_ns))),
            turn: 0,
        };
        run.writer = Some(run.start_writer(true).await?);
        Ok(run)
    }

    /// What is being done, for a person who waits.
    fn say(&self, what: &str) {
        if std::io::stderr().is_terminal() {
            eprintln!("{what}, {} events", self.events.borrow().len());
        }
    }

    async fn start_writer(&mut self, create: bool) -> Result<Writer> {
        let mut args = vec![
            "bench".to_owned(),
            "history-writer".to_owned(),
            format!("--cluster={}", path_text(&self.dir.cluster_file())?),
            format!("--workload={}", self.args.workload.name()),
            format!("--planted={}", self.args.planted.name()),
            format!("--first-client={}", self.next_client),
            format!("--clients={}", self.args.clients),
            format!("--begun-ns={}", self.begun_ns),
        ];
        if create {
            args.push("--create".to_owned());
        }
        if std::env::var_os("SIXFOLD_LOG").is_none() {
            // That a writer was fenced is what is asked for here, not worth a warning.
            args.push("--log=error".to_owned());
        }
        // One more reads everything at the end.
        self.next_client += self.args.clients + 1;
        let mut child = OwnedChild::start("the writer", &args)?;
        child.wait_for("opened", OPEN_LIMIT).await?;
        let lines = child.take_lines();
        let reader = tokio::task::spawn_local(collect(lines, Rc::clone(&self.events)));
        Ok(Writer { child, reader })
    }

    /// Lets the clients work; every process must live.
    async fn watch(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        loop {
            for (_, node) in &mut self.nodes {
                node.check_alive()?;
            }
            if let Some(writer) = &mut self.writer {
                writer.child.check_alive()?;
                ensure!(!writer.reader.is_finished(), "the writer said its last");
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(LOOK_INTERVAL)).await;
        }
    }

    async fn suffer(&mut self, fault: Fault) -> Result<()> {
        self.say(fault.name());
        self.turn += 1;
        match fault {
            Fault::None => Ok(()),
            Fault::KillWriter => self.kill_writer().await,
            Fault::PauseWriter => self.pause_writer().await,
            Fault::KillNode => {
                let index = self.turn * 5 % NODE_COUNT;
                let name = format!("node {}", index + 1);
                self.kill_nodes(fault, &[index], name).await
            }
            Fault::KillAz => {
                let first = self.turn % (NODE_COUNT / 2) * 2;
                self.kill_nodes(fault, &[first, first + 1], az_of(first))
                    .await
            }
        }
    }

    fn note(&self, fault: Fault, what: String) {
        self.events.borrow_mut().fault(fault.name(), what);
    }

    async fn kill_writer(&mut self) -> Result<()> {
        let writer = self.writer.take().context("no writer")?;
        self.note(Fault::KillWriter, "killed".to_owned());
        writer.kill().await?;
        self.writer = Some(self.start_writer(false).await?);
        self.note(Fault::KillWriter, "taken over".to_owned());
        Ok(())
    }

    /// SIGSTOP, a takeover, SIGCONT: the clients of the first go on as if nothing had happened, in the middle of what they did. What they
    /// read then is what read leases are for (T1). By turns the stop is long, so that the lease has run out meanwhile and the first
    /// must notice; and within the takeover, so that the new one must wait for the lease of the first.
    async fn pause_writer(&mut self) -> Result<()> {
        let mut stopped = self.writer.take().context("no writer")?;
        let long = self.turn % 2 == 1;
        let stop_after = match long {
            true => Duration::ZERO,
            false => Duration::from_millis(
                SHORT_STOP_AFTER_MS[self.turn / 2 % SHORT_STOP_AFTER_MS.len()],
            ),
        };
        let events = Rc::clone(&self.events);
        let stop = async {
            tokio::time::sleep(stop_after).await;
            events
                .borrow_mut()
                .fault(Fault::PauseWriter.name(), "stopped".to_owned());
            stopped.child.signal(Signal::STOP)
        };
        let (stop, writer) = tokio::join!(stop, self.start_writer(false));
        stop?;
        self.writer = Some(writer?);
        self.note(Fault::PauseWriter, "taken over".to_owned());
        self.watch(if long { LONG_STOP } else { SHORT_STOP })
            .await?;
        stopped.child.signal(Signal::CONT)?;
        self.note(Fault::PauseWriter, "the stopped one goes on".to_owned());
        self.watch(BOTH_FOR).await?;
        stopped.child.check_alive()?;
        stopped.finish().await
    }

    async fn kill_nodes(&mut self, fault: Fault, indexes: &[usize], name: String) -> Result<()> {
        self.note(fault, format!("{name} killed"));
        for index in indexes {
            let place = self.nodes.iter().position(|(other, _)| other == index);
            let (_, node) = self.nodes.remove(place.context("no such node")?);
            node.kill()?;
        }
        self.watch(NODES_AWAY).await?;
        self.nodes.extend(self.dir.start_nodes(indexes).await?);
        self.note(fault, format!("{name} back"));
        Ok(())
    }
}

/// Takes what a writer process says until its output ends. A kill may cut the last line: a completion that was not said whole is one that
/// was not said.
async fn collect(mut lines: mpsc::Receiver<String>, events: Rc<RefCell<Collector>>) -> Result<()> {
    while let Some(line) = lines.recv().await {
        match serde_json::from_str::<Event>(&line) {
            Ok(event) => events.borrow_mut().event(event),
            Err(error) => {
                ensure!(
                    lines.recv().await.is_none(),
                    "a writer said {line:?}: {error}"
                );
            }
        }
    }
    Ok(())
}
