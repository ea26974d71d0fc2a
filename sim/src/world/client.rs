//! Clients: threads of a writer's process that run transactions as the library does. Reads go to the cache, a miss goes to the
//! writer and the read runs again; writes wait in a buffer for the commit.

mod tries;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sixfold_compute_core::{
    CommitRequest, FetchError, FetchTicket, PageView, ReadPoint, ReadRange, RoundError, Token,
    WriteSet, WriteValue, WriterEvent,
};
use sixfold_kv::{Direction, KvError, range_chunk};
use sixfold_log_format::{Lsn, Page, PageId};

use super::workload::{Op, draw_hold, draw_ops, probe_ops};
use super::writer::Doing;
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
    Rounding,
    Working,
    Fetching,
    Committing,
}

/// A scan under way.
#[derive(Debug)]
struct Scan {
    rest: Option<Bound<Vec<u8>>>,
    items: Vec<(Bytes, Bytes, Lsn)>,
    earliest_deadline_ms: Option<u64>,
}

/// A transaction.
#[derive(Debug)]
struct Transaction {
    id: u64,
    current: bool,
    /// It reads at an LSN of the past, which nobody kept for it.
    past: bool,
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
    earliest_deadline_ms: Option<u64>,
    token: Option<Token>,
    /// Somebody else's transaction, whose outcome is not known: done again with its token, without its reads.
    again: bool,
    /// Tries under way, and what was asked for.
    open_count: u32,
    tries_left: u32,
    request: Option<CommitRequest>,
    /// Where it stands, as far as was answered.
    done_at: Option<Lsn>,
    probe: bool,
}

/// A commit of which the outcome is not known, and that somebody will try again (T3).
#[derive(Debug)]
pub(crate) struct Retry {
    id: u64,
    token: Token,
    writes: WriteSet,
}

/// LSNs that a read point lies below VDL when it was held for long.
const LONG: u64 = 150;
/// More are forgotten.
const RETRIES_MAX: usize = 8;

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
            Stage::Committing => self.try_again(writer, client),
            Stage::Leasing | Stage::Rounding | Stage::Fetching => {}
        }
    }

    /// The read point first, the lease afterwards (T1).
    fn begin(&mut self, writer: usize, client: usize) {
        let probe = self.finish.wants_probe();
        if self.finish.is_stopping() {
            return;
        }
        let shape = &self.plan.shape;
        let (key_count, operations_max, work) = (shape.key_count, shape.operations_max, shape.work);
        let holds = shape.holds;
        if !probe && self.next_transaction >= shape.transactions_max {
            return self.later(writer, client, 20_000);
        }
        let shared = self.writers[writer].shared.clone().expect("it is open");
        let floor = self.oracle.floor;
        self.next_transaction += 1;
        let mut id = self.next_transaction;
        let state = &mut self.writers[writer].clients[client];
        let holds = holds && !probe && state.number == 0 && state.rng.chance(2, 3);
        let current = probe || !holds && !state.rng.chance(1, 10);
        let again = current && !probe && state.rng.chance(1, 2);
        let again = again.then(|| self.retries.pop_front()).flatten();
        let mut ops = if probe {
            probe_ops(state.number)
        } else if again.is_some() {
            Vec::new()
        } else if holds {
            draw_hold(&mut state.rng, key_count)
        } else {
            draw_ops(&mut state.rng, state.number, key_count, current, work)
        };
        if !probe {
            // The last ones: a marker tells whose transaction it is.
            ops.drain(..ops.len().saturating_sub(operations_max));
        }
        let point = Arc::new(shared.announce());
        let mut token = None;
        if current && !probe && work.tokens && state.rng.chance(1, 3) {
            token = Some(draw_token(&mut state.rng, id, point.lsn()));
        }
        let is_again = again.is_some();
        let mut writes = WriteSet::new();
        if let Some(retry) = again {
            (id, token, writes) = (retry.id, Some(retry.token), retry.writes);
        }
        let past = !current && !holds && work.past && state.rng.chance(1, 2);
        let past = past.then(|| {
            let vdl = point.lsn().get();
            let span = state.rng.pick(&[10, 300, vdl.max(1)]);
            Lsn::new(vdl - state.rng.below(span.min(vdl).max(1)))
        });
        state.transaction = Some(Transaction {
            id,
            current,
            past: past.is_some(),
            point,
            floor,
            ops,
            at: 0,
            view: None,
            scan: None,
            gets: Vec::new(),
            keys: BTreeSet::new(),
            ranges: Vec::new(),
            writes,
            earliest_deadline_ms: None,
            token,
            again: is_again,
            open_count: 0,
            tries_left: 3,
            request: None,
            done_at: None,
            probe,
        });
        if let Some(lsn) = past {
            return self.round_down(writer, client, lsn);
        }
        let state = &mut self.writers[writer].clients[client];
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

    /// It reads at a past LSN: the consistency point at or below it is asked for first (R29).
    fn round_down(&mut self, writer: usize, client: usize, lsn: Lsn) {
        self.writers[writer].clients[client].stage = Stage::Rounding;
        let ticket = self.fetch_ticket(writer, client);
        self.writers[writer].past.insert(ticket, lsn);
        let deadline = self.writers[writer].clock.at(self.now) + READ_DEADLINE;
        let event = WriterEvent::RoundDown {
            ticket,
            lsn,
            deadline,
        };
        self.writer_event(writer, event);
    }

    pub(super) fn rounded(
        &mut self,
        writer: usize,
        ticket: FetchTicket,
        result: Result<Lsn, RoundError>,
    ) {
        let state = &mut self.writers[writer];
        let (Some(client), Some(lsn)) = (state.fetches.remove(&ticket), state.past.remove(&ticket))
        else {
            return self.fail("a past LSN was rounded twice");
        };
        let point = match result {
            Ok(point) => point,
            Err(error) => {
                self.tell(|| format!("W{writer}: {error}"));
                if let RoundError::AboveVdl { .. } = error {
                    self.fail(format!("LSN {lsn} was shown, and now: {error}"));
                }
                return self.drop_transaction(writer, client);
            }
        };
        let verdict = self.oracle.rounded(lsn, point);
        self.check(verdict);
        let state = &mut self.writers[writer];
        let shared = state.shared.as_ref().expect("it is open");
        let Some(announced) = shared.announce_at(point) else {
            return self.fail(format!("point {point} of LSN {lsn} is above VDL"));
        };
        let state = &mut state.clients[client];
        if let Some(transaction) = &mut state.transaction {
            transaction.point = Arc::new(announced);
            state.stage = Stage::Working;
            self.later(writer, client, 30);
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
            op => {
                self.buffer(&mut transaction, op);
                None
            }
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

    fn buffer(&mut self, transaction: &mut Transaction, op: Op) {
        let clock_ms = self.oracle.stamps.clock_ms();
        let writes = &mut transaction.writes;
        let id = transaction.id;
        let mut put = |key, bytes: Bytes, lifetime_ms: Option<u64>| {
            let deadline_ms = lifetime_ms.map(|lifetime_ms| clock_ms + lifetime_ms);
            writes.put(key, WriteValue { bytes, deadline_ms });
        };
        match op {
            Op::Put(key, len) => put(key, value_of(id, len), None),
            Op::PutFor(key, len, lifetime_ms) => put(key, value_of(id, len), Some(lifetime_ms)),
            Op::PutNumber(key, number, lifetime_ms) => {
                put(key, number.to_le_bytes().to_vec().into(), lifetime_ms);
            }
            Op::Modify(key, op) => {
                // An overflow within the transaction: it leaves that out.
                let _ = writes.modify(key, op);
            }
            Op::Delete(key) => writes.delete(key),
            Op::Clear(start, end) => writes.clear(start, end),
            Op::Get(_) | Op::Scan { .. } | Op::Rest(_) => {}
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
            held: found.map(|found| (found.value, found.stamp, found.deadline_ms)),
        };
        if let Some((_, _, deadline_ms)) = seen.held {
            transaction.sees(deadline_ms);
        }
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
            earliest_deadline_ms: None,
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
            let deadlines = chunk.items.iter().filter_map(|item| item.found.deadline_ms);
            let earliest = deadlines.chain(scan.earliest_deadline_ms).min();
            scan.earliest_deadline_ms = earliest;
            let items = chunk.items.into_iter();
            scan.items
                .extend(items.map(|item| (item.key, item.found.value, item.found.stamp)));
            scan.rest = chunk.next;
        }
        let items = std::mem::take(&mut scan.items);
        let earliest = scan.earliest_deadline_ms;
        transaction.sees(earliest);
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
        let vdl = self.writers[writer].vdl_now();
        let state = &mut self.writers[writer].clients[client];
        let Some(transaction) = &mut state.transaction else {
            return;
        };
        match result {
            Ok(pages) => {
                if !transaction.past && vdl.since(transaction.point.lsn()) > LONG {
                    self.oracle.reached.hit(Reached::SnapshotHeldForLong);
                }
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
                let kept = !transaction.past;
                self.tell(|| format!("W{writer}: a read fails: {error}"));
                let is_newest = self.writers[writer].epoch == self.oracle.newest();
                if let FetchError::Forgotten { .. } = error
                    && kept
                    && is_newest
                {
                    self.fail(format!("a reader announced its point, and: {error} (R17)"));
                }
                self.drop_transaction(writer, client);
            }
        }
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
        state.past.clear();
        for client in clients {
            if let (Stage::Committing, Some(transaction)) = (client.stage, &client.transaction) {
                for _ in 0..transaction.open_count {
                    self.oracle.left_unknown(transaction.id);
                }
                if let Some(retry) = transaction.retry() {
                    self.keep_retry(retry);
                }
            }
        }
    }
}

impl Transaction {
    /// It has seen something that expires then.
    fn sees(&mut self, deadline_ms: Option<u64>) {
        let earliest = deadline_ms.into_iter().chain(self.earliest_deadline_ms);
        self.earliest_deadline_ms = earliest.min();
    }

    /// What somebody else needs to try it again.
    fn retry(&self) -> Option<Retry> {
        Some(Retry {
            id: self.id,
            token: self.token?,
            writes: self.writes.clone(),
        })
    }
}

/// A token that tells whose it is.
fn draw_token(rng: &mut Rng, transaction: u64, birth: Lsn) -> Token {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&transaction.to_le_bytes());
    if rng.chance(1, 2) {
        Token::Given(id)
    } else {
        Token::Made { birth, id }
    }
}

/// Each value begins with the number of its transaction.
fn value_of(transaction: u64, len: usize) -> Bytes {
    let fill = u8::try_from(transaction % 251).expect("a byte");
    let mut value = vec![fill; len.max(8)];
    value[..8].copy_from_slice(&transaction.to_le_bytes());
    value.into()
}
