//! Heartbeats and the read lease: when to speak although there is nothing to ship (R16), and who waits for a lease (T1).

use std::time::Duration;

use sixfold_log_format::limits::HEARTBEAT_MS;
use sixfold_log_format::{PgEntry, SegmentId};
use sixfold_recovery::lease::ReadLease;

use crate::due::Due;
use crate::event::FetchTicket;

/// Longest silence towards a segment.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(HEARTBEAT_MS);
/// After a current read the lease is kept up for this long.
const READS_LINGER: Duration = Duration::from_secs(1);
/// A lease is renewed this many times in its length, at least.
const RENEWALS: u32 = 5;

/// Somebody who waits for a lease.
#[derive(Debug, Clone, Copy)]
struct Want {
    ticket: FetchTicket,
    since: Duration,
    deadline: Duration,
}

/// The read lease, who waits for it and when heartbeats are due.
#[derive(Debug)]
pub(crate) struct LeaseKeeper {
    lease: ReadLease,
    length: Duration,
    until: Option<Duration>,
    wants: Vec<Want>,
    round_wanted: bool,
    reads_until: Option<Duration>,
    next_beat: Duration,
    wants_due: Due,
}

impl LeaseKeeper {
    pub(crate) fn new(length: Duration, now: Duration) -> LeaseKeeper {
        LeaseKeeper {
            lease: ReadLease::new(length),
            length,
            until: None,
            wants: Vec::new(),
            round_wanted: false,
            reads_until: None,
            next_beat: now + HEARTBEAT,
            wants_due: Due::default(),
        }
    }

    /// Somebody wants a lease; true when it is held already.
    pub(crate) fn want(&mut self, ticket: FetchTicket, now: Duration, deadline: Duration) -> bool {
        self.reads(now);
        if self.until.is_some_and(|until| now < until) {
            return true;
        }
        self.wants.push(Want {
            ticket,
            since: now,
            deadline,
        });
        self.wants_due.sooner(deadline);
        self.round_wanted = true;
        false
    }

    /// Whether a round of messages to PG 0 is wanted; asked when nothing else is to be done, so that all wants at hand share
    /// one.
    pub(crate) fn take_round(&mut self) -> bool {
        std::mem::take(&mut self.round_wanted)
    }

    /// Current reads are being served.
    pub(crate) fn reads(&mut self, now: Duration) {
        if self.reads_until.is_none_or(|until| until <= now) {
            self.next_beat = self.next_beat.min(now + self.beat());
        }
        self.reads_until = Some(now + READS_LINGER);
    }

    /// A segment of PG 0 answered a message sent at `sent`. Who got a lease by it; the time to publish is in
    /// [`LeaseKeeper::until`].
    pub(crate) fn answered(
        &mut self,
        segment: SegmentId,
        sent: Duration,
        entry: &PgEntry,
        now: Duration,
    ) -> Vec<FetchTicket> {
        self.lease.answered(segment, sent);
        self.until = self.lease.valid_until(entry);
        let Some(until) = self.until.filter(|_| !self.wants.is_empty()) else {
            return Vec::new();
        };
        // A read quorum answered something sent since the want: current as of the want, however long it took.
        let is_held = |want: &mut Want| now < until || want.since + self.length <= until;
        self.wants
            .extract_if(.., is_held)
            .map(|want| want.ticket)
            .collect()
    }

    /// What the lease has to satisfy has changed: it holds only as far as the new sets let it.
    pub(crate) fn recount(&mut self, entry: &PgEntry) {
        if self.until.is_some() {
            self.until = self.lease.valid_until(entry);
        }
    }

    /// Until when the lease holds.
    pub(crate) fn until(&self) -> Option<Duration> {
        self.until
    }

    /// A segment that heard nothing for this long is due for a heartbeat. Together with the pause between two looks it makes
    /// the interval.
    pub(crate) fn quiet(interval: Duration) -> Duration {
        interval * 3 / 4
    }

    /// Time between two messages to PG 0 while reads are served.
    pub(crate) fn beat(&self) -> Duration {
        self.length * 2 / RENEWALS
    }

    /// Whether current reads are being served.
    pub(crate) fn is_reading(&self, now: Duration) -> bool {
        self.reads_until.is_some_and(|until| now < until)
    }

    /// Whether it is time to look at who needs a heartbeat; sets the next time.
    pub(crate) fn take_beat(&mut self, now: Duration) -> bool {
        if now < self.next_beat {
            return false;
        }
        let interval = if self.is_reading(now) {
            self.beat()
        } else {
            HEARTBEAT
        };
        self.next_beat = now + interval / 4;
        true
    }

    /// Takes out who waited too long.
    pub(crate) fn take_expired(&mut self, now: Duration) -> Vec<FetchTicket> {
        if !self.wants_due.is_due(now) {
            return Vec::new();
        }
        self.wants_due.clear();
        let expired = self.wants.extract_if(.., |want| want.deadline <= now);
        let tickets = expired.map(|want| want.ticket).collect();
        self.wants
            .iter()
            .for_each(|want| self.wants_due.sooner(want.deadline));
        tickets
    }

    /// Takes out everybody: the writer was fenced, and no lease is held any more.
    pub(crate) fn take_all(&mut self) -> Vec<FetchTicket> {
        self.until = None;
        self.wants_due.clear();
        self.wants.drain(..).map(|want| want.ticket).collect()
    }

    /// The volume is being opened again: no lease until it is.
    pub(crate) fn suspended(&mut self) {
        self.lease = ReadLease::new(self.length);
        self.until = None;
    }

    /// It is open again: whoever waits is served.
    pub(crate) fn resumed(&mut self) {
        self.round_wanted |= !self.wants.is_empty();
    }

    /// When to look again.
    pub(crate) fn due(&self) -> Due {
        let mut due = self.wants_due;
        due.sooner(self.next_beat);
        due
    }
}
