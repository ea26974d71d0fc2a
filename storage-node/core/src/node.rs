//! The node: owner of all state, and the only `match` on events.
//!
//! ```text
//!   Message -> streams / fence / read / gossip / admin -> hot log -> Write ... Written -> apply -> answers
//! ```
//! The step files decide about their own state; here is what ties them together: an entry that becomes durable is applied to
//! its segment, then whoever waited for it is answered, then one ack per log stream goes out. The page index takes it last, when
//! there is nothing else to do, or before anything reads the index.

mod older;
mod replay;

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use sixfold_log_format::hot_log::{Entry, FileNumber};
use sixfold_log_format::layer::LayerNumber;
use sixfold_log_format::wire::{Message, Refusal, Role};
use sixfold_log_format::{NodeId, PgId, SegmentId, VolumeId};
use sixfold_recovery::lease::GrantedLease;

pub use crate::bounds::Bounds;

use crate::action::{Action, FileName, Severity};
use crate::admin::Counters;
use crate::bounds::{EARLY_BYTES_MAX, EARLY_MESSAGES_MAX, WAITERS_MAX};
use crate::chain::BatchId;
use crate::event::{ConnectionKey, DiskError, DiskToken, Event, FoundDirectory, StreamKey};
use crate::gossip::Asking;
use crate::hot_log::ahead::Ahead;
use crate::hot_log::scan::Scan;
use crate::hot_log::writer::{AppendError, HotLog, Written};
use crate::hot_log::{Place, Ticket};
use crate::jobs::Jobs;
use crate::layers::cache::LayerCache;
use crate::layers::upkeep::Upkeep;
use crate::node::older::Older;
use crate::node::replay::Begin;
use crate::pace::Pace;
use crate::page_cache::PageCache;
use crate::removed::Gone;
use crate::roles::{Permission, permission};
use crate::scrub::Scrubbing;
use crate::segment::{Applied, READ_LEASE, Segment};
use crate::streams::LogStream;
use crate::tokens::Tokens;
use crate::waiters::Waiter;
use crate::wishes::Wishes;

/// Where the node is in its life.
#[derive(Debug)]
enum Phase {
    Scanning,
    Running,
    Stopped,
}

/// A message that came before the scan ended.
#[derive(Debug)]
struct Early {
    connection: ConnectionKey,
    role: Role,
    stream: StreamKey,
    message: Message,
    bytes: usize,
}

/// A storage node without I/O.
#[derive(Debug)]
pub struct NodeCore {
    pub(crate) node: NodeId,
    pub(crate) az: String,
    pub(crate) block_bytes: u32,
    pub(crate) bounds: Bounds,
    phase: Phase,
    /// What the shell found, until the scan has ended.
    begin: Option<Begin>,
    scan: Option<(Scan, Ahead)>,
    pub(crate) older: Older,
    early: VecDeque<Early>,
    pub(crate) log: HotLog,
    pub(crate) segments: BTreeMap<SegmentId, Segment>,
    /// Segments whose creation is not durable yet: they answer nothing.
    pub(crate) creating: BTreeMap<SegmentId, (Ticket, PgId, VolumeId)>,
    /// Bytes of their states.
    pub(crate) creating_bytes: usize,
    pub(crate) streams: BTreeMap<StreamKey, LogStream>,
    pub(crate) waiters: BTreeMap<(Ticket, u64), Waiter>,
    pub(crate) next_waiter: u64,
    pub(crate) ack_due: BTreeSet<SegmentId>,
    pub(crate) reads: Jobs,
    pub(crate) cache: PageCache,
    pub(crate) layer_cache: LayerCache,
    pub(crate) upkeep: Upkeep,
    pub(crate) scrub: Scrubbing,
    /// Writes and syncs of copies, by segment.
    pub(crate) copy_writes: BTreeMap<DiskToken, (SegmentId, LayerNumber)>,
    /// Layer files that were there at the start.
    found_layers: Vec<(SegmentId, LayerNumber, u64)>,
    /// While scanning: segments whose state has yet to be found at the head of this file.
    heads: (FileNumber, BTreeSet<SegmentId>),
    /// Segments that were dropped; their identity never answers again.
    pub(crate) gone: Gone,
    /// What operators left.
    pub(crate) wishes: Wishes,
    /// What connections showed.
    pub(crate) tokens: Tokens,
    /// How fast peers are served.
    pub(crate) pace: Pace,
    /// Segments that ask a busy peer again, and when.
    pub(crate) retries: BTreeSet<(Duration, SegmentId)>,
    /// Where this node answers.
    pub(crate) address: Option<SocketAddr>,
    /// Redo in memory, oldest first, with its bytes.
    resident: VecDeque<(SegmentId, BatchId, usize)>,
    pub(crate) resident_bytes: usize,
    /// Durable batches that are not in their page index yet, oldest first. They are in memory: each stands in `resident` too.
    unindexed: VecDeque<(SegmentId, BatchId)>,
    /// The clock of the last call.
    pub(crate) now: Duration,
    /// A bound was near, or reached, when the node last looked.
    pub(crate) pressed: bool,
    pub(crate) at_bound: bool,
    pub(crate) asking: Asking,
    pub(crate) counters: Counters,
    pub(crate) actions: VecDeque<Action>,
}

impl NodeCore {
    /// A node over the directory that the shell found. The first actions read its hot log; requests that arrive before the
    /// scan has ended wait for it (bounded).
    ///
    /// `now` is the time since an arbitrary start of the clock that every later call uses (CLOCK_BOOTTIME in the daemon).
    ///
    /// # Panics
    /// When the block is no power of two, or a file is not a whole number of at least two blocks: the superblock's decoder
    /// checks both.
    pub fn new(found: FoundDirectory, now: Duration) -> NodeCore {
        let block_bytes = u64::from(found.block_bytes);
        assert!(
            found.block_bytes.is_power_of_two(),
            "a block of {block_bytes} bytes"
        );
        assert!(
            found.file_bytes.is_multiple_of(block_bytes) && found.file_bytes >= 2 * block_bytes,
            "a hot-log file of {} bytes",
            found.file_bytes
        );
        let mut core = NodeCore::blank(found, now);
        core.look_at_newest(now);
        core.pump(now);
        core
    }

    /// A node that has read nothing yet.
    fn blank(found: FoundDirectory, now: Duration) -> NodeCore {
        let log = HotLog::new(
            found.node,
            found.block_bytes,
            found.file_bytes,
            &found.bounds,
        );
        NodeCore {
            node: found.node,
            az: found.az.clone(),
            block_bytes: found.block_bytes,
            phase: Phase::Scanning,
            scan: None,
            older: Older::default(),
            early: VecDeque::new(),
            log,
            segments: BTreeMap::new(),
            creating: BTreeMap::new(),
            creating_bytes: 0,
            streams: BTreeMap::new(),
            waiters: BTreeMap::new(),
            next_waiter: 0,
            ack_due: BTreeSet::new(),
            reads: Jobs::new(found.bounds.reads_in_flight_max),
            cache: PageCache::new(found.bounds.page_cache_bytes_max),
            layer_cache: LayerCache::new(found.bounds.layer_cache_bytes_max),
            upkeep: Upkeep::default(),
            scrub: Scrubbing::default(),
            copy_writes: BTreeMap::new(),
            found_layers: found.layers.clone(),
            heads: (FileNumber(0), BTreeSet::new()),
            gone: Gone::default(),
            wishes: Wishes::default(),
            tokens: Tokens::default(),
            pace: Pace::default(),
            retries: BTreeSet::new(),
            address: None,
            resident: VecDeque::new(),
            resident_bytes: 0,
            unindexed: VecDeque::new(),
            now,
            pressed: false,
            at_bound: false,
            asking: Asking::new(found.seed, now + found.bounds.gossip_interval),
            counters: Counters::default(),
            actions: VecDeque::new(),
            bounds: found.bounds.clone(),
            begin: Some(Begin::new(found)),
        }
    }

    /// Takes an event.
    pub fn handle(&mut self, now: Duration, event: Event) {
        if matches!(self.phase, Phase::Stopped) {
            return;
        }
        self.now = now;
        match event {
            Event::Message {
                connection,
                role,
                stream,
                message,
            } => {
                self.on_message(now, connection, role, stream, message);
            }
            Event::Connected { connection, shown } => self.tokens.connected(connection, shown),
            Event::Disconnected { connection } => self.tokens.disconnected(connection),
            Event::StreamClosed { stream } => self.on_stream_closed(stream),
            Event::Written { token, result } => self.on_written(now, token, result),
            Event::Read { token, result } => match &mut self.scan {
                Some((_, ahead)) => {
                    if ahead.arrived(token, result) {
                        self.on_scan_read(now);
                    }
                }
                None if self.begin.is_some() => self.on_newest_read(now, token, &result),
                None => {
                    if !self.on_older_read(token, &result) {
                        self.on_read(token, result);
                    }
                }
            },
            Event::Prepared { file, result } => self.on_prepared(now, file, result),
            Event::PeerAnswer { token, answer } => self.on_peer_answer(now, token, answer),
            Event::Space { free_bytes } => self.upkeep.saw_space(free_bytes),
            Event::Listening { address } => self.address = Some(address),
            Event::Timeout => self.on_timeout(now),
        }
        self.send_acks(now);
        if self.is_ready() {
            self.keep_up(now);
        }
        self.pump(now);
    }

    /// The next action, until there is none. Then everything durable is in the page index, too: what can wait until acks have
    /// left is done here, behind the last action.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if action.is_none() {
            self.index_durable();
        }
        action
    }

    /// Whether [`NodeCore::poll_action`] has an action. A shell whose acks leave only when it has let go of the thread does these
    /// first, and calls again a little later when [`NodeCore::is_behind`] says so. Any event may come in between.
    pub fn has_action(&self) -> bool {
        !self.actions.is_empty()
    }

    /// Whether work was put off until there is no action left.
    pub fn is_behind(&self) -> bool {
        !self.unindexed.is_empty()
    }

    /// When [`Event::Timeout`] is due next, if ever.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.phase {
            Phase::Running => [
                self.log.poll_timeout(),
                Some(self.asking.next_round()),
                self.retries.first().map(|(at, _)| *at),
                self.reads.next_turn(self.now),
                self.older.poll_timeout(),
                self.upkeep_timeout(),
            ]
            .into_iter()
            .flatten()
            .min(),
            Phase::Scanning | Phase::Stopped => None,
        }
    }

    /// Whether the scan has ended, so that the node can be said to be ready.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    fn on_message(
        &mut self,
        now: Duration,
        connection: ConnectionKey,
        role: Role,
        stream: StreamKey,
        message: Message,
    ) {
        match permission(role, &message) {
            Permission::Yes => {}
            Permission::No => return self.refuse(stream, Refusal::NotAllowed),
            Permission::Never => {
                self.counters.refusals.violation();
                return self.actions.push_back(Action::Disconnect { connection });
            }
        }
        if matches!(self.phase, Phase::Scanning) {
            return self.put_early(Early {
                connection,
                role,
                stream,
                bytes: message.encode().len_bytes(),
                message,
            });
        }
        if let Err(refusal) = self.check_token(connection, role, &message) {
            return self.refuse(stream, refusal);
        }
        match message {
            Message::Attach(attach) => self.on_attach(now, stream, *attach),
            Message::Append(append) => self.on_append(now, stream, append),
            Message::Heartbeat(heartbeat) => self.on_heartbeat(now, stream, &heartbeat),
            Message::Probe(probe) => self.on_probe(now, stream, probe),
            Message::Claim(claim) => self.on_claim(now, stream, claim),
            Message::Install(install) => self.on_install(now, stream, *install),
            Message::Refill(refill) => self.on_refill(now, stream, refill),
            Message::ReadPages(read) => {
                self.pace.saw_foreground(now);
                self.on_read_pages(connection, stream, read);
            }
            Message::ReadLog(read) => self.on_read_log(now, (connection, role), stream, &read),
            Message::ReadLayer(read) => self.on_read_layer(now, (connection, role), stream, &read),
            Message::Gossip(gossip) => self.on_gossip(stream, &gossip),
            Message::CreateSegment(create) => self.on_create(now, stream, *create),
            Message::DropSegment(drop) => self.on_drop(now, stream, role, drop),
            Message::RetireVolume(retire) => self.on_retire(now, stream, retire),
            Message::AskStatus => self.on_ask_status(stream),
            Message::Survey(survey) => self.on_survey(now, stream, survey),
            Message::Wish(wish) => self.on_wish(stream, wish),
            Message::WishReport(report) => self.on_wish_report(stream, *report),
            Message::AskWish(ask) => self.on_ask_wish(stream, ask),
            Message::LeaveHint(leave) => self.on_leave_hint(stream, role, *leave),
            Message::AskHints(ask) => self.on_ask_hints(stream, ask),
            Message::Echo(bytes) => self.answer(stream, Message::Echo(bytes)),
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Refused(_)
            | Message::Attached(_)
            | Message::Ack(_)
            | Message::ProbeAnswer(_)
            | Message::Census(_)
            | Message::Installed(_)
            | Message::Pages(_)
            | Message::GossipAnswer(_)
            | Message::LogPiece(_)
            | Message::LayerPiece(_)
            | Message::Done
            | Message::Hints(_)
            | Message::NodeStatus(_) => unreachable!("permission() lets no answer through"),
        }
    }

    /// A message waits for the scan.
    fn put_early(&mut self, early: Early) {
        // These are large, and whoever sends one has been answered by this node before: it asks again.
        let is_bulk = matches!(
            early.message,
            Message::Append(_) | Message::Refill(_) | Message::Echo(_)
        );
        let bytes: usize = self.early.iter().map(|waiting| waiting.bytes).sum();
        let is_full =
            self.early.len() >= EARLY_MESSAGES_MAX || bytes + early.bytes > EARLY_BYTES_MAX;
        if is_bulk || is_full {
            return self.refuse(early.stream, Refusal::Overloaded);
        }
        self.early.push_back(early);
    }

    fn on_stream_closed(&mut self, stream: StreamKey) {
        self.early.retain(|early| early.stream != stream);
        self.forget_stream(stream);
        self.waiters.retain(|_, waiter| waiter.stream() != stream);
        self.reads.cancel(stream);
    }

    fn on_written(&mut self, now: Duration, token: DiskToken, result: Result<(), DiskError>) {
        if let Some((id, layer)) = self.copy_writes.remove(&token) {
            return self.on_copy_written(now, id, layer, result);
        }
        if self.on_layer_written(token, result) {
            return;
        }
        // Nearly always done already; here so that no more than one group is ever behind.
        self.index_durable();
        let lacked_heads = self.log.lacks_heads();
        let durable = match self.log.written(now, token, result) {
            Written::Durable(durable) => durable,
            Written::Failed(reason) => return self.stop(reason),
        };
        if lacked_heads && !self.log.lacks_heads() {
            // An older file may go now.
            self.upkeep.look();
        }
        for durable in durable {
            let moved = durable
                .ticket
                .and_then(|ticket| self.upkeep.take_moved(ticket));
            match moved {
                Some((id, batch)) => self.batch_moved(id, batch, durable.place),
                None => self.apply(&durable.entry, durable.place),
            }
            if let Some(ticket) = durable.ticket {
                self.answer_waiters(now, ticket);
            }
        }
        self.resume_pulls(now);
        if !self.log.is_busy() {
            self.resume_copies(now);
        }
    }

    /// An entry is durable: its segment takes it.
    fn apply(&mut self, entry: &Entry, place: Place) {
        let id = entry.segment();
        if let Entry::Created { pg, manifest, .. } = entry {
            self.creating.remove(&id);
            let lease = GrantedLease::none(READ_LEASE);
            let mut segment = Segment::new(id, *pg, manifest.clone(), lease);
            segment.measure();
            self.creating_bytes = self.creating_bytes.saturating_sub(segment.control_bytes);
            let before = self.segments.insert(id, segment);
            assert!(before.is_none(), "a segment is created once");
            return;
        }
        if let Entry::Dropped { .. } | Entry::Removed { .. } = entry {
            return self.apply_drop(entry);
        }
        // Whatever was on its way for a segment that was dropped goes nowhere.
        let Some(segment) = self.segments.get_mut(&id) else {
            if let Entry::Catalog { catalog, .. } = entry {
                // Its layers were written before it was dropped, and no catalog of its names them.
                let layers = catalog.layers.iter();
                let layers: Vec<_> = layers.map(|layer| (layer.number, false)).collect();
                self.layers_gone(id, &layers);
            }
            return;
        };
        let applied = segment.apply(entry, place);
        self.applied(id, applied);
    }

    fn applied(&mut self, id: SegmentId, applied: Applied) {
        match applied {
            Applied::Batch(batch, bytes) => {
                self.counters.redo_bytes += bytes as u64;
                self.upkeep.saw_redo(bytes);
                self.ack_due.insert(id);
                self.unindexed.push_back((id, batch));
                self.keep_resident(id, batch, bytes);
            }
            Applied::History(agrees_through) => {
                self.cache.drop_above(id, agrees_through);
                self.end_stale_copy(id);
                self.membership_changed(id);
            }
            Applied::Layers(gone) => {
                self.upkeep.unswept.insert(id);
                // A start looks at the files when it has read everything.
                if self.is_ready() {
                    self.layers_gone(id, &gone);
                }
            }
            Applied::Other => {}
        }
    }

    /// Brings the page indexes up to what is durable. Whoever reads an index calls this first.
    pub(crate) fn index_durable(&mut self) {
        for (id, batch) in self.unindexed.drain(..) {
            if let Some(segment) = self.segments.get_mut(&id) {
                segment.index_batch(batch);
            }
        }
    }

    /// Keeps the newest redo in memory, up to the bound.
    fn keep_resident(&mut self, id: SegmentId, batch: BatchId, bytes: usize) {
        self.resident.push_back((id, batch, bytes));
        self.resident_bytes += bytes;
        while self.resident_bytes > self.bounds.resident_redo_bytes_max {
            let Some((id, batch, bytes)) = self.resident.pop_front() else {
                break;
            };
            if self.unindexed.front() == Some(&(id, batch)) {
                // Its bytes are needed for that.
                self.index_durable();
            }
            // Gone already where its file was freed meanwhile: counted until its turn comes.
            if let Some(segment) = self.segments.get_mut(&id) {
                segment.chain.evict(batch);
            }
            self.resident_bytes -= bytes;
        }
    }

    /// A segment is gone, and its redo with it.
    pub(crate) fn forget_resident(&mut self, id: SegmentId) {
        let resident = self.resident.iter();
        let gone = resident
            .filter(|(of, ..)| *of == id)
            .map(|(.., bytes)| *bytes);
        self.resident_bytes -= gone.sum::<usize>();
        self.resident.retain(|(of, ..)| *of != id);
    }

    fn on_prepared(&mut self, now: Duration, file: FileNumber, result: Result<(), DiskError>) {
        let was_full = self.log.is_full();
        match self.log.prepared(now, file, result) {
            Ok(None) => {}
            Ok(Some(file)) => {
                let file = FileName::HotLog(file);
                self.actions.push_back(Action::Delete { file });
            }
            Err(reason) => return self.stop(reason),
        }
        self.upkeep.look();
        if self.log.is_full() {
            self.give_up_batches();
        }
        if self.log.is_full() != was_full {
            let text = if was_full {
                "the disk has space again"
            } else {
                "the disk is full"
            };
            self.log_line(Severity::Warning, text.to_string());
        }
    }

    /// The disk is full: what waits and finds no room is refused at once, so that nobody waits for an ack that may never come, and
    /// what is held of claims, histories and manifests is written.
    fn give_up_batches(&mut self) {
        let given_up = self.log.give_up();
        let Some((oldest, _)) = given_up.last().copied() else {
            return;
        };
        let mut of = BTreeSet::new();
        for (ticket, id) in given_up {
            if self.upkeep.take_moved(ticket).is_some() {
                // A copy of what is durable: it is made when it has to be.
                continue;
            }
            if let Some(segment) = self.segments.get_mut(&id) {
                segment.give_up_newest();
                of.insert(id);
            }
        }
        for stream in of
            .iter()
            .flat_map(|id| self.streams_of(*id))
            .collect::<Vec<_>>()
        {
            self.end_stream(stream, Refusal::DiskFull);
        }
        for stream in self.take_refills(oldest, &of) {
            self.refuse(stream, Refusal::DiskFull);
        }
    }

    fn on_timeout(&mut self, now: Duration) {
        if self.is_ready() && now >= self.asking.next_round() {
            // No write wakes those whose queue was given up.
            self.resume_pulls(now);
            self.gossip_round(now);
            self.scrub_turn();
            self.upkeep.look();
        }
        self.ask_busy_again(now);
        self.upkeep.wake(now);
        self.sweep_step();
        if self.is_ready() {
            self.read_older(now);
        }
        self.resume_paused(now);
    }

    fn pump(&mut self, now: Duration) {
        if self.is_ready() {
            let segments = &self.segments;
            let gone = &self.gone;
            let states = || {
                let states = segments.values().map(Segment::state_entry);
                states.chain(gone.entries()).collect()
            };
            let before = self.log.files_bytes();
            self.log.pump(now, &states, &mut self.actions);
            if self.log.files_bytes() > before {
                // An older file may be due to go.
                self.upkeep.look();
            }
        }
    }

    /// Appends an entry of `segment`, and says how that is refused where it is.
    pub(crate) fn append(&mut self, entry: Entry) -> Result<Ticket, Refusal> {
        if self.waiters.len() >= WAITERS_MAX {
            return Err(Refusal::Overloaded);
        }
        self.log.append(entry).map_err(|error| match error {
            AppendError::TooLong { .. } => Refusal::Malformed {
                reason: error.to_string(),
            },
            AppendError::Overloaded { .. } => Refusal::Overloaded,
            AppendError::Full => Refusal::DiskFull,
        })
    }

    pub(crate) fn answer(&mut self, stream: StreamKey, message: Message) {
        self.actions.push_back(Action::Send {
            stream,
            message,
            end: true,
        });
    }

    pub(crate) fn refuse(&mut self, stream: StreamKey, refusal: Refusal) {
        self.counters.refusals.count(&refusal);
        self.answer(stream, Message::Refused(refusal));
    }

    pub(crate) fn refuse_malformed(&mut self, stream: StreamKey, reason: impl Into<String>) {
        self.refuse(
            stream,
            Refusal::Malformed {
                reason: reason.into(),
            },
        );
    }

    pub(crate) fn log_line(&mut self, severity: Severity, text: String) {
        self.actions.push_back(Action::Log { severity, text });
    }

    pub(crate) fn stop(&mut self, reason: String) {
        self.phase = Phase::Stopped;
        self.actions.push_back(Action::Stop { reason });
    }
}
