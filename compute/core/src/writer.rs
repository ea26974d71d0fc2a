//! The writer: owner of all state, and the only `match` on events.
//!
//! `writer/commits.rs` takes a commit from the line to the open batches, `writer/ships.rs` takes batches to the segments and
//! acks back to answers, `writer/reads.rs` serves misses and leases. The steps themselves are types of their own.

mod chores;
mod commits;
mod group;
mod grows;
mod reads;
mod refence;
mod replaces;
mod reshapes;
mod rounds;
mod ships;
mod steps;
mod watches;
mod wishes;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sixfold_log_format::{Lsn, Manifest, PgId, VolumeEpoch};
use sixfold_recovery::machine::Opened;

use self::group::{Geometry, Group};
use self::reads::Reader;
use self::refence::Refence;
use crate::admission::{Admission, Line};
use crate::ages::Ages;
use crate::boxcar::Boxcar;
use crate::chores::Chores;
use crate::clock::WallClock;
use crate::commit_queue::CommitQueue;
use crate::conflict::RecentCommits;
use crate::due::Due;
use crate::durability::Durability;
use crate::event::{FetchTicket, Relation, WriterAction, WriterEvent, WriterStats};
use crate::fetch::Fetches;
use crate::heartbeat::LeaseKeeper;
use crate::link::Link;
use crate::members::calls::is_call;
use crate::members::{MemberBounds, Members};
use crate::page_cache::CacheKeeper;
use crate::rounding::{RecentPoints, Rounding};
use crate::router::Router;
use crate::shared::Shared;
use crate::shipper::Shipper;
use crate::tip::Tip;
use crate::tokens::TokenHorizon;
use crate::watch::reads::{LogReads, is_log_read};
use crate::watch::ring::{WatchShared, WatchTail};

/// Bounds and settings of a writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterBounds {
    /// Sealed sets without a quorum at which the open batches wait (F2), 2 to 4.
    pub seals_in_flight_max: usize,
    /// Bytes above VDL at which commits wait: redo without a quorum, and the pages that it changed (R18, R30).
    pub unacknowledged_bytes_max: usize,
    /// Bytes queued for one segment's stream; beyond, it is left to gossip (R15).
    pub stream_bytes_max: usize,
    /// Page cache, bytes.
    pub cache_bytes_max: usize,
    /// Commits waiting for admission; beyond, they are refused as unavailable.
    pub waiting_commits_max: usize,
    /// Keys remembered for validation.
    pub remembered_keys_max: usize,
    /// Redo kept in memory for all watchers together, bytes; who is behind it reads the log. 0 = none.
    pub watch_bytes_max: usize,
    /// Length of a read lease.
    pub lease: Duration,
    /// For how long commits with a token are remembered, at least (T3).
    pub token_retention: Duration,
    /// How the membership changes without anybody's wish.
    pub members: MemberBounds,
}

/// Bytes of commits that wait for admission, of all together; beyond, they are refused as unavailable.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// Bytes remembered for validation; beyond, the oldest changes are forgotten.
const REMEMBERED_BYTES_MAX: usize = 256 << 20;

/// Where the writer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// The volume's first MTR, which ends here, is not durable yet.
    Creating(Lsn),
    /// Commits are taken.
    Open,
    /// Another writer holds the volume.
    Fenced(VolumeEpoch),
}

/// What was counted.
#[derive(Debug, Default)]
struct Counters {
    commits: u64,
    conflicts: u64,
    batches: u64,
    redo_bytes: u64,
    user_bytes: u64,
    chores: u64,
}

/// The writer without I/O.
#[derive(Debug)]
pub struct WriterCore {
    now: Duration,
    life: Life,
    closing: bool,
    drained: bool,
    /// The one in force; `members` has the one that is proposed.
    manifest: Manifest,
    volume_epoch: VolumeEpoch,
    page_bytes: usize,
    geometry: Geometry,
    bounds: WriterBounds,

    line: Line,
    admission: Admission,
    recent: RecentCommits,

    /// Last LSN minted.
    last: Lsn,
    clock: WallClock,
    /// Records on the meta page since one that starts its chain.
    meta_chain: u64,
    tip: Tip,
    boxcar: Boxcar,

    /// By PG number. The first `geometry.groups` take records; one more may be about to (R10).
    groups: Vec<Group>,
    shipper: Shipper,
    members: Members,
    refence: Refence,
    refences: u64,
    /// Whether every PG has a write quorum of segments that take batches.
    writable: bool,

    durability: Durability,
    vdl_moved_at: Duration,
    queue: CommitQueue,

    shared: Arc<Shared>,
    cache: CacheKeeper,
    read_point_min: Lsn,
    fetches: Fetches,
    readers: BTreeMap<FetchTicket, Reader>,
    router: Router,
    lease: LeaseKeeper,
    ages: Ages,

    points: RecentPoints,
    rounding: Rounding,

    token_horizon: TokenHorizon,
    chores: Chores,

    watch: WatchTail,
    log_reads: LogReads,

    actions: VecDeque<WriterAction>,
    counters: Counters,
}

impl WriterCore {
    /// Starts on an opened volume. A volume that was never written gets its first MTR (meta page, root); `is_open` tells when that
    /// is durable.
    ///
    /// `now`: see `handle`. `unix_ms`: the wall clock at `now`; stamps advance with `now` from there, never below the clock that
    /// the volume holds (T5).
    pub fn new(opened: Opened, bounds: WriterBounds, now: Duration, unix_ms: u64) -> WriterCore {
        let base = opened.vdl;
        let pg_last: Vec<(PgId, Lsn)> = opened
            .manifest
            .pgs
            .iter()
            .map(|entry| (entry.pg, last_of(&opened.pg_last, entry.pg)))
            .collect();
        let entries = opened.manifest.pgs.iter().zip(&pg_last);
        let mut groups: Vec<Group> = entries
            .map(|(entry, &(_, last))| Group::new(entry.clone(), last))
            .collect();
        let shared = Arc::new(Shared::new(base));
        let watch = Arc::new(WatchShared::new(
            opened.manifest.volume,
            opened.history.clone(),
            pg_last.len(),
            base,
            bounds.watch_bytes_max,
        ));
        shared.set_watch(Arc::clone(&watch));
        let parameters = &opened.manifest.parameters;
        let page_bytes = usize::try_from(parameters.page_bytes).expect("a page fits in memory");
        let shipper = Shipper::new(&opened, bounds.stream_bytes_max, now);
        for (index, link) in shipper.links().iter().enumerate() {
            groups[link.pg.get() as usize].links.push(index);
        }
        let mut core = WriterCore {
            now,
            life: Life::Open,
            closing: false,
            drained: false,
            volume_epoch: opened.volume_epoch,
            page_bytes,
            geometry: Geometry {
                pages_per_pg: parameters.pages_per_pg,
                groups: groups.len(),
            },
            line: Line::new(bounds.waiting_commits_max, WAITING_BYTES_MAX),
            admission: Admission {
                lal: parameters.lal,
                bytes_max: bounds.unacknowledged_bytes_max,
            },
            recent: RecentCommits::new(base, bounds.remembered_keys_max, REMEMBERED_BYTES_MAX),
            last: base,
            clock: WallClock::new(now, unix_ms),
            // How long an earlier writer's chain is is not known: the first commit ends it.
            meta_chain: commits::META_CHAIN_MAX,
            tip: Tip::default(),
            boxcar: Boxcar::new(opened.manifest.volume, opened.volume_epoch, base, &pg_last),
            router: Router::new(shipper.links().len()),
            groups,
            shipper,
            members: Members::new(&opened, bounds.members, now),
            refence: Refence::Idle { bare_since: None },
            refences: 0,
            writable: false,
            durability: Durability::new(base, &pg_last),
            vdl_moved_at: now,
            queue: CommitQueue::default(),
            cache: CacheKeeper::new(Arc::clone(&shared), page_bytes, bounds.cache_bytes_max),
            shared,
            read_point_min: base,
            fetches: Fetches::default(),
            readers: BTreeMap::new(),
            lease: LeaseKeeper::new(bounds.lease, now),
            watch: WatchTail::new(watch),
            log_reads: LogReads::default(),
            ages: Ages::new(now, base),
            points: RecentPoints::new(base),
            rounding: Rounding::new(opened.manifest.volume, opened.history),
            token_horizon: TokenHorizon::default(),
            chores: Chores::new(now),
            bounds,
            manifest: opened.manifest,
            actions: VecDeque::new(),
            counters: Counters::default(),
        };
        if pg_last.iter().all(|&(_, last)| last.is_none()) {
            core.create();
        }
        core.take_up_replacements();
        core.take_up_reshapes();
        core.say_fleet();
        core.attach_due();
        core
    }

    /// What readers share.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The epoch at which the volume is open.
    pub fn volume_epoch(&self) -> VolumeEpoch {
        self.volume_epoch
    }

    /// The epoch of the writer that fenced this one, from the moment when it is known: before anybody is answered because of it.
    pub fn fenced_by(&self) -> Option<VolumeEpoch> {
        match self.life {
            Life::Fenced(volume_epoch) => Some(volume_epoch),
            Life::Creating(_) | Life::Open => None,
        }
    }

    /// Whether commits are taken.
    pub fn is_open(&self) -> bool {
        self.life == Life::Open && !self.closing
    }

    /// Takes an event. `now` is the time since an arbitrary start (CLOCK_BOOTTIME in the library).
    pub fn handle(&mut self, now: Duration, event: WriterEvent) {
        self.now = self.now.max(now);
        match event {
            WriterEvent::Commit { ticket, request } => self.commit(ticket, request),
            WriterEvent::Fetch {
                ticket,
                pages,
                lsn,
                deadline,
            } => {
                self.fetch(ticket, &pages, lsn, deadline);
            }
            WriterEvent::RoundDown {
                ticket,
                lsn,
                deadline,
            } => self.round_down(ticket, lsn, deadline),
            WriterEvent::ReadLog {
                ticket,
                want,
                deadline,
            } => self.read_log(ticket, want, deadline),
            WriterEvent::WantLease { ticket, deadline } => self.want_lease(ticket, deadline),
            WriterEvent::Attached { attach, message } => self.attached(attach, &message),
            WriterEvent::Arrived { attach, message } => self.arrived(attach, &message),
            WriterEvent::Lost { attach } => self.lost(attach),
            WriterEvent::Wish { wish, hint } => self.own_wish(&wish, hint),
            WriterEvent::Refenced { result } => self.refenced(result),
            WriterEvent::Answered { fetch, answer } => {
                if is_log_read(fetch) {
                    self.log_read_answered(fetch, answer);
                } else if is_call(fetch) {
                    self.call_answered(fetch, answer);
                } else if self.rounding.owns(fetch) {
                    self.log_answered(fetch, answer);
                } else {
                    self.page_answered(fetch, answer);
                }
            }
            WriterEvent::Drained { attach, bytes } => self.stream_drained(attach, bytes),
            WriterEvent::Timeout => {}
            WriterEvent::Close => {
                self.closing = true;
                self.refence_closing();
            }
        }
        self.on_time();
    }

    /// To be called when every event at hand was handled: seals if nothing is in flight (idle means at once, F2).
    /// The next action, until there is none.
    pub fn poll_action(&mut self) -> Option<WriterAction> {
        if self.actions.is_empty() {
            self.settle();
        }
        self.actions.pop_front()
    }

    /// When [`WriterEvent::Timeout`] is due next.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if !self.is_alive() {
            return None;
        }
        let dues = [
            self.line.due(),
            self.queue.due(),
            self.fetches.due(),
            self.log_reads.due(),
            self.lease.due(),
            self.shipper.due(),
            self.rounding.due(),
            self.chores_due(),
        ];
        dues.into_iter().filter_map(Due::at).min()
    }

    /// Numbers for status and benches.
    pub fn stats(&self) -> WriterStats {
        let (fetches, hedged) = self.fetches.counts();
        let read_point_min = self.shared.read_point_min();
        WriterStats {
            last: self.last,
            vcl: self.durability.vcl(),
            vdl: self.durability.vdl(),
            read_point_min,
            read_point_age: self.ages.age(read_point_min, self.now),
            read_points: self.shared.announced().len(),
            held_records: self.vdl().since(read_point_min),
            held_cache_bytes: self.cache.closed_bytes(),
            conflict_entries: self.recent.len(),
            conflict_bytes: self.recent.bytes(),
            conflict_floor: self.recent.floor(),
            chores: self.counters.chores,
            commits: self.counters.commits,
            conflicts: self.counters.conflicts,
            batches: self.counters.batches,
            redo_bytes: self.counters.redo_bytes,
            user_bytes: self.counters.user_bytes,
            unacknowledged_bytes: self.retained_bytes() as u64,
            waiting_commits: self.line.len(),
            is_writable: self.is_open() && self.writable,
            fetches,
            hedged,
            relations: self
                .shipper
                .links()
                .iter()
                .filter(|link| !link.is_gone())
                .map(|link| self.relation(link))
                .collect(),
            membership: self.membership_stats(),
        }
    }

    /// How it stands to a segment. How long ago what it lacks became durable is as exact as the samples of VDL.
    fn relation(&self, link: &Link) -> Relation {
        let relation = link.relation();
        let group = &self.groups[link.pg.get() as usize];
        if relation.scl >= group.last_sealed {
            return relation;
        }
        Relation {
            lag_lsns: group.last_sealed.since(relation.scl),
            lag: self.ages.age(relation.scl, self.now),
            ..relation
        }
    }

    /// The last seal point: what was sealed last ends there, in whatever group.
    pub fn sealed_through(&self) -> Lsn {
        self.durability.sealed_through()
    }

    /// What is done when every event at hand was handled and every action taken.
    fn settle(&mut self) {
        if self.is_alive() {
            self.do_chores();
            self.seal_if_due();
            self.lease_round();
            self.ask_ready();
            self.drive_log_reads(false);
        }
        if self.closing && !self.drained && self.line.is_empty() && self.queue.is_empty() {
            self.drain();
        }
    }

    /// What is due by time.
    fn on_time(&mut self) {
        if !self.is_alive() {
            return;
        }
        self.expire_commits();
        self.expire_reads();
        self.walk_roundings();
        self.drive_log_reads(true);
        self.attach_due();
        self.beat();
    }

    /// Everything was answered after a close.
    fn drain(&mut self) {
        self.drained = true;
        self.refuse_reads(None);
        self.refuse_log_reads(None);
        self.refuse_roundings(None);
        self.shipper.detach_all(&mut self.actions);
        self.actions.push_back(WriterAction::Drained);
    }

    /// Whether it still does anything.
    fn is_alive(&self) -> bool {
        !self.drained && !matches!(self.life, Life::Fenced(_))
    }

    fn vdl(&self) -> Lsn {
        self.durability.vdl()
    }

    /// Sealed bytes that lack their quorum.
    fn retained_bytes(&self) -> usize {
        self.groups
            .iter()
            .map(|group| group.retained.above_pgcl_bytes())
            .sum()
    }
}

fn last_of(pg_last: &[(PgId, Lsn)], pg: PgId) -> Lsn {
    pg_last
        .iter()
        .find(|&&(known, _)| known == pg)
        .map_or(Lsn::NONE, |&(_, last)| last)
}
