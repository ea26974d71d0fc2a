//! The bare quorum append: clients in a closed loop, their bytes batched as a writer batches redo, sent to six
//! [bare nodes](crate::bare_node), answered when the fourth has them on disk. No tree, no transactions: what the engine is
//! measured against.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::{Hello, Message, Role};
use sixfold_transport::{Endpoint, Identity, Receiver, Sender, TransportOptions};
use tokio::sync::{Notify, oneshot};

use crate::bare_node::SEQUENCE_BYTES;
use crate::latency::Latencies;

/// Batches without a quorum at which the open one waits, as in the engine.
const BATCHES_IN_FLIGHT_MAX: u64 = 3;
/// Nodes that must have a batch.
const WRITE_QUORUM: usize = 4;

/// What a run measured.
#[derive(Debug, Clone)]
pub struct BareRun {
    /// Commits a second.
    pub commits_per_second: f64,
    /// From enqueuing to the fourth answer.
    pub latencies: Latencies,
}

#[derive(Default)]
struct State {
    /// Commits in the open batch.
    open: Vec<oneshot::Sender<()>>,
    /// Batches on their way: sequence number and commits.
    sent: VecDeque<(u64, Vec<oneshot::Sender<()>>)>,
    next_sequence: u64,
    quorum_sequence: u64,
    acknowledged: [u64; 6],
}

struct Client {
    state: RefCell<State>,
    links: Vec<Link>,
    pump: Notify,
    commit_bytes: usize,
}

#[derive(Default)]
struct Link {
    queue: RefCell<VecDeque<Bytes>>,
    wake: Notify,
}

/// Runs `clients` for `time` against six bare nodes, `commit_bytes` for each commit.
///
/// # Errors
/// When a node cannot be reached or goes away.
pub async fn run(
    identity: &Identity,
    options: &TransportOptions,
    nodes: &[(NodeId, SocketAddr)],
    clients: usize,
    commit_bytes: usize,
    time: Duration,
) -> Result<BareRun> {
    if nodes.len() != 6 {
        bail!("{} bare nodes, six are needed", nodes.len());
    }
    let endpoint = Endpoint::client(identity, options)?;
    let shared = Rc::new(Client {
        state: RefCell::default(),
        links: (0..6).map(|_| Link::default()).collect(),
        pump: Notify::new(),
        commit_bytes,
    });
    let mut tasks = tokio::task::JoinSet::new();
    let mut connections = Vec::new();
    for (index, (node, address)) in nodes.iter().enumerate() {
        let hello = Hello::new(Role::Writer, *node, None);
        let (connection, _) = endpoint.connect(*address, hello).await?;
        let (sender, receiver) = connection.open().await?;
        connections.push(connection);
        tasks.spawn_local(send(Rc::clone(&shared), index, sender));
        tasks.spawn_local(receive(Rc::clone(&shared), index, receiver));
    }
    tasks.spawn_local(pump(Rc::clone(&shared)));
    let latencies = Rc::new(RefCell::new(Latencies::default()));
    let stopping = Rc::new(Cell::new(false));
    let begun = Instant::now();
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..clients {
        load.spawn_local(one_client(
            Rc::clone(&shared),
            Rc::clone(&latencies),
            begun + time,
        ));
    }
    loop {
        tokio::select! {
            ended = load.join_next() => match ended {
                Some(ended) => ended.context("a client failed")??,
                None => break,
            },
            Some(ended) = tasks.join_next(), if !stopping.get() => {
                ended.context("a task failed")??;
                bail!("a bare node went away");
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    stopping.set(true);
    tasks.shutdown().await;
    endpoint.close().await;
    let latencies = latencies.take();
    #[allow(clippy::cast_precision_loss)] // Figures for people: 52 bits are enough.
    let commits_per_second = latencies.count() as f64 / seconds;
    Ok(BareRun {
        commits_per_second,
        latencies,
    })
}

async fn one_client(
    shared: Rc<Client>,
    latencies: Rc<RefCell<Latencies>>,
    until: Instant,
) -> Result<()> {
    while Instant::now() < until {
        let begun = Instant::now();
        let (sender, answered) = oneshot::channel();
        shared.state.borrow_mut().open.push(sender);
        shared.pump.notify_one();
        answered.await.context("the run ended under a commit")?;
        latencies.borrow_mut().record(begun.elapsed());
    }
    Ok(())
}

/// Seals the open batch whenever fewer than the bound lack their quorum.
async fn pump(shared: Rc<Client>) -> Result<()> {
    loop {
        shared.pump.notified().await;
        let mut state = shared.state.borrow_mut();
        let in_flight = state.next_sequence - state.quorum_sequence;
        if state.open.is_empty() || in_flight >= BATCHES_IN_FLIGHT_MAX {
            continue;
        }
        state.next_sequence += 1;
        let sequence = state.next_sequence;
        let commits = std::mem::take(&mut state.open);
        let mut batch = BytesMut::zeroed(SEQUENCE_BYTES + commits.len() * shared.commit_bytes);
        batch[..SEQUENCE_BYTES].as_mut().put_u64_le(sequence);
        state.sent.push_back((sequence, commits));
        let batch = batch.freeze();
        for link in &shared.links {
            link.queue.borrow_mut().push_back(batch.clone());
            link.wake.notify_one();
        }
    }
}

async fn send(shared: Rc<Client>, index: usize, mut sender: Sender) -> Result<()> {
    let link = &shared.links[index];
    loop {
        let next = link.queue.borrow_mut().pop_front();
        match next {
            Some(batch) => sender.send(&Message::Echo(batch)).await?,
            None => link.wake.notified().await,
        }
    }
}

async fn receive(shared: Rc<Client>, index: usize, mut receiver: Receiver) -> Result<()> {
    while let Some(message) = receiver.recv().await? {
        let Message::Echo(bytes) = message else {
            bail!("a bare node said something else")
        };
        let sequence = u64::from_le_bytes(
            *bytes
                .first_chunk::<SEQUENCE_BYTES>()
                .context("a short answer")?,
        );
        let mut state = shared.state.borrow_mut();
        state.acknowledged[index] = sequence;
        let mut sorted = state.acknowledged;
        sorted.sort_unstable_by(|left, right| right.cmp(left));
        state.quorum_sequence = sorted[WRITE_QUORUM - 1];
        while state
            .sent
            .front()
            .is_some_and(|(sequence, _)| *sequence <= state.quorum_sequence)
        {
            let (_, commits) = state.sent.pop_front().expect("just looked at");
            for commit in commits {
                // A client that is gone does not wait any more.
                let _ = commit.send(());
            }
        }
        shared.pump.notify_one();
    }
    Ok(())
}
