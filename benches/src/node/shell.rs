//! The core of a node with a ring and files, driven by whoever measures: no sockets, no peers.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
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
use sixfold_log_format::wire::{Message, Role};
use sixfold_storage_node::open_synced;
use sixfold_storage_node::uring::{Completion, Ring, Watch};
use sixfold_storage_node_core::{
    Action, Bounds, ConnectionKey, Event, FileName, FoundDirectory, IoBuf, NodeCore, StreamKey,
};
use tokio::sync::mpsc;

/// Size of a hot-log file, bytes.
const FILE_BYTES: u64 = 64 << 20;
/// Alignment unit, bytes.
const BLOCK_BYTES: u32 = 4096;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The node that is measured.
pub(super) const NODE: NodeId = NodeId::from_bytes([1; 16]);

/// A node in this process.
pub(super) struct LocalNode {
    core: NodeCore,
    ring: Ring,
    watch: Watch,
    dir: PathBuf,
    files: BTreeMap<FileName, Rc<File>>,
    begun: Instant,
    /// What was sent, and on which stream.
    sent: VecDeque<(StreamKey, Message)>,
    told: VecDeque<Event>,
    outside: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    completions: Vec<Completion>,
    streams: u64,
    reads: u64,
    read_bytes: u64,
    start_bytes: u64,
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

fn make_file(path: &Path, bytes: u64) -> Result<File> {
    let context = || format!("cannot prepare {}", path.display());
    let file = File::create(path).with_context(context)?;
    let zeros = vec![0; 1 << 20];
    for offset in (0..bytes).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset).with_context(context)?;
    }
    file.sync_all().with_context(context)?;
    open_synced(path).with_context(context)
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
            begun: Instant::now(),
            sent: VecDeque::new(),
            told: VecDeque::new(),
            outside: mpsc::unbounded_channel(),
            completions: Vec::new(),
            streams: 0,
            reads: 0,
            read_bytes: 0,
            start_bytes: 0,
        };
        while !node.core.is_ready() {
            node.step().await?;
        }
        node.start_bytes = node.read_bytes;
        Ok(node)
    }

    /// Reads that the device was asked for.
    pub(super) fn reads(&self) -> u64 {
        self.reads
    }

    /// Bytes that the start read.
    pub(super) fn start_bytes(&self) -> u64 {
        self.start_bytes
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
        self.core
            .handle(self.begun.elapsed(), Event::StreamClosed { stream });
        Ok(answer)
    }

    /// Redo that is not in layers yet, bytes.
    pub(super) async fn unfolded_bytes(&mut self) -> Result<u64> {
        match self.call(Message::AskStatus).await? {
            Message::NodeStatus(status) => Ok(status
                .segments
                .iter()
                .map(|segment| segment.unfolded_bytes)
                .sum()),
            other => bail!("{other:?}"),
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
        let event = tokio::select! {
            biased;
            signaled = self.watch.signaled() => {
                signaled?;
                None
            }
            event = self.outside.1.recv() => event,
            () = tokio::time::sleep(wait) => {
                anyhow::ensure!(due.is_some(), "nothing happens any more");
                Some(Event::Timeout)
            }
        };
        self.told.extend(event);
        self.pump()
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
                self.core.handle(now, event);
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

    fn file(&mut self, name: FileName) -> Result<Rc<File>> {
        if let Some(file) = self.files.get(&name) {
            return Ok(Rc::clone(file));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(matches!(name, FileName::Layer(..)))
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(path_of(&self.dir, name))?;
        let file = Rc::new(file);
        self.files.insert(name, Rc::clone(&file));
        Ok(file)
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
                let handle = self.file(file)?;
                match file {
                    FileName::HotLog(_) => self.ring.write(token, handle, offset, bytes),
                    FileName::Layer(..) => self.ring.write_behind(token, handle, offset, bytes),
                }
            }
            Action::Read {
                token,
                file,
                offset,
                bytes,
            } => {
                let handle = self.file(file)?;
                self.reads += 1;
                self.read_bytes += u64::from(bytes);
                self.ring.read(token, handle, offset, bytes);
            }
            Action::Sync {
                token,
                segment,
                layer,
            } => {
                let path = path_of(&self.dir, FileName::Layer(segment, layer));
                let (dir, answer) = (self.dir.clone(), self.outside.0.clone());
                tokio::task::spawn_blocking(move || {
                    let sync = || {
                        File::open(path)?
                            .sync_all()
                            .and(File::open(dir)?.sync_all())
                    };
                    let result = sync().map_err(|_| sixfold_storage_node_core::DiskError::Failed);
                    let _ = answer.send(Event::Written { token, result });
                });
            }
            Action::Delete { file } | Action::SetAside { file } => {
                self.files.remove(&file);
                fs::remove_file(path_of(&self.dir, file))?;
            }
            Action::Prepare { file, bytes, from } => {
                let name = FileName::HotLog(file);
                let made = match from.map(FileName::HotLog) {
                    Some(from) => {
                        let made = self.file(from)?;
                        let head = IoBuf::zeroed(BLOCK_BYTES as usize);
                        made.write_all_at(head.as_ref(), 0)?;
                        self.files.remove(&from);
                        fs::rename(path_of(&self.dir, from), path_of(&self.dir, name))?;
                        made
                    }
                    None => Rc::new(make_file(&path_of(&self.dir, name), bytes)?),
                };
                self.files.insert(name, made);
                self.told.push_back(Event::Prepared {
                    file,
                    result: Ok(()),
                });
            }
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
}
