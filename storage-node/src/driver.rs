//! Drives the core: events in, actions out, on the one thread of the node.
//!
//! Whoever has an event calls [`Driver::handle`], which runs the core and does its actions before it returns; the ring is
//! entered once for all of them. No call waits and none calls back, so that the one `RefCell` is never borrowed twice.
//! Decides nothing: what cannot be done is told to the core as a failed operation.

mod report;
mod watches;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sixfold_log_format::hot_log::FileNumber;
use sixfold_log_format::wire::{Message, WIRE_VERSION_MIN};
use sixfold_log_format::{TokenDigest, VolumeId};
use sixfold_storage_node_core::{
    Action, ConnectionKey, DiskError, DiskToken, Event, FileName, IoBuf, NodeCore, PeerToken,
    Severity, StreamKey,
};
use sixfold_transport::{Connection, Endpoint};
use tokio::sync::Notify;

use self::report::WriteTimes;
use self::watches::{watch_clock, watch_ring, watch_space};
use crate::device::Device;
use crate::error::NodeError;
use crate::failure::Failure;
use crate::layers::{Answer, LayerKey, Layers, Waiting};
use crate::outbox::{Full, Outbox};
use crate::peers::Peers;
use crate::uring::{Completion, Ring, disk_error};

/// Time since an arbitrary start, time in suspension included: what the core counts in.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).expect("the clock counts from the machine's start");
    let nanoseconds = u32::try_from(time.tv_nsec).expect("below a second");
    Duration::new(seconds, nanoseconds)
}

/// How often the core is told how much room the file system has.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// What the driver acts through.
pub(crate) struct Shell {
    pub(crate) ring: Ring,
    pub(crate) device: Device,
    pub(crate) layers: Layers,
    pub(crate) endpoint: Endpoint,
    pub(crate) failure: Rc<Failure>,
}

/// The core and its surroundings, for every task of the node.
pub(crate) struct Driver {
    state: RefCell<State>,
    failure: Rc<Failure>,
    /// The timer has to look again.
    timer_changed: Rc<Notify>,
    ready: Rc<Notify>,
}

struct State {
    core: NodeCore,
    ring: Ring,
    device: Device,
    layers: Layers,
    peers: Rc<Peers>,
    failure: Rc<Failure>,
    streams: BTreeMap<StreamKey, Stream>,
    connections: BTreeMap<ConnectionKey, Connection>,
    keys: u64,
    queued_bytes: Rc<Cell<usize>>,
    /// Operations that ended at once, to be told after the actions.
    ended: VecDeque<Event>,
    completions: Vec<Completion>,
    writes: WriteTimes,
    /// What the core asked to have done outside, to be spawned after the borrow.
    outside: Vec<Outside>,
    /// When the timer task will wake.
    armed: Option<Duration>,
    halted: bool,
}

struct Stream {
    connection: ConnectionKey,
    outbox: Rc<Outbox>,
}

/// Work that takes a task of its own.
enum Outside {
    Open {
        key: LayerKey,
        answer: Answer<File>,
    },
    Sync {
        token: DiskToken,
        answer: Answer<()>,
    },
    Prepare {
        file: FileNumber,
        bytes: u64,
    },
    Recycle {
        file: FileNumber,
        answer: Answer<File>,
    },
    Ask {
        token: PeerToken,
        node: sixfold_log_format::NodeId,
        address: String,
        message: Box<Message>,
    },
}

impl Driver {
    /// Starts the core, the timer and the watch on the ring.
    pub(crate) fn start(core: NodeCore, shell: Shell) -> Result<Rc<Driver>, NodeError> {
        let watch = shell
            .ring
            .watch()
            .map_err(|source| NodeError::Ring { source })?;
        let failure = shell.failure;
        let data_dir = shell.device.data_dir();
        let driver = Rc::new(Driver {
            state: RefCell::new(State {
                core,
                ring: shell.ring,
                device: shell.device,
                layers: shell.layers,
                peers: Rc::new(Peers::new(shell.endpoint, Rc::clone(&failure))),
                failure: Rc::clone(&failure),
                streams: BTreeMap::new(),
                connections: BTreeMap::new(),
                keys: 0,
                queued_bytes: Rc::default(),
                ended: VecDeque::new(),
                completions: Vec::new(),
                writes: WriteTimes::default(),
                outside: Vec::new(),
                armed: None,
                halted: false,
            }),
            failure: Rc::clone(&failure),
            timer_changed: Rc::default(),
            ready: Rc::default(),
        });
        failure.spawn(watch_ring(Rc::clone(&driver), watch));
        failure.spawn(watch_clock(Rc::clone(&driver)));
        failure.spawn(watch_space(Rc::clone(&driver), data_dir));
        driver.run(None);
        Ok(driver)
    }

    /// Tells the core what happened and does what it asks for.
    pub(crate) fn handle(self: &Rc<Self>, event: Event) {
        self.run(Some(event));
    }

    fn run(self: &Rc<Self>, event: Option<Event>) {
        // After a failure nothing may be acknowledged, and after a panic the core is in no defined state.
        if self.failure.is_set() {
            return;
        }
        let mut state = self.state.borrow_mut();
        if state.halted {
            return;
        }
        let is_told = event.is_some();
        if let Some(event) = event {
            state.core.handle(now(), event);
        }
        state.pump();
        // What the core put off while completions were acknowledged is done beside the next write, which was just submitted; whoever
        // needs it sooner does it himself.
        if is_told && state.core.is_behind() {
            state.rest();
        }
        let due = state.core.poll_timeout();
        let sooner = match (due, state.armed) {
            (Some(due), Some(armed)) => due < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if sooner {
            state.armed = due;
            self.timer_changed.notify_one();
        }
        if state.core.is_ready() {
            self.ready.notify_one();
        }
        let outside = std::mem::take(&mut state.outside);
        for work in outside {
            self.start_outside(&state, work);
        }
    }

    fn start_outside(self: &Rc<Self>, state: &State, work: Outside) {
        let driver = Rc::clone(self);
        match work {
            Outside::Open { key, answer } => {
                self.failure.spawn(async move {
                    let result = told(answer).await;
                    driver.layer_opened(key, result);
                });
            }
            Outside::Sync { token, answer } => {
                self.failure.spawn(async move {
                    let result = told(answer).await;
                    driver.handle(Event::Written { token, result });
                });
            }
            Outside::Prepare { file, bytes } => {
                let preparation = state.device.preparation(file, bytes);
                let helper = tokio::task::spawn_blocking(move || preparation.run());
                self.failure.spawn(async move {
                    match helper.await {
                        Ok(result) => driver.prepared(file, result),
                        Err(error) if error.is_panic() => driver.failure.set(NodeError::Panicked),
                        // The runtime is going away.
                        Err(_) => {}
                    }
                });
            }
            Outside::Recycle { file, answer } => {
                self.failure.spawn(async move {
                    let result = told(answer).await;
                    driver.prepared(file, result);
                });
            }
            Outside::Ask {
                token,
                node,
                address,
                message,
            } => {
                let peers = Rc::clone(&state.peers);
                self.failure.spawn(async move {
                    let answer = peers.ask(node, &address, &message).await;
                    driver.handle(Event::PeerAnswer { token, answer });
                });
            }
        }
    }

    fn prepared(self: &Rc<Self>, number: FileNumber, result: Result<File, DiskError>) {
        let result = result.map(|file| self.state.borrow_mut().device.add(number, file));
        self.handle(Event::Prepared {
            file: number,
            result,
        });
    }

    fn layer_opened(self: &Rc<Self>, key: LayerKey, result: Result<File, DiskError>) {
        {
            let state = &mut *self.state.borrow_mut();
            let file = result.map(Rc::new);
            for waiting in state.layers.opened(key, file.as_ref().ok()) {
                match &file {
                    Ok(file) => state.start(waiting, Rc::clone(file)),
                    Err(error) => state.ended.push_back(failed(&waiting, *error)),
                }
            }
        }
        self.run(None);
    }

    /// Returns when the core has read its hot log.
    pub(crate) async fn ready(&self) {
        self.ready.notified().await;
    }

    /// Nothing is done any more, whatever happens.
    pub(crate) fn halt(&self) {
        self.state.borrow_mut().halted = true;
    }

    /// Takes in a connection.
    pub(crate) fn add_connection(
        self: &Rc<Self>,
        connection: Connection,
        shown: Option<(VolumeId, TokenDigest)>,
    ) -> ConnectionKey {
        let key = {
            let mut state = self.state.borrow_mut();
            let key = ConnectionKey(state.next_key());
            state.connections.insert(key, connection);
            key
        };
        if shown.is_some() {
            let connection = key;
            self.handle(Event::Connected { connection, shown });
        }
        key
    }

    /// Forgets a connection; its streams end by themselves.
    pub(crate) fn remove_connection(self: &Rc<Self>, key: ConnectionKey) {
        self.state.borrow_mut().connections.remove(&key);
        self.handle(Event::Disconnected { connection: key });
    }

    /// Takes in a stream.
    pub(crate) fn add_stream(&self, connection: ConnectionKey) -> (StreamKey, Rc<Outbox>) {
        let mut state = self.state.borrow_mut();
        let key = StreamKey(state.next_key());
        let outbox = Rc::new(Outbox::new(Rc::clone(&state.queued_bytes)));
        state.streams.insert(
            key,
            Stream {
                connection,
                outbox: Rc::clone(&outbox),
            },
        );
        (key, outbox)
    }

    /// Forgets a stream and tells the core.
    pub(crate) fn remove_stream(self: &Rc<Self>, stream: StreamKey) {
        if let Some(stream) = self.state.borrow_mut().streams.remove(&stream) {
            stream.outbox.cut();
        }
        self.handle(Event::StreamClosed { stream });
    }

    /// The spawner of tasks that take the node down when they panic.
    pub(crate) fn failure(&self) -> &Rc<Failure> {
        &self.failure
    }
}

impl State {
    fn next_key(&mut self) -> u64 {
        self.keys += 1;
        self.keys
    }

    /// Does actions and tells completions until there is neither.
    fn pump(&mut self) {
        loop {
            // The poll that finds no action is left to `rest`: it does what may wait until acks have left.
            while self.core.has_action()
                && let Some(action) = self.core.poll_action()
            {
                self.perform(action);
                if self.halted {
                    return;
                }
            }
            if let Err(error) = self
                .ring
                .submit()
                .and_then(|()| self.ring.reap(&mut self.completions))
            {
                return self.fail(NodeError::Ring { source: error });
            }
            if self.completions.is_empty() && self.ended.is_empty() {
                return;
            }
            let now = now();
            while let Some(event) = self.ended.pop_front() {
                self.core.handle(now, event);
            }
            for completion in self.completions.drain(..) {
                self.writes.ended(now, &completion);
                self.core.handle(now, completion.into());
            }
        }
    }

    /// Lets the core do what it put off until all actions are done.
    fn rest(&mut self) {
        if self.halted {
            return;
        }
        let action = self.core.poll_action();
        assert!(action.is_none(), "each run does every action");
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Send {
                stream,
                message,
                end,
            } => self.send(stream, &message, end),
            Action::Disconnect { connection } => self.disconnect(connection, "protocol violation"),
            Action::Write {
                token,
                file,
                offset,
                bytes,
            } => match file {
                FileName::HotLog(file) => self.append(token, file, offset, bytes),
                FileName::Layer(segment, layer) => {
                    let write = Waiting::Write {
                        token,
                        offset,
                        bytes,
                    };
                    self.layer((segment, layer), write);
                }
            },
            Action::Read {
                token,
                file,
                offset,
                bytes,
            } => match file {
                FileName::HotLog(file) => match self.device.file(file) {
                    Some(file) => self.ring.read(token, file, offset, bytes),
                    None => self.ended.push_back(Event::Read {
                        token,
                        result: Err(missing(file)),
                    }),
                },
                FileName::Layer(segment, layer) => {
                    let read = Waiting::Read {
                        token,
                        offset,
                        bytes,
                    };
                    self.layer((segment, layer), read);
                }
            },
            Action::Sync {
                token,
                segment,
                layer,
            } => {
                let answer = self.layers.sync((segment, layer));
                self.outside.push(Outside::Sync { token, answer });
            }
            Action::Delete { file } => self.delete(file),
            Action::SetAside { file } => match file {
                FileName::Layer(segment, layer) => {
                    let waiting = self.layers.set_aside((segment, layer));
                    self.abandon(&waiting);
                }
                FileName::HotLog(file) => {
                    tracing::error!(
                        file = file.0,
                        "a hot-log file was to be set aside, a bug: nothing was done; report it"
                    );
                }
            },
            Action::Prepare {
                file,
                bytes,
                from: None,
            } => self.outside.push(Outside::Prepare { file, bytes }),
            Action::Prepare {
                file,
                from: Some(from),
                ..
            } => self.recycle(file, from),
            Action::AskPeer {
                token,
                node,
                address,
                message,
            } => {
                self.outside.push(Outside::Ask {
                    token,
                    node,
                    address,
                    message: Box::new(message),
                });
            }
            Action::Log { severity, text } => match severity {
                Severity::Info => tracing::info!("{text}"),
                Severity::Warning => tracing::warn!("{text}"),
                Severity::Error => tracing::error!("{text}"),
            },
            Action::Stop { reason } => self.fail(NodeError::Stopped { reason }),
        }
    }

    /// What the peer of a stream speaks.
    fn wire_of(&self, stream: StreamKey) -> u16 {
        let connection = self.streams.get(&stream).map(|stream| stream.connection);
        let connection = connection.and_then(|key| self.connections.get(&key));
        connection.map_or(WIRE_VERSION_MIN, Connection::wire)
    }

    fn send(&mut self, key: StreamKey, message: &Message, end: bool) {
        let mut frame = match message {
            Message::Refused(_) => message.for_wire(self.wire_of(key)).encode(),
            message => message.encode(),
        };
        loop {
            let Some(stream) = self.streams.get(&key) else {
                return;
            };
            match stream.outbox.push(frame) {
                Ok(()) if end => return stream.outbox.end(),
                Ok(()) => return,
                Err(Full::Stream) => {
                    let connection = stream.connection;
                    return self.disconnect(connection, "answers are not read");
                }
                // Not the one who happens to push is to blame: it may be a writer's ack.
                Err(Full::Total(back)) => {
                    frame = back;
                    let heaviest = self.heaviest_connection();
                    self.disconnect(heaviest, "too many answers are not read");
                }
            }
        }
    }

    /// The connection with most bytes waiting. Called when there are some.
    fn heaviest_connection(&self) -> ConnectionKey {
        let mut bytes: BTreeMap<ConnectionKey, usize> = BTreeMap::new();
        for stream in self.streams.values() {
            *bytes.entry(stream.connection).or_default() += stream.outbox.queued_bytes();
        }
        let heaviest = bytes.into_iter().max_by_key(|(_, bytes)| *bytes);
        let (connection, bytes) = heaviest.expect("the bytes are those of some stream");
        assert!(bytes > 0, "bytes are counted that no stream holds");
        connection
    }

    fn disconnect(&mut self, key: ConnectionKey, reason: &str) {
        tracing::warn!(reason, "closes a connection: its peer may connect anew");
        if let Some(connection) = self.connections.get(&key) {
            connection.close(reason);
        }
        let streams = self
            .streams
            .values()
            .filter(|stream| stream.connection == key);
        streams.for_each(|stream| stream.outbox.cut());
    }

    fn append(&mut self, token: DiskToken, file: FileNumber, offset: u64, bytes: IoBuf) {
        match self.device.file(file) {
            Some(handle) => {
                self.device
                    .appends(file, offset + bytes.as_ref().len() as u64);
                self.writes.began(now(), token);
                self.ring.write(token, handle, offset, bytes);
            }
            None => self.ended.push_back(Event::Written {
                token,
                result: Err(missing(file)),
            }),
        }
    }

    /// Makes a file of an old one: behind whatever the core asked to have deleted before.
    fn recycle(&mut self, file: FileNumber, from: FileNumber) {
        match self.device.recycling(file, from) {
            Ok(recycling) => {
                let answer = self.layers.in_order(move || recycling.run());
                self.outside.push(Outside::Recycle { file, answer });
            }
            Err(error) => {
                tracing::error!(file = from.0, %error, "cannot recycle a hot-log file, the node stops: look at the disk, and who may write there, then start it again");
                let result = Err(DiskError::Failed);
                self.ended.push_back(Event::Prepared { file, result });
            }
        }
    }

    /// Starts an operation on a layer, now or when its file is open.
    fn layer(&mut self, key: LayerKey, operation: Waiting) {
        if let Some(file) = self.layers.file(key) {
            return self.start(operation, file);
        }
        if let Some(answer) = self.layers.wait(key, operation) {
            self.outside.push(Outside::Open { key, answer });
        }
    }

    fn start(&mut self, operation: Waiting, file: Rc<File>) {
        match operation {
            Waiting::Write {
                token,
                offset,
                bytes,
            } => self.ring.write_behind(token, file, offset, bytes),
            Waiting::Read {
                token,
                offset,
                bytes,
            } => self.ring.read(token, file, offset, bytes),
        }
    }

    fn delete(&mut self, name: FileName) {
        match name {
            FileName::HotLog(file) => {
                let path = self.device.forget(file);
                self.layers.delete_path(path);
            }
            FileName::Layer(segment, layer) => {
                let waiting = self.layers.delete((segment, layer));
                self.abandon(&waiting);
            }
        }
    }

    /// Operations whose file is gone.
    fn abandon(&mut self, waiting: &[Waiting]) {
        for operation in waiting {
            self.ended.push_back(failed(operation, DiskError::Failed));
        }
    }

    fn fail(&mut self, error: NodeError) {
        self.halted = true;
        self.failure.set(error);
    }
}

/// The core never names a file that it was not given; should it do so, the operation has failed.
fn missing(file: FileNumber) -> DiskError {
    tracing::error!(
        file = file.0,
        "no such hot-log file is open, a bug: the operation has failed; report it with the lines above"
    );
    DiskError::Failed
}

/// How an operation ends whose file could not be opened.
fn failed(operation: &Waiting, error: DiskError) -> Event {
    match operation {
        Waiting::Write { token, .. } => Event::Written {
            token: *token,
            result: Err(error),
        },
        Waiting::Read { token, .. } => Event::Read {
            token: *token,
            result: Err(error),
        },
    }
}

/// What a helper says; one that is gone has failed.
async fn told<T>(answer: Answer<T>) -> Result<T, DiskError> {
    match answer.await {
        Ok(result) => result.map_err(|error| {
            let kind = io_error(&error);
            // A full disk is tried again and again; the core says once that it is full.
            if kind == DiskError::Failed {
                tracing::error!(%error, "a layer's file cannot be used: look at the disk");
            }
            kind
        }),
        Err(_) => Err(DiskError::Failed),
    }
}

fn io_error(error: &std::io::Error) -> DiskError {
    error.raw_os_error().map_or(DiskError::Failed, |raw| {
        disk_error(rustix::io::Errno::from_raw_os_error(raw))
    })
}

impl From<Completion> for Event {
    fn from(completion: Completion) -> Event {
        match completion {
            Completion::Written { token, result } => Event::Written { token, result },
            Completion::Read { token, result } => Event::Read { token, result },
        }
    }
}
