//! Clients: threads of a writer's process that run transactions as the library does. Reads go to the cache, a miss goes to the
//! writer and the read runs again; writes wait in a buffer for the commit.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sixfold_compute_core::{
    CommitError, CommitRequest, CommitTicket, FetchError, FetchTicket, PageView, ReadPoint,
    ReadRange, WriteSet, WriteValue, WriterEvent,
};
use sixfold_kv::{Direction, KvError, range_chunk};
use sixfold_log_format::{Lsn, Page, PageId};
use sixfold_recovery::machine::Phase;

use super::workload::{Op, draw_ops, probe_ops};
use super::writer::{Doing, Writer};
use super::{Event, World};
use crate::clock::US;
use crate::oracle::{GetSeen, RangeSeen};
use crate::reached::Reached;
use crate::rng::Rng;

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    Checking,
    Leasing,
    Working,
    Fetching,
    Committing,
}

/// A scan under way.
#[derive(Debug)]
struct Scan {
    rest: Option<Bound<Vec<u8>>>,
    items: Vec<(Bytes, Bytes, Lsn)>,
}

/// A transaction.
#[derive(Debug)]
struct Transaction {
    id: u64,
    current: bool,
    point: Arc<ReadPoint>,
    floor: Lsn,
    ops: Vec<Op>,
    at: usize,
    view: Option<PageView>,
    scan: Option<Scan>,
    gets: Vec<GetSeen>,
    keys: BTreeSet<Bytes>,
    ranges: Vec<ReadRange>,
    writes: WriteSet,
    probe: bool,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    rng: Rng,
    number: usize,
    stage: Stage,
    /// Steps scheduled for an earlier stage are void.
    step: u64,
    transaction: Option<Transaction>,
}

const READ_DEADLINE: Duration = Duration::from_millis(1_500);

impl World {
    pub(super) fn start_clients(&mut self, writer: usize) {
        for number in 0..self.plan.shape.clients {
            let seed = self.rng.draw();
            self.writers[writer].clients.push(Client {
                rng: Rng::new(seed, 5),
                number,
                stage: Stage::Idle,
                step: 0,
                transaction: None,
            });
            self.later(writer, number, 1);
        }
    }

    /// The client's next step, in at most this many microseconds.
    fn later(&mut self, writer: usize, client: usize, within_us: u64) {
        let state = &mut self.writers[writer].clients[client];
        state.step += 1;
        let step = state.step;
        let wait = state.rng.below(within_us.max(1) * US);
        let event = Event::Client {
            writer,
            client,
            step,
        };
        self.queue.push(self.now + 1 + wait, event);
    }

    pub(super) fn client_step(&mut self, writer: usize, client: usize, step: u64) {
        let Doing::Open(core) = &self.writers[writer].doing else {
            return;
        };
        let is_open = core.is_open();
        let Some(state) = self.writers[writer].clients.get(client) else {
            return;
        };
        if state.step != step {
            return;
        }
        match state.stage {
            Stage::Idle if !is_open => self.later(writer, client, 2_000),
            Stage::Idle => self.begin(writer, client),
            Stage::Checking => self.check_lease(writer, client),
            Stage::Working => self.work(writer, client),
            Stage::Leasing | Stage::Fetching | Stage::Committing => {}
        }
    }

    /// The read point first, the lease afterwards (T1).
    fn begin(&mut self, writer: usize, client: usize) {
        let probe = self.finish.wants_probe();
        if self.finish.is_stopping() {
            return;
        }
        let shape = &self.plan.shape;
        let (key_count, operations_max) = (shape.key_count, shape.operations_max);
        if !probe && self.next_transaction >= shape.transactions_max {
            return self.later(writer, client, 20_000);
        }
        let shared = self.writers[writer].shared.clone().expect("it is open");
        let floor = self.oracle.floor;
        self.next_transaction += 1;
        let id = self.next_transaction;
        let state = &mut self.writers[writer].clients[client];
        let current = probe || !state.rng.chance(1, 10);
        let mut ops = if probe {
            probe_ops(state.number, key_count)
        } else {
            draw_ops(&mut state.rng, state.number, key_count, current)
        };
        if !probe {
            // The last ones: a marker tells whose transaction it is.
            ops.drain(..ops.len().saturating_sub(operations_max));
        }
        let point = Arc::new(shared.announce());
        state.transaction = Some(Transaction {
            id,
            current,
            point,
            floor,
            ops,
            at: 0,
            view: None,
            scan: None,
            gets: Vec::new(),
            keys: BTreeSet::new(),
            ranges: Vec::new(),
            writes: WriteSet::new(),
            probe,
        });
        state.stage = if current {
            Stage::Checking
        } else {
            Stage::Working
        };
        if state.rng.chance(1, 4) {
            // It loses the processor between the two.
            self.later(writer, client, 300);
        } else {
            let step = state.step;
            self.client_step(writer, client, step);
        }
    }

    fn check_lease(&mut self, writer: usize, client: usize) {
        let now = self.writers[writer].clock.at(self.now);
        let shared = self.writers[writer].shared.clone().expect("it is open");
        if shared.lease_until().is_some_and(|until| now < until) {
            return self.has_begun(writer, client);
        }
        self.oracle.reached.hit(Reached::LeaseAskedFor);
        let ticket = self.fetch_ticket(writer, client);
        self.writers[writer].clients[client].stage = Stage::Leasing;
        let deadline = now + READ_DEADLINE;
        self.writer_event(writer, WriterEvent::WantLease { ticket, deadline });
    }

    fn has_begun(&mut self, writer: usize, client: usize) {
        let state = &mut self.writers[writer].clients[client];
        let Some(transaction) = &state.transaction else {
            return;
        };
        let (lsn, floor) = (transaction.point.lsn(), transaction.floor);
        state.stage = Stage::Working;
        let result = self.oracle.began(lsn, floor);
        self.check(result);
        self.later(writer, client, 30);
    }

    fn fetch_ticket(&mut self, writer: usize, client: usize) -> FetchTicket {
        let state = &mut self.writers[writer];
        state.last_ticket += 1;
        let ticket = FetchTicket(state.last_ticket);
        state.fetches.insert(ticket, client);
        ticket
    }

    pub(super) fn leased(&mut self, writer: usize, ticket: FetchTicket, held: bool) {
        let Some(client) = self.writers[writer].fetches.remove(&ticket) else {
            return self.fail("a lease was answered twice");
        };
        if held {
            self.has_begun(writer, client);
        } else {
            self.drop_transaction(writer, client);
        }
    }

    /// Goes on with the transaction's operations until one has to wait.
    fn work(&mut self, writer: usize, client: usize) {
        let Some(mut transaction) = self.writers[writer].clients[client].transaction.take() else {
            return;
        };
        let Some(op) = transaction.ops.get(transaction.at).cloned() else {
            return self.commit(writer, client, transaction);
        };
        let missed = match op {
            Op::Get(key) => self.get(&mut transaction, &key),
            Op::Scan { .. } => self.scan(&mut transaction, &op),
            Op::Put(key, len) => {
                let mut value = vec![0; len.max(8)];
                value[..8].copy_from_slice(&transaction.id.to_le_bytes());
                let fill = u8::try_from(transaction.id % 251).expect("a byte");
                value[8..].fill(fill);
                let write = WriteValue {
                    bytes: Bytes::from(value),
                    deadline_ms: None,
                };
                transaction.writes.put(key, write);
                None
            }
            Op::Delete(key) => {
                transaction.writes.delete(key);
                None
            }
            Op::Rest(_) => None,
        };
        let rest = match transaction.ops[transaction.at] {
            Op::Rest(us) => us,
            _ => 20,
        };
        if missed.is_none() {
            transaction.at += 1;
            transaction.view = None;
            transaction.scan = None;
        }
        let lsn = transaction.point.lsn();
        self.writers[writer].clients[client].transaction = Some(transaction);
        match missed {
            None => self.later(writer, client, rest),
            Some(page) => {
                self.writers[writer].clients[client].stage = Stage::Fetching;
                let ticket = self.fetch_ticket(writer, client);
                let deadline = self.writers[writer].clock.at(self.now) + READ_DEADLINE;
                let event = WriterEvent::Fetch {
                    ticket,
                    pages: vec![page],
                    lsn,
                    deadline,
                };
                self.writer_event(writer, event);
            }
        }
    }

    fn get(&mut self, transaction: &mut Transaction, key: &Bytes) -> Option<PageId> {
        let view = transaction
            .view
            .get_or_insert_with(|| transaction.point.view());
        let found = match sixfold_kv::get(view, key) {
            Ok(found) => found,
            Err(error) => return self.missed(&error),
        };
        if found.as_ref().is_some_and(|found| found.value.len() > 128) {
            self.oracle.reached.hit(Reached::OverflowRead);
        }
        let seen = GetSeen {
            key: key.clone(),
            held: found.map(|found| (found.value, found.stamp)),
        };
        let result = self.oracle.got(transaction.point.lsn(), &seen);
        self.check(result);
        transaction.keys.insert(key.clone());
        transaction.gets.push(seen);
        None
    }

    fn missed(&mut self, error: &KvError) -> Option<PageId> {
        match error {
            KvError::Miss(pages) => Some(pages[0]),
            error => {
                self.fail(format!("a reader found a damaged tree: {error}"));
                None
            }
        }
    }

    fn scan(&mut self, transaction: &mut Transaction, op: &Op) -> Option<PageId> {
        let Op::Scan {
            lower,
            upper,
            reverse,
            limit,
        } = op
        else {
            return None;
        };
        let direction = if *reverse {
            Direction::Reverse
        } else {
            Direction::Forward
        };
        let start = if *reverse {
            Bound::Excluded(upper.to_vec())
        } else {
            Bound::Included(lower.to_vec())
        };
        let view = transaction
            .view
            .get_or_insert_with(|| transaction.point.view());
        let scan = transaction.scan.get_or_insert_with(|| Scan {
            rest: Some(start),
            items: Vec::new(),
        });
        while let Some(rest) = &scan.rest {
            let left = limit - scan.items.len();
            if left == 0 {
                break;
            }
            let from = rest.as_ref().map(Vec::as_slice);
            let bounds = if *reverse {
                (Bound::Included(&lower[..]), from)
            } else {
                (from, Bound::Excluded(&upper[..]))
            };
            let chunk = match range_chunk(view, bounds.0, bounds.1, direction, left, 4_096) {
                Ok(chunk) => chunk,
                Err(KvError::Miss(pages)) => return Some(pages[0]),
                Err(error) => return self.missed(&error),
            };
            let items = chunk.items.into_iter();
            scan.items
                .extend(items.map(|item| (item.key, item.found.value, item.found.stamp)));
            scan.rest = chunk.next;
        }
        let items = std::mem::take(&mut scan.items);
        // What was consumed counts as read: up to the last key that was returned, or all of it.
        let cut_short = items.len() == *limit;
        let last = items.last().map(|(key, _, _)| key.clone());
        let (mut start, mut end, mut end_included) = (lower.clone(), upper.clone(), false);
        if let Some(last) = last.filter(|_| cut_short) {
            if *reverse {
                start = last;
            } else {
                end = last;
                end_included = true;
            }
        }
        transaction.ranges.push(ReadRange {
            start,
            end: Some(end),
            end_included,
        });
        let seen = RangeSeen {
            lower: lower.clone(),
            upper: upper.clone(),
            reverse: *reverse,
            limit: *limit,
            items,
        };
        let result = self.oracle.scanned(transaction.point.lsn(), &seen);
        self.check(result);
        None
    }

    pub(super) fn fetched(
        &mut self,
        writer: usize,
        ticket: FetchTicket,
        result: Result<Vec<Arc<Page>>, FetchError>,
    ) {
        let Some(client) = self.writers[writer].fetches.remove(&ticket) else {
            return self.fail("a fetch was answered twice");
        };
        let state = &mut self.writers[writer].clients[client];
        let Some(transaction) = &mut state.transaction else {
            return;
        };
        match result {
            Ok(pages) => {
                let view = transaction
                    .view
                    .get_or_insert_with(|| transaction.point.view());
                pages.into_iter().for_each(|page| view.hold(page));
                state.stage = Stage::Working;
                self.later(writer, client, 20);
            }
            Err(FetchError::Corrupt { page, reason }) if !self.misreads_planned => {
                self.fail(format!("page {page} is corrupt everywhere: {reason}"));
            }
            Err(error) => {
                self.tell(|| format!("W{writer}: a read fails: {error}"));
                self.drop_transaction(writer, client);
            }
        }
    }

    fn commit(&mut self, writer: usize, client: usize, transaction: Transaction) {
        let read_point = transaction.point.lsn();
        if transaction.writes.is_empty() {
            if transaction.current {
                let rival =
                    |state: &Writer| state.is_recovering() && state.phase >= Some(Phase::Fence);
                if self.writers.iter().any(rival) {
                    self.oracle.reached.hit(Reached::OldWriterReadUnderLease);
                }
                self.oracle.read_only(read_point);
            }
            return self.drop_transaction(writer, client);
        }
        self.oracle.asks(transaction.id, &transaction.writes);
        let now = self.writers[writer].clock.at(self.now);
        let state = &mut self.writers[writer];
        let wait = if transaction.probe {
            3_000
        } else {
            state.clients[client].rng.pick(&[30, 300, 1_000])
        };
        let request = CommitRequest {
            read_point,
            read_keys: transaction.keys.iter().cloned().collect(),
            read_ranges: transaction.ranges.clone(),
            writes: transaction.writes.clone(),
            token: None,
            earliest_deadline_ms: None,
            deadline: now + Duration::from_millis(wait),
        };
        state.last_ticket += 1;
        let ticket = CommitTicket(state.last_ticket);
        state.commits.insert(ticket, client);
        let client = &mut state.clients[client];
        client.stage = Stage::Committing;
        client.transaction = Some(transaction);
        self.writer_event(writer, WriterEvent::Commit { ticket, request });
    }

    pub(super) fn committed(
        &mut self,
        writer: usize,
        ticket: CommitTicket,
        result: Result<Lsn, CommitError>,
    ) {
        let Some(client) = self.writers[writer].commits.remove(&ticket) else {
            return self.fail("a commit was answered twice");
        };
        let epoch = self.writers[writer].epoch;
        let Some(transaction) = self.writers[writer].clients[client].transaction.take() else {
            return self.fail("a commit was answered to nobody");
        };
        let id = transaction.id;
        match result {
            Ok(lsn) => {
                self.commits += 1;
                self.note(23, lsn.get());
                self.tell(|| format!("W{writer} answers transaction {id}: committed at {lsn}"));
                let reads = (&transaction.gets[..], &transaction.ranges[..]);
                let read_point = transaction.point.lsn();
                let verdict = self.oracle.answered(epoch, id, read_point, lsn, reads);
                self.check(verdict);
                if (0..3).any(|zone| (0..2).all(|n| self.nodes[2 * zone + n].core.is_none())) {
                    self.oracle.reached.hit(Reached::ZoneDown);
                }
                if transaction.probe {
                    self.finish.probed(self.now);
                }
            }
            Err(error) => {
                self.tell(|| format!("W{writer} answers transaction {id}: {error}"));
                let verdict = self.oracle.refused(id, &error);
                self.check(verdict);
                if transaction.probe && error == CommitError::Full {
                    self.finish.probed(self.now);
                }
                let reached = match &error {
                    CommitError::Conflict { .. } if transaction.keys.is_empty() => {
                        Some(Reached::Phantom)
                    }
                    CommitError::Conflict { .. } => Some(Reached::Conflict),
                    CommitError::TooOld { .. } => Some(Reached::TooOld),
                    CommitError::Unavailable { .. } => Some(Reached::CommitUnavailable),
                    CommitError::Corrupt { what } if !self.misreads_planned => {
                        let bad = format!("a commit found damage: {what}");
                        return self.fail(bad);
                    }
                    _ => None,
                };
                if let Some(reached) = reached {
                    self.oracle.reached.hit(reached);
                }
            }
        }
        self.drop_transaction(writer, client);
    }

    fn drop_transaction(&mut self, writer: usize, client: usize) {
        let think = self.plan.shape.think_us;
        let state = &mut self.writers[writer].clients[client];
        state.transaction = None;
        state.stage = Stage::Idle;
        let within = if self.finish.wants_probe() {
            20_000
        } else {
            state.rng.pick(&[think / 10, think, think * 2])
        };
        self.later(writer, client, within);
    }

    /// The process is gone: what was under way stays unknown.
    pub(super) fn abandon_clients(&mut self, writer: usize) {
        let state = &mut self.writers[writer];
        let clients = std::mem::take(&mut state.clients);
        state.commits.clear();
        state.fetches.clear();
        for client in clients {
            if let (Stage::Committing, Some(transaction)) = (client.stage, &client.transaction) {
                self.oracle.left_unknown(transaction.id);
            }
        }
    }
}
