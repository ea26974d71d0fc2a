//! The world: six nodes, writers that come and go, a network between them, one queue of events.
//!
//! ```text
//!   plan(seed) --faults--> world --events--> cores --actions--> network, disks, clients
//!                            |                 what is said and answered
//!                            +--------------------> oracle
//! ```
//! The owner of the one `match` on events. It decides when things happen; what happens is decided by the cores.

mod acks;
mod ambush;
mod answers;
mod brief;
mod client;
mod director;
mod drops;
mod faults;
mod finish;
mod layers;
mod losses;
mod members;
mod net;
mod node;
mod promise;
mod readers;
mod refences;
mod regrowth;
mod standbys;
mod strangers;
mod traps;
mod watches;
mod workload;
mod writer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use sixfold_log_format::hot_log::FileNumber;
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{Message, NodeStatus};
use sixfold_log_format::{
    Manifest, ManifestVersion, Member, MemberKind, MembershipEpoch, NodeId, PgEntry, PgId,
    QuorumModel, SegmentId, SegmentSet, VolumeEpoch, VolumeId, VolumeParameters,
};
use sixfold_storage_node_core::{DiskError, DiskToken, FileName, StreamKey};

use crate::clock::{MS, Time, WallClocks};
use crate::oracle::{Bad, Oracle};
use crate::plan::{Fault, NODES_MAX, Plan};
use crate::queue::Queue;
use crate::reached::Counts;
use crate::rng::{Rng, mix};
use ambush::Ambushes;
use client::Retry;
use director::Director;
use drops::Dropping;
use finish::Finish;
use layers::LayerWatch;
use losses::Losses;
use net::{Item, Net, Party, Stream};
use node::Node;
use standbys::{Hearing, Standby};
use traps::Traps;
use watches::Watch;
use writer::Writer;

/// Hosts of nodes; a run may have fewer. The first six hold a new volume.
pub(crate) const NODE_COUNT: usize = NODES_MAX;
/// Nodes of a new volume.
const FIRST_NODES: usize = 6;
/// Machines that writers run on, one in each zone.
pub(crate) const WRITER_HOSTS: usize = 3;
/// The machine of the auditor, which nothing ever cuts off.
const AUDITOR_HOST: usize = NODE_COUNT + WRITER_HOSTS;
const HOST_COUNT: usize = AUDITOR_HOST + 1;
/// More is a livelock.
const EVENTS_MAX: u64 = 3_000_000;

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    Deliver {
        stream: usize,
        up: bool,
        item: Item,
    },
    /// The client's side of a stream learns that it is over.
    ClientEnd {
        stream: usize,
    },
    /// The node's side does.
    NodeEnd {
        stream: usize,
    },
    LateRequest {
        client: Party,
        node: usize,
        message: Box<Message>,
    },
    ConnectionTimeout {
        host: usize,
        node: usize,
    },
    Written {
        node: usize,
        life: u32,
        token: DiskToken,
        result: Result<(), DiskError>,
    },
    Read {
        node: usize,
        life: u32,
        token: DiskToken,
        file: FileName,
        offset: u64,
        bytes: u32,
    },
    Prepared {
        node: usize,
        life: u32,
        file: FileNumber,
        bytes: u64,
        /// The file that becomes it.
        from: Option<FileNumber>,
        result: Result<(), DiskError>,
    },
    NodeTimer {
        node: usize,
        life: u32,
    },
    NodeStart {
        node: usize,
    },
    WriterTimer {
        writer: usize,
    },
    WriterPump {
        writer: usize,
    },
    Client {
        writer: usize,
        client: usize,
        step: u64,
    },
    Watch {
        writer: usize,
        watch: usize,
        step: u64,
    },
    ResumeNode {
        node: usize,
        life: u32,
    },
    ResumeWriter {
        writer: usize,
    },
    Fault {
        index: usize,
    },
    /// The end of a fault that lasts.
    Heal(Heal),
    Supervise,
    Create,
    Direct {
        step: u64,
    },
    Strike {
        number: u64,
        nodes: u16,
        down: Time,
    },
    Ambush {
        step: u64,
    },
    Trap {
        step: u64,
    },
    /// By now the volume must be open again after a survivor died while others joined.
    WindowOver {
        number: u64,
    },
    /// By now a standby must have opened the volume whose writer of this epoch died.
    TakeoverDue {
        volume_epoch: VolumeEpoch,
    },
    ReaderTimer {
        reader: usize,
    },
    StandbyTimer {
        standby: usize,
    },
    /// Another process stands by where one was.
    StandBy {
        host: usize,
        patience: Time,
    },
    /// The next of the nodes that do not hear the writer for a while.
    Roll {
        number: u64,
    },
    /// An operator comes again.
    Leave {
        wish: usize,
    },
    /// Somebody reads pages at any point that can be read.
    Probe,
    HealAll,
    Finish,
}

/// What ends.
#[derive(Debug, Clone)]
pub(crate) enum Heal {
    Unblock(Vec<(usize, usize)>),
    Gossip,
    Surveys,
    Slow(u16),
    Loss,
    DiskFull(u16),
    DiskSlow(u16),
    Misreads(u16),
    LostSync,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Events that happened.
    pub events: u64,
    /// A hash over all of them.
    pub hash: u64,
    /// What was violated, if anything.
    pub failure: Option<String>,
    /// What was met.
    pub reached: Counts,
    /// Commits that were answered.
    pub commits: u64,
    /// Transactions that began.
    pub transactions: u64,
    /// Reopenings that ended well.
    pub openings: u64,
    /// What happened, line by line, where it was asked for.
    pub story: Vec<String>,
}

/// The world.
pub(crate) struct World {
    plan: Plan,
    now: Time,
    queue: Queue<Event>,
    net_rng: Rng,
    disk_rng: Rng,
    rng: Rng,
    nodes: Vec<Node>,
    writers: Vec<Writer>,
    streams: Vec<Stream>,
    live: BTreeSet<usize>,
    net: Net,
    manifest: Manifest,
    /// Segment -> node and PG.
    places: BTreeMap<SegmentId, (usize, PgId)>,
    created: BTreeSet<SegmentId>,
    is_created: bool,
    /// Those who only read, and the highest epoch that any candidate claimed.
    readers: Vec<readers::Reader>,
    claimed: VolumeEpoch,
    /// Those who watch the writer, and what the root's segments hear of it.
    standbys: Vec<Standby>,
    hearing: Hearing,
    losses: Losses,
    /// What operators want.
    wishes: Vec<members::Open>,
    /// Segments whose nodes know that they were removed.
    tombs: BTreeMap<SegmentId, ManifestVersion>,
    /// Those that were dropped as well: their tombstones answer for them.
    laid: BTreeSet<SegmentId>,
    /// Segments that an operator has dropped.
    dropped: BTreeMap<SegmentId, Dropping>,
    oracle: Oracle,
    director: Director,
    ambushes: Ambushes,
    traps: Traps,
    window: Option<regrowth::Window>,
    window_number: u64,
    walls: WallClocks,
    finish: Finish,
    layers: LayerWatch,
    watches: Vec<Watch>,
    /// Commits that somebody will try again.
    retries: VecDeque<Retry>,
    next_transaction: u64,
    commits: u64,
    misreads_planned: bool,
    events: u64,
    hash: u64,
    story: Option<Vec<String>>,
    bad: Option<Bad>,
    /// The answer to the question that the world asks a node by itself.
    status: Option<NodeStatus>,
    /// The read on this stream is under a history that its node does not hold.
    must_refuse: Option<usize>,
}

impl World {
    pub(crate) fn new(plan: Plan, tells: bool) -> World {
        let mut rng = Rng::new(plan.seed, 2);
        let manifest = first_manifest(&plan, &mut rng);
        let mut places = BTreeMap::new();
        for entry in &manifest.pgs {
            for (node, member) in entry.members().into_iter().enumerate() {
                places.insert(member.segment, (node, entry.pg));
            }
        }
        let mut manifest = manifest;
        let first = manifest.pgs[0].members().into_iter();
        let mut nodes: Vec<Node> = first.map(|member| Node::new(member.node)).collect();
        for spare in 0..plan.shape.members.spares {
            let id = NodeId::from_bytes(rng.bytes());
            if plan.shape.members.knows_spares {
                manifest.hints.push(hint_of(id, FIRST_NODES + spare));
            }
            nodes.push(Node::new(id));
        }
        let page_bytes = plan.shape.page_bytes as usize;
        let misreads_planned = plan
            .faults
            .iter()
            .any(|(_, fault)| matches!(fault, Fault::Misreads { .. }));
        let mut world = World {
            now: 0,
            queue: Queue::new(),
            net_rng: Rng::new(plan.seed, 3),
            disk_rng: Rng::new(plan.seed, 4),
            net: Net::new(&plan, &mut rng),
            rng,
            nodes,
            writers: Vec::new(),
            streams: Vec::new(),
            live: BTreeSet::new(),
            places,
            created: BTreeSet::new(),
            is_created: false,
            readers: Vec::new(),
            claimed: VolumeEpoch::CREATION,
            standbys: Vec::new(),
            hearing: Hearing::default(),
            losses: Losses::default(),
            wishes: Vec::new(),
            tombs: BTreeMap::new(),
            laid: BTreeSet::new(),
            dropped: BTreeMap::new(),
            oracle: Oracle::new(&manifest, page_bytes),
            manifest,
            director: Director::new(&plan),
            ambushes: Ambushes::default(),
            traps: Traps::default(),
            window: None,
            window_number: 0,
            walls: WallClocks::new(HOST_COUNT, &mut Rng::new(plan.seed, 7)),
            finish: Finish::default(),
            layers: LayerWatch::new(&mut Rng::new(plan.seed, 9)),
            watches: Vec::new(),
            retries: VecDeque::new(),
            next_transaction: 0,
            commits: 0,
            misreads_planned,
            events: 0,
            hash: 0,
            story: tells.then(Vec::new),
            bad: None,
            status: None,
            must_refuse: None,
            plan,
        };
        for node in 0..world.nodes.len() {
            world.start_node(node);
        }
        world.queue.push(0, Event::Create);
        world.queue.push(30 * MS, Event::Probe);
        for index in 0..world.plan.faults.len() {
            let at = world.plan.faults[index].0;
            world.queue.push(at, Event::Fault { index });
        }
        let end = world.plan.end;
        world.queue.push(end, Event::HealAll);
        world
    }

    /// Lets things happen until the run is over or something is wrong.
    pub(crate) fn run(&mut self) {
        while self.bad.is_none() && !self.finish.is_over() {
            let Some((at, event)) = self.queue.pop() else {
                self.fail("nothing happens any more");
                return;
            };
            self.now = at;
            self.events += 1;
            if self.events > EVENTS_MAX {
                self.fail("livelock: too many events");
                return;
            }
            self.handle(event);
        }
    }

    /// What became of it.
    pub(crate) fn outcome(&mut self, panic: Option<String>) -> Outcome {
        let failure = panic
            .map(|text| format!("panic: {text}"))
            .or_else(|| self.bad.take());
        Outcome {
            events: self.events,
            hash: self.hash,
            failure,
            reached: self.oracle.reached.clone(),
            commits: self.commits,
            transactions: self.next_transaction,
            openings: self.oracle.openings.len() as u64,
            story: self.story.take().unwrap_or_default(),
        }
    }

    fn handle(&mut self, event: Event) {
        let Some(event) = self.defer(event) else {
            return;
        };
        match event {
            Event::Deliver { stream, up, item } => self.deliver(stream, up, item),
            Event::ClientEnd { stream } => self.client_end(stream, false),
            Event::NodeEnd { stream } => self.node_end(stream),
            Event::LateRequest {
                client,
                node,
                message,
            } => self.late_request(client, node, *message),
            Event::ConnectionTimeout { host, node } => self.connection_timeout(host, node),
            Event::Written {
                node,
                life,
                token,
                result,
            } => self.written(node, life, token, result),
            Event::Read {
                node,
                life,
                token,
                file,
                offset,
                bytes,
            } => self.read(node, life, token, (file, offset, bytes)),
            Event::Prepared {
                node,
                life,
                file,
                bytes,
                from,
                result,
            } => self.prepared(node, life, (file, bytes, from), result),
            Event::NodeTimer { node, life } => self.node_timer(node, life),
            Event::NodeStart { node } => self.start_node(node),
            Event::WriterTimer { writer } => self.writer_timer(writer),
            Event::WriterPump { writer } => self.writer_pump(writer),
            Event::Client {
                writer,
                client,
                step,
            } => self.client_step(writer, client, step),
            Event::Watch {
                writer,
                watch,
                step,
            } => self.watch_step(writer, watch, step),
            Event::ResumeNode { node, life } => self.resume_node(node, life),
            Event::ResumeWriter { writer } => self.resume_writer(writer),
            Event::Fault { index } => self.fault(index),
            Event::Heal(heal) => self.heal(heal),
            Event::Supervise => self.supervise(),
            Event::Create => self.create(),
            Event::Direct { step } => self.direct(step),
            Event::Strike {
                number,
                nodes,
                down,
            } => self.strike(number, nodes, down),
            Event::Ambush { step } => self.ambush_step(step),
            Event::Trap { step } => self.trap_step(step),
            Event::WindowOver { number } => self.window_over(number),
            Event::TakeoverDue { volume_epoch } => self.takeover_due(volume_epoch),
            Event::ReaderTimer { reader } => self.reader_timer(reader),
            Event::StandbyTimer { standby } => self.standby_timer(standby),
            Event::StandBy { host, patience } => self.start_standby(host, patience),
            Event::Roll { number } => self.roll_on(number),
            Event::Leave { wish } => self.leave(wish),
            Event::Probe => self.probe(),
            Event::HealAll => self.heal_all(),
            Event::Finish => self.finish_step(),
        }
    }

    /// What reaches a process that stands still waits for it.
    fn defer(&mut self, event: Event) -> Option<Event> {
        let (node, writer) = match &event {
            Event::Deliver { stream, up, .. } => {
                let stream = &self.streams[*stream];
                match (up, stream.client) {
                    (true, _) => (Some(stream.node), None),
                    (false, Party::Node { node, .. }) => (Some(node), None),
                    (false, Party::Writer(writer)) => (None, Some(writer)),
                    (
                        false,
                        Party::Auditor
                        | Party::Reader(_)
                        | Party::Standby(_)
                        | Party::Stranger
                        | Party::Ghost { .. },
                    ) => (None, None),
                }
            }
            Event::ClientEnd { stream } => match self.streams[*stream].client {
                Party::Node { node, .. } => (Some(node), None),
                Party::Writer(writer) => (None, Some(writer)),
                Party::Auditor
                | Party::Reader(_)
                | Party::Standby(_)
                | Party::Stranger
                | Party::Ghost { .. } => (None, None),
            },
            Event::NodeEnd { stream } => (Some(self.streams[*stream].node), None),
            Event::Written { node, .. }
            | Event::Read { node, .. }
            | Event::Prepared { node, .. }
            | Event::NodeTimer { node, .. } => (Some(*node), None),
            Event::WriterTimer { writer }
            | Event::WriterPump { writer }
            | Event::Client { writer, .. }
            | Event::Watch { writer, .. } => (None, Some(*writer)),
            _ => (None, None),
        };
        if let Some(node) = node.filter(|node| self.nodes[*node].paused) {
            self.nodes[node].deferred.push(event);
            return None;
        }
        if let Some(writer) = writer.filter(|writer| self.writers[*writer].paused) {
            self.writers[writer].deferred.push(event);
            return None;
        }
        Some(event)
    }

    fn fail(&mut self, bad: impl Into<Bad>) {
        let bad = bad.into();
        self.tell(|| format!("!! {bad}"));
        self.bad.get_or_insert(bad);
    }

    fn check(&mut self, result: Result<(), Bad>) {
        if let Err(bad) = result {
            self.fail(bad);
        }
    }

    /// A line of the story, where one is told.
    fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let mut text = String::new();
            let _ = write!(text, "{:>10.3} ms  {}", self.now as f64 / MS as f64, line());
            story.push(text);
        }
    }

    /// Takes something that happened into the hash of the run.
    fn note(&mut self, kind: u64, what: u64) {
        self.hash = mix(self.hash ^ self.now.wrapping_mul(31) ^ mix(kind << 48 ^ what));
    }

    fn node_of(&self, node: NodeId) -> usize {
        self.nodes
            .iter()
            .position(|known| known.id == node)
            .expect("nodes are known by their ids")
    }

    fn stream_key(stream: usize) -> StreamKey {
        StreamKey(stream as u64)
    }

    /// The writer that opened last, if it still lives.
    fn current_writer(&self) -> Option<usize> {
        let newest = self.oracle.newest();
        self.writers
            .iter()
            .rposition(|writer| writer.is_open() && writer.epoch == newest)
    }
}

/// The zone of a node: two of the first six in each, then a spare one in each.
fn zone_of(node: usize) -> usize {
    if node < FIRST_NODES {
        node / 2
    } else {
        (node - FIRST_NODES) % 3
    }
}

fn hint_of(node: NodeId, index: usize) -> NodeHint {
    NodeHint {
        node,
        az: format!("az{}", zone_of(index)),
        address: format!("node-{index}:1"),
    }
}

fn first_manifest(plan: &Plan, rng: &mut Rng) -> Manifest {
    let volume = VolumeId::from_bytes(rng.bytes());
    let nodes: Vec<NodeId> = (0..FIRST_NODES)
        .map(|_| NodeId::from_bytes(rng.bytes()))
        .collect();
    let entry = |pg: u32, rng: &mut Rng| PgEntry {
        pg: PgId::new(pg),
        sets: vec![SegmentSet {
            model: QuorumModel::FourOfSix,
            members: nodes
                .iter()
                .map(|node| Member {
                    segment: SegmentId::from_bytes(rng.bytes()),
                    node: *node,
                    kind: MemberKind::Full,
                    joining: false,
                })
                .collect(),
        }],
        removed: Vec::new(),
    };
    let shape = &plan.shape;
    Manifest {
        version: ManifestVersion {
            volume_epoch: VolumeEpoch::CREATION,
            membership_epoch: MembershipEpoch::new(1),
        },
        volume,
        parameters: VolumeParameters {
            page_bytes: shape.page_bytes,
            lal: shape.lal,
            pages_per_pg: shape.pages_per_pg,
            retention_ms: shape.layers.retention_ms,
            retention_bytes: shape.layers.retention_bytes,
            token: plan.shape.token.then(strangers::token),
        },
        pgs: (0..shape.pg_count).map(|pg| entry(pg, rng)).collect(),
        hints: nodes
            .iter()
            .enumerate()
            .map(|(index, node)| hint_of(*node, index))
            .collect(),
    }
}
