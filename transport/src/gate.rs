//! Who is let in to a handshake: decided from the first datagram, before anything is computed or kept for the peer.
//!
//! The sender of a first datagram may be forged. A retry costs a node one small datagram and no memory, and only who really is at
//! that address can answer it: so retries begin as soon as several strangers shake hands at once. One address never gets all
//! the places. Nothing that is sent to an unproved address is longer than what came from it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// Handshakes with unproved addresses at once; more have to prove theirs.
const UNPROVED_MAX: usize = 8;
/// Handshakes with one address at once.
const PER_ADDRESS_MAX: usize = 32;
/// Handshakes at once.
const HANDSHAKES_MAX: usize = 64;

/// What becomes of a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The handshake goes on.
    Enter,
    /// It has to prove its address first.
    Retry,
    /// It is told that there is no room.
    Refuse,
    /// It is told nothing: its address is unproved, and there is no room.
    Ignore,
}

/// What a gate has done so far. Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GateStats {
    /// Handshakes that were begun.
    pub entered: u64,
    /// Newcomers that were told to prove their address.
    pub retried: u64,
    /// Newcomers that were turned away, told or not.
    pub refused: u64,
    /// Handshakes that did not end in a connection: no certificate of the cluster, no hello in time, a hello that was refused.
    pub failed: u64,
}

/// The gate of an endpoint that listens.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<Places>>);

#[derive(Debug, Default)]
struct Places {
    unproved: usize,
    by_address: BTreeMap<IpAddr, usize>,
    all: usize,
    stats: GateStats,
}

/// A handshake under way; its place is free when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Gate,
    address: IpAddr,
    proved: bool,
    /// It did not fail, or what became of it is counted already.
    is_settled: bool,
}

impl Gate {
    /// Judges a newcomer.
    pub(crate) fn judge(&self, address: IpAddr, proved: bool) -> (Verdict, Option<Place>) {
        let mut places = self.places();
        let here = places.by_address.get(&address).copied().unwrap_or(0);
        let verdict = match places.all.cmp(&HANDSHAKES_MAX) {
            Ordering::Less if !proved && places.unproved >= UNPROVED_MAX => Verdict::Retry,
            Ordering::Less if here < PER_ADDRESS_MAX => Verdict::Enter,
            _ if proved => Verdict::Refuse,
            _ => Verdict::Ignore,
        };
        match verdict {
            Verdict::Enter => {}
            Verdict::Retry => places.stats.retried += 1,
            Verdict::Refuse | Verdict::Ignore => places.stats.refused += 1,
        }
        if verdict != Verdict::Enter {
            return (verdict, None);
        }
        places.stats.entered += 1;
        places.all += 1;
        places.unproved += usize::from(!proved);
        *places.by_address.entry(address).or_default() += 1;
        let place = Place {
            gate: self.clone(),
            address,
            proved,
            is_settled: false,
        };
        (verdict, Some(place))
    }

    /// The counts.
    pub(crate) fn stats(&self) -> GateStats {
        self.places().stats
    }

    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.0.lock().expect("no holder panics")
    }
}

impl Place {
    /// The handshake ended in a connection.
    pub(crate) fn succeeded(mut self) {
        self.is_settled = true;
    }

    /// The shell turned the newcomer away.
    pub(crate) fn refused(mut self) {
        self.gate.places().stats.refused += 1;
        self.is_settled = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.gate.places();
        places.all -= 1;
        places.unproved -= usize::from(!self.proved);
        places.stats.failed += u64::from(!self.is_settled);
        let here = places.by_address.get_mut(&self.address);
        let here = here.expect("it was counted when it came");
        *here -= 1;
        if *here == 0 {
            places.by_address.remove(&self.address);
        }
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod gate_tests;
