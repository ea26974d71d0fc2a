//! Tries of a commit: the first one, second ones with the same token beside it or behind it, and what comes of each (T3).

use std::time::Duration;

use bytes::Bytes;
use sixfold_compute_core::{
    CommitError, CommitRequest, CommitTicket, KeyWrite, WriteSet, WriterEvent,
};
use sixfold_log_format::Lsn;
use sixfold_recovery::machine::Phase;

use super::super::World;
use super::super::workload::marker;
use super::super::writer::Writer;
use super::{RETRIES_MAX, Retry, Stage, Transaction, value_of};
use crate::oracle::Reads;
use crate::reached::Reached;

impl World {
    pub(super) fn commit(&mut self, writer: usize, client: usize, mut transaction: Transaction) {
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
        let state = &mut self.writers[writer];
        let number = state.clients[client].number;
        if transaction.token.is_none() && must_be_marked(&transaction.writes) {
            let bytes = value_of(transaction.id, 8);
            transaction.writes.put(marker(number), bytes);
        }
        transaction.request = Some(CommitRequest {
            read_point,
            read_keys: transaction.keys.iter().cloned().collect(),
            read_ranges: transaction.ranges.clone(),
            writes: transaction.writes.clone(),
            token: transaction.token,
            earliest_deadline_ms: transaction.earliest_deadline_ms,
            deadline: Duration::ZERO,
        });
        let state = &mut state.clients[client];
        state.stage = Stage::Committing;
        let twice = transaction.token.is_some() && state.rng.chance(1, 3);
        state.transaction = Some(transaction);
        if twice {
            // It loses patience: the first try is dropped, but goes on (T10).
            self.later(writer, client, 3_000);
        }
        self.try_commit(writer, client);
    }

    /// One try, the first or another one with the same token.
    fn try_commit(&mut self, writer: usize, client: usize) {
        let now = self.writers[writer].clock.at(self.now);
        let state = &mut self.writers[writer];
        let client_state = &mut state.clients[client];
        let Some(transaction) = &mut client_state.transaction else {
            return;
        };
        let wait = if transaction.probe {
            3_000
        } else {
            client_state.rng.pick(&[30, 300, 1_000])
        };
        let Some(mut request) = transaction.request.clone() else {
            return;
        };
        request.deadline = now + Duration::from_millis(wait);
        transaction.open_count += 1;
        let id = transaction.id;
        self.oracle.asks(id, &request.writes, request.token);
        state.last_ticket += 1;
        let ticket = CommitTicket(state.last_ticket);
        let in_flight = self.oracle.stands_above(id, state.vdl_now());
        state.commits.insert(ticket, (client, in_flight));
        self.writer_event(writer, WriterEvent::Commit { ticket, request });
    }

    /// Another try beside the one under way.
    pub(super) fn try_again(&mut self, writer: usize, client: usize) {
        let Some(transaction) = &mut self.writers[writer].clients[client].transaction else {
            return;
        };
        if transaction.token.is_some() && transaction.tries_left > 0 {
            transaction.tries_left -= 1;
            self.try_commit(writer, client);
        }
    }

    pub(in crate::world) fn committed(
        &mut self,
        writer: usize,
        ticket: CommitTicket,
        result: Result<Lsn, CommitError>,
    ) {
        let Some((client, in_flight)) = self.writers[writer].commits.remove(&ticket) else {
            return self.fail("a commit was answered twice");
        };
        let Some(mut transaction) = self.writers[writer].clients[client].transaction.take() else {
            return self.fail("a commit was answered to nobody");
        };
        transaction.open_count -= 1;
        let is_over = match result {
            Ok(lsn) => self.committed_at(writer, &mut transaction, lsn, in_flight),
            Err(error) => self.not_committed(writer, &transaction, &error),
        };
        let state = &mut self.writers[writer].clients[client];
        let has_token = transaction.token.is_some();
        let tries = has_token && transaction.tries_left > 0;
        // The answer is lost, or there is none: it is asked for once more.
        let again = tries && state.rng.chance(1, if is_over { 8 } else { 2 });
        let moves_on = has_token && state.rng.chance(1, if is_over { 8 } else { 1 });
        if again {
            transaction.tries_left -= 1;
        }
        let is_last = transaction.open_count == 0 && !again;
        if is_last
            && moves_on
            && let Some(retry) = transaction.retry()
        {
            self.keep_retry(retry);
        }
        self.writers[writer].clients[client].transaction = Some(transaction);
        if again {
            self.try_commit(writer, client);
        } else if is_last {
            self.drop_transaction(writer, client);
        }
    }

    /// Whether that is the end of it.
    fn committed_at(
        &mut self,
        writer: usize,
        transaction: &mut Transaction,
        lsn: Lsn,
        in_flight: bool,
    ) -> bool {
        let epoch = self.writers[writer].epoch;
        let id = transaction.id;
        self.commits += 1;
        self.note(23, lsn.get());
        self.tell(|| format!("W{writer} answers transaction {id}: committed at {lsn}"));
        let vdl = self.writers[writer].vdl_now();
        if lsn > vdl {
            self.fail(format!(
                "transaction {id} was answered at {lsn}, above VDL {vdl} (R28)"
            ));
        }
        if in_flight && transaction.token.is_some() {
            self.oracle.reached.hit(Reached::TokenFoundInFlight);
        }
        let opening = self.oracle.openings.last();
        if transaction.again && opening.is_some_and(|opening| lsn <= opening.cut) {
            self.oracle.reached.hit(Reached::TokenFoundAfterFailover);
        }
        let reads = (!transaction.again).then(|| Reads {
            read_point: transaction.point.lsn(),
            gets: &transaction.gets,
            ranges: &transaction.ranges,
            earliest_deadline_ms: transaction.earliest_deadline_ms,
        });
        let verdict = self.oracle.answered(epoch, id, lsn, reads);
        self.check(verdict);
        transaction.done_at = Some(lsn);
        if (0..3).any(|zone| (0..2).all(|n| self.nodes[2 * zone + n].core.is_none())) {
            self.oracle.reached.hit(Reached::ZoneDown);
        }
        if transaction.probe {
            self.finish.probed(self.now);
        }
        true
    }

    /// Whether that is the end of it.
    fn not_committed(
        &mut self,
        writer: usize,
        transaction: &Transaction,
        error: &CommitError,
    ) -> bool {
        let id = transaction.id;
        self.tell(|| format!("W{writer} answers transaction {id}: {error}"));
        let verdict = self.oracle.refused(id, error);
        self.check(verdict);
        if transaction.probe && *error == CommitError::Full {
            self.finish.probed(self.now);
        }
        let clock_ms = self.oracle.stamps.clock_ms();
        let expired = transaction
            .earliest_deadline_ms
            .is_some_and(|deadline_ms| deadline_ms <= clock_ms);
        let reached = match error {
            CommitError::Conflict { .. } if expired => Some(Reached::ExpiredUnderAReader),
            CommitError::Conflict { .. } if transaction.keys.is_empty() => Some(Reached::Phantom),
            CommitError::Conflict { .. } => Some(Reached::Conflict),
            CommitError::TooOld { .. } => Some(Reached::TooOld),
            CommitError::Unavailable { .. } => Some(Reached::CommitUnavailable),
            CommitError::Corrupt { what } if !self.misreads_planned => {
                let bad = format!("a commit found damage: {what}");
                self.fail(bad);
                None
            }
            _ => None,
        };
        if let Some(reached) = reached {
            self.oracle.reached.hit(reached);
        }
        !matches!(
            error,
            CommitError::Unknown { .. } | CommitError::Unavailable { .. }
        )
    }

    pub(super) fn keep_retry(&mut self, retry: Retry) {
        if self.retries.len() < RETRIES_MAX {
            self.retries.push_back(retry);
        }
    }
}

/// Whether nothing in it tells whose it is, although that must be told.
fn must_be_marked(writes: &WriteSet) -> bool {
    let tells = |(key, write): (&Bytes, &KeyWrite)| match write {
        KeyWrite::Put(value) => !key.starts_with(b"n") && value.bytes.len() <= 64,
        KeyWrite::Delete | KeyWrite::Modify(_) => false,
    };
    let is_delete = |write: &KeyWrite| matches!(write, KeyWrite::Delete);
    let deletes_only = writes.clears.is_empty() && writes.keys.values().all(is_delete);
    !deletes_only && !writes.keys.iter().any(tells)
}
