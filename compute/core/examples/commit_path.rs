//! The commit path on one core without network: validate, plan, mint, apply, encode, seal, answer.
//!
//! `cargo run --release -p sixfold-compute-core --example commit_path [commits]`. Six segments acknowledge at once what they
//! are sent; time is that of the core alone. Transactions put one key of 16 bytes with a value of 100, 64 of them at hand together.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::print_stdout
)]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sixfold_compute_core::{
    AttachKey, CommitRequest, CommitTicket, MemberBounds, Token, WriterAction, WriterBounds,
    WriterCore, WriterEvent,
};
use sixfold_log_format::wire::{Ack, Attached, Message};
use sixfold_log_format::{
    AnnulledRange, History, Lsn, Manifest, ManifestVersion, Member, MemberKind, MembershipEpoch,
    NodeId, PgEntry, PgId, QuorumModel, SegmentId, SegmentSet, VolumeEpoch, VolumeId,
    VolumeParameters, WriterId,
};
use sixfold_recovery::machine::Opened;

const EPOCH: VolumeEpoch = VolumeEpoch::new(2);
const AT_HAND: usize = 64;
const KEYS: u64 = 100_000;

fn main() {
    let count = std::env::args()
        .nth(1)
        .map_or(1_000_000, |count| count.parse().unwrap());
    let spread = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16;
    let mut run = Run::new();
    run.measure("load, ascending keys", KEYS, put);
    run.measure("update, random keys", count, |number| {
        put(spread(number) % KEYS)
    });
    run.measure("insert, random keys", count / 2, |number| {
        put(spread(number))
    });
    run.measure("update, with a read", count, |number| {
        let mut request = put(spread(number) % KEYS);
        request.read_keys = request.writes.keys.keys().cloned().collect();
        request
    });
    run.measure("update, with a token", count / 2, |number| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&spread(number).to_le_bytes());
        let birth = Lsn::new(1);
        CommitRequest {
            token: Some(Token::Made { birth, id }),
            ..put(spread(number) % KEYS)
        }
    });
}

fn put(number: u64) -> CommitRequest {
    let mut request = CommitRequest::default();
    let key = format!("\u{1}{number:015x}");
    request.writes.put(key.into(), Bytes::from(vec![7; 100]));
    request
}

struct Run {
    core: WriterCore,
    /// Sequence number and last LSN of what each stream was sent.
    streams: BTreeMap<AttachKey, (u64, Lsn)>,
    events: VecDeque<WriterEvent>,
    start: Instant,
    ticket: u64,
    answered: u64,
}

impl Run {
    fn new() -> Run {
        let bounds = WriterBounds {
            seals_in_flight_max: 2,
            unacknowledged_bytes_max: 192 << 20,
            stream_bytes_max: 32 << 20,
            watch_bytes_max: 0,
            cache_bytes_max: 1 << 30,
            waiting_commits_max: 65_536,
            remembered_keys_max: 2_000_000,
            lease: Duration::from_millis(50),
            token_retention: Duration::from_secs(3_600),
            members: MemberBounds::default(),
        };
        let mut run = Run {
            core: WriterCore::new(opened(), bounds, Duration::ZERO, 1_700_000_000_000),
            streams: BTreeMap::new(),
            events: VecDeque::new(),
            start: Instant::now(),
            ticket: 0,
            answered: 0,
        };
        run.settle();
        assert!(run.core.is_open());
        run
    }

    fn measure(&mut self, name: &str, count: u64, request: impl Fn(u64) -> CommitRequest) {
        let requests: Vec<CommitRequest> = (0..count).map(request).collect();
        let began = cpu_time();
        let answered = self.answered;
        let redo = self.core.stats().redo_bytes;
        let mut requests = requests.into_iter();
        while self.answered - answered < count {
            for mut request in requests.by_ref().take(AT_HAND) {
                self.ticket += 1;
                request.read_point = self.core.shared().vdl();
                if let Some(Token::Made { birth, .. }) = &mut request.token {
                    *birth = request.read_point;
                }
                request.deadline = Duration::from_secs(1 << 30);
                let ticket = CommitTicket(self.ticket);
                let now = self.start.elapsed();
                self.core
                    .handle(now, WriterEvent::Commit { ticket, request });
            }
            self.settle();
        }
        let took = cpu_time() - began;
        let redo = self.core.stats().redo_bytes - redo;
        println!(
            "{name:>22}: {:>9.0} commits/s, {:>6.0} ns each, {:>4} redo bytes each",
            count as f64 / took.as_secs_f64(),
            took.as_nanos() as f64 / count as f64,
            redo / count
        );
    }

    fn settle(&mut self) {
        loop {
            while let Some(action) = self.core.poll_action() {
                self.perform(action);
            }
            for (&attach, (sequence, last)) in &self.streams {
                if *sequence > 0 {
                    let ack = Ack {
                        echo: *sequence,
                        scl: *last,
                        history_epoch: EPOCH,
                        slow: false,
                        full: false,
                        wishes: Vec::new(),
                    };
                    let message = Message::Ack(ack);
                    self.events
                        .push_back(WriterEvent::Arrived { attach, message });
                }
            }
            self.streams.values_mut().for_each(|stream| stream.0 = 0);
            if self.events.is_empty() {
                return;
            }
            let now = self.start.elapsed();
            for event in self.events.drain(..) {
                self.core.handle(now, event);
            }
        }
    }

    fn perform(&mut self, action: WriterAction) {
        match action {
            WriterAction::Attach { attach, .. } => {
                self.streams.insert(attach, (0, Lsn::NONE));
                let message = Message::Attached(Attached {
                    scl: Lsn::NONE,
                    history_epoch: EPOCH,
                    vdl_seen: Lsn::NONE,
                });
                self.events
                    .push_back(WriterEvent::Attached { attach, message });
            }
            WriterAction::Send { attach, message } => {
                let stream = self.streams.get_mut(&attach).unwrap();
                match message {
                    Message::Append(append) => {
                        // The last LSN stands in the batch's header, at offset 40.
                        let last = append.batch[40..48].try_into().unwrap();
                        *stream = (append.sequence, Lsn::new(u64::from_le_bytes(last)));
                        let bytes = append.batch.len();
                        self.events
                            .push_back(WriterEvent::Drained { attach, bytes });
                    }
                    Message::Heartbeat(heartbeat) => stream.0 = heartbeat.sequence,
                    _ => {}
                }
            }
            WriterAction::Committed { result, .. } => {
                result.unwrap();
                self.answered += 1;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What this thread has had of a core, so that other work on the machine does not count.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

const VOLUME: VolumeId = VolumeId::from_bytes([7; 16]);

fn opened() -> Opened {
    let segment = |index: u8| SegmentId::from_bytes([index + 1; 16]);
    let member = |index: u8| Member {
        segment: segment(index),
        node: NodeId::from_bytes([index + 101; 16]),
        kind: MemberKind::Full,
        joining: false,
    };
    let set = SegmentSet {
        model: QuorumModel::FourOfSix,
        members: (0..6).map(member).collect(),
    };
    let lal = 10_000_000;
    let range = AnnulledRange {
        after: Lsn::NONE,
        through: Lsn::new(lal),
        volume_epoch: EPOCH,
    };
    Opened {
        volume_epoch: EPOCH,
        writer: WriterId::from_bytes([9; 16]),
        history: History {
            volume_epoch: EPOCH,
            floor: Lsn::NONE,
            ranges: vec![range],
        },
        manifest: Manifest {
            version: ManifestVersion {
                volume_epoch: EPOCH,
                membership_epoch: MembershipEpoch::new(1),
            },
            volume: VOLUME,
            parameters: VolumeParameters {
                page_bytes: 8_192,
                lal,
                pages_per_pg: 1 << 24,
                retention_ms: 0,
                retention_bytes: 0,
                token: None,
            },
            pgs: vec![PgEntry {
                pg: PgId::ROOT,
                sets: vec![set],
                removed: Vec::new(),
            }],
            hints: Vec::new(),
        },
        vdl: Lsn::new(lal),
        cut: Lsn::NONE,
        pg_last: vec![(PgId::ROOT, Lsn::NONE)],
        scls: (0..6).map(|index| (segment(index), Lsn::NONE)).collect(),
        lease_wait: Duration::ZERO,
        refilled_batches: 0,
    }
}
