//! Six segments that store, acknowledge and serve as the test says, in one thread and without clocks.

pub mod fleet;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sixfold_compute_core::{
    AttachKey, CommitError, CommitRequest, CommitTicket, FetchError, FetchKey, FetchTicket,
    LogAnswer, LogError, LogWant, MemberBounds, PageView, ReadPoint, RoundError, WriteValue,
    WriterBounds, WriterCore, WriterEvent,
};
use sixfold_kv::PageSource;
use sixfold_log_format::manifest::NodeHint;
use sixfold_log_format::wire::{Append, Heartbeat, ReadPages, Refusal, Wish, WishReport};
use sixfold_log_format::{
    AnnulledRange, Batch, History, Lsn, Manifest, ManifestVersion, Member, MemberKind,
    MembershipEpoch, NodeId, Page, PageId, PgEntry, PgId, QuorumModel, SegmentId, SegmentSet,
    VolumeEpoch, VolumeId, VolumeParameters, WriterId, apply,
};
use sixfold_recovery::machine::Opened;

pub const VOLUME_EPOCH: VolumeEpoch = VolumeEpoch::new(2);
pub const VOLUME: VolumeId = VolumeId::from_bytes([7; 16]);
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The wall clock when a cluster begins.
pub const UNIX_MS: u64 = 1_700_000_000_000;
/// Steps after which a run that does not come to rest is wrong.
const STEPS_MAX: usize = 1_000_000;

pub fn segment_id(index: usize) -> SegmentId {
    SegmentId::from_bytes([index as u8 + 1; 16])
}

pub fn node_id(index: usize) -> NodeId {
    NodeId::from_bytes([(index % 6) as u8 + 101; 16])
}

/// One segment.
#[derive(Debug, Default)]
pub struct Segment {
    pub id: SegmentId,
    pub node: NodeId,
    /// What it was told last; `None`: it was made, and has heard nothing since.
    pub manifest: Option<Manifest>,
    /// The manifest of its creation, which counts for nothing else.
    pub made_with: Option<Manifest>,
    /// Its data is gone; the manifest that removed it stays.
    pub dropped: bool,
    /// Was made by a change of membership, and lost what it was sent so far.
    pub lags: bool,
    /// Does not answer an install.
    pub deaf: bool,
    /// Whether streams to it can be had.
    pub down: bool,
    /// Holds acks back until [`Cluster::ack`].
    pub mute: bool,
    /// Does not take what is sent from the queue.
    pub stuck: bool,
    /// Does not answer page reads until [`Cluster::serve`].
    pub silent: bool,
    /// Says that its disk is full, and drops batches.
    pub full: bool,
    /// Answers attach and every message with this.
    pub refuses: Option<Refusal>,
    /// Answers page reads with this.
    pub refuses_reads: Option<Refusal>,
    pub life: Option<AttachKey>,
    pub batches: BTreeMap<Lsn, Batch>,
    pub echo: u64,
    pub appends: Vec<Append>,
    pub heartbeats: Vec<Heartbeat>,
    pub attach_count: usize,
    pub reads: Vec<ReadPages>,
    pub log_read_count: usize,
    pub undrained: VecDeque<usize>,
}

impl Segment {
    /// Follows the chain of back-links.
    pub fn scl(&self) -> Lsn {
        let mut scl = Lsn::NONE;
        for batch in self.batches.values() {
            if batch.header().prev != scl {
                break;
            }
            scl = batch.header().last;
        }
        scl
    }

    /// The fold of the page's records at or below `lsn`.
    pub fn page(&self, id: PageId, lsn: Lsn, page_bytes: usize) -> Page {
        let mut page = Page::new(id, page_bytes);
        for batch in self.batches.values() {
            for placed in batch.records() {
                if placed.record.page == id && placed.record.lsn <= lsn {
                    apply(&mut page, &placed.record).unwrap();
                }
            }
        }
        page
    }
}

/// What a reader of pages is told.
pub type FetchResult = Result<Vec<std::sync::Arc<Page>>, FetchError>;

/// The writer and its segments.
pub struct Cluster {
    pub core: WriterCore,
    pub now: Duration,
    pub page_bytes: usize,
    pub segments: Vec<Segment>,
    pub answers: Vec<(CommitTicket, Result<Lsn, CommitError>)>,
    pub fetched: Vec<(FetchTicket, FetchResult)>,
    pub rounded: Vec<(FetchTicket, Result<Lsn, RoundError>)>,
    pub log_reads: Vec<(FetchTicket, Result<LogAnswer, LogError>)>,
    pub leased: Vec<(FetchTicket, bool)>,
    pub held_reads: VecDeque<(FetchKey, usize, ReadPages)>,
    pub fenced: Option<VolumeEpoch>,
    pub drained: bool,
    pub volume_epoch: VolumeEpoch,
    opened: Opened,
    pub bounds: WriterBounds,
    pub detached: Vec<AttachKey>,
    /// Nodes that answer nothing.
    pub dead_nodes: BTreeSet<NodeId>,
    /// What acks of any segment carry.
    pub wishes: Vec<Wish>,
    /// What the writer said of wishes, to this process and to nodes.
    pub reports: Vec<WishReport>,
    pub node_reports: Vec<(NodeId, WishReport)>,
    /// What operators left with every node.
    pub left_hints: Vec<NodeHint>,
    pub fleet: Vec<NodeHint>,
    pub refences: usize,
    events: VecDeque<WriterEvent>,
    next_ticket: u64,
}

pub fn bounds() -> WriterBounds {
    WriterBounds {
        seals_in_flight_max: 2,
        unacknowledged_bytes_max: 64 << 20,
        stream_bytes_max: 8 << 20,
        cache_bytes_max: 64 << 20,
        waiting_commits_max: 10_000,
        remembered_keys_max: 100_000,
        watch_bytes_max: 1 << 20,
        lease: Duration::from_millis(50),
        token_retention: Duration::from_secs(3_600),
        members: MemberBounds {
            repair_after: None,
            ..MemberBounds::default()
        },
    }
}

pub fn opened(page_bytes: u32, lal: u64) -> Opened {
    opened_with_pgs(page_bytes, lal, 1, 1 << 20)
}

/// Segment `index` belongs to PG `index / 6`.
pub fn opened_with_pgs(page_bytes: u32, lal: u64, pg_count: u32, pages_per_pg: u64) -> Opened {
    let member = |index| Member {
        segment: segment_id(index),
        node: node_id(index),
        kind: MemberKind::Full,
        joining: false,
    };
    let entry = |number: u32| {
        let first = number as usize * 6;
        let members = (first..first + 6).map(member).collect();
        let set = SegmentSet {
            model: QuorumModel::FourOfSix,
            members,
        };
        PgEntry {
            pg: PgId::new(number),
            sets: vec![set],
            removed: Vec::new(),
        }
    };
    let range = AnnulledRange {
        after: Lsn::NONE,
        through: Lsn::new(lal),
        volume_epoch: VOLUME_EPOCH,
    };
    let membership_epoch = MembershipEpoch::new(1);
    Opened {
        volume_epoch: VOLUME_EPOCH,
        writer: WriterId::from_bytes([9; 16]),
        history: History {
            volume_epoch: VOLUME_EPOCH,
            floor: Lsn::NONE,
            ranges: vec![range],
        },
        manifest: Manifest {
            version: ManifestVersion {
                volume_epoch: VOLUME_EPOCH,
                membership_epoch,
            },
            volume: VOLUME,
            parameters: VolumeParameters {
                page_bytes,
                lal,
                pages_per_pg,
                retention_ms: 0,
                retention_bytes: 0,
                token: None,
            },
            pgs: (0..pg_count).map(entry).collect(),
            hints: Vec::new(),
        },
        vdl: Lsn::new(lal),
        cut: Lsn::NONE,
        pg_last: (0..pg_count)
            .map(|number| (PgId::new(number), Lsn::NONE))
            .collect(),
        scls: (0..pg_count as usize * 6)
            .map(|index| (segment_id(index), Lsn::NONE))
            .collect(),
        lease_wait: Duration::ZERO,
        refilled_batches: 0,
    }
}

pub fn key(text: impl AsRef<str>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref().as_bytes())
}

/// A put of `value` at `key`, nothing read.
pub fn put(at: &str, value: &str) -> CommitRequest {
    let value = WriteValue {
        bytes: key(value),
        deadline_ms: None,
    };
    CommitRequest {
        writes: [(key(at), Some(value))].into_iter().collect(),
        ..CommitRequest::default()
    }
}

/// A put that expires.
pub fn put_until(at: &str, value: &str, deadline_ms: u64) -> CommitRequest {
    let mut request = CommitRequest::default();
    request.writes.put(
        key(at),
        WriteValue {
            bytes: key(value),
            deadline_ms: Some(deadline_ms),
        },
    );
    request
}

impl Cluster {
    /// A fresh volume, open.
    pub fn new() -> Cluster {
        Cluster::with(bounds(), opened(8_192, 100_000))
    }

    pub fn with(bounds: WriterBounds, opened: Opened) -> Cluster {
        let mut cluster = Cluster::unopened(bounds, opened);
        cluster.run();
        assert!(cluster.core.is_open());
        cluster
    }

    /// Nothing was done yet.
    pub fn unopened(bounds: WriterBounds, opened: Opened) -> Cluster {
        let now = Duration::from_secs(1_000);
        let page_bytes = opened.manifest.parameters.page_bytes as usize;
        let node_of = |id: SegmentId| {
            let mut members = opened.manifest.pgs.iter().flat_map(PgEntry::members);
            members.find(|member| member.segment == id).unwrap().node
        };
        let segment = |&(id, _): &(SegmentId, Lsn)| Segment {
            id,
            node: node_of(id),
            manifest: Some(opened.manifest.clone()),
            ..Segment::default()
        };
        let segments = opened.scls.iter().map(segment).collect();
        Cluster {
            volume_epoch: opened.volume_epoch,
            opened: opened.clone(),
            bounds: bounds.clone(),
            core: WriterCore::new(opened, bounds, now, UNIX_MS),
            now,
            page_bytes,
            segments,
            answers: Vec::new(),
            fetched: Vec::new(),
            rounded: Vec::new(),
            log_reads: Vec::new(),
            leased: Vec::new(),
            held_reads: VecDeque::new(),
            fenced: None,
            drained: false,
            detached: Vec::new(),
            dead_nodes: BTreeSet::new(),
            wishes: Vec::new(),
            reports: Vec::new(),
            node_reports: Vec::new(),
            left_hints: Vec::new(),
            fleet: Vec::new(),
            refences: 0,
            events: VecDeque::new(),
            next_ticket: 0,
        }
    }

    /// Another writer takes the volume over, with a wall clock of its own: what any segment holds stays.
    pub fn fail_over(&mut self, unix_ms: u64) {
        for from in 0..self.segments.len() {
            (0..self.segments.len()).for_each(|to| self.gossip(from, to));
        }
        self.each(|segment| {
            segment.life = None;
            segment.mute = false;
            segment.undrained.clear();
        });
        let last = self.segments[0].scl();
        self.volume_epoch = VolumeEpoch::new(self.volume_epoch.get() + 1);
        let through = last.plus(self.opened.manifest.parameters.lal);
        self.opened.volume_epoch = self.volume_epoch;
        self.opened.history.volume_epoch = self.volume_epoch;
        self.opened.history.ranges.push(AnnulledRange {
            after: last,
            through,
            volume_epoch: self.volume_epoch,
        });
        self.opened.vdl = through;
        self.opened.cut = last;
        self.opened.pg_last = vec![(PgId::ROOT, last)];
        for (_, scl) in &mut self.opened.scls {
            *scl = last;
        }
        self.opened.manifest.version.volume_epoch = self.volume_epoch;
        self.events.clear();
        self.held_reads.clear();
        self.core = WriterCore::new(self.opened.clone(), self.bounds.clone(), self.now, unix_ms);
        self.run();
        assert!(self.core.is_open());
    }

    pub fn event(&mut self, event: WriterEvent) {
        self.core.handle(self.now, event);
    }

    /// Runs until nothing happens any more, without time passing.
    pub fn run(&mut self) {
        for _ in 0..STEPS_MAX {
            if let Some(action) = self.core.poll_action() {
                self.perform(action);
            } else if let Some(event) = self.events.pop_front() {
                // Like a shell: all events at hand, then actions.
                self.event(event);
                while let Some(event) = self.events.pop_front() {
                    self.event(event);
                }
            } else {
                return;
            }
        }
        panic!("the writer does not come to rest");
    }

    /// Lets time pass, timer by timer.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..STEPS_MAX {
            self.run();
            match self.core.poll_timeout() {
                Some(due) if due <= until => {
                    self.now = self.now.max(due);
                    self.event(WriterEvent::Timeout);
                }
                _ => {
                    self.now = until;
                    return;
                }
            }
        }
        panic!("timers fire without end");
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.pass(Duration::from_millis(ms));
    }

    /// Hands a commit in without running.
    pub fn submit(&mut self, mut request: CommitRequest) -> CommitTicket {
        self.next_ticket += 1;
        let ticket = CommitTicket(self.next_ticket);
        if request.deadline.is_zero() {
            request.deadline = self.now + PATIENCE;
        }
        self.event(WriterEvent::Commit { ticket, request });
        ticket
    }

    /// Commits and runs.
    pub fn commit(&mut self, request: CommitRequest) -> Result<Lsn, CommitError> {
        let ticket = self.submit(request);
        self.run();
        self.answer(ticket).expect("the commit is answered")
    }

    pub fn answer(&self, ticket: CommitTicket) -> Option<Result<Lsn, CommitError>> {
        let mut answers = self
            .answers
            .iter()
            .filter(|(answered, _)| *answered == ticket);
        let answer = answers.next().map(|(_, result)| result.clone());
        assert!(answers.next().is_none(), "{ticket:?} was answered twice");
        answer
    }

    pub fn fetch(&mut self, page: PageId, lsn: Lsn) -> FetchTicket {
        self.fetch_all(vec![page], lsn)
    }

    pub fn fetch_all(&mut self, pages: Vec<PageId>, lsn: Lsn) -> FetchTicket {
        self.next_ticket += 1;
        let ticket = FetchTicket(self.next_ticket);
        let deadline = self.now + PATIENCE;
        self.event(WriterEvent::Fetch {
            ticket,
            pages,
            lsn,
            deadline,
        });
        ticket
    }

    pub fn want_lease(&mut self, patience: Duration) -> FetchTicket {
        self.next_ticket += 1;
        let ticket = FetchTicket(self.next_ticket);
        let deadline = self.now + patience;
        self.event(WriterEvent::WantLease { ticket, deadline });
        ticket
    }

    pub fn fetched_all(&self, ticket: FetchTicket) -> Option<FetchResult> {
        let found = self.fetched.iter().find(|(fetched, _)| *fetched == ticket);
        found.map(|(_, result)| result.clone())
    }

    /// The answer to a reader of one page.
    pub fn fetched(&self, ticket: FetchTicket) -> Option<Result<std::sync::Arc<Page>, FetchError>> {
        let one = |mut pages: Vec<_>| {
            assert_eq!(pages.len(), 1);
            pages.remove(0)
        };
        self.fetched_all(ticket).map(|result| result.map(one))
    }

    pub fn round_down(&mut self, lsn: Lsn) -> FetchTicket {
        self.next_ticket += 1;
        let ticket = FetchTicket(self.next_ticket);
        let deadline = self.now + PATIENCE;
        self.event(WriterEvent::RoundDown {
            ticket,
            lsn,
            deadline,
        });
        ticket
    }

    /// A watcher wants a part of the log.
    pub fn want_log(&mut self, want: LogWant) -> FetchTicket {
        self.next_ticket += 1;
        let ticket = FetchTicket(self.next_ticket);
        let deadline = self.now + PATIENCE;
        self.event(WriterEvent::ReadLog {
            ticket,
            want,
            deadline,
        });
        ticket
    }

    pub fn log_read(&self, ticket: FetchTicket) -> Option<Result<LogAnswer, LogError>> {
        let found = self.log_reads.iter().find(|(read, _)| *read == ticket);
        found.map(|(_, result)| result.clone())
    }

    pub fn rounded(&self, ticket: FetchTicket) -> Option<Result<Lsn, RoundError>> {
        let found = self.rounded.iter().find(|(rounded, _)| *rounded == ticket);
        found.map(|(_, result)| result.clone())
    }

    pub fn leased(&self, ticket: FetchTicket) -> Option<bool> {
        self.leased
            .iter()
            .find(|(leased, _)| *leased == ticket)
            .map(|&(_, held)| held)
    }

    /// Reads a key at the published VDL, through misses.
    pub fn get(&mut self, at: &str) -> Option<String> {
        let point = self.core.shared().announce();
        let mut view = point.view();
        for _ in 0..1_000 {
            match sixfold_kv::get(&view, at.as_bytes()) {
                Ok(found) => {
                    return found.map(|found| String::from_utf8(found.value.to_vec()).unwrap());
                }
                Err(sixfold_kv::KvError::Miss(pages)) => {
                    let ticket = self.fetch_all(pages, point.lsn());
                    self.run();
                    let fetched = self.fetched_all(ticket).expect("the pages are there");
                    fetched
                        .unwrap()
                        .into_iter()
                        .for_each(|page| view.hold(page));
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("a read does not end");
    }

    /// Runs a tree operation at a read point, through misses.
    pub fn read<T>(
        &mut self,
        point: &ReadPoint,
        operation: impl Fn(&PageView) -> Result<T, sixfold_kv::KvError>,
    ) -> T {
        let mut view = point.view();
        for _ in 0..1_000 {
            match operation(&view) {
                Ok(result) => return result,
                Err(sixfold_kv::KvError::Miss(pages)) => {
                    let ticket = self.fetch_all(pages, point.lsn());
                    self.run();
                    let fetched = self.fetched_all(ticket).expect("the pages are there");
                    fetched
                        .unwrap()
                        .into_iter()
                        .for_each(|page| view.hold(page));
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("a read does not end");
    }

    /// How many internal rows of a table the volume holds at VDL.
    pub fn row_count(&mut self, table: u8) -> usize {
        use std::ops::Bound;
        let point = self.core.shared().announce();
        let (mut start, end) = (Bound::Included(vec![0, table]), [0, table + 1]);
        let mut count = 0;
        loop {
            let lower = start.clone();
            let chunk = self.read(&point, |view| {
                let lower = lower.as_ref().map(|key| &key[..]);
                let forward = sixfold_kv::Direction::Forward;
                sixfold_kv::range_chunk(view, lower, Bound::Excluded(&end), forward, 1_000, 1 << 20)
            });
            count += chunk.items.len();
            match chunk.next {
                Some(next) => start = next,
                None => return count,
            }
        }
    }

    /// The clock as of VDL.
    pub fn clock_ms(&mut self) -> u64 {
        let point = self.core.shared().announce();
        let meta = |view: &PageView| {
            let page = view.page(PageId::META);
            page.ok_or_else(|| sixfold_kv::KvError::Miss(vec![PageId::META]))
        };
        self.read(&point, meta).clock_ms()
    }

    /// Whether the cache has the page at VDL.
    pub fn is_cached(&self, page: PageId) -> bool {
        self.core.shared().announce().view().page(page).is_some()
    }

    /// Sets something on every segment.
    pub fn each(&mut self, set: impl Fn(&mut Segment)) {
        self.segments.iter_mut().for_each(set);
    }
}
