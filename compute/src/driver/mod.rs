//! The driver: one thread, `sixfold-writer`, that owns the endpoint, the connections, the reopening, the writer's core and
//! all streams (F14). Nothing of it runs on the user's runtime.
//!
//! ```text
//! user threads ──Command──▶ serve ──▶ WriterCore ──actions──▶ bridge ──▶ log streams, requests ──▶ six nodes
//!      ▲                      ▲                                  │
//!      └──────one-shots───────┼──────────────────────────────────┘
//!                             └── acks, pages, lost streams: handed to the core as they arrive
//! ```
//!
//! A turn of [`serve`] handles everything at hand, then lets the core act once, then parks.

mod bridge;
pub(crate) mod clock;
pub(crate) mod commands;
mod create;
mod links;
mod log_stream;
mod machine;
pub(crate) mod meters;
mod moves;
pub(crate) mod reader;
pub(crate) mod recovery;
mod refence;
pub(crate) mod standby;
pub(crate) mod state;
mod tasks;
mod thread;
pub(crate) mod wishes;

#[cfg(test)]
mod create_tests;
#[cfg(test)]
mod serve_tests;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sixfold_compute_core::{Shared, WriterCore};
use sixfold_log_format::limits::HISTORY_RANGES_MAX;
use sixfold_transport::endpoint::EndpointError;
use sixfold_transport::{Endpoint, Identity, TransportOptions};
use tokio::sync::mpsc;

use self::bridge::Bridge;
use self::clock::VolumeClock;
use self::commands::{COMMANDS_MAX, Command};
use self::links::Links;
use self::recovery::Respect;
use self::standby::Detected;
use self::state::State;
use self::thread::{Ready, internal_error};
use crate::cluster::WRITER_IDENTITY;
use crate::error::Error;
use crate::options::Options;
use crate::standby::StandbyOptions;
use crate::stats::OpenReport;
use crate::watch_news::WatchWaker;

/// Commands taken in one turn before the core acts.
const COMMANDS_PER_TURN: usize = 1_024;

/// A node on a local network that has not answered a connection attempt by then is tried again.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// What the last step of opening is given at least.
const LAST_STEP_MIN: Duration = Duration::from_millis(500);

/// What closing may take beyond the deadline of the last commit.
const CLOSE_SLACK: Duration = Duration::from_secs(1);
/// Annulled ranges from which on it is said at each opening that there is an end to them.
const HISTORY_WARNED: usize = HISTORY_RANGES_MAX / 2;

/// How to come to an open volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    Create,
    Open(Respect),
    /// When its writer is gone; at first it only watches for so long.
    Standby(StandbyOptions, Duration),
}

/// An open volume, as the user's threads see it.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) state: Arc<State>,
    pub(crate) report: OpenReport,
    pub(crate) page_bytes: usize,
    pub(crate) clock: VolumeClock,
    pub(crate) watch_waker: WatchWaker,
    /// Of a standby.
    pub(crate) detected: Option<Detected>,
}

/// Starts the thread and waits until commits are taken. Dropping the future ends the thread.
///
/// # Errors
/// Whatever kept the volume from opening.
pub(crate) async fn start(options: Options, mode: Mode) -> Result<Started, Error> {
    options.check()?;
    if mode == Mode::Create {
        options.check_for_creation()?;
    }
    thread::start("sixfold-writer", move |ready, state| {
        main(options, mode, ready, state)
    })
    .await
}

async fn main(options: Options, mode: Mode, mut ready: Ready<Started>, state: Arc<State>) {
    let links = match connect(&options, WRITER_IDENTITY) {
        Ok(links) => links,
        Err(error) => {
            let _gone = ready.send(Err(error));
            return;
        }
    };
    let opening = async {
        match &mode {
            Mode::Standby(watch, hold) => {
                standby::open_when_gone(&links, &options, *watch, *hold, &state).await
            }
            mode => open(&links, &options, mode, &state).await,
        }
    };
    let opened = tokio::select! {
        opened = opening => opened,
        () = ready.closed() => return,
    };
    let (bridge, opening) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            links.close().await;
            let _gone = ready.send(Err(error));
            return;
        }
    };
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let started = Started {
        commands,
        shared: bridge.shared(),
        state: Arc::clone(&state),
        report: opening.report,
        page_bytes: opening.page_bytes,
        clock: opening.clock,
        watch_waker: bridge.watch_waker(),
        detected: opening.detected,
    };
    if ready.send(Ok(started)).is_ok() {
        serve(
            &bridge,
            inbox,
            options.commit_deadline.saturating_add(CLOSE_SLACK),
            &state,
        )
        .await;
    }
    bridge.links().close().await;
    for answer in bridge.take_closes() {
        let _gone = answer.send(());
    }
}

/// What opening a volume told.
struct Opening {
    report: OpenReport,
    page_bytes: usize,
    clock: VolumeClock,
    detected: Option<Detected>,
}

/// Links to the nodes of the cluster; nothing is connected yet. `identity`: the name of a certificate.
fn connect(options: &Options, identity: &str) -> Result<Rc<Links>, Error> {
    let identity = Identity::load(&options.cluster.tls_dir, identity)
        .map_err(|error| Error::config(error.to_string()))?;
    let transport = TransportOptions {
        mtu_bytes: options.mtu_bytes,
        connect_limit: CONNECT_LIMIT,
        ..TransportOptions::default()
    };
    let endpoint = Endpoint::client(&identity, &transport).map_err(|error| match error {
        EndpointError::Bind { .. } => Error::unavailable(error.to_string()),
        EndpointError::Tls(tls) => Error::config(tls.to_string()),
    })?;
    let token = options.cluster.volume_token()?;
    let links = Links::new(endpoint, &options.cluster).showing(token.as_ref());
    Ok(Rc::new(links.speaking_as(identity.role())))
}

/// From links to a volume that takes commits.
async fn open(
    links: &Rc<Links>,
    options: &Options,
    mode: &Mode,
    state: &Arc<State>,
) -> Result<(Rc<Bridge>, Opening), Error> {
    let begin = clock::now();
    let until = begin.saturating_add(options.open_deadline);
    let respect = match mode {
        Mode::Open(respect) => respect.clone(),
        _ => Respect::the_living(),
    };
    if *mode == Mode::Create {
        create::create(links, options, left(until)).await?;
    }
    let opened = recovery::recover(links, options, &respect, left(until)).await?;
    warn_of_history(opened.history.ranges.len());
    let report = OpenReport {
        volume_epoch: opened.volume_epoch,
        cut: opened.cut,
        refilled_batches: opened.refilled_batches,
        lease_wait: opened.lease_wait,
        open: Duration::ZERO,
    };
    let page_bytes = opened.manifest.parameters.page_bytes;
    let page_bytes = usize::try_from(page_bytes).expect("a page is small");
    let hints = opened.manifest.hints.clone();
    let (start, start_ms) = (clock::now(), clock::unix_ms());
    let core = WriterCore::new(opened, options.writer_bounds(), start, start_ms);
    let bridge = Rc::new(Bridge::new(
        core,
        Rc::clone(links),
        Arc::clone(state),
        options.read_deadline,
    ));
    until_open(&bridge, left(until), state).await?;
    moves::say(&bridge, options, &hints);
    let open = clock::now().saturating_sub(begin + report.lease_wait);
    let opening = Opening {
        report: OpenReport { open, ..report },
        page_bytes,
        clock: VolumeClock::new(start, start_ms),
        detected: None,
    };
    Ok((bridge, opening))
}

/// Reopenings are counted by their annulled ranges, and there is an end to them: it is said long before.
fn warn_of_history(ranges: usize) {
    if ranges >= HISTORY_WARNED {
        tracing::warn!(
            ranges,
            ranges_max = HISTORY_RANGES_MAX,
            "the volume was reopened often, and can be only so often: dump it and load it into a new one in time"
        );
    }
}

/// What is left of the time to open; a last step is given a moment, so that it fails with its own reason.
fn left(until: Duration) -> Duration {
    until.saturating_sub(clock::now()).max(LAST_STEP_MIN)
}

/// Runs the core until it takes commits: a fresh volume's first MTR must be durable.
async fn until_open(bridge: &Rc<Bridge>, limit: Duration, state: &State) -> Result<(), Error> {
    let until = clock::now().saturating_add(limit);
    let mut alarm = Alarm::new();
    loop {
        // Before the core acts: a task's panic may have left it half changed.
        if let Some(reason) = bridge.failure() {
            return Err(Error::Closed {
                reason: internal_error(&reason),
            });
        }
        bridge.tick();
        bridge.pump();
        state.check_writable()?;
        if bridge.is_open() {
            return Ok(());
        }
        if clock::now() >= until {
            let troubles = bridge.links().troubles();
            return Err(Error::unavailable(format!(
                "no write quorum took the first records in time ({troubles})"
            )));
        }
        alarm.set(earlier(bridge.core_timeout(), Some(until)));
        tokio::select! {
            biased;
            () = bridge.woken() => {}
            () = alarm.rings() => {}
        }
    }
}

/// Serves commands until the database is closed, dropped or broken.
async fn serve(
    bridge: &Rc<Bridge>,
    mut inbox: mpsc::Receiver<Command>,
    close_limit: Duration,
    state: &State,
) {
    let mut commands = Vec::with_capacity(COMMANDS_PER_TURN);
    let mut alarm = Alarm::new();
    let mut close_until = None;
    loop {
        while commands.len() < COMMANDS_PER_TURN
            && let Ok(command) = inbox.try_recv()
        {
            commands.push(command);
        }
        // Before the core acts: a task's panic may have left it half changed.
        if let Some(reason) = bridge.failure() {
            state.close(internal_error(&reason));
            return;
        }
        let busy = !commands.is_empty();
        let now = clock::now();
        for command in commands.drain(..) {
            if bridge.command(now, command) && close_until.is_none() {
                state.close("it was closed");
                close_until = Some(now.saturating_add(close_limit));
            }
        }
        bridge.tick();
        bridge.pump();
        if bridge.is_drained() || close_until.is_some_and(|until| clock::now() >= until) {
            return;
        }
        if busy && !inbox.is_empty() {
            // Let what was just sent go out, and acks come in, before the next commands are taken.
            tokio::task::yield_now().await;
            continue;
        }
        alarm.set(earlier(bridge.core_timeout(), close_until));
        tokio::select! {
            biased;
            () = bridge.woken() => {}
            count = inbox.recv_many(&mut commands, COMMANDS_PER_TURN) => {
                if count == 0 {
                    // The last handle is gone; what is in flight ends unknown, and nobody waits for it.
                    return;
                }
            }
            () = alarm.rings() => {}
        }
    }
}

fn earlier(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A timer that is touched seldom: a time that moves later does not move the timer, which then rings for nothing once.
struct Alarm {
    sleep: std::pin::Pin<Box<tokio::time::Sleep>>,
    at: Option<Duration>,
}

impl Alarm {
    fn new() -> Alarm {
        Alarm {
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            at: None,
        }
    }

    fn set(&mut self, due: Option<Duration>) {
        if let Some(due) = due
            && self.at.is_none_or(|at| due < at)
        {
            self.at = Some(due);
            self.sleep.as_mut().reset(clock::instant(due));
        }
    }

    async fn rings(&mut self) {
        if self.at.is_none() {
            std::future::pending::<()>().await;
        }
        self.sleep.as_mut().await;
        self.at = None;
    }
}
