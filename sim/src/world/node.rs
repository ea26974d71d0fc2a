//! A storage node's process: the core, its disk, its clock, and what the shell does for it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use sixfold_log_format::NodeId;
use sixfold_log_format::hot_log::FileNumber;
use sixfold_log_format::wire::{Message, Refusal};
use sixfold_storage_node_core::{
    Action, Bounds, DiskError, DiskToken, Event as NodeEvent, FileName, FoundDirectory, NodeCore,
    PeerToken, Severity,
};

use super::brief::brief;
use super::layers::LayersSeen;
use super::net::{Item, Kind, Party};
use super::promise::{Promises, STATUS_STREAM};
use super::{Event, World, zone_of};
use crate::clock::{LocalClock, MS, Time, US};
use crate::disk::{Disk, PendingWrite, SECTOR_BYTES};
use crate::layers::Ended;
use crate::plan::node_name;
use crate::reached::Reached;

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) core: Option<NodeCore>,
    /// Counts its processes.
    pub(crate) life: u32,
    pub(crate) clock: LocalClock,
    pub(crate) disk: Disk,
    pub(crate) paused: bool,
    pub(crate) deferred: Vec<Event>,
    /// Its log is damaged; it refuses to start, and nobody can repair it yet.
    pub(crate) lost: bool,
    /// Its machine is gone for good.
    pub(crate) dead: bool,
    /// Its disk may have forgotten something.
    pub(crate) suspect: bool,
    pub(crate) start_due: bool,
    /// What it has said is durable.
    pub(crate) promises: Promises,
    /// Whether it has yet to show that it knows its promises after a start.
    pub(crate) owes_proof: bool,
    /// A layer of its disk rotted, was lost or written over: it must find that, and heal it.
    pub(crate) layer_harmed: bool,
    /// It said at its start that its log is damaged.
    pub(crate) says_damaged: bool,
    /// What its layers are.
    pub(crate) layers: LayersSeen,
    /// Connections of this life whose hello it has heard.
    pub(crate) connected: BTreeSet<u64>,
    armed: Option<Time>,
}

impl Node {
    pub(crate) fn new(id: NodeId) -> Node {
        Node {
            id,
            core: None,
            life: 0,
            clock: LocalClock::new(0, 0, 0),
            disk: Disk::new(),
            paused: false,
            deferred: Vec::new(),
            lost: false,
            dead: false,
            suspect: false,
            start_due: false,
            promises: Promises::default(),
            owes_proof: false,
            layer_harmed: false,
            says_damaged: false,
            layers: LayersSeen::default(),
            connected: BTreeSet::new(),
            armed: None,
        }
    }
}

impl World {
    /// Starts a node's process.
    pub(super) fn start_node(&mut self, node: usize) {
        self.nodes[node].start_due = false;
        let state = &self.nodes[node];
        if state.core.is_some() || state.lost || state.dead {
            return;
        }
        let clock = self.draw_clock();
        let seed = self.rng.draw();
        let found = self.found_directory(node, seed);
        let state = &mut self.nodes[node];
        state.life += 1;
        state.clock = clock;
        state.armed = None;
        state.owes_proof = !state.disk.may_forget();
        state.says_damaged = false;
        state.layers.started(self.now);
        state.connected.clear();
        self.hearing.node_started(node);
        let core = NodeCore::new(found, clock.at(self.now));
        self.tell(|| format!("{} starts", node_name(node)));
        self.nodes[node].core = Some(core);
        self.pump_node(node);
    }

    /// What a shell would find on a node's disk.
    pub(super) fn found_directory(&self, node: usize, seed: u64) -> FoundDirectory {
        let shape = &self.plan.shape;
        let state = &self.nodes[node];
        FoundDirectory {
            node: state.id,
            az: format!("az{}", zone_of(node)),
            block_bytes: 512,
            file_bytes: shape.file_bytes,
            files: state
                .disk
                .files
                .iter()
                .map(|(number, file)| (FileNumber(*number), file.len() as u64))
                .collect(),
            layers: state
                .disk
                .layers
                .files
                .iter()
                .map(|((segment, layer), file)| (*segment, *layer, file.bytes.len() as u64))
                .collect(),
            bounds: Bounds {
                group_bytes_max: shape.group_bytes,
                queued_bytes_max: shape.queued_bytes,
                resident_redo_bytes_max: shape.resident_bytes,
                page_cache_bytes_max: shape.node_cache_bytes,
                reads_in_flight_max: shape.reads_in_flight,
                gossip_interval: Duration::from_millis(shape.gossip_ms),
                index_bytes_max: shape.layers.index_bytes,
                unfolded_bytes_max: shape.layers.unfolded_bytes,
                freeze_bytes_max: shape.layers.freeze_bytes,
                layer_cache_bytes_max: shape.layers.cache_bytes,
                layer_bytes_max: shape.layers.layer_bytes,
                chain_records_max: shape.layers.chain_records,
                chain_bytes_max: shape.layers.chain_bytes,
                memory_chain_records_max: shape.layers.memory_chain,
                runs_max: shape.layers.runs,
                log_window_bytes: shape.layers.window_files * shape.file_bytes,
                log_window: Duration::ZERO,
                log_bytes_max: shape.layers.log_files * shape.file_bytes,
                background_bytes_per_second: shape.layers.background_bytes,
                scrub_bytes: shape.layers.scrub_bytes,
            },
            seed,
        }
    }

    /// A clock that starts somewhere and runs within half a percent of true time.
    pub(super) fn draw_clock(&mut self) -> LocalClock {
        let base = self.rng.range(1, 1 << 44);
        let drift = i64::try_from(self.rng.below(10_001)).expect("small") - 5_000;
        LocalClock::new(base, self.now, drift)
    }

    /// Ends a node's process.
    pub(super) fn crash_node(&mut self, node: usize, power: bool) {
        if self.nodes[node].core.take().is_none() {
            if power {
                self.nodes[node].disk.crash(true, &mut self.disk_rng);
                self.look_for_harm(node);
            }
            return;
        }
        self.tell(|| {
            let how = if power { "loses power" } else { "dies" };
            format!("{} {how}", node_name(node))
        });
        self.note(20, node as u64);
        if self.nodes[node].layers.awaits_catalog() {
            self.oracle.reached.hit(Reached::CrashBeforeCatalog);
        }
        self.nodes[node].disk.crash(power, &mut self.disk_rng);
        self.look_for_harm(node);
        self.nodes[node].paused = false;
        self.nodes[node].deferred.clear();
        self.node_gone(node);
    }

    pub(super) fn resume_node(&mut self, node: usize, life: u32) {
        let state = &mut self.nodes[node];
        if state.life != life || !state.paused {
            return;
        }
        state.paused = false;
        let deferred = std::mem::take(&mut state.deferred);
        self.tell(|| format!("{} goes on", node_name(node)));
        for event in deferred {
            self.queue.push(self.now, event);
        }
    }

    pub(super) fn node_event(&mut self, node: usize, event: NodeEvent) {
        let state = &mut self.nodes[node];
        let now = state.clock.at(self.now);
        let Some(core) = &mut state.core else { return };
        core.handle(now, event);
        self.pump_node(node);
    }

    pub(super) fn node_timer(&mut self, node: usize, life: u32) {
        let state = &mut self.nodes[node];
        // One that an earlier one has overtaken is nobody's any more: else they would become more and more.
        let is_due = state.armed.is_some_and(|armed| armed <= self.now);
        if state.life != life || state.core.is_none() || !is_due {
            return;
        }
        state.armed = None;
        let now = state.clock.at(self.now);
        let due = state.core.as_ref().and_then(NodeCore::poll_timeout);
        if due.is_some_and(|due| due <= now) {
            self.node_event(node, NodeEvent::Timeout);
        } else {
            self.arm_node(node);
        }
    }

    fn arm_node(&mut self, node: usize) {
        let now = self.now;
        let state = &mut self.nodes[node];
        let Some(due) = state.core.as_ref().and_then(NodeCore::poll_timeout) else {
            return;
        };
        let at = state.clock.when(due).max(now + 1);
        if state.armed.is_none_or(|armed| at < armed) {
            state.armed = Some(at);
            let life = state.life;
            self.queue.push(at, Event::NodeTimer { node, life });
        }
    }

    fn pump_node(&mut self, node: usize) {
        while let Some(action) = self.nodes[node]
            .core
            .as_mut()
            .and_then(NodeCore::poll_action)
        {
            self.perform_node(node, action);
        }
        self.check_start(node);
        self.arm_node(node);
    }

    fn perform_node(&mut self, node: usize, action: Action) {
        let life = self.nodes[node].life;
        match action {
            Action::Send {
                stream,
                message,
                end,
            } => self.node_sends(node, stream.0, message, end),
            Action::Disconnect { .. } => {
                self.fail(format!(
                    "{} calls a peer's message a breach of protocol",
                    node_name(node)
                ));
            }
            Action::Write {
                token,
                file,
                offset,
                bytes,
            } => {
                self.check_token(node, token);
                let offset = usize::try_from(offset).expect("files are small");
                let bytes = bytes.as_ref().to_vec();
                let wait = self.disk_wait(node);
                let disk = &mut self.nodes[node].disk;
                let is_layer = matches!(file, FileName::Layer(..));
                let result = if std::mem::take(&mut disk.fail_next_write) {
                    Err(DiskError::Failed)
                } else if is_layer && disk.full {
                    self.oracle.reached.hit(Reached::LayerNotWritten);
                    Err(DiskError::Full)
                } else {
                    Ok(())
                };
                match file {
                    FileName::HotLog(file) => {
                        disk.pending = Some(PendingWrite {
                            token,
                            file: file.0,
                            offset,
                            bytes,
                        });
                    }
                    FileName::Layer(segment, layer) => {
                        disk.layers.write(token, (segment, layer), offset, bytes);
                    }
                }
                let event = Event::Written {
                    node,
                    life,
                    token,
                    result,
                };
                self.queue.push(self.now + wait, event);
            }
            Action::Read {
                token,
                file,
                offset,
                bytes,
            } => {
                let wait = self.disk_wait(node);
                let event = Event::Read {
                    node,
                    life,
                    token,
                    file,
                    offset,
                    bytes,
                };
                self.queue.push(self.now + wait, event);
            }
            Action::Sync {
                token,
                segment,
                layer,
            } => {
                self.check_token(node, token);
                let wait = 2 * self.disk_wait(node);
                let disk = &mut self.nodes[node].disk;
                disk.layers.sync(token, (segment, layer));
                let result = if std::mem::take(&mut disk.fail_next_write) {
                    Err(DiskError::Failed)
                } else {
                    Ok(())
                };
                let event = Event::Written {
                    node,
                    life,
                    token,
                    result,
                };
                self.queue.push(self.now + wait, event);
            }
            Action::Delete { file } | Action::SetAside { file } => match file {
                FileName::HotLog(file) => {
                    self.oracle.reached.hit(Reached::Trimmed);
                    self.nodes[node].disk.delete(file.0);
                }
                FileName::Layer(segment, layer) => {
                    self.nodes[node].disk.layers.delete((segment, layer));
                }
            },
            Action::Prepare { file, bytes, from } => {
                let wait = 3 * self.disk_wait(node);
                if from.is_some() {
                    self.oracle.reached.hit(Reached::Trimmed);
                }
                // A recycled file needs no space.
                let result = if self.nodes[node].disk.full && from.is_none() {
                    self.oracle.reached.hit(Reached::DiskFull);
                    Err(DiskError::Full)
                } else {
                    Ok(())
                };
                let event = Event::Prepared {
                    node,
                    life,
                    file,
                    bytes,
                    from,
                    result,
                };
                self.queue.push(self.now + wait, event);
            }
            Action::AskPeer {
                token,
                node: peer,
                message,
                ..
            } => {
                let peer = self.node_of(peer);
                let client = Party::Node { node, life };
                self.open_stream(client, peer, Kind::Peer { token }, message);
            }
            Action::Log { severity, text } => self.node_logs(node, severity, &text),
            Action::Stop { reason } => self.node_stops(node, &reason),
        }
    }

    fn disk_wait(&mut self, node: usize) -> Time {
        let base = self.plan.shape.disk_us * US;
        let mut wait = base / 2 + self.disk_rng.below(base);
        if self.disk_rng.chance(1, 300) {
            wait += self.disk_rng.range(1, 30) * MS;
        }
        wait * self.nodes[node].disk.slow
    }

    fn node_sends(&mut self, node: usize, stream: u64, message: Message, end: bool) {
        if stream == STATUS_STREAM {
            if let Message::NodeStatus(status) = message {
                self.status = Some(status);
            }
            return;
        }
        let stream = usize::try_from(stream).expect("streams are counted in memory");
        self.check_promise(node, stream, &message);
        let state = &self.streams[stream];
        assert!(state.node == node, "a node answers its own streams");
        if let Some(segment) = self.streams[stream].about {
            self.check_silence(node, segment, &message);
        }
        self.check_removed(node, stream, &message);
        match &message {
            Message::Census(census) => self.check_claimed(node, census.volume_epoch),
            Message::Refused(Refusal::StaleEpoch { volume_epoch }) => {
                self.check_claimed(node, *volume_epoch);
            }
            _ => {}
        }
        self.heard(stream, &message);
        self.check_stranger(node, stream, &message);
        self.hears_from_now_on(stream, &message, end);
        if !self.streams[stream].node_open {
            return;
        }
        if self.story.is_some()
            && !matches!(
                message,
                Message::Ack(_)
                    | Message::GossipAnswer(_)
                    | Message::Pages(_)
                    | Message::NodeStatus(_)
            )
        {
            let to = self.name_of(self.streams[stream].client);
            self.tell(|| format!("{} -> {to}: {}", node_name(node), brief(&message)));
        }
        self.send(stream, false, Item::Message(message));
        if end {
            self.send(stream, false, Item::End);
        }
    }

    pub(super) fn name_of(&self, party: Party) -> String {
        match party {
            Party::Writer(writer) => self.writers[writer].name(),
            Party::Node { node, .. } => node_name(node).to_string(),
            Party::Auditor => "auditor".to_owned(),
            Party::Stranger => "stranger".to_owned(),
            Party::Reader(reader) => format!("R{reader}"),
            Party::Standby(standby) => format!("S{standby}"),
            Party::Ghost { .. } => "nobody".to_owned(),
        }
    }

    fn node_logs(&mut self, node: usize, severity: Severity, text: &str) {
        self.tell(|| format!("{} says: {text}", node_name(node)));
        if text.contains("a write was torn") {
            self.oracle.reached.hit(Reached::TornTailCut);
        }
        if text.contains("copied the layers of a peer") {
            self.nodes[node].layers.copied();
        }
        if severity != Severity::Error {
            return;
        }
        if text.contains("is damaged at offset") {
            // It does not guess: it says what it lacks, and counts for nothing until peers have healed it (R12).
            self.nodes[node].disk.noticed_damage();
            self.nodes[node].owes_proof = false;
            self.nodes[node].says_damaged = true;
            self.oracle.reached.hit(Reached::StartedDamaged);
        }
        let is_missing = text.contains("is missing or too short");
        let of_layer = text.contains("layer ") && text.contains(" of segment ");
        let of_disk = text.contains("hot-log file") || of_layer;
        let harmed = self.nodes[node].layer_harmed && (of_layer || is_missing);
        let misread = self.misreads_planned && of_disk || harmed;
        if text.contains("acknowledged records are lost") || text.contains("acknowledged") {
            self.oracle.reached.hit(Reached::ForgottenNoticed);
            if !self.nodes[node].suspect {
                self.fail(format!(
                    "{} lost what it had acknowledged: {text}",
                    node_name(node)
                ));
            }
        } else if !misread && !self.nodes[node].suspect {
            self.fail(format!("{} reports damage: {text}", node_name(node)));
        }
    }

    fn node_stops(&mut self, node: usize, reason: &str) {
        self.tell(|| format!("{} stops: {reason}", node_name(node)));
        if reason.starts_with("write to ") {
            self.oracle.reached.hit(Reached::WriteErrorEndedNode);
            self.crash_node(node, false);
            self.restart_node(node, 50 * MS);
            return;
        }
        if !self.nodes[node].suspect {
            return self.fail(format!("{} refuses to go on: {reason}", node_name(node)));
        }
        self.crash_node(node, false);
        self.nodes[node].lost = true;
    }

    /// It starts again after `wait`, unless it is to start already.
    pub(super) fn restart_node(&mut self, node: usize, wait: Time) {
        if !self.nodes[node].start_due {
            self.nodes[node].start_due = true;
            self.queue.push(self.now + wait, Event::NodeStart { node });
        }
    }

    /// No two operations in flight have one token: the end of one would count as that of the other.
    fn check_token(&mut self, node: usize, token: DiskToken) {
        let disk = &self.nodes[node].disk;
        let of_log = disk.pending.as_ref().map(|write| write.token);
        if of_log == Some(token) || disk.layers.has(token) {
            let name = node_name(node);
            self.fail(format!("{name} gives two operations the token {token:?}"));
        }
    }

    pub(super) fn written(
        &mut self,
        node: usize,
        life: u32,
        token: DiskToken,
        result: Result<(), DiskError>,
    ) {
        let state = &mut self.nodes[node];
        if state.life != life {
            return;
        }
        if result.is_ok()
            && state.disk.misdirect_next_write
            && state.disk.layers.misdirect(token, &mut self.disk_rng)
        {
            state.disk.misdirect_next_write = false;
        }
        let ended = state.disk.layers.end(token, result.is_ok());
        let of_layer = ended != Ended::OfTheLog;
        let pending = state.disk.pending.as_ref();
        if !of_layer && pending.is_none_or(|write| write.token != token) {
            return;
        }
        if ended == Ended::Sync {
            state.layers.synced();
        }
        let mut went_over = false;
        if result.is_ok() && !of_layer {
            went_over = state.disk.complete(&mut self.disk_rng);
        }
        self.note(3, node as u64 ^ (token.0 << 4));
        self.look_for_harm(node);
        self.node_event(node, NodeEvent::Written { token, result });
        if !of_layer && self.nodes[node].layers.wants_a_look() {
            self.look_at_layers(node);
        }
        if went_over {
            self.tell(|| format!("{} wrote over an earlier group", node_name(node)));
            self.oracle.reached.hit(Reached::GroupWrittenOver);
            self.crash_node(node, true);
            self.restart_node(node, 5 * MS);
        }
    }

    pub(super) fn read(
        &mut self,
        node: usize,
        life: u32,
        token: DiskToken,
        (file, offset, bytes): (FileName, u64, u32),
    ) {
        let state = &self.nodes[node];
        let Some(core) = state.core.as_ref().filter(|_| state.life == life) else {
            return;
        };
        let offset = usize::try_from(offset).expect("files are small");
        let misreads = state.disk.misreads;
        // A scan that misreads may cut what was acknowledged: only the disk that may forget does so.
        let may_err = core.is_ready() || state.suspect;
        if core.is_ready() {
            self.oracle.reached.hit(Reached::BatchReadFromDisk);
        }
        let wrong = may_err && misreads > 0 && self.disk_rng.chance(misreads, 1_000);
        if wrong && !core.is_ready() {
            self.nodes[node].owes_proof = false;
        }
        let disk = &self.nodes[node].disk;
        let read = if wrong {
            disk.misread(file, offset, bytes as usize, &mut self.disk_rng)
        } else {
            disk.read_file(file, offset, bytes as usize)
                .map(Bytes::from)
        };
        let result = read.ok_or(DiskError::Failed);
        self.node_event(node, NodeEvent::Read { token, result });
    }

    pub(super) fn prepared(
        &mut self,
        node: usize,
        life: u32,
        (file, bytes, from): (FileNumber, u64, Option<FileNumber>),
        result: Result<(), DiskError>,
    ) {
        if self.nodes[node].life != life || self.nodes[node].core.is_none() {
            return;
        }
        if result.is_ok() {
            let bytes = usize::try_from(bytes).expect("files are small");
            let disk = &mut self.nodes[node].disk;
            match from {
                // The old bytes stay: the scan must be right with them behind the tail.
                Some(from) => disk.recycle(from.0, file.0, SECTOR_BYTES),
                None => {
                    disk.files.insert(file.0, vec![0; bytes]);
                }
            }
        }
        self.node_event(node, NodeEvent::Prepared { file, result });
    }

    /// A peer answered a node, or cannot.
    pub(super) fn peer_answer(
        &mut self,
        (node, life): (usize, u32),
        token: PeerToken,
        answer: Option<Message>,
    ) {
        if self.nodes[node].life != life || self.nodes[node].core.is_none() {
            return;
        }
        match &answer {
            Some(Message::LogPiece(piece)) if !piece.batches.is_empty() => {
                self.oracle.reached.hit(Reached::HoleFilledByGossip);
                self.tell(|| {
                    format!(
                        "{} got from a peer: {}",
                        node_name(node),
                        answer.as_ref().map(brief).unwrap_or_default()
                    )
                });
            }
            Some(Message::GossipAnswer(answer)) if answer.newer.is_some() => {
                if let Some((_, manifest)) = &answer.newer {
                    self.takes_manifest(node, manifest);
                }
                self.oracle.reached.hit(Reached::HistoryByGossip);
                self.tell(|| {
                    format!(
                        "{} got history {} from a peer",
                        node_name(node),
                        answer.history_epoch
                    )
                });
            }
            _ => {}
        }
        self.node_event(node, NodeEvent::PeerAnswer { token, answer });
    }
}
