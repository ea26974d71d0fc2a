//! A shell in memory: files as bytes, writes that complete when the test says so, torn writes at a crash.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::hot_log::FileNumber;
use sixfold_log_format::layer::LayerNumber;
use sixfold_log_format::wire::{Message, NodeStatus, Role};
use sixfold_log_format::{NodeId, SegmentId};
use sixfold_storage_node_core::{
    Action, Bounds, ConnectionKey, DiskError, DiskToken, Event, FileName, FoundDirectory, NodeCore,
    PeerToken, Severity, StreamKey,
};

pub const BLOCK: usize = 512;

#[derive(Debug)]
pub struct PendingWrite {
    pub token: DiskToken,
    pub file: FileNumber,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// A layer's file: as it is read, and what lies under writes that are not synced.
#[derive(Debug, Clone, Default)]
pub struct LayerFile {
    pub bytes: Vec<u8>,
    pub undo: Vec<(usize, Vec<u8>)>,
    pub entry_synced: bool,
}

pub type Layers = BTreeMap<(SegmentId, LayerNumber), LayerFile>;

#[derive(Debug)]
pub enum LayerOp {
    Write(DiskToken, (SegmentId, LayerNumber), u64, Vec<u8>),
    Sync(DiskToken, (SegmentId, LayerNumber)),
}

#[derive(Debug)]
pub struct Ask {
    pub token: PeerToken,
    pub node: NodeId,
    pub address: String,
    pub message: Message,
}

#[derive(Debug)]
pub struct Shell {
    pub core: NodeCore,
    pub found: FoundDirectory,
    pub files: BTreeMap<FileNumber, Vec<u8>>,
    pub layers: Layers,
    pub writes: VecDeque<PendingWrite>,
    pub layer_ops: VecDeque<LayerOp>,
    pub layer_ops_done: usize,
    pub deleted: Vec<FileName>,
    pub set_aside: Vec<FileName>,
    /// Layers cannot be written.
    pub layers_full: bool,
    pub asks: VecDeque<Ask>,
    pub sent: VecDeque<(StreamKey, Message, bool)>,
    pub logged: Vec<(Severity, String)>,
    pub stopped: Option<String>,
    pub disconnected: Vec<ConnectionKey>,
    pub now: Duration,
    pub disk_full: bool,
    /// A new file is not made before [`Shell::complete_making`].
    pub hold_making: bool,
    pub making: Option<(FileNumber, usize)>,
    /// Reads wait here when they are held back.
    pub reads: VecDeque<(DiskToken, FileName, u64, u32)>,
    pub hold_reads: bool,
    pub reads_done: usize,
    /// The file of each read of the hot log.
    pub log_reads: Vec<FileNumber>,
    pub writes_done: usize,
    /// Files that become others: the new one, the old one.
    pub recycles: VecDeque<(FileNumber, FileNumber)>,
    pub hold_recycles: bool,
    pub recycled: usize,
    /// Files that were made anew.
    pub made: usize,
    /// Writes to the hot log that ended: file, offset, length.
    pub log_writes: Vec<(FileNumber, usize, usize)>,
    next_stream: u64,
}

pub fn node_id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

pub fn bounds() -> Bounds {
    Bounds {
        group_bytes_max: 16 << 10,
        queued_bytes_max: 1 << 20,
        resident_redo_bytes_max: 1 << 20,
        page_cache_bytes_max: 1 << 20,
        reads_in_flight_max: 4,
        gossip_interval: Duration::from_millis(100),
        ..Bounds::default()
    }
}

pub fn found(number: u8) -> FoundDirectory {
    FoundDirectory {
        node: node_id(number),
        az: format!("az{}", number / 2 + 1),
        block_bytes: BLOCK as u32,
        file_bytes: 64 << 10,
        files: Vec::new(),
        layers: Vec::new(),
        bounds: bounds(),
        seed: u64::from(number),
    }
}

impl Shell {
    /// A fresh node, ready.
    pub fn new(number: u8) -> Shell {
        Shell::with(found(number))
    }

    pub fn with(found: FoundDirectory) -> Shell {
        let now = Duration::from_secs(1);
        let mut shell = Shell::start(found, BTreeMap::new(), Layers::new(), now);
        shell.settle();
        assert!(shell.core.is_ready());
        shell
    }

    pub fn start(
        mut found: FoundDirectory,
        files: BTreeMap<FileNumber, Vec<u8>>,
        layers: Layers,
        now: Duration,
    ) -> Shell {
        found.files = files
            .iter()
            .map(|(file, bytes)| (*file, bytes.len() as u64))
            .collect();
        found.layers = layers
            .iter()
            .map(|((segment, layer), file)| (*segment, *layer, file.bytes.len() as u64))
            .collect();
        let core = NodeCore::new(found.clone(), now);
        let mut shell = Shell {
            core,
            found,
            files,
            layers,
            writes: VecDeque::new(),
            layer_ops: VecDeque::new(),
            layer_ops_done: 0,
            deleted: Vec::new(),
            set_aside: Vec::new(),
            layers_full: false,
            asks: VecDeque::new(),
            sent: VecDeque::new(),
            logged: Vec::new(),
            stopped: None,
            disconnected: Vec::new(),
            now,
            disk_full: false,
            hold_making: false,
            making: None,
            reads: VecDeque::new(),
            hold_reads: false,
            reads_done: 0,
            log_reads: Vec::new(),
            writes_done: 0,
            recycles: VecDeque::new(),
            hold_recycles: false,
            recycled: 0,
            made: 0,
            log_writes: Vec::new(),
            next_stream: 0,
        };
        shell.drain();
        shell
    }

    pub fn event(&mut self, event: Event) {
        self.core.handle(self.now, event);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Send {
                    stream,
                    message,
                    end,
                } => {
                    // What is sent survives the wire.
                    let frame = message.encode();
                    let mut bytes = frame.head.to_vec();
                    frame
                        .tail
                        .iter()
                        .for_each(|tail| bytes.extend_from_slice(tail));
                    let decoded = Message::decode(Bytes::from(bytes).slice(4..)).unwrap();
                    assert_eq!(decoded, message);
                    self.sent.push_back((stream, message, end));
                }
                Action::Disconnect { connection } => self.disconnected.push(connection),
                Action::Write {
                    token,
                    file,
                    offset,
                    bytes,
                } => {
                    self.check_token(token);
                    let bytes: Vec<u8> = bytes.as_ref().to_vec();
                    assert_eq!(bytes.len() % BLOCK, 0);
                    assert_eq!(offset % BLOCK as u64, 0);
                    let file = match file {
                        FileName::HotLog(file) => file,
                        FileName::Layer(segment, layer) => {
                            let key = (segment, layer);
                            self.layer_ops
                                .push_back(LayerOp::Write(token, key, offset, bytes));
                            continue;
                        }
                    };
                    assert!(self.writes.is_empty(), "one write in flight");
                    self.writes.push_back(PendingWrite {
                        token,
                        file,
                        offset,
                        bytes,
                    });
                }
                Action::Read {
                    token,
                    file,
                    offset,
                    bytes,
                } => {
                    assert_eq!(offset % BLOCK as u64, 0);
                    assert_eq!(bytes as usize % BLOCK, 0);
                    self.reads.push_back((token, file, offset, bytes));
                    if !self.hold_reads {
                        self.complete_reads();
                    }
                }
                Action::Sync {
                    token,
                    segment,
                    layer,
                } => {
                    self.check_token(token);
                    let sync = LayerOp::Sync(token, (segment, layer));
                    self.layer_ops.push_back(sync);
                }
                Action::Delete { file } => {
                    self.deleted.push(file);
                    match file {
                        FileName::HotLog(file) => {
                            assert!(
                                self.files.remove(&file).is_some(),
                                "{file:?} is deleted twice"
                            );
                        }
                        FileName::Layer(segment, layer) => {
                            self.layers.remove(&(segment, layer));
                        }
                    }
                }
                Action::SetAside { file } => {
                    self.set_aside.push(file);
                    if let FileName::Layer(segment, layer) = file {
                        self.layers.remove(&(segment, layer));
                    }
                }
                Action::Prepare {
                    file,
                    bytes,
                    from: Some(from),
                } => {
                    assert_eq!(self.files[&from].len() as u64, bytes);
                    assert_eq!(
                        self.files.first_key_value().map(|(oldest, _)| *oldest),
                        Some(from),
                        "a file in the middle would be missing after a crash"
                    );
                    self.recycles.push_back((file, from));
                    if !self.hold_recycles {
                        self.complete_recycle();
                    }
                }
                Action::Prepare {
                    file,
                    bytes,
                    from: None,
                } => {
                    self.making = Some((file, bytes as usize));
                    if !self.hold_making {
                        self.complete_making();
                    }
                }
                Action::AskPeer {
                    token,
                    node,
                    address,
                    message,
                } => {
                    self.asks.push_back(Ask {
                        token,
                        node,
                        address,
                        message,
                    });
                }
                Action::Log { severity, text } => self.logged.push((severity, text)),
                Action::Stop { reason } => self.stopped = Some(reason),
            }
        }
    }

    /// No other operation in flight has this token: who takes the end of one for that of another acknowledges what is not durable.
    fn check_token(&self, token: DiskToken) {
        let of_layers = self.layer_ops.iter().map(|op| match op {
            LayerOp::Write(token, ..) | LayerOp::Sync(token, _) => *token,
        });
        let mut in_flight = of_layers.chain(self.writes.iter().map(|write| write.token));
        assert!(in_flight.all(|other| other != token), "{token:?} twice");
    }

    /// The file that was asked for is there, or the disk is full.
    pub fn complete_making(&mut self) {
        let Some((file, bytes)) = self.making.take() else {
            return;
        };
        let result = if self.disk_full {
            Err(DiskError::Full)
        } else {
            self.made += 1;
            self.files.insert(file, vec![0; bytes]);
            Ok(())
        };
        self.core.handle(self.now, Event::Prepared { file, result });
    }

    pub fn complete_reads(&mut self) {
        while let Some((token, file, offset, bytes)) = self.reads.pop_front() {
            self.reads_done += 1;
            if let FileName::HotLog(file) = file {
                self.log_reads.push(file);
            }
            let content = match file {
                FileName::HotLog(file) => self.files.get(&file),
                FileName::Layer(segment, layer) => {
                    self.layers.get(&(segment, layer)).map(|file| &file.bytes)
                }
            };
            let Some(content) = content else {
                let result = Err(DiskError::Failed);
                self.core.handle(self.now, Event::Read { token, result });
                continue;
            };
            let start = (offset as usize).min(content.len());
            let end = (start + bytes as usize).min(content.len());
            let result = Ok(Bytes::copy_from_slice(&content[start..end]));
            self.core.handle(self.now, Event::Read { token, result });
        }
        self.drain();
    }

    /// The first block of a file that becomes another is zeroed.
    pub fn behead(&mut self, from: FileNumber) {
        self.files.get_mut(&from).unwrap()[..BLOCK].fill(0);
    }

    /// An old file becomes a new one; false when none is to.
    pub fn complete_recycle(&mut self) -> bool {
        let Some((file, from)) = self.recycles.pop_front() else {
            return false;
        };
        self.recycled += 1;
        self.behead(from);
        let bytes = self.files.remove(&from).unwrap();
        assert!(self.files.insert(file, bytes).is_none());
        let result = Ok(());
        self.event(Event::Prepared { file, result });
        true
    }

    /// The write in flight becomes durable; false when there is none.
    pub fn complete_write(&mut self) -> bool {
        let Some(write) = self.writes.pop_front() else {
            return false;
        };
        self.writes_done += 1;
        let start = write.offset as usize;
        self.log_writes.push((write.file, start, write.bytes.len()));
        let file = self.files.get_mut(&write.file).unwrap();
        file[start..start + write.bytes.len()].copy_from_slice(&write.bytes);
        self.event(Event::Written {
            token: write.token,
            result: Ok(()),
        });
        true
    }

    /// The oldest operation on a layer ends; false when there is none.
    pub fn complete_layer_op(&mut self) -> bool {
        let Some(op) = self.layer_ops.pop_front() else {
            return false;
        };
        self.layer_ops_done += 1;
        let full = self.layers_full && matches!(op, LayerOp::Write(..));
        let token = match op {
            LayerOp::Write(token, key, offset, bytes) => {
                if !full {
                    put(&mut self.layers, key, offset as usize, &bytes);
                }
                token
            }
            LayerOp::Sync(token, key) => {
                if let Some(file) = self.layers.get_mut(&key) {
                    file.undo.clear();
                    file.entry_synced = true;
                }
                token
            }
        };
        let result = if full { Err(DiskError::Full) } else { Ok(()) };
        self.event(Event::Written { token, result });
        true
    }

    /// Everything that is due is done, the node's own work too.
    pub fn work(&mut self) {
        for _ in 0..30_000 {
            if !(self.complete_write() || self.complete_layer_op() || self.turn()) {
                return;
            }
            assert!(self.stopped.is_none(), "{:?}", self.stopped);
        }
        panic!("the node never comes to rest");
    }

    /// Time passes, with everything that becomes due in it.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        self.work();
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.event(Event::Timeout);
            self.work();
        }
        self.now = until;
    }

    /// What is left when the machine loses power: of what was not synced, the parts that `keep` says, by a count.
    pub fn power_cut(mut self, keep: &mut dyn FnMut() -> bool) -> Shell {
        while let Some(op) = self.layer_ops.pop_front() {
            if let LayerOp::Write(_, key, offset, bytes) = op
                && keep()
            {
                put(&mut self.layers, key, offset as usize, &bytes);
            }
        }
        self.layers.retain(|_, file| file.entry_synced || keep());
        for file in self.layers.values_mut() {
            for (offset, before) in std::mem::take(&mut file.undo).into_iter().rev() {
                for (block, old) in before.chunks(BLOCK).enumerate() {
                    if !keep() {
                        let at = offset + block * BLOCK;
                        file.bytes[at..at + old.len()].copy_from_slice(old);
                    }
                }
            }
            file.entry_synced = true;
        }
        let torn = keep();
        self.crash(&|block| torn && block % 2 == 0)
    }

    /// Jobs that work in steps go on until they are answered.
    pub fn turn(&mut self) -> bool {
        let due = self.core.poll_timeout() == Some(self.now);
        if due {
            self.event(Event::Timeout);
        }
        due
    }

    /// Until nothing is in flight.
    pub fn settle(&mut self) {
        while self.complete_write() {}
    }

    /// Restarts over what is on the disk; the write in flight is lost but for the blocks that `survives` names.
    pub fn crash(mut self, survives: &dyn Fn(usize) -> bool) -> Shell {
        if let Some(write) = self.writes.pop_front() {
            let file = self.files.get_mut(&write.file).unwrap();
            for (index, block) in write.bytes.chunks(BLOCK).enumerate() {
                if survives(index) {
                    let start = write.offset as usize + index * BLOCK;
                    file[start..start + BLOCK].copy_from_slice(block);
                }
            }
        }
        let now = self.now + Duration::from_secs(1);
        Shell::start(self.found, self.files, self.layers, now)
    }

    pub fn open_stream(&mut self) -> StreamKey {
        self.next_stream += 1;
        StreamKey(self.next_stream)
    }

    pub fn say_as(&mut self, role: Role, stream: StreamKey, message: Message) {
        self.event(Event::Message {
            connection: ConnectionKey(1),
            role,
            stream,
            message,
        });
    }

    pub fn say_from(&mut self, connection: u64, stream: StreamKey, message: Message) {
        self.event(Event::Message {
            connection: ConnectionKey(connection),
            role: Role::Writer,
            stream,
            message,
        });
    }

    pub fn say(&mut self, stream: StreamKey, message: Message) {
        self.say_as(Role::Writer, stream, message);
    }

    /// Sends a request on a stream of its own and takes what was answered so far.
    pub fn request_as(&mut self, role: Role, message: Message) -> Vec<Message> {
        let stream = self.open_stream();
        self.say_as(role, stream, message);
        self.take(stream)
    }

    /// Sends a request, lets the disk finish, and returns the only answer.
    pub fn ask(&mut self, message: Message) -> Message {
        self.ask_as(Role::Writer, message)
    }

    pub fn ask_as(&mut self, role: Role, message: Message) -> Message {
        let stream = self.open_stream();
        self.say_as(role, stream, message);
        self.settle();
        let mut answers = self.take(stream);
        while answers.is_empty() && self.turn() {
            answers = self.take(stream);
        }
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.pop().unwrap()
    }

    /// Takes everything sent on a stream so far.
    pub fn take(&mut self, stream: StreamKey) -> Vec<Message> {
        let (taken, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.sent)
            .into_iter()
            .partition(|(key, _, _)| *key == stream);
        self.sent = kept;
        taken.into_iter().map(|(_, message, _)| message).collect()
    }

    pub fn status(&mut self) -> NodeStatus {
        match self
            .request_as(Role::Operator, Message::AskStatus)
            .pop()
            .unwrap()
        {
            Message::NodeStatus(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn errors(&self) -> Vec<&str> {
        let errors = self
            .logged
            .iter()
            .filter(|(severity, _)| *severity == Severity::Error);
        errors.map(|(_, text)| text.as_str()).collect()
    }
}

fn put(layers: &mut Layers, key: (SegmentId, LayerNumber), offset: usize, bytes: &[u8]) {
    let file = layers.entry(key).or_default();
    let end = offset + bytes.len();
    if file.bytes.len() < end {
        file.bytes.resize(end, 0);
    }
    let target = &mut file.bytes[offset..end];
    file.undo.push((offset, target.to_vec()));
    target.copy_from_slice(bytes);
}
