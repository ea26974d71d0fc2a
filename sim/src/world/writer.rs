//! A writer's process: the reopening, then the core, then its end; and what the library's driver does for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sixfold_compute_core::{
    AttachKey, CommitTicket, FetchKey, FetchTicket, Shared, WriterAction, WriterBounds, WriterCore,
    WriterEvent,
};
use sixfold_log_format::limits::{IN_USE_MS, READ_LEASE_MS};
use sixfold_log_format::wire::Message;
use sixfold_log_format::{Lsn, PageId, PgId, SegmentId, VolumeEpoch, WriterId};
use sixfold_recovery::machine::{
    Caller, Opened, Phase, Recovery, RecoveryAction, RecoveryError, RecoveryEvent, RecoveryOptions,
};

use super::acks::Acks;
use super::brief::{batch_prev, batch_span, brief};
use super::client::Client;
use super::net::{Item, Kind, Party};
use super::watches::LogRead;
use super::{Event, NODE_COUNT, World};
use crate::clock::{LocalClock, MS, Time, US};
use crate::oracle::SetIds;
use crate::plan::node_name;
use crate::reached::Reached;

/// What a writer process is doing.
#[derive(Debug)]
pub(crate) enum Doing {
    Recovering(Box<Recovery>),
    Open(Box<WriterCore>),
    Gone,
}

/// A writer process.
#[derive(Debug)]
pub(crate) struct Writer {
    number: usize,
    pub(crate) host: usize,
    pub(crate) doing: Doing,
    pub(crate) clock: LocalClock,
    pub(crate) epoch: VolumeEpoch,
    pub(crate) shared: Option<Arc<Shared>>,
    pub(crate) clients: Vec<Client>,
    pub(crate) paused: bool,
    pub(crate) deferred: Vec<Event>,
    pub(crate) last_ticket: u64,
    /// Whose each is, and whether an earlier try was in flight when it began.
    pub(crate) commits: BTreeMap<CommitTicket, (usize, bool)>,
    pub(crate) fetches: BTreeMap<FetchTicket, usize>,
    /// Past LSNs that are looked for.
    pub(crate) past: BTreeMap<FetchTicket, Lsn>,
    /// Parts of the log that watches wait for.
    pub(crate) log_reads: BTreeMap<FetchTicket, LogRead>,
    pub(crate) phase: Option<Phase>,
    /// The reopening under way in place (R8), and how many there were in this process.
    pub(super) refencing: Option<Box<Recovery>>,
    /// Epochs whose fence it completed while it opened again in place.
    pub(super) attempts: BTreeSet<VolumeEpoch>,
    /// A history of somebody who opened after it, which a node told it of while it opened again in place.
    pub(super) successor: Option<VolumeEpoch>,
    pub(super) recoveries: u32,
    pub(super) streams: BTreeMap<AttachKey, (usize, SegmentId)>,
    pub(super) undrained: BTreeMap<AttachKey, usize>,
    /// The last batch that was sent on each stream ended here.
    sent: BTreeMap<AttachKey, Lsn>,
    pub(super) acks: Acks,
    pub(super) asks: BTreeMap<FetchKey, (PageId, Lsn)>,
    vdl: Lsn,
    armed: Option<Time>,
    pump_due: bool,
}

impl Writer {
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.doing, Doing::Open(_))
    }

    pub(crate) fn is_recovering(&self) -> bool {
        matches!(self.doing, Doing::Recovering(_))
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.doing, Doing::Gone)
    }

    /// VDL as its clients see it.
    pub(crate) fn vdl_now(&self) -> Lsn {
        self.shared
            .as_ref()
            .map_or(Lsn::NONE, |shared| shared.vdl())
    }

    pub(crate) fn name(&self) -> String {
        format!("W{}", self.number)
    }
}

/// How a writer process begins.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) take_over: bool,
    /// For how long a writer that was heard is alive, if not for the usual time.
    pub(super) in_use: Option<Duration>,
    pub(super) caller: Caller,
}

impl World {
    pub(super) fn recovery_options(&mut self, start: Start) -> RecoveryOptions {
        let lost = if self.oracle.members.awaits_loss() {
            self.losses.declared()
        } else {
            Vec::new()
        };
        RecoveryOptions {
            volume: self.manifest.volume,
            nodes: self.nodes.iter().map(|node| node.id).collect(),
            writer: WriterId::from_bytes(self.rng.bytes()),
            take_over: start.take_over,
            in_use: start.in_use.unwrap_or(Duration::from_millis(IN_USE_MS)),
            declare_lost: lost,
            deadline: Duration::from_millis(self.rng.pick(&[2_000, 5_000, 10_000])),
            lease: Duration::from_millis(READ_LEASE_MS),
            seed: self.rng.draw(),
            caller: start.caller,
        }
    }

    /// Starts a writer process.
    pub(super) fn start_writer(&mut self, host: usize, take_over: bool) {
        let start = Start {
            take_over,
            in_use: None,
            caller: Caller::Stranger,
        };
        self.start_writer_as(host, start);
    }

    pub(super) fn start_writer_as(&mut self, host: usize, start: Start) {
        let clock = self.draw_clock();
        let number = self.writers.len();
        let take_over = start.take_over;
        let options = self.recovery_options(start);
        let machine = Recovery::new(options, clock.at(self.now));
        self.tell(|| {
            let how = if take_over { "takes over" } else { "opens" };
            format!("W{number} starts on host {} and {how}", host - NODE_COUNT)
        });
        self.writers.push(Writer {
            number,
            host,
            doing: Doing::Recovering(Box::new(machine)),
            clock,
            epoch: VolumeEpoch::CREATION,
            shared: None,
            clients: Vec::new(),
            paused: false,
            deferred: Vec::new(),
            last_ticket: 0,
            commits: BTreeMap::new(),
            fetches: BTreeMap::new(),
            past: BTreeMap::new(),
            log_reads: BTreeMap::new(),
            phase: None,
            refencing: None,
            attempts: BTreeSet::new(),
            successor: None,
            recoveries: 0,
            streams: BTreeMap::new(),
            undrained: BTreeMap::new(),
            sent: BTreeMap::new(),
            acks: Acks::default(),
            asks: BTreeMap::new(),
            vdl: Lsn::NONE,
            armed: None,
            pump_due: false,
        });
        self.pump_writer(number);
    }

    /// Ends a writer's process.
    pub(super) fn end_writer(&mut self, writer: usize, why: &str) {
        if self.writers[writer].is_gone() {
            return;
        }
        // VDL that it published last, be it in the moment of its end.
        self.look_at_points(writer);
        self.tell(|| format!("W{writer} {why}"));
        self.note(21, writer as u64);
        self.abandon_clients(writer);
        self.abandon_watches(writer);
        let state = &mut self.writers[writer];
        let was_open = state.is_open();
        state.doing = Doing::Gone;
        state.refencing = None;
        state.shared = None;
        state.paused = false;
        state.deferred.clear();
        self.client_gone(Party::Writer(writer));
        if was_open {
            self.expects_a_takeover(writer);
        }
        if self.director.is_idle() {
            let wait = self.rng.pick(&[1, 20, 300]) * MS;
            self.queue.push(self.now + wait, Event::Supervise);
        }
    }

    pub(super) fn pause_writer(&mut self, writer: usize, length: Time) {
        if self.writers[writer].is_gone() || self.writers[writer].paused {
            return;
        }
        self.tell(|| format!("W{writer} stands still"));
        self.writers[writer].paused = true;
        self.queue
            .push(self.now + length, Event::ResumeWriter { writer });
    }

    pub(super) fn resume_writer(&mut self, writer: usize) {
        let newest = self.oracle.newest();
        let state = &mut self.writers[writer];
        if !state.paused {
            return;
        }
        state.paused = false;
        if state.is_open() && state.epoch < newest {
            self.oracle
                .reached
                .hit(Reached::PausedWriterResumedBehindNewOne);
        }
        let mut deferred = std::mem::take(&mut self.writers[writer].deferred);
        self.tell(|| format!("W{writer} goes on"));
        // Which of its threads runs first is open: a client may run before the news are read.
        if self.rng.chance(1, 2) {
            deferred.sort_by_key(|event| !matches!(event, Event::Client { .. }));
        }
        for event in deferred {
            self.queue.push(self.now, event);
        }
    }

    pub(super) fn local_now(&self, writer: usize) -> Duration {
        self.writers[writer].clock.at(self.now)
    }

    /// Something happened to an open writer.
    pub(super) fn writer_event(&mut self, writer: usize, event: WriterEvent) {
        let now = self.local_now(writer);
        if let Doing::Open(core) = &mut self.writers[writer].doing {
            core.handle(now, event);
            self.want_pump(writer);
        }
    }

    /// The core acts when everything at hand was handled, which may be a moment later.
    pub(super) fn want_pump(&mut self, writer: usize) {
        if !self.writers[writer].pump_due {
            self.writers[writer].pump_due = true;
            let wait = self.rng.below(20) * US;
            self.queue
                .push(self.now + wait, Event::WriterPump { writer });
        }
    }

    pub(super) fn recovery_event(&mut self, writer: usize, round: u32, event: RecoveryEvent) {
        let now = self.local_now(writer);
        let state = &mut self.writers[writer];
        if round != state.recoveries {
            return;
        }
        let machine = match (&mut state.doing, &mut state.refencing) {
            (Doing::Recovering(machine), _) | (Doing::Open(_), Some(machine)) => machine,
            _ => return,
        };
        machine.handle(now, event);
        self.pump_writer(writer);
    }

    pub(super) fn writer_pump(&mut self, writer: usize) {
        self.writers[writer].pump_due = false;
        self.pump_writer(writer);
    }

    pub(super) fn writer_timer(&mut self, writer: usize) {
        // One that an earlier one has overtaken is nobody's any more: else they would become more and more.
        let armed = self.writers[writer].armed;
        if armed.is_none_or(|armed| armed > self.now) {
            return;
        }
        self.writers[writer].armed = None;
        let now = self.local_now(writer);
        let due = self.writer_due(writer).is_some_and(|due| due <= now);
        let state = &mut self.writers[writer];
        match &mut state.doing {
            Doing::Recovering(machine) if due => machine.handle(now, RecoveryEvent::Timeout),
            Doing::Open(core) if due => {
                if core.poll_timeout().is_some_and(|due| due <= now) {
                    core.handle(now, WriterEvent::Timeout);
                }
                if let Some(machine) = &mut state.refencing
                    && machine.poll_timeout().is_some_and(|due| due <= now)
                {
                    machine.handle(now, RecoveryEvent::Timeout);
                }
            }
            Doing::Gone => return,
            _ => {}
        }
        self.pump_writer(writer);
    }

    fn writer_due(&self, writer: usize) -> Option<Duration> {
        let state = &self.writers[writer];
        match &state.doing {
            Doing::Recovering(machine) => machine.poll_timeout(),
            Doing::Open(core) => {
                let refencing = state.refencing.as_ref();
                let other = refencing.and_then(|machine| machine.poll_timeout());
                core.poll_timeout().into_iter().chain(other).min()
            }
            Doing::Gone => None,
        }
    }

    fn pump_writer(&mut self, writer: usize) {
        loop {
            match &mut self.writers[writer].doing {
                Doing::Recovering(machine) => match machine.poll_action() {
                    Some(action) => self.perform_recovery(writer, action),
                    None => break,
                },
                Doing::Open(core) => match core.poll_action() {
                    Some(action) => self.perform_writer(writer, action),
                    None => {
                        let refencing = self.writers[writer].refencing.as_mut();
                        match refencing.and_then(|machine| machine.poll_action()) {
                            Some(action) => self.perform_recovery(writer, action),
                            None => break,
                        }
                    }
                },
                Doing::Gone => return,
            }
        }
        self.look_at_points(writer);
        let Some(due) = self.writer_due(writer) else {
            return;
        };
        let at = self.writers[writer].clock.when(due).max(self.now + 1);
        if self.writers[writer].armed.is_none_or(|armed| at < armed) {
            self.writers[writer].armed = Some(at);
            self.queue.push(at, Event::WriterTimer { writer });
        }
    }

    /// VDL as everybody can see it, against what the oracle knows.
    fn look_at_points(&mut self, writer: usize) {
        let state = &self.writers[writer];
        let Doing::Open(core) = &state.doing else {
            return;
        };
        let vdl = state
            .shared
            .as_ref()
            .map_or(Lsn::NONE, |shared| shared.vdl());
        if self.events.is_multiple_of(32) {
            let stats = core.stats();
            let ordered = stats.read_point_min <= stats.vdl
                && stats.vdl == vdl
                && stats.vdl <= stats.vcl
                && stats.vcl <= stats.last
                && stats.last <= stats.vdl.plus(self.plan.shape.lal);
            if stats.last.since(stats.vdl) * 4 > self.plan.shape.lal * 3 {
                self.oracle.reached.hit(Reached::BackPressure);
            }
            if !ordered {
                return self.fail(format!("the points are out of order: {stats:?}"));
            }
        }
        if vdl == self.writers[writer].vdl {
            return;
        }
        let state = &self.writers[writer];
        let holders = |set: &SetIds, pg: PgId, last: Lsn| state.acks.holders(set, pg, last);
        let result = self.oracle.published(state.epoch, vdl, &holders);
        self.writers[writer].vdl = vdl;
        self.check(result);
    }

    fn perform_recovery(&mut self, writer: usize, action: RecoveryAction) {
        match action {
            RecoveryAction::Send {
                request,
                node,
                message,
            } => {
                let node = self.node_of(node);
                self.tell(|| format!("W{writer} -> {}: {}", node_name(node), brief(&message)));
                self.check_loss(writer, &message);
                self.check_successor(writer, &message);
                let round = self.writers[writer].recoveries;
                self.open_stream(
                    Party::Writer(writer),
                    node,
                    Kind::Recovery { request, round },
                    message,
                );
            }
            RecoveryAction::Phase(_) | RecoveryAction::Done(_)
                if self.writers[writer].is_open() =>
            {
                if let RecoveryAction::Done(result) = action {
                    self.refenced(writer, *result);
                }
            }
            RecoveryAction::Phase(phase) => {
                self.tell(|| format!("W{writer} enters {phase:?}"));
                let before = self.writers[writer].phase.replace(phase);
                match (before, phase) {
                    (Some(Phase::Fence | Phase::Truncate), Phase::Probe) => {
                        self.oracle.reached.hit(Reached::FenceLostARace);
                    }
                    (Some(Phase::Refill), Phase::Probe) => {
                        self.oracle.reached.hit(Reached::HolderLost);
                    }
                    _ => {}
                }
                self.directed_phase(writer, phase);
                self.trap_phase(writer, phase);
            }
            RecoveryAction::Done(result) => match *result {
                Ok(opened) => self.opened(writer, opened),
                Err(error) => {
                    if let RecoveryError::InUse { .. } = error {
                        self.oracle.reached.hit(Reached::InUseRefused);
                    }
                    if error == RecoveryError::NeedlessLoss {
                        self.word_was_needless();
                    }
                    if matches!(
                        error,
                        RecoveryError::Corrupt(_)
                            | RecoveryError::NoVolume { .. }
                            | RecoveryError::Loss(_)
                    ) {
                        return self.fail(format!("W{writer} cannot open: {error}"));
                    }
                    self.end_writer(writer, &format!("gives up: {error}"));
                    self.standby_failed(writer);
                }
            },
        }
    }

    fn opened(&mut self, writer: usize, opened: Opened) {
        self.tell(|| {
            let last = opened.history.ranges.last();
            let range = last.map_or_else(String::new, |range| {
                format!(", ({}, {}] annulled", range.after, range.through)
            });
            format!(
                "W{writer} OPENS at epoch {}, cut {}{range}",
                opened.volume_epoch, opened.cut
            )
        });
        self.note(22, opened.cut.get() ^ (opened.volume_epoch.get() << 32));
        if self.oracle.members.gives_up(&opened.manifest) {
            self.oracle.reached.hit(Reached::ReshapeGivenUp);
        }
        let result = self.oracle.opened(&opened);
        self.check(result);
        self.know_places(&opened.manifest);
        self.opened_after_a_loss(&opened);
        if opened.refilled_batches > 0 {
            self.oracle.reached.hit(Reached::Refilled);
        }
        if opened.lease_wait > Duration::from_millis(1) {
            self.oracle.reached.hit(Reached::LeaseWaitedFor);
        }
        let shape = &self.plan.shape;
        let bounds = WriterBounds {
            seals_in_flight_max: shape.seals_in_flight,
            unacknowledged_bytes_max: shape.unacknowledged_bytes,
            stream_bytes_max: shape.stream_bytes,
            cache_bytes_max: shape.cache_pages * shape.page_bytes as usize,
            waiting_commits_max: shape.waiting_commits,
            remembered_keys_max: shape.remembered_keys,
            watch_bytes_max: shape.watch_bytes,
            lease: Duration::from_millis(READ_LEASE_MS),
            token_retention: Duration::from_secs(2),
            members: shape.members.bounds(shape.pg_count),
        };
        // The clock is the machine's, and was set once more while the process began.
        let host = self.writers[writer].host;
        let unix_ms = self.walls.unix_ms(host, self.now) + self.rng.below(1_200_000);
        if unix_ms < self.oracle.stamps.clock_ms() {
            self.oracle.reached.hit(Reached::WallClockBehind);
        }
        let now = self.local_now(writer);
        self.hear_reopened(writer, &opened);
        let state = &mut self.writers[writer];
        let core = WriterCore::new(opened, bounds, now, unix_ms);
        state.shared = Some(core.shared());
        state.doing = Doing::Open(Box::new(core));
        state.phase = None;
        self.directed_open(writer);
        self.standby_opened(writer);
        self.start_clients(writer);
        self.start_watches(writer);
        self.want_pump(writer);
    }

    /// The volume is open at an epoch: what segments said in the reopening counts.
    pub(super) fn hear_reopened(&mut self, writer: usize, opened: &Opened) {
        let places = &self.places;
        let state = &mut self.writers[writer];
        state.epoch = opened.volume_epoch;
        state.vdl = opened.vdl;
        state.acks = Acks::default();
        for &(segment, scl) in &opened.scls {
            let pg = places.get(&segment).map_or(PgId::ROOT, |(_, pg)| *pg);
            state.acks.hear((segment, pg), scl, []);
        }
    }

    /// The newest writer says a manifest to a segment.
    fn says_manifest(&mut self, writer: usize, manifest: &sixfold_log_format::Manifest) {
        let state = &self.writers[writer];
        if state.epoch != self.oracle.newest() {
            return;
        }
        // VDL that it published before it took this step.
        self.look_at_points(writer);
        // What the sets in force hold stays durable: the step asks for nothing more (R20).
        let pgs: Vec<PgId> = self.oracle.pg_lsns.keys().copied().collect();
        for pg in pgs {
            let sets = self.oracle.members.sets(pg);
            self.writers[writer].acks.recount(pg, sets);
        }
        let state = &self.writers[writer];
        let scl_of = |segment| state.acks.scl_of(segment);
        let said = self.oracle.members.said(manifest, &scl_of);
        match said {
            Ok(true) => {
                self.tell(|| format!("W{writer} proposes manifest {}", manifest.version));
                self.step_proposed(writer);
                self.trap_proposed(writer);
            }
            Ok(false) => {}
            Err(bad) => self.fail(bad),
        }
    }

    /// A segment told a writer that it holds a manifest.
    pub(super) fn hears_acceptance(
        &mut self,
        writer: usize,
        stream: usize,
        segment: SegmentId,
        scl: Lsn,
    ) {
        let state = &self.writers[writer];
        let Some(version) = self.streams[stream].version else {
            return;
        };
        if state.epoch != self.oracle.newest() {
            return;
        }
        let lsns = &self.oracle.pg_lsns;
        let vdl = state.vdl;
        let last = |pg: PgId| {
            let lsns = lsns.get(&pg).map_or(&[][..], Vec::as_slice);
            let below = lsns.partition_point(|lsn| *lsn <= vdl);
            below.checked_sub(1).map_or(Lsn::NONE, |at| lsns[at])
        };
        let done = self.oracle.members.accepted(segment, version, scl, &last);
        if let Some(done) = done {
            self.tell(|| format!("manifest {version} of W{writer} is in force: {done:?}"));
            self.step_in_force(done);
        }
    }

    fn perform_writer(&mut self, writer: usize, action: WriterAction) {
        match action {
            WriterAction::Attach {
                attach,
                node,
                segment,
                message,
            } => {
                let node = self.node_of(node);
                if let Message::Attach(attach) = &message {
                    self.says_manifest(writer, &attach.manifest);
                }
                let stream =
                    self.open_stream(Party::Writer(writer), node, Kind::Log { attach }, message);
                self.writers[writer]
                    .streams
                    .insert(attach, (stream, segment));
            }
            WriterAction::Detach { attach } => {
                if let Some((stream, _)) = self.writers[writer].streams.remove(&attach) {
                    self.close_stream(stream);
                }
            }
            WriterAction::Send { attach, message } => {
                let epoch = self.writers[writer].epoch;
                if let Message::Append(append) = &message {
                    self.look_at_seal(writer, &append.batch);
                    let result = self.oracle.shipped(epoch, &append.batch);
                    self.check(result);
                    let (_, _, last) = batch_span(&append.batch);
                    let before = self.writers[writer].sent.insert(attach, last);
                    if before.is_some_and(|before| before < batch_prev(&append.batch)) {
                        self.oracle.reached.hit(Reached::LaggardLeftToGossip);
                    }
                }
                if let Some((stream, _)) = self.writers[writer].streams.get(&attach) {
                    let stream = *stream;
                    if self.story.is_some() && matches!(message, Message::Append(_)) {
                        let node = node_name(self.streams[stream].node);
                        self.tell(|| format!("W{writer} -> {node}: {}", brief(&message)));
                    }
                    self.send(stream, true, Item::Message(message));
                }
            }
            WriterAction::Ask {
                fetch,
                node,
                message,
            } => {
                let node = self.node_of(node);
                match &message {
                    Message::Install(install) => {
                        self.says_manifest(writer, &install.manifest);
                        self.tell_call(writer, node, &message);
                    }
                    Message::CreateSegment(create) => {
                        self.places.insert(create.segment, (node, create.pg));
                        self.tell_call(writer, node, &message);
                    }
                    Message::DropSegment(_) | Message::WishReport(_) => {
                        self.tell_call(writer, node, &message);
                    }
                    _ => {}
                }
                if let Message::ReadPages(read) = &message {
                    let page = read.pages[0];
                    self.writers[writer]
                        .asks
                        .insert(fetch, (page.page, page.lsn));
                    if page.lsn < self.writers[writer].vdl {
                        self.oracle.reached.hit(Reached::FetchedAtAnOldPoint);
                    }
                }
                self.open_stream(Party::Writer(writer), node, Kind::Ask { fetch }, message);
            }
            WriterAction::Committed { ticket, result } => self.committed(writer, ticket, result),
            WriterAction::Fetched { ticket, result } => self.fetched(writer, ticket, result),
            WriterAction::LogRead { ticket, result } => self.log_read(writer, ticket, result),
            WriterAction::Rounded { ticket, result } => self.rounded(writer, ticket, result),
            WriterAction::Leased { ticket, held } => self.leased(writer, ticket, held),
            WriterAction::Fenced { volume_epoch } => {
                self.oracle.reached.hit(Reached::OldWriterFenced);
                self.end_writer(writer, &format!("is fenced by epoch {volume_epoch}"));
            }
            WriterAction::Drained => self.end_writer(writer, "is closed"),
            WriterAction::Refence => self.refence(writer),
            WriterAction::Fleet { .. } | WriterAction::WishReported { .. } => {}
        }
    }

    /// Sees to it that somebody writes.
    pub(super) fn supervise(&mut self) {
        if self.somebody_stands_by() && !self.finish.is_healed() {
            return;
        }
        if !self.director.is_idle() || self.writers.iter().any(|writer| !writer.is_gone()) {
            return;
        }
        let host = NODE_COUNT + self.rng.index(super::WRITER_HOSTS);
        let take_over = self.rng.chance(2, 3);
        self.start_writer(host, take_over);
    }
}
