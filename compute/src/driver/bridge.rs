//! Between the writer's core and the world: carries out its actions, brings it events, and remembers who waits for what.
//!
//! All of it lives on the driver's thread. Tasks hand events to the core as they happen and wake the pump, which runs after
//! all tasks that are ready by then: one reaction to many events.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sixfold_compute_core::{
    AttachKey, CommitError, CommitTicket, FetchError, FetchTicket, LogAnswer, LogError, RoundError,
    Shared, WriterAction, WriterCore, WriterEvent, WriterStats,
};
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{Message, NodeStatus, Wish};
use sixfold_log_format::{Lsn, NodeId, Page, VolumeEpoch};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use super::clock;
use super::commands::{Command, CommitAnswer, Holds};
use super::links::Links;
use super::log_stream::LogStream;
use super::meters::SealTimes;
use super::refence::refence;
use super::state::State;
use super::tasks::caught;
use super::wishes::{WishNews, WishWaiters};
use crate::watch_news::{WatchNews, WatchWaker};

/// How long a node may take to say how it is.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// The core and everything that it asked for.
#[derive(Debug)]
pub(crate) struct Bridge {
    core: RefCell<WriterCore>,
    links: Rc<Links>,
    state: Arc<State>,
    wake: Notify,
    waiting: RefCell<Waiting>,
    seals: RefCell<SealTimes>,
    wishes: RefCell<WishWaiters>,
    streams: RefCell<HashMap<AttachKey, LogStream>>,
    ask_limit: Duration,
    drained: Cell<bool>,
    failure: RefCell<Option<String>>,
    shared: Arc<Shared>,
    news: WatchNews,
    /// Epochs that this process claimed to open its volume again in place.
    attempts: RefCell<BTreeSet<VolumeEpoch>>,
}

type FetchAnswer = oneshot::Sender<Result<Vec<Arc<Page>>, FetchError>>;
type LogReadAnswer = oneshot::Sender<Result<LogAnswer, LogError>>;
type RoundAnswer = oneshot::Sender<Result<Lsn, RoundError>>;

/// Who waits for the core's answers. Bounded by the core: it answers each ticket by its deadline.
#[derive(Debug, Default)]
struct Waiting {
    last_ticket: u64,
    commits: Commits,
    fetches: HashMap<FetchTicket, (Duration, FetchAnswer)>,
    rounds: HashMap<FetchTicket, RoundAnswer>,
    log_reads: HashMap<FetchTicket, LogReadAnswer>,
    leases: HashMap<FetchTicket, oneshot::Sender<bool>>,
    closes: Vec<oneshot::Sender<()>>,
}

/// A commit that is on its way.
#[derive(Debug)]
struct CommitWaiting {
    /// Held, not read.
    _holds: Holds,
    answer: CommitAnswer,
    /// When the core was given it.
    since: Duration,
}

/// Commits that are on their way. A ticket is a place, which is used again as soon as it was answered: there are many of them. It says
/// for the how-many-eth time the place is used, so that an answer given twice is no other commit's.
#[derive(Debug, Default)]
struct Commits {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Place {
    uses: u32,
    waiting: Option<CommitWaiting>,
}

impl Commits {
    fn insert(&mut self, waiting: CommitWaiting) -> CommitTicket {
        let number = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("there are fewer commits than that at once")
        });
        let place = &mut self.places[number as usize];
        place.uses = place.uses.wrapping_add(1);
        place.waiting = Some(waiting);
        CommitTicket(u64::from(place.uses) << 32 | u64::from(number))
    }

    fn remove(&mut self, ticket: CommitTicket) -> CommitWaiting {
        let (uses, number) = (ticket.0 >> 32, ticket.0 & u64::from(u32::MAX));
        let number = u32::try_from(number).expect("it has 32 bits");
        let place = &mut self.places[number as usize];
        assert_eq!(u64::from(place.uses), uses, "a commit is answered once");
        let waiting = place.waiting.take();
        let waiting = waiting.expect("a commit is answered once");
        self.free.push(number);
        waiting
    }
}

impl Waiting {
    fn next_ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }
}

impl Bridge {
    pub(crate) fn new(
        core: WriterCore,
        links: Rc<Links>,
        state: Arc<State>,
        ask_limit: Duration,
    ) -> Bridge {
        Bridge {
            shared: core.shared(),
            core: RefCell::new(core),
            links,
            state,
            wake: Notify::new(),
            waiting: RefCell::default(),
            seals: RefCell::default(),
            wishes: RefCell::default(),
            streams: RefCell::default(),
            ask_limit,
            drained: Cell::new(false),
            failure: RefCell::new(None),
            news: WatchNews::default(),
            attempts: RefCell::default(),
        }
    }

    /// What readers share with the core.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// What wakes watchers.
    pub(crate) fn watch_waker(&self) -> WatchWaker {
        self.news.waker()
    }

    pub(crate) fn links(&self) -> &Rc<Links> {
        &self.links
    }

    /// Hands an event to the core and wakes the pump. After a failure the core hears nothing any more: a panic may have left
    /// it half changed.
    pub(crate) fn event(&self, event: WriterEvent) {
        if self.has_failed() {
            return;
        }
        self.core.borrow_mut().handle(clock::now(), event);
        self.wake.notify_one();
    }

    /// A stream ended by itself; said once.
    pub(crate) fn stream_lost(&self, attach: AttachKey) {
        let stream = self.streams.borrow_mut().remove(&attach);
        if stream.is_some() {
            self.event(WriterEvent::Lost { attach });
        }
    }

    /// Resolves when an event was handed in since the last pump.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Runs a task. When it panics, the database closes.
    pub(crate) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) -> AbortHandle {
        let bridge = Rc::clone(self);
        let watched = async move {
            if let Err(panic) = caught(task).await {
                bridge.fail(panic);
            }
        };
        tokio::task::spawn_local(watched).abort_handle()
    }

    fn fail(&self, reason: String) {
        self.failure.borrow_mut().get_or_insert(reason);
        self.wake.notify_one();
    }

    /// Why the database must close now, if it must.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Whether everything is answered after a close.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.get()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.core.borrow().is_open()
    }

    pub(crate) fn core_timeout(&self) -> Option<Duration> {
        self.core.borrow().poll_timeout()
    }

    /// Takes those who wait for the close.
    pub(crate) fn take_closes(&self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut self.waiting.borrow_mut().closes)
    }

    /// Hands a command of the user's threads to the core. Returns true when it asks to close.
    pub(crate) fn command(self: &Rc<Self>, now: Duration, command: Command) -> bool {
        let event = {
            let mut waiting = self.waiting.borrow_mut();
            match command {
                Command::Commit {
                    request,
                    holds,
                    answer,
                } => {
                    let ticket = waiting.commits.insert(CommitWaiting {
                        _holds: holds,
                        answer,
                        since: now,
                    });
                    WriterEvent::Commit { ticket, request }
                }
                Command::Fetch { answer, .. } if answer.is_closed() => return false,
                Command::Fetch {
                    pages,
                    lsn,
                    deadline,
                    answer,
                } => {
                    let ticket = FetchTicket(waiting.next_ticket());
                    waiting.fetches.insert(ticket, (now, answer));
                    WriterEvent::Fetch {
                        ticket,
                        pages,
                        lsn,
                        deadline,
                    }
                }
                Command::RoundDown {
                    lsn,
                    deadline,
                    answer,
                } => {
                    let ticket = FetchTicket(waiting.next_ticket());
                    waiting.rounds.insert(ticket, answer);
                    WriterEvent::RoundDown {
                        ticket,
                        lsn,
                        deadline,
                    }
                }
                Command::ReadLog {
                    want,
                    deadline,
                    answer,
                } => {
                    let ticket = FetchTicket(waiting.next_ticket());
                    waiting.log_reads.insert(ticket, answer);
                    WriterEvent::ReadLog {
                        ticket,
                        want,
                        deadline,
                    }
                }
                Command::Pause { until, answer } => {
                    self.spawn(async move {
                        tokio::time::sleep_until(clock::instant(until)).await;
                        let _gone = answer.send(());
                    });
                    return false;
                }
                Command::WantLease { deadline, answer } => {
                    let ticket = FetchTicket(waiting.next_ticket());
                    waiting.leases.insert(ticket, answer);
                    WriterEvent::WantLease { ticket, deadline }
                }
                Command::Wish {
                    wish,
                    hint,
                    reports,
                    answer,
                } => {
                    self.wish(now, wish, hint, reports);
                    let _gone = answer.send(());
                    return false;
                }
                Command::Stats { answer } => {
                    let _gone = answer.send((self.stats(), self.links.wire_stats()));
                    return false;
                }
                Command::AskNodes { answer } => {
                    self.ask_nodes(answer);
                    return false;
                }
                Command::Close { answer } => {
                    waiting.closes.push(answer);
                    if waiting.closes.len() > 1 {
                        return true;
                    }
                    WriterEvent::Close
                }
            }
        };
        let close = matches!(event, WriterEvent::Close);
        self.core.borrow_mut().handle(now, event);
        close
    }

    /// Tells the core that its time has come, if it has.
    pub(crate) fn tick(&self) {
        let due = self.core_timeout();
        if due.is_some_and(|due| due <= clock::now()) {
            self.core
                .borrow_mut()
                .handle(clock::now(), WriterEvent::Timeout);
        }
    }

    /// Carries out what the core wants done.
    pub(crate) fn pump(self: &Rc<Self>) {
        // What is sent and answered in this turn is so now: one look at the clock for all of it.
        let now = clock::now();
        loop {
            let action = self.core.borrow_mut().poll_action();
            let Some(action) = action else { break };
            self.perform(now, action);
        }
        self.news.tell(clock::now(), self.shared.vdl());
    }

    fn perform(self: &Rc<Self>, now: Duration, action: WriterAction) {
        match action {
            WriterAction::Attach {
                attach,
                node,
                segment: _,
                message,
            } => {
                let stream = LogStream::begin(self, attach, node, message);
                self.streams.borrow_mut().insert(attach, stream);
            }
            WriterAction::Detach { attach } => {
                self.streams.borrow_mut().remove(&attach);
            }
            WriterAction::Send { attach, message } => {
                // A stream that was lost meanwhile: the core has been told, or will be.
                if let Some(stream) = self.streams.borrow().get(&attach) {
                    if matches!(message, Message::Append(_)) {
                        let sealed = self.core.borrow().sealed_through();
                        self.seals.borrow_mut().sealed(sealed, now);
                    }
                    stream.send(now, message);
                }
            }
            WriterAction::Ask {
                fetch,
                node,
                message,
            } => {
                let bridge = Rc::clone(self);
                self.spawn(async move {
                    let answer = bridge.links.call(node, &message, bridge.ask_limit).await;
                    bridge.event(WriterEvent::Answered {
                        fetch,
                        answer: answer.ok(),
                    });
                });
            }
            WriterAction::Committed { ticket, result } => {
                let waiting = self.waiting.borrow_mut().commits.remove(ticket);
                self.commit_answered(now, waiting, result);
            }
            WriterAction::Fetched { ticket, result } => {
                let (since, answer) = self
                    .waiting
                    .borrow_mut()
                    .fetches
                    .remove(&ticket)
                    .expect("a fetch is answered once");
                self.state.meters.fetch.count(now.saturating_sub(since));
                let _gone = answer.send(result);
            }
            WriterAction::Rounded { ticket, result } => {
                let answer = self
                    .waiting
                    .borrow_mut()
                    .rounds
                    .remove(&ticket)
                    .expect("a rounding is answered once");
                let _gone = answer.send(result);
            }
            WriterAction::LogRead { ticket, result } => {
                let answer = self
                    .waiting
                    .borrow_mut()
                    .log_reads
                    .remove(&ticket)
                    .expect("a log read is answered once");
                let _gone = answer.send(result);
            }
            WriterAction::Leased { ticket, held } => {
                // Whoever gets no lease looks why, and does so before the end of this turn.
                if let Some(volume_epoch) = self.core.borrow().fenced_by() {
                    self.state.fence(volume_epoch);
                }
                let answer = self
                    .waiting
                    .borrow_mut()
                    .leases
                    .remove(&ticket)
                    .expect("a lease is answered once");
                let _gone = answer.send(held);
            }
            WriterAction::Fenced { volume_epoch } => {
                tracing::warn!(%volume_epoch, "fenced by another writer: this one commits nothing any more; end it or open again");
                self.state.fence(volume_epoch);
                self.news.wake();
            }
            WriterAction::Refence => {
                let bridge = Rc::clone(self);
                self.spawn(async move {
                    let volume_epoch = bridge.core.borrow().volume_epoch();
                    let mut attempts = bridge.attempts.take();
                    let volume = bridge.links.volume();
                    let result = refence(&bridge.links, volume, volume_epoch, &mut attempts).await;
                    bridge.attempts.replace(attempts);
                    bridge.event(WriterEvent::Refenced { result });
                });
            }
            WriterAction::Fleet { hints } => self.links.learn(&hints),
            WriterAction::WishReported { report } => self.wishes.borrow_mut().tell(&report),
            WriterAction::Drained => self.drained.set(true),
        }
    }

    /// Answers a commit, and counts where its time went. A commit whose token was done before has an older LSN: it has no parts.
    fn commit_answered(
        &self,
        now: Duration,
        waiting: CommitWaiting,
        result: Result<Lsn, CommitError>,
    ) {
        if let Ok(lsn) = result
            && let Some(sealed) = self.seals.borrow_mut().of(lsn)
            && sealed >= waiting.since
        {
            let (seal, quorum) = (sealed - waiting.since, now.saturating_sub(sealed));
            self.state.meters.seal.count(seal);
            self.state.meters.quorum.count(quorum);
            tracing::trace!(target: "sixfold::commit", %lsn, ?seal, ?quorum, "durable");
        }
        let _gone = waiting.answer.send((result, now));
    }

    /// How long things take.
    pub(crate) fn meters(&self) -> &super::meters::Meters {
        &self.state.meters
    }

    /// Hands a wish of this process to the core, which reports on it.
    fn wish(&self, now: Duration, wish: Wish, hint: Option<NodeHint>, news: WishNews) {
        let id = wish.id;
        self.core
            .borrow_mut()
            .handle(now, WriterEvent::Wish { wish, hint });
        let reports = self.stats().membership.wishes;
        let report = reports.into_iter().find(|report| report.id == id);
        self.wishes.borrow_mut().wait(news, report);
    }

    fn stats(&self) -> WriterStats {
        self.core.borrow().stats()
    }

    fn ask_nodes(self: &Rc<Self>, answer: oneshot::Sender<Vec<(NodeId, Option<NodeStatus>)>>) {
        let nodes = self.links.nodes();
        let bridge = Rc::clone(self);
        self.spawn(async move {
            let asked: Vec<_> = nodes
                .into_iter()
                .map(|node| {
                    let (tell, told) = oneshot::channel();
                    let links = Rc::clone(&bridge.links);
                    bridge.spawn(async move {
                        let status = match links.call(node, &Message::AskStatus, STATUS_LIMIT).await
                        {
                            Ok(Message::NodeStatus(status)) => Some(status),
                            _ => None,
                        };
                        let _gone = tell.send(status);
                    });
                    (node, told)
                })
                .collect();
            let mut statuses = Vec::with_capacity(asked.len());
            for (node, told) in asked {
                statuses.push((node, told.await.ok().flatten()));
            }
            let _gone = answer.send(statuses);
        });
    }
}
