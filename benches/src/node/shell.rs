//! The core of a node with a ring and files, driven by whoever measures: no sockets, no peers.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;
use sixfold_log_format::NodeId;
use sixfold_log_format::SegmentId;
use sixfold_log_format::hot_log::FileNumber;
use sixfold_log_format::layer::LayerNumber;
use sixfold_log_format::wire::{Message, NodeStatus, Role};
use sixfold_storage_node::open_synced;
use sixfold_storage_node::uring::{Completion, Ring, Watch};
use sixfold_storage_node_core::{
    Action, Bounds, ConnectionKey, DiskError, DiskToken, Event, FileName, FoundDirectory, IoBuf,
    NodeCore, StreamKey,
};
use tokio::sync::mpsc;

use crate::latency::Latencies;

/// Size of a hot-log file, bytes.
const FILE_BYTES: u64 = 64 << 20;
/// Alignment unit, bytes.
const BLOCK_BYTES: u32 = 4096;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The node that is measured.
pub(super) const NODE: NodeId = NodeId::from_bytes([1; 16]);

/// What a node had its device do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DiskCounts {
    /// Reads.
    pub(super) reads: u64,
    /// Bytes of them.
    pub(super) read_bytes: u64,
    /// Bytes written to the hot log: headers, padding and the heads of files too, zeros not.
    pub(super) log_bytes: u64,
    /// Bytes written to layers.
    pub(super) layer_bytes: u64,
    /// Zeros written to make hot-log files.
    pub(super) zero_bytes: u64,
}

/// What a helper did.
enum Told {
    Event(Event),
    Opened(FileName, io::Result<File>),
    Prepared(FileNumber, io::Result<File>),
}

/// What waits for a file to be open.
enum Waiting {
    Write(DiskToken, u64, IoBuf),
    Read(DiskToken, u64, u32),
}

/// A node in this process.
pub(super) struct LocalNode {
    core: NodeCore,
    ring: Ring,
    watch: Watch,
    dir: PathBuf,
    files: BTreeMap<FileName, Rc<File>>,
    opening: BTreeMap<FileName, Vec<Waiting>>,
    begun: Instant,
    /// What was sent, and on which stream.
    sent: VecDeque<(StreamKey, Message)>,
    told: VecDeque<Event>,
    outside: (mpsc::UnboundedSender<Told>, mpsc::UnboundedReceiver<Told>),
    completions: Vec<Completion>,
    streams: u64,
    counts: DiskCounts,
    turns: Latencies,
    start_bytes: u64,
}

/// As the daemon waits: what is due at once takes its turn when sockets and the ring were looked at.
async fn wait_for(time: Duration) {
    if time.is_zero() {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(time).await;
    }
}

fn path_of(dir: &Path, name: FileName) -> PathBuf {
    match name {
        FileName::HotLog(number) => dir.join(format!("{:016x}.log", number.0)),
        FileName::Layer(segment, layer) => dir.join(format!("{segment}-{:016x}.layer", layer.0)),
    }
}

/// The files in a directory, by what they are.
fn list(dir: &Path) -> Result<Vec<(FileName, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let length = entry.metadata()?.len();
        if let Some(digits) = name.strip_suffix(".log") {
            let number = FileNumber(u64::from_str_radix(digits, 16)?);
            found.push((FileName::HotLog(number), length));
        } else if let Some((segment, number)) = name
            .strip_suffix(".layer")
            .and_then(|name| name.split_once('-'))
        {
            let segment = SegmentId::from_hex(segment).context("a layer's name")?;
            let number = LayerNumber(u64::from_str_radix(number, 16)?);
            found.push((FileName::Layer(segment, number), length));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes files for `bytes` of redo and some more, so that none has to be made while something is measured.
pub(super) fn prepare(dir: &Path, bytes: u64) -> Result<()> {
    for number in 1..=bytes * 9 / 8 / FILE_BYTES + 2 {
        make_file(
            &path_of(dir, FileName::HotLog(FileNumber(number))),
            FILE_BYTES,
        )?;
    }
    Ok(())
}

fn make_file(path: &Path, bytes: u64) -> io::Result<File> {
    let file = File::create(path)?;
    let zeros = vec![0; 1 << 20];
    for offset in (0..bytes).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_all()?;
    open_synced(path)
}

impl LocalNode {
    /// Starts a node on a directory and waits until it has read its hot log.
    pub(super) async fn start(dir: &Path, bounds: Bounds) -> Result<LocalNode> {
        let (mut files, mut layers) = (Vec::new(), Vec::new());
        let mut open = BTreeMap::new();
        for (name, length) in list(dir)? {
            match name {
                FileName::HotLog(number) => {
                    open.insert(name, Rc::new(open_synced(&path_of(dir, name))?));
                    files.push((number, length));
                }
                FileName::Layer(segment, layer) => layers.push((segment, layer, length)),
            }
        }
        if files.is_empty() {
            let first = FileName::HotLog(FileNumber(1));
            let file = make_file(&path_of(dir, first), FILE_BYTES)?;
            open.insert(first, Rc::new(file));
            files.push((FileNumber(1), FILE_BYTES));
        }
        let ring = Ring::new().context("io_uring")?;
        let watch = ring.watch()?;
        let found = FoundDirectory {
            node: NODE,
            az: "az1".to_owned(),
            block_bytes: BLOCK_BYTES,
            file_bytes: FILE_BYTES,
            files,
            layers,
            bounds,
            seed: 1,
        };
        let mut node = LocalNode {
            core: NodeCore::new(found, Duration::ZERO),
            ring,
            watch,
            dir: dir.to_owned(),
            files: open,
            opening: BTreeMap::new(),
            begun: Instant::now(),
            sent: VecDeque::new(),
            told: VecDeque::new(),
            outside: mpsc::unbounded_channel(),
            completions: Vec::new(),
            streams: 0,
            counts: DiskCounts::default(),
            turns: Latencies::default(),
            start_bytes: 0,
        };
        while !node.core.is_ready() {
            node.step().await?;
        }
        node.start_bytes = node.counts.read_bytes;
        Ok(node)
    }

    /// What the device was asked for.
    pub(super) fn counts(&self) -> DiskCounts {
        self.counts
    }

    /// Bytes that the start read.
    pub(super) fn start_bytes(&self) -> u64 {
        self.start_bytes
    }

    /// How long the core's turns of its own took since this was asked last.
    pub(super) fn take_turns(&mut self) -> Latencies {
        std::mem::take(&mut self.turns)
    }

    /// A stream of its own.
    pub(super) fn open_stream(&mut self) -> StreamKey {
        self.streams += 1;
        StreamKey(self.streams)
    }

    /// Gives the node a message.
    pub(super) fn tell(&mut self, stream: StreamKey, message: Message) -> Result<()> {
        let event = Event::Message {
            connection: ConnectionKey(1),
            role: Role::Writer,
            stream,
            message,
        };
        self.core.handle(self.begun.elapsed(), event);
        self.pump()
    }

    /// The next message that the node sends on this stream; those on other streams are dropped.
    pub(super) async fn answer(&mut self, stream: StreamKey) -> Result<Message> {
        loop {
            while let Some((on, message)) = self.sent.pop_front() {
                if on == stream {
                    return Ok(message);
                }
            }
            self.step().await?;
        }
    }

    /// A request and its answer, on a stream of its own.
    pub(super) async fn call(&mut self, message: Message) -> Result<Message> {
        let stream = self.open_stream();
        self.tell(stream, message)?;
        let answer = self.answer(stream).await?;
        self.close_stream(stream);
        Ok(answer)
    }

    /// How the node says that it is.
    pub(super) async fn status(&mut self) -> Result<NodeStatus> {
        match self.call(Message::AskStatus).await? {
            Message::NodeStatus(status) => Ok(status),
            other => bail!("{other:?}"),
        }
    }

    /// Redo that is not in layers yet, bytes.
    pub(super) async fn unfolded_bytes(&mut self) -> Result<u64> {
        let segments = self.status().await?.segments;
        Ok(segments.iter().map(|segment| segment.unfolded_bytes).sum())
    }

    /// What the node has sent so far.
    pub(super) fn take_sent(&mut self) -> VecDeque<(StreamKey, Message)> {
        std::mem::take(&mut self.sent)
    }

    /// A stream of a request is over.
    pub(super) fn close_stream(&mut self, stream: StreamKey) {
        self.core
            .handle(self.begun.elapsed(), Event::StreamClosed { stream });
    }

    /// Lets the node work until it has sent something, or `arrivals` has something; that is returned. As a daemon's thread does, it
    /// looks at what arrived between two steps of the core, never in one.
    pub(super) async fn serve<T>(
        &mut self,
        arrivals: &mut mpsc::UnboundedReceiver<T>,
    ) -> Result<Option<T>> {
        loop {
            self.pump()?;
            if !self.sent.is_empty() {
                return Ok(None);
            }
            if let Ok(arrival) = arrivals.try_recv() {
                return Ok(Some(arrival));
            }
            tokio::select! {
                biased;
                arrival = arrivals.recv() => return Ok(arrival),
                stepped = self.step() => stepped?,
            }
        }
    }

    /// Lets the node work by itself for a while.
    pub(super) async fn idle(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let left = end.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            if let Ok(step) = tokio::time::timeout(left, self.step()).await {
                step?;
            }
        }
        Ok(())
    }

    /// Waits for something to happen and lets the core handle it.
    async fn step(&mut self) -> Result<()> {
        self.pump()?;
        if !self.sent.is_empty() {
            return Ok(());
        }
        if self.core.is_behind() {
            let action = self.core.poll_action();
            anyhow::ensure!(action.is_none(), "an action was left");
            return self.pump();
        }
        let now = self.begun.elapsed();
        let due = self.core.poll_timeout();
        let wait = due.map_or(PATIENCE, |due| due.saturating_sub(now));
        let told = tokio::select! {
            biased;
            signaled = self.watch.signaled() => {
                signaled?;
                None
            }
            told = self.outside.1.recv() => told,
            () = wait_for(wait) => {
                anyhow::ensure!(due.is_some(), "nothing happens any more");
                Some(Told::Event(Event::Timeout))
            }
        };
        match told {
            None => {}
            Some(Told::Event(event)) => self.told.push_back(event),
            Some(Told::Opened(name, file)) => {
                let file = Rc::new(file?);
                self.files.insert(name, Rc::clone(&file));
                for waiting in self.opening.remove(&name).unwrap_or_default() {
                    self.start_waiting(waiting, &file);
                }
            }
            Some(Told::Prepared(number, file)) => {
                self.files.insert(FileName::HotLog(number), Rc::new(file?));
                self.told.push_back(Event::Prepared {
                    file: number,
                    result: Ok(()),
                });
            }
        }
        self.pump()
    }

    /// Does something off this thread, as the daemon's helpers do.
    fn outside(&self, work: impl FnOnce() -> Told + Send + 'static) {
        let answer = self.outside.0.clone();
        tokio::task::spawn_blocking(move || {
            // The node is gone when nobody listens.
            let _ = answer.send(work());
        });
    }

    fn pump(&mut self) -> Result<()> {
        loop {
            while self.core.has_action()
                && let Some(action) = self.core.poll_action()
            {
                self.perform(action)?;
            }
            self.ring.submit()?;
            self.ring.reap(&mut self.completions)?;
            if self.completions.is_empty() && self.told.is_empty() {
                return Ok(());
            }
            let now = self.begun.elapsed();
            for event in std::mem::take(&mut self.told) {
                if matches!(event, Event::Timeout) {
                    let begun = Instant::now();
                    self.core.handle(now, event);
                    self.turns.record(begun.elapsed());
                } else {
                    self.core.handle(now, event);
                }
            }
            for completion in std::mem::take(&mut self.completions) {
                let event = match completion {
                    Completion::Written { token, result } => Event::Written { token, result },
                    Completion::Read { token, result } => Event::Read { token, result },
                };
                self.core.handle(now, event);
            }
        }
    }

    fn start_waiting(&mut self, waiting: Waiting, file: &Rc<File>) {
        match waiting {
            Waiting::Write(token, offset, bytes) => {
                self.ring
                    .write_behind(token, Rc::clone(file), offset, bytes);
            }
            Waiting::Read(token, offset, bytes) => {
                self.ring.read(token, Rc::clone(file), offset, bytes);
            }
        }
    }

    /// An operation on a layer, now or when its file is open.
    fn layer(&mut self, name: FileName, waiting: Waiting) {
        if let Some(file) = self.files.get(&name).cloned() {
            return self.start_waiting(waiting, &file);
        }
        let queue = self.opening.entry(name).or_default();
        queue.push(waiting);
        if queue.len() > 1 {
            return;
        }
        let path = path_of(&self.dir, name);
        self.outside(move || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .custom_flags(OFlags::DIRECT.bits().cast_signed())
                .open(path);
            Told::Opened(name, file)
        });
    }

    fn log_file(&self, name: FileName) -> Result<Rc<File>> {
        let file = self.files.get(&name);
        file.cloned().context("a hot-log file that is not there")
    }

    fn perform(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Send {
                stream, message, ..
            } => self.sent.push_back((stream, message)),
            Action::Write {
                token,
                file,
                offset,
                bytes,
            } => {
                let length = bytes.as_ref().len() as u64;
                if let FileName::HotLog(_) = file {
                    self.counts.log_bytes += length;
                    let handle = self.log_file(file)?;
                    self.ring.write(token, handle, offset, bytes);
                } else {
                    self.counts.layer_bytes += length;
                    self.layer(file, Waiting::Write(token, offset, bytes));
                }
            }
            Action::Read {
                token,
                file,
                offset,
                bytes,
            } => {
                self.counts.reads += 1;
                self.counts.read_bytes += u64::from(bytes);
                if let FileName::HotLog(_) = file {
                    let handle = self.log_file(file)?;
                    self.ring.read(token, handle, offset, bytes);
                } else {
                    self.layer(file, Waiting::Read(token, offset, bytes));
                }
            }
            Action::Sync {
                token,
                segment,
                layer,
            } => {
                let path = path_of(&self.dir, FileName::Layer(segment, layer));
                let dir = self.dir.clone();
                self.outside(move || {
                    let sync = || {
                        File::open(path)?
                            .sync_all()
                            .and(File::open(dir)?.sync_all())
                    };
                    let result = sync().map_err(|_| DiskError::Failed);
                    Told::Event(Event::Written { token, result })
                });
            }
            Action::Delete { file } | Action::SetAside { file } => {
                self.files.remove(&file);
                let path = path_of(&self.dir, file);
                // What is left of it is removed with the directory.
                tokio::task::spawn_blocking(move || fs::remove_file(path));
            }
            Action::Prepare { file, bytes, from } => self.prepare_file(file, bytes, from)?,
            Action::AskPeer { token, .. } => self.told.push_back(Event::PeerAnswer {
                token,
                answer: None,
            }),
            Action::Stop { reason } => bail!("the node stops: {reason}"),
            Action::Disconnect { .. } => bail!("the node disconnects"),
            Action::Log { .. } => {}
        }
        Ok(())
    }

    fn prepare_file(
        &mut self,
        number: FileNumber,
        bytes: u64,
        from: Option<FileNumber>,
    ) -> Result<()> {
        let path = path_of(&self.dir, FileName::HotLog(number));
        let Some(from) = from.map(FileName::HotLog) else {
            self.counts.zero_bytes += bytes;
            self.outside(move || Told::Prepared(number, make_file(&path, bytes)));
            return Ok(());
        };
        self.counts.log_bytes += u64::from(BLOCK_BYTES);
        let file = self.files.remove(&from).context("a spare file")?;
        let (file, before) = (file.try_clone()?, path_of(&self.dir, from));
        self.outside(move || {
            let head = IoBuf::zeroed(BLOCK_BYTES as usize);
            let made = file
                .write_all_at(head.as_ref(), 0)
                .and_then(|()| fs::rename(before, path));
            Told::Prepared(number, made.map(|()| file))
        });
        Ok(())
    }
}
