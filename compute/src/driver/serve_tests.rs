use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use sixfold_compute_core::{
    AttachKey, CommitError, CommitRequest, WriteSet, WriterCore, WriterEvent,
};
use sixfold_log_format::wire::{Message, Refusal, Role};
use sixfold_log_format::{History, Lsn, PgId, SegmentId, VolumeEpoch, WriterId};
use sixfold_recovery::machine::Opened;
use sixfold_transport::{ClusterCa, Endpoint, TransportOptions};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::bridge::Bridge;
use super::commands::{Command, Holds};
use super::links::Links;
use super::state::State;
use super::{clock, create, serve};
use crate::{Cluster, ClusterNode, Error, Options};

/// Bounds every wait; timing decides nothing.
const LIMIT: Duration = Duration::from_secs(30);

struct Driver {
    bridge: Rc<Bridge>,
    state: Arc<State>,
    commands: mpsc::Sender<Command>,
    inbox: Option<mpsc::Receiver<Command>>,
}

/// A driver of a volume whose nodes cannot be reached.
fn alone() -> Driver {
    let node = |index: u16| {
        // Ports that nobody listens on: what was sent there is lost.
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1 + index));
        ClusterNode::new(format!("az{}", index / 2 + 1), address)
    };
    let cluster = Cluster::new((0..6).map(node).collect(), "tls");
    let options = Options::new(cluster);
    let mut minted = 0;
    let nodes = options.cluster().nodes.iter();
    let hosts: Vec<_> = nodes.map(|node| node.node).collect();
    let manifest = create::first_manifest(&options, &hosts, None, || {
        minted += 1;
        SegmentId::from_bytes([minted; 16])
    });
    let opened = Opened {
        volume_epoch: VolumeEpoch::new(2),
        writer: WriterId::from_bytes([7; 16]),
        history: History::creation(),
        manifest,
        vdl: Lsn::new(1_000),
        cut: Lsn::new(900),
        // Written before, so that it is open at once.
        pg_last: vec![(PgId::ROOT, Lsn::new(900))],
        scls: Vec::new(),
        lease_wait: Duration::ZERO,
        refilled_batches: 0,
    };
    let core = WriterCore::new(
        opened,
        options.writer_bounds(),
        clock::now(),
        clock::unix_ms(),
    );
    let identity = ClusterCa::generate()
        .unwrap()
        .issue(Role::Writer, None)
        .unwrap();
    let endpoint = Endpoint::client(&identity, &TransportOptions::default()).unwrap();
    let links = Rc::new(Links::new(endpoint, options.cluster()));
    let state = Arc::new(State::default());
    let bridge = Rc::new(Bridge::new(core, links, Arc::clone(&state), LIMIT));
    let (commands, inbox) = mpsc::channel(8);
    Driver {
        bridge,
        state,
        commands,
        inbox: Some(inbox),
    }
}

impl Driver {
    /// Serves until it ends by itself.
    async fn serve(&mut self, close_limit: Duration) {
        let inbox = self.inbox.take().unwrap();
        let serving = serve(&self.bridge, inbox, close_limit, &self.state);
        tokio::time::timeout(LIMIT, serving)
            .await
            .expect("it ends in time");
    }

    fn commit(
        &self,
        deadline: Duration,
    ) -> oneshot::Receiver<(Result<Lsn, CommitError>, Duration)> {
        let read_point = Arc::new(self.bridge.shared().announce());
        let mut writes = WriteSet::new();
        writes.put("\x01key".into(), Bytes::from_static(b"value"));
        let room = Arc::new(Semaphore::new(1));
        let room = room.try_acquire_owned().unwrap();
        let request = CommitRequest {
            read_point: read_point.lsn(),
            writes,
            deadline: clock::now() + deadline,
            ..CommitRequest::default()
        };
        let (answer, answered) = oneshot::channel();
        self.commands
            .try_send(Command::Commit {
                request,
                holds: Holds { read_point, room },
                answer,
            })
            .unwrap();
        answered
    }
}

/// Runs a test where the driver's tasks can run.
fn run(test: impl AsyncFnOnce(Driver)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        test(alone()).await;
    });
}

#[test]
fn a_panic_of_a_task_closes_the_database_and_says_why() {
    run(async |mut driver| {
        driver
            .bridge
            .spawn(async { panic!("page {} is upside down", 7) });
        driver.serve(LIMIT).await;
        let Err(Error::Closed { reason }) = driver.state.check_open() else {
            panic!("closed")
        };
        assert_eq!(reason, "internal error: page 7 is upside down");
    });
}

#[test]
fn a_core_that_panicked_hears_and_does_nothing_any_more() {
    run(async |mut driver| {
        // Both would be answered by the next turn.
        let mut before = driver.commit(Duration::ZERO);
        let inbox = driver.inbox.as_mut().unwrap();
        let command = inbox.try_recv().unwrap();
        driver.bridge.command(clock::now(), command);
        let mut behind = driver.commit(Duration::ZERO);
        driver.bridge.spawn(async { panic!("in the middle") });
        while driver.bridge.failure().is_none() {
            tokio::task::yield_now().await;
        }
        let bridge = Rc::clone(&driver.bridge);
        bridge.event(WriterEvent::Close);
        assert!(bridge.is_open(), "it did not hear of the close");
        driver.serve(LIMIT).await;
        assert!(before.try_recv().is_err(), "the core did not act");
        assert!(behind.try_recv().is_err(), "the core was told nothing");
        assert!(matches!(
            driver.state.check_open(),
            Err(Error::Closed { .. })
        ));
    });
}

#[test]
fn the_driver_ends_with_its_last_handle() {
    run(async |mut driver| {
        let (commands, _kept) = mpsc::channel(1);
        drop(std::mem::replace(&mut driver.commands, commands));
        driver.serve(LIMIT).await;
    });
}

#[test]
fn a_close_answers_what_was_committed_before_and_waits_no_longer_than_its_limit() {
    run(async |mut driver| {
        let answered = driver.commit(Duration::from_millis(100));
        let (answer, closed) = oneshot::channel();
        driver.commands.try_send(Command::Close { answer }).unwrap();
        driver.serve(LIMIT).await;
        assert!(matches!(
            answered.await,
            Ok((Err(CommitError::Unavailable { .. }), _))
        ));
        assert!(matches!(
            driver.state.check_open(),
            Err(Error::Closed { .. })
        ));
        for answer in driver.bridge.take_closes() {
            answer.send(()).unwrap();
        }
        closed.await.unwrap();
    });
    run(async |mut driver| {
        let mut answered = driver.commit(LIMIT * 10);
        let (answer, _closed) = oneshot::channel();
        driver.commands.try_send(Command::Close { answer }).unwrap();
        driver.serve(Duration::from_millis(50)).await;
        assert!(answered.try_recv().is_err(), "nobody could answer it");
    });
}

/// Sees how the database stands at the moment when an answer comes.
struct Look {
    state: Arc<State>,
    was_fenced: AtomicBool,
}

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        self.was_fenced
            .store(self.state.is_fenced(), Ordering::Relaxed);
    }
}

#[test]
fn who_gets_no_lease_from_a_fenced_writer_finds_that_it_is_fenced() {
    run(async |driver| {
        driver.bridge.pump();
        let (answer, mut answered) = oneshot::channel();
        let deadline = clock::now() + LIMIT;
        let want = Command::WantLease { deadline, answer };
        driver.bridge.command(clock::now(), want);
        let look = Arc::new(Look {
            state: Arc::clone(&driver.state),
            was_fenced: AtomicBool::new(false),
        });
        let waker = Waker::from(Arc::clone(&look));
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut answered).poll(&mut context).is_pending());
        let volume_epoch = VolumeEpoch::new(3);
        for attach in 1..=3 {
            driver.bridge.event(WriterEvent::Attached {
                attach: AttachKey(attach),
                message: Message::Refused(Refusal::StaleEpoch { volume_epoch }),
            });
        }
        driver.bridge.pump();
        assert_eq!(answered.try_recv(), Ok(false));
        assert!(look.was_fenced.load(Ordering::Relaxed));
        assert_eq!(
            driver.state.check_writable(),
            Err(Error::Fenced { volume_epoch })
        );
    });
}
