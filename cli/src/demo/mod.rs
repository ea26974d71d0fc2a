//! `sixfold demo`: the main job on real processes. Six nodes, load, a lost zone, a killed writer, a reopening, and a check of
//! every answered commit.

mod check;
mod record;
mod report;
mod work;
pub(crate) mod writer;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sixfold::{Cluster, Database, Options};
use sixfold_log_format::{Lsn, VolumeEpoch};

use self::report::Measured;
use self::writer::{OpenedReport, WriterReport};
use crate::child::{OwnedChild, stop_signal};
use crate::cluster_dir::{ClusterDir, LOOPBACK_MTU_BYTES, NODE_COUNT, az_of, path_text};
use crate::status::Operator;

/// How long a writer process may take to open, or to load the first rows.
const WRITER_LIMIT: Duration = Duration::from_secs(30);
/// How long returned nodes may take to hold everything again.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);
/// How often children are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The zone that is lost: nodes 3 and 4.
const LOST_ZONE: [usize; 2] = [2, 3];

/// Flags of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where to keep the cluster; must be missing or empty. Default: a temporary directory, removed at the end
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How long the load runs, seconds, over all phases
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(4..=600))]
    seconds: u64,
    /// Clients
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    clients: u32,
    /// Chunks of 250 rows of 100 bytes to begin with
    #[arg(long, default_value_t = 1_500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    chunks: u64,
    /// How often the writer is killed and the volume reopened
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    kills: u32,
    /// Serve metrics, health and the console of whichever writer runs over HTTP at this address (HOST:PORT)
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// Runs the demo. Whatever way it ends, children are killed and reaped by their guards.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let summary = runtime.block_on(async {
        let work = async {
            let (root, _guard) = root_dir(args.dir.as_deref())?;
            demo(args, &root).await
        };
        tokio::select! {
            // Signals are waited for before there is anything to be left behind.
            biased;
            () = stop_signal(false) => bail!("interrupted"),
            summary = work => summary,
        }
    })?;
    if args.json {
        say!("{}", serde_json::to_string(&summary)?);
    }
    ensure!(
        report::is_good(&summary),
        "commits were lost, torn, or failed in the outage"
    );
    Ok(())
}

/// The directory of a cluster that lives as long as a run: the one named, which stays, or a temporary one, which goes with its
/// guard.
pub(crate) fn root_dir(named: Option<&Path>) -> Result<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(dir) = named {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        return Ok((dir.to_owned(), None));
    }
    let temporary = temporary_dir()?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

/// A directory on a real file system: a tmpfs may lack `O_DIRECT`.
fn temporary_dir() -> Result<tempfile::TempDir> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let here = std::env::current_dir().context("no current directory")?;
    for parent in [std::env::temp_dir(), PathBuf::from("/var/tmp"), here] {
        let on_tmpfs = rustix::fs::statfs(&parent).is_ok_and(|stat| stat.f_type == TMPFS_MAGIC);
        if parent.is_dir() && !on_tmpfs {
            return tempfile::Builder::new()
                .prefix("sixfold-demo-")
                .tempdir_in(&parent)
                .with_context(|| format!("cannot make a directory in {}", parent.display()));
        }
    }
    bail!("no temporary directory on a real file system; name one with --dir")
}

/// The demo's state between steps.
struct Demo<'a> {
    args: &'a DemoArgs,
    dir: ClusterDir,
    cluster: Cluster,
    nodes: Vec<(usize, OwnedChild)>,
    operator: Operator,
    record: PathBuf,
    progress: ProgressBar,
    /// The last numbers of the writer process that runs, kept in case it is killed.
    last_report: WriterReport,
}

async fn demo(args: &DemoArgs, root: &Path) -> Result<report::Summary> {
    let mut demo = Demo::start(args, root).await?;
    let share = Duration::from_secs(args.seconds) / 5;
    let mut writers = Vec::new();

    let (mut first, first_opened) = demo.start_writer(Some(args.chunks), 0).await?;
    demo.say("loading the first rows");
    first.wait_for("loaded", WRITER_LIMIT).await?;
    first.tell("phase healthy")?;
    let healthy = Instant::now();
    demo.load(&mut first, share * 2, "six nodes, load").await?;
    let healthy_seconds = healthy.elapsed().as_secs_f64();

    first.tell("phase outage")?;
    demo.kill_zone()?;
    demo.load(
        &mut first,
        share,
        "both nodes of az2 are killed; commits go on",
    )
    .await?;
    let catch_up = demo.restart_zone(&mut first).await?;
    first.tell("phase rejoin")?;
    demo.load(&mut first, share / 2, "az2 is back").await?;

    let mut reopening = None;
    let (mut writer, mut opened) = (first, first_opened);
    for kill in 1..=args.kills {
        writer.tell("phase crash")?;
        demo.load(&mut writer, share / 2, "the writer is about to be killed")
            .await?;
        let unfolded_bytes = demo.kill_writer(writer, &mut writers).await?;
        let old_epoch = VolumeEpoch::new(opened.volume_epoch);
        (writer, opened) = demo.start_writer(None, kill * (args.clients + 1)).await?;
        check::old_epoch_is_refused(&demo.cluster, old_epoch)
            .await
            .context("attaching with the old writer's epoch")?;
        reopening = Some((unfolded_bytes, opened.clone()));
    }
    let (unfolded_bytes, reopened) = reopening.context("no writer was killed")?;
    demo.load(&mut writer, share, "the new writer, load")
        .await?;
    demo.note_reports(&mut writer);
    writer.finish(WRITER_LIMIT).await?;
    writers.push(std::mem::take(&mut demo.last_report));

    demo.say("checking every answered commit");
    let lines = record::read(&demo.record)?;
    let options = Options::new(demo.cluster.clone()).mtu_bytes(LOOPBACK_MTU_BYTES);
    let database = Database::take_over(options).await?;
    let findings = check::check(&database, &lines).await?;
    database.close().await;
    demo.progress.finish_and_clear();

    let measured = Measured {
        nodes: NODE_COUNT,
        healthy_seconds,
        unfolded_bytes,
        catch_up_ms: catch_up.as_secs_f64() * 1_000.0,
        reopened,
        writers,
        findings,
    };
    let phases = report::by_phase(&lines);
    let summary = report::summarize(&measured, &phases);
    report::print_table(&measured, &phases, &summary)?;
    Ok(summary)
}

impl Demo<'_> {
    async fn start<'a>(args: &'a DemoArgs, root: &Path) -> Result<Demo<'a>> {
        let dir = ClusterDir::at(root)?;
        ensure!(!dir.exists(), "{} holds a cluster already", root.display());
        dir.lay_out(64)?;
        let cluster = dir.cluster()?;
        let progress = if std::io::stderr().is_terminal() {
            ProgressBar::new_spinner().with_style(
                ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}")
                    .expect("the template is sound"),
            )
        } else {
            ProgressBar::hidden()
        };
        progress.enable_steady_tick(Duration::from_millis(100));
        progress.set_message("starting six storage nodes");
        let indexes: Vec<usize> = (0..NODE_COUNT).collect();
        let nodes = dir.start_nodes(&indexes).await?;
        let operator = Operator::new(&cluster, "operator")?;
        let record = root.join("answered.log");
        Ok(Demo {
            args,
            dir,
            cluster,
            nodes,
            operator,
            record,
            progress,
            last_report: WriterReport::default(),
        })
    }

    fn say(&self, what: &str) {
        self.progress.set_message(what.to_owned());
    }

    async fn start_writer(
        &self,
        create_chunks: Option<u64>,
        first_client: u32,
    ) -> Result<(OwnedChild, OpenedReport)> {
        let mut args = vec![
            "demo-writer".to_owned(),
            format!("--cluster={}", path_text(&self.dir.cluster_file())?),
            format!("--record={}", path_text(&self.record)?),
            format!("--clients={}", self.args.clients),
            format!("--first-client={first_client}"),
        ];
        args.extend(create_chunks.map(|chunks| format!("--create-chunks={chunks}")));
        // The one before it is dead: its address is free.
        let metrics = self.args.metrics;
        args.extend(metrics.map(|address| format!("--metrics={address}")));
        let mut writer = OwnedChild::start("the writer", &args)?;
        let opened = writer.wait_for("opened ", WRITER_LIMIT).await?;
        let opened = serde_json::from_str(&opened).context("the writer's report cannot be read")?;
        Ok((writer, opened))
    }

    /// Lets the load run; every process must live.
    async fn load(&mut self, writer: &mut OwnedChild, time: Duration, what: &str) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            writer.check_alive()?;
            for (_, node) in &mut self.nodes {
                node.check_alive()?;
            }
            self.note_reports(writer);
            self.say(&format!(
                "{what}: {} commits answered, {} failed",
                self.last_report.answered, self.last_report.failed
            ));
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    fn note_reports(&mut self, writer: &mut OwnedChild) {
        let lines = writer.lines_at_hand();
        let newest = lines
            .iter()
            .rev()
            .find_map(|line| line.strip_prefix("stats "));
        if let Some(report) = newest.and_then(|text| serde_json::from_str(text).ok()) {
            self.last_report = report;
        }
    }

    /// SIGKILL for the writer, under load. Returns how much redo no node had folded by then.
    async fn kill_writer(
        &mut self,
        mut writer: OwnedChild,
        reports: &mut Vec<WriterReport>,
    ) -> Result<u64> {
        self.note_reports(&mut writer);
        writer.kill()?;
        reports.push(std::mem::take(&mut self.last_report));
        self.say("a new writer takes the volume over");
        self.unfolded_bytes().await
    }

    /// SIGKILL for both nodes of a zone, under load.
    fn kill_zone(&mut self) -> Result<()> {
        for index in LOST_ZONE {
            let place = self
                .nodes
                .iter()
                .position(|(other, _)| *other == index)
                .context("no such node")?;
            let (_, node) = self.nodes.remove(place);
            node.kill()?;
        }
        Ok(())
    }

    /// Starts them again and waits, under load, until they hold what the others held when they came back.
    async fn restart_zone(&mut self, writer: &mut OwnedChild) -> Result<Duration> {
        let back = self.dir.start_nodes(&LOST_ZONE).await?;
        self.nodes.extend(back);
        let begun = Instant::now();
        let target = self.scl(0).await?;
        for index in LOST_ZONE {
            while self.scl(index).await? < target {
                ensure!(
                    begun.elapsed() < CATCH_UP_LIMIT,
                    "node {} of {} does not catch up",
                    index + 1,
                    az_of(index)
                );
                self.load(writer, LOOK_INTERVAL, "az2 catches up").await?;
            }
        }
        Ok(begun.elapsed())
    }

    async fn scl(&self, index: usize) -> Result<Lsn> {
        Ok(self
            .operator
            .segment_status(&self.cluster.nodes[index])
            .await?
            .scl)
    }

    /// Redo that is in no image of a page, at the node that has most of it folded.
    async fn unfolded_bytes(&self) -> Result<u64> {
        let mut least = u64::MAX;
        for node in &self.cluster.nodes {
            least = least.min(self.operator.segment_status(node).await?.unfolded_bytes);
        }
        Ok(least)
    }
}
