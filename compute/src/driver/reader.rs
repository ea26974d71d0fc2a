//! The thread of a read-only volume, `sixfold-reader`: a survey, then one *view* for each point that is read, over the same
//! connections. It claims nothing and attaches to nobody.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sixfold_compute_core::{FetchError, FetchKey, FetchTicket, ReaderAction, ReaderCore};
use sixfold_log_format::wire::Message;
use sixfold_log_format::{Lsn, Page};
use sixfold_recovery::machine::survey::Surveyed;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};

use super::commands::{COMMANDS_MAX, Command};
use super::links::Links;
use super::state::State;
use super::thread::{self, Ready};
use super::{Started, VolumeClock, clock, connect, recovery};
use crate::cluster::{READER_IDENTITY, WRITER_IDENTITY};
use crate::error::Error;
use crate::options::Options;
use crate::stats::OpenReport;
use crate::watch_news::WatchNews;

/// Views that may be asked for at a time; who asks beyond waits.
const AGAIN_MAX: usize = 16;
/// Between two surveys for one view whose segments have moved on.
const RENEW_PAUSE: Duration = Duration::from_millis(100);

/// A view that is open.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) started: Started,
    pub(crate) lsn: Lsn,
    pub(crate) settled: bool,
    pub(crate) again: mpsc::Sender<Again>,
}

/// Asks for a view of now.
pub(crate) type Again = oneshot::Sender<Result<Reading, Error>>;

/// Starts the thread and waits for the first view. Dropping the future ends the thread.
///
/// # Errors
/// Whatever kept the volume from being read.
pub(crate) async fn start(options: Options) -> Result<Reading, Error> {
    options.check()?;
    thread::start("sixfold-reader", move |ready, state| {
        main(options, ready, state)
    })
    .await
}

/// What all views share.
struct Family {
    options: Options,
    links: Rc<Links>,
    state: Arc<State>,
}

async fn main(options: Options, mut ready: Ready<Reading>, state: Arc<State>) {
    // A reader's own certificate has no power to write; where there is none, the writer's does.
    let own = options
        .cluster
        .tls_dir
        .join(format!("{READER_IDENTITY}.pem"));
    let identity = if own.exists() {
        READER_IDENTITY
    } else {
        WRITER_IDENTITY
    };
    let links = match connect(&options, identity) {
        Ok(links) => links,
        Err(error) => {
            let _gone = ready.send(Err(error));
            return;
        }
    };
    let family = Rc::new(Family {
        options,
        links,
        state,
    });
    let (again, mut asked) = mpsc::channel(AGAIN_MAX);
    let first = tokio::select! {
        view = View::begin(&family, again) => view,
        () = ready.closed() => return,
    };
    let mut views = JoinSet::new();
    match first {
        Ok((reading, view)) => {
            let weak = reading.again.downgrade();
            if ready.send(Ok(reading)).is_ok() {
                views.spawn_local(view.serve());
                serve_all(&family, &weak, &mut asked, views).await;
            }
            family.links.close().await;
        }
        Err(error) => {
            family.links.close().await;
            let _gone = ready.send(Err(error));
        }
    }
}

/// Until the last view is gone.
async fn serve_all(
    family: &Rc<Family>,
    again: &mpsc::WeakSender<Again>,
    asked: &mut mpsc::Receiver<Again>,
    mut views: JoinSet<()>,
) {
    let mut more = true;
    while more || !views.is_empty() {
        tokio::select! {
            request = asked.recv(), if more => {
                // Whoever asks holds a view, and with it a sender.
                match request.and_then(|answer| Some((answer, again.upgrade()?))) {
                    Some((answer, again)) => {
                        let family = Rc::clone(family);
                        views.spawn_local(open_again(family, again, answer));
                    }
                    None => more = false,
                }
            }
            Some(ended) = views.join_next() => same_thread(ended),
        }
    }
}

async fn open_again(family: Rc<Family>, again: mpsc::Sender<Again>, mut answer: Again) {
    let begun = tokio::select! {
        begun = View::begin(&family, again) => begun,
        () = answer.closed() => return,
    };
    match begun {
        Ok((reading, view)) => {
            if answer.send(Ok(reading)).is_ok() {
                view.serve().await;
            }
        }
        Err(error) => {
            let _gone = answer.send(Err(error));
        }
    }
}

/// A task's panic is this thread's.
fn same_thread<T>(ended: Result<T, JoinError>) -> T {
    match ended {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

type FetchAnswer = oneshot::Sender<Result<Vec<Arc<Page>>, FetchError>>;

/// One point that is read.
struct View {
    family: Rc<Family>,
    core: ReaderCore,
    inbox: mpsc::Receiver<Command>,
    fetches: HashMap<FetchTicket, FetchAnswer>,
    last_ticket: u64,
    asks: JoinSet<(FetchKey, Option<Message>)>,
    /// At most one.
    surveys: JoinSet<Result<Surveyed, Error>>,
    survey_not_before: Duration,
}

impl View {
    async fn begin(
        family: &Rc<Family>,
        again: mpsc::Sender<Again>,
    ) -> Result<(Reading, View), Error> {
        let begin = clock::now();
        let Family { options, links, .. } = &**family;
        let surveyed = recovery::survey(links, options, options.open_deadline).await?;
        if surveyed.pg_last.iter().all(|&(_, last)| last.is_none()) {
            return Err(Error::unavailable(
                "the volume holds nothing yet: its creation is not finished",
            ));
        }
        let report = OpenReport {
            volume_epoch: surveyed.history.volume_epoch,
            cut: surveyed.lsn,
            refilled_batches: 0,
            lease_wait: Duration::ZERO,
            open: clock::now().saturating_sub(begin),
        };
        let (lsn, settled) = (surveyed.lsn, surveyed.settled);
        let page_bytes = surveyed.manifest.parameters.page_bytes;
        let page_bytes = usize::try_from(page_bytes).expect("a page is small");
        let core = ReaderCore::new(surveyed, options.cache_bytes, clock::now());
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let started = Started {
            commands,
            shared: core.shared(),
            state: Arc::clone(&family.state),
            report,
            page_bytes,
            clock: VolumeClock::new(clock::now(), clock::unix_ms()),
            watch_waker: WatchNews::default().waker(),
            detected: None,
        };
        let reading = Reading {
            started,
            lsn,
            settled,
            again,
        };
        let view = View {
            family: Rc::clone(family),
            core,
            inbox,
            fetches: HashMap::new(),
            last_ticket: 0,
            asks: JoinSet::new(),
            surveys: JoinSet::new(),
            survey_not_before: Duration::ZERO,
        };
        Ok((reading, view))
    }

    /// Serves reads until nobody holds the view any more, or it is closed.
    async fn serve(mut self) {
        loop {
            self.pump();
            let due = self.core.poll_timeout().map(clock::instant);
            let pause = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(ended) = self.asks.join_next() => {
                    let (fetch, answer) = same_thread(ended);
                    self.core.answered(clock::now(), fetch, answer);
                }
                Some(ended) = self.surveys.join_next() => self.surveyed(same_thread(ended)),
                command = self.inbox.recv() => {
                    let Some(command) = command else { return };
                    if let Some(answer) = self.take(command) {
                        self.family.state.close("it was closed");
                        self.family.links.close().await;
                        let _gone = answer.send(());
                        return;
                    }
                }
                () = pause => self.core.tick(clock::now()),
            }
        }
    }

    /// Takes a command; whoever wants it closed is returned.
    fn take(&mut self, command: Command) -> Option<oneshot::Sender<()>> {
        match command {
            Command::Fetch { answer, .. } if answer.is_closed() => None,
            Command::Fetch {
                pages,
                lsn,
                deadline,
                answer,
            } => {
                self.last_ticket += 1;
                let ticket = FetchTicket(self.last_ticket);
                self.fetches.insert(ticket, answer);
                self.core.fetch(clock::now(), ticket, &pages, lsn, deadline);
                None
            }
            Command::Close { answer } => Some(answer),
            // A read-only handle has no method that asks for anything else.
            _ => None,
        }
    }

    fn pump(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                ReaderAction::Ask {
                    fetch,
                    node,
                    message,
                } => {
                    let links = Rc::clone(&self.family.links);
                    let limit = self.family.options.read_deadline;
                    self.asks.spawn_local(async move {
                        (fetch, links.call(node, &message, limit).await.ok())
                    });
                }
                ReaderAction::Fetched { ticket, result } => {
                    let answer = self.fetches.remove(&ticket);
                    let answer = answer.expect("a fetch is answered once");
                    let _gone = answer.send(result);
                }
            }
        }
        let wanted = self.core.is_outdated() && self.surveys.is_empty();
        if wanted && clock::now() >= self.survey_not_before {
            let family = Rc::clone(&self.family);
            self.surveys.spawn_local(async move {
                let limit = family.options.open_deadline;
                recovery::survey(&family.links, &family.options, limit).await
            });
        }
    }

    fn surveyed(&mut self, result: Result<Surveyed, Error>) {
        let now = clock::now();
        self.survey_not_before = now.saturating_add(RENEW_PAUSE);
        match result {
            Ok(surveyed) => {
                if !self.core.renew(now, surveyed) {
                    tracing::warn!(
                        "the point that is read was annulled by a later reopening: reads fail from here on, refresh the reader"
                    );
                }
            }
            Err(error) => {
                tracing::info!(%error, "the volume has moved on and cannot be surveyed now");
                self.core.not_renewed();
            }
        }
    }
}
