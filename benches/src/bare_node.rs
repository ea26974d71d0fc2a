//! A bare node: the transport and the ring of a storage node without a storage node. It appends what arrives on a stream and
//! answers with the highest sequence number that is durable. One write in flight gathers the next.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use sixfold_log_format::NodeId;
use sixfold_log_format::wire::Message;
use sixfold_storage_node::uring::{Completion, Ring, Watch};
use sixfold_storage_node_core::{DiskToken, IoBuf};
use sixfold_transport::{Connection, Endpoint, Identity, Receiver, TransportOptions};
use tokio::sync::Notify;

/// Block unit, bytes.
const BLOCK_BYTES: usize = 4096;
/// The file is written around and around; large enough that nothing is written twice within a device's cache.
pub const BARE_FILE_BYTES: u64 = 64 << 20;
/// Bytes of a sequence number in front of each message.
pub const SEQUENCE_BYTES: usize = 8;

struct Node {
    ring: RefCell<Ring>,
    file: Rc<File>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    offset: u64,
    waiting: Vec<(Rc<Log>, Bytes)>,
    /// Whose messages are in the write in flight, each with the sequence number that it brings them to.
    writing: Vec<(Rc<Log>, u64)>,
}

/// A stream's messages.
#[derive(Default)]
struct Log {
    durable_sequence: Cell<u64>,
    durable: Notify,
}

/// Makes the file that a bare node appends to: preallocated, written with zeros, synced.
///
/// # Errors
/// When the file system says so.
pub fn prepare_file(path: &Path) -> Result<File> {
    let context = || format!("cannot prepare {}", path.display());
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(context)?;
    let zeros = vec![0; 1 << 20];
    for offset in (0..BARE_FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset).with_context(context)?;
    }
    file.sync_all().with_context(context)?;
    sixfold_storage_node::open_synced(path).with_context(context)
}

/// Runs until `stop`; `ready` is told the bound address.
///
/// # Errors
/// When the socket, the ring or the file cannot be used.
pub fn run(
    listen: SocketAddr,
    node: NodeId,
    identity: &Identity,
    options: &TransportOptions,
    file: &Path,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let file = Rc::new(prepare_file(file)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let endpoint = Endpoint::server(listen, identity, options)?;
        let ring = Ring::new().context("io_uring")?;
        let watch = ring.watch()?;
        let shared = Rc::new(Node {
            ring: RefCell::new(ring),
            file,
            state: RefCell::default(),
        });
        ready(endpoint.local_address());
        let completions = tokio::task::spawn_local(Rc::clone(&shared).watch(watch));
        let accepting =
            tokio::task::spawn_local(accept(Rc::clone(&shared), endpoint.clone(), node));
        tokio::select! {
            () = stop => Ok(()),
            ended = completions => ended.context("the ring failed")?,
            ended = accepting => ended.context("accepting failed")?,
        }
    })
}

async fn accept(shared: Rc<Node>, endpoint: Endpoint, node: NodeId) -> Result<()> {
    while let Some(incoming) = endpoint.accept().await {
        let shared = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            let Ok((connection, _)) = incoming.welcome(node, 1).await else {
                return;
            };
            serve(shared, connection).await;
        });
    }
    Ok(())
}

async fn serve(shared: Rc<Node>, connection: Connection) {
    while let Ok((mut sender, receiver)) = connection.accept().await {
        let log = Rc::new(Log::default());
        let reading = tokio::task::spawn_local(read(Rc::clone(&shared), Rc::clone(&log), receiver));
        let mut answered = 0;
        while !reading.is_finished() {
            let durable = log.durable_sequence.get();
            if durable > answered {
                answered = durable;
                let answer = Message::Echo(Bytes::copy_from_slice(&answered.to_le_bytes()));
                if sender.send(&answer).await.is_err() {
                    break;
                }
            } else {
                log.durable.notified().await;
            }
        }
    }
}

async fn read(shared: Rc<Node>, log: Rc<Log>, mut receiver: Receiver) {
    while let Ok(Some(Message::Echo(bytes))) = receiver.recv().await {
        if bytes.len() < SEQUENCE_BYTES {
            break;
        }
        shared
            .state
            .borrow_mut()
            .waiting
            .push((Rc::clone(&log), bytes));
        shared.write();
    }
    log.durable.notify_one();
}

impl Node {
    /// Writes what waits, unless a write is in flight.
    fn write(&self) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if !state.writing.is_empty() || state.waiting.is_empty() {
            return;
        }
        let bytes: usize = state.waiting.iter().map(|(_, message)| message.len()).sum();
        let mut buf = IoBuf::zeroed(bytes.next_multiple_of(BLOCK_BYTES));
        let mut at = 0;
        for (log, message) in state.waiting.drain(..) {
            buf.as_mut()[at..at + message.len()].copy_from_slice(&message);
            at += message.len();
            let head = message
                .first_chunk::<SEQUENCE_BYTES>()
                .expect("short messages were refused");
            state.writing.push((log, u64::from_le_bytes(*head)));
        }
        let length = buf.as_ref().len() as u64;
        if state.offset + length > BARE_FILE_BYTES {
            state.offset = 0;
        }
        let mut ring = self.ring.borrow_mut();
        ring.write(DiskToken(0), Rc::clone(&self.file), state.offset, buf);
        state.offset += length;
        // A submission that fails comes back as a completion that says so.
        let _ = ring.submit();
    }

    async fn watch(self: Rc<Self>, watch: Watch) -> Result<()> {
        let mut ended = Vec::new();
        loop {
            watch.signaled().await?;
            self.ring.borrow_mut().reap(&mut ended)?;
            for completion in ended.drain(..) {
                let Completion::Written { result, .. } = completion else {
                    continue;
                };
                if result.is_err() {
                    bail!("a write failed");
                }
                for (log, sequence) in self.state.borrow_mut().writing.drain(..) {
                    log.durable_sequence.set(sequence);
                    log.durable.notify_one();
                }
            }
            self.write();
        }
    }
}
