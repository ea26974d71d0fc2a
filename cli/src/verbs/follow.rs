//! Has an operation done by whoever writes the volume (R24): leaves it as a wish with all nodes, asks them how far it is, and leaves it again
//! where it was forgotten. When no writer is alive, this process opens the volume, does it, and closes it.

use std::io::IsTerminal;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use sixfold::{Cluster, Database, Error, Operation, OperationState, Options, Progress};
use sixfold_log_format::Manifest;
use sixfold_log_format::wire::{AskWish, LeaveHint, Message, Refusal, WishReport, WishState};

use super::hands::Hands;
use super::outcome::{Outcome, of_library, timeout_text};
use super::plan;
use crate::cluster_dir::random_bytes;

/// How often the nodes are asked.
const ASK_INTERVAL: Duration = Duration::from_millis(200);
/// A writer that no segment has heard for this long is not waited for.
const WRITER_SILENT_MS: u32 = 3_000;
/// How long the removed segments may take to be dropped before this process closes the volume again.
const DROP_LIMIT: Duration = Duration::from_secs(3);

/// Shows how far it is: a bar on a terminal, else a line for each change.
pub(crate) struct Display {
    bar: Option<ProgressBar>,
    last: String,
}

impl Display {
    /// Shows nothing yet.
    pub(crate) fn new() -> Display {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{spinner} {elapsed:>4} [{bar:30}] {pos}/{len} {msg}")
                    .expect("the template is sound");
            let bar = ProgressBar::new(1).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Display {
            bar,
            last: String::new(),
        }
    }

    /// So much of it is done.
    pub(crate) fn show(&mut self, done: u64, of: u64, text: &str) -> Result<()> {
        let line = format!("{done} of {of}: {text}");
        if line == self.last {
            return Ok(());
        }
        match &self.bar {
            Some(bar) => {
                bar.set_length(of.max(1));
                bar.set_position(done);
                bar.set_message(text.to_owned());
            }
            None => say!("{line}"),
        }
        self.last = line;
        Ok(())
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// An operation that is to be done.
pub(crate) struct Errand<'a> {
    pub(crate) verb: &'static str,
    pub(crate) cluster: &'a Cluster,
    pub(crate) hands: &'a Rc<Hands>,
    pub(crate) operation: Operation,
    pub(crate) limit: Duration,
}

/// Has it done, and says how it ended. `Err` only where nothing can be said of it.
pub(crate) async fn run(errand: &Errand<'_>) -> Result<Outcome> {
    let before = errand.hands.look().await?.manifest;
    let errand = &Errand {
        operation: named(&errand.operation, before.as_ref()),
        ..*errand
    };
    let mut display = Display::new();
    let followed = follow(errand, &mut display).await;
    display.end();
    let (state, by) = followed?;
    let mut outcome = Outcome {
        done: state.done,
        of: state.of,
        by: Some(by),
        state: match (state.is_done, state.is_refused) {
            (true, _) => "done",
            (_, true) => "refused",
            _ => "timeout",
        },
        ..Outcome::done(errand.verb, state.text)
    };
    if let (Some(before), Some(after)) = (before, errand.hands.look().await?.manifest) {
        outcome.moves = plan::difference(&before, &after);
    }
    Ok(outcome)
}

/// A growth names its result: the nodes keep the wish until they hear that it is done, and a writer that takes it over from another
/// one must not do it again.
fn named(operation: &Operation, manifest: Option<&Manifest>) -> Operation {
    match (operation, manifest) {
        (Operation::Grow, Some(manifest)) => Operation::GrowTo {
            groups: manifest.pgs.len() as u64 + 1,
        },
        (operation, _) => operation.clone(),
    }
}

async fn follow(
    errand: &Errand<'_>,
    display: &mut Display,
) -> Result<(OperationState, &'static str)> {
    let id = random_bytes()?;
    let hands = errand.hands;
    let until = Instant::now() + errand.limit;
    let wish = errand.operation.to_wish(id, hands.volume());
    let ask = Message::AskWish(AskWish {
        volume: hands.volume(),
        id,
    });
    let mut last = String::new();
    loop {
        let mut best: Option<WishReport> = None;
        for (node, answer) in hands.call_all(&ask).await? {
            match answer {
                Ok(Message::WishReport(report))
                    if best
                        .as_ref()
                        .is_none_or(|known| rank(known) < rank(&report)) =>
                {
                    best = Some(*report);
                }
                Ok(Message::Refused(Refusal::UnknownWish)) => {
                    leave(errand, &node, &wish).await;
                }
                _ => {}
            }
        }
        if let Some(report) = best.filter(|report| report.state != WishState::Open) {
            display.show(report.done, report.of, &report.text)?;
            last.clone_from(&display.last);
            let state = OperationState::from(report);
            if state.is_done || state.is_refused {
                return Ok((state, "writer"));
            }
        }
        let now = Instant::now();
        if now >= until {
            return Ok((timed_out(errand.limit, &last), "writer"));
        }
        let view = hands.look().await?;
        view.manifest()?;
        let heard = view.writer_heard_ms_ago();
        if heard.is_none_or(|ms| ms > WRITER_SILENT_MS) {
            match open_and_act(errand, id, until - now, display).await {
                Err(Error::InUse { .. } | Error::Fenced { .. }) => {}
                Err(error) => {
                    return Err(of_library(error))
                        .context("no writer is alive, and the volume does not open here");
                }
                Ok(state) => return Ok((state, "this process")),
            }
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

/// The one that knows most: of the newest writer, the furthest.
fn rank(report: &WishReport) -> (u64, u64, u64) {
    let state = match report.state {
        WishState::Open => 0,
        WishState::Working => 1,
        WishState::Done | WishState::Refused => 2,
    };
    // What is nobody's report yet counts for nothing, whatever epoch the node's segments hold.
    let epoch = if state == 0 {
        0
    } else {
        report.volume_epoch.get()
    };
    (epoch, state, report.done)
}

/// Leaves the wish with a node, and with it where the node is that is to be added. One that does not take it is asked again soon.
async fn leave(
    errand: &Errand<'_>,
    node: &sixfold::ClusterNode,
    wish: &sixfold_log_format::wire::Wish,
) {
    if let Some(hint) = errand.operation.to_hint() {
        let hint = LeaveHint {
            volume: wish.volume,
            hint,
        };
        let _silent = errand
            .hands
            .call(node, &Message::LeaveHint(Box::new(hint)))
            .await;
    }
    let _silent = errand.hands.call(node, &Message::Wish(wish.clone())).await;
}

fn timed_out(limit: Duration, last: &str) -> OperationState {
    OperationState {
        is_done: false,
        is_refused: false,
        done: 0,
        of: 0,
        text: timeout_text(limit, last),
    }
}

async fn open_and_act(
    errand: &Errand<'_>,
    id: [u8; 16],
    left: Duration,
    display: &mut Display,
) -> Result<OperationState, Error> {
    // Where the volume's nodes are is known better here than in the cluster's file.
    let mut cluster = errand.cluster.clone();
    cluster.nodes = errand.hands.nodes();
    let database = Database::open(Options::new(cluster)).await?;
    let acted = async {
        let progress = database.admin().start_as(id, &errand.operation).await?;
        watch(progress, display).await
    };
    let state = match tokio::time::timeout(left, acted).await {
        Ok(state) => state,
        Err(_) => Ok(timed_out(errand.limit, &display.last)),
    };
    if state.as_ref().is_ok_and(|state| state.is_done) {
        until_dropped(&database).await?;
    }
    database.close().await;
    state
}

/// Shows an operation of this process to its end.
pub(crate) async fn watch(
    mut progress: Progress,
    display: &mut Display,
) -> Result<OperationState, Error> {
    loop {
        let Some(state) = progress.next().await? else {
            return Err(Error::Closed {
                reason: "the operation ended unsaid".to_owned(),
            });
        };
        // Nobody reads standard output any more: the operation goes on to its end all the same.
        let _unread = display.show(state.done, state.of, &state.text);
        if state.is_done || state.is_refused {
            return Ok(state);
        }
    }
}

/// Gives the nodes of removed segments a moment to drop them. One that does not answer keeps its own until it is told.
async fn until_dropped(database: &Database) -> Result<(), Error> {
    let until = Instant::now() + DROP_LIMIT;
    while database.admin().membership().await?.leaving > 0 && Instant::now() < until {
        tokio::time::sleep(ASK_INTERVAL / 4).await;
    }
    Ok(())
}
