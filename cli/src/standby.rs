//! `sixfold standby`: follows the writer of a volume, and becomes the writer when it is gone. It then holds the volume until another
//! writer takes it over, and follows that one.
//!
//! A line is printed for each thing that happens, or a JSON object with `--json`:
//!
//! | line | fields |
//! |---|---|
//! | `following` | |
//! | `opened` | `volume_epoch`, `detected_ms`, `open_ms`, `lease_wait_ms`, `first_commit_ms` (absent when that commit was not answered) |
//! | `fenced` | |

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sixfold::{Database, FailoverReport, Options, StandbyOptions};

use crate::child::stop_signal;
use crate::cluster_dir::{ClusterDir, SettingArgs};
use crate::observe::collect::Slot;
use crate::observe::{ServeArgs, Source};

/// How often a writer looks whether it is fenced.
const FENCE_INTERVAL: Duration = Duration::from_millis(100);

/// Flags of `standby`.
#[derive(Debug, Args)]
pub(crate) struct StandbyArgs {
    /// Where the cluster is kept
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// For how long the writer must have been silent, milliseconds [default: patience_ms of the table standby of cluster.toml, else 1000]
    #[arg(long, value_name = "MS")]
    patience_ms: Option<u64>,
    /// How often the nodes are asked while all is well, milliseconds [default: poll_ms of that table, else 200]
    #[arg(long, value_name = "MS")]
    poll_ms: Option<u64>,
    /// Print JSON objects
    #[arg(long)]
    json: bool,
    /// End when this process is no longer the writer, instead of following the next one
    #[arg(long)]
    once: bool,
    /// End when standard input ends
    #[arg(long)]
    stop_with_stdin: bool,
    #[command(flatten)]
    settings: SettingArgs,
    #[command(flatten)]
    serve: ServeArgs,
}

/// Something that happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Following,
    Opened {
        volume_epoch: u64,
        detected_ms: u64,
        open_ms: u64,
        lease_wait_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        first_commit_ms: Option<u64>,
    },
    Fenced,
}

impl Event {
    fn opened(database: &Database, report: FailoverReport) -> Event {
        Event::Opened {
            volume_epoch: database.open_report().volume_epoch.get(),
            detected_ms: report.detected_ms(),
            open_ms: report.open_ms(),
            lease_wait_ms: report.lease_wait_ms(),
            first_commit_ms: report.first_commit_ms(),
        }
    }

    fn text(&self) -> String {
        match self {
            Event::Following => "following".to_owned(),
            Event::Opened {
                volume_epoch,
                detected_ms,
                open_ms,
                lease_wait_ms,
                first_commit_ms,
            } => {
                let commit = first_commit_ms.map_or("not answered in time".to_owned(), |ms| {
                    format!("after {ms} ms")
                });
                format!(
                    "opened epoch {volume_epoch}: writer silent for {detected_ms} ms, open after {open_ms} ms and {lease_wait_ms} ms of lease, first commit {commit}"
                )
            }
            Event::Fenced => "fenced".to_owned(),
        }
    }

    fn print(&self, args: &StandbyArgs) -> Result<()> {
        if args.json {
            say!("{}", serde_json::to_string(self)?);
        } else {
            say!("{}", self.text());
        }
        Ok(())
    }
}

/// Follows, opens and holds, until it is told to end.
pub(crate) fn run(args: &StandbyArgs) -> Result<()> {
    let dir = ClusterDir::at(&args.dir)?;
    let options = dir.options(&args.settings)?;
    let mut watch = dir.standby_options(&args.settings)?;
    if let Some(ms) = args.patience_ms {
        watch = watch.patience(Duration::from_millis(ms));
    }
    if let Some(ms) = args.poll_ms {
        watch = watch.poll(Duration::from_millis(ms));
    }
    let slot = Slot::default();
    let source = Source::Writer {
        slot: slot.clone(),
        cluster: options.cluster().clone(),
    };
    let _served = args.serve.serve("standby", source)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut held = None;
        let ended = tokio::select! {
            // Signals are waited for before there is anything to be left behind.
            biased;
            () = stop_signal(args.stop_with_stdin) => Ok(()),
            ended = follow(args, options, watch, (&mut held, &slot)) => ended,
        };
        if let Some(database) = held {
            database.close().await;
        }
        ended
    })
}

async fn follow(
    args: &StandbyArgs,
    options: Options,
    watch: StandbyOptions,
    (held, slot): (&mut Option<Database>, &Slot),
) -> Result<()> {
    let mut standby = Database::standby(options, watch);
    loop {
        Event::Following.print(args)?;
        let (database, report) = standby.opened().await?;
        Event::opened(&database, report).print(args)?;
        *held = Some(database.clone());
        slot.set(Some(database.clone()));
        while !database.is_fenced() {
            tokio::time::sleep(FENCE_INTERVAL).await;
        }
        Event::Fenced.print(args)?;
        *held = None;
        slot.set(None);
        database.close().await;
        if args.once {
            return Ok(());
        }
    }
}
