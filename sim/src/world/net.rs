//! The network: streams between a client (writer, node, auditor) and a node.
//!
//! Messages of one stream arrive in order, those of different streams as it happens. What is cut off is held back and goes on
//! when the cut heals; where it does not heal in time the connection is lost, and every stream of it with all that was under
//! way. A request may also arrive twice, late, when its sender is long dead.

use std::collections::{BTreeSet, VecDeque};

use sixfold_compute_core::{AttachKey, FetchKey};
use sixfold_log_format::wire::{Message, PageAnswer, PageRequest, Refusal, Role};
use sixfold_log_format::{Manifest, ManifestVersion, PgId, SegmentId};
use sixfold_recovery::machine::RequestKey;
use sixfold_storage_node_core::{ConnectionKey, Event as NodeEvent, PeerToken};

use super::brief::{brief, tag_of};
use super::{AUDITOR_HOST, Event, HOST_COUNT, NODE_COUNT, World, zone_of};
use crate::clock::{MS, Time, US};
use crate::plan::{Plan, node_name};
use crate::reached::Reached;
use crate::rng::Rng;

/// Who opened a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Party {
    Writer(usize),
    Node {
        node: usize,
        life: u32,
    },
    Auditor,
    /// A process that opened the volume for reading.
    Reader(usize),
    /// A process that watches the writer.
    Standby(usize),
    /// A process that has certificates, and not the volume's token.
    Stranger,
    /// A late copy of what this host sent in this role.
    Ghost {
        host: usize,
        role: Role,
    },
}

/// What a stream is for.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Log { attach: AttachKey },
    Recovery { request: RequestKey, round: u32 },
    Survey { request: RequestKey },
    Watch { request: RequestKey },
    Read,
    Ask { fetch: FetchKey },
    Peer { token: PeerToken },
    Audit { question: u64 },
    Nothing,
}

/// What travels on a stream.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are messages; a box for each would be slower"
)]
pub(crate) enum Item {
    Message(Message),
    End,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) client: Party,
    pub(crate) node: usize,
    pub(crate) life: u32,
    pub(crate) kind: Kind,
    pub(crate) client_open: bool,
    pub(crate) node_open: bool,
    pub(crate) answered: bool,
    /// The node has attached it and not ended it: what comes on it is heard.
    pub(crate) is_heard: bool,
    pub(crate) pages: Vec<PageRequest>,
    /// The segment that a log stream leads to.
    pub(crate) segment: Option<SegmentId>,
    /// The segment that was asked.
    pub(crate) about: Option<SegmentId>,
    /// The manifest that it was told.
    pub(crate) version: Option<ManifestVersion>,
    /// It was told so of a manifest that does not name it.
    pub(crate) removes: bool,
    /// It was asked without a claim.
    pub(crate) surveys: bool,
    up_at: Time,
    down_at: Time,
    held_up: VecDeque<Item>,
    held_down: VecDeque<Item>,
    held_since: Option<Time>,
}

/// Who reaches whom, and how fast.
#[derive(Debug)]
pub(crate) struct Net {
    blocked: [[u8; HOST_COUNT]; HOST_COUNT],
    pub(crate) slow: [u64; NODE_COUNT],
    pub(crate) loss: bool,
    pub(crate) quiet: u32,
    /// Log streams of every second group are held back.
    pub(crate) holds_odd_groups: bool,
    /// Log streams of this group are held back.
    pub(crate) holds_group: Option<PgId>,
    /// Installs of a writer that is open are held back from these segments.
    pub(crate) holds_steps: BTreeSet<SegmentId>,
    /// What readers ask of this group is held back.
    pub(crate) holds_surveys: Option<PgId>,
    idle: Time,
    link_us: u64,
    /// Requests of a thousand that come once more.
    late: u64,
}

impl Net {
    pub(crate) fn new(plan: &Plan, rng: &mut Rng) -> Net {
        Net {
            blocked: [[0; HOST_COUNT]; HOST_COUNT],
            slow: [1; NODE_COUNT],
            loss: false,
            quiet: 0,
            holds_odd_groups: false,
            holds_group: None,
            holds_steps: BTreeSet::new(),
            holds_surveys: None,
            idle: rng.pick(&[300, 1_000, 3_000]) * MS,
            link_us: plan.shape.link_us,
            late: rng.pick(&[0, 5, 30]),
        }
    }
}

impl World {
    pub(super) fn host_of(&self, party: Party) -> usize {
        match party {
            Party::Writer(writer) => self.writers[writer].host,
            Party::Node { node, .. } => node,
            Party::Auditor | Party::Stranger => AUDITOR_HOST,
            Party::Reader(reader) => self.readers[reader].host,
            Party::Standby(standby) => self.standbys[standby].host,
            Party::Ghost { host, .. } => host,
        }
    }

    fn role_of(party: Party) -> Role {
        match party {
            Party::Writer(_) | Party::Standby(_) | Party::Stranger => Role::Writer,
            Party::Node { .. } => Role::Node,
            Party::Auditor => Role::Operator,
            Party::Reader(_) => Role::Reader,
            Party::Ghost { role, .. } => role,
        }
    }

    /// Opens a stream with its first message.
    pub(super) fn open_stream(
        &mut self,
        client: Party,
        node: usize,
        kind: Kind,
        message: Message,
    ) -> usize {
        let up = self.nodes[node].core.is_some();
        let pages = match &message {
            Message::ReadPages(read) => read.pages.clone(),
            _ => Vec::new(),
        };
        let segment = match &message {
            Message::Attach(attach) => Some(attach.segment),
            _ => None,
        };
        let manifest = match &message {
            Message::Attach(attach) => Some(&attach.manifest),
            Message::Install(install) => Some(&install.manifest),
            _ => None,
        };
        let about = segment.or(match &message {
            Message::ReadPages(read) => Some(read.segment),
            Message::ReadLog(read) => Some(read.segment),
            Message::Claim(claim) if client != Party::Stranger => {
                self.claimed = self.claimed.max(claim.volume_epoch);
                Some(claim.segment)
            }
            Message::Install(install) => Some(install.segment),
            Message::Gossip(gossip) => Some(gossip.segment),
            Message::DropSegment(drop) => Some(drop.segment),
            Message::Survey(survey) => Some(survey.segment),
            _ => None,
        });
        let names = |manifest: &Manifest, segment: SegmentId| {
            let entries = manifest.pgs.iter();
            let mut sets = entries.flat_map(|entry| &entry.sets);
            sets.any(|set| set.members.iter().any(|member| member.segment == segment))
        };
        let removes = match (manifest, about) {
            (Some(manifest), Some(about)) => !names(manifest, about),
            _ => false,
        };
        let manifest = manifest.map(|manifest| ManifestVersion { ..manifest.version });
        let surveys = matches!(message, Message::Survey(_));
        let is_request = !matches!(kind, Kind::Log { .. } | Kind::Audit { .. } | Kind::Nothing);
        if is_request && up && self.net.late > 0 && self.net_rng.chance(self.net.late, 1_000) {
            let host = self.host_of(client);
            let delay = self.net_rng.pick(&[MS, 30 * MS, 400 * MS]);
            let at = self.now + 1 + self.net_rng.below(delay);
            let client = Party::Ghost {
                host,
                role: Self::role_of(client),
            };
            let message = Box::new(message.clone());
            self.queue.push(
                at,
                Event::LateRequest {
                    client,
                    node,
                    message,
                },
            );
        }
        let stream = self.streams.len();
        self.streams.push(Stream {
            client,
            node,
            life: self.nodes[node].life,
            kind,
            client_open: true,
            node_open: up,
            answered: false,
            is_heard: false,
            pages,
            segment,
            about,
            version: manifest,
            removes,
            surveys,
            up_at: 0,
            down_at: 0,
            held_up: VecDeque::new(),
            held_down: VecDeque::new(),
            held_since: None,
        });
        self.live.insert(stream);
        if up {
            self.send(stream, true, Item::Message(message));
        } else {
            let wait = self.net_rng.pick(&[US * 200, 50 * MS, 1_000 * MS]);
            self.queue
                .push(self.now + wait, Event::ClientEnd { stream });
        }
        stream
    }

    pub(super) fn late_request(&mut self, client: Party, node: usize, message: Message) {
        if self.nodes[node].core.is_some() {
            self.oracle.reached.hit(Reached::LateRequest);
            self.tell(|| format!("late copy to {}: {}", node_name(node), brief(&message)));
            self.open_stream(client, node, Kind::Nothing, message);
        }
    }

    /// Sends on a stream.
    pub(super) fn send(&mut self, stream: usize, up: bool, item: Item) {
        let client = self.streams[stream].client;
        let host = self.host_of(client);
        let node = self.streams[stream].node;
        let (from, to) = if up { (host, node) } else { (node, host) };
        let silenced = (self.net.quiet > 0 && matches!(client, Party::Node { .. }))
            || (up && (self.holds_group_of(stream) || self.holds_step_of(stream)));
        let now = self.now;
        if self.net.blocked[from][to] > 0 || silenced {
            let state = &mut self.streams[stream];
            let held = if up {
                &mut state.held_up
            } else {
                &mut state.held_down
            };
            held.push_back(item);
            if state.held_since.is_none() {
                state.held_since = Some(now);
                let at = now + self.net.idle;
                self.queue.push(at, Event::ConnectionTimeout { host, node });
            }
            return;
        }
        let latency = self.latency(host, node);
        let state = &mut self.streams[stream];
        let last = if up {
            &mut state.up_at
        } else {
            &mut state.down_at
        };
        let at = (now + latency).max(*last + 1);
        *last = at;
        self.queue.push(at, Event::Deliver { stream, up, item });
    }

    /// Whether the log of the stream's group is held back.
    fn holds_group_of(&self, stream: usize) -> bool {
        let pg = self.streams[stream]
            .segment
            .and_then(|segment| self.places.get(&segment))
            .map(|(_, pg)| *pg);
        pg.is_some_and(|pg| {
            self.net.holds_group == Some(pg) || (self.net.holds_odd_groups && pg.get() % 2 == 1)
        })
    }

    /// Whether it tells a segment of a step, or asks something for a reader, that is held back.
    fn holds_step_of(&self, stream: usize) -> bool {
        let state = &self.streams[stream];
        let tells = matches!(state.kind, Kind::Ask { .. }) && state.version.is_some();
        let Some(about) = state.about else {
            return false;
        };
        let asks = state.surveys && self.net.holds_surveys.is_some();
        let pg = || self.places.get(&about).map(|(_, pg)| *pg);
        tells && self.net.holds_steps.contains(&about) || asks && pg() == self.net.holds_surveys
    }

    fn latency(&mut self, host: usize, node: usize) -> Time {
        let base = self.net.link_us * US;
        let mut latency = base / 2 + self.net_rng.below(base);
        let zone = |host: usize| {
            if host < NODE_COUNT {
                zone_of(host)
            } else {
                host - NODE_COUNT
            }
        };
        if zone(host) != zone(node) {
            latency += base / 2;
        }
        let lost = if self.net.loss { 30 } else { 1 };
        if self.net_rng.chance(lost, 1_000) {
            // A packet was lost: it comes again.
            latency += self.net_rng.range(5, 120) * MS;
        }
        let slow = if host < NODE_COUNT {
            self.net.slow[host]
        } else {
            1
        };
        latency * slow.max(self.net.slow[node])
    }

    pub(super) fn block(&mut self, from: usize, to: usize) {
        self.net.blocked[from][to] += 1;
    }

    pub(super) fn unblock(&mut self, from: usize, to: usize) {
        self.net.blocked[from][to] -= 1;
        if self.net.blocked[from][to] == 0 {
            self.release_held();
        }
    }

    pub(super) fn release_held(&mut self) {
        let live: Vec<usize> = self.live.iter().copied().collect();
        for stream in live {
            let state = &mut self.streams[stream];
            if state.held_since.take().is_none() {
                continue;
            }
            let up = std::mem::take(&mut state.held_up);
            let down = std::mem::take(&mut state.held_down);
            up.into_iter()
                .for_each(|item| self.send(stream, true, item));
            down.into_iter()
                .for_each(|item| self.send(stream, false, item));
        }
    }

    pub(super) fn connection_timeout(&mut self, host: usize, node: usize) {
        let idle = self.net.idle;
        let timed_out = |state: &Stream| {
            state
                .held_since
                .is_some_and(|since| since + idle <= self.now)
        };
        let of_pair: Vec<usize> = self
            .live
            .iter()
            .copied()
            .filter(|stream| {
                let state = &self.streams[*stream];
                state.node == node && self.host_of(state.client) == host
            })
            .collect();
        if of_pair
            .iter()
            .any(|stream| timed_out(&self.streams[*stream]))
        {
            self.oracle.reached.hit(Reached::ConnectionTimedOut);
            of_pair
                .into_iter()
                .for_each(|stream| self.break_stream(stream));
        }
    }

    /// The connection is gone, and with it what was under way.
    pub(super) fn break_stream(&mut self, stream: usize) {
        let now = self.now;
        let state = &mut self.streams[stream];
        state.held_since = None;
        state.held_up.clear();
        state.held_down.clear();
        if state.node_open {
            state.node_open = false;
            self.queue.push(now, Event::NodeEnd { stream });
        }
        if self.streams[stream].client_open {
            self.queue.push(now, Event::ClientEnd { stream });
        }
        self.live.remove(&stream);
    }

    /// A writer loses every connection.
    pub(super) fn break_streams_of(&mut self, writer: usize) {
        let streams: Vec<usize> = self
            .live
            .iter()
            .copied()
            .filter(|stream| self.streams[*stream].client == Party::Writer(writer))
            .collect();
        streams
            .into_iter()
            .for_each(|stream| self.break_stream(stream));
    }

    /// Every stream of a client whose process is gone: the nodes notice sooner or later.
    pub(super) fn client_gone(&mut self, client: Party) {
        let streams: Vec<usize> = self
            .live
            .iter()
            .copied()
            .filter(|stream| self.streams[*stream].client == client)
            .collect();
        let soon = self.net_rng.chance(1, 2);
        for stream in streams {
            self.streams[stream].client_open = false;
            if self.streams[stream].node_open {
                let wait = if soon { 2 * MS } else { self.net.idle };
                self.queue.push(self.now + wait, Event::NodeEnd { stream });
            }
            self.live.remove(&stream);
        }
    }

    /// Every stream to a node whose process is gone: clients notice sooner or later.
    pub(super) fn node_gone(&mut self, node: usize) {
        let streams: Vec<usize> = self
            .live
            .iter()
            .copied()
            .filter(|stream| self.streams[*stream].node == node)
            .collect();
        let soon = self.net_rng.chance(1, 2);
        for stream in streams {
            self.streams[stream].node_open = false;
            if self.streams[stream].client_open {
                let wait = if soon { MS } else { self.net.idle };
                self.queue
                    .push(self.now + wait, Event::ClientEnd { stream });
            }
            self.live.remove(&stream);
        }
        let life = self.nodes[node].life;
        self.client_gone(Party::Node { node, life });
    }

    /// The client gives a stream up.
    pub(super) fn close_stream(&mut self, stream: usize) {
        self.streams[stream].client_open = false;
        self.live.remove(&stream);
        if self.streams[stream].node_open {
            let wait = self.latency(
                self.host_of(self.streams[stream].client),
                self.streams[stream].node,
            );
            let at = (self.now + wait).max(self.streams[stream].up_at + 1);
            self.queue.push(at, Event::NodeEnd { stream });
        }
    }

    pub(super) fn node_end(&mut self, stream: usize) {
        let state = &mut self.streams[stream];
        state.node_open = false;
        let (node, life) = (state.node, state.life);
        if self.nodes[node].life == life && self.nodes[node].core.is_some() {
            let stream = Self::stream_key(stream);
            self.node_event(node, NodeEvent::StreamClosed { stream });
        }
    }

    pub(super) fn deliver(&mut self, stream: usize, up: bool, item: Item) {
        let state = &self.streams[stream];
        let open = if up {
            state.node_open && self.nodes[state.node].life == state.life
        } else {
            state.client_open
        };
        if !open {
            return;
        }
        let item = match item {
            Item::Message(message) if self.plan.shape.encodes => {
                let body = message.encode().to_bytes().slice(4..);
                match Message::decode(body) {
                    Ok(message) => Item::Message(message),
                    Err(error) => {
                        return self
                            .fail(format!("a message does not decode: {error}: {message:?}"));
                    }
                }
            }
            item => item,
        };
        match (up, item) {
            (true, Item::Message(message)) => {
                self.note(1, tag_of(&message) ^ ((stream as u64) << 8));
                self.deliver_up(stream, message);
            }
            (true, Item::End) => self.node_end(stream),
            (false, Item::Message(message)) => {
                self.note(2, tag_of(&message) ^ ((stream as u64) << 8));
                self.deliver_down(stream, message);
            }
            (false, Item::End) => self.client_end(stream, true),
        }
    }

    fn deliver_up(&mut self, stream: usize, message: Message) {
        let state = &self.streams[stream];
        let (node, client) = (state.node, state.client);
        if let (Party::Writer(writer), Kind::Log { attach }, Message::Append(append)) =
            (client, &state.kind, &message)
        {
            let (attach, bytes) = (*attach, append.batch.len());
            self.writer_drained(writer, attach, bytes);
        }
        let connection = ConnectionKey(match client {
            Party::Writer(writer) => 1_000 + writer as u64,
            Party::Node { node, life } => u64::from(life) * 10 + node as u64,
            Party::Auditor => 900,
            Party::Stranger => 901,
            Party::Reader(reader) => 100_000 + reader as u64,
            Party::Standby(standby) => 200_000 + standby as u64,
            Party::Ghost { host, .. } => 950 + host as u64,
        });
        if matches!(message, Message::Append(_) | Message::Heartbeat(_)) {
            self.hears_the_writer(stream);
        }
        self.connect(node, connection, client);
        self.before_delivery(node, stream, &message);
        self.hear_announcement(stream, &message);
        // The auditor plays whichever role its question takes.
        let role = match (&message, client) {
            (Message::ReadPages(_) | Message::ReadLog(_), Party::Auditor) => Role::Reader,
            _ => Self::role_of(client),
        };
        self.node_event(
            node,
            NodeEvent::Message {
                connection,
                role,
                stream: Self::stream_key(stream),
                message,
            },
        );
        self.must_refuse = None;
    }

    /// A node says something: the oracle hears it before anybody else.
    pub(super) fn heard(&mut self, stream: usize, message: &Message) {
        match message {
            Message::Pages(pages) => {
                let served = |answer: &PageAnswer| matches!(answer, PageAnswer::Page(_));
                if self.must_refuse == Some(stream) && pages.pages.iter().any(served) {
                    return self
                        .fail("a node served a reader of a history that it does not hold (R3)");
                }
                let state = &self.streams[stream];
                let Some(segment) = state.about else { return };
                let asked = state.pages.clone();
                for (request, answer) in asked.iter().zip(&pages.pages) {
                    match answer {
                        PageAnswer::Page(bytes) => {
                            let result =
                                self.oracle
                                    .served(segment, request.page, request.lsn, bytes);
                            self.check(result);
                        }
                        PageAnswer::Refused(refusal) => self.heard_refusal(refusal),
                    }
                }
            }
            Message::Refused(refusal) => {
                if let Refusal::OtherHistory { .. } = refusal
                    && !self.streams[stream].pages.is_empty()
                {
                    self.oracle.reached.hit(Reached::ReadOtherHistoryRefused);
                }
                self.heard_refusal(refusal);
            }
            _ => {}
        }
    }

    fn heard_refusal(&mut self, refusal: &Refusal) {
        match refusal {
            Refusal::Behind { .. } => self.oracle.reached.hit(Reached::ReadBehindRefused),
            Refusal::Corrupt { .. } => self.oracle.reached.hit(Reached::DamageReadAndRefused),
            Refusal::DiskFull => self.oracle.reached.hit(Reached::DiskFull),
            Refusal::Forgotten { .. } => self.oracle.reached.hit(Reached::ForgottenReadRefused),
            Refusal::Malformed { reason } => {
                // Nobody here speaks nonsense, except about streams that ended meanwhile.
                let expected = reason.contains("replaced this one")
                    || reason.contains("is not attached")
                    || reason.contains("attaches once")
                    // A stream was lost while the step that removes its segment was told.
                    || reason.contains("does not name this segment");
                if !expected {
                    self.fail(format!("a node calls a message malformed: {reason}"));
                }
            }
            _ => {}
        }
    }
}

impl World {
    /// Everybody reaches everybody again.
    pub(super) fn heal_network(&mut self) {
        self.net.blocked = [[0; HOST_COUNT]; HOST_COUNT];
        self.net.slow = [1; NODE_COUNT];
        self.net.loss = false;
        self.net.quiet = 0;
        self.net.holds_odd_groups = false;
        self.net.holds_group = None;
        self.net.holds_steps.clear();
        self.net.holds_surveys = None;
    }
}
